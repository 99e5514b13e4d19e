"""The star of socket pairs, in threads: relaying, clean ends, every way to fail, and that nothing hangs."""

import contextlib
import random
import socket
import threading
import time

import pytest

from parties import process
from parties.errors import PeerLost
from parties.frame import ABORT, BYE, CHUNK, LOST, MESSAGE, Frame, Header, write_frame
from parties.link import COORDINATOR
from parties.process import HubTransport, Inbox, PartyTransport

NAMES = ("bank", "shop", "biller")


class Star:
    """Transports of a coordinator and its parties; roles run in threads that must end in time."""

    def __init__(self, *, raw=()):
        self.before = set(threading.enumerate())
        pairs = {name: socket.socketpair() for name in NAMES}
        self.raw = {name: pairs[name][0] for name in raw}  # ends that the test itself plays
        self.at = {name: PartyTransport(name, pairs[name][0]) for name in NAMES if name not in raw}
        self.at[COORDINATOR] = HubTransport({name: pairs[name][1] for name in NAMES})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for transport in sorted(self.at.values(), key=lambda each: isinstance(each, HubTransport)):
            transport.abort("stopped")
        for end in self.raw.values():
            end.close()
        deadline = time.monotonic() + 5
        while (left := set(threading.enumerate()) - self.before) and time.monotonic() < deadline:
            next(iter(left)).join(0.1)
        assert not left, f"threads are left: {left}"

    def play(self, within=10.0, **roles):
        """What each role returned or raised; a role that raises aborts, as a process does."""
        ended = {}

        def run(name, role):
            try:
                ended[name] = role(self.at[name])
                self.at[name].close()
            except PeerLost as error:
                ended[name] = str(error)
                self.at[name].abort("stopped with a PeerLost")

        threads = [threading.Thread(target=run, args=item, daemon=True) for item in roles.items()]
        for thread in threads:
            thread.start()
        end = time.monotonic() + within
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        assert set(ended) == set(roles), f"still running: {set(roles) - set(ended)}"
        return ended

    def kill(self, name):
        """What the kernel does for a process that dies."""
        self.at.pop(name)._hub.shut()


def frame(sender, receiver, body=b"", message="m", kind=MESSAGE):
    return Frame(kind, Header(sender, receiver, message), body)


def awaits(peer, message="m"):
    return lambda transport: transport.receive(peer, message).body


def ends(transport):
    return None


def sends(sender, receiver, *bodies):
    def role(transport):
        for body in bodies:
            transport.send(frame(sender, receiver, body))

    return role


def test_frames_pass_between_all_roles_in_order():
    bodies = [b"%d" % number for number in range(200)]
    everyone = (*NAMES, COORDINATOR)

    def role(name):
        def run(transport):
            for body in bodies:
                for peer in everyone:
                    if peer != name:
                        transport.send(frame(name, peer, body))
            return {p: [transport.receive(p, "m").body for _ in bodies] for p in everyone if p != name}

        return run

    with Star() as star:
        ended = star.play(**{name: role(name) for name in everyone})
    for name in everyone:
        assert ended[name] == {peer: bodies for peer in everyone if peer != name}


def test_64_mib_pass_through_the_relay_intact_both_ways_at_once():
    chunks = [random.Random(number).randbytes(CHUNK) for number in range(8)] * 8

    def role(name, peer):
        def run(transport):
            for chunk in chunks:
                transport.send(frame(name, peer, chunk))
            return all(transport.receive(peer, "m").body == chunk for chunk in chunks)

        return run

    with Star() as star:
        ended = star.play(
            bank=role("bank", "shop"), shop=role("shop", "bank"), biller=ends, coordinator=ends, within=20
        )
    assert ended == {"bank": True, "shop": True, "biller": None, COORDINATOR: None}


def test_clean_ends_are_no_error():
    for _ in range(30):
        with Star() as star:
            assert set(star.play(**dict.fromkeys((*NAMES, COORDINATOR), ends)).values()) == {None}


def test_parties_talk_on_after_the_coordinator_has_finished():
    def talk(me, peer):
        def run(transport):
            for number in range(20):
                time.sleep(0.01)
                transport.send(frame(me, peer, b"%d" % number))
                assert transport.receive(peer, "m").body == b"%d" % number
            return "done"

        return run

    with Star() as star:
        ended = star.play(bank=talk("bank", "shop"), shop=talk("shop", "bank"), biller=ends, coordinator=ends)
    assert ended == {"bank": "done", "shop": "done", "biller": None, COORDINATOR: None}


def test_the_last_wait_is_as_long_as_frames_pass(monkeypatch):
    monkeypatch.setattr(process, "FAREWELL_SECONDS", 0.3)

    def talk(transport):
        for _ in range(20):
            time.sleep(0.05)
            transport.send(frame("bank", "shop"))

    def listen(transport):
        for _ in range(20):
            transport.receive("bank", "m")

    with Star() as star:
        assert set(star.play(bank=talk, shop=listen, biller=ends, coordinator=ends).values()) == {None}


def test_the_last_wait_is_bounded_and_names_who_does_not_end(monkeypatch):
    monkeypatch.setattr(process, "FAREWELL_SECONDS", 0.2)
    with Star() as star:
        ended = star.play(bank=ends, shop=ends, coordinator=ends)
    assert ended["coordinator"].startswith("no end and no frame of biller for ")


def test_waiting_for_one_that_has_ended_cleanly():
    with Star() as star:
        ended = star.play(bank=awaits("shop", "glm.share"), shop=ends, biller=awaits("bank"), coordinator=ends)
    assert ended["bank"] == "shop ended its run while glm.share was awaited from it"
    assert ended["biller"].startswith("bank stopped with a PeerLost")
    assert ended["coordinator"].startswith("bank stopped with a PeerLost")


def test_waiting_for_the_coordinator_that_has_ended_cleanly():
    with Star() as star:
        started = time.monotonic()
        ended = star.play(bank=awaits(COORDINATOR, "plan"), shop=ends, biller=ends, coordinator=ends)
    assert ended["bank"] == "coordinator ended its run while plan was awaited from it"
    assert time.monotonic() - started < 20  # not for ever, on a busy machine either


def test_the_last_words_before_a_clean_end_arrive():
    for _ in range(30):
        with Star() as star:
            ended = star.play(
                bank=sends("bank", "shop", b"x" * CHUNK, b"last"),
                shop=lambda transport: [transport.receive("bank", "m").body[-4:] for _ in range(2)],
                biller=sends("biller", COORDINATOR, b"bye"),
                coordinator=awaits("biller"),
            )
        assert ended == {"bank": None, "shop": [b"xxxx", b"last"], "biller": None, COORDINATOR: b"bye"}


def test_sending_to_one_that_has_ended_cleanly_is_no_error():
    """As in the local network; whoever then waits for it learns that it has ended."""
    for _ in range(10):
        with Star() as star:
            ended = star.play(
                bank=sends("bank", "shop", *[b"x" * CHUNK] * 5),
                shop=ends,
                biller=ends,
                coordinator=sends(COORDINATOR, "shop", *[b"y" * CHUNK] * 5),
            )
        assert set(ended.values()) == {None}


@pytest.mark.parametrize("victim", NAMES)
def test_a_dead_party_is_named_by_all_others(victim):
    for _ in range(20):
        with Star() as star:
            others = [name for name in (*NAMES, COORDINATOR) if name != victim]
            threading.Timer(0.01, star.kill, [victim]).start()
            ended = star.play(within=5, **{name: awaits(others[index - 1]) for index, name in enumerate(others)})
        for name in others:
            assert ended[name].startswith(f"{victim} is gone (while m was awaited from "), ended


def test_a_dead_party_ends_the_coordinators_last_wait():
    with Star() as star:
        threading.Timer(0.05, star.kill, ["shop"]).start()
        ended = star.play(bank=awaits("shop"), biller=ends, coordinator=ends, within=20)
    assert ended[COORDINATOR] == "shop is gone"
    assert ended["bank"].startswith("shop is gone")


def test_a_dead_party_wakes_who_floods_it():
    def flood(transport):
        while True:
            transport.send(frame("bank", "shop", bytes(CHUNK)))
            transport.send(frame("bank", "biller", b"."))
            transport.receive("biller", "m")

    def echo(transport):
        while True:
            transport.receive("bank", "m")
            transport.send(frame("biller", "bank", b"."))

    with Star() as star:
        threading.Timer(0.1, star.kill, ["shop"]).start()
        ended = star.play(bank=flood, biller=echo, coordinator=awaits("bank"), within=20)
    assert all(text.startswith("shop is gone") for text in ended.values()), ended


def test_a_dead_party_is_named_while_another_takes_nothing_in():
    """biller's process stands still with full buffers; bank and the coordinator are told of shop all the same."""
    with Star(raw=["biller"]) as star:

        def flood(transport):
            for _ in range(50):
                transport.send(frame(COORDINATOR, "biller", bytes(CHUNK)))

        with contextlib.ExitStack() as stack:
            stuck = threading.Thread(target=lambda: _quietly(flood, star.at[COORDINATOR]), daemon=True)
            stuck.start()
            stack.callback(stuck.join, 5)
            stack.callback(star.raw["biller"].close)
            time.sleep(0.1)
            assert stuck.is_alive()
            star.kill("shop")
            ended = star.play(bank=awaits("shop"), within=20)
    assert ended["bank"].startswith("shop is gone")


def _quietly(action, *arguments):
    with contextlib.suppress(PeerLost):
        action(*arguments)


def test_a_dead_coordinator_is_named_by_all():
    with Star() as star:
        hub = star.at.pop(COORDINATOR)

        def die():
            hub._inbox.fail("dead")  # so that it says nothing more, as a dead process does
            hub._release()

        threading.Timer(0.05, die).start()
        ended = star.play(bank=awaits("shop"), shop=awaits(COORDINATOR), biller=awaits("bank"), within=20)
    assert all(text.startswith("the coordinator is gone") for text in ended.values()), ended


def test_sending_and_ending_after_the_coordinators_death():
    with Star() as star:
        hub = star.at.pop(COORDINATOR)
        hub._inbox.fail("dead")
        hub._release()
        started = time.monotonic()
        ended = star.play(bank=sends("bank", "shop", b""), shop=ends, within=20)
        assert time.monotonic() - started < 20
    assert ended == {"bank": "the coordinator is gone", "shop": "the coordinator is gone"}


def stops(reason):
    """A role that fails: it aborts, and its process ends at once."""

    def role(transport):
        transport.abort(reason)
        transport.close = lambda: None

    return role


def test_the_reason_of_an_abort_reaches_all_others():
    for _ in range(5):
        with Star() as star:
            ended = star.play(
                bank=stops("stopped with a DataError"),
                shop=awaits("bank"),
                biller=awaits("shop"),
                coordinator=awaits("biller"),
            )
        for name in ("shop", "biller", COORDINATOR):
            assert ended[name].startswith("bank stopped with a DataError (while m was awaited from "), ended


def test_the_reason_of_the_coordinators_abort_reaches_all():
    for _ in range(10):
        with Star() as star:
            ended = star.play(
                coordinator=stops("stopped with a PolicyError"),
                bank=sends("bank", "shop", *[b"x" * CHUNK] * 20),
                shop=awaits(COORDINATOR),
                biller=awaits("bank"),
                within=5,
            )
        assert all(
            text.startswith("coordinator stopped with a PolicyError")
            for text in map(str, ended.values())
            if text != "None"
        )
        assert ended["shop"].startswith("coordinator stopped with a PolicyError")


def test_a_reason_is_cut_to_one_printable_line():
    with Star() as star:
        ended = star.play(bank=stops("stopped\x1b[2J\n" + "\u00e4" * 1000), shop=awaits("bank"), biller=ends)
    text = ended["shop"]
    assert text.isprintable()
    assert text.startswith("bank stopped[2J\u00e4\u00e4")
    assert len(text) < 250


def test_what_arrived_before_a_failure_is_still_read():
    for _ in range(20):
        with Star() as star:

            def verdict(transport):
                for name in NAMES:
                    transport.send(frame(COORDINATOR, name, b"refused"))
                transport.abort("stopped with a ConfigError")
                transport.close = lambda: None

            def party(transport):
                time.sleep(0.01)
                read = transport.receive(COORDINATOR, "verdict").body
                return stops("stopped with a ConfigError")(transport) or read

            ended = star.play(coordinator=verdict, **dict.fromkeys(NAMES, party))
        assert {ended[name] for name in NAMES} == {b"refused"}


def test_the_quickest_to_stop_is_not_the_cause_for_who_is_still_to_be_told():
    """The coordinator tells one party after the other; the first has stopped before the last is told."""
    with Star() as star:

        def verdict(transport):
            for name in NAMES:
                transport.send(frame(COORDINATOR, name, b"refused"))
                time.sleep(0.1)

        def party(transport):
            read = transport.receive(COORDINATOR, "verdict").body
            return stops("stopped with a ConfigError")(transport) or read

        ended = star.play(coordinator=verdict, **dict.fromkeys(NAMES, party))
    assert {ended[name] for name in NAMES} == {b"refused"}


def test_everybody_names_the_same_first_cause():
    for _ in range(20):
        with Star() as star:
            for name in ("bank", "shop"):
                threading.Timer(0.01, star.kill, [name]).start()
            ended = star.play(biller=awaits(COORDINATOR), coordinator=awaits("biller"), within=20)
        causes = {text.split(" (")[0] for text in ended.values()}
        assert len(causes) == 1
        assert causes < {"bank is gone", "shop is gone"}


FORGED = {
    "garbage": (b"GET / HTTP/1.1\r\n\r\n" * 10, "biller sent what is no frame"),
    "another name": (write_frame(frame("bank", "shop", b"forged")), "biller sent a frame under another name"),
    "the coordinator's name": (write_frame(frame(COORDINATOR, "shop", b"x")), "biller sent a frame under another name"),
    "another's goodbye": (write_frame(frame("bank", "", kind=BYE)), "biller sent a frame under another name"),
    "to nobody": (write_frame(frame("biller", "nobody")), "biller sent a frame to nobody"),
    "news of a loss": (write_frame(frame("biller", "shop", kind=LOST)), "biller sent a frame to nobody"),
    "a wrong checksum": (write_frame(frame("biller", "shop", b"abc"))[:-1] + b"d", "biller sent what is no frame"),
    "a broken frame": (write_frame(frame("biller", "shop", b"abc"))[:-1], "biller is gone"),
    "nothing": (b"", "biller is gone"),
}


@pytest.mark.parametrize("forgery", FORGED)
def test_a_forgery_is_laid_at_the_door_of_its_sender(forgery):
    data, cause = FORGED[forgery]
    with Star(raw=["biller"]) as star:
        star.raw["biller"].sendall(data)
        star.raw["biller"].shutdown(socket.SHUT_WR)
        ended = star.play(bank=awaits("shop"), shop=awaits("bank"), coordinator=awaits("biller"), within=20)
    assert {text.split(" (")[0] for text in ended.values()} == {cause}


def test_one_who_forges_is_told_and_cannot_block_in_its_next_send():
    def forge(transport):
        transport.send(frame("bank", "shop", b"forged"))
        for _ in range(64):
            transport.send(frame("biller", "shop", bytes(CHUNK)))
        return transport.receive("shop", "m")

    with Star() as star:
        ended = star.play(bank=awaits("shop"), shop=awaits("bank"), biller=forge, coordinator=awaits("bank"), within=8)
    assert {text.split(" (")[0] for text in ended.values()} == {"biller sent a frame under another name"}


def test_garbage_from_the_coordinator_is_named_and_its_writer_does_not_block():
    here, there = socket.socketpair()
    party = PartyTransport("bank", here)
    with there:
        there.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(PeerLost, match="the coordinator's connection broke: what arrived is no frame"):
            party.receive("shop", "m")
        with contextlib.suppress(OSError):
            for _ in range(64):
                there.sendall(bytes(CHUNK))
            pytest.fail("nobody read, and nobody said so")
        party.abort("stopped")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_unforeseen_error_in_a_reader_leaves_nobody_waiting(monkeypatch):
    def broken(self, frame):
        raise KeyError("unforeseen")

    monkeypatch.setattr(HubTransport, "_route", broken)
    with Star() as star:
        star.at["bank"].send(frame("bank", "shop"))
        ended = star.play(shop=awaits("bank"), coordinator=awaits("shop"), within=20)
    assert {text.split(" (")[0] for text in ended.values()} == {"bank could not be read"}


def test_random_bytes_to_the_coordinator_hang_nobody():
    rng = random.Random(3)
    good = write_frame(frame("biller", "shop", b"payload"))
    for _ in range(60):
        data = bytearray(good * 3)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with Star(raw=["biller"]) as star:
            star.raw["biller"].sendall(data)
            star.raw["biller"].shutdown(socket.SHUT_WR)
            ended = star.play(bank=awaits("biller"), coordinator=awaits("biller"), within=20)
        assert {text.split(" (")[0] for text in ended.values()} <= {
            "biller sent what is no frame",
            "biller is gone",
        }


def test_an_inbox_gives_frames_before_reasons():
    inbox = Inbox()
    inbox.put(frame("bank", "shop", b"1"))
    inbox.leave("bank")
    assert inbox.fail("biller is gone")
    assert not inbox.fail("later")
    assert inbox.take("bank", "m").body == b"1"
    with pytest.raises(PeerLost, match=r"^biller is gone \(while m was awaited from bank\)"):
        inbox.take("bank", "m")


def test_a_later_loss_ends_the_grace_of_a_stop():
    inbox = Inbox()
    inbox.fail("bank stopped", grace=60.0)
    threading.Timer(0.05, inbox.fail, ["the coordinator is gone"]).start()
    started = time.monotonic()
    with pytest.raises(PeerLost, match="^bank stopped"):
        inbox.take("shop", "m")
    assert time.monotonic() - started < 20  # not for ever, on a busy machine either


def test_transports_end_once_and_again():
    with Star() as star:
        star.play(**dict.fromkeys((*NAMES, COORDINATOR), ends))
        for transport in star.at.values():
            transport.abort("stopped")
            transport.abort("stopped")
        with pytest.raises(PeerLost):
            star.at["bank"].send(frame("bank", "shop"))


def test_kinds_are_all_known():
    assert {MESSAGE, BYE, ABORT, LOST} == set(range(4))
