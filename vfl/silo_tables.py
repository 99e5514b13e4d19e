"""A party of several silos in a file: each ``[[party.silo]]`` becomes a party of its own, called PARTY.SILO.

What a silo's table does not say it has from its party. Everything behind this treats silos as parties; which of them
hold columns together follows from their names (`vfl.job.Job.holders`).

>>> group = {"name": "clinics", "role": "passive", "id": "patient", "silo": [{"name": "north", "data": "n.csv"}]}
>>> expand_silos({"party": [group]}, frozenset(), "scenario.toml")[0]
{'party': [{'role': 'passive', 'id': 'patient', 'data': 'n.csv', 'name': 'clinics.north'}]}
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from parties.errors import ConfigError
from parties.policy import Policy
from parties.spec import Column, SiloName
from vfl import tables
from vfl.tables import Path, Source, Table, show

_OWN = {"weight": "silo_weight"}
"""Keys of a silo by the names that they have in a party's table."""


class SiloLines(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One [[party.silo]] of a scenario: what it says is the silo's own, everything else it has from its party."""

    name: SiloName
    data: Annotated[str, Meta(min_length=1, description="Its CSV, relative to this file.")]
    weight: Annotated[
        Annotated[float, Meta(gt=0, le=1e6)] | None,
        Meta(description="With aggregation 'weighted': how much the silo counts; none: as many rows as it has."),
    ] = None
    id: Annotated[
        Column | Annotated[tuple[Column, ...], Meta(min_length=1)] | None, Meta(description="As the party's.")
    ] = None
    encoding: Annotated[str | None, Meta(min_length=1, description="As the party's.")] = None
    missing_values: Annotated[tuple[str, ...] | None, Meta(description="As the party's.")] = None
    policy: Annotated[Policy | None, Meta(description="As the party's.")] = None


def expand_silos(document: Table, given: frozenset[Path], file: str) -> tuple[Table, frozenset[Path]]:
    """Put a party in the place of each silo, in the order of the file.

    Parameters
    ----------
    document : dict
        A parsed file; what is wrong with it but for silos is found later.
    given : frozenset of Path
        Places that ``--set`` gave.
    file : str
        What errors call it.

    Returns
    -------
    document : dict
        Without silos; the one given where it has none.
    given : frozenset of Path
        The same places in it.

    Raises
    ------
    ConfigError
    """
    rows = document.get("party")
    if not isinstance(rows, list) or not any(isinstance(row, dict) and "silo" in row for row in rows):
        return document, given
    source = Source(file, document, given, {})
    found: list[object] = []
    places: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        made = _silos(row, source, ("party", number)) if isinstance(row, dict) and "silo" in row else [row]
        places[number] = list(range(len(found), len(found) + len(made)))
        found += made
    moved = {(*place[:1], at, *place[2:]) for place in given if _of_party(place) for at in places[int(place[1])]}
    return {**document, "party": found}, frozenset({place for place in given if not _of_party(place)} | moved)


def _of_party(place: Path) -> bool:
    return len(place) > 1 and place[0] == "party" and isinstance(place[1], int)


def _silos(party: Table, source: Source, path: Path) -> list[Table]:
    """A party's silos, each as a party."""
    lines = party["silo"]
    if not isinstance(lines, list) or not lines:
        raise ConfigError(
            f"silo {source.where(path, 'silo')}, got {show(lines)}, expected tables headed [[party.silo]]"
        )
    if "data" in party:
        raise ConfigError(
            f"data {source.where(path, 'data')}, got {show(party['data'])} beside [[party.silo]], expected the data of "
            "each silo in its own table; remove the line"
        )
    name = party.get("name")
    if not isinstance(name, str) or "." in name:
        raise ConfigError(f"name {source.where(path, 'name')}, got {show(name)}, expected text without a dot")
    rest = {key: value for key, value in party.items() if key not in ("silo", "name")}
    found = []
    for number, line in enumerate(lines):
        silo = tables.read(SiloLines, line, source, (*path, "silo", number))
        own = {_OWN.get(key, key): value for key, value in line.items() if key != "name"}
        found.append({**rest, **own, "name": f"{name}.{silo.name}"})
    names = [silo["name"] for silo in found]
    if twice := [silo for silo in names if names.count(silo) > 1]:
        raise ConfigError(
            f"name of a silo {source.where(path, 'silo')}, got {show(twice[0])} twice, expected unique names"
        )
    return found
