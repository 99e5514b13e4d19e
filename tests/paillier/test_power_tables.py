"""Powers as products of few factors, against plain powers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.paillier import power_tables
from vfl.paillier.gmpy2_kernel import Gmpy2Kernel
from vfl.paillier.kernels import open_kernel
from vfl.paillier.power_tables import factors_of_powers

N = 2**89 - 1
NN = N * N
KERNELS = (Gmpy2Kernel(N), open_kernel(N))


def check(base: list[int], exponent: list[int], bases: int, outputs: int) -> None:
    numbers = [pow(3, 5 * i + 1, NN) for i in range(bases * outputs)]
    for kernel in KERNELS:
        args = np.array(base, dtype=np.int64), np.array(exponent, dtype=np.int64)
        factors = factors_of_powers(kernel, kernel.pack(numbers), *args, outputs)
        values = kernel.unpack(factors.values)
        for o in range(outputs):
            made = [1] * len(base)
            for place, use, inverted in zip(factors.places, factors.uses, factors.inverted, strict=True):
                made[use] = made[use] * pow(values[place * outputs + o], -1 if inverted else 1, NN) % NN
            assert made == [pow(numbers[b * outputs + o], e, NN) for b, e in zip(base, exponent, strict=True)]


exponents = st.integers(-(2**40) + 1, 2**40 - 1) | st.integers(-70, 70)


@given(
    st.lists(st.tuples(st.integers(0, 4), exponents.filter(bool)), min_size=1, max_size=40),
    st.integers(1, 3),
    st.integers(1, 6),
)
@settings(deadline=None, max_examples=80)
def test_any_powers(uses: list[tuple[int, int]], outputs: int, times: int) -> None:
    """Bases without a use too, and every use again and again."""
    base, exponent = zip(*uses, strict=True)
    check(list(base) * times, list(exponent) * times, 6, outputs)


@pytest.mark.parametrize("lanes", [1, 64, 1 << 20])
@pytest.mark.parametrize("times", [1, 4], ids=["signed", "kept"])
@pytest.mark.parametrize("width", range(1, 11))
def test_every_width_and_way_of_making_tables(
    monkeypatch: pytest.MonkeyPatch, lanes: int, times: int, width: int
) -> None:
    """Digits at their ends: half of 2^w and the numbers beside it, alone and with carries."""
    monkeypatch.setattr(power_tables, "_LANES", lanes)
    monkeypatch.setattr(power_tables, "_choose", lambda asked, uses: np.full(len(asked.tops), width))
    half = 1 << (width - 1)
    sizes = [
        1,
        half,
        half + 1,
        2 * half - 1,
        2 * half,
        2 * half + 1,
        2 * half * half + half,
        2 * half * half + half + 1,
    ]
    sizes += [4 * half * half - 1, 4 * half * half, 2**23 - 1, -(2**23)]
    base = [0] * len(sizes) + [2] * 3
    check(base * times, [*sizes, 1, -1, 2] * times, 3, 2)


def test_a_power_that_many_want_is_one_factor() -> None:
    kernel = KERNELS[0]
    exponent = np.array([1000, -1000, 777, 5] * 30)
    factors = factors_of_powers(kernel, kernel.pack([3]), np.zeros(120, dtype=np.int64), exponent, 1)
    assert (np.bincount(factors.uses) == 1).all()
    assert len(np.unique(factors.places)) == 3
    assert (factors.inverted == (exponent < 0)[factors.uses]).all()


def test_powers_that_one_wants_each_are_not_kept() -> None:
    kernel = KERNELS[0]
    exponent = np.arange(1, 3000, 12)
    factors = factors_of_powers(kernel, kernel.pack([3]), np.zeros(len(exponent), dtype=np.int64), exponent, 1)
    assert len(factors.values) < 110
    assert np.bincount(factors.uses).max() == 2
