"""A prediction between companies: every party brings its own shard and its own new CSV, over the network of a run.

Nothing is kept beyond the process but budgets and ledgers: who loses its connection comes back, and who is killed
begins a prediction anew. Rows of a prediction that broke off stay counted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from parties.errors import ConfigError
from parties.greeting import Standing, greet_as_coordinator, greet_as_party
from parties.identity import Identity
from parties.ledger import Ledger
from parties.link import COORDINATOR, Endpoint, Transport
from parties.policy import Guards
from vfl import predict
from vfl.company import check_identity, dial, listen_at, open_budget, patience_of
from vfl.company_file import Company, Joining
from vfl.job import Job, job_fields
from vfl.kept_model import load_model
from vfl.new_rows import NewRows, read_new_rows
from vfl.play import role_types, until_the_end
from vfl.predict import Scored
from vfl.prediction import UNNAMED, Predicted, find_parties, summarise, unnamed
from vfl.watch import Awaited, Watch

_MAY_DIFFER = {"privacy.enforce", "alignment.min_prediction_rows", "alignment.min_intersection"}
"""Lines in which the job of a prediction may be another than that of the training."""


def read_own_rows(joining: Joining, folder: Path, data: Mapping[str, Path], *, labelled: bool) -> NewRows:
    """Read a party's part of the model and its new rows: all that can be refused without the others.

    Parameters
    ----------
    folder : Path
        What its ``vfl join --out`` left.
    data : mapping of party name to path
        Of this party alone.
    labelled : bool
        The rows of a party with labels come with them.

    Raises
    ------
    ConfigError, DataError, PolicyError
    """
    name = joining.spec.name
    _refuse_horizontal(joining.company.job, "--join with a job of silos alone", "its RUN_DIR and --data CSV alone")
    if set(data) != {name}:
        if UNNAMED in data:
            raise unnamed(str(data[UNNAMED]))
        got = ", ".join(f"'{party}'" for party in data) or "none"
        raise ConfigError(
            f"--data, got one for {got}, expected one for '{name}' alone: every party brings its own rows"
        )
    if name not in find_parties(folder):
        raise ConfigError(f"RUN_DIR {folder}, got no folder of '{name}', expected what 'vfl join' left in its --out")
    if labelled and joining.spec.role == "passive":
        raise ConfigError(
            f"'vfl evaluate' at passive party '{name}', expected 'vfl predict' there: the active party alone has "
            "labels and gets the metrics"
        )
    model = load_model(folder / name)
    check_same_job(model.kept.job, joining.company)
    used = replace(model, kept=msgspec.structs.replace(model.kept, job=_effective(model.kept.job, joining.company.job)))
    guards = Guards(enforce=True, small_data=True)
    return read_new_rows(used, joining.spec, data[name], guards, labelled=labelled)


def check_same_job(trained: Job, company: Company) -> None:
    """Refuse a model of another job than the one that all agree on now."""
    then, now = job_fields(trained), job_fields(company.job)
    differing = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key) and key not in _MAY_DIFFER]
    if differing:
        key = differing[0]
        raise ConfigError(
            f"{key} in {company.file.name}, got {now.get(key, 'none')}, expected {then.get(key, 'none')} as in the job "
            "that trained the model; name the job file of that run"
        )


def join(joining: Joining, new: NewRows, ledger: Path, watch: Watch) -> Predicted | Scored:
    """Play a party; the active one, or each silo with labels, gets a `Predicted` with the joint scores of its rows.

    Parameters
    ----------
    ledger : Path
        File that every message is recorded in.
    """
    company, name = joining.company, joining.spec.name
    book = Ledger(ledger, observe=watch)
    pinned = {other: identity.sealing for other, identity in company.identities.items()}
    network = dial(joining, watch, patience_of(company))

    def play(generation: int) -> Scored:
        endpoint = _endpoint(name, new.model.kept.job, network, book, watch)
        agreed = greet_as_party(endpoint, lines_of(company), joining.identity.sealing, pinned, Standing(generation))
        guards = Guards(enforce=True, small_data=True, budget=open_budget(joining.budgets, agreed.run))
        return predict.play_party(endpoint, replace(new, guards=guards), watch, workers=min(os.cpu_count() or 1, 5))

    try:
        scored = until_the_end(network, play)
    finally:
        book.close()
    if scored is None:
        raise ConfigError("the prediction had ended already when this party joined; start it anew at all")
    return scored if scored.predicted is None else summarise(new, scored, {name: new.table.n_rows}, [scored])


def coordinate(company: Company, identity: Identity, address: tuple[str, int], ledger: Path, watch: Watch) -> Scored:
    """Play the coordinator."""
    _refuse_horizontal(company.job, "--predict with a job of silos alone", "no coordinator")
    check_identity(company, identity)
    book = Ledger(ledger, observe=watch)
    network = listen_at(company, identity, address, watch)

    def play(generation: int) -> Scored:
        endpoint = _endpoint(COORDINATOR, company.job, network, book, watch)
        greet_as_coordinator(endpoint, lines_of(company), Standing(generation))
        return predict.play_coordinator(endpoint, company.job, watch)

    try:
        scored = until_the_end(network, play)
    finally:
        book.close()
    if scored is None:
        raise ConfigError("the prediction had ended already; start it anew at all")
    return scored


def lines_of(company: Company) -> dict[str, str]:
    """What all must agree on: the job, the identities, and that this is no training."""
    return {**company.lines, "purpose": "prediction"}


def _refuse_horizontal(job: Job, got: str, expected: str) -> None:
    """Silos that train alone need nobody to predict."""
    if job.horizontal:
        raise ConfigError(f"{got}, expected {expected}: each silo has the whole model, 'vfl predict' needs nobody else")


def _effective(trained: Job, agreed: Job) -> Job:
    """The job that trained the model, with the limits of the one that all agree on now."""
    limits = msgspec.structs.replace(trained.alignment, min_prediction_rows=agreed.alignment.min_prediction_rows)
    return msgspec.structs.replace(trained, alignment=limits, privacy=agreed.privacy)


def _endpoint(name: str, job: Job, network: Transport, book: Ledger, watch: Watch) -> Endpoint:
    return Endpoint(name, role_types(job), network, book, waiting=lambda text: watch(Awaited(text)))
