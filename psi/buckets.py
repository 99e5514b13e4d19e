"""Long lists in buckets: public parts of all ids, each padded to a public length, aligned one after the other.

The bucket of an element is a public function of it, so that equal ids meet. How many of a party's ids fall into a
bucket is not public: every bucket is padded with dummies to `capacity`, which depends on the length of the list alone.

>>> bucket_count({"bank": 1_000, "shop": 9_000}, 2_000), bucket_count({"bank": 1_000, "shop": 3_000}, 2_000)
(5, 1)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from parties.wire import Bytes2D

OVERFLOW_BITS = 40


def bucket_count(sizes: Mapping[str, int], bucket_ids: int) -> int:
    """One bucket up to twice ``bucket_ids``, else so many that the longest list has about those in each."""
    longest = max(sizes.values())
    return 1 if longest <= 2 * bucket_ids else math.ceil(longest / bucket_ids)


def capacity(ids: int, buckets: int) -> int:
    """Length to which each bucket of a list of so many ids is padded.

    By Bernstein's inequality a bucket gets t more than its mean ids / buckets with probability at most
    exp(-t^2 / (2 (mean + t / 3))); t is such that one of all buckets overflows with probability below 2^-40.
    """
    if buckets == 1:
        return ids
    mean, rate = ids / buckets, (OVERFLOW_BITS + math.log2(buckets)) * math.log(2)
    over = rate / 3 + math.sqrt((rate / 3) ** 2 + 2 * rate * mean)
    return min(ids, math.ceil(mean + over))


def bucket_of(elements: Bytes2D, buckets: int) -> NDArray[np.int64]:
    """The bucket of each element, 0 to ``buckets`` - 1."""
    words = np.ascontiguousarray(elements[:, -8:]).view("<u8").ravel()
    return (words % np.uint64(buckets)).astype(np.int64)


def in_buckets(elements: Bytes2D, buckets: int) -> list[NDArray[np.int64]]:
    """Indices of the elements in each bucket, ascending."""
    if buckets == 1:
        return [np.arange(len(elements))]
    which = bucket_of(elements, buckets)
    order = np.argsort(which, kind="stable")
    return np.split(order, np.cumsum(np.bincount(which, minlength=buckets))[:-1])
