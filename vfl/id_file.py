"""A party's CSV for an alignment alone: its id columns are read, and its aligned rows are written.

Other columns are not looked at, so that a cell which no training could use does not matter here.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from parties.csv_file import csv_rows, spelled
from parties.data import check_column
from parties.durable import write_durably
from parties.errors import DataError
from parties.spec import PartySpec
from psi.ids import IdRules, PreparedIds, prepare_ids
from vfl.job import Job


@dataclass(frozen=True)
class IdFile:
    """The ids of a party's CSV.

    Attributes
    ----------
    ids
        What ``psi.align.align_party`` takes.
    """

    ids: PreparedIds = field(repr=False)

    @property
    def total(self) -> int:
        """Rows of the CSV."""
        return self.ids.total

    @property
    def missing(self) -> int:
        """Rows left out because they have no id."""
        return self.ids.missing

    @property
    def duplicates(self) -> int:
        """Rows left out because their id occurs more than once."""
        return self.ids.duplicates

    @property
    def count(self) -> int:
        """Distinct valid ids."""
        return len(self.ids.ids)

    @property
    def rules(self) -> IdRules:
        """How ids were normalised."""
        return self.ids.rules


def read_id_file(job: Job, spec: PartySpec, scratch: Path) -> IdFile:
    """Read the ids of a party's CSV.

    Parameters
    ----------
    scratch : Path
        A directory for files that grow with the CSV; they can be removed after the alignment.

    Raises
    ------
    DataError
        A file that cannot be read, ids that the job's rules refuse, or an id column that is not there.
    """
    source = f"party {spec.name}, file {spec.data}"
    rows = csv_rows(Path(spec.data), spec.encoding, source)
    _, header = next(rows)
    places = _id_places(spec, header, source)
    cells = [[row[place] for place in places] for _, row in rows]
    rules = IdRules(casefold=job.alignment.casefold, digits_only=job.alignment.digits_only, columns=len(places))
    ids = prepare_ids(
        list(zip(*cells, strict=True)),
        rules,
        party=spec.name,
        duplicates=job.alignment.duplicates,
        missing=job.alignment.missing,
    )
    return IdFile(ids)


def write_aligned(spec: PartySpec, rows: NDArray[np.int64], out: Path) -> None:
    """Write rows of a party's CSV in the order given, all columns, cells as they stand; whole or not at all.

    Parameters
    ----------
    rows : ndarray of shape (n,), int64
        Rows of the CSV, 0 the first below the header.
    out : Path
        The file to write: UTF-8, a header and n rows.

    Raises
    ------
    DataError
        The CSV has fewer rows than when its ids were read.
    OSError
        The disk does not take it.
    """
    source = f"party {spec.name}, file {spec.data}"
    content = csv_rows(Path(spec.data), spec.encoding, source)
    _, header = next(content)
    cells = [row for _, row in content]
    if len(rows) and int(rows.max()) >= len(cells):
        raise DataError(f"{source}: has changed while its rows were aligned; leave it as it is and align again")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(cells[row] for row in rows)
    write_durably(out, text.getvalue().encode())


def _id_places(spec: PartySpec, header: Sequence[str], source: str) -> list[int]:
    """Where the id columns stand in the header."""
    names = [spelled(name) for name in header]
    places = []
    for column in map(spelled, spec.id_columns):
        check_column(column, "id", names, source)
        if names.count(column) > 1:
            raise DataError(f'{source}: two columns are named "{column}", expected different names; rename one of them')
        places.append(names.index(column))
    return places
