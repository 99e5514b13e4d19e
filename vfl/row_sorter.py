"""Rows of a long CSV in another order, without holding them in memory.

A first pass through the rows appends each to one of several files, by its place in the new order; then one file after
the other is read and put in order. All reading and writing goes from a beginning to an end, and memory holds one such
file at a time beside 4 bytes per row of the CSV.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

_PART_BYTES = 32 << 20
_MOST_PARTS = 256
_BATCH = 1 << 15
"""Rows that are cut into parts at a time."""
_COUNT = np.dtype("<u8")
_PLACE = np.dtype("<u4")
_END = "\r\n"
"""What the csv module ends lines with here: it quotes cells that hold a character of it."""
_ABSENT = 2**32 - 1


class RowsLost(Exception):
    """There are fewer rows than were asked for."""


def csv_line(cells: list[str]) -> bytes:
    """One line of a CSV in UTF-8."""
    return _lines([cells])[0]


def rows_in_order(content: Iterable[list[str]], order: NDArray[np.int64], scratch: Path, size: int) -> Iterator[bytes]:
    """Yield lines of a CSV, as the csv module writes them, in UTF-8: many at a time.

    Parameters
    ----------
    content : iterable of list of str
        The cells of every row.
    order : ndarray of shape (n,), int64
        Distinct places in ``content``, less than 2^32, in the order to yield.
    scratch : Path
        A folder to make, and to remove in the end, for as many bytes as the lines have.
    size : int
        About how many bytes that is.

    Raises
    ------
    RowsLost
        ``content`` ends before the last of them; nothing has been yielded then.
    OSError
        The disk does not take it.
    """
    parts = min(max(-(-size // _PART_BYTES), 1), _MOST_PARTS)
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        files = [scratch / str(number) for number in range(parts)]
        if _write_parts(content, order, files) < len(order):
            raise RowsLost
        for file in files:
            yield _sorted(file.read_bytes())
            file.unlink()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_parts(content: Iterable[list[str]], order: NDArray[np.int64], parts: list[Path]) -> int:
    """Append every row that is asked for to its part; returns how many there were."""
    places = _inverse(order)
    per_part = max(-(-len(order) // len(parts)), 1)
    rows, start, found = iter(content), 0, 0
    with ExitStack() as stack:
        files = [stack.enter_context(part.open("wb")) for part in parts]
        while start < len(places) and (batch := list(islice(rows, _BATCH))):
            known = places[start : start + len(batch)]
            chosen = np.flatnonzero(known != _ABSENT)
            lines = _lines(batch[i] for i in chosen)
            _append(files, known[chosen], lines, per_part)
            start, found = start + len(batch), found + len(chosen)
    return found


def _inverse(order: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The place in the order of every row up to the last that is in it."""
    rows = int(order.max()) + 1 if len(order) else 0
    places = np.full(rows, _ABSENT, _PLACE)
    places[order] = np.arange(len(order))
    return places


def _append(files: Sequence[IO[bytes]], places: NDArray[np.uint32], lines: list[bytes], per_part: int) -> None:
    """Append a batch, cut into parts: how many, their places, their lengths, the lines."""
    lengths = np.fromiter(map(len, lines), _PLACE, len(lines))
    which = places // per_part
    by_part = np.argsort(which, kind="stable")
    ends = np.cumsum(np.bincount(which, minlength=len(files)))
    for file, own in zip(files, np.split(by_part, ends[:-1]), strict=True):
        if len(own):
            file.write(np.array([len(own)], _COUNT).tobytes())
            file.write(places[own].tobytes())
            file.write(lengths[own].tobytes())
            file.write(b"".join([lines[i] for i in own.tolist()]))


def _sorted(data: bytes) -> bytes:
    """The lines of a part in order."""
    places: list[NDArray[np.uint32]] = [np.zeros(0, _PLACE)]
    lines: list[bytes] = []
    at = 0
    while at < len(data):
        (count,) = np.frombuffer(data, _COUNT, 1, at).tolist()
        at += _COUNT.itemsize
        places.append(np.frombuffer(data, _PLACE, count, at))
        lengths = np.frombuffer(data, _PLACE, count, at + count * _PLACE.itemsize)
        ends = np.cumsum(lengths, dtype=np.int64) + at + 2 * count * _PLACE.itemsize
        lines += [data[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]
        at = int(ends[-1])
    return b"".join([lines[i] for i in np.argsort(np.concatenate(places)).tolist()])


class _Lines(list[bytes]):
    """A file for the csv module, which writes one line at a time."""

    def write(self, line: str) -> None:
        self.append(line[: -len(_END)].encode() + b"\n")


def _lines(rows: Iterable[list[str]]) -> list[bytes]:
    """Rows as lines of a CSV."""
    lines = _Lines()
    csv.writer(lines, lineterminator=_END).writerows(rows)
    return lines
