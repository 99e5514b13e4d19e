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
from vfl.shard import Arrays, read_shard, write_shard
from vfl.terms import Terms
from vfl.trees.bins import Binning
from vfl.trees.forest import Split, Tree
from vfl.trees.splits import Floats


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
    except (KeyError, TypeError, ValueError, IndexError, msgspec.ValidationError) as error:
        raise DataError(f"model shard {folder}: cannot be read ({error}); run the training again") from None
    if any(not 0 <= split.feature < len(binning.features) for split in splits):
        raise DataError(f"model shard {folder}: a split is on no column; run the training again")
    return TreeShard(binning, splits, arrays["start"], trees, classes, importance)


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
    """Trees of a shard's arrays; children that do not come after their parents are refused."""
    if "offsets" not in arrays:
        return ()
    trees = []
    for (first, stop), output in zip(pairwise(arrays["offsets"].tolist()), arrays["output"].tolist(), strict=True):
        own = slice(first, stop)
        owner, left = arrays["owner"][own], arrays["left"][own]
        inner = np.flatnonzero(owner >= 0)
        if not ((left[inner] > inner) & (left[inner] + 1 < len(owner))).all():
            raise ValueError("a tree's children come before their parent")
        trees.append(Tree(owner, left, arrays["values"][own], arrays["gain"][own], arrays["cover"][own], output))
    return tuple(trees)
