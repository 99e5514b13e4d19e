"""Masks of products that several silos' ciphertexts add up to: only these silos can take them off the sum.

Silo s of a party adds zero_s, the first one also m, to the plaintexts of its products before they leave. The zero_s
are uniform modulo N and add up to zero, so that each ciphertext by itself holds a uniform number and their product the
sum of the products plus m, which all silos of the party know, and the key's owner does not.

Source: the zero-sharing of K. Bonawitz et al., *Practical Secure Aggregation for Privacy-Preserving Machine Learning*,
CCS 2017, section 4, in the plaintexts of Paillier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vfl.masking import stream
from vfl.paillier import CipherVector, InnerProductPlan, ObfuscatorPool, add_plain, rerandomise

_EXTRA_BITS = 128  # a number so much longer than N is uniform modulo N but for 2^-128
_WORD = 64


@dataclass(frozen=True)
class ProductMasks:
    """One silo's masks.

    Parameters
    ----------
    secret : bytes
        32 bytes that all silos of the party have, from which m is drawn.
    pairs : mapping of silo to (bytes, int)
        A secret with each other silo of the party, and the sign of its stream: +1 at the one that comes first.
    first : bool
        Whether this is the silo that adds m.
    """

    secret: bytes = field(repr=False)
    pairs: Mapping[str, tuple[bytes, int]] = field(repr=False)
    first: bool

    def mask(
        self, plan: InnerProductPlan, v: CipherVector, label: str, *, pool: ObfuscatorPool
    ) -> tuple[CipherVector, list[int]]:
        """Mask this silo's products under a label that is used once.

        Returns
        -------
        CipherVector
            Re-randomised towards the key's owner.
        list of int
            m, the masks of the sum; they stay at the party's silos.
        """
        n, count = v.key.n, len(v)
        masks = self._of_sum(plan, n, label, count)
        own = masks if self.first else [0] * count
        for secret, sign in self.pairs.values():
            zeros = _numbers(secret, label, count, n.bit_length() + _EXTRA_BITS)
            own = [(mask + sign * zero) % n for mask, zero in zip(own, zeros, strict=True)]
        return rerandomise(add_plain(v, own), towards_owner=True, pool=pool), masks

    def _of_sum(self, plan: InnerProductPlan, n: int, label: str, count: int) -> list[int]:
        """Masks of the sizes that `vfl.paillier.inner_product.mask_products` draws."""
        if not plan.packed:
            return [number % n for number in _numbers(self.secret, label, count, n.bit_length() + _EXTRA_BITS)]
        drawn = _numbers(self.secret, label, count, plan.product_bits + plan.sigma)
        return [(1 << plan.product_bits) + number for number in drawn]


def _numbers(secret: bytes, label: str, count: int, bits: int) -> list[int]:
    """``count`` pseudo-random numbers below 2^bits."""
    words = -(-bits // _WORD)
    data = stream(secret, f"products|{label}", count * words).tobytes()
    size = words * _WORD // 8
    return [int.from_bytes(data[at : at + size], "little") >> words * _WORD - bits for at in range(0, len(data), size)]
