"""What ruins alignments elsewhere, for every protocol: several spellings, ids that are numbers, edges of size."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from parties.data import table_from_frame
from parties.errors import DataError
from parties.spec import PartySpec
from psi.ids import IdRules
from psi.settings import AlignmentSettings
from tests.psi.whole_paths import PROTOCOLS, SLOW, align, check, most_parties, prepare, read_csv

PLAIN = IdRules()
NAMES = ("bank", "shop", "biller")
QUICK = [protocol for protocol in PROTOCOLS if protocol not in SLOW]


def job(protocol: str, **options) -> AlignmentSettings:
    return AlignmentSettings(protocol=protocol, **{"min_intersection": 1, "seed": 7} | options)


def prepared(folder: Path, cells, rules: IdRules = PLAIN, **options):
    """The parties' ids by way of CSVs."""
    rows = {name: [one if isinstance(one, tuple) else (one,) for one in own] for name, own in cells.items()}
    tables = {name: read_csv(folder / f"{name}.csv", own) for name, own in rows.items()}
    return {name: prepare(name, table.id_columns, rules, **options) for name, table in tables.items()}


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# One row per person of the first party; where the second party writes that person's id otherwise, it must match.
SPELLINGS = {
    "composed": ("caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")),
    "full width": ("AB12", "\uff21\uff22\uff11\uff12"),
    "ligature": ("\ufb01n", "fin"),
    "spaces": ("11", " 11\t"),
    "no-break space": ("12", "\u00a012"),
    "byte-order mark": ("13", "\ufeff13"),
    "zero width": ("14", "\u200b14\u200d"),
    "direction": ("15", "\u202a15\u202c"),
    "carriage return": ("16", "16\r"),
    "quoted": ('say "x", y', ' say "x", y'),
    "hangul": ("\ud55c", unicodedata.normalize("NFD", "\ud55c")),
}
# These must not match.
APART = {
    "leading zero": ("0021", "21"),
    "decimal": ("22", "22.0"),
    "exponent": ("1000", "1e3"),
    "case": ("Ann", "ann"),
    "space inside": ("a b", "ab"),
    "last of 19 digits": ("9223372036854775806", "9223372036854775807"),
    "beyond doubles": ("9007199254740993", "9007199254740992"),
    "beyond 64 bits": ("18446744073709551617", "1"),
    "sign": ("-31", "31"),
    "homoglyph": ("A9", "\u04109"),
    "accent": ("jos\u00e9", "jose"),
    "nulls": ("null", "NA"),
}


def test_every_trap_at_once(protocol: str, tmp_path: Path) -> None:
    """Two CSVs with all spellings; the right pairs match, and nothing else does."""
    people = {
        "bank": [*SPELLINGS, *(("bank", name) for name in APART)],
        "shop": [*reversed(SPELLINGS), *(("shop", name) for name in APART)],
    }
    cells = {
        "bank": [left for left, _ in (*SPELLINGS.values(), *APART.values())],
        "shop": [right for _, right in (*reversed(SPELLINGS.values()), *APART.values())],
    }
    check(people, prepared(tmp_path, cells), job(protocol))


def test_case_where_it_is_ignored(protocol: str, tmp_path: Path) -> None:
    cells = {"bank": ["Stra\u00dfe 1", "ANN", "\u01c5", "\u0130x"], "shop": ["ann", "STRASSE 1", "\u01c6", "ix"]}
    people = {"bank": [1, 2, 3, "bank"], "shop": [2, 1, 3, "shop"]}
    check(people, prepared(tmp_path, cells, IdRules(casefold=True)), job(protocol))


def test_digits_where_all_else_is_ignored(protocol: str, tmp_path: Path) -> None:
    cells = {"bank": ["DE-0012", "13 14", "\u0661\u0662"], "shop": ["1314", "0012", "12"]}
    people = {"bank": [1, 2, 3], "shop": [2, 1, 3]}
    check(people, prepared(tmp_path, cells, IdRules(digits_only=True)), job(protocol))


def test_composite_keys(protocol: str, tmp_path: Path) -> None:
    cells = {"bank": [("ab", "c"), ("1", "11"), ("x", "y")], "shop": [("a", "bc"), ("11", "1"), ("x ", "\ufeffy")]}
    people = {"bank": ["left", "low", "both"], "shop": ["right", "high", "both"]}
    check(people, prepared(tmp_path, cells, IdRules(columns=2)), job(protocol))


@pytest.mark.parametrize("dtype", ["int64", "uint64", "Int64", "object"])
def test_numbers_at_one_party_and_text_at_the_other(dtype: str, tmp_path: Path) -> None:
    """A DataFrame of integers against a CSV, every digit of 19."""
    numbers = [9223372036854775807, 9223372036854775806, 1, 20]
    frame = pd.DataFrame({"client": pd.Series(numbers, dtype=dtype), "x": np.arange(4.0)})
    spec = PartySpec(name="shop", role="passive", data="-", id="client")
    ids = prepared(tmp_path, {"bank": ["20", "9223372036854775806", "01", "9223372036854775808"]})
    ids["shop"] = prepare("shop", table_from_frame(frame, spec).id_columns, PLAIN)
    check({"bank": [20, 6, "01", 8], "shop": [7, 6, 1, 20]}, ids, job("auto"))


def test_floats_in_a_frame_are_refused() -> None:
    frame = pd.DataFrame({"client": [1.0, np.nan], "x": [0, 1]})
    with pytest.raises(DataError, match="floating-point numbers, which lose digits"):
        table_from_frame(frame, PartySpec(name="shop", role="passive", data="-", id="client"))


SIZES = {
    "one and the same": {"bank": [1], "shop": [1], "biller": [1]},
    "one each, none common": {"bank": [1], "shop": [2], "biller": [1]},
    "none common, some by pairs": {"bank": [1, 2], "shop": [2, 3], "biller": [3, 1]},
    "all common": {"bank": list(range(40)), "shop": list(range(39, -1, -1)), "biller": list(range(40))},
    "one of many": {"bank": list(range(150)), "shop": [149], "biller": [7, 149]},
    "many of one": {"bank": [3], "shop": list(range(150)), "biller": [5, 3]},
    "the last one only": {"bank": [*range(30), 99], "shop": [*range(30, 60), 99], "biller": [99]},
}


@pytest.mark.parametrize(
    ("protocol", "parties"),
    [(protocol, parties) for protocol in PROTOCOLS for parties in (2, 3) if parties <= most_parties(protocol)],
)
@pytest.mark.parametrize("people", SIZES.values(), ids=SIZES)
def test_sizes(protocol: str, people, parties: int, tmp_path: Path) -> None:
    chosen = {name: people[name] for name in NAMES[:parties]}
    cells = {name: [f"person {one}" for one in own] for name, own in chosen.items()}
    check(chosen, prepared(tmp_path, cells), job(protocol))


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        (protocol, options)
        for protocol in PROTOCOLS
        for options in (
            {"pad_to": 64},
            {"cardinality": True},
            {"pad_to": 40, "cardinality": True},
            {"one_sided": True},
            {"bucket_ids": 10},
            {"bucket_ids": 14, "pad_to": 50},
        )
        if protocol != "mpsi" or "one_sided" not in options
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_options(protocol: str, options, tmp_path: Path) -> None:
    people = {"bank": list(range(40)), "shop": [*range(30, 36), *range(90, 110), 7]}
    cells = {name: [f"{one:03d}" for one in own] for name, own in people.items()}
    check(people, prepared(tmp_path, cells), job(protocol, **options))


@pytest.mark.parametrize("duplicates", ["first", "drop"])
def test_repeated_ids_on_one_side(protocol: str, duplicates: str, tmp_path: Path) -> None:
    people = {"bank": [5, None, 1, 5, 2, 3, 5, 2], "shop": [2, 3, 5, 9]}
    cells = {"bank": ["5", " ", "1", "5 ", "2", "3", "\ufeff5", "2"], "shop": list("2359")}
    ids = prepared(tmp_path, cells, duplicates=duplicates, missing="drop")
    check(people, ids, job(protocol), duplicates)


@pytest.mark.parametrize("cells", [["5", "1", "5\u200b"], ["5", "1", " "]], ids=["repeated", "blank"])
def test_refused_before_anybody_else_is_met(cells, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="party 'bank': ") as refused:
        prepared(tmp_path, {"bank": cells})
    assert "5" not in str(refused.value).replace("[alignment]", "")


@pytest.mark.parametrize("protocol", QUICK)
def test_thousands_of_ids_in_buckets_and_not(protocol: str, tmp_path: Path) -> None:
    """Lists of unlike length, every id found in one piece and in many."""
    people = {"bank": list(range(0, 6000, 2)), "shop": list(range(0, 900, 3)), "biller": list(range(600, 1500))}
    cells = {name: [f"{one:019d}" for one in own] for name, own in people.items()}
    ids = prepared(tmp_path, cells)
    for bucket_ids in (2_000_000, 500):
        check(people, ids, job(protocol, bucket_ids=bucket_ids))


def test_all_protocols_put_the_same_rows_in_the_same_order(tmp_path: Path) -> None:
    cells = {"bank": [f"{one}" for one in range(60)], "shop": [f"{one}" for one in range(80, 20, -1)]}
    ids = prepared(tmp_path, cells)
    found = {protocol: align(ids, job(protocol)) for protocol in PROTOCOLS}
    for name in cells:
        assert len({tuple(results[name].rows) for results in found.values()}) == 1
        assert len({results[name].digest for results in found.values()}) == 1
