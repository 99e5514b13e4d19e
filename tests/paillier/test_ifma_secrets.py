"""What is done for a power does not depend on its exponent's digits: the same calls of C, and all of them right.

C itself is not watched here: that it reads whole tables and multiplies by ones too is for its readers.
"""

from __future__ import annotations

from collections.abc import Sequence

import gmpy2
import numpy as np
import pytest

from tests.paillier.test_ifma_cases import (
    Call,
    each_length,
    kernel_for,
    moduli,
    pytestmark,  # noqa: F401
    read,
    recorded,
)
from vfl.paillier import obfuscators
from vfl.paillier.ifma_kernel import IfmaKernel

N = (1 << 1024) - 159
BITS = 130


def seen(calls: list[Call]) -> list[tuple[object, ...]]:
    """What somebody sees who sees neither digits nor numbers: names, counts and shapes."""
    return [(name, *(x.shape if isinstance(x, np.ndarray) else x for x in arguments)) for name, arguments in calls]


def powers(kernel: IfmaKernel, bases: list[int], exponents: Sequence[int], e: int | Sequence[int]) -> list[Call]:
    """The calls of one secret power of every base; the powers must be right."""
    values = kernel.pack(bases)
    with recorded() as calls:
        found = kernel.pow_uniform(values, e, secret_bits=1)
    expected = [int(gmpy2.powmod(x, y, kernel.modulus**2)) for x, y in zip(bases, exponents, strict=True)]
    assert read(kernel.modulus, found, 8) == expected
    return calls


def exponents_of(bits: int) -> list[int]:
    """Exponents of exactly so many bits: one bit, all bits, runs of zeros, whole windows of zeros."""
    top = 1 << bits - 1
    return [
        top,
        2 * top - 1,
        top + 1,
        top | 0xF,
        top | 0xF << bits // 2 // 4 * 4,
        top + (top >> 5),
        2 * top - 1 - 0xFF0,
    ]


@each_length
def test_a_shared_secret_exponent(length: int) -> None:
    n = moduli(length)[-1]
    bases = [0, 1, 2, n - 1, n, n * n - 1, 3, 5, 7]
    first = None
    for e in exponents_of(BITS):
        made = seen(powers(kernel_for(n), bases, [e] * len(bases), e))
        first = first or made
        assert made == first
    assert [name for name, *_ in first or []] == ["power"]


@each_length
def test_secret_exponents_of_their_own(length: int) -> None:
    """Zero and one beside long ones: only the longest is seen."""
    n = moduli(length)[-1]
    bases, top = [3, 5, 7, 11, n - 1, n * n - 1, 2, 2, 0], 1 << BITS - 1
    lists = [
        [top, *[0] * 8],
        [*[0] * 8, top],
        [top, *[1] * 8],
        [2 * top - 1] * 9,
        [*exponents_of(BITS), 0, 1],
        [1 << 64, 1 << 63, 15, 16, 17, 255, 256, 0, top],
    ]
    first = None
    for exponents in lists:
        made = seen(powers(kernel_for(n), bases, exponents, exponents))
        first = first or made
        assert made == first


@pytest.mark.parametrize("e", [0, 1, 2, 4, 1 << 40, 3, (1 << 40) - 1])
def test_no_short_cut_for_secret_exponents(e: int) -> None:
    """Powers of two are squarings only where they are public."""
    kernel = kernel_for(N)
    calls = powers(kernel, [2, 3, N - 1], [e] * 3, e)
    assert [name for name, _ in calls] == ["power"]
    with recorded() as public:
        kernel.pow_uniform(kernel.pack([2, 3]), 4)
    assert "square" in [name for name, _ in public]


def test_windows_of_zeros_take_their_time() -> None:
    """C gets every window of every exponent, zeros too."""
    kernel, e = kernel_for(N), 1 << 400
    for exponents in ([e, 0, 1], [2 * e - 1] * 3):
        ((_, arguments),) = powers(kernel, [2, 3, 5], exponents, exponents)
        digits = next(x for x in arguments if isinstance(x, np.ndarray) and x.dtype == np.uint8)
        windows, width = [x for x in arguments if isinstance(x, int)][1:3]
        assert digits.shape == (3, windows)
        assert windows * width >= 401
        assert [sum(d << width * at for at, d in enumerate(row[::-1])) for row in digits.tolist()] == exponents


@each_length
def test_powers_of_a_fixed_base(length: int) -> None:
    n = moduli(length)[-1]
    kernel, base, width, windows = kernel_for(n), n - 2, 4, 10
    table = kernel.window_table(base, width, windows)
    rows = [
        [0] * windows,
        [15] * windows,
        [1, *[0] * (windows - 1)],
        [*[0] * (windows - 1), 1],
        [at % 2 * 15 for at in range(windows)],
    ]
    first = None
    for row in rows:
        with recorded() as calls:
            found = kernel.fixed_base(table, np.array([row] * 3, dtype=np.uint8))
        e = sum(d << width * at for at, d in enumerate(row))
        assert read(n, found, 2) == [int(gmpy2.powmod(base, e, n * n))] * 3
        first = first or seen(calls)
        assert seen(calls) == first
    assert [name for name, *_ in first or []] == ["fixed_base"]


def test_short_exponents_are_gone_through_as_long_ones() -> None:
    """The first powers of h_s, before there is a table: random exponents of which the longest may be short."""
    kernel = kernel_for(N)
    values = kernel.pack([2, 3])
    calls = []
    for exponents in ([0, 1], [5, 2**BITS - 1]):
        with recorded() as made:
            found = kernel.pow_uniform(values, exponents, secret_bits=BITS)
        expected = [2 ** exponents[0], int(gmpy2.powmod(3, exponents[1], N * N))]
        assert read(N, found, 8) == expected
        calls.append(seen([call for call in made if call[0] == "power"]))
    assert calls[0] == calls[1] != []


def test_obfuscators_are_gone_through_as_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for byte in (b"\0", b"\xff"):
        monkeypatch.setattr(obfuscators.secrets, "token_bytes", lambda count, byte=byte: byte * count)
        source = obfuscators.Obfuscators(kernel_for(N), 3, 448, 1024)
        with recorded() as made:
            source.draw(2)
        calls.append(seen([call for call in made if call[0] == "power"]))
    assert calls[0] == calls[1] != []
