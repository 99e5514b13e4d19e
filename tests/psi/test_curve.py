"""X25519 against RFC 7748 and `cryptography`; hashing never lands on the twist."""

import gmpy2
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from psi import curve

P = 2**255 - 19


def ids(count):
    return [b"person %d" % i for i in range(count)]


def points(*numbers):
    return np.frombuffer(b"".join(u.to_bytes(32, "little") for u in numbers), np.uint8).reshape(-1, 32)


def on_curve(rows):
    us = [int.from_bytes(row.tobytes(), "little") for row in rows]
    return np.array([gmpy2.jacobi(u**3 + 486662 * u**2 + u, P) == 1 for u in us])


@pytest.mark.parametrize(
    ("scalar", "u", "product"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_rfc_7748_vectors(scalar, u, product):
    point = np.frombuffer(bytes.fromhex(u), np.uint8).reshape(1, 32)
    assert curve.mask(point, bytes.fromhex(scalar)).tobytes().hex() == product


def test_rfc_7748_iterated():
    k = u = (9).to_bytes(32, "little")
    for _ in range(1000):
        k, u = curve.mask(np.frombuffer(u, np.uint8).reshape(1, 32), k).tobytes(), k
    assert k.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_masks_like_cryptography():
    secret, hashed = curve.fresh_secret(), curve.hash_to_curve(ids(50))
    key = X25519PrivateKey.from_private_bytes(secret)
    expected = b"".join(key.exchange(X25519PublicKey.from_public_bytes(row.tobytes())) for row in hashed)
    assert curve.mask(hashed, secret).tobytes() == expected


def test_hashed_points_are_on_the_curve_and_stay_there():
    hashed = curve.hash_to_curve(ids(300))
    assert on_curve(hashed).all()
    assert on_curve(curve.mask(hashed, curve.fresh_secret())).all()
    assert curve.canonical(hashed)
    assert not curve.repeats(hashed)


def test_naive_hashing_would_show_a_bit_of_every_id_through_all_masks():
    """Why the Jacobi test is there: without it half of the points lie on the twist, and masks keep them there."""
    rng = np.random.default_rng(1)
    naive = rng.integers(0, 256, (200, 32), np.uint8)
    naive[:, 31] &= 0x3F
    once = curve.mask(naive, curve.fresh_secret())
    twice = curve.mask(once, curve.fresh_secret())
    assert 60 < on_curve(naive).sum() < 140
    assert (on_curve(twice) == on_curve(naive)).all()


def test_hash_depends_on_every_byte_and_is_fixed():
    assert not curve.repeats(curve.hash_to_curve([b"a", b"b", b"a\x00", b"", b"aa"]))
    expected = "a2875e3d5049bf99c905e2cef8fee19ba7bc613d0d4064abc04d05e88c87151f"
    assert curve.hash_to_curve([b"ann"]).tobytes().hex() == expected


def test_masks_commute():
    hashed, (a, b, c) = curve.hash_to_curve(ids(40)), (curve.fresh_secret() for _ in range(3))
    left = curve.mask(curve.mask(curve.mask(hashed, a), b), c)
    right = curve.mask(curve.mask(curve.mask(hashed, c), a), b)
    assert (left == right).all()


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_give_what_one_gives(workers):
    names, secret = ids(2 * curve._CHUNK + 5), b"\x11" * 32
    hashed = curve.hash_to_curve(names)
    masked = curve.hash_and_mask(names, secret, workers=workers)
    assert masked.shape == (len(names), 32)
    assert (masked[[0, curve._CHUNK, -1]] == curve.mask(hashed[[0, curve._CHUNK, -1]], secret)).all()
    assert (curve.mask(hashed, secret, workers=workers) == masked).all()


def test_empty_list():
    assert curve.hash_and_mask([], curve.fresh_secret()).shape == (0, 32)


LOW_ORDER = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    P - 1,
]


@pytest.mark.parametrize("u", LOW_ORDER)
@pytest.mark.parametrize("workers", [1, 2])
def test_points_of_low_order_are_refused(u, workers, monkeypatch):
    monkeypatch.setattr(curve, "_CHUNK", 2)
    with pytest.raises(curve.LowOrderPoint):
        curve.mask(points(9, 9, 9, u), curve.fresh_secret(), workers=workers)


@pytest.mark.parametrize("u", [P, P + 1, P + 18, 2**255, 2**255 + 9, 2**256 - 1])
def test_second_spellings_are_seen(u):
    assert not curve.canonical(points(9, u))


@pytest.mark.parametrize("u", [0, P - 1, 2**254, 2**255 - 2**16])
def test_reduced_points_are_canonical(u):
    assert curve.canonical(points(u))


def test_repeats_compares_whole_rows():
    rows = points(1, 2, 3, 1 + 2**200)
    assert not curve.repeats(rows)
    assert curve.repeats(points(1, 2, 3, 1))
    assert not curve.repeats(rows[:1])
    assert not curve.repeats(rows[:0])
    zeros = np.zeros((2, 12), np.uint8)
    zeros[0, 11] = 1
    assert not curve.repeats(zeros)
