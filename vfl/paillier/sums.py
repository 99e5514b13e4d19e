"""Sums of chosen ciphertexts and differences of sums: what encrypted histograms are made of.

    sum_segments   sum of v[idx[i]] for i from offsets[s] to offsets[s + 1]
    sum_by_group   sum of v[rows[i]] for groups[i] = g
    running_sums   v[0], v[0] + v[1], ... within every run of a vector
    subtract       a - b, by one inversion for all
    gather         v[idx]

Nothing here is fresh: a sum of ciphertexts that somebody else has seen names its terms until it is re-randomised, and
an empty one is the number one.
"""

from __future__ import annotations

import numpy as np

from parties.errors import LocalProtocolError
from vfl.paillier.groups import MOST_GROUPS, multiply_groups
from vfl.paillier.inverses import invert_all
from vfl.paillier.kernel_time import timed
from vfl.paillier.kernels import Index, multiply
from vfl.paillier.vectors import CipherVector, same_key, same_length, stale_vector


@timed
def sum_segments(v: CipherVector, idx: Index, offsets: Index) -> CipherVector:
    """Add up the ciphertexts of every segment v[idx[offsets[s]:offsets[s + 1]]]; not fresh.

    Parameters
    ----------
    idx : ndarray of shape (m,), int64
        Positions in v.
    offsets : ndarray of shape (segments + 1,), int64
        Starts of the segments in idx, ascending from 0 to m. An empty segment gives an encryption of zero.

    Raises
    ------
    LocalProtocolError
        If positions or offsets are out of range.
    """
    order, bounds = np.asarray(idx, dtype=np.int64), np.asarray(offsets, dtype=np.int64)
    ordered = len(bounds) > 0 and bounds[0] == 0 and bounds[-1] == len(order) and bool((np.diff(bounds) >= 0).all())
    if not ordered or (len(order) and not 0 <= order.min() <= order.max() < len(v)):
        raise LocalProtocolError("sum_segments: positions or offsets do not fit the vector.")
    return stale_vector(v.key, v.key.kernel.seg_prod(v.values, order, bounds))


@timed
def sum_by_group(v: CipherVector, rows: Index, groups: Index, count: int) -> CipherVector:
    """Add up the ciphertexts v[rows[i]] of every group; not fresh.

    One level of boosting is one call with groups = (node features + feature) bins + bin.

    Parameters
    ----------
    rows : ndarray of shape (m,), int64
        Positions in v; one may come up any number of times.
    groups : ndarray of shape (m,), int64
        The group of every position, in [0, count).
    count : int
        Number of groups, at most 2^32. A group without a row gives an encryption of zero.

    Returns
    -------
    CipherVector
        ``count`` ciphertexts.

    Raises
    ------
    LocalProtocolError
        If an array is not one of integers, their lengths differ, or an entry is out of range.

    Examples
    --------
    >>> from vfl.paillier import decrypt, encrypt, generate_keypair
    >>> key = generate_keypair(512, insecure_test_mode=True)
    >>> rows, bins = np.array([0, 1, 2]), np.array([2, 0, 2])
    >>> decrypt(key, sum_by_group(encrypt(key, [10, 20, 30]), rows, bins, 3))
    [20, 0, 40]
    """
    if not 0 <= count <= MOST_GROUPS:
        raise LocalProtocolError(f"sum_by_group: got {count} groups, expected 0 to 2^32.")
    positions, numbers = _below("sum_by_group: rows", rows, len(v)), _below("sum_by_group: groups", groups, count)
    if len(positions) != len(numbers):
        raise LocalProtocolError(f"sum_by_group: got {len(positions)} rows for {len(numbers)} group numbers.")
    return stale_vector(v.key, multiply_groups(v.key.kernel, v.values, numbers, positions, count))


@timed
def running_sums(v: CipherVector, lengths: Index) -> CipherVector:
    """Return the cumulative sums of every run of ciphertexts, the runs following each other; not fresh.

    Parameters
    ----------
    lengths : ndarray of shape (runs,), int64
        Ciphertexts of each run, each at least 1, together len(v).

    Raises
    ------
    LocalProtocolError
        If the lengths do not fit.

    Examples
    --------
    >>> from vfl.paillier import decrypt, encrypt, generate_keypair
    >>> key = generate_keypair(512, insecure_test_mode=True)
    >>> decrypt(key, running_sums(encrypt(key, [1, 2, 3, 10, 20]), np.array([3, 2])))
    [1, 3, 6, 10, 30]
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if (len(sizes) and sizes.min() < 1) or int(sizes.sum()) != len(v):
        raise LocalProtocolError("running_sums: the lengths of runs do not fit the vector.")
    if not len(sizes):
        return stale_vector(v.key, v.values)
    kernel, order = v.key.kernel, np.argsort(-sizes, kind="stable")  # at every step the runs still going come first
    firsts, sizes = (np.cumsum(sizes) - sizes)[order], sizes[order]
    steps, places, before = [kernel.take(v.values, firsts)], [firsts], np.arange(len(sizes))
    for step in range(1, int(sizes[0])):
        going = int(np.searchsorted(-sizes, -step))
        at = firsts[:going] + step
        steps.append(kernel.mul_pairs(steps[-1], before[:going], v.values, at))
        places.append(at)
    back = np.empty(len(v), dtype=np.int64)
    back[np.concatenate(places)] = np.arange(len(v))
    return stale_vector(v.key, kernel.take(kernel.join(steps), back))


@timed
def gather(v: CipherVector, idx: Index) -> CipherVector:
    """Return v[idx], in any order and with repeats; not fresh, for a ciphertext twice is no new one."""
    positions = _below("gather: positions", idx, len(v))
    return stale_vector(v.key, v.key.kernel.take(v.values, positions))


@timed
def subtract(a: CipherVector, b: CipherVector) -> CipherVector:
    """Subtract elementwise (sibling histograms: parent - child) by one batch inversion; not fresh.

    Raises
    ------
    LocalProtocolError
        If the keys or lengths differ.
    """
    same_key(a.key, b.key)
    same_length("subtract", len(a), len(b))
    kernel = a.key.kernel
    return stale_vector(a.key, multiply(kernel, a.values, invert_all(kernel, b.values)))


def _below(name: str, entries: Index, limit: int) -> Index:
    """Return entries as int64 after checking that they are integers of [0, limit) in one dimension."""
    if not isinstance(entries, np.ndarray) or entries.ndim != 1 or entries.dtype.kind not in "iu":
        got = (entries.dtype, entries.shape) if isinstance(entries, np.ndarray) else type(entries).__name__
        raise LocalProtocolError(f"{name} must be a vector of integers, got {got}.")
    if len(entries) and not 0 <= int(entries.min()) <= int(entries.max()) < limit:
        raise LocalProtocolError(f"{name} has an entry that is not in [0, {limit}).")
    return entries.astype(np.int64, copy=False)
