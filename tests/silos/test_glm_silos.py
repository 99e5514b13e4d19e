"""However rows are spread over silos, at passive holders and at the label holder, the model is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.silos.federations import SiloFederation, make_silos
from vfl.baselines import fit_glm
from vfl.losses import FAMILIES
from vfl.shard import load_shard

SPREADS: dict[str, dict[str, int]] = {
    "1 passive silo": {"bank": 0, "shop": 1, "post": 0},
    "2 passive silos": {"bank": 0, "shop": 2, "post": 0},
    "3 passive silos": {"bank": 0, "shop": 3, "post": 0},
    "5 passive silos": {"bank": 0, "shop": 5, "post": 0},
    "2 and 3 passive silos": {"bank": 0, "shop": 2, "post": 3},
    "2 label silos": {"bank": 2, "shop": 0, "post": 0},
    "3 label silos": {"bank": 3, "shop": 0, "post": 1},
    "5 label silos": {"bank": 5, "shop": 0, "post": 0},
    "silos everywhere": {"bank": 3, "shop": 5, "post": 2},
}
MODELS = ("logistic", "linear", "poisson", "softmax")
ONE: dict[str, int] = {"bank": 1, "shop": 1, "post": 1}


@pytest.fixture(scope="module")
def in_one_place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[float], np.ndarray]]:
    """Losses and joint scores with every holder's rows in one silo, by model."""
    found = {}
    for model in MODELS:
        folder = tmp_path_factory.mktemp(model)
        federation = make_silos(model, ONE)
        results = federation.play(folder)
        found[model] = results["bank.s0"].losses, federation.scores(folder)
    return found


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("spread", SPREADS)
def test_silos_train_the_model_of_their_rows_in_one_place(
    model: str, spread: str, in_one_place: dict[str, Any], tmp_path: Path
) -> None:
    federation = make_silos(model, SPREADS[spread])
    results = federation.play(tmp_path)
    losses, scores = in_one_place[model]
    # ciphertexts and masked integers add up exactly; losses are floats, of which each silo adds up its own
    np.testing.assert_allclose(results[federation.job().active].losses, losses, rtol=1e-13)
    np.testing.assert_allclose(federation.scores(tmp_path), scores, rtol=0, atol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_the_model_is_the_pooled_optimum(model: str, tmp_path: Path) -> None:
    federation = make_silos(model, {"bank": 2, "shop": 3, "post": 0}, training={"tol": 1e-12})
    federation.play(tmp_path)
    np.testing.assert_allclose(federation.scores(tmp_path), pooled_scores(federation), rtol=2e-3, atol=2e-4)


def pooled_scores(federation: SiloFederation) -> np.ndarray:
    """Predictions of the test rows by scikit-learn's optimum on all columns in one place."""
    X = np.hstack([frame.drop(columns=["id", "y"], errors="ignore").to_numpy() for frame in federation.frames.values()])
    y = next(iter(federation.frames.values()))["y"].to_numpy()
    n = len(X) - round(0.25 * len(X))
    Z = (X - X[:n].mean(axis=0)) / X[:n].std(axis=0)
    outputs = 3 if federation.model == "softmax" else 1
    coef, intercept = fit_glm(federation.model, Z[:n], y[:n], 0.001, True, None, outputs)
    z = Z[n:] @ np.reshape(coef, (outputs, -1)).T + np.reshape(intercept, (1, outputs))
    scores = FAMILIES[federation.model].mean(z if outputs > 1 else z[:, 0])
    return scores.reshape(len(z), -1)


def test_every_silo_of_a_holder_keeps_the_same_model(tmp_path: Path) -> None:
    federation = make_silos("logistic", {"bank": 2, "shop": 3})
    federation.play(tmp_path)
    for holder in ("bank", "shop"):
        shards = [load_shard(tmp_path / name) for name, owner in federation.members.items() if owner == holder]
        for shard in shards[1:]:
            assert shard.preprocessor == shards[0].preprocessor
            np.testing.assert_array_equal(shard.coef, shards[0].coef)
    ids = [pd.read_csv(tmp_path / f"bank.s{i}" / "ids.csv", dtype=str)["id"] for i in range(2)]
    assert sorted(pd.concat(ids)) == sorted(federation.frames["bank"]["id"])


@pytest.mark.parametrize("spread", ["silos everywhere", "2 label silos"])
def test_weights_missing_cells_and_categories(spread: str, tmp_path: Path) -> None:
    joint = []
    for number, silos in enumerate((ONE, SPREADS[spread])):
        federation = mixed_columns(silos)
        (tmp_path / str(number)).mkdir()
        results = federation.play(tmp_path / str(number))
        joint.append(federation.scores(tmp_path / str(number)))
        assert any("the same in all training rows" in w for r in results.values() for w in r.warnings)
    np.testing.assert_allclose(joint[1], joint[0], rtol=0, atol=1e-12)


def mixed_columns(silos: dict[str, int]) -> SiloFederation:
    """Columns with holes, text and a constant, and sample weights."""
    federation = make_silos("logistic", silos, spec={"bank": {"sample_weight": "w"}}, training={"max_iter": 8})
    rng = np.random.default_rng(7)
    bank, shop = federation.frames["bank"], federation.frames["shop"]
    bank["w"] = np.round(rng.uniform(0.2, 3, len(bank)), 3)
    bank.loc[rng.random(len(bank)) < 0.2, "b0"] = np.nan
    shop["kind"] = rng.choice(["red", "green", "blue", ""], size=len(shop), p=[0.5, 0.3, 0.1, 0.1])
    shop["same"] = 4.0
    return federation


def test_a_silo_without_any_training_row_takes_part(tmp_path: Path) -> None:
    federation = make_silos("logistic", {"bank": 3, "shop": 2})
    n = len(federation.frames["bank"])
    for holder in ("bank", "shop"):
        owner = federation.owners[holder]
        last = federation.silos[holder] - 1
        owner[owner == last] = 0
        owner[n - 3 :] = last  # test rows only
    federation.play(tmp_path)
    whole = make_silos("logistic", {"bank": 1, "shop": 1})
    whole.play(tmp_path / "one")
    np.testing.assert_allclose(federation.scores(tmp_path), whole.scores(tmp_path / "one"), rtol=0, atol=1e-12)


def test_columns_that_differ_between_silos_are_named(tmp_path: Path) -> None:
    from parties.data import table_from_frame
    from parties.errors import DataError

    federation = make_silos("logistic", {"bank": 0, "shop": 2})
    specs, tables = federation.specs(), federation.tables()
    frame = federation.frames["shop"].iloc[federation.owned("shop.s1")].rename(columns={"s1": "colour"})
    tables["shop.s1"] = table_from_frame(frame, specs["shop.s1"])
    federation.tables = lambda: tables  # type: ignore[method-assign]
    with pytest.raises(DataError, match='column "(colour|s1)": got one in silo .* and none in'):
        federation.play(tmp_path)


def test_two_thousand_bits(tmp_path: Path) -> None:
    federation = make_silos(
        "logistic",
        {"bank": 2, "shop": 3},
        rows=60,
        privacy={"key_bits": 2048, "insecure_test_mode": False},
        training={"max_iter": 3},
    )
    federation.play(tmp_path)
    one = make_silos("logistic", {"bank": 1, "shop": 1}, rows=60, training={"max_iter": 3})
    one.play(tmp_path / "one")
    np.testing.assert_allclose(federation.scores(tmp_path), one.scores(tmp_path / "one"), rtol=0, atol=1e-9)
    assert json.loads((tmp_path / "shop.s0" / "run.json").read_text())["party"]["name"] == "shop.s0"
