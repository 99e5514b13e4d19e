"""Silos that average a small logistic model in numpy: jobs, rows, and whole trainings over the local network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import expit

from parties.checkpoint import Keeper
from parties.ledger import Ledger
from parties.link import COORDINATOR, Delivery, Endpoint, Link
from parties.local import run_local
from parties.wire import Active, Control, Coordinator, DataParty, LabelSilo, Message, Payload
from vfl import horizontal
from vfl.horizontal import Averaged
from vfl.job import Job, Member, Privacy, SplitNN, Training

L2 = 0.01
NAMES = ("coefficients", "intercept")


@dataclass
class Logistic:
    """A logistic regression on a silo's rows; names of arrays are those of a GLM."""

    X: np.ndarray
    y: np.ndarray
    settings: Training | SplitNN
    l2: float = L2
    sample_weights: np.ndarray | None = None
    names: tuple[str, ...] = NAMES
    calls: list[tuple[str, int]] = field(default_factory=list)

    @property
    def penalty(self) -> tuple[float, ...]:
        return (self.l2, 0.0)

    @property
    def rows(self) -> int:
        return len(self.y)

    @property
    def weight(self) -> float:
        return float(self._w().sum())

    def _w(self) -> np.ndarray:
        return np.ones(len(self.y)) if self.sample_weights is None else self.sample_weights

    def start(self) -> list[np.ndarray]:
        return [np.zeros((self.X.shape[1], 1)), np.zeros(1)]

    def gradient(self, weights: Sequence[np.ndarray], rows: np.ndarray | None) -> tuple[float, list[np.ndarray]]:
        chosen = np.arange(len(self.y)) if rows is None else rows
        X, y, w = self.X[chosen], self.y[chosen], self._w()[chosen]
        z = (X @ weights[0])[:, 0] + weights[1][0]
        residual = w * (expit(z) - y)
        return float((w * (np.logaddexp(0, z) - y * z)).sum()), [X.T @ residual[:, None], residual.sum(keepdims=True)]

    def noisy_gradient(self, weights: Sequence[np.ndarray], round_number: int) -> tuple[float, list[np.ndarray]]:
        self.calls.append(("noisy", round_number))
        loss, sums = self.gradient(weights, None)
        return loss, [array + 0.25 for array in sums]

    def train(self, weights: Sequence[np.ndarray], round_number: int) -> tuple[float, list[np.ndarray]]:
        self.calls.append(("train", round_number))
        before, _ = self.gradient(weights, None)
        now = [array.copy() for array in weights]
        for _ in range(self.settings.local_epochs):
            _, sums = self.gradient(now, None)
            slopes = [s / self.weight + p * w for s, p, w in zip(sums, self.penalty, now, strict=True)]
            pulls = [self.settings.proximal * (w - first) for w, first in zip(now, weights, strict=True)]
            rate = self.settings.learning_rate
            now = [w - rate * (s + pull) for w, s, pull in zip(now, slopes, pulls, strict=True)]
        return before, now


def make_job(silos: int, *, model: str = "logistic", dp: str = "none", **settings: object) -> Job:
    """A horizontal job of so many silos."""
    members = tuple(Member(name=f"clinics.s{i}", role="active") for i in range(silos))
    privacy = Privacy(dp=dp, dp_noise=1.0) if dp != "none" else Privacy()
    form = {"splitnn": SplitNN(**settings)} if model == "splitnn" else {"training": Training(**settings)}
    return Job(name="job", model=model, task="binary", parties=members, privacy=privacy, **form)


def make_rows(rows: int = 90, columns: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, columns))
    y = (rng.random(rows) < 1 / (1 + np.exp(-X @ np.linspace(1, -1, columns) - 0.3))).astype(float)
    return X, y


def cut(rows: int, silos: int) -> list[slice]:
    """Silos of unequal sizes: 1, 2, 3, ... parts."""
    ends = np.cumsum(np.arange(1, silos + 1))
    ends = np.round(ends / ends[-1] * rows).astype(int).tolist()
    return [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]


@dataclass
class Training_:  # noqa: N801 - not vfl.job.Training
    """A federation of silos, and what its training leaves behind."""

    job: Job
    models: dict[str, Logistic]
    declared: dict[str, float] = field(default_factory=dict)
    deliveries: list[Delivery] = field(default_factory=list)
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    told: dict[str, list[tuple[int, float | None]]] = field(default_factory=dict)
    keepers: Mapping[str, Keeper] = field(default_factory=dict)
    frames: list[object] = field(default_factory=list)
    plays: dict[str, Callable[[Endpoint], Averaged]] = field(default_factory=dict)
    """Roles that do something else than the protocol."""

    def honest(self, name: str) -> Callable[[Endpoint], Averaged]:
        names = list(self.models)
        progress = lambda done, loss: self.told.setdefault(name, []).append((done, loss))  # noqa: E731

        def play(endpoint: Endpoint) -> Averaged:
            if name in self.keepers:
                endpoint.keeper = self.keepers[name]
            if name == COORDINATOR:
                return horizontal.coordinator(endpoint, self.job, progress)
            return horizontal.silo(
                endpoint,
                self.job,
                self.models[name],
                total_rows=sum(model.rows for model in self.models.values()),
                before=sum(self.models[each].rows for each in names[: names.index(name)]),
                declared=self.declared.get(name),
                progress=progress,
            )

        return play

    def run(self) -> dict[str, Averaged]:
        roles = {name: Active if name == self.job.active else LabelSilo for name in self.models}
        self.ledgers = {name: Ledger() for name in (*roles, COORDINATOR)}
        return run_local(
            {name: self.plays.get(name) or self.honest(name) for name in (*roles, COORDINATOR)},
            roles={**roles, COORDINATOR: Coordinator},
            ledgers=self.ledgers,
            observe=self.deliveries.append,
            frames=self.frames,
        )


def make(job: Job, rows: tuple[np.ndarray, np.ndarray] | None = None, **models: object) -> Training_:
    """Rows cut among the job's silos."""
    X, y = rows or make_rows()
    parts = cut(len(y), len(job.parties))
    settings = job.averaging
    return Training_(
        job,
        {
            party.name: Logistic(X[part], y[part], settings, **models)
            for party, part in zip(job.parties, parts, strict=True)
        },
    )


def again(training: Training_, **changes: object) -> Training_:
    """The same silos, before any training."""
    fresh = {name: replace(model, calls=[]) for name, model in training.models.items()}
    return Training_(training.job, fresh, dict(training.declared), **changes)


class Wakes:
    """A message among silos that wakes one that was late."""

    wake = Message(DataParty, DataParty, Control)


@dataclass
class Odd:
    """A silo's link to the coordinator that does something else with the so-manieth message of a kind."""

    link: Link[DataParty, Coordinator]
    kind: Message[DataParty, Coordinator, Payload]
    act: Callable[[Link[DataParty, Coordinator], Payload], None]
    nth: int = 1
    seen: int = 0

    def send(self, message: Message[DataParty, Coordinator, Payload], payload: Payload) -> None:
        self.seen += message is self.kind
        if message is self.kind and self.seen == self.nth:
            self.act(self.link, payload)
        else:
            self.link.send(message, payload)

    def recv(self, message: Message[Coordinator, DataParty, Payload]) -> Payload:
        return self.link.recv(message)


def odd(
    endpoint: Endpoint,
    kind: Message[DataParty, Coordinator, Payload],
    act: Callable[[Link[DataParty, Coordinator], Payload], None],
    nth: int = 1,
) -> None:
    """Let a silo do something else with a message."""
    link = endpoint.link(DataParty, Coordinator, COORDINATOR)
    endpoint._links[COORDINATOR] = Odd(link, kind, act, nth)  # type: ignore[assignment]


def dies(link: Link[DataParty, Coordinator], payload: Payload) -> None:
    """The silo's process ends."""
    raise RuntimeError("the power is gone")


def sends(kind: Message[DataParty, Coordinator, Payload], change: Callable[[Payload], Payload]) -> Callable[..., None]:
    """The silo sends something else."""
    return lambda link, payload: link.send(kind, change(payload))


def sleeps(endpoint: Endpoint, kind: Message[DataParty, Coordinator, Payload], until: str) -> Callable[..., None]:
    """The silo is late until another one wakes it."""

    def act(link: Link[DataParty, Coordinator], payload: Payload) -> None:
        endpoint.link(DataParty, DataParty, until).recv(Wakes.wake)
        link.send(kind, payload)

    return act


def wake(endpoint: Endpoint, name: str) -> None:
    """Wake a silo that is late."""
    endpoint.link(DataParty, DataParty, name).send(Wakes.wake, Control({}))
