"""``vfl psi PARTY`` and ``vfl coordinator --psi``: every role a process of its own, with its own folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from parties.link import COORDINATOR
from tests.chaos.between_companies import Job, Running, write_job
from tests.prediction.test_between_companies import run_all
from tests.runs.companies import VFL, Companies, Outcome, files_in, make_companies, run_vfl
from tests.runs.conftest import Command
from vfl.audit import verify_run

QUICK = {"heartbeat": 0.3, "notice": 1, "reconnect_timeout": 3}
Commands = dict[str, list[str]]


@dataclass
class Psi(Job):
    """The commands of an alignment alone."""

    more: tuple[str, ...] = ()

    def command(self, role: str, out: Path, *more: str) -> list[str]:
        if role == COORDINATOR:
            return super().command(role, out, "--psi", *self.more, *more)
        return [VFL, "psi", str(self.folder / f"{role}.toml"), "--out", str(out / role), *self.more, *more]


def prepared(folder: Path, network: dict[str, object] | None = None, **alignment: object) -> tuple[Companies, Psi]:
    """Two parties that consent, without a model or a label."""
    companies = make_companies(folder, passive=1, rows=200, alignment=alignment)
    del companies.top["model"], companies.parties["bank"]["label"], companies.sections["privacy"]
    job = write_job(companies, network or QUICK)
    return companies, Psi(job.folder, job.names, job.port)


def together(job: Psi, out: Path, **more: list[str]) -> dict[str, Outcome]:
    return run_all({role: job.command(role, out, *more.get(role, [])) for role in job.roles})


def codes(ended: dict[str, Outcome]) -> dict[str, int]:
    return {role: outcome.code for role, outcome in ended.items()}


@dataclass(frozen=True)
class World:
    """An alignment that has ended well, for several tests."""

    companies: Companies
    job: Psi
    out: Path
    ended: dict[str, Outcome]

    def report(self, role: str) -> dict[str, object]:
        made: dict[str, object] = json.loads((self.out / role / "report.json").read_bytes())
        return made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("psi")
    companies, job = prepared(folder / "in", pad_to=256)
    yield World(companies, job, folder / "out", together(job, folder / "out"))


def test_every_party_gets_the_rows_that_one_machine_would_give_it(world: World, tmp_path: Path, vfl: Command) -> None:
    assert codes(world.ended) == dict.fromkeys(world.job.roles, 0), world.ended
    world.companies.write()
    assert vfl("psi", world.companies.folder, "--out", tmp_path / "here").code == 0
    for name in world.job.names:
        here = (tmp_path / "here" / name / "aligned.csv").read_bytes()
        assert (world.out / name / name / "aligned.csv").read_bytes() == here
        assert files_in(world.out / name) == {
            *(".run", ".run/lock", ".run/state.json", "ledger.jsonl", "log.jsonl", "report.json"),
            *(name, f"{name}/aligned.csv"),
        }
    assert not [path for path in files_in(world.out / COORDINATOR) if path.endswith(".csv")]


def test_ledgers_agree(world: World) -> None:
    agreement = verify_run(world.out / "bank", [world.out / COORDINATOR, world.out / world.job.names[1]])
    assert not agreement.unseen
    assert agreement.messages > 0


def test_a_report_has_its_own_roles_numbers_alone(world: World) -> None:
    other = world.job.names[1]
    seen = {role: world.report(role)["alignment"] for role in world.job.roles}
    assert {role: part["rows"] for role, part in seen.items()} == {  # type: ignore[index]
        COORDINATOR: {"bank": 256, other: 256},
        "bank": {"bank": 200, other: 256},
        other: {"bank": 256, other: 190},
    }
    parties = {party["name"]: party["rows"] for party in world.report("bank")["parties"]}  # type: ignore[attr-defined]
    assert parties == {"bank": 200, other: None}
    assert world.report("bank")["files"] == {"bank": "bank/aligned.csv"}
    assert world.report(COORDINATOR)["files"] == {}
    assert "256 " not in world.ended["bank"].stdout.replace("padded to 256 ids", "")


def test_an_alignment_that_has_ended(world: World) -> None:
    command = world.job.command("bank", world.out)[1:]
    again = run_vfl(*command)
    assert (again.code, again.error) == (
        2, f"error: --out {world.out / 'bank'}: holds a run that has ended; choose another directory"
    )  # fmt: skip
    told = run_vfl(*command, "--resume", "--json")
    assert json.loads(told.stdout) == world.report("bank")


def test_its_folder_is_no_folder_of_a_training(world: World) -> None:
    folder = world.job.folder / "bank.toml"
    done = run_vfl("psi", folder, "--out", world.out / "bank", "--resume", "--cardinality")
    assert done.error == (
        f"error: --out {world.out / 'bank'}: holds a run of another job, or of other identities; choose another "
        "directory"
    )


def test_only_the_number(tmp_path: Path) -> None:
    _, job = prepared(tmp_path / "in")
    job.more = ("--cardinality",)
    ended = together(job, tmp_path / "out")
    assert codes(ended) == dict.fromkeys(job.roles, 0), ended
    reports = [json.loads((tmp_path / "out" / role / "report.json").read_bytes()) for role in job.roles]
    assert {report["alignment"]["intersection"] for report in reports} == {190}
    assert not [name for name in files_in(tmp_path / "out") if name.endswith(".csv")]
    assert not [line for report in reports for line in report["disclosures"] if "which of its ids" in line["what"]]


def test_all_must_ask_for_the_same(tmp_path: Path) -> None:
    _, job = prepared(tmp_path / "in")
    ended = together(job, tmp_path / "out", bank=["--cardinality"])
    assert codes(ended) == dict.fromkeys(job.roles, 2), ended
    for outcome in ended.values():
        assert outcome.error.startswith("error: the parties' jobs differ in purpose (at ")
    assert not [name for name in files_in(tmp_path / "out") if name.endswith(".csv")]


def test_a_party_whose_policy_does_not_consent(tmp_path: Path) -> None:
    companies, job = prepared(tmp_path / "in")
    companies.parties["bank"]["policy"] = {"min_intersection": 500}
    write_job(companies, QUICK)
    done = run_vfl(*job.command("bank", tmp_path / "out")[1:])
    assert done.code == 2
    assert (
        "policy min_intersection: party 'bank' got alignment.min_intersection 100, expected at least 500" in done.error
    )


PATIENT: dict[str, object] = {"heartbeat": 0.5, "notice": 3, "reconnect_timeout": 30}


def as_on_one_machine(companies: Companies, out: Path, vfl: Command) -> None:
    """Every party's file is that of ``vfl psi`` of the scenario."""
    companies.write()
    assert vfl("psi", companies.folder, "--out", out.parent / "here").code == 0
    for name in companies.parties:
        expected = (out.parent / "here" / name / "aligned.csv").read_bytes()
        assert (out / name / name / "aligned.csv").read_bytes() == expected


@pytest.mark.parametrize(("role", "doom"), [("bank", "ledger:8:1"), (COORDINATOR, "sent:18")], ids=["bank", "relay"])
def test_killed_and_given_the_same_command_again(tmp_path: Path, role: str, doom: str, vfl: Command) -> None:
    companies, job = prepared(tmp_path / "in", PATIENT)
    running = Running(job, tmp_path / "out")
    running.dooms[role] = [doom]
    try:
        running.start_all()
        assert running.wait(60) == dict.fromkeys(job.roles, 0), running.said()
    finally:
        running.end()
    assert running.killed == [role]
    as_on_one_machine(companies, tmp_path / "out", vfl)


def test_a_full_disk_costs_no_second_alignment(tmp_path: Path, vfl: Command) -> None:
    """The rows do not fit on it; with room the same commands go on behind the alignment, and only write them."""
    companies, job = prepared(tmp_path / "in", PATIENT)
    running = Running(job, tmp_path / "out")
    try:
        running.start("bank", VFL_TEST_FULL="size:8000")
        running.start_others("bank")
        assert running.wait(60) == {"bank": 2, COORDINATOR: 1, job.names[1]: 1}, running.said()
        said = running.log("bank").read_text().splitlines()[-1]
        assert "aligned.csv" in said
        assert "run the same command again" in said
        assert not (tmp_path / "out" / "bank" / "bank" / "aligned.csv").exists()
        running.codes.clear()
        running.start_all()
        assert running.wait(60) == dict.fromkeys(job.roles, 0), running.said()
    finally:
        running.end()
    for role in job.roles:
        assert [note[1] for note in running.noted(role) if note[0] == "resumed"] == ["0", "1"]
    as_on_one_machine(companies, tmp_path / "out", vfl)


def test_options_of_the_other_kind_of_file(tmp_path: Path, vfl: Command) -> None:
    _, job = prepared(tmp_path)
    party = tmp_path / "bank.toml"
    for option in (["--overwrite"], ["--strict"], ["--set", "seed=3"]):
        done = vfl("psi", party, "--out", tmp_path / "out", *option)
        assert done.error.startswith(f"error: {option[0]} with a party's file, got both, expected no {option[0]}")
    assert "--out missing" in vfl("psi", party).error
    coordinator = job.command(COORDINATOR, tmp_path / "out")[1:]
    assert (
        "--cardinality, got it without --psi"
        in vfl(*(word for word in coordinator if word != "--psi"), "--cardinality").error
    )
    assert "--psi with --predict, got both" in vfl(*coordinator, "--predict").error
