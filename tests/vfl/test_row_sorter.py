"""Rows in another order through files: every row once, at its place, and no file left behind."""

import csv
import io
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfl import row_sorter
from vfl.row_sorter import RowsLost, csv_line, rows_in_order


def in_order(content, order, folder, size=100):
    order = np.array(order, np.int64)
    return b"".join(rows_in_order(iter(content), order, Path(folder) / "parts", size)).decode().splitlines()


@given(st.integers(0, 40), st.randoms(), st.integers(1, 300), st.integers(1, 9))
def test_any_rows_in_any_order(rows, random, part_bytes, batch):
    order = random.sample(range(rows), random.randint(0, rows))
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_sorter, "_PART_BYTES", part_bytes)
        patch.setattr(row_sorter, "_BATCH", batch)
        found = in_order(([f"row {row}", "x"] for row in range(rows)), order, folder)
        assert found == [f"row {row},x" for row in order]
        assert not any(Path(folder).iterdir())


def test_there_are_no_more_files_than_a_process_may_open(tmp_path, monkeypatch):
    monkeypatch.setattr(row_sorter, "_MOST_PARTS", 3)
    parts = rows_in_order([[str(row)] for row in range(9)], np.arange(9), tmp_path / "parts", 1 << 40)
    next(parts)
    assert len(list((tmp_path / "parts").iterdir())) == 3


def test_rows_that_are_not_there(tmp_path):
    with pytest.raises(RowsLost):
        in_order([["a"], ["b"]], [2, 0], tmp_path)
    assert not any(tmp_path.iterdir())


def test_nothing_stays_where_writing_fails(tmp_path):
    def content():
        yield ["a"]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        in_order(content(), [1, 0], tmp_path)
    assert not any(tmp_path.iterdir())


def test_nothing_stays_where_nobody_reads_on(tmp_path):
    parts = rows_in_order([["a"], ["b"]], np.array([1, 0]), tmp_path / "parts", 1)
    next(parts)
    parts.close()
    assert not any(tmp_path.iterdir())


CELLS = [["a", "b"], [""], ["", ""], ['"'], ["a,b"], ["a\nb"], ["a\rb"], ["a\r\nb"], ["é\u2028"]]


@pytest.mark.parametrize("cells", CELLS, ids=map(repr, CELLS))
def test_a_line_is_read_back_as_it_was(cells):
    line = csv_line(cells).decode()
    assert line.endswith("\n")
    assert list(csv.reader(io.StringIO(line, newline=""), strict=True)) == [cells]
