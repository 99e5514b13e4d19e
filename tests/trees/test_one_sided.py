"""One-sided boosting: the reference's trees to the last bit, new rows scored alike, kills survived."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.checkpoint import ALIGNED
from parties.errors import PolicyError
from parties.policy import Policy
from tests.interruptions import Kill, Story, play_through
from tests.trees.forests import make_frames, splits_by_owner
from tests.trees.one_sided_forests import ROLES, OneSidedForests, make_one_sided, score_one_sidedly
from vfl import boosting_one_sided, boosting_scoring_one_sided
from vfl.trees.forest import predict_plain
from vfl.trees.grow import Limits
from vfl.trees.shuffle import shuffled, tie_key
from vfl.trees.splits import Candidates

CASES: dict[str, dict[str, Any]] = {
    "binary": {},
    "binary, deep": {"settings": {"max_depth": 5, "n_estimators": 2}},
    "binary, one level": {"settings": {"max_depth": 1}},
    "binary, guards": {"limits": Limits(20, 4)},
    "binary, sorted categories": {"settings": {"max_cat_to_onehot": 2, "max_depth": 4}},
    "binary, subsample": {"settings": {"subsample": 0.6, "colsample_bytree": 0.6}},
    "binary, GOSS": {"settings": {"top_rate": 0.2, "other_rate": 0.3}},
    "binary, first tree alone": {"settings": {"first_tree_active_only": True}},
    "binary, early stopping": {"settings": {"n_estimators": 8, "early_stopping_rounds": 1, "learning_rate": 1.5}},
    "binary, few members": {"members": 60, "others": 400, "settings": {"min_child_weight": 0.1}},
    "multiclass": {"task": "multiclass"},
    "multiclass, one tree per class": {"task": "multiclass", "settings": {"multi_output": False}},
    "regression": {"task": "regression", "settings": {"max_depth": 4}},
    "regression, guards, sorted categories": {
        "task": "regression",
        "limits": Limits(15, 3),
        "settings": {"max_cat_to_onehot": 2},
    },
    "count": {"task": "count"},
}
cases = pytest.mark.parametrize("case", CASES)


def forests_of(case: str) -> OneSidedForests:
    options = {"validation": 20} | CASES[case]
    return make_one_sided(options.pop("task", "binary"), **options)


@cases
def test_trees_are_those_of_the_reference_on_the_members(case: str) -> None:
    _, boosted, _ = forests_of(case).check()
    assert 1 in splits_by_owner(boosted)


@given(st.integers(0, 2**16), st.integers(30, 90), st.integers(0, 200), st.integers(1, 4), st.sampled_from([0, 1, 7]))
@settings(max_examples=12, deadline=None)
def test_whatever_the_share_of_members(seed: int, members: int, others: int, depth: int, gap: int) -> None:
    """No other row at all, or many; splits down to single members."""
    trees = {"max_depth": depth, "n_estimators": 2, "min_child_weight": 0.0}
    make_one_sided("regression", members, others, seed, limits=Limits(0, gap), settings=trees).check()


@cases
def test_new_rows_are_scored_as_in_one_place(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of another list, in blocks of a few; the shop is told no row of it."""
    monkeypatch.setattr(boosting_scoring_one_sided, "_BLOCK_BITS", 300)
    forests = forests_of(case)
    fits = forests.fit()
    bank, listed = make_frames(90, seed=5)
    places = np.random.default_rng(3).permutation(90)[:40]
    own = bank.iloc[places].reset_index(drop=True)
    deliveries: list[Any] = []
    scores = score_one_sidedly(forests, fits, own, listed, places, deliveries=deliveries)
    parts = [forests.binned(0, own), forests.binned(1, listed.iloc[places].reset_index(drop=True))]
    splits = [fits["bank"].splits, fits["shop-1"].splits]
    expected = predict_plain(fits["bank"].boosted.trees, splits, parts, fits["bank"].boosted.start)
    np.testing.assert_array_equal(scores, expected)
    sent = [d.message for d in deliveries if not d.message.startswith("greeting.")]
    blocks = -(-90 // (300 // len(fits["shop-1"].splits)))
    names = ["boosting_scoring_one_sided.above", *["boosting_scoring_one_sided.sides"] * blocks]
    assert sent == names


def test_sides_are_sent_only_where_own_splits_lead() -> None:
    forests = make_one_sided("regression", settings={"max_depth": 4, "max_bin": 4})
    fits, deliveries = forests.fit(), []
    score_one_sidedly(forests, fits, forests.frames[0], forests.listed, forests.places, deliveries=deliveries)
    (sides,) = (d.payload for d in deliveries if d.message.endswith(".sides"))
    rows = len(forests.listed)
    roots = [split.node == 0 for split in fits["shop-1"].splits]
    assert any(roots) and (sides.counts[roots] == rows).all()
    assert (sides.counts < rows).any() and len(sides.counts) == len(roots)


def test_without_a_split_of_its_own_the_passive_party_says_nothing() -> None:
    forests = make_one_sided(settings={"first_tree_active_only": True, "n_estimators": 1})
    fits, deliveries = forests.fit(), []
    scores = score_one_sidedly(forests, fits, forests.frames[0], forests.listed, forests.places, deliveries=deliveries)
    np.testing.assert_array_equal(scores, forests.predict(fits))
    assert fits["shop-1"].splits == () and not [d for d in deliveries if d.message.endswith(".sides")]


@pytest.mark.parametrize("spare", [0, -1])
def test_all_rows_of_the_list_are_counted_before_any_answer(spare: int) -> None:
    forests = make_one_sided()
    fits, deliveries = forests.fit(), []
    policy = Policy(scored_rows=len(forests.listed) + spare)
    own, places = forests.frames[0][:3], forests.places[:3]
    if spare < 0:
        with pytest.raises(PolicyError, match="scored_rows"):
            score_one_sidedly(forests, fits, own, forests.listed, places, policy, deliveries)
    else:
        assert len(score_one_sidedly(forests, fits, own, forests.listed, places, policy, deliveries)) == 3
    assert any(d.message.endswith(".sides") for d in deliveries) == (spare == 0)


def test_monotone_constraints_of_the_active_party_hold() -> None:
    forests = make_one_sided("regression")
    forests.signs = np.array([1, -1, 0, 0, 0, 0, 0][: len(forests.binned(0)[0])], dtype=np.int64)
    forests.check()


def test_importance_is_for_the_active_party_alone() -> None:
    """Gain and cover grow with the number of members; the splits' number per column P knows anyway."""
    told = {tell: make_one_sided(tell=tell) for tell in (True, False)}
    for tell, forests in told.items():
        fits = forests.fit()
        figures = fits["bank"].importance["shop-1"]
        assert fits["shop-1"].importance is None and figures.gain.sum() > 0
        assert len(figures.gain) == (len(forests.binned(1)[0]) if tell else 1)
        assert not [d for d in forests.deliveries if d.message == "importance.own_gains"]


# the order of equal candidates


def candidates_in(nodes: list[int], members: dict[int, int]) -> Candidates:
    """So many plain candidates per node, and one group of so many bins in some."""
    node = np.repeat(np.arange(len(nodes)), nodes)
    groups = np.array([(n, 9) for n in members], dtype=np.int64).reshape(-1, 2)
    sizes = np.array(list(members.values()), dtype=np.int64)
    bins = np.concatenate([np.zeros(0, np.int64), *(np.arange(size) for size in sizes.tolist())])
    return Candidates(node, node, node, np.ones(len(node), bool), groups, sizes, bins)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=5), st.binary(min_size=32, max_size=32), st.data())
@settings(max_examples=40, deadline=None)
def test_a_nodes_order_does_not_depend_on_other_nodes(nodes: list[int], key: bytes, data: st.DataObject) -> None:
    """The reference may leave out nodes that the owner of the columns has to offer candidates for."""
    members = {n: data.draw(st.integers(2, 6)) for n in range(len(nodes)) if data.draw(st.booleans())}
    numbers = np.arange(7, 7 + len(nodes))
    order, groups = shuffled(candidates_in(nodes, members), numbers, key)
    assert sorted(order.tolist()) == list(range(sum(nodes) + sum(members.values())))
    left_out = data.draw(st.integers(0, len(nodes) - 1))
    fewer = [0 if n == left_out else count for n, count in enumerate(nodes)]
    rest = {n: size for n, size in members.items() if n != left_out}
    again, _ = shuffled(candidates_in(fewer, rest), numbers, key)
    start = 0
    for n, count in enumerate(nodes):
        if n != left_out:
            own = order[(order >= start) & (order < start + count)] - start
            first = sum(fewer[:n])
            assert own.tolist() == (again[(again >= first) & (again < first + count)] - first).tolist()
        start += count
    assert len(groups) == len(members)


def test_the_key_is_of_the_data_in_any_order_and_of_the_seed() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 300, (50, 4)).astype(np.uint16)
    key = tie_key(codes, 1)
    assert key == tie_key(np.asfortranarray(codes[rng.permutation(50)]), 1)
    other = codes.copy()
    other[7, 2] ^= 1
    assert len({key, tie_key(codes, 2), tie_key(other, 1), tie_key(codes[:, ::-1], 1), tie_key(codes[1:], 1)}) == 5


def test_shuffling_the_list_changes_no_split() -> None:
    forests = forests_of("binary, sorted categories")
    first = forests.fit()
    moved = np.random.default_rng(8).permutation(len(forests.listed))
    at = np.argsort(moved)[forests.places]
    again = replace(forests, listed=forests.listed.iloc[moved].reset_index(drop=True), places=at).fit()
    assert first["shop-1"].splits == again["shop-1"].splits
    for one, other in zip(first["bank"].boosted.trees, again["bank"].boosted.trees, strict=True):
        np.testing.assert_array_equal(one.values, other.values)


# kills


def tell(case: str, folder: Path, *kills: Kill) -> Story[Any]:
    forests = replace(forests_of(case), key_bits=384)
    return play_through(forests.plays, ROLES, folder, kills)


def whole(story: Story[Any]) -> tuple[Any, ...]:
    bank, shop = story.results["bank"], story.results["shop-1"]
    trees = [(tree.owner.tobytes(), tree.values.tobytes(), tree.gain.tobytes()) for tree in bank.boosted.trees]
    return trees, bank.boosted.losses, bank.boosted.validation_losses, bank.boosted.warnings, shop.splits, shop.trees


@pytest.mark.parametrize(
    "case", ["binary", "binary, first tree alone", "binary, early stopping", "multiclass, one tree per class"]
)
def test_a_killed_run_ends_as_if_nothing_had_happened(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boosting_one_sided, "CANDIDATE_POOL", 8)
    plain = tell(case, tmp_path / "plain")
    rounds = plain.actions["bank"]["save"]
    rng = random.Random(len(case))
    kills = [Kill("shop-1", "saved", 1)]
    for role in sorted(ROLES):
        what = "receive" if role == "coordinator" else rng.choice(["send", "receive"])
        per_round = plain.actions[role][what] / rounds
        kills.append(Kill(role, what, 1 + int(per_round * rng.uniform(1.0, 1.9))))
    story = tell(case, tmp_path / "killed", *kills)
    assert whole(story) == whole(plain)
    assert story.kills >= 3 and max(story.resumed) > ALIGNED and story.warnings == []
