"""L-BFGS where every loss and gradient is a sum over silos, of which one may be missing from some point on.

Source: J. Nocedal, S. Wright, *Numerical Optimization*, algorithms 7.4 (two-loop recursion, as `vfl.optim` has it) and
3.5 (strong Wolfe conditions, here for convex functions by doubling and bisection). No messages.

A point's sum is over the silos that answered. Where that are others than before, the function is another one: what
L-BFGS remembers of its way is dropped, and the way goes on from the new point. Nothing is ever added up twice at the
same weights with other silos: the difference would be one silo's own gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from parties.checkpoint import Arrays
from vfl.optim import Pair, Vector, basis_products, combine, dot, lbfgs_direction, remember

MEMORY = 20
TRIALS = 40
_DECREASE, _CURVATURE = 1e-4, 0.9
_NOISE = 1e-14
_ESTIMATE = 0.1
"""The decrease expected falls short of what is left by up to ten times (docs/decisions/stopping-rule.md)."""


@dataclass(frozen=True)
class Point:
    """Loss and gradient at some weights, over the silos that answered; the loss is infinite out of range."""

    weights: Vector = field(repr=False)
    loss: float
    gradient: Vector = field(repr=False)
    answered: tuple[str, ...]


Evaluate = Callable[[Vector], Point]


@dataclass(frozen=True)
class Way:
    """Where L-BFGS stands, and what it remembers of its way there."""

    at: Point
    pairs: tuple[Pair, ...] = field(default=(), repr=False)

    def direction(self) -> tuple[Vector, float]:
        """The direction of descent, and the slope along it; 0 where none is left in rounding."""
        g = self.at.gradient
        coefficients, slope = lbfgs_direction(basis_products(self.pairs, g, g), len(self.pairs))
        size = 1.0 if self.pairs else max(1.0, math.sqrt(dot(g, g)))  # of a first step nothing is known but this
        return combine(coefficients, self.pairs, g) / size, slope / size

    def arrays(self) -> Arrays:
        """All that the way goes on from, by name."""
        d = len(self.at.weights)
        return {
            "weights": self.at.weights,
            "gradient": self.at.gradient,
            "steps": np.array([pair.step for pair in self.pairs]).reshape(-1, d),
            "changes": np.array([pair.change for pair in self.pairs]).reshape(-1, d),
        }


def restore_way(at: Point, steps: Vector, changes: Vector) -> Way:
    """What `Way.arrays` gave, bit for bit."""
    return Way(at, tuple(Pair(step, change, change) for step, change in zip(steps, changes, strict=True)))


def is_over(way: Way, slope: float, tol: float) -> bool:
    """Whether half the decrease that L-BFGS expects is below a tenth of ``tol max(1, loss)``."""
    return -slope / 2 <= tol * _ESTIMATE * max(1.0, abs(way.at.loss))


def is_flat(way: Way, slope: float) -> bool:
    """Whether that decrease is lost in the loss's rounding."""
    return -slope / 2 <= _noise(way.at)


def descend(way: Way, direction: Vector, slope: float, evaluate: Evaluate) -> Way | None:
    """One step along the direction; None if no decrease is left within rounding.

    >>> bowl = lambda w: Point(w, float(w @ w) / 2, w, ("a",))
    >>> begin = Way(bowl(np.array([0.5])))
    >>> descend(begin, *begin.direction(), bowl).at.weights
    array([0.])
    """
    at = way.at
    for t, answer in _trials(at, direction, slope, evaluate):
        if answer.answered != at.answered:
            if math.isfinite(answer.loss):
                return Way(answer)
            continue
        if _is_accepted(at, answer, t, dot(answer.gradient, direction), slope):
            pair = Pair(answer.weights - at.weights, change := answer.gradient - at.gradient, change)
            kept = remember(way.pairs, pair, MEMORY) if dot(pair.step, change) > 0 else list(way.pairs)
            return Way(answer, tuple(kept))
    return None


def _trials(at: Point, direction: Vector, slope: float, evaluate: Evaluate) -> Iterator[tuple[float, Point]]:
    """Points along the direction: further as long as they descend steeply, nearer where they went too far."""
    low, high, t = 0.0, math.inf, 1.0
    for _ in range(TRIALS):
        answer = evaluate(at.weights + t * direction)
        yield t, answer
        steep = dot(answer.gradient, direction)
        low, high = (t, high) if _falls(at, answer, t, steep, slope) and steep < 0 else (low, t)
        t = 2 * t if high == math.inf else (low + high) / 2


def _is_accepted(at: Point, answer: Point, t: float, steep: float, slope: float) -> bool:
    """The strong Wolfe conditions."""
    return _falls(at, answer, t, steep, slope) and abs(steep) <= _CURVATURE * abs(slope)


def _falls(at: Point, answer: Point, t: float, steep: float, slope: float) -> bool:
    """Whether the loss has fallen; a convex one has wherever it still falls, though rounding may hide it."""
    enough = at.loss + _DECREASE * t * slope + _noise(at)
    return math.isfinite(answer.loss) and (steep <= 0 or answer.loss <= enough)


def _noise(at: Point) -> float:
    return _NOISE * max(1.0, abs(at.loss))
