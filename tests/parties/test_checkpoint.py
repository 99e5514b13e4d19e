"""Checkpoints: what is kept comes back bit for bit, what is damaged is not used, a kill leaves the old or the new."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from parties.checkpoint import ALIGNED, FolderKeeper, Keeper, Snapshot
from parties.checkpoint_file import MAX_HEADER
from parties.errors import DataError, LocalProtocolError

DTYPES = ["bool", "uint8", "uint16", "uint32", "uint64", "int32", "int64", "float32", "float64"]


def keeper_in(folder: Path, **more: str) -> FolderKeeper:
    return FolderKeeper(folder=folder, **{"run": "run", "job": "digest", "party": "bank"} | more)


def filled(folder: Path, rounds: int = 0) -> FolderKeeper:
    keeper = keeper_in(folder)
    keeper.save_aligned({"rows": 3}, {"order": np.array([2, 0, 1])})
    for number in range(1, rounds + 1):
        keeper.save_round(number, {"round": number}, {"w": np.full(2, number / 3)})
    return keeper


def resumed(folder: Path, step: int) -> Snapshot:
    keeper = keeper_in(folder)
    keeper.resume_from(step)
    found = keeper.trained() if step > ALIGNED else keeper.aligned()
    assert found is not None
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# the API


def test_a_keeper_without_a_folder_keeps_nothing() -> None:
    keeper = Keeper()
    keeper.save_aligned({}, {})
    keeper.save_round(1, {}, {})
    keeper.resume_from(0)
    keeper.forget()
    assert (keeper.steps(), keeper.rounds, keeper.aligned(), keeper.trained(), keeper.warnings) == (
        [],
        0,
        None,
        None,
        [],
    )
    made: list[int] = []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"x": np.array(made)}

    assert [keeper.once("x", make)["x"].tolist() for _ in range(2)] == [[1], [1, 1]]


def test_the_alignment_and_the_newest_three_rounds_stay(tmp_path: Path) -> None:
    for rounds in range(7):
        keeper = filled(tmp_path / str(rounds), rounds)
        assert keeper.steps() == [ALIGNED, *range(ALIGNED + max(rounds - 2, 1), ALIGNED + rounds + 1)]
        assert keeper.warnings == []


@pytest.mark.parametrize(
    ("step", "rounds", "aligned", "trained"),
    [(0, 0, False, None), (ALIGNED, 0, True, None), (ALIGNED + 3, 3, True, 3), (ALIGNED + 5, 5, True, 5)],
)
def test_going_on_from_a_step(tmp_path: Path, step: int, rounds: int, aligned: bool, trained: int | None) -> None:
    filled(tmp_path, 5)
    keeper = keeper_in(tmp_path)
    keeper.resume_from(step)
    assert keeper.rounds == rounds
    assert (keeper.aligned() is not None) == aligned
    kept = keeper.trained()
    assert (kept and kept.facts["round"]) == trained
    assert keeper_in(tmp_path).steps() == [s for s in (ALIGNED, ALIGNED + 3, ALIGNED + 4, ALIGNED + 5) if s <= step]
    keeper.save_aligned({}, {})
    keeper.save_round(rounds + 1, {}, {})
    assert keeper.rounds == rounds  # those that were done when the run went on
    assert max(keeper.steps()) == ALIGNED + rounds + 1


@pytest.mark.parametrize("step", [2, 7, -1])
def test_a_step_that_is_not_held_is_refused(tmp_path: Path, step: int) -> None:
    keeper = filled(tmp_path, 5)
    with pytest.raises(LocalProtocolError, match=f"no whole checkpoint of step {step} "):
        keeper.resume_from(step)
    assert len(keeper.steps()) == 4


def test_without_the_alignment_nothing_is_of_use(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    (tmp_path / "step 1.ckpt").unlink()
    assert keeper_in(tmp_path).steps() == []


@pytest.mark.parametrize("rounds", [0, -1])
def test_a_round_is_kept_after_one(tmp_path: Path, rounds: int) -> None:
    with pytest.raises(LocalProtocolError):
        filled(tmp_path).save_round(rounds, {}, {})


def test_forgetting_leaves_nothing_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "bank"
    keeper_in(folder).forget()  # nothing to forget
    keeper = filled(folder, 4)
    keeper.once("labels", lambda: {})
    (folder / "step 9.ckpt.new").touch()
    keeper.forget()
    assert not folder.exists()
    filled(folder)
    (folder / "notes.txt").touch()
    keeper.forget()
    assert names(folder) == ["notes.txt"]


# what comes back

FLOATS = [0.1, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan, math.pi, 2.0]
FACTS: dict[str, Any] = {
    "nothing": None,
    "yes": True,
    "one": 1,
    "large": 2**63 - 1,
    "small": -(2**63),
    "text": "Zoë \0 \U0001f600",
    "list": [1, [2.5, []], {"deep": [None, False]}],
    "table": {"": {"a": {"b": {}}}},
    "floats": FLOATS,
}


def test_facts_come_back_as_they_were(tmp_path: Path) -> None:
    keeper = filled(tmp_path)
    keeper.save_round(1, FACTS, {})
    facts = dict(resumed(tmp_path, ALIGNED + 1).facts)
    floats: Any = facts.pop("floats")
    assert np.array(floats).tobytes() == np.array(FLOATS).tobytes()
    assert facts == {name: fact for name, fact in FACTS.items() if name != "floats"}
    assert [type(facts[name]) for name in ("yes", "one")] == [bool, int]
    assert type(floats[-1]) is float


@given(
    arrays=st.dictionaries(
        st.text(max_size=5),
        st.sampled_from(DTYPES).flatmap(
            lambda dtype: st_numpy.arrays(dtype, st_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
        ),
        max_size=4,
    )
)
def test_arrays_come_back_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("arrays")
    filled(folder).save_round(1, {}, arrays)
    found = resumed(folder, ALIGNED + 1).arrays
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in found.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in arrays.items()
    }
    assert all(array.flags.writeable for array in found.values())


def test_arrays_lie_in_memory_as_they_did(tmp_path: Path) -> None:
    rows = np.arange(12.0).reshape(3, 4)
    given_ = {"rows": rows, "columns": np.asfortranarray(rows), "part": rows[:, ::2], "big": rows.astype(">f8")}
    filled(tmp_path).save_round(1, {}, given_)
    found = resumed(tmp_path, ALIGNED + 1)
    assert [found.arrays[name].flags.c_contiguous for name in ("rows", "columns", "part")] == [True, False, True]
    assert found.arrays["columns"].flags.f_contiguous
    assert found.arrays["big"].dtype.isnative
    for name, array in given_.items():
        np.testing.assert_array_equal(found.floats(name), array)


@pytest.mark.parametrize(
    ("facts", "arrays"),
    [
        ({"x": b"bytes"}, {}),
        ({"x": np.float64(1)}, {}),
        ({"x": {1: 2}}, {}),
        ({"x": 2**64}, {}),
        ({"x": object()}, {}),
        ({"x": "\ud800"}, {}),
        ({}, {"x": np.array([object()])}),
        ({}, {"x": np.array(["text"])}),
        ({}, {"x": np.array([1j])}),
        ({}, {"x": np.array(["2020-01-01"], dtype="datetime64[D]")}),
        ({}, {"x": np.zeros((1, 1, 1, 1))}),
    ],
    ids=range(11),
)
def test_what_no_checkpoint_holds_is_refused_before_the_disk_is_touched(
    tmp_path: Path, facts: Any, arrays: Any
) -> None:
    keeper = filled(tmp_path)
    with pytest.raises(LocalProtocolError, match="no checkpoint holds"):
        keeper.save_round(1, facts, arrays)
    assert names(tmp_path) == ["step 1.ckpt"]


def test_a_missing_fact_or_array_is_named(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    found = resumed(tmp_path, ALIGNED + 1)
    assert found.floats("w").tolist() == [1 / 3, 1 / 3]
    assert found.fact("round", int) == 1
    readers: list[Callable[[], Any]] = [
        lambda: found.floats("v"),
        lambda: found.integers("w"),
        lambda: found.fact("round", str),
        lambda: found.fact("lost", int),
    ]
    for read in readers:
        with pytest.raises(DataError, match="checkpoint of step 2 without"):
            read()


def test_nobody_else_can_read_them(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "bank"
    before = os.umask(0)
    try:
        keeper = filled(folder, 2)
        keeper.once("labels", lambda: {})
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


# damage


def newest(folder: Path) -> Path:
    return folder / "step 3.ckpt"


def rejected(folder: Path) -> str:
    """The one warning of a keeper that falls back from step 3 to step 2."""
    keeper = keeper_in(folder)
    assert keeper.steps() == [ALIGNED, 2]
    assert keeper.steps() == [ALIGNED, 2]
    (warning,) = keeper.warnings
    assert warning.startswith(f"{newest(folder)}: not used as a checkpoint: ")
    return warning


def test_a_file_torn_at_any_length_is_not_used(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    data = newest(tmp_path).read_bytes()
    for length in range(len(data)):
        newest(tmp_path).write_bytes(data[:length])
        rejected(tmp_path)
    newest(tmp_path).write_bytes(data + b"\0")
    rejected(tmp_path)


def test_a_file_with_any_bit_flipped_is_not_used(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    data = newest(tmp_path).read_bytes()
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << (at % 8)
        newest(tmp_path).write_bytes(flipped)
        rejected(tmp_path)


def test_a_torn_newest_file_falls_back_to_the_one_before(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    newest(tmp_path).write_bytes(b"")
    keeper = keeper_in(tmp_path)
    keeper.resume_from(2)
    kept = keeper.trained()
    assert kept is not None and kept.facts == {"round": 1}
    assert names(tmp_path) == ["step 1.ckpt", "step 2.ckpt"]


@pytest.mark.parametrize("what", ["run", "job", "party"])
def test_files_of_others_are_not_used(tmp_path: Path, what: str) -> None:
    filled(tmp_path, 2)
    other = keeper_in(tmp_path, **{what: "other"})
    assert other.steps() == []
    assert len(other.warnings) == 3
    assert all(line.endswith(f"it is of another {what}") for line in other.warnings)
    assert keeper_in(tmp_path).steps() == [1, 2, 3]


def test_a_file_under_the_name_of_another_step_is_not_used(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    newest(tmp_path).write_bytes((tmp_path / "step 2.ckpt").read_bytes())
    assert rejected(tmp_path).endswith("it is of another step")


def test_files_that_are_no_steps_are_left_alone(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    for name in ("step 01.ckpt", "step x.ckpt", "step -1.ckpt", "step ².ckpt", "step.ckpt", "step 4.ckpt.new", "x"):
        (tmp_path / name).touch()
    keeper = keeper_in(tmp_path)
    assert (keeper.steps(), keeper.warnings) == ([1, 2, 3], [])


def test_a_folder_in_the_place_of_a_file_is_not_used(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    newest(tmp_path).unlink()
    newest(tmp_path).mkdir()
    rejected(tmp_path)


def signed(header: bytes, arrays: bytes = b"", length: int | None = None) -> bytes:
    """A file with the right checksum, whatever it says."""
    body = struct.pack("<8sQ", b"vfl-ckpt", len(header) if length is None else length) + header + arrays
    return body + hashlib.sha256(body).digest()


def header_of(**more: Any) -> bytes:
    facts: dict[str, Any] = {"run": "run", "job": "digest", "party": "bank", "step": 3, "name": "", "facts": {}}
    return msgspec.msgpack.encode(facts | {"arrays": []} | more)


TB = 1 << 40
LIES: dict[str, bytes] = {
    "header of 1 TB": signed(header_of(), length=TB),
    "header of 2^64 - 1": signed(header_of(), length=2**64 - 1),
    "header beyond the limit": signed(header_of(facts={"x": "y" * MAX_HEADER})),
    "array of 1 TB": signed(header_of(arrays=[["w", "uint8", "C", [TB]]])),
    "array whose size wraps": signed(header_of(arrays=[["w", "float64", "C", [2**32, 2**32]]])),
    "array of half its bytes": signed(header_of(arrays=[["w", "float64", "C", [2]]]), bytes(8)),
    "bytes beyond the arrays": signed(header_of(arrays=[["w", "float64", "C", [1]]]), bytes(9)),
    "negative lengths": signed(header_of(arrays=[["w", "float64", "C", [-1, -1]]]), bytes(8)),
    "length of a truth value": signed(header_of(arrays=[["w", "uint8", "C", [True]]]), bytes(1)),
    "dtype object": signed(header_of(arrays=[["w", "object", "C", [1]]]), bytes(8)),
    "dtype of code": signed(header_of(arrays=[["w", "V8", "C", [1]]]), bytes(8)),
    "order": signed(header_of(arrays=[["w", "uint8", "A", [1]]]), bytes(1)),
    "four dimensions": signed(header_of(arrays=[["w", "uint8", "C", [1, 1, 1, 1]]]), bytes(1)),
    "two arrays of a name": signed(header_of(arrays=[["w", "uint8", "C", [1]]] * 2), bytes(2)),
    "unknown field": signed(header_of(more=1)),
    "missing field": signed(msgspec.msgpack.encode({"run": "run"})),
    "bytes as a fact": signed(header_of(facts={"x": b"y"})),
    "numbered facts": signed(header_of(facts={"x": {1: 2}})),
    "list of 2^32 - 1 facts": signed(b"\xdd\xff\xff\xff\xff"),
    "table of 2^32 - 1 facts": signed(b"\xdf\xff\xff\xff\xff"),
    "endless nesting": signed(header_of(facts={"x": 0})[:-1] + b"\x91" * 100_000),
    "empty header": signed(b""),
    "no header": signed(b"\xc1"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_not_used_and_costs_no_memory(tmp_path: Path, lie: str) -> None:
    filled(tmp_path, 2)
    newest(tmp_path).write_bytes(LIES[lie])
    rejected(tmp_path)
    tracemalloc.start()
    try:
        keeper_in(tmp_path).steps()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 23


def test_the_liars_differ_from_a_good_file_by_their_lie_alone(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    newest(tmp_path).write_bytes(signed(header_of(arrays=[["w", "float64", "C", [1]]]), bytes(8)))
    assert resumed(tmp_path, 3).floats("w").tolist() == [0.0]


@pytest.mark.parametrize("read", ["trained", "aligned"])
def test_a_file_that_goes_bad_later_is_named(tmp_path: Path, read: str) -> None:
    keeper = filled(tmp_path, 2)
    keeper.resume_from(3)
    path = tmp_path / ("step 3.ckpt" if read == "trained" else "step 1.ckpt")
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"step \d\.ckpt: was whole before"):
        getattr(keeper, read)()


# disks and kills


class Death(BaseException):
    """A kill: nothing of the process runs after it."""


def no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("module", "name"), [(os, "write"), (os, "fsync"), (os, "open"), (Path, "rename")])
def test_a_full_disk_is_told_once_and_older_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    keeper = filled(tmp_path, 3)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, no_space)
        for rounds in (4, 5, 6):
            keeper.save_round(rounds, {}, {"w": np.zeros(2)})
        (warning,) = keeper.warnings
    assert "checkpoints cannot be written (No space left on device); the run goes on" in warning
    assert keeper.steps() == [1, 2, 3, 4]
    assert not [name for name in names(tmp_path) if name.endswith(".new")]
    keeper.save_round(7, {}, {})  # room again
    assert 8 in keeper.steps()


def test_a_disk_that_takes_little_at_a_time_gets_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = os.write
    monkeypatch.setattr(os, "write", lambda number, data: honest(number, data[:7]))
    filled(tmp_path, 1)
    assert resumed(tmp_path, 2).floats("w").tolist() == [1 / 3, 1 / 3]


def test_an_unwritable_place_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    keeper = filled(tmp_path / "file" / "bank", 2)
    assert len(keeper.warnings) == 1
    assert keeper.steps() == []


def dies(call: Callable[[], None], monkeypatch: pytest.MonkeyPatch, die_at: int) -> bool:
    """Whether a call dies if it does at the given one of its steps on the disk: before it, or half-way in a write."""
    done = [0]

    def fused(patch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        honest = getattr(module, name)

        def step(*arguments: Any, **more: Any) -> Any:
            done[0] += 1
            if done[0] == die_at:
                if name == "write":
                    honest(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise Death
            return honest(*arguments, **more)

        patch.setattr(module, name, step)

    with monkeypatch.context() as patch:
        for module, name in ((os, "write"), (os, "fsync"), (Path, "rename"), (Path, "unlink")):
            fused(patch, module, name)
        try:
            call()
        except Death:
            return True
    return False


def test_a_kill_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    died, outcomes, at = True, [], 0
    while died:
        at += 1
        folder = tmp_path / str(at)
        keeper = filled(folder, 3)

        def save(keeper: FolderKeeper = keeper) -> None:
            keeper.save_round(4, {"round": 4}, {"w": np.full(2, 4 / 3)})

        died = dies(save, monkeypatch, at)
        again = keeper_in(folder)
        outcomes.append(max(again.steps()))
        assert again.warnings == []
        assert again.steps() in ([1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 3, 4, 5])
        again.resume_from(outcomes[-1])
        kept = again.trained()
        assert kept is not None
        assert kept.floats("w").tolist() == [kept.fact("round", int) / 3] * 2
        assert not list(folder.glob("*.new"))
        again.save_round(kept.step, {}, {})  # the same step again, over whatever the kill has left
        again.save_round(kept.step + 1, {}, {})
        assert len(again.steps()) == 4
    assert at > 6
    assert outcomes == sorted(outcomes)  # first all old, then all new
    assert set(outcomes) == {4, 5}


def test_a_kill_while_forgetting_leaves_whole_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(1, 6):
        folder = tmp_path / str(at)
        keeper = filled(folder, 3)
        died = dies(keeper.forget, monkeypatch, at)
        assert died
        again = keeper_in(folder)
        again.steps()
        assert again.warnings == []
        again.forget()
        assert not folder.exists()


def test_the_file_is_synced_before_it_is_renamed_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = filled(tmp_path)
    told: list[str] = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda number: (told.append(f"fsync {_kind(number)}"), fsync(number))[1])
    monkeypatch.setattr(Path, "rename", lambda self, to: (told.append("rename"), rename(self, to))[1])
    keeper.save_round(1, {}, {})
    assert told == ["fsync file", "rename", "fsync folder"]


def _kind(number: int) -> str:
    return "folder" if os.path.isdir(f"/proc/self/fd/{number}") else "file"


# what is drawn once


def test_once_is_once_whatever_step_the_run_goes_on_from(tmp_path: Path) -> None:
    keeper = filled(tmp_path, 2)
    first = keeper.once("labels", lambda: {"y": np.array([0.5])})
    for step in (3, 2, ALIGNED, 0):
        again = keeper_in(tmp_path)
        again.resume_from(step)
        assert again.once("labels", _never) == first
        again.save_aligned({}, {})


def _never() -> dict[str, Any]:
    raise AssertionError("drawn twice")


def test_once_is_kept_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(1, 8):
        folder = tmp_path / str(at)
        used: list[Any] = []
        died = dies(
            lambda used=used, folder=folder: used.append(  # type: ignore[misc]
                keeper_in(folder).once("labels", lambda: {"y": np.array([0.5])})
            ),
            monkeypatch,
            at,
        )
        assert bool(used) != died
        kept = keeper_in(folder).once("labels", lambda: {"y": np.array([1.5])})["y"].tolist()
        assert kept in ([0.5], [1.5])
        assert kept == [0.5] or not used


@pytest.mark.parametrize(("module", "name"), [(os, "write"), (os, "fsync"), (Path, "rename")])
def test_what_cannot_be_kept_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, name, no_space)
        with pytest.raises(DataError, match=r"once labels\.ckpt: cannot be written \(No space left on device\)"):
            keeper_in(tmp_path).once("labels", lambda: {})
    assert keeper_in(tmp_path).once("labels", lambda: {"y": np.ones(1)})["y"] == [1]


@pytest.mark.parametrize("damage", ["torn", "run", "job", "party", "name"])
def test_what_cannot_be_read_is_not_drawn_again(tmp_path: Path, damage: str) -> None:
    keeper_in(tmp_path).once("labels", lambda: {"y": np.ones(1)})
    path, keeper = tmp_path / "once labels.ckpt", keeper_in(tmp_path)
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "name":
        keeper.once("others", lambda: {})
        (tmp_path / "once others.ckpt").rename(path)
    else:
        keeper = keeper_in(tmp_path, **{damage: "other"})
    with pytest.raises(DataError, match="must not be drawn again: start a new run"):
        keeper.once("labels", _never)
