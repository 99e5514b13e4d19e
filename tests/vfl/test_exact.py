"""Quantising once, and exact integer products."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.errors import DataError, LocalProtocolError
from vfl.exact import exact_matmul, quantise


@settings(deadline=None)
@given(
    st.lists(st.floats(-150, 150), min_size=1, max_size=30),
    st.floats(1e-4, 1),
)
def test_quantise_follows_its_formula(values: list[float], factor: float) -> None:
    X = np.array(values)[:, None] * factor
    n_train = (len(values) + 1) // 2
    block = quantise(X, n_train)
    largest = float(np.abs(X[:n_train]).max())
    bits = 15 if largest == 0 else int(np.clip(15 - math.ceil(math.log2(largest)), 10, 15))
    assert block.scale_bits.tolist() == [bits]
    assert block.integers.dtype == np.int64
    assert block.integers[:, 0].tolist() == [round(float(x) * 2**bits) for x in X[:, 0]]  # round halves to even, too
    assert (np.abs(block.integers * 2.0**-bits - X) <= 2.0 ** -(bits + 1)).all()


def test_quantise_rounds_halves_to_even() -> None:
    X = np.array([[0.5], [1.5], [2.5], [-0.5], [-1.5]]) * 2.0**-15
    assert quantise(X, 5).integers.ravel().tolist() == [0, 2, 2, 0, -2]


def test_quantise_refuses_what_is_not_standardised() -> None:
    for bad in (np.array([[1e10], [0.0]]), np.array([[np.nan], [0.0]]), np.array([[0.0], [np.nan]])):
        with pytest.raises(DataError, match="standardised"):
            quantise(bad, 1)


def python_product(A: np.ndarray, B: np.ndarray) -> list[list[int]]:
    rows, columns = A.tolist(), B.T.tolist()
    return [[sum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in rows]


@settings(deadline=None)
@given(
    st.integers(0, 6),
    st.integers(0, 7),
    st.integers(0, 6),
    st.integers(1, 61),
    st.integers(1, 61),
    st.integers(0, 2**32),
)
def test_exact_matmul_equals_python_integers(n: int, k: int, m: int, bits_a: int, bits_b: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits_b = max(1, min(bits_b, 58 - bits_a))
    A = rng.integers(-(2**bits_a), 2**bits_a, (n, k), endpoint=True)
    B = rng.integers(-(2**bits_b), 2**bits_b, (k, m), endpoint=True)
    try:
        product = exact_matmul(A, B)
    except LocalProtocolError:
        bound = python_product(np.abs(A), np.abs(B))
        assert max(max(row) for row in bound) >= 2**62 * 0.999
        return
    assert product.tolist() == python_product(A, B)
    assert product.shape == (n, m)


@pytest.mark.parametrize(("bits_a", "bits_b"), [(18, 30), (30, 18), (24, 24), (40, 7), (1, 47)])
@pytest.mark.parametrize("k", [4095, 4096, 4097, 9000])
def test_exact_matmul_over_several_blocks(bits_a: int, bits_b: int, k: int) -> None:
    rng = np.random.default_rng(k)
    A = rng.integers(-(2**bits_a), 2**bits_a, (4, k))
    A[0] = 2**bits_a
    B = rng.integers(-(2**bits_b), 2**bits_b, (k, 5))
    B[:, 0] = -(2**bits_b)
    assert exact_matmul(A, B).tolist() == python_product(A, B)
    assert exact_matmul(A, B[:, 0]).tolist() == [row[0] for row in python_product(A, B)]


def test_exact_matmul_is_exact_where_floats_are_not() -> None:
    A = np.array([[2**30 + 1, 1]] * 4)
    exact = [[(2**30 + 1) ** 2 + 1] * 4] * 4
    assert exact_matmul(A, A.T).tolist() == exact
    assert (A.astype(float) @ A.T.astype(float)).astype(np.int64).tolist() != exact


def test_exact_matmul_cancellation_within_range_is_judged_by_magnitudes() -> None:
    assert exact_matmul(np.array([[2**31, -(2**31)]]), np.array([2**29, 2**29])).tolist() == [0]
    with pytest.raises(LocalProtocolError, match="2\\^62"):
        exact_matmul(np.array([[2**31, -(2**31)]]), np.array([2**31, 2**31]))
    with pytest.raises(LocalProtocolError, match="2\\^62"):
        exact_matmul(np.array([[-(2**63)]]), np.array([0]))


def test_exact_matmul_does_not_depend_on_the_order_of_columns() -> None:
    rng = np.random.default_rng(5)
    A = rng.integers(-(2**18), 2**18, (5, 5000))
    B = rng.integers(-(2**30), 2**30, (5000, 6))
    order = rng.permutation(5000)
    np.testing.assert_array_equal(exact_matmul(A, B), exact_matmul(A[:, order], B[order]))
    np.testing.assert_array_equal(exact_matmul(A, B), exact_matmul(np.asfortranarray(A), B))
