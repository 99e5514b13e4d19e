"""Predictions and evaluations where parties are made of silos: by commands, on one machine and between companies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from parties.errors import DataError
from parties.link import COORDINATOR, Delivery, Endpoint
from parties.local import run_local
from parties.policy import Guards
from parties.wire import Control, Masked, Message
from psi import align, ecdh, silo_rows, silos, verdict
from tests.runs.conftest import Command, vfl  # noqa: F401 - the fixture
from tests.silos.siloed import Siloed, data_options
from vfl import predict, row_masks, scoring_silos
from vfl.job import job_fields
from vfl.kept_model import load_model
from vfl.new_rows import NewRows, read_new_rows
from vfl.play import role_types
from vfl.predict import Scored
from vfl.prediction import load_models, predict_here

World = dict[str, NewRows]
KINDS = {
    "logistic, both": Siloed(),
    "logistic, labels": Siloed(hospitals=3, insurer=0),
    "softmax, features": Siloed("softmax", hospitals=0, insurer=3),
    "linear, one silo": Siloed("linear", hospitals=1, insurer=1),
    "trees, both": Siloed("boosting", hospitals=2, insurer=3, task="binary"),
    "trees, features": Siloed("boosting", hospitals=0, insurer=2, task="multiclass"),
    "trees, labels": Siloed("boosting", hospitals=3, insurer=0, task="regression"),
    "poisson, both": Siloed("poisson", hospitals=2, insurer=3, training={"fit_intercept": False}),
}


def train(vfl: Command, siloed: Siloed, folder: Path, *options: object) -> Path:  # noqa: F811
    siloed.write(folder / "data")
    done = vfl("run", folder / "data", "--in-process", "--no-baselines", "--out", folder / "run", *options)
    assert done.code == 0, done.stderr
    return folder / "run"


def scores_of(run: Path, siloed: Siloed) -> pd.DataFrame:
    """What the run says of its own test rows, of all label silos."""
    kept = {name: pd.read_csv(run / name / "test_scores.csv", dtype=str) for name in siloed.active}
    return pd.concat(kept, names=["silo"]).reset_index("silo")


@pytest.mark.parametrize("siloed", KINDS.values(), ids=KINDS.keys())
def test_scores_are_those_of_the_run(vfl: Command, tmp_path: Path, siloed: Siloed) -> None:  # noqa: F811
    run = train(vfl, siloed, tmp_path)
    files = siloed.write(tmp_path / "data")
    done = vfl("predict", run, *data_options(files), "--out", tmp_path / "scores.csv")
    assert done.code == 0, done.stderr
    new, old = pd.read_csv(tmp_path / "scores.csv", dtype=str), scores_of(run, siloed)
    keys = ["silo", "patient"] if siloed.hospitals else ["patient"]
    assert list(new.columns[: len(keys)]) == keys
    both = old[[column for column in old if column in keys or column.startswith("score")]].merge(
        new, on=keys, suffixes=(" then", "")
    )
    assert len(both) == len(old) > 30
    for column in [column for column in old if column.startswith("score")]:
        assert (both[f"{column} then"] == both[column]).all()
    left = pd.read_csv(tmp_path / "scores_unscored.csv", dtype=str)
    frames = pd.concat([frame for name, frame in siloed.frames().items() if name in siloed.active])
    assert sorted([*new["patient"], *left["patient"]]) == sorted(frames["patient"])
    if siloed.hospitals:
        owner = {id_: name for name, frame in siloed.frames().items() if name in siloed.active for id_ in frame.patient}
        assert [owner[id_] for id_ in new["patient"]] == list(new["silo"])
        assert list(dict.fromkeys(new["silo"])) == siloed.active
        assert [owner[id_] for id_ in left["patient"]] == list(left["silo"])


def test_new_rows_are_judged_over_all_silos(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    siloed = Siloed(hospitals=3)
    run = train(vfl, siloed, tmp_path)
    files = siloed.write(tmp_path / "new", seed=9, first=70_000)
    done = vfl("evaluate", run, *data_options(files), "--out", tmp_path / "judged", "--json")
    assert done.code == 0, done.stderr
    report = json.loads(done.stdout)
    assert vfl("predict", run, *data_options(files), "--out", tmp_path / "scores.csv").code == 0
    scores = pd.read_csv(tmp_path / "scores.csv", dtype={"patient": str})
    labels = pd.concat([frame for name, frame in siloed.frames(9, 70_000).items() if name in siloed.active])
    both = scores.merge(labels, on="patient")
    assert report["metrics"]["joint"]["auc"] == pytest.approx(roc_auc_score(both["outcome"] == "yes", both["score"]))
    assert report["rows"]["test"] == len(both) == report["alignment"]["intersection"]
    assert list(report["by_silo"]) == siloed.active
    for name, own in both.groupby("silo"):
        expected = roc_auc_score(own["outcome"] == "yes", own["score"])
        assert report["by_silo"][name]["auc"] == pytest.approx(expected)
    assert {party["name"]: party["rows"] for party in report["parties"]} == {
        name: len(frame) for name, frame in siloed.frames(9, 70_000).items()
    }
    for name in siloed.active:
        assert (tmp_path / "judged" / name / "evidence.npz").is_file()
    assert (tmp_path / "judged" / "evidence.npz").is_file()
    assert vfl("report", tmp_path / "judged").code == 0
    assert (tmp_path / "judged" / "report.html").stat().st_size > 10_000


def test_the_summary_counts_all_silos(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    siloed = Siloed()
    run = train(vfl, siloed, tmp_path)
    files = siloed.write(tmp_path / "data")
    done = vfl("predict", run, *data_options(files), "--out", tmp_path / "scores.csv", "--json")
    said, scores = json.loads(done.stdout), pd.read_csv(tmp_path / "scores.csv")
    assert said["scored"] == len(scores) == sum(said["classes"].values())
    assert said["unscored"] == len(pd.read_csv(tmp_path / "scores_unscored.csv"))
    assert said["score"]["mean"] == pytest.approx(scores["score"].mean())
    assert said["rows"] == {name: len(frame) for name, frame in siloed.frames().items()}
    assert set(said["classes"]) == {"no", "yes"}


def test_every_silo_must_be_named(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    run = train(vfl, Siloed(), tmp_path)
    files = Siloed().write(tmp_path / "data")
    files.pop("insurer.s1")
    assert "--data missing for party 'insurer.s1'" in vfl("predict", run, *data_options(files), "--out", "x.csv").error
    files["insurer"] = files["insurer.s0"]
    said = vfl("predict", run, *data_options(files), "--out", "x.csv").error
    assert "--data, got one for 'insurer', expected 'hospitals.s0', 'hospitals.s1', 'insurer.s0', 'insurer.s1'" in said
    alone = vfl("predict", run, "--data", files["insurer"], "--out", "x.csv").error
    assert "expected PARTY=CSV such as bank=new_customers.csv" in alone


def test_rows_on_own_columns_alone_are_marked_at_every_silo(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    siloed = Siloed()
    run = train(vfl, siloed, tmp_path)
    path = run / "hospitals.s1" / "run.json"
    kept = json.loads(path.read_text())
    kept["party"]["policy"]["unmatched_rows"] = "score"
    path.write_text(json.dumps(kept))
    files = siloed.write(tmp_path / "data")
    assert vfl("predict", run, *data_options(files), "--out", tmp_path / "scores.csv").code == 0
    scores = pd.read_csv(tmp_path / "scores.csv", dtype=str)
    frames = siloed.frames()
    assert (scores["silo"] == "hospitals.s1").sum() == len(frames["hospitals.s1"])
    assert set(scores.loc[scores["silo"] == "hospitals.s0", "joint"]) == {"true"}
    assert set(scores.loc[scores["silo"] == "hospitals.s1", "joint"]) == {"true", "false"}
    left = pd.read_csv(tmp_path / "scores_unscored.csv", dtype=str)
    assert set(left["silo"]) == {"hospitals.s0"}


def read_all(run: Path, files: dict[str, Path]) -> World:
    world = {}
    for name, file in files.items():
        model = load_model(run / name)
        world[name] = read_new_rows(model, model.kept.party, file, Guards(enforce=False, small_data=True))
    return world


def play(world: World) -> tuple[dict[str, Scored], list[Delivery]]:
    job = next(iter(world.values())).model.kept.job
    deliveries: list[Delivery] = []

    def role(endpoint: Endpoint) -> Scored:
        if endpoint.name == COORDINATOR:
            return predict.play_coordinator(endpoint, job, lambda event: None)
        return predict.play_party(endpoint, world[endpoint.name], lambda event: None)

    roles = role_types(job)
    results = run_local(dict.fromkeys(roles, role), roles=roles, job=job_fields(job), observe=deliveries.append)
    return results, deliveries


@pytest.fixture
def trained(vfl: Command, tmp_path: Path) -> World:  # noqa: F811
    siloed = Siloed(hospitals=2, insurer=2)
    run = train(vfl, siloed, tmp_path)
    return read_all(run, siloed.write(tmp_path / "new", seed=4, first=50_000))


def messages(*tables: type) -> set[str]:
    return {entry.name for table in tables for entry in vars(table).values() if isinstance(entry, Message)}


def test_messages_are_those_of_the_tables(trained: World) -> None:
    _, deliveries = play(trained)
    seen = {delivery.message for delivery in deliveries} - {"greeting.hello", "greeting.verdict", "greeting.roster"}
    tables = (predict, align, ecdh, verdict, silo_rows, silos, scoring_silos, row_masks)
    assert seen <= messages(*(module.Wire for module in tables if hasattr(module, "Wire")))
    assert {"predict.model", "predict.same", "scoring_silos.partial", "scoring_silos.total"} <= seen


def test_the_coordinator_sees_all_rows_masked_and_nobodys_own(trained: World) -> None:
    results, deliveries = play(trained)
    common = results["hospitals.s0"].intersection
    assert sum(len(results[name].rows) for name in ("hospitals.s0", "hospitals.s1")) == common
    masked = [one for one in deliveries if isinstance(one.payload, Masked) and one.message.startswith("scoring_silos")]
    for one in masked:
        words = one.payload.body.ravel()  # type: ignore[attr-defined]
        assert len(words) == common
        assert len(np.unique(words)) == common  # no zeros where a silo has no row
        assert abs(np.mean(words / 2.0**63) - 1) < 0.3
    told = {
        name: value
        for one in deliveries
        if one.receiver == COORDINATOR and one.message.startswith("predict.") and isinstance(one.payload, Control)
        for name, value in one.payload.facts.items()
    }
    assert told == {"outputs": 1}


def test_silos_get_their_own_rows_and_the_others_none(trained: World) -> None:
    results, _ = play(trained)
    for name in ("hospitals.s0", "hospitals.s1"):
        scored = results[name]
        assert scored.predicted is not None
        assert len(scored.predicted) == len(scored.rows) > 0
        assert (np.diff(scored.rows) > 0).all()
    assert all(results[name].predicted is None for name in ("insurer.s0", "insurer.s1"))


def test_a_silo_without_a_common_row_takes_part(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    siloed = Siloed()
    run = train(vfl, siloed, tmp_path)
    for name, column in (("insurer.s1", "client"), ("hospitals.s0", "patient")):
        files = siloed.write(tmp_path / "new", seed=4, first=50_000)
        frame = pd.read_csv(files[name], dtype=str)
        frame[column] = [f"z{number}" for number in range(len(frame))]
        frame.to_csv(files[name], index=False)
        found = predict_here(load_models(run), files, lambda event: None)
        rows = [len(one.scored.rows) for one in found]
        assert sum(rows) > 0
        assert (rows[0] == 0) == (name == "hospitals.s0")


@pytest.mark.parametrize("liar", ["hospitals.s1", "insurer.s0"])
def test_a_shard_of_another_run_is_noticed(trained: World, liar: str) -> None:
    new = trained[liar]
    kept = msgspec.structs.replace(new.model.kept, run="another")
    world = trained | {liar: replace(new, model=replace(new.model, kept=kept))}
    with pytest.raises(DataError, match=f"party '{liar}' has a shard of another run"):
        play(world)
