"""The reference itself: every split of its trees against all that were possible, by a plain loop over rows."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from tests.trees.forests import Forests, make_frames, make_labels, tree_depths
from vfl.trees.bins import Feature
from vfl.trees.forest import Split, Tree, goes_left, predict_plain, sides
from vfl.trees.grow import Limits, PlainPart, Prefix, TreeTask, best_of, grow
from vfl.trees.objective import make_objective
from vfl.trees.rounds import Labels, boost_plainly
from vfl.trees.sampling import FixedGradients, draw_rows, fix_gradients
from vfl.trees.splits import LEAST_GAIN, Rules

RULES = Rules(reg_lambda=1.0, reg_alpha=0.0, gamma=0.0, min_child_weight=1.0, max_delta_step=0.0)


def lefts(feature: Feature) -> list[tuple[bool, set[int]]]:
    """(all but missing cells, bins on the left) of all splits, in the order of the rule for ties."""
    missing = feature.bins
    if feature.split == "sorted":
        cells = range(missing + 1)
        return [(False, set(some)) for k in range(1, missing + 1) for some in combinations(cells, k)]
    ordered = feature.split == "ordered"
    sets = [set(range(b + 1)) if ordered else {b} for b in range(missing - ordered)]
    return [(False, left | extra) for left in sets for extra in ({missing}, set())] + [(True, set(range(missing)))]


def score(sums: np.ndarray, rules: Rules) -> float:
    """G^2 / (H + lambda), over outputs, by XGBoost's equation 7; alpha shrinks G."""
    G, H = sums[0::2], sums[1::2]
    G = np.sign(G) * np.maximum(np.abs(G) - rules.reg_alpha, 0)
    return float((G**2 / (H + rules.reg_lambda)).sum()) if (H > 0).all() else 0.0


class Walk:
    """Goes down a tree, and compares every node with all that could have been done there."""

    def __init__(self, task: TreeTask, parts: list[PlainPart], tree: Tree, splits: dict[int, Split]) -> None:
        self.task, self.parts, self.tree, self.splits = task, parts, tree, splits
        bits = [task.gradients.g_bits, task.gradients.h_bits] * (task.gradients.values.shape[1] // 2)
        self.real = np.ldexp(task.gradients.values.astype(float), -np.array(bits))
        self.rank = {row: i for i, row in enumerate(task.gradients.rows.tolist())}
        self.checked = 0

    def possible(self, rows: list[int]) -> list[tuple[float, tuple[int, ...], frozenset[int], tuple[int, int]]]:
        """(gain, sums as integers, rows on the left, (party, feature)) of all splits, in the order of ties."""
        at = [self.rank[row] for row in rows if row in self.rank]
        drawn = self.task.gradients.rows[at]
        values, real = self.task.gradients.values[at], self.real[at]
        total, found = real.sum(axis=0), []
        for number, part in enumerate(self.parts):
            if len(drawn) < part.limits.min_node_rows:
                continue
            for j, feature in enumerate(part.features):
                if not self.task.columns[part.first + j]:
                    continue
                filled = part.codes[drawn, j] < feature.bins
                for whole, bins in lefts(feature):
                    left = np.isin(part.codes[drawn, j], list(bins))
                    if not left.any() or left.all():
                        continue
                    both = (left & filled).any() and (~left & filled).any()
                    if not (both or whole or feature.split == "sorted"):
                        continue
                    mine, theirs = real[left].sum(axis=0), real[~left].sum(axis=0)
                    if min(mine[1::2].sum(), theirs[1::2].sum()) < self.task.rules.min_child_weight:
                        continue
                    gain = sum(score(x, self.task.rules) for x in (mine, theirs)) - score(total, self.task.rules)
                    key = tuple(values[left].sum(axis=0).tolist())
                    found.append((gain, key, frozenset(drawn[left].tolist()), (number, j)))
        return found

    def check(self, node: int, rows: list[int], depth: int) -> None:
        drawn = [row for row in rows if row in self.rank]
        total = self.real[[self.rank[row] for row in drawn]].sum(axis=0)
        assert self.tree.cover[node] == pytest.approx(total[1::2].sum(), rel=1e-12)
        options = self.possible(rows) if depth < self.task.max_depth else []
        best = max([gain for gain, *_ in options], default=-np.inf)
        self.checked += 1
        if self.tree.owner[node] < 0:
            assert best <= max(LEAST_GAIN, self.task.rules.gamma) * (1 + 1e-6)
            G, H = total[0::2], total[1::2]
            pulled = np.sign(G) * np.maximum(np.abs(G) - self.task.rules.reg_alpha, 0)
            value = -self.task.learning_rate * pulled / (H + self.task.rules.reg_lambda)
            light = H.sum() < self.task.rules.min_child_weight
            np.testing.assert_allclose(self.tree.values[node], 0 * value if light else value, rtol=1e-9, atol=1e-12)
            assert self.tree.gain[node] == 0
            return
        owner, split = int(self.tree.owner[node]), self.splits[node]
        left = self.left(owner, split, rows)
        scale = 1e-9 * (1 + abs(score(total, self.task.rules)))
        assert self.tree.gain[node] == pytest.approx(best, rel=1e-9, abs=scale)
        chosen = frozenset(row for row in left if row in self.rank)
        mine = [(gain, key, place) for gain, key, side, place in options if side == chosen]
        assert mine
        assert mine[0][0] == pytest.approx(best, rel=1e-9, abs=scale)
        if self.parts[owner].features[split.feature].split != "sorted":
            # The first of all options with these sums, and of all with the same sums on the other side.
            sums = self.task.gradients.values[[self.rank[row] for row in drawn]].sum(axis=0)
            other = tuple((sums - np.array(mine[0][1])).tolist())
            first = next(option for option in options if option[1] in (mine[0][1], other))
            assert first[3] == (owner, split.feature)
            assert first[2] == chosen
        at = int(self.tree.left[node])
        assert at > node
        self.check(at, sorted(left), depth + 1)
        self.check(at + 1, sorted(set(rows) - set(left)), depth + 1)

    def left(self, owner: int, split: Split, rows: list[int]) -> set[int]:
        part = self.parts[owner]
        feature = part.features[split.feature]
        if feature.split == "ordered":
            bins = set(range(split.bins[0] + 1))
        else:
            bins = set(split.bins)
        if feature.split != "sorted" and split.missing_left:
            bins.add(feature.bins)
        return {row for row in rows if int(part.codes[row, split.feature]) in bins}


def random_part(rng: np.random.Generator, rows: int, kinds: str, first: int, least: int = 0) -> PlainPart:
    """Columns of few bins: many ties."""
    features, codes = [], []
    for kind in kinds:
        bins = int(rng.integers(3, 5))
        if kind == "o":
            features.append(Feature("x", "ordered", tuple(range(bins - 1)), has_missing=True))
        else:
            split: Any = {"1": "one-hot", "s": "sorted"}[kind]
            features.append(Feature("x", split, categories=tuple("abcdef"[:bins]), has_missing=True))
        column = rng.integers(0, bins, rows)
        codes.append(np.where(rng.random(rows) < 0.15, bins, column))
    return PlainPart(features, np.array(codes, dtype=np.uint16).T, first, Limits(least))


def random_task(rng: np.random.Generator, rows: int, width: int, **more: Any) -> TreeTask:
    outputs = more.pop("outputs", 1)
    drawn = more.pop("drawn", np.arange(rows))
    g = rng.integers(-3, 4, (len(drawn), outputs)) / 4
    h = rng.integers(1, 3, (len(drawn), outputs)) / 4
    settings: dict[str, Any] = {
        "number": 0,
        "output": -1,
        "gradients": fix_gradients(g, h, drawn),
        "columns": np.ones(width, dtype=bool),
        "rules": RULES,
        "max_depth": 3,
        "rows": rows,
        "learning_rate": 0.5,
    }
    return TreeTask(**settings | more)


SETTINGS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "two outputs": {"outputs": 2},
    "rows drawn": {"drawn": np.arange(0, 60, 2)},
    "columns drawn": {"columns": np.array([True, False, True, True, False, True])},
    "alpha": {"rules": Rules(0.5, 0.7, 0.0, 0.5, 0.0)},
    "gamma": {"rules": Rules(1.0, 0.0, 0.8, 1.0, 0.0)},
    "no penalty": {"rules": Rules(0.0, 0.0, 0.0, 0.0, 0.0)},
    "deep": {"max_depth": 6},
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", SETTINGS)
def test_every_split_is_the_best(name: str, seed: int) -> None:
    rng = np.random.default_rng([seed, len(name)])
    parts = [random_part(rng, 60, "o1o", 0), random_part(rng, 60, "oo1", 3, least=12)]
    parts[1].codes[:, 0] = parts[0].codes[:, 0]  # the parties share a column
    parts[1] = PlainPart([parts[0].features[0], *parts[1].features[1:]], parts[1].codes, 3, parts[1].limits)
    walk_down(random_task(rng, 60, 6, **SETTINGS[name]), parts)


@pytest.mark.parametrize("seed", range(6))
def test_sorted_categories_are_parted_best(seed: int) -> None:
    """Without a penalty, no set of categories gains more."""
    rng = np.random.default_rng(seed)
    parts = [random_part(rng, 60, "so", 0), random_part(rng, 60, "ss", 2)]
    walk_down(random_task(rng, 60, 4, rules=Rules(0.0, 0.0, 0.0, 0.0, 0.0)), parts)


def walk_down(task: TreeTask, parts: list[PlainPart]) -> None:
    tree, leaves = grow(task, parts)
    splits = {split.node: split for part in parts for split in part.splits}
    assert len(splits) == (tree.owner >= 0).sum()
    for number, part in enumerate(parts):
        assert all(tree.owner[split.node] == number for split in part.splits)
        assert {(split.tree, split.node, split.depth) for split in part.splits} <= tree_depths([tree])
    walk = Walk(task, parts, tree, splits)
    walk.check(0, list(range(task.rows)), 0)
    assert walk.checked == len(tree.owner)
    assert (tree.owner[leaves] < 0).all()
    start = np.zeros(tree.values.shape[1])
    columns = [(part.features, part.codes) for part in parts]
    expected = predict_plain([tree], [part.splits for part in parts], columns, start)
    np.testing.assert_array_equal(expected, tree.values[leaves])


def test_nodes_are_numbered_level_by_level() -> None:
    rng = np.random.default_rng(1)
    tree, _ = grow(random_task(rng, 200, 3, max_depth=5), [random_part(rng, 200, "ooo", 0)])
    depth = {node: at for _, node, at in tree_depths([tree])}
    assert [depth[node] for node in range(len(tree.owner))] == sorted(depth.values())
    inner = np.flatnonzero(tree.owner >= 0)
    assert sorted([*tree.left[inner], *(tree.left[inner] + 1)]) == list(range(1, len(tree.owner)))
    assert max(depth.values()) == 5


def test_the_tie_of_two_parties_and_both_directions() -> None:
    """One column at both parties, turned round at the first; the rows with missing cells count nothing."""
    column = np.array([0, 0, 1, 1, 2, 2, 3, 3], dtype=np.uint16)
    feature = Feature("x", "ordered", (0.0, 1.0), has_missing=True)
    g = np.array([1.0, 1, -1, -1, -1, -1, 0, 0])[:, None]
    h = np.where(column == 3, 0.0, 1.0)[:, None]
    turned = np.array([2, 1, 0, 3], dtype=np.uint16)[column]
    parts = [
        PlainPart([feature], np.stack([turned], axis=1), 0),
        PlainPart([feature, feature], np.stack([column, column], axis=1), 1),
    ]
    task = random_task(np.random.default_rng(0), 8, 3, gradients=fix_gradients(g, h, np.arange(8)), max_depth=1)
    tree, _ = grow(task, parts)
    assert tree.owner.tolist() == [0, -1, -1]
    assert parts[0].splits == [Split(tree=0, node=0, depth=0, feature=0, bins=(1,), missing_left=True)]
    tree, _ = grow(
        task, [PlainPart([], np.zeros((8, 0), np.uint16), 0), PlainPart(parts[1].features, parts[1].codes, 0)]
    )
    assert tree.owner.tolist() == [1, -1, -1]
    # G = -2, H = 6; left 2 and 2, right -4 and 4
    assert tree.gain[0] == pytest.approx(4 / 3 + 16 / 5 - 4 / 7, rel=1e-12)
    np.testing.assert_allclose(tree.values[1:, 0], [-0.5 * 2 / 3, 0.5 * 4 / 5], rtol=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_monotone_trees(sign: int) -> None:
    """XGBoost's rule: below a monotone split the values keep to their side of its middle."""
    rng = np.random.default_rng(5)
    feature = Feature("x", "ordered", tuple(float(i) for i in range(9)))
    codes = rng.integers(0, 10, (400, 2)).astype(np.uint16)
    trend = np.sin(codes[:, 0] / 2) + codes[:, 1] / 5
    g = -(trend + rng.normal(size=400))[:, None]
    task = random_task(rng, 400, 2, gradients=fix_gradients(g, np.ones_like(g), np.arange(400)), max_depth=4)
    for signs in (np.array([sign, 0]), np.array([sign, 1])):
        part = PlainPart([feature, feature], codes, signs=signs)
        tree, _ = grow(task, [part])
        assert {split.feature for split in part.splits} == {0, 1}
        grid = np.stack(np.meshgrid(np.arange(10), np.arange(10), indexing="ij"), axis=-1).reshape(-1, 2)
        table = predict_plain([tree], [part.splits], [(part.features, grid.astype(np.uint16))], np.zeros(1))
        assert (sign * np.diff(table.reshape(10, 10), axis=0) >= -1e-12).all()
        if signs[1]:
            assert (np.diff(table.reshape(10, 10), axis=1) >= -1e-12).all()
    free = PlainPart([feature, feature], codes)
    tree, _ = grow(task, [free])
    table = predict_plain([tree], [free.splits], [(free.features, grid.astype(np.uint16))], np.zeros(1))
    assert not (sign * np.diff(table.reshape(10, 10), axis=0) >= -1e-12).all()


def test_missing_cells_have_no_place_in_the_order() -> None:
    """Parting them from the others is no monotone split, whichever side is larger; the others keep their order."""
    rng = np.random.default_rng(7)
    feature = Feature("x", "ordered", tuple(float(i) for i in range(4)), has_missing=True)
    codes = rng.integers(0, 6, (300, 1)).astype(np.uint16)
    for missing in (-9.0, 9.0):
        trend = np.where(codes[:, 0] == 5, missing, codes[:, 0] - 2.0)
        g = -(trend + rng.normal(size=300) / 10)[:, None]
        gradients = fix_gradients(g, np.ones_like(g), np.arange(300))
        part = PlainPart([feature], codes, signs=np.array([1]))
        tree, _ = grow(random_task(rng, 300, 1, gradients=gradients, max_depth=4), [part])
        root = next(split for split in part.splits if split.node == 0)
        assert (root.bins, root.missing_left) == ((4,), False)
        grid = np.arange(6, dtype=np.uint16)[:, None]
        table = predict_plain([tree], [part.splits], [([feature], grid)], np.zeros(1))[:, 0]
        assert (np.diff(table[:5]) > 0).all()
        assert table[5] == pytest.approx(missing / 2, rel=0.05)
        falling = PlainPart([feature], codes, signs=np.array([-1]))
        tree, _ = grow(random_task(rng, 300, 1, gradients=gradients, max_depth=4), [falling])
        assert [split.bins for split in falling.splits] == [(4,)]


def test_ties_are_exact() -> None:
    """Gains that differ in their last bit do not tie."""
    gains = np.array([7.0, 1.0, np.nextafter(1.0, 2), 1.0, np.nextafter(1.0, 2), -np.inf])
    nodes = np.array([0, 1, 1, 1, 1, 3])
    none = np.zeros(0, dtype=np.int64)
    sets = [Prefix(1, 0, none, 1.0), Prefix(1, 0, none, np.nextafter(1.0, 2)), Prefix(2, 1, none, 5.0)]
    ids, prefixes, best = best_of(1, nodes, gains, sets)
    assert (ids.tolist(), prefixes, best) == ([2, 4], [sets[1]], np.nextafter(1.0, 2))
    assert best_of(2, nodes, gains, sets)[1:] == ([sets[2]], 5.0)
    assert best_of(4, nodes, gains, sets)[2] == -np.inf


def test_sides_of_every_kind() -> None:
    place: Any = {"tree": 0, "node": 0, "depth": 0, "feature": 0}
    ordered = Feature("x", "ordered", (0.0, 1.0), has_missing=True)
    one_hot = Feature("x", "one-hot", categories=("a", "b", "c"), has_missing=True)
    in_order = Feature("x", "sorted", categories=("a", "b", "c"), has_missing=True)
    for feature, bins, missing, expected in [
        (ordered, (1,), False, [1, 1, 0, 0]),
        (ordered, (0,), True, [1, 0, 0, 1]),
        (ordered, (2,), False, [1, 1, 1, 0]),
        (one_hot, (1,), False, [0, 1, 0, 0]),
        (one_hot, (1,), True, [0, 1, 0, 1]),
        (one_hot, (0, 1, 2), False, [1, 1, 1, 0]),
        (in_order, (0, 2), False, [1, 0, 1, 0]),
        (in_order, (0, 3), False, [1, 0, 0, 1]),
    ]:
        split = Split(**place, bins=bins, missing_left=missing)
        assert sides(feature, split).tolist() == [bool(x) for x in expected]
        codes = np.array([[3], [0], [1], [2]], dtype=np.uint16)
        rows = np.array([1, 2, 0])
        assert goes_left([feature], codes, split, rows).tolist() == [bool(expected[i]) for i in (0, 1, 3)]


def test_rounds_add_up() -> None:
    """Scores are the start and all leaves; losses are those of the scores; the gradients are the scores'."""
    frames = make_frames(200)
    y = make_labels("regression", frames)
    forests = Forests("regression", frames, y, settings={"n_estimators": 4, "subsample": 0.7, "learning_rate": 0.3})
    boosted, parts = forests.reference()
    objective = make_objective("regression", 1)
    scores = np.tile(boosted.start, (200, 1))
    for number, tree in enumerate(boosted.trees):
        assert objective.loss(scores, y, None) == pytest.approx(boosted.losses[number], rel=1e-12)
        rows = draw_rows(200, 0.7, 0, number)
        g, h = objective.gradients(scores, y)
        task = TreeTask(number, -1, fix_gradients(g[rows], h[rows], rows), np.ones(14, bool), RULES, 3, 200, 0.3)
        own = [PlainPart(part.features, part.codes, part.first) for part in parts]
        again, leaves = grow(task, own)
        np.testing.assert_array_equal(again.values, tree.values)
        scores += again.values[leaves]
    assert objective.loss(scores, y, None) == pytest.approx(boosted.losses[-1], rel=1e-12)
    assert boosted.losses[-1] < boosted.losses[0] / 2


def test_training_goes_on_until_the_label_is_learnt() -> None:
    """Squared error, no penalty, full steps: the scores are the means of the cells of the columns."""
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 3, (120, 2)).astype(np.uint16)
    y = 5.0 * codes[:, 0] + codes[:, 1] ** 2 + rng.normal(size=120)
    feature = Feature("x", "ordered", (0.0, 1.0))
    settings = Forests("regression", [], y, settings={
        "n_estimators": 3, "max_depth": 9, "reg_lambda": 0.0, "learning_rate": 1.0, "min_child_weight": 0.0
    }).boosting  # fmt: skip
    part = PlainPart([feature, feature], codes)
    objective = make_objective("regression", 1)
    boosted = boost_plainly(objective, Labels(y, None, 120), settings, 0, [part])
    scores = predict_plain(boosted.trees, [part.splits], [([feature, feature], codes)], boosted.start)
    for cell in range(9):
        own = codes @ np.array([3, 1]) == cell
        np.testing.assert_allclose(scores[own, 0], y[own].mean(), atol=1e-5)


def test_gradients_that_nothing_reads_are_not_read() -> None:
    """A row that was not drawn is routed, but counts nowhere."""
    rng = np.random.default_rng(6)
    part = random_part(rng, 80, "oo1", 0)
    task = random_task(rng, 80, 3, drawn=np.arange(40))
    one, leaves = grow(task, [part])
    codes = part.codes.copy()
    codes[40:] = 0
    two, others = grow(task, [PlainPart(part.features, codes, 0)])
    np.testing.assert_array_equal(one.values, two.values)
    np.testing.assert_array_equal(leaves[:40], others[:40])
    assert len(set(others[40:].tolist())) == 1 < len(set(leaves[40:].tolist()))
    assert isinstance(task.gradients, FixedGradients)
