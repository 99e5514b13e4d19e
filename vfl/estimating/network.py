"""What the layers above the first one take at the active party, whatever computes the first one; epochs and batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from parties.link import COORDINATOR
from parties.wire import Active, Control, Coordinator, Message, Passive, Revealed
from vfl.epochs import draw_batches
from vfl.estimating.account import Account, Sending, Stage, Trained
from vfl.estimating.survey import Survey
from vfl.source_layer import LayerPlan
from vfl.splitnn_part import rows_of

ASSUMED = "the parties' networks: a step on a batch, timed here with PyTorch on one thread, stands for all steps"

_ALONE = 200  # epochs booked one by one, each number of a message as long as it will be; the others are like the last
_REPEATS = 5

Repeated = tuple[int, Sequence[Stage]]
"""How often stages follow each other, and the stages."""


@dataclass(frozen=True, slots=True)
class NetworkTimes:
    """CPU seconds of the active party's layers.

    Attributes
    ----------
    importing : float
        To import torch; nothing where this process has done so before.
    begin : float
        The same, and to make the network.
    step, loss : dict of rows to float
        A step on so many training rows; the loss of so many rows of the validation part.
    plain : dict of rows to float
        The first layer of so many training rows, forward and backward, with all columns in one place.
    """

    importing: float
    begin: float
    step: dict[int, float]
    loss: dict[int, float]
    plain: dict[int, float]


def time_network(survey: Survey) -> NetworkTimes:
    """Take steps with the columns of the active party, on a network that is thrown away."""
    start = time.thread_time()
    from vfl.network import make_network

    importing = time.thread_time() - start
    job, terms, parts = survey.job, survey.terms, survey.parts
    own, settings = survey.networks[job.active], job.splitnn
    rows = rows_of(survey.data[job.active], terms, own, survey.keeper)
    fitted = slice(0, parts.train)
    weights = None if rows.weights is None else rows.weights[fitted]
    network = make_network(job, own.X.shape[1], terms.outputs, rows.y[fitted], weights=weights)
    begin = time.thread_time() - start
    drawn = draw_batches(parts.train, settings.batch_size, job.seed, 0)[0]
    step, loss, plain = {}, {}, {}
    for count, _ in batches_of(parts.train, settings.batch_size):
        batch, z = drawn[:count], np.zeros((count, settings.units))
        X, y, w = own.X[batch], rows.y[batch], None if rows.weights is None else rows.weights[batch]
        step[count] = least(lambda: network.step(z, X, y, w, seed=0, steps=settings.local_steps))  # noqa: B023
        others = np.zeros((count, sum(terms.passive_columns)))
        plain[count] = least(lambda: others.T @ (others @ np.zeros((others.shape[1], settings.units))))  # noqa: B023
    for count, _ in batches_of(parts.validation, settings.batch_size):
        block, z = slice(parts.train, parts.train + count), np.zeros((count, settings.units))
        loss[count] = least(lambda: network.losses(z, own.X[block], rows.y[block]))  # noqa: B023
    return NetworkTimes(importing, begin, step, loss, plain)


def least(work: Callable[[], object]) -> float:
    """CPU seconds, the least of some repetitions."""
    taken = []
    for _ in range(_REPEATS):
        start = time.thread_time()
        work()
        taken.append(time.thread_time() - start)
    return min(taken)


def batches_of(rows: int, size: int) -> list[tuple[int, int]]:
    """Rows of a batch, and how many batches there are of so many rows.

    >>> batches_of(1000, 256), batches_of(512, 256), batches_of(100, 256), batches_of(0, 256)
    ([(256, 3), (232, 1)], [(256, 2)], [(100, 1)], [])
    """
    whole, rest = divmod(rows, size)
    return [(size, whole)] * bool(whole) + [(rest, 1)] * bool(rest)


def book_epochs(account: Account, epochs: int, epoch: Sequence[Repeated]) -> None:
    """Book so many epochs, each of which plays its stages in turn."""
    for number in range(min(epochs, _ALONE)):
        together = epochs - number if number + 1 == _ALONE else 1
        for times, stages in epoch:
            account.repeat("training", stages, times * together)


def ends(
    survey: Survey, epoch: Message[Active, Passive, Revealed], proceed: Message[Active, Coordinator, Control]
) -> Repeated:
    """How an epoch ends: everybody is told whether training goes on."""
    lead, facts = survey.job.active, {"best": True, "go": True}
    told = [Sending(epoch, lead, name, Revealed({**facts}, np.zeros(0))) for name in survey.job.passive]
    return 1, [Stage({}, [*told, Sending(proceed, lead, COORDINATOR, Control({"go": True}))])]


def trained(survey: Survey, network: NetworkTimes) -> Trained:
    """The rounds, and what a training in one place takes."""
    settings, parts = survey.job.splitnn, survey.parts
    batches = batches_of(parts.train, settings.batch_size)
    epoch = sum(times * (network.step[rows] + network.plain[rows]) for rows, times in batches)
    epoch += sum(times * network.loss[rows] for rows, times in batches_of(parts.validation, settings.batch_size))
    how = "the job's epochs"
    if settings.early_stopping_rounds is not None:
        how += "; at most, for early stopping may end them sooner"
    return Trained(settings.epochs, True, settings.epochs * epoch, how)


def hints(survey: Survey, plan: LayerPlan | None) -> list[str]:
    """Which lines of the job make a training cheaper; ``plan``: of its encrypted layer, in mode source-layer."""
    settings, found = survey.job.splitnn, []
    if plan is not None and plan.per_row(plan.forward) > 1:
        slots, each = plan.forward.slots, plan.per_row(plan.forward)
        found.append(
            f"training.units = {slots} would take about 1/{each} of the seconds and bytes: so many outputs fit into "
            f"one ciphertext, and {settings.units} take {each}"
        )
    if plan is not None and sum(survey.terms.passive_columns) > settings.batch_size / 4:
        found.append("training.batch_size: every batch encrypts the weights of all columns anew, whatever its rows")
    found.append("training.epochs: seconds and bytes of the training grow in proportion to it")
    return found
