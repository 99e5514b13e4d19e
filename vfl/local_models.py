"""A silo's own model where silos average or add up (horizontal learning): its gradients, and training on its own rows.

`LocalModel` is what `vfl.horizontal` needs of a model, whatever it is. Here are the four generalised linear ones,
`vfl.local_network` has the neural network. Over all n training rows of all silos the objective is that of every GLM
here: the mean row loss + l2 ||w||^2 / 2 with sample weights of mean 1, the intercept not penalised.

The score of a row is z = X w + b + offset. Offsets are the labels' log-odds, log mean or mean, and numbers are divided
by their deviation (without an intercept: their root mean square), so that all zeros are a good beginning. The silos
learn both by sums over all of them; the coordinator, which sees w and b, does not (`agree_label_scale`).

Sources: H. B. McMahan et al., *Communication-Efficient Learning of Deep Networks from Decentralized Data*, AISTATS
2017 (FedAvg's local epochs); T. Li et al., *Federated Optimization in Heterogeneous Networks*, MLSys 2020 (the
proximal term).

Sums run in numpy's own loops, one after the other, and not in BLAS, whose order hangs on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from parties.errors import DataError
from vfl.job import Job
from vfl.losses import FAMILIES, Family, Floats, Labels
from vfl.optim import Vector
from vfl.silo_privacy import SiloNoise
from vfl.terms import Integers
from vfl.torch_parts import seed_of

LARGEST_WEIGHT = 2.0**30
"""Beyond it a training diverges: columns are standardised, and labels scaled."""
COEFFICIENTS, INTERCEPT = "coefficients", "intercept"


class Sums(Protocol):
    """What adds up over all silos: `vfl.siblings.Siblings`, or `InOnePlace`."""

    def floats(self, label: str, values: Sequence[float]) -> list[float]:
        """Sums of numbers."""

    def words(self, label: str, values: Integers) -> Integers:
        """Sums of whole numbers."""


class InOnePlace:
    """Sums over one silo, or over rows that are all in one place."""

    def floats(self, label: str, values: Sequence[float]) -> list[float]:
        """The values."""
        return [float(value) for value in values]

    def words(self, label: str, values: Integers) -> Integers:
        """The values."""
        return values


class LocalModel(Protocol):
    """What averaging needs of a silo's model."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the arrays that are averaged."""

    @property
    def penalty(self) -> tuple[float, ...]:
        """Weight of ||w||^2 / 2 of each array beside the mean loss, which nobody has added to `gradient`."""

    @property
    def weight(self) -> float:
        """Sum of the sample weights of this silo's training rows, whose mean over all silos' rows is 1."""

    @property
    def rows(self) -> int:
        """Training rows of this silo."""

    def start(self) -> list[Vector]:
        """The weights to begin with: the same at every silo, and told by no row."""

    def gradient(self, weights: Sequence[Vector], rows: Integers | None) -> tuple[float, list[Vector]]:
        """Sums over training rows of this silo (None: all) of their weighted losses and gradients, no penalty."""

    def noisy_gradient(self, weights: Sequence[Vector], round_number: int) -> tuple[float, list[Vector]]:
        """An estimate of the sums over all rows of this silo, clipped and with its noise; the loss is not told: 0."""

    def train(self, weights: Sequence[Vector], round_number: int) -> tuple[float, list[Vector]]:
        """Sum of the losses before (with noise: 0), and the weights after the local epochs."""


@dataclass(frozen=True)
class GlmScale:
    """How labels and scores of a GLM are moved, so that zeros are a good beginning.

    Parameters
    ----------
    offset : ndarray of shape (outputs,), float64
    deviation : float
        What labels of model linear are divided by.
    """

    offset: Vector
    deviation: float = 1.0

    def to_targets(self, y: Labels) -> Labels:
        """Labels as the scores are held against them."""
        return y if self.deviation == 1.0 else np.asarray(y / self.deviation)

    def unfold(self, weights: Sequence[Vector]) -> list[Vector]:
        """Weights in the label's unit: ``X @ coefficients + intercept`` are scores."""
        coefficients, *intercept = [array * self.deviation for array in weights]
        return [coefficients, *(array + self.offset * self.deviation for array in intercept)]


@dataclass(frozen=True)
class LocalGlm:
    """A silo's end of a generalised linear model.

    Parameters
    ----------
    X : ndarray of shape (n, d), float64
        Encoded columns of the silo's training rows.
    y : ndarray of shape (n,)
        Their labels; numbers divided by the scale's deviation.
    sample_weights : ndarray of shape (n,), or None
        Scaled to mean 1 over the training rows of all silos.
    noise : SiloNoise or None
        Where the job asks for differential privacy.
    """

    job: Job
    silo: str
    X: Vector = field(repr=False)
    y: Labels = field(repr=False)
    sample_weights: Vector | None = field(repr=False)
    scale: GlmScale
    noise: SiloNoise | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the arrays that are averaged."""
        return (COEFFICIENTS, INTERCEPT) if self.job.training.fit_intercept else (COEFFICIENTS,)

    @property
    def penalty(self) -> tuple[float, ...]:
        """The job's l2 for the coefficients alone."""
        return glm_penalty(self.job)

    @property
    def weight(self) -> float:
        """Sum of the sample weights."""
        return len(self.y) if self.sample_weights is None else math.fsum(self.sample_weights.tolist())

    @property
    def rows(self) -> int:
        """Training rows of this silo."""
        return len(self.y)

    @property
    def family(self) -> Family:
        """Loss and mean of scores."""
        return FAMILIES[self.job.model]

    def start(self) -> list[Vector]:
        """Zeros."""
        return [np.zeros(shape) for shape in glm_shapes(self.job, self.X.shape[1], len(self.scale.offset))]

    def gradient(self, weights: Sequence[Vector], rows: Integers | None = None) -> tuple[float, list[Vector]]:
        """Sums over training rows of this silo (None: all) of their weighted losses and gradients, no penalty."""
        X, y, relative = self._taken(rows)
        loss, residual = self._residual(weights, X, y, relative)
        return loss, self._summed(X, residual)

    def noisy_gradient(self, weights: Sequence[Vector], round_number: int) -> tuple[float, list[Vector]]:
        """An estimate of the sums over all rows of this silo, clipped and with its noise; the loss is not told: 0."""
        return 0.0, self._noisy(weights, (round_number, 0))

    def train(self, weights: Sequence[Vector], round_number: int) -> tuple[float, list[Vector]]:
        """Sum of the losses before (with noise: 0), and the weights after the local epochs.

        Raises
        ------
        DataError
            The training diverges.
        """
        lines = self.job.training
        now = [np.array(array) for array in weights]
        for gradient in self._gradients(now, round_number):
            for array, found, start, l2 in zip(now, gradient, weights, self.penalty, strict=True):
                array -= lines.learning_rate * (found + l2 * array + lines.proximal * (array - start))
            check_weights(now, round_number)
        return (0.0 if self.noise else self.gradient(weights)[0]), now

    def _gradients(self, now: Sequence[Vector], round_number: int) -> Iterator[list[Vector]]:
        """Mean gradients at the weights as they then are, one for each step of a round."""
        if self.noise is not None:
            for step in range(self.noise.steps):
                yield [array / len(self.y) for array in self._noisy(now, (round_number, step))]
            return
        for batch in local_batches(self.job, self.silo, len(self.y), round_number):
            yield [array / len(batch) for array in self.gradient(now, batch)[1]]

    def _noisy(self, weights: Sequence[Vector], place: tuple[int, int]) -> list[Vector]:
        """Rows drawn, clipped, added up, with noise."""
        if self.noise is None:
            raise ValueError("noise is asked for, and the job has none")
        draw = self.noise.at(place, weights)
        X, y, relative = self._taken(draw.rows(len(self.y)))
        residual = self._residual(weights, X, y, relative)[1]
        ones = float(self.job.training.fit_intercept)
        norms = np.sqrt((residual**2).sum(axis=1) * ((X**2).sum(axis=1) + ones))
        return draw.release(self._summed(X, residual * self.noise.shrink(norms)[:, None]))

    def _taken(self, rows: Integers | None) -> tuple[Vector, Labels, Vector | None]:
        if rows is None:
            return self.X, self.y, self.sample_weights
        return self.X[rows], self.y[rows], None if self.sample_weights is None else self.sample_weights[rows]

    def _residual(
        self, weights: Sequence[Vector], X: Vector, y: Labels, relative: Vector | None
    ) -> tuple[float, Vector]:
        """Sum of the losses, and every row's derivative by its scores, of shape (n, outputs)."""
        z = np.einsum("ij,jk->ik", X, weights[0]) + self.scale.offset
        z = z + weights[1] if len(weights) > 1 else z
        z = z if self.job.model == "softmax" else z[:, 0]
        losses, residual = self.family.row_losses(z, y), self.family.residual(z, y)
        residual = residual.reshape(len(y), len(self.scale.offset))
        if relative is not None:
            losses, residual = losses * relative, residual * relative[:, None]
        return math.fsum(losses.tolist()), residual

    def _summed(self, X: Vector, residual: Vector) -> list[Vector]:
        found = [np.einsum("ij,ik->jk", X, residual)]
        return [*found, residual.sum(axis=0)] if self.job.training.fit_intercept else found


def glm_shapes(job: Job, columns: int, outputs: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of a GLM's arrays."""
    return ((columns, outputs), (outputs,)) if job.training.fit_intercept else ((columns, outputs),)


def glm_penalty(job: Job) -> tuple[float, ...]:
    """l2 of a GLM's arrays."""
    return (job.training.l2, 0.0) if job.training.fit_intercept else (job.training.l2,)


def local_batches(job: Job, silo: str, rows: int, round_number: int) -> Iterator[Integers]:
    """The batches of a round's local epochs, in orders drawn from the job's public seed."""
    lines = job.splitnn if job.model == "splitnn" else job.training
    for epoch in range(lines.local_epochs):
        order = np.random.default_rng(seed_of(job.seed, "local", silo, round_number, epoch)).permutation(rows)
        yield from np.array_split(order.astype(np.int64), -(-rows // lines.batch_size))


def check_weights(weights: Sequence[Vector], round_number: int) -> None:
    """Refuse weights that a training has driven beyond all bounds.

    Raises
    ------
    DataError
    """
    if not all(np.abs(array).max(initial=0.0) <= LARGEST_WEIGHT for array in weights):
        raise DataError(
            f"training diverged in round {round_number}: weights are beyond {LARGEST_WEIGHT:g}, expected losses that "
            "fall; lower training.learning_rate"
        )


def relative_weights(weights: Vector | None, siblings: Sums) -> Vector | None:
    """Sample weights of a silo's training rows, scaled to mean 1 over the rows of all silos.

    Raises
    ------
    DataError
        They are all zero, or beyond any measure; all silos raise the same.
    """
    if weights is None:
        return None
    own = math.fsum(np.minimum(weights, 2.0**100).tolist())
    total, rows, beyond = siblings.floats("weights", [own, len(weights), float((weights > 2.0**100).sum())])
    if not total > 0 or beyond:
        raise DataError(
            "the sample weights of the training rows are "
            f"{'beyond 2^100' if beyond else 'all zero'}; expected moderate ones, one of them positive; correct them"
        )
    return np.asarray(weights * (rows / total))


def agree_glm_scale(job: Job, y: Labels, sample_weights: Vector | None, outputs: int, siblings: Sums) -> GlmScale:
    """Offsets and the deviation of labels, from sums over all silos' training rows.

    Parameters
    ----------
    y : ndarray of shape (n,)
        This silo's training labels.
    sample_weights : ndarray of shape (n,), or None
        `relative_weights`.
    """
    family, relative = FAMILIES[job.model], np.ones(len(y)) if sample_weights is None else sample_weights
    if not job.training.fit_intercept:
        if family.name != "linear":
            return GlmScale(np.zeros(outputs))
        rows, squares = siblings.floats("label moments", [len(y), math.fsum((relative * y**2).tolist())])
        return GlmScale(np.zeros(1), math.sqrt(squares / rows) or 1.0)
    if family.name == "softmax":
        held = [math.fsum(relative[y == code].tolist()) for code in range(outputs)]
        shares = np.array(siblings.floats("classes' weights", held))
        return GlmScale(family.start(np.arange(outputs), shares * (outputs / shares.sum()), outputs))
    mean, deviation = label_moments(y, relative, siblings)
    if family.name == "linear":
        deviation = deviation or 1.0
        return GlmScale(np.array([mean / deviation]), deviation)
    return GlmScale(family.start(np.array([mean]), None, 1))


def label_moments(y: Labels, relative: Floats, siblings: Sums) -> tuple[float, float]:
    """Weighted mean of the labels of all silos' training rows, and their standard deviation."""
    rows, total = siblings.floats("labels", [len(y), math.fsum((relative * y).tolist())])
    mean = total / rows
    (squares,) = siblings.floats("labels' squares", [math.fsum((relative * (y - mean) ** 2).tolist())])
    return mean, math.sqrt(max(squares, 0.0) / rows)
