"""From a party's columns to standardised numbers: median imputation, one-hot, standardising. All local.

Everything is learnt on the training rows only; nothing is sent.

**Bounds that the fixed-point code of GLMs relies on.** Every encoded column, indicator columns of categories included,
has mean 0 and root mean square 1 over the n training rows. Hence ``sum_i |x_ij| <= n`` (Cauchy-Schwarz) and
``|x_ij| <= sqrt(n)`` there; test rows may lie outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from parties.columns import Kind
from parties.errors import DataError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_CONSTANT = 1e-12  # a standard deviation below this share of the largest magnitude is rounding noise
_LARGEST = 1e300  # standardised test values are clipped here, so that they stay finite


@dataclass(frozen=True)
class NumericColumn:
    """A column of numbers: divided by ``unit`` (1, or a power of two for extreme columns), median for missing."""

    name: str
    unit: float
    median: float


@dataclass(frozen=True)
class CategoricalColumn:
    """A column of text: one 0/1 column per category of the training rows; None is the category of missing cells."""

    name: str
    categories: tuple[str | None, ...]


@dataclass(frozen=True)
class Preprocessor:
    """What was learnt from a party's training rows; a party's own secret, stored in its model shard.

    Attributes
    ----------
    numeric, categorical : tuples of columns in use, in file order
        Encoded columns stand in this order: all numeric ones, then each category.
    means, scales : tuples of float, one per encoded column
    unknown_category : {"refuse", "ignore"}
        What to do with categories never seen in training when NEW data are scored.
    warnings : tuple of str
        Columns left out; names and counts only.
    """

    numeric: tuple[NumericColumn, ...]
    categorical: tuple[CategoricalColumn, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    unknown_category: str = "refuse"
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def sources(self) -> list[str]:
        """For each encoded column, the name of the column it comes from: safe in messages, unlike ``names``."""
        own = [column.name for column in self.numeric]
        return own + [column.name for column in self.categorical for _ in column.categories]

    @property
    def names(self) -> list[str]:
        """Names of the encoded columns; those of categories hold values of the data, so they stay with the owner."""
        return [column.name for column in self.numeric] + [
            f"{column.name} is missing" if category is None else f"{column.name}={category}"
            for column in self.categorical
            for category in column.categories
        ]

    @property
    def features(self) -> list[str]:
        """Columns in use, before encoding."""
        return list(dict.fromkeys(self.sources))

    def transform(self, frame: pd.DataFrame, *, new_data: bool = False) -> tuple[Floats, list[str]]:
        """Encode rows: impute, one-hot, standardise.

        Parameters
        ----------
        frame : DataFrame of n rows
            ``PartyTable.features``; columns not in use are ignored.
        new_data : bool
            Rows of another file than the one trained on: ``unknown_category = "refuse"`` then refuses categories
            that the training rows lack. Within one run they are all zeros, with a warning.

        Returns
        -------
        X : ndarray of shape (n, d), float64
        warnings : list of str

        Raises
        ------
        DataError
            A column is missing, or unknown categories are refused.
        """
        expected = {column.name: True for column in self.numeric}
        check_columns(frame, expected | {column.name: False for column in self.categorical})
        raw, warnings = _encode(frame, self.numeric, self.categorical)
        if warnings and new_data and self.unknown_category == "refuse":
            raise DataError(f'{warnings[0]}; correct them, or train with unknown_category = "ignore"')
        with np.errstate(over="ignore"):
            X = (raw - np.array(self.means)) / np.array(self.scales)
        return np.clip(X, -_LARGEST, _LARGEST), [f"{line}: all zeros there" for line in warnings]

    def to_dict(self) -> dict[str, object]:
        """State as plain JSON types."""
        state: dict[str, object] = msgspec.to_builtins(self)
        return state

    @staticmethod
    def from_dict(state: Mapping[str, object]) -> Preprocessor:
        """Inverse of ``to_dict``, checked field by field.

        Raises
        ------
        DataError
            The state is not one that ``to_dict`` wrote.
        """
        try:
            loaded = msgspec.convert(state, Preprocessor, strict=False)
        except msgspec.ValidationError as error:
            raise DataError(f"model shard: the preprocessor's state is damaged ({error}); train again") from None
        if not len(loaded.means) == len(loaded.scales) == len(loaded.sources):
            raise DataError("model shard: the preprocessor's state is damaged (column counts differ); train again")
        return loaded


def fit_preprocessor(
    frame: pd.DataFrame,
    kinds: Mapping[str, Kind],
    *,
    unknown_category: str = "refuse",
    scale_categories: bool = True,
) -> Preprocessor:
    """Learn medians, categories, means and deviations from TRAINING rows.

    Constant and entirely missing columns, judged on these rows, are left out with a warning.

    Parameters
    ----------
    frame : DataFrame of n training rows
        Numeric columns float64 with NaN for missing, categorical ones object with None for missing.
    kinds : mapping of column name to {"numeric", "categorical"}
    unknown_category : {"refuse", "ignore"}
        Kept for the scoring of new data.
    scale_categories : bool
        Standardise indicator columns too; False: they stay 0 and 1, as an embedding takes them.
    """
    numeric, warnings = _fit_numeric(frame[[name for name, kind in kinds.items() if kind == "numeric"]])
    categorical = []
    for name in (name for name, kind in kinds.items() if kind == "categorical"):
        present = {cell for cell in frame[name] if isinstance(cell, str)}
        has_missing = len(frame) > sum(isinstance(cell, str) for cell in frame[name])
        categories: tuple[str | None, ...] = (*sorted(present), *([None] if has_missing else []))
        if len(categories) > 1:
            categorical.append(CategoricalColumn(name, categories))
        else:
            warnings.append(left_out(name, bool(present)))
    from sklearn.preprocessing import StandardScaler  # scikit-learn takes seconds to import: only when needed

    raw, _ = _encode(frame, numeric, categorical)
    scaler = StandardScaler().fit(raw) if raw.size else None
    scales = np.sqrt(scaler.var_) if scaler else np.zeros(0)
    keep = scales > _CONSTANT * np.abs(raw).max(axis=0, initial=0)
    warnings += [left_out(column.name, True) for column, kept in zip(numeric, keep, strict=False) if not kept]
    means = scaler.mean_ if scaler else scales
    if not scale_categories:
        means[len(numeric) :], scales[len(numeric) :] = 0.0, 1.0
    return Preprocessor(
        numeric=tuple(column for column, kept in zip(numeric, keep, strict=False) if kept),
        categorical=tuple(categorical),
        means=tuple(means[keep].tolist()),
        scales=tuple(scales[keep].tolist()),
        unknown_category=unknown_category,
        warnings=tuple(warnings),
    )


def check_columns(frame: pd.DataFrame, numeric: Mapping[str, bool]) -> None:
    """Refuse data that lack a column of the training, or hold text where it saw numbers, or the other way round.

    Parameters
    ----------
    frame : DataFrame
    numeric : mapping of column name to bool
        Whether the column held numbers in training.

    Raises
    ------
    DataError
    """
    for name in numeric:
        if name not in frame.columns:
            raise DataError(f'column "{name}" was used in training and is not in these data; add it')
    for name, number in numeric.items():
        if (frame[name].dtype == np.float64) != number and not frame[name].isna().all():
            now, then = ("text", "numbers") if number else ("numbers", "categories")
            raise DataError(
                f'column "{name}" holds {now} here and held {then} in training; expected the same; '
                "correct it, or list it under categorical in both"
            )


def left_out(name: str, has_values: bool) -> str:
    """Warning for a column that says nothing about the training rows."""
    state = "the same in all training rows" if has_values else "missing in all training rows"
    return f'column "{name}" is {state}: left out'


def _fit_numeric(frame: pd.DataFrame) -> tuple[list[NumericColumn], list[str]]:
    """Units and medians of numeric columns; entirely missing ones are left out."""
    empty = frame.isna().all(axis=0) if len(frame.columns) else pd.Series(dtype=bool)
    warnings = [left_out(str(name), False) for name in frame.columns[empty.to_numpy(dtype=bool)]]
    used = frame.loc[:, ~empty.to_numpy(dtype=bool)]
    if used.empty:
        return [], warnings
    from sklearn.impute import SimpleImputer  # scikit-learn takes seconds to import: only when needed

    values = used.to_numpy(dtype=np.float64)
    units = [_unit(float(largest)) for largest in np.nanmax(np.abs(values), axis=0)]
    medians = SimpleImputer(strategy="median").fit(values / np.array(units)).statistics_
    columns = zip(used.columns, units, medians, strict=True)
    return [NumericColumn(str(name), unit, float(median)) for name, unit, median in columns], warnings


def _unit(largest: float) -> float:
    """1, or a power of two near the largest magnitude where squares would overflow or vanish."""
    if largest == 0 or 1e-100 < largest < 1e100:
        return 1.0
    return float(np.ldexp(1.0, max(int(np.frexp(largest)[1]) - 1, -1000)))


def _encode(
    frame: pd.DataFrame, numeric: Sequence[NumericColumn], categorical: Sequence[CategoricalColumn]
) -> tuple[Floats, list[str]]:
    """Imputed numbers and 0/1 columns, before standardising; warns of categories that are not known."""
    blocks: list[Floats] = [np.zeros((len(frame), 0))]
    warnings = []
    for column in numeric:
        values = frame[column.name].to_numpy(dtype=np.float64)
        with np.errstate(over="ignore"):
            scaled = np.clip(values / column.unit, -_LARGEST, _LARGEST)
        blocks.append(np.where(np.isnan(values), column.median, scaled)[:, None])
    for group in categorical:
        position = {category: code for code, category in enumerate(group.categories)}
        cells = [cell if isinstance(cell, str) else None for cell in frame[group.name]]
        codes = np.array([position.get(cell, -1) for cell in cells], dtype=np.int64)
        blocks.append((codes[:, None] == np.arange(len(group.categories))).astype(np.float64))
        if unseen := int((codes < 0).sum()):
            warnings.append(
                f'column "{group.name}": {unseen:,} rows hold a category, or a missing cell, that no training row has'
            )
    return np.hstack(blocks), warnings
