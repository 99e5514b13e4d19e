"""What a silo brings to a horizontal training: its rows, cut and encoded; and the models beside the joint one.

A silo's rows are split by themselves: put into an order drawn from the job's seed and the silo's name, the last ones
are held out. Nothing is told of that but the counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from parties.columns import MISSING, encode_known_labels
from parties.data import PartyTable, read_party
from vfl.horizontal_shard import load_horizontal_shard
from vfl.job import Job, Scenario
from vfl.network_columns import LARGEST, encode_new
from vfl.optim import Vector
from vfl.parts import Parts
from vfl.prepare import split_rows
from vfl.terms import Integers
from vfl.torch_parts import seed_of
from vfl.trained import Labels

Predict = Callable[[Vector], Vector]


@dataclass(frozen=True)
class SiloRows:
    """A silo's rows as the joint training took them: training rows first, then the test rows.

    Parameters
    ----------
    X : ndarray of shape (n, d), float64
        Encoded as all silos did.
    y : ndarray of shape (n,)
    weights : ndarray of shape (n,), or None
        Sample weights of any size.
    """

    X: Vector = field(repr=False)
    y: Labels = field(repr=False)
    weights: Vector | None = field(repr=False)
    n_train: int

    @property
    def n_fit(self) -> int:
        """Rows that are not held out."""
        return self.n_train


def order_rows(job: Job, name: str, table: PartyTable) -> tuple[Integers, Parts]:
    """A silo's labelled rows in their own order, and how many are for what.

    Raises
    ------
    DataError
        No training row is left.
    """
    labels = table.labels or []
    labelled = np.flatnonzero([label not in MISSING for label in labels]).astype(np.int64)
    drawn = np.random.default_rng(seed_of(job.seed, "silo rows", name)).permutation(len(labelled))
    return labelled[drawn], split_rows(job, len(labelled))


def gather(scenario: Scenario, folder: Path, tables: Mapping[str, PartyTable] | None = None) -> dict[str, SiloRows]:
    """Rows of every silo that has finished, where one machine has all CSVs.

    Parameters
    ----------
    folder : Path
        The run's directory, which has the silos' own.
    tables : mapping of silo to PartyTable, optional
        By default the CSVs are read.
    """
    found = {}
    for spec in scenario.parties:
        if not (folder / spec.name / "model.json").exists():
            continue
        shard = load_horizontal_shard(folder / spec.name)
        table = tables[spec.name] if tables else read_party(spec)
        rows, parts = order_rows(scenario.job, spec.name, table)
        frame = table.features.iloc[rows].reset_index(drop=True)
        if scenario.job.model == "splitnn":
            X, _ = encode_new(shard.preprocessor, frame, new_data=False)
        else:
            X, _ = shard.preprocessor.transform(frame)
        labels = [(table.labels or [])[row] for row in rows]
        y = encode_known_labels(labels, scenario.job.task, list(shard.classes), spec.name)
        found[spec.name] = SiloRows(X, y, None if table.weights is None else table.weights[rows], parts.train)
    return found


def fit_alone(job: Job, rows: SiloRows, classes: Sequence[str], *, module: object = None) -> Predict:
    """Fit the job's model on one silo's own training rows; see `fit_pooled`."""
    return fit_pooled(job, [rows], classes, module=module)


def fit_pooled(job: Job, silos: Sequence[SiloRows], classes: Sequence[str], *, module: object = None) -> Predict:
    """Fit the job's model on the training rows of some silos in one place, without noise.

    A linear model is fitted to the optimum, a network by as many passes over the rows as the joint training makes.

    Parameters
    ----------
    silos : sequence of SiloRows
        In job order.
    classes : sequence of str
        In code order; empty for numbers.
    module : torch.nn.Module or None
        The user's own layers of a network.

    Returns
    -------
    callable
        Predictions of encoded rows.
    """
    X = np.vstack([rows.X[: rows.n_train] for rows in silos])
    y = np.concatenate([rows.y[: rows.n_train] for rows in silos])
    weighted = [rows.weights[: rows.n_train] for rows in silos if rows.weights is not None]
    weights = np.concatenate(weighted) if len(weighted) == len(silos) else None
    outputs = len(classes) if job.task == "multiclass" else 1
    if weights is not None and not weights.any():  # one silo's may all be zero
        weights = None
    if len(np.unique(y)) < 2:
        return _always(job, y[0], outputs)
    if job.model == "splitnn":
        return _fit_network(job, X, y, weights, outputs, module)
    from vfl.baselines import fit_glm, predict  # scikit-learn takes seconds to import

    lines = job.training
    coef, intercept = fit_glm(job.model, X, y, lines.l2, lines.fit_intercept, weights, outputs)
    return lambda rows: predict(job.model, rows, coef, intercept)


def passes(job: Job, rows: int) -> int:
    """Passes over the rows that a joint training of a network makes, at least one."""
    lines = job.splitnn
    if lines.aggregation != "fedsgd":
        return lines.rounds * lines.local_epochs
    if job.privacy.dp == "none":
        return lines.epochs
    return max(1, round(lines.rounds * min(1.0, lines.batch_size * len(job.parties) / rows)))


def clip_cells(X: Vector, sources: Sequence[str], party: str) -> tuple[Vector, list[str]]:
    """Cells as a network takes them, and a warning of each column that had others."""
    outside = (np.abs(X) > LARGEST).sum(axis=0).tolist()
    warnings = [
        f'{party}: column "{name}": {cells:,} cells lie over {LARGEST} standard deviations off the mean: clipped'
        for name, cells in zip(sources, outside, strict=True)
        if cells
    ]
    return np.ascontiguousarray(np.clip(X, -LARGEST, LARGEST)), warnings


def _always(job: Job, label: np.float64 | np.int64, outputs: int) -> Predict:
    """Where all labels are the same, that one."""
    certain = np.eye(outputs)[int(label)] if job.task == "multiclass" else np.float64(label)
    return lambda rows: np.broadcast_to(certain, (len(rows), *certain.shape)).astype(np.float64)


def _fit_network(job: Job, X: Vector, y: Labels, weights: Vector | None, outputs: int, module: object) -> Predict:
    from vfl.local_models import InOnePlace, relative_weights
    from vfl.local_network import agree_label_scale, make_local_network  # torch takes seconds to import

    relative = relative_weights(weights, InOnePlace())
    scale = agree_label_scale(job, y, relative, InOnePlace())
    network = make_local_network(job, "pooled", X, y, relative, scale, outputs, module=module)
    fitted = network.fit(passes(job, len(y)))
    return lambda rows: network.predict(fitted, rows)
