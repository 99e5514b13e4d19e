"""How well a passive party could guess binary labels from the gradients that it is sent, tried on what really was sent.

Source: O. Li et al., *Label Leakage and Protection in Two-party Split Learning*, ICLR 2022. The gradient of
a row's loss by the outputs below the top network is (p - y) times a direction that the top network gives:

norm       rows of the rarer class are further from their prediction, so that their gradients are longer
direction  p - y is negative for positive rows and positive for others, so that their gradients point opposite ways;
           rows are scored by the cosine with the gradient of one row that the attacker knows to be positive

A score's AUC against the true labels says how well it tells them apart: 0.5 is guessing, 1 is all of them. An AUC below
0.5 is read as 1 - AUC: an attacker finds out which way round his score is from how many labels are positive. The row
known is, of each epoch, the positive one with the longest gradient, which is not counted itself; who knows no label
takes the longest gradient of all. Gradients are those that left, clipped and noisy where the job says so, each times
the rows of its batch.

The attack is run by the active party, the only one with the labels to judge it by, and its outcome stays there. It
needs the gradients of an epoch in memory. Others may do better: with several known labels, or over several epochs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from parties.checkpoint import Snapshot
from parties.errors import DataError
from vfl.events import LabelInference
from vfl.optim import Vector
from vfl.terms import Integers

_NAME = "source.label_inference"


@dataclass
class LabelAttack:
    """The attack on every epoch of a training.

    Parameters
    ----------
    positive : ndarray of shape (n,), bool
        True labels of the training rows.
    units : int
        Entries of a row's gradient.
    """

    positive: NDArray[np.bool_] = field(repr=False)
    units: int
    _found: list[LabelInference] = field(default_factory=list, init=False)
    _seen: Vector = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._seen = np.zeros((len(self.positive), self.units))

    def watch(self, rows: Integers, gradients: Vector) -> None:
        """Take note of what was sent for a batch, of shape (rows, units)."""
        self._seen[rows] = gradients

    def end_epoch(self, epoch: int) -> None:
        """Attack what was sent in an epoch, counted from 1."""
        scores = norm_scores(self._seen), direction_scores(self._seen, self.positive)
        norm_auc, direction_auc = (label_auc(self.positive, score) for score in scores)
        if norm_auc is not None and direction_auc is not None:
            self._found.append(LabelInference(norm_auc, direction_auc, epoch))

    def outcome(self) -> tuple[LabelInference, ...]:
        """What it reached in the first epoch, and, where that is another one, in the epoch where it reached most."""
        if not self._found:
            return ()
        worst = max(self._found, key=lambda one: max(one.norm_auc, one.direction_auc))
        return (self._found[0],) if worst is self._found[0] else (self._found[0], worst)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """What is kept between epochs."""
        lines = [(one.norm_auc, one.direction_auc, one.epoch) for one in self._found]
        return {_NAME: np.array(lines, dtype=np.float64).reshape(len(lines), 3)}

    def restore(self, kept: Snapshot) -> None:
        """Go on from a checkpoint; raises ``DataError`` if it has nothing of an attack."""
        lines = kept.floats(_NAME)
        if lines.ndim != 2 or lines.shape[1] != 3:
            raise DataError(f"a checkpoint of step {kept.step} with a damaged {_NAME}; start a new run")
        self._found = [LabelInference(norm, direction, int(epoch)) for norm, direction, epoch in lines.tolist()]


def norm_scores(gradients: Vector) -> Vector:
    """Length of each row's gradient.

    >>> norm_scores(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [5.0, 0.0]
    """
    return np.asarray(np.linalg.norm(gradients, axis=1))


def direction_scores(gradients: Vector, positive: NDArray[np.bool_]) -> Vector:
    """Cosine of each row's gradient with that of the known row, NaN for that one itself; 0 for a row without direction.

    >>> direction_scores(np.array([[2.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), np.array([True, False, True])).tolist()
    [nan, -1.0, 0.0]
    """
    lengths = norm_scores(gradients)
    if not positive.any():
        return np.full(len(gradients), np.nan)
    known = int(np.argmax(np.where(positive, lengths, -1.0)))
    units = gradients / np.maximum(lengths, np.finfo(np.float64).tiny)[:, None]
    cosines = units @ units[known]
    cosines[known] = np.nan
    return np.asarray(cosines)


def label_auc(positive: NDArray[np.bool_], scores: Vector) -> float | None:
    """AUC of scores, the better way round; rows whose score is NaN are left out. None without rows of both classes.

    >>> label_auc(np.array([True, True, False]), np.array([0.1, 0.2, 0.9]))
    1.0
    """
    from scipy.stats import rankdata  # takes its time to import, and few runs need it

    counted = ~np.isnan(scores)
    labels = positive[counted]
    ones, others = int(labels.sum()), int((~labels).sum())
    if not ones or not others:
        return None
    ranks = float(rankdata(scores[counted])[labels].sum())
    auc = (ranks - ones * (ones + 1) / 2) / (ones * others)
    return max(auc, 1 - auc)
