"""Randomised response: exact expectations and privacy ratios, observed frequencies, refusals."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.errors import ConfigError, LocalProtocolError
from vfl import label_dp
from vfl.label_dp import estimates, flip_threshold, randomise_labels, to_possible_shares

EPSILONS = (0.01, 0.5, 1.0, 3.0, 12.0, 36.0, 50.0)

epsilons = pytest.mark.parametrize("epsilon", EPSILONS)
class_counts = pytest.mark.parametrize("classes", [2, 3, 10])


def probabilities(classes: int, epsilon: float) -> tuple[Fraction, Fraction]:
    """Chances, as drawn, to keep the label, and of each other class."""
    flip = Fraction(flip_threshold(classes, epsilon), 2**128)
    return 1 - flip, flip / (classes - 1)


@epsilons
@class_counts
def test_expectation_is_the_label(classes: int, epsilon: float) -> None:
    """Over all outcomes, in exact arithmetic on the probabilities as drawn and the two estimates as returned."""
    keep, other = probabilities(classes, epsilon)
    absent, present = (Fraction(value) for value in estimates(classes, epsilon))
    of_own_class = keep * present + (1 - keep) * absent
    of_another = other * present + (1 - other) * absent
    assert abs(float(of_own_class - 1)) <= 1e-15 * (1 + float(present))
    assert abs(float(of_another)) <= 1e-15 * (1 + float(present))


@epsilons
@class_counts
def test_privacy_ratio_is_at_most_e_to_epsilon(classes: int, epsilon: float) -> None:
    keep, other = probabilities(classes, epsilon)
    assert other > 0
    exact = math.exp(epsilon)
    assert float(keep / other) <= exact * (1 + 1e-13)  # the comparison's own rounding
    assert float(keep / other) == pytest.approx(exact, rel=1e-12)
    context = label_dp._PRECISE
    upper = context.exp(label_dp.Decimal(epsilon))
    ratio = context.divide(label_dp.Decimal((keep / other).numerator), label_dp.Decimal((keep / other).denominator))
    assert ratio <= upper


@settings(deadline=None)
@given(st.floats(1e-6, 50), st.integers(2, 1000))
def test_estimates_of_any_epsilon(epsilon: float, classes: int) -> None:
    absent, present = estimates(classes, epsilon)
    assert absent < 0
    assert 1 <= present < math.inf
    assert present - absent > 1 - 1e-15  # 1 / (p - q), never of nothing
    assert present + (classes - 1) * absent == pytest.approx(1, abs=1e-15 * classes * present)
    assert 0 < flip_threshold(classes, epsilon) <= math.ceil(2**128 * Fraction(classes - 1, classes))


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
@pytest.mark.parametrize("classes", [3, 5])
def test_frequencies_of_classes(classes: int, epsilon: float) -> None:
    n = 200_000
    _, present = estimates(classes, epsilon)
    for label in range(classes):
        drawn = randomise_labels(np.full(n, label), classes, epsilon)
        assert drawn.shape == (n, classes)
        counts = (drawn == present).sum(axis=0)
        assert counts.sum() == n
        for answer, count in enumerate(counts.tolist()):
            share = float(probabilities(classes, epsilon)[answer != label])
            assert abs(count - n * share) <= 6 * math.sqrt(n * share * (1 - share))


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_frequencies_of_two_classes(label: float, epsilon: float) -> None:
    n = 200_000
    drawn = randomise_labels(np.full(n, label), 2, epsilon)
    absent, present = estimates(2, epsilon)
    assert drawn.shape == (n,)
    assert drawn.dtype == np.float64
    assert set(drawn.tolist()) == {absent, present}
    keep = math.exp(epsilon) / (math.exp(epsilon) + 1)
    kept = int((drawn == (present if label else absent)).sum())
    assert abs(kept - n * keep) <= 6 * math.sqrt(n * keep * (1 - keep))
    spread = (present - absent) * math.sqrt(keep * (1 - keep) / n)
    assert abs(drawn.mean() - label) <= 6 * spread


def test_rows_are_independent() -> None:
    drawn = randomise_labels(np.zeros(200_000), 2, 1.0)
    centred = drawn - drawn.mean()
    for lag in (1, 2, 64):
        correlation = (centred[lag:] * centred[:-lag]).mean() / centred.var()
        assert abs(correlation) <= 6 / math.sqrt(len(drawn))


def test_every_call_draws_anew() -> None:
    y = np.zeros(256)
    assert (randomise_labels(y, 2, 0.5) != randomise_labels(y, 2, 0.5)).any()  # equal with chance below 2^-150


def test_large_epsilon_returns_the_labels() -> None:
    y = np.tile([0.0, 1.0], 50)
    np.testing.assert_array_equal(np.rint(randomise_labels(y, 2, 50.0)), y)
    codes = np.arange(99) % 3
    np.testing.assert_array_equal(randomise_labels(codes, 3, 50.0).argmax(axis=1), codes)


def test_codes_of_two_classes_give_two_columns() -> None:
    drawn = randomise_labels(np.array([0, 1, 1]), 2, 1.0)
    assert drawn.shape == (3, 2)
    np.testing.assert_allclose(drawn.sum(axis=1), 1, rtol=1e-15)


def test_labels_stay_as_they_are() -> None:
    codes = np.arange(300) % 3
    randomise_labels(codes, 3, 0.1)
    np.testing.assert_array_equal(codes, np.arange(300) % 3)


def test_threshold_compares_both_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The label is flipped for exactly ``threshold`` of the 2^128 draws: the last that flips, the first that stays."""
    threshold = flip_threshold(2, 50.0)
    assert threshold < 2**64 * 2**20  # the high word alone could not tell
    words: list[int] = []
    monkeypatch.setattr(label_dp, "_random_words", lambda count: np.full(count, words.pop(0), dtype=np.uint64))
    for drawn, flipped in ((threshold - 1, 1), (threshold, 0), (0, 1), (2**128 - 1, 0), (threshold + 2**64, 0)):
        words[:] = [drawn >> 64, drawn % 2**64, 0]
        assert label_dp._respond(np.zeros(1, dtype=np.int64), 2, threshold).tolist() == [flipped]


def test_words_beyond_the_last_multiple_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = [[2**64 - 1, 5, 2**64 - 1], [2**64 - 1, 7], [2**64 - 2]]
    monkeypatch.setattr(label_dp, "_random_words", lambda count: np.array(draws.pop(0), dtype=np.uint64))
    assert label_dp._random_below(3, 3).tolist() == [(2**64 - 2) % 3, 5 % 3, 7 % 3]  # 3 divides 2^64 - 1
    assert not draws


@pytest.mark.parametrize("bound", [1, 2, 3, 7, 2**31])
def test_integers_below(bound: int) -> None:
    drawn = label_dp._random_below(bound, 10_000)
    assert drawn.min() >= 0
    assert drawn.max() < bound
    if bound <= 7:
        counts = np.bincount(drawn, minlength=bound)
        assert np.abs(counts - 10_000 / bound).max() <= 6 * math.sqrt(10_000 / bound)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, 1e-7, math.nan, math.inf])
def test_epsilon_must_be_a_positive_number(epsilon: float) -> None:
    with pytest.raises(ConfigError, match="label_dp_epsilon"):
        randomise_labels(np.zeros(3), 2, epsilon)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (np.array([0.0, 0.5]), 2),
        (np.array([0.0, 2.0]), 2),
        (np.array([-1, 0]), 3),
        (np.array([0, 3]), 3),
        (np.array([0, 0]), 1),
    ],
)
def test_labels_must_be_codes(values: np.ndarray, classes: int) -> None:
    with pytest.raises(LocalProtocolError, match="not codes"):
        randomise_labels(values, classes, 1.0)


def test_a_million_rows() -> None:
    start = time.perf_counter()
    randomise_labels(np.arange(1_000_000) % 10, 10, 1.0)
    assert time.perf_counter() - start < 10  # measured: 0.3 s


def test_possible_shares_stay_bit_for_bit() -> None:
    for labels in (np.array([0.0, 1.0, 1.0]), np.array([-0.5, 1.5, 1.5]), np.array([0, 0, 0])):
        assert to_possible_shares(labels) is labels


@pytest.mark.parametrize("weighted", [False, True])
def test_impossible_shares_become_half_a_row(weighted: bool) -> None:
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=50) if weighted else np.ones(50)
    weights /= weights.mean()
    few = np.where(rng.random(50) < 0.1, 1.5, -0.5)
    moved = to_possible_shares(few, weights)
    assert np.ptp(moved - few) < 1e-14
    assert (moved * weights).mean() == pytest.approx(0.01)
    assert (to_possible_shares(1 - few, weights) * weights).mean() == pytest.approx(0.99)
    absent, present = estimates(3, 0.5)
    table = np.where(np.arange(3) == 0, present, absent) * np.ones((50, 1))
    table[:20] = table[:20, [1, 0, 2]]
    moved = to_possible_shares(table, weights)
    shares = (moved * weights[:, None]).mean(axis=0)
    assert shares.sum() == pytest.approx(1)
    assert shares.min() > 0.001
    assert np.ptp(moved - table, axis=0).max() < 1e-14
    np.testing.assert_allclose(moved.sum(axis=1), 1, rtol=1e-13)
