"""Alignment where parties are made of silos: the same rows as unsplit, each silo its own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.errors import ConfigError, DataError
from parties.spec import holder_of
from parties.wire import Active, LabelSilo, Passive
from psi.align import AlignmentSettings
from psi.ids import IdRules, prepare_ids
from psi.lists import join_parties
from psi.plain import ids_by_holder, plain_alignment
from psi.silos import cast_of, holders_of
from tests.psi.silo_lists import ALL_SILOS, COMMON, MIXED, cells, every_error, play, rows_by_place


def test_silos_have_the_rows_of_their_party_in_the_order_of_all():
    found = play(MIXED)
    people = {holder: rows_by_place(MIXED, found, holder) for holder in ("bank", "shops", "biller")}
    assert people["bank"] == people["shops"] == people["biller"]
    assert set(people["bank"]) == set(cells(*COMMON))
    assert {found[name].intersection for name in MIXED} == {len(COMMON)}
    assert found["bank"].sizes == {name: len(ids) for name, ids in MIXED.items()}
    assert found["bank"].owned is None
    assert found["shops.west"].owned.dtype == found["shops.west"].rows.dtype == np.int64


def test_where_all_parties_have_silos_the_order_is_drawn_anew():
    found, again = play(ALL_SILOS), play(ALL_SILOS)
    people = rows_by_place(ALL_SILOS, found, "banks")
    assert people == rows_by_place(ALL_SILOS, found, "shops")
    assert set(people) == set(cells(*range(5, 30)))
    assert people != rows_by_place(ALL_SILOS, again, "banks")


@pytest.mark.parametrize("protocol", ["auto", "ecdh", "server-aided"])
@pytest.mark.parametrize("bucket_ids", [2_000_000, 15])
@pytest.mark.parametrize("active", ["bank", "shops.north", "biller"])
def test_order_is_that_of_unsplit_parties(protocol, bucket_ids, active):
    chosen = AlignmentSettings(seed=7, min_intersection=1, protocol=protocol, bucket_ids=bucket_ids)
    found = play(MIXED, chosen, active=active)
    unsplit = {"bank": MIXED["bank"], "biller": MIXED["biller"]}
    unsplit["shops"] = [cell for name in MIXED if holder_of(name) == "shops" for cell in MIXED[name]]
    whole = play(unsplit)
    assert found["bank"].rows.tolist() == whole["bank"].rows.tolist()
    assert rows_by_place(MIXED, found, "shops") == [MIXED["bank"][row] for row in whole["bank"].rows]


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_split_gives_the_rows_and_the_order_of_the_whole(data):
    holders = {
        name: data.draw(st.sets(st.integers(0, 30), min_size=1), label=name) for name in ("bank", "shops", "mills")
    }
    common = set.intersection(*holders.values())
    split: dict[str, list[str]] = {"bank": cells(*sorted(holders["bank"]))}
    for name in ("shops", "mills"):
        people = data.draw(st.permutations(sorted(holders[name])))
        cuts = data.draw(st.sets(st.integers(1, len(people)), max_size=4))
        ends = sorted({0, *cuts, len(people)})
        for number, (start, stop) in enumerate(zip(ends, ends[1:], strict=False)):
            split[f"{name}.s{number}"] = cells(*people[start:stop])
    if not common:
        with pytest.raises(DataError, match="no common ids"):
            play(split)
        return
    found = play(split)
    whole = play({name: cells(*sorted(people)) for name, people in holders.items()})
    assert found["bank"].rows.tolist() == whole["bank"].rows.tolist()
    for holder in ("shops", "mills"):
        assert rows_by_place(split, found, holder) == [split["bank"][row] for row in whole["bank"].rows]


TWICE = {
    "bank": cells(*range(20)),
    "shops.north": cells(1, 2, 3, 4, 30),
    "shops.south": cells(3, 4, 5, 30),
    "shops.west": cells(4, 6, 31),
}


def test_an_id_in_two_silos_falls_to_the_first():
    found = play(TWICE, AlignmentSettings(seed=7, min_intersection=1, duplicates="first"))
    own = {name: {TWICE[name][row] for row in found[name].rows} for name in TWICE}
    assert own["shops.north"] == set(cells(1, 2, 3, 4))
    assert own["shops.south"] == set(cells(5))
    assert own["shops.west"] == set(cells(6))
    assert rows_by_place(TWICE, found, "shops") == rows_by_place(TWICE, found, "bank")


def test_an_id_in_two_silos_is_left_out():
    found = play(TWICE, AlignmentSettings(seed=7, min_intersection=1, duplicates="drop"))
    own = {name: {TWICE[name][row] for row in found[name].rows} for name in TWICE}
    assert own["shops.north"] == set(cells(1, 2))
    assert own["bank"] == set(cells(1, 2, 5, 6))


def test_an_id_in_two_silos_is_refused_at_all_roles_alike():
    errors = every_error(TWICE)
    assert errors.keys() == {*TWICE, "coordinator"}
    (text,) = set(errors.values())
    assert "3 ids of party 'shops' stand in the lists of two of its silos" in text
    assert "client" not in text


def test_repetitions_are_counted_over_all_buckets():
    chosen = AlignmentSettings(seed=7, min_intersection=1, bucket_ids=5)
    (text,) = set(every_error(TWICE, chosen).values())
    assert "3 ids of party 'shops'" in text


def test_ids_of_two_parties_are_no_repetitions():
    assert play({**TWICE, "shops.south": cells(5), "shops.west": cells(6)})["coordinator"].intersection == 6


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ({"protocol": "kkrt"}, "protocol in .alignment., got 'kkrt'"),
        ({"protocol": "mpsi"}, "protocol in .alignment., got 'mpsi'"),
        ({"one_sided": True}, "one_sided in .alignment., got true"),
    ],
    ids=["kkrt", "mpsi", "one_sided"],
)
def test_what_cannot_put_lists_together_is_refused(line, text):
    with pytest.raises(ConfigError, match=text):
        play(MIXED, AlignmentSettings(min_intersection=1, **line))


def test_a_party_of_one_silo_aligns_like_any_other():
    split = {"bank": MIXED["bank"], "shops.only": MIXED["biller"]}
    found, whole = play(split), play({"bank": MIXED["bank"], "shops": MIXED["biller"]})
    assert found["shops.only"].owned is None
    assert found["shops.only"].rows.tolist() == whole["shops"].rows.tolist()


def test_a_silo_may_have_no_common_row():
    found = play({**MIXED, "shops.west": cells(90, 91)})
    assert found["shops.west"].rows.shape == found["shops.west"].owned.shape == (0,)
    assert found["shops.west"].rows.dtype == found["shops.west"].owned.dtype == np.int64
    assert found["shops.west"].intersection == len(COMMON) - 2


def test_the_digest_of_a_silo_is_of_its_own_common_ids():
    found = play(MIXED)
    moved = play({**MIXED, "shops.north": MIXED["shops.north"][:-3], "shops.west": [*MIXED["shops.west"], *cells(31)]})
    assert found["shops.south"].digest == moved["shops.south"].digest
    assert found["shops.west"].digest != moved["shops.west"].digest
    assert found["bank"].digest == found["biller"].digest != found["shops.south"].digest


def test_padded_silos_have_the_same_rows():
    chosen = AlignmentSettings(seed=7, min_intersection=1, pad_to=60)
    found = play(MIXED, chosen)
    assert found["bank"].sizes == dict.fromkeys(MIXED, 60)
    assert rows_by_place(MIXED, found, "shops") == rows_by_place(MIXED, play(MIXED), "shops")


def test_cardinality_tells_a_number_and_no_rows():
    seen = []
    chosen = AlignmentSettings(seed=7, min_intersection=1, cardinality=True)
    found = play(MIXED, chosen, observe=seen.append)
    assert {result.intersection for result in found.values()} == {len(COMMON)}
    assert all(len(found[name].rows) == 0 for name in MIXED)
    assert not {d.message for d in seen} & {"verdict.matches", "silos.numbers", "silo_rows.rows", "silo_rows.part"}


def test_small_silos_are_no_short_list_where_their_party_has_enough():
    chosen = AlignmentSettings(seed=7, min_intersection=len(COMMON))
    assert play(MIXED, chosen)["coordinator"].intersection == len(COMMON)
    few = {**MIXED, "shops.north": cells(31), "shops.south": cells(10)}
    errors = every_error(few, chosen)
    assert errors.keys() == {*few, "coordinator"}
    (text,) = set(errors.values())
    assert "party 'shops' got 5 valid ids, expected at least min_intersection = 19" in text


def test_too_few_common_rows_end_all_roles_alike():
    errors = every_error(MIXED, AlignmentSettings(seed=7, min_intersection=len(COMMON) + 1))
    assert errors.keys() == {*MIXED, "coordinator"}
    (text,) = set(errors.values())
    assert "fewer than min_intersection ids in common" in text


def test_silos_of_one_party_alone_align_nothing():
    with pytest.raises(ConfigError, match="got 1 parties, expected at least two"):
        play({"shops.north": cells(1, 2), "shops.south": cells(3)})


@pytest.mark.parametrize(
    ("names", "active", "guide"),
    [
        (["a", "b", "c.x", "c.y"], "b", "b"),
        (["c.x", "c.y", "a", "b"], "c.x", "a"),
        (["c.x", "c.y", "a.z"], "c.x", "a.z"),
        (["c.x", "c.y", "a.z", "a.w"], "a.z", "a.z"),
    ],
    ids=["active", "first with one list", "one silo", "all silos"],
)
def test_the_guide(names, active, guide):
    kinds = {name: LabelSilo if holder_of(name) == holder_of(active) else Passive for name in names}
    assert cast_of(kinds | {active: Active}).guide == guide


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_what_every_silo_has_is_what_plain_sets_say(data):
    """Any lists of any parties, ids in several silos too, whoever is active."""
    names = [
        f"{holder}.{silo}" if silos > 1 else holder
        for holder, silos in (
            (holder, data.draw(st.integers(1, 3), label=holder))
            for holder in ("a", "b", "c")[: data.draw(st.integers(2, 3))]
        )
        for silo in range(silos)
    ]
    lists = {name: data.draw(st.lists(st.integers(0, 12), min_size=1, unique=True), label=name) for name in names}
    duplicates = data.draw(st.sampled_from(["first", "drop", "refuse"]))
    active = data.draw(st.sampled_from([members[0] for members in holders_of(names).values()]))
    chosen = AlignmentSettings(
        seed=data.draw(st.integers(0, 99)),
        min_intersection=1,
        protocol="server-aided",
        duplicates=duplicates,
        bucket_ids=data.draw(st.sampled_from([3, 1000])),
        tell_small_count=True,
    )
    columns = {name: cells(*ids) for name, ids in lists.items()}
    owners: dict[str, dict[int, str]] = {}
    repeated = {}
    for holder, members in holders_of(names).items():
        having = {person: [name for name in members if person in lists[name]] for person in range(13)}
        owners[holder] = {
            p: silos[0] for p, silos in having.items() if silos and not (duplicates == "drop" and silos[1:])
        }
        repeated[holder] = sum(len(silos) > 1 for silos in having.values())
    common = set.intersection(*(set(own) for own in owners.values()))
    prepared = {name: prepare_ids([ids], IdRules(), party=name) for name, ids in columns.items()}
    if duplicates == "refuse" and any(repeated.values()):
        holder = next(name for name, count in repeated.items() if count)
        with pytest.raises(DataError, match=f"{repeated[holder]} ids of party '{holder}'") as refused:
            play(columns, chosen, active=active)
        with pytest.raises(DataError) as plainly:
            plain_alignment(prepared, chosen.seed, duplicates)
        assert str(plainly.value) == str(refused.value)
        return
    if not common:
        with pytest.raises(DataError, match="no common ids"):
            play(columns, chosen, active=active)
        return
    found = play(columns, chosen, active=active)
    orders = {holder: rows_by_place(columns, found, holder) for holder in owners}
    assert len({tuple(order) for order in orders.values()}) == 1
    plain = plain_alignment(prepared, chosen.seed, duplicates)
    drawn = all(len(members) > 1 for members in holders_of(names).values())
    for name in names:
        rows, owned = found[name].rows, found[name].owned
        assert sorted(rows) == sorted(plain[name].rows)
        assert drawn or rows.tolist() == plain[name].rows.tolist()
        assert drawn or owned is None or owned.tolist() == plain[name].owned.tolist()
        own = {columns[name][row] for row in rows}
        assert own == set(cells(*(person for person in common if owners[holder_of(name)][person] == name)))


def test_joining_long_lists_of_parties_is_joining_sets():
    rng = np.random.default_rng(3)
    pool = rng.integers(0, 256, (4000, 12)).astype(np.uint8)
    pool[:, :8] = pool[rng.integers(0, 50, 4000), :8]  # many alike in what is compared first
    picked = {name: rng.permutation(4000)[:size] for name, size in (("a", 3000), ("b.x", 1500), ("b.y", 2000))}
    lists = {name: pool[rows] for name, rows in picked.items()}
    for drop in (False, True):
        found = join_parties(lists, {"a": ("a",), "b": ("b.x", "b.y")}, drop=drop)
        both = set(picked["b.x"]) & set(picked["b.y"])
        held = set(picked["b.x"]) | set(picked["b.y"])
        common = set(picked["a"]) & (held - both if drop else held)
        assert found.common == len(common)
        assert found.repeated == {"a": 0, "b": len(both)}
        people = picked["a"][found.places["a"]]
        assert found.numbers["a"].tolist() == list(range(len(common)))
        assert set(people) == common
        for name in ("b.x", "b.y"):
            assert (np.diff(found.places[name]) > 0).all()
            assert (picked[name][found.places[name]] == people[found.numbers[name]]).all()
        assert sorted([*found.numbers["b.x"], *found.numbers["b.y"]]) == list(range(len(common)))
        assert drop or not set(picked["b.y"][found.places["b.y"]]) & both


def test_ids_by_holder_are_those_of_all_its_silos():
    prepared = {name: prepare_ids([ids], IdRules(), party=name) for name, ids in TWICE.items()}
    found = ids_by_holder(prepared)
    assert found.keys() == {"bank", "shops"}
    assert found["bank"] == prepared["bank"].ids
    assert len(found["shops"]) == 8
    assert set(found["shops"]) == set().union(*(prepared[name].ids for name in TWICE if name != "bank"))
