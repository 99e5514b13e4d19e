"""Joint scores of new rows: the same as in one place, asked for as little as possible."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from parties.errors import RemoteProtocolError
from parties.wire import Positions
from tests.trees.forests import Forests, make_frames, make_labels
from vfl import boosting_scoring
from vfl.trees.forest import goes_left

OUTPUTS = {"binary": 1, "regression": 1, "count": 1, "multiclass": 3}


def fitted(task: str = "binary", parties: int = 3, **settings: Any) -> tuple[Forests, dict[str, Any]]:
    frames = make_frames(150, parties=parties)
    forests = Forests(task, frames, make_labels(task, frames), outputs=OUTPUTS[task], settings=settings)
    return forests, forests.fit()


def new_rows(parties: int = 3, rows: int = 90) -> list[pd.DataFrame]:
    """Missing cells where training had none, categories that nobody has seen, numbers far out."""
    frames = make_frames(rows, seed=9, parties=parties, missing=0.3)
    for frame in frames:
        frame.loc[::7, "city"] = "somewhere else"
        frame.loc[::5, "sex"] = None
        frame.loc[::6, "x1"] = np.nan
        frame.loc[1::6, "x2"] = 1e300
        frame.loc[2::6, "x2"] = -np.inf
    return frames


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("binary", {}),
        ("count", {"max_depth": 5}),
        ("regression", {"max_cat_to_onehot": 2}),
        ("multiclass", {}),
        ("multiclass", {"multi_output": False}),
        ("binary", {"gamma": 1e6}),
        ("binary", {"max_depth": 1, "n_estimators": 6, "first_tree_active_only": True}),
    ],
)
def test_as_in_one_place(task: str, settings: dict[str, Any]) -> None:
    forests, fits = fitted(task, **settings)
    frames = new_rows()
    np.testing.assert_array_equal(forests.score(fits, frames), forests.predict(fits, frames))
    np.testing.assert_array_equal(forests.score(fits), forests.predict(fits))


def test_scores_of_the_training_rows_are_those_of_training() -> None:
    forests, fits = fitted("regression")
    objective = forests.objective()
    loss = objective.loss(forests.score(fits), forests.y, None)
    assert loss == pytest.approx(fits["bank"].boosted.losses[-1], rel=1e-12)


def test_a_label_only_party_scores() -> None:
    frames = make_frames(150, parties=2)
    y = make_labels("binary", frames)
    forests = Forests("binary", [pd.DataFrame(index=range(150)), *frames], y)
    fits = forests.fit()
    np.testing.assert_array_equal(forests.score(fits), forests.predict(fits))


def test_no_rows() -> None:
    forests, fits = fitted(parties=2)
    frames = [frame.iloc[:0] for frame in forests.frames]
    assert forests.score(fits, frames).shape == (0, 1)


@pytest.mark.parametrize("trees", [1, 6])
@pytest.mark.parametrize("depth", [1, 4])
def test_as_many_messages_as_the_trees_are_deep(trees: int, depth: int) -> None:
    forests, fits = fitted(n_estimators=trees, max_depth=depth)
    deliveries: list[Any] = []
    forests.score(fits, new_rows(), deliveries)
    own = [one for one in deliveries if one.message.startswith("boosting_scoring.")]
    assert len(own) == 2 * depth * 2
    assert {(one.sender, one.receiver) for one in own} == {
        pair for shop in ("shop-1", "shop-2") for pair in (("bank", shop), (shop, "bank"))
    }


def test_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    forests, fits = fitted(parties=2)
    whole = forests.score(fits, new_rows(2))
    monkeypatch.setattr(boosting_scoring, "ROWS", 40)
    deliveries: list[Any] = []
    np.testing.assert_array_equal(forests.score(fits, new_rows(2), deliveries), whole)
    own = [one for one in deliveries if one.message.startswith("boosting_scoring.")]
    assert len(own) == 2 * 3 * 3  # three blocks of 90 rows


def test_parties_are_asked_for_their_own_nodes_and_rows_that_come_there() -> None:
    forests, fits = fitted(parties=3, n_estimators=5, max_depth=4)
    frames = new_rows()
    deliveries: list[Any] = []
    forests.score(fits, frames, deliveries)
    coded, trees = forests.coded(frames), fits["bank"].boosted.trees
    reached: dict[tuple[int, int], list[int]] = {}
    split_at = {(s.tree, s.node): s for name in forests.names for s in fits[name].splits}
    for number, tree in enumerate(trees):
        for row in range(90):
            node = 0
            while tree.owner[node] >= 0:
                reached.setdefault((number, node), []).append(row)
                features, codes = coded[tree.owner[node]]
                left = goes_left(features, codes, split_at[number, node], np.array([row]))[0]
                node = int(tree.left[node]) + (not left)
    for name in ("shop-1", "shop-2"):
        asked = [one.payload for one in deliveries if one.message == "boosting_scoring.rows" and one.receiver == name]
        answers = [one.payload for one in deliveries if one.message == "boosting_scoring.sides" and one.sender == name]
        assert len(asked) == len(answers) == 4
        for depth, (payload, answer) in enumerate(zip(asked, answers, strict=True)):
            own = sorted((s.tree, s.node) for s in fits[name].splits if s.depth == depth)
            expected = [reached.get(place, []) for place in own]
            assert payload.counts.tolist() == [len(rows) for rows in expected] == answer.counts.tolist()
            assert payload.positions.tolist() == [row for rows in expected for row in rows]


@pytest.mark.parametrize(
    ("counts", "positions", "complaint"),
    [
        ([1], [0], "rows or splits that this party does not have"),
        ([1, 1, 1], [0, 1, 2], "rows or splits that this party does not have"),
        ([2, 1], [0, 1], "rows or splits that this party does not have"),
        ([1, 1], [0, 9], "rows or splits that this party does not have"),
        ([2, 0], [4, 4], "a row twice"),
        ([1, 1], [4, 4], "a row twice"),
    ],
)
def test_questions_that_do_not_fit_are_refused(counts: list[int], positions: list[int], complaint: str) -> None:
    splits = [split_of(0, 1), split_of(0, 2)]
    payload = Positions(np.array(counts), np.array(positions, dtype=np.uint32))
    with pytest.raises(RemoteProtocolError, match=f"bank asks for {complaint}"):
        boosting_scoring.read_rows(payload, splits, 9, "bank")


def test_questions_that_fit() -> None:
    splits = [split_of(0, 1), split_of(0, 2), split_of(1, 1)]
    payload = Positions(np.array([2, 0, 1]), np.array([0, 4, 4], dtype=np.uint32))
    assert [rows.tolist() for rows in boosting_scoring.read_rows(payload, splits, 9, "bank")] == [[0, 4], [], [4]]
    nothing = Positions(np.zeros(0, np.int64), np.zeros(0, np.uint32))
    assert boosting_scoring.read_rows(nothing, [], 9, "bank") == []


def split_of(tree: int, node: int) -> Any:
    return boosting_scoring.Split(tree=tree, node=node, depth=1, feature=0, bins=(0,), missing_left=False)
