"""Joint scores of rows that took no part in training, where parties are made of silos: each silo opens its own rows'.

    P --> C   partial    {X_P w_P} of its own rows, zeros elsewhere, in fixed point, under zero-sum masks
    C --> H   total      the sum over all passive silos, still under the masks of the label holder's silos
    H --> H   lifted     `vfl.row_masks`

Leakage
-------
label holder's silos : the scored rows' summed passive scores, of its own rows
coordinator : how many rows are scored

A passive silo counts its rows before it answers; ``scored_rows`` of its policy bounds them over all runs.
"""

from __future__ import annotations

import numpy as np

from parties.link import COORDINATOR, Endpoint
from parties.policy import Guards, Policy, spend_rows
from parties.wire import Coordinator, DataParty, Masked, Message, Passive
from vfl import glm
from vfl.glm import Block, Fit
from vfl.masking import Masks, add_masked, check_scores, pairwise_masks
from vfl.optim import Vector
from vfl.row_masks import row_masks
from vfl.scoring import rounded
from vfl.terms import Integers, Terms

_LABEL = "test rows"


class Wire:
    """Messages of scoring."""

    partial = Message(Passive, Coordinator, Masked)
    total = Message(Coordinator, DataParty, Masked, discloses="the scored rows' summed passive scores, of its own rows")


def score_as_labelled(endpoint: Endpoint, terms: Terms, block: Block, fit: Fit, places: Integers, rows: int) -> Vector:
    """Scores of a label silo's own rows behind its training rows, in label units.

    Parameters
    ----------
    places : ndarray of shape (own,), int64
        Where these rows stand among all ``rows`` that are scored.

    Returns
    -------
    ndarray of shape (own, outputs), float64
    """
    fixed = glm.forward(block, fit.weights, slice(block.rows, None))
    hub = endpoint.link(DataParty, Coordinator, COORDINATOR)
    mine = row_masks(endpoint, terms.job.labelled, _masks(endpoint, terms))
    others = mine.open(_LABEL, hub.recv(Wire.total), places, rows, terms.outputs, hub.peer)
    return np.ldexp(glm.to_scores(fixed + others), fit.label_bits)


def score_as_passive(
    endpoint: Endpoint,
    terms: Terms,
    block: Block,
    fit: Fit,
    places: Integers,
    rows: int,
    guards: Guards,
    policy: Policy,
) -> None:
    """Send a passive silo's masked partial scores of its own rows, once they are counted.

    Raises
    ------
    PolicyError
        More rows than ``scored_rows`` of the policy allows, and guards are enforced; nothing was sent.
    """
    own = glm.forward(block, fit.weights, slice(block.rows, None))
    fixed = rounded(own.ravel(), endpoint.name, guards, policy)
    check_scores(fixed, len(terms.job.passive))
    spend_rows(guards, policy, party=endpoint.name, rows=len(own), content=[fit.weights.tobytes(), fixed.tobytes()])
    placed = np.zeros((rows, terms.outputs), dtype=np.int64)
    placed[places] = fixed.reshape(own.shape)
    masked = _masks(endpoint, terms).scores(_LABEL, placed.ravel())
    endpoint.link(Passive, Coordinator, COORDINATOR).send(Wire.partial, masked)


def score_as_coordinator(endpoint: Endpoint, terms: Terms, rows: int) -> None:
    """Add up what cannot be read."""
    links = [endpoint.link(Coordinator, Passive, name) for name in terms.job.passive]
    total = add_masked({link.peer: link.recv(Wire.partial) for link in links}, rows * terms.outputs)
    for name in terms.job.labelled:
        endpoint.link(Coordinator, DataParty, name).send(Wire.total, total)


def _masks(endpoint: Endpoint, terms: Terms) -> Masks:
    return pairwise_masks(endpoint, "scoring", [*terms.job.labelled, *terms.job.passive])
