"""The status of one role of a job between companies, on a terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

from rich.console import Console

from parties.ledger import Entry
from vfl.display import show_summary
from vfl.events import Event
from vfl.job import Job
from vfl.report.summary import RunReport, encode_report


class Status:
    """Says phases, rounds and what the network wants to be known."""

    def __init__(self, job: Job, role: str, out: Path, console: Console, *, as_json: bool) -> None:
        self._out = out
        self._console = console
        self._as_json = as_json

    def __enter__(self) -> Status:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def event(self, event: Event) -> None:
        """A phase or a round begins."""
        self._console.print(f"{event.phase} {event.round or ''}".strip(), highlight=False)

    def waiting(self, text: str) -> None:
        """What the role waits for."""

    def network(self, text: str) -> None:
        """What the user should know about connections."""
        if text:
            self._console.print(text, highlight=False)

    def entry(self, entry: Entry) -> None:
        """A message was sent or has arrived."""

    def done(self, report: RunReport | None) -> None:
        """The run has ended well."""
        if report is None:
            self._console.print("this run had ended before", highlight=False)
            return
        if self._as_json:
            sys.stdout.buffer.write(encode_report(report))
            sys.stdout.buffer.flush()
        show_summary(report, self._out, self._console)
