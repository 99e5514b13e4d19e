"""Silos of one holder between companies: checked alone, refused in one line, trained together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chaos.between_companies import Job
from tests.prediction.test_between_companies import run_all
from tests.runs.conftest import Command
from tests.silos.siloed import Siloed

ALONE = Siloed(hospitals=3, insurer=None, rows=900, ids=False, privacy={"small_data": True}, training={"max_iter": 4})
HYBRID = Siloed(hospitals=2, insurer=2, rows=300, privacy={"small_data": True})


def own(folder: Path, name: str, old: str, new: str) -> Path:
    """A silo's party file, one line of it changed."""
    file = folder / f"{name}.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    return file


@pytest.mark.parametrize("siloed", [ALONE, HYBRID], ids=["alone", "hybrid"])
def test_each_silo_checks_its_own_file(siloed: Siloed, tmp_path: Path, vfl: Command) -> None:
    job = siloed.write_job(tmp_path)
    for name in job.names:
        ran = vfl("check", tmp_path / f"{name}.toml")
        assert (ran.code, ran.stderr) == (0, ""), ran.stderr
        assert name in ran.stdout and "ready to join" in ran.stdout
    assert vfl("check", tmp_path / "job.toml").code == 0


def test_a_silo_with_one_class_may_join(tmp_path: Path, vfl: Command) -> None:
    HYBRID.write_job(tmp_path)
    file = tmp_path / "hospitals.s0.csv"
    head, *rows = file.read_text().splitlines()
    file.write_text("\n".join([head, *(row for row in rows if row.endswith("yes"))]) + "\n")
    ran = vfl("check", tmp_path / "hospitals.s0.toml")
    assert (ran.code, ran.stderr) == (0, "")
    assert "1 values" in ran.stdout


REFUSED = {
    "two silos": (HYBRID, '"two_silos" = true', '"two_silos" = false', ["two silos: party 'hospitals.s0'"]),
    "no noise": (
        ALONE,
        "policy = {",
        "policy = { max_dp_epsilon = 2,",
        ["policy max_dp_epsilon", "updates without noise"],
    ),
    "models": (ALONE, "policy = {", 'policy = { models = ["linear"],', ["policy models: party 'hospitals.s0'"]),
    "disclosures": (
        ALONE,
        "policy = {",
        'policy = { disclosures = ["si*"],',
        ["policy disclosures (horizontal.begun)"],
    ),
    "label": (ALONE, 'label = "outcome"', 'label = "cured"', ["party hospitals.s0", '"cured"']),
    "columns": (
        ALONE,
        "policy = {",
        'policy = { columns = ["age"],',
        ["policy columns: party 'hospitals.s0'", "'dose'"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_silo_refuses_before_it_dials(case: str, tmp_path: Path, vfl: Command) -> None:
    siloed, old, new, words = REFUSED[case]
    siloed.write_job(tmp_path)
    file = own(tmp_path, "hospitals.s0", old, new)
    for command in (["check", file], ["join", file, "--out", tmp_path / "out"]):
        ran = vfl(*command)
        assert ran.code == 2
        assert [word for word in words if word not in ran.error] == [], ran.error
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Path]:
    folder = tmp_path_factory.mktemp("alone")
    job = ALONE.write_job(folder / "job")
    ended = run_all({role: job.command(role, folder / "run") for role in job.roles})
    assert {name: outcome.code for name, outcome in ended.items()} == dict.fromkeys(job.roles, 0), ended
    return job, folder / "run"


def test_every_silo_ends_with_the_same_model(trained: tuple[Job, Path]) -> None:
    job, run = trained
    models = [json.loads((run / name / name / "model.json").read_text()) for name in job.names]
    shared = [{key: value for key, value in model.items() if key != "party"} for model in models]
    assert shared[0] == shared[1] == shared[2]
    arrays = [(run / name / name / "model.npz").read_bytes() for name in job.names]
    assert arrays[0] == arrays[1] == arrays[2]


def test_the_ledgers_of_all_agree(trained: tuple[Job, Path], vfl: Command) -> None:
    job, run = trained
    against = [part for role in job.roles[1:] for part in ("--against", run / role)]
    ran = vfl("audit", run / "coordinator", "--verify", *against)
    assert ran.code == 0 and "messages agree" in ran.stdout and "not compared" not in ran.stdout
    learnt = vfl("audit", run / "hospitals.s1").stdout
    assert "What hospitals.s1 learnt" in learnt and "joint model" in " ".join(learnt.split())


def test_nobody_is_told_an_alignment(trained: tuple[Job, Path]) -> None:
    job, run = trained
    for role in job.roles:
        report = json.loads((run / role / "report.json").read_text())
        assert (report["training"]["key_holder"], report["alignment"]["intersection"]) == (None, None)
