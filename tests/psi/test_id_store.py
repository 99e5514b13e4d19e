"""Ids in files: the same ids, rows, order and digests as in memory, whatever there is of them."""

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parties.errors import DataError, LocalProtocolError
from psi import id_store
from psi.elements import elements_of
from psi.id_store import store_ids
from psi.ids import IdRules, composite, prepare_ids
from psi.order import ascending, ordered_digest, row_order
from psi.source import ListedIds

SEED = 7


def keys_of(cells):
    return [composite([cell]) for cell in cells]


def stored(cells, folder, **options):
    return store_ids(iter(keys_of(cells)), IdRules(), seed=SEED, folder=Path(folder), party="bank", **options)


def listed(cells, **options):
    return ListedIds.of(prepare_ids([cells], IdRules(), party="bank", **options))


def outcome(make):
    try:
        return make()
    except DataError as error:
        return str(error)


CELLS = st.lists(st.sampled_from(["", *"abcdefghijk"]), max_size=30)
OPTIONS = st.sampled_from(["refuse", "first", "drop"]), st.sampled_from(["refuse", "drop"])


@given(CELLS, *OPTIONS, st.integers(1, 5), st.integers(1, 7), st.integers(1, 5))
def test_files_hold_what_memory_does(cells, duplicates, missing, buckets, batch, block):
    options = {"duplicates": duplicates, "missing": missing}
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_store, "_BATCH", batch)
        patch.setattr(id_store, "_BLOCK", block)
        here = outcome(lambda: listed(cells, **options))
        there = outcome(lambda: stored(cells, folder, **options))
        if isinstance(here, str):
            assert there == here
            return
        numbers = [getattr(here.prepared, name) for name in ("total", "missing", "duplicates", "rules")]
        assert [there.total, there.missing, there.duplicates, there.rules] == numbers
        assert there.count == here.count
        for number in range(buckets):
            mine, theirs = (ids.indices(number, buckets) for ids in (here, there))
            assert described(here, mine) == described(there, theirs)
            assert here.set_digest(mine) == there.set_digest(theirs)


def described(ids, indices):
    """Element, CSV row and order key of each, in the order of rows."""
    elements, rows, keys = ids.elements(indices), ids.csv_rows(indices), ids.order_keys(indices, SEED)
    return sorted(zip(rows.tolist(), elements.tolist(), keys.tolist(), strict=True))


def test_buckets_are_ranges_that_make_up_everything(tmp_path):
    ids = stored([str(i) for i in range(1000)], tmp_path)
    cut = [ids.indices(number, 7) for number in range(7)]
    assert np.concatenate(cut).tolist() == list(range(1000))
    assert min(map(len, cut)) > 90


def test_some_of_them_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr(id_store, "_BLOCK", 10)
    cells = [str(i) for i in range(500)]
    ids = stored(cells, tmp_path)
    some = np.array([3, 4, 77, 400, 499])
    rows = ids.csv_rows(some)
    assert ids.elements(some).tolist() == elements_of([keys_of(cells)[row] for row in rows]).tolist()
    assert ids.csv_rows(some[::-1]).tolist() == rows[::-1].tolist()
    assert ids.set_digest(some[::-1]) == ids.set_digest(some)
    assert ids.csv_rows(some[:0]).tolist() == []


def test_the_order_is_that_of_whole_digests(tmp_path):
    cells = [str(i) for i in range(300)]
    ids, keys = stored(cells, tmp_path), keys_of(cells)
    whole = sorted(range(300), key=lambda row: hashlib.sha256(b"rows|%d|" % SEED + keys[row]).digest())
    every = ids.indices(0, 1)
    order = ascending(ids.order_keys(every, SEED))
    assert ids.csv_rows(every[order]).tolist() == whole == row_order(keys, SEED).tolist()
    in_memory = listed(cells).order_keys(np.arange(300), SEED)
    assert ordered_digest(ids.order_keys(every, SEED), order) == ordered_digest(in_memory, ascending(in_memory))


def test_keys_that_begin_alike_are_told_apart():
    keys = np.array([[1] * 8 + [0] * 7 + [last] for last in (9, 3, 200)] + [[0] * 16], np.uint8)
    assert ascending(keys).tolist() == [3, 1, 0, 2]


def test_another_seed_than_the_alignments_is_refused(tmp_path):
    ids = stored(["a"], tmp_path)
    with pytest.raises(LocalProtocolError, match="seed"):
        ids.order_keys(ids.indices(0, 1), SEED + 1)


@pytest.mark.parametrize("left", [0, 31, 64])
def test_a_file_that_is_cut_off_is_noticed(tmp_path, left):
    ids = stored(["a", "b", "c"], tmp_path)
    (tmp_path / "elements").write_bytes((tmp_path / "elements").read_bytes()[:left])
    with pytest.raises(DataError, match="cut off"):
        ids.elements(np.arange(3))


def test_nothing_but_the_three_columns_stays(tmp_path):
    stored(["a", "b", "c"], tmp_path)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes == {"elements": 96, "keys": 48, "rows": 24}
