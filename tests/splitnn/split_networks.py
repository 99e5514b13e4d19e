"""Small federations for tests of mode split, played over the local network, and the same on one graph in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from parties.frame import Frame
from parties.ledger import Ledger
from parties.link import COORDINATOR, Delivery, Endpoint
from parties.local import run_local
from parties.policy import Guards, Policy
from parties.wire import Active, Coordinator, Passive, Role
from vfl import split_learning
from vfl.bottom import Bottom, make_bottom
from vfl.epochs import Rows, draw_batches
from vfl.job import Job, Member, SplitNN, Task
from vfl.network import Network, make_network
from vfl.split_learning import ActiveFit
from vfl.terms import Terms

Play = Callable[[Endpoint], Any]


def make_rows(task: Task, rows: int, widths: tuple[int, ...], seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Columns of each party, the active one's first, and labels that depend on all of them."""
    rng = np.random.default_rng(seed)
    blocks = [rng.normal(size=(rows, width)) for width in widths]
    score = sum(np.tanh(block.sum(axis=1)) for block in blocks if block.shape[1]) + 0.3 * rng.normal(size=rows)
    if task == "binary":
        return blocks, (score > np.quantile(score, 0.7)).astype(np.float64)
    if task == "multiclass":
        return blocks, np.digitize(score, np.quantile(score, [0.3, 0.6])).astype(np.int64)
    if task == "count":
        return blocks, rng.poisson(np.exp(np.clip(score / 2, -3, 2))).astype(np.float64)
    return blocks, 10 * score + 3


@dataclass
class SplitNetworks:
    """One problem in mode split."""

    task: Task = "binary"
    rows: int = 60
    widths: tuple[int, ...] = (2, 3, 2)
    validation: int = 0
    weighted: bool = False
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    modules: Mapping[str, object] = field(default_factory=dict)
    policy: Policy = Policy()
    guards: Guards = field(default_factory=lambda: Guards(enforce=True, small_data=True))
    deliveries: list[Delivery] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    bottoms: dict[str, Bottom] = field(default_factory=dict)
    network: Network | None = None
    labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.blocks, self.y = make_rows(self.task, self.rows, self.widths)
        self.weights = np.random.default_rng(9).uniform(0.5, 2, self.rows) if self.weighted else None

    @property
    def names(self) -> list[str]:
        return ["bank", *(f"shop-{i}" for i in range(1, len(self.widths)))]

    @property
    def roles(self) -> dict[str, type[Role]]:
        return {COORDINATOR: Coordinator, "bank": Active} | dict.fromkeys(self.names[1:], Passive)

    @property
    def outputs(self) -> int:
        return 3 if self.task == "multiclass" else 1

    @property
    def training(self) -> int:
        return self.rows - self.validation

    @property
    def job(self) -> Job:
        small = {"mode": "split", "units": 4, "hidden": (5,), "batch_size": 16, "epochs": 3, "learning_rate": 0.01}
        members = [Member(name=n, role="passive" if i else "active") for i, n in enumerate(self.names)]
        return Job(
            name="test",
            model="splitnn",
            task=self.task,
            seed=self.seed,
            splitnn=SplitNN(**small | self.settings),
            parties=tuple(members),
        )

    @property
    def terms(self) -> Terms:
        widths = dict(zip(self.names, self.widths, strict=True))
        return Terms(self.job, "active", "", self.training, self.outputs, widths, True, self.validation)

    def columns(self, name: str) -> np.ndarray:
        return self.blocks[self.names.index(name)]

    def own_rows(self) -> Rows:
        return Rows(self.columns("bank"), self.y, self.weights, self.training)

    def make_bottom(self, name: str) -> Bottom:
        return make_bottom(self.job, name, self.columns(name)[: self.training], module=self.modules.get(name))

    def make_network(self) -> Network:
        y, weights = self.y[: self.training], None if self.weights is None else self.weights[: self.training]
        module = self.modules.get("bank")
        return make_network(
            self.job, self.widths[0], self.outputs, y, weights=weights, module=module, fan_in=sum(self.widths)
        )

    def plays(self) -> dict[str, Play]:
        terms = self.terms

        def active(endpoint: Endpoint) -> ActiveFit:
            self.network = self.make_network()
            rows = self.own_rows()
            return split_learning.active(endpoint, terms, self.network, rows, lambda *_: None, labels=self.labels)

        def passive(endpoint: Endpoint) -> int:
            bottom = self.bottoms[endpoint.name] = self.make_bottom(endpoint.name)
            return split_learning.passive(endpoint, terms, bottom, self.columns(endpoint.name))

        def coordinator(endpoint: Endpoint) -> int:
            return split_learning.coordinator(endpoint, terms)

        return {COORDINATOR: coordinator, "bank": active} | dict.fromkeys(self.names[1:], passive)

    def play(self, plays: Mapping[str, Play]) -> dict[str, Any]:
        self.ledgers = {name: Ledger() for name in self.roles}
        return run_local(
            plays, roles=self.roles, ledgers=self.ledgers, observe=self.deliveries.append, frames=self.frames
        )

    def fit(self) -> dict[str, Any]:
        return self.play(self.plays())

    def score(self, blocks: list[np.ndarray]) -> np.ndarray:
        """First-layer outputs of new rows, over the local network."""
        terms, parts = self.terms, dict(zip(self.names, blocks, strict=True))

        def active(endpoint: Endpoint) -> np.ndarray:
            return split_learning.score_as_active(endpoint, terms, len(blocks[0]))

        def passive(endpoint: Endpoint) -> None:
            name = endpoint.name
            split_learning.score_as_passive(endpoint, terms, self.bottoms[name], parts[name], self.guards, self.policy)

        plays = {COORDINATOR: lambda _: None, "bank": active} | dict.fromkeys(self.names[1:], passive)
        return self.play(plays)["bank"]

    def together(self) -> tuple[dict[str, dict[str, np.ndarray]], list[float]]:
        """Every party's weights, and the losses of all batches, after the same steps on one graph in one place.

        Q local steps, every party with what the others' outputs and the gradients were before the first one.
        """
        settings, n = self.job.splitnn, self.training
        bottoms = {name: self.make_bottom(name) for name in self.names[1:]}
        network = self.make_network()
        modules = {name: bottom.module for name, bottom in bottoms.items()}
        own = torch.nn.ModuleList([network.own, network.top])
        optimizers = {name: _stepper(settings, module) for name, module in (modules | {"bank": own}).items()}
        losses = []
        for epoch in range(settings.epochs):
            for batch in draw_batches(n, settings.batch_size, self.seed, epoch):
                tensors = {name: torch.tensor(self.columns(name)[batch], dtype=torch.float32) for name in self.names}
                first, stale = _outputs(modules, tensors), None
                for _ in range(settings.local_steps):
                    parts = _outputs(modules, tensors)
                    z = sum(_stale_but_live(first[name], parts[name]) for name in modules)
                    loss = self._loss(network, z, tensors["bank"], batch)
                    if stale is None:
                        losses.append(loss.item())
                        stale = torch.autograd.grad(loss, list(parts.values()), retain_graph=True)
                    for optimizer in optimizers.values():
                        optimizer.zero_grad()
                    loss.backward(inputs=list(own.parameters()))
                    for part, gradient, module in zip(parts.values(), stale, modules.values(), strict=True):
                        part.backward(gradient, inputs=list(module.parameters()))
                    for optimizer in optimizers.values():
                        optimizer.step()
        weights = {name: bottom.weights() for name, bottom in bottoms.items()}
        return {**weights, "bank": network.weights()}, losses

    def _loss(self, network: Network, z: Any, X: torch.Tensor, batch: np.ndarray) -> torch.Tensor:
        """The mean loss of a batch, written out once more."""
        outputs = network.top(z + network.own(X))
        y = torch.tensor(self.y[batch])
        if self.task == "binary":
            rows = torch.nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], y.float(), reduction="none")
        elif self.task == "multiclass":
            rows = torch.nn.functional.cross_entropy(outputs, y, reduction="none")
        else:
            rows = (outputs[:, 0] - ((y - network.label.mean) / network.label.deviation).float()) ** 2 / 2
        if self.weights is not None:
            scaled = self.weights / self.weights[: self.training].mean()
            rows = rows * torch.tensor(scaled[batch], dtype=torch.float32)
        return rows.mean()


def _outputs(modules: Mapping[str, torch.nn.Module], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: module(tensors[name]) for name, module in modules.items()}


def _stale_but_live(value: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
    """The value of one tensor and the graph of another."""
    return value.detach() + (live - live.detach())


def _stepper(settings: SplitNN, module: torch.nn.Module) -> torch.optim.Optimizer:
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[settings.optimizer]
    return kind(module.parameters(), lr=settings.learning_rate)
