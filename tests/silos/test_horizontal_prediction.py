"""``vfl predict`` and ``vfl evaluate`` with what silos left that trained alone: no federation, any silo, any rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from tests.runs.conftest import Command, vfl  # noqa: F401 - the fixture
from tests.silos.siloed import Siloed, data_options
from vfl.horizontal_prediction import predict_linearly
from vfl.job import Job, Member

KINDS = {
    "logistic": Siloed(hospitals=3, insurer=None, ids=False),
    "logistic, fedavg": Siloed(hospitals=2, insurer=None, training={"aggregation": "fedavg", "rounds": 3}),
    "softmax": Siloed("softmax", hospitals=2, insurer=None, training={"aggregation": "simple", "rounds": 2}),
    "network": Siloed("splitnn", hospitals=2, insurer=None, task="count", training={"units": 3, "epochs": 1}),
}
TRIAL = KINDS["logistic"]


def train(vfl: Command, siloed: Siloed, folder: Path) -> Path:  # noqa: F811
    siloed.write(folder / "data")
    done = vfl("run", folder / "data", "--in-process", "--no-baselines", "--out", folder / "run")
    assert done.code == 0, done.stderr
    return folder / "run"


@pytest.fixture
def run(vfl: Command, tmp_path: Path) -> Path:  # noqa: F811
    return train(vfl, TRIAL, tmp_path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """New rows with labels."""
    return TRIAL.write(tmp_path / "new", seed=7)


@pytest.mark.parametrize("siloed", KINDS.values(), ids=KINDS.keys())
def test_scores_are_those_of_the_run(vfl: Command, tmp_path: Path, siloed: Siloed) -> None:  # noqa: F811
    out = train(vfl, siloed, tmp_path)
    files = siloed.write(tmp_path / "data")
    done = vfl("predict", out, *data_options(files), "--out", tmp_path / "scores.csv")
    assert done.code == 0, done.stderr
    new = pd.read_csv(tmp_path / "scores.csv", dtype=str)
    key = "patient" if siloed.ids else "row"
    assert list(new.columns[:2]) == ["silo", key]
    assert len(new) == siloed.rows
    assert not (tmp_path / "scores_unscored.csv").exists()
    for name in siloed.active:
        old = pd.read_csv(out / name / "test_scores.csv", dtype=str)
        both = old.merge(new[new["silo"] == name], on=key, suffixes=(" then", ""))
        assert len(both) == len(old) > 0
        for column in [column for column in old if column.startswith("score")]:
            assert (both[f"{column} then"] == both[column]).all()


def test_one_silos_folder_is_enough(
    vfl: Command,  # noqa: F811
    run: Path,
    files: dict[str, Path],
    tmp_path: Path,
) -> None:
    assert vfl("predict", run, *data_options(files), "--out", tmp_path / "all.csv").code == 0
    whole = pd.read_csv(tmp_path / "all.csv", dtype=str)
    alone = tmp_path / "alone"
    shutil.copytree(run / "hospitals.s2", alone / "hospitals.s2")
    done = vfl("predict", alone, "--data", f"hospitals.s2={files['hospitals.s2']}", "--out", tmp_path / "own.csv")
    assert done.code == 0, done.stderr
    own = pd.read_csv(tmp_path / "own.csv", dtype=str)
    pd.testing.assert_frame_equal(own, whole[whole["silo"] == "hospitals.s2"].reset_index(drop=True))
    done = vfl("predict", alone, "--data", files["hospitals.s0"], "--out", tmp_path / "other.csv")
    assert done.code == 0, done.stderr
    other = pd.read_csv(tmp_path / "other.csv", dtype=str)
    assert list(other.columns) == ["row", "score", "class"]
    expected = whole[whole["silo"] == "hospitals.s0"].drop(columns="silo").reset_index(drop=True)
    pd.testing.assert_frame_equal(other, expected)


def test_nothing_is_sent_and_the_summary_says_so(
    vfl: Command,  # noqa: F811
    run: Path,
    files: dict[str, Path],
    tmp_path: Path,
) -> None:
    done = vfl("predict", run, *data_options(files), "--out", tmp_path / "scores.csv", "--json")
    said = json.loads(done.stdout)
    assert (said["protocol"], said["bytes"], said["disclosures"], said["unscored"]) == ("none", 0, [], 0)
    assert said["scored"] == TRIAL.rows == sum(said["rows"].values())
    (kept,) = (run / "predictions").iterdir()
    assert (kept / "ledger.jsonl").read_text() == ""
    assert vfl("audit", kept).code == 0


def test_an_evaluation_is_over_all_silos(
    vfl: Command,  # noqa: F811
    run: Path,
    files: dict[str, Path],
    tmp_path: Path,
) -> None:
    done = vfl("evaluate", run, *data_options(files), "--out", tmp_path / "judged", "--json")
    assert done.code == 0, done.stderr
    report = json.loads(done.stdout)
    assert vfl("predict", run, *data_options(files), "--out", tmp_path / "scores.csv").code == 0
    scores = pd.read_csv(tmp_path / "scores.csv")
    labels = pd.concat(TRIAL.frames(seed=7).values())["outcome"].to_numpy()
    auc = roc_auc_score(labels == "yes", scores["score"])
    assert report["metrics"]["joint"]["auc"] == pytest.approx(auc)
    assert report["rows"]["test"] == TRIAL.rows
    assert set(report["by_silo"]) == set(TRIAL.active)
    assert report["alignment"] == {"protocol": "none", "rows": {}, "intersection": None, "seconds": 0.0, "bytes": 0}
    assert vfl("report", tmp_path / "judged").code == 0
    assert (tmp_path / "judged" / "report.html").stat().st_size > 10_000


def test_anybodys_rows_are_judged(vfl: Command, run: Path, files: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    done = vfl("evaluate", run, "--data", files["hospitals.s2"], "--out", tmp_path / "judged", "--json")
    assert done.code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["rows"]["test"] == len(TRIAL.frames()["hospitals.s2"])
    assert "by_silo" not in report
    assert vfl("report", tmp_path / "judged").code == 0


def test_mistakes_are_told_in_one_line(vfl: Command, run: Path, files: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    own, out = files["hospitals.s0"], tmp_path / "scores.csv"
    cases = {
        (): "--data missing, got none, expected a CSV, or one PARTY=CSV for any of 'hospitals.s0'",
        ("--data", f"hospitals.s9={own}"): "got one for 'hospitals.s9', expected 'hospitals.s0', 'hospitals.s1', "
        "'hospitals.s2', the parties of the run; rows of anybody else come without a name: --data CSV",
        ("--data", own, "--data", own): "expected PARTY=CSV",
        ("--data", own, "--data", f"hospitals.s0={own}"): "expected PARTY=CSV",
        ("--data", f"={own}"): "expected PARTY=CSV",
        ("--data", tmp_path / "nothing.csv"): "nothing.csv",
    }
    for options, message in cases.items():
        done = vfl("predict", run, *options, "--out", out)
        assert done.code == 2
        assert message in done.error
    pd.DataFrame({"age": [1.0], "dose": [2.0]}).to_csv(tmp_path / "short.csv", index=False)
    assert '"ward"' in vfl("predict", run, "--data", tmp_path / "short.csv", "--out", out).error
    assert not out.exists()


def test_a_folder_of_another_run_is_refused(vfl: Command, run: Path, files: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    again = train(vfl, TRIAL, tmp_path / "again")
    shutil.rmtree(run / "hospitals.s1")
    shutil.copytree(again / "hospitals.s1", run / "hospitals.s1")
    done = vfl("predict", run, *data_options(files), "--out", tmp_path / "scores.csv")
    assert "got a shard of another run" in done.error


def test_a_damaged_shard_is_refused(vfl: Command, run: Path, files: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    path = run / "hospitals.s0" / "model.npz"
    path.write_bytes(path.read_bytes()[:-1])
    done = vfl("predict", run, *data_options(files), "--out", tmp_path / "scores.csv")
    assert done.code == 2
    assert "model shard" in done.error


def test_a_rows_prediction_does_not_depend_on_the_others() -> None:
    members = tuple(Member(name=f"clinics.{silo}", role="active") for silo in "ab")
    rng = np.random.default_rng(0)
    X, coef = rng.normal(size=(500, 7)), rng.normal(size=(7, 3))
    for model, outputs in (("logistic", 1), ("softmax", 3)):
        job = Job(name="x", model=model, task="binary" if outputs == 1 else "multiclass", parties=members)
        intercept = np.linspace(0.5, 1, outputs)
        whole = predict_linearly(job, coef[:, :outputs], intercept, X)
        for rows in (1, 2, 17):
            part = predict_linearly(job, coef[:, :outputs], intercept, X[:rows])
            np.testing.assert_array_equal(part, whole[:rows])
