"""Packing, adding, compressing and unpacking against plain integers, on both kernels."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import vfl.paillier as paillier
from parties.errors import CryptoError, LocalProtocolError
from vfl.paillier import PrivateKey, SlotLayout, plan_slots, slots
from vfl.paillier.kernels import Kernel, Values

KeyOn = Callable[[int], PrivateKey]
MODULUS = 2**511 + 111  # any of 512 bits, for arithmetic without a key


@contextmanager
def threads(count: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VFL_THREADS", str(count))
        yield


def drawn(rng: np.random.Generator, shape: tuple[int, int], top: int, kind: str) -> np.ndarray:
    if kind == "random":
        return rng.integers(-top, top, shape, endpoint=True)
    return rng.choice({"edges": [-top, top, 0], "largest": [top], "smallest": [-top]}[kind], shape)


def packed_sum(layout: SlotLayout, row: list[int]) -> int:
    return sum(x << (layout.slot_bits * i) for i, x in enumerate(row))


@given(
    st.sampled_from([512, 1024]),
    st.integers(1, 40),
    st.integers(1, 3),
    st.integers(1, 60),
    st.integers(1, 90),
    st.sampled_from(["random", "edges", "largest", "smallest"]),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_histograms_in_slots(
    key_on: KeyOn, bits: int, value_bits: int, group: int, n: int, count: int, kind: str, seed: int
) -> None:
    """Pack, encrypt, add up by group, compress, decrypt, unpack."""
    key, rng = key_on(bits), np.random.default_rng(seed)
    layout = plan_slots(bits, value_bits, terms=n, group=group)
    values = drawn(rng, (n, group), 2**value_bits - 1, kind)
    groups = rng.integers(0, count, n)
    expected = np.zeros((count, group), dtype=np.int64)
    np.add.at(expected, groups, values)
    with threads(1 + seed % 2):
        v = paillier.encrypt(key.public, paillier.pack_slots(layout, values))
        sums = paillier.sum_by_group(v, np.arange(n), groups, count)
        sent = paillier.rerandomise(paillier.compress(sums, layout), towards_owner=True)
        assert len(sent) == -(-count // layout.per_ciphertext)
        opened = paillier.unpack_slots(layout, paillier.decrypt(key, sent), key.public.n)
    assert opened.dtype == np.int64
    in_order = opened.reshape(-1, group)
    assert (in_order[:count] == expected).all()
    assert not in_order[count:].any()


@pytest.mark.parametrize(("value_bits", "terms"), [(1, 1), (7, 2), (30, 2**20), (63, 1), (63, 2), (63, 2**70), (62, 3)])
@pytest.mark.parametrize("signs", ["+", "-", "+-", "-+", "0", "-0", "0-"])
def test_as_many_terms_as_agreed(key_on: KeyOn, value_bits: int, terms: int, signs: str) -> None:
    """Every slot at its largest magnitude, with either sign beside it."""
    key = key_on(512)
    layout = plan_slots(512, value_bits, terms=terms)
    top = 2**value_bits - 1
    row = [top * {"+": 1, "-": -1, "0": 0}[signs[i % len(signs)]] for i in range(layout.slots)]
    v = paillier.encrypt(key, paillier.pack_slots(layout, np.array([row], dtype=np.int64)))
    opened = paillier.unpack_slots(layout, paillier.decrypt(key, paillier.scale(v, [terms])), key.public.n)
    assert opened.tolist() == [[x * terms for x in row]]
    assert opened.dtype == (np.int64 if layout.slot_bits <= 64 else np.object_)


@pytest.mark.slow
def test_pairs_at_full_length(key_on: KeyOn) -> None:
    key, rng = key_on(2048), np.random.default_rng(1)
    layout = plan_slots(2048, 24, terms=30_000, group=2)
    assert (layout.slot_bits, layout.slots, layout.per_ciphertext) == (40, 50, 25)
    values = drawn(rng, (230, 2), 2**24 - 1, "edges")
    v = paillier.encrypt(key, paillier.pack_slots(layout, values))
    joined = paillier.compress(v, layout)
    assert len(joined) == 10
    opened = paillier.unpack_slots(layout, paillier.decrypt(key, joined), key.public.n)
    assert (opened.reshape(-1, 2)[:230] == values).all()


@pytest.mark.parametrize("per", [1, 2, 5])
@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_plaintexts(key_on: KeyOn, per: int, workers: int) -> None:
    """Runs of every length, whole and cut short, in rounds of 8 and of 16."""
    key = key_on(512)
    layout = plan_slots(512, 500 // per - 1)
    assert layout.per_ciphertext == per
    plain = [(-1) ** i * (i + 1) for i in range(21 * per)]
    v = paillier.encrypt(key, plain)
    with threads(workers):
        for count in (0, 1, per, per + 1, 7 * per, 8 * per, 9 * per - 1, 9 * per, 17 * per, 20 * per + 1):
            joined = paillier.compress(v[:count], layout)
            opened = paillier.unpack_slots(layout, paillier.decrypt(key, joined), key.public.n)
            assert opened.shape == (-(-count // per), per)
            assert opened.ravel().tolist() == plain[:count] + [0] * (-count % per)


class CountingSquarings:
    """A kernel that notes how many numbers each run of squarings gets."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.numbers = kernel, list[int]()

    def pow_uniform(self, a: Values, e: int) -> Values:
        self.numbers.append(len(a))
        return self.kernel.pow_uniform(a, e)

    def __getattr__(self, name: str) -> object:
        return getattr(self.kernel, name)


@pytest.mark.parametrize(
    ("runs", "workers", "rounds"),
    [(1, 1, 10), (7, 2, 10), (8, 1, 10), (9, 1, 12), (12, 1, 15), (16, 1, 10), (12, 2, 10), (16, 2, 10), (24, 2, 15)],
)
def test_lanes_are_filled(key: PrivateKey, runs: int, workers: int, rounds: int) -> None:
    """Eleven plaintexts to a run: ten runs of squarings each, taken so that few lanes stay empty."""
    counting = CountingSquarings(key.public.kernel)
    v = paillier.encrypt(key, list(range(11 * runs)))
    with threads(workers):
        joined = slots._side_by_side(counting, v.values, 11, 40)  # type: ignore[arg-type]
    assert (len(counting.numbers), sum(counting.numbers)) == (rounds, 10 * runs)
    expected = [sum(x << 40 * i for i, x in enumerate(range(11 * at, 11 * at + 11))) for at in range(runs)]
    assert paillier.decrypt(key, paillier.CipherVector(key.public, joined, v.marks[:runs])) == expected


def test_a_compressed_vector_is_not_fresh(key: PrivateKey) -> None:
    layout = plan_slots(512, 20)
    for count in (1, 30):
        with pytest.raises(LocalProtocolError, match="re-randomising"):
            paillier.to_bytes(paillier.compress(paillier.encrypt(key, [1] * count), layout))


def test_the_key_must_have_the_agreed_length(key: PrivateKey) -> None:
    layout = plan_slots(1024, 20)
    with pytest.raises(CryptoError, match="1024 bits of modulus, got a 512-bit key"):
        paillier.compress(paillier.encrypt(key, [1]), layout)
    with pytest.raises(CryptoError, match="1024 bits of modulus, got 512"):
        paillier.unpack_slots(layout, [1], key.public.n)


@given(st.integers(1, 63), st.integers(1, 2**40), st.integers(1, 4), st.sampled_from([256, 512, 1024, 2048, 3072]))
def test_plans_fit_exactly(value_bits: int, terms: int, group: int, bits: int) -> None:
    width = (terms * (2**value_bits - 1)).bit_length() + 1
    assume(width * group < bits)
    layout = plan_slots(bits, value_bits, terms=terms, group=group)
    assert layout.slot_bits == width
    assert layout.slots % group == 0
    assert layout.slots * width <= bits - 1 < (layout.slots + group) * width
    # The largest sums stay within half of the smallest modulus, and every slot within its bits.
    assert 2 * packed_sum(layout, [layout.bound] * layout.slots) < 2 ** (bits - 1)
    assert layout.bound < 2 ** (width - 1) <= 2 * layout.bound + 1


@pytest.mark.parametrize(("value_bits", "terms", "group"), [(30, 1, 1), (24, 30_000, 2), (63, 2**40, 3)])
def test_a_plan_needs_one_group(value_bits: int, terms: int, group: int) -> None:
    needed = group * ((terms * (2**value_bits - 1)).bit_length() + 1) + 1
    assert plan_slots(needed, value_bits, terms=terms, group=group).per_ciphertext == 1
    with pytest.raises(CryptoError, match="do not fit"):
        plan_slots(needed - 1, value_bits, terms=terms, group=group)


@pytest.mark.parametrize(("value_bits", "terms", "group"), [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-1, 5, 5)])
def test_senseless_plans_are_refused(value_bits: int, terms: int, group: int) -> None:
    with pytest.raises(CryptoError, match="at least 1"):
        plan_slots(2048, value_bits, terms=terms, group=group)


@pytest.mark.parametrize("value_bits", [1, 20, 62, 63])
def test_values_that_do_not_fit_are_refused_before_encryption(value_bits: int) -> None:
    layout = plan_slots(512, value_bits, terms=3)
    top = 2**value_bits - 1
    assert len(paillier.pack_slots(layout, np.array([[top], [-top]]))) == 2
    for bad in (-top - 1, -(2**63), *([top + 1] if value_bits < 63 else [])):
        with pytest.raises(CryptoError, match=f"more than the agreed {value_bits} bits") as refusal:
            paillier.pack_slots(layout, np.array([[0, 1], [bad, 0]]))
        assert str(bad) not in str(refusal.value)


@pytest.mark.parametrize(("value_bits", "terms"), [(24, 30_000), (24, 1), (20, 3), (40, 2**20), (62, 1)])
def test_sums_may_be_larger_than_values(key_on: KeyOn, value_bits: int, terms: int) -> None:
    """What is added up already may fill its slot, with either sign; what cannot be such a sum is refused."""
    key = key_on(512)
    layout = plan_slots(512, value_bits, terms=terms, group=2)
    top = layout.bound
    values = np.array([[top, -top], [-top, top], [-top, -top], [top, 0], [0, -1]], dtype=np.int64)
    v = paillier.encrypt(key, paillier.pack_slots(layout, values, sums=True))
    opened = paillier.unpack_slots(layout, paillier.decrypt(key, v), key.public.n)
    assert opened[:, :2].tolist() == values.tolist()
    joined = paillier.unpack_slots(layout, paillier.decrypt(key, paillier.compress(v, layout)), key.public.n)
    assert joined.reshape(-1, 2)[:5].tolist() == values.tolist()
    too_much = 1 << top.bit_length()
    for bad in (too_much, -too_much, -(2**63)):
        with pytest.raises(CryptoError, match=f"more than the agreed {top.bit_length()} bits"):
            paillier.pack_slots(layout, np.array([[0, bad]], dtype=np.int64), sums=True)
    if terms > 1:
        with pytest.raises(CryptoError, match=f"more than the agreed {value_bits} bits"):
            paillier.pack_slots(layout, values)


def test_a_total_and_its_parts_share_a_layout(key_on: KeyOn) -> None:
    """A node's total, sent as a sum, less some of its rows' ciphertexts."""
    key, rng = key_on(512), np.random.default_rng(4)
    layout = plan_slots(512, 24, terms=500, group=2)
    values = rng.integers(-(2**24) + 1, 2**24, (500, 2))
    rows = paillier.encrypt(key, paillier.pack_slots(layout, values))
    total = paillier.encrypt(key, paillier.pack_slots(layout, values.sum(axis=0, keepdims=True), sums=True))
    part = paillier.sum_by_group(rows, np.arange(0, 500, 3), np.zeros(167, np.int64), 1)
    opened = paillier.unpack_slots(layout, paillier.decrypt(key, paillier.subtract(total, part)), key.public.n)
    rest = np.ones(500, dtype=bool)
    rest[::3] = False
    assert opened[0, :2].tolist() == values[rest].sum(axis=0).tolist()


def test_shapes_that_do_not_fit_are_refused() -> None:
    layout = plan_slots(512, 100)
    assert layout.slots == 5
    for bad in (np.zeros((2, 6), np.int64), np.zeros((2, 0), np.int64), np.zeros(2, np.int64), np.zeros((2, 2))):
        with pytest.raises(CryptoError, match="expected int64"):
            paillier.pack_slots(layout, bad)
    assert paillier.pack_slots(layout, np.zeros((0, 5), np.int64)) == []
    assert paillier.unpack_slots(layout, [], MODULUS).shape == (0, 5)


@given(st.integers(1, 9), st.integers(2, 150), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=40))
@settings(deadline=None, max_examples=200)
def test_there_and_back(columns: int, slot_bits: int, raw: list[int]) -> None:
    """Slots of every width: those that end at a word, cross words or are longer than one."""
    layout = SlotLayout(2048, slot_bits - 1, 1, slot_bits, 1, columns)
    top = min(layout.bound, 2**63 - 1)
    row = [x if abs(x) <= top else (x > 0) * 2 * top - top for x in raw]
    values = np.array(row + [0] * (-len(row) % columns), dtype=np.int64).reshape(-1, columns)
    plaintexts = paillier.pack_slots(layout, values)
    assert plaintexts == [packed_sum(layout, line) for line in values.tolist()]
    assert slots.join_slots(np.asfortranarray(values), slot_bits) == plaintexts
    modulus = 2**2047 + secrets.randbits(2046) | 1
    opened = paillier.unpack_slots(layout, [x % modulus for x in plaintexts], modulus)
    assert opened.tolist() == values.tolist()


def test_columns_may_be_fewer_than_slots() -> None:
    layout = plan_slots(512, 100)
    plaintexts = paillier.pack_slots(layout, np.array([[-1, 2], [3, -4]]))
    assert paillier.unpack_slots(layout, [x % MODULUS for x in plaintexts], MODULUS).tolist() == [
        [-1, 2, 0, 0, 0],
        [3, -4, 0, 0, 0],
    ]


@pytest.mark.parametrize("value_bits", [20, 80])
def test_what_the_agreed_terms_cannot_make_is_refused(value_bits: int) -> None:
    layout = plan_slots(512, value_bits, terms=5)
    for slot in (0, 1, layout.slots - 1):
        for sign in (1, -1):
            plaintext = sign * layout.bound << (layout.slot_bits * slot)
            assert paillier.unpack_slots(layout, [plaintext % MODULUS], MODULUS)[0, slot] == sign * layout.bound
            more = sign * (layout.bound + 1) << (layout.slot_bits * slot)
            with pytest.raises(CryptoError, match=f"exceeds 5 terms of {value_bits} bits"):
                paillier.unpack_slots(layout, [0, more % MODULUS], MODULUS)


def test_a_plaintext_longer_than_its_slots_is_refused() -> None:
    layout = plan_slots(512, 100)
    used = layout.slots * layout.slot_bits
    for bad in (1 << used, MODULUS // 2, -(1 << used)):
        with pytest.raises(CryptoError, match="longer than all slots"):
            paillier.unpack_slots(layout, [0, bad % MODULUS], MODULUS)
