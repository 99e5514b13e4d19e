"""Slots wider than 64 bits, whose sums are exact integers under a mask and count modulo 2^64 once the mask is off.

Shares of a number modulo 2^64 may be any 64-bit integers. Multiplied by plaintexts and added up they come to sums s of
up to ``bound`` in magnitude, which whoever decrypts is not to learn. To each slot of b bits a mask is added,

    m = r + bound,    r uniform in [0, R),    R = bound 2^sigma

so that no slot is ever negative, and sums over ``terms`` parties stay within theirs:

    terms (R - 1 + 2 bound) < 2^b,    b slots <= |N| - 2

R is no power of two: rounded up to one, it would cost a slot now and then.

Security. s + m is uniform on R integers, from bound + s on. For sums s and t the two distributions have a statistical
distance (half the sum of the absolute differences of probabilities) of exactly min(1, |s - t| / R): at most
2^-sigma from the mask alone (t = 0), which does not depend on the party's data, and 2^(1 - sigma) for any two sums. For
a message of many slots these add up. What other parties add tells no more. A mask serves once.

Leakage. Whoever decrypts sees whole slots: s + m, in which only s + m modulo 2^64 is of use to it. Slots that no value
went to are zero, and remain so only while nothing is added to them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parties.errors import CryptoError
from vfl.paillier.kernel_time import timed
from vfl.paillier.rows import Rows
from vfl.paillier.slots import bits_of_rows, residues_of_slots

Words = NDArray[np.uint64]

_WORD = (1 << 64) - 1
_NARROWEST = 64  # bits, for any 64-bit integer


@dataclass(frozen=True)
class WideSlots:
    """How integers lie in a plaintext; see the module's docstring.

    Attributes
    ----------
    modulus_bits : int, bits
        |N|.
    bound : int
        The largest magnitude of a sum that one party's mask hides.
    terms : int
        How many parties' masked sums may be added up.
    slot_bits : int, bits
        b.
    slots : int
        Of a plaintext.
    mask_range : int
        R.
    """

    modulus_bits: int
    bound: int
    terms: int
    slot_bits: int
    slots: int
    mask_range: int

    @property
    def mask_words(self) -> int:
        """64-bit words of a mask."""
        return -(-self.slot_bits // 64)


def plan_wide_slots(modulus_bits: int, bound: int, *, terms: int = 1, sigma: int = 40) -> WideSlots:
    """Return the layout with as many slots as fit.

    Parameters
    ----------
    modulus_bits : int, bits
        |N|.
    bound : int
        The largest magnitude of a sum.
    terms : int
        How many parties' masked sums are added up at most.
    sigma : int, bits
        A mask hides a sum within a statistical distance of 2^-sigma.

    Raises
    ------
    CryptoError
        If not even one slot fits.

    Examples
    --------
    >>> layout = plan_wide_slots(2048, 18 * 2**78)
    >>> layout.slot_bits, layout.slots
    (123, 16)
    """
    if bound < 1 or terms < 1 or sigma < 1:
        raise CryptoError("Wide slots: bound, terms and sigma must be at least 1.")
    mask_range = bound << sigma
    slot_bits = max(_NARROWEST, (terms * (mask_range - 1 + 2 * bound)).bit_length())
    slots = (modulus_bits - 2) // slot_bits
    if slots < 1:
        raise CryptoError(
            f"Wide slots: one of {slot_bits} bits ({bound.bit_length()} for a sum, {sigma} more for its mask, {terms} "
            f"parties) does not fit into {modulus_bits} bits of modulus. Use a longer key."
        )
    return WideSlots(modulus_bits, bound, terms, slot_bits, slots, mask_range)


@timed
def draw_masks(layout: WideSlots, count: int, slots: int) -> Words:
    """Draw masks m = r + bound, r uniform in [0, mask_range), from the system's randomness.

    Returns
    -------
    ndarray of shape (count, slots, layout.mask_words), uint64
        64-bit words, lowest first. `low_words` are the masks modulo 2^64; `pack_masks` makes plaintexts of all.

    Raises
    ------
    CryptoError
        If ``slots`` is not 1 to ``layout.slots``.
    """
    _check_slots(layout, slots)
    drawn = np.empty((count * slots, layout.mask_words), dtype=np.uint64)
    have = 0
    while have < len(drawn):
        some = _below(layout, len(drawn) - have)
        drawn[have : have + len(some)] = some
        have += len(some)
    _add_number(drawn, layout.bound)
    return drawn.reshape(count, slots, layout.mask_words)


def _below(layout: WideSlots, count: int) -> Words:
    """Draw ``count`` numbers of as many bits as the range has, and return those that are in it."""
    largest, width = layout.mask_range - 1, layout.mask_words
    words = np.frombuffer(os.urandom(8 * width * count), dtype=np.uint64).reshape(count, width).copy()
    within = np.ones(count, dtype=bool)  # of the words so far: not above the range's
    for i in range(width):
        words[:, i] &= np.uint64((1 << largest.bit_length()) - 1 >> 64 * i & _WORD)
        limit = np.uint64(largest >> 64 * i & _WORD)
        within = (words[:, i] < limit) | ((words[:, i] == limit) & within)
    return words[within]


def _add_number(words: Words, number: int) -> None:
    """Add a number to every row of words, lowest first, in place."""
    carry = np.zeros(len(words), dtype=np.uint64)
    for i in range(words.shape[1]):
        part = np.uint64(number >> 64 * i & _WORD)
        total = words[:, i] + part
        after = total + carry
        carry = ((total < part) | (after < total)).astype(np.uint64)
        words[:, i] = after


def low_words(masks: Words) -> Words:
    """Return masks modulo 2^64, of shape (count, slots)."""
    return np.ascontiguousarray(masks[..., 0])


@timed
def pack_masks(layout: WideSlots, masks: Words, n: int) -> Rows:
    """Return masks side by side in plaintexts, for `vfl.paillier.add_plain`.

    Parameters
    ----------
    masks : ndarray of shape (count, slots, layout.mask_words), uint64
        Of `draw_masks`.
    n : int
        N.

    Returns
    -------
    ndarray of shape (count, bytes of N), uint8
        Numbers below N / 2, big-endian.

    Raises
    ------
    CryptoError
        If the shape is wrong, a mask has more bits than a slot, or the modulus is another.
    """
    _check_modulus(layout, n)
    b, width = layout.slot_bits, layout.mask_words
    if masks.dtype != np.uint64 or masks.ndim != 3 or masks.shape[2] != width:
        raise CryptoError(f"Wide slots: got masks of {masks.dtype} {masks.shape}, expected uint64 (n, slots, {width}).")
    _check_slots(layout, masks.shape[1])
    if b % 64 and (masks[:, :, -1] >> np.uint64(b % 64)).any():
        raise CryptoError(f"Wide slots: a mask has more than the {b} bits of a slot.")
    size = (layout.modulus_bits + 7) // 8
    words = np.zeros((len(masks), max(b * masks.shape[1] // 64 + width + 1, -(-size // 8))), dtype="<u8")
    for i in range(masks.shape[1]):
        for j in range(width):
            word, shift = divmod(b * i + 64 * j, 64)
            words[:, word] |= masks[:, i, j] << np.uint64(shift)
            if shift:
                words[:, word + 1] |= masks[:, i, j] >> np.uint64(64 - shift)
    return np.ascontiguousarray(words.view(np.uint8)[:, :size][:, ::-1])


@timed
def pack_words(layout: WideSlots, values: NDArray[np.int64], n: int) -> Rows:
    """Return 64-bit integers side by side in plaintexts, for `vfl.paillier.encrypt`.

    Parameters
    ----------
    values : ndarray of shape (count, 1 to layout.slots), int64
        Any, -2^63 too.
    n : int
        N.

    Returns
    -------
    ndarray of shape (count, bytes of N), uint8
        sum_i values[:, i] 2^(b i) modulo N, big-endian.

    Raises
    ------
    CryptoError
        If the shape is wrong, or the modulus is another.

    Examples
    --------
    >>> layout = plan_wide_slots(130, 2**20)
    >>> [int.from_bytes(row.tobytes()) for row in pack_words(layout, np.array([[1, 2], [-1, 0]]), 2**129 + 1)]
    [36893488147419103233, 680564733841876926926749214863536422912]
    """
    _check_modulus(layout, n)
    if values.dtype != np.int64 or values.ndim != 2:
        raise CryptoError(f"Wide slots: got {values.dtype} {values.shape}, expected int64 (n, 1 to {layout.slots}).")
    _check_slots(layout, values.shape[1])
    return residues_of_slots(values, layout.slot_bits, n)


@timed
def open_words(layout: WideSlots, residues: Sequence[int], count: int) -> Words:
    """Return the first slots of decrypted plaintexts, each modulo 2^64.

    Parameters
    ----------
    residues : sequence of int
        Plaintexts modulo N, as `vfl.paillier.decrypt` returns them: sums of masked products, hence not negative.
    count : int
        Slots that were used, 1 to layout.slots.

    Returns
    -------
    ndarray of shape (len(residues), count), uint64

    Raises
    ------
    CryptoError
        If ``count`` is out of range, or a plaintext is negative or longer than these slots.
    """
    _check_slots(layout, count)
    used = layout.slot_bits * count
    if len(residues) and not 0 <= min(residues) <= max(residues) < 1 << used:
        raise CryptoError(f"Wide slots: an opened plaintext is longer than {count} slots of {layout.slot_bits} bits.")
    width = used // 64 + 2
    words = np.frombuffer(b"".join(int(x).to_bytes(8 * width, "little") for x in residues), dtype="<u8")
    opened = np.empty((len(residues), count), dtype=np.uint64)
    for i in range(count):
        opened[:, i] = bits_of_rows(words.reshape(-1, width), layout.slot_bits * i, 64)
    return opened


def _check_slots(layout: WideSlots, slots: int) -> None:
    if not 1 <= slots <= layout.slots:
        raise CryptoError(f"Wide slots: got {slots} slots, expected 1 to {layout.slots}.")


def _check_modulus(layout: WideSlots, n: int) -> None:
    if n.bit_length() != layout.modulus_bits:
        raise CryptoError(f"Wide slots: laid out for {layout.modulus_bits} bits of modulus, got {n.bit_length()}.")
