"""One hop of the network as a numbered stream that outlives its connections; no sockets here.

A frame is numbered when it is sent and kept until the other end has acknowledged it, so that after a broken connection
what was on its way is sent again; what arrives twice is dropped, a gap is an error. A sender waits while ``WINDOW``
bytes of its own are unacknowledged. The coordinator acknowledges a frame for somebody else only when that one has it:
so many bytes of each sender are at most in its memory, however slow the receiver.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from parties.errors import RemoteProtocolError
from parties.frame import Frame, write_frame

WINDOW = 64 << 20  # bytes
ACKNOWLEDGE = 4 << 20  # bytes after which an acknowledgement does not wait for the next heartbeat


@dataclass(frozen=True, slots=True)
class _Kept:
    """A frame as it was sent, and what to do once the other end has it."""

    number: int
    data: bytes = field(repr=False)
    delivered: Callable[[], None] | None = field(repr=False)


class Lane:
    """Both directions of a hop, seen from one end."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._kept: deque[_Kept] = deque()
        self._sent = 0
        self._in_flight = 0
        self._received = 0
        self._done = 0  # all frames up to here are delivered
        self._ahead: set[int] = set()  # delivered, with others before them that are not
        self._owed = 0  # bytes delivered since the last acknowledgement
        self._forgotten = False  # the other end is gone for good

    @property
    def received(self) -> int:
        """Number of the last frame that has arrived."""
        with self._changed:
            return self._received

    @property
    def in_flight(self) -> int:
        """Bytes sent and not yet acknowledged."""
        with self._changed:
            return self._in_flight

    def wait_for_room(self, seconds: float) -> bool:
        """Wait until less than ``WINDOW`` bytes are unacknowledged; whether that was so in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._in_flight < WINDOW, seconds)

    def number(self, frame: Frame, delivered: Callable[[], None] | None = None) -> bytes:
        """Number a frame and keep it; returns its bytes. ``delivered`` is called once the other end has it."""
        with self._changed:
            self._sent += 1
            data = write_frame(msgspec.structs.replace(frame, number=self._sent, acknowledged=self._take_owed()))
            forgotten = self._forgotten
            if not forgotten:
                self._kept.append(_Kept(self._sent, data, delivered))
                self._in_flight += len(data)
        if forgotten and delivered is not None:
            delivered()
        return data

    def forget(self) -> None:
        """Keep nothing any more: the other end is gone for good, and nobody who sends to it waits for it."""
        with self._changed:
            self._forgotten = True
            freed = list(self._kept)
            self._kept.clear()
            self._in_flight = 0
            self._changed.notify_all()
        for kept in freed:
            if kept.delivered is not None:
                kept.delivered()

    def acknowledge(self, number: int) -> None:
        """Forget what the other end says it has.

        Raises
        ------
        RemoteProtocolError
            If it never was sent.
        """
        freed: list[_Kept] = []
        with self._changed:
            if number > self._sent:
                raise RemoteProtocolError(f"frame {number} was acknowledged, {self._sent} were sent")
            while self._kept and self._kept[0].number <= number:
                freed.append(self._kept.popleft())
                self._in_flight -= len(freed[-1].data)
            if freed:
                self._changed.notify_all()
        for kept in freed:
            if kept.delivered is not None:
                kept.delivered()

    def lacking(self, after: int) -> list[bytes]:
        """Frames that the other end lacks, if ``after`` is the last that has arrived there.

        Raises
        ------
        RemoteProtocolError
            If that lies before what it has acknowledged, or beyond what was sent.
        """
        with self._changed:
            acknowledged = self._kept[0].number - 1 if self._kept else self._sent
            if not acknowledged <= after <= self._sent:
                raise RemoteProtocolError(f"the other end has {after} frames, expected {acknowledged} to {self._sent}")
            return [kept.data for kept in self._kept if kept.number > after]

    def accept(self, number: int) -> bool:
        """Take note of a numbered frame that has arrived; whether it is new.

        Raises
        ------
        RemoteProtocolError
            If one before it is missing.
        """
        with self._changed:
            if number > self._received + 1:
                raise RemoteProtocolError(f"frame {number} came after frame {self._received}")
            if number <= self._received:
                return False
            self._received = number
            return True

    def deliver(self, number: int, size: int) -> None:
        """Note that a received frame of so many bytes has reached the one it is for."""
        with self._changed:
            self._owed += size
            self._ahead.add(number)
            while self._done + 1 in self._ahead:
                self._done += 1
                self._ahead.discard(self._done)

    def owes(self) -> bool:
        """Whether so much has been delivered that the other end should soon hear of it."""
        with self._changed:
            return self._owed >= ACKNOWLEDGE

    def acknowledged(self) -> int:
        """Number up to which all is delivered, for the next frame that goes out."""
        with self._changed:
            return self._take_owed()

    def _take_owed(self) -> int:
        self._owed = 0
        return self._done
