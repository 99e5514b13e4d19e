"""Ledger files: what is written is read, broken lines are named, merged lines stand in the order of time."""

from contextlib import nullcontext

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parties.errors import DataError
from parties.ledger import Entry, Ledger, merge_sent, now, read_ledger, write_ledger
from parties.wire import TELLING, Active, Bitmaps, Control, EncryptedSums, Message, Passive, Positions, Revealed


def entry(time=1.0, by="bank", sender="bank", receiver="shop", message="glm.share"):
    return Entry(time, by, sender, receiver, message, "Masked", 120, 2, 7, "nothing")


def bare(kept):
    """An entry as it was given."""
    return msgspec.structs.replace(kept, chain="")


entries = st.builds(
    Entry,
    st.floats(0, 1e10),
    *[st.text(max_size=10)] * 5,
    *[st.integers(0, 2**63)] * 3,
    st.text(max_size=20),
    st.integers(1, 2**31),
    st.text("0123456789abcdef", max_size=64),
)


@given(written=st.lists(entries, max_size=5))
def test_round_trip(tmp_path_factory, written):
    path = tmp_path_factory.getbasetemp() / "round_trip.jsonl"
    write_ledger(path, written)
    assert [bare(each) for each in read_ledger(path)] == written


COUNTS = np.array([5, 0, 7], np.int64)
SUMS = np.array([[0, 5], [1, 0], [2, 7]], np.int64)


@pytest.mark.parametrize(
    ("payload", "values"),
    [
        (EncryptedSums(b"key", SUMS, np.zeros((2, 8), np.uint8)), 12),  # several sums in a ciphertext: all count
        (EncryptedSums(b"key", SUMS[:0], np.zeros((0, 8), np.uint8)), 0),
        (Bitmaps(COUNTS, np.zeros(2, np.uint8)), 3),
        (Positions(COUNTS, np.arange(12, dtype=np.uint32)), 12),
        (Revealed({"trees": 2}, np.zeros((2, 3))), 7),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_those_that_the_receiver_learns(payload, values):
    assert payload.count() == values
    assert type(payload.count()) is int


@pytest.mark.parametrize("kind", TELLING)
def test_messages_that_tell_say_what(kind):
    with pytest.raises(TypeError, match=f"a {kind.__name__} message must say what it discloses"):
        Message(Active, Passive, kind)
    assert Message(Active, Passive, kind, discloses="something").discloses == "something"
    Message(Active, Passive, Control)


def test_entries_are_on_disk_as_they_happen(tmp_path):
    path = tmp_path / "bank.jsonl"
    ledger = Ledger(path)
    for number in range(3):
        ledger.record(entry(time=float(number)))
        assert read_ledger(path) == ledger.entries
    ledger.close()
    ledger.close()
    assert len(path.read_text().splitlines()) == 3


def test_a_second_process_start_appends(tmp_path):
    path = tmp_path / "bank.jsonl"
    for time in (1.0, 2.0):
        ledger = Ledger(path)
        ledger.record(entry(time))
        ledger.close()
    assert [each.time for each in read_ledger(path)] == [1.0, 2.0]


@pytest.mark.parametrize("whole", [0, 1, 3])
@pytest.mark.parametrize("kept", [1, 20, -1])
def test_half_a_line_of_a_crash_is_cut_off(tmp_path, whole, kept):
    path = tmp_path / "bank.jsonl"
    write_ledger(path, [entry(float(number)) for number in range(whole + 1)])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:kept])
    with pytest.raises(DataError, match=f"line {whole + 1}") if kept > 0 else nullcontext():
        read_ledger(path)
    ledger = Ledger(path)
    ledger.record(entry(9.0))
    ledger.close()
    assert [each.time for each in read_ledger(path)] == [*map(float, range(whole)), 9.0]


@pytest.mark.parametrize("half", [0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 200_000])
def test_half_a_line_of_any_length_is_cut_off(tmp_path, half):
    path = tmp_path / "bank.jsonl"
    write_ledger(path, [entry(1.0), entry(2.0)])
    with path.open("ab") as file:
        file.write(b"x" * half)
    ledger = Ledger(path)
    ledger.record(entry(3.0))
    ledger.close()
    assert [each.time for each in read_ledger(path)] == [1.0, 2.0, 3.0]


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledger = Ledger()
    ledger.record(entry())
    ledger.close()
    assert [bare(each) for each in ledger.entries] == [entry()]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "broken",
    [
        b"{",
        b"",
        b"[]",
        b'{"time": 1}',
        b'{"\xff": 1}',
        b'{"by": "\xff"}',
        b"\xff",
        b'{"extra": 1}',
        b"null",
        b"[" * 100_000,
    ],
    ids=range(10),
)
@pytest.mark.parametrize("number", [1, 3])
def test_a_broken_line_is_named(tmp_path, broken, number):
    path = tmp_path / "ledger.jsonl"
    write_ledger(path, [entry()] * 4)
    lines = path.read_bytes().split(b"\n")
    lines[number - 1] = broken
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=rf"ledger\.jsonl, line {number}: not a ledger entry"):
        read_ledger(path)


def test_an_unknown_field_is_refused(tmp_path):
    path = tmp_path / "ledger.jsonl"
    write_ledger(path, [entry()])
    path.write_bytes(path.read_bytes().replace(b'"time"', b'"more":1,"time"'))
    with pytest.raises(DataError, match="line 1"):
        read_ledger(path)


def test_a_missing_ledger_is_named(tmp_path):
    with pytest.raises(DataError, match="no ledger at .*missing.jsonl"):
        read_ledger(tmp_path / "missing.jsonl")
    with pytest.raises(DataError, match="no ledger at"):
        read_ledger(tmp_path)


def test_merging_keeps_what_senders_recorded_in_the_order_of_time():
    bank = [entry(1.0), entry(3.0, by="bank", sender="shop", receiver="bank"), entry(4.0)]
    shop = [entry(2.0, by="shop"), entry(2.5, by="shop", sender="shop", receiver="bank"), entry(4.1, by="shop")]
    merged = merge_sent([bank, shop])
    assert [(each.time, each.by) for each in merged] == [(1.0, "bank"), (2.5, "shop"), (4.0, "bank")]


def test_at_equal_times_each_ledger_keeps_its_order():
    bank = [entry(message=name) for name in "cab"]
    assert [each.message for each in merge_sent([bank])] == list("cab")


def test_time_is_in_seconds_to_the_microsecond():
    time = now()
    assert time > 1.6e9
    assert time == round(time, 6)
