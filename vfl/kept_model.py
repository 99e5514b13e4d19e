"""One party's part of a joint model, read back from its folder: which run it is of, and the shard.

Networks are rebuilt from a shard's weights; where a party trained a torch module of its own, the user brings it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from parties.errors import ConfigError, DataError
from vfl.horizontal_shard import HorizontalShard, load_horizontal_shard
from vfl.kept_run import KeptRun, load_kept_run
from vfl.shard import Shard, load_shard
from vfl.splitnn_shard import SplitShard, load_split_shard
from vfl.tables import show
from vfl.torch_parts import need_torch
from vfl.tree_shard import TreeShard, load_tree_shard

if TYPE_CHECKING:
    from vfl.bottom import Bottom
    from vfl.network import Network


@dataclass(frozen=True)
class Model:
    """One party's part of a joint model, read back from its folder.

    Parameters
    ----------
    module : torch.nn.Module or None
        The party's own network that ``shard`` has the weights of, where it trained one.
    """

    kept: KeptRun
    shard: Shard | TreeShard | SplitShard | HorizontalShard = field(repr=False)
    module: object = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Whose part it is."""
        return self.kept.party.name

    @property
    def classes(self) -> list[str]:
        """Class texts in code order; empty at a passive party and for numbers."""
        return list(self.shard.classes)

    @property
    def columns(self) -> dict[str, bool]:
        """Columns that the model needs, and whether they hold numbers."""
        if isinstance(self.shard, TreeShard):
            return {feature.name: feature.numeric for feature in self.shard.binning.features}
        encoder = self.shard.preprocessor
        numeric = dict.fromkeys((column.name for column in encoder.numeric), True)
        return numeric | dict.fromkeys((column.name for column in encoder.categorical), False)


def load_model(folder: Path) -> Model:
    """Read a party's part of a model.

    Raises
    ------
    DataError
        A file of it is missing, damaged, of another version or of another run.
    """
    kept = load_kept_run(folder)
    if kept.job.horizontal:
        return Model(kept, _of_silo(folder, kept, load_horizontal_shard(folder)))
    if kept.job.model == "boosting":
        return Model(kept, load_tree_shard(folder))
    if kept.job.model == "splitnn":
        return Model(kept, _fitting(folder, kept, load_split_shard(folder)))
    return Model(kept, load_shard(folder))


def _fitting(folder: Path, kept: KeptRun, shard: SplitShard) -> SplitShard:
    """A shard of the run, if it has as many columns as were agreed on."""
    widths = {name: len(half) for name, half in shard.shares.items()}
    widths[kept.party.name] = len(shard.preprocessor.names)
    if any(kept.columns.get(name) != width for name, width in widths.items()):
        raise DataError(
            f"model shard {folder}: cannot be read (not as many columns as were agreed on); run the training again"
        )
    return shard


def _of_silo(folder: Path, kept: KeptRun, shard: HorizontalShard) -> HorizontalShard:
    """A shard of the run, if it has the columns and scores that were agreed on."""
    fits = kept.columns.get(kept.party.name) == len(shard.preprocessor.names)
    if not fits or (kept.job.model != "splitnn" and shard.coef.shape[1] != kept.outputs):
        raise DataError(
            f"model shard {folder}: cannot be read (not as many columns or scores as were agreed on); run the training "
            "again"
        )
    return shard


def with_modules(models: Mapping[str, Model], modules: object) -> dict[str, Model]:
    """Models with the networks of their own that parties trained, as the user hands them over.

    Silos that trained alone have the same one, by the name of their party.

    Raises
    ------
    ConfigError
        A party is none of the run's, or trained no network of its own; or the network is none that fits.
    DataError
        The weights are another network's.
    """
    if not isinstance(modules, Mapping):
        raise ConfigError(
            f"modules, got {type(modules).__name__}, expected a mapping of party to torch.nn.Module, such as "
            f"{{'{owner_of(next(iter(models.values())))}': module}}"
        )
    owners = {owner_of(model): model for model in models.values()}
    for name in modules:
        if name not in owners or not _has_own_module(owners[name]):
            own = [f"'{one}'" for one, model in owners.items() if _has_own_module(model)]
            raise ConfigError(
                f"modules, got one for {show(name)}, expected one for each party that trained a module of its own: "
                f"{', '.join(own) or 'none did in this run'}"
            )
    whole = {name: replace(model, module=modules.get(owner_of(model))) for name, model in models.items()}
    for model in whole.values():
        if model.module is not None:
            _rebuild(model)
    return whole


def _rebuild(model: Model) -> None:
    """Refuse another module than the one that was trained."""
    if isinstance(model.shard, HorizontalShard):
        whole_network(model)
    else:
        (network_of if model.kept.party.role == "active" else bottom_of)(model)


def owner_of(model: Model) -> str:
    """By which name a user hands over a module: a party's own, of silos that trained alone their party's."""
    return model.kept.party.holder if model.kept.job.horizontal else model.name


def check_network(model: Model) -> None:
    """Refuse a network that cannot be built here: torch is missing, or the module that the user wrote.

    Raises
    ------
    ConfigError
    """
    shard = model.shard
    silos = isinstance(shard, HorizontalShard) and model.kept.job.model == "splitnn"
    if not silos and not (isinstance(shard, SplitShard) and (shard.network or shard.own_module)):
        return
    need_torch(f"party '{model.name}': model 'splitnn'")
    if _has_own_module(model) and model.module is None:
        raise ConfigError(
            f"party '{model.name}' trained a torch module of its own, of which a run keeps the weights alone; expected "
            f"the module again, in Python: vfl.load_model(RUN_DIR, modules={{'{owner_of(model)}': module}})"
        )


def network_of(model: Model) -> Network:
    """The active party's trained network.

    Raises
    ------
    ConfigError
        As `check_network`, or the user's module is none that fits.
    DataError
        The weights are another network's.
    """
    check_network(model)
    from vfl.network import load_network  # torch takes seconds to import

    shard, job = _split_shard(model), model.kept.job
    columns = len(shard.preprocessor.names)
    with _naming(model):
        return load_network(job, columns, model.kept.outputs, shard.network, module=model.module)


def bottom_of(model: Model) -> Bottom:
    """A passive party's trained bottom network, in mode split; errors as of `network_of`."""
    check_network(model)
    from vfl.bottom import load_bottom  # torch takes seconds to import

    shard, job = _split_shard(model), model.kept.job
    with _naming(model):
        return load_bottom(job, model.name, len(shard.preprocessor.names), shard.network, module=model.module)


def whole_network(model: Model) -> Network:
    """The joint network as each silo has it that trained alone: all layers, in float64; errors as of `network_of`."""
    check_network(model)
    from vfl.local_network import rebuild  # torch takes seconds to import

    shard, kept = whole_of(model), model.kept
    label = np.zeros(0) if shard.label is None else shard.label
    with _naming(model):
        return rebuild(kept.job, len(shard.columns), kept.outputs, shard.weights, label, module=model.module)


def whole_of(model: Model) -> HorizontalShard:
    """The whole joint model, where silos alone have trained."""
    if not isinstance(model.shard, HorizontalShard):
        raise TypeError("only silos that trained alone have the whole model")
    return model.shard


@contextmanager
def _naming(model: Model) -> Iterator[None]:
    """Say whose weights do not fit."""
    try:
        yield
    except DataError as error:
        raise DataError(f"model shard of party '{model.name}': {error}") from None


def _split_shard(model: Model) -> SplitShard:
    if not isinstance(model.shard, SplitShard):
        raise TypeError("only a split neural network has layers")
    return model.shard


def _has_own_module(model: Model) -> bool:
    return isinstance(model.shard, SplitShard | HorizontalShard) and model.shard.own_module
