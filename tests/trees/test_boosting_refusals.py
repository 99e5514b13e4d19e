"""What a dishonest or broken peer sends during boosting is refused by its receiver, who names the sender."""

from dataclasses import replace

import gmpy2
import msgspec
import numpy as np
import pytest

from parties.errors import RemoteProtocolError
from parties.wire import Bitmaps, Control, EncryptedSums, PaillierKey, Positions, Revealed
from tests.glm.federations import tamper
from tests.trees.forests import Forests, make_frames, make_labels
from vfl import boosting, boosting_scoring
from vfl import candidates as candidates_of
from vfl.paillier import encrypt, generate_keypair
from vfl.trees.bitmaps import pack_bits, unpack_bits

KEY = generate_keypair(512, insecure_test_mode=True)
ROWS = 80
FRAMES = make_frames(ROWS, seed=2, columns=2)
LABELS = make_labels("binary", FRAMES)
ROUND_ONE, LEVEL_TWO = 1, 1  # messages before the one that is changed


@pytest.fixture(autouse=True)
def key(monkeypatch):
    """One key for all, so that tests can misuse it."""
    monkeypatch.setattr(boosting, "generate_keypair", lambda *_, **__: KEY)


def make_forests(**settings):
    settings = {"n_estimators": 2, "max_depth": 2, "max_cat_to_onehot": 3, "min_child_weight": 0.0} | settings
    return Forests("binary", FRAMES, LABELS, settings=settings)


def refused(monkeypatch, sender, message, change, match, *, after=0, forests=None):
    """The error says who sent it; nothing but a RemoteProtocolError comes of it."""
    tamper(monkeypatch, sender, message, change, after=after)
    with pytest.raises(RemoteProtocolError, match=match) as raised:
        (forests or make_forests()).fit()
    assert sender in str(raised.value) or "bank" in str(raised.value)


def test_the_federation_of_these_tests_is_fine_and_asks_all_kinds_of_questions():
    """Splits of both parties on two levels, of plain candidates and of sorted groups."""
    forests = make_forests()
    fits, _, _ = forests.check()
    sent = [d.payload for d in forests.deliveries if d.message == "boosting.candidates"]
    assert len(sent[0].counts) == 2 and sent[0].counts[1, 1] > 2  # one node, and a group beside it
    assert {split.depth for split in fits["shop-1"].splits} == {0, 1}


# counts of candidates


def with_counts(change):
    def changed(payload):
        counts = payload.counts.copy()
        return EncryptedSums(payload.key, np.ascontiguousarray(change(counts), dtype=np.int64), payload.body)

    return changed


def cell(row, column, value):
    def change(counts):
        counts[row, column] = value
        return counts

    return change


def add_group(*sizes):
    """Groups of these sizes, taken out of the first node's candidates."""

    def change(counts):
        counts[0, 1] -= sum(sizes)
        return np.concatenate([counts, [[0, size] for size in sizes]])

    return change


BAD_COUNTS = {
    "none": lambda c: c[:0].reshape(0, 2),
    "flat": lambda c: c.ravel(),
    "three columns": lambda c: np.hstack([c, c[:, :1]]),
    "three dimensions": lambda c: c[None],
    "negative": lambda c: np.concatenate([c, [[0, -1]]]),
    "negative plain": cell(0, 1, -5),
    "least": cell(0, 1, -(2**63)),
    "huge": cell(0, 1, 2**62),
    "huge, and the sum wraps round": lambda c: np.concatenate([c, [[0, 2**62]] * 4]),
    "one more": lambda c: c + [[0, 40]],
    "one fewer": lambda c: c - [[0, 40]],
    "of another node": lambda c: c + [[1, 0]],
    "group of an unknown node": lambda c: np.concatenate([c, [[7, 2]]]),
    "group of a negative node": lambda c: np.concatenate([c, [[-1, 2]]]),
    "group of nothing": add_group(0),
    "group of one": add_group(1),
    "group among many of nothing": add_group(2, 0, 3),
    "many groups of nothing": add_group(*[0] * 10_000),
}


@pytest.mark.parametrize("name", BAD_COUNTS)
def test_counts_that_do_not_fit_the_level(name, monkeypatch):
    refused(monkeypatch, "shop-1", "boosting.candidates", with_counts(BAD_COUNTS[name]), "shop-1")


def test_counts_of_a_later_level_skip_no_node(monkeypatch):
    swap = with_counts(lambda c: np.concatenate([c[1::-1], c[2:]]))
    refused(monkeypatch, "shop-1", "boosting.candidates", swap, "shop-1 sent candidates whose counts", after=LEVEL_TWO)


def test_counts_cost_no_memory_before_they_are_checked(monkeypatch):
    """As many candidates in each of many nodes as the ciphertexts could hold together."""
    import tracemalloc

    rows = 1 << 12
    layout = boosting.plan_gradients(512, make_forests().terms())
    body = np.zeros((400, 128), np.uint8)
    most = layout.per_ciphertext * len(body)
    counts = np.stack([np.arange(rows), np.full(rows, most)], axis=1)
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError, match="whose counts"):
        candidates_of.read_counts(EncryptedSums(b"", counts, body), rows, layout, "shop-1")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


# ciphertexts

CIPHERTEXTS = [  # message, who sends it, whom the refusal names (the active party answers for what is handed on)
    ("boosting.gradients", "bank", "bank"),
    ("boosting.gradients_copy", "coordinator", "bank"),
    ("boosting.totals", "bank", "bank"),
    ("boosting.candidates", "shop-1", "shop-1"),
    ("importance.split_gains", "bank", "bank"),
    ("importance.feature_gains", "shop-1", "shop-1"),
]
ciphertexts = pytest.mark.parametrize(("message", "sender", "named"), CIPHERTEXTS)


def with_body(change):
    def changed(payload):
        fields = {name: getattr(payload, name) for name in payload.__struct_fields__}
        return type(payload)(**fields | {"body": np.ascontiguousarray(change(payload.body))})

    return changed


def last_row(value):
    def change(body):
        body = body.copy()
        body[-1] = np.frombuffer(value.to_bytes(body.shape[1]), dtype=np.uint8)
        return body

    return change


N, P = KEY.public.n, KEY.primes()[0]
MINUS_ONE = next(x for x in range(2, 100) if gmpy2.jacobi(x, N) == -1)
BODIES = {
    "too many": lambda body: np.concatenate([body, body[:1]]),
    "too few": lambda body: body[:-1],
    "none": lambda body: body[:0],
    "wider": lambda body: np.hstack([np.zeros((len(body), 1), np.uint8), body]),
    "flat": lambda body: body.reshape(-1),
    "zero": last_row(0),
    "beyond": last_row(N * N),
    "no unit": last_row(P * (N + 1)),
    "symbol -1": last_row(MINUS_ONE),
}


@ciphertexts
@pytest.mark.parametrize("bad", BODIES)
def test_ciphertexts_that_are_none(message, sender, named, bad, monkeypatch):
    refused(monkeypatch, sender, message, with_body(BODIES[bad]), named)


@ciphertexts
def test_ciphertexts_under_another_key(message, sender, named, monkeypatch):
    def other_key(payload):
        fields = {name: getattr(payload, name) for name in payload.__struct_fields__}
        return type(payload)(**fields | {"key": bytes(16)})

    refused(monkeypatch, sender, message, other_key, f"{named} sent ciphertexts under another key")


@pytest.mark.parametrize(
    ("message", "named"), [("boosting.candidates", "candidates"), ("importance.feature_gains", "gains")]
)
@pytest.mark.parametrize("value", ["a slot beyond its bound", "beyond all slots"])
def test_plaintexts_that_no_honest_sum_has(message, named, value, monkeypatch):
    layout = boosting.plan_gradients(512, make_forests().terms())
    plain = layout.bound + 1 if value.startswith("a slot") else N // 2 - 1
    if message.startswith("importance"):
        plain = N // 2 - 1

    def change(body):
        (row,) = boosting.send_ciphers(encrypt(KEY, [plain])).body
        body = body.copy()
        body[0] = row
        return body

    refused(monkeypatch, "shop-1", message, with_body(change), f"{named} from shop-1")


def test_sums_of_any_size_within_the_slots_end_in_a_tree_or_an_error(monkeypatch):
    """h below zero or above the node's: such candidates gain nothing, and nothing breaks."""
    layout = boosting.plan_gradients(512, make_forests().terms())
    rng = np.random.default_rng(0)

    def change(body):
        values = rng.choice([-layout.bound, -1, 0, 1, layout.bound], size=(len(body), layout.slots)).astype(np.int64)
        from vfl.paillier.slots import join_slots

        return boosting.send_ciphers(encrypt(KEY, join_slots(values, layout.slot_bits))).body

    tamper(monkeypatch, "shop-1", "boosting.candidates", with_body(change))
    fits = make_forests().fit()
    assert all(np.isfinite(tree.values).all() for tree in fits["bank"].boosted.trees)


def test_a_key_shorter_than_the_jobs(monkeypatch):
    short = generate_keypair(256, insecure_test_mode=True).public
    refused(monkeypatch, "bank", "boosting.key", lambda _: PaillierKey(*short.to_wire()), "public key from bank")


# what the active party chooses


def chosen(counts, positions):
    return lambda _: Positions(np.array(counts, np.int64), np.array(positions, np.uint32))


BAD_CHOICES = {
    "beyond": chosen([1], [10**6]),
    "far beyond": chosen([1], [2**32 - 1]),
    "set with one beyond": chosen([2], [0, 2**32 - 1]),
    "counts beyond positions": chosen([2], [0]),
    "positions beyond counts": chosen([1], [0, 1]),
    "no counts": chosen([], [0]),
    "question about nothing": chosen([0, 1], [0]),
    "negative count": chosen([2, -1], [0]),
    "counts that wrap round": chosen([2**62] * 4, []),
    "counts that wrap round to some": chosen([2**62] * 4 + [1], [0]),
    "two dimensions": chosen([[1]], [0]),
    "two dimensions of positions": chosen([1], [[0]]),
    "plain candidates as a set": chosen([2], [0, 1]),
    "the same twice": chosen([1, 1], [0, 0]),
}


@pytest.mark.parametrize("name", BAD_CHOICES)
def test_choices_that_were_not_offered(name, monkeypatch):
    refused(monkeypatch, "bank", "boosting.chosen", BAD_CHOICES[name], "bank chose")


@pytest.fixture
def offered(monkeypatch):
    """What the passive party offers: (plain candidates, sizes of groups), level by level."""
    seen = []
    honest = candidates_of.shuffled

    def spy(candidates, *keyed):
        seen.append((len(candidates.node), candidates.group_sizes[honest(candidates, *keyed)[1]].tolist()))
        return honest(candidates, *keyed)

    monkeypatch.setattr(candidates_of, "shuffled", spy)
    return seen


@pytest.mark.parametrize(
    "choose",
    [
        lambda plain, sizes: ([1], [plain + sum(sizes)]),
        lambda plain, sizes: ([2], [0, plain]),
        lambda plain, sizes: ([2], [plain, plain]),
        lambda plain, sizes: ([3], [plain, plain + 1, plain]),
        lambda plain, sizes: ([2], [plain + sizes[0] - 1, plain + sizes[0]]),
    ],
    ids=["just beyond", "plain and group mixed", "one member twice", "one of three twice", "members of two groups"],
)
def test_sets_that_are_none(choose, offered, monkeypatch):
    """A second sorted column gives the root two groups."""
    frames = [FRAMES[0], FRAMES[1].assign(town=FRAMES[1]["city"].iloc[::-1].to_numpy())]
    forests = replace(make_forests(), frames=frames)
    change = lambda _: chosen(*choose(*offered[-1]))(None)  # noqa: E731
    refused(monkeypatch, "bank", "boosting.chosen", change, "bank chose", forests=forests)
    assert len(offered[0][1]) == 2


def test_a_choice_where_nothing_was_offered(monkeypatch):
    """The passive party splits no node of so few rows."""
    from vfl.trees.grow import Limits

    forests = replace(make_forests(), limits=Limits(min_node_rows=1000))
    refused(monkeypatch, "bank", "boosting.chosen", chosen([1], [0]), "bank chose", forests=forests)


# trees


def facts(**changes):
    return lambda payload: Control(payload.facts | changes)


BAD_TREES = {
    "a tree twice": (facts(tree=0, round=0), ROUND_ONE),
    "a tree left out": (facts(tree=1, round=1), 0),
    "a round twice": (facts(round=0), ROUND_ONE),
    "a round ahead": (facts(round=1), 0),
    "a round beyond": (facts(round=2), 0),
    "a negative round": (facts(round=-1), 0),
    "a round that is no number": (facts(round="0"), 0),
    "a round that is true": (facts(round=False), 0),
    "a round in parts": (facts(round=0.0), 0),
    "a tree far off": (facts(tree=2**63 - 1), 0),
    "a tree that is none": (facts(tree=None), 0),
    "more trees in the end than there were": (facts(trees=3), 2),
    "no number of trees": (facts(trees=None), 2),
    "fewer than none": (facts(trees=-1), 2),
}


@pytest.mark.parametrize("name", BAD_TREES)
def test_trees_out_of_turn(name, monkeypatch):
    change, after = BAD_TREES[name]
    refused(monkeypatch, "bank", "boosting.tree", change, "bank announced", after=after)


def test_trees_beyond_the_jobs_rounds(monkeypatch):
    """An active party that goes on and on, with an honest message each time."""
    honest = boosting.boost

    def longer(objective, labels, settings, *rest):
        return honest(objective, labels, type(settings)(n_estimators=5, max_depth=2), *rest)

    monkeypatch.setattr(boosting, "boost", longer)
    with pytest.raises(RemoteProtocolError, match="bank announced"):
        make_forests().fit()


def test_a_tree_of_the_round_that_is_the_active_partys_alone(monkeypatch):
    forests = make_forests(first_tree_active_only=True)
    refused(monkeypatch, "bank", "boosting.tree", facts(tree=0, round=0), "bank announced", forests=forests)


def test_one_tree_per_class_counts_rounds_by_classes(monkeypatch):
    frames = make_frames(ROWS, seed=2, columns=2)
    settings = {"n_estimators": 2, "max_depth": 1, "multi_output": False}
    forests = Forests("multiclass", frames, make_labels("multiclass", frames), outputs=3, settings=settings)
    forests.check()
    refused(monkeypatch, "bank", "boosting.tree", facts(round=1), "bank announced", after=2, forests=forests)


def test_fewer_trees_in_the_end_than_the_gains_are_of(monkeypatch):
    refused(monkeypatch, "bank", "boosting.tree", facts(trees=1), "bank", after=2)


@pytest.mark.parametrize("blocks", [-1, None, True, 1.0, "1"])
def test_the_coordinator_is_told_a_number_of_blocks(blocks, monkeypatch):
    refused(monkeypatch, "bank", "boosting.blocks", facts(blocks=blocks), "bank announced gradients without")


@pytest.mark.parametrize("blocks", [2, 2**62])
def test_more_blocks_announced_than_sent(blocks, monkeypatch):
    refused(monkeypatch, "bank", "boosting.blocks", facts(blocks=blocks), "bank sent 'boosting.blocks'")


# bitmaps


def bits(change):
    return lambda payload: Bitmaps(*change(payload.counts.copy(), payload.bits.copy()))


def trailing(counts, bits):
    """The last byte's spare bits; where there are none a byte more."""
    if counts.sum() % 8 == 0:
        return counts, np.append(bits, np.uint8(0))
    bits[-1] |= 1
    return counts, bits


BAD_BITMAPS = {
    "too short": lambda c, b: (c, b[:-1]),
    "a byte too long": lambda c, b: (c, np.append(b, np.uint8(0))),
    "far too long": lambda c, b: (c, np.concatenate([b, np.zeros(1000, np.uint8)])),
    "none": lambda c, b: (c[:0], b[:0]),
    "counts without bits": lambda c, b: (c, b[:0]),
    "bits without counts": lambda c, b: (c[:0], b),
    "a row more": lambda c, b: (c + np.eye(1, len(c), dtype=np.int64)[0], b),
    "a row moved": lambda c, b: (np.concatenate([[c[0] + 1], c[1:-1], [c[-1] - 1]]) if len(c) > 1 else c + 1, b),
    "a map more": lambda c, b: (np.append(c, 0), b),
    "a map fewer": lambda c, b: (c[:-1], b),
    "negative": lambda c, b: (np.concatenate([c, [-1, 1]]), b),
    "huge": lambda c, b: (np.full_like(c, 2**62), b),
    "counts that wrap round": lambda c, b: (np.concatenate([c, [2**62] * 4]), b),
    "two dimensions": lambda c, b: (c[None], b),
    "two dimensions of bits": lambda c, b: (c, b[None]),
    "trailing bits": trailing,
}


@pytest.mark.parametrize("name", BAD_BITMAPS)
@pytest.mark.parametrize(("message", "sender"), [("boosting.sides", "shop-1"), ("boosting.outcome", "bank")])
def test_bitmaps_of_another_shape(name, message, sender, monkeypatch):
    forests = make_forests(max_depth=3)
    change = BAD_BITMAPS[name]

    def where_there_are_some(payload):
        return bits(change)(payload) if len(payload.bits) else payload

    refused(monkeypatch, sender, message, where_there_are_some, f"{sender} sent bitmaps", forests=forests)


@pytest.mark.parametrize("name", BAD_BITMAPS)
def test_bitmaps_of_rows_drawn(name, monkeypatch):
    forests = make_forests(top_rate=0.2, other_rate=0.2)
    refused(monkeypatch, "bank", "boosting.drawn", bits(BAD_BITMAPS[name]), "bank sent bitmaps", forests=forests)


@pytest.mark.parametrize("count", [0, 1, ROWS // 2, ROWS])
def test_another_number_of_rows_drawn_than_the_job_says(count, monkeypatch):
    """Few rows would be a way round min_node_rows = 0 and the rates that the parties agreed on."""
    forests = make_forests(top_rate=0.2, other_rate=0.2)
    change = lambda _: pack_bits([np.arange(ROWS) < count])  # noqa: E731
    refused(monkeypatch, "bank", "boosting.drawn", change, f"bank drew {count} rows", forests=forests)


def told(*maps):
    return lambda _: pack_bits([np.array(m, dtype=bool) for m in maps])


BAD_OUTCOMES = {
    "of no node": told([], []),
    "of more nodes": told([True, True], [True] * 4, [True] * ROWS, []),
    "a split without children": told([True], []),
    "children without a split": told([False], [True, True], [True] * ROWS),
    "rows of a node that stays": told([True], [False, False], [True] * ROWS),
    "no rows of a node that goes on": told([True], [True, True]),
    "rows of a node twice": told([True], [True, True], [True] * ROWS, [True] * ROWS),
    "rows of the children": told([True], [True, True], [True] * (ROWS - 1)),
}


@pytest.mark.parametrize("name", BAD_OUTCOMES)
def test_outcomes_that_do_not_fit_the_level(name, monkeypatch):
    refused(monkeypatch, "bank", "boosting.outcome", BAD_OUTCOMES[name], "bank sent bitmaps")


def test_the_outcome_of_another_level(monkeypatch):
    """A replayed outcome of the root where that of its children is due."""
    sent = []

    def replay(payload):
        sent.append(payload)
        return sent[0]

    forests = make_forests(max_depth=3, n_estimators=1)
    refused(monkeypatch, "bank", "boosting.outcome", replay, "bank sent bitmaps", forests=forests)
    assert len(sent) == 2


def test_an_outcome_with_all_rows_on_one_side_ends_without_a_bug(monkeypatch):
    """A lie about rows: an empty child that is said to be open gets no candidates."""
    tamper(monkeypatch, "bank", "boosting.outcome", told([True], [True, True], [True] * ROWS))
    forests = make_forests(n_estimators=1)
    try:
        forests.fit()
    except RemoteProtocolError as error:
        assert "bank" in str(error) or "shop-1" in str(error)
    counts = [d.payload.counts for d in forests.deliveries if d.message == "boosting.candidates"]
    assert len(counts) == 2 and counts[1][1, 1] == 0 < counts[1][0, 1]


def test_sides_that_lie_end_in_a_tree(monkeypatch):
    """Everything to the left, so that right children are empty: they stay leaves, of a finite value."""
    tamper(monkeypatch, "shop-1", "boosting.sides", lambda p: pack_bits([np.ones(int(c), bool) for c in p.counts]))
    fits = make_forests(reg_lambda=0.0).fit()
    assert all(np.isfinite(tree.values).all() for tree in fits["bank"].boosted.trees)


# importance

OWN = len(make_forests().parts()[1].features)


@pytest.mark.parametrize(
    "counts",
    [
        [[0, OWN - 1]],
        [[0, OWN + 1]],
        [[0, 0]],
        [[0, 2]],
        [[0, -1]],
        [[0, 2**62]],
        [],
        [OWN],
        [[0, OWN], [0, 0]],
        [[OWN]],
    ],
)
def test_gains_of_another_number_of_columns(counts, monkeypatch):
    change = lambda p: EncryptedSums(p.key, np.array(counts, np.int64), p.body)  # noqa: E731
    refused(monkeypatch, "shop-1", "importance.feature_gains", change, "shop-1 sent gains of another number")


def test_gains_in_all_instead_of_by_column_need_as_many_ciphertexts(monkeypatch):
    change = lambda p: EncryptedSums(p.key, np.array([[0, 1]]), p.body)  # noqa: E731
    refused(monkeypatch, "shop-1", "importance.feature_gains", change, "ciphertexts from shop-1")


BAD_VALUES = {
    "fewer": lambda v: v[:-1],
    "more": lambda v: np.append(v, 0.0),
    "not a number": lambda v: v * np.nan,
    "infinite": lambda v: v + np.inf,
    "two dimensions": lambda v: v[None],
    "none": lambda v: v[:0],
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_opened_gains_of_another_shape(name, monkeypatch):
    change = lambda p: Revealed(p.facts, np.ascontiguousarray(BAD_VALUES[name](p.values)))  # noqa: E731
    refused(monkeypatch, "bank", "importance.own_gains", change, "bank sent steering values")


# scoring


@pytest.fixture(scope="module")
def fitted():
    forests = make_forests()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boosting, "generate_keypair", lambda *_, **__: KEY)
        return forests, forests.fit()


def asked(change):
    def changed(payload):
        counts, positions = change(payload.counts.astype(np.int64), payload.positions.astype(np.int64))
        return Positions(np.array(counts, np.int64), np.array(positions).astype(np.uint32))

    return changed


BAD_QUESTIONS = {
    "a row beyond": lambda c, p: (c, np.append(p[:-1], ROWS)),
    "a row far beyond": lambda c, p: (c, np.append(p[:-1], 2**32 - 1)),
    "a row twice": lambda c, p: (c, np.append(p[:-1], p[-2])),
    "a row twice, more counted": lambda c, p: (np.append(c[:-1], c[-1] + 1), np.append(p, p[-1])),
    "another number of splits": lambda c, p: (np.append(c, 0), p),
    "no splits": lambda c, p: ([], p),
    "negative counts": lambda c, p: (np.append(c[:-1], -1), p),
    "counts beyond positions": lambda c, p: (c + 1, p),
    "positions beyond counts": lambda c, p: (c, np.append(p, 0)),
    "huge counts": lambda c, p: (np.full(len(c), 2**62), p),
    "two dimensions": lambda c, p: (c[None], p),
    "two dimensions of positions": lambda c, p: (c, p[None]),
}


@pytest.mark.parametrize("name", BAD_QUESTIONS)
def test_rows_to_score_that_are_refused(name, fitted, monkeypatch):
    forests, fits = fitted
    assert [s.depth for s in fits["shop-1"].splits].count(0) >= 1
    tamper(monkeypatch, "bank", "boosting_scoring.rows", asked(BAD_QUESTIONS[name]))
    with pytest.raises(RemoteProtocolError, match="bank asks for"):
        forests.score(fits)


def test_one_row_at_two_splits_of_a_tree(fitted):
    """At one depth a row is in one node of a tree; asking at its neighbour too would draw the passive columns."""
    (split, *_) = (s for s in fitted[1]["shop-1"].splits if s.depth == 1)
    pair = (split, msgspec.structs.replace(split, node=3 - split.node))
    other_tree = (split, msgspec.structs.replace(split, tree=1 - split.tree))
    question = Positions(np.array([3, 1]), np.array([4, 5, 6, 5], np.uint32))
    with pytest.raises(RemoteProtocolError, match="bank asks for a row twice"):
        boosting_scoring.read_rows(question, pair, ROWS, "bank")
    read = boosting_scoring.read_rows(question, other_tree, ROWS, "bank")
    assert [rows.tolist() for rows in read] == [[4, 5, 6], [5]]


def test_counts_of_questions_whose_sum_wraps_round(fitted, monkeypatch):
    forests, fits = fitted
    wrap = asked(lambda c, p: ([2**62] * 4, []))
    tamper(monkeypatch, "bank", "boosting_scoring.rows", wrap)
    splits = [s for s in fits["shop-1"].splits if s.depth == 0] * 4
    four = {**fits, "shop-1": replace(fits["shop-1"], splits=tuple(splits[:4]))}
    with pytest.raises(RemoteProtocolError, match="bank asks for"):
        forests.score(four)


@pytest.mark.parametrize("name", BAD_BITMAPS)
def test_answers_of_another_shape(name, fitted, monkeypatch):
    forests, fits = fitted
    tamper(monkeypatch, "shop-1", "boosting_scoring.sides", bits(BAD_BITMAPS[name]))
    with pytest.raises(RemoteProtocolError, match="shop-1 sent bitmaps"):
        forests.score(fits)


# payloads by themselves


@pytest.mark.parametrize("sizes", [[], [0], [1], [7], [8], [9], [0, 8, 0], [3, 5], [3, 6, 16], [1] * 17])
def test_bitmaps_round_trip_in_exactly_as_many_bytes(sizes):
    rng = np.random.default_rng(len(sizes))
    maps = [rng.random(size) < 0.5 for size in sizes]
    payload = pack_bits(maps)
    assert len(payload.bits) == -(-sum(sizes) // 8)
    assert [m.tolist() for m in unpack_bits(payload, sizes, "shop")] == [m.tolist() for m in maps]
    for wrong in (np.append(payload.bits, np.uint8(0)), payload.bits[:-1]):
        if len(wrong) != len(payload.bits):
            with pytest.raises(RemoteProtocolError, match="shop sent bitmaps"):
                unpack_bits(Bitmaps(payload.counts, wrong), sizes, "shop")


def test_the_decryptions_of_a_refused_message_are_none(monkeypatch):
    """A message whose counts or ciphertexts are refused is not opened at all."""
    opened = []
    honest = candidates_of.decrypt
    monkeypatch.setattr(
        candidates_of, "decrypt", lambda key, vector: (opened.append(len(vector)), honest(key, vector))[1]
    )
    refused(monkeypatch, "shop-1", "boosting.candidates", with_body(BODIES["too many"]), "shop-1")
    assert opened == []
