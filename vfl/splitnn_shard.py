"""What a party keeps of a split neural network: its encoder, and its part of the weights.

``model.json`` and ``model.npz`` as in ``vfl.shard``. The first layer's weights in mode source-layer are the sum modulo
2^64 of two shares, in units of 2^-36: one half at the party whose columns they belong to, the other at the active
party. The active party also keeps the layers above, in mode split every party its own bottom network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from parties.errors import DataError
from parties.spec import PartySpec
from vfl.job import SplitNN
from vfl.optim import Vector
from vfl.preprocess import Preprocessor
from vfl.shard import UNREADABLE, Arrays, read_shard, within, write_shard
from vfl.terms import Terms

Ring = NDArray[np.uint64]

_SHARE, _TYPICAL, _NETWORK = "share", "typical", "network."
_KINDS = "fiub"  # floats, integers, booleans: what a network's parameters and buffers are


@dataclass(frozen=True, slots=True)
class SplitShard:
    """A party's part of a split neural network.

    Parameters
    ----------
    classes : tuple of str
        At the active party of a classifier, in code order.
    share : ndarray of shape (d, units), uint64, or None
        A passive party's half of its first-layer weights, in mode source-layer.
    shares : dict of passive party to ndarray of shape (its d, units), uint64
        The other halves, at the active party in mode source-layer.
    network : dict of name to ndarray
        The active party's own part of the first layer and all above; in mode split a passive party's bottom network.
    typical : ndarray of shape (units,), float64, or None
        At the active party: mean over the training rows of what the passive parties add to the first layer; stands in
        for them where they lack a row.
    own_module : bool
        The network is the user's own torch module, which ``network`` has the weights of and nobody can rebuild.
    """

    preprocessor: Preprocessor = field(repr=False)
    classes: tuple[str, ...] = ()
    share: Ring | None = field(default=None, repr=False)
    shares: Mapping[str, Ring] = field(default_factory=dict, repr=False)
    network: Arrays = field(default_factory=dict, repr=False)
    typical: Vector | None = field(default=None, repr=False)
    own_module: bool = False


class _Kept(msgspec.Struct, frozen=True):
    """What ``model.json`` says that a shard is read by, and more for those who read it."""

    role: str
    mode: str
    units: int
    own_module: bool
    classes: tuple[str, ...]
    preprocessor: dict[str, object]
    passive: tuple[str, ...] = ()


def save_split_shard(folder: Path, terms: Terms, spec: PartySpec, shard: SplitShard) -> None:
    """Write ``model.json`` and ``model.npz``."""
    settings = terms.job.splitnn
    lines: dict[str, object] = {
        "mode": settings.mode,
        "units": settings.units,
        "own_module": shard.own_module,
        "classes": list(shard.classes),
        "columns": shard.preprocessor.names,
        "preprocessor": shard.preprocessor.to_dict(),
    }
    if spec.role == "active":
        lines["passive"] = list(terms.job.passive)
    if shard.network and not shard.own_module:
        columns = len(shard.preprocessor.names)
        lines["layers"] = _widths(settings, columns, terms.outputs, active=spec.role == "active")
        lines["activation"] = settings.activation
    write_shard(folder, terms, spec, lines, _to_arrays(shard))


def load_split_shard(folder: Path) -> SplitShard:
    """Read a party's shard.

    Raises
    ------
    DataError
        If it is missing or damaged.
    """
    state, arrays = read_shard(folder)
    try:
        kept = msgspec.convert(state, _Kept)
        shard = SplitShard(
            preprocessor=Preprocessor.from_dict(kept.preprocessor),
            classes=kept.classes,
            share=arrays.get(_SHARE),
            shares=within(arrays, f"{_SHARE}."),
            network=within(arrays, _NETWORK),
            typical=arrays.get(_TYPICAL),
            own_module=kept.own_module,
        )
        if len(_to_arrays(shard)) < len(arrays):
            raise ValueError("an array that belongs to nothing")
        _check(kept, shard)
    except (*UNREADABLE, msgspec.ValidationError) as error:
        raise DataError(f"model shard {folder}: cannot be read ({error}); run the training again") from None
    return shard


def _widths(settings: SplitNN, columns: int, outputs: int, *, active: bool) -> list[int]:
    """Widths of the network that a party keeps, from its own columns on."""
    if active:
        return [columns, settings.units, *settings.hidden, outputs]
    return [columns, *settings.bottom_hidden, settings.units]


def _to_arrays(shard: SplitShard) -> Arrays:
    own = {_SHARE: shard.share, _TYPICAL: shard.typical}
    return (
        {name: array for name, array in own.items() if array is not None}
        | {f"{_SHARE}.{name}": array for name, array in shard.shares.items()}
        | {f"{_NETWORK}{name}": array for name, array in shard.network.items()}
    )


def _check(kept: _Kept, shard: SplitShard) -> None:
    """What a party of this role has in this mode, and nothing else; `vfl.torch_parts` checks a network's shapes."""
    active, source = kept.role == "active", kept.mode == "source-layer"
    if kept.role not in ("active", "passive") or kept.mode not in ("source-layer", "split") or kept.units < 1:
        raise ValueError("no such role, mode or width")
    if list(shard.shares) != (list(kept.passive) if active and source else []):
        raise ValueError("the shares are not those of the passive parties")
    if (shard.share is not None) != (source and not active):
        raise ValueError("its own share is missing, or one too many")
    layered = active or not source  # the user's own bottom network may have no weights at all
    if (shard.network and not layered) or (layered and not shard.network and not (shard.own_module and not active)):
        raise ValueError("its network is missing, or one too many")
    if (shard.typical is not None) != active:
        raise ValueError("the typical first-layer output is missing, or one too many")
    _check_shares(kept.units, shard)
    if shard.typical is not None and not (shard.typical.dtype == np.float64 and shard.typical.shape == (kept.units,)):
        raise ValueError("the typical first-layer output is of another shape")
    _check_numbers([*shard.network.values(), *([] if shard.typical is None else [shard.typical])])


def _check_shares(units: int, shard: SplitShard) -> None:
    """One row per encoded column, one column per unit."""
    halves = [*shard.shares.values(), *([] if shard.share is None else [shard.share])]
    if not all(half.dtype == np.uint64 and half.ndim == 2 and half.shape[1] == units for half in halves):
        raise ValueError("the shares of the weights are of another shape")
    if shard.share is not None and len(shard.share) != len(shard.preprocessor.names):
        raise ValueError("the share has not one row per encoded column")


def _check_numbers(arrays: Iterable[NDArray[np.generic]]) -> None:
    for array in arrays:
        if array.dtype.kind not in _KINDS or (array.dtype.kind == "f" and not np.isfinite(array).all()):
            raise ValueError("weights that are no finite numbers")
