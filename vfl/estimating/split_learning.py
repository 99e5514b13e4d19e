"""What `vfl.split_learning` will take.

Nothing is encrypted: the networks' steps are timed on the parties' columns, and the messages are counted. Early
stopping is not foreseen: all epochs are counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from parties.link import COORDINATOR
from parties.wire import Active, Control, Message, Passive, Revealed
from vfl.estimating.account import Account, Load, Sending, Stage, Trained, shape
from vfl.estimating.network import Repeated, blocks_of, book_epochs, cut, least, time_network, trained
from vfl.estimating.survey import Survey
from vfl.split_learning import BLOCK, Wire
from vfl.terms import Integers

if TYPE_CHECKING:
    from vfl.bottom import Bottom

Facts = dict[str, bool | int | float | str | None]


def training(account: Account, survey: Survey) -> Trained:
    """Book the training and the scoring."""
    job, parts, lead = survey.job, survey.parts, survey.job.active
    blocks = blocks_of(survey)
    network = time_network(survey, blocks)
    bottoms = _make_bottoms(account, survey, network.begin)
    stepping = {count: _each(bottoms, partial(_step, survey, blocks.first[:count])) for count in set(blocks.batches)}
    watching = {
        count: _each(bottoms, partial(_forward, survey, np.arange(parts.train, parts.train + count)))
        for count in set(blocks.watched)
    }

    def played(epoch: int) -> Iterator[Repeated]:
        for first, count, times in _runs(blocks.batches, 0):
            place: Facts = {"epoch": epoch, "block": first}
            outputs = Stage(stepping[count], _to_lead(survey, place, count))
            gradients = [Sending(Wire.gradients, lead, name, _values(survey, place, count)) for name in job.passive]
            yield times, [outputs, Stage({lead: Load(network.step[count])}, gradients)]
        for first, count, times in _runs(blocks.watched, len(blocks.batches)):
            outputs = Stage(watching[count], _to_lead(survey, {"epoch": epoch, "block": first}, count))
            yield times, [outputs, Stage({lead: Load(network.loss[count])})]
        facts: Facts = {"epoch": epoch, "best": True, "go": True}
        told = [Sending(Wire.epoch, lead, name, Revealed(facts, np.zeros(0))) for name in job.passive]
        told.append(Sending(Wire.proceed, lead, COORDINATOR, Control({"epoch": epoch, "go": True})))
        noted = [Sending(Wire.kept, COORDINATOR, lead, Control({"epoch": epoch}))]
        yield 1, [Stage({}, told), Stage({}, noted)]

    book_epochs(account, job.splitnn.epochs, played)
    _book_scoring(account, survey, bottoms)
    return trained(survey, blocks, network)


def _make_bottoms(account: Account, survey: Survey, importing: float) -> dict[str, Bottom]:
    """Every passive party's network; they and the active party's are booked."""
    from vfl.bottom import make_bottom

    loads, bottoms = {survey.job.active: Load(importing)}, {}
    for name in survey.job.passive:
        start = time.thread_time()
        bottoms[name] = make_bottom(survey.job, name, survey.networks[name].X[: survey.parts.train])
        loads[name] = Load(importing + time.thread_time() - start)
    account.stage("training", loads)
    return bottoms


def _each(bottoms: dict[str, Bottom], work: Callable[[str, Bottom], object]) -> dict[str, Load]:
    """What every passive party does at the same time."""
    return {name: Load(least(partial(work, name, bottom))) for name, bottom in bottoms.items()}


def _step(survey: Survey, rows: Integers, name: str, bottom: Bottom) -> None:
    outputs = bottom.forward(survey.networks[name].X[rows], seed=0)
    bottom.step(np.zeros_like(outputs), steps=survey.job.splitnn.local_steps)


def _forward(survey: Survey, rows: Integers, name: str, bottom: Bottom) -> None:
    bottom.forward(survey.networks[name].X[rows])


def _runs(lengths: Sequence[int], first: int) -> Iterator[tuple[int, int, int]]:
    """Blocks of the same length whose numbers, from ``first`` on, are as long: the first number, rows, and how many."""
    numbered = enumerate(lengths, first)
    for (count, _), run in groupby(numbered, key=lambda one: (one[1], len(msgspec.msgpack.encode(one[0])))):
        numbers = [number for number, _ in run]
        yield numbers[0], count, len(numbers)


def _values(survey: Survey, facts: Facts, rows: int) -> Revealed:
    """A message of so many rows' outputs, or of their gradients."""
    return Revealed(facts, shape(np.float64, rows, survey.job.splitnn.units))


def _to_lead(
    survey: Survey, facts: Facts, rows: int, message: Message[Passive, Active, Revealed] = Wire.outputs
) -> list[Sending]:
    """Every passive party's outputs of some rows."""
    values = _values(survey, facts, rows)
    return [Sending(message, name, survey.job.active, values) for name in survey.job.passive]


def _book_scoring(account: Account, survey: Survey, bottoms: dict[str, Bottom]) -> None:
    """Book the test rows' outputs."""
    rows = np.arange(survey.parts.train + survey.parts.validation, len(survey.data[survey.job.active].rows))
    if not len(rows):
        return
    account.repeat("evaluating", [Stage(_each(bottoms, partial(_forward, survey, rows)))], 1)
    for number, count in enumerate(cut(len(rows), max(BLOCK // survey.job.splitnn.units, 1))):
        account.repeat("evaluating", [Stage({}, _to_lead(survey, {"block": number}, count, Wire.scored))], 1)
