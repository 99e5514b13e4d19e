"""One alignment for several trainings in this process: folds of a cross-validation, candidates of a search.

The parties align once. Every training then takes up that alignment, as a run does that goes on after a crash, with the
agreed rows in the order that it asks for: a fold is a rotation of them, since the last rows are the ones held out. What
the trainings let others learn is counted on one account per party, as between companies, where runs on one alignment
share their budgets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from parties.budget import Budget
from parties.checkpoint import ALIGNED, Arrays, Fact, Keeper, Snapshot
from parties.data import PartyTable
from parties.ledger import Entry, Ledger
from parties.link import COORDINATOR, Endpoint
from parties.local import run_local
from parties.policy import Guards
from vfl import consent, session
from vfl.events import Event, Report
from vfl.job import Scenario, job_fields
from vfl.play import role_types
from vfl.terms import Integers


@dataclass
class AlignmentKeeper(Keeper):
    """Keeps one role's alignment in memory, and nothing else."""

    snapshot: Snapshot | None = None

    def aligned(self) -> Snapshot | None:
        """The alignment, if there is one."""
        return self.snapshot

    def save_aligned(self, facts: Mapping[str, Fact], arrays: Arrays) -> None:
        """Keep the alignment."""
        self.snapshot = Snapshot(ALIGNED, dict(facts), dict(arrays))


@dataclass(frozen=True)
class Begun:
    """What a training goes on from, by role; the ledgers hold the messages of the alignment."""

    keepers: Mapping[str, Keeper] = field(repr=False)
    budgets: Mapping[str, Budget] = field(repr=False)
    ledgers: Mapping[str, Sequence[Entry]] = field(repr=False)


@dataclass(frozen=True)
class Spent:
    """What one party has let others learn: scores opened per row, and rows scored jointly."""

    equations: int
    rows: int


@dataclass(frozen=True)
class CommonAlignment:
    """An alignment, and what is counted on it.

    Parameters
    ----------
    rows : int
        Common rows.
    """

    rows: int
    snapshots: Mapping[str, Snapshot] = field(repr=False)
    ledgers: Mapping[str, Sequence[Entry]] = field(repr=False)
    budgets: Mapping[str, Budget] = field(repr=False)

    def begin(self, training: str, order: Integers | None = None) -> Begun:
        """Begin a training on it.

        Parameters
        ----------
        training : str
            What it is counted as; another name for every training.
        order : ndarray of shape (n,), int64, optional
            Places in the agreed order of the rows that take part, in the order of the training; by default all.
        """
        snapshots = self.snapshots if order is None else {n: _in_order(s, order) for n, s in self.snapshots.items()}
        return Begun(
            keepers={name: AlignmentKeeper(snapshot=snapshot) for name, snapshot in snapshots.items()},
            budgets={name: replace(budget, run=training) for name, budget in self.budgets.items()},
            ledgers=self.ledgers,
        )

    def spent(self) -> dict[str, Spent]:
        """What all trainings together let others learn, by party."""
        ended = {name: replace(budget, run="none of them") for name, budget in self.budgets.items()}
        return {name: Spent(budget.evaluations(1) - 1, budget.rows(0)) for name, budget in ended.items()}


def align_once(scenario: Scenario, tables: Mapping[str, PartyTable], report: Report) -> CommonAlignment:
    """Align all parties' rows; nothing is trained.

    Raises
    ------
    VflError
        As a run would raise it.
    """
    job = scenario.job
    loaded = {spec.name: session.load_party(job, spec, tables[spec.name]) for spec in scenario.parties}
    keepers = {name: AlignmentKeeper() for name in role_types(job)}
    ledgers = {name: Ledger() for name in keepers}
    specs = {spec.name: spec for spec in scenario.parties}

    def play(endpoint: Endpoint) -> int:
        report(Event(endpoint.name, "aligning"))
        endpoint.keeper = keepers[endpoint.name]
        if endpoint.name == COORDINATOR:
            return session.join(endpoint, job).intersection
        spec = specs[endpoint.name]
        endpoint.consent = consent.of(job, spec, Guards(enforce=job.privacy.enforce, small_data=True))
        return session.align(endpoint, job, loaded[spec.name].ids).intersection

    rows = run_local(dict.fromkeys(keepers, play), roles=role_types(job), job=job_fields(job), ledgers=ledgers)
    return CommonAlignment(
        rows=rows[COORDINATOR],
        snapshots={name: keeper.snapshot for name, keeper in keepers.items() if keeper.snapshot is not None},
        ledgers={name: ledger.entries for name, ledger in ledgers.items()},
        budgets={name: Budget() for name in specs},
    )


def _in_order(snapshot: Snapshot, order: Integers) -> Snapshot:
    """The same of these rows only, in this order; the coordinator has no rows.

    Nor has the passive party of a one-sided alignment any common ones: it does not know of an order. One of several
    silos has its own among these rows.
    """
    if not snapshot.facts["intersection"]:
        return snapshot
    facts = {**snapshot.facts, "intersection": len(order)}
    if "owned" in snapshot.arrays:
        own = np.full(int(snapshot.fact("intersection", int)), -1)
        own[snapshot.integers("owned")] = np.arange(len(snapshot.arrays["rows"]))
        own = own[order]
        arrays = {"rows": snapshot.integers("rows")[own[own >= 0]], "owned": np.flatnonzero(own >= 0)}
        return Snapshot(snapshot.step, facts, arrays)
    return Snapshot(snapshot.step, facts, {name: array[order] for name, array in snapshot.arrays.items()})
