"""The agreed order of rows, and digests of what was agreed: from 16 and 32 bytes per id, whatever the ids' length.

>>> row_order([b"ann", b"bob", b"cy"], 7).tolist()
[0, 2, 1]
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from parties.wire import Bytes2D

KEY_BYTES = 16
_CHUNK = 1 << 20


def order_keys(ids: Sequence[bytes], seed: int) -> Bytes2D:
    """The first 16 bytes of SHA-256("rows" | seed | id) of each id: two of 2^30 alike: 2^-69."""
    prefix = b"rows|%d|" % seed
    digests = [hashlib.sha256(prefix + name).digest()[:KEY_BYTES] for name in ids]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, KEY_BYTES)


def row_order(ids: Sequence[bytes], seed: int) -> NDArray[np.int64]:
    """Positions of ``ids`` in the agreed order: ascending SHA-256("rows" | seed | id)."""
    return ascending(order_keys(ids, seed))


def ascending(keys: Bytes2D) -> NDArray[np.int64]:
    """Positions that put rows of whole 8-byte words into byte order."""
    words = np.ascontiguousarray(keys).view(">u8")
    first = words[:, 0].astype(np.uint64)
    order = np.argsort(first)
    first = first[order]
    if bool((first[1:] == first[:-1]).any()):  # seldom, unless rows repeat
        order = np.lexsort(words.T[::-1])
    return order


def ordered_digest(keys: Bytes2D, order: NDArray[np.int64]) -> bytes:
    """SHA-256 over order keys in the agreed order."""
    digest = hashlib.sha256(b"vfl ordered ids v2|")
    for start in range(0, len(order), _CHUNK):
        digest.update(keys[order[start : start + _CHUNK]].tobytes())
    return digest.digest()


def set_digest(elements: Iterable[Bytes2D]) -> str:
    """SHA-256 (hex) of a set of ids, of which the elements come in the order of `psi.buckets.sorted_places`."""
    digest = hashlib.sha256(b"vfl id set v2|")
    for rows in elements:
        digest.update(rows.tobytes())
    return digest.hexdigest()
