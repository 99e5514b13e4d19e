"""Averaging whose roles are killed anywhere and started again ends as if nothing had happened, to the last bit."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from parties.checkpoint import ALIGNED
from parties.frame import Frame
from parties.link import COORDINATOR, Endpoint, Link
from parties.wire import Active, Coordinator, DataParty, LabelSilo, Payload
from tests.interruptions import FusedTransport, Kill, Killed, Story, play_through
from tests.silos.averaging import L2, Training_, again, dies, make, make_job, odd, sleeps, wake
from vfl import horizontal
from vfl.horizontal import Averaged
from vfl.secure_sum import Wire

CASES: dict[str, dict[str, object]] = {
    "descent": {"tol": 1e-18, "l2": L2},
    "fedavg": {"aggregation": "fedavg", "rounds": 6},
    "clients drawn": {"aggregation": "fedavg", "rounds": 6, "client_fraction": 0.5},
    "momentum": {"aggregation": "simple", "rounds": 6, "server_optimizer": "momentum"},
    "Adam": {"aggregation": "fedavg", "rounds": 6, "server_optimizer": "adam"},
    "gradient steps": {"server_optimizer": "momentum", "max_iter": 6},
    "noisy": {"dp": "central", "rounds": 6},
    "epochs, Adam": {"model": "splitnn", "epochs": 5, "batch_size": 20},
    "epochs, SGD": {"model": "splitnn", "epochs": 5, "batch_size": 20, "optimizer": "sgd", "momentum": 0.5},
    "noisy network": {"model": "splitnn", "dp": "local", "rounds": 5},
}


@dataclass
class TolerantFused(FusedTransport):
    """Where the coordinator may go on without a silo."""

    def tolerate(self, peers: Sequence[str], least: int) -> None:
        self.inner.tolerate(peers, least)

    def dismiss(self, peer: str, why: str) -> None:
        self.inner.dismiss(peer, why)

    def lost(self) -> dict[str, str]:
        return self.inner.lost()

    def receive_within(self, peer: str, waiting_for: str, seconds: float) -> Frame | None:
        self.fuse.burn("receive")
        return self.inner.receive_within(peer, waiting_for, seconds)


def tell(
    make_training: Callable[[], Training_], folder: Path, *kills: Kill, every: Callable[[Training_], None] | None = None
) -> tuple[Story[Averaged], list[Training_]]:
    """Play to the end, started again after every kill."""
    trainings: list[Training_] = []

    def plays() -> dict[str, Callable[[Endpoint], Averaged]]:
        training = again(make_training())
        if every is not None:
            every(training)
        trainings.append(training)
        return {name: bind(training, name) for name in (*training.models, COORDINATOR)}

    def bind(training: Training_, name: str) -> Callable[[Endpoint], Averaged]:
        def play(endpoint: Endpoint) -> Averaged:
            fused = endpoint.transport
            endpoint.transport = TolerantFused(fused.inner, fused.fuse)
            return (training.plays.get(name) or training.honest(name))(endpoint)

        return play

    names = make_training().models
    roles = {name: Active if name == "clinics.s0" else LabelSilo for name in names} | {COORDINATOR: Coordinator}
    return play_through(plays, roles, folder, kills), trainings


def bits(story: Story[Averaged]) -> dict[str, object]:
    return {
        name: ([a.tobytes() for a in found.weights], found.losses, found.rounds, found.converged, found.left_out)
        for name, found in story.results.items()
    }


def kills_in_turn(story: Story[Averaged], seed: str, count: int) -> list[Kill]:
    """Kills of random roles at random actions, each some rounds after the step that the last one left."""
    rng = random.Random(seed)
    rounds = story.results[COORDINATOR].rounds
    found = []
    for _ in range(count):
        role = rng.choice(sorted(story.actions))
        what = rng.choice(["send", "receive", "receive", "save", "saved"])
        found.append(Kill(role, what, 1 + int(story.actions[role][what] / rounds * rng.uniform(0.9, 2.2))))
    return found


@pytest.mark.parametrize("case", CASES)
def test_many_kills_in_one_run(case: str, tmp_path: Path) -> None:
    model = lambda: make(make_job(4, **CASES[case]))  # noqa: E731
    plain, _ = tell(model, tmp_path / "plain")
    story, _ = tell(model, tmp_path / "killed", *kills_in_turn(plain, case, 5))
    assert bits(story) == bits(plain)
    assert story.kills >= 2 and max(story.resumed) > ALIGNED
    assert set(story.lost) <= {0, 1} and story.warnings == []


@pytest.mark.parametrize("role", [COORDINATOR, "clinics.s0", "clinics.s2"])
@pytest.mark.parametrize("case", ["descent", "fedavg"])
def test_a_role_that_dies_at_every_point_of_a_round(case: str, role: str, tmp_path: Path) -> None:
    model = lambda: make(make_job(3, **CASES[case]))  # noqa: E731
    plain, _ = tell(model, tmp_path / "plain")
    rounds = plain.results[COORDINATOR].rounds
    points = [
        Kill(role, what, 1 + round(share * plain.actions[role][what] / rounds))
        for what, shares in (("send", (0.2, 0.6, 1.0)), ("receive", (0.0, 0.4, 0.8, 1.2)))
        for share in shares
    ]
    points += [Kill(role, "save", 1), Kill(role, "saved", 1), Kill(role, "save", 2)]
    random.Random(len(role)).shuffle(points)
    story, _ = tell(model, tmp_path / "killed", *points[:5])
    assert bits(story) == bits(plain) and story.kills >= 4


@pytest.mark.parametrize("case", ["descent", "fedavg"])
def test_a_silo_that_was_lost_and_comes_back_after_a_crash_is_in_no_sum_opened_without_it(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All go back to its last round: two sums at the same weights, with it and without, would differ by its part."""
    lost, model = "clinics.s3", lambda: make(make_job(4, min_silos=3, **CASES[case]))
    starts: list[Training_] = []
    opened: list[tuple[int, bytes, tuple[str, ...]]] = []
    ask = horizontal._Server.ask

    def watch(server: horizontal._Server, work: str, weights: np.ndarray, *further: object) -> object:
        found = ask(server, work, weights, *further)
        opened.append((len(starts), weights.tobytes(), found.answered))
        return found

    def spoil(training: Training_) -> None:
        starts.append(training)
        if len(starts) == 1:
            training.plays[lost] = lambda end: (odd(end, Wire.masked, dies, 4), training.honest(lost)(end))[1]

    monkeypatch.setattr(horizontal._Server, "ask", watch)
    story, _ = tell(model, tmp_path / "killed", Kill(COORDINATOR, "saved", 4), every=spoil)
    assert story.kills == 1 and story.resumed[0] > ALIGNED and story.lost[0] >= 1
    by_weights: dict[bytes, set[tuple[str, ...]]] = {}
    for _, weights, answered in opened:
        by_weights.setdefault(weights, set()).add(answered)
    assert all(len(lists) == 1 for lists in by_weights.values())
    first = {weights for start, weights, _ in opened if start == 1}
    assert any(lost not in answered for start, weights, answered in opened if start == 2 and weights in first)
    late = [answered for start, weights, answered in opened if start == 2 and weights not in first]
    assert late and all((lost in answered) == (case == "fedavg") for answered in late)


@pytest.mark.parametrize("case", ["descent", "fedavg"])
def test_a_silo_that_was_late_before_a_crash_stays_what_it_was(case: str, tmp_path: Path) -> None:
    """L-BFGS goes on without it, averaging takes it back: as the run without the crash."""
    late, waker, model = "clinics.s3", "clinics.s0", lambda: make(make_job(4, min_silos=3, **CASES[case]))
    starts: list[Training_] = []

    def spoil(training: Training_) -> None:
        starts.append(training)
        if len(starts) > 1:
            return

        def sleep(endpoint: Endpoint) -> Averaged:
            odd(endpoint, Wire.masked, sleeps(endpoint, Wire.masked, waker), 3)
            return training.honest(late)(endpoint)

        def rouse(endpoint: Endpoint) -> Averaged:
            def act(link: Link[DataParty, Coordinator], payload: Payload) -> None:
                wake(endpoint, late)
                link.send(Wire.keys, payload)

            odd(endpoint, Wire.keys, act, 4)
            return training.honest(waker)(endpoint)

        training.plays |= {late: sleep, waker: rouse}

    plain, _ = tell(model, tmp_path / "plain", every=spoil)
    starts.clear()
    story, _ = tell(model, tmp_path / "killed", Kill(COORDINATOR, "saved", 5), every=spoil)
    assert story.kills == 1 and len(starts) == 2 and story.resumed[0] > ALIGNED
    assert bits(story) == bits(plain)
    left_out = plain.results[COORDINATOR].left_out
    assert {each.silo for each in left_out} == {late} and all(each.why == "late" for each in left_out)


def test_a_kill_ends_no_silo_quietly(tmp_path: Path) -> None:
    """Without min_silos no kill is passed over as a silo that is left out."""
    training = make(make_job(3, aggregation="fedavg", rounds=3))

    def play(endpoint: Endpoint) -> Averaged:
        def stop(link: object, payload: object) -> None:
            raise Killed("now")

        odd(endpoint, Wire.masked, stop, 2)
        return training.honest("clinics.s1")(endpoint)

    training.plays["clinics.s1"] = play
    with pytest.raises(Killed):
        training.run()
