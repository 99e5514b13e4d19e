"""Means, rules by layer, drawn silos and server steps: the textbook's formulas, and laws that every mean obeys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from parties.errors import ConfigError
from vfl.aggregation import (
    ADAM_BETAS,
    ADAM_TAU,
    MOMENTUM,
    ServerState,
    combine_by_layer,
    count_drawn,
    draw_silos,
    least_silos,
    proximal_gradient,
    rules_by_layer,
    server_step,
    simple_mean,
    weighted_mean,
)
from vfl.job import Averaging, Job, Member, SplitNN, Training
from vfl.network_steps import StepState, network_step

numbers = st.floats(-1e6, 1e6)
weights = st.lists(st.floats(0.01, 1e6), min_size=2, max_size=6)


@st.composite
def federations(draw: st.DrawFn) -> tuple[list[list[np.ndarray]], list[float]]:
    """Models of two layers of several silos, and a weight for each silo."""
    found = draw(weights)
    shapes = ((2, 3), (3,))
    return [[draw(arrays(np.float64, shape, elements=numbers)) for shape in shapes] for _ in found], found


def close(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    return all(np.allclose(a, b, rtol=1e-9, atol=1e-6) for a, b in zip(left, right, strict=True))


# means


@given(federations())
def test_the_weighted_mean_is_numpys(drawn: tuple[list[list[np.ndarray]], list[float]]) -> None:
    models, found = drawn
    expected = [np.average(np.stack(layer), axis=0, weights=found) for layer in zip(*models, strict=True)]
    assert close(weighted_mean(models, found), expected)


@given(federations(), st.randoms(use_true_random=False))
def test_the_order_of_silos_does_not_matter(drawn, random) -> None:
    models, found = drawn
    order = list(range(len(models)))
    random.shuffle(order)
    assert close(weighted_mean(models, found), weighted_mean([models[i] for i in order], [found[i] for i in order]))


@given(federations(), st.floats(0.01, 100))
def test_only_the_proportions_of_weights_matter(drawn, factor: float) -> None:
    models, found = drawn
    assert close(weighted_mean(models, found), weighted_mean(models, [weight * factor for weight in found]))


@given(federations(), st.floats(0.5, 100))
def test_with_equal_weights_it_is_the_simple_mean(drawn, weight: float) -> None:
    models, _ = drawn
    assert close(simple_mean(models), weighted_mean(models, [weight] * len(models)))


@given(federations())
def test_the_mean_lies_between_the_silos_and_equals_them_where_they_agree(drawn) -> None:
    models, found = drawn
    for mean, layer in zip(weighted_mean(models, found), zip(*models, strict=True), strict=True):
        assert (mean <= np.max(layer, axis=0) + 1e-6).all() and (mean >= np.min(layer, axis=0) - 1e-6).all()
    assert close(weighted_mean([models[0]] * len(models), found), models[0])


@given(federations())
def test_a_silo_of_weight_zero_does_not_count(drawn) -> None:
    models, found = drawn
    without = weighted_mean(models[1:], found[1:])
    assert close(weighted_mean(models, [0.0, *found[1:]]), without)


@given(federations())
def test_merging_silos_in_groups_is_the_same_mean(drawn) -> None:
    """A mean of means by their weights: regions may be averaged before the whole is."""
    models, found = drawn
    regions = [weighted_mean(models[:2], found[:2]), *models[2:]]
    assert close(weighted_mean(models, found), weighted_mean(regions, [sum(found[:2]), *found[2:]]))


@given(federations())
def test_every_layer_goes_by_its_own_rule(drawn) -> None:
    models, found = drawn
    rules = {"fedavg": found, "simple": [1.0] * len(found)}
    mixed = combine_by_layer(models, ["simple", "fedavg"], rules)
    assert close(mixed[:1], simple_mean(models)[:1]) and close(mixed[1:], weighted_mean(models, found)[1:])


@pytest.mark.parametrize("found", [[0.0, 0.0], [1.0, -0.5], [np.nan, 1.0], [np.inf, 1.0]], ids=str)
def test_weights_without_a_mean_are_refused(found: list[float]) -> None:
    with pytest.raises(ValueError, match="not negative"):
        weighted_mean([[np.zeros(1)], [np.ones(1)]], found)


def test_models_of_other_shapes_are_not_averaged() -> None:
    with pytest.raises(ValueError, match="shape|broadcast|inhomogeneous"):
        weighted_mean([[np.zeros(2)], [np.zeros(3)]], [1, 1])
    with pytest.raises(ValueError, match="argument"):
        weighted_mean([[np.zeros(2)], [np.zeros(2), np.zeros(2)]], [1, 1])


# rules by layer

NAMES = ["own.weight", "own.bias", "top.1.weight", "top.1.bias", "top.10.weight"]


def test_the_longest_beginning_wins() -> None:
    settings = Averaging(
        aggregation="simple", aggregation_by_layer={"top": "fedavg", "top.1": "weighted", "own.bias": "fedavg"}
    )
    assert rules_by_layer(NAMES, settings) == ["simple", "fedavg", "weighted", "weighted", "fedavg"]


def test_without_entries_all_layers_go_by_the_jobs_rule() -> None:
    for rule in ("fedavg", "weighted", "simple"):
        assert rules_by_layer(NAMES, Averaging(aggregation=rule)) == [rule] * 5


@pytest.mark.parametrize("entry", ["top.2", "ow", "own.weight.0", ""])
def test_an_entry_of_no_layer_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError, match=rf'aggregation_by_layer, got "{entry}", expected .*own.weight') as caught:
        rules_by_layer(NAMES, Averaging(aggregation="fedavg", aggregation_by_layer={entry: "simple"}))
    assert "\n" not in str(caught.value)


# silos drawn

SILOS = [f"shops.{i}" for i in range(10)]


@given(st.integers(2, 40), st.floats(0.001, 1), st.integers(2, 40) | st.none())
def test_a_round_draws_its_share_and_enough(silos: int, fraction: float, least: int | None) -> None:
    count = count_drawn(Averaging(client_fraction=fraction, min_silos=least), silos)
    assert min(2, silos) <= count <= silos
    assert count >= min(least or 2, silos) and count >= fraction * silos - 1e-6
    assert count <= max(fraction * silos + 1, least or 2, 2)


@given(st.integers(0, 2**63 - 1), st.integers(1, 10**6))
def test_the_draw_is_public_and_keeps_order(seed: int, round_number: int) -> None:
    settings = Averaging(client_fraction=0.3)
    drawn = draw_silos(SILOS, settings, seed, round_number)
    assert drawn == draw_silos(SILOS, settings, seed, round_number)
    assert len(set(drawn)) == 3 and drawn == [name for name in SILOS if name in drawn]


def test_every_silo_is_drawn_about_as_often() -> None:
    settings = Averaging(client_fraction=0.3)
    rounds = [draw_silos(SILOS, settings, 0, number) for number in range(1, 1001)]
    counts = [sum(name in drawn for drawn in rounds) for name in SILOS]
    assert min(counts) > 230 and max(counts) < 370  # 300 expected, deviation 14
    assert rounds != [draw_silos(SILOS, settings, 1, number) for number in range(1, 1001)]


def test_all_silos_take_part_without_a_share() -> None:
    assert draw_silos(SILOS, Averaging(), 0, 1) == SILOS


@pytest.mark.parametrize(
    ("settings", "least"),
    [({}, 4), ({"client_fraction": 0.5}, 2), ({"min_silos": 3}, 3), ({"client_fraction": 0.75, "min_silos": 2}, 2)],
    ids=str,
)
def test_the_fewest_silos_of_a_sum(settings: dict[str, float], least: int) -> None:
    members = tuple(Member(name=f"shops.{i}", role="active") for i in range(4))
    training = Training(aggregation="fedavg", **settings)
    job = Job(name="job", model="logistic", task="binary", parties=members, training=training)
    assert least_silos(job) == least


# server


def test_the_servers_average_is_the_mean_of_the_new_weights() -> None:
    before, after = [np.array([1.0, 2.0])], [[np.array([3.0, 0.0])], [np.array([5.0, 2.0])]]
    update = weighted_mean([[new[0] - before[0]] for new in after], [1, 3])
    stepped, state = server_step(Averaging(), before, update, ServerState())
    assert np.allclose(stepped[0], weighted_mean(after, [1, 3])[0]) and state == ServerState()


def test_momentum_is_torchs_on_the_negative_update() -> None:
    rng = np.random.default_rng(0)
    settings = Averaging(server_optimizer="momentum", server_learning_rate=0.7)
    weights = [rng.normal(size=(2, 3)), rng.normal(size=3)]
    tensors = [torch.tensor(weight, requires_grad=True) for weight in weights]
    optimizer = torch.optim.SGD(tensors, lr=0.7, momentum=MOMENTUM)
    state = ServerState()
    for _ in range(5):
        update = [rng.normal(size=weight.shape) for weight in weights]
        weights, state = server_step(settings, weights, update, state)
        for tensor, step in zip(tensors, update, strict=True):
            tensor.grad = torch.tensor(-step)
        optimizer.step()
    assert all(np.allclose(w, t.detach().numpy(), atol=1e-12) for w, t in zip(weights, tensors, strict=True))


def test_adam_is_algorithm_2_of_reddi_et_al() -> None:
    """Line by line: m and v with v_(-1) = tau^2, x + eta m / (sqrt(v) + tau), no correction of the bias."""
    settings = Averaging(server_optimizer="adam", server_learning_rate=0.05)
    rng = np.random.default_rng(1)
    x, m, v = 0.3, 0.0, ADAM_TAU**2
    weights, state = [np.array([x])], ServerState()
    for delta in rng.normal(size=6).tolist():
        weights, state = server_step(settings, weights, [np.array([delta])], state)
        m = ADAM_BETAS[0] * m + (1 - ADAM_BETAS[0]) * delta
        v = ADAM_BETAS[1] * v + (1 - ADAM_BETAS[1]) * delta**2
        x = x + 0.05 * m / (v**0.5 + ADAM_TAU)
        assert weights[0][0] == pytest.approx(x, abs=1e-14)


@pytest.mark.parametrize(("optimizer", "rate"), [("average", 1.0), ("momentum", 1.0), ("adam", 0.01)])
def test_the_servers_learning_rate_has_a_default(optimizer: str, rate: float) -> None:
    left, _ = server_step(Averaging(server_optimizer=optimizer), [np.zeros(2)], [np.ones(2)], ServerState())
    settings = Averaging(server_optimizer=optimizer, server_learning_rate=rate)
    right, _ = server_step(settings, [np.zeros(2)], [np.ones(2)], ServerState())
    assert left[0].tobytes() == right[0].tobytes()


def test_nothing_is_changed_in_place() -> None:
    for optimizer in ("average", "momentum", "adam"):
        settings = Averaging(server_optimizer=optimizer)
        weights, update = [np.zeros(2)], [np.ones(2)]
        _, state = server_step(settings, weights, update, ServerState())
        kept = [array.copy() for array in (*state.first, *state.second)]
        server_step(settings, weights, update, state)
        assert not weights[0].any() and (update[0] == 1).all()
        assert all((a == b).all() for a, b in zip((*state.first, *state.second), kept, strict=True))


@given(arrays(np.float64, (4,), elements=numbers), arrays(np.float64, (4,), elements=numbers), st.floats(0, 10))
def test_the_proximal_term_is_the_gradient_of_half_the_squared_distance(now, first, mu: float) -> None:
    w = torch.tensor(now, requires_grad=True)
    (mu / 2 * ((w - torch.tensor(first)) ** 2).sum()).backward()
    assert np.allclose(proximal_gradient([now], [first], mu)[0], w.grad.numpy(), rtol=1e-12, atol=1e-9)


# the networks' optimizers

TORCHS = {
    "sgd": lambda parameters, s: torch.optim.SGD(
        parameters, lr=s.learning_rate, weight_decay=s.weight_decay, momentum=s.momentum
    ),
    "adam": lambda parameters, s: torch.optim.Adam(parameters, lr=s.learning_rate, weight_decay=s.weight_decay),
    "adamw": lambda parameters, s: torch.optim.AdamW(parameters, lr=s.learning_rate, weight_decay=s.weight_decay),
    "rmsprop": lambda parameters, s: torch.optim.RMSprop(parameters, lr=s.learning_rate, weight_decay=s.weight_decay),
    "adagrad": lambda parameters, s: torch.optim.Adagrad(parameters, lr=s.learning_rate, weight_decay=s.weight_decay),
}
VARIANTS = [
    *({"optimizer": name} for name in TORCHS),
    *({"optimizer": name, "weight_decay": 0.1} for name in TORCHS),
    {"optimizer": "sgd", "momentum": 0.8},
    {"optimizer": "sgd", "momentum": 0.8, "weight_decay": 0.1},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_network_step_is_torchs(variant: dict[str, object]) -> None:
    settings = SplitNN(learning_rate=0.03, **variant)
    rng = np.random.default_rng(2)
    weights = [rng.normal(size=(3, 2)), rng.normal(size=3)]
    tensors = [torch.tensor(weight, requires_grad=True) for weight in weights]
    optimizer, state = TORCHS[settings.optimizer](tensors, settings), StepState()
    for number in range(30):
        gradient = [rng.normal(size=weight.shape) * 10.0 ** -(number % 9) for weight in weights]
        gradient[0][0] = 0.0  # a unit that no row reaches
        weights, state = network_step(settings, weights, gradient, state)
        for tensor, slope in zip(tensors, gradient, strict=True):
            tensor.grad = torch.tensor(slope)
        optimizer.step()
    for weight, tensor in zip(weights, tensors, strict=True):
        assert np.abs(weight - tensor.detach().numpy()).max() < 1e-12
