"""What a curious passive party of a one-sided training works out from numbers that it is meant to have."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from parties.errors import DataError, PolicyError
from parties.policy import Guards, Policy
from parties.spec import PartySpec
from tests.glm.test_one_sided import OneSided, make
from tests.runs.companies import make_companies, run_vfl
from vfl import glm_quadratic
from vfl.glm_part import check_consent_to_terms
from vfl.job import Alignment, Job, Member
from vfl.members import Members
from vfl.terms import Terms


def opened_products(case: OneSided, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Train, and return what the passive party opens: with the deviation first, then with every direction."""
    seen: list[list[int]] = []
    honest = glm_quadratic._open_own

    def kept(hub: Any, plan: Any, vector: Any, block: Any) -> Sequence[int]:
        products = honest(hub, plan, vector, block)
        if block is case.passive:
            seen.append(list(products))
        return products

    monkeypatch.setattr(glm_quadratic, "_open_own", kept)
    case.fit()
    return seen


@pytest.mark.parametrize("model", ["linear", "logistic"])
def test_a_common_factor_does_not_count_the_members(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were every member multiplied by one integer, c N / n in fixed point, it would divide all that P opens."""
    case = make(model, 150, 90, training={"max_iter": 3})
    seen = opened_products(case, monkeypatch)
    factor = math.gcd(*[value for products in seen[1:] for value in products])
    assert factor < 1 << 16, f"{case.members.rows} rows over {factor / 2**glm_quadratic.MEMBER_CURVATURE_BITS}"


def test_factors_of_members_differ_and_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By no more than the model can bear, and the same in the next run: a run that goes on must find them again."""
    drawn = []
    honest = glm_quadratic._row_curvatures

    def kept(*args: Any) -> Any:
        drawn.append(honest(*args))
        return drawn[-1]

    monkeypatch.setattr(glm_quadratic, "_row_curvatures", kept)
    for _ in range(2):
        make("linear", 150, 90, training={"max_iter": 1}).fit()
    even = (240 << glm_quadratic.MEMBER_CURVATURE_BITS) // 150
    assert len(set(drawn[0].tolist())) > 140
    assert abs(drawn[0] - even).max() <= even >> glm_quadratic.MEMBER_NOISE_BITS
    assert drawn[0].tolist() == drawn[1].tolist()


@pytest.mark.parametrize("model", ["linear", "logistic"])
def test_the_mean_curvature_is_told_too_roughly_to_be_a_fraction_of_the_members(model: str) -> None:
    """p(1 - p) in 53 bits would give p = k / n, and so n, by its continued fraction."""
    case = make(model, 150, 90, training={"max_iter": 1})
    case.fit()
    (told,) = [d.payload.facts["curvature"] for d in case.deliveries if d.message == "glm_quadratic.setup"]
    assert math.ldexp(math.frexp(told)[0], 6).is_integer()


def test_time_at_the_active_party_follows_the_list_and_not_the_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """Powers to 0 cost nothing where they are taken one by one; the passive party sees how long its answer takes."""
    seen = []
    honest = glm_quadratic.scale

    def kept(vector: Any, factors: Sequence[int]) -> Any:
        seen.append(list(factors))
        return honest(vector, factors)

    monkeypatch.setattr(glm_quadratic, "scale", kept)
    make("linear", 150, 90, training={"max_iter": 1}).fit()
    for factors in (factors for factors in seen if len(factors) > 1):
        assert len(factors) == 240
        assert len({factor.bit_length() for factor in factors}) == 1


def test_members_too_rare_for_the_bounds_are_refused_before_anything_is_sent() -> None:
    case = make("linear", 150, 90)
    case.members = Members(case.members.places, 150 << 16)
    with pytest.raises(DataError, match="got one training row in 65,536 rows .*, expected one in 65,536"):
        case.fit()
    assert not [d for d in case.deliveries if d.sender == "active" and not d.message.startswith("greeting.")]


@pytest.mark.parametrize(("members", "refused"), [(511, "small data"), (600, ""), (3, "small data")])
def test_guards_on_labels_count_members_and_not_the_list(members: int, refused: str) -> None:
    """Products of a list of 100,000 rows are those of its members: of few, lattice reduction finds the labels."""
    two = (Member(name="bank", role="active"), Member(name="shop", role="passive"))
    job = Job(name="x", model="logistic", task="binary", parties=two, alignment=Alignment(one_sided=True))
    terms = Terms(job, "coordinator", "", 100_000, 1, {"bank": 3, "shop": 5}, consent=False)
    spec = PartySpec(name="bank", role="active", data="bank.csv", id="id", label="y", policy=Policy())
    guards = Guards(enforce=True, small_data=False)
    if not refused:
        check_consent_to_terms(terms, spec, guards, members)
        return
    with pytest.raises(PolicyError, match=f"{refused}.*'shop'.*a batch has {members} rows"):
        check_consent_to_terms(terms, spec, guards, members)


def test_the_active_party_judges_by_its_members(tmp_path: Path) -> None:
    """In a run: the passive party has rows enough, the members are too few."""
    companies = make_companies(tmp_path / "in", rows=700, passive=1, alignment={"one_sided": True})
    companies.tables["bank"] = companies.tables["bank"].iloc[:300].reset_index(drop=True)
    for party in companies.parties.values():
        party["policy"] = {"key_bits": 512}
    done = run_vfl("run", companies.write(), "--strict", "--out", tmp_path / "out")
    assert done.code == 2
    assert re.search(r"small data: .* a batch has \d{3} rows, expected at least 512", done.stderr)
