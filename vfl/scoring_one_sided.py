"""Joint scores of rows of a one-sided alignment: the active party picks them under encryption, nobody else knows which.

    C --> D   key       a fresh Paillier key of the coordinator's
    P --> A   scores    [[X_P w]] of all rows of P, sealed: C, which has the key, never reads it
    A --> C   chosen    [[X_P w + M]] of the rows to score, re-randomised
    C --> A   opened    X_P w + M; A takes its masks off

Source: the opening of masked products of `vfl.glm_quadratic`, with masks uniform modulo N.

Leakage
-------
active : the passive party's scores of the rows that it scores, and of no other row
coordinator : how many rows are scored

The passive party learns nothing, not even how many rows are scored: ``scored_rows`` of its policy counts all its rows.

Threat model
------------
All follow the protocol and are curious. C together with the active party would read the scores of all rows; together
with the passive party it would recognise by their scores which rows are picked once the masks are gone, which only A
takes off: what C opens is uniform, and what A sends is fresh.

>>> Wire.chosen
<scoring_one_sided.chosen: Active -> Coordinator, Encrypted>
"""

from __future__ import annotations

import numpy as np

from parties.link import COORDINATOR, Endpoint
from parties.policy import Guards, Policy, spend_rows
from parties.wire import Active, Coordinator, DataParty, Encrypted, Message, Opened, PaillierKey, Passive
from vfl import glm
from vfl.exchange import receive_ciphers, receive_key, receive_opened, send_ciphers, send_key
from vfl.glm import Block, Fit
from vfl.masking import check_scores
from vfl.optim import Vector
from vfl.paillier import (
    InnerProductPlan,
    encrypt,
    gather,
    generate_keypair,
    mask_products,
    open_products,
    plan_inner_product,
)
from vfl.scoring import rounded
from vfl.terms import Integers, Terms

_SCORE_LIMIT = 62  # bits of a score in fixed point


class Wire:
    """Messages of one-sided scoring."""

    key = Message(Coordinator, DataParty, PaillierKey)
    scores = Message(Passive, Active, Encrypted)
    chosen = Message(Active, Coordinator, Encrypted)
    opened = Message(
        Coordinator,
        Active,
        Opened,
        discloses="the passive party's scores of the rows that it scores, and of no other row",
    )


def score_as_active(
    endpoint: Endpoint, terms: Terms, block: Block, fit: Fit, places: Integers, passive_rows: int
) -> Vector:
    """Scores of the rows after the training rows, in label units.

    Parameters
    ----------
    places : ndarray of shape (n,), int64
        Where those rows stand among the passive party's.
    passive_rows : int
        All rows of the passive party.

    Returns
    -------
    ndarray of shape (n, 1), float64
    """
    hub = endpoint.link(Active, Coordinator, COORDINATOR)
    lead = endpoint.link(Active, Passive, terms.job.passive[0])
    key = receive_key(hub.recv(Wire.key), hub.peer, terms.job.privacy.key_bits)
    theirs = receive_ciphers(key, lead.recv(Wire.scores), passive_rows, lead.peer)
    plan = _plan(key.bits)
    masked, masks = mask_products(plan, gather(theirs, places))
    hub.send(Wire.chosen, send_ciphers(masked))
    others = receive_opened(plan, key, hub.recv(Wire.opened), masks, hub.peer)
    fixed = glm.forward(block, fit.weights, slice(block.rows, None))
    return np.ldexp(glm.to_scores(fixed + np.array(others, np.int64)[:, None]), fit.label_bits)


def score_as_passive(endpoint: Endpoint, terms: Terms, block: Block, fit: Fit, guards: Guards, policy: Policy) -> None:
    """Send the encrypted scores of all rows, once they are counted.

    Raises
    ------
    PolicyError
        More rows than ``scored_rows`` of the policy allows, and guards are enforced; nothing was sent.
    """
    lead = endpoint.link(Passive, Active, terms.job.active)
    key = receive_key(
        endpoint.link(Passive, Coordinator, COORDINATOR).recv(Wire.key), COORDINATOR, terms.job.privacy.key_bits
    )
    fixed = rounded(glm.forward(block, fit.weights, slice(0, None)).ravel(), endpoint.name, guards, policy)
    check_scores(fixed, 2)
    content = [fit.weights.tobytes(), fixed.tobytes()]
    spend_rows(guards, policy, party=endpoint.name, rows=len(fixed), content=content)
    lead.send(Wire.scores, send_ciphers(encrypt(key, fixed.tolist())))


def score_as_coordinator(endpoint: Endpoint, terms: Terms, rows: int) -> None:
    """Open ``rows`` masked scores for the active party."""
    privacy = terms.job.privacy
    key = generate_keypair(
        privacy.key_bits, exponent_bits=privacy.exponent_bits, insecure_test_mode=privacy.insecure_test_mode
    )
    for name in endpoint.peers(DataParty):
        endpoint.link(Coordinator, DataParty, name).send(Wire.key, send_key(key.public))
    lead = endpoint.link(Coordinator, Active, terms.job.active)
    masked = receive_ciphers(key.public, lead.recv(Wire.chosen), rows, lead.peer)
    lead.send(Wire.opened, Opened(open_products(_plan(key.public.bits), key, masked, count=rows)))


def _plan(modulus_bits: int) -> InnerProductPlan:
    """One score in a ciphertext, under a mask of the whole modulus."""
    return plan_inner_product(modulus_bits, 1, 1 << _SCORE_LIMIT, 1)
