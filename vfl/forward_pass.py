"""The forward pass of an encrypted first layer, as its three roles play it: in training, and once more to score rows.

    A --> P   weights        [[V_P]]
    P --> C   products       [[X_P V_P + rho_P]]
    P --> C   rests          {X_P U_P - rho_P}
    C --> A   all_products   [[sum_P X_P V_P + rho_P]]
    C --> A   sums           {sum_P X_P U_P - rho_P}

`vfl.splitnn` and `vfl.splitnn_scoring` have the messages, each its own, and say what is learnt from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from parties.errors import CryptoError, RemoteProtocolError
from parties.link import COORDINATOR, Endpoint, Link
from parties.wire import Active, Coordinator, Encrypted, Masked, Message, PaillierKey, Passive
from vfl.exchange import receive_ciphers, receive_key, send_ciphers
from vfl.job import Job
from vfl.masking import Masks, add_masked, check_words, pairwise_masks
from vfl.optim import Vector
from vfl.paillier import CipherVector, ObfuscatorPool, PrivateKey, PublicKey, add, generate_keypair, hand_on
from vfl.source_layer import LayerPlan, Words, encrypt_weights, multiply, open_outputs, plan_layer
from vfl.terms import Integers, Terms

_MAX_POOL = 1 << 14  # obfuscators kept, about 1 kB each


@dataclass(frozen=True)
class ForwardPass:
    """Its messages: of the training, or of scoring."""

    weights: Message[Active, Passive, Encrypted]
    products: Message[Passive, Coordinator, Encrypted]
    all_products: Message[Coordinator, Active, Encrypted]
    rests: Message[Passive, Coordinator, Masked]
    sums: Message[Coordinator, Active, Masked]


@dataclass
class ActiveForward:
    """The active party's side of forward passes."""

    hub: Link[Active, Coordinator]
    passives: list[Link[Active, Passive]]
    messages: ForwardPass
    key: PrivateKey = field(repr=False)
    pool: ObfuscatorPool = field(repr=False)
    plan: LayerPlan
    masks: Masks = field(repr=False)
    _passes: int = field(default=0, init=False)

    def send_weights(self, shares: Mapping[str, Words]) -> None:
        """Send every passive party its [[V]]."""
        for link in self.passives:
            link.send(
                self.messages.weights, send_ciphers(encrypt_weights(self.plan, self.key, shares[link.peer], self.pool))
            )

    def open(self, rows: int) -> Vector:
        """Open the outputs of so many rows, summed over the passive parties; float64 of shape (rows, units)."""
        count = rows * self.plan.per_row(self.plan.forward)
        products = receive_ciphers(self.key.public, self.hub.recv(self.messages.all_products), count, self.hub.peer)
        total = self.hub.recv(self.messages.sums)
        rest = self.masks.open_scores(f"outputs|{self._passes}", total, rows * self.plan.units)
        self._passes += 1
        with opens(f"outputs from {self.hub.peer}"):
            return open_outputs(self.plan, self.key, products, rest.reshape(rows, self.plan.units))


def start_forward(endpoint: Endpoint, terms: Terms, messages: ForwardPass, purpose: str) -> ActiveForward:
    """Make a key, and what else the active party needs for forward passes."""
    privacy, plan = terms.job.privacy, plan_layer(terms)
    key = generate_keypair(
        privacy.key_bits, exponent_bits=privacy.exponent_bits, insecure_test_mode=privacy.insecure_test_mode
    )
    batch = terms.job.splitnn.batch_size * plan.per_row(plan.backward)
    columns = sum(terms.passive_columns) * plan.per_row(plan.forward)
    return ActiveForward(
        hub=endpoint.link(Active, Coordinator, COORDINATOR),
        passives=[endpoint.link(Active, Passive, name) for name in terms.job.passive],
        messages=messages,
        key=key,
        pool=ObfuscatorPool(key, capacity=min(batch + columns, _MAX_POOL)),
        plan=plan,
        masks=pairwise_masks(endpoint, purpose),
    )


@contextmanager
def opens(what: str) -> Iterator[None]:
    """Say who sent plaintexts that no honest sum has."""
    try:
        yield
    except CryptoError as error:
        raise RemoteProtocolError(f"{what}: {error}") from error


def take_key(payload: PaillierKey, sender: str, job: Job) -> PublicKey:
    """Public key of a payload, of exactly the job's length: slots and masks are laid out for that."""
    key = receive_key(payload, sender, job.privacy.key_bits)
    if key.bits != job.privacy.key_bits:
        raise RemoteProtocolError(f"public key from {sender}: {key.bits} bits, the job has {job.privacy.key_bits}")
    return key


@dataclass
class PassiveForward:
    """A passive party's side of forward passes; its pool is for what goes to the key's owner."""

    lead: Link[Passive, Active]
    hub: Link[Passive, Coordinator]
    messages: ForwardPass
    key: PublicKey
    pool: ObfuscatorPool = field(repr=False)
    plan: LayerPlan
    masks: Masks = field(repr=False)
    _passes: int = field(default=0, init=False)

    def receive_weights(self, columns: int) -> CipherVector:
        """[[V]] of so many columns."""
        count = columns * self.plan.per_row(self.plan.forward)
        return receive_ciphers(self.key, self.lead.recv(self.messages.weights), count, self.lead.peer)

    def answer(self, weights: CipherVector, X: Integers, share: Words) -> None:
        """Send the coordinator this party's part of some rows' outputs."""
        products, rest = multiply(self.plan, weights, X, share, self.pool)
        self.hub.send(self.messages.products, send_ciphers(products))
        masked = self.masks.scores(f"outputs|{self._passes}", rest.view("int64").ravel())
        self._passes += 1
        self.hub.send(self.messages.rests, masked)


def answer_forward(
    endpoint: Endpoint, terms: Terms, key: PublicKey, messages: ForwardPass, purpose: str
) -> PassiveForward:
    """What a passive party needs for forward passes."""
    plan, batch = plan_layer(terms), terms.job.splitnn.batch_size
    columns = terms.columns[endpoint.name] * plan.per_row(plan.backward)
    capacity = min(batch * plan.per_row(plan.forward) + columns, _MAX_POOL)
    return PassiveForward(
        lead=endpoint.link(Passive, Active, terms.job.active),
        hub=endpoint.link(Passive, Coordinator, COORDINATOR),
        messages=messages,
        key=key,
        pool=ObfuscatorPool(key, capacity=capacity, towards_owner=True),
        plan=plan,
        masks=pairwise_masks(endpoint, purpose),
    )


@dataclass
class CoordinatorForward:
    """The coordinator's side of forward passes."""

    lead: Link[Coordinator, Active]
    passives: list[Link[Coordinator, Passive]]
    messages: ForwardPass
    key: PublicKey
    units: int

    def add_up(self, rows: int) -> None:
        """Add the passive parties' parts of so many rows up, and send the sums to the active party."""
        products = {link.peer: link.recv(self.messages.products) for link in self.passives}
        rests = {link.peer: link.recv(self.messages.rests) for link in self.passives}
        total = self._sum(products, rows)
        for name, part in rests.items():
            check_words(part, rows * self.units, 1, name)
        self.lead.send(self.messages.all_products, total)
        self.lead.send(self.messages.sums, add_masked(rests))

    def _sum(self, products: Mapping[str, Encrypted], rows: int) -> Encrypted:
        """One party's ciphertexts as they are, or the sum of several: all of them are fresh for their receiver."""
        first, *others = products
        count = len(products[first].body)
        if count % rows or not 0 < count // rows <= self.units:
            raise RemoteProtocolError(
                f"{first} sent {count:,} ciphertexts for {rows:,} rows, expected as many for each, up to {self.units}"
            )
        if any(len(products[name].body) != count for name in others):
            counts = ", ".join(f"{name} sent {len(sent.body):,}" for name, sent in products.items())
            raise RemoteProtocolError(f"{counts} ciphertexts for the same {rows:,} rows, expected as many of each")
        if not others:
            return products[first]
        total = receive_ciphers(self.key, products[first], count, first)
        for name in others:
            total = add(total, receive_ciphers(self.key, products[name], count, name))
        return send_ciphers(hand_on(total))


def add_forward(endpoint: Endpoint, job: Job, key: PublicKey, messages: ForwardPass) -> CoordinatorForward:
    """What the coordinator needs for forward passes; it need not know how many columns there are."""
    return CoordinatorForward(
        lead=endpoint.link(Coordinator, Active, job.active),
        passives=[endpoint.link(Coordinator, Passive, name) for name in job.passive],
        messages=messages,
        key=key,
        units=job.splitnn.units,
    )
