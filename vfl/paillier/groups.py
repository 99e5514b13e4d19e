"""Products of numbers by group: the one sorting behind bucket products and histograms."""

from __future__ import annotations

import numpy as np

from vfl.paillier.kernels import Index, Kernel, Values

MOST_GROUPS = 1 << 32


def multiply_groups(kernel: Kernel, values: Values, groups: Index, idx: Index, count: int) -> Values:
    """Return the product of all values[idx[i]] with groups[i] = g, for every g below ``count``; one when empty.

    Parameters
    ----------
    groups, idx : ndarray of shape (m,), int64
        Numbers of groups in [0, count), and positions in ``values``.
    count : int
        At most 2^32.
    """
    offsets = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(groups, minlength=count), out=offsets[1:])
    return kernel.seg_prod(values, idx[_sorting(groups)], offsets)


def _sorting(groups: Index) -> Index:
    """Return the stable order of numbers in [0, 2^32), by 16 bits at a time: that is when numpy sorts by counting."""
    order = np.argsort(groups.astype(np.uint16), kind="stable")
    high = (groups >> 16).astype(np.uint16)
    return order[np.argsort(high[order], kind="stable")] if high.any() else order
