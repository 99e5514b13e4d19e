"""What silos tell others: a job's list holds all that runs really send and nothing else, and policies are heeded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from parties.errors import PolicyError
from parties.policy import Guards, Policy
from parties.spec import PartySpec
from parties.wire import Active, LabelSilo, Masked, Message, Passive
from psi import ecdh, silo_rows, silos, verdict
from tests.silos.siloed import Siloed
from vfl import (
    boosting_silos,
    boosting_silos_scoring,
    consent,
    glm_silos,
    horizontal,
    scoring_silos,
    secure_sum,
    siblings,
)
from vfl.alignment_consent import roles_of, unsaid
from vfl.glm_part import check_consent_to_terms
from vfl.job import Job, Member, Privacy, Training
from vfl.job_file import load_scenario
from vfl.prepare import check_consent_to_job
from vfl.run import run_scenario
from vfl.terms import Terms

SHORT = {"max_iter": 2}
TREES = {"n_estimators": 2, "max_depth": 2, "max_bin": 8}
RUNS = {
    "glm, both sides": Siloed(hospitals=3, insurer=2, training=SHORT),
    "glm, labels whole": Siloed(hospitals=0, insurer=3, training=SHORT),
    "glm, one silo each": Siloed(hospitals=1, insurer=1, training=SHORT),
    "softmax, labels alone": Siloed("softmax", hospitals=2, insurer=0, training=SHORT),
    "trees, both sides": Siloed("boosting", hospitals=2, insurer=3, task="binary", training=TREES),
    "trees, labels whole": Siloed("boosting", hospitals=0, insurer=2, task="binary", training=TREES),
    "horizontal": Siloed(hospitals=3, insurer=None, training=SHORT),
    "averaging": Siloed(hospitals=3, insurer=None, training={"aggregation": "fedavg", "rounds": 2}),
}
TOLD_SOMETIMES = {"align.plan", "secure_sum.answered"}


def ledger(siloed: Siloed, folder: Path) -> tuple[Job, set[tuple[str, str]]]:
    """The job, and (sender, message) of every message that disclosed something."""
    siloed.write(folder)
    scenario, out = load_scenario(folder), folder / "out"
    run_scenario(scenario, out, lambda event: None, baselines=False, in_process=True)
    entries = [msgspec.json.decode(line) for line in (out / "ledger.jsonl").read_bytes().splitlines()]
    return scenario.job, {(entry["sender"], entry["message"]) for entry in entries if entry["discloses"]}


def listed(job: Job, name: str) -> set[str]:
    return {m.name for m in consent.disclosures_of(job, roles_of(job)[name], "active", party=name)}


@pytest.mark.parametrize("case", RUNS)
def test_the_list_of_each_party_covers_what_it_sends(case: str, tmp_path: Path) -> None:
    job, sent = ledger(RUNS[case], tmp_path)
    names = [party.name for party in job.parties]
    for name in names:
        own = {message for sender, message in sent if sender == name}
        assert own <= listed(job, name), f"{name}: {own - listed(job, name)}"
    told, every = {message for _, message in sent}, set().union(*(listed(job, name) for name in names))
    assert every - told <= TOLD_SOMETIMES


PEOPLE = tuple(
    Member(name=name, role=role)
    for name, role in (
        ("bank.east", "active"),
        ("bank.west", "active"),
        ("shop", "passive"),
        ("clinics.north", "passive"),
        ("clinics.south", "passive"),
        ("clinics.west", "passive"),
    )
)


def job(*without: str, model: str = "logistic", **sections: Any) -> Job:
    parties = tuple(member for member in PEOPLE if member.holder not in without)
    return Job(name="test", model=model, task="binary", parties=parties, **sections)


def spec(name: str, **policy: Any) -> PartySpec:
    role = next(member.role for member in PEOPLE if member.name == name)
    label = "y" if role == "active" else None
    return PartySpec(name=name, role=role, data="x.csv", id="id", label=label, policy=Policy(**policy))


def strict() -> Guards:
    return Guards(enforce=True, small_data=False)


def refusal(checked: Job, of: PartySpec) -> str:
    with pytest.raises(PolicyError) as caught:
        check_consent_to_job(checked, of, strict())
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_roles_of_a_label_holder_with_silos() -> None:
    assert [role.__name__ for role in roles_of(job()).values()] == ["Active", "LabelSilo", *["Passive"] * 4]


def test_a_party_without_siblings_need_not_let_out_what_silos_add_up() -> None:
    assert not {name for name in listed(job(), "shop") if name.startswith("siblings.")}
    assert {"siblings.total", "siblings.named", "siblings.all_named"} <= listed(job(), "clinics.south")


def test_what_label_silos_hear_is_not_listed_where_there_are_none() -> None:
    whole = Job(name="test", model="logistic", task="binary", parties=(Member(name="bank", role="active"), *PEOPLE[2:]))
    heard = {"glm_silos.probe", "boosting_silos.gains", "boosting_silos.told", "boosting_silos_scoring.told"}
    for model in ("logistic", "boosting"):
        for name in ("bank", "shop"):
            of = msgspec.structs.replace(whole, model=model)
            assert not heard & listed(of, name)
    assert "glm_silos.probe" in listed(job(), "bank.east")
    assert {"boosting_silos.gains", "boosting_silos.told"} <= listed(job(model="boosting"), "clinics.north")


def test_only_the_guide_tells_where_rows_stand() -> None:
    told = {name: silo_rows.Wire.rows.name in listed(job(), name) for name in roles_of(job())}
    assert [name for name, tells in told.items() if tells] == ["shop"], "the first party of one list"
    assert silo_rows.Wire.rows.name in listed(job("shop"), "bank.east"), "where all have silos"


def test_repetitions_are_of_silos_that_refuse_them() -> None:
    assert silos.Wire.repeats.name in listed(job(), "clinics.north")
    assert silos.Wire.repeats.name not in listed(job(), "shop")
    assert silos.Wire.numbers.name in listed(job(), "shop"), "which ids are common, told to the silos"


def test_a_number_alone_is_all_that_cardinality_tells() -> None:
    for role, name in ((Active, "bank.east"), (LabelSilo, "bank.west"), (Passive, "shop")):
        left_out = unsaid(job(), role, cardinality=True, party=name)
        assert {verdict.Wire.matches, silos.Wire.numbers, silo_rows.Wire.rows} <= set(left_out)


@pytest.mark.parametrize(
    ("name", "policy", "words"),
    [
        ("clinics.north", {"disclosures": ("align.*", "ecdh.*")}, ["policy disclosures (", "'clinics.north'"]),
        ("clinics.north", {"max_rounds": 3}, ["policy max_rounds: party 'clinics.north'"]),
        ("clinics.north", {"models": ("boosting",)}, ["policy models", "'logistic'"]),
        ("clinics.north", {"key_bits": 3072}, ["policy key_bits"]),
        ("bank.west", {}, ["two silos: party 'bank.west' may be one of two silos of 'bank'", "two_silos = true"]),
        ("bank.west", {"two_silos": True, "label_dp_epsilon": 1.0}, ["policy label_dp_epsilon", "'bank.west'"]),
    ],
    ids=["disclosures", "rounds", "models", "key", "two silos", "labels"],
)
def test_a_silos_policy_is_asked(name: str, policy: dict[str, Any], words: list[str]) -> None:
    message = refusal(job(), spec(name, **policy))
    assert [word for word in words if word not in message] == [], message


def test_what_siblings_learn_is_named_as_theirs() -> None:
    everything = ("align.*", "ecdh.*", "verdict.*", "silo*", "prepare.*", "glm*", "row*", "scoring*")
    message = refusal(job(), spec("clinics.north", disclosures=everything))
    assert "the other silos of its party would learn sums over all silos of its party" in message
    check_consent_to_job(job(), spec("clinics.north", disclosures=(*everything, "siblings.*")), strict())
    check_consent_to_job(job(), spec("shop", disclosures=everything, partial_scores=True), strict())


def test_the_policy_is_asked_again_at_every_message() -> None:
    ask = consent.of(job(), spec("clinics.south", disclosures=("ecdh.*", "verdict.*", "silos.*")), strict())
    ask(ecdh.Wire.points)
    for message in (siblings.Wire.part, siblings.Wire.total, glm_silos.Wire.scores, scoring_silos.Wire.partial):
        with pytest.raises(PolicyError, match=r"policy disclosures"):
            ask(message)


def test_three_silos_need_no_consent_and_two_do() -> None:
    check_consent_to_job(job(), spec("clinics.north"), strict())
    check_consent_to_job(job(), spec("bank.west", two_silos=True), strict())
    loose = Guards(enforce=False, small_data=False)
    check_consent_to_job(job(), spec("bank.west"), loose)
    assert ["two silos" in line for line in loose.warnings] == [True]


# silos of one holder alone


def alone(**sections: Any) -> Job:
    return Job(name="test", model="logistic", task="binary", parties=tuple(_CLINICS), **sections)


_CLINICS = [msgspec.structs.replace(member, role="active") for member in PEOPLE[3:]]


def clinic(**policy: Any) -> PartySpec:
    return PartySpec(name="clinics.north", role="active", data="x.csv", label="y", policy=Policy(**policy))


def test_where_nothing_is_aligned_no_line_on_alignment_or_keys_is_asked() -> None:
    check_consent_to_job(alone(), clinic(min_intersection=5000, key_bits=4096, alignment=("mpsi",)), strict())
    assert {name.partition(".")[0] for name in listed(alone(), "clinics.north")} == {
        "siblings",
        "silo_counts",
        "horizontal",
        "secure_sum",
    }


@pytest.mark.parametrize(
    ("policy", "sections", "words"),
    [
        ({"max_rounds": 20}, {"training": Training(aggregation="fedavg")}, ["policy max_rounds", "up to 50 rounds"]),
        ({"models": ("linear",)}, {}, ["policy models"]),
        ({"max_dp_epsilon": 2}, {}, ["policy max_dp_epsilon", "updates without noise"]),
        (
            {"max_dp_epsilon": 2},
            {"privacy": Privacy(dp="local", dp_epsilon=8)},
            ["epsilon 8 of privacy.dp", "at most 2"],
        ),
        ({"disclosures": ("siblings.*", "silo_counts.*")}, {}, ["policy disclosures (horizontal."]),
        ({}, {"training": Training(aggregation="simple", min_silos=2)}, ["two silos", "'clinics'"]),
        ({}, {"training": Training(aggregation="simple", client_fraction=0.5)}, ["two silos", "'clinics'"]),
    ],
    ids=["rounds", "models", "no noise", "little noise", "disclosures", "two may be left", "two are drawn"],
)
def test_what_a_silo_may_refuse(policy: dict[str, Any], sections: dict[str, Any], words: list[str]) -> None:
    message = refusal(alone(**sections), clinic(**policy))
    assert [word for word in words if word not in message] == [], message


def test_enough_noise_is_accepted() -> None:
    noisy = alone(privacy=Privacy(dp="central", dp_epsilon=2))
    check_consent_to_job(noisy, clinic(max_dp_epsilon=2), strict())
    later = alone(privacy=Privacy(dp="central", dp_noise=1.0))  # its epsilon follows from the rows
    check_consent_to_job(later, clinic(max_dp_epsilon=2), strict())


# tables


TABLES = [
    glm_silos.Wire,
    scoring_silos.Wire,
    boosting_silos.Wire,
    boosting_silos_scoring.Wire,
    siblings.Wire,
    horizontal.Wire,
    secure_sum.Wire,
]


@pytest.mark.parametrize("table", TABLES, ids=[table.__module__.rpartition(".")[2] for table in TABLES])
def test_masked_words_are_listed_with_who_opens_them(table: type) -> None:
    messages = [message for message in vars(table).values() if isinstance(message, Message)]
    masked = [message for message in messages if message.payload is Masked and not issubclass(message.dst, Active)]
    assert [message for message in masked if not message.discloses and message not in consent.OPENED_BY] == []


def test_the_only_passive_holder_must_consent_whoever_else_is_a_silo() -> None:
    """With silos the active party holds the key, so that it opens what one passive holder's silos add up."""
    one = job("shop", model="linear")
    assert "single passive party: party 'clinics.west' is the only passive party" in refusal(one, spec("clinics.west"))
    check_consent_to_job(one, spec("clinics.west", partial_scores=True), strict())
    assert "policy key_holder" in refusal(one, spec("clinics.west", key_holder=("coordinator",)))
    columns = dict.fromkeys(roles_of(one), 3)
    for asked in ("clinics.west", "bank.east"):
        terms = Terms(job=one, key_holder="active", reason="", rows=9000, outputs=1, columns=columns, consent=False)
        with pytest.raises(PolicyError, match="single passive party"):
            check_consent_to_terms(terms, spec(asked, two_silos=True), strict(), 9000)
    check_consent_to_job(job(model="linear"), spec("clinics.west"), strict())


def test_a_silo_is_not_asked_for_rows_that_its_siblings_may_have() -> None:
    check_consent_to_job(job(), spec("clinics.west", scored_rows=5), strict())
    assert "policy scored_rows: party 'shop' got 30 rows" in refusal(job(), spec("shop", scored_rows=5))
