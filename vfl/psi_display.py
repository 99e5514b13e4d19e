"""What ``vfl psi`` shows when it is done."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vfl.audit import size_text
from vfl.display import say, tell, warn
from vfl.psi_report import PsiParty, PsiReport

_UNKNOWN = "-"


def show_psi(report: PsiReport, console: Console, *, out: Path) -> None:
    """Every party's numbers, how it went, and where everything lies: in ``out``."""
    console.print(_table(report))
    told = report.alignment.intersection
    common = "" if told is None else f"{told:,} common {'id' if told == 1 else 'ids'}; "
    padded = "" if report.alignment.pad_to is None else f"lists padded to {report.alignment.pad_to:,} ids, "
    tell(
        f"{common}{report.alignment.protocol}, {padded}{report.seconds['total']:.1f} s in all, "
        f"{report.alignment.seconds:.1f} s aligning, {size_text(report.alignment.bytes)} sent",
        console,
    )
    for line in report.warnings:
        warn(line, console)
    if report.files:
        silos = any(party.common != report.alignment.intersection for party in report.parties)
        same = ", each silo's own, in one order" if silos else ", line by line the same people at every party"
        same = "" if report.alignment.one_sided else same
        say(f"Aligned rows{same}:", console)
    for file in report.files.values():
        say(f"  {out / file}", console)
    if lacking := _lacking(report):
        tell(lacking, console)
    say(f"Who learnt what: vfl audit {shlex.quote(str(out))}", console)


def _table(report: PsiReport) -> Table:
    """A line per party; a dash where whoever shows this is not to know."""
    title, known = f"{report.name}: alignment", [party for party in report.parties if party.rows is not None]
    table = Table(title=escape(title), min_width=len(title) + 2)
    table.add_column("")
    for heading in ("rows", "ids", "common", "share of ids"):
        table.add_column(heading, justify="right")
    left_out = any(party.missing or party.duplicates for party in known)
    if left_out:
        table.add_column("rows without an id", justify="right")
        table.add_column("rows with a repeated id", justify="right")
    for party in report.parties:
        ids, common = _ids(report, party), party.common
        share = _UNKNOWN if common is None or ids is None else f"{common / ids:.1%}"
        more = [_figure(party.missing), _figure(party.duplicates)] if left_out else []
        table.add_row(escape(party.name), _figure(party.rows), _figure(ids), _figure(common), share, *more)
    return table


def _ids(report: PsiReport, party: PsiParty) -> int | None:
    """Its valid ids; None where the length of its list says nothing of them."""
    hidden = party.rows is None and report.alignment.pad_to is not None
    return None if hidden else report.alignment.rows[party.name]


def _lacking(report: PsiReport) -> str:
    """Why a party has no aligned rows; empty where all have them."""
    if report.purpose == "psi cardinality":
        return "Nobody has learnt which ids are common; no rows were written."
    if report.alignment.one_sided:
        active = next(party.name for party in report.parties if party.role == "active")
        other = next(party.name for party in report.parties if party.role != "active")
        secret = f"{other} learns neither which of its ids are common nor how many"
        return f"One-sided: {active} alone has aligned rows; {secret}."
    return ""


def _figure(number: int | None) -> str:
    return _UNKNOWN if number is None else f"{number:,}"
