"""Split neural networks to train, with scikit-learn's manners; `vfl.estimators` has the other models.

The network is described by its parameters, or in parts handed over as torch modules of one's own. Importing this
module does not import torch.

>>> from sklearn.base import clone
>>> clone(SplitClassifier(units=8)).set_params(epochs=5)
SplitClassifier(epochs=5, units=8)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from sklearn.base import ClassifierMixin, RegressorMixin

from vfl.silo_parameters import SiloParameters
from vfl.unfitted import refuse_unfitted

if TYPE_CHECKING:
    import torch

MODULES = ("top", "bottoms")
"""Parameters that no file could hold."""


@dataclass(kw_only=True, eq=False, repr=False)
class _Network(SiloParameters):
    """Own modules, and the keys of [training] of model splitnn; as a dataclass, as for trees."""

    top: torch.nn.Module | None = None
    bottoms: Mapping[str, torch.nn.Module] | None = None
    mode: Literal["source-layer", "split"] = "source-layer"
    units: int = 16
    hidden: tuple[int, ...] = (64, 32)
    activation: Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid"] = "relu"
    dropout: float = 0.0
    batch_size: int = 256
    epochs: int = 10
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop", "adagrad"] = "adam"
    learning_rate: float = 0.01
    weight_decay: float = 0.0
    momentum: float = 0.0
    source_learning_rate: float | None = None
    early_stopping_rounds: int | None = None
    bottom_hidden: tuple[int, ...] = ()
    local_steps: int = 1
    gradient_clip: float | None = None
    gradient_noise: float = 0.0
    label_inference: bool = False

    model: ClassVar[str] = "splitnn"
    __getattr__ = refuse_unfitted


class SplitClassifier(ClassifierMixin, _Network):  # type: ignore[misc]
    """A neural network over all parties' columns, binary or multiclass as the label has two values or more.

    Its first layer is held by all parties together and computed under encryption; the layers above are the active
    party's. It needs torch: ``pip install 'vfl[nn]'``.

    Parameters
    ----------
    top : torch.nn.Module, optional
        The layers above the first one, instead of ``hidden``, ``activation`` and ``dropout``: takes the first layer's
        outputs before any activation, of shape (rows, units), and returns (rows, classes), for two classes (rows, 1)
        or (rows,). A copy of it is trained, from the weights that it has.
    bottoms : mapping of passive party to torch.nn.Module, optional
        Mode split: these parties' bottom networks, from (rows, the party's encoded columns) to (rows, units), instead
        of ``bottom_hidden``. Copies are trained.
    mode : {"source-layer", "split"}, default "source-layer"
        In "split" every party has a bottom network of its own, whose outputs and their gradients are exchanged in the
        clear; every party's policy must allow ``embedding_gradients``.
    units : int, default 16
        Width of the first layer; time, bytes and what the active party learns grow with it.
    hidden : tuple of int, default (64, 32)
        Widths of the layers above it.
    batch_size, epochs : int, default 256, 10
    optimizer, learning_rate : str, float, default "adam", 0.01
        Of the active party's layers.
    source_learning_rate : float, optional
        Of the passive parties' weights, which take plain steps of gradient descent.
    early_stopping_rounds : int, optional
        Stop after so many epochs without a better loss on the validation part; see `Federation.fit`.
    aggregation, rounds, local_epochs : str, int, int, default "fedsgd", 50, 1
        As in `LogisticRegression`: how the silos of a party train the whole network where there is no passive party.
    others
        The keys of the section ``[training]`` of model splitnn, in docs/reference.md.

    Examples
    --------
    >>> SplitClassifier(hidden=(32,), epochs=5)
    SplitClassifier(epochs=5, hidden=(32,))
    """


@dataclass(kw_only=True, eq=False, repr=False)
class SplitRegressor(RegressorMixin, _Network):  # type: ignore[misc]
    """A neural network over all parties' columns for numbers or counts; it needs torch: ``pip install 'vfl[nn]'``.

    Parameters
    ----------
    objective : {"squared_error", "poisson"}, default "squared_error"
        Least squares, or counts with the log link.
    top : torch.nn.Module, optional
        As in `SplitClassifier`, with one output: of numbers the standardised one, of counts the logarithm of its ratio
        to the training mean.
    others
        As in `SplitClassifier`.

    Examples
    --------
    >>> SplitRegressor(objective="poisson")
    SplitRegressor(objective='poisson')
    """

    objective: Literal["squared_error", "poisson"] = "squared_error"


Networks = SplitClassifier | SplitRegressor
