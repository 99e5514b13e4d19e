"""Columns that the silos of one party encode alike: means, deviations and categories come from sums over the silos.

As `vfl.preprocess`, but a missing number becomes the column's mean, which sums tell, and not its median. Sums are
exact: the same rows give the same encoding to the last bit however they are spread over silos, over one of them too.

What the silos of a party tell each other: the names and kinds of their columns; how many cells are missing; sums, and
sums of squared deviations, of every column of numbers; the categories of text columns that ``categories`` does not
list, and how many rows have each; how many silos have a cell beyond 1, 2, 4, ... 32 deviations.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from parties.columns import Kind
from parties.data import PartyTable
from parties.errors import DataError
from parties.spec import PartySpec
from vfl.exact import QuantisedBlock, requantise
from vfl.preprocess import CategoricalColumn, Floats, NumericColumn, Preprocessor, left_out
from vfl.siblings import Siblings

Integers = NDArray[np.int64]

_EMPTY = "empty"
_BITS = 100  # cells count as multiples of 2^-100
_LARGEST = 2.0**60
_CONSTANT = 1e-12  # a deviation below this share of the root mean square is rounding noise
_MAGNITUDES = range(6)


@dataclass(frozen=True, slots=True)
class SiloColumns:
    """A silo's encoded columns of its own rows, training rows first; ``X`` of shape (n, d), float64."""

    preprocessor: Preprocessor
    X: Floats = field(repr=False)
    warnings: tuple[str, ...]

    @property
    def features(self) -> int:
        """Columns of the table in use."""
        return len(self.preprocessor.features)


def encode_silo_columns(
    spec: PartySpec,
    table: PartyTable,
    rows: Integers,
    n_train: int,
    siblings: Siblings,
    *,
    scale_categories: bool = True,
) -> SiloColumns:
    """Encode a silo's rows as all silos of its party do; everything is learnt from all their training rows.

    Parameters
    ----------
    rows : ndarray of shape (n,), int64
        Rows of the silo's table, its training rows first.
    n_train : int
        How many those are; there may be none.
    scale_categories : bool
        Standardise the 0/1 columns of categories too; False: they stay 0 and 1.

    Raises
    ------
    DataError
        The silos' columns differ, a number is too large to be added up, or no column is left.
    """
    kinds = shared_kinds(spec, table, siblings)
    frame = of_kinds(table.features.iloc[rows].reset_index(drop=True), kinds)
    preprocessor = _fit(spec, frame.iloc[:n_train], kinds, siblings, scale_categories=scale_categories)
    if spec.role == "passive" and not preprocessor.names:
        raise DataError(
            f"party '{spec.holder}' has no usable feature column, expected at least one that is not constant over the "
            "training rows of all its silos"
        )
    X, unseen = preprocessor.transform(frame)
    warnings = tuple(f"{spec.name}: {line}" for line in (*preprocessor.warnings, *unseen))
    return SiloColumns(preprocessor, X, warnings)


def shared_kinds(spec: PartySpec, table: PartyTable, siblings: Siblings) -> dict[str, Kind]:
    """The columns of all silos of a party, in the order of their files, and whether they hold numbers.

    A column without any cell has the kind that it has elsewhere; without any cell anywhere it is left out.

    Raises
    ------
    DataError
        A silo lacks a column of another one, or has it as text where the other has numbers.
    """
    own = {name: _EMPTY if table.features[name].isna().all() else kind for name, kind in table.kinds.items()}
    silos = siblings.names
    told = siblings.texts([json.dumps([at, name, kind, spec.name]) for at, (name, kind) in enumerate(own.items())])
    places: dict[str, int] = {}
    found: dict[str, dict[str, str]] = {}
    for at, name, kind, silo in map(json.loads, told):
        places[name] = min(at, places.get(name, at))
        found.setdefault(name, {})[silo] = kind
    kinds: dict[str, Kind] = {}
    for name in sorted(found, key=lambda name: (places[name], name)):
        if lacking := [silo for silo in silos if silo not in found[name]]:
            has = next(silo for silo in silos if silo in found[name])
            raise DataError(
                f"party '{spec.holder}', column \"{name}\": got one in silo '{has}' and none in '{lacking[0]}', "
                "expected the same columns in all silos; add it (its cells may be empty), or list it under drop"
            )
        said = sorted({kind for kind in found[name].values() if kind != _EMPTY})
        if len(said) > 1:
            raise DataError(
                f"party '{spec.holder}', column \"{name}\": got numbers in one silo and text in another, expected the "
                "same kind in all silos; list it under categorical, or correct its cells"
            )
        if said:
            kinds[name] = "numeric" if said[0] == "numeric" else "categorical"
    return kinds


def quantise_silo(X: Floats, n_train: int, names: Sequence[str], siblings: Siblings) -> QuantisedBlock:
    """Round a silo's columns to integers with scales that fit all silos' training rows; see `vfl.exact.quantise`."""
    magnitude = np.abs(X[:n_train])
    beyond = np.stack([(magnitude > 2.0**bit).any(axis=0) for bit in _MAGNITUDES])
    bits = (siblings.words("magnitudes", beyond.astype(np.int64)) > 0).sum(axis=0)
    scale_bits = np.asarray(15 - np.minimum(bits, 5), dtype=np.int64)
    integers, outside = requantise(X, scale_bits)
    if outside[:n_train].any() or np.isnan(X).any():
        raise DataError("training values beyond 2^21 cannot be quantised; expected standardised columns without NaN")
    warnings = tuple(
        f'column "{names[j]}": {int(outside[:, j].sum()):,} test rows lie over 65,000 standard deviations outside the '
        "training rows: clipped"
        for j in np.flatnonzero(outside.any(axis=0)).tolist()
    )
    return QuantisedBlock(integers, scale_bits, warnings)


def of_kinds(frame: pd.DataFrame, kinds: Mapping[str, Kind]) -> pd.DataFrame:
    """The columns in the shared order; one without any cell becomes one of its kind."""
    columns: dict[str, object] = {}
    for name, kind in kinds.items():
        if kind == "numeric":
            columns[name] = frame[name].astype(np.float64)
        elif frame[name].dtype == np.float64:
            columns[name] = pd.Series([None] * len(frame), dtype=object)
        else:
            columns[name] = frame[name]
    return pd.DataFrame(columns, index=frame.index)


def _fit(
    spec: PartySpec, frame: pd.DataFrame, kinds: Mapping[str, Kind], siblings: Siblings, *, scale_categories: bool
) -> Preprocessor:
    numeric = [name for name, kind in kinds.items() if kind == "numeric"]
    texts = [name for name, kind in kinds.items() if kind == "categorical"]
    (rows,) = siblings.integers("rows", [len(frame)])
    means, deviations, warnings = _moments(spec, frame[numeric], rows, siblings)
    groups, of_groups = _categories(spec, frame[texts], rows, siblings)
    warnings += [left_out(group.name, True) for group in groups if len(group.categories) < 2]
    shares = [p for group, own in zip(groups, of_groups, strict=True) if len(group.categories) > 1 for p in own]
    spread = [math.sqrt(share * (1 - share)) for share in shares]
    used = [name for name in numeric if deviations[name] > 0]
    return Preprocessor(
        numeric=tuple(NumericColumn(name, 1.0, means[name]) for name in used),
        categorical=tuple(group for group in groups if len(group.categories) > 1),
        means=(*(means[name] for name in used), *(shares if scale_categories else [0.0] * len(shares))),
        scales=(*(deviations[name] for name in used), *(spread if scale_categories else [1.0] * len(shares))),
        unknown_category=spec.unknown_category,
        warnings=tuple(warnings),
    )


def _moments(
    spec: PartySpec, frame: pd.DataFrame, rows: int, siblings: Siblings
) -> tuple[dict[str, float], dict[str, float], list[str]]:
    """Mean and deviation of every column, with missing cells at the mean; 0 where the column says nothing."""
    values = {name: _present(spec, frame, name) for name in frame.columns}
    counts = siblings.integers("present", [len(cells) for cells in values.values()])
    sums = siblings.integers("sums", [_exact_sum(cells) for cells in values.values()])
    means = [_ratio(total, count) for total, count in zip(sums, counts, strict=True)]
    squares = [_exact_sum(np.square(cells - mean)) for cells, mean in zip(values.values(), means, strict=True)]
    spreads = [_ratio(total, rows) for total in siblings.integers("squares", squares)]
    deviations, warnings = {}, []
    for name, count, mean, spread in zip(values, counts, means, spreads, strict=True):
        constant = spread <= (_CONSTANT * _CONSTANT) * (spread + mean * mean)
        deviations[name] = 0.0 if constant else math.sqrt(spread)
        warnings += [left_out(name, count > 0)] if constant else []
    return dict(zip(values, means, strict=True)), deviations, warnings


def _present(spec: PartySpec, frame: pd.DataFrame, name: str) -> Floats:
    cells: Floats = frame[name].to_numpy(dtype=np.float64)
    cells = np.asarray(cells[~np.isnan(cells)])
    if len(cells) and float(np.abs(cells).max()) > _LARGEST:
        raise DataError(
            f"party '{spec.name}', column \"{name}\": got numbers beyond {_LARGEST:.2g}, which the sums over silos "
            "cannot hold, expected smaller ones; rescale the column in all silos, or list it under drop"
        )
    return cells


def _exact_sum(values: Floats) -> int:
    """Sum in units of 2^-100, every value rounded to such a unit first: the same in whatever order, however split.

    >>> _exact_sum(np.array([0.5, 1e15, -1e15])) == 2**99
    True
    """
    mantissas, exponents = np.frexp(np.where(np.abs(values) < 2.0**-40, _rounded(values), values))
    whole = np.ldexp(mantissas, 53).astype(np.int64)
    total = 0
    for exponent in np.unique(exponents):
        chosen = whole[exponents == exponent]
        high, low = int((chosen >> 26).sum()), int((chosen & ((1 << 26) - 1)).sum())
        shift = int(exponent) - 53 + _BITS
        part = (high << 26) + low
        total += part << shift if shift >= 0 else part >> -shift  # no bits are lost: the values are such multiples
    return total


def _rounded(values: Floats) -> Floats:
    """Small values as multiples of 2^-100."""
    small = np.where(np.abs(values) < 2.0**-40, values, 0.0)
    return np.asarray(np.ldexp(np.rint(np.ldexp(small, _BITS)), -_BITS))


def _ratio(total: int, count: int) -> float:
    return float(Fraction(total, count << _BITS)) if count else 0.0


def _categories(
    spec: PartySpec, frame: pd.DataFrame, rows: int, siblings: Siblings
) -> tuple[list[CategoricalColumn], list[list[float]]]:
    """Categories that any silo's rows have, with the share of the rows that have each; missing cells are one."""
    cells = {name: [cell if isinstance(cell, str) else None for cell in frame[name]] for name in frame.columns}
    known = {name: declared_categories(spec, name, cells[name]) for name in cells}
    own = [
        json.dumps([name, text])
        for name, column in cells.items()
        for text in (known[name] or sorted({cell for cell in column if cell is not None}))
    ]
    told: dict[str, list[str | None]] = {name: [] for name in cells}
    for name, text in map(json.loads, siblings.texts(own) if own or siblings.others else []):
        told.setdefault(name, []).append(text)
    for name in cells:
        told[name] = [*sorted(text for text in told[name] if text is not None), None]
    counts = siblings.integers("categories", [cells[name].count(text) for name in cells for text in told[name]])
    at, groups, shares = 0, [], []
    for name in cells:
        here = counts[at : at + len(told[name])]
        at += len(here)
        kept = [(text, count) for text, count in zip(told[name], here, strict=True) if count]
        groups.append(CategoricalColumn(name, tuple(text for text, _ in kept)))
        shares.append([count / rows for _, count in kept])
    return groups, shares


def declared_categories(spec: PartySpec, name: str, cells: Sequence[str | None]) -> list[str]:
    """The categories that the party's lines list; a cell that they lack is refused."""
    listed = [text.strip() for text in spec.categories.get(name, ())]
    strangers = sum(cell is not None and cell not in listed for cell in cells) if listed else 0
    if strangers:
        raise DataError(
            f"party '{spec.name}', column \"{name}\": {strangers:,} training rows hold a category that categories does "
            "not list, expected one of those; list it there, or correct the cells"
        )
    return listed
