"""Joint scores of new rows where parties are made of silos: all trees at once, level by level.

As `vfl.boosting_scoring`, with the silos' answers added up under masks. A is the active party, L the other silos of the
label holder, H all of them, P every silo of a passive holder, C the coordinator; {v} under zero-sum masks. For each
depth of the trees, and blocks of rows::

    A --> P   rows        for each of the holder's splits at this depth, the rows that reach it
    P --> C   sides       {which of its own rows among them go left}, zeros at others
    C --> A   side_sums   added up over the holder's silos; A opens them
    A --> L   told        the sides at all passive holders' splits

The silos of the label holder walk the trees side by side; the sides of their own columns' splits are sums over H
(`vfl.siblings`). All of them come to the scores of all rows, and each takes its own: nobody else learns which.

Leakage
-------
active : to which side a passive holder's splits send the rows to be scored that reach them
other silos of the label holder : to which side passive holders' splits send the rows to be scored that reach them
passive : which of the rows to be scored reach its splits
coordinator : sizes and timing
The rows to be scored are so by their places; of another silo's rows a silo knows no more than that there are some.

Threat model
------------
As in `vfl.boosting_scoring`. A silo counts its own rows before it answers for the first; ``scored_rows`` of its policy
bounds them over all runs on one alignment.

>>> [name for name in vars(Wire) if not name.startswith("_")]
['rows', 'sides', 'side_sums', 'told']
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from parties.link import COORDINATOR, Endpoint, Link
from parties.policy import Guards, Policy, spend_rows
from parties.spec import holder_of
from parties.wire import Active, Bitmaps, Coordinator, LabelSilo, Masked, Message, Passive, Positions
from vfl.boosting_scoring import ROWS, nodes_by_depth, pack_rows, read_rows
from vfl.exact_sums import adder
from vfl.masking import Masks, add_masked, pairwise_masks
from vfl.siblings import Siblings
from vfl.terms import Terms
from vfl.trees.bins import Codes, Feature
from vfl.trees.bitmaps import bits_to_words, pack_bits, unpack_bits, words_to_bits
from vfl.trees.forest import Split, Tree, add_tree, goes_left
from vfl.trees.grow import Add
from vfl.trees.splits import Floats, Integers, Mask


class Wire:
    """Messages of scoring with silos."""

    rows = Message(Active, Passive, Positions, discloses="which of the rows to be scored reach its splits")
    sides = Message(Passive, Coordinator, Masked)
    side_sums = Message(
        Coordinator,
        Active,
        Masked,
        discloses="to which side a passive holder's splits send the rows to be scored that reach them",
    )
    told = Message(
        Active,
        LabelSilo,
        Bitmaps,
        discloses="to which side passive holders' splits send the rows to be scored that reach them",
    )


@dataclass(frozen=True)
class Held:
    """A silo's own rows among those to be scored.

    Parameters
    ----------
    features : sequence of Feature
        Of the party's columns.
    codes : ndarray of shape (own, d), uint16
        Their bins in the silo's own rows.
    places : ndarray of shape (own,), int64
        Where these stand among all rows to be scored, ascending.
    rows : int
        All rows to be scored.
    """

    features: Sequence[Feature] = field(repr=False)
    codes: Codes = field(repr=False)
    places: Integers = field(repr=False)
    rows: int

    def blocks(self) -> list[Held]:
        """The same in blocks of rows."""
        found = []
        for start in range(0, self.rows, ROWS):
            count = min(ROWS, self.rows - start)
            first, stop = np.searchsorted(self.places, [start, start + count]).tolist()
            found.append(Held(self.features, self.codes[first:stop], self.places[first:stop] - start, count))
        return found

    def sides(self, splits: Sequence[Split], asked: Sequence[Integers]) -> Mask:
        """For every split, whether the rows asked for go left: of own rows; False at others'."""
        local = np.full(self.rows, -1, dtype=np.int64)
        local[self.places] = np.arange(len(self.places))
        found = [np.zeros(0, dtype=bool)]
        for split, rows in zip(splits, asked, strict=True):
            own = local[rows]
            left = np.zeros(len(rows), dtype=bool)
            left[own >= 0] = goes_left(self.features, self.codes, split, own[own >= 0])
            found.append(left)
        return np.concatenate(found)


def score_as_labelled(
    endpoint: Endpoint,
    terms: Terms,
    trees: Sequence[Tree],
    splits: Sequence[Split],
    start: Floats,
    held: Held,
    siblings: Siblings,
) -> Floats:
    """Score rows at a silo of the label holder.

    Parameters
    ----------
    trees, splits, start
        Of the training: the same at all silos.

    Returns
    -------
    ndarray of shape (own, outputs), float64
        Scores of the silo's own rows.
    """
    lead = _Lead.make(endpoint, terms) if endpoint.name == terms.job.active else None
    told = None if lead is not None else endpoint.link(LabelSilo, Active, terms.job.active)
    add_up, depth = adder(siblings, "scoring"), terms.job.boosting.max_depth
    nodes = [nodes_by_depth(trees, owner, depth) for owner in range(len(terms.job.passive_holders) + 1)]
    known = {(split.tree, split.node): split for split in splits}
    scores = [np.zeros((0, len(start)))]
    for number, block in enumerate(held.blocks()):
        at = np.zeros((len(trees), block.rows), dtype=np.int64)
        for level in range(depth):
            places = [owned[level] for owned in nodes]
            asked = [[np.flatnonzero(at[tree] == node) for tree, node in owned] for owned in places]
            if lead is not None:
                lead.ask(asked[1:])
            mine = _own_sides(block, [known[place] for place in places[0]], asked[0], add_up)
            if lead is not None:
                theirs = lead.hear(asked[1:], f"{number}|{level}")
            elif told is not None:
                theirs = unpack_bits(told.recv(Wire.told), [_count(rows) for rows in asked[1:]], told.peer)
            for owned, rows, sides in zip(places, asked, [mine, *theirs], strict=True):
                _step(at, trees, owned, rows, sides)
        found = np.tile(start, (block.rows, 1))
        for grown, leaves in zip(trees, at, strict=True):
            add_tree(found, grown, leaves)
        scores.append(found[block.places])
    return np.concatenate(scores)


def score_as_passive(
    endpoint: Endpoint, terms: Terms, splits: Sequence[Split], held: Held, guards: Guards, policy: Policy
) -> None:
    """Answer for the holder's splits at the silo's own rows, once these are counted.

    Raises
    ------
    PolicyError
        More rows than ``scored_rows`` of the policy allows, and guards are enforced; nothing was sent.
    """
    if len(held.codes):
        content = [msgspec.json.encode(splits), held.codes.tobytes()]
        spend_rows(guards, policy, party=endpoint.name, rows=len(held.codes), content=content)
    lead = endpoint.link(Passive, Active, terms.job.active)
    hub = endpoint.link(Passive, Coordinator, COORDINATOR)
    masks = _masks(endpoint, terms, holder_of(endpoint.name))
    depth = terms.job.boosting.max_depth
    by_depth = [[split for split in splits if split.depth == level] for level in range(depth)]
    for number, block in enumerate(held.blocks()):
        for level, own in enumerate(by_depth):
            asked = read_rows(lead.recv(Wire.rows), own, block.rows, lead.peer)
            hub.send(Wire.sides, masks.scores(f"{number}|{level}", bits_to_words(block.sides(own, asked))))


def score_as_coordinator(endpoint: Endpoint, terms: Terms, rows: int) -> None:
    """Add up what cannot be read, for so many rows."""
    lead = endpoint.link(Coordinator, Active, terms.job.active)
    holders = [
        [endpoint.link(Coordinator, Passive, name) for name in silos] for silos in terms.job.passive_holders.values()
    ]
    for _ in range(-(-rows // ROWS) * terms.job.boosting.max_depth):
        for silos in holders:
            lead.send(Wire.side_sums, add_masked({link.peer: link.recv(Wire.sides) for link in silos}))


def _own_sides(block: Held, splits: Sequence[Split], asked: Sequence[Integers], add_up: Add) -> Mask:
    """Sides at the label holder's own splits of all silos' rows; the same question at each of them."""
    words = bits_to_words(block.sides(splits, asked))
    return words_to_bits(add_up(words) if len(words) else words, _count(asked), "a silo of this party")


def _step(
    at: Integers, trees: Sequence[Tree], places: Sequence[tuple[int, int]], rows: Sequence[Integers], sides: Mask
) -> None:
    """Move rows one level down; ``sides`` are those of all the splits' rows, one split after the other."""
    cuts = np.cumsum([len(some) for some in rows])[:-1]
    for (tree, node), some, left in zip(places, rows, np.split(sides, cuts) if len(rows) else [], strict=True):
        at[tree, some] = trees[tree].left[node] + ~left


def _count(asked: Sequence[Integers]) -> int:
    return sum(len(rows) for rows in asked)


def _masks(endpoint: Endpoint, terms: Terms, holder: str) -> Masks:
    """Masks that cancel over the silos of a passive holder and the active party, which opens their sums."""
    return pairwise_masks(endpoint, f"scoring|{holder}", [terms.job.active, *terms.job.passive_holders[holder]])


@dataclass(frozen=True)
class _Lead:
    """What the active party asks passive holders with, and tells the other silos of the label holder."""

    hub: Link[Active, Coordinator]
    holders: Sequence[Sequence[Link[Active, Passive]]]
    masks: Sequence[Masks] = field(repr=False)
    siblings: Sequence[Link[Active, LabelSilo]]

    @classmethod
    def make(cls, endpoint: Endpoint, terms: Terms) -> _Lead:
        holders = terms.job.passive_holders
        return cls(
            endpoint.link(Active, Coordinator, COORDINATOR),
            [[endpoint.link(Active, Passive, silo) for silo in silos] for silos in holders.values()],
            [_masks(endpoint, terms, name) for name in holders],
            [endpoint.link(Active, LabelSilo, name) for name in endpoint.peers(LabelSilo)],
        )

    def ask(self, asked: Sequence[Sequence[Integers]]) -> None:
        """Ask every silo of every holder for the rows that reach the holder's splits."""
        for silos, rows in zip(self.holders, asked, strict=True):
            for link in silos:
                link.send(Wire.rows, pack_rows(rows))

    def hear(self, asked: Sequence[Sequence[Integers]], label: str) -> list[Mask]:
        """Which of them go left, holder by holder; the label holder's other silos are told."""
        found = []
        for masks, rows, silos in zip(self.masks, asked, self.holders, strict=True):
            count = _count(rows)
            total = self.hub.recv(Wire.side_sums)
            words = masks.open_scores(label, total, len(bits_to_words(np.zeros(count, dtype=bool))))
            whose = f"a silo of {holder_of(silos[0].peer)} or the coordinator"
            found.append(words_to_bits(words, count, whose))
        for sibling in self.siblings:
            sibling.send(Wire.told, pack_bits(found))
        return found
