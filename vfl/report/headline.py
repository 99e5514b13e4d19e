"""The first thing that a reader sees: how good the joint model is beside the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vfl.events import Comparison, Metrics
from vfl.report.evidence import OWN
from vfl.report.introduction import exposure
from vfl.report.run_directory import RunDirectory
from vfl.report.summary import RunReport
from vfl.report.words import (
    CHIEF,
    METRICS,
    RULES,
    decimals_for,
    fixed,
    listed,
    plural,
    probability,
    significant,
)

_EQUAL = 1e-3  # of the joint figure: a difference that no use of the model would show
_ORDER = ("joint", "active_only", "pooled")
_SILOS = 6  # of more, the best and the worst ones stand in the headline
_NO_COLUMNS = "no columns: the training mean"


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure with its interval, where there is one; ``low`` and ``high`` are texts."""

    value: str
    low: str = ""
    high: str = ""
    best: bool = False


@dataclass(frozen=True, slots=True)
class MetricRow:
    """A metric of all models."""

    name: str
    meaning: str
    direction: str
    cells: list[Cell]


@dataclass(frozen=True, slots=True)
class Dot:
    """A model's chief figure on a common axis: positions in percent of its width."""

    colour: str
    label: str
    note: str
    cell: Cell
    at: float
    left: float
    width: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """One sentence on the joint model beside another one, and what it rests on."""

    text: str
    proof: str = ""


@dataclass(frozen=True, slots=True)
class Headline:
    """What the top of the page says."""

    metric: str
    meaning: str
    dots: list[Dot]
    verdicts: list[Verdict]


@dataclass(frozen=True, slots=True)
class Without:
    """The joint model without one passive party."""

    metric: str
    dots: list[Dot]
    verdict: str
    names: list[str]
    rows: list[MetricRow]


def model_names(run: RunDirectory) -> dict[str, str]:
    """What the models of a report are called in sentences, e.g. "bank alone"."""
    alone = {f"{OWN}{name}": f"{name.partition('.')[2] or name} alone" for name in run.report.alone}
    return {"joint": "joint model", "active_only": f"{run.label_holder} alone", "pooled": "pooled data"} | alone


def figures_of(report: RunReport) -> dict[str, Metrics]:
    """Metrics by model in the order of the page; those of silos alone under the names that comparisons have."""
    known = {name: report.metrics[name] for name in _ORDER if report.metrics.get(name)}
    return known | {f"{OWN}{name}": figures for name, figures in report.alone.items()}


def headline(run: RunDirectory) -> Headline | None:
    """The chief figures and what follows from them; None where the role knows none."""
    report = run.report
    metric = CHIEF[report.task]
    models = {name: figures for name, figures in figures_of(report).items() if figures.get(metric) is not None}
    if "joint" not in models:
        return None
    names, notes = model_names(run), _notes(run)
    colours = {"joint": "joint", "active_only": "alone", "pooled": "pooled"}
    own = [name for name in models if name.startswith(OWN)]
    lines = [
        (colours.get(name, "muted"), names[name], notes.get(name, ""), name, figures)
        for name, figures in _shown(report, models).items()
    ]
    others = [name for name in ("active_only", "pooled") if name in models]
    verdicts = [_verdict(report, name, names[name]) for name in others]
    verdicts += [_beside_silos(report, {name: models[name] for name in own}, names)] if own else []
    title = METRICS[metric][0]
    dots = _dots(report, metric, lines)
    return Headline(title[:1].upper() + title[1:], METRICS[metric][1], dots, verdicts or [_alone(report)])


def _notes(run: RunDirectory) -> dict[str, str]:
    """What each model was made of."""
    if run.horizontal:
        averaged = run.report.training.aggregation
        how = RULES[averaged.rule][0] if averaged is not None else "averaging"
        rows = {party.name: party.rows for party in run.report.parties}
        return {
            "joint": f"{how} of {plural(len(rows), 'silo')}: nobody saw another's rows",
            "pooled": "one model on all silos' rows in one place, for comparison",
        } | {f"{OWN}{name}": "a model of its own rows, on all silos' test rows" for name in rows}
    joint = "sent as outputs of their own networks" if run.in_the_clear else "nobody saw anybody's rows"
    joint = "from which a guard says that rows can be worked out" if exposure(run) == "all" else joint
    silos = ", of all its silos" if len(run.labelled) > 1 else ""
    return {
        "joint": f"all parties' columns, {joint}",
        "active_only": f"the label holder's own columns{silos}" if run.active.features else _NO_COLUMNS,
        "pooled": "all columns in one place, for comparison",
    }


def _shown(report: RunReport, models: dict[str, Metrics]) -> dict[str, Metrics]:
    """The models that there is room for: of many silos alone the best and the worst ones, best first."""
    metric = CHIEF[report.task]
    own = [name for name in models if name.startswith(OWN)]
    best = sorted(own, key=lambda name: _value(models[name], metric), reverse=METRICS[metric][2])
    kept = best if len(best) <= _SILOS else [*best[: _SILOS // 2], *best[-_SILOS // 2 :]]
    return {name: models[name] for name in [*(name for name in models if name not in own), *kept]}


def _beside_silos(report: RunReport, models: dict[str, Metrics], names: dict[str, str]) -> Verdict:
    """The joint model beside what each silo reaches with its own rows."""
    metric = CHIEF[report.task]
    title, _, more = METRICS[metric]
    joint = _value(report.metrics["joint"], metric)
    gains = {name: (joint - _value(figures, metric)) * (1 if more else -1) for name, figures in models.items()}
    least, most = min(gains, key=lambda name: gains[name]), max(gains, key=lambda name: gains[name])
    digits = max(decimals_for([joint]), min(decimals_for([gains[least]], 2), decimals_for([joint]) + 1))
    known = report.comparison
    open_ = [name for name in gains if name in known and known[name].low <= 0 <= known[name].high]
    worse = [name for name, gain in gains.items() if gain < 0 and name not in open_]
    side = "higher" if more else "lower"
    if worse:
        who, does = _plain(worse, names), "does" if len(worse) == 1 else "do"
        other = "lower" if more else "higher"
        text = f"Alone {who} {does} better than the joint model: its {title} is {fixed(-gains[least], digits)} {other}."
    elif open_:
        rest = [name for name in gains if name not in open_]
        chance = f"beside {_plain(open_, names)} alone the difference in {title} may be chance."
        text = (
            f"The joint model is better than {_plain(rest, names)} alone; {chance}"
            if rest
            else chance[:1].upper() + chance[1:]
        )
    else:
        span = f"{fixed(gains[least], digits)} to {fixed(gains[most], digits)}"
        text = f"The joint model is better than any silo alone: its {title} is {span} {side}."
    proof = f"Beside {names[least]}: {_proof(known[least], digits)}" if least in known else ""
    return Verdict(text, proof)


def _plain(models: Sequence[str], names: dict[str, str]) -> str:
    return listed([names[name].removesuffix(" alone") for name in models])


def metric_rows(run: RunDirectory) -> tuple[list[str], list[MetricRow]]:
    """All metrics of all models: names of the models, and a row per metric; empty where there are none."""
    models = _shown(run.report, figures_of(run.report))
    if "joint" not in models:
        return [], []
    names = model_names(run)
    return [names[name] for name in models], _rows(run.report, models)


def without_parties(run: RunDirectory) -> Without | None:
    """What each passive party's columns are worth: the joint metric without them."""
    report = run.report
    if not report.without:
        return None
    metric, more = CHIEF[report.task], METRICS[CHIEF[report.task]][2]
    named = {"joint": report.metrics["joint"]} | {f"without {name}": report.without[name] for name in report.without}
    lines = [
        ("joint" if name == "joint" else "muted", "joint model, all parties" if name == "joint" else name, "", name, m)
        for name, m in named.items()
        if m.get(metric) is not None
    ]
    losses = {
        name: (_value(report.metrics["joint"], metric) - _value(m, metric)) * (1 if more else -1)
        for name, m in report.without.items()
        if m.get(metric) is not None
    }
    columns = ["joint model", *(name for name in named if name != "joint")]
    return Without(
        METRICS[metric][0], _dots(report, metric, lines), _most(losses, metric), columns, _rows(report, named)
    )


def _most(losses: dict[str, float], metric: str) -> str:
    """Which party the model would miss most."""
    if not losses:
        return ""
    name = max(losses, key=lambda party: losses[party])
    title, _, more = METRICS[metric]
    change = fixed(abs(losses[name]), decimals_for([losses[name]], 2))
    if losses[name] <= 0:
        return f"On these test rows no party's columns improve {title}."
    worse = "lower" if more else "higher"
    return f"Without {name}'s columns {title} would be {change} {worse}" + (
        "." if len(losses) == 1 else ": the largest loss of any party."
    )


def _verdict(report: RunReport, other: str, name: str) -> Verdict:
    """What the difference between the joint model and another one amounts to."""
    metric = CHIEF[report.task]
    title, _, more = METRICS[metric]
    known = report.comparison.get(other)
    joint = _value(report.metrics["joint"], metric)
    difference = known.difference if known else joint - _value(report.metrics[other], metric)
    digits = max(decimals_for([joint]), min(decimals_for([difference], 2), decimals_for([joint]) + 1))
    amount = fixed(abs(difference), digits)
    proof = _proof(known, digits) if known else ""
    if abs(difference) <= _EQUAL * abs(joint) and other == "pooled":
        bound = 10.0 ** -(digits + 1)
        by = f"less than {fixed(bound, digits + 1)}" if abs(difference) < bound else fixed(abs(difference), digits + 1)
        return Verdict(f"The joint model equals pooled data: {title} differs by {by}.")
    if known and known.low <= 0 <= known.high:
        return Verdict(f"The joint model and {name} differ by {amount} in {title}, which may be chance.", proof)
    side = ("higher" if difference > 0 else "lower") if difference else "no different"
    word = "better" if (difference > 0) == more else "worse"
    return Verdict(f"The joint model is {word} than {name}: its {title} is {amount} {side}.", proof)


def _alone(report: RunReport) -> Verdict:
    """What the joint model reaches, where there is nothing to compare it with."""
    title = METRICS[CHIEF[report.task]][0]
    value = _value(report.metrics["joint"], CHIEF[report.task])
    return Verdict(f"The joint model reaches {title} {significant(value)}.")


def _proof(known: Comparison, digits: int) -> str:
    """Interval and test of a difference, as sizes in the direction of the difference."""
    sign = -1 if known.difference < 0 else 1
    low, high = sorted((sign * known.low, sign * known.high))
    test = {"delong": "DeLong test", "bootstrap": "bootstrap"}.get(known.test, known.test)
    interval = f"95 % interval of the difference {fixed(low, digits)} to {fixed(high, digits)}"
    return f"{interval}, {probability(known.p_value)}, {test}."


def _rows(report: RunReport, models: dict[str, Metrics]) -> list[MetricRow]:
    rows = []
    for metric in report.metrics["joint"]:
        title, meaning, more = METRICS.get(metric, (metric, "", True))
        values = {name: figures.get(metric) for name, figures in models.items()}
        rows.append(
            MetricRow(title, meaning, "more is better" if more else "less is better", _cells(report, metric, values))
        )
    return rows


def _cells(report: RunReport, metric: str, values: dict[str, float | None]) -> list[Cell]:
    share = metric not in ("rmse", "mae", "poisson_deviance")
    digits = min(decimals_for([next(iter(values.values()))]), 3 if share else 6)  # of the joint model, the first
    return [_cell(report, name, metric, value, digits) for name, value in values.items()]


def _cell(report: RunReport, model: str, metric: str, value: float | None, digits: int) -> Cell:
    interval = report.confidence.get(model, {}).get(metric)
    low, high = ("", "") if interval is None or value is None else (fixed(bound, digits) for bound in interval)
    if low == high:  # such as the precision of a model that calls no row positive
        return Cell(fixed(value, digits))
    return Cell(fixed(value, digits), low, high)


def _dots(report: RunReport, metric: str, lines: Sequence[tuple[str, str, str, str, Metrics]]) -> list[Dot]:
    """Figures and intervals on an axis from the least to the largest of them, with some room at both ends."""
    values = {model: _value(figures, metric) for _, _, _, model, figures in lines}
    spans = {model: report.confidence.get(model, {}).get(metric, (value, value)) for model, value in values.items()}
    low = min(min(span[0] for span in spans.values()), min(values.values()))
    high = max(max(span[1] for span in spans.values()), max(values.values()))
    room = 0.06 * (high - low) or 1.0
    low, width = low - room, high - low + 2 * room
    digits = decimals_for([next(iter(values.values()))])
    return [
        Dot(
            colour,
            label,
            note,
            _cell(report, model, metric, values[model], digits),
            round(100 * (values[model] - low) / width, 2),
            round(100 * (spans[model][0] - low) / width, 2),
            round(100 * (spans[model][1] - spans[model][0]) / width, 2),
        )
        for colour, label, note, model, _ in lines
    ]


def _value(metrics: Metrics, name: str) -> float:
    value = metrics.get(name)
    return math.nan if value is None else value
