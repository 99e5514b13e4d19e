"""What the coordinator asks of silos that average a model, what they add up for it, and how both travel.

`vfl.horizontal` has the protocol. Here are the arrays of a model as one vector, a task as plain facts, and the head of
the vectors that are added up: out of range, loss, weight, then each rule's weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from typing import Literal

import msgspec
import numpy as np

from parties.errors import RemoteProtocolError
from parties.link import COORDINATOR
from parties.wire import Revealed
from vfl.aggregation import draw_silos, rules_by_layer
from vfl.epochs import draw_batches
from vfl.job import Job, Rule
from vfl.local_models import LocalModel
from vfl.optim import Vector
from vfl.secure_sum import LIMIT, Sum
from vfl.summed_descent import TRIALS
from vfl.terms import Integers

Work = Literal["descent", "step", "noisy", "batch", "train", "loss"]
"""What a silo computes: gradients of all its rows (descent, step), of a batch, noisy ones, new weights, its loss."""

_HEAD = 3
_MOST_LAYERS = 4096


@dataclass(frozen=True)
class Layout:
    """The arrays of a model, and how many rows all silos train on.

    Parameters
    ----------
    penalty : tuple of float
        Of each array: weight of ||w||^2 / 2 beside the mean loss.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    penalty: tuple[float, ...]
    rows: int

    @property
    def size(self) -> int:
        """Numbers of all arrays."""
        return sum(math.prod(shape) for shape in self.shapes)

    def flat(self, arrays: Sequence[Vector]) -> Vector:
        """All arrays as one vector."""
        return np.concatenate([np.asarray(array, dtype=np.float64).ravel() for array in arrays])

    def split(self, flat: Vector) -> list[Vector]:
        """The arrays of such a vector."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        return [part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), self.shapes, strict=True)]

    def penalties(self, flat: Vector) -> Vector:
        """The penalty's gradient."""
        return self.flat([p * array for p, array in zip(self.penalty, self.split(flat), strict=True)])

    def to_facts(self) -> dict[str, bool | int | float | str | None]:
        """As plain facts."""
        facts: dict[str, bool | int | float | str | None] = {"rows": self.rows, "layers": len(self.names)}
        for number, (name, shape, penalty) in enumerate(zip(self.names, self.shapes, self.penalty, strict=True)):
            facts |= {f"name {number}": name, f"shape {number}": ",".join(map(str, shape))}
            facts[f"penalty {number}"] = float(penalty)
        return facts


def layout_of(model: LocalModel, total_rows: int) -> Layout:
    """The arrays of a silo's model."""
    return Layout(model.names, tuple(array.shape for array in model.start()), tuple(model.penalty), total_rows)


def read_layout(facts: Mapping[str, object], sender: str) -> Layout:
    """What `Layout.to_facts` gave."""
    count = facts.get("layers")
    try:
        if type(count) is not int or not 0 < count <= _MOST_LAYERS or len(facts) != 2 + 3 * count:
            raise ValueError
        shapes = [str(facts[f"shape {i}"]).split(",") for i in range(count)]
        found = Layout(
            tuple(msgspec.convert(facts[f"name {i}"], str) for i in range(count)),
            tuple(tuple(int(text) for text in shape if text) for shape in shapes),
            tuple(msgspec.convert(facts[f"penalty {i}"], float) for i in range(count)),
            msgspec.convert(facts["rows"], int),
        )
    except (KeyError, ValueError, msgspec.ValidationError):
        found = Layout((), (), (), 0)
    sizes = [size for shape in found.shapes for size in shape]
    fair = all(0 < size < 2**32 for size in sizes) and all(0 <= p < math.inf for p in found.penalty)
    if not found.names or found.rows < 1 or not fair or len(set(found.names)) != len(found.names):
        raise RemoteProtocolError(f"{sender} sent no proper description of a model's layers")
    return found


@dataclass(frozen=True)
class Task:
    """What the coordinator asks for next; the same at all silos, but who is not in the group gets no weights.

    Parameters
    ----------
    number : int
        Of the sum, one more each time.
    round_number : int
        Of the round that is played, from 1 on.
    done : int
        Rounds that are done; all roles keep a checkpoint of the last one.
    loss : float or None
        That the last round done has told.
    group : tuple of str
        Silos whose vectors are added up.
    batch : int
        Work "batch": its number within the epoch.
    over : bool
        Nothing is asked for: the weights are the model's, behind the losses of all rounds.
    """

    number: int
    round_number: int
    done: int
    work: Work
    loss: float | None = None
    group: tuple[str, ...] = field(default=(), repr=False)
    batch: int = 0
    over: bool = False
    converged: bool = False


def send_task(task: Task, values: Vector, names: Sequence[str]) -> Revealed:
    """As a message; silos are numbered in job order."""
    group = ",".join(str(place) for place, name in enumerate(names) if name in task.group)
    return Revealed(asdict(task) | {"group": group}, values)


def read_task(payload: Revealed, job: Job, layout: Layout, last: Task, me: str) -> Task:
    """A task for this silo that the job provides for, and that follows the last one."""
    names, facts = job.labelled, dict(payload.facts)
    try:
        places = [int(text) for text in str(facts.pop("group")).split(",") if text]
        task = msgspec.convert({**facts, "group": [names[place] for place in places]}, Task)
    except (KeyError, IndexError, ValueError, msgspec.ValidationError):
        raise RemoteProtocolError(f"{COORDINATOR} sent no proper task") from None
    wrong = (
        set(facts) != {each.name for each in fields(Task)} - {"group"}
        or places != sorted(set(places))
        or min(places, default=0) < 0
        or not _is_fair(job, task, names)
        or task.work not in works_of(job)
        or task.number <= last.number
        or not max(last.round_number, 1) <= task.round_number <= job.max_rounds
        or not task.round_number - 1 <= task.done <= task.round_number
        or task.number > most_sums(job, layout) * task.round_number + 2
        or not 0 <= task.batch < max(1, batches(job, layout))
        or (_is_one_of_a_kind(job, layout, task) and (task.round_number, task.work) == (last.round_number, last.work))
        or not np.isfinite(payload.values).all()
    )
    if wrong:
        raise RemoteProtocolError(f"{COORDINATOR} asks for what the job does not provide for at this point")
    least = layout.size if task.over or me in task.group else 0
    if not least <= len(payload.values) <= least + (job.max_rounds + 1 if task.over else 0):
        raise RemoteProtocolError(f"{COORDINATOR} sent {len(payload.values)} weights, expected {least}")
    return task


def drawn(job: Job, task: Task, there: Sequence[str]) -> list[str]:
    """Silos that a sum is over, of those that are there: all, or by round (work "batch": by sum) as the job draws."""
    if task.work == "descent":
        return list(there)
    return draw_silos(there, job.averaging, job.seed, task.number if task.work == "batch" else task.round_number)


def _is_fair(job: Job, task: Task, names: Sequence[str]) -> bool:
    """Whether a group is one that the job can draw: where all silos are needed there is only one."""
    if job.averaging.min_silos is None:
        return task.over or list(task.group) == drawn(job, task, names)
    return not task.group or len(task.group) >= job.averaging.min_silos


def _is_one_of_a_kind(job: Job, layout: Layout, task: Task) -> bool:
    """Whether a round has no second sum of this work, at other weights or over other silos."""
    return not task.over and (task.work == "loss" or most_sums(job, layout) == 1)


def work_of(job: Job) -> Work:
    """What every round of a job is made of.

    descent : a GLM's fedsgd, L-BFGS on all rows
    step : steps of the server's optimizer on the gradients of all rows
    noisy : the same on noisy gradients
    batch : a network's fedsgd: an epoch of batches of all silos' rows
    train : local epochs, whose weights are averaged
    """
    settings = job.averaging
    if settings.aggregation != "fedsgd":
        return "train"
    if job.privacy.dp != "none":
        return "noisy"
    if job.model == "splitnn":
        return "batch"
    return "descent" if settings.server_optimizer == "average" and settings.client_fraction == 1 else "step"


def works_of(job: Job) -> tuple[Work, ...]:
    """What silos can be asked for: without differential privacy also for the loss at the end."""
    return (work_of(job),) if job.privacy.dp != "none" else (work_of(job), "loss")


def batches(job: Job, layout: Layout) -> int:
    """Batches of an epoch of a network's fedsgd; else 0."""
    return -(-layout.rows // job.splitnn.batch_size) if work_of(job) == "batch" else 0


def most_sums(job: Job, layout: Layout) -> int:
    """The most sums that a round takes."""
    return {"descent": TRIALS + 1, "batch": batches(job, layout)}.get(work_of(job), 1)


@lru_cache(maxsize=1)
def _batches_of(rows: int, size: int, seed: int, epoch: int) -> list[Integers]:
    return draw_batches(rows, size, seed, epoch)


def own_batch(job: Job, layout: Layout, task: Task, begin: int, rows: int) -> Integers:
    """A silo's own rows in a batch of all silos' rows; ``begin``: rows of the silos before it in job order."""
    drawn = _batches_of(layout.rows, job.splitnn.batch_size, job.seed, task.round_number - 1)[task.batch]
    return drawn[(drawn >= begin) & (drawn < begin + rows)] - begin


def rules_in_use(job: Job, layout: Layout, work: Work) -> dict[Rule, int]:
    """The rules of a job's layers, each with its place in the vectors that are added up."""
    rules = rules_by_layer(layout.names, job.averaging) if work == "train" else []
    return {rule: _HEAD + place for place, rule in enumerate(dict.fromkeys(rules))}


def count_of(job: Job, layout: Layout, work: Work) -> int:
    """Numbers that are added up."""
    return _HEAD + len(rules_in_use(job, layout, work)) + (0 if work == "loss" else layout.size)


def contribution(
    job: Job,
    layout: Layout,
    task: Task,
    weights: Vector,
    model: LocalModel,
    *,
    begin: int,
    declared: float | None,
) -> Vector:
    """What a silo adds: head and, by its work, gradients or changes of its weights.

    Where any of it leaves the range of the words that are added up, the silo says so and no more.
    """
    arrays = layout.split(weights)
    rules = rules_in_use(job, layout, task.work)
    head = np.zeros(_HEAD + len(rules))
    head[2] = model.weight
    if task.work == "batch":
        rows = own_batch(job, layout, task, begin, model.rows)
        head[2] = len(rows)
        head[1], sums = model.gradient(arrays, rows)
    elif task.work == "noisy":
        head[1], sums = model.noisy_gradient(arrays, task.round_number)
    elif task.work == "train":
        head[1], trained = model.train(arrays, task.round_number)
        counts: dict[Rule, float] = {"fedavg": model.weight, "simple": 1.0, "weighted": declared or model.weight}
        for rule, place in rules.items():
            head[place] = counts[rule]
        by_layer = rules_by_layer(layout.names, job.averaging)
        sums = [counts[rule] * (after - before) for rule, after, before in zip(by_layer, trained, arrays, strict=True)]
    else:
        head[1], sums = model.gradient(arrays, None)
    if job.privacy.dp != "none":
        head[1] = 0.0
    found = np.concatenate([head, layout.flat(sums)])[: count_of(job, layout, task.work)]
    if not (np.abs(found) < LIMIT).all():
        found = np.zeros(len(found))
        found[0] = 1.0
    return found


@dataclass(frozen=True)
class Outcome:
    """What the coordinator reads off a sum.

    Parameters
    ----------
    loss, weight : float
        Sums over the silos that answered; work "batch": of the batch's rows, whose number is ``weight``.
    sums : ndarray of shape (size,)
        Gradients; work "train": by layer, the mean change of the weights.
    over : bool
        A silo's numbers have left their range; all others are of no use then.
    """

    loss: float
    weight: float
    sums: Vector = field(repr=False)
    answered: tuple[str, ...]
    over: bool


def read_outcome(job: Job, layout: Layout, work: Work, total: Sum) -> Outcome:
    """Take a sum apart; changes of weights are divided by their rules' weights.

    Raises
    ------
    RemoteProtocolError
        The head is not one that honest silos add up to.
    """
    rules = rules_in_use(job, layout, work)
    over, loss, weight = total.values[:_HEAD].tolist()
    weights = [weight, *total.values[list(rules.values())].tolist()]
    known = over in range(len(total.answered) + 1)
    if not known or (not over and min(weights) <= 0 and not (work == "batch" and weight == 0)):
        raise RemoteProtocolError(
            f"the sum of {', '.join(total.answered)} has no weight above 0, or a head that cannot be: one of them "
            "spoils it, or no row of theirs has a sample weight"
        )
    sums = total.values[_HEAD + len(rules) :]
    if rules and not over:
        by_layer = rules_by_layer(layout.names, job.averaging)
        parts = [part / total.values[rules[rule]] for part, rule in zip(layout.split(sums), by_layer, strict=True)]
        sums = layout.flat(parts)
    return Outcome(loss, weight, sums, total.answered, over > 0)
