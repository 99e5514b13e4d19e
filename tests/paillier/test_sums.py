"""Sums of chosen ciphertexts against numpy, on both kernels."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vfl.paillier as paillier
from parties.errors import LocalProtocolError
from vfl.paillier import CipherVector, PrivateKey
from vfl.paillier.groups import _sorting

KeyOn = Callable[[int], PrivateKey]
few = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])


def numbers(key: PrivateKey, v: CipherVector) -> list[int]:
    return [paillier.centred(x, key.public.n) for x in paillier.decrypt(key, v)]


def bincount(values: list[int], rows: np.ndarray, groups: np.ndarray, count: int) -> list[int]:
    weights = np.array(values, dtype=np.float64)[rows] if len(rows) else None
    return np.bincount(groups, weights=weights, minlength=count).astype(np.int64).tolist()


@given(st.integers(0, 60), st.data())
@few
def test_segment_sums(key_on: KeyOn, rows: int, data: st.DataObject) -> None:
    key, values = key_on(512), list(range(1, rows + 1))
    idx = data.draw(st.lists(st.integers(0, rows - 1), max_size=40)) if rows else []
    cuts = sorted(data.draw(st.lists(st.integers(0, len(idx)), max_size=5)))
    offsets = [0, *cuts, len(idx)]
    v = paillier.sum_segments(paillier.encrypt(key, values), np.array(idx, np.int64), np.array(offsets))
    pieces = zip(offsets, offsets[1:], strict=False)
    assert numbers(key, v) == [sum(values[i] for i in idx[start:stop]) for start, stop in pieces]


@pytest.mark.parametrize(
    ("idx", "offsets"), [([0], [0]), ([0], []), ([0], [1, 1]), ([5], [0, 1]), ([-1], [0, 1]), ([0, 0], [0, 2, 1, 2])]
)
def test_segments_that_do_not_fit_are_refused(key: PrivateKey, idx: list[int], offsets: list[int]) -> None:
    v = paillier.encrypt(key, [1, 2])
    with pytest.raises(LocalProtocolError, match="sum_segments"):
        paillier.sum_segments(v, np.array(idx, np.int64), np.array(offsets, np.int64))


@given(st.integers(1, 40), st.integers(1, 30), st.data())
@few
def test_sums_by_group(key_on: KeyOn, n: int, count: int, data: st.DataObject) -> None:
    """Rows that come up often or never, groups that are empty or hold everything."""
    key = key_on(512)
    values = data.draw(st.lists(st.integers(-(2**30), 2**30), min_size=n, max_size=n))
    pairs = data.draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, count - 1)), max_size=120))
    rows, groups = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    sums = paillier.sum_by_group(paillier.encrypt(key, values), rows, groups, count)
    assert numbers(key, sums) == bincount(values, rows, groups, count)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", ["even", "one group has all", "powers of two", "one row each", "many empty"])
def test_histograms_of_every_shape(key_on: KeyOn, shape: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFL_THREADS", str(threads))
    key, rng, n, count = key_on(512), np.random.default_rng(5), 300, 700
    groups = {
        "even": rng.integers(0, count, 12 * n),
        "one group has all": np.full(12 * n, 3),
        "powers of two": np.repeat(np.arange(12), 2 ** np.arange(12)),
        "one row each": np.arange(count),
        "many empty": rng.choice([0, 350, count - 1], 12 * n),
    }[shape]
    rng.shuffle(groups)
    rows, values = rng.integers(0, n, len(groups)), rng.integers(-(2**20), 2**20, n).tolist()
    sums = paillier.sum_by_group(paillier.encrypt(key, values), rows, groups, count)
    assert numbers(key, sums) == bincount(values, rows, groups, count)


def test_an_empty_group_is_the_number_one(key_on: KeyOn) -> None:
    key = key_on(512)
    nothing = np.zeros(0, dtype=np.int64)
    sums = paillier.sum_by_group(paillier.encrypt(key, [5]), nothing, nothing, 3)
    assert key.public.kernel.unpack(sums.values) == [1, 1, 1]
    assert len(paillier.sum_by_group(paillier.encrypt(key, [5]), nothing, nothing, 0)) == 0
    assert len(paillier.sum_by_group(paillier.encrypt(key, []), nothing, nothing, 2)) == 2


def test_group_numbers_beyond_16_bits(key_on: KeyOn) -> None:
    key, count = key_on(512), 70_000
    rows, groups = np.array([0, 1, 2, 0]), np.array([count - 1, 65_536, 0, 65_536])
    sums = paillier.sum_by_group(paillier.encrypt(key, [1, 2, 4]), rows, groups, count)
    places = [0, 1, 65_535, 65_536, count - 1]
    assert [numbers(key, sums[at : at + 1])[0] for at in places] == [4, 0, 0, 3, 1]


@given(st.lists(st.integers(0, 2**20), max_size=300), st.sampled_from([1, 40, 2**16, 2**31]))
def test_sorting_is_stable(keys: list[int], top: int) -> None:
    array = np.array([key % top for key in keys], dtype=np.int64)
    assert (_sorting(array) == np.argsort(array, kind="stable")).all()


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16, np.uint64])
def test_integers_of_every_width_are_positions(key: PrivateKey, dtype: type) -> None:
    sums = paillier.sum_by_group(paillier.encrypt(key, [1, 2]), np.array([0, 1], dtype), np.array([1, 1], dtype), 2)
    assert numbers(key, sums) == [0, 3]


@pytest.mark.parametrize(
    ("rows", "groups", "count", "complaint"),
    [
        (np.array([0, 2]), np.array([0, 0]), 1, "rows has an entry"),
        (np.array([0, -1]), np.array([0, 0]), 1, "rows has an entry"),
        (np.array([0, 2**63], np.uint64), np.array([0, 0]), 1, "rows has an entry"),
        (np.array([0, 1]), np.array([0, 3]), 3, "groups has an entry"),
        (np.array([0, 1]), np.array([0, -1]), 3, "groups has an entry"),
        (np.array([0]), np.array([0]), 0, "groups has an entry"),
        (np.array([0, 1]), np.array([0]), 3, "2 rows for 1 group"),
        (np.array([0.0]), np.array([0]), 3, "rows must be a vector of integers"),
        (np.array([True]), np.array([0]), 3, "rows must be a vector of integers"),
        (np.array([0]), np.array([[0]]), 3, "groups must be a vector of integers"),
        ([0], np.array([0]), 3, "rows must be a vector of integers, got list"),
        (np.array([0]), np.array([0]), -1, "got -1 groups"),
        (np.array([0]), np.array([0]), 2**32 + 1, "expected 0 to 2"),
    ],
)
def test_what_does_not_fit_is_refused(
    key: PrivateKey, rows: np.ndarray, groups: np.ndarray, count: int, complaint: str
) -> None:
    with pytest.raises(LocalProtocolError, match=f"sum_by_group: .*{complaint}"):
        paillier.sum_by_group(paillier.encrypt(key, [1, 2]), rows, groups, count)


@given(st.lists(st.lists(st.integers(-(2**60), 2**60), min_size=1, max_size=9), max_size=12))
@few
def test_running_sums(key_on: KeyOn, runs: list[list[int]]) -> None:
    """Runs of any lengths in any order, one after the other."""
    key = key_on(512)
    lengths = np.array([len(run) for run in runs], dtype=np.int64)
    v = paillier.encrypt(key, [x for run in runs for x in run])
    expected = [sum(run[: i + 1]) for run in runs for i in range(len(run))]
    assert numbers(key, paillier.running_sums(v, lengths)) == expected
    assert numbers(key, v) == [x for run in runs for x in run]  # what it was made of stays


@pytest.mark.parametrize("threads", [1, 2])
def test_running_sums_of_many_runs(key_on: KeyOn, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One product for each ciphertext that is not the first of its run."""
    monkeypatch.setenv("VFL_THREADS", str(threads))
    key, rng = key_on(512), np.random.default_rng(3)
    lengths = np.array([1, 300, 1, 1, 40, *rng.integers(1, 12, 60)])
    values = rng.integers(-(2**40), 2**40, lengths.sum())
    sums = numbers(key, paillier.running_sums(paillier.encrypt(key, values.tolist()), lengths))
    assert sums == np.concatenate([run.cumsum() for run in np.split(values, lengths.cumsum()[:-1])]).tolist()


@pytest.mark.parametrize("lengths", [[], [1], [4], [3, 0], [4, -1], [2, 2]])
def test_runs_that_do_not_fit_are_refused(key: PrivateKey, lengths: list[int]) -> None:
    with pytest.raises(LocalProtocolError, match="lengths of runs do not fit"):
        paillier.running_sums(paillier.encrypt(key, [1, 2, 3]), np.array(lengths, np.int64))


@given(st.integers(0, 30), st.data())
@few
def test_gathering(key_on: KeyOn, n: int, data: st.DataObject) -> None:
    """Any order, repeats, none at all."""
    key = key_on(512)
    idx = data.draw(st.lists(st.integers(0, n - 1), max_size=60)) if n else []
    v = paillier.encrypt(key, list(range(n)))
    taken = paillier.gather(v, np.array(idx, dtype=np.int64))
    assert numbers(key, taken) == idx
    assert len(taken) == len(idx)


@pytest.mark.parametrize("idx", [np.array([3]), np.array([-1]), np.array([0.0]), np.array([[0]]), [0]])
def test_positions_that_do_not_fit_are_refused(key: PrivateKey, idx: np.ndarray) -> None:
    with pytest.raises(LocalProtocolError, match="gather: positions"):
        paillier.gather(paillier.encrypt(key, [1, 2, 3]), idx)


@given(st.lists(st.tuples(st.integers(-(2**200), 2**200), st.integers(-(2**200), 2**200)), max_size=20))
@few
def test_differences(key_on: KeyOn, pairs: list[tuple[int, int]]) -> None:
    key = key_on(512)
    a, b = paillier.encrypt(key, [x for x, _ in pairs]), paillier.encrypt(key.public, [y for _, y in pairs])
    assert numbers(key, paillier.subtract(a, b)) == [x - y for x, y in pairs]


@pytest.mark.parametrize("threads", [1, 2])
def test_laws_of_histograms(key_on: KeyOn, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any feature's bins add up to the sum over all rows; parent - child = sibling, group by group."""
    monkeypatch.setenv("VFL_THREADS", str(threads))
    key, rng, n, features, bins = key_on(512), np.random.default_rng(2), 200, 3, 16
    values = rng.integers(-(2**40), 2**40, n)
    v, cells = paillier.encrypt(key, values.tolist()), rng.integers(0, bins, (n, features))
    left = rng.random(n) < 0.3

    def histogram(chosen: np.ndarray) -> CipherVector:
        rows = np.repeat(chosen, features)
        return paillier.sum_by_group(v, rows, (np.arange(features) * bins + cells[chosen]).ravel(), features * bins)

    parent, child, sibling = (histogram(np.flatnonzero(some)) for some in (left | True, left, ~left))
    assert numbers(key, paillier.subtract(parent, child)) == numbers(key, sibling)
    per_feature = paillier.sum_by_group(
        parent, np.arange(features * bins), np.arange(features * bins) // bins, features
    )
    assert numbers(key, per_feature) == [int(values.sum())] * features


def test_operands_must_belong_together(key: PrivateKey, other_key: PrivateKey) -> None:
    a = paillier.encrypt(key, [1, 2])
    with pytest.raises(LocalProtocolError, match="different keys"):
        paillier.subtract(a, paillier.encrypt(other_key, [1, 2]))
    with pytest.raises(LocalProtocolError, match="subtract: got 1 numbers for 2"):
        paillier.subtract(a, a[:1])


def test_no_sum_leaves_without_rerandomising(key: PrivateKey) -> None:
    v, one, offsets = paillier.encrypt(key, [1, 2]), np.array([0]), np.array([0, 1])
    for made in (
        paillier.sum_by_group(v, one, one, 2),
        paillier.subtract(v, v),
        paillier.sum_segments(v, one, offsets),
        paillier.running_sums(v, np.array([1, 1])),
        paillier.gather(v, one),
    ):
        with pytest.raises(LocalProtocolError, match="re-randomising"):
            paillier.to_bytes(made)
    assert v.fresh
