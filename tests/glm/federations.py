"""Small federations for tests: columns dealt out to parties, played over the local network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from parties.frame import Frame
from parties.ledger import Ledger
from parties.link import COORDINATOR, Delivery, Endpoint, Link
from parties.local import run_local
from parties.policy import Guards
from parties.wire import Active, Coordinator, Passive, Payload
from vfl import glm, glm_exact, glm_quadratic
from vfl.baselines import fit_glm
from vfl.exact import quantise
from vfl.glm import Fit
from vfl.job import Job, Member, Privacy, Training

TASKS = {"logistic": "binary", "linear": "regression", "poisson": "count", "softmax": "multiclass"}


def standardised(X: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean 0, population standard deviation 1."""
    return (X - X.mean(axis=0)) / X.std(axis=0)


def make_labels(model: str, z: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Labels drawn from the model at scores z of shape (n, outputs)."""
    if model == "logistic":
        return (rng.random(len(z)) < 1 / (1 + np.exp(-z[:, 0]))).astype(float)
    if model == "linear":
        return z[:, 0] + rng.normal(size=len(z))
    if model == "poisson":
        return rng.poisson(np.exp(np.clip(0.3 * z[:, 0], -5, 3))).astype(float)
    return (z + rng.gumbel(size=z.shape)).argmax(axis=1)


@dataclass
class Federation:
    """Blocks of a pooled matrix: the first belongs to the active party (may be empty)."""

    model: str
    X: NDArray[np.float64]
    y: NDArray[np.float64]
    cuts: Sequence[int]  # columns per party, the active one first
    key_holder: str = "active"
    weights: NDArray[np.float64] | None = None
    outputs: int = 1
    enforce: bool = False
    lax: Sequence[str] = ()  # parties whose guards only warn, whatever `enforce` says
    consent: bool = True
    key_bits: int = 512
    training: dict[str, object] = field(default_factory=dict)
    deliveries: list[Delivery] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    guards: dict[str, Guards] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return ["active", *(f"passive-{i}" for i in range(1, len(self.cuts)))]

    def job(self) -> Job:
        return Job(
            name="test",
            task=TASKS[self.model],
            model=self.model,
            training=Training(**self.training),
            privacy=Privacy(key_bits=self.key_bits, insecure_test_mode=True),
            parties=tuple(Member(name=n, role="active" if n == "active" else "passive") for n in self.names),
        )

    def terms(self) -> glm.Terms:
        job = self.job()
        widths = dict(zip(self.names, self.cuts, strict=True))
        widths["active"] += job.training.fit_intercept
        return glm.Terms(job, self.key_holder, "", len(self.X), self.outputs, widths, self.consent)

    def block(self, name: str) -> glm.Block:
        start = int(np.sum(self.cuts[: self.names.index(name)], dtype=int))
        columns = self.X[:, start : start + self.cuts[self.names.index(name)]]
        training = self.job().training
        ones = training.fit_intercept and name == "active"
        quantised = quantise(columns, len(self.X))
        return glm.make_block(quantised.integers, quantised.scale_bits, len(self.X), training.l2, ones=ones)

    def plays(self) -> dict[str, Callable[[Endpoint], glm.Fit]]:
        terms = self.terms()
        protocol = glm_exact if self.key_holder == "active" else glm_quadratic
        self.guards = {
            name: Guards(enforce=self.enforce and name not in self.lax, small_data=True) for name in self.names
        }

        def active(endpoint: Endpoint) -> glm.Fit:
            target = glm.make_target(self.model, self.y, self.weights, self.outputs)
            block = self.block("active")
            return protocol.active(endpoint, terms, block, target, self.guards["active"], lambda *_: None)

        def coordinator(endpoint: Endpoint) -> glm.Fit:
            if protocol is glm_exact:
                return glm_exact.coordinator(endpoint, terms)
            return glm_quadratic.coordinator(endpoint, terms, lambda *_: None)

        def passive(endpoint: Endpoint) -> glm.Fit:
            return protocol.passive(endpoint, terms, self.block(endpoint.name), self.guards[endpoint.name])

        return {COORDINATOR: coordinator, "active": active} | dict.fromkeys(self.names[1:], passive)

    def fit(self) -> dict[str, glm.Fit]:
        roles = {COORDINATOR: Coordinator, "active": Active} | dict.fromkeys(self.names[1:], Passive)
        self.ledgers = {name: Ledger() for name in roles}
        return run_local(
            self.plays(), roles=roles, ledgers=self.ledgers, observe=self.deliveries.append, frames=self.frames
        )

    def optimum(self) -> NDArray[np.float64]:
        """Pooled optimum on the same columns, in the layout of `joint`."""
        training = self.job().training
        coef, intercept = fit_glm(
            self.model, self.X, self.y, training.l2, training.fit_intercept, self.weights, self.outputs
        )
        rows = [np.reshape(coef, (self.outputs, -1)).T]
        return np.vstack([*rows, np.reshape(intercept, (1, -1))] if training.fit_intercept else rows)

    def error(self, fits: dict[str, glm.Fit]) -> float:
        """Distance of the joint weights to the optimum, relative; softmax intercepts up to a common constant."""
        joint, optimum = self.joint(fits), self.optimum()
        if self.model == "softmax" and self.job().training.fit_intercept:
            joint[-1] -= joint[-1].mean()
        return float(np.linalg.norm(joint - optimum) / np.linalg.norm(optimum))

    def joint(self, fits: dict[str, glm.Fit]) -> NDArray[np.float64]:
        """Pooled weights in label units, the intercept (if any) last: shape (d + 1, outputs)."""
        fit_intercept = self.job().training.fit_intercept
        parts = [np.ldexp(fits[name].weights, fits[name].label_bits) for name in self.names]
        if fit_intercept:
            parts = [parts[0][:-1], *parts[1:], parts[0][-1:]]
        return np.vstack(parts)


def make_federation(model: str, rows: int, cuts: Sequence[int], seed: int = 0, **options: object) -> Federation:
    """A federation with a true joint signal; columns of two parties are correlated."""
    rng = np.random.default_rng(seed)
    outputs = 3 if model == "softmax" else 1
    width = int(np.sum(cuts))
    X = standardised(rng.normal(size=(rows, width)) @ (np.eye(width) + 0.2 * rng.normal(size=(width, width))))
    w = rng.normal(size=(width, outputs)) / np.sqrt(width)
    y = make_labels(model, X @ w - 0.5, rng)
    return Federation(model, X, y, cuts, outputs=outputs, **options)


def tamper(
    monkeypatch: pytest.MonkeyPatch, sender: str, message: str, change: Callable[[Payload], Payload], *, after: int = 0
) -> None:
    """Let one role replace what it sends as ``message`` (from the given time on); everybody else is honest."""
    honest, sent = Link.send, []

    def send(self: Link, kind: object, payload: Payload) -> None:
        if self.me == sender and kind.name == message:
            sent.append(message)
            if len(sent) > after:
                payload = change(payload)
        honest(self, kind, payload)

    monkeypatch.setattr(Link, "send", send)


def play(model: str, key_holder: str, training: dict[str, object]) -> tuple[Federation, dict[str, Fit]]:
    """Fit a small federation of three in three rounds."""
    training = {"max_iter": 3} | training
    federation = make_federation(model, 100, (2, 3, 2), seed=3, key_holder=key_holder, training=training)
    return federation, federation.fit()


def results(fits: dict[str, Fit]) -> dict[str, tuple[object, ...]]:
    """Return what has to repeat to the last bit, per party."""
    return {n: (f.weights.tobytes(), f.losses, f.rounds, f.converged, f.label_bits) for n, f in fits.items()}


def told(federation: Federation) -> list[bytes]:
    """Return the steering values that anybody was told, in order."""
    return [d.payload.values.tobytes() for d in federation.deliveries if type(d.payload).__name__ == "Revealed"]
