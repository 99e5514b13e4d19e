"""Many powers of a few numbers, each as a short product of entries of tables: no squaring for any of them.

Of every base c the powers 1, 2, ... up to what a digit of w bits may be are made, of c^(2^w) again, and so on. A power
is then one entry per digit that is not zero, its *factors*. A base of which many different powers are asked for has
signed digits, which halves its tables; negative ones are left to whoever multiplies the factors. One of which few
different powers are asked for, again and again, has digits from zero on, and every power is made once.

The width w of each base's digits is the one that costs least.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vfl.paillier.columns import Integers
from vfl.paillier.groups import multiply_groups
from vfl.paillier.kernels import Index, Kernel, Values

_WITHIN_SEGMENT = 0.7  # what a product within a segment costs, in units of one that is kept; measured on both kernels
_WIDEST = 10
_SIZE_BITS = 40  # of an exponent's magnitude; the rest of a word numbers the bases
_REPEATED = 2  # uses on average from which on powers are made once each
_LANES = 512  # products at once are worth a call

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Factors:
    """The power of use i is the product of ``values[places[k]]``, or their inverses, over all k with uses[k] = i."""

    values: Values
    places: Index
    uses: Index
    inverted: Flags


@dataclass(frozen=True)
class _Bases:
    """What is asked of the bases: ``base`` and ``size`` of all different powers, by base."""

    base: Index
    size: Integers
    tops: Integers
    widths: Integers
    kept: Flags

    @property
    def halves(self) -> Integers:
        """Half of 2^w."""
        return (1 << self.widths) >> 1

    def rest(self, left: Integers) -> Integers:
        """Return what the largest exponents leave to the digits after the lowest one."""
        rest = (left + np.where(self.kept, 0, self.halves - 1)) >> self.widths
        return np.where(left >> self.widths > 0, rest, 0)

    def limits(self, left: Integers) -> Integers:
        """Return the largest digit, if the largest exponents are ``left``."""
        full = np.where(self.kept, (1 << self.widths) - 1, self.halves)
        return np.where(self.rest(left) > 0, full, left)


@dataclass(frozen=True)
class _Level:
    """Powers 1, 2, ... of base j lie at ``places[first[j]]`` and after it; digits are negative too where ``signed``."""

    places: Index
    first: Index
    signed: Flags

    def at(self, base: Index, exponent: Integers) -> Index:
        """Return where base[i]^exponent[i] lies."""
        places: Index = self.places[self.first[base] + exponent - 1]
        return places


def factors_of_powers(kernel: Kernel, bases: Values, base: Index, exponent: Integers, outputs: int) -> Factors:
    """Return the factors of bases[base[i]]^exponent[i] for every use i.

    Parameters
    ----------
    bases : Values
        Of every base ``outputs`` numbers, raised to the same exponents; factors too are so many each.
    exponent : ndarray of shape (uses,), int64
        Not zero, and below 2^40 in magnitude.
    """
    keys, power = np.unique(base << _SIZE_BITS | np.abs(exponent), return_inverse=True)
    asked = _asked(keys >> _SIZE_BITS, keys & ((1 << _SIZE_BITS) - 1), base, len(bases) // outputs)
    table, levels = _tables(kernel, bases, asked, outputs)
    owner, place, inverted = _digits(asked, levels)
    digits = np.bincount(owner, minlength=len(keys))
    made = asked.kept[asked.base] & (digits > 1)
    if made.any():
        count, of_made = int(made.sum()), made[owner]
        groups, parts = (np.cumsum(made) - 1)[owner[of_made]], place[of_made]
        there = len(table) // outputs + np.arange(count)
        products = multiply_groups(kernel, table, each(groups, outputs), each(parts, outputs), count * outputs)
        table = kernel.join([table, products])
        owner, place = np.append(owner[~of_made], np.flatnonzero(made)), np.append(place[~of_made], there)
        inverted, digits = np.append(inverted[~of_made], np.zeros(count, dtype=bool)), np.where(made, 1, digits)
    order, first, needed = np.argsort(owner, kind="stable"), np.cumsum(digits) - digits, digits[power]
    uses = np.repeat(np.arange(len(power)), needed)
    which = order[first[power[uses]] + _counting(needed)]
    return Factors(table, place[which], uses, inverted[which] ^ (exponent < 0)[uses])


def rough_cost(uses: Integers, tops: Integers) -> float:
    """Return about how many products powers cost with their use, from how many and how large they are for each base."""
    nobody, signed = np.empty(0, dtype=np.int64), np.zeros(len(tops), dtype=bool)
    asked = _Bases(nobody, nobody, tops, tops, signed)
    per_digit = np.repeat(_WITHIN_SEGMENT * uses[:, None], _SIZE_BITS + 2, axis=1)
    return float(np.min([_cost(asked, per_digit, width) for width in range(1, _WIDEST + 1)], axis=0).sum())


def _asked(base: Index, size: Integers, uses: Index, count: int) -> _Bases:
    """Choose how every base's exponents are cut."""
    tops = np.zeros(count, dtype=np.int64)
    tops[base] = size  # the last of a base, hence its largest
    used, different = np.bincount(uses, minlength=count), np.bincount(base, minlength=count)
    asked = _Bases(base, size, tops, tops, used >= _REPEATED * different)
    return replace(asked, widths=_choose(asked, used / np.maximum(different, 1)))


def _choose(asked: _Bases, uses: NDArray[np.float64]) -> Integers:
    """Return the width that costs least for every base, from how many use each of its powers on average."""
    of_a_digit = np.where(asked.kept, 1.0, _WITHIN_SEGMENT * uses)[asked.base]
    bits, count = _SIZE_BITS + 2, len(asked.tops)
    histogram = np.bincount(asked.base * bits + lengths(asked.size), of_a_digit, bits * count).reshape(count, bits)
    longer = histogram[:, ::-1].cumsum(axis=1)[:, ::-1]  # longer[:, b]: powers with exponents of at least b bits
    costs = np.stack([_cost(asked, longer, width) for width in range(1, _WIDEST + 1)])
    best: Integers = costs.argmin(axis=0) + 1
    return best


def _cost(asked: _Bases, longer: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return what tables for digits of this width cost every base, and digits: longer[:, b] of those from bit b on."""
    bases = replace(asked, widths=np.full(len(asked.tops), width))
    cost, left, low = np.zeros(len(asked.tops)), asked.tops, 0
    while left.any():
        cost += bases.limits(left) + np.where(left > 0, longer[:, min(low + 1, _SIZE_BITS)], 0.0)
        left, low = bases.rest(left), low + width
    return cost


def _digits(asked: _Bases, levels: list[_Level]) -> tuple[Index, Index, Flags]:
    """Return of all digits that are not zero: whose they are, where their entries lie, and whether negative."""
    owners, places, negative = [], [], []
    base, rest = asked.base, asked.size
    widths, halves = asked.widths[base], asked.halves[base]
    for level in levels:
        digit = rest & ((1 << widths) - 1)
        digit -= ((digit > halves) & level.signed[base]) << widths
        rest = (rest - digit) >> widths
        used = np.flatnonzero(digit)
        owners.append(used)
        places.append(level.at(base[used], np.abs(digit[used])))
        negative.append(digit[used] < 0)
    return np.concatenate(owners), np.concatenate(places), np.concatenate(negative)


def _tables(kernel: Kernel, bases: Values, asked: _Bases, outputs: int) -> tuple[Values, list[_Level]]:
    """Return the powers of all bases c, then of c^(2^w), and so on as far as there are digits; and their places."""
    tables, levels, start = [], [], 0
    left, of_base = asked.tops, np.arange(len(asked.tops), dtype=np.int64)
    while left.any():
        limits, rest = asked.limits(left), asked.rest(left)
        own = kernel.take(bases, each(of_base, outputs))
        level = _Level(
            np.zeros(int(limits.sum()), dtype=np.int64), np.cumsum(limits) - limits, ~asked.kept & (rest > 0)
        )
        table = _small_powers(kernel, own, limits, level, outputs)
        levels.append(replace(level, places=level.places + start))
        tables.append(table)
        start += len(table) // outputs
        further = np.flatnonzero(rest)
        at = each(level.at(further, asked.halves[further]), outputs)
        bases, of_base, left = kernel.mul_pairs(table, at, table, at), np.zeros_like(of_base), rest
        of_base[further] = np.arange(len(further))
    return kernel.join(tables), levels


def _small_powers(kernel: Kernel, bases: Values, limits: Integers, level: _Level, outputs: int) -> Values:
    """Return the powers 1 .. limits[j] of every base j, and write their places down.

    The powers known are doubled until that are enough products for a call; then so many are added at a time.
    """
    some = np.flatnonzero(limits)
    level.places[level.first[some]] = np.arange(len(some))
    table = before = kernel.take(bases, each(some, outputs))
    parts, made, start, known, block = [table], len(some), 0, 1, 1
    while known < limits.max():
        steps = np.clip(limits - known, 0, block)
        j, step = np.repeat(np.arange(len(limits)), steps), _counting(steps) + 1
        low, high = level.at(j, known - block + step) - start, level.at(j, np.full(len(j), block))
        more = kernel.mul_pairs(before, each(low, outputs), table, each(high, outputs))
        level.places[level.first[j] + known + step - 1] = made + np.arange(len(j))
        known += block
        if known == 2 * block and len(table) < _LANES:
            table = before = kernel.join([table, more])
            parts, block = [table], known
        else:
            parts.append(more)
            before, start = more, made
        made += len(j)
    return kernel.join(parts)


def _counting(lengths: Integers) -> Index:
    """Return 0 .. lengths[i] - 1 for all i, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(int(ends[-1])) - np.repeat(ends - lengths, lengths)


def lengths(sizes: Integers) -> Integers:
    """Return how many bits numbers have that are not negative.

    Examples
    --------
    >>> lengths(np.array([0, 1, 7, 8])).tolist()
    [0, 1, 3, 4]
    """
    return np.frexp(sizes.astype(np.float64))[1].astype(np.int64)


def each(places: Index, outputs: int) -> Index:
    """Return where the numbers of all outputs at these places lie.

    Examples
    --------
    >>> each(np.array([0, 3]), 2).tolist()
    [0, 1, 6, 7]
    """
    return (places[:, None] * outputs + np.arange(outputs, dtype=np.int64)).ravel()
