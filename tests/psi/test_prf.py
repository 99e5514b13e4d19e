"""A pseudo-random function of elements."""

import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from psi.prf import expanded

_ECB = modes.ECB()  # noqa: S305 - a function of single blocks
ROWS = np.random.default_rng(0).integers(0, 256, (20, 32), np.uint8)


@pytest.mark.parametrize("width", [1, 15, 16, 17, 24, 55, 64])
def test_aes_of_the_first_half_under_keys_from_the_seed(width):
    keys = hashlib.shake_256(b"vfl prf v1|code|seed").digest(64)
    found = expanded(ROWS, b"seed", b"code", width)
    assert found.shape == (20, width)
    for row, element in zip(found, ROWS, strict=True):
        ciphers = [Cipher(algorithms.AES(keys[i : i + 16]), _ECB).encryptor() for i in range(0, 64, 16)]
        assert row.tobytes() == b"".join(cipher.update(element[:16].tobytes()) for cipher in ciphers)[:width]


def test_seed_and_purpose_separate():
    one = expanded(ROWS, b"a" * 32, b"code", 16)
    assert not (one == expanded(ROWS, b"b" * 32, b"code", 16)).all(axis=1).any()
    assert not (one == expanded(ROWS, b"a" * 32, b"bins", 16)).all(axis=1).any()


def test_no_elements():
    assert expanded(ROWS[:0], b"seed", b"code", 24).shape == (0, 24)
