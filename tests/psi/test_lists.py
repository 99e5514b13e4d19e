"""Lists of rows: received ones checked, several joined, against plain sets."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import psi.lists
from parties.errors import ConfigError, RemoteProtocolError
from psi.lists import ascending, check_tag_length, checked_list, join, repeats

# Few values and few leading bytes: ties in any prefix, and rows that differ in their last byte alone.
WIDTHS = st.sampled_from([1, 7, 8, 9, 12, 16, 32])


def rows_of(numbers, width):
    """Distinct rows for distinct numbers: equal in the leading bytes, zeros at the end for many."""
    rows = np.zeros((len(numbers), width), np.uint8)
    rows[:, -1] = [number % 4 for number in numbers]
    rows[:, 0] = [number // 4 for number in numbers]
    return rows


@st.composite
def lists(draw):
    width = draw(WIDTHS.filter(lambda w: w > 1))
    numbers = st.lists(st.integers(0, 40), unique=True, max_size=30)
    people = {name: draw(numbers) for name in "abcd"[: draw(st.integers(2, 4))]}
    return people, width


PARTS = pytest.mark.parametrize("part_rows", [1 << 16, 1], ids=["whole", "cut"])


@PARTS
@given(drawn=lists())
def test_join_is_set_intersection(part_rows, drawn):
    people, width = drawn
    with mock.patch.object(psi.lists, "_PART_ROWS", part_rows):
        found = join({name: rows_of(numbers, width) for name, numbers in people.items()})
    at = [[people[name][place] for place in found[name]] for name in people]
    assert set(at[0]) == set.intersection(*map(set, people.values()))
    assert len(set(at[0])) == len(at[0])
    assert all(each == at[0] for each in at)
    assert (np.diff(found["a"]) > 0).all()
    assert all(places.dtype == np.int64 for places in found.values())


@given(st.lists(st.integers(0, 1000), max_size=60), WIDTHS)
def test_repeats_is_that_of_a_set(numbers, width):
    numbers = [number % 256 for number in numbers] if width == 1 else numbers
    rows = np.array([list(number.to_bytes(4, "little")) for number in numbers], np.uint8).reshape(-1, 4)
    rows = np.concatenate([np.zeros((len(rows), max(0, width - 4)), np.uint8), rows[:, :width]], axis=1)
    assert repeats(rows) == (len(set(map(bytes, rows))) < len(rows))


@PARTS
@given(drawn=st.lists(st.integers(0, 300), unique=True, max_size=60), width=WIDTHS)
def test_ascending_sorts_whole_rows(part_rows, drawn, width):
    rows = rows_of([number % 256 for number in drawn], max(2, width))
    with mock.patch.object(psi.lists, "_PART_ROWS", part_rows):
        order = ascending(rows)
    assert sorted(order.tolist()) == list(range(len(rows)))
    assert list(map(bytes, rows[order])) == sorted(map(bytes, rows))


@pytest.mark.parametrize("count", [0, 1, 7, 100_000])
def test_random_rows_in_any_number(count):
    rng = np.random.default_rng(count)
    left, right = rng.integers(0, 256, (count, 12), np.uint8), rng.integers(0, 256, (3 * count, 12), np.uint8)
    shared = rng.permutation(count)[: count // 2]
    right[rng.permutation(3 * count)[: len(shared)]] = left[shared]
    found = join({"left": left, "right": right})
    assert found["left"].tolist() == sorted(shared.tolist())
    assert (left[found["left"]] == right[found["right"]]).all()
    assert not repeats(left)


def test_join_ignores_what_only_some_hold():
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 256, (50, 12), np.uint8)
    pool[:, 11] = 0  # rows that end in zero bytes are still compared whole
    found = join({"a": pool[:30], "b": pool[20:], "c": pool[[25, 5, 29, 40]]})
    assert found["a"].tolist() == [25, 29]
    assert found["b"].tolist() == [5, 9]
    assert found["c"].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (np.zeros((2, 12), np.uint8), r"shape \(2, 12\) .*expected \(3, 12\)"),
        (np.zeros((3, 11), np.uint8), r"shape \(3, 11\) .*expected \(3, 12\)"),
        (np.zeros(36, np.uint8), r"shape \(36,\)"),
        (np.eye(3, 12, dtype=np.uint8)[[0, 1, 0]], "occurs twice"),
    ],
    ids=["too few", "too narrow", "flat", "repeated"],
)
def test_malformed_lists_name_their_sender(rows, text):
    with pytest.raises(RemoteProtocolError, match=f"shop sent a list .*{text}"):
        checked_list(rows, 3, 12, "shop")


def test_a_good_list_passes():
    rows = np.eye(3, 12, dtype=np.uint8)
    assert checked_list(rows, 3, 12, "shop") is rows


def test_tag_length():
    check_tag_length({"bank": 2**28, "shop": 2**28})
    with pytest.raises(ConfigError, match="tags have 96 bits, lists of these lengths need 97"):
        check_tag_length({"bank": 2**29, "shop": 2**28})
    with pytest.raises(ConfigError, match="tags have 96 bits, lists of these lengths need 98"):
        check_tag_length({"bank": 2**28, "shop": 2**28, "biller": 2})
    with pytest.raises(ConfigError, match="got 1 parties"):
        check_tag_length({"bank": 10})
