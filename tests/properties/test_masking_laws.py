"""Zero-sum masks on generated vectors: sums are exact whatever wraps, and nothing opens alone or twice."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.errors import CryptoError, LocalProtocolError, RemoteProtocolError
from parties.wire import Masked
from vfl.masking import Masks, add_masked, check_scores, open_sum

QUICK = settings(max_examples=40, deadline=None)
WORDS = st.integers(-(2**63), 2**63 - 1)
# Multiples of 2^-128 below 2^120 in magnitude that a float holds exactly.
SCALARS = st.one_of(
    st.just(0.0),
    st.builds(
        lambda m, e, s: math.copysign(math.ldexp(m, e), s),
        st.integers(1, 2**53 - 1),
        st.integers(-128, 66),
        st.sampled_from([1, -1]),
    ),
)


def federation(parties: int, run: int = 0) -> list[Masks]:
    """One `Masks` per party, as `pairwise_masks` deals them out; party 0 is the active one."""
    secret = {pair: bytes([run, *pair]).ljust(32, b"\1") for pair in itertools.combinations(range(parties), 2)}
    return [
        Masks({str(j): (secret[min(i, j), max(i, j)], 1 if i < j else -1) for j in range(parties) if j != i})
        for i in range(parties)
    ]


def parts(masked: list[Masked]) -> dict[str, Masked]:
    return {str(i): part for i, part in enumerate(masked)}


@QUICK
@given(st.data(), st.integers(2, 5), st.integers(0, 6))
def test_masked_scores_add_up_exactly_modulo_2_64(data: st.DataObject, parties: int, count: int) -> None:
    vectors = [np.array(data.draw(st.lists(WORDS, min_size=count, max_size=count)), dtype=np.int64)] * parties
    active, *others = federation(parties)
    total = add_masked(parts([m.scores("a", v) for m, v in zip(others, vectors[1:], strict=True)]))
    opened = active.open_scores("a", total, count)
    expected = [sum(int(v[i]) for v in vectors[1:]) for i in range(count)]
    assert [(int(o) - e) % 2**64 for o, e in zip(opened, expected, strict=True)] == [0] * count


@QUICK
@given(st.integers(2, 5), st.lists(st.integers(-(2**59), 2**59), min_size=1, max_size=5))
def test_sums_of_checked_scores_do_not_wrap(parties: int, values: list[int]) -> None:
    vector = np.array(values, dtype=np.int64)
    check_scores(vector, parties - 1)
    active, *others = federation(parties)
    opened = active.open_scores("a", add_masked(parts([m.scores("a", vector) for m in others])), len(values))
    assert opened.tolist() == [value * (parties - 1) for value in values]


@QUICK
@given(st.data(), st.integers(2, 5))
def test_masked_scalars_add_up_exactly(data: st.DataObject, parties: int) -> None:
    count = data.draw(st.integers(1, 4))
    values = [data.draw(st.lists(SCALARS, min_size=count, max_size=count)) for _ in range(parties)]
    everyone = federation(parties)
    sums = open_sum(add_masked(parts([m.scalars("a", v) for m, v in zip(everyone, values, strict=True)])))
    active, *others = federation(parties)
    total = add_masked(parts([m.scalars("a", v) for m, v in zip(others, values[1:], strict=True)]))
    opened = active.open_scalars("a", total, count)
    for i in range(count):
        assert sums[i] == float(sum(Fraction(v[i]) for v in values))
        assert opened[i] == float(sum(Fraction(v[i]) for v in values[1:]))


@QUICK
@given(st.integers(2, 4), st.integers(1, 20))
def test_a_sum_that_lacks_one_party_stays_closed(parties: int, count: int) -> None:
    zeros = np.zeros(count, dtype=np.int64)
    masked = [m.scores("a", zeros) for m in federation(parties)]
    for left_out in range(parties):
        kept = [part for i, part in enumerate(masked) if i != left_out]
        assert add_masked(parts(kept)).body.all()  # a zero word has probability 2^-64
    assert not add_masked(parts(masked)).body.any()


def test_masks_differ_by_label_run_and_party() -> None:
    zeros = np.zeros(4, dtype=np.int64)
    seen = [
        tuple(m.scores(label, zeros).body[:, 0].tolist())
        for run in (0, 1)
        for label in ("a", "b", "a|1")
        for m in federation(3, run)
    ]
    assert len({word for words in seen for word in words}) == 4 * len(seen)


def test_a_label_serves_once_whatever_it_masked() -> None:
    uses = [
        lambda m: m.scores("a", np.zeros(2, dtype=np.int64)),
        lambda m: m.scalars("a", [1.0]),
        lambda m: m.open_scores("a", Masked(np.zeros((2, 1), dtype=np.uint64)), 2),
        lambda m: m.open_scalars("a", Masked(np.zeros((2, 4), dtype=np.uint64)), 2),
    ]
    for first, second in itertools.product(uses, uses):
        masks = federation(3)[1]
        first(masks)
        with pytest.raises(LocalProtocolError, match="the mask of 'a' was used before"):
            second(masks)


@pytest.mark.parametrize("shape", [(3, 1), (2, 4), (2, 2), (2, 0), (0, 1), (2,), (2, 1, 1)])
def test_a_wrong_shape_names_its_sender(shape: tuple[int, ...]) -> None:
    good, bad = Masked(np.ones((2, 1), dtype=np.uint64)), Masked(np.ones(shape, dtype=np.uint64))
    with pytest.raises(RemoteProtocolError, match="shop sent masked words"):
        add_masked({"bank": good, "shop": bad})
    with pytest.raises(RemoteProtocolError, match="shop sent masked words"):
        add_masked({"shop": bad, "bank": good}, 2 if shape[:1] != (2,) or len(shape) != 2 else 3)
    with pytest.raises(RemoteProtocolError, match="the coordinator sent masked words"):
        federation(2)[0].open_scores("a", bad, 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2.0**120, -(2.0**120)])
def test_scalars_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(CryptoError, match="2\\^120"):
        federation(2)[0].scalars("a", [1.0, value])


@pytest.mark.parametrize(("parties", "limit"), [(1, 2**62), (2, 2**61), (3, 2**60), (4, 2**60), (5, 2**59)])
def test_scores_that_could_wrap_are_refused(parties: int, limit: int) -> None:
    for sign in (1, -1):
        check_scores(np.array([sign * limit]), parties)
        with pytest.raises(CryptoError, match="beyond"):
            check_scores(np.array([0, sign * (limit + 1)]), parties)
    with pytest.raises(CryptoError, match="beyond"):
        check_scores(np.array([-(2**63)]), parties)
    check_scores(np.zeros(0, dtype=np.int64), parties)
    assert limit * parties < 2**63
