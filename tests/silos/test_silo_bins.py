"""Bins of silos: the same however many silos the rows are in, and those of one place where numbers are few."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.data import table_from_frame
from parties.errors import DataError
from parties.link import COORDINATOR, Endpoint
from parties.local import run_local
from parties.spec import PartySpec
from parties.wire import Coordinator, Passive
from tests.trees.forests import columns, make_frames
from vfl.boosting_part import BinnedColumns
from vfl.siblings import siblings_of
from vfl.silo_bins import bin_silo_columns
from vfl.trees.bins import fit_binning

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def bin_silos(
    frame: pd.DataFrame,
    owner: Any,
    *,
    n_train: int | None = None,
    lines: dict[str, Any] | None = None,
    frames: list[pd.DataFrame] | None = None,
    deliveries: list[Any] | None = None,
    **options: Any,
) -> list[BinnedColumns]:
    """Every silo's bins, with the frame's rows dealt out by ``owner``; the first ``n_train`` are trained on."""
    owner = np.asarray(owner)
    cut = len(frame) if n_train is None else n_train
    names = [f"shop.s{i}" for i in range(int(owner.max(initial=0)) + 1)]

    def act(endpoint: Endpoint) -> BinnedColumns:
        at = names.index(endpoint.name)
        own = np.flatnonzero(owner == at)
        spec = PartySpec(name=endpoint.name, role="passive", data="in memory", id="id", **(lines or {}))
        part = frame.iloc[own] if frames is None else frames[at]
        part = part.assign(id=[f"{at}-{i}" for i in range(len(part))])
        table = table_from_frame(part, spec)
        rows = np.arange(len(part))
        siblings = siblings_of(endpoint, "bins")
        return bin_silo_columns(spec, table, rows, int((own < cut).sum()), siblings, **{"max_bin": 8} | options)

    roles = {COORDINATOR: Coordinator} | dict.fromkeys(names, Passive)
    plays: dict[str, Any] = {COORDINATOR: lambda _: None} | dict.fromkeys(names, act)
    observe = (lambda _: None) if deliveries is None else deliveries.append
    results = run_local(plays, roles=roles, observe=observe)
    return [results[name] for name in names]


def whole_codes(found: list[BinnedColumns], owner: Any) -> Any:
    codes = np.zeros((len(owner), len(found[0].features)), dtype=np.uint16)
    for at, own in enumerate(found):
        codes[np.asarray(owner) == at] = own.codes
    return codes


@pytest.mark.parametrize("max_bin", [2, 8, 300])
@pytest.mark.parametrize("silos", [1, 2, 3, 5])
def test_bins_do_not_depend_on_the_silos(silos: int, max_bin: int) -> None:
    (frame,) = make_frames(150, parties=1)
    owner = np.arange(150) % silos
    options: dict[str, Any] = {"max_bin": max_bin, "n_train": 120, "max_cat_to_onehot": 4}
    (plain,), found = bin_silos(frame, np.zeros(150), **options), bin_silos(frame, owner, **options)
    for own in found:
        assert own.binning == plain.binning
    np.testing.assert_array_equal(whole_codes(found, owner), plain.codes)


@pytest.mark.parametrize("silos", [1, 3])
def test_few_values_have_the_bins_of_one_place(silos: int) -> None:
    """Where there is a bin for every number: the same rows in each; categories and missing cells too."""
    (frame,) = make_frames(120, parties=1)
    owner = np.arange(120) % silos
    plain = fit_binning(frame, columns(frame), max_bin=200, max_cat_to_onehot=3)
    found = bin_silos(frame, owner, max_bin=200, max_cat_to_onehot=3)
    np.testing.assert_array_equal(whole_codes(found, owner), plain.transform(frame)[0])
    for mine, theirs in zip(found[0].features, plain.features, strict=True):
        assert (mine.name, mine.split, mine.categories, mine.has_missing, mine.bins) == (
            theirs.name,
            theirs.split,
            theirs.categories,
            theirs.has_missing,
            theirs.bins,
        )


@settings(max_examples=40)
@given(st.lists(FINITE, min_size=1, max_size=30), st.integers(2, 12))
def test_any_numbers(values: list[float], max_bin: int) -> None:
    """All in order and never more bins than asked for; where numbers are few the bins are theirs."""
    frame = pd.DataFrame({"x": values, "other": np.arange(len(values), dtype=float)})
    owner = np.arange(len(values)) % min(3, len(values))
    found = bin_silos(frame, owner, max_bin=max_bin)
    names = [feature.name for feature in found[0].features]
    distinct = len(set(values))
    assert ("x" in names) == (distinct > 1)
    if distinct == 1:
        return
    feature = found[0].features[names.index("x")]
    code = whole_codes(found, owner)[:, names.index("x")].astype(int)
    order = np.argsort(values, kind="stable")
    assert (np.diff(code[order]) >= 0).all()
    assert 2 <= len(np.unique(code)) <= feature.bins <= max_bin
    if distinct <= max_bin:
        assert len(np.unique(code)) == feature.bins == distinct


@pytest.mark.parametrize("draw", ["normal", "exponential", "lognormal", "uniform"])
def test_quantiles(draw: str) -> None:
    """With many different numbers no bin has much more than its share of the rows."""
    values = getattr(np.random.default_rng(0), draw)(size=4000) * 1e5
    (found,) = bin_silos(pd.DataFrame({"x": values}), np.zeros(4000), max_bin=32)
    counts = np.bincount(found.codes[:, 0])
    assert len(counts) == 32
    assert counts.max() <= 1.5 * 4000 / 32


def test_numbers_beyond_the_training_rows_and_new_categories() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0, 99.0], "c": ["a", "b", "a", "z"]})
    found = bin_silos(frame, [0, 1, 1, 0], n_train=3)
    codes = whole_codes(found, [0, 1, 1, 0])
    assert codes.tolist() == [[0, 0], [1, 1], [2, 0], [2, 2]]
    assert any("a category that no training row has" in line for line in found[0].warnings)
    assert not found[1].warnings


def test_columns_that_say_nothing() -> None:
    frame = pd.DataFrame(
        {
            "same": [7.0] * 4,
            "none": [np.nan] * 4,
            "some": [7.0, np.nan, 7.0, 7.0],
            "word": pd.Series(["w"] * 4, dtype=object),
            "x": [1.0, 2.0, 3.0, 4.0],
        }
    )
    for owner in ([0, 0, 0, 0], [0, 1, 2, 0], [0, 0, 1, 1]):
        for own in bin_silos(frame, owner):
            assert [feature.name for feature in own.features] == ["some", "x"]
            assert own.features[0].has_missing and own.features[0].bins == 1
            assert [line.split('"')[1] for line in own.binning.warnings] == ["same", "word"]


def test_a_column_constant_in_every_silo_is_used() -> None:
    frame = pd.DataFrame({"x": [1.0, 1.0, 2.0], "c": ["a", "a", "b"]})
    for own in bin_silos(frame, [0, 0, 1]):
        assert [feature.bins for feature in own.features] == [2, 2]
        assert own.features[0].thresholds == (1.5,)


def test_listed_categories() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0], "c": ["a", "b", "c"]})
    lines = {"categories": {"c": ("c", "b", "a", "never")}}
    for own in bin_silos(frame, [0, 0, 1], lines=lines):
        assert own.features[1].categories == ("a", "b", "c")
    with pytest.raises(DataError, match="holds? a category that categories does not list"):
        bin_silos(frame, [0, 0, 1], lines={"categories": {"c": ("a", "b")}})


def test_columns_in_another_order_and_without_cells() -> None:
    first = pd.DataFrame({"x": [1.0, 2.0], "c": pd.Series(["a", "b"], dtype=object)})
    second = pd.DataFrame({"c": pd.Series([None, None], dtype=object), "x": [3.0, 1.0]})
    found = bin_silos(pd.DataFrame(index=range(4)), [0, 0, 1, 1], frames=[first, second])
    assert found[0].binning == found[1].binning
    assert found[1].codes.tolist() == [[2, 2], [0, 2]] or found[1].codes.tolist() == [[2, 2], [2, 0]]


def test_columns_that_differ_are_named() -> None:
    first = pd.DataFrame({"x": [1.0, 2.0]})
    for second, line in (
        (pd.DataFrame({"z": [1.0, 2.0]}), "none in"),
        (pd.DataFrame({"x": pd.Series(["a", "b"], dtype=object)}), "expected the same kind in all silos"),
    ):
        with pytest.raises(DataError, match=line):
            bin_silos(pd.DataFrame(index=range(4)), [0, 0, 1, 1], frames=[first, second])


def test_silos_are_told_counts_and_categories_alone() -> None:
    """No number of a silo passes: only masked sums, and texts of categories and columns."""
    (frame,) = make_frames(90, parties=1)
    deliveries: list[Any] = []
    bin_silos(frame, np.arange(90) % 3, deliveries=deliveries)
    kinds = {d.message for d in deliveries if not d.message.startswith("greeting.")}
    assert kinds == {"siblings.part", "siblings.total", "siblings.named", "siblings.all_named"}
    texts = [text for d in deliveries if d.message.endswith("named") for text in d.payload.facts.values()]
    assert {text.split('"')[1] for text in texts} == set(frame.columns)
    assert all(d.payload.values.size == 0 for d in deliveries if d.message.endswith("named"))
    parts = [d.payload.body.ravel() for d in deliveries if d.message == "siblings.part"]
    bits = np.unpackbits(np.concatenate(parts).view(np.uint8))
    assert abs(bits.mean() - 0.5) < 5 / np.sqrt(len(bits))
