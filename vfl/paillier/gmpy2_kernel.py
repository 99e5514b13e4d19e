"""The kernel on gmpy2: numbers mod n^2 held as pairs (x0, x1), x = x0 + x1 n.

With T0 = x0 y0 = q n + r0, the product is r0 + ((x0 y1 + x1 y0 + q) mod n) n: three half-size products and two
half-size divisions, 1.3-1.4 times as fast as one full-size ``x * y % n**2`` at 2048 bits. Powers go
through gmpy2's own powmod, which is faster still for one base and a long exponent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np

from vfl.paillier.gmp import mpz, powmod, powmod_sec
from vfl.paillier.kernels import Digits, Index, Values

Pair = tuple[mpz, mpz]


def _pairs(values: Values) -> list[Pair]:
    """Look into a container that this kernel made."""
    return cast("list[Pair]", values)


def _secret_power(base: mpz, e: int, modulus: mpz) -> mpz:
    """Return base^e; the exponent zero, which GMP refuses here, comes up once in 2^256 draws."""
    return powmod_sec(base, e, modulus) if e else mpz(1)


class Gmpy2Kernel:
    """Arithmetic modulo n^2 on gmpy2 (`vfl.paillier.kernels.Kernel`)."""

    def __init__(self, modulus: int) -> None:
        self._n = mpz(modulus)
        self._nn = self._n * self._n
        self._one: Pair = (mpz(1), mpz(0))

    @property
    def modulus(self) -> int:
        """The odd n; numbers are taken modulo n^2."""
        return int(self._n)

    def mul_pairs(self, a: Values, ai: Index, b: Values, bi: Index) -> Values:
        """Return a[ai[i]] * b[bi[i]] for every i; a factor of one (an empty bucket) costs nothing."""
        xs, ys, n, one = _pairs(a), _pairs(b), self._n, self._one
        out: list[Pair] = []
        for i, j in zip(ai.tolist(), bi.tolist(), strict=True):
            x, y = xs[i], ys[j]
            if x is one or y is one:
                out.append(y if x is one else x)
                continue
            x0, x1 = x
            y0, y1 = y
            carry, low = divmod(x0 * y0, n)
            out.append((low, (x0 * y1 + x1 * y0 + carry) % n))
        return out

    def seg_prod(self, src: Values, idx: Index, offsets: Index) -> Values:
        """Return the product of every segment of src[idx]; one when empty."""
        pairs, order, bounds = _pairs(src), idx.tolist(), offsets.tolist()
        return [self._product(pairs, order[start:stop]) for start, stop in zip(bounds, bounds[1:], strict=False)]

    def fixed_base(self, table: Values, digits: Digits) -> Values:
        """Return, for every row of digits, the product of the table's entries that they name."""
        pairs, windows = _pairs(table), digits.shape[1]
        starts = np.arange(windows, dtype=np.int64) * (len(table) // windows)
        return [self._product(pairs, row) for row in (digits + starts).tolist()]

    def pow_uniform(self, a: Values, e: int | Sequence[int], *, secret: bool = False) -> Values:
        """Return a[i]^e or a[i]^e[i]; ``secret`` takes GMP's side-channel silent powering (1.4 times slower)."""
        if isinstance(e, int) and not secret and e > 0 and e & (e - 1) == 0:
            return [self._square(pair, e.bit_length() - 1) for pair in _pairs(a)]
        exponents: Iterable[int] = [e] * len(a) if isinstance(e, int) else e
        n, nn = self._n, self._nn
        power = _secret_power if secret else powmod
        return [self._split(power(x0 + x1 * n, x, nn)) for (x0, x1), x in zip(_pairs(a), exponents, strict=True)]

    def pack(self, numbers: Sequence[int]) -> Values:
        """Return numbers of [0, n^2) as values."""
        return [self._split(mpz(x)) for x in numbers]

    def unpack(self, values: Values) -> list[int]:
        """Return values as numbers of [0, n^2)."""
        n = self._n
        return [int(x0 + x1 * n) for x0, x1 in _pairs(values)]

    def take(self, values: Values, idx: slice | Index) -> Values:
        """Return values[idx]."""
        pairs = _pairs(values)
        return pairs[idx] if isinstance(idx, slice) else [pairs[i] for i in idx.tolist()]

    def join(self, parts: Sequence[Values]) -> Values:
        """Return the parts one after the other."""
        return [pair for part in parts for pair in _pairs(part)]

    def _split(self, x: mpz) -> Pair:
        x1, x0 = divmod(x, self._n)
        return x0, x1

    def _square(self, pair: Pair, times: int) -> Pair:
        n, (x0, x1) = self._n, pair
        if pair is self._one:
            return pair
        for _ in range(times):
            carry, low = divmod(x0 * x0, n)
            x1 = (2 * x0 * x1 + carry) % n
            x0 = low
        return x0, x1

    def _product(self, pairs: list[Pair], order: list[int]) -> Pair:
        """Multiply the pairs that ``order`` names."""
        if not order:
            return self._one
        n = self._n
        x0, x1 = pairs[order[0]]
        for i in order[1:]:
            y0, y1 = pairs[i]
            carry, low = divmod(x0 * y0, n)
            x1 = (x0 * y1 + x1 * y0 + carry) % n
            x0 = low
        return x0, x1
