"""Wide slots and their masks against plain integers, on both kernels."""

import os
import secrets
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import vfl.paillier as paillier
from parties.errors import CryptoError, LocalProtocolError
from vfl.paillier import (
    PrivateKey,
    WideSlots,
    draw_masks,
    low_words,
    open_words,
    pack_masks,
    pack_words,
    plan_wide_slots,
)

KeyOn = Callable[[int], PrivateKey]
MODULUS = 2**2047 + 777  # any of 2048 bits, for arithmetic without a key
WORD = 2**64


def numbers(rows: np.ndarray) -> list[int]:
    return [int.from_bytes(row.tobytes()) for row in rows]


def whole(masks: np.ndarray) -> list[list[int]]:
    return [[int.from_bytes(mask.tobytes(), "little") for mask in row] for row in masks.astype("<u8")]


@pytest.mark.parametrize("columns", [18, 300])
def test_sixteen_units_fit_into_2048_bits(columns: int) -> None:
    assert plan_wide_slots(2048, columns * 2**78).slots == 16


def test_a_range_rounded_up_to_a_power_of_two_would_cost_a_slot() -> None:
    layout = plan_wide_slots(2048, 300 * 2**78)
    assert layout.mask_range == 300 * 2**118
    assert plan_wide_slots(2048, 512 * 2**78).slots == 15


@given(st.integers(1, 2**100), st.integers(1, 50), st.integers(1, 80))
@settings(deadline=None)
def test_a_layout_holds_the_largest_sums_and_no_slot_is_wider_than_needed(bound: int, terms: int, sigma: int) -> None:
    layout = plan_wide_slots(2048, bound, terms=terms, sigma=sigma)
    largest = terms * (layout.mask_range - 1 + 2 * bound)
    assert largest < 2**layout.slot_bits
    assert layout.slot_bits == 64 or largest >= 2 ** (layout.slot_bits - 1)
    assert layout.slots == 2046 // layout.slot_bits
    assert layout.mask_words * 64 >= layout.slot_bits


@pytest.mark.parametrize(("bound", "terms", "sigma"), [(0, 1, 40), (-1, 1, 40), (1, 0, 40), (1, 1, 0)])
def test_layouts_of_nothing_are_refused(bound: int, terms: int, sigma: int) -> None:
    with pytest.raises(CryptoError, match="at least 1"):
        plan_wide_slots(2048, bound, terms=terms, sigma=sigma)


def test_a_slot_that_does_not_fit_is_refused() -> None:
    with pytest.raises(CryptoError, match="Use a longer key"):
        plan_wide_slots(512, 2**480)


@given(st.sampled_from([512, 777, 1024]), st.integers(1, 2**130), st.integers(1, 3), st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_masks_lie_in_their_range_and_in_their_slots(bits: int, bound: int, terms: int, seed: int) -> None:
    layout = plan_wide_slots(bits, bound, terms=terms)
    slots = 1 + seed % layout.slots
    masks = draw_masks(layout, 5, slots)
    assert masks.shape == (5, slots, layout.mask_words)
    modulus = 2 ** (bits - 1) + 1
    rows = pack_masks(layout, masks, modulus)
    assert rows.shape == (5, (bits + 7) // 8)
    for mask, low, number in zip(whole(masks), low_words(masks).tolist(), numbers(rows), strict=True):
        assert all(bound <= m < bound + layout.mask_range for m in mask)
        assert low == [m % WORD for m in mask]
        assert number == sum(m << layout.slot_bits * i for i, m in enumerate(mask)) < modulus // 2


def test_masks_are_uniform_over_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the system's randomness says below the range comes out as it is, and nothing else."""
    layout = plan_wide_slots(512, 5 * 2**30, sigma=41)  # 5 2^71: the upper word goes up to 640
    rng = np.random.default_rng(1)
    asked: list[bytes] = []

    def drawn(size: int) -> bytes:
        asked.append(rng.bytes(size))
        return asked[-1]

    monkeypatch.setattr(os, "urandom", drawn)
    masks = draw_masks(layout, 500, 2)
    raw = np.frombuffer(b"".join(asked), dtype="<u8").reshape(-1, 2)
    offered = [int(low) + (int(high) % 2**10 << 64) for low, high in raw]
    kept = [x for x in offered if x < layout.mask_range]
    assert [m - layout.bound for row in whole(masks) for m in row] == kept
    assert 0.5 < len(kept) / len(offered) < 0.75  # 640 / 1024
    tenths = np.bincount([10 * x // layout.mask_range for x in kept], minlength=10)
    assert tenths.min() > 60


@pytest.mark.parametrize("top", [0, 1, -1])
def test_the_ends_of_the_range(monkeypatch: pytest.MonkeyPatch, top: int) -> None:
    """The largest mask is range - 1, and the range itself is drawn again."""
    layout = plan_wide_slots(512, 3 * 2**60)
    first = (layout.mask_range + top) if top else 0
    offers = [first.to_bytes(16, "little"), (7).to_bytes(16, "little")]
    monkeypatch.setattr(os, "urandom", lambda size: offers.pop(0))
    mask = whole(draw_masks(layout, 1, 1))[0][0] - layout.bound
    assert mask == (7 if top == 1 else first)


def test_the_largest_masked_sums_of_all_parties_stay_in_their_slots() -> None:
    layout = plan_wide_slots(2048, 300 * 2**78, terms=3)
    top = (layout.mask_range - 1 + layout.bound).to_bytes(8 * layout.mask_words, "little")
    masks = np.frombuffer(top * layout.slots, dtype="<u8").astype(np.uint64).reshape(1, layout.slots, -1)
    packed = numbers(pack_masks(layout, masks, MODULUS))[0]
    products = sum(layout.bound << layout.slot_bits * i for i in range(layout.slots))
    total = layout.terms * (packed + products)
    assert 2 * total < MODULUS
    each = layout.terms * (layout.mask_range - 1 + 2 * layout.bound) % WORD
    assert open_words(layout, [total], layout.slots).tolist() == [[each] * layout.slots]


any_words = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-(2**63), 2**63 - 1, -1, 0, 1])


@given(
    st.integers(180, 700),
    st.integers(1, 2**110),
    st.data(),
)
@settings(deadline=None, max_examples=80)
def test_words_are_laid_side_by_side_modulo_n(bits: int, bound: int, data: st.DataObject) -> None:
    layout = plan_wide_slots(bits, bound)
    shape = (data.draw(st.integers(0, 3)), data.draw(st.integers(1, layout.slots)))
    values = data.draw(arrays(np.int64, shape, elements=any_words))
    modulus = 2 ** (bits - 1) + 2 * data.draw(st.integers(0, 2 ** (bits - 2) - 1)) + 1
    rows = pack_words(layout, values, modulus)
    assert rows.shape == (shape[0], (bits + 7) // 8)
    expected = [sum(v << layout.slot_bits * i for i, v in enumerate(row)) % modulus for row in values.tolist()]
    assert numbers(rows) == expected


@given(st.integers(1, 2**100), st.integers(0, 2**32))
@settings(deadline=None)
def test_opened_slots_are_read_modulo_two_to_the_64(bound: int, seed: int) -> None:
    layout = plan_wide_slots(1024, bound)
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, layout.slots, endpoint=True))
    slots = [[secrets.randbits(layout.slot_bits) for _ in range(count)] for _ in range(4)]
    slots[0] = [2**layout.slot_bits - 1] * count
    residues = [sum(s << layout.slot_bits * i for i, s in enumerate(row)) for row in slots]
    assert open_words(layout, residues, count).tolist() == [[s % WORD for s in row] for row in slots]


@pytest.mark.parametrize("slots", ["all", "fewer"])
def test_a_product_with_shares_comes_out_modulo_two_to_the_64(key_on: KeyOn, slots: str) -> None:
    """[[V]] times X plus masks, summed over two parties, opened, less the masks."""
    key, rng = key_on(1024), np.random.default_rng(4)
    layout = plan_wide_slots(1024, 3 * 2**78, terms=2)
    width = layout.slots if slots == "all" else layout.slots - 2
    V = rng.integers(-(2**63), 2**63 - 1, (3, width), endpoint=True)
    V[0], V[1, 0] = -(2**63), 2**63 - 1
    X = rng.integers(-(2**15), 2**15, (5, 3), endpoint=True)
    X[0] = 2**15
    total, rest = None, np.zeros((5, width), dtype=np.uint64)
    for _ in range(2):
        v = paillier.encrypt(key, pack_words(layout, V, key.public.n))
        masks = draw_masks(layout, 5, width)
        products = paillier.add_plain(paillier.times_rows(v, X), pack_masks(layout, masks, key.public.n))
        with pytest.raises(LocalProtocolError, match="re-randomising"):
            paillier.to_bytes(products)
        total = products if total is None else paillier.add(total, products)
        rest -= low_words(masks)
    assert total is not None
    opened = open_words(layout, paillier.decrypt(key, total), width)
    plain = X.view(np.uint64) @ V.view(np.uint64)
    assert (opened + rest == plain + plain).all()


def test_what_is_opened_under_a_mask_does_not_follow_the_sum() -> None:
    """Two sums at the ends of what is allowed look alike: they differ by 2^-39 of the mask's range."""
    layout = plan_wide_slots(512, 2**78)
    slots = np.array(whole(draw_masks(layout, 4000, 1)), dtype=object)[:, 0]
    quarters = [np.bincount([4 * (m + s) // (2**118 + 2**80) for m in slots], minlength=4) for s in (-(2**78), 2**78)]
    assert np.abs(quarters[0] - quarters[1]).max() <= 1
    assert quarters[0].min() > 850


def test_refusals() -> None:
    layout = plan_wide_slots(2048, 18 * 2**78)
    other = 2**1023 + 1
    masks = draw_masks(layout, 2, 16)
    for slots in (0, 17):
        with pytest.raises(CryptoError, match="expected 1 to 16"):
            draw_masks(layout, 2, slots)
        with pytest.raises(CryptoError, match="expected 1 to 16"):
            open_words(layout, [0], slots)
        with pytest.raises(CryptoError, match="expected 1 to 16"):
            pack_words(layout, np.zeros((2, slots), dtype=np.int64), MODULUS)
        with pytest.raises(CryptoError, match="expected 1 to 16"):
            pack_masks(layout, np.zeros((2, slots, 2), dtype=np.uint64), MODULUS)
    with pytest.raises(CryptoError, match="got 1024"):
        pack_masks(layout, masks, other)
    with pytest.raises(CryptoError, match="got 1024"):
        pack_words(layout, np.zeros((2, 16), dtype=np.int64), other)
    for wrong in (masks[:, :, :1], masks[0], masks.view(np.int64)):
        with pytest.raises(CryptoError, match="expected uint64"):
            pack_masks(layout, wrong, MODULUS)
    with pytest.raises(CryptoError, match="more than the 123 bits"):
        pack_masks(layout, masks | np.uint64(2**63), MODULUS)
    for values in (np.zeros((2, 16)), np.zeros(16, dtype=np.int64), np.zeros((2, 16), dtype=np.uint64)):
        with pytest.raises(CryptoError, match="expected int64"):
            pack_words(layout, values, MODULUS)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 16])
def test_a_plaintext_beyond_its_slots_is_refused(count: int) -> None:
    layout = plan_wide_slots(2048, 18 * 2**78)
    longest = 2 ** (123 * count) - 1
    assert (open_words(layout, [longest], count) == WORD - 1).all()
    for wrong in (longest + 1, -1, MODULUS - 1):
        with pytest.raises(CryptoError, match="longer than"):
            open_words(layout, [0, wrong], count)


def test_nothing_is_packed_and_opened_as_nothing() -> None:
    layout: WideSlots = plan_wide_slots(2048, 2**80)
    assert draw_masks(layout, 0, 3).shape == (0, 3, layout.mask_words)
    assert pack_masks(layout, draw_masks(layout, 0, 3), MODULUS).shape == (0, 256)
    assert pack_words(layout, np.zeros((0, 3), dtype=np.int64), MODULUS).shape == (0, 256)
    assert open_words(layout, [], 3).shape == (0, 3)


@pytest.mark.parametrize("residues", [[0, 1, -1], [5, 2**300, -3]])
def test_rows_of_residues_are_added_like_the_integers(key_on: KeyOn, residues: list[int]) -> None:
    key = key_on(512)
    n, start = key.public.n, [7, 8, -9]
    rows = np.frombuffer(b"".join((x % n).to_bytes(64) for x in residues), dtype=np.uint8).reshape(3, 64)
    v = paillier.encrypt(key, start)
    added = paillier.add_plain(v, rows)
    assert paillier.decrypt(key, added) == paillier.decrypt(key, paillier.add_plain(v, residues))
    assert not added.fresh


def test_rows_that_are_no_residues_are_not_added(key: PrivateKey) -> None:
    v = paillier.encrypt(key, [1])
    modulus = np.frombuffer(key.public.n.to_bytes(64), dtype=np.uint8).reshape(1, 64)
    for rows in (modulus, np.zeros((1, 63), dtype=np.uint8), np.full((1, 64), 255, dtype=np.uint8)):
        with pytest.raises(CryptoError, match="no residue"):
            paillier.add_plain(v, rows)
