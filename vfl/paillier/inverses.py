"""Inverses of many numbers at the price of one (P. Montgomery's trick, as a tree), on any kernel."""

from __future__ import annotations

import numpy as np

from vfl.paillier.gmp import invert
from vfl.paillier.kernels import Kernel, Values, everything


def invert_all(kernel: Kernel, values: Values) -> Values:
    """Return all inverses mod N^2 for one inversion and three products each.

    Raises
    ------
    ZeroDivisionError
        If a number is no unit.
    """
    count = len(values)
    if count <= 1:
        square = kernel.modulus**2
        return kernel.pack([int(invert(x, square)) for x in kernel.unpack(values)])
    if count % 2:
        values = kernel.join([values, kernel.pack([1])])
    levels = [values]
    while len(levels[-1]) > 1:
        levels.append(_products_of_neighbours(kernel, levels[-1]))
    inverses = invert_all(kernel, levels.pop())
    for level in reversed(levels):
        place = everything(level)
        inverses = kernel.mul_pairs(inverses, place >> 1, level, place ^ 1)
    return kernel.take(inverses, slice(0, count))


def _products_of_neighbours(kernel: Kernel, values: Values) -> Values:
    """Return v0 v1, v2 v3, ... of an even number of values; above one product, a one fills up to an even number."""
    offsets = np.arange(0, len(values) + 1, 2, dtype=np.int64)
    if len(offsets) > 2 and len(offsets) % 2 == 0:
        offsets = np.append(offsets, offsets[-1])  # an empty segment is a one
    return kernel.seg_prod(values, everything(values), offsets)
