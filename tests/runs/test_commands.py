"""The command line: options, where a run goes, what is printed where, exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vfl as package
from parties.budget import Budget
from parties.identity import make_identity, read_public, write_identity
from tests.runs.companies import VFL, Companies, files_in, make_companies
from tests.runs.conftest import Command
from vfl.company_file import load_company

QUICK = ("--in-process", "--no-baselines")


@pytest.fixture
def companies(tmp_path: Path) -> Companies:
    companies = make_companies(tmp_path / "scenario", "linear", passive=1, rows=130)
    companies.write()
    return companies


def seed_of(out: Path) -> int:
    return json.loads((out / "report.json").read_text())["seed"]


def test_set_wins_over_the_file(vfl: Command, companies: Companies, tmp_path: Path) -> None:
    sets = ("--set", "seed=11", "--set", "training.l2=0.5", "--set", 'name="other"')
    out = tmp_path / "out"
    assert vfl("run", companies.folder, *sets, "--out", out, *QUICK).code == 0
    report = json.loads((out / "report.json").read_text())
    assert (report["seed"], report["name"]) == (11, "other")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("training.l3=1", "unknown key 'l3'"),
        ("l2=1", "unknown key 'l2'"),
        ("training", "expected KEY=VALUE"),
        ("training.l2=", "got ''"),
        ("training.l2=lots", "expected a number"),
        ("training.l2=nan", "expected a number"),
        ("training.l2=-1", "at least 0"),
        ("seed=1.5", "whole number"),
        ("seed.x=1", "single value"),
        ("party.nobody.id=x", "no party is named 'nobody'"),
        ("party.bank=x", "party"),
        ("=", "expected KEY=VALUE"),
        ("privacy.key_bits=1024\nseed=1", "key_bits"),
    ],
)
def test_set_of_nonsense(vfl: Command, companies: Companies, tmp_path: Path, given: str, told: str) -> None:
    said = vfl("run", companies.folder, "--set", given, "--out", tmp_path / "out")
    assert said.code == 2 and said.stdout == ""
    assert told in said.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "line",
    [
        "fly",
        "run",
        "run --sideways x",
        "run x --set",
        "check",
        "audit",
        "run a b",
        "--nonsense",
        "audit nowhere",
        "run no",
    ],
)
def test_wrong_command_lines(vfl: Command, line: str) -> None:
    said = vfl(*line.split())
    assert said.code == 2 and said.stdout == ""
    assert said.stderr.count("\n") == 1 and said.error


def test_out_made_with_parents_or_found_empty(vfl: Command, companies: Companies, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        assert vfl("run", companies.folder, "--out", out, *QUICK).code == 0
        assert not [name for name in os.listdir(out) if name.startswith(".")]
        assert (out / "report.json").is_file()
    assert sorted(os.listdir(tmp_path / "a" / "b")) == ["c"]


def test_out_may_be_the_current_directory(
    vfl: Command, companies: Companies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert vfl("run", companies.folder, "--out", ".", *QUICK).code == 0
    assert "report.json" in os.listdir(".")


def test_a_run_is_replaced_only_when_asked(vfl: Command, companies: Companies, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert vfl("run", companies.folder, "--out", out, *QUICK).code == 0
    before = files_in(out)
    refused = vfl("run", companies.folder, "--out", out, "--set", "seed=8", *QUICK)
    assert refused.code == 2 and "--overwrite" in refused.error
    failed = vfl(
        "run", companies.folder, "--out", out, "--overwrite", "--set", "alignment.min_intersection=500", *QUICK
    )
    assert failed.code == 2 and "min_intersection" in failed.error
    assert (seed_of(out), files_in(out)) == (3, before)
    assert vfl("run", companies.folder, "--out", out, "--overwrite", "--set", "seed=8", *QUICK).code == 0
    assert (seed_of(out), files_in(out)) == (8, before)


def test_overwrite_deletes_nothing_but_the_run(vfl: Command, companies: Companies, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert vfl("run", companies.folder, "--out", out, *QUICK).code == 0
    (out / "notes.txt").write_text("mine")
    assert vfl("run", companies.folder, "--out", out, "--overwrite", "--set", "seed=8", *QUICK).code == 0
    assert seed_of(out) == 8 and (out / "notes.txt").read_text() == "mine"


def test_old_parties_go_with_their_run(vfl: Command, companies: Companies, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert vfl("run", companies.folder, "--out", out, *QUICK).code == 0
    other = make_companies(tmp_path / "other", "linear", passive=2, rows=140)
    other.parties["telco"] = other.parties.pop("card-network")
    other.tables["telco"] = other.tables.pop("card-network")
    assert vfl("run", other.write(), "--out", out, "--overwrite", *QUICK).code == 0
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"coordinator", "bank", "biller", "telco"}


@pytest.mark.parametrize("arguments", [(), ("--overwrite",)])
def test_foreign_files_are_safe(vfl: Command, companies: Companies, tmp_path: Path, arguments: tuple[str]) -> None:
    out = tmp_path / "out"
    (out / "bank").mkdir(parents=True)
    (out / "thesis.tex").write_text("years of work")
    said = vfl("run", companies.folder, "--out", out, *arguments, *QUICK)
    assert said.code == 2 and "no run" in said.error
    (out / "report.json").write_text("{}")
    said = vfl("run", companies.folder, "--out", out, *arguments, *QUICK)
    assert said.code == 2
    assert files_in(out) == {"bank", "thesis.tex", "report.json"}


@pytest.mark.parametrize("out", ["file", "file/below", "x" * 300, "loose"])
def test_impossible_out(vfl: Command, companies: Companies, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loose").symlink_to(tmp_path / "nowhere")
    before = files_in(tmp_path)
    said = vfl("run", companies.folder, "--out", tmp_path / out, *QUICK)
    assert said.code == 2 and said.error.startswith("error: --out")
    assert files_in(tmp_path) == before


def test_two_runs_into_one_directory(
    vfl: Command, companies: Companies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes second finds the first one's run in the end, and leaves it alone."""
    out = tmp_path / "out"
    summarise = sys.modules["vfl.run"].summarise

    def slow(*arguments: object) -> object:
        (out / "report.json").write_text("the other's")
        return summarise(*arguments)

    monkeypatch.setattr("vfl.run.summarise", slow)
    said = vfl("run", companies.folder, "--out", out, *QUICK)
    assert said.code == 2 and "holds a run already" in said.error
    assert os.listdir(out) == ["report.json"]


def test_default_out(vfl: Command, companies: Companies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert vfl("run", companies.folder, *QUICK).code == 0
    assert vfl("run", companies.folder, *QUICK).code == 0
    runs = sorted(os.listdir("runs"))
    assert len(runs) == 2 and all(re.fullmatch(r"trial-\d{8}-\d{6}(-2)?", name) for name in runs)


def test_a_failure_takes_the_directories_it_made_along(vfl: Command, companies: Companies, tmp_path: Path) -> None:
    (companies.folder / "bank data.csv").unlink()
    before = files_in(tmp_path)
    assert vfl("run", companies.folder, "--out", tmp_path / "a" / "b", *QUICK).code == 2
    assert files_in(tmp_path) == before


def test_without_json_a_table(vfl: Command, companies: Companies, tmp_path: Path) -> None:
    said = vfl("run", companies.folder, "--out", tmp_path / "out", "--in-process")
    assert said.code == 0 and said.stderr == ""
    for words in ("active party alone", "joint", "pooled", "rmse", "guard:", str(tmp_path / "out"), "Training: "):
        assert words in said.stdout


def test_check_counts_and_warns(vfl: Command, companies: Companies) -> None:
    before = files_in(companies.folder)
    said = vfl("check", companies.file)
    assert said.code == 0 and said.stderr == ""
    for words in ("ready to run", "valid ids", "small data", "between companies this would be refused because"):
        assert words in said.stdout
    assert files_in(companies.folder) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("--strict",),
        ("--set", "split.test_fraction=0.999"),
        ("--set", 'party.bank.label="x0"', "--set", 'model="logistic"'),
        ("--set", 'party.card-network.features=["nix"]'),
        ("--set", 'party.card-network.drop=["x0", "x1", "x2"]'),
    ],
)
def test_check_refuses_what_run_refuses(
    vfl: Command, companies: Companies, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    checked = vfl("check", companies.folder, *arguments)
    ran = vfl("run", companies.folder, *arguments, "--out", tmp_path / "out", *QUICK)
    assert checked.code == ran.code == 2
    assert checked.error == ran.error


def test_check_refuses_too_few_common_rows(vfl: Command, companies: Companies) -> None:
    said = vfl("check", companies.folder, "--set", "alignment.min_intersection=129")
    assert said.code == 2 and "got 120" in said.error
    assert "120 common rows" in said.stdout and "ready" not in said.stdout


def test_keygen_writes_two_files_and_says_what_to_do_with_each(vfl: Command, tmp_path: Path) -> None:
    said = vfl("keygen", "bank", "--out", tmp_path / "made" / "keys")
    private, public = tmp_path / "made" / "keys" / "bank.key", tmp_path / "made" / "keys" / "bank.pub"
    assert said.code == 0 and said.stderr == ""
    first, second, third = said.stdout.splitlines()
    assert first.startswith(f"{private} ") and "never share it" in first
    assert second.startswith(f"{public} ") and "to share" in second
    assert third.startswith(f"fingerprint {read_public(public, 'bank').fingerprint}, valid until ")
    assert private.stat().st_mode & 0o777 == 0o600
    lines = [line.split(" = ")[-1].strip('"') for line in private.read_text().splitlines()]
    secrets = [line for line in lines if len(line) > 20 and line not in public.read_text()]
    assert len(secrets) > 4 and not [secret for secret in secrets if secret in said.stdout]


def test_keygen_into_the_current_directory(vfl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert vfl("keygen", "coordinator").code == 0
    assert files_in(tmp_path) == {"coordinator.key", "coordinator.pub"}


def test_keygen_replaces_nothing(vfl: Command, tmp_path: Path) -> None:
    assert vfl("keygen", "bank", "--out", tmp_path).code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    said = vfl("keygen", "bank", "--out", tmp_path)
    assert said.code == 2 and said.stdout == "" and "never replaced" in said.error
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("Bank",), "name of an identity, got 'Bank'"),
        (("../bank",), "name of an identity"),
        (("bank", "--out", "file"), "cannot be made"),
        (("bank", "shop"), "unexpected extra argument"),
        ((), "NAME"),
    ],
)
def test_keygen_refusals(
    vfl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    said = vfl("keygen", *arguments)
    assert said.code == 2 and said.stdout == "" and told in said.error
    assert files_in(tmp_path) == {"file"}


@pytest.fixture
def between(companies: Companies) -> Path:
    """The companies' scenario cut into a job file and party files, with identities."""
    folder = companies.folder
    lines = ['name = "trial"', 'model = "linear"', "[privacy]", "key_bits = 512", "insecure_test_mode = true"]
    lines += ["[coordinator]", 'address = "[::1]:7700"', 'identity = "coordinator.pub"']
    write_identity(make_identity("coordinator"), folder)
    for name, party in companies.parties.items():
        write_identity(make_identity(name), folder)
        lines += ["[[party]]", f'name = "{name}"', f'role = "{party["role"]}"', f'identity = "{name}.pub"']
        own = [f'{key} = "{value}"' for key, value in party.items() if key != "role"]
        own += [f'name = "{name}"', 'job = "job.toml"', f'identity = "{name}.key"', "[policy]", "key_bits = 512"]
        (folder / f"{name}.toml").write_text("\n".join(own))
    (folder / "job.toml").write_text("\n".join(lines))
    return folder


def test_check_of_a_job_shows_what_to_compare(vfl: Command, between: Path) -> None:
    said = vfl("check", between / "job.toml")
    assert said.code == 0 and said.stderr == ""
    company = load_company(between / "job.toml")
    for name, identity in company.pinned.items():
        assert f"{name}: {identity.fingerprint}, valid until {identity.expires:%Y-%m-%d}" in said.stdout
    for key, value in company.lines.items():
        assert f"{key} = {value}" in said.stdout or "identity" in key
    assert company.fingerprint in said.stdout and "[::1]:7700" in said.stdout and "by phone" in said.stdout


def test_check_warns_of_identities_that_soon_expire(vfl: Command, between: Path) -> None:
    for suffix in ("key", "pub"):
        (between / f"bank.{suffix}").unlink()
    write_identity(make_identity("bank", days=20), between)
    said = vfl("check", between / "job.toml")
    assert said.code == 0 and "warning: the certificate of 'bank' expires within 30 days" in said.stdout
    assert "of 'card-network' expires" not in said.stdout


def test_check_of_a_party_touches_no_network(vfl: Command, between: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("socket.socket", forbidden)
    monkeypatch.setattr("socket.getaddrinfo", forbidden)
    before = files_in(between)
    said = vfl("check", between / "bank.toml")
    assert said.code == 0 and said.stderr == ""
    for words in ("ready to join", "valid ids", "bank: SHA256:", "label"):
        assert words in said.stdout
    assert "ready to run" not in said.stdout and files_in(between) == before


def test_check_of_a_party_says_what_its_runs_have_spent(vfl: Command, between: Path) -> None:
    folder = between / ".vfl" / "bank"
    folder.mkdir(parents=True)
    budget = Budget.open(folder / "budgets.json", "first")
    budget.bind("ab" * 32)
    for number in (1, 2, 3):
        budget.spend_evaluation(number, columns=9)
    said = vfl("check", between / "bank.toml")
    assert "Spent by 1 run on alignment abababab: 3 opened scores per row, 5 left; 0 rows scored" in said.stdout


def test_check_of_a_party_enforces(vfl: Command, between: Path) -> None:
    """With one passive party and the key at the active party, scores are that party's alone; 130 rows are few."""
    said = vfl("check", between / "card-network.toml")
    assert said.code == 2 and said.stdout == "" and "small data: party 'card-network'" in said.error
    text = (between / "job.toml").read_text()
    (between / "job.toml").write_text(text.replace("[privacy]", '[privacy]\nkey_holder = "active"'))
    said = vfl("check", between / "card-network.toml")
    assert said.code == 2 and "single passive party: party 'card-network'" in said.error


@pytest.mark.parametrize("file", ["bank.toml", "job.toml"])
def test_what_companies_agreed_on_is_not_overridden(vfl: Command, between: Path, file: str) -> None:
    said = vfl("check", between / file, "--set", "seed=4")
    assert said.code == 2 and said.stdout == "" and f"--set for {file}" in said.error


def test_audit_says_who_learnt_what(vfl: Command, companies: Companies, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert vfl("run", companies.folder, "--out", out, *QUICK).code == 0
    said = vfl("audit", out)
    assert said.code == 0 and said.stderr == ""
    for name in ("coordinator", "bank", "card-network"):
        assert f"What {name} learnt" in said.stdout
        assert vfl("audit", out / name).code == 0


@pytest.mark.parametrize("content", [b"{}\n", b"\xff\n", b"[1]\n"])
def test_audit_of_a_broken_ledger(vfl: Command, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(content)
    said = vfl("audit", tmp_path)
    assert said.code == 2 and "line 1" in said.error


def test_audit_of_a_kind_from_another_version(vfl: Command, companies: Companies, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert vfl("run", companies.folder, "--out", out, *QUICK).code == 0
    text = (out / "ledger.jsonl").read_text().replace('"kind":"Masked"', '"kind":"Veiled"')
    (out / "ledger.jsonl").write_text(text)
    assert vfl("audit", out).code == 0


def test_a_bug_is_one_line_without_its_text(
    vfl: Command, companies: Companies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("secret 123")

    monkeypatch.setattr("vfl.run.summarise", broken)
    said = vfl("run", companies.folder, "--out", tmp_path / "out", "--in-process")
    assert said.code == 1 and "KeyError" in said.error and "secret" not in said.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["coordinator", "bank", "card-network"])
def test_a_role_with_a_bug_is_named(
    vfl: Command, companies: Companies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    target = "vfl.session.align_coordinator" if name == "coordinator" else "vfl.session.align_party"
    honest = getattr(sys.modules["vfl.session"], target.rpartition(".")[2])

    def broken(endpoint: object, *rest: object, **options: object) -> object:
        if endpoint.name == name:
            raise ZeroDivisionError("secret 123")
        return honest(endpoint, *rest, **options)

    monkeypatch.setattr(target, broken)
    said = vfl("run", companies.folder, "--out", tmp_path / "out", "--in-process")
    assert said.code == 1 and "secret" not in said.stderr
    assert said.error.startswith(f"error: {name} stopped on an internal error, ZeroDivisionError at ")
    assert not (tmp_path / "out").exists()


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = "import sys; from vfl import cli; cli.execute(['run', '--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"numpy", "pandas", "sklearn", "gmpy2", "phe", "cryptography"}
    assert all(option in done.stdout for option in ("--strict", "--no-baselines", "--in-process", "--json", "--set"))


def test_version_and_no_arguments() -> None:
    version = subprocess.run([VFL, "--version"], capture_output=True, text=True, check=False)
    assert (version.returncode, version.stdout) == (0, f"vfl {package.__version__}\n")
    nothing = subprocess.run([VFL], capture_output=True, text=True, check=False)
    assert nothing.returncode == 0 and "Usage" in nothing.stdout


def test_ascii_terminals_and_closed_pipes(companies: Companies) -> None:
    env = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run([VFL, "check", companies.folder], capture_output=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    with subprocess.Popen([VFL, "run", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
