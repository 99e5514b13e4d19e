"""Small companies made of silos, for tests of whole runs: frames, a scenario with CSVs, and a federation in Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from parties.identity import make_identity, write_identity
from parties.link import COORDINATOR
from tests.chaos.between_companies import Job, free_port
from tests.runs.companies import TEST_KEY, toml
from tests.silos.federations import TASKS, draw_labels
from vfl import Federation, Party

HOSPITALS, INSURER = "hospitals", "insurer"
POLICY = {"key_bits": 512, "small_data": True, "two_silos": True, "partial_scores": True}
FORMS = {"boosting": {"n_estimators": 3, "max_depth": 2, "max_bin": 8}}


@dataclass
class Siloed:
    """Hospitals with labels and, unless ``insurer`` is None, an insurer that has most of their patients.

    Parameters
    ----------
    hospitals, insurer : int or None
        How many silos; 0: none.
    ids : bool
        Whether the hospitals have an id column.
    """

    model: str = "logistic"
    hospitals: int = 2
    insurer: int | None = 2
    rows: int = 240
    seed: int = 1
    ids: bool = True
    task: str = ""
    training: dict[str, object] = field(default_factory=dict)
    split: dict[str, object] = field(default_factory=dict)
    privacy: dict[str, object] = field(default_factory=dict)

    @property
    def of(self) -> str:
        """The task."""
        return self.task or TASKS[self.model]

    @property
    def active(self) -> list[str]:
        """Who has labels."""
        return [name for name in self.frames() if name.startswith(HOSPITALS)]

    def frames(self, seed: int | None = None, first: int = 0) -> dict[str, pd.DataFrame]:
        """Rows of every member by its name; another ``seed`` for new rows, whose ids begin with ``first``."""
        rng = np.random.default_rng(self.seed if seed is None else seed)
        x = rng.normal(size=(self.rows, 4))
        z = np.column_stack([x.sum(axis=1), x @ [1, -1, 1, -1], x @ [-1, 1, 0, 1]])
        ids = [f"{number:05d}" for number in range(first, first + self.rows)]
        hospital = pd.DataFrame({"patient": ids} if self.ids else {})
        hospital["age"], hospital["dose"] = x[:, 0], x[:, 1]
        hospital["ward"] = np.array(["blue", "green"])[(x[:, 1] + rng.normal(size=self.rows) > 0).astype(int)]
        labels = draw_labels(self.of, z, rng)
        hospital["outcome"] = np.array(["no", "yes"])[labels] if self.of == "binary" else labels
        found = _dealt(HOSPITALS, hospital, self.hospitals)
        if self.insurer is not None:
            claims = pd.DataFrame({"client": ids, "cost": x[:, 2], "visits": x[:, 3]})
            found |= _dealt(INSURER, claims.sample(frac=0.9, random_state=seed or 0), self.insurer)
        return found

    def federation(self) -> Federation:
        """The same in Python."""
        frames = self.frames()
        parties = [Party(HOSPITALS, **_held(HOSPITALS, frames), **self._lines(HOSPITALS))]
        if self.insurer is not None:
            parties.append(Party(INSURER, **_held(INSURER, frames), **self._lines(INSURER)))
        return Federation(*parties, privacy=self._privacy())

    def write(self, folder: Path, seed: int | None = None, first: int = 0) -> dict[str, Path]:
        """Write ``scenario.toml`` and the CSVs; returns them by member."""
        folder.mkdir(parents=True, exist_ok=True)
        frames = self.frames(seed, first)
        files = {name: folder / f"{name}.csv" for name in frames}
        for name, frame in frames.items():
            frame.to_csv(files[name], index=False)
        (folder / "scenario.toml").write_text(self._text(list(frames)), encoding="utf-8")
        return files

    def write_job(self, folder: Path) -> Job:
        """Write keys, ``job.toml``, a file per member and its CSV, for a run between companies."""
        files, port = self.write(folder), free_port()
        for name in (COORDINATOR, *files):
            write_identity(make_identity(name), folder)
        lines = self._sections() + ["[coordinator]", f'address = "127.0.0.1:{port}"', 'identity = "coordinator.pub"']
        for holder, members in _holders(files).items():
            lines += ["[[party]]", f'name = "{holder}"', f'role = "{_role(holder)}"']
            for name in members:
                silo = ["[[party.silo]]", f'name = "{name.partition(".")[2]}"'] if name != holder else []
                lines += [*silo, f'identity = "{name}.pub"']
                own = {"name": name, "job": "job.toml", "identity": f"{name}.key", "data": files[name].name}
                text = [f"{key} = {toml(value)}" for key, value in (own | self._lines(holder)).items()]
                (folder / f"{name}.toml").write_text("\n".join(text) + "\n", encoding="utf-8")
        (folder / "job.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return Job(folder, list(files), port)

    def _privacy(self) -> dict[str, object]:
        return (TEST_KEY if self.insurer is not None else {}) | self.privacy

    def _lines(self, holder: str) -> dict[str, Any]:
        if holder == INSURER:
            return {"id": "client", "policy": POLICY}
        return {"label": "outcome", "policy": POLICY} | ({"id": "patient"} if self.ids else {})

    def _sections(self) -> list[str]:
        """What a scenario and a job file have in common."""
        top = {"name": "silos", "model": self.model, "task": self.of, "seed": 5}
        lines = [f"{key} = {toml(value)}" for key, value in top.items()]
        training = FORMS.get(self.model, {}) | self.training
        sections = {"training": training, "privacy": self._privacy(), "split": self.split}
        for section, content in sections.items():
            lines += [f"[{section}]", *(f"{key} = {toml(value)}" for key, value in content.items())]
        return lines

    def _text(self, names: list[str]) -> str:
        lines = self._sections()
        for holder, members in _holders(names).items():
            lines += ["[[party]]", f'name = "{holder}"', f'role = "{_role(holder)}"']
            lines += [f"{key} = {toml(value)}" for key, value in self._lines(holder).items()]
            for name in members:
                silo = ["[[party.silo]]", f'name = "{name.partition(".")[2]}"'] if name != holder else []
                lines += [*silo, f'data = "{name}.csv"']
        return "\n".join(lines) + "\n"


def _role(holder: str) -> str:
    return "active" if holder == HOSPITALS else "passive"


def _holders(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.partition(".")[0], []).append(name)
    return found


def _dealt(holder: str, frame: pd.DataFrame, silos: int) -> dict[str, pd.DataFrame]:
    """Rows of a holder by member, unequally many."""
    if not silos:
        return {holder: frame}
    cuts = [round(len(frame) * share**1.3) for share in np.linspace(0, 1, silos + 1)]
    return {
        f"{holder}.s{number}": frame.iloc[start:stop].reset_index(drop=True)
        for number, (start, stop) in enumerate(zip(cuts, cuts[1:], strict=False))
    }


def _held(holder: str, frames: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    silos = {name.partition(".")[2]: frame for name, frame in frames.items() if name.startswith(f"{holder}.")}
    return {"silos": silos} if silos else {"data": frames[holder]}


def data_options(files: Mapping[str, Path]) -> list[str]:
    """``--data`` for every member."""
    return [text for name, file in files.items() for text in ("--data", f"{name}={file}")]
