"""Secure aggregation: the coordinator learns the sum of the silos' vectors, of those that answered, and no silo's own.

Source: K. Bonawitz et al., *Practical Secure Aggregation for Privacy-Preserving Machine Learning*, CCS 2017, figure 4
(without the underlined parts, which are for parties that deviate). Per sum, with n silos asked and a threshold t::

    silo u                                     coordinator
      keys    s_u public, SHA-256(b_u)  ----->
      others' keys of U1                <-----   U1: who sent keys
      boxes   for each v in U1          ----->
              {share of s_u, share of b_u}_uv
      others' boxes of U2               <-----   U2: who sent boxes
      masked  x_u + PRG(b_u)            ----->
              + sum over v in U2, v > u of PRG(s_uv)
              - sum over v in U2, v < u of PRG(s_uv)
      answered  U3                      <-----   U3: whose words came
      shares  of b_v, v in U3           ----->   sum over U3 of x_u
              of s_v, v in U2 - U3

The masks s_uv (X25519 of fresh keys) cancel between those that answered; of one that did not, t silos' shares give the
coordinator its s_u, with which it takes the masks out that others have with it. That alone would open its words if they
came after all: so all have a second mask b_u, opened for those that answered only. Nobody opens both.

Boxes are sealed with AES-256-GCM under secrets of the two silos' pinned channel, and bound to the sender's keys: the
coordinator can exchange neither keys nor shares. A key is used for one sum. Words are fixed point in Z_2^128 with scale
2^-72, exact for sums of up to 4,096 silos of numbers below 2^40: the sum does not depend on who answers first.

Leakage
-------
coordinator : sums over the silos that answered in a round: what they add up; who was left out of a round
silos : who was left out of a round
With two silos their sum, and whatever is computed from it alone, shows each the other's part.

Threat model
------------
Coordinator and silos follow the protocol and may pool what they see. A coordinator with m of the n silos on its side
learns no more than the sum of the others, as long as 2 t > n + m: no silo tells both shares of another, so that even a
coordinator that lies about who answered, to each silo otherwise, gets t shares of one kind only. A silo refuses lists
of fewer than t. A silo can spoil a sum (by its own words, or by false shares, which are found out): the round then
fails, and shows nothing. Sums of two rounds that differ by a silo differ by its part: a silo that drops out while the
others' vectors stay as they are would be bare, so that nothing may be added up twice with another list of silos.

>>> from parties.local import run_local
>>> from parties.wire import Active, Coordinator, LabelSilo
>>> from vfl.attendance import Attendance
>>> names = ["clinics.east", "clinics.west"]
>>> def silo(endpoint, own):
...     return contribute(contributor(endpoint, names), 1, names, 2, np.array([own, 0.5]))
>>> def server(endpoint):
...     links = {name: endpoint.link(Coordinator, DataParty, name) for name in names}
...     return collect(Attendance(endpoint, links, None), 1, names, 2, 2).values
>>> plays = {names[0]: lambda end: silo(end, 3.0), names[1]: lambda end: silo(end, -1.25), "coordinator": server}
>>> run_local(plays, roles={names[0]: Active, names[1]: LabelSilo, "coordinator": Coordinator})["coordinator"]
array([1.75, 1.  ])
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from parties.errors import CryptoError, LocalProtocolError, PeerLost, RemoteProtocolError
from parties.link import COORDINATOR, Endpoint, Link
from parties.sealing import KeyPair
from parties.wire import Blinded, Bytes2D, Control, Coordinator, DataParty, Masked, Message, Points, Words
from vfl.attendance import Attendance
from vfl.masking import stream
from vfl.optim import Vector
from vfl.shamir import SHARE_BYTES, join, read_share, split

SCALE_BITS = 72
LIMIT = 2.0**40
"""Numbers are below it in magnitude; sums of 4,096 of them fit."""
_KEYS = 64
_BOX = 2 * SHARE_BYTES + 16


class Wire:
    """Messages of one sum; from the coordinator an empty one says that the silo is left out of it."""

    keys = Message(DataParty, Coordinator, Points)
    keys_of_all = Message(Coordinator, DataParty, Points)
    boxes = Message(DataParty, Coordinator, Blinded)
    boxes_for = Message(Coordinator, DataParty, Blinded)
    masked = Message(DataParty, Coordinator, Masked)
    answered = Message(Coordinator, DataParty, Control, discloses="who was left out of a round")
    shares = Message(
        DataParty,
        Coordinator,
        Blinded,
        discloses="sums over the silos that answered in a round: what they add up; who was left out of a round",
    )


@dataclass(frozen=True)
class Sum:
    """What the coordinator learns: the sum, and of whom."""

    values: Vector = field(repr=False)
    answered: tuple[str, ...]


@dataclass
class Contributor:
    """A silo's side of all sums of a run.

    Parameters
    ----------
    secrets : dict
        What it shares with each other silo.
    number : int
        Of the last sum; every sum has a greater one.
    """

    name: str
    link: Link[DataParty, Coordinator] = field(repr=False)
    secrets: dict[str, bytes] = field(repr=False)
    number: int = 0


def contributor(endpoint: Endpoint, names: Sequence[str]) -> Contributor:
    """A silo's side, under secrets of this run only; once per run."""
    endpoint.claim("secure sum")
    secrets = {name: endpoint.pair_secret(name, "secure sum") for name in names if name != endpoint.name}
    return Contributor(endpoint.name, endpoint.link(DataParty, Coordinator, COORDINATOR), secrets)


def contribute(
    silo: Contributor, number: int, group: Sequence[str], threshold: int, values: Vector | Callable[[], Vector]
) -> bool:
    """A silo's part in one sum.

    Parameters
    ----------
    number : int
        Of the sum; greater than any before.
    group : sequence of str
        All silos asked, this one too; the same and in the same order at all of them.
    threshold : int
        Fewest silos whose sum may be opened.
    values : ndarray of shape (count,), float64, or a function that returns it once others are there to add to it

    Returns
    -------
    bool
        Whether the coordinator says that it is in the sum.

    Raises
    ------
    RemoteProtocolError
        Something malformed, or the coordinator asks for more than one sum shows.
    """
    if number <= silo.number or silo.name not in group or len(set(group)) != len(group):
        raise LocalProtocolError("a sum that was asked for before, or of a list of silos that this one is not on")
    silo.number = number
    me, key, seed = list(group).index(silo.name), KeyPair.fresh(), os.urandom(32)
    mine = key.public + hashlib.sha256(seed).digest()
    silo.link.send(Wire.keys, Points(_rows([mine])))
    keys = _read_rows(silo.link.recv(Wire.keys_of_all).body, len(group), _KEYS, COORDINATOR)
    if keys is None:
        return False
    there = _listed(keys, me, threshold)
    if keys[me].tobytes() != mine:
        raise RemoteProtocolError(f"{COORDINATOR} passes on another key of {silo.name} than its own")
    parts = [split(secret, threshold, len(group)) for secret in (key.private.private_bytes_raw(), seed)]
    sealed = [
        _seal(silo, group[v], number, keys[me], parts[0][v] + parts[1][v]) if v in there and v != me else bytes(_BOX)
        for v in range(len(group))
    ]
    silo.link.send(Wire.boxes, Blinded(_rows(sealed)))
    boxes = _read_rows(silo.link.recv(Wire.boxes_for).body, len(group), _BOX, COORDINATOR)
    if boxes is None:
        return False
    boxes[me] = 1  # its own: it is not sent round
    sharing = _listed(boxes, me, threshold)
    if not sharing <= there:
        raise RemoteProtocolError(f"{COORDINATOR} sent a box of a silo without a key")
    held = {v: _open(silo, group[v], number, keys[v], boxes[v]) for v in sharing - {me}}
    held[me] = (parts[0][me], parts[1][me])
    words = to_words(values() if callable(values) else values)
    _mask(words, me, seed, {v: key.agree(keys[v, :32].tobytes()) for v in sharing - {me}}, number)
    silo.link.send(Wire.masked, Masked(words))
    answered = silo.link.recv(Wire.answered).facts
    if not answered:
        return False
    silo.link.send(Wire.shares, Blinded(_chosen_shares(held, answered, group, me, threshold)))
    return True


def _chosen_shares(
    held: dict[int, tuple[bytes, bytes]], answered: Mapping[str, object], group: Sequence[str], me: int, threshold: int
) -> Bytes2D:
    """Of each silo that shared one share: of its second mask if it answered, else of its key. Never both."""
    listed = {v for v, name in enumerate(group) if answered.get(name) is True}
    wrong = set(answered) != set(group) or not all(type(fact) is bool for fact in answered.values())
    if wrong or me not in listed or not listed <= set(held) or len(listed) < threshold:
        raise RemoteProtocolError(
            f"{COORDINATOR} asks for shares that would open the sum of other silos than agreed; nothing was sent"
        )
    return _rows([held[v][v in listed] if v in held else bytes(SHARE_BYTES) for v in range(len(group))])


def _listed(rows: Bytes2D, me: int, threshold: int) -> set[int]:
    """Who has a row; refuse lists without oneself or of too few."""
    found = {v for v, row in enumerate(rows) if row.any()}
    if me not in found or len(found) < threshold:
        raise RemoteProtocolError(
            f"{COORDINATOR} wants a sum of {len(found)} silos, expected at least {threshold} and this one among them"
        )
    return found


def _mask(words: Words, me: int, seed: bytes, agreed: dict[int, bytes], number: int) -> None:
    """Add a silo's masks to its words."""
    _add(words, _stream(seed, number, len(words)))
    for v, secret in agreed.items():
        (_add if v > me else _subtract)(words, _stream(secret, number, len(words)))


def collect(
    attendance: Attendance,
    number: int,
    group: Sequence[str],
    threshold: int,
    count: int,
    settle: Callable[[Sequence[str]], Collection[str]] = tuple,
) -> Sum:
    """The coordinator's part in one sum of ``count`` numbers.

    Parameters
    ----------
    settle : callable
        Given the silos whose words have come, before anything is opened; returns those among them that the sum is of.

    Raises
    ------
    PeerLost
        Fewer silos answer than the threshold.
    RemoteProtocolError
        What the silos sent does not fit together.
    """

    def enough(names: Collection[str]) -> None:
        if len(names) < threshold:
            missing = ", ".join(name for name in group if name not in names)
            raise PeerLost(
                f"round {attendance.round_number} of averaging has {len(names)} of {len(group)} silos and needs "
                f"{threshold}: without {missing}; look at their logs, or lower training.min_silos"
            )

    keys = attendance.gather(group, Wire.keys, _read_keys)
    enough(keys)
    known = _rows([keys.get(name, bytes(_KEYS)) for name in group])
    for name in group:
        attendance.send(name, Wire.keys_of_all, Points(known if name in keys else known[:0]))
    boxes = attendance.gather(keys, Wire.boxes, lambda sent, name: _read_boxes(sent, name, group, keys))
    enough(boxes)
    for name in keys:
        u = list(group).index(name)
        passed = np.stack([boxes[v][u] if v in boxes else np.zeros(_BOX, np.uint8) for v in group])
        attendance.send(name, Wire.boxes_for, Blinded(passed if name in boxes else passed[:0]))
    masked = attendance.gather(boxes, Wire.masked, lambda sent, name: _read_masked(sent, name, count))
    enough(masked)
    settled = settle(tuple(masked))
    masked = {name: words for name, words in masked.items() if name in settled}
    enough(masked)
    for name in boxes:
        attendance.send(
            name, Wire.answered, Control({each: each in masked for each in group} if name in masked else {})
        )
    shares = attendance.gather(masked, Wire.shares, lambda sent, name: _read_shares(sent, name, group, boxes))
    enough(shares)
    total = np.zeros((count, 2), np.uint64)
    for words in masked.values():
        _add(total, words)
    for v, name in enumerate(group):
        if name in boxes:
            opened = join({at: shares[u][v] for at, u in enumerate(group, 1) if u in shares}, threshold)
            _unmask(total, v, name in masked, opened, keys, group, set(masked), number)
    return Sum(from_words(total), tuple(masked))


def _unmask(
    total: Words,
    v: int,
    answered: bool,
    opened: bytes,
    keys: dict[str, bytes],
    group: Sequence[str],
    masked: set[str],
    number: int,
) -> None:
    """Take out the second mask of a silo that answered, or the masks that the others have with one that did not."""
    found = hashlib.sha256(opened).digest() if answered else KeyPair.from_private_bytes(opened).public
    if found != (keys[group[v]][32:] if answered else keys[group[v]][:32]):
        raise RemoteProtocolError(f"the shares of {group[v]}'s mask do not fit together: a silo sent a false one")
    if answered:
        _subtract(total, _stream(opened, number, len(total)))
        return
    pair = KeyPair.from_private_bytes(opened)
    for u, name in enumerate(group):
        if name in masked:
            mask = _stream(pair.agree(keys[name][:32]), number, len(total))
            (_subtract if v > u else _add)(total, mask)


def _read_keys(sent: Points, name: str) -> bytes:
    rows = _read_rows(sent.body, 1, _KEYS, name)
    if rows is None:
        raise RemoteProtocolError(f"{name} sent no key, expected 1")
    try:  # a point of low order would end the others
        KeyPair.fresh().agree(rows[0, :32].tobytes())
    except CryptoError as error:
        raise RemoteProtocolError(f"{name} sent a key that is no X25519 point") from error
    return bytes(rows[0])


def _read_boxes(sent: Blinded, name: str, group: Sequence[str], keys: Collection[str]) -> Bytes2D:
    rows = _read_rows(sent.body, len(group), _BOX, name)
    if rows is None or not all(row.any() for row, v in zip(rows, group, strict=True) if v in keys and v != name):
        raise RemoteProtocolError(f"{name} sent fewer boxes than there are silos with keys")
    return rows


def _read_masked(sent: Masked, name: str, count: int) -> Words:
    if sent.body.shape != (count, 2):
        raise RemoteProtocolError(f"{name} sent masked words of shape {sent.body.shape}, expected ({count}, 2)")
    return sent.body


def _read_shares(sent: Blinded, name: str, group: Sequence[str], boxes: Collection[str]) -> list[bytes]:
    rows = _read_rows(sent.body, len(group), SHARE_BYTES, name)
    if rows is None:
        raise RemoteProtocolError(f"{name} sent no shares, expected {len(boxes)}")
    shares = [row.tobytes() for row in rows]
    try:
        for share in shares:
            read_share(share)
    except RemoteProtocolError as error:
        raise RemoteProtocolError(f"{name} sent {error}") from None
    return shares


def _read_rows(body: Bytes2D, count: int, width: int, sender: str) -> Bytes2D | None:
    """A writable copy of so many rows; None for an empty message."""
    if body.shape == (0, width):
        return None
    if body.shape != (count, width):
        raise RemoteProtocolError(f"{sender} sent rows of shape {body.shape}, expected ({count}, {width})")
    return body.copy()


def _rows(rows: Sequence[bytes]) -> Bytes2D:
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)


def _seal(silo: Contributor, peer: str, number: int, keys: Bytes2D, shares: bytes) -> bytes:
    """Two shares for a peer, bound to the sender's keys; every box has a key of its own."""
    return _box_key(silo.secrets[peer], number, silo.name, peer).encrypt(bytes(12), shares, keys.tobytes())


def _open(silo: Contributor, peer: str, number: int, keys: Bytes2D, box: Bytes2D) -> tuple[bytes, bytes]:
    try:
        shares = _box_key(silo.secrets[peer], number, peer, silo.name).decrypt(bytes(12), box.tobytes(), keys.tobytes())
    except InvalidTag as error:
        raise RemoteProtocolError(
            f"the shares from {peer} do not open: they, or the keys that {peer} sent, were altered on their way"
        ) from error
    return shares[:SHARE_BYTES], shares[SHARE_BYTES:]


def _box_key(secret: bytes, number: int, sender: str, receiver: str) -> AESGCM:
    info = f"box|{number}|{sender}|{receiver}".encode()
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret))


def _stream(secret: bytes, number: int, count: int) -> Words:
    return stream(secret, f"secure sum|{number}", 2 * count).reshape(count, 2)


def to_words(values: Vector) -> Words:
    """Numbers below 2^40 in magnitude as two's complement in Z_2^128, in units of 2^-72; least significant word first.

    >>> to_words(np.array([-(2.0**-72)])).tolist() == [[2**64 - 1, 2**64 - 1]]
    True
    """
    if not (np.abs(values) < LIMIT).all():
        raise CryptoError(f"a number to be added up is not finite or beyond {LIMIT:.3g}, the range of its word")
    scaled = np.ldexp(np.abs(values.ravel()), SCALE_BITS - 64)
    high = np.floor(scaled)
    low = np.ldexp(scaled - high, 64).astype(np.uint64)
    words = np.stack([low, high.astype(np.uint64)], axis=1)
    _negate(words, values.ravel() < 0)
    return words


def from_words(words: Words) -> Vector:
    """What `to_words` stands for, or a sum of it."""
    negative = words[:, 1] >> np.uint64(63) == 1
    magnitude = words.copy()
    _negate(magnitude, negative)
    found = np.ldexp(magnitude[:, 1].astype(np.float64), 64 - SCALE_BITS)
    found += np.ldexp(magnitude[:, 0].astype(np.float64), -SCALE_BITS)
    return np.asarray(np.where(negative, -found, found))


def _negate(words: Words, which: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> None:
    """Change the sign of some numbers, in place."""
    low = ~words[which, 0] + np.uint64(1)
    words[which, 1] = ~words[which, 1] + (low == 0)
    words[which, 0] = low


def _add(total: Words, other: Words) -> None:
    """Add in place, modulo 2^128."""
    total[:, 0] += other[:, 0]
    total[:, 1] += other[:, 1]
    total[:, 1] += total[:, 0] < other[:, 0]


def _subtract(total: Words, other: Words) -> None:
    """Subtract in place, modulo 2^128."""
    total[:, 1] -= total[:, 0] < other[:, 0]
    total[:, 1] -= other[:, 1]
    total[:, 0] -= other[:, 0]
