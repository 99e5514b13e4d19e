"""The pieces of torch that networks here are made of: layers, optimizers, their state as arrays, and a calm room.

torch comes with the extra ``nn`` and takes seconds to import. This module can be imported without it; its functions,
but for `need_torch` and `seed_of`, cannot be called.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from parties.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

    from vfl.job import SplitNN
    from vfl.shard import Arrays

_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_ROOM = threading.RLock()

_ACTIVATIONS = {
    "relu": "ReLU",
    "leaky_relu": "LeakyReLU",
    "elu": "ELU",
    "gelu": "GELU",
    "silu": "SiLU",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
}
_KEPT_BY = {
    "adam": ("step", "exp_avg", "exp_avg_sq"),
    "adamw": ("step", "exp_avg", "exp_avg_sq"),
    "sgd": ("momentum_buffer",),
    "rmsprop": ("step", "square_avg"),
    "adagrad": ("step", "sum"),
}
"""What each optimizer keeps of a parameter; of a parameter that has had no gradient yet it keeps nothing."""


def need_torch(what: str) -> None:
    """Refuse to go on where torch is not installed.

    Parameters
    ----------
    what : str
        What needs it, for the error's text.

    Raises
    ------
    ConfigError
    """
    if importlib.util.find_spec("torch") is None:
        raise ConfigError(
            f"{what} needs torch, which is not installed here: pip install 'vfl[nn]' "
            f"(on Linux without a GPU: pip install 'vfl[nn]' --extra-index-url {_CPU_INDEX})"
        )


def seed_of(*words: str | int) -> int:
    """A seed from names and numbers, below 2^63: the same everywhere, another one for every list of words.

    >>> seed_of(0, "top") == seed_of(0, "top"), seed_of(0, "top") == seed_of(1, "top")
    (True, False)
    """
    digest = hashlib.sha256(json.dumps(words).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


@contextmanager
def calm(seed: int | None = None) -> Iterator[None]:
    """Compute on one thread, with gradients, and leave torch as it was found.

    Sums on several threads depend on how many there are. The number of threads, the random state and the default dtype
    (float32 in here) are the whole process's, so one thread at a time may be in here: nothing inside may wait for
    another party.

    Parameters
    ----------
    seed : int or None
        Seeds torch's random numbers inside; None: they go on from where they are, and come back to it.
    """
    import torch

    with _ROOM, torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float32)
        try:
            if seed is not None:
                torch.default_generator.manual_seed(seed)
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)


def layers(widths: Sequence[int], activation: str, dropout: float) -> torch.nn.Sequential:
    """Linear layers with an activation, and dropout where there is any, between them; float32 on the CPU.

    Parameters
    ----------
    widths : sequence of int
        Inputs, outputs of every layer but the last one, outputs; at least two numbers.
    activation : str
        One of ``training.activation``.
    dropout : float
        Share of the activations left out in training.
    """
    import torch

    parts: list[torch.nn.Module] = []
    for number, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
        parts += activate(activation, dropout) if number else []
        parts.append(torch.nn.Linear(inputs, outputs, device="cpu", dtype=torch.float32))
    return torch.nn.Sequential(*parts)


def activate(activation: str, dropout: float) -> list[torch.nn.Module]:
    """An activation, and dropout behind it where there is any."""
    import torch

    chosen: torch.nn.Module = getattr(torch.nn, _ACTIVATIONS[activation])()
    return [chosen, torch.nn.Dropout(dropout)] if dropout else [chosen]


def make_optimizer(settings: SplitNN, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The job's optimizer over these parameters, of which there may be none."""
    import torch

    groups = [{"params": list(parameters)}]
    rate, decay = settings.learning_rate, settings.weight_decay
    optimizers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adam": lambda: torch.optim.Adam(groups, lr=rate, weight_decay=decay, foreach=False),
        "adamw": lambda: torch.optim.AdamW(groups, lr=rate, weight_decay=decay, foreach=False),
        "sgd": lambda: torch.optim.SGD(groups, lr=rate, weight_decay=decay, momentum=settings.momentum, foreach=False),
        "rmsprop": lambda: torch.optim.RMSprop(groups, lr=rate, weight_decay=decay, foreach=False),
        "adagrad": lambda: torch.optim.Adagrad(groups, lr=rate, weight_decay=decay, foreach=False),
    }
    return optimizers[settings.optimizer]()


def module_arrays(module: torch.nn.Module, prefix: str) -> Arrays:
    """Copies of a module's parameters and buffers, by name behind the prefix."""
    return {prefix + name: tensor.detach().cpu().numpy().copy() for name, tensor in _tensors(module)}


def restore_module(module: torch.nn.Module, arrays: Mapping[str, np.ndarray], prefix: str) -> None:
    """Give a module the parameters and buffers that `module_arrays` took; arrays without the prefix are left alone.

    Raises
    ------
    DataError
        A name, shape or dtype is another one than the module's.
    """
    import torch

    tensors = dict(_tensors(module))
    _check_names(set(tensors), {name.removeprefix(prefix) for name in arrays if name.startswith(prefix)}, prefix)
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(_fitting(arrays[prefix + name], tensor, prefix + name))


def optimizer_arrays(optimizer: torch.optim.Optimizer, prefix: str) -> Arrays:
    """Copies of what an optimizer keeps of each parameter, by the parameter's number and the name."""
    import torch

    return {
        f"{prefix}{number}.{name}": value.detach().cpu().numpy().copy()
        for number, kept in optimizer.state_dict()["state"].items()
        for name, value in kept.items()
        if isinstance(value, torch.Tensor)
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, settings: SplitNN, arrays: Mapping[str, np.ndarray], prefix: str
) -> None:
    """Give a new optimizer of the job what `optimizer_arrays` took; arrays without the prefix are left alone.

    Raises
    ------
    DataError
        A name, shape or dtype does not fit the optimizer's parameters.
    """
    import torch

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    single = torch.zeros((), dtype=torch.float32)
    expected = {
        f"{number}.{name}": (number, name, single if name == "step" else parameter)
        for number, parameter in enumerate(parameters)
        for name in _KEPT_BY[settings.optimizer]
    }
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key in sorted(name.removeprefix(prefix) for name in arrays if name.startswith(prefix)):
        if key not in expected:
            raise DataError(f"a network's state: got {prefix}{key}, which its optimizer does not keep; train again")
        number, name, like = expected[key]
        state.setdefault(number, {})[name] = _fitting(arrays[prefix + key], like, prefix + key)
    if any(len(kept) < len(_KEPT_BY[settings.optimizer]) for kept in state.values()):
        raise DataError(f"a network's state: {prefix} lacks a part of what its optimizer keeps; train again")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and all buffers, those too that a state_dict leaves out; what modules share comes once."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def _check_names(expected: set[str], got: set[str], prefix: str) -> None:
    if expected != got:
        name = sorted(expected ^ got)[0]
        problem = "is missing" if name in expected else "is not among the network's weights"
        raise DataError(
            f"a network's weights: {prefix}{name} {problem}; expected {len(expected)} arrays of the same network"
        )


def _fitting(array: np.ndarray, like: torch.Tensor, name: str) -> torch.Tensor:
    """An array as a tensor, if it has the shape and dtype of another one."""
    import torch

    expected = np.dtype(str(like.dtype).removeprefix("torch."))
    if array.shape != tuple(like.shape) or array.dtype != expected:
        raise DataError(
            f"a network's weights: {name} is {array.dtype} of shape {array.shape}, expected {expected} of shape "
            f"{tuple(like.shape)}; are they those of another network?"
        )
    return torch.from_numpy(np.array(array))
