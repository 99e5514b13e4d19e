"""Split neural networks between companies, every role a process of its own: trained, then used on rows that came later.

Whoever needs no torch runs where there is none.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.chaos.between_companies import write_job
from tests.prediction.test_between_companies import QUICK, run_all, scoring
from tests.runs.companies import Outcome
from tests.splitnn.trials import make_split

CONSENT = {"small_data": True, "partial_scores": True}


def run_where(commands: dict[str, list[str]], without_torch: set[str], fake: Path) -> dict[str, Outcome]:
    """Run every role; in some of them importing torch fails."""
    (fake / "torch").mkdir(parents=True, exist_ok=True)
    (fake / "torch" / "__init__.py").write_text("raise ImportError('there is no torch here')")
    prefix = ["env", f"PYTHONPATH={fake}"]
    return run_all({name: [*(prefix if name in without_torch else []), *line] for name, line in commands.items()})


@pytest.mark.parametrize("mode", ["source-layer", "split"])
def test_scores_are_those_of_the_run(mode: str, tmp_path: Path) -> None:
    companies = make_split(tmp_path / "companies", training={"mode": mode}, consent=CONSENT, rows=700)
    companies.sections["privacy"] = {"key_bits": 512, "insecure_test_mode": True, "small_data": True}
    without = {"coordinator"} | ({"card-network", "biller"} if mode == "source-layer" else set())
    job, out = write_job(companies, QUICK), tmp_path / "run"
    ended = run_where({role: job.command(role, out) for role in job.roles}, without, tmp_path / "fake")
    assert {name: outcome.code for name, outcome in ended.items()} == dict.fromkeys(job.roles, 0), ended
    ended = run_where(scoring(companies, job, out, tmp_path / "scores.csv"), without, tmp_path / "fake")
    assert {name: outcome.code for name, outcome in ended.items()} == dict.fromkeys(job.roles, 0), ended
    new = pd.read_csv(tmp_path / "scores.csv", dtype=str)
    old = pd.read_csv(out / "bank" / "bank" / "test_scores.csv", dtype=str)
    both = old.merge(new, on="customer", suffixes=(" then", ""))
    assert len(both) == len(old) > 100
    assert (both["score then"] == both["score"]).all()
    budgets = json.loads((companies.folder / ".vfl" / "biller" / "budgets.json").read_text().splitlines()[0])
    (account,) = budgets["alignments"].values()
    assert [entry["size"] for entry in account["scored"]] == [len(old), len(new)]
