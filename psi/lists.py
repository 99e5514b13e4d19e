"""Lists of fixed-width rows: received ones checked, several joined.

>>> left, right = (np.array(rows, np.uint8) for rows in ([[1, 1], [2, 2], [3, 3]], [[3, 3], [9, 9], [1, 1]]))
>>> {name: places.tolist() for name, places in join({"left": left, "right": right}).items()}
{'left': [0, 2], 'right': [2, 0]}
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from parties.errors import ConfigError, RemoteProtocolError
from parties.wire import Bytes2D

TAG_BYTES = 12
STATISTICAL_BITS = 40


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


def join(lists: Mapping[str, Bytes2D]) -> dict[str, NDArray[np.int64]]:
    """Places, in every list, of the rows that are in all lists (rows are distinct within each).

    The arrays are parallel: the k-th places of all lists hold the same row. They ascend in the first list.
    """
    keys = {name: as_keys(rows) for name, rows in lists.items()}
    first, *others = keys.values()
    common = np.sort(first)
    for other in others:
        common = np.intersect1d(common, other, assume_unique=True)
    places = {name: _places(rows, common) for name, rows in keys.items()}
    order = np.argsort(next(iter(places.values())))
    return {name: where[order] for name, where in places.items()}


def repeats(rows: Bytes2D) -> bool:
    """Whether a row occurs twice."""
    prefix = np.sort(np.ascontiguousarray(rows[:, :8]).view("<u8").ravel())
    if not bool((prefix[1:] == prefix[:-1]).any()):
        return False  # what honest lists end with: 8 random bytes differ already
    return len(np.unique(as_keys(rows))) < len(rows)


def as_keys(rows: Bytes2D) -> np.ndarray[tuple[int], np.dtype[np.bytes_]]:
    """Rows as fixed-width byte strings, to sort and compare whole (padding bytes of equal width change nothing)."""
    return np.ascontiguousarray(rows).view(f"S{rows.shape[1]}").reshape(-1)


def _places(rows: NDArray[np.bytes_], common: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """Where each of the sorted ``common`` rows stands among ``rows``, all of which it is in."""
    order = np.argsort(rows, kind="stable")
    return np.asarray(order[np.searchsorted(rows, common, sorter=order)], np.int64)
