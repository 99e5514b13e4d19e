"""The end of every alignment: the coordinator says whether enough ids are common and, if so, which.

    coordinator                                party
      verdict: enough?, how many   ------>       below min_intersection it ends here, at all roles
      matches: a bit per place of its list ->    a symmetric alignment
      members: places of both lists  ------>     one-sided: to the active party alone; the passive one hears
      enough: yes or no              ------>     this instead of the verdict

*Leakage*

- ``verdict``, to each party: how many ids all parties have in common.
- ``matches``, to each party: which of its ids all other parties hold too.
- ``members``, to the active party of a one-sided alignment: which of its ids the passive party holds too, and at which
  places of that party's shuffled list.

Below ``min_intersection`` the verdict is "fewer" and nothing else; only with ``tell_small_count`` (all CSVs on one
machine anyway) the number as well: with a list of one true id and many made-up ones the number would answer whether
the others hold that id. In a one-sided alignment the passive party hears whether there are enough, and no number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parties.errors import DataError, RemoteProtocolError
from parties.link import COORDINATOR, Endpoint
from parties.wire import Active, Bitmaps, Control, Coordinator, DataParty, Message, Passive, Positions, Revealed
from psi.silos import sizes_by_holder

Places = NDArray[np.int64]


class Wire:
    """What the coordinator says."""

    enough = Message(Coordinator, Passive, Control)
    verdict = Message(Coordinator, DataParty, Revealed, discloses="how many ids all parties have in common")
    matches = Message(Coordinator, DataParty, Bitmaps, discloses="which of its ids all other parties hold too")
    members = Message(
        Coordinator,
        Active,
        Positions,
        discloses="which of its ids the passive party holds too, and at which places of that party's shuffled list",
    )


@dataclass(frozen=True)
class Limit:
    """The smallest intersection that is told, and whether a smaller one's size is (right on one machine only)."""

    min_intersection: int
    tell_small_count: bool = False


def tell_count(endpoint: Endpoint, count: int, limit: Limit, *, to: Sequence[str], silent: Sequence[str] = ()) -> None:
    """The coordinator says whether ``count`` is enough, to all; the number not to those that are to learn none.

    Raises
    ------
    DataError
        Fewer than ``min_intersection``; every party has been told and raises the same.
    """
    enough = count >= limit.min_intersection
    facts: dict[str, bool | int | float | str | None] = {"enough": enough}
    for name in silent:
        endpoint.link(Coordinator, Passive, name).send(Wire.enough, Control(facts))
    if enough or limit.tell_small_count:
        facts = {**facts, "common": count}
    for name in (party for party in to if party not in silent):
        endpoint.link(Coordinator, DataParty, name).send(Wire.verdict, Revealed(facts, np.empty(0)))
    if not enough:
        raise too_few(count if limit.tell_small_count else None, limit)


def hear_count(endpoint: Endpoint, sizes: Mapping[str, int], limit: Limit, *, silent: bool = False) -> int:
    """A party hears how many ids are common; 0 where it is to learn no number (``silent``).

    Raises
    ------
    DataError
        Too few; as the coordinator and all others raise it.
    RemoteProtocolError
        A verdict that contradicts the limit or the sizes.
    """
    if silent:
        return _hear_enough(endpoint, limit)
    told = endpoint.link(DataParty, Coordinator, COORDINATOR).recv(Wire.verdict)
    enough, common = told.facts.get("enough"), told.facts.get("common")
    if enough is False and len(told.values) == 0:
        if common is None:
            raise too_few(None, limit)
        if type(common) is int and 0 <= common < limit.min_intersection:
            raise too_few(common, limit)
    if enough is True and len(told.values) == 0 and type(common) is int:
        if limit.min_intersection <= common <= min(sizes_by_holder(sizes).values()):
            return common
    raise _contradiction()


def _hear_enough(endpoint: Endpoint, limit: Limit) -> int:
    """The passive party of a one-sided alignment hears whether there are enough, and no number."""
    told = endpoint.link(Passive, Coordinator, COORDINATOR).recv(Wire.enough).facts
    if told == {"enough": False}:
        raise too_few(None, limit)
    if told != {"enough": True}:
        raise _contradiction()
    return 0


def tell_matches(endpoint: Endpoint, party: str, lengths: Sequence[int], places: Sequence[Places]) -> None:
    """The coordinator tells a party which places of its lists (one per bucket) are in all others."""
    parts = [flags(length, found) for length, found in zip(lengths, places, strict=True)]
    bits = np.packbits(np.concatenate(parts))
    endpoint.link(Coordinator, DataParty, party).send(Wire.matches, Bitmaps(np.array(lengths, np.int64), bits))


def hear_matches(endpoint: Endpoint, lengths: Sequence[int], common: int) -> list[Places]:
    """A party hears which places of its lists are in all others, ascending, per bucket.

    Raises
    ------
    RemoteProtocolError
        Bits that do not fit the lists or the number of common ids.
    """
    told = endpoint.link(DataParty, Coordinator, COORDINATOR).recv(Wire.matches)
    total = sum(lengths)
    if not np.array_equal(told.counts, lengths) or told.bits.shape != (-(-total // 8),):
        raise _contradiction()
    found = np.unpackbits(told.bits)
    if found[total:].any() or int(found.sum()) != common:
        raise _contradiction()
    return [np.flatnonzero(part) for part in np.split(found[:total], np.cumsum(lengths)[:-1])]


def tell_members(endpoint: Endpoint, active: str, own: Places, other: Places) -> None:
    """The coordinator tells the active party alone which places of both lists hold the same id."""
    positions = np.concatenate([own, other]).astype(np.uint32)
    counts = np.array([len(own), len(other)], np.int64)
    endpoint.link(Coordinator, Active, active).send(Wire.members, Positions(counts, positions))


def hear_members(endpoint: Endpoint, sizes: Mapping[str, int], common: int) -> tuple[Places, Places]:
    """The active party hears places in its own list, and parallel to them places in the passive party's.

    Raises
    ------
    RemoteProtocolError
        Places that do not fit the lists or the number of common ids.
    """
    told = endpoint.link(Active, Coordinator, COORDINATOR).recv(Wire.members)
    (other,) = (size for name, size in sizes.items() if name != endpoint.name)
    if not np.array_equal(told.counts, [common, common]) or told.positions.shape != (2 * common,):
        raise _contradiction()
    mine, theirs = told.positions[:common].astype(np.int64), told.positions[common:].astype(np.int64)
    for places, size in ((mine, sizes[endpoint.name]), (theirs, other)):
        if len(np.unique(places)) != common or (common and int(places.max()) >= size):
            raise _contradiction()
    return mine, theirs


def too_few(count: int | None, limit: Limit) -> DataError:
    """What all roles raise below the limit; ``count`` is None where it is not told."""
    least = f"expected at least min_intersection = {limit.min_intersection}"
    advice = "check that the id columns mean the same and are written alike (vfl check shows what happened to the ids)"
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


def flags(length: int, places: Places) -> NDArray[np.bool_]:
    """A truth for each place of a list: whether it is one of ``places``."""
    found = np.zeros(length, bool)
    found[places] = True
    return found


def _contradiction() -> RemoteProtocolError:
    return RemoteProtocolError(f"{COORDINATOR} sent a verdict on the alignment that contradicts the job or the sizes")
