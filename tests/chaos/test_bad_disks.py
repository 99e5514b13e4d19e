"""Full disks and torn checkpoints: the run goes on from what is whole, ends bit-identical, and says what happened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parties.link import COORDINATOR
from tests.chaos.between_companies import Running
from tests.chaos.test_kills import Reference, undisturbed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return undisturbed(tmp_path_factory.mktemp("disks"), "glm_quadratic")


def run(reference: Reference, folder: Path) -> Running:
    return Running(reference.job.copy(folder / "files"), folder / "run")


def finish(running: Running, code: int = 0) -> None:
    try:
        assert set(running.wait(120).values()) == {code}, running.said()
    finally:
        running.end()


def warnings(running: Running, role: str) -> str:
    return "\n".join(json.loads((running.out / role / "report.json").read_text())["warnings"])


@pytest.mark.parametrize("role", ["bank", COORDINATOR])
def test_a_full_disk_costs_checkpoints_and_a_warning(reference: Reference, tmp_path: Path, role: str) -> None:
    """Only the first checkpoints are written."""
    running = run(reference, tmp_path)
    try:
        running.start_others(role)
        running.start(role, VFL_TEST_FULL="write:12:1000")
    except BaseException:
        running.end()
        raise
    finish(running)
    assert running.results() == reference.results
    assert "checkpoints cannot be written (No space left on device)" in warnings(running, role)


def test_a_full_disk_and_then_a_kill(reference: Reference, tmp_path: Path) -> None:
    running = run(reference, tmp_path)
    count = reference.moments["bank"]["ledger"]
    running.dooms["bank"] = [f"ledger:{count - 4}:2"]
    try:
        running.start_others("bank")
        running.start("bank", VFL_TEST_FULL="write:12:1000")
    except BaseException:
        running.end()
        raise
    finish(running)
    assert running.killed == ["bank"]
    assert running.results() == reference.results


@pytest.mark.parametrize("damage", ["cut", "altered", "empty"])
def test_a_torn_checkpoint_is_passed_over_with_a_warning(reference: Reference, tmp_path: Path, damage: str) -> None:
    running = run(reference, tmp_path)
    running.dooms["bank"] = [f"ledger:{reference.moments['bank']['ledger'] - 4}:2"]
    torn: list[Path] = []

    def tear(role: str) -> None:
        folder = running.out / role / ".run" / "checkpoints"
        path = max(folder.glob("step *.ckpt"), key=lambda path: int(path.stem.split()[1]))
        data = path.read_bytes()
        path.write_bytes({"cut": data[:-40], "altered": data[:-40] + b"x" + data[-39:], "empty": b""}[damage])
        torn.append(path)

    running.lying_dead = tear
    try:
        running.start_all()
    except BaseException:
        running.end()
        raise
    finish(running)
    assert len(torn) == 1
    assert running.results() == reference.results
    assert f"{torn[0].name}: not used as a checkpoint" in warnings(running, "bank")


def test_files_that_cannot_be_written_end_the_run_in_words_and_it_goes_on(reference: Reference, tmp_path: Path) -> None:
    running = run(reference, tmp_path)
    try:
        running.start_others("bank")
        running.start("bank", VFL_TEST_FULL="size:4000")
        codes = running.wait(120)
    finally:
        running.end()
    said = running.log("bank").read_text()
    assert codes["bank"] == 2, said
    assert "internal error" not in said
    assert "File too large" in said and "run the same command again" in said
    assert {code for role, code in codes.items() if role != "bank"} == {1}
    assert "bank stopped (" in running.log(COORDINATOR).read_text()
    running.codes.clear()
    try:
        running.start_all()
    except BaseException:
        running.end()
        raise
    finish(running)
    assert running.results() == reference.results
