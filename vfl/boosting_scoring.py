"""Joint scores of new rows: all trees at once, level by level, every party answering for its own splits.

For each depth of the trees, and blocks of rows (A active, P every passive party)::

    A --> P   rows    for each of P's splits at this depth, the rows that reach it
    P --> A   sides   which of them go left

That makes as many messages as the trees are deep, however many trees there are. A party answers only for splits of its
own, and at most once per row, tree and depth.

Leakage
-------
active : to which side a passive party's splits send the rows that reach them
passive : which of the rows to be scored reach its splits
coordinator : sizes and timing

Threat model
------------
All follow the protocol and are curious. A learns for every row on which side of P's thresholds it lies, of those on its
way only; repeated with other rows this draws P's columns bin by bin, no finer than the trees are. P counts the rows
before it answers for the first; its policy's ``scored_rows`` bounds them over all runs on one alignment.

>>> [name for name in vars(Wire) if not name.startswith("_")]
['rows', 'sides']
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from parties.errors import RemoteProtocolError
from parties.link import Endpoint
from parties.policy import Guards, Policy, spend_rows
from parties.wire import Active, Bitmaps, Message, Passive, Positions
from vfl.boosting import ActiveFit
from vfl.terms import Terms
from vfl.trees.bins import Codes, Feature
from vfl.trees.bitmaps import pack_bits, unpack_bits
from vfl.trees.forest import Split, Tree, add_tree, goes_left
from vfl.trees.splits import Floats, Integers

ROWS = 1 << 16  # of one block


class Wire:
    """Messages of scoring."""

    rows = Message(Active, Passive, Positions, discloses="which of the rows to be scored reach its splits")
    sides = Message(
        Passive, Active, Bitmaps, discloses="to which side its splits send the rows to be scored that reach them"
    )


def score_as_active(
    endpoint: Endpoint, terms: Terms, fit: ActiveFit, features: Sequence[Feature], codes: Codes
) -> Floats:
    """Score rows.

    Parameters
    ----------
    features : sequence of Feature
        The active party's own columns.
    codes : ndarray of shape (n, d), uint16
        Their bins in the rows to be scored.

    Returns
    -------
    ndarray of shape (n, outputs), float64
    """
    links = [endpoint.link(Active, Passive, name) for name in terms.job.passive]
    depth = terms.job.boosting.max_depth
    nodes = [nodes_by_depth(fit.boosted.trees, owner, depth) for owner in range(len(links) + 1)]
    splits = {(split.tree, split.node): split for split in fit.splits}
    scores = np.tile(fit.boosted.start, (len(codes), 1))
    for start in range(0, len(codes), ROWS):
        block = codes[start : start + ROWS]
        at = np.zeros((len(fit.boosted.trees), len(block)), dtype=np.int64)
        for level in range(depth):
            asked = [[np.flatnonzero(at[tree] == node) for tree, node in owned[level]] for owned in nodes]
            for link, theirs in zip(links, asked[1:], strict=True):
                link.send(Wire.rows, pack_rows(theirs))
            own = [
                goes_left(features, block, splits[place], rows)
                for place, rows in zip(nodes[0][level], asked[0], strict=True)
            ]
            answers = [own]
            for link, theirs in zip(links, asked[1:], strict=True):
                answers.append(unpack_bits(link.recv(Wire.sides), [len(some) for some in theirs], link.peer))
            for owned, parts, sides in zip(nodes, asked, answers, strict=True):
                for (tree, node), rows, left in zip(owned[level], parts, sides, strict=True):
                    at[tree, rows] = fit.boosted.trees[tree].left[node] + ~left
        for grown, leaves in zip(fit.boosted.trees, at, strict=True):
            add_tree(scores[start : start + ROWS], grown, leaves)
    return scores


def score_as_passive(
    endpoint: Endpoint,
    terms: Terms,
    splits: Sequence[Split],
    features: Sequence[Feature],
    codes: Codes,
    guards: Guards,
    policy: Policy,
) -> None:
    """Answer for this party's splits, once the rows are counted; ``codes`` are the bins of the rows to be scored.

    Raises
    ------
    PolicyError
        More rows than ``scored_rows`` of the policy allows, and guards are enforced; nothing was sent.
    """
    if len(codes):
        content = [msgspec.json.encode(splits), codes.tobytes()]
        spend_rows(guards, policy, party=endpoint.name, rows=len(codes), content=content)
    lead = endpoint.link(Passive, Active, terms.job.active)
    depth = terms.job.boosting.max_depth
    by_depth = [[split for split in splits if split.depth == level] for level in range(depth)]
    for start in range(0, len(codes), ROWS):
        block = codes[start : start + ROWS]
        for own in by_depth:
            rows = read_rows(lead.recv(Wire.rows), own, len(block), lead.peer)
            sides = [goes_left(features, block, split, some) for split, some in zip(own, rows, strict=True)]
            lead.send(Wire.sides, pack_bits(sides))


def nodes_by_depth(trees: Sequence[Tree], owner: int, depth: int) -> list[list[tuple[int, int]]]:
    """A party's splits as (tree, node), by depth, in the order in which their owner has them too."""
    found: list[list[tuple[int, int]]] = [[] for _ in range(depth)]
    for number, tree in enumerate(trees):
        at = np.zeros(len(tree.owner), dtype=np.int64)
        for node in np.flatnonzero(tree.owner >= 0).tolist():  # a parent comes before its children
            at[tree.left[node]] = at[tree.left[node] + 1] = at[node] + 1
            if tree.owner[node] == owner:
                found[at[node]].append((number, node))
    return found


def pack_rows(rows: Sequence[Integers]) -> Positions:
    """Payload that asks for some rows at each of a party's splits."""
    counts = np.array([len(some) for some in rows], dtype=np.int64)
    positions = np.concatenate([np.zeros(0, dtype=np.int64), *rows]).astype(np.uint32)
    return Positions(counts, positions)


def read_rows(payload: Positions, splits: Sequence[Split], rows: int, sender: str) -> list[Integers]:
    """Rows that are asked for at each split, checked: one answer per row and tree."""
    counts, positions = payload.counts, payload.positions.astype(np.int64)
    fits = counts.shape == (len(splits),) and positions.ndim == 1
    fits = fits and bool(((counts >= 0) & (counts <= rows)).all())  # so that their sum does not wrap round
    if not fits or int(counts.sum()) != len(positions) or int(positions.max(initial=-1)) >= rows:
        raise RemoteProtocolError(f"{sender} asks for rows or splits that this party does not have")
    trees = np.repeat(np.array([split.tree for split in splits], dtype=np.int64), counts)
    if len(np.unique(trees * rows + positions)) != len(positions):
        raise RemoteProtocolError(f"{sender} asks for a row twice in one level of a tree")
    return np.split(positions, np.cumsum(counts)[:-1]) if len(splits) else []
