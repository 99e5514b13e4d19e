"""How many rows are trained on, watched and held out.

>>> Parts(60, 10, 30).of(np.array([0, 59, 60, 99]))
Parts(train=2, validation=1, test=1)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Parts:
    """How many of the aligned rows are for what, in this order."""

    train: int
    validation: int
    test: int

    def of(self, owned: NDArray[np.int64]) -> Parts:
        """How many of these rows, ascending, fall into which part."""
        train, fit = np.searchsorted(owned, [self.train, self.train + self.validation]).tolist()
        return Parts(train, fit - train, len(owned) - fit)
