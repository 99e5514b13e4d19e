"""Where a silo's rows stand in the agreed order: told by the guide, and proven without anybody hearing whose is which.

Silos of one party know their own common rows only, and by numbers that the coordinator gave (`psi.silos`). The guide
knows the order: its own, that of SHA-256("rows" | seed | id), or, where it is a silo itself, one drawn at random::

    guide g                                       silo s
      key: fresh; rows: number -> row    ----->     looks up its own numbers
      part: sum of F(key, id, row)       <-----       over its own rows, under masks of those who are compared
      adds up per party: zero            ----->     agreed (psi.align)

F is BLAKE2b under a key that the coordinator does not have. The silos of a party have each common row once and where
the guide's party has it exactly if the sums of both parties over all rows are equal (but with probability 2^-256); the
guide's side counts negative, and the masks of the silos and the guide's side cancel, so that the guide sees zero and
nothing else.

*Leakage*

- ``rows``, to each silo: where the rows of a shuffled list stand in the agreed order.

Of rows that are not its own a silo does not know the numbers' ids, nor their silos. But where the order is that of a
public hash, an id that would come between two of its own rows that are neighbours is not common: who guesses ids can
rule out the more of them, the larger its share of the common rows is.

*Threat model*: as in `psi.silos`. Wrong numbers or rows, of the coordinator's making or a silo's, are found out before
anything is trained, and all parties hear whose silos differ. The guide judges, and is itself not judged: one that tells
silos different orders, and that they agree, is not found out, as little as an active party that says so of proofs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from parties.errors import RemoteProtocolError
from parties.link import Endpoint
from parties.spec import holder_of
from parties.wire import Blinded, DataParty, Masked, Message, Positions, Words
from psi.blake2b import hash_rows
from psi.elements import random_order
from psi.silos import Cast
from psi.source import Elements, Indices

KEY_BYTES = 32
_LIMBS = 4
_PERSON = b"vfl silo rows v1"
_CHUNK = 1 << 18


class Wire:
    """Messages between guide and silos."""

    key = Message(DataParty, DataParty, Blinded)
    rows = Message(
        DataParty, DataParty, Positions, discloses="where the rows of a shuffled list stand in the agreed order"
    )
    part = Message(DataParty, DataParty, Masked)


def tell_rows(endpoint: Endpoint, cast: Cast, numbers: Indices, ranks: Indices | None, common: int) -> Indices:
    """The guide tells every silo where the rows stand.

    Parameters
    ----------
    numbers : ndarray of int64
        Of the guide's own common rows.
    ranks : ndarray of int64, or None
        Parallel: where they stand in the agreed order; None at a guide that does not have all rows.

    Returns
    -------
    ndarray of int64
        Parallel to ``numbers``: rows of the agreed order.
    """
    if ranks is None:
        table = random_order(common)
    else:
        table = np.empty(common, np.int64)
        table[numbers] = ranks
    told = Positions(np.array([common], np.int64), table.astype(np.uint32))
    for name in _silos(endpoint, cast):
        endpoint.link(DataParty, DataParty, name).send(Wire.rows, told)
    return table[numbers]


def hear_rows(endpoint: Endpoint, cast: Cast, numbers: Indices, common: int) -> Indices:
    """A silo hears where its own rows stand in the agreed order; parallel to ``numbers``.

    Raises
    ------
    RemoteProtocolError
        Not every row once.
    """
    told = endpoint.link(DataParty, DataParty, cast.guide).recv(Wire.rows)
    fitting = np.array_equal(told.counts, [common]) and told.positions.shape == (common,)
    if not fitting or not np.array_equal(np.sort(told.positions), np.arange(common)):
        raise RemoteProtocolError(f"{cast.guide} sent no proper order of the common rows")
    return told.positions.astype(np.int64)[numbers]


def prove(endpoint: Endpoint, cast: Cast, ids: Elements, own: Indices, rows: Indices) -> str | None:
    """Prove to the guide that this silo's rows and those of the others make up all common rows; the guide judges.

    Parameters
    ----------
    own, rows : ndarray of int64
        Own common ids, ascending, and parallel to them their rows in the agreed order.

    Returns
    -------
    str or None
        At the guide: the first party whose silos have other rows than the guide's side.

    Raises
    ------
    RemoteProtocolError
        Something that is no key, or no sums.
    """
    key = _common_key(endpoint, cast)
    total = _sum(ids, own, rows, key)
    compared = {holder: sides for holder, sides in _sides(cast).items() if endpoint.name in sides}
    own_parts = {holder: _masked(endpoint, sides, total, holder, key) for holder, sides in compared.items()}
    if endpoint.name != cast.guide:
        payload = Masked(np.stack(list(own_parts.values())))
        endpoint.link(DataParty, DataParty, cast.guide).send(Wire.part, payload)
        return None
    for name in _silos(endpoint, cast):
        parts = endpoint.link(DataParty, DataParty, name).recv(Wire.part).body
        held = [holder for holder, sides in _sides(cast).items() if name in sides]
        if parts.shape != (len(held), _LIMBS):
            raise RemoteProtocolError(f"{name} sent no proper sums over its rows of the alignment")
        for holder, part in zip(held, parts, strict=True):
            own_parts[holder] = own_parts[holder] + part
    return next((holder for holder, part in own_parts.items() if part.any()), None)


def _silos(endpoint: Endpoint, cast: Cast) -> list[str]:
    """All silos of parties with several but this one."""
    return [name for name in cast.silos if name != endpoint.name]


def _sides(cast: Cast) -> dict[str, dict[str, int]]:
    """For every party with several silos but the guide's: who takes part in comparing it, and with which sign."""
    first = holder_of(cast.guide)
    return {
        holder: dict.fromkeys(members, 1) | dict.fromkeys(cast.holders[first], -1)
        for holder, members in cast.holders.items()
        if len(members) > 1 and holder != first
    }


def _common_key(endpoint: Endpoint, cast: Cast) -> bytes:
    """The guide draws a key and tells the silos, sealed."""
    if endpoint.name == cast.guide:
        key = os.urandom(KEY_BYTES)
        payload = Blinded(np.frombuffer(key, np.uint8).reshape(1, -1))
        for name in _silos(endpoint, cast):
            endpoint.link(DataParty, DataParty, name).send(Wire.key, payload)
        return key
    body = endpoint.link(DataParty, DataParty, cast.guide).recv(Wire.key).body
    if body.shape != (1, KEY_BYTES):
        raise RemoteProtocolError(f"{cast.guide} sent no proper key for the order of rows")
    return body.tobytes()


def _sum(ids: Elements, own: Indices, rows: Indices, key: bytes) -> Words:
    """The sum of F(key, id, row) over own rows, in each of four words."""
    total = np.zeros(_LIMBS, np.uint64)
    for start in range(0, len(own), _CHUNK):
        part = slice(start, start + _CHUNK)
        stands = np.ascontiguousarray(rows[part], "<i8").view(np.uint8).reshape(-1, 8)
        keyed = np.concatenate([ids.elements(own[part]), stands], axis=1)
        digests = hash_rows(keyed, 8 * _LIMBS, key=key, person=_PERSON)
        total += np.ascontiguousarray(digests).view("<u8").sum(axis=0, dtype=np.uint64)
    return total


def _masked(endpoint: Endpoint, sides: Mapping[str, int], total: Words, holder: str, key: bytes) -> Words:
    """This role's side of one comparison, under masks that cancel over all who take part."""
    names = list(sides)
    me = names.index(endpoint.name)
    part = total if sides[endpoint.name] > 0 else np.negative(total)
    for at, name in enumerate(names):
        if at != me:
            mask = _mask(endpoint.pair_secret(name, f"alignment rows|{holder}"), key)
            part = part + mask if me < at else part - mask
    return part


def _mask(secret: bytes, key: bytes) -> NDArray[np.uint64]:
    """Words that two share, for the alignment that the key was drawn for only."""
    return np.frombuffer(hashlib.blake2b(key, digest_size=8 * _LIMBS, key=secret).digest(), "<u8").astype(np.uint64)
