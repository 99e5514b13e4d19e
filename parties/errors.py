"""Every error that the engine raises on purpose.

    VflError                    exit code 1
    +-- ConfigError             2: a scenario, job or option that cannot be run
    +-- DataError               2: a party's CSV that cannot be used
    +-- PolicyError             2: a guard or a party's policy refuses
    +-- LocalProtocolError      1: this process was about to break the protocol (a bug here)
    +-- RemoteProtocolError     1: a peer broke the protocol
    +-- PeerLost                1: a peer's process or connection is gone
    +-- CryptoError             1: a cryptographic check failed
    +-- Restarted               a role came back after a crash: all begin a new generation (no user sees it)

The text of an error says what, where (party, file, column, line), got, expected and what to do.
It never holds an id, a key or a value of anybody's data.
"""

from __future__ import annotations


class VflError(Exception):
    """Root of all errors raised on purpose; ``exit_code`` is what the command line returns."""

    exit_code = 1


class ConfigError(VflError):
    """A scenario, job, party file or command-line option that cannot be run as it stands."""

    exit_code = 2


class DataError(VflError):
    """A party's CSV that cannot be used as it stands."""

    exit_code = 2


class PolicyError(VflError):
    """A guard or a party's policy refuses to go on."""

    exit_code = 2


class LocalProtocolError(VflError):
    """This process was about to break the protocol; nothing was sent."""


class RemoteProtocolError(VflError):
    """A peer sent something that the protocol does not allow at this point."""


class PeerLost(VflError):
    """A peer's process or connection is gone."""


class CryptoError(VflError):
    """A ciphertext, key or seal failed its check."""


class Restarted(VflError):
    """A role has come back after a crash: every role leaves what it does and begins anew from the last checkpoint."""
