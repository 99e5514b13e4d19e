"""What the figures plot: curves and counts of labels and scores, in numpy, few points however many rows.

Binary labels are 0/1 arrays ``y`` and scores ``p`` are P(positive). Each curve has at most ``POINTS`` points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
POINTS = 400


@dataclass(frozen=True, slots=True)
class Ranked:
    """Rows from the highest score down, one entry per distinct score.

    Parameters
    ----------
    scores : ndarray of shape (k,)
        The distinct scores, falling.
    found, wrong : ndarray of shape (k,)
        Positive and negative rows of at least that score.
    """

    scores: Floats
    found: Floats
    wrong: Floats

    @property
    def positives(self) -> float:
        """All positive rows."""
        return float(self.found[-1])

    @property
    def negatives(self) -> float:
        """All negative rows."""
        return float(self.wrong[-1])


def ranked(y: Floats, p: Floats) -> Ranked:
    """Count both classes from the highest score down; equal scores count together.

    >>> ranked(np.array([1.0, 0, 1, 0]), np.array([0.9, 0.5, 0.5, 0.1])).found.tolist()
    [1.0, 2.0, 2.0]
    """
    order = np.argsort(-p, kind="stable")
    scores, labels = p[order], y[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    found = np.cumsum(labels)[last]
    return Ranked(scores[last], found, 1.0 + last - found)


def roc(rows: Ranked) -> tuple[Floats, Floats]:
    """False and true positive rates, from (0, 0) to (1, 1)."""
    return _from_zero(rows.wrong / rows.negatives), _from_zero(rows.found / rows.positives)


def area(x: Floats, y: Floats) -> float:
    """Area under a curve of straight pieces."""
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))


def precision_recall(rows: Ranked) -> tuple[Floats, Floats, float]:
    """Recall, precision, and average precision: precision weighted by the recall that each score adds."""
    recall, precision = rows.found / rows.positives, rows.found / (rows.found + rows.wrong)
    average = float(np.sum(np.diff(_from_zero(recall)) * precision))
    return recall, precision, average


def best_f1(rows: Ranked) -> tuple[float, float]:
    """The score from which on calling rows positive gives the largest F1, and that F1."""
    f1 = 2 * rows.found / (rows.found + rows.wrong + rows.positives)
    at = int(np.argmax(f1))
    return float(rows.scores[at]), float(f1[at])


def confusion(y: Floats, p: Floats, threshold: float) -> NDArray[np.int64]:
    """Rows by true (down) and called (across) class; at least the threshold is called positive."""
    called = (p >= threshold).astype(np.int64)
    return np.bincount(2 * y.astype(np.int64) + called, minlength=4).reshape(2, 2)


@dataclass(frozen=True, slots=True)
class Decile:
    """A tenth of the rows, the highest scores first."""

    rows: int
    positives: int
    rate: float
    lift: float
    captured: float


def deciles(y: Floats, p: Floats, parts: int = 10) -> list[Decile]:
    """Positive rows per tenth, from the highest scores down; fewer parts where there are fewer rows."""
    labels = y[np.argsort(-p, kind="stable")]
    overall, lines, captured = float(labels.mean()), [], 0.0
    for part in np.array_split(labels, min(parts, len(labels))):
        captured += float(part.sum())
        rate = float(part.mean())
        lines.append(Decile(len(part), int(part.sum()), rate, rate / overall, captured / float(labels.sum())))
    return lines


def gains(rows: Ranked) -> tuple[Floats, Floats]:
    """Share of rows taken from the highest score down, and share of positives among them."""
    return _from_zero((rows.found + rows.wrong) / (rows.positives + rows.negatives)), _from_zero(
        rows.found / rows.positives
    )


@dataclass(frozen=True, slots=True)
class Calibration:
    """Mean prediction, mean outcome and rows of each group of rows with near predictions; ``error`` of the mean."""

    predicted: Floats
    observed: Floats
    rows: NDArray[np.int64]
    error: Floats


def calibration(y: Floats, p: Floats) -> Calibration:
    """Compare predictions with outcomes in up to ten groups of as many rows each; equal predictions stay together."""
    groups = min(10, max(3, len(y) // 40))  # of few rows fewer groups: a share of ten rows says little
    edges = np.unique(np.quantile(p, np.linspace(0, 1, groups + 1)[1:-1]))
    group = np.searchsorted(edges, p, side="left")
    rows = np.bincount(group, minlength=len(edges) + 1)
    kept = rows > 0
    n = rows[kept]
    predicted, observed, squares = (
        np.bincount(group, weights=values, minlength=len(rows))[kept] / n for values in (p, y, y * y)
    )
    return Calibration(predicted, observed, n, np.sqrt(np.maximum(squares - observed**2, 0) / n))


def thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """A curve with at most ``POINTS`` points, even along it: ends stay, and so does its shape."""
    if len(x) <= POINTS:
        return x, y
    width, height = np.ptp(x) or 1.0, np.ptp(y) or 1.0
    along = _from_zero(np.cumsum(np.hypot(np.diff(x) / width, np.diff(y) / height)))
    at = np.unique(np.searchsorted(along, np.linspace(0, along[-1], POINTS)))
    return x[at], y[at]


def quantile_pairs(residuals: Floats, points: int = 200) -> tuple[Floats, Floats]:
    """Normal quantiles, and quantiles of standardised residuals."""
    from statistics import NormalDist

    spread = float(residuals.std()) or 1.0
    shares = (np.arange(min(points, len(residuals))) + 0.5) / min(points, len(residuals))
    normal = NormalDist()
    return np.array([normal.inv_cdf(share) for share in shares]), np.quantile(
        (residuals - residuals.mean()) / spread, shares
    )


def count_edges(y: Floats, bars: int = 24) -> NDArray[np.int64]:
    """Edges of bars over counts: [0, 1, 2, ...] where they fit, else bars of as many counts each."""
    width = max(1, -(-(int(y.max()) + 1) // bars))
    return np.arange(0, int(y.max()) + 1 + width, width)


def poisson_counts(predicted: Floats, edges: NDArray[np.int64], most: int = 50_000) -> Floats:
    """Rows expected in each bar [edge, next edge) if every row is Poisson with its predicted mean.

    Of more than ``most`` rows evenly spread ones are taken, and their numbers scaled up.
    """
    from scipy.special import pdtr

    taken = np.sort(predicted)[np.linspace(0, len(predicted) - 1, min(most, len(predicted))).astype(np.int64)]
    below = [float(pdtr(edge - 1, np.maximum(taken, 1e-12)).mean()) if edge else 0.0 for edge in edges]
    return np.diff(below) * len(predicted)


def poisson_deviance(y: Floats, p: Floats) -> Floats:
    """Deviance of each row: 2 (y log(y / p) - (y - p)).

    >>> poisson_deviance(np.array([0.0, 2.0]), np.array([0.5, 2.0])).tolist()
    [1.0, 0.0]
    """
    mean = np.maximum(p, 1e-15)
    return 2 * (y * np.log(np.where(y > 0, y / mean, 1.0)) - (y - mean))


def _from_zero(values: Floats) -> Floats:
    return np.concatenate([[0.0], values])
