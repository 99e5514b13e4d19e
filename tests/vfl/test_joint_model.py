"""A fitted model in Python: predictions on new rows, metrics, saving and loading, what a notebook shows of it."""

from __future__ import annotations

import gc
import html
import sys
import types
import webbrowser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from parties.errors import ConfigError, DataError
from tests.runs.companies import TEST_KEY, make_companies, run_vfl
from vfl import (
    Federation,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    JointModel,
    LinearRegression,
    LogisticRegression,
    Party,
    PoissonRegressor,
    SoftmaxRegression,
    cross_validate,
    load_model,
)
from vfl.estimators import Estimator
from vfl.events import PHASES

LABELS = {"bought": str, "kind": str, "amount": float, "visits": int}
TREES = {"n_estimators": 3, "max_depth": 2, "max_bin": 16}


def make_frames(rows: int, seed: int, first: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A bank with four labels, and a shop that lacks every tenth of its clients."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4))
    score = x @ [1.0, -1.0, 0.7, 0.5]
    bank = pd.DataFrame({"client": np.arange(first, first + rows), "income": x[:, 0], "age": x[:, 1]})
    bank["bought"] = np.where(score + rng.logistic(size=rows) > 0, "yes", "no")
    bank["kind"] = np.array(["a", "b", "c"])[np.digitize(score + rng.normal(size=rows), [-0.8, 0.8])]
    bank["amount"] = score + rng.normal(size=rows)
    bank["visits"] = rng.poisson(np.exp(0.4 * score))
    shop = pd.DataFrame({"card": bank["client"].astype(str), "calls": x[:, 2], "spend": x[:, 3]})
    return bank, shop[np.arange(rows) % 10 != 9].sample(frac=1, random_state=seed)


BANK, SHOP = make_frames(400, seed=1)
NEW_BANK, NEW_SHOP = make_frames(150, seed=2, first=10_000)
NEW = {"bank": NEW_BANK, "shop": NEW_SHOP}


def federation(label: str, bank: pd.DataFrame = BANK, **policy: object) -> Federation:
    rest = sorted(set(LABELS) - {label})
    return Federation(
        Party("bank", bank, id="client", label=label, drop=rest, policy=policy),
        Party("shop", SHOP, id="card"),
        privacy=TEST_KEY,
    )


def fit(estimator: Estimator, label: str, **options: Any) -> JointModel:
    return federation(label).fit(estimator, **{"seed": 4, "baselines": False} | options)


@pytest.fixture(scope="module")
def logistic() -> JointModel:
    return fit(LogisticRegression(), "bought")


@pytest.fixture(scope="module")
def linear() -> JointModel:
    return fit(LinearRegression(l2=0.01), "amount", test_fraction=0)


@pytest.mark.parametrize(
    ("estimator", "label"),
    [
        (LogisticRegression(), "bought"),
        (SoftmaxRegression(), "kind"),
        (LinearRegression(), "amount"),
        (PoissonRegressor(), "visits"),
        (GradientBoostingClassifier(**TREES), "bought"),
        (GradientBoostingClassifier(**TREES), "kind"),
        (GradientBoostingRegressor(**TREES, objective="poisson"), "visits"),
    ],
    ids=["logistic", "softmax", "linear", "poisson", "trees-binary", "trees-multiclass", "trees-count"],
)
def test_the_federations_rows_get_the_scores_of_the_run(estimator: Estimator, label: str) -> None:
    model = fit(estimator, label)
    scores = model.predictions()
    assert scores.index.tolist() == BANK["client"][BANK["client"] % 10 != 9].tolist()  # as the bank has them
    assert scores.unmatched.tolist() == BANK["client"][BANK["client"] % 10 == 9].tolist()
    held = model.test_scores_
    assert held is not None
    held.index = held["client"].astype(int)
    columns = [name for name in scores.to_frame() if name.startswith("score")]
    pd.testing.assert_frame_equal(scores.to_frame().loc[held.index, columns], held[columns], rtol=1e-12)
    if model.classes_:
        probabilities = model.predict_proba()
        assert list(probabilities) == model.classes_
        assert probabilities.sum(axis=1).to_numpy() == pytest.approx(1)
        assert model.predict().tolist() == probabilities.idxmax(axis=1).tolist()
    else:
        assert model.predict().equals(scores.to_frame()["score"])


def test_new_rows_get_the_scores_of_the_pooled_model(linear: JointModel) -> None:
    columns = ["income", "age", "calls", "spend"]
    joined = BANK.merge(SHOP.assign(client=SHOP["card"].astype(int)), on="client")
    ridge = make_pipeline(StandardScaler(), Ridge(alpha=0.01 * len(joined))).fit(joined[columns], joined["amount"])
    new = NEW_BANK.merge(NEW_SHOP.assign(client=NEW_SHOP["card"].astype(int)), on="client").set_index("client")
    predicted = linear.predict(NEW)
    assert predicted.index.equals(new.index)
    assert predicted.name == "score"
    np.testing.assert_allclose(predicted, ridge.predict(new[columns]), atol=1e-3)
    with pytest.raises(AttributeError, match="LinearRegression predicts numbers and has no predict_proba, use predict"):
        linear.predict_proba(NEW)


def test_log_odds_are_those_of_the_probabilities(logistic: JointModel) -> None:
    odds = logistic.decision_function(NEW)
    assert isinstance(odds, pd.Series)
    assert (1 / (1 + np.exp(-odds))).to_numpy() == pytest.approx(logistic.predict_proba(NEW)["yes"].to_numpy())
    assert (odds > 0).to_numpy().tolist() == (logistic.predict(NEW) == "yes").to_numpy().tolist()


def test_csvs_and_frames_are_scored_alike(logistic: JointModel, tmp_path: Path) -> None:
    NEW_SHOP.to_csv(tmp_path / "shop.csv", index=False)
    NEW_BANK.to_csv(tmp_path / "bank.csv", index=False)
    mixed = logistic.predict_proba({"bank": NEW_BANK, "shop": tmp_path / "shop.csv"})
    assert mixed.equals(logistic.predict_proba(NEW))
    files = logistic.predict_proba({"bank": str(tmp_path / "bank.csv"), "shop": str(tmp_path / "shop.csv")})
    assert files.index.tolist() == mixed.index.astype(str).tolist()  # ids of a CSV are text
    assert files.to_numpy().tolist() == mixed.to_numpy().tolist()


def test_rows_that_others_lack_are_scored_alone_where_the_policy_says_so() -> None:
    model = federation("bought", unmatched_rows="score").fit(LogisticRegression(), seed=4, baselines=False)
    scores = model.predictions(NEW)
    assert scores.index.tolist() == NEW_BANK["client"].tolist()
    assert scores.joint.tolist() == [client % 10 != 9 for client in NEW_BANK["client"]]
    assert scores.to_frame()["joint"].equals(scores.joint)
    assert len(scores.unmatched) == 0


def test_composite_ids_make_an_index_of_several_levels() -> None:
    bank = BANK.assign(branch=BANK["client"] // 100, client=BANK["client"] % 100)
    shop = SHOP.assign(branch=SHOP["card"].astype(int) // 100, card=SHOP["card"].astype(int) % 100)
    joined = Federation(
        Party("bank", bank, id=["branch", "client"], label="amount", drop=["bought", "kind", "visits"]),
        Party("shop", shop, id=["branch", "card"]),
        privacy=TEST_KEY,
    )
    predicted = joined.fit(LinearRegression(), baselines=False).predict()
    assert predicted.index.names == ["branch", "client"]
    assert predicted.index[1] == (0, 1)


def test_metrics_on_new_rows_are_scikit_learns(logistic: JointModel, linear: JointModel) -> None:
    figures = logistic.evaluate(NEW)
    probability = logistic.predict_proba(NEW)["yes"]
    truth = NEW_BANK.set_index("client").loc[probability.index]
    assert figures.metrics["auc"] == pytest.approx(roc_auc_score(truth["bought"] == "yes", probability))
    assert figures.rows == len(probability)
    low, high = figures.confidence["joint"]["auc"]
    assert low < figures.metrics["auc"] < high
    assert figures.active_only is None
    assert list(figures.to_frame()) == ["joint"]
    numbers = linear.evaluate(NEW).metrics
    assert numbers["r2"] == pytest.approx(r2_score(truth["amount"], linear.predict(NEW)))
    assert numbers["mae"] == pytest.approx(mean_absolute_error(truth["amount"], linear.predict(NEW)))
    with pytest.raises(DataError, match='label names the column "amount"'):
        linear.evaluate(NEW | {"bank": NEW_BANK.drop(columns="amount")})


def test_a_saved_model_is_the_same_model(logistic: JointModel, tmp_path: Path) -> None:
    out = logistic.save(tmp_path / "deep" / "run")
    again = load_model(out)
    assert repr(again) == repr(logistic) == "JointModel(estimator=LogisticRegression())"
    assert again.predict_proba(NEW).equals(logistic.predict_proba(NEW))
    assert again.evaluate() == logistic.evaluate()
    assert again.n_iter_ == logistic.n_iter_
    pd.testing.assert_frame_equal(again.coef_["shop"], logistic.coef_["shop"])
    assert again.intercept_ == pytest.approx(logistic.intercept_)
    with pytest.raises(ConfigError, match="data, got none for a model that was loaded"):
        again.predict()
    with pytest.raises(ConfigError, match="holds a run already"):
        again.save(out)
    assert load_model(again.save(out, overwrite=True)).evaluate() == logistic.evaluate()


@pytest.mark.parametrize("wanted", ["html", "json"])
def test_a_saved_model_has_a_page_where_one_is_wanted(
    logistic: JointModel, tmp_path: Path, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VFL_REPORT", wanted)
    out = logistic.save(tmp_path / "run")
    assert (out / "report.html").exists() == (wanted == "html")
    assert {path.name for path in out.iterdir()} - {"report.html"} == {
        "report.json",
        "ledger.jsonl",
        "coordinator",
        "bank",
        "shop",
    }


def test_trees_are_saved_too(tmp_path: Path) -> None:
    trees = fit(GradientBoostingRegressor(**TREES, objective="poisson"), "visits")
    again = load_model(trees.save(tmp_path / "run"))
    assert repr(again.estimator) == repr(trees.estimator)
    assert again.predict(NEW).equals(trees.predict(NEW))
    assert again.feature_importances_.equals(trees.feature_importances_)
    assert not hasattr(again, "coef_")
    with pytest.raises(AttributeError, match="GradientBoostingRegressor has no intercept_, expected a linear model"):
        again.intercept_  # noqa: B018


def test_the_command_line_uses_a_saved_model(logistic: JointModel, tmp_path: Path) -> None:
    out = logistic.save(tmp_path / "run")
    NEW_BANK.to_csv(tmp_path / "bank.csv", index=False)
    NEW_SHOP.to_csv(tmp_path / "shop.csv", index=False)
    data = [part for name in NEW for part in ("--data", f"{name}={tmp_path / name}.csv")]
    done = run_vfl("predict", out, *data, "--out", tmp_path / "scores.csv")
    assert done.code == 0, done.stderr
    scores = pd.read_csv(tmp_path / "scores.csv", index_col="client")
    assert scores["class"].tolist() == logistic.predict(NEW).tolist()
    assert scores["score"].tolist() == pytest.approx(logistic.predict_proba(NEW)["yes"].tolist(), rel=1e-12)
    assert run_vfl("audit", out).code == 0
    assert load_model(load_model(out).save(tmp_path / "copy")).n_iter_ == logistic.n_iter_
    assert not (tmp_path / "copy" / "predictions").exists()  # what was done with the model is not the model


@pytest.mark.slow
def test_a_run_of_the_command_line_is_a_model(tmp_path: Path) -> None:
    companies = make_companies(tmp_path, "softmax")
    done = run_vfl("run", companies.write(), "--in-process", "--out", tmp_path / "run")
    assert done.code == 0, done.stderr
    model = load_model(tmp_path / "run")
    assert isinstance(model.estimator, SoftmaxRegression)
    assert model.classes_ == ["a", "b", "c"]
    held = model.test_scores_
    assert held is not None
    data = {name: tmp_path / str(party["data"]) for name, party in companies.parties.items()}
    scores = model.predictions(data).to_frame().loc[held["customer"]]
    np.testing.assert_allclose(scores["score_b"], held["score_b"], rtol=1e-12)
    odds = model.decision_function(data)
    assert isinstance(odds, pd.DataFrame)
    assert odds.idxmax(axis=1).equals(model.predict(data).rename(None))


def test_a_model_that_is_not_kept_goes_with_its_files() -> None:
    model = fit(LinearRegression(), "amount")
    folder, report = model.directory.path, model.report
    assert (folder / "report.json").exists()
    del model
    gc.collect()
    assert folder.exists()  # the report still shows its page
    del report
    gc.collect()
    assert not folder.parent.exists()


def test_mistakes_in_the_data_are_named(logistic: JointModel, tmp_path: Path) -> None:
    bad: list[tuple[object, type[Exception], str]] = [
        (NEW_BANK, ConfigError, "data, got DataFrame, expected a mapping of party to CSV or DataFrame, for 'bank', 's"),
        ({"bank": NEW_BANK}, ConfigError, "data, got none for party 'shop'"),
        (NEW | {"biller": NEW_BANK}, ConfigError, "data, got some for 'biller', expected them for 'bank', 'shop'"),
        (NEW | {"shop": 3}, ConfigError, "data of party 'shop', got int, expected a path or a DataFrame"),
        (NEW | {"shop": tmp_path / "no.csv"}, DataError, "there is no such file"),
        (NEW | {"shop": NEW_SHOP.drop(columns="spend")}, DataError, 'column "spend" was used in training'),
        (NEW | {"shop": NEW_SHOP.assign(spend="much")}, DataError, 'party shop, DataFrame.*"spend"'),
    ]
    for data, kind, words in bad:
        with pytest.raises(kind, match=words):
            logistic.predict(data)
    with pytest.raises(ConfigError, match="expected the directory of a finished run"):
        load_model(tmp_path)


def test_a_part_of_another_run_is_named(logistic: JointModel, linear: JointModel, tmp_path: Path) -> None:
    out = logistic.save(tmp_path / "run")
    (out / "shop" / "model.npz").write_bytes(b"no arrays")
    with pytest.raises(DataError, match="model shard .*shop: cannot be read"):
        load_model(out)
    other = linear.save(tmp_path / "other")
    for file in (out / "shop").iterdir():
        file.unlink()
    for file in (other / "shop").iterdir():
        file.rename(out / "shop" / file.name)
    with pytest.raises(DataError, match="a shard of another run"):
        load_model(out)


def test_a_run_that_is_gone_is_named(tmp_path: Path) -> None:
    model = fit(LinearRegression(), "amount", out=tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert len(model.predict(NEW)) == 135  # what predicts is in memory
    for attempt in (model.report.show, lambda: model.save(tmp_path / "copy")):
        with pytest.raises(ConfigError, match="got no such directory, expected the run that was kept there"):
            attempt()


def test_the_report_is_shown_in_the_browser(logistic: JointModel, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    path = logistic.report.show()
    assert path is not None
    assert opened == [path.as_uri()]
    assert "<html" in path.read_text("utf-8")
    assert logistic.report.training.rounds == logistic.n_iter_  # all fields are there


class Cell:
    """What a notebook's cell shows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []
        self.updates: list[str] = []
        display = types.ModuleType("IPython.display")
        display.HTML = str
        display.display = self.show
        monkeypatch.setitem(sys.modules, "IPython.display", display)
        monkeypatch.setattr("vfl.notebook.in_notebook", lambda: True)

    def show(self, text: str, display_id: bool = False) -> Cell | None:
        self.texts.append(text)
        return self if display_id else None

    def update(self, text: str) -> None:
        self.updates.append(text)


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    return Cell(monkeypatch)


def test_the_report_is_shown_in_the_notebook(logistic: JointModel, cell: Cell) -> None:
    assert logistic.report.show() is None
    (text,) = cell.texts
    assert html.escape(logistic.directory.page().read_text("utf-8")) in text
    assert text.startswith("<div><iframe srcdoc=")


def test_a_fit_fills_a_bar_in_the_notebook(cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    model = fit(LinearRegression(), "amount", progress=True)
    assert "<progress" in cell.texts[0]
    assert any("Training" in text for text in cell.updates)
    assert f'value="{len(PHASES)}" max="{len(PHASES)}"></progress> Done' in cell.updates[-1]
    model.predict(NEW, progress=True)
    assert "Reading the rows" in cell.texts[1]
    assert capsys.readouterr() == ("", "")


def test_folds_fill_a_bar_in_the_notebook(cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    cross_validate(LinearRegression(), federation("amount"), cv=2, progress=True)
    assert len(cell.texts) == 1
    assert any("fold 2 of 2" in text for text in cell.updates)
    assert 'value="2" max="2"></progress> Done' in cell.updates[-1]
    with pytest.raises(ConfigError, match="l2"):
        cross_validate(LinearRegression(l2=-1), federation("amount"), progress=True)
    with pytest.raises(ConfigError, match="400"):
        cross_validate(LinearRegression(), federation("amount"), cv=400, progress=True)
    assert "Done" not in cell.updates[-1]
    assert capsys.readouterr() == ("", "")


def test_a_fit_shows_its_phases_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    fit(LinearRegression(), "amount", progress=True)
    out, error = capsys.readouterr()
    assert out == ""
    assert [line.partition(":")[0] for line in error.splitlines()][1:4] == [
        "Aligning ids",
        "Preparing columns",
        "Training",
    ]


def test_notebooks_show_small_tables(logistic: JointModel) -> None:
    text = logistic._repr_html_()
    assert "LogisticRegression()" in text
    assert f"{logistic.evaluate().metrics['auc']:.4f}" in text
    assert "rows scored, 15 without a score" in logistic.predictions(NEW)._repr_html_()
    assert "<td>" in logistic.evaluate()._repr_html_()
    unjudged = fit(LinearRegression(), "amount", test_fraction=0)
    assert "LinearRegression()" in unjudged._repr_html_()
    assert unjudged.test_scores_ is None
