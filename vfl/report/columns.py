"""What the model makes of the columns: coefficients of a GLM, gains of boosted trees; every party's own names only."""

from __future__ import annotations

from dataclasses import dataclass

from vfl.events import FeatureImportance
from vfl.report.run_directory import RunDirectory
from vfl.report.words import percent, significant

SHOWN = 20


@dataclass(frozen=True, slots=True)
class ColumnBar:
    """A column's bar: its length in percent of the longest, to the left where negative."""

    column: str
    value: str
    width: float
    negative: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class ColumnPart:
    """The columns of one party, largest first; ``more`` were left out of the picture.

    With several scores a row, ``scores`` names them and ``cells`` has every column's figures with their strength in
    percent and sign.
    """

    party: str
    bars: list[ColumnBar]
    more: int
    intercept: str = ""
    scores: tuple[str, ...] = ()
    cells: tuple[tuple[str, tuple[ColumnBar, ...]], ...] = ()


def coefficients(run: RunDirectory) -> list[ColumnPart]:
    """Coefficients of the parties whose shards lie here, on one scale; silos of a party have the same ones."""
    from vfl.horizontal_shard import HorizontalShard, load_horizontal_shard
    from vfl.shard import Shard, load_shard

    load = load_horizontal_shard if run.horizontal else load_shard
    shards: dict[str, Shard | HorizontalShard] = {
        holder: load(run.folder / next(party.name for party in parties if party.name in run.shards))
        for holder, parties in run.holders.items()
        if any(party.name in run.shards for party in parties)
    }
    largest = max((float(abs(shard.coef).max()) for shard in shards.values() if shard.coef.size), default=0.0) or 1.0
    scores = next((tuple(shard.classes) for shard in shards.values() if shard.classes), ())
    parts = []
    for name, shard in shards.items():
        lines = [(column, row.tolist()) for column, row in zip(shard.columns, shard.coef, strict=True)]
        lines.sort(key=lambda line: -max(abs(value) for value in line[1]))
        start = [] if shard.intercept is None else shard.intercept.tolist()
        parts.append(_part(name, lines, start, scores, largest))
    return [part for part in parts if part.bars or part.cells or part.intercept]


def _part(
    party: str, lines: list[tuple[str, list[float]]], start: list[float], classes: tuple[str, ...], largest: float
) -> ColumnPart:
    shown, more = lines[:SHOWN], max(0, len(lines) - SHOWN)
    several = len((lines or [("", start)])[0][1]) > 1
    if not several:
        bars = [_bar(column, values[0], largest) for column, values in shown]
        return ColumnPart(party, bars, more, significant(start[0]) if start else "")
    width = len(lines[0][1]) if lines else len(start)
    names = classes if len(classes) == width else tuple(f"score {number}" for number in range(1, width + 1))
    rows = [*shown, *([("intercept", start)] if start else [])]
    cells = tuple((column, tuple(_bar("", value, largest) for value in values)) for column, values in rows)
    return ColumnPart(party, [], more, scores=names, cells=cells)


def _bar(column: str, value: float, largest: float) -> ColumnBar:
    return ColumnBar(column, significant(value), round(min(100.0, 100 * abs(value) / largest), 2), value < 0)


def importance(run: RunDirectory) -> list[ColumnPart]:
    """Gains of columns, in shares of all, party by party.

    On one machine every party's own shard has the names of its columns; a role's own page has what its report has, in
    which the active party knows the others' columns by number.
    """
    lines = _own_names(run) or list(run.report.feature_importance)
    total = sum(line.gain for line in lines) or 1.0
    largest = max((line.gain for line in lines), default=0.0) or 1.0
    parts = []
    for holder in run.holders:
        own = sorted((line for line in lines if line.party == holder and line.count), key=lambda line: -line.gain)
        bars = [
            ColumnBar(
                line.feature,
                percent(line.gain / total),
                round(100 * line.gain / largest, 2),
                False,
                _splits(line.count),
            )
            for line in own[:SHOWN]
        ]
        if bars:
            parts.append(ColumnPart(holder, bars, max(0, len(own) - SHOWN)))
    return parts


def _share(value: float, largest: float) -> float:
    return round(100 * value / largest, 2)


def _splits(number: int) -> str:
    return f"{number:,} {'split' if number == 1 else 'splits'}"


def _own_names(run: RunDirectory) -> list[FeatureImportance]:
    """Every party's own lines, of silos those of the first one, where all shards lie here; else none."""
    if run.role is not None or run.report.model != "boosting" or len(run.shards) < len(run.report.parties):
        return []
    from vfl.tree_shard import load_tree_shard

    lines: list[FeatureImportance] = []
    for holder, silos in run.holders.items():
        lines += [line for line in load_tree_shard(run.folder / silos[0].name).importance if line.party == holder]
    if {line.party for line in lines} < {line.party for line in run.report.feature_importance}:
        return []  # a party keeps no importance of its own
    return lines


def columns_of(run: RunDirectory) -> tuple[str, list[ColumnPart]]:
    """Which of the two it is, "coefficients" or "importance", and its parts; none of a network's."""
    if run.report.model == "splitnn":
        return "", []
    if run.report.model == "boosting":
        return "importance", importance(run)
    return "coefficients", coefficients(run)
