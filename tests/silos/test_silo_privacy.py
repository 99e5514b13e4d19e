"""Noise at the silos: epsilons of the accountant, clipping, rows drawn by chance, and that no noise comes twice."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from parties.checkpoint import ALIGNED, FolderKeeper, Keeper
from parties.errors import ConfigError, DataError
from parties.spec import PartySpec
from tests.silos.test_local_models import TASKS, make_glm, make_job, make_net, near
from vfl.job import Privacy
from vfl.local_models import LocalGlm
from vfl.local_network import LocalNetwork
from vfl.network_checks import check_torch
from vfl.silo_privacy import (
    Draw,
    SiloNoise,
    dp_notes,
    epsilon,
    make_silo_noise,
    need_accountant,
    noise_for,
    sampling,
)

KEY = bytes(range(32))


def make_noise(**changes: Any) -> SiloNoise:
    return replace(SiloNoise(1.0, 2.0, 2.0, 0.5, 1, KEY), **changes)


def private_job(model: str = "logistic", *, dp: str = "central", task: str | None = None, **lines: Any) -> Any:
    privacy = {"dp": dp} | {key: lines.pop(key) for key in list(lines) if key.startswith("dp_")}
    return make_job(model, task, privacy=Privacy(**privacy), **lines)


def keeper(folder: Path) -> FolderKeeper:
    kept = FolderKeeper(folder=folder, run="r", job="j", party="clinics.north")
    kept.save_aligned({}, {})
    kept.resume_from(ALIGNED)
    return kept


class TestAccountant:
    @pytest.mark.parametrize(
        ("noise", "rate", "steps", "known"),
        [(1.0, 0.01, 1000, 2.1014), (4.0, 1.0, 10, 3.6171), (2.0, 0.27, 200, 11.3178)],
        ids=["sampled", "whole", "many"],
    )
    def test_tells_the_packages_epsilons(self, noise: float, rate: float, steps: int, known: float) -> None:
        assert epsilon(noise, rate, steps, 1e-5) == pytest.approx(known, abs=1e-4)

    def test_of_a_single_gaussian_is_above_the_exact_epsilon_and_near_it(self) -> None:
        def delta(eps: float) -> float:
            mu = 1 / 3.0  # one step, all rows, sensitivity 1
            return stats.norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * stats.norm.cdf(-mu / 2 - eps / mu)

        found = epsilon(3.0, 1.0, 1, 1e-5)
        assert delta(found) <= 1e-5 < delta(found * 0.8)

    def test_falls_with_noise_and_rises_with_steps_and_rate(self) -> None:
        base = epsilon(1.5, 0.1, 100, 1e-5)
        assert epsilon(2.0, 0.1, 100, 1e-5) < base < epsilon(1.5, 0.1, 200, 1e-5)
        assert base < epsilon(1.5, 0.2, 100, 1e-5)
        assert epsilon(1.5, 0.1, 0, 1e-5) == 0.0

    @pytest.mark.parametrize("target", [0.5, 3.0, 20.0])
    def test_the_noise_found_is_the_least_within_epsilon(self, target: float) -> None:
        noise = noise_for(target, 0.1, 200, 1e-5)
        assert epsilon(noise, 0.1, 200, 1e-5) <= target < epsilon(noise * 0.998, 0.1, 200, 1e-5)

    def test_an_epsilon_out_of_reach_is_refused_in_one_line(self) -> None:
        with pytest.raises(ConfigError, match="no noise keeps 1,000,000 steps within it") as error:
            noise_for(0.01, 1.0, 10**6, 1e-300)
        assert "\n" not in str(error.value)

    def test_says_nothing_on_the_terminal(self, capfd: pytest.CaptureFixture[str]) -> None:
        epsilon(0.8, 0.1, 100, 1e-5)  # at some orders its series does not converge
        assert capfd.readouterr() == ("", "")

    def test_what_is_not_installed_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        need_accountant("privacy.dp = 'local'")
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"dp = 'local' needs dp-accounting.*pip install 'vfl\[dp\]'"):
            need_accountant("privacy.dp = 'local'")


class TestSampling:
    def test_added_up_gradients_have_one_rate_for_all_silos(self) -> None:
        job = private_job(dp_noise=1.0, batch_size=20)
        assert sampling(job, 5, 600) == sampling(job, 500, 600) == (0.1, 1)
        assert sampling(job, 5, 30) == (1.0, 1)

    def test_local_steps_draw_from_the_silos_own_rows(self) -> None:
        job = private_job(dp="local", dp_noise=1.0, batch_size=20, aggregation="fedavg", local_epochs=3)
        assert sampling(job, 110, 600) == (20 / 110, 18)
        assert sampling(job, 7, 600) == (1.0, 3)

    @given(rate=st.floats(0.001, 1.0), count=st.integers(0, 400))
    @settings(max_examples=60, deadline=None)
    def test_rows_drawn_are_distinct_rows(self, rate: float, count: int) -> None:
        drawn = Draw(KEY, rate, 1.0).rows(count)
        assert (np.diff(drawn) > 0).all() and set(drawn.tolist()) <= set(range(count))
        assert rate < 1 or len(drawn) == count

    def test_every_row_is_drawn_as_often_as_the_rate_says(self) -> None:
        noise = make_noise(rate=0.3)
        hits = np.zeros(50)
        for step in range(400):
            hits[noise.at((step, 0), []).rows(50)] += 1
        assert stats.binomtest(int(hits.sum()), 50 * 400, 0.3).pvalue > 1e-4
        assert stats.chisquare(hits).pvalue > 1e-4


class TestNoise:
    def test_is_normal_with_its_deviation_on_a_grid(self) -> None:
        (released,) = Draw(KEY, 1.0, 0.7).release([np.zeros(20_000)])
        assert stats.kstest(released / 0.7, "norm").pvalue > 1e-4
        grid = 2.0**-41
        np.testing.assert_array_equal(released / grid, np.rint(released / grid))

    def test_a_sum_is_noisy_divided_by_the_rate(self) -> None:
        sums = [np.full((2, 3), 5.25), np.array([-1.5])]
        noisy = np.array(
            [np.hstack([a.ravel() for a in make_noise().at((n, 0), []).release(sums)]) for n in range(500)]
        )
        assert np.abs(noisy.mean(axis=0) - np.array([10.5] * 6 + [-3.0])).max() < 5 * 4 / math.sqrt(500)
        assert stats.kstest(((noisy - np.array([10.5] * 6 + [-3.0])) / 4).ravel(), "norm").pvalue > 1e-4

    def test_follows_from_the_place_the_weights_and_the_sums(self) -> None:
        noise, weights, zeros = make_noise(), [np.ones(3)], [np.zeros(4)]
        one = noise.at((1, 0), weights).release(zeros)[0]
        others = [
            noise.at((2, 0), weights).release(zeros)[0],
            noise.at((1, 1), weights).release(zeros)[0],
            noise.at((1, 0), [np.ones(3) * (1 + 1e-15)]).release(zeros)[0],
            make_noise(key=bytes(32)).at((1, 0), weights).release(zeros)[0],
            noise.at((1, 0), weights).release([np.array([0.0, 0.0, 0.0, 1e-9])])[0],
        ]
        assert np.array_equal(noise.at((1, 0), [np.ones(3)]).release([-np.zeros(4)])[0], one)
        assert all(not np.isclose(other, one, atol=1e-6).any() for other in others)

    @given(st.lists(st.floats(0, 1e300), min_size=1, max_size=20), st.floats(1e-3, 1e3))
    @settings(max_examples=60, deadline=None)
    def test_clipping_leaves_no_norm_above_the_limit(self, norms: list[float], clip: float) -> None:
        given_norms = np.array(norms)
        shrunk = given_norms * make_noise(clip=clip).shrink(given_norms)
        assert (shrunk <= clip).all()
        short = given_norms < 0.99 * clip
        np.testing.assert_array_equal(shrunk[short], given_norms[short])

    def test_central_shares_add_up_to_the_whole(self) -> None:
        job = private_job(dp_noise=3.0, dp_clip=2.0)
        central, local = (make_silo_noise(j, 50, 150, Keeper()) for j in (job, private_job(dp="local", dp_noise=3.0)))
        assert central is not None and local is not None
        assert 3 * central.deviation**2 == pytest.approx((3.0 * 2.0) ** 2)
        assert local.deviation == 3.0

    def test_central_shares_are_whole_with_the_fewest_silos_that_may_be_left(self) -> None:
        noise = make_silo_noise(private_job(dp_noise=3.0, min_silos=2), 50, 150, Keeper())
        assert noise is not None
        assert 2 * noise.deviation**2 == pytest.approx(9.0)

    def test_none_where_the_job_asks_for_none(self) -> None:
        assert make_silo_noise(make_job("logistic"), 50, 150, Keeper()) is None

    def test_dp_epsilon_decides_on_the_noise_of_all_rounds(self) -> None:
        job = private_job(dp_epsilon=2.0, rounds=40, batch_size=10)
        noise = make_silo_noise(job, 100, 300, Keeper())
        assert noise is not None
        assert 1.98 < noise.epsilon(40, 1e-5) <= 2.0
        assert noise.epsilon(20, 1e-5) < 1.6


class TestSecret:
    def test_a_run_that_goes_on_sends_the_same_again(self, tmp_path: Path) -> None:
        job = private_job(dp_noise=1.0)
        first, again = (make_silo_noise(job, 50, 150, keeper(tmp_path)) for _ in range(2))
        assert first is not None and first == again and first.starts == 1

    def test_another_run_has_other_noise(self) -> None:
        job = private_job(dp_noise=1.0)
        one, other = (make_silo_noise(job, 50, 150, Keeper()) for _ in range(2))
        assert one is not None and other is not None and one.key != other.key and len(one.key) == 32

    def test_where_other_silos_may_take_part_every_start_has_its_own(self, tmp_path: Path) -> None:
        job = private_job(dp_noise=1.0, min_silos=2)
        made = [make_silo_noise(job, 50, 150, keeper(tmp_path)) for _ in range(3)]
        assert [noise.starts for noise in made if noise] == [1, 2, 3]
        assert len({noise.key for noise in made if noise}) == 3

    def test_each_of_them_counts_as_two_rounds_more(self) -> None:
        assert make_noise(starts=3).epsilon(10, 1e-5) == make_noise().epsilon(14, 1e-5)

    def test_a_secret_that_cannot_be_read_ends_the_run(self, tmp_path: Path) -> None:
        job = private_job(dp_noise=1.0)
        make_silo_noise(job, 50, 150, keeper(tmp_path))
        (tmp_path / "once silo noise 1.ckpt").write_bytes(b"damaged")
        with pytest.raises(DataError, match="must not be drawn again"):
            make_silo_noise(job, 50, 150, keeper(tmp_path))


def noisy(model: LocalGlm | LocalNetwork, **changes: Any) -> Any:
    """The model with next to no noise, every row drawn and nothing clipped; or as ``changes`` say."""
    job = private_job(model.job.model, dp="local", dp_noise=1.0, task=model.job.task)
    lines = {"clip": 1e9, "deviation": 1e-9, "rate": 1.0} | changes
    return replace(model, job=job, noise=make_noise(**lines))


MODELS = [*TASKS, *(f"network {task}" for task in TASKS.values())]


def make_model(name: str) -> LocalGlm | LocalNetwork:
    return make_net(name.removeprefix("network ")) if name.startswith("network") else make_glm(name)


class TestModels:
    @pytest.mark.parametrize("name", MODELS)
    def test_without_noise_and_clipping_it_is_the_gradient(self, name: str) -> None:
        model = make_model(name)
        weights = near(model)
        loss, found = noisy(model).noisy_gradient(weights, 1)
        assert loss == 0.0
        for array, known in zip(found, model.gradient(weights)[1], strict=True):
            np.testing.assert_allclose(array, known, rtol=1e-9, atol=1e-7)

    @pytest.mark.parametrize("name", MODELS)
    def test_one_row_moves_the_sum_by_the_clipping_norm_at_most(self, name: str) -> None:
        model, clip = make_model(name), 0.05
        weights = near(model)
        whole = noisy(model, clip=clip).noisy_gradient(weights, 1)[1]
        moved = []
        for gone in range(0, model.rows, 7):
            rest = np.delete(np.arange(model.rows), gone)
            assert model.sample_weights is not None
            fewer = replace(model, X=model.X[rest], y=model.y[rest], sample_weights=model.sample_weights[rest])
            found = noisy(fewer, clip=clip).noisy_gradient(weights, 1)[1]
            moved.append(math.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(whole, found, strict=True))))
        assert max(moved) <= clip + 1e-6
        assert max(moved) > 0.9 * clip  # the limit binds, so that the test can fail

    @pytest.mark.parametrize("name", ["logistic", "network binary"])
    def test_is_right_on_average(self, name: str) -> None:
        model = make_model(name)
        weights = near(model)
        drawn = noisy(model, rate=0.5, deviation=0.1)
        found = np.array([np.concatenate([a.ravel() for a in drawn.noisy_gradient(weights, r)[1]]) for r in range(300)])
        known = np.concatenate([array.ravel() for array in model.gradient(weights)[1]])
        off = (found.mean(axis=0) - known) / (found.std(axis=0) / math.sqrt(len(found)))
        assert np.abs(off).max() < 5

    @pytest.mark.parametrize("name", ["softmax", "network multiclass"])
    def test_local_training_takes_noisy_steps(self, name: str) -> None:
        model = make_model(name)
        loss, plain = noisy(model, steps=4).train(model.start(), 1)
        _, again = noisy(model, steps=4).train(model.start(), 1)
        _, rough = noisy(model, steps=4, deviation=30.0).train(model.start(), 1)
        assert loss == 0.0
        assert all(np.array_equal(a, b) for a, b in zip(plain, again, strict=True))
        assert all(not np.isclose(a, b).all() for a, b in zip(plain, rough, strict=True))

    def test_dropout_does_not_change_what_is_sent_again(self) -> None:
        """Other gradients under the same noise would leave their difference bare."""
        model = make_net("binary", dropout=0.5)
        job = private_job("splitnn", dp="local", dp_noise=1.0, task="binary", dropout=0.5)
        private = replace(model, job=job, noise=make_noise())
        first, again = (private.noisy_gradient(model.start(), 1)[1] for _ in range(2))
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))

    def test_a_step_without_any_row_is_noise_alone(self) -> None:
        for name in ("logistic", "network binary"):
            model = make_model(name)
            found = noisy(model, rate=1e-9, deviation=1.0).noisy_gradient(model.start(), 1)[1]
            assert all(array.all() for array in found)


class TestNotes:
    def test_delta_that_lays_rows_bare_is_told(self) -> None:
        job = private_job(dp_noise=1.0, dp_delta=0.01)
        assert "not below one in 500 training rows" in dp_notes(job, make_noise(), 1.0, 500)[0]
        assert dp_notes(job, make_noise(), 1.0, 99) == []

    def test_a_budget_that_restarts_have_passed_is_told(self) -> None:
        job = private_job(dp_epsilon=1.0)
        assert "over privacy.dp_epsilon = 1" in dp_notes(job, make_noise(starts=2), 1.2, 500)[0]
        assert dp_notes(job, make_noise(), 1.0, 500) == []


def test_a_run_is_refused_before_it_begins_where_the_accountant_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    job = private_job(dp_noise=1.0)
    spec = PartySpec(name="clinics.north", role="active", data="n.csv", label="y")
    check_torch(job, [spec])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"party 'clinics.north': privacy.dp = 'central' needs dp-accounting"):
        check_torch(job, [spec])
    check_torch(make_job("logistic"), [spec])
