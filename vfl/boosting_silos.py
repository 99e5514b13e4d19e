"""Being written."""

from __future__ import annotations

from typing import Any


def coordinator(*_: Any, **__: Any) -> Any:
    """Being written."""
    raise NotImplementedError
