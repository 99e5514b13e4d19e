"""Objectives of boosted trees against XGBoost 3.2 (its numbers below), numeric derivatives and the GLM families."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.errors import ConfigError, DataError
from vfl.label_dp import randomise_labels
from vfl.losses import FAMILIES
from vfl.trees.objective import Objective, default_max_delta_step, make_objective

TASKS = {"binary": 1, "regression": 1, "count": 1, "multiclass": 3}
LABELS = {
    "binary": np.array([0, 1, 1, 0, 1, 1, 1, 0.0]),
    "regression": np.array([-1.5, 3, 1, 1.25, 0, 2, 7, 2.0]),
    "count": np.array([0, 3, 1, 1, 0, 2, 7, 2.0]),
    "multiclass": np.array([0, 2, 1, 1, 0, 2, 2, 2]),
}
WEIGHTS = np.array([1, 2, 0.5, 1, 3, 1, 0.25, 1.0])

tasks = pytest.mark.parametrize("task", TASKS)


def objective_of(task: str) -> Objective:
    return make_objective(task, TASKS[task])


def example(task: str, n: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels and weights."""
    rng = np.random.default_rng(seed)
    y = {
        "binary": rng.integers(0, 2, n).astype(float),
        "regression": rng.normal(2, 3, n),
        "count": rng.poisson(2.0, n).astype(float),
        "multiclass": rng.integers(0, 3, n),
    }[task]
    return rng.normal(0, 2, (n, TASKS[task])), y, rng.uniform(0.1, 3, n)


@pytest.mark.parametrize(
    ("task", "theirs"),
    [
        ("binary", [math.log(0.6923077 / (1 - 0.6923077))]),
        ("regression", [1.2307693]),
        ("count", [math.log(1.3589743)]),
        ("multiclass", [0.3067336, -0.6740916, 0.3673581]),
    ],
)
def test_start_is_xgboosts(task: str, theirs: list[float]) -> None:
    """Within XGBoost's own precision: it computes with float32 and adds 1e-6 to shares before their logarithm."""
    np.testing.assert_allclose(objective_of(task).start(LABELS[task], WEIGHTS, None), theirs, rtol=1e-5)


@pytest.mark.parametrize(
    ("task", "base_score", "max_delta_step", "theirs"),
    [
        ("binary", 0.2, None, [1.6906285]),
        ("regression", 0.2, None, [1.2307693]),
        ("count", 0.2, 1.5, [-0.31642723]),
        ("count", 4.0, None, [1.0584207]),
        ("count", 4.0, 0.0, [0.726038]),
        ("multiclass", 0.5, None, [0.17307687, -0.4038462, 0.23076922]),
    ],
)
def test_first_leaf_is_xgboosts(
    task: str, base_score: float, max_delta_step: float | None, theirs: list[float]
) -> None:
    """One tree of one leaf without a penalty: start - sum g / sum h."""
    objective = make_objective(task, TASKS[task], max_delta_step)
    start = objective.start(LABELS[task], WEIGHTS, base_score)
    g, h = objective.gradients(np.tile(start, (8, 1)), LABELS[task])
    np.testing.assert_allclose(start - WEIGHTS @ g / (WEIGHTS @ h), theirs, rtol=1e-6)


@tasks
def test_start_is_the_best_constant(task: str) -> None:
    objective = objective_of(task)
    _, y, weights = example(task)
    for w in (None, weights):
        start = objective.start(y, w, None)
        assert start.shape == (objective.outputs,)
        g, _ = objective.gradients(np.tile(start, (len(y), 1)), y)
        np.testing.assert_allclose((np.ones(len(y)) if w is None else w) @ g, 0, atol=1e-10)
    np.testing.assert_allclose(objective.start(y, 1e300 * weights, None), objective.start(y, weights, None))


@tasks
def test_base_score_is_in_the_labels_unit(task: str) -> None:
    objective = objective_of(task)
    start = objective.start(LABELS[task], None, 0.25)
    predicted = objective.predict(np.tile(start, (2, 1)))
    np.testing.assert_allclose(predicted, 1 / 3 if task == "multiclass" else 0.25)


@pytest.mark.parametrize(
    ("task", "base_score", "expected"),
    [
        ("binary", 0.0, "a probability"),
        ("binary", 1.0, "a probability"),
        ("binary", math.nan, "a probability"),
        ("count", 0.0, "above 0"),
        ("count", math.inf, "above 0"),
        ("regression", math.inf, "a number"),
        ("multiclass", math.nan, "a number"),
    ],
)
def test_base_score_out_of_range_is_refused(task: str, base_score: float, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"base_score.*expected .*{expected}"):
        objective_of(task).start(LABELS[task], None, base_score)


@pytest.mark.parametrize(
    ("task", "y"),
    [
        ("binary", np.zeros(5)),
        ("binary", np.ones(5)),
        ("count", np.zeros(5)),
        ("multiclass", np.zeros(5, dtype=np.int64)),
        ("binary", np.array([-0.5, -0.5, 1.5, -0.5, -0.5])),  # estimates of fewer than no positive row
        ("multiclass", np.tile([1.5, -0.25, -0.25], (5, 1))),
    ],
)
def test_start_is_always_finite(task: str, y: np.ndarray) -> None:
    start = objective_of(task).start(y, None, None)
    assert np.isfinite(start).all()
    assert np.abs(start).max() < 30


@tasks
def test_weights_that_are_all_zero_are_refused(task: str) -> None:
    with pytest.raises(DataError, match="all zero"):
        objective_of(task).start(LABELS[task], np.zeros(8), None)


@tasks
@pytest.mark.parametrize("soft", [False, True])
def test_g_is_the_derivative_of_the_loss(task: str, soft: bool) -> None:
    objective = objective_of(task)
    scores, y, _ = example(task)
    if soft and task in ("binary", "multiclass"):
        y = randomise_labels(y, max(TASKS[task], 2), 1.0)
    g, _ = objective.gradients(scores, y)
    assert g.shape == scores.shape
    step = 1e-6
    for at in np.ndindex(scores.shape):
        up, down = scores.copy(), scores.copy()
        up[at] += step
        down[at] -= step
        row = slice(at[0], at[0] + 1)
        rise = objective.loss(up[row], y[row], None) - objective.loss(down[row], y[row], None)
        assert g[at] == pytest.approx(rise / (2 * step), rel=1e-6, abs=1e-7)


@tasks
def test_h_is_the_derivative_of_g_with_xgboosts_factor(task: str) -> None:
    objective = objective_of(task)
    scores, y, _ = example(task)
    _, h = objective.gradients(scores, y)
    assert h.shape == scores.shape
    factor = {"count": math.exp(0.7), "multiclass": 2.0}.get(task, 1.0)
    step = 1e-6
    for at in np.ndindex(scores.shape):
        up, down = scores.copy(), scores.copy()
        up[at] += step
        down[at] -= step
        slope = (objective.gradients(up, y)[0][at] - objective.gradients(down, y)[0][at]) / (2 * step)
        assert h[at] == pytest.approx(factor * slope, rel=1e-5, abs=1e-8)


def test_h_does_not_depend_on_the_label() -> None:
    for task in TASKS:
        scores, y, _ = example(task)
        objective = objective_of(task)
        np.testing.assert_array_equal(objective.gradients(scores, y)[1], objective.gradients(scores, y[::-1])[1])


def test_max_delta_step() -> None:
    assert [default_max_delta_step(task) for task in TASKS] == [0.0, 0.0, 0.7, 0.0]
    scores, y, _ = example("count")
    small, large = (make_objective("count", 1, step).gradients(scores, y)[1] for step in (0.0, 2.0))
    np.testing.assert_allclose(large, small * math.exp(2.0), rtol=1e-14)
    assert make_objective("count", 1, 0.0).max_delta_step == 0.0
    assert make_objective("binary", 1, 0.5).max_delta_step == 0.5
    scores, y, _ = example("binary")
    plain, bounded = (make_objective("binary", 1, step).gradients(scores, y)[1] for step in (None, 0.5))
    np.testing.assert_array_equal(plain, bounded)


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(sorted(TASKS)), st.floats(-1e6, 1e6))
def test_nothing_overflows_and_h_is_positive(task: str, size: float) -> None:
    objective = objective_of(task)
    scores, y, weights = example(task, 6)
    scores[::2, 0] = size
    g, h = objective.gradients(scores, y)
    assert np.isfinite(g).all()
    assert np.isfinite(h).all()
    assert (h >= (0 if task == "count" else 1e-16)).all()
    assert math.isfinite(objective.loss(scores, y, weights))
    assert np.isfinite(objective.predict(scores)).all()


@tasks
def test_loss_and_prediction_are_the_families(task: str) -> None:
    objective = objective_of(task)
    scores, y, weights = example(task)
    family = next(family for family in FAMILIES.values() if family.task == task)
    z = scores if task == "multiclass" else scores[:, 0]
    losses = family.row_losses(z, y)
    assert objective.loss(scores, y, None) == pytest.approx(losses.mean(), rel=1e-13)
    assert objective.loss(scores, y, weights) == pytest.approx(np.average(losses, weights=weights), rel=1e-13)
    np.testing.assert_array_equal(objective.predict(scores), family.mean(z))


@tasks
def test_loss_does_not_depend_on_the_order_of_rows(task: str) -> None:
    objective = objective_of(task)
    scores, y, weights = example(task)
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(len(y))
        assert objective.loss(scores[order], y[order], None) == objective.loss(scores, y, None)


@tasks
def test_arguments_stay_as_they_are(task: str) -> None:
    objective = objective_of(task)
    scores, y, weights = example(task)
    kept = [array.copy() for array in (scores, y, weights)]
    objective.start(y, weights, None)
    g, h = objective.gradients(scores, y)
    g += 1
    h += 1
    objective.loss(scores, y, weights)
    for array, copy in zip((scores, y, weights), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_exact_estimates_are_the_labels() -> None:
    """Estimates without noise give the gradients, the loss and nearly the start of the labels themselves."""
    scores, y, weights = example("multiclass")
    objective, rows = objective_of("multiclass"), np.eye(3)[y]
    for theirs, ours in zip(objective.gradients(scores, y), objective.gradients(scores, rows), strict=True):
        np.testing.assert_array_equal(theirs, ours)
    assert objective.loss(scores, rows, weights) == pytest.approx(objective.loss(scores, y, weights), rel=1e-12)
    np.testing.assert_allclose(objective.start(rows, weights, None), objective.start(y, weights, None), rtol=1e-12)


def test_module_loads_without_scipy() -> None:
    """Passive parties look up defaults and never need the losses."""
    script = "import sys, vfl.trees.objective as o; o.default_max_delta_step('count'); sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
