"""A silo's own model: gradients against numeric differences, autograd and each other; local epochs; scales."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.errors import ConfigError, DataError
from parties.local import run_local
from parties.wire import Active, Coordinator, LabelSilo
from vfl.job import Job, Member, Privacy, SplitNN, Training
from vfl.local_models import (
    GlmScale,
    InOnePlace,
    LocalGlm,
    agree_glm_scale,
    local_batches,
    relative_weights,
)
from vfl.local_network import (
    LocalNetwork,
    agree_label_scale,
    make_local_network,
    predict_with,
    rebuild,
)
from vfl.losses import FAMILIES
from vfl.network import LabelScale
from vfl.optim import Vector
from vfl.siblings import siblings_of

SILOS = ("clinics.north", "clinics.south", "clinics.west")
TASKS = {"logistic": "binary", "linear": "regression", "poisson": "count", "softmax": "multiclass"}
NETWORK: dict[str, Any] = {"units": 4, "hidden": (3,), "activation": "tanh", "batch_size": 8}


def make_job(model: str, task: str | None = None, privacy: Privacy | None = None, **training: Any) -> Job:
    members = tuple(Member(name=name, role="active") for name in SILOS)
    form = {"splitnn": SplitNN(**(NETWORK | training))} if model == "splitnn" else {"training": Training(**training)}
    return Job(
        name="test", model=model, task=task or TASKS[model], parties=members, privacy=privacy or Privacy(), **form
    )


def draw_rows(task: str, n: int = 40, columns: int = 3, seed: int = 0) -> tuple[Vector, Any, Vector]:
    """Columns, labels and weights of mean 1."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(n, columns))
    y: Any = {
        "binary": (random.uniform(size=n) < 0.4).astype(np.float64),
        "regression": random.normal(3, 2, n),
        "count": random.poisson(2, n).astype(np.float64),
        "multiclass": random.integers(0, 3, n),
    }[task]
    weights = random.uniform(size=n) + 0.5
    return X, y, weights * (n / weights.sum())


def make_glm(model: str, *, intercept: bool = True, weighted: bool = True, **training: Any) -> LocalGlm:
    job = make_job(model, fit_intercept=intercept, **training)
    X, y, weights = draw_rows(job.task)
    relative = weights if weighted else None
    scale = agree_glm_scale(job, y, relative, 3 if model == "softmax" else 1, InOnePlace())
    return LocalGlm(job, SILOS[0], X, scale.to_targets(y), relative, scale)


def make_net(task: str, *, weighted: bool = True, module: object = None, **training: Any) -> LocalNetwork:
    job = make_job("splitnn", task, **training)
    X, y, weights = draw_rows(task)
    relative = weights if weighted else None
    label = agree_label_scale(job, y, relative, InOnePlace())
    return make_local_network(job, SILOS[0], X, y, relative, label, 3 if task == "multiclass" else 1, module=module)


def numeric(value: Any, weights: list[Vector], array: int, entry: tuple[int, ...]) -> float:
    """A central difference."""
    ends = []
    for step in (1e-6, -1e-6):
        moved = [np.array(one) for one in weights]
        moved[array][entry] += step
        ends.append(value(moved))
    return float(ends[0] - ends[1]) / 2e-6


def near(model: LocalGlm | LocalNetwork, seed: int = 1) -> list[Vector]:
    random = np.random.default_rng(seed)
    return [array + random.normal(0, 0.3, array.shape) for array in model.start()]


class TestLinearModels:
    @pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "plain"])
    @pytest.mark.parametrize("intercept", [True, False], ids=["intercept", "none"])
    @pytest.mark.parametrize("model", TASKS)
    def test_gradients_are_the_losses_slopes(self, model: str, intercept: bool, weighted: bool) -> None:
        glm = make_glm(model, intercept=intercept, weighted=weighted)
        weights = near(glm)
        gradient = glm.gradient(weights)[1]
        assert [array.shape for array in gradient] == [array.shape for array in weights]
        for array, found in enumerate(gradient):
            for entry in np.ndindex(found.shape):
                slope = numeric(lambda moved: glm.gradient(moved)[0], weights, array, entry)
                assert found[entry] == pytest.approx(slope, abs=2e-5)

    @pytest.mark.parametrize("model", TASKS)
    def test_parts_of_the_rows_add_up(self, model: str) -> None:
        glm = make_glm(model)
        weights = near(glm)
        loss, gradient = glm.gradient(weights)
        parts = [glm.gradient(weights, rows) for rows in np.array_split(np.arange(glm.rows), [0, 7, 8])]
        assert sum(part[0] for part in parts) == pytest.approx(loss, rel=1e-12)
        for number, whole in enumerate(gradient):
            np.testing.assert_allclose(sum(part[1][number] for part in parts), whole, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("model", TASKS)
    def test_zeros_are_the_best_constant(self, model: str) -> None:
        """The offset makes the intercept's gradient vanish at the start, where all columns are left out."""
        glm = make_glm(model)
        assert all(not array.any() for array in glm.start())
        np.testing.assert_allclose(glm.gradient(glm.start())[1][1], 0, atol=1e-10)

    @pytest.mark.parametrize("intercept", [True, False], ids=["intercept", "none"])
    def test_unfolded_weights_score_in_the_labels_unit(self, intercept: bool) -> None:
        glm = make_glm("linear", intercept=intercept)
        weights = near(glm)
        coefficients, *rest = glm.scale.unfold(weights)
        scores = glm.X @ coefficients + (rest[0] if rest else 0.0)
        inner = glm.X @ weights[0] + glm.scale.offset + (weights[1] if intercept else 0.0)
        np.testing.assert_allclose(scores, inner * glm.scale.deviation, rtol=1e-12)
        assert glm.names == (("coefficients", "intercept") if intercept else ("coefficients",))

    def test_the_penalty_is_l2_of_the_coefficients(self) -> None:
        assert make_glm("logistic", l2=0.25).penalty == (0.25, 0.0)
        assert make_glm("logistic", l2=0.25, intercept=False).penalty == (0.25,)

    def test_one_full_batch_is_a_step_of_gradient_descent(self) -> None:
        glm = make_glm("logistic", l2=0.1, learning_rate=0.5, batch_size=64, aggregation="fedavg")
        start = near(glm)
        loss, new = glm.train(start, 1)
        expected, gradient = glm.gradient(start)
        assert loss == expected
        np.testing.assert_allclose(new[0], start[0] - 0.5 * (gradient[0] / 40 + 0.1 * start[0]), rtol=1e-12)
        np.testing.assert_allclose(new[1], start[1] - 0.5 * gradient[1] / 40, rtol=1e-12)

    def test_local_epochs_go_on_where_the_last_one_ended(self) -> None:
        lines = {"learning_rate": 0.3, "batch_size": 16, "aggregation": "fedavg"}
        one, two = make_glm("poisson", **lines), make_glm("poisson", local_epochs=2, **lines)
        assert two.train(one.start(), 1)[1][0].tolist() != one.train(one.start(), 1)[1][0].tolist()
        np.testing.assert_array_equal(two.train(one.start(), 1)[1][0], two.train(one.start(), 1)[1][0])

    def test_the_proximal_term_holds_weights_back(self) -> None:
        lines = {"learning_rate": 0.3, "batch_size": 8, "local_epochs": 5, "aggregation": "fedavg"}
        free, held = make_glm("logistic", **lines), make_glm("logistic", proximal=2.0, **lines)
        start = free.start()
        assert np.linalg.norm(held.train(start, 1)[1][0]) < 0.7 * np.linalg.norm(free.train(start, 1)[1][0])

    def test_a_training_that_diverges_ends_in_one_line(self) -> None:
        glm = make_glm("poisson", learning_rate=100.0, local_epochs=50, aggregation="fedavg")
        with (
            np.errstate(all="ignore"),
            pytest.raises(DataError, match="training diverged in round 3.*learning_rate") as error,
        ):
            glm.train(glm.start(), 3)
        assert "\n" not in str(error.value)


class TestBatches:
    @given(rows=st.integers(1, 60), size=st.integers(1, 20), epochs=st.integers(1, 3))
    @settings(max_examples=40, deadline=None)
    def test_an_epoch_has_every_row_once(self, rows: int, size: int, epochs: int) -> None:
        job = make_job("logistic", batch_size=size, local_epochs=epochs, aggregation="fedavg")
        batches = list(local_batches(job, SILOS[0], rows, 1))
        assert sorted(np.concatenate(batches).tolist()) == sorted(list(range(rows)) * epochs)
        assert max(map(len, batches)) <= size and max(map(len, batches)) - min(map(len, batches)) <= 1

    def test_every_round_and_silo_has_an_order_of_its_own(self) -> None:
        job = make_job("logistic", batch_size=100, aggregation="fedavg")
        orders = [next(local_batches(job, name, 50, number)).tolist() for name in SILOS for number in (1, 2)]
        assert len({tuple(order) for order in orders}) == 6


class TestScales:
    @pytest.mark.parametrize("model", TASKS)
    def test_silos_agree_on_those_of_all_rows(self, model: str) -> None:
        job, outputs = make_job(model), 3 if model == "softmax" else 1
        X, y, weights = draw_rows(job.task)
        cuts = np.split(np.arange(40), [5, 30])
        raw = weights * 7.5

        def play(name: str, rows: Any) -> Any:
            def silo(endpoint: Any) -> tuple[Vector, GlmScale]:
                siblings = siblings_of(endpoint, "test")
                relative = relative_weights(raw[rows], siblings)
                assert relative is not None
                return relative, agree_glm_scale(job, y[rows], relative, outputs, siblings)

            return silo

        plays: dict[str, Any] = {name: play(name, rows) for name, rows in zip(SILOS, cuts, strict=True)}
        roles = {"coordinator": Coordinator, SILOS[0]: Active, SILOS[1]: LabelSilo, SILOS[2]: LabelSilo}
        results = run_local(plays | {"coordinator": lambda endpoint: None}, roles=roles)
        pooled = agree_glm_scale(job, y, weights, outputs, InOnePlace())
        for name in SILOS:
            np.testing.assert_allclose(results[name][1].offset, pooled.offset, rtol=1e-12)
            assert results[name][1].deviation == pytest.approx(pooled.deviation, rel=1e-12)
            np.testing.assert_array_equal(results[name][1].offset, results[SILOS[0]][1].offset)
        joined = np.concatenate([results[name][0] for name in SILOS])
        np.testing.assert_allclose(joined, weights, rtol=1e-12)

    @pytest.mark.parametrize(
        ("weights", "what"), [([0.0, 0.0], "all zero"), ([1.0, 1e40], "beyond")], ids=["zeros", "huge"]
    )
    def test_weights_that_weigh_nothing_are_refused(self, weights: list[float], what: str) -> None:
        with pytest.raises(DataError, match=what):
            relative_weights(np.array(weights), InOnePlace())

    def test_labels_that_are_all_the_same_teach_a_network_nothing(self) -> None:
        job = make_job("splitnn", "regression")
        with pytest.raises(DataError, match="all training rows are the same"):
            agree_label_scale(job, np.full(5, 3.0), None, InOnePlace())

    def test_of_counts_the_steepest_slope_covers_twice_the_largest(self) -> None:
        y = np.array([0.0, *[1.0] * 998, 1000.0])
        label = agree_label_scale(make_job("splitnn", "count"), y, None, InOnePlace())
        assert label.mean == pytest.approx(y.mean())
        assert 2 * 1000 / label.mean <= label.steepest <= 4 * 1000 / label.mean


class TestNetworks:
    @pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "plain"])
    @pytest.mark.parametrize("task", TASKS.values())
    def test_gradients_are_the_minimised_losses_slopes(self, task: str, weighted: bool) -> None:
        net = make_net(task, weighted=weighted)
        weights = near(net)
        loss, gradient = net.gradient(weights)
        unit = {"regression": net.network.label.deviation**2, "count": net.network.label.mean}.get(task, 1.0)
        relative = net.sample_weights if net.sample_weights is not None else np.ones(net.rows)

        def value(moved: list[Vector]) -> float:
            return float((net.losses(moved) * relative).sum()) / unit

        assert loss / unit == pytest.approx(value(weights), rel=1e-12)
        for array, found in enumerate(gradient):
            for entry in list(np.ndindex(found.shape))[:3]:
                assert found[entry] == pytest.approx(numeric(value, weights, array, entry), abs=2e-5)

    def test_parts_of_the_rows_add_up_and_no_rows_are_zeros(self) -> None:
        net = make_net("binary")
        weights = near(net)
        whole, none = net.gradient(weights)[1], net.gradient(weights, np.zeros(0, dtype=np.int64))
        parts = [net.gradient(weights, rows)[1] for rows in np.array_split(np.arange(net.rows), 3)]
        for number, array in enumerate(whole):
            np.testing.assert_allclose(sum(part[number] for part in parts), array, rtol=1e-9, atol=1e-12)
            assert none[1][number].shape == array.shape and not none[1][number].any()
        assert none[0] == 0.0

    def test_begins_as_a_network_that_is_not_divided(self) -> None:
        from vfl.network import make_network

        net = make_net("binary")
        known = make_network(net.job, 3, 1, net.y).weights()
        assert net.names == ("own.weight", "own.bias", "top.1.weight", "top.1.bias", "top.3.weight", "top.3.bias")
        for name, array in zip(net.names, net.start(), strict=True):
            assert array.dtype == np.float64
            np.testing.assert_array_equal(array, known[name].astype(np.float64))

    def test_one_local_epoch_equals_torchs_own_steps(self) -> None:
        net = make_net("binary", optimizer="adam", learning_rate=0.05, proximal=0.2, aggregation="fedavg", units=2)
        start = near(net)
        found = net.train(start, 4)[1]
        parameters = [torch.nn.Parameter(torch.from_numpy(np.array(array))) for array in start]
        optimizer = torch.optim.Adam(parameters, lr=0.05)
        assert net.sample_weights is not None
        for rows in local_batches(net.job, net.silo, net.rows, 4):
            hidden = torch.tanh(torch.from_numpy(net.X[rows]) @ parameters[0].T + parameters[1])
            hidden = torch.tanh(hidden @ parameters[2].T + parameters[3])
            z = (hidden @ parameters[4].T + parameters[5])[:, 0]
            losses = torch.nn.functional.binary_cross_entropy_with_logits(
                z, torch.from_numpy(net.y[rows]), reduction="none"
            )
            near_start = sum(
                ((one - torch.from_numpy(begun)) ** 2).sum() for one, begun in zip(parameters, start, strict=True)
            )
            optimizer.zero_grad()
            torch.autograd.backward((losses * torch.from_numpy(net.sample_weights[rows])).mean() + 0.1 * near_start)
            optimizer.step()
        for array, parameter in zip(found, parameters, strict=True):
            np.testing.assert_allclose(array, parameter.detach().numpy(), rtol=1e-9, atol=1e-12)

    def test_the_same_round_ends_the_same_with_dropout_too(self) -> None:
        net = make_net("regression", dropout=0.5, aggregation="fedavg", local_epochs=2)
        start = net.start()
        first, again, other = net.train(start, 1)[1], net.train(start, 1)[1], net.train(start, 2)[1]
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert not np.array_equal(first[0], other[0])
        rows = np.arange(20)
        assert np.array_equal(net.gradient(start, rows)[1][0], net.gradient(start, rows)[1][0])
        assert net.gradient(start, rows)[0] != net.gradient(near(net), rows)[0]

    @pytest.mark.parametrize("task", TASKS.values())
    def test_kept_weights_predict_the_same(self, task: str) -> None:
        net = make_net(task)
        weights, label = near(net), net.network.label
        kept = dict(zip(net.names, weights, strict=True))
        scale = np.array([label.mean, label.deviation])
        found = predict_with(net.job, 3, net.network.outputs, kept, scale, net.X[:7])
        np.testing.assert_array_equal(found, net.predict(weights, net.X)[:7])
        assert (found.shape == (7, 3)) if task == "multiclass" else (found.shape == (7,))
        family = next(family for family in FAMILIES.values() if family.task == task)
        assert family.row_losses is label.family.row_losses

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            (lambda kept: kept.pop("own.bias"), "own.bias is missing or too many"),
            (lambda kept: kept.update({"own.bias": np.zeros(5)}), "own.bias is float64 of shape"),
            (lambda kept: kept.update({"own.bias": np.zeros(4, dtype=np.float32)}), "own.bias is float32"),
        ],
        ids=["missing", "shape", "dtype"],
    )
    def test_weights_of_another_network_are_refused(self, change: Any, what: str) -> None:
        net = make_net("binary")
        kept = dict(zip(net.names, net.start(), strict=True))
        change(kept)
        with pytest.raises(DataError, match=what):
            rebuild(net.job, 3, 1, kept, np.array([0.0, 1.0]))

    @pytest.mark.parametrize("label", [[0.0], [0.0, 0.0], [np.nan, 1.0]], ids=["short", "zero", "nan"])
    def test_a_damaged_scale_is_refused(self, label: list[float]) -> None:
        net = make_net("regression")
        kept = dict(zip(net.names, net.start(), strict=True))
        with pytest.raises(DataError, match="label is damaged"):
            rebuild(net.job, 3, 1, kept, np.array(label))


class TestOwnModules:
    def test_the_users_layers_are_averaged_too(self) -> None:
        module = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(4, 1))
        net = make_net("binary", module=module)
        assert net.names == ("own.weight", "own.bias", "top.1.weight", "top.1.bias")
        np.testing.assert_array_equal(net.start()[2], module[1].weight.detach().numpy().astype(np.float64))
        assert module[1].weight.dtype == torch.float32  # theirs is left alone
        before = net.start()
        net.train(before, 1)
        assert all(np.array_equal(a, b) for a, b in zip(before, net.start(), strict=True))

    def test_buffers_are_refused(self) -> None:
        module = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
        with pytest.raises(ConfigError, match="buffers.*expected parameters only"):
            make_net("binary", module=module)


def test_a_network_in_one_place_takes_the_batches_of_all_rows() -> None:
    """One epoch of `fit` is one of gradient sums over the same batches, stepped by hand."""
    from vfl.epochs import draw_batches

    net = make_net("binary", optimizer="sgd", learning_rate=0.1)
    weights = net.start()
    for batch in draw_batches(net.rows, 8, net.job.seed, 0):
        gradient = net.gradient(weights, batch)[1]
        weights = [array - 0.1 * found / len(batch) for array, found in zip(weights, gradient, strict=True)]
    for array, found in zip(weights, net.fit(1), strict=True):
        np.testing.assert_allclose(found, array, rtol=1e-10, atol=1e-13)


def test_models_are_what_averaging_expects() -> None:
    glm, net = make_glm("logistic"), make_net("binary")
    assert glm.rows == net.rows == 40
    assert glm.weight == pytest.approx(40) and net.weight == pytest.approx(40)
    assert len(net.penalty) == len(net.names) == len(net.start())
    assert replace(glm, sample_weights=None).weight == 40
    assert replace(net, sample_weights=None).weight == 40
    assert isinstance(net.network.label, LabelScale)
    assert msgspec.structs.replace(glm.job, seed=1) != glm.job
