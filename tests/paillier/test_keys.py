import copy
import math
import pickle
from dataclasses import FrozenInstanceError

import gmpy2
import pytest

from parties.errors import ConfigError, CryptoError, LocalProtocolError
from tests.paillier.plain import one_plus
from vfl.paillier import PrivateKey, PublicKey, generate_keypair, public_key_from_wire
from vfl.paillier.kernels import multiply


@pytest.mark.parametrize("bits", [256, 512, 514, 1024])
def test_primes_are_as_the_paper_wants_them(bits: int) -> None:
    key = generate_keypair(bits, insecure_test_mode=True)
    p, q = key.primes()
    assert p % 4 == q % 4 == 3
    assert math.gcd(p - 1, q - 1) == 2
    assert p * q == key.public.n
    assert key.public.n.bit_length() == key.public.bits == bits
    assert key.public.exponent_bits == bits // 2


def test_h_s_is_an_nth_power_outside_the_squares(key: PrivateKey) -> None:
    p, q = key.primes()
    n, h_s = key.public.n, key.public.h_s
    assert gmpy2.powmod(h_s, (p - 1) * (q - 1), n * n) == 1  # order divides phi(N): no plaintext in it
    assert gmpy2.jacobi(h_s, p) == gmpy2.jacobi(h_s, q) == -1
    assert gmpy2.jacobi(h_s, n) == 1


@pytest.mark.parametrize("bits", [0, -2, 512, 1024, 2046, 2049, 8194])
def test_lengths_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(ConfigError, match="bits"):
        generate_keypair(bits)


@pytest.mark.parametrize("bits", [128, 255, 513])
def test_test_mode_has_limits_too(bits: int) -> None:
    with pytest.raises(ConfigError, match="256"):
        generate_keypair(bits, insecure_test_mode=True)


@pytest.mark.parametrize("exponent_bits", [0, 447, 1025])
def test_exponent_lengths_out_of_range_are_refused(exponent_bits: int) -> None:
    with pytest.raises(ConfigError, match="exponents"):
        generate_keypair(1024, exponent_bits=exponent_bits, insecure_test_mode=True)


@pytest.mark.parametrize("exponent_bits", [448, 449, 1024])
def test_exponent_length_only_when_asked_for(exponent_bits: int) -> None:
    key = generate_keypair(1024, exponent_bits=exponent_bits, insecure_test_mode=True)
    assert key.public.exponent_bits == exponent_bits


def test_full_length(key2048: PrivateKey) -> None:
    assert (key2048.public.bits, key2048.public.exponent_bits) == (2048, 1024)
    assert key2048.public.ciphertext_bytes == 512


def test_two_keys_differ(key: PrivateKey, other_key: PrivateKey) -> None:
    assert key.public != other_key.public
    assert key.public.fingerprint != other_key.public.fingerprint


@pytest.mark.parametrize("threads", ["1", "2", "3"])
@pytest.mark.parametrize("count", [0, 1, 8, 9, 17])
def test_decryption_on_any_number_of_threads(
    key: PrivateKey, count: int, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ends of [0, N) among the plaintexts; without obfuscators, so that ciphertexts are what the formula says."""
    monkeypatch.setenv("VFL_THREADS", threads)
    n, kernel = key.public.n, key.public.kernel
    plaintexts = ([0, 1, n - 1, n // 2, *range(2, 20)])[:count]
    assert key.decrypt_values(one_plus(kernel, plaintexts)) == plaintexts
    h_s = kernel.pack([key.public.h_s] * count)
    assert key.decrypt_values(multiply(kernel, one_plus(kernel, plaintexts), h_s)) == plaintexts


def test_secrets_are_not_in_the_text(key: PrivateKey) -> None:
    text = repr(key) + str(key) + repr(key.public)
    numbers = [*key.primes(), key.public.n, key.public.h_s]
    assert not any(str(x) in text or f"{x:x}" in text for x in numbers)


def test_private_keys_are_neither_pickled_nor_copied(key: PrivateKey) -> None:
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(LocalProtocolError):
            attempt(key)


def test_primes_must_belong_to_the_public_key(key: PrivateKey, other_key: PrivateKey) -> None:
    with pytest.raises(CryptoError):
        PrivateKey(key.public, *other_key.primes())
    p, q = key.primes()
    with pytest.raises(CryptoError):
        PrivateKey(PublicKey(p * p, 2, 256), p, p)
    with pytest.raises(CryptoError):
        PrivateKey(key.public, 1, p * q)


def test_public_keys_are_frozen(key: PrivateKey) -> None:
    with pytest.raises(FrozenInstanceError):
        key.public.n = 15  # type: ignore[misc]


def test_wire_round_trip(key: PrivateKey) -> None:
    received = public_key_from_wire(*key.public.to_wire(), min_bits=512)
    assert received == key.public
    assert received.fingerprint == key.public.fingerprint
    assert len(received.fingerprint) == 16


def test_fingerprint_covers_every_field(key: PrivateKey) -> None:
    k = key.public
    variants = [k, PublicKey(k.n, k.h_s + 1, k.exponent_bits), PublicKey(k.n, k.h_s, k.exponent_bits + 1)]
    assert len({v.fingerprint for v in variants}) == 3


def wire(key: PublicKey, **changed: int) -> tuple[bytes, bytes, int]:
    return PublicKey(
        changed.get("n", key.n), changed.get("h_s", key.h_s), changed.get("exponent_bits", key.exponent_bits)
    ).to_wire()


def test_received_keys_are_checked(key: PrivateKey) -> None:
    k, p = key.public, key.primes()[0]
    symbol_minus_one = next(x for x in range(2, 1000) if gmpy2.jacobi(x, k.n) == -1)
    bad = {
        "even": wire(k, n=k.n - 1),
        "square": wire(k, n=p * p),
        "prime": wire(k, n=int(gmpy2.next_prime(1 << 511)), h_s=4),
        "zero": wire(k, h_s=0),
        "one": wire(k, h_s=1),
        "hides nothing": wire(k, h_s=1 + 5 * k.n),
        "no unit": wire(k, h_s=p),
        "symbol": wire(k, h_s=symbol_minus_one),
        "too large": (k.n.to_bytes(64), (k.n**2 + 4).to_bytes(128), k.exponent_bits),
        "exponents short": wire(k, exponent_bits=255),
        "exponents long": wire(k, exponent_bits=513),
        "n padded": (b"\0" + k.n.to_bytes(64), k.h_s.to_bytes(128), k.exponent_bits),
        "h_s short": (k.n.to_bytes(64), k.h_s.to_bytes(128)[:-1], k.exponent_bits),
        "h_s padded": (k.n.to_bytes(64), b"\0" + k.h_s.to_bytes(128), k.exponent_bits),
        "n empty": (b"", k.h_s.to_bytes(128), k.exponent_bits),
        "h_s empty": (k.n.to_bytes(64), b"", k.exponent_bits),
        "n huge": (b"\xff" * 100_000, k.h_s.to_bytes(128), k.exponent_bits),
        "h_s huge": (k.n.to_bytes(64), b"\xff" * 100_000, k.exponent_bits),
    }
    for what, fields in bad.items():
        with pytest.raises(CryptoError, match="Received public key"):
            pytest.fail(f"accepted: {what}, {public_key_from_wire(*fields, min_bits=256)}")


def test_received_keys_must_be_long_enough(key: PrivateKey) -> None:
    with pytest.raises(CryptoError, match="2048"):
        public_key_from_wire(*key.public.to_wire(), min_bits=2048)


def test_exponent_floor_of_received_full_length_keys(key1024: PrivateKey) -> None:
    with pytest.raises(CryptoError, match="448 to 1024"):
        public_key_from_wire(*wire(key1024.public, exponent_bits=447), min_bits=1024)
    assert public_key_from_wire(*wire(key1024.public, exponent_bits=448), min_bits=1024)
