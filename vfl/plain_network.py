"""The same network on columns that are all in one place: the reference, and the active party alone.

Batches, seeds, first weights and steps are those of the joint run, so that the network on everybody's columns equals
the joint one but for what fixed point cuts off; in mode split without noise and clipping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from parties.checkpoint import Keeper
from vfl.epochs import Rows, run_epochs
from vfl.job import Job
from vfl.network_columns import FIXED_BITS, NetworkColumns, to_fixed
from vfl.optim import Vector
from vfl.shard import Arrays
from vfl.source_layer import WEIGHT_BITS, initial_weights
from vfl.split_learning import dropout_seed
from vfl.terms import Integers
from vfl.trained import Aligned

if TYPE_CHECKING:
    from vfl.bottom import Bottom


@dataclass
class PlainSource:
    """A first layer of plain numbers, which takes plain steps of stochastic gradient descent.

    Parameters
    ----------
    X : ndarray of shape (n, d), float64
        Cells of all rows, those too that nothing is trained on; d may be 0.
    weights : ndarray of shape (d, units), float64
    rate : float
        Learning rate.
    """

    X: Vector = field(repr=False)
    weights: Vector = field(repr=False)
    rate: float
    _rows: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64), init=False, repr=False)
    _best: Vector | None = field(default=None, init=False, repr=False)

    def forward(self, rows: Integers, *, training: bool) -> Vector:
        """Outputs of the rows; those of the last call are what `backward` steps on."""
        self._rows = rows
        return np.asarray(self.X[rows] @ self.weights)

    def backward(self, gradient: Vector) -> None:
        """Step against the gradient."""
        self.weights = self.weights - self.rate * (self.X[self._rows].T @ gradient)

    def end_epoch(self, *, best: bool, go_on: bool) -> None:
        """Note the weights to keep, and go back to them at the end."""
        self._best = self.weights if best or self._best is None else self._best
        self.weights = self.weights if go_on else self._best

    def state(self) -> Arrays:
        """Nothing: a plain training begins anew."""
        return {}


@dataclass
class PlainBottoms:
    """The sum of passive parties' bottom networks, trained in one place.

    Parameters
    ----------
    blocks : mapping of party name to (ndarray of shape (n, d), Bottom)
        Cells of all rows, and the network that they go through, in job order.
    """

    job: Job
    blocks: Mapping[str, tuple[Vector, Bottom]] = field(repr=False)
    _epoch: int = field(default=0, init=False)
    _batch: int = field(default=0, init=False)
    _best: dict[str, Arrays] = field(default_factory=dict, init=False, repr=False)

    def forward(self, rows: Integers, *, training: bool) -> Vector:
        """Outputs of the rows, in training with the parties' own dropout."""
        z = np.zeros((len(rows), self.job.splitnn.units))
        for name, (X, bottom) in self.blocks.items():
            seed = dropout_seed(self.job, name, self._epoch, self._batch) if training else None
            z = z + bottom.forward(X[rows], seed=seed)
        return z

    def backward(self, gradient: Vector) -> None:
        """Let every bottom network take its steps."""
        for _, bottom in self.blocks.values():
            bottom.step(gradient, steps=self.job.splitnn.local_steps)
        self._batch += 1

    def end_epoch(self, *, best: bool, go_on: bool) -> None:
        """Note the weights to keep, and go back to them at the end."""
        if best or not self._best:
            self._best = {name: bottom.weights() for name, (_, bottom) in self.blocks.items()}
        if not go_on:
            for name, (_, bottom) in self.blocks.items():
                bottom.load(self._best[name])
        self._epoch, self._batch = self._epoch + 1, 0

    def state(self) -> Arrays:
        """Nothing: a plain training begins anew."""
        return {}


def predict_alone(data: Aligned, columns: NetworkColumns, outputs: int) -> Vector:
    """Predictions of the test rows by the same network on the active party's columns."""
    return plain_predictions(data, {data.spec.name: columns.X}, outputs, {data.spec.name: data.module})


def plain_predictions(
    data: Aligned, blocks: Mapping[str, Vector], outputs: int, modules: Mapping[str, object]
) -> Vector:
    """Predictions of the test rows by the job's network on some parties' columns; without columns the mean.

    Parameters
    ----------
    blocks : mapping of party name to ndarray of shape (n, d), float64
        Encoded cells of all aligned rows, the active party's among them.
    modules : mapping of party name to torch.nn.Module or None
        The users' own networks.
    """
    columns = sum(X.shape[1] for X in blocks.values())
    if not columns:
        return _mean_prediction(data, outputs)
    from vfl.network import make_network  # torch takes seconds to import

    job, n, own = data.job, data.n_train, blocks[data.job.active]
    y, weights = data.labels_to_fit, data.weights
    first = None if weights is None else weights[:n]
    module = modules.get(job.active)
    network = make_network(job, own.shape[1], outputs, y[:n], weights=first, module=module, fan_in=columns)
    source = make_source(data, {name: blocks[name] for name in job.passive if name in blocks}, columns, modules)
    rows = Rows(own[: data.n_fit], y, weights, n)
    run_epochs(job, network, source, rows, lambda *_: None, Keeper())
    test = np.arange(data.n_fit, len(data.rows))
    return network.predict(source.forward(test, training=False), own[data.n_fit :])


def make_source(
    data: Aligned, blocks: Mapping[str, Vector], columns: int, modules: Mapping[str, object]
) -> PlainSource | PlainBottoms:
    """The first layer over passive parties' columns, with the weights that the parties begin with.

    In mode source-layer cells are taken as the joint run takes them, rounded to 2^-FIXED_BITS standard deviations once
    and for all: on few rows a training enlarges such differences until single rows fall on the other side.

    Parameters
    ----------
    columns : int
        Of all parties that take part, the active one too.
    """
    job, n, units = data.job, data.n_train, data.job.splitnn.units
    if job.splitnn.mode == "split":
        from vfl.bottom import make_bottom  # torch, as above

        made = {name: (X, make_bottom(job, name, X[:n], module=modules.get(name))) for name, X in blocks.items()}
        return PlainBottoms(job, made)
    fixed = [to_fixed(X) for X in blocks.values()]
    first = [initial_weights(job, X[:n], units, columns) for X in fixed]
    weights = np.vstack([np.zeros((0, units)), *(np.ldexp(W.astype(np.float64), -WEIGHT_BITS) for W in first)])
    cells = np.hstack([np.zeros((len(data.rows), 0)), *(np.ldexp(X.astype(np.float64), -FIXED_BITS) for X in fixed)])
    return PlainSource(cells, weights, job.splitnn.source_step)


def _mean_prediction(data: Aligned, outputs: int) -> Vector:
    """The training rows' mean, or their shares of classes, for every test row."""
    from vfl.losses import FAMILIES, normalise_weights  # scipy takes its time to import

    n = data.n_train
    family = next(family for family in FAMILIES.values() if family.task == data.job.task)
    relative = None if data.weights is None else normalise_weights(data.weights[:n])
    start = family.start(data.labels_to_fit[:n], relative, outputs)
    scores = np.tile(start, (data.n_test, 1))
    return family.mean(scores if data.job.task == "multiclass" else scores[:, 0])
