"""A party of several silos in a file: each ``[[party.silo]]`` becomes a party of its own, called PARTY.SILO.

What a silo's table does not say it has from its party. Everything behind this treats silos as parties; which of them
hold columns together follows from their names (`vfl.job.Job.holders`).

>>> group = {"name": "clinics", "role": "passive", "id": "patient", "silo": [{"name": "north", "data": "n.csv"}]}
>>> expand_silos({"party": [group]}, frozenset(), "scenario.toml")[0]
{'party': [{'name': 'clinics.north', 'role': 'passive', 'id': 'patient', 'data': 'n.csv'}]}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from parties.errors import ConfigError
from parties.policy import Policy
from parties.spec import Column, PartySpec, SiloName
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
    encoding: Annotated[Annotated[str, Meta(min_length=1)] | None, Meta(description="As the party's.")] = None
    missing_values: Annotated[tuple[str, ...] | None, Meta(description="As the party's.")] = None
    policy: Annotated[Policy | None, Meta(description="In its own [party.silo.policy], or the party's.")] = None


@dataclass(frozen=True)
class SiloForm:
    """What a kind of file says of parties and silos; ``own`` is what every silo has, and its party then has not."""

    party: type[msgspec.Struct]
    silo: type[msgspec.Struct]
    own: str


SCENARIO_FORM = SiloForm(PartySpec, SiloLines, "data")


def expand_silos(
    document: Table, given: frozenset[Path], file: str, form: SiloForm = SCENARIO_FORM
) -> tuple[Table, frozenset[Path]]:
    """Put a party in the place of each silo, in the order of the file.

    Parameters
    ----------
    document : dict
        A parsed file; what is wrong with it but for silos is found later.
    given : frozenset of Path
        Places that ``--set`` gave.
    file : str
        What errors call it.
    form : SiloForm
        What may stand in it.

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
    if not isinstance(rows, list):
        return document, given
    source = Source(file, document, given, {})
    found: list[object] = []
    places: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        made = _silos(row, source, ("party", number), form) if isinstance(row, dict) else [row]
        places[number] = list(range(len(found), len(found) + len(made)))
        found += made
    return {**document, "party": found}, frozenset(moved for place in given for moved in _moved(place, places))


def _moved(place: Path, places: Mapping[int, Sequence[int]]) -> list[Path]:
    """Where a place of the file stands once silos are parties: a party's own line is a line of all its silos."""
    match place:
        case ("party", int(party), "silo", int(silo), *rest):
            return [("party", places[party][silo], *(_OWN.get(str(part), part) for part in rest))]
        case ("party", int(party), *rest):
            return [("party", at, *rest) for at in places[party]]
    return [place]


def _silos(party: Table, source: Source, path: Path, form: SiloForm) -> list[Table]:
    """A party's silos, each as a party; a party without silos as it is."""
    name = party.get("name")
    if isinstance(name, str) and re.fullmatch(r"[\w-]+\.[\w-]+", name):
        raise ConfigError(
            f"name {source.where(path, 'name')}, got {show(name)}, expected a name without a dot; a silo stands in a "
            "[[party.silo]] of its party"
        )
    if "silos" in party:
        raise ConfigError(
            f"unknown key 'silos' {source.where(path, 'silos')}, got 'silos', did you mean 'silo'? ([[party.silo]])"
        )
    if "silo" not in party:
        return [party]
    rows = party["silo"]
    if not isinstance(rows, list) or not rows:
        raise ConfigError(f"silo {source.where(path, 'silo')}, got {show(rows)}, expected tables headed [[party.silo]]")
    if form.own in party:
        raise ConfigError(
            f"{form.own} {source.where(path, form.own)}, got {show(party[form.own])} beside [[party.silo]], expected "
            f"the {form.own} of each silo in its own table; remove the line"
        )
    rest = {key: value for key, value in party.items() if key != "silo"}
    tables.read(form.party, rest | {form.own: "of each silo"}, source, path)  # what no silo takes over counts too
    for number, row in enumerate(rows):
        tables.read(form.silo, row, source, (*path, "silo", number))
    names = [str(row["name"]) for row in rows]
    if twice := [silo for silo in names if names.count(silo) > 1]:
        raise ConfigError(f"name of a silo {source.where(path)}, got {show(twice[0])} twice, expected unique names")
    return [rest | _renamed(row) | {"name": f"{name}.{silo}"} for silo, row in zip(names, rows, strict=True)]


def _renamed(row: Table) -> Table:
    """A silo's lines as a party has them."""
    return {_OWN.get(key, key): value for key, value in row.items()}
