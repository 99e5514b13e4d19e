"""Train a split neural network whose parties' outputs and gradients are exchanged in the clear.

Source: P. Vepakomma et al., *Split learning for health: Distributed deep learning without sharing raw patient data*,
2018 (vertically partitioned data), with the sum of the parties' outputs for their concatenation as in I. Ceballos et
al., *SplitNN-driven Vertical Partitioning*, 2020. Local steps: Y. Liu et al., *FedBCD: A Communication-Efficient
Collaborative Learning Framework for Distributed Features*, IEEE Transactions on Signal Processing 70 (2022), algorithm
1 (parallel).

Every party has a network of its own (`vfl.bottom`) with ``units`` outputs h_P = f_P(X_P); z = sum_P h_P + X_A W + b is
the first layer of the active party's network (`vfl.network`). One batch (A active, P every passive party, C
coordinator)::

    P --> A     outputs      h_P of the batch's rows
        A: z, the layers above, the loss L; ``local_steps`` steps, all with the same h_P
    A --> P     gradients    dL/dz of each row, clipped and noisy where the job says so; the same to every P
        P: ``local_steps`` steps, all with the same gradients
      behind every epoch
    P --> A     outputs      of the validation part, without dropout
    A --> P     epoch        whether these weights are the best so far, and whether training goes on
    A --> C     proceed      whether training goes on
    C --> A     kept         C has noted the epoch
      afterwards, for rows to score
    P --> A     scored       h_P

dL/dz is dL/dh_P for every P. With Q > 1 local steps (FedBCD) a batch is exchanged once and used Q times: from the
second step on A has stale outputs, and P a stale gradient.
Which rows are a batch, and what dropout leaves out at P, follows from the job's seed. Every role keeps its state behind
every epoch, and P the best epoch's weights. C carries nothing else in this mode: A waits for its note so that no role
is more than one epoch behind another.

Leakage
-------
active : a passive party's bottom network's outputs for every row, in every epoch; a passive party's bottom network's
    outputs for the scored rows
passive : every row's gradient of the loss by these outputs, which tells of its label; which epochs were the best so
    far, and when training ends
coordinator : sizes and timing; all else passes through it sealed
Gradients tell nearly all labels of a binary task (`vfl.label_inference` tries it on what was sent). Against that stand
``gradient_noise`` (`vfl.gradient_noise` has what its epsilon covers) and ``privacy.label_dp_epsilon``.
Outputs tell A more than they seem to. Of a linear bottom network one epoch gives ``units`` linear views of the columns,
and with as many units as columns the space that these span. Since A knows the gradients that P stepped against, it
learns from how outputs change the products of rows with rows, hence the rows up to a rotation, and with a few rows
known from elsewhere the rows themselves. Hidden layers at P make that harder and prove nothing. Who cannot give its
columns to A takes mode source-layer. Hence no policy allows this mode unless it says so (``embedding_gradients``).
C with A: what A learns. C with P: what P learns. P with P': the same gradients, and the union of their columns.

Threat model
------------
All follow the protocol and are curious. Nothing is encrypted but on its way: whoever A is sees all outputs, and whoever
P is sees all gradients.

>>> [name for name in vars(Wire) if not name.startswith("_")][:3]
['outputs', 'gradients', 'epoch']
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from parties.checkpoint import Snapshot
from parties.errors import DataError, RemoteProtocolError
from parties.link import COORDINATOR, Endpoint, Link
from parties.policy import Guards, Policy, rounding, spend_rows
from parties.wire import Active, Control, Coordinator, Message, Passive, Revealed
from vfl.epochs import Course, Rows, cut_validation, draw_batches, run_epochs
from vfl.events import LabelInference
from vfl.gradient_noise import GradientNoise, epsilon, make_noise, note
from vfl.job import Job
from vfl.label_inference import LabelAttack
from vfl.optim import Vector
from vfl.shard import Arrays, within
from vfl.terms import Integers, Terms
from vfl.torch_parts import seed_of
from vfl.trained import Progress

if TYPE_CHECKING:
    from vfl.bottom import Bottom  # torch takes seconds to import, and mode source-layer reads this table too
    from vfl.network import Network

Facts = Mapping[str, bool | int | float | str | None]

BLOCK = 1 << 20  # values of a message of scored rows
LARGEST = 2.0**60
"""Outputs and gradients beyond it are no numbers to go on with."""


class Wire:
    """Every message of the protocol; nothing else can be sent."""

    outputs = Message(Passive, Active, Revealed, discloses="its bottom network's outputs for every row, in every epoch")
    gradients = Message(
        Active,
        Passive,
        Revealed,
        discloses="every row's gradient of the loss by these outputs, which tells of its label",
    )
    epoch = Message(Active, Passive, Revealed, discloses="which epochs were the best so far, and when training ends")
    proceed = Message(Active, Coordinator, Control)
    kept = Message(Coordinator, Active, Control)
    scored = Message(Passive, Active, Revealed, discloses="its bottom network's outputs for the scored rows")


@dataclass(frozen=True)
class ActiveFit:
    """What the active party has after training, beside the network that it trained in place.

    Parameters
    ----------
    label_inference : tuple of LabelInference
        Of the first epoch and of the one whose gradients told most, where the job asks for the attack.
    gradient_epsilon : float or None
        Of the noise on gradients, at delta `vfl.gradient_noise.DELTA`; None without noise.
    """

    course: Course
    label_inference: tuple[LabelInference, ...] = ()
    gradient_epsilon: float | None = None
    warnings: tuple[str, ...] = ()


def active(
    endpoint: Endpoint,
    terms: Terms,
    network: Network,
    rows: Rows,
    progress: Progress,
    *,
    labels: NDArray[np.generic] | None = None,
) -> ActiveFit:
    """Play the active party: add up outputs, train the layers above, send gradients.

    Parameters
    ----------
    network : Network
        The own part of the first layer and the layers above it, untrained; it is trained in place.
    rows : Rows
        Own columns and labels, the training rows' first and then the validation part's.
    labels : ndarray of shape (n_train,), optional
        True labels of the training rows, 0 or 1, where those in ``rows`` are estimates: the attack is judged by them.
    """
    settings = terms.job.splitnn
    attack = None
    if settings.label_inference:
        truth = np.asarray(rows.y[: rows.n_train] if labels is None else labels)
        attack = LabelAttack(truth > 0.5, settings.units)
    course = run_epochs(terms.job, network, start_source(endpoint, terms, attack), rows, progress, endpoint.keeper)
    noisy = bool(settings.gradient_noise)
    return ActiveFit(
        course,
        attack.outcome() if attack is not None else (),
        epsilon(settings.gradient_noise, course.rounds) if noisy else None,
        (note(settings, course.rounds),) if noisy else (),
    )


@dataclass
class ActiveSource:
    """The first layer as `vfl.epochs` sees it; `start_source` makes one.

    Parameters
    ----------
    epoch : int
        The present one, from 0 on.
    """

    passives: list[Link[Active, Passive]]
    hub: Link[Active, Coordinator]
    units: int
    noise: GradientNoise
    attack: LabelAttack | None
    epoch: int
    _block: int = field(default=-1, init=False)
    _rows: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64), init=False, repr=False)

    def forward(self, rows: Integers, *, training: bool) -> Vector:
        """Outputs of the rows, summed over the passive parties; ``training`` or not, they are sent alike."""
        self._block, self._rows = self._block + 1, rows
        z = np.zeros((len(rows), self.units))
        for link in self.passives:
            z += _read_rows(link.recv(Wire.outputs), self._place(), z.shape, "outputs", link.peer)
        return z

    def backward(self, gradient: Vector) -> None:
        """Send the gradients, as far as the job lets them out."""
        count = len(self._rows)
        gradients = self.noise.release(count * gradient, self.epoch, self._block)
        if self.attack is not None:
            self.attack.watch(self._rows, gradients)
        payload = Revealed(self._place(), _sendable(gradients / count, "gradients"))
        for link in self.passives:
            link.send(Wire.gradients, payload)

    def end_epoch(self, *, best: bool, go_on: bool) -> None:
        """Tell everybody, and wait until the coordinator has noted it."""
        for link in self.passives:
            link.send(Wire.epoch, Revealed({"epoch": self.epoch, "best": best, "go": go_on}, np.zeros(0)))
        self.hub.send(Wire.proceed, Control({"epoch": self.epoch, "go": go_on}))
        if self.hub.recv(Wire.kept).facts != {"epoch": self.epoch}:
            raise RemoteProtocolError(f"{self.hub.peer} noted another epoch than the {self.epoch + 1}. one")
        self.epoch, self._block = self.epoch + 1, -1
        if self.attack is not None:
            self.attack.end_epoch(self.epoch)

    def state(self) -> Arrays:
        """What the attack has found so far; noise follows from what the run has drawn once."""
        return {} if self.attack is None else self.attack.state()

    def _place(self) -> dict[str, bool | int | float | str | None]:
        return {"epoch": self.epoch, "block": self._block}


def start_source(endpoint: Endpoint, terms: Terms, attack: LabelAttack | None = None) -> ActiveSource:
    """The source of a training that begins, or goes on from where ``endpoint.keeper`` says."""
    kept = endpoint.keeper.trained()
    if kept is not None and attack is not None:
        attack.restore(kept)
    return ActiveSource(
        [endpoint.link(Active, Passive, name) for name in terms.job.passive],
        endpoint.link(Active, Coordinator, COORDINATOR),
        terms.job.splitnn.units,
        make_noise(terms.job.splitnn, endpoint.keeper),
        attack,
        endpoint.keeper.rounds,
    )


def passive(endpoint: Endpoint, terms: Terms, bottom: Bottom, X: Vector) -> int:
    """Play a passive party: send outputs, step against gradients; returns how many epochs there were.

    Parameters
    ----------
    bottom : Bottom
        Untrained; it is trained in place, and has the best epoch's weights in the end.
    X : ndarray of shape (n, d), float64
        Own encoded cells, the training rows' first and then the validation part's.
    """
    lead = endpoint.link(Passive, Active, terms.job.active)
    keeper, most = endpoint.keeper, terms.job.splitnn.epochs
    kept, epoch = keeper.trained(), keeper.rounds
    best, go = (bottom.weights(), True) if kept is None else _restore(kept, bottom)
    while go:
        _train(lead, terms, bottom, X, epoch)
        told = lead.recv(Wire.epoch).facts
        is_best, go = _read_best(told, epoch, lead.peer), _read_go(told, epoch, most, lead.peer)
        best, epoch = bottom.weights() if is_best else best, epoch + 1
        state = {f"bottom.{name}": array for name, array in bottom.state().items()}
        keeper.save_round(epoch, {"go": go}, {**state, **{f"best.{name}": array for name, array in best.items()}})
    bottom.load(best)
    return epoch


def _train(lead: Link[Passive, Active], terms: Terms, bottom: Bottom, X: Vector, epoch: int) -> None:
    """A passive party's part of one epoch."""
    job = terms.job
    batches = draw_batches(terms.rows, job.splitnn.batch_size, job.seed, epoch)
    for number, batch in enumerate(batches):
        place = {"epoch": epoch, "block": number}
        outputs = bottom.forward(X[batch], seed=dropout_seed(job, lead.me, epoch, number))
        lead.send(Wire.outputs, Revealed({**place}, _sendable(outputs, "outputs")))
        gradients = _read_rows(lead.recv(Wire.gradients), place, outputs.shape, "gradients", lead.peer)
        bottom.step(gradients, steps=job.splitnn.local_steps)
    validation = cut_validation(terms.rows, terms.validation, job.splitnn.batch_size)
    for number, block in enumerate(validation, len(batches)):
        outputs = _sendable(bottom.forward(X[block]), "outputs")
        lead.send(Wire.outputs, Revealed({"epoch": epoch, "block": number}, outputs))


def dropout_seed(job: Job, party: str, epoch: int, batch: int) -> int:
    """Seed of what dropout leaves out of a party's bottom network in one batch."""
    return seed_of(job.seed, "bottom", party, epoch, batch)


def _restore(kept: Snapshot, bottom: Bottom) -> tuple[Arrays, bool]:
    """Bring a bottom network back; the best epoch's weights, and whether training goes on."""
    bottom.restore(within(kept.arrays, "bottom."))
    return within(kept.arrays, "best."), kept.fact("go", bool)


def coordinator(endpoint: Endpoint, terms: Terms) -> int:
    """Play the coordinator, which notes epochs and nothing else; returns how many there were."""
    lead = endpoint.link(Coordinator, Active, terms.job.active)
    keeper, most = endpoint.keeper, terms.job.splitnn.epochs
    kept, epoch = keeper.trained(), keeper.rounds
    go = True if kept is None else kept.fact("go", bool)
    while go:
        go = _read_go(lead.recv(Wire.proceed).facts, epoch, most, lead.peer)
        keeper.save_round(epoch + 1, {"go": go}, {})
        lead.send(Wire.kept, Control({"epoch": epoch}))
        epoch += 1
    return epoch


def score_as_active(endpoint: Endpoint, terms: Terms, rows: int) -> Vector:
    """Outputs of rows that took no part in training, summed over the passive parties: (rows, units), float64."""
    total = np.zeros((rows, terms.job.splitnn.units))
    links = [endpoint.link(Active, Passive, name) for name in terms.job.passive]
    for number, part in enumerate(_scored_blocks(terms, rows)):
        for link in links:
            total[part] += _read_rows(
                link.recv(Wire.scored), {"block": number}, total[part].shape, "outputs", link.peer
            )
    return total


def score_as_passive(
    endpoint: Endpoint, terms: Terms, bottom: Bottom, X: Vector, guards: Guards, policy: Policy
) -> None:
    """Send this party's outputs, once they are counted; ``X`` are its encoded cells of the rows to be scored.

    Raises
    ------
    PolicyError
        More rows than ``scored_rows`` of the policy allows, and guards are enforced; nothing was sent.
    """
    outputs = _sendable(bottom.forward(X), "outputs")
    if policy.score_bits is not None and guards.heed(rounding(policy, party=endpoint.name)):
        outputs = np.ldexp(np.rint(np.ldexp(outputs, policy.score_bits)), -policy.score_bits)
    if len(X):
        spend_rows(guards, policy, party=endpoint.name, rows=len(X), content=[outputs.tobytes()])
    lead = endpoint.link(Passive, Active, terms.job.active)
    for number, part in enumerate(_scored_blocks(terms, len(X))):
        lead.send(Wire.scored, Revealed({"block": number}, outputs[part]))


def _scored_blocks(terms: Terms, rows: int) -> Sequence[slice]:
    """Rows to score, in messages of a bounded size."""
    size = max(BLOCK // terms.job.splitnn.units, 1)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _sendable(values: Vector, what: str) -> Vector:
    """Numbers that a peer takes."""
    if not np.abs(values).max(initial=0.0) <= LARGEST:
        raise DataError(
            f"training diverged: {what} are no longer numbers of a sensible size, expected losses that fall; lower "
            "training.learning_rate"
        )
    return values


def _read_rows(payload: Revealed, place: Facts, shape: tuple[int, ...], what: str, sender: str) -> Vector:
    """A row of numbers for each row of a block, checked."""
    if payload.facts != place:
        raise RemoteProtocolError(f"{sender} sent {what} of another block than the one that is due")
    values = payload.values
    if values.shape != shape:
        raise RemoteProtocolError(f"{sender} sent {what} of shape {values.shape}, expected {shape}")
    if not np.abs(values).max(initial=0.0) <= LARGEST:
        raise RemoteProtocolError(f"{sender} sent {what} that are no numbers, or beyond {LARGEST:g}")
    return values


def _read_best(facts: Facts, epoch: int, sender: str) -> bool:
    """Whether an epoch was the best so far, as the first one is."""
    best = facts.get("best")
    if type(best) is not bool or not (best or epoch):
        raise RemoteProtocolError(f"{sender} ended epoch {epoch + 1} without saying whether it was the best so far")
    return best


def _read_go(facts: Facts, epoch: int, most: int, sender: str) -> bool:
    """Whether another epoch follows this one, of ``most`` at most."""
    go = facts.get("go")
    if facts.get("epoch") != epoch or type(go) is not bool:
        raise RemoteProtocolError(f"{sender} did not end epoch {epoch + 1} by saying whether another one follows")
    if go and epoch + 1 == most:
        raise RemoteProtocolError(f"{sender} goes on beyond the job's {most} epochs")
    return go
