"""What silos' models are made one of: means by layer, who takes part, the server's step, the pull towards the server.

Pure functions over lists of arrays, one array per layer; states go in and come out. No messages, no masks.

Source: B. McMahan et al., *Communication-Efficient Learning of Deep Networks from Decentralized Data*, AISTATS 2017,
algorithm 1 (the mean by rows, clients drawn for each round); S. Reddi et al., *Adaptive Federated Optimization*, ICLR
2021, algorithms 1 and 2 (the server's step); T. Li et al., *Federated Optimization in Heterogeneous Networks*, MLSys
2020, equation 2 (the proximal term).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from parties.errors import ConfigError
from vfl.job import Averaging, Job, Rule
from vfl.optim import Vector

MOMENTUM = 0.9
ADAM_BETAS = (0.9, 0.99)
ADAM_TAU = 1e-3
"""Of the server's steps, as Reddi et al. have them (section 5)."""
_ADAM_RATE = 0.01


def weighted_mean(models: Sequence[Sequence[Vector]], weights: Sequence[float]) -> list[Vector]:
    """Mean of the silos' arrays.

    Parameters
    ----------
    models : sequence of lists of ndarray
        One list per silo, of the same shapes.
    weights : sequence of float
        One per silo, not negative, not all zero.

    Examples
    --------
    >>> weighted_mean([[np.zeros(2)], [np.full(2, 4.0)]], [3, 1])
    [array([1., 1.])]
    """
    total = math.fsum(weights)
    if min(weights, default=-1.0) < 0 or not 0 < total < math.inf:
        raise ValueError("expected weights that are not negative, and one above zero")
    sums = [
        np.sum([weight * array for weight, array in zip(weights, layer, strict=True)], axis=0)
        for layer in zip(*models, strict=True)
    ]
    return [np.asarray(layer / total) for layer in sums]


def simple_mean(models: Sequence[Sequence[Vector]]) -> list[Vector]:
    """Mean of the silos' arrays, each silo the same.

    >>> simple_mean([[np.zeros(2)], [np.full(2, 4.0)]])
    [array([2., 2.])]
    """
    return weighted_mean(models, [1.0] * len(models))


def combine_by_layer(
    models: Sequence[Sequence[Vector]], rules: Sequence[Rule], weights: Mapping[Rule, Sequence[float]]
) -> list[Vector]:
    """Mean of the silos' arrays, each array by a rule of its own.

    Parameters
    ----------
    rules : sequence of {"fedavg", "weighted", "simple"}
        One per array, as `rules_by_layer` finds them.
    weights : mapping of rule to the silos' weights

    Examples
    --------
    >>> models = [[np.zeros(1), np.zeros(1)], [np.ones(1), np.ones(1)]]
    >>> combine_by_layer(models, ["fedavg", "simple"], {"fedavg": [9, 1], "simple": [1, 1]})
    [array([0.1]), array([0.5])]
    """
    layers = zip(*models, strict=True)
    return [
        weighted_mean([[array] for array in layer], weights[rule])[0] for layer, rule in zip(layers, rules, strict=True)
    ]


def rules_by_layer(names: Sequence[str], settings: Averaging) -> list[Rule]:
    """The rule of each array: the longest entry of ``aggregation_by_layer`` that its name begins with, else the job's.

    Names have parts between dots, and an entry stands for whole parts: ``top.1`` is not the beginning of ``top.10``.

    Raises
    ------
    ConfigError
        An entry is the beginning of no name.

    Examples
    --------
    >>> job = Averaging(aggregation="fedavg", aggregation_by_layer={"top": "simple", "top.1": "weighted"})
    >>> rules_by_layer(["own.weight", "top.1.bias", "top.10.bias"], job)
    ['fedavg', 'weighted', 'simple']
    """
    entries = settings.aggregation_by_layer
    default: Rule = "fedavg" if settings.aggregation == "fedsgd" else settings.aggregation
    for entry in entries:
        if not any(_begins(name, entry) for name in names):
            raise ConfigError(
                f'training.aggregation_by_layer, got "{entry}", expected the beginning of a layer\'s name: '
                + ", ".join(names[:20])
            )
    found = (max((entry for entry in entries if _begins(name, entry)), key=len, default=None) for name in names)
    return [default if entry is None else entries[entry] for entry in found]


def _begins(name: str, entry: str) -> bool:
    return name == entry or name.startswith(f"{entry}.")


def count_drawn(settings: Averaging, silos: int) -> int:
    """How many of so many silos a round draws: their share, at least ``min_silos`` and 2 where there are so many.

    >>> count_drawn(Averaging(client_fraction=0.25), 10), count_drawn(Averaging(client_fraction=0.1), 10)
    (3, 2)
    """
    share = math.ceil(settings.client_fraction * silos - 1e-9)
    return min(max(share, settings.min_silos or 2, 2), silos)


def least_silos(job: Job) -> int:
    """The fewest silos whose sum the coordinator ever learns."""
    return job.averaging.min_silos or count_drawn(job.averaging, len(job.labelled))


def count_needed(settings: Averaging, asked: int) -> int:
    """How many of the silos asked must answer: all, or ``min_silos`` and more than half of them.

    More than half, so that no two lists of silos that answered can be told to different silos (`vfl.secure_sum`).

    >>> count_needed(Averaging(), 5), count_needed(Averaging(min_silos=2), 5)
    (5, 3)
    """
    return asked if settings.min_silos is None else max(settings.min_silos, asked // 2 + 1)


def draw_silos(names: Sequence[str], settings: Averaging, seed: int, round_number: int) -> list[str]:
    """Silos that take part in a round, drawn from the job's public seed; in the order given.

    >>> draw_silos(["a", "b", "c", "d"], Averaging(client_fraction=0.5), seed=0, round_number=1)
    ['b', 'c']
    """
    count = count_drawn(settings, len(names))
    if count == len(names):
        return list(names)
    drawn = int.from_bytes(hashlib.sha256(b"silos").digest()[:8])
    chosen = np.random.default_rng([drawn, seed, round_number]).choice(len(names), count, replace=False)
    return [names[place] for place in sorted(chosen.tolist())]


def proximal_gradient(weights: Sequence[Vector], begun: Sequence[Vector], mu: float) -> list[Vector]:
    """Gradient of ``mu / 2 |w - w_0|^2``, which holds a silo's weights near those that its round began with.

    >>> proximal_gradient([np.array([3.0])], [np.array([1.0])], 0.5)
    [array([1.])]
    """
    return [mu * (now - first) for now, first in zip(weights, begun, strict=True)]


@dataclass(frozen=True)
class ServerState:
    """What the server's optimizer remembers: running means of updates, and with Adam of their squares, per array."""

    first: tuple[Vector, ...] = field(default=(), repr=False)
    second: tuple[Vector, ...] = field(default=(), repr=False)


def server_step(
    settings: Averaging, weights: Sequence[Vector], update: Sequence[Vector], state: ServerState
) -> tuple[list[Vector], ServerState]:
    """Take the silos' mean update: as it is, or as the gradient of a momentum or Adam step.

    Parameters
    ----------
    weights : sequence of ndarray
        The joint model that the round began with.
    update : sequence of ndarray
        Mean over the silos of their new weights minus these.
    state : ServerState
        Empty at first, then what the last step returned.

    Examples
    --------
    >>> step, state = server_step(Averaging(server_optimizer="momentum"), [np.zeros(1)], [np.ones(1)], ServerState())
    >>> server_step(Averaging(server_optimizer="momentum"), step, [np.ones(1)], state)[0]
    [array([2.9])]
    """
    rate = settings.server_learning_rate
    if settings.server_optimizer == "average":
        return _move(weights, update, 1.0 if rate is None else rate), state
    before = state.first or tuple(np.zeros_like(each) for each in update)
    if settings.server_optimizer == "momentum":
        first = tuple(MOMENTUM * m + u for m, u in zip(before, update, strict=True))
        return _move(weights, first, 1.0 if rate is None else rate), ServerState(first)
    beta, gamma = ADAM_BETAS
    squares = state.second or tuple(np.full_like(each, ADAM_TAU**2) for each in update)
    first = tuple(beta * m + (1 - beta) * u for m, u in zip(before, update, strict=True))
    second = tuple(gamma * v + (1 - gamma) * u**2 for v, u in zip(squares, update, strict=True))
    steps = [m / (np.sqrt(v) + ADAM_TAU) for m, v in zip(first, second, strict=True)]
    return _move(weights, steps, _ADAM_RATE if rate is None else rate), ServerState(first, second)


def _move(weights: Sequence[Vector], steps: Sequence[Vector], rate: float) -> list[Vector]:
    return [weight + rate * step for weight, step in zip(weights, steps, strict=True)]
