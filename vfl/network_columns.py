"""A party's columns as a neural network takes them: numbers standardised and clipped, categories as zeros and ones.

A category's row of first-layer weights is its embedding: a row of the table picks one per column. Numbers beyond 32
standard deviations are clipped, which bounds the fixed-point arithmetic of `vfl.source_layer` and keeps single cells
from ruling a step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from parties.data import PartyTable
from parties.errors import DataError
from parties.spec import PartySpec
from vfl.optim import Vector
from vfl.preprocess import Preprocessor, fit_preprocessor
from vfl.terms import Integers

LARGEST = 32
"""Encoded cells lie in [-LARGEST, LARGEST], in standard deviations."""
FIXED_BITS = 10
"""Fraction bits of a cell as an integer."""


@dataclass(frozen=True, slots=True)
class NetworkColumns:
    """A party's encoded columns of the aligned rows, training rows first; ``X`` of shape (n, d), float64."""

    preprocessor: Preprocessor
    X: Vector = field(repr=False)
    warnings: tuple[str, ...]

    @property
    def features(self) -> int:
        """Columns of the table in use."""
        return len(self.preprocessor.features)


def encode_for_network(spec: PartySpec, table: PartyTable, rows: Integers, n_train: int) -> NetworkColumns:
    """Encode the aligned rows; everything is learnt from the training rows, the first ``n_train``.

    Raises
    ------
    DataError
        If a passive party has no usable column.
    """
    frame = table.features.iloc[rows].reset_index(drop=True)
    preprocessor = fit_preprocessor(
        frame.iloc[:n_train], table.kinds, unknown_category=spec.unknown_category, scale_categories=False
    )
    if spec.role == "passive" and not preprocessor.names:
        raise DataError(
            f"party '{spec.name}' has no usable feature column, expected at least one that is not constant over the "
            f"{n_train} training rows"
        )
    X, unseen = encode_new(preprocessor, frame, new_data=False)
    warnings = tuple(f"{spec.name}: {line}" for line in (*preprocessor.warnings, *unseen))
    return NetworkColumns(preprocessor, X, warnings)


def encode_new(preprocessor: Preprocessor, frame: pd.DataFrame, *, new_data: bool = True) -> tuple[Vector, list[str]]:
    """Encode rows as those that were trained on.

    Returns
    -------
    X : ndarray of shape (n, d), float64
        Within [-LARGEST, LARGEST].
    warnings : list of str
        Unknown categories (see `Preprocessor.transform`) and clipped cells, counted by column.

    Raises
    ------
    DataError
        As `Preprocessor.transform`.
    """
    X, warnings = preprocessor.transform(frame, new_data=new_data)
    outside = (np.abs(X) > LARGEST).sum(axis=0)
    for name, cells in zip(preprocessor.sources, outside.tolist(), strict=True):
        if cells:
            warnings.append(
                f'column "{name}": {cells:,} cells lie over {LARGEST} standard deviations off the mean: clipped'
            )
    return np.ascontiguousarray(np.clip(X, -LARGEST, LARGEST)), warnings


def to_fixed(X: Vector) -> Integers:
    """Encoded cells as integers in units of 2^-FIXED_BITS, at most LARGEST 2^FIXED_BITS in magnitude.

    >>> to_fixed(np.array([[0.5, -32.0]])).tolist()
    [[512, -32768]]
    """
    return np.ascontiguousarray(np.rint(np.ldexp(X, FIXED_BITS)).astype(np.int64))
