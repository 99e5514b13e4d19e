"""A first layer under encryption: the sums that its forward and backward pass are made of, without any message.

The weights of a passive party's d columns are W = U + V in Z_2^64, U at the party and V at the active one, so that
neither has W. With X the party's cells of some rows and dZ the active party's step for them, all of them integers:

    forward    X V + rho             under encryption, rho from a range 2^40 times as wide as X V
               X U - rho             modulo 2^64; with the above X W
    backward   X'dZ + phi            under encryption, phi likewise
               V -= X'dZ + phi       U += phi, and W has become W - X'dZ

Scales, as fraction bits: X 10, dZ 26, W 36, outputs X W 46. Nothing is ever cut off, so that W is to the last bit what
plain stochastic gradient descent on integers makes of it, whatever U, rho and phi are. Bounds:

    |X| <= 2^15    |V| <= 2^63    |X V| <= d 2^78    |dZ| < 2^26    |X'dZ| <= rows 2^41    |X W| < 2^63

Only U + V and the masks' low 64 bits count modulo 2^64; in the ciphertexts' slots sums are exact integers.

Source: F. Fu et al., *BlindFL: Vertical Federated Machine Learning without Peeking into Your Data*, SIGMOD 2022,
section 4 (MatMul and Embed source layers). There shares are real numbers and products are cut to fixed point; here they
are uniform in Z_2^64.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from parties.errors import ConfigError, CryptoError
from vfl.job import Job
from vfl.network_columns import FIXED_BITS, LARGEST
from vfl.optim import Vector
from vfl.paillier import (
    CipherVector,
    ObfuscatorPool,
    PrivateKey,
    WideSlots,
    add_plain,
    decrypt,
    draw_masks,
    encrypt,
    low_words,
    open_words,
    pack_masks,
    pack_words,
    plan_wide_slots,
    rerandomise,
    times_columns,
    times_rows,
)
from vfl.terms import Integers, Terms

Words = NDArray[np.uint64]

STEP_BITS = 26
WEIGHT_BITS = FIXED_BITS + STEP_BITS
OUTPUT_BITS = FIXED_BITS + WEIGHT_BITS
LARGEST_OUTPUT = 2.0**16
"""Outputs beyond it are a training that has diverged; they would wrap at 2^17."""
_LARGEST_CELL = LARGEST << FIXED_BITS


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """How the layer lies in ciphertexts.

    Parameters
    ----------
    units : int
    forward : WideSlots
        Of rows of V, and of X V + rho summed over the passive parties.
    backward : WideSlots
        Of rows of dZ, and of X'dZ + phi.
    """

    units: int
    forward: WideSlots
    backward: WideSlots

    def per_row(self, layout: WideSlots) -> int:
        """Ciphertexts that ``units`` numbers take."""
        return -(-self.units // layout.slots)

    def spread(self, values: NDArray[np.int64], layout: WideSlots) -> NDArray[np.int64]:
        """Rows of ``units`` numbers as rows of one ciphertext each; numbers that are not there are zeros."""
        count = self.per_row(layout)
        width = -(-self.units // count)
        padded = np.pad(values, ((0, 0), (0, count * width - self.units)))
        return np.ascontiguousarray(padded.reshape(len(values) * count, width))

    def gather(self, words: Words, layout: WideSlots) -> Words:
        """Inverse of `spread`, from at least as many slots per ciphertext as that used."""
        count = self.per_row(layout)
        width = -(-self.units // count)
        rows = len(words) // count
        return np.ascontiguousarray(words[:, :width].reshape(rows, count * width)[:, : self.units])


def plan_layer(terms: Terms) -> LayerPlan:
    """Lay the layer out for a job.

    Raises
    ------
    ConfigError
        If not even one unit fits into a ciphertext.
    """
    settings, bits = terms.job.splitnn, terms.job.privacy.key_bits
    columns = max(terms.passive_columns)
    try:
        return LayerPlan(
            settings.units,
            plan_wide_slots(bits, columns * _LARGEST_CELL << 63, terms=len(terms.job.passive)),
            plan_wide_slots(bits, settings.batch_size * _LARGEST_CELL << STEP_BITS),
        )
    except CryptoError:
        raise ConfigError(
            f"key_bits in [privacy], got {bits}, expected more: one output of {columns:,} columns does not fit into a "
            "ciphertext"
        ) from None


def initial_weights(job: Job, X: Integers, units: int, columns: int) -> Integers:
    """A party's first weights, as PyTorch's Linear draws them: uniform within 1 / sqrt(columns of all parties).

    They are drawn from a hash of the party's own cells and the job's seed: the same in every run on the same rows, and
    unknown to whoever does not have these cells. Known weights would let the active party solve for the cells.

    Parameters
    ----------
    X : ndarray of shape (n, d), int64
        The party's training rows in fixed point.
    columns : int
        Encoded columns of all parties.

    Returns
    -------
    ndarray of shape (d, units), int64
        In units of 2^-WEIGHT_BITS.
    """
    lines = f"vfl first layer|{job.seed}|{X.shape[0]}|{X.shape[1]}|{units}|"
    stream = hashlib.shake_256(lines.encode() + np.ascontiguousarray(X, dtype="<i8").tobytes())
    words = np.frombuffer(stream.digest(8 * X.shape[1] * units), dtype="<u8").reshape(X.shape[1], units)
    uniform = np.ldexp((words >> np.uint64(11)).astype(np.float64), -52) - 1
    return np.rint(np.ldexp(uniform / math.sqrt(max(columns, 1)), WEIGHT_BITS)).astype(np.int64)


def share_weights(weights: Integers) -> tuple[Words, Words]:
    """Split weights W = U + V modulo 2^64: U and V, each by itself uniform."""
    own = np.frombuffer(os.urandom(8 * weights.size), dtype=np.uint64).reshape(weights.shape).copy()
    return own, weights.view(np.uint64) - own


def encrypt_weights(plan: LayerPlan, key: PrivateKey, share: Words, pool: ObfuscatorPool) -> CipherVector:
    """[[V]], `LayerPlan.per_row` ciphertexts for each column."""
    rows = plan.spread(share.view(np.int64), plan.forward)
    return encrypt(key, pack_words(plan.forward, rows, key.public.n), pool=pool)


def multiply(
    plan: LayerPlan, weights: CipherVector, X: Integers, share: Words, pool: ObfuscatorPool
) -> tuple[CipherVector, Words]:
    """A passive party's outputs of some rows, in two parts: [[X V + rho]], and X U - rho modulo 2^64.

    Returns
    -------
    products : CipherVector
        `LayerPlan.per_row` ciphertexts for each row, fresh towards the key's owner.
    rest : ndarray of shape (rows, units), uint64
    """
    per_row = plan.per_row(plan.forward)
    products = times_rows(weights, X, outputs=per_row)
    masks = draw_masks(plan.forward, len(products), -(-plan.units // per_row))
    masked = add_plain(products, pack_masks(plan.forward, masks, weights.key.n))
    rest = X.view(np.uint64) @ share - plan.gather(low_words(masks), plan.forward)
    return rerandomise(masked, towards_owner=True, pool=pool), rest


def open_outputs(plan: LayerPlan, key: PrivateKey, products: CipherVector, rest: Integers) -> Vector:
    """Outputs of some rows: the opened products and what they lack, of all passive parties; float64 (rows, units)."""
    opened = open_words(plan.forward, decrypt(key, products), -(-plan.units // plan.per_row(plan.forward)))
    whole = plan.gather(opened, plan.forward) + rest.view(np.uint64)
    return np.ldexp(whole.view(np.int64).astype(np.float64), -OUTPUT_BITS)


@dataclass(slots=True)
class Steps:
    """Turns gradients into steps in fixed point, and counts what is too large for it."""

    rate: float
    clipped: int = 0
    _largest: int = field(default=(1 << STEP_BITS) - 1, init=False)

    def fix(self, gradient: Vector) -> Integers:
        """Rate times gradient, rounded; entries of 1 and more become the largest number below."""
        steps = np.rint(np.ldexp(self.rate * gradient, STEP_BITS))
        self.clipped += int((np.abs(steps) > self._largest).sum())
        return np.clip(steps, -self._largest, self._largest).astype(np.int64)


def encrypt_steps(plan: LayerPlan, key: PrivateKey, steps: Integers, pool: ObfuscatorPool) -> CipherVector:
    """[[dZ]], `LayerPlan.per_row` ciphertexts for each row."""
    return encrypt(key, pack_words(plan.backward, plan.spread(steps, plan.backward), key.public.n), pool=pool)


def mask_updates(plan: LayerPlan, steps: CipherVector, X: Integers, pool: ObfuscatorPool) -> tuple[CipherVector, Words]:
    """[[X'dZ + phi]], fresh towards the key's owner, and phi modulo 2^64 of shape (d, units)."""
    per_row = plan.per_row(plan.backward)
    products = times_columns(steps, X, outputs=per_row)
    masks = draw_masks(plan.backward, len(products), -(-plan.units // per_row))
    masked = add_plain(products, pack_masks(plan.backward, masks, steps.key.n))
    return rerandomise(masked, towards_owner=True, pool=pool), plan.gather(low_words(masks), plan.backward)


def open_updates(plan: LayerPlan, key: PrivateKey, updates: CipherVector) -> Words:
    """X'dZ + phi modulo 2^64, of shape (d, units)."""
    opened = open_words(plan.backward, decrypt(key, updates), -(-plan.units // plan.per_row(plan.backward)))
    return plan.gather(opened, plan.backward)
