"""The silos of one party among themselves: sums that they learn and nobody else does, and secrets that they share.

The silos of a party have the same columns of different rows. What is learnt from rows (means, deviations, categories,
counts) is therefore a sum over them::

    silo s                          first silo
      part   {values of s}  ------>   adds up: the masks of all silos cancel
      total                 <------   the sum, to every silo
      named  texts of s     ------>   all of them, sorted, without repetition
      all_named             <------
      secret                <------   32 bytes under a one-time pad

With one silo nothing is sent. All of it is sealed on its way through the coordinator.

Leakage
-------
silos of the same party : sums over all silos of its party; texts of all silos of its party (categories, class names,
    column names)
With two silos a sum shows each the other's part. The first silo hears whose the texts are.

>>> from parties.local import run_local
>>> from parties.wire import Coordinator, Passive
>>> people = {"shop.north": [2, -5], "shop.south": [4, 1]}
>>> plays = {name: lambda end, own=own: siblings_of(end, "doc").integers("sums", own) for name, own in people.items()}
>>> plays["coordinator"] = lambda end: None
>>> roles = {"shop.north": Passive, "shop.south": Passive, "coordinator": Coordinator}
>>> run_local(plays, roles=roles)["shop.south"]
[6, -4]
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from parties.errors import RemoteProtocolError
from parties.link import Endpoint
from parties.spec import holder_of
from parties.wire import Blinded, DataParty, Masked, Message, Revealed
from vfl.masking import Masks, add_masked, open_integers

_SECRET_BYTES = 32
_MOST_TEXTS = 1 << 20


class Wire:
    """Messages between the silos of one party."""

    part = Message(DataParty, DataParty, Masked, discloses="sums over all silos of its party")
    total = Message(DataParty, DataParty, Masked, discloses="sums over all silos of its party")
    named = Message(
        DataParty,
        DataParty,
        Revealed,
        discloses="texts of all silos of its party (categories, class names, column names)",
    )
    all_named = Message(
        DataParty,
        DataParty,
        Revealed,
        discloses="texts of all silos of its party (categories, class names, column names)",
    )
    secret = Message(DataParty, DataParty, Blinded)


@dataclass(frozen=True)
class Siblings:
    """One silo's end of what the silos of its party do together.

    Parameters
    ----------
    names : tuple of str
        All silos of the party in job order, this one too; the first one adds up.
    """

    endpoint: Endpoint
    names: tuple[str, ...]
    masks: Masks = field(repr=False)

    @property
    def first(self) -> bool:
        """Whether this is the silo that adds up, and that stands for all where one is enough."""
        return self.endpoint.name == self.names[0]

    @property
    def others(self) -> tuple[str, ...]:
        """All but this one."""
        return tuple(name for name in self.names if name != self.endpoint.name)

    def integers(self, label: str, values: Sequence[int]) -> list[int]:
        """Sums over all silos of whole numbers, exact as long as they are below 2^255 in magnitude.

        Parameters
        ----------
        label : str
            The same at all silos; each may be used once.
        values : sequence of int
            As many at every silo.
        """
        if not self.others:
            return list(values)
        return open_integers(self._sum(self.masks.integers(label, values)))

    def floats(self, label: str, values: Sequence[float]) -> list[float]:
        """Sums over all silos of numbers below 2^120 in magnitude, exact but for what is below 2^-128."""
        scaled = self.integers(label, [_to_fixed(value) for value in values])
        return [math.ldexp(float(value), -128) for value in scaled]

    def words(self, label: str, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sums over all silos of arrays of one shape, in Z_2^64."""
        if not self.others:
            return values
        masked = self.masks.scores(label, np.ascontiguousarray(values).ravel())
        return self._sum(masked).body[:, 0].view(np.int64).reshape(values.shape)

    def texts(self, own: Sequence[str]) -> list[str]:
        """All silos' texts, sorted and without repetition."""
        if not self.others:
            return sorted(set(own))
        if not self.first:
            lead = self.endpoint.link(DataParty, DataParty, self.names[0])
            lead.send(Wire.named, _texts(own))
            return _read_texts(lead.recv(Wire.all_named), lead.peer)
        links = [self.endpoint.link(DataParty, DataParty, name) for name in self.others]
        found = set(own).union(*(_read_texts(link.recv(Wire.named), link.peer) for link in links))
        for link in links:
            link.send(Wire.all_named, _texts(sorted(found)))
        return sorted(found)

    def secret(self) -> bytes:
        """32 fresh bytes that all silos of the party have and nobody else."""
        if not self.first:
            lead = self.endpoint.link(DataParty, DataParty, self.names[0])
            body = lead.recv(Wire.secret).body
            if body.shape != (1, _SECRET_BYTES):
                raise RemoteProtocolError(f"{lead.peer} sent a secret of shape {body.shape}, expected (1, 32)")
            return bytes(body[0] ^ self._pad(lead.peer))
        drawn = np.frombuffer(os.urandom(_SECRET_BYTES), np.uint8)
        for name in self.others:
            self.endpoint.link(DataParty, DataParty, name).send(Wire.secret, Blinded((drawn ^ self._pad(name))[None]))
        return drawn.tobytes()

    def _pad(self, peer: str) -> NDArray[np.uint8]:
        return np.frombuffer(self.endpoint.pair_secret(peer, "siblings|secret"), np.uint8)

    def _sum(self, own: Masked) -> Masked:
        """The sum of all silos' masked words: bare, since the masks are theirs alone."""
        if not self.first:
            lead = self.endpoint.link(DataParty, DataParty, self.names[0])
            lead.send(Wire.part, own)
            total = lead.recv(Wire.total)
            if total.body.shape != own.body.shape:
                raise RemoteProtocolError(
                    f"{lead.peer} sent sums of shape {total.body.shape}, expected {own.body.shape}"
                )
            return total
        links = [self.endpoint.link(DataParty, DataParty, name) for name in self.others]
        total = add_masked({self.endpoint.name: own} | {link.peer: link.recv(Wire.part) for link in links})
        for link in links:
            link.send(Wire.total, total)
        return total


def siblings_of(endpoint: Endpoint, purpose: str) -> Siblings:
    """This silo's end among the silos of its party, under masks of this purpose and run only; once per purpose."""
    endpoint.claim(f"siblings|{purpose}")
    holder = holder_of(endpoint.name)
    names = tuple(
        name for name, role in endpoint.roles.items() if issubclass(role, DataParty) and holder_of(name) == holder
    )
    me = names.index(endpoint.name)
    secrets = {
        name: (endpoint.pair_secret(name, f"siblings|{purpose}"), 1 if me < at else -1)
        for at, name in enumerate(names)
        if name != endpoint.name
    }
    return Siblings(endpoint, names, Masks(secrets))


def _to_fixed(value: float) -> int:
    """A number times 2^128, whole."""
    if not math.isfinite(value) or abs(value) >= 2.0**120:
        raise RemoteProtocolError("a number of a silo is not finite or beyond 2^120, so that it cannot be added up")
    numerator, denominator = value.as_integer_ratio()
    return (numerator << 128) // denominator


def _texts(values: Sequence[str]) -> Revealed:
    return Revealed({str(number): text for number, text in enumerate(values)}, np.zeros(0))


def _read_texts(payload: Revealed, sender: str) -> list[str]:
    facts = payload.facts
    if len(facts) > _MOST_TEXTS or any(facts.get(str(i)) is None for i in range(len(facts))):
        raise RemoteProtocolError(f"{sender} sent no proper list of texts")
    texts = [facts[str(number)] for number in range(len(facts))]
    if not all(isinstance(text, str) for text in texts):
        raise RemoteProtocolError(f"{sender} sent no proper list of texts")
    return [str(text) for text in texts]
