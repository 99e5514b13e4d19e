"""Whole sessions of silos that train together: against pooled rows, against plain averaging, and what they leave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from parties.errors import ConfigError, DataError
from parties.link import COORDINATOR
from tests.interruptions import Kill
from tests.silos.hospitals import TASKS, Hospitals, make_hospitals
from vfl.baselines import fit_glm
from vfl.horizontal_part import SiloRows, fit_alone, fit_pooled
from vfl.local_models import InOnePlace, LocalGlm, LocalModel, agree_glm_scale, relative_weights
from vfl.local_network import LocalNetwork, agree_label_scale, make_local_network
from vfl.optim import Vector

EXACT = {"tol": 1e-20}
AVERAGING = {"rounds": 4, "learning_rate": 0.2, "batch_size": 10}


def local_models(run: Hospitals) -> list[LocalGlm | LocalNetwork]:
    """Every silo's model, made of its rows outside of the session."""
    rows = run.rows()
    classes = run.shards()[run.job.active].classes
    outputs = len(classes) if run.job.task == "multiclass" else 1
    y = np.concatenate([one.y[: one.n_train] for one in rows.values()])
    weighted = [one.weights[: one.n_train] for one in rows.values() if one.weights is not None]
    relative = relative_weights(np.concatenate(weighted), InOnePlace()) if weighted else None
    starts = np.cumsum([0, *(one.n_train for one in rows.values())])
    made: list[LocalGlm | LocalNetwork] = []
    for at, (name, one) in enumerate(rows.items()):
        X, own = one.X[: one.n_train], y[starts[at] : starts[at + 1]]
        mine = None if relative is None else relative[starts[at] : starts[at + 1]]
        if run.job.model == "splitnn":
            label = agree_label_scale(run.job, y, relative, InOnePlace())
            made.append(make_local_network(run.job, name, X, own, mine, label, outputs))
        else:
            scale = agree_glm_scale(run.job, y, relative, outputs, InOnePlace())
            made.append(LocalGlm(run.job, name, X, scale.to_targets(own), mine, scale))
    return made


def unfolded(run: Hospitals, model: LocalModel, weights: list[Vector]) -> list[Vector]:
    return model.scale.unfold(weights) if isinstance(model, LocalGlm) else weights


def average_plainly(run: Hospitals, counts: dict[str, list[float]]) -> list[Vector]:
    """Local epochs and weighted means, with every number in the clear; ``counts`` by the beginning of names."""
    models = local_models(run)
    weights = models[0].start()
    for number in range(1, run.job.averaging.rounds + 1):
        trained = [model.train(weights, number)[1] for model in models]
        for at, name in enumerate(models[0].names):
            shares = np.array(next(share for prefix, share in counts.items() if name.startswith(prefix)))
            shares = shares / shares.sum()
            weights[at] = sum(share * one[at] for share, one in zip(shares, trained, strict=True))
    return unfolded(run, models[0], weights)


def assert_weights(run: Hospitals, expected: list[Vector], tolerance: float = 1e-9) -> None:
    kept = run.weights
    assert len(kept) == len(expected)
    for array, known in zip(kept.values(), expected, strict=True):
        np.testing.assert_allclose(array, known, rtol=0, atol=tolerance * max(1.0, float(np.abs(known).max())))


class TestAddedGradients:
    @pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
    @pytest.mark.parametrize("model", TASKS)
    def test_of_linear_models_lead_to_the_pooled_optimum(self, model: str, weighted: bool, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path, model, weighted=weighted, l2=0.01, **EXACT).play()
        rows = list(run.rows().values())
        y = np.concatenate([one.y[: one.n_train] for one in rows])
        weights = np.concatenate([np.zeros(0) if one.weights is None else one.weights[: one.n_train] for one in rows])
        X = np.vstack([one.X[: one.n_train] for one in rows])
        coef, intercept = fit_glm(model, X, y, 0.01, True, weights if weighted else None, 3)
        bias = run.weights["intercept"]
        if model == "softmax":
            bias = bias - bias.mean()
        np.testing.assert_allclose(run.weights["coefficients"], np.atleast_2d(coef).T, rtol=0, atol=1e-6)
        np.testing.assert_allclose(bias, np.atleast_1d(intercept), rtol=0, atol=1e-6)
        assert run.ended[run.job.active].converged

    @pytest.mark.parametrize("sizes", [(90, 75), (33, 50, 82), (20, 30, 25, 50, 40)], ids=["two", "three", "five"])
    def test_do_not_hang_on_how_many_silos_there_are(self, sizes: tuple[int, ...], tmp_path: Path) -> None:
        """But for which rows are held out, so that none are."""
        run = make_hospitals(tmp_path, "linear", sizes=sizes, test_fraction=0.0, **EXACT).play()
        rows = list(run.rows().values())
        X, y = np.vstack([one.X for one in rows]), np.concatenate([one.y for one in rows])
        coef, intercept = fit_glm("linear", X, y, 0.001)
        np.testing.assert_allclose(run.weights["coefficients"][:, 0], coef, rtol=0, atol=1e-7)
        np.testing.assert_allclose(run.weights["intercept"], intercept, rtol=1e-9)

    def test_without_an_intercept(self, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path, "linear", fit_intercept=False, l2=0.01, **EXACT).play()
        rows = list(run.rows().values())
        X = np.vstack([one.X[: one.n_train] for one in rows])
        y = np.concatenate([one.y[: one.n_train] for one in rows])
        coef, _ = fit_glm("linear", X, y, 0.01, False)
        np.testing.assert_allclose(run.weights["coefficients"][:, 0], coef, rtol=0, atol=1e-6)
        assert set(run.weights) == {"coefficients"}

    @pytest.mark.parametrize("optimizer", ["sgd", "adam"])
    @pytest.mark.parametrize("task", TASKS.values())
    def test_of_networks_are_the_pooled_steps(self, task: str, optimizer: str, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path, "splitnn", task=task, optimizer=optimizer, learning_rate=0.05).play()
        models = [model for model in local_models(run) if isinstance(model, LocalNetwork)]
        whole = make_local_network(
            run.job,
            "all",
            np.vstack([model.X for model in models]),
            np.concatenate([model.y for model in models]),
            None,
            models[0].network.label,
            models[0].network.outputs,
        )
        assert_weights(run, whole.fit(2))


class TestAveraging:
    @pytest.mark.parametrize("model", TASKS)
    def test_by_rows_of_linear_models(self, model: str, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path, model, aggregation="fedavg", local_epochs=2, proximal=0.1, **AVERAGING).play()
        rows = [float(one.n_train) for one in run.rows().values()]
        assert rows == [32, 56, 44]
        assert_weights(run, average_plainly(run, {"": rows}))

    @pytest.mark.parametrize("task", TASKS.values())
    def test_by_rows_of_networks(self, task: str, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path, "splitnn", task=task, aggregation="fedavg", rounds=3, dropout=0.2).play()
        assert_weights(run, average_plainly(run, {"": [32, 56, 44]}))

    def test_each_silo_the_same(self, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path, aggregation="simple", **AVERAGING).play()
        assert_weights(run, average_plainly(run, {"": [1, 1, 1]}))

    def test_by_declared_weights(self, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path, aggregation="weighted", **AVERAGING)
        declared = dict(zip(run.specs, [1.0, 5.0, 0.5], strict=True))
        run.specs = {
            name: type(spec)(
                **{key: getattr(spec, key) for key in spec.__struct_fields__} | {"silo_weight": declared[name]}
            )
            for name, spec in run.specs.items()
        }
        run.play()
        assert_weights(run, average_plainly(run, {"": [1.0, 5.0, 0.5]}))

    def test_by_layer(self, tmp_path: Path) -> None:
        run = make_hospitals(
            tmp_path,
            "splitnn",
            task="binary",
            aggregation="fedavg",
            rounds=2,
            aggregation_by_layer={"own": "simple"},
        ).play()
        assert_weights(run, average_plainly(run, {"own": [1, 1, 1], "top": [32, 56, 44]}))

    def test_with_sample_weights_the_rows_count_by_them(self, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path, aggregation="fedavg", weighted=True, **AVERAGING).play()
        assert_weights(run, average_plainly(run, {"": [model.weight for model in local_models(run)]}))


class TestWhatIsLeft:
    def test_every_silo_has_the_same_model_and_its_own_rows(self, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path, "softmax").play()
        shards = run.shards()
        first = shards[run.job.active]
        for name, shard in shards.items():
            assert shard.preprocessor == first.preprocessor and shard.classes == ("a", "b", "c")
            assert all(np.array_equal(shard.weights[key], first.weights[key]) for key in first.weights)
            ids = pd.read_csv(run.folder / name / "ids.csv")
            assert list(ids.columns) == ["row", "part"]
            assert sorted(ids["row"]) == list(range(1, run.tables[name].n_rows + 1))
            assert (ids["part"] == "test").sum() == len(run.scores(name))

    def test_ids_stay_where_there_are_any(self, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path, ids=True).play()
        ids = pd.read_csv(run.folder / "clinics.s1" / "ids.csv")
        assert set(ids["patient"]) == {f"clinics.s1-{number}" for number in range(70)}
        assert list(run.scores("clinics.s1").columns) == ["patient", "y", "score"]

    def test_test_scores_are_those_of_the_kept_model(self, tmp_path: Path) -> None:
        for model, task in (("poisson", None), ("splitnn", "regression")):
            run = make_hospitals(tmp_path / model, model, task=task).play()
            name, rows = "clinics.s2", run.rows()["clinics.s2"]
            shard = run.shards()[name]
            X = rows.X[rows.n_train :]
            if model == "poisson":
                expected = np.exp(X @ shard.coef[:, 0] + shard.intercept[0])
            else:
                from vfl.local_network import predict_with

                assert shard.label is not None
                expected = predict_with(run.job, X.shape[1], 1, shard.weights, shard.label, X)
            np.testing.assert_allclose(run.scores(name)["score"], expected, rtol=1e-9)
            np.testing.assert_allclose(run.scores(name)["y"], rows.y[rows.n_train :], rtol=1e-12)

    def test_results_say_what_everybody_knows(self, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path).play()
        one, judge = run.ended["clinics.s1"], run.ended[COORDINATOR]
        assert (one.n_train, one.n_test, judge.n_train) == (132, 33, None)
        assert one.joint is not None and one.active_only is None and judge.joint is None
        assert one.losses == judge.losses and one.losses[-1] < one.losses[0]
        assert (one.key_holder, one.protocol, one.dp_epsilon) == ("none", "none", None)

    def test_losses_of_numbers_are_told_in_their_unit(self, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path, "linear", **EXACT).play()
        rows = list(run.rows().values())
        y = np.concatenate([one.y[: one.n_train] for one in rows])
        X = np.vstack([one.X[: one.n_train] for one in rows])
        fitted = X @ run.weights["coefficients"][:, 0] + run.weights["intercept"]
        penalty = 0.001 * (run.weights["coefficients"] ** 2).sum() / 2
        assert run.ended["clinics.s0"].losses[0] == pytest.approx(y.var() / 2)
        assert run.ended["clinics.s0"].losses[-1] == pytest.approx(((fitted - y) ** 2).mean() / 2 + penalty)

    def test_its_own_model_stands_beside_the_joint_one(self, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path)
        run.baseline = True
        run.play()
        assert run.ended["clinics.s0"].active_only is not None
        assert run.ended["clinics.s0"].active_only != run.ended["clinics.s0"].joint

    def test_without_test_rows_there_are_no_metrics(self, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path, test_fraction=0.0).play()
        assert run.ended["clinics.s0"].joint is None
        assert any("no test rows" in line for line in run.ended["clinics.s0"].warnings)
        assert not (tmp_path / "clinics.s0" / "test_scores.csv").exists()

    def test_a_silo_may_lack_a_class(self, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path, "softmax")
        table = run.tables["clinics.s0"]
        run.tables["clinics.s0"] = replace(table, labels=["a"] * table.n_rows)
        run.baseline = True
        run.play()
        scores = run.scores("clinics.s0")
        assert list(scores.columns) == ["row", "y", "score_a", "score_b", "score_c"]
        alone = run.ended["clinics.s0"].active_only
        assert alone is not None and alone["accuracy"] == 1.0


class TestPrivacy:
    @pytest.mark.parametrize(
        ("model", "lines"),
        [
            ("logistic", {"rounds": 5, "batch_size": 8}),
            ("splitnn", {"rounds": 3, "batch_size": 8}),
        ],
        ids=["linear", "network"],
    )
    @pytest.mark.parametrize("dp", ["central", "local"])
    def test_added_gradients(self, model: str, lines: dict[str, Any], dp: str, tmp_path: Path) -> None:
        runs = [
            make_hospitals(
                tmp_path / str(number), model, task="binary", privacy={"dp": dp, "dp_noise": 1.0}, **lines
            ).play()
            for number in range(2)
        ]
        one = runs[0].ended["clinics.s0"]
        assert one.rounds == lines["rounds"] and one.losses == []
        assert one.dp_epsilon == runs[0].ended["clinics.s2"].dp_epsilon  # one rate for all
        assert one.dp_epsilon is not None and 0.1 < one.dp_epsilon < 20
        arrays = [list(run.weights.values())[0] for run in runs]
        assert not np.isclose(arrays[0], arrays[1]).all()

    def test_local_epochs_cost_every_silo_its_own(self, tmp_path: Path) -> None:
        run = make_hospitals(
            tmp_path,
            aggregation="fedavg",
            rounds=3,
            batch_size=8,
            privacy={"dp": "local", "dp_epsilon": 6.0},
        ).play()
        spent = [run.ended[name].dp_epsilon for name in run.specs]
        assert all(one is not None and 5.95 < one <= 6.0 for one in spent) and len(set(spent)) == 3

    def test_with_hardly_any_noise_it_is_gradient_descent(self, tmp_path: Path) -> None:
        privacy = {"dp": "central", "dp_noise": 1e-6, "dp_clip": 1e4}
        run = make_hospitals(tmp_path, rounds=60, learning_rate=1.0, batch_size=64, l2=0.1, privacy=privacy).play()
        exact = make_hospitals(tmp_path / "exact", l2=0.1).play()
        np.testing.assert_allclose(run.weights["coefficients"], exact.weights["coefficients"], atol=0.01)


class TestInterrupted:
    @pytest.mark.parametrize(
        ("model", "lines"),
        [
            ("logistic", {"max_iter": 6}),
            ("softmax", {"aggregation": "fedavg", "rounds": 4}),
            ("splitnn", {}),
            ("splitnn", {"aggregation": "simple", "rounds": 4, "dropout": 0.3}),
        ],
        ids=["gradients", "averages", "network", "network averages"],
    )
    def test_a_run_that_goes_on_ends_as_if_nothing_had_been(
        self, model: str, lines: dict[str, Any], tmp_path: Path
    ) -> None:
        task = "binary" if model == "splitnn" else None
        known = make_hospitals(tmp_path / "whole", model, task=task, **lines).play()
        run = make_hospitals(tmp_path / "killed", model, task=task, **lines)
        kills = [Kill("clinics.s1", "saved", 2), Kill(COORDINATOR, "save", 1), Kill("clinics.s2", "send", 12)]
        story = run.play_through(tmp_path / "checkpoints", *kills)
        assert story.kills == 3 and max(story.resumed) > 1
        assert all(np.array_equal(known.weights[name], run.weights[name]) for name in known.weights)
        assert run.ended["clinics.s0"].losses == known.ended["clinics.s0"].losses

    def test_noise_is_sent_again_as_it_was(self, tmp_path: Path) -> None:
        """A silo that dies behind its answer answers the very same, under other masks."""
        privacy = {"dp": "central", "dp_noise": 1.0}
        lines: dict[str, Any] = {"rounds": 4, "batch_size": 8}
        run = make_hospitals(tmp_path / "run", privacy=privacy, **lines)
        run.play_through(tmp_path / "checkpoints", Kill("clinics.s1", "saved", 2))
        once = make_hospitals(tmp_path / "again", privacy=privacy, **lines)
        for name in once.specs:  # the secrets of the first run
            source = tmp_path / "checkpoints" / name / "once silo noise 1.ckpt"
            target = tmp_path / "other" / name / source.name
            target.parent.mkdir(parents=True)
            target.write_bytes(source.read_bytes())
        once.play_through(tmp_path / "other")
        assert all(np.array_equal(once.weights[name], run.weights[name]) for name in run.weights)


class TestOwnModules:
    def test_the_users_layers_are_trained_by_all(self, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path, "splitnn", task="binary", aggregation="fedavg", rounds=2)
        module = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(4, 1))
        run.modules = dict.fromkeys(run.specs, module)
        run.play()
        assert list(run.weights) == ["own.weight", "own.bias", "top.1.weight", "top.1.bias"]
        assert run.shards()["clinics.s1"].own_module
        assert not np.allclose(run.weights["top.1.weight"], module[1].weight.detach().numpy())

    def test_buffers_end_the_run(self, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path, "splitnn", task="binary")
        run.modules = dict.fromkeys(run.specs, torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)))
        with pytest.raises(ConfigError, match="buffers"):
            run.play()


class TestBadData:
    def test_no_training_row_is_told(self, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path, sizes=(40, 1), test_fraction=0.9)
        with pytest.raises(DataError, match="leave no training row"):
            run.play()

    def test_labels_that_no_network_learns_from(self, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path, "splitnn", task="regression")
        run.tables = {name: replace(table, labels=["1.5"] * table.n_rows) for name, table in run.tables.items()}
        with pytest.raises(DataError, match="all training rows are the same"):
            run.play()

    def test_a_training_that_diverges(self, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path, "linear", aggregation="fedavg", learning_rate=50.0, rounds=20, batch_size=4)
        with pytest.raises(DataError, match="training diverged in round 1"):
            run.play()


class TestBeside:
    @pytest.mark.parametrize("model", [*TASKS, "splitnn"])
    def test_pooled_rows_are_those_of_all_silos(self, model: str, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path, model, task="binary", **({} if model == "splitnn" else EXACT)).play()
        rows = run.rows()
        classes = run.shards()[run.job.active].classes
        predict = fit_pooled(run.job, list(rows.values()), classes)
        for name, one in rows.items():
            scores = run.scores(name).filter(like="score").to_numpy()
            pooled = predict(one.X[one.n_train :]).reshape(scores.shape)
            np.testing.assert_allclose(scores, pooled, rtol=1e-5, atol=1e-7)

    def test_alone_is_another_model(self, tmp_path: Path) -> None:
        run = make_hospitals(tmp_path).play()
        rows = run.rows()["clinics.s0"]
        alone = fit_alone(run.job, rows, ["0", "1"])(rows.X)
        coef, intercept = fit_glm("logistic", rows.X[: rows.n_train], rows.y[: rows.n_train], 0.001)
        np.testing.assert_allclose(alone, 1 / (1 + np.exp(-(rows.X @ coef + intercept))), rtol=1e-9)


@pytest.mark.parametrize(
    ("model", "task"), [(model, None) for model in TASKS] + [("splitnn", t) for t in TASKS.values()]
)
def test_a_silo_whose_labels_are_all_the_same_says_so_of_everybody(
    model: str, task: str | None, tmp_path: Path
) -> None:
    run = make_hospitals(tmp_path, model, task=task)
    X = np.random.default_rng(0).normal(size=(9, 2))
    coded = run.job.task == "multiclass"
    rows = SiloRows(X, np.full(9, 2) if coded else np.ones(9), np.zeros(9), 9)
    classes = {"binary": ("0", "1"), "multiclass": ("a", "b", "c")}.get(run.job.task, ())
    found = fit_alone(run.job, rows, classes)(X)
    np.testing.assert_array_equal(found, np.tile([0.0, 0.0, 1.0], (9, 1)) if coded else np.ones(9))


def test_shards_are_whole(tmp_path: Path) -> None:
    run = make_hospitals(tmp_path, "linear").play()
    kept = json.loads((tmp_path / "clinics.s0" / "run.json").read_text())
    assert kept["columns"] == dict.fromkeys(run.specs, 6) and kept["key_holder"] is None and kept["alignment"] is None
