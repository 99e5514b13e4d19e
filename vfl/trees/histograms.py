"""Encrypted histograms of a party's columns: sums of ciphertexts by node and bin, in few additions.

Source: SecureBoost+ (W. Chen et al., 2021) for packing, subtraction of siblings and compression; here besides:

- the most frequent bin of a feature in a node is not summed but taken as the node's total less the other bins, so that
  sparse and one-hot columns cost their non-zeros only;
- columns are summed together where a node has many more rows than they have joint bins: one addition per row gives the
  joint histogram, and its marginals are sums over few cells. Which columns go together, and in which nodes, is chosen
  by what it costs.

What goes where depends on the party's own bins and on counts of rows alone; it is worked out in plain before any
ciphertext is touched, and one level is one call of the kernel for the rows and one for the joint bins, whatever nodes
there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vfl.paillier import CipherVector, gather, running_sums, subtract, sum_by_group, sum_segments
from vfl.trees.bins import Codes, Feature
from vfl.trees.splits import Candidates, Floats, Integers, Layout, Mask, make_layout

_SHARES = (4, 16, 64, 256)  # groupings have at most rows / share joint bins in a group
_SUBTRACTION = 4.0  # products per cell: an inverse costs three, a difference one more


@dataclass(frozen=True)
class JointColumns:
    """Columns that are summed together.

    Parameters
    ----------
    features : ndarray of shape (t,), int64
    cell : ndarray of shape (n,), int32
        Every row's joint bin.
    bins : ndarray of shape (cells, t), int64
        Every joint bin's bin of each feature.
    rare : float
        Share of rows that are not in the most frequent bin of every one of the features.
    """

    features: Integers
    cell: NDArray[np.int32] = field(repr=False)
    bins: Integers = field(repr=False)
    rare: float

    @property
    def cells(self) -> int:
        """Joint bins that occur."""
        return len(self.bins)


@dataclass(frozen=True)
class EncryptedColumns:
    """A party's binned columns, ready to be summed.

    Parameters
    ----------
    codes : ndarray of shape (n, d), uint16
        Bins of the training rows.
    groupings : tuple of tuples of JointColumns
        Every column by itself, then larger and larger groups.
    """

    layout: Layout
    codes: Codes = field(repr=False)
    groupings: tuple[tuple[JointColumns, ...], ...] = field(repr=False)

    def costs(self, rows: Integers) -> Floats:
        """Additions that each grouping takes in nodes of so many rows, shape (nodes, groupings); about."""
        costs = np.zeros((len(rows), len(self.groupings)))
        for q, grouping in enumerate(self.groupings):
            for joint in grouping:
                costs[:, q] += joint.rare * rows
                if len(joint.features) > 1:
                    costs[:, q] += len(joint.features) * np.minimum(joint.cells, rows)
        return costs


def prepare_columns(features: Sequence[Feature], codes: Codes) -> EncryptedColumns:
    """Join columns for the sums to come; ``codes`` are those of the training rows."""
    layout = make_layout(features)
    single = tuple(_single(layout, codes, j) for j in range(len(features)))
    groupings = [single]
    for share in reversed(_SHARES):
        grouping = _join(single, len(codes) // share)
        if len(grouping) < len(groupings[-1]):
            groupings.append(grouping)
    return EncryptedColumns(layout, codes, tuple(groupings))


def _single(layout: Layout, codes: Codes, j: int) -> JointColumns:
    """One column by itself; its joint bins are all its cells, empty ones too."""
    width = layout.features[j].bins + 1
    column = codes[:, j].astype(np.int32)
    largest = int(np.bincount(column, minlength=width).max()) if len(column) else 0
    return JointColumns(np.array([j]), column, np.arange(width)[:, None], 1 - largest / max(len(column), 1))


def _join(single: Sequence[JointColumns], most: int) -> tuple[JointColumns, ...]:
    """Join columns, those of fewest bins first, as long as a group has at most so many joint bins."""
    joined: list[JointColumns] = []
    for column in sorted(single, key=lambda column: column.cells):
        both = _product(joined[-1], column, most) if joined else None
        if both is None:
            joined.append(column)
        else:
            joined[-1] = both
    return tuple(joined)


def _product(a: JointColumns, b: JointColumns, most: int) -> JointColumns | None:
    """Join two groups, or return None if they have too many joint bins."""
    if a.cells * b.cells > 64 * most:
        return None
    cell = a.cell.astype(np.int64) * b.cells + b.cell
    counts = np.bincount(cell, minlength=a.cells * b.cells)
    present = np.flatnonzero(counts)
    if len(present) > most:
        return None
    compact = np.zeros(len(counts), dtype=np.int32)
    compact[present] = np.arange(len(present))
    bins = np.concatenate([a.bins[present // b.cells], b.bins[present % b.cells]], axis=1)
    commonest = [int(np.bincount(column, counts[present]).argmax()) for column in bins.T]
    all_common = counts[present][(bins == commonest).all(axis=1)].sum()
    features = np.concatenate([a.features, b.features])
    return JointColumns(features, compact[cell], bins, 1 - float(all_common) / max(len(cell), 1))


def count_rows(columns: EncryptedColumns, rows: Integers, slot: Integers, nodes: int, drawn: Mask) -> Integers:
    """Rows per node and cell, (nodes, cells); ``slot`` is each row's node, -1 for none."""
    layout = columns.layout
    counts = np.zeros((nodes, layout.cells), dtype=np.int64)
    rows, slot = rows[slot >= 0], slot[slot >= 0]
    for j in np.flatnonzero(drawn).tolist():
        own = slice(int(layout.starts[j]), int(layout.starts[j + 1]))
        width = own.stop - own.start
        counts[:, own] = np.bincount(slot * width + columns.codes[rows, j], minlength=nodes * width).reshape(-1, width)
    return counts


def sum_rows(
    columns: EncryptedColumns,
    ciphers: CipherVector,
    totals: CipherVector,
    rows: Integers,
    slot: Integers,
    counts: Integers,
    drawn: Mask,
) -> CipherVector:
    """Sum ciphertexts by node and cell.

    Parameters
    ----------
    ciphers : CipherVector of the rows drawn, in their order
    totals : CipherVector, one per node
        Each node's sum over all its rows.
    rows, slot : ndarrays of shape (m,), int64
        The rows drawn, and each one's node (-1: none).
    counts : ndarray of shape (nodes, cells), int64
        As `count_rows` has them.
    drawn : ndarray of shape (d,), bool
        Columns to sum.

    Returns
    -------
    CipherVector
        nodes x cells; cells without a row, and columns not drawn, hold an encryption of zero that hides nothing.
    """
    layout, nodes = columns.layout, len(counts)
    common = _most_frequent(layout, counts)
    positions, numbers, chunks = _joint_positions(columns, rows, slot, counts, common, drawn)
    present = np.zeros(chunks[-1].stop if chunks else 0, dtype=bool)
    present[numbers] = True
    compact = np.cumsum(present) - 1
    joint = sum_by_group(ciphers, positions, compact[numbers], int(present.sum()))
    sources, cells = _marginals(layout, chunks, present, compact, common, drawn)
    single = sum_by_group(joint, sources, cells, nodes * layout.cells)
    return _with_most_frequent(layout, single, totals, counts, common, drawn)


def _most_frequent(layout: Layout, counts: Integers) -> Integers:
    """The most frequent bin of every feature in every node, (nodes, features)."""
    return np.stack(
        [
            counts[:, first:stop].argmax(axis=1)
            for first, stop in zip(layout.starts[:-1].tolist(), layout.starts[1:].tolist(), strict=True)
        ],
        axis=1,
    )


@dataclass(frozen=True)
class _Chunk:
    """Numbers ``start`` to ``stop`` stand for the joint bins of one group in some nodes, node by node."""

    joint: JointColumns
    nodes: Integers
    start: int
    stop: int


def _joint_positions(
    columns: EncryptedColumns, rows: Integers, slot: Integers, counts: Integers, common: Integers, drawn: Mask
) -> tuple[Integers, Integers, list[_Chunk]]:
    """For every addition its row's position and the number of its joint bin; rows that no marginal needs stay out."""
    first = np.flatnonzero(drawn)[0]
    sizes = counts[:, columns.layout.starts[first] : columns.layout.starts[first + 1]].sum(axis=1)
    chosen = columns.costs(sizes).argmin(axis=1)
    positions: list[Integers] = []
    numbers: list[Integers] = []
    chunks: list[_Chunk] = []
    at = 0
    for q, grouping in enumerate(columns.groupings):
        nodes = np.flatnonzero(chosen == q)
        place = np.full(len(counts) + 1, -1)
        place[nodes] = np.arange(len(nodes))
        inside = np.flatnonzero(place[slot] >= 0)
        if not len(nodes) or not len(inside):
            continue
        local, own = place[slot[inside]], rows[inside]
        for joint in grouping:
            used = np.flatnonzero(drawn[joint.features])
            if not len(used):
                continue
            cell = joint.cell[own]
            idle = (joint.bins[None, :, used] == common[nodes][:, None, joint.features[used]]).all(axis=2)
            summed = ~idle[local, cell]
            positions.append(inside[summed])
            numbers.append(at + local[summed] * joint.cells + cell[summed])
            chunks.append(_Chunk(joint, nodes, at, at + len(nodes) * joint.cells))
            at = chunks[-1].stop
    none = np.zeros(0, dtype=np.int64)
    return np.concatenate([none, *positions]), np.concatenate([none, *numbers]), chunks


def _marginals(
    layout: Layout, chunks: Sequence[_Chunk], present: Mask, compact: Integers, common: Integers, drawn: Mask
) -> tuple[Integers, Integers]:
    """For every joint bin that occurs, and every feature in it, where its sum goes; most frequent bins are left out."""
    none = np.zeros(0, dtype=np.int64)
    sources, cells = [none], [none]
    for chunk in chunks:
        numbers = chunk.start + np.flatnonzero(present[chunk.start : chunk.stop])
        local, cell = np.divmod(numbers - chunk.start, chunk.joint.cells)
        node = chunk.nodes[local]
        for t, feature in enumerate(chunk.joint.features.tolist()):
            if not drawn[feature]:
                continue
            b = chunk.joint.bins[cell, t]
            needed = b != common[node, feature]
            sources.append(compact[numbers[needed]])
            cells.append(node[needed] * layout.cells + layout.starts[feature] + b[needed])
    return np.concatenate(sources), np.concatenate(cells)


def _with_most_frequent(
    layout: Layout, single: CipherVector, totals: CipherVector, counts: Integers, common: Integers, drawn: Mask
) -> CipherVector:
    """Fill in the most frequent bins: total less the feature's other bins."""
    nodes, features = common.shape
    used = np.flatnonzero(drawn)
    node, j = np.repeat(np.arange(nodes), len(used)), np.tile(used, nodes)
    largest = node * layout.cells + layout.starts[j] + common[node, j]
    others = (counts > 0).ravel()
    others[largest] = False
    cells = np.flatnonzero(others)
    owner = cells // layout.cells * features + layout.owner[cells % layout.cells]
    rest = gather(sum_by_group(single, cells, owner, nodes * features), node * features + j)
    where = np.arange(len(single))
    where[largest] = len(single) + np.arange(len(largest))
    return gather(CipherVector.concat([single, subtract(gather(totals, node), rest)]), where)


def worth_subtracting(columns: EncryptedColumns, small: Integers, large: Integers, cells: Integers) -> Mask:
    """Whether a larger child is cheaper as parent less smaller child than summed itself.

    Parameters
    ----------
    small : ndarray of int64
        Rows that have to be summed for it: 0 where the smaller child is summed anyway.
    large, cells : ndarrays of int64
        Rows of the larger child, and cells that both children have rows in.
    """
    direct, extra = columns.costs(large).min(axis=1), columns.costs(small).min(axis=1)
    worth: Mask = extra + _SUBTRACTION * cells < direct
    return worth


def subtract_child(
    parents: CipherVector, children: CipherVector, child_counts: Integers, sibling_counts: Integers
) -> CipherVector:
    """Parents' histograms less one child's each; cells in which not both children have rows stay as they are."""
    shared = np.flatnonzero(((child_counts > 0) & (sibling_counts > 0)).ravel())
    where = np.arange(len(parents))
    where[shared] = len(parents) + np.arange(len(shared))
    differences = subtract(gather(parents, shared), gather(children, shared))
    return gather(CipherVector.concat([gather(parents, np.arange(len(parents))), differences]), where)


def candidate_sums(
    layout: Layout, histograms: CipherVector, place: Integers, counts: Integers, candidates: Candidates, order: Integers
) -> CipherVector:
    """Sums over the left side of every candidate, and of every bin of the sorted groups after them.

    Parameters
    ----------
    place : ndarray of shape (nodes,), int64
        Where a node's histogram stands among ``histograms``.
    counts : ndarray of shape (nodes, cells), int64
        Own rows; a silo of several may have none in a cell of a candidate: what stands in such cells is not used.
    order : ndarray of shape (candidates + members,), int64
        In which order they are returned.
    """
    node, feature = candidates.node, candidates.feature
    base = place[node] * layout.cells
    one_hot = np.array([f.split == "one-hot" for f in layout.features], dtype=bool)
    bins = np.array([f.bins for f in layout.features], dtype=np.int64)
    single = one_hot[feature] & (candidates.bin < bins[feature])
    totals, ends = _running(layout, histograms, place, counts, candidates, np.flatnonzero(~single))
    cell = layout.starts[feature] + candidates.bin
    first = np.where(counts[node, np.minimum(cell, layout.cells - 1)] > 0, base + cell, -1)
    first[~single] = len(histograms) + ends
    missing = np.where(
        candidates.missing_left & (counts[node, layout.missing[feature]] > 0), layout.missing[feature], -1
    )
    terms = np.stack([first, np.where(missing >= 0, base + missing, -1)], axis=1)
    owner = np.repeat(candidates.groups, candidates.group_sizes, axis=0)
    cell = layout.starts[owner[:, 1]] + candidates.members
    members = np.where(counts[owner[:, 0], cell] > 0, place[owner[:, 0]] * layout.cells + cell, -1)
    terms = np.concatenate([terms, np.stack([members, np.full(len(members), -1)], axis=1)])[order]
    lengths = (terms >= 0).sum(axis=1)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    together = CipherVector.concat([histograms, totals]) if len(totals) else histograms
    return sum_segments(together, terms[terms >= 0], offsets)


def _running(
    layout: Layout,
    histograms: CipherVector,
    place: Integers,
    counts: Integers,
    candidates: Candidates,
    chosen: Integers,
) -> tuple[CipherVector, Integers]:
    """Cumulative sums up to the bins of chosen candidates, and for each candidate which of them is its own."""
    width = layout.cells + 1
    key = (candidates.node[chosen] * len(layout.features) + candidates.feature[chosen]) * width + candidates.bin[chosen]
    keys, which = np.unique(key, return_inverse=True)  # two directions of missing cells share their sum
    run, b = np.divmod(keys, width)
    node, feature = np.divmod(run, len(layout.features))
    fresh_run = np.diff(run, prepend=-1) != 0
    before = np.where(fresh_run, -1, np.concatenate([[-1], b[:-1]]))
    # A one-hot feature's candidate past its last bin takes all of them; there is no cell of that number.
    last = np.minimum(b, layout.missing[feature] - layout.starts[feature] - 1)
    lengths = last - before
    step = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    cell = np.repeat(layout.starts[feature] + before + 1, lengths) + step
    filled = counts[np.repeat(node, lengths), cell] > 0
    idx = (np.repeat(place[node] * layout.cells, lengths) + cell)[filled]
    sizes = np.bincount(np.repeat(np.arange(len(keys)), lengths)[filled], minlength=len(keys))
    pieces = sum_segments(histograms, idx, np.concatenate([[0], np.cumsum(sizes)]))
    runs = np.diff(np.append(np.flatnonzero(fresh_run), len(keys)))
    return running_sums(pieces, runs), which.ravel()
