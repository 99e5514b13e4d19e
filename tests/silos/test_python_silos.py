"""Parties made of silos in Python: beside passive parties, and by themselves (horizontal learning)."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression as Pooled
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from parties.errors import ConfigError, DataError
from tests.runs.companies import TEST_KEY
from tests.silos.siloed import Siloed
from vfl import (
    Federation,
    GradientBoostingClassifier,
    GridSearch,
    JointModel,
    LinearRegression,
    LogisticRegression,
    Party,
    PoissonRegressor,
    Silo,
    SoftmaxRegression,
    SplitClassifier,
    SplitRegressor,
    cross_validate,
    load_model,
)
from vfl.estimators import ESTIMATORS, Estimator, estimator_of
from vfl.federation import prepare
from vfl.job import Averaging, Training

HYBRID, ALONE = Siloed(hospitals=2, insurer=3), Siloed(hospitals=3, insurer=None, ids=False)
NETWORK: dict[str, Any] = {"units": 4, "hidden": (5,), "epochs": 2, "batch_size": 32}
SMALL_TREES: dict[str, Any] = {"n_estimators": 2, "max_depth": 2, "max_bin": 8}


@pytest.fixture(scope="module")
def hybrid() -> JointModel:
    return HYBRID.federation().fit(LogisticRegression(tol=1e-12), baselines=False)


@pytest.fixture(scope="module")
def alone() -> JointModel:
    return ALONE.federation().fit(LogisticRegression(aggregation="fedavg", rounds=4, local_epochs=2), baselines=False)


def unsplit(siloed: Siloed) -> Federation:
    """The same rows, with each party's in one place."""
    frames = siloed.frames()
    hospitals, insurer = (
        pd.concat([frame for name, frame in frames.items() if name.startswith(holder)])
        for holder in ("hospitals", "insurer")
    )
    return Federation(
        Party("hospitals", hospitals, id="patient", label="outcome"),
        Party("insurer", insurer, id="client"),
        privacy=TEST_KEY | {"key_holder": "active"},
    )


def test_silos_have_the_coefficients_of_pooled_rows() -> None:
    exact = LogisticRegression(tol=1e-13)
    whole = unsplit(HYBRID).fit(exact, baselines=False, test_fraction=0.0)
    model = HYBRID.federation().fit(exact, baselines=False, test_fraction=0.0)
    assert set(model.coef_) == {"hospitals", "insurer"}
    for holder, coef in model.coef_.items():
        assert list(coef.index) == list(whole.coef_[holder].index)
        np.testing.assert_allclose(coef, whole.coef_[holder], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.intercept_, whole.intercept_, atol=1e-5)
    assert model.test_scores_ is None


def test_what_was_fitted_is_shown(hybrid: JointModel) -> None:
    assert hybrid.classes_ == ["no", "yes"]
    assert hybrid.n_iter_ == len(hybrid.loss_curve_) - 1 > 0
    assert "LogisticRegression" in hybrid._repr_html_()


def test_predictions_are_by_silo_and_id(hybrid: JointModel) -> None:
    found = hybrid.predictions()
    assert found.index.names == ["silo", "patient"]
    assert list(dict.fromkeys(found.index.get_level_values("silo"))) == ["hospitals.s0", "hospitals.s1"]
    frames = HYBRID.frames()
    for name in ("hospitals.s0", "hospitals.s1"):
        own = found.to_frame().loc[name]
        left = found.unmatched[found.unmatched.get_level_values("silo") == name].get_level_values("patient")
        assert [*own.index, *left] != []
        assert sorted([*own.index, *left]) == sorted(frames[name]["patient"])
    assert hybrid.predict_proba().columns.tolist() == ["no", "yes"]
    assert set(hybrid.predict()) == {"no", "yes"}


def test_test_scores_are_of_all_silos(hybrid: JointModel) -> None:
    scores = hybrid.test_scores_
    assert scores is not None
    assert list(scores.columns) == ["silo", "patient", "outcome", "score"]
    again = hybrid.predictions().to_frame()["score"]
    np.testing.assert_array_equal(again.loc[list(zip(scores["silo"], scores["patient"], strict=True))], scores["score"])
    assert len(scores) == hybrid.report.rows["test"]


def test_new_rows_are_judged_over_all_silos(hybrid: JointModel) -> None:
    new = HYBRID.frames(seed=8, first=40_000)
    judged = hybrid.evaluate(new)
    assert judged.rows == len(hybrid.predictions(new).index)
    assert 0.5 < (judged.metrics["auc"] or 0) < 1
    assert set(judged.confidence) == {"joint"}
    assert set(judged.by_silo) == {"hospitals.s0", "hospitals.s1"}
    assert judged.alone == {}
    for name in judged.by_silo:
        own = HYBRID.frames(seed=8, first=40_000)[name].set_index("patient")["outcome"]
        scores = hybrid.predictions(new).to_frame().loc[name]["score"]
        assert judged.by_silo[name]["auc"] == pytest.approx(roc_auc_score(own[scores.index] == "yes", scores))


def test_a_kept_model_is_the_same(hybrid: JointModel, alone: JointModel, tmp_path: Path) -> None:
    for at, (model, siloed) in enumerate([(hybrid, HYBRID), (alone, ALONE)]):
        again = load_model(model.save(tmp_path / str(at)))
        new = siloed.frames(seed=8, first=40_000)
        pd.testing.assert_series_equal(again.predict(new), model.predict(new))
        assert again.estimator.get_params() == model.estimator.get_params()


def test_trees_of_silos(tmp_path: Path) -> None:
    siloed = Siloed("boosting", hospitals=2, insurer=2, task="binary")
    model = siloed.federation().fit(GradientBoostingClassifier(**SMALL_TREES), baselines=False)
    scores = model.test_scores_
    assert scores is not None
    again = model.predictions().to_frame()["score"]
    np.testing.assert_array_equal(again.loc[list(zip(scores["silo"], scores["patient"], strict=True))], scores["score"])
    assert set(model.feature_importances_["party"]) <= {"hospitals", "insurer"}


def test_silos_alone_need_no_ids_and_no_key(alone: JointModel) -> None:
    assert alone.report.crypto.scheme == "none"
    assert alone.report.training.key_holder is None
    assert alone.n_iter_ == 4
    assert list(alone.coef_) == ["hospitals"]
    assert list(alone.coef_["hospitals"].index) == ["age", "dose", "ward=blue", "ward=green"]
    assert alone.intercept_.shape == (1,)
    assert alone.evaluate().metrics["auc"] == alone.report.metrics["joint"]["auc"]


def test_fedsgd_is_the_model_of_pooled_rows() -> None:
    model = ALONE.federation().fit(LogisticRegression(l2=0.01, tol=1e-20), test_fraction=0.0, baselines=False)
    rows = pd.concat(ALONE.frames().values())
    X = rows[["age", "dose"]].assign(blue=rows["ward"] == "blue", green=rows["ward"] == "green").astype(float)
    pooled = Pooled(C=1 / (0.01 * len(rows)), tol=1e-12, max_iter=1000)
    pooled.fit(StandardScaler().fit_transform(X), rows["outcome"])
    np.testing.assert_allclose(model.coef_["hospitals"]["coef"], pooled.coef_[0], atol=1e-5)
    np.testing.assert_allclose(model.intercept_, pooled.intercept_, atol=1e-5)


def test_each_alone_stands_beside_the_joint_model(tmp_path: Path) -> None:
    model = ALONE.federation().fit(LogisticRegression(aggregation="fedavg", rounds=2))
    judged = model.evaluate()
    assert set(judged.alone) == set(judged.by_silo) == set(ALONE.active)
    assert judged.pooled is not None
    kept = load_model(model.save(tmp_path / "kept"))
    assert kept.evaluate() == judged
    assert (tmp_path / "kept" / "evidence.npz").is_file()


def test_any_silo_predicts_and_so_does_a_stranger(alone: JointModel, tmp_path: Path) -> None:
    frames = ALONE.frames(seed=6)
    every, one = alone.predictions(frames), frames["hospitals.s1"]
    assert every.index.names == ["silo", None]
    own = alone.predict_proba({"hospitals.s1": one})
    assert list(own.index) == [("hospitals.s1", at) for at in one.index]
    stranger = one.set_axis([f"p{at}" for at in range(len(one))])
    scored = alone.predict_proba(stranger)
    assert list(scored.index) == list(stranger.index)
    np.testing.assert_array_equal(scored, own)
    np.testing.assert_array_equal(every.probabilities.loc["hospitals.s1"], own)
    one.to_csv(tmp_path / "one.csv", index=False)
    np.testing.assert_array_equal(alone.predict_proba(tmp_path / "one.csv"), own)
    assert alone.evaluate(stranger).rows == len(one)
    assert alone.evaluate(frames).rows == sum(map(len, frames.values()))
    assert len(every.unmatched) == 0
    assert np.isfinite(alone.decision_function(stranger)).all()


def test_rows_of_the_federation_are_predicted_by_default(alone: JointModel) -> None:
    assert len(alone.predict()) == ALONE.rows


@pytest.mark.parametrize(
    ("model", "task", "estimator"),
    [
        ("softmax", "", SoftmaxRegression(aggregation="simple", rounds=2)),
        ("linear", "", LinearRegression(aggregation="weighted", rounds=2)),
        ("poisson", "", PoissonRegressor(aggregation="fedavg", rounds=2, server_optimizer="momentum")),
        ("splitnn", "binary", SplitClassifier(**NETWORK)),
        ("splitnn", "multiclass", SplitClassifier(units=4, hidden=(), aggregation="fedavg", rounds=2)),
        ("splitnn", "regression", SplitRegressor(**NETWORK)),
        ("splitnn", "count", SplitRegressor(objective="poisson", **NETWORK)),
    ],
    ids=["softmax", "linear", "poisson", "net-binary", "net-multiclass", "net-regression", "net-count"],
)
def test_scores_of_the_run_come_again(model: str, task: str, estimator: Estimator) -> None:
    siloed = Siloed(model, hospitals=3, insurer=None, task=task)
    fitted = siloed.federation().fit(estimator, baselines=False)
    scores = fitted.test_scores_
    assert scores is not None
    again = fitted.predictions().to_frame().loc[list(zip(scores["silo"], scores["patient"], strict=True))]
    for name in [name for name in scores if name.startswith("score")]:
        np.testing.assert_array_equal(again[name], scores[name])
    assert fitted.n_iter_ == 2 or model == "linear"
    if model == "splitnn":
        import torch

        assert isinstance(fitted.network_, torch.nn.Module)
        with pytest.raises(AttributeError, match="expected a linear model"):
            _ = fitted.coef_


def test_an_own_top_is_trained_by_silos(tmp_path: Path) -> None:
    import torch

    top = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(4, 1))
    federation = Siloed(hospitals=2, insurer=None).federation()
    model = federation.fit(SplitClassifier(top=top, units=4, epochs=1, batch_size=64), baselines=False)
    assert type(model.network_) is torch.nn.Sequential
    kept = model.save(tmp_path / "kept")
    new = Siloed(hospitals=2, insurer=None).frames(seed=3)
    again = load_model(kept, modules={"hospitals": top})
    pd.testing.assert_series_equal(again.predict(new), model.predict(new))
    with pytest.raises(ConfigError, match=r"modules=\{'hospitals': module\}"):
        load_model(kept).predict(new)
    with pytest.raises(ConfigError, match="expected one for each party that trained a module of its own: 'hospitals'"):
        load_model(kept, modules={"hospitals.s0": top})
    with pytest.raises((ConfigError, DataError)):
        load_model(kept, modules={"hospitals": torch.nn.Linear(4, 1)})
    with pytest.raises(ConfigError, match="bottoms, got modules for silos that train alone"):
        federation.fit(SplitClassifier(bottoms={"hospitals": top}))


def test_a_silo_may_differ_from_its_party() -> None:
    frames = ALONE.frames()
    silos: dict[str, Any] = {name.partition(".")[2]: frame for name, frame in frames.items()}
    renamed = silos["s1"].assign(patient=[f"x{at}" for at in range(len(silos["s1"]))])
    silos |= {"s1": Silo(renamed, weight=3, id="patient")}
    model = Federation(Party("hospitals", silos=silos, label="outcome")).fit(
        LogisticRegression(aggregation="weighted", rounds=1), baselines=False
    )
    scores = model.test_scores_
    assert scores is not None
    assert scores.loc[scores["silo"] == "hospitals.s1", "patient"].str.startswith("x").all()
    assert scores.loc[scores["silo"] == "hospitals.s0", "row"].between(1, len(silos["s0"])).all()
    found = model.predictions()
    assert found.index.nlevels == 2
    assert found.index.get_level_values("silo").nunique() == 3


def test_the_task_is_that_of_all_silos_labels() -> None:
    frames = {"a": ["x", "y"] * 40, "b": ["y", "z"] * 40}
    silos = {
        name: pd.DataFrame({"age": np.random.default_rng(1).normal(size=len(labels)), "kind": labels})
        for name, labels in frames.items()
    }
    federation = Federation(Party("clinics", silos=silos, label="kind"))
    scenario, _ = prepare(federation, SplitClassifier(), {"name": "x", "seed": 0, "split": {}})
    assert scenario.job.task == "multiclass"


def test_common_rows_of_silos() -> None:
    common = HYBRID.federation().align()
    assert set(common.frames) == set(HYBRID.frames())
    rows = {name: len(frame) for name, frame in common.frames.items()}
    assert rows["hospitals.s0"] + rows["hospitals.s1"] == common.intersection
    assert sum(rows[f"insurer.s{at}"] for at in range(3)) == common.intersection


@pytest.mark.parametrize(
    ("silos", "data", "message"),
    [
        ({}, None, "silos of party 'clinics', got none, expected a mapping of name to CSV or DataFrame"),
        (["north.csv"], None, "silos of party 'clinics', got list, expected a mapping"),
        ({"north": "north.csv"}, "all.csv", "Party 'clinics', got both data and silos, expected one of them"),
        (None, None, "Party 'clinics', got neither data and silos, expected one of them"),
    ],
    ids=["empty", "list", "both", "neither"],
)
def test_mistaken_silos_are_refused(silos: Any, data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Party("clinics", data, silos=silos, label="y")


@pytest.mark.parametrize(
    ("federation", "message"),
    [
        (Federation(Party("clinics", silos={"north": "n.csv", "north.x": "s.csv"}, label="y")), "name"),
        (Federation(Party("clinics", silos={"north": Silo("n.csv", sex="f")}, label="y")), "sex"),
        (Federation(Party("clinics", silos={"n": "n.csv", "s": "s.csv"})), "active"),
    ],
    ids=["name", "key", "no-label"],
)
def test_mistakes_in_silos_are_refused_in_one_line(federation: Federation, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        federation.fit(LogisticRegression())
    assert "\n" not in str(raised.value)


def test_cross_validation_and_searches_are_refused() -> None:
    for federation in (HYBRID.federation(), ALONE.federation()):
        with pytest.raises(ConfigError, match="got one with silos such as 'hospitals.s0'"):
            cross_validate(LogisticRegression(), federation)
        with pytest.raises(ConfigError, match="got one with silos such as 'hospitals.s0'"):
            GridSearch(LogisticRegression(), {"l2": [0.1, 1]}).fit(federation)


def test_averaging_beside_a_passive_party_is_refused() -> None:
    with pytest.raises(ConfigError, match="aggregation"):
        HYBRID.federation().fit(LogisticRegression(aggregation="fedavg"))


@pytest.mark.parametrize("kind", [k for k in ESTIMATORS if k.model != "boosting"], ids=lambda kind: kind.__name__)
def test_estimators_have_the_keys_of_averaging(kind: type) -> None:
    defaults = {name: given.default for name, given in inspect.signature(kind).parameters.items()}
    expected = msgspec.structs.asdict(Averaging()) | {"aggregation_by_layer": None}
    assert {name: defaults[name] for name in expected} == expected


def test_linear_estimators_have_the_keys_of_the_section() -> None:
    expected = msgspec.structs.asdict(Training()) | {"aggregation_by_layer": None}
    assert LogisticRegression().get_params() == expected
    assert LinearRegression().get_params() == {
        key: value for key, value in expected.items() if key not in ("newton_steps", "curvature")
    }


def test_an_estimator_is_what_its_job_says() -> None:
    asked = LogisticRegression(
        aggregation="fedavg", aggregation_by_layer={"intercept": "simple"}, rounds=3, proximal=0.5
    )
    scenario, _ = prepare(ALONE.federation(), clone(asked), {"name": "x", "seed": 0, "split": {}})
    assert scenario.job.training.aggregation_by_layer == {"intercept": "simple"}
    assert estimator_of(scenario.job).get_params() == asked.get_params()


def test_what_a_model_of_silos_lacks_is_said(alone: JointModel, hybrid: JointModel) -> None:
    with pytest.raises(AttributeError, match="no network_"):
        _ = alone.network_
    with pytest.raises(ConfigError, match="got some for 'hospitals.s9'"):
        alone.predict({"hospitals.s9": ALONE.frames()["hospitals.s0"]})
    with pytest.raises(ConfigError, match="data, got none for party 'hospitals.s0'"):
        alone.predict({})
    with pytest.raises(ConfigError, match="any silo has the whole model"):
        alone.predict([1, 2])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="data, got DataFrame, expected a mapping of party"):
        hybrid.predict(HYBRID.frames()["hospitals.s0"])
    with pytest.raises(ConfigError, match="data, got none for party 'insurer.s2'"):
        hybrid.predict({name: frame for name, frame in HYBRID.frames().items() if name != "insurer.s2"})
    with pytest.raises(DataError, match='column "age" was used in training'):
        alone.predict(ALONE.frames()["hospitals.s0"].drop(columns="age"))
