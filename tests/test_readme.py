"""The README's examples run as they stand, and its links and commands exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from vfl import JointModel

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "SECURITY.md",
    "docs/protocols/README.md",
    "docs/report.md",
    "docs/operating.md",
    "scenarios/three_companies/README.md",
]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def run_example(number: int, monkeypatch: pytest.MonkeyPatch) -> JointModel:
    """Run one of the README's Python examples; returns its model."""
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) == 2
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    exec(compile(examples[number], "README.md", "exec"), names)  # noqa: S102 - our own README
    model = names["model"]
    assert isinstance(model, JointModel)
    return model


@pytest.mark.slow
def test_python_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    figures = run_example(0, monkeypatch).evaluate()
    out = capsys.readouterr().out
    assert "active_only" in out
    assert "pooled" in out
    assert figures.metrics["rmse"] == pytest.approx(figures.pooled["rmse"], rel=1e-3)
    assert figures.metrics["rmse"] < 0.8 * figures.active_only["rmse"]


@pytest.mark.slow
def test_python_example_of_trees_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    figures = run_example(1, monkeypatch).evaluate()
    assert "workshop x" in capsys.readouterr().out
    assert figures.metrics == figures.pooled
    assert figures.metrics["accuracy"] > figures.active_only["accuracy"]


def test_scenario_example_is_a_scenario() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert [party["role"] for party in tomllib.loads(text)["party"]] == ["active", "passive"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), target


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_variable_of_the_environment_is_listed() -> None:
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "vfl").rglob("*.py"))
    read = {name for text in sources for name in re.findall(r"environ\S*(VFL_\w+)", text)}
    assert read
    assert read == set(re.findall(r"^\| `(VFL_\w+)`", README, re.MULTILINE))
