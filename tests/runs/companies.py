"""Small companies for tests of whole runs: CSVs with a joint signal, a scenario file, and ways to run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TASKS = {"logistic": "binary", "linear": "regression", "poisson": "count", "softmax": "multiclass"}
TEST_KEY = {"key_bits": 512, "insecure_test_mode": True}
VFL = str(Path(sys.executable).with_name("vfl"))
Section = dict[str, object]


@dataclass
class Companies:
    """Tables in memory and the lines of a scenario; ``write`` puts both on disk, as often as a test changes them."""

    folder: Path
    model: str
    tables: dict[str, pd.DataFrame]
    parties: dict[str, Section]
    sections: dict[str, Section]
    top: Section = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.folder / "scenario.toml"

    @property
    def active(self) -> str:
        return next(name for name, party in self.parties.items() if party["role"] == "active")

    def write(self) -> Path:
        """Write CSVs and scenario; returns the scenario's directory."""
        self.folder.mkdir(exist_ok=True, parents=True)
        for name, table in self.tables.items():
            table.to_csv(self.folder / str(self.parties[name]["data"]), index=False)
        self.file.write_text(self.text(), encoding="utf-8")
        return self.folder

    def text(self) -> str:
        lines = [f"{key} = {toml(value)}" for key, value in self.top.items()]
        for name, section in self.sections.items():
            lines += [f"[{name}]", *(f"{key} = {toml(value)}" for key, value in section.items())]
        for name, party in self.parties.items():
            lines += ["[[party]]", f'name = "{name}"']
            lines += [f"{key} = {toml(value)}" for key, value in party.items() if key != "policy"]
            lines += ["[party.policy]"] if "policy" in party else []
            lines += [f"{key} = {toml(value)}" for key, value in dict(party.get("policy", {})).items()]
        return "\n".join(lines) + "\n"

    def secrets(self) -> set[str]:
        """Every id, every label with a text of its own, and every cell too long to occur by chance."""
        cells = {str(cell) for table in self.tables.values() for column in table for cell in table[column]}
        return {cell for cell in cells if len(cell) >= 8 or cell.startswith("zq-")}


def toml(value: object) -> str:
    """A value as TOML; JSON is near enough for text, numbers, booleans and lists."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def make_companies(
    folder: Path,
    model: str = "logistic",
    *,
    passive: int = 2,
    rows: int = 400,
    columns: int = 3,
    label_only: bool = False,
    composite: bool = False,
    weights: bool = False,
    messy: bool = False,
    classes: tuple[str, ...] | None = None,
    seed: int = 0,
    key_holder: str = "auto",
    **sections: Section,
) -> Companies:
    """Companies with ``columns`` columns each; every one lacks other rows and has its own order and id column name.

    ``messy`` adds categories, missing cells and a constant column to every party with features.
    """
    rng = np.random.default_rng(seed)
    names = ["bank", *("card-network", "biller", "telco", "shop")[:passive]]
    ids = [f"{number:07d}x" for number in rng.permutation(10**6)[:rows]]
    X = {name: rng.normal(size=(rows, columns)) for name in names}
    outputs = len(classes or "abc") if model == "softmax" else 1
    signal = np.column_stack([sum(x @ rng.normal(size=columns) for x in X.values()) for _ in range(outputs)])
    label = _labels(model, signal / np.sqrt(columns * len(names)), classes, rng)
    tables, parties = {}, {}
    for at, name in enumerate(names):
        data: dict[str, object] = _id_cells(ids, composite, at)
        parties[name] = {
            "role": "passive",
            "data": f"{name.replace('-', '_')} data.csv",
            "id": list(data) if composite else next(iter(data)),
        }
        if name == "bank":
            data["outcome"] = label
            parties[name] |= {"role": "active", "label": "outcome"}
        if not (label_only and name == "bank"):
            data |= {f"x{j}": [f"{value:.9f}" for value in X[name][:, j]] for j in range(columns)}
            data |= _mess(rows, rng) if messy else {}
        if weights and name == "bank":
            data["importance"] = [f"{value:.4f}" for value in rng.uniform(0.2, 3, rows)]
            parties[name]["sample_weight"] = "importance"
        keep = rng.permutation(rows)[: rows - 10 * at]
        tables[name] = pd.DataFrame(data).iloc[keep].reset_index(drop=True)
    given = {"alignment": {}, "training": {}, "privacy": TEST_KEY | {"key_holder": key_holder}} | sections
    return Companies(folder, model, tables, parties, given, {"name": "trial", "model": model, "seed": 3})


def make_boosted(
    folder: Path,
    task: str = "binary",
    *,
    training: Section | None = None,
    consent: Section | None = None,
    **options: Any,
) -> Companies:
    """Companies as `make_companies` makes them, for a few small trees; ``consent`` is every party's policy."""
    model = next(model for model, its_task in TASKS.items() if its_task == task)
    trees = {"n_estimators": 3, "max_depth": 3, "max_bin": 16, "min_child_weight": 0.1}
    companies = make_companies(folder, model, training=trees | (training or {}), **options)
    companies.model = "boosting"
    companies.top |= {"model": "boosting", "task": task}
    for party in companies.parties.values():
        party["policy"] = {"key_bits": 512} | (consent or {})
    return companies


def _id_cells(ids: list[str], composite: bool, party: int) -> dict[str, object]:
    name = ("customer", "client", "Konto-Nr.", "id", "no")[party]
    if not composite:
        return {name: ids}
    return {name: [one[:4] for one in ids], f"{name} branch": [one[4:] for one in ids]}


def _labels(model: str, z: np.ndarray, classes: tuple[str, ...] | None, rng: np.random.Generator) -> list[str]:
    if model == "logistic":
        positive = rng.random(len(z)) < 1 / (1 + np.exp(-2 * z[:, 0]))
        return [(classes or ("0", "1"))[int(one)] for one in positive]
    if model == "softmax":
        return [(classes or ("a", "b", "c"))[code] for code in (2 * z + rng.gumbel(size=z.shape)).argmax(axis=1)]
    if model == "poisson":
        return [str(count) for count in rng.poisson(np.exp(np.clip(0.5 * z[:, 0], -3, 2)))]
    return [f"{value:.8f}" for value in 100 + 20 * z[:, 0] + rng.normal(size=len(z))]


def _mess(rows: int, rng: np.random.Generator) -> dict[str, list[str]]:
    holes = rng.normal(size=rows)
    return {
        "farbe größe": [("red", "blue", "dark green", "")[one] for one in rng.integers(0, 4, rows)],
        "holes": [("" if value > 1 else f"{value:.4f}") for value in holes],
        "always": ["7"] * rows,
    }


@dataclass(frozen=True)
class Outcome:
    """What one command left on the terminal."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The last line on standard error; nothing before it may look like a traceback or a box."""
        assert "Traceback" not in self.stderr and "╭" not in self.stderr, self.stderr
        lines = self.stderr.splitlines()
        assert lines, "no line on standard error"
        assert [line.startswith("error: ") for line in lines] == [False] * (len(lines) - 1) + [True], self.stderr
        return lines[-1]


def run_vfl(*arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> Outcome:
    """The ``vfl`` command in a process of its own."""
    done = subprocess.run(
        [VFL, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env=os.environ | (env or {}),
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def files_in(folder: Path) -> set[str]:
    """Every path below a directory, hidden ones too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
