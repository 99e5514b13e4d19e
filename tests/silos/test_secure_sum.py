"""Secure sums: exact, of those that answered and of nobody else, whatever a silo or the coordinator does."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chisquare

from parties.errors import CryptoError, LocalProtocolError, PeerLost, RemoteProtocolError
from parties.ledger import Ledger
from parties.link import COORDINATOR, Delivery, Endpoint
from parties.local import run_local
from parties.sealing import KeyPair
from parties.wire import Active, Blinded, Control, Coordinator, DataParty, LabelSilo, Masked, Message, Points
from tests.silos.averaging import dies, odd, sends, sleeps, wake
from vfl import secure_sum
from vfl.aggregation import count_needed
from vfl.attendance import Attendance
from vfl.events import LeftOut
from vfl.job import Averaging
from vfl.secure_sum import LIMIT, Sum, Wire, collect, contribute, contributor, from_words, to_words
from vfl.shamir import join

UP = [Wire.keys, Wire.boxes, Wire.masked, Wire.shares]
DOWN = [Wire.keys_of_all, Wire.boxes_for, Wire.answered]
COUNT = 5


def by_name(message: Message) -> str:
    return message.name.partition(".")[2]


# words

inside = st.floats(-LIMIT, LIMIT, exclude_min=True, exclude_max=True)


@given(arrays(np.float64, 4, elements=inside))
def test_numbers_come_back_but_for_what_is_below_the_scale(values: np.ndarray) -> None:
    error = np.abs(from_words(to_words(values)) - values)
    assert (error <= np.maximum(2.0**-72, np.abs(values) * 2.0**-53)).all()


@given(st.integers(-(2**112) + 1, 2**112 - 1))
def test_words_are_twos_complement(number: int) -> None:
    value = float(Fraction(number, 2**72))
    if abs(value) < LIMIT:
        low, high = to_words(np.array([value]))[0].tolist()
        exact = int(Fraction(value) * 2**72)  # towards zero, as to_words cuts
        assert (high << 64 | low) == exact % 2**128


@given(st.lists(arrays(np.float64, 3, elements=inside), min_size=1, max_size=6))
def test_sums_of_words_are_exact(vectors: list[np.ndarray]) -> None:
    total = np.zeros((3, 2), np.uint64)
    for vector in vectors:
        secure_sum._add(total, to_words(vector))
    exact = [
        sum(int(Fraction(v) * 2**72) for v in column) for column in zip(*(x.tolist() for x in vectors), strict=True)
    ]
    found = [high << 64 | low for low, high in total.tolist()]
    assert found == [value % 2**128 for value in exact]
    assert np.allclose(from_words(total), [float(Fraction(value, 2**72)) for value in exact], rtol=1e-15, atol=0)


@given(arrays(np.uint64, (4, 2)), arrays(np.uint64, (4, 2)))
def test_adding_and_subtracting_cancel_modulo_2_128(left: np.ndarray, right: np.ndarray) -> None:
    total = left.copy()
    secure_sum._add(total, right)
    whole = lambda words: [high << 64 | low for low, high in words.tolist()]  # noqa: E731
    assert whole(total) == [(a + b) % 2**128 for a, b in zip(whole(left), whole(right), strict=True)]
    secure_sum._subtract(total, right)
    assert (total == left).all()


def test_the_largest_silos_do_not_wrap() -> None:
    largest = np.nextafter(LIMIT, 0) * np.array([1.0, -1.0])
    total = np.zeros((2, 2), np.uint64)
    for _ in range(4096):
        secure_sum._add(total, to_words(largest))
    assert np.allclose(from_words(total), 4096 * largest, rtol=1e-15)


@pytest.mark.parametrize("value", [LIMIT, -LIMIT, np.inf, -np.inf, np.nan], ids=str)
def test_numbers_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(CryptoError, match=r"not finite or beyond 1.1e\+12"):
        to_words(np.array([0.0, value]))


# sums

Play = Callable[[Endpoint], object]


@dataclass
class Group:
    """Silos with a vector each per sum, and a coordinator that collects."""

    silos: int
    sums: int = 1
    least: int | None = None
    threshold: int | None = None
    spoil: dict[str, Callable[[Endpoint], None]] = field(default_factory=dict)
    after: dict[str, Callable[[Endpoint, int], None]] = field(default_factory=dict)
    plays: dict[str, Play] = field(default_factory=dict)
    deliveries: list[Delivery] = field(default_factory=list)
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    frames: list[object] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    same: bool = False

    @property
    def names(self) -> list[str]:
        return [f"clinics.s{i}" for i in range(self.silos)]

    def needed(self, asked: int) -> int:
        return self.threshold or count_needed(Averaging(min_silos=self.least), asked)

    def values(self, name: str, number: int) -> np.ndarray:
        seed = self.names.index(name) if self.same else [self.names.index(name), number]
        return np.random.default_rng(seed).normal(size=COUNT)

    def total(self, number: int, *without: str) -> np.ndarray:
        return np.sum([self.values(name, number) for name in self.names if name not in without], axis=0)

    def silo(self, endpoint: Endpoint) -> list[bool]:
        name, found = endpoint.name, []
        if name in self.spoil:
            self.spoil[name](endpoint)
        side = contributor(endpoint, self.names)
        side.link.send(Asking.ready, Control({}))
        while not (asked := side.link.recv(Asking.asked).facts).get("over"):
            number, group = int(asked["number"]), [name for name in self.names if asked.get(name)]
            needed = self.needed(len(group))
            found.append(contribute(side, number, group, needed, partial(self.values, name, number)))
            if name in self.after:
                self.after[name](endpoint, number)
        return found

    def coordinator(self, endpoint: Endpoint) -> list[Sum]:
        links = {name: endpoint.link(Coordinator, DataParty, name) for name in self.names}
        there = Attendance(endpoint, links, None if self.least is None else 60.0)
        for link in links.values():
            link.recv(Asking.ready)
        there.tolerate(self.least or 0)
        found = []
        for number in range(1, self.sums + 1):
            there.round_number = number
            group = there.present()
            for name in group:
                there.send(name, Asking.asked, Control({"number": number} | dict.fromkeys(group, True)))
            found.append(collect(there, number, group, self.needed(len(group)), COUNT))
        for names in (there.present(), there.close()):
            for name in names:
                there.send(name, Asking.asked, Control({"over": True}))
        self.left_out = there.left_out
        return found

    def run(self) -> dict[str, list]:
        roles = {name: LabelSilo if at else Active for at, name in enumerate(self.names)}
        self.ledgers = {name: Ledger() for name in (*roles, COORDINATOR)}
        plays = dict.fromkeys(self.names, self.silo) | {COORDINATOR: self.coordinator}
        return run_local(
            {name: self.plays.get(name, play) for name, play in plays.items()},
            roles={**roles, COORDINATOR: Coordinator},
            ledgers=self.ledgers,
            observe=self.deliveries.append,
            frames=self.frames,
        )


class Asking:
    ready = Message(DataParty, Coordinator, Control)
    asked = Message(Coordinator, DataParty, Control)


@pytest.mark.parametrize("silos", [1, 2, 3, 5, 9])
def test_the_coordinator_learns_the_sum(silos: int) -> None:
    group = Group(silos, sums=2)
    played = group.run()
    for number, found in enumerate(played[COORDINATOR], 1):
        assert np.abs(found.values - group.total(number)).max() < 1e-14 and list(found.answered) == group.names
    assert all(played[name] == [True, True] for name in group.names)
    assert group.left_out == []


def test_the_sum_is_the_same_to_the_last_bit_though_all_masks_are_new() -> None:
    first, second = Group(4), Group(4)
    sums = [group.run()[COORDINATOR][0].values.tobytes() for group in (first, second)]
    assert sums[0] == sums[1]
    words = [[d.payload.body for d in group.deliveries if d.message == Wire.masked.name] for group in (first, second)]
    assert not any((a == b).any() for a, b in zip(*words, strict=True))


# silos that drop out


@pytest.mark.parametrize("kind", UP, ids=by_name)
def test_a_silo_that_dies_at_a_stage_is_left_out(kind: Message) -> None:
    """One whose words have come is in the sum although it cannot help to open it."""
    lost = "clinics.s1"
    group = Group(5, sums=2, least=3, spoil={lost: lambda end: odd(end, kind, dies)})
    played = group.run()
    first, second = played[COORDINATOR]
    gone = [] if kind is Wire.shares else [lost]
    assert np.abs(first.values - group.total(1, *gone)).max() < 1e-14
    assert list(first.answered) == [name for name in group.names if name not in gone]
    assert np.abs(second.values - group.total(2, lost)).max() < 1e-14 and lost not in second.answered
    assert group.left_out == [LeftOut(lost, 1, "lost")]
    assert lost not in played and all(played[name] == [True, True] for name in group.names if name != lost)


@pytest.mark.parametrize("kind", UP, ids=by_name)
def test_without_min_silos_the_first_loss_ends_the_run(kind: Message) -> None:
    with pytest.raises(RuntimeError, match="the power is gone"):
        Group(3, spoil={"clinics.s1": lambda end: odd(end, kind, dies)}).run()


@pytest.mark.parametrize("kind", UP, ids=by_name)
def test_a_silo_that_is_late_at_a_stage_takes_part_again(kind: Message) -> None:
    late, other = "clinics.s3", "clinics.s0"
    group = Group(
        4,
        sums=3,
        least=3,
        spoil={late: lambda end: odd(end, kind, sleeps(end, kind, other))},
        after={other: lambda end, number: wake(end, late) if number == 2 else None},
    )
    played = group.run()
    gone = [] if kind is Wire.shares else [late]
    for number, found in enumerate(played[COORDINATOR], 1):
        left = {1: gone, 2: [late], 3: []}[number]
        assert np.abs(found.values - group.total(number, *left)).max() < 1e-14
        assert (late in found.answered) == (not left)
    assert group.left_out == [LeftOut(late, 1, "late"), LeftOut(late, 2, "late")]
    assert played[late] == [not gone, True]


def test_a_silo_that_never_comes_back_is_left_out_of_every_round_and_told_at_the_end() -> None:
    late = "clinics.s2"

    def spoil(end: Endpoint) -> None:
        odd(end, Wire.masked, sleeps(end, Wire.masked, "clinics.s0"))

    group = Group(4, sums=3, least=2, spoil={late: spoil})
    played = group.run()
    assert late not in played and all(late not in found.answered for found in played[COORDINATOR])
    assert group.left_out == [LeftOut(late, number, "late") for number in (1, 2, 3)]


@pytest.mark.parametrize("kind", UP, ids=by_name)
def test_two_silos_may_drop_out_and_no_more_than_the_threshold_allows(kind: Message) -> None:
    def spoil(*names: str) -> dict[str, Callable[[Endpoint], None]]:
        return {name: lambda end: odd(end, kind, dies) for name in names}

    group = Group(5, least=3, spoil=spoil("clinics.s0", "clinics.s4"))
    (found,) = group.run()[COORDINATOR]
    assert np.abs(found.values - group.total(1, *(set(group.names) - set(found.answered)))).max() < 1e-14
    assert len(found.answered) == (5 if kind is Wire.shares else 3)
    with pytest.raises((PeerLost, RuntimeError)):
        Group(5, least=3, spoil=spoil("clinics.s0", "clinics.s1", "clinics.s4")).run()


def test_half_of_the_silos_are_not_enough_whatever_min_silos_says() -> None:
    """With 2 of 4 a lying coordinator could tell two and two silos different stories."""
    late = ["clinics.s0", "clinics.s1"]
    spoil = {name: lambda end: odd(end, Wire.masked, sleeps(end, Wire.masked, "clinics.s2")) for name in late}
    with pytest.raises(
        PeerLost, match="has 2 of 4 silos and needs 3: without clinics.s0, clinics.s1; look at"
    ) as caught:
        Group(4, least=2, spoil=spoil).run()
    assert "\n" not in str(caught.value)


# malformed messages of silos


def _points(width: int, rows: int = 1) -> Points:
    return Points(np.ones((rows, width), np.uint8))


LOW_ORDER = Points(np.zeros((1, 64), np.uint8))
MALFORMED = {
    "no key": (Wire.keys, lambda sent: Points(sent.body[:0])),
    "two keys": (Wire.keys, lambda sent: Points(np.vstack([sent.body, sent.body]))),
    "a narrow key": (Wire.keys, lambda sent: _points(32)),
    "a key of low order": (Wire.keys, lambda sent: LOW_ORDER),
    "no boxes": (Wire.boxes, lambda sent: Blinded(sent.body[:0])),
    "too few boxes": (Wire.boxes, lambda sent: Blinded(sent.body[1:])),
    "too many boxes": (Wire.boxes, lambda sent: Blinded(np.vstack([sent.body, sent.body]))),
    "narrow boxes": (Wire.boxes, lambda sent: Blinded(sent.body[:, 1:])),
    "a box left empty": (
        Wire.boxes,
        lambda sent: Blinded(np.where(np.arange(4)[:, None] == 0, 0, sent.body).astype(np.uint8)),
    ),
    "too few words": (Wire.masked, lambda sent: Masked(sent.body[1:])),
    "no words": (Wire.masked, lambda sent: Masked(sent.body[:0])),
    "too many words": (Wire.masked, lambda sent: Masked(np.vstack([sent.body, sent.body]))),
    "short words": (Wire.masked, lambda sent: Masked(sent.body[:, :1])),
    "no shares": (Wire.shares, lambda sent: Blinded(sent.body[:0])),
    "too few shares": (Wire.shares, lambda sent: Blinded(sent.body[1:])),
    "narrow shares": (Wire.shares, lambda sent: Blinded(sent.body[:, 1:])),
    "shares out of range": (Wire.shares, lambda sent: Blinded(np.full_like(sent.body, 255))),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_malformed_names_the_silo(what: str) -> None:
    kind, change = MALFORMED[what]
    group = Group(4, spoil={"clinics.s1": lambda end: odd(end, kind, sends(kind, change))})
    with pytest.raises(RemoteProtocolError, match=r"^clinics.s1 sent ") as caught:
        group.run()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", MALFORMED)
def test_with_min_silos_the_others_go_on(what: str) -> None:
    kind, change = MALFORMED[what]
    bad = "clinics.s1"
    group = Group(4, sums=2, least=3, spoil={bad: lambda end: odd(end, kind, sends(kind, change))})
    played = group.run()
    gone = [] if kind is Wire.shares else [bad]
    first, second = played[COORDINATOR]
    assert np.abs(first.values - group.total(1, *gone)).max() < 1e-14
    assert np.abs(second.values - group.total(2, bad)).max() < 1e-14
    assert group.left_out == [LeftOut(bad, 1, "malformed")] and bad not in played


def test_a_message_of_another_stage_names_the_silo() -> None:
    def act(link, payload) -> None:
        link.send(Wire.masked, Masked(np.zeros((COUNT, 2), np.uint64)))

    with pytest.raises(RemoteProtocolError, match=r"clinics.s1 sent 'secure_sum.masked' .* where 'secure_sum.boxes'"):
        Group(3, spoil={"clinics.s1": lambda end: odd(end, Wire.boxes, act)}).run()


def test_with_min_silos_the_others_go_on_without_one_that_sends_a_message_of_another_stage() -> None:
    def act(link, payload) -> None:
        link.send(Wire.masked, Masked(np.zeros((COUNT, 2), np.uint64)))

    group = Group(4, sums=2, least=3, spoil={"clinics.s1": lambda end: odd(end, Wire.boxes, act)})
    first, second = group.run()[COORDINATOR]
    assert np.abs(first.values - group.total(1, "clinics.s1")).max() < 1e-14
    assert np.abs(second.values - group.total(2, "clinics.s1")).max() < 1e-14
    assert group.left_out == [LeftOut("clinics.s1", 1, "malformed")]


@pytest.mark.parametrize("tolerant", [False, True], ids=["all needed", "min_silos"])
def test_a_false_share_is_found_out(tolerant: bool) -> None:
    def change(sent: Blinded) -> Blinded:
        body = sent.body.copy()
        body[:, -1] ^= 1
        return Blinded(body)

    group = Group(
        4,
        least=3 if tolerant else None,
        spoil={"clinics.s0": lambda end: odd(end, Wire.shares, sends(Wire.shares, change))},
    )
    with pytest.raises(
        (RemoteProtocolError, CryptoError), match="shares of clinics.s0's mask do not fit|belong to no secret"
    ):
        group.run()


def test_false_shares_of_a_lost_silos_key_are_found_out() -> None:
    def change(sent: Blinded) -> Blinded:
        body = sent.body.copy()
        body[3, -1] ^= 1
        return Blinded(body)

    spoil = {
        "clinics.s0": lambda end: odd(end, Wire.shares, sends(Wire.shares, change)),
        "clinics.s3": lambda end: odd(end, Wire.masked, dies),
    }
    with pytest.raises(
        (RemoteProtocolError, CryptoError), match="shares of clinics.s3's mask do not fit|belong to no secret"
    ):
        Group(5, least=4, spoil=spoil).run()


# a coordinator that wants more than the sum


def cheat(kind: Message, change: Callable[[object], object], silos: int = 4) -> Group:
    """A coordinator that changes one kind of message to the first silo; 3 silos are needed."""
    group = Group(silos, threshold=3)

    def play(endpoint: Endpoint) -> object:
        link = endpoint.link(Coordinator, DataParty, "clinics.s0")
        send = link.send
        link.send = lambda message, payload: send(message, change(payload) if message is kind else payload)
        return group.coordinator(endpoint)

    group.plays[COORDINATOR] = play
    return group


def zero(rows: list[int], sent: object) -> object:
    body = sent.body.copy()
    body[rows] = 0
    return type(sent)(body)


REFUSED = {
    "too few keys": (Wire.keys_of_all, lambda sent: zero([1, 2], sent), "wants a sum of 2 silos, expected at least 3"),
    "a list without the silo": (Wire.keys_of_all, lambda sent: zero([0], sent), "and this one among them"),
    "another key of its own": (
        Wire.keys_of_all,
        lambda sent: Points(np.vstack([sent.body[1:2], sent.body[1:]])),
        "another key of clinics.s0 than its own",
    ),
    "an exchanged key": (
        Wire.keys_of_all,
        lambda sent: Points(np.vstack([sent.body[:1], sent.body[2:3], sent.body[2:]])),
        "the shares from clinics.s1 do not open",
    ),
    "too few boxes": (Wire.boxes_for, lambda sent: zero([1, 2], sent), "wants a sum of 2 silos"),
    "boxes of another silo": (
        Wire.boxes_for,
        lambda sent: Blinded(sent.body[[0, 2, 1, 3]]),
        "the shares from clinics.s1 do not open",
    ),
    "an altered box": (
        Wire.boxes_for,
        lambda sent: Blinded(sent.body ^ (np.arange(4) == 2)[:, None].astype(np.uint8)),
        "the shares from clinics.s2 do not open",
    ),
    "too few silos answered": (
        Wire.answered,
        lambda sent: Control(sent.facts | {"clinics.s1": False, "clinics.s2": False}),
        "nothing was sent",
    ),
    "the silo itself did not answer": (
        Wire.answered,
        lambda sent: Control(sent.facts | {"clinics.s0": False}),
        "nothing was sent",
    ),
    "an unknown silo answered": (
        Wire.answered,
        lambda sent: Control(sent.facts | {"clinics.s9": True}),
        "nothing was sent",
    ),
    "a silo both answered and not": (
        Wire.answered,
        lambda sent: Control(sent.facts | {"clinics.s1": None}),
        "nothing was sent",
    ),
    "a silo is not on the list": (
        Wire.answered,
        lambda sent: Control({name: fact for name, fact in sent.facts.items() if name != "clinics.s3"}),
        "nothing was sent",
    ),
    "one more row": (
        Wire.keys_of_all,
        lambda sent: Points(np.vstack([sent.body, sent.body[:1]])),
        r"rows of shape \(5, 64\)",
    ),
    "narrow rows": (Wire.boxes_for, lambda sent: Blinded(sent.body[:, :-1]), r"rows of shape \(4, 81\)"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_silo_refuses_what_would_show_more_than_the_sum(what: str) -> None:
    kind, change, text = REFUSED[what]
    with pytest.raises(RemoteProtocolError, match=text) as caught:
        cheat(kind, change).run()
    assert "\n" not in str(caught.value) and re.search("clinics|coordinator", str(caught.value))


@pytest.mark.parametrize("told", list(itertools.product([True, False], repeat=3)), ids=str)
def test_no_lie_about_who_answered_opens_both_kinds_of_shares(told: tuple[bool, ...]) -> None:
    """The coordinator tells every other silo what it likes of the last one: one kind of its shares stays too few."""
    group, victim = Group(4, threshold=3), "clinics.s3"

    def play(endpoint: Endpoint) -> object:
        for name, answered in zip(group.names, told, strict=False):
            link = endpoint.link(Coordinator, DataParty, name)

            def lie(message, payload, send=link.send, answered=answered):
                send(message, Control(payload.facts | {victim: answered}) if message is Wire.answered else payload)

            link.send = lie
        return group.coordinator(endpoint)

    group.plays[COORDINATOR] = play
    with contextlib.suppress(RemoteProtocolError, CryptoError):
        group.run()
    kinds = [*told, True]  # it told its own share of its second mask
    assert kinds.count(True) < 3 or kinds.count(False) < 3
    shares = {d.sender: d.payload.body[3].tobytes() for d in group.deliveries if d.message == Wire.shares.name}
    assert len(shares) == 4
    keys = next(d.payload.body for d in group.deliveries if d.message == Wire.keys_of_all.name)[3].tobytes()
    holders = dict(enumerate(group.names, 1))
    opened = [
        join({at: shares[name] for at, name in holders.items() if kinds[at - 1] is kind}, 3)
        for kind in (True, False)
        if kinds.count(kind) >= 3
    ]
    assert len(opened) <= 1
    for secret in opened:
        fits = [hashlib.sha256(secret).digest() == keys[32:], KeyPair.from_private_bytes(secret).public == keys[:32]]
        assert sum(fits) == 1


def test_a_box_of_a_silo_without_a_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first silo is told that the last one sent no key, and then given its box."""
    monkeypatch.setattr(secure_sum, "_read_boxes", lambda sent, name, group, keys: sent.body)
    with pytest.raises(RemoteProtocolError, match="^coordinator sent a box of a silo without a key"):
        cheat(Wire.keys_of_all, lambda sent: zero([3], sent)).run()


def test_a_sum_is_not_played_twice() -> None:
    """A second sum of one number would have the same box keys; no coordinator gets it."""

    def silo(endpoint: Endpoint) -> object:
        side = contributor(endpoint, ["clinics.s0", "clinics.s1"])
        side.number = 4
        for number, group in ((4, ["clinics.s0"]), (3, ["clinics.s0"]), (5, ["clinics.s1"]), (5, ["clinics.s0"] * 2)):
            with pytest.raises(LocalProtocolError, match="asked for before, or of a list"):
                contribute(side, number, group, 1, np.zeros(1))
        return "refused"

    plays = {"clinics.s0": silo, "clinics.s1": lambda end: None, COORDINATOR: lambda end: None}
    roles = {"clinics.s0": Active, "clinics.s1": LabelSilo, COORDINATOR: Coordinator}
    assert run_local(plays, roles=roles)["clinics.s0"] == "refused"


# what is seen


def bodies(group: Group, *messages: Message) -> list[np.ndarray]:
    names = {message.name for message in messages}
    return [np.frombuffer(d.payload.body.tobytes(), np.uint8) for d in group.deliveries if d.message in names]


@pytest.mark.parametrize("silos", [2, 3])
def test_masked_words_look_random(silos: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors of zeros, 64 KiB of words per silo: bytes are uniform, also in sums of all but one silo."""
    monkeypatch.setattr("tests.silos.test_secure_sum.COUNT", 4096)
    group = Group(silos)
    monkeypatch.setattr(Group, "values", lambda self, name, number: np.zeros(4096))
    played = group.run()
    assert not played[COORDINATOR][0].values.any()
    words = [d.payload.body for d in group.deliveries if d.message == Wire.masked.name]
    partial = np.zeros_like(words[0])
    for each in words[1:]:
        secure_sum._add(partial, each)
    for seen in (*words, partial):
        found = np.frombuffer(seen.tobytes(), np.uint8)
        assert chisquare(np.bincount(found, minlength=256)).pvalue > 1e-9
        assert abs(np.unpackbits(found).mean() - 0.5) < 0.005


def test_the_same_vector_is_never_masked_alike() -> None:
    group = Group(3, sums=6, same=True)
    group.run()
    words = [body.tobytes() for body in bodies(group, Wire.masked)]
    assert len(set(words)) == len(words) == 18
    rows = np.concatenate([body.reshape(-1, 8) for body in bodies(group, Wire.masked)])
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_keys_and_boxes_are_fresh_in_every_sum() -> None:
    group = Group(3, sums=4)
    group.run()
    keys = [body.tobytes() for body in bodies(group, Wire.keys)]
    assert len(set(keys)) == 12
    boxes = [
        row.tobytes() for d in group.deliveries if d.message == Wire.boxes.name for row in d.payload.body if row.any()
    ]
    assert len(set(boxes)) == len(boxes) == 24


def test_no_frame_holds_a_vector_a_seed_or_a_private_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the coordinator nor who listens sees a silo's words; keys and seeds of those that stay are not sent."""
    secrets: list[bytes] = []
    fresh, made = KeyPair.fresh, secure_sum.split

    def spy(secret: bytes, threshold: int, holders: int) -> list[bytes]:
        secrets.append(secret)
        return made(secret, threshold, holders)

    monkeypatch.setattr(secure_sum, "split", spy)
    group = Group(3)
    group.run()
    assert len(secrets) == 6 and fresh is KeyPair.fresh
    sent = b"|".join(frame.body for frame in group.frames)
    for name in group.names:
        words = to_words(group.values(name, 1))
        assert all(row.tobytes() not in sent for row in words)
        assert group.values(name, 1).tobytes() not in sent
    assert all(secret not in sent for secret in secrets)


def test_the_transcript_is_the_wire_table() -> None:
    group = Group(3)
    group.run()
    wire = {m.name: m for m in vars(Wire).values() if isinstance(m, Message)}
    seen = [d for d in group.deliveries if d.message.startswith("secure_sum.")]
    for delivery in seen:
        message = wire[delivery.message]
        assert type(delivery.payload) is message.payload
        assert (delivery.receiver == COORDINATOR) == (message.dst is Coordinator)
        assert (delivery.sender == COORDINATOR) == (message.src is Coordinator)
    order = ["keys", "keys_of_all", "boxes", "boxes_for", "masked", "answered", "shares"]
    for name in group.names:
        assert [d.message for d in seen if name in (d.sender, d.receiver)] == [f"secure_sum.{each}" for each in order]
    assert set(wire) == {d.message for d in seen}


def test_what_messages_disclose_is_the_leakage_list() -> None:
    section = re.search(r"\nLeakage\n-+\n(.*?)\n\n", secure_sum.__doc__, re.DOTALL).group(1)
    listed = dict(re.findall(r"^(coordinator|silos) : (.*(?:\n {4}.*)*)", section, re.MULTILINE))
    told = {
        role: {m.discloses for m in vars(Wire).values() if isinstance(m, Message) and m.dst is kind and m.discloses}
        for role, kind in (("coordinator", Coordinator), ("silos", DataParty))
    }
    assert {role: " ".join(text.split()) for role, text in listed.items()} == {
        role: "; ".join(texts) for role, texts in told.items()
    }


def test_the_ledger_tells_what_the_coordinator_learns() -> None:
    group = Group(3)
    group.run()
    told = [e for e in group.ledgers[COORDINATOR].entries if e.message == Wire.shares.name]
    assert len(told) == 3 and all(entry.discloses == Wire.shares.discloses for entry in told)
