"""Noise on the gradients that mode split sends: each row's is clipped, then Gaussian noise is added to its entries.

Source: the Gaussian mechanism, C. Dwork, A. Roth, *The Algorithmic Foundations of Differential Privacy*, 2014, appendix
A, with the exact epsilon of B. Balle, Y.-X. Wang, *Improving the Gaussian Mechanism for Differential Privacy*, ICML
2018, theorem 8. Clipping rows as M. Abadi et al., *Deep Learning with Differential Privacy*, CCS 2016, do; here every
row's gradient leaves by itself, so that neither sums nor sampling hide it.

A row's gradient is that of its own loss, times its sample weight: g_i = rows * dL/dz_i for the mean loss L of a batch.
What leaves is clip(g_i) + noise * C * N(0, 1), with norms up to C = ``gradient_clip``. Whatever a row's gradient is,
clipped it lies in a ball, within 2 C of any other. A row comes once in every epoch: k epochs are k releases, which
together tell as much as one with sensitivity 2 C sqrt(k).

Privacy
-------
Covered: one row's own gradients over all epochs, given all else. However they hang on its label, the sequence of what
was sent for the row is (epsilon, delta)-differentially private; several passive parties are sent the same, so that it
is one release, in one adversary's hands or in many.

Not covered: the trace that the label leaves in the layers above, and through them in later gradients of other rows,
which are clipped and noisy each, but each row's noise covers that row alone; the model itself, its predictions, and
which epochs were the best; several rows of one person (m rows: as m times the releases); several runs on the same
labels, whose releases add up. Whoever needs a promise on labels for all that leaves takes ``privacy.label_dp_epsilon``.

A run that goes on after a crash does part of an epoch again. Its noise follows from a secret of the run, the place in
the training and the gradients themselves: where the gradients are the same, as they are when nothing else has changed,
the very same numbers leave again and tell nothing new; where they are not (a peer came back with other outputs), the
noise is fresh, never the same under two gradients, whose difference would be bare, and that is a release more than the
epsilon counts. The secret, 32 bytes of the operating system, lies with the run's checkpoints until the run has ended.

Gradients are cut to a grid of about noise * C * 2^-20, towards zero, and so is the noise rounded, so that low bits of
floats tell nothing (I. Mironov, *On Significance of the Least Significant Bits for Differential Privacy*, CCS 2012):
what leaves is the rounded outcome of an exact Gaussian mechanism, but for tails of weight 2^-64 and the 53 bits that
its logarithms and cosines have.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from parties.checkpoint import Keeper
from parties.errors import LocalProtocolError
from vfl.job import SplitNN
from vfl.optim import Vector

DELTA = 1e-5
"""Delta of the epsilon that is stated."""
_GRID_BITS = 20
_BELOW = 1 - 2.0**-40  # rounding must not lift a clipped norm over the limit
_FAR = 40.0  # standard deviations: beyond them a float has no probability left


@dataclass(frozen=True, slots=True)
class GradientNoise:
    """Clips rows' gradients and adds noise.

    Parameters
    ----------
    clip : float or None
        Largest norm of a row's gradient; None: no limit.
    noise : float
        Standard deviation of the noise, in units of ``clip``; 0: none.
    key : bytes
        The run's secret, of 32 bytes; empty without noise.
    """

    clip: float | None
    noise: float = 0.0
    key: bytes = field(default=b"", repr=False)

    def release(self, gradients: Vector, epoch: int, batch: int) -> Vector:
        """What may leave of the gradients of a batch's rows.

        Parameters
        ----------
        gradients : ndarray of shape (rows, units), float64
            Of each row's own loss.
        epoch, batch : int
            The place in the training; another one has other noise.

        Returns
        -------
        ndarray of shape (rows, units), float64
        """
        if self.clip is None:
            return gradients
        clipped = clip_rows(gradients, self.clip)
        if not self.noise:
            return clipped
        deviation = self.noise * self.clip
        grid = math.ldexp(1.0, math.frexp(deviation)[1] - 1 - _GRID_BITS)
        cut = np.trunc(clipped / grid)
        drawn = np.rint(draw_normal(self._stream(cut, epoch, batch), gradients.size) * (deviation / grid))
        return (cut + drawn.reshape(gradients.shape)) * grid

    def _stream(self, cut: Vector, epoch: int, batch: int) -> bytes:
        """Key of the noise of these gradients at this place."""
        if len(self.key) != 32:
            raise LocalProtocolError("noise on gradients without a secret of 32 bytes; nothing was sent")
        place = f"vfl gradient noise|{epoch}|{batch}|{cut.shape[0]}|{cut.shape[1]}|".encode()
        exact = np.ascontiguousarray(cut + 0.0, dtype="<f8").tobytes()  # + 0.0: there is one zero
        return hashlib.blake2b(place + exact, key=self.key, digest_size=32).digest()


def make_noise(settings: SplitNN, keeper: Keeper) -> GradientNoise:
    """The noise of a run, with the secret that the run has drawn before a crash or draws now.

    Raises
    ------
    DataError
        The secret can be neither kept nor read.
    """
    if not settings.gradient_noise:
        return GradientNoise(settings.gradient_clip)
    kept = keeper.once("gradient noise", lambda: {"key": np.frombuffer(os.urandom(32), dtype=np.uint8)})
    return GradientNoise(settings.gradient_clip, settings.gradient_noise, kept["key"].tobytes())


def clip_rows(gradients: Vector, clip: float) -> Vector:
    """Rows longer than ``clip`` become that long.

    >>> clip_rows(np.array([[3.0, 4.0], [0.3, 0.4]]), 1.0).round(9).tolist()
    [[0.6, 0.8], [0.3, 0.4]]
    """
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    return np.asarray(gradients * (clip * _BELOW / np.maximum(norms, clip * _BELOW)))


def draw_normal(key: bytes, count: int) -> Vector:
    """Standard normal numbers from a key of 32 bytes: AES-256 in counter mode, and Box and Muller's transform."""
    pairs = -(-count // 2)
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    words = np.frombuffer(encryptor.update(bytes(16 * pairs)), dtype="<u8").astype(np.float64).reshape(2, pairs)
    radius = np.sqrt(-2 * np.log((words[0] + 1) * 2.0**-64))
    angle = words[1] * (2 * math.pi * 2.0**-64)
    return np.asarray(np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count])


def epsilon(noise: float, releases: int, delta: float = DELTA) -> float:
    """Smallest epsilon for which the releases of one row are (epsilon, delta)-differentially private.

    k releases of sensitivity 2 C under noise of deviation ``noise`` * C are one Gaussian mechanism whose means lie
    mu = 2 sqrt(k) / noise deviations apart. It is (epsilon, delta)-private exactly if (Balle, Wang, theorem 8)

        delta >= F(mu / 2 - epsilon / mu) - e^epsilon F(-mu / 2 - epsilon / mu)

    for the normal distribution function F. With b = epsilon / mu - mu / 2 the right-hand side is
    F(-b) - exp(-b^2 / 2) erfcx((b + mu) / sqrt 2) / 2, in which nothing overflows.

    Parameters
    ----------
    noise : float
        ``gradient_noise``.
    releases : int
        Epochs.

    Returns
    -------
    float
        Rounded up; 0 without releases, infinity without noise.

    Examples
    --------
    >>> round(epsilon(2.0, 1), 2), round(epsilon(20.0, 100), 2), epsilon(0.0, 1)
    (4.38, 4.38, inf)
    """
    if not releases:
        return 0.0
    mu = 2 * math.sqrt(releases) / noise if noise else math.inf
    if not math.isfinite(mu * mu):
        return math.inf
    low, high = max(-mu / 2, -_FAR), _FAR
    if _delta(low, mu) <= delta:
        return max(mu * (low + mu / 2), 0.0)
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (low, middle) if _delta(middle, mu) <= delta else (middle, high)
    return mu * (high + mu / 2)


def _delta(b: float, mu: float) -> float:
    """The delta at epsilon = mu (b + mu / 2)."""
    from scipy.special import erfcx  # takes its time to import, and only the active party needs it

    scaled = float(erfcx((b + mu) / math.sqrt(2)))
    return (math.erfc(b / math.sqrt(2)) - math.exp(-b * b / 2) * scaled) / 2


def note(settings: SplitNN, epochs: int) -> str:
    """What a report says of the noise after so many epochs."""
    stated = epsilon(settings.gradient_noise, epochs)
    return (
        f"gradients: each row's clipped to {settings.gradient_clip:g}, with noise of deviation "
        f"{settings.gradient_noise:g} times that; over {epochs} epochs a row's own gradients are "
        f"({stated:.3g}, {DELTA:g})-differentially private; what its label leaves in the model and in other rows' "
        "gradients is not covered (privacy.label_dp_epsilon covers that)"
    )
