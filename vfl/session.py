"""One role's whole run, as a story: align, prepare, train, evaluate, save.

The same functions play over the local network and over processes; ``vfl.launch`` starts them on one machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from parties.columns import EncodedLabels, check_classes_in_both_parts, encode_labels
from parties.data import PartyTable
from parties.link import Endpoint
from parties.policy import Guards
from parties.spec import PartySpec
from psi.align import Alignment, AlignmentSettings, align_coordinator, align_party
from psi.ids import PreparedIds
from vfl import glm, glm_exact, glm_quadratic
from vfl.events import Event, Metrics, Report, RoleResult
from vfl.glm import Fit, Integers, Progress
from vfl.job import Job
from vfl.optim import Vector
from vfl.prepare import (
    Columns,
    check_consent_to_job,
    check_consent_to_terms,
    count_test_rows,
    encode_columns,
    exchange_shapes_as_coordinator,
    exchange_shapes_as_party,
    own_block,
    read_ids,
)
from vfl.scoring import score_as_active, score_as_coordinator, score_as_passive
from vfl.shard import save_ids, save_shard, save_test_scores
from vfl.terms import Terms


@dataclass(frozen=True, slots=True)
class Loaded:
    """A party's own data, read and checked before anything is sent."""

    table: PartyTable = field(repr=False)
    ids: PreparedIds = field(repr=False)


@dataclass(slots=True)
class Clock:
    """Seconds per phase, and the events that announce phases and rounds."""

    role: str
    report: Report
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Announce and time one phase."""
        self.report(Event(self.role, name))
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def progress(self, rounds: int, loss: float | None) -> None:
        """Announce one round of the training."""
        self.report(Event(self.role, "training", rounds, loss))


def load_party(job: Job, spec: PartySpec, table: PartyTable) -> Loaded:
    """Check a party's ids, labels and policy against the job: all that can be refused without the others.

    Raises
    ------
    DataError, ConfigError, PolicyError
    """
    ids = read_ids(job, spec, table)
    if table.labels is not None:
        encode_labels([table.labels[row] for row in ids.rows], job.task, spec.positive_text, spec.name)
    return Loaded(table, ids)


def play_party(
    endpoint: Endpoint, job: Job, spec: PartySpec, loaded: Loaded, folder: Path, report: Report, *, baseline: bool
) -> RoleResult:
    """Play a party to its end and write its folder.

    Parameters
    ----------
    folder : Path
        An existing directory of the party's own.
    baseline : bool
        The active party also fits its own columns alone, for comparison.
    """
    table = loaded.table
    clock = Clock(endpoint.name, report)
    guards = Guards(enforce=job.privacy.enforce, small_data=job.privacy.small_data and spec.policy.small_data)
    check_consent_to_job(job, spec, guards)
    with clock.phase("aligning"):
        alignment = align_party(endpoint, loaded.ids, _alignment_settings(job), workers=_alignment_threads())
    with clock.phase("preparing"):
        n_train = alignment.intersection - count_test_rows(job, alignment.intersection)
        labels = aligned_labels(job, spec, table, alignment.rows, n_train)
        columns = encode_columns(spec, table, alignment.rows, n_train, guards)
        block = own_block(job, spec, columns, n_train)
        outputs = count_outputs(job, labels)
        terms = exchange_shapes_as_party(endpoint, job, spec, block.width, outputs, n_train)
        check_consent_to_terms(terms, spec, guards)
    with clock.phase("training"):
        fit = _train(
            endpoint, terms, block, labels, _aligned_weights(table, alignment, n_train), guards, clock.progress
        )
    with clock.phase("evaluating"):
        scores = _score(endpoint, terms, block, fit, alignment.intersection - n_train)
        endpoint.transport.close()  # the last word to the others is said
        result = _judge(job, spec, table, alignment, columns, labels, scores, n_train, baseline=baseline)
    with clock.phase("saving"):
        save_shard(folder, terms, spec, columns, fit, labels.classes if labels else [])
        save_ids(folder, spec, table, alignment.rows, n_train)
        if result.predicted is not None:
            test_rows = alignment.rows[n_train:]
            save_test_scores(folder, spec, table, test_rows, result.predicted, labels.classes if labels else [])
    return RoleResult(
        role=spec.name,
        sizes=alignment.sizes,
        intersection=alignment.intersection,
        protocol=alignment.protocol,
        n_train=n_train,
        n_test=alignment.intersection - n_train,
        key_holder=terms.key_holder,
        key_holder_reason=terms.reason,
        rounds=fit.rounds,
        converged=fit.converged,
        losses=list(fit.losses),
        warnings=[
            *table.warnings,
            *columns.warnings,
            *guards.warnings,
            *fit.warnings,
            *result.warnings,
        ],
        seconds=clock.seconds,
        csv_rows=table.n_rows,
        features=len({columns.preprocessor.sources[j] for j in columns.kept}),
        joint=result.joint,
        active_only=result.active_only,
    )


def play_coordinator(endpoint: Endpoint, job: Job, report: Report) -> RoleResult:
    """Play the coordinator to its end."""
    clock = Clock(endpoint.name, report)
    with clock.phase("aligning"):
        joined = align_coordinator(endpoint, _alignment_settings(job))
    with clock.phase("preparing"):
        n_test = count_test_rows(job, joined.intersection)
        terms = exchange_shapes_as_coordinator(endpoint, job, joined.intersection - n_test)
    with clock.phase("training"):
        if terms.key_holder == "active":
            fit = glm_exact.coordinator(endpoint, terms)
        else:
            fit = glm_quadratic.coordinator(endpoint, terms, clock.progress)
    with clock.phase("evaluating"):
        if n_test:
            score_as_coordinator(endpoint, terms, n_test)
    endpoint.transport.close()
    return RoleResult(
        role=endpoint.name,
        sizes=joined.sizes,
        intersection=joined.intersection,
        protocol=joined.protocol,
        n_train=terms.rows,
        n_test=n_test,
        key_holder=terms.key_holder,
        key_holder_reason=terms.reason,
        rounds=fit.rounds,
        converged=fit.converged,
        losses=list(fit.losses),
        warnings=[],
        seconds=clock.seconds,
    )


@dataclass(frozen=True, slots=True)
class _Judgement:
    """The active party's evaluation; empty elsewhere."""

    predicted: Vector | None = None
    joint: Metrics | None = None
    active_only: Metrics | None = None
    warnings: tuple[str, ...] = ()


def _train(
    endpoint: Endpoint,
    terms: Terms,
    block: glm.Block,
    labels: EncodedLabels | None,
    weights: Vector | None,
    guards: Guards,
    progress: Progress,
) -> Fit:
    """Play this party's part of the protocol that the key holder implies."""
    exact = terms.key_holder == "active"
    if labels is None:
        return (glm_exact.passive if exact else glm_quadratic.passive)(endpoint, terms, block, guards)
    target = glm.make_target(terms.job.model, labels.values[: terms.rows], weights, terms.outputs)
    play = glm_exact.active if exact else glm_quadratic.active
    return play(endpoint, terms, block, target, guards, progress)


def _score(endpoint: Endpoint, terms: Terms, block: glm.Block, fit: Fit, n_test: int) -> Vector | None:
    """Joint scores of the test rows at the active party."""
    if not n_test:
        return None
    if endpoint.name == terms.job.active:
        return score_as_active(endpoint, terms, block, fit)
    score_as_passive(endpoint, terms, block, fit)
    return None


def _judge(
    job: Job,
    spec: PartySpec,
    table: PartyTable,
    alignment: Alignment,
    columns: Columns,
    labels: EncodedLabels | None,
    scores: Vector | None,
    n_train: int,
    *,
    baseline: bool,
) -> _Judgement:
    """Metrics on the test rows, joint and of the active party's own columns."""
    if labels is None:
        return _Judgement()
    from vfl.baselines import baseline_metrics  # scikit-learn takes seconds to import, and only this role needs it
    from vfl.losses import FAMILIES
    from vfl.metrics import evaluate

    if scores is None:
        return _Judgement(warnings=("no test rows (split.test_fraction = 0): no metrics",))
    predicted = FAMILIES[job.model].mean(scores if job.model == "softmax" else scores[:, 0])
    y_train, y_test = labels.values[:n_train], labels.values[n_train:]
    alone = None
    if baseline:
        alone = baseline_metrics(
            job.model,
            columns.X[:n_train],
            y_train,
            columns.X[n_train:],
            y_test,
            classes=labels.classes,
            l2=job.training.l2,
            fit_intercept=job.training.fit_intercept,
            weights=_aligned_weights(table, alignment, n_train),
        )
    return _Judgement(predicted, evaluate(job.task, y_test, predicted, labels.classes), alone)


def _alignment_threads() -> int:
    """Threads for curve operations; hashing holds the interpreter, so that more than five gain nothing."""
    return min(os.cpu_count() or 1, 5)


def _alignment_settings(job: Job) -> AlignmentSettings:
    return AlignmentSettings(
        seed=job.seed,
        protocol=job.alignment.protocol,
        min_intersection=job.alignment.min_intersection,
        tell_small_count=not job.privacy.enforce,
    )


def aligned_labels(job: Job, spec: PartySpec, table: PartyTable, rows: Integers, n_train: int) -> EncodedLabels | None:
    """Labels of the aligned rows; every class must be in both parts."""
    if table.labels is None:
        return None
    labels = encode_labels([table.labels[row] for row in rows], job.task, spec.positive_text, spec.name)
    if labels.classes:
        check_classes_in_both_parts(labels.values, n_train, labels.classes, spec.name)
    return labels


def _aligned_weights(table: PartyTable, alignment: Alignment, n_train: int) -> Vector | None:
    return None if table.weights is None else np.asarray(table.weights[alignment.rows[:n_train]])


def count_outputs(job: Job, labels: EncodedLabels | None) -> int:
    """Scores per row: the number of classes for softmax."""
    return len(labels.classes) if labels is not None and job.model == "softmax" else 1
