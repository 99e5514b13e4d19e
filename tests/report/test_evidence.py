"""evidence.npz: back as it was, and one line where it is not."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.errors import DataError
from vfl.report.evidence import FILE, Evidence, load_evidence, merge_evidence, save_evidence

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 2, 20).astype(float)
BINARY = Evidence("binary", ("no", "yes"), Y, {"joint": RNG.random(20), "without Müller & Söhne/1": RNG.random(20)})
CODES = RNG.integers(0, 3, 20)
JOINT = RNG.random((20, 3))
CLASSES = Evidence("multiclass", ("Süd", "nord", ""), CODES, {"joint": JOINT})
NUMBERS = Evidence("regression", (), RNG.normal(size=20), {"joint": np.full(20, np.inf), "pooled": np.zeros(20)})
EMPTY = Evidence("count", (), np.zeros(0), {"joint": np.zeros(0)})
SILOS = Evidence("binary", ("no", "yes"), Y, {"joint": RNG.random(20), "alone a.x": Y}, {"a.x": 13, "a.y": 7})


@pytest.mark.parametrize(
    "evidence", [BINARY, CLASSES, NUMBERS, EMPTY, SILOS], ids=["binary", "multiclass", "numbers", "empty", "silos"]
)
def test_it_comes_back_as_it_was(evidence: Evidence, tmp_path: Path) -> None:
    save_evidence(tmp_path, evidence)
    back = load_evidence(tmp_path)
    assert back is not None
    assert (back.task, back.classes, list(back.predicted), back.silos) == (
        evidence.task,
        evidence.classes,
        list(evidence.predicted),
        evidence.silos,
    )
    for one, other in [(back.y, evidence.y), *zip(back.predicted.values(), evidence.predicted.values(), strict=True)]:
        assert one.dtype == other.dtype and np.array_equal(one, other)


def test_the_same_evidence_makes_the_same_bytes(tmp_path: Path) -> None:
    save_evidence(tmp_path, BINARY)
    first = (tmp_path / FILE).read_bytes()
    save_evidence(tmp_path, BINARY)
    assert (tmp_path / FILE).read_bytes() == first
    assert b"pickle" not in first


def test_none_where_there_is_none(tmp_path: Path) -> None:
    assert load_evidence(tmp_path) is None


DAMAGED = {
    "another task": Evidence("ranking", (), Y, {"joint": Y}),
    "labels of another kind": Evidence("multiclass", ("a", "b"), Y, {"joint": np.zeros((20, 2))}),
    "labels not 0 and 1": Evidence("binary", ("a", "b"), Y + 1, {"joint": Y}),
    "labels not finite": Evidence("regression", (), np.full(20, np.nan), {"joint": Y}),
    "unknown class": Evidence("multiclass", ("a", "b"), CODES, {"joint": np.zeros((20, 2))}),
    "too few predictions": Evidence("binary", ("a", "b"), Y, {"joint": Y, "pooled": Y[:19]}),
    "integers for predictions": Evidence("binary", ("a", "b"), Y, {"joint": CODES}),
    "no joint model": Evidence("binary", ("a", "b"), Y, {"pooled": Y}),
    "rows of no silo": Evidence("binary", ("a", "b"), Y, {"joint": Y}, {"a.x": 12, "a.y": 7}),
    "fewer than no rows": Evidence("binary", ("a", "b"), Y, {"joint": Y}, {"a.x": 21, "a.y": -1}),
}


@pytest.mark.parametrize("evidence", DAMAGED.values(), ids=DAMAGED.keys())
def test_what_does_not_fit_is_refused(evidence: Evidence, tmp_path: Path) -> None:
    save_evidence(tmp_path, evidence)
    with pytest.raises(DataError, match="evidence.npz: cannot be read") as refusal:
        load_evidence(tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06", b"\x93NUMPY"], ids=["empty", "no archive", "an array"])
def test_another_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(DataError, match="run the training again"):
        load_evidence(tmp_path)


def test_objects_are_not_read(tmp_path: Path) -> None:
    about = np.array([{"task": "binary"}], dtype=object)
    with (tmp_path / FILE).open("wb") as file:
        np.savez(file, about=about, y=Y, predicted_0=Y)
    with pytest.raises(DataError):
        load_evidence(tmp_path)


@given(st.lists(st.integers(0, 20), max_size=4))
def test_silos_are_put_together_and_taken_apart(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), 20]
    parts = {
        f"a.s{at}": Evidence(
            "multiclass", CLASSES.classes, CODES[first:last], {"joint": JOINT[first:last], "mine": JOINT}
        )
        for at, (first, last) in enumerate(pairwise(edges))
    }
    whole = merge_evidence({"a.lost": None, **parts})
    assert whole is not None and list(whole.predicted) == ["joint"]
    assert np.array_equal(whole.y, CODES) and np.array_equal(whole.predicted["joint"], JOINT)
    back = whole.of_silos()
    assert list(back) == list(whole.silos) == [name for name, part in parts.items() if len(part.y)]
    for name, part in back.items():
        assert np.array_equal(part.y, parts[name].y)
        assert np.array_equal(part.predicted["joint"], parts[name].predicted["joint"])


def test_no_rows_of_any_silo_are_no_evidence() -> None:
    assert merge_evidence({"a.x": None, "a.y": EMPTY}) is None
    assert EMPTY.of_silos() == {}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_end_in_one_line_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged evidence"
    folder.mkdir(exist_ok=True)
    save_evidence(folder, CLASSES)
    content = bytearray((folder / FILE).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / FILE).write_bytes(bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))]))
    try:
        back = load_evidence(folder)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert back is not None and len(back.predicted["joint"]) == len(back.y)
