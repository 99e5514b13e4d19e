"""A party's CSV, or pandas DataFrame, as checked columns.

Everything is read as text first, so that ids keep their leading zeros and their 19 digits; what a cell means is
decided per column in ``parties.columns``. Ids are handed over raw: normalising them, duplicates and blank ids are
the alignment's business (``psi``). Messages name the party, file, column and line, and never a cell's value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from parties.columns import MISSING, Kind, Place, read_feature, read_weights
from parties.csv_file import NAMED, check_column, csv_rows, spelled
from parties.errors import DataError
from parties.spec import PartySpec


@dataclass(frozen=True, eq=False)
class PartyTable:
    """One party's rows, in the order of its file.

    Attributes
    ----------
    id_columns : list of list of str
        One list per id column (several for a composite key), each with one raw text per row; "" where empty.
    features : DataFrame of n rows
        Numeric columns float64 with NaN for missing; categorical columns object (str, None for missing).
    kinds : dict of column name to {"numeric", "categorical"}
    labels : list of str or None
        Stripped label texts; None at a party without a label.
    weights : ndarray of shape (n,), float64, or None
    warnings : tuple of str
    """

    id_columns: list[list[str]]
    features: pd.DataFrame
    kinds: dict[str, Kind]
    labels: list[str] | None
    weights: NDArray[np.float64] | None
    warnings: tuple[str, ...]

    @property
    def n_rows(self) -> int:
        """Rows in the file, those with blank or repeated ids included."""
        return len(self.features)


def read_party(spec: PartySpec, *, trained: bool = False) -> PartyTable:
    """Read and check a party's CSV.

    Parameters
    ----------
    spec : PartySpec
        ``data`` is the path of the file; the other fields say what its columns mean.
    trained : bool
        The file is for a model that is trained: ``features`` are the columns that it needs.

    Raises
    ------
    DataError
        A file that cannot be read as this party's table; the message says what to do.
    """
    source = f"party {spec.name}, file {spec.data}"
    content = csv_rows(Path(spec.data), spec.encoding, source, "the path" if trained else NAMED)
    _, header = next(content)
    rows: list[tuple[str, ...]] = []
    lines: list[int] = []
    for line, row in content:
        rows.append(tuple(row))  # the garbage collector need not visit tuples of text
        lines.append(line)
    columns, warnings = _named_columns([spelled(name) for name in header], list(zip(*rows, strict=True)), source)
    return _table(columns, spec, Place(source, lines), warnings, trained)


def table_from_frame(frame: pd.DataFrame, spec: PartySpec, *, trained: bool = False) -> PartyTable:
    """Pass a DataFrame through the same checks as a CSV, see `read_party`; its index is ignored.

    Raises
    ------
    DataError
        As ``read_party``; also for ids that pandas holds as floating-point numbers.
    """
    source = f"party {spec.name}, DataFrame"
    header = [spelled(str(name)) for name in frame.columns]
    for name, dtype in zip(header, frame.dtypes, strict=True):
        if name in _id_names(spec) and pd.api.types.is_float_dtype(dtype):
            raise DataError(
                f'{source}: id column "{name}" holds floating-point numbers, which lose digits; expected text or '
                'integers; read it with dtype=str or convert it with .astype("Int64").astype(str)'
            )
    cells = [[_cell_text(cell) for cell in frame.iloc[:, at]] for at in range(len(header))]
    columns, warnings = _named_columns(header, cells, source)
    return _table(columns, spec, Place(source, range(len(frame)), "row"), warnings, trained)


def _cell_text(cell: object) -> str:
    """Text of a DataFrame's cell; floats keep all their digits."""
    if isinstance(cell, str):
        return cell
    if cell is None or pd.api.types.is_scalar(cell) and pd.isna(cell):  # type: ignore[call-overload]
        return ""
    return repr(float(cell)) if isinstance(cell, (float, np.floating)) else str(cell)


def _named_columns(
    header: Sequence[str], cells: Sequence[Sequence[str]], source: str
) -> tuple[dict[str, Sequence[str]], list[str]]:
    """Columns by name; an unnamed column may only be empty, and is left out."""
    columns: dict[str, Sequence[str]] = {}
    warnings = []
    for position, (name, column) in enumerate(zip(header, cells, strict=True), start=1):
        if name in columns:
            raise DataError(f'{source}: two columns are named "{name}", expected different names; rename one of them')
        if name:
            columns[name] = column
        elif any(cell.strip() for cell in column):
            raise DataError(
                f"{source}: column {position} has no name in the header; name it, or delete it (a row index that "
                "pandas wrote goes away with to_csv(index=False))"
            )
        else:
            warnings.append(f"{source}: column {position} has no name and no content: left out")
    return columns, warnings


def _id_names(spec: PartySpec) -> list[str]:
    return [spelled(name) for name in spec.id_columns]


def _table(
    columns: dict[str, Sequence[str]], spec: PartySpec, place: Place, warnings: Iterable[str], trained: bool
) -> PartyTable:
    """Apply the party's options to columns of text."""
    if not place.lines:
        raise DataError(f"{place.source}: has no rows; expected at least one")
    ids = _id_names(spec)
    if trained:
        _check_trained(spec.features or (), columns, place.source)
    for option, names in _named_in_options(spec).items():
        for name in names:
            check_column(name, option, columns, place.source)
    features: dict[str, object] = {}
    kinds: dict[str, Kind] = {}
    for name in _feature_names(spec, list(columns), place.source):
        kinds[name], values = read_feature(
            name,
            columns[name],
            place,
            categorical=name in map(spelled, spec.categorical),
            missing_values=[value.strip() for value in spec.missing_values],
        )
        if kinds[name] == "categorical" and name in map(spelled, spec.monotone_constraints):
            raise DataError(
                f'{place.source}: monotone_constraints names the column "{name}", which holds categories, expected '
                "a column of numbers; remove it there"
            )
        features[name] = pd.Series(values, dtype=values.dtype)  # else pandas 3 turns text into its own type
    id_columns = [list(columns[name]) for name in ids]
    return PartyTable(
        id_columns=id_columns,
        features=pd.DataFrame(features, index=pd.RangeIndex(len(place.lines))),
        kinds=kinds,
        labels=_labels(columns[spelled(spec.label)], id_columns, spec.label, place) if spec.label else None,
        weights=read_weights(spec.sample_weight, columns[spelled(spec.sample_weight)], place)
        if spec.sample_weight
        else None,
        warnings=tuple(warnings),
    )


def _named_in_options(spec: PartySpec) -> dict[str, list[str]]:
    """Columns that the party's options name, by option."""
    return {
        "id": _id_names(spec),
        "label": [spelled(spec.label)] if spec.label else [],
        "sample_weight": [spelled(spec.sample_weight)] if spec.sample_weight else [],
        "features": [spelled(name) for name in spec.features or ()],
        "drop": [spelled(name) for name in spec.drop],
        "categorical": [spelled(name) for name in spec.categorical],
        "monotone_constraints": [spelled(name) for name in spec.monotone_constraints],
    }


def _check_trained(features: Iterable[str], columns: Iterable[str], source: str) -> None:
    """Refuse a file that lacks a column which the model was trained on."""
    lost = [name for name in map(spelled, features) if name not in set(columns)]
    if lost:
        more = f" and {len(lost) - 1} more were" if lost[1:] else " was"
        raise DataError(
            f'{source}: column "{lost[0]}"{more} used in training, got none of that name in the header; expected every '
            "column that the model was trained on; add it, empty where the value is not known"
        )


def _feature_names(spec: PartySpec, header: Sequence[str], source: str) -> list[str]:
    """Columns to learn from: those listed, or all but id, label and sample weight; less those dropped."""
    options = _named_in_options(spec)
    taken = {name: option for option in ("id", "label", "sample_weight") for name in options[option]}
    for option in ("features", "categorical"):
        for name in options[option]:
            if name in taken:
                raise DataError(
                    f'{source}: column "{name}" is the party\'s {taken[name]} and stands in {option} too; '
                    "take it out of one"
                )
    wanted = options["features"] if spec.features is not None else [name for name in header if name not in taken]
    return [name for name in dict.fromkeys(wanted) if name not in options["drop"]]


def _labels(cells: Sequence[str], id_columns: list[list[str]], name: str, place: Place) -> list[str]:
    """Label texts; one is needed in every row that has an id, since any such row may be used."""
    labels = [cell.strip() for cell in cells]
    has_id = [all(column[row].strip() for column in id_columns) for row in range(len(labels))]
    missing = [label in MISSING and there for label, there in zip(labels, has_id, strict=True)]
    if any(missing):
        raise DataError(
            f'{place.source}: label column "{name}": {place.first(missing)} are missing; expected a label in every '
            "row that has an id; fill them in or delete the rows"
        )
    return labels
