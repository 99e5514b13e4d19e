"""The buckets of a long alignment in step, and after a crash from the first that not all roles have kept alike.

    party p                                coordinator
      kept: generations of its buckets ->    the longest beginning that all have, itself included
                                      <--  begin: the bucket to go on with
      ... bucket b ...
                                      <--  joined: the coordinator has bucket b

A role keeps each bucket as soon as it has played it: a party which of its ids stands at which place of its list, the
coordinator which places are common. A list is shuffled and masked anew in every attempt, so that buckets fit together
only where all roles kept the same attempt at them: each is kept with the generation (`parties.greeting`) in which it
was played, and later ones are dropped before anything is played again.

A party that need not wait for others in a protocol would send all buckets at once, for the coordinator to hold: it
begins a bucket only when the last but one is joined.

*Leakage*: none but how far each role has kept the alignment. What is played again shows the same as before under fresh
masks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence

from parties.checkpoint import Fact, Keeper
from parties.errors import RemoteProtocolError
from parties.link import COORDINATOR, Endpoint
from parties.wire import Bytes2D, Control, Coordinator, DataParty, Message

_GENERATIONS = re.compile(r"([1-9][0-9]{0,14}( [1-9][0-9]{0,14})*)?\Z")


class Wire:
    """The messages around the buckets, where there are several."""

    kept = Message(DataParty, Coordinator, Control)
    begin = Message(Coordinator, DataParty, Control)
    joined = Message(Coordinator, DataParty, Control)


def begin_as_party(endpoint: Endpoint, buckets: int, marks: Callable[[int], Mapping[str, Fact]]) -> int:
    """Tell what this party has kept, and hear with which bucket all go on.

    Parameters
    ----------
    marks : callable
        What the file of a bucket must say to be of this alignment.

    Raises
    ------
    RemoteProtocolError
        The coordinator goes on with what this party has not kept.
    """
    judge = endpoint.link(DataParty, Coordinator, COORDINATOR)
    own = _generations(endpoint.keeper, buckets, marks)
    judge.send(Wire.kept, Control({"generations": " ".join(map(str, own))}))
    begin = judge.recv(Wire.begin).facts.get("bucket")
    if type(begin) is not int or not 0 <= begin <= len(own):
        raise RemoteProtocolError(f"{COORDINATOR} goes on with a bucket of the alignment that this party cannot")
    endpoint.keeper.forget_buckets(begin)
    return begin


def begin_as_coordinator(endpoint: Endpoint, buckets: int, marks: Callable[[int], Mapping[str, Fact]]) -> int:
    """Hear what all have kept, and tell with which bucket they go on.

    Raises
    ------
    RemoteProtocolError
        A party tells no generations.
    """
    links = [endpoint.link(Coordinator, DataParty, name) for name in endpoint.peers(DataParty)]
    kept = [_generations(endpoint.keeper, buckets, marks)]
    for link in links:
        told = link.recv(Wire.kept).facts.get("generations")
        if not isinstance(told, str) or not _GENERATIONS.match(told) or len(told.split()) > buckets:
            raise RemoteProtocolError(f"{link.peer} sent no proper list of the buckets that it has kept")
        kept.append([int(number) for number in told.split()])
    begin = _alike(kept)
    endpoint.keeper.forget_buckets(begin)
    for link in links:
        link.send(Wire.begin, Control({"bucket": begin}))
    return begin


def tell_joined(endpoint: Endpoint, number: int) -> None:
    """The coordinator has a bucket."""
    for name in endpoint.peers(DataParty):
        endpoint.link(Coordinator, DataParty, name).send(Wire.joined, Control({"bucket": number}))


def hear_joined(endpoint: Endpoint, number: int) -> None:
    """Wait until the coordinator has a bucket.

    Raises
    ------
    RemoteProtocolError
        It has another one.
    """
    told = endpoint.link(DataParty, Coordinator, COORDINATOR).recv(Wire.joined).facts
    if told != {"bucket": number}:
        raise RemoteProtocolError(f"{COORDINATOR} has not joined the bucket of the alignment that was sent to it")


def digest_of_elements(elements: Bytes2D) -> str:
    """What tells whether a bucket holds the same ids as before."""
    return hashlib.blake2b(elements.tobytes(), digest_size=16).hexdigest()


def _generations(keeper: Keeper, buckets: int, marks: Callable[[int], Mapping[str, Fact]]) -> list[int]:
    """The generation of each bucket that is kept and of this alignment, from the first on without a gap."""
    found: list[int] = []
    for number, facts in enumerate(keeper.buckets()[:buckets]):
        generation, due = facts.get("generation"), marks(number)
        if type(generation) is not int or any(facts.get(name) != value for name, value in due.items()):
            break
        found.append(generation)
    return found


def _alike(kept: Sequence[Sequence[int]]) -> int:
    """How many leading entries all lists have alike."""
    same = 0
    for row in zip(*kept, strict=False):
        if len(set(row)) > 1:
            break
        same += 1
    return same
