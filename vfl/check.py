"""``vfl check``: everything that can be said about a scenario before anybody talks to anybody."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parties.columns import encode_labels
from parties.data import read_party
from parties.policy import Guards
from parties.spec import PartySpec
from vfl.job import Job, Scenario
from vfl.prepare import check_consent_to_job, read_ids
from vfl.preprocess import fit_preprocessor


@dataclass(frozen=True, slots=True)
class PartyCheck:
    """What one party would bring; counts and column names only."""

    name: str
    role: str
    rows: int
    valid_ids: int
    blank_ids: int
    repeated_ids: int
    numeric: int
    categorical: int
    encoded: int
    label: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """A checked scenario."""

    job: Job
    parties: tuple[PartyCheck, ...]
    common: int
    enough: bool


def check_scenario(scenario: Scenario) -> Check:
    """Read every party's CSV as a run would, and count; nothing is trained, no network is touched.

    Raises
    ------
    VflError
        Whatever would refuse the run at its start.
    """
    checked, keys = [], []
    for spec in scenario.parties:
        one, ids = _check_party(scenario.job, spec)
        checked.append(one)
        keys.append(set(ids))
    common = len(set.intersection(*keys))
    return Check(scenario.job, tuple(checked), common, common >= scenario.job.alignment.min_intersection)


def _check_party(job: Job, spec: PartySpec) -> tuple[PartyCheck, list[bytes]]:
    guards = Guards(enforce=job.privacy.enforce, small_data=job.privacy.small_data and spec.policy.small_data)
    check_consent_to_job(job, spec, guards)
    table = read_party(spec)
    ids = read_ids(job, spec, table)
    label = ""
    if table.labels is not None:
        labels = encode_labels([table.labels[row] for row in ids.rows], job.task, spec.positive_text, spec.name)
        label = f"{len(labels.classes)} classes" if labels.classes else f"{len(np.unique(labels.values))} values"
    preprocessor = fit_preprocessor(table.features.iloc[ids.rows].reset_index(drop=True), table.kinds)
    one = PartyCheck(
        name=spec.name,
        role=spec.role,
        rows=table.n_rows,
        valid_ids=len(ids.ids),
        blank_ids=ids.missing,
        repeated_ids=ids.duplicates,
        numeric=sum(kind == "numeric" for kind in table.kinds.values()),
        categorical=sum(kind == "categorical" for kind in table.kinds.values()),
        encoded=len(preprocessor.names),
        label=label,
        warnings=(*table.warnings, *preprocessor.warnings, *guards.warnings),
    )
    return one, ids.ids
