"""How many expensive operations this process has done; the run report prints them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class OperationCounts:
    """Ciphertexts made, opened and re-randomised; subtract two snapshots to count a stretch of work."""

    encryptions: int = 0
    decryptions: int = 0
    rerandomisations: int = 0

    def __sub__(self, earlier: OperationCounts) -> OperationCounts:
        return OperationCounts(*(getattr(self, field.name) - getattr(earlier, field.name) for field in fields(self)))


_lock = threading.Lock()
_total = OperationCounts()


def operation_counts() -> OperationCounts:
    """Return what this process has done since it started, over all threads and keys.

    Examples
    --------
    >>> before = operation_counts()
    >>> operation_counts() - before
    OperationCounts(encryptions=0, decryptions=0, rerandomisations=0)
    """
    return _total


def record(*, encryptions: int = 0, decryptions: int = 0, rerandomisations: int = 0) -> None:
    """Add to the counts."""
    global _total
    with _lock:
        _total = OperationCounts(
            _total.encryptions + encryptions,
            _total.decryptions + decryptions,
            _total.rerandomisations + rerandomisations,
        )
