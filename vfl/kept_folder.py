"""What a command leaves is there whole or not at all: a folder that gets its name in the end, a file replaced."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from parties.errors import ConfigError


@dataclass(frozen=True)
class KeptFolder:
    """A folder to fill: ``path`` while it is filled, ``final`` afterwards."""

    path: Path
    final: Path


@contextmanager
def kept_folder(parent: Path) -> Iterator[KeptFolder]:
    """Make a folder in ``parent`` that is named by the time; after an error there is none.

    Raises
    ------
    ConfigError
        It cannot be made.
    """
    made = not parent.exists()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=parent))
    except OSError as error:
        raise ConfigError(
            f"{parent}: cannot be written ({error.strerror}); make it writable, or copy the run"
        ) from None
    try:
        folder = KeptFolder(path, _free_name(parent))
        yield folder
        path.rename(folder.final)
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if made:
            with suppress(OSError):
                parent.rmdir()


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that is whole or as it was before; its directory is made if need be.

    Raises
    ------
    ConfigError
        It cannot be written.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(content)
        new.replace(path)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        raise ConfigError(f"--out {path}: cannot be written ({error.strerror}); choose another file") from None


def _free_name(parent: Path) -> Path:
    """A name that is not taken: the time, and a number if need be."""
    stem = parent / time.strftime("%Y%m%d-%H%M%S")
    final, count = stem, 1
    while final.exists():
        count += 1
        final = stem.with_name(f"{stem.name}-{count}")
    return final
