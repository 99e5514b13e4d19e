"""Columns as integers, and products of integers without any rounding: what makes runs bit-identical.

1. ``quantise``: every encoded column once to integers with a power-of-two scale of its own, which its owner keeps.
   The same integers serve the forward pass, the Gram matrix, the gradient and the prediction.
2. ``exact_matmul``: products of such integers, exact in 64 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parties.errors import DataError, LocalProtocolError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_INTEGER_LIMIT = 1 << 31
_RESULT_LIMIT = 1 << 62
_BLAS_WORTHWHILE = 4  # rows and columns of a product


@dataclass(frozen=True, eq=False)
class QuantisedBlock:
    """Columns as integers: column j of X is ``integers[:, j] * 2.0**-scale_bits[j]``.

    Attributes
    ----------
    integers : ndarray of shape (n, d), int64
        Below 2^31 in magnitude.
    scale_bits : ndarray of shape (d,), int64
        10 to 15; follows from the column's largest training value, hence private to its owner.
    warnings : tuple of str
    """

    integers: Integers
    scale_bits: Integers
    warnings: tuple[str, ...] = ()


def quantise(X: Floats, n_train: int, names: Sequence[str] | None = None) -> QuantisedBlock:
    """Round every column once to integers with its own power-of-two scale.

    ``e_j = clip(15 - ceil(log2 max |x_j|), 10, 15)`` over the training rows; halves go to even.

    Parameters
    ----------
    X : ndarray of shape (n, d), float64
        Standardised columns, training rows first.
    n_train : int
    names : sequence of d str, optional
        Column names for the warning about clipped test rows (``Preprocessor.sources``).

    Examples
    --------
    >>> block = quantise(np.array([[0.5], [-3.0], [70000.0]]), n_train=2)
    >>> block.scale_bits, block.integers.ravel()
    (array([13]), array([     4096,    -24576, 573440000]))
    """
    largest = np.abs(X[:n_train]).max(axis=0, initial=0.0)
    magnitude = np.ceil(np.log2(np.where(largest > 0, largest, 1.0)))
    scale_bits = np.where(largest > 0, np.clip(15 - magnitude, 10, 15), 15).astype(np.int64)
    clipped, outside = requantise(X, scale_bits)
    if outside[:n_train].any() or np.isnan(X).any():
        raise DataError("training values beyond 2^21 cannot be quantised; expected standardised columns without NaN")
    labels = names if names is not None else [str(j) for j in range(X.shape[1])]
    warnings = tuple(
        f'column "{labels[j]}": {int(outside[:, j].sum()):,} test rows lie over 65,000 standard deviations outside the '
        "training rows: clipped"
        for j in np.flatnonzero(outside.any(axis=0)).tolist()
    )
    return QuantisedBlock(clipped, scale_bits, warnings)


def requantise(X: Floats, scale_bits: Integers) -> tuple[Integers, NDArray[np.bool_]]:
    """Round columns to integers with scales that are known: those of the training.

    Returns
    -------
    integers : ndarray of shape (n, d), int64
        Clipped below 2^31 in magnitude.
    outside : ndarray of shape (n, d), bool
        Where that changed a value.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.rint(np.ldexp(X, scale_bits))
        outside = ~(np.abs(scaled) < _INTEGER_LIMIT)
        return np.clip(scaled, 1 - _INTEGER_LIMIT, _INTEGER_LIMIT - 1).astype(np.int64), outside


def exact_matmul(A: Integers, B: Integers) -> Integers:
    """Exact product of integer matrices, by float64 BLAS on limbs whose partial sums stay within 2^53.

    numpy multiplies integers without BLAS: fine for a vector, 4 to 9 times slower for a Gram matrix of 12 to 100
    columns. Within 2^53 every partial sum is exact in whatever order BLAS adds, so the result depends neither on
    threads nor on the machine.

    Parameters
    ----------
    A : ndarray of shape (n, k), int64
    B : ndarray of shape (k,) or (k, m), int64

    Returns
    -------
    ndarray of shape (n,) or (n, m), int64

    Raises
    ------
    LocalProtocolError
        An entry could reach 2^62, judged by ``|A| |B|``, or one of A or B does.

    Examples
    --------
    >>> exact_matmul(np.array([[3, -(2**40)]]), np.array([5, 2**20]))
    array([-1152921504606846961])
    """
    right = B[:, None] if B.ndim == 1 else B
    bits_A, bits_B = _bits(A), _bits(right)
    if bits_A + bits_B + A.shape[1].bit_length() > 62:
        _check_range(A, right)
    if min(A.shape[0], right.shape[1]) < _BLAS_WORTHWHILE:
        return np.asarray(A @ B)
    block = min(max(A.shape[1], 1), 4096)
    budget = 53 - (block - 1).bit_length()
    width_A = max(min(bits_A, budget - min(bits_B, budget // 2)), 1)
    width_B = budget - width_A
    limbs_B = _limbs(right, bits_B, width_B)
    total = np.zeros((A.shape[0], right.shape[1]), dtype=np.int64)
    for shift_A, limb_A in _limbs(A, bits_A, width_A):
        for shift_B, limb_B in limbs_B:
            part = np.zeros_like(total)
            for start in range(0, A.shape[1], block):
                piece = limb_A[:, start : start + block] @ limb_B[start : start + block]
                part += piece.astype(np.int64)
            total += part << (shift_A + shift_B)  # wraps modulo 2^64; the checked result does not
    return total


def _bits(values: Integers) -> int:
    """Bits of the largest magnitude."""
    if not values.size:
        return 0
    return max(int(values.max()), -int(values.min())).bit_length()


def _check_range(A: Integers, B: Integers) -> None:
    """Refuse products that could leave int64; 2^-20 covers the rounding of the bound itself."""
    bound = np.abs(A.astype(np.float64)) @ np.abs(B.astype(np.float64))
    if max(_bits(A), _bits(B)) > 62 or bound.max(initial=0.0) >= _RESULT_LIMIT * (1 - 2.0**-20):
        raise LocalProtocolError(
            "an integer product reaches 2^62; expected smaller weights or residuals: the training diverges; "
            "raise training.l2"
        )


def _limbs(values: Integers, bits: int, width: int) -> list[tuple[int, Floats]]:
    """Split into (shift, limb) with |limb| <= 2^width, signed balanced digits, least significant first."""
    limbs = []
    shift = 0
    rest = values
    while bits > width:
        low = ((rest + (1 << (width - 1))) & ((1 << width) - 1)) - (1 << (width - 1))
        limbs.append((shift, low.astype(np.float64)))
        rest = (rest - low) >> width
        shift += width
        bits = _bits(rest)
    limbs.append((shift, rest.astype(np.float64)))
    return limbs
