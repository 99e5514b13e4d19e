"""Generalised linear models over columns that several parties keep: what both protocols share.

``vfl.glm_exact``      the active party holds the key; exact link; any family; learns summed scores.
``vfl.glm_quadratic``  the coordinator holds the key; a quadratic model of the loss; nobody learns scores.

Each party has a block of columns as integers with one power-of-two scale per column; the same integers serve the
forward pass, the Gram matrix, the gradient and prediction, so that X w and X'r are exact and a run repeats bit for
bit. The active party's block ends with a column of ones if there is an intercept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from parties.errors import LocalProtocolError, PolicyError, RemoteProtocolError
from parties.policy import SCORE_BITS as ROUNDED_BITS
from parties.policy import Guards, Verdict, score_budget, scores_are_rounded
from vfl.exact import exact_matmul
from vfl.label_dp import to_possible_shares
from vfl.masking import check_scores
from vfl.optim import Vector, dot, preconditioner
from vfl.terms import Terms

if TYPE_CHECKING:
    from vfl.losses import Family, Labels

Integers = NDArray[np.int64]
Progress = Callable[[int, float | None], None]

SCORE_BITS = 32  # of the words in which scores are added up
WEIGHT_BITS = 44  # column scale and weight scale together: X w is exact at 2^-44
COLUMN_BITS = 15  # sum |x| of a training column is at most rows * (2^15 + 1): its root mean square is 1
ONES_BITS = 15
_LOSS_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Block:
    """One party's columns as integers, training rows first.

    Parameters
    ----------
    integers : ndarray of shape (n, d), int64
    scale_bits : ndarray of shape (d,), int64
        Column j is ``integers[:, j] / 2^scale_bits[j]``.
    penalty : ndarray of shape (d,), float64
        l2, and 0 for the intercept.
    rows : int
        Training rows.
    """

    integers: Integers = field(repr=False)
    scale_bits: Integers
    penalty: Vector
    rows: int

    @property
    def training(self) -> Integers:
        """Integers of the training rows."""
        return self.integers[: self.rows]

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.integers.shape[1])


@dataclass(frozen=True, slots=True)
class Fit:
    """One role's result of the training.

    Parameters
    ----------
    weights : ndarray of shape (d, outputs), float64
        The party's block in units of label / 2^label_bits; the coordinator's is empty.
    label_bits : int
        Power of two by which the label was scaled (linear; else 0).
    losses : tuple of float
        Loss with penalty: the start, then one per round; empty at a role that does not learn it.
    """

    weights: Vector
    label_bits: int
    losses: tuple[float, ...]
    rounds: int
    converged: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """The active party's labels and sample weights of the training rows.

    Parameters
    ----------
    y : ndarray of shape (n,) or, softmax, (n, classes)
        Labels in units of 2^label_bits; class codes for softmax; or estimates of labels (``vfl.label_dp``).
    weights : ndarray of shape (n,), float64 or None
        Mean 1.
    """

    family: Family
    y: Labels = field(repr=False)
    weights: Vector | None = field(repr=False)
    label_bits: int
    outputs: int
    estimated: bool = False

    @property
    def bound_bits(self) -> int:
        """Power of two above every |residual| of logistic or softmax at any scores, whose mean is between 0 and 1.

        Sample weights set it, and epsilon where labels are estimated: the labels themselves do not.
        """
        largest = max(1.0, float(np.abs(self.y).max()), float(np.abs(1 - self.y).max())) if self.estimated else 1.0
        if self.weights is not None:
            largest *= float(self.weights.max())
        fraction, exponent = math.frexp(largest)
        return exponent - (fraction == 0.5)

    def loss(self, z: Vector) -> float:
        """Mean loss of scores of shape (n, outputs)."""
        return self.total_loss(z) / len(self.y)

    def total_loss(self, z: Vector) -> float:
        """Sum of the rows' losses."""
        losses = self.family.row_losses(self._shaped(z), self.y)
        return math.fsum((losses if self.weights is None else losses * self.weights).tolist())

    def residual(self, z: Vector) -> Vector:
        """Weighted mu(z) - y of shape (n, outputs)."""
        residual = self.family.residual(self._shaped(z), self.y).reshape(len(self.y), -1)
        return residual if self.weights is None else residual * self.weights[:, None]

    def curvature(self, z: Vector) -> Vector:
        """Weighted second derivative of each row's loss, shape (n, outputs)."""
        curvature = self.family.variance(self._shaped(z)).reshape(len(self.y), -1)
        return curvature if self.weights is None else curvature * self.weights[:, None]

    def _shaped(self, z: Vector) -> Vector:
        return z if self.family.name == "softmax" else z[:, 0]


def make_target(model: str, y: Labels, weights: Vector | None, outputs: int) -> Target:
    """Prepare labels: linear ones are scaled by a power of two near their standard deviation.

    The stopping rule and the fixed-point residuals then mean the same whatever unit the label has. Estimated labels
    (``vfl.label_dp``) are moved where the estimated share of a class is not possible.
    """
    # scipy takes its time to import, and only this role needs it
    from vfl.losses import FAMILIES, are_estimated, normalise_weights

    family = FAMILIES[model]
    relative = None if weights is None else normalise_weights(weights)
    estimated = are_estimated(family, y)
    if estimated:
        y = to_possible_shares(y, relative)
    bits = 0
    if model == "linear":
        spread = float(np.std(y))
        bits = round(math.log2(spread)) if spread > 0 else 0
        y = np.asarray(np.ldexp(y, -bits))
    return Target(family, y, relative, bits, outputs, estimated)


def noise_warnings(target: Target, losses: Sequence[float]) -> tuple[str, ...]:
    """Warn where noise was fitted: no loss of true classes is below 0, and none ends above its start."""
    if not target.estimated or 0 <= losses[-1] <= losses[0] + _LOSS_ROUNDING:
        return ()
    return (
        "the randomised labels hold more noise than so many rows average out, and the model fits it; "
        "raise privacy.label_dp_epsilon or training.l2, or train on more rows",
    )


def make_block(integers: Integers, bits: Integers, rows: int, l2: float, *, ones: bool) -> Block:
    """A party's block; ``ones`` appends the active party's intercept column."""
    penalty = np.full(integers.shape[1], l2)
    if ones:
        column = np.full((len(integers), 1), 1 << ONES_BITS, dtype=np.int64)
        integers, bits, penalty = np.hstack([integers, column]), np.append(bits, ONES_BITS), np.append(penalty, 0.0)
    block = Block(np.ascontiguousarray(integers), bits, penalty, rows)
    if block.width and int(np.abs(block.training).sum(axis=0).max()) > column_bound(rows):
        raise LocalProtocolError("a training column is not standardised: its absolute sum is over the agreed bound")
    return block


def column_bound(rows: int) -> int:
    """Largest possible sum of |x| over the training rows of a column."""
    return rows * ((1 << COLUMN_BITS) + 1)


def block_preconditioner(block: Block, curvature: float) -> Vector:
    """Inverse of ``curvature X'X / n + l2`` of the party's own columns: local work, no message."""
    gram = exact_matmul(block.training.T, block.training).astype(np.float64)
    gram = np.ldexp(gram, -(block.scale_bits[:, None] + block.scale_bits[None, :])) / block.rows
    return preconditioner(gram, block.penalty, curvature)


def precondition(matrix: Vector, vector: Vector) -> Vector:
    """Matrix times block (d, outputs), summed in a fixed order (BLAS would not promise one)."""
    return np.stack([(matrix * column).sum(axis=1) for column in vector.T], axis=1)


def to_grid(block: Block, weights: Vector) -> Vector:
    """Weights rounded to what the forward pass can represent exactly."""
    shift = (WEIGHT_BITS - block.scale_bits)[:, None]
    return np.ldexp(np.rint(np.ldexp(weights, shift)), -shift)


def forward(block: Block, weights: Vector, rows: slice | None = None) -> Integers:
    """Partial scores X w.

    Parameters
    ----------
    weights : ndarray of shape (d, outputs), float64
    rows : slice, optional
        By default the training rows.

    Returns
    -------
    ndarray of shape (n, outputs), int64
        Scores times 2^32.
    """
    chosen = block.training if rows is None else block.integers[rows]
    with np.errstate(over="ignore"):
        scaled = np.rint(np.ldexp(weights, (WEIGHT_BITS - block.scale_bits)[:, None]))
    if not (np.abs(scaled) < 2.0**62).all():
        raise LocalProtocolError("a weight leaves the range of fixed point: the training diverges; raise training.l2")
    fixed = scaled.astype(np.int64)
    drop = WEIGHT_BITS - SCORE_BITS
    return (exact_matmul(chosen, fixed) + (1 << (drop - 1))) >> drop


def budget(terms: Terms, guards: Guards, evaluations: int) -> Verdict | None:
    """Verdict on the active party's score budget after so many evaluations of this run, the coming one included."""
    return _judge_budget(terms, guards.budget.evaluations(evaluations, terms.outputs))


def spend(terms: Terms, guards: Guards, evaluations: int) -> None:
    """Count one evaluation at the active party, before it asks for it: every passive party counts the same.

    Parameters
    ----------
    evaluations : int
        Evaluations of this run so far, the coming one included.
    """
    guards.budget.spend_evaluation(evaluations, scores=terms.outputs, columns=sum(terms.passive_columns))


def disclosed_scores(terms: Terms, guards: Guards, block: Block, weights: Vector, evaluations: int) -> Integers:
    """A passive party's scores of the training rows, as far as the active party's budget lets them out.

    They are counted before they are returned.

    Parameters
    ----------
    evaluations : int
        Evaluations of this run so far, this one included.

    Returns
    -------
    ndarray of shape (n outputs,), int64
        Scores times 2^32; multiples of 2^-8 once the budget is spent with consent and guards are enforced.

    Raises
    ------
    PolicyError
        The budget is spent, and guards are enforced.
    RemoteProtocolError
        More evaluations than the job has rounds.
    """
    training = terms.job.training
    most = training.max_iter if terms.key_holder == "active" else training.newton_steps
    if evaluations > most:
        raise RemoteProtocolError(
            f"{terms.job.active} asks for evaluation {evaluations} in a job of at most {most}, which is what this "
            "party consents to (training.max_iter, newton_steps; max_rounds in its policy); nothing more was sent"
        )

    def permit(opened: int) -> None:
        if guards.heed(_judge_budget(terms, opened)):
            raise PolicyError(
                f"{terms.job.active} asks for more evaluations than its score budget allows; nothing was sent; "
                "lower training.max_iter or training.newton_steps, or set partial_scores = true in every passive "
                "party's policy"
            )

    columns = terms.passive_columns
    opened = guards.budget.spend_evaluation(
        evaluations, weights, scores=terms.outputs, columns=sum(columns), permit=permit
    )
    fixed = forward(block, weights).ravel()
    if scores_are_rounded(
        guards, evaluations=opened, scores=terms.outputs, passive_columns=columns, consent=terms.consent
    ):
        fixed = round_scores(fixed, ROUNDED_BITS)
    check_scores(fixed, len(columns))
    return fixed


def round_scores(fixed: Integers, bits: int) -> Integers:
    """Scores times 2^32 to multiples of 2^-bits, bits at most 32; halves go up.

    >>> round_scores(np.array([3 << 30, 1 << 31]), 0) >> 32
    array([1, 1])
    """
    drop = SCORE_BITS - bits
    return fixed if drop == 0 else (fixed + (1 << (drop - 1))) >> drop << drop


def _judge_budget(terms: Terms, opened: int) -> Verdict | None:
    """Verdict on so many vectors of summed scores, over all runs."""
    return score_budget(
        evaluations=opened,
        scores=terms.outputs,
        passive_columns=terms.passive_columns,
        party=terms.job.active,
        consent=terms.consent,
    )


def to_scores(fixed: Integers) -> Vector:
    """Fixed-point scores to float."""
    return fixed.astype(np.float64) / 2.0**SCORE_BITS


def own_products(block: Block, residuals: Integers) -> list[list[int]]:
    """X'r of the party's own block and its own integers, exact beyond 64 bits.

    Returns
    -------
    list of lists of int
        One list of d integers per output.
    """
    high, low = residuals >> 13, residuals & 0x1FFF
    high_products, low_products = (exact_matmul(block.training.T, part) for part in (high, low))
    return [
        [(h << 13) + low_ for h, low_ in zip(highs, lows, strict=True)]
        for highs, lows in zip(high_products.T.tolist(), low_products.T.tolist(), strict=True)
    ]


def mean_gradient(block: Block, products: Sequence[Sequence[int]], bits: int) -> Vector:
    """Exact integers X'r (one list per output) to X'r / n, shape (d, outputs); ``bits`` is the scale of r."""
    columns = [
        [math.ldexp(float(value), -(int(scale) + bits)) for value, scale in zip(column, block.scale_bits, strict=True)]
        for column in products
    ]
    return np.array(columns, dtype=np.float64).reshape(len(products), block.width).T / block.rows


def penalty_value(block: Block, a: Vector, b: Vector) -> float:
    """Sum of l2 a b over the penalised weights of a block."""
    return dot(block.penalty[:, None] * a, b)


def local_optimum(block: Block, target: Target, l2: float, *, ones: bool) -> Vector:
    """Optimum of the active party's own columns, where training starts: shape (d, outputs)."""
    from vfl.baselines import fit_glm  # scikit-learn takes seconds to import, and only this role needs it

    features = block.width - ones
    X = np.ldexp(block.training[:, :features].astype(np.float64), -block.scale_bits[:features])
    coef, intercept = fit_glm(target.family.name, X, target.y, l2, ones, target.weights, target.outputs)
    weights, bias = np.reshape(coef, (target.outputs, features)).T, np.reshape(intercept, (1, target.outputs))
    return to_grid(block, np.vstack([weights, bias]) if ones else weights)
