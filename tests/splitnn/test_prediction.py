"""Later predictions by split neural networks: messages, rows that others lack, mistakes; scores are those of the run.

`tests.prediction` compares the scores of every model with those of its run, to the last bit.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from parties.errors import ConfigError, DataError
from parties.link import COORDINATOR
from tests.prediction.test_predict_command import data_of, scores, train
from tests.prediction.test_protocol import World, messages, of_run, play, read_all
from tests.runs.companies import Companies
from tests.runs.conftest import Command, vfl  # noqa: F401 - the fixture
from tests.splitnn.trials import make_split
from vfl import split_learning, splitnn_scoring
from vfl.kept_model import load_model, network_of
from vfl.network_columns import encode_new

MODES = pytest.mark.parametrize("mode", ["source-layer", "split"])


def trained(vfl: Command, folder: Path, mode: str, **options: object) -> tuple[Companies, Path]:  # noqa: F811
    training = {"mode": mode} | ({"bottom_hidden": [4]} if mode == "split" else {})
    companies = make_split(folder / "companies", training=training, rows=240, messy=True, **options)
    return companies, train(vfl, companies)


@MODES
def test_rows_in_any_order_and_number_score_the_same(vfl: Command, tmp_path: Path, mode: str) -> None:  # noqa: F811
    companies, run = trained(vfl, tmp_path, mode)
    assert vfl("predict", run, *data_of(companies), "--out", tmp_path / "all.csv").code == 0
    every = scores(tmp_path / "all.csv").set_index("customer")
    tables = {name: table.sample(frac=0.6, random_state=5) for name, table in companies.tables.items()}
    tables["bank"] = tables["bank"].drop(columns="outcome").assign(extra="not used")
    done = vfl("predict", run, *data_of(companies, tables), "--out", tmp_path / "some.csv")
    assert done.code == 0, done.stderr
    some = scores(tmp_path / "some.csv").set_index("customer")
    assert 10 < len(some) < len(every)
    assert (every.loc[some.index, "score"] == some["score"]).all()


@MODES
def test_rows_that_others_lack_take_their_usual_part(vfl: Command, tmp_path: Path, mode: str) -> None:  # noqa: F811
    companies, run = trained(vfl, tmp_path, mode, consent={"unmatched_rows": "score"})
    assert vfl("predict", run, *data_of(companies), "--out", tmp_path / "s.csv").code == 0
    table = scores(tmp_path / "s.csv")
    assert list(table["customer"]) == list(companies.tables["bank"]["customer"])
    alone = table[table["joint"] == "false"]
    assert 5 < len(alone) < len(table)
    model = load_model(run / "bank")
    new = read_all(companies, run)["bank"]
    X, _ = encode_new(model.shard.preprocessor, new.table.features)
    at = [new.table.id_columns[0].index(one) for one in alone["customer"]]
    typical = np.tile(model.shard.typical, (len(at), 1))
    np.testing.assert_array_equal(network_of(model).predict(typical, X[at]), alone["score"].astype(float))
    both = scores(run / "bank" / "test_scores.csv").merge(table, on="customer")
    assert len(both) > 50
    assert (both["score_x"] == both["score_y"]).all()


def test_the_typical_part_is_the_mean_of_the_training_rows(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    companies, run = trained(vfl, tmp_path, "source-layer")
    world, parts = read_all(companies, run), 0.0
    lead = world["bank"].model.shard
    for name in ("card-network", "biller"):
        new = world[name]
        ids = pd.read_csv(run / name / "ids.csv", dtype=str)
        rows = [new.table.id_columns[0].index(one) for one in ids[ids["part"] == "train"].iloc[:, 0]]
        weights = (new.model.shard.share + lead.shares[name]).view(np.int64) * 2.0**-36
        parts = parts + new.encoded[rows] @ weights
    np.testing.assert_allclose(np.mean(parts, axis=0), lead.typical, atol=1e-2 * np.abs(parts).max())


@MODES
def test_metrics_of_new_rows(vfl: Command, tmp_path: Path, mode: str) -> None:  # noqa: F811
    companies, run = trained(vfl, tmp_path, mode)
    done = vfl("evaluate", run, *data_of(companies), "--json")
    assert done.code == 0, done.stderr
    report = json.loads(done.stdout)
    (folder,) = (run / "evaluations").iterdir()
    table = pd.read_csv(folder / "bank" / "test_scores.csv")
    assert report["metrics"]["joint"]["accuracy"] == pytest.approx(((table["score"] >= 0.5) == table["outcome"]).mean())
    assert report["rows"]["test"] == len(table) == report["alignment"]["intersection"]
    assert report["training"] == json.loads((run / "report.json").read_text())["training"]


@pytest.fixture
def world(vfl: Command, tmp_path: Path) -> World:  # noqa: F811
    companies, run = trained(vfl, tmp_path, "source-layer")
    return read_all(companies, run)


def test_messages_under_encryption(world: World) -> None:
    _, deliveries = play(world)
    seen = {delivery.message for delivery in deliveries}
    assert messages(splitnn_scoring.Wire) <= seen
    assert not any(message.startswith("splitnn.") for message in seen)
    told = {one.message for one in deliveries if one.receiver == COORDINATOR}
    assert told >= {"splitnn_scoring.key_copy", "splitnn_scoring.products", "splitnn_scoring.rests"}


def test_messages_in_the_clear(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    companies, run = trained(vfl, tmp_path, "split")
    _, deliveries = play(read_all(companies, run))
    own = {one.message for one in deliveries if one.message in messages(split_learning.Wire)}
    assert own == {"split_learning.scored"}
    assert not [one for one in deliveries if one.message in own and one.receiver == COORDINATOR]


def test_two_predictions_share_no_key_and_no_mask(world: World) -> None:
    bodies = []
    for _ in range(2):
        results, deliveries = play(world)
        sent = {"splitnn_scoring.key", "splitnn_scoring.products", "splitnn_scoring.rests", "splitnn_scoring.weights"}
        bodies.append(
            {(one.sender, one.receiver, one.message): one.payload for one in deliveries if one.message in sent}
        )
        assert results["bank"].predicted is not None
    first, second = bodies
    assert first.keys() == second.keys()
    assert len(first) >= 8
    assert not [place for place in first if repr(first[place]) == repr(second[place])]


@pytest.mark.parametrize("name", ["biller", "bank"])
def test_another_run_is_noticed_before_any_id_is_aligned(world: World, name: str) -> None:
    with pytest.raises(DataError, match="shard of another run"):
        play(world | {name: of_run(world[name], "f" * 32)})


def test_shards_of_two_runs_are_refused(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    companies, run = trained(vfl, tmp_path, "source-layer")
    again = run.rename(tmp_path / "first")
    run = train(vfl, companies)
    shutil.rmtree(run / "biller")
    shutil.copytree(again / "biller", run / "biller")
    done = vfl("predict", run, *data_of(companies), "--out", tmp_path / "s.csv")
    assert done.code == 2
    assert "shard of another run" in done.error


def test_a_shard_of_other_columns_is_refused(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    """Its own parts belong together, and it is not what the run agreed on."""
    companies, run = trained(vfl, tmp_path, "source-layer")
    kept = json.loads((run / "bank" / "run.json").read_text())
    kept["columns"]["biller"] += 1
    (run / "bank" / "run.json").write_text(json.dumps(kept))
    done = vfl("predict", run, *data_of(companies), "--out", tmp_path / "s.csv")
    assert done.code == 2
    assert "not as many columns as were agreed on" in done.error


def test_without_torch_the_party_that_needs_it_is_named(
    vfl: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    companies, run = trained(vfl, tmp_path, "source-layer")
    monkeypatch.setattr("vfl.torch_parts.importlib.util.find_spec", lambda name: None)
    done = vfl("predict", run, *data_of(companies), "--out", tmp_path / "s.csv")
    assert done.code == 2
    assert "party 'bank'" in done.error
    assert "pip install 'vfl[nn]'" in done.error
    with pytest.raises(ConfigError, match="torch, which is not installed"):
        network_of(load_model(run / "bank"))


def test_an_encrypted_prediction_does_not_load_torch() -> None:
    """A passive party, and the coordinator, do without."""
    code = "import sys, vfl.predict, vfl.company_prediction; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_cells_far_from_the_training_rows_are_clipped_with_a_warning(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    companies, run = trained(vfl, tmp_path, "source-layer")
    tables = {name: table.copy() for name, table in companies.tables.items()}
    results = []
    for far in ("1e9", "1e12"):
        tables["biller"]["x0"] = far
        done = vfl("predict", run, *data_of(companies, tables), "--out", tmp_path / f"{far}.csv", "--json")
        assert done.code == 0, done.stderr
        lines = [line for line in json.loads(done.stdout)["warnings"] if "standard deviations" in line]
        assert len(lines) == 1
        assert lines[0].startswith('biller: column "x0": ')
        results.append(scores(tmp_path / f"{far}.csv"))
    pd.testing.assert_frame_equal(*results)
