"""What a silo keeps of a horizontal training: the whole joint model, and how its columns are encoded.

``model.json`` and ``model.npz`` as in ``vfl.shard``. All silos end with the same weights and encode alike, so that any
one of the folders predicts by itself. A linear model has ``weights.coefficients``, one row per encoded column, and with
an intercept ``weights.intercept``, both in the label's unit; a network the layers that ``vfl.local_network`` names, and
``label``, mean and deviation of the training labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from parties.errors import DataError
from parties.spec import PartySpec
from vfl.job import Job
from vfl.optim import Vector
from vfl.preprocess import Preprocessor
from vfl.shard import UNREADABLE, Arrays, read_shard, within, write_job_shard

COEFFICIENTS, INTERCEPT = "coefficients", "intercept"
_WEIGHTS, _LABEL = "weights.", "label"
_KINDS = "fiub"  # floats, integers, booleans: what a network's parameters and buffers are


@dataclass(frozen=True, slots=True)
class HorizontalShard:
    """A joint model as every silo has it.

    Parameters
    ----------
    classes : tuple of str
        Of a classifier, in code order.
    weights : dict of name to ndarray
        In the order of the training.
    label : ndarray of shape (2,), float64, or None
        Networks: mean and deviation of the training labels, by which outputs are scaled.
    own_module : bool
        The network's upper layers are the user's own torch module, which nobody can rebuild.
    """

    preprocessor: Preprocessor = field(repr=False)
    classes: tuple[str, ...]
    weights: Arrays = field(repr=False)
    label: Vector | None = field(default=None, repr=False)
    own_module: bool = False

    @property
    def columns(self) -> list[str]:
        """Names of the encoded columns."""
        return self.preprocessor.names

    @property
    def coef(self) -> Vector:
        """Linear models: one row per encoded column, one column per score."""
        return self.weights[COEFFICIENTS]

    @property
    def intercept(self) -> Vector | None:
        """Linear models: one number per score, where the job fits them."""
        return self.weights.get(INTERCEPT)


class _Kept(msgspec.Struct, frozen=True):
    """What ``model.json`` says that a shard is read by."""

    model: str
    task: str
    weights: tuple[str, ...]
    own_module: bool
    classes: tuple[str, ...]
    preprocessor: dict[str, object]


def save_horizontal_shard(
    folder: Path,
    job: Job,
    spec: PartySpec,
    preprocessor: Preprocessor,
    names: Sequence[str],
    arrays: Sequence[NDArray[np.generic]],
    classes: Sequence[str],
    *,
    label: tuple[float, float] | None = None,
    own_module: bool = False,
) -> None:
    """Write ``model.json`` and ``model.npz`` of a silo.

    Parameters
    ----------
    names, arrays : sequences of str and ndarray
        The joint model's weights. Linear models: "coefficients" of shape (d, outputs) and, with ``fit_intercept``,
        "intercept" of shape (outputs,), float64; networks: what ``vfl.local_network`` names.
    classes : sequence of str
        Class texts in code order; empty for numbers.
    label : tuple of mean and deviation, optional
        Networks: of the training labels.
    own_module : bool
        The network's upper layers are the user's own.
    """
    lines = {
        "weights": list(names),
        "own_module": own_module,
        "classes": list(classes),
        "columns": preprocessor.names,
        "preprocessor": preprocessor.to_dict(),
    }
    kept: Arrays = {f"{_WEIGHTS}{name}": array for name, array in zip(names, arrays, strict=True)}
    if label is not None:
        kept[_LABEL] = np.array(label, dtype=np.float64)
    write_job_shard(folder, job, spec, lines, kept)


def load_horizontal_shard(folder: Path) -> HorizontalShard:
    """Read a silo's shard.

    Raises
    ------
    DataError
        If it is missing or damaged.
    """
    state, arrays = read_shard(folder)
    try:
        kept = msgspec.convert(state, _Kept)
        named, label = within(arrays, _WEIGHTS), arrays.get(_LABEL)
        if set(named) != set(kept.weights) or len(named) + (label is not None) != len(arrays):
            raise ValueError("the weights are not those that model.json names")
        shard = HorizontalShard(
            preprocessor=Preprocessor.from_dict(kept.preprocessor),
            classes=kept.classes,
            weights={name: named[name] for name in kept.weights},
            label=label,
            own_module=kept.own_module,
        )
        _check(kept, shard)
    except (*UNREADABLE, msgspec.ValidationError) as error:
        raise DataError(f"model shard {folder}: cannot be read ({error}); run the training again") from None
    return shard


def _check(kept: _Kept, shard: HorizontalShard) -> None:
    """What a model of this kind has, and nothing else; `vfl.local_network` checks a network's shapes."""
    for array in (*shard.weights.values(), *([] if shard.label is None else [shard.label])):
        if array.dtype.kind not in _KINDS or (array.dtype.kind == "f" and not np.isfinite(array).all()):
            raise ValueError("weights that are no finite numbers")
    if kept.model == "splitnn":
        if shard.label is None or shard.label.shape != (2,) or shard.label.dtype != np.float64:
            raise ValueError("the label's scale is missing")
    else:
        _check_linear(kept, shard)


def _check_linear(kept: _Kept, shard: HorizontalShard) -> None:
    """One coefficient per encoded column and score."""
    outputs = len(kept.classes) if kept.task == "multiclass" else 1
    if COEFFICIENTS not in shard.weights or set(shard.weights) - {COEFFICIENTS, INTERCEPT}:
        raise ValueError("the weights are not those of a linear model")
    fits = shard.coef.shape == (len(shard.columns), outputs)
    fits = fits and (shard.intercept is None or shard.intercept.shape == (outputs,))
    floats = all(array.dtype == np.float64 for array in shard.weights.values())
    if not (fits and floats) or shard.label is not None or shard.own_module:
        raise ValueError("the arrays do not fit each other")
