"""The C code of ``ifma.c``, through ctypes: no Python headers are needed to build it, and no lock is held in it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from parties.errors import CryptoError
from vfl.paillier.rows import Rows

Words = NDArray[np.uint64]

_INTERFACE = 1  # as in ifma.c
_REFUSED = 1
SIGNATURES = {  # of the C functions: a an address, n a number
    "multiply_pairs": "aaanaanan",
    "segment_products": "aanannanaaan",
    "take_logarithms": "aaaan",
    "add_plaintexts": "aaaan",
    "fixed_base": "aaanan",
    "power": "aaanannn",
    "square": "aaann",
    "enter": "aaanan",
    "leave": "aaann",
    "from_bytes": "anann",
    "to_bytes": "anann",
    "ceiling": "n",
}


@cache
def library() -> ctypes.CDLL | None:
    """Return the C code that setuptools built beside this file, if it did and it loads."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_ifma{suffix}")
        if path.exists():
            with suppress(OSError, AttributeError):  # of another machine or version, or cut short: as good as not built
                found = ctypes.CDLL(str(path))
                return _with_signatures(found) if found.vfl_ifma_interface() == _INTERFACE else None
    return None


def _with_signatures(library: ctypes.CDLL) -> ctypes.CDLL:
    kinds = {"a": ctypes.c_void_p, "n": ctypes.c_int64}
    for name, signature in SIGNATURES.items():
        getattr(library, f"vfl_ifma_{name}").argtypes = [kinds[kind] for kind in signature]
    return library


def call(name: str, *arguments: NDArray[np.generic] | int) -> None:
    """Call a C function; arrays, which must be contiguous, go as pointers."""
    function = getattr(library(), f"vfl_ifma_{name}")
    status = function(*[x if isinstance(x, int) else _address(x) for x in arguments])
    if status == _REFUSED:
        raise CryptoError(f"Kernel: {name} refused its arguments (an index or a length is out of range).")
    if status:
        raise MemoryError(f"Kernel: no memory for {name}.")


def _address(x: NDArray[np.generic]) -> int:
    if not x.flags.c_contiguous:
        raise CryptoError("Kernel: an array is not contiguous.")
    return int(x.__array_interface__["data"][0])


def digits_from_bytes(body: Rows, digits: int) -> Words:
    """Return rows of bytes as rows of digits."""
    rows = np.ascontiguousarray(body, dtype=np.uint8)
    out = np.empty((len(rows), digits), dtype=np.uint64)
    call("from_bytes", out, digits, rows, rows.shape[1], len(rows))
    return out


def digits_to_bytes(words: Words, width: int) -> Rows:
    """Return rows of digits as rows of bytes."""
    out = np.empty((len(words), width), dtype=np.uint8)
    call("to_bytes", out, width, words, words.shape[1], len(words))
    return out


def multiply_adds_per_second(rounds: int = 1_000_000) -> Callable[[], int]:
    """Return a function that runs its result's number of IFMA instructions and nothing else, for benchmarks."""
    found = library()
    if found is None:
        raise CryptoError("Kernel: the C kernel is not built.")

    def run() -> int:
        found.vfl_ifma_ceiling(rounds)
        return 24 * rounds

    return run
