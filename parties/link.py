"""Typed links over any network: check, encode, cut into chunks, seal, send; and the way back.

A network is a ``Transport``: it moves frames and knows nothing else. Everything above is the same over turn-taking
threads (``parties.local``) and between processes and companies (``parties.hub``, ``parties.dial``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from parties.checkpoint import Keeper
from parties.codec import decode, encode
from parties.errors import CryptoError, LocalProtocolError, RemoteProtocolError
from parties.frame import CHUNK, MESSAGE, Frame, Header, frame_size
from parties.ledger import Entry, Ledger, now
from parties.sealing import Channel
from parties.stopwatch import Stopwatch
from parties.wire import Message, Payload, Role, T

COORDINATOR = "coordinator"
MAX_MESSAGE = 1 << 35  # bytes; memory grows only with what has really arrived

Me = TypeVar("Me", bound=Role, covariant=True)
Peer = TypeVar("Peer", bound=Role, covariant=True)


class Transport(Protocol):
    """Moves frames between named roles; frames of one pair arrive in the order they were sent."""

    def send(self, frame: Frame) -> None:
        """Send one frame."""

    def receive(self, peer: str, waiting_for: str) -> Frame:
        """Next frame from a peer; raises ``PeerLost`` when none can come any more."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as its receiver read it; for tests that check what a role learns."""

    sender: str
    receiver: str
    message: str
    payload: Payload


@dataclass(slots=True)
class Endpoint:
    """One role's end of the network: who it is, who the others are, and its ledger.

    Parameters
    ----------
    roles : mapping of name to Role type
        Everyone who takes part, this role included, in job order.
    channels : dict
        Sealed channels to other parties, filled by ``parties.greeting``.
    keeper : Keeper
        Where this role keeps what it needs to go on after a crash; by default nowhere.
    waiting : callable, optional
        Told what this role waits for, "glm_exact.products from bank", and an empty text once it has it.
    advanced : callable
        Told of a long piece of work that is cut into parts: how many are done, and of how many.
    consent : callable, optional
        Called with every message before it is sent; raises ``PolicyError`` to forbid it.
    run : str
        Id of the run, the same at all roles; ``parties.greeting`` sets it.
    generation : int
        From 1 on, one more after every crash; the same at all roles; ``parties.greeting`` sets it too.
    stopwatch : Stopwatch
        Counts the seconds that links take.
    """

    name: str
    roles: Mapping[str, type[Role]]
    transport: Transport = field(repr=False)
    ledger: Ledger = field(default_factory=Ledger, repr=False)
    channels: dict[str, Channel] = field(default_factory=dict, repr=False)
    observe: Callable[[Delivery], None] | None = field(default=None, repr=False)
    waiting: Callable[[str], None] | None = field(default=None, repr=False)
    keeper: Keeper = field(default_factory=Keeper, repr=False)
    advanced: Callable[[int, int], None] = field(default=lambda done, parts: None, repr=False)
    consent: Callable[[Message[Any, Any, Any]], None] | None = field(default=None, repr=False)
    run: str = ""
    generation: int = 1
    stopwatch: Stopwatch = field(default_factory=Stopwatch, repr=False)
    _links: dict[str, Link[Any, Any]] = field(default_factory=dict, repr=False)
    _claimed: set[str] = field(default_factory=set, repr=False)

    def link(self, me: type[Me], peer: type[Peer], name: str) -> Link[Me, Peer]:
        """The link to a peer, typed by both roles; there is one per peer, however often it is asked for."""
        mine, theirs = self.roles[self.name], self.roles.get(name)
        if theirs is None or name == self.name or not issubclass(mine, me) or not issubclass(theirs, peer):
            raise LocalProtocolError(f"no link {me.__name__} -> {peer.__name__} between {self.name} and {name}")
        if name not in self._links:
            self._links[name] = Link(self, name)
        return self._links[name]

    def pair_secret(self, peer: str, purpose: str) -> bytes:
        """32 bytes that this party and ``peer`` share and nobody else has, another for every purpose and run."""
        return self.channels[peer].secret(purpose)

    def claim(self, purpose: str) -> None:
        """Take a purpose of shared streams for oneself; taking it again would repeat them, and is refused."""
        if purpose in self._claimed:
            raise LocalProtocolError(f"the shared streams for {purpose!r} were taken before; name another purpose")
        self._claimed.add(purpose)

    def peers(self, role: type[Role]) -> list[str]:
        """Names of the other roles of a kind, in job order."""
        return [name for name, kind in self.roles.items() if issubclass(kind, role) and name != self.name]


class Link(Generic[Me, Peer]):
    """Sends and receives the messages of ``Wire`` tables between two roles."""

    def __init__(self, endpoint: Endpoint, peer: str) -> None:
        self.me = endpoint.name
        self.peer = peer
        self._endpoint = endpoint
        self._my_role = endpoint.roles[self.me]
        self._peer_role = endpoint.roles[peer]
        self._sent = 0
        self._received = 0
        self._sent_bodies = hashlib.sha256()
        self._received_bodies = hashlib.sha256()

    def send(self, message: Message[Me, Peer, T], payload: T) -> None:
        """Send one message; a wrong direction or payload raises ``LocalProtocolError`` before anything leaves."""
        _check_direction(message, self._my_role, self._peer_role)
        if type(payload) is not message.payload:
            raise LocalProtocolError(f"{message.name} carries {message.payload.__name__}, not {type(payload).__name__}")
        if self._endpoint.consent is not None:
            self._endpoint.consent(message)
        with self._endpoint.stopwatch.on_the_wire():
            self._send(message, payload)

    def _send(self, message: Message[Me, Peer, T], payload: T) -> None:
        started = now()  # before the first byte leaves, so that an answer is never older than its question
        data = memoryview(encode(payload))
        chunks = range(0, max(len(data), 1), CHUNK)
        size = 0
        for part, start in enumerate(chunks):
            header = Header(self.me, self.peer, message.name, self._sent, part, part == len(chunks) - 1)
            body = self._seal(header, data[start : start + CHUNK])
            self._sent_bodies.update(body)
            frame = Frame(MESSAGE, header, body)
            self._endpoint.transport.send(frame)
            size += frame_size(frame)
        self._sent += 1
        self._record(message, payload, size, started, sent=True)

    def recv(self, message: Message[Peer, Me, T]) -> T:
        """Wait for one message; anything else raises ``RemoteProtocolError`` naming the peer."""
        _check_direction(message, self._peer_role, self._my_role)
        with self._endpoint.stopwatch.on_the_wire():
            return self._recv(message)

    def _recv(self, message: Message[Peer, Me, T]) -> T:
        if self._endpoint.waiting is not None:
            self._endpoint.waiting(f"{message.name} from {self.peer}")
        data = bytearray()
        size = part = 0
        last = False
        while not last:
            with self._endpoint.stopwatch.waits():
                arrived = self._endpoint.transport.receive(self.peer, message.name)
            self._check_header(arrived.header, message.name, part)
            chunk = self._open(arrived)
            self._received_bodies.update(arrived.body)
            data += chunk
            if len(chunk) > CHUNK or (len(chunk) < CHUNK and not arrived.header.last):
                raise RemoteProtocolError(f"{message.name} from {self.peer}: part {part} has {len(chunk)} bytes")
            if len(data) > MAX_MESSAGE:
                raise RemoteProtocolError(f"{message.name} from {self.peer} is over {MAX_MESSAGE} bytes")
            size += frame_size(arrived)
            last, part = arrived.header.last, part + 1
        self._received += 1
        if self._endpoint.waiting is not None:
            self._endpoint.waiting("")
        try:
            payload = decode(message.payload, data)
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"{message.name} from {self.peer}: {error}") from error
        self._record(message, payload, size, now(), sent=False)
        if self._endpoint.observe is not None:
            self._endpoint.observe(Delivery(self.peer, self.me, message.name, payload))
        return payload

    @property
    def _sealed(self) -> bool:
        """Party to party everything is sealed; to and from the coordinator it is not (the network protects it)."""
        return COORDINATOR not in (self.me, self.peer)

    def _seal(self, header: Header, chunk: memoryview) -> bytes:
        if not self._sealed:
            return bytes(chunk)
        return self._channel().seal(header, chunk)

    def _open(self, arrived: Frame) -> bytes:
        if not self._sealed:
            return arrived.body
        try:
            return self._channel().open(arrived.header, arrived.body)
        except CryptoError as error:
            raise RemoteProtocolError(str(error)) from error

    def _channel(self) -> Channel:
        channel = self._endpoint.channels.get(self.peer)
        if channel is None:
            raise LocalProtocolError(f"{self.me} has no sealed channel to {self.peer} yet; greet first")
        return channel

    def _check_header(self, header: Header, expected: str, part: int) -> None:
        if (header.sender, header.receiver) != (self.peer, self.me):
            raise RemoteProtocolError(
                f"{expected} from {self.peer}: a frame from {header.sender!r} to {header.receiver!r} came in its place"
            )
        if (header.message, header.sequence, header.part) != (expected, self._received, part):
            raise RemoteProtocolError(
                f"{self.peer} sent {header.message!r} number {header.sequence} part {header.part} where "
                f"{expected!r} number {self._received} part {part} was due"
            )

    def _record(self, message: Message[Any, Any, Any], payload: Payload, size: int, time: float, *, sent: bool) -> None:
        sender, receiver = (self.me, self.peer) if sent else (self.peer, self.me)
        hops = 2 if self._sealed else 1
        self._endpoint.ledger.record(
            Entry(
                time=time,
                by=self.me,
                sender=sender,
                receiver=receiver,
                message=message.name,
                kind=message.payload.__name__,
                bytes=size * hops,
                hops=hops,
                values=payload.count(),
                discloses=message.discloses,
                generation=self._endpoint.generation,
                content=(self._sent_bodies if sent else self._received_bodies).hexdigest(),
            )
        )


def _check_direction(message: Message[Any, Any, Any], src: type[Role], dst: type[Role]) -> None:
    if not (issubclass(src, message.src) and issubclass(dst, message.dst)):
        raise LocalProtocolError(f"{message!r} cannot go from {src.__name__} to {dst.__name__}")
