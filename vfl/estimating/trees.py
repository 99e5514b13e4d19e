"""What `vfl.boosting` will take.

The first trees are grown in plain, as they will be, and every passive party's part in them is counted; the rest of the
trees are taken to be like these. Early stopping is not foreseen: all rounds are counted.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

import msgspec
import numpy as np

from parties.link import COORDINATOR
from parties.wire import Bitmaps, Control, Encrypted, EncryptedSums, PaillierKey, Positions, Revealed
from vfl import boosting_part, importance
from vfl.boosting import BLOCK, Wire, plan_gradients
from vfl.boosting_one_sided import Wire as ListWire
from vfl.boosting_scoring import ROWS
from vfl.boosting_scoring import Wire as ScoringWire
from vfl.boosting_scoring_one_sided import Wire as ListScoringWire
from vfl.estimating.account import Account, Load, Trained, shape
from vfl.estimating.counting import CountedKey, Numbers, counted_key
from vfl.estimating.survey import Survey
from vfl.paillier import CipherVector, SlotLayout, compress, pack_residues
from vfl.paillier.vectors import stale_vector
from vfl.trees.bins import Codes
from vfl.trees.forest import Tree, goes_left
from vfl.trees.grow import Level, Listed, Outcome, PlainPart, TreeTask, grow
from vfl.trees.histograms import EncryptedColumns, candidate_sums, prepare_columns
from vfl.trees.levels import EncryptedLevel, EncryptedTree, Told, descend, first_level, next_level
from vfl.trees.listed_levels import divide, only_open, rows_divided_by_others
from vfl.trees.rounds import Boosted, Labels, boost
from vfl.trees.shuffle import tie_key
from vfl.trees.splits import Floats, Integers, Mask, find_candidates

SAMPLE_ROUNDS = 3  # grown in plain
_FINGERPRINT = bytes(16)
_SLOT_SECONDS = 2e-7  # to unpack one slot of an opened sum


@dataclass
class _Tree:
    """What one passive party will do for one tree, level by level."""

    loads: list[Load] = field(default_factory=list)
    candidates: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)
    rows_of_chosen: list[int] = field(default_factory=list)
    told_bits: list[list[int]] = field(default_factory=list)
    totals: list[int] = field(default_factory=list)
    fresh: list[int] = field(default_factory=list)


@dataclass
class _CountedPart:
    """A passive party's columns: in the clear for the tree, counted for the estimate.

    In a one-sided training ``columns`` are those of its whole list.
    """

    account: Account
    key: CountedKey
    layout: SlotLayout
    plain: PlainPart
    columns: EncryptedColumns = field(repr=False)
    trees: list[_Tree] = field(default_factory=list)
    _tree: EncryptedTree | None = None
    _level: EncryptedLevel | None = None

    def begin(self, task: TreeTask, drawn: Mask) -> None:
        """Receive a tree's gradients."""
        start = time.thread_time()
        rows = task.gradients.rows if self.plain.listed is None else np.arange(len(self.columns.codes))
        least = max(self.plain.limits.min_node_rows, 1)
        self._tree = EncryptedTree(self.columns, rows, _numbers(self.key, len(rows)), drawn, least)
        self._level = first_level(self._tree, _numbers(self.key, 1), max(task.rows, len(rows)))
        self.trees.append(_Tree(loads=[self._spent(start)]))

    def offer(self, level: Level) -> Floats:
        """Count the sums that will be sent, and offer what the plain columns do."""
        start, at, tree = time.thread_time(), self._level, self._tree
        if at is not None and tree is not None:
            allowed = tree.drawn & (at.place >= 0)[:, None]
            found = find_candidates(self.columns.layout, at.counts, self.plain.limits.min_bin_gap, allowed)
            order = np.arange(len(found.node) + len(found.members))
            if len(order):
                sums = candidate_sums(self.columns.layout, at.histograms, at.place, at.counts, found, order)
                compress(sums, self.layout)
            own = self.trees[-1]
            own.candidates.append(len(order))
            own.groups.append(len(found.groups))
            own.nodes.append(len(at.numbers))
            own.loads[-1] += self._spent(start)
        return self.plain.offer(level)

    def choose(self, won: Mask) -> None:
        """Note how many nodes are won."""
        self.trees[-1].chosen.append(int(won.sum()))
        self.plain.choose(won)

    def sides(self, level: Level) -> Mask:
        """Note how many rows' sides are told."""
        left = self.plain.sides(level)
        won = np.zeros(len(level.nodes), dtype=bool)
        won[list(self.plain.picked)] = True
        slot = level.slot if self.plain.listed is None or self._level is None else self._level.slot
        own = won[slot] & (slot >= 0)
        self.trees[-1].rows_of_chosen.append(int(own.sum()))
        return left

    def finish(self, level: Level, outcome: Outcome) -> None:
        """Hear how the level ended, and count the next one's sums."""
        if self.plain.listed is not None:
            self._finish_list(level, outcome, self.plain.listed.codes)
            return
        start, tree, own = time.thread_time(), self._tree, self.trees[-1]
        told = outcome.told()
        if level.depth + 1 == level.task.max_depth or self._level is None or tree is None:
            self._level = None
            return
        sizes = np.bincount(level.slot[level.slot >= 0], minlength=len(level.nodes))
        own.told_bits.append([len(outcome.split), len(outcome.open), *sizes[told].tolist()])
        opened = outcome.open.reshape(-1, 2)
        pairs = opened[opened.any(axis=1)].ravel()
        own.totals.append(len(pairs))
        if not told.any():
            self._level = None
            return
        place = np.where(told, 2 * (told.cumsum() - 1), -1)
        inside = (level.slot >= 0) & told[level.slot]
        child = np.where(inside, place[level.slot] + ~outcome.left, -1)
        heard = Told(outcome.split, np.flatnonzero(told), pairs, child)
        self._level = next_level(tree, self._level, heard, _numbers(self.key, len(pairs)))
        own.loads.append(self._spent(start))

    def _finish_list(self, level: Level, outcome: Outcome, codes: Codes) -> None:
        """As `finish`, where a level's end is told without rows (`vfl.boosting_one_sided`)."""
        start, tree, at, own = time.thread_time(), self._tree, self._level, self.trees[-1]
        plain, opened = self.plain, outcome.open.reshape(-1, 2)
        self._level = None
        if level.depth + 1 == level.task.max_depth or at is None or tree is None:
            return
        left = {
            node: goes_left(plain.features, codes, split, tree.rows[at.slot == node])
            for node, split in sorted(plain.picked.items())
        }
        plain.finish(level, outcome)
        parents = np.flatnonzero(outcome.split)[opened.any(axis=1)]
        opened = opened[opened.any(axis=1)]
        own.told_bits.append([len(outcome.split), len(outcome.open)])
        own.totals.append(2 * len(parents))
        own.fresh.append(rows_divided_by_others(at, parents, left))
        if not len(parents):
            return
        sent = _numbers(self.key, own.fresh[-1]) if own.fresh[-1] else None
        tree, child = divide(tree, at, parents, opened, left, sent)
        told = Told(outcome.split, parents, opened.ravel(), child)
        self._tree, self._level = only_open(tree, descend(tree, at, told, child, _numbers(self.key, 2 * len(parents))))
        own.loads.append(self._spent(start))

    def _spent(self, start: float) -> Load:
        single = time.thread_time() - start
        return Load(single) + self.account.on_ciphers(self.key.kernel.work.take())


def _numbers(key: CountedKey, count: int) -> CipherVector:
    return stale_vector(key, Numbers(count))


@dataclass
class _Grown:
    """The sampled rounds: plain trees, and seconds of the active party."""

    boosted: Boosted
    rounds: int
    drawn: list[int]
    active_seconds: list[float]
    packing_seconds: float
    parts: dict[str, _CountedPart]


def training(account: Account, survey: Survey) -> Trained:
    """Book the training and the scoring."""
    job, lead, speeds = survey.job, survey.job.active, account.speeds
    bits = job.privacy.key_bits
    key = counted_key(bits, job.privacy.exponent_bits or bits // 2)
    layout = plan_gradients(bits, survey.terms)
    grown = _grow(account, survey, key, layout)
    public = PaillierKey(bytes((bits + 7) // 8), bytes((2 * bits + 7) // 8), key.exponent_bits)
    for name in job.passive:
        account.send(_wire(survey).key, lead, name, public)
    account.stage("training", {lead: Load(speeds.key_seconds, speeds.owner_tables)})
    account.stage("training", {name: Load(0.0, speeds.long_tables) for name in job.passive})
    per_round = 1 if job.boosting.multi_output else survey.terms.outputs
    alone = int(job.boosting.first_tree_active_only)
    rounds = job.boosting.n_estimators
    counted = len(grown.drawn)
    times = (rounds - alone) * per_round / counted if counted else 0.0
    for number in range(counted):
        _book_tree(account, survey, key, layout, grown, number, times)
    if job.alignment.one_sided:
        account.send(ListWire.going, lead, COORDINATOR, Control({"go": False}))
    else:
        account.send(Wire.blocks, lead, COORDINATOR, Control({"blocks": 0}))
    for name in job.passive:
        account.send(_wire(survey).tree, lead, name, Control({"go": False, "trees": rounds * per_round}))
    scale = rounds / max(grown.rounds, 1)
    _book_importance(account, survey, key, grown, scale)
    if job.alignment.one_sided:
        _book_list_scoring(account, survey, grown, scale)
    else:
        _book_scoring(account, survey, grown, scale)
    how = f"the job's n_estimators; the first {grown.rounds} grown in plain here, the rest taken to be like them"
    if job.boosting.early_stopping_rounds is not None:
        how += "; at most, for early stopping may end them sooner"
    fitting = rounds * per_round * float(np.mean(grown.active_seconds or [0.0]))
    return Trained(rounds, True, fitting, how)


def _grow(account: Account, survey: Survey, key: CountedKey, layout: SlotLayout) -> _Grown:
    """Grow the first trees in plain."""
    job, terms, lead = survey.job, survey.terms, survey.job.active
    data, columns = survey.data[lead], survey.binned[lead]
    own = boosting_part.own_part(data.spec, columns.features, columns.codes[: data.n_fit])
    labels = Labels(boosting_part.labels_of(data, terms, survey.keeper), boosting_part.row_weights(data), data.n_train)
    parts, first = {}, len(columns.features)
    for name in job.passive:
        theirs = survey.binned[name]
        codes, fitted, listed = theirs.codes[: data.n_train], theirs.codes[: data.n_fit], None
        if survey.members is not None:
            codes, fitted = theirs.codes, theirs.codes[survey.members.places]
            listed = Listed(codes, tie_key(codes, job.seed))
        plain = PlainPart(theirs.features, fitted, first, boosting_part.make_limits(job), listed=listed)
        prepared = prepare_columns(theirs.features, codes)
        parts[name] = _CountedPart(account, key, layout, plain, prepared)
        first += len(theirs.features)
    sample = SAMPLE_ROUNDS + int(job.boosting.first_tree_active_only)
    rounds = min(job.boosting.n_estimators, sample)
    settings = msgspec.structs.replace(job.boosting, n_estimators=rounds, early_stopping_rounds=None)
    drawn: list[int] = []
    seconds: list[float] = []
    packing = 0.0

    def grow_tree(number: int, task: TreeTask) -> tuple[Tree, Integers]:
        nonlocal packing
        if job.boosting.first_tree_active_only and number == 0:
            return grow(task, [own])
        start = time.thread_time()
        pack_residues(layout, task.gradients.values[:BLOCK], key.n)
        packing = (time.thread_time() - start) / min(BLOCK, len(task.gradients.values))
        for part in parts.values():
            part.begin(task, task.columns[part.plain.first : part.plain.first + len(part.plain.features)])
        counting = sum(load.single for part in parts.values() for load in part.trees[-1].loads)
        start = time.thread_time()
        grown = grow(task, [own, *parts.values()])
        spent = time.thread_time() - start
        counted = sum(load.single for part in parts.values() for load in part.trees[-1].loads) - counting
        drawn.append(len(task.gradients.rows) if survey.members is None else survey.members.rows)
        seconds.append(max(0.0, spent - counted))
        return grown

    objective = boosting_part.objective_of(job, terms.outputs)
    total = sum(terms.columns.values())
    boosted = boost(objective, labels, settings, job.seed, total, grow_tree, lambda *_: None, survey.keeper, own.splits)
    return _Grown(boosted, rounds, drawn, seconds, packing, parts)


def _book_tree(
    account: Account, survey: Survey, key: CountedKey, layout: SlotLayout, grown: _Grown, number: int, times: float
) -> None:
    """Book one sampled tree as often as it stands for others."""
    lead, speeds = survey.job.active, account.speeds
    passive, width, rows = survey.job.passive, key.ciphertext_bytes, grown.drawn[number]
    account.encryptions[lead] += times * (rows + 1)
    starts, one_sided = range(0, rows, BLOCK), survey.job.alignment.one_sided
    if one_sided:
        sent = account.send(ListWire.going, lead, COORDINATOR, Control({"go": True}), times)
    else:
        sent = account.send(Wire.blocks, lead, COORDINATOR, Control({"blocks": len(starts)}), times)
    for name in passive:
        announced = Control({"go": True, "round": number, "tree": number})
        sent += account.send(_wire(survey).tree, lead, name, announced, times)
        if survey.job.boosting.top_rate is not None and not one_sided:
            sent += account.send(Wire.drawn, lead, name, _bitmaps([survey.terms.rows]), times)
    for start in starts:
        block = Encrypted(_FINGERPRINT, shape(np.uint8, min(BLOCK, rows - start), width))
        if one_sided:
            sent += account.send(ListWire.gradients, lead, passive[0], block, times)
            continue
        sent += account.send(Wire.gradients, lead, COORDINATOR, block, times)
        for name in passive:
            sent += account.send(Wire.gradients_copy, COORDINATOR, name, block, times)
    for name in passive:
        sent += account.send(
            _wire(survey).totals, lead, name, Encrypted(_FINGERPRINT, shape(np.uint8, 1, width)), times
        )
    sent += Load(grown.packing_seconds * rows + grown.active_seconds[number], rows * speeds.encrypt)
    received = {name: account.received(rows) for name in passive}
    account.stage("training", {lead: sent, **received}, times)
    for depth in range(max(len(grown.parts[name].trees[number].candidates) for name in passive)):
        _book_level(account, survey, key, layout, grown, number, depth, times)


def _book_level(
    account: Account,
    survey: Survey,
    key: CountedKey,
    layout: SlotLayout,
    grown: _Grown,
    number: int,
    depth: int,
    times: float,
) -> None:
    """Book one level: sums, what is opened of them, and how it ends."""
    lead, speeds, width, wire = survey.job.active, account.speeds, key.ciphertext_bytes, _wire(survey)
    loads: dict[str, Load] = {}
    opened = Load()
    for name in survey.job.passive:
        tree = grown.parts[name].trees[number]
        count = tree.candidates[depth]
        ciphertexts = -(-count // layout.per_ciphertext)
        counts = shape(np.int64, tree.nodes[depth] + tree.groups[depth], 2)
        body = EncryptedSums(_FINGERPRINT, counts, shape(np.uint8, ciphertexts, width))
        loads[name] = tree.loads[depth] + Load(0.0, ciphertexts * speeds.rerandomise)
        opened += account.send(wire.candidates, name, lead, body, times) + account.received(ciphertexts)
        opened += Load(ciphertexts * layout.slots * _SLOT_SECONDS, ciphertexts * speeds.decrypt)
        account.decryptions[lead] += times * ciphertexts
        won = tree.chosen[depth]
        asked = Positions(shape(np.int64, won), shape(np.uint32, won))
        opened += account.send(wire.chosen, lead, name, asked, times)
        bits = -(-tree.rows_of_chosen[depth] // 8)
        told = Bitmaps(shape(np.int64, won), shape(np.uint8, bits))
        opened += account.send(wire.sides, name, lead, told, times)
        if depth < len(tree.told_bits):
            opened += account.send(wire.outcome, lead, name, _bitmaps(tree.told_bits[depth]), times)
            fresh = tree.fresh[depth] if tree.fresh else 0
            account.encryptions[lead] += times * fresh
            for at in range(0, fresh, BLOCK):
                vector = Encrypted(_FINGERPRINT, shape(np.uint8, min(BLOCK, fresh - at), width))
                opened += account.send(ListWire.gradients, lead, name, vector, times)
            opened += Load(fresh * grown.packing_seconds, fresh * (speeds.encrypt + speeds.receive))
            if tree.totals[depth]:
                account.encryptions[lead] += times * tree.totals[depth]
                total = Encrypted(_FINGERPRINT, shape(np.uint8, tree.totals[depth], width))
                opened += account.send(wire.totals, lead, name, total, times)
                opened += Load(0.0, tree.totals[depth] * (speeds.encrypt + speeds.receive))
    account.stage("training", loads, times)
    account.stage("training", {lead: opened}, times)


def _wire(survey: Survey) -> type[Wire] | type[ListWire]:
    """The messages of the training."""
    return ListWire if survey.job.alignment.one_sided else Wire


def _bitmaps(rows: list[int]) -> Bitmaps:
    """Bits of several sets of rows."""
    return Bitmaps(shape(np.int64, len(rows)), shape(np.uint8, -(-sum(rows) // 8)))


def _book_importance(account: Account, survey: Survey, key: CountedKey, grown: _Grown, scale: float) -> None:
    """Book the gains of all splits, summed under encryption."""
    lead, speeds, width = survey.job.active, account.speeds, key.ciphertext_bytes
    load = Load()
    for name in survey.job.passive:
        part = grown.parts[name].plain
        splits = round(len(part.splits) * scale)
        if not splits:
            continue
        columns = len(part.features) if survey.owns[name].spec.policy.feature_importance else 1
        layout = importance.gain_layout(key.bits, splits)
        ciphertexts = -(-columns // layout.per_ciphertext)
        account.encryptions[lead] += splits
        account.decryptions[lead] += ciphertexts
        body = Encrypted(_FINGERPRINT, shape(np.uint8, splits, width))
        load += account.send(importance.Wire.split_gains, lead, name, body) + account.received(splits)
        sums = EncryptedSums(_FINGERPRINT, np.array([[0, columns]]), shape(np.uint8, ciphertexts, width))
        load += account.send(importance.Wire.feature_gains, name, lead, sums)
        if not survey.job.alignment.one_sided:
            load += account.send(importance.Wire.own_gains, lead, name, Revealed({}, np.zeros(2 * columns)))
        load += Load(0.0, splits * speeds.encrypt + ciphertexts * (speeds.decrypt + speeds.rerandomise))
    account.stage("training", {lead: load})


def _book_scoring(account: Account, survey: Survey, grown: _Grown, scale: float) -> None:
    """Book the way of the test rows down all trees, as the training rows go."""
    test, lead = survey.parts.test, survey.job.active
    start = time.thread_time()
    reached: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
    for name, part in grown.parts.items():
        for tree in part.trees:
            for depth, (won, rows) in enumerate(zip(tree.chosen, tree.rows_of_chosen, strict=True)):
                reached[name, depth][0] += won
                reached[name, depth][1] += rows
    fitted = survey.parts.train + survey.parts.validation
    load = Load(time.thread_time() - start)
    for block in range(0, test, ROWS):
        share = min(ROWS, test - block) / fitted
        for name in survey.job.passive:
            for depth in range(survey.job.boosting.max_depth):
                splits, rows = reached.get((name, depth), [0, 0])
                count, asked = round(splits * scale), round(rows * scale * share)
                counts = shape(np.int64, count)
                load += account.send(ScoringWire.rows, lead, name, Positions(counts, shape(np.uint32, asked)))
                bits = shape(np.uint8, -(-asked // 8))
                load += account.send(ScoringWire.sides, name, lead, Bitmaps(counts, bits))
    account.stage("evaluating", {lead: load})


def _book_list_scoring(account: Account, survey: Survey, grown: _Grown, scale: float) -> None:
    """Book the answers for the whole list: its rows go through as they did in the training."""
    lead, (name,) = survey.job.active, survey.job.passive
    if not survey.job.split.test_fraction:
        return
    trees = grown.parts[name].trees
    splits = round(scale * sum(sum(tree.chosen) for tree in trees))
    rows = round(scale * sum(sum(tree.rows_of_chosen) for tree in trees))
    above = Positions(shape(np.int64, 1), shape(np.uint32, splits))
    load = account.send(ListScoringWire.above, lead, name, above)
    if splits:
        sides = Bitmaps(shape(np.int64, splits), shape(np.uint8, -(-rows // 8)))
        load += account.send(ListScoringWire.sides, name, lead, sides)
    account.stage("evaluating", {lead: load})
