"""Every element in one of its bins: how many bins it takes, and that a place is found wherever there is one."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln

from psi.cuckoo import EMPTY, NoPlace, bin_count, bins_of, place

SIZES = [*range(1, 420), *(int(500 * 1.3**i) for i in range(30)), 1_000_000]


def elements(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32), np.uint8)


def failure_bits(count, bins):
    """Log to base 2 of the bound in the module's docstring."""
    k = np.arange(4, count + 1, dtype=np.float64)
    if not len(k):
        return -math.inf
    taken = k * np.log((k - 1) * (k - 2) * (k - 3))
    for z in (2.1, 2.15, 2.2, 2.5, 3.0):
        taken = np.minimum(taken, gammaln(3 * k + 1) - 3 * k * math.log(z) + (k - 1) * math.log(math.expm1(z) - z))
    logs = _log_choose(count, k) + _log_choose(bins, k - 1) + taken - k * math.log(bins * (bins - 1) * (bins - 2))
    return (logs.max() + math.log(np.exp(logs - logs.max()).sum())) / math.log(2)


def _log_choose(n, k):
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def has_place(bins, count):
    """Whether all elements can be placed, by augmenting paths."""
    owner = {}

    def settle(element, tried):
        for where in bins[element]:
            if where not in tried:
                tried.add(where)
                if where not in owner or settle(owner[where], tried):
                    owner[where] = element
                    return True
        return False

    return all(settle(element, set()) for element in range(len(bins)))


def test_too_few_bins_once_in_2_to_the_40():
    assert max(failure_bits(count, bin_count(count)) for count in SIZES) <= -40


def test_no_bins_are_wasted():
    """With so many fewer the bound does not hold, except for a handful, which cost nothing."""
    assert all(failure_bits(count, int(0.85 * bin_count(count))) > -40 for count in SIZES if count > 10)
    assert all(failure_bits(count, int(0.995 * bin_count(count))) > -40 for count in SIZES if count > 20_000)


@pytest.mark.parametrize(("count", "bins"), [(4, 4), (5, 6), (6, 7), (8, 10)])
def test_bound_is_above_what_happens(count, bins):
    """Against many draws, at sizes at which it happens."""
    draws = bins_of(elements(count * 2000), b"seed", bins).reshape(2000, count, 3)
    failed = sum(not has_place(draw.tolist(), bins) for draw in draws)
    assert failed / 2000 <= 1.1 * 2 ** failure_bits(count, bins)


@given(st.integers(1, 3000), st.integers(3, 5000), st.integers(0, 2**32))
@settings(max_examples=50)
def test_three_different_bins(count, bins, seed):
    found = bins_of(elements(count, seed), bytes(32), bins)
    assert found.shape == (count, 3)
    assert found.min() >= 0
    assert found.max() < bins
    assert all((found[:, i] != found[:, j]).all() for i, j in itertools.combinations(range(3), 2))


def test_bins_are_even():
    """All 60 ordered choices of 3 out of 5, by chi-squared: above 120 once in 10^5."""
    found = bins_of(elements(60_000), b"another seed", 5)
    counts = np.unique(found @ [25, 5, 1], return_counts=True)[1]
    assert len(counts) == 60
    assert ((counts - 1000) ** 2 / 1000).sum() < 120


def test_bins_follow_from_seed_and_element():
    rows = elements(500)
    one = bins_of(rows, b"a" * 32, 10**6)
    assert (bins_of(rows[100:200], b"a" * 32, 10**6) == one[100:200]).all()
    assert (bins_of(rows, b"b" * 32, 10**6) != one).mean() > 0.99


@pytest.mark.parametrize("count", [1, 2, 3, 4, 50, 1000, 30_000])
def test_all_are_placed(count):
    bins = bins_of(elements(count), bytes(32), bin_count(count))
    table = place(bins, bin_count(count))
    where = np.flatnonzero(table.elements != EMPTY)
    who = table.elements[where]
    assert np.sort(who).tolist() == list(range(count))
    assert (bins[who, table.functions[who]] == where).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 8), st.integers(1, 9), st.integers(0, 2**32))
def test_a_place_is_found_where_there_is_one(bins, count, seed):
    drawn = bins_of(elements(count, seed), bytes(32), bins)
    if has_place(drawn.tolist(), bins):
        assert np.count_nonzero(place(drawn, bins).elements != EMPTY) == count
    else:
        with pytest.raises(NoPlace):
            place(drawn, bins)
