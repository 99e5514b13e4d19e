"""Boosting whose roles are killed anywhere and started again ends as if nothing had happened, to the last bit."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from parties.checkpoint import ALIGNED, FolderKeeper, Keeper
from parties.link import COORDINATOR
from parties.wire import Active, Coordinator, Passive, Role
from tests.interruptions import Kill, Story, play_through
from tests.trees.forests import Forests, make_frames, make_labels
from vfl import boosting, boosting_part
from vfl.boosting import ActiveFit
from vfl.label_dp import randomise_labels
from vfl.trees.forest import Split, Tree
from vfl.trees.grow import Limits
from vfl.trees.kept import restore_splits, restore_trees, splits_to_arrays, trees_to_arrays

ROWS = 50
CASES: dict[str, dict[str, Any]] = {
    "binary": {},
    "one passive party": {"parties": 2, "settings": {"max_depth": 3}},
    "regression, subsample": {"task": "regression", "settings": {"subsample": 0.6, "colsample_bytree": 0.5}},
    "count": {"task": "count"},
    "multiclass": {"task": "multiclass"},
    "one tree per class": {"task": "multiclass", "settings": {"multi_output": False}},
    "one tree per class, first ones alone": {
        "task": "multiclass",
        "settings": {"multi_output": False, "first_tree_active_only": True},
    },
    "GOSS": {"settings": {"top_rate": 0.3, "other_rate": 0.3}},
    "first tree alone": {"settings": {"first_tree_active_only": True}},
    "validation": {"validation": 20},
    "early stopping": {
        "validation": 25,
        "settings": {"n_estimators": 9, "early_stopping_rounds": 2, "learning_rate": 2.0},
    },
    "weights and sorted categories": {"weighted": True, "settings": {"max_cat_to_onehot": 2}},
    "guards": {"limits": Limits(10, 3)},
    "randomised labels": {"epsilon": 2.0, "validation": 20},
}
ESTIMATED: dict[str, Any] = {}
cases = pytest.mark.parametrize("case", CASES)


@pytest.fixture(autouse=True)
def few_obfuscators(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that soon ends by a kill makes as many as it needs."""
    monkeypatch.setattr(boosting, "CANDIDATE_POOL", 8)


def forests_of(case: str) -> Forests:
    """The same data and labels for every start."""
    options = {"task": "binary", "parties": 3, "settings": {}} | CASES[case]
    frames = make_frames(ROWS, parties=options["parties"], columns=2)
    y: Any = make_labels(options["task"], frames)
    if "epsilon" in options:
        y = ESTIMATED.setdefault(case, randomise_labels(y, 2, options["epsilon"]))
    return Forests(
        options["task"],
        frames,
        y,
        outputs=3 if options["task"] == "multiclass" else 1,
        validation=options.get("validation", 0),
        weights=np.random.default_rng(1).uniform(0.2, 3, ROWS) if "weighted" in options else None,
        limits=options.get("limits", Limits()),
        key_bits=384,
        settings={"n_estimators": 4, "max_depth": 2, "max_bin": 4, "min_child_weight": 0.1} | options["settings"],
    )


def tell(case: str, folder: Path, *kills: Kill) -> Story[Any]:
    forests = forests_of(case)
    roles: dict[str, type[Role]] = {COORDINATOR: Coordinator, "bank": Active}
    return play_through(forests.plays, roles | dict.fromkeys(forests.names[1:], Passive), folder, kills)


def tree_bits(tree: Tree) -> tuple[Any, ...]:
    arrays = (tree.owner, tree.left, tree.values, tree.gain, tree.cover)
    return *((array.dtype.name, array.shape, array.tobytes()) for array in arrays), tree.output


def whole(story: Story[Any]) -> dict[str, Any]:
    """Return what has to repeat to the last bit, per party."""
    fits = {name: fit for name, fit in story.results.items() if fit is not None}
    lead: ActiveFit = fits.pop("bank")
    boosted = lead.boosted
    importance = {name: (i.gain.tobytes(), i.cover.tobytes(), i.count.tobytes()) for name, i in lead.importance.items()}
    losses = (boosted.losses, boosted.validation_losses, boosted.rounds, boosted.warnings)
    bank = ([tree_bits(tree) for tree in boosted.trees], boosted.start.tobytes(), losses, importance)
    others = {
        name: (fit.splits, fit.trees, fit.importance.gain.tobytes(), fit.importance.count.tobytes())
        for name, fit in fits.items()
    }
    return {"bank": (*bank, sorted(lead.splits, key=lambda split: (split.tree, split.node))), **others}


def grown(story: Story[Any]) -> int:
    """Rounds of an uninterrupted run, those after the best one too."""
    return story.actions["bank"]["save"]


def check(story: Story[Any], plain: Story[Any]) -> None:
    """Ended alike; no more than a round was done twice, and none that all had."""
    assert whole(story) == whole(plain)
    assert set(story.lost) <= {0, 1}
    assert story.warnings == []
    behind = max(story.resumed[-1] - ALIGNED, 0) if story.resumed else 0
    assert story.actions["bank"]["save"] == grown(plain) - behind


@cases
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


@pytest.mark.parametrize("role", [COORDINATOR, "bank", "shop-1"])
@pytest.mark.parametrize("case", ["binary", "one tree per class, first ones alone"])
def test_a_role_that_dies_at_every_point_of_a_round(case: str, role: str, tmp_path: Path) -> None:
    plain = tell(case, tmp_path / "plain")
    points = [
        Kill(role, what, 1 + round(share * plain.actions[role][what] / grown(plain)))
        for what, shares in (("send", (0.1, 0.7)), ("receive", (0.0, 0.5, 1.1)))
        for share in shares
    ]
    points += [Kill(role, "save", 1), Kill(role, "saved", 1)]
    random.Random(len(role)).shuffle(points)
    story = tell(case, tmp_path / "killed", *points)
    check(story, plain)
    assert story.kills >= len(points) - 2


@pytest.mark.parametrize("role", [COORDINATOR, "bank", "shop-1"])
def test_after_the_last_round_nothing_is_grown_again(role: str, tmp_path: Path) -> None:
    """Early stopping too is remembered: a run that stopped grows no other tree after a crash."""
    plain = tell("early stopping", tmp_path / "plain")
    assert grown(plain) < 9
    assert plain.results["bank"].boosted.rounds == grown(plain) - 2
    story = tell("early stopping", tmp_path / "killed", Kill(role, "receive", plain.actions[role]["receive"]))
    check(story, plain)
    assert story.kills == 1
    assert story.resumed[0] in (ALIGNED + grown(plain) - 1, ALIGNED + grown(plain))
    assert (story.resumed[0] == ALIGNED + grown(plain)) == (role != COORDINATOR)


def test_progress_begins_at_the_next_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, float | None]] = []
    honest = boosting.active

    def play(*arguments: Any) -> ActiveFit:
        return honest(*arguments[:-1], lambda rounds, loss: told.append((rounds, loss)))

    monkeypatch.setattr(boosting, "active", play)
    plain = tell("binary", tmp_path / "plain")
    once, told[:] = list(told), []
    story = tell("binary", tmp_path / "killed", Kill("shop-1", "save", 2), Kill("bank", "saved", 2))
    check(story, plain)
    assert [rounds for rounds, _ in once] == [1, 2, 3, 4]
    assert sorted(set(told)) == once
    assert len(told) <= len(once) + 2


def test_joint_trees_after_kills_are_those_of_the_pooled_reference(tmp_path: Path) -> None:
    story = tell("GOSS", tmp_path, Kill("bank", "saved", 2), Kill("shop-2", "save", 1))
    assert story.kills == 2
    boosted, _ = forests_of("GOSS").reference()
    assert [tree_bits(tree) for tree in story.results["bank"].boosted.trees] == [*map(tree_bits, boosted.trees)]


# what is kept


def keeper_in(folder: Path) -> FolderKeeper:
    keeper = FolderKeeper(folder=folder, run="run", job="job", party="bank")
    keeper.save_aligned({}, {})
    return keeper


SPLITS = [
    Split(tree=0, node=0, depth=0, feature=3, bins=(2,), missing_left=True),
    Split(tree=0, node=2, depth=1, feature=0, bins=(0, 4, 7), missing_left=False),
    Split(tree=7, node=1, depth=1, feature=1, bins=(65535,), missing_left=False),
]


@pytest.mark.parametrize("count", range(4))
def test_splits_come_back(count: int, tmp_path: Path) -> None:
    keeper = keeper_in(tmp_path)
    keeper.save_round(1, {}, splits_to_arrays(SPLITS[:count]))
    keeper.resume_from(ALIGNED + 1)
    kept = keeper.trained()
    assert kept is not None
    assert restore_splits(kept) == SPLITS[:count]


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("sizes", [(1,), (3, 1, 5)])
def test_trees_come_back(sizes: tuple[int, ...], outputs: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    trees = [
        Tree(
            rng.integers(-1, 3, n),
            rng.integers(0, n, n),
            rng.normal(size=(n, outputs)) * 10.0 ** rng.integers(-300, 300),
            rng.normal(size=n),
            np.full(n, np.nextafter(0, 1)),
            number - 1,
        )
        for number, n in enumerate(sizes)
    ]
    keeper = keeper_in(tmp_path)
    keeper.save_round(1, {}, trees_to_arrays(trees))
    keeper.resume_from(ALIGNED + 1)
    kept = keeper.trained()
    assert kept is not None
    assert [tree_bits(tree) for tree in restore_trees(kept)] == [tree_bits(tree) for tree in trees]


def test_the_job_trains_on_labels_drawn_once(tmp_path: Path) -> None:
    y = np.arange(300) % 3
    data = SimpleNamespace(labels_to_fit=y, job=SimpleNamespace(privacy=SimpleNamespace(label_dp_epsilon=1.0)))
    terms = SimpleNamespace(outputs=3)
    first, again = (
        boosting_part.labels_of(data, terms, keeper_in(tmp_path))  # type: ignore[arg-type]
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)
    other = boosting_part.labels_of(data, terms, Keeper())  # type: ignore[arg-type]
    assert not np.array_equal(first, other)  # equal with chance below 2^-200
