"""Silos that have all columns and labels of different rows: whole sessions of theirs over the local network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from parties.data import PartyTable, table_from_frame
from parties.link import COORDINATOR, Endpoint
from parties.local import run_local
from parties.spec import PartySpec
from tests.interruptions import Kill, Story, play_through
from vfl import session
from vfl.events import RoleResult
from vfl.horizontal_part import SiloRows, gather
from vfl.horizontal_shard import HorizontalShard, load_horizontal_shard
from vfl.job import Job, Member, Privacy, Scenario, Split, SplitNN, Training, job_fields
from vfl.play import role_types

TASKS = {"logistic": "binary", "linear": "regression", "poisson": "count", "softmax": "multiclass"}
NETWORK: dict[str, Any] = {"units": 4, "hidden": (3,), "activation": "tanh", "batch_size": 16, "epochs": 2}


@dataclass
class Hospitals:
    """One holder's silos.

    Parameters
    ----------
    tables : dict of silo to PartyTable
    ended : dict of role to RoleResult
        After `play`.
    """

    job: Job
    specs: dict[str, PartySpec]
    tables: dict[str, PartyTable] = field(repr=False)
    folder: Path
    modules: dict[str, object] = field(default_factory=dict)
    baseline: bool = False
    ended: dict[str, RoleResult] = field(default_factory=dict)

    def plays(self) -> dict[str, Callable[[Endpoint], RoleResult]]:
        """What every role does."""
        return dict.fromkeys((COORDINATOR, *self.specs), self._play)

    def play(self) -> Hospitals:
        """A whole run."""
        self.ended = run_local(self.plays(), roles=role_types(self.job), job=job_fields(self.job))
        return self

    def play_through(self, checkpoints: Path, *kills: Kill) -> Story[RoleResult]:
        """A run whose roles are killed."""
        story = play_through(self.plays, role_types(self.job), checkpoints, kills)
        self.ended = story.results
        return story

    def shards(self) -> dict[str, HorizontalShard]:
        """What every silo has kept."""
        return {name: load_horizontal_shard(self.folder / name) for name in self.specs}

    @property
    def weights(self) -> dict[str, Any]:
        """The first silo's weights."""
        return self.shards()[self.job.active].weights

    def rows(self) -> dict[str, SiloRows]:
        """The silos' rows as they trained on them."""
        return gather(
            Scenario(job=self.job, parties=tuple(self.specs.values()), directory=self.folder), self.folder, self.tables
        )

    def scores(self, name: str) -> pd.DataFrame:
        """What a silo has kept of its test rows."""
        return pd.read_csv(self.folder / name / "test_scores.csv")

    def _play(self, endpoint: Endpoint) -> RoleResult:
        name = endpoint.name
        if name == COORDINATOR:
            return session.play_coordinator(endpoint, self.job, lambda event: None)
        loaded = session.load_party(self.job, self.specs[name], self.tables[name])
        own = self.folder / name
        own.mkdir(parents=True, exist_ok=True)
        return session.play_party(
            endpoint,
            self.job,
            self.specs[name],
            loaded,
            own,
            lambda event: None,
            baseline=self.baseline,
            intervals=False,
            module=self.modules.get(name),
        )


def make_hospitals(
    folder: Path,
    model: str = "logistic",
    *,
    task: str | None = None,
    sizes: tuple[int, ...] = (40, 70, 55),
    ids: bool = False,
    weighted: bool = False,
    privacy: Mapping[str, Any] | None = None,
    test_fraction: float = 0.2,
    seed: int = 5,
    lines: Mapping[str, Any] | None = None,
    **training: Any,
) -> Hospitals:
    """Silos of so many rows, with three columns of numbers, one of categories, missing cells, and other class mixes."""
    names = [f"clinics.s{number}" for number in range(len(sizes))]
    chosen = TASKS.get(model, task)
    form: dict[str, Any] = (
        {"splitnn": SplitNN(**(NETWORK | training))} if model == "splitnn" else {"training": Training(**training)}
    )
    job = Job(
        name="clinics",
        model=model,  # type: ignore[arg-type]
        task=chosen,  # type: ignore[arg-type]
        seed=seed,
        parties=tuple(Member(name=name, role="active") for name in names),
        split=Split(test_fraction=test_fraction),
        privacy=Privacy(**({"small_data": True} | dict(privacy or {}))),
        **form,
    )
    frames = _draw(str(chosen), dict(zip(names, sizes, strict=True)), ids=ids, weighted=weighted)
    specs = {
        name: PartySpec(
            name=name,
            role="active",
            data=f"{name}.csv",
            id="patient" if ids else None,
            label="y",
            sample_weight="w" if weighted else None,
            **(lines or {}),
        )
        for name in names
    }
    tables = {name: table_from_frame(frames[name], specs[name]) for name in names}
    return Hospitals(job, specs, tables, folder)


def _draw(task: str, sizes: Mapping[str, int], *, ids: bool, weighted: bool) -> dict[str, pd.DataFrame]:
    random = np.random.default_rng(11)
    slopes = random.normal(size=3)
    found = {}
    for at, (name, rows) in enumerate(sizes.items()):
        X = random.normal(loc=0.4 * at, size=(rows, 3))
        z = X @ slopes - 0.3 * at
        y: Any = {
            "binary": (random.uniform(size=rows) < 1 / (1 + np.exp(-z))).astype(int),
            "regression": 50 + 10 * z + random.normal(size=rows),
            "count": random.poisson(np.exp(np.clip(0.3 * z, -3, 2))),
            "multiclass": np.array(list("abc"))[
                (np.column_stack([z, -z, 0 * z]) + random.gumbel(size=(rows, 3))).argmax(axis=1)
            ],
        }[task]
        frame = pd.DataFrame(X, columns=["x0", "x1", "x2"])
        frame.loc[random.uniform(size=rows) < 0.1, "x1"] = np.nan
        frame["kind"] = np.array(["red", "blue", "green"][: 2 + (at > 0)])[random.integers(0, 2 + (at > 0), rows)]
        frame["y"] = y
        if ids:
            frame.insert(0, "patient", [f"{name}-{number}" for number in range(rows)])
        if weighted:
            frame["w"] = random.uniform(0.2, 3, rows)
        found[name] = frame
    return found
