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

from parties.spec import holder_of
from vfl.job import Averaging, Job, Task
from vfl.network_estimators import Networks, SplitClassifier, SplitRegressor
from vfl.own_modules import Modules
from vfl.silo_parameters import SiloParameters
from vfl.unfitted import refuse_unfitted


@dataclass(kw_only=True, eq=False, repr=False)
class _LinearModel(SiloParameters):
    """The parameters that all linear models share; as a dataclass, for its constructor shows each of them."""

    l2: float = 0.001
    tol: float = 1e-8
    max_iter: int = 100
    fit_intercept: bool = True
    learning_rate: float = 0.1
    batch_size: int = 32

    __getattr__ = refuse_unfitted


@dataclass(kw_only=True, eq=False, repr=False)
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
    aggregation : {"fedsgd", "fedavg", "weighted", "simple"}, default "fedsgd"
        How the silos of a party train where there is no passive party: fedsgd adds up their gradients, which gives the
        model of the pooled rows; the others average weights that each silo trains on its own rows, by its rows, by the
        weights that silos declare, or each silo the same.
    rounds : int, default 50
        Most rounds of averaging.
    local_epochs : int, default 1
        Passes over its own rows that a silo makes in each of them.
    learning_rate, batch_size : float, int, default 0.1, 32
        Of these local steps.
    others
        Keys of the section ``[training]`` for silos, in docs/reference.md: ``aggregation_by_layer``,
        ``client_fraction``, ``server_optimizer``, ``server_learning_rate``, ``proximal``, ``min_silos``,
        ``round_timeout``.

    Examples
    --------
    >>> LogisticRegression(l2=0.01)
    LogisticRegression(l2=0.01)
    """

    newton_steps: int = 0
    curvature: Literal["mean", "row"] = "mean"

    model: ClassVar[str] = "logistic"


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
    >>> PoissonRegressor(l2=0.1, aggregation="fedavg").get_params()["aggregation"]
    'fedavg'
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
    """The keys of [training] of model boosting; as a dataclass, as for linear models."""

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
    """The estimator that a job trains, with the parties' own modules as a kept model names them.

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
        lead = holder_of(job.active) if job.horizontal else job.active
        lines = {"top": own.pop(lead, None), "bottoms": own or None, **_of_layers(job.splitnn)}
        return _of_task(job, SplitClassifier, SplitRegressor, lines)
    kind = next(kind for kind in ESTIMATORS if kind.model == job.model)
    lines = _of_layers(job.training)
    estimator: Estimator = kind(**{name: lines[name] for name in kind().get_params()})
    return estimator


def _of_layers(training: Averaging) -> dict[str, object]:
    """The keys of linear models and networks; no rule for any layer is None, as estimators have it."""
    lines: dict[str, object] = msgspec.structs.asdict(training)
    return lines | {"aggregation_by_layer": training.aggregation_by_layer or None}


def _of_task(job: Job, classifier: Any, regressor: Any, lines: Mapping[str, object]) -> Estimator:
    """Of two kinds of a model the one that its task takes."""
    if job.task in ("binary", "multiclass"):
        chosen: Estimator = classifier(**lines)
    else:
        chosen = regressor(**lines, objective=next(name for name, task in OBJECTIVES.items() if task == job.task))
    return chosen
