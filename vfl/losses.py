"""The four GLM families: mean, loss, residual and curvature as functions of the linear predictor z.

===========  ==========  ===============  =====================================  ================
family       task        mean mu(z)       row loss l(z, y)                       curvature bound
===========  ==========  ===============  =====================================  ================
logistic     binary      1 / (1 + e^-z)   log(1 + e^z) - y z                     1/4
linear       regression  z                (z - y)^2 / 2                          1
poisson      count       e^z              e^z - y z (log y! dropped: constant)   mean of y
softmax      multiclass  e^z_c / sum e^z  log sum_c e^z_c - z_y                  1/2
===========  ==========  ===============  =====================================  ================

For all four the derivative of l by z is the residual mu(z) - y (softmax: y as a 0/1 row). z has shape (n,), for softmax
(n, classes). Nothing overflows: e^z is cut at z = 500 for poisson, far beyond any count, so that losses stay finite
and a line search can see that it went too far.

Labels of logistic and softmax may be estimates (``vfl.label_dp``): numbers outside {0, 1}, for softmax of shape
(n, classes) with rows that add up to 1. The losses are linear in the label, hence unbiased; they can be negative.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp, softmax

from parties.errors import DataError

Floats = NDArray[np.float64]
Labels = NDArray[np.float64] | NDArray[np.int64]

_EXPONENT_LIMIT = 500.0


class Curvature(Protocol):
    """Constant of the preconditioner, from the labels and, where given, the sample weights."""

    def __call__(self, y: Labels, weights: Floats | None = None, /) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class Family:
    """One GLM as functions.

    Attributes
    ----------
    name, task : str
    mean : z -> mu, same shape as z
    row_losses : (z, y) -> ndarray of shape (n,)
    residual : (z, y) -> mu(z) - y, same shape as z
    curvature : (y, weights=None) -> float
        Constant c of the preconditioner c X'X / n: a bound of the second derivative (poisson: its mean at the start).
    variance : z -> second derivative of the row loss by z (softmax: the diagonal), same shape as z
    start : (y, weights, n_classes) -> intercepts that fit the (weighted) training mean, shape (1,) or (classes,)
    """

    name: str
    task: str
    mean: Callable[[Floats], Floats]
    row_losses: Callable[[Floats, Labels], Floats]
    residual: Callable[[Floats, Labels], Floats]
    curvature: Curvature
    variance: Callable[[Floats], Floats]
    start: Callable[[Labels, Floats | None, int], Floats]


def normalise_weights(weights: Floats) -> Floats:
    """Scale sample weights to mean 1, so that ``l2`` keeps its meaning.

    Raises
    ------
    DataError
        The weights of these rows are all zero.
    """
    largest = float(weights.max(initial=0.0))
    if not largest > 0:
        raise DataError("the sample weights of the training rows are all zero; expected a positive one; correct them")
    # A power of two, so that it rounds nothing and the result does not depend on it; without it sums could overflow.
    relative = np.ldexp(weights, -np.frexp(largest)[1])
    return np.asarray(relative * (len(relative) / math.fsum(relative.tolist())))


def are_estimated(family: Family, y: Labels) -> bool:
    """Whether labels are estimates of classes, not classes.

    >>> are_estimated(LOGISTIC, np.array([0.0, 1.0])), are_estimated(LOGISTIC, np.array([-0.5, 1.5]))
    (False, True)
    """
    if family.name == "softmax":
        return y.ndim == 2
    return family.name == "logistic" and bool(((y != 0) & (y != 1)).any())


def mean_loss(family: Family, z: Floats, y: Labels, weights: Floats | None = None) -> float:
    """Mean of the row losses, added exactly (``math.fsum``), so that it does not depend on the order of rows.

    Parameters
    ----------
    z : ndarray of shape (n,) or (n, classes)
    y : ndarray of shape (n,), or estimates of shape (n, classes)
    weights : ndarray of shape (n,), mean 1, or None
    """
    losses = family.row_losses(z, y)
    if weights is not None:
        losses = losses * weights
    return math.fsum(losses.tolist()) / len(losses)


def _weighted_mean(y: Labels, weights: Floats | None) -> float:
    values = np.asarray(y, dtype=np.float64)
    return math.fsum((values if weights is None else values * weights).tolist()) / len(values)


def _positive_mean(y: Labels, weights: Floats | None = None, /) -> float:
    return max(_weighted_mean(y, weights), 1e-12)


def _constant(value: float) -> Curvature:
    def curvature(y: Labels, weights: Floats | None = None, /) -> float:
        return value

    return curvature


def _logit(share: float) -> float:
    """Log-odds, finite for shares of 0 and 1."""
    share = min(max(share, 1e-12), 1 - 1e-12)
    return math.log(share) - math.log1p(-share)


def _logistic_losses(z: Floats, y: Labels) -> Floats:
    return np.asarray(np.logaddexp(0.0, z) - y * z)


def _logistic_variance(z: Floats) -> Floats:
    return np.asarray(expit(z) * expit(-z))


def _poisson_mean(z: Floats) -> Floats:
    return np.asarray(np.exp(np.minimum(z, _EXPONENT_LIMIT)))


def _softmax_mean(z: Floats) -> Floats:
    return np.asarray(softmax(z, axis=1))


def _one_hot(y: Labels, n_classes: int) -> Floats:
    """Classes as 0/1 rows; estimates as they are."""
    if y.ndim == 2:
        return np.asarray(y, dtype=np.float64)
    return np.asarray(y[:, None] == np.arange(n_classes), dtype=np.float64)


def _softmax_losses(z: Floats, y: Labels) -> Floats:
    if y.ndim == 2:
        chosen = (y * z).sum(axis=1)
    else:
        chosen = np.take_along_axis(z, np.asarray(y, dtype=np.int64)[:, None], axis=1)[:, 0]
    return np.asarray(logsumexp(z, axis=1) - chosen)


def _softmax_variance(z: Floats) -> Floats:
    mu = _softmax_mean(z)
    return np.asarray(mu * (1 - mu))


def _softmax_start(y: Labels, weights: Floats | None, n_classes: int) -> Floats:
    shares = [_weighted_mean(column, weights) for column in _one_hot(y, n_classes).T]
    logs = np.log(np.maximum(shares, 1e-12))
    return np.asarray(logs - logs.mean())


LOGISTIC = Family(
    name="logistic",
    task="binary",
    mean=lambda z: np.asarray(expit(z)),
    row_losses=_logistic_losses,
    residual=lambda z, y: np.asarray(expit(z) - y),
    curvature=_constant(0.25),
    variance=_logistic_variance,
    start=lambda y, weights, n_classes: np.array([_logit(_weighted_mean(y, weights))]),
)

LINEAR = Family(
    name="linear",
    task="regression",
    mean=lambda z: z,
    row_losses=lambda z, y: np.asarray((z - y) ** 2 / 2),
    residual=lambda z, y: np.asarray(z - y),
    curvature=_constant(1.0),
    variance=lambda z: np.ones_like(z),
    start=lambda y, weights, n_classes: np.array([_weighted_mean(y, weights)]),
)

POISSON = Family(
    name="poisson",
    task="count",
    mean=_poisson_mean,
    row_losses=lambda z, y: np.asarray(_poisson_mean(z) - y * z),
    residual=lambda z, y: np.asarray(_poisson_mean(z) - y),
    curvature=_positive_mean,
    variance=_poisson_mean,
    start=lambda y, weights, n_classes: np.array([math.log(_positive_mean(y, weights))]),
)

SOFTMAX = Family(
    name="softmax",
    task="multiclass",
    mean=_softmax_mean,
    row_losses=_softmax_losses,
    residual=lambda z, y: np.asarray(_softmax_mean(z) - _one_hot(y, z.shape[1])),
    curvature=_constant(0.5),
    variance=_softmax_variance,
    start=_softmax_start,
)

FAMILIES: dict[str, Family] = {family.name: family for family in (LOGISTIC, LINEAR, POISSON, SOFTMAX)}
