"""Being written."""

from __future__ import annotations

from typing import Any


def prepare(*_: Any, **__: Any) -> Any:
    """Being written."""
    raise NotImplementedError
