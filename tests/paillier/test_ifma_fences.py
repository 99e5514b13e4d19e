"""No C function touches a byte before or behind its arrays: they lie between pages that must not be touched.

The calls are made in a process of its own, which the first stray access ends.
"""

from __future__ import annotations

import ctypes
import mmap
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.paillier.test_ifma_cases import (
    LENGTHS,
    Call,
    calls_of_every_function,
    moduli,
    output_of,
    pytestmark,  # noqa: F401
)
from vfl.paillier import ifma_library
from vfl.paillier.ifma_kernel import IfmaKernel

Array = NDArray[np.generic]
ROOT = Path(__file__).parents[2]
COUNTS = (1, 2, 7, 8, 9, 17, 65, 129)
SIDES = ("before", "behind")


def fenced(array: Array, side: str) -> Array:
    """A copy that begins or ends at a page which nobody may touch."""
    page = mmap.PAGESIZE
    size = max(1, -(-array.nbytes // page)) * page
    memory = mmap.mmap(-1, size + 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for at in (start, start + page + size):
        assert protect(ctypes.c_void_p(at), ctypes.c_size_t(page), 0) == 0
    offset = page if side == "before" else page + size - array.nbytes
    copy = np.frombuffer(memory, dtype=array.dtype, count=array.size, offset=offset).reshape(array.shape)
    copy[...] = array
    return copy


def all_between_fences() -> None:
    """Repeat every call that the kernel makes, between fences; it writes what it wrote without."""
    for length in LENGTHS:
        for count in COUNTS:
            for call in calls_of_every_function(moduli(length)[-1], count):
                results = [
                    _repeat(call, lambda x: x.copy()),
                    *(_repeat(call, partial(fenced, side=side)) for side in SIDES),
                ]
                assert all(np.array_equal(results[0], other) for other in results[1:]), call[0]
    print("all between fences")


def _repeat(call: Call, place: Callable[[Array], Array]) -> Array:
    """Call with all arrays placed anew and what is written emptied before; returns what was written."""
    name, arguments = call
    placed = [place(x) if isinstance(x, np.ndarray) else x for x in arguments]
    written = placed[output_of(call)]
    written[...] = 0
    ifma_library.call(name, *placed)
    return written.copy()


def one_behind() -> None:
    """What a stray access does: the process ends here."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    values = fenced(np.zeros((8, 60), np.uint64), "behind")
    kernel, out = IfmaKernel(moduli(30)[-1]), np.zeros((16, 60), np.uint64)
    ifma_library.call("square", kernel._context, out, values, 9, 1)


TASKS: dict[str, Callable[[], None]] = {"all": all_between_fences, "beyond": one_behind}


def in_a_process(task: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.paillier.test_ifma_fences", task]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_nothing_outside_the_arrays_is_touched() -> None:
    done = in_a_process("all")
    assert (done.returncode, done.stdout.strip()) == (0, "all between fences"), done.stderr


def test_a_fence_would_notice() -> None:
    assert in_a_process("beyond").returncode == -signal.SIGSEGV


if __name__ == "__main__":
    TASKS[sys.argv[1]]()
