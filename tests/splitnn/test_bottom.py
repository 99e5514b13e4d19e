"""A party's bottom network: its outputs, its steps on gradients from outside, its state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from parties.errors import ConfigError, DataError, LocalProtocolError
from vfl.bottom import Bottom, load_bottom, make_bottom
from vfl.job import Job, Member, SplitNN

ROWS, COLUMNS, UNITS = 20, 5, 3


def job_of(seed: int = 0, **settings: Any) -> Job:
    return Job(
        name="test",
        model="splitnn",
        task="binary",
        seed=seed,
        splitnn=SplitNN(**{"mode": "split", "units": UNITS} | settings),
        parties=(Member(name="bank", role="active"), Member(name="shop", role="passive")),
    )


def cells(seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns))


def gradients(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(ROWS, UNITS)) / ROWS


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and first[name].tobytes() == second[name].tobytes() for name in first
    )


def test_a_linear_bottom_is_a_product() -> None:
    X = cells()
    bottom = make_bottom(job_of(), "shop", X)
    weights = bottom.weights()
    assert {name: array.shape for name, array in weights.items()} == {"0.weight": (UNITS, COLUMNS), "0.bias": (UNITS,)}
    np.testing.assert_allclose(bottom.forward(X), X @ weights["0.weight"].T + weights["0.bias"], atol=1e-6)
    assert bottom.forward(X).dtype == np.float64


def test_hidden_layers_have_the_jobs_widths() -> None:
    bottom = make_bottom(job_of(bottom_hidden=(7, 4), activation="tanh"), "shop", cells())
    shapes = [array.shape for name, array in bottom.weights().items() if name.endswith("weight")]
    assert shapes == [(7, COLUMNS), (4, 7), (UNITS, 4)]
    assert [type(part).__name__ for part in bottom.module.children()] == ["Linear", "Tanh", "Linear", "Tanh", "Linear"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
@pytest.mark.parametrize("hidden", [(), (6,)], ids=["linear", "hidden"])
def test_steps_are_those_of_torch_on_the_product_of_outputs_and_gradient(
    optimizer: str, hidden: tuple[int, ...]
) -> None:
    """Several batches and local steps, against torch's own optimizer on sum(outputs * gradient)."""
    job = job_of(optimizer=optimizer, bottom_hidden=hidden, learning_rate=0.01, weight_decay=0.1)
    X = cells()
    bottom = make_bottom(job, "shop", X)
    widths = (COLUMNS, *hidden, UNITS)
    parts: list[torch.nn.Module] = []
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        parts += [*([torch.nn.ReLU()] if parts else []), torch.nn.Linear(inputs, outputs)]
    twin = torch.nn.Sequential(*parts)
    twin.load_state_dict({name: torch.tensor(array) for name, array in bottom.weights().items()})
    kinds = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "adagrad": "Adagrad"}
    stepper = getattr(torch.optim, kinds[optimizer])(twin.parameters(), lr=0.01, weight_decay=0.1)
    for batch in range(3):
        stale = gradients(batch)
        bottom.forward(X, seed=batch)
        bottom.step(stale, steps=1 + batch)
        for _ in range(1 + batch):
            stepper.zero_grad()
            (twin(torch.tensor(X, dtype=torch.float32)) * torch.tensor(stale, dtype=torch.float32)).sum().backward()
            stepper.step()
    for name, array in bottom.weights().items():
        np.testing.assert_allclose(array, twin.state_dict()[name].numpy(), rtol=1e-5, atol=1e-6)


def test_a_step_belongs_to_one_forward_pass_in_training() -> None:
    bottom, X = make_bottom(job_of(), "shop", cells()), cells()
    bottom.forward(X)
    with pytest.raises(LocalProtocolError, match="no forward pass in training"):
        bottom.step(gradients())
    bottom.forward(X, seed=0)
    bottom.step(gradients())
    with pytest.raises(LocalProtocolError, match="no forward pass in training"):
        bottom.step(gradients())


def test_a_look_at_other_rows_between_changes_nothing() -> None:
    """Validation rows are looked at between the passes of the training."""
    job, X = job_of(dropout=0.5, bottom_hidden=(8,)), cells()
    one, other = make_bottom(job, "shop", X), make_bottom(job, "shop", X)
    for bottom in (one, other):
        for number in range(3):
            bottom.forward(X, seed=number)
            if bottom is other:
                bottom.forward(cells(5, rows=7))
            bottom.step(gradients(number), steps=2)
    assert same(one.state(), other.state())


def test_dropout_is_for_training_alone_and_follows_from_the_seed() -> None:
    X = cells()
    bottom = make_bottom(job_of(dropout=0.5, bottom_hidden=(32,)), "shop", X)
    plain = bottom.forward(X)
    np.testing.assert_array_equal(bottom.forward(X), plain)
    first = bottom.forward(X, seed=4)
    np.testing.assert_array_equal(bottom.forward(X, seed=4), first)
    assert not np.array_equal(first, plain)
    assert not np.array_equal(bottom.forward(X, seed=5), first)


def test_local_steps_draw_dropout_anew() -> None:
    """With one mask for all steps a second network, stepped by hand with that mask, would end up the same."""
    job, X = job_of(dropout=0.5, bottom_hidden=(32,), optimizer="sgd"), cells()
    one, other = make_bottom(job, "shop", X), make_bottom(job, "shop", X)
    one.forward(X, seed=4)
    one.step(gradients(), steps=2)
    for _ in range(2):
        other.forward(X, seed=4)
        other.step(gradients())
    assert not same(one.weights(), other.weights())


# first weights


def test_first_weights_repeat_and_hang_on_the_cells_and_the_seed() -> None:
    X = cells()
    first = make_bottom(job_of(), "shop", X).weights()
    assert same(first, make_bottom(job_of(), "shop", X.copy()).weights())
    assert same(first, make_bottom(job_of(), "shop", np.asfortranarray(X) + 1e-9).weights())  # encoded a bit off
    other = X.copy()
    other[3, 2] += 0.01
    for weights in (make_bottom(job_of(), "shop", other).weights(), make_bottom(job_of(seed=1), "shop", X).weights()):
        assert not np.array_equal(weights["0.weight"], first["0.weight"])
    assert np.abs(first["0.weight"]).max() <= 1 / np.sqrt(COLUMNS)  # PyTorch's own range
    assert np.abs(first["0.weight"]).max() > 0.5 / np.sqrt(COLUMNS)


def test_the_users_random_numbers_and_threads_are_left_alone() -> None:
    X = cells()
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    bottom = make_bottom(job_of(dropout=0.5, bottom_hidden=(8,)), "shop", X)
    bottom.forward(X, seed=1)
    bottom.step(gradients(), steps=3)
    load_bottom(job_of(dropout=0.5, bottom_hidden=(8,)), "shop", COLUMNS, bottom.weights())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads


# state


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
def test_a_restored_bottom_goes_on_bit_for_bit(optimizer: str) -> None:
    momentum = {"momentum": 0.9} if optimizer == "sgd" else {}
    job, X = job_of(optimizer=optimizer, bottom_hidden=(6,), dropout=0.3, **momentum), cells()

    def train(bottom: Bottom, numbers: range) -> Bottom:
        for number in numbers:
            bottom.forward(X, seed=number)
            bottom.step(gradients(number), steps=2)
        return bottom

    whole = train(make_bottom(job, "shop", X), range(4))
    half = train(make_bottom(job, "shop", X), range(2)).state()
    resumed = make_bottom(job, "shop", X)
    resumed.restore({name: array.copy() for name, array in half.items()})
    assert same(resumed.state(), half)
    assert same(train(resumed, range(2, 4)).state(), whole.state())


def test_a_loaded_bottom_gives_the_same_outputs() -> None:
    job, X = job_of(bottom_hidden=(6,), dropout=0.3), cells()
    bottom = make_bottom(job, "shop", X)
    bottom.forward(X, seed=0)
    bottom.step(gradients())
    again = load_bottom(job, "shop", COLUMNS, bottom.weights())
    np.testing.assert_array_equal(again.forward(X), bottom.forward(X))


def test_outputs_of_a_row_do_not_depend_on_the_others() -> None:
    X = cells(rows=700)
    bottom = make_bottom(job_of(bottom_hidden=(64,), units=16), "shop", X)
    together = bottom.forward(X)
    apart = np.concatenate([bottom.forward(X[start : start + 37]) for start in range(0, 700, 37)])
    np.testing.assert_array_equal(apart, together)
    assert bottom.forward(X[:0]).shape == (0, 16)


def test_weights_are_copies() -> None:
    X = cells()
    bottom = make_bottom(job_of(), "shop", X)
    kept = bottom.weights()
    before = kept["0.weight"].copy()
    bottom.forward(X, seed=0)
    bottom.step(gradients())
    np.testing.assert_array_equal(kept["0.weight"], before)
    assert not np.array_equal(bottom.weights()["0.weight"], before)


def test_weights_of_another_network_are_refused() -> None:
    weights = make_bottom(job_of(bottom_hidden=(6,)), "shop", cells()).weights()
    with pytest.raises(DataError, match="another network|is not among|is missing"):
        load_bottom(job_of(), "shop", COLUMNS, weights)
    with pytest.raises(DataError, match="another network"):
        load_bottom(job_of(bottom_hidden=(6,)), "shop", COLUMNS + 1, weights)


# modules of the user's own


def own_module() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, COLUMNS)), torch.nn.Conv1d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(12, UNITS)
    )


def test_any_module_of_the_right_shape_trains_and_the_users_stays_as_it_was() -> None:
    X, module = cells(), own_module()
    before = {name: array.clone() for name, array in module.state_dict().items()}
    bottom = make_bottom(job_of(), "shop", X, module=module)
    np.testing.assert_allclose(bottom.forward(X), module(torch.tensor(X, dtype=torch.float32)).detach(), atol=1e-6)
    bottom.forward(X, seed=0)
    bottom.step(gradients())
    assert all(torch.equal(array, before[name]) for name, array in module.state_dict().items())
    assert not torch.equal(bottom.module.state_dict()["1.weight"], before["1.weight"])
    again = load_bottom(job_of(), "shop", COLUMNS, bottom.weights(), module=own_module())
    np.testing.assert_array_equal(again.forward(X), bottom.forward(X))


def test_a_module_in_double_precision_stays_in_it() -> None:
    X, module = cells(), torch.nn.Linear(COLUMNS, UNITS).double()
    bottom = make_bottom(job_of(), "shop", X, module=module)
    expected = X @ module.weight.detach().numpy().T + module.bias.detach().numpy()
    np.testing.assert_allclose(bottom.forward(X), expected, atol=1e-14)
    bottom.forward(X, seed=0)
    bottom.step(gradients())
    assert bottom.weights()["weight"].dtype == np.float64


def test_buffers_are_state_too() -> None:
    job, X = job_of(), cells()
    module = torch.nn.Sequential(torch.nn.Linear(COLUMNS, UNITS), torch.nn.BatchNorm1d(UNITS))
    bottom = make_bottom(job, "shop", X, module=module)
    bottom.forward(X, seed=0)
    bottom.step(gradients())
    again = make_bottom(job, "shop", X, module=module)
    again.restore(bottom.state())
    np.testing.assert_array_equal(again.forward(X), bottom.forward(X))
    assert same(again.state(), bottom.state())


@pytest.mark.parametrize(
    "module", [torch.nn.Identity(), torch.nn.Linear(COLUMNS, UNITS).requires_grad_(False)], ids=["none", "frozen"]
)
def test_a_module_with_nothing_to_train_stays_as_it_is(module: torch.nn.Module) -> None:
    units = COLUMNS if isinstance(module, torch.nn.Identity) else UNITS
    X = cells()
    bottom = make_bottom(job_of(units=units), "shop", X, module=module)
    before = bottom.forward(X, seed=0)
    bottom.step(np.ones((ROWS, units)), steps=2)
    np.testing.assert_array_equal(bottom.forward(X), before)


@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        ("Linear", "got str, expected a torch.nn.Module"),
        (
            torch.nn.Linear(COLUMNS + 1, UNITS),
            r"does not take 512 rows of 5 columns: .*from \(rows, 5\)",
        ),
        (
            torch.nn.Linear(COLUMNS, UNITS + 1),
            r"got shape \(512, 4\) from 512 rows, expected floats",
        ),
        (torch.nn.LSTM(COLUMNS, UNITS), "got tuple from 512 rows"),
        (torch.nn.Linear(COLUMNS, UNITS, dtype=torch.bfloat16), "cannot be copied and kept.*float32"),
        (torch.nn.Flatten(0), r"got shape \(2560,\)"),
    ],
    ids=["no module", "other columns", "other units", "a tuple", "half precision", "no rows"],
)
def test_modules_that_do_not_fit_are_refused_in_one_line(module: object, complaint: str) -> None:
    with pytest.raises(ConfigError, match=f"bottom network of party 'shop': .*{complaint}") as caught:
        make_bottom(job_of(), "shop", cells(), module=module)
    assert "\n" not in str(caught.value)


def test_a_module_that_fails_on_a_batch_says_so() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(COLUMNS, UNITS), torch.nn.BatchNorm1d(UNITS))
    bottom = make_bottom(job_of(), "shop", cells(), module=module)
    with pytest.raises(ConfigError, match=r"bottom network of party 'shop': .*1 rows of 5 columns.*more than 1 value"):
        bottom.forward(cells()[:1], seed=0)
