"""What curves, intervals and tests are worked out from: labels of the test rows, and what every model says of them.

``evidence.npz`` lies in the active party's folder only, for it holds labels and scores: ``about``, JSON text in UTF-8
with the task, the classes and the models' names; ``y``; and ``predicted_0``, ``predicted_1``, ..., one array a model.
Where several silos hold labels each has one of its own test rows, and on one machine the run's directory has one of all
of them: ``about`` then says how many rows are whose.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from parties.errors import DataError

Floats = NDArray[np.float64]
Labels = NDArray[np.float64] | NDArray[np.int64]

FILE = "evidence.npz"
JOINT, ALONE, POOLED, WITHOUT = "joint", "active_only", "pooled", "without "
OWN = "alone "
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
        "joint", and where there are, "active_only", "pooled", "without NAME" of each passive party, and "alone NAME"
        of each silo: P(positive), one probability per class, or the predicted number.
    silos : dict of silo to int
        How many rows are whose, one silo's after the other's; empty where one party has all labels.
    """

    task: str
    classes: tuple[str, ...]
    y: Labels = field(repr=False)
    predicted: dict[str, Floats] = field(repr=False)
    silos: dict[str, int] = field(default_factory=dict)

    def of_silos(self) -> dict[str, Evidence]:
        """Every silo's own rows; without those that have none."""
        found, first = {}, 0
        for name, count in self.silos.items():
            own = slice(first, first + count)
            predicted = {model: scores[own] for model, scores in self.predicted.items()}
            found[name] = Evidence(self.task, self.classes, self.y[own], predicted)
            first += count
        return {name: evidence for name, evidence in found.items() if len(evidence.y)}


def save_evidence(folder: Path, evidence: Evidence) -> None:
    """Write ``evidence.npz`` into the active party's folder."""
    about: dict[str, object] = {"task": evidence.task, "classes": evidence.classes, "models": list(evidence.predicted)}
    about |= {"silos": evidence.silos} if evidence.silos else {}
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
        silos = {str(name): int(rows) for name, rows in about.get("silos", {}).items()}
        evidence = Evidence(about["task"], tuple(str(name) for name in about["classes"]), arrays["y"], predicted, silos)
        _check(evidence)
    except FileNotFoundError:
        return None
    except (*UNREADABLE, OSError, zipfile.BadZipFile, struct.error, EOFError, NotImplementedError) as error:
        raise DataError(
            f"{folder / FILE}: cannot be read ({error}), expected the file as a finished run left it; put it back, or "
            "run the training again"
        ) from None
    return evidence


def merge_evidence(parts: Mapping[str, Evidence | None]) -> Evidence | None:
    """Put the silos' test rows one after the other, with what the joint model says of them.

    What a silo has judged beside it is another model at every silo, and stays there.

    Parameters
    ----------
    parts : mapping of silo to Evidence or None
        None of a silo that left none: it is lost, or has no test rows.

    Returns
    -------
    Evidence or None
        None where no silo has test rows.

    Raises
    ------
    DataError
        They are of different tasks or classes.
    """
    known = {name: evidence for name, evidence in parts.items() if evidence is not None and len(evidence.y)}
    if not known:
        return None
    first = next(iter(known.values()))
    for name, evidence in known.items():
        if (evidence.task, evidence.classes) != (first.task, first.classes):
            raise DataError(
                f"{FILE} of {name}: has other classes than that of {next(iter(known))}, expected those of one run; "
                "run the training again"
            )
    joint = np.concatenate([evidence.predicted[JOINT] for evidence in known.values()])
    labels: Labels = np.concatenate([evidence.y for evidence in known.values()])
    rows = {name: len(evidence.y) for name, evidence in known.items()}
    return Evidence(first.task, first.classes, labels, {JOINT: joint}, rows)


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
    if evidence.silos and (min(evidence.silos.values()) < 0 or sum(evidence.silos.values()) != len(y)):
        raise ValueError("its rows are not those of its silos")
    shape = (len(y), len(evidence.classes)) if several else y.shape
    scores = evidence.predicted.values()
    if JOINT not in evidence.predicted or any(p.shape != shape or p.dtype != np.float64 for p in scores):
        raise ValueError("its predictions are of another kind than its labels")
