import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfl.paillier.rows import below, numbers_in, rows_of


@given(st.integers(1, 70), st.data())
def test_there_and_back(width: int, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, 256**width - 1), max_size=6))
    rows = rows_of(numbers, width)
    assert (rows.shape, rows.dtype) == ((len(numbers), width), np.uint8)
    assert numbers_in(rows) == numbers
    assert rows_of(numbers_in(rows), width).tolist() == rows.tolist()
    assert numbers_in(np.asfortranarray(rows)) == numbers
    assert numbers_in(rows[::2]) == numbers[::2]


@pytest.mark.parametrize("number", [256, -1, 2**64])
def test_what_does_not_fit_is_refused(number: int) -> None:
    with pytest.raises(OverflowError):
        rows_of([number], 1)


def test_rows_of_no_bytes() -> None:
    assert numbers_in(np.zeros((2, 0), np.uint8)) == [0, 0]
    assert below(np.zeros((2, 0), np.uint8), 1).tolist() == [True, True]


@given(st.integers(1, 20), st.data())
def test_below(width: int, data: st.DataObject) -> None:
    limit = data.draw(st.integers(-1, 256**width + 1))
    edges = [x for x in (limit - 1, limit, limit + 1, 0, 256**width - 1) if 0 <= x < 256**width]
    numbers = edges + data.draw(st.lists(st.integers(0, 256**width - 1), max_size=5))
    assert below(rows_of(numbers, width), limit).tolist() == [x < limit for x in numbers]
