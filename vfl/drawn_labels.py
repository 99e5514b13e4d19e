"""Labels that a run randomises once: a crash in between must not make it draw again.

Labels drawn twice would cost 2 epsilon (``vfl.label_dp``), and the run would not end as it would have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from parties.checkpoint import Keeper
from parties.errors import DataError
from vfl.label_dp import Floats
from vfl.trained import Labels


def drawn_once(keeper: Keeper, labels: Labels, draw: Callable[[Labels], Floats]) -> Floats:
    """Labels as this run has randomised them: before a crash, or now.

    Parameters
    ----------
    labels : ndarray of shape (n,)
        The true ones.
    draw : callable
        Randomises them.

    Raises
    ------
    DataError
        If the run has randomised other labels before, or what it drew can be neither kept nor read.
    """
    digest = np.frombuffer(hashlib.sha256(labels.tobytes()).digest(), dtype=np.uint8)

    def make() -> dict[str, NDArray[np.generic]]:
        return {"labels": draw(labels), "digest": digest}

    kept = keeper.once("labels", make)
    if not np.array_equal(kept["digest"], digest):
        raise DataError(
            "labels: not those that this run randomised before it was interrupted; go on with the same CSVs and "
            "settings, or start a new run"
        )
    return np.asarray(kept["labels"], dtype=np.float64)
