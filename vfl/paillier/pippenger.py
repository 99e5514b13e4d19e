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
from functools import cached_property

import numpy as np

from vfl.paillier.columns import Integers, Windows, choose_windows, reduce_columns, signed_digits
from vfl.paillier.groups import multiply_groups
from vfl.paillier.inverses import invert_all
from vfl.paillier.kernels import Index, Kernel, Values, everything, multiply

_DIGITS_AT_ONCE = 1 << 22
_TABLE_ENTRIES = 1 << 16  # 40 MB at 2048 bits
_SHORTEST_SLICE = 16  # digits; two more products on 32


@dataclass(frozen=True)
class _Source:
    """The ciphertexts, and how rows lie in them."""

    kernel: Kernel
    values: Values
    rows_per_value: int
    slot_bits: int

    @property
    def ciphertexts(self) -> int:
        return len(self.values)

    @cached_property
    def inverses(self) -> Values:
        """Made when a digit is negative (of one-hot columns none is)."""
        return invert_all(self.kernel, self.values)

    @cached_property
    def signed(self) -> Values:
        """The ciphertexts, then their inverses."""
        return self.kernel.join([self.values, self.inverses])

    @cached_property
    def factors(self) -> Values:
        """The same, to be multiplied only."""
        return self.kernel.for_reuse(self.values, self.inverses)


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
    source = _Source(kernel, values, rows_per_value, slot_bits)
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
    _, cuts = choose_windows(nonzero, largest, source.ciphertexts, source.rows_per_value, source.kernel.costs)
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
    chains = X.shape[1] * source.rows_per_value * windows.count
    slices, size = _cut_digits(int(np.abs(digit).max(initial=1)), chains, source.kernel.costs.at_once)
    negative = digit < 0
    buckets = multiply_groups(
        source.kernel,
        source.factors if negative.any() else source.values,
        chain * (slices * size) + np.abs(digit) - 1,
        block + source.ciphertexts * negative,
        chains * slices * size,
    )
    return _join_buckets(source.kernel, buckets, chains, slices, size)


def _by_tables(source: _Source, X: Integers, windows: Windows) -> Values:
    """Return the value of every chain, through tables of the ciphertexts' powers."""
    chain, block, digit = _digits(source, X, windows)
    count = X.shape[1] * source.rows_per_value * windows.count
    half, step = 1 << (windows.width - 1), max(1, _TABLE_ENTRIES >> windows.width)
    totals: Values | None = None
    for start in range(0, source.ciphertexts, step):
        stop = min(start + step, source.ciphertexts)
        here = (block >= start) & (block < stop)
        signed = block[here] - start + (stop - start) * (digit[here] < 0)
        entry = 2 * (stop - start) * (np.abs(digit[here]) - 1) + signed
        part = multiply_groups(source.kernel, _table(source, start, stop, half), chain[here], entry, count)
        totals = part if totals is None else multiply(source.kernel, totals, part)
    return totals if totals is not None else source.kernel.pack([1] * count)


def _table(source: _Source, start: int, stop: int, half: int) -> Values:
    """Return c and c^-1 for the ciphertexts from start to stop, then their squares, and so on to power half."""
    kernel, c = source.kernel, source.ciphertexts
    bases = kernel.join([kernel.take(source.signed, slice(at + start, at + stop)) for at in (0, c)])
    powers = [bases]
    for _ in range(half - 1):
        powers.append(multiply(kernel, powers[-1], bases))
    return kernel.join(powers)


def _cut_digits(largest: int, chains: int, at_once: int) -> tuple[int, int]:
    """Return in how many slices the digits 1 .. largest of every chain are joined side by side, and their length.

    The fewer chains, the more slices keep the kernel busy; but each costs two products, so they stay long.
    """
    slices = max(1, min(-(-at_once // max(chains, 1)), largest // _SHORTEST_SLICE))
    return slices, -(-largest // slices)


def _join_buckets(kernel: Kernel, buckets: Values, chains: int, slices: int, size: int) -> Values:
    """Return prod_d B_d^d for every chain of slices * size buckets (digits 1 .. slices * size).

    With T_s = prod_i B_(s size + i)^i and R_s = prod_i B_(s size + i) of slice s it is prod_s T_s (prod_s R_s^s)^size.
    """
    total, run = _running_products(kernel, buckets, chains * slices, size)
    if slices == 1:
        return total
    tops = np.arange(chains, dtype=np.int64) * slices
    rest, _ = _running_products(kernel, kernel.take(run, _without_first(chains, slices)), chains, slices - 1)
    total = kernel.seg_prod(total, everything(total), np.append(tops, chains * slices))
    return multiply(kernel, total, kernel.pow_uniform(rest, size))


def _without_first(chains: int, slices: int) -> Index:
    """Return the places of all slices but the first of every chain."""
    return np.arange(chains * slices, dtype=np.int64).reshape(chains, slices)[:, 1:].ravel()


def _running_products(kernel: Kernel, buckets: Values, chains: int, size: int) -> tuple[Values, Values]:
    """Return prod_d B_d^d and prod_d B_d for every chain of ``size`` buckets (digits 1 .. size)."""
    tops = np.arange(chains, dtype=np.int64) * size
    run = total = kernel.take(buckets, tops + size - 1)
    for digit in range(size - 2, -1, -1):
        run = kernel.mul_pairs(run, everything(run), buckets, tops + digit)
        total = multiply(kernel, total, run)
    return total, run


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
