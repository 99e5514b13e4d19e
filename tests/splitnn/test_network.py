"""The active party's network against torch's autograd, and what it says of modules of the user's own."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch.nn import functional

from parties.errors import ConfigError, DataError
from tests.splitnn.networks import CLASSES, TASKS, make_job, make_table, outputs_of
from vfl import label_dp
from vfl.job import Privacy, Task
from vfl.losses import Labels
from vfl.network import LabelScale, Network, load_network, make_network
from vfl.optim import Vector

UNITS = 5


def network_of(task: Task, y: Labels, *, columns: int = 3, module: object = None, **settings: Any) -> Network:
    job = make_job(task, units=UNITS, hidden=(6, 4), activation="tanh", **settings)
    return make_network(job, columns, outputs_of(task), y, module=module)


def z_of(rows: int, seed: int = 3) -> Vector:
    return np.random.default_rng(seed).normal(size=(rows, UNITS))


def estimates(task: Task, y: Labels) -> Labels:
    """Labels as label_dp_epsilon = log 3 leaves them."""
    return y * 2 - 0.5 if task == "binary" else np.where(y[:, None] == np.arange(CLASSES), 2.0, -0.5)


def torchs_loss(task: Task, outputs: torch.Tensor, y: torch.Tensor, mean: float, deviation: float) -> torch.Tensor:
    """The documented losses, by torch's own functions where it has them."""
    if task == "multiclass":
        if y.ndim == 2:
            return -(y * outputs.log_softmax(1)).sum(1)
        return functional.cross_entropy(outputs, y, reduction="none")
    scores = outputs.squeeze(1)
    if task == "binary":
        return functional.binary_cross_entropy_with_logits(scores, y, reduction="none")
    if task == "regression":
        return functional.mse_loss(scores, (y - mean) / deviation, reduction="none") / 2
    return functional.poisson_nll_loss(scores, y / mean, reduction="none")


CASES = [*TASKS, "binary, estimated", "multiclass, estimated"]


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("case", CASES)
def test_gradient_and_loss_are_autograds(case: str, weighted: bool) -> None:
    task: Task = case.split(",")[0]  # type: ignore[assignment]
    table, z = make_table(task, 20), z_of(20)
    y = estimates(task, table.y) if "estimated" in case else table.y
    network, weights = network_of(task, y), table.weights if weighted else None
    leaf = torch.tensor(z, dtype=torch.float32, requires_grad=True)
    outputs = network.top(leaf + network.own(torch.tensor(table.own, dtype=torch.float32)))
    target = torch.tensor(y) if y.dtype == np.int64 else torch.tensor(y, dtype=torch.float32)
    losses = torchs_loss(task, outputs, target, float(np.mean(y)), float(np.std(y)))
    weighted_losses = losses if weights is None else losses * torch.tensor(weights, dtype=torch.float32)
    torch.autograd.backward(weighted_losses.mean())
    step = network.step(z, table.own, y, weights, seed=1)
    assert leaf.grad is not None
    assert step.gradient.dtype == np.float64 and step.gradient.shape == z.shape
    np.testing.assert_allclose(step.gradient, leaf.grad.numpy(), rtol=1e-4, atol=1e-8)
    expected = in_the_labels_unit(task, weighted_losses, y, weights)
    assert step.loss == pytest.approx(expected, rel=1e-5)


def in_the_labels_unit(task: Task, losses: torch.Tensor, y: Labels, weights: Vector | None) -> float:
    mean = float(losses.detach().mean())
    if task == "regression":
        return mean * float(np.var(y))
    if task == "count":  # e^z - y z with z = o + log m, where inside it is e^o - (y / m) o
        factors = np.ones(len(y)) if weights is None else weights
        return mean * float(np.mean(y)) - float(np.log(np.mean(y)) * np.mean(y * factors))
    return mean


@pytest.mark.parametrize("task", TASKS)
def test_steps_lower_the_loss_and_predictions_fit(task: Task) -> None:
    table, z = make_table(task), z_of(120)
    network = network_of(task, table.y, learning_rate=0.01)
    before = network.losses(z, table.own, table.y)
    for number in range(150):
        network.step(z, table.own, table.y, None, seed=number)
    after, predicted = network.losses(z, table.own, table.y), network.predict(z, table.own)
    assert before.shape == after.shape == (120,) and after.mean() < before.mean()
    assert predicted.shape == ((120, CLASSES) if task == "multiclass" else (120,))
    if task == "multiclass":
        np.testing.assert_allclose(predicted.sum(axis=1), 1)
        assert (predicted.argmax(axis=1) == table.y).mean() > 0.6
    elif task == "binary":
        assert ((predicted > 0.5) == (table.y == 1)).mean() > 0.7
    else:
        assert np.corrcoef(predicted, table.y)[0, 1] > 0.7 and abs(predicted.mean() / table.y.mean() - 1) < 0.1


@pytest.mark.parametrize(
    ("task", "factor", "shift"), [("regression", 1e6, -3e7), ("count", 1000.0, 0.0)], ids=TASKS[2:]
)
def test_the_labels_unit_does_not_matter(task: Task, factor: float, shift: float) -> None:
    table, z = make_table(task, 40), z_of(40)
    scaled = table.y * factor + shift
    small, large = network_of(task, table.y), network_of(task, scaled)
    for number in range(5):
        left = small.step(z, table.own, table.y, None, seed=number)
        right = large.step(z, table.own, scaled, None, seed=number)
        np.testing.assert_allclose(left.gradient, right.gradient, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(large.predict(z, table.own), small.predict(z, table.own) * factor + shift, rtol=1e-4)


def test_the_scale_is_that_of_the_weighted_labels() -> None:
    y, weights = np.array([1.0, 2.0, 6.0]), np.array([2.0, 2.0, 4.0])
    job = make_job("regression")
    label = make_network(job, 1, 1, y, weights=weights).label
    assert label.mean == pytest.approx(3.75) and label.deviation == pytest.approx(np.sqrt(5.1875))
    assert make_network(job, 1, 1, np.full(3, 4.0)).label == LabelScale("regression", 4.0, 1.0)
    assert 0 < make_network(make_job("count"), 1, 1, np.zeros(3)).label.mean < 1e-6
    assert make_network(make_job("binary"), 1, 1, y).label == LabelScale("binary")


def test_first_weights_follow_the_seed_and_the_columns_of_all() -> None:
    y = make_table().y

    def weights(seed: int, fan_in: int | None = None) -> dict[str, Any]:
        return make_network(make_job(seed=seed, units=UNITS), 40, 1, y, fan_in=fan_in).weights()

    first, again, other, wide = weights(1), weights(1), weights(2), weights(1, fan_in=4000)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert all(not np.array_equal(first[name], other[name]) for name in first if name != "label")
    assert 0.9 / np.sqrt(40) < np.abs(first["own.weight"]).max() <= 1 / np.sqrt(40)
    assert np.abs(wide["own.weight"]).max() <= 1 / np.sqrt(4000)
    assert np.array_equal(first["top.1.weight"], wide["top.1.weight"])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop", "adagrad"])
def test_goes_on_bit_for_bit(optimizer: str) -> None:
    table, z = make_table(), z_of(120)
    settings: dict[str, Any] = {"optimizer": optimizer, "dropout": 0.3, "momentum": 0.9 if optimizer == "sgd" else 0.0}
    whole, first, second = (network_of("binary", table.y, **settings) for _ in range(3))
    steps = [whole.step(z, table.own, table.y, None, seed=number) for number in range(6)]
    for number in range(3):
        first.step(z, table.own, table.y, None, seed=number)
    second.restore(first.state())
    for number in range(3, 6):
        step = second.step(z, table.own, table.y, None, seed=number)
        assert step.loss == steps[number].loss and np.array_equal(step.gradient, steps[number].gradient)
    left, right = whole.state(), second.state()
    assert left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def test_dropout_follows_the_seed_and_leaves_predictions_alone() -> None:
    table, z = make_table(), z_of(120)

    def gradient(seed: int) -> Vector:
        return network_of("binary", table.y, dropout=0.5).step(z, table.own, table.y, None, seed=seed).gradient

    assert np.array_equal(gradient(1), gradient(1)) and not np.array_equal(gradient(1), gradient(2))
    network = network_of("binary", table.y, dropout=0.5)
    assert np.array_equal(network.predict(z, table.own), network.predict(z, table.own))


def test_local_steps_keep_z_and_report_the_first_gradient() -> None:
    table, z = make_table(), z_of(120)
    one, many, single = (network_of("binary", table.y, optimizer="sgd", learning_rate=0.1) for _ in range(3))
    first = one.step(z, table.own, table.y, None, seed=1)
    stepped = many.step(z, table.own, table.y, None, seed=1, steps=3)
    assert stepped.loss == first.loss and np.array_equal(stepped.gradient, first.gradient)
    for _ in range(3):
        single.step(z, table.own, table.y, None, seed=1)
    left, right = many.weights(), single.weights()
    assert all(np.array_equal(left[name], right[name]) for name in left)


def test_the_users_torch_is_left_alone() -> None:
    table, z, network = make_table(), z_of(120), network_of("binary", make_table().y, dropout=0.5)
    random_state, threads = torch.get_rng_state(), torch.get_num_threads()
    network.step(z, table.own, table.y, None, seed=1)
    network.predict(z, table.own)
    network_of("binary", table.y)
    assert torch.equal(torch.get_rng_state(), random_state) and torch.get_num_threads() == threads


class TestPredictions:
    @pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "sigmoid"])
    def test_do_not_depend_on_the_rows_beside_a_row(self, activation: Any) -> None:
        job = make_job(units=16, activation=activation)
        rng = np.random.default_rng(1)
        z, X = rng.normal(size=(1100, 16)), rng.normal(size=(1100, 3))
        network = make_network(job, 3, 1, make_table().y)
        whole, order = network.predict(z, X), rng.permutation(1100)
        assert np.array_equal(network.predict(z[order], X[order]), whole[order])
        for row in (0, 511, 512, 1099):
            assert np.array_equal(network.predict(z[row : row + 1], X[row : row + 1]), whole[row : row + 1])
        assert network.predict(z[:0], X[:0]).shape == (0,)

    @pytest.mark.parametrize("task", TASKS)
    def test_come_back_with_the_weights(self, task: Task) -> None:
        table, z = make_table(task), z_of(120)
        network = network_of(task, table.y)
        network.step(z, table.own, table.y, None, seed=1)
        job = make_job(task, seed=99, units=UNITS, hidden=(6, 4), activation="tanh")
        loaded = load_network(job, 3, outputs_of(task), network.weights())
        assert np.array_equal(loaded.predict(z, table.own), network.predict(z, table.own))

    def test_without_own_columns(self) -> None:
        table, z = make_table(), z_of(120)
        network = network_of("binary", table.y, columns=0)
        bias = network.weights()["own.bias"].copy()
        network.step(z, table.own[:, :0], table.y, None, seed=1)
        assert network.weights()["own.weight"].shape == (UNITS, 0)
        assert not np.array_equal(network.weights()["own.bias"], bias)
        loaded = load_network(make_job(units=UNITS, hidden=(6, 4), activation="tanh"), 0, 1, network.weights())
        assert np.array_equal(loaded.predict(z, table.own[:, :0]), network.predict(z, table.own[:, :0]))

    def test_of_a_layer_that_is_narrower_than_a_block_equal_plain_numpy(self) -> None:
        table, z = make_table(rows=600), z_of(600)
        job = make_job(units=UNITS, hidden=(), activation="relu")
        network = make_network(job, 3, 1, table.y)
        w = network.weights()
        first = np.maximum(z + table.own @ w["own.weight"].T + w["own.bias"], 0)
        outputs = first @ w["top.1.weight"].T + w["top.1.bias"]
        np.testing.assert_allclose(network.predict(z, table.own), 1 / (1 + np.exp(-outputs[:, 0])), rtol=1e-5)


@pytest.mark.parametrize("damage", ["no label", "label of text", "scale of 0", "other widths", "other columns"])
def test_weights_of_another_network_are_refused(damage: str) -> None:
    network, columns = network_of("regression", make_table("regression").y), 3
    arrays: dict[str, Any] = network.weights()
    job = make_job("regression", units=UNITS, hidden=(6, 4))
    if damage == "no label":
        del arrays["label"]
    elif damage == "label of text":
        arrays["label"] = np.array(["a", "b"])
    elif damage == "scale of 0":
        arrays["label"] = np.array([1.0, 0.0])
    elif damage == "other widths":
        job = make_job("regression", units=UNITS, hidden=(6, 5))
    else:
        columns = 2
    with pytest.raises(DataError) as caught:
        load_network(job, columns, 1, arrays)
    assert "\n" not in str(caught.value)


class Odd(torch.nn.Module):
    """Gives back whatever it is told to."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(UNITS, 1)
        self.answer = answer

    def forward(self, z: torch.Tensor) -> Any:
        return self.answer(self, z)


class TestOwnTop:
    def test_gets_the_first_layer_before_any_activation(self) -> None:
        table, z = make_table(), z_of(120)
        network = network_of("binary", table.y, module=Odd(lambda self, z: z.sum(dim=1)))
        w = network.weights()
        first = z + table.own @ w["own.weight"].T + w["own.bias"]
        np.testing.assert_allclose(network.predict(z, table.own), 1 / (1 + np.exp(-first.sum(axis=1))), rtol=1e-4)

    def test_is_copied_and_begins_with_its_own_weights(self) -> None:
        module = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(UNITS, 1))
        kept = {name: value.clone() for name, value in module.state_dict().items()}
        table, z = make_table(), z_of(120)
        network = network_of("binary", table.y, module=module)
        assert np.array_equal(network.weights()["top.1.weight"], kept["1.weight"].numpy())
        network.step(z, table.own, table.y, None, seed=1)
        assert not np.array_equal(network.weights()["top.1.weight"], kept["1.weight"].numpy())
        assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())
        assert all(parameter.grad is None for parameter in module.parameters())

    def test_may_have_no_weights(self) -> None:
        table, z = make_table("multiclass"), z_of(120)[:, :CLASSES]
        job = make_job("multiclass", units=CLASSES)
        network = make_network(job, 3, CLASSES, table.y, module=torch.nn.Identity())
        losses = [network.step(z, table.own, table.y, None, seed=i).loss for i in range(30)]
        assert losses[-1] < losses[0] and network.predict(z, table.own).shape == (120, CLASSES)

    def test_keeps_its_dtype(self) -> None:
        module = torch.nn.Linear(UNITS, 1, dtype=torch.float64)
        table, z = make_table(), z_of(120)
        network = network_of("binary", table.y, module=module)
        assert network.step(z, table.own, table.y, None, seed=1).gradient.shape == z.shape
        assert {array.dtype for array in network.weights().values()} == {np.dtype("float64")}

    def test_with_buffers_and_lazy_layers_goes_on_bit_for_bit(self) -> None:
        module = torch.nn.Sequential(torch.nn.BatchNorm1d(UNITS), torch.nn.LazyLinear(4), torch.nn.ELU())
        module.append(torch.nn.Linear(4, 1))
        table, z = make_table(), z_of(120)
        whole, second = (network_of("binary", table.y, module=module) for _ in range(2))
        whole.step(z, table.own, table.y, None, seed=0)
        second.restore(whole.state())
        job = make_job(units=UNITS)
        loaded = load_network(job, 3, 1, whole.weights(), module=module)
        assert np.array_equal(loaded.predict(z, table.own), whole.predict(z, table.own))
        left, right = (net.step(z, table.own, table.y, None, seed=1) for net in (whole, second))
        assert left.loss == right.loss and np.array_equal(left.gradient, right.gradient)

    def test_that_does_not_look_at_z_has_a_gradient_of_zeros(self) -> None:
        table, z = make_table(), z_of(120)
        network = network_of("binary", table.y, module=Odd(lambda self, z: self.layer(torch.ones_like(z))))
        assert not network.step(z, table.own, table.y, None, seed=1).gradient.any()

    @pytest.mark.parametrize(
        ("module", "text"),
        [
            (lambda z: z, "got function, expected a torch.nn.Module"),
            (Odd(lambda self, z: z), r"got \(2, 5\) for 2 rows, expected a tensor of shape \(rows, 1\)"),
            (Odd(lambda self, z: z.sum()), r"got \(\) for 2 rows"),
            (Odd(lambda self, z: None), "got NoneType for 2 rows"),
            (Odd(lambda self, z: z[:1, :1]), r"got \(1, 1\) for 2 rows"),
            (torch.nn.Linear(9, 1), "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
            (Odd(lambda self, z: 1 / 0), "ZeroDivisionError: division by zero"),
            (Odd(lambda self, z: self.layer(z).detach()), "no gradient"),
            (torch.nn.Linear(UNITS, 1, dtype=torch.bfloat16), "dtype that numpy lacks"),
        ],
        ids=["function", "width", "one number", "nothing", "rows", "inputs", "error", "detached", "bfloat16"],
    )
    def test_that_does_not_fit_is_refused(self, module: object, text: str) -> None:
        with pytest.raises(ConfigError, match=text) as caught:
            network_of("binary", make_table().y, module=module)
        assert str(caught.value).startswith("top, got") and "\n" not in str(caught.value)

    def test_that_fails_later_is_named_too(self) -> None:
        network = network_of(
            "binary", make_table().y, module=torch.nn.Sequential(torch.nn.BatchNorm1d(UNITS), torch.nn.Linear(UNITS, 1))
        )
        with pytest.raises(
            ConfigError, match="top, got an error for 1 rows of 5 units: ValueError: Expected more than"
        ):
            network.step(z_of(1), np.zeros((1, 3)), np.ones(1), None, seed=1)


class TestCounts:
    """e^o goes on as a straight line far beyond the counts that there are."""

    def network(self, y: Labels) -> Network:
        return make_network(make_job("count", units=1), 0, 1, y, module=torch.nn.Identity())

    def slopes(self, network: Network, outputs: list[float], y: float) -> list[float]:
        """dL/do of rows with these outputs and the same count."""
        bias = float(network.weights()["own.bias"][0])
        z = np.array(outputs)[:, None] - bias
        step = network.step(z, np.zeros((len(z), 0)), np.full(len(z), y), None, seed=1)
        return (step.gradient[:, 0] * len(z)).tolist()

    def test_slopes_are_those_of_the_poisson_loss_below_and_constant_above(self) -> None:
        y = np.array([1.0, 3.0])
        assert self.network(y).label.steepest == 100.0
        outputs = [-3.0, 0.0, 2.0, 4.6, 4.7, 50.0, 6e4]
        expected = [*(np.exp(o) - 1.5 for o in outputs[:4]), *[100 - 1.5] * 3]
        np.testing.assert_allclose(self.slopes(self.network(y), outputs, 3.0), expected, rtol=2e-3)

    def test_the_line_is_steeper_than_any_training_count(self) -> None:
        y = np.array([*[0.0] * 999, 1000.0])
        network = self.network(y)
        assert network.label.steepest == 2000.0
        assert self.slopes(network, [20.0], 1000.0)[0] == pytest.approx(1000.0)  # it still falls towards the count

    def test_losses_are_told_without_the_line(self) -> None:
        network = self.network(np.array([1.0, 3.0]))
        z = np.array([[6.0]]) - float(network.weights()["own.bias"][0])
        score = 6.0 + np.log(2.0)
        expected = np.exp(score) - 3 * score
        assert network.losses(z, np.zeros((1, 0)), np.array([3.0]))[0] == pytest.approx(expected, rel=1e-5)
        assert network.step(z, np.zeros((1, 0)), np.array([3.0]), None, seed=1).loss == pytest.approx(
            expected, rel=1e-5
        )


class TestRandomisedClasses:
    """Estimates of classes are judged by the probability of the class that was drawn."""

    def network(self, task: Task, y: Labels, epsilon: float) -> Network:
        job = msgspec.structs.replace(make_job(task, units=outputs_of(task)), privacy=Privacy(label_dp_epsilon=epsilon))
        return make_network(job, 0, outputs_of(task), y, module=torch.nn.Identity())

    @pytest.mark.parametrize("epsilon", [0.1, 1.0, 5.0, 50.0], ids=str)
    @pytest.mark.parametrize("task", ["binary", "multiclass"])
    def test_gradient_is_that_of_the_drawn_classes_probability(self, task: Task, epsilon: float) -> None:
        classes = max(2, outputs_of(task))
        drawn = np.random.default_rng(1).integers(0, classes, 30)
        absent, present = label_dp.estimates(classes, epsilon)
        shown = np.where(drawn[:, None] == np.arange(classes), present, absent)
        y = shown if task == "multiclass" else shown[:, 1]
        network = self.network(task, y, epsilon)
        outputs = np.random.default_rng(2).normal(size=(30, outputs_of(task))) * 3
        leaf = torch.tensor(outputs, requires_grad=True)
        scores = leaf if task == "multiclass" else torch.cat([torch.zeros((30, 1)), leaf], dim=1)
        keep, other = (value / (np.expm1(epsilon) + classes) for value in (np.exp(epsilon), 1.0))
        chances = scores.softmax(1) @ torch.tensor((keep - other) * np.eye(classes) + other)
        torch.autograd.backward(-chances[torch.arange(30), torch.tensor(drawn)].log().mean())
        assert leaf.grad is not None
        step = network.step(outputs - network.weights()["own.bias"], np.zeros((30, 0)), y, None, seed=1)
        np.testing.assert_allclose(step.gradient, leaf.grad.numpy(), rtol=1e-3, atol=1e-7)

    def test_losses_told_are_the_unbiased_ones(self) -> None:
        y = np.where(np.arange(20) % 2, 1.5, -0.5)
        network, z = self.network("binary", y, float(np.log(3))), np.random.default_rng(1).normal(size=(20, 1))
        o = (z + network.weights()["own.bias"])[:, 0]
        expected = np.logaddexp(0, o) - y * o
        np.testing.assert_allclose(network.losses(z, np.zeros((20, 0)), y), expected, rtol=1e-5, atol=1e-6)
        assert network.step(z, np.zeros((20, 0)), y, None, seed=1).loss == pytest.approx(expected.mean(), rel=1e-5)

    def test_true_labels_are_taken_as_they_are(self) -> None:
        assert self.network("binary", np.array([0.0, 1.0]), 1.0).label.epsilon is None
        assert self.network("multiclass", np.array([0, 1, 2]), 1.0).label.epsilon is None
        assert self.network("binary", np.array([-0.5, 1.5]), 1.0).label.epsilon == 1.0

    def test_learnt_by_heart_they_do_not_run_away(self) -> None:
        drawn = np.random.default_rng(1).integers(0, CLASSES, 40)
        absent, present = label_dp.estimates(CLASSES, 1.0)
        y = np.where(drawn[:, None] == np.arange(CLASSES), present, absent)
        job = msgspec.structs.replace(
            make_job("multiclass", units=UNITS, learning_rate=0.05), privacy=Privacy(label_dp_epsilon=1.0)
        )
        network, z = make_network(job, 0, CLASSES, y), z_of(40)
        steps = [network.step(z, np.zeros((40, 0)), y, None, seed=number) for number in range(300)]
        assert np.abs(steps[-1].gradient).max() < 1 / 40  # of the linear loss they stay at up to present / 40 each
        assert network.losses(z, np.zeros((40, 0)), y).mean() > -100
