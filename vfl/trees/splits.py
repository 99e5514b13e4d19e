"""Where a node may be split, and what each split gains: XGBoost's rules on exact integer sums.

Source: T. Chen, C. Guestrin, *XGBoost: A Scalable Tree Boosting System*, KDD 2016, equations 5 to 7; the candidates of
columns with missing cells are those of its algorithm 3. Gains lack the paper's factor 1/2, as XGBoost's own do.

A node's histogram has one cell per bin of every feature, the last cell of a feature for its missing cells. Sums of g
and h are integers below 2^53, and gains are made of them by the same operations in the same order everywhere: two
candidates with equal sums have equal gains, to the last bit. On that the rule for ties rests.

Which candidates a feature has in a node follows from its counts of rows there, which its owner knows:

    ordered   left = bins up to b, for every b that leaves rows on both sides
    one-hot   left = bin b
    sorted    left = the first bins in the order of g / (h + lambda), which only the holder of the sums can tell

with missing cells to the left, and to the right if there are any; and all others against the missing ones. ``gap``
asks for so many rows between two candidates of a feature, and on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vfl.job import Boosting
from vfl.trees.bins import Feature

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

LEAST_GAIN = 1e-6  # XGBoost's kRtEps: what gains less is no split


@dataclass(frozen=True)
class Layout:
    """Cells of a histogram: those of feature j are ``starts[j]`` to ``starts[j + 1]``, the last for missing cells."""

    features: tuple[Feature, ...]
    starts: Integers = field(repr=False)

    @property
    def cells(self) -> int:
        """Cells of one node."""
        return int(self.starts[-1])

    @property
    def missing(self) -> Integers:
        """Every feature's cell of missing cells."""
        return self.starts[1:] - 1

    @property
    def owner(self) -> Integers:
        """Every cell's feature."""
        return np.repeat(np.arange(len(self.features)), np.diff(self.starts))


def make_layout(features: Sequence[Feature]) -> Layout:
    """Lay the cells of features side by side."""
    sizes = [feature.bins + 1 for feature in features]
    return Layout(tuple(features), np.cumsum([0, *sizes], dtype=np.int64))


@dataclass(frozen=True)
class Candidates:
    """Candidate splits of a level's nodes, in order of (node, feature, bin, missing cells left first).

    Parameters
    ----------
    node, feature, bin : ndarrays of shape (m,), int64
        ``bin = feature.bins - 1`` of an ordered feature, and ``bins`` of a one-hot one: all against the missing cells.
    missing_left : ndarray of shape (m,), bool
    groups : ndarray of shape (q, 2), int64
        Node and feature of every set of bins that is to be sorted.
    group_sizes : ndarray of shape (q,), int64
    members : ndarray of shape (sum of sizes,), int64
        The groups' bins.
    """

    node: Integers
    feature: Integers
    bin: Integers
    missing_left: Mask
    groups: Integers
    group_sizes: Integers
    members: Integers


def find_candidates(layout: Layout, counts: Integers, gap: int, allowed: Mask) -> Candidates:
    """Return every candidate split of a level.

    Parameters
    ----------
    counts : ndarray of shape (nodes, cells), int64
        Rows per cell.
    gap : int
        Rows between two candidates of a feature, at least; 0 and 1 ask for any difference at all.
    allowed : ndarray of shape (nodes, features), bool
        Which features may split which nodes.
    """
    least = max(gap, 1)
    kept = _kept(layout, counts, least)
    kept &= (allowed & [f.split != "sorted" for f in layout.features])[:, :, None, None]
    node, feature, where, side = np.nonzero(kept)
    groups, sizes, members = _groups(layout, counts, least, allowed)
    return Candidates(node, feature, where, side == 0, groups, sizes, members)


def _kept(layout: Layout, counts: Integers, least: int) -> Mask:
    """Which (node, feature, bin, side of missing cells) are candidates; the feature's kind is not sorted."""
    bins = np.array([feature.bins for feature in layout.features], dtype=np.int64)
    width = int(bins.max(initial=0)) + 1
    at = layout.starts[:-1, None] + np.arange(width)
    rows = np.where(np.arange(width) < bins[:, None], counts[:, np.minimum(at, layout.cells - 1)], 0)
    upto = rows.cumsum(axis=2)
    present, missing = upto[:, :, -1:], counts[:, layout.missing][:, :, None]
    one_hot = np.array([feature.split == "one-hot" for feature in layout.features], dtype=bool)[:, None]
    inner = np.where(one_hot, _apart(rows, present, least), _spaced(rows, upto, present, least))
    both = missing >= least
    last = np.arange(width) == np.where(one_hot, bins[:, None], bins[:, None] - 1)
    return np.stack([inner & ~last, inner & ~last & both | last & both & (present >= least)], axis=3)


def _apart(rows: Integers, present: Integers, least: int) -> Mask:
    """One bin against the others."""
    return (rows >= least) & (present - rows >= least)


def _spaced(rows: Integers, upto: Integers, present: Integers, least: int) -> Mask:
    """Bins up to b against the rest, so many rows after the candidate before."""
    if least == 1:
        return (rows > 0) & (upto < present)
    kept = np.zeros(rows.shape, dtype=bool)
    before = np.zeros(rows.shape[:2], dtype=np.int64)
    for b in range(rows.shape[2]):
        kept[:, :, b] = (upto[:, :, b] - before >= least) & (present[:, :, 0] - upto[:, :, b] >= least)
        before = np.where(kept[:, :, b], upto[:, :, b], before)
    return kept


def _groups(layout: Layout, counts: Integers, least: int, allowed: Mask) -> tuple[Integers, Integers, Integers]:
    """Bins of sorted features with rows enough, where there are two or more; missing cells are one bin more."""
    groups, members = [], []
    for j, feature in enumerate(layout.features):
        if feature.split != "sorted":
            continue
        own = counts[:, layout.starts[j] : layout.starts[j + 1]] >= least
        for node in np.flatnonzero(allowed[:, j] & (own.sum(axis=1) >= 2)).tolist():
            groups.append((node, j))
            members.append(np.flatnonzero(own[node]))
    order = sorted(range(len(groups)), key=groups.__getitem__)
    sizes = np.array([len(members[i]) for i in order], dtype=np.int64)
    joined = np.concatenate([members[i] for i in order]) if order else np.zeros(0, dtype=np.int64)
    return np.array([groups[i] for i in order], dtype=np.int64).reshape(-1, 2), sizes, joined


def left_sums(layout: Layout, sums: Integers, candidates: Candidates) -> Integers:
    """Return the sums over the left side of every candidate, from a plain histogram.

    Parameters
    ----------
    sums : ndarray of shape (nodes, cells, k), int64

    Returns
    -------
    ndarray of shape (m, k), int64
    """
    one_hot = np.array([feature.split == "one-hot" for feature in layout.features], dtype=bool)
    bins = np.array([feature.bins for feature in layout.features], dtype=np.int64)
    node, feature = candidates.node, candidates.feature
    upto = np.concatenate([np.zeros_like(sums[:, :1]), sums.cumsum(axis=1)], axis=1)
    start = layout.starts[:-1][feature]
    # A one-hot feature's candidate past its last bin takes all bins, as an ordered one's last does.
    single = one_hot[feature] & (candidates.bin < bins[feature])
    first = np.where(single, start + candidates.bin, start)
    stop = np.minimum(start + candidates.bin + 1, layout.missing[feature])
    own = upto[node, stop] - upto[node, first]
    left: Integers = own + np.where(candidates.missing_left[:, None], sums[node, layout.missing[feature]], 0)
    return left


@dataclass(frozen=True)
class Rules:
    """Regularisation, by XGBoost's names."""

    reg_lambda: float
    reg_alpha: float
    gamma: float
    min_child_weight: float
    max_delta_step: float


def make_rules(settings: Boosting, max_delta_step: float) -> Rules:
    """Take the rules out of a job's settings; ``max_delta_step`` as the task has it."""
    return Rules(settings.reg_lambda, settings.reg_alpha, settings.gamma, settings.min_child_weight, max_delta_step)


@dataclass(frozen=True)
class Bounds:
    """What the values of leaves below a node may be, from monotone constraints above: (nodes, outputs) each."""

    lower: Floats
    upper: Floats


def leaf_values(sums: Floats, rules: Rules, bounds: Bounds | None = None) -> Floats:
    """Return the best values of leaves (XGBoost's equation 5), before the learning rate.

    Parameters
    ----------
    sums : ndarray of shape (m, outputs, 2), float64
        G and H.

    Returns
    -------
    ndarray of shape (m, outputs), float64
    """
    G, H = sums[:, :, 0], sums[:, :, 1]
    pulled = np.sign(G) * np.maximum(np.abs(G) - rules.reg_alpha, 0.0)
    heavy = (H > 0) & (_total(H) >= rules.min_child_weight)[:, None]
    values: Floats = np.divide(-pulled, H + rules.reg_lambda, out=np.zeros_like(G), where=heavy)
    if rules.max_delta_step:
        values = np.clip(values, -rules.max_delta_step, rules.max_delta_step)
    if bounds is not None:
        values = np.clip(values, bounds.lower, bounds.upper)
    return values


def _total(terms: Floats) -> Floats:
    """Sum over outputs in one order, whatever the memory layout."""
    total: Floats = np.zeros(len(terms))
    for column in range(terms.shape[1]):
        total = total + terms[:, column]
    return total


def _scores(sums: Floats, rules: Rules, bounds: Bounds | None) -> Floats:
    """How much a node's best value lowers the loss, twice: the terms of XGBoost's equation 7."""
    G, H = sums[:, :, 0], sums[:, :, 1]
    w = leaf_values(sums, rules, bounds)
    return _total(-(2.0 * G * w + (H + rules.reg_lambda) * w * w) - 2.0 * rules.reg_alpha * np.abs(w))


def split_gains(
    left: Floats, total: Floats, rules: Rules, bounds: Bounds | None = None, signs: Integers | None = None
) -> Floats:
    """Return the gain of every candidate; -inf where it may not be taken.

    Parameters
    ----------
    left, total : ndarrays of shape (m, outputs, 2), float64
        G and H of the candidate's left side, and of its node.
    bounds : Bounds, optional
        Of the candidates' nodes.
    signs : ndarray of shape (m,), int64, optional
        1 where the right side's value may not be less than the left's, -1 where not more, else 0.
    """
    right = total - left
    gains = _scores(left, rules, bounds) + _scores(right, rules, bounds) - _scores(total, rules, bounds)
    weight_left, weight_right = _total(left[:, :, 1]), _total(right[:, :, 1])
    least = rules.min_child_weight
    fine = (weight_left >= least) & (weight_right >= least) & (weight_left > 0) & (weight_right > 0)
    if signs is not None:
        rise = leaf_values(right, rules, bounds)[:, 0] - leaf_values(left, rules, bounds)[:, 0]
        fine &= signs * rise >= 0
    return np.where(fine, gains, -np.inf)


def worth_it(gains: Floats, rules: Rules) -> Mask:
    """Which gains make a split."""
    return (gains > LEAST_GAIN) & (gains >= rules.gamma)


def sorted_prefixes(sums: Floats, rules: Rules) -> list[Integers]:
    """Return every left side that a group of bins offers, as positions in the group.

    Bins go in the order of G / (H + lambda); bins of equal ratio stay together, and one bin at least stays right.

    Parameters
    ----------
    sums : ndarray of shape (m, 1, 2), float64
        G and H of every bin.
    """
    with np.errstate(over="ignore"):  # sums of a peer that lies
        ratio = sums[:, 0, 0] / np.maximum(sums[:, 0, 1] + rules.reg_lambda, 1e-300)
    order = np.argsort(ratio, kind="stable")
    steps = np.flatnonzero(np.diff(ratio[order]) > 0) + 1
    return [np.sort(order[:step]) for step in steps.tolist()]
