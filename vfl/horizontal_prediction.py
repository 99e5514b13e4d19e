"""Predictions where silos alone have trained: any one of them has the whole model, so that nobody else is asked.

Nothing is sent, aligned or counted, and rows need no ids.
"""

from __future__ import annotations

import time

import numpy as np

from vfl.job import Job
from vfl.kept_model import whole_network, whole_of
from vfl.new_rows import NewRows
from vfl.optim import Vector
from vfl.predict import Scored

PROTOCOL = "none"
"""What stands for a protocol of alignment where nothing is aligned."""


def score_locally(new: NewRows) -> Scored:
    """Score all rows of a silo, or of anybody with the same columns, by the silo's own copy of the model.

    Raises
    ------
    ConfigError
        The network cannot be built here.
    DataError
        The weights are another network's.
    """
    start = time.perf_counter()
    job, shard, X = new.model.kept.job, whole_of(new.model), np.ascontiguousarray(new.encoded, dtype=np.float64)
    if job.model == "splitnn":
        predicted = whole_network(new.model).predict(np.zeros((len(X), job.splitnn.units)), X)
    else:
        predicted = predict_linearly(job, shard.coef, shard.intercept, X)
    return Scored(
        rows=np.arange(new.table.n_rows),
        predicted=predicted,
        sizes={new.spec.name: new.table.n_rows},
        protocol=PROTOCOL,
        seconds={"aligning": 0.0, "scoring": time.perf_counter() - start},
        warnings=new.warnings,
    )


def predict_linearly(job: Job, coef: Vector, intercept: Vector | None, X: Vector) -> Vector:
    """Predictions of a linear model: P(positive), class probabilities of shape (n, classes), or numbers.

    A row's does not depend on how many others there are: sums run in numpy's own loops, and not in BLAS.

    Parameters
    ----------
    coef : ndarray of shape (d, outputs), float64
    intercept : ndarray of shape (outputs,), float64, or None
    X : ndarray of shape (n, d), float64
    """
    from vfl.losses import FAMILIES  # scipy takes its time to import

    z = np.einsum("ij,jk->ik", X, coef)
    z = z if intercept is None else z + intercept
    return FAMILIES[job.model].mean(z if job.model == "softmax" else z[:, 0])
