"""A role's whole run where all parties are silos of one holder: prepare, train, evaluate, save; nothing is aligned.

What the silos tell each other before the training (`vfl.siblings`): sums and texts that columns and labels are encoded
with (`vfl.silo_columns`, `vfl.silo_labels`), the sample weights' sum, the labels' mean and deviation or the weights of
their classes; and how many rows each has (`vfl.silo_counts`). The training itself is `vfl.horizontal`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from parties.columns import EncodedLabels
from parties.data import PartyTable
from parties.link import Endpoint
from parties.policy import Guards
from parties.spec import PartySpec
from vfl import consent, horizontal
from vfl.clock import Clock
from vfl.events import Comparison, Intervals, Metrics, Report, RoleResult
from vfl.horizontal_consent import check_consent_to_averaging
from vfl.horizontal_part import SiloRows, clip_cells, fit_alone, order_rows
from vfl.horizontal_shard import save_horizontal_shard
from vfl.job import Job
from vfl.kept_run import save_horizontal_run
from vfl.local_models import LocalGlm, LocalModel, agree_glm_scale, relative_weights
from vfl.optim import Vector
from vfl.parts import Parts
from vfl.prepare import check_consent_to_job
from vfl.report.evidence import ALONE, JOINT, Evidence, save_evidence
from vfl.report.statistics import bootstrap_intervals, compare
from vfl.shard import save_ids, save_test_scores
from vfl.siblings import Siblings, siblings_of
from vfl.silo_columns import SiloColumns, encode_silo_columns
from vfl.silo_counts import count_rows
from vfl.silo_labels import silo_labels
from vfl.silo_privacy import SiloNoise, dp_notes, make_silo_noise
from vfl.terms import Integers

if TYPE_CHECKING:
    from vfl.local_network import LocalNetwork
    from vfl.session import Loaded

NO_KEY = "no key is made: the silos' updates are added up under masks"


@dataclass(frozen=True)
class Silo:
    """A silo that is ready to train.

    Parameters
    ----------
    rows : ndarray of shape (n,), int64
        Rows of the table, training rows first.
    X : ndarray of shape (n, d), float64
    counts : dict of silo to Parts
        Rows of all silos, in job order.
    model : LocalGlm or LocalNetwork
    scale : GlmScale or None
        Of a linear model.
    """

    job: Job
    spec: PartySpec
    table: PartyTable = field(repr=False)
    rows: Integers = field(repr=False)
    parts: Parts
    columns: SiloColumns = field(repr=False)
    X: Vector = field(repr=False)
    labels: EncodedLabels = field(repr=False)
    counts: dict[str, Parts]
    model: LocalGlm | LocalNetwork = field(repr=False)
    noise: SiloNoise | None
    module: object = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Scores per row."""
        return outputs_of(self.job, self.labels)

    @property
    def total_rows(self) -> int:
        """Training rows of all silos."""
        return sum(one.train for one in self.counts.values())

    @property
    def before(self) -> int:
        """Training rows of the silos before this one in job order."""
        names = list(self.counts)
        return sum(self.counts[name].train for name in names[: names.index(self.spec.name)])


def play_party(
    endpoint: Endpoint,
    job: Job,
    spec: PartySpec,
    loaded: Loaded,
    folder: Path,
    report: Report,
    *,
    baseline: bool,
    intervals: bool = True,
    module: object = None,
) -> RoleResult:
    """Play a silo to its end and write its folder.

    Parameters
    ----------
    folder : Path
        An existing directory of the silo's own.
    baseline : bool
        The silo also fits the model on its own rows alone, for comparison.
    intervals : bool
        Also say how sure the metrics are.
    module : torch.nn.Module, optional
        Model splitnn: the user's own layers above the first one, the same at all silos.
    """
    clock = Clock(endpoint.name, report)
    guards = Guards(enforce=job.privacy.enforce, small_data=job.privacy.small_data and spec.policy.small_data)
    check_consent_to_job(job, spec, guards, loaded.table.features.columns)
    endpoint.consent = consent.of(job, spec, guards)
    with clock.phase("preparing"):
        silo = prepare(endpoint, job, spec, loaded.table, guards, module)
        _mark_prepared(endpoint)
    with clock.phase("training"):
        averaged = horizontal.silo(
            endpoint,
            job,
            silo.model,
            total_rows=silo.total_rows,
            before=silo.before,
            declared=spec.silo_weight,
            progress=clock.progress,
        )
    with clock.phase("evaluating"):
        predicted = _predict_test_rows(silo, averaged.weights)
        judged = _judge(silo, predicted, baseline=baseline, intervals=intervals)
    with clock.phase("saving"):
        _save(silo, averaged.weights, folder, endpoint.run)
        if judged.evidence is not None:
            save_test_scores(folder, spec, loaded.table, silo.rows[silo.parts.train :], predicted, silo.labels.classes)
            save_evidence(folder, judged.evidence)
    spent = None if silo.noise is None else silo.noise.epsilon(averaged.rounds, job.privacy.dp_delta)
    return RoleResult(
        role=spec.name,
        sizes={},
        intersection=None,
        protocol="none",
        n_train=silo.total_rows,
        n_test=sum(one.test for one in silo.counts.values()),
        key_holder="none",
        key_holder_reason=NO_KEY,
        rounds=averaged.rounds,
        converged=averaged.converged,
        losses=[loss * _loss_unit(silo.model) for loss in averaged.losses],
        warnings=[
            *loaded.table.warnings,
            *silo.warnings,
            *guards.warnings,
            *averaged.warnings,
            *([] if silo.noise is None else dp_notes(job, silo.noise, spent or 0.0, silo.parts.train)),
            *judged.warnings,
        ],
        seconds=clock.seconds,
        csv_rows=loaded.table.n_rows,
        features=silo.columns.features,
        joint=judged.metrics.get(JOINT),
        active_only=judged.metrics.get(ALONE),
        confidence=judged.confidence,
        comparison=judged.comparison,
        dp_epsilon=spent,
    )


def play_coordinator(endpoint: Endpoint, job: Job, report: Report) -> RoleResult:
    """Play the coordinator to its end: it takes part in the training alone."""
    clock = Clock(endpoint.name, report)
    with clock.phase("preparing"):
        _mark_prepared(endpoint)
    with clock.phase("training"):
        averaged = horizontal.coordinator(endpoint, job, clock.progress)
    with clock.phase("evaluating"):  # every silo judges its own rows
        pass
    return RoleResult(
        role=endpoint.name,
        sizes={},
        intersection=None,
        protocol="none",
        n_train=None,
        n_test=None,
        key_holder="none",
        key_holder_reason=NO_KEY,
        rounds=averaged.rounds,
        converged=averaged.converged,
        losses=list(averaged.losses),
        warnings=list(averaged.warnings),
        seconds=clock.seconds,
        left_out=list(averaged.left_out),
    )


def prepare(
    endpoint: Endpoint, job: Job, spec: PartySpec, table: PartyTable, guards: Guards, module: object = None
) -> Silo:
    """Split and encode a silo's rows as all silos do, and ask its policy, before anything of the training is sent.

    Raises
    ------
    DataError, ConfigError, PolicyError
    """
    siblings = siblings_of(endpoint, "silos")
    network = job.model == "splitnn"
    rows, parts = order_rows(job, spec.name, table)
    columns = encode_silo_columns(spec, table, rows, parts.train, siblings, scale_categories=not network)
    X, clipped = clip_cells(columns.X, columns.preprocessor.sources, spec.name) if network else (columns.X, [])
    labels = silo_labels([(table.labels or [])[row] for row in rows], parts, job.task, spec, siblings)
    counts = count_rows(endpoint, parts)
    total = sum(one.train for one in counts.values())
    noise = make_silo_noise(job, parts.train, total, endpoint.keeper)
    planned = None if noise is None else noise.epsilon(job.averaging.rounds, job.privacy.dp_delta)
    check_consent_to_averaging(job, spec, guards, columns=X.shape[1], rows=total, epsilon=planned)
    weights = None if table.weights is None else table.weights[rows[: parts.train]]
    return Silo(
        job=job,
        spec=spec,
        table=table,
        rows=rows,
        parts=parts,
        columns=columns,
        X=X,
        labels=labels,
        counts=counts,
        model=_make_model(job, spec.name, X[: parts.train], labels, weights, siblings, noise, module),
        noise=noise,
        module=module,
        warnings=(*columns.warnings, *clipped),
    )


def outputs_of(job: Job, labels: EncodedLabels) -> int:
    """Scores per row."""
    return len(labels.classes) if job.task == "multiclass" else 1


def _make_model(
    job: Job,
    name: str,
    X: Vector,
    labels: EncodedLabels,
    weights: Vector | None,
    siblings: Siblings,
    noise: SiloNoise | None,
    module: object,
) -> LocalGlm | LocalNetwork:
    """The silo's model, with labels scaled as all silos scale them."""
    y, relative, outputs = labels.values[: len(X)], relative_weights(weights, siblings), outputs_of(job, labels)
    if job.model != "splitnn":
        scale = agree_glm_scale(job, y, relative, outputs, siblings)
        return LocalGlm(job, name, X, scale.to_targets(y), relative, scale, noise)
    from vfl.local_network import agree_label_scale, make_local_network  # torch takes seconds to import

    label = agree_label_scale(job, y, relative, siblings)
    return make_local_network(job, name, X, y, relative, label, outputs, module=module, noise=noise)


def _mark_prepared(endpoint: Endpoint) -> None:
    """Let rounds be kept: they count on a first step, which elsewhere is the alignment."""
    if endpoint.keeper.aligned() is None:
        endpoint.keeper.save_aligned({}, {})


def _unfolded(model: LocalModel, weights: list[Vector]) -> list[Vector]:
    """Weights as they are kept: a linear model's in the label's unit."""
    return model.scale.unfold(weights) if isinstance(model, LocalGlm) else weights


def _predict_test_rows(silo: Silo, weights: list[Vector]) -> Vector:
    """Predictions of the silo's own test rows, of which there may be none."""
    X = silo.X[silo.parts.train :]
    if not isinstance(silo.model, LocalGlm):
        return silo.model.predict(weights, X)
    from vfl.horizontal_prediction import predict_linearly  # it reads modules that read this one

    coef, *intercept = silo.model.scale.unfold(weights)
    return predict_linearly(silo.job, coef, intercept[0] if intercept else np.zeros(silo.outputs), X)


def _loss_unit(model: LocalModel) -> float:
    """What losses of a linear model are told in: the label's unit."""
    return model.scale.deviation**2 if isinstance(model, LocalGlm) else 1.0


@dataclass(frozen=True, slots=True)
class _Judgement:
    """A silo's evaluation on its own test rows; empty without any."""

    evidence: Evidence | None = None
    metrics: dict[str, Metrics] = field(default_factory=dict)
    confidence: dict[str, Intervals] = field(default_factory=dict)
    comparison: dict[str, Comparison] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def _judge(silo: Silo, predicted: Vector, *, baseline: bool, intervals: bool) -> _Judgement:
    """Metrics on the silo's test rows, of the joint model and of its own rows' model, and how sure they are."""
    from vfl.metrics import evaluate  # scikit-learn takes seconds to import

    job, n, classes = silo.job, silo.parts.train, silo.labels.classes
    if not silo.parts.test:
        return _Judgement(warnings=(f"{silo.spec.name}: no test rows (split.test_fraction): no metrics",))
    models = {JOINT: predicted}
    if baseline:
        weights = None if silo.table.weights is None else silo.table.weights[silo.rows]
        own = SiloRows(silo.X, silo.labels.values, weights, n)
        models[ALONE] = fit_alone(job, own, classes, module=silo.module)(silo.X[n:])
    evidence = Evidence(job.task, tuple(classes), silo.labels.values[n:], models)
    metrics = {name: evaluate(evidence.task, evidence.y, scores, classes) for name, scores in models.items()}
    if not intervals or (classes and len(np.unique(evidence.y)) < 2):
        return _Judgement(evidence, metrics)
    return _Judgement(evidence, metrics, bootstrap_intervals(evidence, job.seed), compare(evidence, job.seed))


def _save(silo: Silo, weights: list[Vector], folder: Path, run: str) -> None:
    """Write the silo's shard, which is the whole joint model, and how its rows were split."""
    label = None
    if not isinstance(silo.model, LocalGlm):
        scale = silo.model.network.label
        label = (scale.mean, scale.deviation)
    save_horizontal_shard(
        folder,
        silo.job,
        silo.spec,
        silo.columns.preprocessor,
        silo.model.names,
        _unfolded(silo.model, weights),
        silo.labels.classes,
        label=label,
        own_module=silo.module is not None,
    )
    save_horizontal_run(folder, run, silo.job, silo.spec, silo.outputs, silo.X.shape[1])
    save_ids(folder, silo.spec, silo.table, silo.rows, silo.parts)
