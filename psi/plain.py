"""What an alignment comes to, by plain sets: for checks on one machine that has all ids anyway, without a protocol.

>>> from psi.ids import IdRules, prepare_ids
>>> cells = {"bank": ["ann", "bob", "cy"], "shops.north": ["cy", "dan"], "shops.south": ["ann", "eve"]}
>>> ids = {name: prepare_ids([column], IdRules(), party=name) for name, column in cells.items()}
>>> for name, own in plain_alignment(ids, 7).items():
...     print(name, own.rows.tolist(), own.owned.tolist())
bank [2, 0] [0, 1]
shops.north [0] [0]
shops.south [0] [1]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from psi.ids import Duplicates, PreparedIds
from psi.order import row_order
from psi.silos import holders_of, repeated_ids


@dataclass(frozen=True)
class PlainRows:
    """A list's common rows.

    Attributes
    ----------
    rows : ndarray of int64
        CSV rows in the agreed order.
    owned : ndarray of int64
        Parallel: where they stand among all common rows, ascending.
    """

    rows: NDArray[np.int64] = field(repr=False)
    owned: NDArray[np.int64] = field(repr=False)


def plain_alignment(
    ids: Mapping[str, PreparedIds], seed: int, duplicates: Duplicates = "refuse"
) -> dict[str, PlainRows]:
    """The common rows of every list.

    Where all parties have several silos a run draws another order than the one of the seed here.

    Raises
    ------
    DataError
        Ids in two silos of one party that are to be refused.
    """
    owners = [_owners(holder, members, ids, duplicates) for holder, members in holders_of(ids).items()]
    common = sorted(set.intersection(*map(set, owners)))
    ordered = [common[at] for at in row_order(common, seed)]
    rows: dict[str, list[int]] = {name: [] for name in ids}
    owned: dict[str, list[int]] = {name: [] for name in ids}
    for place, key in enumerate(ordered):
        for owner in owners:
            name, row = owner[key]
            rows[name].append(row)
            owned[name].append(place)
    return {name: PlainRows(np.array(rows[name], np.int64), np.array(owned[name], np.int64)) for name in ids}


def ids_by_holder(ids: Mapping[str, PreparedIds]) -> dict[str, list[bytes]]:
    """The distinct ids of every party, those of all its silos together."""
    return {
        holder: list(dict.fromkeys(key for name in members for key in ids[name].ids))
        for holder, members in holders_of(ids).items()
    }


def _owners(
    holder: str, members: tuple[str, ...], ids: Mapping[str, PreparedIds], duplicates: Duplicates
) -> dict[bytes, tuple[str, int]]:
    """List and CSV row of every id of a party."""
    having = Counter(key for name in members for key in ids[name].ids)
    repeated = {key for key, count in having.items() if count > 1}
    if repeated and duplicates == "refuse":
        raise repeated_ids(holder, len(repeated))
    owners: dict[bytes, tuple[str, int]] = {}
    for name in members:
        for key, row in zip(ids[name].ids, ids[name].rows.tolist(), strict=True):
            if not (duplicates == "drop" and key in repeated):
                owners.setdefault(key, (name, row))
    return owners
