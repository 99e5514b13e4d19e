"""Moduli and numbers for the tests of the IFMA kernel, as rows made by hand too, and that they are as extreme as meant.

A number x is a row of 2 L words: the digits of x0, then those of x1, with x0 + x1 n = x R mod n^2, R = 2^(52 L). The
kernel promises to take parts below 8 n and to give parts below 2 n, whatever the digits are. Rows made by hand reach
what `pack` does not: it makes parts below 7 n with digits that look random.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import gmpy2
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.paillier.plain import one_plus
from vfl.paillier import ifma_library
from vfl.paillier.ifma_kernel import IfmaKernel, Words, why_not_ifma

DIGIT = 52
ONES = (1 << DIGIT) - 1  # a digit of all ones
# Lengths of n in bits: the shortest, a usual and the longest one of every number of digits L.
BITS = {
    20: (512, 1024, 1032),
    30: (1033, 1536, 1552),
    40: (1553, 2048, 2072),
    60: (2073, 3072, 3112),
    80: (3113, 4096, 4152),
}
LENGTHS = tuple(BITS)
TINY = (3, 15)
Parts = tuple[int, int]
Call = tuple[str, tuple[object, ...]]

pytestmark = pytest.mark.skipif(why_not_ifma() is not None, reason=f"IFMA kernel: {why_not_ifma()}")
each_length = pytest.mark.parametrize("length", LENGTHS)


def moduli(length: int) -> list[int]:
    """Odd n of L digits: random ones, and ones with extreme digits."""
    rng, found = random.Random(length), list(TINY) if length == 20 else []
    for bits in BITS[length]:
        top, middle = 1 << bits - 1, bits // 3
        noise = rng.getrandbits(bits) | top | 1
        found += [
            noise,
            (1 << bits) - 1,  # all ones
            (1 << bits) - 159,
            top + 1,  # zeros between two ones
            top + ONES,
            noise & ~(((1 << 2 * middle) - 1) ^ ((1 << middle) - 1)),  # zeros in the middle third
            noise | (((1 << 2 * middle) - 1) ^ ((1 << middle) - 1)),  # ones there
            (noise & ~ONES) | 1,
            noise | ONES,
        ]
    return found


@cache
def kernel_for(n: int) -> IfmaKernel:
    return IfmaKernel(n)


def digits_of(n: int) -> int:
    """L, as the kernel's documentation derives it: the fewest digits with R >= 2^8 n."""
    return next(length for length in LENGTHS if DIGIT * length >= n.bit_length() + 8)


def digits(x: int, count: int) -> list[int]:
    return [x >> DIGIT * j & ONES for j in range(count)]


def rows(n: int, numbers: Iterable[Parts]) -> Words:
    """The parts as the kernel holds them."""
    length = digits_of(n)
    body = [[*digits(x0, length), *digits(x1, length)] for x0, x1 in numbers]
    return np.array(body, dtype=np.uint64).reshape(-1, 2 * length)


def parts(n: int, values: Words) -> list[Parts]:
    """The other way; every digit must be one."""
    length = digits_of(n)
    assert values.dtype == np.uint64 and values.shape[1:] == (2 * length,)
    assert not (values >> np.uint64(DIGIT)).any(), "a digit of more than 52 bits"
    return [
        (
            sum(d << DIGIT * j for j, d in enumerate(row[:length])),
            sum(d << DIGIT * j for j, d in enumerate(row[length:])),
        )
        for row in values.tolist()
    ]


@cache
def inverse_of_r(n: int) -> gmpy2.mpz:
    return gmpy2.invert(gmpy2.mpz(1) << DIGIT * digits_of(n), gmpy2.mpz(n) ** 2)


def numbers(n: int, pairs: Iterable[Parts]) -> list[int]:
    """What rows of these parts stand for."""
    return [int((x0 + x1 * n) * inverse_of_r(n) % (n * n)) for x0, x1 in pairs]


def read(n: int, values: object, limit: int = 2) -> list[int]:
    """What the kernel gave stands for, once its parts are known to be below ``limit`` n."""
    found = parts(n, np.asarray(values))
    assert all(x0 < limit * n and x1 < limit * n for x0, x1 in found), "a part is too large"
    return numbers(n, found)


def edges(n: int) -> list[int]:
    """Numbers of [0, n^2) where something could go wrong."""
    length, nn = digits_of(n), n * n
    ones = [(1 << DIGIT * k) - 1 for k in (1, 2, length // 2, length - 1)]
    single = [1 << DIGIT * k for k in (1, length // 2, length - 2, length, 2 * length - 2)]
    found = [0, 1, 2, n - 1, n, n + 1, nn - n - 1, nn - n, nn - n + 1, nn - 2, nn - 1]
    found += [x0 % n + x1 % n * n for x0 in ones for x1 in (0, *ones)] + [x % nn for x in single]
    return sorted({x for x in found if 0 <= x < nn})


def edge_parts(n: int) -> list[int]:
    """Numbers below 8 n, one part of a row each."""
    most = 8 * n - 1
    ones = [(1 << k) - 1 for k in (1, DIGIT, 10 * DIGIT, 20 * DIGIT, n.bit_length(), most.bit_length() - 1)]
    single = [ONES << DIGIT * k for k in (1, 9, 10, 19, n.bit_length() // DIGIT - 1) if k >= 0]
    found = [0, 1, n - 1, n, n + 1, 2 * n - 1, 2 * n, 4 * n, 7 * n, most - 1, most, *ones, *single]
    return sorted({x for x in found if x <= most})


def integers_below(limit: int, some: Sequence[int]) -> st.SearchStrategy[int]:
    """Edges, anything, and digits that are mostly all ones or zero."""
    count = limit.bit_length() // DIGIT + 1
    extreme = st.lists(st.sampled_from([0, 1, ONES, ONES - 1, 1 << DIGIT - 1]), min_size=1, max_size=count)
    joined = extreme.map(lambda found: sum(d << DIGIT * j for j, d in enumerate(found)) % limit)
    return st.one_of(st.sampled_from(some), joined, st.integers(0, limit - 1))


@st.composite
def cases(draw: st.DrawFn, length: int, most: int = 10) -> tuple[int, list[Parts]]:
    """A modulus of L digits and the parts, below 8 n, of some numbers."""
    n = draw(st.sampled_from(moduli(length)))
    part = integers_below(8 * n, edge_parts(n))
    return n, draw(st.lists(st.tuples(part, part), min_size=1, max_size=most))


@contextlib.contextmanager
def recorded(threads: int = 1) -> Iterator[list[Call]]:
    """The calls of C functions made meanwhile, with copies of their arguments as they were before the call."""
    calls: list[Call] = []
    honest = ifma_library.call

    def call(name: str, *arguments: object) -> None:
        calls.append((name, tuple(x.copy() if isinstance(x, np.ndarray) else x for x in arguments)))
        honest(name, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VFL_THREADS", str(threads))
        patch.setattr(ifma_library, "call", call)
        yield calls


def calls_of_every_function(n: int, count: int) -> list[Call]:
    """Calls of all C functions on ``count`` numbers, from the kernel's own functions."""
    kernel, every = IfmaKernel(n), np.arange(count)
    widths = (kernel._row_bytes, 5 * n.bit_length() // 8, 0, 1, 7, 8, 13, 14, 20)  # where digits end in words, and not
    bodies = [np.full((count, width), 255, np.uint8) for width in widths]
    values = rows(n, [(8 * n - 1 - at, 4 * n + at) for at in range(count)])
    digits_of_rows = (np.arange(2 * count) % 4).astype(np.uint8).reshape(count, 2)
    with recorded() as calls:
        kernel.mul_pairs(values, every, values, every[::-1])
        kernel.seg_prod(values, every, np.arange(count + 1))
        kernel.seg_prod(
            one_plus(kernel, every.tolist()), np.arange(60 * count) % count, np.arange(0, 60 * count + 1, 60)
        )
        kernel.fixed_base(kernel.window_table(2, 2, 2), digits_of_rows)
        kernel.pow_uniform(values, 77)
        kernel.pow_uniform(values, [*range(4, 4 + count)], secret_bits=1)
        kernel.pow_uniform(values, 8)
        kernel.logarithms(one_plus(kernel, [*range(count)]))
        kernel.add_plaintexts(values, [*range(count)])
        for body in bodies:
            kernel.to_rows(kernel.from_rows(body))
    return calls


def output_of(call: Call) -> int:
    """Which argument is written."""
    return 0 if call[0] in ("from_bytes", "to_bytes") else 1


@each_length
def test_every_function_is_called(length: int) -> None:
    calls = calls_of_every_function(moduli(length)[-1], 9)
    assert {name for name, _ in calls} == set(ifma_library.SIGNATURES) - {"ceiling"}


@each_length
def test_moduli_are_odd_and_of_this_length(length: int) -> None:
    for n in moduli(length):
        assert n % 2 == 1
        assert digits_of(n) == length
    assert {n.bit_length() for n in moduli(length)} - {2, 4} == set(BITS[length])
    low = {n & ONES for n in moduli(length)}
    assert {1, ONES} < low


@each_length
def test_the_kernel_holds_numbers_in_as_many_digits(length: int) -> None:
    for n in moduli(length):
        assert np.asarray(kernel_for(n).pack([1])).shape == (1, 2 * length)


@each_length
def test_edges_are_extreme(length: int) -> None:
    n = (1 << BITS[length][-1]) - 1
    most = max(edge_parts(n))
    assert most == 8 * n - 1
    assert digits(n, length)[:-1] == [ONES] * (length - 1)
    assert {0, 1, n, n * n - 1} < set(edges(n))
    assert numbers(n, parts(n, rows(n, [(most, most)]))) == numbers(n, [(most, most)])
