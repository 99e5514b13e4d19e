import copy
import pickle

import gmpy2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vfl.paillier as paillier
from parties.errors import CryptoError, LocalProtocolError
from vfl.paillier import CipherVector, PrivateKey


def numbers(key: PrivateKey, v: CipherVector) -> list[int]:
    return [paillier.centred(x, key.public.n) for x in paillier.decrypt(key, v)]


def body_of(key: PrivateKey, ciphertexts: list[int]) -> np.ndarray:
    width = key.public.ciphertext_bytes
    return np.frombuffer(b"".join(c.to_bytes(width) for c in ciphertexts), np.uint8).reshape(-1, width)


def test_length_slices_and_joining(key: PrivateKey) -> None:
    v = paillier.encrypt(key, list(range(10)))
    assert (len(v), len(v[2:5]), len(v[10:])) == (10, 3, 0)
    assert numbers(key, v[2:5]) == [2, 3, 4]
    assert numbers(key, v[::-3]) == [9, 6, 3, 0]
    assert numbers(key, CipherVector.concat([v[7:], v[:2]])) == [7, 8, 9, 0, 1]


def test_only_slices(key: PrivateKey) -> None:
    v = paillier.encrypt(key, [1, 2])
    with pytest.raises(TypeError):
        v[0]  # type: ignore[index]
    with pytest.raises(TypeError):
        list(v)  # type: ignore[call-overload]


def test_vectors_stay_opaque(key: PrivateKey) -> None:
    v = paillier.encrypt(key, [123456])
    number = int.from_bytes(paillier.to_bytes(v).tobytes())
    assert str(number) not in repr(v)
    assert repr(v).startswith("CipherVector(1 ciphertexts, fresh=True")
    with pytest.raises(TypeError):
        np.asarray(v)
    with pytest.raises(TypeError):
        np.array([v, v]) + 1
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(LocalProtocolError):
            attempt(v)


def test_wire_round_trip(key: PrivateKey) -> None:
    body = paillier.to_bytes(paillier.encrypt(key, [1, -2, 3]))
    assert (body.shape, body.dtype) == ((3, 128), np.uint8)
    received = paillier.from_bytes(key.public, body, count=3)
    assert numbers(key, received) == [1, -2, 3]
    assert not received.fresh


@given(st.integers(2, 600), st.integers(0, 1))
def test_a_ciphertext_is_as_wide_as_a_row_of_the_kernel(bits: int, top: int) -> None:
    """N^2 has 2 |N| or 2 |N| - 1 bits, which are as many bytes."""
    n = 2 ** (bits - 1) + 1 if top == 0 else 2**bits - 1
    key = paillier.PublicKey(n, 2, 1)
    assert key.kernel.to_rows(key.kernel.pack([1])).shape == (1, key.ciphertext_bytes)


def test_the_largest_numbers_in_range_are_read(key: PrivateKey) -> None:
    """N^2 - 1 has the symbol of -1, which is +1 here (p = q = 3 mod 4); 1 and N^2 - 1 are the ends of the range."""
    nn = key.public.n**2
    received = paillier.from_bytes(key.public, body_of(key, [1, nn - 1]), count=2)
    assert key.public.kernel.unpack(received.values) == [1, nn - 1]


def test_an_empty_vector(key: PrivateKey) -> None:
    v = paillier.encrypt(key, [])
    body = paillier.to_bytes(v)
    assert body.shape == (0, 128)
    assert numbers(key, paillier.from_bytes(key.public, body, count=0)) == []


def test_nothing_leaves_unless_fresh(key: PrivateKey) -> None:
    a = paillier.encrypt(key, [1, 2, 3])
    received = paillier.from_bytes(key.public, paillier.to_bytes(a), count=3)
    idx, offsets = np.array([0, 1]), np.array([0, 2])
    for stale in (
        received,
        paillier.add(received, received),
        paillier.scale(paillier.encrypt(key, [1, 2, 3]), [1, 1, 1]),
        paillier.add_plain(paillier.encrypt(key, [1, 2, 3]), [0, 0, 0]),
        paillier.sum_segments(paillier.encrypt(key, [1, 2]), idx, offsets),
        CipherVector.concat([paillier.encrypt(key, [1]), received]),
    ):
        assert not stale.fresh
        with pytest.raises(LocalProtocolError, match="re-randomising"):
            paillier.to_bytes(stale)
        for towards_owner in (False, True):
            assert paillier.to_bytes(paillier.rerandomise(stale, towards_owner=towards_owner)).size


def test_a_sum_takes_the_freshness_of_one_operand(key: PrivateKey) -> None:
    received = paillier.from_bytes(key.public, paillier.to_bytes(paillier.encrypt(key, [1, 2])), count=2)
    mine = paillier.encrypt(key, [10, 20])
    total = paillier.add(received, mine)
    assert total.fresh
    assert not mine.fresh  # sent beside the sum it would give away what was received
    assert numbers(key, total) == [11, 22]
    assert not paillier.add(received, mine).fresh


def test_a_published_vector_hides_no_sum(key: PrivateKey) -> None:
    received = paillier.from_bytes(key.public, paillier.to_bytes(paillier.encrypt(key, [1])), count=1)
    mine = paillier.encrypt(key, [10])
    first = paillier.to_bytes(mine)
    assert (paillier.to_bytes(mine) == first).all()  # the same bytes to several parties
    assert not paillier.add(received, mine).fresh


def test_freshness_is_shared_by_slices_and_moved_by_concat(key: PrivateKey) -> None:
    received = paillier.from_bytes(key.public, paillier.to_bytes(paillier.encrypt(key, [0, 0])), count=2)
    v = paillier.encrypt(key, [1, 2, 3])
    assert paillier.add(received, v[:2]).fresh
    assert not v[:1].fresh
    assert not v.fresh
    assert v[2:].fresh
    joined = CipherVector.concat([v[2:], paillier.encrypt(key, [4])])
    assert joined.fresh
    assert not v[2:].fresh
    paillier.to_bytes(joined)


def test_keys_do_not_mix(key: PrivateKey, other_key: PrivateKey) -> None:
    a, b = paillier.encrypt(key, [1]), paillier.encrypt(other_key, [1])
    for mix in (lambda: paillier.add(a, b), lambda: CipherVector.concat([a, b]), lambda: paillier.decrypt(key, b)):
        with pytest.raises(LocalProtocolError, match="different keys"):
            mix()
    with pytest.raises(LocalProtocolError):
        CipherVector.concat([])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_wrong_counts_are_refused(key: PrivateKey, count: int) -> None:
    body = paillier.to_bytes(paillier.encrypt(key, [1, 2]))
    with pytest.raises(CryptoError, match="shape"):
        paillier.from_bytes(key.public, body, count=count)


def test_wrong_shapes_and_types_are_refused(key: PrivateKey) -> None:
    body = paillier.to_bytes(paillier.encrypt(key, [1, 2]))
    for bad in (body[:, 1:], body[0], body.ravel(), body.astype(np.int64), body.view(np.int8), body.tobytes(), None):
        with pytest.raises(CryptoError, match="expected uint8"):
            paillier.from_bytes(key.public, bad, count=2)  # type: ignore[arg-type]


def test_rows_in_any_memory_order_are_read(key: PrivateKey) -> None:
    body = paillier.to_bytes(paillier.encrypt(key, [1, 2, 3]))
    assert numbers(key, paillier.from_bytes(key.public, np.asfortranarray(body), count=3)) == [1, 2, 3]
    assert numbers(key, paillier.from_bytes(key.public, body[::2], count=2)) == [1, 3]


@pytest.mark.parametrize("others", [0, 60])
def test_each_received_number_is_checked(key: PrivateKey, others: int) -> None:
    n, (p, q) = key.public.n, key.primes()
    good = body_of(key, [1] * others)
    minus = next(x for x in range(2, 1000) if gmpy2.jacobi(x, n) == -1)
    for bad in (0, n, p, q, p * q * 3, n * n, n * n + 1, minus, minus + n, (1 << 1024) - 1):
        body = np.concatenate([good, body_of(key, [bad]), good])
        with pytest.raises(CryptoError, match="Received ciphertexts"):
            paillier.from_bytes(key.public, body, count=2 * others + 1)


def test_symbols_of_two_bad_numbers_do_not_cancel(key: PrivateKey) -> None:
    minus = next(x for x in range(2, 1000) if gmpy2.jacobi(x, key.public.n) == -1)
    with pytest.raises(CryptoError, match="Jacobi"):
        paillier.from_bytes(key.public, body_of(key, [minus, minus]), count=2)


def test_errors_name_no_values(key: PrivateKey) -> None:
    bad = key.public.n * 3
    with pytest.raises(CryptoError) as caught:
        paillier.from_bytes(key.public, body_of(key, [bad]), count=1)
    assert str(bad) not in str(caught.value)
