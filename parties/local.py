"""The local network: every role in a thread of one process, taking turns.

One role runs until it must wait; then the next one in order that can go on does. The transcript is therefore the
same every time, and a deadlock is reported exactly: who waits for what from whom.

Where the coordinator tolerates the loss of some roles, one that raises is lost, and the others go on. There is no clock
here: who waits within so many seconds waits until nobody else can go on.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping
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
        self._patient: set[str] = set()  # who waits as long as anybody else can go on
        self._tolerated: frozenset[str] = frozenset()
        self._least = 0
        self._without: dict[str, str] = {}  # roles that the others go on without, and how each was lost

    def transport(self, name: str) -> LocalTransport:
        """The transport of one role."""
        return LocalTransport(self, name)

    def run(self, plays: Mapping[str, Callable[[], R]]) -> dict[str, R]:
        """Play all roles to their end; the first error of any role ends all and is raised here.

        Roles that the others went on without have no result.
        """
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
        return {name: result for name, result in results.items() if name not in self._without}

    def _play(self, name: str, play: Callable[[], R], results: dict[str, R]) -> None:
        with self._turn:
            self._turn.wait_for(lambda: self._now == name or self._failure is not None)
            if self._failure is not None:
                return
        try:
            results[name] = play()
        except Exception as error:
            if not self._spares(name, f"stopped ({type(error).__name__})"):
                self._fail(error)
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
        ready = [name for name in self._order if self._can_go_on(name)]
        ready = ready or [name for name in self._order if name in self._patient]
        if not ready and self._order:
            waits = ((name, *self._waits[name]) for name in self._order)
            stuck = "; ".join(f"{name} waits for {what} from {peer}" for name, peer, what in waits)
            self._failure = self._failure or LocalProtocolError(f"deadlock: {stuck}")
        self._now = ready[0] if ready else None
        self._turn.notify_all()

    def _can_go_on(self, name: str) -> bool:
        if name not in self._waits:
            return True
        peer = self._waits[name][0]
        return bool(self._boxes[peer, name]) or peer in self._without or name in self._without

    def tolerate(self, peers: Collection[str], least: int) -> None:
        """From now on none of these ends the run while at least so many of them are left."""
        self._tolerated, self._least = frozenset(peers), least

    def dismiss(self, peer: str, why: str) -> None:
        """Go on without a role; ends the run if that cannot be."""
        if peer in self._without:
            return
        if not self._spares(peer, why):
            self._fail(PeerLost(f"{peer} {why}"))
            self._stop_if_failed()
        for (sender, _), box in self._boxes.items():
            if sender == peer:
                box.clear()

    def lost(self) -> dict[str, str]:
        """Roles that the others go on without, and how each was lost."""
        return dict(self._without)

    def _spares(self, name: str, how: str) -> bool:
        """Whether the others can go on without a role; then they do."""
        with self._turn:
            if name in self._without:
                return True
            left = self._tolerated - self._without.keys() - {name}
            if self._failure is not None or name not in self._tolerated or len(left) < self._least:
                return False
            self._without[name] = how
            return True

    def put(self, frame: Frame) -> None:
        """Deliver a frame; the sender keeps its turn."""
        self._stop_if_failed()
        self._stop_if_lost(frame.header.sender)
        if self._frames is not None:
            self._frames.append(frame)
        self._boxes[frame.header.sender, frame.header.receiver].append(frame)

    def take(self, me: str, peer: str, waiting_for: str) -> Frame:
        """Next frame for ``me`` from ``peer``; passes the turn on while there is none."""
        box = self._boxes[peer, me]
        if not box:
            self._wait(me, peer, waiting_for)
        self._stop_if_failed()
        self._stop_if_lost(me)
        if not box:
            raise PeerLost(f"{peer} {self._without[peer]} while {waiting_for} was awaited from it")
        return box.popleft()

    def take_if_any(self, me: str, peer: str, waiting_for: str) -> Frame | None:
        """Next frame for ``me`` from ``peer``; None if there still is none when nobody else can go on."""
        box = self._boxes[peer, me]
        if not box and peer not in self._without:
            self._patient.add(me)
            self._wait(me, peer, waiting_for)
            self._patient.discard(me)
        self._stop_if_failed()
        return box.popleft() if box else None

    def _wait(self, me: str, peer: str, waiting_for: str) -> None:
        """Pass the turn on until it comes back."""
        with self._turn:
            self._waits[me] = (peer, waiting_for)
            self._pass_turn()
            self._turn.wait_for(lambda: self._now == me or self._failure is not None)
            del self._waits[me]

    def _stop_if_lost(self, name: str) -> None:
        if name in self._without:
            raise PeerLost(f"{COORDINATOR} goes on without {name}, which {self._without[name]}")

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

    def receive_within(self, peer: str, waiting_for: str, seconds: float) -> Frame | None:
        """Next frame of a peer, or None; without a clock every number of seconds is the same."""
        return self._network.take_if_any(self._name, peer, waiting_for)

    def tolerate(self, peers: Collection[str], least: int) -> None:
        """Let the others go on without any of these."""
        self._network.tolerate(peers, least)

    def dismiss(self, peer: str, why: str) -> None:
        """Go on without a role."""
        self._network.dismiss(peer, why)

    def lost(self) -> dict[str, str]:
        """Roles that the others go on without."""
        return self._network.lost()


def run_local(
    plays: Mapping[str, Callable[[Endpoint], R]],
    *,
    roles: Mapping[str, type[Role]],
    job: Mapping[str, str] | None = None,
    ledgers: Mapping[str, Ledger] | None = None,
    observe: Callable[[Delivery], None] | None = None,
    frames: list[Frame] | None = None,
    lost: dict[str, str] | None = None,
) -> dict[str, R]:
    """Greet, then play role functions over the local network.

    Parameters
    ----------
    plays : mapping of name to function
        ``plays[name](endpoint)`` plays one role to its end and returns its result.
    roles : mapping of name to Role type, in job order
    frames : list, optional
        Filled with every frame that passed, as a relay would see it.
    lost : dict, optional
        Filled with the roles that the others went on without, and how each was lost.

    Returns
    -------
    dict
        Result of each role that was not lost.
    """
    network: LocalNetwork[R] = LocalNetwork(list(plays), frames)
    endpoints: list[Endpoint] = []
    statics = {name: KeyPair.fresh() for name in plays if name != COORDINATOR}
    pinned = {name: pair.public for name, pair in statics.items()}

    def bind(name: str, play: Callable[[Endpoint], R]) -> Callable[[], R]:
        ledger = (ledgers or {}).get(name) or Ledger()
        endpoint = Endpoint(name, roles, network.transport(name), ledger, observe=observe)
        endpoints.append(endpoint)

        def start() -> R:
            if name == COORDINATOR:
                greet_as_coordinator(endpoint, job or {})
            else:
                greet_as_party(endpoint, job or {}, statics[name], pinned)
            return play(endpoint)

        return start

    results = network.run({name: bind(name, play) for name, play in plays.items()})
    for endpoint in endpoints:
        endpoint.note_lost()
    if lost is not None:
        lost.update(network.lost())
    return results
