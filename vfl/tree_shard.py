"""What a party keeps of boosted trees: its bins and its own splits; the active party also the trees' shapes and values.

``model.json`` and ``model.npz`` as in ``vfl.shard``. All trees' nodes follow each other in the arrays; ``offsets`` says
where each tree's begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np

from parties.errors import DataError
from parties.spec import PartySpec
from vfl.events import FeatureImportance
from vfl.shard import UNREADABLE, Arrays, read_shard, write_shard
from vfl.terms import Terms
from vfl.trees.bins import Binning, Feature
from vfl.trees.forest import Split, Tree
from vfl.trees.splits import Floats

_PER_NODE = ("owner", "left", "values", "gain", "cover")


@dataclass(frozen=True, slots=True)
class TreeShard:
    """A party's part of a boosted model.

    Parameters
    ----------
    start : ndarray of shape (outputs,), float64
        Score before the first tree; empty at a passive party, as are ``trees`` and ``classes``.
    importance : tuple of FeatureImportance
        What the party may know of it.
    """

    binning: Binning = field(repr=False)
    splits: tuple[Split, ...] = field(repr=False)
    start: Floats = field(default_factory=lambda: np.zeros(0))
    trees: tuple[Tree, ...] = field(default=(), repr=False)
    classes: tuple[str, ...] = ()
    importance: tuple[FeatureImportance, ...] = ()


def save_tree_shard(folder: Path, terms: Terms, spec: PartySpec, shard: TreeShard) -> None:
    """Write ``model.json`` and ``model.npz``."""
    lines = {
        "classes": list(shard.classes),
        "binning": shard.binning.to_dict(),
        "splits": msgspec.to_builtins(shard.splits),
        "importance": msgspec.to_builtins(shard.importance),
        "max_depth": terms.job.boosting.max_depth,
    }
    write_shard(folder, terms, spec, lines, {"start": shard.start, **_to_arrays(shard.trees)})


def load_tree_shard(folder: Path) -> TreeShard:
    """Read a party's shard.

    Raises
    ------
    DataError
        If it is missing or damaged.
    """
    state, arrays = read_shard(folder)
    try:
        binning = Binning.from_dict(state["binning"])
        splits = msgspec.convert(state["splits"], tuple[Split, ...])
        importance = msgspec.convert(state["importance"], tuple[FeatureImportance, ...])
        classes = msgspec.convert(state["classes"], tuple[str, ...])
        trees = _from_arrays(arrays)
        start = _start(arrays["start"], trees)
        _check_splits(binning.features, splits, trees)
    except (*UNREADABLE, msgspec.ValidationError) as error:
        raise DataError(f"model shard {folder}: cannot be read ({error}); run the training again") from None
    return TreeShard(binning, splits, start, trees, classes, importance)


def _to_arrays(trees: Sequence[Tree]) -> Arrays:
    if not trees:
        return {}
    return {
        "offsets": np.cumsum([0, *(len(tree.owner) for tree in trees)]),
        "owner": np.concatenate([tree.owner for tree in trees]),
        "left": np.concatenate([tree.left for tree in trees]),
        "values": np.concatenate([tree.values for tree in trees]),
        "gain": np.concatenate([tree.gain for tree in trees]),
        "cover": np.concatenate([tree.cover for tree in trees]),
        "output": np.array([tree.output for tree in trees]),
    }


def _from_arrays(arrays: Arrays) -> tuple[Tree, ...]:
    """Trees of a shard's arrays, checked: every node but a root is the child of one before it."""
    if "offsets" not in arrays:
        return ()
    offsets, (owner, left, values, gain, cover) = arrays["offsets"], (arrays[name] for name in _PER_NODE)
    whole = all(array.dtype.kind == "i" for array in (offsets, owner, left, arrays["output"]))
    numbers = all(array.dtype == np.float64 and np.isfinite(array).all() for array in (values, gain, cover))
    shaped = all(array.shape == (len(owner),) for array in (owner, left, gain, cover)) and values.ndim == 2
    if not (
        whole and numbers and shaped and [len(values), 0] == [len(owner), offsets[0]] and offsets[-1] == len(owner)
    ):
        raise ValueError("the arrays of trees do not fit each other")
    trees = []
    for (first, stop), output in zip(pairwise(offsets.tolist()), arrays["output"].tolist(), strict=True):
        own = slice(first, stop)
        tree = Tree(owner[own], left[own], values[own], gain[own], cover[own], output)
        inner = np.flatnonzero(tree.owner >= 0)
        children = np.sort(np.concatenate([tree.left[inner], tree.left[inner] + 1]))
        if not np.array_equal(children, np.arange(1, stop - first)) or not (tree.left[inner] > inner).all():
            raise ValueError("a tree's nodes do not make a tree")
        trees.append(tree)
    return tuple(trees)


def _start(start: Floats, trees: Sequence[Tree]) -> Floats:
    """First scores, checked; trees add to as many, or to one of them."""
    fits = start.dtype == np.float64 and start.ndim == 1 and bool(np.isfinite(start).all())
    for tree in trees:
        fits = (
            fits and -1 <= tree.output < len(start) and tree.values.shape[1] == (1 if tree.output >= 0 else len(start))
        )
    if not fits:
        raise ValueError("the first scores do not fit the trees")
    return start


def _check_splits(features: Sequence[Feature], splits: Sequence[Split], trees: Sequence[Tree]) -> None:
    """Splits of columns and bins that there are, one per node; at the active party those of its own nodes."""
    places = [(split.tree, split.node) for split in splits]
    owned = [(number, int(node)) for number, tree in enumerate(trees) for node in np.flatnonzero(tree.owner == 0)]
    if len(set(places)) < len(places) or (trees and sorted(places) != owned):
        raise ValueError("the splits are not those of the trees")
    for split in splits:
        if not 0 <= split.feature < len(features):
            raise ValueError("a split is on no column")
        feature, bins = features[split.feature], split.bins
        most = feature.bins + (feature.split == "sorted")
        sound = len(bins) > 0 and all(a < b for a, b in pairwise(bins)) and 0 <= bins[0] and bins[-1] < most
        if not sound or (feature.split == "ordered" and len(bins) > 1) or min(split.tree, split.node, split.depth) < 0:
            raise ValueError("a split is between no bins")
