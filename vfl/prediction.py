"""A prediction on one machine: read the shards of a run and new CSVs, play all roles, and hand out the joint scores.

``vfl.predict`` is the protocol; here is what stands around it. Between companies see `vfl.company_prediction`. Every
party with labels gets the scores of its own rows: without silos one party, else each silo of the label holder. Where
silos alone have trained, each has the whole model, and nothing is played (`vfl.horizontal_prediction`).
"""

from __future__ import annotations

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
from vfl.horizontal_prediction import score_locally
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
UNNAMED = ""
"""Instead of a party's name: data of nobody in particular."""


@dataclass(frozen=True)
class Predicted:
    """Scores of the new rows of a party with labels: the active party, or a silo.

    Parameters
    ----------
    new : NewRows
        Its own.
    scored : Scored
        The joint scores of the rows that all parties have.
    unmatched : ndarray of shape (m,), int64
        The other rows of its data, ascending; ``alone``: their scores by its own part of the model, where its policy
        says so, of those with a valid id, in the order of ``alone_rows``.
    csv_rows : dict of party name to int
        Rows of the data of every party that is known here.
    silo : str
        Its name where it is a silo; empty of any other party, and where silos alone have trained and it was not said
        whose rows these are.
    """

    new: NewRows
    scored: Scored
    unmatched: Integers = field(repr=False)
    alone_rows: Integers = field(repr=False)
    alone: Vector | None = field(repr=False)
    csv_rows: dict[str, int]
    warnings: tuple[str, ...]
    silo: str = ""

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
            raise TypeError("only parties with labels have scores")
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

    Where silos alone have trained each has the whole model, and those that are there are enough.

    Raises
    ------
    ConfigError, DataError
        As `find_parties`; or a party's part is not there.
    """
    names = find_parties(folder)
    models = {name: load_model(folder / name) for name in names}
    job = next(iter(models.values())).kept.job
    lost = [party.name for party in job.parties if party.name not in models]
    if lost and not job.horizontal:
        raise ConfigError(
            f"RUN_DIR {folder}, got the part of {_listed(names)} alone, expected that of {_listed(lost)} too; between "
            "companies every party names its own folder and its party file: --join PARTY.toml"
        )
    return models


def check_data(models: Mapping[str, Model], data: Mapping[str, object]) -> None:
    """Refuse data of strangers, and parties without data.

    Data of nobody in particular (``UNNAMED``), or of some silos, are enough where silos alone have trained.
    """
    names, horizontal = list(models), _job(models).horizontal
    if UNNAMED in data and (not horizontal or len(data) > 1):
        raise unnamed(str(data[UNNAMED]))
    for name in data:
        if name not in (*names, UNNAMED):
            hint = "; rows of anybody else come without a name: --data CSV" if horizontal else ""
            raise ConfigError(f"--data, got one for '{name}', expected {_listed(names)}, the parties of the run{hint}")
    if not data and horizontal:
        raise ConfigError(f"--data missing, got none, expected a CSV, or one PARTY=CSV for any of {_listed(names)}")
    if not horizontal and (lost := [name for name in names if name not in data]):
        raise ConfigError(
            f"--data missing for party '{lost[0]}', got {_listed(list(data)) or 'none'}, expected one PARTY=CSV for "
            f"each of {_listed(names)}"
        )


def unnamed(path: str) -> ConfigError:
    """Data that nobody's name stands before."""
    return ConfigError(f"--data, got {path!r}, expected PARTY=CSV such as bank=new_customers.csv")


def predict_here(
    models: Mapping[str, Model],
    data: Mapping[str, Path | pd.DataFrame],
    report: Report,
    *,
    labelled: bool = False,
    ledgers: Path | None = None,
) -> tuple[Predicted, ...]:
    """Score new rows jointly, all roles in this process, taking turns.

    Parameters
    ----------
    models : mapping of party name to Model
        Of all parties, as `load_models` reads them.
    data : mapping of party name to path or DataFrame
        Where silos alone have trained: of some of them, or of nobody in particular, as ``UNNAMED``.
    labelled : bool
        The data of parties with labels have them.
    ledgers : Path, optional
        An existing folder for every role's ledger and, in the end, one of all.

    Returns
    -------
    tuple of Predicted
        One for each party with labels whose data were given, in job order.

    Raises
    ------
    VflError
        One line; nothing is written but ledgers.
    """
    check_data(models, data)
    if _job(models).horizontal:
        return _predict_apart(models, data, labelled=labelled, ledgers=ledgers)
    news = {name: _read(model, data[name], labelled=labelled) for name, model in models.items()}
    return _predict_together(news, report, ledgers)


def _predict_apart(
    models: Mapping[str, Model],
    data: Mapping[str, Path | pd.DataFrame],
    *,
    labelled: bool,
    ledgers: Path | None,
) -> tuple[Predicted, ...]:
    """Score rows where silos alone have trained: nobody else is needed, and the ledger stays empty."""
    found = []
    for name in (UNNAMED, *models):
        if name in data:
            model = models[name] if name else next(iter(models.values()))
            new = _read(model, data[name], labelled=labelled)
            scored = score_locally(new)
            nothing = np.zeros(0, dtype=np.int64)
            rows = {model.name: new.table.n_rows}
            found.append(Predicted(new, scored, nothing, nothing, None, rows, scored.warnings, name))
    if ledgers is not None:
        write_ledger(ledgers / LEDGER, [])
    return tuple(found)


def _predict_together(news: Mapping[str, NewRows], report: Report, ledgers: Path | None) -> tuple[Predicted, ...]:
    """Play all roles."""
    job = next(iter(news.values())).model.kept.job
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
    sizes = {name: results[name].sizes[name] for name in news}  # each its own: lists may be padded
    return tuple(
        summarise(news[name], replace(results[name], sizes=sizes), rows, [results[n] for n in news])
        for name in job.labelled
    )


def summarise(new: NewRows, scored: Scored, rows: dict[str, int], results: Sequence[Scored]) -> Predicted:
    """What a party with labels has in the end; rows that others lack are scored alone if its policy says so."""
    unmatched = np.setdiff1d(np.arange(new.table.n_rows), scored.rows)
    valid = np.setdiff1d(new.valid.rows, scored.rows)
    alone = predict.predict_alone(new, valid) if new.spec.policy.unmatched_rows == "score" else None
    warnings = tuple(dict.fromkeys(line for result in results for line in result.warnings))
    own = valid if alone is not None else valid[:0]
    silo = new.spec.name if new.spec.name != new.spec.holder else ""
    return Predicted(new, scored, unmatched, own, alone, rows, warnings, silo)


def _job(models: Mapping[str, Model]) -> Job:
    return next(iter(models.values())).kept.job


def _read(model: Model, data: Path | pd.DataFrame, *, labelled: bool) -> NewRows:
    """One party's new rows; its policy is that of the run."""
    kept = model.kept
    guards = Guards(enforce=kept.job.privacy.enforce, small_data=True)
    return read_new_rows(model, kept.party, data, guards, labelled=labelled and kept.party.role == "active")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
