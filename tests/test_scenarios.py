"""The scenarios that come with the project: every file loads, its CSVs are there, and its README names its command."""

from __future__ import annotations

import runpy
import tomllib
from pathlib import Path

import pytest

from vfl.job_file import load_scenario

SCENARIOS = Path(__file__).parents[1] / "scenarios"
FILES = sorted(
    str(path.relative_to(SCENARIOS))
    for path in SCENARIOS.glob("*/*.toml")
    if "party" in (lines := tomllib.loads(path.read_text(encoding="utf-8"))) and "coordinator" not in lines
)


@pytest.mark.parametrize("name", FILES)
def test_a_scenario_loads_and_its_readme_says_how_to_run_it(name: str) -> None:
    scenario = load_scenario(SCENARIOS / name)
    assert all(Path(party.data).is_file() for party in scenario.parties)
    command = f"vfl run scenarios/{name.removesuffix('/scenario.toml')}\n"
    assert command in (SCENARIOS / name).with_name("README.md").read_text(encoding="utf-8")


def test_networks_are_shown_with_and_without_columns_at_the_active_party_and_in_both_modes() -> None:
    jobs = [load_scenario(SCENARIOS / name) for name in FILES]
    networks = [one for one in jobs if one.job.model == "splitnn"]
    assert {one.job.splitnn.mode for one in networks} == {"source-layer", "split"}
    assert {one.job.task for one in networks} == {"binary", "multiclass", "regression"}
    assert any(one.job.splitnn.label_inference for one in networks)


def test_the_digits_are_made_as_their_readme_says(tmp_path: Path) -> None:
    runpy.run_path(str(SCENARIOS / "digits" / "make_data.py"))["make"](tmp_path)
    for name in ("sorting_office.csv", "scanner.csv"):
        assert (tmp_path / name).read_bytes() == (SCENARIOS / "digits" / name).read_bytes()
