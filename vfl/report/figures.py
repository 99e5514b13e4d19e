"""How a figure is drawn: matplotlib to SVG that stands in the page and takes the page's colours, light or dark.

Nothing that a user named (columns, parties, classes) is ever drawn by matplotlib: such names stand in HTML, where they
are escaped, wrap, and have whatever glyphs they need. Colours are drawn as marks which become the page's CSS
variables; text stays text. The same figure gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vfl.report.words import fixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure as Canvas

WIDTH, HEIGHT = 4.2, 2.9  # inches of 72 points: as wide as a telephone, so that text keeps its size there
COLOURS = {
    "ink": "#010203",
    "muted": "#010204",
    "line": "#010205",
    "card": "#010206",
    "joint": "#010207",
    "alone": "#010208",
    "pooled": "#010209",
    "negative": "#01020a",
    "positive": "#01020b",
    "c1": "#01020c",
    "c2": "#01020d",
    "c3": "#01020e",
    "c4": "#01020f",
    "c5": "#010210",
    "c6": "#010211",
    "c7": "#010212",
    "c8": "#010213",
}
"""Marks for the page's colours; no figure has these shades of black otherwise."""
INK, MUTED, LINE, CARD, JOINT, ALONE, POOLED, NEGATIVE, POSITIVE = (COLOURS[name] for name in list(COLOURS)[:9])
SERIES = tuple(f"c{number}" for number in range(1, 9))

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # wider than what browsers take, so that what fits here fits there
    "font.size": 9.0,
    "text.parse_math": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1.0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.limits": (-4, 6),
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "patch.linewidth": 0.0,
    "path.simplify_threshold": 0.2,
}


@dataclass(frozen=True, slots=True)
class Key:
    """A line of a figure's legend: the page's colour, how it is drawn, and what it is."""

    colour: str
    label: str
    look: str = "line"


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of the page.

    Parameters
    ----------
    name : str
        Its id in the page.
    alt : str
        What it says, for those who do not see it.
    caption : str
        How to read it.
    """

    name: str
    title: str
    svg: str
    alt: str
    caption: str
    legend: Sequence[Key] = ()


MODEL_KEYS = {
    "joint": Key("joint", "joint model"),
    "active_only": Key("alone", "active party alone"),
    "pooled": Key("pooled", "pooled data", "dashed"),
}


@contextmanager
def canvas(
    *, width: float = WIDTH, height: float = HEIGHT, rows: int = 1, ratios: Sequence[float] = ()
) -> Iterator[tuple[Canvas, list[Axes]]]:
    """A figure with one or several axes above each other, in the page's style."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(_STYLE):
        drawn = Canvas(figsize=(width, height), layout="constrained")
        axes = drawn.subplots(rows, 1, sharex=rows > 1, squeeze=False, height_ratios=list(ratios) or None)
        yield drawn, list(axes[:, 0])


def to_svg(drawn: Canvas, name: str) -> str:
    """A figure as an SVG element: ids of its own, the page's colours, no size but its proportions."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.id": None}):
        drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return tidy(buffer.getvalue(), name)


def tidy(text: str, name: str) -> str:
    """An SVG file of matplotlib as an element of the page.

    >>> tidy('<?xml?><svg width="3pt" height="2pt" viewBox="0 0 3 2"><metadata>x</metadata>'
    ...      '<g id="a" style="fill: #010203"/></svg>', "roc")
    '<svg viewBox="0 0 3 2" aria-hidden="true" focusable="false"><g id="roc-a" style="fill: var(--ink)"/></svg>'
    """
    body = text[text.index("<svg") :].strip()
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]*)"', body)
    start = f'<svg viewBox="{box[1] if box else ""}" aria-hidden="true" focusable="false">'
    body = re.sub(r"<svg[^>]*>", start, body, count=1)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r"(href=\"#|url\(#)", rf"\g<1>{name}-", body).replace("xlink:href", "href")
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    for colour, mark in COLOURS.items():
        body = body.replace(mark, f"var(--{colour})")
    return re.sub(r"\n\s*", "\n", body)


def label_axes(axes: Axes, x: str, y: str) -> None:
    """Names of both axes."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def shares(axes: Axes, *which: str) -> None:
    """Axes from 0 to 1 in percent."""
    from matplotlib.ticker import PercentFormatter

    for one in which:
        getattr(axes, f"set_{one}lim")(0, 1)
        getattr(axes, f"{one}axis").set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


def thousands(axis: Axis) -> None:
    """As many decimals as the ticks need, thousands separated, real minus signs."""
    from matplotlib.ticker import FuncFormatter

    def write(value: float, _: object) -> str:
        ticks = axis.get_majorticklocs()
        return fixed(value, next((n for n in range(9) if all(abs(round(t, n) - t) < 1e-9 for t in ticks)), 9))

    axis.set_major_formatter(FuncFormatter(write))
