"""Buckets: equal elements meet, every element has one, and the public length holds them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psi.buckets import bucket_count, bucket_of, capacity, in_bucket
from psi.elements import elements_of
from psi.lists import STATISTICAL_BITS
from tests.psi.exchanges import people


def test_one_bucket_up_to_twice_the_aim():
    assert bucket_count({"bank": 10, "shop": 2000}, 1000) == 1
    assert bucket_count({"bank": 10, "shop": 2001}, 1000) == 3


@given(st.integers(0, 300), st.integers(1, 40))
def test_every_element_is_in_its_bucket_and_in_no_other(count, buckets):
    elements = elements_of(people(0, count))
    cut = [in_bucket(elements, number, buckets) for number in range(buckets)]
    assert np.sort(np.concatenate(cut)).tolist() == list(range(count))
    if buckets > 1:
        which = bucket_of(elements, buckets)
        assert all((which[indices] == number).all() for number, indices in enumerate(cut))
    assert all((np.diff(indices) > 0).all() for indices in cut)


def test_the_bucket_is_a_function_of_the_element_alone():
    here, there = elements_of(people(0, 60)), elements_of(people(30, 90)[::-1])
    assert bucket_of(here, 7)[30:].tolist() == bucket_of(there, 7)[::-1][:30].tolist()


def overflow(ids, buckets, length):
    """P[a bucket of so many gets more than ``length`` of ``ids``], summed over the buckets: exact binomial tail."""
    log = math.lgamma(ids + 1) - np.array([math.lgamma(k + 1) + math.lgamma(ids - k + 1) for k in range(ids + 1)])
    k = np.arange(ids + 1)
    log += -k * math.log(buckets) + (ids - k) * math.log1p(-1 / buckets)
    return buckets * float(np.exp(log[length + 1 :]).sum())


@pytest.mark.parametrize("buckets", [2, 5, 40])
@pytest.mark.parametrize("ids", [1, 10, 100, 1000, 20_000])
def test_a_bucket_overflows_once_in_2_to_the_40(ids, buckets):
    assert overflow(ids, buckets, capacity(ids, buckets)) <= 2.0**-STATISTICAL_BITS


def test_padding_is_little_where_lists_are_long():
    assert capacity(50_000_000, 25) < 1.01 * 2_000_000
    assert capacity(1000, 1) == 1000
    assert capacity(5, 9) == 5
