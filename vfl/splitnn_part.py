"""A split neural network in a run: encode columns, train in the mode that the job says, score, compare, save."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from parties.checkpoint import Keeper
from parties.errors import DataError
from parties.link import Endpoint
from vfl import split_learning, splitnn, splitnn_scoring
from vfl.drawn_labels import drawn_once
from vfl.epochs import Rows
from vfl.label_dp import note, randomise_labels
from vfl.network_columns import NetworkColumns, encode_for_network, to_fixed
from vfl.network_consent import check_consent_to_network
from vfl.optim import Vector
from vfl.prepare import exchange_shapes_as_party
from vfl.splitnn_shard import SplitShard, save_split_shard
from vfl.terms import Terms
from vfl.trained import Aligned, Prepared, Progress, Trained


def prepare(endpoint: Endpoint, data: Aligned) -> Prepared:
    """Encode the party's columns, agree on terms, and check what it consents to."""
    columns = encode_for_network(data.spec, data.table, data.rows, data.n_train)
    if data.labels is not None:
        check_labels(data)
    outputs = len(data.classes) if data.job.task == "multiclass" and data.labels is not None else 1
    terms = exchange_shapes_as_party(endpoint, data.job, data.spec, columns.X.shape[1], outputs, *data.told)
    check_consent_to_network(terms, data.spec, data.guards)
    if data.labels is not None:
        train = _train_active
    elif data.job.splitnn.mode == "split":
        train = _train_bottom
    else:
        train = _train_share
    return Prepared(
        terms=terms,
        features=columns.features,
        warnings=columns.warnings,
        train=partial(train, data, terms, columns),
    )


def check_labels(data: Aligned) -> None:
    """Labels that a network can learn something from."""
    y = data.labels_to_fit[: data.n_train]
    if len(np.unique(y)) < 2:
        raise DataError(
            f"party '{data.spec.name}': all labels of the {data.n_train:,} training rows are the same, expected at "
            "least two values; there is nothing to learn"
        )


def _train_share(
    data: Aligned, terms: Terms, columns: NetworkColumns, endpoint: Endpoint, progress: Progress
) -> Trained:
    """Play a passive party in mode source-layer."""
    X = to_fixed(columns.X)
    fit = splitnn.passive(endpoint, terms, X[: data.n_fit], data.guards)
    shard = SplitShard(columns.preprocessor, share=fit.share)

    def score(endpoint: Endpoint) -> None:
        if data.n_test:
            test = np.ascontiguousarray(X[data.n_fit :])
            splitnn_scoring.score_as_passive(endpoint, terms, fit.share, test, data.guards, data.spec.policy)

    return _trained_passive(data, terms, shard, fit.epochs, score)


def _train_bottom(
    data: Aligned, terms: Terms, columns: NetworkColumns, endpoint: Endpoint, progress: Progress
) -> Trained:
    """Play a passive party in mode split."""
    from vfl.bottom import make_bottom  # torch takes seconds to import, and only this mode needs it here

    bottom = make_bottom(data.job, data.spec.name, columns.X[: data.n_train], module=data.module)
    epochs = split_learning.passive(endpoint, terms, bottom, columns.X[: data.n_fit])
    shard = SplitShard(columns.preprocessor, network=bottom.weights(), own_module=data.module is not None)

    def score(endpoint: Endpoint) -> None:
        if data.n_test:
            test = columns.X[data.n_fit :]
            split_learning.score_as_passive(endpoint, terms, bottom, test, data.guards, data.spec.policy)

    return _trained_passive(data, terms, shard, epochs, score)


def _trained_passive(
    data: Aligned, terms: Terms, shard: SplitShard, epochs: int, score: Callable[[Endpoint], None]
) -> Trained:
    return Trained(
        rounds=epochs,
        converged=True,
        losses=(),
        warnings=(),
        score=score,
        alone=lambda: None,
        save=lambda folder: save_split_shard(Path(folder), terms, data.spec, shard),
    )


def _train_active(
    data: Aligned, terms: Terms, columns: NetworkColumns, endpoint: Endpoint, progress: Progress
) -> Trained:
    """Play the active party."""
    from vfl.network import make_network  # torch takes seconds to import, and few roles need it

    rows = rows_of(data, terms, columns, endpoint.keeper)
    network = make_network(
        data.job,
        columns.X.shape[1],
        terms.outputs,
        rows.y[: data.n_train],
        weights=None if rows.weights is None else rows.weights[: data.n_train],
        module=data.module,
        fan_in=sum(terms.columns.values()),
    )
    fit: splitnn.ActiveFit | split_learning.ActiveFit
    if data.job.splitnn.mode == "split":
        truth = data.labels_to_fit[: data.n_train]
        fit = split_learning.active(endpoint, terms, network, rows, progress, labels=truth)
        shares, outputs = {}, split_learning.score_as_active
        inferred, epsilon = fit.label_inference, fit.gradient_epsilon
    else:
        fit = splitnn.active(endpoint, terms, network, rows, data.guards, progress)
        shares, outputs = fit.shares, partial(splitnn_scoring.score_as_active, shares=fit.shares)
        inferred, epsilon = (), None
    course = fit.course
    shard = SplitShard(
        columns.preprocessor,
        classes=tuple(data.classes),
        shares=shares,
        network=network.weights(),
        typical=course.typical,
        own_module=data.module is not None,
    )

    def score(endpoint: Endpoint) -> Vector | None:
        if not data.n_test:
            return None
        return network.predict(outputs(endpoint, terms, rows=data.n_test), columns.X[data.n_fit :])

    return Trained(
        rounds=course.rounds,
        converged=True,
        losses=course.losses,
        validation_losses=course.validation_losses,
        warnings=(*_notes(data), *course.warnings, *fit.warnings),
        score=score,
        alone=partial(_alone, data, columns, terms.outputs),
        save=lambda folder: save_split_shard(Path(folder), terms, data.spec, shard),
        label_inference=inferred,
        gradient_epsilon=epsilon,
    )


def rows_of(data: Aligned, terms: Terms, columns: NetworkColumns, keeper: Keeper) -> Rows:
    """The active party's columns and labels to train on: randomised where the job says so, once for a run."""
    y, epsilon = data.labels_to_fit, data.job.privacy.label_dp_epsilon
    if epsilon is not None:
        y = drawn_once(keeper, y, partial(randomise_labels, classes=max(2, terms.outputs), epsilon=epsilon))
    return Rows(columns.X[: data.n_fit], y, data.weights, data.n_train)


def _notes(data: Aligned) -> tuple[str, ...]:
    """What the report says of the labels."""
    epsilon = data.job.privacy.label_dp_epsilon
    return () if epsilon is None else (note(epsilon),)


def _alone(data: Aligned, columns: NetworkColumns, outputs: int) -> Vector:
    """Predictions of the test rows by the same network on the active party's columns alone."""
    from vfl.plain_network import predict_alone  # torch, as above

    return predict_alone(data, columns, outputs)
