"""Intervals and tests: against scikit-learn on resampled rows, against DeLong's definition, and for coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vfl.metrics import METRIC_NAMES, evaluate
from vfl.report import statistics
from vfl.report.evidence import Evidence
from vfl.report.statistics import MAIN_METRIC, bootstrap_intervals, compare, delong, resampled_metrics

TASKS = list(METRIC_NAMES)


def make_evidence(task: str, n: int = 150, seed: int = 0, *, ties: bool = False) -> Evidence:
    """Two models, the first the better one; ``ties`` gives few distinct scores."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    noise = {"joint": 0.5, "active_only": 2.0}
    if task == "multiclass":
        codes = rng.integers(3, size=n)
        logits = {name: 2 * np.eye(3)[codes] / size + rng.normal(size=(n, 3)) for name, size in noise.items()}
        scores = {name: np.exp(one) / np.exp(one).sum(axis=1, keepdims=True) for name, one in logits.items()}
        return Evidence(task, ("a", "b", "c"), codes, scores)
    noisy = {name: z + size * rng.normal(size=n) for name, size in noise.items()}
    if ties:
        noisy = {name: np.round(one) for name, one in noisy.items()}
    if task == "binary":
        return Evidence(
            task, ("no", "yes"), (z > 0.3).astype(float), {name: 1 / (1 + np.exp(-p)) for name, p in noisy.items()}
        )
    if task == "count":
        return Evidence(task, (), rng.poisson(np.exp(z)).astype(float), {n: np.exp(p) for n, p in noisy.items()})
    return Evidence(task, (), 1e6 + z, {name: 1e6 + p for name, p in noisy.items()})


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("task", TASKS)
def test_figures_of_resamples_are_those_of_scikit_learn(task: str, ties: bool) -> None:
    evidence = make_evidence(task, 60, ties=ties)
    figures = resampled_metrics(evidence, 5, ["joint"])["joint"]
    assert tuple(figures) == METRIC_NAMES[task]
    assert {len(values) for values in figures.values()} == {1000}
    counts = np.concatenate(list(statistics._resamples(60, 5)))
    for number in (0, 1, 500, 999):
        rows = np.repeat(np.arange(60), counts[number].astype(int))
        assert len(rows) == 60
        expected = evaluate(task, evidence.y[rows], evidence.predicted["joint"][rows], evidence.classes)
        for name, figure in expected.items():
            assert figures[name][number] == pytest.approx(figure, rel=1e-7), name


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 0.2, 0.5, 1.0])), min_size=2, max_size=12),
    st.integers(0, 2**32 - 1),
)
def test_binary_figures_of_any_rows(cells: list[tuple[float, float]], seed: int) -> None:
    """Ties, one class only, scores at the ends; what scikit-learn calls undefined is not finite here."""
    y, p = np.array(cells).T
    counts = np.random.default_rng(seed).integers(0, 3, size=(1, len(y))).astype(float)
    rows = np.repeat(np.arange(len(y)), counts[0].astype(int))
    if len(rows) != len(y):
        counts, rows = np.ones((1, len(y))), np.arange(len(y))
    with np.errstate(all="ignore"):
        figures = statistics._measure(Evidence("binary", ("0", "1"), y, {}), p)(counts)
    for name, expected in evaluate("binary", y[rows], p[rows]).items():
        value = float(figures[name][0])
        assert math.isfinite(value) if expected is not None else not math.isfinite(value), name
        if expected is not None:
            assert value == pytest.approx(expected, abs=1e-12)


def test_the_seed_alone_makes_the_resamples() -> None:
    evidence = make_evidence("binary")
    both, one = bootstrap_intervals(evidence, 3), bootstrap_intervals(evidence, 3, ["active_only"])
    assert both["active_only"] == one["active_only"]
    assert list(both) == ["joint", "active_only"] and list(one) == ["active_only"]
    assert bootstrap_intervals(evidence, 4)["joint"] != both["joint"]


@pytest.mark.parametrize(("n", "resamples"), [(10, 1000), (10_001, 999), (200_000, 100)])
def test_the_more_rows_the_fewer_resamples(n: int, resamples: int) -> None:
    totals = np.concatenate([counts.sum(axis=1) for counts in statistics._resamples(n, 0)])
    assert totals.tolist() == [n] * resamples


def test_95_of_100_intervals_hold_the_truth() -> None:
    """Means of squared errors and of hits, where the truth is known; and the AUC of two normal distributions."""
    rng = np.random.default_rng(0)
    held = {"rmse": 0, "auc": 0, "accuracy": 0}
    for seed in range(200):
        zeros = np.zeros(120)
        numbers = bootstrap_intervals(Evidence("regression", (), rng.normal(size=120), {"joint": zeros}), seed)["joint"]
        y = (rng.random(120) < 0.5).astype(float)
        p = 1 / (1 + np.exp(-(rng.normal(size=120) + 2 * y - 1)))
        classes = bootstrap_intervals(Evidence("binary", ("0", "1"), y, {"joint": p}), seed)["joint"]
        truth = {"rmse": 1.0, "auc": 0.9213504, "accuracy": 0.8413447}  # Phi(2 / sqrt 2), Phi(1)
        for name, figure in truth.items():
            low, high = (numbers | classes)[name]
            held[name] += low <= figure <= high
    assert all(178 <= count <= 199 for count in held.values()), held


@pytest.mark.parametrize("task", TASKS)
def test_few_rows_say_nothing(task: str) -> None:
    evidence = make_evidence(task, 9)
    assert bootstrap_intervals(evidence, 0) == {}
    if task != "binary":
        assert compare(evidence, 0) == {}


def test_what_is_undefined_is_left_out() -> None:
    one_class = Evidence("binary", ("0", "1"), np.zeros(20), {"joint": np.linspace(0, 1, 20), "pooled": np.zeros(20)})
    assert not {"auc", "ks"} & set(bootstrap_intervals(one_class, 0)["joint"])
    assert {"accuracy", "brier"} < set(bootstrap_intervals(one_class, 0)["joint"])
    assert compare(one_class, 0) == {}
    equal = Evidence("regression", (), np.full(20, 0.1), {"joint": np.linspace(0, 1, 20)})
    assert list(bootstrap_intervals(equal, 0)["joint"]) == ["rmse", "mae"]
    for task in TASKS:
        broken = make_evidence(task)
        broken.predicted["active_only"][3] = np.inf
        assert list(bootstrap_intervals(broken, 0)) == ["joint"]
        assert compare(broken, 0) == {}


def test_huge_numbers_have_no_figures_and_no_warnings() -> None:
    scores = {"joint": np.zeros(20), "pooled": np.ones(20)}
    evidence = Evidence("regression", (), np.linspace(-1e200, 1e200, 20), scores)
    assert list(bootstrap_intervals(evidence, 0)["joint"]) == ["mae"]
    assert compare(evidence, 0) == {}


@pytest.mark.parametrize("task", TASKS)
def test_the_better_model_is_found_and_equal_ones_are_equal(task: str) -> None:
    evidence = make_evidence(task, 300)
    evidence.predicted["pooled"] = evidence.predicted["joint"].copy()
    found = compare(evidence, 0)
    assert list(found) == ["active_only", "pooled"]
    worse, equal = found["active_only"], found["pooled"]
    figures = {name: evaluate(task, evidence.y, p, evidence.classes) for name, p in evidence.predicted.items()}
    metric = MAIN_METRIC[task]
    expected = (figures["joint"][metric] or 0) - (figures["active_only"][metric] or 0)
    assert worse.difference == pytest.approx(expected, rel=1e-9)
    assert (worse.difference > 0) is (task in ("binary", "multiclass"))
    assert worse.low <= worse.difference <= worse.high and worse.low * worse.high > 0
    assert worse.p_value < 0.01
    assert (equal.difference, equal.low, equal.high, equal.p_value) == (0, 0, 0, 1)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_p_values_of_equal_models_are_uniform(task: str) -> None:
    """Two models with noise of the same kind: 5 % of the tests find a difference that is not there."""
    found = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        z = rng.normal(size=100)
        scores = {name: z + rng.normal(size=100) for name in ("joint", "pooled")}
        y = (z > 0).astype(float) if task == "binary" else z
        found += compare(Evidence(task, (), y, scores), seed)["pooled"].p_value < 0.05
    assert 2 <= found <= 22


def brute_force(y: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Difference of the AUCs and its variance, from all pairs: DeLong et al., equations 2 to 5."""

    def wins(scores: np.ndarray) -> np.ndarray:
        gaps = scores[y == 1][:, None] - scores[y == 0][None, :]
        return (gaps > 0) + (gaps == 0) / 2

    pairs = [wins(a), wins(b)]
    above, below = np.array([one.mean(axis=1) for one in pairs]), np.array([one.mean(axis=0) for one in pairs])
    S = np.cov(above) / above.shape[1] + np.cov(below) / below.shape[1]
    return pairs[0].mean() - pairs[1].mean(), S[0, 0] + S[1, 1] - 2 * S[0, 1]


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = draw(st.integers(4, 40))
    rest = draw(hnp.arrays(np.int64, n - 4, elements=st.integers(0, 1)))
    few = st.sampled_from([-3.0, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1e9])
    a, b = (draw(hnp.arrays(np.float64, n, elements=few | st.floats(-5, 5))) for _ in range(2))
    return np.concatenate([[0, 0, 1, 1], rest]).astype(float), a, b


@settings(max_examples=200, deadline=None)
@given(scored())
def test_delong_is_what_all_pairs_say(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    y, a, b = rows
    difference, variance = brute_force(y, a, b)
    tested = delong(y, a, b)
    assert tested is not None
    assert tested.difference == pytest.approx(difference, abs=1e-12)
    half = 1.959963984540054 * math.sqrt(max(variance, 0.0))
    assert tested.high - tested.low == pytest.approx(2 * half, abs=1e-6)
    assert tested.high + tested.low == pytest.approx(2 * difference, abs=1e-12)
    if variance > 1e-12:
        assert tested.p_value == pytest.approx(math.erfc(abs(difference) / math.sqrt(2 * variance)), abs=1e-6)
    else:
        assert tested.p_value == (tested.difference == 0)


@settings(max_examples=50, deadline=None)
@given(scored())
def test_delong_sees_the_order_alone_and_changes_sign(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    y, a, b = rows
    one, other, ranked = delong(y, a, b), delong(y, b, a), delong(y, np.searchsorted(np.unique(a), a) / 7, b)
    assert one is not None and other is not None
    assert (one.difference, one.low, one.p_value) == (-other.difference, -other.high, other.p_value)
    assert one == ranked


def test_delong_survives_scores_without_variance() -> None:
    y = np.array([0.0, 0, 0, 1, 1])
    constant, perfect = np.full(5, 0.4), y + 0.1
    assert delong(y, constant, constant.copy()) == statistics.Comparison("auc", 0, 0, 0, 1, "delong")
    assert delong(y, perfect, constant) == statistics.Comparison("auc", 0.5, 0.5, 0.5, 0, "delong")
    mixed = delong(y, np.array([0.1, 0.5, 0.2, 0.4, 0.9]), constant)
    assert mixed is not None and 0 < mixed.p_value < 1


@pytest.mark.parametrize("positives", [0, 1, 4, 5])
def test_delong_needs_two_rows_of_each_class(positives: int) -> None:
    y = (np.arange(5) < positives).astype(float)
    assert delong(y, np.arange(5.0), np.zeros(5)) is None


def test_delong_on_a_known_case() -> None:
    """Worked by hand: of 2 negatives the positives beat 2, 2, 1 by a and 2, 0, 1 by b; the differences 0, 1, 0 have
    variance 1 / 3, and their mean 1 / 9; of the negatives each is beaten by one more of 3, which has none."""
    y = np.array([0.0, 0, 1, 1, 1])
    tested = delong(y, np.array([0.3, 0.6, 0.7, 0.8, 0.5]), np.array([0.3, 0.6, 0.7, 0.1, 0.5]))
    assert tested is not None
    assert tested.difference == pytest.approx(5 / 6 - 3 / 6)
    assert (tested.high - tested.low) / 2 == pytest.approx(1.959963984540054 * 1 / 3)
