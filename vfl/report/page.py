"""``report.html``: one run as one page for people, made of what lies in the run's directory and of nothing else.

The page stands alone: styles and figures are in it, it loads nothing and needs no script. The same directory gives the
same page.
"""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from markupsafe import Markup, escape

from parties.durable import write_durably
from parties.errors import ConfigError
from parties.link import COORDINATOR
from vfl import __version__
from vfl.audit import size_text
from vfl.report.columns import ColumnPart, columns_of
from vfl.report.figures import Figure
from vfl.report.figures_training import loss_figure
from vfl.report.flow import SPENT, funnel, messages, phases, time_split, time_table
from vfl.report.gradients import gradients
from vfl.report.headline import headline, metric_rows, without_parties
from vfl.report.introduction import introduction, training_line
from vfl.report.learnt import hidden, learnt, nothing_learnt
from vfl.report.run_directory import RunDirectory, read_run_directory
from vfl.report.silos import noise, silos
from vfl.report.summary import RunReport
from vfl.report.words import count, listed, round_word, seconds

PAGE = "report.html"
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures and tables of the test rows, as the task has them."""

    figures: Sequence[Figure] = ()
    gains: Sequence[tuple[str, ...]] = ()
    matrices: Sequence[Any] = ()
    classes: Sequence[tuple[str, ...]] = ()

    def __bool__(self) -> bool:
        return bool(self.figures or self.gains or self.matrices or self.classes)


def write_page(folder: Path, *, role: str | None = None) -> Path:
    """Write ``report.html`` into a run's directory, whole or not at all.

    Parameters
    ----------
    folder : Path
        Directory that ``vfl run``, ``vfl join``, ``vfl coordinator`` or ``vfl evaluate`` left.
    role : str, optional
        Whose directory it is, where the report does not say; of other roles' folders nothing is read then.

    Returns
    -------
    Path
        Where the page lies.

    Raises
    ------
    DataError
        The directory holds no run, or a file of it is damaged or another version's.
    ConfigError
        The page cannot be written there.
    """
    html = render(read_run_directory(folder, role))
    path = folder / PAGE
    try:
        write_durably(path, html.encode())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); make room or give the right to") from None
    return path


def render(run: RunDirectory) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = _breakable
    content = _content(run)
    return environment.get_template("template.html.j2").render(**content, contents=_contents(content))


def _content(run: RunDirectory) -> dict[str, Any]:
    """Everything that the template shows; empty where there is none of it."""
    models, rows = metric_rows(run)
    kind, parts = columns_of(run)
    unseen = hidden(run)
    return {
        "run": run,
        "report": run.report,
        "own": next((party for party in run.report.parties if party.name == run.role), None),
        "title": run.report.name if run.role is None else f"{run.report.name}: {run.role}",
        "subtitle": _subtitle(run),
        "introduction": introduction(run),
        "training_line": training_line(run),
        "headline": headline(run),
        "tiles": _tiles(run),
        "metric_models": models,
        "metric_rows": rows,
        "intervals": any(cell.low for row in rows for cell in row.cells),
        "without": without_parties(run),
        "quality": _quality(run),
        "loss": None if run.report.evaluates else loss_figure(run.report, rounds=run.in_rounds),
        "course": [] if run.report.evaluates else _course(run),
        "rows_are": "new rows" if run.report.evaluates else "test rows",
        "columns_kind": kind,
        "columns": parts,
        "several": _several(parts),
        "funnel": funnel(run),
        "flow": messages(run),
        "time": time_split(run),
        "time_rows": time_table(run),
        "spent": SPENT,
        "hub": _hub(run),
        "kind": "Horizontal federated learning" if run.horizontal else "Vertical federated learning",
        "silos": silos(run),
        "noise": noise(run),
        "gradients": gradients(run),
        "phases": phases(run),
        "learnt": learnt(run),
        "nothing_learnt": nothing_learnt(run),
        "hidden": unseen,
        "hidden_rows": [(line.how, line.opens, line.names, line.messages, line.size) for line in unseen],
        "guards": [line.removeprefix("guard: ") for line in run.report.warnings if line.startswith("guard: ")],
        "warnings": [line for line in run.report.warnings if not line.startswith("guard: ")],
        "facts": _facts(run),
        "lines": _job_lines(run),
        "digests": run.digests,
    }


def _contents(content: dict[str, Any]) -> list[tuple[str, str]]:
    """Ids and titles of the sections that the page has."""
    titles = {
        "quality": "Quality in detail",
        "course": "Training",
        "columns": "Importance of columns" if content["columns_kind"] == "importance" else "Coefficients",
        "funnel": "Rows",
        "flow": "Messages",
        "time": "Time",
        "silos": "Silos",
        "noise": "Differential privacy",
        "gradients": "What gradients tell",
        "learnt": "Who learnt what",
        "hidden": "What stayed hidden",
    }
    first = [("metrics", "Metrics")] if content["metric_rows"] else []
    worth = [("without", "Worth of each party")] if content["without"] else []
    time = content["time"] or content["phases"]
    present = [(name, title) for name, title in titles.items() if (time if name == "time" else content[name])]
    guards = [("guards", "Guards and warnings")] if content["guards"] or content["warnings"] else []
    return [*first, *worth, *present, *guards, ("reproduce", "Reproduce")]


def _quality(run: RunDirectory) -> Quality:
    """What the evidence shows."""
    evidence = run.evidence
    if evidence is None or not len(evidence.y):
        return Quality()
    if evidence.task == "binary":
        from vfl.report.figures_binary import binary_figures, gain_table, matrices

        return Quality(binary_figures(evidence), gain_table(evidence), matrices(evidence))
    if evidence.task == "multiclass":
        from vfl.report.figures_classes import class_figures, class_matrix, class_table

        matrix = class_matrix(evidence)
        return Quality(class_figures(evidence), (), [] if matrix is None else [matrix], class_table(evidence))
    from vfl.report.figures_numbers import count_figures, regression_figures

    return Quality(regression_figures(evidence) if evidence.task == "regression" else count_figures(evidence))


def _hub(run: RunDirectory) -> str:
    """What the coordinator does with what passes through it."""
    if run.horizontal:
        return "adds up what it cannot read one by one"
    return "passes on what it cannot read" if run.in_the_clear else "passes on and adds up what it cannot read"


def _several(parts: Sequence[ColumnPart]) -> bool:
    return any(part.scores for part in parts)


def _subtitle(run: RunDirectory) -> str:
    """Whose page it is."""
    if run.report.evaluates:
        return f"An evaluation on new rows of the model of run {run.report.evaluates}."
    if run.role is None:
        return "A run of all roles on one machine: this page shows what each of them has."
    if run.role == COORDINATOR:
        return "The coordinator's own page: it has neither ids, columns, labels nor scores."
    if run.role in run.labelled:
        what = "the active party" if len(run.labelled) == 1 else f"a silo of {run.label_holder}, which holds the labels"
        return f"The own page of {run.role}, {what}: what it may know, and nothing else."
    return f"The own page of {run.role}, a passive party: what it may know, and nothing else."


def _tiles(run: RunDirectory) -> list[tuple[str, str]]:
    """The size of the run in a few figures."""
    report = run.report
    own = next((party for party in report.parties if party.name == run.role), None)
    features = [[party.features for party in parties if party.features is not None] for parties in run.holders.values()]
    columns = [max(known) for known in features if known]
    common = ("rows in common", count(report.alignment.intersection))
    tiles = [
        ("silos", count(len(report.parties))) if run.horizontal else common,
        ("new rows" if report.evaluates else "test rows", count(run.judged)),
    ]
    if own is not None and own.features is not None:
        tiles.append(("own columns", count(own.features)))
    elif run.role is None:
        tiles.append(("columns of all", count(sum(columns))))
    return [
        *tiles,
        (f"{round_word(report.model, rounds=run.in_rounds)}s", count(report.training.rounds)),
        ("time in all", seconds(report.seconds.get("total", 0.0))),
        ("bytes sent" if run.role is None else "own traffic", size_text(sum(entry.bytes for entry in run.entries))),
    ]


def _course(run: RunDirectory) -> list[tuple[str, str]]:
    """How the training went."""
    report = run.report
    training, rows = report.training, report.rows
    holder = "the active party" if training.key_holder == "active" else "the coordinator"
    holder = "nobody" if run.in_the_clear or run.horizontal else holder
    encrypted, decrypted = report.crypto.encryptions, report.crypto.decryptions
    split = [f"{count(rows[part])} {part}" for part in ("train", "validation", "test") if rows.get(part) is not None]
    course = [
        *_network(run),
        (f"{round_word(report.model, rounds=run.in_rounds).title()}s", count(training.rounds)),
        ("Kept", _kept_epoch(report)),
        ("Converged", _converged(report)),
        ("Rows", ", ".join(split)),
        ("Key holder", holder),
        ("Why", training.key_holder_reason),
        ("Messages", f"{count(training.messages)}, {size_text(training.bytes)}"),
        ("Encryptions", f"{count(encrypted)}, and {count(decrypted)} decryptions" if encrypted or decrypted else ""),
        ("Duration", seconds(training.seconds)),
    ]
    return [(name, value) for name, value in course if value]


def _network(run: RunDirectory) -> list[tuple[str, str]]:
    """How a network was held and what it looks like, as far as the job says."""
    if run.report.model != "splitnn":
        return []
    if run.horizontal:
        return _layers(run)
    mode = "split: every party its own network below, outputs and gradients in the clear"
    if not run.in_the_clear:
        mode = "source-layer: one first layer held by all parties in shares, computed under encryption"
    return [("Mode", mode), *_layers(run)]


def _layers(run: RunDirectory) -> list[tuple[str, str]]:
    """Widths of a network, where a folder says the job."""
    kept = next(iter(run.kept.values()), None)
    if kept is None:
        return []
    network = kept.job.splitnn
    above = f", then {listed([count(width) for width in network.hidden])}" if network.hidden else ""
    added = "" if run.horizontal else ", to which all parties add"
    return [("Layers", f"{count(network.units)} units{added}{above}; {network.activation}")]


def _kept_epoch(report: RunReport) -> str:
    """Which epoch's weights a network has in the end, where validation rows chose it."""
    losses = report.training.validation_loss
    if report.model != "splitnn" or not losses or not all(map(math.isfinite, losses)):
        return ""
    first = report.training.rounds - len(losses) + 1
    return f"the weights of epoch {first + losses.index(min(losses))}, of least validation loss"


def _converged(report: RunReport) -> str:
    """Whether a GLM reached its optimum; trees and epochs are as many as were asked for."""
    if report.model in ("boosting", "splitnn"):
        return ""
    return "yes" if report.training.converged else "no: it stopped at its limit of rounds"


def _breakable(name: str) -> Markup:
    """A name that may break behind the signs with which identifiers are joined."""
    return Markup(re.sub(r"([_=./-])", r"\1<wbr>", str(escape(name))))  # noqa: S704 - escaped before


def _facts(run: RunDirectory) -> list[tuple[str, str]]:
    """What it takes to do the same again, and to prove that it was the same."""
    import matplotlib
    import numpy as np

    report = run.report
    began = min((entry.time for entry in run.entries), default=None)
    kept = next(iter(run.kept.values()), None)
    command = {None: "vfl run SCENARIO", COORDINATOR: "vfl coordinator JOB"}.get(run.role, "vfl join PARTY")
    command = "vfl evaluate RUN_DIR" if report.evaluates else command
    facts = [
        ("Job", f"{report.name}: model {report.model}, task {report.task}"),
        ("Command", f"{command}, with the lines below" if kept else command),
        ("Seed", f"{report.seed} (of the order of rows; keys and masks are always new)"),
        ("Engine", f"vfl {report.version}"),
        ("Encryption", _encryption(run)),
        (
            "Alignment",
            "none" if run.horizontal else f"{report.alignment.protocol}, {size_text(report.alignment.bytes)}",
        ),
    ]
    if began is not None:
        facts.append(("Began", f"{datetime.fromtimestamp(began, UTC):%Y-%m-%d %H:%M:%S} UTC"))
    if kept is not None:
        facts.append(("Run", kept.run))
    here = f"vfl {__version__}, Python {platform.python_version()}, numpy {np.__version__}, "
    return [*facts, ("This page", f"{here}matplotlib {matplotlib.__version__}")]


def _encryption(run: RunDirectory) -> str:
    """Scheme, length of the key and kernel, or that there was none."""
    crypto = run.report.crypto
    if run.horizontal:
        return "masks that cancel in the sum over silos, and the sealing of what goes from silo to silo"
    if run.in_the_clear or crypto.key_bits is None:
        return "none but the sealing of what goes from party to party"
    return f"{crypto.scheme.title()}, {crypto.key_bits:,} bits, kernel {crypto.kernel}"


def _job_lines(run: RunDirectory) -> list[str]:
    """The job as ``key = value`` lines, as far as they are not defaults; empty where no folder says."""
    kept = next(iter(run.kept.values()), None)
    if kept is None:
        return []
    lines = _flat(msgspec.to_builtins(kept.job), kept.job.model)
    usual = _flat(msgspec.to_builtins(msgspec.structs.replace(kept.job, **_defaults(kept.job))), kept.job.model)
    return [f"{key} = {value}" for key, value in lines.items() if usual.get(key) != value or "." not in key]


def _defaults(job: Any) -> dict[str, object]:
    sections = ("alignment", "split", "training", "boosting", "splitnn", "privacy")
    return {name: type(getattr(job, name))() for name in sections}


def _flat(lines: dict[str, Any], model: str) -> dict[str, str]:
    """Keys as the file has them: [training] is that of the model, whose keys other models may have too."""
    own = lines[model if model in ("boosting", "splitnn") else "training"]
    rest = {key: value for key, value in lines.items() if key not in ("training", "boosting", "splitnn")}
    flat: dict[str, str] = {}
    for key, value in (rest | {"training": own}).items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": _toml(one) for inner, one in value.items()}
        elif key != "parties":
            flat[key] = _toml(value)
    return flat


def _toml(value: object) -> str:
    return msgspec.json.encode(value).decode()
