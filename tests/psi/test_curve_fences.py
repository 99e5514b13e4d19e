"""The C functions touch no byte before or behind their arrays: they lie between pages that must not be touched.

The calls are made in a process of its own, which the first stray access ends.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from psi import curve_ifma
from tests.paillier.test_ifma_fences import SIDES, fenced

ROOT = Path(__file__).parents[2]
COUNTS = (1, 2, 7, 8, 9, 17, 65, 127, 128, 129, 255, 257)

pytestmark = pytest.mark.skipif(
    curve_ifma.why_not_ifma() is not None, reason=f"X25519 in C: {curve_ifma.why_not_ifma()}"
)


def call(name: str, *arrays: np.ndarray, count: int) -> None:
    """Call a C function by the addresses of arrays."""
    addresses = [array.__array_interface__["data"][0] for array in arrays]
    assert getattr(curve_ifma.library(), f"vfl_curve25519_{name}")(*addresses, count) == 0


def all_between_fences() -> None:
    """Both functions write between fences what they write without."""
    rng = np.random.default_rng(1)
    for count in COUNTS:
        rows, scalar = rng.integers(0, 256, (count, 32), np.uint8), rng.integers(0, 256, (1, 32), np.uint8)
        products, mapped = curve_ifma.multiply(rows, scalar.tobytes()), curve_ifma.map_to_curve(rows)
        for side in SIDES:
            inside, key, out = fenced(rows, side), fenced(scalar, side), fenced(np.zeros_like(rows), side)
            call("multiply", out, inside, key, count=count)
            assert np.array_equal(out, products)
            call("map", out, inside, count=count)
            assert np.array_equal(out, mapped)
    print("all between fences")


def one_behind() -> None:
    """What a stray access does: the process ends here."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    call("map", np.zeros((9, 32), np.uint8), fenced(np.zeros((8, 32), np.uint8), "behind"), count=9)


TASKS: dict[str, Callable[[], None]] = {"all": all_between_fences, "beyond": one_behind}


def in_a_process(task: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.psi.test_curve_fences", task]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_nothing_outside_the_arrays_is_touched() -> None:
    done = in_a_process("all")
    assert (done.returncode, done.stdout.strip()) == (0, "all between fences"), done.stderr


def test_a_fence_would_notice() -> None:
    assert in_a_process("beyond").returncode == -signal.SIGSEGV


if __name__ == "__main__":
    TASKS[sys.argv[1]]()
