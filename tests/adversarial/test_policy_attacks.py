"""Peers that go beyond what was agreed: each party's own process holds them to it, whatever the others say or do.

1. A coordinator that says a party consented, or that it has other columns.
2. A coordinator that tells which ids are common although too few are.
3. An active party, or a coordinator, that goes on after the job's rounds; trees beyond the job's number and depth.
4. Retrainings on one alignment, and resumes, that collect one equation after the other.
5. Rows scored beyond what a party allows, over several runs.
6. A message that a policy does not let out, however far the run has come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parties.budget import Budget, left
from parties.errors import PolicyError, RemoteProtocolError, VflError
from parties.link import COORDINATOR, Delivery, Endpoint, Link
from parties.local import run_local
from parties.policy import Guards, Policy, single_passive
from parties.spec import PartySpec
from parties.wire import Active, Control, Coordinator, Passive, Revealed
from psi.elements import elements_of
from psi.exchange import exchange_as_coordinator, exchange_as_party
from psi.settings import AlignmentSettings
from psi.source import ElementArray
from tests.glm.federations import Federation, make_federation, tamper
from tests.splitnn.layers import Layers, make_layers
from tests.trees.forests import Forests, make_frames, make_labels
from vfl import boosting_scoring, consent, glm, scoring
from vfl.glm import Fit
from vfl.job import Job, Member
from vfl.prepare import agree_terms, exchange_shapes_as_coordinator, exchange_shapes_as_party
from vfl.terms import Terms

Play = Callable[[Endpoint], Any]
ALIGNMENT = "ab" * 32


def make_spec(name: str, **policy: Any) -> PartySpec:
    role = "active" if name in ("bank", "active") else "passive"
    label = "y" if role == "active" else None
    return PartySpec(name=name, role=role, data="x.csv", id="id", label=label, policy=Policy(**policy))


def play(plays: dict[str, Play]) -> list[Delivery]:
    """Play to the end; returns what was delivered, also when a role refuses (see ``raised``)."""
    roles = {n: Coordinator if n == COORDINATOR else Active if n in ("bank", "active") else Passive for n in plays}
    deliveries: list[Delivery] = []
    try:
        run_local(plays, roles=roles, observe=deliveries.append)
    except VflError as error:
        error.deliveries = deliveries  # type: ignore[attr-defined]
        raise
    return deliveries


def sent(deliveries: list[Delivery], message: str, sender: str) -> int:
    return sum(d.message == message and d.sender == sender for d in deliveries)


# 1. another consent than the party's

JOB = Job(
    name="test",
    model="poisson",
    task="count",
    parties=(Member(name="bank", role="active"), Member(name="shop", role="passive")),
)


def shapes() -> dict[str, Play]:
    parties = {n: lambda e, n=n: exchange_shapes_as_party(e, JOB, make_spec(n), 4, 1, 900) for n in ("bank", "shop")}
    return {COORDINATOR: lambda e: exchange_shapes_as_coordinator(e, JOB, 900)} | parties


LIES = [("shop consent", True), ("shop columns", 40), ("shop consent", 0), ("shop outputs", 2)]


@pytest.mark.parametrize(("fact", "value"), LIES)
def test_a_coordinator_that_hands_round_other_facts_is_refused(
    fact: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(shapes())
    lie = lambda p: Revealed({**p.facts, fact: value}, p.values)  # noqa: E731
    tamper(monkeypatch, COORDINATOR, "prepare.shapes", lie)
    with pytest.raises(RemoteProtocolError, match=f"coordinator hands round other {fact.split()[1]} of 'shop' than"):
        play(shapes())


def test_a_coordinator_that_tells_one_party_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shop hears that the bank brings more columns: of passive ones, its score budget would grow."""
    honest, told = Link.send, []

    def send(self: Link[Any, Any], kind: Any, payload: Any) -> None:
        if kind.name == "prepare.shapes" and self.peer == "shop":
            told.append(payload.facts["bank columns"])
            payload = Revealed({**payload.facts, "bank columns": 400}, payload.values)
        honest(self, kind, payload)

    monkeypatch.setattr(Link, "send", send)
    with pytest.raises(RemoteProtocolError, match="coordinator told the parties different columns"):
        play(shapes())
    assert told == [4]


@pytest.mark.parametrize("answer", [False, None, 1, "yes"])
def test_an_active_party_that_does_not_agree_ends_the_run(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tamper(monkeypatch, "bank", "prepare.agreed", lambda _: Control({"same": answer}))
    with pytest.raises(RemoteProtocolError, match="different columns"):
        play(shapes())


@pytest.mark.parametrize("heard", [{}, {"shapes": None}, {"shapes": "0" * 64}, {"shapes": True}])
def test_a_passive_party_that_heard_otherwise_ends_the_run(heard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tamper(monkeypatch, "shop", "prepare.heard", lambda _: Control(heard))
    with pytest.raises(RemoteProtocolError, match="different columns"):
        play(shapes())


def test_with_the_lie_the_guard_would_have_kept_still() -> None:
    facts = {"bank columns": 4, "bank outputs": 1, "bank consent": False, "shop columns": 4, "shop outputs": 1}
    for told, guarded in ((False, True), (True, False)):
        terms = agree_terms(JOB, {**facts, "shop consent": told}, 900)
        verdict = single_passive(key_holder="active", party="shop", passive_parties=1, consent=terms.consent)
        assert (verdict is not None) == guarded


# 2. too few ids


def test_ids_in_common_below_the_limit_are_believed_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator takes the limit for lower than the parties do, or just says so."""
    lists = {"bank": [b"%d" % i for i in range(20)], "shop": [b"%d" % i for i in range(15, 35)]}
    sizes = {name: len(ids) for name, ids in lists.items()}
    strict, lax = AlignmentSettings(min_intersection=6), AlignmentSettings(min_intersection=5)
    ids = {name: ElementArray(elements_of(names)) for name, names in lists.items()}
    parties = {n: lambda e, n=n: exchange_as_party(e, ids[n], sizes, strict) for n in lists}
    with pytest.raises(RemoteProtocolError, match="coordinator sent a verdict on the alignment that contradicts"):
        play({COORDINATOR: lambda e: exchange_as_coordinator(e, sizes, lax)} | parties)


# 3. rounds and trees beyond the job's


def longer(key_holder: str, mine: dict[str, Any], theirs: dict[str, Any]) -> tuple[dict[str, Play], Federation]:
    """Passive parties that agreed to ``mine``; an active party and a coordinator that play ``theirs``."""
    options: dict[str, Any] = {"key_holder": key_holder, "enforce": True, "consent": True}
    honest, others = (make_federation("logistic", 120, (2, 4, 4), training=t, **options) for t in (mine, theirs))
    asking = {name: asked(play, honest, name) for name, play in honest.plays().items() if name.startswith("passive")}
    return others.plays() | asking, honest


def asked(play: Play, federation: Federation, name: str) -> Play:
    """With the party's consent asked for every message, as `vfl.session` does."""

    def with_consent(endpoint: Endpoint) -> Fit:
        endpoint.consent = consent.of(federation.job(), make_spec(name), federation.guards[name])
        return play(endpoint)

    return with_consent


def test_an_active_party_that_goes_on_gets_no_further_scores() -> None:
    plays, _ = longer("active", {"max_iter": 2, "tol": 1e-14}, {"max_iter": 9, "tol": 1e-14})
    with pytest.raises(
        RemoteProtocolError, match="active asks for evaluation 3 in a job of at most 2.*max_rounds"
    ) as e:
        play(plays)
    assert sent(e.value.deliveries, "glm_exact.scores", "passive-1") == 2


def test_a_coordinator_that_goes_on_gets_no_further_scalars() -> None:
    plays, _ = longer("coordinator", {"max_iter": 2, "tol": 1e-14}, {"max_iter": 9, "tol": 1e-14})
    with pytest.raises(
        RemoteProtocolError, match="coordinator asks party 'passive-.' for more rounds than .* = 2"
    ) as e:
        play(plays)
    assert sent(e.value.deliveries, "glm_quadratic.scalars", "passive-1") == 1 + 2 * 2


def test_newton_steps_beyond_the_job_open_no_scores() -> None:
    plays, _ = longer("coordinator", {"max_iter": 2}, {"max_iter": 2, "newton_steps": 1})
    with pytest.raises(VflError) as error:
        play(plays)
    assert not sent(error.value.deliveries, "glm_quadratic.training_scores", "passive-1")  # type: ignore[attr-defined]


FRAMES = make_frames(80, seed=2, columns=2)
LABELS = make_labels("binary", FRAMES)


def forests(**settings: Any) -> Forests:
    return Forests(
        "binary", FRAMES, LABELS, settings={"n_estimators": 2, "max_depth": 2, "min_child_weight": 0.0} | settings
    )


@pytest.mark.parametrize("beyond", [{"n_estimators": 3}, {"max_depth": 3}])
def test_trees_beyond_the_job_get_no_further_sums(beyond: dict[str, int]) -> None:
    honest, greedy = forests(), forests(**beyond)
    with pytest.raises(RemoteProtocolError, match="bank (announced a tree without|sent 'boosting.outcome')") as error:
        play(greedy.plays() | {"shop-1": honest.plays()["shop-1"]})
    assert sent(error.value.deliveries, "boosting.candidates", "shop-1") <= 2 * 2  # type: ignore[attr-defined]


# 4. equations over runs


def train(folder: Path, run: str, rounds: int, *, kept: bool = True) -> int:
    """Train once more on the same rows, the active party minding no budget; how often scores were opened."""
    training = {"max_iter": rounds, "tol": 1e-14}
    federation = make_federation(
        "logistic", 100, (2, 3, 2), training=training, enforce=True, consent=False, lax=["active"]
    )
    plays = federation.plays()
    for name in ("passive-1", "passive-2") if kept else ():
        budget = Budget.open(folder / name, run)
        budget.bind(ALIGNMENT)
        federation.guards[name] = replace(federation.guards[name], budget=budget)
    return sent(play(plays), "glm_exact.scores", "passive-1")


def test_retraining_adds_up_to_the_columns_unless_it_is_counted(tmp_path: Path) -> None:
    """Five passive columns: three and three evaluations give their column space; the fifth is refused."""
    assert train(tmp_path, "", 3, kept=False) + train(tmp_path, "", 3, kept=False) > 5
    assert train(tmp_path, "monday", 3) == 3
    with pytest.raises(PolicyError, match="active asks for more evaluations.*partial_scores = true") as error:
        train(tmp_path, "tuesday", 3)
    assert sent(error.value.deliveries, "glm_exact.scores", "passive-1") == 1  # type: ignore[attr-defined]
    (account,) = left(tmp_path / "passive-1")
    assert (account.equations, account.equations_left, account.runs) == (4, 0, 2)
    with pytest.raises(PolicyError, match="more evaluations"):
        train(tmp_path, "wednesday", 1)


def test_resuming_again_and_again_opens_no_more_equations(tmp_path: Path) -> None:
    """The same evaluation with other directions, a restart between any two."""
    federation = make_federation("logistic", 100, (2, 3, 2), consent=False)
    terms, block, rng = federation.terms(), federation.block("passive-1"), np.random.default_rng(0)
    seen: list[np.ndarray] = []
    with pytest.raises(PolicyError, match="score budget"):
        for _ in range(20):
            budget = Budget.open(tmp_path / "budget.json", "one run")
            budget.bind(ALIGNMENT)
            guards = Guards(enforce=True, small_data=True, budget=budget)
            seen.append(glm.disclosed_scores(terms, guards, block, rng.normal(size=(3, 1)), 1))
    assert len(seen) == 4


def test_an_honest_resume_repeats_to_the_last_bit(tmp_path: Path) -> None:
    """Rounding begins at the fifth equation: it does so again, whatever was opened before the crash."""
    federation = make_federation("logistic", 100, (2, 3, 2), consent=True)
    terms, block, rng = federation.terms(), federation.block("passive-1"), np.random.default_rng(0)
    story = [rng.normal(size=(3, 1)) for _ in range(7)]

    def opened(first: int) -> list[bytes]:
        budget = Budget.open(tmp_path / "budget.json", "one run")
        budget.bind(ALIGNMENT)
        guards = Guards(enforce=True, small_data=True, budget=budget)
        return [
            glm.disclosed_scores(terms, guards, block, w, n).tobytes() for n, w in enumerate(story, 1) if n >= first
        ]

    before = opened(1)
    assert opened(3) == before[2:]
    exact = [glm.forward(block, w).ravel().tobytes() for w in story]
    assert [a == b for a, b in zip(before, exact, strict=True)] == [True] * 4 + [False] * 3


@dataclass
class Counted(Layers):
    """A network whose active party minds no budget, and whose passive parties have not consented to its views."""

    budgets: dict[str, Budget] = field(default_factory=dict)

    @property
    def terms(self) -> Terms:
        return replace(super().terms, consent=False)

    def guards(self, name: str) -> Guards:
        if name == "bank":
            return super().guards(name)
        return Guards(enforce=True, small_data=True, budget=self.budgets.get(name, Budget()))


def train_network(folder: Path, run: str, epochs: int, *, kept: bool = True) -> int:
    """Train a network once more on the same rows; in how many epochs a passive party answered."""
    made = make_layers(40, (1, 2, 3))
    network = Counted(made.blocks, made.y, settings={"epochs": epochs, "units": 1, "batch_size": 40})
    for name in network.names[1:] if kept else ():
        network.budgets[name] = Budget.open(folder / name, run)
        network.budgets[name].bind(ALIGNMENT)
    return sent(play(network.plays()), "splitnn.rests", "shop-1")


def test_retraining_a_network_adds_up_to_the_columns_too(tmp_path: Path) -> None:
    """Five passive columns, one unit: every epoch is a view of them, and the fifth is refused."""
    assert train_network(tmp_path, "", 3, kept=False) + train_network(tmp_path, "", 3, kept=False) > 5
    assert train_network(tmp_path, "monday", 3) == 3
    with pytest.raises(PolicyError, match="^first-layer views: party 'bank' would open up to 5 views of 5") as error:
        train_network(tmp_path, "tuesday", 3)
    assert sent(error.value.deliveries, "splitnn.rests", "shop-1") == 1  # type: ignore[attr-defined]
    (account,) = left(tmp_path / "shop-1")
    assert (account.equations, account.equations_left, account.runs) == (4, 0, 2)


# 5. rows scored


def score(folder: Path, run: str, rows: int, policy: Policy) -> int:
    """Score the last rows of a federation; how many messages of scores left a passive party."""
    federation = make_federation("logistic", 100, (2, 3, 2))
    terms = federation.terms()
    fits = {n: Fit(np.full((federation.block(n).width, 1), 0.5), 0, (), 0, True) for n in federation.names}
    blocks = {n: replace(federation.block(n), rows=100 - rows) for n in federation.names}

    def passive(endpoint: Endpoint) -> None:
        name = endpoint.name
        budget = Budget.open(folder / name, run)
        budget.bind(ALIGNMENT)
        guards = Guards(enforce=True, small_data=True, budget=budget)
        scoring.score_as_passive(endpoint, terms, blocks[name], fits[name], guards, policy)

    plays: dict[str, Play] = dict.fromkeys(federation.names[1:], passive)
    plays["active"] = lambda e: scoring.score_as_active(e, terms, blocks["active"], fits["active"])
    plays[COORDINATOR] = lambda e: scoring.score_as_coordinator(e, terms, rows)
    return sent(play(plays), "scoring.partial", "passive-1")


def test_rows_scored_add_up_over_runs(tmp_path: Path) -> None:
    policy = Policy(scored_rows=100)
    assert score(tmp_path, "one", 60, policy) == 1
    assert score(tmp_path, "one", 60, policy) == 1, "a run that goes on scores the same rows again"
    with pytest.raises(
        PolicyError, match="^policy scored_rows: party 'passive-.' got 110 rows .* at most 100"
    ) as error:
        score(tmp_path, "two", 50, policy)
    assert not sent(error.value.deliveries, "scoring.partial", "passive-1")  # type: ignore[attr-defined]
    assert score(tmp_path, "two", 40, policy) == 1
    assert left(tmp_path / "passive-1", 100)[0].rows_left == 0


def test_trees_answer_for_no_more_rows_either(tmp_path: Path) -> None:
    grown = forests()
    fits = grown.fit()
    terms, parts = grown.terms(), grown.parts()

    def once(run: str, rows: int) -> list[Delivery]:
        def passive(endpoint: Endpoint) -> None:
            budget = Budget.open(tmp_path / "budget.json", run)
            budget.bind(ALIGNMENT)
            guards, policy = Guards(enforce=True, small_data=True, budget=budget), Policy(scored_rows=100)
            own = (fits["shop-1"].splits, parts[1].features, parts[1].codes[:rows])
            boosting_scoring.score_as_passive(endpoint, terms, *own, guards, policy)

        bank = parts[0].features, parts[0].codes[:rows]
        return play(
            {
                COORDINATOR: lambda e: None,
                "bank": lambda e: boosting_scoring.score_as_active(e, terms, fits["bank"], *bank),
                "shop-1": passive,
            }
        )

    assert sent(once("one", 80), "boosting_scoring.sides", "shop-1") == 2
    assert sent(once("one", 80), "boosting_scoring.sides", "shop-1") == 2
    with pytest.raises(PolicyError, match="policy scored_rows: party 'shop-1' got 101 rows") as error:
        once("two", 21)
    assert not sent(error.value.deliveries, "boosting_scoring.sides", "shop-1")  # type: ignore[attr-defined]
    assert sent(once("two", 20), "boosting_scoring.sides", "shop-1") == 2


# 6. a message that the policy does not let out


def test_the_last_message_of_a_run_is_asked_for_like_the_first() -> None:
    grown = forests()
    plays = grown.plays()
    mine = plays["shop-1"]

    def reluctant(endpoint: Endpoint) -> Any:
        spec = make_spec("shop-1", disclosures=("boosting.*",))
        endpoint.consent = consent.of(grown.job, spec, Guards(enforce=True, small_data=False))
        return mine(endpoint)

    with pytest.raises(PolicyError, match=r"^policy disclosures \(importance.feature_gains\): party 'shop-1'") as error:
        play(plays | {"shop-1": reluctant})
    deliveries = error.value.deliveries  # type: ignore[attr-defined]
    assert sent(deliveries, "importance.split_gains", "bank") == 1
    assert not sent(deliveries, "importance.feature_gains", "shop-1")
