"""Lists of fixed-width rows: received ones checked, several joined.

>>> left, right = (np.array(rows, np.uint8) for rows in ([[1, 1], [2, 2], [3, 3]], [[3, 3], [9, 9], [1, 1]]))
>>> {name: places.tolist() for name, places in join({"left": left, "right": right}).items()}
{'left': [0, 2], 'right': [2, 0]}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parties.errors import ConfigError, RemoteProtocolError
from parties.wire import Bytes2D, Words

Places = NDArray[np.int64]

TAG_BYTES = 12
STATISTICAL_BITS = 40
_PART_ROWS = 1 << 16


@dataclass(frozen=True)
class Shared:
    """The rows that all parties have, where a party may have several lists.

    Parameters
    ----------
    common : int
        How many they are.
    places, numbers : dict of list name to ndarray of int64
        Per list the places of those that fall to it, ascending, and parallel to them which of the common rows they
        are: 0 to ``common`` - 1 as they stand in the lists of the first party.
    repeated : dict of party to int
        Rows that stand in two or more lists of one party.
    """

    common: int
    places: dict[str, Places]
    numbers: dict[str, Places]
    repeated: dict[str, int]


def check_tag_length(sizes: Mapping[str, int], tag_bytes: int = TAG_BYTES) -> None:
    """Two different ids get the same tag with probability below 2^-40, or the lists are too long for such tags."""
    if len(sizes) < 2:
        raise ConfigError(f"alignment: got {len(sizes)} parties, expected at least two")
    lengths = sorted(sizes.values())
    pairs = math.comb(len(lengths), 2)
    needed = STATISTICAL_BITS + math.log2(lengths[-1] * lengths[-2]) + math.log2(pairs)
    if needed > 8 * tag_bytes:
        raise ConfigError(f"alignment: tags have {8 * tag_bytes} bits, lists of these lengths need {math.ceil(needed)}")


def checked_list(rows: Bytes2D, count: int, width: int, sender: str) -> Bytes2D:
    """A received list: as long as announced, of the right width, no repetition.

    Raises
    ------
    RemoteProtocolError
        Naming the sender.
    """
    if rows.shape != (count, width):
        raise RemoteProtocolError(
            f"{sender} sent a list of shape {rows.shape} for the alignment, expected {(count, width)}"
        )
    if repeats(rows):
        raise RemoteProtocolError(f"{sender} sent a list for the alignment in which an element occurs twice")
    return rows


def join(lists: Mapping[str, Bytes2D]) -> dict[str, Places]:
    """Places, in every list, of the rows that are in all lists (rows are distinct within each).

    The arrays are parallel: the k-th places of all lists hold the same row. They ascend in the first list. Lists are
    cut by the leading bits of their rows, so that what is sorted and searched at a time stays in the processor's cache.
    """
    first, *others = lists
    bits = _cutting_bits(max(len(rows) for rows in lists.values()))
    parts = {name: _parts(rows, bits) for name, rows in lists.items()}
    at = {name: np.full(len(lists[first]), -1) for name in others}
    for number, here in enumerate(parts[first]):
        for name in others:
            there = parts[name][number]
            mine, theirs = _meet(lists[first].take(here, axis=0), lists[name].take(there, axis=0))
            here = here[mine]
            at[name][here] = there[theirs]
    held = np.ones(len(lists[first]), bool)
    for places in at.values():
        held &= places >= 0
    common = np.flatnonzero(held)
    return {first: common} | {name: places[common] for name, places in at.items()}


def join_parties(lists: Mapping[str, Bytes2D], holders: Mapping[str, Sequence[str]], *, drop: bool = False) -> Shared:
    """`join` of parties that may have several lists: a party has the rows of all of its lists.

    Parameters
    ----------
    lists : mapping of list name to ndarray
        Rows are distinct within each.
    holders : mapping of party to sequence of str
        The names of its lists; a row in two of them falls to the first.
    drop : bool
        Leave such rows out instead.
    """
    kept, merged, repeated = {}, {}, {}
    for holder, members in holders.items():
        rows = lists[members[0]] if len(members) == 1 else np.concatenate([lists[name] for name in members])
        later, alike = _repetitions(rows)
        repeated[holder] = int((alike & ~later).sum())
        kept[holder] = np.flatnonzero(~(alike if drop else later))
        merged[holder] = rows.take(kept[holder], axis=0)
    found = join(merged)
    places, numbers = {}, {}
    for holder, members in holders.items():
        at = kept[holder][found[holder]]
        order = np.argsort(at)
        ends = np.cumsum([len(lists[name]) for name in members])
        cuts = np.searchsorted(at[order], ends)
        for name, begin, start, stop in zip(members, [0, *ends], [0, *cuts], cuts, strict=False):
            places[name] = at[order[start:stop]] - begin
            numbers[name] = order[start:stop]
    return Shared(len(next(iter(found.values()))), places, numbers, repeated)


def repeats(rows: Bytes2D) -> bool:
    """Whether a row occurs twice."""
    doubtful = as_keys(rows.take(_doubtful(rows), axis=0))
    return len(np.unique(doubtful)) < len(doubtful)


def ascending(rows: Bytes2D) -> Places:
    """The order that sorts the rows as byte strings."""
    return np.concatenate([part[_order(rows.take(part, axis=0))] for part in _parts(rows, _cutting_bits(len(rows)))])


def as_keys(rows: Bytes2D) -> np.ndarray[tuple[int], np.dtype[np.bytes_]]:
    """Rows as fixed-width byte strings, to sort and compare whole (padding bytes of equal width change nothing)."""
    return np.ascontiguousarray(rows).view(f"S{rows.shape[1]}").reshape(-1)


def _repetitions(rows: Bytes2D) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For each row whether it equals an earlier one, and whether it equals any other."""
    later, alike = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    doubtful = _doubtful(rows)
    _, first, which, counts = np.unique(
        as_keys(rows.take(doubtful, axis=0)), return_index=True, return_inverse=True, return_counts=True
    )
    later[doubtful] = True
    later[doubtful[first]] = False
    alike[doubtful] = counts[which] > 1
    return later, alike


def _doubtful(rows: Bytes2D) -> Places:
    """Rows whose leading bytes occur twice: in honest lists none, for 8 random bytes differ already."""
    leading = _leading(rows)
    words = np.sort(leading)
    tied = words[1:][words[1:] == words[:-1]]
    return np.flatnonzero(np.isin(leading, tied)) if len(tied) else np.zeros(0, np.int64)


def _meet(left: Bytes2D, right: Bytes2D) -> tuple[Places, Places]:
    """Places of the rows that both have, parallel; rows are distinct within each."""
    if not len(left) or not len(right):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    x, y = _order(left), _order(right)
    a, b = _leading(left)[x], _leading(right)[y]
    if not (_tied(a) or _tied(b)):
        at = np.searchsorted(a, b)
    else:  # nobody's honest list, or rows that share their beginning: compared whole
        at = np.searchsorted(as_keys(left)[x], as_keys(right)[y])
    at = np.minimum(at, len(a) - 1)
    mine, theirs = x[at], y
    near = a[at] == b
    mine, theirs = mine[near], theirs[near]
    same = as_keys(left.take(mine, axis=0)) == as_keys(right.take(theirs, axis=0))
    return mine[same], theirs[same]


def _order(rows: Bytes2D) -> Places:
    """`ascending` of so few rows that they stay in the cache."""
    words = _leading(rows)
    order = np.argsort(words)
    words = words[order]
    if _tied(words):
        twin = words[1:] == words[:-1]
        places = np.flatnonzero(np.append(twin, False) | np.append(False, twin))
        doubtful = order[places]
        order[places] = doubtful[np.argsort(as_keys(rows[doubtful]))]
    return order


def _tied(words: Words) -> bool:
    return bool((words[1:] == words[:-1]).any())


def _leading(rows: Bytes2D) -> Words:
    """The first 8 bytes as numbers that sort like them; shorter rows are filled with zeros."""
    head = rows[:, :8]
    if head.shape[1] < 8:
        head = np.pad(head, ((0, 0), (0, 8 - head.shape[1])))
    return np.ascontiguousarray(head).view(">u8").reshape(-1).astype(np.uint64)


def _cutting_bits(count: int) -> int:
    """How many leading bits cut so many random rows into parts of about `_PART_ROWS`."""
    return min(16, (count // _PART_ROWS).bit_length())


def _parts(rows: Bytes2D, bits: int) -> list[Places]:
    """Places of the rows with each value of the leading bits."""
    if not bits:
        return [np.arange(len(rows))]
    which = (rows[:, 0].astype(np.uint16) << 8 | rows[:, min(1, rows.shape[1] - 1)]) >> (16 - bits)
    order = np.argsort(which, kind="stable")  # a radix sort, for 16-bit numbers
    return np.split(order, np.cumsum(np.bincount(which, minlength=1 << bits))[:-1])
