"""``vfl predict`` and ``vfl evaluate`` between companies: every role a process of its own, with its own folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class World:
    """A model trained once between companies, for all tests of this file."""

    companies: Companies
    job: Job
    run: Path

    def commands(self, scores: Path, command: str = "predict", tables: str = "data") -> dict[str, list[str]]:
        return scoring(self.companies, self.job, self.run, scores, command, tables)

    def scored(self) -> list[dict[str, object]]:
        """Entries of rows scored in the biller's budget: there is one account."""
        file = self.companies.folder / ".vfl" / "biller" / "budgets.json"
        (account,) = json.loads(file.read_text().splitlines()[0])["alignments"].values()
        assert account["opened"]
        scored: list[dict[str, object]] = account["scored"]
        return scored


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("once")
    companies = linear(folder / "companies")
    return World(companies, train(companies, folder / "run"), folder / "run")


def test_scores_are_those_of_the_run(world: World, tmp_path: Path) -> None:
    before = world.scored()
    ended = run_all(world.commands(tmp_path / "scores.csv"))
    assert {name: outcome.code for name, outcome in ended.items()} == dict.fromkeys(world.job.roles, 0), ended
    new = pd.read_csv(tmp_path / "scores.csv", dtype=str)
    old = pd.read_csv(world.run / "bank" / "bank" / "test_scores.csv", dtype=str)
    both = old.merge(new, on="customer", suffixes=(" then", ""))
    assert len(both) == len(old) > 100
    assert (both["score then"] == both["score"]).all()
    assert "the active party" in ended["biller"].stdout
    assert "score" not in {Path(name).stem for name in files_in(world.run / "biller")}
    # test rows and predicted rows stand on one account, on which the training's scores were counted
    after = world.scored()
    assert after[0]["size"] == len(old)
    assert [entry["size"] for entry in after[len(before) :]] == [len(new)]
    assert after[-1]["count"] == sum(int(str(entry["size"])) for entry in after)


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


def test_a_further_prediction_exceeds_the_budget(world: World, tmp_path: Path) -> None:
    """The policy that holds is today's; other rows do not begin another account."""
    for name, table in world.companies.tables.items():
        world.companies.parties[name]["fewer"] = f"fewer {name}.csv"
        table.iloc[5:].to_csv(world.companies.folder / f"fewer {name}.csv", index=False)
    spent = int(str(world.scored()[-1]["count"]))
    commands = world.commands(tmp_path / "s.csv", tables="fewer")
    own = world.companies.folder / "biller.toml"
    strict = own.with_name("biller strict.toml")
    strict.write_text(own.read_text().replace("[policy]", f"[policy]\nscored_rows = {spent + 300}"))
    commands["biller"] = [str(strict) if one == str(own) else one for one in commands["biller"]]
    before = files_in(world.run)
    ended = run_all(commands)
    assert ended["biller"].code == 2
    assert f"expected at most {spent + 300:,}" in ended["biller"].error
    assert "scored_rows" in ended["biller"].error
    assert ended["bank"].code == 1
    assert not (tmp_path / "s.csv").exists()
    assert files_in(world.run) == before
    assert world.scored()[-1]["count"] == spent


def test_a_shard_of_another_run_is_noticed(world: World, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(world.run / "biller", other)
    kept = json.loads((other / "biller" / "run.json").read_text())
    (other / "biller" / "run.json").write_text(json.dumps(kept | {"run": "f" * 32}))
    commands = world.commands(tmp_path / "s.csv")
    at = commands["biller"].index(str(world.run / "biller"))
    commands["biller"][at] = str(other)
    ended = run_all(commands)
    assert ended["bank"].code == 2
    assert "party 'biller' has a shard of another run" in ended["bank"].error
    assert {outcome.code for outcome in ended.values()} <= {1, 2}
    assert not (tmp_path / "s.csv").exists()


def test_a_training_and_a_prediction_do_not_meet(world: World, tmp_path: Path) -> None:
    commands = world.commands(tmp_path / "s.csv")
    commands["coordinator"] = world.job.command("coordinator", tmp_path / "again")
    ended = run_all(commands)
    assert any("purpose" in outcome.stderr for outcome in ended.values()), ended
    assert {outcome.code for outcome in ended.values()} <= {1, 2}


@pytest.mark.parametrize("option", ["--resume", "--json", "--metrics=127.0.0.1:1", "--log-level=debug"])
def test_what_a_prediction_does_not_heed_is_refused(world: World, tmp_path: Path, option: str) -> None:
    done = run_all({"coordinator": [*world.commands(tmp_path / "s.csv")["coordinator"], option]})["coordinator"]
    assert done.code == 2
    assert f"{option.partition('=')[0]} with --predict" in done.error


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
def test_mistakes_before_anybody_is_dialled(
    world: World, tmp_path: Path, role: str, change: Callable[[list[str]], list[str]], said: str
) -> None:
    done = run_all({role: change(world.commands(tmp_path / "s.csv")[role])})[role]
    assert done.code == 2
    assert said in done.error
