"""An estimate of a split neural network is what then happens: epochs, operations, messages, bytes per link."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from parties.errors import VflError
from parties.ledger import merge_sent, read_ledger
from parties.link import COORDINATOR
from parties.wire import Control
from tests.runs.companies import TASKS, Companies, make_companies
from vfl.check import check_scenario
from vfl.estimating import estimate as estimating
from vfl.estimating.account import Account, Load, Sending, Stage
from vfl.estimating.calibration import Speeds
from vfl.estimating.estimate import Estimate, estimate
from vfl.estimating.table import show_estimate
from vfl.job_file import load_scenario
from vfl.report.summary import encode_report, summarise
from vfl.splitnn import Wire
from vfl.threads import play_in_threads

SPEEDS = Speeds(**{name: 2 if name == "cores" else 1e-6 for name in Speeds.__slots__})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "calibrate", lambda privacy: SPEEDS)


def make_networked(folder: Path, task: str = "binary", **options: Any) -> Companies:
    """Companies with a small network in two epochs; ``training`` adds to it."""
    small = {"units": 3, "hidden": [4], "batch_size": 64, "epochs": 2} | options.pop("training", {})
    model = next(model for model, its_task in TASKS.items() if its_task == task)
    companies = make_companies(folder, model, training=small, **{"rows": 260} | options)
    companies.model = "splitnn"
    companies.top |= {"model": "splitnn", "task": task}
    if small.get("mode") == "split":
        for party in companies.parties.values():
            party["policy"] = {"embedding_gradients": True}
    return companies


def both(companies: Companies, out: Path) -> tuple[Estimate, dict[str, Any], dict[tuple[str, str], list[int]]]:
    """Estimate, then run: the estimate, the report, and messages and bytes by link."""
    scenario = load_scenario(companies.write(), ())
    ours = estimate(scenario)
    played = play_in_threads(scenario, out, lambda event: None, baselines=False)
    ledger = merge_sent(read_ledger(out / name / "ledger.jsonl") for name in played.results)
    links: dict[tuple[str, str], list[int]] = {}
    for entry in ledger:
        messages, size = links.get((entry.sender, entry.receiver), (0, 0))
        links[entry.sender, entry.receiver] = [messages + 1, size + entry.bytes]
    return ours, json.loads(encode_report(summarise(scenario, played, ledger, None, 0.0))), links


NETWORKS: dict[str, dict[str, Any]] = {
    "binary": {},
    "one passive": {"passive": 1},
    "three passive, labels only": {"passive": 3, "label_only": True, "task": "multiclass"},
    "several ciphertexts a row": {"training": {"units": 9}, "task": "regression"},
    "categories and missing cells": {"messy": True, "task": "count"},
    "sample weights": {"weights": True},
    "validation part": {"split": {"validation_fraction": 0.3}, "training": {"batch_size": 32}},
    "validation part of one block": {"split": {"validation_fraction": 0.1}, "passive": 1},
    "one batch": {"training": {"batch_size": 1024}},
    "whole batches only": {"rows": 240, "split": {"test_fraction": 0.2}, "training": {"batch_size": 44}},
    "no test rows": {"split": {"test_fraction": 0}},
    "test rows in several blocks": {"rows": 1800, "split": {"test_fraction": 0.8}, "passive": 1},
    "long sequence numbers": {"passive": 1, "training": {"batch_size": 4, "epochs": 3, "units": 1}},
    "many epochs": {"passive": 1, "rows": 130, "training": {"batch_size": 128, "epochs": 210, "units": 1}},
    "split": {"training": {"mode": "split"}},
    "split, bottoms and local steps": {
        "training": {"mode": "split", "bottom_hidden": [5], "local_steps": 3},
        "split": {"validation_fraction": 0.2},
        "task": "multiclass",
    },
    "split, labels only": {"training": {"mode": "split"}, "label_only": True, "passive": 1, "task": "regression"},
    "split, no test rows": {"training": {"mode": "split"}, "split": {"test_fraction": 0}},
}


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_networks(tmp_path: Path, options: dict[str, Any]) -> None:
    ours, run, links = both(make_networked(tmp_path / "scenario", **options), tmp_path / "out")
    training, crypto = run["training"], run["crypto"]
    assert (ours.rounds, ours.converged) == (training["rounds"], training["converged"])
    assert (ours.key_holder, ours.key_holder_reason) == (training["key_holder"], training["key_holder_reason"])
    assert (ours.encryptions, ours.decryptions) == (crypto["encryptions"], crypto["decryptions"])
    assert (ours.training_bytes, ours.training_messages) == (training["bytes"], training["messages"])
    assert ours.rows == run["rows"]
    assert {(line.sender, line.receiver): line.messages for line in ours.links} == {
        link: messages for link, (messages, _) in links.items()
    }
    for line in ours.links:
        assert line.bytes == pytest.approx(links[line.sender, line.receiver][1], rel=0.001)


def test_labels_made_up_by_label_privacy_change_nothing(tmp_path: Path) -> None:
    """Epochs, not labels, say how long a training is."""
    plain = estimate(load_scenario(make_networked(tmp_path / "plain").write(), ()))
    companies = make_networked(tmp_path / "private")
    companies.sections["privacy"]["label_dp_epsilon"] = 1.0
    private = estimate(load_scenario(companies.write(), ()))
    assert (private.rounds, private.training_bytes) == (plain.rounds, plain.training_bytes)
    assert not any("rounds and trees" in line for line in private.assumptions)


def test_early_stopping_may_end_sooner_and_is_said(tmp_path: Path) -> None:
    options = {
        "training": {"early_stopping_rounds": 1, "epochs": 40, "learning_rate": 1.0},
        "split": {"validation_fraction": 0.2},
    }
    ours, run, _ = both(make_networked(tmp_path / "scenario", passive=1, **options), tmp_path / "out")
    assert ours.rounds == 40 > run["training"]["rounds"]
    assert ours.rounds_from == "the job's epochs; at most, for early stopping may end them sooner"


def test_seconds_follow_units_columns_and_keys(tmp_path: Path) -> None:
    def training(name: str, **options: Any) -> float:
        return estimate(load_scenario(make_networked(tmp_path / name, **options).write(), ())).seconds["training"]

    base = training("base")
    assert training("units", training={"units": 12}) > base
    assert training("columns", columns=9) > base
    assert training("epochs", training={"epochs": 8}) > base


def test_hints_say_what_would_be_cheaper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Speeds(**{name: 2 if name == "cores" else 1e-6 for name in Speeds.__slots__} | {"decrypt": 1e-2})
    monkeypatch.setattr(estimating, "calibrate", lambda privacy: slow)
    wide = estimate(load_scenario(make_networked(tmp_path / "wide", training={"units": 9}).write(), ()))
    assert wide.hints[0].startswith("training.units = 4 would take about 1/3 of the seconds and bytes: ")
    few = estimate(load_scenario(make_networked(tmp_path / "few", training={"batch_size": 16}).write(), ()))
    assert few.hints[0].startswith("training.batch_size: ")
    fits = estimate(load_scenario(make_networked(tmp_path / "fits").write(), ()))
    assert fits.hints[0].startswith("training.epochs: ")
    assert any("PyTorch" in line for line in fits.assumptions)


def test_tables_speak_of_a_key_where_there_is_one(tmp_path: Path) -> None:
    def shown(name: str, **options: Any) -> str:
        console = Console(record=True, width=200)
        show_estimate(estimate(load_scenario(make_networked(tmp_path / name, **options).write(), ())), console)
        return console.export_text()

    layer, split = shown("layer"), shown("split", training={"mode": "split"})
    assert "Private key at the active party: " in layer and "Paillier operations" in layer
    assert "No key is made: mode 'split'" in split and "Paillier" not in split and "Private key" not in split


def drop_consent(companies: Companies) -> None:
    companies.sections["training"]["mode"] = "split"
    companies.parties["biller"]["policy"] = {"embedding_gradients": False}


def one_label(companies: Companies) -> None:
    companies.tables["bank"]["outcome"] = ["1"] * 200 + ["0"] * (len(companies.tables["bank"]) - 200)
    companies.tables["bank"]["outcome"] = "1"


def constant(companies: Companies) -> None:
    for column in ("x0", "x1", "x2"):
        companies.tables["biller"][column] = "1"


def too_many_views(companies: Companies) -> None:
    companies.sections["privacy"]["enforce"] = True
    companies.sections["privacy"] |= {"key_bits": 2048, "insecure_test_mode": False}
    companies.sections["training"] |= {"epochs": 1000}


SPOILT = (drop_consent, one_label, constant, too_many_views)


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_refuses_as_check_does(tmp_path: Path, spoil: Any) -> None:
    companies = make_networked(tmp_path / "scenario")
    spoil(companies)
    scenario = load_scenario(companies.write(), ())
    with pytest.raises(VflError) as expected:
        check_scenario(scenario)
    with pytest.raises(type(expected.value)) as refused:
        estimate(scenario)
    assert str(refused.value) == str(expected.value)


@given(
    before=st.integers(0, 70_000),
    times=st.integers(0, 400),
    kinds=st.lists(st.sampled_from(["ab", "ba", "ac"]), min_size=1, max_size=4),
)
def test_repeated_stages_are_booked_as_one_by_one(before: int, times: int, kinds: list[str]) -> None:
    names = {"a": "bank", "b": "biller", "c": COORDINATOR}
    stages = [
        Stage(
            {"bank": Load(0.5)},
            [Sending(Wire.proceed, names[kind[0]], names[kind[1]], Control({"go": True}))],
            {"bank": 2},
            {"bank": 1},
        )
        for kind in kinds
    ]
    at_once, single = Account(SPEEDS), Account(SPEEDS)
    for account in (at_once, single):
        for link in Counter((one.sender, one.receiver) for stage in stages for one in stage.sendings):
            account.carry(("ecdh", *link), before, 100.0)
    at_once.repeat("training", stages, times)
    for _ in range(times):
        for stage in stages:
            for one in stage.sendings:
                single.send(one.message, one.sender, one.receiver, one.payload)
    assert {link: flow.messages for link, flow in at_once.flows.items() if flow.messages} == {
        link: flow.messages for link, flow in single.flows.items() if flow.messages
    }
    for link, flow in single.flows.items():
        assert at_once.flows[link].bytes == pytest.approx(flow.bytes, abs=1e-6)
    assert at_once.encryptions["bank"] == 2 * at_once.decryptions["bank"] == 2 * len(kinds) * times
    assert at_once.seconds["training"] >= 0.5 * len(kinds) * times
