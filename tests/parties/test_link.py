"""Typed links: what is refused before it leaves, what is refused on arrival, what a relay sees."""

import subprocess
import sys
from collections import deque
from pathlib import Path

import msgspec
import numpy as np
import pytest

from parties.codec import encode
from parties.errors import LocalProtocolError, RemoteProtocolError
from parties.frame import CHUNK, Frame
from parties.ledger import Ledger, merge_sent
from parties.link import COORDINATOR, Endpoint
from parties.local import run_local
from parties.sealing import KeyPair, open_channel
from parties.wire import Active, Control, Coordinator, DataParty, Masked, Message, Opened, Passive, Revealed

ROOT = Path(__file__).parents[2]
ROLES = {"bank": Active, "shop": Passive, "biller": Passive, COORDINATOR: Coordinator}


class Wire:
    share = Message(Active, Passive, Masked)
    answer = Message(Passive, Active, Opened)
    round = Message(Coordinator, DataParty, Control)
    total = Message(DataParty, Coordinator, Revealed, discloses="the party's total")


class Wires:
    """A transport that keeps what was sent; a test may change it before the other end receives it."""

    def __init__(self):
        self.sent = deque()

    def send(self, frame):
        self.sent.append(frame)

    def receive(self, peer, waiting_for):
        return self.sent.popleft()

    def close(self):
        """Nothing to do."""

    def abort(self, reason):
        """Nothing to do."""


class Ends:
    """Endpoints of all roles over one queue, with sealed channels between bank and shop."""

    def __init__(self):
        self.wires = Wires()
        self.ends = {name: Endpoint(name, ROLES, self.wires) for name in ROLES}
        static, fresh = ({name: KeyPair.fresh() for name in ("bank", "shop")} for _ in range(2))
        for me, peer in (("bank", "shop"), ("shop", "bank")):
            self.ends[me].channels[peer] = open_channel(
                me, peer, static[me], fresh[me], static[peer].public, fresh[peer].public, b"job"
            )
        self.bank = self.ends["bank"].link(Active, Passive, "shop")
        self.shop = self.ends["shop"].link(Passive, Active, "bank")
        self.judge = self.ends[COORDINATOR].link(Coordinator, DataParty, "shop")
        self.judged = self.ends["shop"].link(DataParty, Coordinator, COORDINATOR)


@pytest.fixture
def ends():
    return Ends()


def words(count):
    return Masked(np.arange(count, dtype=np.uint64).reshape(count, 1))


ONE = words(1)


@pytest.mark.parametrize(
    ("message", "payload", "text"),
    [
        (Wire.answer, Opened(np.zeros((1, 1), np.uint8)), "cannot go from Active to Passive"),
        (Wire.round, Control({}), "cannot go from Active to Passive"),
        (Wire.total, Revealed({}, np.zeros(1)), "cannot go from Active to Passive"),
        (Wire.share, Control({}), "carries Masked, not Control"),
        (Wire.share, np.zeros(3, np.uint64), "carries Masked, not ndarray"),
        (Wire.share, None, "carries Masked, not NoneType"),
        (Wire.share, Masked(np.zeros(3)), "expected an array of uint64"),
        (Wire.share, Masked(b"raw"), "no Masked"),
    ],
)
def test_nothing_leaves_that_the_table_does_not_allow(ends, message, payload, text):
    with pytest.raises(LocalProtocolError, match=text):
        ends.bank.send(message, payload)
    assert not ends.wires.sent
    assert not ends.ends["bank"].ledger.entries


def test_a_wrong_direction_is_not_awaited_either(ends):
    with pytest.raises(LocalProtocolError, match="cannot go from Passive to Active"):
        ends.bank.recv(Wire.share)


@pytest.mark.parametrize(
    ("me", "peer", "name"),
    [
        (Passive, Passive, "shop"),
        (Active, Active, "shop"),
        (Active, Coordinator, "shop"),
        (Active, DataParty, "nobody"),
        (Active, Active, "bank"),
    ],
)
def test_no_link_between_wrong_roles(ends, me, peer, name):
    with pytest.raises(LocalProtocolError, match="no link"):
        ends.ends["bank"].link(me, peer, name)


def test_links_are_one_per_peer_and_peers_stand_in_job_order(ends):
    end = ends.ends["bank"]
    assert end.link(DataParty, DataParty, "shop") is ends.bank
    assert end.peers(Passive) == ["shop", "biller"]
    assert ends.ends["shop"].peers(DataParty) == ["bank", "biller"]


def test_without_a_channel_nothing_leaves(ends):
    with pytest.raises(LocalProtocolError, match="no sealed channel to biller"):
        ends.ends["bank"].link(Active, Passive, "biller").send(Wire.share, ONE)
    assert not ends.wires.sent


def test_pair_secrets_are_equal_on_both_sides(ends):
    assert ends.ends["bank"].pair_secret("shop", "x") == ends.ends["shop"].pair_secret("bank", "x")


def altered(frame, **changes):
    return Frame(frame.kind, msgspec.structs.replace(frame.header, **changes), frame.body)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sender": "biller"}, "share from bank: a frame from 'biller' to 'shop' came"),
        ({"receiver": "biller"}, "share from bank: a frame from 'bank' to 'biller' came"),
        ({"message": "test_link.total"}, r"bank sent 'test_link\.total' number 0"),
        ({"sequence": 1}, "bank sent 'test_link.share' number 1"),
        ({"part": 1}, "bank sent 'test_link.share' number 0 part 1 where"),
        ({"last": False}, "seal of test_link.share from bank does not open"),
    ],
)
def test_a_header_altered_on_the_way(ends, change, text):
    ends.bank.send(Wire.share, ONE)
    ends.wires.sent.append(altered(ends.wires.sent.popleft(), **change))
    with pytest.raises(RemoteProtocolError, match=text):
        ends.shop.recv(Wire.share)
    assert not ends.ends["shop"].ledger.entries


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_missing_part(ends, lost):
    ends.bank.send(Wire.share, words(3 * CHUNK // 8))
    ends.bank.send(Wire.share, ONE)
    del ends.wires.sent[lost]
    with pytest.raises(RemoteProtocolError, match="bank"):
        ends.shop.recv(Wire.share)


def test_a_repeated_message(ends):
    ends.bank.send(Wire.share, ONE)
    repeated = ends.wires.sent[0]
    ends.shop.recv(Wire.share)
    ends.wires.sent.append(repeated)
    with pytest.raises(RemoteProtocolError, match="bank sent 'test_link.share' number 0 part 0 where"):
        ends.shop.recv(Wire.share)
    ends.wires.sent.append(altered(repeated, sequence=1))
    with pytest.raises(RemoteProtocolError, match="bank does not open"):
        ends.shop.recv(Wire.share)


def test_reordered_messages(ends):
    ends.bank.send(Wire.share, ONE)
    ends.bank.send(Wire.share, ONE)
    ends.wires.sent.reverse()
    with pytest.raises(RemoteProtocolError, match="bank sent .* number 1"):
        ends.shop.recv(Wire.share)


def test_an_unexpected_message_of_the_same_type(ends):
    ends.judge.send(Wire.round, Control({}))
    other = Message(Coordinator, DataParty, Control)
    other.__set_name__(Wire, "verdict")
    with pytest.raises(RemoteProtocolError, match=r"coordinator sent 'test_link\.round' .* 'test_link\.verdict'"):
        ends.judged.recv(other)


@pytest.mark.parametrize("body", [b"", b"\x01", b"\xff" * 40, encode(ONE), encode(Control({})) + b"\0"])
def test_an_unsealed_body_that_is_no_such_payload(ends, body):
    ends.judge.send(Wire.round, Control({"round": 1}))
    frame = ends.wires.sent.popleft()
    ends.wires.sent.append(Frame(frame.kind, frame.header, body))
    with pytest.raises(RemoteProtocolError, match=r"test_link\.round from coordinator: "):
        ends.judged.recv(Wire.round)


def test_small_parts_without_end_are_refused(ends):
    ends.judge.send(Wire.round, Control({"round": 1}))
    frame = ends.wires.sent.popleft()
    ends.wires.sent.extend(altered(frame, part=part, last=False) for part in range(5))
    with pytest.raises(RemoteProtocolError, match="part 0 has"):
        ends.judged.recv(Wire.round)


def test_a_message_over_the_limit_is_refused(ends, monkeypatch):
    monkeypatch.setattr("parties.link.MAX_MESSAGE", CHUNK + CHUNK // 2)
    ends.bank.send(Wire.share, words(3 * CHUNK // 8))
    with pytest.raises(RemoteProtocolError, match="share from bank is over"):
        ends.shop.recv(Wire.share)


@pytest.mark.parametrize("size", [0, 1, CHUNK // 8 - 1, CHUNK // 8, 3 * CHUNK // 8 + 5])
def test_payloads_of_several_chunks_arrive_exactly(ends, size):
    sent = words(size)
    ends.bank.send(Wire.share, sent)
    data = len(encode(sent))
    assert len(ends.wires.sent) == -(-data // CHUNK)
    assert ends.shop.recv(Wire.share).body.tobytes() == sent.body.tobytes()
    there, here = ends.ends["bank"].ledger.entries[0], ends.ends["shop"].ledger.entries[0]
    assert there.bytes == here.bytes >= 2 * data
    assert (there.by, here.by, there.values, there.hops) == ("bank", "shop", size, 2)


def _bank(end):
    judge, shop = end.link(Active, Coordinator, COORDINATOR), end.link(Active, Passive, "shop")
    rounds = judge.recv(Wire.round).facts["rounds"]
    for _ in range(rounds):
        shop.send(Wire.share, Masked(np.frombuffer(b"confidential text" * 8, np.uint64).reshape(-1, 1)))
        shop.recv(Wire.answer)
    judge.send(Wire.total, Revealed({"rounds": rounds}, np.array([1.5, 2.5])))


def _shop(end):
    bank, judge = end.link(Passive, Active, "bank"), end.link(Passive, Coordinator, COORDINATOR)
    for _ in range(judge.recv(Wire.round).facts["rounds"]):
        bank.recv(Wire.share)
        bank.send(Wire.answer, Opened(np.frombuffer(b"classified words", np.uint8).reshape(1, -1)))


def _judge(end):
    links = {name: end.link(Coordinator, DataParty, name) for name in end.peers(DataParty)}
    for link in links.values():
        link.send(Wire.round, Control({"rounds": 2}))
    return links["bank"].recv(Wire.total).values.tolist()


def test_a_whole_run_seen_by_ledgers_the_relay_and_an_observer():
    roles = {name: ROLES[name] for name in ("bank", "shop", COORDINATOR)}
    ledgers, frames, seen = {name: Ledger() for name in roles}, [], []
    plays = {"bank": _bank, "shop": _shop, COORDINATOR: _judge}
    results = run_local(plays, roles=roles, ledgers=ledgers, frames=frames, observe=seen.append)
    assert results[COORDINATOR] == [1.5, 2.5]

    sent = [entry for name in roles for entry in ledgers[name].entries if entry.by == entry.sender]
    received = [entry for name in roles for entry in ledgers[name].entries if entry.by == entry.receiver]

    def facts(entries):
        return sorted(
            (e.sender, e.receiver, e.message, e.kind, e.bytes, e.hops, e.values, e.discloses) for e in entries
        )

    assert facts(sent) == facts(received)
    assert len(sent) == len(seen) == 13
    merged = merge_sent(ledger.entries for ledger in ledgers.values())
    assert [e.message for e in merged] == [frame.header.message for frame in frames]
    assert [e.discloses for e in merged if e.discloses] == ["the party's total"]

    between = [frame for frame in frames if COORDINATOR not in (frame.header.sender, frame.header.receiver)]
    assert len(between) == 4
    for frame in between:
        assert not any(word in frame.body for word in (b"confiden", b"classified", b"uint"))
    assert any(b"rounds" in frame.body for frame in frames)  # what goes to the coordinator is for it to read


def test_revealed_must_say_what_it_discloses():
    with pytest.raises(TypeError, match="discloses"):
        Message(Passive, Active, Revealed)
    assert repr(Wire.share) == "<test_link.share: Active -> Passive, Masked>"


TYPED = """
import numpy as np
from parties.link import Link
from parties.wire import Active, Control, Coordinator, Masked, Message, Passive

class Wire:
    share = Message(Active, Passive, Masked)
    total = Message(Passive, Active, Control)

def active(shop: Link[Active, Passive], words: Masked) -> Control:
    shop.send(Wire.share, words)
    return shop.recv(Wire.total)

def wrong(shop: Link[Active, Passive], judge: Link[Active, Coordinator], words: Masked) -> None:
    shop.send(Wire.total, Control({}))  # refused: a wrong direction
    shop.recv(Wire.share)  # refused: awaited from the wrong side
    judge.send(Wire.share, words)  # refused: another role
    shop.send(Wire.share, Control({}))  # refused: a wrong payload
    shop.send(Wire.share, words.body)  # refused: a raw array
    shop.send(Wire.share, Masked(np.zeros(3)))  # refused: another dtype
    words = shop.recv(Wire.total)  # refused: another payload comes back
"""


def test_the_type_checker_refuses_what_the_run_would_refuse(tmp_path):
    path = tmp_path / "typed.py"
    path.write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", "--no-error-summary", path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    refused = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    expected = {number for number, line in enumerate(TYPED.splitlines(), 1) if "# refused" in line}
    assert refused == expected, done.stdout + done.stderr


def test_a_purpose_of_shared_streams_is_claimed_once() -> None:
    """Two sets of masks for one purpose would repeat the streams with nobody remembering what was used."""

    def play(endpoint: Endpoint) -> None:
        if endpoint.name != COORDINATOR:
            endpoint.claim("masks|glm")
            endpoint.claim("masks|scoring")
            with pytest.raises(LocalProtocolError, match="taken before"):
                endpoint.claim("masks|glm")

    run_local(dict.fromkeys(ROLES, play), roles=ROLES)
