"""The look at raw ids: what normalising changed, and what is suspected, in counts and never with an id."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parties.errors import DataError
from psi.ids import IdRules, normalised, prepare_ids
from psi.precheck import LOST_ZEROS, IdCheck, inspect_ids

PLAIN = IdRules()
CASE = IdRules(casefold=True)
DIGITS = IdRules(digits_only=True)


def look(cells: list[str], rules: IdRules = PLAIN) -> IdCheck:
    return inspect_ids([cells], rules, ["client"])


def kinds(found: IdCheck) -> dict[str, int]:
    return {one.kind: one.cells for one in found.suspicions}


def numbers(count: int, low: int, high: int) -> list[int]:
    return random.Random(5).sample(range(low, high), count)


@pytest.mark.parametrize(
    ("cells", "rules", "told"),
    [
        (["a", "b"], PLAIN, "2 ids read: normalising changed none"),
        (["a ", "\ufeffb", "\u200bc", "d"], PLAIN, "4 ids read: white space or invisible marks stripped from 3"),
        (["cafe\u0301", "\uff11", "\u00e9"], PLAIN, "3 ids read: brought into one form (Unicode NFKC) 2"),
        (["\u00a07"], PLAIN, "1 ids read: brought into one form (Unicode NFKC) 1, white space or invisible marks "
         "stripped from 1"),
        (["A", "b", "C"], CASE, "3 ids read: case folded in 2"),
        (["DE-12", "13"], DIGITS, "2 ids read: reduced to their digits 1"),
        (["", " ", "a"], PLAIN, "3 ids read: white space or invisible marks stripped from 1; 2 blank"),
        (["a", "A", "b", "a"], CASE, "4 ids read: case folded in 1; 2 with the id of an earlier row"),
        (["x", "12", "y"], DIGITS, "3 ids read: reduced to their digits 2; 2 blank"),
    ],
)  # fmt: skip
def test_what_normalising_changed(cells: list[str], rules: IdRules, told: str) -> None:
    assert look(cells, rules).told == told


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (["1.23E+12", "1,5e+9", "7E+11", "4.2e-05", "1234567"], {"scientific": 4}),
        (["123.0", "8.00", "9,0", "77"], {"decimal": 3}),
        (["1,234,567", "1.234.567", "1'234", "1\u00a0234", "12345"], {"separated": 4}),
        (["'00123", '"7"', '="0012"', "\u201970", "12345"], {"quoted": 4}),
        (["2-Mar", "3. Mrz", "Mar-03", "12/7", "12-9", "4-1", "4-2"], {"date": 3}),
        (["NA", "null", "#N/A", "#REF!", "####", "-", "n/a", "anna"], {"missing": 7}),
        (["AB1", "CD2", "ef3", "Gh4"], {"mixed case": 2}),
        (["ann@x.org", "bob@x.org", "Cy@x.org", "12"], {"mixed case": 1}),
        (["caf\ufffd", "bar"], {"undecoded": 1}),
        (["00142", "23415", "981", "20000"], {LOST_ZEROS: 1}),
        (["", " "], {}),
    ],
)
def test_damage(cells: list[str], found: dict[str, int]) -> None:
    assert kinds(look(cells)) == found


@pytest.mark.parametrize(
    "cells",
    [
        [str(number) for number in range(1, 5001)],
        [f"{number:08d}" for number in numbers(500, 0, 10**8)],
        [str(number) for number in numbers(500, 10**7, 10**8)],
        [str(number) for number in numbers(500, 10**18, 10**19)],
        [str(number) for number in numbers(500, 10**15, 10**16)],
        [f"{number:x}" for number in numbers(500, 16**11, 16**12)],
        [f"1{number}E{number % 7}" for number in range(500)],
        [f"{day:02d}-Mar" for day in range(1, 30)],
        [f"Q{number}-x" for number in range(50)],
        ["Ann", "Bob", "McCoy"],
        ["aB", "Ba", "AB", "ab", "Xy", "yX"],
        ["0", "00", "000", "1", "12"],
        ["9" * 5000, "8" * 4999],
        ["1", "2", "3"],
    ],
    ids=lambda cells: f"{len(cells)} like {cells[0][:12]}",
)  # fmt: skip
def test_no_damage(cells: list[str]) -> None:
    assert look(cells).suspicions == ()


def test_leading_zeros_that_no_id_has() -> None:
    cells = [str(number) for number in numbers(900, 0, 10**8)]
    short = sum(len(cell) < 8 for cell in cells)
    assert kinds(look(cells)) == {LOST_ZEROS: short}
    assert look(cells).without(LOST_ZEROS).suspicions == ()
    assert f"in {short} of 900 ids that are numbers, nor has any other id" in look(cells).warnings[0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda number: number // 10**4 * 10**4,
        lambda number: int(float(number)),
        lambda number: int(f"{float(number):.15g}".replace("e+18", "").replace(".", "").ljust(19, "0")),
    ],
    ids=["fifteen digits", "doubles", "doubles as text"],
)
@pytest.mark.parametrize("share", [1, 10])
def test_long_numbers_that_were_rounded(damage, share: int) -> None:
    whole = numbers(400, 10**18, 10**19)
    cells = [str(damage(one) if at % share == 0 else one) for at, one in enumerate(whole)]
    found = kinds(look(cells))
    assert found.keys() == {"rounded"}
    assert 400 // share <= found["rounded"] <= 400 // share + 12


def test_options_that_mend_damage_silence_it() -> None:
    assert kinds(look(["AB1", "CD2", "ef3"], CASE)) == {}
    assert kinds(look(["'12", "1,234,567", "ab3"], DIGITS)) == {}
    assert kinds(look(["1.2E+12", "7.0", "3"], DIGITS)) == {"scientific": 1, "decimal": 1}


def test_columns_of_a_composite_key_are_named_and_judged_apart() -> None:
    born = ["2-Mar", "3-Mar", "4-Mar"]
    found = inspect_ids([["7.0", "8", "8"], born], IdRules(columns=2), ["number", "born"])
    assert [one.text.split(" in 1 ")[0] for one in found.suspicions] == [
        'column "number": whole numbers written as decimals, like 123.0,'
    ]
    assert (found.blank, found.repeated) == (0, 0)
    found = inspect_ids([["7", "7", "7", ""], ["a", "a ", "b", "c"]], IdRules(columns=2), ["number", "letter"])
    assert (found.blank, found.repeated) == (1, 1)


def test_sentences_hold_counts_and_no_id() -> None:
    cells = [
        "'zq-1",
        "9.87654E+33",
        "4711.0",
        "4,711,815",
        "5-Apr",
        "ZQ-2",
        "zq-3",
        "zq-5",
        "zq-\ufffd4",
        "null",
    ]
    cells += [str(number // 10**5 * 10**5) for number in numbers(20, 10**18, 10**19)]
    found = look(cells)
    assert len(found.suspicions) == 9
    said = " ".join((found.told, *found.warnings))
    assert not [cell for cell in cells if cell != "null" and cell in said]
    assert not re.search(r"\d{5}", said)
    assert all("\n" not in line and len(line) < 300 for line in found.warnings)


@given(st.lists(st.text(max_size=6) | st.from_regex(r"[0-9]{1,20}([.,]0|E\+[0-9]{2})?", fullmatch=True), max_size=20),
       st.booleans(), st.booleans())  # fmt: skip
def test_counts_agree_with_the_ids_that_alignment_gets(cells: list[str], casefold: bool, digits_only: bool) -> None:
    rules = IdRules(casefold=casefold, digits_only=digits_only)
    found = look(cells, rules)
    assert found.rows == len(cells)
    assert found.blank == sum(not normalised(cell, rules) for cell in cells)
    changed = sum(normalised(cell, rules) != cell for cell in cells)
    assert max(found.changed.values(), default=0) <= len(cells)
    assert changed <= sum(found.changed.values())
    try:
        prepared = prepare_ids([cells], rules, party="bank", duplicates="first", missing="drop")
    except DataError:
        assert found.rows == found.blank
        return
    assert (found.blank, found.repeated) == (prepared.missing, prepared.duplicates)
    assert all(0 < one.cells <= len(cells) for one in found.suspicions)
