"""One process per role: the same bytes as in one process, whatever the keys, wherever the command runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.runs.companies import make_companies, run_vfl
from tests.runs.conftest import Command

PARTIES = ("bank", "card-network", "biller")


def kept(out: Path) -> dict[str, bytes]:
    """All that must not depend on keys, masks or the way of running."""
    files = [out / name / file for name in PARTIES for file in ("model.npz", "model.json", "ids.csv")]
    return {str(file.relative_to(out)): file.read_bytes() for file in (*files, out / "bank" / "test_scores.csv")}


@pytest.mark.slow
@pytest.mark.parametrize(("model", "holder"), [("logistic", "coordinator"), ("softmax", "active")])
def test_the_same_bytes_however_it_runs(vfl: Command, tmp_path: Path, model: str, holder: str) -> None:
    companies = make_companies(
        tmp_path / "scenario", model, rows=300, key_holder=holder, messy=True, training={"max_iter": 6}
    )
    companies.write()
    apart, first, second = tmp_path / "apart", tmp_path / "first", tmp_path / "second"
    said = run_vfl("run", companies.folder, "--out", apart, "--json", env={"PYTHONWARNINGS": "default"})
    assert said.code == 0, said.stderr
    assert "Warning" not in said.stderr
    assert said.stdout == (apart / "report.json").read_text()
    for out in (first, second):
        assert vfl("run", companies.folder, "--out", out, "--in-process").code == 0
    assert kept(apart) == kept(first) == kept(second)
    reports = [json.loads((out / "report.json").read_text()) for out in (apart, first, second)]
    varying = ("seconds", "alignment", "training", "time")
    for report in reports:
        report["timeless"] = {key: value for key, value in report.items() if key not in varying}
        for section in ("alignment", "training"):
            report["timeless"][section] = {k: v for k, v in report[section].items() if k != "seconds"}
    assert reports[0]["timeless"] == reports[1]["timeless"] == reports[2]["timeless"]


@pytest.mark.slow
def test_files_beside_the_command_are_not_imported(tmp_path: Path) -> None:
    """A party's directory may hold a numpy.py or a folder vfl; a relative --out lies in it."""
    companies = make_companies(tmp_path / "scenario", "linear", passive=1, rows=200, training={"max_iter": 2})
    companies.write()
    for name in ("numpy.py", "csv.py", "vfl/__init__.py", "parties/__init__.py"):
        trap = companies.folder / name
        trap.parent.mkdir(exist_ok=True)
        trap.write_text("raise SystemExit(7)")
    said = run_vfl("run", ".", "--out", "results", "--no-baselines", cwd=companies.folder)
    assert said.code == 0, said.stderr
    assert (companies.folder / "results" / "report.json").is_file()
