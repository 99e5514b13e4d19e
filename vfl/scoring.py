"""Joint scores of rows that took no part in training: the sum of all partial scores, opened by the active party.

    P --> C   partial    {X_P w_P} in fixed point, under zero-sum masks
    C --> A   total      the sum over passive parties, still under A's mask

Leakage
-------
active : the scored rows' summed passive scores
coordinator : how many rows are scored

A passive party counts the rows before it answers; ``scored_rows`` of its policy bounds them over all runs on one
alignment.
"""

from __future__ import annotations

import numpy as np

from parties.link import COORDINATOR, Endpoint
from parties.policy import Guards, Policy, rounding, spend_rows
from parties.wire import Active, Coordinator, Masked, Message, Passive
from vfl import glm
from vfl.glm import Block, Fit
from vfl.masking import add_masked, check_scores, pairwise_masks
from vfl.optim import Vector
from vfl.terms import Integers, Terms


class Wire:
    """Messages of scoring."""

    partial = Message(Passive, Coordinator, Masked)
    total = Message(Coordinator, Active, Masked, discloses="the scored rows' summed passive scores")


def score_as_active(endpoint: Endpoint, terms: Terms, block: Block, fit: Fit) -> Vector:
    """Scores of the rows after the training rows, in label units: shape (n, outputs), float64."""
    fixed = glm.forward(block, fit.weights, slice(block.rows, None))
    total = endpoint.link(Active, Coordinator, COORDINATOR).recv(Wire.total)
    others = pairwise_masks(endpoint, "scoring").open_scores("test rows", total, fixed.size)
    return np.ldexp(glm.to_scores(fixed + others.reshape(fixed.shape)), fit.label_bits)


def score_as_passive(endpoint: Endpoint, terms: Terms, block: Block, fit: Fit, guards: Guards, policy: Policy) -> None:
    """Send this party's masked partial scores, once they are counted.

    Raises
    ------
    PolicyError
        More rows than ``scored_rows`` of the policy allows, and guards are enforced; nothing was sent.
    """
    fixed = rounded(glm.forward(block, fit.weights, slice(block.rows, None)).ravel(), endpoint.name, guards, policy)
    check_scores(fixed, len(terms.passive_columns))
    rows = len(block.integers) - block.rows
    spend_rows(guards, policy, party=endpoint.name, rows=rows, content=[fit.weights.tobytes(), fixed.tobytes()])
    masks = pairwise_masks(endpoint, "scoring")
    endpoint.link(Passive, Coordinator, COORDINATOR).send(Wire.partial, masks.scores("test rows", fixed))


def rounded(fixed: Integers, party: str, guards: Guards, policy: Policy) -> Integers:
    """A passive party's scores in fixed point, as far as its policy lets them out."""
    if policy.score_bits is None or not guards.heed(rounding(policy, party=party)):
        return fixed
    return glm.round_scores(fixed, policy.score_bits)


def score_as_coordinator(endpoint: Endpoint, terms: Terms, rows: int) -> None:
    """Add up what cannot be read."""
    links = [endpoint.link(Coordinator, Passive, name) for name in terms.job.passive]
    parts = {link.peer: link.recv(Wire.partial) for link in links}
    total = add_masked(parts, rows * terms.outputs)
    endpoint.link(Coordinator, Active, terms.job.active).send(Wire.total, total)
