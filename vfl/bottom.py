"""A party's own bottom network in mode split: its columns in, outputs of shape (rows, units) out.

It trains on the gradients of the loss by its outputs, with an optimizer of its own, and never sees a label. torch is
needed to make one, not to import this module.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from parties.errors import ConfigError, LocalProtocolError
from vfl.job import Job, SplitNN
from vfl.network_columns import to_fixed
from vfl.optim import Vector
from vfl.torch_parts import (
    calm,
    layers,
    make_optimizer,
    module_arrays,
    need_torch,
    optimizer_arrays,
    restore_module,
    restore_optimizer,
    seed_of,
)

if TYPE_CHECKING:
    import torch

    from vfl.shard import Arrays

_WEIGHTS, _OPTIMIZER = "weights.", "optimizer."
_BLOCK = 512  # rows of a finished network's pass, never fewer: a product's sums may be added in another order otherwise


class Bottom:
    """A bottom network and its optimizer; `make_bottom` and `load_bottom` make one.

    Attributes
    ----------
    module : torch.nn.Module
        The network itself, as trained so far.
    """

    def __init__(self, party: str, settings: SplitNN, module: torch.nn.Module) -> None:
        self.module = module
        self._party = party
        self._settings = settings
        self._optimizer = make_optimizer(settings, module.parameters())
        self._last: tuple[torch.Tensor, torch.Tensor, int] | None = None

    def forward(self, X: Vector, *, seed: int | None = None) -> Vector:
        """Outputs of some rows.

        Parameters
        ----------
        X : ndarray of shape (rows, columns), float64
        seed : int or None
            Of dropout: these are rows to train on, and `step` may follow. None: outputs as of a finished network.

        Returns
        -------
        ndarray of shape (rows, units), float64

        Raises
        ------
        ConfigError
            A module of the user's own does not take the rows, or gives back something else.
        """
        if seed is None:
            return self._finished(X)
        with calm(seed):
            rows = self._tensor(X)
            outputs = self._outputs(rows, training=True)
            self._last = rows, outputs, seed
            return outputs.detach().double().numpy()

    def step(self, gradient: Vector, *, steps: int = 1) -> None:
        """Step against dL/d outputs of the last forward pass in training.

        Parameters
        ----------
        gradient : ndarray of shape (rows, units), float64
        steps : int
            Steps on the same rows: from the second on the outputs are new ones, and the gradient stays (FedBCD).
        """
        if self._last is None:
            raise LocalProtocolError(f"party '{self._party}': no forward pass in training to step back from")
        import torch

        X, outputs, seed = self._last
        self._last = None
        for number in range(steps):
            with calm(seed if number == 0 else seed_of(seed, number)):
                if number:
                    outputs = self._outputs(X, training=True)
                if outputs.requires_grad:  # not so where nothing in the module can be trained
                    self._optimizer.zero_grad()
                    torch.autograd.backward(outputs, self._tensor(gradient).to(outputs.dtype))
                    self._optimizer.step()

    def state(self) -> Arrays:
        """Everything that is needed to go on bit for bit: weights, buffers, what the optimizer remembers."""
        kept = optimizer_arrays(self._optimizer, _OPTIMIZER)
        return {**module_arrays(self.module, _WEIGHTS), **kept}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go back to a `state`.

        Raises
        ------
        DataError
            If it is one of another network.
        """
        self._last = None
        restore_module(self.module, arrays, _WEIGHTS)
        restore_optimizer(self._optimizer, self._settings, arrays, _OPTIMIZER)

    def weights(self) -> Arrays:
        """Weights and buffers by name."""
        return module_arrays(self.module, "")

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take `weights`; what the optimizer remembers stays.

        Raises
        ------
        DataError
            If they are those of another network.
        """
        self._last = None
        restore_module(self.module, arrays, "")

    def _finished(self, X: Vector) -> Vector:
        """Outputs without dropout; those of a row do not depend on how many others there are."""
        found = np.zeros((len(X), self._settings.units))
        with calm():
            for start in range(0, len(X), _BLOCK):
                block = X[start : start + _BLOCK]
                padded = np.pad(block, ((0, _BLOCK - len(block)), (0, 0)))
                outputs = self._outputs(self._tensor(padded), training=False)
                found[start : start + _BLOCK] = outputs.double().numpy()[: len(block)]
        return found

    def _tensor(self, values: Vector) -> torch.Tensor:
        """Numbers in the module's dtype."""
        import torch

        numbers = (p.dtype for p in self.module.parameters() if p.is_floating_point())
        return torch.tensor(values, dtype=next(numbers, torch.float32))

    def _outputs(self, X: torch.Tensor, *, training: bool) -> torch.Tensor:
        """Run the module, in training with what a step back needs, and check what it gives back."""
        import torch

        self.module.train(training)
        expected = (len(X), self._settings.units)
        try:
            with torch.set_grad_enabled(training):
                outputs: object = self.module(X)
        except Exception as error:  # it may be anybody's code
            raise ConfigError(
                f"bottom network of party '{self._party}': it does not take {len(X)} rows of {X.shape[1]} columns: "
                f"{_first_line(error)}; expected a module from (rows, {X.shape[1]}) to (rows, {expected[1]})"
            ) from None
        if isinstance(outputs, torch.Tensor) and outputs.is_floating_point() and tuple(outputs.shape) == expected:
            return outputs
        got = f"shape {tuple(outputs.shape)}" if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise ConfigError(
            f"bottom network of party '{self._party}': got {got} from {len(X)} rows, expected floats of shape "
            f"{expected} (training.units outputs for each row)"
        )


def make_bottom(job: Job, party: str, X: Vector, *, module: object = None) -> Bottom:
    """A bottom network to train: of the job's layers, or a copy of the user's own module.

    First weights of the job's layers are PyTorch's, drawn from a hash of the party's own cells and the job's seed: the
    same in every run on the same rows, and unknown to whoever does not have these cells. With known weights and as many
    outputs as columns the active party could solve for the cells. A module of the user's own comes with its weights:
    whoever knows how they were drawn knows them.

    Parameters
    ----------
    X : ndarray of shape (n, columns), float64
        The party's encoded cells of the training rows.
    module : torch.nn.Module, optional
        From (rows, columns) to (rows, units).

    Raises
    ------
    ConfigError
        torch is not installed, or the module is none that fits.
    """
    need_torch("mode 'split' of model 'splitnn'")
    settings = job.splitnn
    if module is None:
        text = f"vfl bottom network|{job.seed}|{X.shape[0]}|{X.shape[1]}|{settings.units}|".encode()
        cells = np.ascontiguousarray(to_fixed(X), dtype="<i8").tobytes()
        seed = int.from_bytes(hashlib.sha256(text + cells).digest()[:8]) >> 1
        return Bottom(party, settings, _stack(settings, X.shape[1], seed))
    return _checked(Bottom(party, settings, _copied(party, module)), X.shape[1])


def load_bottom(
    job: Job, party: str, columns: int, arrays: Mapping[str, np.ndarray], *, module: object = None
) -> Bottom:
    """A trained bottom network again, from its `Bottom.weights`.

    Parameters
    ----------
    module : torch.nn.Module, optional
        One like that it was trained with, where that was the user's own.

    Raises
    ------
    ConfigError
        torch is not installed, or the module is none that fits.
    DataError
        The weights are those of another network.
    """
    need_torch("mode 'split' of model 'splitnn'")
    own = _stack(job.splitnn, columns, 0) if module is None else _copied(party, module)
    bottom = Bottom(party, job.splitnn, own)
    bottom.load(arrays)
    return bottom if module is None else _checked(bottom, columns)


def _stack(settings: SplitNN, columns: int, seed: int) -> torch.nn.Module:
    """The job's layers."""
    with calm(seed):
        return layers((columns, *settings.bottom_hidden, settings.units), settings.activation, settings.dropout)


def _copied(party: str, module: object) -> torch.nn.Module:
    """A copy on the CPU: the user's module stays as it is."""
    import torch

    if not isinstance(module, torch.nn.Module):
        raise ConfigError(f"bottom network of party '{party}': got {type(module).__name__}, expected a torch.nn.Module")
    try:
        copied = copy.deepcopy(module).to("cpu")
        module_arrays(copied, "")
    except Exception as error:  # bfloat16, for one, is unknown to numpy
        raise ConfigError(
            f"bottom network of party '{party}': it cannot be copied and kept: {_first_line(error)}; expected weights "
            "in float32 or float64"
        ) from None
    return copied


def _checked(bottom: Bottom, columns: int) -> Bottom:
    """Try a module of the user's own on rows of zeros."""
    bottom.forward(np.zeros((2, columns)))
    return bottom


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or ['without a text'])[0]}"
