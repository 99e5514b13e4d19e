"""The ring protocol: result, transcript, what each role sees, malformed lists."""

import re

import numpy as np
import pytest

from parties.errors import RemoteProtocolError
from parties.wire import Coordinator, DataParty, Message, Points, Tags
from psi import curve, ecdh
from psi.ecdh import Wire
from psi.elements import elements_of
from psi.lists import TAG_BYTES, as_keys, repeats
from tests.psi.exchanges import ANY, common_ids, exchange, people

NAMES = ["bank", "shop", "biller"]


@pytest.fixture(scope="module")
def recorded():
    """One run of three parties: results, deliveries, and the frames as a relay sees them."""
    seen, frames = [], []
    lists = {"bank": people(0, 40), "shop": people(10, 60), "biller": people(20, 45)}
    found = exchange(lists, observe=seen.append, frames=frames)
    return lists, found, [d for d in seen if d.message.startswith("ecdh.")], frames


def test_three_parties(recorded):
    lists, found, _, _ = recorded
    assert found["coordinator"] == 20
    assert common_ids(lists, found) == dict.fromkeys(lists, people(20, 40))


def test_transcript_is_the_wire_table(recorded):
    _, _, seen, _ = recorded
    steps = [(d.message, d.sender, d.receiver) for d in seen]
    ring = [("bank", "shop"), ("shop", "biller"), ("biller", "bank")]
    expected = [("ecdh.points", *hop) for hop in ring for _ in range(2)]
    expected += [("ecdh.tags", name, "coordinator") for name, _ in ring]
    assert sorted(steps) == sorted(expected)
    kinds = {message.name: message.payload for message in vars(Wire).values() if isinstance(message, Message)}
    assert all(type(d.payload) is kinds[d.message] for d in seen)
    assert {d.message for d in seen} == set(kinds)


def test_docstring_lists_what_is_disclosed():
    leakage = " ".join(ecdh.__doc__.partition("*Leakage*")[2].partition("*Threat")[0].split())
    listed = dict(re.findall(r"- ``(\w+)``, to [\w ]+: ([^.]+)\.", leakage))
    declared = {key: m.discloses for key, m in vars(Wire).items() if isinstance(m, Message) and m.discloses}
    assert listed == declared


def test_coordinator_sees_no_ids_and_no_points(recorded):
    lists, _, seen, frames = recorded
    relayed = b"|".join(bytes(frame.body) for frame in frames)
    for ids in lists.values():
        assert not any(name in relayed for name in ids)
        assert not any(row.tobytes()[:TAG_BYTES] in relayed for row in elements_of(ids))
    hidden = [row.tobytes() for d in seen if isinstance(d.payload, Points) for row in d.payload.body]
    assert len(hidden) == 2 * sum(map(len, lists.values()))
    assert not any(point[:TAG_BYTES] in relayed for point in hidden)
    assert {type(d.payload) for d in seen if d.receiver == "coordinator"} == {Tags}


def test_no_party_holds_two_lists_under_the_same_keys(recorded):
    _, _, seen, _ = recorded
    for name in NAMES:
        received = [d.payload.body for d in seen if d.receiver == name and isinstance(d.payload, Points)]
        assert not repeats(np.concatenate(received))


def test_fresh_secrets_and_fresh_order():
    lists = {"bank": people(0, 200), "shop": people(0, 200)}
    tags = []
    for _ in range(2):
        seen = []
        exchange(lists, observe=seen.append)
        tags.append({d.sender: d.payload.body for d in seen if isinstance(d.payload, Tags)})
    assert not repeats(np.concatenate([tags[0]["bank"], tags[1]["bank"]]))
    # The two lists of one run hold the same tags, each in its owner's order.
    orders = [as_keys(tags[0][name]) for name in ("bank", "shop")]
    assert set(orders[0]) == set(orders[1])
    assert (orders[0] != orders[1]).any()


def good_points(count=30):
    return curve.hash_and_mask(elements_of(people(0, count)), curve.fresh_secret()).copy()


def with_row(row):
    rows = good_points()
    rows[7] = np.frombuffer(row, np.uint8)
    return rows


MALFORMED_POINTS = {
    "one too few": (lambda: good_points(29), r"shape \(29, 32\) .*expected \(30, 32\)"),
    "one too many": (lambda: good_points(31), r"shape \(31, 32\)"),
    "none": (lambda: np.empty((0, 32), np.uint8), r"shape \(0, 32\)"),
    "truncated": (lambda: good_points()[:, :31], r"shape \(30, 31\)"),
    "flat": (lambda: good_points().ravel(), r"shape \(960,\)"),
    "twice the same": (lambda: np.repeat(good_points(15), 2, axis=0), "occurs twice"),
    "zero": (lambda: with_row(bytes(32)), "low order"),
    "order 4": (lambda: with_row((1).to_bytes(32, "little")), "low order"),
    "not reduced": (lambda: with_row((2**255 - 19).to_bytes(32, "little")), "not reduced"),
    "top bit": (lambda: with_row(bytes(31) + b"\x80"), "not reduced"),
}


@pytest.mark.parametrize("case", MALFORMED_POINTS)
def test_malformed_points_name_their_sender(case):
    rows, text = MALFORMED_POINTS[case]

    def shop(end):
        link = end.link(DataParty, DataParty, "bank")
        link.send(Wire.points, Points(np.ascontiguousarray(rows())))

    with pytest.raises(RemoteProtocolError, match=f"shop sent .*{text}"):
        exchange({"bank": people(0, 30), "shop": people(0, 30)}, replace={"shop": shop})


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (lambda tags: tags[:-1], r"shape \(29, 12\) .*expected \(30, 12\)"),
        (lambda tags: tags[:, :8], r"shape \(30, 8\) .*expected \(30, 12\)"),
        (lambda tags: np.concatenate([tags[:-1], tags[:1]]), "occurs twice"),
    ],
)
def test_malformed_tags_name_their_sender(rows, text):
    def shop(end):
        end.link(DataParty, DataParty, "bank").send(Wire.points, Points(good_points()))
        judge = end.link(DataParty, Coordinator, "coordinator")
        judge.send(Wire.tags, Tags(np.ascontiguousarray(rows(good_points()[:, :TAG_BYTES]))))

    with pytest.raises(RemoteProtocolError, match=f"shop sent .*{text}"):
        exchange({"bank": people(0, 30), "shop": people(0, 30)}, replace={"shop": shop})


def test_threads_find_the_same(monkeypatch):
    monkeypatch.setattr(curve, "_CHUNK", 16)
    lists = {"bank": people(0, 100), "shop": people(50, 130)}
    found = exchange(lists, ANY, workers=3)
    assert common_ids(lists, found) == dict.fromkeys(lists, people(50, 100))
