"""Files that are replaced whole or not at all, or grow by whole lines, whenever the process or the machine stops."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_BLOCK = 1 << 16


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file, readable by its owner alone, and return once that is on disk; raises ``OSError``."""
    with replaced_durably(path) as file:
        file.write(data)


@contextmanager
def replaced_durably(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, readable by its owner alone, that stands in the path's place, on disk, once it is left well.

    Raises
    ------
    OSError
        The disk does not take it; what stood in its place is as it was, as with any other error.
    """
    new = path.with_name(path.name + ".new")
    try:
        number = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Return once the names in a folder are on disk."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def open_to_append(path: Path, mode: int = 0o666) -> IO[bytes]:
    """Open a file of lines at its end, unbuffered; the half line of a process that died while it wrote is cut off.

    Parameters
    ----------
    mode : int
        Of a file that is not there yet, less what the umask takes.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    file = os.fdopen(os.open(path, flags, mode), "ab+", buffering=0)
    end = file.seek(0, os.SEEK_END)
    whole = _end_of_line(file, end)
    if whole < end:
        file.truncate(whole)
    return file


def last_line(file: IO[bytes]) -> bytes:
    """The last whole line of a file, without its end; empty if there is none."""
    end = _end_of_line(file, file.seek(0, os.SEEK_END))
    start = _end_of_line(file, max(end - 1, 0))
    file.seek(start)
    return file.read(max(end - 1 - start, 0))


def _end_of_line(file: IO[bytes], before: int) -> int:
    """Where the last line that ends at or before a place ends; 0 if none does."""
    while before > 0:
        start = max(before - _BLOCK, 0)
        file.seek(start)
        newline = file.read(before - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        before = start
    return 0
