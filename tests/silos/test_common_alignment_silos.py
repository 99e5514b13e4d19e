"""One alignment of silos for several trainings: every training in its own order of the rows, each silo with its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.checkpoint import ALIGNED, Snapshot
from parties.data import read_party
from vfl.common_alignment import CommonAlignment, _in_order, align_once
from vfl.job_file import build_scenario

LISTS = {"bank": range(30), "shops.east": range(39, 14, -1), "shops.west": range(5, 15)}


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> CommonAlignment:
    folder: Path = tmp_path_factory.mktemp("aligned")
    for name, ids in LISTS.items():
        head = "id,x,y\n" if name == "bank" else "id,x\n"
        body = (f"{one},{one}" + (f",{one % 2}" if name == "bank" else "") for one in ids)
        (folder / f"{name}.csv").write_text(head + "\n".join(body) + "\n")
    bank = {"name": "bank", "role": "active", "id": "id", "data": "bank.csv", "label": "y"}
    silos = [{"name": silo, "data": f"shops.{silo}.csv"} for silo in ("east", "west")]
    shops = {"name": "shops", "role": "passive", "id": "id", "silo": silos}
    document = {
        "name": "trial",
        "model": "logistic",
        "seed": 5,
        "alignment": {"min_intersection": 1},
        "privacy": {"small_data": True},
        "party": [bank, shops],
    }
    scenario = build_scenario(document, folder, file="scenario.toml")
    tables = {spec.name: read_party(spec) for spec in scenario.parties}
    return align_once(scenario, tables, lambda event: None)


def people(snapshots: dict[str, Snapshot]) -> tuple[list[int], list[int]]:
    """The bank's and the shops' ids in the order of the rows."""
    bank = [LISTS["bank"][row] for row in snapshots["bank"].arrays["rows"]]
    shops = {}
    for name in ("shops.east", "shops.west"):
        arrays = snapshots[name].arrays
        assert (np.diff(arrays["owned"]) > 0).all()
        shops |= {int(place): LISTS[name][row] for place, row in zip(arrays["owned"], arrays["rows"], strict=True)}
    return bank, [shops[place] for place in sorted(shops)]


def kept(aligned: CommonAlignment, order: list[int] | None) -> dict[str, Snapshot]:
    begun = aligned.begin("one", None if order is None else np.array(order, np.int64))
    snapshots = {name: keeper.aligned() for name, keeper in begun.keepers.items()}
    return {name: snapshot for name, snapshot in snapshots.items() if snapshot is not None}


def test_the_alignment_itself(aligned: CommonAlignment) -> None:
    bank, shops = people(kept(aligned, None))
    assert aligned.rows == 25
    assert bank == shops
    assert set(bank) == set(range(5, 30))


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_any_rows_in_any_order_are_the_same_people(aligned: CommonAlignment, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(25)))[: data.draw(st.integers(0, 25))]
    first, _ = people(kept(aligned, None))
    snapshots = kept(aligned, order)
    bank, shops = people(snapshots)
    assert bank == shops == [first[place] for place in order]
    assert {snapshot.facts["intersection"] for snapshot in snapshots.values()} == {len(order)}
    for name in ("shops.east", "shops.west"):
        assert snapshots[name].integers("rows").shape == snapshots[name].integers("owned").shape


def test_a_silo_without_common_rows_has_none_in_any_order() -> None:
    none = np.zeros(0, np.int64)
    snapshot = Snapshot(ALIGNED, {"intersection": 3}, {"rows": none, "owned": none})
    found = _in_order(snapshot, np.array([2, 0]))
    assert found.facts["intersection"] == 2
    assert found.integers("rows").shape == found.integers("owned").shape == (0,)
