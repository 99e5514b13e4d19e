"""Normalising, composite keys, duplicates and missing ids."""

import dataclasses

import numpy as np
import pytest

from parties.errors import ConfigError, DataError
from psi.ids import IdRules, composite, normalised, prepare_ids

PLAIN = IdRules()


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("\uff21\uff11", "A1"),
        ("\ufeff42", "42"),
        ("\u200b 42\u200d\t", "42"),
        ("42\r", "42"),
        ("\u00a042\u3000", "42"),
        ("\u200e\u202a42\u202c", "42"),
        ("\x0042", "42"),
    ],
)
def test_same_id_written_differently(left, right):
    assert normalised(left, PLAIN) == normalised(right, PLAIN)


@pytest.mark.parametrize(
    ("left", "right"),
    [("001", "1"), ("1", "1.0"), ("A", "a"), ("a b", "ab"), ("1e3", "1000"), ("NA", "NaN"), ("-1", "1")],
)
def test_different_ids_stay_different(left, right):
    assert normalised(left, PLAIN) != normalised(right, PLAIN)


def test_nineteen_digits_keep_every_digit():
    assert normalised("9223372036854775807", PLAIN) == "9223372036854775807"
    assert normalised("9223372036854775807", PLAIN) != normalised("9223372036854775806", PLAIN)


@pytest.mark.parametrize(
    ("cell", "folded"), [("ANNA", "anna"), ("Stra\u00dfe", "strasse"), ("\u01c5", "d\u017e"), ("\ufb03", "ffi")]
)
def test_casefold(cell, folded):
    assert normalised(cell, IdRules(casefold=True)) == folded


@pytest.mark.parametrize(
    ("cell", "digits"), [("DE 12-34", "1234"), ("\u0663\u0664", "34"), ("001", "001"), ("x\u00b2", "2"), ("none", "")]
)
def test_digits_only(cell, digits):
    assert normalised(cell, IdRules(digits_only=True)) == digits


def test_composite_keys_are_not_concatenation():
    assert composite(["ab", "c"]) != composite(["a", "bc"]) != composite(["abc"])
    prepared = prepare_ids([["ab", "a"], ["c", "bc"]], IdRules(columns=2), party="bank")
    assert len(set(prepared.ids)) == 2


def test_rows_are_csv_positions():
    prepared = prepare_ids([["b", "", "a", " "]], PLAIN, party="bank", missing="drop")
    assert prepared.rows.tolist() == [0, 2]
    assert prepared.rows.dtype == np.int64
    assert (prepared.total, prepared.missing, prepared.duplicates) == (4, 2, 0)


def test_any_blank_part_is_a_missing_id():
    columns = [["a", "a", "", "b"], ["1", "\ufeff ", "1", "2"]]
    assert prepare_ids(columns, IdRules(columns=2), party="bank", missing="drop").rows.tolist() == [0, 3]


def test_missing_is_refused_with_counts():
    with pytest.raises(DataError, match=r"party 'bank': 2 of 3 rows have no id .* missing = \"drop\""):
        prepare_ids([["secret-id", "", "  "]], PLAIN, party="bank")


def test_what_digits_only_leaves_blank_is_missing():
    with pytest.raises(DataError, match="1 of 2 rows have no id"):
        prepare_ids([["12", "unknown"]], IdRules(digits_only=True), party="bank")


def test_duplicates_are_refused_with_counts_and_no_id():
    cells = ["secret-a", "secret-a ", "secret-b", "\ufeffsecret-a", "x", "x"]
    with pytest.raises(DataError) as refused:
        prepare_ids([cells], PLAIN, party="bank")
    text = str(refused.value)
    assert "party 'bank': 2 ids occur more than once, in 5 of 6 rows" in text
    assert '"first"' in text
    assert '"drop"' in text
    assert "secret" not in text


@pytest.mark.parametrize(("option", "rows", "left_out"), [("first", [0, 1, 3], 2), ("drop", [1, 3], 3)])
def test_duplicate_options(option, rows, left_out):
    prepared = prepare_ids([["b", "c", "b", "a", "b\u200b"]], PLAIN, party="bank", duplicates=option)
    assert prepared.rows.tolist() == rows
    assert prepared.duplicates == left_out
    assert len(prepared.ids) == len(rows)


@pytest.mark.parametrize("cells", [[], ["", " "], ["a", "a"]])
def test_no_valid_id(cells):
    with pytest.raises(DataError, match=rf"got 0 valid ids in {len(cells)} rows"):
        prepare_ids([cells], PLAIN, party="bank", missing="drop", duplicates="drop")


@pytest.mark.parametrize("columns", [[], [["a"], ["b"]]])
def test_number_of_columns(columns):
    with pytest.raises(ConfigError, match=rf"got {len(columns)} id columns, expected 1"):
        prepare_ids(columns, PLAIN, party="bank")


def test_digest_covers_every_option():
    changed = [IdRules(columns=2), IdRules(casefold=True), IdRules(digits_only=True)]
    assert len(changed) == len(dataclasses.fields(IdRules))
    assert len({PLAIN.digest, *(rules.digest for rules in changed)}) == 1 + len(changed)


def test_digest_of_version_1_never_changes():
    assert PLAIN.digest == "e1a1a7b51907b7863174551ad1f35dbf8dd56440ed77a3773db27c26a93fcb92"
