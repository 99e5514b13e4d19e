"""Matrices of bits, eight to a byte, the first the lowest.

>>> transposed(np.array([[1], [1], [1], [0], [0], [0], [0], [0]], np.uint8)).ravel().tolist()
[7, 0, 0, 0, 0, 0, 0, 0]
"""

from __future__ import annotations

import numpy as np

from parties.wire import Bytes2D

_SWAPS = ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0))


def transposed(rows: Bytes2D) -> Bytes2D:
    """Columns as rows: shape (r, c) of bytes, r a multiple of 8, becomes (8 c, r / 8).

    Squares of 8 by 8 bits, each in a word, are transposed by swaps (H. Warren, Hacker's Delight, section 7-3).
    """
    groups, width = len(rows) // 8, rows.shape[1]
    words = np.ascontiguousarray(rows.reshape(groups, 8, width).transpose(0, 2, 1)).view("<u8")[:, :, 0]
    for shift, mask in _SWAPS:
        swap = (words ^ (words >> np.uint64(shift))) & np.uint64(mask)
        words = words ^ swap ^ (swap << np.uint64(shift))
    return np.ascontiguousarray(words.T.reshape(width, groups, 1).view(np.uint8).transpose(0, 2, 1)).reshape(
        8 * width, groups
    )
