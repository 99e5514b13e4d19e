"""Cross-validation and search: equal to scikit-learn's on the pooled columns, one alignment, one account of budgets."""

from __future__ import annotations

import runpy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression as PlainLogistic
from sklearn.linear_model import Ridge
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from parties.errors import ConfigError, DataError, PolicyError
from psi.align import align_party
from tests.runs.companies import TEST_KEY, run_vfl
from vfl import (
    Federation,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    GridSearch,
    LinearRegression,
    LogisticRegression,
    Party,
    cross_validate,
)

ROWS = 301  # 100, 100, 101: folds of different sizes
COLUMNS = ["income", "age", "calls", "spend", "bills"]
TREES = {"n_estimators": 4, "max_depth": 2, "max_bin": 16}


def make_frames() -> dict[str, pd.DataFrame]:
    """Three parties that share all but a few rows."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=(ROWS + 9, 5))
    score = x @ [1.0, -1.0, 0.7, 0.5, -0.6]
    ids = [f"c{number:04d}" for number in range(len(x))]
    bank = pd.DataFrame({"client": ids, "income": x[:, 0], "age": x[:, 1], "amount": score + rng.normal(size=len(x))})
    bank["bought"] = (score + rng.logistic(size=len(x)) > 0).astype(int)
    shop = pd.DataFrame({"card": ids, "calls": x[:, 2], "spend": x[:, 3]}).sample(frac=1, random_state=2)
    biller = pd.DataFrame({"account": ids, "bills": x[:, 4]}).iloc[9:]
    return {"bank": bank, "shop": shop, "biller": biller}


FRAMES = make_frames()
ID = {"bank": "client", "shop": "card", "biller": "account"}


def federation(label: str = "amount", privacy: dict[str, object] | None = None, **policy: object) -> Federation:
    consent = {"key_bits": 512} | policy
    other = {"amount": "bought", "bought": "amount"}[label]
    return Federation(
        Party("bank", FRAMES["bank"], id="client", label=label, drop=[other], policy=consent),
        Party("shop", FRAMES["shop"], id="card", policy=consent),
        Party("biller", FRAMES["biller"], id="account", policy=consent),
        privacy=TEST_KEY | (privacy or {}),
    )


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """All columns in one place, in the agreed order as a run's files tell it."""
    out = tmp_path_factory.mktemp("order") / "run"
    federation().fit(LinearRegression(), seed=5, baselines=False, out=out)
    order = pd.read_csv(out / "bank" / "ids.csv")["client"]
    tables = [FRAMES[name].set_index(ID[name]) for name in FRAMES]
    return pd.concat(tables, axis=1).loc[order]


def test_folds_of_a_linear_model_are_scikit_learns(joined: pd.DataFrame) -> None:
    result = cross_validate(LinearRegression(l2=0.01), federation(), cv=3, seed=5)
    for fold, (train, test) in zip(result.folds, KFold(3).split(joined), strict=True):
        rows, held = joined.iloc[train], joined.iloc[test]
        pooled = make_pipeline(StandardScaler(), Ridge(alpha=0.01 * len(rows))).fit(rows[COLUMNS], rows["amount"])
        rmse = np.sqrt(np.mean((pooled.predict(held[COLUMNS]) - held["amount"]) ** 2))
        assert fold.metrics["rmse"] == pytest.approx(rmse, rel=1e-4)
        assert fold.rows == len(test)
    assert [fold.rows for fold in result.folds] == [101, 100, 100]


def test_folds_of_a_logistic_model_are_scikit_learns(joined: pd.DataFrame) -> None:
    exact = federation("bought", {"key_holder": "active"})
    result = cross_validate(LogisticRegression(l2=0.01), exact, cv=3, seed=5, active_only=True)
    for fold, (train, test) in zip(result.folds, KFold(3).split(joined), strict=True):
        rows, held = joined.iloc[train], joined.iloc[test]
        for figures, columns in ((fold.metrics, COLUMNS), (fold.active_only, COLUMNS[:2])):
            plain = make_pipeline(StandardScaler(), PlainLogistic(C=1 / (0.01 * len(rows)), tol=1e-10))
            chance = plain.fit(rows[columns], rows["bought"]).predict_proba(held[columns])[:, 1]
            assert figures is not None
            assert figures["log_loss"] == pytest.approx(log_loss(held["bought"], chance), rel=1e-3)
            assert figures["auc"] == pytest.approx(roc_auc_score(held["bought"], chance), abs=2e-3)
    frame = result.to_frame()
    assert frame.index.tolist() == [1, 2, 3]
    assert frame["active_only_auc"].tolist() == [fold.active_only["auc"] for fold in result.folds if fold.active_only]
    assert result.summary().loc["auc", "mean"] == pytest.approx(frame["auc"].mean())
    assert result.summary().loc["active_only_auc", "std"] == pytest.approx(frame["active_only_auc"].std())


def test_the_last_fold_of_trees_is_what_a_run_holds_out() -> None:
    trees = GradientBoostingClassifier(**TREES)
    result = cross_validate(trees, federation("bought"), cv=3, seed=5)
    model = federation("bought").fit(trees, test_fraction=100 / 301, seed=5, baselines=False)
    assert result.folds[-1].metrics == model.evaluate().metrics
    assert result.folds[0].metrics != model.evaluate().metrics
    assert result.folds[-1].active_only is None
    assert result.folds[-1].rounds == 4


def test_early_stopping_watches_a_part_of_every_fold() -> None:
    trees = GradientBoostingRegressor(**TREES | {"n_estimators": 12}, early_stopping_rounds=1)
    result = cross_validate(trees, federation(), cv=3, seed=5, validation_fraction=0.2)
    model = federation().fit(trees, test_fraction=100 / 301, validation_fraction=0.2, seed=5, baselines=False)
    assert result.folds[-1].rounds == model.n_iter_
    assert result.folds[-1].metrics == model.evaluate().metrics


def test_the_parties_align_once_and_budgets_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    aligned: list[str] = []

    def count(endpoint: Any, *arguments: Any, **options: Any) -> Any:
        aligned.append(endpoint.name)
        return align_party(endpoint, *arguments, **options)

    monkeypatch.setattr("vfl.session.align_party", count)
    exact = {"key_holder": "active"}
    result = cross_validate(LogisticRegression(), federation("bought", exact, scored_rows=250), cv=3)
    assert sorted(aligned) == ["bank", "biller", "shop"]
    assert result.spent["rows_scored"].to_dict() == {"bank": 0, "shop": ROWS, "biller": ROWS}
    opened = result.spent["equations"]
    assert (opened >= sum(fold.rounds for fold in result.folds)).all()
    told = "\n".join(result.warnings)
    assert (
        "between companies this would be refused because policy scored_rows: party 'shop' got 301 rows scored" in told
    )
    assert "between companies training would stop here because score budget: party 'bank'" in told
    assert len(set(result.warnings)) == len(result.warnings)

    one = federation("bought", exact, scored_rows=250).fit(LogisticRegression(), test_fraction=1 / 3)
    assert not any("scored_rows" in line for line in one.report.warnings)  # one run alone is within it


def test_guards_act_on_the_sums_where_they_are_enforced() -> None:
    enforced = {"enforce": True, "small_data": True}
    careful = federation("amount", enforced, scored_rows=250, small_data=True, partial_scores=True)
    with pytest.raises(PolicyError, match="policy scored_rows: party '.*' got 301 rows scored jointly in all"):
        cross_validate(LinearRegression(), careful, cv=3)
    assert careful.fit(LinearRegression(), baselines=False).evaluate().rows == 90  # alone it is within it


def test_epsilons_of_labels_add_up() -> None:
    noisy = federation("bought", {"label_dp_epsilon": 3.0})
    result = cross_validate(LogisticRegression(), noisy, cv=2)
    (line,) = (line for line in result.warnings if "anew" in line)
    assert line.endswith("each of 2 trainings, each with epsilon 3: over all of them a label has up to 6")


def test_a_search_is_scikit_learns(joined: pd.DataFrame) -> None:
    search = GridSearch(LinearRegression(), {"l2": np.logspace(-3, 1, 3)}, cv=3).fit(federation(), seed=5)
    searched = joined.iloc[: ROWS - 90]  # the last rows are held out
    plain = GridSearchCV(
        make_pipeline(StandardScaler(), Ridge()),
        {"ridge__alpha": [l2 * len(searched) * 2 / 3 for l2 in (1e-3, 1e-1, 10)]},
        cv=KFold(3),
        scoring="neg_root_mean_squared_error",
    ).fit(searched[COLUMNS], searched["amount"])
    found, expected = search.cv_results_, plain.cv_results_
    np.testing.assert_allclose(found["mean_test_score"], -expected["mean_test_score"], rtol=1e-3)
    np.testing.assert_allclose(found["std_test_score"], expected["std_test_score"], rtol=0.02)
    assert found["rank_test_score"].tolist() == expected["rank_test_score"].tolist()
    assert search.best_index_ == plain.best_index_
    assert search.best_params_ == {"l2": pytest.approx(1e-3 if plain.best_index_ == 0 else 0.1)}
    assert search.best_score_ == found["mean_test_score"][search.best_index_] == found["mean_test_score"].min()
    assert repr(search.best_estimator_) == repr(search.best_model_.estimator)
    assert pd.DataFrame(found)["param_l2"].tolist() == pytest.approx([1e-3, 0.1, 10])
    assert {"params", "mean_fit_time", "split2_test_score"} <= set(found)
    direct = federation().fit(search.best_estimator_, seed=5)
    assert search.best_model_.evaluate() == direct.evaluate()
    assert search.best_model_.evaluate().rows == 90
    assert search.predict().equals(direct.predict())
    assert search.spent_.loc["shop", "rows_scored"] == 3 * (ROWS - 90) + 90


def test_more_is_better_for_some_metrics_and_less_for_others() -> None:
    grid = {"l2": [0.01, 300.0]}
    by_auc = GridSearch(LogisticRegression(), grid, cv=2, refit=False).fit(federation("bought"))
    by_loss = GridSearch(LogisticRegression(), grid, cv=2, scoring="log_loss", refit=False).fit(federation("bought"))
    assert (by_auc.scoring_, by_loss.scoring_) == ("auc", "log_loss")
    assert by_loss.best_params_ == {"l2": 0.01}
    losses, areas = by_loss.cv_results_["mean_test_score"], by_auc.cv_results_["mean_test_score"]
    assert losses[0] < losses[1]
    assert by_auc.best_score_ == areas.max()
    by_auc.set_params(param_grid={"l2": [1.0]}, refit=True).fit(federation("bought"), baselines=False)
    assert by_auc.best_model_.estimator.l2 == 1
    by_auc.set_params(refit=False).fit(federation("bought"))
    with pytest.raises(NotFittedError, match="no 'best_model_' yet: call fit.federation., for a model with refit=True"):
        by_auc.best_model_  # noqa: B018


def test_grids_of_several_parts_leave_parameters_out() -> None:
    grid = [{"max_depth": [1, 2]}, {"gamma": [1e9]}]
    search = GridSearch(GradientBoostingClassifier(**TREES), grid, cv=2, refit=False).fit(federation("bought"))
    assert search.cv_results_["param_max_depth"].tolist() == [1, 2, None]
    assert search.cv_results_["param_gamma"].tolist() == [None, None, 1e9]
    assert search.cv_results_["mean_test_score"][2] == 0.5  # nothing is worth that much
    assert search.cv_results_["rank_test_score"][2] == 3


def test_a_search_follows_scikit_learn() -> None:
    search = GridSearch(LinearRegression(), {"l2": [1.0]}, cv=4)
    assert repr(search) == "GridSearch(cv=4, estimator=LinearRegression(), param_grid={'l2': [1.0]})"
    assert search.get_params()["estimator__l2"] == 0.001
    copied = clone(search)
    assert copied.get_params(deep=False).keys() == search.get_params(deep=False).keys()
    assert not hasattr(copied, "best_params_")
    with pytest.raises(NotFittedError, match="GridSearch has no 'best_model_' yet"):
        copied.predict()


def test_the_best_model_of_a_search_is_a_whole_run(tmp_path: Path) -> None:
    search = GridSearch(LogisticRegression(), {"l2": [0.1]}, cv=2).fit(federation("bought"), seed=5)
    out = search.best_model_.save(tmp_path / "run")
    told = {line.what for line in search.best_model_.report.disclosures}
    assert "how many distinct valid ids every party has, or pad_to" in told  # the alignment belongs to it
    assert search.best_model_.report.alignment.bytes > 0
    for options in ([], ["--verify"]):
        done = run_vfl("audit", out, *options)
        assert done.code == 0, done.stderr
    assert search.predict_proba().equals(search.best_model_.predict_proba())


@pytest.mark.parametrize(
    ("estimator", "grid", "options", "words"),
    [
        (
            LinearRegression(),
            {"l3": [1]},
            {},
            "got 'l3', which LinearRegression has not, did you mean 'l2'",
        ),
        (LinearRegression(), {"l2": [1, -1]}, {}, r"l2 in \[training\] of the federation, got -1"),
        (LinearRegression(), {"l2": 1}, {}, "param_grid, .*; expected a dict of parameter to a list of values"),
        (LinearRegression(), [], {}, "param_grid, got no candidate"),
        (
            LinearRegression(),
            {"l2": [1]},
            {"scoring": "auc"},
            "scoring, got 'auc', expected one of rmse, mae, r2 ",
        ),
        (LinearRegression(), {"l2": [1]}, {"cv": 1}, "cv, got 1, expected a whole number of folds, at least 2"),
        (LinearRegression(), {"l2": [1]}, {"cv": 2.0}, "cv, got 2.0"),
        (LinearRegression(), {"l2": [1]}, {"cv": 400}, "cv, got 400 folds for 211 common rows"),
        (
            Ridge(),
            {"alpha": [1]},
            {},
            "estimator, got sklearn's Ridge, expected one of vfl's",
        ),
        (LinearRegression, {"l2": [1]}, {}, r"got the class LinearRegression, expected LinearRegression\(\)"),
    ],
    ids=["parameter", "value", "list", "empty", "scoring", "one-fold", "text", "folds", "scikit-learns", "class"],
)
def test_mistakes_are_named_before_anything_is_trained(
    estimator: Any, grid: Any, options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr("vfl.folds.play_in_threads", refuse)
    with pytest.raises(ConfigError, match=words):
        GridSearch(estimator, grid, **options).fit(federation())


def test_mistakes_of_cross_validation_are_named() -> None:
    with pytest.raises(ConfigError, match="cv, got true"):
        cross_validate(LinearRegression(), federation(), cv=True)
    with pytest.raises(ConfigError, match="l2 .*got 'much'"):
        cross_validate(LinearRegression(l2="much"), federation())
    with pytest.raises(DataError, match="class"):
        cross_validate(LogisticRegression(), federation("bought"), cv=ROWS)  # a fold of one row has one class


def test_progress_names_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    cross_validate(LinearRegression(), federation(), cv=2, progress=True)
    GridSearch(LinearRegression(), {"l2": [1.0]}, cv=2).fit(federation(), progress=True)
    out, error = capsys.readouterr()
    assert out == ""
    assert [line.partition(":")[0] for line in error.splitlines()] == [
        "Aligning ids",
        "fold 1 of 2",
        "fold 2 of 2",
        "Aligning ids",
        "candidate 1, fold 1 of 2",
        "candidate 1, fold 2 of 2",
        "best candidate, all folds",
    ]


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    cross_validate(LinearRegression(), federation(), cv=2, progress=True)
    out, error = capsys.readouterr()
    assert out == ""
    assert "2/2" in error
    assert "fold 2 of 2" in error


def test_the_example_in_scenarios_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(Path(__file__).parents[2] / "scenarios" / "selection_from_python.py"))
    main = names["main"]
    monkeypatch.setitem(main.__globals__, "Federation", partial(Federation, privacy=TEST_KEY))
    main()
    out, error = capsys.readouterr()
    assert "RMSE on them" in out
    assert "fold 3 of 3" in error


def test_tables_for_notebooks() -> None:
    result = cross_validate(LinearRegression(), federation(), cv=2)
    text = result._repr_html_()
    assert "2 folds" in text
    assert f"{result.folds[1].metrics['rmse']:.4f}" in text
