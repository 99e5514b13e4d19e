"""The file of one checkpoint: facts and arrays, written whole or not at all, read only if every byte is as written.

Layout: ``magic | u64 header length | header | arrays | SHA-256 of all before``. The header is msgpack: whose file it is
(run, job, party), what it holds (step, or the name of what is drawn once), facts, and name, dtype, order and shape of
every array. All sizes are checked against the file's own before anything is allocated, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from parties.durable import sync_folder
from parties.errors import LocalProtocolError

Fact = bool | int | float | str | None | list["Fact"] | dict[str, "Fact"]
Arrays = Mapping[str, NDArray[np.generic]]

MAX_HEADER = 1 << 26  # bytes

_MAGIC = b"vfl-ckpt"
_PREFIX = struct.Struct("<8sQ")
_DIGEST = 32
_BLOCK = 1 << 20
_MAX_DIMENSIONS = 3
_DTYPES = {
    np.dtype(kind).name: np.dtype(kind).newbyteorder("<")
    for kind in (np.bool_, np.uint8, np.uint16, np.uint32, np.uint64, np.int32, np.int64, np.float32, np.float64)
}


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One array; ``order`` is how it lay in memory, "C" or "F": the rounding of later sums may depend on it."""

    name: str
    dtype: str
    order: str
    shape: list[int]

    @property
    def nbytes(self) -> int:
        """Bytes of the array, as a Python integer of any size."""
        return math.prod(self.shape) * _DTYPES[self.dtype].itemsize


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands before the arrays; ``name`` is empty for steps, ``step`` is 0 for what is drawn once."""

    run: str
    job: str
    party: str
    step: int
    name: str
    facts: dict[str, Any]  # Fact: msgspec has no recursive types
    arrays: list[Entry] = []


def write_checkpoint(path: Path, header: Header, arrays: Arrays) -> None:
    """Write a file beside its place, sync it, rename it, and sync the directory.

    Raises
    ------
    LocalProtocolError
        If facts or arrays are of types that no checkpoint holds.
    OSError
        If the disk does not take it; what stood in its place is as it was.
    """
    parts = _encode(header, arrays)
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        _write_synced(new, parts)
        new.rename(path)
    except OSError:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def read_header(file: BinaryIO) -> Header:
    """Check a whole file and return its header; the file then stands before its arrays.

    Raises
    ------
    ValueError
        If it is not exactly one checkpoint, byte for byte as it was written.
    """
    size = os.fstat(file.fileno()).st_size
    if size < _PREFIX.size + _DIGEST:
        raise ValueError("too short for a checkpoint")
    magic, length = _PREFIX.unpack(file.read(_PREFIX.size))
    rest = size - _PREFIX.size - _DIGEST - length
    if magic != _MAGIC or length > MAX_HEADER or rest < 0:
        raise ValueError("no checkpoint, or cut off")
    if not _digest_fits(file, size):
        raise ValueError("damaged: its checksum does not fit")
    file.seek(_PREFIX.size)
    header = _decode_header(file.read(length))
    if sum(entry.nbytes for entry in header.arrays) != rest:
        raise ValueError("its arrays are not of the size that it names")
    return header


def read_arrays(file: BinaryIO, header: Header) -> dict[str, NDArray[np.generic]]:
    """Arrays of a file that `read_header` has checked."""
    return {entry.name: _read_array(file, entry) for entry in header.arrays}


def entries(arrays: Arrays) -> list[Entry]:
    """Describe arrays; raises ``LocalProtocolError`` for a dtype or shape that no checkpoint holds."""
    for name, array in arrays.items():
        if array.dtype.name not in _DTYPES or array.ndim > _MAX_DIMENSIONS:
            raise LocalProtocolError(f"no checkpoint holds {name}: {array.dtype.name} in {array.ndim} dimensions")
    return [Entry(name, a.dtype.name, "F" if a.flags.fnc else "C", list(a.shape)) for name, a in arrays.items()]


def _encode(header: Header, arrays: Arrays) -> list[bytes | memoryview]:
    """Parts of a file but its checksum; refuses what `read_header` would."""
    try:
        encoded = msgspec.msgpack.encode(header)
        _decode_header(encoded)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LocalProtocolError(f"no checkpoint holds such facts: {error}") from error
    if len(encoded) > MAX_HEADER:
        raise LocalProtocolError(f"facts of {len(encoded)} bytes are too many for a checkpoint; make them arrays")
    return [_PREFIX.pack(_MAGIC, len(encoded)), encoded, *(_raw(array) for array in arrays.values())]


def _raw(array: NDArray[np.generic]) -> memoryview:
    """Bytes of an array as it lies in memory, little-endian."""
    turned = array.T if array.flags.fnc else array
    return np.ascontiguousarray(turned, dtype=_DTYPES[array.dtype.name]).reshape(-1).view(np.uint8).data


def _write_synced(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write parts and their SHA-256 to a new file that nobody else can read."""
    digest = hashlib.sha256()
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for part in parts:
            digest.update(part)
            _write_all(number, part)
        _write_all(number, digest.digest())
        os.fsync(number)
    finally:
        os.close(number)


def _write_all(number: int, part: bytes | memoryview) -> None:
    left = memoryview(part)
    while len(left):
        left = left[os.write(number, left) :]


def _digest_fits(file: BinaryIO, size: int) -> bool:
    """Whether the last 32 bytes are the SHA-256 of all before."""
    file.seek(0)
    digest = hashlib.sha256()
    left = size - _DIGEST
    while left:
        block = file.read(min(left, _BLOCK))
        if not block:
            return False
        digest.update(block)
        left -= len(block)
    return file.read(_DIGEST + 1) == digest.digest()


def _decode_header(data: bytes) -> Header:
    try:
        header = msgspec.msgpack.decode(data, type=Header)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"its header cannot be read: {error}") from None
    if not _is_fact(header.facts):
        raise ValueError("a fact of another type than text, number, list or table")
    if len({entry.name for entry in header.arrays}) != len(header.arrays):
        raise ValueError("two arrays of one name")
    for entry in header.arrays:
        shaped = len(entry.shape) <= _MAX_DIMENSIONS and all(0 <= length < 1 << 48 for length in entry.shape)
        if not shaped or entry.dtype not in _DTYPES or entry.order not in ("C", "F"):
            raise ValueError("an array of another kind than checkpoints hold")
    return header


def _is_fact(value: object) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and _is_fact(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(_is_fact, value))
    return value is None or type(value) in (bool, int, float, str)


def _read_array(file: BinaryIO, entry: Entry) -> NDArray[np.generic]:
    turned = entry.shape[::-1] if entry.order == "F" else entry.shape
    array: NDArray[np.generic] = np.empty(turned, dtype=_DTYPES[entry.dtype])
    if file.readinto(array.reshape(-1).view(np.uint8).data) != entry.nbytes:  # type: ignore[attr-defined]
        raise ValueError("cut off while it was read")
    return array.T if entry.order == "F" else array
