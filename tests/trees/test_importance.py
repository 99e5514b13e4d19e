"""Importance of columns, summed under encryption, is that of the trees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.trees.forests import Forests, make_frames, make_labels
from vfl.importance import Importance, own_importance
from vfl.trees.forest import LEAF, Split, Tree


def fitted(task: str = "binary", **more: Any) -> tuple[Forests, dict[str, Any]]:
    frames = make_frames(150, parties=3)
    outputs = 3 if task == "multiclass" else 1
    forests = Forests(task, frames, make_labels(task, frames), outputs=outputs, **more)
    return forests, forests.fit()


def plain(forests: Forests) -> list[Importance]:
    """What the reference's own trees and splits add up to, by a loop."""
    boosted, parts = forests.reference()
    figures = []
    for part in parts:
        gain, cover, count = np.zeros((3, len(part.features)))
        for split in part.splits:
            tree = boosted.trees[split.tree]
            gain[split.feature] += tree.gain[split.node]
            cover[split.feature] += tree.cover[split.node]
            count[split.feature] += 1
        figures.append(Importance(gain, cover, count))
    return figures


def same(one: Importance, other: Importance) -> None:
    for mine, theirs in ((one.gain, other.gain), (one.cover, other.cover)):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-9 * (1 + np.abs(theirs).max(initial=0)))
        assert (mine >= 0).all()
    np.testing.assert_array_equal(one.count, other.count)


@pytest.mark.parametrize("task", ["binary", "regression", "multiclass"])
def test_sums_are_the_plain_ones(task: str) -> None:
    forests, fits = fitted(task, settings={"n_estimators": 4})
    for name, expected in zip(forests.names, plain(forests), strict=True):
        same(fits["bank"].importance[name], expected)
        if name != "bank":
            same(fits[name].importance, expected)
        assert expected.count.sum() == len(fits[name].splits) > 0


def test_one_line_in_all() -> None:
    forests, fits = fitted(tell=False)
    for name, expected in zip(forests.names, plain(forests), strict=True):
        if name == "bank":
            continue
        total = Importance(*(np.array([figures.sum()]) for figures in (expected.gain, expected.cover, expected.count)))
        same(fits["bank"].importance[name], total)
        same(fits[name].importance, total)


def test_trees_beyond_the_best_round_do_not_count() -> None:
    settings = {"n_estimators": 30, "learning_rate": 1.0, "early_stopping_rounds": 2}
    forests, fits = fitted(validation=50, settings=settings)
    assert fits["bank"].boosted.rounds < 28
    for name, expected in zip(forests.names, plain(forests), strict=True):
        same(fits["bank"].importance[name], expected)


@pytest.mark.parametrize("tell", [True, False])
def test_parties_without_splits(tell: bool) -> None:
    """Nothing is sent for them; every column has zeros."""
    frames = make_frames(150, parties=2)
    y = make_labels("binary", frames)
    constant = pd.DataFrame({"a": np.arange(150) % 2.0, "b": np.arange(150) % 3.0})
    weak = Forests("binary", [frames[1], constant], y, tell=tell, settings={"max_depth": 1, "n_estimators": 1})
    fits = weak.fit()
    assert fits["shop-1"].splits == ()
    same(fits["shop-1"].importance, Importance(*np.zeros((3, 2))))
    same(fits["bank"].importance["shop-1"], Importance(*np.zeros((3, 2))))
    assert not [one for one in weak.deliveries if one.message.startswith("importance.")]


def test_messages_and_what_they_disclose() -> None:
    forests, fits = fitted()
    own = [one for one in forests.deliveries if one.message.startswith("importance.")]
    kinds = [(one.message.split(".")[1], one.sender, type(one.payload).__name__) for one in own]
    expected = []
    for name in forests.names[1:]:
        expected += [
            ("split_gains", "bank", "Encrypted"),
            ("feature_gains", name, "EncryptedSums"),
            ("own_gains", "bank", "Revealed"),
        ]
    assert kinds == expected
    lines = [entry for entry in forests.ledgers["bank"].entries if entry.message.startswith("importance.")]
    by_name = {entry.message.split(".")[1]: entry for entry in lines}
    assert by_name["split_gains"].discloses == ""
    assert "by number" in by_name["feature_gains"].discloses
    assert by_name["own_gains"].discloses == "gain and cover of its own columns"
    gains = next(one.payload for one in own if one.message == "importance.split_gains")
    assert len(gains.body) == len(fits["shop-1"].splits)
    sums = [one.payload for one in own if one.message == "importance.feature_gains"]
    assert [int(payload.counts.ravel()[-1]) for payload in sums] == [7, 7]


def test_one_number_of_splits_a_column() -> None:
    tree = Tree(
        owner=np.array([0, 1, 0, LEAF, LEAF, LEAF, LEAF]),
        left=np.array([1, 3, 5, 0, 0, 0, 0]),
        values=np.zeros((7, 1)),
        gain=np.array([4.0, 3.0, 0.5, 0, 0, 0, 0]),
        cover=np.array([10.0, 6.0, 4.0, 3, 3, 2, 2]),
        output=0,
    )
    place: Any = {"tree": 0, "bins": (0,), "missing_left": False}
    splits = [Split(node=0, depth=0, feature=2, **place), Split(node=2, depth=1, feature=2, **place)]
    figures = own_importance([tree], splits, 4)
    same(figures, Importance(np.array([0, 0, 4.5, 0]), np.array([0, 0, 14.0, 0]), np.array([0, 0, 2.0, 0])))
    same(own_importance([tree], [], 0), Importance(*np.zeros((3, 0))))
