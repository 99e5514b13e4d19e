"""An oblivious key-value store: a table from which each key gives its value, and which shows nobody which keys it has.

Source: Garimella, Pinkas, Rosulek, Trieu and Yanai, "Oblivious Key-Value Stores and Amplification for Private Set
Intersection" (CRYPTO 2021), section 4.2: three hash functions, peeling, and dense columns for what does not peel.

The table has three parts of M cells and 64 dense rows. A seed, drawn without a look at the keys, gives every key one
cell of each part and 64 bits; its value is the exclusive or of the three cells and of the dense rows where the bits
are one. Encoding solves these equations: a key alone in some cell is taken out, that cell will hold what makes its
equation true (peeling, the last taken out is filled first); what is left in the end, the core, goes to the dense rows.

*What the table shows*: nothing. The equations have full rank, and what they leave open is filled from the operating
system's randomness, so that tables and pairs (values, open cells) correspond one to one: to whom the values are
uniform the table is uniform, whatever the keys are. The seed is fixed first, and there is no second attempt.

*Failure*. Every cell that a core touches is touched by two of its keys or more. For k given keys and one part of M
cells this has the probability

    q(k, M) = k! [z^k] (e^z - z)^M / M^k  <=  k! (e^r - r)^M / (M r)^k    for every r > 0

so that a core of more than 23 of n keys has at most the probability sum over k > 23 of C(n, k) q(k, M)^3, which is
below 2^-41 for M = max(0.53 n, 5.7 n^(2/3)) (the tests compute it). The bits of up to 23 keys are linearly dependent
with probability below 2^(23 - 64) = 2^-41. Together: encoding fails with probability below 2^-40.

>>> keys, values = (np.frombuffer(os.urandom(64 * 100), np.uint8).reshape(100, 64)[:, part] for part in (
...     slice(0, 32), slice(32, 64)))
>>> seed = os.urandom(32)
>>> bool((decode(seed, keys, encode(seed, keys, values), len(keys)) == values).all())
True
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parties.errors import CryptoError
from parties.wire import Bytes2D
from psi.prf import expanded

DENSE = 64
CORE = 23

_BLOCK = 1 << 15
_PARTS = 3
_Words = NDArray[np.uint64]
_Indices = NDArray[np.int64]


@dataclass(frozen=True)
class _Equations:
    """Where each key stands: ``cells`` int64 of shape (3, n), rows of the table; ``bits`` uint64 of shape (n,)."""

    cells: _Indices
    bits: _Words


def part_cells(keys: int) -> int:
    """Cells of each of the three parts of a table for so many keys."""
    return max(1, math.ceil(0.53 * keys), math.ceil(5.7 * math.pow(keys, 2 / 3)))


def table_rows(keys: int) -> int:
    """Rows of the table for so many keys."""
    return _PARTS * part_cells(keys) + DENSE


def encode(seed: bytes, keys: Bytes2D, values: Bytes2D) -> Bytes2D:
    """A table that gives each key its value.

    Parameters
    ----------
    seed : bytes
        32, chosen without regard to the keys; not secret.
    keys : ndarray of shape (n, 16 or more), uint8
        The first 16 bytes are distinct.
    values : ndarray of shape (n, width), uint8

    Returns
    -------
    ndarray of shape (table_rows(n), width), uint8

    Raises
    ------
    CryptoError
        With probability below 2^-40 over seeds.
    """
    equations = _equations(seed, keys, part_cells(len(keys)))
    cells = table_rows(len(keys)) - DENSE
    rounds, core = _peel(equations.cells, cells)
    width = values.shape[1]
    wanted = _as_words(values)
    table = np.zeros((cells, wanted.shape[1]), np.uint64)
    free = np.ones(cells, bool)
    for _, filled in rounds:
        free[filled] = False
    table[free] = _random_words(int(free.sum()), width)
    dense = _random_words(DENSE, width)
    _solve(equations.bits[core], wanted[core] ^ _sum_of_cells(equations.cells[:, core], table), dense)
    _add_dense(wanted, equations.bits, dense)
    for items, filled in reversed(rounds):
        table[filled] = wanted[items] ^ _sum_of_cells(equations.cells[:, items], table)
    return np.concatenate([_as_bytes(table, width), _as_bytes(dense, width)])


def decode(seed: bytes, keys: Bytes2D, table: Bytes2D, count: int) -> Bytes2D:
    """What a table with ``count`` keys gives for these ``keys``: uint8 of shape (len(keys), width).

    A key that was not encoded gives a value that says nothing.
    """
    words, width = _as_words(table), table.shape[1]
    cells, dense = words[:-DENSE], words[-DENSE:]
    found = np.empty((len(keys), width), np.uint8)
    for start in range(0, len(keys), _BLOCK):
        block = slice(start, start + _BLOCK)
        equations = _equations(seed, keys[block], part_cells(count))
        values = _sum_of_cells(equations.cells, cells)
        _add_dense(values, equations.bits, dense)
        found[block] = _as_bytes(values, width)
    return found


def _equations(seed: bytes, keys: Bytes2D, part: int) -> _Equations:
    """Three cells and 64 bits per key, from AES of its first 16 bytes."""
    words = expanded(keys, seed, b"key-value store", 32).view("<u8")
    cells = np.empty((_PARTS, len(keys)), np.int64)
    for number in range(_PARTS):  # 64 bits modulo a small number: even to 2^-30
        cells[number] = words[:, number] % np.uint64(part)
        cells[number] += number * part
    return _Equations(cells, np.ascontiguousarray(words[:, 3]))


def _peel(cells: _Indices, count: int) -> tuple[list[tuple[_Indices, _Indices]], _Indices]:
    """Keys taken out round by round, each with the cell that it was alone in; then those that are left, the core."""
    keys = cells.shape[1]
    degree = np.bincount(cells.ravel(), minlength=count).astype(np.int32)
    total = np.zeros(count, np.int64)  # sum of the keys in a cell: where it is one, the key itself
    for row in cells:
        total += np.bincount(row, weights=np.arange(keys), minlength=count).astype(np.int64)
    taken = np.full(keys, -1, np.int64)
    rounds = []
    alone = np.flatnonzero(degree == 1)
    while len(alone):
        items = total[alone]
        places = np.arange(len(items))
        taken[items] = places  # a key alone in two cells is taken out once
        once = taken[items] == places
        items, filled = items[once], alone[once]
        rounds.append((items, filled))
        touched = cells[:, items]
        np.subtract.at(degree, touched.ravel(), np.int32(1))
        for row in touched:
            np.subtract.at(total, row, items)
        touched = touched.ravel()
        alone = touched[degree[touched] == 1]
    return rounds, np.flatnonzero(taken < 0)


def _solve(bits: _Words, wanted: _Words, dense: _Words) -> None:
    """Change random dense rows so that the keys of the core get what they want: Gauss-Jordan over GF(2)."""
    rows, values = [int(word) for word in bits], wanted.copy()
    pivots: list[int] = []
    for i in range(len(rows)):
        if not rows[i]:
            raise CryptoError("a key-value store cannot be solved, which happens once in 2^40 runs; run it again")
        pivots.append(rows[i].bit_length() - 1)
        for j in range(len(rows)):
            if j != i and rows[j] >> pivots[i] & 1:
                rows[j] ^= rows[i]
                values[j] ^= values[i]
    dense[pivots] = 0
    solved = values ^ _dense_sums(rows, dense)
    dense[pivots] = solved


def _dense_sums(rows: list[int], dense: _Words) -> _Words:
    """The exclusive or of the dense rows that each of a few rows of bits selects."""
    sums = np.zeros((len(rows), dense.shape[1]), np.uint64)
    for i, row in enumerate(rows):
        chosen = [bit for bit in range(DENSE) if row >> bit & 1]
        sums[i] = np.bitwise_xor.reduce(dense[chosen], axis=0)
    return sums


def _add_dense(values: _Words, bits: _Words, dense: _Words) -> None:
    """Add to each row, in place, the dense rows that its bits select: eight at a time, from tables of 256 sums."""
    tables = []
    for start in range(0, DENSE, 8):
        sums = np.zeros((1, dense.shape[1]), np.uint64)
        for row in dense[start : start + 8]:
            sums = np.concatenate([sums, sums ^ row])
        tables.append(sums)
    for start in range(0, len(values), _BLOCK):
        block = slice(start, start + _BLOCK)
        selected = bits[block].astype("<u8").view(np.uint8).reshape(-1, 8)
        for number, sums in enumerate(tables):
            values[block] ^= sums[selected[:, number]]


def _sum_of_cells(cells: _Indices, table: _Words) -> _Words:
    total: _Words = table[cells[0]]
    for row in cells[1:]:
        total ^= table[row]
    return total


def _random_words(rows: int, width: int) -> _Words:
    """Rows of random bytes as words, the bytes beyond ``width`` zero."""
    return _as_words(np.frombuffer(os.urandom(rows * width), np.uint8).reshape(rows, width))


def _as_words(rows: Bytes2D) -> _Words:
    """Rows of bytes as rows of 64-bit words, the last filled up with zeros."""
    padded = np.zeros((len(rows), -(-rows.shape[1] // 8) * 8), np.uint8)
    padded[:, : rows.shape[1]] = rows
    return padded.view(np.uint64)


def _as_bytes(words: _Words, width: int) -> Bytes2D:
    return words.view(np.uint8)[:, :width]
