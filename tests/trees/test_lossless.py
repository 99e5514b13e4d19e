"""Trees grown over encrypted sums are those of the same algorithm on pooled columns, to the last bit."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from msgspec import structs

from tests.trees.forests import Forests, make_frames, make_labels, splits_by_owner
from vfl.trees import histograms, levels
from vfl.trees.forest import Split, predict_plain
from vfl.trees.grow import Limits

OUTPUTS = {"binary": 1, "regression": 1, "count": 1, "multiclass": 3}

tasks = pytest.mark.parametrize("task", OUTPUTS)


def forests_of(task: str = "binary", rows: int = 150, parties: int = 2, seed: int = 0, **more: Any) -> Forests:
    frames = make_frames(rows, seed=seed, parties=parties)
    return Forests(task, frames, make_labels(task, frames, seed=seed), outputs=OUTPUTS[task], **more)


@tasks
@pytest.mark.parametrize("parties", [2, 4])
def test_every_task(task: str, parties: int) -> None:
    forests = forests_of(task, parties=parties, settings={"n_estimators": 2, "max_depth": 4, "min_child_weight": 0.1})
    _, boosted, _ = forests.check()
    assert set(splits_by_owner(boosted)) == set(range(parties))  # all have something to say
    assert boosted.losses[-1] < boosted.losses[0]


def test_one_tree_per_class() -> None:
    forests = forests_of("multiclass", settings={"n_estimators": 2, "multi_output": False})
    _, boosted, _ = forests.check()
    assert [tree.output for tree in boosted.trees] == [0, 1, 2, 0, 1, 2]
    assert boosted.rounds == 2


def test_a_party_that_has_labels_alone() -> None:
    frames = make_frames(150, parties=3)
    y = make_labels("binary", frames)
    frames[0] = pd.DataFrame(index=range(150))
    fits, boosted, _ = Forests("binary", frames, y).check()
    assert set(splits_by_owner(boosted)) == {1, 2}
    assert fits["bank"].splits == ()


CASES: dict[str, dict[str, Any]] = {
    "no missing cells": {"missing": 0.0},
    "half the cells missing": {"missing": 0.5},
    "sorted categories": {"max_cat_to_onehot": 2},
    "sorted categories, one tree per class": {"task": "multiclass", "max_cat_to_onehot": 2, "multi_output": False},
    "rows drawn": {"subsample": 0.6},
    "columns drawn": {"colsample_bytree": 0.5},
    "one column drawn": {"colsample_bytree": 0.01, "n_estimators": 8},
    "rows and columns drawn": {"subsample": 0.5, "colsample_bytree": 0.4, "max_cat_to_onehot": 2},
    "gradient-based sampling": {"top_rate": 0.2, "other_rate": 0.2},
    "gradient-based sampling, classes": {"task": "multiclass", "top_rate": 0.1, "other_rate": 0.3},
    "guards": {"limits": Limits(min_node_rows=40, min_bin_gap=10), "max_depth": 5},
    "guards and sorted categories": {"limits": Limits(30, 8), "max_depth": 4, "max_cat_to_onehot": 2},
    "the root is too small for guests": {"limits": Limits(min_node_rows=1000)},
    "no two candidates for guests": {"limits": Limits(min_bin_gap=100)},
    "first tree of the active party alone": {"first_tree_active_only": True},
    "first trees of the active party alone": {
        "first_tree_active_only": True,
        "task": "multiclass",
        "multi_output": False,
        "n_estimators": 2,
    },
    "penalties": {"reg_lambda": 0.3, "reg_alpha": 0.8, "gamma": 0.4, "min_child_weight": 3.0},
    "no penalty": {"reg_lambda": 0.0, "min_child_weight": 0.0},
    "no penalty, sorted": {"reg_lambda": 0.0, "min_child_weight": 0.0, "max_cat_to_onehot": 2},
    "steps of limited length": {"task": "count", "max_delta_step": 0.2},
    "depth 1": {"max_depth": 1, "n_estimators": 5},
    "depth 6": {"max_depth": 6, "min_child_weight": 0.1},
    "two bins": {"max_bin": 2},
    "255 bins": {"max_bin": 255},
    "nothing is worth a split": {"gamma": 1e6},
    "one output of a base score": {"base_score": 0.9, "learning_rate": 0.05},
}


@pytest.mark.parametrize("case", CASES)
def test_every_setting(case: str) -> None:
    settings = dict(CASES[case])
    task, limits = settings.pop("task", "binary"), settings.pop("limits", Limits())
    frames = make_frames(150, parties=3, missing=settings.pop("missing", 0.1))
    y = make_labels(task, frames)
    forests = Forests(task, frames, y, outputs=OUTPUTS[task], limits=limits, settings={"n_estimators": 2} | settings)
    _, boosted, parts = forests.check()
    depth = max((split.depth for part in parts for split in part.splits), default=-1)
    guests = sum(len(part.splits) for part in parts[1:])
    if case == "nothing is worth a split":
        assert depth == -1
    elif case in ("the root is too small for guests", "no two candidates for guests"):
        assert guests == 0 < len(parts[0].splits)
    else:
        assert guests > 0
        assert depth == forests.boosting.max_depth - 1
    if "sorted" in case:
        sets = [split for part in parts for split in part.splits if part.features[split.feature].split == "sorted"]
        assert any(len(split.bins) > 1 for split in sets)
    if case.startswith("first tree"):
        first = boosted.trees[: 3 if task == "multiclass" else 1]
        assert all((tree.owner <= 0).all() and (tree.owner == 0).any() for tree in first)


def test_weights() -> None:
    rng = np.random.default_rng(3)
    weights = rng.exponential(size=150)
    weights[:15] = 0.0
    _, weighted, _ = forests_of(weights=weights).check()
    _, plain, _ = forests_of().check()
    assert weighted.losses != plain.losses


def test_a_validation_part() -> None:
    """Its rows go down the trees, but no bin, gradient or candidate depends on them."""
    whole = forests_of(rows=200, validation=60)
    fits, boosted, _ = whole.check()
    assert len(boosted.validation_losses) == len(boosted.losses) == 4
    objective = whole.objective()
    scores = whole.predict(fits)
    assert objective.loss(scores[140:], whole.y[140:], None) == pytest.approx(boosted.validation_losses[-1], rel=1e-12)
    assert objective.loss(scores[:140], whole.y[:140], None) == pytest.approx(boosted.losses[-1], rel=1e-12)
    frames = [frame.iloc[:140] for frame in whole.frames]
    _, alone, _ = Forests("binary", frames, whole.y[:140]).check()
    for mine, theirs in zip(boosted.trees, alone.trees, strict=True):
        np.testing.assert_array_equal(mine.values, theirs.values)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_stopping_early(task: str) -> None:
    """Splits and importance of trees beyond the best round are dropped by all."""
    settings = {
        "n_estimators": 40,
        "max_depth": 3,
        "learning_rate": 1.0,
        "early_stopping_rounds": 2,
        "multi_output": False,
    }
    fits, boosted, _ = forests_of(task, rows=160, validation=60, settings=settings).check()
    assert boosted.rounds < 38
    assert "stopped early" in boosted.warnings[0]
    assert len(boosted.trees) == boosted.rounds * OUTPUTS[task] == fits["shop-1"].trees
    assert boosted.validation_losses[-1] == min(boosted.validation_losses[1:])
    assert max(split.tree for name in ("bank", "shop-1") for split in fits[name].splits) < len(boosted.trees)


@pytest.mark.parametrize("sign", [1, -1])
def test_monotone_columns_of_the_active_party(sign: int) -> None:
    frames = make_frames(300, columns=2, missing=0.0)
    y = make_labels("regression", frames)
    features, _ = Forests("regression", frames, y).binned(0)
    signs = np.array([sign * (feature.name in ("x0", "x1")) for feature in features])
    forests = Forests("regression", frames, y, signs=signs, settings={"max_depth": 4, "n_estimators": 4})
    fits, _, parts = forests.check()
    assert any(signs[split.feature] for split in parts[0].splits) or sign < 0
    for name in ("x0", "x1"):
        grid = [frame.iloc[np.repeat(np.arange(30), 25)].reset_index(drop=True) for frame in frames]
        grid[0][name] = np.tile(np.linspace(-3, 3, 25), 30)
        steps = np.diff(forests.predict(fits, grid).reshape(30, 25), axis=1)
        assert (sign * steps >= -1e-12).all(), name
    unbound = Forests("regression", frames, y, settings={"max_depth": 4, "n_estimators": 4})
    grid = [frame.iloc[np.repeat(np.arange(30), 25)].reset_index(drop=True) for frame in frames]
    grid[0]["x1"] = np.tile(np.linspace(-3, 3, 25), 30)
    steps = np.diff(unbound.predict(unbound.check()[0], grid).reshape(30, 25), axis=1)
    assert not (sign * steps >= -1e-12).all()  # sine goes up and down


def tied(rows: int = 120) -> tuple[list[pd.DataFrame], np.ndarray]:
    """Integer columns that several parties have, once as they are and once turned round, with missing cells."""
    rng = np.random.default_rng(8)
    column = rng.integers(0, 6, rows).astype(float)
    other = rng.integers(0, 3, rows).astype(float)
    column[rng.random(rows) < 0.1] = np.nan
    y = ((np.nan_to_num(column, nan=4.0) > 2) ^ (other > 1) ^ (rng.random(rows) < 0.1)).astype(float)
    noise = pd.DataFrame({"noise": rng.normal(size=rows)})
    shared = pd.DataFrame({"a": column, "b": other, "turned": 5 - column, "again": column})
    return [noise, shared, shared.copy(), shared[["turned", "a", "b"]].copy()], y


def test_of_equals_the_first_party_and_its_smallest_candidate_are_taken() -> None:
    frames, y = tied()
    forests = Forests("binary", frames, y, settings={"n_estimators": 3, "max_depth": 4})
    fits, boosted, parts = forests.check()
    assert set(splits_by_owner(boosted)) <= {0, 1}
    assert splits_by_owner(boosted)[1] > 5
    assert {split.feature for split in parts[1].splits} == {0, 1}  # never the column turned round, nor the copy
    assert fits["shop-2"].splits == fits["shop-3"].splits == ()
    # Turned round, the other way of ties: the first party's columns come first even if they are the others' copies.
    first = Forests("binary", [frames[3], *frames[:3]], y, settings={"n_estimators": 3, "max_depth": 4})
    _, boosted, parts = first.check()
    assert set(splits_by_owner(boosted)) <= {0, 1}
    assert {split.feature for split in parts[0].splits} == {0, 2}
    assert not parts[2].splits


def test_missing_cells_go_left_where_it_makes_no_difference() -> None:
    """Rows whose cells are missing have weight 0: both directions gain the same."""
    frames, y = tied()
    weights = np.where(np.isnan(frames[1]["a"]), 0.0, 1.0)
    _, _, parts = Forests("binary", frames, y, weights=weights).check()
    own = [split for split in parts[1].splits if split.feature == 0]
    assert len(own) > 2
    assert all(split.missing_left for split in own)


def test_ties_among_sorted_categories() -> None:
    """Categories of equal ratio stay together; the set that is taken is that of fewest bins."""
    rng = np.random.default_rng(2)
    rows = 160
    city = pd.Series(np.array(list("abcdefgh"))[np.arange(rows) % 8], dtype=object)
    y = np.isin(city, ["b", "e", "g"]).astype(float)
    y[:8] = 1 - y[:8]
    frames = [pd.DataFrame({"noise": rng.integers(0, 2, rows).astype(float)})] + 2 * [pd.DataFrame({"city": city})]
    forests = Forests("binary", frames, y, settings={"max_cat_to_onehot": 2, "max_depth": 2, "n_estimators": 2})
    _, _, parts = forests.check()
    (root,) = [split for split in parts[1].splits if (split.tree, split.node) == (0, 0)]
    assert root.bins in ((1, 4, 6), (0, 2, 3, 5, 7))
    assert not parts[2].splits


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the groups of columns that were summed together."""
    sizes: list[int] = []
    original = histograms._joint_positions

    def spy(*arguments: Any) -> Any:
        made = original(*arguments)
        sizes.extend(len(chunk.joint.features) for chunk in made[2])
        return made

    monkeypatch.setattr(histograms, "_joint_positions", spy)
    return sizes


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Cells of children that were taken as parent less sibling."""
    cells: list[int] = []
    original = levels.subtract_child

    def spy(parents: Any, *arguments: Any) -> Any:
        cells.append(len(parents))
        return original(parents, *arguments)

    monkeypatch.setattr(levels, "subtract_child", spy)
    return cells


@pytest.mark.parametrize("settings", [{}, {"colsample_bytree": 0.5, "subsample": 0.8}])
def test_columns_summed_together(settings: dict[str, Any], chunks: list[int], derived: list[int]) -> None:
    forests = forests_of(rows=3000, settings={"max_bin": 6, "max_depth": 4, "n_estimators": 2} | settings)
    _, boosted, _ = forests.check()
    assert splits_by_owner(boosted)[1] > 3
    assert max(chunks) > 2
    assert derived


def test_without_shortcuts_the_same(chunks: list[int], derived: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns one by one, both children summed: the trees do not tell."""
    monkeypatch.setattr(histograms, "_SHARES", ())
    monkeypatch.setattr(levels, "worth_subtracting", lambda _columns, _small, large, _cells: np.zeros(len(large), bool))
    forests_of(rows=400, settings={"max_depth": 4}).check()
    assert set(chunks) == {1}
    assert not derived


@pytest.mark.parametrize("forced", [True, False])
def test_guests_split_large_nodes_only(forced: bool, derived: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the smaller child was summed for its sibling's sake, and is too small itself."""
    if forced:
        monkeypatch.setattr(levels, "worth_subtracting", lambda _columns, _small, large, _cells: large > 0)
    frames = make_frames(500, parties=3, missing=0.0)
    frames[0] = pd.DataFrame({"rare": (np.arange(500) % 12 == 0).astype(float)})
    y = make_labels("binary", frames[1:])
    y[frames[0]["rare"] == 1] = np.arange(42) % 7 == 0
    forests = Forests("binary", frames, y, limits=Limits(45, 5), settings={"max_depth": 5, "max_bin": 6})
    fits, boosted, parts = forests.check()
    assert derived
    rare = boosted.trees[1].left[boosted.trees[1].owner == 0] + 1
    assert len(rare)
    assert not boosted.trees[1].left[rare].any()  # 42 rows
    for split in (split for part in parts[1:] for split in part.splits):
        assert reaching(forests, fits, split.tree, split.node) >= 45


def reaching(forests: Forests, fits: Any, number: int, node: int) -> int:
    """How many training rows come to a node: the tree gets a one there instead of its split."""
    tree = fits["bank"].boosted.trees[number]
    left, owner, values = tree.left.copy(), tree.owner.copy(), np.zeros((len(tree.owner), 1))
    owner[node], values[node] = -1, 1.0
    owner = np.where(np.arange(len(owner)) > node, -1, owner)
    cut = replace(tree, owner=owner, left=left, values=values, output=0)
    splits = [[replace_tree(split) for split in fits[name].splits if split.tree == number] for name in forests.names]
    return int(predict_plain([cut], splits, forests.coded(), np.zeros(1)).sum())


def replace_tree(split: Split) -> Split:
    return structs.replace(split, tree=0)


def run(forests: Forests) -> tuple[Any, ...]:
    fits = forests.fit()
    boosted = fits["bank"].boosted
    return (
        [[array.tolist() for array in (tree.owner, tree.left, tree.values, tree.gain)] for tree in boosted.trees],
        [fits[name].splits for name in forests.names],
        boosted.losses,
        [[x.tolist() for x in (i.gain, i.cover, i.count)] for i in fits["bank"].importance.values()],
    )


def test_kernels_threads_and_keys_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    forests = forests_of("multiclass", rows=200, settings={"max_cat_to_onehot": 2, "subsample": 0.8})
    expected = run(forests)
    assert run(forests) == expected  # under a fresh key, in another random order
    for threads in ("1", "2"):
        monkeypatch.setenv("VFL_THREADS", threads)
        assert run(forests) == expected
        monkeypatch.setenv("VFL_KERNEL", "gmpy2")
        assert run(forests) == expected
        monkeypatch.delenv("VFL_KERNEL")
    assert os.environ["VFL_THREADS"] == "2"


def test_another_seed_draws_other_rows() -> None:
    figures = [forests_of(settings={"subsample": 0.5}) for _ in range(2)]
    figures[1].seed = 1
    assert run(figures[0])[0] != run(figures[1])[0]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_at_full_key_length(task: str) -> None:
    forests_of(task, rows=100, key_bits=2048, settings={"n_estimators": 1, "max_depth": 2}).check()


def test_few_rows() -> None:
    for rows in (2, 3, 9):
        frames = make_frames(rows, missing=0.3)
        y = (np.arange(rows) % 2).astype(float)
        Forests("binary", frames, y, settings={"min_child_weight": 0.0, "max_depth": 6, "reg_lambda": 0.1}).check()
