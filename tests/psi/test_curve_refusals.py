"""Arguments that do not fit are refused, by the C functions too, which write nothing then."""

from __future__ import annotations

import numpy as np
import pytest

from parties.errors import CryptoError
from psi import curve_ifma

needs_ifma = pytest.mark.skipif(
    curve_ifma.why_not_ifma() is not None, reason=f"X25519 in C: {curve_ifma.why_not_ifma()}"
)
NEVER = (-1, -(2**63), 2**62, 2**63 - 1)  # no array has so many rows
refused = pytest.raises(CryptoError, match="Curve")


class Elsewhere:
    """What the library says on another processor."""

    def vfl_curve25519_supported(self) -> int:
        return 0


@needs_ifma
@pytest.mark.parametrize("count", NEVER)
def test_the_library_refuses_counts(count: int) -> None:
    rows, out = np.full((2, 32), 9, np.uint8), np.zeros((2, 32), np.uint8)
    found = curve_ifma.library()
    assert found is not None
    assert found.vfl_curve25519_multiply(out.ctypes.data, rows.ctypes.data, bytes(32), count) == 1
    assert found.vfl_curve25519_map(out.ctypes.data, rows.ctypes.data, count) == 1
    assert not out.any()


@needs_ifma
def test_a_refusal_is_an_error() -> None:
    with pytest.raises(CryptoError, match="Curve: map refused its arguments"):
        curve_ifma._call("map", 0, 0, -1)


@needs_ifma
def test_nothing_to_do() -> None:
    found = curve_ifma.library()
    assert found is not None
    assert found.vfl_curve25519_multiply(0, 0, bytes(32), 0) == 0
    assert found.vfl_curve25519_map(0, 0, 0) == 0


@needs_ifma
@pytest.mark.parametrize("length", [0, 31, 33])
def test_scalars_of_another_length(length: int) -> None:
    with refused:
        curve_ifma.multiply(np.full((2, 32), 9, np.uint8), bytes(length))


@needs_ifma
@pytest.mark.parametrize(
    "rows",
    [np.zeros((2, 31), np.uint8), np.zeros((2, 33), np.uint8), np.zeros(64, np.uint8), np.zeros((2, 32), np.int8)],
    ids=["narrow", "wide", "flat", "signed"],
)
def test_rows_of_another_shape(rows: np.ndarray) -> None:
    with refused:
        curve_ifma.multiply(rows, bytes(32))
    with refused:
        curve_ifma.map_to_curve(rows)


def test_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_ifma, "library", Elsewhere)
    assert curve_ifma.why_not_ifma() == "this processor has no AVX-512 IFMA"


def test_another_processor_needs_no_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library has none for it."""
    monkeypatch.setattr(curve_ifma, "native", lambda name, interface: Elsewhere())
    curve_ifma.library.cache_clear()
    try:
        assert curve_ifma.why_not_ifma() == "this processor has no AVX-512 IFMA"
    finally:
        curve_ifma.library.cache_clear()
