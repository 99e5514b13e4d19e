"""The levels of a tree at a passive party: rows, counts, and encrypted histograms of the nodes that it may split.

Of two children the one with fewer rows is summed, the other is the parent less its sibling, where that is cheaper than
to sum it too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from vfl.paillier import CipherVector, gather
from vfl.trees.histograms import EncryptedColumns, count_rows, subtract_child, sum_rows, worth_subtracting
from vfl.trees.splits import Integers, Mask


@dataclass(frozen=True)
class EncryptedTree:
    """What one tree is grown from at a passive party.

    Parameters
    ----------
    rows : ndarray of shape (m,), int64
        The training rows drawn, ascending. In a one-sided training those of each node after those of another: below a
        split of the active party's a row may be in both children.
    gradients : CipherVector
        One per row drawn.
    drawn : ndarray of shape (d,), bool
        The party's columns drawn.
    least : int
        Drawn rows that a node needs for this party to split it, at least 1.
    """

    columns: EncryptedColumns = field(repr=False)
    rows: Integers = field(repr=False)
    gradients: CipherVector = field(repr=False)
    drawn: Mask = field(repr=False)
    least: int


@dataclass(frozen=True)
class EncryptedLevel:
    """The open nodes of one depth.

    Parameters
    ----------
    numbers : ndarray of shape (k,), int64
        In the tree.
    following : int
        Number of the next node to be made.
    slot : ndarray of shape (n,), int64
        Each row's place in ``numbers``, -1 for none; the validation part's rows too.
    counts : ndarray of shape (k, cells), int64
        Drawn rows per cell.
    histograms : CipherVector
        Of the nodes that this party may split.
    place : ndarray of shape (k,), int64
        Where a node's histogram stands among them; -1 where it has none.
    """

    depth: int
    numbers: Integers
    following: int
    slot: Integers = field(repr=False)
    counts: Integers = field(repr=False)
    histograms: CipherVector = field(repr=False)
    place: Integers


@dataclass(frozen=True)
class Told:
    """What a passive party is told of a level's end.

    Parameters
    ----------
    split : ndarray of shape (k,), bool
        Which nodes were split.
    parents : ndarray of shape (p,), int64
        Those whose rows are told: they have a child that is open.
    open : ndarray of shape (2 p,), bool
        Which of their children are.
    child : ndarray of shape (n,), int64
        Each row's child among those, -1 for none.
    """

    split: Mask
    parents: Integers
    open: Mask
    child: Integers = field(repr=False)


def first_level(tree: EncryptedTree, total: CipherVector, rows: int, judged: int | None = None) -> EncryptedLevel:
    """All rows in the root; ``total`` is their sum, ``rows`` how many there are, drawn or not.

    ``judged`` is by how many drawn rows the root may be split, where this is a silo's part of them.
    """
    slot = np.zeros(rows, dtype=np.int64)
    own = slot[tree.rows]
    counts = count_rows(tree.columns, tree.rows, own, 1, tree.drawn)
    histograms, place = total, np.full(1, -1)
    if (len(own) if judged is None else judged) >= tree.least and tree.drawn.any():
        histograms = sum_rows(tree.columns, tree.gradients, total, tree.rows, own, counts, tree.drawn)
        place = np.zeros(1, dtype=np.int64)
    return EncryptedLevel(0, np.zeros(1, dtype=np.int64), 1, slot, counts, histograms, place)


def next_level(tree: EncryptedTree, level: EncryptedLevel, told: Told, totals: CipherVector) -> EncryptedLevel:
    """The children that are open; ``totals`` are the sums over all children of ``told.parents``."""
    return descend(tree, level, told, told.child[tree.rows], totals)


def descend(
    tree: EncryptedTree,
    level: EncryptedLevel,
    told: Told,
    own: Integers,
    totals: CipherVector,
    judged: Integers | None = None,
) -> EncryptedLevel:
    """As `next_level`, where ``own`` has the child of each of ``tree.rows``, -1 for none.

    ``judged`` is by how many drawn rows each child may be split, where this is a silo's part of them.
    """
    children = len(told.open)
    rows = np.bincount(own[own >= 0], minlength=children)
    counts = count_rows(tree.columns, tree.rows, own, children, tree.drawn)
    needed = told.open & ((rows if judged is None else judged) >= tree.least) & tree.drawn.any()
    histograms, place = _histograms(tree, level, told.parents, totals, own, rows, counts, needed)
    before = (told.split.cumsum() - 1)[told.parents]
    numbers = level.following + 2 * np.repeat(before, 2) + np.tile([0, 1], len(told.parents))
    at = np.where(told.open, told.open.cumsum() - 1, -1)
    return EncryptedLevel(
        depth=level.depth + 1,
        numbers=numbers[told.open],
        following=level.following + 2 * int(told.split.sum()),
        slot=np.where(told.child >= 0, at[told.child], -1),
        counts=counts[told.open],
        histograms=histograms,
        place=np.where(needed, place, -1)[told.open],  # a sibling may be summed that is too small to be split
    )


def _histograms(
    tree: EncryptedTree,
    level: EncryptedLevel,
    parents: Integers,
    totals: CipherVector,
    own: Integers,
    rows: Integers,
    counts: Integers,
    needed: Mask,
) -> tuple[CipherVector, Integers]:
    """Histograms of the children needed, and where each one's stands (-1: nowhere).

    Parameters
    ----------
    own : ndarray of shape (m,), int64
        Each drawn row's child, -1 for none; 2 i and 2 i + 1 are the children of the i-th parent.
    """
    small = 2 * np.arange(len(parents)) + (rows[1::2] < rows[0::2])
    large = 4 * np.arange(len(parents)) + 1 - small
    used = tree.drawn[tree.columns.layout.owner]
    shared = ((counts[small] > 0) & (counts[large] > 0) & used).sum(axis=1)
    worth = worth_subtracting(tree.columns, np.where(needed[small], 0, rows[small]), rows[large], shared)
    derived = needed[large] & worth & (level.place[parents] >= 0) & (rows[small] > 0)
    direct = needed.copy()
    direct[large[derived]] = False
    direct[small[derived]] = True
    place = np.full(len(rows), -1)
    summed = np.flatnonzero(direct)
    if not len(summed):
        return totals, place
    place[summed] = np.arange(len(summed))
    slot = np.where(own >= 0, place[own], -1)
    sums = sum_rows(tree.columns, tree.gradients, gather(totals, summed), tree.rows, slot, counts[summed], tree.drawn)
    if not derived.any():
        return sums, place
    cells = np.arange(tree.columns.layout.cells)
    at_parent = (level.place[parents[derived]][:, None] * len(cells) + cells).ravel()
    at_small = (place[small[derived]][:, None] * len(cells) + cells).ravel()
    differences = subtract_child(
        gather(level.histograms, at_parent),
        gather(sums, at_small),
        counts[small[derived]],
        counts[large[derived]],
    )
    place[large[derived]] = len(summed) + np.arange(int(derived.sum()))
    return CipherVector.concat([sums, differences]), place
