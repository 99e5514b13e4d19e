"""Alignment over sockets, every role at its own pace: results, large lists, and refusals that all must read."""

import socket
import threading

import pytest

from parties.errors import ConfigError, DataError, VflError
from parties.greeting import greet_as_coordinator, greet_as_party
from parties.link import Endpoint
from parties.process import HubTransport, PartyTransport
from parties.sealing import KeyPair
from parties.wire import Active, Coordinator, Passive
from psi.align import AlignmentSettings, align_coordinator, align_party
from psi.ids import IdRules, prepare_ids

NAMES = ["bank", "shop", "biller"]
ROLES = {"bank": Active, "shop": Passive, "biller": Passive, "coordinator": Coordinator}


def run_over_sockets(plays):
    """What each role returned or raised; who raises tells the others with an abort, as a process does."""
    before = set(threading.enumerate())
    pairs = {name: socket.socketpair() for name in NAMES}
    transports = {name: PartyTransport(name, pairs[name][0]) for name in NAMES}
    transports["coordinator"] = HubTransport({name: pairs[name][1] for name in NAMES})
    keys = {name: KeyPair.fresh() for name in NAMES}
    pinned = {name: pair.public for name, pair in keys.items()}
    ended = {}

    def role(name):
        endpoint = Endpoint(name, ROLES, transports[name])
        try:
            if name == "coordinator":
                greet_as_coordinator(endpoint, {})
            else:
                greet_as_party(endpoint, {}, keys[name], pinned)
            ended[name] = plays[name](endpoint)
        except VflError as error:
            ended[name] = error
            transports[name].abort("stopped")
        else:
            transports[name].close()

    threads = [threading.Thread(target=role, args=(name,)) for name in plays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    close(transports, readers=set(threading.enumerate()) - before)
    return ended


def close(transports, readers):
    """Wake the reader threads, wait for them, and close every socket and its stream."""
    hub = transports.pop("coordinator")
    connections = [*hub._connections.values(), *(transport._hub for transport in transports.values())]
    for connection in connections:
        connection.shut()
    for reader in readers:
        reader.join(10)
    for connection in connections:
        connection._stream.close()


def alignment(columns, settings, rules=None):
    """Role functions that align these columns."""
    plays = {}
    for name, cells in columns.items():
        prepared = prepare_ids([cells], (rules or {}).get(name, IdRules()), party=name)
        plays[name] = lambda end, prepared=prepared: align_party(end, prepared, settings)
    return plays | {"coordinator": lambda end: align_coordinator(end, settings)}


def cells(start, stop):
    return [f"client-{i}" for i in range(start, stop)]


def test_lists_larger_than_a_socket_holds():
    """Every party sends its whole list before it reads: nothing may block."""
    columns = {"bank": cells(0, 12_000), "shop": cells(3000, 15_000), "biller": cells(0, 9000)}
    ended = run_over_sockets(alignment(columns, AlignmentSettings()))
    rows = {name: [columns[name][row] for row in ended[name].rows] for name in NAMES}
    assert rows["bank"] == rows["shop"] == rows["biller"]
    assert ended["coordinator"].intersection == len(rows["bank"]) == 6000


REFUSALS = {
    "too few in common": ({"biller": cells(19, 60)}, {}, DataError),
    "nobody in common": ({"biller": cells(40, 60)}, {}, DataError),
    "a short list": ({"biller": cells(0, 3)}, {}, DataError),
    "other rules": ({}, {"shop": IdRules(casefold=True)}, ConfigError),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_reaches_every_role(case):
    changed, rules, kind = REFUSALS[case]
    columns = {"bank": cells(0, 20), "shop": cells(0, 30), "biller": cells(0, 25)} | changed
    for _ in range(10):  # whoever raises first must not look lost to the others
        ended = run_over_sockets(alignment(columns, AlignmentSettings(min_intersection=10), rules))
        assert set(ended) == {*NAMES, "coordinator"}
        assert {type(error) for error in ended.values()} == {kind}
        assert len({str(error) for error in ended.values()}) == 1
