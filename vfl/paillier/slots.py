"""Several signed integers side by side in one plaintext, and many plaintexts joined into few before they are opened.

With slots of b bits a plaintext is sum_i v_i 2^(b i). Adding ciphertexts adds slot by slot; a slot is read as a
balanced digit, in [-2^(b - 1), 2^(b - 1)), so that what a negative slot borrows from its neighbours is given back:

    b = bits(terms (2^value_bits - 1)) + 1      one bit for the sign
    b slots <= |N| - 1                          so that 2 |sum| < 2^(b slots) <= N

Compression (as in SecureBoost+, Chen et al. 2021): of ciphertexts whose plaintexts use the lowest ``group`` slots only,

    c_0 c_1^(2^s) c_2^(2^(2 s)) ...,  s = b group

holds as many as fit. By Horner's rule that is s squarings and one product for each, and a decryption only for all.

Leakage. Whoever decrypts sees every slot of the plaintext, whatever it was asked for: nothing may be in a slot that it
is not to learn. Slots that no value went to are zero. A compressed ciphertext is made of ciphertexts that others have
seen: it has to be re-randomised before it leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parties.errors import CryptoError
from vfl.paillier.cipher import centred
from vfl.paillier.kernel_time import timed
from vfl.paillier.kernels import Index, Kernel, Values, everything
from vfl.paillier.rows import Rows
from vfl.paillier.split import thread_count
from vfl.paillier.vectors import CipherVector, stale_vector

Integers = NDArray[np.int64] | NDArray[np.object_]

_AT_ONCE = 8  # numbers that a thread's vector instructions take; a kernel without them does not mind


@dataclass(frozen=True)
class SlotLayout:
    """How signed integers lie in a plaintext; see the module's docstring.

    Attributes
    ----------
    modulus_bits : int, bits
        |N|.
    value_bits : int, bits
        Packed values are below 2^value_bits in magnitude.
    terms : int
        How many packed values, of either sign, may add up in a slot.
    slot_bits : int, bits
        b.
    group : int
        Slots of a plaintext that is to be compressed.
    slots : int
        Slots of a whole plaintext, a multiple of ``group``.
    """

    modulus_bits: int
    value_bits: int
    terms: int
    slot_bits: int
    group: int
    slots: int

    @property
    def bound(self) -> int:
        """The largest magnitude that a slot may come to."""
        return _bound(self.value_bits, self.terms)

    @property
    def per_ciphertext(self) -> int:
        """Plaintexts that a compressed ciphertext holds."""
        return self.slots // self.group

    @property
    def group_bits(self) -> int:
        """By how much plaintexts are shifted against each other in a compressed ciphertext."""
        return self.slot_bits * self.group


def plan_slots(modulus_bits: int, value_bits: int, *, terms: int = 1, group: int = 1) -> SlotLayout:
    """Return the layout with as many slots as fit.

    Parameters
    ----------
    modulus_bits : int, bits
        |N|.
    value_bits : int, bits
        Values v have |v| < 2^value_bits.
    terms : int
        How many of them are added up at most. A difference of sums counts by what it comes to: a parent less its child
        has no more terms than the parent.
    group : int
        How many slots belong together (2 for pairs of g and h).

    Raises
    ------
    CryptoError
        If not even one group fits.

    Examples
    --------
    >>> layout = plan_slots(2048, value_bits=24, terms=30000, group=2)
    >>> layout.slot_bits, layout.slots, layout.per_ciphertext
    (40, 50, 25)
    """
    if value_bits < 1 or terms < 1 or group < 1:
        raise CryptoError("Slots: value bits, terms and group must be at least 1.")
    slot_bits = _bound(value_bits, terms).bit_length() + 1
    groups = (modulus_bits - 1) // (slot_bits * group)
    if groups < 1:
        raise CryptoError(
            f"Slots: {group} of {slot_bits} bits ({value_bits} for a value, {terms} terms) do not fit into "
            f"{modulus_bits} bits of modulus. Use fewer binary places, smaller groups or a longer key."
        )
    return SlotLayout(modulus_bits, value_bits, terms, slot_bits, group, groups * group)


def _bound(value_bits: int, terms: int) -> int:
    return terms * ((1 << value_bits) - 1)


@timed
def pack_slots(layout: SlotLayout, values: NDArray[np.int64], *, sums: bool = False) -> list[int]:
    """Return the plaintexts sum_i values[:, i] 2^(b i).

    Parameters
    ----------
    values : ndarray of shape (n, layout.slots) or with fewer columns, int64
        ``layout.group`` columns if the ciphertexts are to be compressed.
    sums : bool
        The values are sums already, up to ``layout.bound``, and no more may be added to them.

    Returns
    -------
    list of int
        Signed, below N / 2 in magnitude.

    Raises
    ------
    CryptoError
        If the shape is wrong or a value does not fit.
    """
    _check_values(layout, values, layout.bound if sums else _bound(layout.value_bits, 1))
    return join_slots(values, layout.slot_bits)


def _check_values(layout: SlotLayout, values: NDArray[np.int64], largest: int) -> None:
    """Refuse values of another shape, or larger than a slot is meant to take."""
    fits = values.ndim == 2 and 1 <= values.shape[1] <= layout.slots
    if not fits or values.dtype != np.int64:
        raise CryptoError(f"Slots: got {values.dtype} {values.shape}, expected int64 (n, 1 to {layout.slots}).")
    if values.size and max(int(values.max()), -int(values.min())) > largest:
        raise CryptoError(f"Slots: a value has more than the agreed {largest.bit_length()} bits.")


@timed
def pack_residues(layout: SlotLayout, values: NDArray[np.int64], modulus: int) -> Rows:
    """Return the plaintexts of `pack_slots` modulo N in rows of bytes: the form in which many are encrypted fastest.

    Raises
    ------
    CryptoError
        As `pack_slots`; or if the modulus is another.

    Examples
    --------
    >>> layout = plan_slots(16, value_bits=3)
    >>> pack_residues(layout, np.array([[1], [-1]]), 40_001).tolist()
    [[0, 1], [156, 64]]
    """
    _check_values(layout, values, _bound(layout.value_bits, 1))
    if modulus.bit_length() != layout.modulus_bits:
        raise CryptoError(f"Slots: laid out for {layout.modulus_bits} bits of modulus, got {modulus.bit_length()}.")
    return residues_of_slots(values, layout.slot_bits, modulus)


def residues_of_slots(values: NDArray[np.int64], slot_bits: int, modulus: int) -> Rows:
    """Return sum_i values[:, i] 2^(slot_bits i) modulo N in rows of bytes.

    Parameters
    ----------
    values : ndarray of shape (n, m), int64
        Below 2^(slot_bits - 1) in magnitude, or any, in slots of 64 bits and more; together below N in magnitude.
    """
    words, added = _lifted(values, slot_bits)
    width, size = words.shape[1], (modulus.bit_length() + 7) // 8
    negative = _add(words, (1 << 64 * width) - added) == 0  # what was added is taken off: a carry means it was there
    whole = np.zeros((len(words), max(8 * width, size)), dtype=np.uint8)
    high, low = divmod(modulus, 1 << 64 * width)
    shifted = words.copy()
    carried = _add(shifted, low)
    words[negative] = shifted[negative]
    whole[:, : 8 * width] = words.view(np.uint8)
    if size > 8 * width:  # above the slots' words a negative plaintext has those of N, less what was borrowed
        rest = [(high - 1 + carry).to_bytes(size - 8 * width, "little") for carry in (0, 1)] if high else []
        for carry, part in enumerate(rest):
            whole[negative & (carried == carry), 8 * width :] = np.frombuffer(part, dtype=np.uint8)
    return np.ascontiguousarray(whole[:, :size][:, ::-1])


def _add(words: NDArray[np.uint64], number: int) -> NDArray[np.uint64]:
    """Add a number to every row of words, lowest first, in place; return the carries out of the last."""
    carry = np.zeros(len(words), dtype=np.uint64)
    for i in range(words.shape[1]):
        part = np.uint64(number >> 64 * i & 0xFFFF_FFFF_FFFF_FFFF)
        total = words[:, i] + part
        after = total + carry
        carry = ((total < part) | (after < total)).astype(np.uint64)
        words[:, i] = after
    return carry


def join_slots(values: NDArray[np.int64], slot_bits: int) -> list[int]:
    """Return sum_i values[:, i] 2^(slot_bits i) for values below 2^(slot_bits - 1) in magnitude.

    Slots of v + 2^(w - 1) >= 0 are laid side by side, and what was added is taken off.

    Examples
    --------
    >>> join_slots(np.array([[1, -1], [0, 2]]), slot_bits=8)
    [-255, 512]
    """
    words, added = _lifted(values, slot_bits)
    return [int.from_bytes(row.tobytes(), "little") - added for row in words]


def _lifted(values: NDArray[np.int64], slot_bits: int) -> tuple[NDArray[np.uint64], int]:
    """Return slots of v + 2^(w - 1) >= 0 side by side in words, lowest first, and what was added."""
    count, k = values.shape
    half = 1 << (min(slot_bits, 64) - 1)
    slots = values.view(np.uint64) + np.uint64(half)  # modulo 2^64
    words = np.zeros((count, slot_bits * k // 64 + 2), dtype="<u8")
    for i, column in enumerate(slots.T):
        word, shift = divmod(slot_bits * i, 64)
        words[:, word] |= column << np.uint64(shift)
        if shift:
            words[:, word + 1] |= column >> np.uint64(64 - shift)
    return words, sum(half << (slot_bits * i) for i in range(k))


@timed
def unpack_slots(layout: SlotLayout, residues: Sequence[int], key_n: int) -> Integers:
    """Return all slots of decrypted plaintexts as exact signed integers.

    Parameters
    ----------
    residues : sequence of int
        Plaintexts modulo N, as `decrypt` returns them.
    key_n : int
        N.

    Returns
    -------
    ndarray of shape (n, layout.slots)
        int64 if slots have at most 64 bits, else Python integers. Compressed plaintexts follow each other: row by row,
        then slot by slot.

    Raises
    ------
    CryptoError
        If the modulus is another, or a plaintext or a slot exceeds what the layout allows.
    """
    if key_n.bit_length() != layout.modulus_bits:
        raise CryptoError(f"Slots: laid out for {layout.modulus_bits} bits of modulus, got {key_n.bit_length()}.")
    b, used = layout.slot_bits, layout.slot_bits * layout.slots
    half = sum(1 << (b * i + b - 1) for i in range(layout.slots))
    lifted = [centred(x, key_n) + half for x in residues]
    if lifted and not 0 <= min(lifted) <= max(lifted) < 1 << used:
        raise CryptoError("Slots: an opened plaintext is longer than all slots together.")
    width = used // 64 + 2
    words = np.frombuffer(b"".join(x.to_bytes(8 * width, "little") for x in lifted), dtype="<u8").reshape(-1, width)
    shape = (len(lifted), layout.slots)
    values: Integers = np.empty(shape, np.int64) if b <= 64 else np.empty(shape, np.object_)
    for i in range(layout.slots):
        values[:, i] = _slot(words, b * i, b)
    if values.size and max(int(values.max()), -int(values.min())) > layout.bound:
        raise CryptoError(f"Slots: an opened slot exceeds {layout.terms} terms of {layout.value_bits} bits.")
    return values


def _slot(words: NDArray[np.uint64], at: int, bits: int) -> Integers:
    """Return the bits from ``at`` on of every row, less 2^(bits - 1)."""
    if bits <= 64:
        lifted = bits_of_rows(words, at, bits) - np.uint64(1 << (bits - 1))  # modulo 2^64
        return lifted.view(np.int64)
    value = np.full(len(words), -(1 << (bits - 1)), dtype=np.object_)
    for start in range(0, bits, 64):
        value += bits_of_rows(words, at + start, min(64, bits - start)).astype(np.object_) << start
    return value


def bits_of_rows(words: NDArray[np.uint64], at: int, bits: int) -> NDArray[np.uint64]:
    """Return ``bits`` <= 64 bits from ``at`` on of every row."""
    word, shift = divmod(at, 64)
    piece = words[:, word] >> np.uint64(shift)
    if shift:
        piece = piece | words[:, word + 1] << np.uint64(64 - shift)
    return piece & np.uint64((1 << bits) - 1)


@timed
def compress(v: CipherVector, layout: SlotLayout) -> CipherVector:
    """Join plaintexts of one group of slots each into as few ciphertexts as hold them; not fresh.

    Parameters
    ----------
    v : CipherVector
        Plaintexts that use the lowest ``layout.group`` slots. Nothing may be in them that whoever decrypts is not to
        learn.

    Returns
    -------
    CipherVector
        ceil(len(v) / layout.per_ciphertext) ciphertexts; plaintext i of each holds slots i group, i group + 1, ... The
        last one's unused slots are zero.

    Raises
    ------
    CryptoError
        If the key's length is not the layout's.

    Examples
    --------
    >>> from vfl.paillier import decrypt, encrypt, generate_keypair
    >>> key = generate_keypair(512, insecure_test_mode=True)
    >>> layout = plan_slots(512, value_bits=100)
    >>> v = encrypt(key, pack_slots(layout, np.array([[3], [-4], [5], [-6], [7], [-8]])))
    >>> unpack_slots(layout, decrypt(key, compress(v, layout)), key.public.n).tolist()
    [[3, -4, 5, -6, 7], [-8, 0, 0, 0, 0]]
    """
    if v.key.bits != layout.modulus_bits:
        raise CryptoError(f"Slots: laid out for {layout.modulus_bits} bits of modulus, got a {v.key.bits}-bit key.")
    return stale_vector(v.key, _side_by_side(v.key.kernel, v.values, layout.per_ciphertext, layout.group_bits))


def _side_by_side(kernel: Kernel, values: Values, per: int, bits: int) -> Values:
    """Return prod_i values[per j + i]^(2^(bits i)) for every j, by Horner's rule from the top down.

    No other order is shorter: the last of a run is squared bits (per - 1) times one after the other.
    """
    first = np.arange(0, len(values), per)
    at = np.minimum(first + per, len(values)) - 1
    joined = kernel.take(values, at)
    while (at > first).any():
        turn = _longest(at - first)
        at[turn] -= 1
        raised = kernel.pow_uniform(kernel.take(joined, turn), 1 << bits)
        raised = kernel.mul_pairs(raised, everything(raised), values, at[turn])
        if len(turn) < len(joined):
            where = everything(joined)
            where[turn] = len(joined) + np.arange(len(turn))
            raised = kernel.take(kernel.join([joined, raised]), where)
        joined = raised
    return joined


def _longest(left: Index) -> Index:
    """Return whose turn it is: those with most steps left, as many as fill all lanes of all threads."""
    waiting, lanes = int(np.count_nonzero(left)), _AT_ONCE * thread_count()
    if waiting > lanes:
        waiting -= waiting % lanes
    return np.sort(np.argsort(-left, kind="stable")[:waiting])
