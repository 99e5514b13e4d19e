"""Boosting over silos whose roles are killed anywhere and started again ends alike, to the last bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from parties.checkpoint import ALIGNED
from parties.link import COORDINATOR
from tests.interruptions import Kill, Story, play_through
from tests.silos.silo_forests import silo_forests
from tests.trees.test_resume import tree_bits
from vfl import boosting_silos

CUT = (2, 2, 0)
CASES: dict[str, dict[str, Any]] = {
    "binary": {},
    "regression, subsample": {"task": "regression", "settings": {"subsample": 0.6, "colsample_bytree": 0.5}},
    "one tree per class, first ones alone": {
        "task": "multiclass",
        "settings": {"multi_output": False, "first_tree_active_only": True},
    },
    "early stopping": {
        "validation": 25,
        "settings": {"n_estimators": 9, "early_stopping_rounds": 2, "learning_rate": 1.0},
    },
}


@pytest.fixture(autouse=True)
def few_obfuscators(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that soon ends by a kill makes as many as it needs."""
    monkeypatch.setattr(boosting_silos, "CANDIDATE_POOL", 8)


def tell(case: str, folder: Path, *kills: Kill) -> Story[Any]:
    options = {"task": "binary", "settings": {}} | CASES[case]
    base = {"n_estimators": 4, "max_depth": 2, "max_bin": 4, "min_child_weight": 0.1}
    options["settings"] = base | options["settings"]
    forests = silo_forests(options.pop("task"), CUT, rows=50, key_bits=384, **options)
    return play_through(forests.plays, forests.roles, folder, kills)


def whole(story: Story[Any]) -> dict[str, Any]:
    """What has to repeat to the last bit, per party."""
    found: dict[str, Any] = {}
    for name, fit in story.results.items():
        if fit is None:
            continue
        if not hasattr(fit, "boosted"):
            figures = () if fit.importance is None else (fit.importance.gain.tobytes(), fit.importance.count.tobytes())
            found[name] = (fit.splits, fit.trees, figures)
            continue
        boosted = fit.boosted
        losses = (boosted.losses, boosted.validation_losses, boosted.rounds, boosted.warnings)
        trees = [tree_bits(tree) for tree in boosted.trees]
        gains = {holder: figures.gain.tobytes() for holder, figures in fit.importance.items()}
        found[name] = (trees, boosted.start.tobytes(), losses, gains, fit.splits)
    return found


def grown(story: Story[Any]) -> int:
    return story.actions["bank.s0"]["save"]


def check(story: Story[Any], plain: Story[Any]) -> None:
    """Ended alike; no more than a round was done twice, and none that all had."""
    assert whole(story) == whole(plain)
    assert set(story.lost) <= {0, 1}
    assert story.warnings == []
    behind = max(story.resumed[-1] - ALIGNED, 0) if story.resumed else 0
    assert story.actions["bank.s0"]["save"] == grown(plain) - behind


@pytest.mark.parametrize("case", CASES)
def test_many_kills_in_one_run(case: str, tmp_path: Path) -> None:
    plain = tell(case, tmp_path / "plain")
    rng = random.Random(len(case))
    kills = []
    for what in rng.sample(["send", "receive", "receive", "save", "saved"], 4):
        role = rng.choice(sorted(plain.actions))
        per_round = plain.actions[role][what] / grown(plain)
        kills.append(Kill(role, what, 1 + int(per_round * rng.uniform(0.9, 2.2))))
    story = tell(case, tmp_path / "killed", *kills)
    check(story, plain)
    assert story.kills >= 2
    assert max(story.resumed) > ALIGNED


@pytest.mark.parametrize("role", [COORDINATOR, "bank.s0", "bank.s1", "shop-1.s0", "shop-1.s1", "shop-2"])
def test_a_role_that_dies_at_points_of_a_round(role: str, tmp_path: Path) -> None:
    plain = tell("binary", tmp_path / "plain")
    points = [
        Kill(role, what, 1 + round(share * plain.actions[role][what] / grown(plain)))
        for what, shares in (("send", (0.1, 0.7)), ("receive", (0.5, 1.1)))
        for share in shares
    ]
    points += [Kill(role, "save", 1), Kill(role, "saved", 1)]
    random.Random(len(role)).shuffle(points)
    story = tell("binary", tmp_path / "killed", *points)
    check(story, plain)
    assert story.kills >= len(points) - 2
