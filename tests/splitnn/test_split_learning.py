"""Split learning: the same weights as on one graph in one place, whatever the task and the local steps are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from parties.errors import DataError, PolicyError
from parties.policy import Guards, Policy
from tests.splitnn.split_networks import SplitNetworks, make_rows
from vfl import split_learning
from vfl.epochs import draw_batches
from vfl.gradient_noise import epsilon
from vfl.label_inference import LabelAttack
from vfl.split_learning import dropout_seed

CASES: dict[str, dict[str, Any]] = {
    "binary": {},
    "one passive party": {"widths": (2, 4)},
    "label-only active party": {"widths": (0, 3, 2)},
    "multiclass": {"task": "multiclass"},
    "regression, weighted": {"task": "regression", "weighted": True},
    "hidden layers below": {"settings": {"bottom_hidden": (6, 5), "activation": "tanh"}},
    "sgd": {"settings": {"optimizer": "sgd", "learning_rate": 0.1}},
    "local steps": {"settings": {"local_steps": 3}},
    "local steps, sgd, hidden": {"settings": {"local_steps": 4, "optimizer": "sgd", "bottom_hidden": (5,)}},
    "one batch": {"settings": {"batch_size": 100}},
    "batches of one row": {"rows": 12, "settings": {"batch_size": 1}},
}


@pytest.mark.parametrize("case", CASES)
def test_all_weights_are_those_of_one_graph_in_one_place(case: str) -> None:
    networks = SplitNetworks(**CASES[case])
    fits = networks.fit()
    weights, losses = networks.together()
    assert networks.network is not None
    found = {"bank": networks.network.weights()} | {name: b.weights() for name, b in networks.bottoms.items()}
    for name, expected in weights.items():
        for key, array in expected.items():
            np.testing.assert_allclose(found[name][key], array, rtol=1e-4, atol=2e-6, err_msg=f"{name} {key}")
    course = fits["bank"].course
    unit = networks.network.label.deviation**2
    assert course.losses[0] == pytest.approx(losses[0] * unit, rel=1e-5)
    assert len(course.losses) == 4 and course.rounds == 3
    assert [fits[name] for name in ("coordinator", *networks.names[1:])] == [3] * len(networks.names)


def sent(networks: SplitNetworks, message: str, to: str | None = None) -> list[np.ndarray]:
    return [
        d.payload.values
        for d in networks.deliveries
        if d.message == f"split_learning.{message}" and to in (None, d.receiver)
    ]


def same_weights(first: SplitNetworks, second: SplitNetworks) -> bool:
    pairs = [(first.bottoms[name].weights(), second.bottoms[name].weights()) for name in first.bottoms]
    assert first.network is not None and second.network is not None
    pairs.append((first.network.weights(), second.network.weights()))
    return all(one.keys() == other.keys() for one, other in pairs) and all(
        one[key].tobytes() == other[key].tobytes() for one, other in pairs for key in one
    )


def test_two_runs_end_alike_to_the_last_bit() -> None:
    settings = {"dropout": 0.3, "bottom_hidden": (6,), "local_steps": 2}
    first, second = SplitNetworks(settings=settings), SplitNetworks(settings=settings)
    assert first.fit()["bank"].course.losses == second.fit()["bank"].course.losses
    assert same_weights(first, second)
    other = SplitNetworks(settings=settings, seed=1)
    other.fit()
    assert not same_weights(first, other)


def test_dropout_leaves_out_something_else_in_every_batch_and_at_every_party() -> None:
    networks = SplitNetworks(settings={"dropout": 0.5})
    seeds = {
        dropout_seed(networks.job, party, epoch, batch)
        for party in ("shop-1", "shop-2")
        for epoch in range(3)
        for batch in range(4)
    }
    assert len(seeds) == 24


# the best epoch


def watched(patience: int | None = None) -> SplitNetworks:
    """A validation loss that soon rises."""
    settings = {"epochs": 12, "learning_rate": 0.3, "early_stopping_rounds": patience}
    return SplitNetworks(rows=80, validation=25, settings=settings)


def test_every_party_keeps_the_weights_of_the_best_epoch() -> None:
    networks = watched()
    course = networks.fit()["bank"].course
    best = int(np.argmin(course.validation_losses))
    assert 0 < best < 11
    shorter = watched()
    shorter.settings |= {"epochs": best + 1}
    shorter.fit()
    assert same_weights(networks, shorter)


def test_early_stopping_ends_everybody() -> None:
    networks = watched(patience=2)
    fits = networks.fit()
    course = fits["bank"].course
    best = int(np.argmin(course.validation_losses))
    assert course.rounds == best + 3 < 12
    assert [fits[name] for name in ("coordinator", "shop-1", "shop-2")] == [course.rounds] * 3


def test_validation_rows_are_looked_at_in_blocks_and_never_trained_on() -> None:
    networks = watched()
    networks.fit()
    sizes = [len(values) for values in sent(networks, "outputs")][::2]
    assert sizes == [14, 14, 14, 13, 16, 9] * 12
    assert [len(values) for values in sent(networks, "gradients", "shop-1")] == [14, 14, 14, 13] * 12
    changed = watched()
    changed.y[55:] = 1 - changed.y[55:]
    changed.blocks = [np.concatenate([block[:55], 5 * block[55:]]) for block in changed.blocks]
    changed.settings |= {"epochs": 1}
    networks.settings |= {"epochs": 1}
    networks.fit()
    changed.fit()
    assert same_weights(networks, changed)


# local steps


def test_local_steps_reach_a_loss_with_fewer_exchanges() -> None:
    """FedBCD: one exchange of a batch, four steps on it."""

    def trained(steps: int) -> tuple[list[float], int]:
        settings = {"local_steps": steps, "epochs": 16, "optimizer": "sgd", "learning_rate": 0.05}
        networks = SplitNetworks(rows=200, settings=settings)
        course = networks.fit()["bank"].course
        return list(course.losses[1:]), len(sent(networks, "gradients", "shop-1"))

    plain, exchanges = trained(1)
    local, same_exchanges = trained(4)
    assert exchanges == same_exchanges == 16 * 13
    target = plain[-1]
    assert plain[0] - target > 0.05
    epochs = next(number for number, loss in enumerate(local, 1) if loss <= target)
    assert epochs <= 16 // 3


# what leaves


def test_every_passive_party_is_sent_the_same() -> None:
    networks = SplitNetworks(settings={"gradient_clip": 0.2, "gradient_noise": 1.0})
    networks.fit()
    for one, other in zip(sent(networks, "gradients", "shop-1"), sent(networks, "gradients", "shop-2"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_clipping_bounds_each_rows_own_gradient_in_batches_of_any_size() -> None:
    plain, clipped = SplitNetworks(rows=50), SplitNetworks(rows=50, settings={"gradient_clip": 0.05})
    plain.fit(), clipped.fit()
    lengths = [
        np.concatenate([np.linalg.norm(len(values) * values, axis=1) for values in sent(networks, "gradients")])
        for networks in (plain, clipped)
    ]
    assert lengths[0].max() > 0.1
    assert lengths[1].max() <= 0.05 and np.isclose(lengths[1], 0.05).mean() > 0.2
    own, cut = (len(sent(one, "gradients")[0]) * sent(one, "gradients")[0] for one in (plain, clipped))
    np.testing.assert_allclose(cut, own * np.minimum(1, 0.05 / np.linalg.norm(own, axis=1))[:, None])


def test_noise_is_added_and_its_epsilon_stated() -> None:
    settings = {"gradient_clip": 0.05, "gradient_noise": 40.0}
    networks, quiet = SplitNetworks(settings=settings), SplitNetworks(settings={"gradient_clip": 0.05})
    fit = networks.fit()["bank"]
    plain = quiet.fit()["bank"]
    values = np.concatenate([len(part) * part.ravel() for part in sent(networks, "gradients", "shop-1")])
    assert values.std() == pytest.approx(2.0, rel=0.15)
    assert fit.gradient_epsilon == epsilon(40.0, 3)
    assert "differentially private" in fit.warnings[0] and "3 epochs" in fit.warnings[0]
    assert (plain.gradient_epsilon, plain.warnings) == (None, ())
    again = SplitNetworks(settings=settings)
    again.fit()
    assert not np.array_equal(sent(again, "gradients")[0], sent(networks, "gradients")[0])  # from the operating system


def test_the_attack_runs_on_what_was_sent() -> None:
    asked = {"label_inference": True, "bottom_hidden": (6,)}
    plain, noisy = (
        SplitNetworks(rows=200, settings=asked),
        SplitNetworks(rows=200, settings=asked | {"gradient_clip": 0.1, "gradient_noise": 20.0}),
    )
    found, hidden = plain.fit()["bank"].label_inference, noisy.fit()["bank"].label_inference
    assert found[0].epoch == 1 and found[0].direction_auc > 0.95 and found[0].norm_auc > 0.6
    assert max(hidden[0].direction_auc, hidden[0].norm_auc) < 0.72  # five deviations of chance
    order = np.concatenate(draw_batches(200, 16, 0, 0))
    gradients = np.zeros((200, 4))
    gradients[order] = np.concatenate([len(part) * part for part in sent(plain, "gradients", "shop-1")[:13]])
    attack = LabelAttack(plain.y > 0.5, 4)
    attack.watch(np.arange(200), gradients)
    attack.end_epoch(1)
    assert attack.outcome()[0] == found[0]
    assert SplitNetworks().fit()["bank"].label_inference == ()


def test_the_attack_is_judged_by_the_true_labels() -> None:
    """Trained on labels that are the other way round for a third of the rows."""
    networks = SplitNetworks(rows=240, settings={"label_inference": True, "epochs": 1})
    truth = networks.y.copy()
    flipped = np.random.default_rng(3).random(240) < 1 / 3
    networks.y = np.where(flipped, 1.5 - 2 * truth, 2 * truth - 0.5)  # estimates of randomised labels: 1.5 and -0.5
    networks.labels = truth
    (judged,) = networks.fit()["bank"].label_inference
    networks.labels = None
    (trusting,) = networks.fit()["bank"].label_inference
    assert judged.direction_auc < 0.8 < 0.95 < trusting.direction_auc


# modules of the user's own


def test_modules_of_the_users_own_train_with_everything_else() -> None:
    torch.manual_seed(0)
    modules = {
        "shop-1": torch.nn.Sequential(torch.nn.Unflatten(1, (1, 3)), torch.nn.Conv1d(1, 2, 2), torch.nn.Flatten()),
        "shop-2": torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4)),
        "bank": torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(4, 1)),
    }
    networks = SplitNetworks(rows=64, settings={"epochs": 15}, modules=modules)
    losses = networks.fit()["bank"].course.losses
    assert losses[-1] < losses[1] - 0.1
    assert set(networks.bottoms["shop-2"].weights()) > {"1.running_mean"}


# scoring


def test_scores_are_the_sum_of_what_the_bottoms_give() -> None:
    networks = SplitNetworks(settings={"dropout": 0.4, "bottom_hidden": (5,)})
    networks.fit()
    blocks, _ = make_rows("binary", 33, networks.widths, seed=5)
    expected = sum(networks.bottoms[name].forward(blocks[i]) for i, name in enumerate(networks.names) if i)
    np.testing.assert_array_equal(networks.score(blocks), expected)


def test_scores_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = SplitNetworks()
    networks.fit()
    blocks, _ = make_rows("binary", 33, networks.widths, seed=5)
    whole = networks.score(blocks)
    monkeypatch.setattr(split_learning, "BLOCK", 4 * 10)
    networks.deliveries.clear()
    np.testing.assert_array_equal(networks.score(blocks), whole)
    assert [len(values) for values in sent(networks, "scored")] == [10] * 6 + [3] * 2


def test_no_rows_to_score_are_no_message() -> None:
    networks = SplitNetworks()
    networks.fit()
    networks.deliveries.clear()
    assert networks.score([np.zeros((0, width)) for width in networks.widths]).shape == (0, 4)
    assert sent(networks, "scored") == []


def test_scored_rows_are_counted_before_anything_leaves() -> None:
    networks = SplitNetworks(widths=(2, 3), policy=Policy(scored_rows=50))
    networks.fit()
    blocks, _ = make_rows("binary", 33, networks.widths, seed=5)
    networks.score(blocks)
    networks.deliveries.clear()
    networks.score(blocks)  # the same rows again count once
    others, _ = make_rows("binary", 33, networks.widths, seed=6)
    networks.deliveries.clear()
    with pytest.raises(PolicyError, match="scored_rows"):
        networks.score(others)
    assert sent(networks, "scored") == []


@pytest.mark.parametrize("enforce", [True, False], ids=["enforced", "warned of"])
def test_a_policy_rounds_scores_where_guards_are_enforced(enforce: bool) -> None:
    networks = SplitNetworks(policy=Policy(score_bits=3), guards=Guards(enforce=enforce, small_data=True))
    networks.fit()
    blocks, _ = make_rows("binary", 33, networks.widths, seed=5)
    exact = [networks.bottoms[name].forward(blocks[i]) for i, name in enumerate(networks.names) if i]
    rounded = [np.rint(values * 8) / 8 for values in exact]
    np.testing.assert_array_equal(networks.score(blocks), sum(rounded if enforce else exact))
    assert any("score_bits" in line for line in networks.guards.warnings)


# training that comes to nothing


def test_a_training_that_diverges_says_so() -> None:
    settings = {"optimizer": "sgd", "learning_rate": 100.0, "epochs": 8}
    with pytest.raises(DataError, match="training diverged.*lower training.learning_rate"):
        SplitNetworks("regression", settings=settings).fit()


def test_outputs_that_are_no_numbers_do_not_leave() -> None:
    broken = torch.nn.Linear(3, 4)
    torch.nn.init.constant_(broken.bias, torch.inf)
    networks = SplitNetworks(modules={"shop-1": broken})
    with pytest.raises(DataError, match="outputs are no longer numbers"):
        networks.fit()
    assert not any(d.sender == "shop-1" for d in networks.deliveries if d.message.startswith("split_learning"))
