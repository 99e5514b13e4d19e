"""Boosted trees in a run whose parties are made of silos: bin columns, train, score, save."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from parties.errors import ConfigError, DataError, LocalProtocolError
from parties.link import Endpoint
from vfl import boosting_silos
from vfl.boosting import ActiveFit, PassiveFit
from vfl.boosting_part import (
    LARGEST_LABEL,
    BinnedColumns,
    check_consent_to_trees,
    label_notes,
    labels_of,
    make_limits,
    named_importance,
    objective_of,
    own_part,
    plain_predictions,
    row_weights,
)
from vfl.boosting_silos_scoring import Held, score_as_labelled, score_as_passive
from vfl.exact_sums import exact_total, totals_over
from vfl.optim import Vector
from vfl.prepare import exchange_shapes_as_party
from vfl.siblings import Siblings
from vfl.silo_bins import bin_silo_columns
from vfl.silo_objective import spread
from vfl.terms import Integers, Terms
from vfl.trained import Aligned, Prepared, Progress, Trained
from vfl.tree_shard import TreeShard, save_tree_shard
from vfl.trees.objective import Objective
from vfl.trees.rounds import Labels


@dataclass(frozen=True)
class _Silo:
    """A silo's columns and rows, and with whom it shares what.

    Parameters
    ----------
    places : ndarray of shape (n,), int64
        Where its rows stand among all common ones.
    common : int
        How many those are.
    """

    columns: BinnedColumns
    places: Integers = field(repr=False)
    common: int
    siblings: Siblings

    def held(self, data: Aligned) -> Held:
        """The test rows."""
        fit = sum(data.told)
        codes, places = self.columns.codes[data.n_fit :], self.places[data.n_fit :] - fit
        return Held(self.columns.features, codes, places, self.common - fit)


def prepare(endpoint: Endpoint, data: Aligned) -> Prepared:
    """Bin the silo's columns as all silos of its party do, agree on terms, and check what it consents to."""
    silo = _bin(data)
    features = len(silo.columns.features)
    if data.labels is not None:
        _check_alike(data, silo)
        _check_labels(data, silo.siblings)
    outputs = len(data.labels.classes) if data.labels is not None and data.job.task == "multiclass" else 1
    terms = exchange_shapes_as_party(endpoint, data.job, data.spec, features, outputs, *data.told)
    check_consent_to_trees(terms, data.spec, data.guards)
    train = _train_labelled if data.labels is not None else _train_passive
    return Prepared(
        terms=terms, features=features, warnings=silo.columns.warnings, train=partial(train, data, terms, silo)
    )


def _bin(data: Aligned) -> _Silo:
    """Bins that all silos of the party share."""
    if data.siblings is None or data.owned is None or data.whole is None:
        raise LocalProtocolError("a party without silos is no part of this")
    settings, whole = data.job.boosting, data.whole
    columns = bin_silo_columns(
        data.spec,
        data.table,
        data.rows,
        data.n_train,
        data.siblings,
        max_bin=settings.max_bin,
        max_cat_to_onehot=settings.max_cat_to_onehot,
    )
    if not columns.features and data.spec.role == "passive":
        raise DataError(
            f"party '{data.spec.holder}' has no usable feature column, expected at least one that is not constant over "
            f"the {whole.train:,} training rows of all its silos"
        )
    if not columns.features and settings.first_tree_active_only:
        raise ConfigError(
            f"first_tree_active_only in [training], got true, expected false: party '{data.spec.holder}' has no usable "
            "feature column for a tree of its own"
        )
    return _Silo(columns, data.owned, whole.train + whole.validation + whole.test, data.siblings)


def _check_alike(data: Aligned, silo: _Silo) -> None:
    """The label holder's silos have the same lines where they grow the same trees by them."""
    signs = own_part(data.spec, silo.columns.features, silo.columns.codes).signs
    monotone = np.zeros(len(silo.columns.features), dtype=np.int64) if signs is None else signs
    own = np.array([*monotone, data.table.weights is not None], dtype=np.int64)
    sums, silos = silo.siblings.words("lines", np.concatenate([own, own * own])), len(silo.siblings.names)
    total, squares = sums[: len(own)], sums[len(own) :]
    differ = np.flatnonzero(total * total != silos * squares)
    if len(differ):
        line = "sample_weight" if differ[-1] == len(own) - 1 else "monotone_constraints"
        raise DataError(
            f"party '{data.spec.holder}': {line} differs between its silos, expected the same line in all of them; "
            "correct it"
        )


def _check_labels(data: Aligned, siblings: Siblings) -> None:
    """Labels that trees can learn something from; classes were looked at when they were encoded."""
    if data.job.task not in ("regression", "count"):
        return
    y = np.asarray(data.labels_to_fit, dtype=np.float64)
    if len(y) and not np.abs(y).max() <= LARGEST_LABEL:
        raise DataError(
            f"party '{data.spec.name}': labels beyond {LARGEST_LABEL:g}, expected numbers whose squares can be added "
            "up; rescale the label"
        )
    own = y[: data.n_train]
    total, squares = totals_over(siblings, "labels", [exact_total(own), _squares(own)])
    rows = data.told[0]
    if rows * squares << 1074 == total * total:
        raise DataError(
            f"party '{data.spec.holder}': all labels of the {rows:,} training rows are the same, expected at least two "
            "values; there is nothing to learn"
        )


def _squares(y: Vector) -> int:
    """The sum of squares, exact: each as its rounded value and the rest (T. Dekker, 1971)."""
    shifted = y * float((1 << 27) + 1)
    high = shifted - (shifted - y)
    low, rounded = y - high, y * y
    return exact_total(np.concatenate([rounded, ((high * high - rounded) + 2 * high * low) + low * low]))


def _train_passive(data: Aligned, terms: Terms, silo: _Silo, endpoint: Endpoint, progress: Progress) -> Trained:
    """Play a silo of a passive holder."""
    tell, columns = data.spec.policy.feature_importance, silo.columns
    fit = boosting_silos.passive(
        endpoint,
        terms,
        columns.features,
        columns.codes[: data.n_fit],
        silo.places[: data.n_fit],
        make_limits(data.job),
        silo.siblings,
        tell_columns=tell,
    )
    names = columns.features if tell else None
    own = () if fit.importance is None else named_importance(data.spec.holder, names, fit.importance)
    shard = TreeShard(columns.binning, fit.splits, importance=own)
    return Trained(
        rounds=fit.trees,
        converged=True,
        losses=(),
        warnings=(),
        score=partial(_help_score, data, terms, silo, fit),
        alone=lambda: None,
        save=lambda folder: save_tree_shard(Path(folder), terms, data.spec, shard),
        importance=own,
    )


def _help_score(data: Aligned, terms: Terms, silo: _Silo, fit: PassiveFit, endpoint: Endpoint) -> None:
    held = silo.held(data)
    if held.rows:
        score_as_passive(endpoint, terms, fit.splits, held, data.guards, data.spec.policy)


def _train_labelled(data: Aligned, terms: Terms, silo: _Silo, endpoint: Endpoint, progress: Progress) -> Trained:
    """Play a silo of the label holder."""
    columns, places = silo.columns, silo.places[: data.n_fit]
    objective = objective_of(data.job, terms.outputs)
    own = own_part(data.spec, columns.features, columns.codes[: data.n_fit])
    labels = _labels_among_all(data, terms, places, endpoint)
    fit = boosting_silos.labelled(endpoint, terms, own, places, objective, labels, silo.siblings, progress)
    importance = tuple(
        line
        for holder, figures in fit.importance.items()
        for line in named_importance(holder, columns.features if holder == data.spec.holder else None, figures)
    )
    shard = TreeShard(
        columns.binning, fit.splits, fit.boosted.start, fit.boosted.trees, tuple(data.classes), importance
    )
    return Trained(
        rounds=fit.boosted.rounds,
        converged=True,
        losses=fit.boosted.losses,
        validation_losses=fit.boosted.validation_losses,
        warnings=(*label_notes(data), *fit.boosted.warnings),
        score=partial(_score, data, terms, silo, fit, objective),
        alone=partial(_alone, data, silo, terms.outputs),
        save=lambda folder: save_tree_shard(Path(folder), terms, data.spec, shard),
        importance=importance,
    )


def _labels_among_all(data: Aligned, terms: Terms, places: Integers, endpoint: Endpoint) -> Labels:
    """The own labels and weights at their places among all training and validation rows."""
    rows, weights = sum(data.told), row_weights(data)
    y = spread(labels_of(data, terms, endpoint.keeper), places, rows)
    if weights is None:
        return Labels(y, None, data.told[0])
    among = np.ones(rows)
    among[places] = weights
    return Labels(y, among, data.told[0])


def _score(
    data: Aligned, terms: Terms, silo: _Silo, fit: ActiveFit, objective: Objective, endpoint: Endpoint
) -> Vector | None:
    """Joint predictions of the silo's own test rows; None where no row is held out."""
    held, boosted = silo.held(data), fit.boosted
    if not held.rows:
        return None
    scores = score_as_labelled(endpoint, terms, boosted.trees, fit.splits, boosted.start, held, silo.siblings)
    return objective.predict(scores)


def _alone(data: Aligned, silo: _Silo, outputs: int) -> Vector | None:
    """Predictions of the test rows by trees on the label holder's own columns, where it has one silo.

    Several could only grow such trees together, in another run.
    """
    if silo.siblings.others:
        return None
    return plain_predictions(data, [own_part(data.spec, silo.columns.features, silo.columns.codes)], outputs)
