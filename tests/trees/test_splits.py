"""Candidates, gains and sorted categories against direct formulas and exhaustive search."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vfl.job import Boosting
from vfl.trees.bins import Feature
from vfl.trees.splits import (
    LEAST_GAIN,
    Bounds,
    Candidates,
    Layout,
    Rules,
    find_candidates,
    leaf_values,
    left_sums,
    make_layout,
    make_rules,
    sorted_prefixes,
    split_gains,
    worth_it,
)

many = settings(deadline=None, max_examples=150)
PLAIN = Rules(reg_lambda=1.0, reg_alpha=0.0, gamma=0.0, min_child_weight=0.0, max_delta_step=0.0)

KINDS = ("ordered", "one-hot", "sorted")


def feature_of(kind: str, bins: int) -> Feature:
    if kind == "ordered":
        return Feature("x", "ordered", thresholds=tuple(float(i) for i in range(bins - 1)), has_missing=True)
    return Feature("x", kind, categories=tuple(f"{i:04}" for i in range(bins)), has_missing=True)  # type: ignore[arg-type]


@st.composite
def problems(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> tuple[Layout, np.ndarray, np.ndarray]:
    """Features, the codes of some rows, and each row's node."""
    features = [
        feature_of(kind, draw(st.integers(1 if kind == "ordered" else 3, 6)))
        for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3))
    ]
    rows = draw(st.integers(0, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    missing = draw(st.sampled_from([0.0, 0.3, 0.9]))
    codes = np.empty((rows, len(features)), dtype=np.uint16)
    for j, feature in enumerate(features):
        codes[:, j] = rng.integers(0, feature.bins, rows)
        codes[rng.random(rows) < missing, j] = feature.bins
    return make_layout(features), codes, rng.integers(0, 2, rows)


def count(layout: Layout, codes: np.ndarray, slot: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
    """Counts (2, cells), or sums of values (2, cells, k), by a plain loop."""
    shape = (2, layout.cells) if values is None else (2, layout.cells, values.shape[1])
    table = np.zeros(shape, dtype=np.int64)
    for row, node in enumerate(slot):
        for j, code in enumerate(codes[row]):
            table[node, layout.starts[j] + code] += 1 if values is None else values[row]
    return table


def bins_left(feature: Feature, b: int, missing_left: bool) -> set[int]:
    """What a candidate says goes left."""
    if feature.split == "one-hot" and b < feature.bins:
        left = {b}
    else:
        left = set(range(min(b, feature.bins - 1) + 1))
    return left | ({feature.bins} if missing_left else set())


def found(layout: Layout, candidates: Candidates) -> dict[tuple[int, int], list[set[int]]]:
    """Sets of bins that go left, by node and feature."""
    sides: dict[tuple[int, int], list[set[int]]] = {}
    for node, j, b, missing in zip(
        candidates.node.tolist(),
        candidates.feature.tolist(),
        candidates.bin.tolist(),
        candidates.missing_left.tolist(),
        strict=True,
    ):
        sides.setdefault((node, j), []).append(bins_left(layout.features[j], b, missing))
    return sides


def partition(left: set[int], present: set[int]) -> frozenset[frozenset[int]]:
    return frozenset([frozenset(left & present), frozenset(present - left)])


def expected_partitions(feature: Feature, present: set[int]) -> set[frozenset[frozenset[int]]]:
    """Ways to part the bins that have rows, neither side empty: cuts, or one bin apart, missing cells either way."""
    missing = feature.bins
    filled = sorted(present - {missing})
    if feature.split == "ordered":
        inner = [set(filled[:i]) for i in range(1, len(filled))]
    else:
        inner = [{b} for b in filled] if len(filled) > 1 else []
    lefts = inner + ([left | {missing} for left in inner] + [set(filled)] if missing in present else [])
    return {partition(left, present) for left in lefts if left & present and present - left}


@given(problems(("ordered", "one-hot")), st.integers(0, 1))
@many
def test_every_partition_once(problem: tuple[Layout, np.ndarray, np.ndarray], gap: int) -> None:
    layout, codes, slot = problem
    counts = count(layout, codes, slot)
    candidates = find_candidates(layout, counts, gap, np.ones((2, len(layout.features)), bool))
    sides = found(layout, candidates)
    for node in range(2):
        for j, feature in enumerate(layout.features):
            own = counts[node, layout.starts[j] : layout.starts[j + 1]]
            present = set(np.flatnonzero(own).tolist())
            offered = [partition(left, present) for left in sides.get((node, j), [])]
            wanted = expected_partitions(feature, present)
            assert set(offered) == wanted
            if feature.split == "ordered":
                assert len(offered) == len(wanted)  # once each; one-hot: of two categories either one is "the bin"
            lefts = [frozenset(left & present) for left in sides.get((node, j), [])]
            assert len(set(lefts)) == len(lefts)


@given(problems(), st.integers(0, 6), st.data())
@many
def test_order_and_what_is_allowed(
    problem: tuple[Layout, np.ndarray, np.ndarray], gap: int, data: st.DataObject
) -> None:
    layout, codes, slot = problem
    flags = data.draw(st.lists(st.booleans(), min_size=2 * len(layout.features), max_size=2 * len(layout.features)))
    allowed = np.array(flags).reshape(2, -1)
    candidates = find_candidates(layout, count(layout, codes, slot), gap, allowed)
    order = list(zip(candidates.node, candidates.feature, candidates.bin, ~candidates.missing_left, strict=True))
    assert order == sorted(order)
    everything = find_candidates(layout, count(layout, codes, slot), gap, np.ones_like(allowed))
    kept = allowed[everything.node, everything.feature]
    np.testing.assert_array_equal(everything.bin[kept], candidates.bin)
    np.testing.assert_array_equal(everything.feature[kept], candidates.feature)
    groups = everything.groups[allowed[everything.groups[:, 0], everything.groups[:, 1]]]
    np.testing.assert_array_equal(groups, candidates.groups)
    assert all(layout.features[j].split == "sorted" for j in candidates.groups[:, 1])
    assert not any(layout.features[j].split == "sorted" for j in candidates.feature)


@given(problems(), st.integers(0, 7))
@many
def test_gaps_hold(problem: tuple[Layout, np.ndarray, np.ndarray], gap: int) -> None:
    """On both sides, and between any two candidates of a feature (but for the choice of one bin in two)."""
    layout, codes, slot = problem
    least, counts = max(gap, 1), count(layout, codes, slot)
    candidates = find_candidates(layout, counts, gap, np.ones((2, len(layout.features)), bool))
    for (node, j), sides in found(layout, candidates).items():
        own = counts[node, layout.starts[j] : layout.starts[j + 1]]
        for left in sides:
            assert least <= sum(own[b] for b in left) <= own.sum() - least
        for one, other in combinations(sides, 2):
            assert sum(own[b] for b in one ^ other) >= least
    cells = [counts[:, first:stop] for first, stop in pairwise(layout.starts.tolist())]
    offered = [
        [node, j]
        for node in range(2)
        for j, feature in enumerate(layout.features)
        if feature.split == "sorted" and (cells[j][node] >= least).sum() > 1
    ]
    assert candidates.groups.tolist() == offered
    stops = candidates.group_sizes.cumsum()
    for (node, j), size, stop in zip(candidates.groups.tolist(), candidates.group_sizes, stops, strict=True):
        own = counts[node, layout.starts[j] : layout.starts[j + 1]]
        members = candidates.members[stop - size : stop].tolist()
        assert members == np.flatnonzero(own >= least).tolist()
        assert len(members) >= 2


@given(problems(("ordered",)), st.integers(2, 5))
@many
def test_a_gap_keeps_as_many_cuts_as_go_from_the_left(problem: tuple[Layout, np.ndarray, np.ndarray], gap: int) -> None:
    layout, codes, slot = problem
    counts = count(layout, codes, slot)
    candidates = find_candidates(layout, counts, gap, np.ones((2, len(layout.features)), bool))
    for node in range(2):
        for j, feature in enumerate(layout.features):
            own = counts[node, layout.starts[j] : layout.starts[j] + feature.bins].tolist()
            cuts, upto, before = [], 0, 0
            for b, rows in enumerate(own[:-1]):
                upto += rows
                if upto - before >= gap and sum(own) - upto >= gap:
                    cuts.append(b)
                    before = upto
            here = (candidates.node == node) & (candidates.feature == j) & (candidates.bin < feature.bins - 1)
            left, right = (candidates.bin[here & (candidates.missing_left == side)].tolist() for side in (True, False))
            assert left == cuts
            missing = int(counts[node, layout.missing[j]])
            assert right == (cuts if missing >= gap else [])
            last = (candidates.node == node) & (candidates.feature == j) & (candidates.bin == feature.bins - 1)
            assert candidates.missing_left[last].tolist() == [False] * (missing >= gap and sum(own) >= gap)


@given(problems(("ordered", "one-hot")), st.integers(0, 3), st.integers(0, 2**32))
@many
def test_left_sums_are_sums_of_rows(problem: tuple[Layout, np.ndarray, np.ndarray], gap: int, seed: int) -> None:
    layout, codes, slot = problem
    values = np.random.default_rng(seed).integers(-(2**40), 2**40, (len(slot), 4))
    candidates = find_candidates(layout, count(layout, codes, slot), gap, np.ones((2, len(layout.features)), bool))
    sums = left_sums(layout, count(layout, codes, slot, values), candidates)
    for i, own in enumerate(sums):
        j = candidates.feature[i]
        left = bins_left(layout.features[j], int(candidates.bin[i]), bool(candidates.missing_left[i]))
        rows = (slot == candidates.node[i]) & np.isin(codes[:, j], list(left))
        np.testing.assert_array_equal(own, values[rows].sum(axis=0))


def test_candidates_of_a_column_by_hand() -> None:
    """Bins of 2, 0, 3 and 1 rows, 4 missing: both cuts twice, then all against the missing ones."""
    layout = make_layout([feature_of("ordered", 4)])
    counts = np.array([[2, 0, 3, 1, 4]])
    candidates = find_candidates(layout, counts, 0, np.ones((1, 1), bool))
    assert candidates.bin.tolist() == [0, 0, 2, 2, 3]
    assert candidates.missing_left.tolist() == [True, False, True, False, False]
    candidates = find_candidates(layout, counts, 3, np.ones((1, 1), bool))
    assert (candidates.bin.tolist(), candidates.missing_left.tolist()) == ([3], [False])
    layout = make_layout([feature_of("one-hot", 4)])
    candidates = find_candidates(layout, counts, 0, np.ones((1, 1), bool))
    assert candidates.bin.tolist() == [0, 0, 2, 2, 3, 3, 4]
    assert candidates.missing_left.tolist() == [True, False] * 3 + [False]
    layout = make_layout([feature_of("sorted", 4)])
    candidates = find_candidates(layout, counts, 0, np.ones((1, 1), bool))
    assert candidates.members.tolist() == [0, 2, 3, 4]


def test_without_features_there_is_nothing() -> None:
    layout = make_layout([feature_of("ordered", 3)])
    candidates = find_candidates(layout, np.zeros((2, 4), np.int64), 0, np.ones((2, 1), bool))
    assert len(candidates.node) == len(candidates.groups) == len(candidates.members) == 0


def weigh(G: float, H: float, rules: Rules, low: float = -np.inf, high: float = np.inf) -> float:
    """Leaf of XGBoost's equation 5, with its penalty on |w| and its bounds."""
    if H <= 0:
        return float(np.clip(0.0, low, high))
    pulled = G - rules.reg_alpha if rules.reg_alpha < G else G + rules.reg_alpha if -rules.reg_alpha > G else 0.0
    w = -pulled / (H + rules.reg_lambda)
    if rules.max_delta_step:
        w = min(max(w, -rules.max_delta_step), rules.max_delta_step)
    return min(max(w, low), high)


def lowered(G: float, H: float, rules: Rules, low: float = -np.inf, high: float = np.inf) -> float:
    """Twice by how much the leaf lowers the penalised loss."""
    w = weigh(G, H, rules, low, high)
    return -(2 * G * w + (H + rules.reg_lambda) * w**2 + 2 * rules.reg_alpha * abs(w))


amounts = st.floats(-50, 50).map(lambda x: round(x, 3))
weights = st.floats(0.01, 30).map(lambda x: round(x, 3))
all_rules = st.builds(
    Rules,
    reg_lambda=st.sampled_from([0.0, 1.0, 0.3]),
    reg_alpha=st.sampled_from([0.0, 2.0]),
    gamma=st.just(0.0),
    min_child_weight=st.sampled_from([0.0, 1.0]),
    max_delta_step=st.sampled_from([0.0, 0.7]),
)


@given(
    st.integers(1, 3).flatmap(
        lambda k: st.lists(st.tuples(amounts, weights, amounts, weights), min_size=k, max_size=k)
    ),
    all_rules,
    st.booleans(),
)
@many
def test_gains(sums: list[tuple[float, float, float, float]], rules: Rules, bounded: bool) -> None:
    numbers = np.array(sums)
    left, right = numbers[None, :, :2], numbers[None, :, 2:]
    shape = (1, len(sums))
    bounds = Bounds(np.full(shape, -0.2), np.full(shape, 0.5)) if bounded else None
    limits = (-0.2, 0.5) if bounded else ()
    (gain,) = split_gains(left, left + right, rules, bounds)
    if min(left[0, :, 1].sum(), right[0, :, 1].sum()) < rules.min_child_weight:
        assert gain == -np.inf
        return
    assume(min(abs(left[0, :, 1].sum() - 1), abs(right[0, :, 1].sum() - 1)) > 1e-9)
    expected = sum(
        lowered(a, b, rules, *limits) + lowered(c, d, rules, *limits) - lowered(a + c, b + d, rules, *limits)
        for a, b, c, d in sums
    )
    scale = sum(abs(a) + abs(c) + abs(b) + abs(d) for a, b, c, d in sums)
    assert gain == pytest.approx(expected, rel=1e-9, abs=1e-9 * (1 + scale))
    if rules == PLAIN:
        paper = sum(a * a / (b + 1) + c * c / (d + 1) - (a + c) ** 2 / (b + d + 1) for a, b, c, d in sums)
        assert bounded or gain == pytest.approx(paper, rel=1e-9, abs=1e-9 * (1 + scale))


@given(amounts, weights, all_rules)
@many
def test_leaves_are_minima(G: float, H: float, rules: Rules) -> None:
    """No other value lowers the penalised loss further."""
    assume(rules.min_child_weight <= H)
    w = leaf_values(np.array([[[G, H]]]), rules)[0, 0]
    assert w == pytest.approx(weigh(G, H, rules))

    def loss(value: float) -> float:
        return 2 * G * value + (H + rules.reg_lambda) * value**2 + 2 * rules.reg_alpha * abs(value)

    steps = [w + step for step in (-0.1, -1e-3, 1e-3, 0.1)]
    if rules.max_delta_step:
        steps = [min(max(x, -rules.max_delta_step), rules.max_delta_step) for x in steps]
    assert all(loss(w) <= loss(x) + 1e-9 for x in steps)


def test_leaves_too_light_are_zero() -> None:
    rules = Rules(1.0, 0.0, 0.0, 2.0, 0.0)
    sums = np.array([[[3.0, 1.9]], [[3.0, 2.0]], [[3.0, 0.0]]])
    np.testing.assert_array_equal(leaf_values(sums, rules)[:, 0], [0, -1, 0])
    nothing = np.array([[[0.0, 0.0]]])
    assert leaf_values(nothing, Rules(0.0, 0.0, 0.0, 0.0, 0.0))[0, 0] == 0.0
    assert split_gains(nothing, sums[:1], Rules(0.0, 0.0, 0.0, 0.0, 0.0))[0] == -np.inf


@given(st.lists(st.tuples(amounts, weights), min_size=2, max_size=2), amounts, weights, st.integers(2, 9), all_rules)
@many
def test_equal_sums_gain_the_same_to_the_last_bit(
    outputs: list[tuple[float, float]], G: float, H: float, copies: int, rules: Rules
) -> None:
    """Whatever stands beside them, in whatever memory layout, and whichever side is called the left one."""
    left, total = np.array([outputs]), np.array([outputs]) + [[[G, H], [H, 2 * H]]]
    total = left + (total - left)
    (alone,) = split_gains(left, total, rules)
    several = split_gains(np.repeat(left, copies, axis=0), np.repeat(total, copies, axis=0), rules)
    strided = split_gains(
        np.asfortranarray(np.repeat(left, copies, axis=0)), np.asfortranarray(np.repeat(total, copies, axis=0)), rules
    )
    assert set(several.tolist()) | set(strided.tolist()) == {alone}
    whole = np.rint(np.ldexp(left, 10)), np.rint(np.ldexp(total, 10))  # integers: differences are exact
    assert split_gains(*whole, rules) == split_gains(whole[1] - whole[0], whole[1], rules)


@given(amounts, weights, amounts, weights, st.sampled_from([-1, 0, 1]))
@many
def test_monotone_candidates(g: float, h: float, G: float, H: float, sign: int) -> None:
    left, right = np.array([[[g, h]]]), np.array([[[G, H]]])
    (gain,) = split_gains(left, left + right, PLAIN, signs=np.array([sign]))
    below, above = weigh(g, h, PLAIN), weigh(g + G - g, h + H - h, PLAIN)
    assume(abs(below - above) > 1e-9)
    assert (gain > -np.inf) == (sign == 0 or (above > below) == (sign > 0))


def test_what_is_worth_it() -> None:
    gains = np.array([-np.inf, 0.0, LEAST_GAIN, 2e-6, 0.999, 1.0, 5.0])
    assert worth_it(gains, PLAIN).tolist() == [False, False, False, True, True, True, True]
    rules = Rules(1.0, 0.0, 1.0, 1.0, 0.0)
    assert worth_it(gains, rules).tolist() == [False] * 5 + [True, True]


def test_rules_are_the_jobs() -> None:
    job = Boosting(reg_lambda=2.0, reg_alpha=3.0, gamma=4.0, min_child_weight=5.0)
    assert make_rules(job, 6.0) == Rules(2.0, 3.0, 4.0, 5.0, 6.0)


def variance_split(groups: list[tuple[int, int]]) -> float:
    """The best gain over all ways to part the bins, without a penalty."""
    G, H = sum(g for g, _ in groups), sum(h for _, h in groups)
    best = -np.inf
    for size in range(1, len(groups)):
        for left in combinations(range(len(groups)), size):
            a, b = sum(groups[i][0] for i in left), sum(groups[i][1] for i in left)
            best = max(best, a * a / b + (G - a) ** 2 / (H - b) - G * G / H)
    return best


@given(st.lists(st.tuples(st.integers(-40, 40), st.integers(1, 20)), min_size=2, max_size=8))
@many
def test_the_order_of_ratios_holds_the_best_partition(groups: list[tuple[int, int]]) -> None:
    """Fisher (1958): without a penalty no subset of the bins beats the best prefix."""
    rules: Any = Rules(0.0, 0.0, 0.0, 0.0, 0.0)
    sums = np.array(groups, dtype=np.float64)[:, None, :]
    prefixes = sorted_prefixes(sums, rules)
    ratios = [g / h for g, h in groups]
    assert len(prefixes) == len(set(ratios)) - 1
    total = sums.sum(axis=0, keepdims=True)
    gains = [split_gains(sums[left].sum(axis=0, keepdims=True), total, rules)[0] for left in prefixes]
    for left in prefixes:
        right = sorted(set(range(len(groups))) - set(left.tolist()))
        assert left.tolist() == sorted(left.tolist())
        assert max(ratios[i] for i in left) < min(ratios[i] for i in right)
    best = variance_split(groups)
    scale = sum(g * g / h for g, h in groups) + 1
    assert max(gains, default=0.0) == pytest.approx(best, abs=1e-9 * scale)


def test_prefixes_do_not_depend_on_the_order_of_bins() -> None:
    rng = np.random.default_rng(4)
    sums = np.stack([rng.integers(-3, 3, (7, 1)), rng.integers(1, 3, (7, 1))], axis=2).astype(float)
    expected = {frozenset(left.tolist()) for left in sorted_prefixes(sums, PLAIN)}
    for _ in range(10):
        order = rng.permutation(7)
        shuffled = sorted_prefixes(sums[order], PLAIN)
        assert {frozenset(order[left].tolist()) for left in shuffled} == expected
    assert sorted_prefixes(sums[:1], PLAIN) == sorted_prefixes(sums[:0], PLAIN) == []
