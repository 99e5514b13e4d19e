"""An estimate is what then happens: rounds, operations, messages, bytes per link; refusals are the same."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parties.codec import encode
from parties.errors import VflError
from parties.ledger import merge_sent, read_ledger
from parties.link import COORDINATOR
from parties.wire import Encrypted, Masked, Revealed
from tests.runs.companies import Companies, make_boosted, make_companies
from vfl import cli
from vfl.check import check_scenario
from vfl.estimating import estimate as estimating
from vfl.estimating.account import Account, Load, payload_size, shape
from vfl.estimating.calibration import Speeds, calibrate
from vfl.estimating.counting import counted_key
from vfl.estimating.estimate import Estimate, estimate
from vfl.estimating.trees import SAMPLE_ROUNDS
from vfl.job import Privacy
from vfl.job_file import load_scenario
from vfl.paillier.kernels import open_kernel
from vfl.paillier.pippenger import powers_of_columns
from vfl.report.summary import encode_report, summarise
from vfl.threads import play_in_threads

SPEEDS = Speeds(**{name: 2 if name == "cores" else 1e-6 for name in Speeds.__slots__})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "calibrate", lambda privacy: SPEEDS)


def both(companies: Companies, out: Path) -> tuple[Estimate, dict[str, Any], dict[tuple[str, str], list[int]]]:
    """Estimate, then run: the estimate, the report, and messages and bytes by link."""
    scenario = load_scenario(companies.write(), ())
    ours = estimate(scenario)
    played = play_in_threads(scenario, out, lambda event: None, baselines=False)
    ledger = merge_sent(read_ledger(out / name / "ledger.jsonl") for name in played.results)
    links: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for entry in ledger:
        links[entry.sender, entry.receiver][0] += 1
        links[entry.sender, entry.receiver][1] += entry.bytes
    return ours, json.loads(encode_report(summarise(scenario, played, ledger, None, 0.0))), links


GLM: dict[str, dict[str, Any]] = {
    "logistic, active": {"model": "logistic", "key_holder": "active"},
    "logistic, coordinator": {"model": "logistic", "key_holder": "coordinator"},
    "logistic, Newton": {"model": "logistic", "key_holder": "coordinator", "training": {"newton_steps": 2}},
    "logistic, weights": {"model": "logistic", "key_holder": "coordinator", "weights": True},
    "logistic, stopped": {"model": "logistic", "key_holder": "active", "training": {"max_iter": 2}},
    "linear, active, labels only": {"model": "linear", "key_holder": "active", "label_only": True},
    "linear, coordinator": {"model": "linear", "passive": 1},
    "linear, three passive": {"model": "linear", "passive": 3, "messy": True},
    "poisson": {"model": "poisson"},
    "softmax": {"model": "softmax"},
    "no test rows": {"model": "linear", "split": {"test_fraction": 0}},
}


@pytest.mark.parametrize("options", GLM.values(), ids=GLM)
def test_linear_models(tmp_path: Path, options: dict[str, Any]) -> None:
    ours, run, links = both(make_companies(tmp_path / "scenario", rows=260, **options), tmp_path / "out")
    training, crypto = run["training"], run["crypto"]
    assert (ours.rounds, ours.converged) == (training["rounds"], training["converged"])
    assert (ours.key_holder, ours.key_holder_reason) == (training["key_holder"], training["key_holder_reason"])
    assert (ours.encryptions, ours.decryptions) == (crypto["encryptions"], crypto["decryptions"])
    assert (ours.training_bytes, ours.training_messages) == (training["bytes"], training["messages"])
    assert ours.alignment_bytes == run["alignment"]["bytes"]
    assert ours.rows == run["rows"]
    assert {(line.sender, line.receiver): line.messages for line in ours.links} == {
        link: messages for link, (messages, _) in links.items()
    }
    for line in ours.links:
        assert line.bytes == pytest.approx(links[line.sender, line.receiver][1], rel=0.02)


TREES: dict[str, dict[str, Any]] = {
    "binary": {},
    "own first tree": {"training": {"first_tree_active_only": True}},
    "regression, one passive": {"task": "regression", "passive": 1},
    "classes together": {"task": "multiclass", "training": {"n_estimators": 2}},
    "a tree per class": {"task": "multiclass", "training": {"n_estimators": 2, "multi_output": False}},
    "gradient sampling": {"training": {"top_rate": 0.3, "other_rate": 0.2}},
    "rows drawn": {"training": {"subsample": 0.6, "colsample_bytree": 0.7}},
    "missing and sorted": {"messy": True, "training": {"max_cat_to_onehot": 1}},
    "validation part": {"split": {"validation_fraction": 0.2}},
    "one-sided": {"alignment": {"one_sided": True}, "passive": 1},
    "one-sided, drawn and sorted": {
        "alignment": {"one_sided": True},
        "passive": 1,
        "messy": True,
        "training": {"max_cat_to_onehot": 1, "subsample": 0.6, "max_depth": 5},
        "split": {"validation_fraction": 0.2},
    },
    "guarded nodes": {"training": {"min_node_rows": 60, "min_bin_gap": 5}, "privacy": {"enforce": False}},
}


@pytest.mark.parametrize("options", TREES.values(), ids=TREES)
def test_trees_that_are_all_sampled(tmp_path: Path, options: dict[str, Any]) -> None:
    if "privacy" in options:
        options = options | {"privacy": {"key_bits": 512, "insecure_test_mode": True, **options["privacy"]}}
    ours, run, links = both(make_boosted(tmp_path / "scenario", **{"rows": 260} | options), tmp_path / "out")
    training, crypto = run["training"], run["crypto"]
    assert ours.rounds == training["rounds"] <= SAMPLE_ROUNDS
    assert (ours.encryptions, ours.decryptions) == (crypto["encryptions"], crypto["decryptions"])
    assert ours.training_messages == training["messages"]
    assert ours.training_bytes == pytest.approx(training["bytes"], rel=0.02)
    for line in ours.links:
        messages, size = links[line.sender, line.receiver]
        assert line.messages == messages
        assert line.bytes == pytest.approx(size, rel=0.1)  # of the test rows it is not known where they go


def test_trees_beyond_the_sampled_ones(tmp_path: Path) -> None:
    options = {"training": {"n_estimators": 9}, "rows": 400}
    ours, run, _ = both(make_boosted(tmp_path / "scenario", **options), tmp_path / "out")
    assert ours.rounds == run["training"]["rounds"] == 9
    assert ours.encryptions == pytest.approx(run["crypto"]["encryptions"], rel=0.05)
    assert ours.decryptions == pytest.approx(run["crypto"]["decryptions"], rel=0.25)
    assert ours.training_bytes == pytest.approx(run["training"]["bytes"], rel=0.05)


def test_counts_follow_the_kernel_that_does_the_work() -> None:
    """Products are counted through the code of the run; by hand for one-hot columns, which are sums of rows."""
    X = np.zeros((100, 2), dtype=np.int64)
    X[:30, 0] = X[50:, 1] = 1
    key = counted_key(512, 256)
    powers = powers_of_columns(key.kernel, key.kernel.pack([0] * 100), X, rows_per_value=1)
    work = key.kernel.work.take()
    assert len(powers) == 2
    assert (work.products, work.squarings) == (29 + 49, 0)
    assert key.kernel.costs == open_kernel(key.n).costs
    assert key.kernel.work.products == 0


@given(
    rows=st.integers(0, 5000), limbs=st.integers(1, 4), facts=st.dictionaries(st.text(max_size=9), st.integers(0, 9))
)
def test_sizes_are_those_of_the_codec(rows: int, limbs: int, facts: dict[str, int]) -> None:
    for small, real in (
        (Masked(shape(np.uint64, rows, limbs)), Masked(np.zeros((rows, limbs), dtype=np.uint64))),
        (Encrypted(b"key", shape(np.uint8, rows, 128)), Encrypted(b"key", np.zeros((rows, 128), dtype=np.uint8))),
        (Revealed({**facts}, shape(np.float64, rows)), Revealed({**facts}, np.zeros(rows))),
    ):
        assert payload_size(small) == len(encode(real))


def test_stages_last_as_long_as_the_longest_and_as_the_cores_allow() -> None:
    account = Account(SPEEDS)
    account.stage("training", {"a": Load(1.0), "b": Load(0.25)})
    assert account.seconds["training"] == 1.0  # a's one thread
    account.stage("training", {"a": Load(1.0), "b": Load(1.0), "c": Load(0.0, 2.0)}, times=3)
    assert account.seconds["training"] == 1.0 + 3 * 2.0  # four CPU seconds on two cores
    assert account.cpu == 1.25 + 12.0


def test_a_calibration_measures_everything() -> None:
    speeds = calibrate(Privacy(key_bits=512, insecure_test_mode=True))
    figures = {name: getattr(speeds, name) for name in Speeds.__slots__}
    may_be_nothing = {"owner_tables", "public_tables", "long_tables", "key_seconds"}
    assert not [name for name, value in figures.items() if not (value > 0 or (name in may_be_nothing and value == 0))]


def test_longer_keys_take_longer(tmp_path: Path) -> None:
    """Seconds follow what is counted: more columns, more squarings, more bytes."""
    few = estimate(load_scenario(make_companies(tmp_path / "few", columns=2).write(), ()))
    many = estimate(load_scenario(make_companies(tmp_path / "many", columns=6).write(), ()))
    assert many.seconds["training"] / (many.rounds + 1) > few.seconds["training"] / (few.rounds + 1)
    assert set(many.seconds) > {"training", "aligning", "total"}
    parts = [seconds for phase, seconds in many.seconds.items() if phase != "total"]
    assert many.seconds["total"] == pytest.approx(sum(parts), abs=1e-2)


def test_baselines_are_left_out(tmp_path: Path) -> None:
    scenario = load_scenario(make_companies(tmp_path / "scenario").write(), ())
    assert "comparing" in estimate(scenario).seconds
    assert "comparing" not in estimate(scenario, baselines=False).seconds


def drop_label(companies: Companies) -> None:
    companies.parties["bank"]["label"] = "nothing"


def few_common(companies: Companies) -> None:
    companies.sections["alignment"]["min_intersection"] = 1000


def other_keys(companies: Companies) -> None:
    companies.parties["biller"]["id"] = [companies.parties["biller"]["id"], "x0"]


def constant(companies: Companies) -> None:
    for column in ("x0", "x1", "x2"):
        companies.tables["biller"][column] = "1"


def refusing_policy(companies: Companies) -> None:
    companies.sections["privacy"]["enforce"] = True
    companies.parties["biller"]["policy"] = {"models": ["linear"]}


SPOILT = (drop_label, few_common, other_keys, constant, refusing_policy)


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_refuses_as_check_does(tmp_path: Path, spoil: Any) -> None:
    companies = make_companies(tmp_path / "scenario")
    spoil(companies)
    scenario = load_scenario(companies.write(), ())
    with pytest.raises(VflError) as checked:
        check_scenario(scenario).refuse_too_few()
    with pytest.raises(VflError) as estimated:
        estimate(scenario)
    assert (str(estimated.value), estimated.value.exit_code) == (str(checked.value), 2)


def test_the_command_prints_tables(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make_companies(tmp_path / "scenario", "linear", rows=150).write()
    assert cli.execute(["estimate", str(folder)]) == 0
    said = capfd.readouterr().out
    for words in ("Training", "Total", "encryptions", COORDINATOR, "Rounds:", "Assumed:"):
        assert words in said


def test_the_command_prints_one_object(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make_companies(tmp_path / "scenario", "linear", rows=150).write()
    code = cli.execute(["estimate", str(folder), "--set", "training.max_iter=1", "--no-baselines", "--json"])
    found = json.loads(capfd.readouterr().out)
    assert (code, found["rounds"], found["converged"]) == (0, 1, False)
    assert sum(link["bytes"] for link in found["links"]) == found["bytes"]
    assert sum(role["encryptions"] for role in found["roles"].values()) == found["encryptions"]


def test_strict_refuses_before_anything_is_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make_companies(tmp_path / "scenario", "linear", rows=150, passive=1, key_holder="active").write()
    assert cli.execute(["estimate", str(folder), "--strict"]) == 2
    said = capfd.readouterr()
    assert said.err.splitlines()[-1].startswith("error: ")
    assert not said.out.count("Training")
