"""Our intersections against those of OpenMined's package, which is written by others in another language."""

from __future__ import annotations

import random

import pytest

from parties.errors import DataError
from psi.ids import IdRules, normalised, prepare_ids
from psi.settings import AlignmentSettings
from tests.psi.whole_paths import PROTOCOLS, align

openmined = pytest.importorskip(
    "private_set_intersection.python", reason="OpenMined's openmined-psi is not installed (pip install openmined-psi)"
)

DRESS = [str, "  {}".format, "\ufeff{}\t".format, "{}\u200b".format]


def their_intersection(left: list[str], right: list[str]) -> set[str]:
    """What the owner of ``left`` learns: raw sets, for their other forms answer with false positives."""
    client, server = openmined.client.CreateWithNewKey(True), openmined.server.CreateWithNewKey(True)
    setup = server.CreateSetupMessage(0.0, len(left), right, openmined.DataStructure.RAW)
    found = client.GetIntersection(setup, server.ProcessRequest(client.CreateRequest(left)))
    return {left[at] for at in found}


def lists(count: int, other: int, common: int) -> dict[str, list[str]]:
    """Ids of 19 digits, of names and of both, some of them common, each party in its own order and spelling."""
    rng = random.Random(count + other + common)
    ids = [f"{rng.randrange(10**19):019d}" for _ in range(count + other)]
    ids = [one if at % 3 else f"Zo\u00eb {one[-6:]}-{at}" for at, one in enumerate(ids)]
    cells = {"bank": ids[:count], "shop": ids[count - common : count - common + other]}
    for own in cells.values():
        rng.shuffle(own)
        own[:] = [rng.choice(DRESS)(one) for one in own]
    return cells


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("count", "other", "common"),
    [(300, 200, 120), (1, 50, 1), (80, 1, 1), (40, 40, 40), (60, 5, 0)],
    ids=["some", "one and fifty", "eighty and one", "all", "none"],
)
def test_the_same_ids_are_common(protocol: str, count: int, other: int, common: int) -> None:
    cells = lists(count, other, common)
    plain = {name: [normalised(one, IdRules()) for one in own] for name, own in cells.items()}
    theirs = their_intersection(plain["bank"], plain["shop"])
    assert len(theirs) == common
    ids = {name: prepare_ids([own], IdRules(), party=name) for name, own in cells.items()}
    settings = AlignmentSettings(protocol=protocol, min_intersection=1)
    if not common:
        with pytest.raises(DataError, match="no common ids"):
            align(ids, settings)
        return
    found = align(ids, settings)
    for name in cells:
        assert {plain[name][row] for row in found[name].rows} == theirs
        assert len(found[name].rows) == common
