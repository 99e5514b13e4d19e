"""The baseline that no federation can have: the same model on all parties' columns side by side.

Only where one machine has every CSV anyway, to show what the federation gives away (nothing, up to fixed point).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from parties.columns import encode_labels
from parties.data import PartyTable, read_party
from psi.align import row_order
from psi.ids import PreparedIds
from vfl.baselines import baseline_metrics
from vfl.events import Metrics
from vfl.glm import Integers
from vfl.job import Scenario
from vfl.optim import Vector
from vfl.prepare import read_ids
from vfl.shard import load_shard


def pooled_metrics(
    scenario: Scenario, folder: Path, n_train: int, tables: Mapping[str, PartyTable] | None = None
) -> Metrics:
    """The same model on all parties' columns side by side: only where one machine has every CSV.

    It takes exactly the columns that the joint run used, encoded as the parties' shards in ``folder`` say.
    """
    job = scenario.job
    loaded = {spec.name: tables[spec.name] if tables else read_party(spec) for spec in scenario.parties}
    rows = plain_alignment({s.name: read_ids(job, s, loaded[s.name]) for s in scenario.parties}, job.seed)
    X = np.hstack([_encoded(folder / name, loaded[name], rows[name]) for name in loaded])
    spec = next(spec for spec in scenario.parties if spec.role == "active")
    table, order = loaded[spec.name], rows[spec.name]
    labels = encode_labels([(table.labels or [])[row] for row in order], job.task, spec.positive_text, spec.name)
    return baseline_metrics(
        job.model,
        X[:n_train],
        labels.values[:n_train],
        X[n_train:],
        labels.values[n_train:],
        classes=labels.classes,
        l2=job.training.l2,
        fit_intercept=job.training.fit_intercept,
        weights=None if table.weights is None else table.weights[order[:n_train]],
    )


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
