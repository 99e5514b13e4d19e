"""Being written."""

from __future__ import annotations

from typing import Any

from vfl.glm import Fit


def coordinator(*_: Any, **__: Any) -> Fit:
    """Being written."""
    raise NotImplementedError
