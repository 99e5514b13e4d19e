"""Payloads to bytes and back: a msgpack header and contiguous binary blobs, nothing else.

Layout: ``u32 header length | header | blob | blob ...``. In the header every array stands as
``[dtype, dimension, dimension ...]``; its bytes follow in the order of the fields. The receiver says which payload
type it expects, so no class is looked up by name; dtypes come from the payload's own annotations, sizes are checked
against the bytes that are really there before any array is made, unknown fields are refused, and what is left over
is refused too.

>>> from parties.wire import Control
>>> decode(Control, encode(Control({"rows": 3}))).facts
{'rows': 3}
"""

from __future__ import annotations

import math
import struct
from functools import cache
from typing import Any, TypeVar, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from parties.errors import LocalProtocolError, RemoteProtocolError
from parties.wire import Payload

MAX_HEADER = 1 << 20
_LENGTH = struct.Struct("<I")
_MAX_DIMENSIONS = 3

P = TypeVar("P", bound=Payload)


def encode(payload: Payload) -> bytes:
    """Bytes of a payload.

    Raises
    ------
    LocalProtocolError
        If ``decode`` would refuse them: a wrong dtype, an array where none is declared, a header over its limit.
    """
    try:
        data = _encode(payload)
        decode(type(payload), data)
    except (msgspec.MsgspecError, RemoteProtocolError, OverflowError, UnicodeEncodeError, RecursionError) as error:
        raise LocalProtocolError(f"no {type(payload).__name__} as its type declares it: {error}") from error
    return data


def _encode(payload: Payload) -> bytes:
    blobs: list[memoryview] = []

    def array_to_header(value: object) -> list[str | int]:
        if not isinstance(value, np.ndarray) or value.dtype.hasobject:
            raise LocalProtocolError(f"a {type(value).__name__} has no place in a payload")
        flat = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
        blobs.append(flat.reshape(-1).view(np.uint8).data)
        return [value.dtype.name, *value.shape]

    header = msgspec.msgpack.Encoder(enc_hook=array_to_header).encode(payload)
    return b"".join([_LENGTH.pack(len(header)), header, *blobs])


def decode(kind: type[P], data: bytes | bytearray | memoryview) -> P:
    """Read a payload of the expected kind.

    Raises
    ------
    RemoteProtocolError
        If the bytes are not exactly one payload of this kind.
    """
    view = memoryview(data)
    if len(view) < _LENGTH.size:
        raise RemoteProtocolError(f"message too short for a {kind.__name__}: {len(view)} bytes")
    (header_length,) = _LENGTH.unpack_from(view)
    at = _LENGTH.size + header_length
    if header_length > MAX_HEADER or at > len(view):
        raise RemoteProtocolError(f"{kind.__name__} header of {header_length} bytes does not fit its message")

    def array_from_header(annotation: Any, entry: Any) -> NDArray[Any]:
        nonlocal at
        array = _read_array(annotation, entry, view, at)
        at += array.nbytes
        return array

    try:
        decoder = msgspec.msgpack.Decoder(kind, dec_hook=array_from_header)
        payload = decoder.decode(view[_LENGTH.size : _LENGTH.size + header_length])
    except (msgspec.MsgspecError, RecursionError, TypeError, ValueError) as error:
        raise RemoteProtocolError(f"malformed {kind.__name__}: {error}") from error
    if at != len(view):
        raise RemoteProtocolError(f"{kind.__name__} is followed by {len(view) - at} bytes that it does not declare")
    return payload


def _read_array(annotation: Any, entry: Any, view: memoryview, at: int) -> NDArray[Any]:
    """View one array inside the message, after checking that all of it is there."""
    dtype, name = _dtype_of(annotation)
    well_formed = (
        isinstance(entry, list)
        and 2 <= len(entry) <= 1 + _MAX_DIMENSIONS
        and entry[0] == name
        and all(type(size) is int and 0 <= size < 1 << 48 for size in entry[1:])
    )
    if not well_formed:
        raise ValueError(f"expected an array of {name}")
    if 0 in entry[2:] and entry[1]:  # rows that cost the sender nothing, and whoever loops over them a lot
        raise ValueError("array of rows without columns")
    size = math.prod(entry[1:]) * dtype.itemsize
    if size > len(view) - at:
        raise ValueError(f"array of {size} bytes, but {len(view) - at} are there")
    array = np.frombuffer(view[at : at + size], dtype=dtype).reshape(entry[1:])
    array.flags.writeable = False
    return array


@cache
def _dtype_of(annotation: Any) -> tuple[np.dtype[Any], str]:
    """``NDArray[np.uint8]`` -> dtype uint8 and its name."""
    (scalar,) = get_args(get_args(annotation)[1])
    dtype: np.dtype[Any] = np.dtype(scalar).newbyteorder("<")
    return dtype, dtype.name
