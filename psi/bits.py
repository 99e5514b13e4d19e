"""Matrices of bits, eight to a byte, the first the lowest.

>>> transposed(np.array([[1], [1], [1], [0], [0], [0], [0], [0]], np.uint8)).ravel().tolist()
[7, 0, 0, 0, 0, 0, 0, 0]
"""

from __future__ import annotations

from ctypes import c_size_t, c_void_p

import numpy as np

from parties.wire import Bytes2D
from psi.native import native

_INTERFACE = 1
_SWAPS = ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0))


def transposed(rows: Bytes2D) -> Bytes2D:
    """Columns as rows: shape (r, c) of bytes, r a multiple of 8, becomes (8 c, r / 8).

    Raises
    ------
    ValueError
        Where r is no multiple of 8.
    """
    count, width = rows.shape
    if count % 8:
        raise ValueError(f"rows of bits to transpose: got {count}, expected a multiple of 8")
    library = native("bits", _INTERFACE)
    if library is None:
        return _transposed_with_numpy(rows)
    rows, out = np.ascontiguousarray(rows), np.empty((8 * width, count // 8), np.uint8)
    library.vfl_bits_transpose(c_void_p(rows.ctypes.data), c_size_t(count), c_size_t(width), c_void_p(out.ctypes.data))
    return out


def _transposed_with_numpy(rows: Bytes2D) -> Bytes2D:
    """Squares of 8 by 8 bits, each in a word, are transposed by swaps (H. Warren, Hacker's Delight, section 7-3)."""
    groups, width = len(rows) // 8, rows.shape[1]
    words = np.ascontiguousarray(rows.reshape(groups, 8, width).transpose(0, 2, 1)).view("<u8")[:, :, 0]
    for shift, mask in _SWAPS:
        swap = (words ^ (words >> np.uint64(shift))) & np.uint64(mask)
        words = words ^ swap ^ (swap << np.uint64(shift))
    squares = words.T.reshape(width, groups, 1).view(np.uint8)
    return np.ascontiguousarray(squares.transpose(0, 2, 1)).reshape(8 * width, groups)
