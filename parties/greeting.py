"""The first words of a generation: everyone shows its job and a fresh public key; then links are sealed.

    P --> C   hello    fresh X25519 key, the job's lines, run and steps kept, a salt     (once per party)
    C --> P   verdict  the line in which two jobs differ, if there is one
    C --> P   roster   everybody's fresh keys, the run, the step to go on from, a salt

Static keys are pinned beforehand (on one machine the launcher deals out throw-away ones), so that a coordinator that
swaps fresh keys only makes the first seal fail. The seals are bound to the job, the run, the generation and the step:
parties that were told different ones cannot open each other's.

All go on from the newest step that every role keeps of one and the same run; otherwise a new run begins.
Leakage: the job's lines are public to all roles, and how far each has kept the run; nothing else is told.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from parties.errors import ConfigError, CryptoError, RemoteProtocolError
from parties.link import COORDINATOR, Endpoint
from parties.sealing import KeyPair, open_channel
from parties.wire import Control, Coordinator, DataParty, Hello, Message, Roster

_SALT_BYTES = 32


class Wire:
    """Messages of the greeting."""

    hello = Message(DataParty, Coordinator, Hello)
    verdict = Message(Coordinator, DataParty, Control)
    roster = Message(Coordinator, DataParty, Roster)


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a role is when a generation begins.

    Parameters
    ----------
    generation : int
        From 1 on; all roles have the same.
    run : str
        Id of the run that it keeps checkpoints of, empty: none.
    steps : tuple of int
        Steps of it that it can go on from.
    """

    generation: int = 1
    run: str = ""
    steps: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Agreed:
    """The run, a new one or one that goes on, and the step that all go on from; 0: the beginning."""

    run: str
    step: int


def greet_as_party(
    endpoint: Endpoint,
    job: Mapping[str, str],
    static: KeyPair,
    pinned: Mapping[str, bytes],
    standing: Standing = Standing(),  # noqa: B008 - frozen
) -> Agreed:
    """Agree on the job and where to begin, and open a sealed channel to every other party.

    Parameters
    ----------
    job : mapping
        The job's lines, ``{"training.l2": "0.001", ...}``; they must be the same everywhere.
    static : KeyPair
        This party's long-term key.
    pinned : mapping of party name to its 32-byte public key

    Raises
    ------
    ConfigError
        If the coordinator's job differs (the text names the line), or a party's key is not pinned.
    RemoteProtocolError
        If the coordinator goes on from what this party does not keep.
    """
    missing = [peer for peer in endpoint.peers(DataParty) if peer not in pinned]
    if missing:
        raise ConfigError(f"{endpoint.name} has no pinned key of {', '.join(missing)}")
    coordinator = endpoint.link(DataParty, Coordinator, COORDINATOR)
    ephemeral = KeyPair.fresh()
    endpoint.generation = standing.generation
    salt = secrets.token_bytes(_SALT_BYTES)
    coordinator.send(Wire.hello, Hello(ephemeral.public, dict(job), standing.run, standing.steps, salt))
    differs = coordinator.recv(Wire.verdict).facts.get("differs")
    if differs is not None:
        raise ConfigError(f"the parties' jobs differ in {differs}; all parties must run the same job")
    roster = coordinator.recv(Wire.roster)
    agreed = Agreed(roster.run, roster.step)
    endpoint.run = agreed.run
    if agreed.step and (agreed.run != standing.run or agreed.step not in standing.steps):
        raise RemoteProtocolError("the coordinator goes on from a checkpoint that this party does not keep")
    transcript = _transcript(job, standing.generation, agreed)
    for peer in endpoint.peers(DataParty):
        if peer not in roster.ephemerals:
            raise RemoteProtocolError(f"the coordinator's roster lacks {peer}")
        try:
            endpoint.channels[peer] = open_channel(
                endpoint.name, peer, static, ephemeral, pinned[peer], roster.ephemerals[peer], transcript
            )
        except CryptoError as error:
            raise RemoteProtocolError(f"{peer}: {error}") from error
    return agreed


def greet_as_coordinator(
    endpoint: Endpoint,
    job: Mapping[str, str],
    standing: Standing = Standing(),  # noqa: B008 - frozen
) -> Agreed:
    """Collect the parties' fresh keys, compare their jobs with this one, settle where to begin, hand the keys round."""
    endpoint.generation = standing.generation
    links = [endpoint.link(Coordinator, DataParty, name) for name in endpoint.peers(DataParty)]
    hellos = {link.peer: link.recv(Wire.hello) for link in links}
    differing = sorted(
        f"{line} (at {name})"
        for name, hello in hellos.items()
        for line in {*hello.job, *job}
        if hello.job.get(line) != job.get(line)
    )
    differs = differing[0] if differing else None
    for link in links:
        link.send(Wire.verdict, Control({"differs": differs}))
    if differs is not None:
        raise ConfigError(f"the parties' jobs differ in {differs}; all parties must run the same job")
    agreed = _settle(standing, hellos)
    endpoint.run = agreed.run
    for link in links:
        ephemerals = {name: hello.ephemeral for name, hello in hellos.items()}
        link.send(Wire.roster, Roster(ephemerals, agreed.run, agreed.step, secrets.token_bytes(_SALT_BYTES)))
    return agreed


def _settle(standing: Standing, hellos: Mapping[str, Hello]) -> Agreed:
    """The newest step that all keep of one run; otherwise a new run."""
    if standing.run and all(hello.run == standing.run for hello in hellos.values()):
        common = set(standing.steps).intersection(*(hello.steps for hello in hellos.values()))
        return Agreed(standing.run, max(common, default=0))
    return Agreed(secrets.token_hex(16), 0)


def job_digest(job: Mapping[str, str]) -> bytes:
    """SHA-256 over the job's lines in canonical order."""
    return hashlib.sha256(msgspec.json.encode(sorted(job.items()))).digest()


def _transcript(job: Mapping[str, str], generation: int, agreed: Agreed) -> bytes:
    """What a generation's seals are bound to."""
    begun = msgspec.msgpack.encode([job_digest(job), generation, agreed.run, agreed.step])
    return hashlib.sha256(begun).digest()
