"""Work on many numbers, split evenly over threads.

A kernel's C code runs without the interpreter's lock, so that threads are enough: no process is forked and no value
is copied. ``VFL_THREADS`` sets how many threads a kernel may use; by default as many as this process may run on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from parties.errors import ConfigError

_MOST_THREADS = 256


def thread_count() -> int:
    """Return how many threads a kernel uses in this process.

    Raises
    ------
    ConfigError
        If ``VFL_THREADS`` is not a whole number from 1 to 256.
    """
    asked = os.environ.get("VFL_THREADS")
    if not asked:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _parsed(asked)


@cache
def _parsed(asked: str) -> int:
    if not re.fullmatch("[0-9]{1,3}", asked) or not 1 <= int(asked) <= _MOST_THREADS:
        raise ConfigError(f"VFL_THREADS: got {asked!r}, expected a whole number from 1 to {_MOST_THREADS}.")
    return int(asked)


def even_cuts(count: int, parts: int, multiple: int = 1) -> list[int]:
    """Return cuts of range(count) into at most ``parts`` even ranges that begin at multiples of ``multiple``.

    Examples
    --------
    >>> even_cuts(20, 2, multiple=8), even_cuts(3, 2, multiple=8), even_cuts(0, 2)
    ([0, 8, 20], [0, 3], [0, 0])
    """
    blocks = -(-count // multiple)
    parts = max(1, min(parts, blocks))
    return [min(count, blocks * i // parts * multiple) for i in range(parts)] + [count]


def run_parts(work: Callable[[int, int], None], cuts: Sequence[int]) -> None:
    """Call work(start, stop) for every range between two cuts, side by side; the first error is raised."""
    if len(cuts) == 2:
        return work(*cuts)
    ranges = list(zip(cuts, cuts[1:], strict=False))
    here, others = ranges[:1], []
    for part in ranges[1:]:
        try:
            others.append(_pool(os.getpid()).submit(work, *part))
        except RuntimeError:  # the interpreter is ending: a background thread may still be at work
            here.append(part)
    try:
        for part in here:
            work(*part)
    finally:
        errors = [future.exception() for future in others]
    for error in errors:
        if error is not None:
            raise error


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Return the threads that all kernels of a process share; a forked process makes its own."""
    return ThreadPoolExecutor(max_workers=_MOST_THREADS, thread_name_prefix="kernel")
