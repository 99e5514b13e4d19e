"""The key-value store: what was put in comes out, the failure bound holds, and the table shows nothing."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parties.errors import CryptoError
from psi import okvs
from psi.okvs import CORE, DENSE, decode, encode, part_cells, table_rows

SEED = bytes(range(32))


def rows(count, width, name="keys"):
    """Rows that are the same in every run, and look random."""
    text = b"".join(hashlib.shake_256(b"%s %d" % (name.encode(), i)).digest(width) for i in range(count))
    return np.frombuffer(text, np.uint8).reshape(count, width)


@given(st.integers(1, 300), st.integers(1, 48), st.binary(min_size=32, max_size=32))
def test_every_key_gives_its_value(count, width, seed):
    keys, values = rows(count, 32), rows(count, width, "values")
    table = encode(seed, keys, values)
    assert table.shape == (table_rows(count), width)
    assert (decode(seed, keys, table, count) == values).all()
    assert (decode(seed, keys[::-2], table, count) == values[::-2]).all()


def test_many_keys_in_blocks(monkeypatch):
    monkeypatch.setattr(okvs, "_BLOCK", 1000)
    keys, values = rows(20_500, 16), rows(20_500, 24, "values")
    assert (decode(SEED, keys, encode(SEED, keys, values), len(keys)) == values).all()


def test_value_is_the_sum_of_the_rows_that_the_source_names():
    keys, values = rows(50, 32), rows(50, 9, "values")
    table = encode(SEED, keys, values)
    cells, dense = table[:-DENSE], table[-DENSE:]
    equations = okvs._equations(SEED, keys, part_cells(50))
    for key in range(50):
        total = np.zeros(9, np.uint8)
        for row in [cells[i] for i in equations.cells[:, key]]:
            total ^= row
        for bit in range(64):
            if int(equations.bits[key]) >> bit & 1:
                total ^= dense[bit]
        assert (total == values[key]).all()


def test_cells_and_bits_are_even():
    equations = okvs._equations(SEED, rows(30_000, 32), 100)
    for number, row in enumerate(equations.cells):
        counts = np.bincount(row - 100 * number, minlength=100)
        assert len(counts) == 100
        assert (abs(counts - 300) < 120).all()  # seven standard deviations
    ones = np.unpackbits(equations.bits.view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
    assert (abs(ones - 0.5) < 0.02).all()
    other = okvs._equations(SEED[::-1], rows(30_000, 32), 100)
    assert abs((equations.cells == other.cells).mean() - 0.01) < 0.005


@pytest.mark.parametrize("count", [2, CORE, 2 * CORE])
def test_a_core_goes_to_the_dense_rows(monkeypatch, count):
    """With one cell in each part no key is ever alone."""
    monkeypatch.setattr(okvs, "part_cells", lambda keys: 1)
    keys, values = rows(count, 32), rows(count, 12, "values")
    assert len(okvs._peel(okvs._equations(SEED, keys, 1).cells, 3)[1]) == count
    assert (decode(SEED, keys, encode(SEED, keys, values), count) == values).all()


def test_core_beside_keys_that_peel(monkeypatch):
    monkeypatch.setattr(okvs, "part_cells", lambda keys: 40)
    keys, values = rows(96, 32), rows(96, 12, "values")
    left = len(okvs._peel(okvs._equations(SEED, keys, 40).cells, 120)[1])
    assert 0 < left < 60
    assert (decode(SEED, keys, encode(SEED, keys, values), 96) == values).all()


def test_core_beyond_the_dense_rows_is_refused(monkeypatch):
    monkeypatch.setattr(okvs, "part_cells", lambda keys: 1)
    with pytest.raises(CryptoError, match="once in 2\\^40 runs; run it again"):
        encode(SEED, rows(DENSE + 1, 32), rows(DENSE + 1, 12, "values"))


def log2_core(keys):
    """log2 of the bound on the probability that a core has more than CORE of so many keys."""
    sizes = np.arange(CORE + 1, keys + 1, dtype=np.float64)
    if len(sizes) > 10_000:  # the terms change slowly: each stands for its neighbours too
        sizes = np.unique(np.geomspace(CORE + 1, keys, 20_000).astype(np.int64)).astype(np.float64)
    cells = part_cells(keys)
    low, high = np.full(len(sizes), 1e-6), np.full(len(sizes), 50.0)
    for _ in range(50):  # the bound holds for every r > 0, and is best where r (e^r - 1) / (e^r - r) = k / M
        r = np.sqrt(low * high)
        below = r * np.expm1(r) / (np.exp(r) - r) < sizes / cells
        low, high = np.where(below, r, low), np.where(below, high, r)
    q = log_factorial(sizes) + cells * np.log(np.exp(r) - r) - sizes * np.log(cells * r)
    choose = log_factorial(np.array([float(keys)]))[0] - log_factorial(sizes) - log_factorial(keys - sizes)
    terms = choose + 3 * q
    width = np.diff(sizes, append=keys + 1)
    return float(np.log2((np.exp(terms - terms.max()) * width).sum()) + terms.max() / math.log(2))


def log_factorial(values):
    """Stirling's series from 20 on, exact below."""
    safe = np.maximum(values, 20.0)
    series = safe * np.log(safe) - safe + 0.5 * np.log(2 * np.pi * safe) + 1 / (12 * safe) - 1 / (360 * safe**3)
    exact = np.array([math.lgamma(i + 1) for i in range(20)])
    return np.where(values < 20, exact[np.minimum(values, 19).astype(np.int64)], series)


def test_cores_are_small_for_every_number_of_keys():
    counts = [*range(CORE + 1, 100), *range(100, 6000, 59), *(10**k for k in range(4, 9))]
    worst = max(log2_core(count) for count in counts)
    assert -45 < worst < -41  # below the bound, and not by wasting cells


def test_the_bound_is_what_the_docstring_says():
    """q(k, M) against counting: k throws into M cells, no cell with exactly one."""
    rng = np.random.default_rng(5)
    throws = rng.integers(0, 8, (40_000, 6))
    counts = (throws[:, :, None] == np.arange(8)).sum(axis=1)
    seen = float((counts != 1).all(axis=1).mean())
    bound = min(
        math.factorial(6) * (math.exp(r) - r) ** 8 / (8 * r) ** 6 for r in (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.3, 1.6)
    )
    assert 0.01 < seen < bound < 10 * seen


def test_open_cells_are_fresh():
    keys, values = rows(200, 32), rows(200, 12, "values")
    first, second = encode(SEED, keys, values), encode(SEED, keys, values)
    assert (first != second).any(axis=1).mean() > 0.5
    for table in (first, second):
        assert (table != 0).any(axis=1).all()  # nothing is left empty


def test_tables_of_random_values_are_even_in_every_row():
    """For the same keys and seed, each bit of the table is one in half of the encodings."""
    keys, rng = rows(30, 32), np.random.default_rng(11)
    values = rng.integers(0, 256, (600, 30, 4), np.uint8)
    tables = np.stack([encode(SEED, keys, each) for each in values])
    ones = np.unpackbits(tables, axis=2).mean(axis=0)
    assert (abs(ones - 0.5) < 0.15).all()  # seven standard deviations


def test_other_keys_give_values_that_say_nothing():
    keys = rows(400, 32)
    values = np.zeros((400, 12), np.uint8)
    others = decode(SEED, rows(1000, 32, "others"), encode(SEED, keys, values), 400)
    assert len(np.unique(others, axis=0)) == 1000
    assert abs(np.unpackbits(others).mean() - 0.5) < 0.02
