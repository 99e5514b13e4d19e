"""Roles, the closed set of payload types, and messages declared once per protocol.

A protocol lists every message it may send in one ``Wire`` table::

    class Wire:
        residual = Message(Active, Coordinator, Encrypted)
        opened = Message(Active, Passive, Opened, discloses="its own exact gradient")

The type of a payload says what its receiver can learn from it; ``discloses`` says it in words where the receiver
does learn something. ``Link.send`` and ``Link.recv`` (``parties.link``) are typed by the same table, so that a type
checker refuses a wrong direction, a wrong payload or a raw array, and checked again at run time.
"""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

Bytes2D = NDArray[np.uint8]
Words = NDArray[np.uint64]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


class Role:
    """A part in a protocol; roles are used as types only and never instantiated."""


class DataParty(Role):
    """A party that holds rows: the active or a passive one."""


class Active(DataParty):
    """The party that holds the labels; it may hold features, or none."""


class LabelSilo(DataParty):
    """A silo of the label holder but the first one, which is the active party: labels of its own rows, no key."""


class Passive(DataParty):
    """A party that holds features only, or one silo of such a holder."""


class Coordinator(Role):
    """Holds no data; relays, adds up what it cannot read, and in some protocols holds the key."""


class Payload(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a message carries. Arrays travel as contiguous binary blobs (``parties.codec``)."""

    def count(self) -> int:
        """How many values the ledger counts: rows of arrays, numbers, plain facts."""
        fields = [getattr(self, name) for name in self.__struct_fields__]
        arrays = [value for value in fields if isinstance(value, np.ndarray)]
        facts = sum(len(value) for value in fields if isinstance(value, dict))
        return facts + sum(value.size if value.dtype == np.float64 else len(value) for value in arrays)


class Hello(Payload, frozen=True):
    """A fresh public key, the job's lines, and which steps of which run the sender keeps checkpoints of.

    ``salt`` is for the coordinator alone: it hides what the ledgers' digests are of (`parties.ledger`).
    """

    ephemeral: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    job: dict[str, str]
    run: Annotated[str, msgspec.Meta(max_length=64)] = ""
    steps: Annotated[tuple[int, ...], msgspec.Meta(max_length=64)] = ()
    salt: Annotated[bytes, msgspec.Meta(max_length=64)] = b""


class Roster(Payload, frozen=True):
    """Everybody's fresh public key, as the coordinator collected them; the run, and the step to go on from.

    ``salt``, as in `Hello`, is for its receiver alone.
    """

    ephemerals: dict[str, Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]]
    run: Annotated[str, msgspec.Meta(max_length=64)] = ""
    step: Annotated[int, msgspec.Meta(ge=0)] = 0
    salt: Annotated[bytes, msgspec.Meta(max_length=64)] = b""


class PaillierKey(Payload, frozen=True):
    """A Paillier public key: modulus, base of the obfuscators and their exponent length in bits."""

    n: bytes
    h_s: bytes
    exponent_bits: int


class Encrypted(Payload, frozen=True):
    """Paillier ciphertexts, readable by the holder of the private key only.

    ``body``: uint8 of shape (count, width), little-endian residues mod N^2; ``key``: fingerprint of the public key.
    """

    key: bytes
    body: Bytes2D


class EncryptedSums(Payload, frozen=True):
    """Paillier ciphertexts of sums for the holder of the private key, which learns every one of them.

    ``counts``: rows of (group, sums in it), a group being a node of a tree; ``key``, ``body``: as in `Encrypted`, with
    several sums in a ciphertext.
    """

    key: bytes
    counts: Counts
    body: Bytes2D

    def count(self) -> int:
        """How many sums there are."""
        return int(self.counts[:, -1].sum()) if self.counts.ndim == 2 else 0


class Masked(Payload, frozen=True):
    """Fixed-point words plus masks; only a sum over parties, or the one who knows the mask, removes them.

    ``body``: uint64 of shape (count, limbs), least significant limb first.
    """

    body: Words


class Opened(Payload, frozen=True):
    """Decrypted residues that still carry a mask of the receiver's, which alone can remove it.

    ``body``: uint8 of shape (count, width), little-endian.
    """

    body: Bytes2D


class Points(Payload, frozen=True):
    """Masked group elements of a set intersection. ``body``: uint8 of shape (count, width)."""

    body: Bytes2D


class Tags(Payload, frozen=True):
    """Fully masked ids, cut to tags. ``body``: uint8 of shape (count, width)."""

    body: Bytes2D


class Blinded(Payload, frozen=True):
    """Rows under one-time pads or in key-value stores: random to their receiver, but for what it may open.

    ``body``: uint8 of shape (count, width).
    """

    body: Bytes2D


class Control(Payload, frozen=True):
    """Steps of the protocol that depend on nobody's values: sizes that all know, round numbers, verdicts."""

    facts: dict[str, bool | int | float | str | None]


class Bitmaps(Payload, frozen=True):
    """Plain bits, one per row of each of several sets of rows: sides of splits, rows drawn. Its receiver learns them.

    ``counts``: rows of each set; ``bits``: all sets' bits one after the other, eight to a byte, the first the highest.
    """

    counts: Counts
    bits: NDArray[np.uint8]

    def count(self) -> int:
        """How many bitmaps there are."""
        return len(self.counts)


class Positions(Payload, frozen=True):
    """Plain positions in a list that both sides have (of rows, of candidates), for each of several questions.

    ``counts``: positions per question; ``positions``: all of them one after the other. Its receiver learns them.
    """

    counts: Counts
    positions: NDArray[np.uint32]

    def count(self) -> int:
        """How many positions there are."""
        return len(self.positions)


class Revealed(Payload, frozen=True):
    """Plain values that its receiver learns; every use stands in the protocol's leakage list."""

    facts: dict[str, bool | int | float | str | None]
    values: Floats


TELLING: tuple[type[Payload], ...] = (Revealed, EncryptedSums, Bitmaps, Positions)
"""Payloads that their receiver reads: their messages must say what they disclose."""

Src = TypeVar("Src", bound=Role, contravariant=True)
Dst = TypeVar("Dst", bound=Role, contravariant=True)
T = TypeVar("T", bound=Payload)


class Message(Generic[Src, Dst, T]):
    """One kind of message: who may send it to whom, what it carries, what its receiver learns from it."""

    name: str

    def __init__(self, src: type[Src], dst: type[Dst], payload: type[T], *, discloses: str = "") -> None:
        self.src: type[Role] = src
        self.dst: type[Role] = dst
        self.payload: type[T] = payload
        self.discloses = discloses
        if issubclass(payload, TELLING) and not discloses:
            raise TypeError(f"a {payload.__name__} message must say what it discloses")

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = f"{owner.__module__.rpartition('.')[2]}.{name}"

    def __repr__(self) -> str:
        return f"<{self.name}: {self.src.__name__} -> {self.dst.__name__}, {self.payload.__name__}>"
