"""Kernel and threads: said before anything starts, refused in one line when the environment asks for what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.runs.companies import Companies, make_companies, run_vfl
from tests.runs.conftest import Command
from vfl import launch
from vfl.arithmetic import Arithmetic, choose_arithmetic
from vfl.job_file import load_scenario
from vfl.paillier import ifma_library
from vfl.paillier.ifma_kernel import why_not_ifma
from vfl.role import Outcome

QUICK = ("--in-process", "--no-baselines")


@pytest.fixture
def companies(tmp_path: Path) -> Companies:
    companies = make_companies(tmp_path / "scenario", "linear", passive=1, rows=130)
    companies.write()
    return companies


@pytest.fixture(params=["run", "check"])
def line(request: pytest.FixtureRequest, companies: Companies, tmp_path: Path) -> list[object]:
    """A command that knows before anything starts."""
    out = ["--out", tmp_path / "out"] if request.param == "run" else []
    return [request.param, companies.folder, *out]


def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VFL_KERNEL", raising=False)
    monkeypatch.setattr(ifma_library, "library", lambda: None)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("VFL_KERNEL", "nonsense", "no kernel named 'nonsense'; choose one of: ifma, gmpy2"),
        ("VFL_KERNEL", "IFMA", "no kernel named 'IFMA'"),
        ("VFL_THREADS", "abc", "got 'abc', expected a whole number from 1 to 256"),
        ("VFL_THREADS", "0", "got '0'"),
        ("VFL_THREADS", "257", "got '257'"),
    ],
)
def test_nonsense_is_refused_before_anything_starts(
    vfl: Command, monkeypatch: pytest.MonkeyPatch, line: list[object], variable: str, value: str, told: str
) -> None:
    monkeypatch.setenv(variable, value)
    said = vfl(*line)
    assert said.code == 2 and said.stdout == "" and said.stderr.count("\n") == 1
    assert said.error.startswith(f"error: {variable}: ") and told in said.error


def test_a_kernel_that_is_not_there_is_refused(
    vfl: Command, monkeypatch: pytest.MonkeyPatch, line: list[object], tmp_path: Path
) -> None:
    without_library(monkeypatch)
    monkeypatch.setenv("VFL_KERNEL", "ifma")
    said = vfl(*line)
    assert said.code == 2 and said.stdout == "" and not (tmp_path / "out").exists()
    assert "ifma can't be used here: the C kernel is not built" in said.error


def test_without_the_c_kernel_a_hint(
    vfl: Command, companies: Companies, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_library(monkeypatch)
    for command in (("check", companies.folder), ("run", companies.folder, "--out", tmp_path / "out", *QUICK)):
        said = vfl(*command)
        assert said.code == 0 and said.stderr == ""
        first, second, *others = said.stdout.splitlines()
        assert first.startswith("Paillier 512 bits, kernel gmpy2, ")
        for words in ("hint: ", "ten times", "the C kernel is not built", "C compiler", "AVX-512 IFMA"):
            assert words in second
        assert not any("hint" in other for other in others)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["crypto"]["kernel"] == "gmpy2"


def test_no_hint_to_whoever_chose(vfl: Command, companies: Companies, monkeypatch: pytest.MonkeyPatch) -> None:
    without_library(monkeypatch)
    monkeypatch.setenv("VFL_KERNEL", "gmpy2")
    monkeypatch.setenv("VFL_THREADS", "1")
    said = vfl("check", companies.folder)
    assert said.stdout.startswith("Paillier 512 bits, kernel gmpy2, 1 thread a role\n")
    assert "hint" not in said.stdout


def test_threads_and_an_old_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        """What a library says that was built well, on a processor that lacks the instructions."""

        @staticmethod
        def vfl_ifma_supported() -> int:
            return 0

    monkeypatch.delenv("VFL_KERNEL", raising=False)
    monkeypatch.setenv("VFL_THREADS", "7")
    monkeypatch.setattr(ifma_library, "library", Library)
    chosen = choose_arithmetic(3072)
    assert str(chosen) == "Paillier 3072 bits, kernel gmpy2, up to 7 threads a role"
    assert "this processor has no AVX-512 IFMA" in chosen.hint
    assert Arithmetic(2048, "ifma", 2).hint == ""


def test_the_report_names_the_parties_kernels(
    companies: Companies, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not the coordinator's, which may hold no key; both where parties differ."""
    kernels = {"coordinator": "abacus", "bank": "ifma", "card-network": "ifma"}
    honest = launch._collect

    def collect(*arguments: object) -> dict[str, Outcome]:
        outcomes = honest(*arguments)
        return {name: replaced(outcome, kernels[name]) for name, outcome in outcomes.items()}

    def replaced(outcome: Outcome, kernel: str) -> Outcome:
        assert outcome.kernel in ("ifma", "gmpy2")
        return Outcome(result=outcome.result, kernel=kernel)

    monkeypatch.setattr(launch, "_collect", collect)
    scenario = load_scenario(companies.folder, ())
    for other, expected in (("ifma", "ifma"), ("gmpy2", "gmpy2 and ifma")):
        kernels["card-network"] = other
        played = launch.play_in_processes(scenario, tmp_path / other, lambda event: None, baselines=False)
        assert played.kernel == expected


@pytest.mark.slow
def test_every_kernel_makes_the_same_model(companies: Companies, tmp_path: Path) -> None:
    """Between processes, on every kernel that this processor can run."""
    models = set()
    for kernel in ("gmpy2", *([] if why_not_ifma() else ["ifma"])):
        env = {"VFL_KERNEL": kernel, "VFL_THREADS": "1"}
        said = run_vfl("run", companies.folder, "--out", tmp_path / kernel, "--no-baselines", "--json", env=env)
        assert said.code == 0, said.stderr
        assert said.stderr.startswith(f"Paillier 512 bits, kernel {kernel}, 1 thread a role\n")
        assert json.loads(said.stdout)["crypto"]["kernel"] == kernel
        models.add(tuple((tmp_path / kernel / name / "model.npz").read_bytes() for name in companies.parties))
    assert len(models) == 1
