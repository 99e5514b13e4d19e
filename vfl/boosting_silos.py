"""Train gradient-boosted trees whose parties are made of silos: the trees are those of the silos' rows in one place.

Source: `vfl.boosting`, whose trees, packing and candidates these are; K. Cheng et al., *SecureBoost*, 2021. The silos'
parts are added up as ciphertexts and under zero-sum masks (K. Bonawitz et al., *Practical Secure Aggregation*, CCS
2017, section 4).

A party's silos hold the same columns, in the same bins, of different rows. Vectors over rows have one place per common
row and zeros where a silo does not have the row: nobody learns whose a row is. A is the active party, the first silo of
the label holder, L its other silos, H all of them; P every silo of a passive holder, P1 the first; C the coordinator;
[[v]] Paillier under A's key, {v} under zero-sum masks. One tree::

    A --> L, P, C   key, key_copy     once
    A --> C         turn              a tree, a level, or the end
    A --> P         tree              there is one more
    H --> C         gradients         [[g 2^b + h]] of its own rows drawn, zeros elsewhere; C multiplies
    C --> P         gradients_copy
      for every level
    P1 --> A        offered           how many candidate splits the holder has in each node
    P --> C         candidates        [[sums of its own rows over their left sides]], in the holder's secret order
    C --> A         candidate_sums    multiplied over the holder's silos
    A --> P         chosen            of the nodes that the holder wins, all candidates with the largest gain
    A --> L         gains             which nodes that are, and the gain
    P --> C         sides             {which of its own rows in those nodes go left}
    C --> A         side_sums         added up over the holder's silos; A opens them
    A --> L         told              which rows go left there
    A --> P         outcome           which nodes were split and which rows went left
      at the end
    A <-> P1        `vfl.importance`

The silos of the label holder grow every tree side by side: sums of g and h over a node, over the bins of their own
columns and over all rows (start, losses, the scale of g and h) are sums over H (`vfl.siblings`), and so are the sides
of their own columns' splits. What passive holders offer is known to A, which tells the gains that win. The silos of a
passive holder add up how many rows each of their bins has in a node, so that all have the same candidates; of sums of
ciphertexts each makes those of its own rows. Where a party has one silo its sums are sent to nobody.

A run that goes on after a crash begins with new keys, masks and orders.

Leakage
-------
active : sums of g and h over the left sides of a passive holder's candidate splits; how many candidate splits there are
    in each node; which rows of the nodes that a passive holder splits go left
other silos of the label holder : which nodes passive holders split, and what they gain; which rows of those nodes go
    left
passive : which of its candidate splits gain most; which nodes are split and which rows go left, but for the deepest
    splits
silos : sums over all silos of its party: of its columns' rows, the label holder's of g and h too, and of losses
coordinator : sizes and timing, how deep trees are; it holds no key, and adds up what it cannot read
Sums tell of rows what `vfl.boosting` says; a bin or a node with one row of another silo tells the silos of its party
that row's bin, the label holder's its g and h, by its place and not whose it is: ``min_node_rows`` and ``min_bin_gap``
guard passive holders against A, and no party's silos against each other. Which silo a row belongs to nobody is told but
by sums over two silos, which show each the other's part. Of the label holder's silos all learn the largest exponent of
g and h over all of them.
C with A: g and h of every label silo's rows, and each silo's sums by itself, and so whose a row is. C with P: what P
learns, and sums over single silos under A's key.

Threat model
------------
All follow the protocol and are curious; C colludes with nobody. As in `vfl.boosting`, a party can choose its own splits
badly. Sides that two silos claim to have are found in most cases, a row that none has goes right.

>>> [name for name in vars(Wire) if not name.startswith("_")][:3]
['key', 'key_copy', 'turn']
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce

import numpy as np

from parties.errors import RemoteProtocolError
from parties.link import COORDINATOR, Endpoint, Link
from parties.spec import holder_of
from parties.wire import (
    Active,
    Bitmaps,
    Control,
    Coordinator,
    DataParty,
    Encrypted,
    EncryptedSums,
    LabelSilo,
    Masked,
    Message,
    PaillierKey,
    Passive,
    Positions,
    Revealed,
)
from vfl.boosting import (
    BLOCK,
    CANDIDATE_POOL,
    MAX_POOL,
    ActiveFit,
    PassiveFit,
    encrypt_gradients,
    plan_gradients,
    read_announced,
    read_number,
    rounds_behind,
    trees_per_round,
)
from vfl.candidates import (
    Questions,
    name_candidates,
    offer_candidates,
    open_candidates,
    pack_outcome,
    read_chosen,
    read_outcome,
)
from vfl.exact_sums import adder
from vfl.exchange import receive_ciphers, receive_key, receive_values, send_ciphers, send_key
from vfl.importance import importance_as_active, importance_as_passive, own_importance
from vfl.masking import Masks, add_masked, pairwise_masks
from vfl.paillier import (
    CipherVector,
    ObfuscatorPool,
    PrivateKey,
    PublicKey,
    SlotLayout,
    add,
    gather,
    generate_keypair,
    hand_on,
    sum_by_group,
)
from vfl.siblings import Siblings
from vfl.silo_objective import over_silos, shared_exponents
from vfl.terms import Terms
from vfl.trees.bins import Codes, Feature
from vfl.trees.bitmaps import bits_to_words, pack_bits, unpack_bits, words_to_bits
from vfl.trees.forest import Split, Tree
from vfl.trees.grow import Level, Limits, Outcome, PlainPart, Shared, TreeTask, sides_of
from vfl.trees.grow import grow as grow_tree
from vfl.trees.histograms import EncryptedColumns, prepare_columns
from vfl.trees.kept import restore_splits, splits_to_arrays
from vfl.trees.levels import EncryptedLevel, EncryptedTree, descend, first_level
from vfl.trees.objective import Objective
from vfl.trees.rounds import Labels, Progress, boost
from vfl.trees.sampling import draw_columns, draw_rows, fix_gradients
from vfl.trees.shuffle import of_tree
from vfl.trees.splits import Candidates, Floats, Integers, Mask

_MOST_COUNT = 1 << 53


class Wire:
    """Messages of boosting with silos, beside those of `vfl.siblings`."""

    key = Message(Active, DataParty, PaillierKey)
    key_copy = Message(Active, Coordinator, PaillierKey)
    turn = Message(Active, Coordinator, Control)
    tree = Message(Active, Passive, Control)
    gradients = Message(DataParty, Coordinator, Encrypted)
    gradients_copy = Message(Coordinator, Passive, Encrypted)
    offered = Message(Passive, Active, Revealed, discloses="how many candidate splits there are in each node")
    candidates = Message(Passive, Coordinator, Encrypted)
    candidate_sums = Message(
        Coordinator,
        Active,
        EncryptedSums,
        discloses="sums of g and h over the left sides of a passive holder's candidate splits",
    )
    chosen = Message(Active, Passive, Positions, discloses="which of its candidate splits gain most")
    gains = Message(Active, LabelSilo, Revealed, discloses="which nodes passive holders split, and what they gain")
    sides = Message(Passive, Coordinator, Masked)
    side_sums = Message(
        Coordinator, Active, Masked, discloses="which rows of the nodes that a passive holder splits go left"
    )
    told = Message(Active, LabelSilo, Bitmaps, discloses="which rows of those nodes go left")
    outcome = Message(
        Active,
        Passive,
        Bitmaps,
        discloses="which nodes are split and which rows go left, but for the deepest splits",
    )


def labelled(
    endpoint: Endpoint,
    terms: Terms,
    own: PlainPart,
    places: Integers,
    objective: Objective,
    labels: Labels,
    siblings: Siblings,
    progress: Progress,
) -> ActiveFit:
    """Play a silo of the label holder; the first one is the active party and has the key.

    Parameters
    ----------
    own : PlainPart
        The label holder's columns; codes of this silo's own rows.
    places : ndarray of shape (own,), int64
        Where these stand among all rows, the training rows first and then the validation part.
    objective : Objective
        Of rows in one place.
    labels : Labels
        Of all rows, as `vfl.silo_objective.spread` has them: nan where a row is another silo's.

    Returns
    -------
    ActiveFit
        The same trees at all silos; what passive holders' columns matter only at the active party.
    """
    job = terms.job
    add_up = adder(siblings, "boosting")
    own = replace(own, shared=Shared(places, add_up))
    hub = endpoint.link(DataParty, Coordinator, COORDINATOR)
    key = _make_key(endpoint, terms) if siblings.first else _receive_key(endpoint, terms)
    with ObfuscatorPool(key, capacity=min(terms.rows, MAX_POOL)) as pool:
        ciphers = _Ciphers(hub, key, pool, plan_gradients(job.privacy.key_bits, terms))
        lead = _Lead.make(endpoint, terms, ciphers, key) if isinstance(key, PrivateKey) else None
        others = _parts_as_told(endpoint, terms) if lead is None else lead.parts

        def grow(round_number: int, task: TreeTask) -> tuple[Tree, Integers]:
            if job.boosting.first_tree_active_only and round_number == 0:
                return grow_tree(task, [own], add_up)
            if lead is not None:
                lead.announce(task, round_number)
            ciphers.send(task)
            return grow_tree(task, [own, *others], add_up)

        columns = terms.columns[job.active] + sum(terms.passive_columns)
        fix = partial(fix_gradients, largest=shared_exponents(siblings))
        goal, keeper = over_silos(objective, siblings), endpoint.keeper
        boosted = boost(goal, labels, job.boosting, job.seed, columns, grow, progress, keeper, own.splits, fix)
        splits = tuple(split for split in own.splits if split.tree < len(boosted.trees))
        importance = {holder_of(endpoint.name): own_importance(boosted.trees, splits, len(own.features))}
        if lead is not None:
            lead.end(len(boosted.trees))
            for number, (holder, silos) in enumerate(lead.holders.items(), 1):
                width = terms.columns[silos[0].peer]
                importance[holder] = importance_as_active(silos[0], pool, lead.key, boosted.trees, number, width)
    return ActiveFit(boosted, splits, importance)


def passive(
    endpoint: Endpoint,
    terms: Terms,
    features: Sequence[Feature],
    codes: Codes,
    places: Integers,
    limits: Limits,
    siblings: Siblings,
    *,
    tell_columns: bool = True,
) -> PassiveFit:
    """Play a silo of a passive holder.

    Parameters
    ----------
    codes : ndarray of shape (own, d), uint16
        Bins of its own training rows, then of its own rows of the validation part.
    places : ndarray of shape (own,), int64
        Where these stand among all rows, ascending.
    limits : Limits
        Guards on the nodes that the holder splits and on its candidates; rows count over all silos.
    tell_columns : bool
        Let the active party know each column's importance by number; else their total only.

    Returns
    -------
    PassiveFit
        The same splits at all silos of the holder; importance only at the first.
    """
    lead = endpoint.link(Passive, Active, terms.job.active)
    key = receive_key(lead.recv(Wire.key), lead.peer, terms.job.privacy.key_bits)
    columns = prepare_columns(features, codes[: int(np.searchsorted(places, terms.rows))])
    keeper, kept = endpoint.keeper, endpoint.keeper.trained()
    splits = [] if kept is None else restore_splits(kept)
    per_round = trees_per_round(terms)
    trees = rounds_behind(keeper, terms) * per_round
    if trees > keeper.rounds * per_round:
        keeper.save_round(trees // per_round, {}, splits_to_arrays(splits))
    with ObfuscatorPool(key, capacity=CANDIDATE_POOL, towards_owner=True) as pool:
        run = _PassiveRun(
            terms,
            lead,
            endpoint.link(Passive, Coordinator, COORDINATOR),
            pool,
            plan_gradients(key.bits, terms),
            columns,
            codes,
            places,
            limits,
            siblings,
            _masks_of_sides(endpoint, terms, holder_of(endpoint.name)),
            siblings.secret(),
        )
        while True:
            told = lead.recv(Wire.tree).facts
            if told.get("go") is not True:
                break
            splits += _follow_tree(run, *read_announced(told, trees, terms, lead.peer))
            trees += 1
            if trees % per_round == 0:
                keeper.save_round(trees // per_round, {}, splits_to_arrays(splits))
        trees = read_number(told, "trees", trees, lead.peer)
        splits = sorted((s for s in splits if s.tree < trees), key=lambda split: (split.tree, split.node))
        importance = None
        if siblings.first:
            importance = importance_as_passive(lead, pool, splits, len(features), tell_columns=tell_columns)
    return PassiveFit(tuple(splits), importance, trees)


def coordinator(endpoint: Endpoint, terms: Terms) -> None:
    """Play the coordinator: multiply silos' ciphertexts, and add up words that it cannot read."""
    lead = endpoint.link(Coordinator, Active, terms.job.active)
    labelled = [endpoint.link(Coordinator, DataParty, name) for name in terms.job.labelled]
    holders = [
        [endpoint.link(Coordinator, Passive, name) for name in silos] for silos in terms.job.passive_holders.values()
    ]
    key = receive_key(lead.recv(Wire.key_copy), lead.peer, terms.job.privacy.key_bits)
    per_round, most = trees_per_round(terms), -(-terms.rows // BLOCK)
    trees = rounds_behind(endpoint.keeper, terms) * per_round
    while True:
        turn = lead.recv(Wire.turn).facts
        if turn.get("step") == "level":
            _add_level(key, lead, holders)
            continue
        if trees and trees % per_round == 0:
            endpoint.keeper.save_round(trees // per_round, {}, {})
        if turn.get("step") == "end":
            return
        blocks = turn.get("blocks")
        if turn.get("step") != "tree" or type(blocks) is not int or not 0 < blocks <= most:
            raise RemoteProtocolError(f"{lead.peer} announced no tree, level or end, or a tree of {blocks} blocks")
        for _ in range(blocks):
            block = _multiply(key, {link.peer: link.recv(Wire.gradients) for link in labelled})
            for silos in holders:
                for link in silos:
                    link.send(Wire.gradients_copy, block)
        trees += 1


def _add_level(
    key: PublicKey, lead: Link[Coordinator, Active], holders: Sequence[Sequence[Link[Coordinator, Passive]]]
) -> None:
    """One level: the candidates of every holder, then the sides of the rows in the nodes that it wins."""
    for silos in holders:
        sums = _multiply(key, {link.peer: link.recv(Wire.candidates) for link in silos})
        # How many sums they hold the coordinator does not know; the holder's first silo tells the active party.
        counts = np.array([[0, len(sums.body)]], dtype=np.int64)
        lead.send(Wire.candidate_sums, EncryptedSums(sums.key, counts, sums.body))
    for silos in holders:
        lead.send(Wire.side_sums, add_masked({link.peer: link.recv(Wire.sides) for link in silos}))


def _multiply(key: PublicKey, parts: Mapping[str, Encrypted]) -> Encrypted:
    """The product of several silos' ciphertexts, each fresh from its silo; of one silo they are handed on."""
    first = next(iter(parts.values()))
    if len(parts) == 1 or not len(first.body):
        for name, part in parts.items():
            if part.body.shape != first.body.shape:
                raise RemoteProtocolError(f"{name} sent {len(part.body)} ciphertexts, expected {len(first.body)}")
        return first
    vectors = [receive_ciphers(key, part, len(first.body), name) for name, part in parts.items()]
    return send_ciphers(hand_on(reduce(add, vectors)))


# the label holder


@dataclass(frozen=True, slots=True)
class _Ciphers:
    """What a label silo encrypts gradients with."""

    hub: Link[DataParty, Coordinator]
    key: PrivateKey | PublicKey = field(repr=False)
    pool: ObfuscatorPool = field(repr=False)
    layout: SlotLayout

    def send(self, task: TreeTask) -> None:
        """Send g and h of the rows drawn, zeros where a row is not its own: all under fresh obfuscators."""
        values = task.gradients.values
        for start in range(0, len(values), BLOCK):
            block = encrypt_gradients(self.key, self.pool, self.layout, values[start : start + BLOCK])
            self.hub.send(Wire.gradients, block)


def _make_key(endpoint: Endpoint, terms: Terms) -> PrivateKey:
    """The active party's key, told to everybody."""
    privacy = terms.job.privacy
    key = generate_keypair(
        privacy.key_bits, exponent_bits=privacy.exponent_bits, insecure_test_mode=privacy.insecure_test_mode
    )
    endpoint.link(Active, Coordinator, COORDINATOR).send(Wire.key_copy, send_key(key.public))
    for name in endpoint.peers(DataParty):
        endpoint.link(Active, DataParty, name).send(Wire.key, send_key(key.public))
    return key


def _receive_key(endpoint: Endpoint, terms: Terms) -> PublicKey:
    lead = endpoint.link(DataParty, Active, terms.job.active)
    return receive_key(lead.recv(Wire.key), lead.peer, terms.job.privacy.key_bits)


def _masks_of_sides(endpoint: Endpoint, terms: Terms, holder: str) -> Masks:
    """Masks that cancel over the silos of a passive holder and the active party, which opens their sums."""
    return pairwise_masks(endpoint, f"sides|{holder}", [terms.job.active, *terms.job.passive_holders[holder]])


@dataclass(frozen=True, slots=True)
class _Lead:
    """What the active party keeps through all trees; ``holders`` are the passive ones' silos."""

    hub: Link[Active, Coordinator]
    key: PrivateKey = field(repr=False)
    layout: SlotLayout
    holders: Mapping[str, Sequence[Link[Active, Passive]]]
    siblings: Sequence[Link[Active, LabelSilo]]
    masks: Mapping[str, Masks] = field(repr=False)

    @classmethod
    def make(cls, endpoint: Endpoint, terms: Terms, ciphers: _Ciphers, key: PrivateKey) -> _Lead:
        holders = terms.job.passive_holders
        return cls(
            endpoint.link(Active, Coordinator, COORDINATOR),
            key,
            ciphers.layout,
            {name: [endpoint.link(Active, Passive, silo) for silo in silos] for name, silos in holders.items()},
            [endpoint.link(Active, LabelSilo, name) for name in endpoint.peers(LabelSilo)],
            {name: _masks_of_sides(endpoint, terms, name) for name in holders},
        )

    @property
    def parts(self) -> list[_HolderPart]:
        """The passive holders as `vfl.trees.grow` sees them."""
        return [_HolderPart(self, name, first=number == 0) for number, name in enumerate(self.holders)]

    def announce(self, task: TreeTask, round_number: int) -> None:
        """Say that there is one tree more."""
        blocks = -(-len(task.gradients.rows) // BLOCK)
        self.hub.send(Wire.turn, Control({"step": "tree", "blocks": blocks}))
        self._tell({"go": True, "round": round_number, "tree": task.number})

    def end(self, trees: int) -> None:
        """Say that there is none, and how many are kept."""
        self.hub.send(Wire.turn, Control({"step": "end"}))
        self._tell({"go": False, "trees": trees})

    def _tell(self, facts: dict[str, bool | int | float | str | None]) -> None:
        for silos in self.holders.values():
            for link in silos:
                link.send(Wire.tree, Control(facts))


@dataclass
class _HolderPart:
    """A passive holder as `vfl.trees.grow` sees it at the active party."""

    lead: _Lead
    holder: str
    first: bool
    _best: Floats = field(default_factory=lambda: np.zeros(0), repr=False)
    _questions: Questions = field(default_factory=dict)

    @property
    def silos(self) -> Sequence[Link[Active, Passive]]:
        """Links to its silos."""
        return self.lead.holders[self.holder]

    def offer(self, level: Level) -> Floats:
        """Open the sums over the holder's candidates; return the largest gain per node."""
        if self.first:
            self.lead.hub.send(Wire.turn, Control({"step": "level"}))
        counts = _read_offered(self.silos[0].recv(Wire.offered), self.silos[0].peer)
        payload = self.lead.hub.recv(Wire.candidate_sums)
        sums = EncryptedSums(payload.key, counts, payload.body)
        whose = f"a silo of {self.holder} or the coordinator"
        self._best, self._questions = open_candidates(sums, level, self.lead.layout, self.lead.key, whose)
        return self._best

    def choose(self, won: Mask) -> None:
        """Name all best candidates of the nodes that the holder splits, and tell what they gain."""
        chosen = name_candidates(self._questions, won)
        for link in self.silos:
            link.send(Wire.chosen, chosen)
        for sibling in self.lead.siblings:
            sibling.send(Wire.gains, Revealed({}, np.where(won, self._best, 0.0)))
        self._questions = {node: q for node, q in self._questions.items() if won[node]}

    def sides(self, level: Level) -> Mask:
        """Hear which rows of those nodes go left, and tell the label holder's other silos."""
        rows = _rows_of(level.slot, sorted(self._questions))
        total = self.lead.hub.recv(Wire.side_sums)
        words = self.lead.masks[self.holder].open_scores(_label(level.task.number, level.depth), total, _words(rows))
        bits = words_to_bits(words, len(rows), f"a silo of {self.holder} or the coordinator")
        for sibling in self.lead.siblings:
            sibling.send(Wire.told, pack_bits([bits]))
        left = np.zeros(len(level.slot), dtype=bool)
        left[rows] = bits
        return left

    def finish(self, level: Level, outcome: Outcome) -> None:
        """Tell how the level ended, as far as another one follows."""
        if level.depth + 1 < level.task.max_depth:
            payload = pack_outcome(level, outcome)
            for link in self.silos:
                link.send(Wire.outcome, payload)


def _parts_as_told(endpoint: Endpoint, terms: Terms) -> list[_ToldPart]:
    lead = endpoint.link(LabelSilo, Active, terms.job.active)
    return [_ToldPart(lead) for _ in terms.job.passive_holders]


@dataclass
class _ToldPart:
    """A passive holder as the active party tells the label holder's other silos of it."""

    lead: Link[LabelSilo, Active]
    _won: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64), repr=False)

    def offer(self, level: Level) -> Floats:
        """Hear the gains of the nodes that the holder splits; of others none."""
        gains = np.array(receive_values(self.lead.recv(Wire.gains), len(level.nodes), self.lead.peer))
        self._won = np.flatnonzero(gains)
        return np.where(gains == 0, -np.inf, gains)

    def choose(self, won: Mask) -> None:
        """Check that those are the nodes that the holder wins here, too."""
        if not np.array_equal(np.flatnonzero(won), self._won):
            raise RemoteProtocolError(f"{self.lead.peer} tells of splits that gain less than this party's own")

    def sides(self, level: Level) -> Mask:
        """Hear which rows of those nodes go left."""
        rows = _rows_of(level.slot, self._won.tolist())
        (bits,) = unpack_bits(self.lead.recv(Wire.told), [len(rows)], self.lead.peer)
        left = np.zeros(len(level.slot), dtype=bool)
        left[rows] = bits
        return left

    def finish(self, level: Level, outcome: Outcome) -> None:
        """Nothing is left to be told."""


def _read_offered(payload: Revealed, sender: str) -> Integers:
    """Nodes or groups, and how many candidates each has; `vfl.candidates.read_counts` checks them against the level."""
    values = payload.values
    fits = values.ndim == 1 and len(values) % 2 == 0
    if not fits or not ((values >= 0) & (values < _MOST_COUNT) & (values == np.floor(values))).all():
        raise RemoteProtocolError(f"{sender} sent counts of candidates that are none")
    return values.astype(np.int64).reshape(-1, 2)


def _rows_of(slot: Integers, nodes: Sequence[int]) -> Integers:
    """Rows in nodes of a level, node by node."""
    return np.concatenate([np.zeros(0, dtype=np.int64), *(np.flatnonzero(slot == node) for node in nodes)])


def _words(rows: Integers) -> int:
    """How many words the bits of rows fill."""
    return len(bits_to_words(np.zeros(len(rows), dtype=bool)))


def _label(tree: int, depth: int) -> str:
    return f"{tree}|{depth}"


# passive holders


@dataclass(frozen=True, slots=True)
class _PassiveRun:
    """What a passive silo keeps through all trees; its pool is for what goes to the key's owner."""

    terms: Terms
    lead: Link[Passive, Active]
    hub: Link[Passive, Coordinator]
    pool: ObfuscatorPool = field(repr=False)
    layout: SlotLayout
    columns: EncryptedColumns = field(repr=False)
    codes: Codes = field(repr=False)
    places: Integers = field(repr=False)
    limits: Limits
    siblings: Siblings
    masks: Masks = field(repr=False)
    order: bytes = field(repr=False)

    @property
    def features(self) -> tuple[Feature, ...]:
        """The holder's columns."""
        return self.columns.layout.features

    def counts(self, tree: int, level: EncryptedLevel) -> Integers:
        """Drawn rows per node and cell over all silos of the holder."""
        return self.siblings.words(f"counts|{_label(tree, level.depth)}", level.counts)


@dataclass(frozen=True)
class _SiloTree:
    """What one tree is grown from at a passive silo; ``drawn`` are all training rows drawn, ascending."""

    number: int
    drawn: Integers = field(repr=False)
    own: EncryptedTree = field(repr=False)

    def totals(self, child: Integers, children: int) -> CipherVector:
        """Sums over the own drawn rows of each child; ``child`` has each one's, -1 for none."""
        inside = np.flatnonzero(child >= 0)
        return sum_by_group(self.own.gradients, inside, child[inside], children)


@dataclass(frozen=True)
class _SiloLevel:
    """The open nodes of one depth: the own part of them, all rows' nodes, and all silos' counts."""

    own: EncryptedLevel
    slot: Integers = field(repr=False)
    counts: Integers = field(repr=False)


def _follow_tree(run: _PassiveRun, round_number: int, number: int) -> list[Split]:
    """A passive silo's part of one tree; returns the holder's splits."""
    tree = _receive_tree(run, round_number, number)
    level: _SiloLevel | None = _first_level(run, tree)
    splits: list[Split] = []
    while level is not None:
        candidates, order = _send_candidates(run, tree, level)
        chosen = run.lead.recv(Wire.chosen)
        won = read_chosen(chosen, run.features, level.own, number, candidates, order, run.lead.peer)
        splits += won.values()
        _send_sides(run, number, level, won)
        level = _next_level(run, tree, level)
    return splits


def _receive_tree(run: _PassiveRun, round_number: int, number: int) -> _SiloTree:
    """Rows and columns drawn, and the ciphertexts of the own rows."""
    settings, seed, terms = run.terms.job.boosting, run.terms.job.seed, run.terms
    drawn = draw_rows(terms.rows, settings.subsample, seed, round_number)
    mine = np.isin(drawn, run.places)
    vectors = []
    for start in range(0, len(drawn), BLOCK):
        block, count = run.hub.recv(Wire.gradients_copy), min(BLOCK, len(drawn) - start)
        vector = receive_ciphers(run.pool.key, block, count, run.hub.peer)
        vectors.append(gather(vector, np.flatnonzero(mine[start : start + count])))
    before = list(terms.job.passive_holders).index(holder_of(run.hub.me))
    first = terms.columns[terms.job.active] + sum(terms.passive_columns[:before])
    columns = draw_columns(
        terms.columns[terms.job.active] + sum(terms.passive_columns), settings.colsample_bytree, seed, number
    )
    rows = np.searchsorted(run.places, drawn[mine])
    own = columns[first : first + len(run.features)]
    least = max(run.limits.min_node_rows, 1)
    return _SiloTree(number, drawn, EncryptedTree(run.columns, rows, CipherVector.concat(vectors), own, least))


def _first_level(run: _PassiveRun, tree: _SiloTree) -> _SiloLevel:
    total = tree.totals(np.zeros(len(tree.own.rows), dtype=np.int64), 1)
    own = first_level(tree.own, total, len(run.codes), len(tree.drawn))
    slot = np.zeros(run.terms.rows + run.terms.validation, dtype=np.int64)
    return _SiloLevel(own, slot, run.counts(tree.number, own))


def _send_candidates(run: _PassiveRun, tree: _SiloTree, level: _SiloLevel) -> tuple[Candidates, Integers]:
    """Sums of the own rows over the left sides of all the holder's candidates, in the order that its silos share."""
    key = of_tree(run.order, tree.number)
    payload, candidates, order = offer_candidates(
        tree.own, level.own, run.limits.min_bin_gap, run.layout, run.pool, key, level.counts
    )
    if run.siblings.first:
        run.lead.send(Wire.offered, Revealed({}, payload.counts.ravel().astype(np.float64)))
    run.hub.send(Wire.candidates, Encrypted(payload.key, payload.body))
    return candidates, order


def _send_sides(run: _PassiveRun, tree: int, level: _SiloLevel, won: Mapping[int, Split]) -> None:
    """Masked bits of all rows in the nodes won, zero where a row is not its own."""
    left = np.zeros(len(level.slot), dtype=bool)
    left[run.places] = sides_of(level.own.slot, won, run.features, run.codes)
    words = bits_to_words(left[_rows_of(level.slot, sorted(won))])
    run.hub.send(Wire.sides, run.masks.scores(_label(tree, level.own.depth), words))


def _next_level(run: _PassiveRun, tree: _SiloTree, level: _SiloLevel) -> _SiloLevel | None:
    """Hear how a level ended; None if no other follows."""
    if level.own.depth + 1 == run.terms.job.boosting.max_depth:
        return None
    told = read_outcome(run.lead.recv(Wire.outcome), len(level.own.numbers), level.slot, run.lead.peer)
    if not len(told.parents):
        return None
    mine = replace(told, child=told.child[run.places])
    child, drawn = mine.child[tree.own.rows], told.child[tree.drawn]
    judged = np.bincount(drawn[drawn >= 0], minlength=len(told.open))
    own = descend(tree.own, level.own, mine, child, tree.totals(child, len(told.open)), judged)
    at = np.where(told.open, told.open.cumsum() - 1, -1)
    slot = np.where(told.child >= 0, at[told.child], -1)
    return _SiloLevel(own, slot, run.counts(tree.number, own))
