"""Where CPU time goes: functions are watched where they are looked up, every second counts once.

A thread's time belongs to the innermost watched function that it is in, and apart from that to the kernel or not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.glm import KernelTime
from vfl.events import Event

Spent = dict[tuple[str, bool], float]
Watched = tuple[tuple[Any, str, str], ...]
"""Owner, name and work of functions."""

OTHER = "the rest"


class WorkTime(KernelTime):
    """CPU seconds by work and by whether the kernel did them, over all threads."""

    def __init__(self, kernel: str, watched: Watched) -> None:
        super().__init__(kernel)
        self._now = threading.local()
        for owner, name, work in watched:
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


class Marks:
    """A callback that notes time, CPU time and work at the end of every tree, or epoch, of one party."""

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
        """Return the seconds of every tree, or epoch."""
        return [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]


def print_split(marks: Marks, titles: Mapping[str, str], unit: str) -> None:
    """Print CPU seconds per tree, or epoch, by work, the first one left out; the lines add up to the total."""
    trees = len(marks.cpu) - 2
    total = (marks.cpu[-1] - marks.cpu[1]) / trees
    first, last = marks.work[1], marks.work[-1]
    spent = {at: (seconds - first.get(at, 0.0)) / trees for at, seconds in last.items()}
    kernel = sum(seconds for (_, inside), seconds in spent.items() if inside)
    spent[OTHER, False] = total - sum(spent.values())
    print(
        f"  in one process on one thread: {total:.3f} s of CPU {unit} (without the first), {kernel / total:.1%} of it "
        "in the kernel"
    )
    sums = 0.0
    for work, title in titles.items():
        inside, outside = spent.get((work, True), 0.0), spent.get((work, False), 0.0)
        sums += inside + outside
        print(
            f"    {title:38s} {inside + outside:8.4f} s {(inside + outside) / total:7.1%}   kernel {inside:8.4f} s, "
            f"else {outside:8.4f} s"
        )
    print(f"    {'in all':38s} {sums:8.4f} s {sums / total:7.1%}   kernel {kernel:8.4f} s, else {sums - kernel:8.4f} s")
