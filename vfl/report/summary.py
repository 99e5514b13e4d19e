"""``report.json``: one run as one object, for programs. Its fields are a contract; see docs/report.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from parties.ledger import Entry
from parties.link import COORDINATOR
from vfl import __version__
from vfl.events import Comparison, FeatureImportance, Intervals, LabelInference, Metrics, Played, RoleResult
from vfl.job import Job, Scenario

if TYPE_CHECKING:
    from vfl.paillier import OperationCounts

ALIGNMENT_PROTOCOLS = ("align", "base_ot", "ecdh", "kkrt", "mpsi", "oprf", "progress", "server_aided", "verdict")
TRAINING_PROTOCOLS = ("glm_exact", "glm_quadratic", "boosting", "boosting_one_sided", "splitnn", "split_learning")
_SOME: dict[str, object] = {"validation_loss": [], "label_inference": [], "gradient_noise": None, "mode": ""}
"""What ``training`` has of some runs only."""


class PartyPart(msgspec.Struct, frozen=True):
    """A party: rows of its CSV, and columns used before encoding; null where whoever writes the report cannot know."""

    name: str
    role: str
    rows: int | None
    features: int | None


class AlignmentPart(msgspec.Struct, frozen=True):
    """The alignment; ``rows`` are distinct valid ids, or alignment.pad_to where whoever writes this is not to know.

    ``intersection`` is null where a one-sided alignment did not tell it to whoever writes this.
    """

    protocol: str
    rows: dict[str, int]
    intersection: int | None
    seconds: float
    bytes: int


class GradientNoise(msgspec.Struct, frozen=True):
    """What the noise on a row's gradients amounts to over the whole training: differential privacy of one row's own.

    ``epsilon`` is None where no bound can be stated.
    """

    epsilon: float | None
    delta: float


class TrainingPart(msgspec.Struct, frozen=True):
    """The training; ``loss`` has the start and then one entry per round, penalty included.

    ``validation_loss`` likewise, of the validation part; empty without one. ``label_inference`` and ``gradient_noise``
    are of mode split, where the job asks for them; only the active party knows the first. ``mode`` is a network's.
    """

    key_holder: str
    key_holder_reason: str
    rounds: int
    converged: bool
    loss: list[float]
    seconds: float
    bytes: int
    messages: int
    validation_loss: list[float]
    label_inference: list[LabelInference] = []
    gradient_noise: GradientNoise | None = None
    mode: str = ""


class CryptoPart(msgspec.Struct, frozen=True):
    """What the encryption was and how much of it there was, over all roles."""

    scheme: str
    key_bits: int
    kernel: str
    encryptions: int
    decryptions: int


class Disclosure(msgspec.Struct, frozen=True):
    """Something that a role learnt: in ``count`` messages."""

    to: str
    what: str
    count: int
    source: str = msgspec.field(name="from")


class RunReport(msgspec.Struct, frozen=True):
    """report.json.

    Attributes
    ----------
    rows : dict of "train", "validation", "test" to int or None
        None as ``alignment.intersection``.
    confidence : dict of model to dict of metric to (low, high)
        95 % bootstrap intervals of ``metrics``.
    comparison : dict of model to Comparison
        Of the joint model with "active_only" and "pooled".
    without : dict of party name to metrics
        The joint metrics without that passive party's columns, where all CSVs are on one machine.
    time : dict of role to dict of "kernel", "python", "wire", "waiting" to seconds
    evaluates : str
        Of an evaluation on new rows: the id of the run whose model it is. ``rows["test"]`` are the new rows then, and
        ``training`` and ``crypto`` those of that run.
    """

    name: str
    task: str
    model: str
    version: str
    seed: int
    parties: list[PartyPart]
    alignment: AlignmentPart
    rows: dict[str, int | None]
    training: TrainingPart
    crypto: CryptoPart
    metrics: dict[str, Metrics]
    seconds: dict[str, float]
    disclosures: list[Disclosure]
    warnings: list[str]
    feature_importance: list[FeatureImportance] = []
    confidence: dict[str, Intervals] = {}
    comparison: dict[str, Comparison] = {}
    without: dict[str, Metrics] = {}
    time: dict[str, dict[str, float]] = {}
    evaluates: str = ""


class References(msgspec.Struct, frozen=True):
    """What only one machine with all CSVs knows; ``confidence`` is of ``pooled``, the rest as in the report."""

    pooled: Metrics
    confidence: dict[str, Intervals]
    comparison: dict[str, Comparison]
    without: dict[str, Metrics]


def summarise(
    scenario: Scenario,
    played: Played,
    ledger: Sequence[Entry],
    references: References | None,
    total_seconds: float,
) -> RunReport:
    """Build the report of a run on one machine from what its roles know, and from its references with baselines."""
    job = scenario.job
    lead, hub = played.results[job.active], played.results[COORDINATOR]
    names = [COORDINATOR, *(spec.name for spec in scenario.parties)]  # processes end in any order
    report = _summarise(
        job,
        lead,
        ledger,
        total_seconds,
        parties=[_party(spec.name, spec.role, played.results[spec.name]) for spec in scenario.parties],
        rows={spec.name: played.results[spec.name].ids for spec in scenario.parties},
        crypto=CryptoPart("paillier", job.privacy.key_bits, played.kernel, played.encryptions, played.decryptions),
        warnings=[line for name in names for line in played.results[name].warnings],
        alignment_seconds=hub.seconds["aligning"],
        time={name: played.results[name].spent for name in names},
    )
    if references is None:
        return report
    return msgspec.structs.replace(
        report,
        metrics={**report.metrics, "pooled": references.pooled},
        confidence={**report.confidence, **references.confidence},
        comparison=references.comparison,
        without=references.without,
    )


def summarise_own(
    job: Job, result: RoleResult, ledger: Sequence[Entry], counts: OperationCounts, kernel: str, total_seconds: float
) -> RunReport:
    """Build the report of one role's run between companies: what that role knows, and nothing else."""
    unknown = {party.name: PartyPart(party.name, party.role, None, None) for party in job.parties}
    own = {name: _party(name, part.role, result) for name, part in unknown.items() if name == result.role}
    return _summarise(
        job,
        result,
        ledger,
        total_seconds,
        parties=list((unknown | own).values()),
        rows={name: result.ids if name in own else size for name, size in result.sizes.items()},
        crypto=CryptoPart("paillier", job.privacy.key_bits, kernel, counts.encryptions, counts.decryptions),
        warnings=result.warnings,
        alignment_seconds=result.seconds["aligning"],
        time={result.role: result.spent},
    )


def _summarise(
    job: Job,
    lead: RoleResult,
    ledger: Sequence[Entry],
    total_seconds: float,
    *,
    parties: list[PartyPart],
    rows: dict[str, int],
    crypto: CryptoPart,
    warnings: Sequence[str],
    alignment_seconds: float,
    time: Mapping[str, Mapping[str, float]],
) -> RunReport:
    """Build a report as ``lead`` knows the run."""
    names = [COORDINATOR, *(party.name for party in job.parties)]
    metrics = {"joint": lead.joint or {}}
    if lead.active_only is not None:
        metrics["active_only"] = lead.active_only
    parts: dict[str, int | None] = {"train": lead.n_train, "test": lead.n_test}
    return RunReport(
        name=job.name,
        task=job.task,
        model=job.model,
        version=__version__,
        seed=job.seed,
        parties=parties,
        alignment=AlignmentPart(
            protocol=lead.protocol,
            rows=rows,
            intersection=lead.intersection,
            seconds=round(alignment_seconds, 3),
            bytes=_bytes(ledger, ALIGNMENT_PROTOCOLS),
        ),
        rows=parts | ({"validation": lead.n_validation} if lead.n_validation else {}),
        training=TrainingPart(
            key_holder=lead.key_holder,
            key_holder_reason=lead.key_holder_reason,
            rounds=lead.rounds,
            converged=lead.converged,
            loss=lead.losses,
            seconds=round(lead.seconds["training"], 3),
            bytes=_bytes(ledger, TRAINING_PROTOCOLS),
            messages=len(_of(ledger, TRAINING_PROTOCOLS)),
            validation_loss=lead.validation_losses,
            label_inference=lead.label_inference,
            gradient_noise=_noise(lead),
            mode=job.splitnn.mode if job.model == "splitnn" else "",
        ),
        crypto=crypto,
        metrics=metrics,
        seconds={
            "total": round(total_seconds, 3),
            "alignment": round(alignment_seconds, 3),
            "training": round(lead.seconds["training"], 3),
            "evaluation": round(lead.seconds["evaluating"], 3),
        },
        disclosures=sorted(disclosures(ledger), key=lambda line: (names.index(line.to), names.index(line.source))),
        warnings=list(dict.fromkeys(warnings)),
        feature_importance=sorted(lead.importance, key=lambda line: -line.gain),
        confidence=lead.confidence,
        comparison=lead.comparison,
        time={role: {part: round(seconds, 3) for part, seconds in spent.items()} for role, spent in time.items()},
    )


def encode_report(report: RunReport) -> bytes:
    """JSON text of a report; what is not finite becomes null, and what only some models have is left out of others'."""
    lines = msgspec.to_builtins(report)
    for name in ("feature_importance", "confidence", "comparison", "without", "time", "evaluates"):
        if not lines[name]:
            del lines[name]
    for name, nothing in _SOME.items():
        if lines["training"][name] == nothing:
            del lines["training"][name]
    return msgspec.json.format(msgspec.json.encode(_finite(lines)), indent=2) + b"\n"


def disclosures(ledger: Sequence[Entry]) -> list[Disclosure]:
    """What each role learnt from whom, in the order in which it first happened."""
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in ledger:
        if entry.discloses:
            groups.setdefault((entry.receiver, entry.discloses, entry.sender), []).append(entry)
    return [
        Disclosure(to=to, what=what, count=len(entries), source=source)
        for (to, what, source), entries in groups.items()
    ]


def _noise(result: RoleResult) -> GradientNoise | None:
    """What the role says of the noise on gradients."""
    if result.gradient_epsilon is None:
        return None
    from vfl.gradient_noise import DELTA

    bound = result.gradient_epsilon
    return GradientNoise(bound if math.isfinite(bound) else None, DELTA)


def _party(name: str, role: str, result: RoleResult) -> PartyPart:
    return PartyPart(name, role, result.csv_rows, result.features)


def _of(ledger: Sequence[Entry], protocols: Sequence[str]) -> list[Entry]:
    return [entry for entry in ledger if entry.message.partition(".")[0] in protocols]


def _bytes(ledger: Sequence[Entry], protocols: Sequence[str]) -> int:
    return sum(entry.bytes for entry in _of(ledger, protocols))


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
