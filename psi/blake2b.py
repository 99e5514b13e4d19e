"""BLAKE2b (RFC 7693) of many short messages at once: in C where the processor can, else with hashlib.

>>> rows = np.zeros((2, 3), np.uint8)
>>> hash_rows(rows, 4)[1].tobytes() == hashlib.blake2b(bytes(3), digest_size=4).digest()
True
>>> hash_each([b"ann", b"bob"], 16).shape
(2, 16)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from ctypes import CDLL, c_size_t, c_void_p

import numpy as np

from parties.wire import Bytes2D, Words
from psi.native import native

_INTERFACE = 2
_BLOCK_BYTES = 128
_PERSON_BYTES = 16
_PIECE = 1 << 14


def hash_rows(rows: Bytes2D, width: int, *, key: bytes = b"", person: bytes = b"") -> Bytes2D:
    """Digests of the rows.

    Parameters
    ----------
    rows : ndarray of shape (n, length), uint8
    width : int
        Bytes of a digest, 1 to 64.
    key : bytes, up to 64
    person : bytes, up to 16
        Separates what the digests are for.

    Returns
    -------
    ndarray of shape (n, width), uint8
    """
    count, length = rows.shape
    library = _library()
    if library is None or not 0 < length <= _BLOCK_BYTES:
        return _with_hashlib((row.tobytes() for row in rows), width, key, person)
    ends = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(length)
    return _in_c(library, np.ascontiguousarray(rows).reshape(-1), ends, width, key, person)


def hash_each(messages: Sequence[bytes], width: int, *, person: bytes = b"") -> Bytes2D:
    """Digests of messages of any lengths; uint8 of shape (n, width)."""
    pieces = (messages[start : start + _PIECE] for start in range(0, len(messages), _PIECE))
    return np.concatenate([np.empty((0, width), np.uint8), *(_hash_piece(piece, width, person) for piece in pieces)])


def _hash_piece(messages: Sequence[bytes], width: int, person: bytes) -> Bytes2D:
    """`hash_each` of so few messages that one which is too long for C does not slow all."""
    library = _library()
    lengths = np.fromiter(map(len, messages), np.uint64, len(messages))
    if library is None or int(lengths.max()) > _BLOCK_BYTES:
        return _with_hashlib(messages, width, b"", person)
    data = np.frombuffer(b"".join(messages), np.uint8)
    return _in_c(library, data, np.cumsum(lengths, dtype=np.uint64), width, b"", person)


def _library() -> CDLL | None:
    """The C code, where there is some that runs here."""
    library = native("blake2b", _INTERFACE)
    return library if library is not None and library.vfl_blake2b_runs() else None


def _in_c(library: CDLL, data: Bytes2D, ends: Words, width: int, key: bytes, person: bytes) -> Bytes2D:
    """Digests of messages that stand one after the other, each ending where ``ends`` says."""
    if not (0 < width <= 64 and len(key) <= 64 and len(person) <= _PERSON_BYTES):
        raise ValueError(f"BLAKE2b: got {width} bytes of digest, {len(key)} of key and {len(person)} of person")
    out = np.empty((len(ends), width), np.uint8)
    library.vfl_blake2b_hash(
        c_void_p(data.ctypes.data),
        c_void_p(ends.ctypes.data),
        c_size_t(len(ends)),
        key,
        c_size_t(len(key)),
        person.ljust(_PERSON_BYTES, b"\0"),
        c_void_p(out.ctypes.data),
        c_size_t(width),
    )
    return out


def _with_hashlib(messages: Iterable[bytes], width: int, key: bytes, person: bytes) -> Bytes2D:
    digest = hashlib.blake2b
    digests = [digest(message, digest_size=width, key=key, person=person).digest() for message in messages]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, width)
