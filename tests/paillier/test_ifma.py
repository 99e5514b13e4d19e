"""The IFMA kernel against integers: every function, every number of digits, edges and anything between."""

from __future__ import annotations

from math import gcd

import gmpy2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parties.errors import CryptoError
from tests.paillier.plain import one_plus
from tests.paillier.test_ifma_cases import (
    LENGTHS,
    ONES,
    Parts,
    cases,
    digits_of,
    each_length,
    edge_parts,
    edges,
    kernel_for,
    moduli,
    numbers,
    pytestmark,  # noqa: F401
    read,
    rows,
)
from vfl.paillier.rows import rows_of

some = settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))


def powers(values: list[int], exponents: list[int], n: int) -> list[int]:
    return [int(gmpy2.powmod(x, e, n * n)) for x, e in zip(values, exponents, strict=True)]


def product(factors: list[int], n: int) -> int:
    result = 1
    for factor in factors:
        result = result * factor % (n * n)
    return result


# ---- Edges, for every modulus ----


@each_length
def test_edges_go_in_and_out(length: int) -> None:
    for n in moduli(length):
        kernel, some_edges = kernel_for(n), edges(n)
        packed = kernel.pack(some_edges)
        assert read(n, packed, 8) == some_edges
        assert kernel.unpack(packed) == some_edges
        body = kernel.to_rows(packed)
        assert body.shape == (len(some_edges), ((n * n).bit_length() + 7) // 8)
        assert body.tobytes() == rows_of(some_edges, body.shape[1]).tobytes()


@each_length
def test_products_of_edges(length: int) -> None:
    for n in moduli(length):
        kernel, found = kernel_for(n), edges(n)
        count = len(found)
        ai = np.arange(4 * count) % count
        bi = np.arange(4 * count) * 7 // 4 % count
        packed = kernel.pack(found)
        expected = [found[i] * found[j] % (n * n) for i, j in zip(ai, bi, strict=True)]
        assert read(n, kernel.mul_pairs(packed, ai, packed, bi)) == expected
        assert read(n, kernel.pow_uniform(packed, 2)) == [x * x % (n * n) for x in found]


@each_length
def test_products_of_edges_in_rows_made_by_hand(length: int) -> None:
    """Every part in every place, the largest with the largest."""
    for n in moduli(length):
        kernel, found = kernel_for(n), edge_parts(n)
        pairs = [(x0, x1) for at, x0 in enumerate(found) for x1 in (found[-1], found[-1 - at], found[at // 2])]
        values, stand_for = rows(n, pairs), numbers(n, pairs)
        ai, bi = np.arange(len(pairs)), np.arange(len(pairs)) * 5 % len(pairs)
        expected = [stand_for[i] * stand_for[j] % (n * n) for i, j in zip(ai, bi, strict=True)]
        assert read(n, kernel.mul_pairs(values, ai, values, bi)) == expected
        assert read(n, kernel.pow_uniform(values, 2)) == [x * x % (n * n) for x in stand_for]
        assert kernel.unpack(values) == stand_for


@each_length
def test_one_plus_and_logarithms_of_edges(length: int) -> None:
    for n in moduli(length):
        kernel, k = kernel_for(n), [*edges(n), -1, -n, -n * n - 1, n**3]
        values = one_plus(kernel, k)
        assert read(n, values) == [(1 + x * n) % (n * n) for x in k]
        assert kernel.logarithms(values) == [x % n for x in k]
        assert kernel.logarithms(kernel.pow_uniform(values, 3)) == [3 * x % n for x in k]


# ---- Anything ----


@each_length
@some
@given(st.data())
def test_mul_pairs(length: int, data: st.DataObject) -> None:
    n, a = data.draw(cases(length))
    b = data.draw(st.lists(st.sampled_from(a), min_size=1, max_size=4))
    index = st.tuples(st.integers(0, len(a) - 1), st.integers(0, len(b) - 1))
    pairs = data.draw(st.lists(index, max_size=20))
    left, right = numbers(n, a), numbers(n, b)
    ai, bi = (np.array([pair[k] for pair in pairs], dtype=np.int64) for k in (0, 1))
    products = kernel_for(n).mul_pairs(rows(n, a), ai, rows(n, b), bi)
    assert read(n, products) == [left[i] * right[j] % (n * n) for i, j in pairs]


@each_length
@some
@given(st.data())
def test_seg_prod(length: int, data: st.DataObject) -> None:
    n, src = data.draw(cases(length, 6))
    segments = data.draw(st.lists(st.lists(st.integers(0, len(src) - 1), max_size=12), max_size=20))
    idx = np.array([i for segment in segments for i in segment], dtype=np.int64)
    offsets = np.cumsum([0, *map(len, segments)])
    stand_for = numbers(n, src)
    products = kernel_for(n).seg_prod(rows(n, src), idx, offsets)
    assert kernel_for(n).unpack(products) == [product([stand_for[i] for i in segment], n) for segment in segments]


@each_length
@some
@given(st.data())
def test_pow_uniform(length: int, data: st.DataObject) -> None:
    """One exponent or one per number, secret or not, of very unequal lengths."""
    n, a = data.draw(cases(length))
    exponent = st.one_of(st.integers(0, 40), st.integers(0, 2**64), st.integers(0, 200).map(lambda k: (1 << k) - 1))
    shared, each = data.draw(exponent), data.draw(st.lists(exponent, min_size=len(a), max_size=len(a)))
    values, stand_for, kernel = rows(n, a), numbers(n, a), kernel_for(n)
    for secret in (False, True):
        found = kernel.pow_uniform(values, shared, secret_bits=int(secret))
        assert read(n, found, 8) == powers(stand_for, [shared] * len(a), n)
        assert read(n, kernel.pow_uniform(values, each, secret_bits=int(secret)), 8) == powers(stand_for, each, n)


@each_length
@some
@given(st.data())
def test_powers_of_two(length: int, data: st.DataObject) -> None:
    n, a = data.draw(cases(length))
    exponent = 1 << data.draw(st.one_of(st.integers(0, 5), st.integers(6, 300)))
    for secret in (False, True):
        found = kernel_for(n).pow_uniform(rows(n, a), exponent, secret_bits=int(secret))
        assert kernel_for(n).unpack(found) == powers(numbers(n, a), [exponent] * len(a), n)


@each_length
@settings(some, max_examples=10)
@given(st.data())
def test_fixed_base(length: int, data: st.DataObject) -> None:
    n = data.draw(st.sampled_from(moduli(length)))
    base = data.draw(st.one_of(st.sampled_from(edges(n)), st.integers(0, n**3)).filter(lambda x: gcd(x, n) == 1))
    width, windows = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    row = st.lists(st.integers(0, (1 << width) - 1), min_size=windows, max_size=windows)
    chosen = data.draw(st.lists(row, max_size=20))
    table = kernel_for(n).window_table(base, width, windows)
    exponents = [sum(d << width * i for i, d in enumerate(one)) for one in chosen]
    found = kernel_for(n).fixed_base(table, np.array(chosen, dtype=np.uint8).reshape(-1, windows))
    assert read(n, found, 8) == powers([base] * len(chosen), exponents, n)


@each_length
def test_bases_that_are_no_units(length: int) -> None:
    for n in moduli(length)[:3]:
        for base in (0, n, n * n, 5 * n):
            with pytest.raises(CryptoError, match="no unit"):
                kernel_for(n).window_table(base, 4, 2)


@each_length
def test_fixed_base_by_windows_of_eight_bits(length: int) -> None:
    """All 256 entries of two windows, in calls of one number to more than one batch of the C code."""
    n = moduli(length)[-1]
    base = n - 2  # a unit: n is odd
    table = kernel_for(n).window_table(base, 8, 2)
    for count in (1, 7, 9, 64, 65, 128, 129, 256):
        chosen = np.stack([np.arange(count), 255 - np.arange(count)], axis=1).astype(np.uint8)
        exponents = [int(low) + 256 * int(high) for low, high in chosen]
        assert read(n, kernel_for(n).fixed_base(table, chosen)) == powers([base] * count, exponents, n)


@each_length
@some
@given(st.data())
def test_add_plaintexts(length: int, data: st.DataObject) -> None:
    """To any rows; parts below 8 n stay so, and below 2 n too."""
    n, a = data.draw(cases(length))
    plaintext = st.one_of(st.integers(-(n**3), n**3), st.sampled_from([0, 1, -1, n - 1, n, n + 1, -n, n // 2]))
    k = data.draw(st.lists(plaintext, min_size=len(a), max_size=len(a)))
    expected = [x * (1 + y * n) % (n * n) for x, y in zip(numbers(n, a), k, strict=True)]
    assert read(n, kernel_for(n).add_plaintexts(rows(n, a), k), 8) == expected
    small = [(x0 % (2 * n), x1 % (2 * n)) for x0, x1 in a]
    expected = [x * (1 + y * n) % (n * n) for x, y in zip(numbers(n, small), k, strict=True)]
    assert read(n, kernel_for(n).add_plaintexts(rows(n, small), k), 2) == expected


@pytest.mark.parametrize("count", [0, 2, 4])
def test_as_many_plaintexts_as_numbers(count: int) -> None:
    with pytest.raises(CryptoError, match=f"{count} plaintexts for 3"):
        kernel_for(15).add_plaintexts(kernel_for(15).pack([1, 2, 3]), [1] * count)


@each_length
@some
@given(st.data())
def test_one_plus_and_logarithms(length: int, data: st.DataObject) -> None:
    n = data.draw(st.sampled_from(moduli(length)))
    k = data.draw(st.lists(st.integers(-(n**3), n**3), max_size=20))
    values = one_plus(kernel_for(n), k)
    assert read(n, values) == [(1 + x * n) % (n * n) for x in k]
    assert kernel_for(n).logarithms(values) == [x % n for x in k]


@each_length
@some
@given(st.data())
def test_logarithms_of_any_rows(length: int, data: st.DataObject) -> None:
    """Rows of parts up to 8 n that stand for 1 + k n: the one answer in [0, n), whatever the row."""
    n = data.draw(st.sampled_from(moduli(length)))
    r = 1 << 52 * length
    k = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=10))
    more = data.draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=len(k), max_size=len(k)))
    made = []
    for x, (add0, add1) in zip(k, more, strict=True):
        x1, x0 = divmod((1 + x * n) * r % (n * n), n)
        made.append((x0 + add0 * n, (x1 - add0) % n + add1 * n))
    assert numbers(n, made) == [1 + x * n for x in k]
    assert kernel_for(n).logarithms(rows(n, made)) == k


@each_length
@some
@given(st.data())
def test_pack_and_unpack(length: int, data: st.DataObject) -> None:
    n = data.draw(st.sampled_from(moduli(length)))
    some_numbers = data.draw(st.lists(st.one_of(st.sampled_from(edges(n)), st.integers(0, n * n - 1)), max_size=20))
    packed = kernel_for(n).pack(some_numbers)
    assert read(n, packed, 8) == some_numbers
    assert kernel_for(n).unpack(packed) == some_numbers


@each_length
@some
@given(st.data())
def test_unpack_any_rows(length: int, data: st.DataObject) -> None:
    n, a = data.draw(cases(length, 20))
    assert kernel_for(n).unpack(rows(n, a)) == numbers(n, a)


@each_length
@some
@given(st.data())
def test_rows_of_bytes_of_any_width(length: int, data: st.DataObject) -> None:
    """Up to 5 |n| bits, with all bits set and around multiples of n and n^2."""
    n = data.draw(st.sampled_from(moduli(length)))
    width = data.draw(st.integers(0, 5 * n.bit_length() // 8))
    near = [n**2, n**2 - 1, 2 * n**2 - 1, n**3, n**4 + n - 1, 256**width - 1, ONES << 8 * width // 2]
    number = st.one_of(st.sampled_from(near).map(lambda x: x % 256**width), st.integers(0, 256**width - 1))
    some_numbers = data.draw(st.lists(number, max_size=20))
    body = rows_of(some_numbers, width)
    values = kernel_for(n).from_rows(body)
    assert read(n, values, 8) == [x % n**2 for x in some_numbers]
    again = kernel_for(n).to_rows(values)
    assert again.tobytes() == rows_of([x % n**2 for x in some_numbers], again.shape[1]).tobytes()
    assert again.shape[1] == ((n * n).bit_length() + 7) // 8


@each_length
def test_rows_of_all_ones(length: int) -> None:
    """As many bits as the constants allow: every digit of every piece that comes in is all ones."""
    for n in moduli(length):
        for bits in (52 * length, 104 * length, 5 * n.bit_length() + 7, 312 * length):
            body = np.full((9, bits // 8), 255, dtype=np.uint8)
            assert read(n, kernel_for(n).from_rows(body), 8) == [(256 ** (bits // 8) - 1) % (n * n)] * 9


PRIMES = [  # of lengths that differ, and such that p q needs more digits than p
    (3, 5),
    (2**61 - 1, 2**89 - 1),
    (2**521 - 1, 2**607 - 1),
    (2**521 - 1, 2**1279 - 1),
    (2**1279 - 1, 2**1279 - 2**39 + 1),
    (2**1279 - 1, 2**2203 - 1),
    (2**521 - 1, 2**3217 - 1),
]


@settings(some, max_examples=20)
@given(st.data())
@pytest.mark.parametrize(("p", "q"), PRIMES, ids=lambda x: f"{x.bit_length()}")
def test_recombine(p: int, q: int, data: st.DataObject) -> None:
    """For coprime p and q (nothing needs primes), in either order, from rows made by hand too."""
    assert gcd(p, q) == 1
    n = p * q
    some_edges = [*edges(n)[:12], p, q, p * p, q * q, n * n - p * p, n * n - 1]
    chosen = data.draw(st.lists(st.one_of(st.sampled_from(some_edges), st.integers(0, n * n - 1)), max_size=12))
    more = data.draw(st.integers(0, 6))
    kernel, kernel_p, kernel_q = kernel_for(n), kernel_for(p), kernel_for(q)
    at_p, at_q = kernel_p.pack([x % p**2 for x in chosen]), rows(q, [_parts(q, x, more) for x in chosen])
    assert read(n, kernel.recombine(kernel_p, at_p, kernel_q, at_q), 8) == chosen
    assert kernel.unpack(kernel.recombine(kernel_q, at_q, kernel_p, at_p)) == chosen


def _parts(n: int, x: int, more: int) -> Parts:
    x1, x0 = divmod((x << 52 * digits_of(n)) % (n * n), n)
    return x0 + more * n, (x1 - more) % n + more * n


@each_length
@some
@given(st.data())
def test_take_and_join(length: int, data: st.DataObject) -> None:
    n, a = data.draw(cases(length))
    kernel, values, stand_for = kernel_for(n), rows(n, a), numbers(n, a)
    idx = data.draw(st.lists(st.integers(0, len(a) - 1), max_size=12))
    cut = data.draw(st.slices(len(a)))
    taken, sliced = kernel.take(values, np.array(idx, dtype=np.int64)), kernel.take(values, cut)
    assert kernel.unpack(taken) == [stand_for[i] for i in idx]
    assert kernel.unpack(sliced) == stand_for[cut]
    joined = kernel.join([taken, sliced, values])
    assert len(joined) == len(idx) + len(stand_for[cut]) + len(a)
    assert kernel.unpack(joined) == [stand_for[i] for i in idx] + stand_for[cut] + stand_for
    every = np.arange(len(stand_for[cut]))
    assert kernel.unpack(kernel.mul_pairs(sliced, every, sliced, every)) == [x * x % (n * n) for x in stand_for[cut]]
    assert kernel.unpack(kernel.pow_uniform(sliced, 3)) == powers(stand_for[cut], [3] * len(every), n)


@each_length
def test_nothing_in_nothing_out(length: int) -> None:
    n = moduli(length)[0]
    kernel, none = kernel_for(n), np.zeros(0, dtype=np.int64)
    empty = kernel.pack([])
    table = kernel.window_table(2, 4, 3)
    found = [
        kernel.mul_pairs(empty, none, empty, none),
        kernel.seg_prod(empty, none, np.zeros(1, dtype=np.int64)),
        kernel.pow_uniform(empty, 5),
        kernel.pow_uniform(empty, 8),
        kernel.pow_uniform(empty, []),
        kernel.pow_uniform(empty, [], secret_bits=1),
        kernel.fixed_base(table, np.zeros((0, 3), dtype=np.uint8)),
        one_plus(kernel, []),
        kernel.join([]),
        kernel.join([empty, empty]),
        kernel.take(empty, none),
        kernel.take(empty, slice(None)),
    ]
    assert [len(values) for values in found] == [0] * len(found)
    assert all(kernel.unpack(values) == [] for values in found)
    assert kernel.logarithms(empty) == []


def test_what_goes_in_stays_as_it_was() -> None:
    """No function writes into its arguments."""
    for length in LENGTHS:
        n = moduli(length)[0]
        kernel, found = kernel_for(n), edge_parts(n)
        values = rows(n, [(x, found[-1 - at]) for at, x in enumerate(found)])
        before = values.copy()
        every, count = np.arange(len(values)), len(values)
        kernel.mul_pairs(values, every, values, every[::-1])
        kernel.seg_prod(values, every, np.array([0, 3, count]))
        kernel.pow_uniform(values, 16)
        kernel.pow_uniform(values, 100, secret_bits=1)
        kernel.pow_uniform(values, [*range(count)])
        kernel.to_rows(values)
        kernel.logarithms(values)
        kernel.join([values, values])
        assert np.array_equal(values, before)
