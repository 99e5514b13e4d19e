"""What a run knows of a model, whatever the model is: prepared columns, and what training left behind.

``vfl.glm_part``, ``vfl.boosting_part`` and ``vfl.splitnn_part`` make these; ``vfl.session`` tells the story with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from parties.columns import EncodedLabels
from parties.data import PartyTable
from parties.errors import LocalProtocolError
from parties.link import Endpoint
from parties.policy import Guards
from parties.spec import PartySpec
from vfl.events import FeatureImportance, LabelInference
from vfl.job import Job
from vfl.optim import Vector
from vfl.parts import Parts
from vfl.siblings import Siblings
from vfl.terms import Integers, Terms

Labels = NDArray[np.float64] | NDArray[np.int64]
Progress = Callable[[int, float | None], None]


@dataclass(frozen=True)
class Aligned:
    """One party's data in the agreed order: training rows, then the validation part, then the test rows.

    Parameters
    ----------
    rows : ndarray of shape (n,), int64
        Rows of the party's table.
    labels : EncodedLabels or None
        Of all of them, at the active party.
    places : ndarray of shape (n,), int64, or None
        At the active party of a one-sided alignment: where each row stands in the passive party's list.
    listed : int
        Length of that list in a one-sided alignment, at both parties; else 0. The passive party's ``rows`` are its
        whole list then, all of them training rows as far as it knows.
    module : torch.nn.Module or None
        Model splitnn from Python: the party's own network, instead of the one that the job describes.
    owned : ndarray of shape (n,), int64, or None
        In a federation with silos: where each row stands among all common rows, ascending. ``n_train`` and
        ``n_validation`` then count this silo's own rows, and ``whole`` the common ones; ``siblings`` are the silos of
        the same party, or the party alone.
    """

    job: Job
    spec: PartySpec
    table: PartyTable = field(repr=False)
    rows: Integers = field(repr=False)
    labels: EncodedLabels | None = field(repr=False)
    guards: Guards
    n_train: int
    n_validation: int
    places: Integers | None = field(default=None, repr=False)
    listed: int = 0
    module: object = field(default=None, repr=False)
    owned: Integers | None = field(default=None, repr=False)
    whole: Parts | None = None
    siblings: Siblings | None = field(default=None, repr=False)

    @property
    def n_fit(self) -> int:
        """Training rows and the validation part."""
        return self.n_train + self.n_validation

    @property
    def told(self) -> tuple[int, int]:
        """Training and validation rows as all roles know them: the whole list where membership is not told."""
        if self.whole is not None:
            return self.whole.train, self.whole.validation
        return (self.listed, 0) if self.listed else (self.n_train, self.n_validation)

    @property
    def n_test(self) -> int:
        """Rows held out."""
        return len(self.rows) - self.n_fit

    @property
    def labels_to_fit(self) -> Labels:
        """Labels of the rows that are not held out; only at the active party."""
        if self.labels is None:
            raise LocalProtocolError("a passive party has no labels")
        return self.labels.values[: self.n_fit]

    @property
    def labels_to_judge(self) -> Labels:
        """Labels of the test rows; only at the active party."""
        return self.labels_to_fit[:0] if self.labels is None else self.labels.values[self.n_fit :]

    @property
    def classes(self) -> list[str]:
        """Class texts in code order; empty at a passive party and for numbers."""
        return [] if self.labels is None else self.labels.classes

    @property
    def weights(self) -> Vector | None:
        """Sample weights of the rows that are not held out."""
        return None if self.table.weights is None else np.asarray(self.table.weights[self.rows[: self.n_fit]])


@dataclass(frozen=True)
class Trained:
    """A role's result of the training, and what can be done with it.

    Parameters
    ----------
    score : callable
        Joint predictions of the test rows, at the active party; a passive party helps and gets None.
    alone : callable
        Predictions of the test rows by the same model on the active party's columns alone; None at a passive party.
    save : callable
        Write the party's shard into its folder.
    """

    rounds: int
    converged: bool
    losses: tuple[float, ...]
    warnings: tuple[str, ...]
    score: Callable[[Endpoint], Vector | None] = field(repr=False)
    alone: Callable[[], Vector | None] = field(repr=False)
    save: Callable[[Path], None] = field(repr=False)
    validation_losses: tuple[float, ...] = ()
    importance: tuple[FeatureImportance, ...] = ()
    label_inference: tuple[LabelInference, ...] = ()
    gradient_epsilon: float | None = None


@dataclass(frozen=True)
class Prepared:
    """A party's columns and what was agreed on, ready to train.

    Parameters
    ----------
    features : int
        Columns of the table in use.
    """

    terms: Terms
    features: int
    warnings: tuple[str, ...]
    train: Callable[[Endpoint, Progress], Trained] = field(repr=False)
