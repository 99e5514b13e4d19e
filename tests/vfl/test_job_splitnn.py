"""Model splitnn in jobs and files: its form of [training], what contradicts what, what the handshake names."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from parties.errors import ConfigError
from parties.greeting import job_digest
from vfl.display import Phases
from vfl.job import Averaging, Boosting, Job, SplitNN, Task, Training, job_fields
from vfl.job_checks import check_job, resolve_task
from vfl.job_file import build_scenario
from vfl.network_checks import SPLIT_KEYS
from vfl.reference import reference

PARTIES = [{"name": "bank", "role": "active"}, {"name": "biller", "role": "passive"}]
OWN_KEYS = [key for key in SplitNN.__struct_fields__ if key not in Averaging.__struct_fields__]
TASKS: tuple[Task, ...] = ("binary", "multiclass", "regression", "count")
TEXT = """\
name = "network"
task = "binary"
model = "splitnn"

[split]
validation_fraction = 0.1

[training]
units = 8
hidden = [16]
epochs = 5

[[party]]
name = "bank"
role = "active"
data = "bank.csv"
id = "customer"
label = "default"

[[party]]
name = "biller"
role = "passive"
data = "biller.csv"
id = "client"
"""


def job(task: Task = "binary", **changes: Any) -> Job:
    return msgspec.convert({"name": "network", "task": task, "model": "splitnn", "parties": PARTIES} | changes, Job)


def network(task: Task = "binary", **keys: Any) -> Job:
    return job(task, splitnn=keys)


def split(task: Task = "binary", **keys: Any) -> Job:
    return network(task, mode="split", **keys)


def refused(checked: Job) -> str:
    """The one line that the job is refused with."""
    with pytest.raises(ConfigError) as caught:
        check_job(checked, "job.toml")
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    assert [word for word in ("of job.toml", ", got ", ", expected ") if word not in message] == [], message
    return message


def scenario(*overrides: str, **lines: Any) -> Any:
    return build_scenario(tomllib.loads(TEXT) | lines, Path("/d"), file="scenario.toml", overrides=overrides)


def refused_file(*overrides: str, **lines: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        scenario(*overrides, **lines)
    message = str(caught.value)
    assert "\n" not in message
    assert "scenario.toml" in message
    return message


# defaults, and every key's range


def test_the_default_shows_no_single_row_to_anybody() -> None:
    plain = job().splitnn
    check_job(job())
    assert job().encrypted
    assert (plain.mode, plain.units, plain.hidden, plain.batch_size) == ("source-layer", 16, (64, 32), 256)
    assert (plain.dropout, plain.weight_decay, plain.momentum, plain.gradient_noise) == (0, 0, 0, 0)
    assert (plain.early_stopping_rounds, plain.source_learning_rate, plain.gradient_clip) == (None, None, None)
    assert (plain.bottom_hidden, plain.local_steps, plain.label_inference) == ((), 1, False)


@pytest.mark.parametrize(
    ("keys", "step"),
    [
        ({}, 0.3),
        ({"learning_rate": 0.02}, 0.3),
        ({"optimizer": "sgd", "learning_rate": 0.02}, 0.02),
        ({"optimizer": "sgd", "learning_rate": 0.02, "source_learning_rate": 0.5}, 0.5),
    ],
)
def test_the_first_layer_steps_as_far_as_sgd_does(keys: dict[str, Any], step: float) -> None:
    assert network(**keys).splitnn.source_step == step


VALUES: dict[str, tuple[object, ...]] = {
    "mode": ("split",),
    "units": (1, 4096),
    "hidden": ([], [1], [65_536], [8] * 64),
    "activation": ("relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid"),
    "dropout": (0.0, 0.99, 0),
    "batch_size": (1, 2**20),
    "epochs": (1, 100_000),
    "optimizer": ("adam", "adamw", "sgd", "rmsprop", "adagrad"),
    "learning_rate": (1e-9, 100),
    "weight_decay": (0, 100.0),
    "source_learning_rate": (1e-9, 100.0),
    "early_stopping_rounds": (1, 9),
}
SPLIT_VALUES: dict[str, tuple[object, ...]] = {
    "bottom_hidden": ([], [7, 65_536], [8] * 64),
    "local_steps": (1, 1000),
    "gradient_clip": (1e-9, 5),
    "gradient_noise": (0, 0.0),
    "label_inference": (True, False),
}
WRONG: dict[str, tuple[object, ...]] = {
    "mode": ("plain", "source_layer", True, 1),
    "units": (0, -1, 4097, 1.5, "many", True, [16]),
    "hidden": ([0], [65_537], [1.5], [True], ["8"], 64, "64", [[8]], [8] * 65),
    "activation": ("softmax", "ReLU", None, []),
    "dropout": (1, -0.1, 1.5, "0.1"),
    "batch_size": (0, 2**20 + 1, 0.5),
    "epochs": (0, 100_001, -3),
    "optimizer": ("lbfgs", "Adam", 1),
    "learning_rate": (0, -1, 101, "fast"),
    "weight_decay": (-1e-9, 101),
    "momentum": (1, -0.1, 2),
    "source_learning_rate": (0, 101, -1),
    "early_stopping_rounds": (0, -1, 2.5),
    "bottom_hidden": ([0], 8, ["8"]),
    "local_steps": (0, 1001, 1.5),
    "gradient_clip": (0, -1),
    "gradient_noise": (-1, 2e6),
    "label_inference": (1, "yes"),
}


@pytest.mark.parametrize("key", VALUES)
def test_values_that_a_key_may_have(key: str) -> None:
    for value in VALUES[key]:
        read = getattr(scenario(training={key: value}).job.splitnn, key)
        assert read == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("key", SPLIT_VALUES)
def test_values_that_a_key_of_mode_split_may_have(key: str) -> None:
    for value in SPLIT_VALUES[key]:
        built = scenario(training={"mode": "split", key: value}).job
        assert not built.encrypted
        assert getattr(built.splitnn, key) == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("key", WRONG)
def test_values_that_a_key_may_not_have(key: str) -> None:
    for value in WRONG[key]:
        if value is not None:  # TOML has no null
            message = refused_file(training={"mode": "split", "optimizer": "sgd", key: value})
            assert message.startswith(f"{key} in [training] of scenario.toml, got "), message
            assert ", expected " in message


def test_every_key_is_tried() -> None:
    assert {*VALUES, *SPLIT_VALUES, "momentum"} == set(OWN_KEYS) == set(WRONG)
    assert set(SPLIT_VALUES) == set(SPLIT_KEYS)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("units=0", ["got 0", "a whole number, at least 1, at most 4096"]),
        ("hidden=[0]", ["got [0]", "a list of whole numbers, each at least 1, each at most 65536, at most 64 of them"]),
        ("hidden=64", ["got 64", "a list of whole numbers"]),
        ("mode=split-learning", ["got 'split-learning'", "'source-layer' or 'split'"]),
        ("activation=ReLU", ["got 'ReLU'", "did you mean 'relu'?"]),
        ("optimizer=Adam", ["got 'Adam'", "'adagrad'; did you mean 'adam'?"]),
        ("dropout=1", ["got 1", "a number, at least 0, below 1"]),
        ("learning_rate=nan", ["got nan", "a number, above 0, at most 100"]),
        ("gradient_clip=inf", ["got inf", "a number, at least 1e-09"]),
        ("local_steps=0", ["got 0", "at least 1, at most 1000"]),
    ],
)
def test_refusals_say_what_is_expected(override: str, parts: list[str]) -> None:
    message = refused_file(f"training.{override}")
    assert [part for part in [*parts, "in [training]", "(given by --set)"] if part not in message] == [], message


# what binds several keys


@pytest.mark.parametrize("task", TASKS)
def test_every_task_runs_and_none_is_implied(task: Task) -> None:
    check_job(job(task))
    check_job(split(task))
    assert resolve_task("splitnn", task) == task
    assert scenario(f"task={task}").job.task == task


def test_a_task_must_be_given() -> None:
    lines = tomllib.loads(TEXT)
    del lines["task"]
    with pytest.raises(ConfigError, match="task missing at the top of scenario.toml.* model 'splitnn' fits all"):
        build_scenario(lines, Path("/d"), file="scenario.toml")


@pytest.mark.parametrize(
    ("checked", "parts"),
    [
        (job(alignment={"one_sided": True}), ["one_sided", "'splitnn'", "'boosting', 'logistic' and 'linear' only"]),
        (job(privacy={"key_holder": "coordinator"}), ["key_holder in [privacy]", "'splitnn'", "'active'"]),
        (
            network(early_stopping_rounds=3),
            ["early_stopping_rounds in [training]", "got 3", "split.validation_fraction above 0"],
        ),
        (
            job(split={"test_fraction": 0.6, "validation_fraction": 0.4}),
            ["validation_fraction in [split]", "got 0.4 beside test_fraction 0.6", "less than 1 together"],
        ),
        *(
            (network(momentum=0.9, optimizer=name), ["momentum", f"0.9 for optimizer '{name}'", "'sgd' only"])
            for name in ("adam", "adamw", "rmsprop", "adagrad")
        ),
        (split(momentum=0.9), ["momentum", "'sgd' only"]),
        (
            network(bottom_hidden=[8]),
            ["bottom_hidden in [training]", "got [8] for mode 'source-layer'", "expected []: it acts in mode 'split'"],
        ),
        (network(local_steps=2), ["local_steps", "got 2 for mode 'source-layer'", "expected 1: it acts"]),
        (network(gradient_clip=1.0), ["gradient_clip", "got 1.0 for mode", "expected none: it acts"]),
        (network(gradient_noise=0.5), ["gradient_noise", "got 0.5 for mode", "expected 0.0: it acts"]),
        (network(label_inference=True), ["label_inference", "got true for mode", "expected false: it acts"]),
        (split(source_learning_rate=0.1), ["source_learning_rate", "got 0.1 for mode 'split'", "'source-layer' only"]),
        (split(gradient_noise=0.5), ["gradient_noise in [training]", "0.5 without gradient_clip", "gradient_clip too"]),
        *(
            (split(task, label_inference=True), ["label_inference", f"true for task '{task}'", "expected false"])
            for task in ("multiclass", "regression", "count")
        ),
        (
            job(splitnn={"mode": "split"}, privacy={"key_holder": "active"}),
            ["key_holder in [privacy]", "'active' for mode 'split'", "'auto'"],
        ),
        (
            job(splitnn={"mode": "split"}, privacy={"exponent_bits": 448}),
            ["exponent_bits in [privacy]", "448 for mode 'split'", "no key is made"],
        ),
        *(
            (job(task, privacy={"label_dp_epsilon": 1.0}), ["label_dp_epsilon in [privacy]", f"'{task}'", "classes"])
            for task in ("regression", "count")
        ),
    ],
)
def test_lines_that_contradict_each_other(checked: Job, parts: list[str]) -> None:
    message = refused(checked)
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize("key", SPLIT_KEYS)
def test_keys_of_mode_split_are_never_ignored(key: str) -> None:
    """Whatever another value a key of mode split has, mode source-layer refuses it by name."""
    for value in SPLIT_VALUES[key]:
        wanted = tuple(value) if isinstance(value, list) else value
        if wanted != getattr(SplitNN(), key):
            assert refused(network(**{key: value})).startswith(f"{key} in [training] of job.toml, got ")
    check_job(network(**{key: getattr(SplitNN(), key)}))


@pytest.mark.parametrize(
    "checked",
    [
        job(privacy={"key_holder": "active", "exponent_bits": 448}),
        job(privacy={"label_dp_epsilon": 1.0}),
        job("multiclass", privacy={"label_dp_epsilon": 1.0}),
        job(split={"validation_fraction": 0.2}),
        job(split={"validation_fraction": 0.2}, splitnn={"early_stopping_rounds": 1}),
        network(momentum=0.9, optimizer="sgd"),
        network(units=4096, hidden=[]),
        split(momentum=0.9, optimizer="sgd", bottom_hidden=[32], local_steps=4),
        split(gradient_noise=1.0, gradient_clip=0.1, label_inference=True),
        split("count", gradient_clip=0.1),
    ],
)
def test_jobs_that_run(checked: Job) -> None:
    check_job(checked)


# files


def test_the_section_training_has_the_models_keys() -> None:
    built = scenario().job
    assert (built.splitnn.units, built.splitnn.hidden, built.splitnn.epochs) == (8, (16,), 5)
    assert (built.training, built.boosting) == (Training(), Boosting())
    assert built.max_rounds == 5
    assert scenario("training.units=4").job.splitnn.units == 4
    assert scenario("training.hidden=[9, 8]").job.splitnn.hidden == (9, 8)


OTHER_KEYS = sorted(set(Training.__struct_fields__) - set(SplitNN.__struct_fields__))


@pytest.mark.parametrize("key", [*OTHER_KEYS, "max_depth", "n_estimators", "subsample"])
def test_keys_of_other_models_are_refused_by_name(key: str) -> None:
    message = refused_file(f"training.{key}=1")
    assert f"{key} in [training] of scenario.toml (given by --set), got 1 for model 'splitnn'" in message
    assert "known for 'splitnn': mode, units, hidden" in message


@pytest.mark.parametrize("key", sorted(set(OWN_KEYS) - {*Boosting.__struct_fields__, *Training.__struct_fields__}))
@pytest.mark.parametrize("model", ["logistic", "boosting"])
def test_keys_of_splitnn_are_refused_by_name(model: str, key: str) -> None:
    message = refused_file(f"model={model}", training={key: 1})
    assert f"{key} in [training] of scenario.toml, got 1 for model '{model}', expected no such line" in message
    assert "it belongs to splitnn (known" in message


def test_an_unknown_key_is_refused_with_the_nearest_one() -> None:
    message = refused_file("training.batchsize=64")
    assert "unknown key 'batchsize' in [training] of scenario.toml (given by --set)" in message
    assert "did you mean 'batch_size'?" in message


def test_there_is_no_section_splitnn() -> None:
    assert "unknown key 'splitnn' at the top of scenario.toml" in refused_file(splitnn={"units": 3})


def test_constraints_of_trees_are_refused() -> None:
    message = refused_file("party.bank.monotone_constraints.age=1")
    assert "model 'splitnn'" in message and "model 'boosting'" in message


# the handshake

CHANGED: dict[str, Any] = {
    "mode": "split",
    "units": 17,
    "hidden": [64],
    "activation": "tanh",
    "dropout": 0.1,
    "batch_size": 128,
    "epochs": 3,
    "optimizer": "sgd",
    "learning_rate": 0.002,
    "weight_decay": 0.1,
    "momentum": 0.5,
    "source_learning_rate": 0.2,
    "early_stopping_rounds": 4,
    "bottom_hidden": [8],
    "local_steps": 2,
    "gradient_clip": 1.0,
    "gradient_noise": 0.5,
    "label_inference": True,
    "aggregation": "fedavg",
    "aggregation_by_layer": {"own": "simple"},
    "rounds": 3,
    "local_epochs": 2,
    "client_fraction": 0.5,
    "server_optimizer": "adam",
    "server_learning_rate": 0.1,
    "proximal": 0.1,
    "min_silos": 2,
    "round_timeout": 5.0,
}


@pytest.mark.parametrize("key", SplitNN.__struct_fields__)
def test_the_handshake_names_the_one_key_that_differs(key: str) -> None:
    changed = network(**{key: CHANGED[key]})
    mine, theirs = job_fields(job()), job_fields(changed)
    assert {line for line in {*mine, *theirs} if mine.get(line) != theirs.get(line)} == {f"training.{key}"}
    assert job_digest(mine) != job_digest(theirs)
    assert msgspec.json.decode(msgspec.json.encode(changed), type=Job) == changed


def test_keys_of_other_models_are_not_compared() -> None:
    fields = job_fields(job())
    compared = {line.removeprefix("training.") for line in fields if line.startswith("training.")}
    assert compared == set(SplitNN.__struct_fields__)
    assert fields["training.hidden"] == "[64,32]"


def test_docs_have_a_row_for_every_key() -> None:
    page = reference()
    assert [key for key in OWN_KEYS if f"| training (splitnn) | `{key}` |" not in page] == []
    assert "| party.policy | `embedding_gradients` |" in page


# the display


def test_progress_counts_epochs() -> None:
    console = Console(force_terminal=True, width=120, color_system=None)
    phases = Phases(job(splitnn={"epochs": 12}), console)
    phases.begin("training")
    phases.advance(3, 0.25)
    with console.capture() as capture:
        console.print(phases.bars)
    assert "epoch 3 of 12" in capture.get()
    phases.finish()
    with console.capture() as capture:
        console.print(phases.bars)
    assert "3 epochs, loss 0.25" in capture.get()
