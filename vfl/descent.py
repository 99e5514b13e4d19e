"""One party's block on its way down by vector-free L-BFGS, and how it outlasts a crash."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from parties.checkpoint import Snapshot
from vfl import glm
from vfl.optim import Pair, Vector, remember

_PAIR = tuple(each.name for each in fields(Pair))


@dataclass(slots=True)
class Descent:
    """A block, and what L-BFGS remembers of its way.

    Parameters
    ----------
    w : ndarray of shape (d, outputs), float64
    step, g : ndarray of shape (d, outputs), float64, or None
        The last step, and the gradient where it began.
    """

    w: Vector
    pairs: list[Pair] = field(default_factory=list, repr=False)
    step: Vector | None = field(default=None, repr=False)
    g: Vector | None = field(default=None, repr=False)

    def arrive(self, g: Vector, matrix: Vector, memory: int) -> None:
        """Take the gradient at w, and remember how the last step has changed it."""
        if self.step is not None and self.g is not None:
            change = g - self.g
            self.pairs = remember(self.pairs, Pair(self.step, change, glm.precondition(matrix, change)), memory)
        self.g = g

    def move(self, step: Vector) -> None:
        """Take a step."""
        self.w, self.step = self.w + step, step

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """All of it by name; pairs are numbered, oldest first."""
        found: dict[str, NDArray[np.generic]] = {"w": self.w}
        found |= {name: array for name, array in (("step", self.step), ("g", self.g)) if array is not None}
        return found | {f"{name} {i}": getattr(pair, name) for i, pair in enumerate(self.pairs) for name in _PAIR}


def restore_descent(kept: Snapshot) -> Descent:
    """What `Descent.arrays` gave after a step, bit for bit."""
    count = sum(name.startswith(f"{_PAIR[0]} ") for name in kept.arrays)
    pairs = [Pair(*(kept.floats(f"{name} {i}") for name in _PAIR)) for i in range(count)]
    return Descent(kept.floats("w"), pairs, kept.floats("step"), kept.floats("g"))
