"""X'r on ciphertexts of r, with the masks that let the key's owner open the result and learn nothing.

Source: section "Inner products" of the protocol rules in ``docs/protocols``; buckets in `vfl.paillier.pippenger`.

    key owner                                     owner of X
    [[r]] = encrypt(pack_rows(r))      ------>    T = transposed_product([[r]], X)
    open_products                      <------    [[T + M]] = mask_products(T)
    residue or slot q                  ------>    unmask_products: X'r, exact integers

One row per ciphertext (k = 1). S = R max_j |x_j|_1, R a public bound on |r_i|, and 2 S < N. The mask is uniform in
Z_N; the key's owner returns the whole residue. Perfectly hidden.

k rows per ciphertext. With B = 2^beta a block of r is sum_i r_i B^i and the exponent of a block of x is
sum_i x_i B^(k-1-i): slot k - 1 of the sum of the 2 k - 1 slots is the product. The key's owner knows r, so every other
slot would be an equation on X for it, and one on r for the owner of X: all are masked and one is returned.

    gamma = 2, gap g = 10, sigma = 40, beta = bits(S) + 1 + g, P = beta (2 k - 1), P + sigma + 2 <= |N|
    M = 2^P + rho, rho uniform in [0, 2^(P + sigma));   V = T + M, positive and below N
    q = (V >> s) mod 2^(beta + gamma), s = beta (k - 1) - gamma
    e = centred((q - (M >> s)) mod 2^(beta + gamma)),   product = (e + 2^(gamma - 1)) >> gamma

The lower slots add less than 2^(gamma - g) to V / 2^s, so e is within 1 of 2^gamma times the product and rounding
gives it exactly. Without the gap up to a third of the results would be off by one.

Leakage. Key owner: V hides T within statistical distance 2^-40 (k = 1: perfectly). Owner of X: the products. Whoever
times `transposed_product` learns about how many digits of X are zero and whether one is negative, hence the share of
one-hot columns.
The two mask rules are never mixed: a plan has one or the other.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parties.errors import CryptoError, LocalProtocolError
from vfl.paillier.cipher import add_plain, centred, decrypt, rerandomise
from vfl.paillier.columns import choose_windows
from vfl.paillier.kernel_time import timed
from vfl.paillier.kernels import Costs
from vfl.paillier.keys import PrivateKey, PublicKey
from vfl.paillier.pippenger import powers_of_columns
from vfl.paillier.pool import ObfuscatorPool
from vfl.paillier.rows import below, numbers_in, rows_of
from vfl.paillier.slots import join_slots
from vfl.paillier.vectors import CipherVector, same_length, stale_vector

GUARD_BITS, GAP_BITS, SIGMA = 2, 10, 40
_LARGEST = 1 << 62
_DENSE_ENTRY = 1 << 15


@dataclass(frozen=True)
class InnerProductPlan:
    """What both sides agree on before any ciphertext is made; see the module's docstring for the symbols.

    Attributes
    ----------
    modulus_bits : int, bits
        |N|.
    rows : int
        n, length of r.
    bound : int
        S, the largest possible |product|.
    rows_per_ciphertext : int
        k; 1 is the rule with one row per ciphertext.
    slot_bits : int, bits
        beta; for k = 1 the width of the whole residue.
    """

    modulus_bits: int
    rows: int
    bound: int
    rows_per_ciphertext: int
    slot_bits: int
    guard_bits: int = GUARD_BITS
    gap_bits: int = GAP_BITS
    sigma: int = SIGMA

    @property
    def ciphertexts(self) -> int:
        """Ciphertexts that r takes."""
        return -(-self.rows // self.rows_per_ciphertext)

    @property
    def packed(self) -> bool:
        """Whether the rule with several rows per ciphertext holds."""
        return self.rows_per_ciphertext > 1

    @property
    def product_bits(self) -> int:
        """P, bits of the whole packed plaintext without its mask."""
        return self.slot_bits * (2 * self.rows_per_ciphertext - 1)

    @property
    def shift(self) -> int:
        """s, where the returned slot begins."""
        return self.slot_bits * (self.rows_per_ciphertext - 1) - self.guard_bits

    @property
    def answer_bits(self) -> int:
        """Bits that the key's owner returns for one column."""
        return self.slot_bits + self.guard_bits if self.packed else self.modulus_bits

    @property
    def answer_bytes(self) -> int:
        """Bytes that the key's owner returns for one column."""
        return (self.answer_bits + 7) // 8


def plan_inner_product(modulus_bits: int, rows: int, bound: int, rows_per_ciphertext: int) -> InnerProductPlan:
    """Return the plan for products of at most ``bound`` in magnitude.

    Raises
    ------
    CryptoError
        If the largest result with its mask does not fit into the modulus.

    Examples
    --------
    >>> plan = plan_inner_product(2048, rows=30000, bound=2**51, rows_per_ciphertext=16)
    >>> plan.slot_bits, plan.ciphertexts
    (63, 1875)
    """
    k = rows_per_ciphertext
    if rows < 1 or bound < 1 or k < 1:
        raise CryptoError("Inner product: rows, bound and rows per ciphertext must be at least 1.")
    if k == 1:
        if bound.bit_length() + 2 > modulus_bits:  # 2 S < 2^(|N| - 1) <= N
            raise CryptoError(
                f"Inner product: results of {bound.bit_length()} bits do not fit into {modulus_bits} bits of modulus. "
                "Use fewer binary places or a longer key."
            )
        return InnerProductPlan(modulus_bits, rows, bound, 1, modulus_bits)
    plan = InnerProductPlan(modulus_bits, rows, bound, k, bound.bit_length() + 1 + GAP_BITS)
    if plan.product_bits + SIGMA + 2 > modulus_bits:
        raise CryptoError(
            f"Inner product: {k} rows of {plan.slot_bits}-bit slots need {plan.product_bits + SIGMA + 2} bits of "
            f"modulus, the key has {modulus_bits}. Pack fewer rows per ciphertext."
        )
    return plan


def choose_rows_per_ciphertext(modulus_bits: int, rows: int, bound: int, features: int, costs: Costs) -> int:
    """Return the k that costs least for ``features`` dense columns over all owners of X, by counting products.

    One encryption is one product per 8 bits of exponent (|N| / 2 of them) and some for the plaintext; columns cost what
    `vfl.paillier.columns` counts for 16-bit entries, and the squarings between slots. Bytes, which always speak for
    packing, are not counted.

    Examples
    --------
    >>> from vfl.paillier.kernels import open_kernel
    >>> choose_rows_per_ciphertext(2048, rows=30000, bound=2**51, features=4, costs=open_kernel(15).costs)
    16
    """
    slot = bound.bit_length() + 1 + GAP_BITS
    largest = ((modulus_bits - SIGMA - 2) // slot + 1) // 2
    return min(range(1, max(1, largest) + 1), key=lambda k: _cost(modulus_bits, rows, slot, features, k, costs))


def _cost(modulus_bits: int, rows: int, slot_bits: int, features: int, k: int, costs: Costs) -> float:
    """Return the products that one encrypted pass costs."""
    ciphertexts = -(-rows // k)
    dense = np.full(features, rows, dtype=np.int64)
    columns, _ = choose_windows(dense, np.full(features, _DENSE_ENTRY, dtype=np.int64), ciphertexts, k, costs)
    squarings = features * costs.squaring * slot_bits * (k - 1)
    return ciphertexts * (modulus_bits / 16 + costs.plaintext) + columns + squarings


@timed
def pack_rows(plan: InnerProductPlan, values: NDArray[np.int64]) -> list[int]:
    """Return the plaintexts of r: sum_i r_i 2^(beta i) over blocks of k rows.

    Parameters
    ----------
    values : ndarray of shape (plan.rows,), int64

    Raises
    ------
    CryptoError
        If the shape is wrong or a value exceeds the plan's bound.
    """
    if values.shape != (plan.rows,) or values.dtype != np.int64:
        raise CryptoError(f"Inner product: got {values.dtype} {values.shape}, expected int64 ({plan.rows},).")
    if max(int(values.max()), -int(values.min())) > plan.bound:
        raise CryptoError("Inner product: a value exceeds the plan's bound on whole products.")
    k, short = plan.rows_per_ciphertext, -plan.rows % plan.rows_per_ciphertext
    return join_slots(np.pad(values, (0, short)).reshape(-1, k), plan.slot_bits) if plan.packed else values.tolist()


@timed
def transposed_product(plan: InnerProductPlan, v: CipherVector, X: NDArray[np.int64]) -> CipherVector:
    """Return ciphertexts of X'r (k > 1: with the product in slot k - 1); not fresh.

    Parameters
    ----------
    v : CipherVector
        plan.ciphertexts encryptions of `pack_rows`.
    X : ndarray of shape (plan.rows, d), int64

    Raises
    ------
    CryptoError
        If the shapes do not fit the plan, or a column's l1 norm alone exceeds its bound.
    """
    if X.ndim != 2 or X.shape[0] != plan.rows or X.dtype != np.int64:
        raise CryptoError(f"Inner product: got X of {X.dtype} {X.shape}, expected int64 ({plan.rows}, columns).")
    if v.key.bits != plan.modulus_bits or len(v) != plan.ciphertexts:
        raise CryptoError(
            f"Inner product: got {len(v)} ciphertexts of a {v.key.bits}-bit key, expected {plan.ciphertexts} "
            f"of {plan.modulus_bits} bits."
        )
    _check_norms(plan, X)
    if X.shape[1] == 0:
        return stale_vector(v.key, v.key.kernel.pack([]))
    powers = powers_of_columns(
        v.key.kernel, v.values, X, rows_per_value=plan.rows_per_ciphertext, slot_bits=plan.slot_bits
    )
    return stale_vector(v.key, powers)


def _check_norms(plan: InnerProductPlan, X: NDArray[np.int64]) -> None:
    """Refuse columns that would leave their slot even for |r_i| = 1, or 64-bit arithmetic."""
    if X.size and (int(X.max()) > _LARGEST or int(X.min()) < -_LARGEST):
        raise CryptoError("Inner product: a matrix entry exceeds 2^62.")
    # Sums of magnitudes in two halves of 31 bits stay within int64 for up to 2^32 rows.
    magnitudes = np.abs(X)
    high, low = (magnitudes >> 31).sum(axis=0), (magnitudes & (2**31 - 1)).sum(axis=0)
    if any((int(h) << 31) + int(rest) > plan.bound for h, rest in zip(high, low, strict=True)):
        raise CryptoError("Inner product: a column's sum of magnitudes exceeds the plan's bound.")


@timed
def mask_products(
    plan: InnerProductPlan, v: CipherVector, *, pool: ObfuscatorPool | None = None
) -> tuple[CipherVector, list[int]]:
    """Return T + M for fresh masks M, re-randomised towards the key's owner, and the masks (keep them at home)."""
    n = v.key.n
    if plan.packed:
        masks = [(1 << plan.product_bits) + secrets.randbits(plan.product_bits + plan.sigma) for _ in range(len(v))]
    else:
        masks = [secrets.randbelow(n) for _ in range(len(v))]
    return rerandomise(add_plain(v, masks), towards_owner=True, pool=pool), masks


@timed
def open_products(plan: InnerProductPlan, key: PrivateKey, v: CipherVector, *, count: int) -> NDArray[np.uint8]:
    """Decrypt masked products for the owner of X and return exactly what was agreed: the residue, or slot k - 1.

    Parameters
    ----------
    count : int
        How many products the protocol agreed on; more are refused, since each is a decryption for somebody else.

    Returns
    -------
    ndarray of shape (count, plan.answer_bytes), uint8
        Big-endian.

    Raises
    ------
    CryptoError
        If the number of ciphertexts or the key differs from the agreed.
    """
    if len(v) != count:
        raise CryptoError(f"Inner product: asked to open {len(v)} ciphertexts, agreed on {count}.")
    if key.public != v.key or v.key.bits != plan.modulus_bits:
        raise CryptoError("Inner product: asked to open ciphertexts of another key than the plan's.")
    answers = decrypt(key, v)
    if plan.packed:
        answers = [(x >> plan.shift) & ((1 << plan.answer_bits) - 1) for x in answers]
    return rows_of(answers, plan.answer_bytes)


@timed
def unmask_products(
    plan: InnerProductPlan, key: PublicKey, opened: NDArray[np.uint8], masks: Sequence[int]
) -> list[int]:
    """Return X'r as exact signed integers from the opened answers and the masks kept at home.

    Parameters
    ----------
    opened : ndarray of shape (len(masks), plan.answer_bytes), uint8

    Raises
    ------
    CryptoError
        If the shape is wrong, an answer is out of range, or a product exceeds the plan's bound.
    """
    expected = (len(masks), plan.answer_bytes)
    if not isinstance(opened, np.ndarray) or opened.dtype != np.uint8 or opened.shape != expected:
        raise CryptoError(f"Inner product: the opened answer must be uint8 of shape {expected}.")
    if key.bits != plan.modulus_bits:
        raise LocalProtocolError("Inner product: the key is not the plan's.")
    if not below(opened, 1 << plan.answer_bits if plan.packed else key.n).all():
        raise CryptoError("Inner product: an opened answer is out of range.")
    answers = list(map(int, numbers_in(opened)))
    same_length("unmask_products", len(answers), len(masks))
    products = [_unmask(plan, key, q, mask) for q, mask in zip(answers, masks, strict=True)]
    if any(abs(product) > plan.bound for product in products):
        raise CryptoError("Inner product: an opened product exceeds the agreed bound; the answer is not ours.")
    return products


def _unmask(plan: InnerProductPlan, key: PublicKey, q: int, mask: int) -> int:
    if not plan.packed:
        return centred(q - mask, key.n)
    e = centred(q - (mask >> plan.shift), 1 << plan.answer_bits)
    return (e + (1 << (plan.guard_bits - 1))) >> plan.guard_bits
