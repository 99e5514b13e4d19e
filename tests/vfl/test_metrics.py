"""Metrics: names and order of the contract, figures by hand, None where undefined."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.metrics import METRIC_NAMES, evaluate


def test_names_and_order_are_the_contract() -> None:
    assert METRIC_NAMES == {
        "binary": ("auc", "ks", "accuracy", "precision", "recall", "f1", "log_loss", "brier"),
        "multiclass": ("accuracy", "macro_f1", "log_loss"),
        "regression": ("rmse", "mae", "r2"),
        "count": ("rmse", "mae", "poisson_deviance"),
    }


def test_binary_by_hand() -> None:
    y = np.array([1.0, 0.0, 1.0, 0.0])
    p = np.array([0.9, 0.6, 0.4, 0.2])
    figures = evaluate("binary", y, p, ["no", "yes"])
    assert tuple(figures) == METRIC_NAMES["binary"]
    assert figures["auc"] == 0.75
    assert figures["ks"] == 0.5
    assert figures["accuracy"] == figures["precision"] == figures["recall"] == figures["f1"] == 0.5
    assert figures["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.4, 0.8]).mean())
    assert figures["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.04) / 4)


def test_threshold_includes_one_half_and_zero_division_is_zero() -> None:
    assert evaluate("binary", np.array([1.0, 0.0]), np.array([0.5, 0.4]))["accuracy"] == 1.0
    none_positive = evaluate("binary", np.array([1.0, 0.0]), np.array([0.1, 0.1]))
    assert none_positive["precision"] == none_positive["recall"] == none_positive["f1"] == 0.0
    assert none_positive["auc"] == 0.5
    assert none_positive["ks"] == 0.0


def test_one_class_only_has_no_auc() -> None:
    figures = evaluate("binary", np.ones(3), np.array([0.2, 0.6, 0.9]))
    assert figures["auc"] is None
    assert figures["ks"] is None
    assert figures["accuracy"] == pytest.approx(2 / 3)


def test_certain_and_wrong_is_finite() -> None:
    assert math.isfinite(evaluate("binary", np.array([1.0, 0.0]), np.array([0.0, 1.0]))["log_loss"] or math.nan)
    wrong = evaluate("multiclass", np.array([0, 1]), np.array([[0.0, 1.0], [1.0, 0.0]]), ["a", "b"])
    assert math.isfinite(wrong["log_loss"] or math.nan)
    assert math.isfinite(evaluate("count", np.array([0.0, 2.0]), np.zeros(2))["poisson_deviance"] or math.nan)


def test_multiclass_by_hand() -> None:
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.4, 0.1]])
    figures = evaluate("multiclass", np.array([0, 1, 1]), p, ["a", "b", "c"])
    assert tuple(figures) == METRIC_NAMES["multiclass"]
    assert figures["accuracy"] == pytest.approx(2 / 3)
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert figures["log_loss"] == pytest.approx(-np.log([0.7, 0.8, 0.4]).mean())


def test_regression_by_hand() -> None:
    figures = evaluate("regression", np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 5.0]))
    assert figures == pytest.approx({"rmse": math.sqrt(4 / 3), "mae": 2 / 3, "r2": -1.0})
    assert evaluate("regression", np.ones(3), np.zeros(3))["r2"] is None
    assert evaluate("regression", np.ones(1), np.zeros(1)) == {"rmse": 1.0, "mae": 1.0, "r2": None}
    assert evaluate("regression", np.array([1e300, 0.0]), np.zeros(2))["rmse"] is None


def test_count_by_hand() -> None:
    figures = evaluate("count", np.array([0.0, 2.0]), np.array([1.0, 1.0]))
    assert figures == pytest.approx({"rmse": 1.0, "mae": 1.0, "poisson_deviance": (2 + 2 * (2 * math.log(2) - 1)) / 2})


@pytest.mark.parametrize("task", METRIC_NAMES)
def test_no_rows_or_no_finite_prediction_has_no_figures(task: str) -> None:
    shape = (0, 2) if task == "multiclass" else (0,)
    assert evaluate(task, np.zeros(0), np.zeros(shape), ["a", "b"]) == dict.fromkeys(METRIC_NAMES[task])
    bad = np.full((2, 2) if task == "multiclass" else 2, np.nan)
    assert evaluate(task, np.array([0.0, 1.0]), bad, ["a", "b"]) == dict.fromkeys(METRIC_NAMES[task])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=15))
def test_figures_are_json_numbers_in_range(rows: list[tuple[int, float]]) -> None:
    y, p = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    figures = evaluate("binary", y, p)
    json.dumps(figures, allow_nan=False)
    for name, value in figures.items():
        assert value is None or (value >= 0 and (name == "log_loss" or value <= 1)), name
