"""Elements as points of Curve25519, and the masking of points by a secret scalar.

Sources: X25519 is RFC 7748, section 5; the map to the curve is Elligator 2 (Bernstein, Hamburg, Krasnova and Lange
2013) as RFC 9380, section 6.7.1, has it. Only u-coordinates travel.

An element (`psi.elements`) is a digest already, so that ``hash_to_curve`` hashes no more: it maps the low 255 bits. The
map ends on the curve itself, never on its twist: X25519 keeps a point on the side on which it is, so that a mixture
would show one bit of every element under any number of masks. It reaches about half of the curve's points, and which
element gives a point that it reaches is easily said: that is what a proof under decisional Diffie-Hellman needs of a
random oracle. Scalars are clamped to multiples of 8, which removes the small-order part that a mapped point may have.

`psi.curve_ifma` computes eight points at a time where the processor can; elsewhere libsodium (PyNaCl) multiplies and
gmpy2 maps, one point at a time. Both release the interpreter's lock while they multiply, so that threads use all cores
and the secret never leaves this process (docs/decisions/psi-threads.md, psi-curve-kernel.md).

>>> points = hash_to_curve(np.arange(64, dtype=np.uint8).reshape(2, 32))
>>> a, b = fresh_secret(), fresh_secret()
>>> bool((mask(mask(points, a), b) == mask(mask(points, b), a)).all())
True
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import gmpy2  # type: ignore[import-untyped]
import nacl.bindings
import nacl.exceptions
import numpy as np

from parties.wire import Bytes2D
from psi import curve_ifma

POINT_BYTES = 32
P = gmpy2.mpz(2**255 - 19)
A = 486662

_LOW_255_BITS = 2**255 - 1
# A thread takes this many points at a time: 0.02 s of work in C or 0.2 s without, 128 KiB of memory.
_CHUNK = 4096


class LowOrderPoint(ValueError):
    """A point of small order, whose masked form would be zero whatever the secret is."""


def fresh_secret() -> bytes:
    """32 bytes from the operating system: one secret per run and party."""
    return os.urandom(POINT_BYTES)


def hash_to_curve(elements: Bytes2D) -> Bytes2D:
    """Points of Curve25519, one per element; uint8 of shape (n, 32), u little-endian, reduced.

    Elements are their owner's: without the C code, the time that this takes depends on them.
    """
    if curve_ifma.use_ifma():
        return curve_ifma.map_to_curve(elements)
    flat = elements.tobytes()
    rows = [_mapped(flat[i : i + POINT_BYTES]) for i in range(0, len(flat), POINT_BYTES)]
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, POINT_BYTES)


def mask(points: Bytes2D, secret: bytes, *, workers: int = 1) -> Bytes2D:
    """Every point times the secret scalar, order kept; uint8 of shape (n, 32).

    Raises
    ------
    LowOrderPoint
        A result would be zero.
    """
    return _in_chunks(lambda i, j: _scaled(points[i:j], secret), len(points), workers)


def hash_and_mask(elements: Bytes2D, secret: bytes, *, workers: int = 1) -> Bytes2D:
    """``mask(hash_to_curve(elements), secret)``, chunk by chunk."""
    return _in_chunks(lambda i, j: _scaled(hash_to_curve(elements[i:j]), secret), len(elements), workers)


def canonical(points: Bytes2D) -> bool:
    """Whether every u is below p. Otherwise one point has two spellings and repetitions go unseen."""
    top = points[:, 31]
    huge = (top == 0x7F) & (points[:, 0] >= 0xED) & (points[:, 1:31] == 0xFF).all(axis=1)
    return not bool(((top > 0x7F) | huge).any())


def _mapped(element: bytes) -> bytes:
    """Elligator 2 with Z = 2, by gmpy2; the denominator is never zero, since -1/2 is not a square."""
    r = gmpy2.mpz(int.from_bytes(element, "little") & _LOW_255_BITS)
    v = -A * gmpy2.invert(1 + 2 * r * r, P) % P
    if gmpy2.jacobi(((v + A) * v + 1) * v, P) != 1:
        v = (-v - A) % P
    return int(v).to_bytes(POINT_BYTES, "little")


def _scaled(points: Bytes2D, secret: bytes) -> Bytes2D:
    """One chunk of ``mask``."""
    if not curve_ifma.use_ifma():
        return _scaled_one_by_one(points, secret)
    products = curve_ifma.multiply(points, secret)
    if not products.any(axis=1).all():
        raise LowOrderPoint("a point has low order")
    return products


def _scaled_one_by_one(points: Bytes2D, secret: bytes) -> Bytes2D:
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
