"""Who watches a role while it plays: the status line, the log, the metrics. All are told the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from parties.ledger import Entry
from vfl.events import Event


class Watch(Protocol):
    """Told what a role does; called from several threads, must not raise, must not take long."""

    def event(self, event: Event) -> None:
        """A phase or a round begins."""

    def waiting(self, text: str) -> None:
        """What the role waits for, such as "glm_exact.products from bank"; empty: it goes on."""

    def network(self, text: str) -> None:
        """What the user should know about connections; empty: all is well."""

    def entry(self, entry: Entry) -> None:
        """A message was sent or has arrived."""


@dataclass(frozen=True)
class Watches:
    """Several that watch as one."""

    all: Sequence[Watch]

    def event(self, event: Event) -> None:
        """A phase or a round begins."""
        for watch in self.all:
            watch.event(event)

    def waiting(self, text: str) -> None:
        """What the role waits for; empty: it goes on."""
        for watch in self.all:
            watch.waiting(text)

    def network(self, text: str) -> None:
        """What the user should know about connections; empty: all is well."""
        for watch in self.all:
            watch.network(text)

    def entry(self, entry: Entry) -> None:
        """A message was sent or has arrived."""
        for watch in self.all:
            watch.entry(entry)
