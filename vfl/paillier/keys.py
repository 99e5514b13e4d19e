"""Paillier keys with the obfuscators of Damgard, Jurik and Nielsen (2010, section 4.2).

Symbols, as in the paper: N = p q with p = q = 3 mod 4 and gcd(p - 1, q - 1) = 2; h = -x^2 mod N for a random unit x;
h_s = h^N mod N^2. A ciphertext of m is (1 + m N) h_s^a mod N^2 with a fresh random a of `exponent_bits` bits.

Every obfuscator is a power of h_s, so every ciphertext has Jacobi symbol +1 modulo N. With the textbook's full-range
r^N the public symbol of a product of powers would give away parities of the exponents.

What is public: N, h_s, exponent_bits and the fingerprint. What is secret: p, q and all that is made from them.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

from parties.errors import ConfigError, CryptoError, LocalProtocolError
from vfl.paillier.gmp import gcd, invert, is_prime, is_square, jacobi, mpz, powmod
from vfl.paillier.kernel_time import timed
from vfl.paillier.kernels import Kernel, Values, open_kernel
from vfl.paillier.obfuscators import Obfuscators, OwnerObfuscators
from vfl.paillier.rows import Rows
from vfl.paillier.split import even_cuts, run_parts, thread_count

MIN_KEY_BITS = 2048
MAX_KEY_BITS = 8192
_TEST_MIN_KEY_BITS = 256
_SHORT_EXPONENT_BITS = 448
_MILLER_RABIN_ROUNDS = 40
_FEW = 8  # ciphertexts; a kernel may not be able to share so few among threads, but p and q can be taken side by side


@dataclass(frozen=True)
class PublicKey:
    """A public key; equal keys have equal fingerprints.

    Parameters
    ----------
    n : int
        The modulus N.
    h_s : int
        Base of the obfuscators, an N-th power modulo N^2.
    exponent_bits : int, bits
        Length of the obfuscators' random exponents.
    """

    n: int
    h_s: int
    exponent_bits: int

    @property
    def bits(self) -> int:
        """Length of N in bits."""
        return self.n.bit_length()

    @property
    def ciphertext_bytes(self) -> int:
        """Bytes of one ciphertext on the wire."""
        return (2 * self.bits + 7) // 8

    @cached_property
    def fingerprint(self) -> bytes:
        """16 bytes that name this key: a hash of all of its fields."""
        n, h_s, exponent_bits = self.to_wire()
        header = b"paillier key 1|%d|%d|" % (self.bits, exponent_bits)
        return hashlib.sha256(header + n + h_s).digest()[:16]

    def to_wire(self) -> tuple[bytes, bytes, int]:
        """Return N and h_s big-endian and the exponent length, for `public_key_from_wire`."""
        return self.n.to_bytes((self.bits + 7) // 8), self.h_s.to_bytes(self.ciphertext_bytes), self.exponent_bits

    @cached_property
    def kernel(self) -> Kernel:
        """Arithmetic modulo N^2."""
        return open_kernel(self.n)

    @cached_property
    def obfuscators(self) -> Obfuscators:
        """Source of fresh powers of h_s, with its tables."""
        return Obfuscators(self.kernel, self.h_s, self.exponent_bits, self.bits)

    def __repr__(self) -> str:
        return f"PublicKey({self.bits} bits, {self.exponent_bits}-bit exponents, {self.fingerprint.hex()})"


class PrivateKey:
    """A private key: the primes and what decryption by the Chinese remainder theorem needs.

    Made by `generate_keypair` or by `vfl.paillier.interchange`. It cannot be pickled and its text shows no secret.
    """

    def __init__(self, public: PublicKey, p: int, q: int) -> None:
        if p * q != public.n or p == q or not (is_prime(p, 25) and is_prime(q, 25)):
            raise CryptoError("Private key: the primes do not belong to the public key.")
        self.public = public
        self._p, self._q = mpz(p), mpz(q)
        self._p_inverse = invert(self._p, self._q)
        self._h_p, self._h_q = _log_factor(self._p, public.n), _log_factor(self._q, public.n)

    @cached_property
    def _kernel_p(self) -> Kernel:
        return open_kernel(int(self._p))

    @cached_property
    def _kernel_q(self) -> Kernel:
        return open_kernel(int(self._q))

    @cached_property
    def obfuscators(self) -> OwnerObfuscators:
        """Source of fresh powers of h_s modulo p^2 and q^2: the same distribution as everybody's, faster."""
        key = self.public
        return OwnerObfuscators(key.kernel, self._kernel_p, self._kernel_q, key.h_s, key.exponent_bits, key.bits)

    def primes(self) -> tuple[int, int]:
        """Return p and q, for interchange. Secret."""
        return int(self._p), int(self._q)

    def decrypt_values(self, ciphertexts: Values) -> list[int]:
        """Return the plaintexts in [0, N) of values of the public key's kernel, by CRT with secret powers."""
        p, q, p_inverse = self._p, self._q, self._p_inverse
        rows = self.public.kernel.to_rows(ciphertexts)
        residues: list[list[mpz]] = [[], []]

        def work(start: int, stop: int) -> None:
            for half in range(start, stop):
                kernel, factor = ((self._kernel_p, self._h_p), (self._kernel_q, self._h_q))[half]
                residues[half] = _logarithms(kernel, rows, factor)

        run_parts(work, even_cuts(2, thread_count() if len(rows) <= _FEW else 1))
        return [int(m_p + p * ((m_q - m_p) * p_inverse % q)) for m_p, m_q in zip(*residues, strict=True)]

    def __repr__(self) -> str:
        return f"PrivateKey(of {self.public!r})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise LocalProtocolError("A private key cannot be pickled or copied; it stays where it was made.")


def _log_factor(prime: mpz, n: int) -> mpz:
    """Return L(g^(p-1) mod p^2)^-1 mod p for g = 1 + N and L(u) = (u - 1) / p."""
    return invert((powmod(n + 1, prime - 1, prime * prime) - 1) // prime, prime)


def _logarithms(kernel: Kernel, rows: Rows, factor: mpz) -> list[mpz]:
    """Return L(c^(p-1) mod p^2) factor mod p for the ciphertext in every row."""
    p = kernel.modulus
    powers = kernel.pow_uniform(kernel.from_rows(rows), p - 1, secret_bits=p.bit_length())
    return [factor * u % p for u in kernel.logarithms(powers)]


@timed
def generate_keypair(
    key_bits: int = 2048, *, exponent_bits: int | None = None, insecure_test_mode: bool = False
) -> PrivateKey:
    """Generate a key from the operating system's randomness.

    Parameters
    ----------
    key_bits : int, bits
        Length of N, even; at least 2048.
    exponent_bits : int, bits, optional
        Length of the obfuscators' exponents: |N| / 2 unless said otherwise, at least 448.
    insecure_test_mode : bool
        Allow keys from 256 bits on. For tests only.

    Raises
    ------
    ConfigError
        If a length is out of range.

    Examples
    --------
    >>> key = generate_keypair(512, insecure_test_mode=True)
    >>> key.public.bits, key.public.exponent_bits
    (512, 256)
    """
    least = _TEST_MIN_KEY_BITS if insecure_test_mode else MIN_KEY_BITS
    if not least <= key_bits <= MAX_KEY_BITS or key_bits % 2:
        raise ConfigError(f"Paillier key: got {key_bits} bits, expected an even number of {least} to {MAX_KEY_BITS}.")
    bits = key_bits // 2 if exponent_bits is None else exponent_bits
    if not _exponent_floor(key_bits) <= bits <= key_bits:
        raise ConfigError(f"Paillier exponents: got {bits} bits, expected {_exponent_floor(key_bits)} to {key_bits}.")
    while True:
        p, q = _random_prime(key_bits // 2), _random_prime(key_bits // 2)
        # FIPS 186-5: primes whose leading 100 bits agree would fall to Fermat's method.
        apart = abs(p - q).bit_length() > key_bits // 2 - 100
        if apart and gcd(p - 1, q - 1) == 2:
            return private_key_from_primes(int(p), int(q), bits)


def private_key_from_primes(p: int, q: int, exponent_bits: int) -> PrivateKey:
    """Return a private key on given primes, with a fresh h_s.

    h = -x^2 has Jacobi symbol +1 and is no square modulo p or q when both are 3 mod 4; for other primes
    (keys made elsewhere) h = x^2 is taken, which has symbol +1 modulo any N.
    """
    n = mpz(p) * q
    square = powmod(_random_unit(n), 2, n)
    h = n - square if p % 4 == q % 4 == 3 else square
    return PrivateKey(PublicKey(int(n), int(powmod(h, n, n * n)), exponent_bits), p, q)


def public_key_from_modulus(n: int, exponent_bits: int) -> PublicKey:
    """Return a public key for a modulus made elsewhere, with a fresh h_s = x^(2 N)."""
    h = powmod(_random_unit(mpz(n)), 2, n)
    return PublicKey(n, int(powmod(h, n, mpz(n) * n)), exponent_bits)


@timed
def public_key_from_wire(n: bytes, h_s: bytes, exponent_bits: int, *, min_bits: int) -> PublicKey:
    """Return the key that another party sent, after checking all that can be checked without the primes.

    Parameters
    ----------
    n, h_s : bytes
        Big-endian, of exactly the widths of `PublicKey.to_wire`.
    exponent_bits : int, bits
        At least 448 (|N| / 2 for tiny test keys), at most |N|.
    min_bits : int, bits
        Shortest N that this run accepts.

    Raises
    ------
    CryptoError
        Says which check failed.
    """
    if not 0 < len(n) <= MAX_KEY_BITS // 8 or not 0 < len(h_s) <= MAX_KEY_BITS // 4:
        raise CryptoError(f"Received public key: N has {len(n)} bytes and h_s {len(h_s)}; out of range.")
    modulus, base = int.from_bytes(n), int.from_bytes(h_s)
    key = PublicKey(modulus, base, exponent_bits)
    if key.bits < max(min_bits, _TEST_MIN_KEY_BITS):
        raise CryptoError(f"Received public key: N has {key.bits} bits, this run needs at least {min_bits}.")
    if (len(n), len(h_s)) != ((key.bits + 7) // 8, key.ciphertext_bytes):
        raise CryptoError("Received public key: N or h_s is not written in its one agreed width.")
    if not modulus % 2 or is_square(modulus) or is_prime(modulus, 25):
        raise CryptoError("Received public key: N is even, a square or a prime.")
    if not 1 < base < modulus * modulus or jacobi(base % modulus, modulus) != 1:
        raise CryptoError("Received public key: h_s is out of range, no unit, or of Jacobi symbol -1.")
    if base % modulus == 1:
        raise CryptoError("Received public key: h_s hides nothing (it is 1 modulo N).")
    if not _exponent_floor(key.bits) <= exponent_bits <= key.bits:
        raise CryptoError(
            f"Received public key: {exponent_bits}-bit exponents, expected {_exponent_floor(key.bits)} to {key.bits}."
        )
    return key


def _exponent_floor(key_bits: int) -> int:
    """Return the shortest exponent allowed: 448 bits, or |N| / 2 for test keys below 896 bits."""
    return min(_SHORT_EXPONENT_BITS, key_bits // 2)


def _random_prime(bits: int) -> mpz:
    """Return a random prime = 3 mod 4 with its two top bits set, so that a product of two has 2 bits bits."""
    while True:
        candidate = mpz(secrets.randbits(bits) | (3 << (bits - 2)) | 3)
        if is_prime(candidate, _MILLER_RABIN_ROUNDS):
            return candidate


def _random_unit(n: mpz) -> mpz:
    """Return a uniform unit modulo N."""
    while True:
        x = mpz(secrets.randbelow(int(n)))
        if gcd(x, n) == 1:
            return x
