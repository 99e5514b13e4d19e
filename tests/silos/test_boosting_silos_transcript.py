"""What silos send in boosting is the Wire tables, and says nothing of whose a row is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import gmpy2
import numpy as np
import pytest

from parties.codec import encode
from parties.errors import LocalProtocolError
from parties.link import COORDINATOR, Delivery
from parties.spec import holder_of
from parties.wire import TELLING, Bitmaps, Encrypted, EncryptedSums, Masked, Message, Positions
from tests.silos.silo_forests import SiloForests, silo_forests
from vfl import boosting, boosting_silos, boosting_silos_scoring, candidates, importance, siblings
from vfl.paillier import PrivateKey, generate_keypair, unpack_slots

KEY = generate_keypair(512, insecure_test_mode=True)
CUT = (3, 2, 0)
QUICK: dict[str, Any] = {"n_estimators": 2, "max_depth": 3, "min_child_weight": 0.1, "max_bin": 8}
TABLES: tuple[ModuleType, ...] = (boosting_silos, importance, siblings)
FROM_SILOS = ("boosting_silos.gradients", "boosting_silos.candidates")
RELAYED = ("boosting_silos.gradients_copy", "boosting_silos.candidate_sums")


@dataclass
class Run:
    forests: SiloForests
    fits: dict[str, Any]
    key: PrivateKey


def fit(forests: SiloForests) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boosting_silos, "generate_keypair", lambda *_, **__: KEY)
        return Run(forests, forests.fit(), KEY)


def make_forests(**more: Any) -> SiloForests:
    return silo_forests("binary", CUT, settings=QUICK, validation=20, **more)


@pytest.fixture(scope="module")
def run() -> Run:
    return fit(make_forests())


def table(*modules: ModuleType) -> dict[str, Message]:
    found = [value for module in modules for value in vars(module.Wire).values()]
    return {message.name: message for message in found if isinstance(message, Message)}


def opened(body: Any, terms: Any) -> Any:
    layout = boosting.plan_gradients(512, terms)
    residues = KEY.decrypt_values(KEY.public.kernel.from_rows(body))
    return unpack_slots(layout, residues, KEY.public.n).reshape(-1, layout.group)


# messages and what they disclose


def test_the_transcript_is_the_wire_tables(run: Run) -> None:
    wire, roles, used = table(*TABLES), run.forests.roles, set()
    for delivery in run.forests.received():
        message = wire[delivery.message]
        used.add(delivery.message)
        assert type(delivery.payload) is message.payload
        assert issubclass(roles[delivery.sender], message.src)
        assert issubclass(roles[delivery.receiver], message.dst)
    assert used == set(wire) - {"siblings.named", "siblings.all_named"}  # of categories


def test_messages_come_in_the_order_of_the_docstring(run: Run) -> None:
    """Of a passive silo that is not the first one: no counts, no importance."""
    silo = "shop-1.s1"
    names = [
        d.message.partition(".")[2]
        for d in run.forests.received()
        if silo in (d.sender, d.receiver) and not d.message.startswith("siblings.")
    ]
    level = "candidates chosen sides "
    tree = f"tree gradients_copy ({level}outcome )*({level})?"
    assert re.fullmatch(f"key ({tree})+tree ", "".join(f"{name} " for name in names))


@pytest.mark.parametrize("module", [boosting_silos, boosting_silos_scoring], ids=lambda m: m.__name__)
def test_the_leakage_list_says_what_messages_disclose(module: ModuleType) -> None:
    section = " ".join(re.search(r"\nLeakage\n-+\n(.*?)\n\n", module.__doc__ or "", re.S).group(1).split())  # type: ignore[union-attr]
    entries = re.split(r"(?:^| )(active|other silos of the label holder|passive|silos|coordinator) : ", section)
    listed = dict(zip(entries[1::2], entries[2::2], strict=True))
    whose = {"Active": "active", "LabelSilo": "other silos of the label holder", "Passive": "passive"}
    for message in table(module).values():
        if message.discloses:
            assert message.discloses in listed[whose[message.dst.__name__]], message
        assert bool(message.discloses) >= issubclass(message.payload, TELLING)


def test_the_ledger_says_what_was_disclosed(run: Run) -> None:
    wire = table(*TABLES)
    entries = [e for ledger in run.forests.ledgers.values() for e in ledger.entries if e.message in wire]
    assert {entry.message for entry in entries} == {d.message for d in run.forests.received()}
    for entry in entries:
        message = wire[entry.message]
        assert (entry.kind, entry.discloses) == (message.payload.__name__, message.discloses)


# whose a row is


def shapes(deliveries: Sequence[Delivery]) -> list[Any]:
    """Messages in order with the sizes of their arrays."""
    sizes = []
    for d in deliveries:
        arrays = [getattr(d.payload, name, None) for name in d.payload.__struct_fields__]
        sizes.append((d.sender, d.receiver, d.message, [a.shape for a in arrays if isinstance(a, np.ndarray)]))
    return sizes


def test_nobody_can_tell_from_sizes_whose_a_row_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other owners of the same rows: the same messages of the same sizes, in the same order."""
    other = make_forests()
    rng = np.random.default_rng(7)
    owners = [rng.integers(0, max(count, 1), len(other.y)) for count in CUT]
    places = {
        name: np.flatnonzero(owner == i)
        for owner, silos in zip(owners, other.members.values(), strict=True)
        for i, name in enumerate(silos)
    }
    monkeypatch.setattr(SiloForests, "places", lambda self: places)
    again = fit(other)
    assert shapes(again.forests.received()) == shapes(run.forests.received())


def test_what_the_active_party_reads_does_not_depend_on_who_owns_rows(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened sums, bitmaps, counts: the same to the last bit, but for the order of candidates."""
    whole = fit(silo_forests("binary", (3, 1, 0), settings=QUICK, validation=20))
    views = []
    for one in (run, whole):
        terms = one.forests.terms()
        sums = [d.payload for d in one.forests.received("boosting_silos.candidate_sums", to="bank.s0")]
        offered = [d.payload.values.tolist() for d in one.forests.received("boosting_silos.offered", to="bank.s0")]
        views.append(([sorted(opened(payload.body, terms).tolist()) for payload in sums], offered))
    assert views[0] == views[1]


def test_the_coordinator_sees_ciphertexts_and_masked_words_only(run: Run) -> None:
    for delivery in run.forests.received(to=COORDINATOR):
        assert type(delivery.payload) in (Encrypted, Masked) or delivery.message in (
            "boosting_silos.turn",
            "boosting_silos.key_copy",
        )
    steps = {d.payload.facts["step"] for d in run.forests.received("boosting_silos.turn")}
    assert steps == {"tree", "level", "end"}


def test_masked_words_look_random(run: Run) -> None:
    """Bits of a silo's own sides, bare, are mostly zeros."""
    bodies = [d.payload.body for d in run.forests.received("boosting_silos.sides")]
    bits = np.unpackbits(np.concatenate([body.ravel() for body in bodies]).view(np.uint8))
    assert len(bits) > 1000
    assert abs(bits.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(bits))
    words = [int(word) for body in bodies for word in body.ravel()]
    assert len(set(words)) == len(words)


def test_a_silo_sends_ciphertexts_of_zero_for_rows_of_others(run: Run) -> None:
    terms, places = run.forests.terms(), run.forests.places()
    layout = boosting.plan_gradients(512, terms)
    for name in run.forests.members["bank"]:
        first = next(d for d in run.forests.received("boosting_silos.gradients") if d.sender == name)
        values = opened(first.payload.body, terms)[:: layout.per_ciphertext]
        assert len(values) == terms.rows
        assert np.flatnonzero(values.any(axis=1)).tolist() == [at for at in places[name].tolist() if at < terms.rows]


def test_every_ciphertext_is_a_unit_of_symbol_one_and_used_once(run: Run) -> None:
    n = KEY.public.n
    for receiver in run.forests.roles:
        seen = [
            row.tobytes()
            for d in run.forests.received(to=receiver)
            if isinstance(d.payload, Encrypted | EncryptedSums)
            for row in d.payload.body
        ]
        assert len(set(seen)) == len(seen)
    bodies = {id(d.payload): d.payload.body for d in run.forests.received(*FROM_SILOS, *RELAYED)}
    rows = [int.from_bytes(row.tobytes()) for body in bodies.values() for row in body]
    assert len(rows) > 500
    for c in rows:
        assert (c - 1) % n != 0 and gmpy2.gcd(c, n) == 1 and gmpy2.jacobi(c % n, n) == 1


def test_passive_silos_get_products_and_no_silos_own(run: Run) -> None:
    own = {row.tobytes() for d in run.forests.received("boosting_silos.gradients") for row in d.payload.body}
    for name in run.forests.job.passive:
        got = [
            row.tobytes()
            for d in run.forests.received("boosting_silos.gradients_copy", to=name)
            for row in d.payload.body
        ]
        assert len(got) == 2 * run.forests.terms().rows
        assert not own & set(got)
    sums = [row.tobytes() for d in run.forests.received("boosting_silos.candidate_sums") for row in d.payload.body]
    parts = {
        row.tobytes()
        for d in run.forests.received("boosting_silos.candidates")
        if holder_of(d.sender) == "shop-1"
        for row in d.payload.body
    }
    assert sums and not parts & set(sums)


def test_candidates_leave_freshly_randomised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "rerandomise", lambda vector, **_: vector)
    with pytest.raises(LocalProtocolError, match="without re-randomising"):
        fit(make_forests())


def test_candidates_come_in_an_order_that_the_holder_alone_knows(run: Run) -> None:
    """Two runs on the same data: the same sums, in another order."""
    again = fit(make_forests())
    views = []
    for one in (run, again):
        payload = one.forests.received("boosting_silos.candidate_sums")[0].payload
        offered = one.forests.received("boosting_silos.offered")[0].payload.values
        views.append(opened(payload.body, one.forests.terms())[: int(offered[1::2].sum())].tolist())
    assert views[0] != views[1] and sorted(views[0]) == sorted(views[1])


def test_siblings_talk_to_siblings_only(run: Run) -> None:
    for delivery in run.forests.received():
        if delivery.message.startswith("siblings."):
            assert holder_of(delivery.sender) == holder_of(delivery.receiver)


def test_what_passes_between_parties_is_sealed(run: Run) -> None:
    relayed = b"|".join(
        frame.body
        for frame in run.forests.frames_sent
        if COORDINATOR not in (frame.header.sender, frame.header.receiver)
    )
    checked = set()
    for delivery in run.forests.received():
        if COORDINATOR not in (delivery.sender, delivery.receiver):
            assert encode(delivery.payload) not in relayed
            checked.add(type(delivery.payload))
    assert {Bitmaps, Positions, Masked} <= checked


def test_the_private_key_stays_at_the_active_party(run: Run) -> None:
    for prime in KEY.primes():
        size = (prime.bit_length() + 7) // 8
        for frame in run.forests.frames_sent:
            assert prime.to_bytes(size, "little") not in frame.body
            assert prime.to_bytes(size, "big") not in frame.body


def test_only_label_silos_are_told_gains_and_they_are_those_of_splits(run: Run) -> None:
    told = run.forests.received("boosting_silos.gains")
    assert {d.receiver for d in told} == {"bank.s1", "bank.s2"}
    trees = run.fits["bank"].boosted.trees
    made = {gain for tree in trees for gain in tree.gain[tree.owner > 0].tolist()}
    assert {gain for d in told for gain in d.payload.values.tolist() if gain} == made


def test_one_silo_alone_sends_nothing_to_siblings() -> None:
    forests = silo_forests("binary", (0, 1), settings=QUICK)
    forests.fit()
    assert not [d for d in forests.received() if d.message.startswith("siblings.")]
    assert not forests.received("boosting_silos.gains", "boosting_silos.told")


def test_importance_in_all_hides_the_columns() -> None:
    run = fit(replace(make_forests(), tell=False))
    for told in run.forests.received("importance.feature_gains"):
        assert told.payload.counts.tolist() == [[0, 1]]
    assert len(run.fits["bank"].importance["shop-1"].gain) == 1
