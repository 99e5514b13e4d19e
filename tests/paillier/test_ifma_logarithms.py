"""Factors that are used many times: held as (y0, u), y = y0 (1 + u n), their second parts only added up.

The C code's comment gives bounds: I second parts below 2 n may be added up. Segments and powers with more factors than
that, the largest second parts, and where logarithms do not exist.
"""

from __future__ import annotations

import random
from math import gcd

import gmpy2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parties.errors import CryptoError
from tests.paillier.test_ifma_cases import (
    BITS,
    Parts,
    cases,
    digits,
    digits_of,
    each_length,
    inverse_of_r,
    kernel_for,
    moduli,
    numbers,
    parts,
    pytestmark,  # noqa: F401
    read,
    recorded,
    rows,
)
from vfl.paillier import ifma_kernel
from vfl.paillier.ifma_kernel import IfmaKernel, _Logs

USES = 60  # per value, more than what pays for logarithms
some = settings(deadline=None, max_examples=20, suppress_health_check=list(HealthCheck))


def product(stand_for: list[int], chosen: list[int], n: int) -> int:
    x, nn = gmpy2.mpz(1), gmpy2.mpz(n) ** 2
    for i in chosen:
        x = x * stand_for[i] % nn
    return int(x)


def logarithmic(n: int, pairs: list[Parts]) -> list[int]:
    """What the pairs (y0, u) stand for, by the definition."""
    back, nn = inverse_of_r(n), n * n
    return [int(y0 * back * (1 + u * back * n) % nn) for y0, u in pairs]


def most_summed(n: int) -> int:
    """I, as the C code's comment derives it: (4 I + 4) n <= R / 2, and at most 1024."""
    return min(1024, (1 << 52 * digits_of(n)) // (8 * n) - 1)


@each_length
@some
@given(st.data())
def test_many_uses(length: int, data: st.DataObject) -> None:
    """Rows made by hand, of units and sometimes not, in segments of any length."""
    n, src = data.draw(cases(length, 4))
    stand_for = numbers(n, src)
    lengths = data.draw(st.lists(st.integers(0, 40), max_size=20))
    lengths.append(max(0, USES * len(src) - sum(lengths)))
    rng = random.Random(data.draw(st.integers(0, 9)))
    idx = np.array([rng.randrange(len(src)) for _ in range(sum(lengths))], dtype=np.int64)
    offsets = np.cumsum([0, *lengths])
    with recorded() as calls:
        found = kernel_for(n).seg_prod(rows(n, src), idx, offsets)
    units = all(gcd(x, n) == 1 for x in stand_for)
    assert units == any(name == "take_logarithms" for name, _ in calls)
    expected = [
        product(stand_for, idx[start:stop].tolist(), n) for start, stop in zip(offsets, offsets[1:], strict=False)
    ]
    assert kernel_for(n).unpack(found) == expected


@each_length
def test_longer_segments_than_may_be_summed(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With segments that are not cut; I is 31 for the longest moduli and 1024 for those short of them."""
    monkeypatch.setattr(ifma_kernel, "_SHORTEST_PIECE", 1 << 20)
    seen = set()
    for n in ((1 << BITS[length][-1]) - 1, (1 << BITS[length][-1] - 3) - 1, (1 << BITS[length][0]) - 1):
        most = most_summed(n)
        seen.add(most)
        base = [(x0, x1) for x0 in (8 * n - 1, n + 2, 4) for x1 in (8 * n - 1, 0)]
        src = [pair for pair, x in zip(base, numbers(n, base), strict=True) if gcd(x, n) == 1]
        assert len(src) > 2
        stand_for = numbers(n, src)
        lengths = [0, 1, most - 1, most, most + 1, 2 * most, 2 * most + 1, 3 * most + 2, 2, 0]
        idx = (np.arange(sum(lengths)) * 5 // 3) % len(src)
        offsets = np.cumsum([0, *lengths])
        found = kernel_for(n).seg_prod(rows(n, src), idx, offsets)
        expected = [product(stand_for, idx[a:b].tolist(), n) for a, b in zip(offsets, offsets[1:], strict=False)]
        assert kernel_for(n).unpack(found) == expected
    assert 31 in seen


@each_length
def test_the_largest_second_parts(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors made by hand: u of 2 n - 1 beside y0 of 8 n - 1, as many as may be summed and more."""
    monkeypatch.setattr(ifma_kernel, "_SHORTEST_PIECE", 1 << 20)
    for n in moduli(length):
        most = most_summed(n)
        if most > 300 and length > 40:
            continue  # the shorter ones have shown sums of 1024
        pairs = [(8 * n - 1, 2 * n - 1), (n, 2 * n - 1), (1, 2 * n - 1), (8 * n - 1, 0)]
        stand_for = logarithmic(n, pairs)
        lengths = [1, most, most + 1, 2 * most + 3, most, most, most, most]
        chosen = [[0], [0] * most, [0] * (most + 1), [0] * (2 * most + 3), [1] * most, [2] * most, [3] * most]
        chosen.append([at % 4 for at in range(most)])
        factors = _Logs(rows(n, pairs))
        idx = np.array([i for segment in chosen for i in segment], dtype=np.int64)
        found = kernel_for(n).seg_prod(factors, idx, np.cumsum([0, *lengths]))
        assert read(n, found, 2) == [product(stand_for, segment, n) for segment in chosen]


@each_length
@some
@given(st.data())
def test_logarithms_are_small(length: int, data: st.DataObject) -> None:
    """What `for_reuse` makes: first parts stay, second ones are below 2 n, and both stand for the right numbers."""
    n, pairs = data.draw(cases(length))
    pairs = [pair for pair, x in zip(pairs, numbers(n, pairs), strict=True) if gcd(x, n) == 1]
    stand_for = numbers(n, pairs)
    inverses = [pow(x, -1, n * n) for x in stand_for]
    kernel = kernel_for(n)
    factors = kernel.for_reuse(rows(n, pairs), kernel.pack(inverses))
    made = parts(n, factors.words)
    assert len(factors) == 2 * len(pairs)
    assert [y0 for y0, _ in made[: len(pairs)]] == [x0 for x0, _ in pairs]
    assert all(u < 2 * n for _, u in made)
    assert logarithmic(n, made) == stand_for + inverses
    every = np.arange(2 * len(pairs))
    assert kernel.unpack(kernel.seg_prod(factors, every, np.append(every, len(every)))) == stand_for + inverses


def test_as_many_inverses_as_numbers() -> None:
    kernel = kernel_for(15)
    with pytest.raises(CryptoError, match="1 inverses for 2 numbers"):
        kernel.for_reuse(kernel.pack([1, 1]), kernel.pack([1]))
    nothing = kernel.for_reuse(kernel.pack([]), kernel.pack([]))
    assert len(nothing) == 0
    assert kernel.unpack(kernel.seg_prod(nothing, np.zeros(0, np.int64), np.zeros(3, np.int64))) == [1, 1]


@pytest.mark.parametrize("wrong", [4, -1, 2**62])
def test_positions_among_factors(wrong: int) -> None:
    kernel = kernel_for(15)
    factors = kernel.for_reuse(kernel.pack([1, 2]), kernel.pack([1, 113]))
    assert kernel.unpack(kernel.seg_prod(factors, np.array([1, 3]), np.array([0, 2]))) == [1]
    with pytest.raises(CryptoError, match="refused"):
        kernel.seg_prod(factors, np.array([0, wrong]), np.array([0, 2]))


@each_length
def test_more_windows_than_may_be_summed(length: int) -> None:
    """Powers of one base through 30 to 100 windows, where at most 31 second parts are summed."""
    n = (1 << BITS[length][-1]) - 1
    assert most_summed(n) == 31
    base = n - 2
    for windows in (30, 31, 32, 62, 63, 100):
        table = kernel_for(n).window_table(base, 1, windows)
        chosen = np.array([[0] * windows, [1] * windows, [at % 2 for at in range(windows)]] * 3, dtype=np.uint8)
        exponents = [sum(d << at for at, d in enumerate(row)) for row in chosen.tolist()]
        found = kernel_for(n).fixed_base(table, chosen)
        assert read(n, found, 2) == [int(gmpy2.powmod(base, e, n * n)) for e in exponents]


@each_length
def test_one_in_both_forms(length: int) -> None:
    """Ends of shorter segments are filled up with one: eight segments of eight lengths."""
    for n in moduli(length):
        if gcd(2, n) == 1:
            src = [2, n - 1, (n + 1) // 2, n * n - 1]
            idx = np.tile(np.arange(4), 80)
            offsets = np.cumsum([0, 0, 1, 2, 3, 5, 8, 13, 21, 0, 0, 267])
            found = IfmaKernel(n).seg_prod(kernel_for(n).pack(src), idx, offsets)
            expected = [product(src, idx[a:b].tolist(), n) for a, b in zip(offsets, offsets[1:], strict=False)]
            assert kernel_for(n).unpack(found) == expected


def test_digits_of_words() -> None:
    """That the tests' own digits are the kernel's."""
    for n in (3, (1 << 1032) - 1):
        found = ifma_kernel._digits(n, 20)
        assert found.tolist() == digits(n, 20)
