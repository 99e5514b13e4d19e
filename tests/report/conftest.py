"""Runs that many tests look at, played once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.report.pages import between_companies, play
from tests.runs.companies import TASKS, Companies, make_boosted, make_companies


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run by its kind; "KIND of ROLE" is that role's own directory."""
    made: dict[str, Path] = {}

    def run(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp("run")
            source, _, role = kind.partition(" of ")
            made[kind] = between_companies(run(source), role, folder / "own") if role else _play(source, folder)
        return made[kind]

    return run


def _play(kind: str, folder: Path) -> Path:
    scenario, out = folder / "scenario", folder / "out"
    if kind == "boosting":
        return play(make_boosted(scenario), out)
    if kind.startswith("network"):
        return play(make_network(scenario, kind.removeprefix("network").strip() or "watched"), out)
    if kind == "label alone":
        return play(make_companies(scenario, "linear", label_only=True), out)
    if kind == "no test rows":
        return play(make_companies(scenario, split={"test_fraction": 0}), out)
    if kind == "no baselines":
        return play(make_companies(scenario, messy=True), out, "--no-baselines")
    if kind == "five parties":
        return play(make_companies(scenario, passive=4, rows=250), out, "--no-baselines")
    models = {"binary": "logistic", "multiclass": "softmax", "regression": "linear", "count": "poisson"}
    return play(make_companies(scenario, models[kind], messy=kind == "binary"), out)


def make_network(folder: Path, kind: str) -> Companies:
    """Companies for a small network: "watched" by validation rows, "regression", "split", "split attacked"."""
    task = "regression" if kind == "regression" else "binary"
    training: dict[str, object] = {"units": 3, "hidden": [4], "batch_size": 64, "epochs": 3, "learning_rate": 0.02}
    if kind.startswith("split"):
        training |= {"mode": "split", "bottom_hidden": [4]}
    if kind == "split attacked":
        training |= {"label_inference": True, "gradient_clip": 1.0, "gradient_noise": 2.0}
    model = next(model for model, its_task in TASKS.items() if its_task == task)
    companies = make_companies(folder, model, rows=220, training=training, split={"validation_fraction": 0.2})
    companies.model = "splitnn"
    companies.top |= {"model": "splitnn", "task": task}
    for party in companies.parties.values():
        party["policy"] = {"key_bits": 512, "embedding_gradients": True}
    return companies
