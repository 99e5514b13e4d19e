"""One role of a job between companies: a party that joins, or the coordinator that listens.

Each runs on its own host with its own files. The run's folder is `vfl.run_folder`; when the process is killed, the same
command goes on where all roles have a checkpoint. Files of the result are written before the others hear that this
role has all it needs, so that nobody leaves while somebody may still have to be helped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from parties import tls
from parties.budget import Budget
from parties.connection import Connection, connect
from parties.dial import PartyTransport
from parties.durable import write_durably
from parties.errors import ConfigError, PeerLost, VflError
from parties.greeting import job_digest
from parties.hub import HubTransport, listen
from parties.identity import Identity
from parties.ledger import Entry, Ledger, last_generation, read_ledger
from parties.link import COORDINATOR
from parties.patience import Patience
from vfl.company_file import Company, Joining
from vfl.events import Event, RoleResult
from vfl.job import Job
from vfl.play import Part, play_coordinator, play_party
from vfl.report.summary import RunReport, encode_report, summarise_own
from vfl.report.wanted import page_wanted
from vfl.role import own_folder
from vfl.run_folder import RunFolder, digest_of_file, open_run_folder
from vfl.watch import Awaited, Dialled, Network, Warned, Watch

REPORT, LEDGER = "report.json", "ledger.jsonl"
R = TypeVar("R")


def join(joining: Joining, out: Path, watch: Watch, *, resume: bool = False, baseline: bool = True) -> RunReport | None:
    """Play one party to the end of the run.

    Parameters
    ----------
    out : Path
        The run's folder; one that holds an unfinished run of the same job goes on with it.
    resume : bool
        Refuse to begin anew.
    baseline : bool
        The active party also fits its own columns alone.

    Returns
    -------
    RunReport or None
        None if the run had ended before.

    Raises
    ------
    VflError
        Whatever ended the run; ``PeerLost`` leaves a folder to go on with.
    """
    company, spec = joining.company, joining.spec

    def play(folder: RunFolder, connect: Callable[[], PartyTransport]) -> RunReport | None:
        part = _party(joining, out, folder, baseline=baseline)
        with recorded(out, watch, _report_of(company.job, folder)) as (ledger, save):
            play_party(connect(), ledger, part, watch, lambda text: watch(Awaited(text)), save)
        return folder.report

    report = take_part(joining, company.lines, out, watch, play, resume=resume)
    _write_page(out, spec.name, report)
    return report


def coordinate(
    company: Company, identity: Identity, address: tuple[str, int], out: Path, watch: Watch, *, resume: bool = False
) -> RunReport | None:
    """Play the coordinator to the end of the run; ``address`` is where it listens. See `join`."""

    def play(folder: RunFolder, network: HubTransport) -> RunReport | None:
        part = Part(job=company.job, lines=company.lines, memory=folder, folder=out)
        with recorded(out, watch, _report_of(company.job, folder)) as (ledger, save):
            play_coordinator(network, ledger, part, watch, lambda text: watch(Awaited(text)), save)
        return folder.report

    report = preside(company, identity, address, company.lines, out, watch, play, resume=resume)
    _write_page(out, COORDINATOR, report)
    return report


def take_part(
    joining: Joining,
    lines: Mapping[str, str],
    out: Path,
    watch: Watch,
    play: Callable[[RunFolder, Callable[[], PartyTransport]], R | None],
    *,
    resume: bool,
) -> R | None:
    """Play a party in its run folder, a new one or one to go on with.

    Parameters
    ----------
    lines : mapping
        What all must agree on.
    play : callable
        Gets the folder, and what connects to the coordinator once all is read that can be refused without the others.

    Returns
    -------
    R or None
        None if the run had ended before.
    """
    company, name = joining.company, joining.spec.name
    data = digest_of_file(Path(joining.spec.data))
    with open_run_folder(out, name, job_digest(lines), data, watch, resume=resume) as folder:
        if folder.state.progress == "ended":
            if name not in folder.state.knowing:
                _confirm(joining, folder, watch)
            return None
        watch(Event(name, "starting"))
        heard = partial(folder.heard, name)
        try:
            return play(folder, partial(dial, joining, watch, patience_of(company), ended=folder.end, heard=heard))
        except PeerLost as error:
            if folder.state.progress != "saved":
                raise
            raise PeerLost(f"{error}; all files of '{name}' are written, only the others' end is open") from error


def preside(
    company: Company,
    identity: Identity,
    address: tuple[str, int],
    lines: Mapping[str, str],
    out: Path,
    watch: Watch,
    play: Callable[[RunFolder, HubTransport], R | None],
    *,
    resume: bool,
) -> R | None:
    """Play the coordinator in its run folder; see `take_part`."""
    check_identity(company, identity)
    with open_run_folder(out, COORDINATOR, job_digest(lines), "", watch, resume=resume) as folder:
        if folder.state.progress == "ended":
            return None
        network = listen_at(
            company,
            identity,
            address,
            watch,
            generation=max(folder.state.generation, last_generation(out / LEDGER)),
            ended=folder.saved,
            heard=folder.heard,
            knowing=folder.state.knowing,
        )
        report = None
        if folder.state.progress == "saved":
            network.end()  # for those that come back to ask
        else:
            watch(Event(COORDINATOR, "starting"))
            report = play(folder, network)
        if set(company.identities) <= set(folder.state.knowing):
            folder.end()
        return report


def _write_page(out: Path, role: str, report: RunReport | None) -> None:
    """``report.html``, when the others need this role no more; ``vfl report`` writes it where this fails to."""
    if report is not None and page_wanted():
        from vfl.report.page import write_page

        write_page(out, role=role)


def _party(joining: Joining, out: Path, folder: RunFolder, *, baseline: bool) -> Part:
    """Everything that a party plays with; its data are read and checked."""
    from parties.data import read_party
    from vfl import session  # both take seconds to import, and a coordinator needs neither

    company, spec = joining.company, joining.spec
    return Part(
        job=company.job,
        lines=company.lines,
        memory=folder,
        folder=own_folder(out, spec.name),
        baseline=baseline,
        spec=spec,
        loaded=session.load_party(company.job, spec, read_party(spec)),
        sealing=joining.identity.sealing,
        pinned={name: identity.sealing for name, identity in company.identities.items()},
        budget=partial(open_budget, joining.budgets),
    )


def open_budget(file: Path, run: str) -> Budget:
    """Counts of all runs of this party."""
    state = file.parent
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"state {str(state)!r} cannot be made, got: {error.strerror}; name another folder") from None
    return Budget.open(file, run)


def _confirm(joining: Joining, folder: RunFolder, watch: Watch) -> None:
    """Say once more that this party knows of the end: it was killed before it could; the coordinator may have left."""
    patience = patience_of(joining.company)
    with suppress(VflError):
        short, name = replace(patience, reconnect_timeout=patience.notice), joining.spec.name
        dial(joining, watch, short, ended=folder.end, heard=partial(folder.heard, name)).enter()


def dial(
    joining: Joining,
    watch: Watch,
    patience: Patience,
    *,
    ended: Callable[[], None] = lambda: None,
    heard: Callable[[], None] = lambda: None,
) -> PartyTransport:
    """A party's end of the network; `parties.dial.PartyTransport` has the rest."""
    company, name = joining.company, joining.spec.name
    context = tls.client_context(joining.identity, company.coordinator)
    explain = partial(tls.why_refused, peer=COORDINATOR, own=name)

    def connected() -> Connection:
        try:
            connection = connect(company.host, company.port, context, patience.silence)
        except (OSError, EOFError) as error:
            watch(Dialled(explain(error) or "the connection breaks"))
            raise
        watch(Dialled(""))
        return connection

    return PartyTransport(
        name, connected, patience, lambda text: watch(Network(text)), explain, ended=ended, heard=heard
    )


def check_identity(company: Company, identity: Identity) -> None:
    """Refuse a coordinator's key that the job does not pin."""
    own, pinned = identity.public.fingerprint, company.coordinator.fingerprint
    if own != pinned:
        raise ConfigError(
            f"--identity, got {own}, expected {pinned}, which {company.file.name} pins as the coordinator's; take the "
            "key that belongs to that .pub file"
        )


def listen_at(
    company: Company,
    identity: Identity,
    address: tuple[str, int],
    watch: Watch,
    *,
    generation: int = 0,
    ended: Callable[[], None] = lambda: None,
    heard: Callable[[str], None] = lambda name: None,
    knowing: Collection[str] = (),
) -> HubTransport:
    """The coordinator's end of the network; `parties.hub.HubTransport` has the rest."""
    try:
        listener = listen(*address)
    except OSError as error:
        why = str(error.strerror).partition(" (while")[0]  # what follows names the address once more
        raise ConfigError(
            f"--listen, got {address[0]}:{address[1]}, where nobody can listen ({why}); choose a free port and an "
            "address of this machine"
        ) from None
    return HubTransport(
        listener,
        tls.server_context(identity, company.identities.values()),
        lambda certificate: tls.peer_name(certificate, company.identities),
        list(company.identities),
        patience_of(company),
        lambda text: watch(Network(text)),
        generation=generation,
        ended=ended,
        heard=heard,
        refused=lambda text: watch(Warned(text)),
        knowing=knowing,
    )


def patience_of(company: Company) -> Patience:
    """How patient its connections are."""
    return Patience(**msgspec.structs.asdict(company.network))


@contextmanager
def recorded(
    out: Path, watch: Watch, report_of: Callable[[R, list[Entry], float], bytes]
) -> Iterator[tuple[Ledger, Callable[[R], None]]]:
    """A ledger that goes on where it ended, and what writes the report once there is a result.

    Parameters
    ----------
    report_of : callable
        Makes the report of the result, the ledger and the seconds that it took.
    """
    ledger, start = Ledger(out / LEDGER, observe=watch), time.monotonic()

    def save(result: R) -> None:
        write_durably(out / REPORT, report_of(result, read_ledger(out / LEDGER), time.monotonic() - start))
        watch(Awaited("farewell from the others"))

    try:
        yield ledger, save
    finally:
        ledger.close()


def _report_of(job: Job, folder: RunFolder) -> Callable[[RoleResult, list[Entry], float], bytes]:
    """What makes the report of a whole run, and notes it in ``folder``."""
    from vfl.paillier import kernel_name, operation_counts

    def report_of(result: RoleResult, entries: list[Entry], seconds: float) -> bytes:
        counts, kernel = operation_counts(), kernel_name(job.privacy.key_bits)
        named = msgspec.structs.replace(result, warnings=[*result.warnings, *folder.warnings])
        folder.report = summarise_own(job, named, entries, counts, kernel, seconds)
        return encode_report(folder.report)

    return report_of
