"""What curves, intervals and tests are worked out from: labels of the test rows, and what every model says of them.

``evidence.npz`` lies in the active party's folder only, for it holds labels and scores: ``about``, JSON text in UTF-8
with the task, the classes and the models' names; ``y``; and ``predicted_0``, ``predicted_1``, ..., one array a model.
"""

from __future__ import annotations

import json
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from parties.errors import DataError

Floats = NDArray[np.float64]
Labels = NDArray[np.float64] | NDArray[np.int64]

FILE = "evidence.npz"
JOINT, ALONE, POOLED, WITHOUT = "joint", "active_only", "pooled", "without "
_TASKS = ("binary", "multiclass", "regression", "count")


@dataclass(frozen=True)
class Evidence:
    """Labels of the test rows and what every model says of them.

    Parameters
    ----------
    task : {"binary", "multiclass", "regression", "count"}
    classes : tuple of str
        Class texts in code order; empty for numbers.
    y : ndarray of shape (n,)
        0/1, float64; class codes, int64; or numbers, float64.
    predicted : dict of model to ndarray of shape (n,) or (n, classes), float64
        "joint", and where there are, "active_only", "pooled", and "without NAME" of each passive party:
        P(positive), one probability per class, or the predicted number.
    """

    task: str
    classes: tuple[str, ...]
    y: Labels = field(repr=False)
    predicted: dict[str, Floats] = field(repr=False)


def save_evidence(folder: Path, evidence: Evidence) -> None:
    """Write ``evidence.npz`` into the active party's folder."""
    about = {"task": evidence.task, "classes": evidence.classes, "models": list(evidence.predicted)}
    text = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    numbered = {f"predicted_{number}": scores for number, scores in enumerate(evidence.predicted.values())}
    with (folder / FILE).open("wb") as file:
        np.savez(file, allow_pickle=False, about=text, y=evidence.y, **numbered)


def load_evidence(folder: Path) -> Evidence | None:
    """Read ``evidence.npz`` of a party's folder; None if there is none.

    Raises
    ------
    DataError
        It cannot be read, or is damaged.
    """
    from vfl.shard import UNREADABLE, read_arrays  # pandas takes its time, and a page may need none

    try:
        arrays = read_arrays((folder / FILE).read_bytes())
        about = json.loads(arrays["about"].tobytes())
        predicted = {str(name): arrays[f"predicted_{number}"] for number, name in enumerate(about["models"])}
        evidence = Evidence(about["task"], tuple(str(name) for name in about["classes"]), arrays["y"], predicted)
        _check(evidence)
    except FileNotFoundError:
        return None
    except (*UNREADABLE, OSError, zipfile.BadZipFile, struct.error, EOFError, NotImplementedError) as error:
        raise DataError(
            f"{folder / FILE}: cannot be read ({error}), expected the file as a finished run left it; put it back, or "
            "run the training again"
        ) from None
    return evidence


def _check(evidence: Evidence) -> None:
    """Everything has the shape that the task gives it."""
    if evidence.task not in _TASKS:
        raise ValueError("it names a task that is unknown")
    several = evidence.task == "multiclass"
    y = evidence.y
    if y.ndim != 1 or y.dtype != (np.int64 if several else np.float64) or not np.isfinite(y).all():
        raise ValueError("its labels are of another kind than the task's")
    if several and len(y) and not (0 <= y.min() and y.max() < len(evidence.classes)):
        raise ValueError("its labels name classes that are not there")
    if evidence.task == "binary" and not np.isin(y, (0.0, 1.0)).all():
        raise ValueError("its labels are not 0 and 1")
    shape = (len(y), len(evidence.classes)) if several else y.shape
    scores = evidence.predicted.values()
    if JOINT not in evidence.predicted or any(p.shape != shape or p.dtype != np.float64 for p in scores):
        raise ValueError("its predictions are of another kind than its labels")
