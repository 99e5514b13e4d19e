"""Who is there in a round of averaging: the coordinator waits for silos, or goes on without some if the job says so.

A silo answers every message of the coordinator's with one. One that is late *owes* its answer: it is told that it is
left out, sent nothing more, and takes part again in a round that begins when the answer has come. One that is lost, or
has sent what is malformed, is out for good.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from parties.errors import RemoteProtocolError
from parties.link import Endpoint, Link
from parties.wire import Coordinator, DataParty, Message, Payload
from vfl.events import LeftOut
from vfl.job import Job

T = TypeVar("T", bound=Payload)
R = TypeVar("R")


@dataclass
class Attendance:
    """The coordinator's side of all silos.

    Parameters
    ----------
    links : dict
        By silo, in job order.
    seconds : float or None
        What a round waits for a silo; None: for all of them, and the run ends with the first that fails.
    round_number : int
        The round that is played, from 1 on.
    """

    endpoint: Endpoint
    links: dict[str, Link[Coordinator, DataParty]] = field(repr=False)
    seconds: float | None
    round_number: int = 1
    left_out: list[LeftOut] = field(default_factory=list)
    _owed: dict[str, Callable[[float], Payload | None]] = field(default_factory=dict, repr=False)

    def tolerate(self, least: int) -> None:
        """From now on go on without silos as long as so many are left; where all are needed this says nothing."""
        if self.seconds is not None:
            self.endpoint.tolerate(tuple(self.links), least)

    def present(self) -> list[str]:
        """Silos that can take part in what begins now: not lost, and none of their answers is missing."""
        self._hear_debtors(0.0)
        return [name for name in self.links if name not in self._owed and not self.links[name].lost]

    def gather(
        self, names: Iterable[str], message: Message[DataParty, Coordinator, T], read: Callable[[T, str], R]
    ) -> dict[str, R]:
        """One message of each of these silos, checked by ``read(payload, name)``; of those that are there in time.

        Raises
        ------
        RemoteProtocolError, PeerLost
            Where all are needed: something malformed, or a silo is gone; the text names it.
        """
        until = time.monotonic() + (self.seconds or 0.0)
        found: dict[str, R] = {}
        for name in names:
            payload = self._receive(name, message, until)
            if payload is None:
                continue
            try:
                found[name] = read(payload, name)
            except RemoteProtocolError:
                if self.seconds is None:
                    raise
                self.endpoint.dismiss(name, "sent a malformed update")
                self.note(name, "malformed")
        return found

    def send(self, name: str, message: Message[Coordinator, DataParty, T], payload: T) -> None:
        """Send a silo a message; to one that is lost nothing goes."""
        self.links[name].send(message, payload)

    def note(self, name: str, why: str) -> None:
        """Keep that this round goes on without a silo, once."""
        line = LeftOut(name, self.round_number, why)
        if not any(each.silo == name and (each.round == line.round or each.why != "late") for each in self.left_out):
            self.left_out.append(line)

    def close(self) -> list[str]:
        """Wait for those who still owe an answer when the training ends, and go on without who does not answer then."""
        late = list(self._owed)
        self._hear_debtors(self.seconds or 0.0)
        for name in self._owed:
            self.endpoint.dismiss(name, "was late when the training ended")
        return [name for name in late if name not in self._owed]

    def _receive(self, name: str, message: Message[DataParty, Coordinator, T], until: float) -> T | None:
        link = self.links[name]
        if self.seconds is None:
            return link.recv(message)
        try:
            payload = link.recv_within(message, max(0.0, until - time.monotonic()))
        except RemoteProtocolError:  # it is dismissed
            self.note(name, "malformed")
            return None
        if payload is None and not link.lost:
            self._owed[name] = lambda until: self._receive(name, message, until)
        if payload is None:
            self.note(name, "lost" if link.lost else "late")
        return payload

    def _hear_debtors(self, seconds: float) -> None:
        """Take what has come late: nobody uses it."""
        until = time.monotonic() + seconds
        debts, self._owed = self._owed, {}
        for receive in debts.values():
            receive(until)
        for name, link in self.links.items():
            if link.lost:
                self.note(name, "lost")


def attendance(endpoint: Endpoint, job: Job) -> Attendance:
    """The coordinator's links to the job's silos, and how long a round waits for them."""
    settings = job.averaging
    links = {name: endpoint.link(Coordinator, DataParty, name) for name in job.labelled}
    return Attendance(endpoint, links, settings.round_timeout if settings.min_silos is not None else None)
