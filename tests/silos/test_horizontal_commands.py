"""Silos that train together from the command line, every role a process; on one machine and between companies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.chaos.between_companies import Running
from tests.runs.companies import run_vfl
from tests.silos.siloed import Siloed
from vfl.horizontal_shard import load_horizontal_shard

NETWORK: dict[str, object] = {"units": 4, "hidden": [3], "batch_size": 64}


def report_of(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_private_run_says_what_it_did(tmp_path: Path) -> None:
    companies = Siloed(
        model="splitnn",
        task="binary",
        hospitals=3,
        insurer=None,
        ids=False,
        training=NETWORK | {"rounds": 6},
        privacy={"dp": "central", "dp_epsilon": 8.0},
    )
    companies.write(tmp_path)
    done = run_vfl("run", tmp_path, "--out", tmp_path / "out", env={"VFL_REPORT": "json"})
    assert done.code == 0, done.stderr
    report = report_of(tmp_path / "out")
    averaged = report["training"]["aggregation"]
    assert report["training"]["key_holder"] is None and report["crypto"]["scheme"] == "none"
    assert averaged["rule"] == "fedsgd" and averaged["rounds"] == 6
    spent = averaged["dp"]["by_silo"]
    assert set(spent) == set(companies.active) and all(7.9 < one <= 8.0 for one in spent.values())
    assert report["training"]["loss"] == []
    weights = [load_horizontal_shard(tmp_path / "out" / name).weights for name in companies.active]
    assert all(np.array_equal(one[key], weights[0][key]) for one in weights for key in weights[0])
    assert "training and test rows of the silo" in json.dumps(report["disclosures"])
    audit = run_vfl("audit", tmp_path / "out")
    assert audit.code == 0, audit.stderr


@pytest.mark.slow
def test_it_ends_the_same_between_companies_with_a_silo_killed(tmp_path: Path) -> None:
    companies = Siloed(model="linear", hospitals=3, insurer=None, ids=False, privacy={"small_data": True})
    companies.write(tmp_path / "here")
    run = run_vfl("run", tmp_path / "here", "--out", tmp_path / "here" / "out", env={"VFL_REPORT": "json"})
    assert run.code == 0, run.stderr
    running = Running(companies.write_job(tmp_path / "there"), tmp_path / "there" / "out")
    running.dooms["hospitals.s1"] = ["ledger:45:1"]
    running.start_all()
    try:
        codes = running.wait(100)
    finally:
        running.end()
    assert codes == dict.fromkeys(running.job.roles, 0), running.said()
    assert running.killed == ["hospitals.s1"]
    for name in companies.active:
        here = load_horizontal_shard(tmp_path / "here" / "out" / name)
        there = load_horizontal_shard(tmp_path / "there" / "out" / name / name)
        assert all(np.array_equal(here.weights[key], there.weights[key]) for key in here.weights)
    assert report_of(tmp_path / "there" / "out" / "coordinator")["training"]["rounds"] > 2
