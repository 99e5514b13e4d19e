"""Plays the exchange of ids between made-up parties, for the tests of all protocols."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from parties.errors import ConfigError, DataError
from parties.link import Endpoint
from parties.local import run_local
from parties.wire import Active, Coordinator, Passive, Role
from psi.elements import elements_of
from psi.exchange import Found, exchange_as_coordinator, exchange_as_party
from psi.settings import AlignmentSettings
from psi.source import ElementArray

ANY = AlignmentSettings(min_intersection=1)

Lists = Mapping[str, list[bytes]]
Plays = dict[str, Callable[[Endpoint], Any]]


def people(start: int, stop: int) -> list[bytes]:
    return [b"person number %d" % i for i in range(start, stop)]


def roles_of(lists: Lists) -> dict[str, type[Role]]:
    """The first party is the active one."""
    first = next(iter(lists))
    return {"coordinator": Coordinator} | {name: Active if name == first else Passive for name in lists}


def public_sizes(lists: Lists, settings: AlignmentSettings) -> dict[str, int]:
    return {name: settings.pad_to or len(ids) for name, ids in lists.items()}


def plays_of(lists: Lists, settings: AlignmentSettings, workers: int = 1) -> Plays:
    sizes = public_sizes(lists, settings)

    def party(ids: list[bytes]) -> Callable[[Endpoint], Found]:
        return lambda end: exchange_as_party(end, ElementArray(elements_of(ids)), sizes, settings, workers=workers)

    plays: Plays = {name: party(ids) for name, ids in lists.items()}
    plays["coordinator"] = lambda end: exchange_as_coordinator(end, sizes, settings)
    return plays


def exchange(
    lists: Lists, settings: AlignmentSettings = ANY, replace: Plays | None = None, workers: int = 1, **recorders: Any
) -> dict[str, Any]:
    """Run it; ``replace`` swaps single roles for scripted ones. Parties return `Found`, the coordinator a number."""
    return run_local(plays_of(lists, settings, workers) | (replace or {}), roles=roles_of(lists), **recorders)


def common_ids(lists: Lists, found: Mapping[str, Any]) -> dict[str, list[bytes]]:
    """What each party says is common."""
    return {name: [ids[i] for i in found[name].own] for name, ids in lists.items()}


def outcomes(lists: Lists, settings: AlignmentSettings) -> dict[str, Any]:
    """The error or result of every role, each run to its own end."""

    def caught(play: Callable[[Endpoint], Any]) -> Callable[[Endpoint], Any]:
        def run(end: Endpoint) -> Any:
            try:
                return play(end)
            except (DataError, ConfigError) as error:
                return (type(error), str(error))

        return run

    return exchange(lists, settings, {name: caught(play) for name, play in plays_of(lists, settings).items()})
