"""Kill roles in the middle of a run, and start all again from the newest step that all of them hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from parties.checkpoint import ALIGNED, Arrays, Fact, FolderKeeper
from parties.frame import Frame
from parties.link import Endpoint, Transport
from parties.local import run_local
from parties.wire import Role

R = TypeVar("R")


class Killed(Exception):
    """The end of a role, as sudden as a power cut."""


@dataclass(frozen=True)
class Kill:
    """Where a role dies: before its n-th action of a kind ("send", "receive", "save"), or right after it ("saved")."""

    role: str
    what: str
    n: int


@dataclass
class Fuse:
    """Counts a role's actions, and ends it at the one that a kill names."""

    kill: Kill | None
    counts: Counter[str] = field(default_factory=Counter)

    def burn(self, what: str) -> None:
        self.counts[what] += 1
        if self.kill is not None and (what, self.counts[what]) == (self.kill.what, self.kill.n):
            raise Killed(f"{self.kill}")


@dataclass
class FusedTransport:
    """A transport whose role may die at a frame."""

    inner: Transport
    fuse: Fuse

    def send(self, frame: Frame) -> None:
        self.fuse.burn("send")
        self.inner.send(frame)

    def receive(self, peer: str, waiting_for: str) -> Frame:
        self.fuse.burn("receive")
        return self.inner.receive(peer, waiting_for)

    def close(self) -> None:
        self.inner.close()

    def abort(self, reason: str) -> None:
        self.inner.abort(reason)


@dataclass
class FusedKeeper(FolderKeeper):
    """A keeper whose role may die before or after it keeps a round."""

    fuse: Fuse = field(kw_only=True)

    def save_round(self, rounds: int, facts: Mapping[str, Fact], arrays: Arrays) -> None:
        self.fuse.burn("save")
        super().save_round(rounds, facts, arrays)
        self.fuse.burn("saved")


@dataclass
class Story(Generic[R]):
    """What came of a run with kills.

    Parameters
    ----------
    resumed : list of int
        The step that each start after a kill went on from.
    lost : list of int
        How far the most advanced role was beyond it, in steps.
    actions : mapping of role to its counted actions
        Of the last start.
    warnings : list of str
        Of all roles' keepers.
    """

    results: dict[str, R]
    kills: int
    resumed: list[int]
    lost: list[int]
    actions: dict[str, Counter[str]]
    warnings: list[str]


def play_through(
    plays: Callable[[], Mapping[str, Callable[[Endpoint], R]]],
    roles: Mapping[str, type[Role]],
    folder: Path,
    kills: Sequence[Kill] = (),
    spoil: Callable[[Path], None] | None = None,
) -> Story[R]:
    """Play to the end, started again after every kill; kills that name an action which never comes do nothing.

    ``spoil`` is given the folder after every kill.
    """
    warnings: list[str] = []
    resumed: list[int] = []
    lost: list[int] = []
    died = 0
    for kill in [*kills, None]:
        fuses = {name: Fuse(kill if kill is not None and kill.role == name else None) for name in roles}
        keepers = {
            name: FusedKeeper(folder=folder / name, run="run", job="job", party=name, fuse=fuses[name])
            for name in roles
        }
        steps = {name: keeper.steps() for name, keeper in keepers.items()}
        step = max(set.intersection(*map(set, steps.values())), default=0)
        if died:
            resumed.append(step)
            lost.append(max(max(own, default=0) for own in steps.values()) - step)
        for keeper in keepers.values():
            keeper.resume_from(step)
            if step < ALIGNED:
                keeper.save_aligned({}, {})

        def bind(play: Callable[[Endpoint], R], keeper: FusedKeeper, fuse: Fuse) -> Callable[[Endpoint], R]:
            def start(endpoint: Endpoint) -> R:
                endpoint.keeper = keeper
                endpoint.transport = FusedTransport(endpoint.transport, fuse)
                return play(endpoint)

            return start

        bound = {name: bind(play, keepers[name], fuses[name]) for name, play in plays().items()}
        try:
            results = run_local(bound, roles=roles)
        except Killed:
            died += 1
            if spoil is not None:
                spoil(folder)
            continue
        finally:
            warnings += [line for keeper in keepers.values() for line in keeper.warnings]
        actions = {name: fuse.counts for name, fuse in fuses.items()}
        return Story(results, died, resumed, lost, actions, warnings)
    raise AssertionError("the last start has no kill")
