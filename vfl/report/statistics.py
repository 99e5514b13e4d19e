"""How sure the figures of a run are: bootstrap intervals, and tests of the joint model against others.

Both are of the test rows alone: they say how much the figures would move with other rows of the same kind, not with
another training.

Intervals are those of the percentile bootstrap (Efron & Tibshirani, An Introduction to the Bootstrap, chapter 13) over
resamples of rows. They are not stratified by class: the split was not either, and with fixed shares of the classes the
intervals of accuracy and losses would be too narrow. A figure that a resample leaves undefined, as the AUC of one class
only, is left out there.

Two AUCs on the same rows are compared by the test of DeLong, DeLong & Clarke-Pearson (1988), computed from midranks as
by Sun & Xu (Fast implementation of DeLong's algorithm, IEEE Signal Processing Letters 21, 2014); other figures by the
bootstrap, with the same resamples for both models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vfl.events import Comparison, Intervals
from vfl.report.evidence import ALONE, JOINT, OWN, POOLED, Evidence, Floats, Labels

MAIN_METRIC = {"binary": "auc", "multiclass": "accuracy", "regression": "rmse", "count": "poisson_deviance"}

_ROWS = 10  # fewer say nothing of how others would differ
_RESAMPLES, _FEWEST = 1000, 100
_DRAWN = 10_000_000  # rows drawn in all: a second or so, at any number of test rows up to 100,000
_CELLS = 1 << 18  # counts at a time, so that they stay in the processor's cache
_TAIL = 2.5  # percent on either side of an interval
_NORMAL = 1.959963984540054  # the normal quantile at 97.5 %
_TINY = 1e-15  # as in vfl.metrics

Figures = dict[str, Floats]
Measure = Callable[[Floats], Figures]


def bootstrap_intervals(evidence: Evidence, seed: int, models: Sequence[str] | None = None) -> dict[str, Intervals]:
    """95 % intervals of every metric of every model.

    Parameters
    ----------
    seed : int
        Of the job: the same seed gives the same resamples, whichever the models.
    models : sequence of str, optional
        Which models of the evidence; by default all.

    Returns
    -------
    dict of model to dict of metric to (low, high)
        Empty with fewer than 10 test rows; without models whose predictions are not all finite, and without metrics
        that are undefined in half of the resamples or more.
    """
    figures = resampled_metrics(evidence, seed, list(evidence.predicted) if models is None else models)
    return {model: _intervals(one) for model, one in figures.items()}


def compare(evidence: Evidence, seed: int) -> dict[str, Comparison]:
    """Compare the joint model with the active party alone, the pooled data and silos alone, as far as they are there.

    ``seed`` is the job's. A comparison that is undefined is left out.
    """
    others = [name for name in evidence.predicted if name in (ALONE, POOLED) or name.startswith(OWN)]
    if evidence.task == "binary":
        joint = evidence.predicted[JOINT]
        tested = {name: delong(evidence.y, joint, evidence.predicted[name]) for name in others}
    else:
        figures = resampled_metrics(evidence, seed, [JOINT, *others])
        tested = {name: _compare_resampled(evidence, name, figures) for name in others}
    return {name: comparison for name, comparison in tested.items() if comparison is not None}


def delong(y: Labels, a: Floats, b: Floats) -> Comparison | None:
    """Compare the AUCs of two models on the same rows; difference is that of ``a`` minus that of ``b``.

    Where the difference has no variance, as between a perfect and a constant score, the p-value is 0, or 1 without a
    difference.

    Parameters
    ----------
    y : ndarray of shape (n,)
        0 or 1.
    a, b : ndarrays of shape (n,), float64

    Returns
    -------
    Comparison or None
        None with fewer than two rows of a class, or with scores that are not finite.

    Examples
    --------
    >>> y = np.array([0.0, 0, 0, 1, 1, 1])
    >>> tested = delong(y, np.array([0.1, 0.2, 0.6, 0.5, 0.8, 0.9]), np.array([0.3, 0.9, 0.2, 0.4, 0.1, 0.8]))
    >>> round(tested.difference, 3), tested.test
    (0.444, 'delong')
    """
    positive = np.asarray(y) == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if m < 2 or n < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    above, below = (one - other for one, other in zip(_wins(positive, a), _wins(positive, b), strict=True))
    difference = float(above.sum()) / (2 * m * n)
    variance = float(above.var(ddof=1)) / (4 * n**2 * m) + float(below.var(ddof=1)) / (4 * m**2 * n)
    half = _NORMAL * math.sqrt(variance)
    if variance > 0:
        p_value = math.erfc(abs(difference) / math.sqrt(2 * variance))
    else:
        p_value = 0.0 if difference else 1.0
    return Comparison("auc", difference, difference - half, difference + half, p_value, "delong")


def _wins(positive: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats]:
    """Twice how many negatives each positive beats, and how many positives beat each negative; a tie is half a win.

    Twice a midrank is an integer, so that models of equal order have exactly equal figures.
    """
    ranks = _doubled_midranks(scores)
    above = ranks[positive] - _doubled_midranks(scores[positive])
    below = 2 * positive.sum() - (ranks[~positive] - _doubled_midranks(scores[~positive]))
    return above, below


def _doubled_midranks(scores: Floats) -> Floats:
    """Twice the rank of each score from 1, equal scores sharing the mean of theirs."""
    _, where, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    doubled: Floats = (2 * last - counts + 1).astype(np.float64)[where]
    return doubled


def _compare_resampled(evidence: Evidence, name: str, figures: dict[str, Figures]) -> Comparison | None:
    """Compare the main metric by the bootstrap: how often the resamples' difference has which sign."""
    if JOINT not in figures or name not in figures:
        return None
    metric = MAIN_METRIC[evidence.task]
    whole = np.ones((1, len(evidence.y)))
    with np.errstate(all="ignore"):
        ours, theirs = (_measure(evidence, evidence.predicted[model])(whole)[metric][0] for model in (JOINT, name))
    differences = figures[JOINT][metric] - figures[name][metric]
    differences = differences[np.isfinite(differences)]
    if not len(differences) or not np.isfinite(ours - theirs):
        return None
    fewer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    low, high = np.percentile(differences, [_TAIL, 100 - _TAIL])
    p_value = min(1.0, 2 * (fewer + 1) / (len(differences) + 1))
    return Comparison(metric, float(ours - theirs), float(low), float(high), p_value, "bootstrap")


def resampled_metrics(evidence: Evidence, seed: int, models: Sequence[str]) -> dict[str, Figures]:
    """Every metric of each model, on the same resamples of the rows for all.

    Returns
    -------
    dict of model to dict of metric to ndarray of shape (resamples,)
        NaN where undefined; without models whose predictions are not all finite, and without any for few rows.
    """
    if len(evidence.y) < _ROWS:
        return {}
    finite = [model for model in models if np.isfinite(evidence.predicted[model]).all()]
    with np.errstate(all="ignore"):  # squares beyond 1e308: undefined
        measures = {model: _measure(evidence, evidence.predicted[model]) for model in finite}
    parts: dict[str, list[Figures]] = {model: [] for model in measures}
    for counts in _resamples(len(evidence.y), seed) if measures else ():
        for model, measure in measures.items():
            with np.errstate(all="ignore"):  # shares of nothing, likewise
                parts[model].append(measure(counts))
    return {
        model: {name: np.concatenate([part[name] for part in several]) for name in several[0]}
        for model, several in parts.items()
    }


def _resamples(n: int, seed: int) -> Iterator[Floats]:
    """How often each row is drawn, resample by resample, some at a time; of shape (resamples, n)."""
    generator = np.random.default_rng(seed)
    left = max(_FEWEST, min(_RESAMPLES, _DRAWN // n))
    while left:
        size = min(left, max(1, _CELLS // n))
        drawn = generator.integers(n, size=(size, n), dtype=np.int32) + np.arange(0, size * n, n)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        left -= size


def _intervals(figures: Figures) -> Intervals:
    """The middle 95 % of each metric."""
    intervals: Intervals = {}
    for name, values in figures.items():
        defined = values[np.isfinite(values)]
        if 2 * len(defined) > len(values):
            low, high = np.percentile(defined, [_TAIL, 100 - _TAIL])
            intervals[name] = (float(low), float(high))
    return intervals


def _measure(evidence: Evidence, predicted: Floats) -> Measure:
    """What works out the metrics of `vfl.metrics` from counts of shape (resamples, n)."""
    if evidence.task == "multiclass":
        return _multiclass(np.asarray(evidence.y, dtype=np.int64), predicted)
    y = np.asarray(evidence.y, dtype=np.float64)
    return {"binary": _binary, "regression": _regression, "count": _count}[evidence.task](y, predicted)


def _binary(y: Floats, p: Floats) -> Measure:
    chosen = p >= 0.5
    clipped = np.clip(p, _TINY, 1 - _TINY)
    loss = -np.where(y == 1, np.log(clipped), np.log1p(-clipped))
    columns = np.column_stack([y, chosen, y * chosen, loss, (p - y) ** 2])
    rank = _ranking(y, p)

    def measure(counts: Floats) -> Figures:
        n = counts.shape[1]
        actual, guessed, hits, losses, squares = (counts @ columns).T
        auc, ks = rank(counts)
        return {
            "auc": auc,
            "ks": ks,
            "accuracy": (n - actual - guessed + 2 * hits) / n,
            "precision": hits / np.maximum(guessed, 1),
            "recall": hits / np.maximum(actual, 1),
            "f1": 2 * hits / np.maximum(actual + guessed, 1),
            "log_loss": losses / n,
            "brier": squares / n,
        }

    return measure


def _ranking(y: Floats, p: Floats) -> Callable[[Floats], tuple[Floats, Floats]]:
    """What works out AUC and KS per resample: scores are sorted once, and of a resample only the counts summed up."""
    positive, negative = (np.flatnonzero(y == label) for label in (1, 0))
    positive, negative = positive[np.argsort(p[positive])], negative[np.argsort(p[negative])]
    below, not_above = (np.searchsorted(p[negative], p[positive], side) for side in ("left", "right"))
    tied = not np.array_equal(below, not_above)

    def rank(counts: Floats) -> tuple[Floats, Floats]:
        hits = counts[:, positive]
        misses = np.zeros((len(counts), len(negative) + 1))
        np.cumsum(counts[:, negative], axis=1, out=misses[:, 1:])
        m, n = hits.sum(axis=1), misses[:, -1]
        beaten = misses[:, below]
        wins = np.einsum("rj,rj->r", hits, (beaten + misses[:, not_above]) / 2 if tied else beaten)
        gaps = beaten / n[:, None] - (np.cumsum(hits, axis=1) - hits) / m[:, None]
        return wins / (m * n), np.where(m * n > 0, gaps.max(axis=1, initial=0.0), np.nan)

    return rank


def _multiclass(y: NDArray[np.int64], p: Floats) -> Measure:
    classes = np.arange(p.shape[1])
    actual = (y[:, None] == classes).astype(np.float64)
    guessed = (p.argmax(axis=1)[:, None] == classes).astype(np.float64)
    clipped = np.clip(p, _TINY, None)
    loss = -np.log(clipped[np.arange(len(y)), y] / clipped.sum(axis=1))

    def measure(counts: Floats) -> Figures:
        hits, n = counts @ (actual * guessed), counts.shape[1]
        f1 = 2 * hits / np.maximum(counts @ (actual + guessed), 1)
        return {"accuracy": hits.sum(axis=1) / n, "macro_f1": f1.mean(axis=1), "log_loss": counts @ loss / n}

    return measure


def _regression(y: Floats, p: Floats) -> Measure:
    centred = y - y.mean()
    columns = np.column_stack([(y - p) ** 2, np.abs(y - p), centred, centred**2])

    def measure(counts: Floats) -> Figures:
        squares, distances, mean, spread = (counts @ columns / counts.shape[1]).T
        variance = spread - mean**2
        variance[variance <= 1e-12 * spread] = np.nan  # equal labels, up to rounding
        return {"rmse": np.sqrt(squares), "mae": distances, "r2": 1 - squares / variance}

    return measure


def _count(y: Floats, p: Floats) -> Measure:
    mu = np.maximum(p, _TINY)
    deviance = 2 * (np.where(y > 0, y * np.log(np.where(y > 0, y, 1.0) / mu), 0.0) - y + mu)
    columns = np.column_stack([(y - p) ** 2, np.abs(y - p), deviance])

    def measure(counts: Floats) -> Figures:
        squares, distances, deviances = (counts @ columns / counts.shape[1]).T
        return {"rmse": np.sqrt(squares), "mae": distances, "poisson_deviance": deviances}

    return measure
