"""Run all roles of a scenario on one machine: a process each, or turn-taking threads.

Each process gets its orders on its standard input and one end of a socket pair; it opens its own CSV and its own
folder. The first role that fails ends the run, and the others are gone within seconds.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from parties import errors
from parties.data import PartyTable, read_party
from parties.errors import PeerLost, VflError
from parties.ledger import Ledger
from parties.link import COORDINATOR, Endpoint
from parties.local import run_local
from parties.sealing import KeyPair
from parties.spec import PartySpec
from vfl import session
from vfl.job import Scenario, job_fields
from vfl.paillier import kernel_name, operation_counts
from vfl.role import Line, Orders, Outcome, role_types
from vfl.session import Event, Report, RoleResult

GRACE_SECONDS = 5.0
TablesByName = Mapping[str, PartyTable]


@dataclass(frozen=True, slots=True)
class Played:
    """What all roles together did."""

    results: dict[str, RoleResult]
    encryptions: int
    decryptions: int
    kernel: str


def play_in_threads(
    scenario: Scenario, folder: Path, report: Report, *, baselines: bool, tables: TablesByName | None = None
) -> Played:
    """Play all roles in this process, taking turns.

    Parameters
    ----------
    folder : Path
        Every role gets its own folder in it.
    tables : mapping of party name to PartyTable, optional
        Data that are in memory already; read from the parties' CSVs otherwise.
    """
    job = scenario.job
    loaded = {
        spec.name: session.load_party(job, spec, tables[spec.name] if tables else read_party(spec))
        for spec in scenario.parties
    }
    specs = {spec.name: spec for spec in scenario.parties}
    ledgers = {name: Ledger(_own_folder(folder, name) / "ledger.jsonl") for name in role_types(job)}

    def play(endpoint: Endpoint) -> RoleResult:
        if endpoint.name == COORDINATOR:
            return session.play_coordinator(endpoint, job, report)
        spec, own = specs[endpoint.name], folder / endpoint.name
        return session.play_party(endpoint, job, spec, loaded[spec.name], own, report, baseline=baselines)

    before = operation_counts()
    try:
        results = run_local(dict.fromkeys(ledgers, play), roles=role_types(job), job=job_fields(job), ledgers=ledgers)
    finally:
        for ledger in ledgers.values():
            ledger.close()
    counts = operation_counts() - before
    return Played(results, counts.encryptions, counts.decryptions, kernel_name())


def play_in_processes(scenario: Scenario, folder: Path, report: Report, *, baselines: bool) -> Played:
    """Play every role in an operating-system process of its own.

    Raises
    ------
    VflError
        The error of the role that failed first; ``PeerLost`` names a role whose process died.
    """
    with _processes(scenario, folder, baselines=baselines) as processes:
        outcomes = _collect(processes, report)
    results = {
        name: msgspec.json.decode(outcome.result, type=RoleResult)
        for name, outcome in outcomes.items()
        if outcome.result is not None
    }
    return Played(
        results,
        sum(outcome.encryptions for outcome in outcomes.values()),
        sum(outcome.decryptions for outcome in outcomes.values()),
        outcomes[COORDINATOR].kernel,
    )


@contextlib.contextmanager
def _processes(scenario: Scenario, folder: Path, *, baselines: bool) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Start all roles; whatever is left of them at the end is ended."""
    job = scenario.job
    statics = {spec.name: KeyPair.fresh() for spec in scenario.parties}
    pinned = {name: pair.public for name, pair in statics.items()}
    pairs = {spec.name: socket.socketpair() for spec in scenario.parties}
    processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(role: str, party: PartySpec | None, ends: Mapping[str, socket.socket]) -> None:
        orders = Orders(
            role=role,
            job=job,
            party=party,
            folder=str(_own_folder(folder, role)),
            baseline=baselines,
            static=statics[role].private.private_bytes_raw() if party else b"",
            pinned=pinned,
            sockets={name: end.fileno() for name, end in ends.items()},
        )
        processes[role] = _start(role, orders)

    try:
        start(COORDINATOR, None, {name: pair[0] for name, pair in pairs.items()})
        for spec in scenario.parties:
            start(spec.name, spec, {COORDINATOR: pairs[spec.name][1]})
    finally:
        for pair in pairs.values():
            for end in pair:
                end.close()
    try:
        yield processes
    finally:
        _end_all(processes)


def _start(role: str, orders: Orders) -> subprocess.Popen[bytes]:
    """One role's process, in a session of its own so that Ctrl-C reaches the launcher alone."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vfl.role", role],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=tuple(orders.sockets.values()),
        start_new_session=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1")},
    )
    if process.stdin is not None:
        process.stdin.write(msgspec.json.encode(orders) + b"\n")
        process.stdin.flush()
    return process


def _collect(processes: Mapping[str, subprocess.Popen[bytes]], report: Report) -> dict[str, Outcome]:
    """Pass events on until every role has ended; the first error ends all."""
    arrivals: queue.Queue[tuple[str, Line | None]] = queue.Queue()
    for name, process in processes.items():
        threading.Thread(target=_read_lines, args=(name, process, arrivals), daemon=True).start()
    outcomes: dict[str, Outcome] = {}
    running = set(processes)
    deadline: float | None = None
    while running and (deadline is None or time.monotonic() < deadline):
        try:
            name, line = arrivals.get(timeout=0.2)
        except queue.Empty:
            continue
        if line is None:
            running.discard(name)
            outcomes.setdefault(name, _died(name, processes[name]))
        elif line.outcome is not None:
            outcomes[name] = line.outcome
        elif line.event is not None:
            report(msgspec.json.decode(line.event, type=Event))
        if deadline is None and any(outcome.error for outcome in outcomes.values()):
            deadline = time.monotonic() + GRACE_SECONDS
    if any(outcome.error for outcome in outcomes.values()):
        raise _first_cause(outcomes)
    return outcomes


def _read_lines(name: str, process: subprocess.Popen[bytes], arrivals: queue.Queue[tuple[str, Line | None]]) -> None:
    if process.stdout is not None:
        for text in process.stdout:
            arrivals.put((name, msgspec.json.decode(text, type=Line)))
    arrivals.put((name, None))


def _died(name: str, process: subprocess.Popen[bytes]) -> Outcome:
    """Outcome of a process that ended without a word."""
    code = process.wait()
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return Outcome(error="PeerLost", text=f"the process of {name} died ({how}); run again", died=True)


def _first_cause(outcomes: Mapping[str, Outcome]) -> VflError:
    """The error that explains the others: a role's own before a death, a death before a lost peer."""

    def rank(item: tuple[str, Outcome]) -> int:
        outcome = item[1]
        if outcome.error == "PeerLost":
            return 1 if outcome.died else 3
        return 2 if outcome.error == "bug" else 0

    name, outcome = min(((n, o) for n, o in outcomes.items() if o.error), key=rank)
    if outcome.error == "bug":
        return VflError(f"{name} stopped on an internal error ({outcome.text}); please report it:\n{outcome.trace}")
    kind: type[VflError] = getattr(errors, outcome.error, VflError)
    return PeerLost(outcome.text) if kind is PeerLost else kind(outcome.text)


def _end_all(processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """Close every process's standard input, which ends it; kill what does not heed that."""
    for process in processes.values():
        if process.poll() is None:
            process.kill()
    for process in processes.values():
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _own_folder(folder: Path, role: str) -> Path:
    own = folder / role
    own.mkdir(parents=True, exist_ok=True)
    return own
