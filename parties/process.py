"""The network between processes on one machine: a star of socket pairs with the coordinator in the middle.

The launcher makes one pair per party and hands one end to the party's process, the other to the coordinator's, so
that no port is opened and nobody else on the machine can join. The coordinator's reader threads pass on frames for
others unread (party-to-party bodies are sealed). A process that dies closes its socket; whoever is left is told who
it was and stops.

A run ends in one of two ways. *Cleanly*: every role calls ``close``, which says BYE; the coordinator relays until all
parties have said it. *With an error*: the role that failed calls ``abort``; the coordinator tells everybody the first
failure and no later one, so that all name the same cause. What arrived before a failure is still read, and after an
orderly stop there is a moment for what is on its way: of roles that all stop for a reason that all were told, the
quickest does not look like the cause to the others.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from contextlib import suppress

from parties.errors import PeerLost, RemoteProtocolError
from parties.frame import ABORT, BYE, LOST, MESSAGE, Frame, Header, read_frame, write_frame
from parties.link import COORDINATOR

FAREWELL_SECONDS = 300.0  # without a frame between parties, once the coordinator has nothing left to do
GRACE_SECONDS = 1.0
_NEWS_SECONDS = 2.0  # a broken pipe has its reason by then; and who takes no news by then holds up nobody
_REASON_BYTES = 300


class Inbox:
    """Frames that have arrived, by sender; and the reason why no more can come, once there is one."""

    def __init__(self) -> None:
        self._frames: defaultdict[str, deque[Frame]] = defaultdict(deque)
        self._changed = threading.Condition()
        self._failure: str | None = None
        self._deadline = 0.0  # until then frames may still arrive after a failure
        self._left: set[str] = set()
        self._passed = 0

    def put(self, frame: Frame) -> None:
        """File a frame under its sender."""
        with self._changed:
            self._frames[frame.header.sender].append(frame)
            self._changed.notify_all()

    def take(self, peer: str, waiting_for: str) -> Frame:
        """Wait for the next frame of a peer; raises ``PeerLost`` when none can come."""
        with self._changed:
            self._changed.wait_for(lambda: self._frames[peer] or self._failure or peer in self._left)
            while not self._frames[peer] and self._failure and (patience := self._deadline - time.monotonic()) > 0:
                self._changed.wait(patience)
            if self._frames[peer]:
                return self._frames[peer].popleft()
            if self._failure is not None:
                raise PeerLost(f"{self._failure} (while {waiting_for} was awaited from {peer})")
            raise PeerLost(f"{peer} ended its run while {waiting_for} was awaited from it")

    def leave(self, peer: str) -> None:
        """Note that a peer has ended cleanly."""
        with self._changed:
            self._left.add(peer)
            self._changed.notify_all()

    def fail(self, reason: str, grace: float = 0.0) -> bool:
        """Wake everyone who waits, after ``grace`` seconds; the first reason stays. Whether it was the first."""
        with self._changed:
            first = self._failure is None
            deadline = time.monotonic() + grace
            self._deadline = deadline if first else min(self._deadline, deadline)
            self._failure = self._failure or reason
            self._changed.notify_all()
        return first

    def has_left(self, peer: str) -> bool:
        """Whether a peer has ended cleanly."""
        with self._changed:
            return peer in self._left

    def failure(self, seconds: float, peer: str = "") -> str | None:
        """Why the run failed, as soon as that is known; None if not in time, or if that peer has ended cleanly."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or peer in self._left, seconds)
            return self._failure

    def note_passing(self) -> None:
        """Note that a frame went by on its way to another role: whoever waits for farewells waits on."""
        with self._changed:
            self._passed += 1
            self._changed.notify_all()

    def wait_for_farewells(self, peers: set[str], seconds: float) -> set[str]:
        """Peers that have not left after so many seconds in which nothing passed; raises ``PeerLost`` on failure."""
        with self._changed:
            while self._failure is None and not peers <= self._left:
                passed = self._passed
                if not self._changed.wait(seconds) and passed == self._passed:
                    break
            if self._failure is not None:
                raise PeerLost(self._failure)
            return peers - self._left


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

    def stop_reading(self) -> None:
        """Refuse what else comes, so that nobody blocks writing what nobody reads."""
        with suppress(OSError):  # the other end was faster
            self._connection.shutdown(socket.SHUT_RD)

    def shut(self) -> None:
        """Close both directions; a thread blocked on this socket wakes."""
        with suppress(OSError):  # the other end was faster
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def release(self, reader: threading.Thread) -> None:
        """Shut, and give the descriptor back once nobody uses it."""
        self.shut()
        reader.join(_NEWS_SECONDS)
        if not reader.is_alive():
            self._stream.close()

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
        self._reader = threading.Thread(target=self._read, name=f"reader of {name}", daemon=True)
        self._reader.start()

    def send(self, frame: Frame) -> None:
        """Send a frame to its receiver by way of the coordinator."""
        try:
            self._hub.write(frame)
        except OSError as error:  # the reader learns why: the coordinator's last words are still to be read
            raise PeerLost(self._inbox.failure(_NEWS_SECONDS) or "the coordinator is gone") from error

    def receive(self, peer: str, waiting_for: str) -> Frame:
        """Wait for the next frame of a peer."""
        return self._inbox.take(peer, waiting_for)

    def close(self) -> None:
        """Say goodbye; the coordinator then knows that this end was no accident."""
        self.send(Frame(BYE, Header(self._name, COORDINATOR)))
        self._hub.release(self._reader)

    def abort(self, reason: str) -> None:
        """Tell the others that this role stops; ``reason`` follows its name: "stopped with a DataError"."""
        with suppress(OSError):  # nobody is left to be told
            self._hub.write(Frame(ABORT, Header(self._name, COORDINATOR, _short(reason))))
        self._hub.release(self._reader)

    def _read(self) -> None:
        try:
            while True:
                self._sort(self._hub.read())
        except RemoteProtocolError as error:
            self._inbox.fail(f"the coordinator's connection broke: {error}")
        except (EOFError, OSError, ValueError):  # ValueError: the stream was closed here
            self._inbox.fail("the coordinator is gone")
        except BaseException:
            self._inbox.fail("the coordinator's connection could not be read")
            raise
        finally:
            self._hub.stop_reading()

    def _sort(self, frame: Frame) -> None:
        """Act on one frame."""
        sender = frame.header.sender
        if frame.kind == MESSAGE:
            self._inbox.put(frame)
        elif frame.kind == BYE:
            self._inbox.leave(sender)
        else:
            orderly = frame.kind == ABORT and sender != COORDINATOR
            self._inbox.fail(f"{sender} {_short(frame.header.message)}", GRACE_SECONDS if orderly else 0.0)


class HubTransport:
    """The coordinator's end: one socket per party, and the relay between them."""

    def __init__(self, connections: Mapping[str, socket.socket]) -> None:
        self._connections = {name: Connection(connection) for name, connection in connections.items()}
        self._inbox = Inbox()
        self._stopping = threading.Lock()
        self._readers = {
            name: threading.Thread(target=self._read, args=(name,), name=f"reader {name}", daemon=True)
            for name in self._connections
        }
        for reader in self._readers.values():
            reader.start()

    def send(self, frame: Frame) -> None:
        """Send a frame to a party; what comes after its clean end is dropped."""
        party = frame.header.receiver
        try:
            self._connections[party].write(frame)
        except OSError as error:  # its reader learns why: the party's last words are still to be read
            reason = self._inbox.failure(_NEWS_SECONDS, party)
            if reason is not None or not self._inbox.has_left(party):
                raise PeerLost(reason or f"{party} is gone") from error

    def receive(self, peer: str, waiting_for: str) -> Frame:
        """Wait for the next frame of a party."""
        return self._inbox.take(peer, waiting_for)

    def close(self) -> None:
        """Say goodbye and relay until every party has said it too; raises ``PeerLost`` where one does not."""
        self._tell_all(Frame(BYE, Header(COORDINATOR, "")))
        missing = self._inbox.wait_for_farewells(set(self._connections), FAREWELL_SECONDS)
        if missing:
            names = ", ".join(sorted(missing))
            raise PeerLost(f"no end and no frame of {names} for {FAREWELL_SECONDS:.0f} s after the coordinator's end")
        self._release()

    def abort(self, reason: str) -> None:
        """Tell every party that the coordinator stops, unless all know of an earlier cause."""
        self._stop_all(ABORT, COORDINATOR, reason)
        self._release()

    def _read(self, name: str) -> None:
        try:
            while self._sort(name, self._connections[name].read()):
                pass
        except RemoteProtocolError:
            self._stop_all(LOST, name, "sent what is no frame")
        except (EOFError, OSError, ValueError):  # ValueError: the stream was closed here
            self._stop_all(LOST, name, "is gone")
        except BaseException:
            self._stop_all(LOST, name, "could not be read")
            raise
        finally:
            self._connections[name].stop_reading()

    def _sort(self, name: str, frame: Frame) -> bool:
        """Act on one frame of a party; whether more may come."""
        receiver = frame.header.receiver
        if frame.header.sender != name:
            self._stop_all(LOST, name, "sent a frame under another name")
        elif frame.kind == BYE:
            self._inbox.leave(name)
            self._tell_all(Frame(BYE, Header(name, "")))
        elif frame.kind == ABORT:
            self._stop_all(ABORT, name, frame.header.message, GRACE_SECONDS)
        elif frame.kind != MESSAGE or receiver not in {COORDINATOR, *self._connections}:
            self._stop_all(LOST, name, "sent a frame to nobody")
        else:
            self._route(frame)
            return True
        return False

    def _route(self, frame: Frame) -> None:
        """Keep what is for the coordinator, pass on what is for a party."""
        if frame.header.receiver == COORDINATOR:
            self._inbox.put(frame)
            return
        self._inbox.note_passing()
        with suppress(OSError):  # the receiver's own reader says whether it ended cleanly
            self._connections[frame.header.receiver].write(frame)

    def _stop_all(self, kind: int, name: str, how: str, grace: float = 0.0) -> None:
        """Tell everybody the first failure and no later one; returns once all were told."""
        with self._stopping:
            if self._inbox.fail(f"{name} {_short(how)}", grace):
                self._tell_all(Frame(kind, Header(name, "", _short(how))))

    def _tell_all(self, frame: Frame) -> None:
        """Write to all at once, so that one which takes nothing does not keep the news from the others."""
        tellers = [
            threading.Thread(target=_tell, args=(connection, frame), daemon=True)
            for connection in self._connections.values()
        ]
        for teller in tellers:
            teller.start()
        end = time.monotonic() + _NEWS_SECONDS
        for teller in tellers:
            teller.join(max(0.0, end - time.monotonic()))

    def _release(self) -> None:
        for connection in self._connections.values():
            connection.shut()
        for name, connection in self._connections.items():
            connection.release(self._readers[name])


def _tell(connection: Connection, frame: Frame) -> None:
    with suppress(OSError):  # that one is gone already
        connection.write(frame)


def _short(reason: str) -> str:
    """Fit for one line of anybody's terminal and for the header of a frame."""
    printable = "".join(character for character in reason if character.isprintable())
    return printable.encode()[:_REASON_BYTES].decode(errors="ignore")
