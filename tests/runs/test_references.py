"""The joint model without a passive party: what a run without that party would come to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.runs.companies import Companies, make_boosted, make_companies
from tests.runs.conftest import Command
from vfl.report.evidence import load_evidence

CASES = {
    "logistic": ("logistic", {"messy": True}),
    "softmax, label alone, three passive parties": ("softmax", {"passive": 3, "label_only": True}),
    "linear, weights, no intercept": ("linear", {"weights": True, "training": {"fit_intercept": False}}),
    "boosted classes": ("multiclass trees", {}),
    "boosted numbers, messy, three passive parties": ("regression trees", {"passive": 3, "messy": True}),
    "boosted counts, label alone, early stopping": (
        "count trees",
        {
            "label_only": True,
            "split": {"test_fraction": 0.3, "validation_fraction": 0.2},
            "training": {"early_stopping_rounds": 2, "n_estimators": 8},
        },
    ),
}


def make(folder: Path, model: str, options: dict[str, object]) -> Companies:
    """Companies that all have the same rows, so that leaving one out leaves the alignment as it is."""
    task = model.removesuffix(" trees")
    companies = (make_boosted if task != model else make_companies)(folder, task, rows=160, **options)
    keys = {name: str(party["id"]) for name, party in companies.parties.items()}
    common = set.intersection(*(set(table[keys[name]]) for name, table in companies.tables.items()))
    for name, table in companies.tables.items():
        companies.tables[name] = table[table[keys[name]].isin(common)].reset_index(drop=True)
    return companies


def run(command: Command, companies: Companies, out: Path, *arguments: object) -> dict[str, dict[str, object]]:
    said = command("run", companies.write(), "--out", out, "--in-process", "--json", *arguments)
    assert said.code == 0, said.stderr
    return json.loads(said.stdout)


@pytest.mark.parametrize("case", CASES)
def test_without_a_party_is_a_run_without_it(case: str, vfl: Command, tmp_path: Path) -> None:
    model, options = CASES[case]
    whole = make(tmp_path / "whole", model, options)
    report = run(vfl, whole, tmp_path / "all")
    assert list(report["without"]) == [name for name in whole.parties if name != "bank"]
    evidence = load_evidence(tmp_path / "all" / "bank")
    assert evidence is not None
    left_out = list(whole.parties)[1]
    rest = make(tmp_path / "rest", model, options)
    del rest.tables[left_out], rest.parties[left_out]
    fewer = run(vfl, rest, tmp_path / "fewer")
    assert report["without"][left_out] == fewer["metrics"]["pooled"]
    other = load_evidence(tmp_path / "fewer" / "bank")
    assert other is not None
    assert np.array_equal(evidence.y, other.y)
    assert np.array_equal(evidence.predicted[f"without {left_out}"], other.predicted["pooled"])
    if "trees" in model:
        assert report["without"][left_out] == fewer["metrics"]["joint"]
    assert report["without"][left_out] not in list(report["metrics"].values())


@pytest.mark.parametrize("model", ["logistic", "binary trees"])
def test_without_the_only_passive_party_the_active_one_is_alone(
    model: str,
    vfl: Command,
    tmp_path: Path,
) -> None:
    report = run(vfl, make(tmp_path / "two", model, {"passive": 1}), tmp_path / "out")
    assert report["without"] == {"card-network": report["metrics"]["active_only"]}
    evidence = load_evidence(tmp_path / "out" / "bank")
    assert evidence is not None
    assert np.array_equal(evidence.predicted["without card-network"], evidence.predicted["active_only"])


def test_a_label_alone_predicts_one_number_and_is_compared_all_the_same(
    vfl: Command,
    tmp_path: Path,
) -> None:
    companies = make(tmp_path / "two", "logistic", {"passive": 1, "label_only": True})
    report = run(vfl, companies, tmp_path / "out")
    assert report["metrics"]["active_only"]["auc"] == 0.5
    compared = report["comparison"]["active_only"]
    assert compared["difference"] == pytest.approx(report["metrics"]["joint"]["auc"] - 0.5)
    assert 0 < compared["p_value"] < 0.05


def test_the_same_run_gives_the_same_intervals(vfl: Command, tmp_path: Path) -> None:
    companies = make(tmp_path / "scenario", "linear", {})
    reports = [run(vfl, companies, tmp_path / name) for name in ("one", "two")]
    for key in ("confidence", "comparison", "without"):
        assert reports[0][key] == reports[1][key]
    files = [(tmp_path / name / "bank" / "evidence.npz").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def test_scores_of_the_file_are_those_of_the_evidence(vfl: Command, tmp_path: Path) -> None:
    companies = make(tmp_path / "two", "poisson", {})
    run(vfl, companies, tmp_path / "out", "--no-baselines")
    scores = pd.read_csv(tmp_path / "out" / "bank" / "test_scores.csv")
    evidence = load_evidence(tmp_path / "out" / "bank")
    assert evidence is not None
    assert np.array_equal(scores["score"], evidence.predicted["joint"])
    assert np.array_equal(scores["outcome"], evidence.y)
