"""The kernel on gmpy2, with two forms of a number modulo n^2 that halve the work of ``x * y % n**2``.

*Pairs* (x0, x1), x = x0 + x1 n: the form of all values. With x0 y0 = q n + r, the product is
r + ((x0 y1 + x1 y0 + q) mod n) n, three half-size products and two half-size divisions.

*Logs* (y0, u), y = y0 (1 + u n): for factors that are used again and again. Their product is prod y0 (1 + n sum u),
so that the second parts are only added, and two first parts fit n^2 without a reduction: one division per two
factors. Making logs takes a batch inversion modulo n, some four uses' gain each.

Powers go through gmpy2's own powmod, but for runs of squarings. Only they are long enough for threads: a product takes
some microseconds, in which the interpreter's lock cannot be handed over and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from parties.errors import CryptoError
from vfl.paillier.gmp import context, invert, mpz, powmod, powmod_sec
from vfl.paillier.kernels import Costs, Digits, Index, Kernel, Table, Values
from vfl.paillier.rows import Rows, numbers_in, rows_of
from vfl.paillier.split import even_cuts, run_parts, thread_count

Pair = tuple[mpz, mpz]
Logs = tuple[list[mpz], list[mpz]]  # all first parts, all second parts

# Measured at 2048 bits. A call on one number costs what it costs in a call on many: at_once = 1.
_COSTS = Costs(
    squaring=0.8,
    plaintext=5.0,
    symbol=2.5,
    many_uses=5,
    reused=0.6,
    prepared=1.6,
    table_after=24,
    long_window=6,
    at_once=1,
)
_ROWS_AT_ONCE = 256
_POWERS_FOR_LOGS = 800  # from one table of windows; measured at 2048 bits
_SQUARINGS_FOR_THREADS = 1000  # 1 ms at 1024 bits: waking a thread costs a tenth of it


@dataclass(frozen=True, repr=False)
class _Reused:
    """Factors of products, as logs."""

    logs: Logs

    def __len__(self) -> int:
        return len(self.logs[0])


class _WindowTable:
    """base^(d 2^(width i)) as windows[i][d]; once many powers were taken, as logs in two lists each."""

    def __init__(self, windows: list[list[Pair]]) -> None:
        self.windows = windows
        self.served = 0
        self.logs: list[Logs] | None = None


class Gmpy2Kernel:
    """Arithmetic modulo n^2 on gmpy2 (`vfl.paillier.kernels.Kernel`)."""

    def __init__(self, modulus: int) -> None:
        self._n = mpz(modulus)
        self._nn = self._n * self._n
        self._one: Pair = (mpz(1), mpz(0))

    @property
    def costs(self) -> Costs:
        """What its work costs."""
        return _COSTS

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
        order, bounds = idx.tolist(), offsets.tolist()
        segments = (order[start:stop] for start, stop in zip(bounds, bounds[1:], strict=False))
        if isinstance(src, _Reused):
            return [self._product_of_logs(src.logs, segment) for segment in segments]
        pairs = _pairs(src)
        if len(order) >= _COSTS.many_uses * len(pairs):
            logs = self._logs(pairs)
            if logs is not None:
                return [self._product_of_logs(logs, segment) for segment in segments]
        return [self._product(pairs, segment) for segment in segments]

    def for_reuse(self, values: Values, inverses: Values) -> Values:
        """Return the values, then their inverses, as logs: x1 / x0 is a product where 1 / x0 is known."""
        firsts: list[mpz] = []
        us: list[mpz] = []
        for xs, zs in ((_pairs(values), _pairs(inverses)), (_pairs(inverses), _pairs(values))):
            firsts += [x0 for x0, _ in xs]
            us += [x1 * z0 % self._n for (_, x1), (z0, _) in zip(xs, zs, strict=True)]
        return _Reused((firsts, us))

    def window_table(self, base: int, width: int, windows: int) -> Table:
        """Return base^(d 2^(width i)) for all windows i and digits d, for `fixed_base`."""
        table: list[list[Pair]] = []
        step = self._split(mpz(base))
        for _ in range(windows):
            row = [self._one]
            for _ in range(1 << width):
                row.append(self._product([row[-1], step], [0, 1]))
            step = row.pop()
            table.append(row)
        return _WindowTable(table)

    def fixed_base(self, table: Table, digits: Digits) -> Values:
        """Return, for every row of digits, the product of the table's entries that they name."""
        made = cast("_WindowTable", table)
        made.served += len(digits)
        if made.logs is None and made.served >= _POWERS_FOR_LOGS:
            made.logs = self._logs_of_windows(made.windows)
        if made.logs is None:
            every = list(range(digits.shape[1]))
            rows = ([made.windows[i][d] for i, d in enumerate(row)] for row in digits.tolist())
            return [self._product(row, every) for row in rows]
        powers: list[Pair] = []
        for start in range(0, len(digits), _ROWS_AT_ONCE):
            powers += self._powers_of_logs(made.logs, digits[start : start + _ROWS_AT_ONCE])
        return powers

    def pow_uniform(self, a: Values, e: int | Sequence[int], *, secret_bits: int = 0) -> Values:
        """Return a[i]^e or a[i]^e[i]; for secret ones by GMP's side-channel silent powering (1.4 times slower).

        It goes through whole words of an exponent, whatever its leading zeros.
        """
        if isinstance(e, int) and not secret_bits and e > 0 and e & (e - 1) == 0:
            return [self._square(pair, e.bit_length() - 1) for pair in _pairs(a)]
        pairs, n, nn = _pairs(a), self._n, self._nn
        exponents = [e] * len(pairs) if isinstance(e, int) else e
        power = _secret_power if secret_bits else powmod
        powers: list[Pair] = [self._one] * len(pairs)

        def work(start: int, stop: int) -> None:
            some = zip(pairs[start:stop], exponents[start:stop], strict=True)
            with context(allow_release_gil=True):
                powers[start:stop] = [self._split(power(x0 + x1 * n, x, nn)) for (x0, x1), x in some]

        if len(exponents) != len(pairs):
            raise CryptoError(f"Kernel: {len(exponents)} exponents for {len(pairs)} numbers.")
        squarings = len(pairs) * max(exponents, default=0).bit_length()
        run_parts(work, even_cuts(len(pairs), thread_count() if squarings >= _SQUARINGS_FOR_THREADS else 1))
        return powers

    def add_plaintexts(self, values: Values, k: Sequence[int] | Rows) -> Values:
        """Return values[i] (1 + k[i] n) for any integers k, or rows of numbers below n."""
        n, numbers = self._n, map(mpz, k) if isinstance(k, Sequence) else numbers_in(k)
        return [(x0, (x1 + x % n * x0) % n) for (x0, x1), x in zip(_pairs(values), numbers, strict=True)]

    def logarithms(self, values: Values) -> list[int]:
        """Return (x - 1) / n for values x = 1 mod n: their second parts."""
        return [int(x1) for _, x1 in _pairs(values)]

    def recombine(self, kernel_p: Kernel, at_p: Values, kernel_q: Kernel, at_q: Values) -> Values:
        """Return the values that are at_p mod p^2 and at_q mod q^2, for n = p q."""
        pp, qq = mpz(kernel_p.modulus) ** 2, mpz(kernel_q.modulus) ** 2
        inverse = invert(pp, qq)
        residues = zip(map(mpz, kernel_p.unpack(at_p)), map(mpz, kernel_q.unpack(at_q)), strict=True)
        return [self._split(r_p + pp * ((r_q - r_p) * inverse % qq)) for r_p, r_q in residues]

    def pack(self, numbers: Sequence[int]) -> Values:
        """Return numbers of [0, n^2) as values."""
        return [self._split(mpz(x)) for x in numbers]

    def unpack(self, values: Values) -> list[int]:
        """Return values as numbers of [0, n^2)."""
        n = self._n
        return [int(x0 + x1 * n) for x0, x1 in _pairs(values)]

    def from_rows(self, body: Rows) -> Values:
        """Return the numbers in rows of bytes, taken mod n^2."""
        numbers, nn = numbers_in(body), self._nn
        if 8 * body.shape[1] >= nn.bit_length():
            numbers = [x % nn for x in numbers]
        return [self._split(x) for x in numbers]

    def to_rows(self, values: Values) -> Rows:
        """Return values as numbers of [0, n^2) in rows of as many bytes as n^2 has."""
        n = self._n
        return rows_of([x0 + x1 * n for x0, x1 in _pairs(values)], (self._nn.bit_length() + 7) // 8)

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

    def _product_of_logs(self, logs: Logs, order: list[int]) -> Pair:
        """Multiply the logs that ``order`` names, two at a time, into a pair."""
        if not order:
            return self._one
        nn, odd, (firsts, us) = self._nn, len(order) % 2, logs
        x = firsts[order[0]] if odd else mpz(1)
        rest = iter(order[odd:])
        for i, j in zip(rest, rest, strict=True):
            x = x * (firsts[i] * firsts[j]) % nn
        x0, x1 = self._split(x)
        return x0, (x1 + sum(map(us.__getitem__, order), mpz(0)) % self._n * x0) % self._n

    def _powers_of_logs(self, logs: list[Logs], digits: Digits) -> list[Pair]:
        """Take all powers through one pair of windows after the other: a window stays in the processor's cache."""
        n, nn, columns = self._n, self._nn, digits.T.tolist()
        firsts, us = logs[0]
        xs, sums = [firsts[d] for d in columns[0]], [us[d] for d in columns[0]]
        for i in range(1, len(columns) - 1, 2):
            (low, low_u), (high, high_u) = logs[i], logs[i + 1]
            xs = [x * (low[d] * high[e]) % nn for x, d, e in zip(xs, columns[i], columns[i + 1], strict=True)]
            sums = [u + low_u[d] + high_u[e] for u, d, e in zip(sums, columns[i], columns[i + 1], strict=True)]
        if len(columns) % 2 == 0:
            last, last_u = logs[-1]
            xs = [x * last[d] % nn for x, d in zip(xs, columns[-1], strict=True)]
            sums = [u + last_u[d] for u, d in zip(sums, columns[-1], strict=True)]
        return [(x0, (x1 + u % n * x0) % n) for (x0, x1), u in zip(map(self._split, xs), sums, strict=True)]

    def _logs_of_windows(self, windows: list[list[Pair]]) -> list[Logs] | None:
        logs = self._logs([pair for row in windows for pair in row])
        if logs is None:
            return None
        (firsts, us), size = logs, len(windows[0])
        return [(firsts[at : at + size], us[at : at + size]) for at in range(0, len(us), size)]

    def _logs(self, pairs: list[Pair]) -> Logs | None:
        """Return x0 and x1 / x0 mod n of every pair, by one inversion; None if a number is no unit."""
        n, prefix = self._n, [mpz(1)]
        for x0, _ in pairs:
            prefix.append(prefix[-1] * x0 % n)
        try:
            inverse = invert(prefix.pop(), n)
        except ZeroDivisionError:
            return None
        us: list[mpz] = []
        for (x0, x1), before in zip(reversed(pairs), reversed(prefix), strict=True):
            us.append(x1 * (inverse * before % n) % n)
            inverse = inverse * x0 % n
        us.reverse()
        return [x0 for x0, _ in pairs], us


def _pairs(values: Values) -> list[Pair]:
    """Look into a container that this kernel made."""
    return cast("list[Pair]", values)


def _secret_power(base: mpz, e: int, modulus: mpz) -> mpz:
    """Return base^e; the exponent zero, which GMP refuses here, comes up once in 2^256 draws."""
    return powmod_sec(base, e, modulus) if e else mpz(1)
