"""Segments of every shape, and threads: they change no number, and no digit of what is worked out by itself."""

from __future__ import annotations

import random

import gmpy2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.paillier.plain import one_plus
from tests.paillier.test_ifma_cases import (
    Parts,
    edge_parts,
    kernel_for,
    moduli,
    numbers,
    pytestmark,  # noqa: F401
    read,
    rows,
)
from vfl.paillier import ifma_kernel, ifma_library
from vfl.paillier.ifma_kernel import IfmaKernel, Words
from vfl.paillier.kernels import everything

THREADS = ("1", "2", "3")
RNG = random.Random(11)
some = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
N = (1 << 1024) - 159
MODULI = [15, N, (1 << 1552) - 1, (1 << 2048) - 159]  # widths of rows that are multiples of eight words, and not

SHAPES = {
    "empty": [0],
    "one": [1],
    "seven": [7],
    "eight": [8],
    "nine": [9],
    "no segments": [],
    "all empty": [0] * 100,
    "seven segments": [1] * 7,
    "eight segments": [2] * 8,
    "nine segments": [3] * 9,
    "seventeen segments": [*range(17)],
    "very unequal": [1000, 0, 1, 1, 0, 0, 500, 2, 3, 0, 1, 33, 32, 31],
    "one very long": [5000],
    "one very long among many": [1] * 50 + [3000] + [0] * 50 + [2] * 50,
    "around where pieces are cut": [31, 32, 33, 63, 64, 65, 95, 96, 97],
    "pieces of pieces": [40_000],
    "thousands": [at % 5 for at in range(4000)],
    "ascending": [*range(100)],
    "descending": [*range(100, 0, -1)],
}


def source(n: int) -> tuple[Words, list[gmpy2.mpz]]:
    """Rows with extreme parts, and what they stand for."""
    found = edge_parts(n)
    pairs: list[Parts] = [(x, y) for x in found[-5:] for y in found[-3:]] + [(found[1], 1), (0, 0)]
    return rows(n, pairs), [gmpy2.mpz(x) for x in numbers(n, pairs)]


def segments_of(lengths: list[int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions below ``count`` for segments of these lengths, and their offsets; zero (the last one) is rare."""
    idx = np.array([RNG.randrange(count if RNG.random() < 0.001 else count - 1) for _ in range(sum(lengths))], np.int64)
    return idx, np.cumsum([0, *lengths]).astype(np.int64)


def products(stand_for: list[gmpy2.mpz], idx: np.ndarray, offsets: np.ndarray, n: int) -> list[int]:
    nn, found = gmpy2.mpz(n) ** 2, []
    for start, stop in zip(offsets.tolist(), offsets.tolist()[1:], strict=False):
        x = gmpy2.mpz(1)
        for i in idx[start:stop].tolist():
            x = x * stand_for[i] % nn
        found.append(int(x))
    return found


@pytest.mark.parametrize("lengths", SHAPES.values(), ids=SHAPES)
def test_shapes_of_segments(lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    src, stand_for = source(N)
    idx, offsets = segments_of(lengths, len(src))
    expected = products(stand_for, idx, offsets, N)
    for threads in THREADS:
        monkeypatch.setenv("VFL_THREADS", threads)
        assert kernel_for(N).unpack(kernel_for(N).seg_prod(src, idx, offsets)) == expected


@pytest.mark.parametrize("n", MODULI, ids=int.bit_length)
@some
@given(st.data())
def test_any_segments_cut_into_any_pieces(n: int, data: st.DataObject) -> None:
    """Pieces from two factors on, and threads from one product on, so that few factors go all ways."""
    length = st.one_of(st.integers(0, 9), st.integers(0, 90))
    lengths = data.draw(st.lists(length, max_size=30))
    src, stand_for = source(n)
    idx, offsets = segments_of(lengths, len(src))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ifma_kernel, "_SHORTEST_PIECE", data.draw(st.sampled_from([2, 3, 8, 32])))
        patch.setattr(ifma_kernel, "_LEAST_PER_THREAD", data.draw(st.sampled_from([1, 8, 128])))
        patch.setenv("VFL_THREADS", data.draw(st.sampled_from(THREADS)))
        found = kernel_for(n).seg_prod(src, idx, offsets)
    assert kernel_for(n).unpack(found) == products(stand_for, idx, offsets, n)


def test_segments_that_are_not_cut_have_the_same_digits_over_any_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    src, _ = source(N)
    idx, offsets = segments_of([at % 30 for at in range(500)], len(src))
    found = []
    for threads in THREADS:
        monkeypatch.setenv("VFL_THREADS", threads)
        found.append(np.asarray(kernel_for(N).seg_prod(src, idx, offsets)))
    assert all(np.array_equal(found[0], other) for other in found)


def test_what_a_segment_gives_does_not_depend_on_its_neighbours() -> None:
    """The same segment in every place among segments of other lengths: the same digits."""
    src, stand_for = source(N)
    idx, _ = segments_of([12], len(src))
    (expected,) = products(stand_for, idx, np.array([0, 12]), N)
    for place in range(17):
        lengths = [place * 7 % 12 + other for other in range(17)]
        others, _ = segments_of([sum(lengths[:place])], len(src))
        rest, _ = segments_of([sum(lengths[place + 1 :])], len(src))
        lengths[place] = 12
        found = kernel_for(N).seg_prod(src, np.concatenate([others, idx, rest]), np.cumsum([0, *lengths]))
        assert kernel_for(N).unpack(found)[place] == expected


def works(kernel: IfmaKernel, src: Words) -> dict[str, object]:
    """Every function on more numbers than one thread gets."""
    n, count = kernel.modulus, 403
    idx = np.arange(count) * 5 % len(src)
    values = kernel.take(src, idx)
    every = everything(values)
    digits = (np.arange(count * 4) * 37 % 16).astype(np.uint8).reshape(count, 4)
    exponents = [at * at * 7919 for at in range(count)]
    body = kernel.to_rows(values)
    wide = np.tile(body, 2)
    plus = one_plus(kernel, [at * n // 3 for at in range(count)])
    return {
        "mul_pairs": kernel.mul_pairs(src, idx, values, every[::-1]),
        "fixed_base": kernel.fixed_base(kernel.window_table(n - 2, 4, 4), digits),
        "a shared power": kernel.pow_uniform(values, 2**70 - 3),
        "powers": kernel.pow_uniform(values, exponents),
        "secret powers": kernel.pow_uniform(values, exponents, secret_bits=1),
        "squarings": kernel.pow_uniform(values, 2**21),
        "one_plus": plus,
        "add_plaintexts": kernel.add_plaintexts(values, [at * n // 5 for at in range(count)]),
        "seg_prod of factors": kernel.seg_prod(
            kernel.for_reuse(plus, one_plus(kernel, [-(at * n // 3) for at in range(count)])), every[:-1], every
        ),
        "logarithms": np.array(kernel.logarithms(plus), dtype=object),
        "to_rows": body,
        "from_rows": kernel.from_rows(body),
        "from_rows, wide": kernel.from_rows(wide),
        "recombine": kernel_for(n * 7).recombine(
            kernel, values, kernel_for(7), kernel_for(7).pack([at % 49 for at in range(count)])
        ),
    }


@pytest.mark.parametrize("n", [2**521 - 1, 2**1279 - 1], ids=int.bit_length)
def test_the_number_of_threads_changes_no_digit(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, (src, stand_for) = kernel_for(n), source(n)
    found = []
    for threads in THREADS:
        monkeypatch.setenv("VFL_THREADS", threads)
        found.append(works(kernel, src))
    for other in found[1:]:
        assert [name for name in found[0] if not np.array_equal(found[0][name], other[name])] == []
    idx = np.arange(403) * 5 % len(src)
    taken = [stand_for[i] for i in idx]
    expected = [int(gmpy2.powmod(x, at * at * 7919, n * n)) for at, x in enumerate(taken)]
    assert read(n, found[0]["secret powers"]) == read(n, found[0]["powers"]) == expected
    assert read(n, found[0]["mul_pairs"]) == [x * y % (n * n) for x, y in zip(taken, taken[::-1], strict=True)]
    assert read(n, found[0]["squarings"]) == [int(gmpy2.powmod(x, 2**21, n * n)) for x in taken]


def test_threads_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the tests above did use several: as many calls of C as threads, whose ranges cover everything once."""
    n, calls = moduli(20)[2], []
    honest = ifma_library.call

    def call(name: str, *arguments: object) -> None:
        calls.append((name, arguments))
        honest(name, *arguments)

    monkeypatch.setattr(ifma_library, "call", call)
    kernel = IfmaKernel(n)
    values = kernel.pack([3] * 1000)
    for threads in THREADS:
        monkeypatch.setenv("VFL_THREADS", threads)
        calls.clear()
        kernel.mul_pairs(values, everything(values), values, everything(values))
        kernel.seg_prod(values, everything(values), np.arange(0, 1001, 2))
        counts = [arguments[-1] for name, arguments in calls if name == "multiply_pairs"]
        assert (len(counts), sum(counts)) == (int(threads), 1000)
        segments = [arguments[-1] for name, arguments in calls if name == "segment_products"]
        assert (len(segments), sum(segments)) == (int(threads), 500)


@pytest.mark.parametrize(
    ("lengths", "threads", "cuts"),
    [
        ([1000] * 64, 2, [0, 32, 64]),
        ([1000] * 8 + [10] * 100, 2, [0, 8, 108]),
        ([900] * 24, 2, [0, 8, 24]),
        ([100] * 25, 3, [0, 8, 24, 25]),
        ([1] * 64, 2, [0, 64]),
        ([], 2, [0, 0]),
    ],
)
def test_threads_get_even_shares(
    lengths: list[int], threads: int, cuts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As even as whole vectors of eight segments allow; too little work is not shared."""
    monkeypatch.setenv("VFL_THREADS", str(threads))
    assert ifma_kernel._cuts_of_segments(np.array(lengths, dtype=np.int64)) == cuts
