"""Joint models against the optimum of the pooled columns, for every family, shape of federation and key holder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.metrics import log_loss, roc_auc_score

from tests.glm.federations import Federation, make_federation, standardised
from vfl import glm_quadratic
from vfl.glm import Fit
from vfl.losses import FAMILIES, mean_loss

SHAPES = {"2 parties": (3, 4), "3 parties": (2, 3, 2), "label only": (0, 3, 2), "4 parties": (2, 3, 2, 1)}
ROWS = 120
EQUAL = 1e-3  # of ||w*||, at the default tol

shapes = pytest.mark.parametrize("cuts", SHAPES.values(), ids=SHAPES)
families = pytest.mark.parametrize("model", ["logistic", "linear", "poisson", "softmax"])
holders = pytest.mark.parametrize("key_holder", ["active", "coordinator"])


def quantised_columns(federation: Federation) -> np.ndarray:
    """The pooled columns as the parties compute with them."""
    blocks = [federation.block(name) for name in federation.names]
    columns = [np.ldexp(block.integers.astype(float), -block.scale_bits) for block in blocks]
    return np.hstack([columns[0][:, : federation.cuts[0]], *columns[1:]])


def objective(federation: Federation, joint: np.ndarray) -> float:
    training = federation.job().training
    z = federation.X @ joint[: federation.X.shape[1]] + (joint[-1] if training.fit_intercept else 0)
    family = FAMILIES[federation.model]
    z = z if federation.model == "softmax" else z[:, 0]
    weights = joint[: federation.X.shape[1]]
    return mean_loss(family, z, federation.y, federation.weights) + training.l2 * float((weights**2).sum()) / 2


def check(federation: Federation, limit: float = EQUAL) -> dict[str, Fit]:
    fits = federation.fit()
    assert fits["active"].converged
    assert fits["active"].warnings == ()
    assert federation.error(fits) <= limit
    return fits


@families
@shapes
def test_equals_the_pooled_optimum(model: str, cuts: tuple[int, ...]) -> None:
    check(make_federation(model, ROWS, cuts))


@families
def test_equals_scikit_learn(model: str) -> None:
    """The same statement against scikit-learn itself, with l2 translated as the manual says."""
    federation = make_federation(model, ROWS, (2, 3, 2))
    n, l2, X, y = ROWS, 0.001, federation.X, federation.y
    estimator = {
        "linear": Ridge(alpha=n * l2),
        "poisson": PoissonRegressor(alpha=l2, tol=1e-10, max_iter=1000),
    }.get(model, LogisticRegression(C=1 / (n * l2), tol=1e-10, max_iter=1000))
    estimator.fit(X, y)
    theirs = np.vstack([np.atleast_2d(estimator.coef_).T, np.atleast_2d(estimator.intercept_)])
    ours = federation.joint(federation.fit())
    if model == "softmax":
        ours[-1] -= ours[-1].mean()
        theirs[-1] -= theirs[-1].mean()
    assert np.linalg.norm(ours - theirs) <= EQUAL * np.linalg.norm(theirs)


@families
@pytest.mark.parametrize("cuts", [(2, 3, 2), (0, 3, 2)], ids=["features", "label only"])
def test_without_an_intercept(model: str, cuts: tuple[int, ...]) -> None:
    check(make_federation(model, ROWS, cuts, training={"fit_intercept": False}))


@families
def test_with_sample_weights(model: str) -> None:
    federation = make_federation(model, ROWS, (2, 3, 2))
    federation.weights = np.random.default_rng(1).exponential(size=ROWS) * 7.0
    federation.weights[:20] = 0.0
    fits = check(federation)
    federation.weights = None
    assert federation.error(fits) > 0.05  # they matter


@families
def test_without_a_penalty(model: str) -> None:
    """Well posed, but for softmax, whose classes share a direction that the loss does not see."""
    federation = make_federation(model, ROWS, (2, 2, 2), training={"l2": 0.0})
    if model != "softmax":
        check(federation)
        return
    fits = federation.fit()
    ours, optimum = federation.joint(fits), federation.optimum()
    apart = (ours - ours.mean(axis=1, keepdims=True)) - (optimum - optimum.mean(axis=1, keepdims=True))
    assert np.linalg.norm(apart) <= EQUAL * np.linalg.norm(optimum)


@holders
@pytest.mark.parametrize("unit", [1e6, 1e-4])
def test_linear_labels_of_any_unit(unit: float, key_holder: str) -> None:
    federation = make_federation("linear", ROWS, (2, 3, 2), key_holder=key_holder)
    federation.y = federation.y * unit
    fits = check(federation)
    expected = objective(federation, federation.optimum())
    assert fits["active"].losses[-1] == pytest.approx(expected, rel=1e-4)


def test_linear_labels_far_from_zero() -> None:
    federation = make_federation("linear", ROWS, (2, 3, 2))
    federation.y = federation.y + 5000.0
    fits = check(federation, limit=1e-6)
    joint, optimum = federation.joint(fits)[:-1], federation.optimum()[:-1]
    assert np.linalg.norm(joint - optimum) <= EQUAL * np.linalg.norm(optimum)


def test_ill_conditioned_columns_equal_the_optimum_of_the_quantised_ones() -> None:
    """Two parties hold nearly the same column: what remains is the rounding of the columns to 15 bits."""
    federation = make_federation("logistic", ROWS, (2, 2, 2))
    noise = np.random.default_rng(2).normal(size=ROWS)
    federation.X[:, 2] = standardised(federation.X[:, 1] + 0.03 * noise)
    fits = federation.fit()
    federation.X = quantised_columns(federation)
    assert federation.error(fits) <= EQUAL


@families
def test_losses_fall_and_end_at_the_optimum(model: str) -> None:
    federation = make_federation(model, ROWS, (2, 3, 2))
    fits = federation.fit()
    losses = np.array(fits["active"].losses)
    assert len(losses) == fits["active"].rounds + 1
    assert (np.diff(losses) <= 1e-9).all()
    federation.X = quantised_columns(federation)
    assert losses[-1] == pytest.approx(objective(federation, federation.joint(fits)), abs=1e-8)
    assert losses[-1] == pytest.approx(objective(federation, federation.optimum()), abs=1e-7)
    assert fits["passive-1"].losses == fits["coordinator"].losses == ()


def test_separable_classes_stop_with_a_warning() -> None:
    federation = make_federation("logistic", ROWS, (2, 3, 2), training={"l2": 0.0})
    federation.y = (federation.X[:, 0] + federation.X[:, 3] > 0).astype(float)
    fits = federation.fit()
    assert not fits["active"].converged
    assert "separable" in fits["active"].warnings[0]
    assert fits["active"].rounds < 60


@holders
def test_max_iter_stops_with_a_warning(key_holder: str) -> None:
    federation = make_federation("logistic", ROWS, (2, 3, 2), key_holder=key_holder, training={"max_iter": 2})
    fits = federation.fit()
    assert fits["active"].rounds == fits["passive-1"].rounds == fits["coordinator"].rounds == 2
    assert not fits["active"].converged
    assert "max_iter = 2" in fits["active"].warnings[0]


@shapes
def test_coordinator_key_linear_equals_the_optimum(cuts: tuple[int, ...]) -> None:
    federation = make_federation("linear", ROWS, cuts, key_holder="coordinator")
    fits = check(federation)
    federation.X = quantised_columns(federation)
    assert fits["active"].losses[-1] == pytest.approx(objective(federation, federation.optimum()), abs=1e-7)


@pytest.mark.parametrize("cuts", [(2, 3, 2), (0, 3, 2)], ids=["features", "label only"])
def test_coordinator_key_linear_without_an_intercept(cuts: tuple[int, ...]) -> None:
    check(make_federation("linear", ROWS, cuts, key_holder="coordinator", training={"fit_intercept": False}))


@pytest.mark.parametrize("curvature", ["mean", "row"])
def test_coordinator_key_linear_with_sample_weights(curvature: str) -> None:
    """Sample weights are curvatures, so that they go row by row whatever ``curvature`` says."""
    federation = make_federation("linear", ROWS, (2, 3), key_holder="coordinator", training={"curvature": curvature})
    federation.weights = np.random.default_rng(1).exponential(size=ROWS)
    assert federation.error(federation.fit()) <= EQUAL


@pytest.mark.parametrize("cuts", [(2, 3, 2), (0, 3, 2)], ids=["features", "label only"])
def test_coordinator_key_logistic_comes_nearer_with_each_expansion(cuts: tuple[int, ...]) -> None:
    gaps = []
    for options in ({}, {"newton_steps": 1}, {"newton_steps": 1, "curvature": "row"}):
        federation = make_federation("logistic", ROWS, cuts, key_holder="coordinator", training=options)
        joint = federation.joint(federation.fit())
        gaps.append(objective(federation, joint) - objective(federation, federation.optimum()))
    assert gaps[0] > gaps[1] > gaps[2] >= -1e-12
    assert gaps[2] < 1e-4


@pytest.fixture(scope="module")
def credit() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Columns and labels for training and for test, the exact optimum's scores of the test rows, and the optimum."""
    folder = Path(__file__).parents[2] / "scenarios" / "credit_default"
    frames = [pd.read_csv(folder / f"{name}.csv", dtype={0: str}) for name in ("bank", "card_network", "biller")]
    joined = pd.concat([frame.set_index(frame.columns[0]) for frame in frames], axis=1, join="inner").sort_index()
    y = joined.pop("default.payment.next.month").to_numpy(float)
    rows = np.random.default_rng(0).permutation(len(y))[:6000]
    train, test = rows[:4200], rows[4200:]
    X = joined.to_numpy(float)
    X = (X - X[train].mean(axis=0)) / X[train].std(axis=0)
    exact = Federation("logistic", X[train], y[train], CREDIT).optimum()
    return X[train], y[train], X[test], y[test], X[test] @ exact[:-1, 0] + exact[-1, 0], exact


CREDIT = (5, 6, 12)


def test_credit_default_with_the_key_at_the_active_party(credit: tuple[np.ndarray, ...]) -> None:
    X, y, X_test, y_test, *_ = credit
    federation = Federation("logistic", standardised(X[:2000]), y[:2000], CREDIT)
    fits = check(federation)
    aucs = [roc_auc_score(y_test, X_test @ w[:-1, 0]) for w in (federation.joint(fits), federation.optimum())]
    assert abs(aucs[0] - aucs[1]) < 2e-4
    gaps = np.array(fits["active"].losses) - objective(federation, federation.optimum())
    assert int(np.argmax(gaps < 1e-3)) <= 5
    assert int(np.argmax(gaps < 1e-4)) <= 6
    assert len(gaps) - 1 <= 13
    evaluations = [d for d in federation.deliveries if d.message == "glm_exact.score_sums"]
    assert len(evaluations) == fits["active"].rounds  # one forward and one encrypted pass per round


def test_credit_default_with_the_key_at_the_coordinator(
    credit: tuple[np.ndarray, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run with a Newton step shows both: the scores opened for the step are where the first model ends."""
    X, y, X_test, y_test, exact_scores, exact = credit
    opened: list[np.ndarray] = []
    honest = glm_quadratic._open_scores

    def spy(*args: object) -> np.ndarray:
        opened.append(honest(*args))
        return opened[-1]

    monkeypatch.setattr(glm_quadratic, "_open_scores", spy)
    federation = Federation("logistic", X, y, CREDIT, key_holder="coordinator", training={"newton_steps": 1})
    joint = federation.joint(federation.fit())
    z_exact = X @ exact[:-1, 0] + exact[-1, 0]
    (first,), last = opened, X @ joint[:-1, 0] + joint[-1, 0]
    for z, gap, auc in ((first[:, 0], 0.003, 0.004), (last, 0.001, 0.002)):
        assert 0 < log_loss(y, 1 / (1 + np.exp(-z))) - log_loss(y, 1 / (1 + np.exp(-z_exact))) < gap
        assert abs(roc_auc_score(y, z) - roc_auc_score(y, z_exact)) < auc
    scores = X_test @ joint[:-1, 0] + joint[-1, 0]
    assert abs(roc_auc_score(y_test, scores) - roc_auc_score(y_test, exact_scores)) < 0.002


@pytest.mark.slow
@holders
def test_full_key_length(key_holder: str) -> None:
    check(make_federation("linear", 40, (0, 1, 1), key_holder=key_holder, key_bits=2048))
