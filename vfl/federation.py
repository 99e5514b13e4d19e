"""The Python interface: a federation of parties, all on this machine, that fits one joint model.

The roles play the same protocols as between processes, on turn-taking threads of this one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from parties.data import PartyTable, read_party, table_from_frame
from parties.errors import ConfigError
from vfl.estimators import Estimator
from vfl.events import Event, Metrics
from vfl.job import Scenario
from vfl.job_file import build_scenario
from vfl.optim import Vector
from vfl.report.summary import RunReport
from vfl.run import run_scenario
from vfl.shard import Shard, load_shard

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
        ``categorical``, ``missing_values``, ``encoding``, ``unknown_category``, ``policy``.
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
class JointModel:
    """A fitted joint model; fitted attributes end in an underscore, as in scikit-learn.

    Attributes
    ----------
    coef_ : dict of party name to DataFrame
        One row per encoded column of the party, one column per score (softmax: per class). They belong to the
        standardised columns.
    intercept_ : ndarray of shape (outputs,), float64
        Zeros without an intercept.
    classes_ : list of str
        Class texts (binary: negative, positive); empty for numbers.
    n_iter_ : int
        Rounds.
    loss_curve_ : list of float
        Loss with penalty: the start, then one per round.
    report : RunReport
        The whole run, as in report.json.
    """

    estimator: Estimator
    report: RunReport = field(repr=False)
    coef_: dict[str, pd.DataFrame] = field(repr=False)
    intercept_: Vector = field(repr=False)
    classes_: list[str]
    test_scores_: pd.DataFrame | None = field(repr=False)

    @property
    def n_iter_(self) -> int:
        """Rounds of the training."""
        return self.report.training.rounds

    @property
    def loss_curve_(self) -> list[float]:
        """Loss with penalty: the start, then one entry per round."""
        return self.report.training.loss

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
        estimator : LogisticRegression, LinearRegression, PoissonRegressor or SoftmaxRegression
        test_fraction : float
            Share of the aligned rows held out, the last of the agreed order.
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
        scenario = self._scenario(estimator, test_fraction, seed, name)
        tables = self._tables(scenario)
        if out is not None:
            return _fit(scenario, estimator, tables, Path(out), overwrite, baselines, progress)
        with tempfile.TemporaryDirectory() as directory:
            return _fit(scenario, estimator, tables, Path(directory) / "run", False, baselines, progress)

    def _scenario(self, estimator: Estimator, test_fraction: float, seed: int, name: str) -> Scenario:
        document = {
            "name": name,
            "model": estimator.model,
            "seed": seed,
            "alignment": self.alignment,
            "split": {"test_fraction": test_fraction},
            "training": estimator.get_params(),
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
    shards = {spec.name: load_shard(out / spec.name) for spec in scenario.parties}
    lead = shards[scenario.job.active]
    outputs = lead.coef.shape[1]
    scores = out / scenario.job.active / "test_scores.csv"
    return JointModel(
        estimator=estimator,
        report=summary,
        coef_={name: _coefficients(shard, lead.classes) for name, shard in shards.items()},
        intercept_=np.zeros(outputs) if lead.intercept is None else lead.intercept,
        classes_=lead.classes,
        test_scores_=pd.read_csv(scores, dtype=dict.fromkeys(_text_columns(scenario), str))
        if scores.exists()
        else None,
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
