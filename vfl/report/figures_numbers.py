"""Figures of numbers and counts: how far predictions are from the truth, and whether the misses have a pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vfl.report.curves import Floats, calibration, count_edges, poisson_counts, poisson_deviance, quantile_pairs
from vfl.report.evidence import Evidence
from vfl.report.figures import (
    ALONE,
    INK,
    JOINT,
    MODEL_KEYS,
    MUTED,
    POOLED,
    Figure,
    Key,
    canvas,
    label_axes,
    thousands,
    to_svg,
)
from vfl.report.words import plural, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 700  # more are counted in hexagons
_DRAWN = {"active_only": (ALONE, 1.6, "-"), "joint": (JOINT, 2.2, "-"), "pooled": (POOLED, 1.0, (0, (3, 3)))}


def regression_figures(evidence: Evidence) -> list[Figure]:
    """Predicted against actual, residuals, their histogram and their quantiles."""
    y, p = evidence.y.astype(np.float64), evidence.predicted["joint"]
    if len(y) < 2:
        return []
    return [_actual(y, p), _residuals(y, p), _histogram(evidence), _quantiles(y - p)]


def count_figures(evidence: Evidence) -> list[Figure]:
    """Rootogram, calibration by groups of rows, residuals, and where the deviance comes from."""
    y, p = evidence.y.astype(np.float64), evidence.predicted["joint"]
    if len(y) < 2:
        return []
    return [_rootogram(y, p), _mean_calibration(evidence), _residuals(y, p, pearson=True), _deviance(evidence)]


def cloud(axes: Axes, x: Floats, y: Floats) -> bool:
    """Rows as points, or where they are many as hexagons, the fuller the stronger; says which of the two."""
    if len(x) <= _POINTS:
        axes.plot(x, y, "o", color=JOINT, alpha=0.45, markersize=3.6, markeredgewidth=0)
        return False
    from matplotlib.colors import to_rgba

    held = axes.hexbin(x, y, gridsize=(32, 18), mincnt=1, linewidths=0.3)
    counts = np.asarray(held.get_array(), dtype=np.float64)
    strength = 0.12 + 0.88 * np.log1p(counts) / np.log1p(counts.max())
    held.set_array(None)
    held.set_facecolor([to_rgba(JOINT, round(float(one), 2)) for one in strength])
    held.set_edgecolor("none")
    return True


def _actual(y: Floats, p: Floats) -> Figure:
    with canvas() as (drawn, (axes,)):
        low, high = float(min(y.min(), p.min())), float(max(y.max(), p.max()))
        axes.plot([low, high], [low, high], color=MUTED, linewidth=1.2)
        hexagons = cloud(axes, p, y)
        _numbers(axes)
        label_axes(axes, "predicted by the joint model", "actual")
        svg = to_svg(drawn, "actual")
    r = float(np.corrcoef(y, p)[0, 1]) if y.std() > 0 and p.std() > 0 else 0.0
    return Figure(
        "actual",
        "Predicted and actual",
        svg,
        f"Actual against predicted values of {plural(len(y), 'test row')}; their correlation is {r:.2f}.",
        f"On the thin line predictions are exact. Correlation {r:.2f}.",
        [_cloud_key(hexagons), Key("muted", "predicted = actual")],
    )


def _residuals(y: Floats, p: Floats, *, pearson: bool = False) -> Figure:
    errors = (y - p) / np.sqrt(np.maximum(p, 1e-12)) if pearson else y - p
    with canvas() as (drawn, (axes,)):
        axes.axhline(0, color=MUTED, linewidth=1.2)
        hexagons = cloud(axes, p, errors)
        means = calibration(errors, p)
        if len(means.rows) > 2:
            axes.plot(means.predicted, means.observed, color=INK, linewidth=1.8, marker="o", markersize=3.5)
        _numbers(axes)
        label_axes(
            axes,
            "predicted by the joint model",
            "residual, in standard deviations" if pearson else "actual − predicted",
        )
        svg = to_svg(drawn, "residuals")
    return Figure(
        "residuals",
        "Residuals",
        svg,
        f"Residuals against predictions; their mean is {significant(float(errors.mean()))}.",
        "No pattern is good. A dotted line away from zero: predictions of that size are off to one side.",
        [_cloud_key(hexagons), Key("ink", "mean of each tenth of the rows", "dot")],
    )


def _histogram(evidence: Evidence) -> Figure:
    y = evidence.y.astype(np.float64)
    residuals = {name: y - evidence.predicted[name] for name in _DRAWN if name in evidence.predicted}
    reach = max(float(np.quantile(np.abs(values), 0.995)) for values in residuals.values()) or 1.0
    bins = int(min(40, max(10, len(y) ** 0.5)))
    edges = np.linspace(-reach, reach, bins + 1)
    with canvas() as (drawn, (axes,)):
        axes.stairs(np.histogram(residuals["joint"], edges)[0], edges, fill=True, color=JOINT, alpha=0.3)
        for name, values in residuals.items():
            colour, width, style = _DRAWN[name]
            axes.stairs(np.histogram(values, edges)[0], edges, color=colour, linewidth=width, linestyle=style)
        axes.axvline(0, color=MUTED, linewidth=1.0)
        _numbers(axes)
        label_axes(axes, "actual − predicted", "rows")
        svg = to_svg(drawn, "histogram")
    half = float(np.median(np.abs(residuals["joint"])))
    return Figure(
        "histogram",
        "Size of the misses",
        svg,
        f"Histogram of residuals; half of the joint predictions are within {significant(half)} of the truth.",
        f"Narrower is better. Half of the joint predictions are within {significant(half)} of the truth.",
        [MODEL_KEYS[name] for name in ("joint", "active_only", "pooled") if name in residuals],
    )


def _quantiles(residuals: Floats) -> Figure:
    normal, own = quantile_pairs(residuals)
    with canvas() as (drawn, (axes,)):
        axes.plot(normal[[0, -1]], normal[[0, -1]], color=MUTED, linewidth=1.2)
        axes.plot(normal, own, "o", color=JOINT, markersize=3.2, markeredgewidth=0, alpha=0.7)
        label_axes(axes, "quantile of a normal distribution", "quantile of residuals")
        svg = to_svg(drawn, "quantiles")
    return Figure(
        "quantiles",
        "Are the misses normal?",
        svg,
        "Quantiles of the standardised residuals against those of a normal distribution.",
        "On the line: misses are normally distributed. Ends off the line: large misses are more or less common.",
        [Key("joint", "residuals of the joint model", "dot")],
    )


def _rootogram(y: Floats, p: Floats) -> Figure:
    edges = count_edges(y)
    observed, expected = np.histogram(y, edges)[0], poisson_counts(p, edges)
    width = int(edges[1] - edges[0])
    centres = edges[:-1] + (width - 1) / 2
    with canvas() as (drawn, (axes,)):
        axes.bar(centres, np.sqrt(observed), width=0.8 * width, color=JOINT, alpha=0.55)
        axes.plot(centres, np.sqrt(expected), color=ALONE, marker="o", markersize=4, linewidth=1.8)
        axes.set_ylim(0, None)
        axes.grid(visible=False, axis="x")
        axes.locator_params(axis="x", integer=True)
        ticks = _root_ticks(float(max(observed.max(), expected.max())))
        axes.set_yticks(np.sqrt(ticks), [f"{tick:,.0f}" for tick in ticks])
        label_axes(axes, "count", "rows (square-root scale)")
        svg = to_svg(drawn, "rootogram")
    first, zero = float(expected[0]), int(observed[0])
    which = "the count 0" if width == 1 else f"counts below {width:,}"
    return Figure(
        "rootogram",
        "Rootogram: observed and expected counts",
        svg,
        f"Rows per count, observed and expected under Poisson; {which}: {zero:,} observed, {first:,.0f} expected.",
        f"Bars that end at the line: counts are as varied as a Poisson model says. {which[:1].upper()}{which[1:]}: "
        f"{zero:,} observed, {first:,.0f} expected.",
        [Key("joint", "observed", "box"), Key("alone", "expected by the joint model", "dot")],
    )


def _root_ticks(most: float) -> Floats:
    """Round numbers of rows that lie evenly on a square-root scale."""
    ticks = [0.0]
    for share in (0.25, 0.5, 0.75, 1.0):
        value = most * share**2
        unit = 10 ** np.floor(np.log10(max(value, 1)))
        ticks.append(float(np.floor(value / unit) * unit))
    return np.unique(ticks)


def _mean_calibration(evidence: Evidence) -> Figure:
    y = evidence.y.astype(np.float64)
    with canvas() as (drawn, (axes,)):
        joint = calibration(y, evidence.predicted["joint"])
        top = 1.08 * float(np.max(np.concatenate([joint.predicted, joint.observed + 1.96 * joint.error])))
        axes.plot([0, top], [0, top], color=MUTED, linewidth=1.2)
        axes.errorbar(
            joint.predicted,
            joint.observed,
            yerr=1.96 * joint.error,
            color=JOINT,
            marker="o",
            markersize=5,
            linewidth=1.6,
        )
        axes.set_xlim(0, None)
        axes.set_ylim(0, None)
        _numbers(axes)
        label_axes(axes, "mean prediction of a tenth of the rows", "mean count")
        svg = to_svg(drawn, "calibration")
    return Figure(
        "calibration",
        "Calibration",
        svg,
        f"Mean counts against mean predictions: from {significant(float(joint.observed[0]))} in the group of the least "
        f"to {significant(float(joint.observed[-1]))} in that of the largest predictions.",
        "Points on the line: predicted means can be taken at their word. Bars are 95 % intervals.",
        [Key("joint", "joint model, ten groups of rows", "dot"), Key("muted", "predicted = observed")],
    )


def _deviance(evidence: Evidence) -> Figure:
    y, joint = evidence.y.astype(np.float64), evidence.predicted["joint"]
    parts = np.array_split(np.argsort(joint, kind="stable"), min(10, len(y)))
    means = {
        name: [float(poisson_deviance(y[part], evidence.predicted[name][part]).mean()) for part in parts]
        for name in _DRAWN
        if name in evidence.predicted
    }
    with canvas() as (drawn, (axes,)):
        for name, values in means.items():
            colour, width, style = _DRAWN[name]
            marker = "o" if name == "joint" else ""
            axes.plot(range(1, len(parts) + 1), values, color=colour, linewidth=width, linestyle=style, marker=marker)
        axes.set_ylim(0, None)
        axes.set_xticks(range(1, len(parts) + 1))
        thousands(axes.yaxis)
        label_axes(axes, "tenth of the rows, smallest predictions first", "mean deviance")
        svg = to_svg(drawn, "deviance")
    whole = float(poisson_deviance(y, joint).mean())
    return Figure(
        "deviance",
        "Deviance",
        svg,
        f"Mean Poisson deviance of each tenth of the rows; {significant(whole)} over all rows for the joint model.",
        f"How far counts are from predictions: lower is better. Over all rows: {significant(whole)}.",
        [MODEL_KEYS[name] for name in ("joint", "active_only", "pooled") if name in means],
    )


def _numbers(axes: Axes) -> None:
    thousands(axes.xaxis)
    thousands(axes.yaxis)


def _cloud_key(hexagons: bool) -> Key:
    return (
        Key("joint", "test rows, stronger where there are many", "hexagon")
        if hexagons
        else Key("joint", "a test row", "dot")
    )
