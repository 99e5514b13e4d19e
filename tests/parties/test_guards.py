"""Guards of split neural networks: views of the first layer, the only passive party, single rows in the clear."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parties.errors import PolicyError
from parties.guards import Guards, Level, Verdict, embedding_exchange, first_layer_views, single_first_layer
from parties.policy import Policy

BETWEEN_COMPANIES = Guards(enforce=True, small_data=False)


def level(verdict: Verdict | None) -> Level | None:
    return None if verdict is None else verdict.level


@pytest.mark.parametrize(
    ("epochs", "units", "columns", "expected"),
    [
        (1, 5, [10], None),
        (1, 6, [10], "warn"),
        (3, 3, [5, 5], "warn"),
        (2, 5, [5, 5], "refuse"),
        (1, 16, [16], "refuse"),
        (20, 16, [300, 400], None),
        (20, 16, [30, 300], "warn"),
        (20, 16, [20, 300], "refuse"),
        (1, 1, [], "refuse"),
    ],
)
def test_views_warn_above_half_of_the_columns_and_are_refused_from_all(
    epochs: int, units: int, columns: list[int], expected: Level | None
) -> None:
    verdict = first_layer_views(epochs=epochs, units=units, passive_columns=columns, party="bank", consent=False)
    assert level(verdict) == expected


def test_views_that_all_consent_to_are_told_and_not_refused() -> None:
    verdict = first_layer_views(epochs=1, units=16, passive_columns=[9, 9], party="bank", consent=True)
    assert level(verdict) == "warn"
    verdict = first_layer_views(epochs=20, units=16, passive_columns=[9, 9], party="bank", consent=True)
    assert str(verdict) == (
        "first-layer views: party 'bank' would open up to 320 views of 18 passive columns (20 epochs of 16 units), "
        "which tell it their column space, and over several epochs the columns but for a rotation"
    )


def test_a_refusal_of_views_says_what_to_do() -> None:
    verdict = first_layer_views(epochs=20, units=16, passive_columns=[18], party="bank", consent=False)
    with pytest.raises(PolicyError, match=r"^first-layer views: party 'bank' .* 320 views of 18 passive columns") as no:
        BETWEEN_COMPANIES.heed(verdict)
    for way_out in ("lower training.units", "training.epochs", "partial_scores = true in every passive party's policy"):
        assert way_out in str(no.value)


@given(
    epochs=st.integers(1, 500),
    units=st.integers(1, 64),
    columns=st.lists(st.integers(0, 300), max_size=4),
    consent=st.booleans(),
)
def test_views_only_get_worse_with_epochs_and_units(epochs: int, units: int, columns: list[int], consent: bool) -> None:
    order = [None, "warn", "refuse"]
    found = [
        order.index(level(first_layer_views(epochs=t, units=u, passive_columns=columns, party="bank", consent=consent)))
        for t, u in ((epochs, units), (epochs + 1, units), (epochs + 1, units + 1))
    ]
    assert found == sorted(found)
    assert not (consent and 2 in found)
    assert (2 in found[:1]) == (not consent and epochs * units >= sum(columns))


@pytest.mark.parametrize(
    ("parties", "consent", "refused"), [(1, False, True), (1, True, False), (2, False, False), (3, True, False)]
)
def test_the_only_passive_party_must_consent_to_show_its_outputs(parties: int, consent: bool, refused: bool) -> None:
    verdict = single_first_layer(party="shop", passive_parties=parties, consent=consent)
    assert (level(verdict) == "refuse") == refused
    if refused:
        assert "its policy" in str(verdict) and "key_holder" not in str(verdict), "no other key holder would help"


@pytest.mark.parametrize("enforce", [True, False])
def test_single_rows_leave_in_the_clear_by_consent_alone_on_one_machine_too(enforce: bool) -> None:
    guards = Guards(enforce=enforce, small_data=False)
    assert guards.heed(embedding_exchange(party="shop", consent=True)) is False
    with pytest.raises(PolicyError) as refused:
        guards.heed(embedding_exchange(party="shop", consent=Policy().embedding_gradients))
    message = str(refused.value)
    assert "\n" not in message and refused.value.exit_code == 2
    for words in ("party 'shop'", "training.mode = 'split'", "embedding_gradients = true", "[party.policy]", "got no"):
        assert words in message
    assert guards.warnings == []
