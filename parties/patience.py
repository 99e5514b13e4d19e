"""How long a role waits for what: the three settings of the network, all on progress and a monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """The three settings, in seconds.

    Parameters
    ----------
    heartbeat : float
        A connection says something at least so often; three times as long without a byte, and it counts as broken.
    notice : float
        A broken connection is shown to the user after so long.
    reconnect_timeout : float
        A role that has no connection for so long is lost, and the run ends, to be resumed; 0: at once, where all roles
        run on one machine.
    """

    heartbeat: float = 5.0
    notice: float = 30.0
    reconnect_timeout: float = 300.0

    @property
    def silence(self) -> float:
        """Seconds without a byte after which a connection counts as broken."""
        return 3 * self.heartbeat
