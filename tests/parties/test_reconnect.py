"""Connections that break and come back, roles that come back, and roles that do not."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest

from parties import lane
from parties.frame import BYE, CHUNK, Frame
from parties.link import COORDINATOR
from parties.patience import Patience
from tests.parties.networks import EVERYONE, NAMES, Play, Star, awaits, frame, nothing, wait_until

QUICK = Patience(heartbeat=0.3, notice=0.5, reconnect_timeout=3.0)


def exchange(name: str, peer: str, bodies: list[bytes], pause: float = 0.0) -> Play:
    """Send all of these, and return what the peer sends."""

    def role(transport: Any) -> list[bytes]:
        arrived = []
        for number, body in enumerate(bodies):
            transport.send(frame(name, peer, body))
            if number % 3 == 0:
                time.sleep(pause)
                arrived.append(transport.receive(peer, "m").body)
        return arrived + [transport.receive(peer, "m").body for _ in range(len(bodies) - len(arrived))]

    return role


def bodies(seed: int, count: int = 60) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(rng.choice([0, 10, 1000, 30_000])) for _ in range(count)]


@pytest.mark.parametrize("seed", range(6))
def test_a_connection_that_is_cut_at_any_byte_and_comes_back_loses_and_repeats_nothing(seed: int) -> None:
    """Frames are in flight in both directions; handshakes are cut too."""
    rng = random.Random(seed)
    there, back = bodies(seed), bodies(seed + 100)
    with Star(through=["bank", "shop"]) as star:
        for relay in star.relays.values():
            relay.cut_at = sorted(rng.sample(range(1_200_000), 6))
        ended = star.play(
            bank=exchange("bank", "shop", there),
            shop=exchange("shop", "bank", back),
            biller=nothing,
            coordinator=nothing,
            within=40,
        )
        assert sum(relay.cuts for relay in star.relays.values()) >= 4
    assert ended["bank"] == back and ended["shop"] == there


@pytest.mark.parametrize("seed", range(3))
def test_cuts_that_the_coordinator_does_not_hear_of(seed: int) -> None:
    """The party is back on a new connection while the coordinator still reads the old one."""
    there, back = bodies(seed, 90), bodies(seed + 100, 90)
    with Star(patience=Patience(0.3, 1.5, 3.0), through=["bank"]) as star:
        done = threading.Event()

        def cut() -> None:
            rng = random.Random(seed)
            while not done.wait(rng.uniform(0.02, 0.3)):
                star.relays["bank"].cut(unheard_by_hub=True)

        cutter = threading.Thread(target=cut)
        running = star.begin(
            bank=exchange("bank", "shop", there, 0.03),
            shop=exchange("shop", "bank", back),
            biller=nothing,
            coordinator=nothing,
            within=40,
        )
        cutter.start()
        wait_until(lambda: star.relays["bank"].cuts >= 4)
        done.set()
        cutter.join()
        ended = running.ended()
    assert ended["bank"] == back and ended["shop"] == there


def test_the_late_end_of_an_old_connection_does_not_count_against_the_new_one() -> None:
    with Star(patience=Patience(0.3, 0.6, 1.5), through=["bank"]) as star:

        def role(transport: Any) -> None:
            star.relays["bank"].cut(unheard_by_hub=True)
            time.sleep(3.0)  # the old connection falls silent after 0.9 s; a party is lost after 1.5 s more
            transport.send(frame("bank", "shop", b"well"))

        ended = star.play(bank=role, shop=awaits("bank"), biller=nothing, coordinator=nothing)
        assert ended["shop"] == b"well"
        assert [text for texts in star.told.values() for text in texts if "reconnecting" in text] == []


def test_heartbeats_keep_an_idle_connection_alive() -> None:
    with Star(patience=Patience(0.2, 5.0, 10.0), through=["bank"]) as star:

        def idle(transport: Any) -> int:
            before = star.relays["bank"].connections
            time.sleep(1.5)  # more than seven heartbeats
            return star.relays["bank"].connections - before

        ended = star.play(bank=idle, shop=nothing, biller=nothing, coordinator=nothing)
    assert ended["bank"] == 0


def test_a_wire_that_brings_nothing_any_more_is_noticed_and_replaced() -> None:
    with Star(patience=Patience(0.2, 5.0, 20.0), through=["bank"]) as star:

        def role(transport: Any) -> bytes:
            relay = star.relays["bank"]
            relay.freeze()
            transport.send(frame("bank", "shop", b"there"))
            return transport.receive("shop", "m").body

        def answers(transport: Any) -> None:
            assert transport.receive("bank", "m").body == b"there"
            transport.send(frame("shop", "bank", b"back"))

        ended = star.play(bank=role, shop=answers, biller=nothing, coordinator=nothing)
        assert star.relays["bank"].connections == 2
    assert ended["bank"] == b"back"


def test_a_party_that_stands_still_is_noticed_and_lost() -> None:
    """Its process is stopped: the connection stands, nothing comes."""
    with Star(patience=Patience(0.2, 0.4, 1.0), raw=["biller"]) as star:
        star.puppet("biller")
        ended = star.play(bank=awaits("biller"), shop=nothing, coordinator=nothing)
        for text in ended.values():
            assert text.startswith("biller is gone: no connection for "), ended
        for name in ("bank", "shop", COORDINATOR):
            assert "biller is reconnecting" in star.told[name]


def test_one_that_does_not_come_back_is_lost_and_named_by_all() -> None:
    with Star(patience=QUICK, through=["bank"]) as star:

        def away(transport: Any) -> None:
            star.relays["bank"].refuses = True
            star.relays["bank"].cut()
            transport.receive("shop", "m")

        ended = star.play(bank=away, shop=awaits("bank"), biller=nothing, coordinator=awaits("bank"))
        for name in ("shop", "biller", COORDINATOR):
            assert ended[name].startswith("bank is gone: no connection for "), ended
            assert star.told[name].count("bank is reconnecting") == 1
        assert ended["bank"].startswith("the coordinator is gone: no connection for ")
        assert any(text.startswith("reconnecting to the coordinator, ") for text in star.told["bank"])


def test_reconnecting_is_told_after_a_while_and_cleared_once_the_connection_is_back() -> None:
    with Star(patience=Patience(0.3, 0.5, 20.0), through=["bank"]) as star:
        back = threading.Event()

        def away(transport: Any) -> None:
            relay = star.relays["bank"]
            relay.refuses = True
            relay.cut()
            wait_until(lambda: star.told["bank"] and "bank is reconnecting" in star.told["shop"])
            relay.refuses = False
            wait_until(lambda: all(star.told[name][-1:] == [""] for name in EVERYONE))  # while the run goes on
            back.set()
            transport.send(frame("bank", "shop", b"back"))

        ended = star.play(bank=away, shop=awaits("bank"), biller=nothing, coordinator=nothing)
        assert back.is_set() and ended["shop"] == b"back"
        for name in ("shop", "biller", COORDINATOR):
            assert star.told[name][-2:] == ["bank is reconnecting", ""]
        assert star.told["bank"][0].startswith("reconnecting to the coordinator, ")


def test_a_short_break_is_told_to_nobody() -> None:
    with Star(through=["bank"]) as star:

        def role(transport: Any) -> None:
            star.relays["bank"].cut()
            transport.send(frame("bank", "shop"))

        star.play(bank=role, shop=awaits("bank"), biller=nothing, coordinator=nothing)
        assert not any(star.told[name] for name in NAMES)
        assert not any("reconnecting" in text for text in star.told[COORDINATOR])


# What is on its way is bounded


def test_a_sender_waits_while_its_window_is_full_and_the_coordinator_keeps_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """shop's wire brings nothing; bank may have so much under way and no more. Others go on all the same."""
    monkeypatch.setattr(lane, "WINDOW", 4 * CHUNK)
    monkeypatch.setattr(lane, "ACKNOWLEDGE", CHUNK)
    count = 16
    with Star(patience=Patience(2.0, 20.0, 30.0), through=["shop"]) as star:
        sent = list[int]()

        def floods(transport: Any) -> None:
            star.relays["shop"].holds = True
            for number in range(count):
                transport.send(frame("bank", "shop", bytes([number]) * CHUNK))
                sent.append(number)

        def takes(transport: Any) -> list[int]:
            return [transport.receive("bank", "m").body[0] for _ in range(count)]

        running = star.begin(bank=floods, shop=takes, biller=nothing, coordinator=nothing, within=40)
        wait_until(lambda: len(sent) >= 4)
        time.sleep(0.5)
        hub = star.at[COORDINATOR]
        assert len(sent) in (4, 5)  # the last one was let out with room for a byte
        assert hub._seats["shop"].hop.lane.in_flight < 6 * CHUNK
        star.relays["shop"].holds = False
        ended = running.ended()
    assert ended["shop"] == list(range(count))


# A role comes back after a crash


def again(first: Play, then: Play) -> Play:
    """Play one way in the first generation that is entered, and another way later."""
    entered = list[int]()

    def role(transport: Any) -> object:
        entered.append(1)
        return (first if len(entered) == 1 else then)(transport)

    return role


@pytest.mark.parametrize("victim", NAMES)
def test_a_party_that_comes_back_begins_a_new_generation_for_all(victim: str) -> None:
    with Star() as star:
        others = [name for name in EVERYONE if name != victim]
        running = star.begin(**{name: again(awaits(victim), nothing) for name in others}, **{victim: awaits("nobody")})
        wait_until(lambda: all(running.generations.values()))
        star.kill(victim)
        star.start_party(victim)
        back = star.begin(**{victim: nothing})
        assert back.ended() == {victim: None}
        assert running.ended(*others) == dict.fromkeys(others)
        running.ended(victim)
    assert {name: running.generations[name] for name in others} == dict.fromkeys(others, [1, 2])
    assert back.generations == {victim: [2]}
    assert f"{victim} has come back; all go on from the last checkpoint" in star.told[COORDINATOR]
    assert sorted(star.ends) == sorted(EVERYONE) and star.ends[0] == COORDINATOR


def test_a_party_that_comes_back_again_and_again() -> None:
    rounds = 6

    def role(name: str) -> Play:
        def run(transport: Any) -> None:
            if running.generations[name][-1] < rounds:
                transport.receive("nobody", "m")

        return run

    with Star() as star:
        running = star.begin(**{name: role(name) for name in ("shop", "biller", COORDINATOR)}, within=40)
        for _ in range(1, rounds):
            bank = star.begin(bank=awaits("nobody"), within=40)
            wait_until(lambda b=bank: b.generations["bank"])
            star.kill("bank")
            bank.ended()
            star.start_party("bank")
        assert star.play(bank=nothing) == {"bank": None}
        running.ended()
    for generations in running.generations.values():  # one may begin and end before all have heard of it
        assert generations == sorted(set(generations)) and generations[-1] == rounds
    assert running.generations[COORDINATOR] == list(range(1, rounds + 1))


def test_a_coordinator_that_comes_back_begins_the_next_generation_for_all() -> None:
    with Star() as star:
        running = star.begin(**{name: again(awaits("biller"), nothing) for name in NAMES}, coordinator=awaits("bank"))
        wait_until(lambda: all(running.generations.values()))
        star.kill(COORDINATOR)
        running.ended(COORDINATOR)
        star.start_hub(generation=1)
        back = star.begin(coordinator=nothing)
        back.ended()
        assert running.ended(*NAMES) == dict.fromkeys(NAMES)
    assert back.generations == {COORDINATOR: [2]}
    assert {name: running.generations[name] for name in NAMES} == dict.fromkeys(NAMES, [1, 2])


def test_frames_of_an_older_generation_never_arrive() -> None:
    """Everybody floods everybody until one is killed; in the next generation only its own frames are read."""

    def floods(name: str) -> Play:
        peers = [peer for peer in EVERYONE if peer != name]
        entered = list[int]()

        def role(transport: Any) -> object:
            entered.append(1)
            last = name == "bank" and transport is not first or len(entered) > 1
            for number in range(20 if last else 10**9):
                for peer in peers:
                    transport.send(frame(name, peer, b"new" if last else b"old"))
                if not last and number % 5 == 4:
                    for peer in peers:
                        transport.receive(peer, "m")
            return {transport.receive(peer, "m").body for peer in peers for _ in range(20)}

        return role

    for _ in range(3):
        with Star() as star:
            first = star.at["bank"]
            running = star.begin(**{name: floods(name) for name in EVERYONE}, within=30)
            wait_until(lambda r=running: all(r.generations.values()))
            time.sleep(0.2)
            star.kill("bank")
            running.ended("bank")
            star.start_party("bank")
            assert star.play(bank=floods("bank"), within=30) == {"bank": {b"new"}}
            others = [name for name in EVERYONE if name != "bank"]
            assert running.ended(*others) == dict.fromkeys(others, {b"new"})


def test_a_party_that_comes_back_after_the_end_is_told_so() -> None:
    """It died with all it needed, before it heard that all have."""
    with Star(patience=Patience(0.3, 5.0, 10.0)) as star:
        running = star.begin(shop=nothing, biller=nothing, coordinator=nothing)
        bank = star.at["bank"]
        bank.enter()
        bank.send(Frame(BYE, frame("bank", COORDINATOR).header))
        wait_until(lambda: star.at[COORDINATOR]._inbox._left >= {"bank"})
        star.kill("bank")
        running.ended("shop", "biller")
        star.start_party("bank")
        assert star.play(bank=nothing) == {"bank": "ended"}
        assert running.ended()[COORDINATOR] is None
    assert star.ends[0] == COORDINATOR and sorted(star.ends) == sorted(EVERYONE)


def test_a_coordinator_that_comes_back_after_the_end_tells_who_asks() -> None:
    """A party that waits for the end, and one that has come back to ask."""
    with Star(patience=Patience(0.3, 8.0, 10.0)) as star:
        running = star.begin(bank=nothing, shop=nothing, biller=nothing, coordinator=awaits("nobody"))
        wait_until(lambda: star.at[COORDINATOR]._inbox._left >= set(NAMES))
        star.kill(COORDINATOR)
        running.ended(COORDINATOR)
        star.kill("biller")
        running.ended("biller")
        star.start_party("biller")
        back = star.begin(biller=nothing)
        star.start_hub(generation=1).end()
        assert running.ended("bank", "shop") == {"bank": None, "shop": None}
        assert back.ended() == {"biller": "ended"}
    assert sorted(star.ends) == sorted(NAMES)


def test_a_party_that_waits_for_the_others_when_the_end_comes_is_told_so() -> None:
    """The coordinator is back, and has let a party in before it knows by its files that the run has ended."""
    with Star(patience=Patience(0.3, 8.0, 10.0)) as star:
        running = star.begin(bank=nothing, shop=nothing, biller=nothing)
        wait_until(lambda: len(star.at[COORDINATOR]._seats) == len(NAMES))
        star.at[COORDINATOR].end()
        assert running.ended() == dict.fromkeys(NAMES, "ended")


def test_one_that_never_came_back_to_a_new_generation_is_named() -> None:
    with Star(patience=QUICK) as star:
        running = star.begin(**{name: awaits("nobody") for name in EVERYONE})
        wait_until(lambda: all(running.generations.values()))
        star.kill("bank")
        star.kill("shop")
        star.start_party("bank")
        ended = star.play(bank=nothing)
        assert ended["bank"].startswith("shop did not come back for "), ended
        assert running.ended("biller", COORDINATOR)[COORDINATOR].startswith("shop did not come back for ")
