"""What a role's run says of itself while it goes on: phases with their seconds, and rounds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from vfl.events import Event, Report


@dataclass(slots=True)
class Clock:
    """Seconds per phase, and the events that announce phases and rounds."""

    role: str
    report: Report
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Announce and time one phase."""
        self.report(Event(self.role, name))
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def progress(self, rounds: int, loss: float | None) -> None:
        """Announce one round of the training."""
        self.report(Event(self.role, "training", rounds, loss))

    def part(self, done: int, parts: int) -> None:
        """Announce one part of the alignment."""
        self.report(Event(self.role, "aligning", done, parts=parts))
