"""The local network: the same transcript every time, exact deadlock reports, the first error wins."""

import signal
import threading
import time

import numpy as np
import pytest

from parties.errors import DataError, LocalProtocolError, PeerLost
from parties.link import COORDINATOR
from parties.local import LocalNetwork, run_local
from parties.wire import Active, Control, Coordinator, DataParty, Masked, Message, Passive

ROLES = {"bank": Active, "shop": Passive, "biller": Passive, COORDINATOR: Coordinator}


class Wire:
    share = Message(DataParty, DataParty, Masked)
    total = Message(DataParty, Coordinator, Control)
    round = Message(Coordinator, DataParty, Control)


def party(end):
    """Exchange shares with every other party, then tell the coordinator, three times."""
    peers = [end.link(DataParty, DataParty, name) for name in end.peers(DataParty)]
    judge = end.link(DataParty, Coordinator, COORDINATOR)
    for turn in range(3):
        judge.recv(Wire.round)
        for peer in peers:
            peer.send(Wire.share, Masked(np.array([[turn]], np.uint64)))
        total = sum(int(peer.recv(Wire.share).body[0, 0]) for peer in peers)
        judge.send(Wire.total, Control({"total": total}))
    return end.name


def coordinator(end):
    parties = [end.link(Coordinator, DataParty, name) for name in end.peers(DataParty)]
    totals = []
    for turn in range(3):
        for link in parties:
            link.send(Wire.round, Control({"round": turn}))
        totals += [link.recv(Wire.total).facts["total"] for link in parties]
    return totals


PLAYS = {"bank": party, "shop": party, "biller": party, COORDINATOR: coordinator}


def play(within=20.0, **changed):
    """Run, and fail instead of hanging; role threads that survive are a failure too."""
    outcome = []

    def run():
        try:
            outcome.append(run_local(PLAYS | changed, roles=ROLES))
        except BaseException as error:
            outcome.append(error)

    before = threading.active_count()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(within)
    assert outcome, "the local network hangs"
    assert threading.active_count() == before
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def test_results_of_all_roles():
    assert play() == {"bank": "bank", "shop": "shop", "biller": "biller", COORDINATOR: [0, 0, 0, 2, 2, 2, 4, 4, 4]}


def test_the_transcript_is_the_same_every_time():
    transcripts = set()
    for _ in range(10):
        frames = []
        run_local(PLAYS, roles=ROLES, frames=frames)
        transcripts.add(tuple((frame.header, len(frame.body)) for frame in frames))
    assert len(transcripts) == 1
    assert len(next(iter(transcripts))) == 3 * 3 + 3 * (3 + 6 + 3)


def test_a_deadlock_is_reported_exactly():
    def mute(end):
        for _ in range(2):  # shop sends one share before it waits
            end.link(DataParty, DataParty, "shop").recv(Wire.share)

    with pytest.raises(LocalProtocolError) as raised:
        play(bank=mute)
    assert str(raised.value) == (
        "deadlock: bank waits for test_local.share from shop; shop waits for test_local.share from bank; "
        "biller waits for test_local.share from bank; coordinator waits for test_local.total from bank"
    )


def test_waiting_for_a_role_that_has_ended_is_a_deadlock():
    reports = set()
    for _ in range(5):
        with pytest.raises(LocalProtocolError) as raised:
            play(biller=lambda end: None)
        reports.add(str(raised.value))
    assert reports == {
        "deadlock: bank waits for test_local.share from biller; shop waits for test_local.share from biller; "
        "coordinator waits for test_local.total from bank"
    }


@pytest.mark.parametrize("failing", list(PLAYS))
def test_the_first_error_is_raised_and_the_others_unwind(failing):
    unwound = []

    def watched(play):
        def run(end):
            try:
                play(end)
                return play(end)  # once more, so that all still run when one has failed
            except PeerLost as lost:
                unwound.append((end.name, type(lost.__cause__)))
                raise

        return run

    def fails(end):
        PLAYS[end.name](end)
        raise DataError("shop.csv, line 3")

    plays = {name: fails if name == failing else watched(each) for name, each in PLAYS.items()}
    with pytest.raises(DataError, match="line 3"):
        play(**plays)
    assert {cause for _, cause in unwound} <= {DataError}
    assert len(unwound) == len(PLAYS) - 1


def test_an_error_before_the_first_turn_starts_nobody_else():
    started = []

    with pytest.raises(ZeroDivisionError):
        network = LocalNetwork(["first", "second"])
        network.run({"first": lambda: 1 // 0, "second": lambda: started.append("second")})
    assert started == []


def test_no_thread_sends_after_another_role_failed():
    def stubborn(end):
        try:
            party(end)
        except PeerLost:
            with pytest.raises(PeerLost):
                end.link(DataParty, Coordinator, COORDINATOR).send(Wire.total, Control({}))
            raise

    def fails(end):
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        play(bank=stubborn, biller=fails)


def test_keyboard_interrupt_stops_all():
    unwound = threading.Event()

    def waits(end):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        try:
            for _ in range(500):
                time.sleep(0.01)
                end.link(DataParty, Coordinator, COORDINATOR).send(Wire.total, Control({}))
        finally:
            unwound.set()

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_local(PLAYS | {"bank": waits}, roles=ROLES)
    assert unwound.wait(5)
    assert time.monotonic() - started < 5


def test_frames_are_kept_for_who_asks_even_when_the_run_fails():
    def fails(end):
        raise ValueError

    frames = []
    with pytest.raises(ValueError):  # noqa: PT011
        run_local(PLAYS | {"bank": fails}, roles=ROLES, frames=frames)
    assert {frame.header.message for frame in frames} >= {"greeting.hello"}
