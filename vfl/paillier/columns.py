"""How the exponents of a matrix are cut before any ciphertext is touched: plain numpy, nothing secret made or sent.

A column is first made cheap: x = offset + divisor * y, offset its commonest value where that leaves many more zeros.
A one-hot column is then 0 and 1 whatever its scale and mean, and a pure product. What remains is cut into signed
digits, for one of two ways to raise to them:

- *buckets* (Pippenger): per column, slot and window one bucket per digit value, joined by running products;
- *tables* (Straus): per ciphertext its powers up to 2^(width - 1) and their inverses, shared by all columns and slots.

Buckets win with one row per ciphertext; tables where the columns and slots that share a ciphertext are many.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.paillier.kernels import Costs

Integers = NDArray[np.int64]

_WIDEST_BUCKETS, _WIDEST_TABLE = 12, 8
_LEAST_ZEROS_GAINED = 64  # an offset costs two short powers, some 40 products
_LARGEST_TO_SHIFT = 1 << 61


@dataclass(frozen=True)
class Reduced:
    """X[:, j] = offsets[j] + divisors[j] * small[:, j]."""

    small: Integers
    divisors: Integers
    offsets: Integers


@dataclass(frozen=True)
class Windows:
    """``count`` signed digits of ``width`` bits; ``tabled`` says which of the two ways raises to them."""

    width: int
    count: int
    tabled: bool


Choice = tuple[float, Windows]  # cost in products, and the cut


def reduce_columns(X: Integers) -> Reduced:
    """Take the most frequent value off, where it pays, and divide by the greatest common divisor.

    Examples
    --------
    >>> X = np.array([[7], [-5], [-5]]).repeat(100, axis=0)
    >>> reduced = reduce_columns(X)
    >>> np.unique(reduced.small).tolist(), reduced.divisors.tolist(), reduced.offsets.tolist()
    ([0, 1], [12], [-5])
    """
    offsets = np.array([_offset(X[:, j]) for j in range(X.shape[1])], dtype=np.int64)
    shifted = X - offsets
    divisors = np.maximum(np.gcd.reduce(shifted, axis=0), 1)
    return Reduced(shifted // divisors, divisors, offsets)


def _offset(column: Integers) -> int:
    """Return the most frequent value, if taking it off makes enough more zeros, else 0."""
    values, counts = np.unique(column, return_counts=True)
    if len(values) == 0 or max(abs(int(values[0])), abs(int(values[-1]))) > _LARGEST_TO_SHIFT:
        return 0
    commonest = int(counts.argmax())
    zeros = int(counts[values == 0].sum())
    return int(values[commonest]) if counts[commonest] - zeros >= _LEAST_ZEROS_GAINED else 0


def choose_windows(
    nonzero: Integers, largest: Integers, ciphertexts: int, k: int, costs: Costs
) -> tuple[float, list[Windows]]:
    """Return the cost in products of all columns together, and every column's windows.

    Parameters
    ----------
    nonzero, largest : ndarray of shape (d,), int64
        Rows that are not zero, and the largest magnitude, per column.
    ciphertexts, k : int
        How many ciphertexts there are, with k rows each.
    costs : Costs
        Those of the kernel that will do the work.
    """
    columns = list(zip(nonzero.tolist(), largest.tolist(), strict=True))
    distinct = Counter(columns)
    digits = int(nonzero.sum())
    factor, preparing = _factor(digits, 2 * ciphertexts, costs)
    bucketed = {column: _buckets(*column, k, factor) for column in distinct}
    best, shared = bucketed, preparing
    for width in range(2, _WIDEST_TABLE + 1):
        entries = ciphertexts * ((1 << width) - 2)
        uses = digits * _tabled(1, int(largest.max(initial=0)), width, 1.0)[1].count
        factor, preparing = _factor(uses, entries, costs)
        tabled = {column: min(_tabled(*column, width, factor), bucketed[column], key=_cost) for column in distinct}
        if entries + preparing + _total(tabled, distinct) < shared + _total(best, distinct):
            best, shared = tabled, entries + preparing
    return shared + _total(best, distinct), [best[column][1] for column in columns]


def _factor(uses: int, values: int, costs: Costs) -> tuple[float, float]:
    """Return what one use of a value costs, and preparing all values, where many uses pay for it."""
    many = values > 0 and uses >= costs.many_uses * values
    return (costs.reused, costs.prepared * values) if many else (1.0, 0.0)


def _cost(choice: Choice) -> float:
    return choice[0]


def _total(choices: dict[tuple[int, int], Choice], columns: Counter[tuple[int, int]]) -> float:
    return sum(choices[column][0] * copies for column, copies in columns.items())


def _buckets(nonzero: int, largest: int, k: int, factor: float) -> Choice:
    """Return the cheapest cut of one column for buckets, with its cost at ``factor`` per digit."""
    bits = largest.bit_length()
    if bits <= 1:
        return factor * nonzero, Windows(1, 1, tabled=False)
    choices = []
    for width in range(1, _WIDEST_BUCKETS + 1):
        count = -(-bits // width)
        buckets = ((count - 1) << (width - 1)) + (1 << (bits - (count - 1) * width))
        choices.append((factor * nonzero * count + 2.0 * k * buckets, Windows(width, count, tabled=False)))
    return min(choices, key=_cost)


def _tabled(nonzero: int, largest: int, width: int, factor: float) -> Choice:
    """Return the cut of one column for tables of this width, with its cost apart from the tables."""
    count = 1
    while largest > 1 << (width * count - 1):  # up to there the top digit stays within the table
        count += 1
    return factor * nonzero * count, Windows(width, count, tabled=True)


def signed_digits(X: Integers, windows: Windows) -> list[Integers]:
    """Return X = sum_w D_w 2^(width w), lowest first; all but the top in [-2^(width-1), 2^(width-1)).

    Examples
    --------
    >>> [d.tolist() for d in signed_digits(np.array([7, -9]), Windows(3, 2, False))]
    [[-1, -1], [1, -1]]
    """
    digits, rest, base = [], X, 1 << windows.width
    for _ in range(windows.count - 1):
        low = rest & (base - 1)
        low = np.where(low >= base // 2, low - base, low)
        digits.append(low)
        rest = (rest - low) >> windows.width
    return [*digits, rest]
