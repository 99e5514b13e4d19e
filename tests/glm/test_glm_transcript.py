"""The transcript of a run is its Wire table; ciphertexts are fresh; nobody is sent what the leakage list lacks."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType

import gmpy2
import numpy as np
import pytest

from parties.codec import encode
from parties.errors import RemoteProtocolError
from parties.link import COORDINATOR, Delivery
from parties.wire import Encrypted, Message, Opened, Revealed
from tests.glm.federations import Federation, make_federation, tamper
from vfl import glm, glm_exact, glm_quadratic
from vfl.glm import Fit
from vfl.paillier import PrivateKey, centred

ROWS, SEED = 60, 5
PROTOCOLS = {"active": glm_exact, "coordinator": glm_quadratic}
SHAPES = {
    ("active", "logistic"): {},
    ("active", "softmax"): {"max_iter": 3},
    ("coordinator", "logistic"): {"newton_steps": 1},
}


@dataclass
class Run:
    federation: Federation
    fits: dict[str, Fit]
    key: PrivateKey
    key_made_by: str
    products: dict[str, set[int]]  # exact X'r of each party, as integers
    gradients: dict[str, list[np.ndarray]]
    scores: dict[str, list[np.ndarray]]

    @property
    def module(self) -> ModuleType:
        return PROTOCOLS[self.federation.key_holder]

    def to(self, receiver: str) -> Iterator[Delivery]:
        yield from (d for d in self.federation.deliveries if d.receiver == receiver)

    def between_parties(self) -> Iterator[Delivery]:
        yield from (d for d in self.federation.deliveries if COORDINATOR not in (d.sender, d.receiver))

    def ciphertexts(self) -> Iterator[tuple[Delivery, int]]:
        for delivery in self.federation.deliveries:
            if isinstance(delivery.payload, Encrypted):
                yield from ((delivery, int.from_bytes(row.tobytes())) for row in delivery.payload.body)


@pytest.fixture(scope="module", params=SHAPES, ids=lambda p: f"key at {p[0]}, {p[1]}")
def run(request: pytest.FixtureRequest) -> Run:
    """One run, with what each party computed in private beside what was sent."""
    key_holder, model = request.param
    federation = make_federation(
        model, ROWS, (2, 3, 2), seed=SEED, key_holder=key_holder, training=SHAPES[request.param]
    )
    module = PROTOCOLS[key_holder]
    keys: list[tuple[PrivateKey, str]] = []
    products: dict[str, set[int]] = {name: set() for name in federation.names}
    gradients: dict[str, list[np.ndarray]] = {name: [] for name in federation.names}
    scores: dict[str, list[np.ndarray]] = {name: [] for name in federation.names}
    me = lambda: threading.current_thread().name  # noqa: E731
    make_key, mean_gradient, forward = module.generate_keypair, glm.mean_gradient, glm.forward

    def spy_key(*args: object, **options: object) -> PrivateKey:
        keys.append((make_key(*args, **options), me()))
        return keys[-1][0]

    def spy_gradient(block: glm.Block, exact: list[list[int]], bits: int) -> np.ndarray:
        products[me()].update(value for column in exact for value in column)
        gradients[me()].append(mean_gradient(block, exact, bits))
        return gradients[me()][-1]

    def spy_forward(block: glm.Block, weights: np.ndarray, rows: slice | None = None) -> np.ndarray:
        scores[me()].append(forward(block, weights, rows))
        return scores[me()][-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "generate_keypair", spy_key)
        patch.setattr(glm, "mean_gradient", spy_gradient)
        patch.setattr(glm, "forward", spy_forward)
        fits = federation.fit()
    ((key, maker),) = keys
    return Run(federation, fits, key, maker, products, gradients, scores)


def residues(key: PrivateKey, body: np.ndarray) -> list[int]:
    """What the key's holder reads in rows of ciphertexts."""
    return key.decrypt_values(key.public.kernel.from_rows(body))


def same_federation(run: Run) -> Federation:
    federation = run.federation
    options = {"key_holder": federation.key_holder, "training": federation.training}
    return make_federation(federation.model, ROWS, federation.cuts, seed=SEED, **options)


def table(module: ModuleType) -> dict[str, Message]:
    return {value.name: value for value in vars(module.Wire).values() if isinstance(value, Message)}


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_transcript_is_the_wire_table(run: Run) -> None:
    roles = {COORDINATOR: "Coordinator", "active": "Active", "passive-1": "Passive", "passive-2": "Passive"}
    wire, used = table(run.module), set()
    for delivery in run.federation.deliveries:
        if delivery.message.startswith("greeting."):
            continue
        message = wire[delivery.message]
        used.add(delivery.message)
        assert type(delivery.payload) is message.payload
        assert message.src.__name__ in (roles[delivery.sender], "DataParty")
        assert message.dst.__name__ in (roles[delivery.receiver], "DataParty")
        assert not (message.src.__name__ == "DataParty" and delivery.sender == COORDINATOR)
    assert used == set(wire)


BESIDE_MESSAGES = {  # in the leakage list, and in no message's words
    "sizes and timing",
    "it holds no key, and adds up what it cannot read",
    "its own columns' products with the scores of directions, hence X_A'",  # the active party's part of `opened`
}


def leakage_list(module: ModuleType) -> dict[str, str]:
    """The section "Leakage" of a protocol's docstring, by role."""
    section = re.search(r"\nLeakage\n-+\n(.*?)\n\n", module.__doc__, re.DOTALL).group(1)
    entries = re.findall(r"^(active|passive|coordinator) : (.*(?:\n {4}.*)*)", section, re.MULTILINE)
    return {role: words(text) for role, text in entries}


def told_to(role: str, module: ModuleType) -> list[str]:
    kinds = {"active": ("Active", "DataParty"), "passive": ("Passive", "DataParty"), "coordinator": ("Coordinator",)}
    return [words(m.discloses) for m in table(module).values() if m.dst.__name__ in kinds[role] and m.discloses]


@pytest.mark.parametrize("module", PROTOCOLS.values(), ids=lambda m: m.__name__)
def test_what_messages_disclose_is_the_leakage_list(module: ModuleType) -> None:
    listed = leakage_list(module)
    assert set(listed) == {"active", "passive", "coordinator"}
    for message in table(module).values():
        assert message.discloses or not issubclass(message.payload, (Revealed, Opened)), message
    own = BESIDE_MESSAGES if module is glm_quadratic else set()
    for role, text in listed.items():
        for told in told_to(role, module):
            if not (role == "active" and told == words(glm_quadratic.Wire.opened.discloses) and own):
                assert told in text, role
        for item in re.sub(r" ?\([^)]*\)", "", text).split("; "):
            assert item in BESIDE_MESSAGES or any(item in told for told in told_to(role, module)), (role, item)


def test_the_ledger_says_what_was_disclosed(run: Run) -> None:
    wire = table(run.module)
    entries = [e for ledger in run.federation.ledgers.values() for e in ledger.entries if e.message in wire]
    assert {e.message: e.discloses for e in entries} == {name: m.discloses for name, m in wire.items()}


def test_ciphertexts_are_fresh_units_of_symbol_one(run: Run) -> None:
    n = run.key.public.n
    for _, c in run.ciphertexts():
        assert (c - 1) % n != 0
        assert gmpy2.gcd(c, n) == 1
        assert gmpy2.jacobi(c % n, n) == 1


def test_no_ciphertext_occurs_twice(run: Run) -> None:
    """Each receiver sees each ciphertext once; only what goes to all passive parties alike is sent several times."""
    for receiver in (COORDINATOR, *run.federation.names):
        seen = [c for d, c in run.ciphertexts() if d.receiver == receiver]
        assert len(set(seen)) == len(seen) > 0
    alike = {"residual", "residual_copy", "deviation", "direction_scores", "products", "all_products"}
    times: dict[int, list[str]] = {}
    for d, c in run.ciphertexts():
        times.setdefault(c, []).append(d.message.rpartition(".")[2])
    assert all(len(names) == 1 or set(names) <= alike for names in times.values())


def test_equal_plaintexts_differ(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs under one key: every message repeats its plaintexts up to masks, and no ciphertext occurs twice."""
    monkeypatch.setattr(run.module, "generate_keypair", lambda *_, **__: run.key)
    again = same_federation(run)
    again.fit()
    first = next(d for d, _ in run.ciphertexts()).payload.body
    second = next(d for d in again.deliveries if isinstance(d.payload, Encrypted)).payload.body
    read = [residues(run.key, body) for body in (first, second)]
    assert read[0] == read[1]
    assert not {c for _, c in run.ciphertexts()} & {c for _, c in replace(run, federation=again).ciphertexts()}


def test_the_private_key_stays_where_it_was_made(run: Run) -> None:
    assert run.key_made_by == ("active" if run.federation.key_holder == "active" else COORDINATOR)
    for prime in run.key.primes():
        size = (prime.bit_length() + 7) // 8
        for frame in run.federation.frames:
            assert prime.to_bytes(size, "little") not in frame.body
            assert prime.to_bytes(size, "big") not in frame.body


def test_what_passes_between_parties_is_sealed(run: Run) -> None:
    """Frames as the coordinator relays them: no ciphertext that a party sent to another can be read off."""
    relayed = b"|".join(
        frame.body for frame in run.federation.frames if COORDINATOR not in (frame.header.sender, frame.header.receiver)
    )
    checked = 0
    for delivery in run.between_parties():
        if isinstance(delivery.payload, Encrypted):
            assert all(row.tobytes() not in relayed for row in delivery.payload.body)
            checked += 1
        assert encode(delivery.payload) not in relayed
    assert checked == 0 if run.federation.key_holder == "active" else checked > 0
    mine = {id(d.payload) for d in run.to(COORDINATOR)}
    assert all(id(d.payload) not in mine for d in run.between_parties())


def forbidden(run: Run) -> dict[str, dict[str, set[bytes]]]:
    """What may reach nobody but its owner, in every form in which it exists there."""
    federation = run.federation
    found: dict[str, dict[str, set[bytes]]] = {}
    for name in federation.names:
        block = federation.block(name)
        features = block.integers[:, : block.width - (name == "active")]
        plain = np.ldexp(features.astype(float), -block.scale_bits[: features.shape[1]])
        first = int(np.sum(federation.cuts[: federation.names.index(name)], dtype=int))
        original = federation.X[:, first : first + features.shape[1]]
        items = {
            "feature": {v.tobytes() for v in (*plain.ravel(), *original.ravel()) if v != 0}
            | {features[i : i + 3, j].tobytes() for i in range(len(features) - 2) for j in range(features.shape[1])},
            "gradient": {v.tobytes() for g in run.gradients[name] for v in g.ravel()},
            "product": {
                (abs(v)).to_bytes(8, order)
                for v in run.products[name]
                if abs(v) > 1 << 24
                for order in ("little", "big")
            },
            "scores": {s.tobytes()[at : at + 16] for s in run.scores[name] for at in range(0, s.nbytes - 15, 8)},
            "weights": {v.tobytes() for v in run.fits[name].weights.ravel()},
        }
        if name == "active":
            y = np.asarray(federation.y)
            items["labels"] = {y.astype(t).tobytes() for t in (np.uint8, np.int64, np.float64)} | {
                y[i : i + 6].astype(np.float64).tobytes() for i in range(len(y) - 5)
            }
        found[name] = {kind: {item for item in group if any(item)} for kind, group in items.items()}
    return found


def leaks(payloads: bytes, owned: dict[str, set[bytes]]) -> set[str]:
    return {kind for kind, items in owned.items() if any(item in payloads for item in items)}


def test_no_role_is_sent_features_labels_gradients_or_scores_in_plain(run: Run) -> None:
    secrets = forbidden(run)
    for receiver in (COORDINATOR, *run.federation.names):
        received = b"|".join(encode(d.payload) for d in run.to(receiver))
        for owner, items in secrets.items():
            if owner != receiver:
                assert leaks(received, items) == set(), (owner, receiver)
    frames = b"|".join(frame.body for frame in run.federation.frames)
    for owner, items in secrets.items():
        assert leaks(frames, items) == set(), owner


def test_the_scan_finds_planted_secrets(run: Run) -> None:
    secrets = forbidden(run)
    plain = Revealed({}, np.ascontiguousarray(run.federation.X[:, 0]))
    assert leaks(encode(plain), secrets["active"]) == {"feature"}
    assert leaks(encode(Revealed({}, np.asarray(run.federation.y, dtype=np.float64))), secrets["active"]) == {"labels"}
    gradient = run.gradients["passive-2"][0]
    assert leaks(encode(Revealed({}, gradient[:1].copy())), secrets["passive-2"]) == {"gradient"}


def test_the_scan_finds_what_a_naive_party_sends(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scan, where a passive party forgets the masks of its scores."""
    monkeypatch.setattr("vfl.masking.Masks._words", lambda self, label, count: np.zeros(count, dtype=np.uint64))
    naive = same_federation(run)
    captured: list[np.ndarray] = []
    forward = glm.forward

    def spy(block: glm.Block, weights: np.ndarray, rows: slice | None = None) -> np.ndarray:
        scores = forward(block, weights, rows)
        if threading.current_thread().name == "passive-1":
            captured.append(scores)
        return scores

    monkeypatch.setattr(glm, "forward", spy)
    naive.fit()
    received = b"|".join(encode(d.payload) for d in naive.deliveries if d.receiver == COORDINATOR)
    owned = {"scores": {s.tobytes()[at : at + 16] for s in captured for at in range(0, s.nbytes - 15, 8)}}
    assert leaks(received, owned) == {"scores"}


def test_what_the_key_holder_decrypts_is_masked(run: Run) -> None:
    """Plaintexts of all products opened: none is a product, and they spread over the whole range of their masks."""
    holder = run.key_made_by
    opened = [m for d in run.to(holder) if isinstance(d.payload, Encrypted) for m in residues(run.key, d.payload.body)]
    everything = set().union(*run.products.values())
    n = run.key.public.n
    assert not everything & {centred(m, n) for m in opened}
    largest = max(abs(p) for p in everything)
    assert min(abs(centred(m, n)) for m in opened) > largest << 40
    assert len(set(opened)) == len(opened) > 5


def test_a_wrong_opening_is_refused_and_its_sender_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = run.key_made_by
    tamper(monkeypatch, holder, f"{run.module.__name__.removeprefix('vfl.')}.opened", lambda p: Opened(p.body[:, 1:]))
    federation = same_federation(run)
    with pytest.raises(RemoteProtocolError, match=f"opened products from {holder}"):
        federation.fit()
