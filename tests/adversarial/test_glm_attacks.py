"""Attacks on GLM training: each succeeds against a naive variant and fails against ours.

1. One mask for two evaluations gives the coordinator the difference of scores, row by row.
2. Exact gradients of reshuffled batches are independent equations on the residuals: the labels fall out.
3. At zero weights an exact gradient of a small batch is a subset sum with one solution.
4. As many sums of passive scores as passive columns span the columns' space.
5. With the key at the coordinator, ciphertexts relayed unsealed are scores in plain.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from parties.errors import LocalProtocolError
from parties.link import COORDINATOR
from parties.policy import Guards, label_rank, least_rows, score_budget, small_batch
from parties.wire import Encrypted
from tests.glm.federations import Federation, make_federation, standardised
from vfl import glm, glm_quadratic
from vfl.exact import quantise
from vfl.masking import Masks
from vfl.paillier import PrivateKey, centred

RNG = np.random.default_rng


def spied(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, role: str) -> list:
    """Results of every call of a function by one role."""
    results: list = []
    honest = getattr(owner, name)

    def spy(*args: object, **options: object) -> object:
        result = honest(*args, **options)
        if threading.current_thread().name == role:
            results.append(result)
        return result

    monkeypatch.setattr(owner, name, spy)
    return results


# 1. mask reuse


def evaluations(masks: Masks, label: Callable[[int], str]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Scores of two evaluations, and what the coordinator sees of them."""
    federation = make_federation("logistic", 50, (1, 3, 2))
    block = federation.block("passive-1")
    scores = [glm.forward(block, RNG(i).normal(size=(3, 1))).ravel() for i in range(2)]
    return scores, [masks.scores(label(i), s).body[:, 0].view(np.int64) for i, s in enumerate(scores)]


def test_a_mask_used_twice_gives_the_difference_of_scores() -> None:
    class NoMemory(set):
        def __contains__(self, label: object) -> bool:
            return False

    scores, seen = evaluations(Masks({"active": (bytes(32), 1)}, NoMemory()), lambda _: "scores")
    assert (seen[1] - seen[0] == scores[1] - scores[0]).all()


def test_ours_refuses_a_used_mask_and_masks_differ() -> None:
    masks = Masks({"active": (bytes(32), 1)})
    scores, seen = evaluations(masks, lambda i: f"scores|{i}")
    assert not (seen[1] - seen[0] == scores[1] - scores[0]).any()
    with pytest.raises(LocalProtocolError, match="used before"):
        masks.scores("scores|0", scores[1])
    with pytest.raises(LocalProtocolError, match="used before"):
        masks.scalars("scores|0", [1.0])


def test_the_coordinators_view_of_a_run_shows_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs of evaluations of one run and of two runs on the same data."""
    true = spied(monkeypatch, glm, "disclosed_scores", "passive-1")
    federations = [make_federation("logistic", 60, (1, 3, 2), training={"max_iter": 3}) for _ in range(2)]
    seen = []
    for federation in federations:
        federation.fit()
        seen += [
            d.payload.body[:, 0].view(np.int64)
            for d in federation.deliveries
            if d.message == "glm_exact.scores" and d.sender == "passive-1"
        ]
    assert len(true) == len(seen) == 6
    for i in range(6):
        for j in range(i):
            assert not (seen[i] - seen[j] == true[i] - true[j]).any()


# 2. labels from gradients

ROWS, COLUMNS = 400, 6


def company() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The passive party's columns, the active party's, and labels that depend on the latter only."""
    rng = RNG(4)
    X, own = standardised(rng.normal(size=(ROWS, COLUMNS))), standardised(rng.normal(size=(ROWS, 3)))
    y = (rng.random(ROWS) < 1 / (1 + np.exp(-own @ [1.5, -1.0, 0.5]))).astype(float)
    return X, own, y


def descend(batch: int, steps: int, *, reshuffled: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Gradient descent that shows the passive party its exact gradient of every batch."""
    X, own, y = company()
    A, w, rng = np.hstack([own, X]), np.zeros(3 + COLUMNS), RNG(5)
    order, batches, gradients = np.arange(ROWS), [], []
    for step in range(steps):
        at = step * batch % ROWS
        if at == 0 and reshuffled:
            order = rng.permutation(ROWS)
        rows = order[at : at + batch]
        gradient = A[rows].T @ (1 / (1 + np.exp(-A[rows] @ w)) - y[rows])
        w -= 0.05 * gradient / batch
        batches.append(rows)
        gradients.append(gradient[3:])
    return batches, gradients


def residuals_behind(batches: list[np.ndarray], gradients: list[np.ndarray]) -> tuple[np.ndarray, int]:
    """The smallest residuals that explain the gradients, taken as constant over training; and the equations' rank."""
    X, _, _ = company()
    equations = np.zeros((len(batches) * COLUMNS, ROWS))
    for i, rows in enumerate(batches):
        equations[i * COLUMNS : (i + 1) * COLUMNS, rows] = X[rows].T
    solution, _, rank, _ = np.linalg.lstsq(equations, np.concatenate(gradients), rcond=1e-8)
    return solution, int(rank)


def label_auc(residuals: np.ndarray) -> float:
    return float(roc_auc_score(company()[2], -residuals))


def test_reshuffled_batches_give_the_labels() -> None:
    residuals, rank = residuals_behind(*descend(20, 300, reshuffled=True))
    assert rank == ROWS
    assert label_auc(residuals) > 0.94


def test_fixed_batches_give_columns_per_batch_only() -> None:
    residuals, rank = residuals_behind(*descend(200, 268, reshuffled=False))
    assert rank == 2 * COLUMNS
    assert label_auc(residuals) < 0.65


def test_a_full_batch_gives_nothing_however_long_it_trains() -> None:
    """T d / n = 4, yet the rank is d: the attacker learns what his own columns say about the labels."""
    residuals, rank = residuals_behind(*descend(ROWS, 268, reshuffled=False))
    assert rank == COLUMNS
    assert label_auc(residuals) < 0.65


@pytest.mark.parametrize("key_holder", ["active", "coordinator"])
def test_ours_gives_rank_d_and_no_labels(key_holder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = spied(monkeypatch, glm, "mean_gradient", "passive-1")
    X, own, y = company()
    Federation("logistic", np.hstack([own, X]), y, (3, COLUMNS), key_holder=key_holder).fit()
    learnt = [g[:, 0] * ROWS for g in gradients[: None if key_holder == "active" else 1]]
    residuals, rank = residuals_behind([np.arange(ROWS)] * len(learnt), learnt)
    assert rank == COLUMNS
    assert label_auc(residuals) < 0.65


def test_the_guards_tell_these_cases_apart() -> None:
    guards = Guards(enforce=True, small_data=False)
    full = {"rows": 600, "party": "shop"}
    assert small_batch(Guards(True, True), rows=20, columns=COLUMNS, party="shop") is None
    assert small_batch(guards, rows=20, columns=COLUMNS, party="shop").level == "refuse"
    assert small_batch(guards, columns=COLUMNS, **full) is None
    assert label_rank(columns=300 * COLUMNS, **full).level == "refuse"  # reshuffled: every step counts
    assert label_rank(columns=COLUMNS, rows=200, party="shop") is None
    assert label_rank(columns=COLUMNS, **full) is None


# 3. subset sums


def integer_columns(rows: int) -> np.ndarray:
    return quantise(standardised(RNG(6).normal(size=(rows, 2))), rows).integers


def test_a_small_batch_at_zero_weights_has_one_solution() -> None:
    """X'(1/2 - y) and X are known: try all label vectors of 16 rows."""
    X, y = integer_columns(16), RNG(7).integers(0, 2, 16)
    gradient = X.T @ (1 - 2 * y)
    candidates = (np.arange(1 << 16)[:, None] >> np.arange(16)) & 1
    fitting = candidates[((1 - 2 * candidates) @ X == gradient).all(axis=1)]
    assert (fitting == y).all()
    assert len(fitting) == 1


def test_a_batch_of_the_least_size_has_many() -> None:
    """Other labels with the same exact gradient: three positives and three negatives of equal sums change places."""
    rows = least_rows(2)
    X, y, rng = integer_columns(rows), RNG(7).integers(0, 2, rows), RNG(8)
    sums: dict[bytes, np.ndarray] = {}
    positives, negatives = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    for trio in rng.choice(positives, size=(150_000, 3)):
        sums[X[trio].sum(axis=0).tobytes()] = trio
    others = 0
    for trio in rng.choice(negatives, size=(150_000, 3)):
        twin = sums.get(X[trio].sum(axis=0).tobytes())
        if twin is not None and len(set(trio)) == len(set(twin)) == 3:
            changed = y.copy()
            changed[trio], changed[twin] = 1, 0
            assert (X.T @ (1 - 2 * changed) == X.T @ (1 - 2 * y)).all()
            others += 1
    assert others > 0
    assert small_batch(Guards(True, False), rows=rows - 1, columns=2, party="shop").level == "refuse"


# 4. column space

KNOWN = 30


def recovered(views: list[np.ndarray], X: np.ndarray) -> int:
    """Passive columns that the active party reconstructs from its views and 30 rows that it knows."""
    Z = np.column_stack([view / 2.0**glm.SCORE_BITS for view in views])
    count = 0
    for column in X.T:
        fit = np.linalg.lstsq(Z[:KNOWN], column[:KNOWN], rcond=1e-6)[0]
        unexplained = column[KNOWN:] - Z[KNOWN:] @ fit
        count += bool(np.var(unexplained) < 0.1 * np.var(column))
    return count


def views_of(monkeypatch: pytest.MonkeyPatch, **options: object) -> tuple[list[np.ndarray], np.ndarray]:
    views = spied(monkeypatch, Masks, "open_scores", "active")
    federation = make_federation("logistic", 300, (2, 5, 5), seed=2, training={"tol": 1e-13}, **options)
    federation.fit()
    return views, federation.X[:, 2:]


def test_as_many_views_as_columns_give_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    views, X = views_of(monkeypatch, enforce=False)
    assert len(views) > 10
    assert recovered(views[:10], X) == 10


def test_the_budget_ends_before(monkeypatch: pytest.MonkeyPatch) -> None:
    views, X = views_of(monkeypatch, enforce=True, consent=False)
    assert len(views) == 9
    assert np.linalg.matrix_rank(np.column_stack(views).astype(float)) < 10
    assert recovered(views, X) < 10
    assert recovered(views[:4], X) < 5


def test_past_the_budget_only_rounded_views_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Consent is a disclosure: rounding spares a column or so, not more (nine views were exact before it set in)."""
    views, X = views_of(monkeypatch, enforce=True, consent=True)
    assert len(views) >= 10
    assert all((view % (1 << 24) == 0).all() for view in views[9:])
    assert recovered(views[:10], X) < 10


def test_the_budget_counts_views_against_columns() -> None:
    levels = [
        verdict and verdict.level
        for t in (5, 6, 9, 10)
        for verdict in [score_budget(evaluations=t, scores=1, passive_columns=[5, 5], party="bank", consent=False)]
    ]
    assert levels == [None, "warn", "warn", "stop"]


# 5. the coordinator's key


def test_the_coordinator_reads_scores_only_if_relayed_messages_were_not_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = spied(monkeypatch, glm_quadratic, "generate_keypair", COORDINATOR)
    scores = spied(monkeypatch, glm_quadratic, "_step_scores", "passive-1")
    monkeypatch.setattr(glm_quadratic, "choose_rows_per_ciphertext", lambda *_: 1)
    federation = make_federation("logistic", 60, (2, 3, 2), key_holder="coordinator", training={"max_iter": 3})
    federation.fit()
    (key,) = keys
    relayed = [d.payload for d in federation.deliveries if d.sender == "passive-1" and d.receiver == "active"]
    assert [read(key, payload) for payload in relayed] == [s.tolist() for s in scores]  # a naive relay's view
    assert len(scores) == 3
    frames = b"|".join(frame.body for frame in federation.frames)
    assert not any(row.tobytes() in frames for payload in relayed for row in payload.body)
    own = [d.payload for d in federation.deliveries if d.receiver == COORDINATOR and isinstance(d.payload, Encrypted)]
    secrets = {value for vector in scores for value in vector.tolist()} - {0}
    assert not secrets & {value for payload in own for value in read(key, payload)}


def read(key: PrivateKey, payload: Encrypted) -> list[int]:
    residues = key.decrypt_values(key.public.kernel.from_rows(payload.body))
    return [centred(m, key.public.n) for m in residues]
