"""One coordinator and three parties over loopback, each role in a thread, and a relay that fails on order."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import msgspec

from parties.connection import Connection, connect
from parties.dial import Greeting, PartyTransport, Welcome
from parties.errors import Restarted, VflError
from parties.frame import HELLO, MESSAGE, PING, Frame, Header, write_frame
from parties.hub import HubTransport, listen
from parties.identity import Identity, make_identity
from parties.link import COORDINATOR
from parties.patience import Patience
from parties.tls import client_context, peer_name, server_context, why_refused

NAMES = ("bank", "shop", "biller")
EVERYONE = (*NAMES, COORDINATOR)
HOST = "127.0.0.1"
IDENTITIES = {name: make_identity(name) for name in EVERYONE}
PUBLIC = {name: IDENTITIES[name].public for name in NAMES}
PATIENT = Patience(heartbeat=1.0, notice=15.0, reconnect_timeout=30.0)
AT_ONCE = Patience(heartbeat=2.0, notice=15.0, reconnect_timeout=0.0)  # as on one machine

Play = Callable[[Any], object]


def frame(sender: str, receiver: str, body: bytes = b"", message: str = "m", kind: int = MESSAGE) -> Frame:
    return Frame(kind, Header(sender, receiver, message), body)


class Relay:
    """A wire between parties and the coordinator that is cut, held or refused as a test says."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server = listen(HOST, 0)
        self.port: int = self._server.getsockname()[1]
        self.refuses = self.holds = False
        self.passed = 0  # bytes, in both directions
        self.connections = 0
        self._frozen: set[socket.socket] = set()
        self.cut_at: list[int] = []  # at so many bytes, in rising order
        self.cuts = 0
        self.bytes_per_second = 0  # 0: as many as come
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._unheard: list[socket.socket] = []  # ends at the coordinator of connections that are no more
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def cut(self, *, unheard_by_hub: bool = False) -> None:
        """Break what goes over the wire now; the hub may not hear of it, as where a firewall forgets."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
            self.cuts += 1
            if unheard_by_hub:
                self._unheard += [hub for _, hub in pairs]
        for party, hub in pairs:
            _end(party)
            if not unheard_by_hub:
                _end(hub)

    def freeze(self) -> None:
        """Let what there is bring nothing any more, and say nothing of it; the next connection is a good one."""
        with self._lock:
            self._frozen.update(end for pair in self._pairs for end in pair)

    def close(self) -> None:
        self.refuses = True
        self.holds = False
        self.cut()
        for end in (self._server, *self._unheard):
            _end(end)
        for thread in self._threads:
            thread.join(20)
        self._server.close()

    def _start(self, action: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=action, args=arguments, name="relay", daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                party, _ = self._server.accept()
                if self.refuses:
                    party.close()
                    continue
                try:
                    hub = socket.create_connection((HOST, self._to), 10)
                except OSError:
                    party.close()
                    continue
                hub.settimeout(None)
                with self._lock:
                    self._pairs.append((party, hub))
                self.connections += 1
                self._start(self._serve, party, hub)

    def _serve(self, party: socket.socket, hub: socket.socket) -> None:
        back = threading.Thread(target=self._pass, args=(hub, party), daemon=True)
        back.start()
        self._pass(party, hub)
        back.join()
        party.close()
        hub.close()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                while self.holds:
                    time.sleep(0.01)
                if self.bytes_per_second:
                    time.sleep(len(data) / self.bytes_per_second)
                if target not in self._frozen:
                    target.sendall(data[: self._may_pass(len(data))])
        if target not in self._unheard:
            _end(target)

    def _may_pass(self, count: int) -> int:
        """How many of so many bytes come before the next cut, which is done here."""
        with self._lock:
            self.passed += count
            due = bool(self.cut_at) and self.passed >= self.cut_at[0]
            if not due:
                return count
            kept = max(0, count - (self.passed - self.cut_at.pop(0)))
            while self.cut_at and self.cut_at[0] <= self.passed:
                self.cut_at.pop(0)
        self.cut()
        return kept


def _end(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


class Star:
    """The transports of all roles; roles run in threads that must end in time.

    ``raw`` are parties that the test plays itself, ``through`` those that a relay leads to the coordinator.
    """

    def __init__(
        self,
        *,
        patience: Patience = PATIENT,
        raw: Iterable[str] = (),
        through: Iterable[str] = (),
        pinned: dict[str, Any] | None = None,
        generation: int = 0,
    ) -> None:
        self.before = set(threading.enumerate())
        self.patience = patience
        self.pinned = PUBLIC if pinned is None else pinned
        self.told: dict[str, list[str]] = {name: [] for name in EVERYONE}
        self.refused: list[str] = []  # what the coordinator was told of strangers
        self.ends: list[str] = []  # who noted the end, in order
        self.at: dict[str, Any] = {}
        self.relays: dict[str, Relay] = {}
        self.puppets: list[Puppet] = []
        self.port = 0
        self.start_hub(generation)
        for name in through:
            self.relays[name] = Relay(self.port)
        for name in NAMES:
            if name not in raw:
                self.start_party(name)

    def start_hub(self, generation: int = 0) -> HubTransport:
        """A coordinator; where there was one before, at the same port."""
        listener = listen(HOST, self.port)
        self.port = listener.getsockname()[1]
        self.at[COORDINATOR] = hub = HubTransport(
            listener,
            server_context(IDENTITIES[COORDINATOR], self.pinned.values()),
            lambda certificate: peer_name(certificate, self.pinned),
            list(NAMES),
            self.patience,
            self.told[COORDINATOR].append,
            generation=generation,
            ended=lambda: self.ends.append(COORDINATOR),
            refused=self.refused.append,
        )
        return hub

    def start_party(self, name: str, identity: Identity | None = None, pins: Identity | None = None) -> PartyTransport:
        """A party, or one more process of it."""
        port = self.relays[name].port if name in self.relays else self.port
        context = client_context(identity or IDENTITIES[name], (pins or IDENTITIES[COORDINATOR]).public)
        self.at[name] = party = PartyTransport(
            name,
            lambda: connect(HOST, port, context, self.patience.silence),
            self.patience,
            self.told[name].append,
            lambda error: why_refused(error, peer=COORDINATOR, own=name),
            ended=lambda: self.ends.append(name),
        )
        return party

    def puppet(self, name: str, **how: Any) -> Puppet:
        """A connection of a party that the test plays."""
        self.puppets.append(Puppet(self.port, name, **how))
        return self.puppets[-1]

    def __enter__(self) -> Star:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, transport in self.at.items():
            if name != COORDINATOR:
                transport.abort("stopped")
        for puppet in self.puppets:
            puppet.connection.shut()
        if COORDINATOR in self.at:
            self.at[COORDINATOR].abort("stopped")
        for relay in self.relays.values():
            relay.close()
        if kind is None:
            self.check_threads()

    def check_threads(self) -> None:
        """Nothing of this network runs on."""
        deadline = time.monotonic() + 20
        while (left := set(threading.enumerate()) - self.before) and time.monotonic() < deadline:
            next(iter(left)).join(0.05)
        assert not left, f"threads are left: {left}"

    def begin(self, within: float = 20.0, **roles: Play) -> Running:
        """Start roles: each enters, plays and finishes; one that raises aborts, as a process does."""
        return Running(self, roles, within)

    def play(self, within: float = 20.0, **roles: Play) -> dict[str, Any]:
        """What each role returned or raised."""
        return self.begin(within, **roles).ended()

    def kill(self, name: str) -> None:
        """What the kernel does for a process that dies."""
        transport = self.at.pop(name)
        if name == COORDINATOR:
            transport._inbox.fail("killed")
            transport._closed.set()
            _end(transport._listener)
            transport._listener.close()
            for seat in list(transport._seats.values()):
                seat.hop.close()
        else:
            transport._session.inbox.fail("killed")
            transport._session.closed.set()
            transport._session.hop.close()


class Running:
    """Roles at play."""

    def __init__(self, star: Star, roles: dict[str, Play], within: float) -> None:
        self._star, self._roles = star, roles
        self._until = time.monotonic() + within
        self.results: dict[str, Any] = {}
        self.generations: dict[str, list[int]] = {name: [] for name in roles}
        self._threads = {
            name: threading.Thread(target=self._run, args=(name, star.at[name], role), name=f"role {name}", daemon=True)
            for name, role in roles.items()
        }
        for thread in self._threads.values():
            thread.start()

    def _run(self, name: str, transport: Any, role: Play) -> None:
        try:
            self.results[name] = self._play(name, transport, role)
        except VflError as error:
            transport.abort(f"stopped with a {type(error).__name__}")
            self.results[name] = str(error)

    def _play(self, name: str, transport: Any, role: Play) -> object:
        while True:
            try:
                self.generations[name].append(transport.enter())
                if not self.generations[name][-1]:
                    return "ended"
                result = role(transport)
                transport.finish()
                return result
            except Restarted:
                continue

    def ended(self, *names: str) -> dict[str, Any]:
        """Wait for these roles, or for all."""
        for name in names or self._roles:
            self._threads[name].join(max(0.0, self._until - time.monotonic()))
        left = [name for name in names or self._roles if self._threads[name].is_alive()]
        assert not left, f"still running: {left}; told: {self._star.told}"
        return {name: self.results[name] for name in names or self._roles}


class Puppet:
    """A party's connection in the hands of a test."""

    def __init__(
        self,
        port: int,
        name: str,
        *,
        identity: Identity | None = None,
        session: bytes = b"s" * 16,
        received: int = 0,
        started: bool = False,
        says: str | None = None,
        greet: bool = True,
    ) -> None:
        context: ssl.SSLContext = client_context(identity or IDENTITIES[name], IDENTITIES[COORDINATOR].public)
        self.name = name
        self.connection: Connection = connect(HOST, port, context, 20.0)
        self.sent = 0
        if greet:
            body = msgspec.msgpack.encode(Greeting(session, received, started))
            self.say(Frame(HELLO, Header(name if says is None else says, COORDINATOR), body))

    def welcome(self) -> Welcome:
        """The coordinator's answer."""
        return msgspec.msgpack.decode(self.connection.read().body, type=Welcome)

    def say(self, *frames: Frame) -> None:
        """Send frames as they are."""
        for each in frames:
            self.connection.write(write_frame(each))

    def send(self, *frames: Frame) -> None:
        """Send frames with their numbers."""
        for each in frames:
            self.sent += 1
            self.say(msgspec.structs.replace(each, number=self.sent))

    def read(self) -> Frame:
        """The next frame that is no heartbeat."""
        while (found := self.connection.read()).kind == PING:
            continue
        return found


def awaits(peer: str, message: str = "m") -> Play:
    return lambda transport: transport.receive(peer, message).body


def nothing(transport: Any) -> None:
    return None


def sends(sender: str, receiver: str, *bodies: bytes) -> Play:
    def role(transport: Any) -> None:
        for body in bodies:
            transport.send(frame(sender, receiver, body))

    return role


def wait_until(holds: Callable[[], object], within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "did not come about in time"
        time.sleep(0.01)
