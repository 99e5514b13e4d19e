"""Encrypted matrices times matrices of one's own: [[X V]] from [[V]], and [[X'D]] from [[D]].

Both are products of powers, prod_j c_j^(x_ij) for every row i of exponents, of the same ciphertexts c_j for all rows.
What the rows share is made once per ciphertext, so that a row pays one product for an exponent that is not zero:

1. *Reduce.* x_ij = g_j (y_ij + o_j), g_j the column's greatest common divisor and o_j its commonest value, where that
   leaves more zeros. What the o_j come to is one more row, multiplied to all others. A column of two values 0 and g is
   then a product for every row with the rarer one, and nothing else.
2. *Tables.* The powers c_j^(g_j y_ij) are made of few factors each (`vfl.paillier.power_tables`).
3. *Rows.* A row's factors are multiplied, those to be inverted by themselves; all of the latter are inverted at the
   price of three products each.

A divisor that more columns have than there are rows is left to the end: the rows' products are raised to it.

Of 256 rows a column of normally distributed x of 12 bits takes about 600 products, one powering each 4,000. With few
rows for many ciphertexts buckets for every row (`vfl.paillier.pippenger`) take fewer, and do the work.

Memory. Columns are taken in batches, by how many of their exponents are not zero.

Leakage. Nothing leaves: results are stale. Whoever times the work learns about how many exponents are not zero, and how
many are distinct.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parties.errors import CryptoError
from vfl.paillier.columns import Integers, choose_windows
from vfl.paillier.groups import multiply_groups
from vfl.paillier.inverses import invert_all
from vfl.paillier.kernel_time import timed
from vfl.paillier.kernels import Costs, Index, Kernel, Values, multiply
from vfl.paillier.pippenger import powers_of_columns
from vfl.paillier.power_tables import each, factors_of_powers, lengths, rough_cost
from vfl.paillier.vectors import CipherVector, stale_vector

_LARGEST = 1 << 31
_EXPONENTS_AT_ONCE = 1 << 15  # or 32 columns: their tables take some 10 MB at 2048 bits
_SORTED_AT_ONCE = 1 << 20
_LEAST_ZEROS_GAINED = 3  # an offset costs its own value, and a product


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


def _products(kernel: Kernel, values: Values, X: Integers, outputs: int) -> Values:
    """Return prod_j values[j, o]^(X[i, j]) for all i and o."""
    n = len(X)
    if X.size == 0:
        return kernel.pack([1] * (n * outputs))
    reduced = _reduce(X)
    small = reduced.small
    if _by_buckets(X, small, kernel.costs):
        return _bucketed(kernel, values, X, outputs)
    active = np.count_nonzero(small, axis=0) > 0
    late, bases = _raise_to_divisors(kernel, values, reduced.divisors, active, n, outputs)
    is_late = (reduced.divisors == late) & (late > 1)
    products = 2 * (n + 1) * (1 + bool(late > 1))  # of a row's factors by sign, and again for the late divisor
    total: Values | None = None
    divided = False
    for columns in _batches(np.count_nonzero(small, axis=0), max(_EXPONENTS_AT_ONCE, 32 * n) // outputs):
        base, row = np.nonzero(small[:, columns].T)
        own = kernel.take(bases, each(columns, outputs))
        factors = factors_of_powers(kernel, own, base, small[row, columns[base]], outputs)
        segment = (row + 2 * (n + 1) * is_late[columns[base]])[factors.uses] + (n + 1) * factors.inverted
        segments, places = each(segment, outputs), each(factors.places, outputs)
        part = multiply_groups(kernel, factors.values, segments, places, products * outputs)
        total = part if total is None else multiply(kernel, total, part)
        divided |= bool(factors.inverted.any())
    if total is None:
        return kernel.pack([1] * (n * outputs))
    return _joined(kernel, total, (n + 1) * outputs, outputs, divided=divided, late=late)


def _by_buckets(X: Integers, small: Integers, costs: Costs) -> bool:
    """Return whether buckets for every row cost less than tables for every column; roughly, by rows' sizes."""
    divisors = np.maximum(np.gcd.reduce(X, axis=1), 1)
    nonzero, step = np.count_nonzero(X, axis=1), max(1, X.shape[1] // 16)
    largest = np.abs(X).max(axis=1)
    bits = lengths(largest // divisors)
    buckets, _ = choose_windows(nonzero // step * step, (1 << bits) - 1, X.shape[1], 1, costs)
    buckets += float((costs.squaring * lengths(largest) + lengths(divisors) - 1).sum())
    tables = rough_cost(np.count_nonzero(small, axis=0), np.abs(small).max(axis=0))
    return buckets < tables + 4 * len(X) * bool((small < 0).any())


def _bucketed(kernel: Kernel, values: Values, X: Integers, outputs: int) -> Values:
    """Return the same as `_products` by `powers_of_columns`, which knows nothing of outputs."""
    n, ciphertexts = len(X), np.arange(X.shape[1], dtype=np.int64) * outputs
    parts = [powers_of_columns(kernel, kernel.take(values, ciphertexts + o), X.T) for o in range(outputs)]
    rows = np.arange(n, dtype=np.int64)[:, None] + n * np.arange(outputs, dtype=np.int64)
    return kernel.take(kernel.join(parts), rows.ravel())


def _joined(kernel: Kernel, total: Values, size: int, outputs: int, *, divided: bool, late: int) -> Values:
    """Divide by the negative exponents' products, raise to the late divisor, multiply the shared row in."""
    parts = [kernel.take(total, slice(at, at + size)) for at in range(0, len(total), size)]
    products = kernel.join(parts[::2])
    if divided:
        products = multiply(kernel, products, invert_all(kernel, kernel.join(parts[1::2])))
    product = kernel.take(products, slice(0, size))
    if late > 1:
        raised = kernel.pow_uniform(kernel.take(products, slice(size, 2 * size)), late)
        product = multiply(kernel, product, raised)
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
    step = max(1, _SORTED_AT_ONCE // len(X))
    return np.concatenate([_offsets_of(X[:, at : at + step]) for at in range(0, X.shape[1], step)])


def _offsets_of(X: Integers) -> Integers:
    """Do the same for all columns at once."""
    n, d = X.shape
    ordered = np.sort(np.ascontiguousarray(X.T), axis=1)
    new = np.ones((d, n), dtype=bool)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=new[:, 1:])
    starts = np.flatnonzero(new)
    counts, column = np.diff(np.append(starts, d * n)), starts // n
    highest = np.maximum.reduceat(counts, np.flatnonzero(starts % n == 0))
    _, first = np.unique(np.where(counts == highest[column], column, d), return_index=True)
    commonest = ordered.ravel()[starts[first[:d]]]
    gained = highest - (n - np.count_nonzero(X, axis=0))
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
        at = each(group, outputs)
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
