"""Guards: their figures, their effect with and without enforcement, and what a policy objects to."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parties.errors import PolicyError
from parties.policy import (
    AlignmentProtocol,
    Guards,
    Level,
    Policy,
    Verdict,
    column_use,
    disclosure,
    effective_limits,
    gradient_sampling,
    label_privacy,
    label_rank,
    least_rows,
    objections,
    protocol_use,
    rows_to_score,
    score_budget,
    scores_are_rounded,
    single_passive,
    small_batch,
    spend_rows,
    tree_limits,
)
from psi.settings import PROTOCOLS

BETWEEN_COMPANIES = Guards(enforce=True, small_data=False)
ONE_MACHINE = Guards(enforce=False, small_data=False)


def level(verdict: Verdict | None) -> Level | None:
    return None if verdict is None else verdict.level


# score budget: with 5 + 5 columns 3 of 10 features leak at 4 evaluations, 6 at 8, all from 10 on
@pytest.mark.parametrize(
    ("evaluations", "expected"), [(1, None), (5, None), (6, "warn"), (9, "warn"), (10, "stop"), (11, "stop")]
)
def test_score_budget_warns_above_half_and_stops_at_one(evaluations: int, expected: Level | None) -> None:
    verdict = score_budget(evaluations=evaluations, scores=1, passive_columns=[5, 5], party="bank", consent=False)
    assert level(verdict) == expected


def test_score_budget_counts_every_class() -> None:
    spent = {"passive_columns": [9, 9], "party": "bank", "consent": False}
    assert level(score_budget(evaluations=4, scores=4, **spent)) == "warn"  # type: ignore[arg-type]
    assert level(score_budget(evaluations=5, scores=4, **spent)) == "stop"  # type: ignore[arg-type]


def test_consent_turns_the_stop_into_rounding() -> None:
    verdict = score_budget(evaluations=10, scores=1, passive_columns=[5, 5], party="bank", consent=True)
    assert level(verdict) == "warn"
    spent: dict[str, Any] = {"scores": 1, "passive_columns": [5, 5]}
    assert scores_are_rounded(BETWEEN_COMPANIES, evaluations=10, consent=True, **spent)
    assert not scores_are_rounded(BETWEEN_COMPANIES, evaluations=9, consent=True, **spent)
    assert not scores_are_rounded(BETWEEN_COMPANIES, evaluations=10, consent=False, **spent)
    assert not scores_are_rounded(ONE_MACHINE, evaluations=10, consent=True, **spent), "one machine never rounds"


def test_score_budget_without_passive_columns_is_spent_at_once() -> None:
    assert level(score_budget(evaluations=1, scores=1, passive_columns=[], party="bank", consent=False)) == "stop"


@pytest.mark.parametrize(
    ("columns", "rows", "expected"),
    [(250, 1000, None), (251, 1000, "warn"), (999, 1000, "warn"), (1000, 1000, "refuse"), (5, 0, "refuse")],
)
def test_label_rank_warns_above_a_quarter_and_refuses_from_one(columns: int, rows: int, expected: Level | None) -> None:
    assert level(label_rank(columns=columns, rows=rows, party="biller")) == expected


@pytest.mark.parametrize(
    ("columns", "rows", "fine"),
    [(2, 512, True), (2, 511, False), (32, 512, True), (33, 527, False), (33, 528, True), (2, 32, False)],
)
def test_batches_need_sixteen_rows_per_column_and_512(columns: int, rows: int, fine: bool) -> None:
    assert (small_batch(ONE_MACHINE, rows=rows, columns=columns, party="biller") is None) == fine
    assert (rows >= least_rows(columns)) == fine


def test_small_data_is_let_through_where_job_and_policy_allow_it() -> None:
    allowed = Guards(enforce=True, small_data=True)
    assert small_batch(allowed, rows=20, columns=4, party="biller") is None
    with pytest.raises(PolicyError, match="small data: party 'biller' has 4 columns.* 20 rows, expected at least 512"):
        BETWEEN_COMPANIES.heed(small_batch(BETWEEN_COMPANIES, rows=20, columns=4, party="biller"))


@pytest.mark.parametrize(
    ("key_holder", "parties", "consent", "refused"),
    [
        ("active", 1, False, True),
        ("active", 1, True, False),
        ("active", 2, False, False),
        ("coordinator", 1, False, False),
    ],
)
def test_a_single_passive_party_must_consent(key_holder: Any, parties: int, consent: bool, refused: bool) -> None:
    verdict = single_passive(key_holder=key_holder, party="biller", passive_parties=parties, consent=consent)
    assert (level(verdict) == "refuse") == refused


JOB: dict[str, Any] = {
    "model": "logistic",
    "key_bits": 2048,
    "key_holder": "active",
    "min_intersection": 100,
    "max_rounds": 100,
}


def test_the_default_policy_has_nothing_against_the_default_job() -> None:
    assert objections(Policy(), party="biller", **JOB) == ()


@pytest.mark.parametrize(
    ("policy", "change", "parts"),
    [
        (Policy(models=("linear",)), {}, ["models", "'logistic'", "linear"]),
        (Policy(key_bits=3072), {}, ["key_bits", "2048 bits", "at least 3072"]),
        (Policy(), {"key_bits": 1024}, ["key_bits", "1024 bits", "at least 2048"]),
        (Policy(key_holder=("coordinator",)), {}, ["key_holder", "'active'", "coordinator"]),
        (Policy(min_intersection=1000), {}, ["min_intersection", "100", "at least 1000"]),
        (Policy(max_rounds=99), {}, ["max_rounds", "100 rounds", "at most 99"]),
    ],
)
def test_each_key_of_a_policy_has_its_objection(policy: Policy, change: dict[str, Any], parts: list[str]) -> None:
    (verdict,) = objections(policy, party="biller", **(JOB | change))
    assert verdict.level == "refuse"
    assert [part for part in [*parts, "party 'biller'", "got", "expected"] if part not in str(verdict)] == []
    with pytest.raises(PolicyError):
        BETWEEN_COMPANIES.heed(verdict)


def test_a_run_without_a_key_is_asked_for_none() -> None:
    strict = Policy(key_bits=4096, key_holder=("coordinator",))
    assert [verdict.guard for verdict in objections(strict, party="biller", **JOB)] == [
        "policy key_bits",
        "policy key_holder",
    ]
    assert objections(strict, party="biller", **(JOB | {"key_bits": None, "key_holder": None})) == ()


def test_bounds_of_a_policy_are_accepted() -> None:
    strict = Policy(models=("logistic",), key_holder=("active",), min_intersection=100, max_rounds=100)
    assert objections(strict, party="biller", **JOB) == ()


def test_several_objections_come_together() -> None:
    policy = Policy(models=("linear",), max_rounds=1, key_bits=4096)
    assert len(objections(policy, party="biller", **JOB)) == 3


@pytest.mark.parametrize(
    ("asked", "enforce", "limits"),
    [
        ((None, None), True, (200, 10)),
        ((None, None), False, (0, 0)),
        ((50, None), True, (50, 10)),
        ((None, 3), False, (0, 3)),
        ((0, 0), True, (0, 0)),
        ((500, 20), False, (500, 20)),
    ],
)
def test_limits_of_trees_are_those_asked_for_or_act_between_companies(
    asked: tuple[int | None, int | None], enforce: bool, limits: tuple[int, int]
) -> None:
    assert effective_limits(*asked, enforce) == limits


def test_limits_of_trees_between_companies_are_what_policies_ask_for() -> None:
    rows, gap = effective_limits(None, None, enforce=True)
    assert (Policy().min_node_rows, Policy().min_bin_gap) == (rows, gap)
    assert tree_limits(Policy(), party="biller", min_node_rows=rows, min_bin_gap=gap) == ()


@pytest.mark.parametrize(
    ("policy", "rows", "gap", "found"),
    [
        (Policy(), 199, 10, ["min node rows"]),
        (Policy(), 200, 9, ["min bin gap"]),
        (Policy(), 0, 0, ["min node rows", "min bin gap"]),
        (Policy(min_node_rows=300), 200, 10, ["min node rows"]),
        (Policy(min_bin_gap=11), 200, 10, ["min bin gap"]),
        (Policy(min_node_rows=0, min_bin_gap=0), 0, 0, []),
        (Policy(min_node_rows=50), 50, 1000, []),
    ],
)
def test_limits_of_trees_below_a_policy_are_refused(policy: Policy, rows: int, gap: int, found: list[str]) -> None:
    verdicts = tree_limits(policy, party="biller", min_node_rows=rows, min_bin_gap=gap)
    assert [verdict.guard for verdict in verdicts] == found
    for verdict in verdicts:
        assert (verdict.level, verdict.party) == ("refuse", "biller")
        with pytest.raises(PolicyError, match=f"^{verdict.guard}: party 'biller' .*expected at least"):
            BETWEEN_COMPANIES.heed(verdict)


def test_limits_of_trees_in_words() -> None:
    rows, gap = tree_limits(Policy(), party="biller", min_node_rows=50, min_bin_gap=2)
    assert str(rows) == (
        "min node rows: party 'biller' splits nodes of as few as 50 rows, expected at least 200: differences of sums "
        "would single out rows; raise training.min_node_rows, or lower min_node_rows in the party's policy"
    )
    assert str(gap) == (
        "min bin gap: party 'biller' has candidate splits as near as 2 rows, expected at least 10: differences of sums "
        "would single out rows; raise training.min_bin_gap, or lower min_bin_gap in the party's policy"
    )
    guards = Guards(enforce=False, small_data=False)
    assert guards.heed(rows) is guards.heed(gap) is False
    assert all("between companies this would be refused because min" in line for line in guards.warnings)
    assert len(guards.warnings) == 2


def test_sampling_by_gradients_needs_the_consent_of_the_active_party() -> None:
    assert gradient_sampling(party="bank", consent=True) is None
    verdict = gradient_sampling(party="bank", consent=Policy().gradient_sampling)
    assert level(verdict) == "refuse"
    words = ["gradient sampling: party 'bank'", "top_rate", "got no consent", "expected gradient_sampling = true"]
    assert [part for part in words if part not in str(verdict)] == []
    with pytest.raises(PolicyError):
        BETWEEN_COMPANIES.heed(verdict)


def test_importance_by_column_is_told_unless_a_policy_says_otherwise() -> None:
    assert Policy().feature_importance
    assert not Policy(feature_importance=False).feature_importance


def test_a_policy_limits_trees_like_rounds() -> None:
    (verdict,) = objections(Policy(max_rounds=99), party="biller", **(JOB | {"model": "boosting"}))
    assert "up to 100 rounds" in str(verdict)
    (verdict,) = objections(Policy(models=("logistic",)), party="biller", **(JOB | {"model": "boosting"}))
    assert "model 'boosting'" in str(verdict)


def test_on_one_machine_every_verdict_warns_once_and_stops_nothing() -> None:
    guards = Guards(enforce=False, small_data=False)
    levels: tuple[Level, ...] = ("warn", "drop", "stop", "refuse")
    for name in levels:
        for figure in (1, 2):
            assert guards.heed(Verdict("test", "biller", name, f"got {figure}")) is False
    assert guards.warnings == [
        "guard: test: party 'biller' got 1",
        "guard: between companies columns would be left out because test: party 'biller' got 1",
        "guard: between companies training would stop here because test: party 'biller' got 1",
        "guard: between companies this would be refused because test: party 'biller' got 1",
    ]


def test_the_same_guard_warns_for_each_party() -> None:
    guards = Guards(enforce=False, small_data=False)
    for party in ("a", "b", "a"):
        guards.heed(Verdict("test", party, "warn", "got 1"))
    assert len(guards.warnings) == 2


@pytest.mark.parametrize(("name", "acts"), [("warn", False), ("drop", True), ("stop", True)])
def test_enforced_verdicts_tell_the_caller_to_act(name: Level, acts: bool) -> None:
    guards = Guards(enforce=True, small_data=False)
    assert guards.heed(Verdict("test", "biller", name, "got 1")) is acts
    assert guards.warnings == ["guard: test: party 'biller' got 1"]


def test_enforced_refusals_raise_and_leave_no_warning() -> None:
    guards = Guards(enforce=True, small_data=False)
    with pytest.raises(PolicyError, match="^test: party 'biller' got 1$"):
        guards.heed(Verdict("test", "biller", "refuse", "got 1"))
    assert guards.warnings == []


def test_no_verdict_no_effect() -> None:
    guards = Guards(enforce=True, small_data=False)
    assert guards.heed(None) is False
    assert guards.warnings == []


def test_two_processes_do_not_share_warnings() -> None:
    one, other = Guards(enforce=False, small_data=False), Guards(enforce=False, small_data=False)
    one.heed(Verdict("test", "a", "warn", "got 1"))
    assert other.warnings == []


@given(
    evaluations=st.integers(1, 200),
    scores=st.integers(1, 10),
    columns=st.lists(st.integers(0, 300), max_size=4),
    consent=st.booleans(),
)
def test_score_budget_only_gets_worse(evaluations: int, scores: int, columns: list[int], consent: bool) -> None:
    order = [None, "warn", "stop"]
    found = [
        order.index(
            level(score_budget(evaluations=t, scores=scores, passive_columns=columns, party="bank", consent=consent))
        )
        for t in (evaluations, evaluations + 1)
    ]
    assert found == sorted(found)
    assert not (consent and 2 in found)


def words(verdict: Verdict | None, *parts: str) -> None:
    """It refuses, in one line that names the party, what it got, what it expected, and the line of the policy."""
    assert verdict is not None and verdict.level == "refuse"
    assert [part for part in (*parts, "party 'biller'", "got", "expected", "policy") if part not in str(verdict)] == []
    assert "\n" not in str(verdict)
    with pytest.raises(PolicyError):
        BETWEEN_COMPANIES.heed(verdict)


@pytest.mark.parametrize(
    ("listed", "used", "named"),
    [
        (None, ["a", "b"], None),
        (("a", "b"), ["b"], None),
        (("a",), [], None),
        (("a",), ["a", "b"], "column 'b' in use, expected one of 'a'"),
        (("a",), ["c", "b"], "column 'c' and 1 more in use"),
        ((), ["a"], "column 'a' in use, expected none"),
        (("a",), ["A"], "column 'A'"),
        (("gro\u0308\u00dfe",), ["gr\u00f6\u00dfe"], None),  # two spellings of one name
    ],
)
def test_columns_in_use_are_those_that_the_policy_lists(listed: Any, used: list[str], named: str | None) -> None:
    verdict = column_use(Policy(columns=listed), party="biller", columns=used)
    if named is None:
        assert verdict is None
    else:
        words(verdict, named, "policy columns", "columns in its policy")


@pytest.mark.parametrize(
    ("listed", "possible", "named"),
    [
        (None, ["ecdh"], None),
        (None, ["ecdh", "kkrt"], None),
        (("kkrt",), ["ecdh", "kkrt"], None),
        (None, ["server-aided"], "protocol 'server-aided', expected ecdh or kkrt or mpsi"),
        (("mpsi",), ["ecdh", "kkrt"], "protocol 'ecdh' or 'kkrt', expected mpsi"),
        (("server-aided",), ["server-aided"], None),
    ],
)
def test_alignments_are_those_that_the_policy_lists(listed: Any, possible: Any, named: str | None) -> None:
    policy = Policy() if listed is None else Policy(alignment=listed)
    verdict = protocol_use(policy, party="biller", protocols=possible)
    if named is None:
        assert verdict is None
    else:
        words(verdict, named, "policy alignment", "alignment in the party's policy")


def test_protocols_of_policies_are_those_of_alignments() -> None:
    assert get_args(AlignmentProtocol) == PROTOCOLS
    assert set(PROTOCOLS) - set(Policy().alignment) == {"server-aided"}


@pytest.mark.parametrize(
    ("most", "epsilon", "named"),
    [
        (None, None, None),
        (None, 50.0, None),
        (1.0, 1.0, None),
        (1.0, 0.5, None),
        (1.0, 1.5, "privacy.label_dp_epsilon 1.5, expected at most 1"),
        (2.5, None, "labels that are not randomised, expected at most 2.5"),
    ],
)
def test_labels_are_randomised_as_much_as_asked_for(most: Any, epsilon: Any, named: str | None) -> None:
    verdict = label_privacy(Policy(label_dp_epsilon=most), party="biller", epsilon=epsilon)
    if named is None:
        assert verdict is None
    else:
        words(verdict, named, "policy label_dp_epsilon")


@pytest.mark.parametrize(
    ("patterns", "allowed"),
    [
        (("*",), True),
        (("ecdh.tags",), True),
        (("glm_exact.*", "ecdh.*"), True),
        (("ecdh.t?gs",), True),
        ((), False),
        (("ecdh.tag",), False),
        (("ECDH.TAGS",), False),
        (("glm_*",), False),
    ],
)
def test_messages_are_let_out_by_name_or_pattern(patterns: tuple[str, ...], allowed: bool) -> None:
    told = {"message": "ecdh.tags", "discloses": "how many ids are common", "to": "the coordinator"}
    verdict = disclosure(Policy(disclosures=patterns), party="biller", **told)
    if allowed:
        assert verdict is None
    else:
        words(verdict, "'ecdh.tags'", "the coordinator would learn how many ids are common", "disclosures in the")


def test_every_message_that_is_not_let_out_has_a_warning_of_its_own() -> None:
    guards = Guards(enforce=False, small_data=False)
    for message in ("ecdh.tags", "verdict.matches", "ecdh.tags"):
        guards.heed(disclosure(Policy(disclosures=()), party="biller", message=message, discloses="x", to="all"))
    assert len(guards.warnings) == 2
    assert all("between companies this would be refused because policy disclosures" in w for w in guards.warnings)


@pytest.mark.parametrize(
    ("most", "rows", "fine"), [(None, 10**9, True), (10, 10, True), (10, 11, False), (0, 1, False)]
)
def test_rows_to_score_are_limited(most: int | None, rows: int, fine: bool) -> None:
    verdict = rows_to_score(Policy(scored_rows=most), party="biller", rows=rows)
    if fine:
        assert verdict is None
    else:
        words(verdict, f"{rows} rows scored jointly in all, expected at most {most}", "policy scored_rows")


def test_rows_count_before_they_are_scored_unless_they_are_too_many() -> None:
    guards, policy = Guards(enforce=True, small_data=False), Policy(scored_rows=100)
    spend_rows(guards, policy, party="biller", rows=60, content=[b"one"])
    spend_rows(guards, policy, party="biller", rows=60, content=[b"one"])
    with pytest.raises(PolicyError, match="scored_rows: party 'biller' got 120 rows"):
        spend_rows(guards, policy, party="biller", rows=60, content=[b"other"])
    spend_rows(guards, policy, party="biller", rows=40, content=[b"other"])
    assert guards.budget.rows(1) == 101
    here = Guards(enforce=False, small_data=False)
    spend_rows(here, policy, party="biller", rows=101, content=[b"one"])
    assert len(here.warnings) == 1 and here.budget.rows(0) == 101
