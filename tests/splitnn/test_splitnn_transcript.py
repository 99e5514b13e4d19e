"""The transcript of a source layer is its Wire tables; ciphertexts are fresh; nobody reads what the docstring lacks."""

import math
import re
import threading
from dataclasses import dataclass, field

import gmpy2
import numpy as np
import pytest

from parties.codec import encode
from parties.errors import LocalProtocolError
from parties.link import COORDINATOR
from parties.wire import TELLING, Active, Control, Coordinator, Encrypted, Masked, Message, Passive, Revealed
from tests.splitnn.layers import Layers, make_layers
from vfl import forward_pass, source_layer, splitnn, splitnn_scoring
from vfl.epochs import draw_batches
from vfl.paillier import PrivateKey, generate_keypair
from vfl.source_layer import plan_layer

KEY = generate_keypair(512, insecure_test_mode=True)
SHAPES = {
    "one passive party": {"columns": (2, 4), "test": 9},
    "two passive parties, validation": {"columns": (2, 3, 2), "validation": 37, "test": 9},
    "three passive parties, no own columns": {"columns": (0, 2, 3, 2), "settings": {"units": 5}, "test": 9},
}
ONE, TWO, THREE = SHAPES
SEVEN = 7  # standard deviations: what is left to chance


@dataclass
class Run:
    """A run and, beside what was sent, what each passive party multiplied and masked."""

    layers: Layers
    fits: dict
    multiplied: list = field(default_factory=list)  # (party, X, U, [[V]])
    masked: list = field(default_factory=list)  # (party, X, phi)

    @property
    def plan(self):
        return plan_layer(self.layers.terms)

    def deliveries(self, *names, to=None, sender=None):
        return [
            d
            for d in self.layers.deliveries
            if (not names or d.message.partition(".")[2] in names)
            and to in (None, d.receiver)
            and sender in (None, d.sender)
            and not d.message.startswith("greeting.")
        ]

    def ciphertexts(self, *names, **who):
        """Of all messages of these names, as numbers; what is handed on to several counts once."""
        bodies = {id(d.payload): d.payload.body for d in self.deliveries(*names, **who)}
        return [number for body in bodies.values() for number in numbers(body)]

    def slots(self, body, layout):
        """Whole slots that the key's holder reads in rows of ciphertexts, those that are used; Python integers."""
        used = -(-self.plan.units // self.plan.per_row(layout))
        mask = (1 << layout.slot_bits) - 1
        return [[m >> layout.slot_bits * i & mask for i in range(used)] for m in residues(body)]

    def opened(self, layout, *names, **who):
        """All slots of messages as one array of Python integers."""
        return np.array([s for d in self.deliveries(*names, **who) for s in self.slots(d.payload.body, layout)], object)


def numbers(body):
    return [int.from_bytes(row.tobytes()) for row in body]


def residues(body, key: PrivateKey = KEY):
    return [int(m) for m in key.decrypt_values(key.public.kernel.from_rows(body))]


def fit(layers: Layers) -> Run:
    run = Run(layers, {})
    multiply, mask_updates = forward_pass.multiply, splitnn.mask_updates
    me = lambda: threading.current_thread().name  # noqa: E731

    def spy_multiply(plan, weights, X, share, pool):
        run.multiplied.append((me(), X, share, weights))
        return multiply(plan, weights, X, share, pool)

    def spy_updates(plan, steps, X, pool):
        updates, masks = mask_updates(plan, steps, X, pool)
        run.masked.append((me(), X, masks))
        return updates, masks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward_pass, "generate_keypair", lambda *_, **__: KEY)
        patch.setattr(forward_pass, "multiply", spy_multiply)
        patch.setattr(splitnn, "mask_updates", spy_updates)
        run.fits = layers.fit()
    return run


@pytest.fixture(scope="module", params=SHAPES)
def run(request):
    return fit(make_layers(**SHAPES[request.param]))


@pytest.fixture(scope="module")
def run_of_one():
    """Many units of one passive party: enough masks to count them."""
    return fit(make_layers(rows=150, columns=(1, 6), settings={"units": 8}, seed=3))


@pytest.fixture(scope="module")
def run_of_two():
    return fit(make_layers(**SHAPES[TWO]))


def table(*modules):
    found = [value for module in modules for value in vars(module.Wire).values()]
    return {message.name: message for message in found if isinstance(message, Message)}


def looks_uniform(fractions) -> bool:
    """Mean, spread and sixteenths of numbers in [0, 1) are a uniform distribution's, but for a chance of 1e-11."""
    x = np.asarray(fractions, dtype=np.float64).ravel()
    n = len(x)
    assert n >= 100 and (x >= 0).all() and (x < 1).all()
    mean, square = abs(x.mean() - 1 / 2), abs((x**2).mean() - 1 / 3)
    counts = np.bincount((16 * x).astype(int), minlength=16)
    chi_squared = ((counts - n / 16) ** 2).sum() / (n / 16)
    return mean < SEVEN * math.sqrt(1 / 12 / n) and square < SEVEN * math.sqrt(4 / 45 / n) and chi_squared < 90


def words_look_uniform(words) -> bool:
    """Every sixteenth of 64-bit words, the highest and the lowest four bits included."""
    flat = words.ravel()
    parts = [(flat >> np.uint64(shift)) & np.uint64(15) for shift in range(0, 64, 4)]
    return all(looks_uniform((part + 0.5) / 16) for part in parts)


def test_the_check_of_uniform_numbers_can_fail():
    rng = np.random.default_rng(0)
    assert looks_uniform(rng.random(500)) and words_look_uniform(rng.integers(0, 2**64, 500, dtype=np.uint64))
    assert not looks_uniform(rng.random(500) ** 2) and not looks_uniform(rng.random(500) / 2)
    assert not looks_uniform((rng.random(500) + rng.random(500)) / 2)
    assert not words_look_uniform(rng.integers(0, 2**63, 500, dtype=np.uint64))
    assert not words_look_uniform(rng.integers(0, 2**60, 500, dtype=np.uint64) << np.uint64(4))


# messages and what they disclose


def test_the_transcript_is_the_wire_tables(run):
    wire, used = table(splitnn, splitnn_scoring), set()
    roles = {COORDINATOR: Coordinator, "bank": Active} | dict.fromkeys(run.layers.names[1:], Passive)
    for delivery in run.deliveries():
        message = wire[delivery.message]
        used.add(delivery.message)
        assert type(delivery.payload) is message.payload
        assert (message.src, message.dst) == (roles[delivery.sender], roles[delivery.receiver])
    assert used == set(wire)


def batches_of(layers):
    count = len(draw_batches(layers.terms.rows, layers.splitnn.batch_size, 0, 0))
    return count, -(-layers.validation // layers.splitnn.batch_size)


def test_messages_come_in_the_order_of_the_docstring(run):
    """Of every passive party, and of the coordinator with the active one."""
    batches, blocks = batches_of(run.layers)
    epochs = run.fits["bank"][0].course.rounds
    watched = ["weights", *["products", "rests"] * blocks] if blocks else []
    epoch = [*["weights", "products", "rests", "gradients_copy", "updates"] * batches, *watched, "epoch"]
    for name in run.layers.names[1:]:
        names = [d.message.partition(".")[2] for d in run.deliveries() if name in (d.sender, d.receiver)]
        assert names == ["key", "share", *epoch * epochs, "key", "weights", "products", "rests"]
    both = {"bank", COORDINATOR}
    names = [d.message.partition(".")[2] for d in run.deliveries() if {d.sender, d.receiver} == both]
    sums = ["all_products", "sums"]
    assert names == [
        "key_copy",
        *[*[*sums, "gradients"] * batches, *sums * blocks, "proceed"] * epochs,
        "key_copy",
        *sums,
    ]


def test_every_message_carries_as_many_values_as_its_rows_and_columns_have(run):
    """And so is every size, which is what the coordinator learns, one that it knows."""
    layers, plan = run.layers, run.plan
    units, ahead, back = plan.units, plan.per_row(plan.forward), plan.per_row(plan.backward)
    sizes = [len(b) for b in draw_batches(layers.terms.rows, layers.splitnn.batch_size, 0, 0)]
    left, step = layers.validation, layers.splitnn.batch_size
    seen = [*sizes, *[min(step, left - at) for at in range(0, left, step)]] * 2 + [layers.test]
    for name in layers.names[1:]:
        columns = layers.terms.columns[name]
        count = lambda *what, name=name, **who: [len(d.payload.body) for d in run.deliveries(*what, **who)]  # noqa: E731
        assert count("products", sender=name) == [ahead * rows for rows in seen]
        assert count("rests", sender=name) == [units * rows for rows in seen]
        assert count("gradients_copy", to=name) == [back * rows for rows in sizes * 2]
        assert count("share", sender=name) == [units * columns]
        assert set(count("weights", to=name)) == {ahead * columns}
        assert set(count("updates", sender=name)) == {back * columns}
    assert [len(d.payload.body) for d in run.deliveries("all_products")] == [ahead * rows for rows in seen]
    assert [d.payload.body.shape for d in run.deliveries("sums")] == [(units * rows, 1) for rows in seen]


def test_the_ledger_says_what_was_disclosed(run):
    wire = table(splitnn, splitnn_scoring)
    entries = [e for ledger in run.layers.ledgers.values() for e in ledger.entries if e.message in wire]
    assert {e.message for e in entries} == set(wire)
    for entry in entries:
        message = wire[entry.message]
        assert (entry.kind, entry.discloses) == (message.payload.__name__, message.discloses)


def test_the_ledger_of_the_active_party_counts_the_outputs_that_it_learns(run):
    units, layers = run.plan.units, run.layers
    for message, rows in (
        ("splitnn.sums", 2 * (layers.terms.rows + layers.validation)),
        ("splitnn_scoring.sums", layers.test),
    ):
        entries = [e for e in layers.ledgers["bank"].entries if e.message == message]
        assert sum(e.values for e in entries) == units * rows


BESIDE_MESSAGES = {
    "sizes and timing",
    "it holds no key, and adds up what it cannot read",
    "how many rows are scored",
}


def words(text):
    return re.sub(r" ?\([^)]*\)", "", " ".join(text.split()))


@pytest.mark.parametrize("module", [splitnn, splitnn_scoring], ids=lambda m: m.__name__)
def test_what_messages_disclose_is_the_leakage_list(module):
    section = re.search(r"\nLeakage\n-+\n(.*?)\n\n", module.__doc__, re.DOTALL).group(1)
    entries = re.findall(r"^(active|passive|coordinator) : (.*(?:\n {4}.*)*)", section, re.MULTILINE)
    listed = {role: words(text).split("; ") for role, text in entries}
    kinds = {"active": Active, "passive": Passive, "coordinator": Coordinator}
    messages = table(module).values()
    for role, kind in kinds.items():
        told = {words(m.discloses) for m in messages if m.dst is kind and m.discloses}
        assert set(listed.get(role, [])) - BESIDE_MESSAGES == told, role
    assert "coordinator" in listed and "active" in listed
    for message in messages:
        assert message.discloses or not issubclass(message.payload, TELLING), message


def test_the_docstring_names_every_message_of_its_table():
    for module, doc in ((splitnn, splitnn.__doc__), (splitnn_scoring, splitnn_scoring.__doc__)):
        diagram = doc.partition("Leakage")[0]
        for name in table(module):
            assert re.search(rf"\b{name.partition('.')[2].removesuffix('_copy')}\b", diagram), name


# ciphertexts

FROM_PASSIVE = ("products", "updates")
FROM_ACTIVE = ("weights", "gradients")


def test_every_ciphertext_is_a_unit_of_symbol_one_and_obfuscated(run):
    n = KEY.public.n
    found = run.ciphertexts(*FROM_PASSIVE, *FROM_ACTIVE, "all_products", "gradients_copy")
    assert len(found) > 300
    for c in found:
        assert (c - 1) % n != 0
        assert gmpy2.gcd(c, n) == 1
        assert gmpy2.jacobi(c % n, n) == 1


def test_no_receiver_sees_a_ciphertext_twice(run):
    for receiver in (COORDINATOR, *run.layers.names):
        seen = [
            c for d in run.deliveries(to=receiver) if isinstance(d.payload, Encrypted) for c in numbers(d.payload.body)
        ]
        assert len(set(seen)) == len(seen) > 0
    mine = run.ciphertexts(*FROM_ACTIVE)
    assert len(set(mine)) == len(mine)
    assert not set(mine) & set(run.ciphertexts(*FROM_PASSIVE, "all_products"))


def test_every_ciphertext_has_an_obfuscator_of_its_own(run):
    n = KEY.public.n
    found = run.ciphertexts(*FROM_PASSIVE, *FROM_ACTIVE)
    body = np.array([np.frombuffer(c.to_bytes(KEY.public.ciphertext_bytes), np.uint8) for c in found])
    bare = {c * (1 - m * n) % (n * n) for c, m in zip(found, residues(body), strict=True)}
    assert len(bare) == len(found)


def test_the_coordinators_sums_are_products_of_which_the_active_party_has_no_factor(run_of_two):
    """Each factor has an obfuscator of full length that only its own party knows; the product is none of them."""
    n = KEY.public.n
    got = [run_of_two.ciphertexts("products", sender=name) for name in run_of_two.layers.names[1:]]
    sent = run_of_two.ciphertexts("all_products")
    assert [a * b % (n * n) for a, b in zip(*got, strict=True)] == sent
    seen = {
        c for d in run_of_two.deliveries(to="bank") if isinstance(d.payload, Encrypted) for c in numbers(d.payload.body)
    }
    assert not seen & {*got[0], *got[1]}


def test_with_one_passive_party_its_ciphertexts_are_handed_on(run_of_one):
    bodies = [[d.payload.body.tobytes() for d in run_of_one.deliveries(name)] for name in ("products", "all_products")]
    assert bodies[0] == bodies[1]


def test_steps_are_handed_to_all_alike(run):
    sent = [d.payload.body.tobytes() for d in run.deliveries("gradients")]
    for name in run.layers.names[1:]:
        assert [d.payload.body.tobytes() for d in run.deliveries("gradients_copy", to=name)] == sent


def test_two_runs_under_one_key_have_no_ciphertext_in_common(run_of_two):
    """Though the very same steps are encrypted, rows and columns being the same; shares and masks are others."""
    again = fit(make_layers(**SHAPES[TWO]))
    first, second = (
        [residues(d.payload.body) for d in played.deliveries("gradients")] for played in (run_of_two, again)
    )
    assert first == second
    names = (*FROM_PASSIVE, *FROM_ACTIVE, "all_products")
    assert not set(run_of_two.ciphertexts(*names)) & set(again.ciphertexts(*names))
    for name, layout in (("weights", "forward"), ("products", "forward"), ("updates", "backward")):
        slots = [
            {x for row in played.opened(getattr(played.plan, layout), name) for x in row}
            for played in (run_of_two, again)
        ]
        assert not slots[0] & slots[1]


def test_sums_that_were_not_rerandomised_do_not_leave(monkeypatch):
    monkeypatch.setattr(source_layer, "rerandomise", lambda vector, **_: vector)
    with pytest.raises(LocalProtocolError, match="without re-randomising"):
        fit(make_layers(**SHAPES[TWO]))


def test_what_goes_to_the_keys_owner_is_obfuscated_at_full_length(monkeypatch):
    asked, honest = [], source_layer.rerandomise

    def spy(vector, *, towards_owner, pool):
        asked.append(towards_owner)
        return honest(vector, towards_owner=towards_owner, pool=pool)

    monkeypatch.setattr(source_layer, "rerandomise", spy)
    run = fit(make_layers(**SHAPES[TWO]))
    assert asked == [True] * len(run.deliveries("products", "updates"))


# who sees what


def test_the_coordinator_gets_ciphertexts_and_masked_words_and_whether_it_goes_on(run):
    for delivery in run.deliveries(to=COORDINATOR):
        name = delivery.message.partition(".")[2]
        assert name in ("key_copy", "products", "rests", "gradients", "proceed")
        if isinstance(delivery.payload, Control):
            assert list(delivery.payload.facts) == ["go"]
    told = [d.payload.facts["go"] for d in run.deliveries("proceed")]
    assert told == [True] * (len(told) - 1) + [False]


def test_passive_parties_get_ciphertexts_and_how_epochs_went(run):
    for name in run.layers.names[1:]:
        for delivery in run.deliveries(to=name):
            assert delivery.message.partition(".")[2] in ("key", "weights", "gradients_copy", "epoch")
            assert delivery.sender == ("coordinator" if "copy" in delivery.message else "bank")
            if isinstance(delivery.payload, Revealed):
                assert sorted(delivery.payload.facts) == ["best", "go"] and delivery.payload.values.size == 0


def test_every_masked_vector_that_the_coordinator_gets_looks_uniform(run):
    for name in run.layers.names[1:]:
        assert words_look_uniform(np.concatenate([d.payload.body for d in run.deliveries("rests", sender=name)]))


def test_rests_are_under_masks_of_their_own_beside_those_of_the_products(run):
    """Coordinator and active party together open every product: what they lack is the streams between parties."""
    plan, streams = run.plan, []
    for name in run.layers.names[1:]:
        products = run.opened(plan.forward, "products", sender=name)
        rests = np.concatenate([d.payload.body.ravel() for d in run.deliveries("rests", sender=name)])
        multiplied = [(X, U, V) for who, X, U, V in run.multiplied if who == name]
        opened = plan.gather(np.array(products % 2**64, dtype=np.uint64), plan.forward)
        joint = [(X.view(np.uint64) @ (U + first_shares(run, V, len(U)))) for X, U, V in multiplied]
        streams.append(rests.reshape(-1, plan.units) + opened - np.concatenate(joint))
    for stream in streams:
        assert words_look_uniform(stream.ravel())
        assert len(np.unique(stream)) == stream.size  # none is used for two messages
    assert all(not (streams[0] + other == 0).any() for other in streams[1:])  # the active party's are left


def first_shares(run, ciphertexts, columns):
    """V of an encrypted message, modulo 2^64."""
    plan, n = run.plan, KEY.public.n
    used, bits = -(-plan.units // plan.per_row(plan.forward)), plan.forward.slot_bits
    rows = []
    for m in map(int, KEY.decrypt_values(ciphertexts.values)):
        m, row = m - n if 2 * m > n else m, []
        for _ in range(used):
            digit = (m + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)
            row.append(digit % 2**64)
            m = (m - digit) >> bits
        rows.append(row)
    shares = plan.gather(np.array(rows, dtype=np.uint64), plan.forward)
    assert shares.shape == (columns, plan.units)
    return shares


def exact_products(run, name):
    """X V of every pass, as integers, in the order of the opened slots."""
    plan = run.plan
    parts = []
    for who, X, U, V in run.multiplied:
        if who == name:
            exact = X.astype(object) @ first_shares(run, V, len(U)).view(np.int64).astype(object)
            count, used = plan.per_row(plan.forward), -(-plan.units // plan.per_row(plan.forward))
            padded = np.pad(exact, ((0, 0), (0, count * used - plan.units)))
            parts.append(padded.reshape(-1, used))
    return np.concatenate(parts)


def test_opened_products_look_uniform_over_the_range_of_their_masks(run_of_one):
    layout = run_of_one.plan.forward
    slots = run_of_one.opened(layout, "products")
    exact = exact_products(run_of_one, "shop-1")
    masks = slots - exact
    assert (masks >= layout.bound).all() and (masks < layout.bound + layout.mask_range).all()
    assert looks_uniform(((slots - layout.bound) / layout.mask_range).astype(np.float64))
    for low in (0, 8, 24, 40, 56, 64, 72, 96):
        assert looks_uniform((slots >> low & 255).astype(np.float64) / 256)
    correlation = np.corrcoef(slots.astype(np.float64).ravel(), exact.astype(np.float64).ravel())[0, 1]
    assert abs(correlation) < SEVEN / math.sqrt(slots.size)
    assert abs(exact).max() > 2**70 and layout.mask_range > 2**36 * int(abs(exact).max())
    assert len({*slots.ravel()}) == slots.size


def test_opened_updates_look_uniform_over_the_range_of_their_masks(run_of_one):
    plan, layout = run_of_one.plan, run_of_one.plan.backward
    slots = run_of_one.opened(layout, "updates")
    steps = [source_layer.Steps(run_of_one.layers.splitnn.source_step).fix(g) for g in run_of_one.layers.spy.gradients]
    exact = np.concatenate([X.T @ step for (_, X, _), step in zip(run_of_one.masked, steps, strict=True)])
    padded = plan.spread(exact, layout).astype(object)
    masks = slots - padded
    assert (masks >= layout.bound).all() and (masks < layout.bound + layout.mask_range).all()
    assert looks_uniform(((slots - layout.bound) / layout.mask_range).astype(np.float64))
    for low in (0, 8, 24, 40, 56, 64):
        assert looks_uniform((slots >> low & 255).astype(np.float64) / 256)
    correlation = np.corrcoef(slots.astype(np.float64).ravel(), padded.astype(np.float64).ravel())[0, 1]
    assert abs(correlation) < SEVEN / math.sqrt(slots.size)
    assert exact.any() and len({*slots.ravel()}) == slots.size


def test_the_active_partys_share_is_uniform_from_the_first_to_the_last(run_of_one):
    """The message `share`, and what opened updates make of it."""
    (sent,) = run_of_one.deliveries("share")
    shares = [sent.payload.body.reshape(6, 8)]
    shares += [first_shares(run_of_one, V, 6) for _, _, _, V in run_of_one.multiplied]
    assert np.array_equal(shares[0], shares[1])
    different = np.array(shares[1:]).ravel()
    assert words_look_uniform(different)
    bits = np.unpackbits(shares[0].view(np.uint8).ravel())
    assert abs(bits.mean() - 0.5) < SEVEN * 0.5 / math.sqrt(len(bits))


def test_the_passive_partys_share_is_uniform_too(run_of_one):
    assert words_look_uniform(np.concatenate([U.ravel() for _, _, U, _ in run_of_one.multiplied]))


def test_what_passes_between_parties_is_sealed(run):
    """The coordinator relays these frames: no word of a share, no ciphertext and no key can be read off."""
    relayed = b"|".join(
        frame.body for frame in run.layers.sent if COORDINATOR not in (frame.header.sender, frame.header.receiver)
    )
    checked = set()
    for delivery in run.deliveries():
        if COORDINATOR in (delivery.sender, delivery.receiver):
            continue
        payload = delivery.payload
        assert encode(payload) not in relayed
        checked.add(delivery.message.partition(".")[2])
        if isinstance(payload, Encrypted | Masked):
            assert all(row.tobytes() not in relayed for row in payload.body)
    assert checked == {"key", "share", "weights", "updates", "epoch"}
    to_coordinator = b"|".join(encode(d.payload) for d in run.deliveries() if COORDINATOR in (d.sender, d.receiver))
    for delivery in run.deliveries("share", "weights", "updates"):
        assert not any(row.tobytes() in to_coordinator for row in delivery.payload.body)


def test_the_private_key_stays_at_the_active_party(run):
    for prime in KEY.primes():
        size = (prime.bit_length() + 7) // 8
        for payload in [*(encode(d.payload) for d in run.deliveries()), *(frame.body for frame in run.layers.sent)]:
            assert prime.to_bytes(size, "little") not in payload
            assert prime.to_bytes(size, "big") not in payload


def items(array, form=None):
    """Eight bytes of every number that is not zero."""
    flat = np.ascontiguousarray(array if form is None else array.astype(form)).ravel()
    return {value.tobytes() for value in flat if value != 0}


def forbidden(run):
    """Of each party what may reach nobody else, as it lies in memory there; of small cells runs of three."""
    layers, found = run.layers, {}
    weights = layers.weights(run.fits)
    for name, block in zip(layers.names[1:], layers.blocks[1:], strict=True):
        fixed = layers.fixed(name)
        runs = [fixed[i : i + 3, j] for i in range(len(fixed) - 2) for j in range(fixed.shape[1])]
        shares = [run.fits[name].share, *(U for who, _, U, _ in run.multiplied if who == name)]
        found[name] = {
            "cells": items(block) | {cells.tobytes() for cells in runs if (cells != 0).sum() >= 2},
            "shares": set().union(*map(items, shares)),
            "weights": items(weights[name]) | items(layers.first_weights(name)),
            "masks": set().union(*(items(phi) for who, _, phi in run.masked if who == name)),
        }
    received = [first_shares(run, V, len(U)) for _, _, U, V in run.multiplied]
    spy, y = layers.spy, np.asarray(layers.y, dtype=np.float64)
    steps = [source_layer.Steps(layers.splitnn.source_step).fix(g) for g in spy.gradients]
    runs = [y[i : i + 8] for i in range(len(y) - 7)]
    found["bank"] = {
        "outputs": set().union(*map(items, spy.seen)),
        "gradients": set().union(*map(items, spy.gradients)),
        "steps": {step.tobytes()[i : i + 16] for step in steps for i in range(0, step.nbytes - 15, 8)} - {bytes(16)},
        "later shares": set().union(*map(items, received)) - items(first_of(run)),
        "labels": {cells.tobytes() for cells in runs if (cells > 0).sum() >= 4},
    }
    if layers.blocks[0].size:
        found["bank"]["cells"] = items(layers.blocks[0])
    assert all(group for own in found.values() for group in own.values())
    return found


def first_of(run):
    return np.concatenate([d.payload.body.ravel() for d in run.deliveries("share")])


def leaks(received, owned):
    """Kinds of what is found; every kind's items begin at some byte, so that searching is a set's look-up."""
    windows = {size: {received[i : i + size] for i in range(len(received) - size + 1)} for size in sizes(owned)}
    return {kind for kind, group in owned.items() if any(item in windows[len(item)] for item in group)}


def sizes(owned):
    return {len(item) for group in owned.values() for item in group}


def test_no_role_is_sent_cells_weights_shares_gradients_or_outputs_in_plain(run):
    secrets = forbidden(run)
    for receiver in (COORDINATOR, *run.layers.names):
        received = b"|".join(encode(d.payload) for d in run.deliveries(to=receiver))
        for owner, owned in secrets.items():
            if owner != receiver:
                assert leaks(received, owned) == set(), (owner, receiver)


def test_the_first_shares_reach_the_active_party_alone_and_once(run):
    shares = items(first_of(run))
    told = [d for d in run.deliveries() if leaks(encode(d.payload), {"shares": shares})]
    assert [(d.message, d.receiver) for d in told] == [("splitnn.share", "bank")] * (len(run.layers.names) - 1)


def test_the_scan_finds_planted_secrets(run_of_one):
    secrets, fits = forbidden(run_of_one), run_of_one.fits
    assert leaks(encode(Masked(fits["shop-1"].share.reshape(-1, 1))), secrets["shop-1"]) == {"shares"}
    weights = run_of_one.layers.weights(fits)["shop-1"].view(np.uint64)
    assert leaks(encode(Masked(weights.reshape(-1, 1))), secrets["shop-1"]) == {"weights"}
    assert leaks(encode(Revealed({}, run_of_one.layers.blocks[1])), secrets["shop-1"]) == {"cells"}
    assert leaks(encode(Revealed({}, run_of_one.layers.spy.gradients[0])), secrets["bank"]) == {"gradients"}
    assert leaks(encode(Revealed({}, run_of_one.layers.spy.seen[1])), secrets["bank"]) == {"outputs"}
    assert leaks(encode(Masked(fits["bank"][0].shares["shop-1"])), secrets["bank"]) == set()  # opened, never sent again
    _, _, _, last = run_of_one.multiplied[-1]
    assert leaks(encode(Masked(first_shares(run_of_one, last, 6))), secrets["bank"]) == {"later shares"}


def test_the_scan_finds_what_a_party_without_masks_sends(monkeypatch):
    """The same scan where neither the products nor the sums are masked: rests are X U then."""
    monkeypatch.setattr("vfl.masking.Masks._words", lambda self, label, count: np.zeros(count, dtype=np.uint64))
    monkeypatch.setattr(
        source_layer, "draw_masks", lambda layout, count, slots: np.zeros((count, slots, layout.mask_words), np.uint64)
    )
    monkeypatch.setattr(source_layer, "open_words", signed_words)
    run = fit(make_layers(columns=(1, 2)))
    products = set().union(*(items(X.view(np.uint64) @ U) for _, X, U, _ in run.multiplied))
    received = b"|".join(encode(d.payload) for d in run.deliveries(to=COORDINATOR))
    assert leaks(received, {"X U": products}) == {"X U"}


def signed_words(layout, opened, count):
    """`open_words` for sums that no mask keeps above zero."""
    n, rows = KEY.public.n, []
    for m in opened:
        m, row = int(m) - n if 2 * m > n else int(m), []
        for _ in range(count):
            digit = (m + (1 << layout.slot_bits - 1)) % (1 << layout.slot_bits) - (1 << layout.slot_bits - 1)
            row.append(digit % 2**64)
            m = (m - digit) >> layout.slot_bits
        rows.append(row)
    return np.array(rows, dtype=np.uint64).reshape(-1, count)


def test_scoring_has_a_key_and_masks_of_its_own(run_of_two, monkeypatch):
    keys, purposes = [], []
    make, masks = forward_pass.generate_keypair, forward_pass.pairwise_masks
    monkeypatch.setattr(forward_pass, "generate_keypair", lambda *a, **k: keys.append(make(*a, **k)) or keys[-1])
    monkeypatch.setattr(
        forward_pass, "pairwise_masks", lambda endpoint, purpose: purposes.append(purpose) or masks(endpoint, purpose)
    )
    layers = make_layers(columns=(1, 2), test=5)
    layers.fit()
    assert len(keys) == 2 and keys[0].public.n != keys[1].public.n
    assert sorted(purposes) == ["splitnn"] * 2 + ["splitnn scoring"] * 2
    sent = [d.payload.n for d in layers.deliveries if d.message.endswith((".key", ".key_copy"))]
    assert [int.from_bytes(n) for n in sent].count(keys[0].public.n) == 2
