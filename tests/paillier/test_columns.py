import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.paillier.columns import Windows, choose_windows, reduce_columns, signed_digits
from vfl.paillier.gmpy2_kernel import Gmpy2Kernel
from vfl.paillier.kernels import Costs

OURS = Gmpy2Kernel(15).costs
FLAT = Costs(  # no use is cheaper
    squaring=0.8, plaintext=5.0, symbol=2.5, many_uses=math.inf, reused=1.0, prepared=0.0, table_after=1, long_window=8
)
LARGEST = 1 << 62
entries = st.one_of(st.integers(-9, 9), st.integers(-LARGEST, LARGEST), st.sampled_from([LARGEST, -LARGEST]))


@given(st.lists(st.lists(entries, min_size=3, max_size=3), min_size=1, max_size=200))
@settings(deadline=None)
def test_reducing_is_exact(rows: list[list[int]]) -> None:
    X = np.array(rows * 70, dtype=np.int64)
    reduced = reduce_columns(X)
    again = reduced.small.astype(object) * reduced.divisors.astype(object) + reduced.offsets.astype(object)
    assert (again == X.astype(object)).all()
    assert (reduced.divisors >= 1).all()


def test_a_standardised_one_hot_column_is_zero_and_one() -> None:
    bits = np.random.default_rng(0).random(1000) < 0.1
    for column in (np.where(bits, 98304, -10923), np.where(bits, -98304, 10923), np.where(bits, 1 << 15, 0)):
        small = reduce_columns(column[:, None].astype(np.int64)).small
        assert np.count_nonzero(small) == bits.sum()
        assert np.abs(small).max() == 1


def test_a_constant_column_vanishes() -> None:
    reduced = reduce_columns(np.full((100, 1), 7, dtype=np.int64))
    assert not reduced.small.any()


def test_short_columns_are_left_alone() -> None:
    assert not reduce_columns(np.full((10, 1), 7, dtype=np.int64)).offsets.any()


@given(st.lists(entries, min_size=1, max_size=20), st.integers(1, 12), st.integers(1, 64))
def test_digits_add_up(values: list[int], width: int, count: int) -> None:
    X = np.array(values, dtype=np.int64)
    digits = signed_digits(X, Windows(width, count, tabled=False))
    assert len(digits) == count
    for i, x in enumerate(values):
        assert sum(int(d[i]) << (width * w) for w, d in enumerate(digits)) == x
    for d in digits[:-1]:
        assert (-(1 << (width - 1)) <= d).all()
        assert (d < max(1 << (width - 1), 1)).all()


@given(st.integers(0, LARGEST), st.integers(1, 50), st.sampled_from([1, 2, 16]), st.sampled_from([OURS, FLAT]))
@settings(deadline=None)
def test_table_digits_stay_within_the_table(largest: int, d: int, k: int, costs: Costs) -> None:
    nonzero, tops = np.full(d, 5000), np.full(d, largest)
    _, cuts = choose_windows(nonzero, tops, 300, k, costs)
    for windows in set(cuts):
        bounds = np.array([largest, -largest, largest - 1, 1 - largest], dtype=np.int64)
        top = signed_digits(bounds, windows)[-1]
        limit = 1 << (windows.width - 1) if windows.tabled else 1 << windows.width
        assert np.abs(top).max() <= limit


@pytest.mark.parametrize("costs", [OURS, FLAT])
@pytest.mark.parametrize(("k", "tabled"), [(1, False), (16, True)])
def test_many_slots_ask_for_tables(k: int, tabled: bool, costs: Costs) -> None:
    _, cuts = choose_windows(np.full(64, 2000), np.full(64, 2**15), 2000 // k, k, costs)
    assert {windows.tabled for windows in cuts} == {tabled}


def test_binary_columns_cost_their_ones() -> None:
    cost, cuts = choose_windows(np.array([300]), np.array([1]), 2000, 1, OURS)
    assert (cost, cuts) == (300.0, [Windows(1, 1, tabled=False)])


@pytest.mark.parametrize("k", [1, 16])
def test_more_columns_cost_more_and_each_of_them_less(k: int) -> None:
    costs = [choose_windows(np.full(d, 2000), np.full(d, 2**15), 2000 // k, k, OURS)[0] for d in (1, 4, 16, 64, 256)]
    assert costs == sorted(costs)
    each = [cost / d for cost, d in zip(costs, (1, 4, 16, 64, 256), strict=True)]
    assert each[-1] < each[0]


def test_a_kernel_that_gains_nothing_from_many_uses_pays_no_preparation() -> None:
    """64 columns of single-digit buckets: every nonzero entry is one use, and nothing else costs."""
    nonzero, largest = np.full(64, 2000), np.full(64, 1)
    assert choose_windows(nonzero, largest, 2000, 1, FLAT)[0] == 64 * 2000
    assert choose_windows(nonzero, largest, 2000, 1, OURS)[0] == OURS.reused * 64 * 2000 + OURS.prepared * 4000
