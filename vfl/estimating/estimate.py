"""All of an estimate together: what a run of a scenario will take on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from parties.errors import ConfigError
from parties.link import COORDINATOR
from vfl.check import Own
from vfl.estimating import around, averaging, exact, network, quadratic, silos, split_learning, splitnn, trees
from vfl.estimating.account import Account, Trained
from vfl.estimating.alignment import aligning
from vfl.estimating.calibration import calibrate
from vfl.estimating.silo_survey import survey_silos
from vfl.estimating.survey import Survey, survey
from vfl.horizontal_session import NO_KEY
from vfl.job import Job, Scenario
from vfl.paillier import kernel_name
from vfl.parts import Parts
from vfl.report.summary import ALIGNMENT_PROTOCOLS, TRAINING_PROTOCOLS
from vfl.source_layer import plan_layer

PHASES = ("starting", "aligning", "preparing", "training", "evaluating", "saving", "comparing")


class Traffic(msgspec.Struct, frozen=True):
    """What goes over one link, every hop counted."""

    sender: str
    receiver: str
    messages: int
    bytes: int


class Operations(msgspec.Struct, frozen=True):
    """Ciphertexts that a role makes and opens."""

    encryptions: int
    decryptions: int


class Estimate(msgspec.Struct, frozen=True):
    """What a run will take, before it starts; names are those of report.json where it has them.

    Attributes
    ----------
    parties : dict of party name to valid ids
        Of silos without a passive party: rows with a label.
    columns : dict of party name to columns after encoding, an intercept included
    rows : dict of "train", "validation", "test" to rows
    rounds_from : str
        Where the rounds come from.
    key_holder, key_bits, kernel
        None where nobody needs a key: silos without a passive party.
    seconds : dict of phase to wall-clock seconds, and "total"
    cpu_seconds : float
        Of all roles together; ``cores`` share them.
    """

    name: str
    task: str
    model: str
    key_holder: str | None
    key_holder_reason: str
    key_bits: int | None
    kernel: str | None
    cores: int
    parties: dict[str, int]
    columns: dict[str, int]
    rows: dict[str, int]
    rounds: int
    converged: bool
    rounds_from: str
    seconds: dict[str, float]
    cpu_seconds: float
    roles: dict[str, Operations]
    encryptions: int
    decryptions: int
    alignment_bytes: int
    training_bytes: int
    training_messages: int
    bytes: int
    links: list[Traffic]
    hints: list[str]
    assumptions: list[str]
    warnings: list[str]


def estimate(scenario: Scenario, *, baselines: bool = True) -> Estimate:
    """Estimate a run of a scenario, all roles on this machine.

    Parameters
    ----------
    baselines : bool
        Count the models of the active party alone and of all columns, too.

    Raises
    ------
    VflError
        Whatever would refuse the run before its training.
    """
    if scenario.job.horizontal:
        return _estimate_averaging(scenario, baselines=baselines)
    if scenario.job.has_silos:
        return _estimate_silos(scenario, baselines=baselines)
    surveyed = survey(scenario)
    job = surveyed.job
    account = Account(calibrate(job.privacy))
    around.start(account, job, surveyed.owns)
    aligning(account, surveyed)
    around.preparing(account, surveyed)
    if job.model == "boosting":
        trained = trees.training(account, surveyed)
    elif job.model == "splitnn":
        by_mode = {"source-layer": splitnn.training, "split": split_learning.training}
        trained = by_mode[job.splitnn.mode](account, surveyed)
    else:
        by_holder = {"active": exact.training, "coordinator": quadratic.training}
        trained = by_holder[surveyed.terms.key_holder](account, surveyed)
        (around.scoring_linear if surveyed.members is None else quadratic.scoring_one_sided)(account, surveyed)
    around.ending(account, surveyed, trained, baselines=baselines)
    return _of_survey(account, surveyed, trained)


def _estimate_silos(scenario: Scenario, *, baselines: bool) -> Estimate:
    """Estimate a run with a passive party where some party is made of silos."""
    job = scenario.job
    if job.model == "boosting":
        raise ConfigError(
            "vfl estimate, model: got boosting with [[party.silo]], expected a generalised linear model where parties "
            "are made of silos; estimate the scenario with each party's silos in one CSV, which encrypts and opens less"
        )
    surveyed = survey_silos(scenario)
    account = Account(calibrate(job.privacy))
    around.start(account, job, surveyed.survey.owns)
    aligning(account, surveyed.survey)
    around.rehearsed(account, surveyed.survey, surveyed.rehearsed.sent)
    trained = silos.training(account, surveyed)
    silos.scoring(account, surveyed)
    around.ending(account, surveyed.survey, trained, baselines=baselines)
    return _of_survey(account, surveyed.survey, trained)


def _estimate_averaging(scenario: Scenario, *, baselines: bool) -> Estimate:
    """Estimate a run of silos without a passive party."""
    surveyed = averaging.survey_averaging(scenario)
    job, known = scenario.job, surveyed.silos
    account = Account(calibrate(job.privacy))
    around.start(account, job, surveyed.owns)
    trained = averaging.training(account, surveyed)
    around.ending_averaged(account, surveyed, trained, baselines=baselines)
    facts = _Facts(
        job=job,
        sizes={name: len(silo.rows) for name, silo in known.items()},
        columns={name: silo.X.shape[1] for name, silo in known.items()},
        parts=surveyed.parts,
        key_holder=None,
        reason=NO_KEY,
        hints=[],
        assumptions=_of_machine(account),
        warnings=_warnings(surveyed.owns),
    )
    return _estimate(account, facts, trained)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What an estimate says beside figures."""

    job: Job
    sizes: dict[str, int]
    columns: dict[str, int]
    parts: Parts
    key_holder: str | None
    reason: str
    hints: list[str]
    assumptions: list[str]
    warnings: list[str]


def _of_survey(account: Account, surveyed: Survey, trained: Trained) -> Estimate:
    """The estimate of a run whose rows are aligned."""
    facts = _Facts(
        job=surveyed.job,
        sizes=surveyed.sizes,
        columns=dict(surveyed.terms.columns),
        parts=surveyed.parts,
        key_holder=surveyed.terms.key_holder,
        reason=surveyed.terms.reason,
        hints=_hints(surveyed, account),
        assumptions=_assumptions(surveyed, account),
        warnings=_warnings(surveyed.owns),
    )
    return _estimate(account, facts, trained)


def _estimate(account: Account, facts: _Facts, trained: Trained) -> Estimate:
    job, parts = facts.job, facts.parts
    roles = {
        name: Operations(round(account.encryptions[name]), round(account.decryptions[name]))
        for name in (COORDINATOR, *facts.sizes)
    }
    rows = {"train": parts.train, "test": parts.test}
    rows |= {"validation": parts.validation} if parts.validation else {}
    seconds = {phase: round(account.seconds[phase], 3) for phase in PHASES if account.seconds[phase]}
    return Estimate(
        name=job.name,
        task=job.task,
        model=job.model,
        key_holder=facts.key_holder,
        key_holder_reason=facts.reason,
        key_bits=None if facts.key_holder is None else job.privacy.key_bits,
        kernel=None if facts.key_holder is None else kernel_name(job.privacy.key_bits),
        cores=account.speeds.cores,
        parties=facts.sizes,
        columns=facts.columns,
        rows=rows,
        rounds=trained.rounds,
        converged=trained.converged,
        rounds_from=trained.how,
        seconds=seconds | {"total": round(sum(seconds.values()), 3)},
        cpu_seconds=round(account.cpu, 3),
        roles=roles,
        encryptions=sum(role.encryptions for role in roles.values()),
        decryptions=sum(role.decryptions for role in roles.values()),
        alignment_bytes=_bytes(account, ALIGNMENT_PROTOCOLS),
        training_bytes=_bytes(account, TRAINING_PROTOCOLS),
        training_messages=_messages(account, TRAINING_PROTOCOLS),
        bytes=sum(round(flow.bytes) for flow in account.flows.values()),
        links=_links(account),
        hints=facts.hints,
        assumptions=facts.assumptions,
        warnings=facts.warnings,
    )


def _warnings(owns: Mapping[str, Own]) -> list[str]:
    return list(dict.fromkeys(line for own in owns.values() for line in own.guards.warnings))


def _bytes(account: Account, protocols: tuple[str, ...]) -> int:
    return round(sum(flow.bytes for key, flow in account.flows.items() if key[0] in protocols))


def _messages(account: Account, protocols: tuple[str, ...]) -> int:
    return round(sum(flow.messages for key, flow in account.flows.items() if key[0] in protocols))


def _links(account: Account) -> list[Traffic]:
    """All protocols' traffic by sender and receiver, most bytes first."""
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for (_, sender, receiver), flow in account.flows.items():
        messages, size = found.get((sender, receiver), (0.0, 0.0))
        found[sender, receiver] = messages + flow.messages, size + flow.bytes
    lines = [Traffic(*pair, round(messages), round(size)) for pair, (messages, size) in found.items()]
    return sorted(lines, key=lambda line: -line.bytes)


def _hints(surveyed: Survey, account: Account) -> list[str]:
    """Which lines of the job change it most: at most two."""
    seconds = account.seconds
    total = sum(seconds.values())
    hints = _training_hints(surveyed, long=seconds["training"] > total / 4)
    if seconds["aligning"] > total / 4:
        hints.append("the alignment takes its time per id of every party: rows that cannot match are best left out")
    if seconds["comparing"] + seconds["evaluating"] > total / 4:
        hints.append("--no-baselines leaves out the models of the active party alone and of all data pooled")
    return hints[:2]


def _training_hints(surveyed: Survey, *, long: bool) -> list[str]:
    """Which lines make the training cheaper; ``long``: it takes much of the run."""
    job = surveyed.job
    if job.model == "splitnn":
        return network.hints(surveyed, plan_layer(surveyed.terms) if job.encrypted else None) if long else []
    if job.model != "boosting":
        twice = "privacy.key_bits = 3072 would train about twice as long, in about as many bytes"
        return [twice] if long and job.privacy.key_bits == 2048 else []
    hints = []
    if long:
        hints.append("training.n_estimators: seconds and bytes of the training grow in proportion to it")
        if surveyed.terms.outputs > 1 and not job.boosting.multi_output:
            hints.append("training.multi_output = true grows one tree a round for all classes")
    if job.boosting.subsample == 1 and not job.alignment.one_sided:
        hints.append("training.subsample, or top_rate and other_rate: a tree encrypts only the rows drawn")
    return hints


def _of_machine(account: Account) -> list[str]:
    return [
        f"all roles on this machine, which has {account.speeds.cores} cores free for them; "
        "between companies the network's speed comes on top",
        "rows and columns were counted from the CSVs of all parties, as only one machine that has them can",
    ]


def _assumptions(surveyed: Survey, account: Account) -> list[str]:
    lines = _of_machine(account)
    if surveyed.job.has_silos and all(len(silos) > 1 for silos in surveyed.job.holders.values()):
        lines.append(
            "rows are ordered anew in every run, as all parties have several silos: rounds may differ a little"
        )
    if surveyed.job.model == "splitnn":
        lines.append(network.ASSUMED)
    elif surveyed.job.privacy.label_dp_epsilon is not None:
        lines.append("labels are randomised anew in every run: rounds and trees will differ a little")
    return lines
