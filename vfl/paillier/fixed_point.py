"""Real numbers as integers with one public power-of-two scale per message (never floating exponents)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from parties.errors import CryptoError

_LARGEST = 1 << 62  # leaves a bit for signed digits and sums of two


def to_fixed(x: NDArray[np.float64], bits: int, bound: int) -> NDArray[np.int64]:
    """Round x 2^bits to integers, half to even, refusing what is not finite or larger than the bound.

    Parameters
    ----------
    x : ndarray, float64, any shape
    bits : int
        Binary places; the scale is 2^-bits.
    bound : int
        Largest magnitude allowed in the result, at most 2^62.

    Returns
    -------
    ndarray of the shape of x, int64

    Raises
    ------
    CryptoError
        If a value is not finite or does not fit; the text gives positions and counts, never values.

    Examples
    --------
    >>> to_fixed(np.array([0.5, -0.375, 2.0]), bits=2, bound=100).tolist()
    [2, -2, 8]
    """
    if not 0 <= bits <= 1000 or not 0 <= bound <= _LARGEST:
        raise CryptoError(f"Fixed point: bits must be 0 to 1000 and bound 0 to 2^62, got {bits} bits.")
    values = np.asarray(x, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.rint(np.ldexp(values, bits))
    # float64 holds 2^62 exactly, and a rounded bound below 2^53 exactly; above it the integers are compared.
    bad = ~(np.abs(scaled) <= float(_LARGEST))
    fixed = np.where(bad, 0.0, scaled).astype(np.int64)
    bad |= np.abs(fixed) > bound
    if bad.any():
        raise CryptoError(
            f"Fixed point: {int(bad.sum())} of {bad.size} values are not finite or exceed the agreed bound "
            f"of {bound.bit_length()} bits at {bits} binary places. Scale the data or widen the bound."
        )
    return fixed


def from_fixed(values: NDArray[np.int64] | Sequence[int], bits: int) -> NDArray[np.float64]:
    """Return integers times 2^-bits, correctly rounded also beyond 64 bits.

    Examples
    --------
    >>> from_fixed([2, -2, 8], bits=2).tolist()
    [0.5, -0.5, 2.0]
    """
    scale = 1 << bits
    listed = values.tolist() if isinstance(values, np.ndarray) else [int(v) for v in values]
    return np.array([v / scale for v in listed], dtype=np.float64)
