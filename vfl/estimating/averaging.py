"""What `vfl.horizontal` will take: without encryption of the Paillier kind it can be played, here in this process.

Where every round is like the others (networks, noisy gradients) three rounds stand for all. A linear model's training
may end by itself, and is played to its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec

from parties.ledger import now
from parties.link import COORDINATOR, Endpoint
from vfl import horizontal, horizontal_session
from vfl.check import Own
from vfl.estimating.account import Account, Load, Trained
from vfl.estimating.rehearsal import Rehearsed, Sent, rehearse
from vfl.estimating.survey import read_timed
from vfl.horizontal import Averaged
from vfl.horizontal_part import SiloRows, fit_pooled
from vfl.horizontal_session import Silo
from vfl.job import Job, Scenario
from vfl.network_checks import check_torch
from vfl.parts import Parts
from vfl.trained import Progress

SAMPLE_ROUNDS = 3
_PLAYED = "the same training, played here on this machine"
_PLANNED = "the job's rounds; {} were played here on this machine, and stand for all"


@dataclass(frozen=True, slots=True)
class _Played:
    """What a silo has, or of the coordinator nothing, after the training; and its CPU seconds for that alone."""

    silo: Silo | None
    averaged: Averaged
    seconds: float


@dataclass(frozen=True)
class AveragingSurvey:
    """A scenario of silos without a passive party, with as many rounds played as it takes.

    Attributes
    ----------
    rounds : int
        All of them.
    marks : list of float
        When each of those that were played was over.
    importing : float
        CPU seconds to import torch, where the model takes it.
    """

    scenario: Scenario
    owns: dict[str, Own] = field(repr=False)
    rehearsed: Rehearsed[_Played] = field(repr=False)
    marks: list[float] = field(repr=False)
    rounds: int
    importing: float

    @property
    def silos(self) -> dict[str, Silo]:
        """Every silo, in job order."""
        found = {name: played.silo for name, played in self.rehearsed.results.items()}
        return {name: silo for name in self.owns if (silo := found[name]) is not None}

    @property
    def parts(self) -> Parts:
        """Rows of all silos."""
        each = [silo.parts for silo in self.silos.values()]
        return Parts(sum(one.train for one in each), 0, sum(one.test for one in each))

    @property
    def averaged(self) -> Averaged:
        """The coordinator's result of the rounds that were played."""
        return self.rehearsed.results[COORDINATOR].averaged


def survey_averaging(scenario: Scenario) -> AveragingSurvey:
    """Read, prepare, and train as far as needed.

    Raises
    ------
    VflError
        Whatever would refuse the run before its training, or end it.
    """
    import vfl.baselines  # noqa: F401 - here, so that no step below is timed with scikit-learn's import

    job = scenario.job
    check_torch(job, scenario.parties)
    owns = {spec.name: read_timed(job, spec) for spec in scenario.parties}
    importing = _import_torch() if job.model == "splitnn" else 0.0
    limited, marks = _limited(job), list[float]()

    def mark(_round: int, _loss: float | None) -> None:
        marks.append(now())

    plays: dict[str, Callable[[Endpoint], _Played]] = {COORDINATOR: partial(_coordinate, job=limited, progress=mark)}
    plays |= {name: partial(_silo, job=job, limited=limited, own=own) for name, own in owns.items()}
    rehearsed = rehearse(job, plays)
    done = rehearsed.results[COORDINATOR].averaged.rounds
    return AveragingSurvey(scenario, owns, rehearsed, marks, job.max_rounds if limited != job else done, importing)


def _import_torch() -> float:
    start = time.thread_time()
    import vfl.local_network  # noqa: F401

    return time.thread_time() - start


def _limited(job: Job) -> Job:
    """The job with few rounds, where all of its rounds are alike."""
    form = "splitnn" if job.model == "splitnn" else "training"
    if job.max_rounds <= SAMPLE_ROUNDS or (form == "training" and job.privacy.dp == "none"):
        return job
    few = {"rounds": SAMPLE_ROUNDS} | ({"epochs": SAMPLE_ROUNDS} if form == "splitnn" else {})
    return msgspec.structs.replace(job, **{form: msgspec.structs.replace(job.averaging, **few)})


def _silo(endpoint: Endpoint, *, job: Job, limited: Job, own: Own) -> _Played:
    """A silo's part, as `vfl.horizontal_session` plays it."""
    start = time.thread_time()
    silo = horizontal_session.prepare(endpoint, job, own.spec, own.table, own.guards)
    begun = time.thread_time()
    own.seconds["preparing"] = begun - start
    averaged = horizontal.silo(
        endpoint,
        limited,
        silo.model,
        total_rows=silo.total_rows,
        before=silo.before,
        declared=own.spec.silo_weight,
        progress=lambda _round, _loss: None,
    )
    return _Played(silo, averaged, time.thread_time() - begun)


def _coordinate(endpoint: Endpoint, *, job: Job, progress: Progress) -> _Played:
    start = time.thread_time()
    averaged = horizontal.coordinator(endpoint, job, progress)
    return _Played(None, averaged, time.thread_time() - start)


def training(account: Account, surveyed: AveragingSurvey) -> Trained:
    """Book the preparation and the training."""
    played = surveyed.rehearsed.results
    done = surveyed.averaged.rounds
    before = [one for one in surveyed.rehearsed.sent if _protocol(one) not in ("horizontal", "secure_sum")]
    loads = {name: Load(own.seconds["preparing"] + surveyed.importing) for name, own in surveyed.owns.items()}
    account.stage("preparing", loads)
    account.stage("preparing", {COORDINATOR: _passed(account, before)})
    scale = surveyed.rounds / max(done, 1)
    account.stage("training", {name: Load(played[name].seconds) for name in surveyed.owns}, scale)
    account.stage("training", {COORDINATOR: Load(played[COORDINATOR].seconds)}, scale)
    account.stage("training", {COORDINATOR: _passed(account, _all_rounds(surveyed))})
    if surveyed.averaged.losses:  # the last message has a loss of every round
        for name in surveyed.owns:
            account.carry(("horizontal", COORDINATOR, name), 0, 8 * (surveyed.rounds - done))
    how = _PLAYED if done == surveyed.rounds else _PLANNED.format(done)
    return Trained(surveyed.rounds, surveyed.averaged.converged, _fitting(surveyed), how, surveyed.importing)


def _all_rounds(surveyed: AveragingSurvey) -> list[Sent]:
    """Messages of the training; those of the last round that was played once more for each that was not."""
    sent = [one for one in surveyed.rehearsed.sent if _protocol(one) in ("horizontal", "secure_sum")]
    if surveyed.rounds == surveyed.averaged.rounds:
        return sent
    first, last = surveyed.marks[-2:]
    until = [one for one in sent if one.entry.time <= last]
    like = [one for one in until if one.entry.time > first]
    return until + like * (surveyed.rounds - surveyed.averaged.rounds) + sent[len(until) :]


def _protocol(one: Sent) -> str:
    return one.entry.message.partition(".")[0]


def _passed(account: Account, sent: Sequence[Sent]) -> Load:
    """Book messages that wait for each other."""
    return sum(account.replay(sent).values(), Load())


def _fitting(surveyed: AveragingSurvey) -> float:
    """CPU seconds of a fit of all silos' rows in one place: a network's passes over them are the silos' own."""
    job = surveyed.scenario.job
    if job.model == "splitnn":
        spent = sum(surveyed.rehearsed.results[name].seconds for name in surveyed.owns)
        return spent * surveyed.rounds / max(surveyed.averaged.rounds, 1)
    silos = list(surveyed.silos.values())
    rows = [SiloRows(silo.X, silo.labels.values, None, silo.parts.train) for silo in silos]
    start = time.thread_time()
    fit_pooled(job, rows, silos[0].labels.classes)
    return time.thread_time() - start
