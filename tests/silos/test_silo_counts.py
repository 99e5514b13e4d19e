"""Silos tell each other how many rows they have: to everybody, in proper numbers, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from parties.errors import RemoteProtocolError
from parties.link import COORDINATOR, Delivery, Endpoint
from parties.local import run_local
from parties.wire import Active, Coordinator, DataParty, LabelSilo, Revealed, Role
from vfl import silo_counts
from vfl.parts import Parts
from vfl.silo_counts import Wire, count_rows

OWN = {"clinics.a": Parts(8, 0, 2), "clinics.b": Parts(5, 0, 0), "clinics.c": Parts(1, 0, 9)}
ROLES: dict[str, type[Role]] = {COORDINATOR: Coordinator, "clinics.a": Active} | dict.fromkeys(
    ["clinics.b", "clinics.c"], LabelSilo
)


def play(told: Any = None, seen: list[Delivery] | None = None) -> dict[str, Any]:
    """All silos count; with ``told`` the second one sends that."""

    def silo(endpoint: Endpoint) -> Any:
        if told is not None and endpoint.name == "clinics.b":
            links = [endpoint.link(DataParty, DataParty, name) for name in endpoint.peers(DataParty)]
            for link in links:
                link.send(Wire.rows, Revealed(told, np.zeros(0)))
            return [link.recv(Wire.rows) for link in links]
        return count_rows(endpoint, OWN[endpoint.name])

    plays: dict[str, Any] = dict.fromkeys(OWN, silo) | {COORDINATOR: lambda endpoint: None}
    return run_local(plays, roles=ROLES, observe=None if seen is None else seen.append)


def test_everybody_knows_all_in_job_order() -> None:
    results = play()
    assert all(results[name] == OWN and list(results[name]) == list(OWN) for name in OWN)


def test_the_messages_are_those_of_the_table() -> None:
    seen: list[Delivery] = []
    play(seen=seen)
    mine = [delivery for delivery in seen if delivery.message == Wire.rows.name]
    assert len(mine) == 6
    for delivery in mine:
        assert isinstance(delivery.payload, Revealed) and delivery.payload.facts.keys() == {"train", "test"}
        assert delivery.payload.values.shape == (0,)


def test_the_docstring_says_what_is_told() -> None:
    assert silo_counts.__doc__ is not None and f": {Wire.rows.discloses}" in silo_counts.__doc__


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"train": 5},
        {"train": 0, "test": 3},
        {"train": -1, "test": 3},
        {"train": 5, "test": -1},
        {"train": 5.0, "test": 1},
        {"train": True, "test": 1},
        {"train": 1 << 41, "test": 1},
        {"train": "5", "test": 1},
    ],
    ids=["nothing", "half", "none", "negative", "negative test", "float", "bool", "huge", "text"],
)
def test_no_proper_numbers_are_refused_by_name(told: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError, match=r"clinics\.b sent no proper numbers of rows"):
        play(told)
