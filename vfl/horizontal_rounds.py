"""What the coordinator does with the sums of silos that average a model: its three ways from the first weights on.

descent : a GLM's gradients of all rows, by L-BFGS to the optimum (`vfl.summed_descent`)
epochs : a network's gradients batch by batch, each a step of the job's optimizer
rounds : one sum per round: noisy gradients, gradients for a server's optimizer, or mean changes of weights

No messages: an `Ask` is where a sum comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from parties.checkpoint import Arrays, Snapshot
from parties.errors import DataError
from vfl.aggregation import ServerState, server_step
from vfl.horizontal_tasks import Layout, Outcome, Work, batches, work_of
from vfl.job import Job
from vfl.network_steps import StepState, network_step
from vfl.optim import Vector, dot
from vfl.summed_descent import Point, Way, descend, is_flat, is_over, restore_way

_STALLED = 3


class Ask(Protocol):
    """One sum over silos at some weights, in a round; ``course``: what is done before."""

    def __call__(self, work: Work, weights: Vector, course: Course, batch: int = 0) -> Outcome: ...  # noqa: D102


@dataclass
class Course:
    """How far the training is.

    Parameters
    ----------
    losses : list of float
        Mean loss with penalty; none with differential privacy, under which it would have to be noisy, too.
    """

    weights: Vector = field(repr=False)
    done: int = 0
    losses: list[float] = field(default_factory=list)
    converged: bool = False


Save = Callable[[Course, Arrays], None]
"""Keeps what a way goes on from after a round."""


def fit(job: Job, layout: Layout, first: Vector, ask: Ask, kept: Snapshot | None, save: Save) -> Course:
    """Train from the first weights, or go on from what was kept.

    Raises
    ------
    DataError
        The training diverges.
    """
    course = Course(first)
    if kept is not None:
        course = Course(kept.floats("weights"), kept.step - 1, kept.floats("losses").tolist())
    work = work_of(job)
    if work == "descent":
        return _descend(job, layout, course, ask, kept, save)
    if work == "batch":
        return _epochs(job, layout, course, ask, kept, save)
    return _rounds(job, layout, course, ask, kept, save)


def _descend(job: Job, layout: Layout, course: Course, ask: Ask, kept: Snapshot | None, save: Save) -> Course:
    """L-BFGS; every iteration is a round."""

    def evaluate(weights: Vector) -> Point:
        found = ask("descent", weights, course)
        if found.over:
            return Point(weights, math.inf, np.zeros_like(weights), found.answered)
        return Point(weights, _loss(layout, weights, found), _gradient(layout, weights, found), found.answered)

    if kept is None:
        way = Way(evaluate(course.weights))
        course.losses.append(way.at.loss)
        if not math.isfinite(way.at.loss):
            raise _diverged(course.done + 1)
    else:
        answered = kept.fact("answered", tuple[str, ...])
        at = Point(course.weights, course.losses[-1], kept.floats("gradient"), answered)
        way = restore_way(at, kept.floats("steps"), kept.floats("changes"))
    while course.done < job.training.max_iter and not course.converged:
        direction, slope = way.direction()
        course.converged = is_over(way, slope, job.training.tol)
        new = None if course.converged else descend(way, direction, slope, evaluate)
        if new is None:
            course.converged = course.converged or is_flat(way, slope)
            break
        way = new
        course.weights, course.done = way.at.weights, course.done + 1
        course.losses.append(way.at.loss)
        save(course, way.arrays())
    course.converged = course.converged or is_over(way, way.direction()[1], job.training.tol)
    return course


def _epochs(job: Job, layout: Layout, course: Course, ask: Ask, kept: Snapshot | None, save: Save) -> Course:
    """Batches of all silos' rows, as one place would draw them; every epoch is a round."""
    state = _restore_steps(layout, kept)
    while course.done < job.splitnn.epochs:
        total = 0.0
        for batch in range(batches(job, layout)):
            found = ask("batch", course.weights, course, batch)
            if found.over:
                raise _diverged(course.done + 1)
            if not found.weight:  # all its rows are in silos that are left out
                continue
            if not course.losses:
                course.losses.append(found.loss / found.weight)
            total += found.loss
            gradient = layout.split(found.sums / found.weight)
            stepped, state = network_step(job.splitnn, layout.split(course.weights), gradient, state)
            course.weights = layout.flat(stepped)
        course.losses.append(total / layout.rows)
        course.done += 1
        save(course, _step_arrays(layout, state))
    course.converged = True
    return course


def _rounds(job: Job, layout: Layout, course: Course, ask: Ask, kept: Snapshot | None, save: Save) -> Course:
    """One sum and one step of the server per round."""
    work, noisy = work_of(job), job.privacy.dp != "none"
    state, steps = _restore_server(layout, kept), _restore_steps(layout, kept)
    by_network = work == "noisy" and job.model == "splitnn" and job.averaging.server_optimizer == "average"
    while course.done < job.max_rounds and not _stalls(job, course.losses):
        found = ask(work, course.weights, course)
        if found.over:
            raise _diverged(course.done + 1)
        if not noisy:
            course.losses.append(_loss(layout, course.weights, found))
        weights = layout.split(course.weights)
        if by_network:
            gradient = layout.split(_gradient(layout, course.weights, found))
            stepped, steps = network_step(job.splitnn, weights, gradient, steps)
        else:
            update = found.sums
            if work != "train":
                update = -_learning_rate(job) * _gradient(layout, course.weights, found)
            stepped, state = server_step(job.averaging, weights, layout.split(update), state)
        course.weights, course.done = layout.flat(stepped), course.done + 1
        save(course, _step_arrays(layout, steps) | _server_arrays(layout, state))
    course.converged = noisy or job.model == "splitnn" or _stalls(job, course.losses)
    if not noisy:
        found = ask("loss", course.weights, course)
        if found.over:
            raise _diverged(course.done)
        course.losses.append(_loss(layout, course.weights, found))
    return course


def _stalls(job: Job, losses: list[float]) -> bool:
    """Whether a GLM's loss has hardly changed for three rounds."""
    if job.model == "splitnn" or len(losses) <= _STALLED:
        return False
    last = losses[-1 - _STALLED :]
    return all(abs(b - a) < job.training.tol * max(1.0, abs(b)) for a, b in zip(last, last[1:], strict=False))


def _learning_rate(job: Job) -> float:
    return job.splitnn.learning_rate if job.model == "splitnn" else job.training.learning_rate


def _loss(layout: Layout, weights: Vector, found: Outcome) -> float:
    """Mean loss with the penalty."""
    return found.loss / found.weight + dot(layout.penalties(weights), weights) / 2


def _gradient(layout: Layout, weights: Vector, found: Outcome) -> Vector:
    """Mean gradient with the penalty's."""
    return np.asarray(found.sums / found.weight + layout.penalties(weights))


def _diverged(round_number: int) -> DataError:
    return DataError(
        f"training diverged in round {round_number}: a silo's numbers are no longer finite or below 2^40, expected "
        "losses that fall; lower training.learning_rate or training.server_learning_rate, or raise training.l2"
    )


def _step_arrays(layout: Layout, state: StepState) -> dict[str, NDArray[np.generic]]:
    return {"steps taken": np.array([state.steps], np.int64)} | _moments(layout, "step", state.first, state.second)


def _restore_steps(layout: Layout, kept: Snapshot | None) -> StepState:
    if kept is None:
        return StepState()
    return StepState(int(kept.integers("steps taken")[0]), *(_arrays_of(layout, kept, f"step {i}") for i in range(2)))


def _server_arrays(layout: Layout, state: ServerState) -> dict[str, NDArray[np.generic]]:
    return _moments(layout, "server", state.first, state.second)


def _restore_server(layout: Layout, kept: Snapshot | None) -> ServerState:
    if kept is None:
        return ServerState()
    return ServerState(*(_arrays_of(layout, kept, f"server {i}") for i in range(2)))


def _moments(layout: Layout, name: str, *moments: Sequence[Vector]) -> dict[str, NDArray[np.generic]]:
    """What an optimizer remembers of the arrays, as vectors; empty where that is nothing."""
    return {f"{name} {i}": layout.flat(each) if each else np.zeros(0) for i, each in enumerate(moments)}


def _arrays_of(layout: Layout, kept: Snapshot, name: str) -> tuple[Vector, ...]:
    flat = kept.floats(name)
    return tuple(layout.split(flat)) if len(flat) else ()
