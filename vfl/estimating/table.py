"""An estimate as tables on a terminal, and as JSON."""

from __future__ import annotations

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vfl.audit import size_text
from vfl.display import say, warn
from vfl.estimating.estimate import Estimate

_TITLES = {
    "starting": "Starting the roles, reading CSVs",
    "aligning": "Aligning ids",
    "preparing": "Preparing columns",
    "training": "Training",
    "evaluating": "Evaluating, active party alone",
    "saving": "Saving",
    "comparing": "All data pooled, for comparison",
    "total": "Total",
}
_HOLDERS = {"active": "active party", "coordinator": "coordinator"}


def encode_estimate(estimate: Estimate) -> bytes:
    """JSON text of an estimate."""
    return msgspec.json.format(msgspec.json.encode(estimate), indent=2) + b"\n"


def show_estimate(estimate: Estimate, console: Console) -> None:
    """Seconds per phase, operations per role, bytes per link, and what it rests on."""
    rows = ", ".join(f"{count:,} {part}" for part, count in estimate.rows.items())
    columns = ", ".join(f"{name} {count}" for name, count in estimate.columns.items())
    say(f"{estimate.name}: {estimate.model}, {estimate.task}; rows: {rows}; columns after encoding: {columns}", console)
    reason = estimate.key_holder_reason
    if estimate.key_holder is not None and estimate.encryptions:
        say(f"Private key at the {_HOLDERS[estimate.key_holder]}: {reason}", console)
    else:
        say(reason[:1].upper() + reason[1:], console)
    ends = "" if estimate.converged else ", without converging"
    say(f"Rounds: {estimate.rounds:,}{ends} ({estimate.rounds_from})", console)
    console.print(_seconds(estimate), *([_roles(estimate)] if estimate.encryptions else []), _links(estimate))
    for line in estimate.warnings:
        warn(line, console)
    for line in estimate.hints:
        say(f"What would change it most: {line}", console)
    for line in estimate.assumptions:
        say(f"Assumed: {line}", console)


def _seconds(estimate: Estimate) -> Table:
    table = Table(title="Seconds on this machine")
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    for phase, seconds in estimate.seconds.items():
        table.add_row(_TITLES[phase], f"{seconds:.1f}", style="bold" if phase == "total" else None)
    return table


def _roles(estimate: Estimate) -> Table:
    table = Table(title=f"Paillier operations, {estimate.key_bits} bits, kernel {estimate.kernel}")
    for column in ("role", "encryptions", "decryptions"):
        table.add_column(column, justify="left" if column == "role" else "right")
    for name, role in estimate.roles.items():
        table.add_row(escape(name), f"{role.encryptions:,}", f"{role.decryptions:,}")
    return table


def _links(estimate: Estimate) -> Table:
    table = Table(title=f"Traffic, every hop counted: {size_text(estimate.bytes)}")
    for column in ("from", "to", "messages", "bytes"):
        table.add_column(column, justify="right" if column in ("messages", "bytes") else "left")
    for link in estimate.links:
        table.add_row(escape(link.sender), escape(link.receiver), f"{link.messages:,}", size_text(link.bytes))
    return table
