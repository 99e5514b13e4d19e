"""Train gradient-boosted trees where the passive party learns neither which of its rows take part nor how many.

Source: `vfl.boosting`, the same trees by the same sums; that nothing said of rows goes to the passive party is ours.

P works on all rows of its list, of which A alone knows the members (`psi.align`, one-sided). Rows that do not count -
non-members, rows held out, rows not drawn, rows of other nodes - are there as encryptions of zero. One tree (A active,
P passive party, C coordinator; [[v]] Paillier under A's key)::

    A --> P   key           once
    A --> C   going         there is one tree more, or none: C, which has no state, notes rounds
    A --> P   tree          the same
    A --> P   gradients     [[g 2^b + h]] of the members drawn, [[0]] of all other rows of the list
    A --> P   totals        [[sum g, sum h]] of the root
      for every level
    P --> A   candidates    [[sums over the left sides of candidate splits]], shuffled, compressed
    A --> P   chosen        of the nodes that P wins, the first candidate with the largest gain
    P --> A   sides         which rows go left, of all that P's own splits let through to those nodes
    A --> P   outcome       which nodes were split, and which of their children may be split again; no rows
    A --> P   gradients     of each node that A splits, for one child: its members' again, [[0]] of the rest
    A --> P   totals        of the children
      at the end
    A <-> P   `vfl.importance`    gains of P's columns, for A alone

A node is, for P, a vector of ciphertexts and the rows that its own splits let through. Its own split divides these
rows and leaves the ciphertexts. A's split leaves the rows, for P must not hear of them: A encrypts one child's vector
anew, and the other one is the difference of ciphertexts. So a split of A's costs as many encryptions and ciphertexts as
rows come through to it, a split of P's none. A's split sides are never sent, not even made up for non-members: they
would be related to P's columns otherwise than those of members, and a test would tell the two apart.

Trees are those of `vfl.boosting` on the members, with P's candidates taken from its list: bins, and ``min_bin_gap``,
are of all its rows. Of candidates of equal gain A names one: named together they would show P between which of its
bins there is no member. Which one is first follows from a key that only P has, so that the same data and seed give the
same trees (`vfl.trees.shuffle`).

Leakage
-------
active : sums of g and h over the left sides of the passive party's candidate splits, and how many there are; which
    rows of its list that its own splits let through to a node go left there, non-members among them (by place in a
    shuffled list)
passive : which of its candidate splits gains most; which nodes are split and which of their children may be split again
coordinator : sizes and timing; it holds no key and reads nothing

``min_node_rows`` rests on A: P cannot count members, and sends sums for every node that enough of its list come
through to. ``min_bin_gap`` counts rows of the list: of so many rows between two candidates only the members' share
counts in a sum, so that A, which knows g and h of every member, singles out a member's bin the more easily the fewer
members there are. Ask for a gap as much larger. The gap is also what protects members from P: a candidate that was
chosen tells it that there are members on both of its sides, each of at least so many rows of its list, whose h come to
``min_child_weight``. Categories without a member, where categories are sorted (``max_cat_to_onehot``), have sums of
zero and always go the same way together, which P may notice over many splits.
C with A: what A learns. C with P: what P learns, and how many members there are, which C knows of the alignment.

Threat model
------------
All follow the protocol and are curious. A could leave rows out or invent members; P could split badly.

>>> [name for name in vars(Wire) if not name.startswith("_")][:4]
['key', 'going', 'tree', 'gradients']
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from parties.errors import RemoteProtocolError
from parties.link import COORDINATOR, Endpoint, Link
from parties.wire import (
    Active,
    Bitmaps,
    Control,
    Coordinator,
    Encrypted,
    EncryptedSums,
    Message,
    PaillierKey,
    Passive,
    Positions,
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
from vfl.candidates import Questions, name_candidates, offer_candidates, open_candidates, read_chosen
from vfl.exchange import receive_ciphers, receive_key, send_key
from vfl.importance import importance_as_active, own_importance, send_feature_gains
from vfl.paillier import CipherVector, ObfuscatorPool, PrivateKey, SlotLayout, generate_keypair
from vfl.terms import Terms
from vfl.trees.bins import Codes, Feature
from vfl.trees.bitmaps import pack_bits, unpack_bits
from vfl.trees.forest import Split, Tree, goes_left
from vfl.trees.grow import Level, Limits, Outcome, PlainPart, TreeTask
from vfl.trees.grow import grow as grow_tree
from vfl.trees.histograms import EncryptedColumns, prepare_columns
from vfl.trees.kept import restore_splits, splits_to_arrays
from vfl.trees.levels import EncryptedLevel, EncryptedTree, Told, descend, first_level
from vfl.trees.listed_levels import divide, only_open, rows_divided_by_others
from vfl.trees.objective import Objective
from vfl.trees.rounds import Labels, Progress, boost
from vfl.trees.sampling import draw_columns
from vfl.trees.shuffle import of_tree, tie_key
from vfl.trees.splits import Floats, Integers, Mask


class Wire:
    """Messages of one-sided boosting."""

    key = Message(Active, Passive, PaillierKey)
    going = Message(Active, Coordinator, Control)
    tree = Message(Active, Passive, Control)
    gradients = Message(Active, Passive, Encrypted)
    totals = Message(Active, Passive, Encrypted)
    candidates = Message(
        Passive,
        Active,
        EncryptedSums,
        discloses="sums of g and h over the left sides of its candidate splits, and how many there are",
    )
    chosen = Message(Active, Passive, Positions, discloses="which of its candidate splits gains most")
    sides = Message(
        Passive,
        Active,
        Bitmaps,
        discloses="which rows of its list that its own splits let through to a node go left there, non-members among "
        "them",
    )
    outcome = Message(
        Active,
        Passive,
        Bitmaps,
        discloses="which nodes are split and which of their children may be split again",
    )


def active(
    endpoint: Endpoint,
    terms: Terms,
    own: PlainPart,
    places: Integers,
    objective: Objective,
    labels: Labels,
    limits: Limits,
    progress: Progress,
) -> ActiveFit:
    """Play the active party.

    Parameters
    ----------
    own : PlainPart
        The party's own columns, the training rows' first and then the validation part's.
    places : ndarray of shape (n,), int64
        Where these rows stand in the passive party's list.
    limits : Limits
        ``min_node_rows`` for the passive party's splits.
    """
    job = terms.job
    link = endpoint.link(Active, Passive, job.passive[0])
    hub = endpoint.link(Active, Coordinator, COORDINATOR)
    layout = plan_gradients(job.privacy.key_bits, terms)
    key = generate_keypair(
        job.privacy.key_bits,
        exponent_bits=job.privacy.exponent_bits,
        insecure_test_mode=job.privacy.insecure_test_mode,
    )
    link.send(Wire.key, send_key(key.public))
    with ObfuscatorPool(key, capacity=min(terms.rows, MAX_POOL)) as pool:
        run = _ActiveRun(link, key, pool, layout, places, terms.rows, max(limits.min_node_rows, 1))

        def grow(round_number: int, task: TreeTask) -> tuple[Tree, Integers]:
            if job.boosting.first_tree_active_only and round_number == 0:
                return grow_tree(task, [own])
            hub.send(Wire.going, Control({"go": True}))
            link.send(Wire.tree, Control({"go": True, "round": round_number, "tree": task.number}))
            root = np.arange(len(task.gradients.rows))
            run.send_gradients([run.spread(task, root, np.arange(terms.rows))])
            link.send(Wire.totals, run.encrypt(task.gradients.values.sum(axis=0, keepdims=True), sums=True))
            return grow_tree(task, [own, _RemotePart(run)])

        columns = sum(terms.columns.values())
        boosted = boost(objective, labels, job.boosting, job.seed, columns, grow, progress, endpoint.keeper, own.splits)
        hub.send(Wire.going, Control({"go": False}))
        link.send(Wire.tree, Control({"go": False, "trees": len(boosted.trees)}))
        splits = tuple(split for split in own.splits if split.tree < len(boosted.trees))
        theirs = importance_as_active(link, pool, key, boosted.trees, 1, terms.columns[link.peer], tell=False)
        importance = {endpoint.name: own_importance(boosted.trees, splits, len(own.features)), link.peer: theirs}
    return ActiveFit(boosted, splits, importance)


def passive(
    endpoint: Endpoint,
    terms: Terms,
    features: Sequence[Feature],
    codes: Codes,
    limits: Limits,
    *,
    tell_columns: bool = True,
) -> PassiveFit:
    """Play the passive party on all rows of its list.

    Parameters
    ----------
    codes : ndarray of shape (n, d), uint16
        Their bins.
    limits : Limits
        Guards on its candidates, and on the nodes that it splits as far as it sees them.
    tell_columns : bool
        Let the active party know each column's importance by number; else their total only.
    """
    lead = endpoint.link(Passive, Active, terms.job.active)
    key = receive_key(lead.recv(Wire.key), lead.peer, terms.job.privacy.key_bits)
    columns = prepare_columns(features, codes)
    first = list(terms.columns.values())[: list(terms.columns).index(endpoint.name)]
    keeper, kept = endpoint.keeper, endpoint.keeper.trained()
    splits = [] if kept is None else restore_splits(kept)
    per_round = trees_per_round(terms)
    trees = rounds_behind(keeper, terms) * per_round
    if trees > keeper.rounds * per_round:
        keeper.save_round(trees // per_round, {}, splits_to_arrays(splits))
    with ObfuscatorPool(key, capacity=CANDIDATE_POOL, towards_owner=True) as pool:
        layout, ties = plan_gradients(key.bits, terms), tie_key(codes, terms.job.seed)
        run = _PassiveRun(terms, lead, pool, layout, columns, limits, sum(first), ties)
        while True:
            told = lead.recv(Wire.tree).facts
            if told.get("go") is not True:
                break
            splits += _follow_tree(run, read_announced(told, trees, terms, lead.peer)[1])
            trees += 1
            if trees % per_round == 0:
                keeper.save_round(trees // per_round, {}, splits_to_arrays(splits))
        trees = read_number(told, "trees", trees, lead.peer)
        splits = sorted((s for s in splits if s.tree < trees), key=lambda split: (split.tree, split.node))
        send_feature_gains(lead, pool, splits, len(features), tell_columns=tell_columns)
    return PassiveFit(tuple(splits), None, trees)


def coordinator(endpoint: Endpoint, terms: Terms) -> None:
    """Play the coordinator: note rounds, to go on from them after a crash. All else passes it sealed."""
    lead = endpoint.link(Coordinator, Active, terms.job.active)
    per_round = trees_per_round(terms)
    trees = rounds_behind(endpoint.keeper, terms) * per_round
    while True:
        going = lead.recv(Wire.going).facts.get("go")
        if type(going) is not bool:
            raise RemoteProtocolError(f"{lead.peer} did not say whether there is one tree more")
        if trees and trees % per_round == 0:
            endpoint.keeper.save_round(trees // per_round, {}, {})
        if not going:
            return
        trees += 1


@dataclass(slots=True)
class _ActiveRun:
    """What the active party keeps through all trees; ``least`` rows of a node, for the passive party to split it."""

    link: Link[Active, Passive]
    key: PrivateKey = field(repr=False)
    pool: ObfuscatorPool = field(repr=False)
    layout: SlotLayout
    places: Integers = field(repr=False)
    listed: int
    least: int

    def encrypt(self, values: Integers, *, sums: bool = False) -> Encrypted:
        """Fresh ciphertexts of rows of g and h, or of sums of them."""
        return encrypt_gradients(self.key, self.pool, self.layout, values, sums=sums)

    def spread(self, task: TreeTask, drawn: Integers, through: Integers) -> Integers:
        """G and h of some of the rows drawn, at their places among those that come through; zeros elsewhere."""
        gradients = task.gradients
        values = np.zeros((len(through), gradients.values.shape[1]), dtype=np.int64)
        values[np.searchsorted(through, self.places[gradients.rows[drawn]])] = gradients.values[drawn]
        return values

    def send_gradients(self, vectors: Sequence[Integers]) -> None:
        """Encrypt vectors, and send them one after the other in blocks."""
        values = np.concatenate(vectors)
        for start in range(0, len(values), BLOCK):
            self.link.send(Wire.gradients, self.encrypt(values[start : start + BLOCK]))


@dataclass
class _RemotePart:
    """The passive party as `vfl.trees.grow` sees it, for one tree.

    ``_through`` has, per node of the level, the places of the list that the party's own splits let through, ascending;
    ``_left`` which of them go left at the nodes that it splits now.
    """

    run: _ActiveRun
    _questions: Questions = field(default_factory=dict)
    _through: list[Integers] = field(default_factory=list)
    _left: dict[int, Mask] = field(default_factory=dict)

    def offer(self, level: Level) -> Floats:
        """Open the sums over the party's candidates; return the largest gain per node that has rows enough."""
        run = self.run
        if level.depth == 0:
            self._through = [np.arange(run.listed)]
        payload = run.link.recv(Wire.candidates)
        best, self._questions = open_candidates(payload, level, run.layout, run.key, run.link.peer)
        return np.where(level.counts >= run.least, best, -np.inf)

    def choose(self, won: Mask) -> None:
        """Name one best candidate of each node that the party splits: the first that it sent."""
        self._questions = {node: q[:1] for node, q in self._questions.items() if won[node]}
        self.run.link.send(Wire.chosen, name_candidates(self._questions, won))

    def sides(self, level: Level) -> Mask:
        """Hear of all rows that come through to those nodes which go left; return the members'."""
        link, nodes = self.run.link, sorted(self._questions)
        maps = unpack_bits(link.recv(Wire.sides), [len(self._through[node]) for node in nodes], link.peer)
        self._left = dict(zip(nodes, maps, strict=True))
        left = np.zeros(len(level.slot), dtype=bool)
        for node, bits in self._left.items():
            own = np.flatnonzero(level.slot == node)
            left[own] = bits[np.searchsorted(self._through[node], self.run.places[own])]
        return left

    def finish(self, level: Level, outcome: Outcome) -> None:
        """Tell which nodes follow, and of those that this party split one child's gradients anew."""
        if level.depth + 1 == level.task.max_depth:
            return
        run, told, rows = self.run, outcome.told(), level.task.gradients.rows
        run.link.send(Wire.outcome, pack_bits([outcome.split, outcome.open]))
        vectors, following = [], []
        for node, pair in zip(np.flatnonzero(outcome.split).tolist(), outcome.open.reshape(-1, 2), strict=True):
            through, left = self._through[node], self._left.get(node)
            children = [through, through] if left is None else [through[left], through[~left]]
            following += [own for own, opened in zip(children, pair.tolist(), strict=True) if opened]
            if told[node] and left is None:
                of_child = (level.slot[rows] == node) & (outcome.left[rows] == pair[0])  # the left one, if it is open
                vectors.append(run.spread(level.task, np.flatnonzero(of_child), through))
        self._through = following
        if vectors:
            run.send_gradients(vectors)
        if told.any():
            totals = outcome.totals[np.repeat(told[outcome.split], 2)]
            run.link.send(Wire.totals, run.encrypt(totals, sums=True))


@dataclass(slots=True)
class _PassiveRun:
    """What the passive party keeps through all trees; its pool is for what goes to the key's owner."""

    terms: Terms
    lead: Link[Passive, Active]
    pool: ObfuscatorPool = field(repr=False)
    layout: SlotLayout
    columns: EncryptedColumns = field(repr=False)
    limits: Limits
    first: int
    tie_key: bytes = field(repr=False)

    @property
    def features(self) -> tuple[Feature, ...]:
        """The party's columns."""
        return self.columns.layout.features

    def receive_gradients(self, count: int) -> CipherVector:
        """So many ciphertexts, in blocks."""
        lead, key = self.lead, self.pool.key
        blocks = [
            receive_ciphers(key, lead.recv(Wire.gradients), min(BLOCK, count - start), lead.peer)
            for start in range(0, count, BLOCK)
        ]
        return CipherVector.concat(blocks)

    def receive_totals(self, count: int) -> CipherVector:
        """Sums over so many nodes."""
        return receive_ciphers(self.pool.key, self.lead.recv(Wire.totals), count, self.lead.peer)


def _follow_tree(run: _PassiveRun, number: int) -> list[Split]:
    """The passive party's part of one tree; returns its splits."""
    terms, lead, codes = run.terms, run.lead, run.columns.codes
    settings = terms.job.boosting
    drawn = draw_columns(sum(terms.columns.values()), settings.colsample_bytree, terms.job.seed, number)
    own = drawn[run.first : run.first + len(run.features)]
    everyone = np.arange(terms.rows)
    gradients = run.receive_gradients(terms.rows)
    tree = EncryptedTree(run.columns, everyone, gradients, own, max(run.limits.min_node_rows, 1))
    level = first_level(tree, run.receive_totals(1), terms.rows)
    splits: list[Split] = []
    ties, gap = of_tree(run.tie_key, number), run.limits.min_bin_gap
    while True:
        payload, candidates, order = offer_candidates(tree, level, gap, run.layout, run.pool, ties)
        lead.send(Wire.candidates, payload)
        won = read_chosen(lead.recv(Wire.chosen), run.features, level, number, candidates, order, lead.peer)
        splits += won.values()
        left = {node: goes_left(run.features, codes, won[node], tree.rows[level.slot == node]) for node in sorted(won)}
        lead.send(Wire.sides, pack_bits(list(left.values())))
        if level.depth + 1 == settings.max_depth:
            return splits
        split, opened = _read_outcome(run, level, left)
        parents = np.flatnonzero(split)[opened.any(axis=1)]
        if not len(parents):
            return splits
        opened = opened[opened.any(axis=1)]
        fresh = rows_divided_by_others(level, parents, left)
        sent = run.receive_gradients(fresh) if fresh else None
        tree, child = divide(tree, level, parents, opened, left, sent)
        told = Told(split, parents, opened.ravel(), child)
        tree, level = only_open(tree, descend(tree, level, told, child, run.receive_totals(2 * len(parents))))


def _read_outcome(run: _PassiveRun, level: EncryptedLevel, left: dict[int, Mask]) -> tuple[Mask, Mask]:
    """Which nodes were split, and for each of those which children are open, (splits, 2)."""
    payload, peer, nodes = run.lead.recv(Wire.outcome), run.lead.peer, len(level.numbers)
    (split,) = unpack_bits(payload, [nodes], peer, whole=False)
    split, opened = unpack_bits(payload, [nodes, 2 * int(split.sum())], peer)
    if not split[list(left)].all():
        raise RemoteProtocolError(f"{peer} chose a candidate of a node that it does not split")
    return split, opened.reshape(-1, 2)
