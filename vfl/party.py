"""One company of a federation in Python: its name, its data, and which columns mean what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from parties.errors import ConfigError
from vfl.tables import show

Data = str | Path | pd.DataFrame
_IN_MEMORY = "a DataFrame"


class Silo:
    """One silo of a party: the same columns as its other silos, different rows.

    Parameters
    ----------
    data : path or pandas.DataFrame
        As of a `Party`.
    weight : float, optional
        With ``aggregation="weighted"``: how much the silo counts.
    **options
        The other keys of a ``[[party.silo]]`` table, where they differ from the party's: ``id``, ``encoding``,
        ``missing_values``, ``policy``.

    Examples
    --------
    >>> Silo("north.csv", weight=2)
    Silo('north.csv')
    """

    def __init__(self, data: Data, *, weight: float | None = None, **options: Any) -> None:
        self.data = data
        given = ({} if weight is None else {"weight": weight}) | options
        self.lines: dict[str, object] = {"data": _path(data), **{key: plain(value) for key, value in given.items()}}

    def __repr__(self) -> str:
        return f"Silo({self.lines['data']!r})"


class Party:
    """One company: its name, its data and which columns mean what.

    Parameters
    ----------
    name : str
        Lower-case letters, digits, ``-`` and ``_``.
    data : path or pandas.DataFrame
        A CSV, or a DataFrame whose id columns are text or whole numbers. None where there are ``silos``.
    id : str or sequence of str
        Id column, or several for a composite key. Only a federation of silos of one party needs none.
    label : str, optional
        The label column; the party that has one is the active party.
    role : {"active", "passive"}, optional
        By default "active" with a label, else "passive".
    silos : mapping of name to path, DataFrame or Silo, optional
        Silos that hold the party's rows among them, instead of ``data``. To everything else they are called
        PARTY.SILO, such as ``"hospitals.north"``.
    **options
        The other keys of a ``[[party]]`` table: ``positive``, ``sample_weight``, ``features``, ``drop``,
        ``categorical``, ``monotone_constraints``, ``missing_values``, ``encoding``, ``unknown_category``,
        ``categories``, ``policy``.

    Examples
    --------
    >>> Party("shop", "shop.csv", id="client", drop=["internal_note"])
    Party('shop', passive)
    >>> hospitals = Party("hospitals", silos={"north": "north.csv", "south": Silo("south.csv", weight=2)}, label="died")
    >>> hospitals, list(hospitals.sources)
    (Party('hospitals', active, 2 silos), ['hospitals.north', 'hospitals.south'])
    """

    def __init__(
        self,
        name: str,
        data: Data | None = None,
        *,
        id: str | list[str] | tuple[str, ...] | None = None,  # noqa: A002 - the scenario file's word
        label: str | None = None,
        role: Literal["active", "passive"] | None = None,
        silos: Mapping[str, Data | Silo] | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        self.silos = None if silos is None else _silos(name, silos)
        if (data is None) == (self.silos is None):
            got = "neither" if data is None else "both"
            raise ConfigError(f"Party {show(name)}, got {got} data and silos, expected one of them")
        self.data = data
        held = {"data": _path(data)} if self.silos is None else {"silo": _lines(self.silos)}
        self.lines: dict[str, object] = {
            "name": name,
            "role": role or ("active" if label is not None else "passive"),
            **held,
            **({} if id is None else {"id": id if isinstance(id, str) else list(id)}),
            **({} if label is None else {"label": label}),
            **{key: plain(value) for key, value in options.items()},
        }

    def __repr__(self) -> str:
        silos = "" if self.silos is None else f", {len(self.silos)} silo{'s' if len(self.silos) > 1 else ''}"
        return f"Party({self.name!r}, {self.lines['role']}{silos})"

    @property
    def sources(self) -> dict[str, Data]:
        """The data of each silo by its whole name, or of the party by its own."""
        if self.silos is None:
            return {} if self.data is None else {self.name: self.data}
        return {f"{self.name}.{name}": silo.data for name, silo in self.silos.items()}


def plain(value: object) -> object:
    """Numbers and lists of numpy and pandas as Python's own, which a scenario file could hold.

    >>> plain({"l2": np.float64(0.5), "drop": pd.Index(["a", "b"])})
    {'l2': 0.5, 'drop': ['a', 'b']}
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | pd.Index | pd.Series):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _path(data: object) -> str:
    return _IN_MEMORY if isinstance(data, pd.DataFrame) else str(data)


def _silos(party: str, silos: object) -> dict[str, Silo]:
    """Every silo by its own name."""
    if not isinstance(silos, Mapping) or not silos:
        raise ConfigError(
            f"silos of party {show(party)}, got {'none' if isinstance(silos, Mapping) else type(silos).__name__}, "
            "expected a mapping of name to CSV or DataFrame, such as {'north': 'north.csv', 'south': 'south.csv'}"
        )
    return {name: silo if isinstance(silo, Silo) else Silo(silo) for name, silo in silos.items()}


def _lines(silos: Mapping[str, Silo]) -> list[dict[str, object]]:
    return [{"name": name, **silo.lines} for name, silo in silos.items()]
