"""How far a run is: a line per phase, with a bar and the time that is left while it trains.

On a terminal lines stand live, and columns keep their places whatever they say; what does not fit a narrow one is left
out, the loss first. Elsewhere there is a plain line for every phase that is over.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID
from rich.progress_bar import ProgressBar
from rich.table import Column
from rich.text import Text

from vfl.job import EXPECTED_ROUNDS, Job
from vfl.watch import duration

TITLES = {
    "starting": "Starting the roles",
    "aligning": "Aligning ids",
    "preparing": "Preparing columns",
    "training": "Training",
    "evaluating": "Evaluating",
    "scoring": "Scoring",
    "saving": "Saving",
    "comparing": "Comparing models",
    "reporting": "Writing the report",
}
_TITLE = max(map(len, TITLES.values()))
_SECONDS = len("59 min 9 s")
_BARS = {100: 20, 72: 10}
"""Columns of the bar from so many columns of the terminal on; below there is none."""


def moves(console: Console) -> bool:
    """Whether lines on it can change after they were written: not in files, nor on the simplest terminals."""
    forced = bool(os.environ.get("FORCE_COLOR")) and not console.file.isatty()  # for colours in a file, not for bars
    return console.is_interactive and not forced


def done_mark(console: Console) -> str:
    """What stands before what is done."""
    return "+" if console.options.ascii_only else "✓"


def averages(job: Job) -> bool:
    """Whether silos train in rounds whose number the job gives: of averaging, or of noisy gradients."""
    return job.horizontal and (job.averaging.aggregation != "fedsgd" or job.privacy.dp != "none")


def round_text(rounds: int, loss: float | None, parts: int = 0) -> str:
    """How far a training is; with ``parts`` an alignment.

    >>> round_text(3, 0.25), round_text(3, None, 25)
    ('round 3, loss 0.25', 'bucket 3 of 25')
    """
    return f"bucket {rounds:,} of {parts:,}" if parts else f"round {rounds}" + _loss_text(loss)


@dataclass(slots=True)
class Pace:
    """How fast rounds come, and so how long the others will take.

    >>> pace = Pace(begun=100.0)
    >>> pace.left(12, now=101.0) is None
    True
    >>> pace.advance(1, now=103.0)  # the first round has the set-up in it
    >>> pace.advance(3, now=105.0)
    >>> pace.left(12, now=105.0), pace.left(12, now=108.5), pace.left(3, now=106.0)
    (9.0, 5.5, None)
    """

    begun: float
    rounds: int = 0
    _at: float = 0.0
    _first: int = 0
    _first_at: float = 0.0

    def advance(self, rounds: int, now: float) -> None:
        """So many rounds are done."""
        if rounds <= self.rounds:
            return
        if not self._first:
            self._first, self._first_at = rounds, now
        self.rounds, self._at = rounds, now

    def left(self, total: int, now: float) -> float | None:
        """Seconds that the rounds still to come take; None where nobody can tell."""
        if not self.rounds or total <= self.rounds:
            return None
        if self.rounds > self._first:
            each = (self._at - self._first_at) / (self.rounds - self._first)
        elif self.rounds == 1:
            each = self._at - self.begun
        else:
            return None  # a run that went on after a crash: its first rounds were another process's
        return max(0.0, (total - self.rounds) * each - (now - self._at))


class Phases:
    """The phases of a run, a line each: bars on a terminal, elsewhere the seconds of those that are over.

    Attributes
    ----------
    bars : Progress
        To be shown on a terminal: finished phases with their seconds, the present one with round, loss and time left.
    moving : bool
        Whether ``bars`` are to be shown there; no otherwise.
    """

    def __init__(self, job: Job, console: Console, starting: str = TITLES["starting"]) -> None:
        bar = next((width for least, width in _BARS.items() if console.width >= least), 0)
        self.bars = Progress(
            _Mark(console),
            _Words(lambda task: task.description, Column(min_width=_TITLE, no_wrap=True)),
            _Words(_seconds_text, Column(min_width=_SECONDS, justify="right", no_wrap=True), style="dim"),
            *([_Bar(bar)] if bar else []),
            _Words(self._detail, Column(no_wrap=True, overflow="ellipsis")),
            console=console,
        )
        self.phase = ""
        self.moving = moves(console)
        usual = job.max_rounds if averages(job) else EXPECTED_ROUNDS.get(job.model, job.max_rounds)
        self.expected = min(usual, job.max_rounds)
        self._unit, self._of = "round", ""
        if job.model == "boosting":
            self._unit = "tree" if job.boosting.multi_output else "round"
            self._of = f" of {self.expected:,}"
        elif job.model == "splitnn" and not averages(job):
            self._unit, self._of = "epoch", f" of {self.expected:,}"
        elif averages(job):
            self._of = f" of {self.expected:,}"
        self._room = console.width - len("✓ ") - _TITLE - 1 - _SECONDS - 1 - (bar + 1 if bar else 0)
        self._console = console
        self._titles = TITLES | {"starting": starting}
        self._task: TaskID | None = None
        self.begin("starting")

    def begin(self, phase: str) -> None:
        """A phase begins."""
        self.phase = phase
        self._pace = Pace(time.monotonic())
        if self.moving:
            self._task = self.bars.add_task(self._titles[phase], total=None, pace=self._pace, loss=None, parts=0)

    def advance(self, rounds: int, loss: float | None, parts: int = 0) -> None:
        """So many rounds of the present phase are done; in a phase that is cut into so many ``parts``, parts."""
        if self._task is not None and rounds >= self._pace.rounds:
            self._pace.advance(rounds, time.monotonic())
            total = parts or max(self.expected, rounds + 1)
            self.bars.update(self._task, completed=rounds, total=total, loss=loss, parts=parts)

    def finish(self) -> None:
        """The present phase is over."""
        if self._task is not None:
            self.bars.update(self._task, total=1, completed=1)
            self.bars.stop_task(self._task)
        elif not self.moving:
            seconds = time.monotonic() - self._pace.begun
            self._console.print(f"{self._titles[self.phase]}: {seconds:.1f} s", highlight=False)

    def fail(self) -> None:
        """The present phase has ended in an error."""
        if self._task is not None:
            self.bars.update(self._task, failed=True)
            self.bars.stop_task(self._task)

    def forget(self) -> None:
        """All phases begin again."""
        for task in self.bars.task_ids:
            self.bars.remove_task(task)

    def _detail(self, task: Task) -> str:
        """Round, loss and time left of the present phase; of one that is over, its rounds."""
        pace, loss, parts = task.fields["pace"], _loss_text(task.fields["loss"]), task.fields["parts"]
        if not pace.rounds:
            return ""
        unit, of, expected = ("bucket", f" of {parts:,}", parts) if parts else (self._unit, self._of, self.expected)
        if task.finished:
            return f"{pace.rounds:,} {unit}{'s' if pace.rounds > 1 else ''}{loss}"
        left = None if task.fields.get("failed") else pace.left(expected, time.monotonic())
        rounds = f"{unit} {pace.rounds:,}{of}"
        soon = "" if left is None else f", ~{duration(max(left, 1))} left"
        said = rounds + loss + soon, rounds + soon, rounds, ""
        return next(text for text in said if len(text) <= max(self._room, 0))


class _Mark(SpinnerColumn):
    """A spinner; a tick when the phase is over, a cross when it failed."""

    def __init__(self, console: Console) -> None:
        plain = console.options.ascii_only
        super().__init__("line" if plain else "dots", finished_text=Text(done_mark(console), style="green"))
        self._failed = Text("x" if plain else "✗", style="red")

    def render(self, task: Task) -> RenderableType:
        return self._failed if task.fields.get("failed") else super().render(task)


class _Bar(BarColumn):
    """A bar where it is known how much there is to do; it does not move for nothing."""

    def render(self, task: Task) -> ProgressBar | Text:  # type: ignore[override]
        rounds = task.fields["pace"].rounds
        return super().render(task) if rounds else Text(" " * (self.bar_width or 0))


class _Words(ProgressColumn):
    """A column of plain text."""

    def __init__(self, words: Callable[[Task], str], column: Column, style: str = "") -> None:
        super().__init__(column)
        self._words, self._style = words, style

    def render(self, task: Task) -> Text:
        return Text(self._words(task), style=self._style, justify=self.get_table_column().justify)


def _seconds_text(task: Task) -> str:
    """How long a phase has lasted; to a tenth of a second when it is over."""
    seconds = (task.finished_time if task.finished else task.elapsed) or 0.0
    return f"{seconds:.1f} s" if task.finished and seconds < 60 else duration(seconds)


def _loss_text(loss: float | None) -> str:
    return "" if loss is None else f", loss {loss:.6g}"
