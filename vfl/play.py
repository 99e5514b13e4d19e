"""Play one role over a network, in one generation after the other until the run has ended for everybody.

A generation begins with the greeting, in which all agree where to go on from. It ends well, or with an error, or
because a role came back after a crash (``Restarted``): then all play again, from the last checkpoint that all have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from parties.budget import Budget
from parties.checkpoint import Keeper
from parties.errors import ConfigError, Restarted, VflError
from parties.frame import Frame
from parties.greeting import Agreed, Standing, greet_as_coordinator, greet_as_party
from parties.ledger import Ledger
from parties.link import COORDINATOR, Endpoint
from parties.sealing import KeyPair
from parties.spec import PartySpec
from parties.stopwatch import Stopwatch
from parties.wire import Active, Coordinator, LabelSilo, Passive, Role
from vfl.events import Report, RoleResult
from vfl.job import Job

if TYPE_CHECKING:
    from vfl.session import Loaded  # it imports all protocols, while the network already serves

ROLES: dict[str, type[Role]] = {"active": Active, "passive": Passive}
T = TypeVar("T")


class Network(Protocol):
    """A transport that outlives generations: `parties.dial` and `parties.hub` have one."""

    def enter(self) -> int:
        """Wait for everybody; returns the generation, 0 if the run has ended well."""

    def send(self, frame: Frame) -> None:
        """Send one frame."""

    def receive(self, peer: str, waiting_for: str) -> Frame:
        """Next frame from a peer."""

    def finish(self) -> None:
        """Wait until everybody has all it needs."""

    def abort(self, reason: str) -> None:
        """Tell the others that this role stops."""


class Memory(Protocol):
    """What a role keeps beyond its process."""

    def standing(self, generation: int) -> Standing:
        """How far it is."""

    def settle(self, agreed: Agreed, generation: int) -> Keeper:
        """Note what was agreed, before anything else is done."""

    def saved(self) -> None:
        """Note that this role has all it needs."""


class NoMemory:
    """A role that keeps nothing: where all run on one machine, and end together."""

    def standing(self, generation: int) -> Standing:
        """At the beginning."""
        return Standing(generation)

    def settle(self, agreed: Agreed, generation: int) -> Keeper:
        """Keep nothing."""
        return Keeper()

    def saved(self) -> None:
        """Nothing to note."""


@dataclass(frozen=True)
class Part:
    """What a role plays with, the same in every generation.

    Parameters
    ----------
    lines : mapping
        What all must agree on.
    folder : Path
        Where a party leaves its files.
    baseline : bool
        The active party also fits its own columns alone.
    sealing : KeyPair
        A party's long-term key; ``pinned`` are those of the others.
    budget : callable
        Makes the party's counts for a run's id.
    """

    job: Job
    lines: Mapping[str, str]
    memory: Memory = field(repr=False)
    folder: Path
    baseline: bool = True
    spec: PartySpec | None = None
    loaded: Loaded | None = field(default=None, repr=False)
    sealing: KeyPair | None = field(default=None, repr=False)
    pinned: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    budget: Callable[[str], Budget] = field(default=lambda run: Budget(), repr=False)


def role_types(job: Job) -> dict[str, type[Role]]:
    """Every role by name, in job order, the coordinator first."""
    roles = {party.name: ROLES[party.role] for party in job.parties}
    return {COORDINATOR: Coordinator} | roles | dict.fromkeys(job.labelled[1:], LabelSilo)


def play_party(
    network: Network,
    ledger: Ledger,
    part: Part,
    report: Report,
    waiting: Callable[[str], None] | None = None,
    save: Callable[[RoleResult], None] = lambda result: None,
) -> RoleResult | None:
    """Play a party's whole run until it has ended for everybody.

    Parameters
    ----------
    waiting : callable, optional
        Told what the party waits for.
    save : callable
        Keeps the result, before the others hear that this party has it.

    Returns
    -------
    RoleResult or None
        None if the run had ended before.
    """
    from vfl import session
    from vfl.paillier import kernel_seconds

    spec, loaded = part.spec, part.loaded
    if spec is None or loaded is None:
        raise TypeError("a party plays with its data")
    before = kernel_seconds()

    def act(endpoint: Endpoint) -> RoleResult:
        budget = part.budget(endpoint.run)
        result = session.play_party(
            endpoint, part.job, spec, loaded, part.folder, report, baseline=part.baseline, budget=budget
        )
        return msgspec.structs.replace(result, spent=endpoint.stopwatch.split(kernel_seconds() - before))

    return play_role(network, ledger, part, act, waiting, save)


def play_coordinator(
    network: Network,
    ledger: Ledger,
    part: Part,
    report: Report,
    waiting: Callable[[str], None] | None = None,
    save: Callable[[RoleResult], None] = lambda result: None,
) -> RoleResult | None:
    """Play the coordinator's whole run until it has ended for everybody; see `play_party`."""
    from vfl import session
    from vfl.paillier import kernel_seconds

    before = kernel_seconds()

    def act(endpoint: Endpoint) -> RoleResult:
        result = session.play_coordinator(endpoint, part.job, report)
        return msgspec.structs.replace(result, spent=endpoint.stopwatch.split(kernel_seconds() - before))

    return play_role(network, ledger, part, act, waiting, save)


def play_role(
    network: Network,
    ledger: Ledger,
    part: Part,
    act: Callable[[Endpoint], T],
    waiting: Callable[[str], None] | None = None,
    save: Callable[[T], None] = lambda result: None,
) -> T | None:
    """Play a role, the coordinator where ``part`` has no party's lines, until all has ended for everybody.

    Parameters
    ----------
    act : callable
        Plays a generation behind its greeting; the endpoint has the run's id and what is kept of it.

    Returns
    -------
    T or None
        What ``act`` returned in the last generation; None if all had ended before.
    """
    stopwatch = Stopwatch()
    name = COORDINATOR if part.spec is None else part.spec.name
    endpoint: Endpoint | None = None

    def play(generation: int) -> T:
        nonlocal endpoint
        endpoint = Endpoint(name, role_types(part.job), network, ledger, waiting=waiting, stopwatch=stopwatch)
        agreed = _greet(endpoint, part, part.memory.standing(generation))
        endpoint.keeper = part.memory.settle(agreed, generation)
        result = act(endpoint)
        save(result)
        if part.spec is not None:
            part.memory.saved()
        return result

    result = until_the_end(network, play, stopwatch)
    if endpoint is not None:
        endpoint.note_lost()
    return result


def _greet(endpoint: Endpoint, part: Part, standing: Standing) -> Agreed:
    if part.spec is None:
        return greet_as_coordinator(endpoint, part.lines, standing)
    if part.sealing is None:
        raise TypeError("a party plays with its key")
    return greet_as_party(endpoint, part.lines, part.sealing, part.pinned, standing)


def until_the_end(network: Network, play: Callable[[int], T], stopwatch: Stopwatch | None = None) -> T | None:
    """Play generation after generation; the others are told of an error.

    Parameters
    ----------
    stopwatch : Stopwatch, optional
        Counts what is waited between generations.
    """
    stopwatch = Stopwatch() if stopwatch is None else stopwatch
    while True:
        try:
            with stopwatch.waits():
                generation = network.enter()
            if not generation:
                return None
            result = play(generation)
            network.finish()
            return result
        except Restarted:
            continue
        except VflError as error:
            network.abort(f"stopped ({type(error).__name__})")
            raise
        except OSError as error:  # of a file: the network's own have become others
            network.abort("stopped (a file of its run cannot be used)")
            file, reason = error.filename or "a file of the run", error.strerror or type(error).__name__
            raise ConfigError(
                f"{file}: cannot be used ({reason}); make room, or put right what is in the way, and run the same "
                "command again: between companies the run goes on from its last checkpoint"
            ) from error
        except Exception:
            network.abort("stopped (internal error)")
            raise
