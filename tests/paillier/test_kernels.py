"""The kernel against Python integers; a further kernel joins the parametrisation here."""

import math
import random

import numpy as np
import pytest

from parties.errors import ConfigError
from vfl.paillier import gmpy2_kernel, kernel_name
from vfl.paillier.gmpy2_kernel import Gmpy2Kernel
from vfl.paillier.kernels import Kernel, open_kernel

RNG = random.Random(5)


def samples(n: int) -> list[int]:
    edges = [0, 1, 2, n - 1, n, n + 1, n * n - n, n * n - 1]
    return [*edges, *(RNG.randrange(n * n) for _ in range(40))]


def product(factors: list[int], modulus: int) -> int:
    result = 1
    for factor in factors:
        result = result * factor % modulus
    return result


@pytest.fixture(params=[3, 15, 2**61 - 1, 2**512 - 569, 2**1024 + 643])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return Gmpy2Kernel(request.param)


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


@pytest.mark.parametrize("base", [0, 1, 2, 10**9 + 7])
def test_fixed_base(kernel: Kernel, base: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after the table changes its form, and for bases that are no units."""
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


@pytest.mark.parametrize("secret", [False, True])
@pytest.mark.parametrize("e", [0, 1, 2, 3, 8, 1 << 40, (1 << 70) - 1])
def test_pow_uniform(kernel: Kernel, e: int, secret: bool) -> None:
    n = kernel.modulus
    a = [x % n**2 for x in samples(n)]
    assert kernel.unpack(kernel.pow_uniform(kernel.pack(a), e, secret=secret)) == [pow(x, e, n * n) for x in a]


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


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "gmpy2"):
        monkeypatch.setenv("VFL_KERNEL", value)
        assert kernel_name() == "gmpy2"
    monkeypatch.setenv("VFL_KERNEL", "abacus")
    for attempt in (kernel_name, lambda: open_kernel(15)):
        with pytest.raises(ConfigError, match=r"VFL_KERNEL.*'abacus'.*gmpy2"):
            attempt()
