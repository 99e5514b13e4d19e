"""``vfl check`` on ids: what happened to them, what looks like damage, and what would make more of them match."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs.companies import Companies, make_companies
from tests.runs.conftest import Command
from tests.runs.test_company_bad_input import write_company_files

IDS = "client"  # the column of card-network


@pytest.fixture
def companies(tmp_path: Path) -> Companies:
    companies = make_companies(tmp_path / "scenario", "linear", passive=1, rows=160)
    companies.write()
    return companies


def rewrite(companies: Companies, write) -> None:
    table = companies.tables["card-network"]
    table[IDS] = [write(one, at) for at, one in enumerate(table[IDS])]
    companies.write()


def test_tidy_ids_need_few_words(vfl: Command, companies: Companies) -> None:
    said = vfl("check", companies.folder)
    assert said.code == 0
    assert "bank: 160 ids read: normalising changed none\n" in said.stdout
    assert "card-network: 150 ids read: normalising changed none\n" in said.stdout
    assert "hint: with" not in said.stdout


def test_what_normalising_did_and_what_is_suspected(vfl: Command, companies: Companies) -> None:
    rewrite(companies, lambda one, at: f"  {one}" if at < 7 else "1.23E+12" if at == 9 else one)
    said = vfl("check", companies.folder)
    assert said.code == 0
    assert "card-network: 150 ids read: white space or invisible marks stripped from 7\n" in said.stdout
    assert "warning: card-network: numbers in scientific notation, like 1.23E+12, in 1 of 150 ids:" in said.stdout
    assert "149 common rows" in said.stdout
    assert not [one for one in companies.tables["bank"]["customer"] if one in said.stdout]


def test_too_few_common_ids_come_with_what_would_help(vfl: Command, companies: Companies, tmp_path: Path) -> None:
    rewrite(companies, lambda one, at: one.upper())
    said = vfl("check", companies.folder)
    assert said.code == 2 and "no common ids" in said.error
    assert "\nhint: with casefold = true in [alignment] 150 more ids would match\n" in said.stdout
    assert "ready" not in said.stdout
    assert "150 common rows" in vfl("check", companies.folder, "--set", "alignment.casefold=true").stdout
    ran = vfl("run", companies.folder, "--out", tmp_path / "out", "--in-process")
    assert ran.error == said.error and "vfl check shows what happened to the ids" in ran.error


def test_hints_although_enough_ids_are_common(vfl: Command, companies: Companies) -> None:
    lost = sum(one.startswith("0") for one in companies.tables["card-network"][IDS][:40])
    rewrite(companies, lambda one, at: one.lstrip("0") if at < 40 else one)
    said = vfl("check", companies.folder)
    assert said.code == 0 and lost > 1
    assert f"hint: without leading zeros {lost} more ids would match\n" in said.stdout


def test_lost_zeros_are_a_suspicion_only_where_they_keep_ids_apart(vfl: Command, companies: Companies) -> None:
    for table in companies.tables.values():
        table[table.columns[0]] = [str(int(one[:-1])) for one in table.iloc[:, 0]]
    companies.write()
    assert "leading zero" not in vfl("check", companies.folder).stdout
    bank = companies.tables["bank"]
    bank["customer"] = [one.zfill(7) for one in bank["customer"]]
    companies.write()
    said = vfl("check", companies.folder)
    assert "warning: card-network: fewer digits than the usual 6" in said.stdout
    assert "hint: without leading zeros 150 more ids would match" in said.stdout


def test_three_parties_hear_which_pair_does_not_match(vfl: Command, tmp_path: Path) -> None:
    companies = make_companies(tmp_path / "scenario", "linear", passive=2, rows=160)
    companies.tables["biller"]["Konto-Nr."] = [f"no-{row}" for row in range(140)]
    companies.write()
    said = vfl("check", companies.folder)
    assert said.code == 2
    for words in ("bank and card-network have 150", "bank and biller have 0", "card-network and biller have 0"):
        assert f"hint: {words} ids in common\n" in said.stdout


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda one, at: "" if at == 3 else one, "card-network: 150 ids read: normalising changed none; 1 blank\n"),
        (lambda one, at: "7.1E+11" if at < 4 else one, "numbers in scientific notation, like 1.23E+12, in 4 of 150"),
    ],
    ids=["blank", "repeated"],
)
def test_refused_ids_are_looked_at_too(vfl: Command, companies: Companies, tmp_path: Path, spoil, told: str) -> None:
    rewrite(companies, spoil)
    said = vfl("check", companies.folder)
    ran = vfl("run", companies.folder, "--out", tmp_path / "out", "--in-process")
    assert said.code == 2 and said.error == ran.error
    assert told in said.stdout and "ready" not in said.stdout


@pytest.mark.parametrize("spoiled", [False, True])
def test_a_party_of_its_own(vfl: Command, companies: Companies, spoiled: bool) -> None:
    write_company_files(companies)
    table = companies.tables["bank"]
    table["customer"] = [one[:-1] + ".0" if at < 9 else one for at, one in enumerate(table["customer"])]
    if spoiled:
        table.loc[20, "customer"] = table["customer"][21]
    table.to_csv(companies.folder / "bank data.csv", index=False)
    said = vfl("check", companies.folder / "bank.toml")
    assert said.code == (2 if spoiled else 0)
    assert "warning: bank: whole numbers written as decimals, like 123.0, in 9 of 160 ids:" in said.stdout
    assert ("1 with the id of an earlier row" in said.stdout) == spoiled
    assert ("ready to join" in said.stdout) != spoiled


def test_ids_alone_need_no_model(vfl: Command, companies: Companies) -> None:
    file = companies.folder / "scenario.toml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith(("model", "task", "label"))]
    file.write_text("\n".join(lines) + "\n")
    assert "missing key 'model'" in vfl("check", companies.folder).error
    said = vfl("check", companies.folder, "--ids")
    assert said.code == 0 and "150 common ids" in said.stdout and "ready to align" in said.stdout
    assert "bank: 160 ids read: normalising changed none\nbank: 160 valid ids, 0 rows left out\n" in said.stdout


def test_ids_alone_are_refused_like_those_of_a_run(vfl: Command, companies: Companies) -> None:
    rewrite(companies, lambda one, at: one.upper())
    said = vfl("check", companies.folder, "--ids")
    assert said.code == 2 and "no common ids" in said.error and "ready" not in said.stdout
    assert "hint: with casefold = true in [alignment] 150 more ids would match" in said.stdout
    rewrite(companies, lambda one, at: "" if at == 3 else one)
    said = vfl("check", companies.folder, "--ids")
    assert said.code == 2 and "have no id" in said.error and "card-network: 150 ids read" in said.stdout
