"""A pseudo-random function of elements, as wide as one likes, for those who know its seed.

>>> elements = np.zeros((2, 32), np.uint8)
>>> rows = expanded(elements, bytes(32), b"example", 40)
>>> rows.shape, bool((rows[0] == rows[1]).all())
((2, 40), True)
"""

from __future__ import annotations

import hashlib

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from parties.wire import Bytes2D

SEED_BYTES = 32
_AES_BYTES = 16


def expanded(elements: Bytes2D, seed: bytes, purpose: bytes, width: int) -> Bytes2D:
    """AES-128 of the first 16 bytes of every element, under as many keys as it takes; uint8 of shape (n, width).

    Elements are digests, so that different ones differ in those bytes (but with probability 2^-128 a pair).
    """
    blocks = -(-width // _AES_BYTES)
    keys = hashlib.shake_256(b"vfl prf v1|" + purpose + b"|" + seed).digest(blocks * _AES_BYTES)
    plain = np.ascontiguousarray(elements[:, :_AES_BYTES]).reshape(-1).data
    out = np.empty((len(elements), width), np.uint8)
    for start in range(0, width, _AES_BYTES):
        cipher = Cipher(algorithms.AES(keys[start : start + _AES_BYTES]), modes.ECB()).encryptor()  # noqa: S305
        block = np.frombuffer(cipher.update(plain), np.uint8).reshape(-1, _AES_BYTES)
        out[:, start : start + _AES_BYTES] = block[:, : width - start]
    return out
