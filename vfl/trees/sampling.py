"""Which rows and columns a tree is grown on, and its gradients as integers.

Rows (``subsample``) and columns (``colsample_bytree``) are drawn from the job's public seed: every party draws the same
without a message, and learns nothing from them. GOSS (G. Ke et al., *LightGBM*, NIPS 2017, algorithm 2) keeps the rows
of largest gradients and draws some of the others; which ones tells something about labels, and so does what it is
drawn with: its seed comes from the labels, which only the active party has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vfl.trees.splits import Floats, Integers, Mask

FRACTION_BITS = 24
"""Bits of the largest |g| and of the largest h of a round; XGBoost's own gradients have as many."""

LEAST_EXPONENT = -499
"""Of the scale of g and h: what is smaller than 2^-500 counts as that."""


@dataclass(frozen=True)
class FixedGradients:
    """g and h of a tree's rows as integers below 2^FRACTION_BITS.

    Parameters
    ----------
    rows : ndarray of shape (m,), int64
        The training rows drawn, ascending.
    values : ndarray of shape (m, 2 outputs), int64
        g and h of the first output, of the second, ...
    g_bits, h_bits : int
        g is ``values[:, 0::2] / 2^g_bits``.
    """

    rows: Integers = field(repr=False)
    values: Integers = field(repr=False)
    g_bits: int
    h_bits: int

    def mask(self, rows: int) -> Mask:
        """For each of the training rows, whether it was drawn."""
        drawn = np.zeros(rows, dtype=bool)
        drawn[self.rows] = True
        return drawn

    def real(self, sums: Integers) -> Floats:
        """Sums (..., 2 outputs) of the integers as numbers (..., outputs, 2)."""
        pairs = sums.reshape(*sums.shape[:-1], sums.shape[-1] // 2, 2).astype(np.float64)
        return np.asarray(np.ldexp(pairs, np.array([-self.g_bits, -self.h_bits])))


def fix_gradients(
    g: Floats, h: Floats, rows: Integers, largest: Callable[[Sequence[int]], Sequence[int]] = list
) -> FixedGradients:
    """Round g and h of shape (m, outputs) to integers, with one power-of-two scale each.

    ``largest`` makes the scales those of several silos: of their exponents, `LEAST_EXPONENT` at least, the largest.
    """
    own = [int(np.frexp(np.abs(x).max(initial=2.0**-500))[1]) for x in (g, h)]
    g_bits, h_bits = (FRACTION_BITS - exponent for exponent in largest(own))
    values = np.empty((len(g), 2 * g.shape[1]), dtype=np.int64)
    values[:, 0::2], values[:, 1::2] = np.rint(np.ldexp(g, g_bits)), np.rint(np.ldexp(h, h_bits))
    bound = (1 << FRACTION_BITS) - 1  # what rounds up to 2^FRACTION_BITS
    return FixedGradients(rows, np.clip(values, -bound, bound), g_bits, h_bits)


def draw_rows(rows: int, share: float, seed: int, round_number: int) -> Integers:
    """Draw the rows of a round: round(share rows) of them, at least one, ascending."""
    if share >= 1:
        return np.arange(rows, dtype=np.int64)
    count = max(1, int(share * rows + 0.5))
    return np.sort(_generator("rows", seed, round_number).choice(rows, count, replace=False)).astype(np.int64)


def draw_columns(columns: int, share: float, seed: int, tree: int) -> Mask:
    """Draw a tree's columns of all parties': int(share columns) of them, at least one, as XGBoost counts."""
    drawn = np.ones(columns, dtype=bool)
    if share < 1 and columns:
        drawn[:] = False
        drawn[_generator("columns", seed, tree).choice(columns, max(1, int(share * columns)), replace=False)] = True
    return drawn


def goss_counts(rows: int, top_rate: float, other_rate: float) -> tuple[int, int]:
    """Return how many rows GOSS keeps for their gradients, and how many it draws from the others."""
    top = min(rows, max(1, int(top_rate * rows + 0.5)))
    return top, min(rows - top, max(1, int(other_rate * rows + 0.5)))


def draw_goss(
    size: Floats, top_rate: float, other_rate: float, labels: Floats, seed: int, round_number: int
) -> tuple[Integers, Floats]:
    """Draw rows by gradient.

    Parameters
    ----------
    size : ndarray of shape (n,), float64
        |g|, summed over outputs.
    labels : ndarray of shape (n,) or (n, classes)
        Seed the draw, so that nobody without them can tell drawn rows from kept ones by repeating it.

    Returns
    -------
    rows : ndarray of shape (m,), int64
        Ascending.
    factors : ndarray of shape (m,), float64
        1 for the rows kept, (n - kept) / drawn for the others: sums stay unbiased.
    """
    top, others = goss_counts(len(size), top_rate, other_rate)
    order = np.argsort(-size, kind="stable")
    secret = int.from_bytes(hashlib.sha256(b"goss|" + np.ascontiguousarray(labels).tobytes()).digest()[:16])
    generator = np.random.default_rng([secret, seed, round_number])
    rest = np.sort(order[top:])
    drawn = generator.choice(rest, others, replace=False) if others else rest[:0]
    rows = np.concatenate([order[:top], drawn])
    factors = np.concatenate([np.ones(top), np.full(others, (len(size) - top) / max(others, 1))])
    ascending = np.argsort(rows)
    return rows[ascending].astype(np.int64), factors[ascending]


def _generator(what: str, seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng([int.from_bytes(what.encode()), seed, number])
