"""The arithmetic of the optimisers, on scalars and on vectors that one party has anyway. No messages, no keys.

Vector-free L-BFGS: the two-loop recursion on inner products alone, so that who runs it needs none of the vectors.
Source: W. Chen, Z. Wang, J. Zhou, *Large-scale L-BFGS using MapReduce*, NIPS 2014, algorithm 3 (here with a
preconditioner P). Conjugate gradients: J. Nocedal, S. Wright, *Numerical
Optimization*, algorithm 5.3 (preconditioned).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

STEP_BITS = 20
_MAX_DOUBLINGS = 20
_MAX_BISECTIONS = 60


def dot(a: Vector, b: Vector) -> float:
    """Inner product, summed exactly: the same on every machine of a type, whatever its threads."""
    return math.fsum((a.ravel() * b.ravel()).tolist())


@dataclass(frozen=True, slots=True)
class Pair:
    """One party's block of a step s, of the change y of the gradient, and P y."""

    step: Vector
    change: Vector
    preconditioned: Vector


def remember(pairs: Sequence[Pair], new: Pair, memory: int) -> list[Pair]:
    """The last ``memory`` pairs, the new one included."""
    return [*pairs, new][-memory:]


def basis_products(pairs: Sequence[Pair], gradient: Vector, preconditioned: Vector) -> list[float]:
    """One party's part of every inner product that the recursion needs.

    Parameters
    ----------
    pairs : sequence of Pair, length m, oldest first
    gradient, preconditioned : ndarray
        The party's blocks of g and P g.

    Returns
    -------
    list of float, length (2 m + 1)(m + 1)
        Row-major products of the basis s_1..s_m, P y_1..P y_m, P g with y_1..y_m, g. Parts of all parties add up.
    """
    changes = [*(pair.change for pair in pairs), gradient]
    return [dot(vector, change) for vector in _basis(pairs, preconditioned) for change in changes]


def lbfgs_direction(products: Sequence[float], pairs: int) -> tuple[list[float], float]:
    """Two-loop recursion on the summed products.

    Parameters
    ----------
    products : sequence of float, length (2 m + 1)(m + 1)
        As `basis_products` orders them, summed over parties.
    pairs : int
        m.

    Returns
    -------
    coefficients : list of float, length 2 m + 1
        Of the basis s_1..s_m, P y_1..P y_m, P g; their combination is the direction d.
    slope : float
        g'd; 0 where curvature along a step is lost in rounding, so that no descent is left.

    Examples
    --------
    The first direction is -P g:

    >>> lbfgs_direction([4.0], 0)
    ([-1.0], -4.0)
    """
    table = np.asarray(products, dtype=np.float64).reshape(2 * pairs + 1, pairs + 1)
    curvatures = [float(table[i, i]) for i in range(pairs)]
    if any(curvature <= 0 for curvature in curvatures):
        return [0.0] * (2 * pairs + 1), 0.0
    alpha = [0.0] * pairs
    for i in reversed(range(pairs)):
        newer = math.fsum(alpha[j] * table[i, j] for j in range(i + 1, pairs))
        alpha[i] = (table[i, pairs] - newer) / curvatures[i]
    scale = curvatures[-1] / float(table[2 * pairs - 1, pairs - 1]) if pairs else 1.0
    result = [0.0] * pairs + [-scale * a for a in alpha] + [scale]
    for i in range(pairs):
        beta = math.fsum(c * v for c, v in zip(result, table[:, i].tolist(), strict=True)) / curvatures[i]
        result[i] = alpha[i] - beta
    slope = -math.fsum(c * v for c, v in zip(result, table[:, pairs].tolist(), strict=True))
    return [-float(c) for c in result], slope


def combine(coefficients: Sequence[float], pairs: Sequence[Pair], preconditioned: Vector) -> Vector:
    """A party's block of the direction that the coefficients describe."""
    direction = np.zeros_like(preconditioned)
    for coefficient, vector in zip(coefficients, _basis(pairs, preconditioned), strict=True):
        direction = direction + coefficient * vector
    return direction


def _basis(pairs: Sequence[Pair], preconditioned: Vector) -> list[Vector]:
    return [*(pair.step for pair in pairs), *(pair.preconditioned for pair in pairs), preconditioned]


def line_search(slope_at: Callable[[float], float], slope: float, allowed: Callable[[float], bool]) -> float:
    """Step length t > 0 at which phi'(t) has fallen to 1 % of |phi'(0)|, by doubling and bisection.

    Parameters
    ----------
    slope_at : callable
        phi'(t) of a convex phi.
    slope : float
        phi'(0) = g'd < 0.
    allowed : callable
        Whether a step stays in range (residuals below their announced bound); t is halved until it does.

    Returns
    -------
    float
        A multiple of 2^-20; 0 if no such step is left.
    """
    low, high = 0.0, 1.0
    for _ in range(_MAX_DOUBLINGS):
        if not allowed(high) or slope_at(high) >= 0.01 * slope:
            break
        low, high = high, 2.0 * high
    t = high
    for _ in range(_MAX_BISECTIONS):
        if allowed(t):
            now = slope_at(t)
            if abs(now) <= 0.01 * abs(slope):
                break
            low, high = (t, high) if now < 0 else (low, t)
        else:
            high = t
        t = 0.5 * (low + high)
    t = math.floor(t * 2.0**STEP_BITS + 0.5) / 2.0**STEP_BITS
    return t if allowed(t) else math.floor(low * 2.0**STEP_BITS) / 2.0**STEP_BITS


def preconditioner(gram: NDArray[np.float64], penalty: Vector, curvature: float) -> NDArray[np.float64]:
    """Inverse of ``curvature * gram + diag(penalty)``, without the directions in which it is almost flat.

    Parameters
    ----------
    gram : ndarray of shape (d, d), float64
        X'X / n of the party's own block.
    penalty : ndarray of shape (d,), float64
    curvature : float

    Returns
    -------
    ndarray of shape (d, d), float64
        Symmetric; eigenvalues below 1e-8 of the largest count as zero.
    """
    if not len(gram):
        return np.zeros((0, 0))
    values, vectors = np.linalg.eigh(curvature * gram + np.diag(penalty))
    kept = values > 1e-8 * values[-1]
    return np.asarray((vectors[:, kept] / values[kept]) @ vectors[:, kept].T)
