"""A generalised linear model in a run: encode and quantise columns, train, score, compare, save."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from parties.checkpoint import Keeper
from parties.data import PartyTable
from parties.errors import DataError
from parties.leverage import leverage
from parties.link import Endpoint
from parties.policy import Guards, label_rank, single_passive, small_batch
from parties.spec import PartySpec
from vfl import glm, glm_exact, glm_quadratic, scoring_one_sided
from vfl.drawn_labels import drawn_once
from vfl.exact import quantise
from vfl.glm import Block, Fit
from vfl.job import Job
from vfl.label_dp import note, randomise_labels
from vfl.members import Members
from vfl.optim import Vector
from vfl.prepare import check_key_holder_consent, exchange_shapes_as_party
from vfl.preprocess import Preprocessor, fit_preprocessor
from vfl.scoring import score_as_active, score_as_passive
from vfl.shard import save_shard
from vfl.terms import Integers, Terms
from vfl.trained import Aligned, Prepared, Progress, Trained


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
    return glm.make_block(columns.integers, columns.scale_bits, n_train, job.training.l2, ones=ones)


def check_consent_to_terms(terms: Terms, spec: PartySpec, guards: Guards, trained: int) -> None:
    """Guards that need the agreed sizes: who holds the key, single passive party, label rank, small data.

    ``trained`` are the training rows as the party knows them: one-sided, at the active party, the members, since it is
    of their labels that products tell, however long the list is.
    """
    job = terms.job
    check_key_holder_consent(terms, spec, guards)
    for name in [spec.name] if spec.role == "passive" else job.passive:
        width = terms.columns[name]
        guards.heed(small_batch(guards, rows=trained, columns=width, party=name))
        guards.heed(label_rank(columns=width, rows=trained, party=name))
        guards.heed(
            single_passive(
                key_holder=terms.key_holder, party=name, passive_parties=len(job.passive_holders), consent=terms.consent
            )
        )


def prepare(endpoint: Endpoint, data: Aligned) -> Prepared:
    """Encode the party's columns, agree on terms, and check what it consents to."""
    columns = encode_columns(data.spec, data.table, data.rows, data.n_train, data.guards)
    block = own_block(data.job, data.spec, columns, data.n_train)
    outputs = len(data.labels.classes) if data.labels is not None and data.job.model == "softmax" else 1
    terms = exchange_shapes_as_party(endpoint, data.job, data.spec, block.width, outputs, data.told[0])
    check_consent_to_terms(terms, data.spec, data.guards, data.n_train)
    return Prepared(
        terms=terms,
        features=len({columns.preprocessor.sources[j] for j in columns.kept}),
        warnings=columns.warnings,
        train=partial(_train, data, terms, columns, block),
    )


def _train(
    data: Aligned, terms: Terms, columns: Columns, block: Block, endpoint: Endpoint, progress: Progress
) -> Trained:
    """Play this party's part of the protocol that the key holder implies."""
    exact = terms.key_holder == "active"
    if data.labels is None:
        fit = (glm_exact.passive if exact else glm_quadratic.passive)(endpoint, terms, block, data.guards)
    else:
        target = target_of(data, terms, endpoint.keeper)
        if exact:
            fit = glm_exact.active(endpoint, terms, block, target, data.guards, progress)
        else:
            members = None if data.places is None else Members(data.places[: data.n_train], data.listed)
            fit = glm_quadratic.active(endpoint, terms, block, target, data.guards, progress, members)
        if data.job.privacy.label_dp_epsilon is not None:
            fit = replace(fit, warnings=(note(data.job.privacy.label_dp_epsilon), *fit.warnings))
    classes = data.labels.classes if data.labels is not None else []
    return Trained(
        rounds=fit.rounds,
        converged=fit.converged,
        losses=fit.losses,
        warnings=fit.warnings,
        score=partial(_score, data, terms, block, fit),
        alone=partial(_alone, data, columns),
        save=lambda folder: save_shard(Path(folder), terms, data.spec, columns, fit, classes),
    )


def target_of(data: Aligned, terms: Terms, keeper: Keeper) -> glm.Target:
    """The labels to train on: randomised where the job says so, once for a run."""
    y, epsilon = data.labels_to_fit, data.job.privacy.label_dp_epsilon
    if epsilon is not None:
        y = drawn_once(keeper, y, partial(randomise_labels, classes=max(2, terms.outputs), epsilon=epsilon))
    return glm.make_target(data.job.model, y, data.weights, terms.outputs)


def _score(data: Aligned, terms: Terms, block: Block, fit: Fit, endpoint: Endpoint) -> Vector | None:
    """Joint predictions of the test rows at the active party."""
    scored = data.job.split.test_fraction > 0 if data.listed else data.n_test > 0
    if not scored:
        return None
    if data.labels is None:
        help_scoring = scoring_one_sided.score_as_passive if data.listed else score_as_passive
        help_scoring(endpoint, terms, block, fit, data.guards, data.spec.policy)
        return None
    from vfl.losses import FAMILIES

    if data.places is None:
        scores = score_as_active(endpoint, terms, block, fit)
    else:
        places = data.places[data.n_fit :]
        scores = scoring_one_sided.score_as_active(endpoint, terms, block, fit, places, data.listed)
    return FAMILIES[data.job.model].mean(scores if data.job.model == "softmax" else scores[:, 0])


def _alone(data: Aligned, columns: Columns) -> Vector | None:
    """Predictions of the test rows by a model on the active party's own columns."""
    return None if data.labels is None else plain_predictions(data, columns.X)


def plain_predictions(data: Aligned, X: Vector) -> Vector:
    """Predictions of the test rows by the same model fitted on columns in one place.

    Parameters
    ----------
    X : ndarray of shape (n, d), float64
        Encoded columns of all aligned rows.
    """
    from vfl.baselines import baseline_predictions  # scikit-learn takes seconds to import, and few roles need it

    training = data.job.training
    return baseline_predictions(
        data.job.model,
        X[: data.n_train],
        data.labels_to_fit,
        X[data.n_fit :],
        n_classes=max(len(data.classes), 2),
        l2=training.l2,
        fit_intercept=training.fit_intercept,
        weights=data.weights,
    )
