"""What every role knows before training starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parties.policy import KeyHolder
from vfl.job import Job

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Terms:
    """What every role knows before training.

    Parameters
    ----------
    job : Job
    key_holder : str
        "active" or "coordinator", never "auto".
    reason : str
        Why, in words for the report.
    rows : int
        Training rows, the validation part not among them. In a one-sided alignment, where not all roles know which
        rows those are: the length of the passive party's list.
    outputs : int
        Scores per row: the number of classes for multiclass tasks, else 1.
    columns : mapping of party name to int
        Columns of each party in job order: after encoding for GLMs, as they are for boosting.
    consent : bool
        Every passive party's policy allows ``partial_scores``.
    validation : int
        Rows of the validation part; they follow the training rows. 0 in a one-sided alignment.
    """

    job: Job
    key_holder: KeyHolder
    reason: str
    rows: int
    outputs: int
    columns: Mapping[str, int]
    consent: bool
    validation: int = 0

    @property
    def passive_columns(self) -> list[int]:
        """Columns of each passive party, in job order; silos of one party have the same."""
        return [self.columns[silos[0]] for silos in self.job.passive_holders.values()]
