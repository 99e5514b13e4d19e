"""Oblivious transfer of random keys: one of each pair, and the giver does not learn which.

Source: Chou and Orlandi 2015, "The simplest protocol for oblivious transfer", section 3, in the group of Ed25519
(libsodium through PyNaCl). G is the base point; a and the b_i are secret scalars, c_i the choices.

    giver                                             chooser
      opening: A = a G                     ------>
                                           <------      answers: B_i = b_i G + c_i A
      keys H(i, A, B_i, a B_i),                         key H(i, A, B_i, b_i A),
           H(i, A, B_i, a (B_i - A))                        which is the first or, for c_i = 1, the second

*Leakage*: none. B_i is a uniform point of the group whatever c_i is.

*Threat model*: everyone follows the protocol and is curious; computational Diffie-Hellman in the group, BLAKE2b as a
random oracle. Points that are not canonical, of small order or outside the prime-order group are refused.

>>> from parties.local import run_local
>>> from parties.wire import Active, Coordinator, Passive
>>> chosen = np.array([False, True, True])
>>> plays = {
...     "bank": lambda end: give(end, "shop", 3),
...     "shop": lambda end: choose(end, "bank", chosen),
...     "coordinator": lambda end: None,
... }
>>> found = run_local(plays, roles={"bank": Active, "shop": Passive, "coordinator": Coordinator})
>>> bool((found["shop"] == np.where(chosen[:, None], found["bank"][1], found["bank"][0])).all())
True
"""

from __future__ import annotations

import hashlib
import os

import nacl.bindings as sodium
import numpy as np
from numpy.typing import NDArray

from parties.errors import RemoteProtocolError
from parties.link import Endpoint
from parties.wire import Bytes2D, DataParty, Message, Points

KEY_BYTES = 16
POINT_BYTES = 32
_PERSON = b"vfl base ot v1"


class Wire:
    """Every message of the transfers."""

    opening = Message(DataParty, DataParty, Points)
    answers = Message(DataParty, DataParty, Points)


def give(endpoint: Endpoint, peer: str, count: int) -> tuple[Bytes2D, Bytes2D]:
    """Return the pairs of keys of ``count`` transfers; two of shape (count, 16).

    Raises
    ------
    RemoteProtocolError
        Points that are none, or not so many.
    """
    link = endpoint.link(DataParty, DataParty, peer)
    secret = _fresh_scalar()
    opening = sodium.crypto_scalarmult_ed25519_base_noclamp(secret)
    link.send(Wire.opening, Points(_rows([opening])))
    answers = _points(link.recv(Wire.answers).body, count, peer)
    # a (B - A) = a B - a A: one multiplication for both keys.
    offset = sodium.crypto_scalarmult_ed25519_noclamp(secret, opening)
    first, second = [], []
    for i, answer in enumerate(answers):
        shared = sodium.crypto_scalarmult_ed25519_noclamp(secret, answer)
        first.append(_key(i, opening, answer, shared))
        second.append(_key(i, opening, answer, sodium.crypto_core_ed25519_sub(shared, offset)))
    return _rows(first), _rows(second)


def choose(endpoint: Endpoint, peer: str, choices: NDArray[np.bool_]) -> Bytes2D:
    """Return the chosen key of every pair; shape (count, 16).

    Raises
    ------
    RemoteProtocolError
        A point that is none.
    """
    link = endpoint.link(DataParty, DataParty, peer)
    (opening,) = _points(link.recv(Wire.opening).body, 1, peer)
    answers, keys = [], []
    for i, choice in enumerate(choices.tolist()):
        secret = _fresh_scalar()
        plain = sodium.crypto_scalarmult_ed25519_base_noclamp(secret)
        answer = (plain, sodium.crypto_core_ed25519_add(plain, opening))[choice]  # both: time tells no choice
        answers.append(answer)
        keys.append(_key(i, opening, answer, sodium.crypto_scalarmult_ed25519_noclamp(secret, opening)))
    link.send(Wire.answers, Points(_rows(answers)))
    return _rows(keys)


def _fresh_scalar() -> bytes:
    """A secret scalar, uniform below the order of the group."""
    return sodium.crypto_core_ed25519_scalar_reduce(os.urandom(64))


def _key(index: int, opening: bytes, answer: bytes, shared: bytes) -> bytes:
    """H: the key of one transfer, bound to its index and to what was sent."""
    told = index.to_bytes(8, "little") + opening + answer + shared
    return hashlib.blake2b(told, digest_size=KEY_BYTES, person=_PERSON).digest()


def _points(rows: Bytes2D, count: int, sender: str) -> list[bytes]:
    """Received points: so many, each canonical and of the prime-order group."""
    if rows.shape != (count, POINT_BYTES):
        expected = (count, POINT_BYTES)
        raise RemoteProtocolError(f"{sender} sent points of shape {rows.shape} for the transfers, expected {expected}")
    points = [row.tobytes() for row in rows]
    if not all(map(sodium.crypto_core_ed25519_is_valid_point, points)):
        raise RemoteProtocolError(f"{sender} sent points for the transfers that are not of the prime-order group")
    return points


def _rows(values: list[bytes]) -> Bytes2D:
    return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1)
