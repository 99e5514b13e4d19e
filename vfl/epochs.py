"""Passes over the training rows: batches, losses, the best epoch, early stopping; whatever computes the first layer.

A `Source` is the first layer as the active party sees it: `vfl.splitnn` computes it under encryption,
`vfl.split_learning` adds up what passive parties send, and `vfl.plain_network` has all columns in one place.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from parties.checkpoint import Keeper, Snapshot
from parties.errors import DataError
from vfl.job import Job, SplitNN
from vfl.optim import Vector
from vfl.shard import Arrays, within
from vfl.terms import Integers
from vfl.torch_parts import seed_of

if TYPE_CHECKING:
    from vfl.network import Network  # torch takes seconds to import, and passive parties draw batches without it

LARGEST_OUTPUT = 2.0**16
"""First-layer outputs beyond it mean a training that diverges; encrypted ones would wrap at 2^17."""


class Source(Protocol):
    """Outputs of the first layer without the active party's own part, summed over the other parties."""

    def forward(self, rows: Integers, *, training: bool) -> Vector:
        """Outputs of shape (rows, units), float64; ``rows`` are positions among training and validation rows."""

    def backward(self, gradient: Vector) -> None:
        """Take a step against dL/dz of the last forward pass's rows, of shape (rows, units)."""

    def end_epoch(self, *, best: bool, go_on: bool) -> None:
        """An epoch has ended; ``best``: its weights are those to keep so far."""

    def state(self) -> Arrays:
        """What the active party has to keep to go on from here; every name begins with ``source.``."""


@dataclass(frozen=True)
class Rows:
    """The active party's rows to train on, training rows first, then the validation part.

    Parameters
    ----------
    X : ndarray of shape (n, d), float64
        Its encoded columns; d may be 0.
    y : ndarray of shape (n,), or (n, classes) where labels are randomised
    weights : ndarray of shape (n,), float64, or None
        Of any size: those of the training rows and of the validation part are each scaled to mean 1.
    n_train : int
    """

    X: Vector = field(repr=False)
    y: NDArray[np.float64] | Integers = field(repr=False)
    weights: Vector | None = field(repr=False)
    n_train: int


@dataclass(frozen=True)
class Course:
    """How a training went.

    Parameters
    ----------
    rounds : int
        Epochs done, those behind the best one too.
    losses : tuple of float
        Loss of the first batch before any step; then of each epoch, every batch's before its step.
    validation_losses : tuple of float
        Of the validation part behind each epoch; none without it.
    typical : ndarray of shape (units,), float64
        Mean of the first layer's outputs over the training rows in the epoch whose weights are kept.
    """

    rounds: int
    losses: tuple[float, ...]
    validation_losses: tuple[float, ...]
    typical: Vector = field(repr=False)
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _State:
    """What the epochs so far have come to; ``best`` are the weights to keep, ``typical`` is of the same epoch."""

    losses: list[float] = field(default_factory=list)
    watched: list[float] = field(default_factory=list)
    typical: Vector = field(default_factory=lambda: np.zeros(0))
    best: Arrays = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        return max(len(self.losses) - 1, 0)


def draw_batches(rows: int, size: int, seed: int, epoch: int) -> list[Integers]:
    """Cut the training rows, in an order drawn from the job's public seed, into as few batches as they can be.

    They are as long as each other, but for a row: no last one of few rows outweighs the others.

    >>> [batch.tolist() for batch in draw_batches(7, 3, seed=0, epoch=0)]
    [[4, 3, 1], [5, 0], [6, 2]]
    """
    drawn = int.from_bytes(hashlib.sha256(b"batches").digest()[:8])
    order = np.random.default_rng([drawn, seed, epoch]).permutation(rows).astype(np.int64)
    return np.array_split(order, -(-rows // size))


def cut_validation(rows: int, validation: int, size: int) -> list[Integers]:
    """Cut the validation part, which follows the training rows, into blocks of a batch's size; the last may be shorter.

    >>> [block.tolist() for block in cut_validation(7, 4, 3)]
    [[7, 8, 9], [10]]
    """
    stop = rows + validation
    return [np.arange(start, min(start + size, stop)) for start in range(rows, stop, size)]


def run_epochs(
    job: Job,
    network: Network,
    source: Source,
    rows: Rows,
    progress: Callable[[int, float | None], None],
    keeper: Keeper,
) -> Course:
    """Train, or go on after the epochs that the keeper restores; the network then has the best epoch's weights.

    The best epoch is that of least validation loss, and without a validation part the last one. The source restores
    itself from the same snapshot.

    Raises
    ------
    DataError
        The training diverges.
    """
    settings = job.splitnn
    rows = _scaled(rows)
    kept = keeper.trained()
    at = _State() if kept is None else _restore(kept, network)
    while at.epochs < settings.epochs and not _enough(settings, at.watched):
        outputs = _train(job, network, source, rows, at)
        if len(rows.y) > rows.n_train:
            at.watched.append(_watch(settings, network, source, rows, at.epochs))
        best = not at.watched or int(np.argmin(at.watched)) == len(at.watched) - 1
        if best:
            at.best, at.typical = network.weights(), outputs
        go_on = at.epochs < settings.epochs and not _enough(settings, at.watched)
        source.end_epoch(best=best, go_on=go_on)
        keeper.save_round(at.epochs, {}, _to_arrays(at, network, source))
        progress(at.epochs, at.losses[-1])
    network.restore(at.best)
    return Course(at.epochs, tuple(at.losses), tuple(at.watched), at.typical, _notes(settings, at))


def _train(job: Job, network: Network, source: Source, rows: Rows, at: _State) -> Vector:
    """One epoch's steps; returns the mean of the first layer's outputs."""
    epoch, settings = at.epochs, job.splitnn
    total, outputs = 0.0, np.zeros(settings.units)
    for number, batch in enumerate(draw_batches(rows.n_train, settings.batch_size, job.seed, epoch)):
        z = _forward(source, batch, epoch, training=True)
        weights = None if rows.weights is None else rows.weights[batch]
        seed = seed_of(job.seed, "step", epoch, number)
        step = network.step(z, rows.X[batch], rows.y[batch], weights, seed=seed, steps=settings.local_steps)
        if not math.isfinite(step.loss) or not np.isfinite(step.gradient).all():
            raise _diverged("the loss is no longer a number", epoch)
        if not at.losses:
            at.losses.append(step.loss)
        source.backward(step.gradient)
        total, outputs = total + step.loss * len(batch), outputs + z.sum(axis=0)
    at.losses.append(total / rows.n_train)
    return outputs / rows.n_train


def _forward(source: Source, rows: Integers, epoch: int, *, training: bool) -> Vector:
    z = source.forward(rows, training=training)
    if not np.abs(z).max(initial=0.0) <= LARGEST_OUTPUT:
        raise _diverged(f"outputs of the first layer are beyond {LARGEST_OUTPUT:,.0f}", epoch)
    return z


def _diverged(what: str, epoch: int) -> DataError:
    return DataError(
        f"training diverged in epoch {epoch + 1}: {what}, expected losses that fall; lower training.learning_rate, "
        "and in mode source-layer training.source_learning_rate"
    )


def _watch(settings: SplitNN, network: Network, source: Source, rows: Rows, epochs: int) -> float:
    """Mean loss of the validation part, in blocks of a batch's size."""
    total, n = 0.0, len(rows.y)
    for block in cut_validation(rows.n_train, n - rows.n_train, settings.batch_size):
        z = _forward(source, block, epochs - 1, training=False)
        losses = network.losses(z, rows.X[block], rows.y[block])
        total += math.fsum((losses if rows.weights is None else losses * rows.weights[block]).tolist())
    if not math.isfinite(total):
        raise _diverged("the validation loss is no longer a number", epochs - 1)
    return total / (n - rows.n_train)


def _scaled(rows: Rows) -> Rows:
    """The rows with weights of mean 1 in either part."""
    if rows.weights is None:
        return rows
    from vfl.losses import normalise_weights  # scipy takes its time to import, and passive parties do not need it

    n = rows.n_train
    parts = [part for part in (rows.weights[:n], rows.weights[n:]) if len(part)]
    return Rows(rows.X, rows.y, np.concatenate([normalise_weights(part) for part in parts]), n)


def _enough(settings: SplitNN, watched: Sequence[float]) -> bool:
    """Whether the validation loss has not fallen for ``early_stopping_rounds``."""
    patience = settings.early_stopping_rounds
    return patience is not None and len(watched) > 0 and len(watched) - 1 - int(np.argmin(watched)) >= patience


def _notes(settings: SplitNN, at: _State) -> tuple[str, ...]:
    """Which epoch's weights are kept, where it is not the last one's."""
    kept = int(np.argmin(at.watched)) + 1 if at.watched else at.epochs
    if kept == at.epochs:
        return ()
    stopped = "training stopped early after" if at.epochs < settings.epochs else "training took"
    return (f"{stopped} {at.epochs} epochs: the weights of epoch {kept}, of least validation loss, are kept",)


def _to_arrays(at: _State, network: Network, source: Source) -> Arrays:
    numbers = {"losses": np.array(at.losses), "watched": np.array(at.watched), "typical": at.typical}
    weights = {f"network.{name}": array for name, array in network.state().items()}
    best = {f"best.{name}": array for name, array in at.best.items()}
    return {**numbers, **weights, **best, **source.state()}


def _restore(kept: Snapshot, network: Network) -> _State:
    numbers = [kept.floats(name) for name in ("losses", "watched", "typical")]
    network.restore(within(kept.arrays, "network."))
    return _State(numbers[0].tolist(), numbers[1].tolist(), numbers[2], within(kept.arrays, "best."))
