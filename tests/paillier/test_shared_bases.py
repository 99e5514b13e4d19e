"""Encrypted matrix products against plain integers, by tables and by buckets, on both kernels."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vfl.paillier as paillier
from parties.errors import CryptoError, LocalProtocolError
from vfl.estimating.counting import CountingKernel
from vfl.paillier import PrivateKey, shared_bases, times_columns, times_rows
from vfl.paillier.gmpy2_kernel import Gmpy2Kernel
from vfl.paillier.kernels import open_kernel
from vfl.paillier.shared_bases import _products

KeyOn = Callable[[int], PrivateKey]
N = 2**89 - 1
NN = N * N
KERNELS = (Gmpy2Kernel(N), open_kernel(N))  # the second may be another one
RNG = random.Random(1)
WAYS = {"tables": lambda *_: False, "buckets": lambda *_: True}


def check(monkeypatch: pytest.MonkeyPatch, X: np.ndarray, outputs: int = 1) -> None:
    """Compare with plain powers: by tables, by buckets, and by whichever is chosen."""
    n, d = X.shape
    numbers = [RNG.randrange(1, N) for _ in range(d * outputs)]
    wanted = []
    for row in X.tolist():
        for o in range(outputs):
            product = 1
            for j, x in enumerate(row):
                product = product * pow(numbers[j * outputs + o], x, NN) % NN
            wanted.append(product)
    for kernel in KERNELS:
        values = kernel.pack(numbers)
        assert kernel.unpack(_products(kernel, values, X, outputs)) == wanted
        for way in WAYS.values():
            with monkeypatch.context() as patch:
                patch.setattr(shared_bases, "_by_buckets", way)
                assert kernel.unpack(_products(kernel, values, X, outputs)) == wanted


def drawn(rng: np.random.Generator, n: int, kind: str) -> np.ndarray:
    """A column of some kind."""
    normal = np.rint(rng.normal(size=n) * 1024).astype(np.int64)
    rare = rng.random(n) < 0.1
    columns = {
        "normal": normal,
        "outliers": np.where(rare, 32768 * rng.choice([-1, 1], n), normal),
        "one-hot": rare * 1024,
        "mostly one": ~rare * 1024,
        "two values": np.where(rare, 1400, -713),
        "few values": rng.choice([-900, -300, 77, 1024, 4000], n),
        "spike": np.where(rare, normal, -700),
        "zero": np.zeros(n, dtype=np.int64),
        "constant": np.full(n, -5),
        "huge": rng.choice([2**31, -(2**31), 2**31 - 1, 1, 0], n),
    }
    return columns[kind]


KINDS = ["normal", "outliers", "one-hot", "mostly one", "two values", "few values", "spike", "zero", "constant", "huge"]


@given(
    st.sampled_from([1, 2, 3, 7, 40, 150]),
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=9),
    st.integers(1, 3),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=40)
def test_any_matrix(n: int, kinds: list[str], outputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        check(patch, np.stack([drawn(rng, n, kind) for kind in kinds], axis=1), outputs)


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.lists(st.lists(st.integers(-(2**31), 2**31), min_size=n, max_size=n), min_size=1, max_size=5)
    ),
    st.integers(1, 2),
)
@settings(deadline=None, max_examples=60)
def test_any_integers(rows: list[list[int]], outputs: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        check(patch, np.array(rows, dtype=np.int64), outputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 300])
def test_every_kind_of_column(monkeypatch: pytest.MonkeyPatch, kind: str, n: int) -> None:
    rng = np.random.default_rng(5)
    check(monkeypatch, np.stack([drawn(rng, n, kind) for _ in range(3)], axis=1))


@pytest.mark.parametrize("outputs", [1, 3])
def test_columns_are_taken_in_batches(monkeypatch: pytest.MonkeyPatch, outputs: int) -> None:
    """With limits so low that every batch, and every sorted block, is a column or two."""
    monkeypatch.setattr(shared_bases, "_EXPONENTS_AT_ONCE", 1)
    monkeypatch.setattr(shared_bases, "_SORTED_AT_ONCE", 1)
    rng = np.random.default_rng(6)
    X = np.stack([drawn(rng, 60, kind) for kind in KINDS * 6], axis=1)
    assert len(shared_bases._batches(np.count_nonzero(X, axis=0), 32 * 60 // 3)) > 2
    check(monkeypatch, X, outputs)


@pytest.mark.parametrize("more", [0, 1], ids=["alone", "with others"])
def test_a_divisor_of_more_columns_than_rows_is_left_to_the_end(monkeypatch: pytest.MonkeyPatch, more: int) -> None:
    rng = np.random.default_rng(7)
    columns = [drawn(rng, 9, "one-hot" if j % 3 else "mostly one") for j in range(40)]
    columns += [drawn(rng, 9, kind) for kind in KINDS] * more
    check(monkeypatch, np.stack(columns, axis=1), 2)


@pytest.mark.parametrize(("n", "d"), [(0, 3), (4, 0), (0, 0), (5, 2)])
@pytest.mark.parametrize("outputs", [1, 4])
def test_nothing_comes_to_zero(key: PrivateKey, n: int, d: int, outputs: int) -> None:
    X = np.zeros((n, d), dtype=np.int64)
    rows = times_rows(paillier.encrypt(key, [3] * (d * outputs)), X, outputs=outputs)
    assert paillier.decrypt(key, rows) == [0] * (n * outputs)
    columns = times_columns(paillier.encrypt(key, [3] * (n * outputs)), X, outputs=outputs)
    assert paillier.decrypt(key, columns) == [0] * (d * outputs)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (6, 40), (1, 5), (5, 1)])
@pytest.mark.parametrize("outputs", [1, 2])
def test_products_of_matrices(key_on: KeyOn, n: int, d: int, outputs: int) -> None:
    """[[X V]] and [[X'D]] of signed plaintexts, decrypted."""
    key, rng = key_on(512), np.random.default_rng(8)
    X = np.rint(rng.normal(size=(n, d)) * 1024).astype(np.int64)
    V, D = rng.integers(-(2**40), 2**40, (d, outputs)), rng.integers(-(2**40), 2**40, (n, outputs))
    for times, factor, wanted in ((times_rows, V, X @ V), (times_columns, D, X.T @ D)):
        result = times(paillier.encrypt(key.public, factor.ravel().tolist()), X, outputs=outputs)
        opened = [paillier.centred(x, key.public.n) for x in paillier.decrypt(key, result)]
        assert opened == wanted.ravel().tolist()


def test_results_stay_at_home_until_they_are_rerandomised(key: PrivateKey) -> None:
    """Even a product with the identity, or a row of zeros, which is the number one."""
    v = paillier.encrypt(key, [1, 2])
    for X in (np.eye(2, dtype=np.int64), np.zeros((2, 2), dtype=np.int64)):
        for times in (times_rows, times_columns):
            result = times(v, X)
            assert not result.fresh
            with pytest.raises(LocalProtocolError, match="re-randomising"):
                paillier.to_bytes(result)
            assert paillier.rerandomise(result, towards_owner=True).fresh


@pytest.mark.parametrize("times", [times_rows, times_columns], ids=["rows", "columns"])
def test_refusals(key: PrivateKey, times: Callable[..., paillier.CipherVector]) -> None:
    v, X = paillier.encrypt(key, [1, 2, 3, 4]), np.ones((2, 2), dtype=np.int64)
    assert len(times(v, X, outputs=2)) == 4
    for outputs in (1, 3, 0, -2):
        with pytest.raises(CryptoError, match=f"got 4 ciphertexts .* {outputs} outputs"):
            times(v, X, outputs=outputs)
    for wrong in (X.astype(np.float64), X.astype(np.int32), X.astype(np.uint64), X[0], X[None]):
        with pytest.raises(CryptoError, match="expected int64 of two dimensions"):
            times(v, wrong, outputs=2)
    with pytest.raises(CryptoError, match="got X of list"):
        times(v, X.tolist(), outputs=2)
    for large in (2**31 + 1, -(2**31) - 1, -(2**63), 2**63 - 1):
        with pytest.raises(CryptoError, match=r"exceeds 2\^31"):
            times(v, np.array([[0, 0], [0, large]]), outputs=2)


def products_of(X: np.ndarray, outputs: int = 1) -> float:
    """How many products and squarings it takes."""
    kernel = CountingKernel(N, open_kernel(N).costs, 1)
    _products(kernel, kernel.pack([1] * X.shape[1] * outputs), X, outputs)
    return kernel.work.products + kernel.work.squarings


def normals(n: int, d: int) -> np.ndarray:
    return np.rint(np.random.default_rng(9).normal(size=(n, d)) * 1024).astype(np.int64)


@pytest.mark.parametrize(
    ("n", "d", "most"), [(256, 1, 2000), (256, 18, 700), (256, 300, 650), (64, 18, 260), (8192, 18, 13000)]
)
def test_what_a_dense_column_costs(n: int, d: int, most: int) -> None:
    assert products_of(normals(n, d)) / d < most


def test_outputs_cost_the_same_each() -> None:
    X = normals(256, 18)
    assert products_of(X, 4) == pytest.approx(4 * products_of(X), rel=0.02)


@pytest.mark.parametrize("rare", [0, 1024], ids=["mostly one", "mostly zero"])
def test_a_column_of_two_values_costs_a_product_for_every_rarer_one(rare: int) -> None:
    """And the ten squarings that its scale of 2^10 takes, with a product or two for all columns together."""
    X = normals(256, 18)
    places = np.arange(0, 200, 10)
    column = np.full(256, 1024 - rare)
    column[places] = rare
    more = np.concatenate([X, np.stack([np.roll(column, k) for k in range(5)], axis=1)], axis=1)
    assert (products_of(more) - products_of(X)) / 5 <= len(places) + 10 + 2


def test_thousands_of_categories_cost_their_ones_only() -> None:
    """They have one scale, and the rows' products are raised to it instead of theirs."""
    rng, n = np.random.default_rng(10), 256
    X = np.zeros((n, 4000), dtype=np.int64)
    chosen = rng.integers(0, 4000, (n, 10))
    X[np.arange(n)[:, None], chosen] = 1024
    assert products_of(X) <= np.count_nonzero(X) + n * 12 + 600


def test_a_row_alone_costs_no_more_than_its_powers() -> None:
    X = normals(1, 300)
    powers = sum(abs(x).bit_length() + abs(x).bit_count() for x in X[0].tolist())
    assert products_of(X) < powers
