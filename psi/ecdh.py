"""Set intersection of two or more parties by commuting masks on Curve25519; the coordinator joins.

Source: Meadows 1986, "A more efficient cryptographic matchmaking protocol", and Huberman, Franklin and Hogg 1999,
"Enhancing privacy and trust in electronic communities", section 3; X25519 is RFC 7748. For more than two parties
every list goes round a ring.

H(id) is a point (``psi.curve``), k_i party i's fresh secret, pi_i party i's shuffle. Party i, of n in job order::

    party i                         party i+1               ...     party i-1                       coordinator
    k_i H(pi_i ids)  --points-->    k_i+1 (...)  --points-->        k_i-1 (...)  --tags (12 bytes)-->  T_i
                     <-------------------------- matches: where T_i is in all other lists -----------

Each party takes n - 1 hops for others and is the last hop of exactly one list, the next party's, so that no party
ever holds two lists under the same keys. Points are sealed between parties; a hop keeps the order, so that
the owner of a list understands positions in it, and only the owner does.

*Leakage*

- ``tags``, to the coordinator: how many ids the lists of every set of parties have in common.
- ``matches``, to each party: which of its ids all other parties hold too.

The first is the Venn diagram in sizes: the coordinator compares fully masked lists and sees no id and no point. Below
``min_intersection`` the second is the verdict "fewer" and nothing else; only with ``tell_small_count`` (all CSVs on one
machine anyway) the number as well: with a list of one true id and many made-up ones the number would answer whether
the others hold that id. The sizes of all lists are public before this starts (``psi.align``).

*Threat model*: everyone follows the protocol and is curious; decisional Diffie-Hellman on Curve25519, SHA-256 as a
random oracle. The coordinator together with party p learns in which other parties' lists each id of p is. The two
neighbours of a party on the ring (of three parties: any two) together learn which ids of the first the party between
them holds. Received lists are checked (size, spelling, repetitions, low order), but nothing prevents a party from
making up ids to test for: that is what ``min_intersection`` and the parties' policies bound.

>>> from parties.local import run_local
>>> from parties.wire import Active, Coordinator, Passive
>>> people = {"bank": [b"ann", b"bob", b"cy"], "shop": [b"cy", b"dan", b"bob"]}
>>> sizes = {name: len(ids) for name, ids in people.items()}
>>> plays = {name: lambda end, ids=ids: party(end, ids, sizes, Limit(2)) for name, ids in people.items()}
>>> plays["coordinator"] = lambda end: coordinator(end, sizes, Limit(2))
>>> found = run_local(plays, roles={"bank": Active, "shop": Passive, "coordinator": Coordinator})
>>> found["bank"].tolist(), found["shop"].tolist(), found["coordinator"]
([1, 2], [0, 2], 2)
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parties.errors import ConfigError, DataError, RemoteProtocolError
from parties.link import COORDINATOR, Endpoint
from parties.wire import Bytes2D, Coordinator, DataParty, Message, Points, Revealed, Tags
from psi.curve import POINT_BYTES, LowOrderPoint, as_keys, canonical, fresh_secret, hash_and_mask, mask, repeats

TAG_BYTES = 12
STATISTICAL_BITS = 40


class Wire:
    """Every message of the protocol."""

    points = Message(DataParty, DataParty, Points)
    tags = Message(
        DataParty,
        Coordinator,
        Tags,
        discloses="how many ids the lists of every set of parties have in common",
    )
    matches = Message(
        Coordinator,
        DataParty,
        Revealed,
        discloses="which of its ids all other parties hold too",
    )


@dataclass(frozen=True)
class Limit:
    """The smallest intersection that is told, and whether a smaller one's size is (right on one machine only)."""

    min_intersection: int
    tell_small_count: bool = False


def party(
    endpoint: Endpoint, ids: Sequence[bytes], sizes: Mapping[str, int], limit: Limit, *, workers: int = 1
) -> NDArray[np.int64]:
    """One party's part.

    Parameters
    ----------
    ids : sequence of bytes
        Distinct normalised ids.
    sizes : mapping of party to int
        How many ids every party has, in job order.
    workers : int
        Threads for the curve arithmetic.

    Returns
    -------
    ndarray of shape (intersection,), int64
        Ascending positions in ``ids`` of those that all parties hold.

    Raises
    ------
    DataError
        Fewer than ``min_intersection`` ids in common.
    RemoteProtocolError
        A malformed list, or a verdict that contradicts the limit.
    """
    check_tag_length(sizes)
    order = list(sizes)
    here, n = order.index(endpoint.name), len(order)
    after = endpoint.link(DataParty, DataParty, order[(here + 1) % n])
    before = endpoint.link(DataParty, DataParty, order[here - 1])
    judge = endpoint.link(DataParty, Coordinator, COORDINATOR)

    secret = fresh_secret()
    shuffle = _random_order(len(ids))
    after.send(Wire.points, Points(hash_and_mask([ids[i] for i in shuffle], secret, workers=workers)))
    for hop in range(1, n):
        owner = order[here - hop]
        points = _checked(before.recv(Wire.points).body, sizes[owner], POINT_BYTES, before.peer)
        masked = _masked(points, secret, workers, before.peer)
        if hop < n - 1:
            after.send(Wire.points, Points(masked))
        else:
            judge.send(Wire.tags, Tags(np.ascontiguousarray(masked[:, :TAG_BYTES])))
    positions = _verdict(judge.recv(Wire.matches), sizes, len(ids), limit)
    return np.sort(shuffle[positions])


def coordinator(endpoint: Endpoint, sizes: Mapping[str, int], limit: Limit) -> int:
    """The coordinator's part: joins fully masked lists and tells each party its positions.

    Returns
    -------
    int
        How many ids all parties hold.

    Raises
    ------
    DataError
        Fewer than ``min_intersection``; every party has been told and raises the same.
    RemoteProtocolError
        A malformed list.
    """
    check_tag_length(sizes)
    order = list(sizes)
    links = {name: endpoint.link(Coordinator, DataParty, name) for name in order}
    lists = {}
    for last_hop, owner in zip(order, order[1:] + order[:1], strict=True):
        lists[owner] = _checked(links[last_hop].recv(Wire.tags).body, sizes[owner], TAG_BYTES, last_hop)
    positions = join(lists)
    count = len(next(iter(positions.values())))
    enough = count >= limit.min_intersection
    facts: dict[str, bool | int | float | str | None] = {"enough": enough}
    if enough or limit.tell_small_count:
        facts["common"] = count
    for name, link in links.items():
        told = positions[name] if enough else np.empty(0)
        link.send(Wire.matches, Revealed(facts, told.astype(np.float64)))
    if not enough:
        raise too_few(count if limit.tell_small_count else None, limit)
    return count


def join(lists: Mapping[str, Bytes2D]) -> dict[str, NDArray[np.int64]]:
    """Positions, in every list, of the rows that are in all lists (rows are distinct within each)."""
    keys = {name: as_keys(rows) for name, rows in lists.items()}
    first, *others = keys.values()
    common = np.sort(first)
    for other in others:
        common = np.intersect1d(common, other, assume_unique=True)
    return {name: np.flatnonzero(_within(rows, common)) for name, rows in keys.items()}


def too_few(count: int | None, limit: Limit) -> DataError:
    """What all roles raise below the limit; ``count`` is None where it is not told."""
    least = f"expected at least min_intersection = {limit.min_intersection}"
    advice = "check that the id columns mean the same and are written alike"
    if count is None:
        why = "how many there are is not told: it would allow to test single ids"
        return DataError(
            f"alignment: fewer than min_intersection ids in common, or no common ids; {least} ({why}); {advice}"
        )
    if count == 0:
        return DataError(f"alignment: no common ids (got 0, {least}); {advice}")
    return DataError(
        f"alignment: fewer than min_intersection ids in common: got {count}, {least}; {advice}, or lower it"
    )


def check_tag_length(sizes: Mapping[str, int]) -> None:
    """Two different ids get the same tag with probability below 2^-40, or the lists are too long for such tags."""
    if len(sizes) < 2:
        raise ConfigError(f"alignment: got {len(sizes)} parties, expected at least two")
    lengths = sorted(sizes.values())
    pairs = math.comb(len(lengths), 2)
    needed = STATISTICAL_BITS + math.log2(lengths[-1] * lengths[-2]) + math.log2(pairs)
    if needed > 8 * TAG_BYTES:
        raise ConfigError(f"alignment: tags have {8 * TAG_BYTES} bits, lists of these lengths need {math.ceil(needed)}")


def _within(rows: NDArray[np.bytes_], common: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    """Which rows are in the sorted array ``common``."""
    if len(common) == 0:
        return np.zeros(len(rows), bool)
    at = np.minimum(np.searchsorted(common, rows), len(common) - 1)
    found: NDArray[np.bool_] = common[at] == rows
    return found


def _random_order(count: int) -> NDArray[np.int64]:
    """A permutation from the operating system's randomness: sorts 64-bit keys (ties: probability n^2 / 2^65)."""
    return np.argsort(np.frombuffer(os.urandom(8 * count), np.uint64), kind="stable")


def _checked(rows: Bytes2D, count: int, width: int, sender: str) -> Bytes2D:
    """A received list: as long as announced, of the right width, no repetition, points reduced."""
    if rows.shape != (count, width):
        raise RemoteProtocolError(
            f"{sender} sent a list of shape {rows.shape} for the alignment, expected {(count, width)}"
        )
    if width == POINT_BYTES and not canonical(rows):
        raise RemoteProtocolError(f"{sender} sent points for the alignment that are not reduced")
    if repeats(rows):
        raise RemoteProtocolError(f"{sender} sent a list for the alignment in which an element occurs twice")
    return rows


def _masked(points: Bytes2D, secret: bytes, workers: int, sender: str) -> Bytes2D:
    """``mask``, blaming the sender for points of low order."""
    try:
        return mask(points, secret, workers=workers)
    except LowOrderPoint as error:
        raise RemoteProtocolError(f"{sender} sent a point of low order for the alignment") from error


def _verdict(told: Revealed, sizes: Mapping[str, int], own: int, limit: Limit) -> NDArray[np.int64]:
    """Positions in the shuffled list, once the coordinator's word is consistent with the limit and the sizes."""
    enough, common, values = told.facts.get("enough"), told.facts.get("common"), told.values
    small = common is None or (isinstance(common, int) and 0 <= common < limit.min_intersection)
    if enough is False and small and len(values) == 0:
        raise too_few(common if isinstance(common, int) else None, limit)
    acceptable = (
        enough is True
        and values.shape == (common,)
        and limit.min_intersection <= len(values) <= min(sizes.values())
        and bool(((values >= 0) & (values < own) & (values == np.floor(values))).all())
        and bool((np.diff(values) > 0).all())
    )
    if not acceptable:
        raise RemoteProtocolError(
            f"{COORDINATOR} sent a verdict on the alignment that contradicts the job or the sizes"
        )
    return values.astype(np.int64)
