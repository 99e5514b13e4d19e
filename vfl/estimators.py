"""What to train, with scikit-learn's manners: constructor parameters, ``get_params``, ``set_params``, ``clone``."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(kw_only=True, eq=False, repr=False)
class _Trees(BaseEstimator):  # type: ignore[misc]
    """The keys of [training] of model boosting; as a dataclass, for its constructor shows each of them."""

    n_estimators: int = 100
    max_depth: int = 6
    learning_rate: float = 0.3
    max_bin: int = 256
    max_cat_to_onehot: int | None = None
    reg_lambda: float = 1.0
    reg_alpha: float = 0.0
    gamma: float = 0.0
    min_child_weight: float = 1.0
    max_delta_step: float | None = None
    subsample: float = 1.0
    colsample_bytree: float = 1.0
    top_rate: float | None = None
    other_rate: float | None = None
    scale_pos_weight: float = 1.0
    base_score: float | None = None
    early_stopping_rounds: int | None = None
    multi_output: bool = True
    first_tree_active_only: bool = False
    min_node_rows: int | None = None
    min_bin_gap: int | None = None

    model: ClassVar[str] = "boosting"


class GradientBoostingClassifier(_Trees):
    """Gradient-boosted trees on all parties' columns, binary or multiclass as the label has two values or more.

    Parameters
    ----------
    n_estimators : int, default 100
        Most rounds.
    max_depth : int, default 6
    learning_rate : float, default 0.3
    max_bin : int, default 256
        Most quantile bins of a numeric column.
    early_stopping_rounds : int, optional
        Stop after so many rounds without a better loss on the validation part; see `Federation.fit`.
    multi_output : bool, default True
        Multiclass: one tree of all classes per round instead of one per class.
    others
        The keys of the section ``[training]`` of model boosting, in docs/reference.md: XGBoost's names and defaults
        where XGBoost has them.

    Examples
    --------
    >>> GradientBoostingClassifier(max_depth=3)
    GradientBoostingClassifier(max_depth=3)
    """


@dataclass(kw_only=True, eq=False, repr=False)
class GradientBoostingRegressor(_Trees):
    """Gradient-boosted trees on all parties' columns for numbers or counts.

    Parameters
    ----------
    objective : {"squared_error", "poisson"}, default "squared_error"
        Least squares, or counts with the log link.
    others
        As in `GradientBoostingClassifier`; those of classes keep their defaults.
    """

    objective: Literal["squared_error", "poisson"] = "squared_error"


Trees = GradientBoostingClassifier | GradientBoostingRegressor
Estimator = LogisticRegression | LinearRegression | PoissonRegressor | SoftmaxRegression | Trees
