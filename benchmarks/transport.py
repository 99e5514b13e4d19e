"""Round trips and streams between processes over the network of the engine, beside gRPC and bare TLS.

    python -m benchmarks.transport [--rounds 3000] [--blocks 8] [--megabytes 64]

Every role is a process of its own on the loopback interface, TLS 1.3 with pinned certificates on every hop. Rows:

- ``party - coordinator``: one hop there and one back; the body is not sealed (the coordinator is who it is for).
- ``party - party, sealed``: sealed end to end and relayed by the coordinator, two hops there and two back.
- ``bare TLS socket``: Python's ``ssl`` and nothing else: what a hop can be at best.
- ``gRPC``: a bidirectional stream of grpcio with generic bytes handlers, mutual TLS, no sealing, no relay, nothing sent
  again; where it is installed (``pip install -e '.[bench]'``).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import queue
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection as Pipe

import numpy as np
from rich.console import Console
from rich.table import Table

from parties import tls
from parties.connection import connect
from parties.dial import PartyTransport
from parties.greeting import Standing, greet_as_coordinator, greet_as_party
from parties.hub import HubTransport, listen
from parties.identity import Identity, make_identity
from parties.link import COORDINATOR, Endpoint
from parties.patience import Patience
from parties.wire import Active, Control, Coordinator, DataParty, Message, Opened, Passive, Role

PATIENCE = Patience(5.0, 30.0, 60.0)
ROLES: dict[str, type[Role]] = {COORDINATOR: Coordinator, "bank": Active, "shop": Passive}
MEBIBYTE = 1 << 20


class Wire:
    """A question and its answer, to the coordinator and to a party."""

    ask = Message(Active, Coordinator, Opened)
    answer = Message(Coordinator, Active, Opened)
    ask_party = Message(Active, Passive, Opened)
    answer_party = Message(Passive, Active, Opened)
    much = Message(Active, Passive, Opened)
    much_here = Message(Active, Coordinator, Opened)
    taken = Message(DataParty, DataParty, Control)
    taken_here = Message(Coordinator, DataParty, Control)


def payload(size: int) -> Opened:
    """A body of so many bytes."""
    return Opened(np.zeros((1, size), np.uint8))


def hub(identities: dict[str, Identity], listener: socket.socket, rounds: int, blocks: int) -> None:
    """The coordinator: answers, and relays."""
    pinned = {name: identity.public for name, identity in identities.items() if name != COORDINATOR}
    context = tls.server_context(identities[COORDINATOR], pinned.values())
    network = HubTransport(
        listener, context, lambda der: tls.peer_name(der, pinned), list(pinned), PATIENCE, lambda text: None
    )
    endpoint = Endpoint(COORDINATOR, ROLES, network)
    greet_as_coordinator(endpoint, {}, Standing(network.enter()))
    bank = endpoint.link(Coordinator, Active, "bank")
    for _ in range(rounds):
        bank.send(Wire.answer, bank.recv(Wire.ask))
    for _ in range(blocks):
        bank.recv(Wire.much_here)
    bank.send(Wire.taken_here, Control({}))
    network.finish()


def party(
    name: str, identities: dict[str, Identity], port: int, rounds: int, blocks: int, megabytes: int, out: Pipe | None
) -> None:
    """A party: the bank asks and measures, the shop answers."""
    context = tls.client_context(identities[name], identities[COORDINATOR].public)
    network = PartyTransport(
        name,
        lambda: connect("127.0.0.1", port, context, PATIENCE.silence),
        PATIENCE,
        lambda text: None,
        lambda error: None,
    )
    endpoint = Endpoint(name, ROLES, network)
    pinned = {peer: identity.sealing.public for peer, identity in identities.items()}
    generation = network.enter()
    greet_as_party(endpoint, {}, identities[name].sealing, pinned, Standing(generation))
    if name == "bank" and out is not None:
        out.send(_measure(endpoint, rounds, blocks, megabytes))
    else:
        bank = endpoint.link(Passive, Active, "bank")
        for _ in range(rounds):
            bank.send(Wire.answer_party, bank.recv(Wire.ask_party))
        for _ in range(blocks):
            bank.recv(Wire.much)
        bank.send(Wire.taken, Control({}))
    network.finish()


def _measure(endpoint: Endpoint, rounds: int, blocks: int, megabytes: int) -> dict[str, float]:
    center, shop = endpoint.link(Active, Coordinator, COORDINATOR), endpoint.link(Active, Passive, "shop")
    small, block = payload(1024), payload(megabytes * MEBIBYTE)

    def ask_center() -> None:
        center.send(Wire.ask, small)
        center.recv(Wire.answer)

    def ask_shop() -> None:
        shop.send(Wire.ask_party, small)
        shop.recv(Wire.answer_party)

    found = {"center": _median(ask_center, rounds), "shop": _median(ask_shop, rounds)}
    start = time.perf_counter()
    for _ in range(blocks):
        center.send(Wire.much_here, block)
    center.recv(Wire.taken_here)
    found["stream center"] = blocks * megabytes * MEBIBYTE / 1e6 / (time.perf_counter() - start)
    start = time.perf_counter()
    for _ in range(blocks):
        shop.send(Wire.much, block)
    shop.recv(Wire.taken)
    found["stream shop"] = blocks * megabytes * MEBIBYTE / 1e6 / (time.perf_counter() - start)
    return found


def _median(ask: Callable[[], None], rounds: int) -> float:
    """Median microseconds of a round trip."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        ask()
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def engine(rounds: int, blocks: int, megabytes: int) -> dict[str, float]:
    """The engine's own network between three processes."""
    identities = {name: make_identity(name) for name in ROLES}
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        receive, send = multiprocessing.Pipe(duplex=False)
        roles = [
            multiprocessing.Process(target=hub, args=(identities, listener, rounds, blocks)),
            multiprocessing.Process(target=party, args=("bank", identities, port, rounds, blocks, megabytes, send)),
            multiprocessing.Process(target=party, args=("shop", identities, port, rounds, blocks, megabytes, None)),
        ]
        for role in roles:
            role.start()
    found: dict[str, float] = receive.recv()
    for role in roles:
        role.join()
    return found


def bare_tls(rounds: int, megabytes: int) -> dict[str, float]:
    """An echo over ``ssl`` sockets between two processes."""
    server, client = make_identity(COORDINATOR), make_identity("bank")
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        echo = multiprocessing.Process(target=_bare_echo, args=(listener, server, client, megabytes))
        echo.start()
    context = tls.client_context(client, server.public)
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port))) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ask() -> None:
            connection.sendall(bytes(1024))
            _take(connection, 1024)

        median = _median(ask, rounds)
        connection.sendall(bytes(1))
        _take(connection, 1)
        start = time.perf_counter()
        block = bytes(MEBIBYTE)
        for _ in range(megabytes):
            connection.sendall(block)
        _take(connection, 1)
        speed = megabytes * MEBIBYTE / 1e6 / (time.perf_counter() - start)
    echo.join()
    return {"center": median, "stream center": speed}


def _bare_echo(listener: socket.socket, server: Identity, client: Identity, megabytes: int) -> None:
    raw, _ = listener.accept()
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with tls.server_context(server, [client.public]).wrap_socket(raw, server_side=True) as connection:
        while len(question := connection.recv(1024)) > 1:
            connection.sendall(question)
        connection.sendall(question)
        _take(connection, megabytes * MEBIBYTE)
        connection.sendall(question)


def _take(connection: socket.socket, count: int) -> None:
    while count:
        count -= len(connection.recv(min(count, MEBIBYTE)))


def grpc_stream(rounds: int, megabytes: int) -> dict[str, float] | None:
    """An echo over a gRPC stream between two processes; None where grpcio is not installed."""
    try:
        import grpc
    except ImportError:
        return None
    server, client = make_identity(COORDINATOR), make_identity("bank")
    receive, send = multiprocessing.Pipe(duplex=False)
    echo = multiprocessing.get_context("spawn").Process(
        target=_grpc_echo, args=(send, server.tls_key, server.certificate, client.certificate)
    )
    echo.start()
    port = receive.recv()
    credentials = grpc.ssl_channel_credentials(server.certificate, client.tls_key, client.certificate)
    options = [*_GRPC_OPTIONS, ("grpc.ssl_target_name_override", COORDINATOR)]
    questions: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        answers = channel.stream_stream("/vfl.Relay/Connect")(iter(questions.get, None))

        def ask() -> None:
            questions.put(bytes(1024))
            next(answers)

        median = _median(ask, rounds)
        start = time.perf_counter()
        block = bytes(MEBIBYTE)
        for _ in range(megabytes):
            questions.put(block)
        ask()
        speed = megabytes * MEBIBYTE / 1e6 / (time.perf_counter() - start)
        questions.put(None)
    echo.kill()
    echo.join()
    return {"center": median, "stream center": speed}


_GRPC_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def _grpc_echo(out: Pipe, key: bytes, certificate: bytes, trusted: bytes) -> None:
    import grpc

    def echo(questions: Iterator[bytes], context: object) -> Iterator[bytes]:
        return (question for question in questions if len(question) < MEBIBYTE)

    handlers = {"Connect": grpc.stream_stream_rpc_method_handler(echo)}
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(4),
        handlers=[grpc.method_handlers_generic_handler("vfl.Relay", handlers)],
        options=_GRPC_OPTIONS,
    )
    credentials = grpc.ssl_server_credentials([(key, certificate)], trusted, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    out.send(port)
    server.wait_for_termination()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3000)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--megabytes", type=int, default=64, help="size of one block")
    asked = parser.parse_args()
    total = asked.blocks * asked.megabytes
    peers = {"gRPC": grpc_stream(asked.rounds, total), "bare TLS socket": bare_tls(asked.rounds, total)}
    ours = engine(asked.rounds, asked.blocks, asked.megabytes)
    table = Table(title=f"1 KiB round trips, median of {asked.rounds}; {asked.blocks} blocks of {asked.megabytes} MiB")
    for title in ("", "round trip, us", "MB/s", "round trip / gRPC", "MB/s / gRPC"):
        table.add_column(title, justify="left" if not title else "right")
    rows = {
        "party - coordinator": (ours["center"], ours["stream center"]),
        "party - party, sealed, relayed": (ours["shop"], ours["stream shop"]),
        **{name: (found["center"], found["stream center"]) for name, found in peers.items() if found is not None},
    }
    beside = rows.get("gRPC")
    for name, (median, speed) in rows.items():
        ratios = ("-", "-") if beside is None else (f"{median / beside[0]:.2f}", f"{speed / beside[1]:.2f}")
        table.add_row(name, f"{median:.0f}", f"{speed:.0f}", *ratios)
    Console(width=110).print(table)


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    main()
