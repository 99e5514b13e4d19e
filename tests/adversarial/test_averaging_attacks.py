"""What a coordinator, silos, or both together can get out of secure sums: what the docstrings say, and no more."""

from __future__ import annotations

import hashlib
import itertools
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import pytest

from parties.errors import CryptoError, RemoteProtocolError
from parties.link import COORDINATOR, Endpoint
from parties.sealing import KeyPair
from parties.wire import Control, Coordinator, DataParty, Masked
from tests.silos.averaging import L2, make, make_job
from tests.silos.test_secure_sum import Asking, Group
from vfl import secure_sum
from vfl.attendance import Attendance
from vfl.secure_sum import Wire, collect, from_words
from vfl.shamir import join

VICTIM = "clinics.s0"


@dataclass
class Loot:
    """What silos on the coordinator's side tell it beside the protocol: all shares of the victim that they hold."""

    keys: dict[int, bytes] = field(default_factory=dict)
    seeds: dict[int, bytes] = field(default_factory=dict)


def plunder(
    silos: int, threshold: int, traitors: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[np.ndarray | None, Group]:
    """The victim's own vector, if a coordinator with the last so many silos gets it; every honest silo is lied to.

    Half of the honest others are told that the victim did not answer, so that they open its key; the rest, and the
    victim, that it did, so that they open its second mask. The traitors open both.
    """
    group, loot = Group(silos, threshold=threshold), Loot()
    honest = group.names[1 : silos - traitors]
    fooled = honest[: max(0, threshold - traitors)]
    opened = secure_sum._open

    def spy(side, peer, number, keys, box):
        found = opened(side, peer, number, keys, box)
        if peer == VICTIM and side.name in group.names[silos - traitors :]:
            at = group.names.index(side.name) + 1
            loot.keys[at], loot.seeds[at] = found
        return found

    monkeypatch.setattr(secure_sum, "_open", spy)

    def coordinator(endpoint: Endpoint) -> None:
        for name in fooled:
            link = endpoint.link(Coordinator, DataParty, name)

            def lie(message, payload, send=link.send):
                send(message, Control(payload.facts | {VICTIM: False}) if message is Wire.answered else payload)

            link.send = lie
        links = {name: endpoint.link(Coordinator, DataParty, name) for name in group.names}
        for link in links.values():
            link.recv(Asking.ready)
        for link in links.values():
            link.send(Asking.asked, Control({"number": 1} | dict.fromkeys(group.names, True)))
        with suppress(RemoteProtocolError, CryptoError):  # the victim's shares do not fit together, as it expects
            collect(Attendance(endpoint, links, None), 1, group.names, threshold, 5)
        for link in links.values():
            link.send(Asking.asked, Control({"over": True}))

    group.plays[COORDINATOR] = coordinator
    group.run()
    sent = {d.sender: d.payload.body for d in group.deliveries if d.message == Wire.shares.name}
    for at, name in enumerate(group.names, 1):
        (loot.keys if name in fooled else loot.seeds).setdefault(at, sent[name][0].tobytes())
    if min(len(loot.keys), len(loot.seeds)) < threshold:
        return None, group
    return unmask(group, loot, threshold), group


def unmask(group: Group, loot: Loot, threshold: int) -> np.ndarray:
    """The victim's vector, from enough shares of both kinds."""
    known = next(d.payload.body for d in group.deliveries if d.message == Wire.keys_of_all.name)
    pair, seed = KeyPair.from_private_bytes(join(loot.keys, threshold)), join(loot.seeds, threshold)
    assert pair.public == known[0, :32].tobytes() and hashlib.sha256(seed).digest() == known[0, 32:].tobytes()
    words = next(d.payload.body for d in group.deliveries if (d.message, d.sender) == (Wire.masked.name, VICTIM)).copy()
    secure_sum._subtract(words, secure_sum._stream(seed, 1, len(words)))
    for row in known[1:]:
        secure_sum._subtract(words, secure_sum._stream(pair.agree(row[:32].tobytes()), 1, len(words)))
    return from_words(words)


@pytest.mark.parametrize(
    ("silos", "threshold", "traitors"),
    [(silos, t, m) for silos in (4, 5, 6) for t in range(silos // 2 + 1, silos) for m in range(silos - 1)],
)
def test_a_lying_coordinator_with_traitors_gets_a_silos_vector_only_beyond_the_bound(
    silos: int, threshold: int, traitors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 t > n + m: no vector. Beyond it the attack works, so that the bound in the docstring is the true one."""
    found, group = plunder(silos, threshold, traitors, monkeypatch)
    if 2 * threshold > silos + traitors:
        assert found is None
    else:
        assert found is not None and np.abs(found - group.values(VICTIM, 1)).max() < 1e-15


def test_words_that_come_after_their_key_was_opened_stay_closed() -> None:
    """Why there are two masks: the coordinator says a silo was lost, though its words are there."""
    group, threshold = Group(4), 3
    group.threshold = threshold

    def coordinator(endpoint: Endpoint) -> list:
        for name in group.names[1:]:
            link = endpoint.link(Coordinator, DataParty, name)

            def lie(message, payload, send=link.send):
                send(message, Control(payload.facts | {VICTIM: False}) if message is Wire.answered else payload)

            link.send = lie
        with pytest.raises((RemoteProtocolError, CryptoError), match="do not fit|belong to no secret"):
            group.coordinator(endpoint)
        for name in group.names:
            endpoint.link(Coordinator, DataParty, name).send(Asking.asked, Control({"over": True}))
        return []

    group.plays[COORDINATOR] = coordinator
    group.run()
    known = next(d.payload.body for d in group.deliveries if d.message == Wire.keys_of_all.name)
    sent = {d.sender: d.payload.body for d in group.deliveries if d.message == Wire.shares.name}
    shares = {at: sent[name][0].tobytes() for at, name in enumerate(group.names, 1) if name != VICTIM}
    pair = KeyPair.from_private_bytes(join(shares, threshold))
    assert pair.public == known[0, :32].tobytes()  # it does open the key
    words = next(d.payload.body for d in group.deliveries if (d.message, d.sender) == (Wire.masked.name, VICTIM)).copy()
    for row in known[1:]:
        secure_sum._subtract(words, secure_sum._stream(pair.agree(row[:32].tobytes()), 1, len(words)))
    assert np.abs(from_words(words) - group.values(VICTIM, 1)).min() > 1e6  # and still sees random words


def test_an_exchanged_key_is_found_out_before_any_word_leaves() -> None:
    """A coordinator in the middle would know all pairwise masks; the sealed boxes are bound to the keys."""
    group, own = Group(3), KeyPair.fresh()

    def coordinator(endpoint: Endpoint) -> object:
        for me, name in enumerate(group.names):
            link = endpoint.link(Coordinator, DataParty, name)

            def change(message, payload, send=link.send, me=me):
                if message is Wire.keys_of_all:
                    body = payload.body.copy()
                    body[[u for u in range(3) if u != me], :32] = np.frombuffer(own.public, np.uint8)
                    payload = type(payload)(body)
                send(message, payload)

            link.send = change
        return group.coordinator(endpoint)

    group.plays[COORDINATOR] = coordinator
    with pytest.raises(RemoteProtocolError, match="or the keys that clinics.s. sent, were altered"):
        group.run()
    assert not any(isinstance(d.payload, Masked) for d in group.deliveries)


def test_with_two_silos_each_computes_the_others_update() -> None:
    """Stated as a leak: from the joint models of two rounds and its own part."""
    training = make(make_job(2, aggregation="simple", rounds=2, l2=L2, learning_rate=0.3))
    kept: dict[str, np.ndarray] = {}
    for name, model in training.models.items():
        honest = model.train

        def spy(weights, number, name=name, honest=honest):
            loss, new = honest(weights, number)
            if number == 1:
                kept[name] = new[0]
            return loss, new

        model.train = spy
    training.run()
    asked = [d.payload for d in training.deliveries if (d.receiver, d.message) == (VICTIM, "horizontal.asked")]
    joint = asked[1].values[:3, None]  # what round 1 made
    assert np.abs(2 * joint - kept[VICTIM] - kept["clinics.s1"]).max() < 1e-15


def test_a_silo_that_is_left_out_differs_by_its_part_and_the_step() -> None:
    """Sums over all and over all but one at the same weights would show its gradient: hence never the same weights."""
    training = make(make_job(3, l2=L2))
    models = list(training.models.values())
    weights = models[0].start()
    sums = {
        names: np.sum([models[i].gradient(weights, None)[1][0] for i in names], axis=0)
        for names in itertools.chain(itertools.combinations(range(3), 3), itertools.combinations(range(3), 2))
    }
    assert np.abs(sums[0, 1, 2] - sums[0, 1] - models[2].gradient(weights, None)[1][0]).max() < 1e-12
