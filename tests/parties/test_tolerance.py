"""Going on without a role: late, lost, dismissed; over the local network and links by themselves."""

import itertools
import threading
from collections import deque

import msgspec
import numpy as np
import pytest

from parties.errors import DataError, LocalProtocolError, PeerLost, RemoteProtocolError
from parties.frame import CHUNK
from parties.ledger import LOST, Ledger, write_ledger
from parties.ledger_check import check_agreement, read_book
from parties.link import COORDINATOR, Endpoint
from parties.local import run_local
from parties.wire import Active, Control, Coordinator, DataParty, LabelSilo, Masked, Message

SILOS = ("north", "south", "west", "east")
ROLES = {COORDINATOR: Coordinator, "north": Active} | dict.fromkeys(SILOS[1:], LabelSilo)
ROUNDS = 3


class Wire:
    ready = Message(DataParty, Coordinator, Control)
    begin = Message(Coordinator, DataParty, Control)
    update = Message(DataParty, Coordinator, Masked, discloses="a number")
    share = Message(DataParty, DataParty, Masked)


def word(number):
    return Masked(np.array([[number]], np.uint64))


def silo(end):
    """Say ready; then answer every round until there is none."""
    judge = end.link(DataParty, Coordinator, COORDINATOR)
    judge.send(Wire.ready, Control({}))
    while (number := judge.recv(Wire.begin).facts["round"]) >= 0:
        judge.send(Wire.update, word(number))
    return end.name


def judging(least=3, tolerant=True, seen=None):
    """A coordinator that asks in every round those that owe nothing, and dismisses in the end who does."""

    def coordinator(end):
        links = {name: end.link(Coordinator, DataParty, name) for name in SILOS}
        for link in links.values():
            link.recv(Wire.ready)
        if tolerant:
            end.tolerate(SILOS, least)
        owing, counts = set(), []
        for number in range(ROUNDS):
            owing = {name for name in owing if links[name].recv_within(Wire.update, 0.0) is None}
            asked = [name for name in SILOS if name not in owing and not links[name].lost]
            for name in asked:
                links[name].send(Wire.begin, Control({"round": number}))
            answers = {name: links[name].recv_within(Wire.update, 0.2) for name in asked}
            owing |= {name for name, answer in answers.items() if answer is None and not links[name].lost}
            counts.append([name for name, answer in answers.items() if answer is not None])
        for name in owing:
            end.dismiss(name, "was late")
        for link in links.values():
            link.send(Wire.begin, Control({"round": -1}))
        if seen is not None:
            seen.update(end.lost)
        return counts

    return coordinator


def play(coordinator, within=20.0, ledgers=None, lost=None, **silos):
    """Run, and fail instead of hanging; role threads that survive are a failure too."""
    outcome = []
    plays = {COORDINATOR: coordinator} | dict.fromkeys(SILOS, silo) | silos

    def run():
        try:
            outcome.append(run_local(plays, roles=ROLES, ledgers=ledgers, lost=lost))
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


def failing(error, after):
    """A silo that raises an error in some round; -1: before it is ready."""

    def role(end):
        judge = end.link(DataParty, Coordinator, COORDINATOR)
        if after < 0:
            raise error
        judge.send(Wire.ready, Control({}))
        for number in itertools.count():
            judge.recv(Wire.begin)
            if number == after:
                raise error
            judge.send(Wire.update, word(number))

    return role


def others(*without):
    return [name for name in SILOS if name not in without]


def test_nobody_is_missed_where_all_answer():
    lost = {}
    results = play(judging(), lost=lost)
    assert results == {COORDINATOR: [list(SILOS)] * ROUNDS} | {name: name for name in SILOS}
    assert lost == {}


@pytest.mark.parametrize("after", range(ROUNDS))
@pytest.mark.parametrize("error", [DataError("a file"), ValueError("a bug")], ids=["refusal", "bug"])
def test_a_role_that_raises_is_lost_and_the_others_go_on(error, after):
    lost, seen = {}, {}
    results = play(judging(seen=seen), lost=lost, south=failing(error, after))
    assert results[COORDINATOR] == [list(SILOS)] * after + [others("south")] * (ROUNDS - after)
    assert set(results) == {COORDINATOR, *others("south")}
    assert lost == seen == {"south": f"stopped ({type(error).__name__})"}


def test_too_few_left_end_the_run_with_the_last_one_s_error():
    with pytest.raises(DataError, match="the second"):
        play(judging(), south=failing(ValueError("the first"), 0), west=failing(DataError("the second"), 1))
    assert play(judging(2), south=failing(ValueError(), 0), west=failing(DataError(), 1))[COORDINATOR][1:] == [
        ["north", "east"]
    ] * (ROUNDS - 1)


@pytest.mark.parametrize(
    ("coordinator", "after"), [(judging(), -1), (judging(tolerant=False), -1)], ids=["too early", "not at all"]
)
def test_before_anything_is_tolerated_an_error_ends_the_run(coordinator, after):
    with pytest.raises(DataError, match="line 3"):
        play(coordinator, south=failing(DataError("line 3"), after))


def test_the_loss_of_who_is_not_tolerated_ends_the_run():
    def coordinator(end):
        links = [end.link(Coordinator, DataParty, name) for name in SILOS]
        for link in links:
            link.recv(Wire.ready)
        end.tolerate(SILOS[1:], 2)
        for link in links:
            link.send(Wire.begin, Control({"round": 0}))
        return [link.recv_within(Wire.update, 1.0) for link in links]

    with pytest.raises(DataError, match="line 3"):
        play(coordinator, north=failing(DataError("line 3"), 0))


def slow(end):
    """Answers the first round once another silo has told it to, which is after that round is over."""
    judge, peer = end.link(DataParty, Coordinator, COORDINATOR), end.link(DataParty, DataParty, "north")
    judge.send(Wire.ready, Control({}))
    judge.recv(Wire.begin)
    peer.recv(Wire.share)
    judge.send(Wire.update, word(0))
    while (number := judge.recv(Wire.begin).facts["round"]) >= 0:
        judge.send(Wire.update, word(number))
    return end.name


def nudging(end):
    """Wakes the slow silo in the second round."""
    judge = end.link(DataParty, Coordinator, COORDINATOR)
    judge.send(Wire.ready, Control({}))
    while (number := judge.recv(Wire.begin).facts["round"]) >= 0:
        if number == 1:
            end.link(DataParty, DataParty, "south").send(Wire.share, word(0))
        judge.send(Wire.update, word(number))
    return end.name


def test_who_is_late_takes_part_again_once_what_it_owes_has_come():
    lost = {}
    results = play(judging(), lost=lost, north=nudging, south=slow)
    assert results[COORDINATOR] == [others("south"), others("south"), list(SILOS)]
    assert set(results) == {COORDINATOR, *SILOS} and lost == {}


def test_the_transcript_is_the_same_every_time():
    def once():
        ledgers = {name: Ledger() for name in ROLES}
        play(judging(), ledgers=ledgers, north=nudging, south=slow, west=failing(ValueError(), 1))
        return [(name, entry.message) for name, ledger in ledgers.items() for entry in ledger.entries]

    assert once() == once()


def stuck(end):
    """Waits for what never comes."""
    judge, peer = end.link(DataParty, Coordinator, COORDINATOR), end.link(DataParty, DataParty, "north")
    judge.send(Wire.ready, Control({}))
    judge.recv(Wire.begin)
    return peer.recv(Wire.share)


def test_who_never_comes_is_dismissed_and_told():
    told, lost = [], {}

    def watched(end):
        try:
            stuck(end)
        except PeerLost as error:
            told.append(str(error))
            with pytest.raises(PeerLost):
                end.link(DataParty, Coordinator, COORDINATOR).send(Wire.update, word(0))
            raise

    results = play(judging(), lost=lost, south=watched)
    assert results[COORDINATOR] == [others("south")] * ROUNDS and "south" not in results
    assert told == ["coordinator goes on without south, which was late"] and lost == {"south": "was late"}


def test_a_dismissal_that_leaves_too_few_ends_the_run():
    with pytest.raises(PeerLost, match="^south was late$"):
        play(judging(4), south=stuck)


def test_a_silo_that_waits_for_one_that_is_lost_is_told_so():
    told = []

    def waiting(end):
        judge = end.link(DataParty, Coordinator, COORDINATOR)
        judge.send(Wire.ready, Control({}))
        judge.recv(Wire.begin)
        try:
            end.link(DataParty, DataParty, "south").recv(Wire.share)
        except PeerLost as error:
            told.append(str(error))
            raise

    lost = {}
    play(judging(2), lost=lost, south=failing(ValueError(), 0), west=waiting)
    assert told == [f"south stopped (ValueError) while {Wire.share.name} was awaited from it"]
    assert set(lost) == {"south", "west"}


def compare(folder, ledgers):
    """Write the ledgers as their owners would, and compare them as those of a run that has ended."""
    for name, ledger in ledgers.items():
        write_ledger(folder / f"{name}.jsonl", ledger.entries)
    return check_agreement([read_book(folder / f"{name}.jsonl") for name in ledgers], ended=True)


def test_the_ledgers_of_a_run_without_a_silo_agree_but_for_its_end(tmp_path):
    ledgers = {name: Ledger() for name in ROLES}
    play(judging(), ledgers=ledgers, south=failing(ValueError(), 1))
    noted = [entry for entry in ledgers[COORDINATOR].entries if entry.message == LOST]
    assert [(entry.sender, entry.receiver, entry.bytes, entry.discloses) for entry in noted] == [
        ("south", COORDINATOR, 0, "")
    ]
    sent = [entry.message for entry in ledgers[COORDINATOR].entries if entry.receiver == "south"]
    assert sum(message.endswith("begin") for message in sent) == 2, "what goes nowhere is in no ledger"
    agreement = compare(tmp_path, ledgers)
    assert agreement.cut == 0 and agreement.messages > 20


def test_an_end_that_is_lacking_agrees_only_where_the_loss_is_noted(tmp_path):
    ledgers = {name: Ledger() for name in ROLES}
    play(judging(), ledgers=ledgers, south=stuck)
    del ledgers["south"].entries[-1]  # the begin that it read and could not answer
    assert compare(tmp_path, ledgers).cut == 1
    short = {**ledgers, "north": Ledger(entries=ledgers["north"].entries[:-1])}
    with pytest.raises(DataError, match="begin from coordinator to north"):
        compare(tmp_path, short)
    unnoted = [entry for entry in ledgers[COORDINATOR].entries if entry.message != LOST]
    with pytest.raises(DataError, match="begin from coordinator to south"):
        compare(tmp_path, {**ledgers, COORDINATOR: Ledger(entries=unnoted)})


def test_only_the_coordinator_s_word_counts_for_a_loss(tmp_path):
    ledgers = {name: Ledger() for name in ROLES}
    play(judging(), ledgers=ledgers, south=stuck)
    note = next(entry for entry in ledgers[COORDINATOR].entries if entry.message == LOST)
    own = msgspec.structs.replace(note, by="north", sender="north", receiver=COORDINATOR)
    short = {**ledgers, "north": Ledger(entries=[*ledgers["north"].entries[:-1], own])}
    with pytest.raises(DataError, match="begin from coordinator to north"):
        compare(tmp_path, short)


@pytest.mark.parametrize(
    ("wrong", "payload"), [(Wire.ready, Control({})), (Wire.update, word(0))], ids=["another message", "not decoded"]
)
def test_who_sends_something_else_is_dismissed(wrong, payload, monkeypatch):
    def babbling(end):
        judge = end.link(DataParty, Coordinator, COORDINATOR)
        judge.send(Wire.ready, Control({}))
        judge.recv(Wire.begin)
        if wrong is Wire.update:
            monkeypatch.setattr("parties.link.encode", lambda payload: b"\xc1 no payload")
        judge.send(wrong, payload)
        monkeypatch.undo()
        judge.recv(Wire.begin)

    def coordinator(end):
        links = {name: end.link(Coordinator, DataParty, name) for name in SILOS}
        for link in links.values():
            link.recv(Wire.ready)
        end.tolerate(SILOS, 3)
        for link in links.values():
            link.send(Wire.begin, Control({"round": 0}))
        with pytest.raises(RemoteProtocolError, match="south"):
            links["south"].recv_within(Wire.update, 1.0)
        assert end.lost == {"south": "sent what breaks the protocol"}
        assert links["south"].lost and not links["west"].lost
        assert links["south"].recv_within(Wire.update, 1.0) is None
        updates = [link.recv_within(Wire.update, 1.0) for name, link in links.items() if name != "south"]
        for link in links.values():
            link.send(Wire.begin, Control({"round": -1}))
        return len([update for update in updates if update is not None])

    lost = {}
    assert play(coordinator, lost=lost, south=babbling)[COORDINATOR] == 3
    assert set(lost) == {"south"}


class Drips:
    """A transport that lets frames through one by one, as a test says."""

    def __init__(self):
        self.sent, self.due = deque(), 0
        self.dismissed = {}

    def send(self, frame):
        self.sent.append(frame)

    def receive(self, peer, waiting_for):
        return self.sent.popleft()

    def receive_within(self, peer, waiting_for, seconds):
        if not self.due:
            return None
        self.due -= 1
        return self.sent.popleft()

    def tolerate(self, peers, least):
        """All of them."""

    def dismiss(self, peer, why):
        self.dismissed[peer] = why

    def lost(self):
        return self.dismissed


@pytest.mark.parametrize("pieces", [[1, 1, 1], [0, 2, 1], [2, 0, 1], [3]])
def test_parts_that_came_before_the_time_was_up_are_kept(pieces):
    wires = Drips()
    ends = {name: Endpoint(name, ROLES, wires) for name in ROLES}
    ends[COORDINATOR].tolerate(SILOS, 2)
    large = Masked(np.arange(2 * CHUNK // 8 + 5, dtype=np.uint64).reshape(-1, 1))
    ends["north"].link(DataParty, Coordinator, COORDINATOR).send(Wire.update, large)
    assert len(wires.sent) == 3
    link = ends[COORDINATOR].link(Coordinator, DataParty, "north")
    for piece in pieces[:-1]:
        wires.due = piece
        assert link.recv_within(Wire.update, 5.0) is None
    wires.due = pieces[-1]
    arrived = link.recv_within(Wire.update, 5.0)
    np.testing.assert_array_equal(arrived.body, large.body)
    assert ends[COORDINATOR].ledger.entries[-1].content == ends["north"].ledger.entries[-1].content


def test_what_plain_receiving_finds_begun_is_ended_by_it():
    wires = Drips()
    ends = {name: Endpoint(name, ROLES, wires) for name in ROLES}
    large = Masked(np.arange(2 * CHUNK // 8 + 5, dtype=np.uint64).reshape(-1, 1))
    ends["north"].link(DataParty, Coordinator, COORDINATOR).send(Wire.update, large)
    link = ends[COORDINATOR].link(Coordinator, DataParty, "north")
    wires.due = 2
    assert link.recv_within(Wire.update, 5.0) is None
    np.testing.assert_array_equal(link.recv(Wire.update).body, large.body)


def test_a_role_whose_network_cannot_go_on_is_refused():
    class Strict:
        def send(self, frame):
            """Nowhere."""

        def receive(self, peer, waiting_for):
            """From nobody."""

    end = Endpoint("north", ROLES, Strict())
    refused = "^north cannot go on without a peer; the coordinator can$"
    with pytest.raises(LocalProtocolError, match=refused):
        end.tolerate(["south"], 1)
    with pytest.raises(LocalProtocolError, match=refused):
        end.dismiss("south", "was late")
    with pytest.raises(LocalProtocolError, match=refused):
        end.link(DataParty, DataParty, "south").recv_within(Wire.share, 1.0)
    assert end.lost == {}
