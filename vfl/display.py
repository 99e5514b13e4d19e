"""What the commands show on a terminal: progress while a run goes on, tables when it is over."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vfl.audit import size_text
from vfl.events import PHASES, Event
from vfl.job import Job
from vfl.progress import TITLES, Phases, done_mark
from vfl.report.silo_words import averaging_lines
from vfl.report.summary import PartyPart, RunReport
from vfl.report.words import CHIEF, RULES, round_word

if TYPE_CHECKING:  # they import the encryption and scikit-learn, which showing an audit does not need
    from parties.budget import Left
    from parties.identity import PublicIdentity
    from psi.precheck import IdCheck
    from vfl.arithmetic import Arithmetic
    from vfl.check import Check, JoiningCheck, PartyCheck
    from vfl.check_ids import IdsCheck
    from vfl.company_file import Company

_EXPIRES_SOON = 30  # days
_ANY_WIDTH = 10_000  # columns, more than any terminal has
_CHECKED_TITLE, _CHECKED_PARTY = 26, 17  # columns of the terminal that a check's table takes, and each party in it
_MOST_IMPORTANT = 6  # columns named after a run
_FILES = {
    "report.json": "this run as one object; docs/report.md",
    "ledger.jsonl": "every message, and what it disclosed",
    "log.jsonl": "what happened when",
    "model.json": "this party's part of the model",
    "model.npz": "its arrays",
    "ids.csv": "the common rows in their order",
    "test_scores.csv": "joint scores of the test rows",
    "run.json": "what it takes to use the model later: vfl predict",
    "evidence.npz": "labels and every model's scores, for report.html",
    "report.html": "this run as a page",
}


class Display:
    """Progress of a run on one machine; the phase is that of the role furthest on.

    Saving is the active party's alone, and of those that hold labels: others are at it while these still evaluate.
    """

    def __init__(self, job: Job, console: Console, starting: str = TITLES["starting"]) -> None:
        self._phases = Phases(job, console, starting)
        self._labelled = job.labelled

    def __enter__(self) -> Display:
        if self._phases.moving:
            self._phases.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._phases.finish()
        else:
            self._phases.fail()
        if self._phases.moving:
            self._phases.bars.stop()

    def report(self, event: Event) -> None:
        """Show one event."""
        if event.phase == "saving" and event.role not in self._labelled:
            return
        if PHASES.index(event.phase) > PHASES.index(self._phases.phase):
            self._phases.finish()
            self._phases.begin(event.phase)
        if event.round and event.phase == self._phases.phase:
            self._phases.advance(event.round, event.loss, event.parts)


def show_arithmetic(arithmetic: Arithmetic, console: Console) -> None:
    """What the roles compute with, and what would be faster."""
    say(str(arithmetic), console)
    if arithmetic.hint:
        say(f"hint: {arithmetic.hint}", console)


def show_summary(summary: RunReport, out: Path, console: Console) -> None:
    """The table of a run: active party alone, joint, pooled; then warnings and where everything lies."""
    show_metrics(summary, console)
    _show_course(summary, console)
    page = out / "report.html"
    say(f"Results: {out}" + (f"  (for people: {page})" if page.is_file() else ""), console)
    say(f"Who learnt what: vfl audit {shlex.quote(str(out))}", console)


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
    labelled = [party.name for party in summary.parties if party.role == "active"]
    if role in labelled and (summary.metrics["joint"] or len(labelled) == 1):
        return
    rows = summary.rows
    table = _titled(f"{summary.name}: {role}")
    table.show_header = False
    table.add_column("")
    table.add_column("", justify="right")
    if own is not None:
        table.add_row("rows of the CSV", f"{own.rows:,}")
        table.add_row("columns used", f"{own.features:,}")
    common = [] if _horizontal(summary) else [("common rows", summary.alignment.intersection)]
    for title, number in (
        *common,
        ("training rows", rows["train"]),
        ("test rows", rows["test"]),
    ):
        table.add_row(title, "not told" if number is None else f"{number:,}")
    table.add_row("rounds", f"{summary.training.rounds:,}")
    console.print(table)
    if rows["test"] and role not in labelled:
        those = f"the active party, {labelled[0]}" if len(labelled) == 1 else ", ".join(labelled)
        say(f"Metrics and test scores are with {those}.", console)


def _titled(title: str) -> Table:
    """A table that is as wide as its title at least."""
    return Table(title=escape(title), min_width=len(title) + 2)


def show_metrics(summary: RunReport, console: Console, title: str = "") -> None:
    """The table of metrics, where there are any; the title says by default how many test rows they are of.

    The joint model's intervals are left out where the terminal is too narrow for them.
    """
    if not summary.metrics["joint"]:
        return
    title = title or f"{summary.name}: {summary.rows['test']:,} test rows"
    table = _metrics_table(summary, title, intervals=bool(summary.confidence.get("joint")))
    unbounded = console.options.update(max_width=_ANY_WIDTH)
    if console.measure(table, options=unbounded).maximum > console.width:
        table = _metrics_table(summary, title, intervals=False)
    console.print(table)


def _metrics_table(summary: RunReport, title: str, *, intervals: bool) -> Table:
    sure = summary.confidence.get("joint", {})
    columns = [name for name in ("active_only", "joint", "pooled") if name in summary.metrics]
    several = sum(party.role == "active" for party in summary.parties) > 1
    alone = "label holder alone" if several else "active party alone"
    titles = {"active_only": alone, "joint": "joint", "pooled": "pooled"}
    table = _titled(title)
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(titles[name], justify="right", style="bold" if name == "joint" else "")
        if name == "joint" and intervals:
            table.add_column("95 % interval", justify="right", style="dim", no_wrap=True)
    for metric in summary.metrics["joint"]:
        cells = {name: [_figure(summary.metrics[name].get(metric))] for name in columns}
        if intervals:
            cells["joint"].append(" to ".join(map(_figure, sure.get(metric, ()))))
        table.add_row(metric, *(cell for name in columns for cell in cells[name]))
    return table


def _show_course(summary: RunReport, console: Console) -> None:
    """How the run went, and what it warned of."""
    training, averaged = summary.training, summary.training.aggregation
    holder = "active party" if training.key_holder == "active" else "coordinator"
    key = "no key" if training.mode == "split" or training.key_holder is None else f"key at the {holder}"
    in_rounds = averaged is not None and (averaged.rule != "fedsgd" or averaged.dp is not None)
    word = round_word(summary.model, rounds=in_rounds or summary.model == "boosting")
    rounds = f"1 {word}" if training.rounds == 1 else f"{training.rounds:,} {word}s"
    ended = "" if training.converged or in_rounds else " (not converged)"
    common = summary.alignment.intersection
    start = "of " if common is None else f"{common:,} common rows of "
    tell(
        (start if averaged is None else f"{RULES[averaged.rule][0]} of rows of ")
        + ", ".join(f"{party.name}{_rows(summary, party)}" for party in summary.parties)
        + f"; {rounds}{ended}, {key}; "
        f"{summary.seconds['total']:.1f} s in all, {summary.seconds['training']:.1f} s training, "
        f"{size_text(summary.training.bytes + summary.alignment.bytes)} sent",
        console,
    )
    for line in (*_silo_lines(summary), *([] if averaged is None else averaging_lines(averaged))):
        tell(line, console)
    if summary.feature_importance:
        tell(_importance_line(summary), console)
    for line in summary.warnings:
        warn(line, console)


def _horizontal(summary: RunReport) -> bool:
    return summary.training.aggregation is not None


def _silo_lines(summary: RunReport) -> list[str]:
    """The chief figure of each silo: of the joint model on its own test rows, and of its own model."""
    metric = CHIEF[summary.task]
    kinds = {f"{metric} of the joint model on each silo's test rows": summary.by_silo}
    kinds |= {f"{metric} of each silo's own model on all test rows": summary.alone}
    lines = {
        title: ", ".join(f"{name} {_figure(figures.get(metric))}" for name, figures in silos.items())
        for title, silos in kinds.items()
    }
    return [f"{title}: {cells}" for title, cells in lines.items() if cells]


def _rows(summary: RunReport, party: PartyPart) -> str:
    """Rows of a party's CSV, or the ids that it brought, where no more is known of it; maybe not even that."""
    rows = summary.alignment.rows.get(party.name) if party.rows is None else party.rows
    return "" if rows is None else f" {rows:,}"


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
    say(check.found, console)
    for line in check.hints:
        say(f"hint: {line}", console)
    if check.enough:
        console.print(f"[green]{done_mark(console)}[/] ready to run", highlight=False)


def show_joining(check: JoiningCheck, console: Console) -> None:
    """What one party would bring to a job between companies."""
    job = check.joining.company.job
    _show_parties([check.party], job, console)
    for line in check.warnings:
        warn(line, console)
    least = job.alignment.min_intersection
    if not job.horizontal:
        say(f"alignment.min_intersection is {least:,}; how many rows are common shows when all meet", console)
    for budget in check.budgets:
        say(_budget_line(budget), console)
    console.print(f"[green]{done_mark(console)}[/] ready to join", highlight=False)


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
    ids: dict[str, Callable[[PartyCheck], str]] = {
        "valid ids": lambda party: f"{party.valid_ids:,}",
        "rows without an id": lambda party: f"{party.blank_ids:,}",
        "rows with a repeated id": lambda party: f"{party.repeated_ids:,}",
    }
    rows: dict[str, Callable[[PartyCheck], str]] = {
        "role": lambda party: party.role,
        "rows": lambda party: f"{party.rows:,}",
        **({} if job.horizontal else ids),
        "numeric columns": lambda party: str(party.numeric),
        "categorical columns": lambda party: str(party.categorical),
        "columns after encoding": lambda party: str(party.encoded),
        "label": lambda party: party.label,
    }
    per = max(2, (console.width - _CHECKED_TITLE) // _CHECKED_PARTY)
    for first in range(0, len(parties), per):
        shown = parties[first : first + per]
        table = Table(title=escape(f"{job.name}: {job.model}, {job.task}") if not first else None)
        table.add_column("")
        for party in shown:
            table.add_column(escape(party.name.replace(".", ".\n")), justify="right", overflow="fold")
        for title, cell in rows.items():
            table.add_row(title, *(cell(party) for party in shown))
        console.print(table)
    for party in parties if not job.horizontal else ():
        show_ids(party.name, party.ids, console)
    for party in parties:
        for line in party.warnings:
            warn(f"{party.name}: {line}", console)


def show_ids_check(check: IdsCheck, console: Console) -> None:
    """Ids of all parties at hand, and how many they have in common."""
    for party in check.parties:
        show_ids(party.name, party.seen, console)
        left_out = party.ids.total - len(party.ids.ids)
        say(f"{party.name}: {len(party.ids.ids):,} valid ids, {left_out:,} rows left out", console)
    for line in check.hints:
        say(f"hint: {line}", console)
    least = check.job.alignment.min_intersection
    if check.common is None:
        say(f"alignment.min_intersection is {least:,}; how many ids are common shows when all meet", console)
    else:
        say(f"{check.common:,} common ids, alignment.min_intersection is {least:,}", console)
    if check.common is None or check.common >= least:
        console.print(f"[green]{done_mark(console)}[/] ready to align", highlight=False)


def show_ids(party: str, ids: IdCheck, console: Console) -> None:
    """What happened to a party's ids, and what looks like damage to them."""
    tell(f"{party}: {ids.told}", console)
    for line in ids.warnings:
        warn(f"{party}: {line}", console)


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


def tell(line: str, console: Console) -> None:
    """One sentence; on a terminal it breaks between words."""
    console.print(escape(line), highlight=False, soft_wrap=not console.is_terminal)


def warn(line: str, console: Console) -> None:
    """One warning; on a terminal it breaks between words."""
    console.print(f"[yellow]warning:[/] {escape(line)}", highlight=False, soft_wrap=not console.is_terminal)


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.2f}"
