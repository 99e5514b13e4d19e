"""Plaintexts in rows of bytes: the same residues as the integers that `pack_slots` makes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parties.errors import CryptoError
from vfl.paillier import decrypt, encrypt, generate_keypair, pack_residues, pack_slots, plan_slots, unpack_slots
from vfl.paillier.rows import numbers_in

KEY = generate_keypair(512, insecure_test_mode=True)


@given(
    bits=st.sampled_from([64, 127, 130, 512, 2048]),
    value_bits=st.integers(1, 40),
    terms=st.sampled_from([1, 3, 10**6]),
    group=st.integers(1, 6),
    data=st.data(),
)
def test_the_same_residues_as_of_integers(bits, value_bits, terms, group, data):
    try:
        layout = plan_slots(bits, value_bits, terms=terms, group=group)
    except CryptoError:
        return
    n = data.draw(st.integers(1 << (bits - 1), (1 << bits) - 1)) | 1
    largest = (1 << value_bits) - 1
    cell = st.sampled_from([-largest, -1, 0, 1, largest]) | st.integers(-largest, largest)
    rows = data.draw(st.lists(st.lists(cell, min_size=group, max_size=group), min_size=1, max_size=5))
    values = np.array(rows, dtype=np.int64)
    packed = pack_residues(layout, values, n)
    assert packed.shape == (len(rows), -(-bits // 8))
    assert [int(x) for x in numbers_in(packed)] == [x % n for x in pack_slots(layout, values)]


@pytest.mark.parametrize("kernel", ["", "gmpy2"])
def test_encrypts_as_integers_do(kernel, monkeypatch):
    monkeypatch.setenv("VFL_KERNEL", kernel)
    key = generate_keypair(512, insecure_test_mode=True)
    layout = plan_slots(512, 24, terms=100, group=2)
    values = np.random.default_rng(0).integers(-(2**24) + 1, 2**24, (50, 2))
    vector = encrypt(key, pack_residues(layout, values, key.public.n))
    assert vector.fresh
    opened = unpack_slots(layout, decrypt(key, vector), key.public.n)
    np.testing.assert_array_equal(opened[:, :2], values)
    assert not opened[:, 2:].any()


@pytest.mark.parametrize(
    ("values", "n"),
    [
        (np.array([[1 << 24, 0]]), KEY.public.n),
        (np.array([[1.0, 0.0]]), KEY.public.n),
        (np.array([1, 2]), KEY.public.n),
        (np.array([[1, 2]]), KEY.public.n >> 1),
    ],
    ids=["too large", "floats", "one dimension", "another modulus"],
)
def test_refuses(values, n):
    with pytest.raises(CryptoError, match="Slots"):
        pack_residues(plan_slots(512, 24, group=2), values, n)


BAD_ROWS = {
    "large": np.full((1, 64), 255, np.uint8),
    "narrow": np.zeros((1, 63), np.uint8),
    "one dimension": np.zeros(64, np.uint8),
    "another type": np.zeros((1, 64), np.int64),
}


@pytest.mark.parametrize("kernel", ["", "gmpy2"])
@pytest.mark.parametrize("name", BAD_ROWS)
def test_encrypts_residues_only(kernel, name, monkeypatch):
    monkeypatch.setenv("VFL_KERNEL", kernel)
    key = generate_keypair(512, insecure_test_mode=True)
    with pytest.raises(CryptoError, match="residue"):
        encrypt(key, BAD_ROWS[name])
