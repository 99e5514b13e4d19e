"""X25519 against RFC 7748 and `cryptography`, the map against RFC 9380, in C and without it; nothing on the twist."""

from __future__ import annotations

import gmpy2
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parties.errors import ConfigError
from parties.wire import Bytes2D
from psi import curve, curve_ifma
from psi.elements import elements_of

P = 2**255 - 19
A = 486662
# Of order 1, 2, 4 and 8 on the curve and the twist, and their second spellings.
LOW_ORDER = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    P - 1,
    P,
    P + 1,
]
# Of "ann" and "bob".
FIXED = [
    "e0c069048501643da692168ad18033f41123833f5c5e9e58aea61cc1e2204a7f",
    "f4529387cdccccd101f858d680936842ae512e07f93a038980517a7863f0737b",
]
SECRETS = [bytes(32), b"\xff" * 32, b"\xaa" * 32, b"\x55" * 32, b"\x01" + bytes(31), bytes(31) + b"\x80"]
plain_hypothesis = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(params=["ifma", "gmpy2"], autouse=True)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "ifma" and curve_ifma.why_not_ifma():
        pytest.skip(f"X25519 in C: {curve_ifma.why_not_ifma()}")
    monkeypatch.setenv("VFL_KERNEL", request.param)
    return str(request.param)


def elements(count: int) -> Bytes2D:
    return elements_of([b"person %d" % i for i in range(count)])


def points(*numbers: int) -> Bytes2D:
    return np.frombuffer(b"".join(u.to_bytes(32, "little") for u in numbers), np.uint8).reshape(-1, 32)


def point(text: str) -> Bytes2D:
    return np.frombuffer(bytes.fromhex(text), np.uint8).reshape(1, 32)


def numbers(rows: Bytes2D) -> list[int]:
    return [int.from_bytes(row.tobytes(), "little") for row in rows]


def on_curve(rows: Bytes2D) -> np.ndarray:
    return np.array([gmpy2.jacobi(u**3 + A * u**2 + u, P) == 1 for u in numbers(rows)])


def by_cryptography(rows: Bytes2D, secret: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(secret)
    return b"".join(key.exchange(X25519PublicKey.from_public_bytes(row.tobytes())) for row in rows)


def by_hand(element: int) -> int:
    """Elligator 2 as RFC 9380, section 6.7.1, says it."""
    r = element % 2**255
    x1 = -A * pow(1 + 2 * r * r, -1, P) % P
    return x1 if gmpy2.jacobi(x1**3 + A * x1**2 + x1, P) >= 0 else (-x1 - A) % P


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
def test_rfc_7748_vectors(scalar: str, u: str, product: str) -> None:
    assert curve.mask(point(u), bytes.fromhex(scalar)).tobytes().hex() == product


def test_rfc_7748_iterated() -> None:
    k = u = (9).to_bytes(32, "little")
    for times in range(1000):
        if times == 1:
            assert k.hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
        k, u = curve.mask(np.frombuffer(u, np.uint8).reshape(1, 32), k).tobytes(), k
    assert k.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


@pytest.mark.parametrize(
    ("r", "u"),
    [  # RFC 9380, appendix J.4.2: u[0] and Q.x
        (
            "608d892b641f0328523802a6603427c26e55e6f27e71a91a478148d45b5093cd",
            "51125222da5e763d97f3c10fcc92ea6860b9ccbbd2eb1285728f566721c1e65b",
        ),
        (
            "46f5b22494bfeaa7f232cc8d054be68561af50230234d7d1d63d1d9abeca8da5",
            "7d56d1e08cb0ccb92baf069c18c49bb5a0dcd927eff8dcf75ca921ef7f3e6eeb",
        ),
        (
            "235fe40c443766ce7e18111c33862d66c3b33267efa50d50f9e8e5d252a40aaa",
            "3fbe66b9c9883d79e8407150e7c2a1c8680bee496c62fabe4619a72b3cabe90f",
        ),
        (
            "001e92a544463bda9bd04ddbe3d6eed248f82de32f522669efc5ddce95f46f5b",
            "227e0bb89de700385d19ec40e857db6e6a3e634b1c32962f370d26f84ff19683",
        ),
        (
            "1a68a1af9f663592291af987203393f707305c7bac9c8d63d6a729bdc553dc19",
            "3bcd651ee54d5f7b6013898aab251ee8ecc0688166fce6e9548d38472f6bd196",
        ),
    ],
)
def test_rfc_9380_vectors(r: str, u: str) -> None:
    """Which are printed as numbers, and stand here as rows."""
    assert numbers(curve.hash_to_curve(points(int(r, 16)))) == [int(u, 16)]


@pytest.mark.parametrize("count", [*range(1, 18), 127, 128, 129, 137])
def test_masks_like_cryptography(count: int) -> None:
    """For numbers of points around whole vectors and whole groups of vectors; half of them lie on the twist."""
    secret = curve.fresh_secret()
    rows = np.random.default_rng(count).integers(0, 256, (count, 32), np.uint8)
    assert curve.mask(rows, secret).tobytes() == by_cryptography(rows, secret)


@pytest.mark.parametrize("secret", SECRETS, ids=range(len(SECRETS)))
def test_secrets_with_long_runs(secret: bytes) -> None:
    rows = elements(9)
    assert curve.mask(rows, secret).tobytes() == by_cryptography(rows, secret)


def edges(width: int) -> st.SearchStrategy[int]:
    """Numbers of 255 bits of which every digit of so many bits is all zeros, all ones, nearly so or anything."""
    top = (1 << width) - 1
    digit = st.sampled_from([0, 1, top - 19, top - 18, top - 1, top, top >> 1]) | st.integers(0, top)
    digits = st.lists(digit, min_size=-(-255 // width), max_size=-(-255 // width))
    return digits.map(lambda ds: sum(d << width * i for i, d in enumerate(ds)) % 2**255)


near = st.sampled_from([0, 1, P, 2 * P, 2**255, 2**254, 2**52, 2**208, (P - 1) // 2, A, P - A])
extreme = edges(52) | edges(51) | near.flatmap(lambda m: st.integers(-40, 40).map(lambda d: (m + d) % 2**256))


@plain_hypothesis
@given(st.lists(extreme.filter(lambda u: u % 2**255 not in LOW_ORDER), min_size=1, max_size=9), extreme)
def test_extreme_points_and_secrets(us: list[int], secret: int) -> None:
    """Spelled in any way, with the highest bit too: it is not looked at."""
    rows, key = points(*us), secret.to_bytes(32, "little")
    assert curve.mask(rows, key).tobytes() == by_cryptography(rows, key)


@plain_hypothesis
@given(st.lists(extreme, min_size=1, max_size=9))
def test_extreme_elements(rs: list[int]) -> None:
    assert numbers(curve.hash_to_curve(points(*rs))) == [by_hand(r) for r in rs]


@pytest.mark.parametrize("count", [*range(1, 18), 127, 128, 129, 137])
def test_any_number_of_elements(count: int) -> None:
    rows = elements(count)
    assert numbers(curve.hash_to_curve(rows)) == [by_hand(r) for r in numbers(rows)]


def test_hashed_points_are_on_the_curve_and_stay_there() -> None:
    hashed = curve.hash_to_curve(elements(300))
    assert on_curve(hashed).all()
    assert on_curve(curve.mask(hashed, curve.fresh_secret())).all()
    assert curve.canonical(hashed)
    assert len({row.tobytes() for row in hashed}) == 300


def test_naive_hashing_would_show_a_bit_of_every_id_through_all_masks() -> None:
    """Why there is a map: elements taken as points lie on the twist every other time, and masks keep them there."""
    naive = elements(200)
    naive = naive & np.array([0xFF] * 31 + [0x3F], np.uint8)
    once = curve.mask(naive, curve.fresh_secret())
    twice = curve.mask(once, curve.fresh_secret())
    assert 60 < on_curve(naive).sum() < 140
    assert (on_curve(twice) == on_curve(naive)).all()


def test_ids_have_the_points_that_they_always_had() -> None:
    """Parties with different versions would find nothing in common."""
    hashed = curve.hash_to_curve(elements_of([b"ann", b"bob"]))
    assert [row.tobytes().hex() for row in hashed] == FIXED


def test_masks_commute() -> None:
    hashed, (a, b, c) = curve.hash_to_curve(elements(40)), (curve.fresh_secret() for _ in range(3))
    left = curve.mask(curve.mask(curve.mask(hashed, a), b), c)
    right = curve.mask(curve.mask(curve.mask(hashed, c), a), b)
    assert (left == right).all()


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_give_what_one_gives(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "_CHUNK", 100)
    rows, secret = elements(305), b"\x11" * 32
    hashed = curve.hash_to_curve(rows)
    masked = curve.hash_and_mask(rows, secret, workers=workers)
    assert masked.tobytes() == by_cryptography(hashed, secret)
    assert (curve.mask(hashed, secret, workers=workers) == masked).all()


def test_rows_need_not_lie_side_by_side() -> None:
    wide, secret = np.repeat(elements(20), 2, axis=1), b"\x11" * 32
    assert (curve.hash_and_mask(wide[::2, ::2], secret) == curve.hash_and_mask(elements(20)[::2], secret)).all()


def test_empty_list() -> None:
    assert curve.hash_and_mask(elements(0), curve.fresh_secret()).shape == (0, 32)


@pytest.mark.parametrize("u", LOW_ORDER, ids=range(len(LOW_ORDER)))
@pytest.mark.parametrize("workers", [1, 2])
def test_points_of_low_order_are_refused(u: int, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "_CHUNK", 2)
    for spelled in (u, u + 2**255):
        with pytest.raises(curve.LowOrderPoint):
            curve.mask(points(9, 9, 9, spelled), curve.fresh_secret(), workers=workers)


@pytest.mark.parametrize("u", [P, P + 1, P + 18, 2**255, 2**255 + 9, 2**256 - 1])
def test_second_spellings_are_seen(u: int) -> None:
    assert not curve.canonical(points(9, u))


@pytest.mark.parametrize("u", [0, P - 1, 2**254, 2**255 - 2**16])
def test_reduced_points_are_canonical(u: int) -> None:
    assert curve.canonical(points(u))


def test_the_environment_chooses(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert curve_ifma.use_ifma() == (kernel == "ifma")
    monkeypatch.setenv("VFL_KERNEL", "")
    assert curve_ifma.use_ifma() == (curve_ifma.why_not_ifma() is None)
    monkeypatch.setenv("VFL_KERNEL", "abacus")
    with pytest.raises(ConfigError, match=r"VFL_KERNEL.*'abacus'.*gmpy2"):
        curve.hash_to_curve(elements(1))


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_ifma, "library", lambda: None)
    monkeypatch.setenv("VFL_KERNEL", "")
    assert not curve_ifma.use_ifma()
    assert numbers(curve.hash_to_curve(elements(2))) == [by_hand(r) for r in numbers(elements(2))]
    monkeypatch.setenv("VFL_KERNEL", "ifma")
    with pytest.raises(ConfigError, match="VFL_KERNEL: ifma can't be used here: the C code of psi is not built"):
        curve.mask(points(9), bytes(32))
