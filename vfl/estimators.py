"""What to train, with scikit-learn's manners: constructor parameters, ``get_params``, ``set_params``, ``clone``.

An estimator says what to fit and is never fitted itself: no process has the data of all parties in one array, so that
there is no ``fit(X, y)``, and scikit-learn's ``check_estimator`` does not apply. `vfl.Federation.fit` returns a
`vfl.JointModel`, which has what was fitted; asking the estimator for it raises scikit-learn's ``NotFittedError``.

>>> from sklearn.base import clone, is_classifier, is_regressor
>>> clone(LogisticRegression(l2=0.01)).set_params(tol=1e-6)
LogisticRegression(l2=0.01, tol=1e-06)
>>> is_classifier(SoftmaxRegression()), is_regressor(PoissonRegressor())
(True, True)
>>> LogisticRegression().coef_
Traceback (most recent call last):
sklearn.exceptions.NotFittedError: LogisticRegression has no 'coef_': an estimator says what to fit and keeps nothing; \
use the JointModel that Federation.fit(estimator) returns
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import msgspec
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from vfl.job import Job, Task
from vfl.network_estimators import Networks, SplitClassifier, SplitRegressor
from vfl.own_modules import Modules
from vfl.unfitted import refuse_unfitted


class _LinearModel(BaseEstimator):  # type: ignore[misc]
    """The parameters that all linear models share."""

    __getattr__ = refuse_unfitted

    def __init__(
        self, *, l2: float = 0.001, tol: float = 1e-8, max_iter: int = 100, fit_intercept: bool = True
    ) -> None:
        self.l2 = l2
        self.tol = tol
        self.max_iter = max_iter
        self.fit_intercept = fit_intercept


class LogisticRegression(ClassifierMixin, _LinearModel):  # type: ignore[misc]
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
        super().__init__(l2=l2, tol=tol, max_iter=max_iter, fit_intercept=fit_intercept)
        self.newton_steps = newton_steps
        self.curvature = curvature


class LinearRegression(RegressorMixin, _LinearModel):  # type: ignore[misc]
    """Least squares, linear in all parties' columns; parameters as in `LogisticRegression`.

    Examples
    --------
    >>> LinearRegression(fit_intercept=False)
    LinearRegression(fit_intercept=False)
    """

    model: ClassVar[str] = "linear"


class PoissonRegressor(RegressorMixin, _LinearModel):  # type: ignore[misc]
    """Counts with log mean linear in all parties' columns; parameters as in `LogisticRegression`.

    Examples
    --------
    >>> PoissonRegressor(l2=0.1).get_params()
    {'fit_intercept': True, 'l2': 0.1, 'max_iter': 100, 'tol': 1e-08}
    """

    model: ClassVar[str] = "poisson"


class SoftmaxRegression(ClassifierMixin, _LinearModel):  # type: ignore[misc]
    """Multiclass classification, multinomial; parameters as in `LogisticRegression`.

    Examples
    --------
    >>> SoftmaxRegression(max_iter=200)
    SoftmaxRegression(max_iter=200)
    """

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
    __getattr__ = refuse_unfitted


class GradientBoostingClassifier(ClassifierMixin, _Trees):  # type: ignore[misc]
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
class GradientBoostingRegressor(RegressorMixin, _Trees):  # type: ignore[misc]
    """Gradient-boosted trees on all parties' columns for numbers or counts.

    Parameters
    ----------
    objective : {"squared_error", "poisson"}, default "squared_error"
        Least squares, or counts with the log link.
    others
        As in `GradientBoostingClassifier`; those of classes keep their defaults.

    Examples
    --------
    >>> GradientBoostingRegressor(objective="poisson")
    GradientBoostingRegressor(objective='poisson')
    """

    objective: Literal["squared_error", "poisson"] = "squared_error"


Trees = GradientBoostingClassifier | GradientBoostingRegressor
Linear = LogisticRegression | LinearRegression | PoissonRegressor | SoftmaxRegression
Estimator = Linear | Trees | Networks
ESTIMATORS = (*Linear.__args__, *Trees.__args__, *Networks.__args__)
OBJECTIVES: Mapping[str, Task] = {"squared_error": "regression", "poisson": "count"}
"""What the objectives of regressors are tasks of."""


def estimator_of(job: Job, modules: Modules | None = None) -> Estimator:
    """The estimator that a job trains, with the parties' own modules.

    >>> from vfl.job import Boosting, Member
    >>> members = Member(name="bank", role="active"), Member(name="shop", role="passive")
    >>> estimator_of(Job(name="trees", model="boosting", task="count", boosting=Boosting(max_depth=2), parties=members))
    GradientBoostingRegressor(max_depth=2, objective='poisson')
    """
    if job.model == "boosting":
        return _of_task(
            job, GradientBoostingClassifier, GradientBoostingRegressor, msgspec.structs.asdict(job.boosting)
        )
    if job.model == "splitnn":
        own = dict(modules or {})
        lines = {"top": own.pop(job.active, None), "bottoms": own or None, **msgspec.structs.asdict(job.splitnn)}
        return _of_task(job, SplitClassifier, SplitRegressor, lines)
    kind = next(kind for kind in ESTIMATORS if kind.model == job.model)
    lines = msgspec.structs.asdict(job.training)
    estimator: Estimator = kind(**{name: lines[name] for name in kind().get_params()})
    return estimator


def _of_task(job: Job, classifier: Any, regressor: Any, lines: Mapping[str, object]) -> Estimator:
    """Of two kinds of a model the one that its task takes."""
    if job.task in ("binary", "multiclass"):
        chosen: Estimator = classifier(**lines)
    else:
        chosen = regressor(**lines, objective=next(name for name, task in OBJECTIVES.items() if task == job.task))
    return chosen
