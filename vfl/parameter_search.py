"""A search for parameters over joint models: every candidate on every fold, one alignment for all of it.

What the trainings let others learn adds up, as in a cross-validation; see `vfl.model_selection`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import ParameterGrid

from parties.errors import ConfigError, DataError
from vfl.common_alignment import align_once
from vfl.estimators import Estimator
from vfl.federation import Federation, Tables, check_kind, prepare, train
from vfl.folds import Fold, check_folds, lines_of, play, refuse_silos, sum_of_spent, sum_of_warnings, trainings
from vfl.job import Scenario, Task
from vfl.joint_model import JointModel
from vfl.metrics import METRIC_NAMES
from vfl.notebook import Course
from vfl.own_modules import Modules, modules_of
from vfl.party import Data, plain
from vfl.prepare import split_rows
from vfl.tables import nearest, show

_DEFAULT_SCORING = {"binary": "auc", "multiclass": "accuracy", "regression": "rmse", "count": "poisson_deviance"}
_LESS_IS_BETTER = frozenset({"log_loss", "brier", "rmse", "mae", "poisson_deviance"})


class GridSearch(BaseEstimator):  # type: ignore[misc]
    """Search a grid of parameters by cross-validation, in scikit-learn's manner.

    The rows that `fit` holds out take no part in the search, so that ``best_model_.evaluate()`` judges the model that
    was found on rows which did not choose it.

    Parameters
    ----------
    estimator : estimator
        What to train.
    param_grid : dict of parameter to list of values, or a list of such
        As scikit-learn's ``ParameterGrid``.
    cv : int, default 3
        Folds of the rows that are not held out; blocks of the agreed row order.
    scoring : str, optional
        One of the task's metrics; by default "auc", "accuracy", "rmse" or "poisson_deviance". Whether more or less of
        it is better is known.
    refit : bool, default True
        Train the best estimator on all rows that are not held out.

    Attributes
    ----------
    cv_results_ : dict of str to ndarray
        As scikit-learn's, to be made a DataFrame; scores are the metric itself, in its own sign.
    best_params_, best_index_, best_score_ : dict, int, float
        Of the best candidate; the score is its mean over the folds.
    best_estimator_ : estimator
        With the best parameters.
    best_model_ : JointModel
        With ``refit``.
    scoring_ : str
        The metric.
    spent_ : DataFrame
        Per party, over all trainings; see `CrossValidation`.
    warnings_ : list of str
        Of all trainings, each once.

    Examples
    --------
    >>> from vfl import Federation, LinearRegression, Party
    >>> ids = [f"c{i}" for i in range(200)]
    >>> bank = pd.DataFrame({"client": ids, "income": [i % 7 for i in range(200)]})
    >>> shop = pd.DataFrame({"card": ids, "visits": [i % 5 for i in range(200)]})
    >>> bank["spent"] = bank["income"] + 2.0 * shop["visits"]
    >>> federation = Federation(
    ...     Party("bank", bank, id="client", label="spent"),
    ...     Party("shop", shop, id="card"),
    ...     privacy={"key_bits": 512, "insecure_test_mode": True},  # for this example only; leave it out
    ... )
    >>> search = GridSearch(LinearRegression(), {"l2": [1e-3, 10.0]}, cv=2).fit(federation)
    >>> search.best_params_, search.scoring_
    ({'l2': 0.001}, 'rmse')
    >>> search.best_model_.evaluate().metrics["r2"] > 0.99
    True
    """

    cv_results_: dict[str, Any]
    best_index_: int
    best_params_: dict[str, Any]
    best_score_: float
    best_estimator_: Estimator
    best_model_: JointModel
    scoring_: str
    spent_: pd.DataFrame
    warnings_: list[str]

    def __init__(
        self,
        estimator: Estimator,
        param_grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Sequence[Any]]],
        *,
        cv: int = 3,
        scoring: str | None = None,
        refit: bool = True,
    ) -> None:
        self.estimator = estimator
        self.param_grid = param_grid
        self.cv = cv
        self.scoring = scoring
        self.refit = refit

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_") and not name.startswith("_"):
            raise NotFittedError(f"GridSearch has no '{name}' yet: call fit(federation), for a model with refit=True")
        raise AttributeError(f"'GridSearch' object has no attribute {name!r}")

    def fit(
        self,
        federation: Federation,
        *,
        test_fraction: float = 0.3,
        validation_fraction: float = 0.0,
        seed: int = 0,
        baselines: bool = True,
        progress: bool = False,
    ) -> GridSearch:
        """Try every candidate on every fold, and train the best one.

        Parameters
        ----------
        test_fraction : float
            Share of the aligned rows that is held out from the search, the last of the agreed order.
        validation_fraction, seed, baselines : float, int, bool
            As in `Federation.fit`.
        progress : bool
            Show how far it is.

        Raises
        ------
        ConfigError
            A parameter, a value or ``scoring`` that does not exist; nothing is trained then.
        VflError
            As a run would raise it.
        """
        self.__dict__.pop("best_model_", None)  # of an earlier search
        check_kind(self.estimator)
        check_folds(self.cv)
        candidates = _candidates(self.estimator, self.param_grid)
        scenarios, modules, tables = self._prepare(
            candidates, federation, lines_of(seed, test_fraction, validation_fraction)
        )
        refuse_silos(scenarios[0].job)
        self.scoring_ = _check_scoring(self.scoring, [scenario.job.task for scenario in scenarios])
        warnings: list[list[str]] = []
        with Course(len(scenarios) * self.cv + bool(self.refit), progress) as course:
            with course.step("Aligning ids", counts=False) as report:
                alignment = align_once(scenarios[0], tables, report)
            rows = alignment.rows - split_rows(scenarios[0].job, alignment.rows).test
            folds = [
                [
                    play(training, tables, alignment, course, active_only=False, modules=own)
                    for training in trainings(scenario, self.cv, rows, f"candidate {number}, fold {{fold}}")
                ]
                for number, (scenario, own) in enumerate(zip(scenarios, modules, strict=True), start=1)
            ]
            warnings += [fold.warnings for each in folds for fold in each]
            self._choose(candidates, folds)
            if self.refit:
                best, begun = scenarios[self.best_index_], alignment.begin("refit")
                with course.step("best candidate, all folds") as report:
                    self.best_model_ = train(
                        federation,
                        best,
                        tables,
                        report,
                        baselines=baselines,
                        begun=begun,
                        modules=modules[self.best_index_],
                    )
                warnings.append(self.best_model_.report.warnings)
        self.spent_ = sum_of_spent(alignment)
        self.warnings_ = sum_of_warnings(scenarios[0], warnings)
        return self

    def _prepare(
        self, candidates: list[dict[str, Any]], federation: Federation, lines: dict[str, object]
    ) -> tuple[list[Scenario], list[Modules], Tables]:
        """Every candidate's scenario and own modules, checked before anything is trained."""
        tables: Tables = {}
        scenarios: list[Scenario] = []
        modules: list[Modules] = []
        for parameters in candidates:
            candidate = clone(self.estimator).set_params(**parameters)
            scenario, tables = prepare(federation, candidate, lines, tables)
            scenarios.append(scenario)
            modules.append(modules_of(candidate, scenario.job))
        return scenarios, modules, tables

    def _choose(self, candidates: list[dict[str, Any]], folds: list[list[Fold]]) -> None:
        """Set what the search has found."""
        self.cv_results_ = _results(candidates, folds, self.scoring_)
        self.best_index_ = int(self.cv_results_["rank_test_score"].argmin())
        self.best_params_ = candidates[self.best_index_]
        self.best_score_ = float(self.cv_results_["mean_test_score"][self.best_index_])
        self.best_estimator_ = clone(self.estimator).set_params(**self.best_params_)
        if not np.isfinite(self.best_score_):
            raise DataError(
                f"scoring, got '{self.scoring_}' undefined for every candidate, expected a figure in every fold; take "
                "fewer folds or another metric"
            )

    def predict(self, data: Mapping[str, Data] | None = None) -> pd.Series:
        """`JointModel.predict` of ``best_model_``."""
        return self.best_model_.predict(data)

    def predict_proba(self, data: Mapping[str, Data] | None = None) -> pd.DataFrame:
        """`JointModel.predict_proba` of ``best_model_``."""
        return self.best_model_.predict_proba(data)


def _results(candidates: list[dict[str, Any]], folds: list[list[Fold]], scoring: str) -> dict[str, Any]:
    """``cv_results_``; an undefined score is NaN and ranks last."""
    scores = np.array([[_figure(fold.metrics[scoring]) for fold in each] for each in folds])
    seconds = np.array([[fold.seconds for fold in each] for each in folds])
    mean = scores.mean(axis=1)
    order = pd.Series(mean if scoring in _LESS_IS_BETTER else -mean).rank(method="min", na_option="bottom")
    names = sorted({name for params in candidates for name in params})
    return {
        "mean_fit_time": seconds.mean(axis=1),
        "std_fit_time": seconds.std(axis=1),
        "mean_rounds": np.array([np.mean([fold.rounds for fold in each]) for each in folds]),
        **{f"param_{name}": _objects([params.get(name) for params in candidates]) for name in names},
        "params": candidates,
        **{f"split{fold}_test_score": scores[:, fold] for fold in range(scores.shape[1])},
        "mean_test_score": mean,
        "std_test_score": scores.std(axis=1),
        "rank_test_score": order.to_numpy().astype(np.int64),
    }


def _figure(value: float | None) -> float:
    return np.nan if value is None else value


def _objects(values: list[Any]) -> NDArray[np.object_]:
    """An array of objects, whatever they are."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _candidates(estimator: Estimator, grid: object) -> list[dict[str, Any]]:
    """Every point of the grid, in Python's own numbers."""
    try:
        points = list(ParameterGrid(grid))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"param_grid, {error}; expected a dict of parameter to a list of values") from None
    known = list(estimator.get_params())
    for name in sorted({name for point in points for name in point}):
        if name not in known:
            raise ConfigError(
                f"param_grid, got {show(name)}, which {type(estimator).__name__} has not, did you mean "
                f"'{nearest(name, known)}'?"
            )
    if not points:
        raise ConfigError("param_grid, got no candidate, expected a dict of parameter to a list of values")
    return [{name: plain(value) for name, value in point.items()} for point in points]


def _check_scoring(scoring: str | None, tasks: Sequence[Task]) -> str:
    """The metric to go by, which every candidate's task must have."""
    chosen = _DEFAULT_SCORING[tasks[0]] if scoring is None else scoring
    for task in tasks:
        if chosen not in METRIC_NAMES[task]:
            listed = ", ".join(METRIC_NAMES[task])
            raise ConfigError(f"scoring, got {show(chosen)}, expected one of {listed} for task '{task}'")
    return chosen
