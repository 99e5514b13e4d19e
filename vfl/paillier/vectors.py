"""Vectors of ciphertexts and their form on the wire.

A vector may leave this process only while it is *fresh*: every ciphertext carries an obfuscator that nobody else has
seen and that hides nothing else. Freshness is kept per ciphertext, because it can be used only once:

- `encrypt` and `rerandomise` make fresh ciphertexts;
- `to_bytes` publishes them: the same bytes may be sent again (to several parties), but a sum with a published
  ciphertext is not fresh, since whoever holds it divides it out;
- `add` passes the freshness of one operand on to the sum, and that operand loses it: the sum is hidden by the
  operand's obfuscator r (r times anything fixed is as random as r), which holds only as long as the operand itself
  stays at home.

Freshness does not know directions: what goes to the owner of the key is passed through
``rerandomise(..., towards_owner=True)`` whether it is fresh or not, as `mask_products` does.

Slices share the freshness of what they are cut from; `concat` takes it from its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from parties.errors import CryptoError, LocalProtocolError
from vfl.paillier.kernel_time import timed
from vfl.paillier.kernels import Values
from vfl.paillier.keys import PublicKey
from vfl.paillier.rows import below
from vfl.paillier.symbols import all_symbols_are_one

STALE, PUBLISHED, FRESH = np.uint8(0), np.uint8(1), np.uint8(2)


@dataclass(frozen=True, eq=False)
class CipherVector:
    """Ciphertexts under one key. Its values are opaque, it cannot be pickled, and its text shows none of them.

    Attributes
    ----------
    key : PublicKey
    fresh : bool
        Whether `to_bytes` would let it out.
    """

    key: PublicKey
    values: Values = field(repr=False)
    marks: NDArray[np.uint8] = field(repr=False)

    @property
    def fresh(self) -> bool:
        """Whether every ciphertext is freshly obfuscated, or published as it stands."""
        return bool((self.marks != STALE).all())

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, cut: slice) -> CipherVector:
        if not isinstance(cut, slice):
            raise TypeError("A CipherVector is cut by slices; use v[i : i + 1] for one ciphertext.")
        return CipherVector(self.key, self.key.kernel.take(self.values, cut), self.marks[cut])

    @staticmethod
    def concat(parts: Sequence[CipherVector]) -> CipherVector:
        """Return the parts one after the other; fresh parts hand their freshness over."""
        if not parts:
            raise LocalProtocolError("CipherVector.concat: got no vectors, expected at least one.")
        key = parts[0].key
        for part in parts:
            same_key(key, part.key)
        marks = np.concatenate([part.marks for part in parts])
        for part in parts:
            part.marks[part.marks == FRESH] = STALE
        return CipherVector(key, key.kernel.join([part.values for part in parts]), marks)

    def __repr__(self) -> str:
        return f"CipherVector({len(self)} ciphertexts, fresh={self.fresh}, key={self.key.fingerprint.hex()})"

    def __array__(self, dtype: object = None, copy: object = None) -> NoReturn:
        raise TypeError("A CipherVector does not turn into an array; to_bytes writes it for the wire.")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise LocalProtocolError("A CipherVector cannot be pickled or copied; to_bytes writes it for the wire.")


def fresh_vector(key: PublicKey, values: Values) -> CipherVector:
    """Return a vector whose ciphertexts have just been obfuscated."""
    return CipherVector(key, values, np.full(len(values), FRESH))


def stale_vector(key: PublicKey, values: Values) -> CipherVector:
    """Return a vector that has to be re-randomised before it leaves."""
    return CipherVector(key, values, np.full(len(values), STALE))


def hand_on(v: CipherVector) -> CipherVector:
    """Return a sum of ciphertexts that others made fresh for whom it goes to, as fit to leave as it stands.

    For a relay that adds up and knows none of their obfuscators. Each of these hides its own ciphertext from the
    receiver, and so the sum: it tells less than all of them one by one, which might be handed on just as well.
    """
    return CipherVector(v.key, v.values, np.full(len(v), PUBLISHED))


def same_key(expected: PublicKey, got: PublicKey) -> None:
    """Refuse two vectors, or a vector and a key, that do not belong together."""
    if expected != got:
        raise LocalProtocolError("Ciphertexts of different keys met in one operation.")


def same_length(what: str, expected: int, got: int) -> None:
    """Refuse operands of different lengths."""
    if expected != got:
        raise LocalProtocolError(f"{what}: got {got} numbers for {expected} ciphertexts.")


@timed
def to_bytes(v: CipherVector) -> NDArray[np.uint8]:
    """Write a vector for the wire.

    Returns
    -------
    ndarray of shape (count, key.ciphertext_bytes), uint8
        One ciphertext per row, big-endian.

    Raises
    ------
    LocalProtocolError
        If the vector is not fresh: nothing leaves a party that was not re-randomised after the last computation.
    """
    if not v.fresh:
        raise LocalProtocolError("Ciphertexts were about to leave without re-randomising; call rerandomise first.")
    v.marks[v.marks == FRESH] = PUBLISHED
    return v.key.kernel.to_rows(v.values)


@timed
def from_bytes(key: PublicKey, body: NDArray[np.uint8], *, count: int) -> CipherVector:
    """Read a vector that another party sent, checking each ciphertext.

    Each must lie in [1, N^2) and have Jacobi symbol +1 modulo N, which makes it a unit too (`vfl.paillier.symbols`).

    Parameters
    ----------
    key : PublicKey
        The key that the ciphertexts were made for.
    body : ndarray of shape (count, key.ciphertext_bytes), uint8
    count : int
        How many ciphertexts the protocol expects here.

    Raises
    ------
    CryptoError
        If the shape, type, range or a symbol is wrong.
    """
    expected = (count, key.ciphertext_bytes)
    if not isinstance(body, np.ndarray) or body.dtype != np.uint8 or body.shape != expected:
        got = (body.dtype, body.shape) if isinstance(body, np.ndarray) else type(body).__name__
        raise CryptoError(f"Received ciphertexts: got {got}, expected uint8 of shape {expected}.")
    if not body.any(axis=1).all() or not below(body, key.n * key.n).all():
        raise CryptoError("Received ciphertexts: a number is zero or not below N^2.")
    values = key.kernel.from_rows(body)
    if not all_symbols_are_one(key.kernel, body, values):
        raise CryptoError("Received ciphertexts: a number is no unit or has Jacobi symbol -1 modulo N.")
    return stale_vector(key, values)
