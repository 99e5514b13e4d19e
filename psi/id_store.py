"""Ids in files, for lists that memory does not hold: 56 bytes per id on disk, a few megabytes in memory.

The ids come one after the other. A first pass writes element, order key and CSV row of each into one of 64 parts, by
the element as a number; a second sorts part after part, settles ids that occur more than once, and writes three files
in the order of the elements, in which every bucket is a range::

    elements   32 bytes per id
    keys       16 bytes per id, its order key under the job's seed (`psi.order`)
    rows        8 bytes per id, little-endian

>>> from pathlib import Path
>>> from tempfile import TemporaryDirectory
>>> from psi.ids import composite
>>> with TemporaryDirectory() as folder:
...     names = (composite([name]) for name in ["cy", "ann", "", "bob"])
...     ids = store_ids(names, IdRules(), seed=7, folder=Path(folder), party="bank", missing="drop")
...     print(ids.count, ids.missing, sorted(ids.csv_rows(ids.indices(0, 1)).tolist()))
3 1 [0, 1, 3]
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from parties.errors import DataError, LocalProtocolError
from parties.wire import Bytes2D
from psi import order
from psi.buckets import bucket_of, bucket_of_number, sorted_places
from psi.elements import ELEMENT_BYTES, elements_of
from psi.ids import Duplicates, IdRules, Missing, duplicates_refused, missing_refused, none_valid
from psi.source import Indices

ROW_BYTES = 8
RECORD_BYTES = ELEMENT_BYTES + order.KEY_BYTES + ROW_BYTES

_WIDTHS = {"elements": ELEMENT_BYTES, "keys": order.KEY_BYTES, "rows": ROW_BYTES}
_PARTS = 64
_BATCH = 1 << 16
"""Ids that are read at a time."""
_BLOCK = 1 << 18
"""Ids of which a column is read at a time."""


@dataclass(frozen=True)
class StoredIds:
    """A party's distinct valid ids, in files; a `psi.source.Ids`.

    Attributes
    ----------
    folder : Path
        Where the files lie; they are the caller's to remove.
    count : int
        Distinct valid ids.
    total : int
        Rows of the CSV.
    missing, duplicates : int
        Rows left out because they have no id, or because their id occurs more than once.
    seed : int
        The job's, which decides the order of the rows.
    """

    folder: Path
    rules: IdRules
    count: int
    total: int
    missing: int
    duplicates: int
    seed: int

    def indices(self, number: int, buckets: int) -> Indices:
        """Indices of the ids in a bucket: a range."""
        start, stop = (
            bisect_left(range(self.count), bucket, key=lambda index: self._bucket(index, buckets))
            for bucket in (number, number + 1)
        )
        return np.arange(start, stop)

    def elements(self, indices: Indices) -> Bytes2D:
        """Elements of ids, their indices ascending."""
        return self._read("elements", indices)

    def order_keys(self, indices: Indices, seed: int) -> Bytes2D:
        """Order keys of ids, their indices ascending."""
        if seed != self.seed:
            raise LocalProtocolError("the ids were stored for another seed than the alignment's")
        return self._read("keys", indices)

    def csv_rows(self, indices: Indices) -> Indices:
        """The CSV row of each id."""
        rows = np.fromfile(self.folder / "rows", "<i8")
        if len(rows) != self.count:
            raise _cut_off()
        return rows[indices].astype(np.int64, copy=False)

    def set_digest(self, indices: Indices) -> str:
        """Digest of a set of ids."""
        chosen = np.sort(indices)
        blocks = (chosen[start : start + _BLOCK] for start in range(0, len(chosen), _BLOCK))
        return order.set_digest(self._read("elements", block) for block in blocks)

    def _bucket(self, index: int, buckets: int) -> int:
        """The bucket of one id."""
        with (self.folder / "elements").open("rb") as file:
            file.seek((index + 1) * ELEMENT_BYTES - 8)
            leading = np.frombuffer(file.read(8), "<u8")
        return int(bucket_of_number(leading, buckets)[0])

    def _read(self, column: str, indices: Indices) -> Bytes2D:
        """A column of ids, their indices ascending; blocks in which there are none are passed over."""
        width = _WIDTHS[column]
        found = np.empty((len(indices), width), np.uint8)
        at = 0
        with (self.folder / column).open("rb") as file:
            while at < len(indices):
                first = int(indices[at])
                stop = int(np.searchsorted(indices, first + _BLOCK))
                count = int(indices[stop - 1]) + 1 - first
                file.seek(first * width)
                rows = _rows_from(file.read(count * width), width)
                if len(rows) != count:
                    raise _cut_off()
                found[at:stop] = rows[indices[at:stop] - first]
                at = stop
        return found


def store_ids(
    ids: Iterable[bytes | None],
    rules: IdRules,
    *,
    seed: int,
    folder: Path,
    party: str,
    duplicates: Duplicates = "refuse",
    missing: Missing = "refuse",
) -> StoredIds:
    """Write ids into files; refuse, or leave out, rows without an id of their own.

    Parameters
    ----------
    ids : iterable of bytes or None
        The normalised id of every row of the CSV (`psi.ids.composite`), in their order.
    folder : Path
        An existing folder for the files, and meanwhile for as much again.
    duplicates, missing
        As in `psi.ids.prepare_ids`.

    Raises
    ------
    DataError
        Missing or duplicate ids that are to be refused, or no valid id at all. Counts only, never an id.
    OSError
        The disk does not take them.
    """
    parts = [folder / f"part {number}" for number in range(_PARTS)]
    total, present = _write_parts(ids, seed, parts)
    if present < total and missing == "refuse":
        raise missing_refused(party, total - present, total)
    count = repeated = in_rows = 0
    with ExitStack() as files:
        columns = [files.enter_context((folder / column).open("wb")) for column in _WIDTHS]
        for part in parts:
            records, twice = _without_duplicates(_sorted(part), duplicates)
            repeated, in_rows, count = repeated + len(twice), in_rows + int(twice.sum()), count + len(records)
            for file, column in zip(columns, np.split(records, _ENDS, axis=1), strict=True):
                file.write(column.tobytes())
            part.unlink()
    if repeated and duplicates == "refuse":
        raise duplicates_refused(party, repeated, in_rows, total)
    if not count:
        raise none_valid(party, total)
    return StoredIds(folder, rules, count, total, total - present, present - count, seed)


_ENDS = (ELEMENT_BYTES, ELEMENT_BYTES + order.KEY_BYTES)


def _write_parts(ids: Iterable[bytes | None], seed: int, parts: list[Path]) -> tuple[int, int]:
    """Append a record of every id to its part; returns the rows, and those of them that have an id."""
    total = present = 0
    with ExitStack() as stack:
        files = [stack.enter_context(part.open("wb")) for part in parts]
        for batch in _batches(ids):
            names = [name for name in batch if name is not None]
            rows = np.array([row for row, name in enumerate(batch, total) if name is not None], "<i8")
            elements = elements_of(names)
            columns = elements, order.order_keys(names, seed), rows.view(np.uint8).reshape(-1, ROW_BYTES)
            records = np.concatenate(columns, axis=1)
            which = bucket_of(elements, len(parts))
            records = records[np.argsort(which, kind="stable")]
            ends = np.cumsum(np.bincount(which, minlength=len(parts)))
            for file, own in zip(files, np.split(records, ends[:-1]), strict=True):
                file.write(own.tobytes())
            total, present = total + len(batch), present + len(names)
    return total, present


def _batches(ids: Iterable[bytes | None]) -> Iterator[list[bytes | None]]:
    left = iter(ids)
    while batch := list(islice(left, _BATCH)):
        yield batch


def _sorted(part: Path) -> Bytes2D:
    """Records of a part by their elements, those of one element in the order of the CSV."""
    records = _rows_from(part.read_bytes(), RECORD_BYTES)
    return records[sorted_places(records[:, :ELEMENT_BYTES])]


def _without_duplicates(records: Bytes2D, duplicates: Duplicates) -> tuple[Bytes2D, NDArray[np.int64]]:
    """Records of distinct elements under the option, and how often each element occurs that does so more than once."""
    elements = np.ascontiguousarray(records[:, :ELEMENT_BYTES]).view("<u8")
    new = np.ones(len(records), bool)
    new[1:] = (elements[1:] != elements[:-1]).any(axis=1)
    starts = np.flatnonzero(new)
    counts = np.diff(np.append(starts, len(records)))
    kept = starts[counts == 1] if duplicates == "drop" else starts
    return records[kept], counts[counts > 1]


def _rows_from(data: bytes, width: int) -> Bytes2D:
    """Rows of a file that this process has written."""
    if len(data) % width:
        raise _cut_off()
    return np.frombuffer(data, np.uint8).reshape(-1, width)


def _cut_off() -> DataError:
    return DataError("a file of ids has been cut off while it was in use; run the alignment again")
