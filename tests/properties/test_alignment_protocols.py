"""Every protocol of alignment against plain sets of people, from CSVs to rows, on generated spellings of ids."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psi.ids import IdRules
from psi.settings import AlignmentSettings
from tests.psi.whole_paths import PROTOCOLS, SLOW, check, most_parties, prepare, read_csv, store

NAMES = ["bank", "shop", "biller", "clinic"]

# Different people, however alike their ids look.
ALIKE = [
    *("1", "01", "001", "1.0", "1,0", "1e0", "+1", "-1", "0", "00", "NA", "null", "nan"),
    *("9007199254740992", "9007199254740993", "9223372036854775807", "9223372036854775806", "18446744073709551617"),
    *("a b", "ab", "a  b", "a-b", "caf\u00e9 1", "cafe 1", 'say "1"', "line\nbreak", "x" * 300, "\u0436", "\U0001f600"),
]
IN_TWO_CASES = ["A b", "AB", "Caf\u00e9 1", "NULL", "Nan"]
IN_PARTS = [("ab", "c"), ("a", "bc"), ("a b", "c"), ("a", "b c"), ("1", "11"), ("11", "1"), ("1", "1"), ("c", "ab")]

# Spellings that are one id by the rules that always hold; the last one only without case.
DRESS = [
    lambda text: text,
    lambda text: f"  {text}\t",
    lambda text: f"\ufeff{text}",
    lambda text: f"\u200b{text}\u200d\u00a0",
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: text.translate({ord("0") + digit: 0xFF10 + digit for digit in range(10)}),
    lambda text: text.replace("a", "\uff41"),
    lambda text: text.upper(),
]
BLANK = ["", " ", "\u200b", "\ufeff\t"]


@st.composite
def federations(draw, protocol):
    """Who is in which row of every party, how that is written there, and what the job says."""
    count = draw(st.integers(2, most_parties(protocol)))
    casefold = draw(st.booleans())
    columns = draw(st.sampled_from([1, 1, 2]))
    known = IN_PARTS if columns == 2 else [(one,) for one in ALIKE + (IN_TWO_CASES if not casefold else [])]
    duplicates = draw(st.sampled_from(["refuse", "first", "drop"]))
    unique = (lambda row: row[0]) if duplicates == "refuse" else None
    row = st.tuples(st.sampled_from(known), st.integers(0, len(DRESS) - (1 if casefold else 2)))
    people, cells = {}, {}
    for name in NAMES[:count]:
        rows = draw(st.lists(row, min_size=1, max_size=9, unique_by=unique))
        people[name] = [person for person, _ in rows]
        cells[name] = [tuple(map(DRESS[dress], person)) for person, dress in rows]
        for at in draw(st.lists(st.integers(0, len(rows)), max_size=2)):
            people[name].insert(at, None)
            cells[name].insert(at, (draw(st.sampled_from(BLANK)), *cells[name][0][1:]))
    return people, cells, IdRules(columns=columns, casefold=casefold), duplicates


@st.composite
def jobs(draw, protocol, parties):
    kind = draw(st.sampled_from(["symmetric", "symmetric", "symmetric", "cardinality", "one-sided"]))
    one_sided = kind == "one-sided" and parties == 2 and protocol != "mpsi"
    return AlignmentSettings(
        seed=draw(st.integers(-(2**70), 2**70)),
        protocol=protocol,
        min_intersection=draw(st.sampled_from([1, 1, 2])),
        tell_small_count=draw(st.booleans()),
        pad_to=None if one_sided else draw(st.sampled_from([None, None, 12, 15])),  # jobs refuse both together
        one_sided=one_sided,
        cardinality=kind == "cardinality",
        bucket_ids=draw(st.sampled_from([1_000_000, 1_000_000, 6] if protocol in SLOW else [1_000_000, 5, 2, 1])),
    )


@pytest.mark.parametrize("protocol", ["auto", *PROTOCOLS])
def test_alignment_is_what_plain_sets_say(protocol: str) -> None:
    @settings(max_examples=5 if protocol in SLOW else 40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(federations(protocol), st.data())
    def play(federation, data):
        people, cells, rules, duplicates = federation
        job = data.draw(jobs(protocol, len(people)))
        options = {"duplicates": duplicates, "missing": "drop"}
        if not all(valid(persons, duplicates) for persons in people.values()):
            return  # refused before the others are met; tests/psi/test_ids.py
        with TemporaryDirectory() as folder:
            ids = {}
            for name, rows in cells.items():
                columns = read_csv(Path(folder) / f"{name}.csv", rows).id_columns
                if data.draw(st.booleans()):
                    ids[name] = store(name, columns, rules, Path(folder) / name, job.seed, **options)
                else:
                    ids[name] = prepare(name, columns, rules, **options)
            check(people, ids, job, duplicates)

    play()


def valid(persons, duplicates):
    """Whether any row has an id of its own."""
    present = [person for person in persons if person is not None]
    return any(present.count(person) == 1 for person in present) if duplicates == "drop" else bool(present)
