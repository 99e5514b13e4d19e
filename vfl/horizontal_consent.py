"""What a silo consents to where models are averaged: all parties are silos of one holder, and nothing is aligned.

The coordinator learns sums of the silos' updates, hence the joint model of every round, and every silo learns that
model. What the guards of other jobs judge of a passive party's gradients is judged here of the sums:

- two silos: where a sum may be over two, each takes off its own part. A silo that rounds go on without (``min_silos``)
  or that is not drawn (``client_fraction``) leaves fewer in the sum.
- small data: the gradient of few rows at known weights tells of the rows. Full batches are judged by the training rows
  that a sum is over at least, taking the silos as equally large; a batch of a network by its own length.
- label rank: exact gradients of the same rows are linear equations on the residuals of a GLM.

Noise (``privacy.dp``) is the remedy for the last two, which are not asked then.
"""

from __future__ import annotations

from collections.abc import Iterable

from parties.policy import Guards, column_use, label_privacy, label_rank, objections, small_batch, update_privacy
from parties.spec import PartySpec
from vfl.aggregation import least_silos
from vfl.job import Job


def check_consent_to_updates(job: Job, spec: PartySpec, guards: Guards, columns: Iterable[str] | None = None) -> None:
    """The silo's policy against the job's own lines, before anything is sent.

    Parameters
    ----------
    columns : iterable of str, optional
        Feature columns of the silo's table; without a table those that its file lists.

    Raises
    ------
    PolicyError
        Where guards are enforced.
    """
    from vfl.consent import check_disclosures  # it reads the tables of all protocols

    policy, name = spec.policy, spec.name
    for verdict in objections(
        policy,
        party=name,
        model=job.model,
        key_bits=None,
        key_holder=None,
        min_intersection=None,
        max_rounds=job.max_rounds,
    ):
        guards.heed(verdict)
    guards.heed(column_use(policy, party=name, columns=(spec.features or ()) if columns is None else columns))
    guards.heed(label_privacy(policy, party=name, epsilon=job.privacy.label_dp_epsilon))
    if job.privacy.dp == "none" or job.privacy.dp_epsilon is not None:  # else it follows from rows: see below
        guards.heed(update_privacy(policy, party=name, epsilon=job.privacy.dp_epsilon))
    check_disclosures(job, spec, guards)


def check_consent_to_averaging(
    job: Job, spec: PartySpec, guards: Guards, *, columns: int, rows: int, epsilon: float | None = None
) -> None:
    """Guards that need sizes, once they are known and before the first round.

    Parameters
    ----------
    columns : int
        Columns after encoding.
    rows : int
        Training rows of all silos.
    epsilon : float, optional
        Of the noise on gradients, for the whole training; none is added where there is none.

    Raises
    ------
    PolicyError
        Where guards are enforced.
    """
    guards.heed(update_privacy(spec.policy, party=spec.name, epsilon=epsilon))
    if job.privacy.dp != "none":
        return
    in_a_sum = rows_in_a_sum(job, rows)
    guards.heed(small_batch(guards, rows=in_a_sum, columns=columns, party=spec.name))
    if job.model != "splitnn":
        guards.heed(label_rank(columns=columns, rows=in_a_sum, party=spec.name))


def rows_in_a_sum(job: Job, rows: int) -> int:
    """Training rows that an update is a sum over at least, taking the silos as equally large.

    >>> from vfl.job import Member, SplitNN, Training
    >>> people = tuple(Member(name=f"clinics.{name}", role="active") for name in ("east", "north", "south", "west"))
    >>> glm = Job(name="d", model="logistic", task="binary", parties=people, training=Training(min_silos=3))
    >>> net = Job(name="d", model="splitnn", task="binary", parties=people, splitnn=SplitNN(batch_size=64))
    >>> rows_in_a_sum(glm, 1000), rows_in_a_sum(net, 1000)
    (750, 64)
    """
    whole = rows * least_silos(job) // len(job.parties)
    return min(job.splitnn.batch_size, whole) if _by_batches(job) else whole


def _by_batches(job: Job) -> bool:
    """Whether each round adds up the gradients of one batch of all silos' rows."""
    return job.model == "splitnn" and job.splitnn.aggregation == "fedsgd"
