"""A fitted joint model in Python: what was fitted, predictions and metrics, and how it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pandas as pd

from parties.errors import ConfigError
from vfl.estimators import Estimator, estimator_of
from vfl.events import Intervals, Metrics
from vfl.horizontal_shard import HorizontalShard
from vfl.kept_directory import KeptDirectory, ModelReport
from vfl.kept_model import Model, network_of, whole_network, with_modules
from vfl.notebook import table_html, watch
from vfl.optim import Vector
from vfl.own_modules import Modules
from vfl.party import Data
from vfl.prediction import Predicted, load_models, predict_here
from vfl.predictions import Predictions, check_data, collect
from vfl.report.summary import RunReport
from vfl.shard import Shard
from vfl.splitnn_shard import SplitShard

if TYPE_CHECKING:
    import torch

    from vfl.job import Job


Rows = Mapping[str, Data] | Data


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a joint model, on the rows that ``fit`` held out or on new ones.

    Attributes
    ----------
    metrics : dict of metric name to float or None
        Of the joint model.
    active_only, pooled : dict or None
        The same model on the active party's columns alone, and on all columns in one place; None on new rows.
    rows : int
        Rows judged.
    confidence : dict of model to dict of metric name to (low, high)
        95 % bootstrap intervals; the joint model's under "joint".
    warnings : list of str
        Of the scoring of new rows.
    by_silo : dict of silo to metrics
        Of the joint model on the rows of each silo that has labels; empty without such silos.
    alone : dict of silo to metrics
        Of models that the silos fitted without each other, on all silos' rows held out; only where they trained alone.

    Examples
    --------
    >>> Evaluation({"rmse": 1.0}, active_only={"rmse": 2.0}, pooled=None).to_frame()
          active_only  joint
    rmse          2.0    1.0
    """

    metrics: Metrics
    active_only: Metrics | None = None
    pooled: Metrics | None = None
    rows: int = 0
    confidence: dict[str, Intervals] = field(default_factory=dict, repr=False)
    warnings: list[str] = field(default_factory=list, repr=False)
    by_silo: dict[str, Metrics] = field(default_factory=dict, repr=False)
    alone: dict[str, Metrics] = field(default_factory=dict, repr=False)

    def to_frame(self) -> pd.DataFrame:
        """One row per metric, one column per model."""
        columns = {"active_only": self.active_only, "joint": self.metrics, "pooled": self.pooled}
        return pd.DataFrame({name: values for name, values in columns.items() if values is not None})

    def _repr_html_(self) -> str:
        return table_html(f"{self.rows:,} rows", self.to_frame())


@dataclass(frozen=True, eq=False)
class JointModel:
    """A fitted joint model; fitted attributes end in an underscore, as in scikit-learn.

    `vfl.Federation.fit` makes one, `load_model` reads one back.

    Attributes
    ----------
    estimator : estimator
        What was fitted.
    report : RunReport
        The whole run, as in report.json; ``report.show()`` shows its page.
    coef_ : dict of party name to DataFrame
        Of linear models: one row per encoded column of the party, one column per score (softmax: per class). They
        belong to the standardised columns. The silos of a party have the same.
    intercept_ : ndarray of shape (outputs,), float64
        Of linear models: zeros without an intercept.
    classes_ : list of str
        Class texts (binary: negative, positive); empty for numbers.
    n_iter_ : int
        Rounds: of boosting the trees, of networks the epochs.
    loss_curve_ : list of float
        Loss with penalty: the start, then one per round.
    feature_importances_ : DataFrame
        Of boosted trees: gain, cover and number of splits of every column.
    network_ : torch.nn.Module
        Of networks: the active party's layers above the first one, trained; as ``top`` of `SplitClassifier`.
    test_scores_ : DataFrame or None
        Ids, labels and joint scores of the rows held out; where silos hold the labels, of all of them, by ``silo``.

    Examples
    --------
    >>> import pandas as pd
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
    >>> model = federation.fit(LinearRegression(l2=0), baselines=False)
    >>> new = {
    ...     "bank": pd.DataFrame({"client": ["x", "y", "z"], "income": [1, 2, 3]}),
    ...     "shop": pd.DataFrame({"card": ["z", "x"], "visits": [4, 0]}),
    ... }
    >>> model.predict(new).round(2)
    client
    x     1.0
    z    11.0
    Name: score, dtype: float64
    >>> model.predictions(new).unmatched.tolist()
    ['y']
    """

    estimator: Estimator
    report: ModelReport = field(repr=False)
    directory: KeptDirectory = field(repr=False)
    models: Mapping[str, Model] = field(repr=False)
    data: Mapping[str, Path | pd.DataFrame] = field(default_factory=dict, repr=False)

    def predict(self, data: Rows | None = None, *, progress: bool = False) -> pd.Series:
        """Classes (as text), or numbers, of rows that all parties have.

        Parameters
        ----------
        data : mapping of party name to path or DataFrame, optional
            Rows of every party, with the columns of the training; the parties need not have the same rows, nor in the
            same order; silos by names such as "hospitals.north". Where silos alone have trained, each has the whole
            model: the rows of some of them, or a path or DataFrame alone, are enough. By default the rows of the
            federation, training rows too.
        progress : bool
            Show the phases.

        Returns
        -------
        Series
            In the order of the active party's rows, indexed by its ids, or of its silos' one after the other. Rows
            that another party lacks are left out, or scored on the active party's columns alone, as
            ``unmatched_rows`` of its policy says; `predictions` names them.

        Raises
        ------
        VflError
            As ``vfl predict`` would say it.
        """
        return self.predictions(data, progress=progress).chosen

    def predict_proba(self, data: Rows | None = None, *, progress: bool = False) -> pd.DataFrame:
        """Probabilities, one column per class in the order of ``classes_``; see `predict`."""
        self._check_classes("predict_proba")
        return self.predictions(data, progress=progress).probabilities

    def decision_function(self, data: Rows | None = None, *, progress: bool = False) -> pd.Series | pd.DataFrame:
        """Log-odds of the positive class, or of several classes the logarithms of their probabilities; see `predict`.

        They are taken from the probabilities: infinite where one rounds to 0 or 1.
        """
        self._check_classes("decision_function")
        probabilities = self.predictions(data, progress=progress).probabilities
        with np.errstate(divide="ignore"):
            logarithms = np.log(probabilities.to_numpy())
        if len(self.classes_) > 2:
            return pd.DataFrame(logarithms, index=probabilities.index, columns=self.classes_)
        return pd.Series(logarithms[:, 1] - logarithms[:, 0], index=probabilities.index, name="score")

    def predictions(self, data: Rows | None = None, *, progress: bool = False) -> Predictions:
        """Scores, classes and the rows without any, in one; see `predict`."""
        given = self._given(data)
        return collect(self._predict(given, labelled=False, progress=progress), given)

    def evaluate(self, data: Rows | None = None, *, progress: bool = False) -> Evaluation:
        """Metrics on the rows that ``fit`` held out, or on new rows with labels.

        Parameters
        ----------
        data : mapping of party name to path or DataFrame, optional
            As in `predict`, the active party's with its label column. By default the rows held out.

        Raises
        ------
        ConfigError
            If none were held out.
        VflError
            As ``vfl evaluate`` would say it.
        """
        if data is None:
            report, metrics = self.report, self.report.metrics
            if not metrics["joint"]:
                raise ConfigError("test_fraction: got 0, expected more: no rows were held out to evaluate on")
            return Evaluation(
                metrics=metrics["joint"],
                active_only=metrics.get("active_only"),
                pooled=metrics.get("pooled"),
                rows=report.rows["test"] or 0,
                confidence=report.confidence,
                by_silo=report.by_silo,
                alone=report.alone,
            )
        predicted = self._predict(self._given(data), labelled=True, progress=progress)
        from vfl.evaluation import evidence_of, metrics_of
        from vfl.report.statistics import bootstrap_intervals

        evidence = evidence_of(predicted)
        metrics = metrics_of(evidence)
        return Evaluation(
            metrics=metrics.pop("joint"),
            by_silo=metrics,
            rows=len(evidence.y),
            confidence=bootstrap_intervals(evidence, self.report.seed),
            warnings=list(dict.fromkeys(line for one in predicted for line in one.warnings)),
        )

    def save(self, out: str | Path, *, overwrite: bool = False) -> Path:
        """Keep the model as ``vfl run --out`` leaves it: `load_model` and ``vfl predict`` take it from there.

        Parameters
        ----------
        out : path
            A directory that is new or empty, or with ``overwrite`` one that holds a run.

        Returns
        -------
        Path
            The directory.
        """
        self.directory.copy(Path(out), list(self.models), overwrite=overwrite)
        return Path(out)

    @property
    def coef_(self) -> dict[str, pd.DataFrame]:
        """Coefficients by party."""
        shards, holders = self._linear("coef_"), self._job.holders
        first = {holder: next(shards[name] for name in names if name in shards) for holder, names in holders.items()}
        return {holder: _coefficients(shard, self.classes_) for holder, shard in first.items()}

    @property
    def intercept_(self) -> Vector:
        """One number per score."""
        lead = self._linear("intercept_")[self._lead]
        return np.zeros(lead.coef.shape[1]) if lead.intercept is None else lead.intercept

    @property
    def classes_(self) -> list[str]:
        """Class texts (binary: negative, positive); empty for numbers."""
        return self.models[self._lead].classes

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
        if self._job.model != "boosting":
            raise AttributeError(
                f"{type(self.estimator).__name__} has no feature_importances_, expected boosted trees; linear models "
                "have coef_, networks network_"
            )
        lines = [msgspec.structs.asdict(line) for line in self.report.feature_importance]
        return pd.DataFrame(lines, columns=["party", "feature", "gain", "cover", "count"])

    @cached_property
    def network_(self) -> torch.nn.Module:
        """The active party's layers above the first one, trained."""
        lead = self.models[self._lead]
        if isinstance(lead.shard, HorizontalShard) and self._job.model == "splitnn":
            return whole_network(lead).top.train(False)
        if not isinstance(lead.shard, SplitShard):
            raise AttributeError(f"{type(self.estimator).__name__} has no network_, expected a split neural network")
        return network_of(lead).top.train(False)

    @cached_property
    def test_scores_(self) -> pd.DataFrame | None:
        """Ids, labels and joint scores of the rows held out; None without any."""
        found = {name: self._scores_of(name) for name in self._job.labelled if name in self.models}
        kept = {name: frame for name, frame in found.items() if frame is not None}
        if not kept or all(name == self.models[name].kept.party.holder for name in kept):
            return next(iter(kept.values()), None)
        named = {name: frame.rename(columns={"silo": "CSV silo"}) for name, frame in kept.items()}
        return pd.concat(named, names=["silo"]).reset_index("silo").reset_index(drop=True)

    def _scores_of(self, name: str) -> pd.DataFrame | None:
        scores, ids = self.directory.path / name / "test_scores.csv", self.models[name].kept.party.id_columns
        return pd.read_csv(scores, dtype=dict.fromkeys(ids, str)) if scores.exists() else None

    @property
    def _job(self) -> Job:
        return next(iter(self.models.values())).kept.job

    @property
    def _lead(self) -> str:
        """The active party, or where silos alone have trained the first one that is here."""
        return next(name for name in self._job.labelled if name in self.models)

    def _linear(self, name: str) -> dict[str, Shard | HorizontalShard]:
        """The parties' parts of a linear model."""
        kinds = () if self._job.model == "splitnn" else (Shard, HorizontalShard)
        shards = {party: model.shard for party, model in self.models.items() if isinstance(model.shard, kinds)}
        if not shards:
            raise AttributeError(f"{type(self.estimator).__name__} has no {name}, expected a linear model")
        return shards

    def _check_classes(self, name: str) -> None:
        if not self.classes_:
            raise AttributeError(f"{type(self.estimator).__name__} predicts numbers and has no {name}, use predict")

    def _given(self, data: Rows | None) -> dict[str, Path | pd.DataFrame]:
        """The data to predict: those given, or the federation's own."""
        if data is None and not self.data:
            raise ConfigError(
                "data, got none for a model that was loaded, expected a mapping of party to CSV or DataFrame: the "
                "model does not hold the rows that it was trained on"
            )
        return check_data(self._job, list(self.models), self.data if data is None else data)

    def _predict(
        self, data: Mapping[str, Path | pd.DataFrame], *, labelled: bool, progress: bool
    ) -> tuple[Predicted, ...]:
        with watch(self._job, progress=progress, doing="Reading the rows") as report:
            return predict_here(self.models, data, report, labelled=labelled)

    def _repr_html_(self) -> str:
        report = self.report
        facts = f"{report.rows['train']:,} training rows, {report.training.rounds:,} rounds"
        title = f"{self.estimator!r}: {facts}, parties {', '.join(self.models)}"
        return table_html(title, self.evaluate().to_frame() if report.metrics["joint"] else pd.DataFrame())


def load_model(directory: str | Path, *, modules: Mapping[str, torch.nn.Module] | None = None) -> JointModel:
    """Read a model back from the directory of a run on one machine: of ``vfl run --out``, ``fit(out=...)`` or `save`.

    Parameters
    ----------
    directory : path
        It has the parts of all parties; between companies each party has its own, see ``vfl predict --join``.
    modules : mapping of party to torch.nn.Module, optional
        Networks of the parties' own as they were trained, of the active party `SplitClassifier`'s ``top``: a run keeps
        their weights alone. Without them the model tells what there is to tell, and does not predict.

    Raises
    ------
    ConfigError, DataError
        It holds no run, a part is missing, damaged, or of another version or run; or a module is another one.

    Examples
    --------
    >>> load_model("runs/nothing")
    Traceback (most recent call last):
    parties.errors.ConfigError: RUN_DIR, got 'runs/nothing', expected the directory of a finished run, with a folder \
per party and run.json in it; name the --out of 'vfl run' or 'vfl join'
    """
    from vfl.evaluation import report_of_training

    path = Path(directory)
    models = load_models(path)
    return make_model(KeptDirectory(path), report_of_training(path), models=models, modules=modules)


def make_model(
    directory: KeptDirectory,
    report: RunReport,
    *,
    data: Mapping[str, Path | pd.DataFrame] | None = None,
    models: Mapping[str, Model] | None = None,
    modules: Modules | None = None,
) -> JointModel:
    """The model of the run that lies in a directory; ``data`` are what it was trained on, where they are known."""
    found = load_models(directory.path) if models is None else models
    job = next(iter(found.values())).kept.job
    parts = with_modules(found, modules or {})
    return JointModel(estimator_of(job, modules), ModelReport.of(report, directory), directory, parts, data or {})


def _coefficients(shard: Shard | HorizontalShard, classes: list[str]) -> pd.DataFrame:
    names = classes if len(classes) == shard.coef.shape[1] else ["coef"]
    return pd.DataFrame(shard.coef, index=shard.columns, columns=names)
