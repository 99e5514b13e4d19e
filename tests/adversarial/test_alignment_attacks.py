"""Attacks on the alignment: lies about sizes and matches, and refusals while the others wait."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from parties.errors import (
    ConfigError,
    CryptoError,
    DataError,
    LocalProtocolError,
    PolicyError,
    RemoteProtocolError,
    VflError,
)
from parties.link import COORDINATOR, Endpoint
from parties.wire import Active, Coordinator, DataParty, Positions, Revealed, Tags
from psi import kkrt, mpsi, verdict
from psi.align import Wire, align_party
from psi.buckets import bucket_of
from psi.elements import elements_of
from psi.exchange import exchange_as_coordinator
from psi.ids import IdRules, prepare_ids
from psi.settings import AlignmentSettings
from psi.source import ListedIds
from tests.psi.exchanges import exchange, people
from tests.psi.test_align import play
from tests.psi.test_align_network import alignment, run_over_sockets

TWO = {"bank": people(0, 30), "shop": people(10, 50)}
COLUMNS = {name: [one.decode() for one in ids] for name, ids in TWO.items()}
SETTINGS = AlignmentSettings(seed=7, min_intersection=5)


def align(settings: AlignmentSettings, scripted: dict[str, Callable[[Endpoint], Any]] | None = None) -> Any:
    """Two whole roles and a coordinator, some of them scripted."""
    return play(COLUMNS, settings, replace=scripted)


# lies about sizes


def test_a_party_that_announces_a_giant_list_costs_the_coordinator_no_memory() -> None:
    """Its list is held as it arrives: an announced length reserves nothing."""
    sizes = {"bank": 30, "shop": 1 << 31}
    settings = AlignmentSettings(protocol="kkrt", min_intersection=1, one_sided=True)
    width = kkrt.tag_bytes(sizes)

    def bank(end: Endpoint) -> None:
        end.link(DataParty, Coordinator, COORDINATOR).send(
            kkrt.Wire.tags, Tags(np.arange(30 * width, dtype=np.uint8).reshape(30, width))
        )

    def shop(end: Endpoint) -> None:
        end.link(DataParty, Coordinator, COORDINATOR).send(kkrt.Wire.tags, Tags(np.zeros((1, 3 * width), np.uint8)))

    def coordinator(end: Endpoint) -> Any:
        return exchange_as_coordinator(end, sizes, settings)

    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="shop sent"):
            exchange(TWO, settings, {"bank": bank, "shop": shop, COORDINATOR: coordinator})
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def announced(size: float) -> Callable[[Endpoint], None]:
    """A party that has its terms right but for the length of its list."""

    def act(end: Endpoint) -> None:
        judge = end.link(DataParty, Coordinator, COORDINATOR)
        facts = {**SETTINGS.facts(), **IdRules().facts()}
        judge.send(Wire.terms, Revealed(facts, np.array([size])))
        judge.recv(Wire.plan)

    return act


@pytest.mark.parametrize("size", [float(1 << 47), 2.0**31 + 1], ids=["2^47", "above 2^31"])
def test_a_length_that_no_list_has_is_refused_before_there_is_a_plan(size: float) -> None:
    """With 2^47 ids there would be 70 million buckets to play, each with everybody."""
    with pytest.raises(RemoteProtocolError, match="shop sent no proper number of ids"):
        align(SETTINGS, {"shop": announced(size)})


@pytest.mark.parametrize("size", [30.0, 2000.0])
def test_a_padded_list_of_another_length_is_refused(size: float) -> None:
    """A party that tells its own length, or lets all others play longer lists than the job has."""
    padded = replace(SETTINGS, pad_to=64)

    def shop(end: Endpoint) -> None:
        judge = end.link(DataParty, Coordinator, COORDINATOR)
        judge.send(Wire.terms, Revealed({**padded.facts(), **IdRules().facts()}, np.array([size])))
        judge.recv(Wire.plan)

    with pytest.raises(RemoteProtocolError, match=r"shop sent no proper number of ids .*pad_to = 64"):
        align(padded, {"shop": shop})


def test_a_coordinator_that_tells_other_lengths_of_padded_lists_is_named() -> None:
    padded = replace(SETTINGS, pad_to=64)

    def judge(end: Endpoint) -> None:
        links = [end.link(Coordinator, DataParty, name) for name in TWO]
        for link in links:
            link.recv(Wire.terms)
        for link in links:
            link.send(Wire.plan, Revealed({}, np.array([64.0, 2000.0] if link.peer == "bank" else [2000.0, 64.0])))

    with pytest.raises(RemoteProtocolError, match="coordinator sent a plan of the alignment that does not fit"):
        align(padded, {COORDINATOR: judge})


# lies about matches


@pytest.mark.parametrize("protocol", ["ecdh", "kkrt", "server-aided"])
def test_one_sided_dummies_are_no_members(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that names dummies would have the active party train on its last row, again and again."""
    settings = AlignmentSettings(protocol=protocol, min_intersection=1, one_sided=True, pad_to=64)

    def tell(end: Endpoint, active: str, own: Any, other: Any) -> None:
        every = np.arange(len(own), dtype=np.uint32) + (64 - len(own))
        payload = Positions(np.array([len(own), len(own)]), np.concatenate([every, every]))
        end.link(Coordinator, Active, active).send(verdict.Wire.members, payload)

    monkeypatch.setattr(verdict, "tell_members", tell)
    with pytest.raises(RemoteProtocolError, match="dummies of the alignment are common ids"):
        exchange({"bank": people(0, 20), "shop": people(0, 64)}, settings)


def test_a_padded_one_sided_alignment_of_rows_is_refused() -> None:
    """Dummies have no rows: the passive party would train on its last row in place of each."""
    with pytest.raises(ConfigError, match="pad_to: got 64 beside one_sided"):
        align(replace(SETTINGS, pad_to=64, one_sided=True))


# refusals while the others wait


class _Refusing:
    """Consent that ends at the n-th message."""

    def __init__(self, last: int) -> None:
        self.left = last

    def __call__(self, message: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise PolicyError(f"policy disclosures: party 'shop' does not consent to {message.name}")


@pytest.mark.parametrize("after", [1, 2])
@pytest.mark.parametrize("protocol", ["ecdh", "mpsi", "server-aided"])
def test_a_party_whose_policy_refuses_midway_leaves_nobody_waiting(protocol: str, after: int) -> None:
    columns = {name: [f"client-{i}" for i in range(40)] for name in ("bank", "shop", "biller")}
    plays = alignment(columns, AlignmentSettings(min_intersection=5, protocol=protocol))
    honest = plays["shop"]

    def shop(end: Endpoint) -> Any:
        end.consent = _Refusing(after)
        return honest(end)

    ended = run_over_sockets(plays | {"shop": shop})
    assert set(ended) == {*columns, COORDINATOR}
    assert isinstance(ended["shop"], PolicyError)
    assert all(isinstance(outcome, VflError) and "\n" not in str(outcome) for outcome in ended.values())


class _Failing(ListedIds):
    """Ids whose file is cut off while they are in use."""

    def elements(self, indices: Any) -> Any:
        raise DataError("a file of ids has been cut off while it was in use; run the alignment again")


@pytest.mark.parametrize("protocol", ["ecdh", "kkrt", "mpsi", "server-aided"])
def test_an_error_of_one_party_alone_waits_for_no_farewell(protocol: str) -> None:
    """The farewell is for what all refuse alike; here the others are in the middle, and wait for this party."""
    settings = AlignmentSettings(min_intersection=5, protocol=protocol)
    names = ("bank", "shop") if protocol == "kkrt" else ("bank", "shop", "biller")
    columns = {name: [f"client-{i}" for i in range(40)] for name in names}
    ids = _Failing.of(prepare_ids([columns["shop"]], IdRules(), party="shop"))
    with pytest.raises(LocalProtocolError, match="^a file of ids has been cut off"):
        play(columns, settings, replace={"shop": lambda end: align_party(end, ids, settings)})


def test_ids_that_were_chosen_for_one_bucket_fit_into_one_of_all() -> None:
    """Whoever can register customers can fill a bucket, which is public: running it again would not help."""
    many = people(0, 6000)
    settings = AlignmentSettings(min_intersection=1, bucket_ids=200, protocol="server-aided")
    here = bucket_of(elements_of(many), 3) == 0
    chosen = [name for name, hit in zip(many, here, strict=True) if hit][:500]
    lists = {"bank": chosen, "shop": chosen[:300]}
    with pytest.raises(CryptoError, match="overflows.* bucket_ids .* makes one bucket"):
        exchange(lists, settings)
    found = exchange(lists, replace(settings, bucket_ids=250))
    assert found[COORDINATOR] == 300


@pytest.mark.parametrize("active", ["bank", "shop", "biller"])
def test_a_leader_of_mpsi_that_tells_one_party_another_id_is_found_out(
    active: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tags of an id that the leader and that party alone have: as many as judged, and the orders differ."""
    ids = {"bank": range(30), "shop": range(40), "biller": range(10, 55)}
    columns = {name: [f"client-{i}" for i in own] for name, own in ids.items()}
    honest, other = mpsi.tell_common, elements_of(prepare_ids([["client-5"]], IdRules(), party="bank").ids)

    def tell(end: Endpoint, elements: Any, others: tuple[str, ...]) -> None:
        honest(end, np.concatenate([elements[1:], other]), others[:1])
        honest(end, elements, others[1:])

    monkeypatch.setattr(mpsi, "tell_common", tell)
    settings = AlignmentSettings(min_intersection=5, protocol="mpsi")
    with pytest.raises(RemoteProtocolError, match="differ after the join"):
        play(columns, settings, active=active)
