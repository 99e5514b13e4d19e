"""Growing one tree level by level, whoever holds the columns.

Every party is a `Part` here: it offers the best gain per node, and splits the nodes that it wins. The active party's
own columns are a `PlainPart`; passive parties are reached over the wire by ``vfl.boosting``. With plain parts for all
of them this is the reference, the same algorithm on pooled data: it is what a joint model is compared with.

Ties (a node often has several best candidates): of the parties with the largest gain the first in job order, the active
one first; of its best candidates that of the smallest (feature, bin), missing cells left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from vfl.trees.bins import Codes, Feature
from vfl.trees.bitmaps import bits_to_words, words_to_bits
from vfl.trees.forest import LEAF, Split, Tree, goes_left
from vfl.trees.sampling import FixedGradients
from vfl.trees.shuffle import of_tree, shuffled
from vfl.trees.splits import (
    Bounds,
    Candidates,
    Floats,
    Integers,
    Layout,
    Mask,
    Rules,
    find_candidates,
    leaf_values,
    left_sums,
    make_layout,
    sorted_prefixes,
    split_gains,
    worth_it,
)

Add = Callable[[Integers], Integers]
"""Sums over the silos of a party of arrays of one shape; a party without silos keeps what it has."""


def alone(values: Integers) -> Integers:
    """The sum over a party that has no silos."""
    return values


@dataclass(frozen=True)
class TreeTask:
    """What one tree is grown from.

    Parameters
    ----------
    number : int
    output : int
        The score that the tree adds to; -1: all.
    gradients : FixedGradients
        Of the rows drawn; at a silo zero where the row is not its own.
    columns : ndarray of shape (all parties' columns,), bool
        Those drawn, in job order, the active party's first.
    rows : int
        Training and validation rows.
    """

    number: int
    output: int
    gradients: FixedGradients
    columns: Mask = field(repr=False)
    rules: Rules
    max_depth: int
    rows: int
    learning_rate: float


@dataclass(frozen=True)
class Level:
    """The nodes of one depth that may be split.

    Parameters
    ----------
    nodes : ndarray of shape (k,), int64
        Their numbers in the tree.
    slot : ndarray of shape (n,), int64
        Each row's place in ``nodes``, -1 for rows that have come to a leaf; the validation part's rows too.
    totals : ndarray of shape (k, 2 outputs), int64
        Sums of g and h over a node's drawn rows.
    counts : ndarray of shape (k,), int64
        Drawn rows of each node.
    """

    task: TreeTask
    depth: int
    nodes: Integers
    slot: Integers = field(repr=False)
    totals: Integers = field(repr=False)
    counts: Integers
    bounds: Bounds | None = field(repr=False)


@dataclass(frozen=True)
class Outcome:
    """How a level ended.

    Parameters
    ----------
    split : ndarray of shape (k,), bool
        Which of its nodes were split.
    left : ndarray of shape (n,), bool
        For the rows of those nodes, whether they go left.
    open : ndarray of shape (2 splits,), bool
        Which children may be split again, in the order of their numbers.
    totals : ndarray of shape (2 splits, 2 outputs), int64
    """

    split: Mask
    left: Mask = field(repr=False)
    open: Mask
    totals: Integers = field(repr=False)

    def told(self) -> Mask:
        """Nodes that have a child to be split again: only of these anybody has to know the rows."""
        told = self.split.copy()
        told[self.split] = self.open.reshape(-1, 2).any(axis=1)
        return told


class Part(Protocol):
    """One party's columns while a tree is grown."""

    def offer(self, level: Level) -> Floats:
        """Return the largest gain per node, -inf for none."""

    def choose(self, won: Mask) -> None:
        """Learn which nodes this party splits; `sides` asks for them then."""

    def sides(self, level: Level) -> Mask:
        """Return for every row of the nodes won whether it goes left (other rows: anything)."""

    def finish(self, level: Level, outcome: Outcome) -> None:
        """Learn how the level ended."""


def grow(task: TreeTask, parts: Sequence[Part], add: Add = alone) -> tuple[Tree, Integers]:
    """Grow one tree.

    Parameters
    ----------
    add : callable
        Where several silos hold the labels: sums of g and h over all of them.

    Returns
    -------
    Tree
    leaves : ndarray of shape (n,), int64
        The node in which every row ended.
    """
    monotone = any(isinstance(part, PlainPart) and part.signs is not None for part in parts)
    level = _root(task, add(task.gradients.values.sum(axis=0, keepdims=True)), monotone=monotone)
    made = _Made(task)
    leaves = np.zeros(task.rows, dtype=np.int64)
    made.add(level.totals, level.bounds)
    while len(level.nodes):
        gains = np.stack([part.offer(level) for part in parts], axis=1)
        winner = gains.argmax(axis=1)  # the first of equals
        split = worth_it(gains.max(axis=1), task.rules)
        for number, part in enumerate(parts):
            part.choose(split & (winner == number))
        left = np.zeros(task.rows, dtype=bool)
        for number, part in enumerate(parts):
            own = (split & (winner == number))[level.slot] & (level.slot >= 0)
            left = np.where(own, part.sides(level), left)
        signs = [part.chosen_signs(len(level.nodes)) for part in parts if isinstance(part, PlainPart)]
        following, outcome = _descend(made, level, split, winner, gains.max(axis=1), left, signs, leaves, add)
        for part in parts:
            part.finish(level, outcome)
        level = following
    return made.tree(), leaves


def _root(task: TreeTask, totals: Integers, *, monotone: bool) -> Level:
    outputs = totals.shape[1] // 2
    wide = Bounds(np.full((1, outputs), -np.inf), np.full((1, outputs), np.inf)) if monotone else None
    nodes = np.zeros(1, dtype=np.int64)
    slot = np.zeros(task.rows, dtype=np.int64)
    return Level(task, 0, nodes, slot, totals, np.array([len(task.gradients.rows)]), wide)


@dataclass
class _Made:
    """The tree's nodes so far."""

    task: TreeTask
    owner: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    gain: list[float] = field(default_factory=list)
    cover: list[float] = field(default_factory=list)
    values: list[Floats] = field(default_factory=list)

    def add(self, totals: Integers, bounds: Bounds | None) -> None:
        """Append nodes, leaves until they are split."""
        real = self.task.gradients.real(totals)
        self.values += list(leaf_values(real, self.task.rules, bounds) * self.task.learning_rate)
        self.cover += real[:, :, 1].sum(axis=1).tolist()
        self.owner += [LEAF] * len(totals)
        self.left += [0] * len(totals)
        self.gain += [0.0] * len(totals)

    def split(self, node: int, owner: int, gain: float) -> None:
        """Turn a leaf into a split whose children come next."""
        self.owner[node], self.gain[node], self.left[node] = owner, gain, len(self.owner)
        self.values[node] = np.zeros_like(self.values[node])

    def tree(self) -> Tree:
        return Tree(
            np.array(self.owner),
            np.array(self.left),
            np.array(self.values),
            np.array(self.gain),
            np.array(self.cover),
            self.task.output,
        )


def _descend(
    made: _Made,
    level: Level,
    split: Mask,
    winner: Integers,
    gains: Floats,
    left: Mask,
    signs: Sequence[Integers],
    leaves: Integers,
    add: Add,
) -> tuple[Level, Outcome]:
    """Hand the rows of split nodes to their children, and open those that may be split again."""
    task, rows = level.task, level.task.gradients.rows
    child = np.where((level.slot >= 0) & split[level.slot], 2 * (split.cumsum() - 1)[level.slot] + ~left, -1)
    drawn = child[rows]
    inside = drawn >= 0
    children = 2 * int(split.sum())
    counts = np.bincount(drawn[inside], minlength=children)
    totals = np.stack(
        [np.bincount(drawn[inside], column, children) for column in task.gradients.values[inside].T], axis=1
    ).astype(np.int64)  # sums of integers below 2^53: exact
    totals = add(totals) if children else totals
    bounds = None if level.bounds is None else _narrow(task, level.bounds, split, totals, signs)
    numbers = np.empty(children, dtype=np.int64)
    for number, parent in enumerate(np.flatnonzero(split).tolist()):
        made.split(int(level.nodes[parent]), int(winner[parent]), float(gains[parent]))
        pair = slice(2 * number, 2 * number + 2)
        numbers[pair] = len(made.owner) + np.arange(2)
        made.add(totals[pair], None if bounds is None else Bounds(bounds.lower[pair], bounds.upper[pair]))
    leaves[child >= 0] = numbers[child[child >= 0]]
    last = level.depth + 1 == task.max_depth
    weight = task.gradients.real(totals)[:, :, 1].sum(axis=1)
    opened = (weight >= 2 * task.rules.min_child_weight) & (counts >= 2) & (not last)
    outcome = Outcome(split, left, opened, totals)
    place = np.where(opened, opened.cumsum() - 1, -1)
    slot = np.where(child >= 0, place[child], -1) if children else child
    kept = None if bounds is None else Bounds(bounds.lower[opened], bounds.upper[opened])
    return Level(task, level.depth + 1, numbers[opened], slot, totals[opened], counts[opened], kept), outcome


def _narrow(task: TreeTask, bounds: Bounds, split: Mask, totals: Integers, signs: Sequence[Integers]) -> Bounds:
    """Bounds of the children: below a monotone split the two sides keep to their side of the middle (as XGBoost)."""
    sign = np.sum(signs, axis=0)[split]
    lower, upper = np.repeat(bounds.lower[split], 2, axis=0), np.repeat(bounds.upper[split], 2, axis=0)
    values = leaf_values(task.gradients.real(totals), task.rules, Bounds(lower, upper))
    middle = (values[0::2] + values[1::2]) / 2
    rising, falling = (sign > 0)[:, None], (sign < 0)[:, None]
    upper[0::2] = np.where(rising, middle, upper[0::2])
    lower[1::2] = np.where(rising, middle, lower[1::2])
    lower[0::2] = np.where(falling, middle, lower[0::2])
    upper[1::2] = np.where(falling, middle, upper[1::2])
    return Bounds(lower, upper)


@dataclass(frozen=True)
class Limits:
    """Guards on the nodes that a party splits, and on its candidates: rows of a node, rows between candidates."""

    min_node_rows: int = 0
    min_bin_gap: int = 0


@dataclass(frozen=True)
class Listed:
    """All rows of a party's list, and how it orders candidates (`vfl.trees.shuffle`).

    Parameters
    ----------
    codes : ndarray of shape (m, d), uint16
        Bins of the rows.
    tie_key : bytes
    """

    codes: Codes = field(repr=False)
    tie_key: bytes = field(repr=False)


@dataclass(frozen=True)
class Shared:
    """Columns that several silos hold, each of its own rows.

    Parameters
    ----------
    places : ndarray of shape (own,), int64
        Where a silo's rows stand among all rows, ascending.
    add : callable
        Sums over the silos.
    """

    places: Integers = field(repr=False)
    add: Add = field(repr=False)

    def histogram(self, layout: Layout, codes: Codes, drawn: Mask, level: Level) -> tuple[Integers, Integers]:
        """Rows, and sums of g and h, per node and cell over all silos' rows."""
        gradients = level.task.gradients
        own = np.isin(gradients.rows, self.places)
        rows = np.searchsorted(self.places, gradients.rows[own])
        task = replace(level.task, gradients=replace(gradients, rows=rows, values=gradients.values[own]))
        counts, sums = _histogram(layout, codes, drawn, replace(level, task=task, slot=level.slot[self.places]))
        return self.add(counts), self.add(sums)

    def sides(self, level: Level, splits: Mapping[int, Split], features: Sequence[Feature], codes: Codes) -> Mask:
        """Whether rows of the nodes in ``splits`` go left, whosesoever they are: each silo answers for its own."""
        left = np.zeros(len(level.slot), dtype=bool)
        if not splits:
            return left
        left[self.places] = sides_of(level.slot[self.places], splits, features, codes)
        return words_to_bits(self.add(bits_to_words(left)), len(left), "a silo of this party")


@dataclass
class PlainPart:
    """Columns in the clear: the active party's own, or anybody's in the reference.

    Parameters
    ----------
    features : sequence of Feature
    codes : ndarray of shape (n, d), uint16
        Bins of all rows, the validation part's last.
    first : int
        Where its columns stand among all parties'.
    signs : ndarray of shape (d,), int64, optional
        Monotone constraints.
    listed : Listed, optional
        The owner's list, where it is not told which rows of it take part: its candidates are then those of the listed
        rows that its own splits let through, and of candidates of equal gain it splits by the first in its own order.
    shared : Shared, optional
        Where the columns are several silos': ``codes`` are those of this silo's own rows.
    splits : list of Split
        Those that it has won so far.
    """

    features: Sequence[Feature]
    codes: Codes = field(repr=False)
    first: int = 0
    limits: Limits = Limits()
    signs: Integers | None = None
    listed: Listed | None = field(default=None, repr=False)
    shared: Shared | None = field(default=None, repr=False)
    splits: list[Split] = field(default_factory=list, repr=False)
    picked: dict[int, Split] = field(default_factory=dict, repr=False)
    _through: list[Integers] = field(default_factory=list, repr=False)

    def offer(self, level: Level) -> Floats:
        """Return the largest gain per node, and remember the split that has it."""
        self.picked = {}
        if self.listed is not None and level.depth == 0:
            self._through = [np.arange(len(self.listed.codes))]
        best = np.full(len(level.nodes), -np.inf)
        drawn = level.task.columns[self.first : self.first + len(self.features)]
        if not drawn.any():
            return best
        layout = make_layout(self.features)
        histogram = _histogram if self.shared is None else self.shared.histogram
        counts, sums = histogram(layout, self.codes, drawn, level)
        if self.listed is not None:
            counts = _counts(layout, self.listed.codes, drawn, self._through)
        allowed = drawn & (level.counts >= max(self.limits.min_node_rows, 1))[:, None]
        candidates = find_candidates(layout, counts, self.limits.min_bin_gap, allowed)
        signs = None if self.signs is None else self._signs_at(self.signs, candidates.feature, candidates.bin)
        gains = gains_of(level, candidates.node, left_sums(layout, sums, candidates), signs)
        prefixes = gains_of_groups(
            level, candidates.groups[:, 0], candidates.group_sizes, _member_sums(layout, sums, candidates)
        )
        first = None if self.listed is None else _First.make(candidates, level, self.listed.tie_key)
        for node in range(len(level.nodes)):
            ids, sets, best[node] = best_of(node, candidates.node, gains, prefixes)
            if best[node] > -np.inf:
                if first is not None:
                    ids, sets = first.of(ids, sets)
                place = (level.task.number, int(level.nodes[node]), level.depth)
                self.picked[node] = pick(*place, self.features, candidates, ids, sets)
        return best

    def choose(self, won: Mask) -> None:
        """Keep the splits of the nodes won."""
        self.picked = {node: split for node, split in self.picked.items() if won[node]}
        self.splits += self.picked.values()

    def sides(self, level: Level) -> Mask:
        """Return for every row of the nodes won whether it goes left."""
        if self.shared is not None:
            return self.shared.sides(level, self.picked, self.features, self.codes)
        return sides_of(level.slot, self.picked, self.features, self.codes)

    def chosen_signs(self, nodes: int) -> Integers:
        """Monotone constraint of the split chosen for every node, 0 where there is none."""
        signs = np.zeros(nodes, dtype=np.int64)
        if self.signs is not None:
            for node, split in self.picked.items():
                signs[node] = self._signs_at(self.signs, split.feature, split.bins[0])
        return signs

    def _signs_at(self, signs: Integers, feature: Integers | int, b: Integers | int) -> Integers:
        """Monotone constraints of splits: none on parting the missing cells from all others, which have no order."""
        last = np.array([own.bins - 1 for own in self.features], dtype=np.int64)
        return np.where(b < last[feature], signs[feature], 0)

    def finish(self, level: Level, outcome: Outcome) -> None:
        """The next level says all, but for listed rows: those of its nodes go on to the children that are open."""
        if self.listed is None:
            return
        following = []
        for node, opened in zip(np.flatnonzero(outcome.split).tolist(), outcome.open.reshape(-1, 2), strict=True):
            rows = self._through[node]
            split = self.picked.get(node)
            left = None if split is None else goes_left(self.features, self.listed.codes, split, rows)
            sides = [rows, rows] if left is None else [rows[left], rows[~left]]
            following += [own for own, one in zip(sides, opened.tolist(), strict=True) if one]
        self._through = following


@dataclass(frozen=True)
class _First:
    """Where candidates and groups of a level stand in the order of a party that is told one of equal candidates."""

    places: Integers
    groups: Integers

    @classmethod
    def make(cls, candidates: Candidates, level: Level, tie_key: bytes) -> _First:
        order, groups = shuffled(candidates, level.nodes, of_tree(tie_key, level.task.number))
        return cls(np.argsort(order), np.argsort(groups))

    def of(self, ids: Integers, sets: list[Prefix]) -> tuple[Integers, list[Prefix]]:
        """The first of equal candidates of a node; single ones stand before sets."""
        if len(ids):
            return ids[[self.places[ids].argmin()]], []
        return ids, sorted(sets, key=lambda prefix: int(self.groups[prefix.group]))[:1]


def sides_of(slot: Integers, splits: Mapping[int, Split], features: Sequence[Feature], codes: Codes) -> Mask:
    """Return for every row of the nodes in ``splits``, by their places in the level, whether it goes left."""
    left = np.zeros(len(slot), dtype=bool)
    for node, split in splits.items():
        rows = np.flatnonzero(slot == node)
        left[rows] = goes_left(features, codes, split, rows)
    return left


def _histogram(layout: Layout, codes: Codes, drawn: Mask, level: Level) -> tuple[Integers, Integers]:
    """Rows, and sums of g and h, per node and cell of the columns drawn."""
    gradients, nodes = level.task.gradients, len(level.nodes)
    slot = level.slot[gradients.rows]
    inside = slot >= 0
    slot, rows, weights = slot[inside], gradients.rows[inside], gradients.values[inside].T.astype(np.float64)
    counts = np.zeros((nodes, layout.cells), dtype=np.int64)
    sums = np.zeros((nodes, layout.cells, len(weights)), dtype=np.int64)
    for j in np.flatnonzero(drawn).tolist():
        own = slice(int(layout.starts[j]), int(layout.starts[j + 1]))
        width = own.stop - own.start
        cell = slot * width + codes[rows, j]
        counts[:, own] = np.bincount(cell, minlength=nodes * width).reshape(nodes, width)
        for k, weight in enumerate(weights):  # sums of integers below 2^53: exact
            sums[:, own, k] = np.bincount(cell, weight, nodes * width).reshape(nodes, width)
    return counts, sums


def _counts(layout: Layout, codes: Codes, drawn: Mask, nodes: Sequence[Integers]) -> Integers:
    """Rows per node and cell of the columns drawn; a row may be in several nodes."""
    counts = np.zeros((len(nodes), layout.cells), dtype=np.int64)
    for node, rows in enumerate(nodes):
        for j in np.flatnonzero(drawn).tolist():
            own = slice(int(layout.starts[j]), int(layout.starts[j + 1]))
            counts[node, own] = np.bincount(codes[rows, j], minlength=own.stop - own.start)
    return counts


def _member_sums(layout: Layout, sums: Integers, candidates: Candidates) -> Integers:
    """Sums of every bin of the sorted groups."""
    node, feature = np.repeat(candidates.groups, candidates.group_sizes, axis=0).T
    members: Integers = sums[node, layout.starts[feature] + candidates.members]
    return members


def gains_of(level: Level, node: Integers, left: Integers, signs: Integers | None = None) -> Floats:
    """Gains of candidates of the level's nodes from their left sums (m, 2 outputs)."""
    bounds = None if level.bounds is None else Bounds(level.bounds.lower[node], level.bounds.upper[node])
    real = level.task.gradients.real
    return split_gains(real(left), real(level.totals[node]), level.task.rules, bounds, signs)


@dataclass(frozen=True)
class Prefix:
    """A left side made of some of a sorted group's bins, as positions in the group."""

    node: int
    group: int
    members: Integers
    gain: float


def gains_of_groups(level: Level, nodes: Integers, sizes: Integers, sums: Integers) -> list[Prefix]:
    """Every left side that sorted groups of bins offer: one node and size each, ``sums`` (members, 2) in order."""
    found = []
    stops = sizes.cumsum()
    for group, node in enumerate(nodes.tolist()):
        own = sums[stops[group] - sizes[group] : stops[group]]
        members = sorted_prefixes(level.task.gradients.real(own), level.task.rules)
        left = np.array([own[side].sum(axis=0) for side in members], dtype=np.int64).reshape(-1, sums.shape[1])
        gains = gains_of(level, np.full(len(left), node), left)
        found += [Prefix(node, group, side, gain) for side, gain in zip(members, gains.tolist(), strict=True)]
    return found


def best_of(
    node: int, nodes: Integers, gains: Floats, prefixes: Sequence[Prefix]
) -> tuple[Integers, list[Prefix], float]:
    """All candidates of a node with the largest gain, as numbers and as sorted sets, and that gain."""
    first, stop = np.searchsorted(nodes, [node, node + 1])
    own = [prefix for prefix in prefixes if prefix.node == node]
    best = max([float(gains[first:stop].max(initial=-np.inf)), *(prefix.gain for prefix in own)])
    ids = first + np.flatnonzero(gains[first:stop] == best)
    return ids, [prefix for prefix in own if prefix.gain == best], best


def pick(
    tree: int,
    node: int,
    depth: int,
    features: Sequence[Feature],
    candidates: Candidates,
    ids: Integers,
    sets: Sequence[Prefix],
) -> Split:
    """Of equal candidates take that of the smallest (feature, bin or size of the set), missing cells left.

    ``ids`` and ``sets`` are the candidates' numbers, and sets of sorted groups.
    """
    choices: list[tuple[int, int, bool, tuple[int, ...]]] = []
    for i in ids.tolist():
        feature, b = int(candidates.feature[i]), int(candidates.bin[i])
        all_bins = features[feature].split == "one-hot" and b == features[feature].bins
        choices.append((feature, b, not candidates.missing_left[i], tuple(range(b)) if all_bins else (b,)))
    starts = candidates.group_sizes.cumsum() - candidates.group_sizes
    for prefix in sets:
        members: list[int] = candidates.members[starts[prefix.group] + prefix.members].tolist()
        choices.append((int(candidates.groups[prefix.group, 1]), len(members), True, tuple(members)))
    best, _, missing_right, bins = min(choices)
    return Split(
        tree=tree,
        node=node,
        depth=depth,
        feature=best,
        bins=bins,
        missing_left=not missing_right,
    )
