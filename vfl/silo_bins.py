"""Bins that all silos of a party share, learnt from counts over the silos: of a silo's own cells no number is told.

The numbers of a column lie in cells of floating point: first by sign and exponent, then ever finer, 16 cells in the
place of one. Of every cell the silos add up how many training rows lie in it, and those that hold too many are cut
further: every one of two rows or more as long as there are fewer cells than bins, afterwards those with more than a
quarter of a bin's rows. A cell that cannot be cut any more holds one number. Between cells that hold rows stand
thresholds, all of them or those at quantiles, as in `vfl.trees.bins`; a column of few different numbers gets a bin for
each.

Since all of it follows from sums, the same rows give the same bins however many silos they are in, one too. With few
different numbers the rows of every bin are those of `vfl.trees.bins.fit_binning`.

What the silos of a party tell each other: names and kinds of their columns; how many training rows each cell holds, and
how many lack a number; the categories of text columns that ``categories`` does not list, and how many rows have each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from parties.columns import Kind
from parties.data import PartyTable
from parties.errors import RemoteProtocolError
from parties.spec import PartySpec
from vfl.boosting_part import BinnedColumns
from vfl.preprocess import left_out
from vfl.siblings import Siblings
from vfl.silo_columns import declared_categories, of_kinds, shared_kinds
from vfl.terms import Integers
from vfl.trees.bins import Binning, Feature, between, categorical_split, check_number, cut_after

Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]

_PER_BIN = 4  # cells, about: a bin's rows are a quarter off their share at most
_STEP = 4  # bits of a key that tell apart the cells in the place of one
_KEY = 64
_TOP = np.uint64(1 << 63)


def bin_silo_columns(
    spec: PartySpec,
    table: PartyTable,
    rows: Integers,
    n_train: int,
    siblings: Siblings,
    *,
    max_bin: int,
    max_cat_to_onehot: int | None = None,
) -> BinnedColumns:
    """Bin a silo's rows as all silos of its party do; everything is learnt from all their training rows.

    Parameters
    ----------
    rows : ndarray of shape (n,), int64
        Rows of the silo's table, its training rows first.
    n_train : int
        How many those are; there may be none.
    max_bin, max_cat_to_onehot : int
        As `vfl.trees.bins.fit_binning`.

    Raises
    ------
    DataError
        The silos' columns differ, or a column has too many categories.
    """
    kinds = shared_kinds(spec, table, siblings)
    frame = of_kinds(table.features.iloc[rows].reset_index(drop=True), kinds)
    training = frame.iloc[:n_train]
    found = _numeric(training, kinds, siblings, max_bin) | _categorical(
        spec, training, kinds, siblings, max_cat_to_onehot
    )
    features, warnings = [], []
    for name in kinds:
        feature, has_values = found[name]
        if has_values and (feature.bins > 1 or feature.has_missing):
            features.append(feature)
        else:
            warnings.append(left_out(name, has_values))
    binning = Binning(tuple(features), spec.unknown_category, tuple(warnings))
    codes, unseen = binning.transform(frame)
    return BinnedColumns(binning, codes, tuple(f"{spec.name}: {line}" for line in (*warnings, *unseen)))


def _numeric(
    frame: pd.DataFrame, kinds: Mapping[str, Kind], siblings: Siblings, max_bin: int
) -> dict[str, tuple[Feature, bool]]:
    """Features of the columns of numbers, and whether there is any number."""
    names = [name for name, kind in kinds.items() if kind == "numeric"]
    values = [frame[name].to_numpy(dtype=np.float64) for name in names]
    present = [column[~np.isnan(column)] for column in values]
    own = [[len(column), len(some)] for column, some in zip(values, present, strict=True)]
    counts = siblings.words("present", np.array(own, dtype=np.int64).reshape(-1, 2)).tolist()
    grids = cut_cells([_keys(some) for some in present], [count for _, count in counts], siblings, max_bin)
    found = {}
    for name, (rows, count), grid in zip(names, counts, grids, strict=True):
        feature = Feature(name, "ordered", grid.thresholds(max_bin), has_missing=count < rows)
        found[name] = (feature, count > 0)
    return found


@dataclass(frozen=True)
class Grid:
    """The cells of a column that hold rows, ascending.

    Parameters
    ----------
    first, last : ndarrays of shape (cells,), uint64
        Smallest and largest key that lies in each.
    counts : ndarray of shape (cells,), int64
        Training rows of all silos.
    """

    first: Keys = field(repr=False)
    last: Keys = field(repr=False)
    counts: Integers = field(repr=False)

    def crowded(self, max_bin: int) -> NDArray[np.bool_]:
        """Which cells are to be cut further."""
        most = 1 if len(self.counts) < max_bin else max(1, int(self.counts.sum()) // (_PER_BIN * max_bin))
        return (self.counts > most) & (self.first < self.last)

    def thresholds(self, max_bin: int) -> tuple[float, ...]:
        """Cuts in the middle between the cells, or at quantiles."""
        below = cut_after(self.counts, max_bin)
        return tuple(between(_numbers(self.last[below]), _numbers(self.first[below + 1])).tolist())


def cut_cells(columns: Sequence[Keys], present: Sequence[int], siblings: Siblings, max_bin: int) -> list[Grid]:
    """Cut the cells of columns until none is crowded; all silos cut the same.

    Parameters
    ----------
    columns : sequence of ndarrays, uint64
        Keys of the silo's own numbers.
    present : sequence of int
        How many numbers all silos have in each column.
    """
    grids = [_whole(count) for count in present]
    for shift in reversed(range(0, _KEY, _STEP)):
        crowded = [grid.crowded(max_bin) for grid in grids]
        own = [_count(keys, grid, cut, shift) for keys, grid, cut in zip(columns, grids, crowded, strict=True)]
        if not sum(len(counts) for counts in own):
            break
        sums = siblings.words(f"cells|{shift}", np.concatenate(own))
        parts = np.split(sums, np.cumsum([len(counts) for counts in own])[:-1])
        grids = [_refine(grid, cut, part, shift) for grid, cut, part in zip(grids, crowded, parts, strict=True)]
    return grids


def _whole(count: int) -> Grid:
    """One cell for all numbers, or none where there are none."""
    cells = int(count > 0)
    first, last = np.array([0], dtype=np.uint64), np.array([2**_KEY - 1], dtype=np.uint64)
    return Grid(first[:cells], last[:cells], np.array([count], dtype=np.int64)[:cells])


def _count(keys: Keys, grid: Grid, cut: NDArray[np.bool_], shift: int) -> Integers:
    """Own rows of the cells in the place of those to be cut, one after the other."""
    first = grid.first[cut]
    if not len(first):
        return np.zeros(0, dtype=np.int64)
    cell = np.searchsorted(first, keys, side="right") - 1
    inside = (cell >= 0) & (keys <= grid.last[cut][cell])
    part = (keys[inside] - first[cell[inside]]) >> np.uint64(shift)
    number = (cell[inside] << _STEP) + part.astype(np.int64)
    return np.bincount(number, minlength=len(first) << _STEP).astype(np.int64)


def _refine(grid: Grid, cut: NDArray[np.bool_], counts: Integers, shift: int) -> Grid:
    """Put the cells that hold rows in the place of those that were cut."""
    steps = np.arange(1 << _STEP, dtype=np.uint64) << np.uint64(shift)
    first = (grid.first[cut][:, None] + steps).ravel()
    held = counts > 0
    firsts = np.concatenate([grid.first[~cut], first[held]])
    lasts = np.concatenate([grid.last[~cut], first[held] + np.uint64((1 << shift) - 1)])
    order = np.argsort(firsts)
    return Grid(firsts[order], lasts[order], np.concatenate([grid.counts[~cut], counts[held]])[order])


def _keys(values: Floats) -> Keys:
    """Whole numbers in the order of the values, the bits of which they are.

    >>> _numbers(_keys(np.array([-np.inf, -1.5, 0.0, 2.0]))).tolist()
    [-inf, -1.5, 0.0, 2.0]
    """
    bits = (values + 0.0).view(np.uint64)  # -0.0 is 0.0
    return np.where(bits & _TOP, ~bits, bits | _TOP)


def _numbers(keys: Keys) -> Floats:
    """Inverse of `_keys`; all bounds between two cells that hold rows are finite."""
    return np.where(keys & _TOP, keys & ~_TOP, ~keys).view(np.float64)


def _categorical(
    spec: PartySpec,
    frame: pd.DataFrame,
    kinds: Mapping[str, Kind],
    siblings: Siblings,
    max_cat_to_onehot: int | None,
) -> dict[str, tuple[Feature, bool]]:
    """Features of the columns of texts, with the categories that any silo's rows have."""
    cells = {name: frame[name].dropna() for name, kind in kinds.items() if kind == "categorical"}
    listed = {name: declared_categories(spec, name, column.tolist()) for name, column in cells.items()}
    own = [
        json.dumps([name, text]) for name, column in cells.items() for text in (listed[name] or sorted(column.unique()))
    ]
    told: dict[str, list[str]] = {name: [] for name in cells}
    for name, text in map(_read_category, siblings.texts(own)):
        told.setdefault(name, []).append(text)
    counted = {name: column.value_counts() for name, column in cells.items()}
    counts = [[int(counted[name].get(text, 0)) for text in sorted(told[name])] for name in cells]
    rows = [len(frame), *(count for column in counts for count in column), *map(len, cells.values())]
    total, *sums = siblings.words("categories", np.array(rows, dtype=np.int64)).tolist()
    found, at = {}, 0
    for name, present in zip(cells, sums[len(sums) - len(cells) :], strict=True):
        here = zip(sorted(told[name]), sums[at:], strict=False)
        categories = tuple(text for text, count in here if count)
        at += len(told[name])
        check_number(name, len(categories))
        split = categorical_split(len(categories), max_cat_to_onehot)
        found[name] = (Feature(name, split, categories=categories, has_missing=present < total), present > 0)
    return found


def _read_category(told: str) -> tuple[str, str]:
    """A column and one of its categories, as a silo tells them."""
    try:
        return msgspec.json.decode(told, type=tuple[str, str])
    except msgspec.DecodeError:
        raise RemoteProtocolError("a silo of this party told categories that are none") from None
