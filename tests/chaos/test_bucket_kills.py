"""Processes of an alignment in buckets that are killed: it goes on in the middle, and ends as without a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from parties.link import COORDINATOR
from tests.chaos.between_companies import Job, Running, write_job
from tests.runs.companies import VFL, make_companies

ROWS = 4200
BUCKETS = 5


@dataclass
class Psi(Job):
    """The commands of an alignment alone."""

    def command(self, role: str, out: Path, *more: str) -> list[str]:
        if role == COORDINATOR:
            return super().command(role, out, "--psi", *more)
        return [VFL, "psi", str(self.folder / f"{role}.toml"), "--out", str(out / role), *more]


def aligned_files(out: Path, job: Job) -> dict[str, bytes]:
    return {name: (out / name / name / "aligned.csv").read_bytes() for name in job.names}


def sent(out: Path, role: str, message: str) -> list[int]:
    """Generations in which a role sent a message."""
    entries = [json.loads(line) for line in (out / role / "ledger.jsonl").read_text().splitlines()]
    return [entry["generation"] for entry in entries if entry["sender"] == role and entry["message"] == message]


def played(job: Job, out: Path, dooms: dict[str, list[str]]) -> Running:
    running = Running(job, out)
    running.dooms.update(dooms)
    try:
        running.start_all()
        assert running.wait(60) == dict.fromkeys(job.roles, 0), running.said()
    finally:
        running.end()
    return running


@dataclass(frozen=True)
class World:
    """A job, and what it ends with where nobody is killed."""

    job: Psi
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("buckets")
    companies = make_companies(
        folder / "in", passive=1, rows=ROWS, columns=1, alignment={"bucket_ids": 1000, "protocol": "ecdh"}
    )
    del companies.sections["privacy"]  # nothing is encrypted
    written = write_job(companies)
    job = Psi(written.folder, written.names, written.port)
    played(job, folder / "out", {})
    assert len(sent(folder / "out", COORDINATOR, "progress.joined")) == 2 * BUCKETS
    yield World(job, aligned_files(folder / "out", job))


@pytest.mark.parametrize(
    ("role", "message"),
    [("bank", 16), ("card-network", 18), (COORDINATOR, 20)],
    ids=["active", "passive", "coordinator"],
)
def test_a_killed_role_goes_on_with_a_later_bucket(world: World, tmp_path: Path, role: str, message: int) -> None:
    copied = world.job.copy(tmp_path / "in")
    job = Psi(copied.folder, copied.names, copied.port)
    running = played(job, tmp_path / "out", {role: [f"ledger:{message}:1"]})
    assert running.killed == [role]
    assert aligned_files(tmp_path / "out", job) == world.files
    for name in job.names:
        generations = sent(tmp_path / "out", name, "ecdh.tags")
        assert generations.count(2) < BUCKETS  # those of the first generation are not played again
        assert generations.count(1) > 0
    assert not list((tmp_path / "out").rglob("*.ckpt"))
    assert not list((tmp_path / "out").rglob("ids/*"))
