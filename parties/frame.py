"""One frame on a byte stream: prefix, header, body; lengths are checked before anything is allocated.

A message travels as one or more frames of at most ``MAX_BODY`` bytes, so that a relay needs little memory and a
lying length costs nothing. The header tells the relay where to; the body is opaque to it. The checksum covers all
of a frame, so that a defect on the way is told apart from an attack (against which it is no help: sealing is).

Frames that must arrive are numbered from 1 on, per direction of a hop, and kept until the other end says that it has
them (`parties.lane`); every frame says up to which number its sender has received. Number 0 is for frames that concern
the connection that they travel on.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import msgspec

from parties.errors import LocalProtocolError, RemoteProtocolError

CHUNK = 1 << 20
SEAL_BYTES = 16  # what sealing adds to a chunk
MAX_BODY = CHUNK + SEAL_BYTES
MAX_HEADER = 512
_PREFIX = struct.Struct("<2sBBIIQQ")  # magic, version, kind, header length, body length, number, acknowledged
_CHECKSUM = struct.Struct("<I")
_MAGIC = b"VF"
_VERSION = 2

MESSAGE, BYE, ABORT, LOST, HELLO, WELCOME, START, AGAIN, PING, NEWS, WITHOUT = range(11)


class Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a frame goes and which part of which message it is."""

    sender: str
    receiver: str
    message: str = ""
    sequence: int = 0
    part: int = 0
    last: bool = True


class Frame(msgspec.Struct, frozen=True):
    """One frame.

    ``kind`` is MESSAGE; BYE (the sender has all it needs; from the coordinator: the run has ended well); ABORT (the
    sender stops, ``message`` says why) or LOST (so does somebody else: the sender of the header); WITHOUT (the sender
    of the header is gone, and the run goes on); HELLO and WELCOME (who connects, and what it has received); START
    (everybody is there), AGAIN (everybody begins anew); PING (alive, with what it has received); NEWS (``message`` is
    for the eyes of the user).
    """

    kind: int
    header: Header
    body: bytes = b""
    number: int = 0
    acknowledged: int = 0


_header_decoder = msgspec.msgpack.Decoder(Header)


def write_frame(frame: Frame) -> bytes:
    """Bytes of a frame."""
    header = msgspec.msgpack.encode(frame.header)
    if len(header) > MAX_HEADER or len(frame.body) > MAX_BODY:
        raise LocalProtocolError(f"frame of {len(header)} + {len(frame.body)} bytes is over the limit")
    sizes = (len(header), len(frame.body))
    prefix = _PREFIX.pack(_MAGIC, _VERSION, frame.kind, *sizes, frame.number, frame.acknowledged)
    return b"".join([prefix, _checksum(prefix, header, frame.body), header, frame.body])


def frame_size(frame: Frame) -> int:
    """Bytes that a frame takes on the wire, on one hop."""
    return _PREFIX.size + _CHECKSUM.size + len(msgspec.msgpack.encode(frame.header)) + len(frame.body)


def read_frame(read_exactly: Callable[[int], bytes]) -> Frame:
    """Read one frame from a stream.

    Parameters
    ----------
    read_exactly : callable
        ``read_exactly(count)`` returns exactly ``count`` bytes or raises.

    Raises
    ------
    RemoteProtocolError
        If what arrives is no frame.
    """
    prefix = read_exactly(_PREFIX.size)
    magic, version, kind, header_length, body_length, number, acknowledged = _PREFIX.unpack(prefix)
    if magic != _MAGIC or version != _VERSION or kind > WITHOUT:
        raise RemoteProtocolError("what arrived is no frame of this protocol version")
    if header_length > MAX_HEADER or body_length > MAX_BODY:
        raise RemoteProtocolError(f"frame of {header_length} + {body_length} bytes is over the limit")
    checksum = read_exactly(_CHECKSUM.size)
    header_bytes = read_exactly(header_length)
    body = read_exactly(body_length)
    if _checksum(prefix, header_bytes, body) != checksum:
        raise RemoteProtocolError("frame with a wrong checksum")
    try:
        header = _header_decoder.decode(header_bytes)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"malformed frame header: {error}") from error
    return Frame(kind, header, body, number, acknowledged)


def _checksum(prefix: bytes, header: bytes, body: bytes) -> bytes:
    return _CHECKSUM.pack(zlib.crc32(body, zlib.crc32(header, zlib.crc32(prefix))))
