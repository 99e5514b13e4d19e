"""``vfl report``: the page that people read."""

from __future__ import annotations

import typer

from vfl.commands.app import LOOK, RunDirectory, app


@app.command(rich_help_panel=LOOK, epilog="Example: vfl report runs/first")
def report(directory: RunDirectory) -> None:
    """Write report.html, the run as one page for people, from what lies in the run's directory."""
    from vfl.report.page import write_page

    typer.echo(write_page(directory))
