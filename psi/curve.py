"""Elements as points of Curve25519, and the masking of points by a secret scalar (X25519, RFC 7748).

Only u-coordinates travel. ``hash_to_curve`` maps an element (`psi.elements`) to a point of the curve itself, never of
its twist: X25519 keeps a point on the side on which it is, so that a mixture would show one bit of every element under
any number of masks.
Scalars are clamped to multiples of 8, which removes the small-order part that a hashed point may have.

libsodium (PyNaCl) does the scalar multiplication: its binding releases the GIL, so threads use all cores and the
secret never leaves this process (docs/decisions/psi-threads.md).

>>> points = hash_to_curve(np.arange(64, dtype=np.uint8).reshape(2, 32))
>>> a, b = fresh_secret(), fresh_secret()
>>> bool((mask(mask(points, a), b) == mask(mask(points, b), a)).all())
True
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import gmpy2  # type: ignore[import-untyped]
import nacl.bindings
import nacl.exceptions
import numpy as np

from parties.wire import Bytes2D

POINT_BYTES = 32
P = gmpy2.mpz(2**255 - 19)
A = 486662

_DOMAIN = b"vfl psi curve25519 v1|"
_LOW_255_BITS = 2**255 - 1
# A thread takes this many points at a time: about 0.2 s of work, 128 KiB of memory.
_CHUNK = 4096


class LowOrderPoint(ValueError):
    """A point of small order, whose masked form would be zero whatever the secret is."""


def fresh_secret() -> bytes:
    """32 bytes from the operating system: one secret per run and party."""
    return os.urandom(POINT_BYTES)


def hash_to_curve(elements: Bytes2D) -> Bytes2D:
    """Points of Curve25519, one per element, by try and increment; uint8 of shape (n, 32), u little-endian, reduced.

    A candidate u is on the curve (not on its twist) exactly when u^3 + A u^2 + u is a square; half of them are.
    The number of attempts depends on the element: this runs where it is known anyway, and before any message.
    """
    found = bytearray()
    for row in elements:
        digest = hashlib.sha256(_DOMAIN + row.tobytes()).digest()
        while (u := _candidate(digest)) is None:
            digest = hashlib.sha256(_DOMAIN + digest).digest()
        found += u.to_bytes(POINT_BYTES, "little")
    return np.frombuffer(bytes(found), np.uint8).reshape(-1, POINT_BYTES)


def mask(points: Bytes2D, secret: bytes, *, workers: int = 1) -> Bytes2D:
    """Every point times the secret scalar, order kept; uint8 of shape (n, 32).

    Raises
    ------
    LowOrderPoint
        A result would be zero.
    """
    return _in_chunks(lambda i, j: _scaled(points[i:j], secret), len(points), workers)


def hash_and_mask(elements: Bytes2D, secret: bytes, *, workers: int = 1) -> Bytes2D:
    """``mask(hash_to_curve(elements), secret)``, chunk by chunk: one thread hashes while the others multiply."""
    return _in_chunks(lambda i, j: _scaled(hash_to_curve(elements[i:j]), secret), len(elements), workers)


def canonical(points: Bytes2D) -> bool:
    """Whether every u is below p. Otherwise one point has two spellings and repetitions go unseen."""
    top = points[:, 31]
    huge = (top == 0x7F) & (points[:, 0] >= 0xED) & (points[:, 1:31] == 0xFF).all(axis=1)
    return not bool(((top > 0x7F) | huge).any())


def _candidate(digest: bytes) -> int | None:
    """The u that a digest stands for, or None if it lies on the twist (or is 0)."""
    u = gmpy2.mpz(int.from_bytes(digest, "little") & _LOW_255_BITS)
    if gmpy2.jacobi(((u + A) * u + 1) * u, P) != 1:
        return None
    return int(u % P)


def _scaled(points: Bytes2D, secret: bytes) -> Bytes2D:
    """One chunk of ``mask``."""
    times, flat = nacl.bindings.crypto_scalarmult, points.tobytes()
    try:
        products = [times(secret, flat[i : i + POINT_BYTES]) for i in range(0, len(flat), POINT_BYTES)]
    except nacl.exceptions.CryptoError as error:
        raise LowOrderPoint("a point has low order") from error
    return np.frombuffer(b"".join(products), np.uint8).reshape(-1, POINT_BYTES)


def _in_chunks(work: Callable[[int, int], Bytes2D], count: int, workers: int) -> Bytes2D:
    """``work(start, stop)`` over ``count`` points, on threads if that is allowed and there is more than one chunk."""
    out = np.empty((count, POINT_BYTES), np.uint8)

    def fill(start: int) -> None:
        stop = min(start + _CHUNK, count)
        out[start:stop] = work(start, stop)

    starts = range(0, count, _CHUNK)
    if workers <= 1 or len(starts) <= 1:
        for start in starts:
            fill(start)
        return out
    with ThreadPoolExecutor(workers) as threads:
        for done in [threads.submit(fill, start) for start in starts]:
            done.result()
    return out
