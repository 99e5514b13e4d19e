"""The terminal of one role: what it shows live, what it says line by line, and how long waits are told."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from parties.ledger import Entry
from vfl.events import Event
from vfl.job import Job, Member
from vfl.status import Status, Waits
from vfl.watch import Awaited, Began, Dialled, Kept, Moment, Network, Standstill, Warned, all_of

JOB = Job(
    name="trial",
    task="binary",
    model="logistic",
    parties=(Member(name="bank", role="active"), Member(name="shop", role="passive")),
)
LOST = "nobody listens"


class Clock:
    """A monotonic clock that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("vfl.watch.time.monotonic", clock)
    return clock


def status_on(*, terminal: bool) -> tuple[Status, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, _environ={})
    return Status(JOB, Path("out"), console), out


def shown(status: Status) -> str:
    """What stands on the terminal at the moment."""
    out = io.StringIO()
    Console(file=out, force_terminal=True, width=100, _environ={}, color_system=None).print(status._render())
    return out.getvalue()


def met() -> Moment:
    moment = Moment()
    moment(Dialled(""))
    moment(Began(1, -1))
    return moment


def test_the_gravest_trouble_is_told(clock: Clock) -> None:
    moment = met()
    assert moment.standstill() is None
    moment(Awaited("glm_exact.gradient_scalars from shop"))
    clock.now += 12
    assert str(moment.standstill()) == "waiting for gradient scalars from shop, 12 s"
    moment(Network("shop is reconnecting"))
    clock.now += 5
    assert str(moment.standstill()) == "shop is reconnecting"
    moment(Network(""))
    assert str(moment.standstill()) == "waiting for gradient scalars from shop, 17 s"
    moment(Awaited(""))
    assert moment.standstill() is None


def test_the_coordinators_silence_is_counted_on(clock: Clock) -> None:
    moment = met()
    moment(Dialled(LOST))
    assert moment.standstill() is None, "a connection that comes back soon is nobody's business"
    moment(Network("reconnecting to the coordinator, 35 s"))
    clock.now += 3
    assert str(moment.standstill()) == f"reconnecting to the coordinator, 38 s ({LOST})"
    moment(Network("reconnecting to the coordinator, 38 s"))
    clock.now += 30
    assert str(moment.standstill()) == f"reconnecting to the coordinator, 1 min 8 s ({LOST})"
    moment(Dialled(""))
    moment(Network(""))
    assert moment.standstill() is None


def test_before_the_first_meeting(clock: Clock) -> None:
    moment = Moment()
    moment(Dialled(LOST))
    clock.now += 4
    moment(Dialled("another reason"))
    clock.now += 4
    assert str(moment.standstill()) == "dialling the coordinator, 8 s (another reason)"
    moment(Dialled(""))
    clock.now += 61
    assert str(moment.standstill()) == "waiting for the others to join, 1 min 1 s"
    moment(Network("waiting for bank, card-network to join"))
    assert str(moment.standstill()) == "waiting for bank, card-network to join, 0 s"
    moment(Began(1, -1))
    assert moment.standstill() is None


def test_waiting_and_computing_are_told_apart(clock: Clock) -> None:
    moment = Moment(_begun=clock.now)
    clock.now += 10
    assert moment.seconds() == (10, 0)
    moment(Began(1, -1))
    clock.now += 5
    moment(Awaited("a.b from c"))
    clock.now += 2
    assert moment.seconds() == (12, 5)
    moment(Began(2, 3))  # somebody came back while it waited
    clock.now += 1
    assert moment.seconds() == (12, 6)
    assert (moment.generation, moment.round) == (2, 3)


@pytest.mark.parametrize(
    ("seconds", "lines"),
    [(9, 0), (11, 1), (59, 1), (61, 2), (125, 3), (301, 4), (601, 5), (3599, 7), (3601, 8), (7300, 9)],
)
def test_lines_about_a_wait_become_rarer(seconds: int, lines: int) -> None:
    waits = Waits()
    told = [waits.due(Standstill("waiting for x from y", at / 2)) for at in range(2 * seconds)]
    assert sum(told) == lines


def test_every_wait_begins_anew() -> None:
    waits = Waits()
    assert waits.due(Standstill("waiting for x from y", 11)) and not waits.due(Standstill("waiting for x from y", 12))
    assert waits.due(Standstill("waiting for z from y", 11)), "another message"
    assert not waits.due(None)
    assert waits.due(Standstill("waiting for z from y", 11)), "the same message once more"


def test_a_terminal_shows_phases_and_one_line() -> None:
    status, _ = status_on(terminal=True)
    with status:
        status(Began(1, -1))
        for event in (Event("bank", "aligning"), Event("bank", "training"), Event("bank", "training", 3, 0.5)):
            status(event)
        status(Awaited("glm_exact.residual from bank"))
        lines = shown(status).splitlines()
        assert [line.split()[1] for line in lines[:3]] == ["Meeting", "Aligning", "Training"]
        assert "round 3, loss 0.5" in lines[2] and lines[3].strip() == "working"
        status._moment._awaited.begun -= 20
        assert shown(status).splitlines()[3].strip() == "waiting for residual from bank, 20 s"
    assert "waiting" not in shown(status)


def test_a_terminal_after_a_crash_shows_the_present_generation() -> None:
    status, out = status_on(terminal=True)
    with status:
        for notice in (Began(1, -1), Event("bank", "aligning"), Event("bank", "training"), Began(2, 4)):
            status(notice)
        assert [line.split()[1] for line in shown(status).splitlines()[:-1]] == ["Meeting"]
        assert "All are back; the run goes on after round 4" in out.getvalue()


@pytest.mark.parametrize(("buckets", "where"), [(0, "begins anew, for"), (3, "goes on within the alignment; 3 of")])
def test_a_long_alignment_goes_on_with_the_buckets_that_are_kept(buckets: int, where: str) -> None:
    status, out = status_on(terminal=False)
    with status:
        status(Began(1, -1, buckets))
        assert out.getvalue().count("All are there; the run goes on within the alignment") == (buckets > 0)
        status(Began(2, -1, buckets))
    assert f"All are back; the run {where}" in out.getvalue()


def test_rounds_without_a_loss_are_counted_by_checkpoints() -> None:
    status, _ = status_on(terminal=True)
    with status:
        for notice in (Event("bank", "training"), Kept(0), Kept(1), Kept(2)):
            status(notice)
        assert "round 2, ~" in shown(status)
        status(Event("bank", "training", 3, 0.25))
        status(Kept(3))
        assert "round 3, loss 0.25" in shown(status)


def test_elsewhere_a_line_per_phase() -> None:
    status, out = status_on(terminal=False)
    with status:
        for phase in ("aligning", "training", "saving"):
            status(Event("bank", phase))
        status(Event("bank", "training", 1, 0.5))
        status(Warned("checkpoints cannot be written [disk]"))
    lines = out.getvalue().splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "Meeting the others",
        "Aligning ids",
        "Training",
        "Saving",
        "warning",
    ]
    assert "\x1b" not in out.getvalue()


def test_elsewhere_rounds_come_at_a_modest_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    status, out = status_on(terminal=False)
    with status:
        status(Event("bank", "training"))
        for number in range(1, 50):
            status(Event("bank", "training", number, 0.5))
        status._said -= 11
        status(Event("bank", "training", 50, 0.25))
        status(Event("bank", "training", 51, 0.25))
    assert [line for line in out.getvalue().splitlines() if "round" in line] == ["Training: round 50, loss 0.25"]


def test_elsewhere_a_long_wait_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vfl.status._TICK", 0.01)
    status, out = status_on(terminal=False)
    with status:
        status(Began(1, -1))
        status(Awaited("glm_exact.residual from bank"))
        status._moment._awaited.begun -= 10
        deadline = time.monotonic() + 20
        while not out.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert out.getvalue() == "waiting for residual from bank, 10 s\n"


def test_all_watches_hear_the_same() -> None:
    heard: list[list[object]] = [[], []]
    watch = all_of(heard[0].append, heard[1].append)
    entry = Entry(1.0, "bank", "bank", "shop", "a.b", "Control", 10, 2, 1)
    for notice in (Awaited("x"), entry):
        watch(notice)
    assert heard == [[Awaited("x"), entry]] * 2
