"""A split network's shards on disk: read back they are the same; what is damaged is refused."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from parties.errors import DataError
from parties.spec import PartySpec
from vfl.job import Job, Member, SplitNN
from vfl.preprocess import Preprocessor, fit_preprocessor
from vfl.splitnn_shard import SplitShard, load_split_shard, save_split_shard
from vfl.terms import Terms

State = dict[str, Any]
UNITS = 3
SPECS = {
    "bank": PartySpec(name="bank", role="active", data="x.csv", id="id", label="y"),
    "shop": PartySpec(name="shop", role="passive", data="x.csv", id="id"),
    "card-network": PartySpec(name="card-network", role="passive", data="x.csv", id="id"),
}


def terms_of(mode: str = "source-layer") -> Terms:
    members = tuple(Member(name=spec.name, role=spec.role) for spec in SPECS.values())
    splitnn = SplitNN(mode=mode, units=UNITS, hidden=(5,), bottom_hidden=(7,) if mode == "split" else ())
    job = Job(name="nets", model="splitnn", task="binary", splitnn=splitnn, parties=members)
    return Terms(job, "active", "", 20, 1, {"bank": 3, "shop": 3, "card-network": 2}, consent=True)


def encoder(numbers: int = 1) -> Preprocessor:
    """Of some columns of numbers, and one of two categories."""
    rng = np.random.default_rng(numbers)
    frame = pd.DataFrame({f"x{j}": rng.normal(size=20) for j in range(numbers)})
    frame["city"] = pd.Series(["a", "b"] * 10, dtype=object)
    kinds = dict.fromkeys(frame, "numeric") | {"city": "categorical"}
    return fit_preprocessor(frame, kinds, scale_categories=False)


def ring(rows: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 2**64, (rows, UNITS), dtype=np.uint64)


def layers(seed: int = 0) -> dict[str, Any]:
    """Arrays as a network has them: floats of both widths, and a counter."""
    rng = np.random.default_rng(seed)
    return {
        "own.weight": rng.normal(size=(UNITS, 3)).astype(np.float32),
        "top.0.bias": rng.normal(size=5),
        "top.1.num_batches_tracked": np.array(7),
    }


SHARDS = {
    ("source-layer", "bank"): SplitShard(
        encoder(),
        ("no", "yes"),
        shares={"shop": ring(3, 1), "card-network": ring(2, 2)},
        network=layers(),
        typical=np.array([0.5, -1.0, 2.0]),
    ),
    ("source-layer", "shop"): SplitShard(encoder(), share=ring(3)),
    ("split", "bank"): SplitShard(encoder(0), network=layers(), typical=np.zeros(UNITS), own_module=True),
    ("split", "shop"): SplitShard(encoder(3), network=layers(5)),
    ("split", "card-network"): SplitShard(encoder(3), own_module=True),
}
CASES = pytest.mark.parametrize("case", SHARDS, ids="-".join)


def saved(case: tuple[str, str], folder: Path) -> Path:
    folder.mkdir()
    save_split_shard(folder, terms_of(case[0]), SPECS[case[1]], SHARDS[case])
    return folder


def assert_same(mine: SplitShard, theirs: SplitShard) -> None:
    for field in fields(SplitShard):
        a, b = getattr(mine, field.name), getattr(theirs, field.name)
        if isinstance(a, dict):
            assert list(a) == list(b)
            for name in a:
                assert a[name].dtype == b[name].dtype
                np.testing.assert_array_equal(a[name], b[name])
        elif isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b


@CASES
def test_there_and_back(case: tuple[str, str], tmp_path: Path) -> None:
    assert_same(load_split_shard(saved(case, tmp_path / "shard")), SHARDS[case])


def test_a_reader_finds_the_architecture(tmp_path: Path) -> None:
    folders = {case: saved(case, tmp_path / "-".join(case)) for case in SHARDS}
    lines = {case: json.loads((folder / "model.json").read_text()) for case, folder in folders.items()}
    lead = lines["source-layer", "bank"]
    assert (lead["mode"], lead["units"], lead["layers"], lead["activation"]) == (
        "source-layer", UNITS, [3, UNITS, 5, 1], "relu"
    )  # fmt: skip
    assert lead["columns"] == ["x0", "city=a", "city=b"]
    assert lead["passive"] == ["shop", "card-network"]
    assert lines["split", "shop"]["layers"] == [5, 7, UNITS]
    assert "layers" not in lines["split", "bank"]  # the user's own
    assert "layers" not in lines["source-layer", "shop"]
    assert "passive" not in lines["source-layer", "shop"]


def test_a_guest_keeps_its_own_half_alone(tmp_path: Path) -> None:
    folder = saved(("source-layer", "shop"), tmp_path / "shard")
    with np.load(folder / "model.npz") as arrays:
        assert list(arrays) == ["share"]


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


def line(name: str, value: Any) -> Callable[[State, State], None]:
    return lambda state, _: state.__setitem__(name, value)


def array(name: str, value: Callable[[Any], Any]) -> Callable[[State, State], None]:
    return lambda _, arrays: arrays.__setitem__(name, value(arrays.get(name)))


def dropping(name: str) -> Callable[[State, State], None]:
    return lambda state, arrays: (state if name in state else arrays).__delitem__(name)


LEAD: dict[str, Callable[[State, State], None]] = {
    **{f"without {n}": dropping(n) for n in ("role", "mode", "units", "own_module", "classes", "preprocessor")},
    **{f"without {n}": dropping(n) for n in ("passive", "typical", "share.shop", "share.card-network")},
    "another role": line("role", "passive"),
    "no role": line("role", "coordinator"),
    "another mode": line("mode", "split"),
    "no mode": line("mode", "joint"),
    "other units": line("units", UNITS + 1),
    "no units": line("units", 0),
    "units of text": line("units", "3"),
    "module of text": line("own_module", "yes"),
    "classes of numbers": line("classes", [0, 1]),
    "other passive parties": line("passive", ["card-network", "shop"]),
    "damaged encoder": line("preprocessor", {"numeric": []}),
    "encoder of fewer columns": lambda state, _: state["preprocessor"]["means"].pop(),
    "a stray array": array("other", lambda _: np.zeros(1)),
    "a share of its own": array("share", lambda _: ring(3)),
    "a share of a stranger": array("share.mall", lambda _: ring(3)),
    "a share of floats": array("share.shop", lambda share: share.astype(float)),
    "a share of signed numbers": array("share.shop", lambda share: share.astype(np.int64)),
    "a share of fewer units": array("share.shop", lambda share: share[:, 1:]),
    "a share in one line": array("share.shop", np.ravel),
    "a typical output of fewer units": array("typical", lambda typical: typical[1:]),
    "a typical output of integers": array("typical", lambda typical: typical.astype(np.int64)),
    "a typical output that is none": array("typical", lambda typical: typical * np.nan),
    "a weight that is none": array("network.own.weight", lambda weight: np.full_like(weight, np.inf)),
    "weights of text": array("network.own.weight", lambda weight: weight.astype(str)),
    "no network": lambda _, arrays: [arrays.pop(name) for name in list(arrays) if name.startswith("network.")],
}
GUEST: dict[str, Callable[[State, State], None]] = {
    "without share": dropping("share"),
    "another role": line("role", "active"),
    "another mode": line("mode", "split"),
    "a network": array("network.0.weight", lambda _: np.zeros((2, 2))),
    "a typical output": array("typical", lambda _: np.zeros(UNITS)),
    "another's share": array("share.bank", lambda _: ring(3)),
    "fewer rows": array("share", lambda share: share[1:]),
    "more rows": array("share", lambda share: np.vstack([share, share])),
}
BOTTOM: dict[str, Callable[[State, State], None]] = {
    "no network": lambda _, arrays: arrays.clear(),
    "another mode": line("mode", "source-layer"),
    "a share": array("share", lambda _: ring(5)),
}


def refused(case: tuple[str, str], change: Callable[[State, State], None], tmp_path: Path) -> None:
    folder = rewritten(saved(case, tmp_path / "whole"), tmp_path / "damaged", change)
    with pytest.raises(DataError, match="again") as caught:
        load_split_shard(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", LEAD)
def test_a_damaged_shard_of_the_active_party_is_refused(damage: str, tmp_path: Path) -> None:
    refused(("source-layer", "bank"), LEAD[damage], tmp_path)


@pytest.mark.parametrize("damage", GUEST)
def test_a_guests_damaged_share_is_refused(damage: str, tmp_path: Path) -> None:
    refused(("source-layer", "shop"), GUEST[damage], tmp_path)


@pytest.mark.parametrize("damage", BOTTOM)
def test_a_guests_damaged_bottom_is_refused(damage: str, tmp_path: Path) -> None:
    refused(("split", "shop"), BOTTOM[damage], tmp_path)


@CASES
def test_a_copy_without_damage_is_read(case: tuple[str, str], tmp_path: Path) -> None:
    copy = rewritten(saved(case, tmp_path / "whole"), tmp_path / "copy", lambda state, arrays: None)
    assert_same(load_split_shard(copy), SHARDS[case])


@pytest.mark.parametrize("file", ["model.json", "model.npz"])
@pytest.mark.parametrize("how", ["missing", "empty", "cut short", "of another party", "text"])
def test_files_that_are_damaged_are_refused(file: str, how: str, tmp_path: Path) -> None:
    folder, other = saved(("source-layer", "bank"), tmp_path / "bank"), saved(("split", "shop"), tmp_path / "shop")
    content = (folder / file).read_bytes()
    if how == "missing":
        (folder / file).unlink()
    else:
        strange = (other / file).read_bytes()
        new = {"empty": b"", "cut short": content[: len(content) // 2], "of another party": strange, "text": b"[]"}
        (folder / file).write_bytes(new[how])
    with pytest.raises(DataError, match="cannot be read"):
        load_split_shard(folder)


def test_shards_say_little_of_themselves() -> None:
    shard = replace(SHARDS["source-layer", "bank"], classes=("no",))
    assert repr(shard) == "SplitShard(classes=('no',), own_module=False)"
