"""What the commands show on a terminal: progress while a run goes on, tables when it is over."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from vfl.audit import size_text
from vfl.events import PHASES, Event
from vfl.job import EXPECTED_ROUNDS, Job
from vfl.report.summary import PartyPart, RunReport

if TYPE_CHECKING:  # they import the encryption and scikit-learn, which showing an audit does not need
    from parties.budget import Left
    from parties.identity import PublicIdentity
    from vfl.arithmetic import Arithmetic
    from vfl.check import Check, JoiningCheck, PartyCheck
    from vfl.company_file import Company

_EXPIRES_SOON = 30  # days
_MOST_IMPORTANT = 6  # columns named after a run
_TITLES = {
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
_FILES = {
    "report.json": "this run as one object; docs/report.md",
    "ledger.jsonl": "every message, and what it disclosed",
    "log.jsonl": "what happened when",
    "model.json": "this party's part of the model",
    "model.npz": "its arrays",
    "ids.csv": "the common rows in their order",
    "test_scores.csv": "joint scores of the test rows",
}


class Phases:
    """The phases of a run, a line each: bars on a terminal, elsewhere the seconds of those that are over.

    Attributes
    ----------
    bars : Progress
        To be shown on a terminal: finished phases with their seconds, the present one with round, loss and time left.
    """

    def __init__(self, job: Job, console: Console, starting: str = _TITLES["starting"]) -> None:
        self.bars = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self.phase = ""
        self.expected = min(EXPECTED_ROUNDS.get(job.model, job.max_rounds), job.max_rounds)
        self._console = console
        self._titles = _TITLES | {"starting": starting}
        self._task: TaskID | None = None
        self.begin("starting")

    def begin(self, phase: str) -> None:
        """A phase begins."""
        self.phase, self._since = phase, time.monotonic()
        if self._console.is_terminal:
            self._task = self.bars.add_task(self._titles[phase], total=None, detail="")

    def advance(self, rounds: int, loss: float | None) -> None:
        """So many rounds of the present phase are done."""
        if self._task is not None:
            detail = round_text(rounds, loss)
            self.bars.update(self._task, completed=rounds, total=max(self.expected, rounds + 1), detail=detail)

    def finish(self) -> None:
        """The present phase is over."""
        if self._task is not None:
            self.bars.update(self._task, total=1, completed=1)
            self.bars.stop_task(self._task)
        else:
            seconds = time.monotonic() - self._since
            self._console.print(f"{self._titles[self.phase]}: {seconds:.1f} s", highlight=False)

    def forget(self) -> None:
        """All phases begin again."""
        for task in self.bars.task_ids:
            self.bars.remove_task(task)


def round_text(rounds: int, loss: float | None) -> str:
    """How far a training is."""
    return f"round {rounds}" + ("" if loss is None else f", loss {loss:.6g}")


class Display:
    """Progress of a run on one machine; the phase is that of the role furthest on."""

    def __init__(self, job: Job, console: Console, starting: str = _TITLES["starting"]) -> None:
        self._phases = Phases(job, console, starting)
        self._live = console.is_terminal

    def __enter__(self) -> Display:
        if self._live:
            self._phases.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._phases.finish()
        if self._live:
            self._phases.bars.stop()

    def report(self, event: Event) -> None:
        """Show one event."""
        if PHASES.index(event.phase) > PHASES.index(self._phases.phase):
            self._phases.finish()
            self._phases.begin(event.phase)
        if event.round and event.phase == self._phases.phase:
            self._phases.advance(event.round, event.loss)


def show_arithmetic(arithmetic: Arithmetic, console: Console) -> None:
    """What the roles compute with, and what would be faster."""
    say(str(arithmetic), console)
    if arithmetic.hint:
        say(f"hint: {arithmetic.hint}", console)


def show_summary(summary: RunReport, out: Path, console: Console) -> None:
    """The table of a run: active party alone, joint, pooled; then warnings and where everything lies."""
    show_metrics(summary, console)
    _show_course(summary, console)
    say(f"Results: {out}  (who learnt what: vfl audit {out})", console)


def show_own_summary(summary: RunReport, role: str, out: Path, console: Console) -> None:
    """The same of a run between companies, as far as one role knows it."""
    show_metrics(summary, console)
    _show_own_part(summary, role, console)
    _show_course(summary, console)
    for path in sorted(
        path for path in out.rglob("*") if path.is_file() and not path.relative_to(out).parts[0][0] == "."
    ):
        say(f"  {path}  {_FILES.get(path.name, '')}".rstrip(), console)
    say(f"Who learnt what: vfl audit {shlex.quote(str(out))}", console)


def _show_own_part(summary: RunReport, role: str, console: Console) -> None:
    """What a role without metrics has to say."""
    own = next((party for party in summary.parties if party.name == role), None)
    active = next(party.name for party in summary.parties if party.role == "active")
    if role == active:
        return
    rows = summary.rows
    table = _titled(f"{summary.name}: {role}")
    table.add_column("")
    table.add_column("", justify="right")
    if own is not None:
        table.add_row("rows of the CSV", f"{own.rows:,}")
        table.add_row("columns used", f"{own.features:,}")
    table.add_row("common rows", f"{summary.alignment.intersection:,}")
    table.add_row("training rows", f"{rows['train']:,}")
    table.add_row("test rows", f"{rows['test']:,}")
    table.add_row("rounds", f"{summary.training.rounds:,}")
    console.print(table)
    if rows["test"]:
        say(f"Metrics and test scores are with the active party, {active}.", console)


def _titled(title: str) -> Table:
    """A table that is as wide as its title at least."""
    return Table(title=escape(title), min_width=len(title) + 2)


def show_metrics(summary: RunReport, console: Console, title: str = "") -> None:
    """The table of metrics, where there are any; the title says by default how many test rows they are of."""
    intervals = summary.confidence.get("joint", {})
    columns = [name for name in ("active_only", "joint", "pooled") if name in summary.metrics]
    titles = {"active_only": "active party alone", "joint": "joint", "pooled": "pooled"}
    table = _titled(title or f"{summary.name}: {summary.rows['test']:,} test rows")
    table.add_column("")
    for name in columns:
        table.add_column(titles[name], justify="right", style="bold" if name == "joint" else "")
        if name == "joint" and intervals:
            table.add_column("95 % interval", justify="right", style="dim")
    for metric in summary.metrics["joint"]:
        cells = {name: [_figure(summary.metrics[name].get(metric))] for name in columns}
        if intervals:
            cells["joint"].append(" to ".join(map(_figure, intervals.get(metric, ()))))
        table.add_row(metric, *(cell for name in columns for cell in cells[name]))
    if summary.metrics["joint"]:
        console.print(table)


def _show_course(summary: RunReport, console: Console) -> None:
    """How the run went, and what it warned of."""
    training = summary.training
    holder = "active party" if training.key_holder == "active" else "coordinator"
    say(
        f"{summary.alignment.intersection:,} common rows of "
        + ", ".join(f"{party.name} {_rows(summary, party):,}" for party in summary.parties)
        + f"; {training.rounds} rounds{'' if training.converged else ' (not converged)'}, key at the {holder}; "
        f"{summary.seconds['total']:.1f} s in all, {summary.seconds['training']:.1f} s training, "
        f"{size_text(summary.training.bytes + summary.alignment.bytes)} sent",
        console,
    )
    if summary.feature_importance:
        say(_importance_line(summary), console)
    for line in summary.warnings:
        warn(line, console)


def _rows(summary: RunReport, party: PartyPart) -> int:
    """Rows of a party's CSV, or the ids that it brought, where no more is known of it."""
    return summary.alignment.rows[party.name] if party.rows is None else party.rows


def _importance_line(summary: RunReport) -> str:
    """The columns of largest gain, in shares of all."""
    total = sum(line.gain for line in summary.feature_importance) or 1.0
    first = [line for line in summary.feature_importance if line.gain > 0][:_MOST_IMPORTANT]
    shares = ", ".join(f"{line.party}/{line.feature} {line.gain / total:.0%}" for line in first)
    return f"Gain by column: {shares or 'no split was worth it'}"


def show_check(check: Check, console: Console) -> None:
    """What every party would bring, and how many rows they have in common."""
    _show_parties(check.parties, check.job, console)
    for line in check.warnings:
        warn(line, console)
    limit = check.job.alignment.min_intersection
    say(f"{check.common:,} common rows, alignment.min_intersection is {limit:,}", console)
    if check.enough:
        console.print("[green]✓[/] ready to run", highlight=False)


def show_joining(check: JoiningCheck, console: Console) -> None:
    """What one party would bring to a job between companies."""
    _show_parties([check.party], check.joining.company.job, console)
    for line in check.warnings:
        warn(line, console)
    least = check.joining.company.job.alignment.min_intersection
    say(f"alignment.min_intersection is {least:,}; how many rows are common shows when all meet", console)
    for budget in check.budgets:
        say(_budget_line(budget), console)
    console.print("[green]✓[/] ready to join", highlight=False)


def _budget_line(budget: Left) -> str:
    """What runs on one alignment have spent, and what is left of it."""
    left = "" if budget.equations_left is None else f", {budget.equations_left:,} left"
    rows = "" if budget.rows_left is None else f", {budget.rows_left:,} left"
    return (
        f"Spent by {budget.runs:,} {'run' if budget.runs == 1 else 'runs'} on alignment {budget.alignment[:8]}: "
        f"{budget.equations:,} opened scores per row{left}; {budget.rows:,} rows scored{rows}"
    )


def _show_parties(parties: Sequence[PartyCheck], job: Job, console: Console) -> None:
    """Counts of parties side by side, then their warnings."""
    table = Table(title=f"{job.name}: {job.model}, {job.task}")
    table.add_column("")
    for party in parties:
        table.add_column(escape(party.name), justify="right")
    rows: dict[str, Callable[[PartyCheck], str]] = {
        "role": lambda party: party.role,
        "rows": lambda party: f"{party.rows:,}",
        "valid ids": lambda party: f"{party.valid_ids:,}",
        "rows without an id": lambda party: f"{party.blank_ids:,}",
        "rows with a repeated id": lambda party: f"{party.repeated_ids:,}",
        "numeric columns": lambda party: str(party.numeric),
        "categorical columns": lambda party: str(party.categorical),
        "columns after encoding": lambda party: str(party.encoded),
        "label": lambda party: party.label,
    }
    for title, cell in rows.items():
        table.add_row(title, *(cell(party) for party in parties))
    console.print(table)
    for party in parties:
        for line in party.warnings:
            warn(f"{party.name}: {line}", console)


def show_company(company: Company, console: Console) -> None:
    """A job between companies: its lines, everybody's fingerprint, and one over all, to compare by phone."""
    lines = {key: value for key, value in company.lines.items() if "identity" not in key.split(".")}
    say(f"{company.job.name}, coordinator at {company.address}", console)
    for key, value in lines.items():
        say(f"  {key} = {value}", console)
    soon = datetime.now(UTC) + timedelta(days=_EXPIRES_SOON)
    for name, identity in company.pinned.items():
        say(f"{name}: {identity.fingerprint}, valid until {identity.expires:%Y-%m-%d}", console)
        if identity.expires < soon:
            warn(f"the certificate of '{name}' expires within {_EXPIRES_SOON} days; make a new identity", console)
    say(f"the job and all identities: {company.fingerprint}", console)
    say("Everybody must see the same; compare the fingerprints by phone before the first run.", console)


def show_meeting(company: Company, doing: str, console: Console) -> None:
    """What a role is about to do, and the one text by which all can tell that they mean the same."""
    say(f"{company.job.name}: {doing}", console)
    say(f"the job and all identities: {company.fingerprint}, as everybody must see it", console)


def show_identity(identity: PublicIdentity, private: Path, public: Path, console: Console) -> None:
    """Where the two files of a new identity lie, and what to do with each."""
    say(f"{private}  private: keep it where '{identity.name}' runs; never share it", console)
    say(f"{public}  to share: send it to everybody in the job, who compare its fingerprint with you by phone", console)
    say(f"fingerprint {identity.fingerprint}, valid until {identity.expires:%Y-%m-%d}", console)


def say(line: str, console: Console) -> None:
    """One line as it stands, however long."""
    console.print(escape(line), highlight=False, soft_wrap=True)


def warn(line: str, console: Console) -> None:
    """One warning."""
    console.print(f"[yellow]warning:[/] {escape(line)}", highlight=False, soft_wrap=True)


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.2f}"
