"""``report.json``: one run as one object, for programs. Its fields are a contract; see docs/report.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from parties.ledger import Entry
from parties.link import COORDINATOR
from parties.spec import holder_of
from vfl import __version__
from vfl.events import Comparison, FeatureImportance, Intervals, LabelInference, Metrics, Played, RoleResult
from vfl.job import Job, Scenario
from vfl.report.averaged import AveragingPart, averaging_part

if TYPE_CHECKING:
    from vfl.paillier import OperationCounts

ALIGNMENT_PROTOCOLS = (
    *("align", "base_ot", "ecdh", "kkrt", "mpsi", "oprf", "progress", "server_aided", "verdict"),
    *("silo_rows", "silos"),
)
TRAINING_PROTOCOLS = (
    *("glm_exact", "glm_quadratic", "boosting", "boosting_one_sided", "splitnn", "split_learning"),
    *("glm_silos", "row_masks", "boosting_silos", "siblings", "silo_counts"),
    *("horizontal", "secure_sum"),
)
NOTHING = "none"
"""The scheme where nothing is encrypted with Paillier, and the protocol where nothing is aligned."""
_SOME: dict[str, object] = {
    "validation_loss": [],
    "label_inference": [],
    "gradient_noise": None,
    "mode": "",
    "aggregation": None,
}
"""What ``training`` has of some runs only."""
_LEFT_OUT = ("feature_importance", "confidence", "comparison", "without", "alone", "by_silo", "time", "evaluates")
"""What the report has of some runs only."""


class PartyPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """A party: rows of its CSV, and columns used before encoding; null where whoever writes the report cannot know.

    ``holder`` is the party that a silo belongs to; other parties have none.
    """

    name: str
    role: str
    rows: int | None
    features: int | None
    holder: str = ""


class AlignmentPart(msgspec.Struct, frozen=True):
    """The alignment; ``rows`` are distinct valid ids, or alignment.pad_to where whoever writes this is not to know.

    ``intersection`` is null where a one-sided alignment did not tell it to whoever writes this, and where nothing was
    aligned, for all silos have all columns.
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
    ``aggregation`` is of silos without a passive party, which need no key: ``key_holder`` is None then.
    """

    key_holder: str | None
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
    aggregation: AveragingPart | None = None


class CryptoPart(msgspec.Struct, frozen=True):
    """What the encryption was and how much of it there was, over all roles; scheme "none" has no key and no kernel."""

    scheme: str
    key_bits: int | None
    kernel: str | None
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
    alone : dict of silo to metrics
        Of models that the silos fitted without each other, on all silos' test rows; where there is no passive party
        and all CSVs are on one machine.
    by_silo : dict of silo to metrics
        Of the joint model on the test rows of each silo that holds labels, where all are on one machine.
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
    alone: dict[str, Metrics] = {}
    by_silo: dict[str, Metrics] = {}
    time: dict[str, dict[str, float]] = {}
    evaluates: str = ""


class References(msgspec.Struct, frozen=True):
    """What only one machine with all CSVs knows, as in the report; ``metrics`` and ``confidence`` add to the role's.

    ``judged`` are the test rows that they are of: those of a silo that was lost are not among them.
    """

    metrics: dict[str, Metrics]
    confidence: dict[str, Intervals]
    comparison: dict[str, Comparison]
    without: dict[str, Metrics] = {}
    alone: dict[str, Metrics] = {}
    by_silo: dict[str, Metrics] = {}
    judged: int | None = None


def summarise(
    scenario: Scenario,
    played: Played,
    ledger: Sequence[Entry],
    references: References | None,
    total_seconds: float,
) -> RunReport:
    """Build the report of a run on one machine from what its roles know, and from its references with baselines."""
    job, results = scenario.job, played.results
    lead, hub = leading(job, results), results[COORDINATOR]
    members = [party.name for party in job.parties]  # processes end in any order
    names = [name for name in (COORDINATOR, *members) if name in results]
    report = _summarise(
        job,
        lead,
        ledger,
        total_seconds,
        parties=[_party(member.name, member.role, results.get(member.name)) for member in job.parties],
        rows={name: results[name].ids for name in names if name != COORDINATOR and not job.horizontal},
        crypto=_crypto(job, played.kernel, played.encryptions, played.decryptions),
        warnings=[
            *(line for name in names for line in results[name].warnings),
            *(f"{name} was lost, and the run went on without it: {why}" for name, why in played.lost.items()),
        ],
        alignment_seconds=hub.seconds.get("aligning", 0.0),
        time={name: results[name].spent for name in names},
        averaging=averaging_part(job, results, hub.rounds),
    )
    if references is None:
        return report
    whole = "joint" in references.metrics  # of all silos' test rows, where the leading role knows its own
    return msgspec.structs.replace(
        report,
        metrics=references.metrics if whole else {**report.metrics, **references.metrics},
        confidence=references.confidence if whole else {**report.confidence, **references.confidence},
        rows=report.rows if references.judged is None else {**report.rows, "test": references.judged},
        comparison=references.comparison,
        without=references.without,
        alone=references.alone,
        by_silo=references.by_silo,
    )


def leading(job: Job, results: Mapping[str, RoleResult]) -> RoleResult:
    """The active party's result; where it is a silo that was lost, that of the first label holder's silo left."""
    return next(results[name] for name in job.labelled if name in results)


def summarise_own(
    job: Job, result: RoleResult, ledger: Sequence[Entry], counts: OperationCounts, kernel: str, total_seconds: float
) -> RunReport:
    """Build the report of one role's run between companies: what that role knows, and nothing else."""
    unknown = {party.name: _party(party.name, party.role, None) for party in job.parties}
    own = {name: _party(name, part.role, result) for name, part in unknown.items() if name == result.role}
    sizes = {} if job.horizontal else result.sizes
    return _summarise(
        job,
        result,
        ledger,
        total_seconds,
        parties=list((unknown | own).values()),
        rows={name: result.ids if name in own else size for name, size in sizes.items()},
        crypto=_crypto(job, kernel, counts.encryptions, counts.decryptions),
        warnings=result.warnings,
        alignment_seconds=result.seconds.get("aligning", 0.0),
        time={result.role: result.spent},
        averaging=averaging_part(job, {result.role: result}, result.rounds),
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
    averaging: AveragingPart | None,
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
            protocol=NOTHING if job.horizontal else lead.protocol,
            rows=rows,
            intersection=None if job.horizontal else lead.intersection,
            seconds=round(alignment_seconds, 3),
            bytes=_bytes(ledger, ALIGNMENT_PROTOCOLS),
        ),
        rows=parts | ({"validation": lead.n_validation} if lead.n_validation else {}),
        training=TrainingPart(
            key_holder=None if job.horizontal else lead.key_holder,
            key_holder_reason=lead.key_holder_reason,
            rounds=lead.rounds,
            converged=lead.converged,
            loss=lead.losses,
            seconds=round(lead.seconds.get("training", 0.0), 3),
            bytes=_bytes(ledger, TRAINING_PROTOCOLS),
            messages=len(_of(ledger, TRAINING_PROTOCOLS)),
            validation_loss=lead.validation_losses,
            label_inference=lead.label_inference,
            gradient_noise=_noise(lead),
            mode=job.splitnn.mode if job.model == "splitnn" and not job.horizontal else "",
            aggregation=averaging,
        ),
        crypto=crypto,
        metrics=metrics,
        seconds={
            "total": round(total_seconds, 3),
            "alignment": round(alignment_seconds, 3),
            "training": round(lead.seconds.get("training", 0.0), 3),
            "evaluation": round(lead.seconds.get("evaluating", 0.0), 3),  # the coordinator of silos alone has none
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
    for name in _LEFT_OUT:
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


def _party(name: str, role: str, result: RoleResult | None) -> PartyPart:
    """What is known of a party: nothing of a silo that was lost."""
    holder = holder_of(name) if holder_of(name) != name else ""
    rows, features = (None, None) if result is None else (result.csv_rows, result.features)
    return PartyPart(name, role, rows, features, holder)


def _crypto(job: Job, kernel: str, encryptions: int, decryptions: int) -> CryptoPart:
    if job.horizontal:
        return CryptoPart(NOTHING, None, None, encryptions, decryptions)
    return CryptoPart("paillier", job.privacy.key_bits, kernel, encryptions, decryptions)


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
