"""Parties of several silos in scenarios: what a silo has from its party, --set, and every bad line in one line."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parties.errors import ConfigError
from vfl.job import Scenario
from vfl.job_file import build_scenario
from vfl.silo_tables import expand_silos

TEXT = """\
name = "clinics"
model = "logistic"

[[party]]
name = "bank"
role = "active"
data = "bank.csv"
id = "client"
label = "paid"

[[party]]
name = "hospitals"
role = "passive"
id = "patient"
drop = ["ward"]
encoding = "cp1252"

[party.policy]
max_rounds = 50

[[party.silo]]
name = "north"
data = "north.csv"

[[party.silo]]
name = "south"
data = "south.csv"
id = ["patient", "branch"]
encoding = "utf-8"
missing_values = ["-"]
policy = { min_intersection = 300 }
"""


def scenario(*overrides: str, text: str = TEXT) -> Scenario:
    return build_scenario(tomllib.loads(text), Path("/d"), file="scenario.toml", overrides=overrides)


def refusal(*overrides: str, text: str = TEXT) -> str:
    with pytest.raises(ConfigError) as caught:
        scenario(*overrides, text=text)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def test_every_silo_is_a_party_in_the_order_of_the_file() -> None:
    read = scenario()
    assert [member.name for member in read.job.parties] == ["bank", "hospitals.north", "hospitals.south"]
    assert read.job.holders == {"bank": ("bank",), "hospitals": ("hospitals.north", "hospitals.south")}
    assert read.job.passive_holders == {"hospitals": ("hospitals.north", "hospitals.south")}
    assert (read.job.active, read.job.labelled) == ("bank", ("bank",))
    assert (read.job.has_silos, read.job.horizontal) == (True, False)


def test_a_silo_has_from_its_party_what_its_own_table_does_not_say() -> None:
    _, north, south = scenario().parties
    assert (north.id, north.drop, north.encoding, north.data) == ("patient", ("ward",), "cp1252", "/d/north.csv")
    assert (south.id, south.drop, south.encoding) == (("patient", "branch"), ("ward",), "utf-8")
    assert (north.missing_values, south.missing_values) == ((), ("-",))
    assert (north.policy.max_rounds, north.policy.min_intersection) == (50, 100)
    assert (south.policy.max_rounds, south.policy.min_intersection) == (None, 300)  # its own policy, not its party's


def test_the_label_holder_may_have_silos() -> None:
    text = TEXT.replace('data = "bank.csv"\n', "") + (
        '[[party.silo]]\nname = "west"\ndata = "w.csv"\n'  # of the last party
    )
    text = text.replace('label = "paid"\n', 'label = "paid"\n[[party.silo]]\nname = "head"\ndata = "h.csv"\n')
    job = scenario(text=text).job
    assert (job.active, job.labelled) == ("bank.head", ("bank.head",))
    assert [len(silos) for silos in job.holders.values()] == [1, 3]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("party.hospitals.silo.north.data=x.csv", ("/d/x.csv", "/d/south.csv")),
        ("party.hospitals.silo.south.data=sub/x.csv", ("/d/north.csv", "/d/sub/x.csv")),
    ],
    ids=["first", "second"],
)
def test_set_reaches_one_silo(override: str, expected: tuple[str, str]) -> None:
    assert tuple(spec.data for spec in scenario(override).parties[1:]) == expected


def test_set_reaches_all_silos_of_a_party() -> None:
    read = scenario("party.hospitals.policy.max_rounds=7", "party.hospitals.missing_values=['?']")
    assert [spec.policy.max_rounds for spec in read.parties] == [None, 7, None]
    assert [spec.missing_values for spec in read.parties] == [(), ("?",), ("-",)]


BAD_SETS = {
    "party.hospitals.silo.north.data=": ["data in silo 'north' of party 'hospitals'", "(given by --set)", "got ''"],
    "party.hospitals.silo.nort.data=x": ["--set", "no silo is named 'nort'", "did you mean 'north'?"],
    "party.hospitals.north.data=x": ["unknown key 'north' in [[party]] 'hospitals'", "(given by --set)"],
    "party.hospitals.silo.data=x": ["--set", "expected a key of one party"],
    "party.hospitals.silo.north.wait=3": ["unknown key 'wait' in silo 'north' of party 'hospitals'", "'weight'"],
    "party.hospitals.silo.north.weight=0": ["weight in silo 'north' of party 'hospitals'", "(given by --set)", "got 0"],
    "party.hospitals.silo.north.policy.max_round=3": ["unknown key 'max_round' in [party.silo.policy] of silo 'north'"],
    "party.hospitals.data=x.csv": ["data in [[party]] 'hospitals'", "(given by --set)", "beside [[party.silo]]"],
    "party.hospitals.silo=3": ["silo in [[party]] 'hospitals'", "(given by --set)", "got 3", "[[party.silo]]"],
    "party.hospitals.silo=[]": ["silo in [[party]] 'hospitals'", "got []"],
    "party.hospitals.encoding=klingon": ["encoding in party 'hospitals.north'", "got 'klingon'"],
}


@pytest.mark.parametrize("override", BAD_SETS)
def test_bad_overrides_are_named(override: str) -> None:
    message = refusal(override)
    assert [part for part in BAD_SETS[override] if part not in message] == [], message


BAD_LINES = {
    "the same silo twice": ('name = "south"', 'name = "north"', ["name of a silo", "'hospitals'", "'north' twice"]),
    "a name with a dot": ('name = "north"', 'name = "a.b"', ["name in silo 'a.b' of party 'hospitals'", "matching"]),
    "no data": ('data = "north.csv"\n', "", ["missing key 'data' in silo 'north' of party 'hospitals'"]),
    "no name": ('name = "north"\n', "", ["missing key 'name' in silo number 1 of party 'hospitals'"]),
    "a party's own key": ('data = "north.csv"', 'data = "n"\nlabel = "y"', ["unknown key 'label' in silo 'north'"]),
    "a line that no silo takes over": (
        '[[party.silo]]\nname = "north"\ndata = "north.csv"',
        "silos = 2",
        ["'silos'", "[party.policy] of party 'hospitals'"],
    ),
    "silos": ('drop = ["ward"]', "silos = 2", ["'silos' in [[party]] 'hospitals'", "did you mean 'silo'?"]),
    "data of the party": ('drop = ["ward"]', 'data = "x.csv"', ["data in [[party]] 'hospitals'", "remove the line"]),
    "a dotted party": ('name = "bank"', 'name = "bank.head"', ["name in [[party]] 'bank.head'", "without a dot"]),
    "a party twice": ('name = "bank"', 'name = "hospitals"', ["'hospitals.north' beside 'hospitals'", "not both"]),
    "a table": ('[[party.silo]]\nname = "south"', "[party.x]\nname = 'y'", ["unknown key 'x' in [[party]]"]),
    "weight of a whole party": ('label = "paid"', 'label = "paid"\nweight = 2', ["unknown key 'weight'"]),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_lines(case: str) -> None:
    old, new, parts = BAD_LINES[case]
    assert old in TEXT
    message = refusal(text=TEXT.replace(old, new, 1))
    assert [part for part in parts if part not in message] == [], message


def test_silos_written_as_something_else_are_refused() -> None:
    for silo in ("north", {}, {"name": "north"}, [], [3], [[]], None):
        lines: dict[str, Any] = tomllib.loads(TEXT)
        lines["party"][1]["silo"] = silo
        with pytest.raises(ConfigError, match=r"party\.?.*(silo|expected a table)"):
            build_scenario(lines, Path("/d"), file="scenario.toml")


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_the_places_that_set_gave_move_with_the_silos(counts: list[int]) -> None:
    parties: list[dict[str, object]] = [
        {
            "name": f"p{at}",
            "role": "active",
            **({"silo": [{"name": f"s{i}", "data": "x"} for i in range(count)]} if count else {}),
        }
        for at, count in enumerate(counts)
    ]
    given = frozenset(("party", at, "id") for at in range(len(counts)))
    document, moved = expand_silos({"party": parties}, given, "scenario.toml")
    rows = document["party"]
    assert isinstance(rows, list)
    assert len(rows) == sum(max(count, 1) for count in counts)
    assert moved == frozenset(("party", at, "id") for at in range(len(rows)))
