"""The ledger: every message a role sent or received, what kind it was and what it discloses.

A role appends one JSON line per message to its own ledger. Where all roles ran on one machine the lines of their
senders are merged into one ``ledger.jsonl``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec

from parties.durable import open_to_append
from parties.errors import DataError


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message. ``bytes`` counts every hop, ``values`` the numbers or ciphertexts that it carries."""

    time: float
    by: str
    sender: str
    receiver: str
    message: str
    kind: str
    bytes: int
    hops: int
    values: int
    discloses: str = ""


@dataclass(slots=True)
class Ledger:
    """Entries of one role, kept in memory and, if a path is given, appended to a file as they happen.

    ``observe`` is told each of them.
    """

    path: Path | None = None
    entries: list[Entry] = field(default_factory=list)
    observe: Callable[[Entry], None] | None = field(default=None, repr=False)
    _file: IO[bytes] | None = field(default=None, repr=False)

    def record(self, entry: Entry) -> None:
        """Append one entry."""
        self.entries.append(entry)
        if self.observe is not None:
            self.observe(entry)
        if self.path is None:
            return
        if self._file is None:
            self._file = open_to_append(self.path)
        self._file.write(msgspec.json.encode(entry) + b"\n")

    def close(self) -> None:
        """Close the file, if any."""
        if self._file is not None:
            self._file.close()
            self._file = None


def now() -> float:
    """Seconds since the epoch, to the microsecond."""
    return round(time.time(), 6)


def read_ledger(path: Path) -> list[Entry]:
    """Entries of a ledger file.

    Raises
    ------
    DataError
        If the file is missing or a line of it is no entry.
    """
    decoder = msgspec.json.Decoder(Entry)
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"no ledger at {path}: {error.strerror}; expected the directory of a finished run") from error
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DataError(f"{path}, line {number}: not a ledger entry ({error})") from error
    return entries


def write_ledger(path: Path, entries: Iterable[Entry]) -> None:
    """Write entries as JSON lines."""
    path.write_bytes(b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))


def merge_sent(ledgers: Iterable[Sequence[Entry]]) -> list[Entry]:
    """Each message once, as its sender recorded it, in the order of time."""
    sent = [entry for entries in ledgers for entry in entries if entry.by == entry.sender]
    return sorted(sent, key=lambda entry: entry.time)
