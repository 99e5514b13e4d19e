"""Figures and tables of two classes: how well scores rank, how far they can be believed, and what a threshold does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vfl.report.curves import (
    Floats,
    Ranked,
    area,
    best_f1,
    calibration,
    confusion,
    deciles,
    gains,
    precision_recall,
    ranked,
    roc,
    thinned,
)
from vfl.report.evidence import Evidence
from vfl.report.figures import (
    ALONE,
    CARD,
    COLOURS,
    INK,
    JOINT,
    LINE,
    MODEL_KEYS,
    MUTED,
    NEGATIVE,
    POOLED,
    POSITIVE,
    Figure,
    Key,
    canvas,
    label_axes,
    shares,
    thousands,
    to_svg,
)
from vfl.report.words import percent, plural, significant

_DRAWN = {"active_only": (ALONE, 1.8, "-"), "joint": (JOINT, 3.0, "-"), "pooled": (POOLED, 1.0, (0, (3, 3)))}


_FEW = 25


@dataclass(frozen=True, slots=True)
class Matrix:
    """A confusion matrix: rows are true, columns called classes; ``shades`` in percent of the row."""

    title: str
    note: str
    classes: tuple[str, ...]
    cells: list[list[tuple[str, str, int]]]
    figures: list[tuple[str, str]]


def binary_figures(evidence: Evidence) -> list[Figure]:
    """All figures, or none where the test rows lack a class."""
    if len(np.unique(evidence.y)) < 2:
        return []
    y, p = _rows(evidence)
    models = {name: ranked(y, evidence.predicted[name]) for name in _DRAWN if name in evidence.predicted}
    joint = models["joint"]
    return [
        _roc(models),
        _precision_recall(models),
        _ks(joint),
        _gain(models),
        _lift(y, p),
        _calibration(y, evidence.predicted),
        _scores(y, p, joint, evidence.classes),
        _thresholds(joint),
    ]


def _rows(evidence: Evidence) -> tuple[Floats, Floats]:
    """Labels and joint scores."""
    return evidence.y.astype(np.float64), evidence.predicted["joint"]


def _keys(models: dict[str, Ranked], notes: dict[str, str]) -> list[Key]:
    """The legend of curves, each with its figure."""
    keys = [(MODEL_KEYS[name], notes.get(name, "")) for name in ("joint", "active_only", "pooled") if name in models]
    return [Key(key.colour, f"{key.label}{note}", key.look) for key, note in keys]


def _reach(rows: Ranked) -> float:
    """Where an axis of scores ends: scores of rare events need not be drawn up to 1."""
    at = int(np.searchsorted(rows.found + rows.wrong, 0.002 * (rows.positives + rows.negatives)))
    top = 1.1 * float(rows.scores[at])
    return 1.0 if top > 0.5 or top <= 0 else top


def _roc(models: dict[str, Ranked]) -> Figure:
    areas = {}
    with canvas() as (drawn, (axes,)):
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1.2)
        for name, rows in models.items():
            x, y = roc(rows)
            areas[name] = area(x, y)
            colour, width, style = _DRAWN[name]
            axes.plot(*thinned(x, y), color=colour, linewidth=width, linestyle=style)
        shares(axes, "x", "y")
        label_axes(axes, "share of negatives called positive", "share of positives found")
        svg = to_svg(drawn, "roc")
    said = ", ".join(f"{MODEL_KEYS[name].label} {value:.3f}" for name, value in areas.items())
    return Figure(
        "roc",
        "ROC curve",
        svg,
        f"ROC curves of the models; area under the curve: {said}.",
        "The further a curve bends to the upper left, the better it ranks. The thin diagonal is guessing.",
        _keys(models, {name: f", AUC {value:.3f}" for name, value in areas.items()}),
    )


def _precision_recall(models: dict[str, Ranked]) -> Figure:
    averages = {}
    rate = models["joint"].positives / (models["joint"].positives + models["joint"].negatives)
    with canvas() as (drawn, (axes,)):
        axes.axhline(rate, color=LINE, linewidth=1.2)
        for name, rows in models.items():
            x, y, averages[name] = precision_recall(rows)
            colour, width, style = _DRAWN[name]
            axes.plot(*thinned(x, y), color=colour, linewidth=width, linestyle=style)
        shares(axes, "x", "y")
        label_axes(axes, "recall: share of positives found", "precision: share of calls that are right")
        svg = to_svg(drawn, "pr")
    said = ", ".join(f"{MODEL_KEYS[name].label} {value:.3f}" for name, value in averages.items())
    return Figure(
        "pr",
        "Precision and recall",
        svg,
        f"Precision against recall; average precision: {said}; guessing has {rate:.3f}.",
        f"How many calls are right, the more positives one wants to find. Guessing gets {percent(rate)} (thin line).",
        _keys(models, {name: f", AP {value:.3f}" for name, value in averages.items()}),
    )


def _ks(rows: Ranked) -> Figure:
    found, wrong = rows.found / rows.positives, rows.wrong / rows.negatives
    at = int(np.argmax(np.abs(found - wrong)))
    low, high = sorted((1 - found[at], 1 - wrong[at]))
    top = float(rows.scores[0])
    below = np.concatenate([np.zeros(1), rows.scores[::-1], np.array([top, max(1.0, top)])])
    with canvas() as (drawn, (axes,)):
        for above, colour in ((wrong, NEGATIVE), (found, POSITIVE)):
            axes.plot(*thinned(below, np.concatenate([[0.0], 1 - above[::-1], [1, 1]])), color=colour)
        axes.plot([rows.scores[at]] * 2, [low, high], color=INK, linewidth=1.6, marker="_", markersize=7)
        shares(axes, "y")
        axes.set_xlim(0, _reach(rows))
        label_axes(axes, "joint score", "rows below that score")
        svg = to_svg(drawn, "ks")
    gap = high - low
    return Figure(
        "ks",
        "Kolmogorov–Smirnov",
        svg,
        f"Cumulative scores of both classes; the largest gap is {gap:.3f} at score {rows.scores[at]:.3f}.",
        f"The largest gap between the classes is KS = {gap:.3f}, at the score {rows.scores[at]:.3f}.",
        [Key("negative", "negative rows"), Key("positive", "positive rows"), Key("ink", "largest gap")],
    )


def _gain(models: dict[str, Ranked]) -> Figure:
    with canvas() as (drawn, (axes,)):
        rate = models["joint"].positives / (models["joint"].positives + models["joint"].negatives)
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1.2)
        axes.plot([0, rate, 1], [0, 1, 1], color=MUTED, linewidth=1.2, linestyle=(0, (1, 2)))
        fifth = {}
        for name, rows in models.items():
            x, y = gains(rows)
            fifth[name] = float(np.interp(0.2, x, y))
            colour, width, style = _DRAWN[name]
            axes.plot(*thinned(x, y), color=colour, linewidth=width, linestyle=style)
        shares(axes, "x", "y")
        label_axes(axes, "rows taken, highest scores first", "share of positives found")
        svg = to_svg(drawn, "gain")
    return Figure(
        "gain",
        "Cumulative gain",
        svg,
        f"Cumulative gain: the highest fifth of the joint scores has {percent(fifth['joint'])} of the positives.",
        f"The highest-scoring 20 % of rows hold {percent(fifth['joint'])} of all positives.",
        [*_keys(models, {}), Key("muted", "perfect ranking", "dotted")],
    )


def _lift(y: Floats, p: Floats) -> Figure:
    parts = deciles(y, p)
    lifts = [part.lift for part in parts]
    with canvas() as (drawn, (axes,)):
        axes.bar(range(1, len(parts) + 1), lifts, width=0.72, color=JOINT)
        axes.axhline(1, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        behind = {"facecolor": CARD, "edgecolor": "none", "pad": 0.6}
        axes.set_ylim(0, max(*lifts, 1) * 1.12)
        for number, lift in enumerate(lifts, 1):
            axes.annotate(
                f"{lift:.1f}", (number, lift), (0, 2), textcoords="offset points", ha="center", fontsize=8, bbox=behind
            )
        axes.set_xticks(range(1, len(parts) + 1))
        axes.grid(visible=False, axis="x")
        label_axes(axes, "tenth of the rows, highest scores first", "positives, times the average")
        svg = to_svg(drawn, "lift")
    return Figure(
        "lift",
        "Lift by decile",
        svg,
        f"Lift of each tenth of the rows, from the highest scores down: {', '.join(f'{lift:.2f}' for lift in lifts)}.",
        f"The tenth with the highest scores has {lifts[0]:.1f} times as many positives as the average row.",
        [Key("joint", "joint model", "box"), Key("muted", "average of all rows", "dashed")],
    )


def _calibration(y: Floats, predicted: dict[str, Floats]) -> Figure:
    with canvas(rows=2, ratios=(3, 1)) as (drawn, (axes, below)):
        joint = calibration(y, predicted["joint"])
        least = max(1e-3, float(np.max(np.concatenate([joint.predicted, joint.observed + joint.error]))))
        top = min(1.0, 1.1 * least)
        axes.plot([0, top], [0, top], color=LINE, linewidth=1.2)
        error = np.stack([np.minimum(1.96 * joint.error, joint.observed), 1.96 * joint.error])
        axes.errorbar(
            joint.predicted, joint.observed, yerr=error, color=JOINT, marker="o", markersize=4.5, linewidth=1.6
        )
        shares(axes, "x", "y")
        axes.set_ylim(0, top)
        axes.set_ylabel("observed share")
        below.hist(predicted["joint"], bins=np.linspace(0, top, 31).tolist(), color=JOINT, alpha=0.55)
        below.set_xlim(0, top)
        below.grid(visible=False, axis="x")
        below.locator_params(axis="y", nbins=2)
        thousands(below.yaxis)
        label_axes(below, "predicted probability", "rows")
        svg = to_svg(drawn, "calibration")
    off = float(np.sum(joint.rows * np.abs(joint.predicted - joint.observed)) / joint.rows.sum())
    return Figure(
        "calibration",
        "Calibration",
        svg,
        f"Observed shares of positives against predicted probabilities in {len(joint.rows)} groups of rows; they "
        f"differ by {percent(off)} of the rows on average.",
        f"Points on the diagonal: probabilities can be taken at their word. They are off by {100 * off:.1f} points on "
        "average. Bars are 95 % intervals; below, how many rows have each probability.",
        [Key("joint", "joint model, ten groups of rows", "dot")],
    )


def _scores(y: Floats, p: Floats, rows: Ranked, classes: tuple[str, ...]) -> Figure:
    edges = np.linspace(0, _reach(rows), 41)
    heights = [
        np.histogram(np.minimum(p[y == label], edges[-1]), edges)[0] / max(1, int((y == label).sum()))
        for label in (0, 1)
    ]
    with canvas() as (drawn, (axes,)):
        for values, colour in zip(heights, (NEGATIVE, POSITIVE), strict=True):
            axes.stairs(values, edges, fill=True, color=colour, alpha=0.35)
            axes.stairs(values, edges, color=colour, linewidth=1.6)
        shares(axes, "y")
        axes.set_ylim(0, 1.08 * max(values.max() for values in heights))
        axes.set_xlim(0, edges[-1])
        label_axes(axes, "joint score", "share of the class")
        svg = to_svg(drawn, "scores")
    named = classes if len(classes) == 2 else ("negative", "positive")
    middle = [float(np.median(p[y == label])) for label in (0, 1)]
    return Figure(
        "scores",
        "Scores by class",
        svg,
        f"Distribution of the joint scores; medians {middle[0]:.3f} of negative and {middle[1]:.3f} of positive rows.",
        f"The less the two overlap, the better. Medians: {middle[0]:.3f} and {middle[1]:.3f}.",
        [
            Key("negative", f"negative: {named[0]} ({plural(int((y == 0).sum()), 'row')})", "box"),
            Key("positive", f"positive: {named[1]} ({plural(int((y == 1).sum()), 'row')})", "box"),
        ],
    )


def _thresholds(rows: Ranked) -> Figure:
    recall, precision = rows.found / rows.positives, rows.found / (rows.found + rows.wrong)
    f1 = 2 * rows.found / (rows.found + rows.wrong + rows.positives)
    best, _ = best_f1(rows)
    enough = rows.found + rows.wrong >= min(_FEW, rows.positives)  # precision of a handful of rows is noise
    with canvas() as (drawn, (axes,)):
        for values, colour in ((precision, "c3"), (recall, "c2"), (f1, "joint")):
            axes.plot(*thinned(rows.scores[enough], values[enough]), color=COLOURS[colour], linewidth=1.8)
        axes.axvline(best, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        shares(axes, "y")
        axes.set_xlim(0, _reach(rows))
        label_axes(axes, "threshold: rows from that score on are called positive", "")
        svg = to_svg(drawn, "thresholds")
    return Figure(
        "thresholds",
        "What a threshold does",
        svg,
        f"Precision, recall and F1 over all thresholds; F1 is largest at {best:.3f}.",
        f"A lower threshold finds more positives and raises more false alarms. F1 is largest at {best:.3f}.",
        [
            Key("c3", "precision"),
            Key("c2", "recall"),
            Key("joint", "F1"),
            Key("ink", "largest F1", "dashed"),
        ],
    )


def gain_table(evidence: Evidence) -> list[tuple[str, ...]]:
    """Rows of the gain and lift table: decile, rows, positives, their share, lift, positives found so far."""
    if len(np.unique(evidence.y)) < 2:
        return []
    lines = deciles(*_rows(evidence))
    return [
        (
            f"{number}",
            f"{line.rows:,}",
            f"{line.positives:,}",
            percent(line.rate),
            f"{line.lift:.2f}",
            percent(line.captured),
        )
        for number, line in enumerate(lines, 1)
    ]


def matrices(evidence: Evidence) -> list[Matrix]:
    """Confusion matrices of the joint model: at the threshold of the largest F1, and at one half."""
    y, p = _rows(evidence)
    if len(np.unique(y)) < 2:
        return []
    best, _ = best_f1(ranked(y, p))
    chosen = "where F1 is largest on these very test rows, so a little flattering"
    return [
        _matrix(y, p, best, f"Threshold {significant(best)}", chosen, evidence.classes),
        _matrix(y, p, 0.5, "Threshold 0.5", "the one that the metrics above use", evidence.classes),
    ]


def _matrix(y: Floats, p: Floats, threshold: float, title: str, note: str, classes: tuple[str, ...]) -> Matrix:
    cells = confusion(y, p, threshold)
    (true_negative, false_positive), (missed, hit) = cells.tolist()
    called, positive = hit + false_positive, hit + missed
    figures = [
        ("accuracy", percent((hit + true_negative) / cells.sum())),
        ("precision", percent(hit / called) if called else "–"),
        ("recall", percent(hit / positive) if positive else "–"),
        ("F1", significant(2 * hit / (called + positive)) if called + positive else "–"),
    ]
    named = classes if len(classes) == 2 else ("negative", "positive")
    return Matrix(title, note, named, shaded(cells.tolist()), figures)


def shaded(cells: list[list[int]]) -> list[list[tuple[str, str, int]]]:
    """Counts of a matrix with their share of the row, as text and as a shade from 0 to 100."""
    lines = []
    for row in cells:
        total = sum(row) or 1
        lines.append([(f"{value:,}", percent(value / total, 0), round(100 * value / total)) for value in row])
    return lines
