"""One-sided training: the model is that of the members alone, and the passive party's messages know no member."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest

from parties.errors import PolicyError, RemoteProtocolError
from parties.link import COORDINATOR, Delivery, Endpoint
from parties.local import run_local
from parties.policy import Guards, Policy
from parties.wire import Active, Bitmaps, Coordinator, Encrypted, Message, Passive, Positions
from tests.glm.federations import Federation, make_federation, tamper
from vfl import glm, glm_quadratic, scoring_one_sided
from vfl.glm import Block, Fit
from vfl.job import Alignment, Job
from vfl.members import Members
from vfl.terms import Terms

ROLES = {COORDINATOR: Coordinator, "active": Active, "passive-1": Passive}
MODELS = ("logistic", "linear")


@dataclass
class OneSided:
    """A federation of two whose passive party has rows that the active one lacks, and an order of its own."""

    inner: Federation
    members: Members
    passive: Block = field(repr=False)
    deliveries: list[Delivery] = field(default_factory=list)

    def job(self) -> Job:
        return msgspec.structs.replace(self.inner.job(), alignment=Alignment(one_sided=True))

    def terms(self) -> Terms:
        common = self.inner.terms()
        return Terms(self.job(), "coordinator", "", self.members.rows, 1, common.columns, consent=False)

    def plays(self) -> dict[str, Any]:
        terms, guards = self.terms(), Guards(enforce=False, small_data=True)

        def active(endpoint: Endpoint) -> Fit:
            target = glm.make_target(self.inner.model, self.inner.y, self.inner.weights, 1)
            block = self.inner.block("active")
            return glm_quadratic.active(endpoint, terms, block, target, guards, lambda *_: None, self.members)

        return {
            "active": active,
            "passive-1": lambda end: glm_quadratic.passive(end, terms, self.passive, guards),
            COORDINATOR: lambda end: glm_quadratic.coordinator(end, terms, lambda *_: None),
        }

    def fit(self) -> dict[str, Fit]:
        return run_local(self.plays(), roles=ROLES, observe=self.deliveries.append)


def make(model: str, rows: int = 150, others: int = 90, seed: int = 0, **options: Any) -> OneSided:
    """``rows`` members among ``others``, the passive party's order drawn at random."""
    training = {"tol": 1e-13} | options.pop("training", {})
    inner = make_federation(model, rows, (2, 3), seed=seed, key_holder="coordinator", training=training, **options)
    rng = np.random.default_rng(seed + 1)
    places = rng.permutation(rows + others)[:rows]
    own = inner.block("passive-1")
    integers = rng.integers(-20_000, 20_000, (rows + others, own.width))
    integers[places] = own.training
    passive = Block(integers, own.scale_bits, own.penalty, rows=rows + others)
    return OneSided(inner, Members(places, rows + others), passive)


@pytest.mark.parametrize("curvature", ["mean", "row"])
@pytest.mark.parametrize("model", MODELS)
def test_the_model_is_that_of_the_members(model: str, curvature: str) -> None:
    case = make(model, training={"curvature": curvature})
    fits, plain = case.fit(), case.inner.fit()
    for name in ("active", "passive-1"):
        assert fits[name].converged
        np.testing.assert_allclose(fits[name].weights, plain[name].weights, rtol=0, atol=2e-5)
    # curvatures per row have 16 bits there and 40 here
    assert fits["active"].losses[-1] == pytest.approx(
        plain["active"].losses[-1], abs=1e-7 if curvature == "row" else 1e-9
    )


def test_a_linear_model_is_the_pooled_one() -> None:
    case = make("linear", rows=200, others=500)
    assert case.inner.error(case.fit()) < 2e-5  # columns have 16 bits


def test_sample_weights_count() -> None:
    weights = np.random.default_rng(5).uniform(0.5, 2, 150)
    case = make("linear", weights=weights)
    assert case.inner.error(case.fit()) < 2e-5


def test_nothing_that_reaches_the_passive_party_depends_on_who_is_a_member() -> None:
    """Other members, fewer of them: the same messages, of the same sizes, but for the rounds that they take."""
    shapes = []
    for rows, others in ((150, 90), (100, 140)):
        case = make("logistic", rows, others, training={"max_iter": 3, "tol": 1e-300})
        case.fit()
        seen = [d for d in case.deliveries if d.receiver == "passive-1" and not d.message.startswith("greeting.")]
        assert not any(isinstance(d.payload, (Bitmaps, Positions)) for d in seen)
        shapes.append([(d.message, len(d.payload.body) if isinstance(d.payload, Encrypted) else 0) for d in seen])
    assert shapes[0] == shapes[1]
    assert any(size == 240 for _, size in shapes[0])


def test_others_are_encrypted_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the coordinator's key: what the active party sends is zero at every row that is no member, fresh each."""
    from vfl.paillier import decrypt, from_bytes

    keys: list[Any] = []
    honest = glm_quadratic.generate_keypair

    def kept(*args: Any, **options: Any) -> Any:
        keys.append(honest(*args, **options))
        return keys[-1]

    monkeypatch.setattr(glm_quadratic, "generate_keypair", kept)
    case = make("linear", training={"max_iter": 2})
    case.fit()
    sent = [d.payload for d in case.deliveries if d.message == "glm_quadratic.direction_scores"]
    others = np.setdiff1d(np.arange(case.members.rows), case.members.places)
    assert sent
    for payload in sent:
        opened = decrypt(keys[0], from_bytes(keys[0].public, payload.body, count=case.members.rows))
        assert not any(opened[row] for row in others)
        assert all(opened[row] for row in case.members.places)
        assert len({body.tobytes() for body in payload.body}) == len(payload.body)


def score(case: OneSided, fits: dict[str, Fit], chosen: np.ndarray, policy: Policy | None = None, **recorders: Any):
    """The joint scores of some members, in the active party's order."""
    terms, guards = case.terms(), Guards(enforce=True, small_data=True)
    whole = case.inner.block("active")
    block = Block(whole.integers[chosen], whole.scale_bits, whole.penalty, rows=0)
    places = case.members.places[chosen]

    def active(end: Endpoint) -> Any:
        return scoring_one_sided.score_as_active(end, terms, block, fits["active"], places, case.members.rows)

    def passive(end: Endpoint) -> None:
        own = policy or Policy()
        scoring_one_sided.score_as_passive(end, terms, case.passive, fits["passive-1"], guards, own)

    plays = {
        "active": active,
        "passive-1": passive,
        COORDINATOR: lambda end: scoring_one_sided.score_as_coordinator(end, terms, len(chosen)),
    }
    return run_local(plays, roles=ROLES, **recorders)["active"]


@pytest.fixture(scope="module")
def trained() -> tuple[OneSided, dict[str, Fit]]:
    case = make("linear")
    return case, case.fit()


def test_scores_are_the_joint_ones(trained: tuple[OneSided, dict[str, Fit]]) -> None:
    case, fits = trained
    chosen = np.array([3, 149, 0, 77])
    own = glm.forward(case.inner.block("active"), fits["active"].weights, slice(0, None))[chosen]
    other = glm.forward(case.passive, fits["passive-1"].weights, slice(0, None))[case.members.places[chosen]]
    expected = np.ldexp(glm.to_scores(own + other), fits["active"].label_bits)
    assert score(case, fits, chosen).tobytes() == expected.tobytes()


def test_scoring_says_what_its_docstring_says(trained: tuple[OneSided, dict[str, Fit]]) -> None:
    case, fits = trained
    seen: list[Delivery] = []
    score(case, fits, np.arange(9), observe=seen.append)
    told = [d for d in seen if not d.message.startswith("greeting.")]
    table = {m.name: m for m in vars(scoring_one_sided.Wire).values() if isinstance(m, Message)}
    assert {d.message for d in told} == set(table)
    doc = " ".join((scoring_one_sided.__doc__ or "").split())
    assert all(message.discloses in doc for message in table.values())
    sizes = {(d.receiver, d.message): len(d.payload.body) for d in told if isinstance(d.payload, Encrypted)}
    assert sizes == {("active", "scoring_one_sided.scores"): 240, (COORDINATOR, "scoring_one_sided.chosen"): 9}
    assert [d.message for d in told if d.receiver == "passive-1"] == ["scoring_one_sided.key"]


def test_what_the_coordinator_opens_is_masked(trained: tuple[OneSided, dict[str, Fit]]) -> None:
    case, fits = trained
    opened = []
    for _ in range(2):
        seen: list[Delivery] = []
        score(case, fits, np.arange(9), observe=seen.append)
        opened.append(next(d.payload.body for d in seen if d.message == "scoring_one_sided.opened"))
    assert not (opened[0] == opened[1]).all(axis=1).any()


def test_all_rows_count_in_the_policy(trained: tuple[OneSided, dict[str, Fit]]) -> None:
    case, fits = trained
    with pytest.raises(PolicyError, match="240 rows scored jointly in all, expected at most 239"):
        score(case, fits, np.arange(2), Policy(scored_rows=239))


@pytest.mark.parametrize(
    ("sender", "message", "text"),
    [
        ("passive-1", "scoring_one_sided.scores", "passive-1"),
        ("active", "scoring_one_sided.chosen", "active"),
    ],
)
def test_missing_rows_name_their_sender(
    trained: tuple[OneSided, dict[str, Fit]], monkeypatch: pytest.MonkeyPatch, sender: str, message: str, text: str
) -> None:
    case, fits = trained
    tamper(monkeypatch, sender, message, lambda payload: Encrypted(payload.key, payload.body[:-1]))
    with pytest.raises(RemoteProtocolError, match=f"ciphertexts from {text}"):
        score(case, fits, np.arange(5))
