"""Where a party's ids lie: in memory, or in files (`psi.id_store`); an alignment takes them from either.

Ids have indices, and are asked for by bucket, so that no more than one bucket of elements need be in memory.

>>> import numpy as np
>>> from psi.ids import IdRules, prepare_ids
>>> ids = ListedIds.of(prepare_ids([["cy", "ann", "bob"]], IdRules(), party="bank"))
>>> ids.indices(0, 1).tolist(), ids.csv_rows(np.array([0, 2])).tolist()
([0, 1, 2], [0, 2])
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from parties.wire import Bytes2D
from psi import order
from psi.buckets import in_bucket, sorted_places
from psi.elements import elements_of
from psi.ids import IdRules, PreparedIds

Indices = NDArray[np.int64]


class Elements(Protocol):
    """What a protocol needs of the ids."""

    def indices(self, number: int, buckets: int) -> Indices:
        """Indices of the ids in a bucket, ascending."""

    def elements(self, indices: Indices) -> Bytes2D:
        """Elements of ids, their indices ascending; uint8 of shape (n, 32)."""


class Ids(Elements, Protocol):
    """What an alignment needs of them, with what puts rows in order."""

    @property
    def rules(self) -> IdRules:
        """How they were normalised."""

    @property
    def count(self) -> int:
        """Distinct valid ids."""

    def csv_rows(self, indices: Indices) -> Indices:
        """The CSV row of each id, indices in any order."""

    def order_keys(self, indices: Indices, seed: int) -> Bytes2D:
        """Order keys of ids (`psi.order`), their indices ascending."""

    def set_digest(self, indices: Indices) -> str:
        """Digest of a set of ids (`psi.order`)."""


@dataclass(frozen=True)
class ElementArray:
    """Elements in memory, and nothing else; an index is a place in the array."""

    array: Bytes2D = field(repr=False)

    def indices(self, number: int, buckets: int) -> Indices:
        """Indices of the elements in a bucket, ascending."""
        return in_bucket(self.array, number, buckets)

    def elements(self, indices: Indices) -> Bytes2D:
        """These elements."""
        return self.array[indices]


@dataclass(frozen=True)
class ListedIds(ElementArray):
    """Ids in memory; an index is a place in ``prepared.ids``."""

    prepared: PreparedIds = field(repr=False)

    @classmethod
    def of(cls, prepared: PreparedIds) -> ListedIds:
        """With their elements."""
        return cls(elements_of(prepared.ids), prepared)

    @property
    def rules(self) -> IdRules:
        """How they were normalised."""
        return self.prepared.rules

    @property
    def count(self) -> int:
        """Distinct valid ids."""
        return len(self.prepared.ids)

    def csv_rows(self, indices: Indices) -> Indices:
        """The CSV row of each id."""
        return self.prepared.rows[indices]

    def order_keys(self, indices: Indices, seed: int) -> Bytes2D:
        """Order keys of ids."""
        return order.order_keys([self.prepared.ids[i] for i in indices], seed)

    def set_digest(self, indices: Indices) -> str:
        """Digest of a set of ids."""
        chosen = self.array[indices]
        return order.set_digest([chosen[sorted_places(chosen)]])
