"""What would make more ids match, against plain sets."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psi.ids import IdRules, composite, normalised
from psi.remedies import ACCENTS, CASE, DECIMALS, DIGITS, MARKS, ZEROS, remedies, shared_by_pairs


def keys(cells: list[str]) -> list[bytes]:
    return [composite([cell]) for cell in cells]


def tried(**cells: list[str]) -> dict[str, int]:
    return {one.change: one.more for one in remedies({name: keys(texts) for name, texts in cells.items()})}


PEOPLE = [f"{number:06d}" for number in random.Random(3).sample(range(10**6), 300)]


@pytest.mark.parametrize(
    ("write", "change"),
    [
        (lambda one: str(int(one)), ZEROS),
        (lambda one: f"{one}.0", DECIMALS),
        (lambda one: f"{one[:3]}-{one[3:]}", MARKS),
        (lambda one: f"'{one}", MARKS),
    ],
    ids=["zeros", "decimals", "dashes", "apostrophe"],
)
def test_one_party_writes_all_ids_otherwise(write, change: str) -> None:
    found = tried(bank=PEOPLE, shop=[write(one) for one in PEOPLE])
    changed = sum(write(one) != one for one in PEOPLE)
    assert found[change] == changed
    assert max(found.values()) == changed and all(", and " not in one for one in found)


@pytest.mark.parametrize(
    ("left", "right", "change"),
    [("ab", "AB", CASE), ("stra\u00dfe", "STRASSE", CASE), ("jos\u00e9", "jose", ACCENTS)],
)
def test_letters(left: str, right: str, change: str) -> None:
    assert tried(bank=[left, "x"], shop=["y", right]) == {change: 1}


def test_digits_alone() -> None:
    assert tried(bank=["DE12", "x"], shop=["y", "12"]) == {DIGITS: 1}


def test_several_changes_at_once() -> None:
    found = tried(bank=["ab", "c-d", "d-e", "8"], shop=["AB", "cd", "D E", "8"])
    assert found == {MARKS: 1, CASE: 1, f"{MARKS}, and {CASE}": 3}


def test_changes_of_which_no_single_one_is_enough() -> None:
    assert tried(bank=["'007", "x"], shop=["7.0", "y"]) == {f"{DECIMALS}, and {MARKS}, and {ZEROS}": 1}


def test_the_other_order_of_two_columns() -> None:
    rows = [("abcde"[at], "vwxyz"[at]) for at in range(5)]
    lists = {"bank": [composite(row) for row in rows], "shop": [composite(row[::-1]) for row in rows]}
    found = remedies(lists)
    assert [str(one) for one in found] == [
        f"with the id columns of '{name}' in the other order 5 more ids would match" for name in lists
    ]


def test_ids_that_would_become_one_do_not_count() -> None:
    assert tried(bank=["a", "A", "b"], shop=["x", "B", "y"]) == {CASE: 1}
    assert tried(bank=["ab", "aB", "x"], shop=["AB", "y"]) == {}


def test_blank_is_no_id() -> None:
    assert tried(bank=["-", "x"], shop=["--", "y"]) == {}
    assert tried(bank=["0", "x"], shop=["000", "y"]) == {ZEROS: 1}


def test_nothing_to_gain() -> None:
    assert tried(bank=PEOPLE, shop=PEOPLE) == {}
    assert tried(bank=PEOPLE, shop=[*PEOPLE, "x"]) == {}
    assert tried(bank=["a"], shop=["b"]) == {}


def test_few_may_be_chance() -> None:
    rest = [f"y{one}" for one in PEOPLE]
    assert tried(bank=[*PEOPLE, "A"], shop=[*rest, "a"]) == {DIGITS: 300}
    assert tried(bank=[*PEOPLE, *"ABC"], shop=[*rest, *"abc"]) == {CASE: 3, DIGITS: 300}


def test_three_parties_count_what_all_share() -> None:
    found = tried(bank=["ann", "bob", "cy"], shop=["ANN", "BOB", "dan"], biller=["Ann", "eve"])
    assert found == {CASE: 1}


def test_pairs() -> None:
    lists = {"bank": keys(["a", "b", "c"]), "shop": keys(["b", "c"]), "biller": keys(["c", "a"])}
    assert shared_by_pairs(lists) == {("bank", "shop"): 2, ("bank", "biller"): 2, ("shop", "biller"): 1}


texts = st.lists(st.text("aA\u00e9E01.- ", min_size=1, max_size=4), min_size=1, max_size=12)


@given(texts, texts)
def test_options_of_the_job_do_what_is_promised(left: list[str], right: list[str]) -> None:
    """Where no two ids of a party fall together, the job's own option brings exactly so many more."""
    rules = {CASE: IdRules(casefold=True), DIGITS: IdRules(digits_only=True)}
    sides = [list(dict.fromkeys(filter(None, (normalised(one, IdRules()) for one in side)))) for side in (left, right)]
    if not all(sides):
        return
    found = tried(bank=sides[0], shop=sides[1])
    common = set(sides[0]) & set(sides[1])
    for change, rule in rules.items():
        after = [[normalised(one, rule) for one in side] for side in sides]
        if any(len(set(side)) < len(side) or "" in side for side in after):
            continue
        more = len(set(after[0]) & set(after[1])) - len(common)
        assert found.get(change, 0) == more
