"""The Python interface: a federation of parties, all on this machine, that fits one joint model.

The roles play the same protocols as between processes, on turn-taking threads of this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from parties.columns import MISSING, encode_labels
from parties.data import PartyTable, read_party, table_from_frame
from parties.errors import ConfigError
from parties.spec import PartySpec
from vfl.common_alignment import Begun
from vfl.estimators import (
    ESTIMATORS,
    OBJECTIVES,
    Estimator,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
)
from vfl.events import Report
from vfl.job import Scenario, Task
from vfl.job_file import build_scenario
from vfl.joint_model import JointModel, make_model
from vfl.kept_directory import KeptDirectory
from vfl.network_estimators import MODULES, SplitClassifier, SplitRegressor
from vfl.notebook import watch
from vfl.own_modules import Modules, kept_modules, modules_of
from vfl.party import Data, Party, plain
from vfl.run import run_scenario
from vfl.tables import show
from vfl.torch_parts import need_torch

if TYPE_CHECKING:
    from vfl.common_rows import CommonRows

Tables = dict[str, PartyTable]


class Federation:
    """Parties that train together.

    Parameters
    ----------
    *parties : Party
        Exactly one with a label, and at least one without; or one alone that has silos, which then learn together
        without any alignment or encryption (horizontal learning).
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
        for party in parties:
            if not isinstance(party, Party):
                raise ConfigError(
                    f"Federation, got {_kind(party)}, expected parties such as Party('bank', 'bank.csv', ...)"
                )
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
GradientBoostingClassifier, GradientBoostingRegressor, SplitClassifier or SplitRegressor
        test_fraction : float
            Share of the aligned rows held out, the last of the agreed order.
        validation_fraction : float
            Boosting and networks: share of the aligned rows held out to watch the loss, before the test rows.
        seed : int
            Of the row order; keys and masks are fresh in every run.
        out : path, optional
            Directory to keep the run in, as ``vfl run --out`` writes it. By default it goes with the model; see
            `JointModel.save`.
        baselines : bool
            Also fit the active party's columns alone and all columns pooled, for comparison.
        progress : bool
            Show the phases: on standard error, or in the cell of a notebook.

        Raises
        ------
        VflError
            As the command line would say it.
        """
        split = {"test_fraction": test_fraction, "validation_fraction": validation_fraction}
        scenario, tables = prepare(self, estimator, {"name": name, "seed": seed, "split": split})
        modules = modules_of(estimator, scenario.job)
        with watch(scenario.job, progress=progress) as report:
            return train(
                self, scenario, tables, report, out=out, overwrite=overwrite, baselines=baselines, modules=modules
            )

    def align(self, *, seed: int = 0, cardinality: bool = False) -> CommonRows:
        """Find the common rows, and nothing else: neither a label nor a column but the ids is read.

        Parameters
        ----------
        seed : int
            Of the row order.
        cardinality : bool
            Only how many ids are common.

        Raises
        ------
        VflError
            As the command line would say it.

        Examples
        --------
        >>> import pandas as pd
        >>> bank = pd.DataFrame({"client": ["001", "002", "003"], "income": [10, 20, 30]})
        >>> shop = pd.DataFrame({"card": ["003", "001", "007"], "visits": [3, 1, 7]})
        >>> federation = Federation(
        ...     Party("bank", bank, id="client", role="active"),
        ...     Party("shop", shop, id="card"),
        ...     alignment={"min_intersection": 2},
        ... )
        >>> common = federation.align(seed=4)
        >>> pd.concat(common.frames, axis=1).droplevel(0, axis=1)
          client  income card  visits
        0    001      10  001       1
        1    003      30  003       3
        >>> federation.align(cardinality=True).intersection
        2
        """
        from vfl.common_rows import common_rows

        document = _document(self, {"name": "federation", "seed": seed})
        scenario = build_scenario(document, Path.cwd(), file="the federation", alone=True)
        data = {name: data for party in self.parties for name, data in party.sources.items()}
        return common_rows(scenario, data, cardinality=cardinality)


def train(
    federation: Federation,
    scenario: Scenario,
    tables: Tables,
    report: Report,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    baselines: bool = True,
    begun: Begun | None = None,
    modules: Modules | None = None,
) -> JointModel:
    """Run a scenario that `prepare` made; ``begun`` is an alignment that was made before."""
    directory = KeptDirectory(None if out is None else Path(out))
    summary = run_scenario(
        scenario,
        directory.path,
        report,
        overwrite=overwrite,
        baselines=baselines,
        tables=tables,
        begun=begun,
        page=out is not None,
        modules=modules,
    )
    own = kept_modules(modules or {}, scenario.job)
    return make_model(directory, summary, data=_data(federation, scenario), modules=own)


def prepare(
    federation: Federation, estimator: Estimator, lines: dict[str, object], tables: Tables | None = None
) -> tuple[Scenario, Tables]:
    """Check the scenario and read the data; a classifier of trees or layers takes its task from the labels.

    Parameters
    ----------
    lines : dict
        ``name``, ``seed`` and ``split`` of the scenario file.
    tables : dict of party name to PartyTable, optional
        The data, where they have been read.
    """
    check_kind(estimator)
    if not isinstance(federation, Federation):
        raise ConfigError(f"federation, got {_kind(federation)}, expected a Federation of parties")
    if isinstance(estimator, SplitClassifier | SplitRegressor):
        need_torch(type(estimator).__name__)
    if not isinstance(estimator, GradientBoostingClassifier | SplitClassifier):
        scenario = _scenario(federation, estimator, lines, _task(estimator))
        return scenario, tables or _read(federation, scenario)
    scenario = _scenario(federation, type(estimator)(), lines, "binary")
    read = tables or _read(federation, scenario)
    tables_of = [read[name] for name in scenario.job.labelled]
    return _scenario(federation, estimator, lines, _task_of_labels(tables_of, scenario.job.active)), read


def check_kind(estimator: object) -> None:
    """Refuse what is no estimator of vfl's, such as scikit-learn's of the same name."""
    names = ", ".join(kind.__name__ for kind in ESTIMATORS)
    if isinstance(estimator, type) and estimator in ESTIMATORS:
        raise ConfigError(f"estimator, got the class {estimator.__name__}, expected {estimator.__name__}()")
    if not isinstance(estimator, ESTIMATORS):
        raise ConfigError(f"estimator, got {_kind(estimator)}, expected one of vfl's: {names}")


def _kind(value: object) -> str:
    """What somebody has handed over."""
    package, name = type(value).__module__.partition(".")[0], type(value).__name__
    return name if package == "builtins" else f"{package}'s {name}"


def _scenario(federation: Federation, estimator: Estimator, lines: dict[str, object], task: Task | None) -> Scenario:
    given = estimator.get_params(deep=False)
    parameters = {key: plain(value) for key, value in given.items() if key not in ("objective", *MODULES)}
    if parameters.get("aggregation_by_layer", ...) is None:
        del parameters["aggregation_by_layer"]
    trained = {"model": estimator.model, **({} if task is None else {"task": task}), "training": parameters}
    return build_scenario(_document(federation, lines) | trained, Path.cwd(), file="the federation")


def _document(federation: Federation, lines: dict[str, object]) -> dict[str, object]:
    """What a scenario file would say of it."""
    return {
        **{key: plain(value) for key, value in lines.items()},
        "alignment": plain(federation.alignment),
        "privacy": plain(federation.privacy),
        "party": [party.lines for party in federation.parties],
    }


def _read(federation: Federation, scenario: Scenario) -> Tables:
    return {
        spec.name: table_from_frame(data, spec) if isinstance(data, pd.DataFrame) else read_party(spec)
        for spec, data in _with_data(federation, scenario)
    }


def _data(federation: Federation, scenario: Scenario) -> dict[str, Path | pd.DataFrame]:
    """Every party's data; CSVs by the path that they were read from."""
    return {
        spec.name: data if isinstance(data, pd.DataFrame) else Path(spec.data)
        for spec, data in _with_data(federation, scenario)
    }


def _with_data(federation: Federation, scenario: Scenario) -> list[tuple[PartySpec, Data]]:
    """Every party or silo of the scenario, and what it was given."""
    given = [data for party in federation.parties for data in party.sources.values()]
    return list(zip(scenario.parties, given, strict=True))


def _task(estimator: Estimator) -> Task | None:
    """Task of an estimator that implies one; of a GLM the model says it."""
    if isinstance(estimator, GradientBoostingRegressor | SplitRegressor):
        given: object = plain(estimator.objective)
        if not isinstance(given, str) or given not in OBJECTIVES:
            raise ConfigError(f"objective, got {show(given)}, expected 'squared_error' or 'poisson'")
        return OBJECTIVES[given]
    return None


def _task_of_labels(labelled: Sequence[PartyTable], party: str) -> Task:
    """Binary for labels of two values, multiclass for more."""
    labels = [label for table in labelled for label in table.labels or () if label not in MISSING]
    return "binary" if len(encode_labels(labels, "multiclass", None, party).classes) == 2 else "multiclass"
