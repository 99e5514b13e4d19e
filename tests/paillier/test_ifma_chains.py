"""The bounds of the IFMA kernel: what comes out may go in again for ever, and no digit overflows on the way.

The C code's comment says: parts below 8 n give parts below 2 n, if R >= 2^8 n. Squarings and products on the largest
parts, long chains that never leave the kernel's rows, and factors whose digits are all ones.
"""

from __future__ import annotations

import random
from functools import cache

import gmpy2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.paillier.test_ifma_cases import (
    BITS,
    DIGIT,
    ONES,
    cases,
    digits_of,
    each_length,
    kernel_for,
    moduli,
    numbers,
    parts,
    pytestmark,  # noqa: F401
    read,
    rows,
)
from vfl.paillier.kernels import everything, multiply

LANES = 8
some = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))


@cache
def random_number(n: int, seed: int) -> int:
    return random.Random(seed).randrange(n * n)


@each_length
@some
@given(st.data())
def test_products_of_parts_below_8n_have_parts_below_2n(length: int, data: st.DataObject) -> None:
    n, a = data.draw(cases(length, LANES + 1))
    kernel, values, stand_for = kernel_for(n), rows(n, a), numbers(n, a)
    assert read(n, multiply(kernel, values, values), 2) == [x * x % (n * n) for x in stand_for]
    assert read(n, kernel.pow_uniform(values, 2), 2) == [x * x % (n * n) for x in stand_for]
    reverse = everything(values)[::-1]
    products = [x * y % (n * n) for x, y in zip(stand_for, stand_for[::-1], strict=True)]
    assert read(n, kernel.mul_pairs(values, everything(values), values, reverse), 2) == products


@each_length
def test_the_largest_parts(length: int) -> None:
    """Parts of 8 n - 1, alone and together with 0: the columns of the products are as large as they can be."""
    for n in moduli(length):
        most = 8 * n - 1
        pairs = [(most, most), (most, 0), (0, most), (0, 0), (most, n), (n, most)]
        kernel, values, stand_for = kernel_for(n), rows(n, pairs), numbers(n, pairs)
        ai, bi = (np.array(index) for index in zip(*((i, j) for i in range(6) for j in range(6)), strict=True))
        expected = [stand_for[i] * stand_for[j] % (n * n) for i, j in zip(ai, bi, strict=True)]
        assert read(n, kernel.mul_pairs(values, ai, values, bi), 2) == expected
        assert read(n, kernel.pow_uniform(values, 2), 2) == [x * x % (n * n) for x in stand_for]
        assert read(n, kernel.pow_uniform(values, 1 << 40), 2) == [
            int(gmpy2.powmod(x, 1 << 40, n * n)) for x in stand_for
        ]


@each_length
def test_all_digits_of_a_factor_all_ones(length: int) -> None:
    """Parts of R - 1 are above what is promised, but times parts up to n they fit R: no column may overflow."""
    for n in moduli(length):
        r_less_one = (1 << DIGIT * length) - 1
        large = [(r_less_one, r_less_one), (r_less_one, 0), (0, r_less_one)]
        small = [(n - 1, n - 1), (n, n), (1, 1), (n - 1, 0), (0, n - 1), (ONES % n, ONES % n)]
        pairs = [(i, len(large) + j) for i in range(len(large)) for j in range(len(small))]
        kernel, values, stand_for = kernel_for(n), rows(n, large + small), numbers(n, large + small)
        ai, bi = (np.array(index) for index in zip(*pairs, strict=True))
        expected = [stand_for[i] * stand_for[j] % (n * n) for i, j in pairs]
        assert read(n, kernel.mul_pairs(values, ai, values, bi), 4) == expected
        assert read(n, kernel.mul_pairs(values, bi, values, ai), 4) == expected


@each_length
def test_what_comes_in_may_go_on(length: int) -> None:
    """`from_rows` of all ones makes parts below 8 n; squaring them makes parts below 2 n."""
    for n in moduli(length):
        kernel, bits = kernel_for(n), 6 * DIGIT * length
        values = kernel.from_rows(np.full((3, bits // 8), 255, dtype=np.uint8))
        stand_for = [((1 << bits) - 1) % (n * n)] * 3
        assert read(n, values, 8) == stand_for
        assert read(n, kernel.pow_uniform(values, 2), 2) == [x * x % (n * n) for x in stand_for]


@each_length
def test_chains_on_every_modulus(length: int) -> None:
    """Product, square, product, ...: from the largest parts, by the largest parts, bounds and numbers at every step."""
    for n in moduli(length):
        kernel, nn, most = kernel_for(n), n * n, 8 * n - 1
        factor_parts = [(most, most), (n - 1, n - 1), (most, 1), (1, most), (0, most)]
        factor_rows, factors = rows(n, factor_parts), numbers(n, factor_parts)
        values, stand_for = rows(n, factor_parts), list(factors)
        for _ in range(6):
            values = multiply(kernel, values, factor_rows)
            stand_for = [x * y % nn for x, y in zip(stand_for, factors, strict=True)]
            assert read(n, values, 2) == stand_for
            values = kernel.pow_uniform(values, 2)
            stand_for = [x * x % nn for x in stand_for]
            assert read(n, values, 2) == stand_for


def long_chain(n: int, operations: int, lanes: int) -> None:
    """Multiply and square by turns; the rows are only looked at, never replaced."""
    rng = random.Random(n)
    kernel, nn, most = kernel_for(n), gmpy2.mpz(n) ** 2, 8 * n - 1
    factor_parts = [(most - rng.getrandbits(20), most - rng.getrandbits(20)) for _ in range(31)]
    factor_rows = rows(n, factor_parts)
    factors = [gmpy2.mpz(x) for x in numbers(n, factor_parts)]
    values = rows(n, [(rng.randrange(8 * n), most) for _ in range(lanes)])
    stand_for = [gmpy2.mpz(x) for x in numbers(n, parts(n, values))]
    every = np.arange(lanes)
    for at in range(operations // 2):
        values = kernel.mul_pairs(values, every, factor_rows, (every + at) % 31)
        values = kernel.pow_uniform(values, 2)
        for lane in range(lanes):
            x = stand_for[lane] * factors[(lane + at) % 31] % nn
            stand_for[lane] = x * x % nn
        if at % 5000 == 4999:
            assert read(n, values, 2) == stand_for
    assert read(n, values, 2) == stand_for


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "lanes"), [(1024, 2), (2048, 2)])
def test_a_hundred_thousand_products_and_squares(bits: int, lanes: int) -> None:
    long_chain((1 << bits) - 159, 100_000, lanes)


@each_length
def test_long_chains(length: int) -> None:
    for n in (
        (1 << BITS[length][-1]) - 1,
        random.Random(length).getrandbits(BITS[length][0] - 1) | 1 << BITS[length][0] - 1 | 1,
    ):
        assert digits_of(n) == length
        long_chain(n, 1000, LANES + 1)


@pytest.mark.parametrize(
    "n", [3, 15, (1 << 1032) - 1, (1 << 1024) - 159, (1 << 2072) - 1, (1 << 2048) - 159], ids=int.bit_length
)
def test_a_hundred_thousand_squarings_in_one_call(n: int) -> None:
    kernel, pairs = kernel_for(n), [(8 * n - 1, 8 * n - 1), (n + 1, 8 * n - 1), (1, 1)]
    values = kernel.pow_uniform(rows(n, pairs), 1 << 100_000)
    expected = [gmpy2.powmod(x, gmpy2.mpz(1) << 100_000, n * n) for x in numbers(n, pairs)]
    assert read(n, values, 2) == expected


@each_length
def test_a_segment_of_the_largest_parts(length: int) -> None:
    """One long product of factors whose parts are all 8 n - 1."""
    for n in moduli(length):
        kernel, count = kernel_for(n), 777
        pairs = [(8 * n - 1, 8 * n - 1)]
        idx = np.zeros(count, dtype=np.int64)
        found = kernel.seg_prod(rows(n, pairs), idx, np.array([0, count]))
        assert read(n, found, 2) == [int(gmpy2.powmod(numbers(n, pairs)[0], count, n * n))]


@each_length
def test_plaintexts_added_again_and_again(length: int) -> None:
    """From the largest parts and by the largest plaintexts: parts stay below 8 n, and soon are below 2 n."""
    for n in moduli(length):
        kernel, nn = kernel_for(n), n * n
        pairs = [(8 * n - 1, 8 * n - 1), (0, 8 * n - 1), (8 * n - 1, 0), (n, 2 * n - 1)]
        values, stand_for = rows(n, pairs), numbers(n, pairs)
        for at in range(12):
            k = [n - 1, 1, n // 2, at]
            values = kernel.add_plaintexts(values, k)
            stand_for = [x * (1 + y * n) % nn for x, y in zip(stand_for, k, strict=True)]
            assert read(n, values, 8) == stand_for
        assert read(n, multiply(kernel, values, values), 2) == [x * x % nn for x in stand_for]


@each_length
def test_plaintexts_of_all_ones(length: int) -> None:
    """C takes any plaintext of L digits, as its comment says, not only residues."""
    for n in moduli(length):
        kernel, k = kernel_for(n), [(1 << DIGIT * length) - 1, n, (1 << DIGIT * length) - n]
        pairs = [(8 * n - 1, 8 * n - 1), (8 * n - 1, 0), (1, 8 * n - 1)]
        values, plaintexts = rows(n, pairs), rows(n, [(x, 0) for x in k])[:, :length].copy()
        out = np.zeros_like(values)
        kernel._call("add_plaintexts", out, values, plaintexts, 3)
        assert read(n, out, 8) == [x * (1 + y * n) % (n * n) for x, y in zip(numbers(n, pairs), k, strict=True)]
