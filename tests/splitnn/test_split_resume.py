"""Split learning whose roles are killed anywhere and started again ends as if nothing had happened, to the last bit."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from parties.checkpoint import ALIGNED
from parties.errors import DataError
from parties.link import COORDINATOR
from tests.interruptions import Kill, Story, play_through
from tests.splitnn.split_networks import SplitNetworks
from vfl import gradient_noise

NOISE = {"gradient_clip": 0.1, "gradient_noise": 1.0, "label_inference": True}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout, local steps": {"settings": {"dropout": 0.4, "bottom_hidden": (5,), "local_steps": 2}},
    "sgd with momentum": {"settings": {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1}},
    "noise and attack": {"settings": NOISE},
    "early stopping": {
        "rows": 80,
        "validation": 25,
        "settings": {"epochs": 9, "learning_rate": 0.3, "early_stopping_rounds": 2},
    },
    "multiclass, one passive party": {"task": "multiclass", "widths": (0, 3), "validation": 15},
}
cases = pytest.mark.parametrize("case", CASES)


@pytest.fixture
def one_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs are compared with each other: both draw the same secret."""
    monkeypatch.setattr(gradient_noise, "os", SimpleNamespace(urandom=bytes))


def tell(case: str, folder: Path, *kills: Kill, starts: list[SplitNetworks] | None = None) -> tuple[Story[Any], Any]:
    starts = [] if starts is None else starts

    def plays() -> Any:
        starts.append(SplitNetworks(**CASES[case]))
        return starts[-1].plays()

    story = play_through(plays, SplitNetworks(**CASES[case]).roles, folder, kills)
    return story, starts[-1]


def whole(story: Story[Any], networks: SplitNetworks) -> dict[str, Any]:
    """What has to repeat to the last bit, per party."""
    fit, course = story.results["bank"], story.results["bank"].course
    assert networks.network is not None
    weights = {"bank": networks.network.weights()} | {name: b.weights() for name, b in networks.bottoms.items()}
    bits = {f"{name} {key}": array.tobytes() for name, arrays in weights.items() for key, array in arrays.items()}
    losses = (course.rounds, course.losses, course.validation_losses, course.typical.tobytes(), course.warnings)
    others = [story.results[name] for name in (COORDINATOR, *networks.names[1:])]
    return {**bits, "course": losses, "rest": (fit.label_inference, fit.gradient_epsilon, fit.warnings, others)}


def check(case: str, folder: Path, *kills: Kill) -> Story[Any]:
    plain, networks = tell(case, folder / "plain")
    story, again = tell(case, folder / "killed", *kills)
    assert whole(story, again) == whole(plain, networks)
    assert set(story.lost) <= {0, 1}
    assert story.warnings == []
    return story


@pytest.mark.usefixtures("one_secret")
@pytest.mark.parametrize("role", [COORDINATOR, "bank", "shop-1"])
@cases
def test_after_every_epoch(case: str, role: str, tmp_path: Path) -> None:
    """Killed before and after the first epoch is kept, then at each start once one more epoch is."""
    kills = [Kill(role, "save", 1), Kill(role, "saved", 1), Kill(role, "save", 2), Kill(role, "save", 2)]
    story = check(case, tmp_path, *kills)
    assert story.kills >= 3  # a start that has the first epoch finds one less to save
    assert story.resumed[0] == ALIGNED
    assert sorted(story.resumed) == story.resumed and story.resumed[-1] >= ALIGNED + 2


@pytest.mark.usefixtures("one_secret")
@cases
def test_many_kills_anywhere(case: str, tmp_path: Path) -> None:
    plain, networks = tell(case, tmp_path / "plain")
    rng = random.Random(len(case))
    kills = []
    for what in rng.sample(["send", "receive", "receive", "save", "saved"], 4):
        role = rng.choice(sorted(plain.actions))
        per_epoch = plain.actions[role][what] / plain.results[COORDINATOR]
        kills.append(Kill(role, what, 1 + int(per_epoch * rng.uniform(0.5, 1.7))))
    story, again = tell(case, tmp_path / "killed", *kills)
    assert whole(story, again) == whole(plain, networks)
    assert story.kills >= 2


@pytest.mark.parametrize("role", [COORDINATOR, "bank", "shop-1"])
def test_after_the_last_epoch_nothing_is_trained_again(role: str, tmp_path: Path) -> None:
    """A role that dies once all have kept the last epoch finds nothing to do; early stopping is remembered."""
    epochs = tell("early stopping", tmp_path / "plain")[0].results[COORDINATOR]
    kills = [Kill(role, "saved", epochs)]
    starts: list[SplitNetworks] = []
    story, networks = tell("early stopping", tmp_path / "killed", *kills, starts=starts)
    assert story.kills == 1
    assert story.results[COORDINATOR] == epochs
    if story.resumed == [ALIGNED + epochs]:
        assert not any(d.message.startswith("split_learning") for d in networks.deliveries)


def test_an_epoch_that_is_repeated_sends_the_same_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh noise on the same gradients would be a second release, and cost its epsilon again."""
    drawn: list[tuple[int, int, bytes]] = []
    honest = gradient_noise.GradientNoise.release

    def spy(self: gradient_noise.GradientNoise, gradients: np.ndarray, epoch: int, batch: int) -> np.ndarray:
        released = honest(self, gradients, epoch, batch)
        drawn.append((epoch, batch, released.tobytes()))
        return released

    monkeypatch.setattr(gradient_noise.GradientNoise, "release", spy)
    story, _ = tell("noise and attack", tmp_path, Kill("bank", "send", 18), Kill("shop-1", "receive", 6))
    assert story.kills == 2
    assert len(drawn) > len({(epoch, batch) for epoch, batch, _ in drawn}) == 3 * 4
    assert len(set(drawn)) == 12


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    starts = iter([{}, {"bottom_hidden": (7,)}])
    with pytest.raises(DataError, match="network"):
        play_through(
            lambda: SplitNetworks(settings=next(starts)).plays(),
            SplitNetworks().roles,
            tmp_path,
            [Kill("bank", "save", 2)],
        )
