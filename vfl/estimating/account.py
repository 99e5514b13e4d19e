"""Messages, operations and seconds of a run that has not taken place, as they add up.

Bytes are those of the ledger: the codec's header and blobs, the frames of the wire, seals, and every hop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
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

_HEADER_LENGTH = 4
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
class Trained:
    """What is known of a training ahead of it.

    Attributes
    ----------
    fitting : float
        CPU seconds of a fit in plain: of the active party's columns (GLM), or of all columns (trees).
    how : str
        Where the rounds come from.
    """

    rounds: int
    converged: bool
    fitting: float
    how: str


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
        sealed = COORDINATOR not in (sender, receiver)
        size, hops = payload_size(payload), 2 if sealed else 1
        chunks = max(1, -(-size // CHUNK))
        header = Header(sender, receiver, message.name, self._sent[sender, receiver], chunks - 1)
        one = (size + chunks * (frame_size(Frame(MESSAGE, header)) + SEAL_BYTES * sealed)) * hops
        self._sent[sender, receiver] += 1
        flow = self.flows[message.name.partition(".")[0], sender, receiver]
        flow.messages += times
        flow.bytes += times * one
        seconds = one * self.speeds.byte + size * (self.speeds.codec_byte + self.speeds.sealed_byte * sealed)
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
