import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vfl.paillier as paillier
from parties.errors import CryptoError, LocalProtocolError
from vfl.paillier import CipherVector, PrivateKey, generate_keypair
from vfl.paillier.inverses import invert_all

KEY = generate_keypair(256, insecure_test_mode=True)
N = KEY.public.n
HALF = (N - 1) // 2
plaintexts = st.one_of(st.sampled_from([0, 1, -1, HALF, -HALF]), st.integers(-HALF, HALF))
vectors = st.lists(plaintexts, max_size=8)


def numbers(v: CipherVector) -> list[int]:
    return [paillier.centred(x, N) for x in paillier.decrypt(KEY, v)]


def wrapped(values: list[int]) -> list[int]:
    return [paillier.centred(x, N) for x in values]


@given(vectors, st.booleans())
@settings(deadline=None, max_examples=60)
def test_round_trip(values: list[int], owner: bool) -> None:
    assert numbers(paillier.encrypt(KEY if owner else KEY.public, values)) == values


@given(st.lists(st.tuples(plaintexts, plaintexts), max_size=6))
@settings(deadline=None, max_examples=60)
def test_sums(pairs: list[tuple[int, int]]) -> None:
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    expected = wrapped([a + b for a, b in pairs])
    assert numbers(paillier.add(paillier.encrypt(KEY, left), paillier.encrypt(KEY.public, right))) == expected
    assert numbers(paillier.add_plain(paillier.encrypt(KEY, left), right)) == expected


@given(st.lists(st.tuples(plaintexts, st.one_of(plaintexts, st.integers(-3, 3))), max_size=6))
@settings(deadline=None, max_examples=60)
def test_multiples(pairs: list[tuple[int, int]]) -> None:
    v = paillier.scale(paillier.encrypt(KEY, [a for a, _ in pairs]), [k for _, k in pairs])
    assert numbers(v) == wrapped([a * k for a, k in pairs])


@given(vectors, st.booleans())
@settings(deadline=None, max_examples=40)
def test_rerandomising_changes_every_ciphertext_and_no_plaintext(values: list[int], towards_owner: bool) -> None:
    v = paillier.encrypt(KEY, values)
    w = paillier.rerandomise(v, towards_owner=towards_owner)
    assert w.fresh
    assert numbers(w) == values
    assert not (paillier.to_bytes(v) == paillier.to_bytes(w)).all(axis=1).any()


@pytest.mark.parametrize("count", range(36))
def test_batch_inversion(count: int) -> None:
    kernel = KEY.public.kernel
    values = [pow(3, i + 1, N * N) for i in range(count)]
    assert kernel.unpack(invert_all(kernel, kernel.pack(values))) == [pow(x, -1, N * N) for x in values]


def test_a_number_without_inverse_is_not_passed_over() -> None:
    kernel = KEY.public.kernel
    with pytest.raises(ZeroDivisionError):
        invert_all(kernel, kernel.pack([3, N, 5]))


@pytest.mark.parametrize("value", [HALF + 1, -HALF - 1, N, -N], ids=["half + 1", "-half - 1", "N", "-N"])
def test_what_does_not_fit_is_refused(value: int) -> None:
    for source in (KEY, KEY.public):
        with pytest.raises(CryptoError, match="does not fit"):
            paillier.encrypt(source, [0, value])
    with pytest.raises(CryptoError, match="does not fit"):
        paillier.scale(paillier.encrypt(KEY, [1]), [value])


def test_lengths_must_agree() -> None:
    v = paillier.encrypt(KEY, [1, 2])
    for attempt in (
        lambda: paillier.add(v, v[:1]),
        lambda: paillier.add_plain(v, [1]),
        lambda: paillier.scale(v, [1, 2, 3]),
    ):
        with pytest.raises(LocalProtocolError, match="for 2 ciphertexts"):
            attempt()


def test_numpy_integers_are_plaintexts_too() -> None:
    assert numbers(paillier.encrypt(KEY, np.array([3, -4]).tolist())) == [3, -4]
    assert numbers(paillier.encrypt(KEY, list(np.array([3, -4])))) == [3, -4]  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [5, 200])
@pytest.mark.parametrize("owner", [True, False])
def test_equal_plaintexts_give_different_ciphertexts(key: PrivateKey, owner: bool, count: int) -> None:
    """Below and above the count from which tables are used."""
    v = paillier.encrypt(key if owner else key.public, [7] * count)
    rows = paillier.to_bytes(v)
    assert len({row.tobytes() for row in rows}) == count
    assert all((int.from_bytes(row.tobytes()) - 1) % key.public.n for row in rows)


def test_centred() -> None:
    for modulus in (9, 10):
        for x in range(-30, 30):
            c = paillier.centred(x, modulus)
            assert (c - x) % modulus == 0
            assert -modulus <= 2 * c < modulus
