"""A long alignment says how far it is: events, the log, a terminal of one role, plain or not."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from parties.link import COORDINATOR
from tests.vfl.test_psi_session import align, plain, scenario
from vfl import status
from vfl.events import Event
from vfl.log import Log
from vfl.status import Status
from vfl.watch import Began, Moment


def test_every_role_tells_every_bucket(tmp_path: Path) -> None:
    made = scenario(tmp_path, {"bank": plain(range(2100)), "shop": plain(range(2050))}, bucket_ids=1000)
    told: list[Event] = []
    align(made, tmp_path, report=told.append)
    for role in (COORDINATOR, "bank", "shop"):
        steps = [(event.round, event.parts) for event in told if event.role == role and event.parts]
        assert steps == [(1, 3), (2, 3), (3, 3)]
    assert {event.phase for event in told if event.parts} == {"aligning"}


def test_a_short_alignment_has_no_parts(tmp_path: Path) -> None:
    told: list[Event] = []
    align(scenario(tmp_path, {"bank": plain(range(30)), "shop": plain(range(30))}), tmp_path, report=told.append)
    assert not [event for event in told if event.parts]


def test_the_log_has_buckets_and_a_round_is_none_of_them(tmp_path: Path) -> None:
    log, moment = Log(tmp_path / "log.jsonl", "bank", "trial"), Moment()
    for watch in (log, moment):
        watch(Event("bank", "aligning"))
        watch(Event("bank", "aligning", 3, parts=25))
        watch(Began(2, -1, 3))
    log.end()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if "bucket" in line]
    assert (line["bucket"], line["buckets"]) == (3, 25)
    assert not [line for line in lines if "round" in line]
    assert [line["buckets_kept"] for line in lines if line["event"] == "generation"] == [3]
    assert moment.round == 0


def test_plain_lines_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.vfl.test_status import JOB

    monkeypatch.setattr(status, "ROUNDS_EVERY", 0.0)
    said = io.StringIO()
    with Status(JOB, tmp_path, Console(file=said)) as shown:
        shown(Event("bank", "aligning"))
        shown(Event("bank", "aligning", 3, parts=25))
    assert "Aligning ids: bucket 3 of 25\n" in said.getvalue()
