"""How long a thread was inside this package; the run report prints it beside what else the thread did."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from time import perf_counter
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class _Own(threading.local):
    """Of the present thread."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.inside = False


_own = _Own()


def kernel_seconds() -> float:
    """Return the seconds that the present thread has been inside this package's operations.

    What other threads do for it meanwhile, such as a pool's, adds nothing.

    Examples
    --------
    >>> before = kernel_seconds()
    >>> kernel_seconds() - before
    0.0
    """
    return _own.seconds


def timed(operation: Callable[P, R]) -> Callable[P, R]:
    """Count the seconds of an operation; one that another operation calls is part of that one."""

    @wraps(operation)
    def counted(*args: P.args, **kwargs: P.kwargs) -> R:
        if _own.inside:
            return operation(*args, **kwargs)
        start, _own.inside = perf_counter(), True
        try:
            return operation(*args, **kwargs)
        finally:
            _own.inside = False
            _own.seconds += perf_counter() - start

    return counted
