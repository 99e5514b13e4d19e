"""Secret sharing: any threshold of shares opens, fewer fit every secret alike, damaged ones are refused."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress

import gmpy2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parties.errors import CryptoError, RemoteProtocolError
from vfl import shamir
from vfl.shamir import PRIME, SHARE_BYTES, join, read_share, split

secrets_ = st.binary(min_size=32, max_size=32)


def test_the_modulus_is_the_least_prime_above_the_secrets() -> None:
    assert gmpy2.next_prime(2**256 - 1) == PRIME and PRIME.bit_length() <= 8 * SHARE_BYTES


@given(secrets_, st.integers(1, 9), st.integers(0, 5), st.randoms(use_true_random=False))
def test_any_threshold_of_shares_opens(secret: bytes, threshold: int, more: int, random) -> None:
    shares = dict(enumerate(split(secret, threshold, threshold + more), 1))
    chosen = random.sample(sorted(shares), threshold)
    assert join({at: shares[at] for at in chosen}, threshold) == secret
    assert join(shares, threshold) == secret


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, b"\x00" * 31 + b"\x01"], ids=["zero", "largest", "one"])
def test_the_ends_of_the_range(secret: bytes) -> None:
    for chosen in itertools.combinations(range(1, 6), 3):
        shares = split(secret, 3, 5)
        assert join({at: shares[at - 1] for at in chosen}, 3) == secret


def test_shares_lie_on_one_polynomial_of_the_degree() -> None:
    """Textbook: all finite differences of order threshold vanish, those of one order less do not."""
    values = [int.from_bytes(share) for share in split(os.urandom(32), 4, 9)]
    for _ in range(3):
        values = [(b - a) % PRIME for a, b in itertools.pairwise(values)]
    assert len(set(values)) == 1 and values[0] != 0


def test_too_few_shares_are_refused_and_fit_any_secret() -> None:
    """One more share can always be made up so that any secret comes out: fewer than the threshold exclude nothing."""
    shares = dict(enumerate(split(bytes(32), 3, 5), 1))
    two = {1: shares[1], 2: shares[2]}
    with pytest.raises(CryptoError, match="got 2 shares of a secret, expected 3"):
        join(two, 3)
    wanted = os.urandom(32)
    weights = {at: shamir._lagrange(at, [1, 2, 3]) for at in (1, 2, 3)}
    known = sum(int.from_bytes(two[at]) * weights[at] for at in two)
    third = (int.from_bytes(wanted) - known) * pow(weights[3], -1, PRIME) % PRIME
    assert join({**two, 3: third.to_bytes(SHARE_BYTES)}, 3) == wanted


def test_the_same_secret_is_shared_otherwise_each_time() -> None:
    first, second = split(bytes(32), 2, 3), split(bytes(32), 2, 3)
    assert not set(first) & set(second)


def test_with_threshold_one_every_share_is_the_secret() -> None:
    assert {join({at: share}, 1) for at, share in enumerate(split(b"\x07" * 32, 1, 4), 1)} == {b"\x07" * 32}


@given(st.integers(0, 8 * SHARE_BYTES - 8))
def test_a_changed_share_changes_the_secret(bit: int) -> None:
    secret = os.urandom(32)
    shares = dict(enumerate(split(secret, 2, 3), 1))
    changed = int.from_bytes(shares[2]) ^ 1 << bit
    if changed < PRIME:
        with suppress(CryptoError):  # it would be no secret of 32 bytes
            assert join({1: shares[1], 2: changed.to_bytes(SHARE_BYTES)}, 2) != secret


@pytest.mark.parametrize(
    "share", [b"", bytes(32), bytes(34), PRIME.to_bytes(33), b"\xff" * 33], ids=["none", "short", "long", "p", "above"]
)
def test_shares_out_of_range_are_refused(share: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="a share of another length or range"):
        read_share(share)


@pytest.mark.parametrize(("secret", "threshold", "holders"), [(bytes(31), 1, 2), (bytes(32), 0, 2), (bytes(32), 3, 2)])
def test_what_cannot_be_shared_is_refused(secret: bytes, threshold: int, holders: int) -> None:
    with pytest.raises(ValueError, match="expected a secret of 32 bytes"):
        split(secret, threshold, holders)


def test_shares_of_different_secrets_open_neither() -> None:
    one, other = os.urandom(32), os.urandom(32)
    mixed = {1: split(one, 2, 2)[0], 2: split(other, 2, 2)[1]}
    try:
        assert join(mixed, 2) not in (one, other)
    except CryptoError as error:
        assert "belong to no secret" in str(error)


def test_shares_of_no_secret_are_refused() -> None:
    """256 bits do not fill Z_p: what is beyond them was never shared."""
    with pytest.raises(CryptoError, match="shares that belong to no secret"):
        join({1: (PRIME - 1).to_bytes(SHARE_BYTES)}, 1)
