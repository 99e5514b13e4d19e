"""Long lists in buckets: public parts of all ids, each padded to a public length, aligned one after the other.

The bucket of an element is a public function of it, so that equal ids meet. How many of a party's ids fall into a
bucket is not public: every bucket is padded with dummies to `capacity`, which depends on the length of the list alone.
What the coordinator learns of sizes it learns per bucket: a fingerprint against which a guess of the whole common set
can be tested (docs/decisions/psi-buckets.md).

>>> bucket_count({"bank": 1_000, "shop": 9_000}, 2_000), bucket_count({"bank": 1_000, "shop": 3_000}, 2_000)
(5, 1)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from parties.wire import Bytes2D
from psi.lists import STATISTICAL_BITS


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
    mean, rate = ids / buckets, (STATISTICAL_BITS + math.log2(buckets)) * math.log(2)
    over = rate / 3 + math.sqrt((rate / 3) ** 2 + 2 * rate * mean)
    return min(ids, math.ceil(mean + over))


def bucket_of(elements: Bytes2D, buckets: int) -> NDArray[np.int64]:
    """The bucket of each element, 0 to ``buckets`` - 1.

    A bucket is a range of the elements as little-endian numbers (`sorted_places`), so that what is sorted lies bucket
    after bucket. It is the last bytes that tell the bucket.
    """
    return bucket_of_number(numbers(elements), buckets)


def bucket_of_number(leading: NDArray[np.uint64], buckets: int) -> NDArray[np.int64]:
    """The bucket of each element, from its most significant 64 bits; ascends with them."""
    # The high half of a product of 32 bits: shares of the range differ by 2^-32 at most.
    return ((leading >> np.uint64(32)) * np.uint64(buckets) >> np.uint64(32)).astype(np.int64)


def numbers(elements: Bytes2D) -> NDArray[np.uint64]:
    """The most significant 64 bits of each element as a little-endian number."""
    return np.ascontiguousarray(elements[:, -8:]).view("<u8").ravel()


def sorted_places(elements: Bytes2D) -> NDArray[np.int64]:
    """Places that sort elements as little-endian numbers; equal ones stay in their order."""
    leading = numbers(elements)
    order = np.argsort(leading, kind="stable")
    if bool((leading[order[1:]] == leading[order[:-1]]).any()):  # seldom, unless elements repeat
        order = np.lexsort(np.ascontiguousarray(elements).view("<u8").T)
    return order


def in_bucket(elements: Bytes2D, number: int, buckets: int) -> NDArray[np.int64]:
    """Indices of the elements in one bucket, ascending."""
    return np.arange(len(elements)) if buckets == 1 else np.flatnonzero(bucket_of(elements, buckets) == number)
