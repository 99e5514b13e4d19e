"""Guards of a whole run: on one machine they warn and change nothing; with --strict they act as between companies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.runs.companies import Companies, make_boosted, make_companies
from tests.runs.conftest import Command

WOULD = "guard: between companies this would be refused because "


def lenient(companies: Companies, **policy: object) -> Companies:
    """Consent to the short keys of tests, so that one guard at a time speaks."""
    for party in companies.parties.values():
        party["policy"] = {"key_bits": 512, **policy}
    return companies


def guarded(tmp_path: Path, guard: str) -> Companies:
    """A federation that one guard minds and the others do not."""
    where = tmp_path / "scenario"
    if guard == "small data":
        return lenient(make_companies(where, rows=400, training={"max_iter": 2}))
    if guard == "single passive party":
        return lenient(make_companies(where, "poisson", passive=1, rows=900, columns=8, training={"max_iter": 2}))
    if guard == "single passive party, softmax":
        return lenient(make_companies(where, "softmax", passive=1, rows=900, columns=20, training={"max_iter": 1}))
    if guard == "label rank":
        companies = make_companies(where, "linear", rows=150, training={"max_iter": 1})
        companies.sections["privacy"] |= {"small_data": True}
        table = companies.tables["biller"]  # copies: no single row has leverage
        companies.tables["biller"] = table.assign(**{f"copy {j}": table["x0"] for j in range(100)})
        return lenient(companies, small_data=True)
    if guard == "policy key_bits":
        return make_companies(where, rows=900, columns=8, training={"max_iter": 1})
    if guard == "policy max_rounds":
        return lenient(make_companies(where, rows=900, columns=8, training={"max_iter": 3}), max_rounds=2)
    if guard == "policy models":
        return lenient(make_companies(where, rows=900, columns=8, training={"max_iter": 1}), models=["linear"])
    if guard == "policy columns":
        companies = make_companies(where, rows=900, columns=8, training={"max_iter": 1})
        companies.parties["biller"]["features"] = ["x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7"]
        lenient(companies)
        companies.parties["biller"]["policy"] |= {"columns": ["x0", "x1", "x2", "x3", "x4", "x5", "x6"]}
        return companies
    if guard == "policy disclosures (glm_exact.score_sums)":
        companies = make_companies(where, rows=900, columns=8, key_holder="active", training={"max_iter": 1})
        return lenient(companies, disclosures=["[!g]*", "glm_exact.[!s]*", "glm_exact.s[!c]*"])
    if guard == "policy label_dp_epsilon":
        companies = make_companies(where, rows=900, columns=8, training={"max_iter": 1})
        companies.sections["privacy"] |= {"label_dp_epsilon": 3.0}
        return lenient(companies, label_dp_epsilon=2.0)
    if guard == "policy label_dp_epsilon, no label DP":
        return lenient(make_companies(where, rows=900, columns=8, training={"max_iter": 1}), label_dp_epsilon=2.0)
    if guard == "policy scored_rows":
        return lenient(make_companies(where, rows=900, columns=8, training={"max_iter": 1}), scored_rows=29)
    assert guard == "policy min_intersection"
    companies = make_companies(where, rows=900, columns=8, training={"max_iter": 1})
    return lenient(companies, min_intersection=700)


REFUSED = [
    "small data",
    "single passive party",
    "single passive party, softmax",
    "label rank",
    "policy key_bits",
    "policy max_rounds",
    "policy models",
    "policy min_intersection",
    "policy columns",
    "policy disclosures (glm_exact.score_sums)",
    "policy label_dp_epsilon",
    "policy label_dp_epsilon, no label DP",
    "policy scored_rows",
]


@pytest.mark.parametrize("guard", REFUSED)
def test_warns_here_and_refuses_between_companies(vfl: Command, tmp_path: Path, guard: str) -> None:
    companies, out, name = guarded(tmp_path, guard), tmp_path / "out", guard.partition(",")[0]
    companies.write()
    said = vfl("run", companies.folder, "--out", out, "--in-process", "--no-baselines")
    assert said.code == 0, said.stderr
    warnings = json.loads((out / "report.json").read_text())["warnings"]
    assert any(line.startswith(f"{WOULD}{name}: party '") for line in warnings), warnings
    assert all(f"warning: {line}"[:100] in said.stdout for line in warnings)
    others = [line for line in warnings if line.startswith(WOULD) and not line.startswith(f"{WOULD}{name}")]
    assert not others

    for enforced in (["--strict"], ["--set", "privacy.enforce=true"]):
        strict = tmp_path / "strict"
        said = vfl("run", companies.folder, "--out", strict, "--in-process", "--json", *enforced)
        assert said.code == 2 and said.stdout == ""
        assert said.error.startswith(f"error: {name}: party '")
        assert not name.startswith("policy ") or said.error.endswith(" policy"), "what to change, and where"
        assert not strict.exists()


def test_an_honest_federation_raises_no_guard(vfl: Command, tmp_path: Path) -> None:
    companies = lenient(make_companies(tmp_path / "scenario", rows=900, columns=8, training={"max_iter": 3}))
    out = tmp_path / "out"
    assert vfl("run", companies.write(), "--out", out, "--in-process", "--no-baselines", "--strict").code == 0
    warnings = json.loads((out / "report.json").read_text())["warnings"]
    assert not [line for line in warnings if line.startswith("guard:")]


def test_the_score_budget_stops_training(vfl: Command, tmp_path: Path) -> None:
    """12 evaluations of one score against 6 passive columns."""
    companies = lenient(make_companies(tmp_path / "scenario", rows=800, key_holder="active", training={"tol": 1e-14}))
    here, strict = tmp_path / "here", tmp_path / "strict"
    for out, more in ((here, []), (strict, ["--strict"])):
        assert vfl("run", companies.write(), "--out", out, "--in-process", "--no-baselines", *more).code == 0
    free, stopped = (json.loads((out / "report.json").read_text()) for out in (here, strict))
    assert any("training would stop here because score budget" in line for line in free["warnings"])
    assert free["training"]["rounds"] > 6 > stopped["training"]["rounds"]
    assert stopped["training"]["converged"] is False
    assert any("score budget" in line for line in stopped["warnings"])
    opened = {
        out: sum("score" in line["what"] and line["to"] == "bank" and line["count"] for line in report["disclosures"])
        for out, report in (("here", free), ("strict", stopped))
    }
    assert opened["strict"] < opened["here"]


def test_a_row_of_high_leverage_costs_its_column(vfl: Command, tmp_path: Path) -> None:
    companies = lenient(make_companies(tmp_path / "scenario", rows=900, columns=8, training={"max_iter": 1}))
    table = companies.tables["biller"]
    shared = set.intersection(*(set(companies.tables[name][party["id"]]) for name, party in companies.parties.items()))
    table["flag"] = "0"
    outlier = np.flatnonzero(table["Konto-Nr."].isin(shared))[:1]
    for seed in range(10):  # the outlier has to be a training row
        companies.top["seed"] = seed
        table.loc[outlier, "flag"] = "1"
        out = tmp_path / f"out{seed}"
        assert vfl("run", companies.write(), "--out", out, "--in-process", "--no-baselines").code == 0
        report = json.loads((out / "report.json").read_text())
        if report["parties"][2]["features"] == 9:
            break
    warnings = [line for line in report["warnings"] if "leverage" in line]
    assert warnings and warnings[0].startswith("guard: between companies columns would be left out because leverage")
    strict = tmp_path / "strict"
    assert vfl("run", companies.folder, "--out", strict, "--in-process", "--no-baselines", "--strict").code == 0
    report = json.loads((strict / "report.json").read_text())
    assert report["parties"][2]["features"] == 8
    assert "flag" not in json.loads((strict / "biller" / "model.json").read_text())["columns"]


@pytest.mark.parametrize("bits", [512, 1024, 2047])
def test_short_keys_are_refused_everywhere(vfl: Command, tmp_path: Path, bits: int) -> None:
    companies = make_companies(tmp_path / "scenario", rows=130)
    companies.sections["privacy"] = {"key_bits": bits}
    for command in (("run", "--out", tmp_path / "out"), ("check",)):
        said = vfl(*command, companies.write())
        assert said.code == 2 and "key_bits" in said.error


@pytest.mark.parametrize("model", ["logistic", "boosting"])
@pytest.mark.parametrize(("key", "value"), [("columns", ["x0", "x1"]), ("scored_rows", 200)])
def test_columns_and_rows_are_judged_where_they_are_known(
    vfl: Command, tmp_path: Path, model: str, key: str, value: object
) -> None:
    """No line of the job or of a party's file says which columns a table has, or how many rows are in common."""
    if model == "logistic":
        companies = make_companies(tmp_path / "scenario", rows=900, columns=8, training={"max_iter": 1})
    else:
        companies = make_boosted(tmp_path / "scenario", rows=900, columns=8, training={"n_estimators": 1})
    lenient(companies, min_node_rows=0, min_bin_gap=0)
    companies.parties["biller"]["policy"] |= {key: value}
    out, strict = tmp_path / "out", tmp_path / "strict"
    assert vfl("run", companies.write(), "--out", out, "--in-process", "--no-baselines").code == 0
    warnings = json.loads((out / "report.json").read_text())["warnings"]
    assert [line.startswith(f"{WOULD}policy {key}: party 'biller'") for line in warnings].count(True) == 1, warnings
    said = vfl("run", companies.folder, "--out", strict, "--in-process", "--json", "--strict")
    assert said.code == 2 and said.stdout == ""
    assert said.error.startswith(f"error: policy {key}: party 'biller'") and said.error.endswith(" policy")
