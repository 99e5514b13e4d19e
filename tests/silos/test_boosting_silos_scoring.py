"""Joint scores of new rows over silos are those of the trees with everything in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parties.errors import PolicyError, RemoteProtocolError
from parties.policy import Policy
from parties.wire import Bitmaps, Masked, Positions
from tests.glm.federations import tamper
from tests.silos.federations import make_silos
from tests.silos.silo_forests import OUTPUTS, SiloForests, silo_forests
from tests.trees.forests import make_frames
from vfl import boosting_silos_scoring
from vfl.tree_shard import load_tree_shard

QUICK: dict[str, Any] = {"n_estimators": 3, "max_depth": 3, "min_child_weight": 0.1, "max_bin": 8}


def check(forests: SiloForests, fits: Any, frames: Any = None) -> None:
    expected = forests.predict(fits, frames)
    places = forests.places(len(expected))
    for name, scores in forests.score(fits, frames).items():
        assert scores.tobytes() == np.ascontiguousarray(expected[places[name]]).tobytes()


@pytest.mark.parametrize("task", OUTPUTS)
@pytest.mark.parametrize("cut", [(0, 1), (0, 3), (3, 0), (2, 5)], ids=str)
def test_scores_are_those_of_one_place(task: str, cut: tuple[int, ...]) -> None:
    forests = silo_forests(task, cut, settings=QUICK | {"max_cat_to_onehot": 3})
    fits = forests.fit()
    check(forests, fits)
    check(forests, fits, make_frames(35, seed=9, parties=2))


def test_several_passive_holders_and_trees_per_class() -> None:
    forests = silo_forests("multiclass", (2, 3, 0), settings=QUICK | {"multi_output": False, "n_estimators": 1})
    check(forests, forests.fit(), make_frames(20, seed=9, parties=3))


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows(rows: int) -> None:
    forests = silo_forests("binary", (3, 2), settings=QUICK)
    check(forests, forests.fit(), make_frames(rows, seed=9, parties=2))


def test_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    forests = silo_forests("binary", (2, 3), settings=QUICK)
    fits = forests.fit()
    monkeypatch.setattr(boosting_silos_scoring, "ROWS", 16)
    check(forests, fits, make_frames(50, seed=9, parties=2))


def test_policies_bound_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    forests = silo_forests("binary", (0, 3), settings=QUICK)
    fits = forests.fit()
    monkeypatch.setattr("tests.silos.silo_forests.Policy", lambda: Policy(scored_rows=5))
    deliveries: list[Any] = []
    with pytest.raises(PolicyError, match="scored_rows"):
        forests.score(fits, deliveries=deliveries)
    assert not [d for d in deliveries if d.message == "boosting_silos_scoring.sides"]


@pytest.mark.parametrize("task", OUTPUTS)
def test_runs_have_the_same_scores_however_many_silos(task: str, tmp_path: Path) -> None:
    """Through `vfl.session`: bins, alignment kept, shards and files of every silo."""
    found = []
    for silos in ({"bank": 0, "shop": 3}, {"bank": 1, "shop": 1}, {"bank": 3, "shop": 2}, {"bank": 2, "shop": 5}):
        folder = tmp_path / "-".join(map(str, silos.values()))
        federation = make_silos("boosting", silos, task=task, training=QUICK, split={"validation_fraction": 0.1})
        results = federation.play(folder)
        lead = results[federation.job().active]
        found.append((federation.scores(folder).tolist(), lead.losses, lead.validation_losses, lead.importance))
        shards = {name: load_tree_shard(folder / name) for name in federation.members}
        for name, holder in federation.members.items():
            first = next(other for other, whose in federation.members.items() if whose == holder)
            assert (shards[name].binning, shards[name].splits) == (shards[first].binning, shards[first].splits)
            assert len(shards[name].trees) == (len(shards[first].trees) if holder == "bank" else 0)
    assert found[1:] == found[:1] * 3
    assert found[0][1][-1] < found[0][1][0]


def test_importance_is_named_by_holder(tmp_path: Path) -> None:
    federation = make_silos("boosting", {"bank": 2, "shop": 2}, training=QUICK)
    results = federation.play(tmp_path)
    assert {(line.party, line.feature) for line in results["bank.s0"].importance} == {
        *(("bank", f"b{j}") for j in range(2)),
        *(("shop", f"feature {j}") for j in (1, 2, 3)),
    }
    assert {(line.party, line.feature) for line in results["shop.s0"].importance} == {
        ("shop", f"s{j}") for j in range(3)
    }
    assert results["shop.s1"].importance == []


def test_without_test_rows(tmp_path: Path) -> None:
    federation = make_silos("boosting", {"bank": 2, "shop": 2}, training=QUICK, split={"test_fraction": 0.0})
    results = federation.play(tmp_path)
    assert results["bank.s0"].joint is None


# what does not fit


def refused(monkeypatch: pytest.MonkeyPatch, sender: str, message: str, change: Any, match: str) -> None:
    forests = silo_forests("binary", (2, 2), settings=QUICK)
    fits = forests.fit()
    with monkeypatch.context() as patch, pytest.raises(RemoteProtocolError, match=match):
        tamper(patch, sender, message, change)
        forests.score(fits)


def test_words_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "boosting_silos_scoring.sides"
    refused(monkeypatch, "shop-1.s1", message, lambda p: Masked(p.body[:-1]), "shop-1.s1 sent masked words of shape")
    message = "boosting_silos_scoring.side_sums"
    refused(monkeypatch, "coordinator", message, lambda p: Masked(p.body[:-1]), "coordinator sent masked words")


def test_rows_and_sides_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = lambda p: Positions(p.counts, np.zeros_like(p.positions))  # noqa: E731
    refused(monkeypatch, "bank.s0", "boosting_silos_scoring.rows", twice, "bank.s0 asks for a row twice")
    fewer = lambda p: Bitmaps(p.counts - 1, p.bits)  # noqa: E731
    refused(monkeypatch, "bank.s0", "boosting_silos_scoring.told", fewer, "bank.s0 sent bitmaps")


def test_two_answers_for_one_row_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A carry past the last row; elsewhere it looks like other bits."""

    def change(payload: Any) -> Any:
        body = payload.body.copy()
        body[-1] += np.uint64(1 << 63)
        return Masked(body)

    refused(
        monkeypatch,
        "shop-1.s1",
        "boosting_silos_scoring.sides",
        change,
        "a silo of shop-1 or the coordinator sent bits",
    )
