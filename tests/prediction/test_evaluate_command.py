"""``vfl evaluate`` on one machine: metrics as scikit-learn has them, and a run's directory of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from sklearn import metrics as sk

from tests.prediction.test_predict_command import data_of, train
from tests.runs.companies import Companies, files_in, make_boosted, make_companies
from tests.runs.conftest import Command, vfl  # noqa: F401 - the fixture


def evaluated(vfl: Command, companies: Companies, run: Path, tables: dict[str, pd.DataFrame] | None = None) -> dict:  # type: ignore[type-arg]  # noqa: F811
    done = vfl("evaluate", run, *data_of(companies, tables), "--json")
    assert done.code == 0, done.stderr
    report: dict[str, object] = json.loads(done.stdout)
    (folder,) = (run / "evaluations").iterdir()
    assert json.loads((folder / "report.json").read_text()) == report
    return report


def test_metrics_are_those_of_the_scores(vfl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("VFL_REPORT", "html")
    companies = make_companies(tmp_path / "companies")
    run = train(vfl, companies)
    report = evaluated(vfl, companies, run)
    (folder,) = (run / "evaluations").iterdir()
    table = pd.read_csv(folder / "bank" / "test_scores.csv", dtype={"customer": str})
    y, score = table["outcome"], table["score"]
    joint = report["metrics"]["joint"]
    assert joint["auc"] == pytest.approx(sk.roc_auc_score(y, score))
    assert joint["log_loss"] == pytest.approx(sk.log_loss(y, score))
    assert joint["accuracy"] == pytest.approx(((score >= 0.5) == y).mean())
    assert report["rows"]["test"] == len(table) == report["alignment"]["intersection"]
    low, high = report["confidence"]["joint"]["auc"]
    assert low < joint["auc"] < high
    assert set(report["metrics"]) == {"joint"}
    trained = json.loads((run / "report.json").read_text())
    assert report["training"] == trained["training"]
    assert report["evaluates"] == json.loads((run / "bank" / "run.json").read_text())["run"]
    assert {name for name in files_in(folder) if "/" not in name} == {
        "report.json", "report.html", "ledger.jsonl", "bank", "biller", "card-network", "coordinator",
    }  # fmt: skip


@pytest.mark.parametrize("model", ["softmax", "linear", "poisson", "trees"])
def test_every_task(vfl: Command, tmp_path: Path, model: str) -> None:  # noqa: F811
    folder = tmp_path / "companies"
    companies = make_boosted(folder, "multiclass") if model == "trees" else make_companies(folder, model)
    run = train(vfl, companies)
    joint = evaluated(vfl, companies, run)["metrics"]["joint"]
    table = pd.read_csv(next((run / "evaluations").iterdir()) / "bank" / "test_scores.csv", dtype={"outcome": str})
    if model in ("softmax", "trees"):
        chosen = table[["score_a", "score_b", "score_c"]].idxmax(axis=1).str[-1]
        assert joint["accuracy"] == pytest.approx((chosen == table["outcome"]).mean())
    else:
        assert joint["rmse"] == pytest.approx(((table["outcome"].astype(float) - table["score"]) ** 2).mean() ** 0.5)


def test_rows_of_one_class_have_no_auc(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    companies = make_companies(tmp_path / "companies")
    run = train(vfl, companies)
    tables = dict(companies.tables)
    tables["bank"] = tables["bank"][tables["bank"]["outcome"] == "1"]
    joint = evaluated(vfl, companies, run, tables)["metrics"]["joint"]
    assert joint["auc"] is None
    assert joint["accuracy"] is not None


def test_out_is_a_directory_of_its_own(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    companies = make_companies(tmp_path / "companies")
    run = train(vfl, companies)
    out = tmp_path / "judged"
    assert vfl("evaluate", run, *data_of(companies), "--out", out).code == 0
    assert not (run / "evaluations").exists()
    assert "holds a run already" in vfl("evaluate", run, *data_of(companies), "--out", out).error
    assert vfl("evaluate", run, *data_of(companies), "--out", out, "--overwrite").code == 0
    assert vfl("report", out).code == 0
    assert vfl("audit", out).code == 0
    assert "got an evaluation of a model" in vfl("evaluate", out, *data_of(companies)).error


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop(columns="outcome"), "label names the column"),
        (lambda table: table.assign(outcome="2"), "labels do not fit the model, expected one of the 2 classes"),
        (lambda table: table.assign(outcome=["", *table["outcome"][1:]]), "1 of"),
    ],
    ids=["no labels", "another class", "a label is missing"],
)
def test_refused_labels(vfl: Command, tmp_path: Path, change, said: str) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    companies = make_companies(tmp_path / "companies")
    run = train(vfl, companies)
    tables = companies.tables | {"bank": change(companies.tables["bank"])}
    before = files_in(run)
    done = vfl("evaluate", run, *data_of(companies, tables), "--json")
    assert done.code == 2
    assert said in done.error
    assert done.stdout == ""
    assert files_in(run) == before


def test_overwriting_a_run_takes_what_was_done_with_it_along(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    companies = make_companies(tmp_path / "companies")
    run = train(vfl, companies)
    assert vfl("evaluate", run, *data_of(companies)).code == 0
    train(vfl, companies, "--overwrite")
    assert not (run / "evaluations").exists()
