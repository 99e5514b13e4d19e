"""Small federations for tests of split networks in mode source-layer, played over the local network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parties.ledger import Ledger
from parties.link import COORDINATOR
from parties.local import run_local
from parties.policy import Guards, Policy
from parties.wire import Active, Coordinator, Passive
from vfl import splitnn, splitnn_scoring
from vfl.epochs import Rows, draw_batches
from vfl.job import Job, Member, Privacy, SplitNN
from vfl.network import make_network
from vfl.network_columns import to_fixed
from vfl.source_layer import OUTPUT_BITS, STEP_BITS, initial_weights
from vfl.terms import Terms


class Spy:
    """The layers above as `vfl.epochs` calls them; keeps every output that it is shown and every gradient."""

    def __init__(self, network: Any) -> None:
        self.network, self.seen, self.gradients = network, [], []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def step(self, z, *arguments, **keywords):
        self.seen.append(z.copy())
        step = self.network.step(z, *arguments, **keywords)
        self.gradients.append(step.gradient.copy())
        return step


@dataclass
class Layers:
    """One problem: blocks of columns, the active party's first."""

    blocks: list
    y: Any
    task: str = "binary"
    outputs: int = 1
    validation: int = 0
    test: int = 0
    key_bits: int = 512
    seed: int = 0
    settings: dict = field(default_factory=dict)
    keepers: dict = field(default_factory=dict)
    deliveries: list = field(default_factory=list)
    sent: list = field(default_factory=list)
    ledgers: dict = field(default_factory=dict)
    spy: Any = None
    shares: dict = field(default_factory=dict)

    @property
    def names(self):
        return ["bank", *(f"shop-{i}" for i in range(1, len(self.blocks)))]

    @property
    def splitnn(self):
        return SplitNN(**({"units": 3, "hidden": (4,), "batch_size": 32, "epochs": 2} | self.settings))

    @property
    def job(self):
        members = [Member(name=name, role="passive" if i else "active") for i, name in enumerate(self.names)]
        return Job(
            name="test",
            model="splitnn",
            task=self.task,
            seed=self.seed,
            splitnn=self.splitnn,
            privacy=Privacy(key_bits=self.key_bits, insecure_test_mode=self.key_bits < 2048),
            parties=tuple(members),
        )

    @property
    def fitted(self):
        return len(self.y) - self.test

    @property
    def terms(self):
        columns = {name: block.shape[1] for name, block in zip(self.names, self.blocks, strict=True)}
        training = self.fitted - self.validation
        return Terms(self.job, "active", "", training, self.outputs, columns, True, self.validation)

    def fixed(self, name):
        return to_fixed(self.blocks[self.names.index(name)])

    def first_weights(self, name):
        return initial_weights(self.job, self.fixed(name)[: self.terms.rows], self.splitnn.units, self.width)

    @property
    def width(self):
        return sum(self.terms.columns.values())

    def guards(self, name):
        return Guards(enforce=False, small_data=True)

    def plays(self):
        terms = self.terms

        def active(endpoint):
            endpoint.keeper = self.keepers.get(endpoint.name, endpoint.keeper)
            network = make_network(self.job, self.blocks[0].shape[1], self.outputs, self.y[: terms.rows])
            self.spy = Spy(network)
            rows = Rows(self.blocks[0][: self.fitted], self.y[: self.fitted], None, terms.rows)
            fit = splitnn.active(endpoint, terms, self.spy, rows, self.guards(endpoint.name), lambda *_: None)
            scores = splitnn_scoring.score_as_active(endpoint, terms, fit.shares, self.test) if self.test else None
            return fit, scores

        def passive(endpoint):
            endpoint.keeper = self.keepers.get(endpoint.name, endpoint.keeper)
            X = self.fixed(endpoint.name)
            fit = splitnn.passive(endpoint, terms, X[: self.fitted], self.guards(endpoint.name))
            if self.test:
                guards = Guards(enforce=False, small_data=True)
                splitnn_scoring.score_as_passive(endpoint, terms, fit.share, X[self.fitted :], guards, Policy())
            return fit

        def coordinator(endpoint):
            endpoint.keeper = self.keepers.get(endpoint.name, endpoint.keeper)
            epochs = splitnn.coordinator(endpoint, terms)
            if self.test:
                splitnn_scoring.score_as_coordinator(endpoint, terms, self.test)
            return epochs

        return {COORDINATOR: coordinator, "bank": active} | dict.fromkeys(self.names[1:], passive)

    def fit(self):
        roles = {COORDINATOR: Coordinator, "bank": Active} | dict.fromkeys(self.names[1:], Passive)
        self.ledgers = {name: Ledger() for name in roles}
        return run_local(
            self.plays(), roles=roles, ledgers=self.ledgers, observe=self.deliveries.append, frames=self.sent
        )

    def weights(self, fits):
        """The passive parties' weights after training: both shares together."""
        return {name: (fits[name].share + fits["bank"][0].shares[name]).view(np.int64) for name in self.names[1:]}

    def plain_until(self, epochs):
        """Weights and outputs by plain descent on Python's integers, fed with the gradients that the run had."""
        fixed = {name: self.fixed(name).astype(object) for name in self.names[1:]}
        weights = {name: self.first_weights(name).astype(object) for name in self.names[1:]}
        outputs, gradients = [], iter(self.spy.gradients)
        for epoch in range(epochs):
            for batch in draw_batches(self.terms.rows, self.splitnn.batch_size, self.seed, epoch):
                outputs.append(sum(fixed[name][batch] @ weights[name] for name in weights))
                scaled = np.rint(np.ldexp(self.splitnn.source_step * next(gradients), STEP_BITS))
                step = np.clip(scaled, 1 - 2**STEP_BITS, 2**STEP_BITS - 1).astype(np.int64).astype(object)
                weights = {name: weights[name] - fixed[name][batch].T @ step for name in weights}
        return weights, [np.ldexp(z.astype(np.float64), -OUTPUT_BITS) for z in outputs]


def make_layers(rows=100, columns=(2, 3), task="binary", seed=0, **keywords):
    """Normal columns, a rare flag of zeros and ones at the end of each, and labels that depend on all."""
    rng = np.random.default_rng(seed)
    blocks = []
    for count in columns:
        block = rng.normal(size=(rows, count))
        if count > 1:
            block[:, -1] = rng.random(rows) < 0.1
        blocks.append(block)
    score = sum((block * np.cos(np.arange(block.shape[1]))).sum(axis=1) for block in blocks)
    score = score + 0.3 * rng.normal(size=rows)
    if task == "binary":
        y, outputs = (score > np.median(score)).astype(float), 1
    elif task == "multiclass":
        y, outputs = np.digitize(score, np.quantile(score, [1 / 3, 2 / 3])).astype(np.int64), 3
    elif task == "count":
        y, outputs = rng.poisson(np.exp(np.clip(score / 4, -3, 2))).astype(float), 1
    else:
        y, outputs = 10 * score + 3, 1
    return Layers(blocks, y, task, outputs, **keywords)
