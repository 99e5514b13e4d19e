"""Set intersection of two or more parties by commuting masks on Curve25519; the coordinator joins.

Source: Meadows 1986, "A more efficient cryptographic matchmaking protocol", and Huberman, Franklin and Hogg 1999,
"Enhancing privacy and trust in electronic communities", section 3; X25519 is RFC 7748. For more than two parties
every list goes round a ring.

H(id) is a point (``psi.curve``), k_i party i's fresh secret, pi_i party i's shuffle. Party i, of n in job order::

    party i                         party i+1               ...     party i-1                       coordinator
    k_i H(pi_i ids)  --points-->    k_i+1 (...)  --points-->        k_i-1 (...)  --tags (12 bytes)-->  T_i

Each party takes n - 1 hops for others and is the last hop of exactly one list, the next party's, so that no party
ever holds two lists under the same keys. Points are sealed between parties; a hop keeps the order, so that
the owner of a list understands positions in it, and only the owner does.

*Leakage*

- ``tags``, to the coordinator: how many ids the lists of every set of parties have in common.

That is the Venn diagram in sizes: the coordinator compares fully masked lists and sees no id and no point. What it
then tells the parties is the verdict's part (`psi.verdict`). The sizes of all lists are public before this starts
(``psi.align``).

*Threat model*: everyone follows the protocol and is curious; decisional Diffie-Hellman on Curve25519, BLAKE2b as a
random oracle. The coordinator together with party p learns in which other parties' lists each id of p is. The two
neighbours of a party on the ring (of three parties: any two) together learn which ids of the first the party between
them holds. Received lists are checked (size, spelling, repetitions, low order), but nothing prevents a party from
making up ids to test for: that is what ``min_intersection`` and the parties' policies bound.

>>> from parties.local import run_local
>>> from parties.wire import Active, Coordinator, Passive
>>> from psi.elements import elements_of
>>> people = {"bank": [b"ann", b"bob", b"cy"], "shop": [b"cy", b"dan", b"bob"]}
>>> sizes = {name: len(ids) for name, ids in people.items()}
>>> plays = {name: lambda end, ids=ids: party(end, elements_of(ids), sizes) for name, ids in people.items()}
>>> plays["coordinator"] = lambda end: coordinator(end, sizes)
>>> found = run_local(plays, roles={"bank": Active, "shop": Passive, "coordinator": Coordinator})
>>> {name: sorted(people[name][i] for i in found[name][places]) for name, places in found["coordinator"].items()}
{'bank': [b'bob', b'cy'], 'shop': [b'bob', b'cy']}
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from parties.errors import RemoteProtocolError
from parties.link import COORDINATOR, Endpoint
from parties.wire import Bytes2D, Coordinator, DataParty, Message, Points, Tags
from psi.curve import POINT_BYTES, LowOrderPoint, canonical, fresh_secret, hash_and_mask, mask
from psi.elements import random_order
from psi.lists import TAG_BYTES, check_tag_length, checked_list, join


class Wire:
    """Every message of the protocol."""

    points = Message(DataParty, DataParty, Points)
    tags = Message(
        DataParty,
        Coordinator,
        Tags,
        discloses="how many ids the lists of every set of parties have in common",
    )


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
        Which bucket this is; the secrets are fresh for each anyway.
    workers : int
        Threads for the curve arithmetic.

    Returns
    -------
    ndarray of shape (n,), int64
        Which element stands at each place of the list that the coordinator has of this party.

    Raises
    ------
    RemoteProtocolError
        A malformed list.
    """
    check_tag_length(sizes)
    order = list(sizes)
    here, n = order.index(endpoint.name), len(order)
    after = endpoint.link(DataParty, DataParty, order[(here + 1) % n])
    before = endpoint.link(DataParty, DataParty, order[here - 1])
    judge = endpoint.link(DataParty, Coordinator, COORDINATOR)

    secret = fresh_secret()
    shuffle = random_order(len(elements))
    after.send(Wire.points, Points(hash_and_mask(elements[shuffle], secret, workers=workers)))
    for hop in range(1, n):
        owner = order[here - hop]
        points = _checked(before.recv(Wire.points).body, sizes[owner], before.peer)
        masked = _masked(points, secret, workers, before.peer)
        if hop < n - 1:
            after.send(Wire.points, Points(masked))
        else:
            judge.send(Wire.tags, Tags(np.ascontiguousarray(masked[:, :TAG_BYTES])))
    return shuffle


def coordinator(endpoint: Endpoint, sizes: Mapping[str, int], *, part: int = 0) -> dict[str, NDArray[np.int64]]:
    """The coordinator's part: joins fully masked lists.

    Returns
    -------
    dict of party to ndarray of shape (common,), int64
        Places in every list of what all lists have; parallel.

    Raises
    ------
    RemoteProtocolError
        A malformed list.
    """
    return join(collect(endpoint, sizes))


def collect(endpoint: Endpoint, sizes: Mapping[str, int]) -> dict[str, Bytes2D]:
    """All fully masked lists, checked, in job order.

    Raises
    ------
    RemoteProtocolError
        A malformed list.
    """
    check_tag_length(sizes)
    order = list(sizes)
    lists = {}
    for last_hop, owner in zip(order, order[1:] + order[:1], strict=True):
        tags = endpoint.link(Coordinator, DataParty, last_hop).recv(Wire.tags).body
        lists[owner] = checked_list(tags, sizes[owner], TAG_BYTES, last_hop)
    return {name: lists[name] for name in order}


def _checked(rows: Bytes2D, count: int, sender: str) -> Bytes2D:
    """A received list of points: as announced, reduced, no repetition."""
    points = checked_list(rows, count, POINT_BYTES, sender)
    if not canonical(points):
        raise RemoteProtocolError(f"{sender} sent points for the alignment that are not reduced")
    return points


def _masked(points: Bytes2D, secret: bytes, workers: int, sender: str) -> Bytes2D:
    """``mask``, blaming the sender for points of low order."""
    try:
        return mask(points, secret, workers=workers)
    except LowOrderPoint as error:
        raise RemoteProtocolError(f"{sender} sent a point of low order for the alignment") from error
