"""A silo's own copy of a neural network where silos average or add up (horizontal learning): model splitnn, undivided.

The network is that of `vfl.network` over all columns: one linear layer of ``units`` outputs, the activation, one layer
for each of ``hidden``, one output per score; in float64, so that gradients added up over silos are those of pooled rows
but for rounding. Its parameters are averaged by name: ``own.weight``, ``own.bias``, ``top.1.weight``, ...

Sources as in `vfl.local_models`, which says what a `LocalModel` does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import functional_call, grad, vmap

from parties.errors import ConfigError, DataError
from vfl.epochs import draw_batches
from vfl.job import Job
from vfl.local_models import Sums, check_weights, label_moments, local_batches
from vfl.losses import Labels
from vfl.network import LabelScale, Network, build, called, row_losses
from vfl.optim import Vector
from vfl.silo_privacy import SiloNoise
from vfl.terms import Integers
from vfl.torch_parts import calm, make_optimizer, seed_of

_LEAST_MEAN = 1e-12  # of counts, as in vfl.losses
_STEEPEST = 100.0
_CELLS = 1 << 22  # of the rows' own gradients that are worked out at once
_MAGNITUDES = range(64)


class Whole(torch.nn.Module):
    """The first layer and all above it as one module, which names the parameters."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.own, self.top, self.outputs = network.own, network.top, network.outputs

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Outputs of shape (rows, outputs)."""
        return called(self.top, self.own(X), self.outputs)


@dataclass(frozen=True)
class LocalNetwork:
    """A silo's end of a neural network.

    Parameters
    ----------
    X : ndarray of shape (n, d), float64
        Encoded columns of the silo's training rows.
    y : ndarray of shape (n,)
        Their labels.
    sample_weights : ndarray of shape (n,), or None
        Scaled to mean 1 over the training rows of all silos.
    first : tuple of ndarray
        Weights to begin with.
    own_module : bool
        The layers above the first one are the user's own.
    noise : SiloNoise or None
        Where the job asks for differential privacy.
    """

    job: Job
    silo: str
    X: Vector = field(repr=False)
    y: Labels = field(repr=False)
    sample_weights: Vector | None = field(repr=False)
    network: Network = field(repr=False)
    first: tuple[Vector, ...] = field(repr=False)
    own_module: bool = False
    noise: SiloNoise | None = None

    @property
    def whole(self) -> Whole:
        """All layers."""
        return Whole(self.network)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters."""
        return tuple(name for name, _ in self.whole.named_parameters())

    @property
    def penalty(self) -> tuple[float, ...]:
        """None: weight_decay is the optimizer's business."""
        return (0.0,) * len(self.names)

    @property
    def weight(self) -> float:
        """Sum of the sample weights."""
        return len(self.y) if self.sample_weights is None else math.fsum(self.sample_weights.tolist())

    @property
    def rows(self) -> int:
        """Training rows of this silo."""
        return len(self.y)

    def start(self) -> list[Vector]:
        """The weights drawn from the job's seed; those of the user's own layers as they were."""
        return [array.copy() for array in self.first]

    def gradient(self, weights: Sequence[Vector], rows: Integers | None = None) -> tuple[float, list[Vector]]:
        """Sums over training rows of this silo (None: all) of their weighted losses and gradients."""
        rows = np.arange(len(self.y)) if rows is None else rows
        if not len(rows):
            return 0.0, [np.zeros_like(array) for array in weights]
        with calm(_seed(self.job, self.silo, weights, rows)):
            whole = self._load(weights, training=True)
            whole.zero_grad()
            outputs = self._backward(whole, rows, mean=False)
            return self._loss(outputs, rows), _gradients(whole)

    def noisy_gradient(self, weights: Sequence[Vector], round_number: int) -> tuple[float, list[Vector]]:
        """An estimate of the sums over all rows of this silo, clipped and with its noise; the loss is not told: 0."""
        with calm(seed_of(self.job.seed, "noisy", self.silo, round_number)):
            whole = self._load(weights, training=True)
            return 0.0, self._noisy(whole, (round_number, 0))

    def train(self, weights: Sequence[Vector], round_number: int) -> tuple[float, list[Vector]]:
        """Sum of the losses before (with noise: 0), and the weights after the local epochs.

        Raises
        ------
        DataError
            The training diverges.
        """
        with calm(seed_of(self.job.seed, "local steps", self.silo, round_number)):
            whole = self._load(weights, training=True)
            loss = 0.0 if self.noise else self._whole_loss()
            whole.train(True)
            start = [torch.from_numpy(np.array(array)) for array in weights]
            optimizer = make_optimizer(self.job.splitnn, whole.parameters())
            for fill in self._steps(whole, round_number):
                optimizer.zero_grad()
                fill()
                for parameter, begun in zip(whole.parameters(), start, strict=True):
                    if parameter.grad is not None and self.job.splitnn.proximal:
                        parameter.grad += self.job.splitnn.proximal * (parameter.detach() - begun)
                optimizer.step()
            found = _arrays(whole)
        check_weights(found, round_number)
        return loss, found

    def fit(self, epochs: int) -> list[Vector]:
        """The weights after so many passes over the rows in batches drawn as those of all silos' rows together.

        Raises
        ------
        DataError
            The training diverges.
        """
        lines = self.job.splitnn
        with calm():
            whole = self._load(self.start(), training=True)
            optimizer = make_optimizer(lines, whole.parameters())
            for epoch in range(epochs):
                for number, batch in enumerate(draw_batches(len(self.y), lines.batch_size, self.job.seed, epoch)):
                    torch.manual_seed(seed_of(self.job.seed, "step", epoch, number))
                    optimizer.zero_grad()
                    self._backward(whole, batch, mean=True)
                    optimizer.step()
            found = _arrays(whole)
        check_weights(found, epochs)
        return found

    def losses(self, weights: Sequence[Vector]) -> Vector:
        """Loss of each training row in the label's unit, nothing dropped out."""
        with calm():
            self._load(weights, training=False)
            return self.network.losses(self._zeros(len(self.y)), self.X, self.y)

    def predict(self, weights: Sequence[Vector], X: Vector) -> Vector:
        """P(positive), class probabilities of shape (rows, classes), or numbers in the label's unit."""
        with calm():
            self._load(weights, training=False)
            return self.network.predict(self._zeros(len(X)), X)

    def _steps(self, whole: Whole, round_number: int) -> Iterator[Callable[[], object]]:
        """What fills in the parameters' gradients, for each step of a round."""
        if self.noise is not None:
            for step in range(self.noise.steps):
                yield partial(self._fill, whole, (round_number, step))
            return
        for batch in local_batches(self.job, self.silo, len(self.y), round_number):
            yield partial(self._backward, whole, batch, mean=True)

    def _backward(self, whole: Whole, rows: Integers, *, mean: bool) -> Vector:
        """Gradients of what is minimised over some rows; the outputs."""
        summed = torch.zeros((len(rows), self.network.settings.units), dtype=torch.float64)
        outputs, losses = self.network.minimised(summed, self.X[rows], self.y[rows])
        if self.sample_weights is not None:
            losses = losses * torch.from_numpy(self.sample_weights[rows])
        torch.autograd.backward(losses.mean() if mean else losses.sum())
        return outputs.detach().numpy()

    def _fill(self, whole: Whole, place: tuple[int, int]) -> None:
        """Mean gradients with noise."""
        for parameter, array in zip(whole.parameters(), self._noisy(whole, place), strict=True):
            parameter.grad = torch.from_numpy(array / len(self.y))

    def _noisy(self, whole: Whole, place: tuple[int, int]) -> list[Vector]:
        """Rows drawn, clipped, added up, with noise."""
        if self.noise is None:
            raise ValueError("noise is asked for, and the job has none")
        draw = self.noise.at(place, _arrays(whole))
        sums = [np.zeros(tuple(parameter.shape)) for parameter in whole.parameters()]
        rows = draw.rows(len(self.y))
        size = max(1, _CELLS // max(1, sum(array.size for array in sums)))
        for at in range(0, len(rows), size):
            found = self._row_gradients(whole, rows[at : at + size])
            norms = np.sqrt(sum((array.reshape(len(array), -1) ** 2).sum(axis=1) for array in found))
            shrink = self.noise.shrink(norms)
            for total, array in zip(sums, found, strict=True):
                total += np.einsum("i,i...->...", shrink, array)
        return draw.release(sums)

    def _row_gradients(self, whole: Whole, rows: Integers) -> list[Vector]:
        """Gradient of each row's own weighted loss: arrays of shape (rows, ...)."""
        relative = np.ones(len(rows)) if self.sample_weights is None else self.sample_weights[rows]
        X, y, w = torch.from_numpy(self.X[rows]), self.network.target(self.y[rows]), torch.from_numpy(relative)
        parameters = {name: parameter.detach() for name, parameter in whole.named_parameters()}

        def loss(given: dict[str, torch.Tensor], x: torch.Tensor, target: torch.Tensor, scale: torch.Tensor) -> Any:
            outputs = functional_call(whole, given, (x[None],))
            return (row_losses(self.network.label, outputs, target[None]) * scale).sum()

        if self.own_module:  # anybody's code, which may not be one that can be vectorised
            found = [grad(loss)(parameters, *row) for row in zip(X, y, w, strict=True)]
            return [torch.stack([row[name] for row in found]).numpy() for name in parameters]
        each = vmap(grad(loss), in_dims=(None, 0, 0, 0), randomness="different")(parameters, X, y, w)
        return [each[name].numpy() for name in parameters]

    def _load(self, weights: Sequence[Vector], *, training: bool) -> Whole:
        """The network with these weights."""
        whole = self.whole
        _copy(whole, dict(zip(self.names, weights, strict=True)))
        return whole.train(training)

    def _whole_loss(self) -> float:
        losses = self.network.losses(self._zeros(len(self.y)), self.X, self.y)
        return math.fsum((losses if self.sample_weights is None else losses * self.sample_weights).tolist())

    def _loss(self, outputs: Vector, rows: Integers) -> float:
        """Sum of the rows' losses in the label's unit."""
        label = self.network.label
        losses = label.family.row_losses(label.to_scores(outputs), self.y[rows])
        return math.fsum((losses if self.sample_weights is None else losses * self.sample_weights[rows]).tolist())

    def _zeros(self, rows: int) -> Vector:
        return np.zeros((rows, self.network.settings.units))


def make_local_network(
    job: Job,
    silo: str,
    X: Vector,
    y: Labels,
    sample_weights: Vector | None,
    label: LabelScale,
    outputs: int,
    *,
    module: object = None,
    noise: SiloNoise | None = None,
) -> LocalNetwork:
    """A silo's copy of the network, with the weights that all silos begin with.

    Parameters
    ----------
    module : torch.nn.Module or None
        The user's own layers above the first one, as `vfl.network.make_network` takes them.

    Raises
    ------
    ConfigError
        The module is none that can be averaged.
    """
    network = _double(build(job, X.shape[1], outputs, label, module, X.shape[1]))
    if any(True for _ in network.top.buffers()):
        raise ConfigError(
            "top, got a module with buffers, such as batch normalisation's, which silos cannot average; expected "
            "parameters only; take layer normalisation instead"
        )
    first = tuple(_arrays(Whole(network)))
    return LocalNetwork(job, silo, X, y, sample_weights, network, first, module is not None, noise)


def agree_label_scale(job: Job, y: Labels, sample_weights: Vector | None, siblings: Sums) -> LabelScale:
    """How the labels of all silos' training rows are scaled, from sums over them; see `vfl.network.LabelScale`.

    Raises
    ------
    DataError
        All labels are the same.
    """
    task = job.task
    if task not in ("regression", "count"):
        return LabelScale(task)
    relative = np.ones(len(y)) if sample_weights is None else sample_weights
    mean, deviation = label_moments(y, relative, siblings)
    if not deviation:
        raise DataError(
            "the labels of all training rows are the same, expected at least two values; there is nothing to learn"
        )
    if task == "regression":
        return LabelScale(task, mean, deviation)
    beyond = np.array([bool((y > 2.0**bit).any()) for bit in _MAGNITUDES], dtype=np.int64)
    largest = 2.0 ** int((siblings.words("counts", beyond) > 0).sum())
    mean = max(mean, _LEAST_MEAN)
    return LabelScale(task, mean, steepest=max(_STEEPEST, 2 * largest / mean))


def rebuild(
    job: Job,
    columns: int,
    outputs: int,
    weights: Mapping[str, NDArray[np.generic]],
    label: NDArray[np.generic],
    *,
    module: object = None,
) -> Network:
    """Make a network of kept weights.

    Parameters
    ----------
    columns, outputs : int
        Encoded columns, and scores per row.
    weights : mapping of parameter name to ndarray
    label : ndarray of shape (2,), float64
        Mean and deviation of the training labels.
    module : torch.nn.Module or None
        The user's own layers, as in training; their own weights do not matter.

    Raises
    ------
    DataError
        The weights are another network's.
    ConfigError
        The module does not fit.
    """
    if label.shape != (2,) or label.dtype != np.float64 or not np.isfinite(label).all() or not label[1] > 0:
        raise DataError("a network's weights: label is damaged, expected mean and deviation; train again")
    mean, deviation = (float(value) for value in np.asarray(label, dtype=np.float64))
    if job.task == "count" and not mean > 0:
        raise DataError("a network's weights: the mean of counts is not above 0; train again")
    network = _double(build(job, columns, outputs, LabelScale(job.task, mean, deviation), module, columns))
    _copy(Whole(network), weights)
    return network


def predict_with(
    job: Job,
    columns: int,
    outputs: int,
    weights: Mapping[str, NDArray[np.generic]],
    label: NDArray[np.generic],
    X: Vector,
    *,
    module: object = None,
) -> Vector:
    """Predictions by kept weights, see `rebuild`: P(positive), class probabilities of shape (n, classes), or numbers.

    Parameters
    ----------
    X : ndarray of shape (n, columns), float64
    """
    network = rebuild(job, columns, outputs, weights, label, module=module)
    return network.predict(np.zeros((len(X), job.splitnn.units)), X)


def _double(network: Network) -> Network:
    network.own.double()
    network.top.double()
    return network


def _arrays(whole: Whole) -> list[Vector]:
    return [parameter.detach().numpy().copy() for parameter in whole.parameters()]


def _gradients(whole: Whole) -> list[Vector]:
    return [
        np.zeros(tuple(parameter.shape)) if parameter.grad is None else parameter.grad.numpy().copy()
        for parameter in whole.parameters()
    ]


def _copy(whole: Whole, weights: Mapping[str, NDArray[np.generic]]) -> None:
    """Take on weights by name."""
    parameters = dict(whole.named_parameters())
    if set(parameters) != set(weights):
        name = sorted(set(parameters) ^ set(weights))[0]
        raise DataError(f"a network's weights: {name} is missing or too many; are they those of another network?")
    with torch.no_grad():
        for name, parameter in parameters.items():
            array = weights[name]
            if array.shape != tuple(parameter.shape) or array.dtype != np.float64:
                raise DataError(
                    f"a network's weights: {name} is {array.dtype} of shape {array.shape}, expected float64 of shape "
                    f"{tuple(parameter.shape)}; are they those of another network?"
                )
            parameter.copy_(torch.from_numpy(np.array(array)))


def _seed(job: Job, silo: str, weights: Sequence[Vector], rows: Integers) -> int:
    """Of dropout: follows from the rows and the weights, so that it is the same where a round is played again."""
    digest = hashlib.sha256(rows.tobytes())
    for array in weights:
        digest.update(np.ascontiguousarray(array).tobytes())
    return seed_of(job.seed, "batch", silo, digest.hexdigest())
