"""Encrypting, decrypting and computing on vectors of ciphertexts (Paillier 1999, scheme 1, g = 1 + N).

    encrypt      (1 + m N) h_s^a            add         c c'
    add_plain    c (1 + k N)                scale       c^k, or (c^-1)^|k|
    rerandomise  c h_s^a                    decrypt     L(c^(p-1) mod p^2) ..., by CRT

all modulo N^2. Plaintexts are integers modulo N; signed ones lie in (-N/2, N/2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parties.errors import CryptoError
from vfl.paillier.counts import record
from vfl.paillier.inverses import invert_all
from vfl.paillier.kernel_time import timed
from vfl.paillier.kernels import Values, everything, multiply
from vfl.paillier.keys import PrivateKey, PublicKey
from vfl.paillier.pool import ObfuscatorPool
from vfl.paillier.rows import Rows, below
from vfl.paillier.vectors import (
    FRESH,
    STALE,
    CipherVector,
    fresh_vector,
    same_key,
    same_length,
    stale_vector,
)


@timed
def encrypt(
    key: PublicKey | PrivateKey, plaintexts: Sequence[int] | Rows, *, pool: ObfuscatorPool | None = None
) -> CipherVector:
    """Encrypt signed integers; the owner of the key does it faster with the private key.

    Parameters
    ----------
    key : PublicKey or PrivateKey
    plaintexts : sequence of int, or ndarray of shape (n, bytes of N), uint8
        Each |v| < N / 2; or residues modulo N, as `vfl.paillier.slots.pack_residues` has them.
    pool : ObfuscatorPool, optional
        Obfuscators made in advance.

    Returns
    -------
    CipherVector
        Fresh.

    Raises
    ------
    CryptoError
        If a plaintext does not fit.

    Examples
    --------
    >>> from vfl.paillier.keys import generate_keypair
    >>> key = generate_keypair(512, insecure_test_mode=True)
    >>> v = encrypt(key.public, [3, -4])
    >>> [centred(m, key.public.n) for m in decrypt(key, add(v, v))]
    [6, -8]
    """
    public = key.public if isinstance(key, PrivateKey) else key
    messages = plaintexts if isinstance(plaintexts, np.ndarray) else list(map(int, plaintexts))
    if not (_are_residues(public, messages) if isinstance(messages, np.ndarray) else _fit_half(public, messages)):
        raise CryptoError("Encryption: a plaintext does not fit into half the key's modulus, or is no residue of it.")
    obfuscators = _obfuscators(key, len(messages), pool, towards_owner=False)
    record(encryptions=len(messages))
    return fresh_vector(public, public.kernel.add_plaintexts(obfuscators, messages))


@timed
def decrypt(key: PrivateKey, v: CipherVector) -> list[int]:
    """Return the plaintexts as residues in [0, N); see `centred` for signed ones."""
    same_key(key.public, v.key)
    record(decryptions=len(v))
    return key.decrypt_values(v.values)


def centred(x: int, modulus: int) -> int:
    """Return the residue of x nearest to zero, in [-modulus/2, modulus/2).

    Examples
    --------
    >>> centred(9, 10), centred(4, 10), centred(5, 10)
    (-1, 4, -5)
    """
    x %= modulus
    return x if 2 * x < modulus else x - modulus


@timed
def add(a: CipherVector, b: CipherVector) -> CipherVector:
    """Add elementwise. A sum with a fresh operand is fresh, and that operand stops being so (see `vectors`)."""
    same_key(a.key, b.key)
    same_length("add", len(a), len(b))
    from_a, from_b = a.marks == FRESH, b.marks == FRESH
    marks = np.where(from_a | from_b, FRESH, STALE)
    a.marks[from_a] = STALE
    b.marks[from_b & ~from_a] = STALE
    return CipherVector(a.key, multiply(a.key.kernel, a.values, b.values), marks)


@timed
def add_plain(a: CipherVector, integers: Sequence[int] | Rows) -> CipherVector:
    """Add integers (any residues modulo N), or residues in rows of bytes, elementwise; not fresh.

    Raises
    ------
    CryptoError
        If rows of bytes are no residues modulo N.
    """
    same_length("add_plain", len(a), len(integers))
    if isinstance(integers, np.ndarray) and integers.dtype == np.uint8 and integers.ndim == 2:
        if not _are_residues(a.key, integers):
            raise CryptoError("Adding plaintexts: a row of bytes is no residue of the key's modulus.")
        return stale_vector(a.key, a.key.kernel.add_plaintexts(a.values, integers))
    return stale_vector(a.key, a.key.kernel.add_plaintexts(a.values, list(map(int, integers))))


@timed
def scale(a: CipherVector, integers: Sequence[int]) -> CipherVector:
    """Multiply by signed integers elementwise; not fresh.

    Negative ones raise the inverse (one batch inversion) to |k|; an exponent N - |k| would cost as much as a
    decryption.
    """
    same_length("scale", len(a), len(integers))
    factors = list(map(int, integers))
    if not _fit_half(a.key, factors):
        raise CryptoError("Scaling: a factor does not fit into half the key's modulus.")
    kernel, values = a.key.kernel, a.values
    negative = np.flatnonzero(np.array([k < 0 for k in factors], dtype=bool))
    if len(negative):
        where = everything(values)
        where[negative] = len(values) + np.arange(len(negative))
        inverses = invert_all(kernel, kernel.take(values, negative))
        values = kernel.take(kernel.join([values, inverses]), where)
    return stale_vector(a.key, kernel.pow_uniform(values, [abs(k) for k in factors]))


@timed
def rerandomise(v: CipherVector, *, towards_owner: bool, pool: ObfuscatorPool | None = None) -> CipherVector:
    """Return the same plaintexts under fresh obfuscators.

    Parameters
    ----------
    towards_owner : bool
        Whether the vector goes to the owner of the key: the exponents then have |N| + 40 bits. The owner can take
        logarithms of obfuscators, and under shorter exponents the top bits of sum_i a_i x_i would stay bare.
    pool : ObfuscatorPool, optional
        Obfuscators made in advance, for the same direction.
    """
    obfuscators = _obfuscators(v.key, len(v), pool, towards_owner=towards_owner)
    record(rerandomisations=len(v))
    return fresh_vector(v.key, multiply(v.key.kernel, v.values, obfuscators))


def _fit_half(key: PublicKey, integers: list[int]) -> bool:
    """Return whether all integers lie in (-N/2, N/2)."""
    return not integers or (2 * max(integers) < key.n and -2 * min(integers) < key.n)


def _are_residues(key: PublicKey, rows: Rows) -> bool:
    """Return whether all rows of bytes are numbers below N, of its width."""
    return rows.dtype == np.uint8 and rows.shape[1:] == ((key.bits + 7) // 8,) and bool(below(rows, key.n).all())


def _obfuscators(
    key: PublicKey | PrivateKey, count: int, pool: ObfuscatorPool | None, *, towards_owner: bool
) -> Values:
    if pool is None:
        return key.obfuscators.draw(count, towards_owner=towards_owner)
    public = key.public if isinstance(key, PrivateKey) else key
    same_key(public, pool.key)
    return pool.draw(count, towards_owner=towards_owner)
