"""Conjugate gradients on a quadratic model as each role holds them, and how they outlast a crash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from parties.checkpoint import Arrays, Fact, Keeper, Snapshot
from vfl import glm
from vfl.glm import Block
from vfl.optim import Vector


@dataclass(slots=True)
class Expansion:
    """A party's block of the quadratic model: point w, gradient g, and the direction p.

    The model's Hessian is c X'X / n + l2; with ``curvature = "row"``, or with sample weights, c is one
    number per row, which only the active party knows and multiplies into [[dz]].
    """

    matrix: Vector = field(repr=False)
    w: Vector
    g: Vector
    Pg: Vector
    p: Vector


def begin_expansion(block: Block, curvature: float, w: Vector, mean_gradient: Vector) -> Expansion:
    """A party's block at the start of an expansion."""
    matrix = glm.block_preconditioner(block, curvature)
    g = mean_gradient + block.penalty[:, None] * w
    return Expansion(matrix, w, g, glm.precondition(matrix, g), np.zeros_like(w))


def save_expansion(
    keeper: Keeper, state: Expansion, newton: int, facts: Mapping[str, Fact], arrays: Arrays, rounds: int
) -> None:
    """Keep a party's block after a round, and what else it needs to go on in this expansion."""
    own = {"w": state.w, "g": state.g, "p": state.p}
    keeper.save_round(rounds, {"newton": newton, **facts}, {**own, **arrays})


def restore_expansion(kept: Snapshot, block: Block, curvature: float) -> Expansion:
    """A party's block as `save_expansion` kept it, bit for bit."""
    matrix, g = glm.block_preconditioner(block, curvature), kept.floats("g")
    return Expansion(matrix, kept.floats("w"), g, glm.precondition(matrix, g), kept.floats("p"))


@dataclass(slots=True)
class Scalars:
    """What the coordinator knows: of the present expansion, but for losses and rounds.

    Parameters
    ----------
    decrement, previous : float
        g'Pg, now and before the last step.
    size : float
        p'P^-1 p of the last direction, before it was scaled by ``factor``.
    """

    losses: list[float]
    rounds: int = 0
    decrement: float = 0.0
    previous: float = 0.0
    size: float = 0.0
    factor: float = 1.0

    def save(self, keeper: Keeper, newton: int) -> None:
        """Keep them after a round."""
        keeper.save_round(self.rounds, {"newton": newton, "scalars": asdict(self)}, {})


def restore_scalars(kept: Snapshot) -> Scalars:
    """What `Scalars.save` kept, bit for bit."""
    return kept.fact("scalars", Scalars)


def expansions_before(kept: Snapshot | None) -> int:
    """Number of the expansion in which a snapshot was kept."""
    return 0 if kept is None else kept.fact("newton", int)
