"""What a kernel computes for the rest of this package, and which kernel this process uses.

A kernel works modulo n^2 for one odd n (N for everybody; p and q for the owner of a key). It computes:

    mul_pairs(a, ai, b, bi)         a[ai[i]] * b[bi[i]]
    seg_prod(src, idx, offsets)     one product per segment of src[idx]
    fixed_base(table, digits)       powers of one base, from a table of its windows (`window_table`)
    pow_uniform(a, e)               powers with exponents of one length
    add_plaintexts(values, k)       values[i] (1 + k[i] n), and `logarithms` back
    recombine(...)                  numbers mod n^2 from their residues mod p^2 and q^2

and takes numbers in and out, as integers (`pack`, `unpack`) or as rows of bytes (`from_rows`, `to_rows`), and moves
values about (`take`, `join`). `Values` is opaque: only the kernel that made a container looks into it.
Everything above is written as index arrays over these, so that a kernel for other hardware changes no line above.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from parties.errors import ConfigError
from vfl.paillier.rows import Rows

Index = NDArray[np.int64]
Digits = NDArray[np.uint8]

_CHOICES = ("ifma", "gmpy2")


@dataclass(frozen=True)
class Costs:
    """What a kernel's work costs, in units of one product; the cost models above choose by it.

    Attributes
    ----------
    squaring : float
        One squaring.
    plaintext : float
        Encoding one plaintext and multiplying it in.
    symbol : float
        One Jacobi symbol modulo n.
    many_uses, reused, prepared : float
        A factor used ``many_uses`` times or more costs ``prepared`` once and ``reused`` per use, others 1 per use.
    table_after : int
        As many powers of one base as cost what the table of its windows costs.
    long_window : int
        Bits per window for exponents longer than N.
    at_once : int
        As many numbers as one call should get, if it can be had, to be worth its overhead.
    """

    squaring: float
    plaintext: float
    symbol: float
    many_uses: float
    reused: float
    prepared: float
    table_after: int
    long_window: int
    at_once: int = 256


class Values(Protocol):
    """A kernel's own container of numbers mod n^2; nobody else looks inside."""

    def __len__(self) -> int: ...


class Table(Protocol):
    """A kernel's own table of one base's windows; nobody else looks inside."""


class Kernel(Protocol):
    """Arithmetic modulo n^2; see the module's docstring."""

    @property
    def costs(self) -> Costs:
        """What its work costs."""

    @property
    def modulus(self) -> int:
        """The odd n; numbers are taken modulo n^2."""

    def mul_pairs(self, a: Values, ai: Index, b: Values, bi: Index) -> Values:
        """Return a[ai[i]] * b[bi[i]] for every i."""

    def seg_prod(self, src: Values, idx: Index, offsets: Index) -> Values:
        """Return, for every s, the product of src[idx[offsets[s]:offsets[s + 1]]]; one when empty."""

    def for_reuse(self, values: Values, inverses: Values) -> Values:
        """Return the values, then their inverses, as factors for `seg_prod` alone that are used many times."""

    def window_table(self, base: int, width: int, windows: int) -> Table:
        """Return base^(d 2^(width i)) for all windows i and digits d < 2^width, for `fixed_base`; a unit's."""

    def fixed_base(self, table: Table, digits: Digits) -> Values:
        """Return base^(sum_i digits[r, i] 2^(width i)) for every row r of ``digits`` (count, windows)."""

    def pow_uniform(self, a: Values, e: int | Sequence[int], *, secret_bits: int = 0) -> Values:
        """Return a[i]^e or a[i]^e[i], e >= 0; in time that tells nothing of exponents of ``secret_bits`` if given."""

    def add_plaintexts(self, values: Values, k: Sequence[int] | Rows) -> Values:
        """Return values[i] (1 + k[i] n) for any integers k (taken mod n), or rows below n: (1 + n)^k = 1 + k n."""

    def logarithms(self, values: Values) -> list[int]:
        """Return (x - 1) / n in [0, n) for values x = 1 mod n."""

    def recombine(self, kernel_p: Kernel, at_p: Values, kernel_q: Kernel, at_q: Values) -> Values:
        """Return the values that are at_p mod p^2 and at_q mod q^2, for n = p q."""

    def pack(self, numbers: Sequence[int]) -> Values:
        """Return numbers of [0, n^2) as values."""

    def unpack(self, values: Values) -> list[int]:
        """Return values as numbers of [0, n^2)."""

    def from_rows(self, body: Rows) -> Values:
        """Return the numbers in rows of bytes, taken mod n^2; of at most 5 |n| bits."""

    def to_rows(self, values: Values) -> Rows:
        """Return values as numbers of [0, n^2) in rows of as many bytes as n^2 has."""

    def take(self, values: Values, idx: slice | Index) -> Values:
        """Return values[idx]."""

    def join(self, parts: Sequence[Values]) -> Values:
        """Return the parts one after the other."""


def kernel_name(modulus_bits: int = 0) -> str:
    """Name the kernel that this process uses for moduli of so many bits.

    The environment variable ``VFL_KERNEL`` chooses; without it, ``ifma`` where it can work, else ``gmpy2``.

    Raises
    ------
    ConfigError
        If ``VFL_KERNEL`` names a kernel that does not exist, or ``ifma`` where it can't work.

    Examples
    --------
    >>> kernel_name() in ("ifma", "gmpy2")
    True
    """
    from vfl.paillier.ifma_kernel import why_not_ifma

    name, obstacle = os.environ.get("VFL_KERNEL"), why_not_ifma(modulus_bits)
    if not name:
        return "gmpy2" if obstacle else "ifma"
    if name not in _CHOICES:
        raise ConfigError(f"VFL_KERNEL: no kernel named {name!r}; choose one of: {', '.join(_CHOICES)}.")
    if name == "ifma" and obstacle:
        raise ConfigError(f"VFL_KERNEL: ifma can't be used here: {obstacle}. Unset it or choose gmpy2.")
    return name


def open_kernel(modulus: int) -> Kernel:
    """Return the chosen kernel, ready for numbers mod ``modulus``^2 (odd)."""
    if kernel_name(modulus.bit_length()) == "ifma":
        from vfl.paillier.ifma_kernel import IfmaKernel

        return IfmaKernel(modulus)
    from vfl.paillier.gmpy2_kernel import Gmpy2Kernel

    return Gmpy2Kernel(modulus)


def everything(values: Values) -> Index:
    """Return the index array that names every value once, in order."""
    return np.arange(len(values), dtype=np.int64)


def multiply(kernel: Kernel, a: Values, b: Values) -> Values:
    """Return the elementwise product of two containers of one length."""
    return kernel.mul_pairs(a, everything(a), b, everything(b))
