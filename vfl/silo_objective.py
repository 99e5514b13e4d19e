"""An objective of boosted trees over rows that several silos hold: sums over the silos where it is over all rows.

Arrays have one place per common row. Labels of other silos' rows are nan; their gradients are zero. Start and losses
are those of the rows in one place to the last bit: every row's terms are the same there, and are added exactly.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from parties.errors import DataError
from vfl.exact_sums import Floats, exact_total, largest_over, to_float, totals_over
from vfl.label_dp import possible_move, to_shares
from vfl.siblings import Siblings
from vfl.trees.objective import Objective, family_of, shaped
from vfl.trees.sampling import LEAST_EXPONENT

Mask = NDArray[np.bool_]
Labels = NDArray[np.float64] | NDArray[np.int64]

_EXPONENT_BITS = 12


def spread(values: Labels, places: NDArray[np.int64], rows: int) -> Floats:
    """A silo's labels at their places among all rows, nan at others.

    >>> spread(np.array([1, 0]), np.array([0, 2]), 4)
    array([ 1., nan,  0., nan])
    """
    found = np.full((rows, *values.shape[1:]), np.nan)
    found[places] = values
    return found


def over_silos(objective: Objective, siblings: Siblings) -> Objective:
    """The objective whose start and losses are over all silos' rows; all silos make the same calls in the same order.

    Its functions take labels as `spread` has them, and scores and weights of all rows.
    """
    silo = _Silo(objective, siblings)
    return replace(objective, start=silo.start, gradients=silo.gradients, loss=silo.loss)


def shared_exponents(siblings: Siblings) -> Callable[[Sequence[int]], Sequence[int]]:
    """The largest over all silos of exponents of gradients; for `vfl.trees.sampling.fix_gradients`."""
    numbers = itertools.count()

    def largest(exponents: Sequence[int]) -> Sequence[int]:
        own = [exponent - LEAST_EXPONENT for exponent in exponents]
        if not siblings.others:
            return exponents
        found = largest_over(siblings, f"exponents|{next(numbers)}", own, _EXPONENT_BITS)
        return [exponent + LEAST_EXPONENT for exponent in found]

    return largest


@dataclass(frozen=True)
class _Silo:
    objective: Objective
    siblings: Siblings
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def start(self, y: Labels, weights: Floats | None, base_score: float | None) -> Floats:
        held, own = self._own(y)
        if base_score is not None:
            return self.objective.start(own, None, base_score)
        classes = self.objective.task in ("binary", "multiclass")
        relative = self._relative(weights, held)
        table = self._table(own)
        means = self._means(table, relative, len(y))
        if classes and not np.issubdtype(own.dtype, np.integer):
            shares = means if table.shape[1] > 1 else self._means(to_shares(own), relative, len(y))
            move = possible_move(shares, len(y))
            if move is not None:
                means = self._means(table + move[-table.shape[1] :], relative, len(y))
        family = family_of(self.objective.task)
        several = self.objective.task == "multiclass"
        return family.start(means[None] if several else means, None, self.objective.outputs)

    def gradients(self, scores: Floats, y: Labels) -> tuple[Floats, Floats]:
        held, own = self._own(y)
        g, h = np.zeros_like(scores), np.zeros_like(scores)
        g[held], h[held] = self.objective.gradients(scores[held], own)
        return g, h

    def loss(self, scores: Floats, y: Labels, weights: Floats | None) -> float:
        held, own = self._own(y)
        family = family_of(self.objective.task)
        losses = family.row_losses(shaped(family, scores[held]), own)
        relative = self._relative(weights, held)
        return float(self._means((losses if relative is None else losses * relative)[:, None], None, len(y))[0])

    def _own(self, y: Labels) -> tuple[Mask, Labels]:
        """Which rows are this silo's, and their labels: classes as whole numbers."""
        held = ~np.isnan(y if y.ndim == 1 else y[:, 0])
        own = y[held]
        coded = self.objective.task == "multiclass" and y.ndim == 1
        return held, own.astype(np.int64) if coded else own

    def _table(self, own: Labels) -> Floats:
        """What the start is a function of the means of: labels, or shares of classes."""
        if self.objective.task != "multiclass":
            return np.asarray(own, dtype=np.float64)[:, None]
        if own.ndim == 2:
            return np.asarray(own, dtype=np.float64)
        return np.asarray(own[:, None] == np.arange(self.objective.outputs), dtype=np.float64)

    def _means(self, table: Floats, relative: Floats | None, rows: int) -> Floats:
        """Means over all rows of every column."""
        weighted = table if relative is None else table * relative[:, None]
        label = f"means|{next(self._numbers)}"
        totals = totals_over(self.siblings, label, [exact_total(column) for column in weighted.T])
        return np.array([to_float(total) / rows for total in totals])

    def _relative(self, weights: Floats | None, held: Mask) -> Floats | None:
        """The own rows' weights, scaled so that those of all rows have mean 1, as `vfl.losses.normalise_weights`."""
        if weights is None:
            return None
        label = f"weights|{next(self._numbers)}"
        (total,) = totals_over(self.siblings, label, [exact_total(weights[held])])
        if total <= 0:
            raise DataError(
                "the sample weights of the training rows are all zero in all silos; expected a positive one; correct "
                "them"
            )
        beyond = total.bit_length() - 1074  # the sum as a number near 1 times 2^beyond: nothing overflows
        whole = total / (1 << total.bit_length())
        return np.asarray(np.ldexp(weights[held], -beyond) * (len(held) / whole))
