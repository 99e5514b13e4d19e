"""Set intersection of two or more parties under a key that they share and the coordinator does not have: opt-in.

Source: Kamara, Mohassel, Raykova and Sadeghian 2014, "Scaling private set intersection to billion-element sets",
section 3, against a server that follows the protocol.

F is a pseudo-random function (`psi.prf`), pi_i party i's shuffle. Of n parties in job order::

    party 1                         party i                          coordinator
    k, fresh  --key (sealed)----->  k
    pi_1 F(k, ids of party 1)  --tags (12 bytes)-------------------->  T_1
                                    pi_i F(k, ids of party i)  ----->  T_i

*Leakage*

- ``tags``, to the coordinator: how many ids the lists of every set of parties have in common.

That is the Venn diagram in sizes. Shuffles are the operating system's randomness, not the order of the tags: in a
one-sided alignment the active party, which has the key, is told places in the other's list.

*Threat model*: everyone follows the protocol and is curious, and nobody gives the coordinator the key. The coordinator
together with ANY ONE party can test every id that they think of, offline and without limit, against every party's
list: phone numbers, say, one by one. In `psi.kkrt`, and `psi.mpsi` of two parties, one of the two can help it to that;
with three parties and more no other protocol allows it, which is why every party's policy must list this one. AES is
taken for a pseudo-random permutation.

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

import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from parties.errors import RemoteProtocolError
from parties.link import COORDINATOR, Endpoint
from parties.wire import Blinded, Bytes2D, Coordinator, DataParty, Message, Tags
from psi.elements import random_order
from psi.lists import TAG_BYTES, check_tag_length, checked_list, join
from psi.prf import SEED_BYTES, expanded

_PURPOSE = b"server-aided alignment"


class Wire:
    """Every message of the protocol."""

    key = Message(DataParty, DataParty, Blinded)
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
        Which bucket this is; the key is fresh for each.
    workers : int
        More than one thread would gain nothing here.

    Returns
    -------
    ndarray of shape (n,), int64
        Which element stands at each place of the list that the coordinator has of this party.

    Raises
    ------
    RemoteProtocolError
        A malformed key.
    """
    check_tag_length(sizes)
    key = _shared_key(endpoint, list(sizes))
    shuffle = random_order(len(elements))
    tags = expanded(elements, key, _PURPOSE, TAG_BYTES).take(shuffle, axis=0)
    endpoint.link(DataParty, Coordinator, COORDINATOR).send(Wire.tags, Tags(tags))
    return shuffle


def coordinator(endpoint: Endpoint, sizes: Mapping[str, int], *, part: int = 0) -> dict[str, NDArray[np.int64]]:
    """The coordinator's part: joins the lists.

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
    """All masked lists, checked, in job order.

    Raises
    ------
    RemoteProtocolError
        A malformed list.
    """
    check_tag_length(sizes)
    lists = {}
    for name, size in sizes.items():
        tags = endpoint.link(Coordinator, DataParty, name).recv(Wire.tags).body
        lists[name] = checked_list(tags, size, TAG_BYTES, name)
    return lists


def _shared_key(endpoint: Endpoint, order: Sequence[str]) -> bytes:
    """The first party draws a key and tells the others, sealed."""
    first, *others = order
    if endpoint.name == first:
        key = os.urandom(SEED_BYTES)
        for name in others:
            payload = Blinded(np.frombuffer(key, np.uint8).reshape(1, -1))
            endpoint.link(DataParty, DataParty, name).send(Wire.key, payload)
        return key
    body = endpoint.link(DataParty, DataParty, first).recv(Wire.key).body
    if body.shape != (1, SEED_BYTES):
        raise RemoteProtocolError(f"{first} sent no proper key for the alignment")
    return body.tobytes()
