"""How many training and test rows every silo has, which silos that train without a passive party tell each other.

    silo  -->  every other silo   rows   its training rows and its test rows; sealed

They count batches of all rows with it, know what the whole is of which each is a part, and choose noise.

Leakage
-------
other silos : training and test rows of the silo
The coordinator learns the training rows of all silos together (`vfl.horizontal`).

Threat model
------------
Silos follow the protocol. One that tells different silos different numbers is found out when the training begins:
`vfl.horizontal` compares all silos' totals.

>>> from parties.local import run_local
>>> from parties.wire import Active, Coordinator, LabelSilo
>>> people = {"shop.north": Parts(8, 0, 2), "shop.south": Parts(5, 0, 1)}
>>> plays = {name: lambda end, own=own: count_rows(end, own) for name, own in people.items()}
>>> plays["coordinator"] = lambda end: None
>>> roles = {"shop.north": Active, "shop.south": LabelSilo, "coordinator": Coordinator}
>>> run_local(plays, roles=roles)["shop.south"]["shop.north"]
Parts(train=8, validation=0, test=2)
"""

from __future__ import annotations

import numpy as np

from parties.errors import RemoteProtocolError
from parties.link import Endpoint
from parties.wire import DataParty, Message, Revealed
from vfl.parts import Parts

_MOST_ROWS = 1 << 40


class Wire:
    """The one message."""

    rows = Message(DataParty, DataParty, Revealed, discloses="training and test rows of the silo")


def count_rows(endpoint: Endpoint, own: Parts) -> dict[str, Parts]:
    """Rows of every silo, in job order.

    Raises
    ------
    RemoteProtocolError
        A silo tells no proper numbers, or has no training row.
    """
    links = {name: endpoint.link(DataParty, DataParty, name) for name in endpoint.peers(DataParty)}
    for link in links.values():
        link.send(Wire.rows, Revealed({"train": own.train, "test": own.test}, np.zeros(0)))
    told = {name: _read(link.recv(Wire.rows), link.peer) for name, link in links.items()} | {endpoint.name: own}
    return {name: told[name] for name in endpoint.roles if name in told}


def _read(payload: Revealed, sender: str) -> Parts:
    train, test = payload.facts.get("train"), payload.facts.get("test")
    if type(train) is not int or type(test) is not int or not (1 <= train <= _MOST_ROWS and 0 <= test <= _MOST_ROWS):
        raise RemoteProtocolError(f"{sender} sent no proper numbers of rows")
    return Parts(train, 0, test)
