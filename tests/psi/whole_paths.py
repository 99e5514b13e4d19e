"""From CSVs to aligned rows through every part of alignment, and the same by plain sets of people.

A test knows which person every row is; the parties see spellings of ids. `check` compares what a run found with what
plain sets of people say.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parties.data import PartyTable, read_party
from parties.errors import DataError
from parties.local import run_local
from parties.spec import PartySpec
from parties.wire import Active, Coordinator, Passive
from psi.align import align_coordinator, align_party
from psi.exchange import _FILES
from psi.id_store import StoredIds, store_ids
from psi.ids import IdRules, PreparedIds, composite, normalised, prepare_ids
from psi.settings import AlignmentSettings

PROTOCOLS = tuple(_FILES)
SLOW = ("kkrt", "mpsi")  # a hundred key exchanges per pair and bucket

Cells = Sequence[tuple[str, ...]]
People = Mapping[str, Sequence[Hashable | None]]


def most_parties(protocol: str) -> int:
    return 2 if protocol == "kkrt" else 4


def read_csv(path: Path, cells: Cells, *, role: str = "passive") -> PartyTable:
    """Write a party's CSV, as spreadsheets do, and read it as a run would."""
    text = io.StringIO(newline="")
    width = len(cells[0])
    writer = csv.writer(text)
    writer.writerow([*(f"part {at}" for at in range(width)), "value"])
    writer.writerows((*parts, at) for at, parts in enumerate(cells))
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    ids = tuple(f"part {at}" for at in range(width))
    return read_party(PartySpec(name=path.stem, role=role, data=str(path), id=ids))


def prepare(name: str, columns: Sequence[Sequence[str]], rules: IdRules, **options: Any) -> PreparedIds:
    return prepare_ids(columns, rules, party=name, **options)


def store(
    name: str, columns: Sequence[Sequence[str]], rules: IdRules, folder: Path, seed: int, **options: Any
) -> StoredIds:
    """The ids in files, as an alignment alone has them."""
    folder.mkdir()
    rows = zip(*columns, strict=True)
    keys = (composite([normalised(cell, rules) for cell in parts]) for parts in rows)
    return store_ids(keys, rules, seed=seed, folder=folder, party=name, **options)


def align(ids: Mapping[str, PreparedIds | StoredIds], settings: AlignmentSettings) -> dict[str, Any]:
    """All roles over the local network; the first party is the active one."""
    plays = {name: lambda end, own=own: align_party(end, own, settings) for name, own in ids.items()}
    plays["coordinator"] = lambda end: align_coordinator(end, settings)
    roles = dict.fromkeys(ids, Passive) | {next(iter(ids)): Active, "coordinator": Coordinator}
    return run_local(plays, roles=roles)


def valid_rows(people: Sequence[Hashable | None], duplicates: str = "refuse") -> dict[Hashable, int]:
    """The row of every person of a party, by what the job says of repeated ids."""
    counts = Counter(people)
    rows: dict[Hashable, int] = {}
    for row, person in enumerate(people):
        if person is not None and (counts[person] == 1 or duplicates != "drop"):
            assert duplicates != "refuse" or person not in rows
            rows.setdefault(person, row)
    return rows


def check(
    people: People,
    ids: Mapping[str, PreparedIds | StoredIds],
    settings: AlignmentSettings,
    duplicates: str = "refuse",
) -> None:
    """Run the alignment, and hold all that every role ends with against plain sets."""
    rows = {name: valid_rows(persons, duplicates) for name, persons in people.items()}
    common = set.intersection(*map(set, rows.values()))
    if len(common) < settings.min_intersection:
        with pytest.raises(DataError, match="min_intersection"):
            align(ids, settings)
        return
    found = align(ids, settings)
    assert found["coordinator"].intersection == len(common)
    assert settings.protocol in ("auto", found["coordinator"].protocol)
    active, *others = people
    for name in people:
        result = found[name]
        assert result.sizes == {other: settings.pad_to or len(rows[other]) for other in people}
        assert result.protocol == found["coordinator"].protocol
        silent = settings.one_sided and name != active
        assert result.intersection == (0 if silent else len(common))
    if settings.cardinality:
        assert all(not len(found[name].rows) for name in people)
        return
    ordered = [people[active][row] for row in found[active].rows]
    assert len(ordered) == len(common) and set(ordered) == common
    assert found[active].rows.tolist() == [rows[active][person] for person in ordered]
    if settings.one_sided:
        (other,) = others
        listed = found[other].rows
        assert sorted(listed) == sorted(rows[other].values())
        assert [people[other][row] for row in listed[found[active].places]] == ordered
        return
    for name in others:
        assert found[name].rows.tolist() == [rows[name][person] for person in ordered]
        assert found[name].digest == found[active].digest
        assert found[name].rows.dtype == np.int64
