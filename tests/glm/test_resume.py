"""A GLM whose roles are killed anywhere and started again ends as if nothing had happened, to the last bit."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from parties.checkpoint import ALIGNED, FolderKeeper, Keeper
from parties.errors import DataError
from parties.link import COORDINATOR
from parties.wire import Active, Coordinator, Passive, Role
from tests.glm.federations import Federation, make_federation, results
from tests.interruptions import Kill, Story, play_through
from vfl import glm_exact, glm_part, glm_quadratic
from vfl.drawn_labels import drawn_once
from vfl.glm import Fit
from vfl.label_dp import randomise_labels

ROWS = 60
QUADRATIC = {"key_holder": "coordinator"}
CASES: dict[str, dict[str, Any]] = {
    "exact, logistic": {},
    "exact, converged": {"training": {"max_iter": 30, "tol": 1e-6}},
    "exact, linear": {"model": "linear"},
    "exact, poisson": {"model": "poisson"},
    "exact, softmax": {"model": "softmax"},
    "exact, softmax with weights": {"model": "softmax", "weighted": True},
    "exact, randomised labels": {"epsilon": 2.0},
    "exact, one passive party": {"cuts": (2, 2)},
    "exact, labels alone": {"cuts": (0, 2, 2)},
    "exact, more rounds than pairs": {"model": "softmax", "training": {"max_iter": 6}, "memory": 2},
    "exact, no intercept": {"training": {"fit_intercept": False}},
    "exact, scores rounded from the fourth evaluation on": {
        "training": {"max_iter": 6},
        "cuts": (2, 3, 1),
        "enforce": True,
    },
    "quadratic, logistic": QUADRATIC,
    "quadratic, Newton": QUADRATIC | {"training": {"newton_steps": 2, "tol": 3e-4, "max_iter": 20}},
    "quadratic, by row": QUADRATIC | {"training": {"newton_steps": 1, "curvature": "row", "tol": 1e-4, "max_iter": 9}},
    "quadratic, linear with weights": QUADRATIC | {"model": "linear", "weighted": True},
    "quadratic, labels alone": QUADRATIC | {"cuts": (0, 2, 2), "training": {"fit_intercept": False}},
}
ESTIMATED: dict[str, Any] = {}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if "memory" in CASES[name]:
        monkeypatch.setattr(glm_exact, "memory", lambda _: CASES[name]["memory"])
    return name


def federation_of(case: str) -> Federation:
    """The same data and labels for every start."""
    options = {"model": "logistic", "cuts": (2, 2, 1), "key_holder": "active", "training": {}} | CASES[case]
    federation = make_federation(options["model"], ROWS, options["cuts"], seed=3, key_holder=options["key_holder"])
    federation.training, federation.key_bits = {"max_iter": 4} | options["training"], 256
    federation.enforce = "enforce" in options
    if "weighted" in options:
        federation.weights = np.random.default_rng(1).uniform(0.2, 3, ROWS)
    if "epsilon" in options:
        federation.y = ESTIMATED.setdefault(case, randomise_labels(federation.y, 2, options["epsilon"]))
    return federation


def tell(case: str, folder: Path, *kills: Kill, spoil: Callable[[Path], None] | None = None) -> Story[Fit]:
    federation = federation_of(case)
    roles: dict[str, type[Role]] = {COORDINATOR: Coordinator, "active": Active}
    return play_through(federation.plays, roles | dict.fromkeys(federation.names[1:], Passive), folder, kills, spoil)


def whole(story: Story[Fit]) -> dict[str, Any]:
    return {name: (*bits, story.results[name].warnings) for name, bits in results(story.results).items()}


def kills_in_turn(story: Story[Fit], seed: int, count: int) -> list[Kill]:
    """Kills for one run: random roles and actions, each some rounds after the step that the last one left."""
    rng = random.Random(seed)
    kills = []
    for _ in range(count):
        role = rng.choice(sorted(story.actions))
        what = rng.choice(["send", "receive", "receive", "save", "saved"])
        per_round = story.actions[role][what] / story.results["active"].rounds
        kills.append(Kill(role, what, 1 + int(per_round * rng.uniform(0.9, 2.2))))
    return kills


def check(story: Story[Fit], plain: Story[Fit]) -> None:
    """Ended alike; no more than a round was done twice, and none that all had."""
    assert whole(story) == whole(plain)
    assert set(story.lost) <= {0, 1}
    assert story.warnings == []
    rounds = story.results["active"].rounds
    behind = max(story.resumed[-1] - ALIGNED, 0) if story.resumed else 0
    assert [counts["save"] for counts in story.actions.values()] == [rounds - behind] * len(story.actions)


def test_many_kills_in_one_run(case: str, tmp_path: Path) -> None:
    plain = tell(case, tmp_path / "plain")
    story = tell(case, tmp_path / "killed", *kills_in_turn(plain, seed=len(case), count=5))
    check(story, plain)
    assert story.kills >= 2
    assert max(story.resumed) > ALIGNED


@pytest.mark.parametrize("role", [COORDINATOR, "active", "passive-1"])
@pytest.mark.parametrize("case", ["exact, converged", "quadratic, Newton"], indirect=True)
def test_a_role_that_dies_at_every_point_of_a_round(case: str, role: str, tmp_path: Path) -> None:
    plain = tell(case, tmp_path / "plain")
    rounds = plain.results["active"].rounds
    points = [
        Kill(role, what, 1 + round(share * plain.actions[role][what] / rounds))
        for what, shares in (("send", (0.2, 0.6, 1.0)), ("receive", (0.0, 0.4, 0.8, 1.2)))
        for share in shares
    ]
    points += [Kill(role, "save", 1), Kill(role, "saved", 1), Kill(role, "save", 2)]
    random.Random(len(role)).shuffle(points)
    story = tell(case, tmp_path / "killed", *points)
    check(story, plain)
    assert story.kills >= len(points) - 1


@pytest.mark.parametrize(
    ("case", "role"),
    [("exact, poisson", "active"), ("exact, poisson", "passive-2"), ("quadratic, by row", COORDINATOR)],
    indirect=["case"],
)
def test_a_spoilt_newest_checkpoint_costs_one_more_round(case: str, role: str, tmp_path: Path) -> None:
    def spoil(folder: Path) -> None:
        newest = max(folder.glob(f"{role}/step *.ckpt"), key=lambda path: int(path.stem[5:]))
        newest.write_bytes(newest.read_bytes()[:-1])

    plain = tell(case, tmp_path / "plain")
    story = tell(case, tmp_path / "killed", Kill("passive-1", "saved", 3), spoil=spoil)
    assert whole(story) == whole(plain)
    assert story.resumed[0] - ALIGNED in (1, 2)
    assert len(story.warnings) == 1


@pytest.mark.parametrize("role", [COORDINATOR, "active", "passive-2"])
def test_a_full_disk_stops_nobody(role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The role without room goes on, and after a crash all go back to the alignment, which every role still has."""
    plain = tell("exact, logistic", tmp_path / "plain")
    honest, full = os.write, [False]

    def write(number: int, data: bytes) -> int:
        full[0] = full[0] or honest_saves(role)
        if full[0] and threading.current_thread().name == role:
            raise OSError(errno.ENOSPC, "No space left on device")
        return honest(number, data)

    def honest_saves(name: str) -> bool:
        return (tmp_path / "killed" / name / "step 2.ckpt").exists()

    monkeypatch.setattr(os, "write", write)
    story = tell("exact, logistic", tmp_path / "killed", Kill("passive-1", "saved", 4))
    assert whole(story) == whole(plain)
    assert story.resumed == [ALIGNED]
    assert all("No space left on device" in line for line in story.warnings)
    assert 1 <= len(story.warnings) <= 2  # one of each start


@pytest.mark.parametrize("case", ["exact, softmax", "quadratic, linear with weights"], indirect=True)
def test_progress_begins_at_the_next_round(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, float | None]] = []
    module, name = (glm_exact, "active") if case.startswith("exact") else (glm_quadratic, "coordinator")
    honest = getattr(module, name)

    def play(*arguments: Any) -> Fit:
        fit: Fit = honest(*arguments[:-1], lambda rounds, loss: told.append((rounds, loss)))
        return fit

    monkeypatch.setattr(module, name, play)
    plain = tell(case, tmp_path / "plain")
    once, told[:] = list(told), []
    story = tell(case, tmp_path / "killed", Kill("passive-1", "saved", 2), Kill("active", "receive", 9))
    check(story, plain)
    assert [rounds for rounds, _ in once] == list(range(1, plain.results["active"].rounds + 1))
    assert sorted(set(told)) == once
    assert len(told) <= len(once) + 2


# labels that are drawn once


def keeper_in(folder: Path, **more: str) -> FolderKeeper:
    return FolderKeeper(folder=folder, **{"run": "run", "job": "job", "party": "bank"} | more)


def draw(labels: Any) -> Any:
    return randomise_labels(labels, 2, 1.0)


LABELS = np.arange(400) % 2.0


@pytest.mark.parametrize("step", [0, ALIGNED, ALIGNED + 1])
def test_labels_are_randomised_once(step: int, tmp_path: Path) -> None:
    keeper = keeper_in(tmp_path)
    keeper.save_aligned({}, {})
    first = drawn_once(keeper, LABELS, draw)
    keeper.save_round(1, {}, {})
    again = keeper_in(tmp_path)
    again.resume_from(step)
    np.testing.assert_array_equal(drawn_once(again, LABELS, draw), first)
    assert not np.array_equal(drawn_once(Keeper(), LABELS, draw), first)  # equal with chance below 2^-200


def test_other_labels_are_refused(tmp_path: Path) -> None:
    drawn_once(keeper_in(tmp_path), LABELS, draw)
    with pytest.raises(DataError, match="not those that this run randomised"):
        drawn_once(keeper_in(tmp_path), 1 - LABELS, draw)
    with pytest.raises(DataError, match="not those that this run randomised"):
        drawn_once(keeper_in(tmp_path), LABELS[:-1], draw)


def test_the_job_trains_on_labels_drawn_once(tmp_path: Path) -> None:
    privacy, terms = SimpleNamespace(label_dp_epsilon=1.0), SimpleNamespace(outputs=1)
    data = SimpleNamespace(labels_to_fit=LABELS, job=SimpleNamespace(privacy=privacy, model="logistic"), weights=None)
    first, again = (glm_part.target_of(data, terms, keeper_in(tmp_path)) for _ in range(2))  # type: ignore[arg-type]
    np.testing.assert_array_equal(first.y, again.y)
    assert first.estimated
