"""PyTorch's optimizers without PyTorch, for the coordinator: it has summed gradients of a network, and no network.

The same arithmetic in the same order as ``torch.optim`` in its plain form, in float64: equal to it but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vfl.job import SplitNN
from vfl.optim import Vector

_BETAS = (0.9, 0.999)
_EPS = 1e-8
_RMSPROP_ALPHA = 0.99
_ADAGRAD_EPS = 1e-10


@dataclass(frozen=True)
class StepState:
    """What an optimizer remembers after so many steps: of every array running means, sums of squares or velocities."""

    steps: int = 0
    first: tuple[Vector, ...] = field(default=(), repr=False)
    second: tuple[Vector, ...] = field(default=(), repr=False)


def network_step(
    settings: SplitNN, weights: Sequence[Vector], gradient: Sequence[Vector], state: StepState
) -> tuple[list[Vector], StepState]:
    """One step of the job's optimizer.

    Parameters
    ----------
    weights, gradient : sequences of ndarray, float64
    state : StepState
        Empty at first, then what the last step returned.

    Examples
    --------
    >>> network_step(SplitNN(optimizer="sgd", learning_rate=0.5), [np.ones(1)], [np.ones(1)], StepState())[0]
    [array([0.5])]
    """
    zeros = tuple(np.zeros_like(weight) for weight in weights)
    remembered = zip(state.first or zeros, state.second or zeros, strict=True)
    moved = [
        _step(settings, weight, slope, first, second, state.steps + 1)
        for weight, slope, (first, second) in zip(weights, gradient, remembered, strict=True)
    ]
    new, first, second = (tuple(column) for column in zip(*moved, strict=True))
    return list(new), StepState(state.steps + 1, first, second)


def _step(
    settings: SplitNN, w: Vector, g: Vector, first: Vector, second: Vector, number: int
) -> tuple[Vector, Vector, Vector]:
    """One array's step: its new weights, and what is remembered of it."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adamw":
        w = w * (1 - rate * decay)
    elif decay:
        g = g + decay * w
    if settings.optimizer == "sgd":
        first = g if number == 1 else settings.momentum * first + g
        return w - rate * first, first, second
    if settings.optimizer == "adagrad":
        second = second + g * g
        return w - rate * g / (np.sqrt(second) + _ADAGRAD_EPS), first, second
    if settings.optimizer == "rmsprop":
        second = _RMSPROP_ALPHA * second + (1 - _RMSPROP_ALPHA) * g * g
        return w - rate * g / (np.sqrt(second) + _EPS), first, second
    beta, gamma = _BETAS
    first = first + (1 - beta) * (g - first)
    second = gamma * second + (1 - gamma) * g * g
    scale = np.sqrt(second) / np.sqrt(1 - gamma**number) + _EPS
    return w - rate / (1 - beta**number) * first / scale, first, second
