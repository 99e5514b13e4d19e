"""Silos of one holder train a model together: each has all columns and labels of its own rows, and keeps them.

Source: B. McMahan et al., *Communication-Efficient Learning of Deep Networks from Decentralized Data*, AISTATS 2017,
algorithm 1 (``fedavg``; with one gradient of all rows in the place of local epochs ``fedsgd``); S. Reddi et al.,
*Adaptive Federated Optimization*, ICLR 2021 (the server's step); K. Bonawitz et al., CCS 2017 (the sums)::

    silo s                                     coordinator
      begun  layers, rows; the first    ----->   all the same, else the run ends
             silo: the first weights
      -- every sum --
      asked  task, joint weights        <-----   draws the silos of the round
      its own vector                    =====>   secure sum (vfl.secure_sum): head and
        gradients of all rows, of a              sum over the silos that answered
        batch, noisy ones; or
        rule's weight * (new weights             a step: L-BFGS, the network's or the
        after local epochs - joint ones)         server's optimizer, the mean by layer
      -- at the end --
      asked  the losses and the model   <-----

The head of a vector: whether the silo's numbers left their range, its sum of losses, its sum of sample weights, and its
weight in every rule in use. With differential privacy losses are not told.

``fedsgd`` is exact: the sums of the silos' gradients are those of the pooled rows but for rounding at 2^-72, whatever
the order in which silos answer, so that a GLM has the pooled optimum and a network the pooled steps. Every role keeps a
checkpoint per round; a resumed run goes on bit for bit.

A silo that is lost, late or malformed ends the run, or with ``min_silos`` is left out: of the round, and of all that
follow if it is lost or malformed, or if L-BFGS runs, which needs the same rows throughout. Nothing is added up twice at
the same weights with other silos: the coordinator keeps who was in a sum before it opens it, and a run that goes on
from an earlier round adds up the same silos again, and takes others back behind that only.

Leakage
-------
coordinator : names and shapes of the model's layers, training rows of all silos; the joint model of every round; sums
    over the silos that answered in a round: what they add up (losses, rows and their weights, gradients or changes of
    weights); who was left out of a round
silos : the joint model of every round, and the losses; who was left out of a round
All learn the joint model, as they are meant to: what it says about its training rows is limited by differential privacy
alone (privacy.dp). With two silos each can take its own part out of a round's step, and has the other's. Where a silo
is left out, the sums before and after differ by its part and by the step between.

Threat model
------------
Silos and coordinator follow the protocol and may pool what they see; `vfl.secure_sum` has what a coordinator cannot do
though it lies. A silo answers no task that its job does not provide for: no other work, no rounds beyond the job's, no
sum twice, and no other group than the job draws, or with ``min_silos``, where it cannot know who is there, no smaller
one. A silo that lies about its update can spoil the joint model; that is not found out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from parties.checkpoint import Arrays, Fact
from parties.errors import PeerLost, RemoteProtocolError
from parties.link import COORDINATOR, Endpoint
from parties.wire import Coordinator, DataParty, Message, Revealed
from vfl.aggregation import count_needed, least_silos
from vfl.attendance import Attendance, attendance
from vfl.events import LeftOut
from vfl.horizontal_rounds import Course, fit
from vfl.horizontal_tasks import (
    Layout,
    Outcome,
    Task,
    Work,
    contribution,
    count_of,
    drawn,
    layout_of,
    read_layout,
    read_outcome,
    read_task,
    send_task,
    work_of,
)
from vfl.job import Job
from vfl.local_models import LocalModel
from vfl.optim import Vector
from vfl.secure_sum import collect, contribute, contributor
from vfl.trained import Progress


class Wire:
    """Messages beside those of `vfl.secure_sum.Wire`."""

    begun = Message(
        DataParty,
        Coordinator,
        Revealed,
        discloses="names and shapes of the model's layers, training rows of all silos",
    )
    asked = Message(
        Coordinator,
        DataParty,
        Revealed,
        discloses="the joint model of every round, and the losses",
    )


@dataclass(frozen=True)
class Averaged:
    """A role's result of the training.

    Parameters
    ----------
    weights : list of ndarray
        The joint model's arrays; the same at all roles.
    losses : tuple of float
        Mean loss with penalty: the start, then one per round; none with differential privacy.
    left_out : tuple of LeftOut
        Known to the coordinator.
    """

    weights: list[Vector] = field(repr=False)
    losses: tuple[float, ...]
    rounds: int
    converged: bool
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[str, ...] = ()


def silo(
    endpoint: Endpoint,
    job: Job,
    model: LocalModel,
    *,
    total_rows: int,
    before: int,
    declared: float | None,
    progress: Progress,
) -> Averaged:
    """A silo's part.

    Parameters
    ----------
    total_rows, before : int
        Training rows of all silos, and of those before this one in job order.
    declared : float or None
        The silo's weight where the rule is ``weighted``; none: that of its rows.

    Raises
    ------
    RemoteProtocolError
        The coordinator asks for something that the job does not provide for.
    """
    link = endpoint.link(DataParty, Coordinator, COORDINATOR)
    layout = layout_of(model, total_rows)
    first = layout.flat(model.start()) if endpoint.name == job.labelled[0] else np.zeros(0)
    side, done, last = contributor(endpoint, job.labelled), endpoint.keeper.rounds, Task(0, 0, 0, work_of(job))
    link.send(Wire.begun, Revealed(layout.to_facts(), first))
    while True:
        told = link.recv(Wire.asked)
        last = task = read_task(told, job, layout, last, endpoint.name)
        if task.done > done:
            done = task.done
            endpoint.keeper.save_round(done, {}, {})
            progress(done, task.loss)
        if task.over:
            break
        if endpoint.name in task.group:
            needed = count_needed(job.averaging, len(task.group))
            own = partial(contribution, job, layout, task, told.values, model, begin=before, declared=declared)
            contribute(side, task.number, task.group, needed, own)
    losses, weights = np.split(told.values, [len(told.values) - layout.size])
    return Averaged(layout.split(weights), tuple(losses.tolist()), done, task.converged)


def coordinator(endpoint: Endpoint, job: Job, progress: Progress) -> Averaged:
    """The coordinator's part.

    Raises
    ------
    PeerLost
        Fewer silos are left than the job needs; the text names those that are not.
    RemoteProtocolError
        A silo's messages are malformed, and all silos are needed.
    DataError
        The training diverges.
    """
    there = attendance(endpoint, job)
    layout, first = _hear_of_layers(there)
    there.tolerate(least_silos(job))
    kept = endpoint.keeper.trained()
    server = _Server(endpoint, job, layout, there, progress)
    if kept is not None:
        server.number, server.answered = kept.fact("number", int), kept.fact("answered", tuple[str, ...])
        there.left_out = kept.fact("left out", list[LeftOut])
    course = fit(job, layout, first, server.ask, kept, server.save)
    server.end(there.present(), course)
    server.end(there.close(), course)
    return Averaged(
        layout.split(course.weights), tuple(course.losses), course.done, course.converged, tuple(there.left_out)
    )


def _hear_of_layers(there: Attendance) -> tuple[Layout, Vector]:
    """The model's layers and first weights, of which every silo has to say the same."""
    told = {name: link.recv(Wire.begun) for name, link in there.links.items()}
    lead = next(iter(told))
    layout = read_layout(told[lead].facts, lead)
    for name, payload in told.items():
        size = layout.size if name == lead else 0
        if read_layout(payload.facts, name) != layout or payload.values.shape != (size,):
            raise RemoteProtocolError(f"{name} begins with other layers or rows than {lead}")
    if not np.isfinite(told[lead].values).all():
        raise RemoteProtocolError(f"{lead} begins with weights that are not finite")
    return layout, told[lead].values


@dataclass
class _Server:
    """What the coordinator's sums come from and are kept with."""

    endpoint: Endpoint
    job: Job
    layout: Layout
    there: Attendance
    progress: Progress
    number: int = 0
    answered: tuple[str, ...] = ()

    def ask(self, work: Work, weights: Vector, course: Course, batch: int = 0) -> Outcome:
        """One sum at some weights, over silos drawn for it."""
        self.number += 1
        at = self.there.round_number = course.done if work == "loss" else course.done + 1
        present = self.there.present()
        loss = course.losses[-1] if course.losses else None
        task = Task(self.number, at, course.done, work, loss, batch=batch)
        task = replace(task, group=self._asked(self._group(task, present), present))
        for name in present:
            values = weights if name in task.group else np.zeros(0)
            self.there.send(name, Wire.asked, send_task(task, values, self.job.labelled))
        needed = count_needed(self.job.averaging, len(task.group))
        count = count_of(self.job, self.layout, work)
        total = collect(self.there, self.number, task.group, needed, count, self._settle)
        self.answered = total.answered
        return read_outcome(self.job, self.layout, work, total)

    def _group(self, task: Task, present: Sequence[str]) -> tuple[str, ...]:
        """Who takes part; L-BFGS goes on without a silo that was ever left out."""
        gone = {each.silo for each in self.there.left_out} if task.work == "descent" else set()
        group = drawn(self.job, task, [name for name in present if name not in gone])
        least = least_silos(self.job)
        if len(group) < least:
            missing = ", ".join(name for name in self.job.labelled if name not in group)
            raise PeerLost(
                f"round {self.there.round_number} of averaging can ask {len(group)} silos and needs {least}: without "
                f"{missing}; look at their logs, or lower training.min_silos"
            )
        return tuple(group)

    def _asked(self, group: Sequence[str], present: Sequence[str]) -> tuple[str, ...]:
        """Who is asked for a sum: where it is played again those of the first time, who must be there."""
        first = self._first_time("asked", group)
        self._need(first, present)
        return first

    def _settle(self, answered: Sequence[str]) -> tuple[str, ...]:
        """Who is in a sum: where it was opened before just the same, since the difference would be a silo's part."""
        first = self._first_time("answered", answered)
        self._need(first, answered)
        for name in answered:
            if name not in first:
                self.there.note(name, "late")
        return first

    def _need(self, first: Sequence[str], there: Sequence[str]) -> None:
        if missing := [name for name in first if name not in there]:
            raise PeerLost(
                f"round {self.there.round_number} of averaging is played again and needs the silos that it had the "
                f"first time: without {', '.join(missing)}; go on when they are back, or start a new run"
            )

    def _first_time(self, what: str, names: Sequence[str]) -> tuple[str, ...]:
        """The names that were kept for this sum when it was first played; now, if that is now."""
        if self.job.averaging.min_silos is None:  # it is always the same ones
            return tuple(names)
        silos = self.job.labelled
        places = np.array([silos.index(name) for name in names], np.int64)
        kept = self.endpoint.keeper.once(f"sum {self.number} {what}", lambda: {"places": places})
        return tuple(silos[place] for place in kept["places"].tolist())

    def save(self, course: Course, arrays: Arrays) -> None:
        """Keep a round that is done."""
        left_out: list[Fact] = [{"silo": e.silo, "round": e.round, "why": e.why} for e in self.there.left_out]
        facts: dict[str, Fact] = {"number": self.number, "answered": list(self.answered), "left out": left_out}
        kept = {"weights": course.weights, "losses": np.array(course.losses)}
        self.endpoint.keeper.save_round(course.done, facts, {**arrays, **kept})
        self.progress(course.done, course.losses[-1] if course.losses else None)

    def end(self, names: Iterable[str], course: Course) -> None:
        """Tell silos the losses and the model."""
        loss = course.losses[-1] if course.losses else None
        at = max(course.done, 1)
        task = Task(self.number + 1, at, course.done, work_of(self.job), loss, over=True, converged=course.converged)
        values = np.concatenate([course.losses, course.weights])
        for name in names:
            self.there.send(name, Wire.asked, send_task(task, values, self.job.labelled))
