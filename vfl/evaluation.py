"""``vfl evaluate``: joint metrics of a trained model on new rows with labels, and the report of them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from parties.errors import ConfigError
from parties.ledger import Entry
from vfl.prediction import Predicted
from vfl.report.evidence import JOINT, Evidence, save_evidence
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


def evaluate_rows(predicted: Predicted, trained: RunReport, entries: list[Entry], seconds: float) -> RunReport:
    """The report of an evaluation: metrics of the joint scores on the new rows.

    Parameters
    ----------
    trained : RunReport
        Of the run that trained the model; what is about the training stays as it is there.
    entries : list of Entry
        The evaluation's ledger.
    """
    from vfl.metrics import evaluate  # scikit-learn takes seconds to import

    evidence = evidence_of(predicted)
    scored, columns = predicted.scored, len(predicted.new.model.columns)
    features = {party.name: party.features for party in trained.parties} | {predicted.new.spec.name: columns}
    return msgspec.structs.replace(
        trained,
        parties=[
            PartyPart(party.name, party.role, predicted.csv_rows.get(party.name), features[party.name])
            for party in trained.parties
        ],
        alignment=AlignmentPart(
            protocol=scored.protocol,
            rows=scored.sizes,
            intersection=len(scored.rows),
            seconds=round(scored.seconds["aligning"], 3),
            bytes=sum(entry.bytes for entry in entries if entry.message.partition(".")[0] in ALIGNMENT_PROTOCOLS),
        ),
        rows={**trained.rows, "test": len(scored.rows)},
        metrics={JOINT: evaluate(evidence.task, evidence.y, evidence.predicted[JOINT], evidence.classes)},
        seconds={
            "total": round(seconds, 3),
            "alignment": round(scored.seconds["aligning"], 3),
            "training": 0.0,
            "evaluation": round(scored.seconds["scoring"], 3),
        },
        disclosures=disclosures(entries),
        warnings=list(predicted.warnings),
        confidence=bootstrap_intervals(evidence, trained.seed),
        comparison={},
        without={},
        time={},
        evaluates=predicted.new.model.kept.run,
    )


def evidence_of(predicted: Predicted) -> Evidence:
    """Labels and joint scores of the new rows, in the order of the active party's data."""
    new, scored = predicted.new, predicted.scored
    if new.labels is None or scored.predicted is None:
        raise TypeError("an evaluation needs labels and scores")
    return Evidence(
        new.model.kept.job.task, tuple(new.model.classes), new.labels[scored.rows], {JOINT: scored.predicted}
    )


def write_evaluation(folder: Path, predicted: Predicted, report: RunReport) -> None:
    """Fill a folder: the active party's own with scores and evidence, and report.json."""
    new, scored = predicted.new, predicted.scored
    own = folder / new.spec.name
    own.mkdir(mode=0o700, exist_ok=True)
    if scored.predicted is not None:
        save_test_scores(own, new.spec, new.table, scored.rows, scored.predicted, new.model.classes)
    save_evidence(own, evidence_of(predicted))
    (folder / REPORT).write_bytes(encode_report(report))
