"""The active party's score budget: it stops, the passive party itself refuses, consent rounds, one machine warns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from parties.errors import PolicyError
from parties.policy import Guards
from tests.glm.federations import Federation, make_federation
from vfl import glm
from vfl.masking import Masks

TIGHT = {"tol": 1e-12}  # more rounds than the budget of two passive columns
GRID = 1 << (glm.SCORE_BITS - 8)


def budgeted(**options: object) -> Federation:
    return make_federation("logistic", 100, (2, 3, 2), training=TIGHT, **options)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[np.ndarray]]:
    """Every sum of passive scores that the active party opens."""
    sums: list[np.ndarray] = []
    honest = Masks.open_scores

    def spy(self: Masks, label: str, total: object, count: int) -> np.ndarray:
        sums.append(honest(self, label, total, count))
        return sums[-1]

    monkeypatch.setattr(Masks, "open_scores", spy)
    yield sums


def test_training_stops_at_the_budget_where_guards_are_enforced(opened: list[np.ndarray]) -> None:
    federation = budgeted(enforce=True, consent=False)
    fits = federation.fit()
    assert (
        fits["active"].rounds == len(opened) == 4
    )  # 5 passive columns: the fifth evaluation would be the last unknown
    assert not fits["active"].converged
    assert "score budget" in fits["active"].warnings[0]
    assert not any((scores % GRID == 0).all() for scores in opened)


def test_softmax_spends_its_budget_by_classes(opened: list[np.ndarray]) -> None:
    federation = make_federation("softmax", 100, (2, 5, 5), training=TIGHT, enforce=True, consent=False)
    assert federation.fit()["active"].rounds == len(opened) == 3  # 3 scores each, 10 columns


def test_on_one_machine_it_only_warns(opened: list[np.ndarray]) -> None:
    federation = budgeted(enforce=False, consent=False)
    fits = federation.fit()
    assert fits["active"].rounds > 5
    assert len(opened) > 5
    for name in federation.names:
        warnings = [w for w in federation.guards[name].warnings if "score budget" in w]
        assert any("between companies training would stop here because" in w for w in warnings)
        assert len(warnings) == 2  # at half of it, and at its end: once each
    assert not any((scores % GRID == 0).all() for scores in opened)


def test_with_consent_scores_are_rounded_from_the_budget_on(opened: list[np.ndarray]) -> None:
    federation = budgeted(enforce=True, consent=True)
    fits = federation.fit()
    assert fits["active"].rounds > 5
    assert [bool((scores % GRID == 0).all()) for scores in opened] == [i >= 4 for i in range(len(opened))]
    assert federation.error(fits) < 0.02


def test_the_passive_party_refuses_an_active_party_that_ignores_its_budget(opened: list[np.ndarray]) -> None:
    federation = budgeted(enforce=True, consent=False, lax=["active"])
    with pytest.raises(PolicyError, match="active asks for more evaluations than its score budget allows"):
        federation.fit()
    assert len(opened) == 4
    sent = [d for d in federation.deliveries if d.message == "glm_exact.scores"]
    assert len(sent) == 2 * 4


def test_newton_steps_count_in_the_budget(opened: list[np.ndarray]) -> None:
    options = {"key_holder": "coordinator", "training": {"newton_steps": 2}}
    federation = make_federation("logistic", 100, (2, 1, 1), enforce=True, consent=False, **options)
    with pytest.raises(PolicyError, match="newton_steps"):
        federation.fit()
    assert len(opened) == 1


def test_newton_steps_round_with_consent(opened: list[np.ndarray]) -> None:
    options = {"key_holder": "coordinator", "training": {"newton_steps": 2}}
    make_federation("logistic", 100, (2, 1, 1), enforce=True, consent=True, **options).fit()
    assert [bool((scores % GRID == 0).all()) for scores in opened] == [False, True]


def test_rounded_scores_are_nearest_multiples() -> None:
    federation = budgeted(enforce=True, consent=True)
    terms, block = federation.terms(), federation.block("passive-1")
    weights = np.random.default_rng(0).normal(size=(block.width, 1))
    guards = Guards(enforce=True, small_data=True)
    exact = glm.disclosed_scores(terms, guards, block, weights, 4)
    rounded = glm.disclosed_scores(terms, guards, block, weights, 5)
    assert (exact == glm.forward(block, weights)[:, 0]).all()
    assert (rounded % GRID == 0).all()
    assert np.abs(rounded - exact).max() <= GRID // 2
