"""Encrypted matrices times matrices of one's own: [[X V]] from [[V]], and [[X'D]] from [[D]].

Both are products of powers, prod_j c_j^(x_ij) for every row i of exponents, of the same ciphertexts c_j for all rows.
What the rows share is made once per ciphertext, so that a row pays one product for an exponent that is not zero:

1. *Reduce.* x_ij = g_j (y_ij + o_j), g_j the column's greatest common divisor and o_j its commonest value, where that
   leaves more zeros. What the o_j come to is one more row, multiplied to all others. A column of two values 0 and g is
   then a product for every row with the rarer one, and nothing else.
2. *Tables.* Of c_j^(g_j) the powers 1 .. 2^w, of the last one again the powers 1 .. 2^w, and so on: no squaring.
3. *Values.* Every |y| of the column is made of its digits in these tables, once however many rows have it.
4. *Rows.* A row's positive exponents are multiplied and its negative ones, P and N; all N are inverted at the price of
   three products each, and P / N is the result.

A divisor that more columns have than there are rows is left to the end: the rows' products are raised to it.

Of 256 rows a column of normally distributed x of 12 bits takes about 610 products, one powering each 4,000. With few
rows for many ciphertexts that does not pay: buckets (`vfl.paillier.pippenger`) then do the work.

Memory. Columns are taken in batches, by how many of their exponents are not zero.

Leakage. Nothing leaves: results are stale. Whoever times the work learns about how many exponents are not zero, and how
many are distinct.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parties.errors import CryptoError
from vfl.paillier.columns import Integers
from vfl.paillier.groups import multiply_groups
from vfl.paillier.inverses import invert_all
from vfl.paillier.kernel_time import timed
from vfl.paillier.kernels import Index, Kernel, Values, multiply
from vfl.paillier.vectors import CipherVector, stale_vector

_LARGEST = 1 << 31
_MAGNITUDE_BITS = 33  # of y, which an offset may have made longer
_VALUES_AT_ONCE = 1 << 17  # 80 MB at 2048 bits
_LEAST_ZEROS_GAINED = 3  # an offset costs its own value, and a product
_WIDEST = 10


@timed
def times_rows(v: CipherVector, X: NDArray[np.int64], *, outputs: int = 1) -> CipherVector:
    """Return [[X V]]; not fresh.

    Parameters
    ----------
    v : CipherVector
        [[V]], V of shape (d, outputs): d * outputs ciphertexts, those of a row of V together.
    X : ndarray of shape (n, d), int64
        Magnitudes up to 2^31. Whether the plaintexts of the result fit modulo N is for the caller to see to.
    outputs : int
        Ciphertexts per row of V.

    Returns
    -------
    CipherVector
        n * outputs ciphertexts, those of a row of X V together.

    Raises
    ------
    CryptoError
        If a shape or type is wrong, or an exponent too large.

    Examples
    --------
    >>> from vfl.paillier import decrypt, encrypt, generate_keypair
    >>> key = generate_keypair(512, insecure_test_mode=True)
    >>> V = encrypt(key, [1, 10, 2, 20])
    >>> decrypt(key, times_rows(V, np.array([[1, 1], [3, 0], [0, 5]]), outputs=2))
    [3, 30, 3, 30, 10, 100]
    """
    _check("times_rows", v, X, X.shape[-1] if isinstance(X, np.ndarray) else 0, outputs)
    return stale_vector(v.key, _products(v.key.kernel, v.values, X, outputs))


@timed
def times_columns(v: CipherVector, X: NDArray[np.int64], *, outputs: int = 1) -> CipherVector:
    """Return [[X'D]]; not fresh.

    Parameters
    ----------
    v : CipherVector
        [[D]], D of shape (n, outputs): n * outputs ciphertexts, those of a row of D together.
    X : ndarray of shape (n, d), int64
        Magnitudes up to 2^31.
    outputs : int
        Ciphertexts per row of D.

    Returns
    -------
    CipherVector
        d * outputs ciphertexts, those of a column of X together.

    Raises
    ------
    CryptoError
        If a shape or type is wrong, or an exponent too large.

    Examples
    --------
    >>> from vfl.paillier import decrypt, encrypt, generate_keypair
    >>> key = generate_keypair(512, insecure_test_mode=True)
    >>> decrypt(key, times_columns(encrypt(key, [1, 10, 100]), np.array([[1, 1], [3, 0], [0, 5]])))
    [31, 501]
    """
    _check("times_columns", v, X, X.shape[0] if isinstance(X, np.ndarray) and X.ndim else 0, outputs)
    return stale_vector(v.key, _products(v.key.kernel, v.values, X.T, outputs))


def _check(name: str, v: CipherVector, X: NDArray[np.int64], bases: int, outputs: int) -> None:
    """Refuse what does not fit together."""
    if not isinstance(X, np.ndarray) or X.dtype != np.int64 or X.ndim != 2:
        got = f"{X.dtype} {X.shape}" if isinstance(X, np.ndarray) else type(X).__name__
        raise CryptoError(f"{name}: got X of {got}, expected int64 of two dimensions.")
    if outputs < 1 or len(v) != bases * outputs:
        raise CryptoError(f"{name}: got {len(v)} ciphertexts for X of shape {X.shape} and {outputs} outputs.")
    if X.size and (int(X.max()) > _LARGEST or int(X.min()) < -_LARGEST):
        raise CryptoError(f"{name}: an entry of X exceeds 2^{_LARGEST.bit_length() - 1}.")


@dataclass(frozen=True)
class _Reduced:
    """X[i, j] = divisors[j] (small[i, j] + small[n, j])."""

    small: Integers
    divisors: Integers


@dataclass(frozen=True)
class _Powers:
    """Powers 1 .. limit of some bases lie at ``places[first[j]]`` and after it."""

    places: Index
    first: Index

    def at(self, base: Index, exponent: Integers) -> Index:
        """Return where base[i]^exponent[i] lies."""
        places: Index = self.places[self.first[base] + exponent - 1]
        return places


def _products(kernel: Kernel, values: Values, X: Integers, outputs: int) -> Values:
    """Return prod_j values[j, o]^(X[i, j]) for all i and o."""
    n = len(X)
    if X.size == 0:
        return kernel.pack([1] * (n * outputs))
    reduced = _reduce(X)
    small = reduced.small
    active = np.count_nonzero(small, axis=0) > 0
    late, bases = _raise_to_divisors(kernel, values, reduced.divisors, active, n, outputs)
    is_late = (reduced.divisors == late) & (late > 1)
    negative = bool((small < 0).any())
    segments = (n + 1) * (1 + negative) * (1 + bool(late > 1))
    total: Values | None = None
    for columns in _batches(np.count_nonzero(small, axis=0), _VALUES_AT_ONCE // outputs):
        base, row = np.nonzero(small[:, columns].T)
        y = small[row, columns[base]]
        made, where = _powers_of(kernel, kernel.take(bases, _each(columns, outputs)), base, np.abs(y), outputs)
        segment = row + (n + 1) * ((y < 0) + (1 + negative) * is_late[columns[base]])
        part = multiply_groups(kernel, made, _each(segment, outputs), _each(where, outputs), segments * outputs)
        total = part if total is None else multiply(kernel, total, part)
    if total is None:
        return kernel.pack([1] * (n * outputs))
    return _joined(kernel, total, (n + 1) * outputs, outputs, negative=negative, late=late)


def _joined(kernel: Kernel, total: Values, size: int, outputs: int, *, negative: bool, late: int) -> Values:
    """Divide by the negative exponents' products, raise to the late divisor, multiply the shared row in."""
    parts = [kernel.take(total, slice(at, at + size)) for at in range(0, len(total), size)]
    if negative:
        inverses = invert_all(kernel, kernel.join(parts[1::2]))
        whole = multiply(kernel, kernel.join(parts[::2]), inverses)
        parts = [kernel.take(whole, slice(at, at + size)) for at in range(0, len(whole), size)]
    product = parts[0]
    if late > 1:
        product = multiply(kernel, product, kernel.pow_uniform(parts[1], late))
    rows = np.arange(size - outputs, dtype=np.int64)
    return kernel.mul_pairs(product, rows, product, size - outputs + rows % outputs)


def _reduce(X: Integers) -> _Reduced:
    """Divide columns by their greatest common divisors and take commonest values off, where it makes zeros.

    Examples
    --------
    >>> reduced = _reduce(np.array([[0, 5], [12, 6], [12, 7], [12, 5], [12, 0], [12, 1]]))
    >>> reduced.small.T.tolist(), reduced.divisors.tolist()
    ([[-1, 0, 0, 0, 0, 0, 1], [5, 6, 7, 5, 0, 1, 0]], [12, 1])
    """
    divisors = np.maximum(np.gcd.reduce(X, axis=0), 1)
    small = X if (divisors == 1).all() else X // divisors
    offsets = _offsets(small)
    return _Reduced(np.concatenate([small - offsets, offsets[None]]), divisors)


def _offsets(X: Integers) -> Integers:
    """Return every column's commonest value, or zero where taking it off makes too few zeros."""
    n, d = X.shape
    ordered = np.sort(np.ascontiguousarray(X.T), axis=1)
    new = np.ones((d, n), dtype=bool)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=new[:, 1:])
    starts = np.flatnonzero(new)
    lengths = np.diff(np.append(starts, d * n))
    longest = np.maximum.reduceat(lengths, np.flatnonzero(starts % n == 0))
    columns, first = np.unique(np.where(lengths == longest[starts // n], starts // n, d), return_index=True)
    commonest = ordered.ravel()[starts[first[:d]]]
    gained = longest - (n - np.count_nonzero(X, axis=0))
    return np.where(gained > _LEAST_ZEROS_GAINED, commonest, 0)


def _raise_to_divisors(
    kernel: Kernel, values: Values, divisors: Integers, active: NDArray[np.bool_], rows: int, outputs: int
) -> tuple[int, Values]:
    """Return the divisor that is left to the end, or one, and all ciphertexts raised to the others."""
    large = np.flatnonzero(active & (divisors > 1))
    if len(large) == 0:
        return 1, values
    kinds, counts = np.unique(divisors[large], return_counts=True)
    commonest = int(kinds[counts.argmax()])
    late = commonest if counts.max() > rows else 1
    places = np.arange(len(values), dtype=np.int64)
    parts, there = [values], len(values)
    for group, same in ((large[divisors[large] == commonest], True), (large[divisors[large] != commonest], False)):
        if len(group) == 0 or (same and late > 1):
            continue
        at = _each(group, outputs)
        exponents = commonest if same else np.repeat(divisors[group], outputs).tolist()
        parts.append(kernel.pow_uniform(kernel.take(values, at), exponents))
        places[at] = there + np.arange(len(at))
        there += len(at)
    return late, kernel.take(kernel.join(parts), places)


def _batches(sizes: Integers, most: int) -> list[Index]:
    """Cut the columns that have a size into runs of at most ``most`` together, or of one column."""
    used = np.flatnonzero(sizes)
    batches, start = [], 0
    ends = np.cumsum(sizes[used])
    while start < len(used):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        batches.append(used[start:stop])
        start = stop
    return batches


def _powers_of(kernel: Kernel, bases: Values, base: Index, size: Integers, outputs: int) -> tuple[Values, Index]:
    """Return powers of which the i-th is bases[base[i]]^size[i], sizes from 1 on, once each, and where it lies."""
    keys, where = np.unique(base << _MAGNITUDE_BITS | size, return_inverse=True)
    base, size = keys >> _MAGNITUDE_BITS, keys & ((1 << _MAGNITUDE_BITS) - 1)
    tops = np.zeros(len(bases) // outputs, dtype=np.int64)
    tops[base] = size  # the last of a base, hence its largest
    widths = _widths(base, size, tops)
    table, levels = _tables(kernel, bases, tops, widths, outputs)
    groups, places = [], []
    for t, level in enumerate(levels):
        digit = size >> t * widths[base] & ((1 << widths[base]) - 1)
        used = np.flatnonzero(digit)
        groups.append(used)
        places.append(level.at(base[used], digit[used]))
    group, place = np.concatenate(groups), np.concatenate(places)
    return multiply_groups(kernel, table, _each(group, outputs), _each(place, outputs), len(keys) * outputs), where


def _widths(base: Index, size: Integers, tops: Integers) -> Integers:
    """Return for every base the bits per digit that take the fewest products."""
    bits = np.frexp(size.astype(np.float64))[1]
    histogram = np.bincount(base * 64 + bits, minlength=64 * len(tops)).reshape(-1, 64)
    longer = histogram[:, ::-1].cumsum(axis=1)[:, ::-1]  # longer[:, b]: sizes of at least b bits
    best, fewest = np.ones(len(tops), dtype=np.int64), np.full(len(tops), np.inf)
    for width in range(1, _WIDEST + 1):
        cost = np.zeros(len(tops))
        for low in range(0, _MAGNITUDE_BITS, width):
            left = tops >> low
            cost += np.where(left >> width > 0, 1 << width, left) + longer[:, low + 1]
        best[cost < fewest] = width
        fewest = np.minimum(cost, fewest)
    return best


def _tables(
    kernel: Kernel, bases: Values, tops: Integers, widths: Integers, outputs: int
) -> tuple[Values, list[_Powers]]:
    """Return powers of all bases b, then of b^(2^w), b^(2^(2 w)), ... as far as ``tops`` have digits, and their places.

    The powers of a level end with the base of the next one, or with the largest digit.
    """
    table, base, levels = bases, np.arange(len(tops), dtype=np.int64), []
    left = tops
    while left.any():
        rest = left >> widths
        limits = np.where(rest > 0, 1 << widths, left)
        table, level = _small_powers(kernel, table, base, limits, outputs)
        levels.append(level)
        base = np.where(rest > 0, level.places[np.maximum(level.first + limits - 1, 0)], 0)
        left = rest
    return table, levels


def _small_powers(kernel: Kernel, table: Values, base: Index, limits: Integers, outputs: int) -> tuple[Values, _Powers]:
    """Append the powers 1 .. limits[j] of the numbers at base[j], twice as many in every step."""
    ends = np.cumsum(limits)
    powers = _Powers(np.zeros(int(ends[-1]), dtype=np.int64), ends - limits)
    some = np.flatnonzero(limits)
    powers.places[powers.first[some]] = base[some]
    known = 1
    while known < limits.max():
        steps = np.clip(limits - known, 0, known)
        j = np.repeat(np.arange(len(limits)), steps)
        step = np.arange(len(j)) - np.repeat(np.cumsum(steps) - steps, steps) + 1
        low, high = powers.at(j, step), powers.at(j, np.full(len(j), known))
        powers.places[powers.first[j] + known + step - 1] = len(table) // outputs + np.arange(len(j))
        made = kernel.mul_pairs(table, _each(low, outputs), table, _each(high, outputs))
        table = kernel.join([table, made])
        known *= 2
    return table, powers


def _each(places: Index, outputs: int) -> Index:
    """Return where the ciphertexts of all outputs at these places lie.

    Examples
    --------
    >>> _each(np.array([0, 3]), 2).tolist()
    [0, 1, 6, 7]
    """
    return (places[:, None] * outputs + np.arange(outputs, dtype=np.int64)).ravel()
