"""From level to level where the passive party is not told rows: nodes are ciphertexts and the rows of its list.

Beside `vfl.trees.levels`: the rows of a level are those of its nodes one after the other, and a row that the active
party's split sends nobody knows where is in both children, with other ciphertexts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from vfl.paillier import CipherVector, gather, subtract
from vfl.trees.levels import EncryptedLevel, EncryptedTree
from vfl.trees.splits import Integers, Mask


def rows_divided_by_others(level: EncryptedLevel, parents: Integers, left: Mapping[int, Mask]) -> int:
    """Rows of the nodes among ``parents`` that are not in ``left``: so many ciphertexts come for their children."""
    theirs = parents[~np.isin(parents, list(left))]
    return int(np.isin(level.slot, theirs).sum())


def divide(
    tree: EncryptedTree,
    level: EncryptedLevel,
    parents: Integers,
    opened: Mask,
    left: Mapping[int, Mask],
    sent: CipherVector | None,
) -> tuple[EncryptedTree, Integers]:
    """Rows and ciphertexts of children.

    Parameters
    ----------
    parents : ndarray of shape (p,), int64
        Nodes of the level with a child that is open.
    opened : ndarray of shape (p, 2), bool
        Which of the children are.
    left : mapping of node to ndarray of bool
        Of one's own splits, which of the node's rows go left.
    sent : CipherVector, optional
        One child's ciphertexts, the left one's if that is open, of each parent that the other party splits.

    Returns
    -------
    tree : EncryptedTree
        Of the other party's splits only open children have rows; of one's own both.
    child : ndarray of shape (rows,), int64
        2 i and 2 i + 1 are the children of the i-th parent.
    """
    vectors, rows, child, start = [], [], [], 0
    for pair, (node, both) in enumerate(zip(parents.tolist(), opened, strict=True)):
        at = np.flatnonzero(level.slot == node)
        own = gather(tree.gradients, at)
        if sent is None or node in left:
            vectors.append(own)
            rows.append(tree.rows[at])
            child.append(2 * pair + ~left[node])
            continue
        fresh = gather(sent, np.arange(start, start + len(at)))
        start += len(at)
        vectors += [fresh, subtract(own, fresh)] if both.all() else [fresh]
        for side in np.flatnonzero(both).tolist():
            rows.append(tree.rows[at])
            child.append(np.full(len(at), 2 * pair + side))
    divided = replace(tree, rows=np.concatenate(rows), gradients=CipherVector.concat(vectors))
    return divided, np.concatenate(child)


def only_open(tree: EncryptedTree, level: EncryptedLevel) -> tuple[EncryptedTree, EncryptedLevel]:
    """Without the rows of children that are not open."""
    kept = np.flatnonzero(level.slot >= 0)
    tree = replace(tree, rows=tree.rows[kept], gradients=gather(tree.gradients, kept))
    return tree, replace(level, slot=level.slot[kept])
