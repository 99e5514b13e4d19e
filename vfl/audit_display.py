"""What ``vfl audit`` shows: tables, a line per message, or one JSON object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parties.ledger import Entry
from parties.ledger_check import Agreement
from vfl.audit import Sent, how, learnt, sent, size_text
from vfl.display import say


def show_audit(entries: Sequence[Entry], console: Console, key_owner: str = "") -> None:
    """The ledger in words: first what each role learnt, then everything that was sent."""
    lines = learnt(entries, key_owner)
    for receiver in dict.fromkeys(line.receivers[0] for line in lines):
        table = _table(f"What {escape(receiver)} learnt")
        table.add_column("what", ratio=1)
        table.add_column("from", overflow="fold")
        _add_amounts(table)
        for line in (line for line in lines if line.receivers[0] == receiver):
            table.add_row(escape(line.what), _names(line.senders), *_amounts(line))
        console.print(table)
    table = _table("Everything that was sent")
    table.add_column("message", no_wrap=True)
    for title in ("from", "to"):
        table.add_column(title, overflow="fold")  # a narrow terminal cuts no name
    _add_amounts(table, values=False)
    for line in sent(entries, key_owner):
        protocol, _, name = line.what.partition(".")
        message = f"{escape(name)}\n[dim]{escape(protocol)}[/]"
        table.add_row(message, _names(line.senders), _names(line.receivers), *_amounts(line, values=False))
    console.print(table)
    size = size_text(sum(entry.bytes for entry in entries))
    say(
        f"{len(entries):,} messages, {size} over all hops. Between two parties everything is sealed end to end; the "
        "coordinator passes it on unread.",
        console,
    )


def show_messages(entries: Sequence[Entry], console: Console, key_owner: str = "") -> None:
    """A line per message: seconds since the first, generation, from whom to whom, what, how, values, bytes."""
    start = entries[0].time if entries else 0.0
    rows = [
        (
            f"{entry.time - start:.3f} s",
            f"generation {entry.generation}",
            f"{entry.sender} -> {entry.receiver}",
            entry.message,
            f"{entry.values:,} values",
            f"{entry.bytes:,} B",
            how(entry, key_owner),
        )
        for entry in entries
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    to_the_right = (0, 4, 5)
    lines = (
        "  ".join(cell.rjust(width) if at in to_the_right else cell.ljust(width) for at, (cell, width) in columns)
        for columns in (enumerate(zip(row, widths, strict=True)) for row in rows)
    )
    say("\n".join(line.rstrip() for line in lines), console)


def encode_audit(entries: Sequence[Entry], key_owner: str, agreement: Agreement | None, *, messages: bool) -> bytes:
    """One JSON object: ``learnt``, ``sent``; the ``messages`` and what was ``verified``, where asked for."""
    lines: dict[str, object] = {
        "count": len(entries),
        "bytes": sum(entry.bytes for entry in entries),
        "learnt": [_as_json(line) for line in learnt(entries, key_owner)],
        "sent": [_as_json(line) for line in sent(entries, key_owner)],
    }
    if messages:
        lines["messages"] = [msgspec.structs.asdict(entry) | {"how": how(entry, key_owner)} for entry in entries]
    if agreement is not None:
        lines["verified"] = agreement
    return msgspec.json.format(msgspec.json.encode(lines), indent=2) + b"\n"


def _as_json(line: Sent) -> dict[str, object]:
    return {
        "what": line.what,
        "from": line.senders,
        "to": line.receivers,
        "how": line.how,
        "count": line.count,
        "values": line.values,
        "bytes": line.bytes,
    }


def _table(title: str) -> Table:
    """Without lines between the columns: at 80 there is no room for both them and whole names."""
    return Table(title=title, title_justify="left", expand=True, box=SIMPLE_HEAD, pad_edge=False)


def _add_amounts(table: Table, *, values: bool = True) -> None:
    table.add_column("how", min_width=12, max_width=16)
    for title in ("count", "values", "bytes") if values else ("count", "bytes"):
        table.add_column(title, justify="right", no_wrap=True)


def _amounts(line: Sent, *, values: bool = True) -> list[str]:
    size = size_text(line.bytes)
    return [escape(line.how), f"{line.count:,}", *([f"{line.values:,}"] if values else []), size]


def _names(names: Iterable[str]) -> str:
    return "\n".join(escape(name) for name in names)
