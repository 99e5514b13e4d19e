"""Train a split neural network whose first layer all parties hold together, under encryption.

Source: F. Fu et al., *BlindFL*, SIGMOD 2022, section 4, with shares in Z_2^64 and nothing cut off
(`vfl.source_layer`); minibatches as in O. Gupta, R. Raskar, *Distributed learning of deep neural network over multiple
agents*, 2018. The layers above the first are ordinary ones at the active party (`vfl.network`).

W_P = U_P + V_P are P's first-layer weights, U_P at P and V_P at A; X_P are P's cells of a batch. One batch (A active, P
every passive party, C coordinator; [[v]] Paillier under A's key, {v} under zero-sum masks)::

    A --> P, C  key, key_copy      once
    P --> A     share              once: V_P, uniform, for U_P = W_P - V_P is
    A --> P     weights            [[V_P]], output units side by side in ciphertexts
    P --> C     products           [[X_P V_P + rho_P]]
    P --> C     rests              {X_P U_P - rho_P} modulo 2^64
    C --> A     all_products       [[sum_P X_P V_P + rho_P]]
    C --> A     sums               {sum_P X_P U_P - rho_P}; A adds both up: sum_P X_P W_P
        A: own columns, bias and the layers above; loss; dZ = learning rate * dL/dZ
    A --> C --> P  gradients       [[dZ]]
    P --> A     updates            [[X_P'dZ + phi_P]]; V_P -= what A opens, U_P += phi_P
      behind every epoch
    A <-- C <-- P                  the forward pass once more for the rows of the validation part
    A --> P     epoch              whether these weights are the best so far, and whether training goes on
    A --> C     proceed            whether training goes on

The first layer takes plain steps of stochastic gradient descent, with A's learning rate for every unit and batch; the
layers above have any optimizer. Which rows are a batch follows from the job's seed. U_P + V_P is to the last bit what
plain descent on integers gives, whatever the masks are. Every role keeps its state behind every epoch; a run that goes
on from there begins with a new key and the same shares.

Leakage
-------
active : the rows' first-layer outputs, summed over the passive parties, in every epoch (with one passive party: its
    very outputs)
passive : which epochs were the best so far, and when training ends
coordinator : sizes and timing; it holds no key, and adds up what it cannot read
Every epoch shows A ``units`` more linear views of the passive columns, of every row. From one epoch with as many units
as passive columns A has the space that these span, and can tell independent columns apart in it (independent component
analysis); since A knows its own steps, two epochs give it the inner products of all rows, that is the columns but for a
rotation, and with as many rows that it knows otherwise the columns themselves. So A is to be trusted with them wherever
epochs times units are as many as they are; `parties.guards` counts these views, and asks for ``partial_scores``.
A does not learn the weights, nor P the outputs, the gradients or a label. Each mask hides its value
but for a statistical distance of 2^-40.
C with A: what A learns. C with A and all passive parties but one: that one's outputs. C with P: what P learns.

Threat model
------------
All follow the protocol and are curious. An active party that sends other weights than its own shares reads the passive
cells off the outputs, and nobody notices; ciphertexts of numbers beyond the agreed ones can outgrow the masks.

>>> [name for name in vars(Wire) if not name.startswith("_")][:3]
['key', 'key_copy', 'share']
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from parties.checkpoint import Snapshot
from parties.errors import DataError, RemoteProtocolError
from parties.link import Endpoint, Link
from parties.policy import Guards
from parties.wire import (
    Active,
    Control,
    Coordinator,
    Encrypted,
    Masked,
    Message,
    PaillierKey,
    Passive,
    Revealed,
)
from vfl.epochs import Course, Rows, cut_validation, draw_batches, run_epochs
from vfl.exchange import receive_ciphers, send_ciphers, send_key
from vfl.forward_pass import (
    ActiveForward,
    ForwardPass,
    PassiveForward,
    add_forward,
    answer_forward,
    opens,
    start_forward,
    take_key,
)
from vfl.masking import check_words
from vfl.network_consent import spend_epoch
from vfl.optim import Vector
from vfl.shard import Arrays
from vfl.source_layer import (
    Steps,
    Words,
    encrypt_steps,
    initial_weights,
    mask_updates,
    open_updates,
    share_weights,
)
from vfl.terms import Integers, Terms
from vfl.trained import Progress

if TYPE_CHECKING:
    from vfl.network import Network  # torch takes seconds to import, and only the active party needs it


Facts = Mapping[str, bool | int | float | str | None]


class Wire:
    """Every message of the protocol; nothing else can be sent."""

    key = Message(Active, Passive, PaillierKey)
    key_copy = Message(Active, Coordinator, PaillierKey)
    share = Message(Passive, Active, Masked)
    weights = Message(Active, Passive, Encrypted)
    products = Message(Passive, Coordinator, Encrypted)
    all_products = Message(Coordinator, Active, Encrypted)
    rests = Message(Passive, Coordinator, Masked)
    sums = Message(
        Coordinator,
        Active,
        Masked,
        discloses="the rows' first-layer outputs, summed over the passive parties, in every epoch",
    )
    gradients = Message(Active, Coordinator, Encrypted)
    gradients_copy = Message(Coordinator, Passive, Encrypted)
    updates = Message(Passive, Active, Encrypted)
    epoch = Message(
        Active,
        Passive,
        Revealed,
        discloses="which epochs were the best so far, and when training ends",
    )
    proceed = Message(Active, Coordinator, Control)


TRAINING = ForwardPass(Wire.weights, Wire.products, Wire.all_products, Wire.rests, Wire.sums)


@dataclass(frozen=True)
class ActiveFit:
    """What the active party has after training: how it went, and its shares of the best epoch's weights by party."""

    course: Course
    shares: dict[str, Words] = field(repr=False)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PassiveFit:
    """What a passive party has after training: its share of the best epoch's weights, and how many epochs there were.

    ``share`` has shape (d, units), uint64.
    """

    share: Words = field(repr=False)
    epochs: int


def active(
    endpoint: Endpoint, terms: Terms, network: Network, rows: Rows, guards: Guards, progress: Progress
) -> ActiveFit:
    """Play the active party: open the first layer's outputs, train the layers above, send the steps.

    Parameters
    ----------
    network : Network
        The own part of the first layer and the layers above it, untrained; it is trained in place.
    rows : Rows
        Own columns and labels, the training rows' first and then the validation part's.
    """
    forward = start_forward(endpoint, terms, TRAINING, "splitnn")
    with forward.pool:
        for link in forward.passives:
            link.send(Wire.key, send_key(forward.key.public))
        forward.hub.send(Wire.key_copy, send_key(forward.key.public))
        kept = endpoint.keeper.trained()
        steps = Steps(terms.job.splitnn.source_step, clipped=_kept_clipped(kept))
        source = _ActiveSource(forward, terms, guards, steps, endpoint.keeper.rounds)
        source.shares, source.best = _receive_shares(forward.passives, terms) if kept is None else _restore(kept, terms)
        course = run_epochs(terms.job, network, source, rows, progress, endpoint.keeper)
    return ActiveFit(course, source.best, _warn_of_clipped(source.steps.clipped))


def _kept_clipped(kept: Snapshot | None) -> int:
    """How many entries of steps were cut before the checkpoint."""
    return 0 if kept is None else int(kept.integers("source.clipped").sum())


def _warn_of_clipped(clipped: int) -> tuple[str, ...]:
    if not clipped:
        return ()
    return (f"splitnn: {clipped:,} entries of steps were beyond 1 and cut to it; lower training.source_learning_rate",)


@dataclass
class _ActiveSource:
    """The first layer as `vfl.epochs` sees it."""

    forward_pass: ActiveForward
    terms: Terms
    guards: Guards
    steps: Steps
    epoch: int
    shares: dict[str, Words] = field(default_factory=dict, repr=False)
    best: dict[str, Words] = field(default_factory=dict, repr=False)
    _changed: bool = field(default=True, init=False)
    _counted: int = field(default=0, init=False)

    def forward(self, rows: Integers, *, training: bool) -> Vector:
        """Outputs of the rows, summed over the passive parties; ``training`` or not, the protocol is the same."""
        if self._counted <= self.epoch:
            self._counted = self.epoch + 1
            spend_epoch(self.terms, self.guards, self._counted)
        if self._changed:
            self.forward_pass.send_weights(self.shares)
            self._changed = False
        return self.forward_pass.open(len(rows))

    def backward(self, gradient: Vector) -> None:
        """Send the step, and take what comes back off the own shares."""
        run = self.forward_pass
        steps = encrypt_steps(run.plan, run.key, self.steps.fix(gradient), run.pool)
        run.hub.send(Wire.gradients, send_ciphers(steps))
        for link in run.passives:
            share = self.shares[link.peer]
            count = len(share) * run.plan.per_row(run.plan.backward)
            updates = receive_ciphers(run.key.public, link.recv(Wire.updates), count, link.peer)
            with opens(f"updates from {link.peer}"):
                self.shares[link.peer] = share - open_updates(run.plan, run.key, updates)
        self._changed = True

    def end_epoch(self, *, best: bool, go_on: bool) -> None:
        """Tell everybody."""
        if best:
            self.best = dict(self.shares)
        for link in self.forward_pass.passives:
            link.send(Wire.epoch, Revealed({"best": best, "go": go_on}, np.zeros(0)))
        self.forward_pass.hub.send(Wire.proceed, Control({"go": go_on}))
        self._changed = True  # the next pass's weights are sent again: passive parties keep none behind an epoch
        self.epoch += 1

    def state(self) -> Arrays:
        """The shares, those of the best epoch, and how much was cut off steps."""
        kinds = (("share", self.shares), ("best", self.best))
        kept: Arrays = {f"source.{kind}.{name}": share for kind, shares in kinds for name, share in shares.items()}
        return kept | {"source.clipped": np.array([self.steps.clipped], dtype=np.int64)}


def passive(endpoint: Endpoint, terms: Terms, X: Integers, guards: Guards) -> PassiveFit:
    """Play a passive party: multiply what it cannot read, and add up its masks.

    Parameters
    ----------
    X : ndarray of shape (n, d), int64
        Own cells in fixed point, the training rows' first and then the validation part's.

    Raises
    ------
    PolicyError
        The active party would open more views of the columns than the budget allows, and guards are enforced.
    """
    lead = endpoint.link(Passive, Active, terms.job.active)
    key = take_key(lead.recv(Wire.key), lead.peer, terms.job)
    forward = answer_forward(endpoint, terms, key, TRAINING, "splitnn")
    kept, keeper, settings = endpoint.keeper.trained(), endpoint.keeper, terms.job.splitnn
    share, best, go = _send_share(lead, terms, X) if kept is None else _restore_share(kept, X.shape[1], terms)
    epoch = keeper.rounds
    with forward.pool:
        while go:
            spend_epoch(terms, guards, epoch + 1, share)
            for batch in draw_batches(terms.rows, settings.batch_size, terms.job.seed, epoch):
                forward.answer(forward.receive_weights(X.shape[1]), X[batch], share)
                share = share + _step(forward, X[batch])
            _answer_validation(forward, terms, X, share)
            is_best, go = _read_verdict(lead.recv(Wire.epoch).facts, lead.peer)
            best, epoch = share if is_best else best, epoch + 1
            if go and epoch == settings.epochs:
                raise RemoteProtocolError(f"{lead.peer} goes on beyond the job's {epoch} epochs")
            keeper.save_round(epoch, {"go": go}, {"share": share, "best": best})
    return PassiveFit(best, epoch)


def _read_verdict(facts: Facts, sender: str) -> tuple[bool, bool]:
    """Whether an epoch was the best so far, and whether another one follows."""
    best, go = facts.get("best"), facts.get("go")
    if not isinstance(best, bool) or not isinstance(go, bool):
        raise RemoteProtocolError(f"{sender} ended an epoch without saying how it went and whether it goes on")
    return best, go


def _step(forward: PassiveForward, X: Integers) -> Words:
    """Multiply the batch's steps; returns what the own share grows by."""
    plan, hub = forward.plan, forward.hub
    count = len(X) * plan.per_row(plan.backward)
    steps = receive_ciphers(forward.key, hub.recv(Wire.gradients_copy), count, hub.peer)
    updates, masks = mask_updates(plan, steps, X, forward.pool)
    forward.lead.send(Wire.updates, send_ciphers(updates))
    return masks


def _answer_validation(forward: PassiveForward, terms: Terms, X: Integers, share: Words) -> None:
    """The validation part's rows, in blocks of a batch's size, all with the same weights."""
    blocks = cut_validation(terms.rows, terms.validation, terms.job.splitnn.batch_size)
    if not blocks:
        return
    weights = forward.receive_weights(X.shape[1])
    for block in blocks:
        forward.answer(weights, X[block], share)


def coordinator(endpoint: Endpoint, terms: Terms) -> int:
    """Play the coordinator: add up products and rests, hand steps on; returns how many epochs there were."""
    lead = endpoint.link(Coordinator, Active, terms.job.active)
    key = take_key(lead.recv(Wire.key_copy), lead.peer, terms.job)
    forward = add_forward(endpoint, terms.job, key, TRAINING)
    keeper, settings = endpoint.keeper, terms.job.splitnn
    kept, epoch = keeper.trained(), keeper.rounds
    go = True if kept is None else kept.fact("go", bool)
    blocks = [len(block) for block in cut_validation(terms.rows, terms.validation, settings.batch_size)]
    while go:
        for batch in draw_batches(terms.rows, settings.batch_size, terms.job.seed, epoch):
            forward.add_up(len(batch))
            steps = lead.recv(Wire.gradients)
            for link in forward.passives:
                link.send(Wire.gradients_copy, steps)
        for rows in blocks:
            forward.add_up(rows)
        told = lead.recv(Wire.proceed).facts.get("go")
        if type(told) is not bool:
            raise RemoteProtocolError(f"{lead.peer} ended an epoch without saying whether it goes on")
        epoch, go = epoch + 1, told and epoch + 1 < settings.epochs
        keeper.save_round(epoch, {"go": go}, {})
    return epoch


def _send_share(lead: Link[Passive, Active], terms: Terms, X: Integers) -> tuple[Words, Words, bool]:
    """Draw the first weights and give the active party its share of them."""
    columns = sum(terms.columns.values())
    weights = initial_weights(terms.job, X[: terms.rows], terms.job.splitnn.units, columns)
    own, other = share_weights(weights)
    lead.send(Wire.share, Masked(np.ascontiguousarray(other.reshape(-1, 1))))
    return own, own, True


def _receive_shares(
    passives: Sequence[Link[Active, Passive]], terms: Terms
) -> tuple[dict[str, Words], dict[str, Words]]:
    """This party's shares of the first weights, by party; the best so far are the same."""
    units, shares = terms.job.splitnn.units, {}
    for link in passives:
        columns = terms.columns[link.peer]
        sent = link.recv(Wire.share)
        check_words(sent, columns * units, 1, link.peer)
        shares[link.peer] = sent.body.reshape(columns, units)
    return shares, dict(shares)


def _restore(kept: Snapshot, terms: Terms) -> tuple[dict[str, Words], dict[str, Words]]:
    """The active party's shares as a checkpoint has them, and those of the best epoch."""
    units, names = terms.job.splitnn.units, terms.job.passive
    shares = {name: kept_words(kept, f"source.share.{name}", (terms.columns[name], units)) for name in names}
    return shares, {name: kept_words(kept, f"source.best.{name}", (terms.columns[name], units)) for name in names}


def _restore_share(kept: Snapshot, columns: int, terms: Terms) -> tuple[Words, Words, bool]:
    """A passive party's share, that of the best epoch, and whether training goes on."""
    shape = (columns, terms.job.splitnn.units)
    return kept_words(kept, "share", shape), kept_words(kept, "best", shape), kept.fact("go", bool)


def kept_words(kept: Snapshot, name: str, shape: tuple[int, ...]) -> Words:
    """An array of words of a checkpoint, or ``DataError``."""
    array = kept.arrays.get(name)
    if array is None or array.dtype != np.uint64 or array.shape != shape:
        raise DataError(f"a checkpoint of step {kept.step} without {name}; was it kept by another version of vfl?")
    return np.asarray(array, dtype=np.uint64)
