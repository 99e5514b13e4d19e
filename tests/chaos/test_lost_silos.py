"""A silo is killed, stops, fails or sends garbage in a stage of a real ``vfl run``: the others go on, if they may."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.runs.companies import Outcome, run_vfl
from vfl.audit import verify_run

ROOT = Path(__file__).parents[2]
UNLUCKY = Path(__file__).with_name("unlucky")
SILOS = [f"clinic.s{number}" for number in range(4)]
ROUNDS = 3


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four silos that average a logistic regression."""
    folder = tmp_path_factory.mktemp("clinic")
    rng = np.random.default_rng(5)
    lines = ['name = "clinic"', 'model = "logistic"', "seed = 3", "[training]", 'aggregation = "fedavg"']
    lines += [f"rounds = {ROUNDS}", "[[party]]", 'name = "clinic"', 'role = "active"', 'label = "ill"']
    for number in range(len(SILOS)):
        X = rng.normal(size=(60 + 10 * number, 2))
        ill = (X.sum(axis=1) + rng.normal(size=len(X)) > 0).astype(int)
        pd.DataFrame({"age": X[:, 0], "dose": X[:, 1], "ill": ill}).to_csv(folder / f"{number}.csv", index=False)
        lines += ["[[party.silo]]", f'name = "s{number}"', f'data = "{number}.csv"']
    (folder / "scenario.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def run(scenario: Path, out: Path, luck: str, *, least: int | None = 3, timeout: float = 1.0) -> Outcome:
    """A whole run with such luck; a round waits a second for a silo."""
    settings = {"training.min_silos": least, "training.round_timeout": timeout} if least else {}
    return run_vfl(
        *("run", scenario, "--out", out, "--no-baselines", "--json"),
        *(word for key, value in settings.items() for word in ("--set", f"{key}={value}")),
        env={"VFL_TEST_BAD_LUCK": luck, "PYTHONPATH": f"{UNLUCKY}:{ROOT}", "VFL_REPORT": "json"},
    )


def slow(*case: object) -> object:
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("luck", "why", "rounds", "words"),
    [
        ("clinic.s2 secure_sum.masked 2 killed", "lost", [2], "the process of clinic.s2 died (killed by SIGKILL)"),
        slow("clinic.s3 secure_sum.keys 1 killed", "lost", [1], "the process of clinic.s3 died (killed by SIGKILL)"),
        slow("clinic.s0 secure_sum.boxes 3 killed", "lost", [3], "the process of clinic.s0 died (killed by SIGKILL)"),
        slow("clinic.s1 secure_sum.shares 2 killed", "lost", [2], "the process of clinic.s1 died (killed by SIGKILL)"),
        slow("clinic.s1 secure_sum.masked 1 stopped", "late", [1, 2, 3], "clinic.s1 was late when the training ended"),
        slow("clinic.s2 secure_sum.masked 1 garbage", "lost", [1], "clinic.s2 sent what is no frame"),
        slow("clinic.s2 secure_sum.masked 2 malformed", "malformed", [2], "clinic.s2 sent a malformed update"),
        slow("clinic.s3 secure_sum.keys 2 fails", "lost", [2], "clinic.s3 stopped on an internal error, ValueError at"),
    ],
    ids=lambda value: value.replace(".", " ") if isinstance(value, str) and "secure" in value else "",
)
def test_the_run_goes_on_and_says_without_whom(
    scenario: Path, tmp_path: Path, luck: str, why: str, rounds: list[int], words: str
) -> None:
    unlucky = luck.split()[0]
    outcome = run(scenario, tmp_path / "out", luck)
    assert outcome.code == 0, outcome.stderr
    report = json.loads(outcome.stdout)
    left_out = report["training"]["aggregation"]["left_out"]
    assert [(line["silo"], line["why"]) for line in left_out] == [(unlucky, why)] * len(left_out)
    assert [line["round"] for line in left_out][: len(rounds)] == rounds
    assert report["training"]["rounds"] == ROUNDS
    told = [line for line in report["warnings"] if unlucky in line and "went on without" in line]
    assert len(told) == 1 and words in told[0], report["warnings"]
    others = [name for name in SILOS if name != unlucky]
    models = {(tmp_path / "out" / name / "model.npz").read_bytes() for name in others}
    assert len(models) == 1, "all who are left have the same model"
    assert not (tmp_path / "out" / unlucky / "model.npz").exists()
    agreement = verify_run(tmp_path / "out")
    assert agreement.ledgers == len(SILOS) + 2 and not agreement.unseen


@pytest.mark.slow
def test_who_is_late_once_is_back_in_a_later_round(scenario: Path, tmp_path: Path) -> None:
    outcome = run(scenario, tmp_path / "out", "clinic.s2 secure_sum.masked 1 slow", timeout=2.0)
    assert outcome.code == 0, outcome.stderr
    report = json.loads(outcome.stdout)
    left_out = report["training"]["aggregation"]["left_out"]
    assert {(line["silo"], line["why"]) for line in left_out} == {("clinic.s2", "late")}
    assert not any("went on without" in line for line in report["warnings"])
    assert len({(tmp_path / "out" / name / "model.npz").read_bytes() for name in SILOS}) == 1
    agreement = verify_run(tmp_path / "out")
    assert agreement.cut == 0 and not agreement.unseen, "what came late was taken in"


@pytest.mark.parametrize(
    ("luck", "least", "words"),
    [
        ("clinic.s2 secure_sum.masked 2 killed", None, "the process of clinic.s2 died (killed by SIGKILL); run again"),
        slow("clinic.s1 horizontal.begun 1 killed", 3, "the process of clinic.s1 died (killed by SIGKILL); run again"),
        slow("clinic.s2 secure_sum.keys 1 killed", 4, "the process of clinic.s2 died (killed by SIGKILL); run again"),
        slow("clinic.s2 secure_sum.masked 2 garbage", None, "clinic.s2 sent what is no frame"),
    ],
    ids=["all are needed", "before the training", "too few left", "garbage"],
)
def test_where_all_are_needed_the_run_ends_and_names_it(
    scenario: Path, tmp_path: Path, luck: str, least: int | None, words: str
) -> None:
    outcome = run(scenario, tmp_path / "out", luck, least=least)
    assert outcome.code == 1 and outcome.stdout == ""
    assert words in outcome.stderr.splitlines()[-1], outcome.stderr
    assert not (tmp_path / "out").exists()
