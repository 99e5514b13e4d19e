"""Alignment as each role lives it: compare rules, intersect, order the rows, prove that all have the same order.

    party p                                  coordinator
      terms: rules, settings, size  ------>    compares
                                    <------  plan: the difference to name, or all sizes
      ... the protocol and the verdict (psi.exchange) ...
      sorts the common ids by SHA-256("rows" | seed | id)
    other party of one list                  guide: the active party
      proof: HMAC(secret of the two, SHA-256(ordered keys))  ------>  compares with its own
      ... silos hear their rows of it, and prove them (psi.silo_rows) ...
    any other party                         <------  agreed
    Where all are refused alike (terms differ, too few in common), nobody leaves before all have read it:
    party p  noted  ------>  coordinator  (from all)  ------>  parted  party p

The order depends on the seed and the ids alone: the same rows, order and test split whenever the same seed meets the
same ids. In a one-sided alignment only the active party knows rows and order, and there is nothing to prove. Where a
party has several silos each of them ends with its own rows and where they stand among all common ones; where all
parties have, the order is drawn anew in every run, and the guide is the active party's first silo (`psi.silos`).

*Leakage*

- ``terms``, to the coordinator: how many distinct valid ids the party has, or pad_to.
- ``plan``, to each party: how many distinct valid ids every party has, or pad_to.

And what the protocol's own file says. Rules and settings are the job's, known to all. The proof is keyed with a secret
that the coordinator does not have.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parties.errors import ConfigError, DataError, LocalProtocolError, PeerLost, RemoteProtocolError
from parties.link import COORDINATOR, Endpoint, Link
from parties.wire import Control, Coordinator, DataParty, Message, Passive, Revealed
from psi import silo_rows, silos
from psi.exchange import Found, exchange_as_coordinator, exchange_as_party, make_plan
from psi.ids import PreparedIds
from psi.order import ascending, ordered_digest
from psi.order import row_order as row_order
from psi.settings import AlignmentSettings as AlignmentSettings
from psi.settings import Fact, check_parties
from psi.silos import sizes_by_holder
from psi.source import Ids, ListedIds

MAX_IDS = 1 << 31
"""Longest list: places in it travel in 32 bits, and a length made up can cost others no more buckets than this has."""


class Wire:
    """The messages around the protocol."""

    terms = Message(DataParty, Coordinator, Revealed, discloses="how many distinct valid ids the party has, or pad_to")
    plan = Message(Coordinator, DataParty, Revealed, discloses="how many distinct valid ids every party has, or pad_to")
    proof = Message(Passive, DataParty, Control)
    agreed = Message(DataParty, DataParty, Control)
    noted = Message(DataParty, Coordinator, Control)
    parted = Message(Coordinator, DataParty, Control)


@dataclass(frozen=True)
class Alignment:
    """What a party has after alignment.

    Attributes
    ----------
    rows : ndarray of shape (intersection,), int64
        Its own CSV rows in the agreed order; of one of several silos those that are its own.
    sizes : dict of party to int
        Public sizes, in job order: distinct valid ids of every party or silo, or ``pad_to``.
    intersection : int
        Common ids; 0 at the passive party of a one-sided alignment, which learns no number.
    protocol : str
        The protocol that ran, never "auto".
    digest : str
        SHA-256 (hex) of the set of common ids, whatever the seed: budgets are counted per digest. It stays at the
        party: who knows the range of the ids could test a guess of the whole set against it. A silo's: of those
        that are its own.
    places : ndarray of shape (intersection,), int64, or None
        One-sided, active party: where its rows stand in the passive party's list.
    owned : ndarray of shape (own,), int64, or None
        At one of several silos: parallel to ``rows``, which of the ``intersection`` common rows are its own,
        ascending. Of a party with one list all are.
    """

    rows: NDArray[np.int64]
    sizes: dict[str, int]
    intersection: int
    protocol: str
    digest: str
    places: NDArray[np.int64] | None = None
    owned: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Joined:
    """What the coordinator has after alignment: sizes only."""

    sizes: dict[str, int]
    intersection: int
    protocol: str


def align_party(
    endpoint: Endpoint, ids: PreparedIds | Ids, settings: AlignmentSettings, *, workers: int = 1
) -> Alignment:
    """Align one party's rows with everybody else's.

    Raises
    ------
    ConfigError
        The parties' id rules or settings differ; the text names the difference.
    DataError
        Too few ids, or too few in common. All roles raise the same.
    RemoteProtocolError
        A peer broke the protocol, or rows differ after the join.
    """
    _check_settings(settings, endpoint)
    source: Ids = ListedIds.of(ids) if isinstance(ids, PreparedIds) else ids
    judge = endpoint.link(DataParty, Coordinator, COORDINATOR)
    size = settings.pad_to or source.count
    judge.send(Wire.terms, Revealed(_terms(source, settings), np.array([size], np.float64)))
    try:
        sizes = _read_plan(judge.recv(Wire.plan), endpoint, size, settings)
        found = exchange_as_party(endpoint, source, sizes, settings, workers=workers)
    except (ConfigError, DataError):
        _part_as_party(judge)
        raise
    protocol = make_plan(settings, sizes).protocol
    digest = source.set_digest(found.own)
    if settings.cardinality or (settings.one_sided and found.places is None):
        return Alignment(source.csv_rows(found.own), sizes, found.common, protocol, digest)
    if endpoint.name in silos.cast_of(endpoint.roles).silos:
        order, owned = _settle_as_silo(endpoint, source, found)
        return Alignment(source.csv_rows(found.own[order]), sizes, found.common, protocol, digest, owned=owned)
    order, ordered = _order(source, found.own, settings.seed)
    if found.places is None:
        _agree(endpoint, ordered, _settled_as_guide(endpoint, source, found, order))
    places = None if found.places is None else found.places[order]
    return Alignment(source.csv_rows(found.own[order]), sizes, found.common, protocol, digest, places)


def align_coordinator(endpoint: Endpoint, settings: AlignmentSettings) -> Joined:
    """Compare what the parties bring, then join their masked lists.

    Raises
    ------
    ConfigError, DataError, RemoteProtocolError
        As in ``align_party``.
    """
    _check_settings(settings, endpoint)
    links = {name: endpoint.link(Coordinator, DataParty, name) for name in endpoint.peers(DataParty)}
    terms = {name: link.recv(Wire.terms) for name, link in links.items()}
    sizes = {name: _announced_size(name, told) for name, told in terms.items()}
    refusal = _difference(terms, settings)
    if not refusal:
        _check_padded(sizes, settings)
        refusal = _too_short(sizes, settings)
    values = np.array([] if refusal else list(sizes.values()), np.float64)
    for link in links.values():
        link.send(Wire.plan, Revealed(refusal, values))
    try:
        if refusal:
            raise _refused(refusal, settings)
        common = exchange_as_coordinator(endpoint, sizes, settings)
    except (ConfigError, DataError):
        _part_as_coordinator(list(links.values()))
        raise
    return Joined(sizes, common, make_plan(settings, sizes).protocol)


def _order(ids: Ids, common: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], bytes]:
    """The agreed order of common ids, and its digest."""
    keys = ids.order_keys(common, seed)
    order = ascending(keys)
    return order, ordered_digest(keys, order)


def _settle_as_silo(endpoint: Endpoint, ids: Ids, found: Found) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One of several silos: what puts its common ids in order, and where they then stand among all common rows."""
    cast = silos.cast_of(endpoint.roles)
    if found.numbers is None:
        raise LocalProtocolError(f"{endpoint.name} has no numbers of its common rows")
    if endpoint.name == cast.guide:
        rows = silo_rows.tell_rows(endpoint, cast, found.numbers, None, found.common)
    else:
        rows = silo_rows.hear_rows(endpoint, cast, found.numbers, found.common)
    differing = silo_rows.prove(endpoint, cast, ids, found.own, rows)
    _agree(endpoint, b"", differing)
    order = np.argsort(rows)
    return order, rows[order]


def _settled_as_guide(endpoint: Endpoint, ids: Ids, found: Found, order: NDArray[np.int64]) -> str | None:
    """At a guide with one list: the first party whose silos prove to have other rows; None elsewhere."""
    if found.numbers is None:
        return None
    cast = silos.cast_of(endpoint.roles)
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    rows = silo_rows.tell_rows(endpoint, cast, found.numbers, ranks, found.common)
    return silo_rows.prove(endpoint, cast, ids, found.own, rows)


def _terms(ids: Ids, settings: AlignmentSettings) -> dict[str, Fact]:
    """Everything that has to be equal at all parties."""
    return {**settings.facts(), **ids.rules.facts()}


def _announced_size(name: str, told: Revealed) -> int:
    """How many ids a party says it has."""
    if len(told.values) != 1 or not _whole(told.values):
        raise RemoteProtocolError(f"{name} sent no proper number of ids for the alignment")
    return int(told.values[0])


def _check_settings(settings: AlignmentSettings, endpoint: Endpoint) -> None:
    """Refuse dummies among rows that are trained on, and what cannot put the lists of silos together."""
    cast = silos.cast_of(endpoint.roles)
    if cast.silos:
        check_parties(settings.protocol, settings.one_sided, len(cast.holders), silos=True)
    if len(cast.holders) < 2:
        raise ConfigError(f"alignment: got {len(cast.holders)} parties, expected at least two")
    if settings.one_sided and settings.pad_to is not None:
        raise ConfigError(
            f"[alignment] pad_to: got {settings.pad_to} beside one_sided = true, expected none: the passive party "
            "trains on its whole list, and dummies have no rows"
        )


def _check_padded(sizes: Mapping[str, int], settings: AlignmentSettings) -> None:
    """Every list is as long as the job says: who tells another length plays alone, or makes others play for longer."""
    for name, size in sizes.items():
        if settings.pad_to not in (None, size):
            raise RemoteProtocolError(
                f"{name} sent no proper number of ids for the alignment, expected pad_to = {settings.pad_to}"
            )


def _difference(terms: Mapping[str, Revealed], settings: AlignmentSettings) -> dict[str, Fact]:
    """The first difference in the terms: between a party and the job, or between a party and the first party."""
    first = next(iter(terms.values())).facts
    expected = {**first, **settings.facts()}
    for name, told in terms.items():
        if told.facts.keys() != expected.keys():
            raise RemoteProtocolError(f"{name} sent terms of the alignment with other names than expected")
        for fact, due in expected.items():
            if told.facts[fact] != due:
                return {"refused": "terms", "party": name, "fact": fact, "got": told.facts[fact], "expected": due}
    return {}


def _too_short(sizes: Mapping[str, int], settings: AlignmentSettings) -> dict[str, Fact]:
    """A party with fewer ids than ``min_intersection``: refused before any masked list exists."""
    held = sizes_by_holder(sizes)
    name = min(held, key=lambda party: held[party])
    if settings.tell_small_count or held[name] >= settings.min_intersection:
        return {}
    return {"refused": "size", "party": name, "got": held[name]}


def _refused(refusal: Mapping[str, Fact], settings: AlignmentSettings) -> ConfigError | DataError:
    """The error that all roles raise for a refusal."""
    party, got = refusal["party"], str(refusal["got"])[:64]
    if refusal["refused"] == "size":
        least = f"expected at least min_intersection = {settings.min_intersection}"
        return DataError(f"alignment: fewer than min_intersection ids: party '{party}' got {got} valid ids, {least}")
    fact, due = refusal["fact"], str(refusal["expected"])[:64]
    same = "all parties need the same id rules and settings"
    return ConfigError(f"alignment: party '{party}', {fact}: got {got}, expected {due}; {same}")


def _read_plan(plan: Revealed, endpoint: Endpoint, own: int, settings: AlignmentSettings) -> dict[str, int]:
    """The sizes of all lists in job order, or the refusal as an error."""
    order = [name for name, role in endpoint.roles.items() if issubclass(role, DataParty)]
    facts = plan.facts
    size_refused = facts.get("refused") == "size" and facts.keys() == {"refused", "party", "got"}
    terms_refused = facts.get("refused") == "terms" and facts.keys() == {"refused", "party", "got", "fact", "expected"}
    if facts.get("party") in (*order, *silos.holders_of(order)) and (size_refused or terms_refused):
        raise _refused(facts, settings)
    sizes = dict(zip(order, plan.values.tolist(), strict=False))
    fitting = len(plan.values) == len(order) and _whole(plan.values) and sizes[endpoint.name] == own
    if facts or not fitting or (settings.pad_to is not None and set(sizes.values()) != {own}):
        raise RemoteProtocolError(f"{COORDINATOR} sent a plan of the alignment that does not fit the parties")
    return {name: int(size) for name, size in sizes.items()}


def _whole(values: NDArray[np.float64]) -> bool:
    """Whether all are positive whole numbers that a list could have as its length."""
    return values.ndim == 1 and bool(((values >= 1) & (values <= MAX_IDS) & (values == np.floor(values))).all())


def _part_as_party(judge: Link[DataParty, Coordinator]) -> None:
    """Stay until all have read the refusal: who leaves with an error earlier looks lost to the others."""
    judge.send(Wire.noted, Control({}))
    with suppress(PeerLost):  # somebody has left already, so all have noted
        judge.recv(Wire.parted)


def _part_as_coordinator(links: Sequence[Link[Coordinator, DataParty]]) -> None:
    """Wait until every party has read the refusal, then let all go."""
    with suppress(PeerLost):
        for link in links:
            link.recv(Wire.noted)
        for link in links:
            link.send(Wire.parted, Control({}))


def _agree(endpoint: Endpoint, order: bytes, differing: str | None = None) -> None:
    """Every other party of one list proves to the guide that it has the same ids in the same order; all hear of it.

    ``differing``: at the guide, a party whose silos have other rows.
    """
    cast = silos.cast_of(endpoint.roles)
    if endpoint.name != cast.guide:
        guide = endpoint.link(DataParty, DataParty, cast.guide)
        if endpoint.name in cast.whole:
            proof = _proof(endpoint, guide.peer, order)
            endpoint.link(Passive, DataParty, guide.peer).send(Wire.proof, Control({"proof": proof}))
        _check_agreed(guide.peer, guide.recv(Wire.agreed).facts, cast)
        return
    for name in (party for party in cast.whole if party != endpoint.name):
        got = endpoint.link(DataParty, Passive, name).recv(Wire.proof).facts.get("proof")
        if not _proves(got, _proof(endpoint, name, order)):
            differing = differing or name
    for name in endpoint.peers(DataParty):
        endpoint.link(DataParty, DataParty, name).send(Wire.agreed, Control({"differs": differing}))
    if differing:
        raise _differs(differing, cast.guide)


def _check_agreed(guide: str, facts: Mapping[str, Fact], cast: silos.Cast) -> None:
    """Raise unless the guide found all rows equal."""
    differs = facts.get("differs")
    if facts.keys() != {"differs"} or (differs is not None and differs not in (*cast.whole, *cast.holders)):
        raise RemoteProtocolError(f"{guide} sent no proper verdict on the order of rows")
    if differs is not None:
        raise _differs(str(differs), guide)


def _differs(party: str, guide: str) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"alignment: the rows of '{party}' and of '{guide}' differ after the join: "
        f"one of them or {COORDINATOR} broke the protocol"
    )


def _proof(endpoint: Endpoint, peer: str, order: bytes) -> str:
    """HMAC over the digest of the ordered ids, under a secret of the two parties: it proves nothing for a third."""
    secret = endpoint.pair_secret(peer, "alignment order")
    return hmac.new(secret, b"vfl alignment|" + order, hashlib.sha256).hexdigest()


def _proves(got: Fact, expected: str) -> bool:
    return isinstance(got, str) and hmac.compare_digest(got.encode(), expected.encode())
