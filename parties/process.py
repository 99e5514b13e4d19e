"""The network between processes on one machine: a star of socket pairs with the coordinator in the middle.

The launcher makes one pair per party and hands one end to the party's process, the other to the coordinator's, so
that no port is opened and nobody else on the machine can join. The coordinator's reader threads pass on frames for
others unread (party-to-party bodies are sealed). A process that dies closes its socket; whoever is left is told who
it was and stops.
"""

from __future__ import annotations

import socket
import threading
from collections import defaultdict, deque
from collections.abc import Mapping

from parties.errors import PeerLost, RemoteProtocolError
from parties.frame import ABORT, BYE, LOST, MESSAGE, Frame, Header, read_frame, write_frame
from parties.link import COORDINATOR

FAREWELL_SECONDS = 30.0


class Inbox:
    """Frames that have arrived, by sender; and the reason why no more can come, once there is one."""

    def __init__(self) -> None:
        self._frames: defaultdict[str, deque[Frame]] = defaultdict(deque)
        self._changed = threading.Condition()
        self._failure: str | None = None
        self._left: set[str] = set()

    def put(self, frame: Frame) -> None:
        """File a frame under its sender."""
        with self._changed:
            self._frames[frame.header.sender].append(frame)
            self._changed.notify_all()

    def take(self, peer: str, waiting_for: str) -> Frame:
        """Wait for the next frame of a peer; raises ``PeerLost`` when none can come."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or self._frames[peer] or peer in self._left)
            if self._failure is not None:
                raise PeerLost(self._failure)
            if not self._frames[peer]:
                raise PeerLost(f"{peer} ended its run while {waiting_for} was awaited from it")
            return self._frames[peer].popleft()

    def leave(self, peer: str) -> None:
        """Note that a peer has ended cleanly."""
        with self._changed:
            self._left.add(peer)
            self._changed.notify_all()

    def fail(self, reason: str) -> None:
        """Wake everyone who waits; the first reason stays."""
        with self._changed:
            self._failure = self._failure or reason
            self._changed.notify_all()

    def wait_for_farewells(self, peers: set[str], seconds: float) -> bool:
        """Whether all peers have ended cleanly within the time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._failure is not None or peers <= self._left, seconds)


class Connection:
    """One socket: whole frames in, whole frames out, by any thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = connection.makefile("rb", buffering=1 << 16)
        self._lock = threading.Lock()

    def write(self, frame: Frame) -> None:
        """Send one frame; a closed socket raises ``OSError``."""
        data = write_frame(frame)
        with self._lock:
            self._connection.sendall(data)

    def read(self) -> Frame:
        """Read one frame; raises ``EOFError`` when the other end is gone."""
        return read_frame(self._read_exactly)

    def shut(self) -> None:
        """Close both directions; a reader blocked on this socket wakes."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other end was faster
        finally:
            self._connection.close()

    def _read_exactly(self, count: int) -> bytes:
        data: bytes = self._stream.read(count)
        if len(data) != count:
            raise EOFError
        return data


class PartyTransport:
    """A party's end of the star: one socket, to the coordinator."""

    def __init__(self, name: str, connection: socket.socket) -> None:
        self._name = name
        self._hub = Connection(connection)
        self._inbox = Inbox()
        threading.Thread(target=self._read, name="reader", daemon=True).start()

    def send(self, frame: Frame) -> None:
        """Send a frame to its receiver by way of the coordinator."""
        try:
            self._hub.write(frame)
        except OSError as error:
            self._inbox.fail("the coordinator is gone")
            raise self._lost() from error

    def receive(self, peer: str, waiting_for: str) -> Frame:
        """Wait for the next frame of a peer."""
        return self._inbox.take(peer, waiting_for)

    def close(self) -> None:
        """Say goodbye; the coordinator then knows that this end was no accident."""
        self._hub.write(Frame(BYE, Header(self._name, COORDINATOR)))

    def abort(self, reason: str) -> None:
        """Tell the others that this role stops, and why in general terms."""
        try:
            self._hub.write(Frame(ABORT, Header(self._name, COORDINATOR, reason)))
        except OSError:
            return  # nobody is left to be told

    def _lost(self) -> PeerLost:
        try:
            self._inbox.take(COORDINATOR, "")
        except PeerLost as lost:
            return lost
        return PeerLost("the coordinator is gone")

    def _read(self) -> None:
        while True:
            try:
                frame = self._hub.read()
            except (EOFError, OSError):
                return self._inbox.fail("the coordinator is gone")
            except RemoteProtocolError as error:
                return self._inbox.fail(f"the coordinator's connection: {error}")
            if frame.kind in (LOST, ABORT):
                self._inbox.fail(f"{frame.header.sender} {frame.header.message}")
            elif frame.kind == MESSAGE:
                self._inbox.put(frame)


class HubTransport:
    """The coordinator's end: one socket per party, and the relay between them."""

    def __init__(self, connections: Mapping[str, socket.socket]) -> None:
        self._connections = {name: Connection(connection) for name, connection in connections.items()}
        self._inbox = Inbox()
        for name in self._connections:
            threading.Thread(target=self._read, args=(name,), name=f"reader {name}", daemon=True).start()

    def send(self, frame: Frame) -> None:
        """Send a frame to a party."""
        try:
            self._connections[frame.header.receiver].write(frame)
        except OSError as error:
            self._lose(frame.header.receiver, "is gone")
            raise PeerLost(f"{frame.header.receiver} is gone") from error

    def receive(self, peer: str, waiting_for: str) -> Frame:
        """Wait for the next frame of a party."""
        return self._inbox.take(peer, waiting_for)

    def close(self) -> None:
        """Relay until every party has said goodbye, for a bounded time."""
        if not self._inbox.wait_for_farewells(set(self._connections), FAREWELL_SECONDS):
            raise PeerLost(f"not every party ended its run within {FAREWELL_SECONDS:.0f} s of the coordinator")

    def abort(self, reason: str) -> None:
        """Tell every party that the coordinator stops."""
        self._tell_all(Frame(ABORT, Header(COORDINATOR, "", reason)))

    def _read(self, name: str) -> None:
        while True:
            try:
                frame = self._connections[name].read()
            except (EOFError, OSError):
                return self._lose(name, "is gone")
            except RemoteProtocolError:
                return self._lose(name, "sent what is no frame")
            if frame.header.sender != name:
                return self._lose(name, "sent a frame under another name")
            if frame.kind == BYE:
                self._inbox.leave(name)
                return None
            if frame.kind == ABORT:
                return self._lose(name, frame.header.message)
            self._route(frame)

    def _route(self, frame: Frame) -> None:
        """Keep what is for the coordinator, pass on what is for a party."""
        receiver = frame.header.receiver
        if receiver == COORDINATOR:
            self._inbox.put(frame)
        elif receiver in self._connections:
            try:
                self._connections[receiver].write(frame)
            except OSError:
                self._lose(receiver, "is gone")
        else:
            self._lose(frame.header.sender, "sent a frame to nobody")

    def _lose(self, name: str, how: str) -> None:
        self._inbox.fail(f"{name} {how}")
        self._tell_all(Frame(LOST, Header(name, "", how)))

    def _tell_all(self, frame: Frame) -> None:
        for connection in self._connections.values():
            try:
                connection.write(frame)
            except OSError:
                continue  # that one is gone already
