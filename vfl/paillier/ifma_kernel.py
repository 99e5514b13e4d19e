"""The kernel on AVX-512 IFMA: ``ifma.c``, which says how numbers are held, called through ctypes.

A number is a row of 2 L words; values are arrays of shape (count, 2 L). The C code releases the interpreter's lock, so
that threads share the work (`vfl.paillier.split`).

Time. What depends on the length of an exponent, on counts, indices and the modulus may be seen in the time; nothing
depends on a digit of a number or of an exponent: `fixed_base` and `pow_uniform` read whole tables and skip no zero,
secret or not. Integers on their way in and out of rows pass through Python's own arithmetic,
which promises nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from parties.errors import CryptoError
from vfl.paillier import ifma_library
from vfl.paillier.gmp import gcd, invert
from vfl.paillier.ifma_library import Words
from vfl.paillier.inverses import invert_all
from vfl.paillier.kernels import Costs, Digits, Index, Kernel, Table, Values
from vfl.paillier.rows import Rows, numbers_in, rows_of
from vfl.paillier.split import even_cuts, run_parts, thread_count

_DIGIT_BITS, _LANES = 52, 8
_LENGTHS = (20, 30, 40, 60, 80)  # digits; one instance of the C code each
_SLACK_BITS = 8  # R >= 2^8 n
_ENTRIES, _ENTRY_BYTES = 256, 7  # of a window's table, as the C code reads it
_MOST_PIECES = 6
_USES_FOR_LOGS = 36  # per value of a segment product: what a use gains pays for the inverse
_LEAST_PER_THREAD = 128  # products; below, handing work to a thread costs more than it saves
_SHORTEST_PIECE = 4  # products; a longer segment may be cut, at one more product per cut
_PIECES_PER_LANE = 4  # cut so that every lane of every thread gets about so many pieces
_WIDEST_WINDOW = 5
# Measured at 2048 bits. Tables are made of logarithmic numbers, and have 256 entries per window however few are used.
_COSTS = Costs(
    squaring=0.8, plaintext=0.6, symbol=20.0, many_uses=5, reused=0.8, prepared=0.7, table_after=220, long_window=8
)
_SECRET_WINDOW = 4  # its table of sixteen powers mod p^2 nearly stays in the first cache


@dataclass(frozen=True, repr=False)
class _WindowTable:
    """Bytes of shape (windows, 2 L, 7, 256): of every digit of the entries, byte 0 of all of them, then byte 1."""

    planes: NDArray[np.uint8]
    largest: int  # digit


@dataclass(frozen=True, repr=False)
class _Logs:
    """Logarithmic numbers (``ifma.c``), rows of 2 L words: factors for `seg_prod` that are used again and again."""

    words: Words

    def __len__(self) -> int:
        return len(self.words)


class IfmaKernel:
    """Arithmetic modulo n^2 on AVX-512 IFMA (`vfl.paillier.kernels.Kernel`).

    Parameters
    ----------
    modulus : int
        Odd n of at most `MOST_BITS` bits.

    Raises
    ------
    CryptoError
        From every function, for arguments that do not fit each other or this modulus.
    """

    def __init__(self, modulus: int) -> None:
        if modulus < 3 or modulus % 2 == 0 or modulus.bit_length() > MOST_BITS:
            raise CryptoError(f"Kernel: the modulus has to be odd and of at most {MOST_BITS} bits.")
        bits = modulus.bit_length() + _SLACK_BITS
        self._n, self._nn = modulus, modulus * modulus
        self._length = next(length for length in _LENGTHS if _DIGIT_BITS * length >= bits)
        self._width = 2 * self._length
        self._r_bits = _DIGIT_BITS * self._length
        self._n_bytes, self._row_bytes = ((x.bit_length() + 7) // 8 for x in (self._n, self._nn))
        inverse = -pow(modulus, -1, 1 << _DIGIT_BITS) % (1 << _DIGIT_BITS)
        self._one = self._number(1)
        self._context = np.concatenate(
            [
                np.array([self._length, inverse, self._most_summed()], dtype=np.uint64),
                _digits(modulus, self._length),
                self._one,
                _digits((1 << 2 * self._r_bits) % modulus, self._length),
            ]
        )
        self._powers_of_r = np.stack([self._number(1 << self._r_bits * (k + 1)) for k in range(_MOST_PIECES)])

    @property
    def modulus(self) -> int:
        """The odd n; numbers are taken modulo n^2."""
        return self._n

    @property
    def costs(self) -> Costs:
        """What its work costs."""
        return _COSTS

    def mul_pairs(self, a: Values, ai: Index, b: Values, bi: Index) -> Values:
        """Return a[ai[i]] * b[bi[i]] for every i."""
        left, right, li, ri = self._words(a), self._words(b), _index(ai), _index(bi)
        if len(li) != len(ri):
            raise CryptoError(f"Kernel: {len(li)} left factors for {len(ri)} right ones.")
        out = self._rows(len(li))

        def work(start: int, stop: int) -> None:
            self._call(
                "multiply_pairs", out[start:], left, len(left), li[start:], right, len(right), ri[start:], stop - start
            )

        self._run(work, len(li), len(li))
        return out

    def seg_prod(self, src: Values, idx: Index, offsets: Index) -> Values:
        """Return the product of every segment of src[idx]; one when empty.

        Eight segments go side by side, so that they are sorted by length, and long ones are cut where too few would
        keep all lanes of all threads busy.
        """
        order, bounds = _index(idx), _index(offsets)
        if len(bounds) == 0 or bounds[0] != 0 or bounds[-1] != len(order) or (np.diff(bounds) < 0).any():
            raise CryptoError("Kernel: offsets do not ascend from 0 to the number of factors.")
        factors = self._factors(src, len(order))
        lengths = np.diff(bounds)
        longest = max(_SHORTEST_PIECE, len(order) // (_LANES * thread_count() * _PIECES_PER_LANE))
        pieces = np.maximum(-(-lengths // longest), 1)
        if (pieces == 1).all():
            return self._segments(factors, order, bounds[:-1], lengths)
        segment = np.repeat(np.arange(len(lengths)), pieces)
        first = np.concatenate([[0], np.cumsum(pieces)])
        within = np.arange(len(segment)) - first[segment]
        begins = bounds[segment] + lengths[segment] * within // pieces[segment]
        ends = bounds[segment] + lengths[segment] * (within + 1) // pieces[segment]
        parts = self._segments(factors, order, begins, ends - begins)
        return self.seg_prod(parts, np.arange(len(segment)), first)

    def for_reuse(self, values: Values, inverses: Values) -> Values:
        """Return the values, then their inverses, as factors for `seg_prod` that are used again and again."""
        a, z = self._words(values), self._words(inverses)
        if len(a) != len(z):
            raise CryptoError(f"Kernel: {len(z)} inverses for {len(a)} numbers.")
        return _Logs(np.concatenate([self._logarithmic(a, z), self._logarithmic(z, a)]))

    def window_table(self, base: int, width: int, windows: int) -> Table:
        """Return base^(d 2^(width i)) for all windows i and digits d, for `fixed_base`."""
        if not 1 <= width <= 8 or windows < 1:
            raise CryptoError(f"Kernel: {windows} windows of {width} bits, expected at least one of 1 to 8 bits.")
        if gcd(base, self._n) != 1:
            raise CryptoError("Kernel: the base of a table is no unit.")
        # The base and its inverse go side by side: their powers are each other's inverses, as logarithms need.
        bases = [self._words(self.pack([base % self._nn, int(invert(base, self._nn))]))]
        for _ in range(windows - 1):
            bases.append(self._squared(bases[-1], width))
        step = np.concatenate(bases)
        every = np.arange(len(step))
        powers = [np.broadcast_to(self._one, step.shape), step]
        for _ in range(2, 1 << width):
            powers.append(self._words(self.mul_pairs(powers[-1], every, step, every)))
        planes = np.zeros((windows, self._width, _ENTRY_BYTES, _ENTRIES), dtype=np.uint8)
        for window, plane in enumerate(planes):
            entries = np.stack([power[2 * window : 2 * window + 2] for power in powers])
            logs = self._logarithmic(np.ascontiguousarray(entries[:, 0]), np.ascontiguousarray(entries[:, 1]))
            octets = logs.astype("<u8", copy=False).view(np.uint8).reshape(len(powers), self._width, 8)
            plane[:, :, : len(powers)] = octets[:, :, :_ENTRY_BYTES].transpose(1, 2, 0)
        return _WindowTable(planes, (1 << width) - 1)

    def fixed_base(self, table: Table, digits: Digits) -> Values:
        """Return, for every row of digits, the product of the table's entries that they name."""
        made = cast("_WindowTable", table)
        planes, rows = made.planes, np.ascontiguousarray(digits)
        if rows.dtype != np.uint8 or rows.shape[1:] != planes.shape[:1] or planes.shape[1] != self._width:
            raise CryptoError(f"Kernel: {rows.dtype} digits of shape {rows.shape} for {len(planes)} windows.")
        if rows.max(initial=0) > made.largest:
            raise CryptoError("Kernel: a digit is not below 2^width.")
        out = self._rows(len(rows))

        def work(start: int, stop: int) -> None:
            self._call("fixed_base", out[start:], planes, len(planes), rows[start:], stop - start)

        self._run(work, len(rows), rows.size)
        return out

    def pow_uniform(self, a: Values, e: int | Sequence[int], *, secret_bits: int = 0) -> Values:
        """Return a[i]^e or a[i]^e[i]; in time that tells the longest exponent's length, if above ``secret_bits``."""
        bases = self._words(a)
        if isinstance(e, int) and not secret_bits and e > 0 and e & (e - 1) == 0:
            return self._squared(bases, e.bit_length() - 1)
        exponents = [e] if isinstance(e, int) else list(e)
        shared = isinstance(e, int)
        if not shared and len(exponents) != len(bases):
            raise CryptoError(f"Kernel: {len(exponents)} exponents for {len(bases)} numbers.")
        if min(exponents, default=0) < 0:
            raise CryptoError("Kernel: a negative exponent.")
        bits = max(1, secret_bits, max((x.bit_length() for x in exponents), default=1))
        width = _SECRET_WINDOW if secret_bits else _cheapest_window(bits)
        windows = -(-bits // width)
        digits = _window_digits(exponents, width, windows)
        out = self._rows(len(bases))

        def work(start: int, stop: int) -> None:
            own = digits if shared else digits[start:]
            self._call("power", out[start:], bases[start:], stop - start, own, windows, width, int(shared))

        self._run(work, len(bases), len(bases) * bits)
        return out

    def add_plaintexts(self, values: Values, k: Sequence[int] | Rows) -> Values:
        """Return values[i] (1 + k[i] n) for any integers k, or rows of numbers below n."""
        words, out = self._words(values), self._rows(len(values))
        if len(k) != len(words):
            raise CryptoError(f"Kernel: {len(k)} plaintexts for {len(words)} numbers.")
        rows = k if isinstance(k, np.ndarray) else rows_of([int(x) % self._n for x in k], self._n_bytes)
        plaintexts = ifma_library.digits_from_bytes(rows, self._length)

        def work(start: int, stop: int) -> None:
            self._call("add_plaintexts", out[start:], words[start:], plaintexts[start:], stop - start)

        self._run(work, len(words), len(words))
        return out

    def logarithms(self, values: Values) -> list[int]:
        """Return (x - 1) / n in [0, n) for values x = 1 mod n: the second part of the pair."""
        high = np.ascontiguousarray(self._leave(self._words(values), whole=False)[:, self._length :])
        return [int(x) for x in numbers_in(ifma_library.digits_to_bytes(high, self._n_bytes))]

    def recombine(self, kernel_p: Kernel, at_p: Values, kernel_q: Kernel, at_q: Values) -> Values:
        """Return the values that are at_p mod p^2 and at_q mod q^2, for n = p q."""
        if len(at_p) != len(at_q):
            raise CryptoError(f"Kernel: {len(at_p)} residues mod p^2 and {len(at_q)} mod q^2.")
        pieces, constants = [], []
        for own, values, other in ((kernel_p, at_p, kernel_q), (kernel_q, at_q, kernel_p)):
            square, rest = own.modulus**2, other.modulus**2
            idempotent = rest * int(invert(rest, square))  # 1 mod p^2 and 0 mod q^2
            count = -(-square.bit_length() // self._r_bits)
            pieces.append(ifma_library.digits_from_bytes(own.to_rows(values), count * self._length))
            constants += [self._number(idempotent << self._r_bits * (k + 1)) for k in range(count)]
        return self._enter(np.concatenate(pieces, axis=1), np.stack(constants))

    def pack(self, numbers: Sequence[int]) -> Values:
        """Return numbers of [0, n^2) as values."""
        return self.from_rows(rows_of(numbers, self._row_bytes))

    def unpack(self, values: Values) -> list[int]:
        """Return values as numbers of [0, n^2)."""
        return [int(x) for x in numbers_in(self.to_rows(values))]

    def from_rows(self, body: Rows) -> Values:
        """Return the numbers in rows of bytes, taken mod n^2."""
        pieces = max(1, -(-8 * body.shape[1] // self._r_bits))
        if pieces > _MOST_PIECES:
            raise CryptoError(f"Kernel: rows of {body.shape[1]} bytes are too long for a modulus of this length.")
        return self._enter(ifma_library.digits_from_bytes(body, pieces * self._length), self._powers_of_r[:pieces])

    def to_rows(self, values: Values) -> Rows:
        """Return values as numbers of [0, n^2) in rows of as many bytes as n^2 has."""
        return ifma_library.digits_to_bytes(self._leave(self._words(values), whole=True), self._row_bytes)

    def take(self, values: Values, idx: slice | Index) -> Values:
        """Return values[idx]."""
        return self._words(values)[idx]

    def join(self, parts: Sequence[Values]) -> Values:
        """Return the parts one after the other."""
        return np.concatenate([self._words(part) for part in parts]) if parts else self._rows(0)

    def _number(self, x: int) -> Words:
        """Return the row of x in Montgomery form."""
        high, low = divmod((x << self._r_bits) % self._nn, self._n)
        return np.concatenate([_digits(low, self._length), _digits(high, self._length)])

    def _most_summed(self) -> int:
        """Return I, how many second parts of logarithmic numbers may be added up: (4 I + 4) n <= R / 2, I <= 1024."""
        return min(1024, (1 << self._r_bits) // (8 * self._n) - 1)

    def _words(self, values: Values) -> Words:
        """Look into a container that a kernel of this length made; C reads as much of it as its shape says."""
        if not isinstance(values, np.ndarray) or values.dtype != np.uint64 or values.shape[1:] != (self._width,):
            raise CryptoError(f"Kernel: got something else than rows of {self._width} words.")
        return np.ascontiguousarray(values)

    def _rows(self, count: int) -> Words:
        return np.empty((count, self._width), dtype=np.uint64)

    def _squared(self, bases: Words, times: int) -> Words:
        out = self._rows(len(bases))

        def work(start: int, stop: int) -> None:
            self._call("square", out[start:], bases[start:], stop - start, times)

        self._run(work, len(bases), len(bases) * times)
        return out

    def _factors(self, src: Values, uses: int) -> Words | _Logs:
        """Return factors in the form that pays for so many uses."""
        if isinstance(src, _Logs):
            self._words(src.words)
            return src
        words = self._words(src)
        if uses < _USES_FOR_LOGS * len(words):
            return words
        try:
            return _Logs(self._logarithmic(words, self._words(invert_all(self, words))))
        except ZeroDivisionError:  # a number is no unit and has no logarithm
            return words

    def _logarithmic(self, values: Words, inverses: Words) -> Words:
        out = self._rows(len(values))

        def work(start: int, stop: int) -> None:
            self._call("take_logarithms", out[start:], values[start:], inverses[start:], stop - start)

        self._run(work, len(values), len(values))
        return out

    def _segments(self, src: Words | _Logs, order: Index, begins: Index, lengths: Index) -> Words:
        """Multiply the segments order[begins[s] : begins[s] + lengths[s]], the longest first."""
        out, logs = self._rows(len(lengths)), isinstance(src, _Logs)
        words = src.words if isinstance(src, _Logs) else src
        to = np.argsort(-lengths, kind="stable")
        begins, lengths = np.ascontiguousarray(begins[to]), np.ascontiguousarray(lengths[to])

        def work(start: int, stop: int) -> None:
            self._call(
                "segment_products",
                *(out, len(out), words, len(words), int(logs), order, len(order)),
                *(begins[start:], lengths[start:], to[start:], stop - start),
            )

        run_parts(work, _cuts_of_segments(lengths))
        return out

    def _enter(self, pieces: Words, constants: Words) -> Words:
        out = self._rows(len(pieces))

        def work(start: int, stop: int) -> None:
            self._call("enter", out[start:], pieces[start:], stop - start, constants, len(constants))

        self._run(work, len(pieces), len(pieces))
        return out

    def _leave(self, values: Words, *, whole: bool) -> Words:
        out = self._rows(len(values))

        def work(start: int, stop: int) -> None:
            self._call("leave", out[start:], values[start:], stop - start, int(whole))

        self._run(work, len(values), len(values))
        return out

    def _call(self, name: str, *arguments: NDArray[np.generic] | int) -> None:
        ifma_library.call(name, self._context, *arguments)

    def _run(self, work: Callable[[int, int], None], count: int, products: int) -> None:
        parts = min(thread_count(), max(1, products // _LEAST_PER_THREAD))
        run_parts(work, even_cuts(count, parts, _LANES))


MOST_BITS = _DIGIT_BITS * _LENGTHS[-1] - _SLACK_BITS


def why_not_ifma(modulus_bits: int = 0) -> str | None:
    """Return why this process can't use the kernel for moduli of so many bits, or None if it can."""
    library = ifma_library.library()
    if library is None:
        return "the C kernel is not built"
    if not library.vfl_ifma_supported():
        return "this processor has no AVX-512 IFMA"
    if modulus_bits > MOST_BITS:
        return f"it takes moduli of at most {MOST_BITS} bits, not {modulus_bits}"
    return None


def _cuts_of_segments(lengths: Index) -> list[int]:
    """Return cuts between vectors of segments, the longest first, so that every thread multiplies about as much."""
    each = np.maximum(lengths[::_LANES], 1)
    work = np.cumsum(each)
    total = int(work[-1]) if len(work) else 0
    parts = min(thread_count(), max(1, total * _LANES // _LEAST_PER_THREAD))
    shares = total * np.arange(1, parts) / parts
    cuts = np.searchsorted(work - each / 2, shares) * _LANES  # a vector goes where the middle of its work lies
    return [0, *np.minimum(cuts, len(lengths)).tolist(), len(lengths)]


def _cheapest_window(bits: int) -> int:
    """Return the width of windows for public exponents of so many bits."""
    return min(range(1, _WIDEST_WINDOW + 1), key=lambda width: (1 << width) + -(-bits // width))


def _window_digits(exponents: Sequence[int], width: int, windows: int) -> Digits:
    """Return the digits of every exponent, shape (count, windows), the highest first."""
    size = -(-width * windows // 8)
    body = b"".join(x.to_bytes(size) for x in exponents)
    bits = np.unpackbits(np.frombuffer(body, dtype=np.uint8).reshape(len(exponents), size), axis=1)
    bits = bits[:, bits.shape[1] - width * windows :].reshape(len(exponents), windows, width)
    weights = (1 << np.arange(width - 1, -1, -1)).astype(np.uint8)
    return np.ascontiguousarray((bits * weights).sum(axis=2, dtype=np.uint8))


def _digits(x: int, length: int) -> Words:
    return np.array([x >> _DIGIT_BITS * j & ((1 << _DIGIT_BITS) - 1) for j in range(length)], dtype=np.uint64)


def _index(idx: Index) -> Index:
    return np.ascontiguousarray(idx, dtype=np.int64)
