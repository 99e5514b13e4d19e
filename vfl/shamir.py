"""Shamir's secret sharing of 32 bytes: any ``threshold`` shares give them back, fewer say nothing about them.

A secret is the constant term of a polynomial of degree threshold - 1 over Z_p, whose other coefficients are drawn from
the operating system; share number i is its value at i. p is the least prime above 2^256.

Source: A. Shamir, *How to Share a Secret*, Communications of the ACM 22 (11), 1979.

>>> shares = split(bytes(range(32)), threshold=2, holders=3)
>>> join({1: shares[0], 3: shares[2]}, threshold=2) == bytes(range(32))
True
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from parties.errors import CryptoError, RemoteProtocolError

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33


def split(secret: bytes, threshold: int, holders: int) -> list[bytes]:
    """Shares number 1 to ``holders`` of a secret of 32 bytes, 33 bytes each."""
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= holders:
        raise ValueError("expected a secret of 32 bytes, and a threshold from 1 to the number of holders")
    coefficients = [int.from_bytes(secret), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return [_value(coefficients, at).to_bytes(SHARE_BYTES) for at in range(1, holders + 1)]


def join(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret of which these are shares, by their numbers.

    Raises
    ------
    CryptoError
        Fewer shares than the threshold, or the shares are of no secret of 32 bytes.
    """
    if len(shares) < threshold:
        raise CryptoError(f"got {len(shares)} shares of a secret, expected {threshold}")
    chosen = {at: read_share(share) for at, share in sorted(shares.items())[:threshold]}
    secret = sum(value * _lagrange(at, list(chosen)) for at, value in chosen.items()) % PRIME
    if secret >> 8 * SECRET_BYTES:
        raise CryptoError("shares that belong to no secret")
    return secret.to_bytes(SECRET_BYTES)


def read_share(share: bytes) -> int:
    """A share as a number below p; raises ``RemoteProtocolError`` for anything else."""
    value = int.from_bytes(share)
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise RemoteProtocolError("a share of another length or range than expected")
    return value


def _value(coefficients: list[int], at: int) -> int:
    """A polynomial's value, by Horner's rule; the constant term comes first."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * at + coefficient) % PRIME
    return value


def _lagrange(at: int, points: list[int]) -> int:
    """What the value at a point counts for in the constant term."""
    above = below = 1
    for other in points:
        if other != at:
            above, below = above * other % PRIME, below * (other - at) % PRIME
    return above * pow(below, -1, PRIME) % PRIME
