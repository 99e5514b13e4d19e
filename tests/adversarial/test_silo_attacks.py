"""Attacks on federations with silos: what one role, or two that pool what they see, learn beyond the leakage lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from parties.errors import DataError, LocalProtocolError, RemoteProtocolError
from parties.link import Delivery, Endpoint
from parties.local import run_local
from parties.wire import Active, Coordinator, LabelSilo, Masked, Passive
from psi import silo_rows
from psi.ids import IdRules, prepare_ids
from psi.order import order_keys
from psi.plain import plain_alignment
from tests.silos.averaging import make_job
from tests.silos.federations import SiloFederation, make_silos
from vfl import siblings
from vfl.horizontal_tasks import Layout, Task, read_task, send_task
from vfl.masking import Masks, open_integers
from vfl.row_masks import RowMasks
from vfl.siblings import Siblings, siblings_of

SECRET = "zirconium"
SILOS = {"bank": 3, "shop": 3, "post": 0}
SUMS = (
    "siblings.total",
    "glm_silos.score_sums",
    "glm_silos.gradient_sums",
    "glm_silos.step_sums",
    "scoring_silos.total",
)
Change = Callable[[SiloFederation], None]


def of_three(rows: int = 90) -> SiloFederation:
    """Three label silos and three passive ones, one of which has a category of its own."""
    found = make_silos("logistic", SILOS, rows=rows, training={"max_iter": 3})
    shop = found.frames["shop"]
    shop["kind"] = np.where(found.owners["shop"] == 2, SECRET, "plain")
    shop.loc[::5, "kind"] = "other"
    return found


class Spied:
    """A run whose label silos' row masks are looked at."""

    def __init__(self, folder: Path) -> None:
        self.federation, self.first_secrets, self.opened = of_three(), {}, defaultdict(list)
        honest = RowMasks.open

        def spy(own: RowMasks, label: str, total: Masked, places, rows, outputs, sender):  # noqa: ANN001, ANN202
            (me,) = {"bank.s0", "bank.s1", "bank.s2"} - {link.peer for link in own.others}
            self.first_secrets.setdefault(me, own.masks.signed_secrets)
            found = honest(own, label, total, places, rows, outputs, sender)
            self.opened[me, label].append((places, found))
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RowMasks, "open", spy)
            self.federation.play(folder)

    def sent(self, message: str) -> list[Delivery]:
        return [d for d in self.federation.deliveries if d.message == message]


@pytest.fixture(scope="module")
def spied(tmp_path_factory: pytest.TempPathFactory) -> Spied:
    return Spied(tmp_path_factory.mktemp("spied"))


@pytest.mark.parametrize("pooled", [("bank.s1",), ("bank.s1", "bank.s2")])
def test_label_silos_cannot_open_scores_of_anothers_rows(spied: Spied, pooled: tuple[str, ...]) -> None:
    """Nor two of them with the coordinator: all that anybody was shown, and all their masks, against bank.s0's rows."""
    label = "scores|0"
    (places, truth), *_ = spied.opened["bank.s0", label]
    total = next(d.payload.body[:, 0] for d in spied.sent("glm_silos.score_sums") if d.receiver == pooled[0])
    shown = {
        d.sender: d.payload.body[:, 0] for d in reversed(spied.sent("row_masks.lifted")) if d.receiver == pooled[0]
    }
    whole = total.copy()
    for name in pooled:
        whole = whole + Masks(spied.first_secrets[name]).words(label, len(total))
    for name, words in shown.items():
        if name not in pooled:
            whole = whole + words
    own, _ = spied.opened[pooled[0], label][0]
    if len(pooled) == 1:  # the same sum does open the accomplice's own rows
        assert np.array_equal(whole.view(np.int64)[own], spied.opened[pooled[0], label][0][1][:, 0])
    guessed = whole.view(np.int64)[places]
    assert np.abs(truth).max() < 2**40  # scores times 2^32
    assert not np.isin(guessed, truth).any() and (np.abs(guessed.astype(float)) > 2.0**45).mean() > 0.9


def test_no_mask_is_used_twice_in_a_run_or_in_another_run_of_the_same_silos(spied: Spied, tmp_path: Path) -> None:
    """Words under one mask would repeat where zeros stand, or wherever the values are the same."""
    again = of_three()
    again.play(tmp_path)
    seen: set[bytes] = set()
    count = 0
    for delivery in [*spied.federation.deliveries, *again.deliveries]:
        if isinstance(delivery.payload, Masked) and delivery.message not in SUMS:
            first = "bank.s1" if delivery.sender == "bank.s0" else "bank.s0"
            if delivery.message == "row_masks.lifted" and delivery.receiver != first:
                continue  # the same words go to two
            rows = {row.tobytes() for row in delivery.payload.body}
            assert len(rows) == len(delivery.payload.body) and not rows & seen, delivery.message
            seen |= rows
            count += 1
    assert count > 100


def test_the_coordinator_and_other_holders_meet_no_category_id_or_number_of_a_silo(spied: Spied) -> None:
    """In frames as they travel, and in everybody else's ledger."""
    cell = str(spied.federation.frames["shop"]["s0"].iloc[3])
    assert any(SECRET in str(d.payload) for d in spied.federation.deliveries if d.receiver == "shop.s0")
    for frame in spied.federation.sent:
        text = repr(frame)
        assert not any(word in text for word in (SECRET, "p00003", cell))
    for delivery in spied.federation.deliveries:
        if not delivery.receiver.startswith("shop."):
            assert SECRET not in str(delivery.payload) and "p00003" not in str(delivery.payload)


def test_what_reaches_the_active_party_is_the_same_whoever_owns_a_row(spied: Spied, tmp_path: Path) -> None:
    """All that bank.s0 opens is a function of all rows: other owners of the passive rows change no bit of it."""
    other = of_three()
    other.owners["shop"] = (np.asarray(other.owners["shop"]) + 1) % 3
    other.play(tmp_path)
    told = ("glm_silos.opened", "glm_silos.direction", "glm_silos.step")

    def opened(federation: SiloFederation) -> dict[str, list[bytes]]:
        found = defaultdict(list)
        for d in federation.deliveries:
            if d.message in told[1:] and d.receiver == "bank.s1":
                found[d.message].append(np.asarray(d.payload.values).tobytes())
        return dict(found)

    assert opened(spied.federation)["glm_silos.step"] and opened(spied.federation) == opened(other)


def sums_of(people: dict[str, list[int]], seen: list[Delivery], *labels: str) -> dict[str, dict[str, Siblings]]:
    """Sums of three silos; every silo's own end of them."""
    ends: dict[str, dict[str, Siblings]] = defaultdict(dict)

    def play(endpoint: Endpoint) -> None:
        for label in labels:
            own = ends[endpoint.name][label] = siblings_of(endpoint, label)
            own.integers("sum", people[endpoint.name])

    plays = dict.fromkeys(people, play) | {"coordinator": lambda endpoint: None}
    run_local(plays, roles=dict.fromkeys(people, Passive) | {"coordinator": Coordinator}, observe=seen.append)
    return ends


def test_the_silo_that_adds_up_cannot_read_one_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own masks taken off, another silo's part still has the mask that the third shares with it."""
    people = {f"shop.s{i}": [7 + i, 1_000_000 * i] for i in range(3)}
    seen: list[Delivery] = []
    ends = sums_of(people, seen, "first", "second")
    parts = [d.payload for d in seen if d.message == "siblings.part" and d.sender == "shop.s1"]
    secret, sign = ends["shop.s0"]["first"].masks.signed_secrets["shop.s1"]
    own = Masks({"shop.s1": (secret, sign)}).integers("sum", [0, 0])
    bare = open_integers(Masked(_sum_limbs(parts[0].body, own.body)))
    assert all(abs(value) > 2**200 for value in bare)
    both = [open_integers(part) for part in parts]  # the same numbers under another purpose: another mask
    assert all(abs(a - b) > 2**200 for a, b in zip(*both, strict=True))
    two: list[Delivery] = []
    ends = sums_of({name: people[name] for name in ("shop.s0", "shop.s1")}, two, "first")
    part = next(d.payload for d in two if d.message == "siblings.part")
    own = ends["shop.s0"]["first"]
    open_ = Masks(own.masks.signed_secrets).integers("sum", [0, 0])
    assert open_integers(Masked(_sum_limbs(part.body, open_.body))) == people["shop.s1"]  # as is stated of two silos
    assert "With two silos a sum shows each the other's part" in str(siblings.__doc__)


def _sum_limbs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rows of four 64-bit limbs, least significant first, added modulo 2^256."""
    numbers = [
        (int.from_bytes(x.tobytes(), "little") + int.from_bytes(y.tobytes(), "little")) % 2**256
        for x, y in zip(np.ascontiguousarray(a), np.ascontiguousarray(b), strict=True)
    ]
    return np.array([[n >> 64 * i & (2**64 - 1) for i in range(4)] for n in numbers], np.uint64)


def test_streams_between_siblings_cannot_be_taken_twice() -> None:
    def play(endpoint: Endpoint) -> None:
        own = siblings_of(endpoint, "once")
        own.integers("sum", [1])
        with pytest.raises(LocalProtocolError, match="used before"):
            own.integers("sum", [2])
        with pytest.raises(LocalProtocolError, match="taken before"):
            siblings_of(endpoint, "once")

    roles = {"bank.s0": Active, "bank.s1": LabelSilo, "coordinator": Coordinator}
    run_local({"bank.s0": play, "bank.s1": play, "coordinator": lambda endpoint: None}, roles=roles)


def test_a_silo_rules_out_guessed_ids_by_the_public_order_as_is_stated() -> None:
    """Between neighbours in the order is no room: who has many of the common rows learns who is not among them."""
    rng = np.random.default_rng(0)
    names = [f"{number:05d}" for number in rng.choice(100_000, 600, replace=False)]
    lists = {"bank": names[:500], "shop.north": names[:450], "shop.south": names[450:500]}
    prepared = {name: prepare_ids([own], IdRules(), party=name) for name, own in lists.items()}
    own = plain_alignment(prepared, 7)["shop.north"]
    ids = prepare_ids([names], IdRules(), party="all").ids
    keys = [key.tobytes() for key in order_keys([prepared["shop.north"].ids[row] for row in own.rows], 7)]
    gaps = [(a, b) for (a, b), (i, j) in zip(pairwise(keys), pairwise(own.owned), strict=True) if j > i + 1]

    def possible(guessed: list[bytes]) -> float:
        inside = [key.tobytes() for key in order_keys(guessed, 7)]
        return float(np.mean([key < keys[0] or key > keys[-1] or any(a < key < b for a, b in gaps) for key in inside]))

    assert possible(ids[450:500]) == 1.0 and possible(ids[500:]) < 0.3
    assert "rule out" in str(silo_rows.__doc__)


def const(found: SiloFederation) -> None:
    found.frames["shop"].loc[found.owners["shop"] == 1, "s1"] = 4.0


def missing(found: SiloFederation) -> None:
    found.frames["shop"].loc[found.owners["shop"] == 1, "s1"] = np.nan


def one_row(found: SiloFederation) -> None:
    owner = found.owners["shop"]
    owner[owner == 0] = 1
    owner[0] = 0


def one_class(found: SiloFederation) -> None:
    found.owners["bank"][:] = (found.frames["bank"]["y"] == found.frames["bank"]["y"].max()).astype(int)


def own_category(found: SiloFederation) -> None:
    found.frames["shop"]["kind"] = pd.Series(found.owners["shop"]).map({0: "a", 1: "b", 2: "c"})


@pytest.mark.parametrize("change", [const, missing, one_row, one_class, own_category])
@pytest.mark.parametrize("model", ["logistic", "boosting"])
def test_odd_silos_have_the_model_of_one_silo_bit_for_bit(model: str, change: Change, tmp_path: Path) -> None:
    scores = []
    settings = {"max_iter": 3} if model == "logistic" else {"n_estimators": 1, "max_depth": 2, "max_bin": 8}
    for which in ("many", "one"):
        found = make_silos(model, {"bank": 2, "shop": 3}, rows=70, training=settings)
        change(found)
        if which == "one":
            found.silos = dict.fromkeys(found.silos, 1)
            found.owners = {holder: np.zeros_like(owner) for holder, owner in found.owners.items()}
        found.play(tmp_path / which)
        scores.append(found.scores(tmp_path / which))
    assert len(scores[0]) == 18 and np.array_equal(*scores)


def test_an_error_of_one_silo_shows_no_cell(tmp_path: Path) -> None:
    found = of_three()
    found.spec["shop"] = {"categories": {"kind": ("plain", "other")}}
    with pytest.raises(DataError, match="a category that categories does not list") as caught:
        found.play(tmp_path)
    assert SECRET not in str(caught.value) and "p0" not in str(caught.value)


@pytest.mark.parametrize(
    ("work", "settings"),
    [
        ("train", {"aggregation": "fedavg", "min_silos": 2}),
        ("step", {"server_optimizer": "momentum", "min_silos": 2}),
        ("noisy", {"dp": "central", "min_silos": 2}),
        ("loss", {"aggregation": "simple", "min_silos": 2}),
    ],
)
def test_no_second_sum_of_a_round_over_other_silos(work: str, settings: dict[str, object]) -> None:
    """The coordinator asks for the same round again without one silo, whose part is the difference."""
    job = make_job(4, **settings)
    layout = Layout(("coefficients", "intercept"), ((3, 1), (1,)), (0.0, 0.0), 90)
    names, values = job.labelled, np.zeros(4)
    first = Task(1, 1, 1 if work == "loss" else 0, work, group=names)
    told = read_task(send_task(first, values, names), job, layout, Task(0, 0, 0, work), names[0])
    assert told == first
    again = replace(first, number=2, group=names[:3])
    with pytest.raises(RemoteProtocolError, match="asks for what the job does not provide for"):
        read_task(send_task(again, values, names), job, layout, told, names[0])
    later = replace(again, round_number=2, done=2 if work == "loss" else 1)
    assert read_task(send_task(later, values, names), job, layout, told, names[0]) == later
