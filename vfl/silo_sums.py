"""What the silos of the label holder compute together in a GLM: where it starts, how steep it is, how well it fits.

All of it is a sum over the silos' rows (`vfl.siblings`), so that no silo needs another's labels or scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from parties.errors import LocalProtocolError
from vfl import glm
from vfl.glm import Block, Integers, Target
from vfl.glm_exact import curvature
from vfl.optim import Vector, preconditioner
from vfl.siblings import Siblings
from vfl.terms import Terms

_STEEPEST = 30.0  # scores beyond this mean that classes are separable
_LEAST_EXPONENT, _MOST_EXPONENT = -20, 120


@dataclass(frozen=True, slots=True)
class Placed:
    """A silo's columns of its own rows, and where these stand.

    Parameters
    ----------
    block : Block
        Own rows, training rows first; ``block.rows`` are the own training rows.
    places : ndarray of shape (block.rows,), int64
        Of the own training rows among all of them.
    rows : int
        Training rows of all silos.
    gram : ndarray of shape (d, d), float64
        X'X / rows over all silos of the party.
    """

    block: Block
    places: Integers = field(repr=False)
    rows: int
    gram: Vector = field(repr=False)

    @property
    def whole(self) -> Block:
        """The block as it counts in means over all rows; its integers are the own rows' only."""
        return Block(self.block.integers, self.block.scale_bits, self.block.penalty, self.rows)

    def spread(self, values: Integers) -> Integers:
        """Values of the own training rows at their places, zeros elsewhere."""
        found = np.zeros((self.rows, *values.shape[1:]), dtype=values.dtype)
        found[self.places] = values
        return found

    def preconditioner(self, terms: Terms) -> Vector:
        """As `vfl.glm.block_preconditioner`, over all silos' rows."""
        return preconditioner(self.gram, self.block.penalty, curvature(terms))


def mean_loss(siblings: Siblings, target: Target, z: Vector, rows: int, label: str) -> float:
    """Mean loss over all silos' rows, without penalty."""
    (total,) = siblings.floats(label, [target.total_loss(z) if len(z) else 0.0])
    return total / rows


def first_weights(own: Placed, terms: Terms, target: Target, siblings: Siblings) -> Vector:
    """Zero, but for the intercept, which is where it fits best without any column."""
    w = np.zeros((own.block.width, terms.outputs))
    if not terms.job.training.fit_intercept:
        return w
    weights = np.ones(len(own.places)) if target.weights is None else target.weights
    if target.family.name == "softmax":
        shares = [math.fsum(weights[target.y == code].tolist()) for code in range(terms.outputs)]
    else:
        shares = [math.fsum((weights * target.y).tolist())]
    means = np.array(siblings.floats("start", shares)) / own.rows
    w[-1] = target.family.start(means[None] if target.family.name == "softmax" else means, None, terms.outputs)
    return glm.to_grid(own.block, w)


def largest_bound(siblings: Siblings, bits: int | None) -> int:
    """The largest power of two among the silos, of which each marks its own; a silo without rows marks none."""
    marks = [0] * (_MOST_EXPONENT - _LEAST_EXPONENT + 1)
    if bits is not None:
        if bits > _MOST_EXPONENT:
            raise LocalProtocolError(f"residuals beyond 2^{_MOST_EXPONENT}: rescale the label")
        marks[max(bits, _LEAST_EXPONENT) - _LEAST_EXPONENT] = 1
    summed = siblings.integers("bounds", marks)
    return max(at for at, count in enumerate(summed) if count) + _LEAST_EXPONENT


def is_steep(siblings: Siblings, z: Vector, label: str) -> bool:
    """Whether any silo has a row whose score is so large that its class is certain."""
    steep = int(len(z) > 0 and float(np.abs(z).max()) > _STEEPEST)
    return siblings.integers(label, [steep])[0] > 0


def slope_at(
    siblings: Siblings, target: Target, z: Vector, dz: Vector, t: float, bound_bits: int, rows: int, label: str
) -> tuple[float, bool]:
    """At step t: the mean over all silos' rows of residual times dz, and whether all residuals keep their bound."""
    residual = target.residual(z + t * dz) if len(z) else z
    outside = len(z) > 0 and bool(np.abs(residual).max() > 2.0**bound_bits)
    inner = 0.0 if outside else math.fsum((residual * dz).ravel().tolist())
    total, beyond = siblings.floats(label, [inner, float(outside)])
    return total / rows, beyond == 0
