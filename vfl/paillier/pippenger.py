"""Products of powers prod_i c_i^(x_ij) for all columns j at once, by signed windows.

Each x is cut into signed digits (`vfl.paillier.columns`). By *buckets*, the ciphertexts of one digit value are
multiplied, negative digits by their inverses (one batch inversion for all columns), and the buckets of one window are
joined by running products, sum_d d B_d = sum_d sum_(e >= d) B_e. By *tables*, every ciphertext's small powers are made
once and each digit picks one. Zero digits cost nothing either way; windows are joined by squarings.

With k rows per ciphertext the exponent of a block is sum_i x_i 2^(beta (k - 1 - i)): its windows are aligned to the
slots, so that a row still costs one product per window.

Memory follows the number of digits and of table entries: columns, and for tables ciphertexts, are taken in batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vfl.paillier.cipher import invert_all
from vfl.paillier.columns import Integers, Windows, choose_windows, reduce_columns, signed_digits
from vfl.paillier.kernels import Index, Kernel, Values, everything, multiply

_DIGITS_AT_ONCE = 1 << 22
_TABLE_ENTRIES = 1 << 16  # 40 MB at 2048 bits


@dataclass(frozen=True)
class _Source:
    """The ciphertexts, then their inverses, and how rows lie in them."""

    kernel: Kernel
    signed: Values
    rows_per_value: int
    slot_bits: int

    @property
    def ciphertexts(self) -> int:
        return len(self.signed) // 2


def powers_of_columns(
    kernel: Kernel, values: Values, X: Integers, *, rows_per_value: int = 1, slot_bits: int = 0
) -> Values:
    """Return prod_b c_b^(sum_i x_(bk+i, j) 2^(slot_bits (k - 1 - i))) for every column j.

    Parameters
    ----------
    values : Values
        ceil(n / k) ciphertexts, k = ``rows_per_value``.
    X : ndarray of shape (n, d), int64
        Magnitudes up to 2^62.
    """
    source = _Source(kernel, kernel.join([values, invert_all(kernel, values)]), rows_per_value, slot_bits)
    reduced = reduce_columns(X)
    if not reduced.offsets.any():
        return _scaled(kernel, _powers(source, reduced.small), reduced.divisors)
    with_ones = np.concatenate([reduced.small, np.ones((len(X), 1), dtype=np.int64)], axis=1)
    powers = _powers(source, with_ones)
    offsets = _scaled(kernel, kernel.take(powers, np.full(X.shape[1], X.shape[1])), reduced.offsets)
    return multiply(kernel, _scaled(kernel, kernel.take(powers, slice(0, X.shape[1])), reduced.divisors), offsets)


def _powers(source: _Source, X: Integers) -> Values:
    """Raise to all columns, those of one cut together."""
    nonzero, largest = np.count_nonzero(X, axis=0), np.abs(X).max(axis=0, initial=0)
    _, cuts = choose_windows(nonzero, largest, source.ciphertexts, source.rows_per_value)
    groups: dict[Windows, list[int]] = {}
    for j, windows in enumerate(cuts):
        groups.setdefault(windows, []).append(j)
    parts: list[Values] = []
    order: list[int] = []
    for windows, members in groups.items():
        step = max(1, _DIGITS_AT_ONCE // (len(X) * windows.count))
        for start in range(0, len(members), step):
            batch = members[start : start + step]
            totals = (_by_tables if windows.tabled else _by_buckets)(source, X[:, batch], windows)
            parts.append(_join_windows(source, totals, len(batch), windows))
            order += batch
    back = np.argsort(np.array(order, dtype=np.int64), kind="stable")
    return source.kernel.take(source.kernel.join(parts), back)


def _digits(source: _Source, X: Integers, windows: Windows) -> tuple[Index, Index, Integers]:
    """Return chain, ciphertext and digit of every digit that is not zero; chains are (column, slot, window)."""
    k = source.rows_per_value
    row, column = np.arange(len(X), dtype=np.int64)[:, None], np.arange(X.shape[1], dtype=np.int64)
    first = (column * k + (k - 1 - row % k)) * windows.count
    block = np.broadcast_to(row // k, X.shape)
    chains, blocks, digits = [], [], []
    for w, d in enumerate(signed_digits(X, windows)):
        used = d != 0
        chains.append((first + w)[used])
        blocks.append(block[used])
        digits.append(d[used])
    return np.concatenate(chains), np.concatenate(blocks), np.concatenate(digits)


def _by_buckets(source: _Source, X: Integers, windows: Windows) -> Values:
    """Return the value of every chain, through one bucket per digit value."""
    chain, block, digit = _digits(source, X, windows)
    size = max(1, int(np.abs(digit).max(initial=0)))
    chains = X.shape[1] * source.rows_per_value * windows.count
    buckets = _segments(
        source.kernel,
        source.signed,
        chain * size + np.abs(digit) - 1,
        block + source.ciphertexts * (digit < 0),
        chains * size,
    )
    return _running_products(source.kernel, buckets, chains, size)


def _by_tables(source: _Source, X: Integers, windows: Windows) -> Values:
    """Return the value of every chain, through tables of the ciphertexts' powers."""
    chain, block, digit = _digits(source, X, windows)
    count = X.shape[1] * source.rows_per_value * windows.count
    half, step = 1 << (windows.width - 1), max(1, _TABLE_ENTRIES >> windows.width)
    entry = np.abs(digit) - 1 + half * (digit < 0)  # 1 .. half, then the inverses' 1 .. half
    totals: Values | None = None
    for start in range(0, source.ciphertexts, step):
        here = (block >= start) & (block < start + step)
        table = _table(source, start, min(start + step, source.ciphertexts), half)
        part = _segments(source.kernel, table, chain[here], (block[here] - start) * 2 * half + entry[here], count)
        totals = part if totals is None else multiply(source.kernel, totals, part)
    return totals if totals is not None else source.kernel.pack([1] * count)


def _table(source: _Source, start: int, stop: int, half: int) -> Values:
    """Return c^1 .. c^half, c^-1 .. c^-half for the ciphertexts from start to stop."""
    kernel, rows = source.kernel, np.arange(start, stop, dtype=np.int64)
    bases = kernel.take(source.signed, np.stack([rows, rows + source.ciphertexts], axis=1).ravel())
    powers = [bases]
    for _ in range(half - 1):
        powers.append(multiply(kernel, powers[-1], bases))
    order = np.arange(half * len(bases), dtype=np.int64).reshape(half, len(bases)).T.ravel()
    return kernel.take(kernel.join(powers), order)


def _segments(kernel: Kernel, values: Values, keys: Index, idx: Index, count: int) -> Values:
    """Return the product of values[idx] for every key below count."""
    order = np.argsort(keys, kind="stable")
    offsets = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(keys, minlength=count), out=offsets[1:])
    return kernel.seg_prod(values, idx[order], offsets)


def _running_products(kernel: Kernel, buckets: Values, chains: int, size: int) -> Values:
    """Return prod_d B_d^d for every chain of ``size`` buckets (digits 1 .. size)."""
    tops = np.arange(chains, dtype=np.int64) * size
    run = total = kernel.take(buckets, tops + size - 1)
    for digit in range(size - 2, -1, -1):
        run = kernel.mul_pairs(run, everything(run), buckets, tops + digit)
        total = multiply(kernel, total, run)
    return total


def _join_windows(source: _Source, totals: Values, columns: int, windows: Windows) -> Values:
    """Join the windows of every column from the top down, by squarings."""
    kernel, k = source.kernel, source.rows_per_value
    per_column = k * windows.count
    first = np.arange(columns, dtype=np.int64) * per_column
    places = [source.slot_bits * t + windows.width * w for t in range(k) for w in range(windows.count)]
    joined = kernel.take(totals, first + per_column - 1)
    for position in range(per_column - 2, -1, -1):
        joined = kernel.pow_uniform(joined, 1 << (places[position + 1] - places[position]))
        joined = kernel.mul_pairs(joined, everything(joined), totals, first + position)
    return joined


def _scaled(kernel: Kernel, values: Values, factors: Integers) -> Values:
    """Raise every value to its own signed factor."""
    if (factors == 1).all():
        return values
    if (factors < 0).any():
        where = everything(values) + len(values) * (factors < 0)
        values = kernel.take(kernel.join([values, invert_all(kernel, values)]), where)
    return kernel.pow_uniform(values, np.abs(factors).tolist())
