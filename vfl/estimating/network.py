"""What the layers above the first one take at the active party, whatever computes the first one; epochs and batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np

from vfl.epochs import cut_validation, draw_batches
from vfl.estimating.account import Account, Stage, Trained
from vfl.estimating.survey import Survey
from vfl.source_layer import LayerPlan
from vfl.splitnn_part import rows_of
from vfl.terms import Integers

ASSUMED = "the parties' networks: a step on a batch, timed here with PyTorch on one thread, stands for all steps"

_ALONE = 300  # epochs booked one by one: by then numbers of messages and epochs are as long as they will be
_REPEATS = 5

Repeated = tuple[int, Sequence[Stage]]
"""How often stages follow each other, and the stages."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Rows that go through the network together, in one epoch.

    Attributes
    ----------
    first : ndarray of shape (rows,), int64
        The first batch, of which the others differ by a row at most.
    batches, watched : list of int
        Rows of each batch, and of each block of the validation part.
    """

    first: Integers
    batches: list[int]
    watched: list[int]


@dataclass(frozen=True, slots=True)
class NetworkTimes:
    """CPU seconds of the active party's layers.

    Attributes
    ----------
    begin : float
        To import torch, where this process has not yet, to make the network, and a first step.
    step, loss : dict of rows to float
        A step on so many training rows; the loss of so many rows of the validation part.
    plain : dict of rows to float
        The first layer of so many training rows, forward and backward, with all columns in one place.
    """

    begin: float
    step: dict[int, float]
    loss: dict[int, float]
    plain: dict[int, float]


def blocks_of(survey: Survey) -> Blocks:
    """The blocks of every epoch, as the first one has them."""
    job, terms = survey.job, survey.terms
    batches = draw_batches(terms.rows, job.splitnn.batch_size, job.seed, 0)
    validation = cut_validation(terms.rows, terms.validation, job.splitnn.batch_size)
    return Blocks(batches[0], [len(batch) for batch in batches], [len(block) for block in validation])


def in_runs(lengths: Iterable[int]) -> list[tuple[int, int]]:
    """Rows, and how many blocks of so many rows follow each other.

    >>> in_runs([64, 64, 63, 63, 63])
    [(64, 2), (63, 3)]
    """
    return [(rows, len(list(same))) for rows, same in groupby(lengths)]


def cut(rows: int, size: int) -> list[int]:
    """Rows of each block of ``size``; the last may be shorter.

    >>> cut(1000, 400)
    [400, 400, 200]
    """
    return [min(size, rows - start) for start in range(0, rows, size)]


def time_network(survey: Survey, blocks: Blocks) -> NetworkTimes:
    """Take steps with the columns of the active party, on a network that is thrown away."""
    start = time.thread_time()
    from vfl.network import make_network

    job, terms, parts = survey.job, survey.terms, survey.parts
    own, settings = survey.networks[job.active], job.splitnn
    rows = rows_of(survey.data[job.active], terms, own, survey.keeper)
    fitted = slice(0, parts.train)
    weights = None if rows.weights is None else rows.weights[fitted]
    width, fan_in = own.X.shape[1], sum(terms.columns.values())
    network = make_network(job, width, terms.outputs, rows.y[fitted], weights=weights, fan_in=fan_in)
    others = np.zeros((len(blocks.first), sum(terms.passive_columns)))
    W = np.zeros((others.shape[1], settings.units))

    def step(count: int) -> None:
        batch, z = blocks.first[:count], np.zeros((count, settings.units))
        drawn = None if rows.weights is None else rows.weights[batch]
        network.step(z, own.X[batch], rows.y[batch], drawn, seed=0, steps=settings.local_steps)

    def loss(count: int) -> None:
        block = slice(parts.train, parts.train + count)
        network.losses(np.zeros((count, settings.units)), own.X[block], rows.y[block])

    def plain(count: int) -> None:
        others[:count].T @ (others[:count] @ W)

    step(len(blocks.first))  # the first one imports more of torch
    begin = time.thread_time() - start
    batches, watched = set(blocks.batches), set(blocks.watched)
    return NetworkTimes(
        begin,
        {count: least(partial(step, count)) for count in batches},
        {count: least(partial(loss, count)) for count in watched},
        {count: least(partial(plain, count)) for count in batches},
    )


def least(work: Callable[[], object]) -> float:
    """CPU seconds, the least of some repetitions."""
    taken = []
    for _ in range(_REPEATS):
        start = time.thread_time()
        work()
        taken.append(time.thread_time() - start)
    return min(taken)


def book_epochs(account: Account, epochs: int, played: Callable[[int], Iterable[Repeated]]) -> None:
    """Book so many epochs; ``played`` says what happens in the epoch of a number from 0 on."""
    for number in range(min(epochs, _ALONE)):
        together = epochs - number if number + 1 == _ALONE else 1
        for times, stages in played(number):
            account.repeat("training", stages, times * together)


def trained(survey: Survey, blocks: Blocks, network: NetworkTimes) -> Trained:
    """The rounds, and what a training in one place takes."""
    settings = survey.job.splitnn
    epoch = sum(network.step[rows] + network.plain[rows] for rows in blocks.batches)
    epoch += sum(network.loss[rows] for rows in blocks.watched)
    how = "the job's epochs"
    if settings.early_stopping_rounds is not None:
        how += "; at most, for early stopping may end them sooner"
    return Trained(settings.epochs, True, settings.epochs * epoch, how, network.begin)


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
    grow = "bytes" if plan is None else "seconds and bytes"  # split learning: most seconds go to importing torch
    found.append(f"training.epochs: {grow} of the training grow in proportion to it")
    return found
