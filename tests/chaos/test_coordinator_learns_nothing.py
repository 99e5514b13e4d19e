"""The coordinator's memory and folder, taken during a run: no plaintext between parties in it, and no private key.

The active party's process leaves what must stay hidden in a file (``VFL_TEST_SECRETS``, see `tests.chaos.secretive`):
factors of its key, exact gradients and residuals, what it opened, and its CSV holds ids. All of it is searched for in
every readable page of the coordinator's process while the training stands still in its middle.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from parties.identity import read_public
from parties.link import COORDINATOR
from tests.chaos.between_companies import Job, Running, write_job
from tests.runs.companies import make_companies

SECRETIVE = Path(__file__).with_name("secretive.py")
PIECE = 1 << 24
OVERLAP = 1 << 10


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("memory") / "files"
    companies = make_companies(folder, rows=600, columns=2, key_holder="active", seed=5)
    companies.sections["privacy"] = dict(companies.sections["privacy"]) | {"small_data": True}
    for party in companies.parties.values():
        party["policy"] = {"key_bits": 512, "small_data": True, "partial_scores": True}
    return write_job(companies)


def memory_of(pid: int) -> Iterator[bytes]:
    """Every readable byte of a process, in overlapping pieces."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            area = re.match(r"([0-9a-f]+)-([0-9a-f]+) (r...) \S+ \S+ \S+\s*(.*)", line)
            if area is None or area[3][0] != "r" or area[4] in ("[vvar]", "[vsyscall]", "[vdso]"):
                continue
            start, stop = int(area[1], 16), int(area[2], 16)
            for at in range(start, stop, PIECE):
                try:
                    memory.seek(at)
                    yield memory.read(min(stop, at + PIECE + OVERLAP) - at)
                except OSError:  # a mapping that nobody can read, such as of a device
                    break


def found(needles: dict[str, bytes], pieces: Iterator[bytes]) -> set[str]:
    """Names of those that occur."""
    left, names = dict(needles), set()
    for piece in pieces:
        here = {name for name, needle in left.items() if needle in piece}
        names |= here
        left = {name: needle for name, needle in left.items() if name not in here}
    return names


def files_of(folder: Path) -> Iterator[bytes]:
    yield from (path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_coordinator_has_no_plaintext_between_parties_and_no_key(job: Job, tmp_path: Path) -> None:
    secrets, stop = tmp_path / "secrets", tmp_path / "stop"
    running = Running(job, tmp_path / "run")
    running.programs["bank"] = SECRETIVE
    running.env |= {"VFL_TEST_SECRETS": str(secrets), "VFL_TEST_STOP": str(stop)}
    try:
        running.start_all()
        deadline = time.monotonic() + 60
        while not stop.exists():
            running.tend()
            assert time.monotonic() < deadline and not running.codes, running.said()
            time.sleep(0.02)
        coordinator = running.processes[COORDINATOR]
        time.sleep(0.5)  # until the coordinator waits
        coordinator.send_signal(signal.SIGSTOP)
        hidden = {name: bytes.fromhex(text) for name, text in json.loads(secrets.read_text()).items()}
        hidden |= {f"id {cell}": cell.encode() for cell in ids(job)[:20]}
        hidden["public key"] = public_key(job, "bank")
        public = {name: needle for name, needle in hidden.items() if name.startswith("public")}
        secret = {name: needle for name, needle in hidden.items() if not name.startswith("public")}
        assert len(public) >= 2 and len(secret) > 40
        try:
            in_memory = found(public, memory_of(coordinator.pid))
            leaked = found(secret, memory_of(coordinator.pid))
        except PermissionError:
            pytest.skip("this system lets nobody read a process's memory")
        on_disk = found(secret, files_of(running.out / COORDINATOR))
        # that the search works: the active party has all of it
        at_home = found(secret, memory_of(running.processes["bank"].pid))
        coordinator.send_signal(signal.SIGCONT)
        stop.unlink()
        assert set(running.wait(90).values()) == {0}, running.said()
    finally:
        for process in running.processes.values():
            os.kill(process.pid, signal.SIGCONT) if process.poll() is None else None
        running.end()
    assert in_memory == set(public), "what the coordinator must have seen was not found"
    assert not leaked
    assert not on_disk
    kinds = {name.split()[0] for name in at_home}
    assert {"key", "residual", "gradient", "coefficient", "id"} <= kinds, f"of the active party only {kinds} was found"


def public_key(job: Job, name: str) -> bytes:
    return read_public(job.folder / f"{name}.pub", name).sealing


def ids(job: Job) -> list[str]:
    lines = next(job.folder.glob("bank data.csv")).read_text().splitlines()
    return [line.split(",")[0] for line in lines[1:]]
