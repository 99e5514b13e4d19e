"""Seconds of a role: waiting and wire do not overlap, and all parts add up."""

from __future__ import annotations

import pytest

from parties import stopwatch
from parties.stopwatch import Stopwatch


class Time:
    """A clock that a test sets."""

    now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Time]:
    monkeypatch.setattr(stopwatch, "perf_counter", lambda: Time.now)
    return Time


def test_what_is_waited_on_the_wire_is_waiting(clock):
    watch = Stopwatch()
    clock.now += 50.0  # before the first message: nobody's
    with watch.on_the_wire():
        clock.now += 1.0
        with watch.waits():
            clock.now += 4.0
        clock.now += 2.0
    clock.now += 8.0
    assert watch.split(3.0) == {"kernel": 3.0, "python": 5.0, "wire": 3.0, "waiting": 4.0}
    assert watch.total == 15.0


def test_waiting_counts_from_the_first_message_on(clock):
    watch = Stopwatch()
    with watch.waits():
        clock.now += 5.0
    assert watch.total == 0.0
    assert set(watch.split(0.0).values()) == {0.0}
    with watch.on_the_wire():
        clock.now += 1.0
    with watch.waits():
        clock.now += 2.0
    assert watch.split(0.0) == {"kernel": 0.0, "python": 0.0, "wire": 1.0, "waiting": 2.0}


def test_what_fails_is_counted_too(clock):
    watch = Stopwatch()
    with pytest.raises(ValueError, match="broken"), watch.on_the_wire():
        clock.now += 1.0
        with watch.waits():
            clock.now += 2.0
            raise ValueError("broken")
    assert (watch.wire, watch.waiting) == (1.0, 2.0)
