import secrets

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vfl.paillier as paillier
from parties.errors import CryptoError, LocalProtocolError
from vfl.paillier import InnerProductPlan, PrivateKey, generate_keypair, plan_inner_product
from vfl.paillier import inner_product as module

KEY = generate_keypair(256, insecure_test_mode=True)
COSTS = KEY.public.kernel.costs


def largest_product(X: np.ndarray, R: int) -> int:
    return max(R, R * int(np.abs(X).sum(axis=0).max()))


def through_the_protocol(key: PrivateKey, plan: InnerProductPlan, r: np.ndarray, X: np.ndarray) -> list[int]:
    v = paillier.encrypt(key, paillier.pack_rows(plan, r))
    received = paillier.from_bytes(key.public, paillier.to_bytes(v), count=plan.ciphertexts)
    masked, masks = paillier.mask_products(plan, paillier.transposed_product(plan, received, X))
    returned = paillier.from_bytes(key.public, paillier.to_bytes(masked), count=X.shape[1])
    opened = paillier.open_products(plan, key, returned, count=X.shape[1])
    return paillier.unmask_products(plan, key.public, opened, masks)


@given(
    st.integers(1, 30), st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.booleans(), st.integers(0, 2**32)
)
@settings(deadline=None, max_examples=80)
def test_exact_for_every_packing(n: int, d: int, r_bits: int, x_bits: int, extreme: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    R, top = 2**r_bits, 2**x_bits
    if extreme:
        r, X = rng.choice([-R, R], n), rng.choice([-top, top], (n, d))
    else:
        r, X = rng.integers(-R, R + 1, n), rng.integers(-top, top + 1, (n, d))
    bound = largest_product(X, R)
    k = 1
    while k == 1 or k * 2 <= 8:
        try:
            plan = plan_inner_product(256, n, bound, k)
        except CryptoError:
            break
        assert through_the_protocol(KEY, plan, r, X) == (X.T @ r).tolist()
        k += 1


@pytest.mark.parametrize("k", [1, 4, 9])
def test_exact_at_1024_bits(key1024: PrivateKey, k: int) -> None:
    rng = np.random.default_rng(k)
    r, X = rng.integers(-(2**16), 2**16, 301), rng.integers(-(2**15), 2**15, (301, 5))
    plan = plan_inner_product(1024, 301, largest_product(X, 2**16), k)
    assert through_the_protocol(key1024, plan, r, X) == (X.T @ r).tolist()


@pytest.mark.slow
def test_exact_at_full_length(key2048: PrivateKey) -> None:
    rng = np.random.default_rng(0)
    r, X = rng.integers(-(2**20), 2**20, 64), rng.integers(-(2**15), 2**15, (64, 2))
    for k in (1, 16):
        plan = plan_inner_product(2048, 64, largest_product(X, 2**20), k)
        assert through_the_protocol(key2048, plan, r, X) == (X.T @ r).tolist()


def packed_sum(plan: InnerProductPlan, slots: list[int]) -> int:
    return sum(slot << (plan.slot_bits * t) for t, slot in enumerate(slots))


def open_and_unmask(plan: InnerProductPlan, n: int, slots: list[int], rho: int) -> int:
    """Both ends of the packed rule on bare integers."""
    mask = (1 << plan.product_bits) + rho
    V = packed_sum(plan, slots) + mask
    assert 0 < V < n
    q = (V >> plan.shift) & ((1 << plan.answer_bits) - 1)
    return module._unmask(plan, KEY.public, q, mask)


def rhos(plan: InnerProductPlan) -> list[int]:
    """Masks that sit on the edges of the returned slot, beside random ones."""
    top, s = 1 << (plan.product_bits + plan.sigma), plan.shift
    edges = [0, 1, top - 1, 1 << s, (1 << s) - 1, top - (1 << s), (1 << (s + plan.answer_bits)) - 1]
    return [*edges, *(secrets.randbelow(top) for _ in range(8))]


@given(st.integers(2, 5), st.integers(1, 11), st.data())
@settings(deadline=None, max_examples=150)
def test_packing_is_exact_for_adversarial_slots_and_masks(k: int, bits: int, data: st.DataObject) -> None:
    """Thousands of trials: every slot anywhere in [-S, S], the masks on the edges of the returned bits."""
    S = 2**bits
    plan = plan_inner_product(256, 10, S, k)
    slot = st.one_of(st.sampled_from([S, -S, 0, 1, -1]), st.integers(-S, S))
    slots = data.draw(st.lists(slot, min_size=2 * k - 1, max_size=2 * k - 1))
    for rho in rhos(plan):
        assert open_and_unmask(plan, KEY.public.n, slots, rho) == slots[k - 1]


def test_without_the_gap_results_are_off() -> None:
    """The naive variant (no gap, no guard bits) on the same kind of trials: some results are off by one."""
    k, S = 3, 2**10
    plan = InnerProductPlan(256, 10, S, k, slot_bits=S.bit_length() + 1, guard_bits=0, gap_bits=0)
    wrong, trials = 0, 1000
    for _ in range(trials):
        slots = [secrets.randbelow(2 * S + 1) - S for _ in range(2 * k - 1)]
        mask = (1 << plan.product_bits) + secrets.randbits(plan.product_bits + plan.sigma)
        q = (packed_sum(plan, slots) + mask) >> plan.shift
        e = paillier.centred(q - (mask >> plan.shift), 1 << plan.slot_bits)
        wrong += e != slots[k - 1]
    assert wrong > trials // 50


def test_the_agreed_numbers() -> None:
    plan = plan_inner_product(2048, 30_000, 2**51, 16)
    assert (plan.guard_bits, plan.gap_bits, plan.sigma) == (2, 10, 40)
    assert (plan.slot_bits, plan.product_bits, plan.answer_bits) == (63, 1953, 65)
    assert plan.product_bits + plan.sigma + 2 <= 2048


@pytest.mark.parametrize("k", [2, 3, 16])
def test_packed_plans_fit_exactly(k: int) -> None:
    bound = 2**20
    needed = (bound.bit_length() + 11) * (2 * k - 1) + 42
    plan = plan_inner_product(needed, 100, bound, k)
    # the largest |V| stays below the smallest modulus of that length
    assert (1 << plan.product_bits) * 2 + (1 << (plan.product_bits + 40)) < 1 << (needed - 1)
    with pytest.raises(CryptoError, match="Pack fewer"):
        plan_inner_product(needed - 1, 100, bound, k)


def test_unpacked_plans_fit_exactly() -> None:
    plan_inner_product(256, 100, 2**254 - 1, 1)
    with pytest.raises(CryptoError, match="do not fit"):
        plan_inner_product(256, 100, 2**254, 1)


@pytest.mark.parametrize(("rows", "bound", "k"), [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-5, 1, 1), (1, -1, 2)])
def test_senseless_plans_are_refused(rows: int, bound: int, k: int) -> None:
    with pytest.raises(CryptoError):
        plan_inner_product(2048, rows, bound, k)


def test_few_columns_are_packed_and_the_choice_fits() -> None:
    assert paillier.choose_rows_per_ciphertext(2048, 30_000, 2**51, 4, COSTS) > 8
    assert paillier.choose_rows_per_ciphertext(512, 100, 2**400, 4, COSTS) == 1
    for features in (1, 10, 100, 1000):
        for bits in (512, 1024, 2048, 3072):
            k = paillier.choose_rows_per_ciphertext(bits, 5000, 2**50, features, COSTS)
            assert plan_inner_product(bits, 5000, 2**50, k).rows_per_ciphertext == k


@given(
    st.integers(1, 6), st.integers(1, 62), st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=40), st.data()
)
@settings(deadline=None, max_examples=200)
def test_rows_are_packed_as_the_sum_says(k: int, bits: int, values: list[int], data: st.DataObject) -> None:
    """Slots of every width, those beyond 64 bits and the edges of the bound included."""
    bound = 2**bits
    r = [*(v % (2 * bound + 1) - bound for v in values), data.draw(st.sampled_from([bound, -bound, 0]))]
    plan = plan_inner_product(4096, len(r), bound, k)
    blocks = [r[i : i + k] for i in range(0, len(r), k)]
    expected = [sum(x << (plan.slot_bits * i) for i, x in enumerate(block)) for block in blocks]
    assert paillier.pack_rows(plan, np.array(r, dtype=np.int64)) == (expected if k > 1 else r)


def test_the_largest_int64_is_packed() -> None:
    r = np.array([-(2**63), 2**63 - 1, -1], dtype=np.int64)
    for slot_bits in (75, 128):
        plan = InnerProductPlan(4096, 3, 2**63, 2, slot_bits)
        assert paillier.pack_rows(plan, r) == [-(2**63) + ((2**63 - 1) << slot_bits), -1]


def test_rows_that_do_not_fit_the_plan_are_refused() -> None:
    plan = plan_inner_product(256, 3, 1000, 2)
    for bad in (np.array([1, 2]), np.array([1.0, 2, 3]), np.array([[1, 2, 3]]), np.array([1, 2, 1001])):
        with pytest.raises(CryptoError, match="Inner product"):
            paillier.pack_rows(plan, bad)


def test_matrices_that_do_not_fit_the_plan_are_refused() -> None:
    plan = plan_inner_product(256, 3, 1000, 2)
    v = paillier.encrypt(KEY, paillier.pack_rows(plan, np.array([1, 2, 3])))
    X = np.ones((3, 2), dtype=np.int64)
    too_large = X * 334  # a column's sum of magnitudes exceeds 1000
    for bad in (X[:2], X[:, 0], X.astype(float), too_large, -too_large, X * (2**62 + 1), np.full((3, 1), -(2**63))):
        with pytest.raises(CryptoError, match="Inner product"):
            paillier.transposed_product(plan, v, bad)
    with pytest.raises(CryptoError, match="2 of 256 bits"):
        paillier.transposed_product(plan, v[:1], X)
    assert len(paillier.transposed_product(plan, v, X[:, :0])) == 0


def test_vectors_of_another_length_of_key_are_refused(key1024: PrivateKey) -> None:
    plan = plan_inner_product(256, 2, 1000, 1)
    v = paillier.encrypt(key1024, [1, 2])
    with pytest.raises(CryptoError, match="1024-bit"):
        paillier.transposed_product(plan, v, np.ones((2, 1), dtype=np.int64))


@pytest.mark.parametrize("k", [1, 2])
def test_the_opener_checks_what_it_is_asked(key: PrivateKey, other_key: PrivateKey, k: int) -> None:
    plan = plan_inner_product(512, 3, 1000, k)
    v = paillier.encrypt(key, [0, 1])
    for count in (0, 1, 3):
        with pytest.raises(CryptoError, match="agreed on"):
            paillier.open_products(plan, key, v, count=count)
    with pytest.raises(CryptoError, match="another key"):
        paillier.open_products(plan, other_key, v, count=2)
    with pytest.raises(CryptoError, match="another key"):
        paillier.open_products(plan_inner_product(256, 3, 1000, k), key, v, count=2)


def test_only_the_agreed_slot_is_returned(key: PrivateKey) -> None:
    plan = plan_inner_product(512, 9, 1000, 3)
    marked = packed_sum(plan, [111, 222, 5, 333, 444])
    opened = paillier.open_products(plan, key, paillier.encrypt(key, [marked]), count=1)
    assert opened.shape == (1, plan.answer_bytes)
    assert int.from_bytes(opened.tobytes()) == 5 << plan.guard_bits | 222 >> (plan.slot_bits - plan.guard_bits)


@pytest.mark.parametrize("k", [1, 2])
def test_opened_answers_are_checked(k: int) -> None:
    plan = plan_inner_product(256, 4, 1000, k)
    v = paillier.encrypt(KEY, paillier.pack_rows(plan, np.array([1, 2, 3, 4])))
    masked, masks = paillier.mask_products(plan, paillier.transposed_product(plan, v, np.ones((4, 2), np.int64)))
    opened = paillier.open_products(plan, KEY, masked, count=2)
    assert paillier.unmask_products(plan, KEY.public, opened, masks) == [10, 10]
    ones = np.full_like(opened, 255)
    for bad in (opened[:1], opened[:, 1:], opened.astype(np.int64), opened.ravel(), ones, opened.tobytes()):
        with pytest.raises(CryptoError):
            paillier.unmask_products(plan, KEY.public, bad, masks)  # type: ignore[arg-type]


def test_answers_beyond_the_bound_are_refused() -> None:
    plan = plan_inner_product(256, 4, 1000, 1)
    for answer, good in ((1000, True), (KEY.public.n - 1000, True), (1001, False), (KEY.public.n - 1001, False)):
        opened = np.frombuffer(answer.to_bytes(32), np.uint8).reshape(1, 32)
        if good:
            assert abs(paillier.unmask_products(plan, KEY.public, opened, [0])[0]) == 1000
        else:
            with pytest.raises(CryptoError, match="bound"):
                paillier.unmask_products(plan, KEY.public, opened, [0])
    with pytest.raises(LocalProtocolError):
        paillier.unmask_products(plan_inner_product(512, 4, 1000, 1), KEY.public, np.zeros((1, 64), np.uint8), [0])


def test_masks_cover_their_range(key: PrivateKey) -> None:
    v = paillier.encrypt(key, [0] * 200)
    _, uniform = paillier.mask_products(plan_inner_product(512, 200, 1000, 1), v)
    assert max(uniform) < key.public.n < 1.1 * max(uniform)
    assert len(set(uniform)) == 200
    packed = plan_inner_product(512, 400, 1000, 2)
    masked, offset = paillier.mask_products(packed, v)
    low, high = 1 << packed.product_bits, (1 << packed.product_bits) + (1 << (packed.product_bits + 40))
    assert low <= min(offset)
    assert 0.9 * high < max(offset) < high
    assert masked.fresh
