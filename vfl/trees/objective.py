"""What boosted trees minimise: start, gradients g and h, loss and prediction of each task, as XGBoost defines them.

==========  ===========  ===============  =================================
task        mean mu(z)   g                h
==========  ===========  ===============  =================================
binary      expit(z)     mu - y           max(mu (1 - mu), 1e-16)
regression  z            z - y            1
count       e^z          mu - y           e^(z + max_delta_step)
multiclass  softmax(z)   mu - one-hot(y)  max(2 mu (1 - mu), 1e-16)
==========  ===========  ===============  =================================

Source: T. Chen, C. Guestrin, *XGBoost: a scalable tree boosting system*, KDD 2016, equation 3; h of count and
multiclass as in the library (``count:poisson``, ``multi:softprob``). Scores z have shape (n, outputs), one output per
class for multiclass. Losses and means are those of ``vfl.losses``, for count without the constant log y!.

Labels may be estimates of labels (``vfl.label_dp``): numbers outside {0, 1}, or one row of class weights per row.

>>> objective = make_objective("binary", 1)
>>> objective.start(np.array([0.0, 1.0, 1.0, 1.0]), None, None).round(4).tolist()
[1.0986]
>>> g, h = objective.gradients(np.zeros((2, 1)), np.array([0.0, 1.0]))
>>> g.tolist(), h.tolist()
([[0.5], [-0.5]], [[0.25], [0.25]])
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from parties.errors import ConfigError
from vfl.label_dp import to_possible_shares

if TYPE_CHECKING:
    from vfl.losses import Family, Labels

Floats = NDArray[np.float64]

_LEAST_CURVATURE = 1e-16
_FAMILY = {"binary": "logistic", "regression": "linear", "count": "poisson", "multiclass": "softmax"}


@dataclass(frozen=True)
class Objective:
    """One task's objective as functions; all of them are deterministic and change none of their arguments.

    Attributes
    ----------
    task : {"binary", "regression", "count", "multiclass"}
    outputs : int
        Scores per row: the classes of multiclass, else 1.
    max_delta_step : float
        Part of h for counts, and the largest value of a leaf (0: no limit).
    start : (y, weights, base_score) -> ndarray of shape (outputs,)
        Scores that every row starts with: ``base_score`` (in the label's unit: a probability, a count, a number; for
        multiclass without effect, all classes alike), or for None the best constant of the weighted labels. Finite.
    gradients : (scores, y) -> (g, h), each of shape (n, outputs), float64
        First and second derivative of each row's loss, unweighted.
    loss : (scores, y, weights) -> float
        Weighted mean of the rows' losses, added exactly.
    predict : scores -> ndarray of shape (n,), multiclass (n, outputs)
        P(positive), the expected number, or the class probabilities.
    """

    task: str
    outputs: int
    max_delta_step: float
    start: Callable[[Labels, Floats | None, float | None], Floats]
    gradients: Callable[[Floats, Labels], tuple[Floats, Floats]]
    loss: Callable[[Floats, Labels, Floats | None], float]
    predict: Callable[[Floats], Floats]


def default_max_delta_step(task: str) -> float:
    """XGBoost's default.

    >>> default_max_delta_step("count"), default_max_delta_step("binary")
    (0.7, 0.0)
    """
    return 0.7 if task == "count" else 0.0


def make_objective(task: str, outputs: int, max_delta_step: float | None = None) -> Objective:
    """Objective of a task.

    Parameters
    ----------
    task : {"binary", "regression", "count", "multiclass"}
    outputs : int
    max_delta_step : float or None
        None: the task's default.
    """
    family = family_of(task)
    delta = default_max_delta_step(task) if max_delta_step is None else max_delta_step
    return Objective(
        task=task,
        outputs=outputs,
        max_delta_step=delta,
        start=partial(_start, family, outputs),
        gradients=partial(_gradients, family, delta),
        loss=partial(_loss, family),
        predict=lambda scores: family.mean(shaped(family, scores)),
    )


def family_of(task: str) -> Family:
    """The generalised linear model whose loss trees minimise in this task."""
    from vfl.losses import FAMILIES  # scipy takes its time to import, and passive parties do not need it

    return FAMILIES[_FAMILY[task]]


def shaped(family: Family, scores: Floats) -> Floats:
    """Scores as the families take them."""
    return scores if family.task == "multiclass" else scores[:, 0]


def _start(family: Family, outputs: int, y: Labels, weights: Floats | None, base_score: float | None) -> Floats:
    from vfl.losses import normalise_weights

    if base_score is not None:
        return np.full(outputs, _to_score(family.task, base_score))
    relative = None if weights is None else normalise_weights(weights)
    if family.task in ("binary", "multiclass"):
        y = to_possible_shares(y, relative)
    return family.start(y, relative, outputs)


def _to_score(task: str, base_score: float) -> float:
    """A first prediction in the label's unit as a score."""
    if task == "binary" and 0 < base_score < 1:
        return math.log(base_score) - math.log1p(-base_score)
    if task == "count" and 0 < base_score < math.inf:
        return math.log(base_score)
    if task == "regression" and math.isfinite(base_score):
        return base_score
    if task == "multiclass" and math.isfinite(base_score):
        return 0.0  # the same for all classes: softmax does not see it
    expected = {"binary": "a probability between 0 and 1", "count": "a number above 0"}.get(task, "a number")
    raise ConfigError(f"base_score in [training], got {base_score} for task '{task}', expected {expected}")


def _gradients(family: Family, max_delta_step: float, scores: Floats, y: Labels) -> tuple[Floats, Floats]:
    z = shaped(family, scores)
    g = family.residual(z, y)
    if family.task == "count":
        h = family.mean(z + max_delta_step)
    elif family.task == "regression":
        h = family.variance(z)
    else:
        h = np.maximum(family.variance(z) * (2 if family.task == "multiclass" else 1), _LEAST_CURVATURE)
    return g.reshape(scores.shape), h.reshape(scores.shape)


def _loss(family: Family, scores: Floats, y: Labels, weights: Floats | None) -> float:
    from vfl.losses import mean_loss, normalise_weights

    return mean_loss(family, shaped(family, scores), y, None if weights is None else normalise_weights(weights))
