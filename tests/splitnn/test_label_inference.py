"""What a passive party could guess of labels from gradients: nearly all from plain ones, nothing under strong noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from parties.checkpoint import ALIGNED, FolderKeeper
from parties.errors import DataError
from vfl.events import LabelInference
from vfl.gradient_noise import GradientNoise
from vfl.label_inference import LabelAttack, direction_scores, label_auc, norm_scores

ROWS, UNITS = 1500, 8


def problem(share: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and the gradients of their cross entropy by the inputs of a network of one hidden layer."""
    rng = np.random.default_rng(seed)
    positive = rng.random(ROWS) < share
    p = np.clip(share + 0.05 * rng.normal(size=ROWS), 0.01, 0.9)  # early: hardly told apart
    direction = rng.normal(size=UNITS) * rng.uniform(0.5, 1.5, size=(ROWS, UNITS))  # gates of the layer above
    return positive, (p - positive)[:, None] * direction


def attacked(positive: np.ndarray, gradients: np.ndarray) -> LabelInference:
    attack = LabelAttack(positive, UNITS)
    attack.watch(np.arange(ROWS), gradients)
    attack.end_epoch(1)
    (found,) = attack.outcome()
    return found


def test_plain_gradients_of_a_rare_label_tell_nearly_all_labels() -> None:
    found = attacked(*problem())
    assert found.norm_auc > 0.99 and found.direction_auc > 0.99
    assert found.epoch == 1


def test_of_a_frequent_label_only_the_direction_tells() -> None:
    found = attacked(*problem(share=0.5))
    assert found.direction_auc > 0.99
    assert found.norm_auc < 0.6


def test_strong_noise_hides_them() -> None:
    positive, gradients = problem()
    noisy = GradientNoise(0.1, 20.0, bytes(32)).release(gradients, 0, 0)
    found = attacked(positive, noisy)
    assert max(found.norm_auc, found.direction_auc) < 0.56


def test_little_noise_hides_little() -> None:
    positive, gradients = problem()
    found = attacked(positive, GradientNoise(10.0, 0.01, bytes(32)).release(gradients, 0, 0))
    assert found.direction_auc > 0.9


def test_batches_in_any_order_are_one_epoch() -> None:
    positive, gradients = problem()
    attack = LabelAttack(positive, UNITS)
    for rows in np.array_split(np.random.default_rng(1).permutation(ROWS), 7):
        attack.watch(rows, gradients[rows])
    attack.end_epoch(1)
    assert attack.outcome() == (attacked(positive, gradients),)


# scores and AUC


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=30))
def test_auc_is_scikit_learns_the_better_way_round(pairs: list[tuple[bool, int]]) -> None:
    positive = np.array([label for label, _ in pairs])
    scores = np.array([score for _, score in pairs], dtype=np.float64)
    auc = label_auc(positive, scores)
    if positive.all() or not positive.any():
        assert auc is None
    else:
        expected = roc_auc_score(positive, scores)
        assert auc == pytest.approx(max(expected, 1 - expected))


def test_the_known_row_is_the_positive_one_with_the_longest_gradient_and_is_not_counted() -> None:
    gradients = np.array([[9.0, 0.0], [0.0, 2.0], [0.0, 1.0], [0.0, 0.0], [0.0, -3.0]])
    positive = np.array([False, True, True, False, False])
    scores = direction_scores(gradients, positive)
    np.testing.assert_array_equal(scores, [0.0, np.nan, 1.0, 0.0, -1.0])
    assert label_auc(positive, scores) == 1.0


def test_cosines_do_not_depend_on_lengths() -> None:
    positive, gradients = problem()
    longer = gradients * np.random.default_rng(2).uniform(0.5, 1.0, size=(ROWS, 1))
    known = int(np.nanargmax(np.where(positive, norm_scores(gradients), np.nan)))
    longer[known] = 1000 * gradients[known]
    np.testing.assert_allclose(direction_scores(longer, positive), direction_scores(gradients, positive), atol=1e-12)


# epochs


def run_epochs(attack: LabelAttack, epochs: range) -> None:
    """The third of five epochs tells most."""
    gradients = problem()[1]
    for epoch in epochs:
        noise = {1: 6.0, 3: 0.5}.get(epoch, 12.0)
        attack.watch(np.arange(ROWS), GradientNoise(0.3, noise, bytes(32)).release(gradients, epoch, 0))
        attack.end_epoch(epoch)


def test_the_first_epoch_and_the_one_that_tells_most_are_reported() -> None:
    attack = LabelAttack(problem()[0], UNITS)
    assert attack.outcome() == ()
    run_epochs(attack, range(1, 2))
    assert [one.epoch for one in attack.outcome()] == [1]
    run_epochs(attack, range(2, 6))
    assert [one.epoch for one in attack.outcome()] == [1, 3]
    first, worst = attack.outcome()
    assert max(worst.norm_auc, worst.direction_auc) > max(first.norm_auc, first.direction_auc)


def test_epochs_before_a_crash_are_remembered(tmp_path: Path) -> None:
    whole = LabelAttack(problem()[0], UNITS)
    run_epochs(whole, range(1, 6))
    half = LabelAttack(problem()[0], UNITS)
    run_epochs(half, range(1, 4))
    keeper = FolderKeeper(folder=tmp_path, run="run", job="job", party="bank")
    keeper.save_aligned({}, {})
    keeper.save_round(3, {}, half.state())
    keeper.resume_from(ALIGNED + 3)
    resumed = LabelAttack(problem()[0], UNITS)
    kept = keeper.trained()
    assert kept is not None
    resumed.restore(kept)
    run_epochs(resumed, range(4, 6))
    assert resumed.outcome() == whole.outcome() and len(whole.outcome()) == 2
    keeper.save_round(4, {}, {})
    keeper.resume_from(ALIGNED + 4)
    kept = keeper.trained()
    assert kept is not None
    with pytest.raises(DataError, match="label_inference"):
        resumed.restore(kept)


def test_without_rows_of_both_classes_nothing_is_said() -> None:
    for positive in (np.zeros(ROWS, dtype=bool), np.ones(ROWS, dtype=bool), np.arange(ROWS) == 3):
        attack = LabelAttack(positive, UNITS)
        attack.watch(np.arange(ROWS), problem()[1])
        attack.end_epoch(1)
        assert attack.outcome() == ()
        assert attack.state()["source.label_inference"].shape == (0, 3)
