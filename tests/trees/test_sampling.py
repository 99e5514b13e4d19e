"""Rows, columns and integers that trees are grown on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.trees.sampling import (
    FRACTION_BITS,
    FixedGradients,
    draw_columns,
    draw_goss,
    draw_rows,
    fix_gradients,
    goss_counts,
)

many = settings(deadline=None, max_examples=100)


@given(st.integers(1, 500), st.floats(0.001, 1.0), st.integers(0, 2**31), st.integers(0, 1000))
@many
def test_rows(rows: int, share: float, seed: int, round_number: int) -> None:
    drawn = draw_rows(rows, share, seed, round_number)
    assert drawn.dtype == np.int64
    assert len(drawn) == max(1, int(share * rows + 0.5))
    assert (np.diff(drawn) > 0).all()
    assert 0 <= drawn[0]
    assert drawn[-1] < rows
    np.testing.assert_array_equal(drawn, draw_rows(rows, share, seed, round_number))


@given(st.integers(1, 60), st.floats(0.001, 1.0), st.integers(0, 2**31), st.integers(0, 1000))
@many
def test_columns(columns: int, share: float, seed: int, tree: int) -> None:
    drawn = draw_columns(columns, share, seed, tree)
    assert drawn.sum() == (columns if share == 1 else max(1, int(share * columns)))
    assert drawn.shape == (columns,)
    np.testing.assert_array_equal(drawn, draw_columns(columns, share, seed, tree))


def test_all_of_it() -> None:
    assert draw_rows(5, 1.0, 3, 4).tolist() == [0, 1, 2, 3, 4]
    assert draw_columns(3, 1.0, 3, 4).all()
    assert draw_columns(0, 0.5, 3, 4).tolist() == []


def test_every_round_and_seed_draws_anew() -> None:
    draws = {tuple(draw_rows(40, 0.5, seed, number).tolist()) for seed in range(5) for number in range(5)}
    assert len(draws) == 25
    masks = {tuple(draw_columns(40, 0.5, seed, number).tolist()) for seed in range(5) for number in range(5)}
    assert len(masks) == 25
    rows = set(draw_rows(40, 0.5, 0, 0).tolist())
    assert rows != set(np.flatnonzero(draw_columns(40, 0.5, 0, 0)).tolist())  # nor do columns follow rows


def test_every_row_and_column_has_its_chance() -> None:
    times = np.bincount(np.concatenate([draw_rows(20, 0.25, 7, number) for number in range(2000)]), minlength=20)
    assert np.abs(times / 2000 - 0.25).max() < 0.05  # five standard deviations
    times = np.sum([draw_columns(20, 0.25, 7, number) for number in range(2000)], axis=0)
    assert np.abs(times / 2000 - 0.25).max() < 0.05


@given(st.integers(1, 300), st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.integers(0, 2**31))
@many
def test_goss(n: int, top_rate: float, other_rate: float, seed: int) -> None:
    """The rows of largest gradient are kept as they are; others count as many as they stand for."""
    rng = np.random.default_rng(seed)
    size, labels = rng.random(n), rng.integers(0, 2, n).astype(float)
    rows, factors = draw_goss(size, top_rate, other_rate, labels, seed, 3)
    top, others = goss_counts(n, top_rate, other_rate)
    assert top == min(n, max(1, round(top_rate * n + 1e-9)))
    assert len(rows) == len(factors) == top + others <= n
    assert (np.diff(rows) > 0).all()
    kept = set(np.argsort(-size)[:top].tolist())
    assert kept <= set(rows.tolist())
    for row, factor in zip(rows.tolist(), factors.tolist(), strict=True):
        assert factor == (1.0 if row in kept else pytest.approx((n - top) / others))
    assert factors.sum() == pytest.approx(n if others else top)
    again = draw_goss(size, top_rate, other_rate, labels, seed, 3)
    np.testing.assert_array_equal(rows, again[0])
    np.testing.assert_array_equal(factors, again[1])


def test_goss_is_unbiased() -> None:
    """Over many rounds the weighted sums are those of all rows."""
    rng = np.random.default_rng(0)
    g, labels, inside = rng.normal(size=400), rng.integers(0, 2, 400).astype(float), rng.random(400) < 0.3
    sums = []
    for number in range(3000):
        rows, factors = draw_goss(np.abs(g), 0.2, 0.2, labels, 0, number)
        sums.append((factors * g[rows]) @ np.stack([inside[rows], ~inside[rows]], axis=1))
    means, deviations = np.mean(sums, axis=0), np.std(sums, axis=0) / np.sqrt(len(sums))
    expected = np.array([g[inside].sum(), g[~inside].sum()])
    assert (deviations > 0).all()
    assert (np.abs(means - expected) < 4.5 * deviations).all(), (means, expected, deviations)


def test_goss_draws_from_labels_that_nobody_else_has() -> None:
    size, labels = np.arange(50, dtype=float), np.arange(50) % 2.0
    rows = draw_goss(size, 0.2, 0.2, labels, 0, 0)[0].tolist()
    flipped = labels.copy()
    flipped[7] = 1 - flipped[7]
    assert rows != draw_goss(size, 0.2, 0.2, flipped, 0, 0)[0].tolist()
    assert rows != draw_goss(size, 0.2, 0.2, labels, 1, 0)[0].tolist()
    assert rows != draw_goss(size, 0.2, 0.2, labels, 0, 1)[0].tolist()


def test_goss_of_equal_gradients_keeps_the_first() -> None:
    rows, factors = draw_goss(np.ones(10), 0.3, 0.2, np.zeros(10), 0, 0)
    assert rows[factors == 1].tolist() == [0, 1, 2]


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e6)), min_size=1, max_size=30),
    st.integers(-60, 60),
    st.integers(1, 2),
)
@settings(deadline=None, max_examples=60)
def test_integers_are_close(pairs: list[tuple[float, float]], exponent: int, outputs: int) -> None:
    """Off by at most 2^-24 of the largest, and exact sums of them."""
    numbers = np.ldexp(np.array(pairs), exponent)
    g, h = (np.repeat(column[:, None], outputs, axis=1) for column in numbers.T)
    g = g * np.arange(1, outputs + 1)
    rows = np.arange(len(g))
    fixed = fix_gradients(g, h, rows)
    assert fixed.values.shape == (len(g), 2 * outputs)
    assert np.abs(fixed.values).max() < 2**FRACTION_BITS
    assert (fixed.values[:, 1::2] >= 0).all()
    real = fixed.real(fixed.values)
    assert real.shape == (len(g), outputs, 2)
    for column, values in ((0, g), (1, h)):
        largest = max(float(np.abs(values).max()), 2.0**-500)
        assert np.abs(real[:, :, column] - values).max() <= largest * 2.0**-FRACTION_BITS * 2
        assert np.abs(real[:, :, column].sum() - values.sum()) <= len(g) * outputs * largest * 2.0**-FRACTION_BITS * 2
    np.testing.assert_array_equal(fixed.real(fixed.values.sum(axis=0)), real.sum(axis=0))
    assert len(fixed.rows) == len(g)


@pytest.mark.parametrize("top", [1.0, 0.5, 1 - 2.0**-26, 2.0**-40, 3.0])
def test_the_largest_fills_its_bits(top: float) -> None:
    fixed = fix_gradients(np.array([[top], [-top], [top / 3]]), np.array([[top], [0.0], [top]]), np.arange(3))
    for values in fixed.values.T:
        assert 2 ** (FRACTION_BITS - 1) <= np.abs(values).max() < 2**FRACTION_BITS
    assert fixed.values[0, 0] == -fixed.values[1, 0]


def test_nothing_but_zeros() -> None:
    fixed = fix_gradients(np.zeros((3, 1)), np.zeros((3, 1)), np.arange(3))
    assert not fixed.values.any()
    assert not fixed.real(fixed.values).any()


def test_sums_of_no_nodes_have_a_shape() -> None:
    fixed = FixedGradients(np.arange(2), np.ones((2, 4), np.int64), 24, 26)
    assert fixed.real(np.zeros((0, 4), np.int64)).shape == (0, 2, 2)
    np.testing.assert_array_equal(fixed.real(np.array([1 << 24, 1 << 26, 0, 2 << 26])), [[1, 1], [0, 2]])
    assert fixed.mask(4).tolist() == [True, True, False, False]
