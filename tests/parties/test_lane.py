"""A hop's numbered stream by itself: numbers, acknowledgements, what is sent again, and how much is kept."""

from __future__ import annotations

import gc
import io
import random
import threading
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties import lane
from parties.errors import RemoteProtocolError
from parties.frame import MESSAGE, Frame, Header, read_frame
from parties.lane import Lane


def frame(body: bytes = b"") -> Frame:
    return Frame(MESSAGE, Header("bank", "shop", "m"), body)


def read(data: bytes) -> Frame:
    return read_frame(io.BytesIO(data).read)


def sending(count: int) -> tuple[Lane, list[bytes], list[int]]:
    """A lane that has sent so many frames, their bytes, and the list of those said to be delivered."""
    ours, delivered = Lane(), list[int]()
    data = [ours.number(frame(b"%d" % number), lambda n=number: delivered.append(n)) for number in range(1, count + 1)]
    return ours, data, delivered


def test_frames_are_numbered_from_one_on_and_otherwise_left_alone() -> None:
    _, data, _ = sending(5)
    assert [read(each).number for each in data] == [1, 2, 3, 4, 5]
    assert [read(each).body for each in data] == [b"1", b"2", b"3", b"4", b"5"]
    assert {read(each).header for each in data} == {frame().header}


@given(st.integers(0, 20), st.data())
def test_acknowledgements_in_any_legal_order_free_each_frame_once_and_in_order(count: int, data: st.DataObject) -> None:
    ours, sent, delivered = sending(count)
    highest = 0
    for number in data.draw(st.lists(st.integers(0, count))):  # an older one than before is legal: it was under way
        ours.acknowledge(number)
        highest = max(highest, number)
        assert delivered == list(range(1, highest + 1))
        assert ours.in_flight == sum(map(len, sent[highest:]))
        assert ours.lacking(highest) == sent[highest:]


def test_acknowledging_what_was_never_sent_is_refused_and_changes_nothing() -> None:
    ours, sent, delivered = sending(3)
    ours.acknowledge(1)
    for number in (4, 5, 2**64 - 1):
        with pytest.raises(RemoteProtocolError, match=f"^frame {number} was acknowledged, 3 were sent$"):
            ours.acknowledge(number)
    assert delivered == [1]
    assert ours.lacking(1) == sent[1:]
    with pytest.raises(RemoteProtocolError, match="^frame 1 was acknowledged, 0 were sent$"):
        Lane().acknowledge(1)


@given(st.integers(0, 12), st.data())
def test_what_the_other_end_lacks_is_sent_again_byte_for_byte(count: int, data: st.DataObject) -> None:
    ours, sent, _ = sending(count)
    acknowledged = data.draw(st.integers(0, count))
    ours.acknowledge(acknowledged)
    for after in range(acknowledged, count + 1):
        assert ours.lacking(after) == sent[after:]
    for after in (*range(acknowledged), count + 1, count + 2, 2**64):
        with pytest.raises(RemoteProtocolError, match=f"has {after} frames, expected {acknowledged} to {count}$"):
            ours.lacking(after)


@given(st.lists(st.integers(0, 6), max_size=60))
def test_what_arrives_twice_is_dropped_and_a_gap_is_refused(steps: list[int]) -> None:
    """Each arrival is up to two ahead of what is due, or up to four behind it."""
    theirs, received = Lane(), 0
    for step in steps:
        number = received + 3 - step
        if number < 1:
            continue
        if number > received + 1:
            with pytest.raises(RemoteProtocolError, match=f"^frame {number} came after frame {received}$"):
                theirs.accept(number)
        else:
            assert theirs.accept(number) is (number == received + 1)
            received = max(received, number)
        assert theirs.received == received


@given(st.permutations(range(1, 9)))
def test_delivered_out_of_order_is_acknowledged_up_to_the_first_that_is_not(order: list[int]) -> None:
    theirs, delivered = Lane(), set[int]()
    for number in range(1, 9):
        theirs.accept(number)
    assert theirs.acknowledged() == 0  # received is not delivered
    for number in order:
        theirs.deliver(number, 1)
        delivered.add(number)
        first_missing = min(set(range(1, 10)) - delivered)
        assert theirs.acknowledged() == first_missing - 1
    assert theirs._ahead == set()


def test_every_frame_that_goes_out_carries_what_was_delivered() -> None:
    ours = Lane()
    assert read(ours.number(frame())).acknowledged == 0
    for number in (1, 2, 3):
        ours.accept(number)
    ours.deliver(1, 10)
    assert read(ours.number(frame())).acknowledged == 1
    ours.deliver(3, 10)
    assert read(ours.number(frame())).acknowledged == 1
    ours.deliver(2, 10)
    assert read(ours.number(frame())).acknowledged == 3


def test_an_acknowledgement_is_owed_after_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "ACKNOWLEDGE", 100)
    ours = Lane()
    ours.deliver(1, 99)
    assert not ours.owes()
    ours.deliver(3, 1)  # one ahead counts too: the gap before it may close at any moment
    assert ours.owes()
    assert ours.acknowledged() == 1
    assert not ours.owes()
    ours.deliver(2, 100)
    assert ours.owes()
    ours.number(frame())
    assert not ours.owes()


def test_a_sender_waits_while_the_window_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, sent, _ = sending(3)
    monkeypatch.setattr(lane, "WINDOW", sum(map(len, sent)))
    assert not ours.wait_for_room(0.01)
    ours.acknowledge(1)
    assert ours.wait_for_room(0)
    ours.number(frame(bytes(200)))  # a frame more than the window is let out, not part of one
    assert not ours.wait_for_room(0.01)
    ours.acknowledge(4)
    assert ours.wait_for_room(0) and ours.in_flight == 0


def test_an_acknowledgement_wakes_who_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _, _ = sending(1)
    monkeypatch.setattr(lane, "WINDOW", 1)
    woken: list[bool] = []
    waiting = threading.Thread(target=lambda: woken.append(ours.wait_for_room(60)))
    waiting.start()
    ours.acknowledge(1)
    waiting.join(30)
    assert woken == [True]


def test_what_was_acknowledged_is_no_longer_in_memory() -> None:
    ours, body = Lane(), bytes(1 << 20)
    tracemalloc.start()
    try:
        for number in range(1, 101):
            ours.number(frame(body))
            ours.acknowledge(max(0, number - 2))
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 4 << 20
    assert ours.in_flight < 3 << 20


def test_delivered_may_use_the_lane_again() -> None:
    """As the coordinator does: that one party has a frame is news on the hop of another."""
    ours, other = Lane(), Lane()
    other.accept(1)
    ours.number(frame(), lambda: other.deliver(1, ours.in_flight))
    ours.acknowledge(1)
    assert other.acknowledged() == 1


def test_what_is_kept_for_who_is_gone_for_good_counts_as_delivered() -> None:
    """Nobody who sends there waits for it, neither for what was sent before nor for what comes after."""
    ours, _, delivered = sending(5)
    ours.acknowledge(2)
    ours.forget()
    assert delivered == [1, 2, 3, 4, 5] and ours.in_flight == 0 and ours.lacking(5) == []
    ours.number(frame(b"6"), lambda: delivered.append(6))
    assert delivered == [1, 2, 3, 4, 5, 6] and ours.in_flight == 0
    ours.number(frame(b"7"))
    ours.forget()
    assert delivered == [1, 2, 3, 4, 5, 6]


def test_forgetting_wakes_who_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "WINDOW", 1)
    ours, _, _ = sending(1)
    assert not ours.wait_for_room(0.0)
    waiting = threading.Timer(0.05, ours.forget)
    waiting.start()
    assert ours.wait_for_room(20.0)
    waiting.join()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 6))
def test_two_lanes_over_connections_that_break_lose_and_repeat_nothing(seed: int, count: int, breaks: int) -> None:
    """Of what is written a connection brings a beginning; each new one begins with what the other end lacks."""
    rng = random.Random(seed)
    ours, theirs, arrived = Lane(), Lane(), list[bytes]()
    waiting = [b"%d" % number for number in range(count)]
    for left in range(breaks, -1, -1):
        written = ours.lacking(theirs.received)
        number = rng.randint(0, len(waiting)) if left else len(waiting)
        written += [ours.number(frame(body)) for body in waiting[:number]]
        del waiting[:number]
        for data in written[: rng.randint(0, len(written))] if left else written:
            found = read(data)
            if theirs.accept(found.number):
                arrived.append(found.body)
                theirs.deliver(found.number, len(data))
            if rng.random() < 0.3:
                ours.acknowledge(theirs.acknowledged())
    assert arrived == [b"%d" % number for number in range(count)]
    ours.acknowledge(theirs.acknowledged())
    assert ours.in_flight == 0


def test_threads_that_number_and_acknowledge_at_once() -> None:
    ours, numbers = Lane(), list[int]()
    lock = threading.Lock()

    def number() -> None:
        for _ in range(300):
            found = read(ours.number(frame(b"x"))).number
            with lock:
                numbers.append(found)
            ours.acknowledge(found // 2)

    threads = [threading.Thread(target=number) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(numbers) == list(range(1, 1201))
    ours.acknowledge(1200)
    assert ours.in_flight == 0
