"""Alignment where parties are made of silos: the same rows as unsplit, each silo its own, and nobody else which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.errors import ConfigError, DataError
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


MIXED = {
    "bank": cells(*range(40)),
    "shops.north": cells(*range(59, 30, -1)),
    "shops.south": cells(*range(10, 20)),
    "shops.west": cells(25, 26, 90),
    "biller": cells(*range(5, 38)),
}
COMMON = {*range(10, 20), 25, 26, *range(31, 38)}


def test_silos_have_the_rows_of_their_party_in_the_order_of_all():
    found = play(MIXED)
    unsplit = play({"bank": MIXED["bank"], "shops": cells(*range(59, 30, -1), *range(10, 20), 25, 26, 90)})
    del unsplit
    people = {holder: rows_by_place(MIXED, found, holder) for holder in ("bank", "shops", "biller")}
    assert people["bank"] == people["shops"] == people["biller"]
    assert set(people["bank"]) == set(cells(*COMMON))
    assert {found[name].intersection for name in MIXED} == {len(COMMON)}
    assert found["bank"].sizes == {name: len(ids) for name, ids in MIXED.items()}
    assert found["bank"].owned is None
    assert found["shops.west"].owned.dtype == found["shops.west"].rows.dtype == np.int64


ALL_SILOS = {
    "banks.one": cells(*range(0, 10)),
    "banks.two": cells(*range(10, 30)),
    "shops.north": cells(*range(25, 4, -1)),
    "shops.south": cells(*range(26, 40)),
}


def test_where_all_parties_have_silos_the_order_is_drawn_anew():
    found, again = play(ALL_SILOS), play(ALL_SILOS)
    people = rows_by_place(ALL_SILOS, found, "banks")
    assert people == rows_by_place(ALL_SILOS, found, "shops")
    assert set(people) == set(cells(*range(5, 30)))
    assert people != rows_by_place(ALL_SILOS, again, "banks")


@pytest.mark.parametrize("protocol", ["auto", "ecdh", "server-aided"])
@pytest.mark.parametrize("bucket_ids", [2_000_000, 15])
@pytest.mark.parametrize("active", ["bank", "shops.north", "biller"])
def test_order_is_that_of_unsplit_parties(protocol, bucket_ids, active):
    chosen = AlignmentSettings(seed=7, min_intersection=1, protocol=protocol, bucket_ids=bucket_ids)
    found = play(MIXED, chosen, active=active)
    unsplit = {"bank": MIXED["bank"], "biller": MIXED["biller"]}
    unsplit["shops"] = [cell for name in MIXED if holder_of(name) == "shops" for cell in MIXED[name]]
    whole = play(unsplit)
    assert found["bank"].rows.tolist() == whole["bank"].rows.tolist()
    assert rows_by_place(MIXED, found, "shops") == [MIXED["bank"][row] for row in whole["bank"].rows]


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_split_gives_the_rows_and_the_order_of_the_whole(data):
    holders = {
        name: data.draw(st.sets(st.integers(0, 30), min_size=1), label=name) for name in ("bank", "shops", "mills")
    }
    common = set.intersection(*holders.values())
    split: dict[str, list[str]] = {"bank": cells(*sorted(holders["bank"]))}
    for name in ("shops", "mills"):
        people = data.draw(st.permutations(sorted(holders[name])))
        count = data.draw(st.integers(1, min(5, len(people))))
        cuts = (
            sorted(
                data.draw(
                    st.lists(
                        st.integers(1, max(1, len(people) - 1)), min_size=count - 1, max_size=count - 1, unique=True
                    )
                )
            )
            if len(people) > count
            else list(range(1, count))
        )
        ends = [0, *cuts, len(people)]
        for number, (start, stop) in enumerate(zip(ends, ends[1:], strict=False)):
            split[f"{name}.s{number}"] = cells(*people[start:stop])
    if not common:
        with pytest.raises(DataError, match="no common ids"):
            play(split)
        return
    found = play(split)
    whole = play({name: cells(*sorted(people)) for name, people in holders.items()})
    assert found["bank"].rows.tolist() == whole["bank"].rows.tolist()
    for holder in ("shops", "mills"):
        assert rows_by_place(split, found, holder) == [split["bank"][row] for row in whole["bank"].rows]


TWICE = {
    "bank": cells(*range(20)),
    "shops.north": cells(1, 2, 3, 4, 30),
    "shops.south": cells(3, 4, 5, 30),
    "shops.west": cells(4, 6, 31),
}


def test_an_id_in_two_silos_falls_to_the_first():
    found = play(TWICE, AlignmentSettings(seed=7, min_intersection=1, duplicates="first"))
    own = {name: {TWICE[name][row] for row in found[name].rows} for name in TWICE}
    assert own["shops.north"] == set(cells(1, 2, 3, 4))
    assert own["shops.south"] == set(cells(5))
    assert own["shops.west"] == set(cells(6))
    assert rows_by_place(TWICE, found, "shops") == rows_by_place(TWICE, found, "bank")


def test_an_id_in_two_silos_is_left_out():
    found = play(TWICE, AlignmentSettings(seed=7, min_intersection=1, duplicates="drop"))
    own = {name: {TWICE[name][row] for row in found[name].rows} for name in TWICE}
    assert own["shops.north"] == set(cells(1, 2))
    assert own["bank"] == set(cells(1, 2, 5, 6))


def test_an_id_in_two_silos_is_refused_at_all_roles_alike():
    errors = {}

    def kept(name, action):
        def run(end):
            try:
                return action(end)
            except DataError as error:
                errors[name] = str(error)

        return run

    prepared = {name: prepare_ids([TWICE[name]], IdRules(), party=name) for name in TWICE}
    replace = {name: kept(name, lambda end, own=own: align_party(end, own, SETTINGS)) for name, own in prepared.items()}
    replace["coordinator"] = kept("coordinator", lambda end: align_coordinator(end, SETTINGS))
    play(TWICE, replace=replace)
    assert errors.keys() == {*TWICE, "coordinator"}
    (text,) = set(errors.values())
    assert "3 ids of party 'shops' stand in the lists of two of its silos" in text
    assert "client" not in text


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ({"protocol": "kkrt"}, "protocol in .alignment., got 'kkrt'"),
        ({"protocol": "mpsi"}, "protocol in .alignment., got 'mpsi'"),
        ({"one_sided": True}, "one_sided in .alignment., got true"),
    ],
    ids=["kkrt", "mpsi", "one_sided"],
)
def test_what_cannot_put_lists_together_is_refused(line, text):
    with pytest.raises(ConfigError, match=text):
        play(MIXED, AlignmentSettings(min_intersection=1, **line))
