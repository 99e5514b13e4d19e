"""Transposed matrices of bits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psi import bits
from psi.bits import transposed
from psi.native import native


def reference(rows):
    plain = np.unpackbits(rows, axis=1, bitorder="little")
    return np.packbits(plain.T, axis=1, bitorder="little")


@pytest.fixture(params=["as built", "numpy"])
def way(request, monkeypatch):
    """Both ways, whatever this machine has."""
    if request.param == "numpy":
        monkeypatch.setattr(bits, "native", lambda name, interface: None)


@given(st.integers(0, 9), st.integers(0, 140), st.integers(0, 2**32))
def test_any_shape(groups, width, seed):
    rows = np.random.default_rng(seed).integers(0, 256, (8 * groups, width), np.uint8)
    for found in (transposed(rows), bits._transposed_with_numpy(rows)):
        assert found.shape == (8 * width, groups)
        assert (found == reference(rows)).all()


def test_columns_of_a_wider_array(way):
    rows = np.random.default_rng(1).integers(0, 256, (24, 100), np.uint8)[:, 3:80]
    assert (transposed(rows) == reference(rows)).all()


def test_rows_that_fill_no_byte_are_refused(way):
    with pytest.raises(ValueError, match="got 12, expected a multiple of 8"):
        transposed(np.zeros((12, 4), np.uint8))


@pytest.mark.skipif(native("bits", bits._INTERFACE) is None, reason="the C code was not built")
def test_c_is_taken_where_it_was_built(monkeypatch):
    monkeypatch.setattr(bits, "_transposed_with_numpy", None)
    assert transposed(np.zeros((16, 3), np.uint8)).shape == (24, 2)
