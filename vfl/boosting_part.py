"""Boosted trees in a run: bin columns, train, score, compare, save."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from parties.checkpoint import Keeper
from parties.data import PartyTable
from parties.errors import ConfigError, DataError
from parties.link import Endpoint
from parties.policy import Guards, Verdict, effective_limits, gradient_sampling, tree_limits
from parties.spec import PartySpec
from vfl import boosting, boosting_one_sided, boosting_scoring_one_sided
from vfl.boosting import ActiveFit, PassiveFit
from vfl.boosting_scoring import score_as_active, score_as_passive
from vfl.drawn_labels import drawn_once
from vfl.events import FeatureImportance
from vfl.importance import Importance
from vfl.job import Job
from vfl.label_dp import note, randomise_labels
from vfl.optim import Vector
from vfl.prepare import check_key_holder_consent, exchange_shapes_as_party
from vfl.terms import Integers, Terms
from vfl.trained import Aligned, Prepared, Progress, Trained
from vfl.tree_shard import TreeShard, save_tree_shard
from vfl.trees.bins import Binning, Codes, Feature, fit_binning
from vfl.trees.forest import predict_plain
from vfl.trees.grow import Limits, PlainPart
from vfl.trees.objective import Objective, make_objective
from vfl.trees.rounds import Labels, boost_plainly
from vfl.trees.splits import Floats

LARGEST_LABEL = 1e100
"""Of a regression: squares of labels can be added up."""


@dataclass(frozen=True, slots=True)
class BinnedColumns:
    """A party's columns of the aligned rows, in bins; ``codes`` of shape (n, d), uint16."""

    binning: Binning
    codes: Codes = field(repr=False)
    warnings: tuple[str, ...]

    @property
    def features(self) -> tuple[Feature, ...]:
        """The columns in use."""
        return self.binning.features


def bin_columns(job: Job, spec: PartySpec, table: PartyTable, rows: Integers, n_train: int) -> BinnedColumns:
    """Bin the aligned rows; everything is learnt from the training rows, the first ``n_train``.

    Raises
    ------
    DataError
        If a passive party has no usable column.
    """
    frame = table.features.iloc[rows].reset_index(drop=True)
    binning = fit_binning(
        frame.iloc[:n_train],
        table.kinds,
        max_bin=job.boosting.max_bin,
        max_cat_to_onehot=job.boosting.max_cat_to_onehot,
        unknown_category=spec.unknown_category,
    )
    if not binning.features and spec.role == "passive":
        raise DataError(
            f"party '{spec.name}' has no usable feature column, expected at least one that is not constant over the "
            f"{n_train} training rows"
        )
    if not binning.features and job.boosting.first_tree_active_only:
        raise ConfigError(
            f"first_tree_active_only in [training], got true, expected false: party '{spec.name}' has no usable "
            "feature column for a tree of its own"
        )
    codes, unseen = binning.transform(frame)
    warnings = tuple(f"{spec.name}: {line}" for line in (*binning.warnings, *unseen))
    return BinnedColumns(binning, codes, warnings)


def make_limits(job: Job) -> Limits:
    """What passive parties' nodes and candidates have to keep to in this run."""
    settings = job.boosting
    return Limits(*effective_limits(settings.min_node_rows, settings.min_bin_gap, job.privacy.enforce))


def check_consent_to_trees(terms: Terms, spec: PartySpec, guards: Guards) -> None:
    """Guards of boosting: rows of nodes and between candidates, GOSS, classes that fit a ciphertext."""
    job = terms.job
    check_key_holder_consent(terms, spec, guards)
    boosting.plan_gradients(job.privacy.key_bits, terms)
    if spec.role == "passive":
        for verdict in _judge_limits(job, spec):
            guards.heed(verdict)
    elif job.boosting.top_rate is not None and not job.alignment.one_sided:
        guards.heed(gradient_sampling(party=spec.name, consent=spec.policy.gradient_sampling))


def _judge_limits(job: Job, spec: PartySpec) -> Iterator[Verdict]:
    """What a passive party says to the limits that would hold between companies, and to those that hold here."""
    settings = job.boosting
    rows, gap = effective_limits(settings.min_node_rows, settings.min_bin_gap, enforce=True)
    yield from tree_limits(spec.policy, party=spec.name, min_node_rows=rows, min_bin_gap=gap)
    here = make_limits(job)
    if (here.min_node_rows, here.min_bin_gap) != (rows, gap):
        because = (
            f"splits nodes of {_at_least(here.min_node_rows)} on candidates {_at_least(here.min_bin_gap)} apart; "
            f"between companies training.min_node_rows = {rows} and training.min_bin_gap = {gap} would hold, and the "
            "trees would be others (--strict shows them)"
        )
        yield Verdict("node limits", spec.name, "warn", because)


def _at_least(rows: int) -> str:
    return f"{rows} rows or more" if rows > 1 else "any number of rows"


def prepare(endpoint: Endpoint, data: Aligned) -> Prepared:
    """Bin the party's columns, agree on terms, and check what it consents to."""
    columns = bin_columns(data.job, data.spec, data.table, data.rows, data.n_train)
    if data.labels is not None:
        check_labels(data)
    outputs = len(data.labels.classes) if data.labels is not None and data.job.task == "multiclass" else 1
    terms = exchange_shapes_as_party(endpoint, data.job, data.spec, len(columns.features), outputs, *data.told)
    check_consent_to_trees(terms, data.spec, data.guards)
    train = _train_active if data.labels is not None else _train_passive
    return Prepared(
        terms=terms,
        features=len(columns.features),
        warnings=columns.warnings,
        train=partial(train, data, terms, columns),
    )


def check_labels(data: Aligned) -> None:
    """Labels that trees can learn something from."""
    y = data.labels_to_fit[: data.n_train]
    if len(np.unique(y)) < 2:
        raise DataError(
            f"party '{data.spec.name}': all labels of the {data.n_train:,} training rows are the same, expected at "
            "least two values; there is nothing to learn"
        )
    if data.job.task == "regression" and not np.abs(y).max() <= LARGEST_LABEL:
        raise DataError(
            f"party '{data.spec.name}': labels beyond {LARGEST_LABEL:g}, expected numbers whose squares can be added "
            "up; rescale the label"
        )


def _train_passive(
    data: Aligned, terms: Terms, columns: BinnedColumns, endpoint: Endpoint, progress: Progress
) -> Trained:
    """Play a passive party."""
    tell = data.spec.policy.feature_importance
    play = boosting_one_sided.passive if data.listed else boosting.passive
    codes, limits = columns.codes[: data.n_fit], make_limits(data.job)
    fit = play(endpoint, terms, columns.features, codes, limits, tell_columns=tell)
    names = columns.features if tell else None
    own = () if fit.importance is None else named_importance(data.spec.name, names, fit.importance)
    return Trained(
        rounds=fit.trees,
        converged=True,
        losses=(),
        warnings=(),
        score=partial(_help_score, data, terms, columns, fit),
        alone=lambda: None,
        save=lambda folder: save_tree_shard(
            Path(folder), terms, data.spec, TreeShard(columns.binning, fit.splits, importance=own)
        ),
        importance=own,
    )


def _help_score(data: Aligned, terms: Terms, columns: BinnedColumns, fit: PassiveFit, endpoint: Endpoint) -> None:
    if data.listed:
        if terms.job.split.test_fraction:
            score = boosting_scoring_one_sided.score_as_passive
            score(endpoint, terms, fit.splits, columns.features, columns.codes, data.guards, data.spec.policy)
        return
    codes = columns.codes[data.n_fit :]
    score_as_passive(endpoint, terms, fit.splits, columns.features, codes, data.guards, data.spec.policy)


def _train_active(
    data: Aligned, terms: Terms, columns: BinnedColumns, endpoint: Endpoint, progress: Progress
) -> Trained:
    """Play the active party."""
    objective = objective_of(data.job, terms.outputs)
    own = own_part(data.spec, columns.features, columns.codes[: data.n_fit])
    labels = Labels(labels_of(data, terms, endpoint.keeper), row_weights(data), data.n_train)
    if data.places is None:
        fit = boosting.active(endpoint, terms, own, objective, labels, progress)
    else:
        places, limits = data.places[: data.n_fit], make_limits(data.job)
        fit = boosting_one_sided.active(endpoint, terms, own, places, objective, labels, limits, progress)
    importance = [
        line
        for name, figures in fit.importance.items()
        for line in named_importance(name, columns.features if name == data.spec.name else None, figures)
    ]
    classes = data.labels.classes if data.labels is not None else []
    shard = TreeShard(
        columns.binning, fit.splits, fit.boosted.start, fit.boosted.trees, tuple(classes), tuple(importance)
    )
    return Trained(
        rounds=fit.boosted.rounds,
        converged=True,
        losses=fit.boosted.losses,
        validation_losses=fit.boosted.validation_losses,
        warnings=(*label_notes(data), *fit.boosted.warnings),
        score=partial(_score, data, terms, columns, fit, objective),
        alone=partial(_alone, data, columns, terms.outputs),
        save=lambda folder: save_tree_shard(Path(folder), terms, data.spec, shard),
        importance=tuple(importance),
    )


def objective_of(job: Job, outputs: int) -> Objective:
    """The job's objective."""
    return make_objective(job.task, outputs, job.boosting.max_delta_step)


def own_part(spec: PartySpec, features: Sequence[Feature], codes: Codes) -> PlainPart:
    """The active party's own columns, with its monotone constraints."""
    asked = {unicodedata.normalize("NFC", name): sign for name, sign in spec.monotone_constraints.items()}
    signs = np.array([asked.get(feature.name, 0) for feature in features], dtype=np.int64)
    return PlainPart(features, codes, signs=signs if signs.any() else None)


def label_notes(data: Aligned) -> tuple[str, ...]:
    """What the report says of the labels."""
    epsilon = data.job.privacy.label_dp_epsilon
    return () if epsilon is None else (note(epsilon),)


def labels_of(data: Aligned, terms: Terms, keeper: Keeper) -> Floats | Integers:
    """The labels to train on: randomised where the job says so, once for a run; those of the validation part too."""
    y, epsilon = data.labels_to_fit, data.job.privacy.label_dp_epsilon
    if epsilon is None:
        return y
    return drawn_once(keeper, y, partial(randomise_labels, classes=max(2, terms.outputs), epsilon=epsilon))


def row_weights(data: Aligned) -> Vector | None:
    """Sample weights, times ``scale_pos_weight`` for positive rows."""
    factor = data.job.boosting.scale_pos_weight
    if factor == 1:
        return data.weights
    positive = np.where(data.labels_to_fit == 1, factor, 1.0)
    return positive if data.weights is None else data.weights * positive


def _score(
    data: Aligned, terms: Terms, columns: BinnedColumns, fit: ActiveFit, objective: Objective, endpoint: Endpoint
) -> Vector | None:
    """Joint predictions of the test rows."""
    codes = columns.codes[data.n_fit :]
    if data.places is None:
        scores = score_as_active(endpoint, terms, fit, columns.features, codes)
    elif data.job.split.test_fraction:
        score, places = boosting_scoring_one_sided.score_as_active, data.places[data.n_fit :]
        scores = score(endpoint, terms, fit, columns.features, codes, places, data.listed)
    else:
        return None
    return objective.predict(scores) if data.n_test else None


def _alone(data: Aligned, columns: BinnedColumns, outputs: int) -> Vector:
    """Predictions of the test rows by trees on the active party's own columns."""
    part = own_part(data.spec, columns.features, columns.codes)
    return plain_predictions(data, [part], outputs)


def plain_predictions(data: Aligned, parts: Sequence[PlainPart], outputs: int) -> Vector:
    """Predictions of the test rows by the same trees grown on columns in one place; without columns the mean.

    ``parts`` hold the bins of all aligned rows, the active party's first.
    """
    objective = objective_of(data.job, outputs)
    fitted = [replace(part, codes=part.codes[: data.n_fit], splits=[], picked={}) for part in parts]
    labels = Labels(data.labels_to_fit, row_weights(data), data.n_train)
    if any(part.features for part in parts):
        boosted = boost_plainly(objective, labels, data.job.boosting, data.job.seed, fitted)
        test = [(part.features, part.codes[data.n_fit :]) for part in parts]
        scores = predict_plain(boosted.trees, [part.splits for part in fitted], test, boosted.start)
    else:
        start = objective.start(labels.y[: data.n_train], labels.weights, None)
        scores = np.tile(start, (data.n_test, 1))
    return objective.predict(scores)


def named_importance(
    party: str, features: Sequence[Feature] | None, importance: Importance
) -> tuple[FeatureImportance, ...]:
    """Lines of the report: one's own columns by name, others' by number."""
    count = len(importance.gain)
    if features is not None:
        names = [feature.name for feature in features]
    elif count == 1:
        names = ["all features"]
    else:
        names = [f"feature {number}" for number in range(1, count + 1)]
    lines = zip(names, importance.gain.tolist(), importance.cover.tolist(), importance.count.tolist(), strict=True)
    return tuple(FeatureImportance(party, name, gain, cover, int(splits)) for name, gain, cover, splits in lines)
