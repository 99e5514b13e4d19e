"""Train gradient-boosted trees: the active party holds the key and the labels, every party splits on its own columns.

Source: K. Cheng et al., *SecureBoost*, 2021 (algorithms 1 and 2), with the packing, sibling subtraction and compression
of W. Chen et al., *SecureBoost+*, 2021; the trees are those of T. Chen, C. Guestrin, *XGBoost*, KDD 2016. Joint columns
and exact integer gains are ours (`vfl.trees.histograms`, `vfl.trees.splits`).

One tree (A active, P every passive party, C coordinator; [[v]] Paillier under A's key)::

    A --> P         key                     once
    A --> P         tree                    there is one more; its rows under GOSS
    A --> C --> P   gradients               [[g 2^b + h]] of every row drawn, all classes in one ciphertext
    A --> P         totals                  [[sum g, sum h]] of the root
      for every level
    P --> A         candidates              [[sums over the left sides of candidate splits]], shuffled, compressed
    A --> P         chosen                  of the nodes that P wins, all candidates with the largest gain
    P --> A         sides                   which rows of those nodes go left
    A --> P         outcome, totals         which nodes were split and which rows went left; totals of the children
      at the end
    A <-> P         `vfl.importance`        gains of P's columns, summed under encryption

Where both children of a node stay leaves their rows are not told, and of the deepest level nothing is: of such splits
only their owner and A know the rows.
Candidates of equal gain are all named, and the owner takes its smallest (column, bin), missing cells left: the same
tree as on pooled data, whatever the order of the message. The first trees may be the active party's alone.
Every party keeps its state when a round's trees are grown; C, which has none, notes the round when the next one is
announced. A run that goes on from there begins with a new key.

Leakage
-------
active : sums of g and h over the left sides of a passive party's candidate splits, and how many there are (of columns
    with sorted categories over every category, and how many those are); which rows of the nodes that it splits go left
passive : which of its candidate splits gain most; which nodes are split and which rows go left, but for the deepest
    splits; which rows a tree is grown on (GOSS only)
coordinator : sizes and timing; it holds no key and hands on ciphertexts
The sums tell A more than they seem to: it knows g and h of every row, so that the difference of two sums may single out
one row. Hence ``min_node_rows`` and ``min_bin_gap``. Memberships of nodes tell a passive party something about labels:
rows that end in one leaf tend to share them (the ID2Graph attack, K. Takahashi et al., 2023, clusters them). Against
that stand ``first_tree_active_only``, shallow and few trees, and ``privacy.label_dp_epsilon``; ``subsample`` lowers
what sums tell of a row, not what memberships do, for rows that are not drawn are told of too.
C with A: what A learns. C with P: what P learns. P with P': the union of what both learn.

Threat model
------------
All follow the protocol and are curious. A party can choose its own splits badly, as it can lie about its own columns.

>>> [name for name in vars(Wire) if not name.startswith("_")][:3]
['key', 'tree', 'drawn']
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from parties.checkpoint import Keeper
from parties.errors import ConfigError, CryptoError, RemoteProtocolError
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
from vfl.candidates import (
    Questions,
    name_candidates,
    offer_candidates,
    open_candidates,
    pack_outcome,
    read_chosen,
    read_outcome,
)
from vfl.exchange import receive_ciphers, receive_key, send_ciphers, send_key
from vfl.importance import Importance, importance_as_active, importance_as_passive, own_importance
from vfl.paillier import (
    CipherVector,
    ObfuscatorPool,
    PrivateKey,
    PublicKey,
    SlotLayout,
    encrypt,
    generate_keypair,
    pack_residues,
    pack_slots,
    plan_slots,
)
from vfl.terms import Terms
from vfl.trees.bins import Codes, Feature
from vfl.trees.bitmaps import pack_bits, unpack_bits
from vfl.trees.forest import Split, Tree
from vfl.trees.grow import (
    Level,
    Limits,
    Outcome,
    PlainPart,
    TreeTask,
    sides_of,
)
from vfl.trees.grow import grow as grow_tree
from vfl.trees.histograms import EncryptedColumns, prepare_columns
from vfl.trees.kept import restore_splits, splits_to_arrays
from vfl.trees.levels import EncryptedLevel, EncryptedTree, first_level, next_level
from vfl.trees.objective import Objective
from vfl.trees.rounds import Boosted, Labels, Progress, boost
from vfl.trees.sampling import FRACTION_BITS, draw_columns, draw_rows, goss_counts
from vfl.trees.splits import Candidates, Floats, Integers, Mask

Facts = Mapping[str, bool | int | float | str | None]

BLOCK = 1 << 14  # ciphertexts of one message: the next are made while these travel and are checked
MAX_POOL = 1 << 16
CANDIDATE_POOL = 512


class Wire:
    """Messages of boosting."""

    key = Message(Active, Passive, PaillierKey)
    tree = Message(Active, Passive, Control)
    drawn = Message(Active, Passive, Bitmaps, discloses="which rows a tree is grown on (gradient-based sampling)")
    blocks = Message(Active, Coordinator, Control)
    gradients = Message(Active, Coordinator, Encrypted)
    gradients_copy = Message(Coordinator, Passive, Encrypted)
    totals = Message(Active, Passive, Encrypted)
    candidates = Message(
        Passive,
        Active,
        EncryptedSums,
        discloses="sums of g and h over the left sides of its candidate splits, and how many there are",
    )
    chosen = Message(Active, Passive, Positions, discloses="which of its candidate splits gain most")
    sides = Message(Passive, Active, Bitmaps, discloses="which rows of the nodes that it splits go left")
    outcome = Message(
        Active,
        Passive,
        Bitmaps,
        discloses="which nodes are split and which rows go left, but for the deepest splits",
    )


@dataclass(frozen=True)
class ActiveFit:
    """What the active party has after training: the trees, its own splits, everybody's importance by party name."""

    boosted: Boosted
    splits: tuple[Split, ...] = field(repr=False)
    importance: dict[str, Importance]


@dataclass(frozen=True)
class PassiveFit:
    """What a passive party has after training: its own splits, their importance, and how many trees there are.

    In a one-sided training it is not told the importance, which grows with the number of rows that take part.
    """

    splits: tuple[Split, ...] = field(repr=False)
    importance: Importance | None
    trees: int


def plan_gradients(key_bits: int, terms: Terms) -> SlotLayout:
    """Lay g and h of all of a tree's outputs out in a ciphertext.

    Raises
    ------
    ConfigError
        If there are more classes than slots.
    """
    outputs = terms.outputs if terms.job.boosting.multi_output else 1
    try:
        return plan_slots(key_bits, FRACTION_BITS, terms=terms.rows, group=2 * outputs)
    except CryptoError:
        raise ConfigError(
            f"label: got {outputs} classes, whose gradients do not fit into a ciphertext of {key_bits} bits for "
            f"{terms.rows:,} rows; set training.multi_output = false (one tree per class), or raise privacy.key_bits"
        ) from None


def active(
    endpoint: Endpoint,
    terms: Terms,
    own: PlainPart,
    objective: Objective,
    labels: Labels,
    progress: Progress,
) -> ActiveFit:
    """Play the active party: gradients out, sums in, the best split of every node.

    Parameters
    ----------
    own : PlainPart
        The party's own columns, the training rows' first and then the validation part's.
    """
    job = terms.job
    passives = [endpoint.link(Active, Passive, name) for name in job.passive]
    hub = endpoint.link(Active, Coordinator, COORDINATOR)
    layout = plan_gradients(job.privacy.key_bits, terms)
    key = generate_keypair(
        job.privacy.key_bits,
        exponent_bits=job.privacy.exponent_bits,
        insecure_test_mode=job.privacy.insecure_test_mode,
    )
    for link in passives:
        link.send(Wire.key, send_key(key.public))
    with ObfuscatorPool(key, capacity=min(terms.rows, MAX_POOL)) as pool:
        run = _ActiveRun(hub, passives, key, pool, layout, goss=job.boosting.top_rate is not None)
        remotes = [_RemotePart(run, link) for link in passives]

        def grow(round_number: int, task: TreeTask) -> tuple[Tree, Integers]:
            if job.boosting.first_tree_active_only and round_number == 0:
                return grow_tree(task, [own])
            _send_tree(run, task, round_number)
            return grow_tree(task, [own, *remotes])

        columns = sum(terms.columns.values())
        boosted = boost(objective, labels, job.boosting, job.seed, columns, grow, progress, endpoint.keeper, own.splits)
        hub.send(Wire.blocks, Control({"blocks": 0}))
        for link in passives:
            link.send(Wire.tree, Control({"go": False, "trees": len(boosted.trees)}))
        splits = tuple(split for split in own.splits if split.tree < len(boosted.trees))
        importance = {endpoint.name: own_importance(boosted.trees, splits, len(own.features))}
        for number, link in enumerate(passives, 1):
            columns_there = terms.columns[link.peer]
            importance[link.peer] = importance_as_active(link, pool, key, boosted.trees, number, columns_there)
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
    """Play a passive party: sum what it cannot read, split the nodes that it wins.

    Parameters
    ----------
    codes : ndarray of shape (n, d), uint16
        The training rows' bins, then the validation part's.
    limits : Limits
        Guards on the nodes that it splits and on its candidates.
    tell_columns : bool
        Let the active party know each column's importance by number; else their total only.
    """
    lead = endpoint.link(Passive, Active, terms.job.active)
    hub = endpoint.link(Passive, Coordinator, COORDINATOR)
    key = receive_key(lead.recv(Wire.key), lead.peer, terms.job.privacy.key_bits)
    layout = plan_gradients(key.bits, terms)
    columns = prepare_columns(features, codes[: terms.rows])
    first = list(terms.columns.values())[: list(terms.columns).index(endpoint.name)]
    keeper, kept = endpoint.keeper, endpoint.keeper.trained()
    splits = [] if kept is None else restore_splits(kept)
    per_round = trees_per_round(terms)
    trees = rounds_behind(keeper, terms) * per_round
    if trees > keeper.rounds * per_round:
        keeper.save_round(trees // per_round, {}, splits_to_arrays(splits))
    with ObfuscatorPool(key, capacity=CANDIDATE_POOL, towards_owner=True) as pool:
        run = _PassiveRun(terms, lead, hub, pool, layout, columns, codes, limits, sum(first))
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
        importance = importance_as_passive(lead, pool, splits, len(features), tell_columns=tell_columns)
    return PassiveFit(tuple(splits), importance, trees)


def coordinator(endpoint: Endpoint, terms: Terms) -> None:
    """Play the coordinator: hand the gradients on to every passive party. It holds no key and reads nothing."""
    lead = endpoint.link(Coordinator, Active, terms.job.active)
    passives = [endpoint.link(Coordinator, Passive, name) for name in terms.job.passive]
    per_round = trees_per_round(terms)
    trees = rounds_behind(endpoint.keeper, terms) * per_round
    while True:
        blocks = lead.recv(Wire.blocks).facts.get("blocks")
        if type(blocks) is not int or blocks < 0:
            raise RemoteProtocolError(f"{lead.peer} announced gradients without a number of blocks")
        if trees and trees % per_round == 0:
            endpoint.keeper.save_round(trees // per_round, {}, {})
        if not blocks:
            return
        for _ in range(blocks):
            block = lead.recv(Wire.gradients)
            for link in passives:
                link.send(Wire.gradients_copy, block)
        trees += 1


@dataclass(slots=True)
class _ActiveRun:
    """What the active party keeps through all trees."""

    hub: Link[Active, Coordinator]
    passives: list[Link[Active, Passive]]
    key: PrivateKey = field(repr=False)
    pool: ObfuscatorPool = field(repr=False)
    layout: SlotLayout
    goss: bool

    def encrypt(self, values: Integers, *, sums: bool = False) -> Encrypted:
        """Fresh ciphertexts of rows of g and h, or of sums of them."""
        return encrypt_gradients(self.key, self.pool, self.layout, values, sums=sums)


def encrypt_gradients(
    key: PrivateKey | PublicKey, pool: ObfuscatorPool, layout: SlotLayout, values: Integers, *, sums: bool = False
) -> Encrypted:
    """Fresh ciphertexts of rows of g and h, or of sums of them; ``values`` of shape (m, 2 outputs), int64."""
    if sums:
        return send_ciphers(encrypt(key, pack_slots(layout, values, sums=True), pool=pool))
    n = key.public.n if isinstance(key, PrivateKey) else key.n
    return send_ciphers(encrypt(key, pack_residues(layout, values, n), pool=pool))


def _send_tree(run: _ActiveRun, task: TreeTask, round_number: int) -> None:
    """Announce a tree, and send the gradients of its rows and their total."""
    gradients = task.gradients
    starts = range(0, len(gradients.rows), BLOCK)
    run.hub.send(Wire.blocks, Control({"blocks": len(starts)}))
    for link in run.passives:
        link.send(Wire.tree, Control({"go": True, "round": round_number, "tree": task.number}))
        if run.goss:
            link.send(Wire.drawn, pack_bits([gradients.mask(run.layout.terms)]))
    for start in starts:
        run.hub.send(Wire.gradients, run.encrypt(gradients.values[start : start + BLOCK]))
    total = run.encrypt(gradients.values.sum(axis=0, keepdims=True), sums=True)
    for link in run.passives:
        link.send(Wire.totals, total)


@dataclass
class _RemotePart:
    """A passive party as `vfl.trees.grow` sees it."""

    run: _ActiveRun
    link: Link[Active, Passive]
    _questions: Questions = field(default_factory=dict)

    def offer(self, level: Level) -> Floats:
        """Open the sums over the party's candidates; return the largest gain per node."""
        payload = self.link.recv(Wire.candidates)
        best, self._questions = open_candidates(payload, level, self.run.layout, self.run.key, self.link.peer)
        return best

    def choose(self, won: Mask) -> None:
        """Name all best candidates of the nodes that the party splits."""
        self.link.send(Wire.chosen, name_candidates(self._questions, won))
        self._questions = {node: q for node, q in self._questions.items() if won[node]}

    def sides(self, level: Level) -> Mask:
        """Hear which rows of those nodes go left."""
        rows = [np.flatnonzero(level.slot == node) for node in sorted(self._questions)]
        maps = unpack_bits(self.link.recv(Wire.sides), [len(own) for own in rows], self.link.peer)
        left = np.zeros(len(level.slot), dtype=bool)
        for own, bits in zip(rows, maps, strict=True):
            left[own] = bits
        return left

    def finish(self, level: Level, outcome: Outcome) -> None:
        """Tell how the level ended, as far as another one follows."""
        if level.depth + 1 == level.task.max_depth:
            return
        self.link.send(Wire.outcome, pack_outcome(level, outcome))
        told = outcome.told()
        if told.any():
            children = np.repeat(told[outcome.split], 2)
            self.link.send(Wire.totals, self.run.encrypt(outcome.totals[children], sums=True))


@dataclass(slots=True)
class _PassiveRun:
    """What a passive party keeps through all trees; its pool is for what goes to the key's owner."""

    terms: Terms
    lead: Link[Passive, Active]
    hub: Link[Passive, Coordinator]
    pool: ObfuscatorPool = field(repr=False)
    layout: SlotLayout
    columns: EncryptedColumns = field(repr=False)
    codes: Codes = field(repr=False)
    limits: Limits
    first: int

    @property
    def features(self) -> tuple[Feature, ...]:
        """The party's columns."""
        return self.columns.layout.features

    @property
    def key(self) -> PublicKey:
        """The active party's key."""
        return self.pool.key


def _follow_tree(run: _PassiveRun, round_number: int, number: int) -> list[Split]:
    """A passive party's part of one tree; returns its splits."""
    tree = _receive_tree(run, round_number, number)
    total = receive_ciphers(run.key, run.lead.recv(Wire.totals), 1, run.lead.peer)
    level: EncryptedLevel | None = first_level(tree, total, len(run.codes))
    splits: list[Split] = []
    while level is not None:
        candidates, order = _send_candidates(run, tree, level)
        chosen = run.lead.recv(Wire.chosen)
        won = read_chosen(chosen, run.features, level, number, candidates, order, run.lead.peer)
        splits += won.values()
        left = sides_of(level.slot, won, run.features, run.codes)
        run.lead.send(Wire.sides, pack_bits([left[level.slot == node] for node in sorted(won)]))
        level = _next_level(run, tree, level)
    return splits


def _receive_tree(run: _PassiveRun, round_number: int, number: int) -> EncryptedTree:
    """Rows and columns drawn, and the rows' ciphertexts."""
    settings, seed, n = run.terms.job.boosting, run.terms.job.seed, run.terms.rows
    if settings.top_rate is None or settings.other_rate is None:
        rows = draw_rows(n, settings.subsample, seed, round_number)
    else:
        (drawn,) = unpack_bits(run.lead.recv(Wire.drawn), [n], run.lead.peer)
        rows, expected = np.flatnonzero(drawn), sum(goss_counts(n, settings.top_rate, settings.other_rate))
        if len(rows) != expected:
            raise RemoteProtocolError(f"{run.lead.peer} drew {len(rows):,} rows for a tree, expected {expected:,}")
    blocks = [
        receive_ciphers(run.key, run.hub.recv(Wire.gradients_copy), min(BLOCK, len(rows) - start), run.lead.peer)
        for start in range(0, len(rows), BLOCK)
    ]
    columns = draw_columns(sum(run.terms.columns.values()), settings.colsample_bytree, seed, number)
    own = columns[run.first : run.first + len(run.features)]
    least = max(run.limits.min_node_rows, 1)
    return EncryptedTree(run.columns, rows, CipherVector.concat(blocks), own, least)


def _send_candidates(run: _PassiveRun, tree: EncryptedTree, level: EncryptedLevel) -> tuple[Candidates, Integers]:
    """Sums over the left sides of all candidates, in random order; returns the candidates and that order."""
    payload, candidates, order = offer_candidates(tree, level, run.limits.min_bin_gap, run.layout, run.pool)
    run.lead.send(Wire.candidates, payload)
    return candidates, order


def _next_level(run: _PassiveRun, tree: EncryptedTree, level: EncryptedLevel) -> EncryptedLevel | None:
    """Hear how a level ended; None if no other follows."""
    if level.depth + 1 == run.terms.job.boosting.max_depth:
        return None
    told = read_outcome(run.lead.recv(Wire.outcome), len(level.numbers), level.slot, run.lead.peer)
    if not len(told.parents):
        return None
    totals = receive_ciphers(run.key, run.lead.recv(Wire.totals), len(told.open), run.lead.peer)
    return next_level(tree, level, told, totals)


def trees_per_round(terms: Terms) -> int:
    """One, or one per class."""
    return 1 if terms.job.boosting.multi_output else terms.outputs


def rounds_behind(keeper: Keeper, terms: Terms) -> int:
    """Rounds that are done as far as others than the active party see: they hear nothing of a first one of its own."""
    return max(keeper.rounds, int(terms.job.boosting.first_tree_active_only))


def read_announced(facts: Facts, following: int, terms: Terms, sender: str) -> tuple[int, int]:
    """Round and number of an announced tree: the next one, and none beyond the job's rounds."""
    number = read_number(facts, "tree", following, sender)
    round_number = read_number(facts, "round", terms.job.boosting.n_estimators - 1, sender)
    if (number, round_number) != (following, following // trees_per_round(terms)):
        raise RemoteProtocolError(f"{sender} announced tree {number} of round {round_number} out of turn")
    return round_number, number


def read_number(facts: Facts, name: str, most: int, sender: str) -> int:
    """A whole number from 0 to ``most``."""
    value = facts.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise RemoteProtocolError(f"{sender} announced a tree without a {name} from 0 to {most}")
    return value
