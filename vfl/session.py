"""One role's whole run, as a story: align, prepare, train, evaluate, save.

The same functions play over the local network and over processes; ``vfl.launch`` starts them on one machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np

from parties.budget import Budget
from parties.columns import EncodedLabels, check_classes_in_both_parts, encode_labels
from parties.data import PartyTable
from parties.link import Endpoint
from parties.policy import Guards
from parties.spec import PartySpec
from psi.align import Alignment, Joined, align_coordinator, align_party
from psi.exchange import warnings_of
from psi.ids import IdRules, PreparedIds
from psi.source import Ids
from vfl import (
    boosting,
    boosting_one_sided,
    boosting_part,
    boosting_silos,
    boosting_silos_part,
    boosting_silos_scoring,
    consent,
    glm_exact,
    glm_part,
    glm_quadratic,
    glm_silos,
    glm_silos_part,
    horizontal_session,
    scoring_one_sided,
    scoring_silos,
    split_learning,
    splitnn,
    splitnn_part,
    splitnn_scoring,
)
from vfl.clock import Clock as Clock
from vfl.events import Comparison, Intervals, Metrics, Report, RoleResult
from vfl.glm import Fit
from vfl.job import Job
from vfl.kept_run import save_kept_run
from vfl.optim import Vector
from vfl.prepare import (
    Parts,
    alignment_settings,
    check_consent_to_job,
    check_consent_to_rows,
    exchange_shapes_as_coordinator,
    is_told,
    listed_rows,
    read_ids,
    split_rows,
    whole_list,
)
from vfl.report.evidence import ALONE, JOINT, Evidence, save_evidence
from vfl.report.statistics import bootstrap_intervals, compare
from vfl.scoring import score_as_coordinator
from vfl.shard import save_ids, save_test_scores
from vfl.siblings import Siblings, siblings_of
from vfl.silo_labels import silo_labels
from vfl.terms import Integers, Terms
from vfl.trained import Aligned, Prepared, Trained

_PARTS = {"boosting": boosting_part, "splitnn": splitnn_part}
"""What plays the models that are no generalised linear ones."""


def _part_of(job: Job) -> ModuleType:
    """What prepares and plays a party's part of the job's model."""
    if job.has_silos:
        return boosting_silos_part if job.model == "boosting" else glm_silos_part
    return _PARTS.get(job.model, glm_part)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A party's own data, read and checked before anything is sent."""

    table: PartyTable = field(repr=False)
    ids: PreparedIds = field(repr=False)


def load_party(job: Job, spec: PartySpec, table: PartyTable) -> Loaded:
    """Check a party's policy, ids and labels against the job: all that can be refused without the others.

    Raises
    ------
    DataError, ConfigError, PolicyError
    """
    check_consent_to_job(job, spec, _guards(job, spec), table.features.columns)
    if job.horizontal:  # nothing is aligned
        return Loaded(table, PreparedIds([], np.zeros(0, dtype=np.int64), table.n_rows, 0, 0, IdRules()))
    ids = read_ids(job, spec, table)
    if table.labels is not None and not job.has_silos:
        encode_labels([table.labels[row] for row in ids.rows], job.task, spec.positive_text, spec.name)
    return Loaded(table, ids)


def play_party(
    endpoint: Endpoint,
    job: Job,
    spec: PartySpec,
    loaded: Loaded,
    folder: Path,
    report: Report,
    *,
    baseline: bool,
    budget: Budget | None = None,
    intervals: bool = True,
    module: object = None,
) -> RoleResult:
    """Play a party to its end and write its folder.

    Parameters
    ----------
    folder : Path
        An existing directory of the party's own.
    baseline : bool
        The active party also fits its own columns alone, for comparison.
    budget : Budget, optional
        Counts of all runs on the alignment; by default of the present run alone.
    intervals : bool
        The active party also says how sure the metrics are.
    module : torch.nn.Module, optional
        Model splitnn: the party's own network instead of the one that the job describes.
    """
    if job.horizontal:
        return horizontal_session.play_party(
            endpoint, job, spec, loaded, folder, report, baseline=baseline, intervals=intervals, module=module
        )
    table = loaded.table
    clock = Clock(endpoint.name, report)
    guards = _guards(job, spec, budget)
    check_consent_to_job(job, spec, guards, table.features.columns)
    endpoint.consent = consent.of(job, spec, guards)
    endpoint.advanced = clock.part
    with clock.phase("aligning"):
        alignment = align(endpoint, job, loaded.ids)
        guards.budget.bind(alignment.digest)
    with clock.phase("preparing"):
        told = is_told(job, spec)
        parts = split_rows(job, alignment.intersection) if told else whole_list(len(alignment.rows))
        owned = _owned(job, alignment)
        own = parts if owned is None else parts.of(owned)
        check_consent_to_rows(job, own, spec, guards)
        siblings = None if owned is None else siblings_of(endpoint, "silos")
        data = Aligned(
            job=job,
            spec=spec,
            table=table,
            rows=alignment.rows,
            labels=aligned_labels(job, spec, table, alignment.rows, own, siblings),
            guards=guards,
            n_train=own.train,
            n_validation=own.validation,
            places=alignment.places,
            listed=listed_rows(job, alignment.sizes),
            module=module,
            owned=owned,
            whole=None if owned is None else parts,
            siblings=siblings,
        )
        prepared: Prepared = _part_of(job).prepare(endpoint, data)
    with clock.phase("training"):
        trained = prepared.train(endpoint, clock.progress)
    with clock.phase("evaluating"):
        predicted = trained.score(endpoint)
        judged = _judge(data, trained, predicted, baseline=baseline, intervals=intervals)
    with clock.phase("saving"):
        trained.save(folder)
        save_kept_run(folder, endpoint.run, prepared.terms, spec, alignment.digest)
        save_ids(folder, spec, table, alignment.rows, own if told else None)
        if predicted is not None:
            save_test_scores(folder, spec, table, alignment.rows[data.n_fit :], predicted, data.classes)
        if judged.evidence is not None:
            save_evidence(folder, judged.evidence)
    return RoleResult(
        role=spec.name,
        sizes=alignment.sizes,
        intersection=alignment.intersection if told else None,
        protocol=alignment.protocol,
        n_train=parts.train if told else None,
        n_validation=parts.validation,
        n_test=parts.test if told else None,
        key_holder=prepared.terms.key_holder,
        key_holder_reason=prepared.terms.reason,
        rounds=trained.rounds,
        converged=trained.converged,
        losses=list(trained.losses),
        validation_losses=list(trained.validation_losses),
        importance=list(trained.importance),
        label_inference=list(trained.label_inference),
        gradient_epsilon=trained.gradient_epsilon,
        warnings=[
            *table.warnings,
            *warnings_of(job.alignment.protocol, alignment.sizes),
            *prepared.warnings,
            *guards.warnings,
            *trained.warnings,
            *judged.warnings,
        ],
        seconds=clock.seconds,
        csv_rows=table.n_rows,
        ids=len(loaded.ids.ids),
        features=prepared.features,
        joint=judged.metrics.get(JOINT),
        active_only=judged.metrics.get(ALONE),
        confidence=judged.confidence,
        comparison=judged.comparison,
    )


def _owned(job: Job, alignment: Alignment) -> Integers | None:
    """Where this party's rows stand among the common ones, in a federation with silos."""
    if not job.has_silos:
        return None
    return np.arange(alignment.intersection) if alignment.owned is None else alignment.owned


def play_coordinator(endpoint: Endpoint, job: Job, report: Report) -> RoleResult:
    """Play the coordinator to its end."""
    if job.horizontal:
        return horizontal_session.play_coordinator(endpoint, job, report)
    clock = Clock(endpoint.name, report)
    endpoint.advanced = clock.part
    with clock.phase("aligning"):
        joined = join(endpoint, job)
    with clock.phase("preparing"):
        parts = split_rows(job, joined.intersection)
        listed = listed_rows(job, joined.sizes)
        rows, validation = (listed, 0) if listed else (parts.train, parts.validation)
        terms = exchange_shapes_as_coordinator(endpoint, job, rows, validation)
    with clock.phase("training"):
        fit = _coordinate(endpoint, terms, clock)
    with clock.phase("evaluating"):
        _coordinate_scoring(endpoint, terms, parts.test, one_sided=listed > 0)
    return RoleResult(
        role=endpoint.name,
        sizes=joined.sizes,
        intersection=joined.intersection,
        protocol=joined.protocol,
        n_train=parts.train,
        n_validation=parts.validation,
        n_test=parts.test,
        key_holder=terms.key_holder,
        key_holder_reason=terms.reason,
        rounds=fit.rounds,
        converged=fit.converged,
        losses=list(fit.losses),
        warnings=[],
        seconds=clock.seconds,
    )


class _Sizes(msgspec.Struct, frozen=True):
    """What a checkpoint keeps of an alignment beside the rows; the coordinator has no digest."""

    sizes: dict[str, int]
    intersection: int
    protocol: str
    digest: str = ""


def align(endpoint: Endpoint, job: Job, ids: PreparedIds | Ids, *, cardinality: bool = False) -> Alignment:
    """Align one party's rows, or take up the alignment that ``endpoint.keeper`` has."""
    kept = endpoint.keeper.aligned()
    if kept is not None:
        known = msgspec.convert(kept.facts, _Sizes)
        places, owned = (kept.integers(name) if name in kept.arrays else None for name in ("places", "owned"))
        rows = kept.arrays["rows"].astype(np.int64)
        return Alignment(rows, **msgspec.structs.asdict(known), places=places, owned=owned)
    settings = replace(alignment_settings(job), cardinality=cardinality)
    alignment = align_party(endpoint, ids, settings, workers=_alignment_threads())
    known = _Sizes(alignment.sizes, alignment.intersection, alignment.protocol, alignment.digest)
    lists = {"rows": alignment.rows, "places": alignment.places, "owned": alignment.owned}
    arrays = {name: array for name, array in lists.items() if array is not None}
    endpoint.keeper.save_aligned(msgspec.structs.asdict(known), arrays)
    return alignment


def join(endpoint: Endpoint, job: Job, *, cardinality: bool = False) -> Joined:
    """The coordinator's part of the alignment; see `align`."""
    kept = endpoint.keeper.aligned()
    if kept is not None:
        known = msgspec.convert(kept.facts, _Sizes)
        return Joined(known.sizes, known.intersection, known.protocol)
    joined = align_coordinator(endpoint, replace(alignment_settings(job), cardinality=cardinality))
    known = _Sizes(joined.sizes, joined.intersection, joined.protocol)
    endpoint.keeper.save_aligned(msgspec.structs.asdict(known), {})
    return joined


def _coordinate(endpoint: Endpoint, terms: Terms, clock: Clock) -> Fit:
    """The coordinator's part of the training."""
    if terms.job.has_silos and terms.job.model == "boosting":
        boosting_silos.coordinator(endpoint, terms)
        return Fit(np.zeros((0, terms.outputs)), 0, (), 0, converged=True)
    if terms.job.has_silos:
        return glm_silos.coordinator(endpoint, terms)
    if terms.job.model == "boosting":
        (boosting_one_sided if terms.job.alignment.one_sided else boosting).coordinator(endpoint, terms)
        return Fit(np.zeros((0, terms.outputs)), 0, (), 0, converged=True)
    if terms.job.model == "splitnn":
        epochs = (split_learning if terms.job.splitnn.mode == "split" else splitnn).coordinator(endpoint, terms)
        return Fit(np.zeros((0, terms.outputs)), 0, (), epochs, converged=True)
    if terms.key_holder == "active":
        return glm_exact.coordinator(endpoint, terms)
    return glm_quadratic.coordinator(endpoint, terms, clock.progress)


def _coordinate_scoring(endpoint: Endpoint, terms: Terms, rows: int, *, one_sided: bool) -> None:
    """The coordinator's part in the scoring of the test rows; trees, and networks in mode split, need none."""
    job = terms.job
    if job.has_silos:
        if rows:
            (boosting_silos_scoring if job.model == "boosting" else scoring_silos).score_as_coordinator(
                endpoint, terms, rows
            )
    elif job.model == "splitnn":
        if rows and job.splitnn.mode == "source-layer":
            splitnn_scoring.score_as_coordinator(endpoint, terms, rows)
    elif job.model != "boosting":
        if one_sided and job.split.test_fraction:
            scoring_one_sided.score_as_coordinator(endpoint, terms, rows)
        elif rows and not one_sided:
            score_as_coordinator(endpoint, terms, rows)


def _guards(job: Job, spec: PartySpec, budget: Budget | None = None) -> Guards:
    """A party's guards, as strict as the job says."""
    small_data = job.privacy.small_data and spec.policy.small_data
    return Guards(enforce=job.privacy.enforce, small_data=small_data, budget=budget or Budget())


@dataclass(frozen=True, slots=True)
class _Judgement:
    """The active party's evaluation; empty elsewhere."""

    evidence: Evidence | None = None
    metrics: dict[str, Metrics] = field(default_factory=dict)
    confidence: dict[str, Intervals] = field(default_factory=dict)
    comparison: dict[str, Comparison] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def _judge(data: Aligned, trained: Trained, predicted: Vector | None, *, baseline: bool, intervals: bool) -> _Judgement:
    """Metrics on the test rows, joint and of the active party's own columns, and how sure they are."""
    if data.labels is None:
        return _Judgement()
    from vfl.metrics import evaluate  # scikit-learn takes seconds to import, and only this role needs it

    if predicted is None:
        return _Judgement(warnings=("no test rows (split.test_fraction = 0): no metrics",))
    models, alone = {JOINT: predicted}, trained.alone() if baseline else None
    if alone is not None:
        models[ALONE] = alone
    evidence = Evidence(data.job.task, tuple(data.classes), data.labels_to_judge, models)
    metrics = {name: evaluate(evidence.task, evidence.y, scores, data.classes) for name, scores in models.items()}
    if not intervals:
        return _Judgement(evidence, metrics)
    seed = data.job.seed
    return _Judgement(evidence, metrics, bootstrap_intervals(evidence, seed), compare(evidence, seed))


def _alignment_threads() -> int:
    """Threads for curve operations; hashing holds the interpreter, so that more than five gain nothing."""
    return min(os.cpu_count() or 1, 5)


def aligned_labels(
    job: Job, spec: PartySpec, table: PartyTable, rows: Integers, parts: Parts, siblings: Siblings | None = None
) -> EncodedLabels | None:
    """Labels of the aligned rows; every class must be among the training rows and among the test rows."""
    if table.labels is None:
        return None
    if siblings is not None:
        return silo_labels([table.labels[row] for row in rows], parts, job.task, spec, siblings)
    labels = encode_labels([table.labels[row] for row in rows], job.task, spec.positive_text, spec.name)
    if labels.classes:
        judged = np.ones(len(rows), dtype=bool)
        judged[parts.train : parts.train + parts.validation] = False
        check_classes_in_both_parts(labels.values[judged], parts.train, labels.classes, spec.name)
    return labels
