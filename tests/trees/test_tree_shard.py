"""Boosted trees on disk: read back they are the same; what is damaged is refused."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parties.errors import DataError
from parties.spec import PartySpec
from tests.trees.forests import Forests, make_frames, make_labels
from vfl.events import FeatureImportance
from vfl.tree_shard import TreeShard, load_tree_shard, save_tree_shard
from vfl.trees.forest import predict_plain

State = dict[str, Any]


def spec_of(name: str) -> PartySpec:
    label = {"label": "y"} if name == "bank" else {}
    return PartySpec(name=name, role="active" if label else "passive", data="x.csv", id="id", **label)


def saved(forests: Forests, folder: Path) -> dict[str, TreeShard]:
    """Fit, and save every party's shard in a folder of its name."""
    fits = forests.fit()
    shards = {}
    for number, name in enumerate(forests.names):
        lines = (FeatureImportance(name, "feature 1", 1.5, 2.5, 3),)
        shard = TreeShard(forests.binning(number), fits[name].splits, importance=lines)
        if name == "bank":
            boosted = fits[name].boosted
            shard = TreeShard(shard.binning, shard.splits, boosted.start, boosted.trees, ("no", "yes"), lines)
        (folder / name).mkdir(parents=True)
        save_tree_shard(folder / name, forests.terms(), spec_of(name), shard)
        shards[name] = shard
    return shards


def forests_of(task: str = "binary", **settings: Any) -> Forests:
    frames = make_frames(120)
    outputs = 3 if task == "multiclass" else 1
    return Forests(task, frames, make_labels(task, frames), outputs=outputs, settings=settings)


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("binary", {"max_cat_to_onehot": 2, "n_estimators": 5}),
        ("multiclass", {}),
        ("multiclass", {"multi_output": False}),
        ("binary", {"gamma": 1e6}),
    ],
)
def test_there_and_back(task: str, settings: dict[str, Any], tmp_path: Path) -> None:
    forests = forests_of(task, **settings)
    shards = saved(forests, tmp_path)
    loaded = {name: load_tree_shard(tmp_path / name) for name in forests.names}
    for name, shard in shards.items():
        back = loaded[name]
        assert (back.binning, back.splits, back.classes) == (shard.binning, shard.splits, shard.classes)
        assert back.importance == shard.importance
        np.testing.assert_array_equal(back.start, shard.start)
        assert len(back.trees) == len(shard.trees)
        for mine, theirs in zip(back.trees, shard.trees, strict=True):
            assert mine.output == theirs.output
            for array in ("owner", "left", "values", "gain", "cover"):
                np.testing.assert_array_equal(getattr(mine, array), getattr(theirs, array))
    frames = make_frames(80, seed=5, missing=0.3)
    splits = [loaded[name].splits for name in forests.names]
    parts = [
        (loaded[name].binning.features, loaded[name].binning.transform(frame)[0])
        for name, frame in zip(forests.names, frames, strict=True)
    ]
    scores = predict_plain(loaded["bank"].trees, splits, parts, loaded["bank"].start)
    fits = {name: shard for name, shard in shards.items() if name != "bank"}
    expected = predict_plain(
        shards["bank"].trees,
        [shards["bank"].splits, *(shard.splits for shard in fits.values())],
        forests.coded(frames),
        shards["bank"].start,
    )
    np.testing.assert_array_equal(scores, expected)


def test_guests_keep_neither_trees_nor_start(tmp_path: Path) -> None:
    saved(forests_of(), tmp_path)
    shard = load_tree_shard(tmp_path / "shop-1")
    assert shard.splits
    assert (shard.trees, shard.classes, shard.start.size) == ((), (), 0)
    with np.load(tmp_path / "shop-1" / "model.npz") as arrays:
        assert list(arrays) == ["start"]
    text = (tmp_path / "bank" / "model.json").read_text()
    header = json.loads(text)
    assert [header[name] for name in ("model", "task", "party", "role", "max_depth")] == [
        "boosting", "binary", "bank", "active", 3
    ]  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    saved(forests_of(max_cat_to_onehot=2), folder)
    return folder


def rewritten(source: Path, target: Path, change: Callable[[State, State], None]) -> Path:
    """A copy of a shard with a change in its state or arrays, whose parts still belong together."""
    target.mkdir()
    state = json.loads((source / "model.json").read_text())
    with np.load(source / "model.npz") as stored:
        arrays = {name: stored[name].copy() for name in stored}
    change(state, arrays)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    state["arrays_sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    (target / "model.npz").write_bytes(buffer.getvalue())
    (target / "model.json").write_text(json.dumps(state))
    return target


def setting(where: str, key: Any, value: Any) -> Callable[[State, State], None]:
    """Change an entry of an array, or of the splits."""

    def change(state: State, arrays: State) -> None:
        if where == "splits":
            state["splits"][0][key] = value
        elif key is None:
            arrays[where] = value(arrays[where])
        else:
            arrays[where][key] = value

    return change


def dropping(name: str) -> Callable[[State, State], None]:
    def change(state: State, arrays: State) -> None:
        del (state if name in state else arrays)[name]

    return change


DAMAGE: dict[str, Callable[[State, State], None]] = {
    **{f"without {name}": dropping(name) for name in ("binning", "splits", "importance", "classes")},
    **{f"without {name}": dropping(name) for name in ("start", "owner", "left", "values", "gain", "cover", "output")},
    "split on no column": setting("splits", "feature", 99),
    "split on a column before the first": setting("splits", "feature", -1),
    "split at no bin": setting("splits", "bins", []),
    "split past the last bin": setting("splits", "bins", [10_000]),
    "split before the first bin": setting("splits", "bins", [-1]),
    "split of text": setting("splits", "bins", "abc"),
    "split of another node": setting("splits", "node", 77),
    "split of another tree": setting("splits", "tree", 5),
    "split without a side": setting("splits", "missing_left", None),
    "one split too few": lambda state, _: state["splits"].pop(),
    "one split twice": lambda state, _: state["splits"].append(state["splits"][0]),
    "child is its own parent": setting("left", 0, 0),
    "child beyond the tree": setting("left", 0, 1000),
    "a child of two": lambda _, arrays: arrays["left"].__setitem__(slice(None), np.where(arrays["left"], 1, 0)),
    "another owner": setting("owner", 0, -1),
    "fewer nodes": setting("owner", None, lambda array: array[:-1]),
    "fewer values": setting("values", None, lambda array: array[:-1]),
    "values of two outputs": setting("values", None, lambda array: np.repeat(array, 2, axis=1)),
    "values in one line": setting("values", None, np.ravel),
    "a value that is none": setting("values", 3, np.nan),
    "owners of numbers": setting("owner", None, lambda array: array.astype(float)),
    "trees end early": setting("offsets", -1, 3),
    "trees begin late": setting("offsets", 0, 1),
    "no end of trees": setting("offsets", None, lambda array: array[:0]),
    "offsets in a table": setting("offsets", None, lambda array: array[None]),
    "output that is none": setting("output", 0, 4),
    "one output too few": setting("output", None, lambda array: array[:-1]),
    "start that is no number": setting("start", 0, np.inf),
    "two starts": setting("start", None, lambda array: np.repeat(array, 2)),
    "start of text": setting("start", None, lambda array: array.astype(str)),
    "importance of text": lambda state, _: state.__setitem__("importance", "none"),
    "damaged bins": lambda state, _: state["binning"].__setitem__("features", [{"name": "x"}]),
    "bins of another kind": lambda state, _: state.__setitem__("binning", [1]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_refused(damage: str, shards: Path, tmp_path: Path) -> None:
    folder = rewritten(shards / "bank", tmp_path / "damaged", DAMAGE[damage])
    with pytest.raises(DataError, match="again"):
        load_tree_shard(folder)


@pytest.mark.parametrize("name", ["split on no column", "split past the last bin", "one split twice", "without start"])
def test_a_guests_damaged_shard_is_refused(name: str, shards: Path, tmp_path: Path) -> None:
    folder = rewritten(shards / "shop-1", tmp_path / "damaged", DAMAGE[name])
    with pytest.raises(DataError, match="run the training again"):
        load_tree_shard(folder)


def test_a_copy_without_damage_is_read(shards: Path, tmp_path: Path) -> None:
    for name in ("bank", "shop-1"):
        copy = rewritten(shards / name, tmp_path / name, lambda state, arrays: None)
        assert load_tree_shard(copy).splits == load_tree_shard(shards / name).splits


@pytest.mark.parametrize("file", ["model.json", "model.npz"])
@pytest.mark.parametrize("how", ["missing", "empty", "cut short", "of the other party", "text"])
def test_files_that_are_damaged_are_refused(file: str, how: str, shards: Path, tmp_path: Path) -> None:
    folder = rewritten(shards / "bank", tmp_path / "damaged", lambda state, arrays: None)
    content = (folder / file).read_bytes()
    if how == "missing":
        (folder / file).unlink()
    else:
        other = (shards / "shop-1" / file).read_bytes()
        new = {"empty": b"", "cut short": content[: len(content) // 2], "of the other party": other, "text": b"[]"}[how]
        (folder / file).write_bytes(new)
    with pytest.raises(DataError, match="cannot be read"):
        load_tree_shard(folder)
