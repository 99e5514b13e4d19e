"""In which order a party's candidate splits leave it: at random, or by a key that only the party has.

With a key the order is the same whenever the same data meet the same seed. In a one-sided training it decides between
candidates of equal gain: of these the active party may name only one. All of them together would tell the passive party
between which of its bins no row takes part.
"""

from __future__ import annotations

import hashlib
import secrets

import numpy as np

from vfl.trees.bins import Codes
from vfl.trees.splits import Candidates, Integers


def tie_key(codes: Codes, seed: int) -> bytes:
    """A key that follows from the seed and from all that a party's bins are, in whatever order the rows stand.

    It is as secret as the bins of all rows together.
    """
    rows = np.ascontiguousarray(codes, dtype="<u2").view(f"V{2 * codes.shape[1]}").ravel()
    ordered = np.sort(rows)
    return hashlib.sha256(b"vfl ties v1|%d|%d|" % (seed, codes.shape[1]) + ordered.tobytes()).digest()


def of_tree(key: bytes, tree: int) -> bytes:
    """The key of one tree."""
    return hashlib.sha256(b"%s|tree %d" % (key, tree)).digest()


def shuffled(
    candidates: Candidates, numbers: Integers | None = None, key: bytes | None = None
) -> tuple[Integers, Integers]:
    """An order of candidates within their nodes, then of groups within nodes and members within groups.

    Parameters
    ----------
    numbers : ndarray of shape (nodes,), int64, optional
        The nodes' numbers in the tree; with ``key``, which has to differ from tree to tree.
    key : bytes, optional
        Without one the order comes from the operating system.

    Returns
    -------
    order : ndarray of shape (candidates + members,), int64
        Members count on from the candidates.
    groups : ndarray of shape (groups,), int64
    """
    owner = np.repeat(candidates.groups[:, 0], candidates.group_sizes)
    plain = np.lexsort((_keys(candidates.node, numbers, key, b"plain"), candidates.node))
    groups = np.lexsort((_keys(candidates.groups[:, 0], numbers, key, b"group"), candidates.groups[:, 0]))
    rank = np.empty(len(groups), dtype=np.int64)
    rank[groups] = np.arange(len(groups))
    members = np.lexsort((_keys(owner, numbers, key, b"member"), np.repeat(rank, candidates.group_sizes)))
    return np.concatenate([plain, len(plain) + members]), groups


def _keys(node: Integers, numbers: Integers | None, key: bytes | None, what: bytes) -> Integers:
    """A random 64-bit key for everything that belongs to a node; ``node`` ascends."""
    if key is None or numbers is None:
        return np.frombuffer(secrets.token_bytes(8 * len(node)), dtype=np.int64)
    counts = np.bincount(node, minlength=len(numbers)).tolist()
    streams = [
        hashlib.shake_256(b"%s|%s|%d" % (key, what, number)).digest(8 * count)
        for number, count in zip(numbers.tolist(), counts, strict=True)
    ]
    return np.frombuffer(b"".join(streams), dtype="<i8").astype(np.int64)
