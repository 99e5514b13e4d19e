"""Ciphertext vectors, keys and steering values to payloads and back: the one place where they cross a boundary.

What goes out is fresh (``to_bytes`` refuses anything else); what comes in is checked to be of the agreed key, count
and group before it is used.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import numpy as np

from parties.errors import CryptoError, RemoteProtocolError
from parties.wire import Encrypted, Opened, PaillierKey, Revealed
from vfl.paillier import (
    CipherVector,
    InnerProductPlan,
    PublicKey,
    from_bytes,
    public_key_from_wire,
    to_bytes,
    unmask_products,
)

_LARGEST_VALUE = 2.0**420  # squares of steering values, and of weights after a step, stay finite


def send_key(key: PublicKey) -> PaillierKey:
    """Payload of a public key."""
    return PaillierKey(*key.to_wire())


def receive_key(payload: PaillierKey, sender: str, min_bits: int) -> PublicKey:
    """Public key of a payload, checked; ``min_bits`` is the job's key length."""
    try:
        return public_key_from_wire(payload.n, payload.h_s, payload.exponent_bits, min_bits=min_bits)
    except CryptoError as error:
        raise RemoteProtocolError(f"public key from {sender}: {error}") from error


def send_ciphers(vector: CipherVector) -> Encrypted:
    """Payload of a fresh ciphertext vector."""
    return Encrypted(vector.key.fingerprint, to_bytes(vector))


def receive_ciphers(key: PublicKey, payload: Encrypted, count: int, sender: str) -> CipherVector:
    """Ciphertexts of a payload: ``count`` units with Jacobi symbol +1 under ``key``, or ``RemoteProtocolError``."""
    if not hmac.compare_digest(payload.key, key.fingerprint):
        raise RemoteProtocolError(f"{sender} sent ciphertexts under another key than the run's")
    try:
        return from_bytes(key, payload.body, count=count)
    except CryptoError as error:
        raise RemoteProtocolError(f"ciphertexts from {sender}: {error}") from error


def receive_opened(
    plan: InnerProductPlan, key: PublicKey, payload: Opened, masks: Sequence[int], sender: str
) -> list[int]:
    """Exact products from opened slots and the masks kept at home, or ``RemoteProtocolError``."""
    try:
        return unmask_products(plan, key, payload.body, masks)
    except CryptoError as error:
        raise RemoteProtocolError(f"opened products from {sender}: {error}") from error


def receive_values(payload: Revealed, count: int, sender: str) -> list[float]:
    """Steering values of a payload: ``count`` finite ones, or ``RemoteProtocolError``."""
    values = payload.values
    if values.shape != (count,) or not (np.abs(values) <= _LARGEST_VALUE).all():
        raise RemoteProtocolError(
            f"{sender} sent steering values of shape {values.shape}, expected {count} finite ones"
        )
    return [float(value) for value in values]
