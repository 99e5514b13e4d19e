"""Strangers at the coordinator's port are served nothing; a party that breaks the network's rules is named by all."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from parties import connection
from parties.dial import Greeting
from parties.errors import ConfigError
from parties.frame import (
    ABORT,
    AGAIN,
    BYE,
    CHUNK,
    HELLO,
    LOST,
    MESSAGE,
    NEWS,
    PING,
    START,
    WELCOME,
    Frame,
    Header,
    write_frame,
)
from parties.identity import make_identity
from parties.link import COORDINATOR
from parties.patience import Patience
from parties.tls import client_context
from tests.parties.networks import (
    AT_ONCE,
    EVERYONE,
    HOST,
    IDENTITIES,
    NAMES,
    PUBLIC,
    Star,
    awaits,
    frame,
    nothing,
    sends,
    wait_until,
)

NOW = datetime.now(UTC)
OTHER_BANK, OTHER_COORDINATOR = make_identity("bank"), make_identity(COORDINATOR)
EXPIRED = make_identity("bank", start=NOW - timedelta(days=800))
EARLY = make_identity("bank", start=NOW + timedelta(days=3))


def without_certificate(highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, highest
    context.check_hostname = False
    context.load_verify_locations(cadata=IDENTITIES[COORDINATOR].public.certificate_der)
    return context


def of_tls_12(context: ssl.SSLContext) -> ssl.SSLContext:
    """With the right certificate, and an older TLS."""
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    return context


def dial_tls(port: int, context: ssl.SSLContext) -> tuple[int, int]:
    """Say hello over TLS; how many bytes of TLS came, and how many for the application."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    on_wire = served = 0
    said = False
    with socket.create_connection((HOST, port), 20) as raw, contextlib.suppress(OSError):
        while True:
            try:
                if not said:
                    tls.do_handshake()
                    hello = msgspec.msgpack.encode(Greeting(b"s" * 16, 0, False))
                    tls.write(write_frame(Frame(HELLO, Header("bank", COORDINATOR), hello)))
                    said = True
                served += len(tls.read(1 << 16))
            except ssl.SSLWantReadError:
                raw.sendall(outgoing.read())
                data = raw.recv(1 << 16)
                on_wire += len(data)
                incoming.write(data)
                if not data:
                    incoming.write_eof()
    return on_wire, served


def dial_plain(port: int, said: bytes) -> bytes:
    """Everything that is answered to these bytes."""
    answer = b""
    with socket.create_connection((HOST, port), 20) as raw, contextlib.suppress(OSError):
        raw.sendall(said)
        raw.shutdown(socket.SHUT_WR)
        while data := raw.recv(1 << 16):
            answer += data
    return answer


STRANGERS: dict[str, Callable[[], ssl.SSLContext]] = {
    "another certificate of that name": lambda: client_context(OTHER_BANK, IDENTITIES[COORDINATOR].public),
    "the coordinator's own certificate": lambda: client_context(
        IDENTITIES[COORDINATOR], IDENTITIES[COORDINATOR].public
    ),
    "another coordinator's certificate": lambda: client_context(OTHER_COORDINATOR, IDENTITIES[COORDINATOR].public),
    "an expired certificate": lambda: client_context(EXPIRED, IDENTITIES[COORDINATOR].public),
    "a certificate of next week": lambda: client_context(EARLY, IDENTITIES[COORDINATOR].public),
    "no certificate": without_certificate,
    "no certificate and TLS 1.2": lambda: without_certificate(ssl.TLSVersion.TLSv1_2),
    "the right certificate and TLS 1.2": lambda: of_tls_12(
        client_context(IDENTITIES["bank"], IDENTITIES[COORDINATOR].public)
    ),
}
NO_TLS = {
    "HTTP": b"GET /metrics HTTP/1.1\r\nHost: coordinator\r\n\r\n",
    "a frame in the clear": write_frame(frame("bank", "shop", b"x", kind=MESSAGE)),
    "zeros": bytes(1000),
    "random bytes": random.Random(1).randbytes(5000),
    "the beginning of a TLS record": b"\x16\x03\x01\x02\x00\x01",
    "a TLS record that is none": b"\x16\x03\x01\x00\x05" + bytes(5),
    "nothing": b"",
}


@pytest.fixture
def run() -> Iterator[tuple[Star, Callable[[], None]]]:
    """An honest run that waits for the test, and what ends it: all must end well."""
    go_on = threading.Event()

    def waits(transport: Any) -> None:
        transport.send(frame("bank", "shop", b"before"))
        go_on.wait(40)
        transport.send(frame("bank", "shop", b"after"))

    def takes(transport: Any) -> list[bytes]:
        return [transport.receive("bank", "m").body for _ in range(2)]

    with Star() as star:
        running = star.begin(bank=waits, shop=takes, biller=nothing, coordinator=nothing, within=50)
        wait_until(lambda: all(running.generations.values()))

        def finish() -> None:
            go_on.set()
            assert running.ended() == {"bank": None, "shop": [b"before", b"after"], "biller": None, COORDINATOR: None}

        yield star, finish


def test_strangers_are_served_nothing_and_the_run_goes_on(run: tuple[Star, Callable[[], None]]) -> None:
    star, finish = run
    for name, make in STRANGERS.items():
        for _ in range(2):
            _, served = dial_tls(star.port, make())
            assert served == 0, name
    finish()


def test_who_speaks_no_tls_is_answered_with_an_alert_at_most(
    run: tuple[Star, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HANDSHAKE_SECONDS", 1.0)
    star, finish = run
    for name, said in NO_TLS.items():
        answer = dial_plain(star.port, said)
        assert answer == b"" or (answer[0] == 0x15 and len(answer) == 7), name
    finish()


def test_a_known_one_is_served() -> None:
    """So that the counts above can be something else than zero."""
    with Star(raw=NAMES) as star:
        puppet = star.puppet("bank")
        assert puppet.welcome().known


@pytest.mark.parametrize(
    ("identity", "said"),
    [
        (OTHER_BANK, "'coordinator' does not accept the certificate of 'bank': it has another one pinned"),
        (IDENTITIES[COORDINATOR], "'coordinator' does not accept the certificate of 'bank'"),
        (EXPIRED, "'coordinator' does not accept the certificate of 'bank'"),
    ],
    ids=["another key", "another role's", "expired"],
)
def test_one_who_is_rejected_is_told_so_at_once(identity: Any, said: str) -> None:
    with Star(raw=["bank"]) as star:
        for _ in range(3):
            bank = star.start_party("bank", identity)
            started = time.monotonic()
            with pytest.raises(ConfigError) as raised:
                bank.enter()
            assert said in str(raised.value)
            assert time.monotonic() - started < star.patience.reconnect_timeout / 2
        wait_until(lambda: star.refused)
    assert len(star.refused) == 1, "the coordinator hears of it once"
    assert star.refused[0].startswith("refused a connection from 127.0.0.1: the certificate of '127.0.0.1'")


def test_a_pinned_certificate_that_has_expired_is_said_so() -> None:
    with Star(raw=["bank"], pinned=PUBLIC | {"bank": EXPIRED.public}) as star, pytest.raises(ConfigError) as raised:
        star.start_party("bank", EXPIRED).enter()
    assert "'coordinator' does not accept the certificate of 'bank': it has expired" in str(raised.value)


def test_a_coordinator_that_is_not_the_pinned_one_is_told_nothing() -> None:
    with Star(raw=["bank"]) as star, pytest.raises(ConfigError) as raised:
        star.start_party("bank", pins=OTHER_COORDINATOR).enter()
    assert "the certificate of 'coordinator' is not the pinned one" in str(raised.value)


def test_a_party_that_is_rejected_later_ends_as_soon_as_it_dials_again() -> None:
    """Its certificate expires, or another is pinned, while a run goes on; the others lose it."""
    with Star(through=["bank"], patience=Patience(0.5, 15.0, 2.0)) as star:

        def cut(transport: Any) -> None:
            hub = star.at[COORDINATOR]
            hub._context = type(hub._context)(ssl.PROTOCOL_TLS_SERVER)  # trusts nobody, shows nothing
            star.relays["bank"].cut()
            transport.receive("shop", "m")

        ended = star.play(bank=cut, shop=awaits("bank"), biller=nothing, coordinator=nothing)
    assert "the coordinator is gone" in ended["bank"]
    assert ended["shop"].startswith("bank is gone")


def test_a_party_under_another_partys_name_gets_no_seat(run: tuple[Star, Callable[[], None]]) -> None:
    star, finish = run
    for says in ("shop", COORDINATOR, "nobody", ""):
        puppet = star.puppet("biller", says=says)
        with pytest.raises((OSError, EOFError)):
            puppet.connection.read()
    finish()


@pytest.mark.parametrize(
    "first",
    [
        frame("biller", "shop", b"x"),
        Frame(HELLO, Header("biller", COORDINATOR)),
        Frame(HELLO, Header("biller", COORDINATOR), b"\xc1"),
        Frame(HELLO, Header("biller", COORDINATOR), msgspec.msgpack.encode([b"short", 0, False])),
        Frame(HELLO, Header("biller", COORDINATOR), msgspec.msgpack.encode([b"s" * 16, -1, False])),
        Frame(HELLO, Header("biller", COORDINATOR), msgspec.msgpack.encode([b"s" * 16, 0, False, 1])),
        Frame(START, Header("biller", COORDINATOR), b"\1\0\0\0"),
    ],
    ids=["a message", "empty", "no msgpack", "a short session", "a negative count", "one field more", "a start"],
)
def test_what_is_no_hello_gets_no_seat(run: tuple[Star, Callable[[], None]], first: Frame) -> None:
    star, finish = run
    puppet = star.puppet("biller", greet=False)
    puppet.say(first)
    with pytest.raises((OSError, EOFError)):
        puppet.connection.read()
    finish()


# Many connections


def test_500_half_open_and_slow_connections_do_not_stop_a_run() -> None:
    """Some say nothing, some half a hello, some drip; all stay as long as they are let."""
    rng = random.Random(7)
    record = b"\x16\x03\x01\x02\x00" + rng.randbytes(512)
    with Star(raw=NAMES) as star, contextlib.ExitStack() as stack:
        strangers = []
        for number in range(500):
            raw = stack.enter_context(socket.create_connection((HOST, star.port), 20))
            raw.setblocking(False)
            with contextlib.suppress(OSError):
                raw.send(record[: (0, 3, 100)[number % 3]])
            strangers.append(raw)
        done = threading.Event()

        def drip() -> None:
            while not done.wait(0.05):
                for raw in rng.sample(strangers, 50):
                    with contextlib.suppress(OSError):
                        raw.send(b"\x16")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            for name in NAMES:
                star.start_party(name)
            ended = star.play(
                bank=sends("bank", "shop", bytes(CHUNK)), shop=awaits("bank"), biller=nothing, coordinator=nothing
            )
        finally:
            done.set()
            dripping.join()
        assert ended["shop"] == bytes(CHUNK)


# Parties that break the rules


def numbered(kind: int, *, sender: str = "biller", receiver: str = "shop", number: int = 1, body: bytes = b"") -> Frame:
    return Frame(kind, Header(sender, receiver, "m"), body, number)


NO_FRAME = "biller sent what is no frame"
TO_NOBODY = "biller sent a frame to nobody"
OTHER_NAME = "biller sent a frame under another name"
GONE = "biller is gone"
FORGED: dict[str, tuple[bytes, str]] = {
    "garbage": (b"GET / HTTP/1.1\r\n\r\n" * 10, NO_FRAME),
    "a wrong checksum": (write_frame(numbered(MESSAGE, body=b"abc"))[:-1] + b"d", NO_FRAME),
    "a broken frame": (write_frame(numbered(MESSAGE, body=b"abc"))[:-1], GONE),
    "nothing": (b"", GONE),
    "another name": (write_frame(numbered(MESSAGE, sender="bank")), OTHER_NAME),
    "the coordinator's name": (write_frame(numbered(MESSAGE, sender=COORDINATOR)), OTHER_NAME),
    "another's goodbye": (write_frame(numbered(BYE, sender="bank", receiver="")), OTHER_NAME),
    "another's abort": (write_frame(numbered(ABORT, sender="bank", receiver="")), OTHER_NAME),
    "to nobody": (write_frame(numbered(MESSAGE, receiver="nobody")), TO_NOBODY),
    "to itself": (write_frame(numbered(MESSAGE, receiver="biller")), TO_NOBODY),
    "to all": (write_frame(numbered(MESSAGE, receiver="")), TO_NOBODY),
    "news of a loss": (write_frame(numbered(LOST)), TO_NOBODY),
    "a start": (write_frame(numbered(START, body=b"\2\0\0\0")), TO_NOBODY),
    "a welcome": (write_frame(numbered(WELCOME, number=0)), TO_NOBODY),
    "a new beginning": (write_frame(numbered(AGAIN, number=0)), TO_NOBODY),
    "news for the eyes": (write_frame(numbered(NEWS, number=0)), TO_NOBODY),
    "a second hello": (write_frame(numbered(HELLO, number=0)), TO_NOBODY),
    "a message without a number": (write_frame(numbered(MESSAGE, number=0)), NO_FRAME),
    "a goodbye without a number": (write_frame(numbered(BYE, number=0)), NO_FRAME),
    "a numbered heartbeat": (write_frame(numbered(PING)), NO_FRAME),
    "a numbered hello": (write_frame(numbered(HELLO)), NO_FRAME),
    "a numbered welcome": (write_frame(numbered(WELCOME)), NO_FRAME),
    "a numbered new beginning": (write_frame(numbered(AGAIN)), NO_FRAME),
    "a gap": (write_frame(numbered(MESSAGE, number=2)), NO_FRAME),
    "a gap as large as can be": (write_frame(numbered(MESSAGE, number=2**64 - 1)), NO_FRAME),
    "acknowledged what was never sent": (write_frame(Frame(PING, Header("biller", ""), acknowledged=50)), NO_FRAME),
    "acknowledged as much as can be": (
        write_frame(Frame(PING, Header("biller", ""), acknowledged=2**64 - 1)) * 1000,
        NO_FRAME,
    ),
}


@pytest.mark.parametrize("forgery", FORGED)
def test_a_forgery_is_laid_at_the_door_of_its_sender(forgery: str) -> None:
    data, cause = FORGED[forgery]
    with Star(patience=AT_ONCE, raw=["biller"]) as star:
        biller = star.puppet("biller")
        running = star.begin(bank=awaits("shop"), shop=awaits("bank"), coordinator=awaits("biller"))
        wait_until(lambda: all(running.generations.values()))
        biller.connection.write(data)
        biller.connection._raw.shutdown(socket.SHUT_WR)
        ended = running.ended()
    assert {text.split(" (")[0] for text in ended.values()} == {cause}


@pytest.mark.parametrize("received", [7, 2**63])
def test_a_new_session_that_has_received_something_is_sent_away(received: int) -> None:
    with Star(raw=["biller"]) as star:
        assert not star.puppet("biller", received=received).welcome().known


@pytest.mark.parametrize("received", [7, 2**63])
def test_a_hello_that_has_received_what_was_never_sent(received: int) -> None:
    with Star(patience=Patience(1.0, 15.0, 3.0), raw=["biller"]) as star:
        star.puppet("biller")
        running = star.begin(bank=awaits("shop"), shop=awaits("bank"), coordinator=awaits("biller"))
        wait_until(lambda: all(running.generations.values()))
        star.puppet("biller", received=received)
        ended = running.ended()
    assert {text.split(" (")[0] for text in ended.values()} == {NO_FRAME}


def test_a_repeated_frame_is_dropped_and_harms_nobody() -> None:
    with Star(patience=AT_ONCE, raw=["biller"]) as star:
        biller = star.puppet("biller")
        running = star.begin(
            bank=nothing, shop=lambda at: [at.receive("biller", "m").body for _ in range(2)], coordinator=nothing
        )
        assert biller.welcome().known
        assert biller.read().kind == START
        for body, number in ((b"1", 1), (b"1", 1), (b"2", 2), (b"1", 1), (b"2", 2)):
            biller.say(numbered(MESSAGE, number=number, body=body))
        biller.say(numbered(BYE, receiver=COORDINATOR, number=3))
        assert running.ended("bank", "shop") == {"bank": None, "shop": [b"1", b"2"]}
        biller.connection.shut()
        running.ended()


def test_a_flood_of_honest_looking_acknowledgements_and_heartbeats_harms_nobody() -> None:
    with Star(patience=AT_ONCE, raw=["biller"]) as star:
        biller = star.puppet("biller")
        running = star.begin(bank=sends("bank", "shop", *[b"x"] * 200), shop=awaits("bank"), coordinator=nothing)
        biller.connection.write(write_frame(Frame(PING, Header("biller", ""))) * 5000)
        biller.send(numbered(BYE, receiver=COORDINATOR))
        assert running.ended("bank", "shop") == {"bank": None, "shop": b"x"}
        biller.connection.shut()
        running.ended()


def test_one_who_forges_is_told_and_cannot_block_in_its_next_send() -> None:
    def forge(transport: Any) -> object:
        transport.send(frame("bank", "shop", b"forged"))
        for _ in range(64):
            transport.send(frame("biller", "shop", bytes(CHUNK)))
        return transport.receive("shop", "m")

    with Star() as star:
        ended = star.play(bank=awaits("shop"), shop=awaits("bank"), biller=forge, coordinator=awaits("bank"), within=25)
    for name in EVERYONE:
        assert ended[name].startswith(OTHER_NAME), ended


def test_random_bytes_from_a_party_hang_nobody() -> None:
    rng = random.Random(3)
    good = b"".join(write_frame(numbered(MESSAGE, number=number, body=b"payload")) for number in (1, 2, 3))
    for _ in range(20):
        data = bytearray(good)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with Star(patience=AT_ONCE, raw=["biller"]) as star:
            biller = star.puppet("biller")
            running = star.begin(bank=awaits("biller"), shop=awaits("bank"), coordinator=awaits("biller"))
            wait_until(lambda r=running: all(r.generations.values()))
            biller.connection.write(bytes(data))
            biller.connection._raw.shutdown(socket.SHUT_WR)
            ended = running.ended()
        assert {text.split(" (")[0] for text in ended.values()} <= {NO_FRAME, GONE, TO_NOBODY, OTHER_NAME}
