"""Made-up lists of parties with and without silos, and alignments of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parties.errors import DataError
from parties.local import run_local
from parties.spec import holder_of
from parties.wire import Active, Coordinator, LabelSilo, Passive, Role
from psi.align import Alignment, AlignmentSettings, align_coordinator, align_party
from psi.ids import IdRules, prepare_ids

SETTINGS = AlignmentSettings(seed=7, min_intersection=1)

Cells = Sequence[str]
Columns = Mapping[str, Cells]


def cells(*numbers: int) -> list[str]:
    return [f"client-{number}" for number in numbers]


def roles_of(columns: Columns, active: str) -> dict[str, type[Role]]:
    """As `vfl.play.role_types`: the silos of the active party but the first are label silos."""
    roles: dict[str, type[Role]] = {"coordinator": Coordinator}
    for name in columns:
        labelled = holder_of(name) == holder_of(active)
        roles[name] = Active if name == active else LabelSilo if labelled else Passive
    return roles


def play(
    columns: Columns,
    chosen: AlignmentSettings = SETTINGS,
    *,
    active: str | None = None,
    replace: Mapping[str, Any] | None = None,
    **recorders: Any,
) -> dict[str, Any]:
    def party(name: str) -> Any:
        prepared = prepare_ids([columns[name]], IdRules(), party=name)
        return lambda end: align_party(end, prepared, chosen)

    plays = {name: party(name) for name in columns}
    plays["coordinator"] = lambda end: align_coordinator(end, chosen)
    roles = roles_of(columns, active or next(iter(columns)))
    return run_local({**plays, **(replace or {})}, roles=roles, **recorders)


def rows_by_place(columns: Columns, found: Mapping[str, Alignment], holder: str) -> list[str]:
    """A party's ids in the agreed order, put together from its silos."""
    ordered: dict[int, str] = {}
    for name in (name for name in columns if holder_of(name) == holder):
        result = found[name]
        owned = np.arange(result.intersection) if result.owned is None else result.owned
        assert len(owned) == len(result.rows)
        assert (np.diff(owned) > 0).all()
        for place, row in zip(owned.tolist(), result.rows.tolist(), strict=True):
            assert place not in ordered
            ordered[place] = columns[name][row]
    assert sorted(ordered) == list(range(found["coordinator"].intersection))
    return [ordered[place] for place in sorted(ordered)]


def every_error(columns: Columns, chosen: AlignmentSettings = SETTINGS) -> dict[str, str]:
    """The DataError of each role, every role run to its own end."""
    errors = {}

    def kept(name: str, action: Any) -> Any:
        def run(end: Any) -> Any:
            try:
                return action(end)
            except DataError as error:
                errors[name] = str(error)

        return run

    own = {name: prepare_ids([ids], IdRules(), party=name) for name, ids in columns.items()}
    plays = {name: kept(name, lambda end, name=name: align_party(end, own[name], chosen)) for name in columns}
    play(
        columns,
        chosen,
        replace={**plays, "coordinator": kept("coordinator", lambda end: align_coordinator(end, chosen))},
    )
    return errors


MIXED = {
    "bank": cells(*range(40)),
    "shops.north": cells(*range(59, 30, -1)),
    "shops.south": cells(*range(10, 20)),
    "shops.west": cells(25, 26, 90),
    "biller": cells(*range(5, 38)),
}
COMMON = {*range(10, 20), 25, 26, *range(31, 38)}

ALL_SILOS = {
    "banks.one": cells(*range(0, 10)),
    "banks.two": cells(*range(10, 30)),
    "shops.north": cells(*range(25, 4, -1)),
    "shops.south": cells(*range(26, 40)),
}
