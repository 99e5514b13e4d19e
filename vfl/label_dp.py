"""Label differential privacy: each training label is randomised once, then everything trains on unbiased estimates.

Source: randomised response, S. Warner, JASA 60 (1965); with K classes P. Kairouz, K. Bonawitz, D. Ramage, *Discrete
distribution estimation under local privacy*, ICML 2016, section 2. B. Ghazi et al., *Deep learning with label
differential privacy*, NeurIPS 2021, train on such labels with a prior; here they are debiased instead, so that
gradients of the loss, which are linear in the label, are unbiased too.

A label of K classes is kept with probability p = e^epsilon / (e^epsilon + K - 1), else replaced by one of the other
classes, each with probability q = 1 / (e^epsilon + K - 1). The estimate of the one-hot label is
(one-hot(y~) - q) / (p - q): its expectation is one-hot(y), its entries sum to 1.

Privacy
-------
The randomised labels are epsilon-label-DP: whatever the labels of all other rows, another label of one row changes the
probability of any outcome by at most a factor of e^epsilon. So is everything computed from them and from columns,
however often: every message of the training, the model, its predictions, all of it in one adversary's hands.

Not covered: the columns, and that a row takes part; what the active party computes from true labels (its metrics, the
baseline on its own columns) for as long as it keeps that to itself; epsilon or parameters chosen after a look at the
results; sample weights that depend on the label. Labels of test rows are not randomised and never enter the training.
Two runs on the same labels draw twice: together they are 2 epsilon. A person in k training rows has k epsilon.

Randomness comes from the operating system, not from the job's seed, which the other parties know; the probability to
keep a label is rounded down to 2^-128, so that the ratio stays below e^epsilon exactly.
"""

from __future__ import annotations

import math
import os
from decimal import ROUND_CEILING, Context, Decimal
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from parties.errors import ConfigError, LocalProtocolError

if TYPE_CHECKING:
    from vfl.losses import Labels

Floats = NDArray[np.float64]

_PRECISE = Context(prec=80, rounding=ROUND_CEILING)
_WORD = 64
_LEAST_EPSILON = 1e-6


def note(epsilon: float) -> str:
    """What a report says of randomised labels."""
    return (
        f"labels: randomised for the training, label_dp_epsilon = {epsilon:g}; 'active party alone' and 'pooled' are "
        "fitted on the true ones"
    )


def randomise_labels(values: Labels, classes: int, epsilon: float) -> Floats:
    """Unbiased estimates of the labels from labels randomised once.

    Parameters
    ----------
    values : ndarray of shape (n,)
        0.0 or 1.0 for binary tasks (float), else class codes (integers).
    classes : int
        2 for binary tasks.
    epsilon : float
        At least 1e-6, where an estimate is a million times the label.

    Returns
    -------
    ndarray of shape (n,) for float labels, (n, classes) for class codes, float64

    Raises
    ------
    ConfigError
        epsilon is not a number of at least 1e-6.
    """
    if not _LEAST_EPSILON <= epsilon < math.inf:
        raise ConfigError(f"label_dp_epsilon in [privacy], got {epsilon}, expected a number of at least 1e-6")
    codes = values.astype(np.int64)
    if classes < 2 or not (codes == values).all() or not ((codes >= 0) & (codes < classes)).all():
        raise LocalProtocolError("labels to randomise are not codes of the classes; nothing was sent")
    randomised = _respond(codes, classes, flip_threshold(classes, epsilon))
    absent, present = estimates(classes, epsilon)
    if np.issubdtype(values.dtype, np.floating):
        return np.where(randomised == 1, present, absent)
    return np.where(randomised[:, None] == np.arange(classes), present, absent)


def estimates(classes: int, epsilon: float) -> tuple[float, float]:
    """Entry of a class that is not the randomised label, -q / (p - q), and of the one that is, (1 - q) / (p - q).

    >>> estimates(2, math.log(3))
    (-0.5, 1.5)
    """
    odds = math.expm1(epsilon)
    return -1 / odds, 1 + (classes - 1) / odds


def flip_threshold(classes: int, epsilon: float) -> int:
    """Probability of not keeping a label in units of 2^-128, rounded up.

    >>> 2**128 / flip_threshold(2, math.log(3))
    4.0
    """
    others = Decimal(classes - 1)
    share = _PRECISE.divide(others, _PRECISE.add(_PRECISE.exp(Decimal(epsilon)), others))
    return math.ceil(_PRECISE.multiply(share, Decimal(2 ** (2 * _WORD))))


def to_possible_shares(labels: Labels, weights: Floats | None = None) -> Labels:
    """Estimated labels, moved by one constant per class where the estimated share of a class is not possible.

    Estimates of few rows may add up to less than no row of a class. No intercept fits that: the loss would fall without
    end. Shares below half a row become half a row, the others shrink to fit; where all are possible, the labels come
    back as they are. Training columns have mean 0, so that the constant acts on the intercept only.

    Parameters
    ----------
    labels : ndarray of shape (n,) or (n, classes)
        Class codes (integers) are returned as they are.
    weights : ndarray of shape (n,), mean 1, or None
    """
    if np.issubdtype(labels.dtype, np.integer):
        return labels
    table = to_shares(labels)
    weighted = table if weights is None else table * weights[:, None]
    move = possible_move(np.array([math.fsum(column.tolist()) for column in weighted.T]) / len(table), len(table))
    if move is None:
        return labels
    return np.asarray(labels + (move if labels.ndim == 2 else move[1]))


def to_shares(labels: Labels) -> Floats:
    """Estimated labels as estimates of every class, (n, classes)."""
    table = labels if labels.ndim == 2 else np.column_stack([1 - labels, labels])
    return np.asarray(table, dtype=np.float64)


def possible_move(shares: Floats, rows: int) -> Floats | None:
    """What moves estimated shares of classes, over so many rows, to possible ones; None where they are."""
    least = 0.5 / rows
    if (shares >= least).all():
        return None
    low = shares < least
    rest = (1 - low.sum() * least) / math.fsum(shares[~low].tolist())
    return np.asarray(np.where(low, least, rest * shares) - shares)


def _respond(codes: NDArray[np.int64], classes: int, threshold: int) -> NDArray[np.int64]:
    """Randomised response: another class, each alike, with probability threshold / 2^128."""
    high, low = _random_words(len(codes)), _random_words(len(codes))
    most, rest = np.uint64(threshold >> _WORD), np.uint64(threshold & ((1 << _WORD) - 1))
    flipped = (high < most) | ((high == most) & (low < rest))
    answers = codes.copy()
    answers[flipped] += 1 + _random_below(classes - 1, int(flipped.sum()))
    return np.asarray(answers % classes)


def _random_words(count: int) -> NDArray[np.uint64]:
    """Uniform 64-bit words of the operating system."""
    return np.frombuffer(os.urandom(8 * count), dtype=np.uint64)


def _random_below(bound: int, count: int) -> NDArray[np.int64]:
    """Uniform integers below ``bound``: words beyond its largest multiple are drawn again."""
    limit = np.uint64((1 << _WORD) // bound * bound - 1)
    words = _random_words(count).copy()
    while (beyond := words > limit).any():
        words[beyond] = _random_words(int(beyond.sum()))
    return (words % np.uint64(bound)).astype(np.int64)
