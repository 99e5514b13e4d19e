"""One company of a federation in Python: its name, its data, and which columns mean what."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

Data = str | Path | pd.DataFrame
_IN_MEMORY = "a DataFrame"


class Party:
    """One company: its name, its data and which columns mean what.

    Parameters
    ----------
    name : str
        Lower-case letters, digits, ``-`` and ``_``.
    data : path or pandas.DataFrame
        A CSV, or a DataFrame whose id columns are text or whole numbers.
    id : str or sequence of str
        Id column, or several for a composite key.
    label : str, optional
        The label column; the party that has one is the active party.
    role : {"active", "passive"}, optional
        By default "active" with a label, else "passive".
    **options
        The other keys of a ``[[party]]`` table: ``positive``, ``sample_weight``, ``features``, ``drop``,
        ``categorical``, ``monotone_constraints``, ``missing_values``, ``encoding``, ``unknown_category``, ``policy``.

    Examples
    --------
    >>> Party("shop", "shop.csv", id="client", drop=["internal_note"])
    Party('shop', passive)
    """

    def __init__(
        self,
        name: str,
        data: Data,
        *,
        id: str | list[str] | tuple[str, ...],  # noqa: A002 - the scenario file's word
        label: str | None = None,
        role: Literal["active", "passive"] | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        self.data = data
        self.lines: dict[str, object] = {
            "name": name,
            "role": role or ("active" if label is not None else "passive"),
            "data": _IN_MEMORY if isinstance(data, pd.DataFrame) else str(data),
            "id": id if isinstance(id, str) else list(id),
            **({} if label is None else {"label": label}),
            **{key: plain(value) for key, value in options.items()},
        }

    def __repr__(self) -> str:
        return f"Party({self.name!r}, {self.lines['role']})"


def plain(value: object) -> object:
    """Numbers and lists of numpy and pandas as Python's own, which a scenario file could hold.

    >>> plain({"l2": np.float64(0.5), "drop": pd.Index(["a", "b"])})
    {'l2': 0.5, 'drop': ['a', 'b']}
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | pd.Index | pd.Series):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value
