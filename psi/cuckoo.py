"""Cuckoo hashing with three hash functions and no stash: every element in one of its three bins, one to a bin.

Source: Pagh and Rodler 2004, "Cuckoo hashing"; three functions: Fotakis, Pagh, Sanders and Spirakis 2005, "Space
efficient hash tables with worst case constant access time". The three bins of an element differ. They follow from a
seed, so that whoever knows it finds them, element by element.

How many bins. n elements cannot be placed exactly where some k of them have at most k - 1 bins among them (Hall). Of
the smallest such sets, the bins are exactly k - 1, and each is met at least twice: without an element that alone meets
a bin, the set would be smaller. With m bins one such set therefore exists with probability at most

    sum over k of  C(n, k) C(m, k - 1) w(k) / (m (m - 1) (m - 2))^k,
    w(k) = the smaller of  (3k)! [z^3k] (e^z - 1 - z)^(k - 1)  and  ((k - 1) (k - 2) (k - 3))^k,

the ways in which 3k throws hit all of k - 1 bins twice or more, and those in which k elements take three bins each out
of k - 1; no k below 4 counts. The first is at most (3k)! (e^z - 1 - z)^(k - 1) / z^3k for every z > 0. For `bin_count`
the sum stays below 2^-40 (the tests work it out).

>>> elements = np.random.default_rng(0).integers(0, 256, (1000, 32), np.uint8)
>>> table = place(bins_of(elements, bytes(32), bin_count(1000)), bin_count(1000))
>>> sorted(table.elements[table.elements != EMPTY].tolist()) == list(range(1000))
True
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parties.wire import Bytes2D
from psi.prf import expanded

FUNCTIONS = 3
EMPTY = -1
_ROUNDS = 1000


class NoPlace(Exception):
    """Some elements found no bin; with other hash functions they do."""


@dataclass(frozen=True)
class Table:
    """Who is where.

    Parameters
    ----------
    elements : ndarray of shape (bins,), int64
        The element in each bin, or `EMPTY`.
    functions : ndarray of shape (n,), uint8
        By which function, 0 to 2, each element has its bin.
    """

    elements: NDArray[np.int64]
    functions: NDArray[np.uint8]


def bin_count(count: int) -> int:
    """Bins for so many elements: some element finds no place with probability below 2^-40.

    Up to 200 elements, four that share their three bins decide; above, sets of nearly two thirds of all.
    """
    return max(math.ceil(1.297 * count) + 40, math.ceil(31 * math.pow(count, 4 / 9)))


def bins_of(elements: Bytes2D, seed: bytes, count: int) -> NDArray[np.int64]:
    """The three different bins of every element, of ``count``; shape (n, 3)."""
    draws = expanded(elements, seed, b"bins", 24).view("<u8")
    # 64 bits modulo fewer than 2^32 bins are even to 2^-32.
    first, second, third = (draws[:, i] % np.uint64(count - i) for i in range(FUNCTIONS))
    second += second >= first
    third += third >= np.minimum(first, second)
    third += third >= np.maximum(first, second)
    return np.stack([first, second, third], axis=1).view(np.int64)


def place(bins: NDArray[np.int64], count: int) -> Table:
    """Put every element into one of its bins.

    All that have none move in at once; who was there, or came to the same bin and lost it, tries another of its own.

    Parameters
    ----------
    bins : ndarray of shape (n, 3), int64
        From `bins_of`.
    count : int
        How many bins there are.

    Raises
    ------
    NoPlace
    """
    rng = np.random.default_rng()  # where elements stand stays at home
    table = np.full(count, EMPTY, np.int64)
    functions = np.zeros(len(bins), np.uint8)
    homeless = np.arange(len(bins))
    for _ in range(_ROUNDS):
        if not len(homeless):
            return Table(table, functions)
        chosen = bins[homeless, functions[homeless]]
        evicted = table[chosen]
        table[chosen] = homeless
        moved_in = table[chosen] == homeless
        evicted = evicted[moved_in]
        homeless = np.concatenate([evicted[evicted != EMPTY], homeless[~moved_in]])
        functions[homeless] = (functions[homeless] + rng.integers(1, FUNCTIONS, len(homeless), np.uint8)) % FUNCTIONS
    raise NoPlace
