"""What `paillier.py` gives every library to do: the same sizes, the same matrices, one clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROWS, COLUMNS = 2000, 16
FEATURES, BINS = 32, 16
ADDED = 20_000
SLOT_BITS = 80  # a gradient of 64 bits, the sum of 2^16 of them
SAMPLED = 2  # columns that slow peers work out of all; their work is linear in columns
KEYS = 4  # how long a key takes to find is a matter of luck: the mean of so many
LEAST_SECONDS = 0.5

Figures = dict[str, float]


@dataclass(frozen=True)
class Clock:
    """Takes the fastest of several rounds: at least ``rounds``, and more while they are short."""

    now: Callable[[], float]
    rounds: int

    def once(self, work: Callable[[], object]) -> float:
        """Return the seconds of one call."""
        start = self.now()
        work()
        return self.now() - start

    def best(self, work: Callable[[], object], rounds: int = 0) -> float:
        """Return the seconds of the fastest call."""
        times: list[float] = []
        while len(times) < (rounds or self.rounds) or (not rounds and sum(times) < LEAST_SECONDS):
            times.append(self.once(work))
        return min(times)

    def rate(self, count: int, work: Callable[[], object]) -> float:
        """Return how many of the ``count`` things that one call does are done in a second."""
        return count / self.best(work)

    def mean(self, work: Callable[[], object], count: int) -> float:
        """Return the seconds of a call, over ``count`` calls."""
        return self.once(lambda: [work() for _ in range(count)]) / count


def clock(cores: int, rounds: int, *, own_threads: bool = False) -> Clock:
    """Return a clock of wall time for several cores, else of CPU time: the thread's, or all ``own_threads``'."""
    now = time.perf_counter if cores > 1 else time.process_time if own_threads else time.thread_time
    return Clock(now, rounds)


def dense_matrix() -> NDArray[np.int64]:
    """Return X of shape (ROWS, COLUMNS) with entries of 16 bits."""
    return np.random.default_rng(0).integers(-(2**15), 2**15, (ROWS, COLUMNS))


def one_hot_matrix() -> NDArray[np.int64]:
    """Return standardised one-hot columns, shape (ROWS, COLUMNS): two values each, one of them rare."""
    return np.where(np.random.default_rng(1).random((ROWS, COLUMNS)) < 0.1, 98304, -10923)


def residuals() -> NDArray[np.int64]:
    """Return r of shape (ROWS,), 20 bits and a sign."""
    return np.random.default_rng(2).integers(-(2**20), 2**20, ROWS)


def bins() -> NDArray[np.int64]:
    """Return the bin of every row and feature, shape (ROWS, FEATURES)."""
    return np.random.default_rng(3).integers(0, BINS, (ROWS, FEATURES))


def histogram(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sum of the values in every bin of every feature, shape (FEATURES, BINS), to check results by."""
    return np.array([[values[column == b].sum() for b in range(BINS)] for column in bins().T])
