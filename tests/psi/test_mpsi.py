"""Several parties and no trust in the coordinator: result, transcript, what each role sees, malformed messages."""

import hashlib
import math
import os
import re
from contextlib import contextmanager
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.errors import ConfigError, DataError, LocalProtocolError, RemoteProtocolError
from parties.link import Link
from parties.local import run_local
from parties.wire import Blinded, DataParty, Message, Tags
from psi import base_ot, mpsi, okvs, oprf
from psi.elements import elements_of
from psi.lists import as_keys, repeats
from psi.mpsi import BLOCK_BYTES, Cast, Wire, cast_of, tag_bytes
from psi.oprf import Received
from psi.settings import AlignmentSettings, check_parties
from tests.psi.exchanges import common_ids, exchange, outcomes, people, plays_of, roles_of

MPSI = AlignmentSettings(protocol="mpsi", min_intersection=1)
LISTS = {"bank": people(0, 60), "shop": people(20, 70), "post": people(10, 45), "news": people(25, 95)}
"""All four hold 25 to 44; post leads, shop deals, bank mixes."""


class Ideal:
    """What `psi.oprf` is to compute, computed by somebody whom all trust: quick, and to be looked at."""

    def __init__(self, keys=None):
        self.keys = {} if keys is None else keys

    def value(self, pair, element, function, width):
        key = self.keys.setdefault(pair, os.urandom(32))
        return hashlib.blake2b(bytes([function]) + element.tobytes(), digest_size=width, key=key).digest()

    def values(self, pair, elements, functions, width):
        rows = [self.value(pair, row, int(f), width) for row, f in zip(elements, functions, strict=True)]
        return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, width)

    def receive(self, endpoint, peer, elements, *, sender_count, width, part, workers=1):
        functions = np.frombuffer(os.urandom(len(elements)), np.uint8) % 3
        return Received(functions, self.values((endpoint.name, peer, part), elements, functions, width))

    def send(self, endpoint, peer, *, sender_count, receiver_count, width, part, workers=1):
        ideal, pair = self, (peer, endpoint.name, part)

        class Evaluator:
            def evaluate_all(self, elements):
                count = len(elements)
                return np.concatenate(
                    [ideal.values(pair, elements, np.full(count, f), width) for f in range(3)], axis=1
                )

        return Evaluator()


@contextmanager
def ideal_oprf():
    ideal = Ideal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oprf, "receive", ideal.receive)
        patch.setattr(oprf, "send", ideal.send)
        yield ideal


@pytest.fixture
def ideal():
    with ideal_oprf() as found:
        yield found


def in_all(lists):
    return set.intersection(*map(set, lists.values()))


@pytest.fixture(scope="module")
def recorded():
    """One run of four parties with the true OPRF: results, deliveries, and the frames as a relay sees them."""
    seen, frames = [], []
    found = exchange(LISTS, MPSI, observe=seen.append, frames=frames)
    return found, seen, frames


def test_four_parties(recorded):
    found, _, _ = recorded
    assert found["coordinator"] == 20
    assert common_ids(LISTS, found) == dict.fromkeys(LISTS, people(25, 45))


def test_transcript_is_the_wire_table(recorded):
    _, seen, _ = recorded
    steps = [(d.message, d.sender, d.receiver) for d in seen if d.message.startswith("mpsi.")]
    expected = [("mpsi.table", name, "post") for name in ("bank", "shop", "news")]
    expected += [("mpsi.dealt", "shop", "bank")]
    expected += [("mpsi.tags", name, "coordinator") for name in ("post", "bank")]
    expected += [("mpsi.common", "post", name) for name in ("bank", "shop", "news")]
    assert sorted(steps) == sorted(expected)
    tables = (mpsi.Wire, oprf.Wire, base_ot.Wire)
    kinds = {m.name: m.payload for table in tables for m in vars(table).values() if isinstance(m, Message)}
    played = [d for d in seen if not d.message.startswith(("greeting.", "verdict."))]
    assert all(type(d.payload) is kinds[d.message] for d in played)
    assert {d.message for d in played} == set(kinds)


def test_nothing_about_ids_is_told_before_the_verdict(recorded):
    """All that the coordinator and the leader say about what is common comes after all tags."""
    _, seen, _ = recorded
    order = [d.message for d in seen]
    first = order.index("verdict.verdict")
    assert {"verdict.matches", "mpsi.common"} <= set(order[first:])
    assert not {"verdict.matches", "mpsi.common"} & set(order[:first])
    assert "mpsi.tags" not in order[first:]


def test_docstring_lists_what_is_disclosed():
    leakage = " ".join(mpsi.__doc__.partition("*Leakage*")[2].partition("*Threat")[0].split())
    listed = dict(re.findall(r"- ``(\w+)``, to [\w ]+: ([^.]+)\.", leakage))
    declared = {key: m.discloses for key, m in vars(Wire).items() if isinstance(m, Message) and m.discloses}
    assert listed == declared
    assert not [m for m in (*vars(oprf.Wire).values(), *vars(base_ot.Wire).values()) if getattr(m, "discloses", "")]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_equals_the_plain_sets(data):
    parties = data.draw(st.integers(2, 5))
    ids = st.integers(0, 12).map(lambda i: b"person %d" % i)
    names = ["bank", "shop", "post", "news", "club"][:parties]
    lists = {name: data.draw(st.lists(ids, min_size=1, max_size=12, unique=True)) for name in names}
    common = in_all(lists)
    with ideal_oprf():
        if not common:
            assert {kind for kind, _ in outcomes(lists, MPSI).values()} == {DataError}
            return
        found = exchange(lists, MPSI)
    assert found["coordinator"] == len(common)
    for name, listed in common_ids(lists, found).items():
        assert listed == [one for one in lists[name] if one in common]


@pytest.mark.parametrize(
    ("names", "leader"),
    [("bank shop", "bank"), ("bank shop", "shop"), ("bank post shop", "bank"), ("bank post shop", "shop")],
)
def test_anybody_leads_with_the_true_oprf(names, leader):
    lists = {name: people(30, 50) if name == leader else people(0, 45) for name in names.split()}
    found = exchange(lists, MPSI)
    assert cast_of({name: len(ids) for name, ids in lists.items()}).leader == leader
    assert common_ids(lists, found) == dict.fromkeys(lists, people(30, 45))


@pytest.mark.parametrize("count", [1, 2])
def test_tiny_lists(count):
    lists = {name: people(0, count) for name in ("bank", "shop", "post")}
    assert exchange(lists, MPSI)["coordinator"] == count


def test_unequal_lists():
    lists = {"bank": people(0, 3000), "shop": people(2999, 3002), "post": people(2998, 3500)}
    found = exchange(lists, MPSI, workers=2)
    assert common_ids(lists, found) == dict.fromkeys(lists, people(2999, 3000))


@pytest.mark.parametrize("pad_to", [None, 90])
def test_buckets_and_dummies(ideal, pad_to):
    lists = dict(list(LISTS.items())[:3])
    seen = []
    found = exchange(
        lists, AlignmentSettings(protocol="mpsi", min_intersection=1, bucket_ids=20, pad_to=pad_to), observe=seen.append
    )
    assert {name: sorted(ids) for name, ids in common_ids(lists, found).items()} == dict.fromkeys(
        lists, sorted(people(20, 45))
    )
    buckets = sum(d.message == "mpsi.dealt" for d in seen)
    assert buckets > 2
    assert sum(d.message == "mpsi.common" for d in seen) == 2 * buckets
    if pad_to:
        assert len({d.payload.body.shape for d in seen if d.message == "mpsi.table"}) == 1


def test_only_the_number(ideal):
    seen = []
    found = exchange(
        LISTS, AlignmentSettings(protocol="mpsi", min_intersection=1, cardinality=True), observe=seen.append
    )
    assert found["coordinator"] == 20
    assert all(found[name].common == 20 and not len(found[name].own) for name in LISTS)
    assert not {"mpsi.common", "verdict.matches"} & {d.message for d in seen}


def test_below_the_limit_nobody_learns_more(ideal):
    limited = AlignmentSettings(protocol="mpsi", min_intersection=21)
    (end,) = set(outcomes(LISTS, limited).values())
    assert end[0] is DataError
    assert "fewer than min_intersection" in end[1]
    assert "20" not in end[1]


def test_one_sided_is_refused():
    with pytest.raises(ConfigError, match="one_sided in .*'mpsi', expected"):
        check_parties("mpsi", one_sided=True, parties=2)


def test_who_does_what():
    assert cast_of({"bank": 9, "shop": 5, "post": 5, "news": 7}) == Cast(
        "shop", "post", "news", ("post", "news", "bank")
    )
    assert cast_of({"bank": 3, "shop": 3}) == Cast("bank", "shop", None, ("shop",))
    with pytest.raises(ConfigError, match="got 1 parties, expected at least two"):
        cast_of({"bank": 3})


@pytest.mark.parametrize("count", [1, 100, 10**6, 2**26])
def test_tags_are_as_long_as_they_must_be(count):
    sizes = {"bank": 8 * count, "shop": count, "post": 4 * count}
    values = 5 * count  # the leader's and the dealer's
    chance = 3 * math.comb(values, 2)
    width = tag_bytes(sizes)
    assert chance * 2 ** (40 - 8 * width) <= 1 < chance * 2 ** (48 - 8 * width)


def test_lists_too_long_for_tags():
    with pytest.raises(ConfigError, match="tags have up to 16 bytes, lists of these lengths need 17"):
        tag_bytes({"bank": 2**45, "shop": 2**44, "post": 2**44})


def tags_of(seen):
    """The coordinator's two lists: the leader's, and that of the dealer's ids."""
    return [d.payload.body for d in sorted(seen, key=lambda d: d.sender != "post") if d.message == "mpsi.tags"]


def test_coordinator_sees_one_number(recorded):
    """Bank, shop and post share 25 more ids in pairs and threes: in the tags all but the common ones are alone."""
    _, seen, frames = recorded
    leader, mixed = tags_of(seen)
    assert leader.shape == (35, tag_bytes({"post": 35, "shop": 50}))
    assert len(mixed) == 50
    assert not repeats(leader)
    assert not repeats(mixed)
    assert len(np.intersect1d(as_keys(leader), as_keys(mixed))) == 20
    for sender in ("shop", "news"):  # neither the dealer nor the last party shows it any list
        assert not [d for d in seen if (d.sender, d.receiver) == (sender, "coordinator") and d.message == "mpsi.tags"]
    relayed = b"|".join(bytes(frame.body) for frame in frames)
    for ids in LISTS.values():
        assert not any(name in relayed for name in ids)
        assert not any(row.tobytes()[:8] in relayed for row in elements_of(ids))
    hidden = [row.tobytes() for d in seen if d.message in ("mpsi.dealt", "mpsi.common") for row in d.payload.body]
    assert len(hidden) == 50 + 3 * 20
    assert not any(row[:8] in relayed for row in hidden)


def test_nothing_repeats_from_run_to_run(ideal):
    rows = []
    for _ in range(2):
        seen = []
        ideal.keys.clear()
        exchange(LISTS, MPSI, observe=seen.append)
        leader, mixed = tags_of(seen)
        rows.append(np.unique(np.concatenate([leader, mixed]), axis=0))
    assert len(rows[0]) == 35 + 50 - 20
    assert not repeats(np.concatenate(rows))


def test_nothing_repeats_from_bucket_to_bucket(ideal, monkeypatch):
    """The same ids in two parts: other shares, other tags; and no part is played twice."""
    ids = elements_of(people(0, 40))
    sizes = dict.fromkeys(("bank", "shop", "post", "news"), 40)
    seen, shares = [], []
    known = mpsi._open
    monkeypatch.setattr(mpsi, "_open", lambda *args: (shares.append(known(*args)), shares[-1])[1])

    def play(end, parts):
        for part in parts:
            mpsi.party(end, ids, sizes, part=part)

    def run(parts):
        plays = {name: lambda end: play(end, parts) for name in sizes}
        plays["coordinator"] = lambda end: [mpsi.coordinator(end, sizes, part=part) for part in parts]
        run_local(plays, roles=roles_of(sizes), observe=seen.append)

    run([0, 1])
    first, second = (d.payload.body for d in seen if d.message == "mpsi.tags" and d.sender == "bank")
    assert not repeats(np.concatenate([first, second]))
    assert len(shares) == 6
    assert not repeats(np.concatenate(shares))
    assert not repeats(np.concatenate([shares[1] ^ shares[2], shares[4] ^ shares[5]]))  # all but the dealer's
    with pytest.raises(LocalProtocolError, match="taken before"):
        run([3, 3])


def opened(lists, monkeypatch):
    """What the leader has of each other party for each of its ids, and the tags that the coordinator has."""
    shares, seen = {}, []
    known = mpsi._open

    def spy(endpoint, elements, name, count, received, part):
        shares[name] = known(endpoint, elements, name, count, received, part)
        return shares[name]

    monkeypatch.setattr(mpsi, "_open", spy)
    exchange(lists, MPSI, observe=seen.append)
    monkeypatch.setattr(mpsi, "_open", known)
    return shares, seen


HOLDERS = [held for k in range(4) for held in combinations(("shop", "news", "bank"), k)]


def lists_by_holders(each):
    """The leader's ids, ``each`` for every set of others that hold them; others' lists are longer."""
    ids = {held: people(1000 * i, 1000 * i + each) for i, held in enumerate(HOLDERS)}
    lists = {"post": [one for group in ids.values() for one in group]}
    for number, name in enumerate(("shop", "news", "bank")):
        own = people(100_000 * (number + 1), 100_000 * (number + 1) + 5 * each + number)
        lists[name] = own + [one for held, group in ids.items() if name in held for one in group]
    return lists


def test_leader_sees_random_shares_whoever_holds_its_ids(ideal, monkeypatch):
    """Every sum of some shares, of ids that any set of parties holds, is even and new in each run."""
    each = 40
    lists = lists_by_holders(each)
    runs = []
    for _ in range(2):
        ideal.keys.clear()
        runs.append(opened(lists, monkeypatch)[0])
    for group in range(len(HOLDERS)):
        rows = slice(group * each, (group + 1) * each)
        for size in (1, 2, 3):
            for some in combinations(("shop", "news", "bank"), size):
                sums = [np.bitwise_xor.reduce([run[name][rows] for name in some]) for run in runs]
                assert not repeats(np.concatenate(sums))
                ones = np.unpackbits(np.concatenate(sums)).mean()
                assert abs(ones - 0.5) < 0.045  # seven standard deviations


def test_shares_of_one_id_are_the_same_function_at_all(ideal, monkeypatch):
    """The control of the test above: for ids of all, and only for them, the sum is what the dealer drew."""
    targets = []
    known = mpsi._deal
    monkeypatch.setattr(mpsi, "_deal", lambda end, cast, t, part: (targets.append(t), known(end, cast, t, part))[1])
    each = 5
    lists = lists_by_holders(each)
    assert cast_of({name: len(ids) for name, ids in lists.items()}).dealer == "shop"
    shares, _ = opened(lists, monkeypatch)
    total = np.bitwise_xor.reduce([shares[name] for name in ("shop", "news", "bank")])
    drawn = {one: row.tobytes() for one, row in zip(lists["shop"], targets[0], strict=True)}
    same = [drawn.get(one) == row.tobytes() for one, row in zip(lists["post"], total, strict=True)]
    assert same == [False] * (7 * each) + [True] * each


def masks(monkeypatch):
    """Every mask that is put on tags in a run, with its key: (tags, masked, key)."""
    found = []
    known = mpsi._masked

    def spy(tags, key):
        found.append((tags, known(tags, key), key))
        return found[-1][1]

    monkeypatch.setattr(mpsi, "_masked", spy)
    return found


def among(rows, *lists):
    """How many of the rows are in some of the lists."""
    return int(np.isin(as_keys(rows), np.concatenate([as_keys(one) for one in lists])).sum())


def test_coordinator_with_the_dealer_or_the_mixer_recognises_nothing(ideal, monkeypatch):
    """What either can compute stands on no list of the coordinator; with both keys all of it does."""
    found, seen = masks(monkeypatch), []
    exchange(LISTS, MPSI, observe=seen.append)
    leader, mixed = tags_of(seen)
    (dealt,) = [d.payload.body for d in seen if d.message == "mpsi.dealt"]
    ((targets, under_dealer, dealer_key),) = [one for one in found if among(one[1], dealt) == 50]
    (mixer_key,) = {key for _, _, key in found} - {dealer_key}
    for known in (targets, under_dealer, mpsi._masked(targets, mixer_key)):
        assert among(known, leader, mixed) == 0
    both = mpsi._masked(under_dealer, mixer_key)
    assert among(both, mixed) == 50
    assert among(both, leader) == 20


def test_each_hand_shuffles(ideal, monkeypatch):
    """Neither the dealer nor the coordinator finds rows where the one before had them."""
    found, seen = masks(monkeypatch), []
    exchange(LISTS, MPSI, observe=seen.append)
    leader, mixed = tags_of(seen)
    (dealt,) = [d.payload.body for d in seen if d.message == "mpsi.dealt"]
    under_dealer, under_both = (out for tags, out, _ in found if len(tags) == 50)
    led = next(out for _, out, _ in found if len(out) == 35 and among(out, leader))
    for before, after in ((under_dealer, dealt), (under_both, mixed), (led, leader)):
        assert among(before, after) == len(before)
        assert (before == after).all(axis=1).sum() < 10


def test_two_parties_have_the_dealer_alone(ideal):
    """As the docstring says: without a mixer what the dealer computes is what the coordinator has."""
    seen = []
    exchange({"bank": people(0, 30), "shop": people(10, 50)}, MPSI, observe=seen.append)
    assert {(d.message, d.sender) for d in seen if d.receiver == "coordinator" and d.message.startswith("mpsi.")} == {
        ("mpsi.tags", "bank"),
        ("mpsi.tags", "shop"),
    }
    assert not [d for d in seen if d.message == "mpsi.dealt"]


def test_tables_are_random_rows(recorded):
    _, seen, _ = recorded
    tables = [d.payload.body for d in seen if d.message == "mpsi.table"]
    sizes = [len(LISTS[d.sender]) for d in seen if d.message == "mpsi.table"]
    assert [len(table) for table in tables] == [okvs.table_rows(size) for size in sizes]
    assert not repeats(np.concatenate(tables))
    assert abs(np.unpackbits(np.concatenate(tables)).mean() - 0.5) < 0.02


@contextmanager
def altered(message, change):
    """Every payload of one message goes out changed."""
    known = Link.send

    def send(link, sent, payload):
        if sent is message:
            payload = type(payload)(np.ascontiguousarray(change(payload.body.copy())))
        known(link, sent, payload)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Link, "send", send)
        yield


SHAPES = {
    "one row too few": lambda rows: rows[:-1],
    "one row too many": lambda rows: np.concatenate([rows, rows[-1:] + 1]),
    "none": lambda rows: rows[:0],
    "truncated": lambda rows: rows[:, :-1],
    "flat": lambda rows: rows.ravel(),
}
TWICE = {"twice the same": lambda rows: np.concatenate([rows[:-1], rows[:1]])}
THREE = {"bank": people(0, 60), "shop": people(20, 70), "post": people(10, 45)}


@pytest.mark.parametrize("case", SHAPES)
def test_malformed_tables_name_their_sender(ideal, case):
    with altered(Wire.table, SHAPES[case]), pytest.raises(RemoteProtocolError, match=r"shop sent a table of shape"):
        exchange(THREE, MPSI)


@pytest.mark.parametrize("case", SHAPES | TWICE)
def test_malformed_dealings_name_the_dealer(ideal, case):
    text = "occurs twice" if case in TWICE else "of shape"
    with (
        altered(Wire.dealt, (SHAPES | TWICE)[case]),
        pytest.raises(RemoteProtocolError, match=f"shop sent a list .*{text}"),
    ):
        exchange(THREE, MPSI)


@pytest.mark.parametrize("case", SHAPES | TWICE)
@pytest.mark.parametrize(("sender", "rows"), [("post", 35), ("bank", 50)])
def test_malformed_tags_name_their_sender(ideal, case, sender, rows):
    def change(tags):
        return (SHAPES | TWICE)[case](tags) if len(tags) == rows else tags

    text = "occurs twice" if case in TWICE else "of shape"
    with altered(Wire.tags, change), pytest.raises(RemoteProtocolError, match=f"{sender} sent a list .*{text}"):
        exchange(THREE, MPSI)


SPREADS = {
    "unknown": (lambda tags: np.concatenate([tags[:-1], tags[-1:] ^ 1]), "says that ids are common which .* not have"),
    "repeated": (lambda tags: np.concatenate([tags[:-1], tags[:1]]), "sent a list .* occurs twice"),
    "too few": (lambda tags: tags[:-1], "told which 24 ids are common, coordinator that 25 are"),
    "none": (lambda tags: tags[:0], "told which 0 ids are common, coordinator that 25 are"),
    "too many": (
        lambda tags: np.concatenate([tags, np.frombuffer(os.urandom(16 * 100), np.uint8).reshape(100, 16)]),
        r"sent a list of shape \(125, 16\)",
    ),
    "truncated": (lambda tags: tags[:, :-1], r"sent a list of shape \(25, 15\)"),
    "flat": (lambda tags: tags.ravel(), r"sent a list of shape \(400,\)"),
}


@pytest.mark.parametrize("case", SPREADS)
def test_wrong_words_about_what_is_common_name_the_leader(ideal, case):
    change, text = SPREADS[case]
    with altered(Wire.common, change), pytest.raises(RemoteProtocolError, match=f"post {text}"):
        exchange(THREE, MPSI)


def test_an_id_more_than_judged_names_the_leader(ideal):
    """The leader adds an id that the other party does hold."""
    known = mpsi.tell_common
    more = elements_of(people(50, 51))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            mpsi, "tell_common", lambda end, elements, others: known(end, np.concatenate([elements, more]), others)
        )
        with pytest.raises(RemoteProtocolError, match="post told which 26 ids are common, coordinator that 25 are"):
            exchange(THREE, MPSI)


def test_common_tags_are_sorted_and_of_one_pair(recorded):
    _, seen, _ = recorded
    told = [d.payload.body for d in seen if d.message == "mpsi.common"]
    assert all(tags.shape == (20, BLOCK_BYTES) for tags in told)
    assert not repeats(np.concatenate(told))
    for tags in told:
        assert tags.tolist() == sorted(tags.tolist())


@pytest.mark.parametrize(
    ("early", "payload"),
    [(Wire.table, Blinded(np.zeros((5, 5), np.uint8))), (Wire.common, Tags(np.zeros((5, 16), np.uint8)))],
)
def test_messages_out_of_order_name_their_sender(early, payload):
    def shop(end):
        end.link(DataParty, DataParty, "post").send(early, payload)

    with pytest.raises(RemoteProtocolError, match=f"shop sent '{early.name}' number"):
        exchange(THREE, MPSI, {"shop": shop})


def test_mixer_names_a_dealer_that_sends_something_else(ideal):
    known = plays_of(THREE, MPSI)["shop"]

    def shop(end):
        end.link(DataParty, DataParty, "bank").send(Wire.common, Tags(np.zeros((1, 16), np.uint8)))
        return known(end)

    with pytest.raises(RemoteProtocolError, match=r"shop sent 'mpsi.common' number .* where 'mpsi.dealt'"):
        exchange(THREE, MPSI, {"shop": shop})
