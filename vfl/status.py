"""What the terminal of one role shows while a job between companies goes on, and when it is over.

On a terminal the phases stand live, with one status line below them that says what the role waits for. Elsewhere, as
under systemd, there is a plain line per phase, a round now and then, and a line for a wait that lasts.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from parties.errors import ConfigError
from vfl.display import say, warn
from vfl.events import Event
from vfl.job import Job
from vfl.progress import TITLES, Phases, round_text
from vfl.watch import Began, Kept, Moment, Network, Notice, Standstill, Warned

REPORT = "report.json"
SHOWN_AFTER = 1.0  # seconds of waiting
ROUNDS_EVERY = 10.0  # seconds between two plain lines
_TICK = 0.5
_ECHO = 4  # columns that are left for "^C", which would wrap the line
_LINES_AT = (10.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0)  # seconds of waiting; then every hour
_HOUR = 3600.0


class Status:
    """The terminal of one role, a `vfl.watch.Watch` within its context.

    Parameters
    ----------
    out : Path
        The run's folder.
    as_json : bool
        The report goes to standard output, and nothing else does: ``console`` is on standard error.
    """

    def __init__(self, job: Job, out: Path, console: Console, *, as_json: bool = False) -> None:
        self._out = out
        self._console = console
        self._as_json = as_json
        self._phases = Phases(job, console, starting="Meeting the others")
        self._moment = Moment()
        self._plain = not self._phases.moving
        self._met = False
        self._told = False  # rounds, by the training itself
        self._said = time.monotonic()
        self._over = threading.Event()
        self._order = threading.RLock()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=5)
        self._ticker = threading.Thread(target=self._tick, name="status", daemon=True)

    def __enter__(self) -> Status:
        if self._plain:
            self._ticker.start()
        else:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def __call__(self, notice: Notice) -> None:
        """Show one notice."""
        self._moment(notice)
        with self._order:
            match notice:
                case Event():
                    self._follow(notice)
                case Kept(rounds) if rounds and not self._told:
                    self._advance(rounds, None)  # who learns no loss counts rounds by their checkpoints
                case Began():
                    self._begin_again(notice)
                case Network(text) if "; " in text:
                    self._say(text)
                case Warned(text):
                    warn(text, self._console)

    def finish(self) -> None:
        """All that was to be done is done."""
        with self._order:
            self._phases.finish()
            self._stop()

    def done(self, report: bytes, show: Callable[[], None]) -> None:
        """The run has ended well: its report as JSON, and what says on the terminal what came of it."""
        with self._order:
            self._phases.finish()
            self._stop()
        if self._as_json:
            _hand_out(report)
        show()

    def ended_before(self) -> None:
        """The run had ended well before this process."""
        with self._order:
            self._stop()
        if self._as_json:
            _hand_out(_old_report(self._out))
        self._say(f"This run has ended already. Results: {self._out}")

    def _stop(self) -> None:
        """Show nothing any more that moves."""
        self._over.set()
        if self._plain:
            self._ticker.join()
        else:
            self._live.stop()

    def _follow(self, event: Event) -> None:
        """Show a phase or a round."""
        if event.phase != self._phases.phase:
            self._phases.finish()
            self._phases.begin(event.phase)
            self._said = time.monotonic()
        if event.parts:
            self._phases.advance(event.round, None, event.parts)
            if self._plain and time.monotonic() - self._said >= ROUNDS_EVERY:
                self._said = time.monotonic()
                self._say(f"{TITLES[event.phase]}: {round_text(event.round, None, event.parts)}")
        elif event.round:
            self._told = True
            self._advance(event.round, event.loss)

    def _advance(self, rounds: int, loss: float | None) -> None:
        """Show so many rounds."""
        if self._phases.phase != "training":
            return
        self._phases.advance(rounds, loss)
        if self._plain and time.monotonic() - self._said >= ROUNDS_EVERY:
            self._said = time.monotonic()
            self._say(f"Training: {round_text(rounds, loss)}")

    def _begin_again(self, began: Began) -> None:
        """Show that all are there, and where they go on from."""
        first, self._met = not self._met, True
        if not first:
            self._phases.forget()
            self._phases.begin("starting")
        if not first or began.rounds >= 0 or began.buckets:
            self._say(f"{'All are there' if first else 'All are back'}; the run {_where(began)}")

    def _render(self) -> RenderableType:
        """What stands on a terminal at the moment."""
        if self._over.is_set():
            return self._phases.bars
        standstill = self._moment.standstill()
        shown = str(standstill) if standstill and standstill.seconds >= SHOWN_AFTER else "working"
        line = Text(f"  {shown}", style="dim", no_wrap=True)
        line.truncate(max(self._console.width - _ECHO, 10), overflow="ellipsis")
        return Group(self._phases.bars, line)

    def _tick(self) -> None:
        """Say what is waited for where that lasts."""
        waits = Waits()
        while not self._over.wait(_TICK):
            standstill = self._moment.standstill()
            if waits.due(standstill):
                self._say(str(standstill))

    def _say(self, line: str) -> None:
        say(line, self._console)


class Waits:
    """When a wait has lasted so long that another line about it is due."""

    def __init__(self) -> None:
        self._text = ""
        self._seconds = 0.0
        self._said = 0

    def due(self, standstill: Standstill | None) -> bool:
        """Whether a line is due now; to be asked again and again."""
        text, seconds = (standstill.text, standstill.seconds) if standstill else ("", 0.0)
        if text != self._text or seconds < self._seconds:
            self._said = 0
        self._text, self._seconds = text, seconds
        lines = sum(seconds >= at for at in _LINES_AT) + int(seconds // _HOUR)
        due, self._said = lines > self._said, lines
        return due


def _where(began: Began) -> str:
    """Where a run goes on."""
    if began.rounds < 0 and began.buckets:
        return f"goes on within the alignment; {began.buckets:,} of its buckets are kept here"
    if began.rounds < 0:
        return "begins anew, for it had no checkpoint that all have"
    return f"goes on after round {began.rounds}" if began.rounds else "goes on after the alignment"


def _hand_out(report: bytes) -> None:
    sys.stdout.buffer.write(report)
    sys.stdout.buffer.flush()


def _old_report(out: Path) -> bytes:
    """The report of a run that had ended before."""
    try:
        return (out / REPORT).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"--out {out}: its run has ended, but {REPORT} cannot be read ({error.strerror}); restore it, or run anew "
            "in another directory"
        ) from None
