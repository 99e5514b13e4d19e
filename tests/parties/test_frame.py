"""Frames on a byte stream: every defect is refused, and limits hold before anything is read."""

import io
import random
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.errors import LocalProtocolError, RemoteProtocolError
from parties.frame import (
    ABORT,
    BYE,
    LOST,
    MAX_BODY,
    MESSAGE,
    WITHOUT,
    Frame,
    Header,
    frame_size,
    read_frame,
    write_frame,
)

FRAME = Frame(MESSAGE, Header("bank", "shop", "glm.share", 3, 1, False), b"body of the frame")


def read(data):
    """Read one frame from bytes, as from a socket that then closes."""
    stream = io.BytesIO(data)

    def exactly(count):
        part = stream.read(count)
        if len(part) != count:
            raise EOFError
        return part

    return read_frame(exactly)


names = st.text(max_size=20)
numbers = st.integers(0, 2**63)
headers = st.builds(Header, names, names, names, numbers, numbers, st.booleans())


@settings(deadline=None)
@given(st.sampled_from([MESSAGE, BYE, ABORT, LOST, WITHOUT]), headers, st.binary(max_size=300))
def test_round_trip(kind, header, body):
    frame = Frame(kind, header, body)
    data = write_frame(frame)
    assert read(data) == frame
    assert len(data) == frame_size(frame)


@pytest.mark.parametrize("kind", [MESSAGE, BYE, ABORT, LOST])
def test_every_single_bit_flip_is_refused(kind):
    data = write_frame(Frame(kind, FRAME.header, FRAME.body))
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((RemoteProtocolError, EOFError)):
            read(bytes(flipped) + data)  # more follows, so that a longer length finds its bytes


def test_truncation_at_every_byte():
    data = write_frame(FRAME)
    for length in range(len(data)):
        with pytest.raises(EOFError):
            read(data[:length])


def test_mutations_raise_nothing_else():
    rng = random.Random(11)
    data = write_frame(FRAME)
    for _ in range(5000):
        mutated = bytearray(data)
        for _ in range(rng.randint(1, 5)):
            at = rng.randrange(len(mutated))
            mutated[at : at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
        try:
            frame = read(bytes(mutated))
        except (RemoteProtocolError, EOFError):
            continue
        assert frame == FRAME


def _with_right_checksum(header, body=b""):
    """A frame whose header is any bytes, with a checksum that fits."""
    prefix = struct.pack("<2sBBIIQQ", b"VF", 2, MESSAGE, len(header), len(body), 7, 3)
    return prefix + struct.pack("<I", zlib.crc32(prefix + header + body)) + header + body


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80))
def test_any_header_under_a_right_checksum(header):
    try:
        read(_with_right_checksum(header))
    except RemoteProtocolError:
        return


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\x96\xa1a\xa1b\xa1c\x00\x00\xc3\x00",
        b"\x97\xa1a\xa1b\xa1c\x00\x00\xc3\x00",
        b"\x92\xa1\xff\xa1b",
        b"\x91\x01",
    ],
    ids=["empty", "trailing byte", "extra field", "no text", "number for a name"],
)
def test_malformed_header(header):
    with pytest.raises(RemoteProtocolError, match="malformed"):
        read(_with_right_checksum(header))


@pytest.mark.parametrize(("header", "body"), [(513, 0), (0, MAX_BODY + 1), (2**32 - 1, 2**32 - 1)])
def test_limits_hold_before_anything_is_read(header, body):
    asked = []

    def exactly(count):
        asked.append(count)
        return struct.pack("<2sBBIIQQ", b"VF", 2, MESSAGE, header, body, 0, 0)

    with pytest.raises(RemoteProtocolError, match="over the limit"):
        read_frame(exactly)
    assert asked == [28]


@pytest.mark.parametrize(
    "prefix",
    [struct.pack("<2sBBIIQQ", *start, 0, 0, 0, 0) for start in [(b"VG", 2, 0), (b"VF", 1, 0), (b"VF", 2, 11)]],
    ids=["magic", "version", "kind"],
)
def test_other_protocols_are_refused(prefix):
    with pytest.raises(RemoteProtocolError, match="no frame of this protocol version"):
        read(prefix + bytes(100))


@pytest.mark.parametrize(
    "frame", [Frame(ABORT, Header("bank", "", "x" * 600)), Frame(MESSAGE, FRAME.header, bytes(MAX_BODY + 1))]
)
def test_over_the_limits_nothing_is_written(frame):
    with pytest.raises(LocalProtocolError, match="over the limit"):
        write_frame(frame)


def test_the_largest_frame_passes():
    frame = Frame(MESSAGE, FRAME.header, bytes(MAX_BODY))
    assert read(write_frame(frame)) == frame
