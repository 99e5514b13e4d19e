"""``prediction.json``: one prediction as one object; no ids, no scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from parties.ledger import read_ledger
from vfl import __version__
from vfl.kept_run import KeptRun
from vfl.optim import Vector
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
    kept: KeptRun, scored: Scored, ledger: Path, seconds: float, *, predicted: Sequence[Predicted] = ()
) -> PredictionReport:
    """Build the report of a prediction.

    Parameters
    ----------
    ledger : Path
        Of the prediction: whose disclosures and bytes it lists.
    scored : Scored
        Of whoever writes it.
    predicted : sequence of Predicted
        What parties with labels have that are known here; none at a passive party.
    """
    entries = read_ledger(ledger)
    rows = {name: count for one in predicted for name, count in one.scored.sizes.items()}
    return PredictionReport(
        name=kept.job.name,
        task=kept.job.task,
        model=kept.job.model,
        version=__version__,
        run=kept.run,
        protocol=scored.protocol,
        rows=rows or scored.sizes,
        scored=sum(len(one.scored.rows) for one in predicted) if predicted else _told(scored),
        alone=sum(len(one.alone_rows) for one in predicted) if predicted else None,
        unscored=sum(len(one.unscored) for one in predicted) if predicted else None,
        score=_spread(predicted),
        score_of=predicted[0].new.model.classes[1] if predicted and kept.job.task == "binary" else "",
        classes=_per_class(predicted),
        seconds=round(seconds, 3),
        bytes=sum(entry.bytes for entry in entries),
        disclosures=disclosures(entries),
        warnings=list(dict.fromkeys(line for one in predicted or (scored,) for line in one.warnings)),
    )


def encode_prediction(report: PredictionReport) -> bytes:
    """JSON text of a report."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def write_prediction(folder: Path, report: PredictionReport) -> None:
    """Write ``prediction.json``."""
    (folder / FILE).write_bytes(encode_prediction(report))


def _told(scored: Scored) -> int | None:
    """Rows scored, as far as a party without labels knows of them."""
    return len(scored.rows) if scored.told else None


def _spread(predicted: Sequence[Predicted]) -> dict[str, float] | None:
    """Least, mean and largest score, if they are finite."""
    values = _scores(predicted)
    if values is None or values.ndim != 1 or not len(values):
        return None
    spread = {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}
    return spread if all(map(math.isfinite, spread.values())) else None


def _per_class(predicted: Sequence[Predicted]) -> dict[str, int]:
    """Rows of each predicted class, in code order."""
    from vfl.prediction_csv import chosen_classes

    values = _scores(predicted)
    classes = predicted[0].new.model.classes if predicted else []
    if not classes or values is None:
        return {}
    chosen = chosen_classes(values, classes)
    return {name: chosen.count(name) for name in classes}


def _scores(predicted: Sequence[Predicted]) -> Vector | None:
    """Joint scores of all parties with labels."""
    known = [one.scored.predicted for one in predicted if one.scored.predicted is not None]
    return np.concatenate(known) if known else None
