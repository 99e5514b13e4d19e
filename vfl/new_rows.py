"""New rows for a model that is trained: a party's shard, and its new CSV read as the training read the old one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from parties.columns import encode_known_labels
from parties.data import PartyTable, read_party, table_from_frame
from parties.errors import DataError
from parties.policy import Guards
from parties.spec import PartySpec
from psi.ids import PreparedIds
from vfl.exact import requantise
from vfl.glm import ONES_BITS, Block, Fit
from vfl.horizontal_shard import HorizontalShard
from vfl.kept_model import Model, check_network
from vfl.network_columns import encode_new
from vfl.optim import Vector
from vfl.prepare import read_ids
from vfl.shard import Shard
from vfl.splitnn_shard import SplitShard
from vfl.terms import Integers
from vfl.trained import Labels
from vfl.tree_shard import TreeShard
from vfl.trees.bins import Codes

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class NewRows:
    """What a party brings to the scoring of new rows.

    Parameters
    ----------
    spec : PartySpec
        How the new data are read, and the policy that holds now.
    encoded : ndarray of shape (table rows, d)
        GLMs: the columns as integers in the training's scales, int64; trees: their bins, uint16; networks, and whatever
        silos alone have trained: float64.
    ids : PreparedIds or None
        None where silos alone have trained, for nothing is aligned then.
    labels : ndarray of shape (table rows,) or None
        Of rows to be evaluated, at a party with labels: as the model codes them.
    warnings : tuple of str
    """

    model: Model
    spec: PartySpec
    table: PartyTable = field(repr=False)
    ids: PreparedIds | None = field(repr=False)
    encoded: Integers | Codes | Vector = field(repr=False)
    labels: Labels | None = field(repr=False)
    guards: Guards
    warnings: tuple[str, ...] = ()

    @property
    def valid(self) -> PreparedIds:
        """The ids, where there are any."""
        if self.ids is None:
            raise TypeError("rows of silos that train alone have no ids")
        return self.ids

    @property
    def block(self) -> Block:
        """GLMs: all rows with the intercept's column of ones, none of them a training row."""
        shard = _linear(self.model)
        integers, bits = self.encoded.astype(np.int64), shard.scale_bits
        if shard.intercept is not None:
            ones = np.full((len(integers), 1), 1 << ONES_BITS, dtype=np.int64)
            integers, bits = np.hstack([integers, ones]), np.append(bits, ONES_BITS)
        return Block(np.ascontiguousarray(integers), bits, np.zeros(len(bits)), rows=0)

    @property
    def weights(self) -> Fit:
        """GLMs: the weights, to the last bit as the training left them."""
        shard = _linear(self.model)
        coef = shard.coef if shard.intercept is None else np.vstack([shard.coef, shard.intercept])
        return Fit(np.ldexp(coef, -shard.label_bits), shard.label_bits, (), 0, converged=True)


def read_new_rows(
    model: Model, spec: PartySpec, data: Path | pd.DataFrame, guards: Guards, *, labelled: bool = False
) -> NewRows:
    """Read new rows, by the columns and kinds of the training.

    Parameters
    ----------
    spec : PartySpec
        The party's lines; which columns are features is the model's to say.
    labelled : bool
        The rows come with labels, to be evaluated.

    Raises
    ------
    ConfigError
        The party's network cannot be built here.
    DataError
        Data that cannot be read, or do not fit the model: one line that says why.
    """
    check_network(model)
    lines = _lines(model, spec, data, labelled=labelled)
    if isinstance(data, Path):
        table, source = read_party(lines, trained=True), f"party {spec.name}, file {data}"
    else:
        table, source = table_from_frame(data, lines, trained=True), f"party {spec.name}, DataFrame"
    try:
        encoded, warnings = _encode(model, table)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    return NewRows(
        model=model,
        spec=lines,
        table=table,
        ids=None if model.kept.job.horizontal else read_ids(model.kept.job, lines, table),
        encoded=encoded,
        labels=None
        if table.labels is None
        else encode_known_labels(table.labels, model.kept.job.task, model.classes, spec.name),
        guards=guards,
        warnings=(*table.warnings, *(f"{spec.name}: {line}" for line in warnings)),
    )


def _lines(model: Model, spec: PartySpec, data: Path | pd.DataFrame, *, labelled: bool) -> PartySpec:
    """The party's lines for the new data: the model's columns, and no more of the others than is needed."""
    columns = model.columns
    return msgspec.structs.replace(
        spec,
        data=str(data) if isinstance(data, Path) else "a DataFrame",
        label=spec.label if labelled else None,
        positive=None,
        sample_weight=None,
        features=tuple(columns),
        drop=(),
        categorical=tuple(name for name, numeric in columns.items() if not numeric),
        monotone_constraints={},
    )


def _encode(model: Model, table: PartyTable) -> tuple[Integers | Codes | Vector, list[str]]:
    """All rows as the training encoded its own, and warnings."""
    if isinstance(model.shard, TreeShard):
        return model.shard.binning.transform(table.features, new_data=True)
    if isinstance(model.shard, SplitShard):
        return encode_new(model.shard.preprocessor, table.features)
    if isinstance(model.shard, HorizontalShard):
        if model.kept.job.model == "splitnn":
            return encode_new(model.shard.preprocessor, table.features)
        return model.shard.preprocessor.transform(table.features, new_data=True)
    shard = model.shard
    X, warnings = shard.preprocessor.transform(table.features, new_data=True)
    integers, outside = requantise(X[:, shard.kept], shard.scale_bits)
    sources = shard.preprocessor.sources
    for at in np.flatnonzero(outside.any(axis=0)).tolist():
        warnings.append(
            f'column "{sources[shard.kept[at]]}": {int(outside[:, at].sum()):,} rows lie over 65,000 standard '
            "deviations outside the training rows: clipped"
        )
    return integers, warnings


def _linear(model: Model) -> Shard:
    if not isinstance(model.shard, Shard):
        raise TypeError("only a linear model has coefficients")
    return model.shard
