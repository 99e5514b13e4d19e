"""``vfl audit``: the ledger, in words; and whether it is as it was written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from parties.errors import ConfigError
from vfl.commands.app import LOOK, RunDirectory, app


@app.command(rich_help_panel=LOOK, epilog="Example: vfl audit runs/first --verify")
def audit(
    directory: RunDirectory,
    messages: Annotated[bool, typer.Option("--messages", help="List every message instead, a line each.")] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Check that no line was changed, and that sender and receiver have the same; names the first "
            "difference, exit code 2.",
        ),
    ] = False,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            "--against",
            metavar="LEDGER|RUN_DIR",
            help="With --verify: another party's ledger, to compare with. Repeatable.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")
    ] = False,
) -> None:
    """Say who learnt what in a run: every kind of message, who got it, how it travelled, how often, how many bytes."""
    from parties.ledger import read_ledger
    from vfl.audit import LEDGER, agreement_text, verify_run, whose_key
    from vfl.audit_display import encode_audit, show_audit, show_messages

    if against and not verify:
        raise ConfigError("--against, got it without --verify, which it belongs to; add --verify")
    console = Console()
    agreement = verify_run(directory, against or []) if verify else None
    if agreement is not None and not as_json:
        console.print(agreement_text(agreement), highlight=False, soft_wrap=True)
        if not messages:
            return
    entries = read_ledger(directory / LEDGER)
    owner = whose_key(entries, directory)
    if as_json:
        sys.stdout.write(encode_audit(entries, owner, agreement, messages=messages).decode())
    elif messages:
        show_messages(entries, console, owner)
    else:
        show_audit(entries, console, owner)
