"""From elements to what is common: one protocol, bucket by bucket, then the coordinator's verdict on all.

Every protocol is a file with two functions. ``party`` sends and receives all that makes the coordinator (in mpsi, the
coordinator for the leader's list) able to join, and returns which of its elements stands at each place of the list
that the coordinator has of it. ``coordinator`` returns the places that are common, parallel for all lists that it
has. Nobody learns anything about single ids before the verdict (`psi.verdict`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from parties.errors import ConfigError, CryptoError, RemoteProtocolError
from parties.link import COORDINATOR, Endpoint
from parties.wire import Active, DataParty, Passive
from psi import ecdh, verdict
from psi.buckets import bucket_count, capacity
from psi.elements import padded
from psi.settings import AlignmentSettings, Protocol, choose_protocol
from psi.source import Elements

Indices = NDArray[np.int64]

_DUMMY = -1
_FILES: Mapping[Protocol, ModuleType] = {"ecdh": ecdh}


@dataclass(frozen=True)
class Plan:
    """What follows from the settings and the public sizes; the same at all roles.

    Parameters
    ----------
    protocol : str
        What runs, never "auto".
    buckets : int
    lengths : dict of party to int
        Length of every party's list in each bucket.
    """

    protocol: Protocol
    buckets: int
    lengths: dict[str, int]


@dataclass(frozen=True)
class Found:
    """What a party knows after the exchange.

    Parameters
    ----------
    common : int
        How many ids are common; 0 at the passive party of a one-sided alignment.
    own : ndarray of int64
        Indices of its elements that are common, ascending; none where only the number was asked for. At the passive
        party of a one-sided alignment all of them, in the order of its list.
    places : ndarray of int64, or None
        One-sided, active party: parallel to ``own``, places in the passive party's list.
    """

    common: int
    own: Indices = field(repr=False)
    places: Indices | None = field(default=None, repr=False)


def make_plan(settings: AlignmentSettings, sizes: Mapping[str, int]) -> Plan:
    """Protocol, buckets and lengths; a one-sided alignment is never cut, for its list becomes the training's rows."""
    protocol = choose_protocol(settings.protocol, sizes)
    if protocol not in _FILES:
        raise ConfigError(f"[alignment] protocol: got '{protocol}', which is not in this version")
    buckets = 1 if settings.one_sided else bucket_count(sizes, settings.bucket_ids)
    return Plan(protocol, buckets, {name: capacity(size, buckets) for name, size in sizes.items()})


def exchange_as_party(
    endpoint: Endpoint,
    ids: Elements,
    sizes: Mapping[str, int],
    settings: AlignmentSettings,
    *,
    workers: int = 1,
) -> Found:
    """One party's part.

    Parameters
    ----------
    ids : Elements
        Its distinct ids, without dummies.
    sizes : mapping of party to int
        Public lengths of all lists, in job order.

    Raises
    ------
    DataError
        Fewer than ``min_intersection`` ids in common.
    RemoteProtocolError
        A peer broke the protocol.
    """
    plan, name = make_plan(settings, sizes), endpoint.name
    length = plan.lengths[name]
    shown = [_play_bucket(endpoint, ids, plan, number, workers) for number in range(plan.buckets)]
    passive = issubclass(endpoint.roles[name], Passive)
    common = verdict.hear_count(endpoint, sizes, settings.limit, silent=settings.one_sided and passive)
    if settings.cardinality:
        return Found(common, np.zeros(0, np.int64))
    if settings.one_sided:
        return _found_on_one_side(endpoint, sizes, common, shown[0], passive=passive)
    matches = verdict.hear_matches(endpoint, [length] * plan.buckets, common)
    own = np.sort(np.concatenate([known[found] for known, found in zip(shown, matches, strict=True)]))
    if common and own[0] == _DUMMY:
        raise RemoteProtocolError(f"{COORDINATOR} says that dummies of the alignment are common ids")
    return Found(common, own)


def exchange_as_coordinator(endpoint: Endpoint, sizes: Mapping[str, int], settings: AlignmentSettings) -> int:
    """The coordinator's part: join, judge, tell; returns how many ids are common."""
    plan = make_plan(settings, sizes)
    protocol = _FILES[plan.protocol]
    joined = [protocol.coordinator(endpoint, plan.lengths, part=number) for number in range(plan.buckets)]
    count = sum(len(next(iter(places.values()))) for places in joined)
    silent = endpoint.peers(Passive) if settings.one_sided else []
    verdict.tell_count(endpoint, count, settings.limit, to=endpoint.peers(DataParty), silent=silent)
    if settings.cardinality:
        return count
    if settings.one_sided:
        (active,), (other,) = endpoint.peers(Active), endpoint.peers(Passive)
        verdict.tell_members(endpoint, active, joined[0][active], joined[0][other])
        return count
    for name in joined[0]:
        verdict.tell_matches(endpoint, name, [plan.lengths[name]] * plan.buckets, [places[name] for places in joined])
    return count


def _play_bucket(endpoint: Endpoint, ids: Elements, plan: Plan, number: int, workers: int) -> Indices:
    """Which id stands at each place of this party's list in one bucket; -1: a dummy."""
    indices, length = ids.indices(number, plan.buckets), plan.lengths[endpoint.name]
    if len(indices) > length:
        raise CryptoError("a bucket of the alignment overflows, which happens once in 2^40 runs; run it again")
    elements = padded(ids.elements(indices), length)
    shuffle: Indices = _FILES[plan.protocol].party(endpoint, elements, plan.lengths, part=number, workers=workers)
    known: Indices = np.concatenate([indices, np.full(length - len(indices), _DUMMY)])
    return known[shuffle]


def _found_on_one_side(
    endpoint: Endpoint, sizes: Mapping[str, int], common: int, shown: Indices, *, passive: bool
) -> Found:
    if passive:
        return Found(0, shown)
    mine, theirs = verdict.hear_members(endpoint, sizes, common)
    order = np.argsort(shown[mine])
    return Found(common, shown[mine][order], theirs[order])
