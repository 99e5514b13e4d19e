"""Joint scores where the passive party does not learn which of its rows are scored: it answers for its whole list.

One message of P's per block of rows of its list (A active, P passive party)::

    A --> P   above   for each of P's splits the nearest of its own splits above it, and on which side
    P --> A   sides   of all rows that its own splits let through to a split, which go left

P saw ``above`` when the trees were grown, but keeps none of it. A walks its own rows down all trees with that.

Leakage
-------
active : to which side the passive party's splits send the rows of its list that its own splits let through, rows that
    are not scored among them (by place in a shuffled list)
passive : which of its splits stand above which
coordinator : sizes and timing

Threat model
------------
All follow the protocol and are curious. A learns for every row of the list on which side of P's thresholds it lies,
where P's own splits lead it; of rows that are no members it knows only the place in a list that is shuffled anew in
every alignment. P counts all rows of its list before it answers: which of them are scored it does not know.

>>> [name for name in vars(Wire) if not name.startswith("_")]
['above', 'sides']
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
from vfl.trees.shuffle import tie_key
from vfl.trees.splits import Floats, Integers, Mask

_BLOCK_BITS = 1 << 27  # of one message, 16 MB
_NONE = 0  # of `above`; else 2 i + 1 below the left side of P's i-th split, 2 i + 2 below its right one


class Wire:
    """Messages of one-sided scoring."""

    above = Message(Active, Passive, Positions, discloses="which of its splits stand above which")
    sides = Message(
        Passive,
        Active,
        Bitmaps,
        discloses="to which side its splits send the rows of its list that its own splits let through, rows that are "
        "not scored among them",
    )


def score_as_active(
    endpoint: Endpoint,
    terms: Terms,
    fit: ActiveFit,
    features: Sequence[Feature],
    codes: Codes,
    places: Integers,
    listed: int,
) -> Floats:
    """Score rows.

    Parameters
    ----------
    features : sequence of Feature
        The active party's own columns.
    codes : ndarray of shape (n, d), uint16
        Their bins in the rows to be scored.
    places : ndarray of shape (n,), int64
        Where these stand in the passive party's list.
    listed : int
        Length of that list.

    Returns
    -------
    ndarray of shape (n, outputs), float64
    """
    link = endpoint.link(Active, Passive, terms.job.passive[0])
    trees = fit.boosted.trees
    theirs, above = _above(trees)
    link.send(Wire.above, Positions(np.array([len(above)]), above.astype(np.uint32)))
    own = {(split.tree, split.node): split for split in fit.splits}
    scores = np.tile(fit.boosted.start, (len(codes), 1))
    for start, stop in _blocks(listed, len(above)) if len(above) else [(0, listed)]:
        answers = _read_sides(link.recv(Wire.sides), above, stop - start, link.peer) if len(above) else []
        inside = np.flatnonzero((places >= start) & (places < stop))
        at_block, bins = places[inside] - start, codes[inside]
        block = scores[inside]
        for number, tree in enumerate(trees):
            at = np.zeros(len(inside), dtype=np.int64)
            for node in np.flatnonzero(tree.owner >= 0).tolist():  # a parent comes before its children
                here = np.flatnonzero(at == node)
                if tree.owner[node] == 0:
                    left = goes_left(features, bins, own[number, node], here)
                else:
                    through, bits = answers[theirs[number, node]]
                    left = bits[np.searchsorted(through, at_block[here])]
                at[here] = tree.left[node] + ~left
            add_tree(block, tree, at)
        scores[inside] = block
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
    """Answer for this party's splits, ordered by tree and node, once the rows are counted: all rows of its list.

    Raises
    ------
    PolicyError
        More rows than ``scored_rows`` of the policy allows, and guards are enforced; nothing was sent.
    """
    content = [msgspec.json.encode(splits), tie_key(codes, 0)]  # whatever the order: the list is shuffled each time
    spend_rows(guards, policy, party=endpoint.name, rows=len(codes), content=content)
    lead = endpoint.link(Passive, Active, terms.job.active)
    above = _read_above(lead.recv(Wire.above), splits, lead.peer)
    for start, stop in _blocks(len(codes), len(splits)) if splits else []:
        block, answers = codes[start:stop], list[tuple[Integers, Mask]]()
        for split, where in zip(splits, above.tolist(), strict=True):
            through = _through(answers, where, len(block))
            answers.append((through, goes_left(features, block, split, through)))
        lead.send(Wire.sides, pack_bits([left for _, left in answers]))


def _blocks(rows: int, splits: int) -> list[tuple[int, int]]:
    """Rows of each message: ``start`` to ``stop``."""
    size = max(1, _BLOCK_BITS // splits)
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def _above(trees: Sequence[Tree]) -> tuple[dict[tuple[int, int], int], Integers]:
    """The passive party's splits by (tree, node), numbered in that order, and what stands above each."""
    numbers: dict[tuple[int, int], int] = {}
    above: list[int] = []
    for number, tree in enumerate(trees):
        nearest = np.full(len(tree.owner), _NONE)
        for node in np.flatnonzero(tree.owner >= 0).tolist():  # a parent comes before its children
            below = nearest[node], nearest[node]
            if tree.owner[node] == 1:
                numbers[number, node] = len(above)
                below = 2 * len(above) + 1, 2 * len(above) + 2
                above.append(int(nearest[node]))
            nearest[tree.left[node]], nearest[tree.left[node] + 1] = below
    return numbers, np.array(above, dtype=np.int64)


def _through(answers: Sequence[tuple[Integers, Mask]], where: int, rows: int) -> Integers:
    """Rows of a block that come through to a split."""
    if where == _NONE:
        return np.arange(rows)
    through, left = answers[(where - 1) // 2]
    return through[left if where % 2 else ~left]


def _read_sides(payload: Bitmaps, above: Integers, rows: int, sender: str) -> list[tuple[Integers, Mask]]:
    """For each split the rows of the block that come through, and which of them go left."""
    counts = payload.counts
    if counts.shape != above.shape or not ((counts >= 0) & (counts <= rows)).all():
        raise RemoteProtocolError(f"{sender} sent sides of other splits or rows than it has")
    answers: list[tuple[Integers, Mask]] = []
    for left, where in zip(unpack_bits(payload, counts.tolist(), sender), above.tolist(), strict=True):
        through = _through(answers, where, rows)
        if len(through) != len(left):
            raise RemoteProtocolError(f"{sender} sent sides of {len(left):,} rows, expected {len(through):,}")
        answers.append((through, left))
    return answers


def _read_above(payload: Positions, splits: Sequence[Split], sender: str) -> Integers:
    """What stands above each split, checked: an earlier one of the same tree that is less deep."""
    counts, above = payload.counts, payload.positions.astype(np.int64)
    if counts.tolist() != [len(splits)] or above.shape != (len(splits),):
        raise RemoteProtocolError(f"{sender} named splits above {len(above):,} splits, expected {len(splits):,}")
    for number, where in enumerate(above.tolist()):
        nearest, own = splits[min((where - 1) // 2, number)], splits[number]
        if where != _NONE and not (nearest.tree == own.tree and nearest.depth < own.depth):
            raise RemoteProtocolError(f"{sender} named a split above another one that cannot stand there")
    return above
