"""Baselines: first-order optimality, agreement with scikit-learn, and the cases where solvers give up."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge

from vfl.baselines import baseline_predictions, fit_glm, predict
from vfl.losses import FAMILIES, normalise_weights
from vfl.metrics import evaluate

N, D = 400, 5
MODELS = list(FAMILIES)


def data(model: str, seed: int = 0, n_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, D))
    X[:, 1] = 0.95 * X[:, 0] + 0.05 * X[:, 1]
    z = X @ rng.normal(size=D) * 0.5
    if model == "logistic":
        return X, (rng.random(N) < 1 / (1 + np.exp(-z))).astype(float)
    if model == "linear":
        return X, z + rng.normal(size=N) + 40
    if model == "poisson":
        return X, rng.poisson(np.exp(z - 0.5)).astype(float)
    scores = X @ rng.normal(size=(D, n_classes)) + rng.gumbel(size=(N, n_classes))
    return X, scores.argmax(axis=1)


def gradient_size(
    model: str, X: np.ndarray, y: np.ndarray, l2: float, coef: np.ndarray, intercept: np.ndarray, weights: np.ndarray
) -> float:
    family = FAMILIES[model]
    residual = family.residual(X @ coef.T + intercept, y)
    residual = (residual.T * weights).T
    by_coef = residual.T @ X / len(X) + l2 * coef
    return max(float(np.abs(by_coef).max()), float(np.abs(residual.mean(axis=0)).max()))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("l2", [0.0, 1e-3, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_vanishes(model: str, l2: float, weighted: bool) -> None:
    X, y = data(model)
    weights = np.random.default_rng(1).random(N) * 7 if weighted else None
    coef, intercept = fit_glm(model, X, y, l2, True, weights, 3)
    relative = np.ones(N) if weights is None else normalise_weights(weights)
    assert gradient_size(model, X, y, l2, coef, intercept, relative) < 1e-9


@pytest.mark.parametrize("l2", [1e-3, 0.1])
def test_l2_means_what_it_means_in_scikit_learn(l2: float) -> None:
    for model, estimator in (
        ("logistic", LogisticRegression(C=1 / (N * l2), tol=1e-10, max_iter=10_000)),
        ("softmax", LogisticRegression(C=1 / (N * l2), tol=1e-10, max_iter=10_000)),
        ("linear", Ridge(alpha=N * l2)),
        ("poisson", PoissonRegressor(alpha=l2, tol=1e-10, max_iter=10_000)),
    ):
        X, y = data(model)
        estimator.fit(X, y)
        coef, intercept = fit_glm(model, X, y, l2, n_classes=3)
        expected = estimator.coef_ if model == "softmax" else np.ravel(estimator.coef_)
        np.testing.assert_allclose(coef, expected, atol=1e-5)
        expected_intercept = np.asarray(estimator.intercept_)
        if model == "softmax":
            expected_intercept = expected_intercept - expected_intercept.mean()
        np.testing.assert_allclose(np.ravel(intercept), np.ravel(expected_intercept), atol=1e-5)
        assert coef.shape == expected.shape
        assert intercept.shape == ((3,) if model == "softmax" else ())


@pytest.mark.parametrize("model", MODELS)
def test_scaling_all_weights_changes_nothing(model: str) -> None:
    X, y = data(model)
    weights = np.random.default_rng(1).random(N)
    one, _ = fit_glm(model, X, y, 0.01, True, weights, 3)
    other, _ = fit_glm(model, X, y, 0.01, True, weights * 1000, 3)
    np.testing.assert_allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("model", MODELS)
def test_without_intercept(model: str) -> None:
    X, y = data(model)
    y = y - 40 if model == "linear" else y
    coef, intercept = fit_glm(model, X, y, 0.01, False, None, 3)
    assert not np.any(intercept)
    residual = FAMILIES[model].residual(X @ coef.T, y)
    assert np.abs(residual.T @ X / N + 0.01 * coef).max() < 1e-9


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("weighted", [False, True])
def test_no_columns_predict_the_training_mean(model: str, weighted: bool) -> None:
    X, y = data(model)
    weights = np.linspace(0, 2, N) if weighted else None
    coef, intercept = fit_glm(model, np.zeros((N, 0)), y, 0.01, True, weights, 3)
    predicted = predict(model, np.zeros((7, 0)), coef, intercept)
    truth = (y[:, None] == np.arange(3)).astype(float) if model == "softmax" else y
    np.testing.assert_allclose(
        predicted,
        np.tile(np.average(truth, axis=0, weights=weights), (7, *[1] * (truth.ndim - 1))).reshape(predicted.shape),
    )


def test_softmax_of_two_classes_is_symmetric() -> None:
    X, y = data("softmax", n_classes=2)
    coef, intercept = fit_glm("softmax", X, y, 0.01, n_classes=2)
    assert coef.shape == (2, D)
    np.testing.assert_allclose(coef[0], -coef[1], atol=1e-10)
    assert gradient_size("softmax", X, y, 0.01, coef, intercept, np.ones(N)) < 1e-9


@pytest.mark.parametrize("l2", [0.0, 1e-3])
@pytest.mark.parametrize("model", MODELS)
def test_collinear_columns(model: str, l2: float) -> None:
    X, y = data(model)
    X = np.column_stack([X, X[:, 0], X[:, 1] + X[:, 2]])
    coef, intercept = fit_glm(model, X, y, l2, True, None, 3)
    assert gradient_size(model, X, y, l2, coef, intercept, np.ones(N)) < 1e-9


def test_separable_data_stay_finite() -> None:
    X = np.linspace(-1, 1, 50)[:, None]
    y = (X[:, 0] > 0).astype(float)
    for l2 in (0.0, 1e-6):
        coef, intercept = fit_glm("logistic", X, y, l2)
        assert np.isfinite(coef).all()
        assert np.isfinite(predict("logistic", X, coef, intercept)).all()
        assert ((predict("logistic", X, coef, intercept) > 0.5) == (y == 1)).all()


def test_large_counts_and_labels() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 2))
    y = rng.poisson(np.exp(9 + X[:, 0])).astype(float)
    coef, intercept = fit_glm("poisson", X, y, 1e-3)
    relative = gradient_size("poisson", X, y, 1e-3, coef, intercept, np.ones(N)) / y.mean()
    assert relative < 1e-9
    coef, intercept = fit_glm("linear", X, 1e9 * X[:, 1] + 1e12, 0.0)
    np.testing.assert_allclose(coef, [0, 1e9], atol=1)


@pytest.mark.parametrize("model", MODELS)
def test_baseline_predictions_are_those_of_the_fit(model: str) -> None:
    X, y = data(model)
    predicted = baseline_predictions(model, X[:300], y[:300], X[300:], n_classes=3, l2=0.01)
    coef, intercept = fit_glm(model, X[:300], y[:300], 0.01, True, None, 3)
    assert np.array_equal(predicted, predict(model, X[300:], coef, intercept))
    assert predicted.shape == ((100, 3) if model == "softmax" else (100,))
    assert None not in evaluate(FAMILIES[model].task, y[300:], predicted, "abc"[: predicted[0].size]).values()
    assert len(baseline_predictions(model, X, y, X[:0], n_classes=3, l2=0.01)) == 0


def test_more_columns_do_better_and_label_only_is_the_mean() -> None:
    X, y = data("logistic")
    nothing = baseline_predictions("logistic", X[:300, :0], y[:300], X[300:, :0], fit_intercept=False)
    alone = evaluate("binary", y[300:], nothing)
    pooled = evaluate("binary", y[300:], baseline_predictions("logistic", X[:300], y[:300], X[300:]))
    assert alone["auc"] == 0.5
    assert (pooled["auc"] or 0) > 0.6
    share = y[:300].mean()
    assert alone["brier"] == pytest.approx(np.mean((y[300:] - share) ** 2))
