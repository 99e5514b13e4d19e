"""Kernels against Python integers; a further kernel joins ``KERNELS``."""

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.errors import ConfigError, CryptoError
from tests.paillier.plain import one_plus
from vfl.paillier import gmpy2_kernel, kernel_name
from vfl.paillier.gmpy2_kernel import Gmpy2Kernel
from vfl.paillier.ifma_kernel import IfmaKernel, why_not_ifma
from vfl.paillier.inverses import invert_all
from vfl.paillier.kernels import Kernel, open_kernel

RNG = random.Random(5)
KERNELS: list[Callable[[int], Kernel]] = [Gmpy2Kernel, *([] if why_not_ifma() else [IfmaKernel])]
MODULI = [3, 15, 2**61 - 1, 2**512 - 569, 2**1024 + 643]
PRIMES = [(3, 5), (2**61 - 1, 2**89 - 1), (2**521 - 1, 2**607 - 1)]
each_kernel = pytest.mark.parametrize("open_", KERNELS)


def samples(n: int) -> list[int]:
    edges = [0, 1, 2, n - 1, n, n + 1, n * n - n, n * n - 1]
    return [*edges, *(RNG.randrange(n * n) for _ in range(40))]


def product(factors: list[int], modulus: int) -> int:
    result = 1
    for factor in factors:
        result = result * factor % modulus
    return result


@pytest.fixture(params=[(open_, n) for open_ in KERNELS for n in MODULI], ids=lambda p: f"{p[0].__name__}-{p[1] % 997}")
def kernel(request: pytest.FixtureRequest) -> Kernel:
    open_, n = request.param
    return open_(n)


def test_pack_and_unpack(kernel: Kernel) -> None:
    numbers = [x % kernel.modulus**2 for x in samples(kernel.modulus)]
    assert kernel.unpack(kernel.pack(numbers)) == numbers


def test_mul_pairs(kernel: Kernel) -> None:
    n = kernel.modulus
    a = [x % n**2 for x in samples(n)]
    ai = np.array([RNG.randrange(len(a)) for _ in range(200)])
    bi = np.array([RNG.randrange(len(a)) for _ in range(200)])
    packed = kernel.pack(a)
    expected = [a[i] * a[j] % n**2 for i, j in zip(ai, bi, strict=True)]
    assert kernel.unpack(kernel.mul_pairs(packed, ai, packed, bi)) == expected


def test_seg_prod(kernel: Kernel) -> None:
    n = kernel.modulus
    src = [x % n**2 for x in samples(n)]
    idx = np.array([RNG.randrange(len(src)) for _ in range(100)])
    offsets = np.array([0, 0, 1, 40, 40, 40, 99, 100])
    expected = [product([src[i] for i in idx[s:t]], n**2) for s, t in zip(offsets, offsets[1:], strict=False)]
    assert kernel.unpack(kernel.seg_prod(kernel.pack(src), idx, offsets)) == expected


def test_empty_segments_are_neutral(kernel: Kernel) -> None:
    n = kernel.modulus
    src = kernel.pack([x % n**2 for x in samples(n)])
    none = kernel.seg_prod(src, np.array([], dtype=np.int64), np.zeros(len(src) + 1, dtype=np.int64))
    every = np.arange(len(src))
    for product_ in (kernel.mul_pairs(src, every, none, every), kernel.mul_pairs(none, every, src, every)):
        assert kernel.unpack(product_) == kernel.unpack(src)
    assert kernel.unpack(kernel.pow_uniform(none, 8)) == [1] * len(src)


@pytest.mark.parametrize("base", [1, 2, 10**9 + 7])
def test_fixed_base(kernel: Kernel, base: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after the table changes its form."""
    n = kernel.modulus
    monkeypatch.setattr(gmpy2_kernel, "_POWERS_FOR_LOGS", 30)
    table = kernel.window_table(base % n**2, 3, 6)
    for count in (20, 20, 1, 0):
        digits = np.array([[RNG.randrange(8) for _ in range(6)] for _ in range(count)], np.uint8).reshape(-1, 6)
        expected = [pow(base, sum(d << 3 * i for i, d in enumerate(row)), n * n) for row in digits.tolist()]
        assert kernel.unpack(kernel.fixed_base(table, digits)) == expected


@pytest.mark.parametrize("units", [True, False])
def test_factors_used_many_times(kernel: Kernel, units: bool) -> None:
    """Both forms of a product: quotients need units, and others are multiplied all the same."""
    n = kernel.modulus
    src = [x for x in (x % n**2 for x in samples(n)) if not units or math.gcd(x, n) == 1]
    idx = np.array([RNG.randrange(len(src)) for _ in range(20 * len(src))])
    offsets = np.array([0, 0, 1, 3, 40, 41, 41, len(idx)])
    expected = [product([src[i] for i in idx[s:t]], n**2) for s, t in zip(offsets, offsets[1:], strict=False)]
    assert kernel.unpack(kernel.seg_prod(kernel.pack(src), idx, offsets)) == expected


def test_factors_with_their_inverses(kernel: Kernel) -> None:
    n = kernel.modulus
    src = [x for x in (x % n**2 for x in samples(n)) if math.gcd(x, n) == 1]
    values = kernel.pack(src)
    factors = kernel.for_reuse(values, invert_all(kernel, values))
    assert len(factors) == 2 * len(src)
    every = src + [pow(x, -1, n * n) for x in src]
    idx = np.array([RNG.randrange(len(every)) for _ in range(200)])
    offsets = np.array([0, 0, 1, 3, 40, 41, 41, len(idx)])
    expected = [product([every[i] for i in idx[s:t]], n**2) for s, t in zip(offsets, offsets[1:], strict=False)]
    assert kernel.unpack(kernel.seg_prod(factors, idx, offsets)) == expected


@pytest.mark.parametrize("secret", [False, True])
@pytest.mark.parametrize("e", [0, 1, 2, 3, 8, 1 << 40, (1 << 70) - 1])
def test_pow_uniform(kernel: Kernel, e: int, secret: bool) -> None:
    n = kernel.modulus
    a = [x % n**2 for x in samples(n)]
    assert kernel.unpack(kernel.pow_uniform(kernel.pack(a), e, secret_bits=int(secret))) == [
        pow(x, e, n * n) for x in a
    ]


@pytest.mark.parametrize("secret", [False, True])
def test_the_number_of_threads_changes_no_power(kernel: Kernel, secret: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts and exponents above what threads are used for, uneven parts, and one exponent or many."""
    n = kernel.modulus
    a = (samples(n) * 3)[:101]
    a = [x % n**2 for x in a]
    e = RNG.getrandbits(200) | 1 << 199
    each = [0, 1, *(RNG.getrandbits(60) for _ in a[2:])]
    for threads in ("1", "2", "7"):
        monkeypatch.setenv("VFL_THREADS", threads)
        assert kernel.unpack(kernel.pow_uniform(kernel.pack(a), e, secret_bits=int(secret))) == [
            pow(x, e, n * n) for x in a
        ]
        expected = [pow(x, y, n * n) for x, y in zip(a, each, strict=True)]
        assert kernel.unpack(kernel.pow_uniform(kernel.pack(a), each, secret_bits=int(secret))) == expected


def test_as_many_exponents_as_values(kernel: Kernel) -> None:
    with pytest.raises(CryptoError, match="2 exponents for 3"):
        kernel.pow_uniform(kernel.pack([1, 2, 3]), [1, 2])


def test_pow_each(kernel: Kernel) -> None:
    n = kernel.modulus
    a = [x % n**2 for x in samples(n)]
    exponents = [RNG.getrandbits(30) for _ in a]
    exponents[0] = 0
    expected = [pow(x, e, n * n) for x, e in zip(a, exponents, strict=True)]
    assert kernel.unpack(kernel.pow_uniform(kernel.pack(a), exponents)) == expected


def test_take_and_join(kernel: Kernel) -> None:
    a = [x % kernel.modulus**2 for x in samples(kernel.modulus)]
    packed = kernel.pack(a)
    assert kernel.unpack(kernel.take(packed, slice(3, 9, 2))) == a[3:9:2]
    assert kernel.unpack(kernel.take(packed, np.array([5, 5, 0]))) == [a[5], a[5], a[0]]
    assert kernel.unpack(kernel.join([packed, kernel.pack([]), packed])) == a + a


def in_rows(numbers: list[int], width: int) -> np.ndarray:
    return np.frombuffer(b"".join(x.to_bytes(width) for x in numbers), np.uint8).reshape(len(numbers), width)


def test_rows_are_canonical(kernel: Kernel) -> None:
    nn = kernel.modulus**2
    numbers = [x % nn for x in samples(kernel.modulus)]
    width = (nn.bit_length() + 7) // 8
    rows = kernel.to_rows(kernel.pack(numbers))
    assert (rows.dtype, rows.shape) == (np.uint8, (len(numbers), width))
    assert (rows == in_rows(numbers, width)).all()
    assert kernel.to_rows(kernel.pack([])).shape == (0, width)
    products = kernel.mul_pairs(kernel.pack(numbers), np.arange(8), kernel.pack(numbers), np.arange(8))
    assert (kernel.to_rows(products) == in_rows([x * x % nn for x in numbers[:8]], width)).all()


@pytest.mark.parametrize("times", [0.5, 1, 2, 2.5, 3, 4, 5])
def test_rows_of_any_width_are_reduced(kernel: Kernel, times: float) -> None:
    """From narrower than n^2 to 5 |n| bits, with all bits set and around the multiples of n and n^2."""
    n = kernel.modulus
    width = max(1, int(times * n.bit_length()) // 8)
    edges = [0, 1, n - 1, n, n + 1, n * n - 1, n * n, n * n + 1, 2 * n * n - 1, n**3, 256**width - 1]
    numbers = [x % 256**width for x in (*edges, *(RNG.getrandbits(8 * width) for _ in range(20)))]
    assert kernel.unpack(kernel.from_rows(in_rows(numbers, width))) == [x % (n * n) for x in numbers]
    assert len(kernel.from_rows(np.zeros((0, width), np.uint8))) == 0


def test_rows_in_any_memory_order(kernel: Kernel) -> None:
    numbers = [x % kernel.modulus**2 for x in samples(kernel.modulus)]
    rows = kernel.to_rows(kernel.pack(numbers))
    assert kernel.unpack(kernel.from_rows(np.asfortranarray(rows))) == numbers
    assert kernel.unpack(kernel.from_rows(rows[::-3])) == numbers[::-3]


def test_one_plus_and_logarithms(kernel: Kernel) -> None:
    n = kernel.modulus
    k = [0, 1, -1, n - 1, n, n + 1, -n, n * n, -(n**3) - 2, *(RNG.randrange(-n * n, n * n) for _ in range(20))]
    values = one_plus(kernel, k)
    assert kernel.unpack(values) == [(1 + x * n) % n**2 for x in k]
    assert kernel.logarithms(values) == [x % n for x in k]
    assert kernel.logarithms(kernel.pack([1 + x % n * n for x in k])) == [x % n for x in k]
    squares = kernel.pow_uniform(values, 2)
    assert kernel.logarithms(squares) == [2 * x % n for x in k]
    assert (len(one_plus(kernel, [])), kernel.logarithms(kernel.pack([]))) == (0, [])


@each_kernel
@pytest.mark.parametrize(("p", "q"), PRIMES)
def test_recombine(open_: Callable[[int], Kernel], p: int, q: int) -> None:
    kernel, kernel_p, kernel_q = open_(p * q), open_(p), open_(q)
    n = p * q
    numbers = [x % n**2 for x in (*samples(n), p, q, p * p, q * q, n * n - p * p)]
    at_p, at_q = kernel_p.pack([x % p**2 for x in numbers]), kernel_q.pack([x % q**2 for x in numbers])
    assert kernel.unpack(kernel.recombine(kernel_p, at_p, kernel_q, at_q)) == numbers
    assert kernel.unpack(kernel.recombine(kernel_q, at_q, kernel_p, at_p)) == numbers
    assert len(kernel.recombine(kernel_p, kernel_p.pack([]), kernel_q, kernel_q.pack([]))) == 0


@each_kernel
@given(st.sampled_from(MODULI), st.lists(st.integers(0, 2**5130), max_size=5))
@settings(deadline=None, max_examples=60)
def test_any_numbers_through_rows(open_: Callable[[int], Kernel], n: int, numbers: list[int]) -> None:
    kernel, width = open_(n), (5 * n.bit_length() + 7) // 8
    wide = [x % 256**width for x in numbers]
    values = kernel.from_rows(in_rows(wide, width))
    assert kernel.unpack(values) == [x % n**2 for x in wide]
    assert kernel.unpack(kernel.from_rows(kernel.to_rows(values))) == kernel.unpack(values)


def test_costs_are_in_products(kernel: Kernel) -> None:
    costs = kernel.costs
    assert 0 < costs.squaring <= 1 <= costs.many_uses
    assert 0 < costs.reused <= 1
    assert min(costs.plaintext, costs.prepared) >= 0
    assert costs.at_once >= 1


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFL_KERNEL", "gmpy2")
    assert kernel_name() == "gmpy2"
    assert isinstance(open_kernel(15), Gmpy2Kernel)
    monkeypatch.setenv("VFL_KERNEL", "")
    assert kernel_name() in ("ifma", "gmpy2")
    monkeypatch.setenv("VFL_KERNEL", "abacus")
    for attempt in (kernel_name, lambda: open_kernel(15)):
        with pytest.raises(ConfigError, match=r"VFL_KERNEL.*'abacus'.*gmpy2"):
            attempt()
