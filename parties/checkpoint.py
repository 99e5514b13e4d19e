"""Checkpoints of one role: what it needs to go on after a crash, one file per step.

Step 0 is the beginning, step 1 the alignment, step 1 + r the state after r rounds of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Fact = bool | int | float | str | None | list["Fact"] | dict[str, "Fact"]
Arrays = Mapping[str, NDArray[np.generic]]

ALIGNED = 1


@dataclass(frozen=True)
class Snapshot:
    """What a role kept at one step: plain facts, and arrays by name."""

    step: int
    facts: dict[str, Fact] = field(repr=False)
    arrays: Arrays = field(repr=False)


@dataclass
class Keeper:
    """Keeps a role's snapshots; this one, without a folder, keeps none and goes on from nowhere."""

    def steps(self) -> list[int]:
        """Steps of which a whole snapshot is held, ascending."""
        return []

    def resume_from(self, step: int) -> None:
        """Settle the step that all roles go on from (0: the beginning); later ones are forgotten."""

    @property
    def rounds(self) -> int:
        """Rounds of training that are done already."""
        return 0

    def aligned(self) -> Snapshot | None:
        """The alignment, if the run goes on from a step behind it."""
        return None

    def trained(self) -> Snapshot | None:
        """The training's state after `rounds` rounds; None if it begins."""
        return None

    def save_aligned(self, facts: Mapping[str, Fact], arrays: Arrays) -> None:
        """Keep the alignment."""

    def save_round(self, rounds: int, facts: Mapping[str, Fact], arrays: Arrays) -> None:
        """Keep the state after so many rounds."""
