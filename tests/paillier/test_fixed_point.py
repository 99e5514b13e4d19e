import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parties.errors import CryptoError
from vfl.paillier import from_fixed, to_fixed


@given(st.integers(-(2**53), 2**53), st.integers(0, 60))
def test_round_trip(value: int, bits: int) -> None:
    x = np.array([value * 2.0**-bits])
    assert to_fixed(x, bits, 2**53).tolist() == [value]
    assert from_fixed([value], bits).tolist() == x.tolist()


def test_halves_go_to_even() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5])
    assert to_fixed(x, 0, 10).tolist() == [0, 2, 2, 0, -2, -2]
    assert to_fixed(x / 8, 3, 10).tolist() == [0, 2, 2, 0, -2, -2]


@given(st.floats(-1e6, 1e6), st.integers(0, 30))
def test_error_is_at_most_half_a_unit(x: float, bits: int) -> None:
    assert abs(from_fixed(to_fixed(np.array([x]), bits, 2**52), bits)[0] - x) <= 2.0 ** -(bits + 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300, 101.0, -101.0, 100.5000001])
def test_what_does_not_fit_is_refused(bad: float) -> None:
    with pytest.raises(CryptoError, match="1 of 3 values") as caught:
        to_fixed(np.array([1.0, bad, 2.0]), 0, 100)
    assert str(bad) not in str(caught.value)


def test_the_bound_itself_fits() -> None:
    assert to_fixed(np.array([100.5, -100.0]), 0, 100).tolist() == [100, -100]
    assert to_fixed(np.array([2.0**62, -(2.0**62)]), 0, 2**62).tolist() == [2**62, -(2**62)]
    with pytest.raises(CryptoError):
        to_fixed(np.array([2.0**62]), 0, 2**62 - 1)
    with pytest.raises(CryptoError):
        to_fixed(np.array([2.0**63]), 0, 2**62)


@pytest.mark.parametrize(("bits", "bound"), [(-1, 5), (2000, 5), (4, -1), (4, 2**62 + 1)])
def test_senseless_scales_are_refused(bits: int, bound: int) -> None:
    with pytest.raises(CryptoError, match="Fixed point"):
        to_fixed(np.zeros(1), bits, bound)


def test_shapes_are_kept() -> None:
    assert to_fixed(np.zeros((2, 3)), 4, 5).shape == (2, 3)
    assert to_fixed(np.zeros((0, 3)), 4, 5).shape == (0, 3)


def test_long_integers_come_back_correctly_rounded() -> None:
    assert from_fixed([2**200 + 1, -(2**70)], 190).tolist() == [1024.0, -(2.0**-120)]
    assert from_fixed(np.array([3, -5]), 1).tolist() == [1.5, -2.5]
