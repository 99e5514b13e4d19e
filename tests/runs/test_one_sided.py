"""One-sided runs of boosting: the active party alone knows the members, in every file and on every page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from parties.checkpoint import ALIGNED, FolderKeeper
from parties.data import read_party
from parties.link import COORDINATOR, Endpoint
from parties.local import run_local
from parties.wire import Active, Passive
from tests.chaos.between_companies import Job as JobFiles
from tests.prediction.test_between_companies import run_all, scoring, train
from tests.runs.companies import Companies, make_boosted, make_companies
from tests.runs.conftest import Command
from vfl import session
from vfl.consent import disclosures_of
from vfl.job import Alignment, Job, Member, job_fields
from vfl.job_file import load_scenario
from vfl.play import role_types

SHOP = "card-network"
World = tuple[Companies, JobFiles, Path]
CASES: dict[str, tuple[str, dict[str, object]]] = {
    "binary": ("binary", {"messy": True, "weights": True}),
    "binary, label alone, GOSS": ("binary", {"label_only": True, "training": {"top_rate": 0.3, "other_rate": 0.3}}),
    "binary, early stopping": (
        "binary",
        {
            "split": {"test_fraction": 0.3, "validation_fraction": 0.2},
            "training": {"early_stopping_rounds": 2, "n_estimators": 9, "learning_rate": 0.9},
        },
    ),
    "binary, randomised labels": ("binary", {"privacy": {"label_dp_epsilon": 4.0}}),
    "binary, first tree alone, sampled": (
        "binary",
        {"training": {"subsample": 0.7, "colsample_bytree": 0.7, "first_tree_active_only": True}},
    ),
    "multiclass": ("multiclass", {}),
    "multiclass, one tree per class": ("multiclass", {"training": {"multi_output": False}}),
    "regression, sorted categories": ("regression", {"messy": True, "training": {"max_cat_to_onehot": 2}}),
    "count, composite ids": ("count", {"composite": True}),
    "limits": ("binary", {"training": {"min_node_rows": 40, "min_bin_gap": 5}}),
}


def one_sided(folder: Path, task: str = "binary", members: int = 250, **options: object) -> Companies:
    """The bank has fewer rows than the shop, and some that the shop lacks."""
    sections = {"alignment": {"one_sided": True}, **options}
    if "privacy" in options:
        sections["privacy"] = {"key_bits": 512, "insecure_test_mode": True, **dict(options["privacy"])}  # type: ignore[call-overload]
    companies = make_boosted(folder, task, passive=1, **sections)  # type: ignore[arg-type]
    companies.tables["bank"] = companies.tables["bank"].iloc[:members].reset_index(drop=True)
    return companies


def common(companies: Companies) -> set[str]:
    ids = [set(zip(*(table[name] for name in names), strict=True)) for table, names in keys(companies)]
    return {"".join(parts) for parts in set.intersection(*ids)}


def keys(companies: Companies) -> list[tuple[pd.DataFrame, list[str]]]:
    named = [(companies.tables[name], party["id"]) for name, party in companies.parties.items()]
    return [(table, id if isinstance(id, list) else [str(id)]) for table, id in named]


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_the_pooled_model_on_the_members(case: str, vfl: Command, tmp_path: Path) -> None:
    task, options = CASES[case]
    companies = one_sided(tmp_path / "companies", task, **options)
    done = vfl("run", companies.write(), "--in-process", "--out", tmp_path / "run")
    assert done.code == 0, done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    members, randomised = common(companies), "label_dp_epsilon" in companies.sections["privacy"]
    assert report["alignment"]["intersection"] == len(members) == sum(report["rows"].values())
    assert report["alignment"]["rows"] == {"bank": 250, SHOP: 390}
    if not randomised:
        assert report["metrics"]["joint"] == report["metrics"]["pooled"]
    ids = {name: pd.read_csv(tmp_path / "run" / name / "ids.csv", dtype=str) for name in companies.parties}
    assert set(ids["bank"].iloc[:, :-1].sum(axis=1)) == members and list(ids["bank"])[-1] == "part"
    listed = keys(companies)[1][0][list(ids[SHOP])]
    assert "part" not in ids[SHOP] and len(ids[SHOP]) == 390
    assert sorted(map(tuple, ids[SHOP].to_numpy())) == sorted(map(tuple, listed.to_numpy()))
    told = {line["what"] for line in report["disclosures"] if line["to"] == SHOP}
    assert not [what for what in told if "rows" in what or "common" in what]


def test_the_same_data_and_seed_give_the_same_model(vfl: Command, tmp_path: Path) -> None:
    companies = one_sided(tmp_path / "companies")
    for run in ("first", "second"):
        done = vfl("run", companies.write(), "--in-process", "--no-baselines", "--out", tmp_path / run)
        assert done.code == 0, done.stderr
        companies.tables[SHOP] = companies.tables[SHOP].sample(frac=1, random_state=4)
    for file in (f"{SHOP}/model.npz", "bank/model.npz", "bank/test_scores.csv", "bank/ids.csv"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file


def test_a_prediction_lists_unmatched_rows_at_the_active_party_alone(vfl: Command, tmp_path: Path) -> None:
    companies = one_sided(tmp_path / "companies")
    out = tmp_path / "run"
    assert vfl("run", companies.write(), "--in-process", "--no-baselines", "--out", out).code == 0
    data = [f"--data={name}={companies.folder / str(party['data'])}" for name, party in companies.parties.items()]
    done = vfl("predict", out, *data, "--out", tmp_path / "scores.csv")
    assert done.code == 0, done.stderr
    then = pd.read_csv(out / "bank" / "test_scores.csv", dtype=str)
    now = pd.read_csv(tmp_path / "scores.csv", dtype=str)
    both = then.merge(now, on="customer", suffixes=(" then", ""))
    assert len(both) == len(then) and (both["score then"] == both["score"]).all()
    assert set(now["customer"]) == common(companies)
    unmatched = {path.name for path in tmp_path.rglob("*unscored*")}
    assert len(unmatched) <= 1


def test_folds_share_one_alignment(tmp_path: Path) -> None:
    """A fold is another order of the members; the passive party's list stays as it is."""
    from vfl import Federation, GradientBoostingClassifier, Party, cross_validate

    companies = one_sided(tmp_path / "companies")
    bank, shop = companies.tables["bank"], companies.tables[SHOP]
    federation = Federation(
        Party("bank", bank, id="customer", label="outcome"),
        Party(SHOP, shop, id="client"),
        privacy={"key_bits": 512, "insecure_test_mode": True},
        alignment={"one_sided": True},
    )
    estimator = GradientBoostingClassifier(n_estimators=2, max_depth=2)
    found = cross_validate(estimator, federation, cv=3)
    assert len(found.folds) == 3


# between companies


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("one sided")
    consent = {"min_node_rows": 0, "min_bin_gap": 0, "small_data": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VFL_REPORT", "html")
        companies = one_sided(
            folder / "companies", consent=consent, rows=600, training={"min_node_rows": 0, "min_bin_gap": 0}
        )
        return companies, train(companies, folder / "run"), folder / "run"


def test_the_passive_partys_own_report_has_no_number_of_members(world: World) -> None:
    companies, _, run = world
    report = json.loads((run / SHOP / "report.json").read_text())
    assert report["alignment"]["intersection"] is None
    assert report["rows"] == {"train": None, "test": None}
    assert "feature_importance" not in report
    members = len(common(companies))
    told = json.loads((run / "bank" / "report.json").read_text())
    assert told["alignment"]["intersection"] == members == sum(told["rows"].values())
    numbers = {str(members), str(told["rows"]["train"]), str(told["rows"]["test"])}
    page = (run / SHOP / "report.html").read_text()
    assert "bank alone knows which rows they have in common" in page
    shown = set(re.findall(r">(\d[\d,]*)<", page))
    assert not {number for number in numbers if number in shown}


def test_an_evaluation_and_its_prediction_tell_no_members(world: World, tmp_path: Path) -> None:
    companies, job, run = world
    ended = run_all(scoring(companies, job, run, tmp_path / "judged", "evaluate"))
    assert {name: outcome.code for name, outcome in ended.items()} == dict.fromkeys(job.roles, 0), ended
    report = json.loads((tmp_path / "judged" / "report.json").read_text())
    assert report["rows"]["test"] == report["alignment"]["intersection"] == len(common(companies))
    (own,) = (run / SHOP).rglob("prediction.json")
    told = json.loads(own.read_text())
    assert told["scored"] is None and told["unscored"] is None
    assert "scored jointly" in ended[SHOP].stdout and "not told" in ended[SHOP].stdout
    file = companies.folder / ".vfl" / SHOP / "budgets.json"
    (account,) = json.loads(file.read_text().splitlines()[0])["alignments"].values()
    assert [entry["size"] for entry in account["scored"]] == [
        590,
        590,
    ]  # its list, whole, both times


# refusals


@pytest.mark.parametrize("model", ["softmax", "poisson"])
def test_models_that_cannot_are_refused_by_name(model: str, vfl: Command, tmp_path: Path) -> None:
    companies = make_companies(tmp_path / "companies", model, passive=1, alignment={"one_sided": True})
    done = vfl("run", companies.write(), "--out", tmp_path / "run")
    assert done.code == 2
    assert f"got true for model '{model}'" in done.error and "'boosting'" in done.error


def test_two_passive_parties_are_refused_by_name(vfl: Command, tmp_path: Path) -> None:
    companies = make_boosted(tmp_path / "companies", passive=2, alignment={"one_sided": True})
    done = vfl("run", companies.write(), "--out", tmp_path / "run")
    assert done.code == 2 and "got true for 2 passive parties" in done.error


def test_check_reads_what_the_run_will(vfl: Command, tmp_path: Path) -> None:
    companies = one_sided(tmp_path / "companies", messy=True)
    done = vfl("check", companies.write())
    assert done.code == 0 and f"{len(common(companies)):,} common rows" in done.stdout
    assert np.isclose(len(common(companies)), 243, atol=8)


# what is kept, and what policies are asked


def test_an_alignment_is_taken_up_as_it_was_kept(tmp_path: Path) -> None:
    scenario = load_scenario(one_sided(tmp_path / "companies").write(), ())
    job, folder = scenario.job, tmp_path / "kept"
    loaded = {s.name: session.load_party(job, s, read_party(s)) for s in scenario.parties}

    def keeper(name: str) -> FolderKeeper:
        return FolderKeeper(folder=folder / name, run="run", job="job", party=name)

    def play(endpoint: Endpoint) -> object:
        endpoint.keeper = keeper(endpoint.name)
        if endpoint.name == COORDINATOR:
            return session.join(endpoint, job)
        return session.align(endpoint, job, loaded[endpoint.name].ids)

    found = run_local(dict.fromkeys((COORDINATOR, "bank", SHOP), play), roles=role_types(job), job=job_fields(job))
    for name in ("bank", SHOP):
        kept = keeper(name)
        kept.resume_from(ALIGNED)
        again = session.align(SimpleNamespace(keeper=kept), job, loaded[name].ids)  # type: ignore[arg-type]
        assert again.rows.tolist() == found[name].rows.tolist()
        assert (again.sizes, again.intersection, again.digest) == (
            found[name].sizes,
            found[name].intersection,
            found[name].digest,
        )
        assert (again.places is None) == (found[name].places is None) == (name == SHOP)
        assert again.places is None or again.places.tolist() == found[name].places.tolist()
    assert found[SHOP].intersection == 0 and len(found[SHOP].rows) == 390


def test_policies_are_asked_for_the_messages_of_a_one_sided_run() -> None:
    members = Member(name="bank", role="active"), Member(name=SHOP, role="passive")
    job = Job(name="demo", model="boosting", task="binary", parties=members, alignment=Alignment(one_sided=True))
    named = {role: {m.name for m in disclosures_of(job, role, "active")} for role in (Active, Passive)}
    trees = {"boosting_one_sided.candidates", "boosting_one_sided.sides", "importance.feature_gains"}
    assert trees | {"verdict.members", "boosting_scoring_one_sided.sides"} <= named[Passive]
    assert {"boosting_one_sided.chosen", "boosting_one_sided.outcome"} <= named[Active]
    for names in named.values():
        assert not [name for name in names if name.startswith(("boosting.", "boosting_scoring."))]
        assert not names & {"importance.own_gains", "verdict.matches"}
