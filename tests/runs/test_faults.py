"""Roles and launchers that are killed in the middle of a run: the rest stops at once, says why, leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.runs.companies import VFL, Companies, Outcome, files_in, make_companies

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")]
ROLES = ("coordinator", "bank", "card-network")
SECONDS = 20.0  # the run itself takes at most five; the rest is room for a busy machine


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Companies:
    """Aligns and trains long enough to be caught at it."""
    folder = tmp_path_factory.mktemp("faults") / "scenario"
    companies = make_companies(
        folder,
        rows=4000,
        passive=1,
        key_holder="active",
        training={"tol": 1e-14, "l2": 0},
    )
    companies.write()
    return companies


@dataclass
class Command:
    """A run under way."""

    process: subprocess.Popen[str]
    out: Path

    def roles(self) -> dict[str, int]:
        """Processes of this run's roles, by name; they are in the launcher's care or in init's."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                inside = os.readlink(entry / "cwd") == str(self.out.parent)
            except (OSError, NotADirectoryError):
                continue
            if inside and b"vfl.role" in words:
                found[words[words.index(b"vfl.role") + 1].decode()] = int(entry.name)
        return found

    def wait_for(self, message: str) -> None:
        """Wait until a role has sent or received a message of a protocol."""
        self.wait_until(lambda: any(message in ledger.read_text() for ledger in self.ledgers()))

    def ledgers(self) -> list[Path]:
        return list(self.out.glob(".unfinished-*/*/ledger.jsonl"))

    def wait_until(self, done: Callable[[], bool], seconds: float = 60.0) -> float:
        started = time.monotonic()
        while not done():
            assert time.monotonic() - started < seconds, "waited in vain"
            time.sleep(0.02)
        return time.monotonic() - started

    def finish(self) -> Outcome:
        stdout, stderr = self.process.communicate(timeout=60)
        return Outcome(self.process.returncode, stdout, stderr)


@pytest.fixture
def command(long_run: Companies, tmp_path: Path) -> Iterator[Command]:
    process = subprocess.Popen(
        [VFL, "run", str(long_run.folder), "--out", str(tmp_path / "out"), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    command = Command(process, tmp_path / "out")
    try:
        yield command
    finally:
        process.kill()
        process.communicate()
        for pid in command.roles().values():
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("phase", ["ecdh.", "glm_exact."])
@pytest.mark.parametrize("role", ROLES)
def test_a_killed_role_ends_the_run(command: Command, role: str, phase: str) -> None:
    command.wait_for(phase)
    os.kill(command.roles()[role], signal.SIGKILL)
    took = command.wait_until(lambda: not command.roles(), SECONDS)
    said = command.finish()
    assert took < SECONDS
    assert said.code == 1 and said.stdout == ""
    assert said.error == f"error: the process of {role} died (killed by SIGKILL); run again"
    assert not files_in(command.out.parent)


def test_a_killed_launcher_takes_all_along(command: Command) -> None:
    command.wait_for("glm_exact.")
    command.process.kill()
    command.wait_until(lambda: not command.roles(), SECONDS)
    assert command.finish().code == -signal.SIGKILL
    assert not (command.out / "report.json").exists()


@pytest.mark.parametrize(
    ("number", "code", "phase"),
    [(signal.SIGINT, 130, "glm_exact."), (signal.SIGTERM, 143, ""), (signal.SIGHUP, 129, "align.")],
)
def test_an_interrupted_launcher_leaves_nothing(command: Command, number: int, code: int, phase: str) -> None:
    """While the roles start, align or train."""
    if phase:
        command.wait_for(phase)
    else:
        command.wait_until(lambda: bool(command.roles()))
    os.kill(command.process.pid, number)
    said = command.finish()
    command.wait_until(lambda: not command.roles(), SECONDS)
    assert said.code == code and said.stdout == "" and "Traceback" not in said.stderr
    assert not files_in(command.out.parent)


def test_a_role_killed_at_its_start(command: Command) -> None:
    command.wait_until(lambda: "card-network" in command.roles())
    os.kill(command.roles()["card-network"], signal.SIGKILL)
    said = command.finish()
    assert said.code == 1
    assert said.error == "error: the process of card-network died (killed by SIGKILL); run again"
    assert not command.roles() and not files_in(command.out.parent)
