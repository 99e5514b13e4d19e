"""The ring protocol: transcript, what each role sees, malformed lists."""

import re

import numpy as np
import pytest

from parties.errors import ConfigError, DataError, RemoteProtocolError
from parties.local import run_local
from parties.wire import Active, Coordinator, DataParty, Message, Passive, Points, Revealed, Tags
from psi import curve, ecdh
from psi.ecdh import Limit, Wire

NAMES = ["bank", "shop", "biller"]


def people(start, stop):
    return [b"person number %d" % i for i in range(start, stop)]


ANY = Limit(1)


def play(lists, limit=ANY, replace=None, **recorders):
    """Run the protocol; ``replace`` swaps single roles for scripted ones."""
    sizes = {name: len(ids) for name, ids in lists.items()}
    plays = {name: lambda end, ids=ids: ecdh.party(end, ids, sizes, limit) for name, ids in lists.items()}
    plays["coordinator"] = lambda end: ecdh.coordinator(end, sizes, limit)
    roles = dict.fromkeys(lists, Passive) | {next(iter(lists)): Active, "coordinator": Coordinator}
    return run_local(plays | (replace or {}), roles=roles, **recorders)


def outcomes(lists, limit):
    """The error or result of every role, each run to its own end."""

    def caught(action):
        def run(end):
            try:
                return action(end)
            except (DataError, ConfigError) as error:
                return (type(error), str(error))

        return run

    sizes = {name: len(ids) for name, ids in lists.items()}
    replace = {name: caught(lambda end, ids=ids: ecdh.party(end, ids, sizes, limit)) for name, ids in lists.items()}
    replace["coordinator"] = caught(lambda end: ecdh.coordinator(end, sizes, limit))
    return play(lists, limit, replace)


@pytest.fixture(scope="module")
def recorded():
    """One run of three parties: results, deliveries, and the frames as a relay sees them."""
    seen, frames = [], []
    lists = {"bank": people(0, 40), "shop": people(10, 60), "biller": people(20, 45)}
    found = play(lists, observe=seen.append, frames=frames)
    return lists, found, [d for d in seen if not d.message.startswith("greeting.")], frames


def test_three_parties(recorded):
    lists, found, _, _ = recorded
    assert found["coordinator"] == 20
    for name, ids in lists.items():
        assert [ids[i] for i in found[name]] == people(20, 40)


def test_transcript_is_the_wire_table(recorded):
    _, _, seen, _ = recorded
    steps = [(d.message, d.sender, d.receiver) for d in seen]
    ring = [("bank", "shop"), ("shop", "biller"), ("biller", "bank")]
    expected = [("ecdh.points", *hop) for hop in ring for _ in range(2)]
    expected += [("ecdh.tags", name, "coordinator") for name, _ in ring]
    expected += [("ecdh.matches", "coordinator", name) for name, _ in ring]
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
    hidden = [row.tobytes() for d in seen if isinstance(d.payload, Points) for row in d.payload.body]
    assert len(hidden) == 2 * sum(map(len, lists.values()))
    assert not any(point[: ecdh.TAG_BYTES] in relayed for point in hidden)
    assert {type(d.payload) for d in seen if d.receiver == "coordinator"} == {Tags}


def test_no_party_holds_two_lists_under_the_same_keys(recorded):
    _, _, seen, _ = recorded
    for name in NAMES:
        received = [d.payload.body for d in seen if d.receiver == name and isinstance(d.payload, Points)]
        assert not curve.repeats(np.concatenate(received))


def test_fresh_secrets_and_fresh_order():
    lists = {"bank": people(0, 200), "shop": people(0, 200)}
    tags = []
    for _ in range(2):
        seen = []
        play(lists, observe=seen.append)
        tags.append({d.sender: d.payload.body for d in seen if isinstance(d.payload, Tags)})
    both = np.concatenate([tags[0]["bank"], tags[1]["bank"]])
    assert not curve.repeats(both)
    # The two lists of one run hold the same tags, each in its owner's order.
    orders = [curve.as_keys(tags[0][name]) for name in ("bank", "shop")]
    assert set(orders[0]) == set(orders[1])
    assert (orders[0] != orders[1]).any()


def test_shuffle_is_even():
    firsts = [int(ecdh._random_order(4)[0]) for _ in range(800)]
    assert all(130 < firsts.count(value) < 270 for value in range(4))


@pytest.mark.parametrize("common", [0, 1, 9])
def test_below_the_limit_all_roles_end_with_the_same_error(common):
    lists = {"bank": people(0, 20), "shop": people(20 - common, 40), "biller": people(20 - common, 50)}
    (verdict,) = set(outcomes(lists, Limit(10)).values())
    assert verdict[0] is DataError
    assert "fewer than min_intersection" in verdict[1]
    assert "no common ids" in verdict[1]
    assert "expected at least min_intersection = 10" in verdict[1]


def test_below_the_limit_the_number_is_not_told():
    """One true id among made-up ones: whether the others hold it changes nothing that its owner sees."""

    def probe(true_id):
        seen = []
        lists = {"bank": [true_id, *people(100, 119)], "shop": people(0, 50)}
        with pytest.raises(DataError) as refused:
            play(lists, Limit(10), observe=seen.append)
        told = [d.payload for d in seen if d.receiver == "bank" and isinstance(d.payload, Revealed)]
        return str(refused.value), [payload.facts for payload in told], [len(payload.values) for payload in told]

    assert probe(b"person number 7") == probe(b"nobody")


@pytest.mark.parametrize(
    ("common", "text"), [(0, "no common ids"), (3, "got 3, expected at least min_intersection = 10")]
)
def test_on_one_machine_the_number_is_told(common, text):
    lists = {"bank": people(0, 20), "shop": people(20 - common, 40)}
    (verdict,) = set(outcomes(lists, Limit(10, tell_small_count=True)).values())
    assert text in verdict[1]


def test_exactly_the_limit_is_enough():
    assert play({"bank": people(0, 20), "shop": people(10, 40)}, Limit(10))["coordinator"] == 10


def good_points(count=30):
    return curve.hash_and_mask(people(0, count), curve.fresh_secret()).copy()


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
        play({"bank": people(0, 30), "shop": people(0, 30)}, replace={"shop": shop})


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
        judge.send(Wire.tags, Tags(np.ascontiguousarray(rows(good_points()[:, : ecdh.TAG_BYTES]))))

    with pytest.raises(RemoteProtocolError, match=f"shop sent .*{text}"):
        play({"bank": people(0, 30), "shop": people(0, 30)}, replace={"shop": shop})


VERDICTS = {
    "out of range": ({"enough": True, "common": 3}, [0, 1, 30]),
    "negative": ({"enough": True, "common": 3}, [-1, 1, 2]),
    "repeated": ({"enough": True, "common": 3}, [1, 1, 2]),
    "descending": ({"enough": True, "common": 3}, [2, 1, 0]),
    "fractional": ({"enough": True, "common": 3}, [0, 0.5, 1]),
    "nan": ({"enough": True, "common": 3}, [0, float("nan"), 2]),
    "infinite": ({"enough": True, "common": 3}, [0, 1, float("inf")]),
    "wrong count": ({"enough": True, "common": 4}, [0, 1, 2]),
    "below the limit": ({"enough": True, "common": 1}, [0]),
    "no verdict": ({}, [0, 1, 2]),
    "both": ({"enough": False}, [0, 1, 2]),
    "refused above the limit": ({"enough": False, "common": 9}, []),
    "text": ({"enough": "yes", "common": 3}, [0, 1, 2]),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_contradictory_verdicts_name_the_coordinator(case):
    facts, values = VERDICTS[case]

    def judge(end):
        links = [end.link(Coordinator, DataParty, name) for name in ("bank", "shop")]
        for link in links:
            link.recv(Wire.tags)
        for link in links:
            link.send(Wire.matches, Revealed(facts, np.array(values, np.float64)))

    with pytest.raises(RemoteProtocolError, match="coordinator sent a verdict"):
        play({"bank": people(0, 30), "shop": people(0, 30)}, Limit(2), replace={"coordinator": judge})


def test_threads_find_the_same(monkeypatch):
    monkeypatch.setattr(curve, "_CHUNK", 16)
    sizes = {"bank": 100, "shop": 80}
    lists = {"bank": people(0, 100), "shop": people(50, 130)}
    found = play(
        lists,
        replace={
            name: lambda end, ids=ids: ecdh.party(end, ids, sizes, Limit(1), workers=3) for name, ids in lists.items()
        },
    )
    assert found["bank"].tolist() == list(range(50, 100))
    assert found["shop"].tolist() == list(range(50))


def test_tag_length():
    ecdh.check_tag_length({"bank": 2**28, "shop": 2**28})
    with pytest.raises(ConfigError, match="tags have 96 bits, lists of these lengths need 97"):
        ecdh.check_tag_length({"bank": 2**29, "shop": 2**28})
    with pytest.raises(ConfigError, match="got 1 parties"):
        ecdh.check_tag_length({"bank": 10})


def test_join_ignores_what_only_some_hold():
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 256, (50, 12), np.uint8)
    pool[:, 11] = 0  # keys that end in zero bytes are still compared whole
    found = ecdh.join({"a": pool[:30], "b": pool[20:], "c": pool[[25, 5, 29, 40]]})
    assert found["a"].tolist() == [25, 29]
    assert found["b"].tolist() == [5, 9]
    assert found["c"].tolist() == [0, 2]
