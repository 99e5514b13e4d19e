"""Joint scores as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from vfl.optim import Vector
from vfl.prediction import Predicted
from vfl.shard import id_cells
from vfl.terms import Integers

THRESHOLD = 0.5


def scores_csv(predicted: Sequence[Predicted]) -> bytes:
    """Scores as CSV, in the order of the data: id as there, score or one per class, and class.

    Silos' rows follow each other, and a first column ``silo`` says whose they are. With ``unmatched_rows = "score"`` a
    column ``joint`` says which rows all parties have. Rows without ids are numbered from 1 on, in a column ``row``. An
    id column that bears the name of another column is called "CSV name".
    """
    alone = any(one.alone is not None for one in predicted)
    return _csv([_scores(one, alone=alone) for one in predicted])


def unmatched_csv(predicted: Sequence[Predicted]) -> bytes | None:
    """Ids of the rows without any score, as in the data; None if there are none."""
    if not any(len(one.unscored) for one in predicted):
        return None
    return _csv([_unscored(one) for one in predicted])


def score_columns(scores: Vector, classes: Sequence[str]) -> dict[str, Sequence[object]]:
    """Columns of predictions: ``score``, or ``score_CLASS`` for each class; and ``class`` where there are classes."""
    if scores.ndim == 2:
        columns: dict[str, Sequence[object]] = {
            f"score_{name}": scores[:, at].tolist() for at, name in enumerate(classes)
        }
    else:
        columns = {"score": scores.tolist()}
    return columns | ({"class": chosen_classes(scores, classes)} if classes else {})


def chosen_classes(scores: Vector, classes: Sequence[str]) -> list[str]:
    """Class of each row: the likeliest one, of two the positive one from a probability of one half on."""
    codes = scores.argmax(axis=1) if scores.ndim == 2 else (scores >= THRESHOLD).astype(np.int64)
    return [classes[code] for code in codes.tolist()]


def _scores(predicted: Predicted, *, alone: bool) -> dict[str, Sequence[object]]:
    """The columns of one party's scores."""
    rows, scores, joint = predicted.in_order()
    columns = score_columns(scores, predicted.new.model.classes)
    if alone:
        columns["joint"] = ["true" if flag else "false" for flag in joint]
    silo = _silo(predicted, len(rows))
    return silo | _ids(predicted, rows, [*silo, *columns]) | columns


def _unscored(predicted: Predicted) -> dict[str, Sequence[object]]:
    """The columns of one party's rows without any score."""
    silo = _silo(predicted, len(predicted.unscored))
    return silo | _ids(predicted, predicted.unscored, list(silo))


def _silo(predicted: Predicted, rows: int) -> dict[str, Sequence[object]]:
    return {"silo": [predicted.silo] * rows} if predicted.silo else {}


def _ids(predicted: Predicted, rows: Integers, taken: Collection[str]) -> dict[str, Sequence[object]]:
    cells = id_cells(predicted.new.spec, predicted.new.table, rows)
    return {f"CSV {name}" if name in taken else name: column for name, column in cells.items()}


def _csv(blocks: Sequence[Mapping[str, Sequence[object]]]) -> bytes:
    """One block of rows below the other; a column that a block lacks is empty there."""
    names = list(dict.fromkeys(name for block in blocks for name in block))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for block in blocks:
        rows = len(next(iter(block.values())))
        writer.writerows(zip(*(block.get(name, [""] * rows) for name in names), strict=True))
    return text.getvalue().encode()
