"""The server-aided protocol: result, transcript, what each role sees, malformed keys and lists."""

import re

import numpy as np
import pytest

from parties.errors import RemoteProtocolError
from parties.wire import Blinded, Coordinator, DataParty, Message, Points, Tags
from psi import ecdh, server_aided
from psi.elements import elements_of
from psi.lists import TAG_BYTES, as_keys, join, repeats
from psi.prf import SEED_BYTES, expanded
from psi.server_aided import Wire
from psi.settings import AlignmentSettings
from tests.psi.exchanges import common_ids, exchange, people

NAMES = ["bank", "shop", "biller"]
AIDED = AlignmentSettings(min_intersection=1, protocol="server-aided")
TWO = {"bank": people(0, 30), "shop": people(10, 40)}


@pytest.fixture(scope="module")
def recorded():
    """One run of three parties: results, deliveries, and the frames as a relay sees them."""
    seen, frames = [], []
    lists = {"bank": people(0, 40), "shop": people(10, 60), "biller": people(20, 45)}
    found = exchange(lists, AIDED, observe=seen.append, frames=frames)
    return lists, found, [d for d in seen if d.message.startswith("server_aided.")], frames


def test_three_parties(recorded):
    lists, found, _, _ = recorded
    assert found["coordinator"] == 20
    assert common_ids(lists, found) == dict.fromkeys(lists, people(20, 40))


@pytest.mark.parametrize(("mine", "theirs"), [(1, 1), (1, 300), (300, 1)])
def test_unequal_lists(mine, theirs):
    lists = {"bank": people(0, mine), "shop": people(0, theirs)}
    assert exchange(lists, AIDED)["coordinator"] == 1


def test_transcript_is_the_wire_table(recorded):
    _, _, seen, _ = recorded
    steps = [(d.message, d.sender, d.receiver) for d in seen]
    expected = [("server_aided.key", "bank", name) for name in ("shop", "biller")]
    expected += [("server_aided.tags", name, "coordinator") for name in NAMES]
    assert sorted(steps) == sorted(expected)
    kinds = {message.name: message.payload for message in vars(Wire).values() if isinstance(message, Message)}
    assert all(type(d.payload) is kinds[d.message] for d in seen)
    assert {d.message for d in seen} == set(kinds)


def test_docstring_lists_what_is_disclosed():
    leakage = " ".join(server_aided.__doc__.partition("*Leakage*")[2].partition("*Threat")[0].split())
    listed = dict(re.findall(r"- ``(\w+)``, to [\w ]+: ([^.]+)\.", leakage))
    declared = {key: m.discloses for key, m in vars(Wire).items() if isinstance(m, Message) and m.discloses}
    assert listed == declared


def test_twelve_bytes_an_id(recorded):
    lists, _, seen, _ = recorded
    sent = {d.sender: d.payload.body for d in seen if isinstance(d.payload, Tags)}
    assert {name: body.shape for name, body in sent.items()} == {name: (len(ids), 12) for name, ids in lists.items()}


def test_coordinator_sees_neither_key_nor_ids(recorded):
    lists, _, seen, frames = recorded
    relayed = b"|".join(bytes(frame.body) for frame in frames)
    keys = [d.payload.body.tobytes() for d in seen if isinstance(d.payload, Blinded)]
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert keys[0] not in relayed
    for ids in lists.values():
        assert not any(name in relayed for name in ids)
        assert not any(row.tobytes()[:TAG_BYTES] in relayed for row in elements_of(ids))


def test_with_the_key_every_id_could_be_tested(recorded):
    """What the docstring warns of, and that tags are what it says they are."""
    lists, _, seen, _ = recorded
    key = next(d.payload.body.tobytes() for d in seen if isinstance(d.payload, Blinded))
    tags = next(d.payload.body for d in seen if d.sender == "shop" and isinstance(d.payload, Tags))
    guesses = people(0, 100)
    tried = expanded(elements_of(guesses), key, b"server-aided alignment", TAG_BYTES)
    assert [guesses[i] for i in join({"guesses": tried, "shop": tags})["guesses"]] == lists["shop"]


def test_fresh_key_and_fresh_order():
    lists = {"bank": people(0, 200), "shop": people(0, 200)}
    tags = []
    for _ in range(2):
        seen = []
        exchange(lists, AIDED, observe=seen.append)
        tags.append({d.sender: d.payload.body for d in seen if isinstance(d.payload, Tags)})
    assert not repeats(np.concatenate([tags[0]["bank"], tags[1]["bank"]]))
    orders = [as_keys(tags[0][name]) for name in ("bank", "shop")]
    assert set(orders[0]) == set(orders[1])
    assert (orders[0] != orders[1]).any()
    # Whoever has the key must not learn from places how many ids lie between two that it knows.
    assert (np.sort(orders[0]) != orders[0]).any()


def test_tags_look_random():
    tags = []
    exchange({"bank": people(0, 2000), "shop": people(0, 1)}, AIDED, observe=tags.append)
    body = next(d.payload.body for d in tags if d.sender == "bank" and isinstance(d.payload, Tags))
    ones = np.unpackbits(body, axis=1).mean(axis=0)
    assert (abs(ones - 0.5) < 6 * 0.5 / np.sqrt(2000)).all()


def test_buckets_have_keys_of_their_own():
    seen = []
    settings = AlignmentSettings(min_intersection=1, protocol="server-aided", bucket_ids=7)
    found = exchange(TWO, settings, observe=seen.append)
    assert common_ids(TWO, found) == dict.fromkeys(TWO, people(10, 30))
    keys = {d.payload.body.tobytes() for d in seen if isinstance(d.payload, Blinded)}
    assert len(keys) == 5


@pytest.mark.parametrize(
    "body",
    [np.zeros((1, 31), np.uint8), np.zeros((2, 32), np.uint8), np.zeros((0, 32), np.uint8), np.zeros(32, np.uint8)],
    ids=["short", "two", "none", "flat"],
)
def test_malformed_keys_name_their_sender(body):
    def bank(end):
        end.link(DataParty, DataParty, "shop").send(Wire.key, Blinded(body))

    with pytest.raises(RemoteProtocolError, match="bank sent no proper key"):
        exchange(TWO, AIDED, replace={"bank": bank})


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (lambda tags: tags[:-1], r"shape \(29, 12\) .*expected \(30, 12\)"),
        (lambda tags: tags[:, :8], r"shape \(30, 8\) .*expected \(30, 12\)"),
        (lambda tags: np.concatenate([tags[:-1], tags[:1]]), "occurs twice"),
    ],
    ids=["one too few", "narrow", "twice the same"],
)
def test_malformed_tags_name_their_sender(rows, text):
    def shop(end):
        end.link(DataParty, DataParty, "bank").recv(Wire.key)
        good = np.random.default_rng(0).integers(0, 256, (30, TAG_BYTES), np.uint8)
        end.link(DataParty, Coordinator, "coordinator").send(Wire.tags, Tags(np.ascontiguousarray(rows(good))))

    with pytest.raises(RemoteProtocolError, match=f"shop sent .*{text}"):
        exchange(TWO, AIDED, replace={"shop": shop})


def test_messages_of_another_protocol_name_their_sender():
    def bank(end):
        rows = np.zeros((30, SEED_BYTES), np.uint8)
        end.link(DataParty, DataParty, "shop").send(ecdh.Wire.points, Points(rows))

    with pytest.raises(RemoteProtocolError, match="bank"):
        exchange(TWO, AIDED, replace={"bank": bank})
