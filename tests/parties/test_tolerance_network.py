"""Going on without a party between processes: the coordinator tolerates its loss, and everybody is told."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from parties import lane
from parties.errors import DataError
from parties.frame import CHUNK, MESSAGE, WITHOUT, Frame, Header
from parties.link import COORDINATOR
from parties.patience import Patience
from tests.parties.networks import AT_ONCE, NAMES, PATIENT, Play, Star, awaits, frame, nothing, wait_until

QUICK = Patience(heartbeat=0.3, notice=0.5, reconnect_timeout=2.0)
NEVER = 60.0  # seconds that no test waits for in vain


def tolerating(then: Callable[[Any], object], least: int = 2) -> Play:
    """A coordinator that goes on without any of the parties once all are there."""

    def role(hub: Any) -> object:
        hub.tolerate(NAMES, least)
        return then(hub)

    return role


def body(hub: Any, name: str, seconds: float = NEVER) -> bytes | None:
    found = hub.receive_within(name, "m", seconds)
    return None if found is None else bytes(found.body)


def bodies(hub: Any) -> list[bytes | None]:
    """What every party sends."""
    return [body(hub, name) for name in NAMES]


def tolerated(star: Star) -> None:
    """Wait until the coordinator goes on without a party."""
    wait_until(lambda: star.at[COORDINATOR]._tolerated)


def dies(star: Star, name: str) -> Play:
    """A party whose process is killed while it waits, once the coordinator tolerates that."""

    def role(transport: Any) -> object:
        tolerated(star)
        star.kill(name)
        return transport.receive(COORDINATOR, "never")

    return role


def answering(number: int) -> Play:
    """Send one frame to the coordinator, and wait for its answer."""

    def role(transport: Any) -> bytes:
        transport.send(frame(transport._name, COORDINATOR, b"%d" % number))
        return bytes(transport.receive(COORDINATOR, "m").body)

    return role


def telling(then: Callable[[Any], object]) -> Callable[[Any], object]:
    """Do that, and answer everybody."""

    def act(hub: Any) -> object:
        found = then(hub)
        for name in NAMES:
            hub.send(frame(COORDINATOR, name, b"go on"))
        return found, hub.lost()

    return act


def test_a_process_that_dies_is_lost_and_the_others_end_well() -> None:
    with Star(patience=AT_ONCE) as star:
        ended = star.play(
            bank=answering(1), shop=dies(star, "shop"), biller=answering(3), coordinator=tolerating(telling(bodies))
        )
        assert ended[COORDINATOR] == ([b"1", None, b"3"], {"shop": "is gone"})
        assert ended["bank"] == ended["biller"] == b"go on"
        wait_until(lambda: "the run goes on without shop, which is gone" in star.told[COORDINATOR])
        assert COORDINATOR in star.ends and "bank" in star.ends and "shop" not in star.ends


def test_what_it_sent_before_still_counts() -> None:
    def last_words(transport: Any) -> None:
        tolerated(star)
        transport.send(frame("shop", COORDINATOR, b"2"))
        raise DataError("later")

    def act(hub: Any) -> list[bytes | None]:
        wait_until(hub.lost)
        return bodies(hub)

    with Star(patience=AT_ONCE) as star:
        ended = star.play(bank=answering(1), shop=last_words, biller=answering(3), coordinator=tolerating(telling(act)))
        assert ended[COORDINATOR] == ([b"1", b"2", b"3"], {"shop": "stopped with a DataError"})


def test_a_party_without_a_connection_for_too_long_is_lost_and_one_that_is_back_in_time_is_not() -> None:
    with Star(patience=QUICK, through=["shop", "biller"]) as star:

        def act(hub: Any) -> tuple[bytes | None, bytes | None]:
            star.relays["shop"].refuses = True
            star.relays["shop"].cut()
            star.relays["biller"].cut()
            return body(hub, "shop"), body(hub, "biller")

        def late(transport: Any) -> None:
            tolerated(star)
            time.sleep(0.5)
            transport.send(frame("biller", COORDINATOR, b"3"))
            transport.receive(COORDINATOR, "m")

        running = star.begin(
            bank=awaits(COORDINATOR),
            shop=awaits(COORDINATOR),
            biller=late,
            coordinator=tolerating(telling(act)),
        )
        (found, lost) = running.ended(COORDINATOR)[COORDINATOR]
        assert found == (None, b"3") and set(lost) == {"shop"}
        assert lost["shop"].startswith("is gone: no connection for ")
        assert running.ended("bank", "biller") == {"bank": b"go on", "biller": None}
        assert "no connection for" in running.ended("shop")["shop"]
        assert star.told["bank"][-1] == "", "nobody is shown as reconnecting who is lost"


def test_who_is_late_is_asked_again_and_nothing_is_lost() -> None:
    wake = threading.Event()

    def late(transport: Any) -> None:
        wake.wait(20)
        transport.send(frame("shop", COORDINATOR, b"2"))
        transport.receive(COORDINATOR, "m")

    def act(hub: Any) -> list[bytes | None]:
        found = [body(hub, "shop", 0.05), body(hub, "shop", 0.0)]
        wake.set()
        return [*found, body(hub, "shop")]

    with Star() as star:
        ended = star.play(
            bank=awaits(COORDINATOR), shop=late, biller=awaits(COORDINATOR), coordinator=tolerating(telling(act))
        )
    assert ended[COORDINATOR] == ([None, None, b"2"], {})


def test_who_is_dismissed_is_told_and_what_it_sent_is_dropped() -> None:
    def act(hub: Any) -> object:
        wait_until(lambda: hub._inbox._frames["shop"])
        hub.dismiss("shop", "sent a malformed update")
        hub.dismiss("shop", "was late, too")  # nothing more
        return body(hub, "shop")

    with Star() as star:
        ended = star.play(
            bank=awaits(COORDINATOR),
            shop=answering(2),
            biller=awaits(COORDINATOR),
            coordinator=tolerating(telling(act)),
        )
    assert ended[COORDINATOR] == (None, {"shop": "sent a malformed update"})
    assert ended["shop"] == (
        "coordinator goes on without shop, which sent a malformed update (while m was awaited from coordinator)"
    )


def test_who_ends_its_run_too_early_is_dismissed() -> None:
    with Star() as star:
        running = star.begin(
            bank=answering(1), shop=nothing, biller=answering(3), coordinator=tolerating(telling(bodies))
        )
        ended = running.ended()
    assert ended[COORDINATOR] == ([b"1", None, b"3"], {"shop": "ended its run too early"})
    assert "goes on without shop, which ended its run too early" in ended["shop"]


@pytest.mark.parametrize("how", ["garbage", "anothers name", "to nobody"])
def test_who_sends_what_no_party_sends_is_lost(how: str) -> None:
    with Star(patience=AT_ONCE, raw=["shop"]) as star:
        shop = star.puppet("shop")
        running = star.begin(bank=answering(1), biller=answering(3), coordinator=tolerating(telling(bodies)))
        tolerated(star)
        if how == "garbage":
            shop.connection.write(b"GET / HTTP/1.1\r\n\r\n" * 10)
        else:
            sender, receiver = ("bank", COORDINATOR) if how == "anothers name" else ("shop", "nobody")
            shop.send(Frame(MESSAGE, Header(sender, receiver, "m"), b"2"))
        found, lost = running.ended()[COORDINATOR]
    told = {"garbage": "what is no frame", "to nobody": "a frame to nobody"}.get(how, "a frame under another name")
    assert found == [b"1", None, b"3"] and lost == {"shop": f"sent {told}"}


@pytest.mark.parametrize("least", [3, 2])
def test_too_few_left_end_the_run_for_all(least: int) -> None:
    """As without any tolerance: everybody names the one that was lost last."""
    with Star(patience=AT_ONCE) as star:
        roles: dict[str, Play] = dict.fromkeys(NAMES, awaits(COORDINATOR))
        roles["shop"] = dies(star, "shop")

        def act(hub: Any) -> object:
            if least == 2:
                wait_until(hub.lost)
                star.at["biller"].abort("stopped (DataError)")
            return body(hub, "bank")

        ended = star.play(**roles, coordinator=tolerating(act, least))
    cause = "shop is gone" if least == 3 else "biller stopped (DataError)"
    assert ended[COORDINATOR].startswith(cause) and ended["bank"].startswith(cause)


def test_a_dismissal_that_leaves_too_few_ends_the_run_for_all() -> None:
    def act(hub: Any) -> object:
        hub.dismiss("shop", "was late")
        return body(hub, "bank")

    with Star() as star:
        ended = star.play(**dict.fromkeys(NAMES, awaits(COORDINATOR)), coordinator=tolerating(act, 3))
    assert all(each.startswith("shop was late") for each in ended.values()), ended


def test_before_anything_is_tolerated_a_loss_ends_the_run() -> None:
    with Star(patience=AT_ONCE) as star:

        def dying(transport: Any) -> object:
            star.kill("shop")
            return transport.receive(COORDINATOR, "never")

        ended = star.play(bank=awaits(COORDINATOR), shop=dying, biller=awaits(COORDINATOR), coordinator=bodies)
    assert all(ended[name].startswith("shop is gone") for name in ("bank", "biller", COORDINATOR)), ended


def test_a_party_that_waits_for_a_lost_one_is_told_so() -> None:
    with Star(patience=AT_ONCE) as star:

        def waiting(transport: Any) -> object:
            tolerated(star)
            return transport.receive("shop", "m").body

        ended = star.play(
            bank=answering(1),
            shop=dies(star, "shop"),
            biller=waiting,
            coordinator=tolerating(telling(bodies), 1),
        )
        assert ended["biller"] == "shop is gone while m was awaited from it"
        assert ended[COORDINATOR][0] == [b"1", None, None]
        assert set(ended[COORDINATOR][1]) == {"shop", "biller"}


def test_nobody_waits_to_send_to_one_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the coordinator would pass on to it counts as delivered, before and after its loss."""
    monkeypatch.setattr(lane, "WINDOW", 4 * CHUNK)
    with Star(patience=QUICK, through=["shop"]) as star:
        start = threading.Event()

        def talker(transport: Any) -> bytes:
            start.wait(20)
            for _ in range(12):
                transport.send(frame("bank", "shop", bytes(CHUNK)))
            return answering(1)(transport)

        def act(hub: Any) -> object:
            star.relays["shop"].refuses = True
            star.relays["shop"].cut()
            start.set()
            return bodies(hub)

        running = star.begin(
            bank=talker, shop=awaits("biller"), biller=answering(3), coordinator=tolerating(telling(act))
        )
        found, lost = running.ended(COORDINATOR)[COORDINATOR]
        running.ended()
    assert found == [b"1", None, b"3"] and set(lost) == {"shop"}


def test_who_comes_back_from_a_crash_in_time_makes_all_begin_anew() -> None:
    """As long as nobody is lost for good; then all are needed again until the coordinator tolerates anew."""
    with Star(patience=PATIENT) as star:
        rounds = itertools.count()
        first = threading.Event()

        def coordinator(hub: Any) -> object:
            if next(rounds):
                return None
            hub.tolerate(NAMES, 2)
            first.set()
            return bodies(hub)

        def party(transport: Any) -> object:
            return None if star.at[COORDINATOR]._generation > 1 else transport.receive(COORDINATOR, "m")

        running = star.begin(bank=party, shop=party, biller=party, coordinator=coordinator)
        assert first.wait(20)
        star.kill("shop")
        star.start_party("shop")
        again = star.begin(shop=party)
        again.ended()
        running.ended("bank", "biller", COORDINATOR)
        assert running.generations["bank"] == running.generations[COORDINATOR] == [1, 2]
        assert star.at[COORDINATOR].lost() == {} and not star.at[COORDINATOR]._tolerated
        running.ended()


@pytest.mark.parametrize("again", [False, True], ids=["the same process", "another process"])
def test_who_is_lost_stays_out_and_is_told(again: bool) -> None:
    with Star(patience=QUICK, through=["shop"]) as star:
        done = threading.Event()

        def act(hub: Any) -> object:
            star.relays["shop"].refuses = True
            star.relays["shop"].cut()
            found = body(hub, "shop")
            star.relays["shop"].refuses = False
            done.wait(20)
            return found

        roles: dict[str, Play] = dict.fromkeys(NAMES, awaits(COORDINATOR))
        running = star.begin(**roles, coordinator=tolerating(telling(act)))
        if again:
            running.ended("shop")
            star.start_party("shop")
            told = star.play(shop=roles["shop"])["shop"]
            assert "goes on without shop, which is gone: no connection for" in told
        else:
            told = running.ended("shop")["shop"]
            assert "no connection for" in told
        done.set()
        ended = running.ended()
        assert running.generations["bank"] == [1] and ended["bank"] == b"go on"


def test_who_crashes_after_somebody_was_lost_is_out_too() -> None:
    """A generation begins with everybody, and one is out for good."""
    with Star(patience=PATIENT) as star:

        def act(hub: Any) -> object:
            hub.dismiss("biller", "was late")
            return body(hub, "shop"), body(hub, "bank")

        def late(transport: Any) -> object:
            wait_until(lambda: "shop" in star.at[COORDINATOR].lost())
            return answering(1)(transport)

        running = star.begin(
            bank=late,
            shop=awaits(COORDINATOR),
            biller=awaits(COORDINATOR),
            coordinator=tolerating(telling(act), 1),
        )
        tolerated(star)
        star.kill("shop")
        star.start_party("shop")
        told = star.play(shop=nothing)["shop"]
        assert told == "coordinator goes on without shop, which crashed"
        ended = running.ended()
    assert ended[COORDINATOR] == ((None, b"1"), {"biller": "was late", "shop": "crashed"})
    assert ended["bank"] == b"go on"


def test_a_loss_after_the_last_word_ends_nobody_s_run() -> None:
    """The coordinator waits for those alone that are still there."""
    with Star(patience=AT_ONCE) as star:

        def dying_late(transport: Any) -> object:
            transport.receive(COORDINATOR, "m")
            return dies(star, "shop")(transport)

        ended = star.play(
            bank=awaits(COORDINATOR),
            shop=dying_late,
            biller=awaits(COORDINATOR),
            coordinator=tolerating(telling(lambda hub: None)),
        )
        assert ended["bank"] == ended["biller"] == b"go on"
        assert star.at[COORDINATOR].lost() == {"shop": "is gone"}


def test_a_party_cannot_tell_others_that_one_is_gone() -> None:
    """Only the coordinator says so."""
    with Star(patience=AT_ONCE, raw=["shop"]) as star:
        shop = star.puppet("shop")
        running = star.begin(bank=answering(1), biller=answering(3), coordinator=tolerating(telling(bodies)))
        tolerated(star)
        shop.send(Frame(WITHOUT, Header("bank", "", "is gone")))
        assert running.ended()[COORDINATOR][1] == {"shop": "sent a frame under another name"}


def test_farewells_are_told_apart_from_frames_that_are_none() -> None:
    """A party whose first answer is an abort says what the coordinator said, in one printable line."""
    with Star(patience=QUICK) as star:
        hub = star.at[COORDINATOR]

        def act(hub: Any) -> None:
            hub.dismiss("shop", "was\nlate " + "x" * 400)

        ended = star.play(**dict.fromkeys(NAMES, awaits(COORDINATOR)), coordinator=tolerating(telling(act)))
        assert ended["shop"].startswith("coordinator goes on without shop, which waslate xxx")
        assert "\n" not in ended["shop"] and len(hub.lost()["shop"]) <= 300
