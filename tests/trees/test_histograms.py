"""Encrypted histograms decrypt to plain sums, whatever is summed together, left out or subtracted."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trees.test_splits import feature_of
from vfl.paillier import CipherVector, PrivateKey, centred, decrypt, encrypt, generate_keypair
from vfl.trees import histograms, levels
from vfl.trees.bins import Feature
from vfl.trees.histograms import (
    EncryptedColumns,
    candidate_sums,
    count_rows,
    prepare_columns,
    subtract_child,
    sum_rows,
    worth_subtracting,
)
from vfl.trees.levels import EncryptedLevel, EncryptedTree, Told, first_level, next_level
from vfl.trees.splits import Integers, find_candidates, left_sums

few = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])


@cache
def key() -> PrivateKey:
    return generate_keypair(512, insecure_test_mode=True)


def encrypted(values: Integers) -> CipherVector:
    return encrypt(key(), values.tolist())


def opened(v: CipherVector) -> Integers:
    return np.array([centred(x, key().public.n) for x in decrypt(key(), v)], dtype=np.int64)


def random_columns(rng: np.random.Generator, rows: int) -> tuple[list[Feature], np.ndarray]:
    """Columns of every kind, even and lopsided, and copies of each other."""
    features, codes = [], []
    for _ in range(int(rng.integers(1, 6))):
        feature = feature_of(rng.choice(["ordered", "one-hot", "sorted"]), int(rng.integers(3, 7)))
        shares = rng.dirichlet(np.full(feature.bins + 1, rng.choice([0.1, 1.0, 30.0])))
        features.append(feature)
        codes.append(rng.choice(feature.bins + 1, rows, p=shares))
        if rng.random() < 0.2:
            features.append(feature)
            codes.append(codes[-1])
    return features, np.array(codes, dtype=np.uint16).T.reshape(rows, len(features))


def plain_sums(columns: EncryptedColumns, rows: Integers, slot: Integers, nodes: int, values: Integers) -> Integers:
    """Sums (nodes, cells) by a loop."""
    layout = columns.layout
    table = np.zeros((nodes, layout.cells), dtype=np.int64)
    for at, (row, node) in enumerate(zip(rows.tolist(), slot.tolist(), strict=True)):
        if node >= 0:
            for j, first in enumerate(layout.starts[:-1].tolist()):
                table[node, first + int(columns.codes[row, j])] += values[at]
    return table


def drawn_cells(columns: EncryptedColumns, drawn: np.ndarray) -> np.ndarray:
    return drawn[columns.layout.owner]


@given(st.integers(1, 120), st.integers(1, 4), st.sampled_from([(4, 16, 64, 256), (1, 2), ()]), st.integers(0, 2**32))
@few
def test_sums_of_rows(rows: int, nodes: int, shares: tuple[int, ...], seed: int) -> None:
    """Any grouping, rows drawn or not, nodes without rows, columns not drawn."""
    rng = np.random.default_rng(seed)
    features, codes = random_columns(rng, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histograms, "_SHARES", shares)
        columns = prepare_columns(features, codes)
    own = np.flatnonzero(rng.random(rows) < rng.choice([0.5, 1.0]))
    slot = rng.integers(-1, nodes, len(own))
    drawn = rng.random(len(features)) < 0.7
    drawn[rng.integers(len(features))] = True
    values = rng.integers(-(2**40), 2**40, len(own))
    counts = count_rows(columns, own, slot, nodes, drawn)
    ones = plain_sums(columns, own, slot, nodes, np.ones(len(own), np.int64))
    np.testing.assert_array_equal(counts, np.where(drawn_cells(columns, drawn), ones, 0))
    totals = np.bincount(slot[slot >= 0], values[slot >= 0], nodes).astype(np.int64)
    sums = sum_rows(columns, encrypted(values), encrypted(totals), own, slot, counts, drawn)
    expected = np.where(drawn_cells(columns, drawn), plain_sums(columns, own, slot, nodes, values), 0)
    np.testing.assert_array_equal(opened(sums).reshape(nodes, -1), expected)


@pytest.mark.parametrize("q", range(4))
def test_every_grouping_sums_the_same(q: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is chosen is chosen by cost alone."""
    rng = np.random.default_rng(1)
    features = [feature_of("ordered", b) for b in (2, 3, 3, 4, 5)]
    codes = np.array([rng.integers(0, feature.bins + 1, 400) for feature in features], dtype=np.uint16).T
    monkeypatch.setattr(histograms, "_SHARES", (1, 4, 16, 64))
    columns = prepare_columns(features, codes)
    assert len(columns.groupings) == 4
    assert [joint.features.tolist() for joint in columns.groupings[0]] == [[0], [1], [2], [3], [4]]
    for grouping in columns.groupings:
        assert sorted(np.concatenate([joint.features for joint in grouping]).tolist()) == list(range(5))
        for joint in grouping:
            np.testing.assert_array_equal(joint.bins[joint.cell], codes[:, joint.features])
    cheap = np.where(np.arange(4) == q, 0.0, 1.0)
    monkeypatch.setattr(EncryptedColumns, "costs", lambda _self, sizes: np.tile(cheap, (len(sizes), 1)))
    own, slot = np.arange(400), rng.integers(0, 3, 400)
    values = rng.integers(-(2**40), 2**40, 400)
    drawn = np.array([True, False, True, True, True])
    counts = count_rows(columns, own, slot, 3, drawn)
    totals = np.bincount(slot, values, 3).astype(np.int64)
    sums = sum_rows(columns, encrypted(values), encrypted(totals), own, slot, counts, drawn)
    expected = np.where(drawn_cells(columns, drawn), plain_sums(columns, own, slot, 3, values), 0)
    np.testing.assert_array_equal(opened(sums).reshape(3, -1), expected)


def test_joint_columns_have_few_bins_and_say_what_is_rare() -> None:
    rng = np.random.default_rng(2)
    rows = 1024
    features = [feature_of("ordered", 2) for _ in range(6)]
    codes = (rng.random((rows, 6)) < 0.05).astype(np.uint16)
    columns = prepare_columns(features, codes)
    assert len(columns.groupings) > 1
    for joint in (joint for grouping in columns.groupings[1:] for joint in grouping):
        assert joint.cells <= rows / 4
        common = (codes[:, joint.features] == 0).all(axis=1)
        assert joint.rare == pytest.approx(1 - common.mean())
    costs = columns.costs(np.array([rows, 1]))
    single = sum(joint.rare for joint in columns.groupings[0])
    assert costs[:, 0] == pytest.approx([single * rows, single])
    assert costs.argmin(axis=1).tolist() == [0, 0]  # sparse columns cost nothing to speak of
    even = prepare_columns(features, rng.integers(0, 2, (rows, 6)).astype(np.uint16))
    assert (even.costs(np.array([rows, 1])).argmin(axis=1) > 0).tolist() == [True, False]


def test_most_frequent_bins_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sparse columns the rows with a one are added up, not those with a zero."""
    positions: list[int] = []
    original = histograms.sum_by_group

    def spy(v: Any, rows: Any, groups: Any, count: int) -> Any:
        positions.append(len(rows))
        return original(v, rows, groups, count)

    monkeypatch.setattr(histograms, "sum_by_group", spy)
    rng = np.random.default_rng(3)
    codes = (rng.random((300, 4)) < 0.03).astype(np.uint16)
    columns = prepare_columns([feature_of("ordered", 2)] * 4, codes)
    drawn, slot = np.ones(4, bool), np.zeros(300, np.int64)
    counts = count_rows(columns, np.arange(300), slot, 1, drawn)
    values = np.arange(300)
    sums = sum_rows(
        columns, encrypted(values), encrypted(np.array([values.sum()])), np.arange(300), slot, counts, drawn
    )
    assert positions[0] <= codes.sum()
    expected = plain_sums(columns, np.arange(300), slot, 1, values)
    np.testing.assert_array_equal(opened(sums), expected[0])


@given(st.integers(1, 60), st.integers(0, 2**32))
@few
def test_parents_less_children(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, codes = random_columns(rng, rows)
    columns = prepare_columns(features, codes)
    own, drawn = np.arange(rows), np.ones(len(features), bool)
    parent, child = rng.integers(0, 2, rows), rng.random(rows) < rng.random()
    small = np.where(child, parent, -1)
    values = rng.integers(-(2**40), 2**40, rows)
    tables = [plain_sums(columns, own, slot, 2, values) for slot in (parent, small)]
    counts = [count_rows(columns, own, slot, 2, drawn) for slot in (parent, small)]
    siblings = counts[0] - counts[1]
    difference = subtract_child(encrypted(tables[0].ravel()), encrypted(tables[1].ravel()), counts[1], siblings)
    # Nobody looks where the sibling has no row: what is there may stay.
    expected = np.where(counts[0] > counts[1], tables[0] - tables[1], tables[0])
    np.testing.assert_array_equal(opened(difference), expected.ravel())


@given(st.integers(1, 80), st.integers(0, 4), st.integers(0, 2**32))
@few
def test_sums_of_candidates(rows: int, gap: int, seed: int) -> None:
    """Left sums of all candidates, then the bins of sorted groups, in the order asked for."""
    rng = np.random.default_rng(seed)
    features, codes = random_columns(rng, rows)
    columns = prepare_columns(features, codes)
    layout, nodes = columns.layout, 3
    slot, values = rng.integers(0, nodes, rows), rng.integers(-(2**40), 2**40, rows)
    drawn = np.ones(len(features), bool)
    counts = count_rows(columns, np.arange(rows), slot, nodes, drawn)
    table = plain_sums(columns, np.arange(rows), slot, nodes, values)
    place = np.array([1, -1, 0])  # the second node has no histogram
    candidates = find_candidates(layout, counts, gap, drawn & (place >= 0)[:, None])
    owners = np.repeat(candidates.groups, candidates.group_sizes, axis=0).tolist()
    places = zip(owners, candidates.members.tolist(), strict=True)
    members = [table[node, layout.starts[j] + b] for (node, j), b in places]
    expected = np.array([*left_sums(layout, table[:, :, None], candidates)[:, 0].tolist(), *members], dtype=np.int64)
    order = rng.permutation(len(expected))
    # What stands in a cell without rows must not matter: a difference of siblings leaves something there.
    ciphers = encrypted(np.where(counts > 0, table, 7)[[2, 0]].ravel())
    sums = candidate_sums(layout, ciphers, place, counts, candidates, order)
    np.testing.assert_array_equal(opened(sums), expected[order])


def descend(rng: np.random.Generator, level: EncryptedLevel, rows: int) -> Told:
    """Split some nodes at random, open some of their children."""
    nodes = len(level.numbers)
    split = rng.random(nodes) < 0.8
    opened_children = rng.random((int(split.sum()), 2)) < 0.7
    parents = np.flatnonzero(split)[opened_children.any(axis=1)]
    left = rng.random(rows) < rng.choice([0.02, 0.3, 0.5, 1.0])
    child = np.full(rows, -1)
    for pair, node in enumerate(parents.tolist()):
        inside = level.slot == node
        child[inside] = 2 * pair + ~left[inside]
    return Told(split, parents, opened_children[opened_children.any(axis=1)].ravel(), child)


@given(
    st.integers(2, 150),
    st.sampled_from(["as it pays", "always", "never"]),
    st.sampled_from([1, 8]),
    st.integers(0, 2**32),
)
@few
def test_levels_of_random_trees(rows: int, subtracting: str, least: int, seed: int) -> None:
    """Every node that may be split has its histogram, and its number in the tree; all others have none."""
    rng = np.random.default_rng(seed)
    features, codes = random_columns(rng, rows)
    columns = prepare_columns(features, codes[: rows - rows // 5])
    training = len(columns.codes)
    own = np.flatnonzero(rng.random(training) < 0.9)
    drawn = rng.random(len(features)) < 0.8
    values = rng.integers(-(2**40), 2**40, len(own))
    tree = EncryptedTree(columns, own, encrypted(values), drawn, least)
    with pytest.MonkeyPatch.context() as patch:
        if subtracting != "as it pays":
            worth = subtracting == "always"
            patch.setattr(levels, "worth_subtracting", lambda _c, _small, large, _cells: np.full(len(large), worth))
        level = first_level(tree, encrypted(np.array([values.sum()])), rows)
        check_level(tree, level, values)
        numbers = 1
        for depth in range(1, 4):
            told = descend(rng, level, rows)
            if not len(told.parents):
                break
            totals = np.bincount(
                told.child[own][told.child[own] >= 0], values[told.child[own] >= 0], len(told.open)
            ).astype(np.int64)
            before = level
            level = next_level(tree, level, told, encrypted(totals))
            assert level.depth == depth
            assert level.following == numbers + 2 * told.split.sum()
            expected = [
                numbers + 2 * int(told.split[:parent].sum()) + side
                for at, parent in enumerate(told.parents.tolist())
                for side in range(2)
                if told.open[2 * at + side]
            ]
            assert level.numbers.tolist() == expected
            for at, parent in enumerate(told.parents.tolist()):
                inside = (before.slot == parent) & (told.child >= 0)
                assert set(told.child[inside].tolist()) <= {2 * at, 2 * at + 1}
            numbers = level.following
            check_level(tree, level, values)


def check_level(tree: EncryptedTree, level: EncryptedLevel, values: Integers) -> None:
    nodes, layout = len(level.numbers), tree.columns.layout
    slot = level.slot[tree.rows]
    used = drawn_cells(tree.columns, tree.drawn)
    counts = count_rows(tree.columns, tree.rows, slot, nodes, tree.drawn)
    np.testing.assert_array_equal(level.counts, counts)
    rows = np.bincount(slot[slot >= 0], minlength=nodes)
    np.testing.assert_array_equal(level.place >= 0, (rows >= tree.least) & tree.drawn.any())
    if not (level.place >= 0).any():
        return
    table = plain_sums(tree.columns, tree.rows, slot, nodes, values)
    found = opened(level.histograms).reshape(-1, layout.cells)[level.place]
    inside = (counts > 0) & used & (level.place >= 0)[:, None]
    np.testing.assert_array_equal(np.where(inside, found, 0), np.where(inside, table, 0))


@pytest.mark.parametrize("flipped", [False, True])
def test_of_two_children_the_smaller_is_summed(flipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = levels.sum_rows

    def spy(columns: Any, ciphers: Any, totals: Any, rows: Any, slot: Integers, *rest: Any) -> Any:
        sizes.append(int((slot >= 0).sum()))
        return original(columns, ciphers, totals, rows, slot, *rest)

    monkeypatch.setattr(levels, "sum_rows", spy)
    rng = np.random.default_rng(2)
    columns = prepare_columns([feature_of("ordered", 4)] * 3, rng.integers(0, 4, (600, 3)).astype(np.uint16))
    values = rng.integers(-(2**40), 2**40, 600)
    tree = EncryptedTree(columns, np.arange(600), encrypted(values), np.ones(3, bool), 1)
    level = first_level(tree, encrypted(np.array([values.sum()])), 600)
    child = ((np.arange(600) < 150) ^ flipped).astype(np.int64)
    totals = np.bincount(child, values, 2).astype(np.int64)
    both = np.ones(2, dtype=bool)
    following = next_level(tree, level, Told(np.ones(1, bool), np.zeros(1, np.int64), both, child), encrypted(totals))
    assert sizes == [600, 150]
    check_level(tree, following, values)


def test_subtracting_pays_for_large_nodes_of_few_cells() -> None:
    rng = np.random.default_rng(0)
    columns = prepare_columns([feature_of("ordered", 8)] * 3, rng.integers(0, 8, (1000, 3)).astype(np.uint16))
    small, large, cells = (np.array(x) for x in ([0, 0, 90, 480], [900, 20, 900, 500], [24, 24, 24, 24]))
    assert worth_subtracting(columns, small, large, cells).tolist() == [True, False, True, False]
    for at in range(4):
        direct = columns.costs(large[at : at + 1]).min()
        other = columns.costs(small[at : at + 1]).min() + 4 * cells[at]
        assert (other < direct) == (at in (0, 2))
