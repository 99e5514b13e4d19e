r"""Ids as every party writes them, so that the same person has the same id on both sides.

Rules, in this order, for each id column (``IdRules``):

1. the cell is text, exactly as it stands in the CSV (``001`` is not ``1``, ``NA`` is an id like any other);
2. Unicode NFKC: composed = decomposed, full-width = ASCII;
3. white space, byte-order marks and zero-width or direction marks are stripped at both ends;
4. ``casefold``: case is ignored;
5. ``digits_only``: everything but decimal digits goes, digits of any script become 0-9.

An id is the sequence of its columns, each preceded by its length, so that ("ab", "c") is not ("a", "bc"). A row with a
blank part has no id; it never matches. All parties compare ``IdRules.digest`` before they align. (Python releases
carry different Unicode versions; NFKC and case folding of characters that exist in both never change.)

>>> rules = IdRules(casefold=True)
>>> prepare_ids([["\ufeff Ann ", "bob", ""]], rules, party="bank", missing="drop").rows.tolist()
[0, 1]
>>> normalised("\u210cans  ", rules), normalised("0042", IdRules())
('hans', '0042')
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from parties.errors import ConfigError, DataError

VERSION = 1

# Written out, not asked of this Python's Unicode tables: the list is a part of version 1.
_WHITE_SPACE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009"
    "\u200a\u2028\u2029\u202f\u205f\u3000"
)
_INVISIBLE = (
    "\x00\xad\u034f\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062"
    "\u2063\u2064\u2066\u2067\u2068\u2069\ufeff"
)
_EDGES = _WHITE_SPACE + _INVISIBLE

Duplicates = Literal["refuse", "first", "drop"]
Missing = Literal["refuse", "drop"]


@dataclass(frozen=True)
class IdRules:
    """How ids are normalised; parties that align must have equal rules.

    Parameters
    ----------
    columns : int
        Columns that form an id (more than one: a composite key, in the job's order).
    casefold, digits_only : bool
        The optional rules 4 and 5.
    """

    columns: int = 1
    casefold: bool = False
    digits_only: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the version, the characters stripped and the options."""
        stated = {"version": VERSION, "edges": _EDGES, **asdict(self)}
        return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()

    def facts(self) -> dict[str, bool | int | float | str | None]:
        """The rules under the names in which a difference is reported."""
        named = {"id columns": self.columns, "casefold": self.casefold, "digits_only": self.digits_only}
        return {"id rules version": VERSION, **named, "id rules digest": self.digest}


@dataclass(frozen=True)
class PreparedIds:
    """A party's distinct valid ids.

    Attributes
    ----------
    ids : list of bytes
        Normalised ids, distinct, in CSV order.
    rows : ndarray of shape (n,), int64
        The CSV row (0 = first below the header) of each of ``ids``.
    total : int
        Rows of the CSV.
    missing, duplicates : int
        Rows left out because they have no id, or because their id occurs more than once.
    rules : IdRules
    """

    ids: list[bytes]
    rows: NDArray[np.int64]
    total: int
    missing: int
    duplicates: int
    rules: IdRules


def prepare_ids(
    id_columns: Sequence[Sequence[str]],
    rules: IdRules,
    *,
    party: str,
    duplicates: Duplicates = "refuse",
    missing: Missing = "refuse",
) -> PreparedIds:
    """Normalise a party's id columns; refuse, or leave out, rows without an id of their own.

    Parameters
    ----------
    id_columns : sequence of sequences of str
        Raw cells, one sequence per id column, all of the same length.
    duplicates : {"refuse", "first", "drop"}
        Ids that occur more than once: an error, keep the first row, or leave all their rows out.
    missing : {"refuse", "drop"}
        Rows with a blank id column: an error, or left out.

    Raises
    ------
    ConfigError
        The number of id columns is not the one that the rules state.
    DataError
        Missing or duplicate ids that are to be refused, or no valid id at all. Counts only, never an id.
    """
    if len(id_columns) != rules.columns or not id_columns:
        raise ConfigError(f"party '{party}': got {len(id_columns)} id columns, expected {rules.columns} as in the job")
    keys = [composite(parts) for parts in zip(*(_column(cells, rules) for cells in id_columns), strict=True)]
    present = [row for row, key in enumerate(keys) if key is not None]
    left_out = len(keys) - len(present)
    if left_out and missing == "refuse":
        raise missing_refused(party, left_out, len(keys))
    kept = _without_duplicates(keys, present, party, duplicates)
    if not kept:
        raise none_valid(party, len(keys))
    ids = [key for row in kept if (key := keys[row]) is not None]
    return PreparedIds(ids, np.array(kept, np.int64), len(keys), left_out, len(present) - len(kept), rules)


def normalised(cell: str, rules: IdRules) -> str:
    """Rules 2 to 5 on one cell; applying them twice changes nothing more."""
    text = cell if cell.isascii() else unicodedata.normalize("NFKC", cell)
    text = text.strip(_EDGES)
    if rules.casefold:
        text = text.lower() if text.isascii() else _folded(text)
    if rules.digits_only:
        text = "".join(str(unicodedata.decimal(c)) for c in text if c.isdecimal())
    return text


def composite(parts: Sequence[str]) -> bytes | None:
    """The parts of an id, each after its length in bytes (32 bits); None if a part is blank."""
    key = b""
    for part in parts:
        if not part:
            return None
        coded = part.encode("utf-8", "surrogatepass")
        key += len(coded).to_bytes(4, "big") + coded
    return key


def missing_refused(party: str, missing: int, total: int) -> DataError:
    """The error for rows without an id."""
    return DataError(
        f"party '{party}': {missing} of {total} rows have no id (a blank id column), expected none; "
        'fill them in or set [alignment] missing = "drop"'
    )


def duplicates_refused(party: str, repeated: int, rows: int, total: int) -> DataError:
    """The error for so many ids that stand in so many rows, more than one each."""
    return DataError(
        f"party '{party}': {repeated} ids occur more than once, in {rows} of {total} rows, "
        "expected each id once (after normalising); remove the repetitions or set [alignment] duplicates = "
        '"first" (keep the first row) or "drop" (leave out all rows of such an id)'
    )


def none_valid(party: str, total: int) -> DataError:
    """The error for a CSV without any id."""
    return DataError(f"party '{party}': got 0 valid ids in {total} rows, expected at least one; check the id column")


def _folded(text: str) -> str:
    """Unicode's NFKC case folding, stripped again: folding can bring a space or a mark to an end."""
    previous = ""
    while text != previous:
        previous, folded = text, unicodedata.normalize("NFD", text).casefold()
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", folded).casefold()).strip(_EDGES)
    return text


def _column(cells: Sequence[str], rules: IdRules) -> list[str]:
    """One id column, normalised."""
    return [normalised(cell, rules) for cell in cells]


def _without_duplicates(keys: list[bytes | None], present: list[int], party: str, duplicates: Duplicates) -> list[int]:
    """Those of the rows ``present`` that have an id of their own under the option."""
    counts = Counter(keys[row] for row in present)
    if len(counts) == len(present):
        return present
    if duplicates == "first":
        return sorted({keys[row]: row for row in reversed(present)}.values())
    if duplicates == "drop":
        return [row for row in present if counts[keys[row]] == 1]
    repeated = [count for count in counts.values() if count > 1]
    raise duplicates_refused(party, len(repeated), sum(repeated), len(keys))
