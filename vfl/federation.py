"""The Python interface: a federation of parties, all on this machine, that fits one joint model.

The roles play the same protocols as between processes, on turn-taking threads of this one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pandas as pd

from parties.columns import MISSING, encode_labels
from parties.data import PartyTable, read_party, table_from_frame
from parties.errors import ConfigError
from vfl.estimators import Estimator, GradientBoostingClassifier, GradientBoostingRegressor
from vfl.events import Event, Metrics
from vfl.job import Scenario, Task
from vfl.job_file import build_scenario
from vfl.optim import Vector
from vfl.report.summary import RunReport
from vfl.run import run_scenario
from vfl.shard import Shard, load_shard
from vfl.tables import show

_IN_MEMORY = "a DataFrame"


class Party:
    """One company: its name, its data and which columns mean what.

    Parameters
    ----------
    name : str
        Lower-case letters, digits, ``-`` and ``_``.
    data : path or pandas.DataFrame
        A CSV, or a DataFrame whose id columns are text or whole numbers.
    id : str or sequence of str
        Id column, or several for a composite key.
    label : str, optional
        The label column; the party that has one is the active party.
    role : {"active", "passive"}, optional
        By default "active" with a label, else "passive".
    **options
        The other keys of a ``[[party]]`` table: ``positive``, ``sample_weight``, ``features``, ``drop``,
        ``categorical``, ``monotone_constraints``, ``missing_values``, ``encoding``, ``unknown_category``, ``policy``.
    """

    def __init__(
        self,
        name: str,
        data: str | Path | pd.DataFrame,
        *,
        id: str | list[str] | tuple[str, ...],  # noqa: A002 - the scenario file's word
        label: str | None = None,
        role: Literal["active", "passive"] | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        self.data = data
        self.lines: dict[str, object] = {
            "name": name,
            "role": role or ("active" if label is not None else "passive"),
            "data": _IN_MEMORY if isinstance(data, pd.DataFrame) else str(data),
            "id": id if isinstance(id, str) else list(id),
            **({} if label is None else {"label": label}),
            **options,
        }

    def __repr__(self) -> str:
        return f"Party({self.name!r}, {self.lines['role']})"


@dataclass(frozen=True)
class Evaluation:
    """Metrics on the held-out rows.

    Attributes
    ----------
    metrics : dict of metric name to float or None
        Of the joint model.
    active_only, pooled : dict or None
        The same model on the active party's columns alone, and on all columns in one place.
    """

    metrics: Metrics
    active_only: Metrics | None
    pooled: Metrics | None

    def to_frame(self) -> pd.DataFrame:
        """One row per metric, one column per model."""
        columns = {"active_only": self.active_only, "joint": self.metrics, "pooled": self.pooled}
        return pd.DataFrame({name: values for name, values in columns.items() if values is not None})


@dataclass(frozen=True)
class LinearPart:
    """What is particular to a fitted GLM; see `JointModel`."""

    coef: dict[str, pd.DataFrame]
    intercept: Vector


@dataclass(frozen=True)
class JointModel:
    """A fitted joint model; fitted attributes end in an underscore, as in scikit-learn.

    Attributes
    ----------
    coef_ : dict of party name to DataFrame
        Of GLMs: one row per encoded column of the party, one column per score (softmax: per class). They belong to
        the standardised columns.
    intercept_ : ndarray of shape (outputs,), float64
        Of GLMs: zeros without an intercept.
    classes_ : list of str
        Class texts (binary: negative, positive); empty for numbers.
    n_iter_ : int
        Rounds, of boosting the trees.
    loss_curve_ : list of float
        Loss with penalty: the start, then one per round.
    report : RunReport
        The whole run, as in report.json.
    linear : LinearPart or None
        What ``coef_`` and ``intercept_`` are taken from; None for trees, which have neither.
    """

    estimator: Estimator
    report: RunReport = field(repr=False)
    classes_: list[str]
    test_scores_: pd.DataFrame | None = field(repr=False)
    linear: LinearPart | None = field(default=None, repr=False)

    @property
    def coef_(self) -> dict[str, pd.DataFrame]:
        """Coefficients by party."""
        return self._linear("coef_").coef

    @property
    def intercept_(self) -> Vector:
        """One number per score."""
        return self._linear("intercept_").intercept

    def _linear(self, name: str) -> LinearPart:
        if self.linear is None:
            raise AttributeError(
                f"{type(self.estimator).__name__} grows trees and has no {name}, expected a linear model"
            )
        return self.linear

    @property
    def n_iter_(self) -> int:
        """Rounds of the training."""
        return self.report.training.rounds

    @property
    def loss_curve_(self) -> list[float]:
        """Loss with penalty: the start, then one entry per round."""
        return self.report.training.loss

    @property
    def feature_importances_(self) -> pd.DataFrame:
        """Gain, cover and number of splits of every column of a boosted model, the largest gain first.

        Own columns stand by name, those of passive parties by number.
        """
        lines = self.report.feature_importance
        if not lines:
            raise AttributeError("feature_importances_ exists for boosted trees only; GLMs have coef_")
        return pd.DataFrame([msgspec.structs.asdict(line) for line in lines])

    def evaluate(self) -> Evaluation:
        """Metrics on the rows that ``fit`` held out.

        Raises
        ------
        ConfigError
            If none were held out.
        """
        metrics = self.report.metrics
        if not metrics["joint"]:
            raise ConfigError("test_fraction: got 0, expected more: no rows were held out to evaluate on")
        return Evaluation(metrics["joint"], metrics.get("active_only"), metrics.get("pooled"))


class Federation:
    """Parties that train together.

    Parameters
    ----------
    *parties : Party
        Exactly one with a label, and at least one without.
    alignment, privacy : mapping, optional
        Lines of the sections ``[alignment]`` and ``[privacy]`` of a scenario file.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(600, 2))
    >>> ids = [f"{i:04d}" for i in range(600)]
    >>> bank = pd.DataFrame({"client": ids, "income": x[:, 0], "bought": (x.sum(axis=1) > 0).astype(int)})
    >>> shop = pd.DataFrame({"card": ids[::-1], "visits": x[::-1, 1]})
    >>> federation = Federation(
    ...     Party("bank", bank, id="client", label="bought"),
    ...     Party("shop", shop, id="card"),
    ...     privacy={"key_bits": 512, "insecure_test_mode": True},  # for this example only; leave it out
    ... )
    >>> from vfl import LogisticRegression
    >>> model = federation.fit(LogisticRegression(l2=0.01))
    >>> model.evaluate().metrics["auc"] > model.evaluate().active_only["auc"]
    True
    """

    def __init__(
        self,
        *parties: Party,
        alignment: Mapping[str, object] | None = None,
        privacy: Mapping[str, object] | None = None,
    ) -> None:
        self.parties = parties
        self.alignment = dict(alignment or {})
        self.privacy = dict(privacy or {})

    def __repr__(self) -> str:
        return f"Federation({', '.join(repr(party) for party in self.parties)})"

    def fit(
        self,
        estimator: Estimator,
        *,
        test_fraction: float = 0.3,
        validation_fraction: float = 0.0,
        seed: int = 0,
        name: str = "federation",
        out: str | Path | None = None,
        overwrite: bool = False,
        baselines: bool = True,
        progress: bool = False,
    ) -> JointModel:
        """Align, train and evaluate.

        Parameters
        ----------
        estimator : LogisticRegression, LinearRegression, PoissonRegressor, SoftmaxRegression, \
GradientBoostingClassifier or GradientBoostingRegressor
        test_fraction : float
            Share of the aligned rows held out, the last of the agreed order.
        validation_fraction : float
            Boosting: share of the aligned rows held out to watch the loss, before the test rows.
        seed : int
            Of the row order; keys and masks are fresh in every run.
        out : path, optional
            Directory to keep the run in, as ``vfl run --out`` writes it.
        baselines : bool
            Also fit the active party's columns alone and all columns pooled, for comparison.
        progress : bool
            Show the phases on standard error.

        Raises
        ------
        VflError
            As the command line would say it.
        """
        split = {"test_fraction": test_fraction, "validation_fraction": validation_fraction}
        scenario, tables = self._prepare(estimator, {"name": name, "seed": seed, "split": split})
        if out is not None:
            return _fit(scenario, estimator, tables, Path(out), overwrite, baselines, progress)
        with tempfile.TemporaryDirectory() as directory:
            return _fit(scenario, estimator, tables, Path(directory) / "run", False, baselines, progress)

    def _prepare(self, estimator: Estimator, lines: dict[str, object]) -> tuple[Scenario, dict[str, PartyTable]]:
        """Check the scenario and read the data; a classifier of trees takes its task from the labels."""
        if not isinstance(estimator, GradientBoostingClassifier):
            scenario = self._scenario(estimator, lines, _task(estimator))
            return scenario, self._tables(scenario)
        scenario = self._scenario(GradientBoostingClassifier(), lines, "binary")
        tables = self._tables(scenario)
        return self._scenario(
            estimator, lines, _task_of_labels(tables[scenario.job.active], scenario.job.active)
        ), tables

    def _scenario(self, estimator: Estimator, lines: dict[str, object], task: Task | None) -> Scenario:
        parameters = {key: value for key, value in estimator.get_params().items() if key != "objective"}
        document = {
            **lines,
            "model": estimator.model,
            **({} if task is None else {"task": task}),
            "alignment": self.alignment,
            "training": parameters,
            "privacy": self.privacy,
            "party": [party.lines for party in self.parties],
        }
        return build_scenario(document, Path.cwd(), file="the federation")

    def _tables(self, scenario: Scenario) -> dict[str, PartyTable]:
        return {
            spec.name: table_from_frame(party.data, spec) if isinstance(party.data, pd.DataFrame) else read_party(spec)
            for party, spec in zip(self.parties, scenario.parties, strict=True)
        }


def _fit(
    scenario: Scenario,
    estimator: Estimator,
    tables: dict[str, PartyTable],
    out: Path,
    overwrite: bool,
    baselines: bool,
    progress: bool,
) -> JointModel:
    """Run, and read the shards back."""

    def run(report: Any) -> RunReport:
        return run_scenario(scenario, out, report, overwrite=overwrite, baselines=baselines, tables=tables)

    summary = _with_display(scenario, run) if progress else run(_silent)
    lead = out / scenario.job.active
    scores = lead / "test_scores.csv"
    return JointModel(
        estimator=estimator,
        report=summary,
        classes_=json.loads((lead / "model.json").read_text("utf-8"))["classes"],
        test_scores_=pd.read_csv(scores, dtype=dict.fromkeys(_text_columns(scenario), str))
        if scores.exists()
        else None,
        linear=None if estimator.model == "boosting" else _linear_part(scenario, out),
    )


def _task(estimator: Estimator) -> Task | None:
    """Task of an estimator that implies one; of a GLM the model says it."""
    if isinstance(estimator, GradientBoostingRegressor):
        tasks: dict[str, Task] = {"squared_error": "regression", "poisson": "count"}
        given: object = estimator.objective
        if not isinstance(given, str) or given not in tasks:
            raise ConfigError(f"objective, got {show(given)}, expected 'squared_error' or 'poisson'")
        return tasks[given]
    return None


def _task_of_labels(table: PartyTable, party: str) -> Task:
    """Binary for labels of two values, multiclass for more."""
    labels = [label for label in table.labels or () if label not in MISSING]
    return "binary" if len(encode_labels(labels, "multiclass", None, party).classes) == 2 else "multiclass"


def _linear_part(scenario: Scenario, out: Path) -> LinearPart:
    """Coefficients from the shards of a GLM."""
    shards = {spec.name: load_shard(out / spec.name) for spec in scenario.parties}
    lead = shards[scenario.job.active]
    return LinearPart(
        coef={name: _coefficients(shard, lead.classes) for name, shard in shards.items()},
        intercept=np.zeros(lead.coef.shape[1]) if lead.intercept is None else lead.intercept,
    )


def _coefficients(shard: Shard, classes: list[str]) -> pd.DataFrame:
    names = classes if len(classes) == shard.coef.shape[1] else ["coef"]
    return pd.DataFrame(shard.coef, index=shard.columns, columns=names)


def _text_columns(scenario: Scenario) -> tuple[str, ...]:
    return next(spec.id_columns for spec in scenario.parties if spec.role == "active")


def _with_display(scenario: Scenario, run: Any) -> RunReport:
    from rich.console import Console

    from vfl.display import Display

    with Display(scenario.job, Console(stderr=True)) as display:
        summary: RunReport = run(display.report)
    return summary


def _silent(event: Event) -> None:
    """Show nothing."""
