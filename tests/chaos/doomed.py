"""The ``vfl`` command in a process that kills itself at a moment chosen beforehand, and keeps notes of how far it came.

``VFL_TEST_DOOM`` says when: ``ledger:7:1`` at its seventh message, ``disk:12`` at the twelfth step that it takes on
the disk, ``sent:30`` with half of its thirtieth frame on the wire; nothing: never. Death is SIGKILL, as when memory is
short. ``VFL_TEST_FULL`` fills the disk instead: ``write:8:20`` for the eighth to the 27th write of checkpoints,
``size:9000`` for files beyond 9000 bytes.
``VFL_TEST_NOTES`` names a file for the notes: which step was resumed from, which were kept, and at the end how many
messages, disk steps and frames there were.
"""

from __future__ import annotations

import atexit
import builtins
import errno
import io
import os
import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

_write, _open = os.write, os.open
_counts: Counter[str] = Counter()
_doom = [*os.environ.get("VFL_TEST_DOOM", "").split(":"), "", ""]

_full = [*os.environ.get("VFL_TEST_FULL", "").split(":"), "", ""]


def note(line: str) -> None:
    """Append a line to the notes."""
    path = os.environ.get("VFL_TEST_NOTES")
    if path:
        number = _open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        _write(number, f"{line}\n".encode())
        os.close(number)


def die(why: str) -> None:
    """End as a process does that the system kills."""
    note(f"died {why}")
    os.kill(os.getpid(), signal.SIGKILL)


def due(kind: str) -> bool:
    """Count a moment of a kind; whether it is the last."""
    _counts[kind] += 1
    return _doom[:2] == [kind, str(_counts[kind])]


def on_disk(what: str) -> None:
    """Die here, if it is time."""
    if due("disk"):
        die(f"at disk step {_counts['disk']}: {what}")


def _around(function: Callable[..., Any]) -> Callable[..., Any]:
    """Two moments: before and after."""

    def run(*arguments: Any, **options: Any) -> Any:
        what = f"{function.__name__} {' '.join(Path(a).name for a in arguments if isinstance(a, str | Path))}".strip()
        on_disk(f"before {what}")
        result = function(*arguments, **options)
        on_disk(f"after {what}")
        return result

    return run


def _around_open(function: Callable[..., Any]) -> Callable[..., Any]:
    """Files that are opened to be written: before, and while they are empty."""

    def run(file: Any, mode: Any = "r", *arguments: Any, **options: Any) -> Any:
        written = isinstance(mode, str) and mode[0] in "wxa" and isinstance(file, str | Path)
        if written:
            on_disk(f"before open {Path(file).name}")
        opened = function(file, mode, *arguments, **options)
        if written:
            on_disk(f"after open {Path(file).name}")
        return opened

    return run


def _half_write(number: int, data: Any) -> int:
    _counts["write"] += 1
    if _full[0] == "write" and int(_full[1]) <= _counts["write"] < int(_full[1]) + int(_full[2]):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if due("disk"):
        _write(number, bytes(data)[: len(data) // 2])
        die(f"at disk step {_counts['disk']}: half a write")
    return _write(number, data)


def _open_file(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
    writes = flags & (os.O_WRONLY | os.O_RDWR) and flags & os.O_CREAT
    number = _open(path, flags, *arguments, **options)
    if writes:
        on_disk(f"after open {Path(path).name}")
    return number


def _watch_disk() -> None:
    os.fsync, os.replace, os.rename, os.unlink = map(_around, (os.fsync, os.replace, os.rename, os.unlink))  # type: ignore[assignment]
    os.write, os.open = _half_write, _open_file
    builtins.open, io.open = _around_open(builtins.open), _around_open(io.open)  # type: ignore[assignment]


def _watch_protocol() -> None:
    from parties.checkpoint import FolderKeeper
    from parties.connection import Connection
    from parties.ledger import Ledger

    record, send_all, save, resume = Ledger.record, Connection._send_all, FolderKeeper._save, FolderKeeper.resume_from

    def recorded(self: Ledger, entry: Any) -> None:
        last = due("ledger")
        if last and _doom[2] == "0":
            die(f"before message {_counts['ledger']}, {entry.message}")
        record(self, entry)
        if last:
            if _doom[2] == "1" and self.path is not None:
                os.truncate(self.path, self.path.stat().st_size - 9)  # as if killed half way through the line
            die(f"after message {_counts['ledger']}, {entry.message}")

    def sent(self: Connection, sealed: bytes) -> None:
        if due("sent"):
            self._raw.send(sealed[: len(sealed) // 2])
            die(f"with half of frame {_counts['sent']} sent")
        send_all(self, sealed)

    def saved(self: FolderKeeper, path: Path, step: int, facts: Any, arrays: Any, name: str = "") -> bool:
        kept = save(self, path, step, facts, arrays, name)
        if not name:  # a bucket of an alignment is no step
            note(f"kept {step}")
        return kept

    def resumed(self: FolderKeeper, step: int) -> None:
        resume(self, step)
        note(f"resumed {step} {self.run}")

    Ledger.record, Connection._send_all = recorded, sent  # type: ignore[method-assign]
    FolderKeeper._save, FolderKeeper.resume_from = saved, resumed  # type: ignore[method-assign]


def main() -> None:
    """Play the role that the command line says."""
    from vfl import cli

    _watch_protocol()
    _watch_disk()
    if _full[0] == "size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(_full[1]), int(_full[1])))  # Python ignores the signal
    note("started")
    atexit.register(lambda: note("ended " + " ".join(f"{kind}={count}" for kind, count in _counts.items())))
    cli.main()


if __name__ == "__main__":
    sys.argv[0] = "vfl"
    main()
