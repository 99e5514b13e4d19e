"""Bitmaps on the wire: which rows go left, which were drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parties.errors import RemoteProtocolError
from parties.wire import Bitmaps
from vfl.trees.splits import Integers, Mask

_WORD = 64


def pack_bits(maps: Sequence[Mask]) -> Bitmaps:
    """Payload of bitmaps.

    Examples
    --------
    >>> payload = pack_bits([np.array([True, False, True]), np.array([True])])
    >>> [bits.tolist() for bits in unpack_bits(payload, [3, 1], "bank")]
    [[True, False, True], [True]]
    """
    counts = np.array([len(bits) for bits in maps], dtype=np.int64)
    return Bitmaps(counts, np.packbits(np.concatenate([np.zeros(0, dtype=bool), *maps])))


def unpack_bits(payload: Bitmaps, sizes: Sequence[int], sender: str, *, whole: bool = True) -> list[Mask]:
    """Read bitmaps of the sizes expected; with ``whole = False`` the first of them.

    Raises
    ------
    RemoteProtocolError
        If the payload holds others.
    """
    counts, bits = payload.counts, payload.bits
    shaped = counts.ndim == bits.ndim == 1 and bool((counts >= 0).all() and (counts <= 8 * len(bits)).all())
    spare = 8 * len(bits) - int(counts.sum()) if shaped else -1
    if not 0 <= spare < 8 or (spare and bits[-1] & ((1 << spare) - 1)):
        raise RemoteProtocolError(f"{sender} sent bitmaps that do not fit their counts")
    if counts[: len(sizes)].tolist() != list(sizes) or (whole and len(counts) != len(sizes)):
        raise RemoteProtocolError(f"{sender} sent bitmaps of {counts.tolist()[:8]} rows, expected {list(sizes)[:8]}")
    flat = np.unpackbits(bits, count=sum(sizes)).astype(bool)
    return np.split(flat, np.cumsum(sizes)[:-1].astype(np.int64)) if len(sizes) else []


def bits_to_words(bits: Mask) -> Integers:
    """Bits in words of 64, the first the lowest: where each bit is set by one party only, sums of words join them.

    Examples
    --------
    >>> words = bits_to_words(np.array([True, False, False])) + bits_to_words(np.array([False, False, True]))
    >>> words.tolist(), words_to_bits(words, 3, "bank").tolist()
    ([5], [True, False, True])
    """
    padded = np.zeros(-(-len(bits) // _WORD) * _WORD, dtype=bool)
    padded[: len(bits)] = bits
    return np.packbits(padded, bitorder="little").view("<i8").astype(np.int64)


def words_to_bits(words: Integers, count: int, sender: str) -> Mask:
    """The first ``count`` bits of words; the others are zero.

    Raises
    ------
    RemoteProtocolError
        They are not, or there are more or fewer words.
    """
    if words.shape != (-(-count // _WORD),):
        raise RemoteProtocolError(f"{sender} sent {words.shape} words of bits, expected those of {count:,} bits")
    bits = np.unpackbits(words.astype("<i8").view(np.uint8), bitorder="little").astype(bool)
    if bits[count:].any():
        raise RemoteProtocolError(f"{sender} sent bits that are no row's; two silos may have answered for one row")
    return np.asarray(bits[:count])
