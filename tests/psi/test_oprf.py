"""The oblivious function: equal at both, different elsewhere, random to the sender, malformed messages."""

from dataclasses import replace

import numpy as np
import pytest

from parties.errors import CryptoError, RemoteProtocolError
from parties.local import run_local
from parties.wire import Active, Blinded, Coordinator, DataParty, Message, Passive
from psi import oprf
from psi.base_ot import choose, give
from psi.cuckoo import NoPlace, bin_count
from psi.oprf import Wire, receive, send
from psi.ot_extension import code_bits

ROLES = {"bank": Active, "shop": Passive, "coordinator": Coordinator}
WIDTH = 12


def elements(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32), np.uint8)


def play(mine, sender_count, swap=None, workers=1, part=0, **recorders):
    """Bank receives, shop sends; ``swap`` puts scripted roles in their place."""
    terms = {"sender_count": sender_count, "width": WIDTH, "part": part, "workers": workers}
    plays = {
        "bank": lambda end: receive(end, "shop", mine, **terms),
        "shop": lambda end: send(end, "bank", receiver_count=len(mine), **terms),
        "coordinator": lambda end: None,
    }
    return run_local(plays | (swap or {}), roles=ROLES, **recorders)


def check(found, mine):
    """What the receiver has is the sender's function there, and by no other hash function."""
    received, function = found["bank"], found["shop"]
    assert received.outputs.shape == (len(mine), WIDTH)
    for number in range(3):
        same = (function.evaluate(mine, number) == received.outputs).all(axis=1)
        assert (same == (received.functions == number)).all()


@pytest.fixture(scope="module")
def recorded():
    """One run of 1000 elements, and what its messages were."""
    seen, mine = [], elements(1000)
    return play(mine, 5000, observe=seen.append), mine, [d for d in seen if d.message.startswith("oprf.")]


def test_outputs_are_the_function_at_the_receivers_elements(recorded):
    found, mine, _ = recorded
    check(found, mine)
    assert set(found["bank"].functions) == {0, 1, 2}


def test_other_elements_have_other_outputs(recorded):
    found, _, _ = recorded
    theirs = found["shop"].evaluate_all(elements(3000, seed=1)).reshape(-1, WIDTH)
    everything = np.concatenate([theirs, found["bank"].outputs])
    assert len(np.unique(everything, axis=0)) == 3 * 3000 + 1000


def test_all_three_stand_side_by_side(recorded):
    found, mine, _ = recorded
    side_by_side = found["shop"].evaluate_all(mine)
    assert (side_by_side == np.concatenate([found["shop"].evaluate(mine, i) for i in range(3)], axis=1)).all()
    assert found["shop"].evaluate_all(mine[:0]).shape == (0, 3 * WIDTH)


def test_outputs_depend_on_part_and_secret(recorded):
    found, mine, _ = recorded
    function = found["shop"]
    for other in (replace(function, part=1), replace(function, secret=function.secret ^ np.uint8(255))):
        assert not (function.evaluate(mine, 0) == other.evaluate(mine, 0)).all(axis=1).any()


@pytest.mark.parametrize("counts", [(1, 1), (1, 1000), (1000, 1), (7, 3)], ids=str)
def test_unequal_counts(counts):
    mine = elements(counts[0])
    check(play(mine, counts[1]), mine)


@pytest.mark.parametrize("workers", [1, 3])
def test_in_blocks_and_on_threads(monkeypatch, workers):
    monkeypatch.setattr(oprf, "_BLOCK_ROWS", 64)
    monkeypatch.setattr(oprf, "_PIECE_ROWS", 48)
    seen, mine = [], elements(300)
    check(play(mine, 100, workers=workers, part=2, observe=seen.append), mine)
    sizes = [len(d.payload.body) for d in seen if d.message == "oprf.rows"]
    assert sizes == [64] * (bin_count(300) // 64) + [bin_count(300) % 64]


def test_transcript_is_the_wire_table(recorded):
    _, _, seen = recorded
    assert [(d.message, d.sender, d.receiver, type(d.payload)) for d in seen] == [
        ("oprf.seed", "bank", "shop", Blinded),
        ("oprf.rows", "bank", "shop", Blinded),
    ]
    assert {m.name for m in vars(Wire).values() if isinstance(m, Message)} == {d.message for d in seen}
    assert not any(m.discloses for m in vars(Wire).values() if isinstance(m, Message))


def test_rows_look_random_and_are_fresh(recorded):
    """Also where bins are empty: 1337 rows for 1000 elements. Seven standard deviations either way."""
    _, mine, seen = recorded
    rows = seen[-1].payload.body
    assert rows.shape == (bin_count(1000), code_bits(5000) // 8)
    bits = np.unpackbits(rows, axis=1)
    assert abs(bits.mean() - 0.5) < 3.5 / bits.size**0.5
    assert abs(bits.mean(axis=0) - 0.5).max() < 3.5 / len(bits) ** 0.5
    again = []
    play(mine, 5000, observe=again.append)
    both = np.concatenate([rows, again[-1].payload.body])
    assert len(np.unique(both, axis=0)) == len(both)
    assert again[-2].payload.body.tobytes() != seen[0].payload.body.tobytes()


def test_another_seed_where_elements_find_no_place(monkeypatch):
    refused, real = [], oprf.place

    def place(bins, count):
        if len(refused) < 2:
            refused.append(bins)
            raise NoPlace
        return real(bins, count)

    monkeypatch.setattr(oprf, "place", place)
    mine = elements(20)
    check(play(mine, 20), mine)
    assert not (refused[0] == refused[1]).all()


def test_equal_elements_find_no_place():
    with pytest.raises(CryptoError, match="find no place in their bins; are there equal ones"):
        play(np.repeat(elements(1), 4, axis=0), 20)


def scripted(seed_shape=(1, 32), rows_shape=None, first=Wire.seed):
    """A receiver of 30 elements for 30, with messages of other shapes."""
    size = code_bits(30) // 8
    shapes = {Wire.seed: seed_shape, Wire.rows: rows_shape or (bin_count(30), size)}

    def bank(end):
        give(end, "shop", 8 * size)
        link = end.link(DataParty, DataParty, "shop")
        for message in (first, Wire.rows):
            link.send(message, Blinded(np.zeros(shapes[message], np.uint8)))

    return bank


MALFORMED = {
    "short seed": ({"seed_shape": (1, 31)}, r"shape \(1, 31\) .*expected \(1, 32\)"),
    "no seed": ({"seed_shape": (0, 32)}, r"shape \(0, 32\)"),
    "one row too few": ({"rows_shape": (bin_count(30) - 1, 51)}, r"shape \(\d+, 51\) .*expected \(\d+, 51\)"),
    "narrow rows": ({"rows_shape": (bin_count(30), 50)}, r"shape \(\d+, 50\)"),
    "flat": ({"rows_shape": (bin_count(30) * 51,)}, r"shape \(\d+,\)"),
    "rows before the seed": ({"first": Wire.rows}, "'oprf.rows' .*where 'oprf.seed'"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_messages_name_their_sender(case):
    script, text = MALFORMED[case]
    with pytest.raises(RemoteProtocolError, match=f"bank sent .*{text}"):
        play(elements(30), 30, {"bank": scripted(**script)})


def test_choices_of_another_number_name_their_sender():
    def shop(end):
        choose(end, "bank", np.zeros(8, bool))

    with pytest.raises(RemoteProtocolError, match=r"shop sent points of shape \(8, 32\)"):
        play(elements(30), 30, {"shop": shop})
