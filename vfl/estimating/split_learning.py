"""What `vfl.split_learning` will take.

Nothing is encrypted: the layers' steps are timed on the parties' columns, and the messages are counted. Early stopping
is not foreseen: all epochs are counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from parties.wire import Revealed
from vfl.epochs import draw_batches
from vfl.estimating.account import Account, Load, Sending, Stage, Trained, shape
from vfl.estimating.network import Repeated, batches_of, book_epochs, ends, least, time_network, trained
from vfl.estimating.survey import Survey
from vfl.split_learning import Wire
from vfl.terms import Integers


def training(account: Account, survey: Survey) -> Trained:
    """Book the training and the scoring."""
    from vfl.bottom import make_bottom

    job, parts, lead = survey.job, survey.parts, survey.job.active
    settings, network = job.splitnn, time_network(survey)
    bottoms, making = {}, {lead: Load(network.begin)}
    for name in job.passive:
        start = time.thread_time()
        bottoms[name] = make_bottom(job, name, survey.networks[name].X[: parts.train])
        making[name] = Load(network.importing + time.thread_time() - start)
    account.stage("training", making)

    def step(name: str, rows: Integers) -> None:
        bottom = bottoms[name]
        outputs = bottom.forward(survey.networks[name].X[rows], seed=0)
        bottom.step(np.zeros_like(outputs), steps=settings.local_steps)

    def score(name: str, rows: Integers) -> None:
        bottoms[name].forward(survey.networks[name].X[rows])

    drawn = draw_batches(parts.train, settings.batch_size, job.seed, 0)[0]
    epoch: list[Repeated] = []
    for count, times in batches_of(parts.train, settings.batch_size):
        outputs, values = _outputs(survey, drawn[:count], step), _values(survey, count)
        gradients = [Sending(Wire.gradients, lead, name, values) for name in job.passive]
        epoch.append((times, [outputs, Stage({lead: Load(network.step[count])}, gradients)]))
    for count, times in batches_of(parts.validation, settings.batch_size):
        block = np.arange(parts.train, parts.train + count)
        epoch.append((times, [_outputs(survey, block, score), Stage({lead: Load(network.loss[count])})]))
    book_epochs(account, settings.epochs, [*epoch, ends(survey, Wire.epoch, Wire.proceed)])
    return trained(survey, network)


def _values(survey: Survey, rows: int) -> Revealed:
    """A message of so many rows' outputs, or of their gradients."""
    return Revealed({}, shape(np.float64, rows, survey.job.splitnn.units))


def _outputs(survey: Survey, rows: Integers, work: Callable[[str, Integers], None]) -> Stage:
    """Every passive party's outputs of some rows."""
    loads = {name: Load(least(partial(work, name, rows))) for name in survey.job.passive}
    values = _values(survey, len(rows))
    return Stage(loads, [Sending(Wire.outputs, name, survey.job.active, values) for name in survey.job.passive])
