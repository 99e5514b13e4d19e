"""Oblivious transfer of keys: right keys, fresh ones, points that are refused."""

import hashlib

import nacl.bindings as sodium
import numpy as np
import pytest

from parties.errors import RemoteProtocolError
from parties.local import run_local
from parties.wire import Active, Coordinator, DataParty, Message, Passive, Points
from psi import base_ot
from psi.base_ot import Wire, choose, give

ROLES = {"bank": Active, "shop": Passive, "coordinator": Coordinator}


def play(choices, replace=None, **recorders):
    """Bank gives, shop chooses."""
    plays = {
        "bank": lambda end: give(end, "shop", len(choices)),
        "shop": lambda end: choose(end, "bank", np.array(choices, bool)),
        "coordinator": lambda end: None,
    }
    return run_local(plays | (replace or {}), roles=ROLES, **recorders)


@pytest.mark.parametrize("choices", [[0], [1], [0, 1, 1, 0, 1, 0, 0, 0, 1]], ids=str)
def test_the_chosen_key_of_each_pair(choices):
    found = play(choices)
    pairs = np.stack(found["bank"])
    assert pairs.shape == (2, len(choices), 16)
    assert (found["shop"] == pairs[choices, range(len(choices))]).all()
    assert len(np.unique(pairs.reshape(-1, 16), axis=0)) == 2 * len(choices)


def test_transcript_is_the_wire_table_and_tells_no_choice():
    seen, frames = [], []
    found = play([0, 1] * 6, observe=seen.append, frames=frames)
    told = [d for d in seen if d.message.startswith("base_ot.")]
    assert [(d.message, d.sender, d.receiver) for d in told] == [
        ("base_ot.opening", "bank", "shop"),
        ("base_ot.answers", "shop", "bank"),
    ]
    assert not any(m.discloses for m in vars(Wire).values() if isinstance(m, Message))
    points = [row.tobytes() for d in told for row in d.payload.body]
    assert len(set(points)) == 13
    assert all(map(sodium.crypto_core_ed25519_is_valid_point, points))
    relayed = b"|".join(bytes(frame.body) for frame in frames)
    assert not any(point in relayed for point in points)
    assert not any(key.tobytes() in relayed for key in found["shop"])


def test_keys_are_fresh():
    one, other = play([0, 1] * 4), play([0, 1] * 4)
    for mine, yours in zip(one["bank"], other["bank"], strict=True):
        assert not (mine == yours).all(axis=1).any()


def test_keys_depend_on_index_and_transcript():
    """The second key of an answer, from what the giver knows: equal only under the same index and opening."""
    points = [sodium.crypto_scalarmult_ed25519_base_noclamp(i.to_bytes(32, "little")) for i in (3, 5, 7, 11)]
    opening, answer, shared, other = points
    keys = {
        base_ot._key(*told)
        for told in [(0, *points[:3]), (1, *points[:3]), (0, other, answer, shared), (0, opening, other, shared)]
    }
    assert len(keys) == 4
    told = bytes(8) + opening + answer + shared
    assert hashlib.blake2b(told, digest_size=16, person=b"vfl base ot v1").digest() in keys


GOOD = sodium.crypto_scalarmult_ed25519_base_noclamp((9).to_bytes(32, "little"))
OF_ORDER_2 = (2**255 - 20).to_bytes(32, "little")
MALFORMED = {
    "too few": ([GOOD] * 2, r"points of shape \(2, 32\) for the transfers, expected \(3, 32\)"),
    "too many": ([GOOD] * 4, r"shape \(4, 32\)"),
    "truncated": ([GOOD[:31]] * 3, r"shape \(3, 31\)"),
    "neutral": ([GOOD, GOOD, (1).to_bytes(32, "little")], "not of the prime-order group"),
    "order 2": ([GOOD, OF_ORDER_2, GOOD], "not of the prime-order group"),
    "order 4": ([bytes(32), GOOD, GOOD], "not of the prime-order group"),
    "not on the curve": ([GOOD, GOOD, (2).to_bytes(32, "little")], "not of the prime-order group"),
    "not reduced": ([GOOD, GOOD, b"\xff" * 32], "not of the prime-order group"),
}


def as_points(rows):
    return Points(np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1))


def plus_order_2(point):
    """The point plus (0, -1): on the curve, outside the prime-order group; both coordinates change their sign."""
    y = int.from_bytes(point, "little") & (2**255 - 1)
    sign = point[31] >> 7
    return ((2**255 - 19 - y) | (1 - sign) << 255).to_bytes(32, "little")


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_answers_name_their_sender(case):
    rows, text = MALFORMED[case]

    def shop(end):
        link = end.link(DataParty, DataParty, "bank")
        link.recv(Wire.opening)
        link.send(Wire.answers, as_points(rows))

    with pytest.raises(RemoteProtocolError, match=f"shop sent .*{text}"):
        play([0, 1, 0], replace={"shop": shop})


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (OF_ORDER_2, "not of the prime-order group"),
        (plus_order_2(GOOD), "not of the prime-order group"),
        (GOOD[:30], r"shape \(1, 30\)"),
    ],
    ids=["order 2", "with a part of order 2", "truncated"],
)
def test_malformed_openings_name_their_sender(row, text):
    def bank(end):
        end.link(DataParty, DataParty, "shop").send(Wire.opening, as_points([row]))

    with pytest.raises(RemoteProtocolError, match=f"bank sent .*{text}"):
        play([0, 1, 0], replace={"bank": bank})
