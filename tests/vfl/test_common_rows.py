"""``Federation.align``: the common rows of DataFrames and CSVs, or how many there are."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from parties.errors import ConfigError, DataError
from vfl import Federation, Party

LINES = {"min_intersection": 1}


def frame(ids: range, name: str = "x") -> pd.DataFrame:
    return pd.DataFrame({"id": [f"{one:03d}" for one in ids], name: [one * 10 for one in ids]}, index=list(ids))


def federation(*sizes: range, **alignment: object) -> Federation:
    names = ("bank", "shop", "biller")[: len(sizes)]
    parties = [
        Party(name, frame(ids), id="id", role="passive" if at else "active")
        for at, (name, ids) in enumerate(zip(names, sizes, strict=True))
    ]
    return Federation(*parties, alignment=LINES | alignment)


def test_frames_line_by_line() -> None:
    common = federation(range(0, 60), range(90, 20, -1), range(10, 50)).align(seed=2)
    assert (common.intersection, common.protocol) == (29, "ecdh")
    told = "guard: between companies this would be refused because policy min_intersection: party "
    assert all(line.startswith(f"{told}'{name}'") for name, line in zip(common.frames, common.warnings, strict=True))
    ids = {name: table["id"].tolist() for name, table in common.frames.items()}
    assert ids["bank"] == ids["shop"] == ids["biller"]
    assert sorted(ids["bank"]) == [f"{one:03d}" for one in range(21, 50)]
    for table in common.frames.values():
        assert table["x"].tolist() == [10 * int(one) for one in table["id"]]
        assert table.index.tolist() == list(range(29))


def test_csvs_and_frames_together(tmp_path: Path) -> None:
    path = tmp_path / "bank.csv"
    path.write_bytes("id;größe;Betrag\n".replace(";", ",").encode("cp1252") + b'007,"1,5",inf\n008,NA,words\n')
    bank = Party("bank", path, id="id", role="active", encoding="cp1252")
    common = Federation(bank, Party("shop", frame(range(7, 12)), id="id"), alignment=LINES).align()
    assert common.frames["bank"].columns.tolist() == ["id", "größe", "Betrag"]
    rows = common.frames["bank"].to_numpy().tolist()
    assert sorted(rows) == [["007", "1,5", "inf"], ["008", "NA", "words"]]
    assert common.frames["shop"]["id"].tolist() == [row[0] for row in rows]


def test_seeds_order_rows() -> None:
    orders = [federation(range(50), range(50)).align(seed=seed).frames["bank"]["id"].tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_only_the_number() -> None:
    common = federation(range(60), range(20, 90)).align(cardinality=True)
    assert (common.intersection, common.frames) == (40, {})


def test_one_sided_the_active_party_alone_has_rows() -> None:
    common = federation(range(60), range(20, 90), one_sided=True).align()
    assert common.intersection == 40
    assert list(common.frames) == ["bank"]
    assert sorted(common.frames["bank"]["id"]) == [f"{one:03d}" for one in range(20, 60)]


def test_what_the_choice_of_a_protocol_means_is_a_warning() -> None:
    common = federation(range(9), range(9), protocol="server-aided").align()
    assert any("server-aided" in line for line in common.warnings)


def test_refused_as_on_the_command_line() -> None:
    with pytest.raises(DataError, match="fewer than min_intersection ids in common: got 3, expected at least"):
        federation(range(9), range(6, 30), min_intersection=5).align()
    with pytest.raises(DataError, match="party 'shop': got 24 valid ids, expected at most alignment.pad_to = 20"):
        federation(range(9), range(6, 30), pad_to=20).align()
    with pytest.raises(ConfigError, match="got no active party"):
        Federation(Party("a", frame(range(3)), id="id"), Party("b", frame(range(3)), id="id")).align()
