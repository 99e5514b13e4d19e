"""Run all roles of a scenario on one machine, each in an operating-system process of its own.

Each process gets its orders on its standard input, with an identity that lives for this run; it opens its own CSV and
its own folder. The coordinator listens on the loopback interface, on a port that the system chooses; who has none of
the run's certificates gets nothing from it. The first role that fails ends the run, and the others are gone within
seconds; but where a job has ``min_silos``, the run goes on, once it trains, without silos that fail or die, as long as
so many are left.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from parties import errors
from parties.durable import open_to_append
from parties.errors import VflError
from parties.hub import listen
from parties.identity import Identity, make_identity
from parties.link import COORDINATOR
from parties.spec import PartySpec
from vfl.events import PHASES, Played, Report
from vfl.job import Job, Scenario
from vfl.psi_report import PsiResult, Purpose
from vfl.role import LEDGER, LOOPBACK, Key, Line, Orders, Outcome, Pin, internal_error, own_folder

_TRAINING_ON = PHASES[PHASES.index("training") :]
GRACE_SECONDS = 3.0  # after the first failure, for the others to say what they know of it


def play_in_processes(scenario: Scenario, folder: Path, report: Report, *, baselines: bool) -> Played:
    """Play every role in an operating-system process of its own.

    Raises
    ------
    VflError
        The error of the role that failed first; ``PeerLost`` names a role whose process died.
    """
    outcomes = _play(scenario, folder, report, "run", baselines=baselines)
    results = {name: outcome.result for name, outcome in outcomes.items() if outcome.result is not None}
    return Played(
        results,
        sum(outcome.encryptions for outcome in outcomes.values()),
        sum(outcome.decryptions for outcome in outcomes.values()),
        " and ".join(sorted({outcomes[spec.name].kernel for spec in scenario.parties if spec.name in results})),
        lost={name: outcome.text for name, outcome in outcomes.items() if outcome.error},
    )


def align_in_processes(scenario: Scenario, folder: Path, report: Report, purpose: Purpose) -> dict[str, PsiResult]:
    """Align the parties' rows and nothing else; see `play_in_processes`. Returns what each role knows."""
    outcomes = _play(scenario, folder, report, purpose)
    return {name: outcome.aligned for name, outcome in outcomes.items() if outcome.aligned is not None}


def _play(
    scenario: Scenario, folder: Path, report: Report, purpose: Literal["run"] | Purpose, *, baselines: bool = False
) -> dict[str, Outcome]:
    """Play all roles to their ends."""
    with _processes(scenario, folder, purpose, baselines=baselines) as processes:
        outcomes = _collect(processes, scenario.job, report)
    for name in _lost(outcomes):
        open_to_append(folder / name / LEDGER).close()  # cuts off half a line of a process that died
    return outcomes


@contextlib.contextmanager
def _processes(
    scenario: Scenario, folder: Path, purpose: Literal["run"] | Purpose, *, baselines: bool
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Start all roles; whatever is left of them at the end is ended."""
    job = scenario.job
    identities = {
        name: make_identity(name, days=2) for name in (COORDINATOR, *(spec.name for spec in scenario.parties))
    }
    pins = {name: _pin(identity) for name, identity in identities.items()}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    listener = listen(LOOPBACK, 0)
    port = listener.getsockname()[1]

    def start(role: str, party: PartySpec | None, sockets: tuple[int, ...]) -> None:
        known = [spec.name for spec in scenario.parties] if party is None else list(identities)
        orders = Orders(
            role=role,
            job=job,
            party=party,
            folder=str(own_folder(folder, role)),
            baseline=baselines,
            key=_key(identities[role]),
            pinned={name: pins[name] for name in known if name != role},
            port=port,
            listener=sockets[0] if sockets else -1,
            purpose=purpose,
        )
        processes[role] = _start(role, sockets)
        _order(processes[role], orders)

    try:
        with listener:
            start(COORDINATOR, None, (listener.fileno(),))
        for spec in scenario.parties:
            start(spec.name, spec, ())
        yield processes
    finally:
        _end_all(processes)


def _key(identity: Identity) -> Key:
    sealing = identity.sealing.private.private_bytes_raw()
    return Key(sealing=sealing, tls=identity.tls_key, certificate=identity.certificate)


def _pin(identity: Identity) -> Pin:
    return Pin(sealing=identity.sealing.public, certificate=identity.certificate)


def _start(role: str, sockets: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """One role's process, in a session of its own so that Ctrl-C reaches the launcher alone.

    It imports from where Python is installed and never from the directory that the command happens to run in, where
    a party's files may be called anything.
    """
    settings = {"OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1"), "PYTHONSAFEPATH": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "vfl.role", role],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=sockets,
        start_new_session=True,
        env=os.environ | settings,
    )


def _order(process: subprocess.Popen[bytes], orders: Orders) -> None:
    """Tell a process who to be; one that has died already is noticed where its output ends."""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(msgspec.json.encode(orders) + b"\n")
            process.stdin.flush()


def _collect(processes: Mapping[str, subprocess.Popen[bytes]], job: Job, report: Report) -> dict[str, Outcome]:
    """Pass events on until every role has ended that the run does not go on without; the first error ends all."""
    arrivals: queue.Queue[tuple[str, Line | None]] = queue.Queue()
    for name, process in processes.items():
        threading.Thread(target=_read_lines, args=(name, process, arrivals), daemon=True).start()
    outcomes: dict[str, Outcome] = {}
    running = set(processes)
    trains = False
    deadline: float | None = None
    while running - _lost(outcomes).keys() and (deadline is None or time.monotonic() < deadline):
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
            trains = trains or (name == COORDINATOR and line.event.phase in _TRAINING_ON)
            report(line.event)
        failed = _failed(outcomes, job, trains=trains)
        if job.averaging.min_silos is None and any(_rank(outcome) == 0 for outcome in failed):
            break  # a cause of its own: nobody knows better
        deadline = (deadline or time.monotonic() + GRACE_SECONDS) if failed else None
    if _failed(outcomes, job, trains=trains):
        raise _first_cause(outcomes)
    return outcomes | _silent_ones(outcomes)


def _failed(outcomes: Mapping[str, Outcome], job: Job, *, trains: bool) -> list[Outcome]:
    """Outcomes with an error, unless they are of silos that the run goes on without."""
    failed = {name: outcome for name, outcome in outcomes.items() if outcome.error}
    least = job.averaging.min_silos
    spared = least is not None and trains and COORDINATOR not in failed and len(job.parties) - len(failed) >= least
    return [] if spared else list(failed.values())


def _lost(outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    """Silos that the coordinator went on without, once it has ended well, and how each was lost."""
    return outcomes[COORDINATOR].lost if COORDINATOR in outcomes else {}


def _silent_ones(outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """Outcomes of silos that were lost and have not said why themselves."""
    silent = {name for name, outcome in outcomes.items() if outcome.error == "PeerLost" and not outcome.died}
    return {
        name: Outcome(error="PeerLost", text=f"{name} {how}")
        for name, how in _lost(outcomes).items()
        if name not in outcomes or name in silent
    }


def _read_lines(name: str, process: subprocess.Popen[bytes], arrivals: queue.Queue[tuple[str, Line | None]]) -> None:
    try:
        for text in process.stdout or ():
            arrivals.put((name, msgspec.json.decode(text, type=Line)))
    except (msgspec.MsgspecError, OSError, ValueError) as error:
        arrivals.put((name, Line(outcome=Outcome(error="bug", text=str(internal_error(name, error))))))
    finally:
        arrivals.put((name, None))


def _died(name: str, process: subprocess.Popen[bytes]) -> Outcome:
    """Outcome of a process that ended without a word."""
    code = process.wait()
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return Outcome(error="PeerLost", text=f"the process of {name} died ({how})", died=True)


def _first_cause(outcomes: Mapping[str, Outcome]) -> VflError:
    """The error that explains the others: a role's own before a death, a death before a lost peer.

    Whom a connection's end was the fault of, the coordinator knows best.
    """
    failed = {name: outcome for name, outcome in outcomes.items() if outcome.error}
    outcome = failed[min(failed, key=lambda name: (_rank(failed[name]), name != COORDINATOR))]
    kind: type[VflError] = getattr(errors, outcome.error, VflError)  # a bug is a VflError
    return kind(f"{outcome.text}; run again" if outcome.died else outcome.text)


def _rank(outcome: Outcome) -> int:
    """How much an outcome explains, 0 the most; of one without an error, the least."""
    if outcome.error == "PeerLost":
        return 1 if outcome.died else 3
    return 2 if outcome.error == "bug" else 0 if outcome.error else 4


def _end_all(processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """Kill what still runs, and wait for its end."""
    for process in processes.values():
        if process.poll() is None:
            process.kill()
    for process in processes.values():
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
