"""Many BLAKE2b digests at once: equal to hashlib's for every length, in C and without."""

import hashlib
from ctypes import c_size_t, c_void_p

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psi import blake2b
from psi.blake2b import hash_each, hash_rows
from psi.elements import elements_of

IN_C = blake2b._library()
needs_c = pytest.mark.skipif(IN_C is None, reason="BLAKE2b in C was not built, or this processor cannot run it")


@pytest.fixture(params=["as built", "hashlib"])
def way(request, monkeypatch):
    """Both ways of hashing, whatever this machine has."""
    if request.param == "hashlib":
        monkeypatch.setattr(blake2b, "native", lambda name, interface: None)


def reference(messages, width, key=b"", person=b""):
    return [hashlib.blake2b(m, digest_size=width, key=key, person=person).digest() for m in messages]


def as_bytes(rows):
    return [row.tobytes() for row in rows]


def test_vector_of_the_rfc(way):
    """RFC 7693, appendix A."""
    digest = (
        "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
        "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923"
    )
    assert hash_each([b"abc"], 64)[0].tobytes().hex() == digest


@pytest.mark.parametrize("key", [b"", b"k", b"k" * 64], ids=["no key", "short key", "long key"])
def test_every_length(way, key):
    rng = np.random.default_rng(0)
    for length in range(131):
        rows = rng.integers(0, 256, (9, length), np.uint8)
        assert as_bytes(hash_rows(rows, 17, key=key)) == reference(as_bytes(rows), 17, key), length


@given(
    st.integers(1, 64),
    st.binary(max_size=64),
    st.binary(max_size=16),
    st.lists(st.binary(max_size=140), max_size=20),
)
def test_any_widths_keys_and_persons(width, key, person, messages):
    assert as_bytes(hash_each(messages, width, person=person)) == reference(messages, width, person=person)
    rows = np.frombuffer(b"".join(m[:3].ljust(3) for m in messages), np.uint8).reshape(-1, 3)
    assert as_bytes(hash_rows(rows, width, key=key, person=person)) == reference(as_bytes(rows), width, key, person)


def test_columns_of_a_wider_array(way):
    rows = np.arange(90, dtype=np.uint8).reshape(9, 10)[:, 2:7]
    assert as_bytes(hash_rows(rows, 8)) == reference(as_bytes(rows), 8)


def test_no_messages(way):
    assert hash_each([], 5).shape == (0, 5)
    assert hash_rows(np.empty((0, 7), np.uint8), 5).shape == (0, 5)


def test_one_long_message_among_short_ones(way, monkeypatch):
    monkeypatch.setattr(blake2b, "_PIECE", 4)
    messages = [b"%d" % i for i in range(5)] + [b"long" * 40, b""] + [b"%d" % i for i in range(7)]
    assert as_bytes(hash_each(messages, 32)) == reference(messages, 32)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"width": 65}, {"key": bytes(65)}, {"person": bytes(17)}], ids=str)
def test_what_blake2b_does_not_take_is_refused(way, wrong):
    with pytest.raises(ValueError, match=r"."):
        hash_rows(np.zeros((3, 4), np.uint8), **{"width": 8} | wrong)


@pytest.mark.usefixtures("way")
def test_elements_are_digests_of_ids():
    ids = [b"", b"ann", "jos\u00e9".encode(), b"x" * 128, b"x" * 129, b"x" * 1000]
    assert as_bytes(elements_of(ids)) == reference(ids, 32, person=b"vfl elements v1")


@needs_c
def test_short_rows_are_hashed_in_c(monkeypatch):
    monkeypatch.setattr(blake2b.hashlib, "blake2b", None)
    assert hash_rows(np.zeros((3, 128), np.uint8), 8).shape == (3, 8)
    assert hash_each([b"ann", b""], 8).shape == (2, 8)


REFUSED = {
    "too long": ([129], b"", 8),
    "backwards": ([5, 3], b"", 8),
    "far too long": ([2**64 - 1], b"", 8),
    "nothing after a key": ([3, 3], b"k", 8),
    "no digest": ([3], b"", 0),
    "long digest": ([3], b"", 65),
    "long key": ([3], bytes(65), 8),
}


@needs_c
@pytest.mark.parametrize("case", REFUSED)
def test_c_refuses(case):
    ends, key, width = REFUSED[case]
    data, out = np.zeros(256, np.uint8), np.zeros(1024, np.uint8)
    where = np.array(ends, np.uint64)
    refused = IN_C.vfl_blake2b_hash(
        c_void_p(data.ctypes.data),
        c_void_p(where.ctypes.data),
        c_size_t(len(ends)),
        key,
        c_size_t(len(key)),
        bytes(16),
        c_void_p(out.ctypes.data),
        c_size_t(width),
    )
    assert refused == 1
    assert not out.any()
