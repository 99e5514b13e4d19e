"""The protocol of a prediction: its messages, what they tell, and peers that break it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import psi.settings
from parties.errors import DataError, RemoteProtocolError, VflError
from parties.link import COORDINATOR, Delivery, Endpoint
from parties.local import run_local
from parties.policy import Guards
from parties.wire import Control, Masked, Message
from psi import align, ecdh, verdict
from tests.prediction.test_predict_command import train
from tests.runs.companies import Companies, make_boosted, make_companies
from tests.runs.conftest import Command, vfl  # noqa: F401 - the fixture
from vfl import boosting_scoring, predict, scoring
from vfl.job import job_fields
from vfl.kept_model import load_model
from vfl.new_rows import NewRows, read_new_rows
from vfl.play import role_types
from vfl.predict import Scored
from vfl.tree_shard import TreeShard
from vfl.trees.forest import Split, Tree

World = dict[str, NewRows]


def read_all(companies: Companies, run: Path) -> World:
    world = {}
    for name, party in companies.parties.items():
        model = load_model(run / name)
        guards = Guards(enforce=False, small_data=True)
        world[name] = read_new_rows(model, model.kept.party, companies.folder / str(party["data"]), guards)
    return world


def play(
    world: World, change: dict[str, Callable[[Endpoint], Scored]] | None = None
) -> tuple[dict[str, Scored], list[Delivery]]:
    job = world["bank"].model.kept.job
    deliveries: list[Delivery] = []

    def role(endpoint: Endpoint) -> Scored:
        if endpoint.name in (change or {}):
            return (change or {})[endpoint.name](endpoint)
        if endpoint.name == COORDINATOR:
            return predict.play_coordinator(endpoint, job, lambda event: None)
        return predict.play_party(endpoint, world[endpoint.name], lambda event: None)

    roles = role_types(job)
    results = run_local(dict.fromkeys(roles, role), roles=roles, job=job_fields(job), observe=deliveries.append)
    return results, deliveries


@pytest.fixture
def linear(vfl: Command, tmp_path: Path) -> World:  # noqa: F811
    companies = make_companies(tmp_path / "companies")
    return read_all(companies, train(vfl, companies))


def messages(*tables: type) -> set[str]:
    return {entry.name for table in tables for entry in vars(table).values() if isinstance(entry, Message)}


def test_messages_are_those_of_the_tables(linear: World) -> None:
    _, deliveries = play(linear)
    seen = {delivery.message for delivery in deliveries}
    allowed = messages(predict.Wire, align.Wire, ecdh.Wire, verdict.Wire, scoring.Wire)
    assert seen - {"greeting.hello", "greeting.verdict", "greeting.roster"} <= allowed
    assert {"predict.model", "predict.same", "predict.outputs", "scoring.partial", "scoring.total"} <= seen


def test_messages_of_trees(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    companies = make_boosted(tmp_path / "companies")
    _, deliveries = play(read_all(companies, train(vfl, companies)))
    to_coordinator = {delivery.message for delivery in deliveries if delivery.receiver == COORDINATOR}
    assert {"boosting_scoring.rows", "boosting_scoring.sides"} <= {delivery.message for delivery in deliveries}
    assert not messages(boosting_scoring.Wire) & to_coordinator


def test_what_autos_choice_means_is_said_of_predictions_too(
    vfl: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(psi.settings, "KKRT_FROM", 100)
    companies = make_companies(tmp_path / "companies", passive=1)
    results, deliveries = play(read_all(companies, train(vfl, companies)))
    assert any(delivery.message == "kkrt.tags" for delivery in deliveries)
    for name in ("bank", "card-network"):
        assert any("'auto' chose kkrt" in line for line in results[name].warnings)


def test_the_coordinator_sees_sizes_and_masks(linear: World) -> None:
    results, deliveries = play(linear)
    masked = [one.payload.body.ravel() for one in deliveries if isinstance(one.payload, Masked)]
    assert len(masked) == len(linear)  # both passive parties' parts, and their sum
    rows = len(results["bank"].rows)
    for words in masked:
        assert len(np.unique(words)) == len(words) == rows
        assert abs(np.mean(words / 2.0**63) - 1) < 0.2  # spread over all of 2^64
    told = {
        name: value
        for one in deliveries
        if one.receiver == COORDINATOR and one.message.startswith("predict.") and isinstance(one.payload, Control)
        for name, value in one.payload.facts.items()
    }
    assert told == {"outputs": 1}


def test_the_run_is_told_to_the_active_party_alone(linear: World) -> None:
    _, deliveries = play(linear)
    run = linear["bank"].model.kept.run
    heard = {
        delivery.receiver
        for delivery in deliveries
        if isinstance(delivery.payload, Control) and run in delivery.payload.facts.values()
    }
    assert heard == {"bank"}


def of_run(new: NewRows, run: str) -> NewRows:
    kept = msgspec.structs.replace(new.model.kept, run=run)
    return replace(new, model=replace(new.model, kept=kept))


@pytest.mark.parametrize("name", ["biller", "card-network", "bank"])
def test_another_run_is_noticed_before_any_id_is_aligned(linear: World, name: str) -> None:
    deliveries: list[Delivery] = []
    with pytest.raises(DataError, match="shard of another run"):
        _, deliveries = play(linear | {name: of_run(linear[name], "f" * 32)})
    assert not deliveries


@pytest.mark.parametrize(
    "outputs", [0, -1, True, 2.0, "1", None, 1 << 40], ids=["none", "negative", "bool", "float", "text", "null", "many"]
)
def test_the_coordinator_checks_the_outputs(linear: World, outputs: object) -> None:
    kept = msgspec.structs.replace(linear["bank"].model.kept, outputs=outputs)
    world = linear | {"bank": replace(linear["bank"], model=replace(linear["bank"].model, kept=kept))}
    with pytest.raises(RemoteProtocolError, match="no sensible number of scores"):
        play(world)


def test_wrong_number_of_outputs_is_noticed(linear: World) -> None:
    kept = msgspec.structs.replace(linear["bank"].model.kept, outputs=3)
    world = linear | {"bank": replace(linear["bank"], model=replace(linear["bank"].model, kept=kept))}
    with pytest.raises(VflError):
        play(world)


def test_rows_come_in_the_order_of_the_data(linear: World) -> None:
    results, _ = play(linear)
    for name, result in results.items():
        assert (np.diff(result.rows) > 0).all()
        assert (result.predicted is not None) == (name == "bank")


# -- rows that the others lack, with trees -----------------------------------------------------------------------------


def expected(tree: Tree, splits: dict[int, Split], codes: np.ndarray, node: int = 0) -> float:
    """One row's expectation, node by node; every feature is ordered."""
    if tree.owner[node] < 0:
        return float(tree.values[node, 0])
    left = int(tree.left[node])
    if tree.owner[node] == 0:
        goes = codes[splits[node].feature] <= splits[node].bins[0]
        return expected(tree, splits, codes, left if goes else left + 1)
    a, b = tree.cover[left], tree.cover[left + 1]
    one, other = (expected(tree, splits, codes, child) for child in (left, left + 1))
    return (a * one + b * other) / (a + b)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_trees_go_both_ways_at_others_splits(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    from vfl import cli

    folder = tmp_path_factory.mktemp("alone")
    companies = make_boosted(folder / "companies", "regression", rows=150, seed=seed % 1000)
    code = cli.execute(["run", str(companies.write()), "--in-process", "--no-baselines", "--out", str(folder / "run")])
    assert code == 0
    new = read_all(companies, folder / "run")["bank"]
    shard = new.model.shard
    assert isinstance(shard, TreeShard)
    rows = np.arange(new.table.n_rows)
    scores = predict.predict_alone(new, rows)
    for row in rows[:20]:
        total = float(shard.start[0])
        for number, tree in enumerate(shard.trees):
            own = {split.node: split for split in shard.splits if split.tree == number}
            total += expected(tree, own, new.encoded[row])
        assert scores[row] == pytest.approx(total)
