"""What a party keeps of a run: its shard of the model, the order of its rows, and at the active party the test scores.

``model.json`` holds what is text and small numbers, ``model.npz`` the arrays (numpy's format, never pickle);
``model.json`` names the SHA-256 of ``model.npz``, so that halves of different runs are not mixed up. With a GLM's
``coef`` (one row per encoded column, in the label's unit) a party's part of the linear predictor is ``X @ coef``,
``X`` being the party's encoded columns.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from parties.data import PartyTable
from parties.errors import DataError
from parties.spec import PartySpec
from vfl import __version__
from vfl.job import Job
from vfl.optim import Vector
from vfl.prepare import Parts
from vfl.preprocess import Preprocessor
from vfl.terms import Integers, Terms

if TYPE_CHECKING:
    from vfl.glm import Fit
    from vfl.glm_part import Columns


Arrays = dict[str, NDArray[Any]]
UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)
"""What reading a file raises that is not as it was written."""


def save_shard(folder: Path, terms: Terms, spec: PartySpec, columns: Columns, fit: Fit, classes: list[str]) -> None:
    """Write a GLM's ``model.json`` and ``model.npz``.

    Parameters
    ----------
    classes : list of str
        Class texts in code order at the active party; elsewhere empty.
    """
    coef = np.ldexp(fit.weights, fit.label_bits)
    arrays: Arrays = {"scale_bits": columns.scale_bits, "kept": np.array(columns.kept, dtype=np.int64)}
    if spec.role == "active" and terms.job.training.fit_intercept:
        coef, arrays["intercept"] = coef[:-1], coef[-1]
    lines = {
        "label_bits": fit.label_bits,
        "classes": classes,
        "columns": [columns.preprocessor.names[j] for j in columns.kept],
        "preprocessor": columns.preprocessor.to_dict(),
    }
    write_shard(folder, terms, spec, lines, {"coef": coef, **arrays})


def write_shard(folder: Path, terms: Terms, spec: PartySpec, lines: Mapping[str, object], arrays: Arrays) -> None:
    """Write ``model.json``, with whose part of which job it is, and ``model.npz``."""
    write_job_shard(folder, terms.job, spec, lines, arrays)


def write_job_shard(folder: Path, job: Job, spec: PartySpec, lines: Mapping[str, object], arrays: Arrays) -> None:
    """As `write_shard`, where nothing but the job was agreed on."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    (folder / "model.npz").write_bytes(buffer.getvalue())
    header = {
        "format": 1,
        "version": __version__,
        "job": job.name,
        "model": job.model,
        "task": job.task,
        "party": spec.name,
        "role": spec.role,
    }
    _write_json(
        folder / "model.json", header | dict(lines) | {"arrays_sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}
    )


@dataclass(frozen=True, slots=True)
class Shard:
    """A party's part of a joint GLM, read back.

    Parameters
    ----------
    columns : list of str
        Names of the encoded columns in use.
    coef : ndarray of shape (d, outputs), float64
    intercept : ndarray of shape (outputs,), float64 or None
    classes : list of str
        At the active party of a classifier, in code order.
    kept : ndarray of shape (d,), int64
        Which of the preprocessor's columns are in use.
    scale_bits : ndarray of shape (d,), int64
        The training's scales of the columns as integers.
    label_bits : int
        ``coef`` is in units of label, weights in units of label / 2^label_bits.
    """

    columns: list[str]
    coef: Vector = field(repr=False)
    intercept: Vector | None = field(repr=False)
    classes: list[str]
    preprocessor: Preprocessor = field(repr=False)
    kept: Integers = field(repr=False)
    scale_bits: Integers = field(repr=False)
    label_bits: int = 0


def load_shard(folder: Path) -> Shard:
    """Read a party's shard of a GLM.

    Raises
    ------
    DataError
        If it is missing or damaged.
    """
    state, arrays = read_shard(folder)
    try:
        _check_shapes(arrays)
        return Shard(
            columns=[str(name) for name in state["columns"]],
            coef=arrays["coef"],
            intercept=arrays.get("intercept"),
            classes=[str(name) for name in state["classes"]],
            preprocessor=Preprocessor.from_dict(state["preprocessor"]),
            kept=arrays["kept"],
            scale_bits=arrays["scale_bits"],
            label_bits=int(state["label_bits"]),
        )
    except UNREADABLE as error:
        raise _unreadable(folder, error) from None


def _check_shapes(arrays: Arrays) -> None:
    """Arrays of one GLM belong to the same columns and scores."""
    coef, width = arrays["coef"], len(arrays["kept"])
    whole = all(arrays[name].shape == (width,) and arrays[name].dtype.kind == "i" for name in ("kept", "scale_bits"))
    start = arrays.get("intercept", np.zeros(coef.shape[-1]))
    sound = coef.ndim == 2 and len(coef) == width and coef.shape[1] > 0 and start.shape == coef.shape[1:]
    if not whole or not sound or not (np.isfinite(coef).all() and np.isfinite(start).all()):
        raise ValueError("the arrays do not fit each other")


def read_shard(folder: Path) -> tuple[dict[str, Any], Arrays]:
    """Content of ``model.json`` and ``model.npz``, as far as the two belong together.

    Raises
    ------
    DataError
        If one is missing or damaged.
    """
    try:
        state = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        data = (folder / "model.npz").read_bytes()
        if hashlib.sha256(data).hexdigest() != state["arrays_sha256"]:
            raise ValueError("model.npz is not the one that model.json names")
        if not isinstance(state, dict):
            raise ValueError("model.json is no table")
        return state, read_arrays(data)
    except (*UNREADABLE, OSError, zipfile.BadZipFile, struct.error, EOFError, NotImplementedError) as error:
        raise _unreadable(folder, error) from None


def read_arrays(data: bytes) -> Arrays:
    """Arrays as ``np.savez`` writes them; no size is believed that the bytes do not bear out.

    Raises
    ------
    BadZipFile, struct.error, EOFError, NotImplementedError or one of ``UNREADABLE``
        The bytes are something else.
    """
    arrays: Arrays = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 or member.file_size > len(data):
                raise ValueError("it holds something else than plain arrays")
            arrays[member.filename.removesuffix(".npy")] = _read_array(archive.read(member))
    return arrays


def within(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Arrays:
    """Arrays whose names begin so, by the rest of their names.

    >>> within({"best.w": np.zeros(1), "w": np.ones(1)}, "best.")
    {'w': array([0.])}
    """
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _read_array(raw: bytes) -> NDArray[Any]:
    """One array in numpy's format."""
    stream = io.BytesIO(raw)
    version = np.lib.format.read_magic(stream)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(
        version
    )
    if read_header is None:
        raise ValueError("an array of another version of numpy's format")
    shape, fortran, dtype = read_header(stream)
    rest = len(raw) - stream.tell()
    if dtype.hasobject or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != rest:
        raise ValueError("an array that is not of the size that it names")
    array = np.empty(shape, dtype, order="F" if fortran else "C")
    array.reshape(-1, order="A").view(np.uint8)[...] = np.frombuffer(raw, np.uint8, rest, stream.tell())
    return array


def _unreadable(folder: Path, error: Exception) -> DataError:
    return DataError(f"model shard {folder}: cannot be read ({error}); run the training again")


def save_ids(folder: Path, spec: PartySpec, table: PartyTable, rows: Integers, parts: Parts | None) -> None:
    """Write ``ids.csv``: this party's ids as in its CSV, in the agreed row order, with the part they fell into.

    A party without ids has a column ``row`` instead, the rows of its CSV from 1 on. Without ``parts``, where the party
    is not told which rows take part: all its ids, in the order of its list.
    """
    columns = id_cells(spec, table, rows)
    if parts is not None:
        part = "part" if "part" not in columns else "part of the run"
        columns[part] = ["train"] * parts.train + ["validation"] * parts.validation + ["test"] * parts.test
    pd.DataFrame(columns).to_csv(folder / "ids.csv", index=False)


def save_test_scores(
    folder: Path,
    spec: PartySpec,
    table: PartyTable,
    rows: Integers,
    predicted: Vector,
    classes: list[str],
) -> None:
    """Write ``test_scores.csv``: id and label as in the CSV, and the score or one score per class.

    An id or label column that bears the name of a score is called "CSV score" there; of a party without ids a column
    ``row`` numbers the rows of its CSV instead, from 1 on.
    """
    several = predicted.ndim == 2
    scores = {f"score_{n}": predicted[:, j] for j, n in enumerate(classes)} if several else {"score": predicted}
    columns: dict[str, object] = dict(id_cells(spec, table, rows))
    if table.labels is not None and spec.label is not None:
        columns[spec.label] = [table.labels[row] for row in rows]
    columns = {f"CSV {name}" if name in scores else name: cells for name, cells in columns.items()}
    pd.DataFrame(columns | scores).to_csv(folder / "test_scores.csv", index=False)


def id_cells(spec: PartySpec, table: PartyTable, rows: Integers) -> dict[str, list[str]]:
    """Ids of these rows by column, as in the CSV; of a party without ids the rows' numbers, from 1 on."""
    if not spec.id_columns:
        return {"row": [str(row + 1) for row in rows.tolist()]}
    cells = zip(spec.id_columns, table.id_columns, strict=True)
    return {name: [column[row] for row in rows] for name, column in cells}


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
