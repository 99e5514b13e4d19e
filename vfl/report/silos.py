"""Silos on the page: what each brought, how the model does on its rows, who was left out, and what noise protects."""

from __future__ import annotations

from dataclasses import dataclass

from vfl.report.averaged import AveragingPart
from vfl.report.run_directory import RunDirectory
from vfl.report.silo_words import left_out, promise
from vfl.report.words import CHIEF, METRICS, RULES, count, decimals_for, fixed, listed, percent, plural, significant


@dataclass(frozen=True, slots=True)
class Silos:
    """The section on silos: sentences, a table, how they averaged, and rounds that went on without one."""

    said: list[str]
    head: list[str]
    rows: list[tuple[str, ...]]
    facts: list[tuple[str, str]]
    left_out: list[str]


@dataclass(frozen=True, slots=True)
class Noise:
    """The section on differential privacy: what it promises, in words, and its figures."""

    promise: str
    whom: str
    facts: list[tuple[str, str]]


def silos(run: RunDirectory) -> Silos | None:
    """What is known of the silos; None where there are none."""
    if not run.has_silos:
        return None
    averaged = None if run.report.evaluates else run.report.training.aggregation
    return Silos(
        _said(run),
        *_table(run),
        [] if averaged is None else _facts(averaged),
        [] if averaged is None else left_out(averaged),
    )


def _said(run: RunDirectory) -> list[str]:
    """How silos stand to each other, and what all roles know of them."""
    made = {name: parties for name, parties in run.holders.items() if parties[0].holder}
    said = [f"The silos of {listed(list(made))} have the same columns of different rows."]
    if run.horizontal:
        said.append(
            "Each kept its rows, and what left it was masked: the coordinator could open the sum over the silos only. "
            "The joint model is known to all of them and to the coordinator; how many rows each trains on and holds "
            "out, and sums such as the columns' means, to all silos."
        )
    else:
        said.append(
            "How many ids a silo brought is known to all roles, as the length of its list, and the coordinator learnt "
            "how many of them are common; which rows are a silo's own nobody else learnt. What silos learn from their "
            "rows together, such as means, are sums over all silos of their party."
        )
    two = [name for name, parties in made.items() if len(parties) == 2]
    if two:
        said.append(f"{listed(two)} {'has' if len(two) == 1 else 'have'} two silos: a sum shows each the other's part.")
    return said


def _table(run: RunDirectory) -> tuple[list[str], list[tuple[str, ...]]]:
    """A line for each silo; columns that nothing is known for are left out."""
    report, metric = run.report, CHIEF[run.report.task]
    title = METRICS[metric][0]
    judged = {} if run.evidence is None else run.evidence.silos
    figures = [report.metrics.get("joint", {}).get(metric)]
    digits = decimals_for(figures)
    columns = {
        "rows of its CSV": {party.name: count(party.rows) for party in report.parties if party.rows is not None},
        "ids": {name: count(rows) for name, rows in report.alignment.rows.items()},
        "test rows": {name: count(rows) for name, rows in judged.items()},
        f"{title} of the joint model on them": {
            name: fixed(metrics.get(metric), digits) for name, metrics in report.by_silo.items()
        },
        f"{title} of its own model on all test rows": {
            name: fixed(metrics.get(metric), digits) for name, metrics in report.alone.items()
        },
    }
    known = {title: cells for title, cells in columns.items() if any(party.name in cells for party in report.parties)}
    rows = [
        (party.name, *(cells.get(party.name, "–") for cells in known.values()))
        for party in report.parties
        if party.holder
    ]
    return ["silo", *known], rows if known else []


def _facts(averaged: AveragingPart) -> list[tuple[str, str]]:
    """How the silos' models became one."""
    by_layer = ", ".join(f"{layer}: {RULES[rule][0]}" for layer, rule in averaged.by_layer.items())
    steps = {"average": "", "momentum": "with momentum", "adam": "with Adam"}
    drawn = averaged.client_fraction
    facts = [
        ("Rule", RULES[averaged.rule][0] + (f"; {by_layer}" if by_layer else "")),
        ("Local epochs", count(averaged.local_epochs) if averaged.rule != "fedsgd" else ""),
        ("Coordinator's step", steps[averaged.server_optimizer]),
        ("Proximal term", significant(averaged.proximal) if averaged.proximal else ""),
        ("Taking part", f"{percent(drawn, 0)} of the silos in each round" if drawn < 1 else ""),
        ("Goes on with", plural(averaged.least, "silo") + " or more" if averaged.least else "all silos only"),
    ]
    return [(name, value) for name, value in facts if value]


def noise(run: RunDirectory) -> Noise | None:
    """What differential privacy promises, in words; None where the silos' updates have no noise."""
    averaged = run.report.training.aggregation
    if averaged is None or averaged.dp is None or run.report.evaluates:
        return None
    dp = averaged.dp
    own = {name: "none can be stated" if bound is None else significant(bound) for name, bound in dp.by_silo.items()}
    facts = [
        ("Epsilon", "none can be stated here" if dp.epsilon is None else significant(dp.epsilon)),
        ("Delta", significant(dp.delta, 1)),
        ("Largest norm of a row's gradient", significant(dp.clip)),
        ("Noise, in units of it", "" if dp.noise is None else significant(dp.noise)),
        *([] if len(set(own.values())) < 2 else [(f"Epsilon of {name}", bound) for name, bound in own.items()]),
    ]
    return Noise(promise(dp), f"{_WHOM[dp.kind]} {_UNCOVERED}", [(name, value) for name, value in facts if value])


_UNCOVERED = "It does not cover what silos told each other before the training: sums such as means, and categories."
_WHOM = {
    "central": (
        "The silos' shares of the noise add up: the promise holds for the joint model and for what the coordinator "
        "learns, as long as the silos keep their shares to themselves."
    ),
    "local": (
        "Every silo adds all of the noise itself: the promise holds for its own update alone, against anybody, even if "
        "the masks were taken off."
    ),
}
