"""What limits the leakage of boosting: who hears of which rows, the order of candidates, least rows, first tree."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from parties.link import COORDINATOR
from parties.wire import Bitmaps, Control, Encrypted, PaillierKey, Positions, Revealed
from tests.trees.forests import Forests, make_frames, make_labels
from vfl import boosting
from vfl import candidates as candidates_of
from vfl.paillier import generate_keypair, unpack_slots
from vfl.trees import shuffle
from vfl.trees.grow import Limits
from vfl.trees.rounds import Labels
from vfl.trees.splits import Candidates

KEY = generate_keypair(512, insecure_test_mode=True)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    """The run's key, so that a test can read what the active party reads."""
    monkeypatch.setattr(boosting, "generate_keypair", lambda *_, **__: KEY)


def make_forests(task="binary", rows=240, parties=3, **options):
    frames = make_frames(rows, seed=4, parties=parties)
    settings = {"max_depth": 4, "min_child_weight": 0.0} | options.pop("settings", {})
    return Forests(task, frames, make_labels(task, frames), settings=settings, **options)


def sent(forests, name, to=None):
    return [d.payload for d in forests.deliveries if d.message == name and to in (None, d.receiver)]


def opened(forests, payload):
    """The sums that the active party reads, (sums, 2 outputs)."""
    layout = boosting.plan_gradients(512, forests.terms())
    residues = KEY.decrypt_values(KEY.public.kernel.from_rows(payload.body))
    sums = unpack_slots(layout, residues, KEY.public.n).reshape(-1, layout.group)
    return sums[: int(payload.counts[:, 1].sum())]


def depths(tree):
    at = np.zeros(len(tree.owner), dtype=int)
    for node in np.flatnonzero(tree.owner >= 0):
        at[tree.left[node]] = at[tree.left[node] + 1] = at[node] + 1
    return at


# rows


def test_outcomes_stop_a_level_before_the_last():
    """Trees have splits at the last level, of every party, and nobody but their owner hears of them."""
    forests = make_forests(settings={"n_estimators": 4})
    trees = forests.fit()["bank"].boosted.trees
    deepest = [tree.owner[(depths(tree) == 3) & (tree.owner >= 0)] for tree in trees]
    assert set(np.concatenate(deepest)) == {0, 1, 2}
    for name in ("shop-1", "shop-2"):
        levels = [depths(tree)[tree.owner >= 0].max() + 1 for tree in trees]
        assert levels == [4] * 4
        assert len(sent(forests, "boosting.outcome", name)) == 4 * (4 - 1)


def test_rows_are_told_of_nodes_that_go_on_only():
    """Per level of an outcome: bits of the nodes, of the children, and one bitmap per node with an open child."""
    forests = make_forests(settings={"n_estimators": 3, "min_child_weight": 8.0})
    trees = forests.fit()["bank"].boosted.trees
    outcomes = sent(forests, "boosting.outcome", "shop-1")
    stays = told = 0
    for payload in outcomes:
        split, opened, rows = payload.counts[0], payload.counts[1], payload.counts[2:]
        bits = np.unpackbits(payload.bits, count=int(payload.counts.sum())).astype(bool)
        pairs = bits[split : split + opened].reshape(-1, 2)
        assert len(rows) == pairs.any(axis=1).sum() <= bits[:split].sum() == opened // 2
        told += len(rows)
        stays += int((~pairs.any(axis=1)).sum())
    inner = sum(int(((tree.owner >= 0) & (depths(tree) < 3)).sum()) for tree in trees)
    assert told + stays == inner and stays > 0


def test_a_passive_party_hears_memberships_choices_and_ciphertexts_only():
    """No leaf value, and gains summed by its own columns only."""
    forests = make_forests()
    fits = forests.fit()
    kinds = {
        "boosting.key": PaillierKey,
        "boosting.tree": Control,
        "boosting.gradients_copy": Encrypted,
        "boosting.totals": Encrypted,
        "boosting.chosen": Positions,
        "boosting.outcome": Bitmaps,
        "importance.split_gains": Encrypted,
        "importance.own_gains": Revealed,
    }
    for name in ("shop-1", "shop-2"):
        mine = [d for d in forests.deliveries if d.receiver == name and not d.message.startswith("greeting.")]
        assert {d.message: type(d.payload) for d in mine} == kinds
        for facts in (d.payload.facts for d in mine if d.message == "boosting.tree"):
            assert set(facts) <= {"go", "round", "tree", "trees"}
        (gains,) = (d.payload for d in mine if d.message == "importance.own_gains")
        assert gains.facts == {} and len(gains.values) == 2 * forests.terms().columns[name]
        assert vars(fits[name]).keys() == {"splits", "importance", "trees"}
        assert {s for split in fits[name].splits for s in split.__struct_fields__} == {
            "tree", "node", "depth", "feature", "bins", "missing_left"
        }  # fmt: skip


def test_a_party_answers_for_rows_of_the_nodes_that_it_was_told_to_split():
    forests = make_forests()
    trees = forests.fit()["bank"].boosted.trees
    for number, name in enumerate(("shop-1", "shop-2"), 1):
        answers = [d.payload for d in forests.deliveries if d.message == "boosting.sides" and d.sender == name]
        levels = [int((tree.owner[depths(tree) == level] == number).sum()) for tree in trees for level in range(4)]
        assert [len(payload.counts) for payload in answers] == levels


# the order of candidates


def many_candidates(features, bins, groups=0):
    """Candidates of two nodes, feature by feature."""
    node, feature, b = (grid.ravel() for grid in np.meshgrid(range(2), range(features), range(bins), indexing="ij"))
    pairs = np.array([(n, features + g) for n in range(2) for g in range(groups)], dtype=np.int64).reshape(-1, 2)
    sizes = np.full(len(pairs), 4)
    members = np.tile(np.arange(4), len(pairs))
    return Candidates(node, feature, b, np.ones(len(node), dtype=bool), pairs, sizes, members)


def uniform(table):
    """Whether counts of shape (things, places), one place per thing and run, look uniform, within 6 sigma."""
    runs, places = table.sum(axis=1)[0], table.shape[1]
    expected = runs / places
    return bool(np.abs(table - expected).max() < 6 * np.sqrt(expected * (1 - 1 / places)))


def test_every_candidate_is_at_every_place_of_its_node_equally_often():
    candidates, runs, size = many_candidates(3, 4), 3000, 12
    places = np.zeros((2, size, size))
    for _ in range(runs):
        order, groups = candidates_of.shuffled(candidates)
        assert sorted(order.tolist()) == list(range(2 * size)) and not len(groups)
        for node in range(2):
            own = order[node * size : (node + 1) * size] - node * size
            places[node, own, np.arange(size)] += 1
    assert uniform(places[0]) and uniform(places[1])
    assert not uniform(np.diag(np.full(size, float(runs))))  # an order that never changes is seen


def test_pairs_of_candidates_of_one_column_stand_apart_as_often_as_others():
    """Neighbours in a message are of one column by chance only: (runs of columns) = 1 + 2 a b / (a + b) on average."""
    candidates, repeats = many_candidates(2, 10), 2000
    changes = []
    for _ in range(repeats):
        order, _ = candidates_of.shuffled(candidates)
        changes += [int((np.diff(candidates.feature[order[part]]) != 0).sum()) for part in (slice(20), slice(20, 40))]
    expected, variance = 2 * 10 * 10 / 20, 2 * 100 * (200 - 20) / (20**2 * 19)
    assert abs(np.mean(changes) - expected) < 6 * np.sqrt(variance / len(changes))


def test_groups_and_their_members_are_shuffled_too():
    candidates, runs = many_candidates(1, 2, groups=3), 3000
    places, inside = np.zeros((3, 3)), np.zeros((4, 4))
    for _ in range(runs):
        order, groups = candidates_of.shuffled(candidates)
        assert candidates.groups[groups, 0].tolist() == [0] * 3 + [1] * 3
        places[groups[:3], np.arange(3)] += 1
        members = order[4:] - 4
        assert (members.reshape(6, 4) // 4 == groups[:, None]).all()  # a group's members stay together
        inside[members[:4] % 4, np.arange(4)] += 1
    assert uniform(places) and uniform(inside)


def test_in_a_run_columns_are_mixed_within_nodes_and_otherwise_each_time(monkeypatch):
    """As sent: the sums in their order are those of the shuffled candidates, and two runs differ in it."""
    orders = []
    honest = candidates_of.shuffled

    def spy(candidates, *keyed):
        orders.append((candidates, *honest(candidates, *keyed)))
        return orders[-1][1:]

    monkeypatch.setattr(candidates_of, "shuffled", spy)
    forests = make_forests(parties=2, settings={"n_estimators": 1, "max_depth": 2})
    forests.fit()
    first = list(orders)
    orders.clear()
    replace(forests, deliveries=[], frames_sent=[], ledgers={}).fit()
    for (candidates, order, _), (_, other, _) in zip(first, orders, strict=True):
        assert order.tolist() != other.tolist() and sorted(order) == sorted(other)
        for node in np.unique(candidates.node):
            own = order[candidates.node[order] == node]
            columns = candidates.feature[own]
            assert len(np.unique(columns)) > 3
            assert (np.diff(columns) != 0).sum() > len(np.unique(columns)) - 1  # not column after column
    assert all((np.diff(candidates.node[order]) >= 0).all() for candidates, order, _ in first)


def test_the_order_comes_from_the_operating_system(monkeypatch):
    drawn = []
    honest = shuffle.secrets.token_bytes
    monkeypatch.setattr(shuffle.secrets, "token_bytes", lambda n: (drawn.append(n), honest(n))[1])
    candidates_of.shuffled(many_candidates(2, 3, groups=1))
    assert drawn == [8 * 12, 8 * 2, 8 * 8]


# guards


def test_nodes_of_few_rows_get_no_candidates(monkeypatch):
    """The messages' counts, node by node, beside the rows that the nodes have."""
    least, seen = 60, []
    honest = boosting._send_candidates

    def spy(run, tree, level):
        seen.append(np.bincount(level.slot[tree.rows][level.slot[tree.rows] >= 0], minlength=len(level.numbers)))
        return honest(run, tree, level)

    monkeypatch.setattr(boosting, "_send_candidates", spy)
    forests = make_forests(parties=2, limits=Limits(min_node_rows=least), settings={"max_cat_to_onehot": 3})
    forests.check()
    payloads = sent(forests, "boosting.candidates")
    rows = np.concatenate(seen)
    plain = np.concatenate([p.counts[: len(own), 1] for p, own in zip(payloads, seen, strict=True)])
    assert ((plain > 0) == (rows >= least)).all()
    assert (rows < least).sum() > 5 and (rows >= least).sum() > 5
    for payload, own in zip(payloads, seen, strict=True):
        assert (own[payload.counts[len(own) :, 0]] >= least).all()
    unlimited = replace(forests, limits=Limits(), deliveries=[], frames_sent=[], ledgers={})
    unlimited.fit()
    assert sum(len(p.body) for p in sent(unlimited, "boosting.candidates")) > sum(len(p.body) for p in payloads)


def left_counts(gap, bins=64, missing=False):
    """Rows on the left side of every candidate, read off the message: with squared errors sums of h count rows."""
    rng = np.random.default_rng(6)
    rows = 400
    column = rng.normal(size=rows).round(1)
    if missing:
        column[rng.random(rows) < 0.2] = np.nan
    frames = [pd.DataFrame({"own": rng.normal(size=rows)}), pd.DataFrame({"x": column})]
    y = np.nan_to_num(frames[1]["x"].to_numpy()) * 3 + rng.normal(size=rows)
    settings = {"n_estimators": 2, "max_depth": 3, "max_bin": bins}
    forests = Forests("regression", frames, y, settings=settings, limits=Limits(min_bin_gap=gap))
    forests.check()
    found = []
    for payload in sent(forests, "boosting.candidates"):
        h = opened(forests, payload)[:, 1]
        assert (h % (1 << 23) == 0).all()  # h = 1 of every row
        found += np.split(h >> 23, np.cumsum(payload.counts[:, 1])[:-1])
    return [np.sort(own) for own in found], forests


@pytest.mark.parametrize("gap", [2, 10, 25])
def test_any_two_candidates_of_a_column_differ_by_the_gap(gap):
    nodes, _ = left_counts(gap)
    assert sum(len(own) > 1 for own in nodes) > 3
    for own in nodes:
        assert (np.diff(own) >= gap).all() and (own >= gap).all()
    close, _ = left_counts(0)
    assert min(int(np.diff(own).min()) for own in close if len(own) > 1) == 1
    assert sum(map(len, close)) > sum(map(len, nodes))


def test_missing_cells_need_the_gap_as_well():
    """Of the root: bins up to some b, the same with the m missing cells, and all others against the missing cells."""
    gap = 12
    nodes, forests = left_counts(gap, missing=True)
    m = int(forests.frames[1]["x"].isna().sum())
    roots = [own.tolist() for own in nodes if own.max(initial=0) > 380 - gap]
    assert len(roots) == 2 and m > gap  # of two trees
    for own in roots:
        own.remove(400 - m)
        family = []
        while own:
            family.append(own.pop(0))
            own.remove(family[-1] + m)
        assert len(family) > 4 and family[0] >= gap <= 400 - m - family[-1]
        assert min(np.diff(family)) >= gap
    few, _ = left_counts(m + 1, missing=True)
    assert max(map(len, few)) > 1
    for own in few:  # too few missing cells to be told apart: they go left with every candidate
        assert (np.diff(own) >= m + 1).all()


def test_a_first_tree_of_the_active_party_alone_sends_nothing():
    forests = make_forests(parties=2, settings={"first_tree_active_only": True, "n_estimators": 3})
    fits, _, _ = forests.check()
    trees = fits["bank"].boosted.trees
    assert set(trees[0].owner) <= {-1, 0} and len(trees) == 3
    announced = [p.facts for p in sent(forests, "boosting.tree")]
    assert [(facts.get("tree"), facts.get("round")) for facts in announced] == [(1, 1), (2, 2), (None, None)]
    assert len(sent(forests, "boosting.gradients")) == 2
    n = len(forests.y)
    assert sum(len(p.body) for p in sent(forests, "boosting.gradients")) == 2 * n
    assert not [split for split in fits["shop-1"].splits if split.tree == 0]
    plaintexts = opened_gradients(forests)
    start = forests.objective().gradients(np.tile(fits["bank"].boosted.start, (n, 1)), forests.y)
    assert len(np.unique(start[0])) == 2  # what the first tree's gradients would have told: the labels themselves
    assert len(np.unique(plaintexts[0])) > 4


def opened_gradients(forests):
    """g of every row, tree by tree."""
    layout = boosting.plan_gradients(512, forests.terms())
    read = lambda body: unpack_slots(layout, KEY.decrypt_values(KEY.public.kernel.from_rows(body)), KEY.public.n)  # noqa: E731
    return [read(payload.body)[:, 0] for payload in sent(forests, "boosting.gradients")]


def test_a_first_round_of_one_tree_per_class_is_alone_as_a_whole():
    frames = make_frames(150, seed=4)
    settings = {"first_tree_active_only": True, "multi_output": False, "n_estimators": 2, "max_depth": 2}
    forests = Forests("multiclass", frames, make_labels("multiclass", frames), outputs=3, settings=settings)
    fits, _, _ = forests.check()
    assert [p.facts.get("tree") for p in sent(forests, "boosting.tree")] == [3, 4, 5, None]
    assert all(set(tree.owner) <= {-1, 0} for tree in fits["bank"].boosted.trees[:3])


def test_only_rounds_that_are_alone_ask_nothing_of_anybody():
    forests = make_forests(parties=2, settings={"first_tree_active_only": True, "n_estimators": 1})
    fits, _, _ = forests.check()
    assert fits["shop-1"].trees == 1 and not fits["shop-1"].splits
    names = {d.message for d in forests.deliveries if not d.message.startswith("greeting.")}
    assert names == {"boosting.key", "boosting.blocks", "boosting.tree"}


def test_subsamples_are_drawn_without_a_message_and_only_their_rows_are_encrypted():
    forests = make_forests(parties=2, settings={"subsample": 0.25, "n_estimators": 2})
    forests.check()
    assert [len(p.body) for p in sent(forests, "boosting.gradients")] == [60, 60]
    assert not sent(forests, "boosting.drawn")


def test_goss_tells_the_rows_drawn_and_not_which_were_kept(monkeypatch):
    """One bitmap of as many rows as both rates say; drawn ones are chosen with a seed made of the labels."""
    forests = make_forests(parties=2, settings={"top_rate": 0.1, "other_rate": 0.2, "n_estimators": 2})
    forests.check()
    drawn = sent(forests, "boosting.drawn")
    assert [int(np.unpackbits(p.bits).sum()) for p in drawn] == [72, 72]
    other = replace(forests, y=1 - forests.y, deliveries=[], frames_sent=[], ledgers={})
    assert isinstance(other.labels(), Labels)
    other.fit()
    assert sent(other, "boosting.drawn")[0].bits.tobytes() != drawn[0].bits.tobytes()


def test_the_coordinator_learns_rows_and_trees_from_sizes_alone():
    forests = make_forests()
    forests.fit()
    received = [d for d in forests.deliveries if d.receiver == COORDINATOR and d.message.startswith("boosting")]
    assert [d.payload.facts["blocks"] for d in received if d.message == "boosting.blocks"] == [1, 1, 1, 0]
    assert {type(d.payload) for d in received} == {Control, Encrypted}
