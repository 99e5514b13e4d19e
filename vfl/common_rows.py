"""The common rows of a federation in Python: an alignment alone, without a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from parties.csv_file import csv_rows
from parties.data import table_from_frame
from parties.link import COORDINATOR, Endpoint
from parties.local import run_local
from parties.policy import Guards
from parties.spec import PartySpec
from psi.exchange import warnings_of
from psi.ids import PreparedIds
from psi.source import Ids
from vfl import consent, psi_session, session
from vfl.id_file import read_id_file
from vfl.job import Job, Scenario, job_fields
from vfl.party import Data
from vfl.play import role_types
from vfl.prepare import check_padding, read_ids
from vfl.terms import Integers


@dataclass(frozen=True)
class CommonRows:
    """What an alignment alone came to.

    Attributes
    ----------
    frames : dict of party name to DataFrame
        Every party's own data, only the common rows, in the agreed order: line by line the same people. A CSV's cells
        are text, as they stand there. Of a one-sided alignment the active party's alone; empty where only the number
        was asked for. A silo's are its own of the common rows, in the agreed order: they stand beside nobody's.
    intersection : int
        How many ids all parties have.
    protocol : str
        The protocol that ran, never "auto".
    warnings : tuple of str
        What between companies would be refused, and what else there is to know.
    """

    frames: dict[str, pd.DataFrame] = field(repr=False)
    intersection: int
    protocol: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Own:
    """A party's share of it."""

    rows: Integers = field(repr=False)
    intersection: int
    protocol: str
    warnings: tuple[str, ...] = ()


def common_rows(scenario: Scenario, data: Mapping[str, Data], *, cardinality: bool) -> CommonRows:
    """Align, all roles in this process, taking turns.

    Parameters
    ----------
    data : mapping of party name to path or DataFrame

    Raises
    ------
    VflError
        As the command line would say it.
    """
    job, specs = scenario.job, {spec.name: spec for spec in scenario.parties}
    with TemporaryDirectory(prefix="vfl-") as scratch:
        ids = {name: _ids(job, spec, data[name], Path(scratch) / name) for name, spec in specs.items()}

        def play(endpoint: Endpoint) -> _Own:
            if endpoint.name == COORDINATOR:
                joined = session.join(endpoint, job, cardinality=cardinality)
                return _Own(np.zeros(0, np.int64), joined.intersection, joined.protocol)
            spec, guards = specs[endpoint.name], Guards(enforce=job.privacy.enforce, small_data=True)
            psi_session.check_consent(job, spec, guards, cardinality=cardinality)
            endpoint.consent = consent.of(job, spec, guards, cardinality=cardinality)
            alignment = session.align(endpoint, job, ids[spec.name], cardinality=cardinality)
            warnings = (*warnings_of(job.alignment.protocol, alignment.sizes), *guards.warnings)
            return _Own(alignment.rows, alignment.intersection, alignment.protocol, warnings)

        roles = role_types(job)
        found = run_local(dict.fromkeys(roles, play), roles=roles, job=job_fields(job))
    told = [] if cardinality else [job.active] if job.alignment.one_sided else list(specs)
    return CommonRows(
        frames={name: _in_order(specs[name], data[name], found[name].rows) for name in told},
        intersection=found[COORDINATOR].intersection,
        protocol=found[COORDINATOR].protocol,
        warnings=tuple(dict.fromkeys(line for name in specs for line in found[name].warnings)),
    )


def _ids(job: Job, spec: PartySpec, data: object, scratch: Path) -> PreparedIds | Ids:
    """A party's ids; no other column is looked at."""
    if not isinstance(data, pd.DataFrame):
        scratch.mkdir()
        file = read_id_file(job, spec, scratch)
        check_padding(job, spec.name, file.count)
        return file.ids
    bare = PartySpec(name=spec.name, role="passive", data=spec.data, id=spec.id, features=())
    return read_ids(job, spec, table_from_frame(data, bare))


def _in_order(spec: PartySpec, data: object, rows: Integers) -> pd.DataFrame:
    """These rows of a party's data, in this order."""
    if isinstance(data, pd.DataFrame):
        return data.iloc[rows].reset_index(drop=True)
    content = csv_rows(Path(spec.data), spec.encoding, f"party {spec.name}, file {spec.data}")
    _, header = next(content)
    cells = [row for _, row in content]
    return pd.DataFrame([cells[row] for row in rows.tolist()], columns=header, dtype=object)
