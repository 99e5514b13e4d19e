"""Boosted trees from a scenario: what a run leaves behind, who reads which names, guards, and other ways to run it."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from parties.errors import ConfigError
from parties.wire import Message
from tests.runs.companies import Companies, make_boosted, make_companies, run_vfl
from tests.runs.conftest import Command
from tests.runs.test_privacy import leakage
from tests.runs.test_report import BASELINES, METRICS, REPORT, TIME, check_shape, recompute
from vfl import Federation, GradientBoostingClassifier, GradientBoostingRegressor, Party
from vfl.tree_shard import load_tree_shard

MODELS = {"binary": "logistic", "multiclass": "softmax", "regression": "linear", "count": "poisson"}
WOULD = "guard: between companies this would be refused because "


@dataclass
class Run:
    task: str
    companies: Companies
    out: Path
    report: dict[str, object]
    options: dict[str, object]

    @property
    def scores(self) -> pd.DataFrame:
        return pd.read_csv(self.out / "bank" / "test_scores.csv", dtype=str, keep_default_na=False)

    @property
    def ledger(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.out / "ledger.jsonl").read_text().splitlines()]


CASES: dict[str, tuple[str, dict[str, object]]] = {
    "binary, mixed columns, weights": ("binary", {"messy": True, "weights": True}),
    "binary, label alone, early stopping": (
        "binary",
        {
            "label_only": True,
            "split": {"test_fraction": 0.3, "validation_fraction": 0.2},
            "training": {"early_stopping_rounds": 2, "n_estimators": 12, "learning_rate": 0.9},
        },
    ),
    "binary, one passive party, sampled": (
        "binary",
        {"passive": 1, "training": {"subsample": 0.7, "colsample_bytree": 0.7, "first_tree_active_only": True}},
    ),
    "multiclass, text labels": ("multiclass", {"classes": ("north", "south", "zero")}),
    "multiclass, one tree per class": ("multiclass", {"passive": 1, "training": {"multi_output": False}}),
    "regression, sorted categories": (
        "regression",
        {"messy": True, "passive": 1, "composite": True, "training": {"max_cat_to_onehot": 2}},
    ),
    "count, label alone": ("count", {"label_only": True, "training": {"max_depth": 2}}),
    "binary, GOSS, limits": (
        "binary",
        {"training": {"top_rate": 0.3, "other_rate": 0.3, "min_node_rows": 40, "min_bin_gap": 5}},
    ),
}


@pytest.fixture(params=CASES)
def run(request: pytest.FixtureRequest, vfl: Command, tmp_path: Path) -> Run:
    task, options = CASES[request.param]
    companies = renamed(make_boosted(tmp_path / "scenario", task, rows=240, seed=7, **options))
    out = tmp_path / "out"
    said = vfl("run", companies.write(), "--out", out, "--in-process", "--json")
    assert said.code == 0, said.stderr
    assert said.stdout == (out / "report.json").read_text()
    return Run(task, companies, out, json.loads(said.stdout, parse_constant=pytest.fail), options)


def renamed(companies: Companies) -> Companies:
    """Passive columns with names of their own, to look for; constant ones are left out of the files."""
    for name, party in companies.parties.items():
        table = companies.tables[name].drop(columns="always", errors="ignore")
        if party["role"] == "passive":
            own = [party["id"]] if isinstance(party["id"], str) else party["id"]
            table = table.rename(columns={c: f"zq {name} {c}" for c in table if c not in own})
        companies.tables[name] = table
    return companies


def test_a_run_of_trees_keeps_the_contract(run: Run) -> None:
    """One run, looked at from every side."""
    check_report(run)
    check_importance(run)
    check_names(run)
    check_ids(run)
    check_scores(run)
    check_ledger(run)


def check_report(run: Run) -> None:
    report = run.report
    validation = bool(run.options.get("split"))
    training = REPORT["training"] | ({"validation_loss": [float]} if validation else {})
    importance = [{"party": str, "feature": str, "gain": float, "cover": float, "count": int}]
    rows = {"train": int, "test": int} | ({"validation": int} if validation else {})
    shape = REPORT | {"rows": rows, "training": training, "feature_importance": importance} | BASELINES | TIME
    check_shape(report, shape)
    assert (report["model"], report["task"]) == ("boosting", run.task)
    assert report["training"]["key_holder"] == "active"
    assert report["training"]["converged"] is True
    assert len(report["training"]["loss"]) == report["training"]["rounds"] + 1
    assert report["training"]["loss"][-1] < report["training"]["loss"][0]
    metrics = report["metrics"]
    assert list(metrics) == ["joint", "active_only", "pooled"]
    assert metrics["joint"] == metrics["pooled"]  # to the last digit
    assert report["confidence"]["joint"] == report["confidence"]["pooled"]
    assert (report["comparison"]["pooled"]["difference"], report["comparison"]["pooled"]["p_value"]) == (0, 1)
    assert all(list(figures) == METRICS[MODELS[run.task]] for figures in metrics.values())
    if validation:
        losses = report["training"]["validation_loss"]
        assert len(losses) == report["training"]["rounds"] + 1 < 13
        assert losses[-1] == min(losses[1:])
        assert any("stopped early after" in line for line in report["warnings"])


def check_importance(run: Run) -> None:
    lines = run.report["feature_importance"]
    names = {
        name: [c for c in table if c.startswith(("x", "farbe", "holes"))]
        for name, table in run.companies.tables.items()
    }
    assert {line["feature"] for line in lines if line["party"] == "bank"} == set(names["bank"])
    trees = load_tree_shard(run.out / "bank").trees
    assert sum(line["count"] for line in lines) == sum(int((tree.owner >= 0).sum()) for tree in trees)
    assert sum(line["gain"] for line in lines) == pytest.approx(sum(float(tree.gain.sum()) for tree in trees), rel=1e-6)
    for name, party in run.companies.parties.items():
        if party["role"] == "active":
            continue
        own = load_tree_shard(run.out / name)
        theirs = [line for line in lines if line["party"] == name]
        count = len(own.binning.features)
        assert {line["feature"] for line in theirs} == {f"feature {number}" for number in range(1, count + 1)}
        by_number = {line["feature"]: line for line in theirs}
        for number, line in enumerate(own.importance, 1):
            assert line.feature == own.binning.features[number - 1].name and line.feature.startswith("zq ")
            assert by_number[f"feature {number}"] == {
                "party": name, "feature": f"feature {number}", "gain": line.gain, "cover": line.cover,
                "count": line.count,
            }  # fmt: skip
    assert any(line["party"] != "bank" and line["gain"] > 0 for line in lines)


def check_names(run: Run) -> None:
    """A passive party's columns are named in its own folder, and nowhere else; no label is in a passive folder."""
    everywhere = [run.out / "report.json", run.out / "ledger.jsonl", *(run.out / "coordinator").iterdir()]
    for name in run.companies.parties:
        others = [other for other in run.companies.parties if other != name]
        for file in (*everywhere, *(run.out / name).iterdir()):
            text = file.read_bytes().decode("utf-8", errors="replace")
            assert not [other for other in others if f"zq {other}" in text], file
        if name != "bank":
            assert f"zq {name}" in (run.out / name / "model.json").read_text()
            shard = load_tree_shard(run.out / name)
            assert not shard.trees and not len(shard.start) and not shard.classes
            assert all("outcome" not in file.read_text(errors="replace") for file in (run.out / name).iterdir()
                       if file.name != "ledger.jsonl")  # fmt: skip
    secrets = run.companies.secrets()
    for file in (run.out / "report.json", run.out / "ledger.jsonl"):
        text = file.read_text()
        assert not [cell for cell in secrets if cell in text], file


def check_ids(run: Run) -> None:
    rows = run.report["rows"]
    parts = ["train"] * rows["train"] + ["validation"] * rows.get("validation", 0) + ["test"] * rows["test"]
    orders = []
    for name, party in run.companies.parties.items():
        columns = [party["id"]] if isinstance(party["id"], str) else party["id"]
        frame = pd.read_csv(run.out / name / "ids.csv", dtype=str)
        assert list(frame["part"]) == parts
        orders.append(["".join(cells) for cells in frame[columns].itertuples(index=False)])
    assert all(order == orders[0] for order in orders) and len(set(orders[0])) == len(parts)


def check_scores(run: Run) -> None:
    scores = run.scores
    classes = list(run.options.get("classes", ("a", "b", "c")))
    names = [f"score_{one}" for one in classes] if run.task == "multiclass" else ["score"]
    assert list(scores)[-len(names) :] == names and len(scores) == run.report["rows"]["test"]
    S = scores[names].astype(float).to_numpy()
    for name, figure in recompute(MODELS[run.task], scores["outcome"], S, classes).items():
        assert figure == pytest.approx(run.report["metrics"]["joint"][name], rel=1e-9), name


def check_ledger(run: Run) -> None:
    protocols = [importlib.import_module(f"vfl.{name}") for name in ("boosting", "importance", "boosting_scoring")]
    tables = {m.name: m for module in protocols for m in vars(module.Wire).values() if isinstance(m, Message)}
    seen = {entry["message"] for entry in run.ledger}
    goss = "top_rate" in run.options.get("training", {})
    assert seen >= set(tables) - ({"boosting.drawn"} if not goss else set())
    assert not {name for name in seen if name.startswith(("glm", "scoring"))}
    for entry in run.ledger:
        if message := tables.get(entry["message"]):
            assert (entry["kind"], entry["discloses"]) == (message.payload.__name__, message.discloses)
            assert entry["hops"] == (1 if "coordinator" in (entry["sender"], entry["receiver"]) else 2)
    told = {line["what"] for line in run.report["disclosures"] if line["from"] != "coordinator"}
    assert {m.discloses for m in tables.values() if m.discloses and m.name in seen} <= told
    assert not [line for line in run.report["disclosures"] if line["to"] == "coordinator" and line["what"] in told & {
        m.discloses for m in tables.values()
    }]  # fmt: skip
    assert all(leakage(module) for module in protocols)


# ways to run


@pytest.mark.slow
def test_processes_and_threads_leave_the_same_bytes(vfl: Command, tmp_path: Path) -> None:
    companies = make_boosted(tmp_path / "scenario", "multiclass", rows=240, messy=True)
    companies.write()
    apart, here, again = tmp_path / "apart", tmp_path / "here", tmp_path / "again"
    said = run_vfl("run", companies.folder, "--out", apart, "--json", env={"PYTHONWARNINGS": "default"})
    assert said.code == 0 and "Warning" not in said.stderr, said.stderr
    for out in (here, again):
        assert vfl("run", companies.folder, "--out", out, "--in-process").code == 0
    files = [f"{name}/{file}" for name in companies.parties for file in ("model.npz", "model.json", "ids.csv")]
    for file in (*files, "bank/test_scores.csv"):
        assert (apart / file).read_bytes() == (here / file).read_bytes() == (again / file).read_bytes(), file
    reports = [json.loads((out / "report.json").read_text()) for out in (apart, here, again)]
    for key in ("metrics", "feature_importance", "rows", "disclosures", "warnings", "parties"):
        assert reports[0][key] == reports[1][key] == reports[2][key], key
    assert reports[0]["metrics"]["joint"] == reports[0]["metrics"]["pooled"]


def test_another_seed_is_another_split(vfl: Command, tmp_path: Path) -> None:
    companies = make_boosted(tmp_path / "scenario", rows=200, passive=1)
    outs = [tmp_path / name for name in ("one", "two")]
    for out, seed in zip(outs, (3, 4), strict=True):
        said = vfl("run", companies.write(), "--out", out, "--in-process", "--no-baselines", "--set", f"seed={seed}")
        assert said.code == 0
    first, second = ((out / "bank" / "test_scores.csv").read_bytes() for out in outs)
    assert first != second


def test_check_and_audit(vfl: Command, tmp_path: Path) -> None:
    companies = make_boosted(tmp_path / "scenario", rows=200, messy=True)
    said = vfl("check", companies.write())
    assert said.code == 0 and "ready to run" in said.stdout and said.stderr == ""
    out = tmp_path / "out"
    assert vfl("run", companies.folder, "--out", out, "--in-process").code == 0
    said = vfl("audit", out)
    assert said.code == 0 and said.stderr == ""
    for words in ("What bank learnt", "What card-network learnt", "What coordinator learnt", "sealed end to end"):
        assert words in said.stdout
    text = " ".join(said.stdout.replace("│", " ").split())
    assert "which rows of the nodes that it splits go left" in text
    for name in ("coordinator", "bank", "card-network"):
        assert vfl("audit", out / name).code == 0


def test_no_test_rows_and_no_baselines(vfl: Command, tmp_path: Path) -> None:
    companies = make_boosted(tmp_path / "scenario", rows=200, split={"test_fraction": 0.0})
    out = tmp_path / "out"
    said = vfl("run", companies.write(), "--out", out, "--in-process", "--json", "--no-baselines")
    assert said.code == 0, said.stderr
    report = json.loads(said.stdout)
    assert report["metrics"] == {"joint": {}} and report["rows"]["test"] == 0
    assert any("no test rows" in line for line in report["warnings"])
    assert not (out / "bank" / "test_scores.csv").exists()


def test_importance_in_all_where_a_policy_says_so(vfl: Command, tmp_path: Path) -> None:
    companies = renamed(make_boosted(tmp_path / "scenario", rows=200))
    companies.parties["biller"]["policy"] |= {"feature_importance": False}
    out = tmp_path / "out"
    said = vfl("run", companies.write(), "--out", out, "--in-process", "--json", "--no-baselines")
    assert said.code == 0, said.stderr
    lines = json.loads(said.stdout)["feature_importance"]
    assert [line["feature"] for line in lines if line["party"] == "biller"] == ["all features"]
    assert len([line for line in lines if line["party"] == "card-network"]) == 3
    assert [line.feature for line in load_tree_shard(out / "biller").importance] == ["all features"]


def test_the_python_interface(tmp_path: Path) -> None:
    companies = make_boosted(tmp_path / "scenario", rows=220, passive=1)
    bank, network = companies.tables["bank"], companies.tables["card-network"]
    policy = {"key_bits": 512}
    parties = [
        Party("bank", bank, id="customer", label="outcome", policy=policy),
        Party("card-network", network, id="client", policy=policy),
    ]
    federation = Federation(*parties, privacy={"key_bits": 512, "insecure_test_mode": True})
    model = federation.fit(GradientBoostingClassifier(n_estimators=3, max_depth=2), seed=3, out=tmp_path / "out")
    evaluation = model.evaluate()
    assert evaluation.metrics == evaluation.pooled != evaluation.active_only
    assert model.report.model == "boosting" and model.report.task == "binary"
    assert {line.party for line in model.report.feature_importance} == {"bank", "card-network"}
    assert set(model.test_scores_) == {"customer", "outcome", "score"}
    assert (tmp_path / "out" / "report.json").is_file()
    stopped = federation.fit(
        GradientBoostingClassifier(n_estimators=30, max_depth=3, early_stopping_rounds=1, learning_rate=1.0),
        validation_fraction=0.2,
        baselines=False,
    )
    assert stopped.report.training.rounds < 30 and stopped.report.rows["validation"] > 0
    with pytest.raises(ConfigError, match="early_stopping_rounds"):
        federation.fit(GradientBoostingClassifier(early_stopping_rounds=1))
    counts = Federation(
        Party("bank", bank.assign(outcome=[str(i % 4) for i in range(len(bank))]), id="customer", label="outcome"),
        parties[1],
        privacy=federation.privacy,
    )
    model = counts.fit(GradientBoostingRegressor(objective="poisson", n_estimators=2, max_depth=2), baselines=False)
    assert model.report.task == "count" and "poisson_deviance" in model.evaluate().metrics


# guards and policies


def strict_run(vfl: Command, companies: Companies, out: Path, *more: object) -> dict[str, object]:
    said = vfl("run", companies.write(), "--out", out, "--in-process", "--json", *more)
    assert said.code == 0, said.stderr
    return json.loads(said.stdout)


def passive_splits(out: Path) -> list[object]:
    return [split for name in ("card-network", "biller") for split in load_tree_shard(out / name).splits]


def test_strict_runs_keep_to_the_default_limits(vfl: Command, tmp_path: Path) -> None:
    companies = make_boosted(tmp_path / "scenario", rows=800, training={"max_depth": 4, "n_estimators": 2})
    free = strict_run(vfl, companies, tmp_path / "here")
    strict = strict_run(vfl, companies, tmp_path / "strict", "--strict")
    explicit = {"training.min_node_rows": 200, "training.min_bin_gap": 10}
    same = strict_run(
        vfl,
        companies,
        tmp_path / "same",
        *(word for key, value in explicit.items() for word in ("--set", f"{key}={value}")),
    )
    assert strict["metrics"]["joint"] == strict["metrics"]["pooled"] == same["metrics"]["joint"]
    assert strict["metrics"]["joint"] != free["metrics"]["joint"] == free["metrics"]["pooled"]
    assert 0 < len(passive_splits(tmp_path / "strict")) < len(passive_splits(tmp_path / "here"))
    assert not [line for line in strict["warnings"] if line.startswith("guard:")]
    node_limits = [line for line in free["warnings"] if line.startswith("guard: node limits: party '")]
    assert len(node_limits) == 2 and all(
        "between companies training.min_node_rows = 200" in line for line in node_limits
    )


@pytest.mark.parametrize(
    ("training", "told"),
    [
        (
            {"min_node_rows": 50},
            ("error: min node rows: party 'card-network'", "lower min_node_rows in the party's policy"),
        ),
        ({"min_bin_gap": 9}, ("error: min bin gap: party 'card-network'", "lower min_bin_gap in the party's policy")),
        ({"top_rate": 0.2, "other_rate": 0.2}, ("error: gradient sampling: party 'bank'", "gradient_sampling = true")),
    ],
)
def test_what_a_policy_refuses_runs_once_it_allows_it(
    vfl: Command, tmp_path: Path, training: dict[str, object], told: tuple[str, ...]
) -> None:
    companies = make_boosted(tmp_path / "scenario", rows=300, training=training)
    out = tmp_path / "out"
    for enforced in (["--strict"], ["--set", "privacy.enforce=true"]):
        said = vfl("run", companies.write(), "--out", out, "--in-process", "--json", *enforced)
        assert said.code == 2 and said.stdout == ""
        assert all(words in said.error for words in told), said.error
        assert not out.exists()
    here = strict_run(vfl, companies, tmp_path / "here", "--no-baselines")
    guard = told[0].removeprefix("error: ").partition(":")[0]
    assert any(line.startswith(f"{WOULD}{guard}: party '") for line in here["warnings"]), here["warnings"]
    for name, party in companies.parties.items():
        lower = {"min_node_rows": 50, "min_bin_gap": 0} if party["role"] == "passive" else {"gradient_sampling": True}
        companies.parties[name]["policy"] |= lower
    allowed = strict_run(vfl, companies, out, "--strict")
    assert not [line for line in allowed["warnings"] if line.startswith("guard:")]
    assert allowed["metrics"]["joint"] == allowed["metrics"]["pooled"]


@pytest.mark.parametrize("strict", [(), ("--strict",)], ids=["one machine", "strict"])
def test_small_data_trains(vfl: Command, tmp_path: Path, strict: tuple[str, ...]) -> None:
    """About 100 training rows: with the limits of companies the active party's columns do what they can."""
    companies = make_boosted(tmp_path / "scenario", rows=170)
    report = strict_run(vfl, companies, tmp_path / "out", *strict)
    assert report["rows"]["train"] < 110
    assert report["training"]["loss"][-1] < report["training"]["loss"][0]
    assert bool(passive_splits(tmp_path / "out")) is not bool(strict)
    if strict:
        assert report["metrics"]["joint"] == report["metrics"]["active_only"]


@pytest.mark.parametrize("model", ["logistic", "softmax", "boosting", "boosting multiclass"])
def test_randomised_labels_train_every_classifier(vfl: Command, tmp_path: Path, model: str) -> None:
    folder = tmp_path / "scenario"
    if model.startswith("boosting"):
        task = "multiclass" if "multiclass" in model else "binary"
        companies = make_boosted(folder, task, rows=300, passive=1, training={"reg_lambda": 10.0})
    else:
        companies = make_companies(folder, model, rows=300, training={"max_iter": 4, "l2": 0.1})
    companies.sections["privacy"] |= {"label_dp_epsilon": 4.0}
    reports = [strict_run(vfl, companies, tmp_path / name) for name in ("one", "two")]
    plain = strict_run(vfl, companies, tmp_path / "plain", "--set", "privacy.label_dp_epsilon=50")
    for report in reports:
        assert list(report) == list(plain) and list(report["metrics"]) == list(plain["metrics"])
        assert report["training"]["loss"][-1] < report["training"]["loss"][0]
        assert report["metrics"]["active_only"] == plain["metrics"]["active_only"]
        figures = report["metrics"]["joint"]
        assert figures.get("auc", figures["accuracy"]) > 0.45
    assert reports[0]["metrics"]["joint"] != reports[1]["metrics"]["joint"]  # answers come from the system's chance


@pytest.mark.parametrize("task", ["regression", "count"])
def test_numbers_cannot_be_randomised(vfl: Command, tmp_path: Path, task: str) -> None:
    companies = make_boosted(tmp_path / "scenario", task, rows=200)
    companies.sections["privacy"] |= {"label_dp_epsilon": 1.0}
    said = vfl("run", companies.write(), "--out", tmp_path / "out", "--in-process")
    assert said.code == 2 and "label_dp_epsilon" in said.error and task in said.error
    assert not (tmp_path / "out").exists()


def test_monotone_constraints_of_the_active_party(vfl: Command, tmp_path: Path) -> None:
    """Against its true direction a column is of no use, and gets no splits."""
    companies = make_boosted(tmp_path / "scenario", rows=300, passive=1, seed=2, training={"n_estimators": 4})
    table = companies.tables["bank"]
    table["outcome"] = [str(int(float(cell) > 0)) for cell in table["x0"]]
    gains = []
    for sign in (1, -1):
        companies.parties["bank"]["monotone_constraints"] = {"x0": sign}
        report = strict_run(vfl, companies, tmp_path / f"out {sign}")
        assert report["metrics"]["joint"] == report["metrics"]["pooled"]
        gains.append(next(line["gain"] for line in report["feature_importance"] if line["feature"] == "x0"))
    assert gains[0] > 50 and gains[1] < 0.1 * gains[0]


def test_scores_of_trees_are_finite_where_cells_are_missing(vfl: Command, tmp_path: Path) -> None:
    """Missing cells in test rows only, a category that training rows lack, and a column that is all missing."""
    companies = make_boosted(tmp_path / "scenario", rows=240, messy=True, passive=1)
    table = companies.tables["card-network"]
    companies.tables["card-network"] = table.assign(
        empty="", x1=[cell if i % 5 else "" for i, cell in enumerate(table["x1"])]
    )
    companies.parties["card-network"]["unknown_category"] = "ignore"
    report = strict_run(vfl, companies, tmp_path / "out")
    scores = pd.read_csv(tmp_path / "out" / "bank" / "test_scores.csv")["score"]
    assert np.isfinite(scores).all() and scores.between(0, 1).all()
    assert report["metrics"]["joint"] == report["metrics"]["pooled"]
    assert any('column "empty"' in line for line in report["warnings"])
