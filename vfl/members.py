"""The rows of a one-sided training as its active party sees them: members among all rows of the passive party.

>>> members = Members(np.array([4, 0]), 5)
>>> members.spread(np.array([7, 9])).tolist(), members.share
([9, 0, 0, 0, 7], 2.5)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from vfl.glm import Block
from vfl.terms import Integers


@dataclass(frozen=True)
class Members:
    """Where the active party's training rows stand.

    Parameters
    ----------
    places : ndarray of shape (n,), int64
        Rows of the passive party, one for each training row.
    rows : int
        All rows of the passive party: those that are no members, or held out, too.
    """

    places: Integers = field(repr=False)
    rows: int

    @property
    def share(self) -> float:
        """All rows per member: what turns a mean over members into one over all rows, where others are zero."""
        return self.rows / len(self.places)

    def spread(self, values: Integers) -> Integers:
        """Values of the members at their places, zeros elsewhere; of any integer type, also Python's."""
        spread = np.zeros((self.rows, *values.shape[1:]), dtype=values.dtype)
        spread[self.places] = values
        return spread

    def block(self, block: Block) -> Block:
        """The active party's training rows at their places; rows of zeros elsewhere."""
        return replace(block, integers=self.spread(block.training), rows=self.rows)
