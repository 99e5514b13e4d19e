"""First-layer outputs of rows that took no part in training: the forward pass of `vfl.splitnn` once more.

Test rows, and new rows of a later prediction; each with a key and masks of its own (`vfl.forward_pass` has the flow,
`vfl.splitnn` the notation).

    A --> P, C  key, key_copy
    A --> P     weights
      for every block of rows
    P --> C     products, rests
    C --> A     all_products, sums

Leakage
-------
active : the scored rows' first-layer outputs, summed over the passive parties
coordinator : how many rows are scored

A passive party counts the rows before it answers; ``scored_rows`` of its policy bounds them over all runs on one
alignment.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parties.link import Endpoint
from parties.policy import Guards, Policy, spend_rows
from parties.wire import Active, Coordinator, Encrypted, Masked, Message, PaillierKey, Passive
from vfl.exchange import send_key
from vfl.forward_pass import ForwardPass, add_forward, answer_forward, start_forward, take_key
from vfl.optim import Vector
from vfl.source_layer import Words
from vfl.terms import Integers, Terms

BLOCK = 1024
"""Rows of one message: the tables of powers of [[V]] serve so many."""


class Wire:
    """Messages of scoring."""

    key = Message(Active, Passive, PaillierKey)
    key_copy = Message(Active, Coordinator, PaillierKey)
    weights = Message(Active, Passive, Encrypted)
    products = Message(Passive, Coordinator, Encrypted)
    all_products = Message(Coordinator, Active, Encrypted)
    rests = Message(Passive, Coordinator, Masked)
    sums = Message(
        Coordinator,
        Active,
        Masked,
        discloses="the scored rows' first-layer outputs, summed over the passive parties",
    )


SCORING = ForwardPass(Wire.weights, Wire.products, Wire.all_products, Wire.rests, Wire.sums)


def score_as_active(endpoint: Endpoint, terms: Terms, shares: Mapping[str, Words], rows: int) -> Vector:
    """Outputs of so many rows, summed over the passive parties.

    Parameters
    ----------
    shares : mapping of passive party to ndarray of shape (d, units), uint64
        This party's shares of the weights.

    Returns
    -------
    ndarray of shape (rows, units), float64
    """
    forward = start_forward(endpoint, terms, SCORING, "splitnn scoring")
    with forward.pool:
        for link in forward.passives:
            link.send(Wire.key, send_key(forward.key.public))
        forward.hub.send(Wire.key_copy, send_key(forward.key.public))
        forward.send_weights(shares)
        parts = [forward.open(len(block)) for block in _blocks(rows)]
    return np.concatenate(parts) if parts else np.zeros((0, terms.job.splitnn.units))


def score_as_passive(
    endpoint: Endpoint, terms: Terms, share: Words, X: Integers, guards: Guards, policy: Policy
) -> None:
    """Send this party's part of the rows' outputs, once the rows are counted.

    Parameters
    ----------
    share : ndarray of shape (d, units), uint64
    X : ndarray of shape (rows, d), int64
        Cells in fixed point.

    Raises
    ------
    PolicyError
        More rows than ``scored_rows`` of the policy allows, and guards are enforced; nothing was sent.
    """
    lead = endpoint.link(Passive, Active, terms.job.active)
    key = take_key(lead.recv(Wire.key), lead.peer, terms.job)
    forward = answer_forward(endpoint, terms, key, SCORING, "splitnn scoring")
    with forward.pool:
        weights = forward.receive_weights(X.shape[1])
        # not earlier: a last epoch repeated after a crash ends with another share, whose rows would count anew
        spend_rows(guards, policy, party=endpoint.name, rows=len(X), content=[share.tobytes(), X.tobytes()])
        for block in _blocks(len(X)):
            forward.answer(weights, X[block], share)


def score_as_coordinator(endpoint: Endpoint, terms: Terms, rows: int) -> None:
    """Add up what cannot be read."""
    lead = endpoint.link(Coordinator, Active, terms.job.active)
    key = take_key(lead.recv(Wire.key_copy), lead.peer, terms.job)
    forward = add_forward(endpoint, terms.job, key, SCORING)
    for block in _blocks(rows):
        forward.add_up(len(block))


def _blocks(rows: int) -> list[Integers]:
    return [np.arange(start, min(start + BLOCK, rows)) for start in range(0, rows, BLOCK)]
