"""Vector-free L-BFGS against the textbook's vectors, the line search, and the preconditioner."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.optim import Pair, basis_products, combine, dot, lbfgs_direction, line_search, preconditioner, remember

CUTS = (2, 0, 3, 4)  # of parties' blocks; one is empty
WIDTH = sum(CUTS)


def problem(seed: int, pairs: int) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """Steps, changes (of a convex quadratic), a gradient, and each party's preconditioner."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(WIDTH, WIDTH))
    hessian = root @ root.T + 0.1 * np.eye(WIDTH)
    steps = [rng.normal(size=WIDTH) for _ in range(pairs)]
    blocks = [rng.normal(size=(d, d)) for d in CUTS]
    return steps, [hessian @ s for s in steps], rng.normal(size=WIDTH), [b @ b.T + np.eye(len(b)) for b in blocks]


def textbook(steps: list[np.ndarray], changes: list[np.ndarray], g: np.ndarray, P: np.ndarray) -> np.ndarray:
    """Nocedal and Wright, algorithm 7.4, with H_0 = gamma P."""
    q, alphas = g.copy(), []
    for s, y in reversed(list(zip(steps, changes, strict=True))):
        alphas.append(s @ q / (y @ s))
        q -= alphas[-1] * y
    gamma = steps[-1] @ changes[-1] / (changes[-1] @ P @ changes[-1]) if steps else 1.0
    r = gamma * P @ q
    for s, y, alpha in zip(steps, changes, reversed(alphas), strict=True):
        r += s * (alpha - y @ r / (y @ s))
    return -r


@pytest.mark.parametrize("pairs", [0, 1, 2, 8])
@pytest.mark.parametrize("seed", range(5))
def test_the_recursion_on_products_is_the_textbooks_on_vectors(pairs: int, seed: int) -> None:
    steps, changes, g, blocks = problem(seed, pairs)
    P = np.zeros((WIDTH, WIDTH))
    ends = np.cumsum([0, *CUTS])
    parts = [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    for part, block in zip(parts, blocks, strict=True):
        P[part, part] = block
    kept = [
        [Pair(s[part, None], y[part, None], block @ y[part, None]) for s, y in zip(steps, changes, strict=True)]
        for part, block in zip(parts, blocks, strict=True)
    ]
    products = [
        basis_products(pairs_, g[part, None], block @ g[part, None])
        for pairs_, part, block in zip(kept, parts, blocks, strict=True)
    ]
    assert {len(p) for p in products} == {(2 * pairs + 1) * (pairs + 1)}
    coefficients, slope = lbfgs_direction([math.fsum(column) for column in zip(*products, strict=True)], pairs)
    direction = np.vstack(
        [
            combine(coefficients, pairs_, block @ g[part, None])
            for pairs_, part, block in zip(kept, parts, blocks, strict=True)
        ]
    )[:, 0]
    expected = textbook(steps, changes, g, P)
    np.testing.assert_allclose(direction, expected, rtol=1e-7, atol=1e-9 * np.abs(expected).max())
    assert slope == pytest.approx(g @ expected, rel=1e-7)
    assert slope < 0


def test_no_descent_is_left_without_curvature() -> None:
    pair = Pair(np.ones((2, 1)), -np.ones((2, 1)), -np.ones((2, 1)))
    g = np.ones((2, 1))
    assert lbfgs_direction(basis_products([pair], g, g), 1) == ([0.0] * 3, 0.0)


def test_memory_keeps_the_newest() -> None:
    pairs: list[Pair] = []
    for i in range(5):
        pairs = remember(pairs, Pair(np.full(1, i), np.zeros(1), np.zeros(1)), 3)
    assert [float(p.step[0]) for p in pairs] == [2, 3, 4]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.randoms())
def test_dot_does_not_depend_on_the_order(values: list[float], random: object) -> None:
    a = np.array(values)
    b = np.cos(a)
    order = list(range(len(a)))
    random.shuffle(order)
    assert dot(a, b) == dot(a[order], b[order])


@settings(max_examples=60)
@given(st.floats(1e-4, 1e3), st.floats(1e-3, 1e3))
def test_line_search_finds_the_minimum_of_a_parabola(minimum: float, bend: float) -> None:
    t = line_search(lambda t: bend * (t - minimum), -bend * minimum, lambda t: True)
    assert (t * 2**20).is_integer()
    assert abs(t - minimum) <= 0.01 * minimum + 2**-20


@settings(max_examples=60)
@given(st.floats(1e-3, 50.0), st.floats(1e-3, 50.0))
def test_line_search_stays_where_it_is_allowed(minimum: float, border: float) -> None:
    t = line_search(lambda t: t - minimum, -minimum, lambda t: t <= border)
    assert 0 <= t <= border
    assert t >= 0.98 * min(minimum, border) - 2**-19


def test_line_search_ends_at_zero_where_nothing_is_allowed() -> None:
    assert line_search(lambda t: t - 1, -1.0, lambda t: t <= 0) == 0.0


def test_line_search_ends_on_a_slope_without_minimum() -> None:
    assert 0 < line_search(lambda t: -1.0, -1.0, lambda t: True) <= 2.0**20


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_preconditioner_inverts_the_block(l2: float) -> None:
    X = np.random.default_rng(0).normal(size=(50, 4))
    gram = X.T @ X / 50
    P = preconditioner(gram, np.full(4, l2), 0.25)
    np.testing.assert_allclose(P @ (0.25 * gram + l2 * np.eye(4)), np.eye(4), atol=1e-12)
    np.testing.assert_allclose(P, P.T, rtol=1e-12)


def test_preconditioner_leaves_out_flat_directions() -> None:
    X = np.random.default_rng(0).normal(size=(50, 3))
    X = np.column_stack([X, X[:, 0], np.zeros(50)])  # a twin and a constant column
    gram = X.T @ X / 50
    P = preconditioner(gram, np.zeros(5), 1.0)
    np.testing.assert_allclose(P, np.linalg.pinv(gram), atol=1e-9)
    assert preconditioner(np.zeros((0, 0)), np.zeros(0), 1.0).shape == (0, 0)
