"""What an estimator says that is asked for something which only a fitted model has."""

from __future__ import annotations

from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

_OF_MODELS = ("predict", "predict_proba", "decision_function", "predictions", "evaluate", "report", "save")


def refuse_unfitted(estimator: BaseEstimator, name: str) -> object:
    """``__getattr__`` of estimators: what only a fitted model has is refused with the way to one."""
    if name in _OF_MODELS or (name.endswith("_") and not name.startswith("_")):
        raise NotFittedError(
            f"{type(estimator).__name__} has no '{name}': an estimator says what to fit and keeps nothing; use the "
            "JointModel that Federation.fit(estimator) returns"
        )
    raise AttributeError(f"{type(estimator).__name__!r} object has no attribute {name!r}")
