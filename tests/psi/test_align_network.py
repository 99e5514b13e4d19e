"""Alignment over sockets, every role at its own pace: results, large lists, and refusals that all must read."""

import threading

import pytest

from parties import tls
from parties.connection import connect
from parties.dial import PartyTransport
from parties.errors import ConfigError, DataError, VflError
from parties.greeting import Standing, greet_as_coordinator, greet_as_party
from parties.hub import HubTransport, listen
from parties.identity import make_identity
from parties.link import Endpoint
from parties.patience import Patience
from parties.wire import Active, Coordinator, Passive
from psi.align import AlignmentSettings, align_coordinator, align_party
from psi.ids import IdRules, prepare_ids

PATIENCE = Patience(heartbeat=2.0, notice=10.0, reconnect_timeout=0.0)
NAMES = ["bank", "shop", "biller"]
ROLES = {"bank": Active, "shop": Passive, "biller": Passive, "coordinator": Coordinator}


SILOS = {"bank": Active, "shop.east": Passive, "shop.west": Passive, "coordinator": Coordinator}


def run_over_sockets(plays, roles=ROLES):
    """What each role returned or raised; who raises tells the others with an abort, as a process does."""
    before = set(threading.enumerate())
    names = [name for name in roles if name != "coordinator"]
    identities = {name: make_identity(name) for name in roles}
    pinned = {name: identities[name].public for name in names}
    sealing = {name: identity.sealing for name, identity in pinned.items()}
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    context = tls.server_context(identities["coordinator"], pinned.values())
    hub = HubTransport(listener, context, lambda der: tls.peer_name(der, pinned), names, PATIENCE, lambda text: None)
    transports = {name: party(identities[name], identities["coordinator"], port) for name in names}
    transports["coordinator"] = hub
    ended = {}

    def role(name):
        transport = transports[name]
        endpoint = Endpoint(name, roles, transport)
        try:
            standing = Standing(transport.enter())
            if name == "coordinator":
                greet_as_coordinator(endpoint, {}, standing)
            else:
                greet_as_party(endpoint, {}, identities[name].sealing, sealing, standing)
            ended[name] = plays[name](endpoint)
            transport.finish()
        except VflError as error:
            ended[name] = error
            transport.abort("stopped")

    threads = [threading.Thread(target=role, args=(name,)) for name in plays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    return ended


def party(identity, coordinator, port):
    context = tls.client_context(identity, coordinator.public)
    return PartyTransport(
        identity.name,
        lambda: connect("127.0.0.1", port, context, PATIENCE.silence),
        PATIENCE,
        lambda text: None,
        lambda error: None,
    )


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


def test_large_lists_of_silos():
    columns = {"bank": cells(0, 12_000), "shop.east": cells(3000, 9000), "shop.west": cells(9000, 15_000)}
    ended = run_over_sockets(alignment(columns, AlignmentSettings()), SILOS)
    rows = {name: [columns[name][row] for row in ended[name].rows] for name in columns}
    assert ended["coordinator"].intersection == len(rows["bank"]) == 9000
    for name in ("shop.east", "shop.west"):
        assert rows[name] == [rows["bank"][place] for place in ended[name].owned]
    assert len(rows["shop.east"]) + len(rows["shop.west"]) == 9000


def test_an_id_in_two_silos_reaches_every_role():
    columns = {"bank": cells(0, 20), "shop.east": cells(0, 12), "shop.west": cells(10, 30)}
    for _ in range(5):
        ended = run_over_sockets(alignment(columns, AlignmentSettings(min_intersection=10)), SILOS)
        assert {type(error) for error in ended.values()} == {DataError}
        (text,) = {str(error) for error in ended.values()}
        assert "2 ids of party 'shop'" in text


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
