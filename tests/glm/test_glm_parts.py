"""Blocks, targets and their fixed-point arithmetic against Python integers; payloads across the boundary."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.errors import CryptoError, LocalProtocolError, RemoteProtocolError
from parties.wire import Encrypted, Opened, PaillierKey, Revealed
from tests.glm.federations import make_federation
from vfl import glm, glm_exact
from vfl.exact import quantise
from vfl.exchange import receive_ciphers, receive_key, receive_opened, receive_values, send_ciphers, send_key
from vfl.losses import FAMILIES
from vfl.paillier import (
    PrivateKey,
    encrypt,
    generate_keypair,
    mask_products,
    open_products,
    plan_inner_product,
    transposed_product,
)

ROWS, TRAINING = 40, 30
QUICK = settings(max_examples=30, deadline=None)


def a_block(seed: int = 0, width: int = 3, *, ones: bool = True) -> glm.Block:
    X = np.random.default_rng(seed).standard_t(3, size=(ROWS, width))
    X = (X - X[:TRAINING].mean(axis=0)) / X[:TRAINING].std(axis=0)
    q = quantise(X, TRAINING)
    return glm.make_block(q.integers, q.scale_bits, TRAINING, 0.01, ones=ones)


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return generate_keypair(512, insecure_test_mode=True)


def test_a_block_ends_with_ones_that_are_not_penalised() -> None:
    block = a_block()
    assert block.width == 4
    assert (block.integers[:, -1] == 1 << glm.ONES_BITS).all()
    assert block.scale_bits[-1] == glm.ONES_BITS
    assert block.penalty.tolist() == [0.01] * 3 + [0.0]
    assert len(block.training) == block.rows == TRAINING
    assert a_block(ones=False).width == 3


def test_column_sums_stay_within_the_agreed_bound() -> None:
    """Also for the worst column, all of whose entries are +-1."""
    for seed in range(20):
        block = a_block(seed)
        assert int(np.abs(block.training).sum(axis=0).max()) <= glm.column_bound(block.rows)
    flat = quantise(np.repeat([[1.0], [-1.0]], 20, axis=0), ROWS)
    block = glm.make_block(flat.integers, flat.scale_bits, ROWS, 0.0, ones=True)
    assert int(np.abs(block.training).sum(axis=0).max()) <= glm.column_bound(ROWS)


@QUICK
@given(st.integers(0, 1000), st.integers(1, 3), st.floats(-8, 8))
def test_forward_is_exact(seed: int, outputs: int, magnitude: float) -> None:
    block = a_block(seed)
    weights = np.random.default_rng(seed).normal(size=(4, outputs)) * 2.0**magnitude
    grid = glm.to_grid(block, weights)
    assert (glm.forward(block, weights) == glm.forward(block, grid)).all()
    fixed = glm.forward(block, weights, slice(None))
    for i in range(0, ROWS, 7):
        for c in range(outputs):
            exact = sum(
                Fraction(int(x), 1 << int(bits)) * Fraction(float(w))
                for x, bits, w in zip(block.integers[i], block.scale_bits, grid[:, c], strict=True)
            )
            assert int(fixed[i, c]) == (exact * 2**glm.SCORE_BITS + Fraction(1, 2)).__floor__()
    assert (glm.forward(block, weights) == fixed[: block.rows]).all()
    assert (glm.forward(block, weights, slice(block.rows, None)) == fixed[block.rows :]).all()


@pytest.mark.parametrize("weight", [np.nan, np.inf, 2.0**40, 1e308, -(2.0**40)])
def test_weights_beyond_fixed_point_are_refused(weight: float) -> None:
    with pytest.raises(LocalProtocolError, match="fixed point|reaches 2"):
        glm.forward(a_block(), np.full((4, 1), weight))


@QUICK
@given(st.integers(0, 1000), st.integers(1, 3), st.sampled_from([1, 1 << 20, 1 << 26, 1 << 40]))
def test_own_products_are_exact_beyond_64_bits(seed: int, outputs: int, bound: int) -> None:
    """Outliers: a column whose one row has all of its weight, against residuals up to 2^40."""
    block = a_block(seed)
    residuals = np.random.default_rng(seed).integers(-bound, bound + 1, size=(block.rows, outputs))
    got = glm.own_products(block, residuals)
    X = block.training.tolist()
    expected = [
        [sum(X[i][j] * int(residuals[i, c]) for i in range(block.rows)) for j in range(4)] for c in range(outputs)
    ]
    assert got == expected


def test_mean_gradient_scales_each_column() -> None:
    block = a_block()
    residual = np.random.default_rng(1).normal(size=(block.rows, 2))
    fixed = np.rint(residual * 2.0**20).astype(np.int64)
    X = np.ldexp(block.training.astype(float), -block.scale_bits)
    gradient = glm.mean_gradient(block, glm.own_products(block, fixed), 20)
    np.testing.assert_allclose(gradient, X.T @ (fixed / 2.0**20) / block.rows, rtol=1e-12, atol=1e-15)
    empty = a_block(width=0, ones=False)
    assert glm.mean_gradient(empty, [[], []], 20).shape == (0, 2)


def test_block_preconditioner_inverts_the_real_block() -> None:
    block = a_block()
    X = np.ldexp(block.training.astype(float), -block.scale_bits)
    hessian = 0.25 * X.T @ X / block.rows + np.diag(block.penalty)
    P = glm.block_preconditioner(block, 0.25)
    np.testing.assert_allclose(P @ hessian, np.eye(4), atol=1e-10)
    v = np.random.default_rng(0).normal(size=(4, 2))
    np.testing.assert_allclose(glm.precondition(P, v), P @ v, rtol=1e-12)


@pytest.mark.parametrize("model", ["logistic", "linear", "poisson", "softmax"])
@pytest.mark.parametrize("ones", [True, False])
def test_local_optimum_is_a_stationary_point_of_the_own_columns(model: str, ones: bool) -> None:
    federation = make_federation(model, 100, (3, 1), training={"fit_intercept": ones})
    block = federation.block("active")
    target = glm.make_target(model, federation.y, None, federation.outputs)
    w = glm.local_optimum(block, target, 0.001, ones=ones)
    residual = target.residual(glm.to_scores(glm.forward(block, w)))
    X = np.ldexp(block.training.astype(float), -block.scale_bits)
    assert np.abs(X.T @ residual / 100 + block.penalty[:, None] * w).max() < 1e-7


@pytest.mark.parametrize("unit", [1e-9, 1e-4, 1.0, 3e5])
def test_linear_labels_are_scaled_to_a_deviation_near_one(unit: float) -> None:
    y = np.random.default_rng(0).normal(size=50) * unit
    target = glm.make_target("linear", y, None, 1)
    assert 0.7 <= np.std(target.y) <= 1.45
    np.testing.assert_array_equal(np.ldexp(target.y, target.label_bits), y)


def test_constant_linear_labels() -> None:
    target = glm.make_target("linear", np.full(10, 3.0), np.full(10, 2.0), 1)
    assert target.label_bits == 0
    assert target.weights.tolist() == [1.0] * 10


def test_keys_and_ciphertexts_cross_the_boundary(key: PrivateKey) -> None:
    public = receive_key(send_key(key.public), "bank", 512)
    assert public == key.public
    payload = send_ciphers(encrypt(public, [5, -6]))
    vector = receive_ciphers(public, payload, 2, "bank")
    assert key.decrypt_values(vector.values) == [5, public.n - 6]
    with pytest.raises(LocalProtocolError, match="without re-randomising"):
        send_ciphers(vector)  # what came in is not fresh


def test_what_does_not_cross(key: PrivateKey) -> None:
    good = send_ciphers(encrypt(key, [1, 2]))
    bad_key = PaillierKey(b"\0" * 64, key.public.to_wire()[1], 256)
    cases = [
        (lambda: receive_key(send_key(key.public), "bank", 1024), "public key from bank"),
        (lambda: receive_key(bad_key, "bank", 512), "public key from bank"),
        (lambda: receive_ciphers(key.public, good, 3, "bank"), "ciphertexts from bank"),
        (lambda: receive_ciphers(key.public, Encrypted(b"", good.body), 2, "bank"), "bank sent .* another key"),
        (lambda: receive_values(Revealed({}, np.array([np.nan])), 1, "bank"), "bank sent steering values"),
        (lambda: receive_values(Revealed({}, np.array([2.0**421])), 1, "bank"), "bank sent steering values"),
        (lambda: receive_values(Revealed({}, np.zeros(2)), 1, "bank"), "bank sent steering values"),
    ]
    for case, text in cases:
        with pytest.raises(RemoteProtocolError, match=text):
            case()
    assert receive_values(Revealed({}, np.array([2.0**420, -0.5])), 2, "bank") == [2.0**420, -0.5]


@pytest.mark.parametrize("packing", [1, 3])
def test_opened_products_come_back_exact_or_not_at_all(packing: int, key: PrivateKey) -> None:
    X = np.array([[3, -4], [5, 6], [-7, 8]])
    plan = plan_inner_product(512, 3, 1000, packing)
    values = [2 + (9 << plan.slot_bits) + (-1 << 2 * plan.slot_bits)] if packing == 3 else [2, 9, -1]
    products = transposed_product(plan, encrypt(key, values), X)
    masked, masks = mask_products(plan, products)
    body = open_products(plan, key, masked, count=2)
    assert receive_opened(plan, key.public, Opened(body), masks, "bank") == (X.T @ [2, 9, -1]).tolist()
    for wrong in (body[:1], body[:, 1:], np.zeros_like(body), np.full_like(body, 255)):
        with pytest.raises(RemoteProtocolError, match="opened products from bank"):
            receive_opened(plan, key.public, Opened(np.ascontiguousarray(wrong)), masks, "bank")
    with pytest.raises(CryptoError, match="agreed on 1"):
        open_products(plan, key, masked, count=1)


def test_the_line_search_keeps_residuals_below_their_bound() -> None:
    """The minimum is at t = 4 / 14, where the last residual is 8 / 14; below 2^-1 it is up to t = 1 / 4 only."""
    y, dz = np.array([0.4] * 10 + [0.0]), np.array([1.0] * 10 + [2.0])[:, None]
    target = glm.Target(FAMILIES["linear"], y, None, 0, 1)
    slope = float((-y * dz[:, 0]).mean())
    for bound_bits, expected in ((-1, 1 / 4), (0, 4 / 14)):
        setup = glm_exact.Setup(bound_bits, 0, 1)
        t = glm_exact.search_step(target, setup, np.zeros((11, 1)), dz, slope, 0.0, 0.0)
        assert t == pytest.approx(expected, rel=0.01)
        assert np.abs(t * dz[:, 0] - y).max() <= 2.0**bound_bits


@pytest.mark.parametrize("model", ["poisson", "linear"])
def test_residuals_stay_below_their_announced_bound(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one label is far out."""
    largest: list[int] = []
    honest = glm_exact.quantised

    def spy(residual: np.ndarray, setup: glm_exact.Setup) -> np.ndarray:
        fixed = honest(residual, setup)
        largest.append(int(np.abs(fixed).max()))
        return fixed

    monkeypatch.setattr(glm_exact, "quantised", spy)
    federation = make_federation(model, 100, (1, 2, 2))
    federation.y[3] = 60.0
    assert federation.error(federation.fit()) < 2e-3
    assert max(largest) <= 1 << glm_exact.RESIDUAL_BITS
    assert max(largest) > 1 << (glm_exact.RESIDUAL_BITS - 4)
