"""Split neural networks from Python: scikit-learn's manners, modules of one's own, and what a fitted model has."""

from __future__ import annotations

import copy
import inspect
import json
import runpy
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

from parties.errors import ConfigError, DataError, PolicyError
from tests.runs.conftest import Command, vfl  # noqa: F401 - the fixture
from vfl import (
    Federation,
    GridSearch,
    JointModel,
    LogisticRegression,
    Party,
    SplitClassifier,
    SplitRegressor,
    cross_validate,
    load_model,
)
from vfl.federation import prepare
from vfl.job import Job, SplitNN
from vfl.kept_model import network_of

ROWS = 300
UNITS = 3
QUICK: dict[str, Any] = {"units": UNITS, "epochs": 2, "batch_size": 64, "learning_rate": 0.01}
SPLIT = QUICK | {"mode": "split"}


def frames() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """A bank, with labels for every task, and two shops of two columns each."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(ROWS, 6))
    ids = [f"{i:05d}" for i in range(ROWS)]
    score = x @ [1.0, -1.0, 0.7, 0.5, -0.5, 1.0]
    bank = pd.DataFrame({"client": ids, "income": x[:, 0], "age": x[:, 1]})
    bank["bought"] = np.where(score > 0, "yes", "no")
    bank["amount"] = 500 + 100 * score
    bank["visits"] = rng.poisson(np.exp(0.3 * score))
    bank["kind"] = np.array(["a", "b", "c"])[np.digitize(score, [-0.8, 0.8])]
    shop = pd.DataFrame({"card": ids, "a": x[:, 2], "b": x[:, 3]}).sample(frac=0.9, random_state=1)
    mall = pd.DataFrame({"member": ids, "c": x[:, 4], "d": x[:, 5]}).sample(frac=0.95, random_state=2)
    return bank, shop, mall


def federation(label: str = "bought", *, consent: bool = False, features: list[str] | None = None) -> Federation:
    bank, shop, mall = frames()
    policy = {"policy": {"key_bits": 512, "embedding_gradients": True}} if consent else {}
    return Federation(
        Party("bank", bank, id="client", label=label, features=features or ["income", "age"], **policy),
        Party("shop", shop, id="card", **policy),
        Party("mall", mall, id="member", **policy),
        privacy={"key_bits": 512, "insecure_test_mode": True},
    )


def data() -> dict[str, pd.DataFrame]:
    return dict(zip(("bank", "shop", "mall"), frames(), strict=True))


def own_top(outputs: int = 1) -> torch.nn.Module:
    """Layers that no job describes."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return torch.nn.Sequential(torch.nn.Softplus(), torch.nn.Dropout(0.1), torch.nn.Linear(UNITS, outputs))


def normed_top() -> torch.nn.Module:
    """Layers with buffers, one of them of whole numbers."""
    return torch.nn.Sequential(torch.nn.BatchNorm1d(UNITS), own_top())


def own_bottom(columns: int = 2) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        return torch.nn.Sequential(torch.nn.Linear(columns, 4), torch.nn.ELU(), torch.nn.Linear(4, UNITS))


def job_of(estimator: Any, label: str = "bought", *, consent: bool = False) -> Job:
    return prepare(federation(label, consent=consent), estimator, {"name": "nets", "seed": 1})[0].job


def assert_one_line(caught: pytest.ExceptionInfo[Exception]) -> None:
    assert "\n" not in str(caught.value)


def assert_test_scores_come_again(model: JointModel) -> None:
    """What it predicts of its own rows is what the run wrote of them, to the last bit."""
    scores = model.test_scores_
    assert scores is not None
    again = model.predictions().to_frame().loc[scores["client"]]
    for name in [name for name in scores if name.startswith("score")]:
        np.testing.assert_array_equal(again[name], scores[name])


@pytest.mark.parametrize("kind", [SplitClassifier, SplitRegressor])
def test_estimators_have_the_keys_and_defaults_of_the_section(kind: type) -> None:
    own = {"top": None, "bottoms": None} | ({"objective": "squared_error"} if kind is SplitRegressor else {})
    expected = msgspec.structs.asdict(SplitNN()) | own | {"aggregation_by_layer": None}
    assert {name: given.default for name, given in inspect.signature(kind).parameters.items()} == expected
    assert kind().get_params() == expected


def test_cloning_copies_modules() -> None:
    top, bottoms = own_top(), {"shop": own_bottom()}
    estimator = SplitClassifier(top=top, bottoms=bottoms, **SPLIT)
    assert estimator.get_params()["top"] is top
    copied = clone(estimator)
    assert copied.top is not top
    assert copied.bottoms["shop"] is not bottoms["shop"]
    assert [*copied.top.state_dict()] == [*top.state_dict()]
    for name, tensor in copied.top.state_dict().items():
        assert torch.equal(tensor, top.state_dict()[name])
    assert clone(copied).set_params(top=None).top is None
    assert copied.get_params(deep=True).keys() == SplitClassifier().get_params().keys()


@pytest.mark.parametrize(
    ("estimator", "label", "task"),
    [
        (SplitClassifier(hidden=[8]), "bought", "binary"),
        (SplitClassifier(top=own_top(3), units=UNITS), "kind", "multiclass"),
        (SplitRegressor(dropout=np.float64(0.5)), "amount", "regression"),
        (SplitRegressor(objective="poisson"), "visits", "count"),
    ],
    ids=["binary", "multiclass", "regression", "count"],
)
def test_networks_make_a_scenario(estimator: Any, label: str, task: str) -> None:
    job = job_of(estimator, label)
    assert (job.model, job.task) == ("splitnn", task)
    given = {key: value for key, value in estimator.get_params().items() if key in SplitNN.__struct_fields__}
    of_job = {"hidden": tuple(given["hidden"]), "aggregation_by_layer": {}}
    assert {key: getattr(job.splitnn, key) for key in given} == given | of_job


@pytest.fixture(scope="module")
def fitted() -> JointModel:
    """With a top of the user's own, and baselines."""
    return federation().fit(SplitClassifier(top=own_top(), **QUICK), seed=4)


def test_an_own_top_is_trained(fitted: JointModel) -> None:
    before, after = own_top(), fitted.network_
    assert isinstance(after, torch.nn.Sequential)
    assert str(after) == str(before)
    changed = [not torch.equal(a, b) for a, b in zip(after.parameters(), before.parameters(), strict=True)]
    assert all(changed)
    assert not after.training
    assert fitted.estimator.top is not None
    assert fitted.classes_ == ["no", "yes"]
    assert len(fitted.loss_curve_) == 1 + fitted.n_iter_ == 1 + QUICK["epochs"]


def test_a_users_module_stays_as_it_was() -> None:
    top, random = normed_top(), torch.get_rng_state()
    top.train(False)
    before = copy.deepcopy(top.state_dict())
    federation().fit(SplitClassifier(top=top, **QUICK), baselines=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in top.state_dict().items())
    assert not top.training
    assert torch.equal(torch.get_rng_state(), random)


def test_scores_of_the_run_come_again(fitted: JointModel) -> None:
    assert_test_scores_come_again(fitted)


def test_the_pooled_network_is_the_joint_one(fitted: JointModel) -> None:
    evaluation = fitted.evaluate()
    assert evaluation.metrics["log_loss"] == pytest.approx(evaluation.pooled["log_loss"], abs=1e-4)
    assert evaluation.active_only["log_loss"] != pytest.approx(evaluation.metrics["log_loss"], abs=1e-3)


def test_probabilities_and_metrics_of_new_rows(fitted: JointModel) -> None:
    probabilities = fitted.predict_proba(data())
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (fitted.predict(data()) == np.where(probabilities["yes"] >= 0.5, "yes", "no")).all()
    assert fitted.evaluate(data()).rows == len(probabilities)
    assert np.isfinite(fitted.decision_function(data())).all()


def test_what_networks_lack_is_said(fitted: JointModel) -> None:
    for name in ("coef_", "intercept_", "feature_importances_"):
        with pytest.raises(AttributeError, match=f"SplitClassifier has no {name}, expected"):
            getattr(fitted, name)
    linear = federation().fit(LogisticRegression(), baselines=False)
    with pytest.raises(AttributeError, match="LogisticRegression has no network_, expected a split neural network"):
        linear.network_  # noqa: B018


@pytest.fixture(scope="module")
def kept(fitted: JointModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted.save(tmp_path_factory.mktemp("models") / "run")


def test_a_kept_model_takes_its_modules_again(fitted: JointModel, kept: Path) -> None:
    stranger = own_top()
    for parameter in stranger.parameters():
        torch.nn.init.zeros_(parameter)
    model = load_model(kept, modules={"bank": stranger})
    pd.testing.assert_series_equal(model.predict(data()), fitted.predict(data()))
    np.testing.assert_array_equal(model.predictions(data()).scores, fitted.predictions(data()).scores)
    assert model.estimator.top is not None


def test_a_kept_model_without_its_modules_tells_what_it_needs(kept: Path) -> None:
    model = load_model(kept)
    assert model.evaluate().metrics["auc"] is not None
    for use in (lambda: model.predict(data()), lambda: model.network_):
        with pytest.raises(
            ConfigError, match=r"party 'bank' .* vfl.load_model\(RUN_DIR, modules={'bank': module}\)"
        ) as caught:
            use()
        assert_one_line(caught)


def test_the_command_line_says_that_it_cannot_build_modules(vfl: Command, kept: Path, tmp_path: Path) -> None:  # noqa: F811
    given = []
    for name, table in data().items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        given += ["--data", f"{name}={tmp_path / name}.csv"]
    for command in (["predict", kept, *given, "--out", tmp_path / "s.csv"], ["evaluate", kept, *given]):
        done = vfl(*command)
        assert done.code == 2
        assert "in Python: vfl.load_model(RUN_DIR, modules={'bank': module})" in done.error


@pytest.mark.parametrize(
    ("modules", "error", "words"),
    [
        ({"shop": own_bottom()}, ConfigError, "modules, got one for 'shop', expected one for .* 'bank'"),
        ({"nobody": own_top()}, ConfigError, "modules, got one for 'nobody'"),
        ({"bank": 7}, ConfigError, "top, got int, expected a torch.nn.Module"),
        ({"bank": torch.nn.Linear(UNITS, 1)}, DataError, "of party 'bank': .* top.* is (not among|missing)"),
        ({"bank": own_top(2)}, ConfigError, r"top, got \(2, 2\) .* expected a tensor of shape \(rows, 1\)"),
        ([own_top()], ConfigError, "modules, got list, expected a mapping of party to torch.nn.Module"),
    ],
    ids=["passive", "stranger", "number", "other-layers", "other-shape", "list"],
)
def test_other_modules_are_refused(kept: Path, modules: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        load_model(kept, modules=modules)
    assert_one_line(caught)


@pytest.mark.parametrize(
    ("estimator", "label"),
    [
        (SplitRegressor(hidden=(5,), **QUICK), "amount"),
        (SplitRegressor(hidden=(5,), objective="poisson", **QUICK), "visits"),
        (SplitClassifier(top=own_top(3), **QUICK), "kind"),
    ],
    ids=["numbers", "counts", "classes"],
)
def test_every_task_fits(estimator: Any, label: str) -> None:
    model = federation(label).fit(estimator, seed=2, validation_fraction=0.1)
    assert type(model.estimator) is type(estimator)
    evaluation = model.evaluate()
    for name, value in evaluation.metrics.items():
        assert value == pytest.approx(evaluation.pooled[name], rel=0.02, abs=0.02)
    assert_test_scores_come_again(model)
    assert model.network_[-1].out_features == (3 if label == "kind" else 1)


def test_own_bottoms_beside_those_of_the_job(tmp_path: Path) -> None:
    estimator = SplitClassifier(bottoms={"shop": own_bottom()}, bottom_hidden=(4,), hidden=(5,), **SPLIT)
    model = federation(consent=True).fit(estimator, seed=4, out=tmp_path / "run")
    assert model.evaluate().metrics["log_loss"] == pytest.approx(model.evaluate().pooled["log_loss"], abs=1e-5)
    assert_test_scores_come_again(model)
    assert json.loads((tmp_path / "run" / "mall" / "model.json").read_text())["layers"] == [2, 4, UNITS]
    again = load_model(tmp_path / "run", modules={"shop": own_bottom()})
    np.testing.assert_array_equal(again.predictions(data()).scores, model.predictions(data()).scores)
    assert again.estimator.top is None
    assert list(again.estimator.bottoms) == ["shop"]
    with pytest.raises(ConfigError, match="party 'shop' trained a torch module of its own"):
        load_model(tmp_path / "run").predict(data())


def test_a_bottom_may_have_no_weights_and_a_top_buffers(tmp_path: Path) -> None:
    bottom = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.ZeroPad1d((0, UNITS - 2)))
    estimator = SplitClassifier(bottoms={"shop": bottom, "mall": bottom}, top=normed_top(), **SPLIT)
    model = federation(consent=True).fit(estimator, seed=4, baselines=False, out=tmp_path / "run")
    assert_test_scores_come_again(model)
    again = load_model(tmp_path / "run", modules={"bank": normed_top(), "shop": bottom, "mall": bottom})
    np.testing.assert_array_equal(again.predictions(data()).scores, model.predictions(data()).scores)


class Broken(torch.nn.Module):
    """Ends with an error of several lines."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("nothing\nto see")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a class": (QUICK | {"top": Broken}, r"top, got the class Broken, expected Broken\(...\) that takes \(rows, 3\)"),
    "a function": (QUICK | {"top": torch.tanh}, r"top, got builtin_.*, expected a torch.nn.Module"),
    "an error": (QUICK | {"top": Broken()}, "top, got an error for .* units: RuntimeError: nothing$"),
    "two outputs": (QUICK | {"top": own_top(2)}, r"expected a tensor of shape \(rows, 1\)"),
    "other units": (QUICK | {"top": torch.nn.Linear(UNITS + 1, 1)}, "top, got an error for .* rows of 3 units"),
    "hidden too": (QUICK | {"top": own_top(), "hidden": (9,)}, r"hidden, got \(9,\) beside top"),
    "activation too": (QUICK | {"top": own_top(), "activation": "elu"}, "activation, got elu beside top|got 'elu'"),
    "dropout too": (QUICK | {"top": own_top(), "dropout": 0.5}, "dropout, got 0.5 beside top"),
    "another mode": (QUICK | {"bottoms": {"shop": own_bottom()}}, "bottoms, got modules in mode 'source-layer'"),
    "no mapping": (SPLIT | {"bottoms": own_bottom()}, "bottoms, got Sequential, expected a mapping of party"),
    "a stranger": (SPLIT | {"bottoms": {"bank": own_bottom()}}, "bottoms, got one for 'bank', .* 'shop', 'mall'"),
    "no module": (SPLIT | {"bottoms": {"shop": 3}}, r"bottoms\['shop'\], got int, .* that returns \(rows, 3\)"),
    "no name": (SPLIT | {"bottoms": {3: own_bottom()}}, "bottoms, got one for 3, expected them for"),
    "other columns": (SPLIT | {"bottoms": {"shop": own_bottom(5)}}, "bottom network of party 'shop': it does not take"),
    "other outputs": (
        SPLIT | {"bottoms": {"mall": torch.nn.Linear(2, 9)}},
        "'mall': got shape .* expected floats of shape .* .training.units outputs for each row",
    ),
    "bottom_hidden too": (
        SPLIT | {"bottoms": {"shop": own_bottom(), "mall": own_bottom()}, "bottom_hidden": (4,)},
        r"bottom_hidden, got \(4,\) beside bottoms",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_modules_are_refused_in_one_line(case: str) -> None:
    parameters, words = REFUSED[case]
    with pytest.raises(ConfigError, match=words) as caught:
        federation(consent=True).fit(SplitClassifier(**parameters), baselines=False)
    assert_one_line(caught)


def test_a_module_that_cannot_be_copied_is_refused() -> None:
    top = own_top()
    top.register_buffer("found", torch.zeros(1, requires_grad=True) * 2)
    with pytest.raises(ConfigError, match="top, got a module that cannot be copied") as caught:
        federation().fit(SplitClassifier(top=top, **QUICK))
    assert_one_line(caught)


@pytest.mark.parametrize("kind", ["lazy", "double"])
def test_a_top_may_find_its_widths_itself_and_be_of_another_precision(kind: str, tmp_path: Path) -> None:
    def make() -> torch.nn.Module:
        layers = torch.nn.Sequential(torch.nn.LazyLinear(4), torch.nn.Tanh(), torch.nn.LazyLinear(1))
        return layers if kind == "lazy" else own_top().double()

    model = federation().fit(SplitClassifier(top=make(), **QUICK), baselines=False, out=tmp_path / "run")
    assert_test_scores_come_again(model)
    again = load_model(tmp_path / "run", modules={"bank": make()})
    np.testing.assert_array_equal(again.predictions(data()).scores, model.predictions(data()).scores)
    assert next(again.network_.parameters()).dtype == (torch.float32 if kind == "lazy" else torch.float64)


def test_weights_of_another_shape_are_refused(fitted: JointModel, tmp_path: Path) -> None:
    bank = fitted.models["bank"]
    network = {name: array[:1] if name == "own.bias" else array for name, array in bank.shard.network.items()}
    with pytest.raises(DataError, match="model shard of party 'bank': .* own.bias is .* of shape .1,.") as caught:
        network_of(replace(bank, shard=replace(bank.shard, network=network)))
    assert_one_line(caught)


def test_parameters_that_other_layers_still_have_are_taken() -> None:
    estimator = SplitClassifier(top=own_top(), bottom_hidden=(4,), activation="elu", dropout=0.1, **SPLIT)
    model = federation(consent=True).fit(estimator, baselines=False)
    assert model.estimator.activation == "elu"


def test_mode_split_needs_every_partys_consent() -> None:
    with pytest.raises(PolicyError, match="embedding_gradients") as caught:
        federation().fit(SplitClassifier(hidden=(5,), **SPLIT), baselines=False)
    assert_one_line(caught)


def test_without_torch_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vfl.torch_parts.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"SplitClassifier needs torch, .* pip install 'vfl\[nn\]'") as caught:
        federation().fit(SplitClassifier(**QUICK))
    assert_one_line(caught)


def test_naming_the_estimators_does_not_load_torch() -> None:
    code = (
        "import sys, vfl; from sklearn.base import clone; clone(vfl.SplitRegressor(units=4)); vfl.Federation; "
        "vfl.GridSearch; vfl.load_model; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_folds_train_copies_of_an_own_module() -> None:
    top = own_top()
    before = copy.deepcopy(top.state_dict())
    result = cross_validate(SplitClassifier(top=top, **QUICK), federation(), cv=2, active_only=True)
    assert len(result.to_frame()) == 2
    assert result.to_frame()["auc"].notna().all()
    assert result.to_frame()["active_only_auc"].notna().all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in top.state_dict().items())


def test_a_search_tries_networks_and_modules() -> None:
    estimator = SplitClassifier(**QUICK)
    grid = [{"top": [own_top()]}, {"hidden": [(4,)], "epochs": [1, 2]}]
    search = GridSearch(estimator, grid, cv=2).fit(federation(), baselines=False)
    assert len(search.cv_results_["params"]) == 3
    assert search.best_model_.n_iter_ == search.best_estimator_.epochs
    assert (search.best_model_.estimator.top is None) == (search.best_estimator_.top is None)
    assert len(search.predict(data())) > 100


def test_the_example_in_scenarios_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(Path(__file__).parents[2] / "scenarios" / "splitnn_from_python.py"))["main"]
    key = {"key_bits": 512, "insecure_test_mode": True}
    monkeypatch.setitem(main.__globals__, "Federation", partial(Federation, privacy=key))
    monkeypatch.setitem(main.__globals__, "SplitClassifier", lambda **given: SplitClassifier(**given | {"epochs": 2}))
    with torch.random.fork_rng():
        main()
    out = capsys.readouterr().out
    assert "2 epochs, loss from 1.4" in out
    assert "1,140 weights" in out
    assert "763 of 812 vehicles scored again" in out
