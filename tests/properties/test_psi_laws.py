"""Alignment against a set oracle, and laws of normalising, on generated ids."""

import unicodedata

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parties.errors import DataError
from parties.local import run_local
from parties.wire import Active, Coordinator, Passive
from psi.align import AlignmentSettings, align_coordinator, align_party, row_order
from psi.ids import IdRules, composite, normalised, prepare_ids

NAMES = ["bank", "shop", "biller", "clinic", "telco"]
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Spellings of one id: the oracle knows the number, the parties see the text.
DRESS = [
    lambda text: text,
    lambda text: f"  {text}\t",
    lambda text: f"\ufeff{text}",
    lambda text: f"\u200b{text}\u200d ",
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: text.upper(),
    lambda text: text.translate({ord("0") + digit: 0xFF10 + digit for digit in range(10)}),
]


def spelled(number, dress):
    """The id of a person: 19 digits, leading zeros and a letter that can be composed or decomposed."""
    return DRESS[dress](f"{number:019d}-caf\u00e9")


@st.composite
def federations(draw):
    """2 to 5 parties; each a list of (person, spelling), persons distinct within a party, in any order."""
    count = draw(st.integers(2, 5))
    person = st.one_of(st.integers(0, 12), st.integers(10**18, 10**18 + 2))
    rows = st.lists(
        st.tuples(person, st.integers(0, len(DRESS) - 1)), min_size=1, max_size=12, unique_by=lambda r: r[0]
    )
    return {name: draw(rows) for name in NAMES[:count]}


def align(columns, rules, job, **options):
    """All roles over the local network; the parties' results."""
    plays = {}
    for name, cells in columns.items():
        prepared = prepare_ids(cells, rules, party=name, **options)
        plays[name] = lambda end, prepared=prepared: align_party(end, prepared, job)
    plays["coordinator"] = lambda end: align_coordinator(end, job)
    roles = dict.fromkeys(columns, Passive) | {next(iter(columns)): Active, "coordinator": Coordinator}
    found = run_local(plays, roles=roles)
    return {name: found[name] for name in columns}


def check_against_sets(people, columns, rules, job, **options):
    """Alignment gives exactly the intersection that plain sets give, in the same order everywhere."""
    common = set.intersection(*(set(rows) for rows in people.values()))
    if not common:
        with pytest.raises(DataError, match="no common ids"):
            align(columns, rules, job, **options)
        return
    found = align(columns, rules, job, **options)
    orders = [[people[name][row] for row in found[name].rows] for name in people]
    assert set(orders[0]) == common
    assert len(orders[0]) == len(common)
    assert all(order == orders[0] for order in orders)
    assert len({result.digest for result in found.values()}) == 1


@QUICK
@given(federations(), st.integers(-(2**70), 2**70))
def test_alignment_is_set_intersection(federation, seed):
    people = {name: [person for person, _ in rows] for name, rows in federation.items()}
    columns = {name: [[spelled(*row) for row in rows]] for name, rows in federation.items()}
    check_against_sets(people, columns, IdRules(casefold=True), AlignmentSettings(seed=seed, min_intersection=1))


@QUICK
@given(federations())
def test_composite_keys_and_left_out_rows(federation):
    """The number split over two columns at any place, a blank row in front, the last row twice."""
    rules, job = IdRules(columns=2, casefold=True), AlignmentSettings(min_intersection=1)
    people, columns = {}, {}
    for name, rows in federation.items():
        people[name] = [None, *(person for person, _ in rows), rows[-1][0]]
        columns[name] = [
            ["x", *(spelled(*row) for row in rows), spelled(*rows[-1])],
            [" ", *(str(person % 7) for person, _ in rows), str(rows[-1][0] % 7)],
        ]
    valid = {name: list(dict.fromkeys(p for p in rows if p is not None)) for name, rows in people.items()}
    common = set.intersection(*map(set, valid.values()))
    if not common:
        return
    found = align(columns, rules, job, duplicates="first", missing="drop")
    for name, result in found.items():
        assert {people[name][row] for row in result.rows} == common
        assert len(result.rows) == len(common)
        assert result.sizes[name] == len(valid[name])


@pytest.mark.parametrize(
    "people",
    [
        {"bank": [1], "shop": [1]},
        {"bank": [1], "shop": [2]},
        {"bank": [1, 2, 3], "shop": [3, 1, 2]},
        {"bank": [1, 2], "shop": [2, 3], "biller": [1, 3]},
        {"bank": list(range(50)), "shop": [49], "biller": list(range(49, 0, -1))},
    ],
)
def test_edges(people):
    columns = {name: [[str(person) for person in rows]] for name, rows in people.items()}
    check_against_sets(people, columns, IdRules(), AlignmentSettings(min_intersection=1))


@given(st.text(), st.booleans(), st.booleans())
def test_normalising_twice_changes_nothing(text, casefold, digits_only):
    rules = IdRules(casefold=casefold, digits_only=digits_only)
    once = normalised(text, rules)
    assert normalised(once, rules) == once


@given(st.text())
def test_composed_and_decomposed_are_one_id(text):
    for rules in (IdRules(), IdRules(casefold=True)):
        forms = {normalised(unicodedata.normalize(form, text), rules) for form in ("NFC", "NFD", "NFKC", "NFKD")}
        assert forms == {normalised(text, rules)}


@given(st.text())
def test_casefold_ignores_case(text):
    rules = IdRules(casefold=True)
    assert normalised(text.casefold(), rules) == normalised(text, rules)


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_ascii_shortcuts_change_nothing(text):
    dressed = f"\ufeff{text}\ufeff"  # not ASCII: takes the long way
    for rules in (IdRules(), IdRules(casefold=True), IdRules(digits_only=True)):
        assert normalised(dressed, rules) == normalised(text, rules)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4), st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_composite_is_injective(left, right):
    assert (composite(left) == composite(right)) == (left == right)


@given(st.lists(st.text(max_size=3), max_size=20), st.sampled_from(["first", "drop"]))
def test_prepared_ids_are_distinct_and_counted(cells, duplicates):
    try:
        prepared = prepare_ids([cells], IdRules(), party="bank", duplicates=duplicates, missing="drop")
    except DataError:
        return
    assert len(set(prepared.ids)) == len(prepared.ids) == len(prepared.rows)
    assert prepared.missing + prepared.duplicates + len(prepared.ids) == prepared.total == len(cells)
    assert (np.diff(prepared.rows) > 0).all()
    assert prepared.ids == [composite([normalised(cells[row], IdRules())]) for row in prepared.rows]


@given(st.lists(st.binary(min_size=1, max_size=9), unique=True, min_size=1), st.integers(), st.randoms())
def test_row_order_ignores_the_order_before(ids, seed, random):
    shuffled = random.sample(ids, len(ids))
    assert [ids[i] for i in row_order(ids, seed)] == [shuffled[i] for i in row_order(shuffled, seed)]
