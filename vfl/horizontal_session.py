"""Being written."""

from __future__ import annotations

from typing import Any

from vfl.events import RoleResult


def play_party(*_: Any, **__: Any) -> RoleResult:
    """Being written."""
    raise NotImplementedError


def play_coordinator(*_: Any, **__: Any) -> RoleResult:
    """Being written."""
    raise NotImplementedError
