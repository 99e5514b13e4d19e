"""Model boosting in jobs and files: its form of [training], what contradicts what, what the handshake names."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from parties.errors import ConfigError
from parties.greeting import job_digest
from parties.wire import Payload
from vfl.audit import SCHEMES
from vfl.display import Phases
from vfl.job import Averaging, Boosting, Job, SplitNN, Task, Training, job_fields
from vfl.job_checks import check_job, resolve_task
from vfl.job_file import build_scenario, load_scenario
from vfl.reference import reference

PARTIES = [{"name": "bank", "role": "active"}, {"name": "biller", "role": "passive"}]
TASKS: tuple[Task, ...] = ("binary", "multiclass", "regression", "count")
SCENARIOS = Path(__file__).parents[2] / "scenarios"
TEXT = """\
name = "trees"
task = "binary"
model = "boosting"

[split]
validation_fraction = 0.1

[training]
n_estimators = 20
max_depth = 4

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


def job(task: Task = "binary", model: str = "boosting", **changes: Any) -> Job:
    return msgspec.convert({"name": "trees", "task": task, "model": model, "parties": PARTIES} | changes, Job)


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


def test_defaults_are_those_of_xgboost_where_it_has_them() -> None:
    xgboost = {"n_estimators": 100, "max_depth": 6, "learning_rate": 0.3, "max_bin": 256, "reg_lambda": 1, "gamma": 0}
    xgboost |= {"reg_alpha": 0, "min_child_weight": 1, "subsample": 1, "colsample_bytree": 1, "scale_pos_weight": 1}
    plain = msgspec.structs.asdict(job().boosting)
    assert {key: plain[key] for key in xgboost} == xgboost
    assert plain["multi_output"]
    assert not plain["first_tree_active_only"]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_runs_and_none_is_implied(task: Task) -> None:
    check_job(job(task))
    assert resolve_task("boosting", task) == task
    assert scenario(f"task={task}").job.task == task


def test_a_task_must_be_given() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_task("boosting", None, "job.toml")
    assert str(caught.value) == (
        "task missing at the top of job.toml, got none, expected 'binary', 'multiclass', 'regression' or 'count': "
        "model 'boosting' fits all of them, add the line"
    )
    lines = tomllib.loads(TEXT)
    del lines["task"]
    with pytest.raises(ConfigError, match="task missing at the top of scenario.toml"):
        build_scenario(lines, Path("/d"), file="scenario.toml")


def test_a_glm_asked_for_another_task_is_told_of_models_that_fit() -> None:
    with pytest.raises(ConfigError, match="or model 'poisson', 'boosting' or 'splitnn' for task 'count'"):
        resolve_task("logistic", "count")


VALID = {"split": {"validation_fraction": 0.2}}
GOSS = {"top_rate": 0.2, "other_rate": 0.1}


@pytest.mark.parametrize(
    ("task", "changes", "parts"),
    [
        ("binary", {"privacy": {"key_holder": "coordinator"}}, ["key_holder in [privacy]", "'boosting'", "'active'"]),
        ("binary", {"boosting": {"top_rate": 0.2}}, ["other_rate", "none beside top_rate 0.2", "both", "neither"]),
        ("binary", {"boosting": {"other_rate": 0.1}}, ["top_rate", "none beside other_rate 0.1", "both"]),
        (
            "binary",
            {"boosting": {"top_rate": 0.7, "other_rate": 0.4}},
            ["other_rate in [training]", "got 0.4 beside top_rate 0.7", "at most 1 together"],
        ),
        (
            "count",
            {"boosting": GOSS | {"subsample": 0.9}},
            ["subsample in [training]", "got 0.9", "expected 1", "GOSS"],
        ),
        (
            "binary",
            {"boosting": {"early_stopping_rounds": 5}},
            ["early_stopping_rounds in [training]", "got 5", "split.validation_fraction above 0", "validation part"],
        ),
        (
            "binary",
            {"split": {"test_fraction": 0.6, "validation_fraction": 0.4}},
            ["validation_fraction in [split]", "got 0.4 beside test_fraction 0.6", "less than 1 together"],
        ),
        ("binary", {"split": {"test_fraction": 0.9, "validation_fraction": 0.9}}, ["got 0.9 beside test_fraction 0.9"]),
        *(
            (task, {"boosting": {"scale_pos_weight": 2}}, ["scale_pos_weight", f"got 2.0 for task '{task}'", "binary"])
            for task in ("multiclass", "regression", "count")
        ),
        ("binary", {"boosting": {"base_score": 0.0}}, ["base_score", "0.0 for task 'binary'", "above 0 and below 1"]),
        ("binary", {"boosting": {"base_score": 1.0}}, ["base_score", "1.0 for task 'binary'", "above 0 and below 1"]),
        ("binary", {"boosting": {"base_score": -2.0}}, ["base_score", "-2.0", "a probability"]),
        ("count", {"boosting": {"base_score": 0.0}}, ["base_score", "0.0 for task 'count'", "a number above 0"]),
        ("count", {"boosting": {"base_score": -1.0}}, ["base_score", "-1.0", "a number above 0"]),
        ("multiclass", {"boosting": {"base_score": 0.5}}, ["base_score", "'multiclass'", "expected none", "remove"]),
        (
            "multiclass",
            {"boosting": {"max_cat_to_onehot": 4}},
            ["max_cat_to_onehot in [training]", "got 4", "sorted categories need one output", "multi_output = false"],
        ),
        *(
            (task, {"boosting": {"multi_output": False}}, ["multi_output", "got false", f"'{task}'", "expected true"])
            for task in ("binary", "regression", "count")
        ),
        *(
            (task, {"privacy": {"label_dp_epsilon": 1.0}}, ["label_dp_epsilon in [privacy]", f"'{task}'", "classes"])
            for task in ("regression", "count")
        ),
    ],
)
def test_lines_that_contradict_each_other(task: Task, changes: dict[str, Any], parts: list[str]) -> None:
    message = refused(job(task, **changes))
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("binary", {"privacy": {"key_holder": "active"}}),
        ("binary", {"privacy": {"label_dp_epsilon": 1.0}}),
        ("multiclass", {"privacy": {"label_dp_epsilon": 1.0}}),
        ("regression", {"boosting": GOSS}),
        ("regression", {"boosting": {"top_rate": 0.8, "other_rate": 0.2}}),
        ("binary", VALID | {"boosting": {"early_stopping_rounds": 5}}),
        ("binary", VALID),
        ("binary", {"boosting": {"scale_pos_weight": 3.0, "base_score": 0.5, "max_cat_to_onehot": 4}}),
        ("multiclass", {"boosting": {"multi_output": False, "max_cat_to_onehot": 4}}),
        ("regression", {"boosting": {"base_score": -7.5}}),
        ("count", {"boosting": {"base_score": 7.5, "max_delta_step": 0.0}}),
        *((task, {"boosting": {"max_delta_step": 0.5, "min_node_rows": 0, "min_bin_gap": 1}}) for task in TASKS),
    ],
)
def test_jobs_that_run(task: Task, changes: dict[str, Any]) -> None:
    check_job(job(task, **changes))


@given(st.integers(1, 999))
def test_parts_that_make_up_the_whole_leave_no_training_rows(thousandths: int) -> None:
    split = {"test_fraction": thousandths / 1000, "validation_fraction": (1000 - thousandths) / 1000}
    assert "validation_fraction" in refused(job(split=split))
    check_job(job(split=split | {"validation_fraction": (1000 - thousandths) / 1001}))
    check_job(job("regression", boosting={"top_rate": thousandths / 1000, "other_rate": (1000 - thousandths) / 1000}))


@pytest.mark.parametrize(
    ("model", "task"),
    [("logistic", "binary"), ("softmax", "multiclass"), ("linear", "regression"), ("poisson", "count")],
)
def test_glms_have_no_validation_part(model: str, task: Task) -> None:
    message = refused(job(task, model, split={"validation_fraction": 0.1}))
    assert f"got 0.1 for model '{model}', expected 0: it acts with models 'boosting' and 'splitnn' only" in message
    check_job(job(task, model, split={"validation_fraction": 0.0}))


@pytest.mark.parametrize(("model", "task"), [("linear", "regression"), ("poisson", "count")])
def test_numbers_have_no_randomised_response_in_a_glm_either(model: str, task: Task) -> None:
    assert "label_dp_epsilon" in refused(job(task, model, privacy={"label_dp_epsilon": 3}))


@given(
    task=st.sampled_from(TASKS),
    boosting=st.fixed_dictionaries(
        {},
        optional={
            "top_rate": st.floats(0.01, 0.99),
            "other_rate": st.floats(0.01, 0.99),
            "subsample": st.floats(0.01, 1),
            "base_score": st.floats(-2, 2),
            "scale_pos_weight": st.sampled_from([0.5, 1, 2]),
            "early_stopping_rounds": st.integers(1, 9),
            "max_cat_to_onehot": st.integers(1, 9),
            "multi_output": st.booleans(),
        },
    ),
    split=st.fixed_dictionaries({"test_fraction": st.floats(0, 0.99), "validation_fraction": st.floats(0, 0.99)}),
)
def test_any_combination_runs_or_is_a_config_error_of_one_line(
    task: Task, boosting: dict[str, Any], split: dict[str, Any]
) -> None:
    try:
        check_job(job(task, boosting=boosting, split=split))
    except ConfigError as error:
        assert "\n" not in str(error)
        return
    assert ("top_rate" in boosting) == ("other_rate" in boosting)
    assert "early_stopping_rounds" not in boosting or split["validation_fraction"] > 0
    assert boosting.get("multi_output", True) or task == "multiclass"
    assert "base_score" not in boosting or task != "multiclass"


OTHERS: dict[str, Any] = {
    "n_estimators": 99,
    "max_depth": 5,
    "learning_rate": 0.1,
    "max_bin": 32,
    "max_cat_to_onehot": 4,
    "reg_lambda": 2.0,
    "reg_alpha": 0.1,
    "gamma": 0.1,
    "min_child_weight": 2.0,
    "max_delta_step": 0.5,
    "subsample": 0.5,
    "colsample_bytree": 0.5,
    "top_rate": 0.2,
    "other_rate": 0.1,
    "scale_pos_weight": 2.0,
    "base_score": 0.25,
    "early_stopping_rounds": 5,
    "multi_output": False,
    "first_tree_active_only": True,
    "min_node_rows": 100,
    "min_bin_gap": 5,
}


def test_every_key_of_boosting_is_compared_and_none_of_the_glms() -> None:
    sections = [line for line in job_fields(job()) if line.startswith(("training.", "boosting."))]
    assert (
        sections == [f"training.{key}" for key in OTHERS] == [f"training.{key}" for key in Boosting.__struct_fields__]
    )
    glm = job_fields(job("binary", "logistic"))
    assert [line for line in glm if line.startswith(("training.", "boosting"))] == [
        f"training.{key}" for key in Training.__struct_fields__
    ]


@pytest.mark.parametrize("key", OTHERS)
def test_the_handshake_names_the_one_key_that_differs(key: str) -> None:
    changed = job(boosting={key: OTHERS[key]})
    mine, theirs = job_fields(job()), job_fields(changed)
    assert [line for line in mine if mine[line] != theirs[line]] == [f"training.{key}"]
    assert job_digest(mine) != job_digest(theirs)
    assert msgspec.json.decode(msgspec.json.encode(changed), type=Job) == changed


def test_most_rounds_of_a_job() -> None:
    assert job(boosting={"n_estimators": 7}).max_rounds == 7
    assert job("binary", "logistic", training={"max_iter": 9}).max_rounds == 9


@pytest.mark.parametrize(
    ("changed", "rounds"),
    [
        (job(boosting={"n_estimators": 7}), 7),
        (job("binary", "logistic"), 12),
        (job("binary", "logistic", training={"max_iter": 9}), 9),
    ],
)
def test_progress_expects_every_tree_and_fewer_iterations(changed: Job, rounds: int) -> None:
    assert Phases(changed, Console(quiet=True)).expected == rounds


def test_every_payload_has_words_for_how_it_is_sent() -> None:
    assert set(SCHEMES) == {kind.__name__ for kind in Payload.__subclasses__()}


def test_a_file_has_one_section_training() -> None:
    built = scenario().job
    assert (built.boosting.n_estimators, built.boosting.max_depth, built.training) == (20, 4, Training())
    assert scenario("training.max_depth=3").job.boosting.max_depth == 3
    assert scenario("training={max_depth = 2}").job.boosting == Boosting(max_depth=2)
    lines = tomllib.loads(TEXT)
    del lines["training"]
    assert build_scenario(lines, Path("/d"), file="f", overrides=["training.gamma=1"]).job.boosting == Boosting(gamma=1)
    assert build_scenario(lines, Path("/d"), file="f").job.boosting == Boosting()
    glm = build_scenario(lines, Path("/d"), file="f", overrides=["model=logistic", "split.validation_fraction=0"]).job
    assert (glm.training, glm.boosting) == (Training(), Boosting())


def test_there_is_no_section_boosting() -> None:
    message = refused_file(boosting={"max_depth": 3})
    assert "unknown key 'boosting' at the top of scenario.toml" in message
    assert "did you mean 'training'?" in message


@pytest.mark.parametrize("key", sorted(set(Training.__struct_fields__) - set(Boosting.__struct_fields__)))
def test_keys_of_glms_are_refused_by_name(key: str) -> None:
    message = refused_file(f"training.{key}=1")
    assert f"{key} in [training] of scenario.toml (given by --set), got 1 for model 'boosting'" in message
    assert "expected no such line: it belongs to logistic, softmax, linear and poisson" in message
    assert ("poisson and splitnn (known" in message) == (key in SplitNN.__struct_fields__)
    assert "n_estimators" in message


@pytest.mark.parametrize("key", sorted(set(Boosting.__struct_fields__) - set(Training.__struct_fields__)))
@pytest.mark.parametrize("model", ["logistic", "softmax", "linear", "poisson"])
def test_keys_of_boosting_are_refused_by_name(model: str, key: str) -> None:
    message = refused_file(f"model={model}", training={key: 1})
    assert f"{key} in [training] of scenario.toml, got 1 for model '{model}', expected no such line" in message
    owners = "boosting and splitnn" if key in SplitNN.__struct_fields__ else "boosting"
    assert f"it belongs to {owners} (known" in message
    assert "max_iter" in message


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("max_bin=1", ["got 1", "a whole number, at least 2, at most 65535"]),
        ("max_bin=65536", ["got 65536", "at most 65535"]),
        ("max_depth=0", ["got 0", "a whole number, at least 1, at most 16"]),
        ("max_depth=17", ["got 17", "at most 16"]),
        ("n_estimators=0", ["got 0", "at least 1"]),
        ("n_estimators=1.5", ["got 1.5", "a whole number"]),
        ("learning_rate=0", ["got 0", "a number, above 0, at most 1"]),
        ("learning_rate=1.1", ["got 1.1", "at most 1"]),
        ("subsample=0", ["got 0", "a number, above 0, at most 1"]),
        ("subsample=1.5", ["got 1.5", "at most 1"]),
        ("colsample_bytree=0.0", ["got 0.0", "above 0"]),
        ("top_rate=0", ["got 0", "a number, above 0, below 1"]),
        ("other_rate=1", ["got 1", "below 1"]),
        ("reg_lambda=-1", ["got -1", "at least 0"]),
        ("reg_alpha=nan", ["got nan", "a number"]),
        ("gamma=inf", ["got inf", "a number"]),
        ("base_score=nan", ["got nan", "a number"]),
        ("base_score=inf", ["got inf", "a number"]),
        ("scale_pos_weight=0", ["got 0", "above 0"]),
        ("max_delta_step=-0.1", ["got -0.1", "at least 0"]),
        ("early_stopping_rounds=0", ["got 0", "at least 1"]),
        ("max_cat_to_onehot=0", ["got 0", "at least 1"]),
        ("multi_output=1", ["got 1", "true or false"]),
        ("min_node_rows=-1", ["got -1", "at least 0"]),
        ("min_bin_gap=true", ["got true", "a whole number"]),
        ("max_dept=3", ["unknown key 'max_dept'", "did you mean 'max_depth'?"]),
        ("n_estimator=3", ["unknown key 'n_estimator'", "did you mean 'n_estimators'?"]),
    ],
)
def test_values_out_of_range(override: str, parts: list[str]) -> None:
    message = refused_file(f"training.{override}")
    wanted = [*parts, "in [training] of scenario.toml (given by --set)"]
    assert [part for part in wanted if part not in message] == [], message


def test_an_unknown_model_is_named_before_keys_that_it_may_have() -> None:
    assert "model at the top" in refused_file("model=boostin")


@pytest.mark.parametrize(
    ("given", "constraints"),
    [
        ("{income = 1, age = -1, rent = 0}", {"income": 1, "age": -1, "rent": 0}),
        ("{}", {}),
        ('{"a b.c" = 1}', {"a b.c": 1}),
    ],
)
def test_monotone_constraints_are_a_table_of_columns(given: str, constraints: dict[str, int]) -> None:
    bank, biller = scenario(f"party.bank.monotone_constraints={given}").parties
    assert (bank.monotone_constraints, biller.monotone_constraints) == (constraints, {})
    text = TEXT.replace('label = "default"', f'label = "default"\nmonotone_constraints = {given}')
    assert tomllib.loads(text)["party"][0]["monotone_constraints"] == constraints
    assert build_scenario(tomllib.loads(text), Path("/d"), file="f").parties[0] == bank
    assert msgspec.json.decode(msgspec.json.encode(bank), type=type(bank)) == bank


def test_one_monotone_constraint_on_the_command_line() -> None:
    assert scenario("party.bank.monotone_constraints.income=-1").parties[0].monotone_constraints == {"income": -1}


PLACE = "in [party.monotone_constraints] of party 'bank' of scenario.toml (given by --set)"
WHOLE = "monotone_constraints in [[party]] 'bank' of scenario.toml (given by --set)"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{income = 2}", f"'income' {PLACE}, got 2, expected -1, 0 or 1"),
        ("{income = true}", f"'income' {PLACE}, got true, expected -1, 0 or 1"),
        ("{income = 1.0}", f"'income' {PLACE}, got 1.0, expected -1, 0 or 1"),
        ('{income = "up"}', f"'income' {PLACE}, got 'up', expected -1, 0 or 1"),
        ("{income = {x = 1}}", f"'income' {PLACE}, got a table, expected -1, 0 or 1"),
        ('{"" = 1}', f"'' {PLACE}, got '', expected non-empty text"),
        ('{"a\\nb" = 3}', f"'a\\nb' {PLACE}, got 3, expected -1, 0 or 1"),
        ("1", f"{WHOLE}, got 1, expected a table of KEY = -1, 0 or 1"),
        ('["income"]', f"{WHOLE}, got ['income'], expected a table of KEY = -1, 0 or 1"),
        ("income", f"{WHOLE}, got 'income', expected a table of KEY = -1, 0 or 1"),
    ],
)
def test_bad_monotone_constraints(given: str, message: str) -> None:
    assert refused_file(f"party.bank.monotone_constraints={given}") == message


@pytest.mark.parametrize(
    ("overrides", "which"),
    [
        (["model=logistic", "training={}", "split.validation_fraction=0"], "model 'logistic'"),
        (["model=linear", "task=regression", "training={}", "split.validation_fraction=0"], "model 'linear'"),
        (["task=multiclass"], "task 'multiclass'"),
        (["task=multiclass", "training.multi_output=false"], "task 'multiclass'"),
    ],
)
def test_monotone_constraints_act_on_one_output_of_trees(overrides: list[str], which: str) -> None:
    message = refused_file(*overrides, "party.bank.monotone_constraints={age = 0, income = 1}")
    assert (
        f"monotone_constraints of party 'bank' in scenario.toml, got one for 'income', expected none for {which}"
        in (message)
    )
    scenario(*overrides, "party.bank.monotone_constraints={age = 0}")


@pytest.mark.parametrize("task", ["binary", "regression", "count"])
def test_monotone_constraints_of_tasks_with_one_output(task: str) -> None:
    scenario(f"task={task}", "party.bank.monotone_constraints={income = 1}")


def test_a_passive_party_has_no_monotone_constraints() -> None:
    message = refused_file("party.biller.monotone_constraints={rent = 1}")
    assert "monotone_constraints in passive party 'biller' of scenario.toml, got 'rent'" in message
    assert "the active party only" in message


@pytest.mark.parametrize(
    "path",
    sorted(path for path in SCENARIOS.glob("*/*.toml") if path.parent.name != "three_companies"),
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_scenarios_of_this_repository(path: Path) -> None:
    built = load_scenario(path).job
    assert msgspec.json.decode(msgspec.json.encode(built), type=Job) == built


def test_the_docs_tell_the_two_forms_of_training_apart() -> None:
    rows = [line.split(" | ") for line in reference().splitlines() if line.startswith("| ")]
    keys = {
        section: [key for place, key, *_ in rows if place == f"| {section}"] for section in {row[0][2:] for row in rows}
    }
    shared = [f"`{key}`" for key in Averaging.__struct_fields__]
    assert [*shared, *keys["training (GLM)"]] == [f"`{key}`" for key in Training.__struct_fields__]
    assert keys["training (silos)"] == shared
    assert keys["training (boosting)"] == [f"`{key}`" for key in Boosting.__struct_fields__]
    assert not {"training", "boosting"} & set(keys)
    assert ["| party", "`monotone_constraints`", "a table of KEY = -1, 0 or 1", "`{}`"] in [row[:4] for row in rows]
