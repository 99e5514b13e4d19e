"""``vfl predict`` and ``vfl evaluate`` between companies: every role a process of its own, with its own folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from tests.chaos.between_companies import Job, write_job
from tests.runs.companies import VFL, Companies, Outcome, files_in, make_boosted, make_companies

SECONDS = 120
QUICK = {"heartbeat": 0.3, "notice": 1, "reconnect_timeout": 3}
POLICY = {"key_bits": 512, "small_data": True}


def run_all(commands: dict[str, list[str]]) -> dict[str, Outcome]:
    """Run commands side by side to their ends."""
    running = {
        name: subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"COLUMNS": "200"},
        )
        for name, command in commands.items()
    }  # fmt: skip
    try:
        outcomes = {}
        for name, process in running.items():
            out, said = process.communicate(timeout=SECONDS)
            outcomes[name] = Outcome(process.returncode, out, said)
        return outcomes
    finally:
        for process in running.values():
            process.kill()
            process.communicate()


def train(companies: Companies, out: Path) -> Job:
    job = write_job(companies, QUICK)
    ended = run_all({role: job.command(role, out) for role in job.roles})
    assert {name: outcome.code for name, outcome in ended.items()} == dict.fromkeys(job.roles, 0), ended
    return job


def scoring(
    companies: Companies, job: Job, out: Path, scores: Path, command: str = "predict", tables: str = "data"
) -> dict[str, list[str]]:
    """The commands of a prediction; at the active party ``command``."""
    commands = {"coordinator": [*job.command("coordinator", out), "--predict"]}
    for name, party in companies.parties.items():
        file = companies.folder / str(party[tables])
        doing = command if name == companies.active else "predict"
        commands[name] = [VFL, doing, str(out / name), "--data", f"{name}={file}", "--join",
                          str(companies.folder / f"{name}.toml")]  # fmt: skip
    commands[companies.active] += ["--out", str(scores)]
    return commands


def linear(folder: Path, **policy: object) -> Companies:
    companies = make_companies(folder, rows=700, privacy={"key_bits": 512, "insecure_test_mode": True,
                                                         "small_data": True, "key_holder": "active"})  # fmt: skip
    for party in companies.parties.values():
        party["policy"] = POLICY | policy
    return companies


def test_scores_are_those_of_the_run(tmp_path: Path) -> None:
    companies = linear(tmp_path / "companies", scored_rows=2000)
    job = train(companies, tmp_path / "run")
    ended = run_all(scoring(companies, job, tmp_path / "run", tmp_path / "scores.csv"))
    assert {name: outcome.code for name, outcome in ended.items()} == dict.fromkeys(job.roles, 0), ended
    new = pd.read_csv(tmp_path / "scores.csv", dtype=str)
    old = pd.read_csv(tmp_path / "run" / "bank" / "bank" / "test_scores.csv", dtype=str)
    both = old.merge(new, on="customer", suffixes=(" then", ""))
    assert len(both) == len(old) > 100
    assert (both["score then"] == both["score"]).all()
    assert "the active party" in ended["biller"].stdout
    assert "score" not in {Path(name).stem for name in files_in(tmp_path / "run" / "biller")}
    _check_budget(companies, len(old), len(new))


def _check_budget(companies: Companies, test: int, predicted: int) -> None:
    """Test rows and predicted rows stand on one account, on which the training's scores were counted."""
    file = companies.folder / ".vfl" / "biller" / "budgets.json"
    accounts = json.loads(file.read_text().splitlines()[0])["alignments"].values()
    (account,) = accounts
    assert [entry["size"] for entry in account["scored"]] == [test, predicted]
    assert account["scored"][-1]["count"] == test + predicted
    assert account["opened"]


def test_trees_and_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFL_REPORT", "html")
    consent = {"min_node_rows": 0, "min_bin_gap": 0, "small_data": True}
    companies = make_boosted(tmp_path / "companies", consent=consent, passive=1, rows=500,
                             training={"min_node_rows": 0, "min_bin_gap": 0})  # fmt: skip
    job = train(companies, tmp_path / "run")
    ended = run_all(scoring(companies, job, tmp_path / "run", tmp_path / "judged", "evaluate"))
    assert {name: outcome.code for name, outcome in ended.items()} == dict.fromkeys(job.roles, 0), ended
    report = json.loads((tmp_path / "judged" / "report.json").read_text())
    assert report["rows"]["test"] == report["alignment"]["intersection"]
    assert report["metrics"]["joint"]["auc"] > 0.6
    assert report["evaluates"] == json.loads((tmp_path / "run/bank/bank/run.json").read_text())["run"]
    assert [party["rows"] for party in report["parties"]] == [500, None]
    page = (tmp_path / "judged" / "report.html").read_text()
    theirs = companies.tables["card-network"]
    assert not [cell for cell in theirs.iloc[:, 1].astype(str) if cell in page]


def test_a_second_prediction_exceeds_the_budget(tmp_path: Path) -> None:
    companies = linear(tmp_path / "companies", scored_rows=1000)
    job = train(companies, tmp_path / "run")
    first = run_all(scoring(companies, job, tmp_path / "run", tmp_path / "first.csv"))
    assert first["bank"].code == 0
    fewer = {name: table.iloc[5:] for name, table in companies.tables.items()}  # another alignment, the same account
    for name, table in fewer.items():
        companies.parties[name]["fewer"] = f"fewer {name}.csv"
        table.to_csv(companies.folder / f"fewer {name}.csv", index=False)
    before = files_in(tmp_path / "run")
    second = run_all(scoring(companies, job, tmp_path / "run", tmp_path / "second.csv", tables="fewer"))
    refused = [name for name, outcome in second.items() if outcome.code == 2]
    assert refused and set(refused) <= {"biller", "card-network"}
    assert all("scored_rows" in second[name].error for name in refused)
    assert second["bank"].code == 1
    assert not (tmp_path / "second.csv").exists()
    assert files_in(tmp_path / "run") == before


def test_a_shard_of_another_run_is_noticed(tmp_path: Path) -> None:
    companies = linear(tmp_path / "companies")
    train(companies, tmp_path / "run")
    shutil.rmtree(companies.folder / ".vfl")
    job = train(companies, tmp_path / "other")
    commands = scoring(companies, job, tmp_path / "run", tmp_path / "s.csv")
    at = commands["biller"].index(str(tmp_path / "run" / "biller"))
    commands["biller"][at] = str(tmp_path / "other" / "biller")
    ended = run_all(commands)
    assert ended["bank"].code == 2
    assert "party 'biller' has a shard of another run" in ended["bank"].error
    assert {outcome.code for outcome in ended.values()} <= {1, 2}
    assert not (tmp_path / "s.csv").exists()


def test_a_training_and_a_prediction_do_not_meet(tmp_path: Path) -> None:
    companies = linear(tmp_path / "companies")
    job = train(companies, tmp_path / "run")
    commands = scoring(companies, job, tmp_path / "run", tmp_path / "s.csv")
    commands["coordinator"] = job.command("coordinator", tmp_path / "again")
    ended = run_all(commands)
    assert any("purpose" in outcome.stderr for outcome in ended.values()), ended
    assert {outcome.code for outcome in ended.values()} <= {1, 2}


@pytest.mark.parametrize(
    ("role", "change", "said"),
    [
        ("biller", lambda given: [*given, "--out", "s.csv"], "--out at passive party 'biller'"),
        ("biller", lambda given: ["evaluate" if one == "predict" else one for one in given], "at passive party"),
        ("bank", lambda given: [one.replace("bank=", "biller=") for one in given], "for 'bank' alone"),
        ("bank", lambda given: given[: given.index("--out")], "--out missing"),
    ],
    ids=["scores at a passive party", "evaluation at a passive party", "another's data", "no out"],
)
def test_mistakes_before_anybody_is_dialled(tmp_path_factory, role, change, said) -> None:  # type: ignore[no-untyped-def]
    companies, job, run = _trained_once(tmp_path_factory)
    commands = scoring(companies, job, run, run.parent / "s.csv")
    done = run_all({role: change(commands[role])})[role]
    assert done.code == 2
    assert said in done.error


_ONCE: list[tuple[Companies, Job, Path]] = []


def _trained_once(factory: pytest.TempPathFactory) -> tuple[Companies, Job, Path]:
    if not _ONCE:
        folder = factory.mktemp("once")
        companies = linear(folder / "companies")
        _ONCE.append((companies, train(companies, folder / "run"), folder / "run"))
    return _ONCE[0]
