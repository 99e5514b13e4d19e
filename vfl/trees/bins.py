"""Cut a party's columns into bins, the only places where trees may split them.

Numeric columns are cut at quantiles, or between all their values where these are few; a categorical column has a bin
per category. Everything is learnt on the training rows only, and missing cells stay missing: they get a bin of their
own behind the others. Nothing here is ever sent: thresholds and categories are the party's own secret and are stored
in its model shard alone. A message holds column names and counts only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from typing import Literal

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from parties.columns import Kind
from parties.errors import DataError
from vfl.preprocess import check_columns, left_out

Floats = NDArray[np.float64]
Codes = NDArray[np.uint16]
Split = Literal["ordered", "one-hot", "sorted"]

MAX_BINS = 65_535  # with the bin of missing cells, all codes fit 16 bits


@dataclass(frozen=True)
class Feature:
    """One column cut into bins; bin ``bins``, one past the last, is that of missing cells.

    Attributes
    ----------
    name : str
        The column's name.
    split : {"ordered", "one-hot", "sorted"}
        Where the bins may be parted: between neighbours; one bin against the rest; between neighbours after sorting
        the bins by gradient. Columns of two categories are "ordered": the partitions are the same.
    thresholds : tuple of float
        Numeric columns: bin b holds ``thresholds[b - 1] < x <= thresholds[b]``; empty where all values are the same.
    categories : tuple of str
        Categorical columns: bin b holds ``categories[b]``, in text order.
    has_missing : bool
        Whether cells are missing among the training rows.
    """

    name: str
    split: Split
    thresholds: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    has_missing: bool = False

    @property
    def bins(self) -> int:
        """Number of bins, that of missing cells not counted."""
        return len(self.categories) or len(self.thresholds) + 1

    @property
    def numeric(self) -> bool:
        """Whether the column holds numbers."""
        return not self.categories


@dataclass(frozen=True)
class Binning:
    """What was learnt from a party's training rows; a party's own secret, stored in its model shard.

    Attributes
    ----------
    features : tuple of Feature
        Columns in use, in file order.
    unknown_category : {"refuse", "ignore"}
        What to do with categories never seen in training when NEW data are scored.
    warnings : tuple of str
        Columns left out; names and counts only.

    Examples
    --------
    >>> frame = pd.DataFrame({"age": [20.0, 30.0, np.nan], "city": pd.Series(["Oslo", "Bern", "Bern"], dtype=object)})
    >>> binning = fit_binning(frame, {"age": "numeric", "city": "categorical"}, max_bin=32)
    >>> binning.features[0].thresholds, binning.features[1].categories
    ((25.0,), ('Bern', 'Oslo'))
    >>> binning.transform(frame)[0].tolist()
    [[0, 1], [1, 0], [2, 0]]
    """

    features: tuple[Feature, ...]
    unknown_category: str = "refuse"
    warnings: tuple[str, ...] = field(default=(), compare=False)

    def transform(self, frame: pd.DataFrame, *, new_data: bool = False) -> tuple[Codes, list[str]]:
        """Replace every cell by the number of its bin.

        Parameters
        ----------
        frame : DataFrame of n rows
            ``PartyTable.features``; columns not in use are ignored.
        new_data : bool
            Rows of another file than the one trained on: ``unknown_category = "refuse"`` then refuses categories
            that the training rows lack. Within one run they count as missing, with a warning.

        Returns
        -------
        codes : ndarray of shape (n, d), uint16, Fortran-ordered
            Feature j's bin in column j: 0 to ``features[j].bins``, of which the last stands for missing cells.
            Numbers beyond the training rows' fall into the first or last bin.
        warnings : list of str

        Raises
        ------
        DataError
            A column is missing or of another kind, or unknown categories are refused.
        """
        check_columns(frame, {feature.name: feature.numeric for feature in self.features})
        codes = np.empty((len(frame), len(self.features)), dtype=np.uint16, order="F")
        warnings = []
        for at, feature in enumerate(self.features):
            if feature.numeric:
                codes[:, at] = _numeric_codes(frame[feature.name], feature)
                continue
            codes[:, at], unseen = _categorical_codes(frame[feature.name], feature)
            if unseen:
                warnings.append(f'column "{feature.name}": {unseen:,} rows hold a category that no training row has')
        if warnings and new_data and self.unknown_category == "refuse":
            raise DataError(f'{warnings[0]}; correct them, or train with unknown_category = "ignore"')
        return codes, [f"{line}: treated as missing" for line in warnings]

    def to_dict(self) -> dict[str, object]:
        """State as plain JSON types."""
        state: dict[str, object] = msgspec.to_builtins(self)
        return state

    @staticmethod
    def from_dict(state: Mapping[str, object]) -> Binning:
        """Inverse of ``to_dict``, checked field by field.

        Raises
        ------
        DataError
            The state is not one that ``to_dict`` wrote.
        """
        try:
            loaded = msgspec.convert(state, Binning)
        except msgspec.ValidationError as error:
            raise DataError(f"model shard: the state of the bins is damaged ({error}); train again") from None
        names = {feature.name for feature in loaded.features}
        sound = len(names) == len(loaded.features) and loaded.unknown_category in ("refuse", "ignore")
        if not sound or not all(map(_is_sound, loaded.features)):
            raise DataError("model shard: the state of the bins is damaged (bins that no training cuts); train again")
        return loaded


def fit_binning(
    frame: pd.DataFrame,
    kinds: Mapping[str, Kind],
    *,
    max_bin: int,
    max_cat_to_onehot: int | None = None,
    unknown_category: str = "refuse",
) -> Binning:
    """Learn bins from TRAINING rows.

    Columns that are constant without a missing cell, or entirely missing, judged on these rows, are left out with a
    warning.

    Parameters
    ----------
    frame : DataFrame of n training rows
        Numeric columns float64 with NaN for missing, categorical ones object with None for missing.
    kinds : mapping of column name to {"numeric", "categorical"}
    max_bin : int, 2 to 65,535
        Most bins of a numeric column, that of missing cells not counted.
    max_cat_to_onehot : int, optional
        Categorical columns with more categories than this are split "sorted", others "one-hot"; none: all "one-hot".
    unknown_category : {"refuse", "ignore"}
        Kept for the scoring of new data.

    Raises
    ------
    DataError
        A column has over 65,535 categories.
    """
    features, warnings = [], []
    for name, kind in kinds.items():
        if kind == "numeric":
            values = frame[name].to_numpy(dtype=np.float64)
            present = np.sort(values[~np.isnan(values)])
            has_missing, has_values = len(present) < len(values), len(present) > 0
            feature = Feature(name, "ordered", _thresholds(present, max_bin), has_missing=has_missing)
        else:
            categories = tuple(sorted(frame[name].dropna().unique()))
            check_number(name, len(categories))
            has_missing, has_values = bool(frame[name].isna().any()), len(categories) > 0
            split = categorical_split(len(categories), max_cat_to_onehot)
            feature = Feature(name, split, categories=categories, has_missing=has_missing)
        if has_values and (feature.bins > 1 or has_missing):
            features.append(feature)
        else:
            warnings.append(left_out(name, has_values))
    return Binning(tuple(features), unknown_category, tuple(warnings))


def _thresholds(ordered: Floats, max_bin: int) -> tuple[float, ...]:
    """Cuts between the values of a column, which come sorted and without NaN."""
    distinct, counts = np.unique(ordered, return_counts=True)
    below = cut_after(counts, max_bin)
    return tuple(between(distinct[below], distinct[below + 1]).tolist())


def cut_after(counts: NDArray[np.int64], max_bin: int) -> NDArray[np.int64]:
    """After which of different values, ascending and held by so many rows, cuts stand: all, or those at quantiles.

    >>> cut_after(np.array([1, 1, 1]), 4).tolist(), cut_after(np.array([1, 5, 1, 1]), 2).tolist()
    ([0, 1], [1])
    """
    n = int(counts.sum())
    if len(counts) <= max_bin:
        return np.arange(len(counts) - 1)
    ranks = (np.arange(1, max_bin) * n + max_bin - 1) // max_bin
    below = np.unique(np.searchsorted(np.cumsum(counts), ranks))
    below = below[below < len(counts) - 1]
    if not len(below):  # nearly all rows hold the greatest value: part them from the rest
        below = np.array([len(counts) - 2])
    return np.asarray(below, dtype=np.int64)


def between(a: Floats, b: Floats) -> Floats:
    """Thresholds a <= t < b: the midpoints, or a where rounding would reach b; nothing overflows."""
    middle = a / 2 + b / 2
    return np.where((a <= middle) & (middle < b), middle, a)


def check_number(name: str, categories: int) -> None:
    """Refuse more categories than codes have numbers."""
    if categories > MAX_BINS:
        raise DataError(
            f'column "{name}" has {categories:,} categories, expected at most {MAX_BINS:,}; merge rare ones, '
            "or leave the column out with drop"
        )


def categorical_split(categories: int, max_cat_to_onehot: int | None) -> Split:
    """How a column of so many categories is split."""
    if categories == 2:
        return "ordered"
    return "sorted" if max_cat_to_onehot is not None and categories > max_cat_to_onehot else "one-hot"


def _numeric_codes(column: pd.Series[float], feature: Feature) -> Codes:
    values = column.to_numpy(dtype=np.float64)
    codes = np.searchsorted(np.array(feature.thresholds, dtype=np.float64), values, side="left").astype(np.uint16)
    codes[np.isnan(values)] = feature.bins
    return codes


def _categorical_codes(column: pd.Series[str], feature: Feature) -> tuple[Codes, int]:
    """Bins of a column of categories, and the number of cells whose category no training row has."""
    own, found = pd.factorize(column.to_numpy(dtype=object))  # -1 for missing cells: the last entry of the table
    bins = {category: code for code, category in enumerate(feature.categories)}
    table = np.array([*(bins.get(category, feature.bins) for category in found), feature.bins], dtype=np.uint16)
    codes = table[own]
    return codes, int(((codes == feature.bins) & (own >= 0)).sum())


def _is_sound(feature: Feature) -> bool:
    """Whether the bins of a feature are as ``fit_binning`` makes them."""
    t, c = feature.thresholds, feature.categories
    increasing = all(a < b for a, b in pairwise(t)) and all(a < b for a, b in pairwise(c)) and all(map(isfinite, t))
    ordered = feature.numeric or len(c) == 2
    telling = feature.bins > 1 or feature.has_missing
    fitting = not (t and c) and (feature.split == "ordered") == ordered and feature.bins <= MAX_BINS
    return increasing and fitting and telling
