"""From aligned rows to blocks and terms: split, encode, quantise, guard, and tell each other the widths.

    D --> C   shape    columns after encoding; of the active party also scores per row; consent to opened scores
    C --> D   shapes   everybody's

Leakage
-------
coordinator, every party : columns after encoding, scores per row, consent to opened scores (a one-hot encoded column
    counts once per category)

Everything else here is local: medians, means, deviations and categories are learnt from the party's own training
rows and stay with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from parties.data import PartyTable
from parties.errors import DataError, RemoteProtocolError
from parties.leverage import leverage
from parties.link import COORDINATOR, Endpoint
from parties.policy import Guards, label_rank, objections, single_passive, small_batch
from parties.spec import PartySpec
from parties.wire import Coordinator, DataParty, Message, Revealed
from psi.ids import IdRules, PreparedIds, prepare_ids
from vfl.exact import quantise
from vfl.glm import Block, Integers, make_block
from vfl.job import Job, check_key_holder, choose_key_holder
from vfl.optim import Vector
from vfl.preprocess import Preprocessor, fit_preprocessor
from vfl.terms import Terms

MAX_COLUMNS = 1 << 20


class Wire:
    """Messages of the preparation."""

    shape = Message(
        DataParty,
        Coordinator,
        Revealed,
        discloses="columns after encoding, scores per row, consent to opened scores",
    )
    shapes = Message(
        Coordinator, DataParty, Revealed, discloses="columns after encoding, scores per row, consent to opened scores"
    )


@dataclass(frozen=True, slots=True)
class Columns:
    """A party's columns of the aligned rows, encoded.

    Parameters
    ----------
    X : ndarray of shape (n, d), float64
        Standardised, training rows first, columns that a guard dropped left out.
    integers, scale_bits : ndarrays of shape (n, d) and (d,), int64
        The same, quantised.
    kept : tuple of int
        Which of the preprocessor's columns these are.
    """

    preprocessor: Preprocessor
    X: Vector = field(repr=False)
    integers: Integers = field(repr=False)
    scale_bits: Integers
    kept: tuple[int, ...]
    warnings: tuple[str, ...]


def id_rules(job: Job, spec: PartySpec) -> IdRules:
    """The job's id rules for a party with so many id columns."""
    alignment = job.alignment
    return IdRules(casefold=alignment.casefold, digits_only=alignment.digits_only, columns=len(spec.id_columns))


def read_ids(job: Job, spec: PartySpec, table: PartyTable) -> PreparedIds:
    """A party's valid ids under the job's rules; see ``psi.ids.prepare_ids`` for what is refused."""
    return prepare_ids(
        table.id_columns,
        id_rules(job, spec),
        party=spec.name,
        duplicates=job.alignment.duplicates,
        missing=job.alignment.missing,
    )


def count_test_rows(job: Job, rows: int) -> int:
    """How many of the aligned rows are held out, the last ones."""
    held_out = int(np.floor(job.split.test_fraction * rows + 0.5))
    if held_out >= rows:
        raise DataError(
            f"{rows} aligned rows with split.test_fraction = {job.split.test_fraction} leave no training row; "
            "lower it or bring more rows"
        )
    return held_out


def encode_columns(spec: PartySpec, table: PartyTable, rows: Integers, n_train: int, guards: Guards) -> Columns:
    """Encode the aligned rows; everything is learnt from the training rows, the first ``n_train``.

    Raises
    ------
    DataError
        If a passive party has no usable column.
    PolicyError
        If a guard refuses.
    """
    frame = table.features.iloc[rows].reset_index(drop=True)
    preprocessor = fit_preprocessor(frame.iloc[:n_train], table.kinds, unknown_category=spec.unknown_category)
    X, unseen = preprocessor.transform(frame)
    kept = np.arange(X.shape[1])
    verdict, dropped = leverage(X[:n_train], preprocessor.sources, party=spec.name)
    if guards.heed(verdict):
        kept = np.delete(kept, list(dropped))
    if spec.role == "passive" and not len(kept):
        raise DataError(
            f"party '{spec.name}' has no usable feature column, expected at least one that is not constant over the "
            f"{n_train} training rows"
        )
    X = np.ascontiguousarray(X[:, kept])
    block = quantise(X, n_train, [preprocessor.sources[j] for j in kept])
    warnings = [f"{spec.name}: {line}" for line in (*preprocessor.warnings, *unseen, *block.warnings)]
    return Columns(preprocessor, X, block.integers, block.scale_bits, tuple(int(j) for j in kept), tuple(warnings))


def own_block(job: Job, spec: PartySpec, columns: Columns, n_train: int) -> Block:
    """The party's block; the active party's gets the intercept's column of ones."""
    ones = spec.role == "active" and job.training.fit_intercept
    return make_block(columns.integers, columns.scale_bits, n_train, job.training.l2, ones=ones)


def exchange_shapes_as_party(
    endpoint: Endpoint, job: Job, spec: PartySpec, columns: int, outputs: int, rows: int
) -> Terms:
    """Tell the others this party's width and hear theirs."""
    judge = endpoint.link(DataParty, Coordinator, COORDINATOR)
    own = {"columns": columns, "outputs": outputs, "consent": spec.policy.partial_scores}
    judge.send(Wire.shape, Revealed(dict(own), np.zeros(0)))
    return agree_terms(job, judge.recv(Wire.shapes).facts, rows)


def exchange_shapes_as_coordinator(endpoint: Endpoint, job: Job, rows: int) -> Terms:
    """Collect the parties' widths and hand them round."""
    links = [endpoint.link(Coordinator, DataParty, name) for name in endpoint.peers(DataParty)]
    facts = {f"{link.peer} {key}": value for link in links for key, value in link.recv(Wire.shape).facts.items()}
    terms = agree_terms(job, facts, rows)
    for link in links:
        link.send(Wire.shapes, Revealed(facts, np.zeros(0)))
    return terms


def check_consent_to_job(job: Job, spec: PartySpec, guards: Guards) -> None:
    """The party's policy against the job's own lines, before anything is sent."""
    setting = job.privacy.key_holder
    holder = spec.policy.key_holder[0] if setting == "auto" else setting
    for verdict in objections(
        spec.policy,
        party=spec.name,
        model=job.model,
        key_bits=job.privacy.key_bits,
        key_holder=holder,
        min_intersection=job.alignment.min_intersection,
        max_rounds=job.training.max_iter,
    ):
        guards.heed(verdict)


def check_consent_to_terms(terms: Terms, spec: PartySpec, guards: Guards) -> None:
    """Guards that need the agreed sizes: who holds the key, single passive party, label rank, small data."""
    job = terms.job
    if terms.key_holder not in spec.policy.key_holder:
        for verdict in objections(
            spec.policy,
            party=spec.name,
            model=job.model,
            key_bits=job.privacy.key_bits,
            key_holder=terms.key_holder,
            min_intersection=job.alignment.min_intersection,
            max_rounds=job.training.max_iter,
        ):
            guards.heed(verdict)
    for name in [spec.name] if spec.role == "passive" else job.passive:
        width = terms.columns[name]
        guards.heed(small_batch(guards, rows=terms.rows, columns=width, party=name))
        guards.heed(label_rank(columns=width, rows=terms.rows, party=name))
        guards.heed(
            single_passive(
                key_holder=terms.key_holder, party=name, passive_parties=len(job.passive), consent=terms.consent
            )
        )


def agree_terms(job: Job, facts: Mapping[str, bool | int | float | str | None], rows: int) -> Terms:
    """What all roles know, from the collected shapes; every role computes the same."""
    columns: dict[str, int] = {}
    for party in job.parties:
        width = facts.get(f"{party.name} columns")
        if type(width) is not int or not (party.role == "active") <= width + 1 <= MAX_COLUMNS:
            raise RemoteProtocolError(f"{party.name} announced no sensible number of columns")
        columns[party.name] = width
    outputs = facts.get(f"{job.active} outputs")
    if type(outputs) is not int or not 1 <= outputs <= MAX_COLUMNS:
        raise RemoteProtocolError(f"{job.active} announced no sensible number of scores per row")
    passive_columns = sum(columns[name] for name in job.passive)
    holder, reason = choose_key_holder(
        job.model, job.privacy.key_holder, passive_columns, len(job.passive), outputs, job.training.max_iter
    )
    check_key_holder(job, holder, reason)
    consent = all(facts.get(f"{name} consent") is True for name in job.passive)
    return Terms(job, holder, reason, rows, outputs, columns, consent)
