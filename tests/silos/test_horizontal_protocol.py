"""Silos that average a model: the textbook's results, whoever drops out, and no task beyond the job."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from parties.errors import ConfigError, DataError, PeerLost, RemoteProtocolError
from parties.link import COORDINATOR, Endpoint
from parties.wire import Coordinator, DataParty, Masked, Message, Revealed
from tests.silos.averaging import L2, Logistic, Training_, dies, make, make_job, make_rows, odd, sends, sleeps, wake
from vfl import horizontal, horizontal_rounds, secure_sum
from vfl.aggregation import (
    ServerState,
    combine_by_layer,
    draw_silos,
    rules_by_layer,
    server_step,
)
from vfl.attendance import Attendance
from vfl.epochs import draw_batches
from vfl.events import LeftOut
from vfl.horizontal import Averaged
from vfl.horizontal_tasks import Layout, Task, read_layout, read_task, send_task
from vfl.job import Job
from vfl.secure_sum import to_words

EXACT = {"tol": 1e-21, "l2": L2}
UP = [secure_sum.Wire.keys, secure_sum.Wire.boxes, secure_sum.Wire.masked, secure_sum.Wire.shares]


def by_name(message: Message) -> str:
    return message.name.partition(".")[2]


def flat(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays])


def pooled_optimum(models: list[Logistic]) -> np.ndarray:
    """By scipy's own Newton method, on all rows in one place."""
    X, y = np.vstack([m.X for m in models]), np.concatenate([m.y for m in models])
    w = np.concatenate([m._w() for m in models])
    X1, penalty = np.hstack([X, np.ones((len(X), 1))]), np.array([L2] * X.shape[1] + [0.0])

    def parts(b: np.ndarray) -> tuple[float, np.ndarray]:
        z = X1 @ b
        loss = (w * (np.logaddexp(0, z) - y * z)).sum() / w.sum() + penalty @ b**2 / 2
        return loss, X1.T @ (w * (1 / (1 + np.exp(-z)) - y)) / w.sum() + penalty * b

    def hessian(b: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-X1 @ b))
        return (X1 * (w * p * (1 - p))[:, None]).T @ X1 / w.sum() + np.diag(penalty)

    b = minimize(lambda b: parts(b)[0], np.zeros(len(penalty)), jac=lambda b: parts(b)[1], method="BFGS").x
    for _ in range(5):
        b = b - np.linalg.solve(hessian(b), parts(b)[1])
    return b


def same_everywhere(results: dict[str, Averaged]) -> Averaged:
    """The coordinator's result, which every silo has to the last bit."""
    found = results[COORDINATOR]
    for name, own in results.items():
        assert flat(own.weights).tobytes() == flat(found.weights).tobytes(), name
        assert (own.losses, own.rounds, own.converged) == (found.losses, found.rounds, found.converged)
    return found


# fedsgd of a GLM


@pytest.mark.parametrize("silos", [1, 2, 3, 5])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "sample weights"])
def test_fedsgd_is_the_pooled_optimum(silos: int, weighted: bool) -> None:
    training = make(make_job(silos, **EXACT))
    if weighted:
        for seed, model in enumerate(training.models.values()):
            model.sample_weights = np.random.default_rng(seed).uniform(0.2, 3, model.rows)
    found = same_everywhere(training.run())
    assert np.abs(flat(found.weights) - pooled_optimum(list(training.models.values()))).max() < 1e-10
    assert found.converged and found.rounds < 30 and len(found.losses) == found.rounds + 1
    assert all(b <= a + 1e-14 for a, b in itertools.pairwise(found.losses))
    assert found.losses[0] == pytest.approx(np.log(2))


def test_the_stopping_rule_is_the_jobs() -> None:
    rounds = [make(make_job(3, l2=L2, tol=tol)).run()[COORDINATOR].rounds for tol in (1e-2, 1e-6, 1e-12)]
    assert rounds == sorted(rounds) and len(set(rounds)) == 3
    cut = make(make_job(3, l2=L2, tol=1e-12, max_iter=2)).run()[COORDINATOR]
    assert (cut.rounds, cut.converged) == (2, False)


def test_every_role_is_told_every_round_once() -> None:
    training = make(make_job(3, **EXACT))
    found = training.run()[COORDINATOR]
    expected = list(zip(range(1, found.rounds + 1), found.losses[1:], strict=True))
    assert training.told == dict.fromkeys([COORDINATOR, *training.models], expected)


def test_a_line_search_that_goes_out_of_range_turns_back() -> None:
    """The first steps on columns of a size of 10^6 leave the words' range; the silos say no more than that."""
    X, y = make_rows()
    training = make(make_job(3, l2=L2, tol=1e-6, max_iter=3), (X * 1e7, y))
    found = same_everywhere(training.run())
    assert found.rounds == 3 and found.losses[-1] < found.losses[0]


def test_numbers_out_of_range_from_the_start_on_are_refused() -> None:
    X, y = make_rows()
    with pytest.raises(
        DataError, match=r"^training diverged in round 1: .* expected losses that fall; lower"
    ) as caught:
        make(make_job(3, l2=L2), (X * 1e13, y)).run()
    assert "\n" not in str(caught.value)


def test_a_search_that_finds_nothing_has_not_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(horizontal_rounds, "descend", lambda *_: None)
    found = make(make_job(2, **EXACT)).run()[COORDINATOR]
    assert (found.rounds, found.converged, len(found.losses)) == (0, False, 1)


DIVERGING = {
    "a network's gradients": ({"model": "splitnn", "epochs": 2}, 1e13, 1),
    "changes of weights": ({"aggregation": "fedavg", "rounds": 3}, 1e13, 1),
    "the last loss": ({"aggregation": "fedavg", "rounds": 1, "learning_rate": 100.0}, 1e6, 1),
}


@pytest.mark.parametrize("what", DIVERGING)
def test_a_training_that_diverges_says_so(what: str) -> None:
    settings, scale, at = DIVERGING[what]
    X, y = make_rows()
    with pytest.raises(
        DataError, match=f"^training diverged in round {at}: .*; lower training.learning_rate"
    ) as caught:
        make(make_job(3, **settings), (X * scale, y)).run()
    assert "\n" not in str(caught.value)


# fedsgd of a network


def pooled_epochs(training: Training_, optimizer: torch.optim.Optimizer, tensors: list[torch.Tensor]) -> list[float]:
    """Steps on batches of all rows in one place, by torch."""
    settings, models = training.job.splitnn, list(training.models.values())
    pooled = replace(
        models[0],
        X=np.vstack([m.X for m in models]),
        y=np.concatenate([m.y for m in models]),
        sample_weights=np.concatenate([m._w() for m in models]),
    )
    losses: list[float] = []
    for epoch in range(settings.epochs):
        total = 0.0
        for batch in draw_batches(pooled.rows, settings.batch_size, training.job.seed, epoch):
            loss, sums = pooled.gradient([t.detach().numpy() for t in tensors], batch)
            losses += [] if losses else [loss / len(batch)]
            total += loss
            for tensor, slope in zip(tensors, sums, strict=True):
                tensor.grad = torch.tensor(slope / len(batch))
            optimizer.step()
        losses.append(total / pooled.rows)
    return losses


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, momentum=0.5),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("silos", [1, 2, 3, 5])
def test_a_networks_fedsgd_takes_the_pooled_steps(optimizer: str, silos: int) -> None:
    settings = {"optimizer": optimizer, "epochs": 4, "batch_size": 16, "learning_rate": 0.05, "weight_decay": 0.01}
    if optimizer == "sgd":
        settings["momentum"] = 0.5
    training = make(make_job(silos, model="splitnn", **settings), l2=0.0)
    for seed, model in enumerate(training.models.values()):
        model.sample_weights = np.random.default_rng(seed).uniform(0.2, 3, model.rows)
    found = same_everywhere(training.run())
    tensors = [torch.tensor(array, requires_grad=True) for array in next(iter(training.models.values())).start()]
    losses = pooled_epochs(training, OPTIMIZERS[optimizer](tensors, lr=0.05, weight_decay=0.01), tensors)
    assert np.abs(flat(found.weights) - flat([t.detach().numpy() for t in tensors])).max() < 1e-9
    assert found.losses == pytest.approx(losses, abs=1e-12) and found.rounds == 4 and found.converged


# averaging, against the textbook's loop


def textbook(training: Training_, rounds: int, without: dict[int, str] | None = None) -> tuple[np.ndarray, list[float]]:
    """Algorithm 1 of McMahan et al. with rules by layer and the server's step, on the models themselves."""
    job, models = training.job, training.models
    weights, state, losses = next(iter(models.values())).start(), ServerState(), []
    for number in range(1, rounds + 1):
        there = [name for name in models if name != (without or {}).get(number)]
        drawn = draw_silos(list(models), job.averaging, job.seed, number)
        drawn = [name for name in drawn if name in there]
        trained = {name: models[name].train(weights, number) for name in drawn}
        rows = [models[name].weight for name in drawn]
        counts = {
            "fedavg": rows,
            "simple": [1.0] * len(drawn),
            "weighted": [training.declared.get(name) or models[name].weight for name in drawn],
        }
        penalty = L2 / 2 * (weights[0] ** 2).sum()
        losses.append(sum(loss for loss, _ in trained.values()) / sum(rows) + penalty)
        changes = [[a - b for a, b in zip(new, weights, strict=True)] for _, new in trained.values()]
        rules = rules_by_layer(("coefficients", "intercept"), job.averaging)
        weights, state = server_step(job.averaging, weights, combine_by_layer(changes, rules, counts), state)
    return flat(weights), losses


RULES = {
    "fedavg": {"aggregation": "fedavg"},
    "weighted": {"aggregation": "weighted"},
    "simple": {"aggregation": "simple"},
    "local epochs": {"aggregation": "fedavg", "local_epochs": 5},
    "by layer": {"aggregation": "fedavg", "aggregation_by_layer": {"intercept": "simple"}},
    "three rules": {
        "aggregation": "weighted",
        "aggregation_by_layer": {"intercept": "simple", "coefficients": "fedavg"},
    },
    "FedProx": {"aggregation": "fedavg", "local_epochs": 4, "proximal": 1.5},
    "momentum": {"aggregation": "fedavg", "server_optimizer": "momentum", "server_learning_rate": 0.7},
    "Adam": {"aggregation": "fedavg", "server_optimizer": "adam"},
    "clients drawn": {"aggregation": "fedavg", "client_fraction": 0.5},
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("silos", [2, 5])
def test_averaging_is_the_textbooks(rule: str, silos: int) -> None:
    settings = {"rounds": 6, "l2": L2, "learning_rate": 0.3, **RULES[rule]}
    training = make(make_job(silos, **settings))
    training.declared = {name: 1.0 + at for at, name in enumerate(list(training.models)[:-1])}
    found = same_everywhere(training.run())
    weights, losses = textbook(training, 6)
    assert np.abs(flat(found.weights) - weights).max() < 1e-12
    assert found.losses[:-1] == pytest.approx(losses, abs=1e-12) and len(found.losses) == 7
    assert (
        found.losses[-1]
        == pytest.approx(
            sum(model.gradient(found.weights, None)[0] for model in training.models.values()) / 90
            + L2 / 2 * (found.weights[0] ** 2).sum()
        )
        or "client_fraction" in RULES[rule]
    )
    assert found.rounds == 6 and not found.converged


def test_rules_differ_where_silos_do() -> None:
    ends = {rule: flat(make(make_job(3, rounds=3, **RULES[rule])).run()[COORDINATOR].weights) for rule in RULES}
    assert all(np.abs(a - b).max() > 1e-6 for a, b in itertools.combinations([ends["fedavg"], ends["simple"]], 2))
    assert np.abs(ends["by layer"][:-1] - ends["fedavg"][:-1]).max() > 0  # through the next round's gradients


def test_only_silos_drawn_train_and_the_others_are_told_no_weights() -> None:
    training = make(make_job(6, aggregation="fedavg", rounds=8, client_fraction=0.34, l2=L2))
    training.run()
    drawn = [draw_silos(list(training.models), training.job.averaging, 0, number) for number in range(1, 9)]
    assert all(len(names) == 3 for names in drawn) and len({tuple(names) for names in drawn}) > 1
    for name, model in training.models.items():
        rounds = [number for number, names in enumerate(drawn, 1) if name in names]
        assert model.calls == [("train", number) for number in rounds]
        asked = [d.payload for d in training.deliveries if d.receiver == name and d.message == "horizontal.asked"]
        assert [len(payload.values) for payload in asked[:8]] == [4 if name in names else 0 for names in drawn]


def test_a_glm_stops_when_its_loss_stands_still() -> None:
    settings = {"aggregation": "fedavg", "rounds": 5000, "learning_rate": 1.0, "l2": L2}
    found = make(make_job(3, tol=1e-6, **settings)).run()[COORDINATOR]
    assert found.converged and found.rounds < 500
    last = found.losses[-5:-1]
    assert all(abs(b - a) < 1e-6 for a, b in itertools.pairwise(last)) and abs(found.losses[-6] - last[0]) >= 1e-6


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_fedsgd_steps_through_the_servers_optimizer(optimizer: str) -> None:
    settings = {"server_optimizer": optimizer, "learning_rate": 0.4, "max_iter": 5, "l2": L2}
    training = make(make_job(3, **settings))
    found = same_everywhere(training.run())
    weights, state = next(iter(training.models.values())).start(), ServerState()
    for _ in range(5):
        sums = [m.gradient(weights, None)[1] for m in training.models.values()]
        mean = [sum(layer) / 90 for layer in zip(*sums, strict=True)]
        update = [-0.4 * (mean[0] + L2 * weights[0]), -0.4 * mean[1]]
        weights, state = server_step(training.job.averaging, weights, update, state)
    assert np.abs(flat(found.weights) - flat(weights)).max() < 1e-12 and len(found.losses) == 6


def test_an_entry_of_no_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match='got "top", expected the beginning of a layer'):
        make(make_job(2, aggregation="fedavg", rounds=2, aggregation_by_layer={"top": "simple"})).run()


# differential privacy


@pytest.mark.parametrize("rule", ["fedsgd", "fedavg"])
@pytest.mark.parametrize("model", ["logistic", "splitnn"])
def test_with_differential_privacy_no_loss_is_told(rule: str, model: str) -> None:
    training = make(make_job(3, model=model, dp="local", aggregation=rule, rounds=4))
    found = same_everywhere(training.run())
    assert found.losses == () and found.rounds == 4 and found.converged
    assert training.told[COORDINATOR] == [(number, None) for number in range(1, 5)]
    kind = "noisy" if rule == "fedsgd" else "train"
    assert all(own.calls == [(kind, number) for number in range(1, 5)] for own in training.models.values())


@pytest.mark.parametrize("rule", ["fedsgd", "fedavg"])
@pytest.mark.parametrize("dp", ["none", "local"])
def test_losses_are_not_even_in_the_sums(dp: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The models here tell losses; a sum without noise would cost what the accountant does not count."""
    seen: list[np.ndarray] = []

    def spy(*arguments: object) -> secure_sum.Sum:
        found = secure_sum.collect(*arguments)
        seen.append(found.values)
        return found

    monkeypatch.setattr(horizontal, "collect", spy)
    make(make_job(3, dp=dp, aggregation=rule, **({} if (dp, rule) == ("none", "fedsgd") else {"rounds": 3}))).run()
    assert len(seen) >= 3 and all((values[1] == 0) == (dp == "local") for values in seen)


def test_noisy_gradients_are_added_up_and_stepped_with() -> None:
    training = make(make_job(3, dp="central", rounds=3, learning_rate=0.2, l2=L2))
    found = training.run()[COORDINATOR]
    weights = next(iter(training.models.values())).start()
    for number in (1, 2, 3):
        sums = [m.noisy_gradient(weights, number)[1] for m in training.models.values()]
        mean = [sum(layer) / 90 for layer in zip(*sums, strict=True)]
        weights = [weights[0] - 0.2 * (mean[0] + L2 * weights[0]), weights[1] - 0.2 * mean[1]]
    assert np.abs(flat(found.weights) - flat(weights)).max() < 1e-12


# silos that drop out


def spoilt(training: Training_, name: str, spoil: Callable[[Endpoint], None]) -> Training_:
    def play(endpoint: Endpoint) -> Averaged:
        spoil(endpoint)
        return training.honest(name)(endpoint)

    training.plays[name] = play
    return training


@pytest.mark.parametrize("kind", UP, ids=by_name)
@pytest.mark.parametrize("nth", [1, 4])
def test_lbfgs_goes_on_to_the_optimum_of_those_that_are_left(kind: Message, nth: int) -> None:
    training = make(make_job(5, min_silos=3, **EXACT))
    lost = "clinics.s2"
    results = spoilt(training, lost, lambda end: odd(end, kind, dies, nth)).run()
    found = same_everywhere(results)
    rest = [model for name, model in training.models.items() if name != lost]
    assert np.abs(flat(found.weights) - pooled_optimum(rest)).max() < 1e-10 and found.converged
    assert [(each.silo, each.why) for each in found.left_out] == [(lost, "lost")]
    assert lost not in results


@pytest.mark.parametrize("act", ["dies", "sleeps"])
def test_nothing_is_added_up_twice_at_the_same_weights(act: str) -> None:
    """The difference of two such sums would be the missing silo's own gradient."""
    training = make(make_job(5, min_silos=3, **EXACT))
    name, kind = "clinics.s2", secure_sum.Wire.masked
    acts = {"dies": lambda end: dies, "sleeps": lambda end: sleeps(end, kind, "clinics.s0")}
    spoilt(training, name, lambda end: odd(end, kind, acts[act](end), 4)).run()
    asked = [
        d.payload.values.tobytes()
        for d in training.deliveries
        if d.message == "horizontal.asked" and d.receiver == "clinics.s0" and not d.payload.facts["over"]
    ]
    assert len(set(asked)) == len(asked) > 5


def test_lbfgs_goes_on_without_a_silo_that_was_late_once() -> None:
    training = make(make_job(4, min_silos=3, **EXACT))
    late, kind = "clinics.s1", secure_sum.Wire.masked
    spoilt(training, late, lambda end: odd(end, kind, sleeps(end, kind, "clinics.s0"), 2))
    waker = training.models["clinics.s0"]
    gradient, calls = waker.gradient, itertools.count(1)

    def play(endpoint: Endpoint) -> Averaged:
        def spy(weights, rows):
            if next(calls) == 4:
                wake(endpoint, late)
            return gradient(weights, rows)

        waker.gradient = spy
        return training.honest("clinics.s0")(endpoint)

    training.plays["clinics.s0"] = play
    found = same_everywhere(training.run())  # the late silo too has the model
    rest = [model for name, model in training.models.items() if name != late]
    waker.gradient = gradient
    assert np.abs(flat(found.weights) - pooled_optimum(rest)).max() < 1e-10
    assert {each.silo for each in found.left_out} == {late} and {each.why for each in found.left_out} == {"late"}


@pytest.mark.parametrize("kind", UP[:3], ids=by_name)
def test_averaging_goes_on_without_a_silo_and_takes_it_back(kind: Message) -> None:
    training = make(make_job(4, aggregation="fedavg", rounds=6, min_silos=3, l2=L2, learning_rate=0.3))
    late = "clinics.s3"
    spoilt(training, late, lambda end: odd(end, kind, sleeps(end, kind, "clinics.s0"), 2))
    waker = training.models["clinics.s0"]
    train = waker.train

    def play(endpoint: Endpoint) -> Averaged:
        def spy(weights, number):
            if number == 4:
                wake(endpoint, late)
            return train(weights, number)

        waker.train = spy
        return training.honest("clinics.s0")(endpoint)

    training.plays["clinics.s0"] = play
    found = same_everywhere(training.run())
    waker.train = train
    weights, _ = textbook(training, 6, without=dict.fromkeys((2, 3, 4), late))
    assert np.abs(flat(found.weights) - weights).max() < 1e-12
    assert list(found.left_out) == [LeftOut(late, number, "late") for number in (2, 3, 4)]


@pytest.mark.parametrize("kind", UP, ids=by_name)
def test_without_min_silos_the_run_ends_with_the_first_loss(kind: Message) -> None:
    training = make(make_job(3, **EXACT))
    with pytest.raises(RuntimeError, match="the power is gone"):
        spoilt(training, "clinics.s1", lambda end: odd(end, kind, dies, 2)).run()


def test_fewer_than_min_silos_end_the_run() -> None:
    training = make(make_job(3, aggregation="fedavg", rounds=9, min_silos=2))
    for name, nth in (("clinics.s0", 2), ("clinics.s2", 4)):
        spoilt(training, name, lambda end, nth=nth: odd(end, secure_sum.Wire.masked, dies, nth))
    with pytest.raises((PeerLost, RuntimeError)):
        training.run()


def test_silos_that_are_late_together_end_the_run_and_are_named() -> None:
    training = make(make_job(4, aggregation="fedavg", rounds=9, min_silos=3))
    for name in ("clinics.s2", "clinics.s3"):
        spoilt(training, name, lambda end: odd(end, UP[2], sleeps(end, UP[2], "clinics.s0"), 3))
    with pytest.raises(
        PeerLost, match="^round 3 of averaging has 2 of 4 silos and needs 3: without clinics.s2, clinics.s3"
    ):
        training.run()


def test_a_round_that_has_too_few_to_ask_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two silos are lost between two rounds."""
    honest, calls = Attendance.present, itertools.count(1)
    monkeypatch.setattr(Attendance, "present", lambda self: honest(self)[: 2 if next(calls) == 3 else None])
    training = make(make_job(4, aggregation="fedavg", rounds=9, min_silos=3))
    with pytest.raises(
        PeerLost, match="^round 3 of averaging can ask 2 silos and needs 3: without clinics.s2, clinics.s3"
    ):
        training.run()


def test_a_batch_whose_rows_are_all_away_is_no_step() -> None:
    """Each batch is one row: those of the silo that is lost are passed over."""
    training = make(make_job(3, model="splitnn", optimizer="sgd", epochs=1, batch_size=1, min_silos=2), make_rows(12))
    lost = "clinics.s1"
    found = spoilt(training, lost, lambda end: odd(end, UP[0], dies, 1)).run()[COORDINATOR]
    models, weights = training.models, next(iter(training.models.values())).start()
    owner = [name for name, model in models.items() for _ in range(model.rows)]
    first = {name: owner.index(name) for name in models}
    for batch in draw_batches(12, 1, 0, 0):
        name = owner[batch[0]]
        if name != lost:
            _, slopes = models[name].gradient(weights, batch - first[name])
            weights = [w - 0.01 * slope for w, slope in zip(weights, slopes, strict=True)]
    assert np.abs(flat(found.weights) - flat(weights)).max() < 1e-12


# what is malformed


def begin(change: Callable[[Revealed], Revealed], name: str) -> Training_:
    training = make(make_job(3, l2=L2))
    return spoilt(training, name, lambda end: odd(end, horizontal.Wire.begun, sends(horizontal.Wire.begun, change)))


def facts(**changes: object) -> Callable[[Revealed], Revealed]:
    return lambda sent: Revealed({**sent.facts, **{k.replace("_", " "): v for k, v in changes.items()}}, sent.values)


BEGINNINGS = {
    "fewer layers": facts(layers=1),
    "no layers": facts(layers=0),
    "layers as text": facts(layers="2"),
    "another name": facts(name_0="weights"),
    "one name twice": facts(name_0="intercept"),
    "another shape": facts(shape_0="1,3"),
    "no shape": facts(shape_0="x"),
    "an empty layer": facts(shape_0="0,3"),
    "another penalty": facts(penalty_0=0.5),
    "a negative penalty": facts(penalty_0=-1.0),
    "an infinite penalty": facts(penalty_0=float("inf")),
    "other rows": facts(rows=91),
    "no rows": facts(rows=0),
    "one fact more": facts(more=1),
    "more weights": lambda sent: Revealed(sent.facts, np.append(sent.values, 0.0)),
}


@pytest.mark.parametrize("name", ["clinics.s0", "clinics.s2"])
@pytest.mark.parametrize("what", BEGINNINGS)
def test_a_beginning_that_does_not_fit_names_a_silo(what: str, name: str) -> None:
    with pytest.raises(
        RemoteProtocolError, match=r"^clinics.s\d (begins with other layers or rows|sent no proper)"
    ) as error:
        begin(BEGINNINGS[what], name).run()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_first_weights_are_finite(value: float) -> None:
    with pytest.raises(RemoteProtocolError, match="clinics.s0 begins with weights that are not finite"):
        begin(lambda sent: Revealed(sent.facts, np.full(4, value)), "clinics.s0").run()


SPOILT = {
    "random words": lambda sent: Masked(np.random.default_rng(0).integers(0, 2**64, sent.body.shape, np.uint64)),
    "a weight below zero": lambda sent: Masked(
        sent.body - to_words(np.array([0, 0, 1e6, *[0] * (len(sent.body) - 3)]))
    ),
    "half a silo out of range": lambda sent: Masked(sent.body + to_words(np.array([0.5, *[0] * (len(sent.body) - 1)]))),
}


@pytest.mark.parametrize("what", SPOILT)
@pytest.mark.parametrize("settings", [{}, {"aggregation": "simple"}], ids=str)
def test_a_head_that_cannot_be_ends_the_run(what: str, settings: dict[str, str]) -> None:
    """Who spoilt the sum is under the masks; that it is spoilt is not."""
    training = make(make_job(3, **settings))
    kind = secure_sum.Wire.masked
    spoilt(training, "clinics.s1", lambda end: odd(end, kind, sends(kind, SPOILT[what])))
    with pytest.raises(
        RemoteProtocolError, match=r"^the sum of clinics.s0, clinics.s1, clinics.s2 has no weight"
    ) as caught:
        training.run()
    assert "\n" not in str(caught.value)


def test_rows_without_any_sample_weight_have_no_mean() -> None:
    training = make(make_job(2, **EXACT))
    for model in training.models.values():
        model.sample_weights = np.zeros(model.rows)
    with pytest.raises(RemoteProtocolError, match="or no row of theirs has a sample weight"):
        training.run()


LAYOUT = Layout(("coefficients", "intercept"), ((3, 1), (1,)), (L2, 0.0), 90)


def test_layouts_and_tasks_come_back() -> None:
    assert read_layout(LAYOUT.to_facts(), "x") == LAYOUT
    job = make_job(4)
    task = Task(3, 2, 1, "descent", 0.5, ("clinics.s0", "clinics.s1", "clinics.s2", "clinics.s3"))
    sent = send_task(task, np.zeros(4), job.labelled)
    assert read_task(sent, job, LAYOUT, Task(2, 1, 0, "descent"), "clinics.s0") == task
    values = np.arange(4.0)
    assert (LAYOUT.flat(LAYOUT.split(values)) == values).all()


ALL = tuple(f"clinics.s{i}" for i in range(4))
GOOD = Task(3, 2, 1, "descent", 0.5, ALL)
STEPS = {"server_optimizer": "adam"}
TASKS: dict[str, tuple[Task, dict[str, object]]] = {
    "a sum of before": (replace(GOOD, number=2), {}),
    "a sum beyond the most": (replace(GOOD, number=500), {}),
    "a round of before": (replace(GOOD, round_number=0), {}),
    "a round beyond the job": (replace(GOOD, round_number=101, done=100), {}),
    "rounds that were not done": (replace(GOOD, done=5), {}),
    "a round done again": (replace(GOOD, done=0), {}),
    "other work": (replace(GOOD, work="train"), {}),
    "a batch": (replace(GOOD, batch=1), {}),
    "one silo": (replace(GOOD, group=ALL[:1]), {}),
    "fewer silos than the job has": (replace(GOOD, group=ALL[:3]), {}),
    "other silos than drawn": (replace(GOOD, group=ALL[:2]), {"client_fraction": 0.5, **STEPS}),
    "more silos than drawn": (GOOD, {"client_fraction": 0.5, **STEPS}),
    "half of those that min_silos allows": (replace(GOOD, group=ALL[:2]), {"min_silos": 3}),
}


@pytest.mark.parametrize("what", TASKS)
def test_a_silo_refuses_tasks_beyond_the_job(what: str) -> None:
    task, settings = TASKS[what]
    job = make_job(4, **settings)
    last = Task(2, 1, 0, "descent")
    if "client_fraction" in settings:
        task, last = replace(task, work="step"), replace(last, work="step")
        group = tuple(draw_silos(ALL, job.averaging, job.seed, 2))
        assert group not in (task.group, ALL)
        good = replace(task, group=group)
    else:
        good = GOOD
    values = np.zeros(4 if "clinics.s0" in good.group else 0)
    assert read_task(send_task(good, values, job.labelled), job, LAYOUT, last, "clinics.s0") == good
    with pytest.raises(RemoteProtocolError, match="^coordinator asks for what the job does not provide for"):
        read_task(send_task(task, np.zeros(4), job.labelled), job, LAYOUT, last, "clinics.s0")


ODD_FACTS = {
    "a silo that is not there": {"group": "0,1,2,4"},
    "a silo before the first": {"group": "-1,1,2,3"},
    "a silo twice": {"group": "0,1,1,2"},
    "silos in another order": {"group": "1,0,2,3"},
    "no group": {"group": None},
    "a number as text": {"number": "3"},
    "unknown work": {"work": "labels"},
    "a loss as text": {"loss": "0"},
    "one fact more": {"more": 1},
}


@pytest.mark.parametrize("what", ODD_FACTS)
def test_a_silo_refuses_malformed_tasks(what: str) -> None:
    job = make_job(4)
    sent = send_task(GOOD, np.zeros(4), job.labelled)
    with pytest.raises(RemoteProtocolError, match="^coordinator (asks for|sent no proper task|sent 4 weights)"):
        read_task(
            Revealed(sent.facts | ODD_FACTS[what], sent.values), job, LAYOUT, Task(2, 1, 0, "descent"), COORDINATOR
        )


@pytest.mark.parametrize(
    "values", [np.zeros(3), np.zeros(5), np.zeros(0), np.full(4, np.nan), np.full(4, np.inf)], ids=str
)
def test_a_silo_refuses_weights_that_do_not_fit(values: np.ndarray) -> None:
    job = make_job(4)
    with pytest.raises(RemoteProtocolError, match="^coordinator (asks for|sent . weights, expected 4)"):
        read_task(send_task(GOOD, values, job.labelled), job, LAYOUT, Task(2, 1, 0, "descent"), "clinics.s0")


def test_a_round_of_noisy_gradients_is_played_once() -> None:
    """Each costs privacy, whatever the coordinator says became of the last one."""
    job = make_job(4, dp="local", rounds=5)
    task = Task(3, 2, 1, "noisy", None, ALL)
    sent = send_task(task, np.zeros(4), job.labelled)
    assert read_task(sent, job, LAYOUT, Task(2, 1, 0, "noisy"), "clinics.s0") == task
    for last in (Task(2, 2, 1, "noisy"), Task(2, 3, 2, "noisy")):
        with pytest.raises(RemoteProtocolError, match="does not provide for"):
            read_task(sent, job, LAYOUT, last, "clinics.s0")
    loss = send_task(replace(task, work="loss"), np.zeros(4), job.labelled)
    with pytest.raises(RemoteProtocolError, match="does not provide for"):
        read_task(loss, job, LAYOUT, Task(2, 1, 0, "noisy"), "clinics.s0")


# what is seen

CASES: dict[str, Callable[[], Job]] = {
    "descent": lambda: make_job(3, l2=L2),
    "epochs": lambda: make_job(3, model="splitnn", epochs=2, batch_size=32),
    "fedavg": lambda: make_job(3, aggregation="fedavg", rounds=3),
    "noisy": lambda: make_job(3, dp="central", rounds=3),
}


@pytest.mark.parametrize("case", CASES)
def test_the_transcript_is_the_wire_tables(case: str) -> None:
    training = make(CASES[case]())
    training.run()
    tables = (horizontal.Wire, secure_sum.Wire)
    wire = {m.name: m for table in tables for m in vars(table).values() if isinstance(m, Message)}
    seen = [d for d in training.deliveries if not d.message.startswith("greeting.")]
    assert {d.message for d in seen} == set(wire)
    for delivery in seen:
        message = wire[delivery.message]
        assert type(delivery.payload) is message.payload
        assert (message.src, message.dst) in ((DataParty, Coordinator), (Coordinator, DataParty))
        assert COORDINATOR == (delivery.receiver if message.dst is Coordinator else delivery.sender)
    one = ["keys", "keys_of_all", "boxes", "boxes_for", "masked", "answered", "shares"]
    for name in training.models:
        mine = [d.message.partition(".")[2] for d in seen if name in (d.sender, d.receiver)]
        sums = (len(mine) - 2) // 8
        assert mine == ["begun", *["asked", *one] * sums, "asked"]


def test_what_messages_disclose_is_the_leakage_list() -> None:
    section = re.search(r"\nLeakage\n-+\n(.*?)\n\n", horizontal.__doc__, re.DOTALL).group(1)
    listed = dict(re.findall(r"^(coordinator|silos) : (.*(?:\n {4}.*)*)", section, re.MULTILINE))
    listed = {role: set(re.split("[;:] ", " ".join(text.split()))) for role, text in listed.items()}
    tables = (horizontal.Wire, secure_sum.Wire)
    messages = [m for table in tables for m in vars(table).values() if isinstance(m, Message)]
    for role, kind in (("coordinator", Coordinator), ("silos", DataParty)):
        told = {part for m in messages if m.dst is kind and m.discloses for part in re.split("[;:] ", m.discloses)}
        own = {"the joint model of every round"} if role == "coordinator" else set()  # it makes it
        assert {part.partition(" (")[0] for part in listed[role]} == told | own


def test_no_message_to_the_coordinator_holds_a_silos_gradient_or_rows() -> None:
    training = make(make_job(3, aggregation="fedavg", rounds=3, l2=L2))
    found: dict[str, list[bytes]] = {name: [] for name in training.models}
    for name, model in training.models.items():
        honest = model.train

        def spy(weights, number, name=name, honest=honest):
            loss, new = honest(weights, number)
            found[name] += [np.array([loss]).tobytes(), *(array.tobytes() for array in new)]
            found[name] += [array.tobytes() for array in (new[0] - weights[0], new[1] - weights[1])]
            return loss, new

        model.train = spy
    training.run()
    sent = b"|".join(frame.body for frame in training.frames)
    for name, model in training.models.items():
        assert len(found[name]) == 15
        assert not any(secret in sent for secret in found[name])
        assert not any(row.tobytes() in sent for row in model.X)


def test_the_ledger_tells_whose_model_and_sums_are_seen() -> None:
    training = make(make_job(2, l2=L2, max_iter=2))
    training.run()
    told = {entry.discloses for entry in training.ledgers[COORDINATOR].entries if entry.discloses}
    assert told == {horizontal.Wire.begun.discloses, secure_sum.Wire.shares.discloses} | {
        horizontal.Wire.asked.discloses,
        secure_sum.Wire.answered.discloses,
    }
