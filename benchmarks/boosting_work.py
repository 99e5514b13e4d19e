"""Where the CPU time of boosting goes: functions are watched where they are looked up, every second counts once.

A thread's time belongs to the innermost watched function that it is in, and apart from that to the kernel or not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import vfl.boosting
import vfl.trees.levels
from benchmarks.glm import KernelTime
from parties.link import Link
from vfl.events import Event
from vfl.paillier.obfuscators import Obfuscators, OwnerObfuscators
from vfl.trees.grow import PlainPart

Spent = dict[tuple[str, bool], float]

OTHER = "the rest"
WORK = {
    "encrypt": "encrypt: obfuscators, plaintexts",
    "check": "check: received ciphertexts",
    "rows": "sum: rows into histograms",
    "siblings": "sum: siblings, rows' places",
    "candidates": "sum: candidates",
    "compress": "compress: sums into few ciphertexts",
    "rerandomise": "compress: re-randomise them",
    "decrypt": "decrypt, unpack",
    "wire": "wire: encode, frames, sealing",
    "counts": "python: counts of rows, bins to offer",
    "own": "python: the active party's columns",
    "gains": "python: gains of opened sums",
    OTHER: "python: gradients, scores, the rest",
}
_WATCHED: tuple[tuple[Any, str, str], ...] = (
    *((vfl.boosting, name, "encrypt") for name in ("encrypt", "pack_slots")),
    (OwnerObfuscators, "draw", "encrypt"),
    (Obfuscators, "draw", "rerandomise"),  # passive parties', towards the key's owner; in background threads too
    *((vfl.boosting, name, "check") for name in ("receive_ciphers", "receive_key")),
    (vfl.trees.levels, "sum_rows", "rows"),
    *((vfl.boosting, name, "siblings") for name in ("first_level", "next_level")),
    (vfl.boosting, "candidate_sums", "candidates"),
    *((vfl.boosting, name, name) for name in ("compress", "rerandomise")),
    *((vfl.boosting, name, "decrypt") for name in ("decrypt", "unpack_slots")),
    *((Link, name, "wire") for name in ("send", "recv")),
    *((vfl.boosting, name, "wire") for name in ("send_ciphers", "pack_bits", "unpack_bits")),
    (vfl.trees.levels, "count_rows", "counts"),
    *((vfl.boosting, name, "counts") for name in ("find_candidates", "_shuffled")),
    *((PlainPart, name, "own") for name in ("offer", "choose", "sides")),
    *((vfl.boosting, name, "gains") for name in ("gains_of", "gains_of_groups", "best_of")),
)


class WorkTime(KernelTime):
    """CPU seconds by work and by whether the kernel did them, over all threads."""

    def __init__(self, kernel: str) -> None:
        super().__init__(kernel)
        self._now = threading.local()
        for owner, name, work in _WATCHED:
            setattr(owner, name, self._labelled(work, getattr(owner, name)))

    def so_far(self) -> Spent:
        """Return what has been spent; what is neither kernel nor watched is left out."""
        with self._lock:
            return dict(self.seconds)  # type: ignore[arg-type]

    def _labelled(self, work: str, function: Callable[..., Any]) -> Callable[..., Any]:
        # No functools.wraps: a lambda is bound like the method that it stands for.
        return lambda *arguments, **options: self._spend((work, False), function, arguments, options)

    def _timed(self, name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        work, _ = getattr(self._now, "at", (OTHER, False))
        return self._spend((work, True), function, arguments, options)

    def _spend(self, at: tuple[str, bool], function: Callable[..., Any], arguments: Any, options: Any) -> Any:
        before = getattr(self._now, "at", (OTHER, False))
        self._turn_to(at)
        try:
            return function(*arguments, **options)
        finally:
            self._turn_to(before)

    def _turn_to(self, at: tuple[str, bool]) -> None:
        """Charge the time since the last turn of this thread to what it was at."""
        now, was = time.thread_time(), getattr(self._now, "at", (OTHER, False))
        if was != (OTHER, False):
            with self._lock:
                self.seconds[was] += now - self._now.since  # type: ignore[index]
        self._now.at, self._now.since = at, now


@cache
def work_time(kernel: str) -> WorkTime:
    """Return the one watch of this process: what it watches stays watched."""
    return WorkTime(kernel)


class Marks:
    """A callback that notes time, CPU time and work at the end of every tree of one party."""

    def __init__(self, role: str, watch: WorkTime | None = None) -> None:
        self.times: list[float] = []
        self.cpu: list[float] = []
        self.work: list[Spent] = []
        self._role, self._watch = role, watch

    def __call__(self, event: Event) -> None:
        """Note a training event; the first is the beginning of the training."""
        if (event.role, event.phase) == (self._role, "training"):
            self.times.append(time.perf_counter())
            self.cpu.append(time.process_time())
            if self._watch:
                self.work.append(self._watch.so_far())

    def seconds(self) -> list[float]:
        """Return the seconds of every tree."""
        return [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]


def print_split(marks: Marks) -> None:
    """Print CPU seconds per tree by work, the first tree left out; the lines add up to the total."""
    trees = len(marks.cpu) - 2
    total = (marks.cpu[-1] - marks.cpu[1]) / trees
    first, last = marks.work[1], marks.work[-1]
    spent = {at: (seconds - first.get(at, 0.0)) / trees for at, seconds in last.items()}
    kernel = sum(seconds for (_, inside), seconds in spent.items() if inside)
    spent[OTHER, False] = total - sum(spent.values())
    print(
        f"  in one process on one thread: {total:.3f} s of CPU a tree (without the first), {kernel / total:.1%} of it "
        "in the kernel"
    )
    sums = 0.0
    for work, title in WORK.items():
        inside, outside = spent.get((work, True), 0.0), spent.get((work, False), 0.0)
        sums += inside + outside
        print(
            f"    {title:38s} {inside + outside:8.4f} s {(inside + outside) / total:7.1%}   kernel {inside:8.4f} s, "
            f"else {outside:8.4f} s"
        )
    print(f"    {'in all':38s} {sums:8.4f} s {sums / total:7.1%}   kernel {kernel:8.4f} s, else {sums - kernel:8.4f} s")
