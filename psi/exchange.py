"""From elements to what is common: one protocol, bucket by bucket, then the coordinator's verdict on all.

Every protocol is a file with two functions. ``party`` sends and receives all that makes the coordinator (in mpsi, the
coordinator for the leader's list) able to join, and returns which of its elements stands at each place of the list
that the coordinator has of it. ``coordinator`` returns the places that are common, parallel for all lists that it
has. Nobody learns anything about single ids before the verdict (`psi.verdict`); in mpsi the leader then tells the
others. Where a party has several silos the coordinator takes their lists for one (`psi.silos`): it collects the lists
without joining them, which only some of the files offer (``collect``). A bucket needs nothing of the ones before it:
after a crash the alignment goes on in the middle (`psi.progress`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from parties.checkpoint import Fact, Snapshot
from parties.errors import CryptoError, DataError, LocalProtocolError, RemoteProtocolError
from parties.link import COORDINATOR, Endpoint
from parties.wire import Active, Bytes2D, DataParty, Passive
from psi import ecdh, kkrt, mpsi, server_aided, silos, verdict
from psi.buckets import bucket_count, capacity
from psi.elements import padded, random_order
from psi.lists import join_parties
from psi.progress import begin_as_coordinator, begin_as_party, digest_of_elements, hear_joined, tell_joined
from psi.settings import AlignmentSettings, Protocol, choose_protocol
from psi.source import Elements

Indices = NDArray[np.int64]
Shown = NDArray[np.int32]

_DUMMY = -1
_NUMBERS, _REPEATED = "numbers of ", "repeated in "
_FILES: Mapping[Protocol, ModuleType] = {"ecdh": ecdh, "kkrt": kkrt, "mpsi": mpsi, "server-aided": server_aided}


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
    duplicates : str
        What happens to ids that two silos of one party have.
    """

    protocol: Protocol
    buckets: int
    lengths: dict[str, int]
    duplicates: str


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
    numbers : ndarray of int64, or None
        Where a party has several silos, at each of them and at the guide: parallel to ``own``, their numbers among the
        common rows (`psi.silos`).
    """

    common: int
    own: Indices = field(repr=False)
    places: Indices | None = field(default=None, repr=False)
    numbers: Indices | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Joined:
    """What the coordinator keeps of one bucket: how many are common, and per party a bit for each place of its list.

    ``numbers``: for the places of a silo which of the common rows of this bucket they are; ``repeated``: per party how
    many ids two of its silos have.
    """

    common: int
    bits: Mapping[str, NDArray[np.uint8]] = field(repr=False)
    numbers: Mapping[str, NDArray[np.uint32]] = field(default_factory=dict, repr=False)
    repeated: Mapping[str, int] = field(default_factory=dict)

    def places(self, name: str, length: int) -> Indices:
        """Places of a list that are common, ascending."""
        return np.flatnonzero(np.unpackbits(self.bits[name], count=length))


def make_plan(settings: AlignmentSettings, sizes: Mapping[str, int]) -> Plan:
    """Protocol, buckets and lengths; a one-sided alignment is never cut, for its list becomes the training's rows."""
    protocol = choose_protocol(settings.protocol, sizes)
    buckets = 1 if settings.one_sided else bucket_count(sizes, settings.bucket_ids)
    lengths = {name: capacity(size, buckets) for name, size in sizes.items()}
    return Plan(protocol, buckets, lengths, settings.duplicates)


def warnings_of(protocol: str, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """What a report says where the job's ``protocol`` is "auto" and it chose one that nobody asked for by name."""
    if protocol != "auto" or choose_protocol(protocol, sizes) != "kkrt":
        return ()
    receiver, sender = kkrt.roles(sizes)
    return (
        f"alignment: 'auto' chose kkrt for lists of this length: the coordinator together with '{sender}' could test "
        f"any id, offline, against the list of '{receiver}'; protocol = 'ecdh' in [alignment] rules that out and takes "
        "longer",
    )


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
        Fewer than ``min_intersection`` ids in common; all roles raise the same.
    LocalProtocolError
        A file of the ids, or of what is kept, fails this role alone.
    RemoteProtocolError
        A peer broke the protocol.
    """
    plan = make_plan(settings, sizes)
    passive = issubclass(endpoint.roles[endpoint.name], Passive)
    with _own_files():
        shown = _play_buckets(endpoint, ids, plan, workers)
    if silos.cast_of(endpoint.roles).silos and settings.duplicates == "refuse":
        silos.hear_repeats(endpoint, sizes)
    common = verdict.hear_count(endpoint, sizes, settings.limit, silent=settings.one_sided and passive)
    with _own_files():
        return _found(endpoint, ids, plan, settings, shown, common)


def _found(
    endpoint: Endpoint, ids: Elements, plan: Plan, settings: AlignmentSettings, shown: Sequence[Shown], common: int
) -> Found:
    """What a party hears once there are enough."""
    name = endpoint.name
    if settings.cardinality:
        return Found(common, np.zeros(0, np.int64))
    if settings.one_sided:
        return _found_on_one_side(endpoint, plan.lengths, common, shown[0].astype(np.int64))
    if plan.protocol == "mpsi" and name != mpsi.cast_of(plan.lengths).leader:
        return Found(common, _hear_from_leader(endpoint, ids, plan, common))
    cast, lengths = silos.cast_of(endpoint.roles), [plan.lengths[name]] * plan.buckets
    if name in cast.silos:
        matches, numbers = silos.hear_numbers(endpoint, lengths, common)
    else:
        matches, numbers = verdict.hear_matches(endpoint, lengths, common), np.arange(common)
    own = [_common(ids.indices(k, plan.buckets), shown[k], found) for k, found in enumerate(matches)]
    if plan.protocol == "mpsi":
        for indices in own:
            mpsi.tell_common(endpoint, ids.elements(np.sort(indices)), mpsi.cast_of(plan.lengths).others)
    indices = np.concatenate(own)
    order = np.argsort(indices)
    numbered = bool(cast.silos) and name in (cast.guide, *cast.silos)
    return Found(common, indices[order], numbers=numbers[order] if numbered else None)


def exchange_as_coordinator(endpoint: Endpoint, sizes: Mapping[str, int], settings: AlignmentSettings) -> int:
    """The coordinator's part: join, judge, tell; returns how many ids are common."""
    plan = make_plan(settings, sizes)
    if settings.one_sided:
        return _join_on_one_side(endpoint, plan, settings)
    with _own_files():
        joined = _join_buckets(endpoint, plan)
    cast = silos.cast_of(endpoint.roles)
    if cast.silos and settings.duplicates == "refuse":
        silos.tell_repeats(endpoint, _repeated(joined))
    count = sum(bucket.common for bucket in joined)
    verdict.tell_count(endpoint, count, settings.limit, to=endpoint.peers(DataParty))
    if settings.cardinality:
        return count
    for name in (party for party in joined[0].bits if party not in cast.silos):
        length = plan.lengths[name]
        places = [bucket.places(name, length) for bucket in joined]
        verdict.tell_matches(endpoint, name, [length] * plan.buckets, places)
    _tell_silos(endpoint, plan, joined, cast)
    return count


def _tell_silos(endpoint: Endpoint, plan: Plan, joined: Sequence[Joined], cast: silos.Cast) -> None:
    """Every silo of several hears of its own rows; the numbers mean nothing where no list has all common rows."""
    begins = np.cumsum([0, *(bucket.common for bucket in joined)])
    meaning = random_order(int(begins[-1])) if cast.guide in cast.silos else None
    for name in cast.silos:
        length = plan.lengths[name]
        places = [number * length + bucket.places(name, length) for number, bucket in enumerate(joined)]
        numbers = np.concatenate(
            [begin + bucket.numbers[name] for begin, bucket in zip(begins.tolist(), joined, strict=False)]
        ).astype(np.int64)
        silos.tell_numbers(endpoint, name, np.concatenate(places), numbers if meaning is None else meaning[numbers])


def _repeated(joined: Sequence[Joined]) -> dict[str, int]:
    """Ids that two silos of one party have, in all buckets."""
    return {holder: sum(bucket.repeated[holder] for bucket in joined) for holder in joined[0].repeated}


@contextmanager
def _own_files() -> Iterator[None]:
    """A file that fails this role in the middle is not a refusal that all read, and takes no farewell of all."""
    try:
        yield
    except DataError as error:
        raise LocalProtocolError(str(error)) from error


def _play_buckets(endpoint: Endpoint, ids: Elements, plan: Plan, workers: int) -> list[Shown]:
    """A party's lists of all buckets, those that are kept and those that are played now."""
    if plan.buckets == 1:
        return [_play_bucket(endpoint, ids.elements(ids.indices(0, 1)), plan, 0, workers)]

    def elements(number: int) -> Bytes2D:
        return ids.elements(ids.indices(number, plan.buckets))

    begin = begin_as_party(endpoint, plan.buckets, lambda number: _marks(plan, elements(number)))
    shown = [endpoint.keeper.bucket(number).arrays["shown"].astype(np.int32) for number in range(begin)]
    for number in range(begin, plan.buckets):
        if number >= begin + 2:
            hear_joined(endpoint, number - 2)
        own = elements(number)
        shown.append(_play_bucket(endpoint, own, plan, number, workers))
        facts = {**_marks(plan, own), "generation": endpoint.generation}
        endpoint.keeper.save_bucket(number, facts, {"shown": shown[-1]})
        endpoint.advanced(number + 1, plan.buckets)
    for number in range(max(begin, plan.buckets - 2), plan.buckets):
        hear_joined(endpoint, number)
    return shown


def _play_bucket(endpoint: Endpoint, elements: Bytes2D, plan: Plan, number: int, workers: int) -> Shown:
    """Which of the bucket's ids stands at each place of this party's list; -1: a dummy."""
    count, length = len(elements), plan.lengths[endpoint.name]
    if count > length:
        raise CryptoError(  # buckets are a public function of ids: running it again changes nothing
            "a bucket of the alignment overflows, which happens to one list in 2^40 unless somebody has chosen its ids "
            "for it; bucket_ids in [alignment] from half the longest list on makes one bucket of all"
        )
    row = padded(elements, length)
    shuffle: Indices = _FILES[plan.protocol].party(endpoint, row, plan.lengths, part=number, workers=workers)
    return np.where(shuffle < count, shuffle, _DUMMY).astype(np.int32)


def _common(indices: Indices, shown: Shown, found: Indices) -> Indices:
    """The ids at the places found in one bucket."""
    which = shown[found]
    _check_no_dummies(which)
    return indices[which]


def _check_no_dummies(which: Indices | Shown) -> None:
    """Refuse places of dummies, which nobody else has."""
    if len(which) and which.min() == _DUMMY:
        raise RemoteProtocolError(f"{COORDINATOR} says that dummies of the alignment are common ids")


def _join_buckets(endpoint: Endpoint, plan: Plan) -> list[Joined]:
    """What is common in every bucket, those that are kept and those that are played now."""
    if plan.buckets == 1:
        return [_join_bucket(endpoint, plan, 0)]
    begin = begin_as_coordinator(endpoint, plan.buckets, lambda number: _marks(plan))
    joined = [_kept(endpoint.keeper.bucket(number)) for number in range(begin)]
    for number in range(begin, plan.buckets):
        bucket = _join_bucket(endpoint, plan, number)
        counts = {_REPEATED + holder: count for holder, count in bucket.repeated.items()}
        facts = {**_marks(plan), "generation": endpoint.generation, "common": bucket.common, **counts}
        numbers = {_NUMBERS + name: array for name, array in bucket.numbers.items()}
        endpoint.keeper.save_bucket(number, facts, {**bucket.bits, **numbers})
        endpoint.advanced(number + 1, plan.buckets)
        tell_joined(endpoint, number)
        joined.append(bucket)
    return joined


def _join_bucket(endpoint: Endpoint, plan: Plan, number: int) -> Joined:
    cast = silos.cast_of(endpoint.roles)
    if cast.silos:
        return _join_silos(endpoint, plan, cast)
    places = _FILES[plan.protocol].coordinator(endpoint, plan.lengths, part=number)
    return Joined(len(next(iter(places.values()))), _bits(plan, places))


def _join_silos(endpoint: Endpoint, plan: Plan, cast: silos.Cast) -> Joined:
    lists = _FILES[plan.protocol].collect(endpoint, plan.lengths)
    found = join_parties(lists, cast.guide_first, drop=plan.duplicates == "drop")
    numbers = {name: found.numbers[name].astype(np.uint32) for name in cast.silos}
    repeated = {holder: found.repeated[holder] for holder in cast.holders}
    return Joined(found.common, _bits(plan, found.places), numbers, repeated)


def _bits(plan: Plan, places: Mapping[str, Indices]) -> dict[str, NDArray[np.uint8]]:
    """A bit for each place of every list."""
    return {name: np.packbits(verdict.flags(plan.lengths[name], where)) for name, where in places.items()}


def _kept(snapshot: Snapshot) -> Joined:
    bits = {name: a.astype(np.uint8) for name, a in snapshot.arrays.items() if not name.startswith(_NUMBERS)}
    numbers = {
        name.removeprefix(_NUMBERS): snapshot.arrays[name].astype(np.uint32)
        for name in snapshot.arrays
        if name.startswith(_NUMBERS)
    }
    repeated = {
        name.removeprefix(_REPEATED): snapshot.fact(name, int) for name in snapshot.facts if name.startswith(_REPEATED)
    }
    return Joined(snapshot.fact("common", int), bits, numbers, repeated)


def _marks(plan: Plan, elements: Bytes2D | None = None) -> dict[str, Fact]:
    """What a kept bucket must say to be of this alignment: the same plan and, at a party, the same ids."""
    marks: dict[str, Fact] = {
        "plan": f"2 {plan.protocol} {plan.buckets} {list(plan.lengths.items())} {plan.duplicates}"
    }
    return marks if elements is None else {**marks, "ids": digest_of_elements(elements)}


def _join_on_one_side(endpoint: Endpoint, plan: Plan, settings: AlignmentSettings) -> int:
    """The active party alone hears which ids are common, and where both lists have them."""
    (active,), (other,) = endpoint.peers(Active), endpoint.peers(Passive)
    places = _FILES[plan.protocol].coordinator(endpoint, plan.lengths)
    count = len(places[active])
    verdict.tell_count(endpoint, count, settings.limit, to=endpoint.peers(DataParty), silent=[other])
    if not settings.cardinality:
        verdict.tell_members(endpoint, active, places[active], places[other])
    return count


def _hear_from_leader(endpoint: Endpoint, ids: Elements, plan: Plan, common: int) -> Indices:
    """Indices of the common ids, as the leader of mpsi tells them bucket by bucket, in all as many as judged."""
    leader = mpsi.cast_of(plan.lengths).leader
    heard = []
    for number in range(plan.buckets):
        indices = ids.indices(number, plan.buckets)
        heard.append(indices[mpsi.hear_common(endpoint, ids.elements(indices), leader)])
    own = np.sort(np.concatenate(heard))
    if len(own) != common:
        raise RemoteProtocolError(f"{leader} told which {len(own)} ids are common, {COORDINATOR} that {common} are")
    return own


def _found_on_one_side(endpoint: Endpoint, sizes: Mapping[str, int], common: int, shown: Indices) -> Found:
    if issubclass(endpoint.roles[endpoint.name], Passive):
        return Found(0, shown)
    mine, theirs = verdict.hear_members(endpoint, sizes, common)
    own = shown[mine]
    _check_no_dummies(own)
    order = np.argsort(own)
    return Found(common, own[order], theirs[order])
