"""The baseline that no federation can have: the same model on all parties' columns side by side.

Only where one machine has every CSV anyway, to show what the federation gives away (nothing, up to fixed point).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from parties.data import PartyTable, read_party
from parties.policy import Guards
from psi.align import row_order
from psi.ids import PreparedIds
from vfl.baselines import baseline_metrics
from vfl.boosting_part import make_limits, own_part, plain_metrics
from vfl.events import Metrics
from vfl.job import Scenario
from vfl.optim import Vector
from vfl.prepare import read_ids, split_rows
from vfl.session import aligned_labels
from vfl.shard import load_shard
from vfl.terms import Integers
from vfl.trained import Aligned
from vfl.tree_shard import load_tree_shard
from vfl.trees.grow import PlainPart


def pooled_metrics(scenario: Scenario, folder: Path, tables: Mapping[str, PartyTable] | None = None) -> Metrics:
    """The same model on all parties' columns side by side: only where one machine has every CSV.

    It takes exactly the columns that the joint run used, encoded as the parties' shards in ``folder`` say.
    """
    job = scenario.job
    loaded = {spec.name: tables[spec.name] if tables else read_party(spec) for spec in scenario.parties}
    rows = plain_alignment({s.name: read_ids(job, s, loaded[s.name]) for s in scenario.parties}, job.seed)
    spec = next(spec for spec in scenario.parties if spec.role == "active")
    table, order = loaded[spec.name], rows[spec.name]
    parts = split_rows(job, len(order))
    labels = aligned_labels(job, spec, table, order, parts)
    data = Aligned(
        job, spec, table, order, labels, Guards(enforce=False, small_data=True), parts.train, parts.validation
    )
    if job.model == "boosting":
        return _pooled_trees(scenario, folder, data, loaded, rows)
    return _pooled_glm(folder, data, loaded, rows)


Tables = Mapping[str, PartyTable]


def _pooled_glm(folder: Path, data: Aligned, loaded: Tables, rows: Mapping[str, Integers]) -> Metrics:
    """Metrics of a GLM on all columns side by side."""
    X = np.hstack([_encoded(folder / name, loaded[name], rows[name]) for name in loaded])
    training = data.job.training
    return baseline_metrics(
        data.job.model,
        X[: data.n_train],
        data.labels_to_fit,
        X[data.n_fit :],
        data.labels_to_judge,
        classes=data.classes,
        l2=training.l2,
        fit_intercept=training.fit_intercept,
        weights=data.weights,
    )


def _pooled_trees(
    scenario: Scenario, folder: Path, data: Aligned, loaded: Tables, rows: Mapping[str, Integers]
) -> Metrics:
    """Metrics of trees on all columns side by side: the reference of the joint run, in the clear."""
    job = scenario.job
    parts: list[PlainPart] = []
    for name in (job.active, *job.passive):
        binning = load_tree_shard(folder / name).binning
        codes, _ = binning.transform(loaded[name].features.iloc[rows[name]].reset_index(drop=True))
        first = sum(len(part.features) for part in parts)
        if name == job.active:
            parts.append(own_part(data.spec, binning.features, codes))
        else:
            parts.append(PlainPart(binning.features, codes, first, make_limits(job)))
    return plain_metrics(data, parts, len(data.classes) if job.task == "multiclass" else 1)


def plain_alignment(ids: dict[str, PreparedIds], seed: int) -> dict[str, Integers]:
    """CSV rows of the common ids per party, in the agreed order, without a protocol."""
    position = {name: dict(zip(prepared.ids, prepared.rows.tolist(), strict=True)) for name, prepared in ids.items()}
    common = sorted(set.intersection(*(set(rows) for rows in position.values())))
    order = row_order(common, seed)
    return {name: np.array([rows[common[i]] for i in order], dtype=np.int64) for name, rows in position.items()}


def _encoded(folder: Path, table: PartyTable, rows: Integers) -> Vector:
    shard = load_shard(folder)
    X, _ = shard.preprocessor.transform(table.features.iloc[rows].reset_index(drop=True))
    return X[:, shard.kept]
