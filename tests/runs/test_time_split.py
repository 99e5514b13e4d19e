"""The report's ``time``: every role's seconds by what its main thread did, in processes and in threads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.runs.companies import make_boosted, make_companies
from tests.runs.conftest import Command

PARTS = {"kernel", "python", "wire", "waiting"}


@pytest.mark.parametrize("how", [("--in-process",), ()], ids=["threads", "processes"])
def test_every_role_says_where_its_time_went(vfl: Command, tmp_path: Path, how: tuple[str, ...]) -> None:
    folder = make_boosted(tmp_path / "scenario", passive=1, rows=150).write()
    said = vfl("run", folder, "--out", tmp_path / "out", "--json", "--no-baselines", *how)
    assert said.code == 0, said.stderr
    report = json.loads(said.stdout)
    time = report["time"]
    assert list(time) == ["coordinator", "bank", "card-network"]
    for role, spent in time.items():
        assert set(spent) == PARTS, role
        assert all(seconds >= 0 for seconds in spent.values()), (role, spent)
        assert spent["waiting"] > 0 and spent["wire"] > 0 and spent["python"] > 0, (role, spent)
        assert sum(spent.values()) <= report["seconds"]["total"] + 0.002, (role, spent)
    assert time["coordinator"]["kernel"] == 0.0  # with boosting it passes ciphertexts on, and touches none
    assert time["bank"]["kernel"] > 0 and time["card-network"]["kernel"] > 0


def test_threads_that_take_turns_are_busy_one_at_a_time(vfl: Command, tmp_path: Path) -> None:
    """What a role does meanwhile is the others' waiting: all that is not waited adds up to no more than the run."""
    folder = make_companies(tmp_path / "scenario", passive=2, rows=150).write()
    said = vfl("run", folder, "--out", tmp_path / "out", "--json", "--no-baselines", "--in-process")
    assert said.code == 0, said.stderr
    report = json.loads(said.stdout)
    busy = sum(sum(spent.values()) - spent["waiting"] for spent in report["time"].values())
    assert busy <= report["seconds"]["total"] + 0.01
