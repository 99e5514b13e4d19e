"""Sums over silos are those of the numbers in one place, rounded once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.errors import DataError
from parties.link import COORDINATOR, Endpoint
from parties.local import run_local
from parties.wire import Coordinator, Passive
from vfl.exact_sums import exact_total, from_pieces, largest_over, to_float, to_pieces, totals_over
from vfl.label_dp import randomise_labels
from vfl.losses import normalise_weights
from vfl.siblings import Siblings, siblings_of
from vfl.silo_objective import over_silos, shared_exponents, spread
from vfl.trees.objective import make_objective
from vfl.trees.sampling import fix_gradients

FINITE = st.floats(allow_nan=False, allow_infinity=False)
OUTPUTS = {"binary": 1, "regression": 1, "count": 1, "multiclass": 3}


def together(play: Callable[[Siblings, int], Any], silos: int) -> list[Any]:
    """What each silo of one party comes to."""
    names = [f"shop.s{i}" for i in range(silos)]

    def act(endpoint: Endpoint) -> Any:
        return play(siblings_of(endpoint, "test"), names.index(endpoint.name))

    roles = {COORDINATOR: Coordinator} | dict.fromkeys(names, Passive)
    results = run_local({COORDINATOR: lambda _: None} | dict.fromkeys(names, act), roles=roles)
    return [results[name] for name in names]


@given(st.lists(FINITE, max_size=40))
def test_a_sum_is_rounded_once(values: list[float]) -> None:
    try:
        expected = math.fsum(values)
    except OverflowError:  # of a partial sum
        return
    assert to_float(exact_total(np.array(values))) == expected


def test_subnormal_and_large_numbers() -> None:
    values = np.array([5e-324, 1e308, -1e308, 5e-324, 2.0**-1022])
    assert to_float(exact_total(values)) == math.fsum(values.tolist())


@given(st.lists(st.integers(-(2**2150), 2**2150), max_size=5))
def test_pieces_add_up(totals: list[int]) -> None:
    pieces = [to_pieces(total) for total in totals]
    assert all(abs(piece) < 1 << 200 for own in pieces for piece in own)
    assert from_pieces([sum(column) for column in zip(*pieces, strict=True)]) == sum(totals)


@pytest.mark.parametrize("silos", [1, 2, 4])
@settings(max_examples=10)
@given(values=st.lists(FINITE, min_size=1, max_size=12))
def test_sums_over_silos(silos: int, values: list[float]) -> None:
    def play(siblings: Siblings, at: int) -> list[int]:
        return totals_over(siblings, "sums", [exact_total(np.array(values[at::silos])), at])

    found = together(play, silos)
    assert found == [[exact_total(np.array(values)), sum(range(silos))]] * silos


@pytest.mark.parametrize("silos", [1, 2, 3])
@settings(max_examples=10)
@given(rows=st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 4095)), min_size=3, max_size=3))
def test_the_largest(silos: int, rows: list[tuple[int, int]]) -> None:
    found = together(lambda siblings, at: largest_over(siblings, "largest", rows[at], 12), silos)
    assert found == [[max(row[0] for row in rows[:silos]), max(row[1] for row in rows[:silos])]] * silos


def test_the_largest_shows_no_other_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sum that silos see is zero or random: how many hold a digit, and which, cannot be told from it."""
    seen: list[np.ndarray] = []
    honest = Siblings.words

    def words(self: Siblings, label: str, values: np.ndarray) -> np.ndarray:
        seen.append(honest(self, label, values))
        return seen[-1]

    monkeypatch.setattr(Siblings, "words", words)
    together(lambda siblings, at: largest_over(siblings, "largest", [[5], [77], [70]][at], 12), 3)
    top, low = (column for column in (seen[0][0], seen[3][0]))
    assert np.count_nonzero(top) == 77 >> 6 and np.count_nonzero(low) == 77 & 63
    assert len({int(word) for word in [*top, *low] if word}) == (77 >> 6) + (77 & 63)


@given(st.lists(st.floats(1e-140, 1e140), min_size=1, max_size=30))
def test_weights_are_scaled_by_their_sum_alone(weights: list[float]) -> None:
    """Times rows over their sum, so that silos can do the same; only subnormal results would be rounded twice."""
    scaled = normalise_weights(np.array(weights))
    total = exact_total(np.array(weights))
    factor = len(weights) / (total / (1 << total.bit_length()))
    np.testing.assert_array_equal(scaled, np.ldexp(np.array(weights), 1074 - total.bit_length()) * factor)


def make_case(task: str, rows: int, weighted: bool, estimated: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng([rows, weighted, estimated])
    outputs = OUTPUTS[task]
    scores = rng.normal(size=(rows, outputs))
    if task == "binary":
        y: Any = (np.arange(rows) % 2).astype(float)
    elif task == "multiclass":
        y = np.arange(rows) % 3
    else:
        y = rng.poisson(2, rows).astype(float) if task == "count" else 1e6 * rng.normal(size=rows)
    if estimated:
        y = randomise_labels(y, max(2, outputs), 0.2)
    return outputs, scores, y, rng.uniform(0, 5, rows) * 10.0 ** rng.integers(-9, 9) if weighted else None


TASKS = [*((task, False) for task in OUTPUTS), ("binary", True), ("multiclass", True)]


@pytest.mark.parametrize(("task", "estimated"), TASKS)
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
@pytest.mark.parametrize("silos", [1, 3])
@pytest.mark.parametrize("rows", [5, 60])
def test_an_objective_over_silos(rows: int, silos: int, task: str, weighted: bool, estimated: bool) -> None:
    outputs, scores, y, weights = make_case(task, rows, weighted, estimated)
    objective = make_objective(task, outputs)
    g, h = objective.gradients(scores, y)
    expected = objective.start(y, weights, None), objective.start(y, weights, 0.4), objective.loss(scores, y, weights)
    fixed = fix_gradients(g, h, np.arange(rows))

    def play(siblings: Siblings, at: int) -> Any:
        places = np.arange(rows)[at::silos]
        own = spread(y[places], places, rows)
        among = None if weights is None else np.where(np.isin(np.arange(rows), places), weights, 1e9)
        silo = over_silos(objective, siblings)
        start = silo.start(own, among, None), silo.start(own, among, 0.4), silo.loss(scores, own, among)
        mine = fix_gradients(*silo.gradients(scores, own), np.arange(rows), shared_exponents(siblings))
        return start, mine, places

    found = together(play, silos)
    for start, _, _ in found:
        for mine, theirs in zip(start, expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert {(mine.g_bits, mine.h_bits) for _, mine, _ in found} == {(fixed.g_bits, fixed.h_bits)}
    np.testing.assert_array_equal(sum(mine.values for _, mine, _ in found), fixed.values)
    for _, mine, places in found:
        assert set(np.flatnonzero(mine.values.any(axis=1)).tolist()) <= set(places.tolist())


def test_weights_that_are_all_zero() -> None:
    objective = make_objective("binary", 1)
    y = np.array([0.0, 1.0, 1.0])

    def play(siblings: Siblings, at: int) -> Any:
        with pytest.raises(DataError, match="all zero in all silos"):
            over_silos(objective, siblings).start(spread(y[at : at + 1], np.array([at]), 3), np.zeros(3), None)

    together(play, 3)
