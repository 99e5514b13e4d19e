r"""What happened to a party's ids on their way into alignment, and what looks like damage to them.

Everything here is local, and told in counts and names of rules, never with an id. What counts as damage is what
spreadsheets, floating-point numbers and other programs do to ids that they take for something else; it is suspected
from one column alone, so a party can be told before it meets the others.

>>> found = inspect_ids([["\ufeff00142 ", "1.2E+12", "77.0", "", "20417", "981"]], IdRules(), [""])
>>> print(found.told)
6 ids read: white space or invisible marks stripped from 1; 1 blank
>>> for warning in found.warnings:
...     print(warning.split(":")[0])
numbers in scientific notation, like 1.23E+12, in 1 of 5 ids
whole numbers written as decimals, like 123.0, in 1 of 5 ids
fewer digits than the usual 5 and no leading zero in 1 of 3 ids that are numbers, while 1 begin with one
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from psi.ids import IdRules, normalised

LOST_ZEROS = "lost zeros"
"""The suspicion that a comparison with the other parties' ids can clear up."""

_PLAIN = IdRules()
_EXACT_DIGITS = 15  # a spreadsheet keeps so many digits of a number, a double 15 to 17
_MOST_DIGITS = 40  # longer texts of digits are no numbers that anything rounds
_FLOAT_BITS = 53
_SPARSE = 100  # ids that are counted up from 1 have all lengths; random ones among so many times more numbers do not
_FEW = 5
_EXPORT = "export the column as text from where the ids come from"
_KIND = re.compile(
    r"""
    (?P<scientific> [+-]?\d+(?:[.,]\d+)?E\+\d+ | [+-]?\d+[.,]\d+E-?\d+ )
    | (?P<decimal> [+-]?\d+[.,]00? )
    | (?P<separated> \d{1,3}([,.'\u2019\x20])\d{3}(?:\4\d{3})* )
    | (?P<quoted> =?["'`\u2018\u2019\u201c\u201d] .* )
    | (?P<date> \d{1,2}[-.\x20]{1,2}%(month)s(?:[-.\x20]{1,2}\d{2,4})? | %(month)s[-.\x20]\d{2,4} )
    | (?P<missing> na | nan | n/a | null | none | nil | missing | unknown | -+ | \?+ | \#[A-Z0]+[/A-Z0]*[!?]? | \#+ )
    """.replace("%(month)s", "(?:jan|feb|mar|m\u00e4r|mrz|apr|may|mai|jun|jul|aug|sept?|o[ck]t|nov|de[cz])"),
    re.VERBOSE | re.IGNORECASE | re.DOTALL | re.ASCII,
)
_LIKE = {
    "scientific": "numbers in scientific notation, like 1.23E+12,",
    "decimal": "whole numbers written as decimals, like 123.0,",
    "separated": "numbers in groups of three digits, like 1,234,567,",
    "quoted": "a quotation mark or apostrophe in front",
    "date": "dates, like 2-Mar, among ids that are none,",
    "missing": "words for a missing value, like NA or null,",
}
_ADVICE = {
    "scientific": f"digits are lost; {_EXPORT}",
    "decimal": f"a program read them as numbers; {_EXPORT}",
    "separated": "a spreadsheet may have formatted them; write them without, or as all parties do",
    "quoted": "spreadsheets mark text so; remove it, unless all parties have it",
    "date": f"a spreadsheet may have made them; {_EXPORT}",
    "missing": "they count as ids; empty these cells",
}


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Something that looks like damage to the ids of one column.

    Attributes
    ----------
    kind : str
    cells : int
        How many cells look like it.
    text : str
        What, how often, what to do.
    """

    kind: str
    cells: int
    text: str


@dataclass(frozen=True, slots=True)
class IdCheck:
    """A party's ids in counts.

    Attributes
    ----------
    rows : int
    changed : dict of str to int
        Cells that a rule of normalising changed, by the rule in words; rules that changed none are left out.
    blank, repeated : int
        Rows without an id, and rows (after the first one) with an id that occurs before.
    suspicions : tuple of Suspicion
    """

    rows: int
    changed: dict[str, int]
    blank: int
    repeated: int
    suspicions: tuple[Suspicion, ...] = field(default=())

    @property
    def told(self) -> str:
        """The counts as one line."""
        changes = [f"{rule} {count:,}" for rule, count in self.changed.items()] or ["normalising changed none"]
        left = [f"{count:,} {why}" for count, why in self._left_out() if count]
        return f"{self.rows:,} ids read: " + "; ".join([", ".join(changes), *left])

    @property
    def warnings(self) -> tuple[str, ...]:
        """The suspicions in words."""
        return tuple(one.text for one in self.suspicions)

    def without(self, kind: str) -> IdCheck:
        """The same less the suspicions of one kind."""
        return replace(self, suspicions=tuple(one for one in self.suspicions if one.kind != kind))

    def _left_out(self) -> Iterable[tuple[int, str]]:
        return (self.blank, "blank"), (self.repeated, "with the id of an earlier row")


def inspect_ids(id_columns: Sequence[Sequence[str]], rules: IdRules, names: Sequence[str]) -> IdCheck:
    """Look at a party's raw id columns.

    Parameters
    ----------
    id_columns : sequence of sequences of str
        Raw cells, one sequence per id column, all of the same length.
    names : sequence of str
        What the columns are called; told only where there are several.
    """
    changed: Counter[str] = Counter()
    columns: list[list[str]] = []
    found: list[Suspicion] = []
    for name, cells in zip(names, id_columns, strict=True):
        texts = _stripped(cells, changed)
        found += _suspicions(texts, rules, f'column "{name}": ' if names[1:] else "")
        columns.append(_by_options(texts, rules, changed))
    keys = columns[0] if len(columns) == 1 else [row if all(row) else "" for row in zip(*columns, strict=True)]
    blank = sum(not key for key in keys)
    repeated = len(keys) - blank - len({key for key in keys if key})
    return IdCheck(len(keys), dict(changed), blank, repeated, tuple(found))


def _stripped(cells: Sequence[str], changed: Counter[str]) -> list[str]:
    """Cells after the rules that always hold."""
    composed = [cell if cell.isascii() else unicodedata.normalize("NFKC", cell) for cell in cells]
    texts = [normalised(text, _PLAIN) for text in composed]
    _note(changed, "brought into one form (Unicode NFKC)", cells, composed)
    _note(changed, "white space or invisible marks stripped from", composed, texts)
    return texts


def _by_options(texts: list[str], rules: IdRules, changed: Counter[str]) -> list[str]:
    """Stripped texts after the optional rules."""
    for on, rule, words in (
        (rules.casefold, IdRules(casefold=True), "case folded in"),
        (rules.digits_only, IdRules(digits_only=True), "reduced to their digits"),
    ):
        if on:
            before, texts = texts, [normalised(text, rule) for text in texts]
            _note(changed, words, before, texts)
    return texts


def _note(changed: Counter[str], words: str, before: Iterable[str], after: Iterable[str]) -> None:
    count = sum(old != new for old, new in zip(before, after, strict=True))
    if count:
        changed[words] += count


def _suspicions(texts: list[str], rules: IdRules, where: str) -> list[Suspicion]:
    """Everything that looks like damage in one column of stripped texts."""
    present = [text for text in texts if text]
    numbers = [text for text in present if text.isdigit() and text.isascii()]
    others = [text for text in present if not (text.isdigit() and text.isascii())]
    kinds, plain = _sorted_by_kind(others)
    if 2 * kinds["date"] > len(present):  # a column of dates, part of a composite key say
        del kinds["date"]
    if rules.digits_only:  # which takes these marks away
        del kinds["separated"], kinds["quoted"]
    found = [
        Suspicion(kind, kinds[kind], f"{words} in {kinds[kind]:,} of {len(present):,} ids: {_ADVICE[kind]}")
        for kind, words in _LIKE.items()
        if kinds[kind]
    ]
    found += _rounded(numbers) + _shortened(numbers, len(present)) + _undecoded(plain)
    found += [] if rules.casefold or rules.digits_only else _in_mixed_case(plain)
    return [Suspicion(one.kind, one.cells, where + one.text) for one in found]


def _sorted_by_kind(texts: list[str]) -> tuple[Counter[str], list[str]]:
    """How many texts look like what, and those that look like nothing in particular."""
    kinds: Counter[str] = Counter()
    plain = []
    for text in texts:
        match = _KIND.fullmatch(text)
        if match is None:
            plain.append(text)
        else:
            kinds[str(match.lastgroup)] += 1
    return kinds, plain


def _rounded(numbers: list[str]) -> list[Suspicion]:
    """Long numbers that a spreadsheet cut to 15 digits, or a double to 53 bits, where chance makes few such."""
    long = [text for text in numbers if _EXACT_DIGITS < len(text) <= _MOST_DIGITS and text[0] != "0"]
    wide = [value for value in map(int, long) if value.bit_length() > _FLOAT_BITS + 3]
    cut = sum(not text[_EXACT_DIGITS:].strip("0") for text in long)
    exact = sum(_fits_a_float(value) for value in wide)
    cut_by_chance = sum(10.0 ** (_EXACT_DIGITS - length) for length in map(len, long))
    exact_by_chance = sum(2.0 ** (_FLOAT_BITS - value.bit_length()) for value in wide)
    count = max(_unless_chance(cut, cut_by_chance), _unless_chance(exact, exact_by_chance))
    text = (
        f"zeros or steps at the end, as rounding to {_EXACT_DIGITS} to 17 digits leaves them, in {count:,} of "
        f"{len(long):,} ids that are longer numbers: a spreadsheet or a floating-point number may have held them; "
        f"{_EXPORT}"
    )
    return [Suspicion("rounded", count, text)] if count else []


def _unless_chance(found: int, expected: float) -> int:
    """What was found, or 0 where chance explains it."""
    return found if found >= _FEW + 3 * expected else 0


def _fits_a_float(value: int) -> bool:
    """Whether a whole number has at most 53 bits before its zeros."""
    return value.bit_length() - (value & -value).bit_length() < _FLOAT_BITS


def _shortened(numbers: list[str], total: int) -> list[Suspicion]:
    """Numbers with fewer digits than most, where leading zeros to one width are likely."""
    if 2 * len(numbers) <= total:
        return []
    usual, short, padded = max(map(len, numbers)), 0, 0
    for text in numbers:
        short += len(text) < usual
        padded += text[0] == "0"
        if text[0] == "0" and len(text) < usual:
            return []  # zeros stand in front at any width, so width says nothing
    sparse = usual >= math.log10(_SPARSE * len(numbers)) and 4 * short <= len(numbers)
    if not short or not (padded or sparse):
        return []
    shown = f"while {padded:,} begin with one" if padded else "nor has any other id"
    text = (
        f"fewer digits than the usual {usual} and no leading zero in {short:,} of {len(numbers):,} ids that are "
        f"numbers, {shown}: zeros may be lost; {_EXPORT}"
    )
    return [Suspicion(LOST_ZEROS, short, text)]


def _in_mixed_case(texts: list[str]) -> list[Suspicion]:
    """Ids in another case than most, which is no accident where no case is usual."""
    upper = sum(map(str.isupper, texts))
    lower = sum(map(str.islower, texts))
    total = sum(text.lower() != text.upper() for text in texts)
    other = total - max(upper, lower)
    if not other or 2 * other > total:
        return []
    usual = "capitals" if upper > lower else "small letters"
    text = (
        f"another case than the usual {usual} in {other:,} of {total:,} ids with letters; casefold = true in "
        "[alignment] ignores case"
    )
    return [Suspicion("mixed case", other, text)]


def _undecoded(texts: list[str]) -> list[Suspicion]:
    """Ids with the character that stands for what could not be decoded."""
    count = sum("\ufffd" in text for text in texts)
    text = f"characters lost in decoding (U+FFFD) in {count:,} ids: export the file again as UTF-8"
    return [Suspicion("undecoded", count, text)] if count else []
