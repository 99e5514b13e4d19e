"""Jobs: rules that bind several keys, what the handshake compares, JSON between processes, who holds the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from parties.errors import ConfigError
from parties.greeting import job_digest
from parties.policy import Model
from parties.spec import PartySpec
from vfl.job import COORDINATOR_MODELS, EXPECTED_ROUNDS, TASKS, Job, ScenarioFile, choose_key_holder, job_fields
from vfl.job_checks import check_job, check_key_holder, resolve_task
from vfl.reference import reference
from vfl.tables import describe, nearest

PARTIES = [{"name": "bank", "role": "active"}, {"name": "biller", "role": "passive"}]


def job(**changes: Any) -> Job:
    lines = {"name": "credit", "task": "binary", "model": "logistic", "parties": PARTIES}
    return msgspec.convert(lines | changes, Job)


def test_defaults_are_those_of_the_contract() -> None:
    plain = job()
    check_job(plain)
    assert plain.seed == 0
    assert plain.alignment.protocol == "auto"
    assert plain.alignment.min_intersection == 100
    assert (plain.alignment.duplicates, plain.alignment.missing) == ("refuse", "refuse")
    assert not plain.alignment.casefold
    assert not plain.alignment.digits_only
    assert plain.split.test_fraction == 0.3
    assert (plain.training.l2, plain.training.tol, plain.training.max_iter) == (0.001, 1e-8, 100)
    assert plain.training.fit_intercept
    assert (plain.training.newton_steps, plain.training.curvature) == (0, "mean")
    assert (plain.privacy.key_bits, plain.privacy.key_holder, plain.privacy.exponent_bits) == (2048, "auto", None)
    assert not plain.privacy.enforce
    assert not plain.privacy.small_data
    assert not plain.privacy.insecure_test_mode


def test_roles_in_the_order_of_the_file() -> None:
    three = job(parties=[{"name": "z", "role": "passive"}, *PARTIES])
    assert three.active == "bank"
    assert three.passive == ("z", "biller")


@pytest.mark.parametrize("model", TASKS)
def test_a_model_implies_its_task_and_refuses_the_others(model: Model) -> None:
    assert resolve_task(model, None) == resolve_task(model, TASKS[model]) == TASKS[model]
    for task in set(TASKS.values()) - {TASKS[model]}:
        with pytest.raises(ConfigError, match=f"task .*, got '{task}', expected '{TASKS[model]}'"):
            resolve_task(model, task)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"parties": [PARTIES[0]]}, ["no passive party", "at least one"]),
        ({"parties": [PARTIES[1]]}, ["no active party", "expected one"]),
        ({"parties": []}, ["no active party"]),
        ({"parties": [PARTIES[0], {"name": "b", "role": "active"}]}, ["2 active parties", "'bank'", "'b'"]),
        ({"parties": [*PARTIES, PARTIES[1]]}, ["'biller' twice", "unique"]),
        ({"privacy": {"key_bits": 1024}}, ["key_bits", "1024", "2048", "insecure_test_mode"]),
        ({"privacy": {"key_bits": 2049}}, ["key_bits", "2049", "2048, 3072 or 4096"]),
        ({"privacy": {"key_bits": 600, "insecure_test_mode": True}}, ["key_bits", "600"]),
        ({"privacy": {"exponent_bits": 2049}}, ["exponent_bits", "2049", "at most key_bits, 2048"]),
        (
            {"model": "poisson", "task": "count", "privacy": {"key_holder": "coordinator"}},
            ["key_holder", "'coordinator'", "'poisson'", "logistic and linear"],
        ),
        (
            {"model": "softmax", "task": "multiclass", "privacy": {"key_holder": "coordinator"}},
            ["key_holder", "'softmax'"],
        ),
        (
            {"privacy": {"key_holder": "active"}, "training": {"newton_steps": 1}},
            ["newton_steps", "got 1", "key_holder 'active'", "expected 0"],
        ),
        (
            {"privacy": {"key_holder": "active"}, "training": {"curvature": "row"}},
            ["curvature", "'row'", "expected 'mean'"],
        ),
        ({"model": "poisson", "task": "count", "training": {"newton_steps": 2}}, ["newton_steps", "'poisson'"]),
        ({"model": "softmax", "task": "multiclass", "training": {"curvature": "row"}}, ["curvature", "'softmax'"]),
        ({"task": "count"}, ["task", "'count'", "'binary'", "'logistic'"]),
    ],
)
def test_lines_that_contradict_each_other(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_job(job(**changes), "job.toml")
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in [*parts, "job.toml", "got", "expected"] if part not in message] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"privacy": {"key_bits": 3072, "exponent_bits": 448}},
        {"privacy": {"key_bits": 512, "insecure_test_mode": True}},
        {"privacy": {"key_bits": 4096, "insecure_test_mode": True}},
        {"privacy": {"key_holder": "coordinator"}, "training": {"newton_steps": 1, "curvature": "row"}},
        {"training": {"newton_steps": 1}},
        {"model": "linear", "task": "regression", "privacy": {"key_holder": "coordinator"}},
        {"model": "poisson", "task": "count", "privacy": {"key_holder": "active"}},
    ],
)
def test_jobs_that_run(changes: dict[str, Any]) -> None:
    check_job(job(**changes))


def test_options_of_the_coordinator_are_refused_once_auto_chose_the_active_party() -> None:
    wanting = job(training={"newton_steps": 1})
    check_key_holder(wanting, "coordinator")
    check_key_holder(job(), "active")
    with pytest.raises(ConfigError, match=r"newton_steps .* got 1 with the key at the active party \(two parties\)"):
        check_key_holder(wanting, "active", "two parties")


CHANGES: dict[str, dict[str, Any]] = {
    "name": {"name": "other"},
    "seed": {"seed": 1},
    "alignment.protocol": {"alignment": {"protocol": "ecdh"}},
    "alignment.pad_to": {"alignment": {"pad_to": 5000}},
    "alignment.one_sided": {"alignment": {"one_sided": True}},
    "alignment.bucket_ids": {"alignment": {"bucket_ids": 50_000}},
    "alignment.min_intersection": {"alignment": {"min_intersection": 101}},
    "alignment.duplicates": {"alignment": {"duplicates": "first"}},
    "alignment.missing": {"alignment": {"missing": "drop"}},
    "alignment.casefold": {"alignment": {"casefold": True}},
    "alignment.digits_only": {"alignment": {"digits_only": True}},
    "alignment.min_prediction_rows": {"alignment": {"min_prediction_rows": 10}},
    "split.test_fraction": {"split": {"test_fraction": 0.25}},
    "split.validation_fraction": {"split": {"validation_fraction": 0.25}},
    "training.l2": {"training": {"l2": 0.01}},
    "training.tol": {"training": {"tol": 1e-7}},
    "training.max_iter": {"training": {"max_iter": 99}},
    "training.fit_intercept": {"training": {"fit_intercept": False}},
    "training.newton_steps": {"training": {"newton_steps": 1}},
    "training.curvature": {"training": {"curvature": "row"}},
    "training.aggregation": {"training": {"aggregation": "fedavg"}},
    "training.aggregation_by_layer": {"training": {"aggregation_by_layer": {"intercept": "simple"}}},
    "training.rounds": {"training": {"rounds": 3}},
    "training.local_epochs": {"training": {"local_epochs": 2}},
    "training.client_fraction": {"training": {"client_fraction": 0.5}},
    "training.server_optimizer": {"training": {"server_optimizer": "adam"}},
    "training.server_learning_rate": {"training": {"server_learning_rate": 0.1}},
    "training.proximal": {"training": {"proximal": 0.1}},
    "training.min_silos": {"training": {"min_silos": 2}},
    "training.round_timeout": {"training": {"round_timeout": 5.0}},
    "training.learning_rate": {"training": {"learning_rate": 0.2}},
    "training.batch_size": {"training": {"batch_size": 64}},
    "privacy.key_bits": {"privacy": {"key_bits": 3072}},
    "privacy.key_holder": {"privacy": {"key_holder": "active"}},
    "privacy.exponent_bits": {"privacy": {"exponent_bits": 448}},
    "privacy.enforce": {"privacy": {"enforce": True}},
    "privacy.label_dp_epsilon": {"privacy": {"label_dp_epsilon": 2.0}},
    "privacy.dp": {"privacy": {"dp": "local"}},
    "privacy.dp_clip": {"privacy": {"dp_clip": 2.0}},
    "privacy.dp_epsilon": {"privacy": {"dp_epsilon": 3.0}},
    "privacy.dp_noise": {"privacy": {"dp_noise": 1.5}},
    "privacy.dp_delta": {"privacy": {"dp_delta": 1e-6}},
    "privacy.small_data": {"privacy": {"small_data": True}},
    "privacy.insecure_test_mode": {"privacy": {"insecure_test_mode": True}},
    "party.1": {"parties": [{"name": "shop", "role": "active"}, PARTIES[1]]},
    "party.2": {"parties": [PARTIES[0], {"name": "shop", "role": "passive"}]},
    "task": {"task": "count"},
    "model": {"model": "linear"},
}


def digest(job: Job) -> bytes:
    """What the seals of a run are bound to."""
    return job_digest(job_fields(job))


def travelled(value: Any) -> Any:
    """As it arrives at the process of a role: by JSON, types and ranges checked again."""
    return msgspec.json.decode(msgspec.json.encode(value), type=type(value))


@pytest.mark.parametrize("field", CHANGES)
def test_the_handshake_names_the_one_field_that_differs(field: str) -> None:
    mine, theirs = job_fields(job()), job_fields(job(**CHANGES[field]))
    assert {line for line in {*mine, *theirs} if mine.get(line) != theirs.get(line)} == {field}
    assert digest(job()) != digest(job(**CHANGES[field]))


def test_every_field_of_a_job_is_compared() -> None:
    assert set(job_fields(job())) == set(CHANGES)


def test_fields_are_text_as_a_person_writes_it() -> None:
    fields = job_fields(job(name="null"))
    assert (fields["training.l2"], fields["training.curvature"]) == ("0.001", "mean")
    assert (fields["privacy.enforce"], fields["privacy.exponent_bits"]) == ("false", "null")
    assert (fields["party.1"], fields["party.2"]) == ("bank active", "biller passive")


def test_the_digest_is_the_same_for_the_same_job_and_counts_the_order_of_parties() -> None:
    assert digest(job()) == digest(travelled(job()))
    assert len(digest(job())) == 32
    assert digest(job()) != digest(job(parties=PARTIES[::-1]))


@pytest.mark.parametrize("field", CHANGES)
def test_jobs_travel_as_json(field: str) -> None:
    changed = job(**CHANGES[field])
    assert travelled(changed) == changed


@pytest.mark.parametrize("positive", [None, "a", 1, 1.0, True])
def test_parties_travel_as_json(positive: object) -> None:
    lines = {"name": "bank", "role": "active", "data": "/a/b.csv", "id": ["a", "b"], "label": "y"}
    spec = msgspec.convert(lines | {"positive": positive, "policy": {"max_rounds": 9}, "features": []}, PartySpec)
    back = travelled(spec)
    assert back == spec
    assert type(back.positive) is type(positive)
    assert back.id_columns == ("a", "b")


def test_json_from_elsewhere_is_checked_again() -> None:
    for wrong in (b'"max_iter":0', b'"max_itre":100', b'"max_iter":"100"'):
        text = msgspec.json.encode(job()).replace(b'"max_iter":100', wrong)
        with pytest.raises(msgspec.ValidationError, match="training"):
            msgspec.json.decode(text, type=Job)


@pytest.mark.parametrize(
    ("model", "setting", "columns", "parties", "max_iter", "holder", "words"),
    [
        ("logistic", "active", 1, 1, 100, "active", "the job says so"),
        ("logistic", "coordinator", 99, 3, 100, "coordinator", "the job says so"),
        ("logistic", "auto", 13, 2, 100, "active", "12 expected rounds"),
        ("logistic", "auto", 12, 2, 100, "coordinator", "would spend"),
        ("logistic", "auto", 12, 2, 11, "active", "11 expected rounds"),
        ("linear", "auto", 500, 1, 100, "coordinator", "one passive party"),
        ("linear", "auto", 0, 2, 100, "coordinator", "would spend"),
        ("poisson", "auto", 2, 1, 100, "active", "no protocol"),
        ("softmax", "auto", 2, 3, 100, "active", "no protocol"),
        ("boosting", "auto", 2, 3, 100, "active", "'boosting' has no protocol with the key at the coordinator"),
        ("boosting", "auto", 0, 1, 100, "active", "no protocol"),
        ("boosting", "active", 2, 3, 100, "active", "the job says so"),
        ("splitnn", "auto", 2, 3, 20, "active", "'splitnn' has no protocol with the key at the coordinator"),
        ("splitnn", "active", 2, 1, 20, "active", "the job says so"),
    ],
)
def test_who_holds_the_key(
    model: Model, setting: Any, columns: int, parties: int, max_iter: int, holder: str, words: str
) -> None:
    chosen, reason = choose_key_holder(model, setting, columns, parties, 1, max_iter)
    assert chosen == holder
    assert words in reason


@pytest.mark.parametrize("setting", ["auto", "active"])
def test_where_nothing_is_encrypted_the_reason_says_so(setting: Any) -> None:
    holder, reason = choose_key_holder("splitnn", setting, 9, 2, 1, 20, encrypted=False)
    assert (holder, reason) == ("active", "no key is made: mode 'split' exchanges outputs and gradients in the clear")


def test_figures_of_the_contract() -> None:
    assert EXPECTED_ROUNDS == {"logistic": 12, "softmax": 40, "linear": 12, "poisson": 12}
    assert COORDINATOR_MODELS == ("logistic", "linear")


def test_docs_hold_the_table_of_this_version() -> None:
    written = Path(__file__).parents[2] / "docs" / "reference.md"
    assert written.read_text("utf-8") == reference(), "run: python -m vfl.reference > docs/reference.md"


def test_the_table_has_every_key_with_a_meaning() -> None:
    page = reference()
    rows = [line for line in page.splitlines() if line.startswith("|")][2:]
    for kind in (ScenarioFile, PartySpec):
        for field in msgspec.structs.fields(kind):
            inner = field.name in ("alignment", "split", "training", "privacy", "party", "policy")
            assert inner or any(f"| `{field.name}` |" in row for row in rows), field.name
    assert [row for row in rows if row.rstrip("| ").endswith(("required", "none", "`"))] == []
    assert " training (splitnn) | `units` |" in page and "in this version" not in page


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (str | None, "text"),
        (bool, "true or false"),
        (Job, "a table"),
        (tuple[Job, ...], "tables"),
        (dict[str, Literal[-1, 0, 1]], "a table of KEY = -1, 0 or 1"),
    ],
)
def test_types_in_words(hint: object, words: str) -> None:
    assert describe(hint) == words


@pytest.mark.parametrize(
    ("typed", "meant"), [("l3", "l2"), ("max-iter", "max_iter"), ("MAX_ITER", "max_iter"), ("toll", "tol")]
)
def test_nearest_key(typed: str, meant: str) -> None:
    assert nearest(typed, ["l2", "tol", "max_iter", "curvature"]) == meant
