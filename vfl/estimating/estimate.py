"""All of an estimate together: what a run of a scenario will take on this machine."""

from __future__ import annotations

import msgspec

from parties.link import COORDINATOR
from vfl.estimating import around, exact, network, quadratic, split_learning, splitnn, trees
from vfl.estimating.account import Account
from vfl.estimating.alignment import aligning
from vfl.estimating.calibration import calibrate
from vfl.estimating.survey import Survey, survey
from vfl.job import Scenario
from vfl.paillier import kernel_name
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
    columns : dict of party name to columns after encoding, an intercept included
    rows : dict of "train", "validation", "test" to rows
    rounds_from : str
        Where the rounds come from.
    seconds : dict of phase to wall-clock seconds, and "total"
    cpu_seconds : float
        Of all roles together; ``cores`` share them.
    """

    name: str
    task: str
    model: str
    key_holder: str
    key_holder_reason: str
    key_bits: int
    kernel: str
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
    surveyed = survey(scenario)
    job = surveyed.job
    account = Account(calibrate(job.privacy))
    around.start(account, surveyed)
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
    roles = {
        name: Operations(round(account.encryptions[name]), round(account.decryptions[name]))
        for name in (COORDINATOR, *surveyed.owns)
    }
    parts = surveyed.parts
    rows = {"train": parts.train, "test": parts.test}
    rows |= {"validation": parts.validation} if parts.validation else {}
    seconds = {phase: round(account.seconds[phase], 3) for phase in PHASES if account.seconds[phase]}
    return Estimate(
        name=job.name,
        task=job.task,
        model=job.model,
        key_holder=surveyed.terms.key_holder,
        key_holder_reason=surveyed.terms.reason,
        key_bits=job.privacy.key_bits,
        kernel=kernel_name(job.privacy.key_bits),
        cores=account.speeds.cores,
        parties=surveyed.sizes,
        columns=dict(surveyed.terms.columns),
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
        hints=_hints(surveyed, account),
        assumptions=_assumptions(surveyed, account),
        warnings=list(dict.fromkeys(line for own in surveyed.owns.values() for line in own.guards.warnings)),
    )


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


def _assumptions(surveyed: Survey, account: Account) -> list[str]:
    lines = [
        f"all roles on this machine, which has {account.speeds.cores} cores free for them; "
        "between companies the network's speed comes on top",
        "rows and columns were counted from the CSVs of all parties, as only one machine that has them can",
    ]
    if surveyed.job.model == "splitnn":
        lines.append(network.ASSUMED)
    elif surveyed.job.privacy.label_dp_epsilon is not None:
        lines.append("labels are randomised anew in every run: rounds and trees will differ a little")
    return lines
