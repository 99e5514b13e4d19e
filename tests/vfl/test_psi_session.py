"""An alignment alone, all roles on threads: which rows come out, in which order, with cells as they stand."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from parties.errors import ConfigError, DataError, PolicyError
from parties.ledger import Ledger
from parties.link import COORDINATOR
from parties.local import run_local
from psi import exchange
from vfl import psi_session
from vfl.events import Event, Report
from vfl.job import Scenario, job_fields
from vfl.job_file import build_scenario
from vfl.play import role_types
from vfl.psi_report import PsiResult, Purpose

PROTOCOLS = sorted(exchange._FILES)


def nobody(event: Event) -> None:
    pass


def scenario(folder: Path, parties: dict[str, dict[str, Any]], **alignment: Any) -> Scenario:
    """The first party is the active one; ``cells`` are its CSV, written as they stand."""
    lines = []
    for name, given in parties.items():
        party = dict(given)
        (folder / f"{name}.csv").write_bytes(party.pop("cells"))
        role = "passive" if lines else "active"
        lines.append({"name": name, "role": role, "data": f"{name}.csv", "id": "id"} | party)
    document = {"name": "trial", "seed": 5, "alignment": {"min_intersection": 1} | alignment, "party": lines}
    return build_scenario(document, folder, file="scenario.toml", alone=True)


def plain(ids: Sequence[object]) -> dict[str, Any]:
    return {"cells": "\n".join(["id,x", *(f"{one},{at}" for at, one in enumerate(ids))]).encode()}


def align(
    made: Scenario,
    folder: Path,
    purpose: Purpose = "psi",
    ledgers: dict[str, Ledger] | None = None,
    report: Report = nobody,
) -> dict[str, PsiResult]:
    with ExitStack() as stack:
        acts = {
            name: stack.enter_context(
                psi_session.ready(made.job, spec, folder / name, folder / f".{name}", report, purpose)
            )
            for name, spec in {COORDINATOR: None, **{spec.name: spec for spec in made.parties}}.items()
        }
        return run_local(acts, roles=role_types(made.job), job=job_fields(made.job), ledgers=ledgers)


def rows_of(content: bytes, encoding: str = "utf-8") -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode(encoding), newline="")))


def aligned(folder: Path, name: str) -> list[list[str]]:
    return rows_of((folder / name / "aligned.csv").read_bytes())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_line_by_line_the_same_people_at_both_parties(tmp_path: Path, protocol: str) -> None:
    bank, shop = range(0, 300), range(450, 100, -1)
    results = align(scenario(tmp_path, {"bank": plain(bank), "shop": plain(shop)}, protocol=protocol), tmp_path)
    (head, *ours), (_, *theirs) = aligned(tmp_path, "bank"), aligned(tmp_path, "shop")
    assert head == ["id", "x"]
    assert [one for one, _ in ours] == [one for one, _ in theirs]
    assert {int(one) for one, _ in ours} == set(bank) & set(shop)
    assert all(bank[int(at)] == int(one) for one, at in ours)
    assert all(shop[int(at)] == int(one) for one, at in theirs)
    assert {result.protocol for result in results.values()} == {protocol}
    assert {result.intersection for result in results.values()} == {199}
    assert (results["shop"].csv_rows, results["shop"].ids, results["shop"].missing) == (350, 350, 0)


def test_order_is_the_seeds_and_not_the_protocols(tmp_path: Path) -> None:
    orders = []
    for protocol in PROTOCOLS:
        align(scenario(tmp_path, {"bank": plain(range(50)), "shop": plain(range(50))}, protocol=protocol), tmp_path)
        orders.append(aligned(tmp_path, "bank"))
    assert all(order == orders[0] for order in orders)
    assert [one for one, _ in orders[0][1:]] != [str(one) for one in range(50)]


TRICKY = [
    ["id", "note", "", "größe"],
    ["0001", 'says "hi", twice', "", "1"],
    ["2", "two\nlines", "", ""],
    ["3", "  kept  ", "", "NA"],
    ["4", "1e5", "", "-0"],
    ["5", "", "", "0007"],
]


def written(rows: list[list[str]], encoding: str = "utf-8", end: str = "\n", **quoting: Any) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end, **quoting).writerows(rows)
    return text.getvalue().encode(encoding)


@pytest.mark.parametrize(
    ("cells", "encoding"),
    [
        (written(TRICKY), "utf-8"),
        (written(TRICKY, "utf-8-sig"), "utf-8"),
        (written(TRICKY, "cp1252", "\r\n"), "cp1252"),
        (written(TRICKY, quoting=csv.QUOTE_ALL), "utf-8"),
        (written(TRICKY, "utf-16"), "utf-16"),
    ],
    ids=["plain", "byte-order mark", "cp1252 and CRLF", "all quoted", "utf-16"],
)
def test_cells_come_out_as_they_stand(tmp_path: Path, cells: bytes, encoding: str) -> None:
    parties = {"bank": {"cells": cells, "encoding": encoding}, "shop": plain(["0001", 3, 4, 5, 9])}
    align(scenario(tmp_path, parties), tmp_path)
    head, *rows = aligned(tmp_path, "bank")
    assert head == TRICKY[0]
    assert sorted(rows) == [row for row in sorted(TRICKY[1:]) if row[0] != "2"]
    assert [row[0] for row in rows] == [one for one, _ in aligned(tmp_path, "shop")[1:]]
    assert not (tmp_path / "bank" / "aligned.csv").read_bytes().startswith(b"\xef\xbb\xbf")


def test_composite_ids(tmp_path: Path) -> None:
    bank = {"cells": b"a,b,x\nab,c,1\na,bc,2\nd,e,3\n", "id": ["a", "b"]}
    shop = {"cells": b"one,other,y\nd,e,8\na,bc,9\n", "id": ["one", "other"]}
    align(scenario(tmp_path, {"bank": bank, "shop": shop}), tmp_path)
    assert sorted(aligned(tmp_path, "bank")) == [["a", "b", "x"], ["a", "bc", "2"], ["d", "e", "3"]]
    assert [row[:2] for row in aligned(tmp_path, "bank")[1:]] == [row[:2] for row in aligned(tmp_path, "shop")[1:]]


def test_neither_model_nor_label_nor_features_are_looked_at(tmp_path: Path) -> None:
    """A training would refuse the first column (numbers with two words among them) and its infinite cells."""
    ids = range(40)
    broken = "\n".join(["id,amount", *(f"{one},{'inf' if one % 2 else 'n/a?'}" for one in ids)]).encode()
    made = scenario(tmp_path, {"bank": {"cells": broken}, "shop": plain(ids)})
    assert align(made, tmp_path)["bank"].intersection == 40


def test_rows_left_out_are_counted(tmp_path: Path) -> None:
    ids = ["", "7", "7", *map(str, range(10, 30))]
    made = scenario(tmp_path, {"bank": plain(ids), "shop": plain(range(40))}, missing="drop", duplicates="first")
    result = align(made, tmp_path)["bank"]
    assert (result.csv_rows, result.ids, result.missing, result.duplicates) == (23, 21, 1, 1)
    assert result.sizes == {"bank": 21, "shop": 40}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cardinality_tells_the_number_and_nothing_else(tmp_path: Path, protocol: str) -> None:
    made = scenario(tmp_path, {"bank": plain(range(60)), "shop": plain(range(20, 90))}, protocol=protocol)
    ledgers = {name: Ledger() for name in role_types(made.job)}
    results = align(made, tmp_path, "psi cardinality", ledgers)
    assert {result.intersection for result in results.values()} == {40}
    assert not any(result.file for result in results.values())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["bank.csv", "shop.csv"]
    told = {entry.message for name in made.job.parties for entry in ledgers[name.name].entries}
    assert "verdict.verdict" in told
    assert not any("which of its ids" in entry.discloses for entry in ledgers[COORDINATOR].entries)


def test_one_sided_the_active_party_alone_has_rows(tmp_path: Path) -> None:
    made = scenario(tmp_path, {"bank": plain(range(60)), "shop": plain(range(20, 90))}, one_sided=True)
    results = align(made, tmp_path)
    assert {name: (result.intersection, result.file) for name, result in results.items()} == {
        "coordinator": (40, False),
        "bank": (40, True),
        "shop": (None, False),
    }
    assert not (tmp_path / "shop").exists()
    assert {int(one) for one, _ in aligned(tmp_path, "bank")[1:]} == set(range(20, 60))


def test_padded_lists_hide_true_numbers(tmp_path: Path) -> None:
    made = scenario(tmp_path, {"bank": plain(range(60)), "shop": plain(range(20, 90))}, pad_to=128)
    results = align(made, tmp_path)
    assert {name: result.ids for name, result in results.items()} == {"coordinator": 0, "bank": 60, "shop": 70}
    assert all(result.sizes == {"bank": 128, "shop": 128} for result in results.values())
    assert {int(one) for one, _ in aligned(tmp_path, "bank")[1:]} == set(range(20, 60))
    with pytest.raises(DataError, match=r"party 'shop': got 70 valid ids, expected at most alignment.pad_to = 69"):
        align(scenario(tmp_path, {"bank": plain(range(60)), "shop": plain(range(20, 90))}, pad_to=69), tmp_path)


def test_files_that_grow_with_the_list_are_removed(tmp_path: Path) -> None:
    made = scenario(tmp_path, {"bank": plain(range(60)), "shop": plain(range(20, 90))}, bucket_ids=1_000)
    scratch = tmp_path / ".bank"
    scratch.mkdir()
    (scratch / "left by a process that was killed").write_text("")
    align(made, tmp_path)
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(DataError, match="fewer than min_intersection|no common ids"):
        align(scenario(tmp_path, {"bank": plain(range(60)), "shop": plain(range(60, 90))}), tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_an_alignment_alone_still_binds_parties() -> None:
    for parties in (1, 2):
        lines = [{"name": f"p{at}", "role": "passive", "data": "x.csv", "id": "id"} for at in range(parties)]
        with pytest.raises(ConfigError, match="got no active party"):
            build_scenario({"name": "trial", "party": lines}, Path(), file="scenario.toml", alone=True)


def test_a_policy_is_heeded_where_guards_are_enforced(tmp_path: Path) -> None:
    parties = {"bank": plain(range(60)), "shop": plain(range(60)) | {"policy": {"disclosures": ["align.*"]}}}
    made = scenario(tmp_path, parties)
    assert any("policy disclosures" in line for line in align(made, tmp_path)["shop"].warnings)
    strict = build_scenario(
        {
            "name": "trial",
            "alignment": {"min_intersection": 1},
            "privacy": {"enforce": True},
            "party": [
                {"name": "bank", "role": "active", "data": "bank.csv", "id": "id", "policy": {"min_intersection": 1}},
                {"name": "shop", "role": "passive", "data": "shop.csv", "id": "id", "policy": {"min_intersection": 2}},
            ],
        },
        tmp_path,
        file="scenario.toml",
        alone=True,
    )
    with pytest.raises(PolicyError, match="policy min_intersection: party 'shop'"):
        align(strict, tmp_path)


def siloed(folder: Path, **silos: Sequence[object]) -> Scenario:
    """A bank of the ids 0 to 11, and shops of several silos."""
    lists = {"bank": range(12)} | {f"shops.{silo}": ids for silo, ids in silos.items()}
    for name, ids in lists.items():
        (folder / f"{name}.csv").write_bytes(plain(ids)["cells"])
    bank = {"name": "bank", "role": "active", "id": "id", "data": "bank.csv"}
    tables = [{"name": silo, "data": f"shops.{silo}.csv"} for silo in silos]
    shops = {"name": "shops", "role": "passive", "id": "id", "silo": tables}
    document = {"name": "trial", "seed": 5, "alignment": {"min_intersection": 1}, "party": [bank, shops]}
    return build_scenario(document, folder, file="scenario.toml", alone=True)


def test_silos_have_their_own_rows_in_the_order_of_all(tmp_path: Path) -> None:
    results = align(siloed(tmp_path, east=[11, 3, 5, 40], west=[7, 41, 2]), tmp_path)
    order = [row[0] for row in aligned(tmp_path, "bank")[1:]]
    assert sorted(order, key=int) == ["2", "3", "5", "7", "11"]
    for silo, ids in (("east", {"11", "3", "5"}), ("west", {"7", "2"})):
        name = f"shops.{silo}"
        assert [row[0] for row in aligned(tmp_path, name)[1:]] == [one for one in order if one in ids]
        assert (results[name].own, results[name].intersection) == (len(ids), 5)
    assert (results["bank"].own, results[COORDINATOR].own) == (5, None)


def test_an_id_in_two_silos_leaves_no_file(tmp_path: Path) -> None:
    made = siloed(tmp_path, east=[11, 3, 5, 40], west=[7, 41, 11])
    with pytest.raises(DataError, match="1 ids of party 'shops' stand in the lists of two of its silos"):
        align(made, tmp_path)
    assert not list(tmp_path.rglob("aligned.csv"))
