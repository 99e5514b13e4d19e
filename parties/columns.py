"""What the cells of one column mean: missing, number, category, label, sample weight.

Every function gets the text of cells and the place they come from, and raises ``DataError`` with the column's name,
a count and the ways out. A message never holds a cell's value: messages travel to other companies' screens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from parties.errors import ConfigError, DataError

Kind = Literal["numeric", "categorical"]

MISSING = frozenset({"", "NA", "NaN", "null", "N/A"})
MAX_CATEGORIES = 100
_COMMA_NUMBER = re.compile(r"[+-]?[0-9]+(,[0-9]+)+(\.[0-9]+)?")


@dataclass(frozen=True)
class Place:
    """Where a column stands, for messages: the party and file, and the line (or row) of each cell."""

    source: str
    lines: Sequence[int]
    unit: Literal["line", "row"] = "line"

    def first(self, bad: Sequence[bool] | NDArray[np.bool_]) -> str:
        """Count the bad cells and say where the first one stands."""
        hits = [at for at, is_bad in enumerate(bad) if is_bad]
        return f"{len(hits):,} of {len(bad):,} cells (first in {self.unit} {self.lines[hits[0]]})"


@dataclass(frozen=True)
class EncodedLabels:
    """Labels as numbers.

    Attributes
    ----------
    values : ndarray of shape (n,)
        binary: float64, 1 for the positive class, else 0; multiclass: int64 codes into ``classes``;
        regression and count: float64.
    classes : list of str
        Label texts in code order (binary: negative, positive); empty for regression and count.
    """

    values: NDArray[np.float64] | NDArray[np.int64]
    classes: list[str]


def parse_number(text: str) -> float | None:
    """Read one stripped cell as a number, or return None; infinity is a number here and refused later.

    >>> parse_number("1e+05"), parse_number("x"), parse_number("nan"), parse_number("1_000")
    (100000.0, None, None, None)
    """
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) or "_" in text else value


def read_feature(
    name: str, cells: Sequence[str], place: Place, *, categorical: bool, missing_values: Collection[str]
) -> tuple[Kind, NDArray[np.float64] | NDArray[np.object_]]:
    """Decide whether a column holds numbers or categories, and convert its cells.

    Parameters
    ----------
    name, cells, place
        The column's name, its cells as text, and where they stand.
    categorical : bool
        The party listed the column under ``categorical``: no guessing, any number of categories.
    missing_values : collection of str
        Spellings that mean missing here, beside the empty cell, NA, NaN, null and N/A.

    Returns
    -------
    kind, values
        float64 with NaN for missing, or object (str, None for missing).

    Raises
    ------
    DataError
        Text in a column of numbers, infinite numbers, or over 100 categories in a column not listed.
    """
    blank = MISSING | set(missing_values)
    if not categorical and (plain := _plain_numbers(cells, missing_values)) is not None:
        return "numeric", plain
    stripped = [cell.strip() for cell in cells]
    present = [cell not in blank for cell in stripped]
    if not categorical:
        parsed = [parse_number(cell) if there else None for cell, there in zip(stripped, present, strict=True)]
        n_numbers = sum(value is not None for value in parsed)
        if 2 * n_numbers >= sum(present):
            return "numeric", _numbers(name, parsed, present, place)
    values = np.array([cell if there else None for cell, there in zip(stripped, present, strict=True)], dtype=object)
    if not categorical:
        _check_categories(name, [cell for cell in values if cell is not None], place)
    return "categorical", values


def _plain_numbers(cells: Sequence[str], missing_values: Collection[str]) -> NDArray[np.float64] | None:
    """Short cut, five times faster: the numbers, if each cell is one; else None."""
    if missing_values:
        return None
    try:
        values = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return None
    return values if np.isfinite(values).all() and "_" not in "".join(cells) else None


def _numbers(name: str, parsed: Sequence[float | None], present: Sequence[bool], place: Place) -> NDArray[np.float64]:
    """Numbers with NaN for missing; refuses text and infinities by column name and count."""
    text = [there and value is None for value, there in zip(parsed, present, strict=True)]
    if any(text):
        raise DataError(
            f'{place.source}: column "{name}" holds numbers, but {place.first(text)} hold text; correct them, '
            f'name their spelling under missing_values, or list "{name}" under categorical'
        )
    values = np.array([math.nan if value is None else value for value in parsed], dtype=np.float64)
    infinite = np.isinf(values)
    if infinite.any():
        raise DataError(
            f'{place.source}: column "{name}": {place.first(infinite)} are infinite or beyond 1.8e308; '
            f"expected finite numbers; correct them or name their spelling under missing_values"
        )
    return values


def _check_categories(name: str, cells: Sequence[str], place: Place) -> None:
    """Refuse a column of text with over 100 different values: an id or free text rather than a category."""
    count = len(set(cells))
    if count <= MAX_CATEGORIES:
        return
    commas = sum(_COMMA_NUMBER.fullmatch(cell) is not None for cell in cells)
    hint = "; its numbers use commas: write them with a decimal point" if 2 * commas >= len(cells) else ""
    raise DataError(
        f'{place.source}: column "{name}" holds text with {count:,} different values, expected at most '
        f"{MAX_CATEGORIES}{hint}; list it under categorical if they are categories, else under drop"
    )


def read_weights(name: str, cells: Sequence[str], place: Place) -> NDArray[np.float64]:
    """Sample weights: finite, none missing or negative, not all zero.

    Returns
    -------
    ndarray of shape (n,), float64
    """
    parsed = [parse_number(cell.strip()) for cell in cells]
    bad = [value is None or not 0 <= value < math.inf for value in parsed]
    if any(bad):
        raise DataError(
            f'{place.source}: sample_weight column "{name}": {place.first(bad)} are missing, negative, infinite '
            "or no number; expected finite numbers >= 0 in all rows; correct them"
        )
    weights = np.array(parsed, dtype=np.float64)
    if not weights.any():
        raise DataError(
            f'{place.source}: sample_weight column "{name}" is zero in all rows; expected a positive weight '
            "somewhere; correct it or leave sample_weight out"
        )
    return weights


def encode_labels(labels: Sequence[str], task: str, positive: str | None, party: str) -> EncodedLabels:
    """Turn label texts into the numbers that a model is trained on.

    Parameters
    ----------
    labels : sequence of str
        Label texts as in the party's CSV.
    task : {"binary", "multiclass", "regression", "count"}
    positive : str or None
        Text of the positive class (binary); None means the greater of the two.
    party : str
        Name of the active party, for messages.

    Raises
    ------
    DataError
        Missing labels, or values that the task cannot have.
    ConfigError
        An unknown task, or ``positive`` for another task than binary.

    Examples
    --------
    >>> encode_labels(["no", "yes", "no"], "binary", None, "bank")
    EncodedLabels(values=array([0., 1., 0.]), classes=['no', 'yes'])
    """
    if positive is not None and task != "binary":
        raise ConfigError(f"party {party}: positive is set, but the task is {task}; only binary has a positive class")
    texts = [label.strip() for label in labels]
    missing = sum(text in MISSING for text in texts)
    if missing:
        raise DataError(
            f"party {party}: {missing:,} of {len(texts):,} labels are missing; expected a label in every row; "
            "fill them in or delete the rows"
        )
    if task in ("regression", "count"):
        return EncodedLabels(_number_labels(texts, task, party), [])
    if task == "binary":
        return _binary_labels(texts, positive, party)
    if task != "multiclass":
        raise ConfigError(f"task {task!r} is unknown; expected binary, multiclass, regression or count")
    codes, classes = _classes(texts)
    if len(classes) < 2:
        raise DataError(f"party {party}: all labels are the same; task multiclass needs at least 2 values")
    return EncodedLabels(codes, classes)


def encode_known_labels(
    labels: Sequence[str], task: str, classes: Sequence[str], party: str
) -> NDArray[np.float64] | NDArray[np.int64]:
    """Labels of new rows as a trained model codes them.

    Parameters
    ----------
    labels : sequence of n str
    classes : sequence of str
        The model's class texts in code order; empty for regression and count.

    Returns
    -------
    ndarray of shape (n,)
        As `EncodedLabels.values`.

    Raises
    ------
    DataError
        A label that the task cannot have, or a class that the model does not know.

    Examples
    --------
    >>> encode_known_labels(["1", "0.0", "1"], "binary", ["0", "1"], "bank")
    array([1., 0., 1.])
    """
    texts = [label.strip() for label in labels]
    if task in ("regression", "count"):
        values = np.array([math.nan if (n := parse_number(text)) is None else n for text in texts], dtype=np.float64)
        good = np.isfinite(values) & ((values >= 0) & (values == np.floor(values)) if task == "count" else True)
        codes, expected = values, "whole numbers >= 0" if task == "count" else "finite numbers"
    else:
        position = {_class_key(name): float(code) for code, name in enumerate(classes)}
        codes = np.array([position.get(_class_key(text), math.nan) for text in texts], dtype=np.float64)
        good, expected = np.isfinite(codes), f"one of the {len(classes)} classes of the training"
    if not good.all():
        raise DataError(
            f"party {party}: {int((~good).sum()):,} of {len(texts):,} labels do not fit the model, expected "
            f"{expected}; correct them or leave these rows out"
        )
    return codes.astype(np.int64) if task == "multiclass" else codes


def _number_labels(texts: Sequence[str], task: str, party: str) -> NDArray[np.float64]:
    """Labels of a regression (finite) or a count (whole numbers from 0)."""
    parsed = [parse_number(text) for text in texts]
    values = np.array([math.nan if value is None else value for value in parsed], dtype=np.float64)
    good = np.isfinite(values)
    expected = "finite numbers"
    if task == "count":
        good &= (values >= 0) & (values == np.floor(values)) & (values <= 2.0**53)
        expected = "whole numbers >= 0"
    if not good.all():
        raise DataError(
            f"party {party}: {int((~good).sum()):,} of {len(texts):,} labels do not fit task {task}; expected "
            f"{expected}; correct them or choose another task"
        )
    if task == "count" and not values.any():
        raise DataError(f"party {party}: all labels are 0; task count needs at least one positive count")
    return values


def _binary_labels(texts: Sequence[str], positive: str | None, party: str) -> EncodedLabels:
    """Two classes, the positive one last."""
    codes, classes = _classes(texts)
    if len(classes) != 2:
        raise DataError(
            f"party {party}: the label has {len(classes):,} different values; task binary needs exactly 2; "
            "correct the column or choose another task"
        )
    if positive is not None:
        wanted = [_class_key(positive.strip()) == _class_key(name) for name in classes]
        if not any(wanted):  # TOML writes true where pandas writes True
            wanted = [positive.strip().casefold() == name.casefold() for name in classes]
        if sum(wanted) != 1:
            raise DataError(
                f"party {party}: the value given as positive is none of the label's 2 values; correct it or leave "
                "it out (then the greater value is the positive class)"
            )
        if wanted[0]:
            codes, classes = 1 - codes, classes[::-1]
    return EncodedLabels(codes.astype(np.float64), classes)


def _class_key(text: str) -> float | str:
    """Equal for texts that mean the same class: 1 and 1.0."""
    number = parse_number(text)
    return text if number is None else number


def _classes(texts: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """Codes and class texts: numeric order if all parse as numbers (then 1 and 1.0 are one class), else text order."""
    spellings = sorted(set(texts), key=lambda text: (len(text), text))
    numbers = [parse_number(text) for text in spellings]
    if any(number is None for number in numbers):
        keys: dict[str, float | str] = {text: text for text in spellings}
    else:
        keys = {text: float(text) for text in spellings}
    names: dict[float | str, str] = {}
    for text in spellings:
        names.setdefault(keys[text], text)
    order = sorted(names)  # all floats or all texts
    position = {key: code for code, key in enumerate(order)}
    codes = np.array([position[keys[text]] for text in texts], dtype=np.int64)
    return codes, [names[key] for key in order]


def check_classes_in_both_parts(
    codes: NDArray[np.float64] | NDArray[np.int64], n_train: int, classes: Sequence[str], party: str = "active"
) -> None:
    """Refuse a split where a class has no training row or no test row (an empty test part is fine).

    Parameters
    ----------
    codes : ndarray of shape (n,)
        Class codes in the agreed row order; the test rows are the last ``n - n_train``.
    n_train : int
    classes : sequence of str
        Empty for tasks without classes: nothing to check.
    """
    for part, rows in (("training", codes[:n_train]), ("test", codes[n_train:])):
        absent = len(classes) - len(np.unique(rows))
        if len(classes) and absent > 0 and (part == "training" or len(rows)):
            raise DataError(
                f"party {party}: {absent} of {len(classes)} classes have no row among the {len(rows):,} {part} rows; "
                "expected every class in both parts; change test_fraction or seed, or merge rare classes"
            )
