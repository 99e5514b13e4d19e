"""Arguments that do not fit are refused, by the C functions too, and nothing is written then."""

from __future__ import annotations

import _ctypes
import shutil
from collections.abc import Callable
from pathlib import Path

import gmpy2
import numpy as np
import pytest

from parties.errors import CryptoError
from tests.paillier.test_ifma_cases import (
    Call,
    calls_of_every_function,
    kernel_for,
    moduli,
    numbers,
    output_of,
    pytestmark,  # noqa: F401
    read,
    rows,
)
from vfl.paillier import ifma_library
from vfl.paillier.ifma_kernel import MOST_BITS, IfmaKernel, why_not_ifma
from vfl.paillier.kernels import everything

N = (1 << 1024) - 159
COUNT = 9
NEVER = (-1, -(2**63), 2**62, 2**63 - 1)  # no array has so many rows
GUARDS = 3  # rows on either side of what a call may write
refused = pytest.raises(CryptoError, match="Kernel")


def index(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


# ---- Through Python ----


@pytest.mark.parametrize("wrong", [COUNT, *NEVER])
@pytest.mark.parametrize("place", range(COUNT))
def test_positions_of_pairs(wrong: int, place: int) -> None:
    """In every lane, left and right."""
    kernel = kernel_for(N)
    values, good = kernel.pack([*range(COUNT)]), np.arange(COUNT)
    bad = good.copy()
    bad[place] = wrong
    for ai, bi in ((bad, good), (good, bad)):
        with refused:
            kernel.mul_pairs(values, ai, values, bi)


def test_each_side_has_a_length_of_its_own() -> None:
    kernel = kernel_for(N)
    few, many = kernel.pack([2, 3]), kernel.pack([5, 7, 11])
    assert kernel.unpack(kernel.mul_pairs(few, index(1), many, index(2))) == [33]
    with refused:
        kernel.mul_pairs(few, index(2), many, index(1))
    with refused:
        kernel.mul_pairs(few, index(1), many, index(3))
    with pytest.raises(CryptoError, match="2 left factors for 3"):
        kernel.mul_pairs(few, index(0, 1), many, index(0, 1, 2))


@pytest.mark.parametrize("wrong", [COUNT, *NEVER])
@pytest.mark.parametrize("uses", [1, 100], ids=["once", "many times"])
def test_positions_in_segments(wrong: int, uses: int) -> None:
    kernel = kernel_for(N)
    values = kernel.pack([*range(1, COUNT + 1)])
    good = np.tile(np.arange(COUNT), uses)
    for place in (0, 4, len(good) - 1):
        bad = good.copy()
        bad[place] = wrong
        for offsets in (index(0, len(good)), np.arange(len(good) + 1), index(0, 0, 3, len(good), len(good))):
            with refused:
                kernel.seg_prod(values, bad, offsets)


def test_positions_in_nothing() -> None:
    kernel = kernel_for(N)
    with refused:
        kernel.seg_prod(kernel.pack([]), index(0), index(0, 1))
    with refused:
        kernel.mul_pairs(kernel.pack([]), index(0), kernel.pack([1]), index(0))


@pytest.mark.parametrize(
    "offsets",
    [[], [0], [1, 4], [0, 3], [0, 5], [0, 3, 2, 4], [0, -1, 4], [4, 0], [-1, 4], [0, 2**62, 4], [0, 4, 5], [-4, 0, 4]],
    ids=str,
)
def test_offsets_that_do_not_ascend(offsets: list[int]) -> None:
    kernel = kernel_for(N)
    with pytest.raises(CryptoError, match="offsets"):
        kernel.seg_prod(kernel.pack([1, 2]), index(0, 1, 0, 1), index(*offsets))


def test_offsets_whose_differences_overflow() -> None:
    kernel = kernel_for(N)
    for offsets in (index(0, 2**63 - 1, -(2**63), 2), index(0, -(2**63), 2**63 - 1, 2)):
        with refused:
            kernel.seg_prod(kernel.pack([1, 2]), index(0, 1), offsets)


@pytest.mark.parametrize("shape", [(6,), (2, 2), (2, 4), (2, 3, 1), (0, 2), (3, 0), ()], ids=str)
def test_shapes_of_digits(shape: tuple[int, ...]) -> None:
    kernel = kernel_for(N)
    table = kernel.window_table(5, 2, 3)
    with pytest.raises(CryptoError, match="digits of shape"):
        kernel.fixed_base(table, np.zeros(shape, dtype=np.uint8))


def test_tables_of_another_length() -> None:
    table = kernel_for(N).window_table(5, 2, 3)
    for n in ((1 << 1500) - 159, (1 << 4096) - 159):
        with refused:
            kernel_for(n).fixed_base(table, np.zeros((1, 3), dtype=np.uint8))


@pytest.mark.parametrize("width", [-1, 0, 9, 64])
def test_widths_of_windows(width: int) -> None:
    with pytest.raises(CryptoError, match=f"windows of {width} bits"):
        kernel_for(N).window_table(5, width, 3)


@pytest.mark.parametrize("secret", [False, True])
@pytest.mark.parametrize("e", [-1, -8, [1, -1, 3], [-(2**64), 2, 3]], ids=str)
def test_negative_exponents(e: int | list[int], secret: bool) -> None:
    with pytest.raises(CryptoError, match="negative exponent"):
        kernel_for(N).pow_uniform(kernel_for(N).pack([2, 3, 5]), e, secret_bits=int(secret))


@pytest.mark.parametrize("secret", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 4, 100])
def test_as_many_exponents_as_numbers(count: int, secret: bool) -> None:
    with pytest.raises(CryptoError, match=f"{count} exponents for 3"):
        kernel_for(N).pow_uniform(kernel_for(N).pack([2, 3, 5]), [1] * count, secret_bits=int(secret))


def test_rows_of_bytes_that_are_too_wide() -> None:
    kernel = kernel_for(N)
    most = 6 * 52 * 20 // 8
    assert kernel.unpack(kernel.from_rows(np.full((2, most), 255, np.uint8))) == [(256**most - 1) % N**2] * 2
    for width in (most + 1, 10 * most):
        with pytest.raises(CryptoError, match=f"rows of {width} bytes"):
            kernel.from_rows(np.zeros((2, width), np.uint8))


@pytest.mark.parametrize("number", [-1, 256**256, 2**5000])
def test_numbers_that_fit_no_row(number: int) -> None:
    with pytest.raises(OverflowError):
        kernel_for(N).pack([1, number])


def test_positions_of_every_kind_of_integer() -> None:
    """They are the same positions, whatever array they came in; those that no int64 holds are refused."""
    kernel = kernel_for(N)
    values = kernel.pack([2, 3, 5, 7])
    for kind in (np.int8, np.uint8, np.int32, np.uint64, ">i8"):
        idx = np.array([3, 0, 1, 2], dtype=kind)
        assert kernel.unpack(kernel.mul_pairs(values, idx, values, idx)) == [49, 4, 9, 25]
        assert kernel.unpack(kernel.seg_prod(values, idx, np.array([0, 1, 4], dtype=kind))) == [7, 30]
    with refused:
        kernel.mul_pairs(values, np.array([2**64 - 1], dtype=np.uint64), values, index(0))
    with refused:
        kernel.seg_prod(values, np.array([2**63], dtype=np.uint64), index(0, 1))


def test_arrays_of_any_order_in_memory() -> None:
    """Strided and Fortran-ordered views are taken as what they show."""
    kernel = kernel_for(N)
    pairs = [(at, 8 * N - 1 - at) for at in range(12)]
    values, stand_for = rows(N, pairs), numbers(N, pairs)
    wide = np.zeros((24, 2 * values.shape[1]), dtype=np.uint64)
    wide[::2, ::2] = values
    views = [np.asfortranarray(values), wide[::2, ::2], values[::-1][::-1], np.repeat(values, 2, axis=0)[::2]]
    idx = np.repeat(np.arange(12), 3)[::3]
    assert not idx.flags.c_contiguous
    digits = np.asfortranarray(np.arange(24, dtype=np.uint8).reshape(12, 2) % 4)
    powers = [int(gmpy2.powmod(3, int(low) + 4 * int(high), N * N)) for low, high in digits]
    assert kernel.unpack(kernel.fixed_base(kernel.window_table(3, 2, 2), digits)) == powers
    for view in views:
        assert kernel.unpack(view) == stand_for
        assert read(N, kernel.mul_pairs(view, idx, view, idx[::-1])) == [
            x * y % N**2 for x, y in zip(stand_for, stand_for[::-1], strict=True)
        ]
        assert read(N, kernel.pow_uniform(view, 2)) == [x * x % N**2 for x in stand_for]
        assert kernel.logarithms(view) == kernel.logarithms(values)


# ---- What Python hands to C must be rows of the kernel's own width ----


def others() -> dict[str, np.ndarray]:
    """Arrays that are no values of the kernel, all of them inside larger memory, so that no read can stray."""
    width = 40
    memory = np.zeros(100 * width, dtype=np.uint64)
    return {
        "values of a longer modulus": np.asarray(kernel_for((1 << 2048) - 159).pack([1, 2, 3])),
        "values of a shorter modulus": memory[: 3 * 20].reshape(3, 20),
        "one row": memory[:width],
        "bytes": memory.view(np.uint8)[: 3 * width].reshape(3, width),
        "floats": np.zeros((3, width)),
        "three dimensions": memory[: 6 * width].reshape(3, 2, width),
        "another byte order": np.zeros((3, width), dtype=">u8"),
    }


FUNCTIONS: dict[str, Callable[[IfmaKernel, np.ndarray], object]] = {
    "mul_pairs, left": lambda kernel, other: kernel.mul_pairs(other, index(0, 1), kernel.pack([1, 2]), index(0, 1)),
    "mul_pairs, right": lambda kernel, other: kernel.mul_pairs(kernel.pack([1, 2]), index(0, 1), other, index(0, 1)),
    "seg_prod": lambda kernel, other: kernel.seg_prod(other, index(0, 1), index(0, 2)),
    "pow_uniform": lambda kernel, other: kernel.pow_uniform(other, 3),
    "pow_uniform, a power of two": lambda kernel, other: kernel.pow_uniform(other, 4),
    "add_plaintexts": lambda kernel, other: kernel.add_plaintexts(other, [1] * len(other)),
    "to_rows": lambda kernel, other: kernel.to_rows(other),
    "unpack": lambda kernel, other: kernel.unpack(other),
    "logarithms": lambda kernel, other: kernel.logarithms(other),
    "for_reuse": lambda kernel, other: kernel.for_reuse(other, other),
}


@pytest.mark.parametrize("kind", others() if not why_not_ifma() else [])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_arrays_that_are_no_values(function: str, kind: str) -> None:
    with refused:
        FUNCTIONS[function](kernel_for(N), others()[kind])


def test_lists_and_factors_are_no_values() -> None:
    """Another kernel's values, and what `for_reuse` makes for `seg_prod` alone; no position, so that no read strays."""
    kernel, none = kernel_for(N), index()
    empty = kernel.pack([])
    for other in ([], [(1, 2)], kernel.for_reuse(kernel.pack([2]), kernel.pack([pow(2, -1, N * N)]))):
        with refused:
            kernel.mul_pairs(other, none, empty, none)


def test_factors_of_another_length() -> None:
    """Longer rows than the kernel's: no read strays."""
    other = kernel_for((1 << 2048) - 159)
    factors = other.for_reuse(other.pack([1, 1]), other.pack([1, 1]))
    with refused:
        kernel_for(N).seg_prod(factors, index(0, 1), index(0, 2))


@pytest.mark.parametrize("digit", [4, 8, 255])
def test_digits_that_no_window_has(digit: int) -> None:
    """A digit of four or more in a window of two bits has no entry: the power would be zero."""
    kernel = kernel_for(N)
    with refused:
        kernel.fixed_base(kernel.window_table(5, 2, 3), np.array([[0, digit, 0]], dtype=np.uint8))


@pytest.mark.parametrize("windows", [0, -1])
def test_numbers_of_windows(windows: int) -> None:
    with refused:
        kernel_for(N).window_table(5, 2, windows)


@pytest.mark.parametrize("modulus", [16, 0, -3, 1 << MOST_BITS, (1 << MOST_BITS) + 1], ids=int.bit_length)
def test_moduli(modulus: int) -> None:
    with refused:
        IfmaKernel(modulus)


def test_residues_of_unequal_numbers() -> None:
    kernel_p, kernel_q = kernel_for(3), kernel_for(5)
    with refused:
        kernel_for(15).recombine(kernel_p, kernel_p.pack([1]), kernel_q, kernel_q.pack([1, 2]))


# ---- Through C ----


def guarded(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Memory, and within it an array like x, between guard rows."""
    memory = np.full((len(x) + 2 * GUARDS, *x.shape[1:]), 0xA5, dtype=x.dtype)
    return memory, memory[GUARDS : len(memory) - GUARDS]


def refuses(call: Call, at: int, wrong: object) -> None:
    """C refuses the call with one argument replaced, and writes nothing."""
    name, arguments = call
    changed = list(arguments)
    changed[at] = wrong
    memory, changed[output_of(call)] = guarded(arguments[output_of(call)])
    with pytest.raises(CryptoError, match=f"Kernel: {name} refused"):
        ifma_library.call(name, *changed)
    assert (memory == memory.dtype.type(0xA5)).all(), f"{name} wrote"


def numbers_at(call: Call) -> list[int]:
    """Positions of the arguments that are numbers."""
    return [at for at, x in enumerate(call[1]) if isinstance(x, int)]


def calls(*names: str) -> list[Call]:
    found = [call for call in calls_of_every_function(N, COUNT) if not names or call[0] in names]
    assert found
    return found


def test_c_writes_its_rows_and_no_others() -> None:
    for length in (20, 30, 80):
        for count in (1, 7, 8, 9, 17):
            for name, arguments in calls_of_every_function(moduli(length)[-1], count):
                at = output_of((name, arguments))
                memory, inside = guarded(arguments[at])
                ifma_library.call(name, *arguments[:at], inside, *arguments[at + 1 :])
                guards = memory[:GUARDS], memory[len(memory) - GUARDS :]
                assert all((rows_ == memory.dtype.type(0xA5)).all() for rows_ in guards), name


@pytest.mark.parametrize("digits", [0, 1, 10, 19, 21, 50, 70, 100, 2**32 + 20, 2**63, 2**64 - 20])
def test_c_refuses_lengths_that_it_does_not_know(digits: int) -> None:
    for call in calls():
        if output_of(call) == 1:
            context = call[1][0].copy()
            context[0] = digits
            refuses(call, 0, context)


@pytest.mark.parametrize("wrong", [COUNT * 60 + 1, *NEVER])
def test_c_refuses_positions(wrong: int) -> None:
    """Every array of positions, offsets and lengths, in the first, a middle and the last place."""
    checked = set()
    for call in calls("multiply_pairs", "segment_products"):
        for at, x in enumerate(call[1]):
            if isinstance(x, np.ndarray) and x.dtype == np.int64:
                for place in (0, len(x) // 2, len(x) - 1):
                    changed = x.copy()
                    changed[place] = wrong
                    refuses(call, at, changed)
                    checked.add((call[0], at))
    assert len(checked) == 2 + 4


def test_c_refuses_the_first_position_behind() -> None:
    """One row fewer than the largest position asks for."""
    for call in calls("multiply_pairs"):
        left, right = (x for x in call[1] if isinstance(x, np.ndarray) and x.dtype == np.int64)
        a_count, b_count, _ = numbers_at(call)
        refuses(call, a_count, int(left.max()))
        refuses(call, b_count, int(right.max()))
    for call in calls("segment_products"):
        idx, begins, lengths, to = (x for x in call[1] if isinstance(x, np.ndarray) and x.dtype == np.int64)
        out_count, src_count, _, idx_count, _ = numbers_at(call)
        refuses(call, out_count, int(to.max()))
        refuses(call, src_count, int(idx.max()))
        refuses(call, idx_count, int((begins + lengths).max()) - 1)


@pytest.mark.parametrize("wrong", [-1, -(2**63)])
def test_c_refuses_negative_numbers(wrong: int) -> None:
    """Counts and widths, all but flags."""
    for call in calls():
        for at in numbers_at(call):
            if call[1][at] > 1:
                refuses(call, at, wrong)


def test_c_refuses_windows_and_pieces() -> None:
    for call in calls("power"):
        _, windows, bits = numbers_at(call)[:3]
        for wrong in (0, 6, 64, 2**40):
            refuses(call, bits, wrong)
        refuses(call, windows, 0)
    for call in calls("fixed_base"):
        refuses(call, numbers_at(call)[0], 0)
    for call in calls("enter"):
        for wrong in (0, 7, 2**32 + 1):
            refuses(call, numbers_at(call)[1], wrong)


def test_c_refuses_more_bytes_than_digits_hold() -> None:
    for call in calls("from_bytes"):
        digits, width, _ = numbers_at(call)
        refuses(call, width, 52 * call[1][digits] // 8 + 1)
        if call[1][width]:
            refuses(call, digits, (8 * call[1][width] - 1) // 52)


@pytest.mark.parametrize("width", [2**60, 2**61, 2**63 - 1])
def test_c_refuses_widths_whose_bits_overflow(width: int) -> None:
    """Eight times the width is beyond 64 bits; no row is read, so that nothing can stray."""
    for name, arguments in calls("from_bytes"):
        refuses((name, (*arguments[:-1], 0)), numbers_at((name, arguments))[1], width)


def test_c_writes_nothing_for_nothing() -> None:
    for call in calls():
        name, arguments = call
        at = numbers_at(call)[0 if name in ("power", "square", "enter", "leave") else -1]
        memory, inside = guarded(arguments[output_of(call)])
        changed = [0 if k == at else x for k, x in enumerate(arguments)]
        changed[output_of(call)] = inside
        ifma_library.call(name, *changed)
        assert (memory == memory.dtype.type(0xA5)).all(), name


def test_c_gets_whole_arrays_only() -> None:
    """A view with gaps would be read as if it had none."""
    kernel = kernel_for(N)
    values, out = np.asarray(kernel.pack([*range(1, 9)])), np.zeros((4, 40), np.uint64)
    with pytest.raises(CryptoError, match="not contiguous"):
        ifma_library.call("square", kernel._context, out, values[::2], 4, 1)


# ---- A library that does not fit ----


@pytest.mark.parametrize("kind", ["garbage", "other"])
def test_a_library_that_does_not_fit_counts_as_not_built(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut short, or built from another state of the C file, as after an update that was not built anew."""
    place = tmp_path / f"_ifma{ifma_library.EXTENSION_SUFFIXES[0]}"
    if kind == "garbage":
        place.write_bytes(b"\x7fELF and no more")
    else:
        shutil.copy(_ctypes.__file__, place)
    monkeypatch.setattr(ifma_library, "__file__", str(tmp_path / "ifma_kernel.py"))
    monkeypatch.setattr(ifma_library, "library", ifma_library.library.__wrapped__)
    assert why_not_ifma() == "the C kernel is not built"


def test_a_library_of_another_interface_counts_as_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ifma_library, "library", ifma_library.library.__wrapped__)
    assert why_not_ifma() is None
    monkeypatch.setattr(ifma_library, "_INTERFACE", ifma_library._INTERFACE + 1)
    assert why_not_ifma() == "the C kernel is not built"


def test_it_says_why_it_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not_ifma() is None
    assert why_not_ifma(MOST_BITS) is None
    assert "4152 bits, not 4153" in str(why_not_ifma(MOST_BITS + 1))
    monkeypatch.setattr(ifma_library, "library", lambda: None)
    assert "not built" in str(why_not_ifma())


def test_as_many_bits_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    n = (1 << MOST_BITS) - 1
    kernel = IfmaKernel(n)
    values = rows(n, [(8 * n - 1, 8 * n - 1)])
    (x,) = numbers(n, [(8 * n - 1, 8 * n - 1)])
    assert read(n, kernel.mul_pairs(values, everything(values), values, everything(values))) == [x * x % n**2]
