"""A source layer whose roles are killed anywhere and started again ends as if nothing had happened, to the last bit."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from parties.checkpoint import ALIGNED, FolderKeeper, Keeper, Snapshot
from parties.errors import DataError
from parties.link import COORDINATOR, Link
from parties.policy import Guards
from parties.wire import Active, Coordinator, Passive, Role
from tests.interruptions import Kill, Story, play_through
from tests.splitnn.layers import Layers, make_layers
from vfl import forward_pass, masking, source_layer, splitnn, splitnn_part, splitnn_scoring
from vfl.label_dp import randomise_labels

CASES: dict[str, dict[str, Any]] = {
    "one passive party": {"columns": (2, 2)},
    "three passive parties": {"columns": (1, 2, 1, 1)},
    "no own columns, multiclass": {"columns": (0, 2, 1), "task": "multiclass"},
    "count, validation": {"columns": (2, 2, 1), "task": "count", "validation": 11},
    "regression, dropout": {"columns": (1, 2), "task": "regression", "settings": {"dropout": 0.4, "hidden": (6, 4)}},
    "sgd with momentum": {
        "columns": (1, 2, 1),
        "settings": {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1, "source_learning_rate": 0.3},
    },
    "steps that are cut": {
        "columns": (1, 2),
        "settings": {"source_learning_rate": 100.0, "batch_size": 8, "epochs": 3},
    },
    "early stopping": {
        "columns": (2, 2, 1),
        "validation": 16,
        "settings": {"epochs": 8, "early_stopping_rounds": 2, "source_learning_rate": 6.0, "learning_rate": 0.02},
    },
    "randomised labels, validation": {"columns": (2, 2), "validation": 11, "epsilon": 2.0},
}
cases = pytest.mark.parametrize("case", CASES)
ESTIMATED: dict[str, Any] = {}


def layers_of(case: str) -> Layers:
    """The same data and labels for every start."""
    options = {"settings": {}} | CASES[case]
    epsilon = options.pop("epsilon", None)
    settings = {"epochs": 4, "batch_size": 18, "units": 2} | options.pop("settings")
    layers = make_layers(rows=44, test=6, key_bits=384, settings=settings, **options)
    if epsilon is not None:
        layers.y = ESTIMATED.setdefault(case, randomise_labels(layers.y, 2, epsilon))
        assert set(np.unique(layers.y)) != {0.0, 1.0}
    return layers


@pytest.fixture(autouse=True)
def few_obfuscators(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that soon ends by a kill makes as many as it needs."""
    monkeypatch.setattr(forward_pass, "_MAX_POOL", 8)


def tell(case: str, folder: Path, *kills: Kill) -> tuple[Story[Any], Layers]:
    layers = layers_of(case)
    roles: dict[str, type[Role]] = {COORDINATOR: Coordinator, "bank": Active}
    story = play_through(layers.plays, roles | dict.fromkeys(layers.names[1:], Passive), folder, kills)
    return story, layers


def whole(story: Story[Any], layers: Layers) -> dict[str, Any]:
    """What has to repeat to the last bit; of shares their sums, for either alone is another one in every run."""
    fit, scores = story.results["bank"]
    course = fit.course
    bits = {f"network {name}": array.tobytes() for name, array in layers.spy.network.weights().items()}
    bits |= {f"weights {name}": array.tobytes() for name, array in layers.weights(story.results).items()}
    losses = (course.rounds, course.losses, course.validation_losses, course.typical.tobytes(), course.warnings)
    epochs = {name: story.results[name].epochs for name in layers.names[1:]} | {COORDINATOR: story.results[COORDINATOR]}
    return {**bits, "course": losses, "scores": scores.tobytes(), "warnings": fit.warnings, "epochs": epochs}


def epochs_of(story: Story[Any]) -> int:
    return story.results["bank"][0].course.rounds


def check(told: tuple[Story[Any], Layers], plain: tuple[Story[Any], Layers]) -> None:
    """Ended alike; no more than an epoch was done twice, and none that all had."""
    story = told[0]
    assert whole(*told) == whole(*plain)
    assert set(story.lost) <= {0, 1}
    assert story.warnings == []
    behind = max(story.resumed[-1] - ALIGNED, 0) if story.resumed else 0
    assert story.actions["bank"]["save"] == epochs_of(plain[0]) - behind


def test_the_cases_are_what_they_are_called(tmp_path: Path) -> None:
    """Early stopping stops, and keeps an earlier epoch; steps are cut; two runs are alike by other shares."""
    story, _ = tell("early stopping", tmp_path / "early")
    course = story.results["bank"][0].course
    assert course.rounds < 8 and int(np.argmin(course.validation_losses)) + 1 == course.rounds - 2
    story, _ = tell("steps that are cut", tmp_path / "cut")
    assert "entries of steps were beyond 1" in story.results["bank"][0].warnings[0]
    runs = [tell("one passive party", tmp_path / name) for name in "ab"]
    assert whole(*runs[0]) == whole(*runs[1])
    shares = [story.results["shop-1"].share for story, _ in runs]
    assert not (shares[0] == shares[1]).any()


@cases
def test_many_kills_in_one_run(case: str, tmp_path: Path) -> None:
    plain = tell(case, tmp_path / "plain")
    rng = random.Random(case)
    kills = []
    for what in rng.sample(["send", "receive", "receive", "save", "saved"], 4):
        role = rng.choice(sorted(plain[0].actions))
        per_epoch = plain[0].actions[role][what] / epochs_of(plain[0])
        kills.append(Kill(role, what, 1 + int(per_epoch * rng.uniform(0.9, 2.2))))
    story, layers = tell(case, tmp_path / "killed", *kills)
    check((story, layers), plain)
    assert story.kills >= 2
    assert max(story.resumed) > ALIGNED


@pytest.mark.parametrize("role", [COORDINATOR, "bank", "shop-1"])
def test_a_role_that_dies_at_every_point_of_an_epoch(role: str, tmp_path: Path) -> None:
    plain = tell("count, validation", tmp_path / "plain")
    points = [
        Kill(role, what, 1 + round(share * plain[0].actions[role][what] / epochs_of(plain[0])))
        for what, shares in (("send", (0.1, 0.4, 0.7, 0.95)), ("receive", (0.0, 0.3, 0.5, 0.8, 1.1)))
        for share in shares
    ]
    points += [Kill(role, "save", 1), Kill(role, "saved", 1)]
    random.Random(role).shuffle(points)
    told = tell("count, validation", tmp_path / "killed", *points)
    check(told, plain)
    assert told[0].kills >= len(points) - 3


@pytest.mark.parametrize("role", [COORDINATOR, "bank", "shop-2"])
def test_after_the_last_epoch_nothing_is_trained_again(role: str, tmp_path: Path) -> None:
    """Early stopping too is remembered; the rows are scored again under another key."""
    plain = tell("early stopping", tmp_path / "plain")
    kill = Kill(role, "receive", plain[0].actions[role]["receive"])
    story, layers = tell("early stopping", tmp_path / "killed", kill)
    check((story, layers), plain)
    assert story.kills == 1 and story.resumed == [ALIGNED + epochs_of(plain[0])]
    assert story.actions[role]["save"] == 0 and layers.spy.seen == []


def test_the_count_of_cut_steps_goes_on(tmp_path: Path) -> None:
    plain = tell("steps that are cut", tmp_path / "plain")
    story, layers = tell(
        "steps that are cut", tmp_path / "killed", Kill("bank", "saved", 2), Kill("shop-1", "saved", 1)
    )
    check((story, layers), plain)
    assert story.kills == 2 and max(story.resumed) > ALIGNED and story.results["bank"][0].warnings != ()


# what is drawn anew


def test_no_key_mask_or_stream_is_used_by_two_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same shares meet the same steps again: under masks that never were."""
    keys, streams, rho = [], [], []
    honest = forward_pass.generate_keypair, masking.stream, source_layer.draw_masks

    def spy_key(*arguments: Any, **options: Any) -> Any:
        keys.append(honest[0](*arguments, **options))
        return keys[-1]

    def spy_stream(secret: bytes, label: str, count: int) -> Any:
        streams.append((threading.current_thread().name, secret, label, honest[1](secret, label, count).tobytes()))
        return honest[1](secret, label, count)

    def spy_masks(*arguments: Any) -> Any:
        rho.append(honest[2](*arguments))
        return rho[-1]

    monkeypatch.setattr(forward_pass, "generate_keypair", spy_key)
    monkeypatch.setattr(masking, "stream", spy_stream)
    monkeypatch.setattr(source_layer, "draw_masks", spy_masks)
    story, _ = tell(
        "one passive party", tmp_path, Kill("bank", "receive", 20), Kill("shop-1", "send", 9), Kill("bank", "saved", 1)
    )
    assert story.kills == 3
    assert len({key.public.n for key in keys}) == len(keys) >= 4
    mine = [(secret, label, stream) for name, secret, label, stream in streams if name == "shop-1"]
    assert len({(secret, label) for secret, label, _ in mine}) == len({stream for *_, stream in mine}) == len(mine) > 9
    assert [label for _, label, _ in mine].count("outputs|0") == 4 + 1  # every start, and scoring: each its own secret
    flat = np.concatenate([masks.reshape(-1, masks.shape[-1])[:, 0] for masks in rho])
    assert len(np.unique(flat)) == len(flat)


def test_a_start_goes_on_with_the_shares_that_were_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is drawn again, so that a crash shows the active party no other share of the same weights."""
    drawn, kept = [], []
    share_weights, restore_share = splitnn.share_weights, splitnn._restore_share
    monkeypatch.setattr(splitnn, "share_weights", lambda weights: drawn.append(1) or share_weights(weights))
    monkeypatch.setattr(
        splitnn, "_restore_share", lambda *arguments: kept.append(restore_share(*arguments)) or kept[-1]
    )
    story, _ = tell("one passive party", tmp_path, Kill("bank", "saved", 2), Kill("bank", "saved", 2))
    assert story.kills == 2 and len(drawn) == 1 and len(kept) == 2


@pytest.mark.parametrize("case", ["one passive party", "count, validation"])
def test_no_role_keeps_what_is_not_its_own(case: str, tmp_path: Path) -> None:
    """Of every epoch kept: neither a weight nor another's share, at the coordinator nothing at all."""
    _, layers = tell(case, tmp_path)
    epochs = layers.splitnn.epochs
    for step in range(ALIGNED + epochs, ALIGNED + epochs - 3, -1):  # a keeper that goes on from one forgets later ones
        kept = {name: snapshot(tmp_path, name, step) for name in (COORDINATOR, *layers.names)}
        assert kept[COORDINATOR].arrays == {} and set(kept[COORDINATOR].facts) == {"go"}
        joint = {}
        for name in layers.names[1:]:
            assert set(kept[name].arrays) == {"share", "best"} and set(kept[name].facts) == {"go"}
            theirs = kept["bank"].arrays[f"source.share.{name}"]
            joint[name] = (kept[name].arrays["share"] + theirs).view(np.int64)
            other = b"".join(array.tobytes() for who in kept if who != name for array in kept[who].arrays.values())
            for secret in (kept[name].arrays["share"], joint[name]):
                assert not any(word.tobytes() in other for word in secret.ravel())
            own = b"".join(array.tobytes() for array in kept[name].arrays.values())
            assert not any(word.tobytes() in own for word in (*theirs.ravel(), *joint[name].ravel()))
        exact, _ = layers.plain_until(step - ALIGNED)
        assert all((joint[name] == exact[name]).all() for name in joint)


def snapshot(folder: Path, name: str, step: int) -> Snapshot:
    keeper = FolderKeeper(folder=folder / name, run="run", job="job", party=name)
    keeper.resume_from(step)
    kept = keeper.trained()
    assert kept is not None
    return kept


BAD = {
    "missing": {},
    "of another type": {"share": np.zeros((2, 2))},
    "of another shape": {"share": np.zeros((2, 3), dtype=np.uint64)},
    "signed": {"share": np.zeros((2, 2), dtype=np.int64)},
}


@pytest.mark.parametrize("bad", BAD)
def test_a_share_that_is_none_is_refused(bad: str) -> None:
    with pytest.raises(DataError, match="a checkpoint of step 3 without share"):
        splitnn.kept_words(Snapshot(3, {}, BAD[bad]), "share", (2, 2))


def test_the_job_trains_on_labels_drawn_once(tmp_path: Path) -> None:
    data: Any = SimpleNamespace(
        labels_to_fit=np.arange(300) % 2,
        job=SimpleNamespace(privacy=SimpleNamespace(label_dp_epsilon=1.0)),
        n_fit=300,
        weights=None,
        n_train=250,
    )
    terms: Any = SimpleNamespace(outputs=1)
    columns: Any = SimpleNamespace(X=np.zeros((300, 1)))

    def keeper() -> FolderKeeper:
        made = FolderKeeper(folder=tmp_path, run="run", job="job", party="bank")
        made.save_aligned({}, {})
        return made

    first, again = (splitnn_part.rows_of(data, terms, columns, keeper()) for _ in range(2))
    np.testing.assert_array_equal(first.y, again.y)
    other = splitnn_part.rows_of(data, terms, columns, Keeper())
    assert not np.array_equal(first.y, other.y)  # equal with chance below 2^-200


# what is counted


def test_an_epoch_that_is_repeated_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before an epoch is kept: the same share, the same views."""
    counted: dict[str, Guards] = {}
    honest = splitnn.spend_epoch

    def spy(terms: Any, guards: Guards, epoch: int, share: Any = None) -> None:
        mine = counted.setdefault(threading.current_thread().name, Guards(enforce=False, small_data=True))
        honest(terms, mine, epoch, share)

    monkeypatch.setattr(splitnn, "spend_epoch", spy)
    kills = [
        Kill("bank", "receive", 12),
        Kill("bank", "saved", 2),
        Kill("shop-1", "save", 1),
        Kill("bank", "receive", 9),
    ]
    story, layers = tell("one passive party", tmp_path, *kills)
    assert story.kills == 4
    for name in ("bank", "shop-1"):
        entries = counted[name].budget._account.opened
        assert [entry.number for entry in entries] == [1, 2, 3, 4]
        assert entries[-1].count == 4 * layers.splitnn.units


def test_rows_are_counted_between_the_weights_and_the_first_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the active party asks, which has kept the last epoch by then."""
    layers, order = layers_of("one passive party"), []
    honest, send = splitnn_scoring.spend_rows, Link.send

    def spend(*arguments: Any, **options: Any) -> None:
        order.append((options["party"], "counted", options["rows"]))
        honest(*arguments, **options)

    def note(self: Any, message: Any, payload: Any) -> None:
        if message.name.startswith("splitnn_scoring") and message.name.endswith(("weights", "products")):
            order.append((self.me, message.name.partition(".")[2], len(payload.body)))
        send(self, message, payload)

    monkeypatch.setattr(splitnn_scoring, "spend_rows", spend)
    monkeypatch.setattr(Link, "send", note)
    layers.fit()
    assert order[:3] == [("bank", "weights", 2), ("shop-1", "counted", 6), ("shop-1", "products", 6)]
