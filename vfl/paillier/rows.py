"""Numbers in rows of bytes, big-endian: the form of ciphertexts and answers on the wire."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vfl.paillier.gmp import mpz

Rows = NDArray[np.uint8]


def numbers_in(body: Rows) -> list[mpz]:
    """Return the number in every row.

    Examples
    --------
    >>> [int(x) for x in numbers_in(np.array([[1, 2], [0, 3]], dtype=np.uint8))]
    [258, 3]
    """
    count, width = body.shape
    if width == 0:
        return [mpz(0)] * count
    raw = np.ascontiguousarray(body).tobytes()
    return [mpz.from_bytes(raw[at : at + width]) for at in range(0, count * width, width)]


def rows_of(numbers: Sequence[int | mpz], width: int) -> Rows:
    """Return numbers of [0, 256^width) as rows of ``width`` bytes.

    Raises
    ------
    OverflowError
        If a number does not fit.

    Examples
    --------
    >>> rows_of([258, 3], 3).tolist()
    [[0, 1, 2], [0, 0, 3]]
    """
    body = b"".join([x.to_bytes(width) for x in numbers])
    return np.frombuffer(body, dtype=np.uint8).reshape(len(numbers), width)


def below(body: Rows, limit: int) -> NDArray[np.bool_]:
    """Return which rows hold numbers below ``limit``.

    Examples
    --------
    >>> below(np.array([[1, 2], [1, 3], [2, 0]], dtype=np.uint8), 259).tolist()
    [True, False, False]
    """
    count, width = body.shape
    if limit <= 0 or limit.bit_length() > 8 * width:
        return np.full(count, limit > 0)
    bound = np.frombuffer(limit.to_bytes(width), dtype=np.uint8)
    differs = body != bound
    first = differs.argmax(axis=1)  # the first byte where a row and the limit part
    less: NDArray[np.bool_] = body[np.arange(count), first] < bound[first]
    return less
