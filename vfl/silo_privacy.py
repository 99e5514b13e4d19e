"""Differential privacy at the silos: rows drawn by chance, their gradients clipped, Gaussian noise on the sums.

Source: M. Abadi et al., *Deep Learning with Differential Privacy*, CCS 2016, algorithm 1 (DP-SGD), with rows drawn
independently of each other as its accountant assumes. Epsilons are those of dp-accounting's Renyi accountant, which the
extra ``dp`` brings (I. Mironov, K. Talwar, L. Zhang, *Renyi Differential Privacy of the Sampled Gaussian Mechanism*,
2019).

A step draws every row with probability q and releases the sum over the rows drawn of clip(w_i g_i) + noise, divided by
q; norms are at most C = ``dp_clip``, the noise has deviation sigma C.

central
    (fedsgd.) q = batch_size * silos / rows, the same at all silos. Each silo adds noise of deviation sigma C / sqrt(t),
    t being the fewest silos whose sum is ever opened: the sum that the coordinator learns has noise of deviation
    sigma C at least. The masks hide what a single silo sent: its own noise would not do.
local
    The same, but each silo adds all of the noise, so that what it sends is private by itself, whoever unmasks it.
    Averaging (fedavg, weighted, simple): every step of the local epochs is such a step on the silo's own rows,
    q = batch_size / rows of the silo, with ceil(1 / q) steps an epoch.

Privacy
-------
Covered: adding or removing one training row of a silo changes the distribution of all that the training tells (masked
sums, weights, the model, predictions by it) by no more than (epsilon, delta). In mode central that holds against the
coordinator and whoever has the model; another silo knows its own share of the noise, and k silos together k shares.

Not covered: counts of rows, sample weights' sums, and what silos tell each other before the training (means, deviations
and categories of columns, classes, the labels' mean): exact sums, which the coordinator does not see. Metrics of test
rows. Several rows of one person, and several runs on the same rows, whose epsilons add up at worst.

Noise comes from a secret of 32 bytes of the operating system, the place in the training, the weights there, and the
clipped sums themselves. Where a run goes on after a crash and nothing else has changed, the very same numbers leave
again and tell nothing new; where something has (a CSV), the noise is fresh, since the difference of two sums with the
same noise would be bare. The secret lies with the run's checkpoints until it has ended. With ``min_silos`` other silos
may take part when a round is played again, and the difference of the two sums would have the noise of some alone: there
every start of the silo has a secret of its own, and each start after the first counts as two more rounds (as far as a
silo can be ahead of the checkpoint that all go on from). The epsilon that is reported counts them.

Sums are cut to a grid of 2^-40 deviations and the noise is rounded to it, as in `vfl.gradient_noise`: low bits of
floats tell nothing. That the cut may move two sums apart is allowed for in the clipping.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from parties.checkpoint import Keeper
from parties.errors import ConfigError
from vfl.aggregation import least_silos
from vfl.gradient_noise import draw_normal
from vfl.job import Job
from vfl.optim import Vector
from vfl.terms import Integers

_GRID_BITS = 40
_BELOW = 1 - 2.0**-20  # cutting sums of d entries to the grid moves them by sqrt(d) 2^-40 deviations at most
_AHEAD = 2
_LARGEST_NOISE = 1e6
_PRECISION = 1e-3  # of the noise found for an epsilon


@dataclass(frozen=True)
class Draw:
    """The chance of one step: which rows it takes, and its noise.

    Parameters
    ----------
    key : bytes
        Of this step alone.
    rate : float
        Probability of a row.
    deviation : float
        Of the noise on every entry of the sum.
    """

    key: bytes = field(repr=False)
    rate: float
    deviation: float

    def rows(self, count: int) -> Integers:
        """The rows drawn of so many, ascending."""
        words = np.frombuffer(_stream(self.key, b"rows", 8 * count), dtype="<u8")
        return np.flatnonzero(words < min(math.ldexp(self.rate, 64), 2.0**64 - 2048)) if self.rate < 1 else _all(count)

    def release(self, sums: Sequence[Vector]) -> list[Vector]:
        """What may leave of clipped sums: on a grid, with noise, divided by the rate."""
        grid = math.ldexp(1.0, math.frexp(self.deviation)[1] - 1 - _GRID_BITS)
        cut = [np.trunc(array / grid) + 0.0 for array in sums]  # + 0.0: there is one zero
        exact = b"".join(np.ascontiguousarray(array, dtype="<f8").tobytes() for array in cut)
        drawn = draw_normal(_derived(self.key, b"noise" + exact), sum(array.size for array in cut))
        noise = np.rint(drawn * (self.deviation / grid))
        starts = np.cumsum([0, *(array.size for array in cut)])
        return [
            (array + noise[start : start + array.size].reshape(array.shape)) * (grid / self.rate)
            for array, start in zip(cut, starts.tolist(), strict=False)
        ]


@dataclass(frozen=True)
class SiloNoise:
    """A silo's noise in a run.

    Parameters
    ----------
    clip : float
    multiplier : float
        sigma, that the epsilon is counted with.
    deviation : float
        Of this silo's own noise.
    rate : float
        Probability that a row is drawn in a step.
    steps : int
        In a round that the silo takes part in.
    starts : int
        Times that the silo had to draw a fresh secret.
    """

    clip: float
    multiplier: float
    deviation: float
    rate: float
    steps: int
    key: bytes = field(repr=False)
    starts: int = 1

    def at(self, place: tuple[int, int], weights: Sequence[Vector]) -> Draw:
        """The chance of a round's step, another one at other weights."""
        digest = hashlib.blake2b(f"vfl silo noise|{place[0]}|{place[1]}".encode(), key=self.key, digest_size=32)
        for array in weights:
            digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return Draw(digest.digest(), self.rate, self.deviation)

    def shrink(self, norms: Vector) -> Vector:
        """What gradients of these norms are multiplied by."""
        limit = self.clip * _BELOW
        return np.asarray(limit / np.maximum(norms, limit))

    def epsilon(self, rounds: int, delta: float) -> float:
        """Epsilon of so many rounds that the silo took part in, repeated ones counted."""
        return epsilon(self.multiplier, self.rate, self.steps * (rounds + _AHEAD * (self.starts - 1)), delta)


def make_silo_noise(job: Job, rows: int, total_rows: int, keeper: Keeper) -> SiloNoise | None:
    """The noise that the job asks of a silo; None where it asks for none.

    Parameters
    ----------
    rows, total_rows : int
        Training rows of the silo, and of all silos.

    Raises
    ------
    ConfigError
        dp-accounting is not installed, or no noise gives that epsilon.
    DataError
        The secret can be neither kept nor read.
    """
    lines = job.privacy
    if lines.dp == "none":
        return None
    need_accountant(f"privacy.dp = '{lines.dp}'")
    rate, steps = sampling(job, rows, total_rows)
    multiplier = noise_multiplier(job, rate, steps)
    share = multiplier * lines.dp_clip
    if lines.dp == "central":
        share /= math.sqrt(least_silos(job))
    key, starts = _secret(keeper, kept=job.averaging.min_silos is None)
    return SiloNoise(lines.dp_clip, multiplier, share, rate, steps, key, starts)


def sampling(job: Job, rows: int, total_rows: int) -> tuple[float, int]:
    """Probability that a row is drawn in a step, and the steps of a round."""
    lines = job.averaging
    size = job.splitnn.batch_size if job.model == "splitnn" else job.training.batch_size
    if lines.aggregation == "fedsgd":
        return min(1.0, size * len(job.parties) / total_rows), 1
    return min(1.0, size / rows), lines.local_epochs * -(-rows // size)


def noise_multiplier(job: Job, rate: float, steps: int) -> float:
    """``dp_noise``, or the least noise for which all rounds keep within ``dp_epsilon``.

    Raises
    ------
    ConfigError
        No noise keeps within it.
    """
    lines = job.privacy
    if lines.dp_epsilon is None:
        return float(lines.dp_noise or 0.0)
    return noise_for(lines.dp_epsilon, rate, steps * job.averaging.rounds, lines.dp_delta)


@lru_cache(maxsize=64)
def noise_for(target: float, rate: float, steps: int, delta: float) -> float:
    """The least noise (but for a part in 1,000, upwards) whose epsilon is at most the target, by bisection.

    Raises
    ------
    ConfigError
    """
    low, high = 0.0, 1.0
    while epsilon(high, rate, steps, delta) > target:
        low, high = high, 2 * high
        if high > _LARGEST_NOISE:
            raise ConfigError(
                f"privacy.dp_epsilon = {target:g}: no noise keeps {steps:,} steps within it for dp_delta = {delta:g}; "
                "raise it, or train fewer rounds"
            )
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        low, high = (middle, high) if epsilon(middle, rate, steps, delta) > target else (low, middle)
    return high


@lru_cache(maxsize=256)
def epsilon(noise: float, rate: float, steps: int, delta: float) -> float:
    """Epsilon after so many steps, by dp-accounting's Renyi accountant.

    Parameters
    ----------
    noise : float
        Deviation of the noise in units of the clipping norm.
    rate : float
        Probability that a row is drawn in a step.
    """
    if not steps:
        return 0.0
    import dp_accounting
    from dp_accounting.rdp import rdp_privacy_accountant

    accountant = rdp_privacy_accountant.RdpAccountant()
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    with _quiet():
        accountant.compose(event, steps)
    return float(accountant.get_epsilon(delta))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the accountant from warning of orders whose series does not converge: leaving them out is safe."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def need_accountant(what: str) -> None:
    """Refuse to go on where dp-accounting is not installed.

    Raises
    ------
    ConfigError
    """
    if importlib.util.find_spec("dp_accounting") is None:
        raise ConfigError(f"{what} needs dp-accounting, which is not installed here: pip install 'vfl[dp]'")


def dp_notes(job: Job, noise: SiloNoise, spent: float, rows: int) -> list[str]:
    """What a silo's report says of its noise.

    Parameters
    ----------
    spent : float
        Its epsilon.
    rows : int
        Its training rows.
    """
    lines = job.privacy
    notes = []
    if lines.dp_epsilon is not None and spent > lines.dp_epsilon:
        notes.append(
            f"privacy: epsilon is {spent:.3g}, over privacy.dp_epsilon = {lines.dp_epsilon:g}: the silo was started "
            f"{noise.starts} times and may have sent {_AHEAD} rounds again each time"
        )
    if lines.dp_delta * rows >= 1:
        notes.append(
            f"privacy.dp_delta = {lines.dp_delta:g} is not below one in {rows:,} training rows: single rows may be "
            "laid bare within it; choose a smaller one"
        )
    return notes


def _secret(keeper: Keeper, *, kept: bool) -> tuple[bytes, int]:
    """The run's secret and 1; where it must be a fresh one at every start, that one and how many there have been."""

    def draw() -> dict[str, np.ndarray]:
        drawn.append(True)
        return {"key": np.frombuffer(os.urandom(32), dtype=np.uint8)}

    drawn: list[bool] = []
    starts = 1
    found = keeper.once(f"silo noise {starts}", draw)
    while not kept and not drawn:
        starts += 1
        found = keeper.once(f"silo noise {starts}", draw)
    return found["key"].tobytes(), starts


def _all(count: int) -> Integers:
    return np.arange(count)


def _derived(key: bytes, what: bytes) -> bytes:
    return hashlib.blake2b(what, key=key, digest_size=32).digest()


def _stream(key: bytes, what: bytes, length: int) -> bytes:
    """Bytes of AES-256 in counter mode."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    return Cipher(algorithms.AES(_derived(key, what)), modes.CTR(bytes(16))).encryptor().update(bytes(length))
