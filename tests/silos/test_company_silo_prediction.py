"""Silos that train and predict between companies: every role a process of its own, with its own folder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from tests.chaos.between_companies import Job
from tests.prediction.test_between_companies import run_all
from tests.runs.companies import VFL
from tests.runs.conftest import Command, vfl  # noqa: F401 - the fixture
from tests.silos.siloed import Siloed
from vfl.kept_model import load_model

SILOED = Siloed(rows=900, privacy={"small_data": True})


def commands(job: Job, run: Path, out: Path, doing: dict[str, str], files: dict[str, Path]) -> dict[str, list[str]]:
    """The commands of a prediction."""
    found = {"coordinator": [*job.command("coordinator", run), "--predict"]}
    for name in job.names:
        found[name] = [VFL, doing.get(name, "predict"), str(run / name), "--data", f"{name}={files[name]}",
                       "--join", str(job.folder / f"{name}.toml")]  # fmt: skip
    for name in SILOED.active:
        found[name] += ["--out", str(out / name)]
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Path]:
    folder = tmp_path_factory.mktemp("once")
    job = SILOED.write_job(folder / "job")
    ended = run_all({role: job.command(role, folder / "run") for role in job.roles})
    assert {name: outcome.code for name, outcome in ended.items()} == dict.fromkeys(job.roles, 0), ended
    return job, folder / "run"


def test_every_label_silo_gets_its_own_rows_and_metrics(world: tuple[Job, Path], tmp_path: Path) -> None:
    job, run = world
    files = {name: job.folder / f"{name}.csv" for name in job.names}
    ended = run_all(commands(job, run, tmp_path, {"hospitals.s1": "evaluate"}, files))
    assert {name: outcome.code for name, outcome in ended.items()} == dict.fromkeys(job.roles, 0), ended
    scores = pd.read_csv(tmp_path / "hospitals.s0", dtype=str)
    assert set(scores["silo"]) == {"hospitals.s0"}
    old = pd.read_csv(run / "hospitals.s0" / "hospitals.s0" / "test_scores.csv", dtype=str)
    both = old.merge(scores, on="patient", suffixes=(" then", ""))
    assert len(both) == len(old) > 50
    assert (both["score then"] == both["score"]).all()
    judged = pd.read_csv(tmp_path / "hospitals.s1" / "hospitals.s1" / "test_scores.csv")
    assert set(judged["patient"]) <= set(SILOED.frames()["hospitals.s1"]["patient"].astype(int))
    auc = roc_auc_score(judged["outcome"] == "yes", judged["score"])
    assert f"{auc:.4f}" in ended["hospitals.s1"].stdout
    assert "The scores are with" in ended["insurer.s0"].stdout


def test_who_predicts_alone_is_told_so(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    job = Siloed(hospitals=2, insurer=None).write_job(tmp_path)
    own = tmp_path / "hospitals.s0.csv"
    done = vfl(
        "predict", tmp_path, "--data", own, "--join", tmp_path / "hospitals.s0.toml", "--out", tmp_path / "x.csv"
    )
    assert "each silo has the whole model, 'vfl predict' needs nobody else" in done.error
    done = vfl(*job.command("coordinator", tmp_path / "out")[1:], "--predict")
    assert "each silo has the whole model, 'vfl predict' needs nobody else" in done.error


def test_data_without_a_name_are_refused_between_companies(
    vfl: Command,  # noqa: F811
    world: tuple[Job, Path],
    tmp_path: Path,
) -> None:
    job, run = world
    done = vfl("predict", run / "hospitals.s0", "--data", job.folder / "hospitals.s0.csv",
               "--join", job.folder / "hospitals.s0.toml", "--out", tmp_path / "x.csv")  # fmt: skip
    assert "expected PARTY=CSV" in done.error


def test_folders_name_their_silo(world: tuple[Job, Path]) -> None:
    _, run = world
    for name in ("hospitals.s0", "hospitals.s1", "insurer.s0", "insurer.s1"):
        model = load_model(run / name / name)
        assert (model.name, model.kept.party.holder) == (name, name.partition(".")[0])
