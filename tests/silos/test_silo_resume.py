"""Roles of a federation with silos that are killed anywhere and started again end as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from parties.link import COORDINATOR, Endpoint
from tests.interruptions import Kill, play_through
from tests.silos.federations import SiloFederation, make_silos
from vfl import session
from vfl.events import RoleResult
from vfl.play import role_types

SILOS = {"bank": 2, "shop": 2, "post": 0}


def plays_of(federation: SiloFederation, folder: Path) -> Callable[[], Mapping[str, Callable[[Endpoint], RoleResult]]]:
    """All roles from the alignment on; the post has all common ids, so that the order of rows is the seed's."""
    job, specs, tables = federation.job(), federation.specs(), federation.tables()

    def play(endpoint: Endpoint) -> RoleResult:
        name = endpoint.name
        if name == COORDINATOR:
            return session.play_coordinator(endpoint, job, lambda event: None)
        (folder / name).mkdir(parents=True, exist_ok=True)
        loaded = session.load_party(job, specs[name], tables[name])
        return session.play_party(endpoint, job, specs[name], loaded, folder / name, lambda event: None, baseline=False)

    return lambda: dict.fromkeys(role_types(job), play)


def told(federation: SiloFederation, folder: Path, *kills: Kill) -> tuple[list[float], np.ndarray, int]:
    """Losses, scores, and how many kills there were."""
    story = play_through(plays_of(federation, folder / "out"), role_types(federation.job()), folder / "kept", kills)
    losses = story.results[federation.job().active].losses
    return losses, federation.scores(folder / "out"), story.kills


@pytest.mark.parametrize(
    "kill",
    [
        Kill("bank.s0", "send", 40),
        Kill("bank.s1", "save", 2),
        Kill("bank.s1", "saved", 3),
        Kill("shop.s0", "receive", 30),
        Kill("shop.s1", "saved", 2),
        Kill(COORDINATOR, "save", 3),
        Kill("post", "saved", 4),
    ],
    ids=lambda kill: f"{kill.role} {kill.what} {kill.n}",
)
def test_a_glm_of_silos_goes_on_to_the_last_bit(kill: Kill, tmp_path: Path) -> None:
    federation = make_silos("logistic", SILOS, rows=120, training={"max_iter": 5})
    whole = told(federation, tmp_path / "whole")
    again = told(make_silos("logistic", SILOS, rows=120, training={"max_iter": 5}), tmp_path / "killed", kill)
    assert (again[2], whole[2]) == (1, 0)
    assert again[0] == whole[0]
    np.testing.assert_array_equal(again[1], whole[1])
