"""Sizes that a silo's guards judge where models are averaged: rows in a sum, columns, and the epsilon of the noise."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parties.errors import PolicyError
from parties.policy import Guards, Policy, least_rows
from parties.spec import PartySpec
from vfl.horizontal_consent import check_consent_to_averaging, rows_in_a_sum
from vfl.job import Job, Member, Privacy, SplitNN, Training


def job(silos: int = 4, model: str = "logistic", **sections: Any) -> Job:
    parties = tuple(Member(name=f"clinics.s{number}", role="active") for number in range(silos))
    return Job(name="test", model=model, task="binary", parties=parties, **sections)


def spec(**policy: Any) -> PartySpec:
    return PartySpec(name="clinics.s0", role="active", data="x.csv", label="y", policy=Policy(**policy))


def ask(
    checked: Job, *, columns: int, rows: int, small: bool = False, epsilon: float | None = None, **policy: Any
) -> None:
    guards = Guards(enforce=True, small_data=small)
    check_consent_to_averaging(checked, spec(**policy), guards, columns=columns, rows=rows, epsilon=epsilon)


@given(st.integers(1, 200), st.integers(1, 10_000))
def test_full_batches_are_judged_by_the_rows_of_all_silos(columns: int, rows: int) -> None:
    if rows >= least_rows(columns):
        ask(job(), columns=columns, rows=rows)
    else:
        with pytest.raises(PolicyError, match="small data: party 'clinics.s0'"):
            ask(job(), columns=columns, rows=rows)


@given(st.integers(2, 50), st.integers(1, 10**6), st.floats(0.01, 1))
def test_fewer_silos_in_a_round_leave_fewer_rows_in_the_sum(silos: int, rows: int, fraction: float) -> None:
    every = rows_in_a_sum(job(silos), rows)
    drawn = rows_in_a_sum(job(silos, training=Training(aggregation="fedavg", client_fraction=fraction)), rows)
    assert rows == every >= drawn >= rows * 2 // silos


def test_silos_that_a_round_may_go_on_without_do_not_count() -> None:
    assert rows_in_a_sum(job(4, training=Training(aggregation="fedavg", min_silos=2)), 2000) == 1000
    with pytest.raises(PolicyError, match="a batch has 400 rows"):
        ask(job(5, training=Training(aggregation="fedavg", min_silos=2)), columns=10, rows=1000)


def test_a_network_is_judged_by_its_batch_where_gradients_of_batches_are_added_up() -> None:
    few, many = (job(model="splitnn", splitnn=SplitNN(batch_size=size)) for size in (256, 512))
    with pytest.raises(PolicyError, match="a batch has 256 rows, expected at least 512"):
        ask(few, columns=10, rows=5000)
    ask(many, columns=10, rows=5000)
    averaged = job(model="splitnn", splitnn=SplitNN(batch_size=256, aggregation="fedavg"))
    ask(averaged, columns=10, rows=5000)


def test_small_data_and_noise_are_ways_out() -> None:
    ask(job(), columns=10, rows=100, small=True)
    noisy = job(privacy=Privacy(dp="central", dp_epsilon=2))
    ask(noisy, columns=200, rows=100, epsilon=2.0)


def test_as_many_equations_as_rows_are_refused_though_small_data_are_not() -> None:
    with pytest.raises(PolicyError, match="label rank: party 'clinics.s0' has 100 columns for 100 rows"):
        ask(job(), columns=100, rows=100, small=True)
    ask(job(model="splitnn", splitnn=SplitNN(batch_size=100)), columns=100, rows=1000, small=True)


def test_the_epsilon_that_came_of_it_is_judged() -> None:
    noisy = job(privacy=Privacy(dp="central", dp_noise=1.0))
    ask(noisy, columns=5, rows=1000, epsilon=1.9, max_dp_epsilon=2)
    with pytest.raises(PolicyError, match=r"policy max_dp_epsilon: .* got epsilon 2.1 of privacy.dp"):
        ask(noisy, columns=5, rows=1000, epsilon=2.1, max_dp_epsilon=2)
    with pytest.raises(PolicyError, match="updates without noise"):
        ask(job(), columns=5, rows=1000, max_dp_epsilon=2)
