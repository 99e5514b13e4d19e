"""What a party has let others learn over all its runs on one alignment, counted before each answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Budget:
    """Counts of one party; without a file those of the present run alone."""

    def evaluations(self, of_this_run: int) -> int:
        """Vectors of scores opened over all runs on this alignment, ``of_this_run`` of them in the present one."""
        return of_this_run
