"""What a party consents to where a split neural network is trained, once all know each other's columns.

What the active party learns of the passive columns through the first layer is judged as the scores of a GLM are: every
epoch shows it ``units`` more linear views of them. The other guards of GLMs rest on gradients that passive parties
learn, and have nothing to judge here:

- label rank, small data: in mode source-layer a passive party sees gradients as ciphertexts alone, and the sums over a
  batch that it computes are opened under its own mask by the active party; no equation on labels reaches it.
- leverage: it would read a label from a weight; of its weights each party holds a share, which alone is random.

In mode split, where passive parties see the gradient of every row, no number of rows or columns makes labels safe: it
takes every party's ``embedding_gradients``, on one machine too, and the first-layer views, which are each party's very
outputs there, are part of that consent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parties.guards import Verdict, embedding_exchange, first_layer_views, single_first_layer
from parties.policy import Guards
from parties.spec import PartySpec
from vfl.prepare import check_key_holder_consent
from vfl.terms import Terms


def check_consent_to_network(terms: Terms, spec: PartySpec, guards: Guards) -> None:
    """Guards that need the agreed sizes: views of the passive columns, a single passive party, single rows' gradients.

    Raises
    ------
    PolicyError
        This party, or one whose consent it knows, does not consent; where guards are enforced, in mode split
        everywhere.
    """
    check_key_holder_consent(terms, spec, guards)
    job = terms.job
    if not job.encrypted:
        guards.heed(embedding_exchange(party=spec.name, consent=spec.policy.embedding_gradients))
        return
    for name in [spec.name] if spec.role == "passive" else job.passive:
        guards.heed(single_first_layer(party=name, passive_parties=len(job.passive), consent=terms.consent))
    earlier = guards.budget.evaluations(1, job.splitnn.units) - 1
    guards.heed(_judge_views(terms, earlier + job.splitnn.epochs))


def spend_epoch(terms: Terms, guards: Guards, epoch: int, share: NDArray[np.uint64] | None = None) -> None:
    """Count an epoch's views over all runs on this alignment, before this party has a part in them.

    Parameters
    ----------
    epoch : int
        Of this run, from 1.
    share : ndarray of shape (d, units), uint64, optional
        A passive party's share of its weights as the epoch begins. An epoch that is repeated from the very same one,
        after a crash, counts once; the first epoch, for which it is drawn anew, counts again.

    Raises
    ------
    PolicyError
        The views are as many as the passive columns, not all passive parties consent, and guards are enforced.
    """

    def permit(epochs: int) -> None:
        if guards.enforce:  # else the whole plan has been warned of
            guards.heed(_judge_views(terms, epochs))

    weights = None if share is None else np.ascontiguousarray(share).view(np.float64)
    columns, units = sum(terms.passive_columns), terms.job.splitnn.units
    guards.budget.spend_evaluation(epoch, weights, scores=units, columns=columns, permit=permit)


def _judge_views(terms: Terms, epochs: int) -> Verdict | None:
    """Verdict on so many epochs, over all runs."""
    return first_layer_views(
        epochs=epochs,
        units=terms.job.splitnn.units,
        passive_columns=terms.passive_columns,
        party=terms.job.active,
        consent=terms.consent,
    )
