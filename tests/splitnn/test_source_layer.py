"""The encrypted first layer is plain descent on integers, to the last bit, whatever the masks are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.errors import ConfigError
from tests.splitnn.layers import make_layers
from vfl.network_columns import FIXED_BITS, LARGEST
from vfl.paillier import ObfuscatorPool, generate_keypair
from vfl.source_layer import (
    OUTPUT_BITS,
    STEP_BITS,
    WEIGHT_BITS,
    Steps,
    encrypt_steps,
    encrypt_weights,
    initial_weights,
    mask_updates,
    multiply,
    open_outputs,
    open_updates,
    plan_layer,
    share_weights,
)

KEY = generate_keypair(512, insecure_test_mode=True)
OWN = ObfuscatorPool(KEY, capacity=64)
THEIRS = ObfuscatorPool(KEY.public, capacity=64, towards_owner=True)
SHAPES = {
    "one passive party": {"columns": (2, 3)},
    "two passive parties": {"columns": (2, 3, 1)},
    "four passive parties": {"columns": (1, 2, 2, 1, 3)},
    "label-only active party": {"columns": (0, 4)},
    "more units than slots": {"columns": (1, 2), "settings": {"units": 9}},
    "one unit": {"columns": (1, 2), "settings": {"units": 1, "hidden": ()}},
    "batches of unlike length": {"columns": (1, 2), "rows": 65},
    "a batch of all rows": {"columns": (1, 2), "settings": {"batch_size": 1000}},
    "validation and test rows": {"columns": (2, 3), "validation": 21, "test": 13},
    "early stopping": {
        "columns": (2, 3, 2),
        "validation": 30,
        "settings": {"early_stopping_rounds": 1, "epochs": 4, "source_learning_rate": 5.0},
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_training_is_plain_descent_on_integers(shape: str) -> None:
    layers = make_layers(**SHAPES[shape])
    fits = layers.fit()
    course = fits["bank"][0].course
    weights, outputs = layers.plain_until(course.rounds)
    assert len(layers.spy.seen) == len(outputs) > 0
    for got, expected in zip(layers.spy.seen, outputs, strict=True):
        assert np.array_equal(got, expected)
    if not layers.validation:
        joint = layers.weights(fits)
        assert all((joint[name] == weights[name]).all() for name in joint)
    assert {name: fit for name, fit in fits.items() if name == "coordinator"} == {"coordinator": course.rounds}


def test_of_several_epochs_the_best_is_kept() -> None:
    layers = make_layers(columns=(2, 3), validation=30, test=10, settings={"epochs": 5, "source_learning_rate": 3.0})
    fits = layers.fit()
    losses = fits["bank"][0].course.validation_losses
    best = int(np.argmin(losses[-5:])) + 1
    weights, _ = layers.plain_until(best)
    joint = layers.weights(fits)
    assert all((joint[name] == weights[name]).all() for name in joint)


def test_scores_are_those_of_the_weights() -> None:
    layers = make_layers(columns=(2, 3, 2), validation=10, test=17)
    fits = layers.fit()
    weights = layers.weights(fits)
    test = {name: layers.fixed(name)[layers.fitted :].astype(object) for name in weights}
    expected = sum(test[name] @ weights[name].astype(object) for name in weights)
    assert np.array_equal(fits["bank"][1], np.ldexp(expected.astype(np.float64), -OUTPUT_BITS))


def test_two_runs_give_the_same_weights_by_other_shares() -> None:
    first, second = make_layers(), make_layers()
    fits, again = first.fit(), second.fit()
    assert all(np.array_equal(first.weights(fits)[name], second.weights(again)[name]) for name in first.names[1:])
    assert not np.array_equal(fits["shop-1"].share, again["shop-1"].share)
    assert fits["bank"][0].course.losses == again["bank"][0].course.losses


@pytest.mark.slow
def test_full_key_length() -> None:
    layers = make_layers(rows=40, columns=(2, 18), key_bits=2048, settings={"units": 16, "epochs": 1}, test=5)
    plan = plan_layer(layers.terms)
    assert (plan.forward.slots, plan.per_row(plan.forward)) == (16, 1)
    fits = layers.fit()
    weights, _ = layers.plain_until(1)
    joint = layers.weights(fits)
    assert all((joint[name] == weights[name]).all() for name in joint)


def test_sixteen_units_of_three_hundred_columns_take_one_ciphertext() -> None:
    layers = make_layers(rows=10, columns=(30, 300), key_bits=2048, settings={"units": 16, "batch_size": 256})
    plan = plan_layer(layers.terms)
    assert (plan.forward.slots, plan.per_row(plan.forward), plan.per_row(plan.backward)) == (16, 1, 1)


def words(columns: int, units: int) -> st.SearchStrategy:
    edges = st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1])
    entry = edges | st.integers(0, 2**64 - 1)
    return st.lists(entry, min_size=columns * units, max_size=columns * units).map(
        lambda entries: np.array(entries, dtype=np.uint64).reshape(columns, units)
    )


def cells(rows: int, columns: int) -> st.SearchStrategy:
    most = LARGEST << FIXED_BITS
    entry = st.sampled_from([-most, -1, 0, 1, most]) | st.integers(-most, most)
    return st.lists(entry, min_size=rows * columns, max_size=rows * columns).map(
        lambda entries: np.array(entries, dtype=np.int64).reshape(rows, columns)
    )


def plan(columns: int = 3, units: int = 5, batch: int = 4):
    layers = make_layers(rows=8, columns=(1, columns), settings={"units": units, "batch_size": batch})
    return plan_layer(layers.terms)


@settings(max_examples=15)
@given(cells(4, 3), words(3, 5), words(3, 5))
def test_both_parts_of_the_outputs_add_up_modulo_2_to_64(X: np.ndarray, own: np.ndarray, other: np.ndarray) -> None:
    layer = plan()
    weights = encrypt_weights(layer, KEY, other, OWN)
    products, rest = multiply(layer, weights, X, own, THEIRS)
    opened = open_outputs(layer, KEY, products, rest.view(np.int64))
    exact = X.astype(object) @ (own.astype(object) + other.astype(object))
    wrapped = np.array((exact + 2**63) % 2**64 - 2**63, dtype=np.int64)
    assert np.array_equal(opened, np.ldexp(wrapped.astype(np.float64), -OUTPUT_BITS))


@settings(max_examples=15)
@given(cells(4, 3), st.lists(st.integers(1 - 2**STEP_BITS, 2**STEP_BITS - 1), min_size=20, max_size=20))
def test_updates_take_the_products_off_the_weights(X: np.ndarray, entries: list[int]) -> None:
    layer, steps = plan(), np.array(entries, dtype=np.int64).reshape(4, 5)
    weights = initial_weights(make_layers().job, X, 5, 10)
    own, other = share_weights(weights)
    updates, masks = mask_updates(layer, encrypt_steps(layer, KEY, steps, OWN), X, THEIRS)
    after = own + masks + other - open_updates(layer, KEY, updates)
    assert np.array_equal(after.view(np.int64), weights - X.T @ steps)


def test_the_largest_cells_and_steps_of_a_whole_batch_fit() -> None:
    layer = plan(columns=3, units=5, batch=4)
    X = np.full((4, 3), LARGEST << FIXED_BITS)
    steps = np.full((4, 5), (1 << STEP_BITS) - 1)
    updates, masks = mask_updates(layer, encrypt_steps(layer, KEY, steps, OWN), X, THEIRS)
    assert np.array_equal((open_updates(layer, KEY, updates) - masks).view(np.int64), X.T @ steps)


def test_shares_are_uniform_words_and_hide_the_weights() -> None:
    weights = np.zeros((2000, 4), dtype=np.int64)
    own, other = share_weights(weights)
    assert np.array_equal((own + other).view(np.int64), weights)
    for share in (own, other):
        bits = np.unpackbits(share.view(np.uint8).ravel()).reshape(8000, 64).mean(axis=0)
        assert (np.abs(bits - 0.5) < 0.04).all()  # seven standard deviations


def test_initial_weights_are_torchs_and_depend_on_every_cell() -> None:
    job = make_layers().job
    X = np.arange(3000).reshape(1000, 3)
    weights = np.ldexp(initial_weights(job, X, 400, 16).astype(float), -WEIGHT_BITS)
    assert np.abs(weights).max() <= 0.25 < np.abs(weights).max() * 1.01
    assert abs(weights.mean()) < 0.02 and abs(weights.std() - 0.5 / np.sqrt(12)) < 0.01
    other = X.copy()
    other[-1, -1] += 1
    assert (initial_weights(job, other, 400, 16) != initial_weights(job, X, 400, 16)).mean() > 0.99
    assert np.array_equal(initial_weights(job, X.copy(), 400, 16), initial_weights(job, X, 400, 16))


def test_steps_are_rounded_and_cut() -> None:
    steps = Steps(0.5)
    got = steps.fix(np.array([[2.0**-26, 1.0, -1.9999, 2.0, -300.0]]))
    assert got.tolist() == [[0, 2**25, -67105509, 2**26 - 1, 1 - 2**26]]
    assert steps.clipped == 2


def test_a_key_too_short_for_one_output_is_refused() -> None:
    layers = make_layers(rows=8, columns=(1, 4), key_bits=64)
    with pytest.raises(ConfigError, match="key_bits in"):
        plan_layer(layers.terms)
