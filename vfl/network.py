"""The active party's network: its own part of the first layer, and everything above.

Outputs of a row, with z the sum over the passive parties of their parts of the first layer (`vfl.epochs.Source`)::

    z + X_0 W_0 + b  ->  activation, dropout  ->  linear, activation, dropout for each of hidden  ->  linear

or, instead of what stands behind the first arrow, the user's own module. An output o is a score m + s o, m and s being
mean and standard deviation of the training labels where these are numbers, and log m + o where they are counts; else
it is o. Losses and predictions of scores are those of `vfl.losses`. What is minimised is the loss divided by s^2 for
numbers and by m for counts, so that step widths do not depend on the label's unit. For counts e^o goes on as a straight
line where it exceeds both 100 and twice the largest training count, in units of m: otherwise one row far out, with a
slope that grows as its loss, throws the training off its course.

Randomised classes (`vfl.label_dp`) come as estimates, outside 0 and 1, and the loss that is linear in them has no lower
bound: a network that knows its rows by heart drives it down without end. What is minimised instead is minus the log of
the probability that the randomised class has under the network's (G. Patrini et al., *Making deep neural networks
robust to label noise*, CVPR 2017, theorem 2: the same network is best for it). Losses told are the linear ones,
unbiased and perhaps negative.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from parties.errors import ConfigError, DataError, LocalProtocolError
from vfl.job import Job, SplitNN, Task
from vfl.losses import FAMILIES, Family, Labels, are_estimated, normalise_weights
from vfl.optim import Vector
from vfl.shard import Arrays
from vfl.torch_parts import (
    activate,
    calm,
    layers,
    make_optimizer,
    module_arrays,
    optimizer_arrays,
    restore_module,
    restore_optimizer,
    seed_of,
)

_BLOCK = 512  # rows judged at once, never fewer: a product's sums may be added in another order for other sizes
_LEAST_MEAN = 1e-12  # of counts, as in vfl.losses
_STEEPEST = 100.0  # slope from which on e^o is a straight line, at least


@dataclass(frozen=True)
class Step:
    """What was found before a step.

    Parameters
    ----------
    loss : float
        The batch's mean loss, in the label's unit.
    gradient : ndarray of shape (rows, units), float64
        Derivative by z of what is minimised.
    """

    loss: float
    gradient: Vector = field(repr=False)


@dataclass(frozen=True)
class LabelScale:
    """How the training labels are scaled for the network.

    Parameters
    ----------
    mean, deviation : float
        Of numbers; of counts the mean.
    steepest : float
        Of counts: largest slope of e^o; only training needs it.
    epsilon : float or None
        Of the randomised response that classes went through, where they are its estimates; only training needs it.

    Examples
    --------
    >>> LabelScale("regression", 10.0, 2.0).to_scores(np.array([0.5])).tolist()
    [11.0]
    """

    task: Task
    mean: float = 0.0
    deviation: float = 1.0
    steepest: float = _STEEPEST
    epsilon: float | None = None

    @property
    def family(self) -> Family:
        """Loss and mean of scores."""
        return next(family for family in FAMILIES.values() if family.task == self.task)

    def to_targets(self, y: Labels) -> Labels:
        """Labels as the network's outputs are held against them."""
        if self.task == "regression":
            return np.asarray((y - self.mean) / self.deviation)
        return np.asarray(y / self.mean) if self.task == "count" else y

    def to_scores(self, outputs: Vector) -> Vector:
        """Outputs of shape (rows, classes) as scores: (rows,), for multiclass tasks (rows, classes)."""
        if self.task == "multiclass":
            return outputs
        scores = outputs.reshape(-1)
        if self.task == "regression":
            return self.mean + self.deviation * scores
        return scores + math.log(self.mean) if self.task == "count" else scores


@dataclass(frozen=True)
class Network:
    """The active party's network, while it is trained and afterwards; steps change it in place.

    Parameters
    ----------
    own : torch.nn.Linear
        The active party's part of the first layer, with the bias; it may have no columns.
    top : torch.nn.Module
        What stands above the first layer.
    outputs : int
        Of the top: one per class for multiclass tasks, else 1.
    """

    settings: SplitNN
    label: LabelScale
    own: torch.nn.Linear
    top: torch.nn.Module
    outputs: int
    optimizer: torch.optim.Optimizer = field(repr=False)

    def step(self, z: Vector, X: Vector, y: Labels, weights: Vector | None, *, seed: int, steps: int = 1) -> Step:
        """Take steps on a batch, all of them with the same z.

        Parameters
        ----------
        z : ndarray of shape (rows, units), float64
        X : ndarray of shape (rows, columns), float64
        y : ndarray of shape (rows,), or estimates of shape (rows, classes)
        weights : ndarray of shape (rows,), or None
        seed : int
            Of dropout and whatever else is random in the top.
        steps : int
            At least 1.

        Returns
        -------
        Step
            Loss and gradient before the first step.
        """
        with calm(seed):
            self.top.train()
            summed = self._tensor(z).requires_grad_()
            outputs = self._minimise(summed, X, y, weights)
            gradient = torch.zeros_like(summed) if summed.grad is None else summed.grad
            for _ in range(steps - 1):
                self._minimise(summed.detach(), X, y, weights)
        losses = self.label.family.row_losses(self.label.to_scores(outputs), y)
        losses = losses if weights is None else losses * weights
        return Step(math.fsum(losses.tolist()) / len(losses), gradient.double().numpy())

    def losses(self, z: Vector, X: Vector, y: Labels) -> Vector:
        """Loss of each row in the label's unit, nothing dropped out; shapes as in `step`."""
        return self.label.family.row_losses(self.label.to_scores(self._judge(z, X)), y)

    def predict(self, z: Vector, X: Vector) -> Vector:
        """P(positive), class probabilities of shape (rows, classes), or numbers in the label's unit.

        Parameters
        ----------
        z : ndarray of shape (rows, units), float64
        X : ndarray of shape (rows, columns), float64
        """
        return self.label.family.mean(self.label.to_scores(self._judge(z, X)))

    def minimised(self, summed: torch.Tensor, X: Vector, y: Labels) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs of shape (rows, outputs), and what is minimised of each row, for autograd to go through."""
        outputs = called(self.top, summed + self.own(self._tensor(X)), self.outputs)
        return outputs, row_losses(self.label, outputs, self.target(y))

    def weights(self) -> Arrays:
        """What predictions need: all weights, and how labels are scaled."""
        label = np.array([self.label.mean, self.label.deviation])
        return {**module_arrays(self.own, "own."), **module_arrays(self.top, "top."), "label": label}

    def state(self) -> Arrays:
        """What training needs to go on as if nothing had been."""
        return {**self.weights(), **optimizer_arrays(self.optimizer, "optimizer.")}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take on `weights` or `state` of the same job's network; arrays of other names are left alone.

        Raises
        ------
        DataError
            They are another network's.
        """
        restore_module(self.own, arrays, "own.")
        restore_module(self.top, arrays, "top.")
        restore_optimizer(self.optimizer, self.settings, arrays, "optimizer.")

    def _minimise(self, summed: torch.Tensor, X: Vector, y: Labels, weights: Vector | None) -> Vector:
        """One step; the outputs before it."""
        self.optimizer.zero_grad()
        outputs, losses = self.minimised(summed, X, y)
        torch.autograd.backward((losses if weights is None else losses * self._tensor(weights)).mean())
        self.optimizer.step()
        return outputs.detach().double().numpy()

    def _judge(self, z: Vector, X: Vector) -> Vector:
        """Outputs of shape (rows, outputs), float64; those of a row do not depend on how many others there are."""
        found = np.zeros((len(z), self.outputs))
        with calm(), torch.no_grad():
            self.top.train(False)
            for start in range(0, len(z), _BLOCK):
                part = slice(start, start + _BLOCK)
                missing = ((0, _BLOCK - len(z[part])), (0, 0))
                summed, own = self._tensor(np.pad(z[part], missing)), self._tensor(np.pad(X[part], missing))
                outputs = called(self.top, summed + self.own(own), self.outputs)
                found[part] = outputs.double().numpy()[: len(z[part])]
        return found

    def _tensor(self, values: Vector) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.own.weight.dtype)

    def target(self, y: Labels) -> torch.Tensor:
        """What outputs are held against; class codes stay integers."""
        targets = self.label.to_targets(y)
        if np.issubdtype(targets.dtype, np.integer):
            return torch.from_numpy(targets)
        return self._tensor(np.asarray(targets, dtype=np.float64))


def make_network(
    job: Job,
    columns: int,
    outputs: int,
    y: Labels,
    *,
    weights: Vector | None = None,
    module: object = None,
    fan_in: int | None = None,
) -> Network:
    """Make the active party's network with the weights that it begins with.

    Parameters
    ----------
    columns : int
        Encoded columns of the active party; none for one that has labels only.
    outputs : int
        One per class for multiclass tasks, else 1.
    y : ndarray of shape (n,) or (n, classes)
        Training labels, of which the scale is taken.
    weights : ndarray of shape (n,), or None
        Their sample weights.
    module : torch.nn.Module or None
        The user's own top, of which a copy is trained: it takes the first layer's outputs before any activation, of
        shape (rows, units), and returns (rows, outputs), or (rows,) if that is 1.
    fan_in : int or None
        Encoded columns of all parties, which decide how wide the first weights spread; None: the own ones.

    Raises
    ------
    ConfigError
        The module is none, or does not do that.
    """
    label = _fit_label(job, y, weights)
    return build(job, columns, outputs, label, module, fan_in or columns)


def load_network(
    job: Job, columns: int, outputs: int, arrays: Mapping[str, NDArray[np.generic]], *, module: object = None
) -> Network:
    """Rebuild a network from its `Network.weights`.

    Parameters
    ----------
    module : torch.nn.Module or None
        As in training; its own weights do not matter.

    Raises
    ------
    DataError
        The arrays are another network's.
    ConfigError
        As `make_network`.
    """
    scale = arrays.get("label")
    if scale is None or scale.shape != (2,) or scale.dtype != np.float64 or not np.isfinite(scale).all():
        raise DataError("a network's weights: label is missing or damaged, expected two numbers; train again")
    mean, deviation = (float(value) for value in np.asarray(scale, dtype=np.float64))
    if not deviation > 0 or (job.task == "count" and not mean > 0):
        raise DataError("a network's weights: the label's scale is not above 0; train again")
    network = build(job, columns, outputs, LabelScale(job.task, mean, deviation), module, columns)
    network.restore(arrays)
    return network


def build(job: Job, columns: int, outputs: int, label: LabelScale, module: object, fan_in: int) -> Network:
    """Make a network with its first weights, whose labels are scaled so; see `make_network`."""
    settings = job.splitnn
    with calm(seed_of(job.seed, "top")):
        if module is None:
            widths = (settings.units, *settings.hidden, outputs)
            above = layers(widths, settings.activation, settings.dropout)
            top: torch.nn.Module = torch.nn.Sequential(*activate(settings.activation, settings.dropout), *above)
        else:
            top = own_top(module, settings.units, outputs)
    with calm(seed_of(job.seed, "own")):
        own = _first_layer(columns, settings.units, max(fan_in, 1), _dtype(top))
    optimizer = make_optimizer(settings, [*own.parameters(), *top.parameters()])
    return Network(settings, label, own, top, outputs, optimizer)


def _first_layer(columns: int, units: int, fan_in: int, dtype: torch.dtype) -> torch.nn.Linear:
    """The active party's columns of a linear layer over ``fan_in`` columns, drawn as torch draws such layers."""
    own = torch.nn.Linear(max(columns, 1), units, device="cpu", dtype=dtype)
    own.in_features = columns
    bound = 1 / math.sqrt(fan_in)
    own.weight = torch.nn.Parameter(torch.empty((units, columns), dtype=dtype).uniform_(-bound, bound))
    own.bias = torch.nn.Parameter(torch.empty(units, dtype=dtype).uniform_(-bound, bound))
    return own


def own_top(module: object, units: int, outputs: int) -> torch.nn.Module:
    """A copy of the user's module on the CPU, tried on two rows of zeros.

    Raises
    ------
    ConfigError
        It is no module, ends with an error, or returns something else than (rows, outputs).
    """
    if not isinstance(module, torch.nn.Module):
        raise ConfigError(f"top, got {type(module).__name__}, expected a torch.nn.Module that takes (rows, {units})")
    try:
        top = copy.deepcopy(module).to("cpu")
    except Exception as error:
        raise ConfigError(f"top, got a module that cannot be copied: {_first_line(error)}") from None
    top.train(False)
    tried = called(top, torch.zeros((2, units), dtype=_dtype(top), requires_grad=True), outputs)
    if not tried.requires_grad:
        raise ConfigError("top, got a module whose outputs have no gradient, expected one that backward() goes through")
    _check_dtypes(top)
    return top


def _check_dtypes(top: torch.nn.Module) -> None:
    """Weights that can be kept: numpy has their dtype."""
    try:
        module_arrays(top, "top.")
    except TypeError:
        raise ConfigError("top, got weights of a dtype that numpy lacks, expected float32; top.float()") from None


def _dtype(top: torch.nn.Module) -> torch.dtype:
    """The dtype of the first parameter that is one of numbers; of a module without any, torch's usual one."""
    return next((p.dtype for p in top.parameters() if p.is_floating_point()), torch.float32)


def called(top: torch.nn.Module, inputs: torch.Tensor, outputs: int) -> torch.Tensor:
    """The top's outputs, of shape (rows, outputs)."""
    try:
        found = top(inputs)
    except Exception as error:  # it may be anybody's code
        raise ConfigError(
            f"top, got an error for {len(inputs)} rows of {inputs.shape[1]} units: {_first_line(error)}"
        ) from None
    shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
    if shape == (len(inputs), outputs) or (outputs == 1 and shape == (len(inputs),)):
        tensor: torch.Tensor = found
        return tensor.reshape(len(inputs), outputs)
    raise ConfigError(f"top, got {shape} for {len(inputs)} rows, expected a tensor of shape (rows, {outputs})")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'without a text'}"


def row_losses(label: LabelScale, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """What is minimised, of shape (rows,); classes may be estimates, outside 0 and 1."""
    if label.epsilon is not None:
        return _response_losses(label.epsilon, outputs, targets)
    if label.task == "multiclass":
        if targets.ndim == 1:
            return functional.cross_entropy(outputs, targets, reduction="none")
        return -(targets * functional.log_softmax(outputs, dim=1)).sum(dim=1)
    scores = outputs[:, 0]
    if label.task == "regression":
        return (scores - targets) ** 2 / 2
    if label.task == "count":
        bend = math.log(label.steepest)
        beyond = functional.relu(scores - bend)
        return torch.exp(scores - beyond) + label.steepest * beyond - targets * scores
    return functional.softplus(scores, threshold=50) - targets * scores


def _response_losses(epsilon: float, outputs: torch.Tensor, estimates: torch.Tensor) -> torch.Tensor:
    """-log of the probability of the randomised class, (p_c + a) / (1 + K a) with a = 1 / (e^epsilon - 1)."""
    if estimates.ndim == 1:
        outputs = torch.column_stack([torch.zeros_like(outputs), outputs])
        estimates = torch.column_stack([1 - estimates, estimates])
    base = 1 / math.expm1(epsilon)
    whole = 1 + outputs.shape[1] * base
    chosen = (estimates + base) / whole  # 1 for the randomised class, 0 for the others
    logs = functional.log_softmax(outputs, dim=1)
    return math.log(whole) - (chosen * torch.logaddexp(logs, torch.full_like(logs, math.log(base)))).sum(dim=1)


def _fit_label(job: Job, y: Labels, weights: Vector | None) -> LabelScale:
    """Mean and standard deviation of numbers, the mean of counts, whether classes are estimates."""
    task = job.task
    if task not in ("regression", "count"):
        label = LabelScale(task)
        return replace(label, epsilon=job.privacy.label_dp_epsilon) if are_estimated(label.family, y) else label
    if not len(y):
        raise LocalProtocolError("labels of no rows have no scale")
    relative = np.ones(len(y)) if weights is None else normalise_weights(weights)
    mean = math.fsum((y * relative).tolist()) / len(y)
    if task == "count":
        mean = max(mean, _LEAST_MEAN)
        return LabelScale(task, mean, steepest=max(_STEEPEST, 2 * float(y.max()) / mean))
    variance = math.fsum(((y - mean) ** 2 * relative).tolist()) / len(y)
    return LabelScale(task, mean, math.sqrt(variance) or 1.0)
