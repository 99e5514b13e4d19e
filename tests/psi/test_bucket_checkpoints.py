"""A long alignment that stops in the middle ends as it would have, whoever stops, whenever, and whatever is kept."""

import shutil
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parties.checkpoint import FolderKeeper
from parties.errors import RemoteProtocolError
from parties.ledger import Ledger
from parties.link import COORDINATOR
from parties.local import run_local
from parties.wire import Control, Coordinator, DataParty
from psi.align import AlignmentSettings, align_coordinator, align_party
from psi.ids import IdRules, prepare_ids
from psi.progress import Wire, begin_as_coordinator, begin_as_party, hear_joined
from tests.psi.exchanges import roles_of

LISTS = {
    "bank": [f"person {i}" for i in range(0, 60)],
    "shop": [f"person {i}" for i in range(20, 80)][::-1],
    "biller": [f"person {i}" for i in range(10, 55)],
}
BUCKETS = 4
PROTOCOLS = {"ecdh": 3, "server-aided": 3, "mpsi": 3, "kkrt": 2}
ROLES = [COORDINATOR, *LISTS]


class Killed(BaseException):
    """A role's process is gone."""


@dataclass
class MortalKeeper(FolderKeeper):
    """Dies when it is about to keep a bucket, or has just kept it."""

    doom: tuple[int, str] | None = field(default=None, kw_only=True)

    def save_bucket(self, number, facts, arrays):
        if self.doom == (number, "before"):
            raise Killed
        super().save_bucket(number, facts, arrays)
        if self.doom == (number, "after"):
            raise Killed


def attempt(folder, generation, dooms=None, protocol="ecdh", job="the job", run="the run", lists=None, keep=True):
    """One attempt at the alignment; returns results by role, and every message that was sent."""
    names = list(LISTS)[: PROTOCOLS[protocol]]
    lists = lists or LISTS
    per_bucket = AlignmentSettings(seed=3, protocol=protocol, min_intersection=1, bucket_ids=15)
    ids = {name: prepare_ids([lists[name]], IdRules(), party=name) for name in names}
    ledgers = {name: Ledger() for name in (COORDINATOR, *names)}
    keepers = {}

    def play(end):
        end.generation = generation
        if keep:
            doom = (dooms or {}).get(end.name)
            keepers[end.name] = end.keeper = MortalKeeper(
                folder=folder / end.name, run=run, job=job, party=end.name, doom=doom
            )
        if end.name == COORDINATOR:
            return align_coordinator(end, per_bucket)
        return align_party(end, ids[end.name], per_bucket)

    roles = roles_of({name: [] for name in names})
    try:
        results = run_local(dict.fromkeys(ledgers, play), roles=roles, ledgers=ledgers)
    except Killed:
        results = None
    sent = [entry.message for name, ledger in ledgers.items() for entry in ledger.entries if entry.sender == name]
    return Attempt(results, sent, {name: keeper.warnings for name, keeper in keepers.items()})


@dataclass
class Attempt:
    results: dict | None
    sent: list
    warnings: dict

    def rows(self):
        return {name: end.rows.tolist() for name, end in self.results.items() if name != COORDINATOR}

    def buckets_played(self, protocol="ecdh"):
        lasts = {"ecdh": ("ecdh.tags", 3), "server-aided": ("server_aided.tags", 3)}
        name, times = lasts[protocol]
        return self.sent.count(name) / times


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an alignment that nobody interrupts ends with."""
    ends = {name: attempt(tmp_path_factory.mktemp("whole"), 1, protocol=name) for name in PROTOCOLS}
    return {name: (end.rows(), end.results["bank"].digest, end.results[COORDINATOR]) for name, end in ends.items()}


def ended(end):
    return end.rows(), end.results["bank"].digest, end.results[COORDINATOR]


def kept(folder, name):
    return sorted(int(path.stem.removeprefix("bucket ")) for path in (folder / name).glob("bucket *.ckpt"))


def test_common_rows_are_those_of_all_lists(whole):
    rows, _, joined = whole["ecdh"]
    assert joined.intersection == 35
    assert {name: {LISTS[name][row] for row in rows[name]} for name in rows} == dict.fromkeys(
        LISTS, {f"person {i}" for i in range(20, 55)}
    )
    assert len({tuple(LISTS[name][row] for row in rows[name]) for name in rows}) == 1


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("bucket", range(BUCKETS))
@pytest.mark.parametrize("role", ROLES)
def test_whoever_dies_at_whichever_bucket(tmp_path, whole, role, bucket, moment):
    assert attempt(tmp_path, 1, {role: (bucket, moment)}).results is None
    done = min(len(kept(tmp_path, name)) for name in ROLES)
    assert done <= bucket + 1
    again = attempt(tmp_path, 2)
    assert ended(again) == whole["ecdh"]
    assert again.buckets_played() == BUCKETS - done


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "ecdh"])
def test_every_protocol_goes_on_in_the_middle(tmp_path, whole, protocol):
    names = ROLES[: PROTOCOLS[protocol] + 1]
    assert attempt(tmp_path, 1, {"bank": (2, "before")}, protocol).results is None
    assert min(len(kept(tmp_path, name)) for name in names) >= 1
    again = attempt(tmp_path, 2, protocol=protocol)
    assert ended(again) == whole[protocol]
    first = attempt(tmp_path / "fresh", 1, protocol=protocol)
    assert len(again.sent) < len(first.sent)


DEATHS = st.dictionaries(
    st.sampled_from(ROLES), st.tuples(st.integers(0, BUCKETS - 1), st.sampled_from(["before", "after"])), max_size=2
)


@given(st.lists(DEATHS, min_size=1, max_size=4))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_attempt_after_the_other(tmp_path, whole, deaths):
    shutil.rmtree(tmp_path, ignore_errors=True)
    for generation, dooms in enumerate(deaths, 1):
        attempt(tmp_path, generation, dooms, "server-aided")
    assert ended(attempt(tmp_path, len(deaths) + 1, protocol="server-aided")) == whole["server-aided"]


def test_lists_of_two_attempts_never_meet_even_if_no_file_can_be_removed(tmp_path, whole, monkeypatch):
    """The bank keeps the third bucket of the first attempt, all others that of the second."""
    monkeypatch.setattr(MortalKeeper, "forget_buckets", lambda self, begin=0: None)
    attempt(tmp_path, 1, {"bank": (3, "before"), "shop": (2, "before"), COORDINATOR: (2, "before")})
    stale = (tmp_path / "bank" / "bucket 2.ckpt").read_bytes()
    attempt(tmp_path, 2, {COORDINATOR: (3, "before")})
    assert min(len(kept(tmp_path, name)) for name in ROLES) == 3
    (tmp_path / "bank" / "bucket 2.ckpt").write_bytes(stale)
    again = attempt(tmp_path, 3)
    assert ended(again) == whole["ecdh"]
    assert again.buckets_played() == BUCKETS - 2


def damaged(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def emptied(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [damaged, emptied])
@pytest.mark.parametrize("role", ROLES)
def test_a_damaged_file_is_passed_over_with_a_warning(tmp_path, whole, role, harm):
    attempt(tmp_path, 1, {"biller": (3, "before")})
    harm(tmp_path / role / "bucket 1.ckpt")
    again = attempt(tmp_path, 2)
    assert ended(again) == whole["ecdh"]
    assert again.buckets_played() == BUCKETS - 1
    assert [len(lines) for lines in again.warnings.values()] == [int(name == role) for name in again.warnings]
    assert "bucket 1.ckpt: not used as a checkpoint" in again.warnings[role][0]


@pytest.mark.parametrize("other", ["job", "run"])
def test_files_of_something_else_are_passed_over_with_a_warning(tmp_path, whole, other):
    attempt(tmp_path, 1, {"biller": (3, "before")}, **{other: "another"})
    again = attempt(tmp_path, 2)
    assert ended(again) == whole["ecdh"]
    assert again.buckets_played() == BUCKETS
    assert all(f"it is of another {other}" in lines[0] for lines in again.warnings.values())


def test_another_plan_begins_anew(tmp_path):
    attempt(tmp_path, 1, {"biller": (3, "before")})
    end = attempt(tmp_path, 2, protocol="server-aided")
    assert end.buckets_played("server-aided") == BUCKETS


def test_other_ids_begin_anew(tmp_path):
    attempt(tmp_path, 1, {"biller": (3, "before")})
    changed = LISTS | {"shop": [name.replace("person 2", "somebody 2") for name in LISTS["shop"]]}
    end = attempt(tmp_path, 2, lists=changed)
    assert end.results[COORDINATOR].intersection == 25
    assert end.buckets_played() == BUCKETS


def test_nothing_is_kept_in_memory(whole, tmp_path):
    end = attempt(tmp_path, 1, keep=False)
    assert ended(end) == whole["ecdh"]
    assert not any(tmp_path.iterdir())


def test_buckets_go_once_the_first_round_is_kept(tmp_path):
    attempt(tmp_path, 1)
    keeper = FolderKeeper(folder=tmp_path / "bank", run="the run", job="the job", party="bank")
    assert len(keeper.buckets()) == BUCKETS
    keeper.save_aligned({}, {"rows": np.arange(3)})
    assert len(keeper.buckets()) == BUCKETS  # another role may have died before it kept the alignment
    keeper.save_round(1, {}, {})
    assert keeper.buckets() == []


BAD_LISTS = ["x", "1  2", "0", "-1", "1 2 3 4 5 6 7 8", 3, None]


@pytest.mark.parametrize("told", BAD_LISTS)
def test_a_malformed_list_of_buckets_names_its_sender(told):
    def bank(end):
        end.link(DataParty, Coordinator, COORDINATOR).send(Wire.kept, Control({"generations": told}))

    plays = {
        "bank": bank,
        "shop": lambda end: begin_as_party(end, 2, lambda number: {}),
        COORDINATOR: lambda end: begin_as_coordinator(end, 2, lambda number: {}),
    }
    with pytest.raises(RemoteProtocolError, match="bank sent no proper list of the buckets"):
        run_local(plays, roles=roles_of({"bank": [], "shop": []}))


@pytest.mark.parametrize("told", [1, -1, True, 0.0, "0", None])
def test_a_bucket_that_a_party_has_not_kept_names_the_coordinator(told):
    def coordinator(end):
        links = [end.link(Coordinator, DataParty, name) for name in end.peers(DataParty)]
        for link in links:
            link.recv(Wire.kept)
            link.send(Wire.begin, Control({"bucket": told}))

    plays = {name: lambda end: begin_as_party(end, 2, lambda number: {}) for name in ("bank", "shop")}
    with pytest.raises(RemoteProtocolError, match="coordinator goes on with a bucket"):
        run_local(plays | {COORDINATOR: coordinator}, roles=roles_of({"bank": [], "shop": []}))


@pytest.mark.parametrize("told", [{}, {"bucket": 1}, {"bucket": 0, "more": 1}])
def test_another_bucket_than_the_one_sent_names_the_coordinator(told):
    def coordinator(end):
        for name in end.peers(DataParty):
            end.link(Coordinator, DataParty, name).send(Wire.joined, Control(told))

    plays = {name: lambda end: hear_joined(end, 0) for name in ("bank", "shop")}
    with pytest.raises(RemoteProtocolError, match="coordinator has not joined"):
        run_local(plays | {COORDINATOR: coordinator}, roles=roles_of({"bank": [], "shop": []}))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_party_is_more_than_two_buckets_ahead_of_the_coordinator(tmp_path, protocol):
    attempt(tmp_path, 1, {COORDINATOR: (0, "before")}, protocol)
    assert max(len(kept(tmp_path, name)) for name in ROLES[1:] if (tmp_path / name).exists()) <= 2
