"""Bins of columns, learnt on the training rows only."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from parties.columns import Kind
from parties.errors import DataError
from vfl.preprocess import fit_preprocessor
from vfl.trees.bins import MAX_BINS, Binning, Feature, fit_binning

KINDS: dict[str, Kind] = {"a": "numeric", "c": "categorical", "b": "numeric"}
TINY = math.ulp(0.0)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5).map(float)
CELLS = NUMBERS | st.just(math.nan)
TEXTS = st.none() | st.text(max_size=3)


def text(cells: list[str | None]) -> pd.Series[Any]:
    return pd.Series(cells, dtype=object)


def numeric(cells: list[float], max_bin: int = 32) -> tuple[Binning, list[int]]:
    """Bins of one column of numbers, and the codes of its own cells."""
    frame = pd.DataFrame({"x": np.array(cells, dtype=np.float64)})
    binning = fit_binning(frame, {"x": "numeric"}, max_bin=max_bin)
    return binning, codes(binning, frame)


def categorical(cells: list[str | None], max_cat_to_onehot: int | None = None) -> Binning:
    frame = pd.DataFrame({"c": text(cells)})
    return fit_binning(frame, {"c": "categorical"}, max_bin=4, max_cat_to_onehot=max_cat_to_onehot)


def codes(binning: Binning, frame: pd.DataFrame) -> list[int]:
    """Codes of the only column."""
    found, warnings = binning.transform(frame)
    assert warnings == []
    return found[:, 0].tolist() if len(binning.features) else []


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=40), "b": rng.integers(0, 3, 40).astype(float)})
    frame.loc[::7, "a"] = np.nan
    cells = text(rng.choice(["u", "v", "w"], 40).tolist())
    cells[::5] = None
    frame.insert(1, "c", cells)
    return frame


# columns of numbers


@given(st.lists(CELLS, min_size=1, max_size=60), st.integers(2, 70))
@example([1e308, -1e308, sys.float_info.max, -sys.float_info.max], 3)
@example([1.0, math.nextafter(1.0, 2.0), math.nextafter(1.0, 0.0)], 3)
@example([0.0, TINY, -TINY, 2 * TINY, 3 * TINY], 8)
@example([-0.0, 0.0, TINY], 2)
def test_bins_part_the_values_in_order(cells: list[float], max_bin: int) -> None:
    binning, found = numeric(cells, max_bin)
    present = sorted({cell for cell in cells if not math.isnan(cell)})
    if not present or (len(present) == 1 and not any(map(math.isnan, cells))):
        assert binning.features == ()
        return
    (feature,) = binning.features
    t = feature.thresholds
    assert feature.bins == len(t) + 1 <= max_bin
    assert all(a < b for a, b in zip(t, t[1:], strict=False))
    for threshold in t:
        below = [value for value in present if value <= threshold]
        above = [value for value in present if value > threshold]
        assert below[-1] <= threshold < above[0]
    for cell, code in zip(cells, found, strict=True):
        inside = [-math.inf, *t, math.inf]
        assert code == feature.bins if math.isnan(cell) else inside[code] < cell <= inside[code + 1]
    assert feature.has_missing == any(map(math.isnan, cells))
    assert set(range(feature.bins)) <= set(found)  # no bin is empty
    if len(present) <= max_bin:
        assert feature.bins == len(present)  # each value its own


@given(st.lists(NUMBERS, min_size=2, max_size=40, unique=True), st.lists(NUMBERS, min_size=1), st.integers(2, 9))
def test_codes_are_monotone(train: list[float], test: list[float], max_bin: int) -> None:
    binning, _ = numeric(train, max_bin)
    found = codes(binning, pd.DataFrame({"x": sorted(test)}))
    assert found == sorted(found)
    assert max(found) < binning.features[0].bins


@given(st.integers(2, 400), st.integers(2, 50), st.randoms(use_true_random=False))
def test_bins_of_distinct_values_are_equally_full(n: int, max_bin: int, random: Any) -> None:
    cells = [float(value) for value in range(n)]
    random.shuffle(cells)
    _, found = numeric(cells, max_bin)
    rows = np.bincount(found)
    assert len(rows) == min(n, max_bin)
    assert rows.max() - rows.min() <= 1


def test_cuts_are_numpys_quantiles() -> None:
    cells = np.random.default_rng(1).integers(0, 300, 1024).astype(float)
    binning, _ = numeric(cells.tolist(), 64)
    quantiles = np.unique(np.quantile(cells, np.arange(1, 64) / 64, method="inverted_cdf"))  # exact: powers of two
    thresholds = np.array(binning.features[0].thresholds)
    distinct = np.unique(cells)
    following = distinct[np.searchsorted(distinct, quantiles, side="right")]
    assert thresholds.tolist() == ((quantiles + following) / 2).tolist()


def test_thresholds_are_midpoints() -> None:
    binning, found = numeric([3.0, 1.0, 2.0, 1.0])
    assert binning.features == (Feature("x", "ordered", thresholds=(1.5, 2.5)),)
    assert found == [2, 0, 1, 0]
    assert codes(binning, pd.DataFrame({"x": [1.5, 1.6, -1e9, 1e9, math.nan]})) == [0, 1, 0, 2, 3]


def test_adjacent_numbers_are_parted_at_the_lower() -> None:
    for a in (1.0, -1.0, 0.0, -TINY, 1e308, sys.float_info.min):
        b = math.nextafter(a, math.inf)
        assert numeric([a, b]) == (Binning((Feature("x", "ordered", thresholds=(a,)),)), [0, 1])


def test_zeros_of_both_signs_are_one_value() -> None:
    assert numeric([0.0, -0.0])[0].features == ()
    assert numeric([-0.0, 0.0, 1.0])[1] == [0, 0, 1]


def test_a_value_of_nearly_all_rows_stays_apart_from_the_rest() -> None:
    for sign in (1.0, -1.0):
        binning, found = numeric([sign * value for value in range(10)] + [sign * 10.0] * 990, 4)
        assert len(set(found[10:])) == 1
        assert binning.features[0].bins == 2
        assert found[0] != found[10]


def test_repeated_values_share_a_bin() -> None:
    binning, found = numeric([0.0] * 50 + [float(value) for value in range(1, 51)], 10)
    assert found[:50] == [0] * 50
    assert np.bincount(found).tolist() == [50, 10, 10, 10, 10, 10]


def test_missing_cells_have_a_bin_of_their_own() -> None:
    binning, found = numeric([math.nan, 1.0, 2.0])
    assert binning.features == (Feature("x", "ordered", thresholds=(1.5,), has_missing=True),)
    assert found == [2, 0, 1]
    assert codes(numeric([1.0, 2.0])[0], pd.DataFrame({"x": [math.nan]})) == [2]  # though no training cell is missing


# columns of categories


@given(st.lists(TEXTS, min_size=1, max_size=30), st.none() | st.integers(1, 5))
def test_a_category_is_a_bin(cells: list[str | None], max_cat_to_onehot: int | None) -> None:
    binning = categorical(cells, max_cat_to_onehot)
    present = tuple(sorted({cell for cell in cells if cell is not None}))
    if not present or (len(present) == 1 and None not in cells):
        assert binning.features == ()
        return
    (feature,) = binning.features
    assert feature.categories == present
    assert feature.bins == len(present)
    assert not feature.numeric
    assert feature.has_missing == (None in cells)
    found = codes(binning, pd.DataFrame({"c": text(cells)}))
    assert [present[code] if code < len(present) else None for code in found] == cells


def test_how_categories_are_split() -> None:
    def split(cells: str, most: int | None = None) -> str:
        return categorical(list(cells), most).features[0].split

    assert split("ab") == split("ab", 1) == "ordered"
    assert split("abc") == split("abc", 3) == "one-hot"
    assert split("abcd", 3) == "sorted"
    assert categorical(["a", None], 1).features[0].split == "one-hot"


def test_unknown_categories_count_as_missing_with_a_warning() -> None:
    binning = categorical(["u", "v", "w"])
    frame = pd.DataFrame({"c": text(["secret", "v", None, "other", ""])})
    found, warnings = binning.transform(frame)
    assert found[:, 0].tolist() == [3, 1, 3, 3, 3]
    assert warnings == ['column "c": 3 rows hold a category that no training row has: treated as missing']


def test_unknown_categories_of_new_data_are_refused() -> None:
    cells = {"c": text(["u", "v", "w"])}
    frame = pd.DataFrame({"c": text(["secret", "v"])})
    refusing = fit_binning(pd.DataFrame(cells), {"c": "categorical"}, max_bin=4)
    with pytest.raises(
        DataError, match='column "c": 1 rows hold .*; correct them, or train with unknown_category'
    ) as caught:
        refusing.transform(frame, new_data=True)
    assert "secret" not in str(caught.value)
    assert refusing.transform(pd.DataFrame({"c": text(["v", None])}), new_data=True)[1] == []
    ignoring = fit_binning(pd.DataFrame(cells), {"c": "categorical"}, max_bin=4, unknown_category="ignore")
    found, warnings = ignoring.transform(frame, new_data=True)
    assert found[:, 0].tolist() == [3, 1]
    assert len(warnings) == 1


def test_codes_of_categories_must_fit() -> None:
    cells: list[str | None] = [f"{number:05d}" for number in range(MAX_BINS)]
    binning = categorical(cells)
    assert binning.transform(pd.DataFrame({"c": text([cells[-1], None])}))[0][:, 0].tolist() == [MAX_BINS - 1, MAX_BINS]
    with pytest.raises(DataError, match='column "c" has 65,536 categories, expected at most 65,535'):
        categorical([*cells, "one more"])


# tables


def test_a_table_becomes_codes() -> None:
    frame = table()
    binning = fit_binning(frame[:30], KINDS, max_bin=8)
    assert [feature.name for feature in binning.features] == ["a", "c", "b"]  # the order of the file
    assert [feature.numeric for feature in binning.features] == [True, False, True]
    found, warnings = binning.transform(frame)
    assert warnings == []
    assert found.shape == (40, 3)
    assert found.dtype == np.uint16
    assert found.flags.f_contiguous  # trees take columns
    for at, feature in enumerate(binning.features):
        assert feature.has_missing == (feature.name != "b")
        assert ((found[:, at] == feature.bins) == frame[feature.name].isna()).all()
        assert found[:, at].max() <= feature.bins


def test_only_training_rows_count() -> None:
    frame = table()
    other = frame.copy()
    other.loc[30:, "a"] = 1e6
    other.loc[30:, "c"] = "u"
    assert fit_binning(frame[:30], KINDS, max_bin=8) == fit_binning(other[:30], KINDS, max_bin=8)


def test_the_order_of_rows_does_not_count() -> None:
    frame = table()
    assert fit_binning(frame, KINDS, max_bin=8) == fit_binning(frame[::-1], KINDS, max_bin=8)


def test_constant_and_missing_columns_are_left_out_as_in_preprocessing() -> None:
    frame = pd.DataFrame(
        {
            "one": [1.0, 1.0],
            "none": [math.nan, math.nan],
            "same": text(["u", "u"]),
            "blank": text([None, None]),
            "kept": [1.0, math.nan],
            "also kept": text([None, "u"]),
        }
    )
    kinds: dict[str, Kind] = {
        str(name): "numeric" if frame[name].dtype == np.float64 else "categorical" for name in frame.columns
    }
    binning = fit_binning(frame, kinds, max_bin=8)
    assert [(feature.name, feature.bins) for feature in binning.features] == [("kept", 1), ("also kept", 1)]
    found, _ = binning.transform(frame)
    assert found.T.tolist() == [[0, 1], [1, 0]]
    assert set(binning.warnings) == {
        'column "one" is the same in all training rows: left out',
        'column "none" is missing in all training rows: left out',
        'column "same" is the same in all training rows: left out',
        'column "blank" is missing in all training rows: left out',
    }
    assert set(binning.warnings) <= set(fit_preprocessor(frame, kinds).warnings)


def test_a_party_without_columns() -> None:
    frame = pd.DataFrame(index=range(3))
    binning = fit_binning(frame, {}, max_bin=8)
    assert binning == Binning(())
    assert binning.transform(frame)[0].shape == (3, 0)


def test_columns_are_checked() -> None:
    frame = table()
    binning = fit_binning(frame, KINDS, max_bin=8)
    with pytest.raises(DataError, match='column "b" was used in training and is not in these data'):
        binning.transform(frame.drop(columns="b"))
    with pytest.raises(DataError, match='column "a" holds text here and held numbers in training'):
        binning.transform(frame.assign(a=frame["c"]))
    with pytest.raises(DataError, match='column "c" holds numbers here and held categories in training'):
        binning.transform(frame.assign(c=frame["a"]))
    blank = frame.assign(a=text([None] * 40), c=math.nan)  # of either kind
    found, warnings = binning.transform(blank, new_data=True)
    assert warnings == []
    assert set(found[:, 0]) == {binning.features[0].bins}
    assert set(found[:, 1]) == {binning.features[1].bins}


# state


@given(st.lists(st.tuples(CELLS, TEXTS, NUMBERS), min_size=1, max_size=30), st.none() | st.integers(1, 3))
@settings(max_examples=50)
def test_state_survives_json(rows: list[tuple[float, str | None, float]], max_cat_to_onehot: int | None) -> None:
    a, c, b = zip(*rows, strict=True)
    frame = pd.DataFrame({"a": np.array(a, dtype=float), "c": text(list(c)), "b": np.array(b, dtype=float)})
    learnt = fit_binning(frame, KINDS, max_bin=5, max_cat_to_onehot=max_cat_to_onehot, unknown_category="ignore")
    loaded = Binning.from_dict(json.loads(json.dumps(learnt.to_dict())))
    assert loaded == learnt
    assert loaded.warnings == learnt.warnings
    assert loaded.transform(frame)[0].tolist() == learnt.transform(frame)[0].tolist()


def first(**changes: object) -> Callable[[dict[str, Any]], object]:
    """Damage the first feature, a column of numbers."""
    return lambda state: state["features"][0].update(changes)


def second(**changes: object) -> Callable[[dict[str, Any]], object]:
    """Damage the second feature, a column of categories."""
    return lambda state: state["features"][1].update(changes)


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.pop("features"),
        lambda state: state.update(features="a"),
        lambda state: state.update(unknown_category="maybe"),
        lambda state: state.update(warnings=3),
        lambda state: state["features"].append(state["features"][0]),
        lambda state: state["features"][0].pop("name"),
        first(thresholds=[1.0, 1.0]),
        first(thresholds=[2.0, 1.0]),
        first(thresholds=[math.nan]),
        first(thresholds=[math.inf]),
        first(thresholds=["1"]),
        first(thresholds=[], has_missing=False),
        first(thresholds=[float(number) for number in range(MAX_BINS)]),
        first(split="one-hot"),
        first(split="some"),
        first(has_missing="yes"),
        first(categories=["u", "v"]),
        second(categories=["v", "u", "w"]),
        second(categories=["u", "u", "w"]),
        second(categories=["u", "v"]),
        second(categories=["u", "v", None]),
        second(split="ordered"),
    ],
)
def test_damaged_state_is_refused(damage: Callable[[dict[str, Any]], object]) -> None:
    state = json.loads(json.dumps(fit_binning(table(), KINDS, max_bin=8).to_dict()))
    assert Binning.from_dict(state).features[1].categories == ("u", "v", "w")
    damage(state)
    with pytest.raises(DataError, match="the state of the bins is damaged .*; train again"):
        Binning.from_dict(state)
