"""Scenarios and data that boosting cannot be run on: exit code 2, one line, no value in it, nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs.companies import Companies, files_in, make_boosted, run_vfl
from tests.runs.conftest import Command

Change = Callable[[Companies], None]


def training(**lines: object) -> Change:
    return lambda companies: companies.sections["training"].update(lines)


def labels(*cells: str) -> Change:
    """These labels in turn."""

    def change(companies: Companies) -> None:
        rows = len(companies.tables["bank"])
        companies.tables["bank"]["outcome"] = [cells[row % len(cells)] for row in range(rows)]

    return change


def task(name: str, *changes: Change) -> Change:
    def change(companies: Companies) -> None:
        companies.top["task"] = name
        for one in changes:
            one(companies)

    return change


def party(name: str, **lines: object) -> Change:
    return lambda companies: companies.parties[name].update(lines)


def privacy(**lines: object) -> Change:
    return lambda companies: companies.sections["privacy"].update(lines)


def constant(name: str) -> Change:
    def change(companies: Companies) -> None:
        for column in ("x0", "x1", "x2"):
            companies.tables[name][column] = "7.125"

    return change


def label_only(companies: Companies) -> None:
    companies.tables["bank"] = companies.tables["bank"][["customer", "outcome"]]


def both(*changes: Change) -> Change:
    return lambda companies: [change(companies) for change in changes] and None


def constant_in_training(companies: Companies) -> None:
    """One row of another label only: wherever it falls, one part has a single class."""
    rows = len(companies.tables["bank"])
    companies.tables["bank"]["outcome"] = ["zq-yes"] + ["zq-no"] * (rows - 1)


RANGES = {
    "max_bin": (1, 0, -5, 65_536, 2.5, "many"),
    "max_depth": (0, 17, -1, True),
    "n_estimators": (0, 100_001),
    "learning_rate": (0.0, 1.5, -0.1, "fast"),
    "subsample": (0.0, 1.01),
    "colsample_bytree": (0.0, 2),
    "reg_lambda": (-1,),
    "gamma": (-0.5,),
    "min_child_weight": (-1,),
    "min_node_rows": (-1, 1.5),
    "min_bin_gap": (-1,),
    "early_stopping_rounds": (0,),
    "scale_pos_weight": (0.0, -1),
    "multi_output": (1, "yes"),
}
CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    f"{key} = {value}": (training(**{key: value}), (key, "[training]"))
    for key, values in RANGES.items()
    for value in values
} | {
    "no task": (lambda c: c.top.pop("task"), ("task missing",)),
    "an unknown key": (training(max_dept=3), ("unknown key 'max_dept'", "max_depth")),
    "a key of XGBoost that is not supported": (training(grow_policy="lossguide"), ("unknown key 'grow_policy'",)),
    "l2, a key of GLMs": (training(l2=0.1), ("l2",)),
    "max_iter, a key of GLMs": (training(max_iter=3), ("max_iter",)),
    "key at the coordinator": (privacy(key_holder="coordinator"), ("key_holder", "boosting")),
    "early stopping without validation part": (training(early_stopping_rounds=3), ("early_stopping_rounds",)),
    "one rate of GOSS": (training(top_rate=0.2), ("other_rate",)),
    "rates beyond all rows": (training(top_rate=0.7, other_rate=0.6), ("other_rate", "at most 1 together")),
    "GOSS and subsample": (training(top_rate=0.2, other_rate=0.2, subsample=0.5), ("subsample",)),
    "base_score that is no probability": (training(base_score=1.0), ("base_score", "probability")),
    "sorted categories of several outputs": (
        task("multiclass", labels("a", "b", "c"), training(max_cat_to_onehot=3)),
        ("max_cat_to_onehot",),
    ),
    "one tree per class of a binary task": (training(multi_output=False), ("multi_output",)),
    "scale_pos_weight of several classes": (
        task("multiclass", labels("a", "b", "c"), training(scale_pos_weight=2.0)),
        ("scale_pos_weight",),
    ),
    "scale_pos_weight beside label DP": (
        both(training(scale_pos_weight=2.0), privacy(label_dp_epsilon=1.0)),
        ("scale_pos_weight", "label_dp_epsilon"),
    ),
    "label DP of a regression": (
        task("regression", labels("1.5", "2.5"), privacy(label_dp_epsilon=1.0)),
        ("label_dp_epsilon", "regression"),
    ),
    "label DP of nothing": (privacy(label_dp_epsilon=0.0), ("label_dp_epsilon",)),
    "parts that leave nothing to train on": (
        lambda c: c.sections.update(split={"test_fraction": 0.5, "validation_fraction": 0.5}),
        ("validation_fraction", "train"),
    ),
    "a constant label, binary": (labels("zq-yes"), ("party bank", "1 different values", "exactly 2")),
    "a label constant in training": (constant_in_training, ("bank",)),
    "a constant label, regression": (task("regression", labels("31.4159265")), ("party 'bank'", "all labels")),
    "a constant label, count": (task("count", labels("3")), ("party 'bank'", "all labels")),
    "no event at all": (task("count", labels("0")), ("party bank", "at least one positive count")),
    "a constant label, multiclass": (task("multiclass", labels("zq-one")), ("bank",)),
    "three labels of a binary task": (labels("zq-a", "zq-b", "zq-c"), ("3 different values", "exactly 2")),
    "text labels of a regression": (task("regression"), ("labels do not fit task regression",)),
    "labels beyond squares": (task("regression", labels("1e155", "-1e155")), ("label", "party 'bank'")),
    "infinite labels": (task("regression", labels("inf", "1.0")), ("label",)),
    "negative counts": (task("count", labels("-1", "2")), ("labels do not fit task count",)),
    "more classes than slots": (
        task("multiclass", labels(*(f"zq-class {i}" for i in range(12)))),
        ("12 classes", "512 bits", "multi_output = false", "key_bits"),
    ),
    "first tree of a party without columns": (
        both(label_only, training(first_tree_active_only=True)),
        ("first_tree_active_only", "party 'bank'"),
    ),
    "first tree of a party with constant columns": (
        both(constant("bank"), training(first_tree_active_only=True)),
        ("first_tree_active_only", "party 'bank'"),
    ),
    "a passive party of constant columns": (constant("biller"), ("party 'biller'", "no usable feature column")),
    "a constraint on an unknown column": (party("bank", monotone_constraints={"x9": 1}), ("monotone_", '"x9"')),
    "a constraint on a categorical column": (
        both(
            lambda c: c.tables["bank"].insert(2, "kind", ["red", "blue"] * (len(c.tables["bank"]) // 2)),
            party("bank", monotone_constraints={"kind": 1}),
        ),
        ("monotone_constraints", "kind"),
    ),
    "a constraint on a column made categorical": (
        party("bank", categorical=["x0"], monotone_constraints={"x0": 1}),
        ("monotone_constraints", "x0"),
    ),
    "a constraint of a passive party": (
        party("biller", monotone_constraints={"x0": 1}),
        ("monotone_constraints", "passive", "biller"),
    ),
    "a constraint on a dropped column": (
        party("bank", drop=["x0"], monotone_constraints={"x0": -1}),
        ("monotone_constraints", "in drop"),
    ),
    "a constraint that is no sign": (party("bank", monotone_constraints={"x0": 2}), ("monotone_constraints",)),
    "constraints of trees of several outputs": (
        task("multiclass", labels("a", "b", "c"), party("bank", monotone_constraints={"x0": 1})),
        ("monotone_constraints",),
    ),
    "a policy key that is unknown": (party("biller", policy={"min_node_row": 5}), ("unknown key 'min_node_row'",)),
    "a policy of negative rows": (party("biller", policy={"min_node_rows": -1}), ("min_node_rows",)),
}  # fmt: skip


@pytest.fixture
def companies(tmp_path: Path) -> Companies:
    return make_boosted(tmp_path / "scenario", classes=("zq-no", "zq-yes"), rows=200)


@pytest.mark.parametrize("name", CASES)
def test_refused_in_one_line(vfl: Command, companies: Companies, tmp_path: Path, name: str) -> None:
    change, told = CASES[name]
    change(companies)
    companies.write()
    secrets, before = companies.secrets(), files_in(tmp_path)
    for command in (("run", "--out", tmp_path / "out", "--in-process", "--json"), ("check",)):
        said = vfl(*command, companies.folder)
        assert said.code == 2, (command, said.stderr)
        assert all(words in said.error for words in told), said.error
        assert len(said.error) < 600
        assert not [cell for cell in secrets if cell in said.stdout + said.stderr]
        if command[0] == "run":
            assert said.stdout == ""
    assert files_in(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a passive party of constant columns", "more classes than slots"])
def test_refused_in_one_line_by_the_role_that_finds_it(companies: Companies, tmp_path: Path, name: str) -> None:
    change, told = CASES[name]
    change(companies)
    companies.write()
    before = files_in(tmp_path)
    said = run_vfl("run", companies.folder, "--out", tmp_path / "out", "--json")
    assert said.code == 2 and said.stdout == ""
    assert all(words in said.error for words in told), said.error
    assert files_in(tmp_path) == before
    assert not [cell for cell in companies.secrets() if cell in said.stderr]


@pytest.mark.parametrize("strict", [(), ("--strict",)], ids=["one machine", "strict"])
def test_one_machine_takes_what_companies_refuse_and_no_more(
    vfl: Command, companies: Companies, tmp_path: Path, strict: tuple[str, ...]
) -> None:
    """Trees by no party's columns but one's: a label-only party, and one passive party whose columns say nothing."""
    label_only(companies)
    for column in ("x0", "x1", "x2"):
        table = companies.tables["card-network"]
        companies.tables["card-network"] = table.assign(**{column: [str(i % 2) for i in range(len(table))]})
    companies.write()
    said = vfl("run", companies.folder, "--out", tmp_path / "out", "--in-process", "--json", *strict)
    assert said.code == 0, said.stderr
