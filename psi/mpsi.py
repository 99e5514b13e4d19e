"""Set intersection of three and more parties (two work too): who joins lists learns how many ids are common, no more.

Source: Kolesnikov, Matania, Pinkas, Rosulek and Trieu, "Practical Multi-party Private Set Intersection from Symmetric-
Key Techniques" (CCS 2017), sections 4 and 5: zero-sharing, and a programmable OPRF of one party with each other one,
here KKRT's (`psi.oprf`) with a key-value store (`psi.okvs`). There the leader compares and learns the intersection at
once; here the coordinator compares, so that ``min_intersection`` comes first, and the tags that it compares pass
through two hands, so that no party can recompute them for the coordinator.

The leader L has the shortest list, the dealer D the next one, the mixer M the third (`cast_of`); P_i is every party
but L. PRF(k, .) is AES (`psi.prf`). k_ij is a key of P_i and P_j alone, k_D one of D and L, k_M one of M and L, k* one
of D alone. F_i(y, f) is the OPRF of P_i, which L knows at its ids x, and there for one of three functions, f(x). The
share of P_i of an id y is

    S_i(y) = XOR over other P_j of PRF(k_ij, y),  at the dealer also XOR T(y),  T(y) = PRF(k*, y)

so that the shares of one id add up to T. To have all three masks at hand a key of the store is an id and its value is
S_i(y) XOR F_i(y, f) for f = 0, 1, 2, one after the other::

    party P_i                                     leader L                                  coordinator
      <----- OPRF (psi.oprf) ----->               F_i(x, f(x))
      table: store of (y, S_i(y) XOR F_i(y, f)) ->  u_i(x) = value at x, f(x) XOR F_i(x, f(x))
                                                  v(x) = XOR over i of u_i(x)
                                                    tags: shuffled PRF(k_M, PRF(k_D, v(x))) -->  list of L
    dealer D                         mixer M
      dealt: shuffled PRF(k_D, T(y)) ->  tags: shuffled PRF(k_M, what was dealt) ------------->  list of D's ids
                                                                    <- verdict, matches (psi.verdict)
                                     leader L                                         party P_i
                                       common: sorted PRF(k_Li, x), common x  ------->  looks them up among its own

With two parties there is no mixer: D's own list goes to the coordinator, under k_D alone.

An id x of all parties gives v(x) = T(x), and equal tags. For an id that some P_i lacks, u_i(x) is a mask that nothing
else depends on, and v(x) is uniform. All values, and the tags after each of two masks, have `tag_bytes` bytes:
40 + log2(3) + log2 of the pairs among the ids of L and D, so that in each bucket with probability below 2^-40 two of
them are equal that need not be.

*Leakage*

- ``tags``, to the coordinator: how many ids all parties have in common.
- ``common``, to each other party than the leader: which of its ids all other parties hold too.

The leader hears the same from the verdict's ``matches``. Nobody learns how many ids some of the parties have in
common, or which: a table is uniform to L (`psi.okvs`), for L lacks F_i but at f(x), and S_i where it has F_i. And
u_i(x) is uniform to it whether or not P_i holds x: shares of some, but not all, P_i are uniform together, even beside
T. What is dealt is uniform to M, which lacks k*. The sizes of all lists are public before this starts (``psi.align``).

*Threat model*: everyone follows the protocol and is curious; AES is a pseudo-random function, and what `psi.oprf`
assumes. No single party learns more if the coordinator shares its view with it:

- with L: L knows which v(x) is on both lists, and so what is common, even below ``min_intersection`` or where only
  the number was asked for. The other tags of D's ids it cannot relate to anything: they come from T under k*, of
  which L has seen T(x) for common ids only; elsewhere shares are missing.
- with D: D can compute what was dealt and, for ids that it lacks itself, v(x); but it lacks k_M, and M has shuffled.
  What the coordinator has is random but for the number of tags that are on both lists.
- with M: M lacks k_D, so that all that it was dealt and all that L masked is random to it, but for that number.
- with another P_i: it lacks k_D and k_M.

Two parties that collude: L with P_i, most of all beside the coordinator, learns at most which of L's ids all others
than P_i hold, as if P_i held all of them, and without a verdict. D with M and the coordinator can test any id: whether
all others hold it. Other pairs, and D with M alone, learn nothing. With two parties, and so no mixer, the coordinator
with D can test any id against L's list. A party can also make ids up; that is what ``min_intersection`` and the
parties' policies bound.

>>> from parties.local import run_local
>>> from parties.wire import Active, Coordinator, Passive
>>> from psi.elements import elements_of
>>> people = {"bank": [b"ann", b"bob", b"cy"], "shop": [b"cy", b"bob"], "post": [b"bob", b"di", b"ann"]}
>>> sizes = {name: len(ids) for name, ids in people.items()}
>>> plays = {name: lambda end, ids=ids: party(end, elements_of(ids), sizes) for name, ids in people.items()}
>>> plays["coordinator"] = lambda end: coordinator(end, sizes)
>>> found = run_local(plays, roles={"bank": Active, "shop": Passive, "post": Passive, "coordinator": Coordinator})
>>> {name: [people[name][i] for i in found[name][places]] for name, places in found["coordinator"].items()}
{'shop': [b'bob']}
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parties.errors import ConfigError, RemoteProtocolError
from parties.link import COORDINATOR, Endpoint
from parties.wire import Blinded, Bytes2D, Coordinator, DataParty, Message, Tags
from psi import okvs, oprf
from psi.cuckoo import FUNCTIONS
from psi.elements import random_order
from psi.lists import STATISTICAL_BITS, as_keys, checked_list, join
from psi.prf import SEED_BYTES, expanded

BLOCK_BYTES = 16


class Wire:
    """Every message beside those of `psi.oprf`."""

    table = Message(DataParty, DataParty, Blinded)
    dealt = Message(DataParty, DataParty, Blinded)
    tags = Message(DataParty, Coordinator, Tags, discloses="how many ids all parties have in common")
    common = Message(DataParty, DataParty, Tags, discloses="which of its ids all other parties hold too")


@dataclass(frozen=True)
class Cast:
    """Who does what.

    Parameters
    ----------
    leader : str
        Has the shortest list.
    dealer : str
        Has the next one.
    mixer : str or None
        Has the third; None with two parties.
    others : tuple of str
        All but the leader, in the order of their lists' lengths.
    """

    leader: str
    dealer: str
    mixer: str | None
    others: tuple[str, ...]


def cast_of(sizes: Mapping[str, int]) -> Cast:
    """Parts by the lengths of lists; the same length: in job order.

    Raises
    ------
    ConfigError
        Fewer than two parties.
    """
    if len(sizes) < 2:
        raise ConfigError(f"alignment: got {len(sizes)} parties, expected at least two")
    leader, *others = sorted(sizes, key=lambda name: sizes[name])
    return Cast(leader, others[0], others[1] if len(others) > 1 else None, tuple(others))


def tag_bytes(sizes: Mapping[str, int]) -> int:
    """Bytes of every value and tag, from the lengths of the leader's and the dealer's lists.

    Raises
    ------
    ConfigError
        More than a block of AES has.
    """
    cast = cast_of(sizes)
    values = sizes[cast.leader] + sizes[cast.dealer]
    width = math.ceil((STATISTICAL_BITS + math.log2(3 * math.comb(values, 2))) / 8)
    if width > BLOCK_BYTES:
        raise ConfigError(f"alignment: tags have up to {BLOCK_BYTES} bytes, lists of these lengths need {width}")
    return width


def party(
    endpoint: Endpoint, elements: Bytes2D, sizes: Mapping[str, int], *, part: int = 0, workers: int = 1
) -> NDArray[np.int64]:
    """One party's part.

    Parameters
    ----------
    elements : ndarray of shape (n, 32), uint8
        Distinct.
    sizes : mapping of party to int
        Length of every party's list, in job order.
    part : int
        Which bucket this is: another one at each call on one endpoint.
    workers : int
        Threads.

    Returns
    -------
    ndarray of int64
        At the leader: which element stands at each place of the list that the coordinator has of it. Elsewhere
        empty: the coordinator has no list of which that party knows the order.

    Raises
    ------
    RemoteProtocolError
        A malformed message.
    """
    endpoint.claim(f"mpsi|{part}")  # the same shares twice would show which ids of the leader a party holds
    cast = cast_of(sizes)
    if endpoint.name == cast.leader:
        return _lead(endpoint, elements, sizes, part, workers)
    width = tag_bytes(sizes)
    targets = (
        expanded(elements, os.urandom(SEED_BYTES), b"mpsi target", width) if endpoint.name == cast.dealer else None
    )
    _send_table(endpoint, elements, sizes, targets, part, workers)
    if targets is not None:
        _deal(endpoint, cast, targets, part)
    if endpoint.name == cast.mixer:
        _mix(endpoint, cast, sizes, part)
    return np.zeros(0, np.int64)


def coordinator(endpoint: Endpoint, sizes: Mapping[str, int], *, part: int = 0) -> dict[str, NDArray[np.int64]]:
    """The coordinator's part: joins the leader's list and that of the dealer's ids.

    Returns
    -------
    dict of party to ndarray of shape (common,), int64
        The leader alone: the places in its list of what all parties hold.

    Raises
    ------
    RemoteProtocolError
        A malformed list.
    """
    cast, width = cast_of(sizes), tag_bytes(sizes)
    lists = {}
    for owner, sender in ((cast.leader, cast.leader), (cast.dealer, cast.mixer or cast.dealer)):
        tags = endpoint.link(Coordinator, DataParty, sender).recv(Wire.tags).body
        lists[owner] = checked_list(tags, sizes[owner], width, sender)
    return {cast.leader: join(lists)[cast.leader]}


def tell_common(endpoint: Endpoint, elements: Bytes2D, others: tuple[str, ...]) -> None:
    """The leader tells each other party which ids of one bucket are common.

    Parameters
    ----------
    elements : ndarray of shape (common, 32), uint8
    others : tuple of str
    """
    for name in others:
        tags = _common_tags(endpoint, name, elements)
        endpoint.link(DataParty, DataParty, name).send(Wire.common, Tags(tags[np.argsort(as_keys(tags))]))


def hear_common(endpoint: Endpoint, elements: Bytes2D, leader: str) -> NDArray[np.int64]:
    """A party hears which of its ids of one bucket are common: their places, ascending.

    Raises
    ------
    RemoteProtocolError
        Tags that are not those of different ids of its own.
    """
    tags = endpoint.link(DataParty, DataParty, leader).recv(Wire.common).body
    checked_list(tags, min(len(tags), len(elements)), BLOCK_BYTES, leader)
    places = join({"own": _common_tags(endpoint, leader, elements), "told": tags})["own"]
    if len(places) != len(tags):
        raise RemoteProtocolError(f"{leader} says that ids are common which {endpoint.name} does not have")
    return places


def _lead(
    endpoint: Endpoint, elements: Bytes2D, sizes: Mapping[str, int], part: int, workers: int
) -> NDArray[np.int64]:
    """Learn the sum of all shares where all hold an id, mask it twice, send it in a fresh order."""
    cast, width = cast_of(sizes), tag_bytes(sizes)
    outputs = {
        name: oprf.receive(endpoint, name, elements, sender_count=sizes[name], width=width, part=part, workers=workers)
        for name in cast.others
    }
    tags = np.zeros((len(elements), width), np.uint8)
    for name, received in outputs.items():
        tags ^= _open(endpoint, elements, name, sizes[name], received, part)
    for hand, name in _hands(cast):
        tags = _masked(tags, _pair_key(endpoint, name, hand, part))
    shuffle = random_order(len(elements))
    endpoint.link(DataParty, Coordinator, COORDINATOR).send(Wire.tags, Tags(tags[shuffle]))
    return shuffle


def _open(endpoint: Endpoint, elements: Bytes2D, name: str, count: int, received: oprf.Received, part: int) -> Bytes2D:
    """A party's share of each id of the leader; of one that it lacks, random bytes."""
    table = endpoint.link(DataParty, DataParty, name).recv(Wire.table).body
    width = received.outputs.shape[1]
    expected = (okvs.table_rows(count), FUNCTIONS * width)
    if table.shape != expected:
        raise RemoteProtocolError(f"{name} sent a table of shape {table.shape} for the alignment, expected {expected}")
    values = okvs.decode(_pair_key(endpoint, name, "table", part), elements, table, count)
    slots = values.reshape(len(elements), FUNCTIONS, width)
    return np.asarray(slots[np.arange(len(elements)), received.functions] ^ received.outputs)


def _send_table(
    endpoint: Endpoint, elements: Bytes2D, sizes: Mapping[str, int], targets: Bytes2D | None, part: int, workers: int
) -> None:
    """This party's shares, under the masks that the leader has for its own ids only."""
    cast, width = cast_of(sizes), tag_bytes(sizes)
    evaluator = oprf.send(
        endpoint,
        cast.leader,
        sender_count=len(elements),
        receiver_count=sizes[cast.leader],
        width=width,
        part=part,
        workers=workers,
    )
    shares = np.zeros((len(elements), width), np.uint8) if targets is None else targets.copy()
    for peer in cast.others:
        if peer != endpoint.name:
            shares ^= expanded(elements, _pair_key(endpoint, peer, "zero", part), b"mpsi share", width)
    masked = evaluator.evaluate_all(elements)
    masked.reshape(-1, FUNCTIONS, width)[:] ^= shares[:, None]
    seed = _pair_key(endpoint, cast.leader, "table", part)
    table = okvs.encode(seed, elements, masked)
    endpoint.link(DataParty, DataParty, cast.leader).send(Wire.table, Blinded(table))


def _deal(endpoint: Endpoint, cast: Cast, targets: Bytes2D, part: int) -> None:
    """The dealer masks the sums that all shares of its ids have, and gives them to the mixer."""
    key = _pair_key(endpoint, cast.leader, "dealer", part)
    masked = _masked(targets, key)[random_order(len(targets))]
    if cast.mixer is None:
        endpoint.link(DataParty, Coordinator, COORDINATOR).send(Wire.tags, Tags(masked))
    else:
        endpoint.link(DataParty, DataParty, cast.mixer).send(Wire.dealt, Blinded(masked))


def _mix(endpoint: Endpoint, cast: Cast, sizes: Mapping[str, int], part: int) -> None:
    """The mixer masks and shuffles what it is dealt: the dealer recognises none of it."""
    width, count = tag_bytes(sizes), sizes[cast.dealer]
    dealt = endpoint.link(DataParty, DataParty, cast.dealer).recv(Wire.dealt).body
    dealt = checked_list(dealt, count, width, cast.dealer)
    masked = _masked(dealt, _pair_key(endpoint, cast.leader, "mixer", part))
    endpoint.link(DataParty, Coordinator, COORDINATOR).send(Wire.tags, Tags(masked[random_order(count)]))


def _hands(cast: Cast) -> list[tuple[str, str]]:
    """Through which hands the dealer's list goes, and who they are."""
    return [("dealer", cast.dealer)] + ([] if cast.mixer is None else [("mixer", cast.mixer)])


def _pair_key(endpoint: Endpoint, peer: str, what: str, part: int) -> bytes:
    """32 bytes that this party and ``peer`` alone have, others for everything they are used for."""
    return endpoint.pair_secret(peer, f"mpsi|{part}|{what}")


def _common_tags(endpoint: Endpoint, peer: str, elements: Bytes2D) -> Bytes2D:
    """One block per id, different ids different ones."""
    return expanded(elements, endpoint.pair_secret(peer, "mpsi|common"), b"mpsi common", BLOCK_BYTES)


def _masked(tags: Bytes2D, key: bytes) -> Bytes2D:
    """PRF of each tag, as wide as the tag."""
    blocks = np.zeros((len(tags), BLOCK_BYTES), np.uint8)
    blocks[:, : tags.shape[1]] = tags
    return expanded(blocks, key, b"mpsi tag", tags.shape[1])
