"""Test metrics per task, with scikit-learn; a figure that is undefined is None, never NaN.

binary: auc ks accuracy precision recall f1 log_loss brier (threshold 0.5, zero_division 0)
multiclass: accuracy macro_f1 log_loss
regression: rmse mae r2
count: rmse mae poisson_deviance (mean)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

Floats = NDArray[np.float64]
Labels = NDArray[np.float64] | NDArray[np.int64]
Metrics = dict[str, float | None]

METRIC_NAMES: dict[str, tuple[str, ...]] = {
    "binary": ("auc", "ks", "accuracy", "precision", "recall", "f1", "log_loss", "brier"),
    "multiclass": ("accuracy", "macro_f1", "log_loss"),
    "regression": ("rmse", "mae", "r2"),
    "count": ("rmse", "mae", "poisson_deviance"),
}

_TINY = 1e-15  # probabilities and predicted counts are cut here, so that logarithms stay finite


def evaluate(task: str, y_true: Labels, predicted: Floats, classes: Sequence[str] = ()) -> Metrics:
    """Compare predictions with the truth.

    Parameters
    ----------
    task : {"binary", "multiclass", "regression", "count"}
    y_true : ndarray of shape (n,)
        0/1, class codes, or numbers.
    predicted : ndarray of shape (n,), float64
        P(positive) or the predicted number; multiclass: probabilities of shape (n, classes).
    classes : sequence of str
        Class texts in code order; only their number matters.

    Returns
    -------
    dict of metric name to float or None, in ``METRIC_NAMES`` order

    Examples
    --------
    >>> evaluate("regression", np.array([1.0, 3.0]), np.array([1.0, 2.0]))
    {'rmse': 0.7071067811865476, 'mae': 0.5, 'r2': 0.5}
    """
    names = METRIC_NAMES[task]
    if not len(y_true) or not np.isfinite(predicted).all():
        return dict.fromkeys(names)
    with np.errstate(over="ignore", invalid="ignore"):  # squares beyond 1e308: undefined
        figures = _BY_TASK[task](np.asarray(y_true, dtype=np.float64), predicted, len(classes))
    return {name: _defined(value) for name, value in zip(names, figures, strict=True)}


def _defined(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def _binary(y: Floats, p: Floats, n_classes: int) -> list[float | None]:
    chosen = (p >= 0.5).astype(np.float64)
    both = len(np.unique(y)) == 2
    auc = ks = None
    if both:
        auc = sk.roc_auc_score(y, p)
        false_positive, true_positive, _ = sk.roc_curve(y, p)
        ks = float(np.max(true_positive - false_positive))
    clipped = np.clip(p, _TINY, 1 - _TINY)
    return [
        auc,
        ks,
        sk.accuracy_score(y, chosen),
        sk.precision_score(y, chosen, zero_division=0),
        sk.recall_score(y, chosen, zero_division=0),
        sk.f1_score(y, chosen, zero_division=0),
        sk.log_loss(y, clipped, labels=[0.0, 1.0]),
        float(np.mean((p - y) ** 2)),
    ]


def _multiclass(y: Floats, p: Floats, n_classes: int) -> list[float | None]:
    labels = np.arange(p.shape[1], dtype=np.float64)
    chosen = p.argmax(axis=1).astype(np.float64)
    clipped = np.clip(p, _TINY, None)
    return [
        sk.accuracy_score(y, chosen),
        sk.f1_score(y, chosen, labels=labels, average="macro", zero_division=0),
        sk.log_loss(y, clipped / clipped.sum(axis=1, keepdims=True), labels=labels),
    ]


def _regression(y: Floats, p: Floats, n_classes: int) -> list[float | None]:
    return [*_errors(y, p), sk.r2_score(y, p) if len(np.unique(y)) > 1 else None]


def _count(y: Floats, p: Floats, n_classes: int) -> list[float | None]:
    return [*_errors(y, p), sk.mean_poisson_deviance(y, np.maximum(p, _TINY))]


def _errors(y: Floats, p: Floats) -> list[float | None]:
    """Root mean squared and mean absolute error."""
    return [float(np.sqrt(np.mean((y - p) ** 2))), float(np.mean(np.abs(y - p)))]


_BY_TASK: dict[str, Callable[[Floats, Floats, int], list[float | None]]] = {
    "binary": _binary,
    "multiclass": _multiclass,
    "regression": _regression,
    "count": _count,
}
