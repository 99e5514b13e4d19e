"""A party's CSV for an alignment alone: its ids are read, and its aligned rows are written, whatever its size.

Other columns are not looked at, so that a cell which no training could use does not matter here. The CSV is read from
its beginning to its end, once for the ids and once for the rows; of what grows with it memory holds the rows' order
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from parties.csv_file import check_column, csv_rows, spelled
from parties.durable import replaced_durably
from parties.errors import DataError
from parties.spec import PartySpec
from psi.id_store import StoredIds, store_ids
from psi.ids import IdRules, composite, normalised
from vfl.job import Job
from vfl.row_sorter import RowsLost, csv_line, rows_in_order


@dataclass(frozen=True)
class IdFile:
    """The ids of a party's CSV.

    Attributes
    ----------
    ids : StoredIds
        What ``psi.align.align_party`` takes.
    stamp : tuple of int
        Size and time of the file that was read.
    """

    ids: StoredIds = field(repr=False)
    stamp: tuple[int, int]

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
        return self.ids.count

    @property
    def rules(self) -> IdRules:
        """How ids were normalised."""
        return self.ids.rules


def read_id_file(job: Job, spec: PartySpec, scratch: Path) -> IdFile:
    """Read the ids of a party's CSV.

    Parameters
    ----------
    scratch : Path
        An existing directory for files that grow with the CSV; they can be removed after the alignment.

    Raises
    ------
    DataError
        A file that cannot be read, ids that the job's rules refuse, an id column that is not there, or no room.
    """
    source = _source(spec)
    rows = csv_rows(Path(spec.data), spec.encoding, source)
    _, header = next(rows)
    places = _id_places(spec, header, source)
    stamp, lines = _stamp(Path(spec.data)), job.alignment
    rules = IdRules(casefold=lines.casefold, digits_only=lines.digits_only, columns=len(places))
    try:
        ids = store_ids(
            (composite([normalised(row[place], rules) for place in places]) for _, row in rows),
            rules,
            seed=job.seed,
            folder=scratch,
            party=spec.name,
            duplicates=lines.duplicates,
            missing=lines.missing,
        )
    except OSError as error:
        raise DataError(
            f"party {spec.name}, {scratch}: cannot hold the ids of {spec.data} ({error.strerror}); make room for "
            "about 120 bytes per row"
        ) from None
    return IdFile(ids, stamp)


def write_aligned(spec: PartySpec, rows: NDArray[np.int64], out: Path, stamp: tuple[int, int] | None = None) -> None:
    """Write rows of a party's CSV in the order given, all columns, cells as they stand; whole or not at all.

    Parameters
    ----------
    rows : ndarray of shape (n,), int64
        Distinct rows of the CSV, 0 the first below the header.
    out : Path
        The file to write: UTF-8, a header and n rows. Beside it there must be room for as much again meanwhile.
    stamp : tuple of int, optional
        `IdFile.stamp`: the rows are those of this file, and of no other that has come in its place.

    Raises
    ------
    DataError
        The CSV cannot be read any more, or has changed since its ids were read.
    OSError
        The disk does not take it.
    """
    source, path = _source(spec), Path(spec.data)
    content = csv_rows(path, spec.encoding, source)
    _, header = next(content)
    scratch = out.with_name(f"{out.name}.parts")
    with replaced_durably(out) as file:
        file.write(csv_line(header))
        with suppress(RowsLost):
            file.writelines(rows_in_order((row for _, row in content), rows, scratch, path.stat().st_size))
            if stamp in (None, _stamp(path)):
                return
        raise DataError(f"{source}: has changed while its rows were aligned; leave it as it is and align again")


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _source(spec: PartySpec) -> str:
    return f"party {spec.name}, file {spec.data}"


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
