"""Passes over the training rows: batches, losses, the best epoch, early stopping; whatever computes the first layer.

A `Source` is the first layer as the active party sees it: `vfl.splitnn` computes it under encryption,
`vfl.split_learning` adds up what passive parties send, and `vfl.plain_network` has all columns in one place.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np

from vfl.optim import Vector
from vfl.shard import Arrays
from vfl.terms import Integers


class Source(Protocol):
    """Outputs of the first layer without the active party's own part, summed over the other parties."""

    def forward(self, rows: Integers, *, training: bool) -> Vector:
        """Outputs of shape (rows, units), float64; ``rows`` are positions among training and validation rows."""

    def backward(self, gradient: Vector) -> None:
        """Take a step against dL/dz of the last forward pass's rows, of shape (rows, units)."""

    def end_epoch(self, *, best: bool, go_on: bool) -> None:
        """An epoch has ended; ``best``: its weights are those to keep so far."""

    def state(self) -> Arrays:
        """What the active party has to keep to go on from here."""


def draw_batches(rows: int, size: int, seed: int, epoch: int) -> list[Integers]:
    """Cut the training rows, in an order drawn from the job's public seed, into batches; the last may be shorter.

    >>> [batch.tolist() for batch in draw_batches(5, 2, seed=0, epoch=0)]
    [[1, 3], [0, 4], [2]]
    """
    drawn = int.from_bytes(hashlib.sha256(b"batches").digest()[:8])
    order = np.random.default_rng([drawn, seed, epoch]).permutation(rows).astype(np.int64)
    return [order[start : start + size] for start in range(0, rows, size)]
