"""Runs whose parties are made of silos: report.json, the terminal's table, the models beside, and the page."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from parties.errors import DataError
from parties.link import COORDINATOR
from tests.report.pages import Page, check_alone
from tests.runs.companies import Outcome
from tests.runs.conftest import Command
from tests.runs.conftest import vfl as vfl
from tests.silos.siloed import Siloed
from vfl import cli
from vfl.display import show_own_summary, show_summary
from vfl.events import LeftOut, Played, RoleResult
from vfl.job_file import load_scenario
from vfl.paillier import OperationCounts
from vfl.pooled import refer
from vfl.progress import Phases
from vfl.report.evidence import load_evidence
from vfl.report.page import write_page
from vfl.report.run_directory import read_report
from vfl.report.silo_words import left_out, promise
from vfl.report.summary import encode_report, summarise, summarise_own
from vfl.run import evidence_of_run

KINDS = {
    "hybrid, passive silos": Siloed(hospitals=0, insurer=3),
    "hybrid, label silos": Siloed(hospitals=3, insurer=0),
    "hybrid, all silos": Siloed(hospitals=2, insurer=2),
    "hybrid, numbers": Siloed(model="linear", hospitals=2, insurer=0),
    "hybrid, trees": Siloed(model="boosting", task="multiclass", hospitals=3, insurer=2),
    "hybrid, trees of rows drawn": Siloed(
        model="boosting", task="binary", hospitals=2, insurer=0, training={"subsample": 0.5}
    ),
    "horizontal": Siloed(hospitals=3, insurer=None, ids=False),
    "horizontal, averaged": Siloed(
        model="softmax",
        hospitals=3,
        insurer=None,
        training={"aggregation": "fedavg", "rounds": 4, "local_epochs": 2, "min_silos": 2},
    ),
    "horizontal, noisy": Siloed(
        hospitals=3,
        insurer=None,
        training={"rounds": 3},
        privacy={"dp": "central", "dp_noise": 2.0},
    ),
}
HYBRID = [kind for kind in KINDS if kind.startswith("hybrid")]
HORIZONTAL = [kind for kind in KINDS if kind.startswith("horizontal")]
Runs = Callable[[str], Path]
Report = dict[str, Any]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A run by its kind, played once."""
    made: dict[str, Path] = {}

    def run(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp("silos")
            KINDS[kind].write(folder / "scenario")
            made[kind] = folder / "out"
            assert cli.execute(["run", str(folder / "scenario"), "--out", str(made[kind]), "--in-process"]) == 0
        return made[kind]

    return run


def report_of(run: Path) -> Report:
    lines: Report = json.loads((run / "report.json").read_text())
    return lines


@pytest.mark.parametrize("kind", KINDS)
def test_every_member_stands_in_the_report_with_its_holder(runs: Runs, kind: str) -> None:
    report, frames = report_of(runs(kind)), KINDS[kind].frames()
    assert [party["name"] for party in report["parties"]] == list(frames)
    for party in report["parties"]:
        holder = party["name"].partition(".")[0]
        assert party.get("holder") == (holder if holder != party["name"] else None)
        assert party["rows"] == len(frames[party["name"]])
        assert party["role"] == ("active" if holder == "hospitals" else "passive")


@pytest.mark.parametrize("kind", HYBRID)
def test_the_joint_model_of_silos_equals_the_pooled_one(runs: Runs, kind: str) -> None:
    run = runs(kind)
    report = report_of(run)
    assert set(report["metrics"]) == {"joint", "active_only", "pooled"}
    assert report["metrics"]["joint"] == pytest.approx(report["metrics"]["pooled"], abs=2e-3)
    assert report["metrics"]["active_only"] != report["metrics"]["pooled"]
    assert report["without"] == {"insurer": report["metrics"]["active_only"]}
    assert set(report["confidence"]) == {"joint", "active_only", "pooled"}
    assert set(report["comparison"]) == {"active_only", "pooled"}
    assert "alone" not in report and "aggregation" not in report["training"]
    assert report["training"]["key_holder"] == "active" and report["crypto"]["scheme"] == "paillier"
    assert set(report["alignment"]["rows"]) == {party["name"] for party in report["parties"]}
    assert report["training"]["bytes"] > 0 and report["alignment"]["bytes"] > 0


@pytest.mark.parametrize("kind", ["hybrid, trees", "hybrid, trees of rows drawn"])
def test_trees_of_silos_are_those_of_pooled_rows(runs: Runs, kind: str) -> None:
    """To the last bit; rows are drawn by their places in the order that all can know."""
    run = runs(kind)
    evidence = load_evidence(run)
    assert evidence is not None
    if kind != "hybrid, trees":
        assert np.array_equal(evidence.predicted["joint"], evidence.predicted["pooled"])
    else:  # all are silos: rows stand in another order, and sums of gradients differ in their last bit
        assert np.allclose(evidence.predicted["joint"], evidence.predicted["pooled"], atol=1e-9)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].hospitals > 1])
def test_figures_are_of_all_silos_test_rows_together(runs: Runs, kind: str) -> None:
    run = runs(kind)
    report, whole = report_of(run), load_evidence(run)
    assert whole is not None and len(whole.y) == report["rows"]["test"]
    parts = {name: load_evidence(run / name) for name in whole.silos}
    first = 0
    for name, part in parts.items():
        assert part is not None and len(part.y) == whole.silos[name]
        own = slice(first, first := first + len(part.y))
        assert np.array_equal(whole.y[own], part.y)
        assert np.array_equal(whole.predicted["joint"][own], part.predicted["joint"])
    assert set(report["by_silo"]) == set(whole.silos) and all(report["by_silo"].values())
    share = np.array([len(part.y) for part in parts.values() if part is not None]) / len(whole.y)
    metric = {"regression": "mae", "binary": "accuracy", "multiclass": "accuracy"}[KINDS[kind].of]
    mean = share @ [figures[metric] for figures in report["by_silo"].values()]
    assert report["metrics"]["joint"][metric] == pytest.approx(mean)


@pytest.mark.parametrize("kind", HORIZONTAL)
def test_silos_alone_stand_beside_where_there_is_no_passive_party(runs: Runs, kind: str) -> None:
    report = report_of(runs(kind))
    silos = [party["name"] for party in report["parties"]]
    assert set(report["metrics"]) == {"joint", "pooled"}
    assert list(report["alone"]) == silos and "without" not in report
    metrics = set(report["metrics"]["joint"])
    assert all(set(figures) == metrics for figures in report["alone"].values())
    assert set(report["comparison"]) == {"pooled", *(f"alone {name}" for name in silos)}
    assert report["training"]["key_holder"] is None
    assert report["crypto"] == {
        "scheme": "none",
        "key_bits": None,
        "kernel": None,
        "encryptions": 0,
        "decryptions": 0,
    }
    assert report["alignment"] == {"protocol": "none", "rows": {}, "intersection": None, "seconds": 0.0, "bytes": 0}
    assert report["rows"]["train"] + report["rows"]["test"] == KINDS[kind].rows
    averaged = report["training"]["aggregation"]
    assert averaged["silos"] == len(silos) and averaged["left_out"] == averaged["lost"] == []
    assert report["training"]["bytes"] > 0


def test_fedsgd_equals_pooled_rows(runs: Runs) -> None:
    evidence = load_evidence(runs("horizontal"))
    assert evidence is not None
    assert np.allclose(evidence.predicted["joint"], evidence.predicted["pooled"], atol=1e-4)
    assert report_of(runs("horizontal"))["training"]["aggregation"]["rule"] == "fedsgd"


def test_what_averaging_was_stands_in_the_report(runs: Runs) -> None:
    averaged = report_of(runs("horizontal, averaged"))["training"]["aggregation"]
    assert (averaged["rule"], averaged["local_epochs"], averaged["least"]) == ("fedavg", 2, 2)
    assert averaged["rounds"] <= 4 and averaged["dp"] is None


def test_epsilon_stands_in_the_report(runs: Runs) -> None:
    dp = report_of(runs("horizontal, noisy"))["training"]["aggregation"]["dp"]
    assert dp["kind"] == "central" and dp["noise"] == 2.0 and dp["delta"] == 1e-5
    assert dp["epsilon"] == max(dp["by_silo"].values()) > 0 and len(dp["by_silo"]) == 3


def test_no_baselines_leaves_the_other_models_out(vfl: Command, tmp_path: Path) -> None:
    for name, kind in {"hybrid": "hybrid, all silos", "horizontal": "horizontal"}.items():
        KINDS[kind].write(tmp_path / name)
        said = vfl("run", tmp_path / name, "--out", tmp_path / "out" / name, "--in-process", "--json", "--no-baselines")
        assert said.code == 0, said.stderr
        report = json.loads(said.stdout)
        assert set(report["metrics"]) == {"joint"} == set(report["confidence"])
        assert not {"alone", "without", "comparison"} & set(report) and len(report["by_silo"]) == 3 - (name == "hybrid")
        check_alone(Page(write_page(tmp_path / "out" / name)))


def test_a_run_of_silos_is_overwritten_whole(vfl: Command, tmp_path: Path) -> None:
    KINDS["horizontal"].write(tmp_path / "one")
    Siloed(hospitals=0, insurer=0).write(tmp_path / "other")
    out = tmp_path / "out"
    for scenario in ("one", "other", "one"):
        said = vfl("run", tmp_path / scenario, "--out", out, "--in-process", "--overwrite", "--no-baselines")
        assert said.code == 0, said.stderr
        present = {path.name for path in out.iterdir()}
        roles = {"coordinator", *(path.stem for path in (tmp_path / scenario).glob("*.csv"))}
        files = {"report.json", "ledger.jsonl"} | ({"evidence.npz"} if scenario == "one" else set())
        assert present == roles | files


@pytest.mark.parametrize("kind", KINDS)
def test_the_terminal_names_silos(runs: Runs, kind: str) -> None:
    console = Console(file=io.StringIO(), width=100)
    show_summary(read_report(runs(kind) / "report.json"), runs(kind), console)
    text = re.sub(r"\s+", " ", console.file.getvalue())  # type: ignore[attr-defined]
    horizontal = kind in HORIZONTAL
    assert ("no key" in text) == horizontal and ("common rows of" in text) != horizontal
    if horizontal:
        rule = "FedAvg" if "averaged" in kind else "FedSGD"
        assert f"{rule} of rows of hospitals.s0" in text and "of each silo's own model on all test rows" in text
    if KINDS[kind].hospitals > 1:
        assert "of the joint model on each silo's test rows: hospitals.s0" in text
    assert ("right in at most" in text) == ("noisy" in kind)


HIDDEN = {
    "hybrid, all silos": [
        "The first silo of the party: in the sum the masks cancel",
        "it cannot tell masks from random numbers elsewhere",
        "Secrets under one-time pads",
        "hospitals.s0, who holds the key",
    ],
    "horizontal": [
        "Nobody: the coordinator finds the sum over silos only",
        "The silo that it is for; the coordinator passes it on",
        "enough of them take the masks off the sum over silos, and off nothing else",
    ],
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_the_page_says_who_can_open_what_silos_send(runs: Runs, kind: str) -> None:
    page = Page(write_page(runs(kind)))
    for text in HIDDEN[kind]:
        assert page.says(text), text
    assert page.says("Ids as points of a curve") == (kind != "horizontal")
    assert not page.says("Ids under one-time pads")


PAGES = {
    "hybrid, passive silos": ["insurer (3 silos: s0, s1 and s2), which holds further columns", "3 silos"],
    "hybrid, label silos": ["hospitals (3 silos: s0, s1 and s2), which holds the labels", "of all its silos"],
    "hybrid, all silos": ["hospitals and insurer have two silos: a sum shows each the other's part."],
    "hybrid, trees": ["Share of the trees' total gain", "trained one model of boosted trees"],
    "horizontal": [
        "Three silos of hospitals (s0, s1 and s2), which have the same columns of different rows",
        "their sum makes one step (FedSGD)",
        "no row left its silo",
        "FedSGD of 3 silos: nobody saw another's rows",
        "The joint model equals pooled data",
        "nobody",
    ],
    "horizontal, averaged": ["the mean of their models, by rows, goes on (FedAvg)", "2 silos or more", "4"],
    "horizontal, noisy": ["Noise hides whether any single row took part", "The silos' shares of the noise add up"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_stands_alone_and_speaks_of_silos(runs: Runs, kind: str) -> None:
    page = Page(write_page(runs(kind)))
    check_alone(page)
    headings = {heading.strip() for heading in page.headings}
    assert {"Silos", "Metrics", "Quality in detail", "Rows", "Messages", "Who learnt what"} <= headings
    assert ("Differential privacy" in headings) == ("noisy" in kind)
    assert ("Worth of each party" in headings) == (kind in HYBRID)
    for text in PAGES.get(kind, []):
        assert page.says(text), text
    assert page.says("Horizontal federated learning" if kind in HORIZONTAL else "Vertical federated learning")
    assert not page.says("rows in common") or kind in HYBRID
    columns = [heading for heading in page.headings if heading in ("hospitals", "insurer")]
    assert columns == (["hospitals"] if kind in HORIZONTAL else ["hospitals", "insurer"])


@pytest.mark.parametrize(
    ("kind", "role"),
    [
        ("hybrid, all silos", "hospitals.s1"),
        ("hybrid, all silos", "insurer.s0"),
        ("hybrid, all silos", COORDINATOR),
        ("horizontal", "hospitals.s2"),
        ("horizontal", COORDINATOR),
    ],
)
def test_a_silo_sees_its_own_figures_only(runs: Runs, tmp_path: Path, kind: str, role: str) -> None:
    """What it would have in its own directory had the run been one between companies, the others' folders beside."""
    run = runs(kind)
    report = report_of(run)
    labelled = role.startswith("hospitals")
    for party in report["parties"]:
        if party["name"] != role:
            party |= {"rows": None, "features": None}
    for name in ("confidence", "comparison", "without", "alone", "by_silo"):
        report.pop(name, None)
    own = load_evidence(run / role) if labelled else None
    report["metrics"] = {"joint": report["metrics"]["joint"] if labelled else {}}
    shutil.copytree(run, tmp_path / "own")
    (tmp_path / "own" / "report.json").write_text(json.dumps(report))
    shutil.copy(run / role / "ledger.jsonl", tmp_path / "own" / "ledger.jsonl")
    page = Page(write_page(tmp_path / "own", role=role))
    check_alone(page)
    if own is None:
        assert "Metrics" not in page.headings
    else:
        assert page.says(f"AUC on {len(own.y)} test rows") and page.says("a silo of hospitals, which holds the labels")
    others = {name for name in KINDS[kind].frames() if name != role}
    assert not [name for name in others if page.says(f"{name} rows of its CSV")]


def lost_run(run: Path, tmp_path: Path) -> Path:
    """A run whose first silo was lost in round 3: nothing of it is left but its ledger."""
    folder = Path(shutil.copytree(run, tmp_path / "lost"))
    for path in (folder / "hospitals.s0").iterdir():
        if path.name != "ledger.jsonl":
            path.unlink()
    return folder


def result(role: str, **more: Any) -> RoleResult:
    given = {"sizes": {}, "intersection": None, "protocol": "none", "n_train": 168, "n_test": 72, "key_holder": "none"}
    given |= {"key_holder_reason": "", "rounds": 4, "converged": True, "losses": [2.0, 1.0], "warnings": []}
    given |= {"seconds": {"training": 1.0, "evaluating": 0.5}, "csv_rows": 80, "features": 3}
    return RoleResult(role=role, **(given | more))


def test_a_run_goes_on_without_a_silo_and_says_so(runs: Runs, tmp_path: Path) -> None:
    folder = lost_run(runs("horizontal, averaged"), tmp_path)
    scenario = load_scenario(runs("horizontal, averaged").parent / "scenario")
    out = [LeftOut("hospitals.s0", number, "late") for number in (1, 2)] + [LeftOut("hospitals.s0", 3, "lost")]
    results = {name: result(name) for name in ("hospitals.s1", "hospitals.s2")}
    results[COORDINATOR] = result(COORDINATOR, left_out=out, n_train=None, n_test=None)
    evidence = evidence_of_run(scenario.job, folder)
    assert evidence is not None and list(evidence.silos) == ["hospitals.s1", "hospitals.s2"]
    references = refer(scenario, folder, evidence)
    report = summarise(scenario, Played(results, 0, 0, "", {"hospitals.s0": "its process died"}), [], references, 3.0)
    assert report.rows["test"] == len(evidence.y) < 72  # those that the figures are of
    assert list(report.alone) == list(report.by_silo) == ["hospitals.s1", "hospitals.s2"]
    assert report.training.aggregation is not None
    assert report.training.aggregation.left_out == out and report.training.aggregation.lost == ["hospitals.s0"]
    assert [party.rows for party in report.parties] == [None, 80, 80]
    assert any("hospitals.s0 was lost" in line and "its process died" in line for line in report.warnings)
    (folder / "report.json").write_bytes(encode_report(report))
    page = Page(write_page(folder))
    check_alone(page)
    assert page.says("hospitals.s0 was late: the model went on without it in rounds 1 and 2.")
    assert page.says("hospitals.s0 was lost: the model went on without it in round 3.")
    assert page.says("hospitals.s0 did not come to the end")


@pytest.mark.parametrize("role", ["hospitals.s1", COORDINATOR])
def test_a_role_writes_what_it_knows(runs: Runs, tmp_path: Path, role: str) -> None:
    """Between companies: nothing is aligned, and the coordinator evaluates nothing."""
    run = runs("horizontal, noisy")
    job = load_scenario(run.parent / "scenario").job
    if role == COORDINATOR:
        own = result(role, seconds={"training": 1.0}, n_train=None, n_test=None, csv_rows=0, features=0)
    else:
        figures = report_of(run)["metrics"]["joint"]
        own = result(role, joint=figures, dp_epsilon=3.5, losses=[])
    report = summarise_own(job, own, [], OperationCounts(0, 0), "gmpy2", 2.0)
    known = [party.name for party in report.parties if party.rows is not None]
    assert known == ([] if role == COORDINATOR else [role])
    assert report.training.key_holder is None and report.crypto.scheme == "none" and report.alignment.rows == {}
    averaged = report.training.aggregation
    assert averaged is not None and averaged.lost == [] and averaged.dp is not None
    assert averaged.dp.by_silo == ({} if role == COORDINATOR else {role: 3.5})
    (tmp_path / "report.json").write_bytes(encode_report(report))
    shutil.copy(run / role / "ledger.jsonl", tmp_path / "ledger.jsonl")
    if role != COORDINATOR:
        shutil.copytree(run / role, tmp_path / role)
    page = Page(write_page(tmp_path, role=role))
    check_alone(page)
    assert page.says("ε = 3.50" if role != COORDINATOR else "this page cannot state its epsilon")
    console = Console(file=io.StringIO(), width=100)
    show_own_summary(report, role, tmp_path, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "FedSGD of rows of" in text and "no key" in text


def test_a_check_of_many_silos_fits_a_narrow_terminal(
    vfl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    Siloed(hospitals=5, insurer=2).write(tmp_path / "hybrid")
    said = vfl("check", tmp_path / "hybrid")
    assert said.code == 0, said.stderr
    lines = [line for line in said.stdout.splitlines() if line.startswith(("┃", "│"))]
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
    assert sum("valid ids" in line for line in lines) == 3  # tables of three parties at most
    Siloed(hospitals=5, insurer=None, ids=False).write(tmp_path / "horizontal")
    said = vfl("check", tmp_path / "horizontal")
    assert said.code == 0, said.stderr
    assert "nothing is aligned" in said.stdout
    assert not [word for word in ("valid ids", "min_intersection", "ids read") if word in said.stdout]


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"aggregation": "fedavg", "rounds": 7}, "round 2 of 7"),
        ({"epochs": 9}, "epoch 2 of 9"),
    ],
)
def test_progress_counts_what_the_job_asks_for(tmp_path: Path, training: dict[str, object], said: str) -> None:
    Siloed(model="splitnn", task="binary", insurer=None, training=training).write(tmp_path)
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    phases = Phases(load_scenario(tmp_path).job, console)
    phases.begin("training")
    for number in (1, 2):
        phases.advance(number, 0.5)
    console.print(phases.bars)
    assert said in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_changed_csv_is_noticed(vfl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the run and the models beside it: another table would be judged by the labels of the first."""
    files = KINDS["hybrid, all silos"].write(tmp_path / "scenario")
    from vfl import pooled

    read = pooled.read_party

    def changed(spec: Any) -> Any:
        if spec.name == "hospitals.s1":
            files[spec.name].write_text(files[spec.name].read_text().replace("yes", "no", 9))
        return read(spec)

    monkeypatch.setattr(pooled, "read_party", changed)
    said: Outcome = vfl("run", tmp_path / "scenario", "--out", tmp_path / "out", "--in-process")
    assert said.code == 2 and "leave the files alone while a run goes on" in said.error
    assert not (tmp_path / "out").exists()


def test_silos_of_other_classes_do_not_mix(runs: Runs, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs("horizontal, averaged"), tmp_path / "run"))
    shutil.copy(runs("horizontal") / "hospitals.s1" / "evidence.npz", folder / "hospitals.s1" / "evidence.npz")
    job = load_scenario(runs("horizontal, averaged").parent / "scenario").job
    with pytest.raises(DataError, match="evidence.npz of hospitals.s1: has other classes"):
        evidence_of_run(job, folder)


def test_words() -> None:
    from vfl.report.averaged import AveragingPart, PrivacyPart

    out = [LeftOut("north", number, "malformed") for number in (2, 3, 4, 9)] + [LeftOut("west", 1, "late")]
    averaged = AveragingPart("fedavg", 9, 1, 4, 1.0, "average", 0.0, 2, out, ["south"], None)
    assert left_out(averaged) == [
        "north was left out for an update that was malformed: the model went on without it in rounds 2 to 4 and 9.",
        "west was late: the model went on without it in round 1.",
        "south did not come to the end: it has no part of the model, and no figures here.",
    ]
    words = {
        0.5: ["a strong promise", "right in at most 62 %"],
        1.0: ["a strong promise", "right in at most 73 %"],
        3.0: ["a moderate promise", "right in at most 95 %"],
        5.0: ["a weak promise", "right in at most 99.331 %"],
        8.0: ["hardly a promise", "right in at most 99.9665 %"],
    }
    for epsilon, said in words.items():
        text = promise(PrivacyPart("local", epsilon, 1e-5, 1.0, None, {}))
        assert all(words in text for words in said), text
    assert "100 %" not in promise(PrivacyPart("local", 12.0, 1e-5, 1.0, None, {}))
    assert "cannot state" in promise(PrivacyPart("local", None, 1e-5, 1.0, None, {}))
