"""Long vectors are checked by random subset products: one bad number among thousands is found."""

import random
import secrets
from dataclasses import replace

import numpy as np
import pytest

from vfl.paillier import PrivateKey, symbols
from vfl.paillier.gmp import jacobi
from vfl.paillier.gmpy2_kernel import Gmpy2Kernel
from vfl.paillier.ifma_kernel import IfmaKernel, why_not_ifma
from vfl.paillier.kernels import Kernel
from vfl.paillier.symbols import all_symbols_are_one

RNG = random.Random(11)
KERNELS = [Gmpy2Kernel, *([] if why_not_ifma() else [IfmaKernel])]
COUNT = 1500


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest, key: PrivateKey) -> Kernel:
    made: Kernel = request.param(key.public.n)
    return made


def good(n: int) -> int:
    return next(x for x in iter(lambda: RNG.randrange(n * n), None) if jacobi(x % n, n) == 1)


def bad(n: int, symbol: int, prime: int) -> int:
    if symbol == 0:
        return prime * RNG.randrange(1, n)
    return next(x for x in iter(lambda: RNG.randrange(n * n), None) if jacobi(x % n, n) == -1)


def accepted(kernel: Kernel, numbers: list[int]) -> bool:
    values = kernel.pack(numbers)
    return all_symbols_are_one(kernel, kernel.to_rows(values), values)


@pytest.mark.parametrize("always", [False, True])
def test_a_bad_number_is_found(kernel: Kernel, key: PrivateKey, always: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if always:  # subset products whatever the kernel's costs say
        dear = replace(kernel.costs, symbol=1000.0)
        monkeypatch.setattr(type(kernel), "costs", property(lambda _: dear))
    n = kernel.modulus
    numbers = [good(n) for _ in range(COUNT)]
    assert accepted(kernel, numbers)
    for symbol in (-1, 0):
        for place in (0, RNG.randrange(COUNT), COUNT - 1):
            spoilt = list(numbers)
            spoilt[place] = bad(n, symbol, key.primes()[0])
            assert not accepted(kernel, spoilt)
    assert not accepted(kernel, [bad(n, -1, 0), bad(n, -1, 0), *numbers])  # whose product has symbol +1


def test_every_subset_is_what_its_bits_say(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    n, count = kernel.modulus, 30
    numbers = [good(n) for _ in range(count)]
    drawn = bytes(RNG.randrange(256) for _ in range(5 * count))
    monkeypatch.setattr(secrets, "token_bytes", lambda length: drawn[:length])
    got = kernel.unpack(symbols._subset_products(kernel, kernel.pack(numbers)))
    chosen = np.frombuffer(drawn, dtype=np.uint8).reshape(5, count)
    for subset, product in enumerate(got):
        expected = 1
        for number, byte in zip(numbers, chosen[subset // 8].tolist(), strict=True):
            expected = expected * number % (n * n) if byte >> subset % 8 & 1 else expected
        assert product == expected


def test_short_vectors_are_checked_one_by_one(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbols, "_subset_products", None)
    assert accepted(kernel, [good(kernel.modulus) for _ in range(20)])
    assert accepted(kernel, [])
