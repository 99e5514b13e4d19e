"""A long alignment of silos that stops at any bucket ends as it would have."""

from dataclasses import dataclass

import numpy as np
import pytest

from parties.errors import DataError
from parties.ledger import Ledger
from parties.link import COORDINATOR
from parties.local import run_local
from psi.align import AlignmentSettings, align_coordinator, align_party
from psi.ids import IdRules, prepare_ids
from tests.psi.silo_lists import cells, roles_of, rows_by_place
from tests.psi.test_bucket_checkpoints import Killed, MortalKeeper

LISTS = {
    "bank": cells(*range(60)),
    "shops.north": cells(*range(79, 49, -1)),
    "shops.south": cells(*range(20, 50)),
    "biller": cells(*range(10, 55)),
}
ALL_SILOS = {
    "banks.one": cells(*range(40)),
    "banks.two": cells(*range(40, 60)),
    "shops.north": cells(*range(79, 49, -1)),
    "shops.south": cells(*range(20, 50)),
}
BUCKETS = 4


@dataclass
class Attempt:
    results: dict | None
    sent: list


def attempt(folder, generation, dooms=None, lists=LISTS, protocol="ecdh", duplicates="refuse"):
    chosen = AlignmentSettings(seed=3, protocol=protocol, min_intersection=1, bucket_ids=15, duplicates=duplicates)
    ids = {name: prepare_ids([own], IdRules(), party=name) for name, own in lists.items()}
    ledgers = {name: Ledger() for name in (COORDINATOR, *lists)}

    def play(end):
        end.generation = generation
        doom = (dooms or {}).get(end.name)
        end.keeper = MortalKeeper(folder=folder / end.name, run="run", job="job", party=end.name, doom=doom)
        return align_coordinator(end, chosen) if end.name == COORDINATOR else align_party(end, ids[end.name], chosen)

    try:
        results = run_local(dict.fromkeys(ledgers, play), roles=roles_of(lists, next(iter(lists))), ledgers=ledgers)
    except Killed:
        results = None
    sent = [entry.message for name, ledger in ledgers.items() for entry in ledger.entries if entry.sender == name]
    return Attempt(results, sent)


def ended(end, lists=LISTS):
    rows = {name: end.results[name].rows.tolist() for name in lists}
    owned = {name: None if (o := end.results[name].owned) is None else o.tolist() for name in lists}
    return rows, owned, {name: end.results[name].digest for name in lists}, end.results[COORDINATOR]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return ended(attempt(tmp_path_factory.mktemp("whole"), 1))


def test_the_whole_alignment_is_the_expected_one(whole):
    assert whole[3].intersection == 35
    assert sorted(whole[1]["shops.north"] + whole[1]["shops.south"]) == list(range(35))


@pytest.mark.parametrize("bucket", range(BUCKETS))
@pytest.mark.parametrize("role", [COORDINATOR, "bank", "shops.north"])
def test_whoever_dies_at_whichever_bucket(tmp_path, whole, role, bucket):
    assert attempt(tmp_path, 1, {role: (bucket, "after")}).results is None
    done = min(len(list((tmp_path / name).glob("bucket *.ckpt"))) for name in (COORDINATOR, *LISTS))
    again = attempt(tmp_path, 2)
    assert ended(again) == whole
    assert again.sent.count("ecdh.tags") == len(LISTS) * (BUCKETS - done)


def test_server_aided_goes_on_too(tmp_path, whole):
    assert attempt(tmp_path, 1, {"shops.south": (2, "before")}, protocol="server-aided").results is None
    assert ended(attempt(tmp_path, 2, protocol="server-aided"))[:3] == whole[:3]


@pytest.mark.parametrize("bucket", range(BUCKETS))
def test_silos_alone_agree_on_an_order_after_a_crash(tmp_path, bucket):
    attempt(tmp_path, 1, {"shops.north": (bucket, "before")}, ALL_SILOS)
    again = attempt(tmp_path, 2, lists=ALL_SILOS)
    people = rows_by_place(ALL_SILOS, again.results, "banks")
    assert people == rows_by_place(ALL_SILOS, again.results, "shops")
    assert set(people) == set(cells(*range(20, 60)))


def test_repetitions_in_kept_buckets_count(tmp_path):
    twice = {**LISTS, "shops.south": cells(*range(20, 65))}
    attempt(tmp_path, 1, {"bank": (3, "before")}, twice)
    with pytest.raises(DataError, match="15 ids of party 'shops' stand in the lists of two of its silos"):
        attempt(tmp_path, 2, lists=twice)


def test_another_rule_for_repetitions_begins_anew(tmp_path):
    twice = {**LISTS, "shops.south": cells(*range(20, 65))}
    attempt(tmp_path, 1, {"bank": (3, "before")}, twice, duplicates="drop")
    again = attempt(tmp_path, 2, lists=twice, duplicates="first")
    assert again.sent.count("ecdh.tags") == len(LISTS) * BUCKETS
    assert again.results[COORDINATOR].intersection == 35


def test_what_the_coordinator_keeps_are_places_and_numbers(tmp_path):
    attempt(tmp_path, 1)
    keeper = MortalKeeper(folder=tmp_path / COORDINATOR, run="run", job="job", party=COORDINATOR)
    numbers = []
    for bucket in map(keeper.bucket, range(BUCKETS)):
        assert bucket.arrays.keys() == {*LISTS, "numbers of shops.north", "numbers of shops.south"}
        both = [bucket.arrays[f"numbers of shops.{silo}"] for silo in ("north", "south")]
        assert np.array_equal(np.sort(np.concatenate(both)), np.arange(bucket.facts["common"]))
        assert bucket.facts["repeated in shops"] == 0
        numbers += both
    assert sum(map(len, numbers)) == 35
