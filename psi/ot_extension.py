"""Many oblivious transfers from few: streams of bits from the keys of base transfers, and a code for elements.

Source: Ishai, Kilian, Nissim and Petrank 2003, "Extending oblivious transfers efficiently", with the pseudo-random code
of Kolesnikov, Kumaresan, Rosulek and Trieu 2016, section 3.2, where the former has a repetition code.

A key of AES-128 in counter mode gives one column of bits, a row for every bin. `Streams` makes the rows of all columns
block by block; a row of w bits stands in w / 8 bytes, column i at bit i mod 8 of byte i div 8.

How wide. Where two words of the code differ in fewer than 128 places, the secret that hides an output has fewer than
128 bits. Words of different elements are as random: they differ in d places with probability C(w, d) / 2^w. `code_bits`
is the smallest multiple of 8 for which 3 n comparisons (n: the elements that the evaluating side has, each in three
bins) meet one below 128 with probability at most 2^-40.

>>> code_bits(1_000), code_bits(1_000_000), code_bits(2**24)
(424, 440, 448)
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from parties.wire import Bytes2D
from psi.bits import transposed
from psi.cuckoo import FUNCTIONS
from psi.lists import STATISTICAL_BITS
from psi.prf import expanded

SECURITY_BITS = 128


@cache
def code_bits(count: int) -> int:
    """Bits of a code word, where ``count`` elements are evaluated at three bins each."""
    bits = SECURITY_BITS
    while (_near_words(bits) * FUNCTIONS * count) << STATISTICAL_BITS > 1 << bits:
        bits += 8
    return bits


def code_words(elements: Bytes2D, seed: bytes, bits: int) -> Bytes2D:
    """The word of every element; uint8 of shape (n, bits / 8)."""
    return expanded(elements, seed, b"code", bits // 8)


class Streams:
    """Columns of bits, one per key, read in rows from the first on.

    Parameters
    ----------
    keys : ndarray of shape (w, 16), uint8
        w is a multiple of 8.
    """

    def __init__(self, keys: Bytes2D) -> None:
        counter = bytes(16)  # every key is used for one stream, once
        self._columns = [Cipher(algorithms.AES(key.tobytes()), modes.CTR(counter)).encryptor() for key in keys]

    def next_rows(self, count: int) -> Bytes2D:
        """The next ``count`` rows; shape (count, w / 8).

        What is left of the last byte's eight rows is dropped: only the last block may have a count that is no
        multiple of 8.
        """
        size = -(-count // 8)
        zeros = bytes(size)
        bits = np.empty((len(self._columns), size), np.uint8)
        for column, out in zip(self._columns, bits, strict=True):
            column.update_into(zeros, out.data)
        return transposed(bits)[:count]


def _near_words(bits: int) -> int:
    """How many words of ``bits`` bits differ from a given one in fewer than 128 places."""
    return sum(math.comb(bits, places) for places in range(SECURITY_BITS))
