"""``vfl psi`` on one machine: what it leaves, what it says, and what it refuses in one line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.runs.companies import Companies, files_in, make_companies
from tests.runs.conftest import Command
from vfl import __version__
from vfl.audit import verify_run


@pytest.fixture
def companies(tmp_path: Path) -> Companies:
    """Three parties, of one of which a training would refuse a column."""
    made = make_companies(tmp_path / "in", rows=300)
    del made.top["model"], made.parties["bank"]["label"]
    made.sections = {"alignment": {}}
    made.tables["biller"]["x0"] = ["inf", "1", "two"] * 93 + ["4"]
    made.write()
    return made


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def common(companies: Companies) -> set[str]:
    return set.intersection(*(set(table.iloc[:, 0]) for table in companies.tables.values()))


def test_every_party_gets_its_own_rows_in_one_order(companies: Companies, tmp_path: Path, vfl: Command) -> None:
    out = tmp_path / "out"
    done = vfl("psi", companies.folder, "--out", out)
    assert (done.code, done.stderr) == (0, "")
    orders = []
    for name, table in companies.tables.items():
        head, *found = rows(out / name / "aligned.csv")
        assert head == list(table.columns)
        cells = {row[0]: row for row in table.astype(str).to_numpy().tolist()}
        assert found == [cells[row[0]] for row in found]
        orders.append([row[0] for row in found])
    assert orders[0] == orders[1] == orders[2]
    assert set(orders[0]) == common(companies)
    assert files_in(out) == {
        "report.json",
        "ledger.jsonl",
        "coordinator",
        "coordinator/ledger.jsonl",
        *(f"{name}{file}" for name in companies.tables for file in ("", "/aligned.csv", "/ledger.jsonl")),
    }
    assert verify_run(out).messages > 0
    for name in companies.tables:
        assert f"{out / name / 'aligned.csv'}" in done.stdout
    assert f"{len(orders[0])} common ids; ecdh" in done.stdout
    assert "line by line the same people at every party" in done.stdout


def test_the_rows_and_their_order_are_those_of_a_run(tmp_path: Path, vfl: Command) -> None:
    companies = make_companies(tmp_path / "in", rows=200, passive=1)
    companies.write()
    assert vfl("psi", companies.folder, "--out", tmp_path / "aligned").code == 0
    assert vfl("run", companies.folder, "--out", tmp_path / "run", "--in-process", "--no-baselines").code == 0
    for name in companies.tables:
        aligned, trained = rows(tmp_path / "aligned" / name / "aligned.csv"), rows(tmp_path / "run" / name / "ids.csv")
        assert [row[0] for row in aligned] == [row[0] for row in trained]


def test_json_is_all_that_standard_output_gets(companies: Companies, tmp_path: Path, vfl: Command) -> None:
    out = tmp_path / "out"
    done = vfl("psi", companies.folder, "--out", out, "--json")
    report = json.loads(done.stdout)
    assert done.stdout.encode() == (out / "report.json").read_bytes()
    assert "common ids" in done.stderr
    assert (report["name"], report["version"], report["seed"], report["purpose"]) == ("trial", __version__, 3, "psi")
    aligned = report["alignment"]
    assert aligned["rows"] == {name: len(table) for name, table in companies.tables.items()}
    assert aligned["intersection"] == len(common(companies))
    assert (aligned["protocol"], aligned["pad_to"], aligned["one_sided"]) == ("ecdh", None, False)
    assert 0 < aligned["seconds"] < report["seconds"]["total"]
    assert aligned["bytes"] > 32 * sum(aligned["rows"].values())
    assert report["files"] == {name: f"{name}/aligned.csv" for name in companies.tables}
    assert [party["name"] for party in report["parties"]] == list(companies.tables)
    told = {(line["to"], line["what"]) for line in report["disclosures"]}
    assert {to for to, what in told if what == "which of its ids all other parties hold too"} == set(companies.tables)
    assert report["warnings"] == []


def test_cardinality_writes_no_rows(companies: Companies, tmp_path: Path, vfl: Command) -> None:
    out = tmp_path / "out"
    done = vfl("psi", companies.folder, "--out", out, "--cardinality", "--json")
    report = json.loads(done.stdout)
    assert report["alignment"]["intersection"] == len(common(companies))
    assert (report["files"], report["purpose"]) == ({}, "psi cardinality")
    assert not [name for name in files_in(out) if name.endswith(".csv")]
    assert not [line for line in report["disclosures"] if "which of its ids" in line["what"]]
    assert "Nobody has learnt which ids are common; no rows were written." in done.stderr


def test_one_sided_and_padded_as_they_are_shown(tmp_path: Path, vfl: Command) -> None:
    companies = make_companies(tmp_path / "in", rows=200, passive=1)
    companies.write()
    one = vfl("psi", companies.folder, "--out", tmp_path / "one", "--set", "alignment.one_sided=true")
    other = next(name for name in companies.tables if name != "bank")
    assert one.code == 0, one.stderr
    assert f"One-sided: bank alone has aligned rows; {other} learns neither which" in one.stdout
    assert {name for name in files_in(tmp_path / "one") if name.endswith(".csv")} == {"bank/aligned.csv"}
    two = vfl("psi", companies.folder, "--out", tmp_path / "two", "--set", "alignment.pad_to=333")
    assert "lists padded to 333 ids" in two.stdout
    assert " 333 " not in two.stdout.replace("padded to 333 ids", "")


def test_what_is_in_the_way_stays(companies: Companies, tmp_path: Path, vfl: Command) -> None:
    out = tmp_path / "out"
    assert vfl("psi", companies.folder, "--out", out).code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    again = vfl("psi", companies.folder, "--out", out)
    assert (again.code, again.stdout) == (2, "")
    assert again.error == (f"error: --out {out}: holds a run already; choose another directory or pass --overwrite")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert vfl("psi", companies.folder, "--out", out, "--overwrite", "--set", "seed=9").code == 0
    assert (out / "bank" / "aligned.csv").read_bytes() != before[out / "bank" / "aligned.csv"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert "holds files that are no run" in vfl("psi", companies.folder, "--out", tmp_path / "mine").error
    assert files_in(tmp_path / "mine") == {"letter.txt"}


def test_it_is_no_run_of_a_training(companies: Companies, tmp_path: Path, vfl: Command) -> None:
    assert vfl("psi", companies.folder, "--out", tmp_path / "out").code == 0
    page = vfl("report", tmp_path / "out")
    assert page.code == 2
    assert "got the report of an alignment alone, expected one of a training" in page.error
    assert "expected the directory of a finished run" in vfl("predict", tmp_path / "out", "--data", "bank=x.csv",
                                                            "--out", tmp_path / "scores.csv").error  # fmt: skip


def test_a_default_place(companies: Companies, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, vfl: Command) -> None:
    monkeypatch.chdir(tmp_path)
    assert vfl("psi", companies.folder).code == 0
    (made,) = (tmp_path / "runs").iterdir()
    assert made.name.startswith("trial-psi-")


BAD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no file": ({"party.bank.data": "gone.csv"}, ("party bank, file", "gone.csv: there is no such file")),
    "no such column": ({"party.biller.id": "custmer"}, ("party biller", 'id names the column "custmer"')),
    "too few": ({"alignment.min_intersection": 280}, ("fewer than min_intersection ids in common: got", "280")),
    "padding": ({"alignment.pad_to": 299}, ("party 'bank': got 300 valid ids, expected at most alignment.pad_to",)),
    "kkrt for three": ({"alignment.protocol": "kkrt"}, ("got 'kkrt' for 3 parties, expected two parties",)),
    "one-sided for three": ({"alignment.one_sided": "true"}, ("one_sided in [alignment] of scenario.toml, got true",)),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_in_one_line(companies: Companies, tmp_path: Path, vfl: Command, name: str) -> None:
    changes, told = BAD[name]
    given = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    done = vfl("psi", companies.folder, "--out", tmp_path / "out", *given, "--json")
    assert (done.code, done.stdout) == (2, "")
    for words in told:
        assert words in done.error
    assert not [secret for secret in companies.secrets() if secret in done.error]
    assert not (tmp_path / "out").exists()


def test_repeated_ids_are_refused_with_their_number(companies: Companies, tmp_path: Path, vfl: Command) -> None:
    table = companies.tables["biller"]
    table.loc[3, "Konto-Nr."] = table.loc[4, "Konto-Nr."]
    companies.write()
    done = vfl("psi", companies.folder, "--out", tmp_path / "out")
    assert done.code == 2
    assert "party 'biller'" in done.error
    assert "duplicates" in done.error
    assert not (tmp_path / "out").exists()


def test_options_of_the_other_kind_of_file(companies: Companies, tmp_path: Path, vfl: Command) -> None:
    done = vfl("psi", companies.folder, "--out", tmp_path / "out", "--resume")
    assert done.error == (
        "error: --resume with a scenario, got both, expected no --resume: begin anew: all roles are on this machine"
    )
    job = companies.folder / "job.toml"
    job.write_text("[coordinator]\n")
    assert "got a job file, expected a scenario or a party's own file" in vfl("psi", job).error


def test_a_directory_that_cannot_be_made(companies: Companies, tmp_path: Path, vfl: Command) -> None:
    (tmp_path / "file").write_text("")
    done = vfl("psi", companies.folder, "--out", tmp_path / "file" / "out")
    assert done.code == 2
    assert "--out" in done.error
