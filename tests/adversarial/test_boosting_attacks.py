"""Attacks on boosting, measured: they succeed without the guards, and how much the guards leave of them.

1. Differences of opened sums match single rows: the active party learns in which bin of a passive column a row lies.
2. Rows that share leaves tend to share labels: a passive party clusters the memberships that it is told (ID2Graph).
3. With label_dp_epsilon the gradients, and all that follows from them, are functions of the randomised labels alone.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD

from tests.trees.forests import Forests
from vfl import Federation, GradientBoostingClassifier, Party, boosting, boosting_part
from vfl.label_dp import randomise_labels
from vfl.paillier import generate_keypair, unpack_slots
from vfl.trees.grow import Limits

KEY = generate_keypair(512, insecure_test_mode=True)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's key: what the active party reads, a test can read."""
    monkeypatch.setattr(boosting, "generate_keypair", lambda *_, **__: KEY)


# 1. differences of sums

ROWS = 2000
Views = list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # per node: rows, their (g, h), opened sums


def company(limits: Limits) -> Forests:
    """Squared errors: every row has a gradient of its own, the worst case. Continuous columns in 64 bins."""
    rng = np.random.default_rng(11)
    frames = [pd.DataFrame({f"x{j}": rng.normal(size=ROWS) for j in range(width)}) for width in (2, 5)]
    y = sum(np.sin(frame["x0"]) + frame["x1"] / 2 for frame in frames).to_numpy() + rng.normal(size=ROWS)
    settings = {"n_estimators": 2, "max_depth": 5, "max_bin": 64}
    return Forests("regression", frames, y, settings=settings, limits=limits)


def views(monkeypatch: pytest.MonkeyPatch, forests: Forests) -> Views:
    """Per node what the active party has: its rows, their (g, h), and the opened sums in the order of the message."""
    levels, found = [], []
    honest = boosting._RemotePart.offer

    def spy(self: object, level: object) -> np.ndarray:
        levels.append(level)
        return honest(self, level)

    with monkeypatch.context() as patch:
        patch.setattr(boosting._RemotePart, "offer", spy)
        forests.fit()
    layout = boosting.plan_gradients(512, forests.terms())
    payloads = [d.payload for d in forests.deliveries if d.message == "boosting.candidates"]
    for level, payload in zip(levels, payloads, strict=True):
        residues = KEY.decrypt_values(KEY.public.kernel.from_rows(payload.body))
        sums = unpack_slots(layout, residues, KEY.public.n).reshape(-1, 2)[: payload.counts[:, 1].sum()]
        for node, own in enumerate(np.split(sums, np.cumsum(payload.counts[:, 1])[:-1])):
            rows = np.flatnonzero(level.slot == node)
            found.append((rows, level.task.gradients.values[rows], own))
    return found


@pytest.fixture(scope="module")
def bare_views() -> Views:
    """Without guards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boosting, "generate_keypair", lambda *_, **__: KEY)
        return views(patch, company(Limits()))


def pinned(rows: np.ndarray, gradients: np.ndarray, sums: np.ndarray) -> set[int]:
    """Rows whose (g, h) is the difference of two sums of the node, the empty one and the whole among them."""
    if not len(sums):
        return set()
    known = np.concatenate([sums, [[0, 0]], gradients.sum(axis=0, keepdims=True)])
    differences = (known[:, None] - known[None]).reshape(-1, 2)
    values, first, times = np.unique(gradients, axis=0, return_index=True, return_counts=True)
    single = {tuple(value): int(rows[i]) for value, i, n in zip(values.tolist(), first, times, strict=True) if n == 1}
    one = differences[differences[:, 1] == gradients[0, 1]]
    return {single[tuple(value)] for value in one.tolist() if tuple(value) in single}


def attack(seen: Views) -> tuple[int, int]:
    """Rows pinned at least once in two trees, and how often rows were pinned in all."""
    found = [pinned(*view) for view in seen]
    return len(set().union(*found)), sum(map(len, found))


def test_differences_of_sums_pin_rows_unless_nodes_and_gaps_are_large(
    bare_views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare, times = attack(bare_views)
    rows_only, _ = attack(views(monkeypatch, company(Limits(min_node_rows=200))))
    guarded, _ = attack(views(monkeypatch, company(Limits(min_node_rows=200, min_bin_gap=10))))
    print(f"rows of {ROWS} pinned in two trees: {bare} ({times} times) without guards, {rows_only} with", end=" ")
    print(f"min_node_rows = 200, {guarded} with min_bin_gap = 10 as well")
    assert bare > 0.3 * ROWS
    assert rows_only < bare / 2
    assert guarded <= bare / 50


def test_what_the_attack_pins_is_true(bare_views: Views) -> None:
    """A pinned row lies alone between two thresholds of some passive column, in its node."""
    codes = company(Limits()).parts()[1].codes
    checked = 0
    for rows, gradients, sums in bare_views[-8:]:
        for row in pinned(rows, gradients, sums):
            alone = (codes[rows] == codes[row]).sum(axis=0) == 1
            checked += bool(alone.any())
            assert alone.any()
    assert checked > 20


def test_order_and_nodes_alone_pin_nobody(bare_views: Views) -> None:
    """The same attack against sums of other rows: its hits are no accidents."""
    rng = np.random.default_rng(0)
    hits = sum(len(pinned(rows, gradients + rng.integers(1, 1000, gradients.shape) * [1, 0], sums))
               for rows, gradients, sums in bare_views)  # fmt: skip
    assert hits <= 2


# 2. labels from memberships


def problem(seed: int, epsilon: float | None) -> tuple[Forests, np.ndarray]:
    """Labels that columns hardly tell: what trees fit beyond that is the labels of their training rows."""
    rng = np.random.default_rng(seed)
    frames = [pd.DataFrame({f"x{j}": rng.normal(size=300) for j in range(width)}) for width in (6, 1)]
    score = frames[0]["x0"] + frames[0]["x1"] + 5 * rng.normal(size=300)
    y = (score > 0).to_numpy(dtype=np.float64)
    settings = {"n_estimators": 5, "max_depth": 6, "max_bin": 16}
    given = y if epsilon is None else randomise_labels(y, 2, epsilon)
    return Forests("binary", frames, given, settings=settings), y


def memberships(forests: Forests) -> np.ndarray:
    """One column per node that the passive party hears of: which rows are in it."""
    n = len(forests.y)
    columns, rows = [], [np.arange(n)]
    for delivery in forests.deliveries:
        if delivery.receiver != "shop-1" or delivery.message not in ("boosting.tree", "boosting.outcome"):
            continue
        if delivery.message == "boosting.tree":
            rows = [np.arange(n)]
            continue
        counts = delivery.payload.counts
        bits = np.unpackbits(delivery.payload.bits, count=int(counts.sum())).astype(bool)
        split, opened, *maps = np.split(bits, np.cumsum(counts)[:-1])
        pairs = opened.reshape(-1, 2)
        told = np.flatnonzero(split)[pairs.any(axis=1)]
        children = [(rows[node][left], rows[node][~left]) for node, left in zip(told, maps, strict=True)]
        for side in (side for pair in children for side in pair):
            columns.append(np.isin(np.arange(n), side))
        kept = pairs[pairs.any(axis=1)]
        rows = [
            side for pair, open_ in zip(children, kept, strict=True) for side, o in zip(pair, open_, strict=True) if o
        ]
    return np.array(columns, dtype=np.float64).T


def clustered(view: np.ndarray, y: np.ndarray) -> float:
    """Share of rows whose cluster, the better way round, is their label: 0.5 is a guess."""
    embedded = TruncatedSVD(4, random_state=0).fit_transform(view / np.sqrt(view.sum(axis=0)))
    groups = KMeans(2, n_init=5, random_state=0).fit_predict(embedded)
    share = float((groups == y).mean())
    return max(share, 1 - share)


def voted(view: np.ndarray, y: np.ndarray, known: int = 40) -> float:
    """Share of labels told right by rows that share nodes, where the labels of 40 rows are known."""
    weights = view / np.sqrt(view.sum(axis=0))
    votes = weights[known:] @ weights[:known].T @ (2 * y[:known] - 1)
    return float(((votes > 0) == y[known:]).mean())


def attacked(epsilon: float | None) -> tuple[float, float]:
    """Both attacks, mean of five problems."""
    found = []
    for seed in range(5):
        forests, y = problem(seed, epsilon)
        forests.fit()
        view = memberships(forests)
        found.append((clustered(view, y), voted(view, y)))
    return tuple(np.mean(found, axis=0).tolist())


def test_memberships_tell_labels_and_randomised_labels_less() -> None:
    (plain, with_help), (noisy, noisy_help) = attacked(None), attacked(1.0)
    print(f"labels that a passive party clusters right: {plain:.3f}, with epsilon = 1 {noisy:.3f};", end=" ")
    print(f"with 40 labels known: {with_help:.3f} and {noisy_help:.3f}")
    assert plain > 0.57
    assert noisy < plain


# 3. label differential privacy


def federation(flipped: bool) -> Federation:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(240, 4))
    ids = [f"{i:04d}" for i in range(240)]
    y = (x.sum(axis=1) + rng.normal(size=240) > 0) != flipped
    bank = pd.DataFrame({"id": ids, "a": x[:, 0], "b": x[:, 1], "y": y.astype(int)})
    shop = pd.DataFrame({"id": ids, "c": x[:, 2], "d": x[:, 3]})
    privacy = {"key_bits": 512, "insecure_test_mode": True, "label_dp_epsilon": 1.0}
    return Federation(Party("bank", bank, id="id", label="y"), Party("shop", shop, id="id"), privacy=privacy)


def encrypted(monkeypatch: pytest.MonkeyPatch, flipped: bool, **settings: object) -> list[tuple[bytes, bytes, int]]:
    """What the active party encrypts, tree by tree: rows drawn, g and h as integers; and how many trees there are."""
    sent = []
    honest = boosting._send_tree

    def spy(run: object, task: object, round_number: int) -> None:
        sent.append((task.gradients.rows.tobytes(), task.gradients.values.tobytes(), task.number))
        honest(run, task, round_number)

    with monkeypatch.context() as patch:
        patch.setattr(boosting, "_send_tree", spy)
        estimator = GradientBoostingClassifier(n_estimators=4, max_depth=3, **settings)
        federation(flipped).fit(estimator, validation_fraction=0.2, baselines=False)
    return sent


@pytest.mark.parametrize(
    "settings",
    [{"subsample": 0.7}, {"top_rate": 0.2, "other_rate": 0.3}, {"early_stopping_rounds": 1, "learning_rate": 1.0}],
    ids=["subsample", "GOSS", "early stopping"],
)
def test_all_that_is_encrypted_follows_from_randomised_labels(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The opposite labels, answered by chance alike: the same rows, gradients and number of trees, to the last bit."""
    answers: dict[int, np.ndarray] = {}

    def alike(values: np.ndarray, classes: int, epsilon: float) -> np.ndarray:
        return answers.setdefault(len(values), randomise_labels(values, classes, epsilon))

    monkeypatch.setattr(boosting_part, "randomise_labels", alike)
    first, second = encrypted(monkeypatch, False, **settings), encrypted(monkeypatch, True, **settings)
    assert first == second and len(first) > 1
    monkeypatch.setattr(boosting_part, "randomise_labels", randomise_labels)
    assert encrypted(monkeypatch, False, **settings) != first


def test_gradients_of_the_first_tree_show_answers_and_not_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two values of g; they tell the randomised labels, which are the true ones with p = e / (e + 1) each."""
    seen = []

    def spy(values: np.ndarray, classes: int, epsilon: float) -> np.ndarray:
        seen.append((values, randomise_labels(values, classes, epsilon)))
        return seen[-1][1]

    monkeypatch.setattr(boosting_part, "randomise_labels", spy)
    sent = encrypted(monkeypatch, False)
    ((labels, answers),) = seen  # drawn once for the whole run, the validation part's among them
    n = len(np.frombuffer(sent[0][0], dtype=np.int64))
    assert len(labels) > n
    g = np.frombuffer(sent[0][1], dtype=np.int64).reshape(-1, 2)[:, 0]
    assert len(np.unique(g)) == 2
    assert ((g < 0) == (answers[:n] > 0.5)).all()
    for _, values, _ in sent:  # every tree: an answer of "1" is above any score of these few rounds
        later = np.frombuffer(values, dtype=np.int64).reshape(-1, 2)[:, 0]
        assert ((later < 0) == (answers[:n] > 0.5)).all()
    kept = float(((answers > 0.5) == labels).mean())
    p = np.e / (np.e + 1)
    assert abs(kept - p) < 6 * np.sqrt(p * (1 - p) / len(labels))
