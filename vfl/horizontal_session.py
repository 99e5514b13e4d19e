"""Being written."""

from __future__ import annotations

from typing import Any


def play_party(*_: Any, **__: Any) -> Any:
    """Being written."""
    raise NotImplementedError


def play_coordinator(*_: Any, **__: Any) -> Any:
    """Being written."""
    raise NotImplementedError
