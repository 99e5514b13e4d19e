"""Small federations whose parties are made of silos, with rows dealt out at random, played over the local network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from parties.checkpoint import ALIGNED, Keeper, Snapshot
from parties.data import PartyTable, table_from_frame
from parties.frame import Frame
from parties.ledger import Ledger
from parties.link import COORDINATOR, Delivery, Endpoint
from parties.local import run_local
from parties.spec import PartySpec
from vfl import session
from vfl.common_alignment import AlignmentKeeper
from vfl.events import RoleResult
from vfl.job import Boosting, Job, Member, Privacy, Split, Task, Training, job_fields
from vfl.play import role_types

TASKS: dict[str, Task] = {"logistic": "binary", "linear": "regression", "poisson": "count", "softmax": "multiclass"}


def draw_labels(task: str, z: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.generic]:
    """Labels drawn at scores z of shape (n, 3), of which only multiclass tasks use more than the first column."""
    first = z[:, 0]
    if task == "binary":
        return (rng.random(len(z)) < 1 / (1 + np.exp(-first))).astype(int)
    if task == "regression":
        return np.round(first + rng.normal(size=len(z)), 6)
    if task == "count":
        return rng.poisson(np.exp(np.clip(0.3 * first, -5, 3)))
    return (z + rng.gumbel(size=z.shape)).argmax(axis=1)


@dataclass
class SiloFederation:
    """Holders of columns of the same rows, each cut into silos; ``silos[h]`` of the rows of holder h.

    Parameters
    ----------
    frames : mapping of holder to DataFrame of n rows
        In the agreed order, with a column "id"; the first holder's also has "y".
    owners : mapping of holder to ndarray of shape (n,), int64
        Which of its silos has each row; no entry for a holder without silos.
    silos : mapping of holder to int
        How many silos it has; 0: none.
    """

    model: str
    frames: Mapping[str, pd.DataFrame]
    owners: Mapping[str, NDArray[np.int64]]
    silos: Mapping[str, int]
    task: Task = "binary"
    training: dict[str, object] = field(default_factory=dict)
    split: dict[str, float] = field(default_factory=dict)
    privacy: dict[str, object] = field(default_factory=dict)
    spec: dict[str, dict[str, object]] = field(default_factory=dict)  # further lines by holder
    deliveries: list[Delivery] = field(default_factory=list)
    sent: list[Frame] = field(default_factory=list)
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    keepers: dict[str, Keeper] = field(default_factory=dict)

    @property
    def members(self) -> dict[str, str]:
        """Holder by member, in job order."""
        return {
            name: holder
            for holder, count in self.silos.items()
            for name in ([f"{holder}.s{i}" for i in range(count)] if count else [holder])
        }

    def job(self) -> Job:
        first = next(iter(self.frames))
        boosted = self.model == "boosting"
        return Job(
            name="silos",
            task=self.task,
            model=self.model,  # type: ignore[arg-type]
            seed=3,
            training=Training() if boosted else Training(**self.training),  # type: ignore[arg-type]
            boosting=Boosting(**self.training) if boosted else Boosting(),  # type: ignore[arg-type]
            split=Split(**{"test_fraction": 0.25, **self.split}),
            privacy=Privacy(**{"key_bits": 512, "insecure_test_mode": True, "small_data": True, **self.privacy}),  # type: ignore[arg-type]
            parties=tuple(
                Member(name=name, role="active" if holder == first else "passive")
                for name, holder in self.members.items()
            ),
        )

    def owned(self, member: str) -> NDArray[np.int64]:
        """The rows of a member, ascending."""
        holder, _, silo = member.partition(".s")
        if not silo:
            return np.arange(len(self.frames[holder]))
        return np.flatnonzero(self.owners[holder] == int(silo))

    def specs(self) -> dict[str, PartySpec]:
        first = next(iter(self.frames))
        return {
            name: PartySpec(
                name=name,
                role="active" if holder == first else "passive",
                data="in memory",
                id="id",
                label="y" if holder == first else None,
                **self.spec.get(holder, {}),  # type: ignore[arg-type]
            )
            for name, holder in self.members.items()
        }

    def tables(self) -> dict[str, PartyTable]:
        specs = self.specs()
        return {
            name: table_from_frame(self.frames[holder].iloc[self.owned(name)], specs[name])
            for name, holder in self.members.items()
        }

    def aligned(self, member: str) -> Keeper:
        """A keeper that has the alignment already."""
        owned, n = self.owned(member), len(next(iter(self.frames.values())))
        facts = {"sizes": dict.fromkeys(self.members, n), "intersection": n, "protocol": "ecdh", "digest": "0" * 64}
        arrays = {"rows": np.arange(len(owned)), "owned": owned}
        return AlignmentKeeper(snapshot=Snapshot(ALIGNED, facts, arrays))  # type: ignore[arg-type]

    def play(self, folder: Path, *, key: str = "aligned") -> dict[str, RoleResult]:
        """Align nothing, train, score and save under ``folder``."""
        job, specs, tables = self.job(), self.specs(), self.tables()
        loaded = {name: session.load_party(job, specs[name], tables[name]) for name in specs}
        self.ledgers = {name: Ledger() for name in role_types(job)}

        def act(endpoint: Endpoint) -> RoleResult:
            name = endpoint.name
            default = self.aligned(name) if name != COORDINATOR else self.aligned(next(iter(self.members)))
            endpoint.keeper = self.keepers.get(name) or default
            if name == COORDINATOR:
                return session.play_coordinator(endpoint, job, lambda event: None)
            (folder / name).mkdir(parents=True, exist_ok=True)
            return session.play_party(
                endpoint, job, specs[name], loaded[name], folder / name, lambda event: None, baseline=False
            )

        return run_local(
            dict.fromkeys(self.ledgers, act),
            roles=role_types(job),
            job=job_fields(job),
            ledgers=self.ledgers,
            observe=self.deliveries.append,
            frames=self.sent,
        )

    def scores(self, folder: Path) -> NDArray[np.float64]:
        """Joint predictions of the test rows in the agreed order, put together from the label silos' files."""
        found = []
        for name in self.job().labelled:
            frame = pd.read_csv(folder / name / "test_scores.csv", dtype={"id": str})
            found.append(frame.drop(columns="y").set_index("id"))
        together = pd.concat(found).sort_index()
        return together.to_numpy(dtype=np.float64)


def deal(rows: int, silos: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Which silo has each row: unequal shares."""
    weights = np.arange(1, silos + 1) / np.arange(1, silos + 1).sum()
    return rng.choice(silos, size=rows, p=weights)


def make_silos(
    model: str,
    silos: Mapping[str, int],
    *,
    task: Task | None = None,
    rows: int = 240,
    columns: Sequence[int] = (2, 3, 2),
    seed: int = 0,
    **options: object,
) -> SiloFederation:
    """A federation of holders with so many silos each (0: a party without silos), the label holder first."""
    rng = np.random.default_rng(seed)
    task = task or TASKS.get(model, "binary")
    widths = dict(zip(silos, columns, strict=False))
    X = {holder: rng.normal(size=(rows, width)) for holder, width in widths.items()}
    z = sum(x @ rng.normal(size=(x.shape[1], 3)) for x in X.values())
    frames = {}
    for number, (holder, x) in enumerate(X.items()):
        frame = pd.DataFrame(np.round(x, 5), columns=[f"{holder[0]}{j}" for j in range(x.shape[1])])
        frame.insert(0, "id", [f"p{i:05d}" for i in range(rows)])
        if number == 0:
            frame["y"] = draw_labels(task, np.asarray(z), rng)
        frames[holder] = frame
    owners = {holder: deal(rows, count, rng) for holder, count in silos.items() if count}
    return SiloFederation(model, frames, owners, dict(silos), task=task, **options)  # type: ignore[arg-type]
