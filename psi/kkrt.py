"""Set intersection of two parties with long lists by an oblivious pseudo-random function; the coordinator joins.

Source: Kolesnikov, Kumaresan, Rosulek and Trieu 2016, "Efficient batched oblivious PRF with applications to private set
intersection", section 5, without a stash. There the receiver compares; here the coordinator does, so that nobody learns
anything before it is known that enough ids are common.

The party with the shorter list (the first in job order, if they are equal) is the receiver, whoever is active: a row of
the function costs about 70 bytes for each of its ids, an output about 11 for each bin of each of the sender's.
F is the function (`psi.oprf`), b(x) the bin that x has, b1 to b3 an id's three; both shuffle what they send.

    receiver                                 sender                                 coordinator
      F(x, b(x)) for its x   <-- psi.oprf -->   F(y, b) for any y, b
      tags: F(x, b(x))    ---------------------------------------------------------->  T
                                                tags: F(y, b1), F(y, b2), F(y, b3) -->  which rows have one tag in T

*Leakage*

- ``tags``, to the coordinator: how many ids both parties have in common.

The tags are pseudo-random and different, but where both parties hold an id and it stands in the same of its bins: one
of the sender's three, for the coordinator, which knows neither bins nor ids. The sizes of both lists are public before
this starts (``psi.align``).

*Threat model*: everyone follows the protocol and is curious; what `psi.oprf` assumes. **The coordinator together with
the sender can test any id against the receiver's tags, offline and without limit**: the sender can evaluate F
anywhere. ``ecdh`` has no such pair. The coordinator together with the receiver learns which ids are common and no
more. Received lists are checked (size, repetitions), but nothing prevents a party from making up ids to test for: that
is what ``min_intersection`` and the parties' policies bound.

>>> from parties.local import run_local
>>> from parties.wire import Active, Coordinator, Passive
>>> from psi.elements import elements_of
>>> people = {"bank": [b"ann", b"bob", b"cy"], "shop": [b"cy", b"dan", b"bob", b"eve"]}
>>> sizes = {name: len(ids) for name, ids in people.items()}
>>> plays = {name: lambda end, ids=ids: party(end, elements_of(ids), sizes) for name, ids in people.items()}
>>> plays["coordinator"] = lambda end: coordinator(end, sizes)
>>> found = run_local(plays, roles={"bank": Active, "shop": Passive, "coordinator": Coordinator})
>>> {name: sorted(people[name][i] for i in found[name][places]) for name, places in found["coordinator"].items()}
{'bank': [b'bob', b'cy'], 'shop': [b'bob', b'cy']}
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from parties.errors import ConfigError, RemoteProtocolError
from parties.link import COORDINATOR, Endpoint
from parties.wire import Bytes2D, Coordinator, DataParty, Message, Tags
from psi.cuckoo import FUNCTIONS
from psi.elements import random_order
from psi.lists import STATISTICAL_BITS, checked_list, join
from psi.oprf import blocks, checked_rows, receive, send


class Wire:
    """Every message but those of the function."""

    tags = Message(DataParty, Coordinator, Tags, discloses="how many ids both parties have in common")


def party(
    endpoint: Endpoint, elements: Bytes2D, sizes: Mapping[str, int], *, part: int = 0, workers: int = 1
) -> NDArray[np.int64]:
    """One party's part.

    Parameters
    ----------
    elements : ndarray of shape (n, 32), uint8
        Distinct.
    sizes : mapping of party to int
        Length of both parties' lists, in job order.
    part : int
        Which bucket this is.
    workers : int
        Threads for the hashing.

    Returns
    -------
    ndarray of shape (n,), int64
        Which element stands at each place of the list that the coordinator has of this party.

    Raises
    ------
    RemoteProtocolError
        Malformed points or rows.
    """
    receiver, sender = roles(sizes)
    terms = {"sender_count": sizes[sender], "width": tag_bytes(sizes), "part": part, "workers": workers}
    shuffle = random_order(len(elements))
    if endpoint.name == receiver:
        outputs = receive(endpoint, sender, elements, **terms).outputs
        _send_tags(endpoint, (outputs[shuffle[block]] for block in blocks(len(shuffle))))
    else:
        function = send(endpoint, receiver, receiver_count=sizes[receiver], **terms)
        _send_tags(endpoint, (function.evaluate_all(elements[shuffle[block]]) for block in blocks(len(shuffle))))
    return shuffle


def coordinator(endpoint: Endpoint, sizes: Mapping[str, int], *, part: int = 0) -> dict[str, NDArray[np.int64]]:
    """The coordinator's part: joins the lists of tags.

    Returns
    -------
    dict of party to ndarray of shape (common,), int64
        Places in both lists of what both have; parallel.

    Raises
    ------
    RemoteProtocolError
        A malformed list.
    """
    receiver, sender = roles(sizes)
    one, three = _recv_tags(endpoint, receiver, sizes, 1), _recv_tags(endpoint, sender, sizes, FUNCTIONS)
    found = join({receiver: one, sender: three})
    places = {receiver: found[receiver], sender: found[sender] // FUNCTIONS}
    if np.bincount(places[sender], minlength=1).max() > 1:
        raise RemoteProtocolError(f"{sender} sent rows of tags for the alignment that belong to several ids")
    return {name: places[name] for name in sizes}


def roles(sizes: Mapping[str, int]) -> tuple[str, str]:
    """Receiver and sender: the shorter list is the receiver's, the first in job order if they are equal.

    Raises
    ------
    ConfigError
        More or fewer than two parties.
    """
    if len(sizes) != 2:
        raise ConfigError(f"alignment by 'kkrt': got {len(sizes)} parties, expected two; 'mpsi' and 'ecdh' take more")
    receiver, sender = sorted(sizes, key=lambda name: sizes[name])
    return receiver, sender


def tag_bytes(sizes: Mapping[str, int]) -> int:
    """Bytes of a tag: two of all that are to differ are equal with probability at most 2^-40.

    The receiver has one for each id, the sender three; at least 8 bytes, by which lists are sorted.
    """
    receiver, sender = roles(sizes)
    pairs = math.comb(sizes[receiver] + FUNCTIONS * sizes[sender], 2)
    return max(8, math.ceil((STATISTICAL_BITS + math.log2(pairs)) / 8))


def _send_tags(endpoint: Endpoint, lists: Iterable[Bytes2D]) -> None:
    judge = endpoint.link(DataParty, Coordinator, COORDINATOR)
    for rows in lists:
        judge.send(Wire.tags, Tags(rows))


def _recv_tags(endpoint: Endpoint, name: str, sizes: Mapping[str, int], each: int) -> Bytes2D:
    """All tags of one party, ``each`` so many for every place of its list, in one row each."""
    link, width = endpoint.link(Coordinator, DataParty, name), tag_bytes(sizes)
    arrived = [  # not an array of the announced length, which a party may make up
        checked_rows(link.recv(Wire.tags).body, block.stop - block.start, each * width, name)
        for block in blocks(sizes[name])
    ]
    tags = np.concatenate(arrived).reshape(-1, width)
    return checked_list(tags, each * sizes[name], width, name)
