"""Trainings on one alignment, each judged on other rows: what a cross-validation and a search are made of.

A fold is a block of consecutive rows of the agreed order, which a hash has shuffled: fold k of K is what scikit-learn's
``KFold(K)`` makes of the rows in that order. Rotated to the end it is what a run holds out.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
from sklearn.model_selection import KFold

from parties.errors import ConfigError
from vfl.common_alignment import CommonAlignment
from vfl.events import Metrics
from vfl.federation import Tables
from vfl.job import Job, Scenario
from vfl.notebook import Course
from vfl.own_modules import Modules
from vfl.tables import show
from vfl.terms import Integers
from vfl.threads import play_in_threads


@dataclass(frozen=True)
class Fold:
    """What one training of a cross-validation came to.

    Attributes
    ----------
    metrics : dict of metric name to float or None
        Of the joint model on the fold's rows.
    active_only : dict or None
        The same of a model on the active party's columns alone.
    seconds : float
        Of the training.
    """

    rows: int
    metrics: Metrics
    active_only: Metrics | None
    rounds: int
    converged: bool
    seconds: float
    warnings: list[str] = field(repr=False)


@dataclass(frozen=True)
class Training:
    """One training to do: the job, and the agreed rows in its order, those to be judged last."""

    title: str
    scenario: Scenario
    order: Integers = field(repr=False)
    judged: int


def trainings(scenario: Scenario, cv: int, rows: int, title: str) -> Iterator[Training]:
    """A training per fold of the first ``rows`` agreed rows; each fold moves to the end once."""
    if cv > rows:
        raise ConfigError(f"cv, got {cv} folds for {rows} common rows, expected no more folds than rows")
    job = scenario.job
    for number, (_, fold) in enumerate(KFold(cv).split(np.zeros(rows)), start=1):
        order = np.concatenate([np.arange(fold[-1] + 1, rows), np.arange(fold[0]), fold])
        split = msgspec.structs.replace(job.split, test_fraction=len(fold) / rows)
        folded = msgspec.structs.replace(scenario, job=msgspec.structs.replace(job, split=split))
        yield Training(title.format(fold=f"{number} of {cv}"), folded, order, len(fold))


def play(
    training: Training,
    tables: Tables,
    alignment: CommonAlignment,
    course: Course,
    *,
    active_only: bool,
    modules: Modules | None = None,
) -> Fold:
    """Train and judge; nothing is kept but the figures."""
    scenario, begun = training.scenario, alignment.begin(training.title, training.order)
    with course.step(training.title) as report, tempfile.TemporaryDirectory() as folder:
        played = play_in_threads(
            scenario,
            Path(folder),
            report,
            baselines=active_only,
            tables=tables,
            begun=begun,
            intervals=False,
            modules=modules,
        )
    lead = played.results[scenario.job.active]
    return Fold(
        rows=training.judged,
        metrics=lead.joint or {},
        active_only=lead.active_only,
        rounds=lead.rounds,
        converged=lead.converged,
        seconds=lead.seconds["training"],
        warnings=[line for result in played.results.values() for line in result.warnings],
    )


def check_folds(cv: object) -> None:
    """Refuse what is no number of folds."""
    if not isinstance(cv, int) or isinstance(cv, bool) or cv < 2:
        raise ConfigError(f"cv, got {show(cv)}, expected a whole number of folds, at least 2")


def refuse_silos(job: Job) -> None:
    """Refuse parties made of silos: nobody knows whose rows are in a fold."""
    if job.has_silos:
        silo = next(party.name for party in job.parties if party.name != party.holder)
        raise ConfigError(
            f"federation, got one with silos such as '{silo}', expected parties without: nobody knows whose rows would "
            "be in a fold; fit with several values of seed instead, each holds out other rows"
        )


def sum_of_spent(alignment: CommonAlignment) -> pd.DataFrame:
    """What all trainings together let others learn, a line per party."""
    spent = alignment.spent()
    return pd.DataFrame(
        {
            "equations": [one.equations for one in spent.values()],
            "rows_scored": [one.rows for one in spent.values()],
        },
        index=pd.Index(list(spent), name="party"),
    )


def sum_of_warnings(scenario: Scenario, warnings: Sequence[Sequence[str]]) -> list[str]:
    """Warnings of all trainings; of those that differ in figures alone the last one, whose sums are the greatest."""
    lines = [line for each in warnings for line in each]
    epsilon, trainings = scenario.job.privacy.label_dp_epsilon, len(warnings)
    if epsilon is not None:
        lines.append(
            f"labels were randomised anew in each of {trainings} trainings, each with epsilon {epsilon:g}: over all of "
            f"them a label has up to {trainings * epsilon:g}"
        )
    return list({re.sub(r"\d[\d.,]*", "#", line): line for line in lines}.values())


def lines_of(seed: int, test_fraction: float, validation_fraction: float) -> dict[str, object]:
    """Top lines and split of a scenario that is trained several times."""
    split = {"test_fraction": test_fraction, "validation_fraction": validation_fraction}
    return {"name": "selection", "seed": seed, "split": split}
