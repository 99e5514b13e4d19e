"""What ``vfl predict`` and ``vfl evaluate`` show when they are done."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vfl.display import say, show_metrics, warn

if TYPE_CHECKING:
    from vfl.report.prediction import PredictionReport
    from vfl.report.summary import RunReport


def show_prediction(
    report: PredictionReport, out: Path | None, unscored: Path | None, folder: Path, console: Console
) -> None:
    """How many rows were scored and how, and where everything lies.

    Parameters
    ----------
    out : Path or None
        The scores; None at a passive party.
    unscored : Path or None
        Ids without a score, if there are any.
    folder : Path
        Ledger and summary of the prediction.
    """
    table = Table(title=escape(f"{report.name}: prediction"), min_width=len(report.name) + 14, show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    for name, rows in report.rows.items():
        table.add_row(f"ids of {escape(name)}", f"{rows:,}")
    table.add_row("scored jointly", "not told" if report.scored is None else f"{report.scored:,}")
    if report.alone:
        table.add_row("scored on own columns alone", f"{report.alone:,}")
    if report.unscored is not None:
        table.add_row("without a score", f"{report.unscored:,}")
    for name, rows in report.classes.items():
        table.add_row(f"class {escape(name)}", f"{rows:,}")
    for name, value in (report.score or {}).items():
        of = f", P({escape(report.score_of)})" if report.score_of else ""
        table.add_row(f"{name} score{of}", f"{value:.4g}")
    console.print(table)
    for line in report.warnings:
        warn(line, console)
    if out is None:
        say("The scores are with the active party.", console)
    else:
        say(f"Scores: {out}", console)
    if unscored is not None:
        say(f"Rows without a score, by id: {unscored}", console)
    say(f"Who learnt what: vfl audit {shlex.quote(str(folder))}", console)


def show_evaluation(report: RunReport, unmatched: int, folder: Path, console: Console) -> None:
    """The joint metrics on the new rows, and where everything lies.

    Parameters
    ----------
    unmatched : int
        Rows of the active party that another party lacks.
    """
    show_metrics(report, console, f"{report.name}: {report.rows['test']:,} new rows")
    if unmatched:
        say(f"{unmatched:,} rows of the active party are not judged: another party lacks their ids.", console)
    for line in report.warnings:
        warn(line, console)
    say(f"Results: {folder}  (who learnt what: vfl audit {shlex.quote(str(folder))})", console)
