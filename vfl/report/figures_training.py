"""The loss from round to round."""

from __future__ import annotations

import math

import numpy as np

from vfl.report.figures import ALONE, JOINT, Figure, Key, canvas, label_axes, thousands, to_svg
from vfl.report.summary import RunReport
from vfl.report.words import plural, round_word, significant


def loss_figure(report: RunReport, *, rounds: bool = False) -> Figure | None:
    """Loss of the training rows, and of the validation rows where there are any; None below two figures.

    ``rounds``: a round is one of averaging, whatever the model.
    """
    loss, validation = report.training.loss, report.training.validation_loss
    if sum(math.isfinite(value) for value in loss) < 2:
        return None
    what = round_word(report.model, rounds=rounds)
    with canvas() as (drawn, (axes,)):
        dots = "o" if len(loss) <= 40 else ""
        axes.plot(range(len(loss)), np.array(loss), color=JOINT, marker=dots, markersize=4)
        if validation:
            first = len(loss) - len(validation)  # networks look at the validation rows after an epoch only
            axes.plot(
                range(first, len(loss)), np.array(validation), color=ALONE, marker=dots, markersize=4, linewidth=1.6
            )
        axes.locator_params(axis="x", integer=True)
        axes.margins(x=0.02)
        thousands(axes.yaxis)
        label_axes(axes, what, "mean loss")
        svg = to_svg(drawn, "loss")
    ends = f"from {significant(loss[0], 4)} at the start to {significant(loss[-1], 4)}"
    with_penalty = "" if report.model in ("boosting", "splitnn") else ", penalty included"
    keys = [Key("joint", f"training rows{with_penalty}"), *([Key("alone", "validation rows")] if validation else [])]
    return Figure(
        "loss",
        f"Loss per {what}",
        svg,
        f"Loss over {plural(len(loss) - 1, what)}: {ends}.",
        f"{ends[:1].upper()}{ends[1:]} after {plural(len(loss) - 1, what)}.",
        keys,
    )
