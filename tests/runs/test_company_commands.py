"""`vfl coordinator` and `vfl join` as users meet them: exit codes, one clear line, JSON alone on standard output."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from parties.identity import make_identity, read_identity, write_identity
from tests.chaos.between_companies import Job, write_job
from tests.runs.companies import Outcome, make_companies
from tests.runs.conftest import Command
from vfl.report.evidence import load_evidence

QUICK = {"heartbeat": 0.3, "notice": 1, "reconnect_timeout": 3}
SECONDS = 120


def make_job(folder: Path, **network: object) -> Job:
    """A bank and a card network; ids and some cells are canaries."""
    companies = make_companies(folder, "linear", passive=1, rows=700, key_holder="coordinator")
    companies.sections["privacy"] = dict(companies.sections["privacy"]) | {"small_data": True}
    for party in companies.parties.values():
        party["policy"] = {"key_bits": 512, "small_data": True}
    for table in companies.tables.values():
        table.iloc[:, 0] = "zq-" + table.iloc[:, 0].astype(str)
    return write_job(companies, QUICK | network)


def start(job: Job, role: str, out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*job.command(role, out), *more],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
    )


def ended(process: subprocess.Popen[str]) -> Outcome:
    """Wait for a role's end; one that hangs fails the test."""
    try:
        out, said = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail("hangs: " + "".join(process.communicate()))
    return Outcome(process.returncode, out, said)


@contextmanager
def roles(job: Job, out: Path, *names: str, **more: tuple[str, ...]) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Processes of these roles, all of them without names; whatever is left of them is killed."""
    running = {name: start(job, name, out, *more.get(name.replace("-", "_"), ())) for name in names or job.roles}
    try:
        yield running
    finally:
        for process in running.values():
            process.kill()
            process.communicate()


def until(path: Path) -> None:
    """Wait for a file."""
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not come"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Path, dict[str, Outcome]]:
    """A run that went well; the bank asked for JSON, the coordinator for every line of the log."""
    folder = tmp_path_factory.mktemp("finished")
    job = make_job(folder / "files")
    more = {"bank": ("--json", "--log-level", "debug"), "coordinator": ("--log-level", "debug")}
    with roles(job, folder / "out", **more) as running:
        said = {name: ended(process) for name, process in running.items()}
    assert {name: outcome.code for name, outcome in said.items()} == dict.fromkeys(job.roles, 0), said
    return job, folder / "out", said


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return make_job(tmp_path / "files")


def test_json_alone_on_standard_output(finished: tuple[Job, Path, dict[str, Outcome]]) -> None:
    _, out, said = finished
    assert said["bank"].stdout.encode() == (out / "bank" / "report.json").read_bytes()
    assert json.loads(said["bank"].stdout)["metrics"]["joint"]["rmse"] > 0
    for words in ("joining as bank", "Training: ", "rmse", "vfl audit"):
        assert words in said["bank"].stderr


def test_the_active_party_alone_says_how_sure_the_figures_are(finished: tuple[Job, Path, dict[str, Outcome]]) -> None:
    job, out, _ = finished
    reports = {name: json.loads((out / name / "report.json").read_text()) for name in job.roles}
    lead = reports.pop("bank")
    assert list(lead["confidence"]) == list(lead["metrics"]) and "joint" in lead["confidence"]
    assert all("confidence" not in report and "comparison" not in report for report in reports.values())
    assert "without" not in lead and "pooled" not in lead["metrics"]
    evidence = load_evidence(out / "bank" / "bank")
    assert evidence is not None
    assert list(evidence.predicted) == list(lead["metrics"])
    assert [path.relative_to(out).parts[0] for path in out.rglob("evidence.npz")] == ["bank"]


def test_every_role_says_what_it_has(finished: tuple[Job, Path, dict[str, Outcome]]) -> None:
    _, out, said = finished
    for name in ("coordinator", "card-network"):
        assert said[name].stderr == ""
        for words in ("common rows", "690", "with the active party, bank", str(out / name / "log.jsonl")):
            assert words in said[name].stdout
        assert "rmse" not in said[name].stdout
    assert "rows of the CSV" in said["card-network"].stdout and "rows of the CSV" not in said["coordinator"].stdout
    assert (
        len({line for o in said.values() for line in (o.stdout + o.stderr).splitlines() if "identities" in line}) == 1
    )


def test_nothing_secret_is_said_or_logged(finished: tuple[Job, Path, dict[str, Outcome]]) -> None:
    job, out, said = finished
    canaries = {"zq-"}
    for name in job.names:
        text = next(job.folder.glob(f"{name.replace('-', '_')} data.csv")).read_text()
        canaries |= {cell for line in text.splitlines()[1:] for cell in line.split(",") if len(cell) >= 8}
    for name in job.roles:
        canaries |= {line for line in (job.folder / f"{name}.key").read_text().splitlines() if len(line) > 60}
        canaries |= {read_identity(job.folder / f"{name}.key").sealing.private.private_bytes_raw().hex()}
    canaries = {one for one in canaries if not one.startswith(("#", "-----", "certificate"))}
    canaries -= {line for name in job.roles for line in (job.folder / f"{name}.pub").read_text().splitlines()}
    for name in job.roles:
        texts = [said[name].stdout, said[name].stderr]
        texts += [(out / name / file).read_text() for file in ("log.jsonl", "report.json", "ledger.jsonl")]
        for text in texts:
            assert not [one for one in canaries if one in text], name


def test_the_log_is_private_and_has_what_happened(finished: tuple[Job, Path, dict[str, Outcome]]) -> None:
    _, out, _ = finished
    for name, messages in (("bank", True), ("coordinator", True), ("card-network", False)):
        path = out / name / "log.jsonl"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        events = [line["event"] for line in lines]
        assert events[0] == "started" and events[-1] == "ended"
        assert {"generation", "checkpoint", "phase begins", "phase ends"} <= set(events)
        assert ({"sent", "received"} <= set(events)) == messages
        assert {line["role"] for line in lines} == {name}


def test_a_run_that_has_ended(vfl: Command, finished: tuple[Job, Path, dict[str, Outcome]]) -> None:
    job, out, _ = finished
    command = job.command("bank", out)[1:]
    before = (out / "bank" / "log.jsonl").read_bytes()
    refused = vfl(*command)
    assert refused.code == 2 and "holds a run that has ended" in refused.error
    again = vfl(*command, "--resume")
    assert again.code == 0 and "has ended already" in again.stdout
    pure = vfl(*command, "--resume", "--json")
    assert pure.code == 0 and pure.stdout.encode() == (out / "bank" / "report.json").read_bytes()
    assert (out / "bank" / "log.jsonl").read_bytes() == before


def test_a_run_of_another_job_or_role(
    vfl: Command, finished: tuple[Job, Path, dict[str, Outcome]], tmp_path: Path
) -> None:
    job, out, _ = finished
    other = job.copy(tmp_path / "files")
    rewrite(other.folder / "job.toml", "seed = 3", "seed = 4")
    said = vfl(*other.command("bank", out)[1:])
    assert said.code == 2 and "run of another job" in said.error
    said = vfl(*job.command("card-network", out)[1:-3], "--out", out / "bank")
    assert said.code == 2 and "holds a run of 'bank', expected one of 'card-network'" in said.error


def test_resume_with_nothing_there(vfl: Command, job: Job, tmp_path: Path) -> None:
    for role in job.roles:
        said = vfl(*job.command(role, tmp_path / "out")[1:], "--resume")
        assert said.code == 2 and "holds no run to go on with" in said.error
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files(vfl: Command, job: Job, tmp_path: Path) -> None:
    (tmp_path / "out" / "bank").mkdir(parents=True)
    (tmp_path / "out" / "bank" / "thesis.tex").write_text("years of work")
    said = vfl(*job.command("bank", tmp_path / "out")[1:])
    assert said.code == 2 and "holds files that are no run" in said.error
    assert os.listdir(tmp_path / "out" / "bank") == ["thesis.tex"]


def test_a_second_process_in_the_same_folder(vfl: Command, job: Job, tmp_path: Path) -> None:
    hidden = tmp_path / "out" / "bank" / ".run"
    hidden.mkdir(parents=True)
    with (hidden / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = vfl(*job.command("bank", tmp_path / "out")[1:])
    assert said.code == 2 and "another process is using it" in said.error
    assert os.listdir(tmp_path / "out" / "bank") == [".run"]


def test_a_port_that_is_taken(vfl: Command, job: Job, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", job.port)):
        said = vfl(*job.command("coordinator", tmp_path / "out")[1:])
    assert said.code == 2
    assert f"--listen, got 127.0.0.1:{job.port}, where nobody can listen (Address already in use);" in said.error


def test_a_coordinator_that_cannot_be_reached(vfl: Command, job: Job, tmp_path: Path) -> None:
    said = vfl(*job.command("bank", tmp_path / "out")[1:])
    assert said.code == 1
    for words in ("the coordinator cannot be reached", "nobody listens at the address", "with --resume"):
        assert words in said.error
    events = [json.loads(line)["event"] for line in (tmp_path / "out/bank/log.jsonl").read_text().splitlines()]
    assert events.count("not connected") == 1 and events[-1] == "failed"


def test_a_policy_that_refuses(vfl: Command, job: Job, tmp_path: Path) -> None:
    rewrite(job.folder / "bank.toml", "[policy]", '[policy]\nmodels = ["poisson"]')
    said = vfl(*job.command("bank", tmp_path / "out")[1:], "--json")
    assert said.code == 2 and said.stdout == ""
    assert "policy models: party 'bank' got model 'linear'" in said.error
    lines = [json.loads(line) for line in (tmp_path / "out/bank/log.jsonl").read_text().splitlines()]
    assert lines[-1]["event"] == "refused" and "policy models" in lines[-1]["text"]


def test_metrics_without_an_address(vfl: Command, job: Job, tmp_path: Path) -> None:
    said = vfl(*job.command("bank", tmp_path / "out")[1:], "--metrics", "9100")
    assert said.code == 2 and "--metrics, got '9100', expected HOST:PORT" in said.error
    said = vfl(*job.command("bank", tmp_path / "out")[1:], "--log-level", "loud")
    assert said.code == 2 and "debug" in said.error


@pytest.mark.slow
def test_a_job_that_differs_can_be_corrected(job: Job, tmp_path: Path) -> None:
    other = job.copy(tmp_path / "at the bank")
    rewrite(other.folder / "job.toml", "seed = 3", "seed = 4")
    with roles(job, tmp_path / "out", "coordinator", "card-network") as running:
        with roles(other, tmp_path / "out", "bank") as bank:
            said = [ended(process) for process in (*running.values(), *bank.values())]
    for outcome in said:
        assert outcome.code == 2 and "differ in seed (at bank)" in outcome.error
    with roles(job, tmp_path / "out") as running:
        assert {ended(process).code for process in running.values()} == {0}


@pytest.mark.slow
def test_a_certificate_that_is_rejected(job: Job, tmp_path: Path) -> None:
    other = job.copy(tmp_path / "at the coordinator")
    (other.folder / "bank.pub").unlink()
    write_identity(make_identity("bank"), tmp_path / "impostor")
    shutil.copy(tmp_path / "impostor" / "bank.pub", other.folder)
    with roles(replace(other), tmp_path / "out", "coordinator") as running:
        until(tmp_path / "out/coordinator/log.jsonl")
        with roles(job, tmp_path / "out", "bank") as bank:
            said = ended(bank["bank"])
        assert running["coordinator"].poll() is None, "a stranger ends nobody's run"
    assert said.code == 2
    assert "'coordinator' does not accept the certificate of 'bank'" in said.error and ".pub" in said.error


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_roles_go_on(job: Job, tmp_path: Path, number: int, code: int) -> None:
    with roles(job, tmp_path / "out", "bank") as running:
        until(tmp_path / "out/bank/log.jsonl")
        time.sleep(0.5)
        running["bank"].send_signal(number)
        said = ended(running["bank"])
    assert said.code == code and "Traceback" not in said.stderr
    assert "the same command goes on with the run in" in (said.error if code == 130 else said.stdout)
    assert '"interrupted"' in (tmp_path / "out/bank/log.jsonl").read_text()
    with roles(job, tmp_path / "out", bank=("--resume",)) as running:
        assert {ended(process).code for process in running.values()} == {0}


@pytest.mark.slow
def test_a_lost_peer_is_named_and_the_run_goes_on(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with roles(job, out) as running:
        until(out / "bank/.run/checkpoints/step 1.ckpt")
        running["bank"].kill()
        said = {name: ended(running[name]) for name in ("coordinator", "card-network")}
    for outcome in said.values():
        assert outcome.code == 1
        assert "bank is gone" in outcome.error and "start the same command again, with --resume" in outcome.error
    resumed = dict.fromkeys(("bank", "coordinator", "card_network"), ("--resume",))
    with roles(job, out, **resumed) as running:
        said = {name: ended(process) for name, process in running.items()}
    assert {outcome.code for outcome in said.values()} == {0}
    assert "All are there; the run goes on after the alignment" in said["bank"].stdout


def rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
