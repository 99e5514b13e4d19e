"""Passes over the rows: the same as torch on everything at once, what is kept of them, when they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xgboost
from hypothesis import given
from hypothesis import strategies as st

from parties.checkpoint import ALIGNED, FolderKeeper, Keeper
from parties.errors import DataError
from tests.splitnn.networks import TASKS, make_job, make_table, outputs_of
from vfl.epochs import LARGEST_OUTPUT, Course, Rows, draw_batches, run_epochs
from vfl.job import Job, Task
from vfl.losses import Labels
from vfl.network import Network, Step, make_network
from vfl.optim import Vector
from vfl.plain_network import PlainSource
from vfl.shard import Arrays
from vfl.terms import Integers

TRAIN = 90
UNITS = 4


def ignore(epochs: int, loss: float | None) -> None:
    """Progress that nobody looks at."""


@dataclass
class KeptSource(PlainSource):
    """A plain first layer that goes on from a snapshot, and notes what it is told."""

    told: list[tuple[bool, bool]] = field(default_factory=list)
    asked: list[tuple[list[int], bool]] = field(default_factory=list)

    def forward(self, rows: Integers, *, training: bool) -> Vector:
        self.asked.append((rows.tolist(), training))
        return super().forward(rows, training=training)

    def end_epoch(self, *, best: bool, go_on: bool) -> None:
        super().end_epoch(best=best, go_on=go_on)
        self.told.append((best, go_on))

    def state(self) -> Arrays:
        return {"source.weights": self.weights}


def job_of(task: Task = "binary", **settings: Any) -> Job:
    given = {"units": UNITS, "hidden": (6,), "batch_size": 25, "epochs": 3, "activation": "tanh"} | settings
    return make_job(task, **given)


def first_weights() -> Vector:
    return np.random.default_rng(5).normal(size=(4, UNITS)) / 3


def play(
    job: Job,
    *,
    weights: Vector | None = None,
    keeper: Keeper | None = None,
    change: Callable[[Rows], Rows] = lambda rows: rows,
    progress: Callable[[int, float | None], None] = ignore,
    train: int = TRAIN,
) -> tuple[Course, Network, KeptSource]:
    """Train on a table with a validation part of 30 rows, or with ``train`` = 120 without one."""
    table = make_table(job.task)
    network = make_network(job, 3, outputs_of(job.task), table.y[:train])
    kept = keeper.trained() if keeper else None
    start = first_weights() if kept is None else kept.floats("source.weights")
    source = KeptSource(table.other, start, job.splitnn.source_step)
    rows = change(Rows(table.own, table.y, weights, train))
    return run_epochs(job, network, source, rows, progress, keeper or Keeper()), network, source


def torch_on_everything(job: Job, y: Labels, weights: Vector | None) -> tuple[list[float], dict[str, Any], Vector]:
    """The whole network as one torch graph; its first layer's other columns take plain steps."""
    table, settings = make_table(job.task), job.splitnn
    network = make_network(job, 3, outputs_of(job.task), y[:TRAIN])
    others = torch.tensor(first_weights(), dtype=torch.float64, requires_grad=True)
    plain = torch.optim.SGD([others], lr=settings.source_step)
    factors = np.ones(TRAIN) if weights is None else weights[:TRAIN] / weights[:TRAIN].mean()
    losses: list[float] = []
    for epoch in range(settings.epochs):
        total = 0.0
        for batch in draw_batches(TRAIN, settings.batch_size, job.seed, epoch):
            z = (torch.tensor(table.other[batch]) @ others).float()
            outputs = network.top(z + network.own(torch.tensor(table.own[batch]).float()))
            loss, inside = documented_loss(job.task, outputs, y[batch], torch.tensor(factors[batch]), network.label)
            for optimizer in (plain, network.optimizer):
                optimizer.zero_grad()
            torch.autograd.backward(inside)
            for optimizer in (plain, network.optimizer):
                optimizer.step()
            losses += [] if losses else [loss]
            total += loss * len(batch)
        losses.append(total / TRAIN)
    return losses, network.weights(), others.detach().numpy()


def documented_loss(task: Task, outputs: torch.Tensor, y: Labels, w: torch.Tensor, label: Any) -> tuple[float, Any]:
    """The mean loss in the label's unit, and what is minimised."""
    target = torch.tensor(y)
    if task == "multiclass":
        losses = torch.nn.functional.cross_entropy(outputs, target, reduction="none")
        return float((losses * w).mean().detach()), (losses * w).mean()
    o = outputs[:, 0]
    if task == "binary":
        losses = torch.nn.functional.binary_cross_entropy_with_logits(o, target.float(), reduction="none")
        return float((losses * w).mean().detach()), (losses * w).mean()
    if task == "regression":
        losses = (label.mean + label.deviation * o.double() - target) ** 2 / 2
        return float((losses * w).mean().detach()), (losses * w).mean() / label.deviation**2
    scores = o.double() + np.log(label.mean)
    losses = torch.exp(scores) - target * scores
    return float((losses * w).mean().detach()), (losses * w).mean() / label.mean


class TestEqualsTorchOnEverything:
    @pytest.mark.parametrize("optimizer", ["sgd", "adam"])
    @pytest.mark.parametrize("task", TASKS)
    def test_for_every_task(self, task: Task, optimizer: Any) -> None:
        job = job_of(task, optimizer=optimizer, learning_rate=0.02)
        self.check(job, None)

    def test_with_sample_weights_of_any_size(self) -> None:
        self.check(job_of(), 1000 * make_table().weights)

    def test_with_estimated_labels(self) -> None:
        self.check(job_of(), None, y=2 * make_table().y - 0.5)

    def check(self, job: Job, weights: Vector | None, y: Labels | None = None) -> None:
        y = make_table(job.task).y if y is None else y
        losses, theirs, others = torch_on_everything(job, y, weights)
        table = make_table(job.task)
        network = make_network(job, 3, outputs_of(job.task), y[:TRAIN])
        source = KeptSource(table.other, first_weights(), job.splitnn.source_step)
        scaled = None if weights is None else weights[:TRAIN]
        course = run_epochs(job, network, source, Rows(table.own[:TRAIN], y[:TRAIN], scaled, TRAIN), ignore, Keeper())
        np.testing.assert_allclose(course.losses, losses, rtol=1e-4)
        np.testing.assert_allclose(source.weights, others, atol=1e-5)
        mine = network.weights()
        for name in mine:
            np.testing.assert_allclose(mine[name], theirs[name], atol=1e-5, rtol=1e-5)


class TestCourse:
    def test_begins_with_the_first_batch_and_has_a_loss_per_epoch(self) -> None:
        seen: list[tuple[int, float | None]] = []
        course, _, _ = play(job_of(), progress=lambda epochs, loss: seen.append((epochs, loss)))
        assert course.rounds == 3 and len(course.losses) == 4 and len(course.validation_losses) == 3
        assert seen == list(enumerate(course.losses))[1:]
        table, job = make_table(), job_of()
        batch = draw_batches(TRAIN, 25, job.seed, 0)[0]
        fresh = make_network(job, 3, 1, table.y[:TRAIN])
        z = table.other[batch] @ first_weights()
        assert course.losses[0] == pytest.approx(fresh.losses(z, table.own[batch], table.y[batch]).mean(), rel=1e-6)

    def test_weighs_batches_by_their_rows(self) -> None:
        course, _, _ = play(job_of(epochs=1, learning_rate=1e-12, source_learning_rate=1e-12))
        table, job = make_table(), job_of()
        fresh = make_network(job, 3, 1, table.y[:TRAIN])
        losses = fresh.losses(table.other @ first_weights(), table.own, table.y)
        assert course.losses[1] == pytest.approx(losses[:TRAIN].mean(), rel=1e-6)
        assert course.validation_losses[0] == pytest.approx(losses[TRAIN:].mean(), rel=1e-6)

    def test_has_the_typical_outputs_of_the_kept_epoch(self) -> None:
        course, _, source = play(job_of(epochs=1, source_learning_rate=1e-12))
        np.testing.assert_allclose(course.typical, (make_table().other[:TRAIN] @ source.weights).mean(axis=0))

    def test_weights_of_the_parts_are_scaled_by_themselves(self) -> None:
        weights = make_table().weights
        tilted = np.where(np.arange(120) < TRAIN, 50 * weights, weights)
        left, right = (play(job_of(), weights=given)[0] for given in (weights, tilted))
        np.testing.assert_allclose(left.losses, right.losses, rtol=1e-9)
        np.testing.assert_allclose(left.validation_losses, right.validation_losses, rtol=1e-9)
        assert left.losses != play(job_of())[0].losses

    def test_asks_for_each_row_once_an_epoch_and_for_validation_rows_without_training(self) -> None:
        _, _, source = play(job_of(epochs=2))
        for epoch in range(2):
            asked = source.asked[6 * epoch : 6 * epoch + 6]
            assert [training for _, training in asked] == [True] * 4 + [False] * 2
            assert sorted(row for rows, training in asked if training for row in rows) == list(range(TRAIN))
            assert [rows for rows, training in asked if not training] == [
                list(range(TRAIN, TRAIN + 25)), list(range(TRAIN + 25, 120))
            ]  # fmt: skip

    def test_without_a_validation_part_keeps_the_last_epoch(self) -> None:
        course, network, source = play(job_of(), train=120)
        assert course.validation_losses == () and course.warnings == ()
        assert source.told == [(True, True), (True, True), (True, False)]
        assert all(training for _, training in source.asked)
        assert course.losses[-1] < course.losses[0]

    def test_the_validation_part_only_chooses_the_epoch(self) -> None:
        def garbled(rows: Rows) -> Rows:
            X, y = rows.X.copy(), rows.y.copy()
            X[TRAIN:], y[TRAIN:] = 9.0, 1 - y[TRAIN:]
            return replace(rows, X=X, y=y)

        one, other = play(job_of()), play(job_of(), change=garbled)
        assert one[0].losses == other[0].losses and one[0].validation_losses != other[0].validation_losses

    def test_local_steps_are_the_networks(self) -> None:
        once, often = (play(job_of(mode="split", local_steps=steps))[0] for steps in (1, 4))
        assert once.losses[0] == often.losses[0] and often.losses[1] < once.losses[1]


@dataclass
class Scripted:
    """A network whose validation losses are told beforehand; its weights are the number of epochs it has done."""

    script: Sequence[float]
    done: int = 0
    restored: list[int] = field(default_factory=list)

    def step(self, z: Vector, X: Vector, y: Labels, weights: Vector | None, *, seed: int, steps: int) -> Step:
        return Step(1.0, np.zeros_like(z))

    def losses(self, z: Vector, X: Vector, y: Labels) -> Vector:
        self.done += 1
        return np.array([self.script[self.done - 1]])

    def weights(self) -> Arrays:
        return {"done": np.array(self.done)}

    state = weights

    def restore(self, arrays: Arrays) -> None:
        self.restored.append(int(arrays["done"]))


def play_script(script: Sequence[float], patience: int | None) -> tuple[Course, Scripted, KeptSource]:
    job = job_of(epochs=len(script), early_stopping_rounds=patience)
    network, source = Scripted(script), KeptSource(np.zeros((3, 4)), np.zeros((4, UNITS)), 0.1)
    rows = Rows(np.zeros((3, 0)), np.zeros(3), None, 2)
    return run_epochs(job, network, source, rows, ignore, Keeper()), network, source  # type: ignore[arg-type]


def xgboost_stops(script: Sequence[float], patience: int) -> tuple[int, int]:
    """Rounds that XGBoost does on these validation losses, and which it calls the best, from 1."""
    losses, seen = iter(script), []
    data = xgboost.DMatrix(np.arange(4.0)[:, None], label=np.array([0, 1, 0, 1]))

    def metric(predicted: Vector, data: xgboost.DMatrix) -> tuple[str, float]:
        seen.append(next(losses))
        return "scripted", seen[-1]

    booster = xgboost.train(
        {"disable_default_eval_metric": True, "nthread": 1},
        data,
        len(script),
        evals=[(data, "validation")],
        custom_metric=metric,
        early_stopping_rounds=patience,
        verbose_eval=False,
    )
    return len(seen), booster.best_iteration + 1


class TestEarlyStopping:
    @pytest.mark.parametrize("patience", [1, 2, 3])
    @pytest.mark.parametrize(
        "script",
        [(5, 4, 3, 2, 1), (5, 4, 6, 3, 7, 8, 9, 1), (1, 2, 3, 4), (3, 3, 3, 3), (2, 1, 1, 0.5, 1, 1), (9,)],
        ids=["falls", "wavers", "rises", "flat", "ties", "single"],
    )
    def test_counts_as_xgboost_does(self, script: Sequence[float], patience: int) -> None:
        course, network, source = play_script(script, patience)
        epochs, best = xgboost_stops(script, patience)
        assert (course.rounds, network.restored[-1]) == (epochs, best)
        assert course.validation_losses == tuple(script[:epochs])
        assert [go_on for _, go_on in source.told] == [True] * (epochs - 1) + [False]
        assert max(number for number, (is_best, _) in enumerate(source.told, 1) if is_best) == best

    def test_says_which_epoch_is_kept(self) -> None:
        stopped, _, _ = play_script((3, 1, 2, 4, 5), 2)
        assert stopped.warnings == (
            "training stopped early after 4 epochs: the weights of epoch 2, of least validation loss, are kept",
        )
        whole, network, _ = play_script((3, 1, 2, 4, 5), None)
        assert network.restored == [2] and whole.rounds == 5
        assert whole.warnings == ("training took 5 epochs: the weights of epoch 2, of least validation loss, are kept",)
        assert play_script((3, 2, 1), 2)[0].warnings == ()

    def test_the_kept_weights_are_those_of_the_best_epoch(self) -> None:
        job = job_of(epochs=12, learning_rate=0.1, source_learning_rate=2.0)
        course, network, source = play(job)
        best = int(np.argmin(course.validation_losses)) + 1
        assert best < 12
        short, same, same_source = play(job_of(epochs=best, learning_rate=0.1, source_learning_rate=2.0))
        left, right = network.weights(), same.weights()
        assert all(np.array_equal(left[name], right[name]) for name in left)
        assert np.array_equal(source.weights, same_source.weights)
        assert np.array_equal(course.typical, short.typical)


class TestGoesOn:
    @pytest.mark.parametrize("done", range(1, 7))
    def test_bit_for_bit_after_every_epoch(self, tmp_path: Path, done: int) -> None:
        job = job_of(epochs=6, dropout=0.3, learning_rate=0.1, source_learning_rate=1.0, early_stopping_rounds=4)

        def keeper() -> FolderKeeper:
            return FolderKeeper(folder=tmp_path, run="run", job="job", party="bank")

        whole, network, source = play(job)
        assert whole.rounds == 6
        first = keeper()
        first.save_aligned({}, {})
        with pytest.raises(InterruptedError):
            play(job, keeper=first, progress=lambda epochs, _: interrupt(epochs == done))
        second = keeper()
        second.resume_from(ALIGNED + done)
        torch.rand(3)  # the user's own random state has moved on
        course, again, source_again = play(job, keeper=second)
        assert (course.rounds, course.losses, course.validation_losses, course.warnings) == (
            whole.rounds, whole.losses, whole.validation_losses, whole.warnings
        )  # fmt: skip
        assert np.array_equal(course.typical, whole.typical)
        left, right = network.weights(), again.weights()
        assert all(np.array_equal(left[name], right[name]) for name in left)
        if done < 6:
            assert source_again.told == source.told[done:]

    def test_not_from_a_snapshot_of_another_kind(self, tmp_path: Path) -> None:
        keeper = FolderKeeper(folder=tmp_path, run="run", job="job", party="bank")
        keeper.save_aligned({}, {})
        keeper.save_round(1, {}, {"source.weights": first_weights(), "scores": np.zeros(3)})
        keeper.resume_from(ALIGNED + 1)
        with pytest.raises(DataError, match="checkpoint of step 2 without losses"):
            play(job_of(), keeper=keeper)


def interrupt(now: bool) -> None:
    if now:
        raise InterruptedError


class TestDivergence:
    def test_of_the_first_layer_is_one_line(self) -> None:
        job, table = job_of(), make_table()
        network, source = make_network(job, 3, 1, table.y), PlainSource(table.other, first_weights(), 1e9)
        with pytest.raises(
            DataError, match="diverged in epoch 1: outputs of the first layer are beyond 65,536"
        ) as caught:
            run_epochs(job, network, source, Rows(table.own, table.y, None, TRAIN), ignore, Keeper())
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -LARGEST_OUTPUT * 1.01], ids=["nan", "inf", "large"])
    @pytest.mark.parametrize("when", ["training", "validation"])
    def test_is_seen_in_whatever_the_first_layer_gives(self, bad: float, when: str) -> None:
        @dataclass
        class Broken(KeptSource):
            def forward(self, rows: Integers, *, training: bool) -> Vector:
                z = super().forward(rows, training=training)
                return np.full_like(z, bad) if training == (when == "training") else z

        job, table = job_of(), make_table()
        network, source = make_network(job, 3, 1, table.y), Broken(table.other, first_weights(), 0.1)
        with pytest.raises(DataError, match="lower training.learning_rate"):
            run_epochs(job, network, source, Rows(table.own, table.y, None, TRAIN), ignore, Keeper())

    def test_of_the_loss_is_one_line(self) -> None:
        def steep(rows: Rows) -> Rows:
            return replace(rows, X=rows.X * 1e39)

        with pytest.raises(DataError, match="training diverged in epoch 1: the loss is no longer a number") as caught:
            play(job_of("regression", activation="relu"), change=steep)
        assert "\n" not in str(caught.value)


@given(st.integers(1, 200), st.integers(1, 250), st.integers(0, 2**63 - 1), st.integers(0, 10**5))
def test_batches_cut_the_rows(rows: int, size: int, seed: int, epoch: int) -> None:
    batches = draw_batches(rows, size, seed, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(rows))
    lengths = [len(batch) for batch in batches]
    assert len(batches) == -(-rows // size) and max(lengths) <= size and max(lengths) - min(lengths) <= 1
    again = draw_batches(rows, size, seed, epoch)
    assert all(np.array_equal(left, right) for left, right in zip(batches, again, strict=True))


def test_batches_are_others_in_every_epoch_and_for_every_seed() -> None:
    orders = {tuple(draw_batches(50, 50, seed, epoch)[0].tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
