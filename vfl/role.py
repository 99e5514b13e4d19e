"""The process of one role: ``python -m vfl.role``, started by ``vfl.launch``.

One JSON line on standard input says who to be; events and the result go as JSON lines to standard output. The process
opens no file but its own CSV and its own folder, and ends when its standard input does: nothing outlives the launcher.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec

from parties.errors import VflError
from parties.greeting import greet_as_coordinator, greet_as_party
from parties.ledger import Ledger
from parties.link import COORDINATOR, Endpoint
from parties.process import HubTransport, PartyTransport
from parties.sealing import KeyPair
from parties.spec import PartySpec
from parties.wire import Active, Coordinator, Passive, Role
from vfl import __version__
from vfl.events import Event, RoleResult
from vfl.job import Job, job_fields

ROLES: dict[str, type[Role]] = {"active": Active, "passive": Passive}


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a role's process is told."""

    role: str
    job: Job
    party: PartySpec | None
    folder: str
    baseline: bool
    static: bytes
    pinned: dict[str, bytes]
    sockets: dict[str, int]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The last line of a role's process: its result, or the error that ended it."""

    result: RoleResult | None = None
    encryptions: int = 0
    decryptions: int = 0
    kernel: str = ""
    error: str = ""
    text: str = ""
    died: bool = False


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line from a role's process: an event on the way, or the outcome."""

    event: Event | None = None
    outcome: Outcome | None = None


def role_types(job: Job) -> dict[str, type[Role]]:
    """Every role by name, in job order, the coordinator first."""
    return {COORDINATOR: Coordinator} | {party.name: ROLES[party.role] for party in job.parties}


def own_folder(folder: Path, role: str) -> Path:
    """The directory in a run's directory that is a role's own; made if need be."""
    own = folder / role
    own.mkdir(parents=True, exist_ok=True)
    return own


def internal_error(who: str, error: Exception) -> VflError:
    """Say in one line where something unforeseen happened; its text stays out, since it may hold data."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    where = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    reason = f" ({error.strerror})" if isinstance(error, OSError) else ""
    return VflError(
        f"{who} stopped on an internal error, {type(error).__name__}{reason} at {where}, vfl {__version__}; "
        "please report this line"
    )


def main() -> int:
    """Play one role as ordered on standard input."""
    with _take_standard_output() as out:
        return _play_to(out)


def _play_to(out: IO[bytes]) -> int:
    """Play, and say everything on ``out``; returns the exit code."""
    line = _read_line()
    if not line.endswith(b"\n"):
        return 1  # the launcher ended before it said who to be
    orders = msgspec.json.decode(line, type=Orders)
    threading.Thread(target=_end_with_launcher, daemon=True).start()

    def write(line: Line) -> None:
        out.write(msgspec.json.encode(line) + b"\n")

    try:
        write(Line(outcome=_play(orders, write)))
    except VflError as error:
        write(Line(outcome=Outcome(error=type(error).__name__, text=str(error))))
        return error.exit_code
    except Exception as error:  # a bug: say where, and let the others stop
        write(Line(outcome=Outcome(error="bug", text=str(internal_error(orders.role, error)))))
        return 1
    return 0


def _play(orders: Orders, write: Callable[[Line], None]) -> Outcome:
    """Load, greet, play, and tell the others if anything goes wrong on the way."""
    transport = _transport(orders)
    try:
        return _play_over(orders, transport, write)
    except VflError as error:
        transport.abort(f"stopped ({type(error).__name__})")
        raise
    except Exception:
        transport.abort("stopped (internal error)")
        raise


def _play_over(orders: Orders, transport: HubTransport | PartyTransport, write: Callable[[Line], None]) -> Outcome:
    from vfl import session  # the sockets are served while these imports take their time
    from vfl.paillier import kernel_name, operation_counts

    def report(event: Event) -> None:
        write(Line(event=event))

    report(Event(orders.role, "starting"))
    folder = Path(orders.folder)
    ledger = Ledger(folder / "ledger.jsonl")
    endpoint = Endpoint(orders.role, role_types(orders.job), transport, ledger)
    lines = job_fields(orders.job)
    if orders.party is None:
        greet_as_coordinator(endpoint, lines)
        result = session.play_coordinator(endpoint, orders.job, report)
    else:
        from parties.data import read_party

        loaded = session.load_party(orders.job, orders.party, read_party(orders.party))
        greet_as_party(endpoint, lines, KeyPair.from_private_bytes(orders.static), orders.pinned)
        result = session.play_party(
            endpoint, orders.job, orders.party, loaded, folder, report, baseline=orders.baseline
        )
    ledger.close()
    counts = operation_counts()
    return Outcome(
        result=result,
        encryptions=counts.encryptions,
        decryptions=counts.decryptions,
        kernel=kernel_name(orders.job.privacy.key_bits),
    )


def _transport(orders: Orders) -> HubTransport | PartyTransport:
    sockets = {name: socket.socket(fileno=number) for name, number in orders.sockets.items()}
    if orders.party is None:
        return HubTransport(sockets)
    return PartyTransport(orders.role, sockets[COORDINATOR])


def _take_standard_output() -> IO[bytes]:
    """Keep standard output for the launcher; whatever a library prints goes to standard error."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return out


def _read_line() -> bytes:
    """First line of standard input, unbuffered: a thread reads on where it ends."""
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = os.read(0, 1 << 16)
        if not piece:
            break
        line += piece
    return bytes(line)


def _end_with_launcher() -> None:
    """Leave when the launcher does: it holds the other end of standard input to its own end."""
    while os.read(0, 1):
        continue
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
