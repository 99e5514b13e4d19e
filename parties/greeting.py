"""The first words of a run: everyone shows its job and a fresh public key; then party-to-party links are sealed.

    P --> C   hello    fresh X25519 key, the job's lines     (once per party)
    C --> P   roster   everybody's fresh keys                (or the line in which two jobs differ)

Static keys are pinned beforehand (on one machine the launcher deals out throw-away ones), so that a coordinator that
swaps fresh keys only makes the first seal fail.
Leakage: the job's lines are public to all roles; nothing else is told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from parties.errors import ConfigError, CryptoError, RemoteProtocolError
from parties.link import COORDINATOR, Endpoint
from parties.sealing import KeyPair, open_channel
from parties.wire import Control, Coordinator, DataParty, Hello, Message, Roster


class Wire:
    """Messages of the greeting."""

    hello = Message(DataParty, Coordinator, Hello)
    verdict = Message(Coordinator, DataParty, Control)
    roster = Message(Coordinator, DataParty, Roster)


def greet_as_party(endpoint: Endpoint, job: Mapping[str, str], static: KeyPair, pinned: Mapping[str, bytes]) -> None:
    """Agree on the job and open a sealed channel to every other party.

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
    """
    missing = [peer for peer in endpoint.peers(DataParty) if peer not in pinned]
    if missing:
        raise ConfigError(f"{endpoint.name} has no pinned key of {', '.join(missing)}")
    coordinator = endpoint.link(DataParty, Coordinator, COORDINATOR)
    ephemeral = KeyPair.fresh()
    coordinator.send(Wire.hello, Hello(ephemeral.public, dict(job)))
    differs = coordinator.recv(Wire.verdict).facts.get("differs")
    if differs is not None:
        raise ConfigError(f"the parties' jobs differ in {differs}; all parties must run the same job")
    ephemerals = coordinator.recv(Wire.roster).ephemerals
    digest = job_digest(job)
    for peer in endpoint.peers(DataParty):
        if peer not in ephemerals:
            raise RemoteProtocolError(f"the coordinator's roster lacks {peer}")
        try:
            endpoint.channels[peer] = open_channel(
                endpoint.name, peer, static, ephemeral, pinned[peer], ephemerals[peer], digest
            )
        except CryptoError as error:
            raise RemoteProtocolError(f"{peer}: {error}") from error


def greet_as_coordinator(endpoint: Endpoint, job: Mapping[str, str]) -> None:
    """Collect the parties' fresh keys, compare their jobs with this one and hand the keys round."""
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
    for link in links:
        link.send(Wire.roster, Roster({name: hello.ephemeral for name, hello in hellos.items()}))


def job_digest(job: Mapping[str, str]) -> bytes:
    """SHA-256 over the job's lines in canonical order."""
    return hashlib.sha256(msgspec.json.encode(sorted(job.items()))).digest()
