"""Leverage against its definition, the columns that go, and the cases that a minimum count misses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from parties.leverage import LIMIT, columns_to_drop, leverage, row_leverage
from parties.policy import Guards

Floats = NDArray[np.float64]
rng = np.random.default_rng(5)


def by_definition(X: Floats) -> Floats:
    Z = np.column_stack([np.ones(len(X)), X])
    return np.diag(Z @ np.linalg.pinv(Z, rcond=1e-12))


def names(X: Floats) -> list[str]:
    return [f"c{j}" for j in range(X.shape[1])]


@pytest.mark.parametrize(("n", "d"), [(50, 1), (50, 8), (9, 8), (8, 8), (4, 8), (1, 3), (30, 0)])
def test_is_the_diagonal_of_the_hat_matrix(n: int, d: int) -> None:
    X = rng.normal(size=(n, d)) * 10.0 ** rng.integers(-3, 4, size=d) + 5
    np.testing.assert_allclose(row_leverage(X), by_definition(X), atol=1e-8)


def test_redundant_and_constant_columns_do_not_count() -> None:
    X = rng.normal(size=(40, 3))
    wide = np.column_stack([X, X[:, 0] + X[:, 1], np.full(40, 0.1), np.full(40, 1e9)])
    np.testing.assert_allclose(row_leverage(wide), row_leverage(X), atol=1e-9)


def test_sums_to_the_rank() -> None:
    X = np.column_stack([rng.normal(size=(60, 4)), np.eye(3)[rng.integers(0, 3, 60)]])
    assert row_leverage(X).sum() == pytest.approx(1 + 4 + 2)


def test_ordinary_columns_pass() -> None:
    X = rng.normal(size=(2000, 12))
    assert leverage(X, names(X), party="biller") == (None, ())


def test_a_row_that_half_decides_itself_warns() -> None:
    X = rng.normal(size=(1000, 3))
    X[3, 1] = 45.0
    assert 0.5 < row_leverage(X).max() < 0.9
    verdict, columns = leverage(X, names(X), party="biller")
    assert verdict is not None
    assert (verdict.level, columns) == ("warn", ())


def test_an_outlier_takes_its_own_column_along() -> None:
    X = rng.normal(size=(1000, 5))
    X[17, 2] = 1e6
    verdict, columns = leverage(X, names(X), party="biller")
    assert verdict is not None
    assert (verdict.level, columns) == ("drop", (2,))
    assert "'c2'" in str(verdict)
    assert "party 'biller'" in str(verdict)
    assert row_leverage(np.delete(X, columns, axis=1)).max() <= LIMIT


@pytest.mark.parametrize("difference", [1.0, 1e-2, 1e-4])
def test_two_columns_that_differ_in_one_row_are_seen(difference: float) -> None:
    """Each value occurs 10,000 times: a minimum count per column sees nothing."""
    half = np.repeat([0.0, 1.0], 10_000)
    twin = half.copy()
    twin[7] += difference
    X = np.column_stack([half, twin, rng.normal(size=20_000)])
    assert row_leverage(X).max() > 0.99
    columns = columns_to_drop(X)
    assert len(columns) == 1
    assert columns[0] in (0, 1)


def test_a_rare_category_of_a_full_one_hot_goes_though_the_others_imply_it() -> None:
    kinds = rng.integers(0, 3, 2000)
    kinds[0] = 3
    X = np.column_stack([rng.normal(size=2000), np.eye(4)[kinds]])
    columns = columns_to_drop(X)
    assert 4 in columns
    assert 0 not in columns
    assert row_leverage(np.delete(X, columns, axis=1)).max() <= LIMIT


def test_more_columns_than_rows_leave_few() -> None:
    X = rng.normal(size=(30, 60))
    kept = np.delete(X, columns_to_drop(X), axis=1)
    assert 0 < kept.shape[1] < 30
    assert row_leverage(kept).max() <= LIMIT


def test_one_machine_warns_and_companies_leave_the_column_out() -> None:
    X = rng.normal(size=(600, 2))
    X[0, 1] = 1e5
    verdict, columns = leverage(X, names(X), party="biller")
    one_machine = Guards(enforce=False, small_data=False)
    assert not one_machine.heed(verdict)
    assert "between companies columns would be left out" in one_machine.warnings[0]
    assert Guards(enforce=True, small_data=False).heed(verdict)
    assert columns == (1,)


def test_many_columns_are_counted_not_listed() -> None:
    X = np.eye(40)
    verdict, columns = leverage(X, names(X), party="biller")
    assert len(columns) == 40
    assert "and 32 more" in str(verdict)


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (5, 0)])
def test_nothing_to_check(shape: tuple[int, int]) -> None:
    X = np.zeros(shape)
    assert leverage(X, names(X), party="biller") == (None, ())


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 12))
def test_what_is_left_is_always_within_the_limit(seed: int, n: int, d: int) -> None:
    draw = np.random.default_rng(seed)
    X = np.where(draw.random((n, d)) < 0.3, draw.normal(size=(n, d)) * 100, draw.integers(0, 2, (n, d)))
    kept = np.delete(X, columns_to_drop(X), axis=1)
    if n >= 2:
        assert row_leverage(kept).max() <= LIMIT + 1e-9
