"""Connections that break and come back, roles that come back, and roles that do not."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest

from parties.patience import Patience
from tests.parties.networks import (
    Play,
    Star,
    awaits,
    frame,
    nothing,
    wait_until,
)

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
    with Star(patience=Patience(0.4, 1.0, 3.0), through=["bank"]) as star:
        met = threading.Event()

        def role(transport: Any) -> None:
            star.relays["bank"].cut(unheard_by_hub=True)
            met.wait(20)
            transport.send(frame("bank", "shop", b"well"))

        running = star.begin(bank=role, shop=awaits("bank"), biller=nothing, coordinator=nothing)
        time.sleep(5.0)  # the old connection falls silent after 1.2 s; a party is lost after 3 s
        assert not running.results
        assert [text for texts in star.told.values() for text in texts if "reconnecting" in text] == []
        met.set()
        assert running.ended()["shop"] == b"well"
