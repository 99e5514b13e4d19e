"""Parties made of silos with their rows in one place, as a run had them: for the models beside the joint one.

Only where one machine has every CSV anyway. The common rows stand in the agreed order where all roles could know it:
with a party that is no silo. Where all are silos the order was drawn for the run alone; the label holder's ``ids.csv``
say then which rows were for what, and the rows of each part follow each other silo by silo.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from parties.columns import Kind
from parties.data import PartyTable
from parties.errors import DataError
from parties.policy import Guards
from parties.spec import holder_of
from psi.ids import PreparedIds
from psi.plain import PlainRows, plain_alignment
from vfl.job import Job, Scenario
from vfl.parts import Parts
from vfl.prepare import split_rows
from vfl.report.evidence import Evidence, Floats
from vfl.session import aligned_labels
from vfl.terms import Integers
from vfl.trained import Aligned

IDS = "ids.csv"
Where = tuple[str, int]


@dataclass(frozen=True)
class Gathered:
    """The common rows of a federation with silos, in one place.

    Parameters
    ----------
    places : dict of holder to list of (member, row)
        Where each common row stands in the CSVs of the holder's members.
    parts : Parts
        How many of them are for what, in this order.
    """

    places: dict[str, list[Where]] = field(repr=False)
    parts: Parts

    @property
    def rows(self) -> int:
        """How many rows are common."""
        return self.parts.train + self.parts.validation + self.parts.test

    def test_rows_of(self, holder: str, silos: Sequence[str]) -> Integers:
        """The test rows silo by silo, numbered from the first test row on."""
        first = self.parts.train + self.parts.validation
        owners = [member for member, _ in self.places[holder][first:]]
        return np.array([at for silo in silos for at, owner in enumerate(owners) if owner == silo], dtype=np.int64)


def gather_rows(job: Job, ids: Mapping[str, PreparedIds], folder: Path, tables: Mapping[str, PartyTable]) -> Gathered:
    """Find the common rows, as the alignment did, and the parts that they fell into.

    Parameters
    ----------
    folder : Path
        The run's directory.
    """
    found = plain_alignment(ids, job.seed, job.alignment.duplicates)
    common = sum(len(found[name].rows) for name in job.labelled)
    places = {holder: _placed(members, found, common) for holder, members in job.holders.items()}
    if any(members == (holder,) for holder, members in job.holders.items()):
        return Gathered(places, split_rows(job, common))
    order, parts = _as_kept(job, places[holder_of(job.active)], folder, tables)
    return Gathered({holder: [held[at] for at in order] for holder, held in places.items()}, parts)


def _placed(members: Sequence[str], found: Mapping[str, PlainRows], common: int) -> list[Where]:
    """Which member of a holder has each common row, and where."""
    held: list[Where] = [("", 0)] * common
    for name in members:
        for place, row in zip(found[name].owned.tolist(), found[name].rows.tolist(), strict=True):
            held[place] = name, row
    return held


def _as_kept(
    job: Job, held: Sequence[Where], folder: Path, tables: Mapping[str, PartyTable]
) -> tuple[list[int], Parts]:
    """The common rows part by part, as the label holder's silos kept them, each in its own order."""
    places = {where: at for at, where in enumerate(held)}
    rows: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for name in job.labelled:
        first: dict[tuple[str, ...], int] = {}
        for row, cells in enumerate(zip(*tables[name].id_columns, strict=True)):
            first.setdefault(cells, row)
        kept = pd.read_csv(folder / name / IDS, dtype=str, keep_default_na=False)
        for *parts, part in kept.itertuples(index=False):
            place = places.get((name, first.get(tuple(parts), -1)))
            if place is None or part not in rows:
                raise changed(folder / name / IDS)
            rows[part].append(place)
    return [place for held in rows.values() for place in held], Parts(*(len(held) for held in rows.values()))


def changed(path: Path) -> DataError:
    """What a CSV that is another one than the run read comes to."""
    return DataError(
        f"{path}: its rows are not those of the CSV, expected the CSV as the run read it; leave the files alone while "
        "a run goes on, and run again"
    )


def frame_of(places: Sequence[Where], tables: Mapping[str, PartyTable]) -> pd.DataFrame:
    """Columns of a holder's common rows; a column that a silo has no cell of is what it is at the others."""
    members = list(dict.fromkeys(member for member, _ in places))
    first = tables[members[0]].features.columns
    kinds = {column: _kind([tables[member] for member in members], column) for column in first}
    starts: dict[str, int] = {}
    frames, at = [], 0
    for member in members:
        frame = tables[member].features[list(first)]
        frames.append(_of_kinds(frame, kinds))
        starts[member], at = at, at + len(frame)
    whole = pd.concat(frames, ignore_index=True)
    return whole.iloc[[starts[member] + row for member, row in places]].reset_index(drop=True)


def _kind(tables: Sequence[PartyTable], column: str) -> Kind:
    known = [table.kinds[column] for table in tables if table.features[column].notna().any()]
    return known[0] if known else tables[0].kinds[column]


def _of_kinds(frame: pd.DataFrame, kinds: Mapping[str, Kind]) -> pd.DataFrame:
    kept = {}
    for column, kind in kinds.items():
        cells = frame[column].reset_index(drop=True)
        if cells.isna().all():
            missing, dtype = (np.nan, "float64") if kind == "numeric" else (None, "object")
            cells = pd.Series(missing, cells.index, dtype=dtype)
        kept[column] = cells
    return pd.DataFrame(kept)


def labelled_data(scenario: Scenario, gathered: Gathered, tables: Mapping[str, PartyTable]) -> Aligned:
    """The label holder's common rows as if they were one party's."""
    job = scenario.job
    spec = next(spec for spec in scenario.parties if spec.name == job.active)
    places, parts = gathered.places[spec.holder], gathered.parts
    table = replace(
        tables[job.active],
        id_columns=[],
        features=pd.DataFrame(index=range(gathered.rows)),
        kinds={},
        labels=[(tables[member].labels or [])[row] for member, row in places],
        weights=_weights([tables[member] for member, _ in places], [row for _, row in places]),
    )
    rows, guards = np.arange(gathered.rows), Guards(enforce=False, small_data=True)
    return Aligned(job, spec, table, rows, aligned_labels(job, spec, table, rows, parts), guards, *_fit(parts))


def _fit(parts: Parts) -> tuple[int, int]:
    return parts.train, parts.validation


def _weights(tables: Sequence[PartyTable], rows: Sequence[int]) -> Floats | None:
    if any(table.weights is None for table in tables):
        return None
    cells = zip((table.weights for table in tables), rows, strict=True)
    return np.array([weights[row] for weights, row in cells if weights is not None])


def in_evidence_order(
    job: Job, gathered: Gathered, data: Aligned, evidence: Evidence, folder: Path
) -> Callable[[Floats], Floats]:
    """What puts predictions of the test rows into the order of the evidence, silo by silo.

    Raises
    ------
    DataError
        The labels there are not those of the evidence: somebody has changed a CSV since the run read it.
    """
    holder = data.spec.holder
    order = gathered.test_rows_of(holder, [name for name in job.labelled if name in (evidence.silos or job.labelled)])
    if not np.array_equal(data.labels_to_judge[order], evidence.y):
        raise changed(folder / job.active / IDS)
    return lambda predicted: predicted[order]
