"""Candidate splits of a passive party as they travel: sums under encryption one way, the best of them back.

What the protocols of boosting share (`vfl.boosting`, `vfl.boosting_one_sided`, `vfl.boosting_silos`): payloads in,
payloads out, no link.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from parties.errors import CryptoError, RemoteProtocolError
from parties.wire import Bitmaps, Encrypted, EncryptedSums, Positions
from vfl.exchange import receive_ciphers, send_ciphers
from vfl.paillier import ObfuscatorPool, PrivateKey, SlotLayout, compress, decrypt, rerandomise, unpack_slots
from vfl.trees.bins import Feature
from vfl.trees.bitmaps import pack_bits, unpack_bits
from vfl.trees.forest import Split
from vfl.trees.grow import Level, Outcome, Prefix, best_of, gains_of, gains_of_groups, pick
from vfl.trees.histograms import candidate_sums
from vfl.trees.levels import EncryptedLevel, EncryptedTree, Told
from vfl.trees.shuffle import shuffled
from vfl.trees.splits import Candidates, Floats, Integers, Mask, find_candidates

Questions = Mapping[int, list[Integers]]
"""By node: every candidate of largest gain, as places in the message, several for a set of sorted bins."""


def offer_candidates(
    tree: EncryptedTree,
    level: EncryptedLevel,
    min_bin_gap: int,
    layout: SlotLayout,
    pool: ObfuscatorPool,
    tie_key: bytes | None = None,
    counts: Integers | None = None,
) -> tuple[EncryptedSums, Candidates, Integers]:
    """Sums over the left sides of all candidates, in random order.

    Parameters
    ----------
    min_bin_gap : int
        Rows at least between two candidates of a column.
    layout : SlotLayout
        Of the gradients, and of the sums when they are compressed.
    pool : ObfuscatorPool
        Of what goes to the key's owner.
    tie_key : bytes, optional
        Of the tree: the order follows from it.
    counts : ndarray of shape (nodes, cells), int64, optional
        Rows of all silos of the party, where this is one of them: all have the same candidates then.

    Returns
    -------
    payload : EncryptedSums
    candidates : Candidates
    order : ndarray of shape (candidates + members,), int64
        In which they are sent; members of groups count on from the candidates.
    """
    columns, key = tree.columns.layout, pool.key
    allowed = tree.drawn & (level.place >= 0)[:, None]
    candidates = find_candidates(columns, level.counts if counts is None else counts, min_bin_gap, allowed)
    order, groups = shuffled(candidates, level.numbers, tie_key)
    if len(order):
        sums = candidate_sums(columns, level.histograms, level.place, level.counts, candidates, order)
        payload = send_ciphers(rerandomise(compress(sums, layout), towards_owner=True, pool=pool))
    else:
        payload = Encrypted(key.fingerprint, np.zeros((0, key.ciphertext_bytes), dtype=np.uint8))
    nodes = np.arange(len(level.numbers))
    plain = np.stack([nodes, np.bincount(candidates.node, minlength=len(nodes))], axis=1)
    several = np.stack([candidates.groups[groups, 0], candidates.group_sizes[groups]], axis=1)
    return EncryptedSums(payload.key, np.concatenate([plain, several]), payload.body), candidates, order


def open_candidates(
    payload: EncryptedSums, level: Level, layout: SlotLayout, key: PrivateKey, sender: str
) -> tuple[Floats, Questions]:
    """Open the sums over a party's candidates.

    Returns
    -------
    best : ndarray of shape (nodes,), float64
        The largest gain per node, -inf for none.
    questions : Questions

    Raises
    ------
    RemoteProtocolError
        Counts that do not fit the level, or ciphertexts that are none.
    """
    nodes, groups, sizes = read_counts(payload, len(level.nodes), layout, sender)
    sums = _open_sums(payload, layout, key, sender)
    plain, members = sums[: len(nodes)], sums[len(nodes) :]
    gains = gains_of(level, nodes, plain)
    prefixes = gains_of_groups(level, groups, sizes, members)
    starts = len(nodes) + np.cumsum(sizes) - sizes
    best = np.full(len(level.nodes), -np.inf)
    questions: dict[int, list[Integers]] = {}
    for node in range(len(level.nodes)):
        ids, sets, best[node] = best_of(node, nodes, gains, prefixes)
        if best[node] > -np.inf:
            alternatives = [np.array([i]) for i in ids.tolist()]
            questions[node] = alternatives + [starts[prefix.group] + prefix.members for prefix in sets]
    return best, questions


def name_candidates(questions: Questions, won: Mask) -> Positions:
    """Payload that names all best candidates of the nodes that the party splits."""
    asked = [q for node in np.flatnonzero(won).tolist() for q in questions[node]]
    counts = np.array([len(q) for q in asked], dtype=np.int64)
    return Positions(counts, np.concatenate([np.zeros(0, dtype=np.int64), *asked]).astype(np.uint32))


def read_counts(
    payload: EncryptedSums, nodes: int, layout: SlotLayout, sender: str
) -> tuple[Integers, Integers, Integers]:
    """Node of every candidate; nodes and sizes of the groups that are to be sorted."""
    counts, most = payload.counts, layout.per_ciphertext * len(payload.body)
    good = counts.ndim == 2 and counts.shape[1] == 2 and len(counts) >= nodes and bool((counts >= 0).all())
    good = good and bool((counts[:nodes, 0] == np.arange(nodes)).all() and (counts[nodes:, 0] < nodes).all())
    good = good and bool((counts[nodes:, 1] >= 2).all()) and sum(counts[:, 1].tolist()) <= most
    if not good:
        raise RemoteProtocolError(f"{sender} sent candidates whose counts do not fit the level")
    return np.repeat(np.arange(nodes), counts[:nodes, 1]), counts[nodes:, 0].copy(), counts[nodes:, 1].copy()


def _open_sums(payload: EncryptedSums, layout: SlotLayout, key: PrivateKey, sender: str) -> Integers:
    """Decrypt compressed sums: (sums, 2 outputs), int64."""
    count = int(payload.counts[:, 1].sum())
    ciphertexts = -(-count // layout.per_ciphertext)
    vector = receive_ciphers(key.public, Encrypted(payload.key, payload.body), ciphertexts, sender)
    try:
        slots = unpack_slots(layout, decrypt(key, vector), key.public.n)
    except CryptoError as error:
        raise RemoteProtocolError(f"candidates from {sender}: {error}") from error
    return slots.reshape(-1, layout.group)[:count].astype(np.int64)


def read_chosen(
    payload: Positions,
    features: Sequence[Feature],
    level: EncryptedLevel,
    tree: int,
    candidates: Candidates,
    order: Integers,
    sender: str,
) -> dict[int, Split]:
    """Splits of the nodes that this party wins, by place in the level: its smallest of the best candidates.

    Raises
    ------
    RemoteProtocolError
        Candidates that were not offered, or one twice.
    """
    counts, positions = payload.counts, payload.positions.astype(np.int64)
    fits = counts.ndim == positions.ndim == 1 and bool((counts > 0).all() and (counts <= len(positions)).all())
    if not fits or int(counts.sum()) != len(positions) or (len(positions) and int(positions.max()) >= len(order)):
        raise RemoteProtocolError(f"{sender} chose candidates that this party did not offer")
    chosen = order[positions]
    plain = len(candidates.node)
    alone = chosen[np.repeat(counts == 1, counts)]
    if len(np.unique(alone)) != len(alone):
        raise RemoteProtocolError(f"{sender} chose a candidate twice")
    group_of = np.repeat(np.arange(len(candidates.groups)), candidates.group_sizes)
    starts = np.cumsum(candidates.group_sizes) - candidates.group_sizes
    ids: dict[int, list[int]] = {}
    sets: dict[int, list[Prefix]] = {}
    for own in np.split(chosen, np.cumsum(counts)[:-1]) if len(counts) else []:
        if len(own) == 1 and own[0] < plain:
            ids.setdefault(int(candidates.node[own[0]]), []).append(int(own[0]))
            continue
        groups = group_of[own - plain] if own.min() >= plain else np.zeros(0)
        if len(set(groups.tolist())) != 1 or len(set(own.tolist())) != len(own):
            raise RemoteProtocolError(f"{sender} chose a set of candidates that is none")
        group = int(groups[0])
        node = int(candidates.groups[group, 0])
        sets.setdefault(node, []).append(Prefix(node, group, np.sort(own - plain - starts[group]), 0.0))
    return {
        node: pick(
            tree,
            int(level.numbers[node]),
            level.depth,
            features,
            candidates,
            np.array(sorted(ids.get(node, []))),
            sets.get(node, []),
        )
        for node in sorted({*ids, *sets})
    }


def pack_outcome(level: Level, outcome: Outcome) -> Bitmaps:
    """Payload of how a level ended: nodes split, children open, and the rows of nodes that have one."""
    told = np.flatnonzero(outcome.told()).tolist()
    return pack_bits([outcome.split, outcome.open, *(outcome.left[level.slot == node] for node in told)])


def read_outcome(payload: Bitmaps, nodes: int, slot: Integers, sender: str) -> Told:
    """Which nodes were split, which of their children are open, and where the rows of these nodes went.

    Parameters
    ----------
    slot : ndarray of shape (n,), int64
        Each row's place among the ``nodes`` of the level, -1 for none.

    Raises
    ------
    RemoteProtocolError
        Bitmaps of other sizes.
    """
    (split,) = unpack_bits(payload, [nodes], sender, whole=False)
    split, opened = unpack_bits(payload, [nodes, 2 * int(split.sum())], sender, whole=False)
    pairs = opened.reshape(-1, 2)
    parents = np.flatnonzero(split)[pairs.any(axis=1)]
    sizes = np.bincount(slot[slot >= 0], minlength=nodes)
    maps = unpack_bits(payload, [nodes, len(opened), *sizes[parents].tolist()], sender)[2:]
    child = np.full(len(slot), -1, dtype=np.int64)
    for pair, (node, left) in enumerate(zip(parents.tolist(), maps, strict=True)):
        child[slot == node] = 2 * pair + ~left
    return Told(split, parents, pairs[pairs.any(axis=1)].ravel(), child)
