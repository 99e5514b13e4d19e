"""Typed links over any network: check, encode, cut into chunks, seal, send; and the way back.

A network is a ``Transport``: it moves frames and knows nothing else. Everything above is the same over turn-taking
threads (``parties.local``) and between processes and companies (``parties.hub``, ``parties.dial``).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from parties.checkpoint import Keeper
from parties.codec import decode, encode
from parties.errors import CryptoError, LocalProtocolError, RemoteProtocolError
from parties.frame import CHUNK, MESSAGE, Frame, Header, frame_size
from parties.ledger import LOST, Entry, Ledger, now
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


@runtime_checkable
class Tolerant(Transport, Protocol):
    """A transport on which a role can go on without a peer, as the coordinator can where silos average a model."""

    def tolerate(self, peers: Collection[str], least: int) -> None:
        """From now on none of these peers ends the run while at least so many of them are left."""

    def dismiss(self, peer: str, why: str) -> None:
        """Go on without a peer; it is told, and ends."""

    def lost(self) -> dict[str, str]:
        """Peers that the run goes on without, and how each was lost."""

    def receive_within(self, peer: str, waiting_for: str, seconds: float) -> Frame | None:
        """Next frame from a peer; None if there is none in time, or none can come although the run goes on."""


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
    _tolerant: Tolerant | None = field(default=None, repr=False)

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

    def tolerate(self, peers: Collection[str], least: int) -> None:
        """Go on without any of these peers that is lost, as long as at least ``least`` of them are left.

        Where fewer are left the run ends, as it does without this call.

        Raises
        ------
        LocalProtocolError
            This role cannot: only the coordinator hears of everybody's loss.
        """
        self._tolerant = _tolerant(self)
        self._tolerant.tolerate(peers, least)

    def dismiss(self, peer: str, why: str) -> None:
        """Go on without a peer from now on, which is told; ``why`` follows its name: "sent a malformed update"."""
        _tolerant(self).dismiss(peer, why)

    @property
    def lost(self) -> dict[str, str]:
        """Peers that the run goes on without, and how each was lost: "is gone"."""
        return {} if self._tolerant is None else self._tolerant.lost()

    def note_lost(self) -> None:
        """Note in the ledger whom the run went on without, once it is over: nothing more was delivered there."""
        for peer in self.lost:
            if peer in self._links:
                self._links[peer].note_lost()

    def peers(self, role: type[Role]) -> list[str]:
        """Names of the other roles of a kind, in job order."""
        return [name for name, kind in self.roles.items() if issubclass(kind, role) and name != self.name]


def _tolerant(endpoint: Endpoint) -> Tolerant:
    if not isinstance(endpoint.transport, Tolerant):
        raise LocalProtocolError(f"{endpoint.name} cannot go on without a peer; the coordinator can")
    return endpoint.transport


@dataclass(slots=True)
class _Arriving:
    """As much of a message as has come, and the bytes of its frames."""

    data: bytearray = field(default_factory=bytearray)
    size: int = 0
    parts: int = 0


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
        self._arriving = _Arriving()
        self._sent_bodies = hashlib.sha256()
        self._received_bodies = hashlib.sha256()

    def send(self, message: Message[Me, Peer, T], payload: T) -> None:
        """Send one message; a wrong direction or payload raises ``LocalProtocolError`` before anything leaves."""
        _check_direction(message, self._my_role, self._peer_role)
        if type(payload) is not message.payload:
            raise LocalProtocolError(f"{message.name} carries {message.payload.__name__}, not {type(payload).__name__}")
        if self._endpoint.consent is not None:
            self._endpoint.consent(message)
        if self.lost:
            return
        with self._endpoint.stopwatch.on_the_wire():
            self._send(message, payload)

    @property
    def lost(self) -> bool:
        """Whether the run goes on without the peer; what is sent to it then goes nowhere, and into no ledger."""
        return self.peer in self._endpoint.lost

    def note_lost(self) -> None:
        """Note in the ledger that the run went on without the peer; see `parties.ledger.LOST`."""
        content = self._received_bodies.hexdigest()
        noted = Entry(now(), self.me, self.peer, self.me, LOST, "Lost", 0, 0, 0, "", self._endpoint.generation, content)
        self._endpoint.ledger.record(noted)

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
            self._show_waiting(f"{message.name} from {self.peer}")
            while not self._arrives(message, self._next_frame(message)):
                continue
            return self._take(message)

    def recv_within(self, message: Message[Peer, Me, T], seconds: float) -> T | None:
        """Wait so long for one message of a peer that the run can go on without (`Endpoint.tolerate`).

        Returns
        -------
        payload or None
            None: the peer is `lost`, or late. One that is late owes the message; ask again for the same one.

        Raises
        ------
        RemoteProtocolError
            The peer sent something else; it is dismissed.
        """
        _check_direction(message, self._peer_role, self._my_role)
        until = time.monotonic() + seconds
        with self._endpoint.stopwatch.on_the_wire():
            self._show_waiting(f"{message.name} from {self.peer}")
            try:
                while (frame := self._next_frame_until(message, until)) is not None:
                    if self._arrives(message, frame):
                        return self._take(message)
            except RemoteProtocolError:
                self._endpoint.dismiss(self.peer, "sent what breaks the protocol")
                raise
            self._show_waiting("")
        return None

    def _next_frame(self, message: Message[Peer, Me, T]) -> Frame:
        with self._endpoint.stopwatch.waits():
            return self._endpoint.transport.receive(self.peer, message.name)

    def _next_frame_until(self, message: Message[Peer, Me, T], until: float) -> Frame | None:
        seconds = max(0.0, until - time.monotonic())
        with self._endpoint.stopwatch.waits():
            return _tolerant(self._endpoint).receive_within(self.peer, message.name, seconds)

    def _arrives(self, message: Message[Peer, Me, T], frame: Frame) -> bool:
        """Add a frame to the message that arrives; whether that is whole now."""
        arriving = self._arriving
        self._check_header(frame.header, message.name, arriving.parts)
        chunk = self._open(frame)
        self._received_bodies.update(frame.body)
        arriving.data += chunk
        if len(chunk) > CHUNK or (len(chunk) < CHUNK and not frame.header.last):
            raise RemoteProtocolError(f"{message.name} from {self.peer}: part {arriving.parts} has {len(chunk)} bytes")
        if len(arriving.data) > MAX_MESSAGE:
            raise RemoteProtocolError(f"{message.name} from {self.peer} is over {MAX_MESSAGE} bytes")
        arriving.size += frame_size(frame)
        arriving.parts += 1
        return frame.header.last

    def _take(self, message: Message[Peer, Me, T]) -> T:
        """Decode and record the message that has arrived."""
        arrived, self._arriving = self._arriving, _Arriving()
        self._received += 1
        self._show_waiting("")
        try:
            payload = decode(message.payload, arrived.data)
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"{message.name} from {self.peer}: {error}") from error
        self._record(message, payload, arrived.size, now(), sent=False)
        if self._endpoint.observe is not None:
            self._endpoint.observe(Delivery(self.peer, self.me, message.name, payload))
        return payload

    def _show_waiting(self, what: str) -> None:
        if self._endpoint.waiting is not None:
            self._endpoint.waiting(what)

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
