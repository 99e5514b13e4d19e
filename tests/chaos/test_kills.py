"""kill -9 of any role at any moment: the run ends, and ends bit-identical."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.between_companies import Job, Running, write_job
from tests.runs.companies import Companies, make_boosted, make_companies

KILLS = int(os.environ.get("VFL_CHAOS_KILLS", "20"))
PER_RUN = 4

JOBS: dict[str, Callable[[Path], Companies]] = {
    "glm_exact": lambda folder: make_companies(folder, rows=700, key_holder="active", seed=5),
    "glm_quadratic": lambda folder: make_companies(folder, passive=1, rows=700, key_holder="coordinator", seed=6),
    "boosting": lambda folder: make_boosted(folder, rows=900, training={"n_estimators": 6}, seed=7),
}


def prepared(folder: Path, kind: str) -> Job:
    companies = JOBS[kind](folder)
    companies.sections["privacy"] = dict(companies.sections["privacy"]) | {"small_data": True}
    limits = {"min_node_rows": 20, "min_bin_gap": 1} if kind == "boosting" else {}
    companies.sections["training"] = dict(companies.sections["training"]) | limits
    for party in companies.parties.values():
        party["policy"] = {"key_bits": 512, "small_data": True, "partial_scores": True, **limits}
    return write_job(companies)


@pytest.fixture(scope="module", params=list(JOBS))
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Job, Running, float]]:
    """A job, its run without disturbance, and how long that took."""
    folder = tmp_path_factory.mktemp("chaos")
    job = prepared(folder / "files", request.param)
    running = Running(job.copy(folder / "own"), folder / "undisturbed")
    start = time.monotonic()
    try:
        running.start_all()
        codes = running.wait(90)
    finally:
        running.end()
    assert set(codes.values()) == {0}, running.said()
    yield job, running, time.monotonic() - start


def test_killed_runs_end_bit_identical(undisturbed: tuple[Job, Running, float], tmp_path: Path) -> None:
    job, reference, seconds = undisturbed
    rng = random.Random(os.environ.get("VFL_CHAOS_SEED", "1"))
    for number in range(max(1, KILLS // (PER_RUN * len(JOBS)))):
        running = Running(job.copy(tmp_path / f"files {number}"), tmp_path / str(number))
        killed = []
        try:
            running.start_all()
            for _ in range(PER_RUN):
                pause = rng.uniform(0.05, 0.6) * seconds
                until = time.monotonic() + pause
                while time.monotonic() < until:
                    running.tend()
                    time.sleep(0.02)
                role = rng.choice(job.roles)
                if role not in running.codes and running.kill(role):
                    killed.append((role, round(pause, 2)))
            codes = running.wait(120)
        finally:
            running.end()
        assert set(codes.values()) == {0}, (killed, codes, running.said())
        assert running.results() == reference.results(), killed
