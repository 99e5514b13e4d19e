"""Vertical federated learning: several companies train one model on the columns each of them keeps.

>>> from vfl import Federation, LogisticRegression, Party
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vfl.estimators import (
        GradientBoostingClassifier,
        GradientBoostingRegressor,
        LinearRegression,
        LogisticRegression,
        PoissonRegressor,
        SoftmaxRegression,
    )
    from vfl.federation import Evaluation, Federation, JointModel, Party

__version__ = "0.1.0"

__all__ = [
    "Evaluation",
    "Federation",
    "GradientBoostingClassifier",
    "GradientBoostingRegressor",
    "JointModel",
    "LinearRegression",
    "LogisticRegression",
    "Party",
    "PoissonRegressor",
    "SoftmaxRegression",
]

_OF_FEDERATION = ("Evaluation", "Federation", "JointModel", "Party")


def __getattr__(name: str) -> object:
    """Import the Python interface when it is first used: the command line does without scikit-learn's seconds."""
    if name not in __all__:
        raise AttributeError(f"module 'vfl' has no attribute {name!r}")
    import importlib

    module = importlib.import_module("vfl.federation" if name in _OF_FEDERATION else "vfl.estimators")
    return getattr(module, name)
