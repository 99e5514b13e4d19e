"""Trees as the parties keep them: the active party shapes and values, each owner its own splits and nothing else.

A tree's nodes are numbered level by level: the root is 0, and the two children of every node that is split follow each
other, left one first. Who owns a split decides which rows go left; the others know at most the outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from vfl.trees.bins import Codes, Feature
from vfl.trees.splits import Floats, Integers, Mask

LEAF = -1


@dataclass(frozen=True)
class Tree:
    """One tree as the active party knows it.

    Parameters
    ----------
    owner : ndarray of shape (nodes,), int64
        Who splits the node: 0 the active party, k the k-th passive party in job order; -1 for a leaf.
    left : ndarray of shape (nodes,), int64
        Its left child; the right one is the next. 0 for a leaf.
    values : ndarray of shape (nodes, outputs), float64
        What a leaf adds to the scores, learning rate included.
    gain, cover : ndarrays of shape (nodes,), float64
        Of splits; cover is the sum of h, over outputs.
    output : int
        The score that it adds to; -1: all of them.
    """

    owner: Integers = field(repr=False)
    left: Integers = field(repr=False)
    values: Floats = field(repr=False)
    gain: Floats = field(repr=False)
    cover: Floats = field(repr=False)
    output: int


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """One split as its owner knows it; ``feature`` is a number among the owner's features.

    ``bins``: an ordered feature's last bin on the left; else all bins on the left (missing cells' bin may be one).
    """

    tree: int
    node: int
    depth: int
    feature: int
    bins: tuple[int, ...]
    missing_left: bool


def sides(feature: Feature, split: Split) -> Mask:
    """Return for every bin of a feature, the missing cells' last, whether it goes left."""
    left = np.zeros(feature.bins + 1, dtype=bool)
    if feature.split == "ordered":
        left[: split.bins[0] + 1] = True
    else:
        left[list(split.bins)] = True
    if feature.split != "sorted":
        left[feature.bins] = split.missing_left
    return left


def goes_left(features: Sequence[Feature], codes: Codes, split: Split, rows: Integers) -> Mask:
    """Return for every given row whether it goes left."""
    column = codes[rows, split.feature]
    left: Mask = sides(features[split.feature], split)[column]
    return left


def predict_plain(
    trees: Sequence[Tree],
    splits: Sequence[Sequence[Split]],
    parts: Sequence[tuple[Sequence[Feature], Codes]],
    start: Floats,
) -> Floats:
    """Scores (n, outputs) where all parties' features and splits are in one place.

    Parameters
    ----------
    splits : one sequence per party, in the order of ``Tree.owner``
    parts : one (features, codes of shape (n, d)) per party
    """
    rows = len(parts[0][1])
    scores = np.tile(start, (rows, 1))
    found = [{(split.tree, split.node): split for split in own} for own in splits]
    for number, tree in enumerate(trees):
        at = np.zeros(rows, dtype=np.int64)
        for node in np.flatnonzero(tree.owner >= 0).tolist():
            here = np.flatnonzero(at == node)
            owner = int(tree.owner[node])
            left = goes_left(*parts[owner], found[owner][number, node], here)
            at[here] = tree.left[node] + ~left
        add_tree(scores, tree, at)
    return scores


def add_tree(scores: Floats, tree: Tree, leaves: Integers) -> None:
    """Add a tree's values to the scores of rows that ended in the given leaves."""
    if tree.output < 0:
        scores += tree.values[leaves]
    else:
        scores[:, tree.output] += tree.values[leaves, 0]
