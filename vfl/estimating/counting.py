"""A kernel that counts products instead of making them: how much a party's work on ciphertexts will be.

The run's own code is called with it (`vfl.paillier.pippenger`, `vfl.trees.levels`), so that what is counted is what
will be done, whatever windows and groupings are chosen. Its numbers are only ever counted: they have no values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from vfl.paillier.kernels import Costs, Digits, Index, Kernel, Table, Values, kernel_name, open_kernel
from vfl.paillier.keys import PublicKey
from vfl.paillier.rows import Rows
from vfl.paillier.split import thread_count


@dataclass(slots=True)
class Work:
    """Operations modulo N^2: products, squarings, plaintexts multiplied in; and calls of the kernel."""

    products: float = 0.0
    squarings: float = 0.0
    plaintexts: float = 0.0
    calls: int = 0

    def take(self) -> Work:
        """Return the counts so far, and begin anew."""
        taken = Work(self.products, self.squarings, self.plaintexts, self.calls)
        self.products = self.squarings = self.plaintexts = 0.0
        self.calls = 0
        return taken


@dataclass(frozen=True, slots=True)
class Numbers:
    """So many numbers; ``reused`` are factors prepared for many uses."""

    count: int
    reused: bool = False

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True)
class CountingKernel:
    """The kernel whose ``costs`` it has, without its arithmetic.

    Parameters
    ----------
    lanes : int
        Numbers that all threads square in the time of one: a shorter vector takes as long.
    """

    modulus: int
    costs: Costs
    lanes: int
    work: Work = field(default_factory=Work)

    def mul_pairs(self, a: Values, ai: Index, b: Values, bi: Index) -> Values:
        """Count one product per pair."""
        self.work.calls += 1
        self.work.products += len(ai)
        return Numbers(len(ai))

    def seg_prod(self, src: Values, idx: Index, offsets: Index) -> Values:
        """Count one product per factor beyond each segment's first."""
        self.work.calls += 1
        products = len(idx) - int(np.count_nonzero(np.diff(offsets)))
        reused = isinstance(src, Numbers) and src.reused
        self.work.products += products * (self.costs.reused if reused else 1.0)
        return Numbers(len(offsets) - 1)

    def for_reuse(self, values: Values, inverses: Values) -> Values:
        """Count the preparation of both."""
        self.work.products += self.costs.prepared * (len(values) + len(inverses))
        return Numbers(len(values) + len(inverses), reused=True)

    def window_table(self, base: int, width: int, windows: int) -> Table:
        """Count one product per entry."""
        self.work.products += windows << width
        return Numbers(windows << width)

    def fixed_base(self, table: Table, digits: Digits) -> Values:
        """Count one product per digit."""
        self.work.products += digits.size
        return Numbers(len(digits))

    def pow_uniform(self, a: Values, e: int | Sequence[int], *, secret_bits: int = 0) -> Values:
        """Count the squarings of all lanes, and the products of the exponents' other bits."""
        self.work.calls += 1
        exponents = [e] if isinstance(e, int) else list(e)
        bits = max(secret_bits, max((x.bit_length() for x in exponents), default=1)) - 1
        ones = max((x.bit_count() for x in exponents), default=1) - 1
        whole = -(-len(a) // self.lanes) * self.lanes
        self.work.squarings += whole * max(bits, 0)
        self.work.products += whole * min(ones, max(bits, 0) / 4)
        return Numbers(len(a))

    def add_plaintexts(self, values: Values, k: Sequence[int] | Rows) -> Values:
        """Count one plaintext each."""
        self.work.plaintexts += len(values)
        return Numbers(len(values))

    def logarithms(self, values: Values) -> list[int]:
        """Return zeros."""
        return [0] * len(values)

    def recombine(self, kernel_p: Kernel, at_p: Values, kernel_q: Kernel, at_q: Values) -> Values:
        """Count two products each."""
        self.work.products += 2 * len(at_p)
        return Numbers(len(at_p))

    def pack(self, numbers: Sequence[int]) -> Values:
        """Return as many."""
        return Numbers(len(numbers))

    def unpack(self, values: Values) -> list[int]:
        """Return ones, which have an inverse."""
        return [1] * len(values)

    def from_rows(self, body: Rows) -> Values:
        """Return as many."""
        return Numbers(len(body))

    def to_rows(self, values: Values) -> Rows:
        """Return as many rows of zeros."""
        return np.zeros((len(values), (2 * self.modulus.bit_length() + 7) // 8), dtype=np.uint8)

    def take(self, values: Values, idx: slice | Index) -> Values:
        """Return as many as are chosen."""
        reused = isinstance(values, Numbers) and values.reused
        return Numbers(len(range(len(values))[idx]) if isinstance(idx, slice) else len(idx), reused)

    def join(self, parts: Sequence[Values]) -> Values:
        """Return all together."""
        return Numbers(sum(len(part) for part in parts))


class CountedKey(PublicKey):
    """A public key whose ciphertexts are counted only."""

    @cached_property
    def kernel(self) -> CountingKernel:
        """The counting kernel, with the costs of the one that this process would use."""
        name = kernel_name(self.bits)
        return CountingKernel(self.n, open_kernel(self.n).costs, (8 if name == "ifma" else 1) * thread_count())


def counted_key(key_bits: int, exponent_bits: int) -> CountedKey:
    """Return a key of so many bits; nobody has its primes, for there are none."""
    return CountedKey((1 << key_bits) - 1, 2, exponent_bits)
