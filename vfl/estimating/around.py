"""What comes before and after the training: starting the roles, greeting, preparing, scoring, saving."""

from __future__ import annotations

import time

import numpy as np

from parties import greeting
from parties.link import COORDINATOR
from parties.wire import Control, Hello, Masked, Revealed, Roster
from vfl import prepare, scoring
from vfl.estimating.account import Account, Load, Trained, shape
from vfl.estimating.survey import Survey
from vfl.job import job_fields
from vfl.report.evidence import JOINT, Evidence
from vfl.report.statistics import bootstrap_intervals

Facts = dict[str, bool | int | float | str | None]

_RUN_ID = "0" * 32
_LAUNCH = 0.05  # CPU seconds to make an identity and start a process
_ENGINE = 0.8  # of a role's start: what the launcher imports of the engine to fit models for comparison
_LEAVE = 0.4  # of `Trained.importing`: what a process pays once more to end
_SAVE = 3e-6  # CPU seconds to write a row of a party's ids and scores


def start(account: Account, survey: Survey) -> None:
    """Book the roles' start and greeting."""
    speeds, lines = account.speeds, dict(job_fields(survey.job))
    loads = {COORDINATOR: Load(speeds.start)}
    for name, own in survey.owns.items():
        loads[name] = Load(speeds.start + own.seconds["reading"])
        account.send(greeting.Wire.hello, name, COORDINATOR, Hello(bytes(32), lines, salt=bytes(32)))
        account.send(greeting.Wire.verdict, COORDINATOR, name, Control({"differs": None}))
        fresh = {each: bytes(32) for each in survey.owns}
        account.send(greeting.Wire.roster, COORDINATOR, name, Roster(fresh, _RUN_ID, 0, bytes(32)))
    account.stage("starting", {"launcher": Load(_LAUNCH * len(loads))})
    account.stage("starting", loads)


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
    job, speeds, own = survey.job, account.speeds, survey.terms.columns
    lead, test = job.active, survey.parts.test
    trees, network = job.model == "boosting", job.model == "splitnn"
    everything = max(sum(own.values()), 1)
    alone = trained.fitting * (own[lead] / everything if trees else 1.0)
    whole = trained.fitting * (1.0 if trees or network else everything / max(own[lead], 1))
    judging = _judging(survey) if test else 0.0
    if test:
        again = alone + judging if baselines else 0.0
        account.stage("evaluating", {lead: Load(judging + again + speeds.learn * trees)})
    common = survey.parts.train + survey.parts.validation + test
    importers = (lead,) if job.encrypted else survey.owns
    saving = {name: Load(_SAVE * common + _LEAVE * trained.importing * (name in importers)) for name in survey.owns}
    account.stage("saving", saving)
    if baselines and test:
        reading = sum(sum(part.seconds.values()) for part in survey.owns.values())
        without = [whole * (1 - own[name] / everything) for name in job.passive if len(job.passive) > 1]
        fits = trained.importing + whole + sum(without) + judging
        account.stage("comparing", {"launcher": Load(_ENGINE * speeds.start + speeds.learn + reading + fits)})


def _judging(survey: Survey) -> float:
    """CPU seconds of one model's metrics on the test rows, resampled: any scores take as long."""
    data = survey.data[survey.job.active]
    y = data.labels_to_judge
    scores = np.linspace(0.01, 0.99, len(y))
    if survey.job.task == "multiclass":
        scores = np.tile(np.full(len(data.classes), 1 / len(data.classes)), (len(y), 1))
    evidence = Evidence(survey.job.task, tuple(data.classes), y, {JOINT: scores})
    start = time.thread_time()
    bootstrap_intervals(evidence, survey.job.seed)
    return time.thread_time() - start
