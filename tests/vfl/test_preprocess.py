"""Preprocessing, learnt on the training rows only."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from parties.columns import Kind
from parties.errors import DataError
from vfl.exact import quantise
from vfl.preprocess import Preprocessor, fit_preprocessor

KINDS: dict[str, Kind] = {"a": "numeric", "c": "categorical", "b": "numeric"}


def table(n: int = 40, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"a": rng.normal(50, 10, n), "b": rng.integers(0, 3, n).astype(float)})
    frame.loc[::7, "a"] = np.nan
    cells = pd.Series(rng.choice(["u", "v", "w"], n), dtype=object)
    cells[::5] = None
    frame.insert(1, "c", cells)
    return frame


def test_equals_a_scikit_learn_pipeline() -> None:
    frame = table()
    learnt = fit_preprocessor(frame[:30], KINDS)
    X, warnings = learnt.transform(frame)
    reference = make_pipeline(
        make_column_transformer(
            (SimpleImputer(strategy="median"), ["a", "b"]),
            (OneHotEncoder(sparse_output=False, handle_unknown="ignore"), ["c"]),
        ),
        StandardScaler(),
    )
    expected = reference.fit(frame[:30]).transform(frame)
    np.testing.assert_allclose(X, expected, atol=1e-12)
    assert warnings == []
    assert learnt.names == ["a", "b", "c=u", "c=v", "c=w", "c is missing"]
    assert learnt.sources == ["a", "b", "c", "c", "c", "c"]
    assert learnt.features == ["a", "b", "c"]
    assert X.dtype == np.float64


def test_every_column_has_mean_0_and_rms_1_on_training_rows() -> None:
    frame = table(100)
    X, _ = fit_preprocessor(frame[:70], KINDS).transform(frame)
    train = X[:70]
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-13)
    np.testing.assert_allclose((train**2).mean(axis=0), 1, rtol=1e-12)
    assert (np.abs(train).sum(axis=0) <= 70 * (1 + 1e-12)).all()


def test_test_rows_have_no_influence() -> None:
    frame = table()
    other = frame.copy()
    other.loc[30:, "a"] = 1e9
    assert fit_preprocessor(frame[:30], KINDS) == fit_preprocessor(other[:30], KINDS)
    X, _ = fit_preprocessor(frame[:30], KINDS).transform(frame)
    Z, _ = fit_preprocessor(other[:30], KINDS).transform(other)
    np.testing.assert_array_equal(X[:30], Z[:30])


def test_constant_and_missing_columns_are_left_out_with_a_warning() -> None:
    frame = pd.DataFrame(
        {
            "same": [5.0, 5.0, np.nan, 9.0],
            "gone": [np.nan, np.nan, np.nan, 1.0],
            "noise": [1e9, 1e9 * (1 + 1e-15), 1e9, 0.0],
            "x": [1.0, 2.0, 3.0, 4.0],
            "one": pd.Series(["secret", "secret", "secret", "other"], dtype=object),
            "none": pd.Series([None, None, None, "other"], dtype=object),
        }
    )
    kinds: dict[str, Kind] = dict.fromkeys(("same", "gone", "noise", "x"), "numeric")
    learnt = fit_preprocessor(frame[:3], {**kinds, "one": "categorical", "none": "categorical"})
    assert learnt.names == ["x"]
    text = " | ".join(learnt.warnings)
    for name in ("same", "noise", "one"):
        assert f'column "{name}" is the same in all training rows: left out' in text
    for name in ("gone", "none"):
        assert f'column "{name}" is missing in all training rows: left out' in text
    assert "secret" not in text
    X, _ = learnt.transform(frame)
    assert X.shape == (4, 1)


def test_no_columns_at_all() -> None:
    frame = pd.DataFrame(index=pd.RangeIndex(5))
    learnt = fit_preprocessor(frame, {})
    assert learnt.transform(frame)[0].shape == (5, 0)
    assert quantise(learnt.transform(frame)[0], 3).integers.shape == (5, 0)
    assert Preprocessor.from_dict(learnt.to_dict()) == learnt


def test_unseen_category_is_all_zeros_with_a_warning() -> None:
    frame = pd.DataFrame({"c": pd.Series(["u", "v", "u", "v", "secret", None], dtype=object)})
    learnt = fit_preprocessor(frame[:4], {"c": "categorical"})
    X, warnings = learnt.transform(frame)
    raw = X * np.array(learnt.scales) + np.array(learnt.means)
    np.testing.assert_allclose(raw[4:], 0, atol=1e-15)
    assert len(warnings) == 1
    assert '"c": 2 rows' in warnings[0]
    assert "all zeros" in warnings[0]
    assert "secret" not in warnings[0]


def test_new_data_with_unknown_categories_are_refused_unless_ignored() -> None:
    frame = pd.DataFrame({"c": pd.Series(["u", "v", "u", "v", "secret"], dtype=object)})
    with pytest.raises(DataError, match='column "c": 1 rows.*unknown_category') as caught:
        fit_preprocessor(frame[:4], {"c": "categorical"}).transform(frame, new_data=True)
    assert "secret" not in str(caught.value)
    ignoring = fit_preprocessor(frame[:4], {"c": "categorical"}, unknown_category="ignore")
    assert len(ignoring.transform(frame, new_data=True)[1]) == 1


def test_other_columns_than_in_training_are_refused() -> None:
    learnt = fit_preprocessor(table(), KINDS)
    with pytest.raises(DataError, match='column "b" was used in training'):
        learnt.transform(table().drop(columns="b"))
    with pytest.raises(DataError, match='column "a" holds text here and held numbers'):
        learnt.transform(table().assign(a=pd.Series(["x"] * 40, dtype=object)))
    with pytest.raises(DataError, match='column "c" holds numbers here and held categories'):
        learnt.transform(table().assign(c=1.0))
    assert learnt.transform(table().assign(c=np.nan))[0].shape == (40, 6)


def test_state_survives_json() -> None:
    learnt = fit_preprocessor(table(), KINDS)
    again = Preprocessor.from_dict(json.loads(json.dumps(learnt.to_dict())))
    assert again == learnt
    np.testing.assert_array_equal(again.transform(table(seed=3))[0], learnt.transform(table(seed=3))[0])


@pytest.mark.parametrize("damage", [{"means": [1.0]}, {"scales": "x"}, {"numeric": None}, {"numeric": [{"name": "a"}]}])
def test_damaged_state_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(DataError, match="damaged"):
        Preprocessor.from_dict({**fit_preprocessor(table(), KINDS).to_dict(), **damage})


@pytest.mark.parametrize("scale", [1e308, 1e300, 1e155, 1.0, 1e-155, 1e-300])
def test_extreme_columns_are_standardised_like_any_other(scale: float) -> None:
    values = np.array([1.0, -1.0, 0.5, 0.25, np.nan, 1.0])
    X, _ = fit_preprocessor(pd.DataFrame({"a": values * scale}), {"a": "numeric"}).transform(
        pd.DataFrame({"a": values * scale})
    )
    plain, _ = fit_preprocessor(pd.DataFrame({"a": values}), {"a": "numeric"}).transform(pd.DataFrame({"a": values}))
    np.testing.assert_allclose(X, plain, rtol=1e-12)


def test_huge_test_values_stay_finite_and_are_clipped_with_a_warning() -> None:
    frame = pd.DataFrame({"a": [1e-200, 2e-200, 3e-200, 1e308, -1e308]})
    learnt = fit_preprocessor(frame[:3], {"a": "numeric"})
    X, _ = learnt.transform(frame)
    assert np.isfinite(X).all()
    block = quantise(X, 3, learnt.sources)
    assert block.integers[3:, 0].tolist() == [2**31 - 1, 1 - 2**31]
    assert len(block.warnings) == 1
    assert 'column "a": 2 test rows' in block.warnings[0]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.one_of(st.floats(allow_nan=True, allow_infinity=False), st.sampled_from([0.0, 1.0, 1e308])),
        min_size=2,
        max_size=12,
    )
)
def test_any_finite_column_gives_finite_bounded_values(values: list[float]) -> None:
    frame = pd.DataFrame({"a": np.array(values)})
    X, _ = fit_preprocessor(frame, {"a": "numeric"}).transform(frame)
    assert np.isfinite(X).all()
    assert (np.abs(X) <= math.sqrt(len(values)) * 1.001).all()
    quantise(X, len(values))
