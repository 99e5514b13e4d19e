"""Where the time of a role's main thread goes: waiting for others, and what it takes to send and to receive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter


@dataclass(slots=True)
class Stopwatch:
    """Seconds of one role, from its first message on.

    Attributes
    ----------
    waiting : float, seconds
        Blocked until a frame came.
    wire : float, seconds
        Encoding, sealing, hashing and sending, and the way back.
    """

    waiting: float = 0.0
    wire: float = 0.0
    _begun: float | None = None

    @property
    def total(self) -> float:
        """Seconds since the first message."""
        return 0.0 if self._begun is None else perf_counter() - self._begun

    @contextmanager
    def on_the_wire(self) -> Iterator[None]:
        """Count what is done inside, less what is waited there."""
        start, waited = perf_counter(), self.waiting
        self._begun = start if self._begun is None else self._begun
        try:
            yield
        finally:
            self.wire += perf_counter() - start - (self.waiting - waited)

    @contextmanager
    def waits(self) -> Iterator[None]:
        """Count what is waited inside; nothing before the first message."""
        start = perf_counter()
        try:
            yield
        finally:
            if self._begun is not None:
                self.waiting += perf_counter() - start

    def split(self, kernel: float) -> dict[str, float]:
        """Seconds by what was done, of which so many in the kernel of the encryption; they add up to ``total``."""
        total = self.total
        python = max(total - self.waiting - self.wire - kernel, 0.0)
        return {"kernel": kernel, "python": python, "wire": self.wire, "waiting": self.waiting}
