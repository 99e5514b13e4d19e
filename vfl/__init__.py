"""Vertical federated learning: several companies train one model on the columns each of them keeps.

>>> from vfl import Federation, LogisticRegression, Party
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vfl.common_rows import CommonRows
    from vfl.estimators import (
        GradientBoostingClassifier,
        GradientBoostingRegressor,
        LinearRegression,
        LogisticRegression,
        PoissonRegressor,
        SoftmaxRegression,
    )
    from vfl.federation import Federation
    from vfl.joint_model import Evaluation, JointModel, load_model
    from vfl.model_selection import CrossValidation, cross_validate
    from vfl.network_estimators import SplitClassifier, SplitRegressor
    from vfl.parameter_search import GridSearch
    from vfl.party import Party, Silo
    from vfl.predictions import Predictions

__version__ = "0.1.0"

__all__ = [
    "CommonRows",
    "CrossValidation",
    "Evaluation",
    "Federation",
    "GradientBoostingClassifier",
    "GradientBoostingRegressor",
    "GridSearch",
    "JointModel",
    "LinearRegression",
    "LogisticRegression",
    "Party",
    "PoissonRegressor",
    "Predictions",
    "Silo",
    "SoftmaxRegression",
    "SplitClassifier",
    "SplitRegressor",
    "cross_validate",
    "load_model",
]

_MODULES = {
    "CommonRows": "vfl.common_rows",
    "CrossValidation": "vfl.model_selection",
    "Evaluation": "vfl.joint_model",
    "Federation": "vfl.federation",
    "GridSearch": "vfl.parameter_search",
    "JointModel": "vfl.joint_model",
    "Party": "vfl.party",
    "Predictions": "vfl.predictions",
    "Silo": "vfl.party",
    "SplitClassifier": "vfl.network_estimators",
    "SplitRegressor": "vfl.network_estimators",
    "cross_validate": "vfl.model_selection",
    "load_model": "vfl.joint_model",
}


def __getattr__(name: str) -> object:
    """Import the Python interface when it is first used: the command line does without scikit-learn's seconds."""
    if name not in __all__:
        raise AttributeError(f"module 'vfl' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES.get(name, "vfl.estimators")), name)


def __dir__() -> list[str]:
    """Names for completion, those not imported yet too."""
    return sorted({*globals(), *__all__})
