"""The log of one role's run between companies: ``log.jsonl``, one JSON object per line, for its owner's eyes alone.

Every line has time (ISO 8601, UTC), level, role and event, and fields that depend on the event. None holds an id, a
key, a label or a value of anybody's data: events are counts, names of messages, parties and phases, and the texts of
errors, which hold none either. A run has one log; a process that goes on with it appends.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import msgspec

from parties.durable import open_to_append
from parties.errors import PolicyError, VflError
from parties.ledger import Entry
from vfl import __version__
from vfl.events import Event
from vfl.watch import COME_BACK, JOINING, LASTING, RECONNECTING, Awaited, Began, Dialled, Kept, Network, Notice, Warned

LOG = "log.jsonl"
LEVELS = ("debug", "info", "warning", "error")
Field = str | int | float | None


class Log:
    """Writes what a role tells; a `vfl.watch.Watch`.

    The file is opened at the first notice, when the run's folder is this process's own.

    Parameters
    ----------
    path : Path
    role, job : str
        Name of the role, and of the job.
    level : str
        Lines below it are left out.
    """

    def __init__(self, path: Path, role: str, job: str, level: str = "info") -> None:
        self._path = path
        self._role = role
        self._job = job
        self._least = LEVELS.index(level)
        self._file: IO[bytes] | None = None
        self._order = threading.Lock()
        self._phase, self._phase_begun = "", 0.0
        self._awaited_since = 0.0
        self._waited = 0.0
        self._trouble = ""
        self._no_connection = ""
        self._ended = False

    def __call__(self, notice: Notice) -> None:
        """Write what there is to say about one notice."""
        with self._order:
            self._open()
            match notice:
                case Event():
                    self._follow(notice)
                case Entry():
                    self._message(notice)
                case Awaited(text):
                    now = time.monotonic()
                    self._waited = 0.0 if text else now - self._awaited_since
                    self._awaited_since = now
                case Network(text):
                    self._network(text)
                case Dialled(trouble):
                    self._dialled(trouble)
                case Began(generation, rounds, buckets):
                    where: dict[str, Field] = {"after_round": rounds} if rounds >= 0 else {}
                    where |= {"buckets_kept": buckets} if buckets else {}
                    self._write("info", "generation", generation=generation, **where)
                case Kept(rounds):
                    self._write("info", "checkpoint", after_round=rounds)
                case Warned(text):
                    self._write("warning", "warning", text=text)

    def end(self, error: BaseException | None = None, text: str = "") -> None:
        """Write how it ended, if it began, and close the file; ``text`` in place of that of an unforeseen error."""
        with self._order:
            self._ended = True
            if self._file is None:
                return
            self._end_phase()
            kind = type(error).__name__
            if error is None:
                self._write("info", "ended")
            elif isinstance(error, PolicyError):
                self._write("error", "refused", error=kind, text=str(error))
            elif isinstance(error, VflError):
                self._write("error", "failed", error=kind, text=str(error))
            elif isinstance(error, Exception):
                self._write("error", "failed", error=kind, text=text)
            else:  # Ctrl-C, SIGTERM
                self._write("warning", "interrupted", error=kind)
            self._file.close()
            self._file = None

    def _open(self) -> None:
        """Open the file at its end, once."""
        if self._file is None and not self._ended:
            with suppress(OSError):
                self._file = open_to_append(self._path, 0o600)
            self._write("info", "started", job=self._job, version=__version__)

    def _follow(self, event: Event) -> None:
        """Write phases and rounds."""
        if event.phase != self._phase:
            self._end_phase()
            self._phase, self._phase_begun = event.phase, time.monotonic()
            self._write("info", "phase begins", phase=event.phase)
        if event.parts:
            self._write("info", "bucket", bucket=event.round, buckets=event.parts)
        elif event.round:
            self._write("info", "round", round=event.round, loss=event.loss)

    def _end_phase(self) -> None:
        if self._phase:
            seconds = round(time.monotonic() - self._phase_begun, 3)
            self._write("info", "phase ends", phase=self._phase, seconds=seconds)
        self._phase = ""

    def _message(self, entry: Entry) -> None:
        """Write one message; on one that came in also how long it was waited for."""
        if self._least:
            return
        size = entry.bytes // max(entry.hops, 1)
        if entry.sender == self._role:
            self._write("debug", "sent", message=entry.message, peer=entry.receiver, bytes=size)
        else:
            waited = round(self._waited, 6)
            self._write("debug", "received", message=entry.message, peer=entry.sender, bytes=size, waited=waited)

    def _network(self, text: str) -> None:
        """Write what changes; the coordinator's silence is told again and again."""
        plain = LASTING.sub("", text)
        if plain == self._trouble:
            return
        before, self._trouble = self._trouble, plain
        if not plain:
            self._write("info", "network", text="all have joined" if JOINING.match(before) else "all is well again")
        elif away := RECONNECTING.match(plain):
            self._write("warning", "peer lost", peer=away[1], text=text)
        elif back := COME_BACK.match(plain):
            self._write("warning", "peer back", peer=back[1], text=text)
        else:
            self._write("info" if JOINING.match(plain) else "warning", "network", text=text)

    def _dialled(self, trouble: str) -> None:
        """Write connections that come about, and why others do not, each reason once in a row."""
        if not trouble:
            self._write("info", "connected")
        elif trouble != self._no_connection:
            self._write("warning", "not connected", text=trouble)
        self._no_connection = trouble

    def _write(self, level: str, event: str, **fields: Field) -> None:
        """Append one line; a disk that takes none does not end the run."""
        if LEVELS.index(level) < self._least:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": now, "level": level, "role": self._role, "event": event, **fields}
        if self._file is not None:
            with suppress(OSError):
                self._file.write(msgspec.json.encode(line) + b"\n")
