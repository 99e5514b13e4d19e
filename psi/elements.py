"""Ids as rows of 32 bytes: what every protocol of alignment works on.

An element is the BLAKE2b digest (RFC 7693) of a normalised id: public, the same at every party, and kept at home like
the id itself. Ids of any length so take equal room, and dummies that pad a list to a public length are random rows,
which are nobody's digest.

>>> elements_of([b"ann", b"bob"]).shape
(2, 32)
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from parties.wire import Bytes2D
from psi.blake2b import hash_each

ELEMENT_BYTES = 32
_PERSON = b"vfl elements v1"


def elements_of(ids: Sequence[bytes]) -> Bytes2D:
    """Elements of distinct ids; uint8 of shape (n, 32)."""
    return hash_each(ids, ELEMENT_BYTES, person=_PERSON)


def padded(elements: Bytes2D, count: int) -> Bytes2D:
    """The elements, then dummies up to ``count`` rows; a dummy equals another element with probability 2^-256."""
    dummies = np.frombuffer(os.urandom(ELEMENT_BYTES * (count - len(elements))), np.uint8)
    return np.concatenate([elements, dummies.reshape(-1, ELEMENT_BYTES)])


def random_order(count: int) -> NDArray[np.int64]:
    """A permutation from the operating system's randomness: sorts 64-bit keys (ties: probability n^2 / 2^65)."""
    return np.argsort(np.frombuffer(os.urandom(8 * count), np.uint64), kind="stable")
