"""The transcript of boosting is its Wire tables; ciphertexts are fresh; the coordinator reads nothing."""

import re
from dataclasses import dataclass, replace
from itertools import pairwise

import gmpy2
import numpy as np
import pandas as pd
import pytest

from parties.codec import encode
from parties.errors import LocalProtocolError
from parties.link import COORDINATOR
from parties.wire import TELLING, Active, Bitmaps, Coordinator, Encrypted, EncryptedSums, Message, Passive, Revealed
from tests.trees.forests import Forests, make_frames, make_labels
from vfl import boosting, boosting_scoring, candidates, importance
from vfl.paillier import PrivateKey, generate_keypair, pack_slots, plan_slots, unpack_slots

ROWS = 200
TRAINING = (boosting, importance)
SENDING = (candidates, importance)
KEY = generate_keypair(512, insecure_test_mode=True)
SHAPES = {
    "binary, three parties, sorted categories": ("binary", 3, {"max_cat_to_onehot": 4}),
    "multiclass, GOSS": ("multiclass", 2, {"top_rate": 0.2, "other_rate": 0.3, "n_estimators": 2}),
    "regression, subsamples": ("regression", 2, {"subsample": 0.6, "colsample_bytree": 0.7}),
}


@dataclass
class Run:
    forests: Forests
    fits: dict
    key: PrivateKey

    def deliveries(self, *names, to=None):
        return [
            d
            for d in self.forests.deliveries
            if (not names or d.message in names) and to in (None, d.receiver) and not d.message.startswith("greeting.")
        ]

    def rows(self, *names):
        """Ciphertexts of all messages of these names, as numbers; what is handed on to several counts once."""
        bodies = {id(d.payload): d.payload.body for d in self.deliveries(*names)}
        return [int.from_bytes(row.tobytes()) for body in bodies.values() for row in body]


def make_forests(shape):
    task, parties, settings = SHAPES[shape]
    frames = make_frames(ROWS, seed=1, parties=parties)
    outputs = 3 if task == "multiclass" else 1
    return Forests(task, frames, make_labels(task, frames), outputs=outputs, settings=settings, validation=20)


def fit(forests, key=KEY):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boosting, "generate_keypair", lambda *_, **__: key)
        return Run(forests, forests.fit(), key)


@pytest.fixture(scope="module", params=SHAPES)
def run(request):
    return fit(make_forests(request.param))


@pytest.fixture(scope="module")
def plain_run():
    return fit(make_forests("binary, three parties, sorted categories"))


def table(*modules):
    found = [value for module in modules for value in vars(module.Wire).values()]
    return {message.name: message for message in found if isinstance(message, Message)}


def opened(key, layout, body):
    """What the key's holder reads in rows of ciphertexts, one line per slot group."""
    residues = key.decrypt_values(key.public.kernel.from_rows(body))
    return unpack_slots(layout, residues, key.public.n).reshape(-1, layout.group)


def obfuscator(key, c):
    """A ciphertext without its plaintext."""
    n = key.public.n
    (m,) = key.decrypt_values(
        key.public.kernel.from_rows(np.frombuffer(c.to_bytes(key.public.ciphertext_bytes), np.uint8).reshape(1, -1))
    )
    return c * (1 - int(m) * n) % (n * n)


# messages and what they disclose


def test_the_transcript_is_the_wire_tables(run):
    wire, used = table(*TRAINING), set()
    roles = {COORDINATOR: Coordinator, "bank": Active} | dict.fromkeys(run.forests.names[1:], Passive)
    for delivery in run.deliveries():
        message = wire[delivery.message]
        used.add(delivery.message)
        assert type(delivery.payload) is message.payload
        assert (message.src, message.dst) == (roles[delivery.sender], roles[delivery.receiver])
    goss = run.forests.boosting.top_rate is not None
    assert used == set(wire) - (set() if goss else {"boosting.drawn"})


def test_messages_of_a_tree_come_in_the_order_of_the_docstring(run):
    """Of one passive party; totals only where a level follows, outcomes for all levels but the last."""
    names = [d.message.partition(".")[2] for d in run.deliveries() if "shop-1" in (d.sender, d.receiver)]
    level = "candidates chosen sides "
    word = "".join(f"{name} " for name in names if name not in ("split_gains", "feature_gains", "own_gains", "key"))
    tree = f"tree (drawn )?gradients_copy totals ({level}outcome totals )*({level}(outcome )?)"
    assert re.fullmatch(f"({tree})+tree ", word), word
    assert names[0] == "key" and names[-3:] == ["split_gains", "feature_gains", "own_gains"]


def test_the_ledger_says_what_was_disclosed(run):
    wire = table(*TRAINING)
    entries = [e for ledger in run.forests.ledgers.values() for e in ledger.entries if e.message in wire]
    for entry in entries:
        message = wire[entry.message]
        assert (entry.kind, entry.discloses) == (message.payload.__name__, message.discloses)


BESIDE_MESSAGES = {"sizes and timing", "it holds no key and hands on ciphertexts"}


def words(text):
    """On one line, without remarks in brackets; to the active party "its" is the passive party's."""
    return re.sub(r" ?\([^)]*\)", "", " ".join(text.split())).replace("a passive party's", "its")


def within(some, others):
    """All words of one text in the other, in their order."""
    rest = iter(others.split())
    return all(word in rest for word in some.split())


@pytest.mark.parametrize("module", [boosting, importance, boosting_scoring], ids=lambda m: m.__name__)
def test_what_messages_disclose_is_the_leakage_list(module):
    section = re.search(r"\nLeakage\n-+\n(.*?)\n(?:\n|The sums)", module.__doc__, re.DOTALL).group(1)
    entries = re.findall(r"^(active|passive|coordinator) : (.*(?:\n {4}.*)*)", section, re.MULTILINE)
    listed = {role: words(text).split("; ") for role, text in entries}
    assert set(listed) == {"active", "passive", "coordinator"}
    kinds = {"active": Active, "passive": Passive, "coordinator": Coordinator}
    for role, items in listed.items():
        told = [words(m.discloses) for m in table(module).values() if m.dst is kinds[role] and m.discloses]
        alike = lambda a, b: within(a, b) or within(b, a)  # noqa: E731
        for one in told:
            assert any(alike(one, item) for item in items), (role, one)
        for item in set(items) - BESIDE_MESSAGES:
            assert any(alike(item, one) for one in told), (role, item)
    for message in table(module).values():
        assert bool(message.discloses) == issubclass(message.payload, TELLING), message


def test_the_ledger_counts_bitmaps_and_sums(run):
    for ledger in run.forests.ledgers.values():
        for entry in ledger.entries:
            if entry.message in ("boosting.sides", "boosting.outcome", "boosting.drawn"):
                sent = [d.payload for d in run.deliveries(entry.message, to=entry.receiver) if d.sender == entry.sender]
                assert entry.values in {len(payload.counts) for payload in sent}
    for name in run.forests.names[1:]:
        for message in ("boosting.sides", "boosting.outcome"):
            sent = [d.payload for d in run.deliveries(message) if name in (d.sender, d.receiver)]
            entries = [e for e in run.forests.ledgers[name].entries if e.message == message]
            assert [e.values for e in entries] == [len(payload.counts) for payload in sent]


def test_the_ledger_counts_histogram_sums(run):
    """The sums themselves, and not the numbers of the nodes beside them."""
    layout = boosting.plan_gradients(512, run.forests.terms())
    for name in run.forests.names[1:]:
        sent = [d.payload for d in run.deliveries("boosting.candidates") if d.sender == name]
        entries = [e for e in run.forests.ledgers[name].entries if e.message == "boosting.candidates"]
        assert len(sent) == len(entries) > 0
        for payload, entry in zip(sent, entries, strict=True):
            assert entry.values == payload.counts[:, 1].sum()
            assert -(-entry.values // layout.per_ciphertext) == len(payload.body)


# ciphertexts

LEAVING = ("boosting.gradients", "boosting.totals", "boosting.candidates", "importance.split_gains")
FROM_PASSIVE = ("boosting.candidates", "importance.feature_gains")


def test_every_ciphertext_is_a_unit_of_symbol_one_and_obfuscated(run):
    n = run.key.public.n
    rows = run.rows(*LEAVING, *FROM_PASSIVE, "boosting.gradients_copy")
    assert len(rows) > 500
    for c in rows:
        assert (c - 1) % n != 0
        assert gmpy2.gcd(c, n) == 1
        assert gmpy2.jacobi(c % n, n) == 1


def test_gradients_never_repeat_a_ciphertext_though_plaintexts_do(plain_run):
    """In the first tree rows have two values of (g, h) at most: every one of them is under an obfuscator of its own."""
    layout = boosting.plan_gradients(512, plain_run.forests.terms())
    bodies = [d.payload.body for d in plain_run.deliveries("boosting.gradients")]
    first = opened(plain_run.key, layout, bodies[0])[:: layout.per_ciphertext]
    assert len(bodies[0]) == ROWS - 20 and len(np.unique(first, axis=0)) <= 2
    rows = [int.from_bytes(row.tobytes()) for body in bodies for row in body]
    assert len(set(rows)) == len(rows) == 3 * (ROWS - 20)
    assert len({obfuscator(plain_run.key, c) for c in rows}) == len(rows)


def test_no_receiver_sees_a_ciphertext_twice(run):
    for receiver in (COORDINATOR, *run.forests.names):
        seen = [
            row.tobytes()
            for d in run.deliveries(to=receiver)
            if isinstance(d.payload, Encrypted | EncryptedSums)
            for row in d.payload.body
        ]
        assert len(set(seen)) == len(seen) > 0
    passives = run.rows(*FROM_PASSIVE)
    assert not set(passives) & set(run.rows("boosting.gradients", "boosting.totals", "importance.split_gains"))


def test_the_same_sums_again_are_other_ciphertexts(plain_run):
    """Two runs under one key on the same data: the same sums in another order, and no ciphertext in common."""
    again = fit(make_forests("binary, three parties, sorted categories"))
    layout = boosting.plan_gradients(512, plain_run.forests.terms())
    views = []
    for played in (plain_run, again):
        payload = played.deliveries("boosting.candidates")[0].payload
        sums = opened(KEY, layout, payload.body)[: payload.counts[:, 1].sum()]
        views.append(sums.tolist())
    assert views[0] != views[1] and sorted(views[0]) == sorted(views[1])
    assert len(np.unique(views[0], axis=0)) < len(views[0])  # equal candidates among them
    for names in (FROM_PASSIVE, LEAVING):
        assert not set(plain_run.rows(*names)) & set(again.rows(*names))


def test_a_candidate_of_one_row_is_not_that_rows_ciphertext():
    """The only candidate leaves one row right: total / c_i. What is sent is neither that nor a shift of it."""
    rng = np.random.default_rng(3)
    flag = np.zeros(60)
    flag[17] = 1
    frames = [pd.DataFrame({"x": rng.normal(size=60)}), pd.DataFrame({"flag": flag})]
    settings = {"n_estimators": 1, "max_depth": 1, "min_child_weight": 0.0}
    run = fit(Forests("binary", frames, (rng.random(60) < 0.5).astype(float), settings=settings))
    n = KEY.public.n
    (total,) = run.rows("boosting.totals")
    (sent,) = run.rows("boosting.candidates")
    naive = total * pow(run.rows("boosting.gradients")[17], -1, n * n) % (n * n)
    layout = boosting.plan_gradients(512, run.forests.terms())
    as_rows = [np.frombuffer(c.to_bytes(KEY.public.ciphertext_bytes), np.uint8) for c in (sent, naive)]
    values = opened(KEY, layout, np.array(as_rows)).reshape(2, -1)
    assert values[0].tolist() == values[1].tolist() and values.any()
    assert sent * pow(naive, -1, n * n) % (n * n) % n != 1  # 1 + k N would be a shift by k


@pytest.mark.parametrize("module", SENDING, ids=lambda m: m.__name__)
def test_sums_that_were_not_rerandomised_do_not_leave(module, monkeypatch):
    monkeypatch.setattr(module, "rerandomise", lambda vector, **_: vector)
    with pytest.raises(LocalProtocolError, match="without re-randomising"):
        fit(make_forests("regression, subsamples"))


def test_what_goes_to_the_keys_owner_is_obfuscated_at_full_length(monkeypatch):
    asked = []
    for module in SENDING:
        honest = module.rerandomise

        def spy(vector, *, towards_owner, pool, honest=honest):
            asked.append(towards_owner)
            return honest(vector, towards_owner=towards_owner, pool=pool)

        monkeypatch.setattr(module, "rerandomise", spy)
    run = fit(make_forests("regression, subsamples"))
    sent = [d for d in run.deliveries(*FROM_PASSIVE) if len(d.payload.body)]
    assert asked == [True] * len(sent)


# who sees what


def test_the_coordinator_gets_ciphertexts_and_counts_of_blocks_only(run):
    for delivery in run.deliveries(to=COORDINATOR):
        assert delivery.message in ("boosting.blocks", "boosting.gradients")
    blocks = [d.payload.facts for d in run.deliveries("boosting.blocks")]
    assert all(list(facts) == ["blocks"] for facts in blocks)
    copies = run.deliveries("boosting.gradients_copy", to="shop-1")
    sent = run.deliveries("boosting.gradients")
    assert [d.payload.body.tobytes() for d in copies] == [d.payload.body.tobytes() for d in sent]


def test_what_passes_between_parties_is_sealed(run):
    """The coordinator relays these frames: neither a bitmap nor a position nor a ciphertext can be read off."""
    relayed = b"|".join(
        frame.body
        for frame in run.forests.frames_sent
        if COORDINATOR not in (frame.header.sender, frame.header.receiver)
    )
    checked = set()
    for delivery in run.deliveries():
        if COORDINATOR in (delivery.sender, delivery.receiver):
            continue
        payload = delivery.payload
        assert encode(payload) not in relayed
        checked.add(type(payload).__name__)
        if isinstance(payload, Bitmaps) and len(payload.bits) >= 6:
            assert payload.bits.tobytes() not in relayed
        if isinstance(payload, Encrypted | EncryptedSums):
            assert all(row.tobytes() not in relayed for row in payload.body)
    assert checked >= {"Bitmaps", "Positions", "Encrypted", "EncryptedSums", "Revealed"}
    open_frames = [f.body for f in run.forests.frames_sent if COORDINATOR in (f.header.sender, f.header.receiver)]
    for delivery in run.deliveries("boosting.sides", "boosting.outcome", "boosting.drawn"):
        if len(delivery.payload.bits) >= 6:
            assert not any(delivery.payload.bits.tobytes() in body for body in open_frames)


def test_the_private_key_stays_at_the_active_party(run):
    for prime in run.key.primes():
        size = (prime.bit_length() + 7) // 8
        for frame in run.forests.frames_sent:
            assert prime.to_bytes(size, "little") not in frame.body
            assert prime.to_bytes(size, "big") not in frame.body


def forbidden(run):
    """Of each party what may reach nobody else, as it lies in memory there."""
    parts, fits = run.forests.parts(), run.fits
    found = {}
    for name, part in zip(run.forests.names, parts, strict=True):
        codes = part.codes
        runs = [codes[i : i + 8, j] for i in range(len(codes) - 7) for j in range(codes.shape[1])]
        found[name] = {"bins": {cells.tobytes() for cells in runs if (cells > 0).sum() >= 4}}
    y = np.asarray(run.forests.y)
    runs = [y[i : i + 8] for i in range(len(y) - 7)]
    trees = fits["bank"].boosted.trees
    found["bank"] |= {
        "labels": {
            cells.astype(t).tobytes() for cells in runs if (cells > 0).sum() >= 4 for t in (np.int8, np.int64, float)
        },
        "leaves": {value.tobytes() for tree in trees for value in tree.values.ravel() if value},
    }
    assert all(items for own in found.values() for items in own.values())
    return found


def leaks(received, owned):
    return {kind for kind, items in owned.items() if any(item in received for item in items)}


def test_no_role_is_sent_bins_labels_or_leaf_values_in_plain(run):
    secrets = forbidden(run)
    for receiver in (COORDINATOR, *run.forests.names):
        received = b"|".join(encode(d.payload) for d in run.deliveries(to=receiver))
        for owner, items in secrets.items():
            if owner != receiver:
                assert leaks(received, items) == set(), (owner, receiver)


def test_the_scan_finds_planted_secrets(plain_run):
    secrets = forbidden(plain_run)
    leaf = plain_run.fits["bank"].boosted.trees[0].values.ravel()
    assert leaks(encode(Revealed({}, leaf[leaf != 0])), secrets["bank"]) == {"leaves"}
    y = np.asarray(plain_run.forests.y, dtype=np.float64)
    assert leaks(encode(Revealed({}, y)), secrets["bank"]) == {"labels"}


# importance and scores


def test_gains_of_single_splits_are_never_opened_for_a_passive_party(run):
    """It hears one figure per column; the sums over its splits by column, and no more."""
    trees = run.fits["bank"].boosted.trees
    for number, name in enumerate(run.forests.names[1:], 1):
        revealed = [d for d in run.deliveries(to=name) if isinstance(d.payload, Revealed)]
        assert [d.message for d in revealed] == ["importance.own_gains"]
        width = run.forests.terms().columns[name]
        gain, cover = revealed[0].payload.values.reshape(2, width)
        splits = run.fits[name].splits
        for j in range(width):
            own = [(s.tree, s.node) for s in splits if s.feature == j]
            assert gain[j] == pytest.approx(sum(trees[t].gain[i] for t, i in own), rel=1e-8, abs=1e-6)
            assert cover[j] == pytest.approx(sum(trees[t].cover[i] for t, i in own), rel=1e-8, abs=1e-6)
        assert sum((trees[s.tree].owner[s.node] == number) for s in splits) == len(splits)


def test_importance_in_all_hides_the_columns():
    forests = make_forests("regression, subsamples")
    run = fit(replace(forests, tell=False, deliveries=[], frames_sent=[], ledgers={}))
    (told,) = run.deliveries("importance.feature_gains")
    assert told.payload.counts.tolist() == [[0, 1]] and len(told.payload.body) == 1
    assert len(run.fits["bank"].importance["shop-1"].gain) == 1
    splits = sum(int((tree.owner == 1).sum()) for tree in run.fits["bank"].boosted.trees)
    layout = plan_slots(512, 40, terms=splits, group=3)
    assert not opened(KEY, layout, told.payload.body)[1:].any()  # nothing beside what was asked for
    assert pack_slots(layout, np.ones((1, 3), np.int64))


def test_scoring_takes_two_messages_per_depth_and_party_and_asks_for_rows_on_their_way_only(run):
    deliveries = []
    scores = run.forests.score(run.fits, deliveries=deliveries)
    assert scores.tobytes() == run.forests.predict(run.fits).tobytes()
    deliveries = [d for d in deliveries if not d.message.startswith("greeting.")]
    wire, depth = table(boosting_scoring), run.forests.boosting.max_depth
    for name in run.forests.names[1:]:
        mine = [d.message for d in deliveries if name in (d.sender, d.receiver)]
        assert mine == ["boosting_scoring.rows", "boosting_scoring.sides"] * depth
    assert {d.message for d in deliveries} == set(wire)
    assert not [d for d in deliveries if COORDINATOR in (d.sender, d.receiver)]
    for question, answer in pairwise(deliveries):
        if question.message == "boosting_scoring.rows" and answer.sender == question.receiver:
            assert question.payload.counts.tolist() == answer.payload.counts.tolist()
            assert len(answer.payload.bits) == -(-int(question.payload.counts.sum()) // 8)
