"""Messages, operations and seconds of a run that has not taken place, as they add up.

Bytes are those of the ledger: the codec's header and blobs, the frames of the wire, seals, and every hop.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import DTypeLike, NDArray

from parties.frame import CHUNK, MESSAGE, SEAL_BYTES, Frame, Header, frame_size
from parties.link import COORDINATOR
from parties.wire import Message, Payload
from vfl.estimating.calibration import Speeds
from vfl.estimating.counting import Work
from vfl.estimating.rehearsal import Sent

_HEADER_LENGTH = 4
_LONGER_FROM = ((1 << 7, 1), (1 << 8, 1), (1 << 16, 2), (1 << 32, 4))  # bytes more of a number in MessagePack
_CROWDED = 1.25  # products take as much longer while several roles share the processor's caches (measured)


@dataclass(slots=True)
class Flow:
    """What goes from one role to another in one protocol."""

    messages: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a role does between two messages: seconds of its main thread, and CPU seconds of all its threads."""

    single: float = 0.0
    shared: float = 0.0

    def __add__(self, other: Load) -> Load:
        return Load(self.single + other.single, self.shared + other.shared)

    def __mul__(self, times: float) -> Load:
        return Load(self.single * times, self.shared * times)


@dataclass(frozen=True, slots=True)
class Sending:
    """A message that is sent."""

    message: Message[Any, Any, Any]
    sender: str
    receiver: str
    payload: Payload


@dataclass(frozen=True, slots=True)
class Stage:
    """What roles do at the same time, and what they send then; ciphertexts made and opened by role."""

    loads: Mapping[str, Load]
    sendings: Sequence[Sending] = ()
    encryptions: Mapping[str, int] = field(default_factory=dict)
    decryptions: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trained:
    """What is known of a training ahead of it.

    Attributes
    ----------
    fitting : float
        CPU seconds of a fit in plain: of the active party's columns (GLM), or of all columns (other models).
    how : str
        Where the rounds come from.
    importing : float
        CPU seconds that a process needs once, before it can fit at all.
    """

    rounds: int
    converged: bool
    fitting: float
    how: str
    importing: float = 0.0


@dataclass(slots=True)
class Account:
    """The books of an estimate.

    Attributes
    ----------
    flows : dict of (protocol, sender, receiver) to Flow
    encryptions, decryptions : dict of role to operations
    seconds : dict of phase to wall-clock seconds
    cpu : float
        CPU seconds of all roles together.
    """

    speeds: Speeds
    flows: dict[tuple[str, str, str], Flow] = field(default_factory=lambda: defaultdict(Flow))
    encryptions: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    decryptions: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    cpu: float = 0.0
    _sent: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def send(
        self, message: Message[Any, Any, Any], sender: str, receiver: str, payload: Payload, times: float = 1
    ) -> Load:
        """Book a message, ``times`` over; returns what sending and receiving one of them costs."""
        one = Sending(message, sender, receiver, payload)
        load = self._book(one, times, _sequence_bytes(self._sent[sender, receiver], 1, 1))
        self._sent[sender, receiver] += 1
        return load

    def carry(self, link: tuple[str, str, str], messages: float, size: float) -> None:
        """Book messages of a protocol whose size, all together, is known; ``link``: protocol, sender, receiver."""
        flow = self.flows[link]
        flow.messages += messages
        flow.bytes += size
        self._sent[link[1:]] += round(messages)

    def replay(self, sent: Iterable[Sent]) -> dict[str, Load]:
        """Book messages of a rehearsal, behind those that are booked; what they cost their senders."""
        loads: dict[str, Load] = {}
        for one in sent:
            entry, link = one.entry, (one.entry.sender, one.entry.receiver)
            frames = entry.hops * max(1, entry.bytes // entry.hops // CHUNK)
            longer = _sequence_bytes(self._sent[link], 1, 1) - _sequence_bytes(one.number, 1, 1)
            size = entry.bytes + frames * longer
            self.carry((entry.message.partition(".")[0], *link), 1, size)
            sealed = self.speeds.sealed_byte * (entry.hops > 1)
            spent = size * self.speeds.byte + size / entry.hops * (self.speeds.codec_byte + sealed)
            loads[entry.sender] = loads.get(entry.sender, Load()) + Load(entry.hops * self.speeds.hop + spent)
        return loads

    def repeat(self, phase: str, stages: Iterable[Stage], times: int) -> None:
        """Book stages one after the other, and all of them ``times`` over; sizes are exact to the byte.

        What a message costs is added to what its sender does in the stage.
        """
        listed = list(stages)
        per_round = Counter((one.sender, one.receiver) for stage in listed for one in stage.sendings)
        place: Counter[tuple[str, str]] = Counter()
        for stage in listed:
            loads = dict(stage.loads)
            for one in stage.sendings:
                link = one.sender, one.receiver
                numbers = _sequence_bytes(self._sent[link] + place[link], per_round[link], times)
                loads[one.sender] = loads.get(one.sender, Load()) + self._book(one, times, numbers)
                place[link] += 1
            for booked, made in ((self.encryptions, stage.encryptions), (self.decryptions, stage.decryptions)):
                for role, count in made.items():
                    booked[role] += times * count
            self.stage(phase, loads, times)
        for link, count in per_round.items():
            self._sent[link] += times * count

    def _book(self, one: Sending, times: float, numbers: float) -> Load:
        """Book a message ``times`` over whose sequence number takes ``numbers`` bytes on average; what one costs."""
        sealed = COORDINATOR not in (one.sender, one.receiver)
        size, hops = payload_size(one.payload), 2 if sealed else 1
        chunks = max(1, -(-size // CHUNK))
        header = Header(one.sender, one.receiver, one.message.name, 0, chunks - 1)
        framed = frame_size(Frame(MESSAGE, header)) - 1 + numbers
        whole = (size + chunks * (framed + SEAL_BYTES * sealed)) * hops
        flow = self.flows[one.message.name.partition(".")[0], one.sender, one.receiver]
        flow.messages += times
        flow.bytes += times * whole
        seconds = whole * self.speeds.byte + size * (self.speeds.codec_byte + self.speeds.sealed_byte * sealed)
        return Load(hops * self.speeds.hop + seconds)

    def stage(self, phase: str, loads: Mapping[str, Load], times: float = 1) -> None:
        """Book what several roles do at the same time on this machine's cores."""
        cores = self.speeds.cores
        together = sum(load.single + load.shared for load in loads.values()) / cores
        longest = max((load.single + load.shared / cores for load in loads.values()), default=0.0)
        self.seconds[phase] += times * max(together, longest)
        self.cpu += times * together * cores

    def on_ciphers(self, work: Work) -> Load:
        """What counted work on ciphertexts costs."""
        speeds = self.speeds
        return Load(
            work.calls * speeds.call,
            _CROWDED * work.products * speeds.product
            + work.squarings * speeds.squaring
            + work.plaintexts * speeds.plaintext,
        )

    def received(self, ciphertexts: float) -> Load:
        """Read ciphertexts and check them."""
        return Load(0.0, _CROWDED * ciphertexts * self.speeds.receive)


def _sequence_bytes(first: int, step: int, times: int) -> float:
    """Bytes that the numbers first, first + step, ... take on average, ``times`` of them, as MessagePack has them.

    >>> _sequence_bytes(126, 1, 4), _sequence_bytes(70_000, 2, 5)
    (1.5, 5.0)
    """
    total = times
    for border, more in _LONGER_FROM:
        total += more * (times - min(times, max(0, -(-(border - first) // step))))
    return total / max(times, 1)


def shape(dtype: DTypeLike, *sizes: int) -> NDArray[Any]:
    """Return an array that has a shape and takes no memory."""
    return np.broadcast_to(np.zeros((), dtype=dtype), sizes)


def payload_size(payload: Payload) -> int:
    """Bytes of a payload as `parties.codec` writes it.

    Examples
    --------
    >>> from parties.codec import encode
    >>> from parties.wire import Masked
    >>> payload_size(Masked(np.zeros((5, 4), dtype=np.uint64))) == len(encode(Masked(np.zeros((5, 4), np.uint64))))
    True
    """
    blobs = 0

    def entry(value: Any) -> list[str | int]:
        nonlocal blobs
        blobs += value.nbytes
        return [value.dtype.name, *value.shape]

    return _HEADER_LENGTH + len(msgspec.msgpack.Encoder(enc_hook=entry).encode(payload)) + blobs
