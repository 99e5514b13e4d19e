"""What comes before and after the training: starting the roles, greeting, preparing, scoring, saving."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import numpy as np

from parties import greeting
from parties.link import COORDINATOR
from parties.wire import Control, Hello, Masked, Revealed, Roster
from vfl import prepare, scoring
from vfl.check import Own
from vfl.estimating.account import Account, Load, Trained, shape
from vfl.estimating.averaging import AveragingSurvey
from vfl.estimating.rehearsal import Sent
from vfl.estimating.survey import Survey
from vfl.job import Job, job_fields
from vfl.report.evidence import JOINT, Evidence
from vfl.report.statistics import bootstrap_intervals
from vfl.trained import Labels

Facts = dict[str, bool | int | float | str | None]

_RUN_ID = "0" * 32
_LAUNCH = 0.05  # CPU seconds to make an identity and start a process
_ENGINE = 0.8  # of a role's start: what the launcher imports of the engine to fit models for comparison
_LEAVE = 0.4  # of `Trained.importing`: what a process pays once more to end
_SAVE = 3e-6  # CPU seconds to write a row of a party's ids and scores


def start(account: Account, job: Job, owns: Mapping[str, Own]) -> None:
    """Book the roles' start and greeting."""
    speeds, lines = account.speeds, dict(job_fields(job))
    loads = {COORDINATOR: Load(speeds.start)}
    for name, own in owns.items():
        loads[name] = Load(speeds.start + own.seconds["reading"])
        account.send(greeting.Wire.hello, name, COORDINATOR, Hello(bytes(32), lines, salt=bytes(32)))
        account.send(greeting.Wire.verdict, COORDINATOR, name, Control({"differs": None}))
        fresh = {each: bytes(32) for each in owns}
        account.send(greeting.Wire.roster, COORDINATOR, name, Roster(fresh, _RUN_ID, 0, bytes(32)))
    account.stage("starting", {"launcher": Load(_LAUNCH * len(loads))})
    account.stage("starting", loads)


def rehearsed(account: Account, survey: Survey, sent: Iterable[Sent]) -> None:
    """Book the encoding of silos' columns, and what silos have told each other of them."""
    account.stage("preparing", {name: Load(own.seconds["preparing"]) for name, own in survey.owns.items()})
    account.stage("preparing", {COORDINATOR: sum(account.replay(sent).values(), Load())})


def preparing(account: Account, survey: Survey) -> None:
    """Book the encoding of columns, and what is told of them."""
    terms, job = survey.terms, survey.job
    shapes: Facts = {}
    for name in survey.owns:
        own: Facts = {"columns": terms.columns[name], "outputs": terms.outputs, "consent": terms.consent}
        shapes |= {f"{name} {fact}": value for fact, value in own.items()}
    loads = {}
    for name, own_part in survey.owns.items():
        facts: Facts = {"columns": terms.columns[name], "outputs": 1, "consent": terms.consent}
        loads[name] = Load(own_part.seconds["preparing"] + (0.0 if survey.binned else account.speeds.learn))
        account.send(prepare.Wire.shape, name, COORDINATOR, Revealed(facts, np.zeros(0)))
        account.send(prepare.Wire.shapes, COORDINATOR, name, Revealed(shapes, np.zeros(0)))
        if name != job.active:
            account.send(prepare.Wire.heard, name, job.active, Control({"shapes": "0" * 64}))
            account.send(prepare.Wire.agreed, job.active, name, Control({"same": True}))
    account.stage("preparing", loads)


def scoring_linear(account: Account, survey: Survey) -> None:
    """Book the test rows' scores of a generalised linear model."""
    test, outputs = survey.parts.test, survey.terms.outputs
    if not test:
        return
    words = Masked(shape(np.uint64, test * outputs, 1))
    load = Load()
    for name in survey.job.passive:
        load += account.send(scoring.Wire.partial, name, COORDINATOR, words)
    load += account.send(scoring.Wire.total, COORDINATOR, survey.job.active, words)
    account.stage("evaluating", {COORDINATOR: load})


def ending(account: Account, survey: Survey, trained: Trained, *, baselines: bool) -> None:
    """Book metrics and how sure they are, the models for comparison, and what is left in the run's directory."""
    job, speeds = survey.job, account.speeds
    own = {silos[0]: survey.terms.columns[silos[0]] for silos in job.holders.values()}
    lead, test = job.active, survey.parts.test
    trees, network = job.model == "boosting", job.model == "splitnn"
    everything = max(sum(own.values()), 1)
    alone = trained.fitting * (own[lead] / everything if trees else 1.0)
    whole = trained.fitting * (1.0 if trees or network else everything / max(own[lead], 1))
    labels = all_labels([survey.data[name].labels_to_judge for name in job.labelled])
    judging = judging_seconds(job, labels, survey.data[lead].classes) if test else 0.0
    if test:
        again = alone + judging if baselines else 0.0
        account.stage("evaluating", {lead: Load(judging + again + speeds.learn * (trees or job.has_silos))})
    common = survey.parts.train + survey.parts.validation + test
    importers = (lead,) if job.encrypted else survey.owns
    saving = {name: Load(_SAVE * common + _LEAVE * trained.importing * (name in importers)) for name in survey.owns}
    account.stage("saving", saving)
    if baselines and test:
        reading = sum(sum(part.seconds.values()) for part in survey.owns.values())
        without = [whole * (1 - own[name] / everything) for name in own if name != lead and len(own) > 2]
        fits = trained.importing + whole + sum(without) + judging
        account.stage("comparing", {"launcher": Load(_ENGINE * speeds.start + speeds.learn + reading + fits)})
    elif test and len(job.labelled) > 1:
        _judging_together(account, judging)


def ending_averaged(account: Account, survey: AveragingSurvey, trained: Trained, *, baselines: bool) -> None:
    """The same of silos without a passive party: each judges the model, and one of its own rows alone."""
    job, silos, test = survey.scenario.job, survey.silos, survey.parts.test
    labels: list[Labels] = [silo.labels.values[silo.parts.train :] for silo in silos.values()]
    classes = silos[job.active].labels.classes
    judging = {
        name: judging_seconds(job, own, classes)
        for name, own in zip(silos, labels, strict=True)
        if len(own) and (not classes or len(np.unique(own)) > 1)
    }
    shares = {name: silo.parts.train / survey.parts.train for name, silo in silos.items()}
    alone = {name: baselines * (trained.fitting * shares[name] + judging.get(name, 0.0)) for name in silos}
    learn = account.speeds.learn
    account.stage("evaluating", {name: Load(learn + judging.get(name, 0.0) + alone[name]) for name in silos})
    ends = {name: _SAVE * len(silo.rows) + _LEAVE * trained.importing for name, silo in silos.items()}
    account.stage("saving", {name: Load(spent) for name, spent in ends.items()})
    if baselines and test:
        speeds = account.speeds
        reading = sum(sum(own.seconds.values()) for own in survey.owns.values())
        fits = trained.importing + 2 * trained.fitting + judging_seconds(job, all_labels(labels), classes)
        account.stage("comparing", {"launcher": Load(_ENGINE * speeds.start + speeds.learn + reading + fits)})
    elif test:
        _judging_together(account, judging_seconds(job, all_labels(labels), classes))


def _judging_together(account: Account, judging: float) -> None:
    """Book what the launcher does without models for comparison, too: metrics of all label silos' rows together."""
    speeds = account.speeds
    account.stage("evaluating", {"launcher": Load(_ENGINE * speeds.start + speeds.learn + judging)})


def all_labels(parts: Sequence[Labels]) -> Labels:
    """Labels of several silos, one after the other."""
    return cast(Labels, np.concatenate(parts))


def judging_seconds(job: Job, y: Labels, classes: Sequence[str]) -> float:
    """CPU seconds of one model's metrics on test rows, resampled: any scores take as long."""
    scores = np.linspace(0.01, 0.99, len(y))
    if job.task == "multiclass":
        scores = np.tile(np.full(len(classes), 1 / len(classes)), (len(y), 1))
    evidence = Evidence(job.task, tuple(classes), y, {JOINT: scores})
    start = time.thread_time()
    bootstrap_intervals(evidence, job.seed)
    return time.thread_time() - start
