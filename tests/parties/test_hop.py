"""A hop that changes from one connection to the next, with connections that the test plays."""

from __future__ import annotations

import io
import queue
import threading
import time
from collections.abc import Callable

import pytest

from parties.errors import RemoteProtocolError
from parties.frame import MESSAGE, NEWS, PING, Frame, Header, read_frame
from parties.hop import Hop
from tests.parties.networks import wait_until


class Line:
    """What a hop needs of a connection; the other end is in the test's hands."""

    def __init__(self) -> None:
        self.arriving: queue.Queue[Frame | None] = queue.Queue()
        self.written: list[Frame] = []
        self.is_shut = threading.Event()
        self.stuck = threading.Event()  # set: a writer is held up until it is shut

    def read(self) -> Frame:
        found = self.arriving.get(timeout=20)
        if found is None:
            raise EOFError
        return found

    def write(self, data: bytes) -> None:
        if self.stuck.is_set():
            self.is_shut.wait(20)
        if self.is_shut.is_set():
            raise OSError("shut")
        self.written.append(read_frame(io.BytesIO(data).read))

    def shut(self) -> None:
        self.is_shut.set()
        self.arriving.put(None)

    @property
    def bodies(self) -> list[bytes]:
        return [each.body for each in self.written if each.kind == MESSAGE]


def frame(number: int = 0, kind: int = MESSAGE, acknowledged: int = 0) -> Frame:
    return Frame(kind, Header("bank", "shop", "m"), b"%d" % number, number, acknowledged)


class Serving:
    """A hop that uses a line, in a thread."""

    def __init__(self, hop: Hop, line: Line, sort: Callable[[Frame, int], bool], received: int = 0) -> None:
        self.raised: list[Exception] = []

        def serve() -> None:
            try:
                hop.serve(line, received, sort)  # type: ignore[arg-type]
            except RemoteProtocolError as error:
                self.raised.append(error)

        self.thread = threading.Thread(target=serve)
        self.thread.start()

    def join(self) -> None:
        self.thread.join(20)
        assert not self.thread.is_alive()


def ignore(frame: Frame, size: int) -> bool:
    return True


def test_what_was_sent_without_a_connection_goes_out_with_the_next() -> None:
    hop, line = Hop("bank", "shop", 60.0), Line()
    for number in (1, 2):
        hop.send(frame(number))
    hop.say(NEWS, "lost: it matters only now")
    serving = Serving(hop, line, ignore)
    wait_until(lambda: line.bodies == [b"1", b"2"])
    hop.send(frame(3))
    hop.say(NEWS, "not lost")
    wait_until(lambda: line.bodies == [b"1", b"2", b"3"])
    assert [each.header.message for each in line.written if each.kind == NEWS] == ["not lost"]
    line.shut()
    serving.join()


def test_the_next_connection_brings_what_the_other_end_lacks() -> None:
    hop, first, second = Hop("bank", "shop", 60.0), Line(), Line()
    serving = Serving(hop, first, ignore)
    for number in range(1, 6):
        hop.send(frame(number))
    wait_until(lambda: len(first.bodies) == 5)
    first.arriving.put(frame(kind=PING, acknowledged=2))
    first.arriving.put(None)
    serving.join()
    serving = Serving(hop, second, ignore, received=3)
    wait_until(lambda: second.bodies == [b"4", b"5"])
    assert [each.number for each in second.written] == [4, 5]
    second.shut()
    serving.join()


def test_a_heartbeat_says_what_was_delivered() -> None:
    hop, line = Hop("bank", "shop", 0.05), Line()
    serving = Serving(hop, line, lambda found, size: hop.deliver(found.number, size) or True)
    for number in (1, 2, 3):
        line.arriving.put(frame(number))
    wait_until(lambda: any(each.kind == PING and each.acknowledged == 3 for each in line.written))
    line.shut()
    serving.join()


@pytest.mark.parametrize(
    "wrong",
    [frame(0), frame(2), frame(1, kind=PING), frame(1, kind=NEWS), frame(kind=PING, acknowledged=1)],
    ids=["no number", "a gap", "numbered heartbeat", "numbered news", "acknowledged what never was sent"],
)
def test_what_is_out_of_order_is_refused(wrong: Frame) -> None:
    hop, line, sorted_ = Hop("bank", "shop", 60.0), Line(), list[Frame]()
    serving = Serving(hop, line, lambda found, size: sorted_.append(found) or True)
    line.arriving.put(wrong)
    serving.join()
    assert len(serving.raised) == 1 and line.is_shut.is_set() and not sorted_
    assert not hop.connected


@pytest.mark.parametrize("received", [4, 2**40, -1, 1])
def test_one_who_cannot_have_received_so_much_is_refused(received: int) -> None:
    """Rather than cut off, again and again: it would come back for ever."""
    hop = Hop("bank", "shop", 60.0)
    for number in (1, 2, 3):
        hop.send(frame(number))
    hop.lane.acknowledge(2)
    line = Line()
    serving = Serving(hop, line, ignore, received)
    serving.join()
    assert len(serving.raised) == 1 and "expected 2 to 3" in str(serving.raised[0])
    assert line.is_shut.is_set() and not line.written


def test_frames_stay_in_order_while_an_old_connection_is_still_read() -> None:
    """The old reader has taken a frame and is not done with it; the new connection has brought the next one."""
    hop, first, second, sorted_ = Hop("bank", "shop", 60.0), Line(), Line(), list[int]()
    taken, go_on = threading.Event(), threading.Event()

    def slow(found: Frame, size: int) -> bool:
        taken.set()
        go_on.wait(20)
        sorted_.append(found.number)
        return True

    old = Serving(hop, first, slow)
    first.arriving.put(frame(1))
    assert taken.wait(20)
    assert hop.lane.received == 1
    new = Serving(hop, second, lambda found, size: sorted_.append(found.number) or True)
    second.arriving.put(frame(2))
    hop.send(frame(1))
    wait_until(lambda: second.bodies == [b"1"])  # nobody waits with what there is to say
    time.sleep(0.1)
    assert sorted_ == []
    go_on.set()
    wait_until(lambda: sorted_ == [1, 2])
    old.join()
    assert hop.connected
    second.shut()
    new.join()
    assert not hop.connected


def test_a_new_connection_ends_the_old_one_and_whoever_is_held_up_by_it() -> None:
    hop, first, second = Hop("bank", "shop", 60.0), Line(), Line()
    old = Serving(hop, first, ignore)
    hop.send(frame(1))
    wait_until(lambda: first.bodies == [b"1"])
    first.stuck.set()
    held = threading.Thread(target=hop.send, args=(frame(2),))
    held.start()
    held.join(0.1)
    assert held.is_alive()
    new = Serving(hop, second, ignore)
    held.join(20)
    assert first.is_shut.is_set()
    wait_until(lambda: second.bodies == [b"1", b"2"])
    old.join()
    hop.send(frame(3))
    assert second.bodies == [b"1", b"2", b"3"]
    second.shut()
    new.join()


def test_the_newest_of_many_connections_is_used() -> None:
    hop, lines = Hop("bank", "shop", 60.0), [Line() for _ in range(20)]
    serving = [Serving(hop, line, ignore) for line in lines]
    wait_until(lambda: sum(not line.is_shut.is_set() for line in lines) == 1)
    used = next(line for line in lines if not line.is_shut.is_set())
    assert hop.connected
    hop.send(frame(1))
    wait_until(lambda: used.bodies == [b"1"])
    used.shut()
    for each in serving:
        each.join()
    assert not hop.connected


def test_a_closed_hop_uses_no_connection_any_more() -> None:
    hop, line, late = Hop("bank", "shop", 60.0), Line(), Line()
    serving = Serving(hop, line, ignore)
    wait_until(lambda: hop.connected)
    hop.close()
    hop.close()
    serving.join()
    assert line.is_shut.is_set()
    serving = Serving(hop, late, ignore)
    serving.join()
    assert late.is_shut.is_set() and not late.written
    assert not hop.connected
