r"""What would make more ids match, tried on the ids themselves: only where one machine has all of them anyway.

>>> from psi.ids import composite
>>> people = {"bank": ["00142", "a7", "x"], "shop": ["142", "A7", "y"]}
>>> for remedy in remedies({name: [composite([text]) for text in texts] for name, texts in people.items()}):
...     print(remedy)
without leading zeros 1 more id would match
with casefold = true in [alignment] 1 more id would match
without leading zeros, and with casefold = true in [alignment] 2 more ids would match
with digits_only = true in [alignment] 1 more id would match
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from psi.ids import IdRules, normalised

Column = list[str]
Lists = dict[str, tuple[Column, ...]]
"""Per party the parts of its ids, column by column."""

DECIMALS = "with whole numbers written without decimals (123, not 123.0)"
MARKS = "without spaces, dashes and other marks"
ACCENTS = "without accents"
ZEROS = "without leading zeros"
CASE = "with casefold = true in [alignment]"
DIGITS = "with digits_only = true in [alignment]"

Key = str | tuple[str, ...]
_WORTH = 0.01  # of the shortest list; fewer may match by chance
_DECIMAL = re.compile(r"([0-9]+)[.,]00?")
_OTHERS = re.compile(r"[^0-9]+")


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change at all parties, and how many more ids would then be common to all."""

    change: str
    more: int

    def __str__(self) -> str:
        return f"{self.change} {self.more:,} more {'id' if self.more == 1 else 'ids'} would match"


def remedies(ids: Mapping[str, Sequence[bytes]]) -> list[Remedy]:
    """Try what usually keeps equal ids apart on those that do not match yet.

    Parameters
    ----------
    ids : mapping of party to sequence of bytes
        Distinct ids as `psi.ids.prepare_ids` gives them, all of equally many parts.

    Returns
    -------
    list of Remedy
        Those with which at least 1 % of the shortest list would match more; an id counts only if no other one of its
        party becomes the same.
    """
    common = set.intersection(*map(set, ids.values()))
    least = max(1, round(_WORTH * min(map(len, ids.values()))))
    apart = {name: [key for key in keys if key not in common] for name, keys in ids.items()}
    if min(map(len, apart.values())) < least:
        return []
    rest = {name: _columns(keys) for name, keys in apart.items()}
    found = [Remedy(change, _gain(rest, [change])) for change in _CHANGES]
    found += _together(rest, max(one.more for one in found))
    found += [Remedy(DIGITS, _matching(_changed(rest, _digits))), *_reordered(rest)]
    return [one for one in found if one.more >= least]


def shared_by_pairs(ids: Mapping[str, Sequence[bytes]]) -> dict[tuple[str, str], int]:
    """How many ids every two parties have in common."""
    sets = {name: set(keys) for name, keys in ids.items()}
    return {(left, right): len(sets[left] & sets[right]) for left, right in combinations(sets, 2)}


def _without_decimals(text: str) -> str:
    match = _DECIMAL.fullmatch(text)
    return match[1] if match else text


def _without_marks(text: str) -> str:
    return text if text.isalnum() else "".join(filter(str.isalnum, text))


def _without_accents(text: str) -> str:
    if text.isascii():
        return text
    return "".join(one for one in unicodedata.normalize("NFD", text) if not unicodedata.combining(one))


def _without_zeros(text: str) -> str:
    return text.lstrip("0") or text[:1]


def _casefolded(text: str) -> str:
    return text.lower() if text.isascii() else normalised(text, IdRules(casefold=True))


def _digits(text: str) -> str:
    return _OTHERS.sub("", text) if text.isascii() else normalised(text, IdRules(digits_only=True))


_CHANGES: dict[str, Callable[[str], str]] = {
    DECIMALS: _without_decimals,
    MARKS: _without_marks,
    ACCENTS: _without_accents,
    ZEROS: _without_zeros,
    CASE: _casefolded,
}
"""In an order in which they can follow each other."""


def _together(rest: Lists, best: int) -> list[Remedy]:
    """All changes one after the other, less those without which no fewer ids match, if that is better than ``best``."""
    needed = list(_CHANGES)
    more = _gain(rest, needed)
    if more <= best:
        return []
    for change in _CHANGES:
        others = [one for one in needed if one != change]
        if _gain(rest, others) >= more:
            needed = others
    return [Remedy(", and ".join(needed), more)]


def _gain(rest: Lists, changes: Sequence[str]) -> int:
    """How many ids match after some changes; none without a change."""
    changed = rest
    for change in changes:
        changed = _changed(changed, _CHANGES[change])
    return 0 if changed == rest else _matching(changed)


def _columns(keys: Sequence[bytes]) -> tuple[Column, ...]:
    """The parts of composite keys, column by column."""
    columns: list[Column] = []
    rest = keys
    while rest[0]:
        ends = [4 + int.from_bytes(key[:4], "big") for key in rest]
        columns.append([key[4:end].decode("utf-8", "surrogatepass") for key, end in zip(rest, ends, strict=True)])
        rest = [key[end:] for key, end in zip(rest, ends, strict=True)]
    return tuple(columns)


def _changed(lists: Lists, text: Callable[[str], str]) -> Lists:
    return {name: tuple([text(part) for part in column] for column in columns) for name, columns in lists.items()}


def _reordered(lists: Lists) -> list[Remedy]:
    """For ids of two columns: one party names them in the other order."""
    if any(len(columns) != 2 for columns in lists.values()):
        return []
    return [
        Remedy(f"with the id columns of '{name}' in the other order", _matching(lists | {name: columns[::-1]}))
        for name, columns in lists.items()
    ]


def _matching(lists: Lists) -> int:
    """How many ids that no other one of their party equals are in all lists."""
    first, *others = map(_alone, lists.values())
    return len(first.intersection(*others))


def _alone(columns: tuple[Column, ...]) -> set[Key]:
    """Those without a blank part that occur once."""
    keys: Sequence[Key] = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    distinct = set(keys)
    if len(distinct) < len(keys):
        distinct = {key for key, count in Counter(keys).items() if count == 1}
    return distinct - {""} if len(columns) == 1 else {key for key in distinct if all(key)}
