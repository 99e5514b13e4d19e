"""Clipping, noise on a grid, noise that repeats with its gradients alone, and the exact epsilon of many releases."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from parties.checkpoint import ALIGNED, FolderKeeper, Keeper
from parties.errors import DataError, LocalProtocolError
from vfl.gradient_noise import DELTA, GradientNoise, clip_rows, draw_normal, epsilon, make_noise, note
from vfl.job import SplitNN

KEY = bytes(range(32))
finite = st.floats(-1e6, 1e6, allow_nan=False)


def rows(seed: int = 0, count: int = 40, units: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, units))


# clipping


@given(st.lists(st.lists(finite, min_size=3, max_size=3), min_size=1, max_size=5), st.floats(1e-6, 1e6))
def test_no_row_is_longer_than_the_limit_and_none_turns(values: list[list[float]], clip: float) -> None:
    given_rows = np.array(values)
    clipped = clip_rows(given_rows, clip)
    assert (np.linalg.norm(clipped, axis=1) <= clip).all()
    for before, after in zip(given_rows, clipped, strict=True):
        length = np.linalg.norm(before)
        np.testing.assert_allclose(after, before * min(1.0, clip / length if length else 1.0), rtol=1e-9, atol=0)


def test_short_rows_stay_as_they_are_to_the_last_bit() -> None:
    short = rows() / 100
    np.testing.assert_array_equal(clip_rows(short, 1.0), short)


@pytest.mark.parametrize("clip", [1e-9, 1.0, 1e300])
def test_rows_of_zeros_stay_zeros(clip: float) -> None:
    np.testing.assert_array_equal(clip_rows(np.zeros((2, 3)), clip), np.zeros((2, 3)))


def test_nothing_is_done_unless_asked_for() -> None:
    plain = rows()
    np.testing.assert_array_equal(GradientNoise(None).release(plain, 0, 0), plain)
    np.testing.assert_array_equal(GradientNoise(0.5).release(plain, 0, 0), clip_rows(plain, 0.5))


# noise


def test_noise_is_normal_with_the_deviation_asked_for() -> None:
    clip, noise = 0.3, 2.0
    released = GradientNoise(clip, noise, KEY).release(np.zeros((20_000, 5)), 0, 0)
    drawn = released.ravel() / (noise * clip)
    assert abs(drawn.mean()) < 4 / math.sqrt(drawn.size)
    assert drawn.std() == pytest.approx(1, abs=4 / math.sqrt(2 * drawn.size))
    assert stats.kstest(drawn, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 5 / math.sqrt(drawn.size)


def test_both_halves_of_a_pair_are_independent() -> None:
    first, second = draw_normal(KEY, 40_000).reshape(2, -1)
    for left, right in ((first, second), (first**2, second**2)):
        assert abs(np.corrcoef(left, right)[0, 1]) < 5 / math.sqrt(len(first))


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_as_many_numbers_as_asked_for(count: int) -> None:
    np.testing.assert_array_equal(draw_normal(KEY, count), draw_normal(KEY, count))
    assert draw_normal(KEY, count).shape == (count,)


@pytest.mark.parametrize("noise", [0.01, 1.0, 1e6])
def test_what_leaves_lies_on_a_grid_that_does_not_hang_on_the_gradients(noise: float) -> None:
    grid = 2.0 ** (math.floor(math.log2(0.7 * noise)) - 20)
    for scale in (0.0, 1.0, 1e-7):
        steps = GradientNoise(0.7, noise, KEY).release(scale * rows(), 0, 0) / grid
        np.testing.assert_array_equal(steps, np.rint(steps))
        assert (steps % 2 == 1).any()  # and on no coarser one


def test_the_noise_is_added_to_the_clipped_gradients() -> None:
    gradients = 3 * rows(count=3000)
    noisy = GradientNoise(0.5, 0.2, KEY).release(gradients, 0, 0)
    noise = noisy - clip_rows(gradients, 0.5)
    assert noise.std() == pytest.approx(0.1, rel=0.05)
    assert abs(noise.mean()) < 0.005


# repeats


def test_the_same_gradients_at_the_same_place_leave_the_same_bytes() -> None:
    first, again = GradientNoise(1.0, 1.0, KEY), GradientNoise(1.0, 1.0, KEY)
    assert first.release(rows(), 3, 7).tobytes() == again.release(rows().copy(order="F"), 3, 7).tobytes()


@pytest.mark.parametrize("change", ["epoch", "batch", "key", "gradient", "shape"])
def test_anything_else_has_noise_of_its_own(change: str) -> None:
    """Noise used twice would leave the difference of two gradients bare."""
    gradients = rows(count=400) / 100
    before = GradientNoise(1.0, 1.0, KEY).release(gradients, 3, 7) - gradients
    epoch, batch = 3 + (change == "epoch"), 7 + (change == "batch")
    other, key = gradients.copy(), KEY
    if change == "gradient":
        other[11, 2] += 1e-4
    if change == "shape":
        other = gradients.reshape(-1, 3)
    if change == "key":
        key = KEY[::-1]
    after = (GradientNoise(1.0, 1.0, key).release(other, epoch, batch) - other).reshape(gradients.shape)
    assert abs(np.corrcoef(before.ravel(), after.ravel())[0, 1]) < 5 / math.sqrt(before.size)


def test_zeros_of_both_signs_are_one() -> None:
    zeros = np.zeros((4, 3))
    noise = GradientNoise(1.0, 1.0, KEY)
    np.testing.assert_array_equal(noise.release(zeros, 0, 0), noise.release(-zeros, 0, 0))


def test_noise_without_a_secret_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="without a secret"):
        GradientNoise(1.0, 1.0).release(rows(), 0, 0)


def settings(**changes: float) -> SplitNN:
    return SplitNN(**{"mode": "split", "gradient_clip": 0.5, "gradient_noise": 2.0} | changes)


def folder_keeper(folder: Path) -> FolderKeeper:
    return FolderKeeper(folder=folder, run="run", job="job", party="bank")


def test_a_runs_secret_is_drawn_once_whatever_step_it_goes_on_from(tmp_path: Path) -> None:
    keeper = folder_keeper(tmp_path)
    drawn = make_noise(settings(), keeper)
    assert (drawn.clip, drawn.noise, len(drawn.key)) == (0.5, 2.0, 32)
    keeper.save_aligned({}, {})
    for step in (0, ALIGNED):
        if step:
            keeper.save_aligned({}, {})
        keeper.resume_from(step)
        assert make_noise(settings(), keeper) == drawn
    assert make_noise(settings(), Keeper()).key != drawn.key


def test_the_secret_is_not_shown(tmp_path: Path) -> None:
    noise = make_noise(settings(), folder_keeper(tmp_path))
    assert repr(noise.key) not in repr(noise) and noise.key.hex() not in repr(noise)


def test_a_secret_that_cannot_be_read_again_ends_the_run(tmp_path: Path) -> None:
    make_noise(settings(), folder_keeper(tmp_path))
    (path,) = tmp_path.glob("once *.ckpt")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match="must not be drawn again"):
        make_noise(settings(), folder_keeper(tmp_path))


def test_no_secret_where_there_is_no_noise(tmp_path: Path) -> None:
    assert make_noise(settings(gradient_noise=0.0), folder_keeper(tmp_path)) == GradientNoise(0.5)
    assert not list(tmp_path.iterdir())


# epsilon


def spent(noise: float, releases: int, eps: float) -> float:
    """The delta at an epsilon by the definition: the integral of (p - e^epsilon q)+ for normal p and q."""
    mu = 2 * math.sqrt(releases) / noise
    x = np.linspace(-12 - mu, 12 + mu, 400_001)
    above = np.exp(-((x - mu) ** 2) / 2) - np.exp(eps - x * x / 2)
    return float(np.trapezoid(np.maximum(above, 0), x) / math.sqrt(2 * math.pi))


@pytest.mark.parametrize("noise", [0.5, 2.0, 10.0, 60.0])
@pytest.mark.parametrize("releases", [1, 20])
@pytest.mark.parametrize("delta", [1e-5, 1e-2])
def test_epsilon_is_exactly_where_the_integral_is_delta(noise: float, releases: int, delta: float) -> None:
    eps = epsilon(noise, releases, delta)
    assert spent(noise, releases, eps) == pytest.approx(delta, rel=1e-4)


def test_epsilon_of_the_paper() -> None:
    """Sensitivity 1, epsilon 1 and delta 1e-5 need a deviation of 3.7306 (Balle, Wang); here the sensitivity is 2."""
    assert epsilon(2 * 3.730632, 1, 1e-5) == pytest.approx(1.0, abs=1e-5)


@given(st.floats(0.01, 1e5), st.integers(1, 10_000))
def test_releases_compose_as_one_of_less_noise(noise: float, releases: int) -> None:
    assert epsilon(noise, releases) == pytest.approx(epsilon(noise / math.sqrt(releases), 1), rel=1e-6, abs=1e-12)


@given(st.floats(1e-3, 1e6), st.floats(1.01, 10.0), st.integers(1, 1000))
def test_more_noise_and_fewer_releases_never_cost_more(noise: float, factor: float, releases: int) -> None:
    assert epsilon(noise * factor, releases) <= epsilon(noise, releases) <= epsilon(noise, releases + 1)


@given(st.floats(0, 1e9), st.integers(0, 10**9), st.floats(1e-300, 0.5))
def test_epsilon_is_a_number_for_all_there_is(noise: float, releases: int, delta: float) -> None:
    eps = epsilon(noise, releases, delta)
    assert eps >= 0
    if noise > 1e-100 or not releases:
        assert math.isfinite(eps)
    if releases and noise < 1e-160:
        assert eps == math.inf


def test_at_the_ends() -> None:
    assert epsilon(0.0, 3) == math.inf
    assert epsilon(1e-300, 3) == math.inf
    assert epsilon(1.0, 0) == 0.0
    assert epsilon(1e9, 1) == 0.0
    assert epsilon(1e-3, 1) == pytest.approx(2e6, rel=0.01)  # mu^2 / 2 for large mu


def test_the_note_states_epsilon_delta_and_what_is_not_covered() -> None:
    line = note(settings(), 20)
    assert f"({epsilon(2.0, 20):.3g}, {DELTA:g})-differentially private" in line
    assert "clipped to 0.5" in line and "noise of deviation 2 times" in line and "20 epochs" in line
    assert "not covered" in line and "label_dp_epsilon" in line
    assert "\n" not in line
