"""How fits look in Python: bars on a terminal, lines elsewhere, and in a notebook a small table that fills up."""

from __future__ import annotations

import html
import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vfl.display import Display
from vfl.events import PHASES, Event, Report
from vfl.job import Job
from vfl.progress import round_text

if TYPE_CHECKING:
    import pandas as pd

_REFRESH_SECONDS = 0.2
_PAGE_HEIGHT = 900  # pixels of the frame that shows a page in a notebook


def in_notebook() -> bool:
    """Whether output goes to a notebook's cell."""
    return Console().is_jupyter


@contextmanager
def watch(job: Job, *, progress: bool, doing: str = "Starting the roles") -> Iterator[Report]:
    """What is told of the events of one run: shown, or not.

    Parameters
    ----------
    progress : bool
        Show the phases: in a notebook's cell, else on standard error.
    """
    if not progress:
        yield silent
    elif in_notebook():
        with _Cell(doing, len(PHASES)) as cell:
            yield cell.report
    else:
        with Display(job, Console(stderr=True), starting=doing) as display:
            yield display.report


@dataclass
class Course:
    """Several trainings one after the other, and how far they are.

    Use it as a context manager; `step` is one of them.
    """

    total: int
    progress: bool
    _done: int = field(default=0, init=False)
    _cell: _Cell | None = field(default=None, init=False)
    _bars: Progress | None = field(default=None, init=False)
    _console: Console = field(default_factory=lambda: Console(stderr=True), init=False)

    def __enter__(self) -> Course:
        if self.progress and in_notebook():
            self._cell = _Cell("Trainings", self.total).__enter__()
        elif self.progress and self._console.is_terminal:
            self._bars = Progress(
                SpinnerColumn(finished_text="[green]✓[/]"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),  # last, for its width changes all the time
                console=self._console,
            )
            self._bars.start()
            self._bars.add_task("", total=self.total)
        return self

    def __exit__(self, *error: object) -> None:
        if self._cell is not None:
            self._cell.__exit__(*error)
        if self._bars is not None:
            self._bars.stop()

    @contextmanager
    def step(self, title: str, *, counts: bool = True) -> Iterator[Report]:
        """One step, by its title; yields what is told of its events. The trainings are the steps that count."""
        since = time.monotonic()
        self._show(title)

        def report(event: Event) -> None:
            if event.phase != "aligning":  # that has been done before, or is the step itself
                self._show(f"{title}: {_words(event)}")

        yield report
        self._done += counts
        self._show(title)
        if self.progress and self._cell is None and self._bars is None:
            self._console.print(f"{title}: {time.monotonic() - since:.1f} s", highlight=False)

    def _show(self, text: str) -> None:
        if self._cell is not None:
            self._cell.show(text, self._done)
        if self._bars is not None:
            self._bars.update(self._bars.task_ids[0], description=text, completed=self._done)


class _Cell:
    """One line with a bar in a notebook's cell, written anew as it goes on; it needs no widgets."""

    def __init__(self, text: str, total: int) -> None:
        self._text, self._done, self._total = text, 0, total
        self._since, self._shown = time.monotonic(), 0.0
        self._handle: Any = None

    def __enter__(self) -> _Cell:
        self._handle = _display(self._html(), display_id=True)
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            self._text, self._done = "Done", self._total
        self._write()

    def report(self, event: Event) -> None:
        """Show one event of a run."""
        self.show(_words(event), max(self._done, PHASES.index(event.phase)))

    def show(self, text: str, done: int) -> None:
        """Say what is being done, and how much is over."""
        moved, self._text, self._done = done != self._done, text, done
        if moved or time.monotonic() - self._shown > _REFRESH_SECONDS:
            self._write()

    def _write(self) -> None:
        self._shown = time.monotonic()
        if self._handle is not None:
            self._handle.update(_as_html(self._html()))

    def _html(self) -> str:
        seconds = time.monotonic() - self._since
        bar = f'<progress value="{self._done}" max="{self._total}"></progress>'
        return f"<div>{bar} {html.escape(self._text)} <small>{seconds:.1f} s</small></div>"


def show_page(path: Path) -> Path | None:
    """Show a page: inside a notebook's cell, else in the browser, and then say where it lies."""
    if in_notebook():
        page = html.escape(path.read_text("utf-8"))
        frame = f'<iframe srcdoc="{page}" style="width:100%;height:{_PAGE_HEIGHT}px;border:0"></iframe>'
        _display(f"<div>{frame}</div>")  # IPython takes a text that begins with a frame for a mistake
        return None
    import webbrowser

    webbrowser.open(path.absolute().as_uri())
    return path


def table_html(title: str, frame: pd.DataFrame) -> str:
    """A small table for a notebook, figures to four places."""
    cells = frame.to_html(float_format=lambda value: f"{value:,.4f}", na_rep="-", border=0)
    return f"<div><b>{html.escape(title)}</b>{cells}</div>"


def silent(event: Event) -> None:
    """Show nothing."""


def _words(event: Event) -> str:
    """What a role is doing, for one line."""
    phase = event.phase.capitalize()
    return f"{phase}, {round_text(event.round, event.loss, event.parts)}" if event.round else phase


def _display(text: str, **options: Any) -> Any:
    return _ipython().display(_as_html(text), **options)


def _as_html(text: str) -> Any:
    return _ipython().HTML(text)


def _ipython() -> Any:
    """There is one where a notebook is; no dependency of ours."""
    return importlib.import_module("IPython.display")
