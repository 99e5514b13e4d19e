"""A silo's process dies between companies: it is back in time, and all begin anew; or it stays away, and all go on."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.chaos.between_companies import Job, Running
from tests.silos.siloed import Siloed
from vfl.audit import verify_run

ROOT = Path(__file__).parents[2]
UNLUCKY = Path(__file__).with_name("unlucky")
ROUNDS = 3
SILOED = Siloed(
    hospitals=4,
    insurer=None,
    rows=300,
    ids=False,
    privacy={"small_data": True},
    training={"aggregation": "fedavg", "rounds": ROUNDS, "min_silos": 3, "round_timeout": 60.0},
)
LUCK = "hospitals.s2 secure_sum.masked 2 killed"


def prepared(folder: Path, reconnect_timeout: float) -> Job:
    job = SILOED.write_job(folder)
    network = f"\n[network]\nheartbeat = 0.5\nnotice = 1\nreconnect_timeout = {reconnect_timeout}\n"
    with (folder / "job.toml").open("a") as file:
        file.write(network)
    return job


def started(job: Job, out: Path) -> Running:
    env = {"PYTHONPATH": f"{UNLUCKY}:{ROOT}", "VFL_TEST_BAD_LUCK": LUCK, "VFL_REPORT": "json"}
    running = Running(job, out, env=env)
    running.start_all()
    return running


def ended(running: Running, role: str, seconds: float = 120.0) -> int:
    """How a role's process ended."""
    return running.processes[role].wait(seconds)


def report_of(out: Path) -> dict[str, object]:
    """What the coordinator says of the silos."""
    training: dict[str, dict[str, object]] = json.loads((out / "coordinator" / "report.json").read_text())["training"]
    return training["aggregation"]


@pytest.mark.slow
def test_who_stays_away_is_lost_and_the_others_go_on(tmp_path: Path) -> None:
    running = started(prepared(tmp_path / "files", 3.0), tmp_path / "run")
    others = [role for role in running.job.roles if role != "hospitals.s2"]
    try:
        assert ended(running, "hospitals.s2") == -signal.SIGKILL, running.said()
        assert {role: ended(running, role) for role in others} == dict.fromkeys(others, 0), running.said()
        left_out = report_of(running.out)["left_out"]
        assert left_out == [{"silo": "hospitals.s2", "round": 2, "why": "lost"}]
        state = json.loads((running.out / "coordinator" / ".run" / "state.json").read_text())
        assert state["progress"] == "ended", "nobody waits for who is lost"
        silos = [role for role in others if role != "coordinator"]
        models = {(running.out / name / name / "model.npz").read_bytes() for name in silos}
        assert len(models) == 1
        assert not verify_run(running.out).unseen
    finally:
        running.end()


@pytest.mark.slow
def test_who_is_back_in_time_is_not_missed(tmp_path: Path) -> None:
    running = started(prepared(tmp_path / "files", 60.0), tmp_path / "run")
    try:
        assert ended(running, "hospitals.s2") == -signal.SIGKILL, running.said()
        running.start("hospitals.s2", VFL_TEST_BAD_LUCK="")
        codes = {role: ended(running, role) for role in running.job.roles}
        assert codes == dict.fromkeys(running.job.roles, 0), running.said()
        assert report_of(running.out)["left_out"] == []
        models = {(running.out / name / name / "model.npz").read_bytes() for name in running.job.names}
        assert len(models) == 1
        assert not verify_run(running.out).unseen
    finally:
        running.end()
