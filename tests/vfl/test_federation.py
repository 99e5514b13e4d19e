"""The Python interface: scikit-learn's manners, CSVs and DataFrames, what a fitted model shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

import vfl
from parties.errors import ConfigError, DataError
from vfl import Federation, LinearRegression, LogisticRegression, Party, PoissonRegressor, SoftmaxRegression

TEST_KEY = {"key_bits": 512, "insecure_test_mode": True}
ROWS = 600


@pytest.fixture(scope="module")
def frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(ROWS, 4))
    ids = [f"{i:05d}" for i in range(ROWS)]
    score = x @ [1.0, -1.0, 0.7, 0.5]
    bank = pd.DataFrame({"client": ids, "income": x[:, 0], "age": x[:, 1]})
    bank["bought"] = np.where(score + rng.logistic(size=ROWS) > 0, "yes", "no")
    bank["amount"] = score + rng.normal(size=ROWS)
    bank["visits"] = rng.poisson(np.exp(0.4 * score))
    bank["kind"] = np.array(["a", "b", "c"])[np.digitize(score, [-0.8, 0.8])]
    shop = pd.DataFrame({"card": ids, "visits": x[:, 2], "spend": x[:, 3]}).sample(frac=0.9, random_state=1)
    return bank, shop


def federation(frames: tuple[pd.DataFrame, pd.DataFrame], label: str) -> Federation:
    bank, shop = frames
    labels = {"bought", "amount", "visits", "kind"} - {label}
    return Federation(
        Party("bank", bank, id="client", label=label, drop=sorted(labels)),
        Party("shop", shop, id="card"),
        privacy=TEST_KEY,
    )


@pytest.mark.parametrize(
    ("estimator", "label", "metric"),
    [
        (LogisticRegression(), "bought", "auc"),
        (LinearRegression(), "amount", "r2"),
        (SoftmaxRegression(), "kind", "accuracy"),
        (PoissonRegressor(), "visits", "poisson_deviance"),
    ],
    ids=["logistic", "linear", "softmax", "poisson"],
)
def test_joint_is_nearly_pooled_and_better_than_alone(
    frames: tuple[pd.DataFrame, pd.DataFrame], estimator: object, label: str, metric: str
) -> None:
    model = federation(frames, label).fit(estimator, seed=5)
    evaluation = model.evaluate()
    joint, alone, pooled = (evaluation.to_frame()[name][metric] for name in ("joint", "active_only", "pooled"))
    # With one passive party logistic runs the quadratic protocol, which only comes near; the others reach the optimum.
    assert joint == pytest.approx(pooled, abs=0.01 if label == "bought" else 1e-3)
    assert (joint < alone) if metric == "poisson_deviance" else (joint > alone)
    assert model.n_iter_ == len(model.loss_curve_) - 1 > 0
    assert set(model.coef_) == {"bank", "shop"}
    assert list(model.coef_["shop"].index) == ["visits", "spend"]
    outputs = 3 if label == "kind" else 1
    assert model.coef_["shop"].shape == (2, outputs)
    assert model.intercept_.shape == (outputs,)
    assert model.classes_ == {"bought": ["no", "yes"], "kind": ["a", "b", "c"]}.get(label, [])


def test_csv_and_dataframe_give_the_same_model(frames: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path) -> None:
    bank, shop = frames
    shop.to_csv(tmp_path / "shop.csv", index=False)
    in_memory = federation(frames, "bought").fit(LogisticRegression(), baselines=False)
    on_disk = Federation(
        Party("bank", bank, id="client", label="bought", drop=["amount", "kind", "visits"]),
        Party("shop", tmp_path / "shop.csv", id="card"),
        privacy=TEST_KEY,
    ).fit(LogisticRegression(), baselines=False)
    pd.testing.assert_frame_equal(in_memory.coef_["shop"], on_disk.coef_["shop"])
    assert in_memory.evaluate().pooled is None


def test_out_keeps_the_run(frames: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    model = federation(frames, "bought").fit(LogisticRegression(), out=out, test_fraction=0.2)
    assert (out / "report.json").exists()
    assert model.test_scores_ is not None
    assert model.test_scores_["client"].str.len().eq(5).all()  # leading zeros are kept
    with pytest.raises(ConfigError, match="holds a run"):
        federation(frames, "bought").fit(LogisticRegression(), out=out)
    federation(frames, "bought").fit(LogisticRegression(), out=out, overwrite=True, baselines=False)


def test_no_test_rows_no_metrics(frames: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    model = federation(frames, "bought").fit(LogisticRegression(), test_fraction=0)
    with pytest.raises(ConfigError, match="test_fraction"):
        model.evaluate()


def test_estimators_follow_scikit_learn() -> None:
    estimator = LogisticRegression(l2=0.5, newton_steps=1)
    assert clone(estimator).get_params() == estimator.get_params()
    assert repr(estimator) == "LogisticRegression(l2=0.5, newton_steps=1)"
    assert estimator.set_params(l2=0.1).l2 == 0.1
    with pytest.raises(ValueError, match="Invalid parameter"):
        estimator.set_params(C=1)


def test_mistakes_are_named(frames: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    bank, shop = frames
    good = Party("bank", bank, id="client", label="bought", drop=["amount", "kind", "visits"])
    with pytest.raises(ConfigError, match="no passive party"):
        Federation(good).fit(LogisticRegression())
    with pytest.raises(ConfigError, match="did you mean 'categorical'"):
        Federation(good, Party("shop", shop, id="card", catgorical=["visits"])).fit(LogisticRegression())
    with pytest.raises(DataError, match='"crad"'):
        Federation(good, Party("shop", shop, id="crad")).fit(LogisticRegression())
    with pytest.raises(ConfigError, match="l2"):
        Federation(good, Party("shop", shop, id="card")).fit(LogisticRegression(l2=-1))


def test_repr_shows_no_data(frames: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    text = repr(federation(frames, "bought"))
    assert text == "Federation(Party('bank', active), Party('shop', passive))"


def test_public_names() -> None:
    for name in vfl.__all__:
        assert getattr(vfl, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Boosting'"):
        vfl.Boosting  # noqa: B018


def test_import_is_quick() -> None:
    """The command line must not pay for scikit-learn: it is imported when a model is fitted."""
    code = "import vfl, vfl.cli, sys; sys.exit('sklearn' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
