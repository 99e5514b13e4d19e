"""Losses against numeric derivatives and scikit-learn, and their behaviour at the far ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from parties.errors import DataError
from vfl.losses import FAMILIES, Family, mean_loss, normalise_weights

N = 30


def example(family: Family, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    if family.name == "softmax":
        return rng.normal(0, 2, (N, 3)), rng.integers(0, 3, N)
    y = {
        "logistic": rng.integers(0, 2, N).astype(float),
        "linear": rng.normal(size=N),
        "poisson": rng.poisson(1.5, N).astype(float),
    }[family.name]
    return rng.normal(0, 2, N), y


families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@families
def test_residual_is_the_derivative_of_the_loss(family: Family) -> None:
    z, y = example(family)
    step = 1e-6
    numeric = np.zeros_like(z)
    for at in np.ndindex(z.shape):
        up, down = z.copy(), z.copy()
        up[at] += step
        down[at] -= step
        numeric[at] = (family.row_losses(up, y)[at[0]] - family.row_losses(down, y)[at[0]]) / (2 * step)
    np.testing.assert_allclose(family.residual(z, y), numeric, rtol=1e-6, atol=1e-7)


@families
def test_variance_is_the_derivative_of_the_mean(family: Family) -> None:
    z, _ = example(family)
    step = 1e-6
    numeric = np.zeros_like(z)
    for at in np.ndindex(z.shape):
        up, down = z.copy(), z.copy()
        up[at] += step
        down[at] -= step
        numeric[at] = (family.mean(up)[at] - family.mean(down)[at]) / (2 * step)
    np.testing.assert_allclose(family.variance(z), numeric, rtol=1e-5, atol=1e-8)


def test_curvature_constants() -> None:
    y = np.array([0.0, 1.0, 5.0])
    assert FAMILIES["logistic"].curvature(y) == 0.25
    assert FAMILIES["linear"].curvature(y) == 1.0
    assert FAMILIES["softmax"].curvature(y) == 0.5
    assert FAMILIES["poisson"].curvature(y) == 2.0
    assert FAMILIES["poisson"].curvature(y, np.array([0.0, 3.0, 0.0])) == 1.0
    assert FAMILIES["poisson"].curvature(np.zeros(3)) > 0


@families
def test_curvature_bounds_the_second_derivative(family: Family) -> None:
    z, y = example(family)
    if family.name == "softmax":  # 1/2 bounds the largest eigenvalue of diag(mu) - mu mu'
        matrices = [np.diag(mu) - np.outer(mu, mu) for mu in family.mean(z)]
        assert max(np.linalg.eigvalsh(matrix)[-1] for matrix in matrices) <= 0.5
    elif family.name != "poisson":
        assert family.variance(z).max() <= family.curvature(y)


def test_losses_equal_scikit_learn() -> None:
    z, y = example(FAMILIES["logistic"])
    family = FAMILIES["logistic"]
    assert mean_loss(family, z, y) == pytest.approx(sk.log_loss(y, family.mean(z)), rel=1e-12)
    z, y = example(FAMILIES["softmax"])
    family = FAMILIES["softmax"]
    assert mean_loss(family, z, y) == pytest.approx(sk.log_loss(y, family.mean(z), labels=[0, 1, 2]), rel=1e-12)
    z, y = example(FAMILIES["linear"])
    assert mean_loss(FAMILIES["linear"], z, y) == pytest.approx(sk.mean_squared_error(y, z) / 2, rel=1e-12)
    z, y = example(FAMILIES["poisson"])
    family = FAMILIES["poisson"]
    logs = np.array([count * math.log(count) - count if count else 0.0 for count in y])
    half_deviance = mean_loss(family, z, y) + logs.mean()
    assert half_deviance == pytest.approx(sk.mean_poisson_deviance(y, family.mean(z)) / 2, rel=1e-10)


@families
@pytest.mark.parametrize("size", [800.0, -800.0, 1e6, -1e6, 1e15])
def test_nothing_overflows(family: Family, size: float) -> None:
    _, y = example(family)
    z = np.zeros((N, 3)) if family.name == "softmax" else np.zeros(N)
    z[::2] = size
    if family.name == "softmax":
        z[:, 1] *= -1
    for values in (family.mean(z), family.row_losses(z, y), family.residual(z, y), family.variance(z)):
        assert np.isfinite(values).all()
    assert math.isfinite(mean_loss(family, z, y))


def test_far_ends_are_exact() -> None:
    family = FAMILIES["logistic"]
    z = np.array([1000.0, -1000.0, 1000.0, -40.0])
    y = np.array([1.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(family.row_losses(z, y)[:3], [0.0, 0.0, 1000.0])
    assert family.row_losses(z, y)[3] == pytest.approx(math.exp(-40), rel=1e-12)
    assert family.variance(np.array([40.0]))[0] == pytest.approx(math.exp(-40), rel=1e-12)
    softmax = FAMILIES["softmax"]
    np.testing.assert_array_equal(softmax.row_losses(np.array([[1e6, 0.0]]), np.array([1])), [1e6])


@families
def test_mean_loss_does_not_depend_on_the_order_of_rows(family: Family) -> None:
    z, y = example(family, 1)
    weights = normalise_weights(np.random.default_rng(2).random(N))
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(N)
        assert mean_loss(family, z[order], y[order]) == mean_loss(family, z, y)
        assert mean_loss(family, z[order], y[order], weights[order]) == mean_loss(family, z, y, weights)


@families
def test_weights_count_rows(family: Family) -> None:
    z, y = example(family)
    twice = np.r_[np.arange(N), np.arange(10)]
    weights = normalise_weights(np.r_[np.full(10, 2.0), np.ones(N - 10)])
    assert mean_loss(family, z, y, weights) == pytest.approx(mean_loss(family, z[twice], y[twice]), rel=1e-12)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e308), min_size=1, max_size=20))
def test_weights_are_normalised_to_mean_1(values: list[float]) -> None:
    weights = np.array(values)
    if not weights.max() > 0:
        with pytest.raises(DataError, match="all zero"):
            normalise_weights(weights)
        return
    assert normalise_weights(weights).mean() == pytest.approx(1, rel=1e-12)


@families
@pytest.mark.parametrize("weighted", [False, True])
def test_start_is_the_best_constant(family: Family, weighted: bool) -> None:
    z, y = example(family)
    weights = normalise_weights(np.linspace(0.1, 3, N)) if weighted else None
    start = family.start(y, weights, 3)
    constant = np.tile(start, (N, 1)) if family.name == "softmax" else np.full(N, start[0])
    residual = family.residual(constant, y)
    if weights is not None:
        residual = (residual.T * weights).T
    np.testing.assert_allclose(residual.mean(axis=0), 0, atol=1e-12)
    if family.name == "softmax":
        assert start.sum() == pytest.approx(0, abs=1e-12)


def test_start_is_finite_for_one_class() -> None:
    assert np.isfinite(FAMILIES["logistic"].start(np.ones(3), None, 2)).all()
    assert np.isfinite(FAMILIES["poisson"].start(np.zeros(3), None, 1)).all()
    assert np.isfinite(FAMILIES["softmax"].start(np.zeros(3, dtype=np.int64), None, 3)).all()


def test_families_cover_the_tasks() -> None:
    assert {name: family.task for name, family in FAMILIES.items()} == {
        "logistic": "binary",
        "linear": "regression",
        "poisson": "count",
        "softmax": "multiclass",
    }
