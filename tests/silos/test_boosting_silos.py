"""Trees grown over silos are those of the same algorithm with every party's rows in one place, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.silos.silo_forests import OUTPUTS, SiloForests, silo_forests
from tests.trees.forests import make_frames, make_labels, splits_by_owner
from vfl.label_dp import randomise_labels
from vfl.trees.grow import Limits

QUICK: dict[str, Any] = {"n_estimators": 2, "max_depth": 3, "min_child_weight": 0.1, "max_bin": 8}


def check(forests: SiloForests) -> Any:
    """As `Forests.check`; besides, all silos of a holder end with the same splits, and label silos with one model."""
    fits, boosted, parts = forests.check()
    for silos in forests.members.values():
        for name in silos:
            assert fits[name].splits == fits[silos[0]].splits
    trees = [fits[name].boosted for name in forests.members["bank"]]
    for other in trees[1:]:
        assert (other.losses, other.validation_losses) == (trees[0].losses, trees[0].validation_losses)
        for mine, theirs in zip(other.trees, trees[0].trees, strict=True):
            for field in ("owner", "left", "values", "gain", "cover"):
                np.testing.assert_array_equal(getattr(mine, field), getattr(theirs, field))
    return fits, boosted, parts


@pytest.mark.parametrize("passive", [1, 2, 3, 5])
@pytest.mark.parametrize("active", [0, 1, 2, 3])
def test_however_many_silos(active: int, passive: int) -> None:
    _, boosted, _ = check(silo_forests("binary", (active, passive), settings=QUICK))
    assert set(splits_by_owner(boosted)) == {0, 1}  # both have something to say
    assert boosted.losses[-1] < boosted.losses[0]


@pytest.mark.parametrize("task", OUTPUTS)
@pytest.mark.parametrize("cut", [(0, 3), (3, 0), (2, 5), (5, 2)], ids=str)
def test_every_task(task: str, cut: tuple[int, ...]) -> None:
    _, boosted, _ = check(silo_forests(task, cut, settings=QUICK))
    assert boosted.losses[-1] < boosted.losses[0]


@pytest.mark.parametrize("cut", [(2, 3, 0), (0, 2, 3), (3, 0, 2)], ids=str)
def test_several_passive_holders(cut: tuple[int, ...]) -> None:
    _, boosted, _ = check(silo_forests("binary", cut, settings=QUICK | {"colsample_bytree": 0.6}))
    assert set(splits_by_owner(boosted)) == {0, 1, 2}


@settings(max_examples=8)
@given(st.data())
def test_however_rows_are_dealt_out(data: st.DataObject) -> None:
    """All in one silo, none in another, one row here and there."""
    forests = silo_forests("binary", (3, 4), rows=30, settings=QUICK)
    owners = [data.draw(st.lists(st.integers(0, count - 1), min_size=30, max_size=30)) for count in forests.cut]
    places = {
        name: np.flatnonzero(np.array(owner) == i)
        for owner, silos in zip(owners, forests.members.values(), strict=True)
        for i, name in enumerate(silos)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SiloForests, "places", lambda self: places)
        check(forests)


CASES: dict[str, dict[str, Any]] = {
    "no missing cells": {"frames": {"missing": 0.0}},
    "half the cells missing": {"frames": {"missing": 0.5}},
    "sorted categories": {"settings": {"max_cat_to_onehot": 2}},
    "one tree per class": {"task": "multiclass", "settings": {"multi_output": False}},
    "sorted categories, one tree per class": {
        "task": "multiclass",
        "settings": {"max_cat_to_onehot": 2, "multi_output": False},
    },
    "rows drawn": {"settings": {"subsample": 0.5}},
    "columns drawn": {"settings": {"colsample_bytree": 0.4, "n_estimators": 3}},
    "first tree of the label holder": {"settings": {"first_tree_active_only": True}},
    "first trees of the label holder, per class": {
        "task": "multiclass",
        "settings": {"first_tree_active_only": True, "multi_output": False},
    },
    "base score": {"settings": {"base_score": 0.3}},
    "validation": {"validation": 25},
    "early stopping": {
        "validation": 30,
        "settings": {"n_estimators": 9, "early_stopping_rounds": 2, "learning_rate": 1.0, "min_child_weight": 0.0},
    },
    "weights": {"weights": True},
    "weights, classes, validation": {"task": "multiclass", "weights": True, "validation": 25},
    "weights of counts": {"task": "count", "weights": True},
    "least rows of a node": {"limits": Limits(45, 0)},
    "least rows between candidates": {"limits": Limits(0, 6)},
    "both": {"limits": Limits(30, 4), "settings": {"max_cat_to_onehot": 2, "max_depth": 4}},
    "deep": {"settings": {"max_depth": 6, "min_child_weight": 0.0}},
    "stumps": {"settings": {"max_depth": 1}},
    "another seed": {"seed": 5},
}


def forests_of(case: str, cut: tuple[int, ...] = (2, 3)) -> SiloForests:
    options = {"task": "binary", "settings": {}} | CASES[case]
    options["settings"] = QUICK | options["settings"]
    weighted = options.pop("weights", False)
    forests = silo_forests(options.pop("task"), cut, **options)
    if weighted:
        forests.weights = np.random.default_rng(1).uniform(0.2, 3, len(forests.y)) * 1e3
    return forests


@pytest.mark.parametrize("case", CASES)
def test_every_setting(case: str) -> None:
    _, boosted, _ = check(forests_of(case))
    if case == "early stopping":
        assert boosted.warnings


@pytest.mark.parametrize("signs", [1, -1])
def test_monotone_constraints(signs: int) -> None:
    forests = silo_forests("binary", (3, 2), settings=QUICK | {"max_depth": 4})
    forests.signs = np.array([signs] + [0] * 6)
    _, boosted, _ = check(forests)
    free = silo_forests("binary", (3, 2), settings=QUICK | {"max_depth": 4})
    assert not np.array_equal(free.reference()[0].trees[0].values, boosted.trees[0].values)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.parametrize("rows", [24, 120])
def test_randomised_labels(task: str, rows: int) -> None:
    """Estimates of few labels may add up to no possible share: the start is moved as in one place."""
    forests = silo_forests(task, (3, 2), rows=rows, settings=QUICK)
    forests.y = randomise_labels(forests.y, max(2, forests.outputs), 0.3)
    check(forests)


def test_label_silos_without_columns() -> None:
    frames = make_frames(120, parties=2)
    y = make_labels("binary", frames)
    frames[0] = pd.DataFrame(index=range(120))
    _, boosted, _ = check(SiloForests("binary", frames, y, cut=(2, 2), settings=QUICK))
    assert set(splits_by_owner(boosted)) == {1}


@pytest.mark.parametrize("rows", [2, 3, 9])
def test_silos_without_rows(rows: int) -> None:
    """More silos than rows: some have none, or none that is trained on."""
    frames = make_frames(rows, missing=0.3)
    y = (np.arange(rows) % 2).astype(float)
    settings = {"min_child_weight": 0.0, "max_depth": 4, "reg_lambda": 0.1, "n_estimators": 2}
    forests = SiloForests("binary", frames, y, cut=(3, 5), settings=settings)
    assert min(len(own) for own in forests.places().values()) == 0
    check(forests)


def test_guards_count_the_rows_of_all_silos() -> None:
    """No silo by itself has rows enough for a split; together they have."""
    forests = silo_forests("binary", (2, 5), settings=QUICK, limits=Limits(60, 0))
    assert max(len(own) for name, own in forests.places().items() if name.startswith("shop-1")) < 60
    _, boosted, _ = check(forests)
    assert splits_by_owner(boosted)[1]


def test_importance_is_that_of_parties_without_silos() -> None:
    cut, whole = silo_forests("binary", (3, 2), settings=QUICK), silo_forests("binary", (1, 1), settings=QUICK)
    fits, plain = cut.fit(), whole.fit()
    for holder in ("bank", "shop-1"):
        mine, theirs = fits["bank"].importance[holder], plain["bank"].importance[holder]
        for field in ("gain", "cover", "count"):
            np.testing.assert_array_equal(getattr(mine, field), getattr(theirs, field))
    np.testing.assert_array_equal(fits["shop-1.s0"].importance.gain, fits["bank"].importance["shop-1"].gain)
    assert fits["shop-1.s1"].importance is None
    assert list(fits["bank.s1"].importance) == ["bank"]


def test_kernels_and_threads_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFL_KERNEL", "gmpy2")
    monkeypatch.setenv("VFL_THREADS", "2")
    check(silo_forests("multiclass", (2, 2), rows=80, settings=QUICK))


def test_blocks_of_ciphertexts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients in several messages, the last one shorter."""
    from vfl import boosting_silos

    monkeypatch.setattr(boosting_silos, "BLOCK", 32)
    forests = silo_forests("binary", (2, 2), settings=QUICK | {"subsample": 0.9})
    check(forests)
    assert [len(d.payload.body) for d in forests.received("boosting_silos.gradients", to="coordinator")[:8:2]] == [
        32,
        32,
        32,
        12,
    ]


@pytest.mark.slow
def test_at_full_key_length() -> None:
    check(silo_forests("multiclass", (2, 3), rows=60, key_bits=2048, settings=QUICK | {"max_depth": 2}))
