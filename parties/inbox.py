"""What has arrived for a role, and the reason why no more can come."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque

from parties.errors import PeerLost, Restarted, VflError
from parties.frame import Frame

_REASON_BYTES = 300


class Inbox:
    """Frames by sender; how the run ended, once it has; and whether everybody begins anew."""

    def __init__(self) -> None:
        self._frames: defaultdict[str, deque[Frame]] = defaultdict(deque)
        self._changed = threading.Condition()
        self._failure: str | None = None
        self._kind: type[VflError] = PeerLost
        self._deadline = 0.0  # until then frames may still arrive after a failure
        self._left: set[str] = set()
        self._lost: dict[str, str] = {}  # who is gone though the run goes on, and how
        self._started: int | None = None
        self._restarted = False

    def put(self, frame: Frame) -> None:
        """File a frame under its sender."""
        with self._changed:
            self._frames[frame.header.sender].append(frame)
            self._changed.notify_all()

    def take(self, peer: str, waiting_for: str) -> Frame:
        """Wait for the next frame of a peer.

        Raises
        ------
        PeerLost
            None can come.
        Restarted
            Everybody begins anew.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stirs(peer))
            self._refuse_restarted()
            while not self._frames[peer] and self._failure and (patience := self._deadline - time.monotonic()) > 0:
                self._changed.wait(patience)
            if self._frames[peer]:
                return self._frames[peer].popleft()
            if self._failure is not None:
                raise self._kind(f"{self._failure} (while {waiting_for} was awaited from {peer})")
            how = self._lost.get(peer, "ended its run")
            raise PeerLost(f"{peer} {how} while {waiting_for} was awaited from it")

    def take_within(self, peer: str, waiting_for: str, seconds: float) -> Frame | None:
        """Wait so long for the next frame of a peer; None where none comes, or can, though the run goes on."""
        with self._changed:
            self._changed.wait_for(lambda: self._stirs(peer), seconds)
            if not self._frames[peer] and not self.over:
                return None
        return self.take(peer, waiting_for)

    def _stirs(self, peer: str) -> bool:
        """Whether there is a frame of a peer, or a reason why none can come (the lock is held)."""
        gone = peer in self._left or peer in self._lost
        return bool(self._frames[peer] or self._failure or self._restarted or gone)

    def check(self) -> None:
        """Raise why nothing more can be sent, if so."""
        with self._changed:
            self._refuse_restarted()
            if self._failure is not None and self._deadline <= time.monotonic():
                raise self._kind(self._failure)

    def leave(self, peer: str) -> None:
        """Note that a peer has all it needs."""
        with self._changed:
            self._left.add(peer)
            self._changed.notify_all()

    def lose(self, peer: str, how: str, *, forget: bool = False) -> None:
        """Note that a peer is gone and the run goes on; ``forget``: what has come from it is dropped."""
        with self._changed:
            self._lost.setdefault(peer, how)
            if forget:
                self._frames[peer].clear()
            self._changed.notify_all()

    def start(self, generation: int) -> None:
        """Note that everybody is there."""
        with self._changed:
            self._started = generation
            self._changed.notify_all()

    def fail(self, reason: str, grace: float = 0.0, kind: type[VflError] = PeerLost) -> bool:
        """Wake everyone who waits, after ``grace`` seconds; the first reason stays. Whether it was the first."""
        with self._changed:
            first = self._failure is None
            self._kind = kind if first else self._kind
            deadline = time.monotonic() + grace
            self._deadline = deadline if first else min(self._deadline, deadline)
            self._failure = self._failure or reason
            self._changed.notify_all()
        return first

    def restart(self) -> None:
        """Wake everyone who waits: the run begins anew."""
        with self._changed:
            self._restarted = True
            self._changed.notify_all()

    def has_left(self, peer: str) -> bool:
        """Whether a peer has said that it has all it needs."""
        with self._changed:
            return peer in self._left

    @property
    def started(self) -> bool:
        """Whether everybody was there once."""
        with self._changed:
            return self._started is not None

    @property
    def over(self) -> bool:
        """Whether nothing more can come here."""
        with self._changed:
            return self._restarted or self._failure is not None

    def wait_for_start(self) -> int:
        """Wait until everybody is there; returns the generation."""
        with self._changed:
            self._changed.wait_for(lambda: self._started is not None or self._failure or self._restarted)
            self._refuse_restarted()
            if self._started is None:
                raise self._kind(self._failure or "the run did not begin")
            return self._started

    def wait_for_farewells(self, peers: set[str]) -> None:
        """Wait until all of these have left that the run does not go on without; raises as `take` does."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or self._restarted or self._are_done(peers))
            self._refuse_restarted()
            if self._failure is not None and not self._are_done(peers):
                raise self._kind(self._failure)

    def _are_done(self, peers: set[str]) -> bool:
        return peers <= self._left | self._lost.keys()

    def _refuse_restarted(self) -> None:
        if self._restarted:
            raise Restarted("the run begins anew from its last checkpoint")


def short(reason: str) -> str:
    """Fit for one line of anybody's terminal and for the header of a frame."""
    printable = "".join(character for character in reason if character.isprintable())
    return printable.encode()[:_REASON_BYTES].decode(errors="ignore")
