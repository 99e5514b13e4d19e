"""GLM training on randomised, debiased labels: the optimum of these labels, bounds that hold, honest warnings."""

from __future__ import annotations

import math

import numpy as np
import pytest

from parties.errors import LocalProtocolError
from tests.glm.federations import Federation, make_federation
from vfl import glm, label_dp
from vfl.baselines import fit_glm
from vfl.glm import Target, make_target
from vfl.label_dp import estimates, randomise_labels
from vfl.losses import FAMILIES, are_estimated

EQUAL = 1e-3  # of ||w*||, as for labels that are not randomised
CLASSES = {"logistic": 2, "softmax": 3}
NOISY, CLEAR = 0.5, 12.0

models = pytest.mark.parametrize("model", CLASSES)
settings = pytest.mark.parametrize(
    ("model", "key_holder"), [("logistic", "active"), ("logistic", "coordinator"), ("softmax", "active")]
)


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operating system's randomness, made to repeat."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(
        label_dp, "_random_words", lambda count: rng.integers(0, 2**64 - 1, count, np.uint64, endpoint=True)
    )


def randomised(
    model: str,
    rows: int,
    epsilon: float,
    key_holder: str = "active",
    cuts: tuple[int, ...] = (2, 2),
    **training: object,
) -> Federation:
    """A federation whose labels went through randomised response."""
    if key_holder == "coordinator":
        training = {"newton_steps": 8} | training
    federation = make_federation(model, rows, cuts, seed=2, key_holder=key_holder, training=training)
    federation.y = randomise_labels(federation.y, CLASSES[model], epsilon)
    return federation


def target_of(federation: Federation) -> Target:
    return make_target(federation.model, federation.y, federation.weights, federation.outputs)


@settings
@pytest.mark.parametrize("epsilon", [NOISY, 2.0])
def test_equals_the_pooled_optimum(model: str, key_holder: str, epsilon: float) -> None:
    federation = randomised(model, 2000, epsilon, key_holder)
    fits = federation.fit()
    assert fits["active"].converged
    assert fits["active"].warnings == ()
    assert federation.error(fits) <= EQUAL


@settings
def test_equals_the_pooled_optimum_with_sample_weights(model: str, key_holder: str) -> None:
    federation = randomised(model, 800, 1.0, key_holder)
    federation.weights = np.random.default_rng(1).exponential(size=800)
    assert federation.error(federation.fit()) <= EQUAL


@models
def test_label_only_active_party(model: str) -> None:
    federation = randomised(model, 800, 1.0, cuts=(0, 2, 2))
    assert federation.error(federation.fit()) <= EQUAL


@settings
def test_large_epsilon_gives_nearly_the_weights_without_noise(model: str, key_holder: str) -> None:
    """None of these labels is exchanged (by chance 1 in 500, with this seed never): the factor alone differs."""
    plain = make_federation(model, 200, (2, 2), seed=2).optimum()
    federation = randomised(model, 200, CLEAR, key_holder)
    joint = federation.joint(federation.fit())
    if model == "softmax":
        joint[-1] -= joint[-1].mean()
    assert np.linalg.norm(joint - plain) <= 2 * EQUAL * np.linalg.norm(plain)


@models
def test_estimates_approach_the_weights_without_noise(model: str) -> None:
    """The error of debiased labels falls as 1 / sqrt(n); that of labels left as randomised would stay."""
    errors = []
    for rows in (1000, 64_000):
        federation = make_federation(model, rows, (2, 2), seed=2)
        plain = federation.optimum()
        federation.y = randomise_labels(federation.y, CLASSES[model], 1.0)
        errors.append(float(np.linalg.norm(federation.optimum() - plain) / np.linalg.norm(plain)))
    assert errors[1] < errors[0] / 3
    assert errors[1] < 0.1


@settings
@pytest.mark.parametrize("weighted", [False, True])
def test_residual_bound_holds_and_tells_nothing_of_the_labels(
    model: str, key_holder: str, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound follows from epsilon and the weights, and every residual that is sent stays within."""
    largest: list[float] = []
    honest = Target.residual

    def spy(self: Target, z: np.ndarray) -> np.ndarray:
        residual = honest(self, z)
        largest.append(float(np.abs(residual).max()) / 2.0**self.bound_bits)
        return residual

    monkeypatch.setattr(Target, "residual", spy)
    federation = randomised(model, 400, NOISY, key_holder)
    weights = np.random.default_rng(1).uniform(0.5, 5, 400) if weighted else None
    federation.weights = weights
    federation.fit()
    assert 0 < max(largest) <= 1
    relative = weights.max() / weights.mean() if weights is not None else 1.0
    expected = math.ceil(math.log2(estimates(CLASSES[model], NOISY)[1] * relative))
    told = {d.payload.facts["bound_bits"] for d in federation.deliveries if d.message.endswith("setup")}
    assert told == {expected}
    assert expected > 0


@models
@pytest.mark.parametrize("epsilon", [0.1, math.log(2), 1.0, 50.0])
def test_bound_covers_any_scores(model: str, epsilon: float) -> None:
    """At log 2 the estimates of two classes are -1 and 2: the bound is met, not passed."""
    classes = CLASSES[model]
    y = randomise_labels(np.arange(300) % classes if model == "softmax" else np.arange(300) % 2.0, classes, epsilon)
    target = make_target(model, y, None, 3 if model == "softmax" else 1)
    for size in (0.0, 1.0, 1e3, -1e3):
        z = np.zeros((300, target.outputs))
        z[:, 0] = size
        assert np.abs(target.residual(z)).max() <= 2.0**target.bound_bits


@models
def test_labels_without_noise_keep_their_bound(model: str) -> None:
    federation = make_federation(model, 60, (2, 2))
    assert not target_of(federation).estimated
    assert target_of(federation).bound_bits == 0
    federation.weights = np.linspace(1, 3, 60)
    assert target_of(federation).bound_bits == math.ceil(math.log2(1.5))


def test_softmax_of_two_classes() -> None:
    federation = make_federation("softmax", 800, (2, 2), seed=2)
    federation.y, federation.outputs = randomise_labels(federation.y // 2, 2, 1.0), 2
    assert federation.error(federation.fit()) <= EQUAL


def test_other_families_never_count_as_estimated() -> None:
    y = np.array([-0.5, 1.5, 2.0])
    assert [are_estimated(family, y) for family in FAMILIES.values()] == [True, False, False, False]
    assert are_estimated(FAMILIES["softmax"], np.eye(3))
    assert not are_estimated(FAMILIES["softmax"], np.arange(3))


@models
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_pooled_optimum_has_no_gradient(model: str, fit_intercept: bool) -> None:
    """Without scikit-learn's start the Newton steps reach rounding level by themselves."""
    federation = randomised(model, 500, NOISY)
    outputs = federation.outputs
    coef, intercept = fit_glm(model, federation.X, federation.y, 0.001, fit_intercept, None, outputs)
    z = federation.X @ np.reshape(coef, (outputs, -1)).T + np.reshape(intercept, (1, outputs))
    family = FAMILIES[model]
    residual = family.residual(z if model == "softmax" else z[:, 0], federation.y).reshape(500, -1)
    gradient = federation.X.T @ residual / 500 + 0.001 * np.reshape(coef, (outputs, -1)).T
    assert np.abs(gradient).max() < 1e-10
    if fit_intercept:
        assert np.abs(residual.mean(axis=0)).max() < 1e-10
    else:
        assert np.abs(intercept).max() == 0


@models
def test_exact_estimates_give_the_optimum_of_the_labels(model: str) -> None:
    federation = make_federation(model, 300, (2, 2))
    plain = federation.optimum()
    federation.y = (
        np.eye(3)[federation.y] if model == "softmax" else federation.y + np.where(federation.y, 1, -1) * 1e-15
    )
    assert target_of(federation).estimated
    np.testing.assert_allclose(federation.optimum(), plain, atol=1e-9)


@models
def test_impossible_shares_are_moved(model: str) -> None:
    """Estimates that leave a class less than no row would send the intercept to infinity."""
    federation = make_federation(model, 400, (2, 2), seed=2, training={"l2": 0.1})
    absent, present = estimates(CLASSES[model], 1.0)
    rare = np.random.default_rng(0).random(400) < 0.1
    if model == "softmax":
        federation.y = np.where(np.arange(3) == rare.astype(int)[:, None], present, absent)
    else:
        federation.y = np.where(rare, present, absent)
    assert federation.y.mean(axis=0).min() < 0
    federation.y = target_of(federation).y
    assert federation.y.mean(axis=0).min() > 0
    fits = federation.fit()
    assert federation.error(fits) <= EQUAL
    assert np.abs(federation.joint(fits)).max() < 15


@settings
def test_noise_beyond_the_rows_warns(model: str, key_holder: str) -> None:
    """Few rows and a small epsilon: the loss falls below 0 or, in the quadratic model, Newton steps overshoot."""
    federation = randomised(model, 60, NOISY, key_holder, cuts=(3, 3), newton_steps=2 * (key_holder == "coordinator"))
    fit = federation.fit()["active"]
    assert not 0 <= fit.losses[-1] <= fit.losses[0]
    assert any("more noise than" in warning for warning in fit.warnings)
    assert not any("separable" in warning for warning in fit.warnings)


@models
def test_no_penalty_and_much_noise_stop_with_advice(model: str) -> None:
    federation = randomised(model, 60, 0.2, cuts=(0, 6), l2=0.0)
    fit = federation.fit()["active"]
    assert not fit.converged
    assert "raise training.l2" in fit.warnings[0]


def test_diverging_own_columns_are_refused_with_advice() -> None:
    federation = randomised("logistic", 60, 0.2, cuts=(6, 1), l2=0.0)
    with pytest.raises(LocalProtocolError, match=r"raise training\.l2"):
        federation.fit()


def test_a_noise_warning_needs_estimates() -> None:
    target = target_of(make_federation("logistic", 60, (2, 2)))
    assert glm.noise_warnings(target, [0.5, -1.0]) == ()
    estimated = target_of(randomised("logistic", 60, 1.0))
    assert glm.noise_warnings(estimated, [0.5, 0.0]) == ()
    assert len(glm.noise_warnings(estimated, [0.5, -0.1])) == len(glm.noise_warnings(estimated, [0.5, 0.6])) == 1
