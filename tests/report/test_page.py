"""report.html of every kind of run: what stands on it, what must not, and that it stands alone."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parties.errors import DataError
from tests.report.pages import Page, check_alone, play
from tests.runs.companies import make_companies
from vfl import cli
from vfl.report.evidence import Evidence, load_evidence, save_evidence
from vfl.report.page import write_page
from vfl.report.words import significant

Runs = Callable[[str], Path]
ALWAYS = ["Training", "Rows", "Messages", "Time", "Who learnt what", "What stayed hidden", "Reproduce"]
METRICS = ["Metrics", "Quality in detail"]
SECTIONS = {
    "binary": [
        *METRICS,
        "Worth of each party",
        "Coefficients",
        "ROC curve",
        "Precision and recall",
        "Lift by decile",
        "Kolmogorov–Smirnov",
        "Cumulative gain",
        "Calibration",
        "Scores by class",
        "Gain and lift",
        "Confusion matrix: threshold 0.5",
        "Loss per round",
    ],
    "boosting": [
        *METRICS,
        "Worth of each party",
        "Importance of columns",
        "ROC curve",
        "Loss per tree",
        "Guards and warnings",
    ],
    "multiclass": [
        *METRICS,
        "ROC curves, each class against the rest",
        "Class by class",
        "Calibration",
        "Confusion matrix: joint model",
        "Coefficients",
    ],
    "regression": [*METRICS, "Predicted and actual", "Residuals", "Size of the misses", "Are the misses normal?"],
    "count": [*METRICS, "Rootogram: observed and expected counts", "Calibration", "Deviance", "Residuals"],
    "network": [*METRICS, "Worth of each party", "ROC curve", "Loss per epoch", "Guards and warnings"],
    "network regression": [*METRICS, "Residuals", "Loss per epoch"],
    "network split": [*METRICS, "ROC curve", "Loss per epoch", "What gradients tell"],
    "network split attacked": [*METRICS, "What gradients tell"],
    "label alone": [*METRICS, "Worth of each party", "Coefficients", "Residuals"],
    "no baselines": [*METRICS, "ROC curve", "Coefficients"],
    "no test rows": ["Coefficients", "Guards and warnings"],
    "binary of bank": [*METRICS, "ROC curve", "Coefficients", "Loss per round"],
    "binary of biller": ["Coefficients"],
    "boosting of card-network": ["Importance of columns"],
    "network of bank": [*METRICS, "ROC curve", "Loss per epoch"],
    "network of biller": [],
    "network split attacked of biller": ["What gradients tell"],
    "network split of coordinator": ["What gradients tell"],
    "binary of coordinator": [],
}
ABSENT = {
    "network": ["Coefficients", "Importance of columns", "What gradients tell"],
    "network split": ["Coefficients"],
    "network of biller": [*METRICS, "ROC curve", "Worth of each party", "Loss per epoch", "Coefficients"],
    "network split of coordinator": [*METRICS, "ROC curve", "Loss per epoch"],
    "no baselines": ["Worth of each party"],
    "no test rows": [*METRICS, "Worth of each party", "ROC curve"],
    "binary of biller": [*METRICS, "ROC curve", "Worth of each party", "Loss per round"],
    "boosting of card-network": [*METRICS, "ROC curve", "Worth of each party"],
    "binary of coordinator": [*METRICS, "ROC curve", "Coefficients", "Worth of each party", "Loss per round"],
}  # fmt: skip


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_kind_of_run_has_its_sections_and_no_others(runs: Runs, kind: str) -> None:
    page = Page(write_page(runs(kind)))
    check_alone(page)
    headings = {heading.strip() for heading in page.headings}
    assert set(SECTIONS[kind]) | set(ALWAYS) <= headings
    assert not headings & set(ABSENT.get(kind, []))
    titles = [target[1:] for target in page.targets if target[1:] in ("metrics", "quality", "reproduce")]
    assert ("metrics" in titles) == ("Metrics" in headings) and "reproduce" in titles


@pytest.mark.parametrize(
    "kind", ["binary", "boosting", "multiclass", "regression", "count", "network", "network split", "binary of biller"]
)
def test_no_person_stands_on_the_page(runs: Runs, kind: str) -> None:
    run = runs(kind)
    page = Page(write_page(run))
    ids = {line for file in run.glob("*/ids.csv") for line in file.read_text().replace('"', ",").split(",")}
    people = {one.strip() for line in ids for one in line.split() if one.strip().endswith("x") and len(one) >= 8}
    assert len(people) > 100
    assert not [one for one in people if one in page.html]


def test_the_same_directory_gives_the_same_page(runs: Runs) -> None:
    run = runs("binary")
    first = write_page(run).read_bytes()
    assert write_page(run).read_bytes() == first


@pytest.mark.parametrize("kind", ["binary", "boosting"])
@pytest.mark.parametrize("role", ["bank", "card-network", "coordinator"])
def test_a_role_sees_its_own_columns_only(runs: Runs, tmp_path: Path, kind: str, role: str) -> None:
    """Even where the others' folders lie beside its own."""
    run = shutil.copytree(runs(f"{kind} of {role}"), tmp_path / "run")
    names = {"bank": ["bank_a"], "card-network": ["card_a"], "biller": ["biller_a"]}
    for party, (name,) in names.items():
        folder = run / party
        if not folder.is_dir():
            shutil.copytree(runs(kind) / party, folder)
        model = (folder / "model.json").read_text().replace('"x0"', f'"{name}"')
        (folder / "model.json").write_text(model)
        (folder / "run.json").unlink()  # it names the model.json that was
    report = (run / "report.json").read_text()
    (run / "report.json").write_text(report.replace('"x0"', f'"{names.get(role, [""])[0]}"'))
    page = Page(write_page(run, role=role))
    assert {name for (name,) in names.values() if name in page.html} == set(names.get(role, []))


def test_one_machine_shows_everybodys_columns(runs: Runs) -> None:
    page = Page(write_page(runs("boosting")))
    for party in ("bank", "card-network", "biller"):
        assert party in page.headings
    assert page.says("x0") and "feature 1" not in page.text


def test_hostile_names_are_text(tmp_path: Path) -> None:
    companies = make_companies(
        tmp_path / "scenario", "softmax", passive=1, classes=("<b>a</b>", "$x^2$ & 名", "c" * 90)
    )
    evil = {"x0": "<script>alert(1)</script>", "x1": "a&amp;\"'" + "ä" * 300, "x2": "$\\frac{1}{2}$ {{ 7 * 7 }} ௵"}
    companies.tables["card-network"] = companies.tables["card-network"].rename(columns=evil)
    page = Page(write_page(play(companies, tmp_path / "out")))
    check_alone(page)
    for name in evil.values():
        assert name in page.text.replace("\n", "")
    for name in ("<b>a</b>", "$x^2$ & 名", "c" * 90):
        assert name in page.text
    assert "49" not in {heading.strip() for heading in page.headings}


def compare(difference: float, low: float, high: float) -> dict[str, object]:
    return {"metric": "", "difference": difference, "low": low, "high": high, "p_value": 0.0001, "test": "delong"}


@pytest.mark.parametrize(
    ("kind", "joint", "alone", "compared", "said"),
    [
        ("binary", 0.71, 0.618, compare(0.092, 0.081, 0.103), "is better than bank alone: its AUC is 0.092 higher."),
        ("binary", 0.60, 0.618, compare(-0.018, -0.02, -0.01), "is worse than bank alone: its AUC is 0.018 lower."),
        ("binary", 0.71, 0.705, compare(0.005, -0.02, 0.03), "differ by 0.0050 in AUC, which may be chance."),
        ("regression", 53.9, 77.2, compare(-23.3, -30, -15), "is better than bank alone: its RMSE is 23.3 lower."),
        ("regression", 53.9, 50.1, None, "is worse than bank alone: its RMSE is 3.8 higher."),
    ],
    ids=["better", "worse", "chance", "less is better", "without a test"],
)
def test_the_headline_says_what_the_figures_say(
    runs: Runs, tmp_path: Path, kind: str, joint: float, alone: float, compared: dict[str, object] | None, said: str
) -> None:
    run = shutil.copytree(runs(kind), tmp_path / "run")
    lines = json.loads((run / "report.json").read_text())
    metric = "auc" if kind == "binary" else "rmse"
    for model, value in {"joint": joint, "active_only": alone, "pooled": joint}.items():
        lines["metrics"][model][metric] = value
    lines["comparison"] = {} if compared is None else {"active_only": compared}
    (run / "report.json").write_text(json.dumps(lines))
    page = Page(write_page(run))
    assert page.says(said)
    assert page.says("p < 0.001, DeLong test.") == (compared is not None)
    assert page.says("The joint model equals pooled data")


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "holds no run"), (b"{", "damaged"), (b"[]", "damaged"), (b'{"version": "9.0"}', "vfl 9.0")],
    ids=["missing", "cut", "other json", "other version"],
)
def test_what_is_no_run_is_one_clear_line(
    runs: Runs, tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes | None, said: str
) -> None:
    run = shutil.copytree(runs("binary of biller"), tmp_path / "run")
    (run / "report.html").unlink(missing_ok=True)
    (run / "report.json").unlink()
    if content is not None:
        (run / "report.json").write_bytes(content)
    assert cli.execute(["report", str(run)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("name", ["ledger.jsonl", "bank/model.json", "bank/run.json", "bank/evidence.npz"])
def test_a_damaged_file_is_named(runs: Runs, tmp_path: Path, name: str) -> None:
    run = shutil.copytree(runs("binary"), tmp_path / "run")
    (run / name).write_bytes(b"{\x00")
    with pytest.raises(DataError, match="bank|ledger"):
        write_page(run)


def test_the_command_says_where_the_page_lies(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    run = runs("count")
    capfd.readouterr()  # what the run said, if it was made here
    assert cli.execute(["report", str(run)]) == 0
    assert capfd.readouterr().out.strip() == str(run / "report.html")


def test_a_role_that_the_run_lacks_is_refused(runs: Runs) -> None:
    with pytest.raises(DataError, match="has no role 'nobody'"):
        write_page(runs("binary"), role="nobody")


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression", "count"])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_hardly_any_test_rows(runs: Runs, tmp_path: Path, task: str, rows: int) -> None:
    """All of one class, no spread, fewer rows than groups."""
    run = shutil.copytree(runs(task), tmp_path / "run")
    known = load_evidence(run / "bank")
    assert known is not None
    few = {name: values[:rows] for name, values in known.predicted.items()}
    save_evidence(run / "bank", Evidence(task, known.classes, np.repeat(known.y[:1], rows), few))
    check_alone(Page(write_page(run)))


@pytest.mark.parametrize("task", ["binary", "regression", "count"])
def test_many_rows_do_not_make_a_large_page(runs: Runs, tmp_path: Path, task: str) -> None:
    run = shutil.copytree(runs(task), tmp_path / "run")
    rng = np.random.default_rng(0)
    p = rng.uniform(0.01, 0.99, 100_000)
    y = (rng.random(p.size) < p).astype(np.float64)
    if task != "binary":
        y = rng.poisson(p).astype(np.float64) if task == "count" else y + rng.normal(size=p.size)
    save_evidence(run / "bank", Evidence(task, (), y, {"joint": p, "active_only": p[::-1].copy(), "pooled": p}))
    page = Page(write_page(run))
    assert len(page.html) < 600_000


def test_losses_that_are_not_numbers_are_left_out(runs: Runs, tmp_path: Path) -> None:
    run = shutil.copytree(runs("regression"), tmp_path / "run")
    lines = json.loads((run / "report.json").read_text())
    lines["training"]["loss"] = [None, 3.0, 2.0]
    (run / "report.json").write_text(json.dumps(lines))
    check_alone(Page(write_page(run)))
    lines["training"]["loss"] = [None, 3.0]
    (run / "report.json").write_text(json.dumps(lines))
    assert "Loss per round" not in Page(write_page(run)).headings


def test_an_evaluation_has_the_new_rows_and_no_training(runs: Runs, tmp_path: Path) -> None:
    run = runs("binary")
    scenario = run.parent / "scenario"
    data = [
        f"--data={name}={scenario / name.replace('-', '_')} data.csv" for name in ("bank", "card-network", "biller")
    ]
    assert cli.execute(["evaluate", str(run), *data, "--out", str(tmp_path / "judged")]) == 0
    page = Page(write_page(tmp_path / "judged"))
    check_alone(page)
    assert {"Metrics", "ROC curve", "Messages", "Who learnt what"} <= set(page.headings)
    assert not {"Training", "Worth of each party", "Loss per round"} & set(page.headings)
    assert page.says("The joint model reaches AUC") and page.says("An evaluation on new rows of the model of run")
    assert not page.says("nobody trained on")


def test_a_network_says_how_it_was_held_and_what_was_kept(runs: Runs) -> None:
    run = runs("network")
    training = json.loads((run / "report.json").read_text())["training"]
    losses = training["validation_loss"]
    assert training["mode"] == "source-layer" and len(training["loss"]) == 4 and len(losses) == 3
    page = Page(write_page(run))
    for text in (
        "trained one split neural network to tell two classes apart",
        "no row was sent, but bank learnt so many sums over the others' columns that their rows can be worked out",
        "all parties' columns, from which a guard says that rows can be worked out",
        "Training took 3 epochs; the active party held the Paillier key",
        "source-layer: one first layer held by all parties in shares, computed under encryption",
        "3 units, to which all parties add, then 4; relu",
        f"the weights of epoch {losses.index(min(losses)) + 1}, of least validation loss",
        "The rows' first-layer outputs, summed over the passive parties, in every epoch",
        "bank, who holds the key, and finds masked numbers",
        "Nobody: it is one half of a sum, random without the other",
        "training.units = 3",
        "training.learning_rate = 0.02",
    ):
        assert page.says(text), text
    assert not page.says("training.n_estimators")
    assert not page.says("nobody saw anybody's rows") and not page.says("no row left its owner")


def test_keys_of_the_model_are_not_hidden_by_another_models(runs: Runs) -> None:
    page = Page(write_page(runs("boosting")))
    assert page.says("training.n_estimators = 3") and not page.says("training.units")


def test_mode_split_says_what_crossed_in_the_clear(runs: Runs) -> None:
    page = Page(write_page(runs("network split")))
    for text in (
        "readable to bank, and so did the gradients that came back",
        "nothing was encrypted with Paillier",
        "The job did not ask for it to be tried (label_inference).",
        "No noise was added to the gradients.",
        "passes on what it cannot read",
        "Its bottom network's outputs for every row, in every epoch",
        "none but the sealing of what goes from party to party",
    ):
        assert page.says(text), text
    assert not page.says("nobody saw anybody's rows") and not page.says("no row left its owner")


def test_the_attack_and_the_noise_stand_on_the_active_partys_page_alone(runs: Runs) -> None:
    run = runs("network split attacked")
    training = json.loads((run / "report.json").read_text())["training"]
    best = max(max(attack["norm_auc"], attack["direction_auc"]) for attack in training["label_inference"])
    noise = training["gradient_noise"]
    assert 0.5 <= best <= 1 and noise["epsilon"] > 0 and noise["delta"] == 1e-5
    page = Page(write_page(run))
    assert page.says(f"The best AUC is {significant(best)}; 0.5 is guessing")
    assert page.says(f"ε = {significant(noise['epsilon'])} at δ = 1e−5")
    own = Page(write_page(runs("network split attacked of biller")))
    assert own.says("The active party's report says how well.") and own.says("had Gaussian noise added.")
    assert not own.says("The best AUC") and not own.says("ε =")


VIEWS = "guard: first-layer views: party 'bank' would open up to 9 views of 6 passive columns (3 epochs of 3 units), "
STOP = "guard: between companies training would stop here because score budget: party 'bank' got 6 evaluations"
EXPOSED = {
    "no guard": ([], "no row left its owner", "worked out"),
    "another guard": (["guard: small data: party 'bank' has 3 columns"], "no row left its owner", "worked out"),
    "half of the views": ([f"{VIEWS}more than half of its budget"], "more than half as many sums", "can be worked out"),
    "all views": ([f"{VIEWS}which tell it their column space"], "rows can be worked out", "no row left"),
    "half of the scores": (
        ["guard: score budget: party 'bank' has opened scores for more than half of its budget: 60 passive columns"],
        "more than half as many sums",
        "can be worked out",
    ),
    "all scores": ([STOP], "rows can be worked out", "nobody saw anybody's rows"),
    "all scores and half": (
        [f"{VIEWS}more than half of its budget", STOP],
        "rows can be worked out",
        "nobody saw anybody's rows",
    ),
}


@pytest.mark.parametrize("case", EXPOSED)
def test_rows_that_can_be_worked_out_are_not_called_unseen(runs: Runs, tmp_path: Path, case: str) -> None:
    guards, said, unsaid = EXPOSED[case]
    run = shutil.copytree(runs("regression"), tmp_path / "run")
    for folder in run.glob("*/run.json"):
        folder.unlink()  # the rounds say more than half of a budget, too
    lines = json.loads((run / "report.json").read_text())
    lines["warnings"] = guards
    (run / "report.json").write_text(json.dumps(lines))
    page = write_page(run).read_text(encoding="utf-8")
    above = page[: page.index('id="metrics"')]
    text = " ".join(above[above.index('class="lead"') :].replace("&#39;", "'").split())
    assert said in text and unsaid not in text


def test_a_budget_spent_with_consent_counts_as_spent(tmp_path: Path) -> None:
    """No guard stops or rounds then on one machine, and its warning speaks of half."""
    companies = make_companies(tmp_path / "scenario", "logistic", passive=2, columns=1, key_holder="active")
    for party in companies.parties.values():
        party["policy"] = {"key_bits": 512, "partial_scores": True}
    page = Page(write_page(play(companies, tmp_path / "out", "--no-baselines")))
    assert page.says("has opened scores for more than half of its budget") and not page.says("would stop here")
    assert page.says("rows can be worked out, as a guard says below")


@pytest.mark.parametrize(
    ("auc", "said"),
    [(0.53, "hardly do better than guess"), (0.8, "tell many labels"), (0.97, "tell almost all labels")],
)
def test_the_attack_is_judged_by_its_best_figure(runs: Runs, tmp_path: Path, auc: float, said: str) -> None:
    run = shutil.copytree(runs("network split attacked"), tmp_path / "run")
    lines = json.loads((run / "report.json").read_text())
    lines["training"]["label_inference"] = [{"norm_auc": 0.5, "direction_auc": auc, "epoch": 1}]
    lines["training"]["gradient_noise"] = {"epsilon": None, "delta": 1e-5}
    (run / "report.json").write_text(json.dumps(lines))
    page = Page(write_page(run))
    assert page.says(f"a passive party could {said}.") and page.says("with no bound at δ")
    check_alone(page)


def test_template_and_style_are_installed() -> None:
    """Every file beside the modules is package data."""
    root = Path(__file__).parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["vfl"]
    folder = root / "vfl" / "report"
    beside = {path for path in folder.iterdir() if path.is_file() and path.suffix != ".py"}
    assert {path.suffix for path in beside} == {".j2", ".css"}
    assert beside <= {path for pattern in patterns for path in (root / "vfl").glob(pattern)}
