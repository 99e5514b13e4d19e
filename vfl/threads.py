"""Run all roles of a scenario in this process, on turn-taking threads: for notebooks, tests and small data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from parties.data import PartyTable, read_party
from parties.errors import VflError
from parties.ledger import Ledger, write_ledger
from parties.link import COORDINATOR, Endpoint
from parties.local import run_local
from vfl import session
from vfl.events import Played, Report, RoleResult
from vfl.job import Scenario, job_fields
from vfl.paillier import kernel_name, kernel_seconds, operation_counts
from vfl.play import role_types
from vfl.role import LEDGER, internal_error, own_folder

if TYPE_CHECKING:
    from vfl.common_alignment import Begun
    from vfl.own_modules import Modules


def play_in_threads(
    scenario: Scenario,
    folder: Path,
    report: Report,
    *,
    baselines: bool,
    tables: Mapping[str, PartyTable] | None = None,
    begun: Begun | None = None,
    intervals: bool = True,
    modules: Modules | None = None,
) -> Played:
    """Play all roles in this process, taking turns.

    Parameters
    ----------
    folder : Path
        Every role gets its own folder in it.
    tables : mapping of party name to PartyTable, optional
        Data that are in memory already; read from the parties' CSVs otherwise.
    begun : Begun, optional
        An alignment that was made before, and what is counted on it.
    intervals : bool
        Also work out how sure the metrics are.
    modules : mapping of party name to torch.nn.Module, optional
        Model splitnn: networks of the parties' own, instead of those that the job describes.
    """
    job = scenario.job
    loaded = {
        spec.name: session.load_party(job, spec, tables[spec.name] if tables else read_party(spec))
        for spec in scenario.parties
    }
    specs = {spec.name: spec for spec in scenario.parties}
    ledgers = {name: Ledger(own_folder(folder, name) / LEDGER) for name in role_types(job)}
    for name, entries in ({} if begun is None else begun.ledgers).items():
        write_ledger(folder / name / LEDGER, entries)

    def play(endpoint: Endpoint) -> RoleResult:
        before = kernel_seconds()
        try:
            result = play_role(endpoint)
            return msgspec.structs.replace(result, spent=endpoint.stopwatch.split(kernel_seconds() - before))
        except VflError:
            raise
        except Exception as error:
            raise internal_error(endpoint.name, error) from error

    def play_role(endpoint: Endpoint) -> RoleResult:
        if begun is not None:
            endpoint.keeper = begun.keepers[endpoint.name]
        if endpoint.name == COORDINATOR:
            return session.play_coordinator(endpoint, job, report)
        spec, own = specs[endpoint.name], folder / endpoint.name
        budget = None if begun is None else begun.budgets[spec.name]
        return session.play_party(
            endpoint,
            job,
            spec,
            loaded[spec.name],
            own,
            report,
            baseline=baselines,
            budget=budget,
            intervals=intervals,
            module=(modules or {}).get(spec.name),
        )

    before = operation_counts()
    lost: dict[str, str] = {}
    try:
        results = run_local(
            dict.fromkeys(ledgers, play), roles=role_types(job), job=job_fields(job), ledgers=ledgers, lost=lost
        )
    finally:
        for ledger in ledgers.values():
            ledger.close()
    counts = operation_counts() - before
    told = {name: f"{name} {how}" for name, how in lost.items()}
    return Played(results, counts.encryptions, counts.decryptions, kernel_name(job.privacy.key_bits), told)
