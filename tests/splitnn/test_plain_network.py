"""The network on columns in one place: plain descent, and the references that a joint model is judged beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from parties.columns import EncodedLabels
from parties.data import PartyTable
from parties.policy import Guards
from parties.spec import PartySpec
from tests.splitnn.networks import CLASSES, TASKS, make_job, make_table, outputs_of
from tests.splitnn.trials import make_split
from vfl.bottom import make_bottom
from vfl.job import Task
from vfl.job_file import load_scenario
from vfl.network_columns import NetworkColumns, to_fixed
from vfl.optim import Vector
from vfl.plain_network import PlainBottoms, PlainSource, make_source, plain_predictions, predict_alone
from vfl.preprocess import Preprocessor
from vfl.report.evidence import ALONE, JOINT, POOLED, WITHOUT, load_evidence
from vfl.run import run_scenario
from vfl.source_layer import WEIGHT_BITS, initial_weights
from vfl.split_learning import dropout_seed
from vfl.trained import Aligned

ROWS, TRAIN, VALIDATION = 120, 70, 20
UNITS = 4


def aligned(
    task: Task = "binary",
    *,
    weights: Vector | None = None,
    module: object = None,
    validation: int = VALIDATION,
    **settings: Any,
) -> Aligned:
    """What the active party has of a table: labels and weights, test rows last."""
    table, classes = make_table(task), [str(code) for code in range(CLASSES)]
    job = make_job(task, **({"units": UNITS, "hidden": (6,), "epochs": 3, "batch_size": 20} | settings))
    empty = pd.DataFrame(index=range(ROWS))
    return Aligned(
        job,
        PartySpec(name="bank", role="active", data="bank.csv", id="id", label="y"),
        PartyTable([], empty, {}, None, weights, ()),
        np.arange(ROWS),
        EncodedLabels(table.y, classes if task == "multiclass" else ["0", "1"] if task == "binary" else []),
        Guards(enforce=False, small_data=True),
        TRAIN,
        validation,
        module=module,
    )


def blocks_of(task: Task = "binary") -> dict[str, Vector]:
    table = make_table(task)
    return {"bank": table.own, "shop": table.other}


class TestPlainSource:
    def test_takes_plain_steps_on_the_rows_of_the_last_call(self) -> None:
        X, W = np.arange(12.0).reshape(4, 3), np.ones((3, 2))
        source = PlainSource(X, W, 0.5)
        rows, gradient = np.array([3, 1]), np.array([[1.0, 0.0], [2.0, -1.0]])
        assert np.array_equal(source.forward(rows, training=True), X[rows] @ W)
        source.backward(gradient)
        assert np.array_equal(source.weights, W - 0.5 * (X[rows].T @ gradient))
        assert np.array_equal(W, np.ones((3, 2))) and source.state() == {}

    def test_goes_back_to_the_best_epoch_at_the_end(self) -> None:
        source = PlainSource(np.ones((1, 1)), np.zeros((1, 1)), 1.0)
        for best, go_on in [(True, True), (True, True), (False, True), (False, False)]:
            source.forward(np.array([0]), training=True)
            source.backward(np.array([[-1.0]]))
            source.end_epoch(best=best, go_on=go_on)
        assert source.weights.tolist() == [[2.0]]


class TestPlainBottoms:
    def make(self, **settings: Any) -> tuple[PlainBottoms, dict[str, Vector]]:
        job = make_job(mode="split", units=UNITS, bottom_hidden=(5,), optimizer="sgd", learning_rate=0.1, **settings)
        rng = np.random.default_rng(1)
        blocks = {"shop": rng.normal(size=(30, 4)), "mall": rng.normal(size=(30, 2))}
        made = {name: (X, make_bottom(job, name, X[:20])) for name, X in blocks.items()}
        return PlainBottoms(job, made), blocks

    @pytest.mark.parametrize("dropout", [0.0, 0.4], ids=["", "dropout"])
    def test_do_what_each_party_does_by_itself(self, dropout: float) -> None:
        source, blocks = self.make(dropout=dropout, local_steps=2)
        parties = {name: make_bottom(source.job, name, X[:20]) for name, X in blocks.items()}
        rng = np.random.default_rng(2)
        for epoch in range(2):
            for batch in range(3):
                rows, gradient = rng.permutation(20)[:8], rng.normal(size=(8, UNITS))
                z = sum(
                    parties[name].forward(X[rows], seed=dropout_seed(source.job, name, epoch, batch))
                    for name, X in blocks.items()
                )
                assert np.array_equal(source.forward(rows, training=True), z)
                source.backward(gradient)
                for bottom in parties.values():
                    bottom.step(gradient, steps=2)
            rows = np.arange(20, 30)
            z = sum(parties[name].forward(X[rows]) for name, X in blocks.items())
            assert np.array_equal(source.forward(rows, training=False), z)
            source.end_epoch(best=True, go_on=True)

    def test_go_back_to_the_best_epoch_at_the_end(self) -> None:
        source, _ = self.make()
        rows, seen = np.arange(20), []
        for best, go_on in [(True, True), (False, True), (False, False)]:
            source.forward(rows, training=True)
            source.backward(np.ones((20, UNITS)))
            seen.append(source.forward(rows, training=False))
            source.end_epoch(best=best, go_on=go_on)
        assert np.array_equal(source.forward(rows, training=False), seen[0])
        assert not np.array_equal(seen[0], seen[2])

    def test_sum_equals_one_torch_graph(self) -> None:
        source, blocks = self.make()
        bottoms = [bottom.module for _, bottom in source.blocks.values()]
        X = [torch.tensor(block[:8]).float() for block in blocks.values()]
        z = sum(module(x) for module, x in zip(bottoms, X, strict=True))
        loss = (z**2).mean()
        parameters = [parameter for module in bottoms for parameter in module.parameters()]
        gradients = torch.autograd.grad(loss, parameters)
        expected = [(p - 0.1 * g).detach() for p, g in zip(parameters, gradients, strict=True)]
        mine = source.forward(np.arange(8), training=True)
        source.backward(2 * mine / mine.size)
        for left, right in zip(parameters, expected, strict=True):
            torch.testing.assert_close(left.detach(), right, atol=1e-6, rtol=1e-5)


class TestMakeSource:
    def test_begins_with_each_partys_own_weights(self) -> None:
        data, blocks = aligned(), {"shop": make_table().other}
        source = make_source(data, blocks, 7, {})
        assert isinstance(source, PlainSource) and source.rate == data.job.splitnn.source_step
        drawn = initial_weights(data.job, to_fixed(blocks["shop"][:TRAIN]), UNITS, 7)
        assert np.array_equal(source.weights, drawn / 2.0**WEIGHT_BITS)
        pair = make_source(data, {"shop": blocks["shop"], "mall": blocks["shop"][:, :2]}, 7, {})
        assert isinstance(pair, PlainSource) and pair.weights.shape == (6, UNITS) and pair.X.shape == (ROWS, 6)
        assert np.array_equal(pair.weights[:4], source.weights)

    def test_of_nobody_adds_nothing(self) -> None:
        for mode in ("source-layer", "split"):
            source = make_source(aligned(mode=mode), {}, 3, {})
            assert np.array_equal(source.forward(np.arange(5), training=True), np.zeros((5, UNITS)))
            source.backward(np.ones((5, UNITS)))
            source.end_epoch(best=True, go_on=False)

    def test_takes_the_users_own_bottoms(self) -> None:
        module = torch.nn.Linear(4, UNITS, bias=False)
        source = make_source(aligned(mode="split"), {"shop": make_table().other}, 7, {"shop": module})
        z = source.forward(np.arange(5), training=False)
        np.testing.assert_allclose(z, module(torch.tensor(make_table().other[:5]).float()).detach().numpy(), rtol=1e-5)


class TestPredictions:
    @pytest.mark.parametrize("mode", ["source-layer", "split"])
    @pytest.mark.parametrize("task", TASKS)
    def test_need_all_columns_to_be_good(self, task: Task, mode: str) -> None:
        data = aligned(task, mode=mode, epochs=40, learning_rate=0.02, validation=0)
        y = data.labels_to_judge
        alone = plain_predictions(data, {"bank": make_table(task).own}, outputs_of(task), {})
        pooled = plain_predictions(data, blocks_of(task), outputs_of(task), {})
        assert pooled.shape == alone.shape == ((len(y), CLASSES) if task == "multiclass" else (len(y),))
        assert badness(task, pooled, y) < badness(task, alone, y)

    def test_are_the_same_again(self) -> None:
        left, right = (plain_predictions(aligned(dropout=0.2), blocks_of(), 1, {}) for _ in range(2))
        assert np.array_equal(left, right)

    def test_alone_are_those_on_the_own_columns(self) -> None:
        table, module = make_table(), torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(UNITS, 1))
        columns = NetworkColumns(Preprocessor((), (), (), ()), table.own, ())
        for own in (None, module):
            data = aligned(module=own)
            alone = predict_alone(data, columns, 1)
            assert np.array_equal(alone, plain_predictions(data, {"bank": table.own}, 1, {"bank": own}))
        assert not np.array_equal(alone, predict_alone(aligned(), columns, 1))

    def test_do_not_see_test_rows(self) -> None:
        blocks = blocks_of()
        changed = {name: np.vstack([X[:-1], -X[-1:]]) for name, X in blocks.items()}
        left, right = (plain_predictions(aligned(), these, 1, {}) for these in (blocks, changed))
        assert np.array_equal(left[:-1], right[:-1]) and left[-1] != right[-1]

    @pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
    @pytest.mark.parametrize("task", TASKS)
    def test_without_columns_are_the_training_mean(self, task: Task, weighted: bool) -> None:
        weights = make_table(task).weights if weighted else None
        data = aligned(task, weights=weights)
        predicted = plain_predictions(data, {"bank": np.zeros((ROWS, 0))}, outputs_of(task), {})
        y, w = data.labels_to_fit[:TRAIN], np.ones(TRAIN) if weights is None else weights[:TRAIN]
        shown = (y[:, None] == np.arange(CLASSES)).astype(float) if task == "multiclass" else y
        expected = np.average(shown, axis=0, weights=w)
        np.testing.assert_allclose(predicted, np.tile(expected, (data.n_test, 1)).reshape(predicted.shape), rtol=1e-9)

    def test_heed_weights(self) -> None:
        left, right = (plain_predictions(aligned(weights=w), blocks_of(), 1, {}) for w in (None, make_table().weights))
        assert not np.array_equal(left, right)


def badness(task: Task, predicted: Vector, y: Vector) -> float:
    if task == "multiclass":
        return float(np.mean(predicted.argmax(axis=1) != y))
    return float(np.mean((predicted - y) ** 2))


class TestBesideAJointModel:
    """What `vfl.pooled` says: the joint network but for fixed point, and networks that lack a party."""

    @pytest.mark.parametrize("mode", ["source-layer", "split"])
    def test_pooled_is_the_joint_one(self, tmp_path: Path, mode: str) -> None:
        training: dict[str, object] = {"mode": mode, "dropout": 0.2, "epochs": 6, "batch_size": 16}
        companies = make_split(tmp_path / "scenario", training=training, rows=150, messy=True, weights=True)
        companies.sections["split"] = {"validation_fraction": 0.2}
        scenario = load_scenario(companies.write())
        run_scenario(scenario, tmp_path / "run", lambda event: None, in_process=True, page=False)
        evidence = load_evidence(tmp_path / "run" / companies.active)
        assert evidence is not None
        predicted = evidence.predicted
        assert {JOINT, ALONE, POOLED, *(WITHOUT + name for name in scenario.job.passive)} == set(predicted)
        apart = {name: np.abs(scores - predicted[JOINT]).max() for name, scores in predicted.items()}
        assert apart[POOLED] <= (1e-4 if mode == "source-layer" else 1e-12)
        assert min(other for name, other in apart.items() if name not in (POOLED, JOINT)) > 10 * apart[POOLED]
