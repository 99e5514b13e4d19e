"""``vfl evaluate``: joint metrics of a trained model on new rows with labels, and the report of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from parties.errors import ConfigError, DataError
from parties.ledger import Entry
from vfl.events import Metrics
from vfl.prediction import Predicted
from vfl.report.evidence import JOINT, Evidence, merge_evidence, save_evidence
from vfl.report.run_directory import read_report
from vfl.report.statistics import bootstrap_intervals
from vfl.report.summary import ALIGNMENT_PROTOCOLS, AlignmentPart, PartyPart, RunReport, disclosures, encode_report
from vfl.shard import save_test_scores

REPORT = "report.json"


def report_of_training(directory: Path) -> RunReport:
    """``report.json`` of the run whose model is evaluated; see `read_report` for what is refused."""
    report = read_report(directory / REPORT)
    if report.evaluates:
        raise ConfigError(
            f"RUN_DIR {directory}, got an evaluation of a model, expected the directory of the run that trained it"
        )
    return report


def evaluate_rows(
    predicted: Sequence[Predicted], trained: RunReport, entries: list[Entry], seconds: float
) -> RunReport:
    """The report of an evaluation: metrics of the joint scores on the new rows of all parties with labels.

    Parameters
    ----------
    predicted : sequence of Predicted
        Of the active party, or of all silos with labels that are known here.
    trained : RunReport
        Of the run that trained the model; what is about the training stays as it is there.
    entries : list of Entry
        The evaluation's ledger.
    """
    evidence = evidence_of(predicted)
    metrics = metrics_of(evidence)
    scored = predicted[0].scored
    return msgspec.structs.replace(
        trained,
        parties=_parties(predicted, trained),
        alignment=_alignment(predicted, entries),
        rows={**trained.rows, "test": len(evidence.y)},
        metrics={JOINT: metrics.pop(JOINT)},
        seconds={
            "total": round(seconds, 3),
            "alignment": round(scored.seconds["aligning"], 3),
            "training": 0.0,
            "evaluation": round(sum(one.scored.seconds["scoring"] for one in predicted), 3),
        },
        disclosures=disclosures(entries),
        warnings=list(dict.fromkeys(line for one in predicted for line in one.warnings)),
        confidence=bootstrap_intervals(evidence, trained.seed),
        comparison={},
        without={},
        alone={},
        by_silo=metrics,
        time={},
        evaluates=predicted[0].new.model.kept.run,
    )


def evidence_of(predicted: Sequence[Predicted]) -> Evidence:
    """Labels and joint scores of the new rows, in the order of each one's data, silos one after the other.

    Raises
    ------
    DataError
        There is no row to judge.
    """
    parts = [_evidence_of(one) for one in predicted]
    if len(parts) == 1:
        return parts[0]
    merged = merge_evidence({one.silo: part for one, part in zip(predicted, parts, strict=True)})
    if merged is None:
        raise DataError("the new rows: none was scored, expected one at least in one of the silos; check their ids")
    return merged


def metrics_of(evidence: Evidence) -> dict[str, Metrics]:
    """Metrics of the joint scores on all rows, as "joint", and on each silo's, by its name."""
    from vfl.metrics import evaluate  # scikit-learn takes seconds to import

    return {
        name: evaluate(one.task, one.y, one.predicted[JOINT], one.classes)
        for name, one in {JOINT: evidence, **evidence.of_silos()}.items()
    }


def write_evaluation(folder: Path, predicted: Sequence[Predicted], report: RunReport) -> None:
    """Fill a folder: those of parties with labels with scores and evidence, and report.json."""
    for one in predicted:
        new, scored = one.new, one.scored
        own = folder / new.spec.name
        own.mkdir(mode=0o700, exist_ok=True)
        if scored.predicted is not None:
            save_test_scores(own, new.spec, new.table, scored.rows, scored.predicted, new.model.classes)
        save_evidence(own, _evidence_of(one))
    if len(predicted) > 1:
        save_evidence(folder, evidence_of(predicted))
    (folder / REPORT).write_bytes(encode_report(report))


def _evidence_of(predicted: Predicted) -> Evidence:
    new, scored = predicted.new, predicted.scored
    if new.labels is None or scored.predicted is None:
        raise TypeError("an evaluation needs labels and scores")
    return Evidence(
        new.model.kept.job.task, tuple(new.model.classes), new.labels[scored.rows], {JOINT: scored.predicted}
    )


def _parties(predicted: Sequence[Predicted], trained: RunReport) -> list[PartyPart]:
    """Rows of the new data, and columns in use."""
    rows = {name: count for one in predicted for name, count in one.csv_rows.items()}
    features = {party.name: party.features for party in trained.parties}
    features |= {one.new.spec.name: len(one.new.model.columns) for one in predicted}
    return [
        msgspec.structs.replace(party, rows=rows.get(party.name), features=features[party.name])
        for party in trained.parties
    ]


def _alignment(predicted: Sequence[Predicted], entries: list[Entry]) -> AlignmentPart:
    """How the new ids were aligned, if they were."""
    scored = predicted[0].scored
    aligned = not predicted[0].job.horizontal
    return AlignmentPart(
        protocol=scored.protocol,
        rows=scored.sizes if aligned else {},
        intersection=scored.intersection if aligned else None,
        seconds=round(scored.seconds["aligning"], 3),
        bytes=sum(entry.bytes for entry in entries if entry.message.partition(".")[0] in ALIGNMENT_PROTOCOLS),
    )
