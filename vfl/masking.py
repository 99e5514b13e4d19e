"""Zero-sum masks: the coordinator adds up vectors that it cannot read.

Every two parties share a stream per message; one of them adds it and the other subtracts it, so that over all
parties the masks add up to zero. Who adds every party's vector learns the sum and nothing else; where the active
party keeps its own vector (and with it its mask) back, the sum stays masked and only the active party can open it.

Words are fixed point: scores in Z_2^64 with scale 2^-32, scalars in Z_2^256 with scale 2^-128. A stream is AES-256 in
counter mode under HKDF(pair secret, message | evaluation). Every evaluation has its own number; using one twice is
refused, since the difference of two vectors under one mask is bare.

Source: K. Bonawitz et al., *Practical Secure Aggregation for Privacy-Preserving Machine Learning*, CCS 2017,
section 4 (pairwise masks; without their recovery of parties that drop out).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from parties.errors import CryptoError, LocalProtocolError, RemoteProtocolError
from parties.link import Endpoint
from parties.wire import DataParty, Masked, Words

SCORE_BITS = 32
SCALAR_BITS = 128
_LIMBS = 4
_SCALAR_MODULUS = 1 << 64 * _LIMBS


@dataclass(frozen=True, slots=True)
class Masks:
    """One party's side of the pairwise streams.

    Parameters
    ----------
    signed_secrets : mapping of party name to (secret, sign)
        32 bytes shared with that party only; sign +1 for the one that comes first in job order, else -1.
    """

    signed_secrets: Mapping[str, tuple[bytes, int]] = field(repr=False)
    _used: set[str] = field(default_factory=set, repr=False)

    def scores(self, label: str, fixed: NDArray[np.int64]) -> Masked:
        """Mask fixed-point scores.

        Parameters
        ----------
        label : str
            Message and evaluation; each may be used once.
        fixed : ndarray of shape (n,), int64
            Scores times 2^32.
        """
        return Masked((fixed.view(np.uint64) + self._words(label, len(fixed)))[:, None])

    def integers(self, label: str, values: Sequence[int]) -> Masked:
        """Mask whole numbers below 2^255 in magnitude, in Z_2^256; `open_integers` opens the sum over all parties."""
        masks = self._scalar_masks(label, len(values))
        return Masked(_to_limbs([v + m for v, m in zip(values, masks, strict=True)]))

    def scalars(self, label: str, values: Sequence[float]) -> Masked:
        """Mask scalars, each exactly (times 2^128, in Z_2^256)."""
        masks = self._scalar_masks(label, len(values))
        return Masked(_to_limbs([_to_scalar(v) + m for v, m in zip(values, masks, strict=True)]))

    def words(self, label: str, count: int) -> Words:
        """This party's net mask of so many words, in the place of `scores`; each label may be used once."""
        return self._words(label, count)

    def open_scores(self, label: str, total: Masked, count: int) -> NDArray[np.int64]:
        """Open a sum over all other parties; this party's own mask is what keeps it closed.

        Returns
        -------
        ndarray of shape (count,), int64
            Summed scores times 2^32.
        """
        check_words(total, count, 1, "the coordinator")
        return (total.body[:, 0] + self._words(label, count)).view(np.int64)

    def open_scalars(self, label: str, total: Masked, count: int) -> list[float]:
        """Open a sum of scalars over all other parties."""
        check_words(total, count, _LIMBS, "the coordinator")
        return [
            _from_scalar(value + mask)
            for value, mask in zip(_from_limbs(total.body), self._scalar_masks(label, count), strict=True)
        ]

    def _words(self, label: str, count: int) -> Words:
        """This party's net mask: its streams with all others, each with its sign."""
        if label in self._used:
            raise LocalProtocolError(f"the mask of {label!r} was used before")
        self._used.add(label)
        net = np.zeros(count, dtype=np.uint64)
        for secret, sign in self.signed_secrets.values():
            words = stream(secret, label, count)
            net = net + words if sign > 0 else net - words
        return net

    def _scalar_masks(self, label: str, count: int) -> list[int]:
        if label in self._used:
            raise LocalProtocolError(f"the mask of {label!r} was used before")
        self._used.add(label)
        net = [0] * count
        for secret, sign in self.signed_secrets.values():
            masks = _from_limbs(stream(secret, label, count * _LIMBS).reshape(count, _LIMBS))
            net = [n + sign * mask for n, mask in zip(net, masks, strict=True)]
        return net


def pairwise_masks(endpoint: Endpoint, purpose: str, among: Collection[str] | None = None) -> Masks:
    """The masks of this party with all others, or with those ``among`` whom they are to cancel; once per purpose."""
    endpoint.claim(f"masks|{purpose}")
    order = list(endpoint.roles)
    me = order.index(endpoint.name)
    return Masks(
        {
            peer: (endpoint.pair_secret(peer, f"masks|{purpose}"), 1 if me < order.index(peer) else -1)
            for peer in endpoint.peers(DataParty)
            if among is None or peer in among
        }
    )


def add_masked(parts: Mapping[str, Masked], count: int | None = None) -> Masked:
    """Sum of masked vectors of one shape, words in Z_2^64 or Z_2^256.

    Parameters
    ----------
    parts : mapping of party name to its vector
    count : int, optional
        Words expected of each; by default as many as the first party sent.

    Raises
    ------
    RemoteProtocolError
        If a party's vector has another shape; the text names it.
    """
    bodies = {name: part.body for name, part in parts.items()}
    first = next(iter(bodies.values()))
    limbs = first.shape[1] if first.ndim == 2 else 0
    for name, part in parts.items():
        check_words(part, len(first) if count is None else count, limbs, name)
    if limbs == 1:
        return Masked(np.sum(list(bodies.values()), axis=0, dtype=np.uint64))
    sums = [sum(column) for column in zip(*(_from_limbs(body) for body in bodies.values()), strict=True)]
    return Masked(_to_limbs(sums))


def open_sum(total: Masked) -> list[float]:
    """Scalars of a sum over ALL parties, in which the masks have cancelled."""
    return [_from_scalar(value) for value in _from_limbs(total.body)]


def open_integers(total: Masked) -> list[int]:
    """Whole numbers of a sum over ALL parties, in which the masks have cancelled."""
    half = _SCALAR_MODULUS >> 1
    return [value - _SCALAR_MODULUS if value >= half else value for value in _from_limbs(total.body)]


def check_words(masked: Masked, count: int, limbs: int, sender: str) -> None:
    """Refuse a masked vector of another shape than agreed."""
    if limbs not in (1, _LIMBS) or masked.body.shape != (count, limbs):
        raise RemoteProtocolError(
            f"{sender} sent masked words of shape {masked.body.shape}, expected ({count}, {limbs})"
        )


def check_scores(fixed: NDArray[np.int64], parties: int) -> None:
    """Refuse fixed-point scores whose sum over so many parties could wrap in Z_2^64."""
    limit = 1 << (62 - math.ceil(math.log2(max(parties, 1))))
    if len(fixed) and max(int(fixed.max()), -int(fixed.min())) > limit:
        raise CryptoError(
            f"a score is beyond +-{limit / 2.0**SCORE_BITS:.3g}, the range of its fixed-point word; "
            "look for cells far outside the training rows, or raise training.l2"
        )


def stream(secret: bytes, label: str, count: int) -> Words:
    """``count`` pseudo-random words; both parties of a pair get the same ones."""
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=label.encode()).derive(secret)
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(encryptor.update(bytes(8 * count)), dtype="<u8")


def _to_scalar(value: float) -> int:
    if not math.isfinite(value) or abs(value) >= 2.0**120:
        raise CryptoError("a scalar is not finite or beyond 2^120, the range of its fixed-point word")
    return int(math.ldexp(value, SCALAR_BITS))


def _from_scalar(value: int) -> float:
    value %= _SCALAR_MODULUS
    return float(value - _SCALAR_MODULUS if value >= _SCALAR_MODULUS >> 1 else value) * 2.0**-SCALAR_BITS


def _to_limbs(values: Sequence[int]) -> Words:
    data = b"".join((value % _SCALAR_MODULUS).to_bytes(8 * _LIMBS, "little") for value in values)
    return np.frombuffer(data, dtype="<u8").reshape(len(values), _LIMBS)


def _from_limbs(body: Words) -> list[int]:
    data = np.ascontiguousarray(body, dtype="<u8").tobytes()
    return [int.from_bytes(data[i : i + 8 * _LIMBS], "little") for i in range(0, len(data), 8 * _LIMBS)]
