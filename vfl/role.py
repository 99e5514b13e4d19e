"""The process of one role: ``python -m vfl.role``, started by ``vfl.launch``.

One JSON line on standard input says who to be; events and the result go as JSON lines to standard output. The process
opens no file but its own CSV and its own folder, talks to the coordinator over the loopback interface as companies do
over theirs (`parties.hub`, `parties.dial`), and ends when its standard input does: nothing outlives the launcher.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from parties import tls
from parties.connection import connect
from parties.dial import PartyTransport
from parties.errors import VflError
from parties.hub import HubTransport
from parties.identity import Identity, PublicIdentity
from parties.ledger import Ledger
from parties.link import COORDINATOR
from parties.patience import Patience
from parties.sealing import KeyPair
from parties.spec import PartySpec
from vfl import __version__
from vfl.events import Event, Report, RoleResult
from vfl.job import Job, job_fields
from vfl.play import NoMemory, Part, play_coordinator, play_party, play_role
from vfl.psi_report import PsiResult, Purpose

PATIENCE = Patience(heartbeat=20.0, notice=60.0, reconnect_timeout=0.0)
LOOPBACK = "127.0.0.1"
LEDGER = "ledger.jsonl"


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """The private half of an identity that lives for one run."""

    sealing: bytes
    tls: bytes
    certificate: bytes

    def __repr__(self) -> str:
        return "Key(...)"

    def identity(self, name: str) -> Identity:
        """The identity, as TLS wants it."""
        signing = Ed25519PrivateKey.generate()  # nothing of a run that lives for a minute is signed
        return Identity(name, signing, KeyPair.from_private_bytes(self.sealing), self.tls, self.certificate)


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of another role of the same run."""

    sealing: bytes
    certificate: bytes

    def identity(self, name: str) -> PublicIdentity:
        """The identity, as TLS wants it."""
        return PublicIdentity(name, b"", self.sealing, self.certificate, b"")


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a role's process is told.

    ``port`` is the coordinator's on the loopback interface; ``listener`` its listening socket, at the coordinator.
    ``purpose`` is a whole run, or an alignment alone.
    """

    role: str
    job: Job
    party: PartySpec | None
    folder: str
    baseline: bool
    key: Key
    pinned: dict[str, Pin]
    port: int
    listener: int = -1
    purpose: Literal["run"] | Purpose = "run"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The last line of a role's process: its result, or the error that ended it.

    ``lost`` is the coordinator's: parties that the run went on without, and how each was lost.
    """

    result: RoleResult | None = None
    aligned: PsiResult | None = None
    encryptions: int = 0
    decryptions: int = 0
    kernel: str = ""
    error: str = ""
    text: str = ""
    died: bool = False
    lost: dict[str, str] = {}


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line from a role's process: an event on the way, or the outcome."""

    event: Event | None = None
    outcome: Outcome | None = None


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

    write(Line(event=Event(orders.role, "starting")))
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
    """Load, and play."""
    network = _network(orders)  # it serves while the imports take their time

    def report(event: Event) -> None:
        write(Line(event=event))

    ledger = Ledger(Path(orders.folder) / LEDGER)
    try:
        return (_train if orders.purpose == "run" else _align)(orders, network, ledger, report)
    finally:
        ledger.close()


def _align(orders: Orders, network: HubTransport | PartyTransport, ledger: Ledger, report: Report) -> Outcome:
    """An alignment alone."""
    from vfl import psi_session

    if orders.purpose == "run":
        raise TypeError("a run is more than an alignment")
    folder = Path(orders.folder)
    with psi_session.ready(orders.job, orders.party, folder, folder / ".ids", report, orders.purpose) as act:
        return Outcome(aligned=play_role(network, ledger, _part(orders), act))


def _train(orders: Orders, network: HubTransport | PartyTransport, ledger: Ledger, report: Report) -> Outcome:
    """A whole run; a party's data are read and checked first."""
    from vfl import session
    from vfl.paillier import kernel_name, operation_counts

    part = _part(orders)
    if orders.party is not None:
        from parties.data import read_party

        part = replace(part, loaded=session.load_party(orders.job, orders.party, read_party(orders.party)))
    play = play_coordinator if orders.party is None else play_party
    result = play(network, ledger, part, report)
    counts = operation_counts()
    return Outcome(
        result=result,
        encryptions=counts.encryptions,
        decryptions=counts.decryptions,
        kernel=kernel_name(orders.job.privacy.key_bits),
        lost=network.lost() if isinstance(network, HubTransport) else {},
    )


def _part(orders: Orders) -> Part:
    """Everything that a role plays with but a party's data."""
    return Part(
        job=orders.job,
        lines=job_fields(orders.job),
        memory=NoMemory(),
        folder=Path(orders.folder),
        baseline=orders.baseline,
        spec=orders.party,
        sealing=KeyPair.from_private_bytes(orders.key.sealing),
        pinned={name: pin.sealing for name, pin in orders.pinned.items()},
    )


def _network(orders: Orders) -> HubTransport | PartyTransport:
    """The role's end of the network on this machine."""
    own = orders.key.identity(orders.role)
    pinned = {name: pin.identity(name) for name, pin in orders.pinned.items()}
    if orders.party is None:
        context = tls.server_context(own, pinned.values())
        listener = socket.socket(fileno=orders.listener)
        return HubTransport(listener, context, lambda der: tls.peer_name(der, pinned), list(pinned), PATIENCE, _silent)
    context = tls.client_context(own, pinned[COORDINATOR])
    return PartyTransport(
        orders.role,
        lambda: connect(LOOPBACK, orders.port, context, PATIENCE.silence),
        PATIENCE,
        _silent,
        lambda error: None,
    )


def _silent(text: str) -> None:
    """On one machine a connection is there, or the run has ended."""


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
