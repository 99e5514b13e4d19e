"""A prediction on one machine: read the shards of a run and new CSVs, play all roles, and hand out the joint scores.

``vfl.predict`` is the protocol; here is what stands around it. Between companies see `vfl.company_prediction`.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from parties.errors import ConfigError, DataError, VflError
from parties.ledger import Ledger, merge_sent, write_ledger
from parties.link import COORDINATOR, Endpoint
from parties.local import run_local
from parties.policy import Guards
from vfl import predict
from vfl.events import Report
from vfl.job import Job, job_fields
from vfl.kept_model import Model, load_model
from vfl.kept_run import FILE, load_kept_run
from vfl.new_rows import NewRows, read_new_rows
from vfl.optim import Vector
from vfl.play import role_types
from vfl.predict import Scored
from vfl.role import internal_error, own_folder
from vfl.terms import Integers

if TYPE_CHECKING:
    import pandas as pd

LEDGER = "ledger.jsonl"
THRESHOLD = 0.5


@dataclass(frozen=True)
class Predicted:
    """Scores of the active party's new rows.

    Parameters
    ----------
    new : NewRows
        The active party's.
    scored : Scored
        The joint scores of the rows that all parties have.
    unmatched : ndarray of shape (m,), int64
        The other rows of its data, ascending; ``alone``: their scores by its own part of the model, where its policy
        says so, of those with a valid id, in the order of ``alone_rows``.
    csv_rows : dict of party name to int
        Rows of the data of every party that is known here.
    """

    new: NewRows
    scored: Scored
    unmatched: Integers = field(repr=False)
    alone_rows: Integers = field(repr=False)
    alone: Vector | None = field(repr=False)
    csv_rows: dict[str, int]
    warnings: tuple[str, ...]

    @property
    def job(self) -> Job:
        """The job that trained the model."""
        return self.new.model.kept.job

    @property
    def unscored(self) -> Integers:
        """Rows without any score."""
        return np.setdiff1d(self.unmatched, self.alone_rows)

    def in_order(self) -> tuple[Integers, Vector, NDArray[np.bool_]]:
        """Rows with a score in the order of the data, their scores, and whether these are joint."""
        rows, scores = self.scored.rows, self.scored.predicted
        if scores is None:
            raise TypeError("only the active party has scores")
        joint = np.ones(len(rows), dtype=bool)
        if self.alone is not None:
            rows, scores = np.append(rows, self.alone_rows), np.concatenate([scores, self.alone])
            joint = np.append(joint, np.zeros(len(self.alone_rows), dtype=bool))
        order = np.argsort(rows)
        return rows[order], scores[order], joint[order]


def find_parties(folder: Path) -> list[str]:
    """Names of the parties whose part of a model lies in a run's directory, in job order.

    Raises
    ------
    ConfigError
        The directory is no run's.
    DataError
        A part is damaged, or parts are of different runs.
    """
    try:
        found = sorted(path.parent.name for path in folder.glob(f"*/{FILE}"))
    except OSError:
        found = []
    if not found:
        raise ConfigError(
            f"RUN_DIR, got {str(folder)!r}, expected the directory of a finished run, with a folder per party and "
            f"{FILE} in it; name the --out of 'vfl run' or 'vfl join'"
        )
    kept = {name: load_kept_run(folder / name) for name in found}
    first = kept[found[0]]
    for name, one in kept.items():
        if one.party.name != name:
            raise DataError(
                f"{folder / name}: got the part of '{one.party.name}', expected that of '{name}'; put it back"
            )
        if one.run != first.run:
            raise DataError(
                f"{folder / name}: got a shard of another run than {folder / found[0]}, expected the same run; put the "
                "folders of one run together, as it left them"
            )
    return [party.name for party in first.job.parties if party.name in found]


def load_models(folder: Path) -> dict[str, Model]:
    """Every party's part of the model in a run's directory of one machine.

    Raises
    ------
    ConfigError, DataError
        As `find_parties`; or a party's part is not there.
    """
    names = find_parties(folder)
    models = {name: load_model(folder / name) for name in names}
    job = next(iter(models.values())).kept.job
    lost = [party.name for party in job.parties if party.name not in models]
    if lost:
        raise ConfigError(
            f"RUN_DIR {folder}, got the part of {_listed(names)} alone, expected that of {_listed(lost)} too; between "
            "companies every party names its own folder and its party file: --join PARTY.toml"
        )
    return models


def check_data(names: Sequence[str], data: Mapping[str, object]) -> None:
    """Refuse data of strangers, and parties without data."""
    for name in data:
        if name not in names:
            raise ConfigError(f"--data, got one for '{name}', expected {_listed(names)}, the parties of the run")
    if lost := [name for name in names if name not in data]:
        raise ConfigError(
            f"--data missing for party '{lost[0]}', got {_listed(list(data)) or 'none'}, expected one PARTY=CSV for "
            f"each of {_listed(names)}"
        )


def predict_here(
    models: Mapping[str, Model],
    data: Mapping[str, Path | pd.DataFrame],
    report: Report,
    *,
    labelled: bool = False,
    ledgers: Path | None = None,
) -> Predicted:
    """Score new rows jointly, all roles in this process, taking turns.

    Parameters
    ----------
    models : mapping of party name to Model
        Of all parties, as `load_models` reads them.
    data : mapping of party name to path or DataFrame
    labelled : bool
        The active party's data have labels.
    ledgers : Path, optional
        An existing folder for every role's ledger and, in the end, one of all.

    Raises
    ------
    VflError
        One line; nothing is written but ledgers.
    """
    names = list(models)
    check_data(names, data)
    job = models[names[0]].kept.job
    news = {name: _read(models[name], data[name], labelled=labelled) for name in names}
    books = {name: Ledger(None if ledgers is None else own_folder(ledgers, name) / LEDGER) for name in role_types(job)}

    def play(endpoint: Endpoint) -> Scored:
        try:
            if endpoint.name == COORDINATOR:
                return predict.play_coordinator(endpoint, job, report)
            return predict.play_party(endpoint, news[endpoint.name], report, workers=min(os.cpu_count() or 1, 5))
        except VflError:
            raise
        except Exception as error:
            raise internal_error(endpoint.name, error) from error

    try:
        results = run_local(dict.fromkeys(books, play), roles=role_types(job), job=job_fields(job), ledgers=books)
    finally:
        for book in books.values():
            book.close()
    if ledgers is not None:
        write_ledger(ledgers / LEDGER, merge_sent(book.entries for book in books.values()))
    rows = {name: new.table.n_rows for name, new in news.items()}
    sizes = {name: results[name].sizes[name] for name in names}  # each its own: lists may be padded
    return summarise(news[job.active], replace(results[job.active], sizes=sizes), rows, [results[n] for n in names])


def summarise(new: NewRows, scored: Scored, rows: dict[str, int], results: Sequence[Scored]) -> Predicted:
    """What the active party has in the end; rows that the others lack are scored alone if its policy says so."""
    unmatched = np.setdiff1d(np.arange(new.table.n_rows), scored.rows)
    valid = np.setdiff1d(new.ids.rows, scored.rows)
    alone = predict.predict_alone(new, valid) if new.spec.policy.unmatched_rows == "score" else None
    warnings = tuple(dict.fromkeys(line for result in results for line in result.warnings))
    return Predicted(new, scored, unmatched, valid if alone is not None else valid[:0], alone, rows, warnings)


def scores_csv(predicted: Predicted) -> bytes:
    """Scores as CSV, in the order of the active party's data: id as there, score or one per class, and class.

    With ``unmatched_rows = "score"`` a column ``joint`` says which rows all parties have. An id column that bears the
    name of another column is called "CSV name".
    """
    rows, scores, joint = predicted.in_order()
    columns = score_columns(scores, predicted.new.model.classes)
    if predicted.alone is not None:
        columns["joint"] = ["true" if flag else "false" for flag in joint]
    return _csv(_ids(predicted.new, rows, columns) | columns)


def unmatched_csv(predicted: Predicted) -> bytes | None:
    """Ids of the rows without any score, as in the active party's data; None if there are none."""
    rows = predicted.unscored
    return _csv(_ids(predicted.new, rows, {})) if len(rows) else None


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


def _read(model: Model, data: Path | pd.DataFrame, *, labelled: bool) -> NewRows:
    """One party's new rows; its policy is that of the run."""
    kept = model.kept
    guards = Guards(enforce=kept.job.privacy.enforce, small_data=True)
    return read_new_rows(model, kept.party, data, guards, labelled=labelled and kept.party.role == "active")


def _ids(new: NewRows, rows: Integers, taken: Mapping[str, object]) -> dict[str, Sequence[object]]:
    cells = zip(new.spec.id_columns, new.table.id_columns, strict=True)
    return {f"CSV {name}" if name in taken else name: [column[row] for row in rows] for name, column in cells}


def _csv(columns: Mapping[str, Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
