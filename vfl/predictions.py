"""Joint predictions as a data scientist handles them: pandas objects, indexed by the active party's ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from parties.errors import ConfigError
from vfl.notebook import table_html
from vfl.optim import Vector
from vfl.party import Data
from vfl.prediction import Predicted, score_columns
from vfl.tables import show
from vfl.terms import Integers


@dataclass(frozen=True)
class Predictions:
    """Joint predictions of rows, in the order of the active party's rows.

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


def collect(predicted: Predicted, data: Path | pd.DataFrame) -> Predictions:
    """Predictions of a prediction; ``data`` are the active party's, whose ids the index takes up as they are."""
    rows, scores, joint = predicted.in_order()
    return Predictions(
        scores=scores,
        classes=predicted.new.model.classes,
        joint=_series(joint, _ids(predicted, data, rows)),
        unmatched=_ids(predicted, data, predicted.unscored),
        warnings=list(predicted.warnings),
    )


def check_data(names: list[str], data: object) -> dict[str, Path | pd.DataFrame]:
    """Data of exactly these parties, paths as paths.

    Raises
    ------
    ConfigError
        Something else was given.
    """
    listed = ", ".join(f"'{name}'" for name in names)
    if not isinstance(data, Mapping):
        raise ConfigError(
            f"data, got {type(data).__name__}, expected a mapping of party to CSV or DataFrame, for {listed}: every "
            "party has columns of its own"
        )
    if strangers := [name for name in data if name not in names]:
        raise ConfigError(f"data, got some for {show(strangers[0])}, expected them for {listed}, the model's parties")
    if lost := [name for name in names if name not in data]:
        raise ConfigError(f"data, got none for party '{lost[0]}', expected a CSV or DataFrame for each of {listed}")
    return {name: _one(name, data[name]) for name in names}


def _one(name: str, data: Data) -> Path | pd.DataFrame:
    if isinstance(data, str | Path):
        return Path(data)
    if not isinstance(data, pd.DataFrame):
        raise ConfigError(f"data of party '{name}', got {type(data).__name__}, expected a path or a DataFrame")
    return data


def _series(joint: NDArray[np.bool_], index: pd.Index) -> pd.Series:
    return pd.Series(joint, index=index, name="joint")


def _ids(predicted: Predicted, data: Path | pd.DataFrame, rows: Integers) -> pd.Index:
    """Ids of the active party's rows: as its DataFrame has them, or as its CSV writes them."""
    names, table = list(predicted.new.spec.id_columns), predicted.new.table
    if isinstance(data, pd.DataFrame) and set(names) <= set(data.columns):
        columns = [data[name].iloc[rows].to_numpy() for name in names]
    else:
        columns = [np.array(column, dtype=object)[rows] for column in table.id_columns]
    return pd.Index(columns[0], name=names[0]) if len(names) == 1 else pd.MultiIndex.from_arrays(columns, names=names)
