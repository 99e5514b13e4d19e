"""A silo's shard of a horizontal training on disk: read back it is the same; what is damaged or mixed up is refused."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from parties.data import table_from_frame
from parties.errors import DataError
from parties.spec import PartySpec
from vfl.horizontal_shard import HorizontalShard, load_horizontal_shard, save_horizontal_shard
from vfl.job import Job, Member, Model, SplitNN, Task
from vfl.kept_run import FILE, load_kept_run, save_horizontal_run, save_kept_run
from vfl.parts import Parts
from vfl.preprocess import Preprocessor, fit_preprocessor
from vfl.shard import save_ids, save_test_scores
from vfl.terms import Terms

State = dict[str, Any]
SPEC = PartySpec(name="hospitals.north", role="active", data="/somewhere/north.csv", label="y")
MODELS: dict[Model, tuple[Task, list[str]]] = {
    "logistic": ("binary", ["no", "yes"]),
    "softmax": ("multiclass", ["a", "b", "c"]),
    "linear": ("regression", []),
    "splitnn": ("binary", ["no", "yes"]),
}
CASES = pytest.mark.parametrize("model", MODELS)


def job_of(model: Model) -> Job:
    members = tuple(Member(name=f"hospitals.{silo}", role="active") for silo in ("north", "south"))
    return Job(name="silos", model=model, task=MODELS[model][0], splitnn=SplitNN(units=3), parties=members)


def encoder() -> Preprocessor:
    """Two encoded columns of numbers, two of categories."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.normal(size=20), "dose": rng.normal(size=20)})
    frame["ward"] = pd.Series(["a", "b"] * 10, dtype=object)
    return fit_preprocessor(frame, {"age": "numeric", "dose": "numeric", "ward": "categorical"})


def arrays_of(model: Model) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    if model == "splitnn":
        return {"own.weight": rng.normal(size=(3, 4)), "own.bias": rng.normal(size=3), "top.1.steps": np.array(7)}
    outputs = max(len(MODELS[model][1]), 1) if model == "softmax" else 1
    return {"coefficients": rng.normal(size=(4, outputs)), "intercept": rng.normal(size=outputs)}


def save(folder: Path, model: Model = "logistic", **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {**arrays_of(model), **changes}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    label = (1.5, 2.0) if model == "splitnn" else None
    save_horizontal_shard(
        folder, job_of(model), SPEC, encoder(), list(arrays), list(arrays.values()), MODELS[model][1], label=label
    )
    return folder


@CASES
def test_what_is_saved_is_read_back(model: Model, tmp_path: Path) -> None:
    shard = load_horizontal_shard(save(tmp_path, model))
    assert list(shard.weights) == list(arrays_of(model))
    for name, array in arrays_of(model).items():
        np.testing.assert_array_equal(shard.weights[name], array)
        assert shard.weights[name].dtype == array.dtype
    assert shard.classes == tuple(MODELS[model][1])
    assert shard.preprocessor == encoder()
    assert (shard.label is None) == (model != "splitnn")
    if shard.label is not None:
        assert shard.label.tolist() == [1.5, 2.0]


def test_there_may_be_no_intercept(tmp_path: Path) -> None:
    shard = load_horizontal_shard(save(tmp_path, "softmax", intercept=None))
    assert shard.intercept is None
    assert shard.coef.shape == (4, 3)


def test_silos_have_the_same_files_but_for_the_name(tmp_path: Path) -> None:
    first = save(tmp_path / "first")
    second = save(tmp_path / "second")
    assert (first / "model.npz").read_bytes() == (second / "model.npz").read_bytes()
    assert (first / "model.json").read_bytes() == (second / "model.json").read_bytes()


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("logistic", {"coefficients": None}),
        ("logistic", {"coefficients": np.zeros((3, 1))}),
        ("logistic", {"coefficients": np.zeros((4, 2))}),
        ("logistic", {"coefficients": np.zeros(4)}),
        ("logistic", {"coefficients": np.full((4, 1), np.nan)}),
        ("logistic", {"coefficients": np.zeros((4, 1), dtype=np.float32)}),
        ("logistic", {"intercept": np.zeros(2)}),
        ("logistic", {"more": np.zeros(2)}),
        ("softmax", {"coefficients": np.zeros((4, 1))}),
        ("splitnn", {"own.bias": np.array([1.0, np.inf, 0.0])}),
        ("splitnn", {"own.bias": np.array(["a"])}),
    ],
    ids=["none", "rows", "outputs", "flat", "nan", "single", "intercept", "more", "classes", "infinite", "text"],
)
def test_weights_of_another_model_are_refused(model: Model, changes: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path, model, **changes)
    with pytest.raises(DataError, match=r"^model shard .* cannot be read \(.*\); run the training again$"):
        load_horizontal_shard(tmp_path)


def _rewrite(folder: Path, change: Callable[[State], object]) -> None:
    path = folder / "model.json"
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("weights"),
        lambda state: state.update(weights=["coefficients"]),
        lambda state: state.update(weights=["coefficients", "intercept", "intercepts"]),
        lambda state: state.update(classes="no"),
        lambda state: state.update(own_module=True),
        lambda state: state.update(model="splitnn"),
        lambda state: state.update(arrays_sha256="0" * 64),
        lambda state: state["preprocessor"].update(means=[0.0]),
        lambda state: state.update(preprocessor=[]),
    ],
    ids=["no-names", "one-less", "one-more", "classes", "module", "network", "digest", "encoder", "list"],
)
def test_damaged_lines_are_refused(change: Callable[[State], object], tmp_path: Path) -> None:
    save(tmp_path)
    _rewrite(tmp_path, change)
    with pytest.raises(DataError, match="train(ing)? again"):
        load_horizontal_shard(tmp_path)


def test_a_network_needs_its_labels_scale(tmp_path: Path) -> None:
    save(tmp_path, "splitnn")
    buffer = io.BytesIO()
    np.savez(buffer, **{f"weights.{name}": array for name, array in arrays_of("splitnn").items()})
    (tmp_path / "model.npz").write_bytes(buffer.getvalue())
    _rewrite(tmp_path, lambda state: state.update(arrays_sha256=hashlib.sha256(buffer.getvalue()).hexdigest()))
    with pytest.raises(DataError, match="the label's scale is missing"):
        load_horizontal_shard(tmp_path)


def kept(folder: Path, model: Model = "logistic") -> Path:
    save(folder, model)
    save_horizontal_run(folder, "a-run", job_of(model), SPEC, 1, 4)
    return folder


def test_run_json_has_neither_key_nor_alignment(tmp_path: Path) -> None:
    run = load_kept_run(kept(tmp_path))
    assert (run.key_holder, run.alignment, run.run, run.outputs) == (None, None, "a-run", 1)
    assert run.columns == {"hospitals.north": 4, "hospitals.south": 4}
    assert run.party.data == "north.csv"
    with pytest.raises(TypeError, match="no key"):
        run.terms()
    with pytest.raises(TypeError, match="align nothing"):
        _ = run.account


@pytest.mark.parametrize("change", [{"key_holder": "active"}, {"alignment": "0" * 64}], ids=["a-key", "an-alignment"])
def test_a_key_or_an_alignment_is_none_of_silos_alone(change: State, tmp_path: Path) -> None:
    path = kept(tmp_path) / FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match="damaged"):
        load_kept_run(tmp_path)


@pytest.mark.parametrize("key", ["key_holder", "alignment"])
def test_others_still_need_both(key: str, tmp_path: Path) -> None:
    save(tmp_path)
    members = Member(name="bank", role="active"), Member(name="shop", role="passive")
    job = msgspec.structs.replace(job_of("logistic"), parties=members)
    spec = PartySpec(name="bank", role="active", data="bank.csv", id="id", label="y")
    save_kept_run(
        tmp_path, "a-run", Terms(job, "active", "", 9, 1, {"bank": 4, "shop": 1}, consent=True), spec, "0" * 64
    )
    assert load_kept_run(tmp_path).account == "0" * 64
    path = tmp_path / FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: None}))
    with pytest.raises(DataError, match="damaged"):
        load_kept_run(tmp_path)


def test_rows_are_numbered_where_there_are_no_ids(tmp_path: Path) -> None:
    frame = pd.DataFrame({"age": [30, 40, 50], "y": ["no", "yes", "no"]})
    table, rows = table_from_frame(frame, SPEC), np.array([2, 0, 1])
    save_ids(tmp_path, SPEC, table, rows, Parts(2, 0, 1))
    save_test_scores(tmp_path, SPEC, table, rows[2:], np.array([0.75]), ["no", "yes"])
    assert pd.read_csv(tmp_path / "ids.csv").to_dict("list") == {"row": [3, 1, 2], "part": ["train", "train", "test"]}
    scores = pd.read_csv(tmp_path / "test_scores.csv").to_dict("list")
    assert scores == {"row": [2], "y": ["yes"], "score": [0.75]}


def test_a_shard_is_frozen() -> None:
    with pytest.raises(AttributeError):
        HorizontalShard(encoder(), (), {}).classes = ("a",)  # type: ignore[misc]
