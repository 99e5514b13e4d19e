"""Disclosures: a job's list holds all that is really sent; policies are asked before a run and at every message."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from parties.budget import Budget
from parties.errors import PolicyError, RemoteProtocolError
from parties.link import Delivery, Endpoint
from parties.policy import Guards, KeyHolder, Policy
from parties.spec import PartySpec
from parties.wire import Active, Coordinator, DataParty, Masked, Message, Passive, Revealed
from psi import align, base_ot, ecdh, kkrt, oprf, server_aided, verdict
from psi.settings import AlignmentSettings
from tests.psi.exchanges import exchange, people
from tests.runs.companies import Companies, make_boosted, make_companies
from tests.splitnn.trials import make_split
from vfl import (
    alignment_consent,
    boosting,
    boosting_scoring,
    consent,
    glm_exact,
    glm_quadratic,
    importance,
    prepare,
    scoring,
    split_learning,
    splitnn,
    splitnn_scoring,
)
from vfl.boosting_part import check_consent_to_trees
from vfl.glm_part import check_consent_to_terms
from vfl.job import Alignment, Boosting, Job, Member, Privacy, Split, SplitNN, Training
from vfl.job_file import load_scenario
from vfl.network_consent import check_consent_to_network, spend_epoch
from vfl.prepare import Parts, check_consent_to_job, check_consent_to_rows, check_key_holder_consent
from vfl.report.summary import RunReport
from vfl.run import run_scenario
from vfl.terms import Terms

PARTIES = (
    Member(name="bank", role="active"),
    Member(name="shop", role="passive"),
    Member(name="telco", role="passive"),
)
TASKS = {"logistic": "binary", "linear": "regression", "softmax": "multiclass", "poisson": "count"}
WIRES = [
    module.Wire for module in (align, ecdh, verdict, prepare, glm_exact, glm_quadratic, scoring, boosting, importance)
]


def make_job(model: str = "logistic", task: str | None = None, **sections: Any) -> Job:
    return Job(name="test", model=model, task=task or TASKS.get(model, "binary"), parties=PARTIES, **sections)


def make_spec(
    name: str = "shop", role: str = "passive", features: tuple[str, ...] | None = None, **policy: Any
) -> PartySpec:
    label = "y" if role == "active" else None
    return PartySpec(
        name=name, role=role, data="x.csv", id="id", label=label, features=features, policy=Policy(**policy)
    )


def strict() -> Guards:
    return Guards(enforce=True, small_data=False)


SCORED = {"split_learning.scored"}


def network_job(mode: str = "source-layer", parties: int = 3, **sections: Any) -> Job:
    network = {"splitnn": SplitNN(mode=mode, epochs=2, units=3)} | sections
    return Job(name="test", model="splitnn", task="binary", parties=PARTIES[:parties], **network)


def names(messages: list[Message[Any, Any, Any]]) -> set[str]:
    return {message.name for message in messages}


# what is really sent


def scenarios(folder: Path) -> Iterator[tuple[Companies, KeyHolder]]:
    """Small runs of every model, key holder and option that has messages of its own."""
    short = {"training": {"max_iter": 2}}
    yield make_companies(folder / "exact", rows=130, key_holder="active", **short), "active"
    yield make_companies(folder / "softmax", "softmax", rows=130, **short), "active"
    yield make_companies(folder / "poisson", "poisson", rows=130, **short), "active"
    newton = {"training": {"max_iter": 2, "newton_steps": 1}}
    yield make_companies(folder / "quadratic", rows=130, key_holder="coordinator", **newton), "coordinator"
    yield make_companies(folder / "linear", "linear", rows=130, key_holder="coordinator", **short), "coordinator"
    goss = {"n_estimators": 2, "max_depth": 2, "top_rate": 0.3, "other_rate": 0.3}
    yield make_boosted(folder / "goss", rows=130, training=goss), "active"
    trees = {"n_estimators": 2, "max_depth": 2, "multi_output": False}
    yield make_boosted(folder / "classes", "multiclass", rows=130, training=trees), "active"
    yield make_split(folder / "network", rows=130, training={"epochs": 1}), "active"
    yield make_split(folder / "split", rows=130, training={"epochs": 1, "mode": "split"}), "active"


def ledger(companies: Companies) -> tuple[Job, RunReport, set[tuple[str, str]]]:
    """The job, and (sender, message) of every message that disclosed something."""
    scenario = load_scenario(companies.write())
    out = companies.folder / "out"
    report = run_scenario(scenario, out, lambda event: None, baselines=False, in_process=True)
    entries = [msgspec.json.decode(line) for line in (out / "ledger.jsonl").read_bytes().splitlines()]
    return scenario.job, report, {(entry["sender"], entry["message"]) for entry in entries if entry["discloses"]}


def test_the_list_covers_all_that_is_sent_and_nothing_else(tmp_path: Path) -> None:
    """Messages of a party are in its role's list; of the list nothing is left that no run has sent."""
    seen: set[str] = set()
    for companies, holder in scenarios(tmp_path):
        job, _, sent = ledger(companies)
        lists = {role: names(consent.disclosures_of(job, role, holder)) for role in (Active, Passive)}
        by = {role: {message for sender, message in sent if sender in who} for role, who in parts(job).items()}
        for role, listed in lists.items():
            assert by[role] <= listed, f"{job.model}: {by[role] - listed}"
        told = {message for _, message in sent}
        assert lists[Active] | lists[Passive] <= told, f"{job.model}: {(lists[Active] | lists[Passive]) - told}"
        seen |= told
    tables = [*WIRES, boosting_scoring.Wire, splitnn.Wire, splitnn_scoring.Wire, split_learning.Wire]
    known = {m.name for table in tables for m in vars(table).values() if isinstance(m, Message) and m.discloses}
    assert seen == known - {"verdict.members"}, "one-sided alignments have it instead of matches"


def parts(job: Job) -> dict[type[DataParty], set[str]]:
    return {Active: {job.active}, Passive: set(job.passive)}


def test_what_the_coordinator_opens_counts_as_the_parties_own_disclosure() -> None:
    """Scores leave under masks; that their sum is opened is what a passive party consents to."""
    exact = names(consent.disclosures_of(make_job(), Passive, "active"))
    assert {"glm_exact.score_sums", "glm_exact.gradient_sums", "glm_exact.step_sums", "scoring.total"} <= exact
    assert "glm_exact.opened" not in exact, "what a passive party is told of itself"
    quadratic = names(consent.disclosures_of(make_job(), Passive, "coordinator"))
    assert {
        "glm_quadratic.scalars",
        "glm_quadratic.opened",
        "ecdh.tags",
        "verdict.verdict",
        "verdict.matches",
        "align.plan",
    } <= quadratic
    assert not {name for name in quadratic if name.startswith("glm_exact")}
    network = names(consent.disclosures_of(network_job(), Passive, "active"))
    assert {"splitnn.sums", "splitnn_scoring.sums"} <= network and "splitnn.epoch" not in network


@pytest.mark.parametrize(
    ("job", "holder", "missing"),
    [
        (make_job(split=Split(test_fraction=0)), "active", "scoring.total"),
        (make_job("boosting", split=Split(test_fraction=0)), "active", "boosting_scoring.sides"),
        (make_job(), "coordinator", "glm_quadratic.training_sums"),
        (make_job("boosting"), "active", "boosting.drawn"),
        (make_job("boosting", boosting=Boosting(max_depth=1)), "active", "boosting.outcome"),
    ],
)
def test_what_a_job_rules_out_needs_no_consent(job: Job, holder: KeyHolder, missing: str) -> None:
    listed = names(consent.disclosures_of(job, Active, holder) + consent.disclosures_of(job, Passive, holder))
    assert missing not in listed


def test_it_is_in_the_list_where_the_job_has_it() -> None:
    newton = make_job(training=Training(newton_steps=1))
    assert "glm_quadratic.training_sums" in names(consent.disclosures_of(newton, Passive, "coordinator"))
    goss = make_job("boosting", boosting=Boosting(top_rate=0.1, other_rate=0.1))
    assert "boosting.drawn" in names(consent.disclosures_of(goss, Active, "active"))
    assert "boosting.drawn" not in names(consent.disclosures_of(goss, Passive, "active"))


# alignments by protocol

TWO = {"bank": people(0, 40), "shop": people(10, 50)}
THREE = TWO | {"telco": people(20, 60)}
ALIGNMENTS: dict[str, tuple[dict[str, list[bytes]], AlignmentSettings]] = {
    "ecdh": (THREE, AlignmentSettings(protocol="ecdh", min_intersection=1)),
    "kkrt": (TWO, AlignmentSettings(protocol="kkrt", min_intersection=1)),
    "mpsi": (THREE, AlignmentSettings(protocol="mpsi", min_intersection=1)),
    "mpsi of two": (TWO, AlignmentSettings(protocol="mpsi", min_intersection=1)),
    "server-aided": (THREE, AlignmentSettings(protocol="server-aided", min_intersection=1)),
    "one-sided": (TWO, AlignmentSettings(protocol="ecdh", min_intersection=1, one_sided=True)),
    "one-sided kkrt": (TWO, AlignmentSettings(protocol="kkrt", min_intersection=1, one_sided=True)),
    "number": (THREE, AlignmentSettings(protocol="ecdh", min_intersection=1, cardinality=True)),
    "number by mpsi": (THREE, AlignmentSettings(protocol="mpsi", min_intersection=1, cardinality=True)),
}


def aligning_job(settings: AlignmentSettings, parties: int) -> Job:
    lines = Alignment(protocol=settings.protocol, one_sided=settings.one_sided)  # type: ignore[arg-type]
    return Job(name="test", model="logistic", task="binary", parties=PARTIES[:parties], alignment=lines)


@pytest.mark.parametrize("case", ALIGNMENTS)
def test_an_alignment_tells_what_is_listed_and_nothing_else(case: str) -> None:
    lists, settings = ALIGNMENTS[case]
    job = aligning_job(settings, len(lists))
    seen: list[Delivery] = []
    exchange(lists, settings, observe=seen.append)
    protocol = alignment_consent.protocols_of(job)[0]
    messages = [m for table in alignment_consent.tables_of(protocol) for m in vars(table).values()]
    disclosing = {m.name for m in messages if isinstance(m, Message) and m.discloses}
    told = {d.message for d in seen} & disclosing
    around = {"align.terms", "align.plan"}
    for role, who in parts(job).items():
        own = names(consent.disclosures_of(job, role, "active", protocol))
        unsaid = names(list(alignment_consent.unsaid(job, role, cardinality=settings.cardinality)))
        listed = {m for m in own if m.split(".")[0] not in ("prepare", "glm_exact", "scoring_one_sided", "scoring")}
        assert {d.message for d in seen if d.sender in who} & disclosing <= listed - unsaid
        assert listed - unsaid - around <= told


@pytest.mark.parametrize("case", ALIGNMENTS)
def test_the_messages_of_an_alignment_belong_to_its_protocol(case: str) -> None:
    lists, settings = ALIGNMENTS[case]
    seen: list[Delivery] = []
    exchange(lists, settings, observe=seen.append)
    belonging = {m.name: name for m, name in alignment_consent.protocol_of(aligning_job(settings, len(lists))).items()}
    sent = {d.message for d in seen if d.sender in lists and not d.message.startswith("greeting.")}
    assert {belonging[message] for message in sent} == {settings.protocol}


def test_the_active_party_need_not_let_out_what_it_alone_is_told() -> None:
    job = aligning_job(ALIGNMENTS["one-sided"][1], 2)
    assert not {"verdict.members", "verdict.verdict"} & names(consent.disclosures_of(job, Active, "active"))
    assert "verdict.members" in names(consent.disclosures_of(job, Passive, "active"))
    assert "verdict.matches" not in names(consent.disclosures_of(job, Passive, "active"))


def test_with_auto_an_alignment_passes_while_one_protocol_is_left() -> None:
    """What runs depends on the lists; what the policy does not list is refused when it comes to it."""
    job = aligning_job(AlignmentSettings(), 2)
    patterns = ("align.*", "verdict.*", "prepare.*", "glm*", "scoring.*")
    by_name = make_spec(disclosures=(*patterns, "kkrt.*"))
    by_protocol = make_spec(alignment=("kkrt",))
    for spec in (by_name, by_protocol):
        consent.check_disclosures(job, spec, strict())
        consent.check_alignment(job, spec, strict())
        ask = consent.of(job, spec, strict())
        for message in (base_ot.Wire.opening, oprf.Wire.rows, kkrt.Wire.tags):
            ask(message)
        with pytest.raises(PolicyError, match="policy disclosures .ecdh.tags|policy alignment: .* 'ecdh'"):
            ask(ecdh.Wire.points)
    refused(job, make_spec(disclosures=patterns), "policy disclosures (ecdh.tags)")
    refused(job, make_spec(alignment=("mpsi",)), "policy alignment: party 'shop' got protocol 'ecdh' or 'kkrt'")


def test_server_aided_is_for_those_who_list_it() -> None:
    job = aligning_job(AlignmentSettings(protocol="server-aided"), 3)
    for spec in (make_spec(), make_spec("bank", "active")):
        refused(
            job, spec, "policy alignment: party", "'server-aided', expected ecdh or kkrt or mpsi", "alignment in the"
        )
        with pytest.raises(PolicyError, match="policy alignment"):
            consent.of(job, spec, strict())(server_aided.Wire.key)
    listing = make_spec(alignment=("server-aided",))
    check_consent_to_job(job, listing, strict())
    consent.of(job, listing, strict())(server_aided.Wire.tags)
    refused(make_job(), listing, "policy alignment: party 'shop' got protocol 'ecdh', expected server-aided")


def test_who_lets_out_a_number_need_not_let_out_which() -> None:
    job = aligning_job(AlignmentSettings(protocol="ecdh"), 3)
    spec = make_spec(disclosures=("align.*", "ecdh.*", "verdict.verdict"))
    consent.check_alignment(job, spec, strict(), cardinality=True)
    consent.of(job, spec, strict(), cardinality=True)(ecdh.Wire.points)
    with pytest.raises(PolicyError, match=r"policy disclosures \(verdict.matches\)"):
        consent.check_alignment(job, spec, strict())
    with pytest.raises(PolicyError, match=r"policy disclosures \(verdict.matches\)"):
        consent.of(job, spec, strict())(ecdh.Wire.points)


@pytest.mark.parametrize(
    ("mode", "active", "passive", "scored"),
    [
        ("source-layer", {"splitnn.epoch"}, {"splitnn.sums"}, {"splitnn_scoring.sums"}),
        ("split", {"split_learning.gradients", "split_learning.epoch"}, {"split_learning.outputs"}, SCORED),
    ],
)
def test_networks_tell_by_their_mode(mode: str, active: set[str], passive: set[str], scored: set[str]) -> None:
    job = network_job(mode)
    told = {role: names(consent.disclosures_of(job, role, "active")) for role in (Active, Passive)}
    around = {name for name in told[Active] | told[Passive] if "." in name and not name.startswith("split")}
    assert told[Active] - around == active
    assert told[Passive] - around == passive | scored
    unscored = names(consent.disclosures_of(network_job(mode, split=Split(test_fraction=0)), Passive, "active"))
    assert unscored - around == passive


@pytest.mark.parametrize(("mode", "scored"), [("source-layer", "splitnn_scoring.sums"), ("split", *SCORED)])
def test_scoring_by_networks_asks_for_nothing_of_the_training(mode: str, scored: str) -> None:
    around = ("align.*", "ecdh.*", "verdict.*")
    clear: dict[str, Any] = {"embedding_gradients": mode == "split"}
    consent.check_scoring(network_job(mode), make_spec(disclosures=(*around, scored), **clear), strict())
    with pytest.raises(PolicyError, match=rf"policy disclosures \({scored}\): party 'shop'"):
        consent.check_scoring(network_job(mode), make_spec(disclosures=around, **clear), strict())
    consent.check_scoring(network_job(mode), make_spec("bank", "active", disclosures=around), strict())


def test_scoring_asks_for_the_alignment_too() -> None:
    with pytest.raises(PolicyError, match=r"policy disclosures \(verdict.verdict\)"):
        consent.check_scoring(make_job(), make_spec(disclosures=("align.*", "ecdh.*", "scoring.*")), strict())
    with pytest.raises(PolicyError, match=r"policy disclosures \(scoring.total\)"):
        consent.check_scoring(make_job(), make_spec(disclosures=("align.*", "ecdh.*", "verdict.*")), strict())
    consent.check_scoring(make_job(), make_spec(disclosures=("align.*", "[ev]*", "scoring.*")), strict())


# before anything is sent

EXACT = make_job(privacy=Privacy(key_holder="active"))


def refused(job: Job, spec: PartySpec, *words: str) -> None:
    with pytest.raises(PolicyError) as error:
        check_consent_to_job(job, spec, strict())
    assert [word for word in words if word not in str(error.value)] == []
    assert error.value.exit_code == 2 and "\n" not in str(error.value)
    here = Guards(enforce=False, small_data=False)
    check_consent_to_job(job, spec, here)
    assert any(words[0] in line and "between companies this would be refused" in line for line in here.warnings)


ALL_BUT = {
    "scores": ("a*", "e*", "p*", "s*", "v*", "glm_exact.[!s]*", "glm_exact.step*"),
    "tags": ("a*", "p*", "s*", "g*", "verdict.*"),
}


def test_the_default_policy_lets_everything_out() -> None:
    for job in (make_job(), EXACT, make_job("boosting"), make_job("poisson")):
        for spec in (make_spec(), make_spec("bank", "active")):
            check_consent_to_job(job, spec, strict())


@pytest.mark.parametrize(
    ("hidden", "message", "told"),
    [
        ("scores", "glm_exact.score_sums", "the active party would learn the rows' summed passive scores"),
        ("tags", "ecdh.tags", "the coordinator would learn how many ids the lists"),
    ],
)
def test_a_job_that_would_tell_more_is_refused(hidden: str, message: str, told: str) -> None:
    spec = make_spec(disclosures=ALL_BUT[hidden], partial_scores=True)
    refused(EXACT, spec, f"policy disclosures ({message}): party 'shop'", told, "expected 'a*'", "disclosures in the")


def test_nothing_may_be_told() -> None:
    refused(EXACT, make_spec(disclosures=()), "policy disclosures (align.terms)", "expected no message")


def test_the_roles_have_lists_of_their_own() -> None:
    """The active party tells nobody its scores: its policy need not let them out."""
    bank = make_spec("bank", "active", disclosures=("a*", "e*", "p*", "v*", "glm_exact.[!s]*", "glm_exact.s[!c]*"))
    check_consent_to_job(EXACT, bank, strict())


def test_with_auto_a_job_passes_while_one_key_holder_is_left() -> None:
    quadratic = ("a*", "e*", "p*", "s*", "v*", "glm_quadratic.*")
    spec = make_spec(disclosures=quadratic)
    check_consent_to_job(make_job(), spec, strict())
    check_key_holder_consent(make_terms("coordinator"), spec, strict())
    with pytest.raises(PolicyError, match=r"^policy disclosures \(glm_exact.*disclosures in the party's policy"):
        check_key_holder_consent(make_terms("active"), spec, strict())
    refused(make_job("poisson"), make_spec(disclosures=quadratic, partial_scores=True), "policy disclosures (glm_exact")
    only_exact = make_spec(disclosures=quadratic, key_holder=("active",))
    refused(make_job(), only_exact, "policy disclosures (glm_exact")
    refused(make_job(), make_spec(disclosures=quadratic[:-1]), "policy disclosures (glm_")


def make_terms(holder: KeyHolder, job: Job | None = None, rows: int = 9_000) -> Terms:
    columns = {party.name: 5 for party in PARTIES}
    return Terms(job or make_job(), holder, "", rows, 1, columns, consent=True)


@pytest.mark.parametrize(
    ("job", "spec", "words"),
    [
        (EXACT, make_spec(features=("x", "z"), columns=("x",)), ["policy columns: party 'shop'", "column 'z'"]),
        (EXACT, make_spec("bank", "active", label_dp_epsilon=1.0), ["policy label_dp_epsilon: party 'bank'"]),
        (
            make_job(privacy=Privacy(label_dp_epsilon=3.0)),
            make_spec("bank", "active", label_dp_epsilon=1.0),
            ["policy label_dp_epsilon: party 'bank'", "3, expected at most 1"],
        ),
        (EXACT, make_spec(scored_rows=29), ["policy scored_rows: party 'shop'", "30 rows", "at most 29"]),
        (
            make_job("boosting", boosting=Boosting(min_node_rows=10)),
            make_spec(),
            ["min node rows: party 'shop'", "min_node_rows in the party's policy"],
        ),
        (
            make_job("boosting", boosting=Boosting(min_bin_gap=1)),
            make_spec(),
            ["min bin gap: party 'shop'", "min_bin_gap in the party's policy"],
        ),
        (
            make_job("boosting", boosting=Boosting(top_rate=0.1, other_rate=0.1)),
            make_spec("bank", "active"),
            ["gradient sampling: party 'bank'", "gradient_sampling = true in its policy"],
        ),
        (
            Job(name="t", model="poisson", task="count", parties=PARTIES[:2]),
            make_spec(),
            ["single passive party: party 'shop'", "partial_scores = true in its policy"],
        ),
        (
            Job(name="t", model="linear", task="regression", parties=PARTIES[:2], privacy=Privacy(key_holder="active")),
            make_spec(),
            ["single passive party: party 'shop'", "partial_scores = true in its policy"],
        ),
        (EXACT, make_spec(max_rounds=99), ["policy max_rounds", "up to 100 rounds"]),
        (EXACT, make_spec(key_holder=("coordinator",)), ["policy key_holder"]),
        (EXACT, make_spec(key_bits=3072), ["policy key_bits"]),
        (EXACT, make_spec(models=("linear",)), ["policy models"]),
        (EXACT, make_spec(min_intersection=101), ["policy min_intersection"]),
    ],
)
def test_what_the_job_alone_decides_is_refused_before_anything_is_sent(
    job: Job, spec: PartySpec, words: list[str]
) -> None:
    refused(job, spec, *words)


@pytest.mark.parametrize(
    ("job", "spec"),
    [
        (EXACT, make_spec(features=("x",), columns=("x", "z"))),
        (make_job(privacy=Privacy(label_dp_epsilon=1.0)), make_spec("bank", "active", label_dp_epsilon=1.0)),
        (EXACT, make_spec(label_dp_epsilon=1.0)),  # a passive party has no labels
        (EXACT, make_spec(scored_rows=30)),
        (make_job(split=Split(test_fraction=0)), make_spec(scored_rows=0)),
        (EXACT, make_spec("bank", "active", scored_rows=0)),  # nobody learns its scores
        (make_job("boosting", boosting=Boosting(min_node_rows=10)), make_spec(min_node_rows=10)),
        (make_job("boosting", boosting=Boosting(min_node_rows=10)), make_spec("bank", "active")),
    ],
)
def test_what_a_policy_consents_to_passes(job: Job, spec: PartySpec) -> None:
    check_consent_to_job(job, spec, strict())


def test_columns_of_the_table_count_where_it_is_known() -> None:
    spec = make_spec(columns=("x",))
    check_consent_to_job(EXACT, spec, strict())
    check_consent_to_job(EXACT, spec, strict(), ["x"])
    with pytest.raises(PolicyError, match="policy columns: party 'shop' got column 'income'"):
        check_consent_to_job(EXACT, spec, strict(), ["x", "income"])


# once the rows and the terms are known


def test_rows_to_be_scored_are_judged_before_training() -> None:
    spec = make_spec(scored_rows=50)
    check_consent_to_rows(make_job(), Parts(100, 0, 50), spec, strict())
    with pytest.raises(PolicyError, match="policy scored_rows: party 'shop' got 51 rows"):
        check_consent_to_rows(make_job(), Parts(100, 0, 51), spec, strict())
    spent = strict()
    spent.budget.spend_rows(1, 30, [b"an earlier scoring"])
    with pytest.raises(PolicyError, match="80 rows"):
        check_consent_to_rows(make_job(), Parts(100, 0, 50), spec, spent)
    check_consent_to_rows(
        make_job(), Parts(100, 0, 30), spec, spent
    )  # a run that goes on: these rows are counted already
    check_consent_to_rows(make_job(), Parts(100, 0, 51), make_spec("bank", "active", scored_rows=50), strict())


def test_terms_are_judged_again_once_they_are_agreed() -> None:
    spec = make_spec(disclosures=("a*", "e*", "p*", "v*"))
    with pytest.raises(PolicyError, match="policy disclosures"):
        check_consent_to_terms(make_terms("active"), spec, strict(), 1000)
    with pytest.raises(PolicyError, match="policy disclosures"):
        check_consent_to_trees(make_terms("active", make_job("boosting")), spec, strict())
    with pytest.raises(PolicyError, match="policy key_holder"):
        check_consent_to_terms(make_terms("active"), make_spec(key_holder=("coordinator",)), strict(), 1000)
    with pytest.raises(PolicyError, match="small data"):
        check_consent_to_terms(make_terms("active", rows=500), make_spec(), strict(), 500)


# networks


def network_terms(columns: int = 3, consent: bool = False, **job: Any) -> Terms:
    made = network_job(**job)
    return Terms(made, "active", "", 9_000, 1, {party.name: columns for party in made.parties}, consent)


@pytest.mark.parametrize("enforce", [True, False])
@pytest.mark.parametrize("role", ["active", "passive"])
def test_mode_split_takes_every_partys_consent_before_and_after_terms(role: str, enforce: bool) -> None:
    name = "bank" if role == "active" else "shop"
    refusing, consenting = make_spec(name, role), make_spec(name, role, embedding_gradients=True)
    for ask in (
        lambda spec, guards: check_consent_to_job(network_job("split"), spec, guards),
        lambda spec, guards: check_consent_to_network(network_terms(mode="split"), spec, guards),
    ):
        guards = Guards(enforce=enforce, small_data=False)
        with pytest.raises(PolicyError, match=f"^embedding gradients: party '{name}'"):
            ask(refusing, guards)
        ask(consenting, guards)
        assert guards.warnings == []


def test_single_rows_leave_nobody_who_has_not_consented() -> None:
    """Nor in a prediction with a model of former days, nor where guards only warn."""
    job, here = network_job("split"), Guards(enforce=False, small_data=False)
    for name, role, messages in (
        ("shop", "passive", (split_learning.Wire.outputs, split_learning.Wire.scored)),
        ("bank", "active", (split_learning.Wire.gradients,)),
    ):
        for message in messages:
            with pytest.raises(PolicyError, match=f"^embedding gradients: party '{name}'"):
                consent.of(job, make_spec(name, role), here)(message)
            consent.of(job, make_spec(name, role, embedding_gradients=True), here)(message)
    with pytest.raises(PolicyError, match="^embedding gradients: party 'shop'"):
        consent.check_scoring(job, make_spec(), here)
    consent.check_scoring(job, make_spec("bank", "active"), here)
    assert here.warnings == []


def test_consent_to_mode_split_is_no_matter_of_the_other_mode() -> None:
    for spec in (make_spec(), make_spec("bank", "active")):
        check_consent_to_job(network_job(), spec, strict())
        check_consent_to_network(network_terms(columns=4), spec, strict())


def test_without_a_key_nobody_is_asked_for_one() -> None:
    spec = make_spec(key_bits=4096, key_holder=("coordinator",), embedding_gradients=True)
    check_consent_to_job(network_job("split"), spec, strict())
    check_key_holder_consent(network_terms(mode="split"), spec, strict())
    refused(network_job(), spec, "policy key_bits")
    with pytest.raises(PolicyError, match="policy key_bits"):
        check_key_holder_consent(network_terms(), spec, strict())


def test_epochs_are_the_rounds_of_a_network() -> None:
    refused(network_job(), make_spec(max_rounds=1), "policy max_rounds", "up to 2 rounds")
    refused(network_job(), make_spec(models=("boosting",)), "policy models", "'splitnn'")


def test_the_only_passive_party_of_a_network_must_consent() -> None:
    refused(network_job(parties=2), make_spec(), "single passive party: party 'shop'", "first-layer outputs")
    check_consent_to_job(network_job(parties=2), make_spec(partial_scores=True), strict())
    check_consent_to_job(network_job("split", parties=2), make_spec(embedding_gradients=True), strict())
    for spec in (make_spec(), make_spec("bank", "active")):
        with pytest.raises(PolicyError, match="single passive party: party 'shop'"):
            check_consent_to_network(network_terms(parties=2, columns=99), spec, strict())


@pytest.mark.parametrize("spec", [make_spec(), make_spec("bank", "active")])
def test_views_of_all_passive_columns_take_every_passive_partys_consent(spec: PartySpec) -> None:
    with pytest.raises(PolicyError, match=r"first-layer views: party 'bank' .* 6 views of 6 passive columns"):
        check_consent_to_network(network_terms(), spec, strict())
    guards = strict()
    check_consent_to_network(network_terms(consent=True), spec, guards)
    assert ["6 views of 6" in line for line in guards.warnings] == [True]
    guards = strict()
    check_consent_to_network(network_terms(columns=6), spec, guards)
    assert guards.warnings == []


def kept(path: Path, run: str) -> Guards:
    budget = Budget.open(path, run)
    budget.bind("ab" * 32)
    return Guards(enforce=True, small_data=False, budget=budget)


def test_epochs_of_earlier_runs_on_the_same_rows_count(tmp_path: Path) -> None:
    terms, path, share = network_terms(columns=6), tmp_path / "budgets.json", np.arange(18, dtype=np.uint64)
    first = kept(path, "first")
    check_consent_to_network(terms, make_spec(), first)
    for epoch in (1, 2):
        spend_epoch(terms, first, epoch, share.reshape(6, 3) + np.uint64(epoch))
    again = kept(path, "first")  # after a crash: the same run, the same shares
    check_consent_to_network(terms, make_spec(), again)
    spend_epoch(terms, again, 2, share.reshape(6, 3) + np.uint64(2))
    with pytest.raises(PolicyError, match="12 views of 12 passive columns .4 epochs of 3 units"):
        check_consent_to_network(terms, make_spec(), kept(path, "second"))
    third = kept(path, "third")
    spend_epoch(terms, third, 1, share.reshape(6, 3))
    with pytest.raises(PolicyError, match="12 views of 12 passive columns"):
        spend_epoch(terms, third, 2, share.reshape(6, 3))
    assert kept(path, "last").budget.evaluations(1, 3) == 4, "a refused epoch is not counted"


def test_the_active_party_counts_without_a_share(tmp_path: Path) -> None:
    guards = kept(tmp_path / "budgets.json", "first")
    for epoch in (1, 2, 2):
        spend_epoch(network_terms(columns=6), guards, epoch)
    assert guards.budget.evaluations(3, 3) == 3


# at the moment of sending


def test_a_message_that_is_not_let_out_does_not_leave() -> None:
    ask = consent.of(EXACT, make_spec(disclosures=ALL_BUT["scores"]), strict())
    for message in (align.Wire.terms, ecdh.Wire.points, glm_exact.Wire.products, glm_exact.Wire.gradient_scalars):
        ask(message)
    for message in (glm_exact.Wire.score_sums, glm_exact.Wire.scores):
        with pytest.raises(PolicyError, match=r"^policy disclosures \(glm_exact.score_sums\): party 'shop'"):
            ask(message)


def test_on_one_machine_it_warns_once_and_sends() -> None:
    guards = Guards(enforce=False, small_data=False)
    ask = consent.of(EXACT, make_spec(disclosures=ALL_BUT["scores"]), guards)
    for _ in range(3):
        ask(glm_exact.Wire.scores)
    assert len(guards.warnings) == 1
    assert (
        "between companies this would be refused because policy disclosures (glm_exact.score_sums)"
        in guards.warnings[0]
    )


def test_a_link_asks_before_the_first_byte() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.frames: list[Any] = []

        def send(self, frame: Any) -> None:
            self.frames.append(frame)

    network: Any = Recorder()
    endpoint = Endpoint("shop", {"shop": Passive, "coordinator": Coordinator}, network)
    endpoint.consent = consent.of(EXACT, make_spec(disclosures=("ecdh.*",)), strict())
    link = endpoint.link(Passive, Coordinator, "coordinator")
    with pytest.raises(PolicyError, match=r"policy disclosures \(align.terms\)"):
        link.send(align.Wire.terms, Revealed({}, np.zeros(1)))
    assert network.frames == []


def test_rounds_beyond_the_job_are_refused_at_their_message() -> None:
    job = make_job(training=Training(max_iter=3, newton_steps=1))
    ask = consent.of(job, make_spec(), Guards(enforce=False, small_data=False))
    for _ in range(2 + 2 * 3):
        ask(glm_quadratic.Wire.scalars)
    with pytest.raises(RemoteProtocolError, match=r"coordinator asks party 'shop' for more rounds .* 3.*max_rounds"):
        ask(glm_quadratic.Wire.scalars)


def test_messages_of_masked_words_are_listed_with_who_opens_them() -> None:
    """Masks are there to cancel in a sum, and somebody reads that sum."""
    for table in [*WIRES, boosting_scoring.Wire, splitnn.Wire, splitnn_scoring.Wire]:
        for message in vars(table).values():
            if isinstance(message, Message) and message.payload is Masked and not issubclass(message.dst, Active):
                assert message.discloses or message in consent.OPENED_BY, message
