"""L-BFGS on sums: to the optimum of convex functions, back from out of range, on when the silos change."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfl.summed_descent import TRIALS, Evaluate, Point, Way, descend, is_flat, is_over, restore_way


def bowl(H: np.ndarray, b: np.ndarray, answered: tuple[str, ...] = ("a",)) -> Evaluate:
    """Half w'H w - b'w."""
    return lambda w: Point(w, float(w @ H @ w / 2 - b @ w), H @ w - b, answered)


def run(evaluate: Evaluate, start: np.ndarray, rounds: int, tol: float = 1e-18) -> Way:
    way = Way(evaluate(start))
    for _ in range(rounds):
        direction, slope = way.direction()
        if is_over(way, slope, tol) or (new := descend(way, direction, slope, evaluate)) is None:
            return way
        assert new.at.loss <= way.at.loss + 1e-12 * max(1.0, abs(way.at.loss))
        way = new
    return way


@st.composite
def bowls(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A positive definite matrix of condition up to 10^4, and any optimum."""
    d, seed = draw(st.integers(1, 6)), draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.normal(size=(d, d)))
    H = Q @ np.diag(10.0 ** rng.uniform(-2, 2, d)) @ Q.T
    return (H + H.T) / 2, rng.normal(size=d)


@given(bowls())
def test_it_finds_the_bottom_of_a_bowl(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    H, b = drawn
    way = run(bowl(H, b), np.zeros(len(b)), 200)
    assert np.abs(H @ way.at.weights - b).max() < 1e-6
    assert np.abs(way.at.weights - np.linalg.solve(H, b)).max() < 1e-4


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_the_size_of_the_function_does_not_matter(scale: float) -> None:
    H, b = np.diag([1.0, 3.0]) * scale, np.array([1.0, -1.0]) * scale
    way = run(bowl(H, b), np.zeros(2), 60, tol=1e-30)
    assert np.abs(way.at.weights - [1.0, -1 / 3]).max() < 1e-6


def test_points_out_of_range_are_turned_back_from() -> None:
    asked: list[float] = []

    def evaluate(w: np.ndarray) -> Point:
        asked.append(float(w[0]))
        inside = w[0] < 1.5
        loss = -math.log1p(-w[0] / 2) - w[0] if inside else math.inf
        return Point(w, loss, np.array([0.5 / (1 - w[0] / 2) - 1]) if inside else np.zeros(1), ("a",))

    way = Way(evaluate(np.array([0.0])))
    found = descend(way, np.array([64.0]), -32.0, evaluate)
    assert found is not None and max(asked) > 2 > found.at.weights[0] > 0
    assert run(evaluate, np.array([0.0]), 50).at.weights[0] == pytest.approx(1.0, abs=1e-7)


def test_where_nothing_descends_the_search_ends() -> None:
    count = []

    def evaluate(w: np.ndarray) -> Point:
        count.append(w)
        return Point(w, 1.0 + float(w @ w), -np.ones(1), ("a",))  # a gradient that lies

    way = Way(Point(np.zeros(1), 0.0, -np.ones(1), ("a",)))
    assert descend(way, np.ones(1), -1.0, evaluate) is None
    assert len(count) == TRIALS and not is_flat(way, -1.0) and is_flat(way, -1e-15)


def test_another_list_of_silos_is_another_function() -> None:
    """The way goes on from the new point, with no memory, and to the new optimum."""
    first, second = bowl(np.eye(2), np.array([1.0, 0.0])), bowl(np.diag([1.0, 9.0]), np.array([3.0, 1.0]), ("b",))
    way = Way(first(np.zeros(2)))
    for _ in range(2):
        new = descend(way, *way.direction(), bowl(np.diag([1.0, 2.0]), np.array([1.0, 1.0])))
        assert new is not None
        way = new
    assert way.pairs
    moved = descend(way, *way.direction(), second)
    assert moved is not None and moved.at.answered == ("b",) and moved.pairs == ()
    assert np.abs(run(second, moved.at.weights, 50).at.weights - [3.0, 1 / 9]).max() < 1e-6


def test_a_changed_list_that_is_out_of_range_turns_back_too() -> None:
    def evaluate(w: np.ndarray) -> Point:
        loss = math.inf if w[0] > 0.1 else float(w[0])
        return Point(w, loss, np.ones(1), ("b",))

    way = Way(Point(np.zeros(1), 5.0, -np.ones(1), ("a",)))
    found = descend(way, np.ones(1), -1.0, evaluate)
    assert found is not None and found.at.answered == ("b",) and 0 < found.at.weights[0] <= 0.1


def test_no_weights_are_evaluated_twice() -> None:
    H, b, asked = np.diag([1.0, 30.0]), np.array([1.0, 1.0]), []

    def evaluate(w: np.ndarray) -> Point:
        asked.append(w.tobytes())
        return bowl(H, b, ("a",) if len(asked) < 7 else ("b",))(w)

    run(evaluate, np.zeros(2), 30, tol=1e-12)
    assert len(set(asked)) == len(asked) > 8


def test_what_is_kept_goes_on_to_the_last_bit() -> None:
    evaluate = bowl(np.diag([1.0, 7.0, 50.0]), np.array([1.0, -2.0, 3.0]))
    way = run(evaluate, np.zeros(3), 5)
    arrays = way.arrays()
    at = Point(arrays["weights"], way.at.loss, arrays["gradient"], way.at.answered)
    again = restore_way(at, arrays["steps"], arrays["changes"])
    for _ in range(3):
        ways = [descend(each, *each.direction(), evaluate) for each in (way, again)]
        assert ways[0] is not None and ways[1] is not None
        assert ways[0].at.weights.tobytes() == ways[1].at.weights.tobytes()
        way, again = ways
