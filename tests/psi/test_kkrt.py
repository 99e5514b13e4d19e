"""Two parties with long lists: transcript, sizes of messages, what each role sees, malformed lists."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.errors import ConfigError, DataError, RemoteProtocolError
from parties.wire import Blinded, Coordinator, DataParty, Message, Points, Tags
from psi import kkrt, oprf
from psi.cuckoo import bin_count
from psi.elements import elements_of
from psi.kkrt import Wire, roles, tag_bytes
from psi.lists import repeats
from psi.oprf import receive, send
from psi.ot_extension import code_bits
from psi.settings import AlignmentSettings
from tests.psi.exchanges import common_ids, exchange, outcomes, people

KKRT = AlignmentSettings(protocol="kkrt", min_intersection=1)
LISTS = {"bank": people(0, 40), "shop": people(15, 75)}
SIZES = {"bank": 40, "shop": 60}


def protocol_steps(seen):
    return [d for d in seen if d.message.startswith(("kkrt.", "oprf.", "base_ot."))]


@pytest.fixture(scope="module")
def recorded():
    """One run: results, deliveries, and the frames as a relay sees them."""
    seen, frames = [], []
    found = exchange(LISTS, KKRT, observe=seen.append, frames=frames)
    return found, protocol_steps(seen), frames


def test_what_is_common(recorded):
    found, _, _ = recorded
    assert found["coordinator"] == 25
    assert common_ids(LISTS, found) == {"bank": people(15, 40), "shop": people(15, 40)}


def test_transcript_is_the_wire_table(recorded):
    _, seen, _ = recorded
    assert [(d.message, d.sender, d.receiver, type(d.payload)) for d in seen] == [
        ("base_ot.opening", "bank", "shop", Points),
        ("base_ot.answers", "shop", "bank", Points),
        ("oprf.seed", "bank", "shop", Blinded),
        ("oprf.rows", "bank", "shop", Blinded),
        ("kkrt.tags", "bank", "coordinator", Tags),
        ("kkrt.tags", "shop", "coordinator", Tags),
    ]
    assert {m.name for m in vars(Wire).values() if isinstance(m, Message)} == {"kkrt.tags"}


def test_docstring_lists_what_is_disclosed():
    leakage = " ".join(kkrt.__doc__.partition("*Leakage*")[2].partition("*Threat")[0].split())
    listed = dict(re.findall(r"- ``(\w+)``, to [\w ]+: ([^.]+)\.", leakage))
    assert listed == {key: m.discloses for key, m in vars(Wire).items() if isinstance(m, Message) and m.discloses}


def test_coordinator_sees_no_ids_and_no_rows(recorded):
    _, seen, frames = recorded
    relayed = b"|".join(bytes(frame.body) for frame in frames)
    for ids in LISTS.values():
        assert not any(name in relayed for name in ids)
        assert not any(row.tobytes()[:8] in relayed for row in elements_of(ids))
    hidden = [row.tobytes() for d in seen if isinstance(d.payload, Blinded) for row in d.payload.body]
    assert len(hidden) > 40
    assert not any(row[:12] in relayed for row in hidden)


def test_tags_look_random_and_one_of_three_is_common(recorded):
    _, seen, _ = recorded
    bank, shop = (d.payload.body for d in seen[-2:])
    width = tag_bytes(SIZES)
    assert bank.shape == (40, width)
    assert shop.shape == (60, 3 * width)
    everything = np.concatenate([bank, shop.reshape(-1, width)])
    assert abs(np.unpackbits(everything).mean() - 0.5) < 3.5 / (8 * everything.size) ** 0.5
    held = {row.tobytes() for row in bank}
    hits = [sum(row[i : i + width].tobytes() in held for i in (0, width, 2 * width)) for row in shop]
    assert sorted(hits) == [0] * 35 + [1] * 25


def test_fresh_tags_and_fresh_order():
    lists = {"bank": people(0, 100), "shop": people(0, 100)}
    runs = []
    for _ in range(2):
        seen = []
        exchange(lists, KKRT, observe=seen.append)
        runs.append([d.payload.body for d in protocol_steps(seen)[-2:]])
    assert not repeats(np.concatenate([runs[0][0], runs[1][0]]))
    assert not repeats(np.concatenate([run[1].reshape(-1, tag_bytes({"bank": 100, "shop": 100})) for run in runs]))
    for bank, shop in runs:
        place = {row.tobytes(): i for i, row in enumerate(bank)}
        tags = [row.tobytes() for row in shop.reshape(-1, bank.shape[1])]
        found = [place[tag] for tag in tags if tag in place]
        assert sorted(found) == list(range(100))
        assert found != sorted(found)


@pytest.mark.parametrize(
    ("bank", "shop"),
    [((0, 1), (0, 1)), ((0, 1), (0, 1000)), ((0, 1000), (999, 1000)), ((0, 30), (0, 30)), ((0, 3000), (1, 4))],
    ids=["1 of 1", "1 of 1000", "1000 to 1", "all", "3000 to 3"],
)
def test_unequal_lists(bank, shop):
    lists = {"bank": people(*bank), "shop": people(*shop)}
    common = people(max(bank[0], shop[0]), min(bank[1], shop[1]))
    assert common_ids(lists, exchange(lists, KKRT)) == {"bank": common, "shop": common}


@pytest.mark.parametrize("count", [1, 30])
def test_nothing_in_common(count):
    (verdict,) = set(outcomes({"bank": people(0, count), "shop": people(count, 2 * count)}, KKRT).values())
    assert verdict[0] is DataError
    assert "no common ids" in verdict[1]


@settings(max_examples=8, deadline=None)
@given(st.sets(st.integers(0, 40), min_size=1), st.sets(st.integers(0, 40), min_size=1))
def test_same_as_sets(bank, shop):
    bank, shop = bank | {99}, shop | {99}  # with nothing in common there is no list to compare
    lists = {"bank": [b"%d" % i for i in bank], "shop": [b"%d" % i for i in shop]}
    for names in common_ids(lists, exchange(lists, KKRT)).values():
        assert sorted(names) == sorted(b"%d" % i for i in bank & shop)


@pytest.mark.parametrize("more", [{"pad_to": 80}, {"bucket_ids": 20}, {"pad_to": 90, "bucket_ids": 25}], ids=str)
def test_padded_and_in_buckets(more):
    told = AlignmentSettings(protocol="kkrt", min_intersection=1, **more)
    assert common_ids(LISTS, exchange(LISTS, told)) == {"bank": people(15, 40), "shop": people(15, 40)}


@pytest.mark.parametrize("lists", [LISTS, {"bank": LISTS["shop"], "shop": LISTS["bank"]}], ids=["shorter", "longer"])
def test_the_active_party_alone_learns(lists):
    """Whether it receives or sends."""
    found = exchange(lists, AlignmentSettings(protocol="kkrt", min_intersection=1, one_sided=True))
    assert common_ids({"bank": lists["bank"]}, found) == {"bank": people(15, 40)}
    assert found["shop"].common == 0
    theirs = [lists["shop"][i] for i in found["shop"].own]
    assert sorted(theirs) == sorted(lists["shop"])
    assert [theirs[place] for place in found["bank"].places] == people(15, 40)


def test_cardinality():
    found = exchange(LISTS, AlignmentSettings(protocol="kkrt", min_intersection=1, cardinality=True))
    assert {found["coordinator"], found["bank"].common, found["shop"].common} == {25}
    assert not len(found["bank"].own)


@pytest.mark.parametrize("workers", [1, 3])
def test_in_blocks_of_messages(monkeypatch, workers):
    monkeypatch.setattr(oprf, "_BLOCK_ROWS", 24)
    monkeypatch.setattr(oprf, "_PIECE_ROWS", 7)
    seen = []
    found = exchange(LISTS, KKRT, workers=workers, observe=seen.append)
    assert common_ids(LISTS, found) == {"bank": people(15, 40), "shop": people(15, 40)}
    sizes = [(d.sender, len(d.payload.body)) for d in seen if d.message == "kkrt.tags"]
    assert sizes == [("bank", 24), ("bank", 16), ("shop", 24), ("shop", 24), ("shop", 12)]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"bank": 5, "shop": 9}, ("bank", "shop")),
        ({"bank": 9, "shop": 5}, ("shop", "bank")),
        ({"bank": 7, "shop": 7}, ("bank", "shop")),
        ({"shop": 7, "bank": 7}, ("shop", "bank")),
    ],
    ids=["shorter first", "shorter second", "equal", "equal, other order"],
)
def test_the_shorter_list_receives(sizes, expected):
    assert roles(sizes) == expected


def test_two_parties_only():
    with pytest.raises(ConfigError, match="'kkrt': got 3 parties, expected two"):
        roles({"bank": 5, "shop": 9, "biller": 3})


@given(st.integers(1, 10**8), st.integers(1, 10**8))
def test_tags_are_long_enough_and_no_longer(one, other):
    width = tag_bytes({"bank": one, "shop": other})
    pairs = math.comb(min(one, other) + 3 * max(one, other), 2)
    assert pairs << 40 <= 1 << 8 * width
    assert width == 8 or pairs << 40 > 1 << 8 * (width - 1)


def test_a_million_ids_at_both_cost_less_than_120_bytes_each():
    rows, tags = bin_count(10**6) * code_bits(10**6) // 8, 4 * 10**6 * tag_bytes({"bank": 10**6, "shop": 10**6})
    assert rows + tags < 120 * 10**6


def shop_with(change):
    """The sender, whose tags are altered before they leave."""

    def shop(end):
        function = send(end, "bank", sender_count=60, receiver_count=40, width=tag_bytes(SIZES), part=0)
        rows = change(function.evaluate_all(elements_of(LISTS["shop"])).copy())
        end.link(DataParty, Coordinator, "coordinator").send(Wire.tags, Tags(np.ascontiguousarray(rows)))

    return {"shop": shop}


def bank_with(change):
    def bank(end):
        found = receive(end, "shop", elements_of(LISTS["bank"]), sender_count=60, width=tag_bytes(SIZES), part=0)
        rows = change(found.outputs.copy())
        end.link(DataParty, Coordinator, "coordinator").send(Wire.tags, Tags(np.ascontiguousarray(rows)))

    return {"bank": bank}


def twice(rows):
    rows[3] = rows[5]
    return rows


SWAPPED = {
    "sender, one too few": (shop_with, lambda rows: rows[:-1], r"shop sent .*shape \(59, 24\) .*expected \(60, 24\)"),
    "sender, truncated": (shop_with, lambda rows: rows[:, :-1], r"shop sent .*shape \(60, 23\)"),
    "sender, flat": (shop_with, np.ravel, r"shop sent .*shape \(1440,\)"),
    "sender, twice": (shop_with, twice, "shop sent .*occurs twice"),
    "receiver, one too many": (
        bank_with,
        lambda rows: np.concatenate([rows, rows[:1]]),
        r"bank sent .*shape \(41, 8\)",
    ),
    "receiver, truncated": (bank_with, lambda rows: rows[:, 1:], r"bank sent .*shape \(40, 7\)"),
    "receiver, twice": (bank_with, twice, "bank sent .*occurs twice"),
}


@pytest.mark.parametrize("case", SWAPPED)
def test_malformed_tags_name_their_sender(case):
    role, change, text = SWAPPED[case]
    with pytest.raises(RemoteProtocolError, match=text):
        exchange(LISTS, KKRT, role(change))


def test_a_row_of_tags_that_belong_to_two_ids_names_its_sender():
    """Two places of the receiver would have one place of the sender."""
    rng = np.random.default_rng(0)
    bank, shop = rng.integers(0, 256, (40, 8), np.uint8), rng.integers(0, 256, (60, 24), np.uint8)
    shop[7] = np.concatenate([bank[3], bank[9], shop[7, :8]])

    def script(tags):
        return lambda end: end.link(DataParty, Coordinator, "coordinator").send(Wire.tags, Tags(tags))

    with pytest.raises(RemoteProtocolError, match="shop sent rows of tags .*that belong to several ids"):
        exchange(LISTS, KKRT, {"bank": script(bank), "shop": script(shop)})
