"""The leverage guard: no row may decide its own fitted value, so that no gradient singles out one row's label.

Leverage is the diagonal of the hat matrix Z (Z'Z)^+ Z' of Z = [1, X]: 1/n at least, 1 where a combination of columns
is zero in every row but one. It sees what a minimum count per column misses, such as two columns that differ in one
row. The owner checks its own columns; nothing leaves the party but the verdict.

>>> X = np.repeat([[0.0], [1.0]], 50, axis=0)
>>> twin = X.copy()
>>> twin[7] += 0.01
>>> verdict, columns = leverage(np.hstack([X, twin]), ["sum", "total"], party="biller")
>>> verdict.level, len(columns)
('drop', 1)

References
----------
Hoaglin and Welsch, The hat matrix in regression and ANOVA, The American Statistician 32 (1978).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from parties.policy import Verdict

LIMIT = 0.9
WARN = 0.5
_RANK = 1e-10  # singular values below this share of the largest are rounding
_NO_EFFECT = 1e-6  # a column whose removal lowers a row's leverage by less is one of several that say the same

Floats = NDArray[np.float64]


def leverage(X: Floats, names: Sequence[str], *, party: str) -> tuple[Verdict | None, tuple[int, ...]]:
    """Verdict on a party's columns, and which of them to leave out where guards are enforced.

    Parameters
    ----------
    X : ndarray of shape (n, d), float64
        The party's training rows after encoding.
    names : sequence of str
        Names of the d columns.
    party : str
        Their owner.

    Returns
    -------
    verdict : Verdict or None
        "drop" where a row's leverage is above 0.9, "warn" above 0.5.
    columns : tuple of int
        Positions to leave out, ascending, so that every row is at 0.9 or below; empty unless the level is "drop".
    """
    highest = float(row_leverage(X).max(initial=0.0))
    if highest <= WARN:
        return None, ()
    if highest <= LIMIT:
        because = f"has a row of leverage {highest:.2f}, expected at most {WARN}; rare categories or outliers do that"
        return Verdict("leverage", party, "warn", because), ()
    columns = columns_to_drop(X)
    listed = ", ".join(f"'{names[column]}'" for column in columns[:8]) + (
        f" and {len(columns) - 8} more" if len(columns) > 8 else ""
    )
    because = (
        f"has a row of leverage {highest:.2f}, expected at most {LIMIT}; leave out {listed}, "
        "or merge rare categories and clip outliers"
    )
    return Verdict("leverage", party, "drop", because), columns


def row_leverage(X: Floats) -> Floats:
    """Diagonal of the hat matrix of [1, X], shape (n,), each between 1/n and 1."""
    if not len(X):
        return np.zeros(0)
    Q, s, _ = _factors(_unit(X))
    shares: Floats = np.square(Q[:, _rank(s)]).sum(axis=1)
    return np.minimum(shares + 1 / len(X), 1.0)


def columns_to_drop(X: Floats, limit: float = LIMIT) -> tuple[int, ...]:
    """Fewest columns, chosen greedily, whose removal brings every row's leverage to the limit or below.

    A column whose own leverage is above the limit goes in any case; then, as long as a row is above it, the column
    whose removal lowers that row's leverage most, by u_j^2 / ((Z'Z)^+)_jj with u = (Z'Z)^+ z.
    """
    Z = _unit(X)
    alone = np.square(Z) + 1 / max(len(Z), 1)
    kept = np.flatnonzero(alone.max(axis=0, initial=0.0) <= limit)
    while kept.size:
        Q, s, Vt = _factors(Z[:, kept])
        rows = np.square(Q[:, _rank(s)]).sum(axis=1) + 1 / len(Z)
        worst = int(rows.argmax())
        if rows[worst] <= limit:
            break
        gain = _gains(Z[worst, kept], s, Vt)
        pick = gain if gain.max() > _NO_EFFECT else alone[worst, kept]
        kept = np.delete(kept, int(pick.argmax()))
    return tuple(sorted(set(range(X.shape[1])) - set(kept.tolist())))


def _gains(z: Floats, s: Floats, Vt: Floats) -> Floats:
    """By how much the removal of each column lowers the leverage of the row z; 0 for a redundant column."""
    rank = _rank(s)
    basis = Vt[rank]
    scaled = basis / s[rank, None]
    inverse = np.square(scaled).sum(axis=0)
    u = scaled.T @ (scaled @ z)
    redundant = np.square(basis).sum(axis=0) < 1 - _RANK
    gains: Floats = np.where(redundant | (inverse == 0), 0.0, np.square(u) / np.where(inverse == 0, 1.0, inverse))
    return gains


def _unit(X: Floats) -> Floats:
    """Columns centred (which takes the intercept out) and of length 1; constant ones zero."""
    Z = X - X.mean(axis=0) if len(X) else X
    peak = np.abs(X).max(axis=0, initial=0.0)
    length = np.linalg.norm(Z, axis=0)
    constant = length <= 1e-12 * peak * np.sqrt(max(len(X), 1))
    unit: Floats = np.where(constant, 0.0, Z / np.where(constant, 1.0, length))
    return unit


def _factors(Z: Floats) -> tuple[Floats, Floats, Floats]:
    """Thin singular value decomposition by QR, which keeps directions that a Gram matrix would round away."""
    Q, R = np.linalg.qr(Z)
    U, s, Vt = np.linalg.svd(R, full_matrices=False)
    return Q @ U, s, Vt


def _rank(s: Floats) -> NDArray[np.bool_]:
    """Which singular values are not rounding; none where all columns are constant."""
    return s > _RANK * max(float(s.max(initial=0.0)), 1e-300)
