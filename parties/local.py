"""The local network: every role in a thread of one process, taking turns.

One role runs until it must wait; then the next one in order that can go on does. The transcript is therefore the
same every time, and a deadlock is reported exactly: who waits for what from whom.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from parties.errors import LocalProtocolError, PeerLost
from parties.frame import Frame
from parties.greeting import greet_as_coordinator, greet_as_party
from parties.ledger import Ledger
from parties.link import COORDINATOR, Delivery, Endpoint
from parties.sealing import KeyPair
from parties.wire import Role

R = TypeVar("R")

_PATIENCE = 0.5  # seconds: a signal that comes just before a wait without end would be seen at its end only


class LocalNetwork(Generic[R]):
    """Mailboxes between named roles and the turn that they pass round."""

    def __init__(self, names: list[str], frames: list[Frame] | None = None) -> None:
        self._frames = frames
        self._order = list(names)
        self._boxes: defaultdict[tuple[str, str], deque[Frame]] = defaultdict(deque)
        self._waits: dict[str, tuple[str, str]] = {}
        self._turn = threading.Condition()
        self._now: str | None = None
        self._failure: BaseException | None = None

    def transport(self, name: str) -> LocalTransport:
        """The transport of one role."""
        return LocalTransport(self, name)

    def run(self, plays: Mapping[str, Callable[[], R]]) -> dict[str, R]:
        """Play all roles to their end; the first error of any role ends all and is raised here."""
        results: dict[str, R] = {}
        threads = [
            threading.Thread(target=self._play, args=(name, play, results), name=name, daemon=True)
            for name, play in plays.items()
        ]
        try:
            for thread in threads:
                thread.start()
            with self._turn:
                self._pass_turn()
            for thread in threads:
                while thread.is_alive():
                    thread.join(_PATIENCE)
        except KeyboardInterrupt as interrupt:
            self._fail(interrupt)
            raise
        if self._failure is not None:
            raise self._failure
        return results

    def _play(self, name: str, play: Callable[[], R], results: dict[str, R]) -> None:
        with self._turn:
            self._turn.wait_for(lambda: self._now == name or self._failure is not None)
            if self._failure is not None:
                return
        try:
            results[name] = play()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that called run()
            self._fail(error)
        with self._turn:
            self._order.remove(name)
            self._pass_turn()

    def _fail(self, error: BaseException) -> None:
        with self._turn:
            self._failure = self._failure or error
            self._turn.notify_all()

    def _pass_turn(self) -> None:
        """Give the turn to the first role in order that need not wait (the lock is held)."""
        ready = [name for name in self._order if name not in self._waits or self._boxes[self._waits[name][0], name]]
        if not ready and self._order:
            waits = ((name, *self._waits[name]) for name in self._order)
            stuck = "; ".join(f"{name} waits for {what} from {peer}" for name, peer, what in waits)
            self._failure = self._failure or LocalProtocolError(f"deadlock: {stuck}")
        self._now = ready[0] if ready else None
        self._turn.notify_all()

    def put(self, frame: Frame) -> None:
        """Deliver a frame; the sender keeps its turn."""
        self._stop_if_failed()
        if self._frames is not None:
            self._frames.append(frame)
        self._boxes[frame.header.sender, frame.header.receiver].append(frame)

    def take(self, me: str, peer: str, waiting_for: str) -> Frame:
        """Next frame for ``me`` from ``peer``; passes the turn on while there is none."""
        box = self._boxes[peer, me]
        if not box:
            with self._turn:
                self._waits[me] = (peer, waiting_for)
                self._pass_turn()
                self._turn.wait_for(lambda: self._now == me or self._failure is not None)
                del self._waits[me]
        self._stop_if_failed()
        return box.popleft()

    def _stop_if_failed(self) -> None:
        if self._failure is not None:
            raise PeerLost("another role stopped") from self._failure


class LocalTransport:
    """One role's view of the local network."""

    def __init__(self, network: LocalNetwork[R], name: str) -> None:
        self._network = network
        self._name = name

    def send(self, frame: Frame) -> None:
        """Deliver a frame to its receiver's mailbox."""
        self._network.put(frame)

    def receive(self, peer: str, waiting_for: str) -> Frame:
        """Wait for the next frame of a peer."""
        return self._network.take(self._name, peer, waiting_for)


def run_local(
    plays: Mapping[str, Callable[[Endpoint], R]],
    *,
    roles: Mapping[str, type[Role]],
    job: Mapping[str, str] | None = None,
    ledgers: Mapping[str, Ledger] | None = None,
    observe: Callable[[Delivery], None] | None = None,
    frames: list[Frame] | None = None,
) -> dict[str, R]:
    """Greet, then play role functions over the local network.

    Parameters
    ----------
    plays : mapping of name to function
        ``plays[name](endpoint)`` plays one role to its end and returns its result.
    roles : mapping of name to Role type, in job order
    frames : list, optional
        Filled with every frame that passed, as a relay would see it.

    Returns
    -------
    dict
        Result of each role.
    """
    network: LocalNetwork[R] = LocalNetwork(list(plays), frames)
    statics = {name: KeyPair.fresh() for name in plays if name != COORDINATOR}
    pinned = {name: pair.public for name, pair in statics.items()}

    def bind(name: str, play: Callable[[Endpoint], R]) -> Callable[[], R]:
        ledger = (ledgers or {}).get(name) or Ledger()
        endpoint = Endpoint(name, roles, network.transport(name), ledger, observe=observe)

        def start() -> R:
            if name == COORDINATOR:
                greet_as_coordinator(endpoint, job or {})
            else:
                greet_as_party(endpoint, job or {}, statics[name], pinned)
            return play(endpoint)

        return start

    return network.run({name: bind(name, play) for name, play in plays.items()})
