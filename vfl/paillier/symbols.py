"""Jacobi symbols of received ciphertexts: all must be +1, or sums of them would tell parities (see `keys`).

A long vector is checked by the symbols of 40 random subset products where the kernel makes products cheaply. A subset
shows no fault of a vector with bad numbers (of symbol -1 or 0) if an even number of the -1 and no 0 is in it: for each
of the 40 that has probability at most 1/2, whatever the rest is, since one bad number is in it or not. The subsets are
drawn from the system's randomness after the numbers have come.

Eight subsets at a time: a random byte per number says in which of them it is. The numbers of one byte are multiplied
first, so that a number costs five products for all 40.
"""

from __future__ import annotations

import secrets

import numpy as np

from vfl.paillier.gmp import jacobi, mpz
from vfl.paillier.groups import multiply_groups
from vfl.paillier.kernels import Index, Kernel, Values
from vfl.paillier.rows import Rows, numbers_in

_BYTES, _SUBSETS = 5, 40
_IN_A_SUBSET = 128  # of the 256 bytes


def all_symbols_are_one(kernel: Kernel, body: Rows, values: Values) -> bool:
    """Return whether every number has Jacobi symbol +1 modulo n; long vectors with error 2^-40.

    Parameters
    ----------
    body : ndarray of shape (count, width), uint8
        The numbers, big-endian.
    values : Values
        The same numbers.
    """
    one_by_one = len(values) * kernel.costs.symbol
    if one_by_one > len(values) * _BYTES + _SUBSETS * (_IN_A_SUBSET + kernel.costs.symbol):
        body = kernel.to_rows(_subset_products(kernel, values))
    n = mpz(kernel.modulus)
    return all(jacobi(x % n, n) == 1 for x in numbers_in(body))


def _subset_products(kernel: Kernel, values: Values) -> Values:
    """Return the products of 40 random subsets."""
    count = len(values)
    chosen = np.frombuffer(secrets.token_bytes(_BYTES * count), dtype=np.uint8).reshape(_BYTES, count)
    groups = chosen.astype(np.int64) + 256 * np.arange(_BYTES)[:, None]
    every = np.tile(np.arange(count, dtype=np.int64), _BYTES)
    of_a_byte = multiply_groups(kernel, values, groups.ravel(), every, 256 * _BYTES)
    return kernel.seg_prod(of_a_byte, _members().ravel(), np.arange(_SUBSETS + 1) * _IN_A_SUBSET)


def _members() -> Index:
    """Return the groups of every subset, shape (40, 128): bytes with bit b belong to subset b of their eight."""
    bits = np.arange(8)[:, None]
    with_bit = np.nonzero(np.arange(256) >> bits & 1)[1].reshape(8, _IN_A_SUBSET)
    return (with_bit + 256 * np.arange(_BYTES)[:, None, None]).reshape(_SUBSETS, _IN_A_SUBSET)
