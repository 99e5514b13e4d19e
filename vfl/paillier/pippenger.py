"""Products of powers prod_i c_i^(x_ij) for all columns j at once (Pippenger's buckets, signed digits).

Each x is cut into signed digits of `width` bits. The ciphertexts of one digit value go into one bucket, negative digits
by their inverse (one batch inversion for all columns); zero digits cost nothing. The buckets of one window are joined
by running products, sum_d d B_d = sum_d sum_(e >= d) B_e, and the windows by squarings. A column of 0 and 1, whatever
its power-of-two scale, is one window with one bucket: a pure product.

With k rows per ciphertext the exponent of a block is sum_i x_i 2^(beta (k - 1 - i)): its windows are aligned to the
slots, so that a row still costs one product per window.

Memory follows the number of digits: columns are taken in batches of about four million.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.paillier.cipher import invert_all
from vfl.paillier.kernels import Index, Kernel, Values, everything, multiply

_WIDEST = 12
_DIGITS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Windows:
    """How columns are cut: ``count`` signed digits of ``width`` bits, the top one as large as it comes."""

    width: int
    count: int


def powers_of_columns(
    kernel: Kernel, values: Values, X: NDArray[np.int64], *, rows_per_value: int = 1, slot_bits: int = 0
) -> Values:
    """Return prod_b c_b^(sum_i x_(bk+i, j) 2^(slot_bits (k - 1 - i))) for every column j.

    Parameters
    ----------
    values : Values
        ceil(n / k) ciphertexts, k = ``rows_per_value``.
    X : ndarray of shape (n, d), int64
        Magnitudes up to 2^62.
    """
    rows, columns = X.shape
    signed = kernel.join([values, invert_all(kernel, values)])
    shifts = _common_zeros(X)
    small = X >> shifts
    groups: dict[Windows, list[int]] = {}
    for j in range(columns):
        groups.setdefault(_choose_windows(small[:, j], rows_per_value), []).append(j)
    parts, order = [], []
    for windows, members in groups.items():
        step = max(1, _DIGITS_AT_ONCE // max(1, rows * windows.count))
        for start in range(0, len(members), step):
            batch = members[start : start + step]
            totals = _window_totals(kernel, signed, small[:, batch], windows, rows_per_value)
            parts.append(_join_windows(kernel, totals, len(batch), windows, rows_per_value, slot_bits))
            order += batch
    back = np.argsort(np.array(order, dtype=np.int64), kind="stable")
    return _shift_back(kernel, kernel.take(kernel.join(parts), back), shifts)


def cost_of_column(nonzero: int, bits: int, rows_per_value: int) -> tuple[float, Windows]:
    """Return the cheapest way to raise to one column, in products, and its windows.

    Parameters
    ----------
    nonzero : int
        Rows that are not zero.
    bits : int
        Length of the largest magnitude.
    """
    best = (float("inf"), Windows(1, 1))
    for width in range(1, _WIDEST + 1):
        count = max(1, -(-bits // width))
        top = 1 << max(0, bits - (count - 1) * width)
        buckets = (count - 1 << (width - 1)) + top - (bits == 1)
        cost = nonzero * count + rows_per_value * 2.0 * buckets
        best = min(best, (cost, Windows(width, count)), key=lambda choice: choice[0])
    return best


def _choose_windows(column: NDArray[np.int64], rows_per_value: int) -> Windows:
    bits = int(np.abs(column).max(initial=0)).bit_length()
    return cost_of_column(int(np.count_nonzero(column)), bits, rows_per_value)[1]


def _common_zeros(X: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, per column, how many low bits are zero in all rows (0 for a column of zeros)."""
    union = np.bitwise_or.reduce(X, axis=0)
    lowest = union & -union
    return np.array([max(int(bit).bit_length() - 1, 0) for bit in lowest], dtype=np.int64)


def _signed_digits(X: NDArray[np.int64], windows: Windows) -> list[NDArray[np.int64]]:
    """Return X = sum_w D_w 2^(width w), lowest first; all but the top in [-2^(width-1), 2^(width-1))."""
    digits, rest, base = [], X, 1 << windows.width
    for _ in range(windows.count - 1):
        low = rest & (base - 1)
        low = np.where(low >= base // 2, low - base, low)
        digits.append(low)
        rest = (rest - low) >> windows.width
    return [*digits, rest]


def _window_totals(
    kernel: Kernel, signed: Values, X: NDArray[np.int64], windows: Windows, rows_per_value: int
) -> Values:
    """Return the value of every window of every slot, in the order (column, slot, window)."""
    rows, columns = X.shape
    k, inverse_of = rows_per_value, len(signed) // 2
    row = np.arange(rows, dtype=np.int64)
    block, slot = (row // k)[:, None], (k - 1 - row % k)[:, None]
    digits = _signed_digits(X, windows)
    largest = max(1, max(int(np.abs(d).max(initial=0)) for d in digits))
    chain = (np.arange(columns, dtype=np.int64) * k + slot) * windows.count
    buckets, sources = [], []
    for w, d in enumerate(digits):
        used = d != 0
        buckets.append(((chain + w) * largest + np.abs(d) - 1)[used])
        sources.append((block + inverse_of * (d < 0))[used])
    chains = columns * k * windows.count
    return _running_products(kernel, _fill(kernel, signed, buckets, sources, chains * largest), chains, largest)


def _fill(kernel: Kernel, signed: Values, buckets: list[Index], sources: list[Index], count: int) -> Values:
    """Return the product of every bucket."""
    keys, idx = np.concatenate(buckets), np.concatenate(sources)
    order = np.argsort(keys, kind="stable")
    offsets = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(keys, minlength=count), out=offsets[1:])
    return kernel.seg_prod(signed, idx[order], offsets)


def _running_products(kernel: Kernel, buckets: Values, chains: int, size: int) -> Values:
    """Return prod_d B_d^d for every chain of ``size`` buckets (digits 1 .. size)."""
    tops = np.arange(chains, dtype=np.int64) * size
    run = total = kernel.take(buckets, tops + size - 1)
    for digit in range(size - 2, -1, -1):
        run = kernel.mul_pairs(run, everything(run), buckets, tops + digit)
        total = multiply(kernel, total, run)
    return total


def _join_windows(
    kernel: Kernel, totals: Values, columns: int, windows: Windows, rows_per_value: int, slot_bits: int
) -> Values:
    """Join the windows of every column from the top down, by squarings."""
    per_column = rows_per_value * windows.count
    first = np.arange(columns, dtype=np.int64) * per_column
    places = [slot_bits * t + windows.width * w for t in range(rows_per_value) for w in range(windows.count)]
    joined = kernel.take(totals, first + per_column - 1)
    for position in range(per_column - 2, -1, -1):
        joined = kernel.pow_uniform(joined, 1 << (places[position + 1] - places[position]))
        joined = kernel.mul_pairs(joined, everything(joined), totals, first + position)
    return joined


def _shift_back(kernel: Kernel, powers: Values, shifts: NDArray[np.int64]) -> Values:
    """Square every column as often as low zero bits were dropped from it."""
    return kernel.pow_uniform(powers, [1 << s for s in shifts.tolist()]) if shifts.any() else powers
