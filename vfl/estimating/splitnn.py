"""What `vfl.splitnn` and `vfl.splitnn_scoring` will take.

All batches of a training cost the same, but for a row more or less: one of each length is counted through the run's own
code with the parties' columns, the active party's step is timed, and both stand for all. Early stopping is
not foreseen: all epochs are counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from parties.link import COORDINATOR
from parties.wire import Active, Control, Coordinator, Encrypted, Masked, Message, PaillierKey, Passive, Revealed
from vfl.estimating.account import Account, Load, Sending, Stage, Trained, shape
from vfl.estimating.counting import CountedKey, Numbers, Work, counted_key
from vfl.estimating.network import (
    NetworkTimes,
    Repeated,
    blocks_of,
    book_epochs,
    cut,
    in_runs,
    time_network,
    trained,
)
from vfl.estimating.survey import Survey
from vfl.forward_pass import ForwardPass
from vfl.network_columns import to_fixed
from vfl.paillier import (
    CipherVector,
    WideSlots,
    draw_masks,
    low_words,
    open_words,
    pack_masks,
    pack_words,
    times_columns,
    times_rows,
)
from vfl.paillier.vectors import stale_vector
from vfl.source_layer import LayerPlan, plan_layer
from vfl.splitnn import TRAINING, Wire
from vfl.splitnn_scoring import BLOCK, SCORING
from vfl.splitnn_scoring import Wire as ScoringWire
from vfl.terms import Integers

_FINGERPRINT = bytes(16)


@dataclass(frozen=True)
class _Layer:
    """The first layer of a scenario, with a key that nobody has.

    Attributes
    ----------
    X : dict of passive party to ndarray of shape (n, d), int64
        Cells in fixed point: training rows, validation part, test rows.
    """

    account: Account
    survey: Survey
    key: CountedKey
    plan: LayerPlan
    X: dict[str, Integers] = field(repr=False)

    @property
    def lead(self) -> str:
        return self.survey.job.active

    def columns(self, name: str) -> int:
        """Encoded columns of a party."""
        return self.survey.terms.columns[name]

    def in_rows(self, layout: WideSlots, rows: int) -> int:
        """Ciphertexts that so many rows of outputs take."""
        return rows * self.plan.per_row(layout)

    def encrypted(self, count: int) -> Encrypted:
        """A message of so many ciphertexts."""
        return Encrypted(_FINGERPRINT, shape(np.uint8, count, self.key.ciphertext_bytes))

    def words(self, rows: int) -> Masked:
        """A message of so many rows of outputs modulo 2^64."""
        return Masked(shape(np.uint64, rows * self.plan.units, 1))

    def vector(self, count: int) -> CipherVector:
        """So many ciphertexts, without values."""
        return stale_vector(self.key, Numbers(count))

    def counted(self, work: Callable[[], object]) -> Load:
        """What work costs: its ciphertexts counted, the rest timed."""
        start = time.thread_time()
        work()
        return Load(time.thread_time() - start) + self.account.on_ciphers(self.key.kernel.work.take())

    def masked(self, layout: WideSlots, count: int) -> Load:
        """Masks for so many ciphertexts, added and made fresh."""
        width = -(-self.plan.units // self.plan.per_row(layout))

        def draw() -> None:
            masks = draw_masks(layout, count, width)
            pack_masks(layout, masks, self.key.n)
            low_words(masks)

        speeds = self.account.speeds
        return self.counted(draw) + Load(0.0, count * (speeds.plaintext + speeds.rerandomise))

    def packed(self, layout: WideSlots, rows: int) -> Load:
        """Numbers of so many rows, packed and encrypted by the key's owner."""
        values = np.zeros((rows, self.plan.units), dtype=np.int64)
        packing = self.counted(lambda: pack_words(layout, self.plan.spread(values, layout), self.key.n))
        return packing + Load(0.0, self.in_rows(layout, rows) * self.account.speeds.encrypt)

    def opened(self, layout: WideSlots, rows: int) -> Load:
        """So many rows received, decrypted and unpacked by the key's owner."""
        count = self.in_rows(layout, rows)
        width = -(-self.plan.units // self.plan.per_row(layout))
        unpacking = self.counted(lambda: self.plan.gather(open_words(layout, [1] * count, width), layout))
        return self.account.received(count) + unpacking + Load(0.0, count * self.account.speeds.decrypt)


def training(account: Account, survey: Survey) -> Trained:
    """Book the training and the scoring."""
    job, lead, parts = survey.job, survey.job.active, survey.parts
    layer, blocks = _layer(account, survey), blocks_of(survey)
    network = time_network(survey, blocks)
    account.stage("training", {lead: Load(network.begin)})
    _book_keys(layer, "training", Wire.key, Wire.key_copy)
    shares = [Sending(Wire.share, name, lead, layer.words(layer.columns(name))) for name in job.passive]
    account.repeat("training", [Stage({}, shares)], 1)
    weights = _weights(layer, TRAINING)
    epoch: list[Repeated] = []
    for rows, times in in_runs(blocks.batches):
        batch = blocks.first[:rows]
        epoch.append((times, [*weights, *_forward(layer, TRAINING, batch), *_backward(layer, batch, network)]))
    if blocks.watched:
        epoch.append((1, weights))
    for rows, times in in_runs(blocks.watched):
        block = np.arange(parts.train, parts.train + rows)
        epoch.append((times, [*_forward(layer, TRAINING, block), Stage({lead: Load(network.loss[rows])})]))
    told = [Sending(Wire.epoch, lead, name, Revealed({"best": True, "go": True}, np.zeros(0))) for name in job.passive]
    told.append(Sending(Wire.proceed, lead, COORDINATOR, Control({"go": True})))
    epoch.append((1, [Stage({}, told)]))
    book_epochs(account, job.splitnn.epochs, lambda number: epoch)
    _book_scoring(layer)
    return trained(survey, blocks, network)


def _layer(account: Account, survey: Survey) -> _Layer:
    privacy = survey.job.privacy
    key = counted_key(privacy.key_bits, privacy.exponent_bits or privacy.key_bits // 2)
    X = {name: to_fixed(survey.networks[name].X) for name in survey.job.passive}
    return _Layer(account, survey, key, plan_layer(survey.terms), X)


def _book_keys(
    layer: _Layer,
    phase: str,
    key: Message[Active, Passive, PaillierKey],
    key_copy: Message[Active, Coordinator, PaillierKey],
) -> None:
    """Book a new key, and the tables of powers that all make for it."""
    speeds, bits, passive = layer.account.speeds, layer.key.bits, layer.survey.job.passive
    public = PaillierKey(bytes((bits + 7) // 8), bytes((2 * bits + 7) // 8), layer.key.exponent_bits)
    sent = [Sending(key, layer.lead, name, public) for name in passive]
    sent.append(Sending(key_copy, layer.lead, COORDINATOR, public))
    tables = {layer.lead: Load(0.0, speeds.owner_tables)} | {name: Load(0.0, speeds.long_tables) for name in passive}
    layer.account.repeat(phase, [Stage({layer.lead: Load(speeds.key_seconds)}, sent), Stage(tables)], 1)


def _weights(layer: _Layer, messages: ForwardPass) -> list[Stage]:
    """The active party's shares of the weights, encrypted and sent to every passive party."""
    sending, received, made = [], {}, Load()
    for name in layer.survey.job.passive:
        count = layer.in_rows(layer.plan.forward, layer.columns(name))
        made += layer.packed(layer.plan.forward, layer.columns(name))
        sending.append(Sending(messages.weights, layer.lead, name, layer.encrypted(count)))
        received[name] = layer.account.received(count)
    total = layer.in_rows(layer.plan.forward, sum(layer.survey.terms.passive_columns))
    return [Stage({layer.lead: made}, sending, encryptions={layer.lead: total}), Stage(received)]


def _forward(layer: _Layer, messages: ForwardPass, rows: Integers) -> list[Stage]:
    """Products and rests of some rows, from every passive party over the coordinator to the active one."""
    plan, passive = layer.plan, layer.survey.job.passive
    count, width = layer.in_rows(plan.forward, len(rows)), plan.per_row(plan.forward)
    loads, sent = {}, []
    for name in passive:
        X, share = layer.X[name][rows], np.zeros((layer.columns(name), plan.units), dtype=np.uint64)
        vector = layer.vector(layer.columns(name) * width)
        products = layer.counted(partial(times_rows, vector, X, outputs=width))
        rests = layer.counted(partial(np.matmul, X.view(np.uint64), share))
        loads[name] = products + rests + layer.masked(plan.forward, count)
        sent.append(Sending(messages.products, name, COORDINATOR, layer.encrypted(count)))
        sent.append(Sending(messages.rests, name, COORDINATOR, layer.words(len(rows))))
    added = Load()
    if len(passive) > 1:
        added += layer.account.received(len(passive) * count)
        added += layer.account.on_ciphers(Work(products=(len(passive) - 1) * count))
    sums = [
        Sending(messages.all_products, COORDINATOR, layer.lead, layer.encrypted(count)),
        Sending(messages.sums, COORDINATOR, layer.lead, layer.words(len(rows))),
    ]
    opened = Stage({layer.lead: layer.opened(plan.forward, len(rows))}, decryptions={layer.lead: count})
    return [Stage(loads, sent), Stage({COORDINATOR: added}, sums), opened]


def _backward(layer: _Layer, rows: Integers, network: NetworkTimes) -> list[Stage]:
    """A step of the layers above, and what it means for the passive parties' weights."""
    plan, passive, lead = layer.plan, layer.survey.job.passive, layer.lead
    count, width = layer.in_rows(plan.backward, len(rows)), plan.per_row(plan.backward)
    steps = layer.encrypted(count)
    made = Load(network.step[len(rows)]) + layer.packed(plan.backward, len(rows))
    loads, sent, opened = {}, [], Load()
    for name in passive:
        own = layer.in_rows(plan.backward, layer.columns(name))
        products = layer.counted(partial(times_columns, layer.vector(count), layer.X[name][rows], outputs=width))
        loads[name] = layer.account.received(count) + products + layer.masked(plan.backward, own)
        sent.append(Sending(Wire.updates, name, lead, layer.encrypted(own)))
        opened += layer.opened(plan.backward, layer.columns(name))
    total = layer.in_rows(plan.backward, sum(layer.survey.terms.passive_columns))
    return [
        Stage({lead: made}, [Sending(Wire.gradients, lead, COORDINATOR, steps)], encryptions={lead: count}),
        Stage({}, [Sending(Wire.gradients_copy, COORDINATOR, name, steps) for name in passive]),
        Stage(loads, sent),
        Stage({lead: opened}, decryptions={lead: total}),
    ]


def _book_scoring(layer: _Layer) -> None:
    """Book the test rows' outputs, under a key of their own."""
    parts = layer.survey.parts
    if not parts.test:
        return
    _book_keys(layer, "evaluating", ScoringWire.key, ScoringWire.key_copy)
    layer.account.repeat("evaluating", _weights(layer, SCORING), 1)
    first = parts.train + parts.validation
    for rows, times in in_runs(cut(parts.test, BLOCK)):
        layer.account.repeat("evaluating", _forward(layer, SCORING, np.arange(first, first + rows)), times)
