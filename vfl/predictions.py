"""Joint predictions as a data scientist handles them: pandas objects, indexed by ids of those who have the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from parties.errors import ConfigError
from vfl.job import Job
from vfl.notebook import table_html
from vfl.optim import Vector
from vfl.party import Data
from vfl.prediction import UNNAMED, Predicted
from vfl.prediction_csv import score_columns
from vfl.tables import show
from vfl.terms import Integers


@dataclass(frozen=True)
class Predictions:
    """Joint predictions of rows, in the order of the active party's rows, or of its silos' one after the other.

    Where they are silos' the index begins with a level ``silo``. Rows of silos without ids are called as in their
    DataFrame's own index, those of a CSV by their number, from 0 on.

    Attributes
    ----------
    unmatched : Index
        Ids of the rows without a score: another party lacks them. With ``unmatched_rows = "score"`` in the active
        party's policy they are scored on its own columns alone, and stand among the scored ones.
    joint : Series of bool
        Per scored row: whether all parties have it.
    warnings : list of str
        What the parties' guards and data gave cause for.

    Examples
    --------
    >>> joint = pd.Series([True, True], index=pd.Index(["a", "b"], name="client"))
    >>> scored = Predictions(np.array([0.25, 0.75]), ["no", "yes"], joint, unmatched=pd.Index(["c"]), warnings=[])
    >>> scored.to_frame().reset_index()
      client  score class
    0      a   0.25    no
    1      b   0.75   yes
    >>> scored.probabilities["no"].tolist()
    [0.75, 0.25]
    """

    scores: Vector = field(repr=False)
    classes: list[str]
    joint: pd.Series = field(repr=False)
    unmatched: pd.Index = field(repr=False)
    warnings: list[str]

    @property
    def index(self) -> pd.Index:
        """Ids of the scored rows: the active party's id column, or columns."""
        return self.joint.index

    def to_frame(self) -> pd.DataFrame:
        """Columns ``score``, or ``score_CLASS`` for each of several classes, and ``class`` where there are classes.

        As ``vfl predict`` writes them; ``joint`` where rows were scored on the active party's columns alone too.
        """
        columns: dict[str, object] = dict(score_columns(self.scores, self.classes))
        if not self.joint.all():
            columns["joint"] = self.joint.to_numpy()
        return pd.DataFrame(columns, index=self.index)

    @property
    def chosen(self) -> pd.Series:
        """The class of each row, or its number."""
        frame = self.to_frame()
        return frame["class" if self.classes else "score"]

    @property
    def probabilities(self) -> pd.DataFrame:
        """One column per class."""
        both = self.scores if self.scores.ndim == 2 else np.column_stack([1 - self.scores, self.scores])
        return pd.DataFrame(both, index=self.index, columns=self.classes)

    def _repr_html_(self) -> str:
        title = f"{len(self.index):,} rows scored, {len(self.unmatched):,} without a score"
        return table_html(title, self.to_frame().head(10))


def collect(predicted: Sequence[Predicted], data: Mapping[str, Path | pd.DataFrame]) -> Predictions:
    """Predictions of a prediction, of all parties with labels.

    Parameters
    ----------
    data : mapping of party name to path or DataFrame
        What was predicted; the index takes up its ids as they are.
    """
    found = [one.in_order() for one in predicted]
    return Predictions(
        scores=np.concatenate([scores for _, scores, _ in found]),
        classes=predicted[0].new.model.classes,
        joint=_series(
            np.concatenate([joint for _, _, joint in found]), _index(predicted, data, [rows for rows, _, _ in found])
        ),
        unmatched=_index(predicted, data, [one.unscored for one in predicted]),
        warnings=list(dict.fromkeys(line for one in predicted for line in one.warnings)),
    )


def check_data(job: Job, names: list[str], data: object) -> dict[str, Path | pd.DataFrame]:
    """Data of exactly these parties, paths as paths; where silos alone have trained of some of them, or of anybody.

    Raises
    ------
    ConfigError
        Something else was given.
    """
    listed = ", ".join(f"'{name}'" for name in names)
    if job.horizontal and isinstance(data, str | Path | pd.DataFrame):
        return {UNNAMED: _one("", data)}
    if not isinstance(data, Mapping):
        reason = (
            "or of one alone: any silo has the whole model" if job.horizontal else "every party has columns of its own"
        )
        raise ConfigError(
            f"data, got {type(data).__name__}, expected a mapping of party to CSV or DataFrame, for {listed}: {reason}"
        )
    if strangers := [name for name in data if name not in names]:
        raise ConfigError(f"data, got some for {show(strangers[0])}, expected them for {listed}, the model's parties")
    lost = [name for name in names if name not in data]
    if lost and (not job.horizontal or not data):
        raise ConfigError(f"data, got none for party '{lost[0]}', expected a CSV or DataFrame for each of {listed}")
    return {name: _one(name, data[name]) for name in names if name in data}


def _one(name: str, data: Data) -> Path | pd.DataFrame:
    if isinstance(data, str | Path):
        return Path(data)
    if not isinstance(data, pd.DataFrame):
        raise ConfigError(f"data of party '{name}', got {type(data).__name__}, expected a path or a DataFrame")
    return data


def _series(joint: NDArray[np.bool_], index: pd.Index) -> pd.Series:
    return pd.Series(joint, index=index, name="joint")


def _index(
    predicted: Sequence[Predicted], data: Mapping[str, Path | pd.DataFrame], rows: Sequence[Integers]
) -> pd.Index:
    """Ids of rows of all parties with labels, silos by name."""
    parts = [
        _ids(one, data.get(one.new.spec.name, data.get(UNNAMED)), own) for one, own in zip(predicted, rows, strict=True)
    ]
    if not any(one.silo for one in predicted):
        return parts[0]
    frames = [part.to_frame(index=False) for part in parts]
    names = list(frames[0].columns)
    cells = pd.concat([frame.set_axis(names, axis=1) for frame in frames], ignore_index=True)
    silos = np.repeat([one.silo for one in predicted], [len(part) for part in parts])
    return pd.MultiIndex.from_arrays([silos, *(cells[name] for name in names)], names=["silo", *parts[0].names])


def _ids(predicted: Predicted, data: Path | pd.DataFrame | None, rows: Integers) -> pd.Index:
    """Ids of a party's rows: as its DataFrame has them, or as its CSV writes them; else what its rows are called."""
    names, table = list(predicted.new.spec.id_columns), predicted.new.table
    if not names:
        return data.index[rows] if isinstance(data, pd.DataFrame) else pd.RangeIndex(table.n_rows)[rows]
    if isinstance(data, pd.DataFrame) and set(names) <= set(data.columns):
        columns = [data[name].iloc[rows].to_numpy() for name in names]
    else:
        columns = [np.array(column, dtype=object)[rows] for column in table.id_columns]
    return pd.Index(columns[0], name=names[0]) if len(names) == 1 else pd.MultiIndex.from_arrays(columns, names=names)
