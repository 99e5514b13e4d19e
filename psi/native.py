"""The optional C code of this package, through ctypes: no Python headers to build it, and no lock held in it.

Without it, or where the processor lacks what it needs, the callers compute the same with libraries.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path


@cache
def native(name: str, interface: int) -> ctypes.CDLL | None:
    """Return the library that setuptools built from ``name``.c beside this file, if it did and its interface fits."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_{name}{suffix}")
        if path.exists():
            with suppress(OSError, AttributeError):  # of another machine or version, or cut short: as good as not built
                found = ctypes.CDLL(str(path))
                return found if getattr(found, f"vfl_{name}_interface")() == interface else None
    return None
