"""What to train, with scikit-learn's manners: constructor parameters, ``get_params``, ``set_params``, ``clone``."""

from __future__ import annotations

from typing import ClassVar, Literal

from sklearn.base import BaseEstimator


class LogisticRegression(BaseEstimator):  # type: ignore[misc]
    """Binary classification with log-odds linear in all parties' columns.

    Parameters
    ----------
    l2 : float, default 0.001
        Weight of ||w||^2 / 2 beside the MEAN loss; scikit-learn's C is 1 / (n l2). The intercept is not penalised.
    tol : float, default 1e-8
    max_iter : int, default 100
    fit_intercept : bool, default True
    newton_steps : int, default 0
        With the key at the coordinator: how often the quadratic model moves to the scores reached.
    curvature : {"mean", "row"}, default "mean"
        With the key at the coordinator: curvature of the quadratic model, one mean or one per row.

    Examples
    --------
    >>> LogisticRegression(l2=0.01)
    LogisticRegression(l2=0.01)
    """

    model: ClassVar[str] = "logistic"

    def __init__(
        self,
        *,
        l2: float = 0.001,
        tol: float = 1e-8,
        max_iter: int = 100,
        fit_intercept: bool = True,
        newton_steps: int = 0,
        curvature: Literal["mean", "row"] = "mean",
    ) -> None:
        self.l2 = l2
        self.tol = tol
        self.max_iter = max_iter
        self.fit_intercept = fit_intercept
        self.newton_steps = newton_steps
        self.curvature = curvature


class _LinearModel(BaseEstimator):  # type: ignore[misc]
    """The parameters that models share whose result does not depend on the quadratic expansion."""

    def __init__(
        self, *, l2: float = 0.001, tol: float = 1e-8, max_iter: int = 100, fit_intercept: bool = True
    ) -> None:
        self.l2 = l2
        self.tol = tol
        self.max_iter = max_iter
        self.fit_intercept = fit_intercept


class LinearRegression(_LinearModel):
    """Least squares, linear in all parties' columns; parameters as in `LogisticRegression`."""

    model: ClassVar[str] = "linear"


class PoissonRegressor(_LinearModel):
    """Counts with log mean linear in all parties' columns; parameters as in `LogisticRegression`."""

    model: ClassVar[str] = "poisson"


class SoftmaxRegression(_LinearModel):
    """Multiclass classification, multinomial; parameters as in `LogisticRegression`."""

    model: ClassVar[str] = "softmax"


Estimator = LogisticRegression | LinearRegression | PoissonRegressor | SoftmaxRegression
