"""``report.json``: one run as one object, for programs. Its fields are a contract; see docs/report.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from parties.columns import encode_labels
from parties.data import PartyTable, read_party
from parties.ledger import Entry
from parties.link import COORDINATOR
from psi.align import row_order
from psi.ids import PreparedIds
from vfl import __version__
from vfl.baselines import baseline_metrics
from vfl.glm import Integers
from vfl.job import Scenario
from vfl.launch import Played, TablesByName
from vfl.metrics import Metrics
from vfl.prepare import read_ids
from vfl.session import RoleResult
from vfl.shard import load_preprocessor

ALIGNMENT_PROTOCOLS = ("align", "ecdh")
TRAINING_PROTOCOLS = ("glm_exact", "glm_quadratic")


class PartyPart(msgspec.Struct, frozen=True):
    """A party: rows of its CSV, and columns used before encoding."""

    name: str
    role: str
    rows: int
    features: int


class AlignmentPart(msgspec.Struct, frozen=True):
    """The alignment; ``rows`` are distinct valid ids."""

    protocol: str
    rows: dict[str, int]
    intersection: int
    seconds: float
    bytes: int


class TrainingPart(msgspec.Struct, frozen=True):
    """The training; ``loss`` has the start and then one entry per round, penalty included."""

    key_holder: str
    key_holder_reason: str
    rounds: int
    converged: bool
    loss: list[float]
    seconds: float
    bytes: int
    messages: int


class CryptoPart(msgspec.Struct, frozen=True):
    """What the encryption was and how much of it there was, over all roles."""

    scheme: str
    key_bits: int
    kernel: str
    encryptions: int
    decryptions: int


class Disclosure(msgspec.Struct, frozen=True):
    """Something that a role learnt: ``count`` messages with ``values`` values in all."""

    to: str
    what: str
    count: int
    source: str = msgspec.field(name="from")
    values: int = 0


class RunReport(msgspec.Struct, frozen=True):
    """report.json."""

    name: str
    task: str
    model: str
    version: str
    seed: int
    parties: list[PartyPart]
    alignment: AlignmentPart
    rows: dict[str, int]
    training: TrainingPart
    crypto: CryptoPart
    metrics: dict[str, Metrics]
    seconds: dict[str, float]
    disclosures: list[Disclosure]
    warnings: list[str]


def summarise(
    scenario: Scenario, played: Played, ledger: Sequence[Entry], pooled: Metrics | None, total_seconds: float
) -> RunReport:
    """Build the report of a run on one machine from what its roles know."""
    job = scenario.job
    lead, hub = played.results[job.active], played.results[COORDINATOR]
    metrics = {"joint": lead.joint or {}}
    if lead.active_only is not None:
        metrics["active_only"] = lead.active_only
    if pooled is not None:
        metrics["pooled"] = pooled
    return RunReport(
        name=job.name,
        task=job.task,
        model=job.model,
        version=__version__,
        seed=job.seed,
        parties=[_party(spec.name, spec.role, played.results[spec.name]) for spec in scenario.parties],
        alignment=AlignmentPart(
            protocol=lead.protocol,
            rows=lead.sizes,
            intersection=lead.intersection,
            seconds=round(hub.seconds["aligning"], 3),
            bytes=_bytes(ledger, ALIGNMENT_PROTOCOLS),
        ),
        rows={"train": lead.n_train, "test": lead.n_test},
        training=TrainingPart(
            key_holder=lead.key_holder,
            key_holder_reason=lead.key_holder_reason,
            rounds=lead.rounds,
            converged=lead.converged,
            loss=lead.losses,
            seconds=round(lead.seconds["training"], 3),
            bytes=_bytes(ledger, TRAINING_PROTOCOLS),
            messages=len(_of(ledger, TRAINING_PROTOCOLS)),
        ),
        crypto=CryptoPart("paillier", job.privacy.key_bits, played.kernel, played.encryptions, played.decryptions),
        metrics=metrics,
        seconds={
            "total": round(total_seconds, 3),
            "alignment": round(hub.seconds["aligning"], 3),
            "training": round(lead.seconds["training"], 3),
            "evaluation": round(lead.seconds["evaluating"], 3),
        },
        disclosures=disclosures(ledger),
        warnings=list(dict.fromkeys(line for result in played.results.values() for line in result.warnings)),
    )


def encode_report(report: RunReport) -> bytes:
    """JSON text of a report; what is not finite becomes null."""
    return msgspec.json.format(msgspec.json.encode(_finite(msgspec.to_builtins(report))), indent=2) + b"\n"


def disclosures(ledger: Sequence[Entry]) -> list[Disclosure]:
    """What each role learnt from whom, in the order in which it first happened."""
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in ledger:
        if entry.discloses:
            groups.setdefault((entry.receiver, entry.discloses, entry.sender), []).append(entry)
    return [
        Disclosure(to=to, what=what, count=len(entries), source=source, values=sum(entry.values for entry in entries))
        for (to, what, source), entries in groups.items()
    ]


def pooled_metrics(scenario: Scenario, folder: Path, n_train: int, tables: TablesByName | None = None) -> Metrics:
    """The same model on all parties' columns side by side: only where one machine has every CSV.

    It takes exactly the columns that the joint run used, encoded as the parties' shards in ``folder`` say.
    """
    job = scenario.job
    loaded = {spec.name: tables[spec.name] if tables else read_party(spec) for spec in scenario.parties}
    rows = _plain_alignment({s.name: read_ids(job, s, loaded[s.name]) for s in scenario.parties}, job.seed)
    X = np.hstack([_encoded(folder / name, loaded[name], rows[name]) for name in loaded])
    spec = next(spec for spec in scenario.parties if spec.role == "active")
    table, order = loaded[spec.name], rows[spec.name]
    labels = encode_labels([(table.labels or [])[row] for row in order], job.task, spec.positive_text, spec.name)
    return baseline_metrics(
        job.model,
        X[:n_train],
        labels.values[:n_train],
        X[n_train:],
        labels.values[n_train:],
        classes=labels.classes,
        l2=job.training.l2,
        fit_intercept=job.training.fit_intercept,
        weights=None if table.weights is None else table.weights[order[:n_train]],
    )


def _plain_alignment(ids: dict[str, PreparedIds], seed: int) -> dict[str, Integers]:
    """CSV rows of the common ids per party, in the agreed order, without a protocol."""
    position = {name: dict(zip(prepared.ids, prepared.rows.tolist(), strict=True)) for name, prepared in ids.items()}
    common = sorted(set.intersection(*(set(rows) for rows in position.values())))
    order = row_order(common, seed)
    return {name: np.array([rows[common[i]] for i in order], dtype=np.int64) for name, rows in position.items()}


def _encoded(folder: Path, table: PartyTable, rows: Integers) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    preprocessor, kept = load_preprocessor(folder)
    X, _ = preprocessor.transform(table.features.iloc[rows].reset_index(drop=True))
    return X[:, kept]


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
