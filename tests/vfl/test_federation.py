"""The Python interface: scikit-learn's manners, CSVs and DataFrames, what a fitted model shows."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.utils.estimator_checks import (
    check_estimator_cloneable,
    check_estimator_repr,
    check_get_params_invariance,
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    check_set_params,
)

import vfl
from parties.errors import ConfigError, DataError
from vfl import (
    Federation,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    LinearRegression,
    LogisticRegression,
    Party,
    PoissonRegressor,
    SoftmaxRegression,
    SplitClassifier,
    SplitRegressor,
    cross_validate,
)
from vfl.estimators import ESTIMATORS, Estimator, Trees, estimator_of
from vfl.federation import prepare
from vfl.job import Boosting, Scenario

TEST_KEY = {"key_bits": 512, "insecure_test_mode": True}
ROWS = 600


@pytest.fixture(scope="module")
def frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(ROWS, 4))
    ids = [f"{i:05d}" for i in range(ROWS)]
    score = x @ [1.0, -1.0, 0.7, 0.5]
    bank = pd.DataFrame({"client": ids, "income": x[:, 0], "age": x[:, 1]})
    bank["bought"] = np.where(score + rng.logistic(size=ROWS) > 0, "yes", "no")
    bank["amount"] = score + rng.normal(size=ROWS)
    bank["visits"] = rng.poisson(np.exp(0.4 * score))
    bank["kind"] = np.array(["a", "b", "c"])[np.digitize(score, [-0.8, 0.8])]
    shop = pd.DataFrame({"card": ids, "visits": x[:, 2], "spend": x[:, 3]}).sample(frac=0.9, random_state=1)
    return bank, shop


def federation(frames: tuple[pd.DataFrame, pd.DataFrame], label: str) -> Federation:
    bank, shop = frames
    labels = {"bought", "amount", "visits", "kind"} - {label}
    return Federation(
        Party("bank", bank, id="client", label=label, drop=sorted(labels)),
        Party("shop", shop, id="card"),
        privacy=TEST_KEY,
    )


@pytest.mark.parametrize(
    ("estimator", "label", "metric"),
    [
        (LogisticRegression(), "bought", "auc"),
        (LinearRegression(), "amount", "r2"),
        (SoftmaxRegression(), "kind", "accuracy"),
        (PoissonRegressor(), "visits", "poisson_deviance"),
    ],
    ids=["logistic", "linear", "softmax", "poisson"],
)
def test_joint_is_nearly_pooled_and_better_than_alone(
    frames: tuple[pd.DataFrame, pd.DataFrame], estimator: object, label: str, metric: str
) -> None:
    model = federation(frames, label).fit(estimator, seed=5)
    evaluation = model.evaluate()
    joint, alone, pooled = (evaluation.to_frame()[name][metric] for name in ("joint", "active_only", "pooled"))
    # With one passive party logistic runs the quadratic protocol, which only comes near; the others reach the optimum.
    assert joint == pytest.approx(pooled, abs=0.01 if label == "bought" else 1e-3)
    assert (joint < alone) if metric == "poisson_deviance" else (joint > alone)
    assert model.n_iter_ == len(model.loss_curve_) - 1 > 0
    assert set(model.coef_) == {"bank", "shop"}
    assert list(model.coef_["shop"].index) == ["visits", "spend"]
    outputs = 3 if label == "kind" else 1
    assert model.coef_["shop"].shape == (2, outputs)
    assert model.intercept_.shape == (outputs,)
    assert model.classes_ == {"bought": ["no", "yes"], "kind": ["a", "b", "c"]}.get(label, [])


def test_csv_and_dataframe_give_the_same_model(frames: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path) -> None:
    bank, shop = frames
    shop.to_csv(tmp_path / "shop.csv", index=False)
    in_memory = federation(frames, "bought").fit(LogisticRegression(), baselines=False)
    on_disk = Federation(
        Party("bank", bank, id="client", label="bought", drop=["amount", "kind", "visits"]),
        Party("shop", tmp_path / "shop.csv", id="card"),
        privacy=TEST_KEY,
    ).fit(LogisticRegression(), baselines=False)
    pd.testing.assert_frame_equal(in_memory.coef_["shop"], on_disk.coef_["shop"])
    assert in_memory.evaluate().pooled is None


def test_out_keeps_the_run(frames: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    model = federation(frames, "bought").fit(LogisticRegression(), out=out, test_fraction=0.2)
    assert (out / "report.json").exists()
    assert model.test_scores_ is not None
    assert model.test_scores_["client"].str.len().eq(5).all()  # leading zeros are kept
    with pytest.raises(ConfigError, match="holds a run"):
        federation(frames, "bought").fit(LogisticRegression(), out=out)
    federation(frames, "bought").fit(LogisticRegression(), out=out, overwrite=True, baselines=False)


def test_no_test_rows_no_metrics(frames: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    model = federation(frames, "bought").fit(LogisticRegression(), test_fraction=0)
    with pytest.raises(ConfigError, match="test_fraction"):
        model.evaluate()


def test_estimators_follow_scikit_learn() -> None:
    estimator = LogisticRegression(l2=0.5, newton_steps=1)
    assert clone(estimator).get_params() == estimator.get_params()
    assert repr(estimator) == "LogisticRegression(l2=0.5, newton_steps=1)"
    assert estimator.set_params(l2=0.1).l2 == 0.1
    with pytest.raises(ValueError, match="Invalid parameter"):
        estimator.set_params(C=1)


CHECKS = [
    check_estimator_cloneable,
    check_estimator_repr,
    check_get_params_invariance,
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    check_set_params,
]


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_scikit_learns_checks_that_need_no_data_pass(kind: type[Estimator]) -> None:
    for check in CHECKS:
        check(kind.__name__, kind())
    assert kind.__name__ in kind()._repr_html_()


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_scikit_learn_knows_the_kind_of_an_estimator(kind: type[Estimator]) -> None:
    classifies = kind in (LogisticRegression, SoftmaxRegression, GradientBoostingClassifier, SplitClassifier)
    assert (is_classifier(kind()), is_regressor(kind())) == (classifies, not classifies)


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("name", ["predict", "predict_proba", "evaluate", "save", "report", "coef_", "classes_"])
def test_an_estimator_is_never_fitted(kind: type[Estimator], name: str) -> None:
    with pytest.raises(NotFittedError, match=f"{kind.__name__} has no '{name}': .* the JointModel that Federation.fit"):
        getattr(kind(), name)
    assert not hasattr(kind(), name)
    with pytest.raises(AttributeError, match="has no attribute 'depth'"):
        kind().depth  # noqa: B018


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (LogisticRegression(l2="little"), "l2 in .training. of the federation, got 'little', expected a number"),
        (
            LogisticRegression(max_iter=2.5),
            "max_iter in .training. of the federation, got 2.5, expected a whole number",
        ),
        (LogisticRegression(fit_intercept="yes"), "fit_intercept in .training. of the federation, got 'yes'"),
        (LogisticRegression(curvature="steep"), "curvature in .training. of the federation, got 'steep'"),
        (GradientBoostingClassifier(max_depth=None), "max_depth in .training. of the federation, got None"),
        (SplitClassifier(units=0), "units in .training. of the federation, got 0"),
        (LogisticRegression, r"estimator, got the class LogisticRegression, expected LogisticRegression\(\)"),
        (
            Ridge(),
            "estimator, got sklearn's Ridge, expected one of vfl's: LogisticRegression, LinearRegression, Poisso",
        ),
    ],
    ids=["number", "whole", "boolean", "choice", "none", "width", "class", "scikit-learns"],
)
def test_wrong_parameters_are_named(frames: tuple[pd.DataFrame, pd.DataFrame], estimator: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        federation(frames, "bought").fit(estimator)
    assert "\n" not in str(error.value)


def test_numpys_numbers_are_numbers(frames: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    odd: Any = {"l2": np.float32(0.5), "max_iter": np.int64(7), "fit_intercept": np.bool_(False)}
    joined = federation(frames, "bought")
    joined.privacy["key_bits"] = np.int64(1024)
    job = scenario_of(joined, LogisticRegression(**odd), test_fraction=np.float64(0.25)).job
    assert (job.training.l2, job.training.max_iter, job.training.fit_intercept) == (0.5, 7, False)
    assert (job.privacy.key_bits, job.split.test_fraction) == (1024, 0.25)
    bank, shop = frames
    party = Party("bank", bank, id="client", label="bought", features=bank.columns[1:3])
    assert scenario_of(Federation(party, Party("shop", shop, id="card")), LogisticRegression()).parties[0].features == (
        "income",
        "age",
    )


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(l2=0.5, newton_steps=2, curvature="row"),
        SoftmaxRegression(max_iter=3),
        LinearRegression(fit_intercept=False),
        PoissonRegressor(tol=1e-3),
        GradientBoostingClassifier(max_depth=3, subsample=0.5),
        GradientBoostingRegressor(gamma=0.5),
        GradientBoostingRegressor(objective="poisson"),
        SplitClassifier(hidden=(8,), epochs=3, dropout=0.5),
        SplitRegressor(units=4),
        SplitRegressor(objective="poisson"),
    ],
    ids=[
        "logistic",
        "softmax",
        "linear",
        "poisson",
        "classifier",
        "regressor",
        "counts",
        "network",
        "network-regressor",
        "network-counts",
    ],
)
def test_a_job_tells_its_estimator(frames: tuple[pd.DataFrame, pd.DataFrame], estimator: Any) -> None:
    labels = {"SoftmaxRegression": "kind", "LinearRegression": "amount", "PoissonRegressor": "visits"}
    label = labels.get(type(estimator).__name__, "visits" if is_regressor(estimator) else "bought")
    again = estimator_of(scenario_of(federation(frames, label), estimator).job)
    assert type(again) is type(estimator)
    assert again.get_params() == estimator.get_params()


def scenario_of(joined: Federation, estimator: Any, **split: float) -> Scenario:
    """What the federation would run."""
    return prepare(joined, estimator, {"name": "trees", "seed": 1, "split": split})[0]


@pytest.mark.parametrize("kind", [GradientBoostingClassifier, GradientBoostingRegressor])
def test_estimators_of_trees_have_the_keys_and_defaults_of_the_section(kind: type[Trees]) -> None:
    own = {"objective": "squared_error"} if kind is GradientBoostingRegressor else {}
    expected = msgspec.structs.asdict(Boosting()) | own
    assert {name: given.default for name, given in inspect.signature(kind).parameters.items()} == expected
    assert kind().get_params() == expected


def test_estimators_of_trees_follow_scikit_learn() -> None:
    estimator = GradientBoostingRegressor(objective="poisson", max_depth=3)
    copied = clone(estimator)
    assert copied is not estimator
    assert copied.get_params() == estimator.get_params()
    assert repr(copied) == "GradientBoostingRegressor(max_depth=3, objective='poisson')"
    assert estimator.set_params(gamma=0.5).gamma == 0.5
    assert estimator != copied
    assert len({estimator, copied}) == 2
    with pytest.raises(ValueError, match="Invalid parameter"):
        GradientBoostingClassifier().set_params(objective="poisson")
    with pytest.raises(TypeError):
        GradientBoostingClassifier(3)


@pytest.mark.parametrize(
    ("estimator", "label", "task"),
    [
        (GradientBoostingClassifier(max_depth=3), "bought", "binary"),
        (GradientBoostingClassifier(max_depth=3), "kind", "multiclass"),
        (GradientBoostingClassifier(max_depth=3, multi_output=False, max_cat_to_onehot=4), "kind", "multiclass"),
        (GradientBoostingRegressor(max_depth=3), "amount", "regression"),
        (GradientBoostingRegressor(max_depth=3, objective="poisson"), "visits", "count"),
    ],
)
def test_trees_make_a_scenario(
    frames: tuple[pd.DataFrame, pd.DataFrame], estimator: Any, label: str, task: str
) -> None:
    job = scenario_of(federation(frames, label), estimator, test_fraction=0.2, validation_fraction=0.1).job
    assert (job.model, job.task, job.name, job.seed) == ("boosting", task, "trees", 1)
    assert (job.split.test_fraction, job.split.validation_fraction) == (0.2, 0.1)
    assert {key: getattr(job.boosting, key) for key in Boosting.__struct_fields__} == {
        key: value for key, value in estimator.get_params().items() if key != "objective"
    }


def test_two_spellings_of_a_number_are_one_class(frames: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    bank, shop = frames
    bank = bank.assign(bought=np.where(bank["bought"] == "yes", "1", "0"))
    bank.loc[:9, "bought"] = "1.0"
    joined = Federation(Party("bank", bank, id="client", label="bought"), Party("shop", shop, id="card"))
    assert scenario_of(joined, GradientBoostingClassifier()).job.task == "binary"


def test_parties_of_trees_keep_their_options(frames: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    bank, shop = frames
    options: dict[str, Any] = {"drop": ["amount", "kind", "visits"], "positive": "no"}
    party = Party("bank", bank, id="client", label="bought", monotone_constraints={"income": 1}, **options)
    built = scenario_of(Federation(party, Party("shop", shop, id="card")), GradientBoostingClassifier())
    assert built.parties[0].monotone_constraints == {"income": 1}
    assert built.parties[0].positive == "no"


@pytest.mark.parametrize(
    ("estimator", "label", "words"),
    [
        (GradientBoostingClassifier(max_depth=0), "bought", r"max_depth in \[training\] of the federation, got 0"),
        (GradientBoostingClassifier(early_stopping_rounds=3), "bought", "validation part"),
        (GradientBoostingClassifier(multi_output=False), "bought", "multi_output"),
        (GradientBoostingClassifier(scale_pos_weight=2), "kind", "scale_pos_weight"),
        (GradientBoostingRegressor(objective="poison"), "visits", "objective, got 'poison', expected 'squared_error'"),
        (GradientBoostingRegressor(objective=["poisson"]), "visits", "objective, got .*, expected"),
    ],
)
def test_mistakes_of_trees_are_named(
    frames: tuple[pd.DataFrame, pd.DataFrame], estimator: Any, label: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        federation(frames, label).fit(estimator)


def test_a_validation_part_is_for_trees(frames: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    with pytest.raises(ConfigError, match="validation_fraction .* got 0.1 for model 'logistic', expected 0"):
        federation(frames, "bought").fit(LogisticRegression(), validation_fraction=0.1)


def test_mistakes_are_named(frames: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    bank, shop = frames
    good = Party("bank", bank, id="client", label="bought", drop=["amount", "kind", "visits"])
    with pytest.raises(ConfigError, match="no passive party"):
        Federation(good).fit(LogisticRegression())
    with pytest.raises(ConfigError, match="did you mean 'categorical'"):
        Federation(good, Party("shop", shop, id="card", catgorical=["visits"])).fit(LogisticRegression())
    with pytest.raises(DataError, match='"crad"'):
        Federation(good, Party("shop", shop, id="crad")).fit(LogisticRegression())
    with pytest.raises(ConfigError, match="l2"):
        Federation(good, Party("shop", shop, id="card")).fit(LogisticRegression(l2=-1))


def test_what_is_no_party_and_no_federation_is_named(frames: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    with pytest.raises(ConfigError, match="Federation, got pandas's DataFrame, expected parties such as Party"):
        Federation(*frames)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="federation, got str, expected a Federation of parties"):
        cross_validate(LogisticRegression(), "federation")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="estimator, got vfl's Federation, expected one of vfl's: Log"):
        cross_validate(federation(frames, "bought"), LogisticRegression())  # type: ignore[arg-type]


def test_repr_shows_no_data(frames: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    text = repr(federation(frames, "bought"))
    assert text == "Federation(Party('bank', active), Party('shop', passive))"


def test_public_names() -> None:
    for name in vfl.__all__:
        assert getattr(vfl, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Boosting'"):
        vfl.Boosting  # noqa: B018


def test_import_is_quick() -> None:
    """The command line must not pay for scikit-learn: it is imported when a model is fitted."""
    code = "import vfl, vfl.cli, sys; sys.exit('sklearn' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
