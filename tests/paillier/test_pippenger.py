"""Products of powers against plain integers, for both ways of raising and all layouts of rows."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.paillier import pippenger
from vfl.paillier.columns import Windows
from vfl.paillier.gmpy2_kernel import Gmpy2Kernel
from vfl.paillier.kernels import open_kernel

N = 2**89 - 1
NN = N * N
KERNEL, DEFAULT = Gmpy2Kernel(N), open_kernel(N)  # the second may be another one
RNG = random.Random(1)


def expected(numbers: list[int], X: np.ndarray, k: int, slot: int) -> list[int]:
    results = []
    for j in range(X.shape[1]):
        product = 1
        for i, x in enumerate(X[:, j].tolist()):
            product = product * pow(numbers[i // k], x << (slot * (k - 1 - i % k)), NN) % NN
        results.append(product)
    return results


def check(X: np.ndarray, k: int = 1, slot: int = 0) -> None:
    numbers = [RNG.randrange(1, N) for _ in range(-(-len(X) // k))]
    wanted = expected(numbers, X, k, slot)
    for kernel in (KERNEL, DEFAULT):
        powers = pippenger.powers_of_columns(kernel, kernel.pack(numbers), X, rows_per_value=k, slot_bits=slot)
        assert kernel.unpack(powers) == wanted


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.lists(st.lists(st.integers(-(2**20), 2**20), min_size=n, max_size=n), min_size=1, max_size=4)
    ),
    st.sampled_from([(1, 0), (2, 25), (3, 40), (5, 30)]),
)
@settings(deadline=None, max_examples=60)
def test_any_matrix(columns: list[list[int]], layout: tuple[int, int]) -> None:
    check(np.array(columns, dtype=np.int64).T, *layout)


@pytest.mark.parametrize("layout", [(1, 0), (4, 70)])
def test_edges_of_64_bits(layout: tuple[int, int]) -> None:
    check(np.array([[2**62, -(2**62)], [-(2**62), 2**62 - 1], [0, 1], [1, 0], [-1, 0]], dtype=np.int64), *layout)


@pytest.mark.parametrize("layout", [(1, 0), (3, 24)])
def test_columns_of_every_kind_keep_their_order(layout: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    n = 400
    bits = rng.random(n) < 0.3
    X = np.stack(
        [
            rng.integers(-(2**15), 2**15, n),
            np.where(bits, 40000, -17000),
            np.zeros(n),
            bits,
            rng.integers(-1, 2, n),
            np.full(n, -9),
            rng.integers(-(2**15), 2**15, n),
            bits * 2**15,
            rng.integers(0, 4, n) * 1000,
        ],
        axis=1,
    ).astype(np.int64)
    check(X, *layout)


@pytest.mark.parametrize("tabled", [False, True])
@pytest.mark.parametrize("width", [2, 3, 8])
def test_both_ways_in_batches(tabled: bool, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    count = -(-17 // width)
    forced = Windows(width, count, tabled)
    monkeypatch.setattr(pippenger, "choose_windows", lambda nonzero, *_: (0.0, [forced] * len(nonzero)))
    monkeypatch.setattr(pippenger, "_DIGITS_AT_ONCE", 100)
    monkeypatch.setattr(pippenger, "_TABLE_ENTRIES", 16 << width)
    X = np.random.default_rng(width).integers(-(2**15), 2**15 + 1, (90, 3))
    check(X)
    check(X, 4, 30)


@pytest.mark.parametrize("at_once", [1, 50, 256, 10**6])
@pytest.mark.parametrize("largest", [1, 2, 31, 32, 33, 100, 4095])
def test_digits_in_slices(at_once: int, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains of all lengths, cut so that a call gets enough numbers."""
    costs = replace(KERNEL.costs, at_once=at_once)
    monkeypatch.setattr(Gmpy2Kernel, "costs", property(lambda self: costs))
    monkeypatch.setattr(
        pippenger, "choose_windows", lambda nonzero, *_: (0.0, [Windows(12, 2, tabled=False)] * len(nonzero))
    )
    X = np.random.default_rng(largest).integers(-largest, largest + 1, (60, 2))
    X[0] = largest, -largest
    check(X)
    check(X, 3, 30)


@given(st.integers(1, 5000), st.integers(0, 300), st.integers(1, 2000))
def test_slices_cover_the_digits(largest: int, chains: int, at_once: int) -> None:
    slices, size = pippenger._cut_digits(largest, chains, at_once)
    assert 0 <= slices * size - largest < slices
    assert slices == 1 or size >= pippenger._SHORTEST_SLICE
    assert slices == 1 or chains * (slices - 1) < at_once


@pytest.mark.parametrize("layout", [(1, 0), (3, 24)])
def test_one_hot_columns_need_no_inverse(layout: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    X = (rng.random((300, 5)) < 0.2).astype(np.int64) * [1, 7, 1, 2**20, 1]
    monkeypatch.setattr(pippenger, "invert_all", None)
    check(X, *layout)
    with pytest.raises(TypeError):
        check(-X, *layout)


def test_zeros_cost_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    inner = pippenger.multiply_groups
    monkeypatch.setattr(
        pippenger,
        "multiply_groups",
        lambda kernel, v, keys, *rest: counted.append(len(keys)) or inner(kernel, v, keys, *rest),
    )
    X = np.zeros((500, 2), dtype=np.int64)
    X[::50, 0] = 3 * 2**14
    check(X)
    assert counted == [10, 10]  # one call for each kernel
