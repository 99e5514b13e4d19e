"""The torch modules that a user hands over for the parties of a split neural network, checked before anything is run.

Whether a module's outputs are of the shape that is needed is checked where it is built, once the columns are known.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from parties.errors import ConfigError
from parties.spec import holder_of
from vfl.job import Job, SplitNN
from vfl.tables import show

if TYPE_CHECKING:
    from vfl.estimators import Estimator

Modules = Mapping[str, object]
"""Module of each party that has its own: of the active party the layers above the first one, else its bottom network.

Where silos alone train, each has a copy of the same layers above the first one.
"""


def modules_of(estimator: Estimator, job: Job) -> dict[str, object]:
    """Copies of an estimator's own modules, by party.

    Raises
    ------
    ConfigError
        Something else than modules, for somebody else than the parties, or beside parameters that would say the same.
    """
    top, bottoms = getattr(estimator, "top", None), getattr(estimator, "bottoms", None)
    owners = job.labelled if job.horizontal else (job.active,)
    modules: dict[str, object] = {} if top is None else {n: _copied("top", top, job.splitnn.units) for n in owners}
    if bottoms is not None:
        modules |= _bottoms(bottoms, job)
    _check_not_ignored(job, modules)
    return modules


def kept_modules(modules: Modules, job: Job) -> dict[str, object]:
    """Modules by the names under which a kept model takes them back: silos that train alone share one."""
    return {holder_of(name): module for name, module in modules.items()} if job.horizontal else dict(modules)


def _bottoms(bottoms: object, job: Job) -> dict[str, object]:
    names = ", ".join(f"'{name}'" for name in job.passive)
    if not isinstance(bottoms, Mapping):
        raise ConfigError(
            f"bottoms, got {type(bottoms).__name__}, expected a mapping of party to torch.nn.Module, for {names}"
        )
    if job.horizontal:
        raise ConfigError("bottoms, got modules for silos that train alone, expected none: no party has features only")
    if job.splitnn.mode != "split":
        raise ConfigError(
            f"bottoms, got modules in mode '{job.splitnn.mode}', expected mode='split': there alone passive parties "
            "have networks of their own"
        )
    for name in bottoms:
        if name not in job.passive:
            raise ConfigError(f"bottoms, got one for {show(name)}, expected them for {names}, the passive parties")
    return {name: _copied(f"bottoms['{name}']", module, job.splitnn.units) for name, module in bottoms.items()}


def _copied(what: str, module: object, units: int) -> object:
    """A copy of a module: what is done to the original later leaves a fitted model alone."""
    import torch

    does = f"takes (rows, {units})" if what == "top" else f"returns (rows, {units})"
    if isinstance(module, type) and issubclass(module, torch.nn.Module):
        raise ConfigError(f"{what}, got the class {module.__name__}, expected {module.__name__}(...) that {does}")
    if not isinstance(module, torch.nn.Module):
        raise ConfigError(f"{what}, got {type(module).__name__}, expected a torch.nn.Module that {does}")
    try:
        return copy.deepcopy(module)
    except Exception as error:  # it may be anybody's code
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"{what}, got a module that cannot be copied ({type(error).__name__}: {reason}), expected one with "
            "weights of its own, not results of a computation"
        ) from None


def _check_not_ignored(job: Job, modules: Modules) -> None:
    """Refuse parameters that describe what own modules are instead."""
    settings, usual = job.splitnn, SplitNN()
    layered = [name for name in job.passive if settings.bottom_hidden and name not in modules]
    replaced: dict[str, Any] = {}
    if job.active in modules:
        replaced = {"hidden": "top"} | ({} if layered else {"activation": "top", "dropout": "top"})
    if settings.mode == "split" and not layered:
        replaced |= {"bottom_hidden": "bottoms"}
    for key, instead in replaced.items():
        if (got := getattr(settings, key)) != getattr(usual, key):
            raise ConfigError(f"{key}, got {show(got)} beside {instead}, expected one of them: own modules have layers")
