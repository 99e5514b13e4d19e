"""Everything that a run leaves behind, file by file and field by field, in every kind of federation."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from tests.runs.companies import TASKS, Companies, make_companies
from tests.runs.conftest import Command
from vfl.metrics import evaluate
from vfl.report.evidence import load_evidence
from vfl.report.statistics import MAIN_METRIC
from vfl.shard import load_shard

METRICS = {
    "logistic": ["auc", "ks", "accuracy", "precision", "recall", "f1", "log_loss", "brier"],
    "softmax": ["accuracy", "macro_f1", "log_loss"],
    "linear": ["rmse", "mae", "r2"],
    "poisson": ["rmse", "mae", "poisson_deviance"],
}
REPORT = {
    "name": str,
    "task": str,
    "model": str,
    "version": str,
    "seed": int,
    "parties": [{"name": str, "role": str, "rows": int, "features": int}],
    "alignment": {"protocol": str, "rows": dict, "intersection": int, "seconds": float, "bytes": int},
    "rows": {"train": int, "test": int},
    "training": {
        "key_holder": str,
        "key_holder_reason": str,
        "rounds": int,
        "converged": bool,
        "loss": [float],
        "seconds": float,
        "bytes": int,
        "messages": int,
    },
    "crypto": {"scheme": str, "key_bits": int, "kernel": str, "encryptions": int, "decryptions": int},
    "metrics": dict,
    "seconds": {"total": float, "alignment": float, "training": float, "evaluation": float},
    "disclosures": [{"to": str, "what": str, "count": int, "from": str}],
    "warnings": [str],
}
INTERVALS = {"confidence": dict}
BASELINES = INTERVALS | {"comparison": dict, "without": dict}
TIME = {"time": dict}
COMPARISON = {"metric": str, "difference": float, "low": float, "high": float, "p_value": float, "test": str}


def check_shape(value: object, shape: object, at: str = "report") -> None:
    """Exactly these names, in this order, with exactly these types."""
    if isinstance(shape, dict):
        assert isinstance(value, dict) and list(value) == list(shape), at
        for key, inner in shape.items():
            check_shape(value[key], inner, f"{at}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), at
        for one in value:
            check_shape(one, shape[0], at)
    else:
        assert type(value) is shape, f"{at}: {value!r}"


@dataclass
class Case:
    model: str
    holder: str
    options: dict[str, object] = field(default_factory=dict)
    features: tuple[int, ...] = (3, 3, 3)
    tolerance: float = 1e-3  # of the joint metrics to the pooled ones


CASES = {
    "logistic, key at the active party": Case("logistic", "active", {"key_holder": "active", "messy": True}, (5, 5, 5)),
    "logistic, one passive party": Case("logistic", "coordinator", {"passive": 1}, (3, 3), 0.05),
    "logistic, label alone, weights": Case(
        "logistic",
        "coordinator",
        {"passive": 3, "label_only": True, "weights": True, "key_holder": "coordinator"},
        (0, 3, 3, 3),
        0.05,
    ),
    "linear, composite ids, one passive party": Case(
        "linear", "active", {"passive": 1, "composite": True, "key_holder": "active"}, (3, 3)
    ),
    "linear, three passive parties": Case(
        "linear",
        "coordinator",
        {"passive": 3, "key_holder": "coordinator", "weights": True, "training": {"curvature": "row"}},
        (3, 3, 3, 3),
    ),
    "linear, no intercept, label alone": Case(
        "linear",
        "active",
        {"label_only": True, "training": {"fit_intercept": False}, "key_holder": "active"},
        (0, 3, 3),
    ),
    "poisson, weights": Case("poisson", "active", {"weights": True}),
    "poisson, label alone, three passive parties": Case(
        "poisson", "active", {"label_only": True, "passive": 3}, (0, 3, 3, 3)
    ),
    "softmax, text labels": Case("softmax", "active", {"classes": ("north", "south", "zero")}),
    "softmax, label alone, one passive party": Case(
        "softmax", "active", {"label_only": True, "passive": 1, "columns": 4}, (0, 4)
    ),
}


@dataclass
class Run:
    case: Case
    companies: Companies
    out: Path
    report: dict[str, object]

    @property
    def ledger(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.out / "ledger.jsonl").read_text().splitlines()]

    @property
    def scores(self) -> pd.DataFrame:
        return pd.read_csv(self.out / self.companies.active / "test_scores.csv", dtype=str, keep_default_na=False)


def play(vfl: Command, tmp_path: Path, case: Case, *arguments: object, **changes: object) -> Run:
    companies = make_companies(tmp_path / "scenario", case.model, **case.options | changes)
    out = tmp_path / "made" / "here"
    said = vfl("run", companies.write(), "--out", out, "--in-process", "--json", *arguments)
    assert said.code == 0, said.stderr
    assert said.stdout == (out / "report.json").read_text()
    return Run(case, companies, out, json.loads(said.stdout, parse_constant=pytest.fail))


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def run(request: pytest.FixtureRequest, vfl: Command, tmp_path: Path) -> Run:
    return play(vfl, tmp_path, request.param)


def test_a_run_keeps_the_contract(run: Run) -> None:
    """One run, looked at from every side: a run takes a second, a look does not."""
    check_report(run)
    check_files(run)
    check_ledger(run)
    check_ids(run)
    check_scores(run)
    check_shards(run)
    check_quality(run)
    check_evidence(run)


def check_report(run: Run) -> None:
    report, companies, case = run.report, run.companies, run.case
    check_shape(report, REPORT | BASELINES | TIME)
    assert [report[key] for key in ("name", "model", "task", "seed")] == ["trial", case.model, TASKS[case.model], 3]
    assert report["parties"] == [
        {"name": name, "role": party["role"], "rows": len(companies.tables[name]), "features": features}
        for (name, party), features in zip(companies.parties.items(), case.features, strict=True)
    ]
    common = set.intersection(*(set(ids_of(companies, name)) for name in companies.tables))
    alignment, rows, training = report["alignment"], report["rows"], report["training"]
    assert alignment["protocol"] == "ecdh"
    assert alignment["rows"] == {name: len(table) for name, table in companies.tables.items()}
    assert alignment["intersection"] == len(common) == rows["train"] + rows["test"]
    assert rows["test"] == math.floor(0.3 * len(common) + 0.5)
    assert training["key_holder"] == case.holder and training["key_holder_reason"]
    assert training["converged"] is True
    assert len(training["loss"]) == training["rounds"] + 1
    assert training["loss"][-1] < training["loss"][0]
    assert report["crypto"]["scheme"] == "paillier" and report["crypto"]["key_bits"] == 512
    assert report["crypto"]["kernel"] in ("ifma", "gmpy2")
    assert report["crypto"]["encryptions"] > 0 and report["crypto"]["decryptions"] > 0
    assert list(report["metrics"]) == ["joint", "active_only", "pooled"]
    for figures in report["metrics"].values():
        assert list(figures) == METRICS[case.model]
        assert all(type(figure) is float for figure in figures.values())
    assert report["seconds"]["total"] >= report["seconds"]["training"]


def check_files(run: Run) -> None:
    own = {"ids.csv", "ledger.jsonl", "model.json", "model.npz", "run.json"}
    expected = {"report.json", "ledger.jsonl", "coordinator", "coordinator/ledger.jsonl"}
    for name in run.companies.parties:
        expected |= {name, *(f"{name}/{file}" for file in own)}
    expected |= {f"{run.companies.active}/{file}" for file in ("test_scores.csv", "evidence.npz")}
    assert {str(path.relative_to(run.out)) for path in run.out.rglob("*")} == expected


def check_ledger(run: Run) -> None:
    ledger, report = run.ledger, run.report
    names = {"coordinator", *run.companies.parties}
    assert ledger == sorted(ledger, key=lambda entry: entry["time"])
    for entry in ledger:
        assert entry["by"] == entry["sender"] and {entry["sender"], entry["receiver"]} <= names
        assert entry["hops"] == (1 if "coordinator" in (entry["sender"], entry["receiver"]) else 2)
        assert entry["bytes"] % entry["hops"] == 0 < entry["bytes"]

    def total(*protocols: str) -> tuple[int, int]:
        sizes = [entry["bytes"] for entry in ledger if entry["message"].split(".")[0] in protocols]
        return sum(sizes), len(sizes)

    protocol = {"active": "glm_exact", "coordinator": "glm_quadratic"}[run.case.holder]
    assert (report["training"]["bytes"], report["training"]["messages"]) == total(protocol)
    assert report["alignment"]["bytes"] == total("align", "ecdh", "verdict")[0]
    told = [entry for entry in ledger if entry["discloses"]]
    assert sum(line["count"] for line in report["disclosures"]) == len(told)
    for line in report["disclosures"]:
        same = [
            entry
            for entry in told
            if (entry["receiver"], entry["discloses"], entry["sender"]) == (line["to"], line["what"], line["from"])
        ]
        assert line["count"] == len(same)


def ids_of(companies: Companies, name: str) -> list[str]:
    columns = companies.parties[name]["id"]
    columns = [columns] if isinstance(columns, str) else columns
    return ["".join(parts) for parts in companies.tables[name][columns].itertuples(index=False)]


def check_ids(run: Run) -> None:
    orders = []
    for name, party in run.companies.parties.items():
        frame = pd.read_csv(run.out / name / "ids.csv", dtype=str)
        columns = [party["id"]] if isinstance(party["id"], str) else party["id"]
        assert list(frame) == [*columns, "part"]
        assert list(frame["part"]) == ["train"] * run.report["rows"]["train"] + ["test"] * run.report["rows"]["test"]
        orders.append(["".join(parts) for parts in frame[columns].itertuples(index=False)])
    assert all(order == orders[0] for order in orders)
    assert len(set(orders[0])) == len(orders[0])


def check_scores(run: Run) -> None:
    """Ids and labels are those of the CSV, text for text; the scores give the metrics of the report."""
    scores, party = run.scores, run.companies.parties["bank"]
    columns = [party["id"]] if isinstance(party["id"], str) else party["id"]
    merged = scores.merge(run.companies.tables["bank"], on=columns, how="left", validate="1:1", suffixes=("", " csv"))
    assert (merged["outcome"] == merged["outcome csv"]).all()
    ids = pd.read_csv(run.out / "bank" / "ids.csv", dtype=str)
    assert ids.loc[ids["part"] == "test", columns].to_numpy().tolist() == scores[columns].to_numpy().tolist()
    assert any(cell.startswith("0") for cell in scores[columns[0]])
    classes = run.case.options.get("classes", ("a", "b", "c"))
    expected = [f"score_{name}" for name in classes] if run.case.model == "softmax" else ["score"]
    assert list(scores) == [*columns, "outcome", *expected]
    S = scores[expected].astype(float).to_numpy()
    recomputed = recompute(run.case.model, scores["outcome"], S, list(classes))
    for name, figure in recomputed.items():
        assert figure == pytest.approx(run.report["metrics"]["joint"][name], rel=1e-9), name


def recompute(model: str, labels: pd.Series, S: np.ndarray, classes: list[str]) -> dict[str, float]:
    """The metrics by scikit-learn."""
    if model == "softmax":
        y, guess = [classes.index(label) for label in labels], S.argmax(axis=1)
        return {
            "accuracy": sk.accuracy_score(y, guess),
            "macro_f1": sk.f1_score(y, guess, average="macro", zero_division=0),
            "log_loss": sk.log_loss(y, S, labels=list(range(len(classes)))),
        }
    y, s = labels.astype(float).to_numpy(), S[:, 0]
    if model == "logistic":
        guess = s >= 0.5
        return {
            "auc": sk.roc_auc_score(y, s),
            "ks": float(np.max(np.subtract(*sk.roc_curve(y, s, drop_intermediate=False)[1::-1]))),
            "accuracy": sk.accuracy_score(y, guess),
            "precision": sk.precision_score(y, guess, zero_division=0),
            "recall": sk.recall_score(y, guess, zero_division=0),
            "f1": sk.f1_score(y, guess, zero_division=0),
            "log_loss": sk.log_loss(y, s),
            "brier": sk.brier_score_loss(y, s),
        }
    figures = {"rmse": float(np.sqrt(sk.mean_squared_error(y, s))), "mae": sk.mean_absolute_error(y, s)}
    if model == "linear":
        return figures | {"r2": sk.r2_score(y, s)}
    return figures | {"poisson_deviance": sk.mean_poisson_deviance(y, s)}


def check_shards(run: Run) -> None:
    """What the parties keep, put together, gives the scores and the last loss."""
    z = sum(linear_predictor(run, name) for name in run.companies.parties)
    n_train, model = run.report["rows"]["train"], run.case.model
    S = run.scores.iloc[:, -z.shape[1] :].astype(float).to_numpy()
    assert inverse_link(model, z[n_train:]) == pytest.approx(S, abs=2e-3, rel=2e-3)
    if run.case.holder == "coordinator" and model == "logistic":
        return  # the loss of the quadratic model is an approximation
    assert training_loss(run, z[:n_train]) == pytest.approx(run.report["training"]["loss"][-1], rel=2e-3)


def linear_predictor(run: Run, name: str) -> np.ndarray:
    """A party's part of the linear predictor, in the order of its ids.csv."""
    shard, order = load_shard(run.out / name), ordered_rows(run, name)
    frame = pd.DataFrame(index=range(len(order)))
    for column in (*shard.preprocessor.numeric, *shard.preprocessor.categorical):
        cells = run.companies.tables[name][column.name].iloc[order].reset_index(drop=True)
        number = column in shard.preprocessor.numeric
        frame[column.name] = pd.to_numeric(cells) if number else cells.replace("", None).astype(object)
    X, warnings = shard.preprocessor.transform(frame)
    assert not warnings
    assert len(shard.columns) == len(shard.coef) == len(shard.kept)
    z = X[:, shard.kept] @ shard.coef
    return z if shard.intercept is None else z + shard.intercept


def ordered_rows(run: Run, name: str) -> list[int]:
    columns = run.companies.parties[name]["id"]
    columns = [columns] if isinstance(columns, str) else columns
    ids = pd.read_csv(run.out / name / "ids.csv", dtype=str)[columns]
    position = {one: row for row, one in enumerate(ids_of(run.companies, name))}
    return [position["".join(parts)] for parts in ids.itertuples(index=False)]


def inverse_link(model: str, z: np.ndarray) -> np.ndarray:
    if model == "logistic":
        return 1 / (1 + np.exp(-z))
    if model == "softmax":
        return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return np.exp(z) if model == "poisson" else z


def training_loss(run: Run, z: np.ndarray) -> float:
    """Mean loss and penalty at the weights that were saved."""
    rows = ordered_rows(run, "bank")[: len(z)]
    table = run.companies.tables["bank"].iloc[rows]
    weight = table["importance"].astype(float).to_numpy() if "importance" in table else np.ones(len(z))
    if run.case.model == "softmax":
        classes = list(run.case.options.get("classes", ("a", "b", "c")))
        codes = [classes.index(label) for label in table["outcome"]]
        losses = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), codes]
    else:
        y, s = table["outcome"].astype(float).to_numpy(), z[:, 0]
        losses = {
            "logistic": np.log1p(np.exp(s)) - y * s,
            "linear": np.square(y - s) / 2,
            "poisson": np.exp(s) - y * s,
        }[run.case.model]
    squares = sum(float(np.square(load_shard(run.out / name).coef).sum()) for name in run.companies.parties)
    return float((weight * losses).sum() / weight.sum()) + 0.001 * squares / 2


def check_quality(run: Run) -> None:
    metrics = run.report["metrics"]
    for name, figure in metrics["pooled"].items():
        discrete = name in ("accuracy", "precision", "recall", "f1", "macro_f1", "ks")
        spare = max(0.02 if discrete else 0.0, run.case.tolerance)
        assert metrics["joint"][name] == pytest.approx(figure, abs=spare, rel=spare), name
    best = {"logistic": "log_loss", "softmax": "log_loss", "linear": "rmse", "poisson": "poisson_deviance"}
    criterion = best[run.case.model]
    if run.case.options.get("training") != {"fit_intercept": False}:  # the mean label is then hard to beat
        assert metrics["joint"][criterion] < metrics["active_only"][criterion]


def check_evidence(run: Run) -> None:
    """What figures are worked out from gives the figures; intervals hold them; others are compared with the joint."""
    report, passive = run.report, [name for name in run.companies.parties if name != run.companies.active]
    evidence = load_evidence(run.out / run.companies.active)
    assert list(evidence.predicted) == ["joint", "active_only", "pooled", *(f"without {name}" for name in passive)]
    judged = {name: evaluate(evidence.task, evidence.y, p, evidence.classes) for name, p in evidence.predicted.items()}
    assert judged == report["metrics"] | {f"without {name}": report["without"][name] for name in passive}
    assert (report["without"][passive[0]] == report["metrics"]["active_only"]) is (len(passive) == 1)
    for name, intervals in report["confidence"].items():
        assert list(intervals) == list(judged[name])
        assert all(low <= judged[name][metric] <= high for metric, (low, high) in intervals.items())
    assert list(report["confidence"]) == list(report["metrics"])
    assert list(report["comparison"]) == ["active_only", "pooled"]
    for name, compared in report["comparison"].items():
        check_shape(compared, COMPARISON)
        metric = MAIN_METRIC[evidence.task]
        assert (compared["metric"], compared["test"]) == (metric, "delong" if metric == "auc" else "bootstrap")
        assert compared["difference"] == pytest.approx(judged["joint"][metric] - judged[name][metric], abs=1e-9)
        assert compared["low"] <= compared["difference"] <= compared["high"] and 0 <= compared["p_value"] <= 1


def test_no_test_rows_no_metrics(vfl: Command, tmp_path: Path) -> None:
    run = play(vfl, tmp_path, CASES["poisson, weights"], split={"test_fraction": 0})
    check_shape(run.report, REPORT | TIME)
    assert run.report["metrics"] == {"joint": {}}
    assert run.report["rows"]["test"] == 0
    assert any("test_fraction" in line for line in run.report["warnings"])
    assert not (run.out / "bank" / "test_scores.csv").exists()
    assert not (run.out / "bank" / "evidence.npz").exists()


def test_no_baselines_leaves_two_out(vfl: Command, tmp_path: Path) -> None:
    run = play(vfl, tmp_path, CASES["logistic, one passive party"], "--no-baselines")
    check_shape(run.report, REPORT | INTERVALS | TIME)
    assert list(run.report["metrics"]) == list(run.report["confidence"]) == ["joint"]
    assert list(load_evidence(run.out / "bank").predicted) == ["joint"]


def test_undefined_figures_are_null(vfl: Command, tmp_path: Path) -> None:
    """R squared of a single test row."""
    case = Case("linear", "active", {"key_holder": "active", "rows": 130, "split": {"test_fraction": 0.01}})
    run = play(vfl, tmp_path, case)
    assert run.report["rows"]["test"] == 1
    assert run.report["metrics"]["joint"]["r2"] is None
    check_shape(run.report, REPORT | {"without": dict} | TIME)  # one row gives no interval and no test


@pytest.mark.parametrize("positive", ["yes", "no"])
def test_the_score_is_that_of_the_positive_class(vfl: Command, tmp_path: Path, positive: str) -> None:
    companies = make_companies(tmp_path / "scenario", classes=("no", "yes"))
    companies.parties["bank"]["positive"] = positive
    out = tmp_path / "out"
    assert vfl("run", companies.write(), "--out", out, "--in-process", "--no-baselines").code == 0
    scores = pd.read_csv(out / "bank" / "test_scores.csv")
    assert sk.roc_auc_score(scores["outcome"] == positive, scores["score"]) > 0.7


def test_columns_called_like_ours_survive(vfl: Command, tmp_path: Path) -> None:
    companies = make_companies(tmp_path / "scenario", "linear", passive=1)
    renamed = companies.tables["bank"].rename(columns={"outcome": "score", "customer": "part"})
    companies.tables["bank"] = renamed
    companies.parties["bank"] |= {"label": "score", "id": "part"}
    out = tmp_path / "out"
    assert vfl("run", companies.write(), "--out", out, "--in-process", "--no-baselines").code == 0
    scores = pd.read_csv(out / "bank" / "test_scores.csv", dtype=str)
    assert list(scores) == ["part", "CSV score", "score"]
    labels = companies.tables["bank"].set_index("part")["score"]
    assert (labels[scores["part"]].to_numpy() == scores["CSV score"]).all()
    ids = pd.read_csv(out / "bank" / "ids.csv", dtype=str)
    assert set(ids["part"]) <= set(labels.index)
