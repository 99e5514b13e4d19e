"""Parts of a run that take no ciphertexts, played by their own functions in the threads of this process.

What silos of one party tell each other before and during a training is a sum here and a list of texts there, at so many
places that a list of them would be the code once more. It is played instead: messages, bytes and CPU seconds are those
of the run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from parties.ledger import Entry, Ledger, merge_sent
from parties.link import Endpoint
from parties.local import run_local
from vfl.job import Job
from vfl.play import role_types

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that was sent; ``number``: how many went before it on its way from sender to receiver."""

    entry: Entry
    number: int


@dataclass(frozen=True)
class Rehearsed(Generic[R]):
    """What all roles came to, and what it took.

    Attributes
    ----------
    sent : list of Sent
        In the order of time, without the greeting.
    seconds : dict of role to CPU seconds
    """

    results: dict[str, R] = field(repr=False)
    sent: list[Sent] = field(repr=False)
    seconds: dict[str, float]


def rehearse(job: Job, plays: Mapping[str, Callable[[Endpoint], R]]) -> Rehearsed[R]:
    """Play functions of all roles side by side.

    Raises
    ------
    VflError
        What the first role raises.
    """
    seconds: dict[str, float] = {}
    ledgers = {name: Ledger() for name in plays}

    def timed(endpoint: Endpoint) -> R:
        start = time.thread_time()
        result = plays[endpoint.name](endpoint)
        seconds[endpoint.name] = time.thread_time() - start
        return result

    results: dict[str, R] = run_local(dict.fromkeys(plays, timed), roles=role_types(job), ledgers=ledgers)
    before: Counter[tuple[str, str]] = Counter()
    sent = []
    for entry in merge_sent(ledger.entries for ledger in ledgers.values()):
        link = entry.sender, entry.receiver
        if not entry.message.startswith("greeting."):
            sent.append(Sent(entry, before[link]))
        before[link] += 1
    return Rehearsed(results, sent, seconds)
