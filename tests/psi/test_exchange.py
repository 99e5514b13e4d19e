"""What all protocols share: the verdict below the limit, padding, buckets, one-sided places, cardinality."""

import numpy as np
import pytest

from parties.errors import ConfigError, CryptoError, DataError, RemoteProtocolError
from parties.wire import Coordinator, DataParty, Revealed, Tags
from psi import ecdh, exchange, verdict
from psi.exchange import make_plan, warnings_of
from psi.settings import AlignmentSettings, check_parties, choose_protocol
from tests.psi.exchanges import ANY, common_ids, outcomes, people, public_sizes
from tests.psi.exchanges import exchange as play

LISTS = {"bank": people(0, 40), "shop": people(10, 60), "biller": people(20, 45)}
TWO = {"bank": people(0, 20), "shop": people(5, 40)}


@pytest.mark.parametrize("common", [0, 1, 9])
def test_below_the_limit_all_roles_end_with_the_same_error(common):
    lists = {"bank": people(0, 20), "shop": people(20 - common, 40), "biller": people(20 - common, 50)}
    (told,) = set(outcomes(lists, AlignmentSettings(min_intersection=10)).values())
    assert told[0] is DataError
    assert "fewer than min_intersection" in told[1]
    assert "no common ids" in told[1]
    assert "expected at least min_intersection = 10" in told[1]


@pytest.mark.parametrize("more", [{}, {"one_sided": True}, {"cardinality": True}], ids=["plain", "one-sided", "number"])
def test_below_the_limit_the_number_is_not_told(more):
    """One true id among made-up ones: whether the others hold it changes nothing that its owner sees."""

    def probe(true_id):
        seen = []
        lists = {"bank": [true_id, *people(100, 119)], "shop": people(0, 50)}
        with pytest.raises(DataError) as refused:
            play(lists, AlignmentSettings(min_intersection=10, **more), observe=seen.append)
        told = [d.payload for d in seen if d.receiver == "bank" and d.message.startswith("verdict.")]
        return str(refused.value), [(payload.facts, len(payload.values)) for payload in told]

    assert probe(b"person number 7") == probe(b"nobody")


@pytest.mark.parametrize(
    ("common", "text"),
    [(0, "no common ids"), (3, "got 3, expected at least min_intersection = 10")],
    ids=["none", "three"],
)
def test_on_one_machine_the_number_is_told(common, text):
    lists = {"bank": people(0, 20), "shop": people(20 - common, 40)}
    (told,) = set(outcomes(lists, AlignmentSettings(min_intersection=10, tell_small_count=True)).values())
    assert text in told[1]


def test_exactly_the_limit_is_enough():
    lists = {"bank": people(0, 20), "shop": people(10, 40)}
    assert play(lists, AlignmentSettings(min_intersection=10))["coordinator"] == 10


def test_a_lying_coordinator_cannot_name_dummies_common(monkeypatch):
    honest = ecdh.coordinator

    def all_places(end, sizes, **options):
        return {name: np.arange(60) for name in honest(end, sizes, **options)}

    monkeypatch.setattr(ecdh, "coordinator", all_places)
    with pytest.raises(RemoteProtocolError, match="coordinator says that dummies"):
        play(LISTS, AlignmentSettings(min_intersection=1, pad_to=60))


def test_contradictory_matches_end_every_party(monkeypatch):
    def judge(end):
        links = [end.link(Coordinator, DataParty, name) for name in TWO]
        for link in links:
            link.recv(ecdh.Wire.tags)
        for link in links:
            link.send(verdict.Wire.verdict, Revealed({"enough": True, "common": 3}, np.zeros(0)))
            verdict.tell_matches(end, link.peer, [len(TWO[link.peer])], [np.arange(4)])

    with pytest.raises(RemoteProtocolError, match="coordinator sent a verdict"):
        play(TWO, replace={"coordinator": judge})


# private sizes


def test_padding_hides_how_many_ids_a_party_has():
    def lengths(lists):
        seen = []
        found = play(lists, AlignmentSettings(min_intersection=1, pad_to=64), observe=seen.append)
        assert common_ids(lists, found) == dict.fromkeys(lists, people(20, 40))
        return [(d.message, d.sender, d.receiver, len(d.payload.body)) for d in seen if d.message.startswith("ecdh.")]

    fewer = {"bank": people(20, 40), "shop": people(10, 60), "biller": people(20, 45)}
    assert sorted(lengths(LISTS)) == sorted(lengths(fewer))
    assert {count for *_, count in lengths(LISTS)} == {64}


def test_dummies_are_of_nobody_and_of_no_other_run():
    tags = []
    for _ in range(2):
        seen = []
        settings = AlignmentSettings(min_intersection=1, pad_to=64)
        found = play(LISTS, settings, observe=seen.append)
        assert found["coordinator"] == 20
        tags += [bytes(row) for d in seen if isinstance(d.payload, Tags) for row in d.payload.body]
    # Bank and shop share 30 ids, shop and biller 25, bank and biller 20, all three 20.
    assert len(set(tags)) == 2 * (3 * 64 - 30 - 25 - 20 + 20)


def test_cardinality_tells_nobody_which():
    seen = []
    found = play(LISTS, AlignmentSettings(min_intersection=1, cardinality=True), observe=seen.append)
    assert found["coordinator"] == 20
    assert all(found[name].common == 20 and len(found[name].own) == 0 for name in LISTS)
    assert {d.message for d in seen if d.message.startswith("verdict.")} == {"verdict.verdict"}


# one-sided


@pytest.mark.parametrize("pad_to", [None, 50])
@pytest.mark.parametrize("order", [("bank", "shop"), ("shop", "bank")], ids=["active first", "active last"])
def test_one_sided_places(order, pad_to):
    lists = {name: TWO[name] for name in order}
    settings = AlignmentSettings(min_intersection=1, one_sided=True, pad_to=pad_to)
    seen = []
    found = play(lists, settings, observe=seen.append)
    active, passive = (found[name] for name in order)
    mine, theirs = (lists[name] for name in order)
    assert active.common == 15
    assert passive.common == 0
    assert passive.places is None
    assert sorted(passive.own[passive.own >= 0].tolist()) == list(range(len(theirs)))
    assert len(passive.own) == public_sizes(lists, settings)[order[1]]
    members = [mine[i] for i in active.own]
    assert sorted(members) == sorted(set(mine) & set(theirs))
    assert members == [theirs[passive.own[place]] for place in active.places]
    told = [d.message for d in seen if d.sender == "coordinator" and d.receiver == order[1]]
    assert [message for message in told if not message.startswith("greeting.")] == ["verdict.enough"]


def test_the_passive_partys_list_tells_nothing_of_membership():
    """Its places are a fresh order of all its ids, the same sizes whoever is common."""
    settings = AlignmentSettings(min_intersection=1, one_sided=True)
    orders = [play(TWO, settings)["shop"].own.tolist() for _ in range(2)]
    assert orders[0] != orders[1]

    def shapes(lists):
        seen = []
        play(lists, settings, observe=seen.append)
        kept = [d for d in seen if d.receiver == "shop" and not d.message.startswith("greeting.")]
        return [(d.message, d.sender, getattr(d.payload, "facts", None), d.payload.count()) for d in kept]

    assert shapes(TWO) == shapes({"bank": people(38, 58), "shop": TWO["shop"]})


# buckets


def test_buckets_change_nothing_in_the_result():
    settings = AlignmentSettings(min_intersection=1, bucket_ids=7)
    plan = make_plan(settings, public_sizes(LISTS, settings))
    assert plan.buckets == 8
    seen = []
    found = play(LISTS, settings, observe=seen.append)
    assert common_ids(LISTS, found) == dict.fromkeys(LISTS, people(20, 40))
    rows = [d.payload.body for d in seen if isinstance(d.payload, Tags)]
    assert len(rows) == 3 * plan.buckets
    assert sorted({len(body) for body in rows}) == sorted(set(plan.lengths.values()))
    assert len([d for d in seen if d.message == "verdict.verdict"]) == 3, "one verdict on all buckets"


def test_few_in_each_bucket_but_enough_in_all():
    settings = AlignmentSettings(min_intersection=20, bucket_ids=7)
    assert play(LISTS, settings)["coordinator"] == 20


def test_a_one_sided_list_is_never_cut():
    settings = AlignmentSettings(min_intersection=1, bucket_ids=7, one_sided=True)
    assert make_plan(settings, {"bank": 20, "shop": 35}).buckets == 1


def test_a_bucket_that_overflows_ends_the_run(monkeypatch):
    monkeypatch.setattr(exchange, "capacity", lambda ids, buckets: 2)
    with pytest.raises(CryptoError, match="a bucket of the alignment overflows"):
        play(LISTS, AlignmentSettings(min_intersection=1, bucket_ids=7))


# what runs


def test_auto_is_chosen_by_public_sizes():
    assert choose_protocol("auto", {"bank": 200_000, "shop": 1000}) == "ecdh"
    assert choose_protocol("auto", {"bank": 1000, "shop": 200_001}) == "kkrt"
    assert choose_protocol("auto", {"bank": 10**6, "shop": 10**6, "biller": 10}) == "ecdh"
    assert choose_protocol("mpsi", {"bank": 10, "shop": 10}) == "mpsi"


def test_a_choice_of_kkrt_is_warned_of_and_the_job_s_own_is_not():
    sizes = {"bank": 10**6, "shop": 1000}
    (line,) = warnings_of("auto", sizes)
    assert "together with 'bank' could test any id, offline, against the list of 'shop'" in line
    assert "\n" not in line
    assert warnings_of("kkrt", sizes) == warnings_of("auto", {"bank": 9, "shop": 9}) == ()
    assert warnings_of("auto", sizes | {"biller": 5}) == ()


@pytest.mark.parametrize(
    ("protocol", "one_sided", "parties", "text"),
    [
        ("kkrt", False, 3, "protocol in .alignment., got 'kkrt' for 3 parties, expected two parties, or 'mpsi'"),
        ("auto", True, 3, "one_sided in .alignment., got true for 2 passive parties, expected one"),
        ("mpsi", True, 2, "one_sided in .alignment., got true with protocol 'mpsi'"),
    ],
    ids=["kkrt for three", "one-sided for three", "one-sided mpsi"],
)
def test_settings_that_do_not_work_with_so_many_parties(protocol, one_sided, parties, text):
    with pytest.raises(ConfigError, match=text):
        check_parties(protocol, one_sided, parties)
    check_parties("ecdh", one_sided, 2)


def test_results_do_not_depend_on_who_is_active():
    one, other = (play({name: TWO[name] for name in order}, ANY) for order in (("bank", "shop"), ("shop", "bank")))
    assert all((one[name].own == other[name].own).all() for name in TWO)
