"""``prediction.json``: one prediction as one object; no ids, no scores."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from parties.ledger import read_ledger
from vfl import __version__
from vfl.kept_run import KeptRun
from vfl.predict import Scored
from vfl.prediction import Predicted
from vfl.report.summary import Disclosure, disclosures

FILE = "prediction.json"


class PredictionReport(msgspec.Struct, frozen=True):
    """prediction.json.

    Attributes
    ----------
    run : str
        Id of the run that trained the model.
    rows : dict of party to int
        Distinct valid ids that each brought.
    scored : int
        Rows that all have, with a joint score.
    alone, unscored : int or None
        Other rows of the active party's data: scored on its own columns alone, and without a score; null elsewhere.
    score : dict or None
        Least, mean and largest score, where there is one score per row.
    score_of : str
        The class whose probability the score is; empty where there is no such class.
    classes : dict of class to int
        Joint rows per predicted class; empty where there are none.
    """

    name: str
    task: str
    model: str
    version: str
    run: str
    protocol: str
    rows: dict[str, int]
    scored: int | None
    alone: int | None
    unscored: int | None
    score: dict[str, float] | None
    score_of: str
    classes: dict[str, int]
    seconds: float
    bytes: int
    disclosures: list[Disclosure]
    warnings: list[str]


def summarise_prediction(
    kept: KeptRun, scored: Scored, ledger: Path, seconds: float, *, predicted: Predicted | None = None
) -> PredictionReport:
    """Build the report of a prediction.

    Parameters
    ----------
    ledger : Path
        Of the prediction: whose disclosures and bytes it lists.
    predicted : Predicted, optional
        At the active party.
    """
    entries = read_ledger(ledger)
    alone = None if predicted is None else len(predicted.alone_rows)
    return PredictionReport(
        name=kept.job.name,
        task=kept.job.task,
        model=kept.job.model,
        version=__version__,
        run=kept.run,
        protocol=scored.protocol,
        rows=scored.sizes,
        scored=len(scored.rows) if scored.told else None,
        alone=alone,
        unscored=None if predicted is None else len(predicted.unscored),
        score=_spread(scored),
        score_of=predicted.new.model.classes[1] if predicted is not None and kept.job.task == "binary" else "",
        classes={} if predicted is None else _per_class(predicted),
        seconds=round(seconds, 3),
        bytes=sum(entry.bytes for entry in entries),
        disclosures=disclosures(entries),
        warnings=list(predicted.warnings if predicted is not None else scored.warnings),
    )


def encode_prediction(report: PredictionReport) -> bytes:
    """JSON text of a report."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def write_prediction(folder: Path, report: PredictionReport) -> None:
    """Write ``prediction.json``."""
    (folder / FILE).write_bytes(encode_prediction(report))


def _spread(scored: Scored) -> dict[str, float] | None:
    """Least, mean and largest score, if they are finite."""
    values = scored.predicted
    if values is None or values.ndim != 1:
        return None
    spread = {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}
    return spread if all(map(math.isfinite, spread.values())) else None


def _per_class(predicted: Predicted) -> dict[str, int]:
    """Rows of each predicted class, in code order."""
    from vfl.prediction import chosen_classes

    classes = predicted.new.model.classes
    if not classes or predicted.scored.predicted is None:
        return {}
    chosen = chosen_classes(predicted.scored.predicted, classes)
    return {name: chosen.count(name) for name in classes}
