"""Trees and splits as arrays of a checkpoint, and back.

A checkpoint is the party's own and whole (``parties.checkpoint_file``): what comes back is what was kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from parties.checkpoint import Snapshot
from vfl.trees.forest import Split, Tree

Arrays = dict[str, NDArray[np.generic]]


def trees_to_arrays(trees: Sequence[Tree]) -> Arrays:
    """At least one tree; all trees' nodes follow each other."""
    return {
        "nodes": np.array([len(tree.owner) for tree in trees], dtype=np.int64),
        "output": np.array([tree.output for tree in trees], dtype=np.int64),
        "owner": np.concatenate([tree.owner for tree in trees]),
        "left": np.concatenate([tree.left for tree in trees]),
        "values": np.concatenate([tree.values for tree in trees]),
        "gain": np.concatenate([tree.gain for tree in trees]),
        "cover": np.concatenate([tree.cover for tree in trees]),
    }


def restore_trees(kept: Snapshot) -> list[Tree]:
    """What `trees_to_arrays` kept, bit for bit."""
    stops = np.cumsum(kept.integers("nodes"))[:-1]
    owner, left = (np.split(kept.integers(name), stops) for name in ("owner", "left"))
    values, gain, cover = (np.split(kept.floats(name), stops) for name in ("values", "gain", "cover"))
    parts = zip(owner, left, values, gain, cover, kept.integers("output").tolist(), strict=True)
    return [Tree(*part) for part in parts]


def splits_to_arrays(splits: Sequence[Split]) -> Arrays:
    """Any number of splits; all splits' bins follow each other."""
    places = [[s.tree, s.node, s.depth, s.feature, s.missing_left, len(s.bins)] for s in splits]
    bins = list(chain.from_iterable(split.bins for split in splits))
    return {
        "splits": np.array(places, dtype=np.int64).reshape(-1, 6),
        "bins": np.array(bins, dtype=np.int64),
    }


def restore_splits(kept: Snapshot) -> list[Split]:
    """What `splits_to_arrays` kept."""
    places = kept.integers("splits")
    bins = np.split(kept.integers("bins"), np.cumsum(places[:, 5])[:-1]) if len(places) else []
    return [
        Split(tree=tree, node=node, depth=depth, feature=feature, bins=tuple(own.tolist()), missing_left=bool(missing))
        for (tree, node, depth, feature, missing, _), own in zip(places.tolist(), bins, strict=True)
    ]
