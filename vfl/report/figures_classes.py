"""Figures and tables of several classes: which are taken for which, and how well each is told from the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vfl.report.curves import area, calibration, ranked, roc, thinned
from vfl.report.evidence import Evidence
from vfl.report.figures import COLOURS, JOINT, LINE, SERIES, Figure, Key, canvas, label_axes, shares, to_svg
from vfl.report.figures_binary import Matrix, shaded
from vfl.report.words import percent, significant

_DRAWN = len(SERIES)


def class_matrix(evidence: Evidence) -> Matrix | None:
    """Confusion matrix of the class with the largest joint probability."""
    cells = _confusion(evidence)
    if not cells.sum():
        return None
    right = float(np.trace(cells) / cells.sum())
    note = "each row goes to the class with its largest probability; shades are shares of the true class"
    return Matrix("Joint model", note, evidence.classes, shaded(cells.tolist()), [("accuracy", percent(right))])


def class_table(evidence: Evidence) -> list[tuple[str, ...]]:
    """Per class: its name, precision, recall, F1, test rows, and area under its curve against the rest."""
    cells = _confusion(evidence)
    lines: list[tuple[str, ...]] = []
    for code, name in enumerate(evidence.classes):
        hit, called, support = int(cells[code, code]), int(cells[:, code].sum()), int(cells[code].sum())
        auc = _area(evidence, code)
        lines.append(
            (
                name,
                percent(hit / called) if called else "–",
                percent(hit / support) if support else "–",
                significant(2 * hit / (called + support)) if called + support else "–",
                f"{support:,}",
                "–" if auc is None else f"{auc:.3f}",
            )
        )
    return lines


def class_figures(evidence: Evidence) -> list[Figure]:
    """One class against the rest, and whether the probability of the called class can be believed."""
    drawn = [code for code in range(len(evidence.classes)) if _area(evidence, code) is not None]
    figures = [_one_against_rest(evidence, drawn)] if 0 < len(drawn) <= _DRAWN else []
    return [*figures, _certainty(evidence)] if len(evidence.y) > 1 else figures


def _confusion(evidence: Evidence) -> NDArray[np.int64]:
    k = len(evidence.classes)
    called = evidence.predicted["joint"].argmax(axis=1)
    return np.bincount(k * evidence.y.astype(np.int64) + called, minlength=k * k).reshape(k, k)


def _area(evidence: Evidence, code: int) -> float | None:
    """Area under the ROC curve of a class against the rest; None where the test rows lack one of the two."""
    y = (evidence.y == code).astype(np.float64)
    if len(np.unique(y)) < 2:
        return None
    return area(*roc(ranked(y, evidence.predicted["joint"][:, code])))


def _one_against_rest(evidence: Evidence, codes: list[int]) -> Figure:
    keys, areas = [], []
    with canvas() as (drawn, (axes,)):
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1.2)
        for code, colour in zip(codes, SERIES, strict=False):
            rows = ranked((evidence.y == code).astype(np.float64), evidence.predicted["joint"][:, code])
            x, y = roc(rows)
            areas.append(area(x, y))
            axes.plot(*thinned(x, y), color=COLOURS[colour], linewidth=1.8)
            keys.append(Key(colour, f"{evidence.classes[code]}, AUC {areas[-1]:.3f}"))
        shares(axes, "x", "y")
        label_axes(axes, "share of other classes called so", "share of the class found")
        svg = to_svg(drawn, "roc")
    return Figure(
        "roc",
        "ROC curves, each class against the rest",
        svg,
        f"ROC curves of {len(codes)} classes; areas from {min(areas):.3f} to {max(areas):.3f}.",
        "The further a curve bends to the upper left, the better its class is told from the others.",
        keys,
    )


def _certainty(evidence: Evidence) -> Figure:
    p = evidence.predicted["joint"]
    sure, right = p.max(axis=1), (p.argmax(axis=1) == evidence.y).astype(np.float64)
    groups = calibration(right, sure)
    with canvas() as (drawn, (axes,)):
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1.2)
        error = np.stack(
            [np.minimum(1.96 * groups.error, groups.observed), np.minimum(1.96 * groups.error, 1 - groups.observed)]
        )
        axes.errorbar(
            groups.predicted, groups.observed, yerr=error, color=JOINT, marker="o", markersize=5, linewidth=1.6
        )
        shares(axes, "x", "y")
        label_axes(axes, "probability of the called class", "share of calls that are right")
        svg = to_svg(drawn, "certainty")
    return Figure(
        "certainty",
        "Calibration",
        svg,
        f"Share of right calls against the probability of the called class, in {len(groups.rows)} groups of rows.",
        "Points on the diagonal: the probability of the called class can be believed. Bars are 95 % intervals.",
        [Key("joint", "joint model, ten groups of rows", "dot")],
    )
