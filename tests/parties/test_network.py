"""The star over TLS, in threads: relaying, clean ends, every way to fail, and that nothing hangs."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from typing import Any

import pytest

from parties.errors import PeerLost
from parties.frame import CHUNK
from parties.hub import listen
from parties.link import COORDINATOR
from parties.patience import Patience
from tests.parties.networks import (
    AT_ONCE,
    EVERYONE,
    NAMES,
    Play,
    Star,
    awaits,
    frame,
    nothing,
    sends,
    wait_until,
)


def everybody(play: Play) -> dict[str, Play]:
    return dict.fromkeys(EVERYONE, play)


def test_frames_pass_between_all_roles_in_order() -> None:
    bodies = [b"%d" % number for number in range(200)]

    def role(name: str) -> Play:
        def run(transport: Any) -> object:
            for body in bodies:
                for peer in EVERYONE:
                    if peer != name:
                        transport.send(frame(name, peer, body))
            return {p: [transport.receive(p, "m").body for _ in bodies] for p in EVERYONE if p != name}

        return run

    with Star() as star:
        ended = star.play(**{name: role(name) for name in EVERYONE})
    for name in EVERYONE:
        assert ended[name] == {peer: bodies for peer in EVERYONE if peer != name}


def test_64_mib_pass_through_the_relay_intact_both_ways_at_once() -> None:
    chunks = [random.Random(number).randbytes(CHUNK) for number in range(8)] * 8

    def role(name: str, peer: str) -> Play:
        def run(transport: Any) -> object:
            for chunk in chunks:
                transport.send(frame(name, peer, chunk))
            return all(transport.receive(peer, "m").body == chunk for chunk in chunks)

        return run

    with Star() as star:
        ended = star.play(
            bank=role("bank", "shop"), shop=role("shop", "bank"), biller=nothing, coordinator=nothing, within=60
        )
    assert ended == {"bank": True, "shop": True, "biller": None, COORDINATOR: None}


def test_clean_ends_are_no_error() -> None:
    for _ in range(10):
        with Star() as star:
            assert set(star.play(**everybody(nothing)).values()) == {None}
            assert star.ends[0] == COORDINATOR  # before anybody is told
            assert sorted(star.ends) == sorted(EVERYONE)  # once each


def test_the_run_begins_when_everybody_is_there() -> None:
    with Star(raw=["biller"]) as star:
        early = star.begin(bank=nothing, shop=nothing, coordinator=nothing)
        wait_until(lambda: "waiting for biller to join" in star.told[COORDINATOR])
        assert not early.results
        star.start_party("biller")
        assert star.play(biller=nothing) == {"biller": None}
        early.ended()
        assert star.told[COORDINATOR][-1] == ""
    assert set(map(tuple, early.generations.values())) == {(1,)}


def test_parties_talk_on_after_the_coordinator_has_finished() -> None:
    def talk(me: str, peer: str) -> Play:
        def run(transport: Any) -> str:
            for number in range(20):
                time.sleep(0.01)
                transport.send(frame(me, peer, b"%d" % number))
                assert transport.receive(peer, "m").body == b"%d" % number
            return "done"

        return run

    with Star() as star:
        ended = star.play(bank=talk("bank", "shop"), shop=talk("shop", "bank"), biller=nothing, coordinator=nothing)
    assert ended == {"bank": "done", "shop": "done", "biller": None, COORDINATOR: None}


def test_nobody_has_finished_before_everybody_has() -> None:
    held, finished = threading.Event(), list[str]()

    def last(transport: Any) -> None:
        held.wait(20)
        finished.append("the last one")

    with Star() as star:
        running = star.begin(bank=nothing, shop=nothing, biller=last, coordinator=nothing)
        time.sleep(0.3)
        assert not running.results and not star.ends
        held.set()
        running.ended()
        assert star.ends[0] == COORDINATOR and sorted(star.ends) == sorted(EVERYONE)


def test_the_last_wait_is_as_long_as_another_still_works() -> None:
    """Longer than any limit on silence: waiting for a slow peer is no failure."""
    with Star(patience=Patience(0.2, 5.0, 20.0)) as star:

        def slow(transport: Any) -> None:
            time.sleep(1.2)
            transport.send(frame("bank", "shop"))

        ended = star.play(bank=slow, shop=awaits("bank"), biller=nothing, coordinator=nothing)
        assert (
            star.relays == {}
            and [text for texts in star.told.values() for text in texts if "reconnecting" in text] == []
        )
    assert ended == {"bank": None, "shop": b"", "biller": None, COORDINATOR: None}


def test_waiting_for_one_that_has_ended_cleanly() -> None:
    with Star() as star:
        ended = star.play(bank=awaits("shop", "glm.share"), shop=nothing, biller=awaits("bank"), coordinator=nothing)
    assert ended["bank"] == "shop ended its run while glm.share was awaited from it"
    for name in ("biller", COORDINATOR):
        assert ended[name].startswith("bank stopped with a PeerLost")


def test_the_last_words_before_a_clean_end_arrive() -> None:
    for _ in range(20):
        with Star() as star:
            ended = star.play(
                bank=sends("bank", "shop", b"x" * CHUNK, b"last"),
                shop=lambda transport: [transport.receive("bank", "m").body[-4:] for _ in range(2)],
                biller=sends("biller", COORDINATOR, b"bye"),
                coordinator=awaits("biller"),
            )
        assert ended == {"bank": None, "shop": [b"xxxx", b"last"], "biller": None, COORDINATOR: b"bye"}


def test_sending_to_one_that_has_ended_cleanly_is_no_error() -> None:
    """As in the local network; whoever then waits for it learns that it has ended."""
    for _ in range(5):
        with Star() as star:
            ended = star.play(
                bank=sends("bank", "shop", *[b"x" * CHUNK] * 5),
                shop=nothing,
                biller=nothing,
                coordinator=sends(COORDINATOR, "shop", *[b"y" * CHUNK] * 5),
            )
        assert set(ended.values()) == {None}


def test_transports_end_once_and_again() -> None:
    with Star() as star:
        star.play(**everybody(nothing))
        for transport in star.at.values():
            transport.abort("stopped")
            transport.abort("stopped")


# A role dies


def meets(star: Star, victim: str, plays: dict[str, Play], *, after: float = 0.05) -> dict[str, Any]:
    """Play, with one role that enters and then dies."""
    dies = threading.Event()
    running = star.begin(**plays, **{victim: lambda transport: dies.wait(20) and transport.receive("nobody", "m")})
    wait_until(lambda: all(running.generations.values()))
    time.sleep(after)
    star.kill(victim)
    dies.set()
    return {name: text for name, text in running.ended().items() if name != victim}


@pytest.mark.parametrize("victim", NAMES)
def test_a_dead_party_is_named_by_all_others(victim: str) -> None:
    for _ in range(5):
        with Star(patience=AT_ONCE) as star:
            others = [name for name in EVERYONE if name != victim]
            ended = meets(star, victim, {name: awaits(others[index - 1]) for index, name in enumerate(others)})
        for name in others:
            assert ended[name].startswith(f"{victim} is gone (while m was awaited from "), ended


def test_a_dead_party_ends_everybodys_last_wait() -> None:
    with Star(patience=AT_ONCE) as star:
        ended = meets(star, "shop", {"bank": nothing, "biller": nothing, COORDINATOR: nothing})
    assert set(ended.values()) == {"shop is gone"}


def test_a_dead_party_wakes_who_floods_it() -> None:
    def flood(transport: Any) -> None:
        while True:
            transport.send(frame("bank", "shop", bytes(CHUNK)))
            transport.send(frame("bank", "biller", b"."))
            transport.receive("biller", "m")

    def echo(transport: Any) -> None:
        while True:
            transport.receive("bank", "m")
            transport.send(frame("biller", "bank", b"."))

    with Star(patience=AT_ONCE) as star:
        ended = meets(star, "shop", {"bank": flood, "biller": echo, COORDINATOR: awaits("bank")}, after=0.2)
    assert all(text.startswith("shop is gone") for text in ended.values()), ended


def test_a_dead_party_is_named_while_another_takes_nothing_in() -> None:
    """biller's process stands still with full buffers; bank and the coordinator are told of shop all the same."""

    def flood(transport: Any) -> None:
        for _ in range(50):
            transport.send(frame(COORDINATOR, "biller", bytes(CHUNK)))
        transport.receive("shop", "m")

    with Star(patience=Patience(1.5, 15.0, 0.0), raw=["biller"]) as star:
        star.puppet("biller")  # reads nothing
        ended = meets(star, "shop", {"bank": awaits("shop"), COORDINATOR: flood}, after=0.3)
    assert all(text.startswith("shop is gone") for text in ended.values()), ended


def test_a_dead_coordinator_is_named_by_all() -> None:
    with Star(patience=AT_ONCE) as star:
        ended = meets(
            star, COORDINATOR, {"bank": awaits("shop"), "shop": awaits(COORDINATOR), "biller": awaits("bank")}
        )
    assert all(text.startswith("the coordinator is gone") for text in ended.values()), ended


def test_sending_and_ending_after_the_coordinators_death() -> None:
    dead = threading.Event()

    def late(play: Play) -> Play:
        return lambda transport: dead.wait(20) and play(transport)

    with Star(patience=AT_ONCE) as star:
        running = star.begin(
            bank=late(sends("bank", "shop", *[b"x"] * 100)), shop=late(nothing), biller=late(awaits("bank")),
            coordinator=awaits("bank"),
        )  # fmt: skip
        wait_until(lambda: all(running.generations.values()))
        star.kill(COORDINATOR)
        time.sleep(0.1)
        dead.set()
        ended = running.ended()
    assert all(ended[name].startswith("the coordinator is gone") for name in NAMES), ended


# A role fails


def stops(reason: str) -> Play:
    """A role that fails, and says so in words of its own."""

    def role(transport: Any) -> None:
        transport.abort(reason)
        raise PeerLost("stopped")

    return role


def test_the_reason_of_an_abort_reaches_all_others() -> None:
    for _ in range(2):
        with Star() as star:
            ended = star.play(
                bank=stops("stopped with a DataError"),
                shop=awaits("bank"),
                biller=awaits("shop"),
                coordinator=awaits("biller"),
            )
        for name in ("shop", "biller", COORDINATOR):  # who has not begun to wait hears the reason alone
            said, _, awaited = ended[name].partition(" (")
            assert said == "bank stopped with a DataError", ended
            assert not awaited or awaited.startswith("while m was awaited from "), ended


def test_the_reason_of_the_coordinators_abort_reaches_all() -> None:
    for _ in range(5):
        with Star() as star:
            ended = star.play(
                coordinator=stops("stopped with a PolicyError"),
                bank=sends("bank", "shop", *[b"x" * CHUNK] * 20),
                shop=awaits(COORDINATOR),
                biller=awaits("bank"),
            )
        assert all(ended[name].startswith("coordinator stopped with a PolicyError") for name in NAMES), ended


def test_an_abort_behind_much_that_is_under_way_arrives() -> None:
    """Its process ends at once: the connection must not be torn down over what it still has to bring."""
    for _ in range(2):
        with Star(patience=Patience(1.0, 15.0, 30.0), through=["bank"]) as star:
            star.relays["bank"].bytes_per_second = 40 << 20

            def floods_and_stops(transport: Any) -> None:
                sends("bank", "shop", *[bytes(CHUNK)] * 8)(transport)
                stops("stopped with a DataError")(transport)

            ended = star.play(
                bank=floods_and_stops,
                shop=awaits("biller"),
                biller=awaits("shop"),
                coordinator=awaits("biller"),
                within=15,
            )
        for name in ("shop", "biller", COORDINATOR):
            assert ended[name].startswith("bank stopped with a DataError"), ended


def test_an_abort_while_the_connection_is_broken_arrives_with_the_next() -> None:
    with Star(through=["bank"]) as star:

        def cuts_and_stops(transport: Any) -> None:
            star.relays["bank"].cut()
            stops("stopped with a DataError")(transport)

        others = {name: awaits("bank") for name in EVERYONE if name != "bank"}
        ended = star.play(bank=cuts_and_stops, **others, within=15)
    for name in others:
        assert ended[name].startswith("bank stopped with a DataError"), ended


def test_a_reason_is_cut_to_one_printable_line() -> None:
    with Star() as star:
        ended = star.play(
            bank=stops("stopped\x1b[2J\n" + "\u00e4" * 1000), shop=awaits("bank"), biller=nothing, coordinator=nothing
        )
    text = ended["shop"]
    assert text.isprintable()
    assert text.startswith("bank stopped[2J\u00e4\u00e4")
    assert len(text) < 250


def test_what_arrived_before_a_failure_is_still_read() -> None:
    def verdict(transport: Any) -> None:
        for name in NAMES:
            transport.send(frame(COORDINATOR, name, b"refused"))
        stops("stopped with a ConfigError")(transport)

    read: dict[str, bytes] = {}

    def party(name: str) -> Play:
        def role(transport: Any) -> None:
            time.sleep(0.01)
            read[name] = transport.receive(COORDINATOR, "verdict").body
            stops("stopped with a ConfigError")(transport)

        return role

    for _ in range(10):
        read.clear()
        with Star() as star:
            star.play(coordinator=verdict, **{name: party(name) for name in NAMES})
        assert read == dict.fromkeys(NAMES, b"refused")


def test_the_quickest_to_stop_is_not_the_cause_for_who_is_still_to_be_told() -> None:
    """The coordinator tells one party after the other; the first has stopped before the last is told."""
    read: dict[str, bytes] = {}

    def verdict(transport: Any) -> None:
        for name in NAMES:
            transport.send(frame(COORDINATOR, name, b"refused"))
            time.sleep(0.1)

    def party(name: str) -> Play:
        def role(transport: Any) -> None:
            read[name] = transport.receive(COORDINATOR, "verdict").body
            stops("stopped with a ConfigError")(transport)

        return role

    with Star() as star:
        star.play(coordinator=verdict, **{name: party(name) for name in NAMES})
    assert read == dict.fromkeys(NAMES, b"refused")


def test_everybody_names_the_same_first_cause() -> None:
    for _ in range(3):
        with Star() as star:
            ended = star.play(
                bank=stops("stopped (A)"),
                shop=stops("stopped (B)"),
                biller=awaits(COORDINATOR),
                coordinator=awaits("biller"),
            )
        causes = {ended[name].split(" (while")[0] for name in ("biller", COORDINATOR)}
        assert len(causes) == 1
        assert causes < {"bank stopped (A)", "shop stopped (B)"}


# Errors that nobody foresaw


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_unforeseen_error_in_a_reader_of_the_coordinator_leaves_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("unforeseen")

    with Star(patience=AT_ONCE) as star:
        monkeypatch.setattr(star.at[COORDINATOR]._inbox, "put", broken)
        ended = star.play(
            bank=sends("bank", COORDINATOR, b""), shop=awaits("bank"), biller=nothing, coordinator=awaits("shop")
        )
    for name in ("shop", "biller", COORDINATOR):
        assert ended[name].startswith("bank could not be read"), ended
    assert ended["bank"].startswith(("bank could not be read", "the coordinator is gone")), ended


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_unforeseen_error_in_a_reader_of_a_party_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("unforeseen")

    def awaits_with_a_broken_inbox(transport: Any) -> None:
        monkeypatch.setattr(transport._session.inbox, "put", broken)
        transport.send(frame("bank", "shop"))
        transport.receive("shop", "m")

    def answers(transport: Any) -> None:
        transport.receive("bank", "m")
        transport.send(frame("shop", "bank"))

    with Star(patience=Patience(0.3, 15.0, 1.0)) as star:
        ended = star.play(
            bank=awaits_with_a_broken_inbox, shop=answers, biller=awaits("bank"), coordinator=awaits("bank")
        )
    assert ended["bank"].startswith("the connection to the coordinator could not be read")
    assert all(ended[name].startswith("bank is gone") for name in ("biller", COORDINATOR)), ended


def test_garbage_from_the_coordinator_is_named_and_its_writer_does_not_block() -> None:
    def garbage(transport: Any) -> None:
        hop = transport._seats["bank"].hop
        wait_until(lambda: hop._live)
        live = hop._live
        with contextlib.suppress(OSError):
            live.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 3)
            for _ in range(64):
                live.write(bytes(CHUNK))
            pytest.fail("nobody read, and nobody said so")
        transport.receive("bank", "m")

    with Star(patience=AT_ONCE) as star:
        ended = star.play(bank=awaits("shop"), shop=awaits("bank"), biller=nothing, coordinator=garbage)
    assert ended["bank"].startswith("the coordinator's connection broke: what arrived is no frame")
    assert all(ended[name].startswith("bank is gone") for name in ("shop", "biller", COORDINATOR)), ended


def test_who_is_there_hears_who_is_missing():
    with Star(raw=["biller"]) as star:
        running = star.begin(bank=nothing, shop=nothing, coordinator=nothing)
        for name in ("bank", "shop", COORDINATOR):
            wait_until(lambda name=name: "waiting for biller to join" in star.told[name])
        star.start_party("biller")
        star.begin(biller=nothing).ended("biller")
        running.ended("bank", "shop", COORDINATOR)
        assert star.told["bank"].count("waiting for biller to join") == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_listening_on_any_kind_of_address(host):
    try:
        listener = listen(host, 0)
    except OSError:
        assert host == "::1"  # a machine without IPv6
        return
    with listener, socket.create_connection((host, listener.getsockname()[1]), timeout=10):
        assert listener.getsockname()[1]
