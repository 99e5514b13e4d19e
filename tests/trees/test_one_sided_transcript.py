"""What crosses in one-sided boosting: the Wire tables, and nothing towards the passive party that tells members."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from parties.errors import LocalProtocolError, RemoteProtocolError
from parties.link import COORDINATOR
from parties.wire import TELLING, Active, Bitmaps, Control, Coordinator, Encrypted, Message, Passive, Positions
from tests.glm.federations import tamper
from tests.trees.one_sided_forests import ROLES, OneSidedForests, make_one_sided, score_one_sidedly
from tests.trees.test_boosting_transcript import BESIDE_MESSAGES, opened, table, within, words
from vfl import boosting, boosting_one_sided, boosting_scoring_one_sided, candidates, importance
from vfl.paillier import generate_keypair
from vfl.trees.bitmaps import pack_bits
from vfl.trees.grow import Limits

KEY = generate_keypair(512, insecure_test_mode=True)
WIRE = table(boosting_one_sided, importance)


@dataclass
class Run:
    """A run under `KEY`, with what it sent."""

    forests: OneSidedForests
    fits: dict[str, Any]
    rows_drawn: list[Any] = field(default_factory=list)

    def sent(self, name: str = "", to: str | None = None) -> list[Any]:
        return [
            d
            for d in self.forests.deliveries
            if d.message.endswith(name) and to in (None, d.receiver) and not d.message.startswith("greeting.")
        ]


def fit(forests: OneSidedForests) -> Run:
    run = Run(forests, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boosting_one_sided, "generate_keypair", lambda *_, **__: KEY)
        honest = boosting_one_sided._ActiveRun.spread

        def spy(self: Any, task: Any, drawn: Any, through: Any) -> Any:
            run.rows_drawn.append((task.gradients.rows[drawn], through, honest(self, task, drawn, through)))
            return run.rows_drawn[-1][2]

        patch.setattr(boosting_one_sided._ActiveRun, "spread", spy)
        run.fits = forests.fit()
    return run


def make(**options: Any) -> OneSidedForests:
    return make_one_sided("regression", validation=20, **{"settings": {"max_depth": 4}} | options)


@pytest.fixture(scope="module")
def run() -> Run:
    return fit(make())


# messages


def test_the_transcript_is_the_wire_tables(run: Run) -> None:
    for delivery in run.sent():
        message = WIRE[delivery.message]
        assert type(delivery.payload) is message.payload
        assert (message.src, message.dst) == (ROLES[delivery.sender], ROLES[delivery.receiver])
    assert {d.message for d in run.sent()} == set(WIRE) - {"importance.own_gains"}


def test_messages_of_a_tree_come_in_the_order_of_the_docstring(run: Run) -> None:
    names = [d.message.partition(".")[2] for d in run.sent() if "shop-1" in (d.sender, d.receiver)]
    level = "candidates chosen sides "
    tree = f"tree (gradients )+totals ({level}outcome (gradients )*totals )*({level}(outcome )?)"
    word = "".join(f"{name} " for name in names)
    assert re.fullmatch(f"key ({tree})+tree split_gains feature_gains ", word), word
    assert Counter(d.message for d in run.sent(to=COORDINATOR)) == {"boosting_one_sided.going": 4}


@pytest.mark.parametrize("module", [boosting_one_sided, boosting_scoring_one_sided], ids=lambda m: m.__name__)
def test_what_messages_disclose_is_the_leakage_list(module: Any) -> None:
    section = re.search(r"\nLeakage\n-+\n(.*?)\n\n", module.__doc__, re.DOTALL)
    assert section is not None
    entries = re.findall(r"^(active|passive|coordinator) : (.*(?:\n {4}.*)*)", section.group(1), re.MULTILINE)
    listed = {role: words(text).replace("the passive party's", "its").split("; ") for role, text in entries}
    kinds = {"active": Active, "passive": Passive, "coordinator": Coordinator}
    assert set(listed) == set(kinds)
    for role, items in listed.items():
        told = [words(m.discloses) for m in table(module).values() if m.dst is kinds[role] and m.discloses]
        assert all(any(within(one, item) or within(item, one) for item in items) for one in told), (role, told)
        rest = set(items) - BESIDE_MESSAGES - {"it holds no key and reads nothing"}
        assert all(any(within(one, item) or within(item, one) for one in told) for item in rest), (role, rest)
    for message in table(module).values():
        assert isinstance(message, Message) and bool(message.discloses) == issubclass(message.payload, TELLING)


# what the passive party sees


def twins(**options: Any) -> tuple[OneSidedForests, OneSidedForests]:
    """Two worlds that differ in who is a member and in nothing else: every row of the list is there twice."""
    forests = make(**options)
    listed = forests.listed.loc[forests.listed.index.repeat(2)].reset_index(drop=True)
    which = np.random.default_rng(2).integers(0, 2, (2, len(forests.places)))
    one, other = (replace(forests, listed=listed, places=2 * forests.places + twin) for twin in which)
    assert (one.places != other.places).sum() > 50
    return one, replace(other, deliveries=[])


def seen_by_the_shop(run: Run) -> list[tuple[Any, ...]]:
    """All that it receives, ciphertexts as their number and width."""
    seen: list[tuple[Any, ...]] = []
    for d in run.sent(to="shop-1"):
        if isinstance(d.payload, Encrypted):
            seen.append((d.message, d.payload.body.shape))
        elif isinstance(d.payload, Positions):
            seen.append((d.message, d.payload.counts.tolist(), d.payload.positions.tolist()))
        elif isinstance(d.payload, Bitmaps):
            seen.append((d.message, d.payload.counts.tolist(), d.payload.bits.tolist()))
        else:
            assert isinstance(d.payload, Control) or d.message == "boosting_one_sided.key"
            seen.append((d.message, getattr(d.payload, "facts", None)))
    return seen


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"settings": {"max_depth": 4, "max_cat_to_onehot": 2}},
        {"settings": {"subsample": 0.5}},
        {"settings": {"top_rate": 0.2, "other_rate": 0.3}},
        {"limits": Limits(20, 5)},
    ],
    ids=["plain", "sorted categories", "subsample", "GOSS", "guards"],
)
def test_what_the_passive_party_sees_is_the_same_whoever_is_a_member(options: dict[str, Any]) -> None:
    one, other = map(fit, twins(**options))
    views = seen_by_the_shop(one), seen_by_the_shop(other)
    assert views[0] == views[1] and len(views[0]) > 30
    bodies = [b"".join(d.payload.body.tobytes() for d in run.sent(".gradients")) for run in (one, other)]
    assert bodies[0] != bodies[1]


def test_no_message_to_the_passive_party_has_a_bit_per_row(run: Run) -> None:
    """Outcomes have a bit per node and per child; choices one alternative per node."""
    shop = [d for d in run.forests.deliveries if "shop-1" in (d.sender, d.receiver)]
    offered = [d.payload for d in shop if d.message.endswith(".candidates")]
    chosen = [d.payload for d in shop if d.message.endswith(".chosen")]
    nodes = [len(np.unique(payload.counts[:, 0])) for payload in offered]
    assert all(len(payload.counts) <= count for payload, count in zip(chosen, nodes, strict=True))
    outcomes = [d.payload.counts.tolist() for d in shop if d.message.endswith(".outcome")]
    assert outcomes and {len(counts) for counts in outcomes} == {2}
    assert all(children <= 2 * count <= 2 * max(nodes) for count, children in outcomes)


def test_of_equal_candidates_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are equal ones, where bins have no member; the symmetric protocol would name them all."""
    equal = []
    honest = boosting_one_sided.open_candidates

    def spy(*arguments: Any) -> Any:
        best, questions = honest(*arguments)
        equal.extend(len(q) for q in questions.values())
        return best, questions

    monkeypatch.setattr(boosting_one_sided, "open_candidates", spy)
    forests = make_one_sided("regression", members=40, others=300, settings={"max_depth": 3, "min_child_weight": 0.0})
    forests.fit()
    chosen = [d.payload for d in forests.deliveries if d.message.endswith(".chosen")]
    assert max(equal) > 1
    assert all((payload.counts == 1).all() for payload in chosen) and sum(len(p.counts) for p in chosen) > 3


# ciphertexts


def test_gradients_are_those_of_members_drawn_and_zeros(run: Run) -> None:
    """Decrypted: what the active party spread over its list, for the root all of it; no ciphertext comes twice."""
    layout = boosting.plan_gradients(512, run.forests.terms())
    vectors = [d.payload.body for d in run.sent(".gradients")]
    expected = np.concatenate([values for _, _, values in run.rows_drawn])
    values = [opened(KEY, layout, body)[:: layout.per_ciphertext] for body in vectors]
    np.testing.assert_array_equal(np.concatenate(values).astype(np.int64), expected)
    listed = len(run.forests.listed)
    roots = [len(rows) for rows, through, _ in run.rows_drawn if len(through) == listed and len(rows) == 130]
    assert len(roots) >= 3 and any(len(through) < listed for _, through, _ in run.rows_drawn)
    for rows, through, spread in run.rows_drawn:
        filled = through[spread.any(axis=1)]
        assert set(filled) <= set(run.forests.places[rows]) and len(filled) < len(through)
    rows_sent = [row.tobytes() for body in vectors for row in body]
    assert len(set(rows_sent)) == len(rows_sent)


def test_zeros_are_obfuscated_like_everything_else(run: Run) -> None:
    """An encryption of zero without an obfuscator is 1; a power of h_s alone looks like any other ciphertext."""
    n = KEY.public.n
    ciphertexts = [int.from_bytes(row.tobytes()) for d in run.sent(".gradients") for row in d.payload.body]
    bits = np.array([c.bit_count() for c in ciphertexts])
    assert min(ciphertexts) > n and 400 < bits.mean() < 624


def test_sums_that_were_not_rerandomised_do_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "rerandomise", lambda vector, **_: vector)
    with pytest.raises(LocalProtocolError, match="without re-randomising"):
        make().fit()


# refusals


def with_bits(change: Any) -> Any:
    """Another payload of bitmaps, from the counts of the honest one."""
    return lambda payload: pack_bits([np.ones(size, bool) for size in change(payload.counts.tolist())])


def fewer_rows(payload: Encrypted) -> Encrypted:
    return Encrypted(payload.key, payload.body[:-1])


REFUSED = {
    "sides of a row less": ("shop-1", "sides", with_bits(lambda sizes: [sizes[0] - 1, *sizes[1:]]), "shop-1 sent"),
    "sides of a node more": ("shop-1", "sides", with_bits(lambda sizes: [*sizes, 1]), "shop-1 sent"),
    "outcome of a node more": ("bank", "outcome", with_bits(lambda sizes: [sizes[0] + 1, sizes[1]]), "bank sent"),
    "outcome with sides": ("bank", "outcome", with_bits(lambda sizes: [*sizes, 9]), "bank sent"),
    "a split undone": ("bank", "outcome", lambda _: pack_bits([np.zeros(1, bool), np.zeros(0, bool)]), "bank chose"),
    "a gradient less": ("bank", "gradients", fewer_rows, "ciphertexts from bank"),
    "a total less": ("bank", "totals", fewer_rows, "ciphertexts from bank"),
    "a tree out of turn": (
        "bank",
        "tree",
        lambda _: Control({"go": True, "round": 1, "tree": 1}),
        "bank announced a tree without a tree from 0 to 0",
    ),
    "neither a tree nor an end": ("bank", "going", lambda _: Control({"go": 1}), "bank did not say"),
    "a choice beyond the offer": (
        "bank",
        "chosen",
        lambda payload: Positions(payload.counts, payload.positions + np.uint32(10**6)),
        "bank chose",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_and_its_sender_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sender, message, change, match = REFUSED[name]
    forests = make(settings={"max_depth": 3, "n_estimators": 2})
    forests.check()
    assert any(split.node == 0 for split in forests.fit()["shop-1"].splits), "the shop has to win a root"
    tamper(monkeypatch, sender, f"boosting_one_sided.{message}", change)
    with pytest.raises(RemoteProtocolError, match=match):
        replace(forests, deliveries=[]).fit()


def above_with(change: Any) -> Any:
    return lambda payload: Positions(payload.counts, change(payload.positions.copy()))


def self_above(positions: Any) -> Any:
    positions[0] = 1
    return positions


SCORING = {
    "fewer splits": ("bank", "above", lambda p: Positions(p.counts - 1, p.positions[:-1]), "bank named splits above"),
    "counted wrong": ("bank", "above", lambda p: Positions(p.counts - 1, p.positions), "bank named splits above"),
    "a split above itself": ("bank", "above", above_with(self_above), "bank named a split above another"),
    "a split that is none": ("bank", "above", above_with(lambda p: p + np.uint32(2**30)), "bank named a split above"),
    "sides of a split less": ("shop-1", "sides", with_bits(lambda sizes: sizes[:-1]), "shop-1 sent sides"),
    "sides of a row less": ("shop-1", "sides", with_bits(lambda sizes: [sizes[0] - 1, *sizes[1:]]), "shop-1 sent"),
    "sides of too many rows": ("shop-1", "sides", with_bits(lambda sizes: [10**6, *sizes[1:]]), "shop-1 sent sides"),
}


@pytest.mark.parametrize("name", SCORING)
def test_scoring_refuses_what_does_not_fit(name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sender, message, change, match = SCORING[name]
    forests = run.forests
    tamper(monkeypatch, sender, f"boosting_scoring_one_sided.{message}", change)
    with pytest.raises(RemoteProtocolError, match=match):
        score_one_sidedly(forests, run.fits, forests.frames[0], forests.listed, forests.places)
