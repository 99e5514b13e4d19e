"""Parties made of silos in an alignment: the lists of a party's silos count as one, each silo hears of its own rows.

Common are the ids that all parties have, and a party of several silos has those of all of them. Each silo plays the
protocol with its own list, like a party; the coordinator puts the masked lists of one party together before it joins.
An id in two lists of one party is refused, or goes to the silo that comes first in the job, or is left out::

    coordinator                                 party p, silo s
      repeats: ids in two silos of one party ->    all, where they are refused: above none it ends here, at all roles
      ... how many are common (psi.verdict) ...
      matches (psi.verdict)                 --->    a party of one list
      numbers: which of its ids are common, --->    a silo of several
               and what numbers these rows have

The numbers count the common rows as they stand in the shuffled list of the guide: of the first party with one list,
the active party before all others. A silo hears from the guide which row of the agreed order a number is
(`psi.silo_rows`), and the coordinator does not. Where all parties have several silos nobody knows all common ids: the
numbers are drawn at random then, and the active party's first silo is the guide.

*Leakage*

- ``repeats``, to each party: how many ids stand in the lists of two silos of one party, where such are refused.
- ``numbers``, to each silo: which of its ids are common and fall to it, with numbers of these rows.

``repeats`` names the first such party in job order. The coordinator, which says all this, learns how many common rows
each silo has; and, as from any two lists, how many ids those of one party share. All know how many rows are common, so
that of two silos each knows how many of them the other has.

*Threat model*: as in the protocol's own file. The coordinator together with the guide learns which rows of the agreed
order are whose. Where repetitions are refused a silo can test an id of another silo of its party, by bringing it.

>>> from parties.wire import Active, Passive
>>> cast = cast_of({"bank": Active, "shops.north": Passive, "shops.south": Passive})
>>> cast.guide, cast.silos
('bank', ('shops.north', 'shops.south'))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parties.errors import DataError, RemoteProtocolError
from parties.link import COORDINATOR, Endpoint
from parties.spec import holder_of
from parties.wire import Active, Coordinator, DataParty, Message, Positions, Revealed, Role

Places = NDArray[np.int64]


class Wire:
    """What the coordinator says where parties have silos."""

    repeats = Message(
        Coordinator,
        DataParty,
        Revealed,
        discloses="how many ids stand in the lists of two silos of one party, where such are refused",
    )
    numbers = Message(
        Coordinator,
        DataParty,
        Positions,
        discloses="which of its ids are common and fall to it, with numbers of these rows",
    )


@dataclass(frozen=True)
class Cast:
    """Who is who among the lists.

    Parameters
    ----------
    holders : dict of party to tuple of str
        The names of its lists, in job order: one, or those of several silos.
    guide : str
        Whose numbers the common rows have.
    """

    holders: dict[str, tuple[str, ...]]
    guide: str

    @property
    def silos(self) -> tuple[str, ...]:
        """All silos of parties with several."""
        return tuple(name for members in self.holders.values() if len(members) > 1 for name in members)

    @property
    def whole(self) -> tuple[str, ...]:
        """Parties with one list, by its name."""
        return tuple(members[0] for members in self.holders.values() if len(members) == 1)

    @property
    def guide_first(self) -> dict[str, tuple[str, ...]]:
        """`holders`, the guide's before all others."""
        first = holder_of(self.guide)
        return {first: self.holders[first]} | self.holders


def cast_of(roles: Mapping[str, type[Role]]) -> Cast:
    """Who is who, by names and roles in job order."""
    names = [name for name, role in roles.items() if issubclass(role, DataParty)]
    holders = holders_of(names)
    ranked = sorted(names, key=lambda name: (len(holders[holder_of(name)]) > 1, not issubclass(roles[name], Active)))
    return Cast(holders, ranked[0])


def holders_of(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The lists of every party.

    >>> holders_of(["bank", "shops.north", "shops.south"])
    {'bank': ('bank',), 'shops': ('shops.north', 'shops.south')}
    """
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        found[holder_of(name)] = (*found.get(holder_of(name), ()), name)
    return found


def sizes_by_holder(sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes of all parties' lists, those of a party's silos added up; one list goes by its own name.

    >>> sizes_by_holder({"bank": 5, "shops.north": 3, "shops.south": 4, "mill.old": 2})
    {'bank': 5, 'shops': 7, 'mill.old': 2}
    """
    return {
        members[0] if len(members) == 1 else holder: sum(sizes[name] for name in members)
        for holder, members in holders_of(sizes).items()
    }


def tell_repeats(endpoint: Endpoint, repeated: Mapping[str, int]) -> None:
    """The coordinator says whether ids stand in two lists of one party.

    Raises
    ------
    DataError
        They do; every party has been told and raises the same.
    """
    found = next(((holder, count) for holder, count in repeated.items() if count), None)
    told = Revealed({}, np.empty(0)) if found is None else Revealed({"party": found[0]}, np.array([found[1]], float))
    for name in endpoint.peers(DataParty):
        endpoint.link(Coordinator, DataParty, name).send(Wire.repeats, told)
    if found is not None:
        raise repeated_ids(*found)


def hear_repeats(endpoint: Endpoint, sizes: Mapping[str, int]) -> None:
    """A party hears whether ids stand in two lists of one party.

    Raises
    ------
    DataError
        They do.
    RemoteProtocolError
        What it hears does not fit the lists.
    """
    told = endpoint.link(DataParty, Coordinator, COORDINATOR).recv(Wire.repeats)
    if not told.facts and told.values.shape == (0,):
        return
    several = {holder: members for holder, members in holders_of(sizes).items() if len(members) > 1}
    holder = told.facts.get("party")
    if told.facts.keys() == {"party"} and isinstance(holder, str) and holder in several and told.values.shape == (1,):
        count, most = float(told.values[0]), sum(sizes[name] for name in several[holder]) // 2
        if 1 <= count <= most and count == int(count):
            raise repeated_ids(holder, int(count))
    raise RemoteProtocolError(f"{COORDINATOR} sent no proper count of ids that two silos of one party have")


def tell_numbers(endpoint: Endpoint, silo: str, places: Places, numbers: Places) -> None:
    """The coordinator tells a silo the places of its common rows, counted through all its lists, and their numbers."""
    both = np.concatenate([places, numbers]).astype(np.uint32)
    counts = np.full(2, len(places), np.int64)
    endpoint.link(Coordinator, DataParty, silo).send(Wire.numbers, Positions(counts, both))


def hear_numbers(endpoint: Endpoint, lengths: Sequence[int], common: int) -> tuple[list[Places], Places]:
    """A silo hears which places of its lists hold common rows that fall to it, per bucket, and their numbers.

    Parameters
    ----------
    lengths : sequence of int
        Length of its list in each bucket.
    common : int
        How many rows are common to all.

    Returns
    -------
    places : list of ndarray of int64
        Ascending in each bucket.
    numbers : ndarray of int64
        Of all of them, in this order; 0 to ``common`` - 1.

    Raises
    ------
    RemoteProtocolError
        Places or numbers that do not fit the lists, or repeat.
    """
    told = endpoint.link(DataParty, Coordinator, COORDINATOR).recv(Wire.numbers)
    count = told.positions.size // 2
    if not np.array_equal(told.counts, [count, count]) or told.positions.shape != (2 * count,) or count > common:
        raise _unfitting()
    places, numbers = told.positions[:count].astype(np.int64), told.positions[count:].astype(np.int64)
    if not _ascending_below(places, sum(lengths)) or not _ascending_below(np.sort(numbers), common):
        raise _unfitting()
    ends = np.cumsum(lengths)
    parts = np.split(places, np.searchsorted(places, ends[:-1]))
    return [part - start for part, start in zip(parts, [0, *ends[:-1].tolist()], strict=True)], numbers


def repeated_ids(holder: str, count: int) -> DataError:
    """The error for so many ids that stand in two lists of one party."""
    return DataError(
        f"alignment: {count} ids of party '{holder}' stand in the lists of two of its silos, expected each id in one; "
        'remove the repetitions or set [alignment] duplicates = "first" (the row of the silo that comes first in the '
        'job) or "drop" (leave them out)'
    )


def _ascending_below(values: Places, end: int) -> bool:
    """Whether they ascend without a repetition and stay below ``end``."""
    return not len(values) or (bool((np.diff(values) > 0).all()) and int(values[-1]) < end)


def _unfitting() -> RemoteProtocolError:
    return RemoteProtocolError(f"{COORDINATOR} sent numbers of common rows that do not fit the lists of the alignment")
