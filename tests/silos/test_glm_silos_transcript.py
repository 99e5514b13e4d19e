"""What silos send is the Wire tables; nobody is sent what the leakage lists lack, or can tell whose a row is."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from parties.errors import RemoteProtocolError
from parties.link import COORDINATOR, Delivery
from parties.wire import Encrypted, Masked, Message, Opened
from tests.glm.federations import tamper
from tests.silos.federations import SiloFederation, make_silos
from vfl import glm_silos, prepare, row_masks, scoring_silos, siblings
from vfl.play import role_types

SILOS = {"bank": 3, "shop": 2, "post": 0}
TABLES: tuple[ModuleType, ...] = (glm_silos, row_masks, scoring_silos, siblings, prepare)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> SiloFederation:
    found = make_silos("logistic", SILOS, training={"max_iter": 4})
    found.play(tmp_path_factory.mktemp("run"))
    return found


def table(module: ModuleType) -> dict[str, Message]:
    return {value.name: value for value in vars(module.Wire).values() if isinstance(value, Message)}


def sent(federation: SiloFederation, message: str) -> list[Delivery]:
    return [d for d in federation.deliveries if d.message == message]


def test_the_transcript_is_the_wire_tables(federation: SiloFederation) -> None:
    roles, wire = role_types(federation.job()), {k: v for module in TABLES for k, v in table(module).items()}
    used = set()
    for delivery in federation.deliveries:
        if delivery.message.startswith("greeting."):
            continue
        message = wire[delivery.message]
        used.add(delivery.message)
        assert type(delivery.payload) is message.payload
        assert issubclass(roles[delivery.sender], message.src)
        assert issubclass(roles[delivery.receiver], message.dst)
    assert used == set(wire)


@pytest.mark.parametrize("module", [glm_silos, scoring_silos, siblings], ids=lambda m: m.__name__)
def test_the_leakage_list_says_what_messages_disclose(module: ModuleType) -> None:
    section = " ".join(
        re.search(r"\nLeakage\n-+\n(.*?)\n\n>|\nLeakage\n-+\n(.*?)\n\n", module.__doc__, re.S).group(0).split()
    )
    for message in table(module).values():
        for part in message.discloses.split("; "):
            assert part in section, part


def test_siblings_talk_to_siblings_only(federation: SiloFederation) -> None:
    holder = federation.members
    for delivery in federation.deliveries:
        if delivery.message.startswith(("siblings.", "row_masks.")):
            assert holder[delivery.sender] == holder[delivery.receiver]


def test_nobody_can_tell_from_sizes_whose_a_row_is(federation: SiloFederation, tmp_path: Path) -> None:
    """Other owners of the same rows: the same messages of the same sizes, in the same order."""
    other = make_silos("logistic", SILOS, training={"max_iter": 4})
    rng = np.random.default_rng(11)
    other.owners = {holder: rng.permutation(owner) for holder, owner in other.owners.items()}
    other.play(tmp_path)

    def shapes(found: SiloFederation) -> list[tuple[str, str, str, object]]:
        return [
            (d.sender, d.receiver, d.message, getattr(getattr(d.payload, "body", None), "shape", None))
            for d in found.deliveries
            if not d.message.startswith("siblings.total")
        ]

    assert shapes(federation) == shapes(other)


def test_the_coordinator_sees_words_that_look_random_at_every_row(federation: SiloFederation) -> None:
    n = federation.job().split.test_fraction
    rows = len(federation.frames["bank"]) - round(n * len(federation.frames["bank"]))
    for name in ("shop.s0", "shop.s1"):
        own = set(federation.owned(name).tolist())
        for delivery in sent(federation, "glm_silos.scores"):
            if delivery.sender != name:
                continue
            assert isinstance(delivery.payload, Masked)
            words = delivery.payload.body[:, 0]
            assert words.shape == (rows,)
            mine = np.array([row in own for row in range(rows)])
            for part in (words[mine], words[~mine]):  # zeros stand at the others' rows, under the masks
                assert len(np.unique(part)) == len(part)
                bits = np.unpackbits(part.view(np.uint8)).mean()
                assert abs(bits - 0.5) < 0.05


def test_lifted_masks_open_own_rows_and_no_others(federation: SiloFederation) -> None:
    """What a silo shows of its masks is complete at the rows of others only; at its own it is random, and fresh."""
    shown: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    for delivery in sent(federation, "row_masks.lifted"):
        assert isinstance(delivery.payload, Masked)
        shown[delivery.sender].append(delivery.payload.body[:, 0])
    total = [d.payload.body[:, 0] for d in sent(federation, "glm_silos.score_sums") if d.receiver == "bank.s0"]
    rows = len(total[0])
    first = [shown[f"bank.s{i}"][0][:rows] for i in range(3)]
    # all three silos' words added to the sum: scores nowhere, since each row's owner has kept its mask back
    together = (total[0] + first[0] + first[1] + first[2]).view(np.int64)
    assert (np.abs(together) > 2**40).mean() > 0.99


def test_each_label_silo_hears_the_same_sum_and_opens_its_rows(federation: SiloFederation) -> None:
    sums = defaultdict(list)
    for delivery in sent(federation, "glm_silos.score_sums"):
        sums[delivery.receiver].append(delivery.payload.body)
    assert set(sums) == {"bank.s0", "bank.s1", "bank.s2"}
    for bodies in zip(*sums.values(), strict=True):
        assert all(np.array_equal(body, bodies[0]) for body in bodies[1:])


def test_every_ciphertext_is_sent_once(federation: SiloFederation) -> None:
    seen: dict[bytes, tuple[str, str]] = {}
    for delivery in federation.deliveries:
        if isinstance(delivery.payload, Encrypted) and delivery.message != "glm_silos.residual_copy":
            for row in delivery.payload.body:
                place = (delivery.sender, delivery.message)
                # of one silo alone, what the coordinator hands on is what it was sent
                assert seen.setdefault(row.tobytes(), place) == place or delivery.message == "glm_silos.all_products"


def test_products_of_one_silo_are_uniform_under_their_masks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys = []
    make = glm_silos.generate_keypair
    monkeypatch.setattr(glm_silos, "generate_keypair", lambda *a, **o: keys.append(make(*a, **o)) or keys[-1])
    found = make_silos("logistic", {"bank": 0, "shop": 2}, training={"max_iter": 2})
    found.play(tmp_path)
    (key,) = keys
    n = key.public.n
    for delivery in sent(found, "glm_silos.products"):
        values = key.decrypt_values(key.public.kernel.from_rows(delivery.payload.body))
        assert all(n >> 40 < value for value in values)  # a bare product, or one under m alone, is far smaller
    for delivery in sent(found, "glm_silos.opened"):
        assert isinstance(delivery.payload, Opened)


@pytest.mark.parametrize(
    ("sender", "message", "blamed"),
    [
        ("bank.s1", "glm_silos.residual", "bank.s1"),
        ("shop.s1", "glm_silos.products", "shop.s1"),
        ("shop.s0", "glm_silos.gradient_scalars", "shop.s0"),
        ("shop.s1", "glm_silos.scores", "shop.s1"),
        ("bank.s1", "row_masks.lifted", "bank.s1"),
        ("bank.s1", "siblings.part", "bank.s1"),
        (COORDINATOR, "glm_silos.score_sums", COORDINATOR),
        (COORDINATOR, "glm_silos.all_products", COORDINATOR),
        ("shop.s1", "scoring_silos.partial", "shop.s1"),
    ],
)
def test_a_truncated_message_names_its_sender(
    sender: str, message: str, blamed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def shorter(payload: object) -> object:
        if isinstance(payload, Encrypted):
            return Encrypted(payload.key, payload.body[:-1])
        assert isinstance(payload, Masked)
        return Masked(payload.body[:-1])

    tamper(monkeypatch, sender, message, shorter)
    with pytest.raises(RemoteProtocolError, match=re.escape(blamed)):
        make_silos("logistic", {"bank": 2, "shop": 2}, training={"max_iter": 2}).play(tmp_path)
