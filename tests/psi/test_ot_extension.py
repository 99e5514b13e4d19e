"""Streams of bits, and how wide the code is."""

import math
from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from psi.ot_extension import Streams, code_bits, code_words

KEYS = np.random.default_rng(0).integers(0, 256, (24, 16), np.uint8)


@pytest.mark.parametrize("count", [1, 2, 1000, 10**6, 2**24, 10**9])
def test_words_are_far_apart_but_once_in_2_to_the_40(count):
    """The width is enough, and 8 bits less are not."""

    def near(bits):
        return 3 * count * sum(Fraction(math.comb(bits, places), 2**bits) for places in range(128))

    assert code_bits(count) % 8 == 0
    assert near(code_bits(count)) <= Fraction(1, 2**40) < near(code_bits(count) - 8)


def test_words_of_different_elements_are_far_apart():
    rows = np.random.default_rng(0).integers(0, 256, (300, 32), np.uint8)
    bits = np.unpackbits(code_words(rows, b"seed", 448), axis=1).astype(np.int64)
    apart = (bits[:, None] != bits[None]).sum(axis=2)[~np.eye(300, dtype=bool)]
    assert apart.min() > 128
    assert abs(apart.mean() - 224) < 1


@pytest.mark.parametrize("counts", [(8,), (64, 16, 8), (1,), (16, 5), (4096, 77)], ids=str)
def test_streams_are_aes_in_counter_mode(counts):
    total = sum(counts)
    columns = [Cipher(algorithms.AES(key.tobytes()), modes.CTR(bytes(16))).encryptor() for key in KEYS]
    plain = np.stack([np.frombuffer(column.update(bytes(total)), np.uint8) for column in columns])
    bits = np.unpackbits(plain, axis=1, bitorder="little")[:, :total]
    streams = Streams(KEYS)
    rows = np.concatenate([streams.next_rows(count) for count in counts])
    assert (np.unpackbits(rows, axis=1, bitorder="little") == bits.T).all()
