"""Sums over the silos of a party as exact as if all their rows lay in one place, whatever their numbers are.

A float is a whole multiple of 2^-1074: sums of such multiples have no rounding at all, and are rounded once at their
end, as `math.fsum` does. However rows are spread over silos, the same sum comes out to the last bit.

>>> to_float(exact_total(np.array([1e100, 1.0, -1e100, 5e-324])))
1.0
>>> from_pieces(to_pieces(-(3 << 1000))) == -(3 << 1000)
True
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vfl.siblings import Siblings

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_UNIT = 1074
_PIECE = 200  # bits: a sum of pieces over any number of silos stays below 2^255
_PIECES = 12
_DIGIT = 6


def exact_total(values: Floats) -> int:
    """The sum of finite numbers in units of 2^-1074."""
    mantissas, exponents = np.frexp(values)
    whole = np.ldexp(mantissas, 53).astype(np.int64)
    least = int(exponents.min(initial=0))
    # Two halves of at most 27 bits: sums of 2^26 of them are exact in a float.
    high, low = (np.bincount(exponents - least, half) for half in (whole >> 26, whole & ((1 << 26) - 1)))
    total = 0
    for at in np.flatnonzero((high != 0) | (low != 0)).tolist():
        part, shift = (int(high[at]) << 26) + int(low[at]), at + least - 53 + _UNIT
        total += part << shift if shift >= 0 else part >> -shift  # subnormal numbers: no bits are lost
    return total


def to_float(total: int) -> float:
    """The number nearest to a sum in units of 2^-1074."""
    return total / (1 << _UNIT)


def to_pieces(total: int) -> list[int]:
    """A sum in pieces that silos can add up; the last one has the sign."""
    mask = (1 << _PIECE) - 1
    return [*((total >> _PIECE * i) & mask for i in range(_PIECES - 1)), total >> _PIECE * (_PIECES - 1)]


def from_pieces(pieces: Sequence[int]) -> int:
    """Inverse of `to_pieces`, of sums of pieces too."""
    return sum(piece << _PIECE * i for i, piece in enumerate(pieces))


def totals_over(siblings: Siblings, label: str, totals: Sequence[int]) -> list[int]:
    """Sums over all silos of sums in units of 2^-1074; ``label`` as for `Siblings.integers`."""
    pieces = siblings.integers(label, [piece for total in totals for piece in to_pieces(total)])
    return [from_pieces(pieces[at : at + _PIECES]) for at in range(0, len(pieces), _PIECES)]


def adder(siblings: Siblings, label: str) -> Callable[[Integers], Integers]:
    """Sums over all silos of arrays of one shape; all silos make the same calls in the same order."""
    numbers = itertools.count()
    return lambda values: siblings.words(f"{label}|{next(numbers)}", values)


def largest_over(siblings: Siblings, label: str, values: Sequence[int], bits: int) -> list[int]:
    """The largest over all silos of whole numbers from 0 to 2^bits - 1, digit by digit from the top.

    Of a digit silos add random words to a sum for each number up to it, and nothing for larger ones: which sums are
    zero tells the largest, and no more than that to who holds it.
    """
    found = np.zeros(len(values), dtype=np.int64)
    own, digits = np.array(values, dtype=np.int64), np.arange(1, 1 << _DIGIT)
    for shift in reversed(range(0, bits, _DIGIT)):
        digit = np.where(own >> shift + _DIGIT == found, own >> shift & ((1 << _DIGIT) - 1), 0)
        words = np.frombuffer(os.urandom(8 * len(values) * len(digits)), dtype=np.int64) | 1
        held = np.where(digit[:, None] >= digits, words.reshape(-1, len(digits)), 0)
        found = found << _DIGIT | (siblings.words(f"{label}|{shift}", held) != 0).sum(axis=1)
    return [int(value) for value in found]
