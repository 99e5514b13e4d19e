"""One hop between a party and the coordinator: a numbered stream over one connection after the other.

Whoever sends writes to the connection at once. One thread per connection, the pump, first sends again what the other
end lacks, and then says "alive" at every heartbeat, and what has been received. No thread that reads ever writes to the
connection that it reads from: two ends that both send much still read.

A new connection ends the one before it, of whose break this end may not have heard yet. Its frames wait until the last
one of the old connection is done with: they stay in order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from parties.connection import Connection
from parties.errors import RemoteProtocolError
from parties.frame import ABORT, BYE, LOST, MESSAGE, PING, START, WITHOUT, Frame, Header, frame_size, write_frame
from parties.lane import Lane

NUMBERED = frozenset({MESSAGE, BYE, ABORT, LOST, START, WITHOUT})


class Hop:
    """The lane of a hop, and the connection that it uses at the moment, if there is one."""

    def __init__(self, me: str, peer: str, heartbeat: float) -> None:
        self.lane = Lane()
        self.lost_since: float | None = time.monotonic()
        self.served = False
        self._header = Header(me, peer)
        self._heartbeat = heartbeat
        self._order = threading.Lock()  # of what is sent
        self._reading = threading.Lock()  # of what is received, from one connection after the other
        self._change = threading.Lock()  # of the connection
        self._newest: Connection | None = None
        self._live: Connection | None = None  # once the other end has been sent what it lacks
        self._hurry = threading.Event()
        self._closed = False

    @property
    def connected(self) -> bool:
        """Whether a connection is there."""
        return self.lost_since is None

    def send(self, frame: Frame, delivered: Callable[[], None] | None = None) -> None:
        """Send a numbered frame, or keep it until there is a connection."""
        with self._order:
            data = self.lane.number(frame, delivered)
            self._write(data)

    def say(self, kind: int, text: str = "") -> None:
        """Send a frame that matters only now; without a connection it is lost."""
        header = Header(self._header.sender, self._header.receiver, text)
        with self._order:
            self._write(write_frame(Frame(kind, header, acknowledged=self.lane.acknowledged())))

    def deliver(self, number: int, size: int) -> None:
        """Note that a received frame has reached the one it is for; the other end hears of it in time."""
        self.lane.deliver(number, size)
        if self.lane.owes():
            self._hurry.set()

    def serve(self, connection: Connection, received: int, sort: Callable[[Frame, int], bool]) -> None:
        """Use a connection until it breaks.

        Parameters
        ----------
        received : int
            Number of the last frame that the other end has received.
        sort : callable
            Told every frame that concerns more than the hop, with its size; False: read no more.

        Raises
        ------
        RemoteProtocolError
            What arrives is no frame, or not in order.
        """
        if not self._attach(connection):
            return
        try:
            self.lane.lacking(received)  # refuses what cannot be
            pump = threading.Thread(target=self._pump, args=(connection, received), daemon=True)
            pump.start()
            with self._reading:
                self._read(connection, sort)
        except (EOFError, OSError, ValueError):  # ValueError: it was closed here
            pass
        finally:
            self._detach(connection)
        pump.join(self._heartbeat)

    def close(self) -> None:
        """Use no connection any more."""
        with self._change:
            self._closed = True
            newest = self._newest
        if newest is not None:
            newest.shut()
        self._hurry.set()

    def _attach(self, connection: Connection) -> bool:
        """Take a connection for the present one, and end the one before; whether it is to be used."""
        with self._change:
            closed, before = self._closed, self._newest
            if not closed:
                self._newest, self.lost_since, self.served = connection, None, True
        if closed:
            connection.shut()
        elif before is not None:
            before.shut()
        return not closed

    def _read(self, connection: Connection, sort: Callable[[Frame, int], bool]) -> None:
        going_on = True
        while going_on:
            frame = connection.read()
            if (frame.kind in NUMBERED) != (frame.number > 0):
                raise RemoteProtocolError("a frame has a number that its kind does not have")
            self.lane.acknowledge(frame.acknowledged)
            new = not frame.number or self.lane.accept(frame.number)
            if new and frame.kind != PING:
                going_on = sort(frame, frame_size(frame))

    def _pump(self, connection: Connection, received: int) -> None:
        """Send again what the other end lacks; then heartbeats and acknowledgements."""
        try:
            with self._order:
                for data in self.lane.lacking(received):
                    connection.write(data)
                if self._newest is connection:
                    self._live = connection
            while not self._closed and self._live is connection:
                self._hurry.wait(self._heartbeat)
                self._hurry.clear()
                if self._live is connection:
                    self.say(PING)
        except (OSError, ValueError, RemoteProtocolError):
            connection.shut()  # whoever reads it notices

    def _write(self, data: bytes) -> None:
        """Write to the connection, if there is one; what fails is sent again over the next one."""
        live = self._live
        if live is None:
            return
        try:
            live.write(data)
        except (OSError, ValueError):
            self._live = None
            live.shut()

    def _detach(self, connection: Connection) -> None:
        connection.shut()
        with self._change:
            if self._newest is connection:
                self._newest, self.lost_since = None, time.monotonic()
        with self._order:
            if self._live is connection:
                self._live = None
        self._hurry.set()
