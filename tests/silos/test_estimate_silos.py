"""An estimate of a run with silos is what then happens: rounds, operations, messages, bytes; trees are refused."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from parties.errors import VflError
from parties.ledger import Entry, merge_sent, read_ledger
from tests.runs.conftest import Command
from tests.runs.conftest import vfl as vfl
from tests.silos.siloed import Siloed
from vfl.check import check_scenario
from vfl.estimating import alignment, averaging
from vfl.estimating import estimate as estimating
from vfl.estimating.account import Account
from vfl.estimating.calibration import Speeds
from vfl.estimating.estimate import Estimate, estimate
from vfl.estimating.rehearsal import Sent
from vfl.job_file import load_scenario
from vfl.report.summary import summarise
from vfl.threads import play_in_threads

SPEEDS = Speeds(**{name: 2 if name == "cores" else 1e-6 for name in Speeds.__slots__})
Links = dict[tuple[str, str], list[int]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "calibrate", lambda privacy: SPEEDS)


def both(siloed: Siloed, folder: Path) -> tuple[Estimate, Any, Links]:
    """Estimate, then run: the estimate, the report, and messages and bytes by link."""
    siloed.write(folder)
    return estimated_and_run(folder)


def estimated_and_run(folder: Path) -> tuple[Estimate, Any, Links]:
    """The same of a scenario that is there."""
    scenario = load_scenario(folder)
    ours = estimate(scenario)
    run = play_in_threads(scenario, folder / "out", lambda event: None, baselines=False)
    ledger = merge_sent(read_ledger(folder / "out" / name / "ledger.jsonl") for name in run.results)
    links: Links = defaultdict(lambda: [0, 0])
    for entry in ledger:
        links[entry.sender, entry.receiver][0] += 1
        links[entry.sender, entry.receiver][1] += entry.bytes
    return ours, summarise(scenario, run, ledger, None, 0.0), links


ALIGNED = {
    "one passive silo": Siloed(hospitals=0, insurer=1),
    "passive silos": Siloed(hospitals=0, insurer=3, training={"fit_intercept": False}),
    "label silos": Siloed(model="softmax", hospitals=3, insurer=0, training={"max_iter": 4}),
    "counts at label silos": Siloed(model="poisson", hospitals=2, insurer=0),
    "no step is left": Siloed(model="linear", hospitals=2, insurer=0, training={"tol": 1e-16}),
    "no test rows": Siloed(hospitals=2, insurer=0, split={"test_fraction": 0}),
}


@pytest.mark.parametrize("kind", ALIGNED)
def test_aligned_silos(kind: str, tmp_path: Path) -> None:
    siloed = ALIGNED[kind]
    ours, run, links = both(siloed, tmp_path)
    assert ours.rows == run.rows
    assert (ours.rounds, ours.converged) == (run.training.rounds, run.training.converged)
    assert (ours.key_holder, ours.key_holder_reason) == (run.training.key_holder, run.training.key_holder_reason)
    assert (ours.encryptions, ours.decryptions) == (run.crypto.encryptions, run.crypto.decryptions)
    assert (ours.training_bytes, ours.training_messages) == (run.training.bytes, run.training.messages)
    assert ours.alignment_bytes == pytest.approx(run.alignment.bytes, rel=0.01)
    assert {(line.sender, line.receiver): line.messages for line in ours.links} == {
        link: messages for link, (messages, _) in links.items()
    }


def test_silos_at_all_parties(tmp_path: Path) -> None:
    """Rows are ordered at random then, so that roundings and step lengths may differ; all else is equal."""
    ours, run, links = both(Siloed(model="linear", hospitals=2, insurer=2, training={"max_iter": 2}), tmp_path)
    assert ours.rows == run.rows
    assert (ours.rounds, ours.converged) == (run.training.rounds, run.training.converged) == (2, False)
    assert (ours.encryptions, ours.decryptions) == (run.crypto.encryptions, run.crypto.decryptions)
    assert ours.alignment_bytes == pytest.approx(run.alignment.bytes, rel=0.01)
    assert ours.training_bytes == pytest.approx(run.training.bytes, rel=0.05)
    assert any("ordered anew" in line for line in ours.assumptions)
    for line in ours.links:
        messages, size = links[line.sender, line.receiver]
        between_label_silos = line.sender.startswith("hospitals") and line.receiver.startswith("hospitals")
        assert between_label_silos or (line.messages, line.bytes) == (messages, pytest.approx(size, rel=0.02))


EVERY_ROUND_PLAYED = {
    "summed gradients": Siloed(hospitals=3, insurer=None),
    "averaged": Siloed(hospitals=3, insurer=None, training={"aggregation": "simple", "rounds": 5}),
    "server's steps": Siloed(
        hospitals=2, insurer=None, model="linear", training={"server_optimizer": "adam", "max_iter": 4}
    ),
    "classes": Siloed(hospitals=2, insurer=None, model="softmax", training={"aggregation": "fedavg", "rounds": 4}),
}


@pytest.mark.parametrize("kind", EVERY_ROUND_PLAYED)
def test_averaged_linear_models(kind: str, tmp_path: Path) -> None:
    ours, run, links = both(EVERY_ROUND_PLAYED[kind], tmp_path)
    assert ours.rows == run.rows
    assert (ours.rounds, ours.converged) == (run.training.rounds, run.training.converged)
    assert (ours.key_holder, ours.key_bits, ours.kernel) == (None, run.crypto.key_bits, run.crypto.kernel)
    assert ours.key_holder_reason == run.training.key_holder_reason
    assert (ours.encryptions, ours.decryptions, ours.alignment_bytes) == (0, 0, 0)
    assert (ours.training_bytes, ours.training_messages) == (run.training.bytes, run.training.messages)
    assert {(line.sender, line.receiver): line.messages for line in ours.links} == {
        link: messages for link, (messages, _) in links.items()
    }


NETWORK = {"units": 3, "hidden": [3], "batch_size": 64}
SAMPLED = {
    "a network's gradients": Siloed(model="splitnn", task="binary", training=NETWORK | {"epochs": 7}),
    "networks averaged": Siloed(
        model="splitnn", task="regression", training=NETWORK | {"aggregation": "fedavg", "rounds": 9, "local_epochs": 2}
    ),
    "some silos drawn": Siloed(
        model="splitnn",
        task="multiclass",
        hospitals=4,
        training=NETWORK | {"aggregation": "simple", "rounds": 6, "client_fraction": 0.75},
    ),
}


@pytest.mark.parametrize("kind", SAMPLED)
def test_rounds_that_are_alike_are_sampled(kind: str, tmp_path: Path) -> None:
    siloed = replace(SAMPLED[kind], insurer=None)
    ours, run, _ = both(siloed, tmp_path)
    assert ours.rows == run.rows
    assert ours.rounds == run.training.rounds > averaging.SAMPLE_ROUNDS
    assert ours.converged == run.training.converged
    assert ours.training_messages == run.training.messages
    assert ours.training_bytes == pytest.approx(run.training.bytes, rel=0.005)


def test_noisy_rounds_are_sampled(tmp_path: Path) -> None:
    """The noise is that of all the job's rounds: what a silo consents to does not hang on how many are played."""
    siloed = Siloed(hospitals=2, insurer=None, training={"rounds": 8}, privacy={"dp": "central", "dp_epsilon": 8.0})
    ours, run, _ = both(siloed, tmp_path)
    assert ours.rounds == run.training.rounds == 8 > averaging.SAMPLE_ROUNDS
    assert "3 were played" in ours.rounds_from
    assert ours.training_messages == run.training.messages
    assert ours.training_bytes == pytest.approx(run.training.bytes, rel=0.005)


def test_sample_weights_of_label_silos(tmp_path: Path) -> None:
    """Weights are scaled by all silos' sum; a silo whose rows weigh much bounds the residuals of all."""
    for name, file in Siloed(hospitals=2, insurer=0).write(tmp_path).items():
        frame = pd.read_csv(file, dtype=str)
        if name.startswith("hospitals"):
            frame["heft"] = np.where(np.arange(len(frame)) % 3 == 0, 5.0, 1.0) * (3 if name.endswith("s1") else 1)
            frame.to_csv(file, index=False)
    text = (
        (tmp_path / "scenario.toml")
        .read_text()
        .replace('label = "outcome"', 'label = "outcome"\nsample_weight = "heft"')
    )
    (tmp_path / "scenario.toml").write_text(text)
    ours, run, _ = estimated_and_run(tmp_path)
    assert (ours.rounds, ours.converged) == (run.training.rounds, run.training.converged)
    assert (ours.training_bytes, ours.training_messages) == (run.training.bytes, run.training.messages)


def test_baselines_are_left_out(tmp_path: Path) -> None:
    for number, siloed in enumerate((Siloed(hospitals=2, insurer=0), Siloed(hospitals=2, insurer=None))):
        siloed.write(tmp_path / str(number))
        scenario = load_scenario(tmp_path / str(number))
        assert "comparing" in estimate(scenario).seconds
        assert "comparing" not in estimate(scenario, baselines=False).seconds


REFUSED = {
    "too few rows in common": (Siloed(), "min_intersection", "[alignment]\nmin_intersection = 1000\n[split]"),
    "no label": (Siloed(insurer=None), 'column "nothing"', 'label = "nothing"'),
    "guards": (Siloed(hospitals=0), "small_data", "enforce = true"),
}
LINES = {"too few rows in common": "[split]", "no label": 'label = "outcome"', "guards": "enforce = false"}


@pytest.mark.parametrize("kind", REFUSED)
def test_refuses_as_check_does(kind: str, tmp_path: Path) -> None:
    siloed, words, line = REFUSED[kind]
    replace(siloed, privacy={"enforce": False}).write(tmp_path)
    file = tmp_path / "scenario.toml"
    file.write_text(file.read_text().replace(LINES[kind], line))
    scenario = load_scenario(tmp_path)
    with pytest.raises(VflError, match=words) as checked:
        check_scenario(scenario).refuse_too_few()
    with pytest.raises(VflError) as estimated:
        estimate(scenario)
    assert (str(estimated.value), estimated.value.exit_code) == (str(checked.value), 2)


@pytest.mark.parametrize("protocol", ["ecdh", "server-aided"])
def test_long_lists_of_silos_are_extrapolated(protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "_LENGTHS", {})
    monkeypatch.setattr(alignment, "_USUAL_LENGTHS", (60, 120))
    Siloed(hospitals=0, insurer=3, rows=500).write(tmp_path)
    file = tmp_path / "scenario.toml"
    file.write_text(file.read_text().replace("[split]", f'[alignment]\nprotocol = "{protocol}"\n[split]'))
    ours, run, _ = estimated_and_run(tmp_path)
    assert run.alignment.protocol == protocol
    assert ours.alignment_bytes == pytest.approx(run.alignment.bytes, rel=0.05)


def test_replayed_messages_are_numbered_behind_those_that_went_before() -> None:
    """From the 129th on a message's number takes a byte more on every hop."""
    entry = Entry(0.0, "north", "north", "south", "siblings.part", "masked", bytes=400, hops=2, values=4)
    account = Account(SPEEDS)
    loads = account.replay([Sent(entry, 0)] * 200)
    flow = account.flows["siblings", "north", "south"]
    assert (flow.messages, flow.bytes) == (200, 200 * 400 + 72 * 2)
    assert set(loads) == {"north"} and loads["north"].single >= 200 * 2 * SPEEDS.hop
    account.replay([Sent(entry, 130)])
    assert account.flows["siblings", "north", "south"].bytes == 201 * 400 + 72 * 2


def test_trees_of_silos_are_refused(vfl: Command, tmp_path: Path) -> None:
    Siloed(model="boosting", task="binary").write(tmp_path)
    said = vfl("estimate", tmp_path)
    assert said.code == 2 and "got boosting with [[party.silo]]" in said.error
    assert "Traceback" not in said.stderr and "Training" not in said.stdout
