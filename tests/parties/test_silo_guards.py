"""What silos ask before they add anything up: a third one, or consent; and enough noise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parties.errors import PolicyError
from parties.policy import Guards, Policy, objections, two_silos, update_privacy


@pytest.mark.parametrize(("silos", "consent", "refused"), [(1, False, False), (2, False, True), (2, True, False)])
def test_two_silos_must_consent(silos: int, consent: bool, refused: bool) -> None:
    verdict = two_silos(party="clinics.north", holder="clinics", silos=silos, consent=consent)
    assert (verdict is not None) == refused


@given(st.integers(3, 4096), st.booleans())
def test_more_silos_need_not(silos: int, consent: bool) -> None:
    assert two_silos(party="clinics.north", holder="clinics", silos=silos, consent=consent) is None


def test_the_refusal_says_what_to_do() -> None:
    verdict = two_silos(party="clinics.north", holder="clinics", silos=2, consent=False)
    with pytest.raises(PolicyError, match=r"^two silos: party 'clinics.north' .* 'clinics'") as no:
        Guards(enforce=True, small_data=False).heed(verdict)
    for way_out in ("two_silos = true in the policy of every silo", "three silos"):
        assert way_out in str(no.value)
    loose = Guards(enforce=False, small_data=False)
    assert not loose.heed(verdict)
    assert loose.warnings[0].startswith("guard: between companies this would be refused because two silos")


def test_no_policy_consents_to_two_silos_by_itself() -> None:
    assert not Policy().two_silos


@given(st.none() | st.floats(0.01, 1000), st.none() | st.floats(0.01, 1000))
def test_noise_is_enough_where_its_epsilon_is_at_most_the_policys(most: float | None, epsilon: float | None) -> None:
    verdict = update_privacy(Policy(max_dp_epsilon=most), party="clinics.north", epsilon=epsilon)
    assert (verdict is None) == (most is None or (epsilon is not None and epsilon <= most))


def test_where_nothing_is_aligned_no_number_of_common_rows_is_asked() -> None:
    asked = {"party": "shop", "model": "linear", "key_bits": None, "key_holder": None, "max_rounds": 9}
    policy = Policy(min_intersection=10**6)
    assert objections(policy, min_intersection=None, **asked) == ()  # type: ignore[arg-type]
    assert len(objections(policy, min_intersection=100, **asked)) == 1  # type: ignore[arg-type]
