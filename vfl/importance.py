"""Joint importance of columns, with nobody naming a split's column to anybody else.

At the end of training (A active, P a passive party; [[v]] Paillier under A's key)::

    A --> P   split_gains     [[gain, cover, 1]] of each of P's splits
    P --> A   feature_gains   their sums by number of P's column, compressed
    A --> P   own_gains       the same sums, opened

A is told sums by column, not which split is on which column; P the same sums, not the gain of a split.

Leakage
-------
active : gain, cover and number of splits of a passive party's columns, by number and without name (or in all, where the
    party's policy has feature_importance = false)
passive : gain and cover of its own columns
coordinator : sizes and timing

Threat model
------------
All follow the protocol and are curious. A column with one split shows its gain to both. A knows every gain: where a
party has few splits, some dozens, a search for the subsets that add up to the sums tells A which split is on which
column. Who minds sets feature_importance = false in its policy.

>>> [name for name in vars(Wire) if not name.startswith("_")]
['split_gains', 'feature_gains', 'own_gains']
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parties.errors import CryptoError, RemoteProtocolError
from parties.link import Link
from parties.wire import Active, Encrypted, EncryptedSums, Message, Passive, Revealed
from vfl.exchange import receive_ciphers, receive_values, send_ciphers
from vfl.paillier import (
    ObfuscatorPool,
    PrivateKey,
    SlotLayout,
    compress,
    decrypt,
    encrypt,
    pack_slots,
    plan_slots,
    rerandomise,
    sum_by_group,
    unpack_slots,
)
from vfl.trees.forest import Split, Tree
from vfl.trees.splits import Floats

_GAIN_BITS = 40


class Wire:
    """Messages of importance."""

    split_gains = Message(Active, Passive, Encrypted)
    feature_gains = Message(
        Passive, Active, EncryptedSums, discloses="gain, cover and number of splits of its columns, by number"
    )
    own_gains = Message(Active, Passive, Revealed, discloses="gain and cover of its own columns")


@dataclass(frozen=True)
class Importance:
    """How much a party's columns matter: one row per column, or one in all where its policy says so.

    Parameters
    ----------
    gain, cover, count : ndarrays of shape (d,) or (1,), float64
        Sums over the splits on each column: of gains, of sums of h, of ones.
    """

    gain: Floats
    cover: Floats
    count: Floats


def own_importance(trees: Sequence[Tree], splits: Sequence[Split], columns: int) -> Importance:
    """Importance of the active party's own columns."""
    feature = np.array([split.feature for split in splits], dtype=np.int64)
    gain = np.array([trees[split.tree].gain[split.node] for split in splits], dtype=np.float64)
    cover = np.array([trees[split.tree].cover[split.node] for split in splits], dtype=np.float64)
    return Importance(
        np.bincount(feature, gain, columns).astype(np.float64),
        np.bincount(feature, cover, columns).astype(np.float64),
        np.bincount(feature, minlength=columns).astype(np.float64),
    )


def gain_layout(key_bits: int, splits: int) -> SlotLayout:
    """Lay gain, cover and count of a column out in a ciphertext."""
    return plan_slots(key_bits, _GAIN_BITS, terms=splits, group=3)


def importance_as_active(
    link: Link[Active, Passive],
    pool: ObfuscatorPool,
    key: PrivateKey,
    trees: Sequence[Tree],
    number: int,
    columns: int,
    *,
    tell: bool = True,
) -> Importance:
    """Have a passive party sum the encrypted gains of its splits by column, and open the sums for both.

    Without ``tell`` for the active party alone: cover, and gain too, grow with the number of rows that take part.
    """
    owned = [(tree, np.flatnonzero(tree.owner == number)) for tree in trees]
    figures = np.array([(tree.gain[i], tree.cover[i]) for tree, nodes in owned for i in nodes.tolist()])
    if not len(figures):
        return Importance(*np.zeros((3, columns)))
    bits = _GAIN_BITS - 1 - np.frexp(figures.max(axis=0))[1]
    ones = np.ones((len(figures), 1), dtype=np.int64)
    values = np.concatenate([np.rint(np.ldexp(figures, bits)).astype(np.int64), ones], axis=1)
    layout = gain_layout(key.public.bits, len(figures))
    link.send(Wire.split_gains, send_ciphers(encrypt(key, pack_slots(layout, values), pool=pool)))
    payload = link.recv(Wire.feature_gains)
    if payload.counts.shape != (1, 2) or payload.counts[0, 1] not in (1, columns):
        raise RemoteProtocolError(f"{link.peer} sent gains of another number of columns than it has")
    count = int(payload.counts[0, 1])
    ciphertexts = -(-count // layout.per_ciphertext)
    vector = receive_ciphers(key.public, Encrypted(payload.key, payload.body), ciphertexts, link.peer)
    try:
        slots = unpack_slots(layout, decrypt(key, vector), key.public.n)
    except CryptoError as error:
        raise RemoteProtocolError(f"gains from {link.peer}: {error}") from error
    sums = slots.reshape(-1, 3)[:count].astype(np.float64)
    gain, cover = np.ldexp(sums[:, :2], -bits).T
    if tell:
        link.send(Wire.own_gains, Revealed({}, np.concatenate([gain, cover])))
    return Importance(gain, cover, sums[:, 2])


def importance_as_passive(
    link: Link[Passive, Active], pool: ObfuscatorPool, splits: Sequence[Split], columns: int, *, tell_columns: bool
) -> Importance:
    """Sum the encrypted gains of one's own splits by column, or in all, and hear the sums."""
    if not splits:
        return Importance(*np.zeros((3, columns)))
    groups = columns if tell_columns else 1
    send_feature_gains(link, pool, splits, columns, tell_columns=tell_columns)
    feature = np.array([split.feature if tell_columns else 0 for split in splits], dtype=np.int64)
    told = receive_values(link.recv(Wire.own_gains), 2 * groups, link.peer)
    return Importance(
        np.array(told[:groups]), np.array(told[groups:]), np.bincount(feature, minlength=groups).astype(np.float64)
    )


def send_feature_gains(
    link: Link[Passive, Active], pool: ObfuscatorPool, splits: Sequence[Split], columns: int, *, tell_columns: bool
) -> None:
    """Sum the encrypted gains of one's own splits by column, or in all, for the active party; no splits, no message."""
    if not splits:
        return
    key = pool.key
    vector = receive_ciphers(key, link.recv(Wire.split_gains), len(splits), link.peer)
    groups = columns if tell_columns else 1
    feature = np.array([split.feature if tell_columns else 0 for split in splits], dtype=np.int64)
    layout = gain_layout(key.bits, len(splits))
    sums = compress(sum_by_group(vector, np.arange(len(splits)), feature, groups), layout)
    payload = send_ciphers(rerandomise(sums, towards_owner=True, pool=pool))
    link.send(Wire.feature_gains, EncryptedSums(payload.key, np.array([[0, groups]]), payload.body))
