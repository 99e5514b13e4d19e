"""Curves and counts against scikit-learn and the metrics of the report."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import poisson
from sklearn import metrics as sk

from vfl.report import curves

pairs = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0])), min_size=2, max_size=60)
both = pairs.filter(lambda rows: len({label for label, _ in rows}) == 2)


def arrays(rows: list[tuple[bool, float]]) -> tuple[np.ndarray, np.ndarray]:
    y, p = zip(*rows, strict=True)
    return np.array(y, dtype=np.float64), np.array(p)


@given(both)
def test_areas_equal_scikit_learns(rows: list[tuple[bool, float]]) -> None:
    y, p = arrays(rows)
    held = curves.ranked(y, p)
    assert curves.area(*curves.roc(held)) == pytest.approx(sk.roc_auc_score(y, p))
    assert curves.precision_recall(held)[2] == pytest.approx(sk.average_precision_score(y, p))


@given(both)
def test_no_threshold_has_a_larger_f1(rows: list[tuple[bool, float]]) -> None:
    y, p = arrays(rows)
    threshold, best = curves.best_f1(curves.ranked(y, p))
    assert sk.f1_score(y, p >= threshold) == pytest.approx(best)
    assert all(sk.f1_score(y, p >= other, zero_division=0) <= best + 1e-12 for other in np.unique(p))


@given(both, st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_confusion_equals_scikit_learns(rows: list[tuple[bool, float]], threshold: float) -> None:
    y, p = arrays(rows)
    expected = sk.confusion_matrix(y, p >= threshold, labels=[0, 1])
    assert curves.confusion(y, p, threshold).tolist() == expected.tolist()


@given(both)
def test_deciles_count_every_row_once(rows: list[tuple[bool, float]]) -> None:
    y, p = arrays(rows)
    lines = curves.deciles(y, p)
    assert sum(line.rows for line in lines) == len(y)
    assert sum(line.positives for line in lines) == y.sum()
    assert lines[-1].captured == pytest.approx(1)
    assert sum(line.lift * line.rows for line in lines) == pytest.approx(len(y))


@given(pairs)
def test_calibration_keeps_means_and_rows(rows: list[tuple[bool, float]]) -> None:
    y, p = arrays(rows)
    held = curves.calibration(y, p)
    assert held.rows.sum() == len(y) and (held.rows > 0).all()
    assert held.rows @ held.observed == pytest.approx(y.sum())
    assert held.rows @ held.predicted == pytest.approx(p.sum())
    assert (np.diff(held.predicted) > 0).all()


@settings(max_examples=25)
@given(st.integers(2, 5000), st.integers(0, 100))
def test_a_thinned_curve_keeps_its_ends_and_its_area(points: int, seed: int) -> None:
    y = np.cumsum(np.random.default_rng(seed).random(points))
    x = np.linspace(0, 1, points)
    few = curves.thinned(x, y)
    assert len(few[0]) <= curves.POINTS
    assert (few[0][0], few[0][-1], few[1][0], few[1][-1]) == (x[0], x[-1], y[0], y[-1])
    assert curves.area(*few) == pytest.approx(curves.area(x, y), rel=0.02)


@pytest.mark.parametrize("mean", [0.3, 40.0, 3000.0])
def test_expected_counts_are_poissons(mean: float) -> None:
    y = np.array([0.0, 2 * mean])
    edges = curves.count_edges(y)
    expected = curves.poisson_counts(np.full(1000, mean), edges)
    assert len(expected) <= 24
    assert expected[0] == pytest.approx(1000 * poisson.cdf(edges[1] - 1, mean))
    assert expected.sum() == pytest.approx(1000 * poisson.cdf(edges[-1] - 1, mean))


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0.01, 60)), min_size=1, max_size=30))
def test_deviance_equals_scikit_learns(rows: list[tuple[int, float]]) -> None:
    y, p = (np.array(values, dtype=np.float64) for values in zip(*rows, strict=True))
    expected = sk.mean_poisson_deviance(y, p)
    assert curves.poisson_deviance(y, p).mean() == pytest.approx(expected, abs=1e-9)
