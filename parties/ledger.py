"""The ledger: every message a role sent or received, what kind it was and what it discloses.

A role appends one JSON line per message to its own ledger. Where all roles ran on one machine the lines of their
senders are merged into one ``ledger.jsonl``.

Two digests make it evidence. ``content`` is a running SHA-256 per link, direction and generation over the bodies of the
frames as they were sent: sender and receiver compute the same, and a message that was changed, left out or moved
changes all that follow. ``chain`` is a SHA-256 over the line before and this line, so that a line which is changed,
removed, inserted or moved is noticed in the file itself. Whoever writes all lines anew, or cuts the end off, is
noticed only beside the ledgers of others: `parties.ledger_check`.

Leakage: none by the digests. Most of what is disclosed is easily guessed (a count, a step length), and a digest of it
alone would tell whether a guess is right. Between parties it is the sealed bytes that are hashed, whose key only the
two of them have. To and from the coordinator bodies are hashed as they are; there each direction begins with a salt
that the party and the coordinator share and nobody else learns (in ``hello`` and ``roster``, `parties.greeting`), and
a running hash that has taken it in hides all that follows. What comes before it, the ``verdict``, says which line of
the job differs: all roles know the job.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec

from parties.durable import last_line, open_to_append
from parties.errors import DataError


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message. ``bytes`` counts every hop, ``values`` the numbers or ciphertexts that it carries.

    ``generation`` is one more after every crash; ``content`` and ``chain`` are hex, empty in ledgers of versions
    that kept none.
    """

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
    generation: int = 1
    content: str = ""
    chain: str = ""


LOST = "network.lost"
"""What the coordinator notes of a party that a run went on without: the ledgers of the two may end otherwise."""

_decoder = msgspec.json.Decoder(Entry)


@dataclass(slots=True)
class Ledger:
    """Entries of one role, kept in memory and, if a path is given, appended to a file as they happen.

    ``observe`` is told each of them. A file that is there already goes on, and so does its chain.
    """

    path: Path | None = None
    entries: list[Entry] = field(default_factory=list)
    observe: Callable[[Entry], None] | None = field(default=None, repr=False)
    _file: IO[bytes] | None = field(default=None, repr=False)
    _chain: str = field(default="", repr=False)

    def record(self, entry: Entry) -> None:
        """Append one entry."""
        if self.path is not None and self._file is None:
            self._file = open_to_append(self.path)
            self._chain = _last_chain(self.path, self._file)
        entry, line = chained(self._chain, entry)
        self._chain = entry.chain
        self.entries.append(entry)
        if self.observe is not None:
            self.observe(entry)
        if self._file is not None:
            self._file.write(line)

    def close(self) -> None:
        """Close the file, if any."""
        if self._file is not None:
            self._file.close()
            self._file = None


def chained(before: str, entry: Entry) -> tuple[Entry, bytes]:
    """An entry with its place in a chain, and its line; ``before`` is the chain of the line before, "" at first."""
    body = msgspec.json.encode(msgspec.structs.replace(entry, chain=""))
    chain = hashlib.sha256(before.encode() + body).hexdigest()
    return msgspec.structs.replace(entry, chain=chain), body.removesuffix(b'"}') + chain.encode() + b'"}\n'


def now() -> float:
    """Seconds since the epoch, to the microsecond."""
    return round(time.time(), 6)


def read_entry(where: str, line: bytes) -> Entry:
    """One line of a ledger file.

    Raises
    ------
    DataError
        If it is no entry; ``where`` names file and line.
    """
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: not a ledger entry ({error})") from error


def read_bytes(path: Path) -> bytes:
    """A ledger file as it is.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"no ledger at {path}: {error.strerror}; expected the directory of a finished run") from error


def read_ledger(path: Path) -> list[Entry]:
    """Entries of a ledger file, whatever their digests say.

    Raises
    ------
    DataError
        If the file is missing or a line of it is no entry.
    """
    return [read_entry(f"{path}, line {at}", line) for at, line in enumerate(read_bytes(path).splitlines(), 1)]


def write_ledger(path: Path, entries: Iterable[Entry]) -> None:
    """Write entries as JSON lines, in a chain of their own."""
    lines, chain = [], ""
    for entry in entries:
        each, line = chained(chain, entry)
        chain = each.chain
        lines.append(line)
    path.write_bytes(b"".join(lines))


def merge_sent(ledgers: Iterable[Sequence[Entry]]) -> list[Entry]:
    """Each message once, as its sender recorded it, in the order of time."""
    sent = [entry for entries in ledgers for entry in entries if entry.by == entry.sender]
    return sorted(sent, key=lambda entry: entry.time)


def last_generation(path: Path) -> int:
    """Generation of the last whole line of a ledger file; 0 where there is none."""
    try:
        with path.open("rb") as file:
            line = last_line(file)
    except OSError:
        return 0
    return read_entry(f"{path}, last line", line).generation if line else 0


def _last_chain(path: Path, file: IO[bytes]) -> str:
    """The chain that the next line goes on from."""
    line = last_line(file)
    return read_entry(f"{path}, last line", line).chain if line else ""
