"""Jobs, labels and columns for tests of networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vfl.job import Job, Member, SplitNN, Task
from vfl.losses import Labels
from vfl.optim import Vector

TASKS: tuple[Task, ...] = ("binary", "multiclass", "regression", "count")
CLASSES = 3


@dataclass(frozen=True)
class Table:
    """Columns of the active party and of a passive one, labels that need both, and weights."""

    own: Vector
    other: Vector
    y: Labels
    weights: Vector


def make_job(task: Task = "binary", *, seed: int = 7, **settings: Any) -> Job:
    parties = (Member(name="bank", role="active"), Member(name="shop", role="passive"))
    return Job(name="nets", model="splitnn", task=task, seed=seed, splitnn=SplitNN(**settings), parties=parties)


def outputs_of(task: Task) -> int:
    return CLASSES if task == "multiclass" else 1


def make_table(task: Task = "binary", rows: int = 120, *, own: int = 3, other: int = 4, seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    X0, X1 = rng.normal(size=(rows, own)), rng.normal(size=(rows, other))
    signal = X0.sum(axis=1) - 1.5 * X1[:, 0] + np.abs(X1[:, 1]) + 0.1 * rng.normal(size=rows)
    labels: dict[Task, Labels] = {
        "binary": (signal > np.median(signal)).astype(np.float64),
        "multiclass": np.digitize(signal, np.quantile(signal, [1 / 3, 2 / 3])).astype(np.int64),
        "regression": 1000.0 + 50.0 * signal,
        "count": rng.poisson(8 * np.exp(0.3 * signal)).astype(np.float64),
    }
    return Table(X0, X1, labels[task], rng.uniform(0.2, 3.0, size=rows))
