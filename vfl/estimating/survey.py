"""Read a scenario's CSVs and prepare them in plain, step by step as the roles will; each step's seconds are kept.

What would refuse the run before its training is raised here too, in the same words.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from parties.checkpoint import Keeper
from parties.spec import PartySpec
from psi.verdict import Limit, too_few
from vfl.boosting_part import BinnedColumns, bin_columns, check_consent_to_trees, check_labels
from vfl.check import Own, aligned, check_id_columns, read_and_inspect, read_own
from vfl.glm import Block
from vfl.glm_part import check_consent_to_terms, encode_columns, own_block
from vfl.job import Job, Scenario
from vfl.members import Members
from vfl.network_columns import NetworkColumns, encode_for_network
from vfl.network_consent import check_consent_to_network
from vfl.pooled import plain_alignment
from vfl.prepare import Parts, agree_terms, listed_rows, split_rows
from vfl.splitnn_part import check_labels as check_network_labels
from vfl.terms import Terms
from vfl.trained import Aligned

Fact = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Survey:
    """A scenario, prepared in plain.

    Attributes
    ----------
    blocks, binned, networks : dict of party name
        Columns of generalised linear models, of trees, of networks: two of the three are empty.
    members : Members, optional
        One-sided, linear models: the active party's training rows in the passive party's list, in CSV order here.
    """

    scenario: Scenario
    terms: Terms
    parts: Parts
    owns: dict[str, Own] = field(repr=False)
    data: dict[str, Aligned] = field(repr=False)
    blocks: dict[str, Block] = field(repr=False)
    binned: dict[str, BinnedColumns] = field(repr=False)
    networks: dict[str, NetworkColumns] = field(default_factory=dict, repr=False)
    members: Members | None = field(default=None, repr=False)

    @property
    def job(self) -> Job:
        """The scenario's job."""
        return self.scenario.job

    @property
    def keeper(self) -> Keeper:
        """A keeper that keeps nothing."""
        return Keeper()

    @property
    def common(self) -> dict[str, int]:
        """Rows of every party that all have, or of a silo those that fall to it."""
        whole = self.parts.train + self.parts.validation + self.parts.test
        return {name: whole if one.owned is None else len(one.owned) for name, one in self.data.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """Valid ids of every party."""
        return {name: len(own.ids.ids) for name, own in self.owns.items()}


def survey(scenario: Scenario) -> Survey:
    """Read, align and prepare in plain; nothing is trained, no network is touched.

    Raises
    ------
    VflError
        Whatever would refuse the run before its training.
    """
    import vfl.baselines  # noqa: F401 - here, so that no step below is timed with scikit-learn's import

    job = scenario.job
    owns = {spec.name: read_timed(job, spec) for spec in scenario.parties}
    check_id_columns(scenario.parties)
    rows = plain_alignment({name: own.ids for name, own in owns.items()}, job.seed)
    common = len(rows[job.active])
    if common < job.alignment.min_intersection:
        raise too_few(common, Limit(job.alignment.min_intersection, tell_small_count=True))
    parts, listed = split_rows(job, common), listed_rows(job, {name: len(own.ids.ids) for name, own in owns.items()})
    data: dict[str, Aligned] = {}
    blocks: dict[str, Block] = {}
    binned: dict[str, BinnedColumns] = {}
    networks: dict[str, NetworkColumns] = {}
    facts: dict[str, Fact] = {}
    for name, own in owns.items():
        with _timed(own, "preparing"):
            one = aligned(job, own, rows[name], listed)
            if job.model == "boosting":
                if one.labels is not None:
                    check_labels(one)
                binned[name] = bin_columns(job, own.spec, own.table, one.rows, one.n_train)
                width = len(binned[name].features)
            elif job.model == "splitnn":
                if one.labels is not None:
                    check_network_labels(one)
                networks[name] = encode_for_network(own.spec, own.table, one.rows, one.n_train)
                width = networks[name].X.shape[1]
            else:
                columns = encode_columns(own.spec, own.table, one.rows, one.n_train, own.guards)
                blocks[name] = own_block(job, own.spec, columns, one.n_train)
                width = blocks[name].width
        data[name] = one
        facts |= {f"{name} columns": width, f"{name} consent": own.spec.policy.partial_scores}
        facts[f"{name} outputs"] = len(one.classes) if one.classes and job.task == "multiclass" else 1
    terms = agree_terms(job, facts, *data[job.active].told)
    for name, own in owns.items():
        if binned:
            check_consent_to_trees(terms, own.spec, own.guards)
        elif networks:
            check_consent_to_network(terms, own.spec, own.guards)
        else:
            check_consent_to_terms(terms, own.spec, own.guards, data[name].n_train)
    members = None
    if listed:
        (other,) = job.passive
        fitted = rows[other][: parts.train + parts.validation]
        members = Members(np.searchsorted(owns[other].ids.rows, fitted), listed)
    return Survey(scenario, terms, parts, owns, data, blocks, binned, networks, members)


@contextmanager
def _timed(own: Own, what: str) -> Iterator[None]:
    start = time.thread_time()
    yield
    own.seconds[what] = own.seconds.get(what, 0.0) + time.thread_time() - start


def read_timed(job: Job, spec: PartySpec) -> Own:
    """Read a party's CSV and hold the job against its policy; ``seconds`` has what that takes."""
    start = time.thread_time()
    own = read_and_inspect(job, spec)[0] if job.horizontal else read_own(job, spec)
    own.seconds["reading"] = time.thread_time() - start
    return own
