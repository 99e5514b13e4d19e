"""Fresh powers of h_s, by fixed-base windows: the only source of randomness in ciphertexts.

A table holds h_s^(d 2^(w i)) for every window i and digit d; a power is then one product per window. Tables are
made when enough powers have been asked for to pay for them; the first few are plain powers.
"""

from __future__ import annotations

import secrets
import threading

import numpy as np

from vfl.paillier.kernels import Digits, Kernel, Table, Values

# Towards the key's owner an exponent is |N| + 40 bits long: shorter ones leave the top bits of a sum of exponents
# bare to somebody who can take discrete logarithms modulo p and q, as the owner may.
OWNER_EXTRA_BITS = 40
_WIDTH = 8  # bits per window: 256 |N|/2 / 8 table entries, 21 MB at 2048 bits; see Costs.long_window for the others


class FixedBase:
    """Powers of one base with secret exponents of at most ``bits`` bits."""

    def __init__(self, kernel: Kernel, base: int, bits: int, width: int) -> None:
        self._kernel, self._base, self._width = kernel, base, width
        self._windows = -(-bits // width)
        self._table: Table | None = None
        self._served = 0
        self._lock = threading.Lock()

    def powers(self, digits: Digits) -> Values:
        """Return one power per row of window digits (count, windows), lowest window first."""
        with self._lock:
            self._served += len(digits)
            if self._table is None and self._served >= self._kernel.costs.table_after:
                self._table = self._kernel.window_table(self._base, self._width, self._windows)
        if self._table is None:
            bases = self._kernel.pack([self._base] * len(digits))
            longest = self._width * self._windows
            return self._kernel.pow_uniform(bases, exponents(digits, self._width), secret_bits=longest)
        return self._kernel.fixed_base(self._table, digits)


def random_digits(count: int, bits: int, width: int) -> Digits:
    """Return the window digits (count, windows) of uniform exponents below 2^bits, from the system's randomness."""
    windows = -(-bits // width)
    raw = np.frombuffer(secrets.token_bytes(count * windows), dtype=np.uint8).reshape(count, windows)
    digits: Digits = raw & np.uint8((1 << width) - 1)
    digits[:, -1] &= np.uint8((1 << (bits - (windows - 1) * width)) - 1)
    return digits


def exponents(digits: Digits, width: int) -> list[int]:
    """Return the exponents that rows of window digits stand for."""
    return [sum(digit << (width * i) for i, digit in enumerate(row)) for row in digits.tolist()]


class Obfuscators:
    """Fresh powers of h_s modulo N^2, for whoever holds the public key."""

    def __init__(self, kernel: Kernel, h_s: int, exponent_bits: int, key_bits: int) -> None:
        self._bits = {False: exponent_bits, True: key_bits + OWNER_EXTRA_BITS}
        self._width = {False: _WIDTH, True: kernel.costs.long_window}
        self._fixed = {long: FixedBase(kernel, h_s, self._bits[long], self._width[long]) for long in (False, True)}

    def draw(self, count: int, *, towards_owner: bool = False) -> Values:
        """Return ``count`` obfuscators that nobody has seen; each may be used once."""
        return self._fixed[towards_owner].powers(
            random_digits(count, self._bits[towards_owner], self._width[towards_owner])
        )


class OwnerObfuscators:
    """The same powers of h_s, made by the key's owner modulo p^2 and q^2 and joined by CRT."""

    def __init__(
        self, kernel: Kernel, kernel_p: Kernel, kernel_q: Kernel, h_s: int, exponent_bits: int, key_bits: int
    ) -> None:
        self._kernel, self._kernel_p, self._kernel_q = kernel, kernel_p, kernel_q
        self._bits = {False: exponent_bits, True: key_bits + OWNER_EXTRA_BITS}
        self._width = {False: _WIDTH, True: kernel.costs.long_window}
        self._fixed = {
            long: (
                FixedBase(kernel_p, h_s % kernel_p.modulus**2, self._bits[long], self._width[long]),
                FixedBase(kernel_q, h_s % kernel_q.modulus**2, self._bits[long], self._width[long]),
            )
            for long in (False, True)
        }

    def draw(self, count: int, *, towards_owner: bool = False) -> Values:
        """Return ``count`` obfuscators that nobody has seen; each may be used once."""
        digits = random_digits(count, self._bits[towards_owner], self._width[towards_owner])
        base_p, base_q = self._fixed[towards_owner]
        return self._kernel.recombine(self._kernel_p, base_p.powers(digits), self._kernel_q, base_q.powers(digits))
