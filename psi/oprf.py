"""An oblivious pseudo-random function, evaluated once in each of many bins, by extension of transfers.

Source: Kolesnikov, Kumaresan, Rosulek and Trieu 2016, "Efficient batched oblivious PRF with applications to private set
intersection", section 3 and figure 2 (BaRK-OPRF), section 5 for its use with cuckoo hashing.

The receiver puts its elements into bins (`psi.cuckoo`), x_b into bin b. The sender's function at (y, b) is
H(b, q_b ^ (C(y) & s)); the receiver learns it at (x_b, b) and nowhere else. C is the code, s the sender's secret
(`psi.ot_extension`), & and ^ bit by bit, G(k) the stream of a key.

    receiver                                                      sender
      base transfers (`psi.base_ot`), the receiver giving  <---->  choices s; of each pair k0, k1 it gets one, k
      seed of bins and code                                ----->  C, and the three bins of every y
      rows, in blocks: u_b = t_b ^ t'_b ^ C(x_b)           ----->  q_b = g_b ^ (u_b & s) = t_b ^ (C(x_b) & s)
      H(b, t_b) = F(x_b, b)                                        F(y, b), for any y

t, t', g are the rows of G(k0), G(k1), G(k).

*Leakage*: none. The sender sees ``rows`` under one of two streams of which it knows at most one in every column.

*Threat model*: everyone follows the protocol and is curious. The receiver has F(y, b) for a y it does not hold only if
it guesses s in the places in which C(y) and C(x_b) differ, 128 or more but with probability 2^-40; H is a correlation
robust hash (BLAKE2b). The seed is the receiver's first for which its elements find bins: the first of all, but with
probability 2^-40. Part and function are hashed in, too: outputs of different buckets have nothing to do with each
other, and those by different functions differ.

>>> from parties.local import run_local
>>> from parties.wire import Active, Coordinator, Passive
>>> rows = np.random.default_rng(0).integers(0, 256, (9, 32), np.uint8)
>>> plays = {
...     "bank": lambda end: receive(end, "shop", rows[:4], sender_count=9, width=16, part=0),
...     "shop": lambda end: send(end, "bank", sender_count=9, receiver_count=4, width=16, part=0).evaluate(rows, 1),
...     "coordinator": lambda end: None,
... }
>>> found = run_local(plays, roles={"bank": Active, "shop": Passive, "coordinator": Coordinator})
>>> by_second = found["bank"].functions == 1
>>> (found["bank"].outputs == found["shop"][:4]).all(axis=1).tolist() == by_second.tolist()
True
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from parties.errors import CryptoError, RemoteProtocolError
from parties.link import Endpoint
from parties.wire import Blinded, Bytes2D, DataParty, Message
from psi.base_ot import choose, give
from psi.blake2b import hash_rows
from psi.cuckoo import EMPTY, FUNCTIONS, NoPlace, Table, bin_count, bins_of, place
from psi.ot_extension import Streams, code_bits, code_words
from psi.prf import SEED_BYTES

_BLOCK_ROWS = 1 << 15
"""Rows that are made and sent at a time: 1.8 MB of them."""
_PIECE_ROWS = 1 << 13
"""Rows that a thread hashes at a time, small enough for a processor's cache."""
_ATTEMPTS = 4


class Wire:
    """Every message but those of the base transfers."""

    seed = Message(DataParty, DataParty, Blinded)
    rows = Message(DataParty, DataParty, Blinded)


@dataclass(frozen=True)
class Received:
    """What the receiver has.

    Parameters
    ----------
    functions : ndarray of shape (n,), uint8
        Which of the three hash functions gave each element its bin.
    outputs : ndarray of shape (n, width), uint8
        F of each element there.
    """

    functions: NDArray[np.uint8]
    outputs: Bytes2D = field(repr=False)


@dataclass(frozen=True)
class Evaluator:
    """The sender's function, which it can evaluate anywhere.

    Parameters
    ----------
    part, width, workers : int
        As in `send`.
    seed : bytes
        Of bins and code.
    secret : ndarray of shape (w / 8,), uint8
        s.
    rows : ndarray of shape (bins, w / 8), uint8
        q.
    """

    part: int
    width: int
    workers: int
    seed: bytes
    secret: Bytes2D = field(repr=False)
    rows: Bytes2D = field(repr=False)

    def evaluate(self, elements: Bytes2D, function: int) -> Bytes2D:
        """F of every element in the bin that one hash function, 0 to 2, gives it; shape (n, width)."""
        return self._in_pieces(elements, range(function, function + 1))

    def evaluate_all(self, elements: Bytes2D) -> Bytes2D:
        """F of every element in all its three bins, side by side; shape (n, 3 width)."""
        return self._in_pieces(elements, range(FUNCTIONS))

    def _in_pieces(self, elements: Bytes2D, functions: range) -> Bytes2D:
        out = np.empty((len(elements), len(functions) * self.width), np.uint8)

        def fill(piece: slice) -> None:
            out[piece] = self._evaluate(elements[piece], functions)

        with ThreadPoolExecutor(self.workers) as threads:
            list(threads.map(fill, _cut(len(elements), _PIECE_ROWS)))
        return out

    def _evaluate(self, elements: Bytes2D, functions: range) -> Bytes2D:
        bins = bins_of(elements, self.seed, len(self.rows))
        words = code_words(elements, self.seed, 8 * self.rows.shape[1]) & self.secret
        outputs = [
            _hashed(self.rows[bins[:, function]] ^ words, bins[:, function], function, self.part, self.width)
            for function in functions
        ]
        return np.concatenate(outputs, axis=1)


def blocks(count: int) -> list[slice]:
    """The rows that each message carries, of ``count`` in all."""
    return _cut(count, _BLOCK_ROWS)


def receive(
    endpoint: Endpoint, peer: str, elements: Bytes2D, *, sender_count: int, width: int, part: int, workers: int = 1
) -> Received:
    """The receiver's part: F of its own elements.

    Parameters
    ----------
    elements : ndarray of shape (n, 32), uint8
        Distinct.
    sender_count : int
        How many elements the sender evaluates, at most.
    width : int
        Bytes of an output.
    part : int
        Which bucket this is.
    workers : int
        Threads that hash.

    Raises
    ------
    RemoteProtocolError
        Malformed points.
    """
    link = endpoint.link(DataParty, DataParty, peer)
    bits = code_bits(sender_count)
    first, second = (Streams(keys) for keys in give(endpoint, peer, bits))
    seed, table = _placed(elements)
    link.send(Wire.seed, Blinded(np.frombuffer(seed, np.uint8).reshape(1, -1)))
    outputs = np.empty((len(elements), width), np.uint8)

    def learn(who: NDArray[np.int64], rows: Bytes2D, bins: NDArray[np.int64]) -> None:
        outputs[who] = _hashed(rows, bins, table.functions[who], part, width)

    with ThreadPoolExecutor(workers) as threads:  # that hash while this one goes on
        learning = []
        for block in blocks(len(table.elements)):
            count = block.stop - block.start
            rows, masked = first.next_rows(count), second.next_rows(count)
            masked ^= rows
            there = np.flatnonzero(table.elements[block] != EMPTY)
            who = table.elements[block][there]
            masked[there] ^= code_words(elements[who], seed, bits)
            link.send(Wire.rows, Blinded(masked))
            learning.append(threads.submit(learn, who, rows[there], there + block.start))
        for learnt in learning:
            learnt.result()
    return Received(table.functions, outputs)


def send(
    endpoint: Endpoint,
    peer: str,
    *,
    sender_count: int,
    receiver_count: int,
    width: int,
    part: int,
    workers: int = 1,
) -> Evaluator:
    """The sender's part: the function. Parameters as in `receive`, and how many elements the receiver has.

    Raises
    ------
    RemoteProtocolError
        Malformed points or rows.
    """
    link = endpoint.link(DataParty, DataParty, peer)
    size = code_bits(sender_count) // 8
    secret = np.frombuffer(os.urandom(size), np.uint8)
    streams = Streams(choose(endpoint, peer, np.unpackbits(secret, bitorder="little").astype(bool)))
    seed = checked_rows(link.recv(Wire.seed).body, 1, SEED_BYTES, peer)
    rows = np.empty((bin_count(receiver_count), size), np.uint8)
    for block in blocks(len(rows)):
        count = block.stop - block.start
        masked = checked_rows(link.recv(Wire.rows).body, count, size, peer)
        np.bitwise_xor(streams.next_rows(count), masked & secret, out=rows[block])
    return Evaluator(part, width, workers, seed.tobytes(), secret, rows)


def _cut(count: int, rows: int) -> list[slice]:
    """Slices of so many rows, the last of what is left."""
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def _placed(elements: Bytes2D) -> tuple[bytes, Table]:
    """A fresh seed, and the elements in the bins that it gives them."""
    count = bin_count(len(elements))
    for _ in range(_ATTEMPTS):
        seed = os.urandom(SEED_BYTES)
        try:
            return seed, place(bins_of(elements, seed, count), count)
        except NoPlace:
            continue
    raise CryptoError("elements of the alignment find no place in their bins; are there equal ones?")


def _hashed(
    rows: Bytes2D, bins: NDArray[np.int64], functions: NDArray[np.uint8] | int, part: int, width: int
) -> Bytes2D:
    """H of each row, its bin and the function that led there."""
    size = rows.shape[1]
    told = np.empty((len(rows), size + 8), np.uint8)
    told[:, :size] = rows
    told[:, size:] = (bins * FUNCTIONS + functions).astype("<u8").reshape(-1, 1).view(np.uint8)
    return hash_rows(told, width, person=b"vfloprf1" + part.to_bytes(8, "little"))


def checked_rows(rows: Bytes2D, count: int, width: int, sender: str) -> Bytes2D:
    """Received rows: as many and as wide as is due."""
    if rows.shape != (count, width):
        raise RemoteProtocolError(
            f"{sender} sent rows of shape {rows.shape} for the alignment, expected {(count, width)}"
        )
    return rows
