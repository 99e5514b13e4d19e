"""The C code of ``curve25519.c``, and whether this process computes with it."""

from __future__ import annotations

import ctypes
import os
from functools import cache

import numpy as np

from parties.errors import ConfigError, CryptoError
from parties.wire import Bytes2D
from psi.native import native

_INTERFACE = 1  # as in curve25519.c
_BYTES = 32
_CHOICES = ("ifma", "gmpy2")


@cache
def library() -> ctypes.CDLL | None:
    """Return the C code, if it was built; on another processor it has nothing but the answer that it has nothing."""
    found = native("curve25519", _INTERFACE)
    if found is not None and found.vfl_curve25519_supported():
        a, n = ctypes.c_void_p, ctypes.c_int64
        found.vfl_curve25519_multiply.argtypes = [a, a, a, n]
        found.vfl_curve25519_map.argtypes = [a, a, n]
    return found


def why_not_ifma() -> str | None:
    """Say why the C code can't be used here; None if it can."""
    found = library()
    if found is None:
        return "the C code of psi is not built"
    return None if found.vfl_curve25519_supported() else "this processor has no AVX-512 IFMA"


def use_ifma() -> bool:
    """Whether this process computes points in C: where it can, unless ``VFL_KERNEL`` says "gmpy2".

    Raises
    ------
    ConfigError
        ``VFL_KERNEL`` names a kernel that does not exist, or "ifma" where it can't work.
    """
    name, obstacle = os.environ.get("VFL_KERNEL"), why_not_ifma()
    if not name:
        return obstacle is None
    if name not in _CHOICES:
        raise ConfigError(f"VFL_KERNEL: no kernel named {name!r}; choose one of: {', '.join(_CHOICES)}.")
    if name == "ifma" and obstacle:
        raise ConfigError(f"VFL_KERNEL: ifma can't be used here: {obstacle}. Unset it or choose gmpy2.")
    return name == "ifma"


def multiply(points: Bytes2D, scalar: bytes) -> Bytes2D:
    """Return every u of ``scalar``, clamped, times a point; zero for points of low order."""
    if len(scalar) != _BYTES:
        raise CryptoError("Curve: a scalar has 32 bytes.")
    rows, out = _rows(points), np.empty(points.shape, np.uint8)
    _call("multiply", out.ctypes.data, rows.ctypes.data, scalar, len(rows))
    return out


def map_to_curve(elements: Bytes2D) -> Bytes2D:
    """Return the u that Elligator 2 gives for every row, reduced."""
    rows, out = _rows(elements), np.empty(elements.shape, np.uint8)
    _call("map", out.ctypes.data, rows.ctypes.data, len(rows))
    return out


def _rows(rows: Bytes2D) -> Bytes2D:
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != _BYTES:
        raise CryptoError("Curve: points are rows of 32 bytes.")
    return np.ascontiguousarray(rows)


def _call(name: str, *arguments: int | bytes) -> None:
    if getattr(library(), f"vfl_curve25519_{name}")(*arguments):
        raise CryptoError(f"Curve: {name} refused its arguments (a count is out of range).")
