"""``vfl audit``: the ledger, in words."""

from __future__ import annotations

from rich.console import Console

from vfl.commands.app import RunDirectory, app


@app.command(epilog="Example: vfl audit runs/first")
def audit(
    directory: RunDirectory,
) -> None:
    """Say who learnt what in a run: every kind of message, who got it, how often, how many bytes."""
    from parties.ledger import read_ledger
    from vfl.display import show_audit

    show_audit(read_ledger(directory / "ledger.jsonl"), Console())
