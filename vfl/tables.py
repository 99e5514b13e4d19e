"""Reading a TOML file and its tables into typed structs, with errors that a person can act on.

msgspec checks types and ranges; what this adds is the words: which key in which table of which file, what it got,
what was expected, and for an unknown key the nearest known one.
"""

from __future__ import annotations

import difflib
import math
import pathlib
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from parties.errors import ConfigError

S = TypeVar("S", bound=msgspec.Struct)
Path = tuple[str | int, ...]
END = r"\Z"  # ends a pattern where $ would let a final newline pass
Table = dict[str, object]


@dataclass(frozen=True)
class Source:
    """What is being read: the file's name, its whole document, the paths that ``--set`` gave, sections of many forms.

    ``forms``: the struct to read a section into whose type is a union of structs, by its path.
    """

    file: str
    document: Table
    given: frozenset[Path] = frozenset()
    forms: Mapping[Path, type[msgspec.Struct]] = field(default_factory=dict)

    def where(self, path: Path, key: str = "") -> str:
        """Words for a table of the file, such as ``in [training] of scenario.toml``."""
        place = f"at the top of {self.file}" if not path else f"in {self._table(path)} of {self.file}"
        here = (*path, key)
        by_option = any(here[:length] in self.given for length in range(1, len(here) + 1))
        return f"{place} (given by --set)" if by_option else place

    def _table(self, path: Path) -> str:
        """One table: ``[a.b]``, and ``[[party]] 'bank'`` in an array of tables."""
        if len(path) == 1:
            return f"[{path[0]}]"
        if not isinstance(path[1], int):
            return f"[{'.'.join(map(str, path))}]"
        rows = self.document.get(str(path[0]))
        row = rows[path[1]] if isinstance(rows, list) else None
        which = _which(row, path[1])
        inner = "".join(f".{part}" for part in path[2:] if isinstance(part, str))
        if len(path) > 3 and isinstance(row, dict) and isinstance(path[3], int):
            rows = row.get(str(path[2]))
            of = f"{path[2]} {_which(rows[path[3]] if isinstance(rows, list) else None, path[3])} of {path[0]} {which}"
            return f"[{path[0]}{inner}] of {of}" if len(path) > 4 else of
        return f"[{path[0]}{inner}] of {path[0]} {which}" if inner else f"[[{path[0]}]] {which}"


def _which(row: object, number: str | int) -> str:
    """A table of an array: by its name, or else by its number."""
    name = row.get("name") if isinstance(row, dict) else None
    return show(name) if isinstance(name, str) else f"number {int(number) + 1}"


def show(value: object) -> str:
    """Render a value of a configuration file on one line, cut to a length that a message can bear."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "tables"
    try:
        text = repr(value) if isinstance(value, str | int | float | list) else str(value)
    except (ValueError, RecursionError):
        return f"a very long {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def nearest(key: str, known: Collection[str]) -> str:
    """Return the known key that a person who wrote ``key`` most likely meant.

    >>> nearest("l3", ["tol", "l2"])
    'l2'
    """
    plain = key.lower().replace("-", "_")
    return (difflib.get_close_matches(plain, known, n=1, cutoff=0.0) or [next(iter(known))])[0]


def load(file: pathlib.Path, what: str, least: str) -> Table:
    """Parse a file of TOML.

    Parameters
    ----------
    file : Path
    what : str
        What errors call it, such as "scenario".
    least : str
        What it holds at least, for the error about an empty file.

    Raises
    ------
    ConfigError
        Not there, not readable, not text, not TOML.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{what} {str(file)!r} does not exist, expected a file; correct the path") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        column = error.start - error.object.rfind(b"\n", 0, error.start)
        raise ConfigError(f"{file.name}, line {line}, column {column}: got a byte that is not UTF-8") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ConfigError(f"{what} {str(file)!r} cannot be read, got: {reason}") from None
    return parse(text, file.name, least)


def parse(text: str, name: str, least: str) -> Table:
    """Parse TOML; errors name file, line and column. See `load`."""
    if not text.strip():
        raise ConfigError(f"{name} is empty, expected at least {least}")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{name} is malformed TOML, got arrays or tables nested too deep") from None
    except tomllib.TOMLDecodeError as error:
        reason, _, place = str(error).replace("\n", " ").rpartition(" (at ")
        if not place.startswith("line"):
            lines = text.split("\n")
            place = f"line {len(lines)}, column {len(lines[-1]) + 1})"
        got = f"{name}, {place.removesuffix(')')}: malformed TOML, got: {reason}"
        raise ConfigError(f"{got}, expected KEY = VALUE or [SECTION]") from None
    except ValueError:
        raise ConfigError(f"{name} is malformed TOML, got a number of thousands of digits") from None


def read(kind: type[S], raw: object, source: Source, path: Path = (), elsewhere: Collection[str] = ()) -> S:
    """Read one table into a struct.

    Parameters
    ----------
    kind : type of msgspec.Struct
        Its fields may be structs, unions of them (see `Source`), tuples of structs, and tables of text to a literal.
    raw : object
        What the TOML parser made of the table.
    source : Source
        For the words of errors.
    path : Path
        Keys and positions that lead to the table.
    elsewhere : collection of str
        Fields that another file says; here they are unknown keys, and keep their defaults.

    Raises
    ------
    ConfigError
        Unknown or missing key, wrong type, value out of range.
    """
    hints = get_type_hints(kind, include_extras=True)
    hints = {name: hints[name] for name in kind.__struct_fields__ if name not in elsewhere}
    if not isinstance(raw, dict):
        raise ConfigError(f"{'.'.join(map(str, path))} {source.where(path[:-1])}, got {show(raw)}, expected a table")
    for key in raw:
        if key not in hints:
            raise ConfigError(
                f"unknown key {show(key)} {source.where(path, key)}, got {show(key)}, "
                f"did you mean '{nearest(key, hints)}'? (known: {', '.join(hints)})"
            )
    for known in msgspec.structs.fields(kind):
        if known.required and known.name not in raw:
            raise ConfigError(
                f"missing key '{known.name}' {source.where(path)}, got none, expected {describe(hints[known.name])}"
            )
    return kind(**{key: _read_value(hints[key], raw[key], source, path, key) for key in hints if key in raw})


def _read_value(hint: object, value: object, source: Source, path: Path, key: str) -> object:
    """Read one value: a table, an array of tables, or what msgspec can check by itself."""
    inner = source.forms.get((*path, key), _only_struct(bare(hint)))
    if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
        return read(inner, value, source, (*path, key))
    if get_origin(inner) is dict and isinstance(value, dict):
        return _read_entries(inner, value, source, (*path, key))
    if get_origin(inner) is tuple and _is_struct(get_args(inner)[0]):
        if not isinstance(value, list):
            raise ConfigError(f"{key} {source.where(path, key)}, got {show(value)}, expected tables headed [[{key}]]")
        return tuple(read(get_args(inner)[0], row, source, (*path, key, i)) for i, row in enumerate(value))
    return _convert(hint, value, f"{key} {source.where(path, key)}")


def _read_entries(hint: object, table: Table, source: Source, path: Path) -> Table:
    """Read a table whose keys are free, such as columns."""
    name_hint, entry_hint = get_args(hint)
    places = {name: f"{show(name)} {source.where(path, name)}" for name in table}
    for name, place in places.items():
        _convert(name_hint, name, place)
    return {name: _convert(entry_hint, table[name], place) for name, place in places.items()}


def _convert(hint: object, value: object, place: str) -> object:
    """Let msgspec check a value without tables in it; ``place`` names it in the error."""
    try:
        checked: object = msgspec.convert(value, hint)
        if not (isinstance(checked, float) and not math.isfinite(checked)):
            return checked
    except (msgspec.ValidationError, OverflowError, RecursionError):
        pass
    raise ConfigError(f"{place}, got {show(value)}, expected {describe(hint)}{_meant(hint, value)}")


def _meant(hint: object, value: object) -> str:
    """Which of the texts that may stand here was probably meant, if any is near."""
    choices = get_args(bare(hint)) if get_origin(bare(hint)) is Literal else ()
    known = [choice for choice in choices if isinstance(choice, str)]
    near = difflib.get_close_matches(value.lower(), known, n=1) if isinstance(value, str) else []
    return f"; did you mean {show(near[0])}?" if near else ""


def _only_struct(hint: object) -> object:
    """The struct of a section that may be left out, of `Struct | None`; any other type as it is."""
    parts = [part for part in get_args(hint) if part is not type(None)]
    union = get_origin(hint) in (Union, UnionType)
    return parts[0] if union and len(parts) == 1 and _is_struct(parts[0]) else hint


def _is_struct(hint: object) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def bare(hint: object) -> object:
    """Strip ``Annotated`` off a type."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint


def metas(hint: object) -> list[msgspec.Meta]:
    """All ``Meta`` of an annotated type."""
    if get_origin(hint) is not Annotated:
        return []
    inner, *rest = get_args(hint)
    return metas(inner) + [part for part in rest if isinstance(part, msgspec.Meta)]


def describe(hint: object) -> str:
    """Type and range of a key in words, for errors and for the table in the docs.

    >>> describe(Annotated[int, msgspec.Meta(ge=1, le=9)])
    'a whole number, at least 1, at most 9'
    >>> describe(Literal["refuse", "first", "drop"])
    "'refuse', 'first' or 'drop'"
    >>> describe(Annotated[tuple[Annotated[int, msgspec.Meta(ge=1)], ...], msgspec.Meta(max_length=9)])
    'a list of whole numbers, each at least 1, at most 9 of them'
    >>> describe(dict[str, Literal[0, 1]])
    'a table of KEY = 0 or 1'
    """
    marks = metas(hint)
    kind = _kind(bare(hint), "non-empty " if any(mark.min_length for mark in marks) else "")
    return ", ".join([kind, *(words for mark in marks for words in _range(mark))])


def _kind(inner: object, filled: str = "") -> str:
    """Words for a type without its range; ``filled`` goes before what may not be empty."""
    plain = {str: f"{filled}text", int: "a whole number", float: "a number", bool: "true or false"}
    if isinstance(inner, type) and inner in plain:
        return plain[inner]
    if get_origin(inner) is Literal:
        *most, last = (show(value) for value in get_args(inner))
        return f"{', '.join(most)} or {last}" if most else last
    if get_origin(inner) is tuple:
        item = get_args(inner)[0]
        return "tables" if _is_struct(item) else f"a {filled}list of {_items(item)}"
    if get_origin(inner) is dict:
        return f"a table of KEY = {describe(get_args(inner)[1])}"
    if get_origin(inner) in (Union, UnionType):
        return " or ".join(describe(part) for part in get_args(inner) if part is not type(None))
    return "a table"


def _items(hint: object) -> str:
    """Words for what a list holds."""
    if bare(hint) is not int:
        return _kind(bare(hint))
    return ", ".join(["whole numbers", *(f"each {words}" for mark in metas(hint) for words in _range(mark))])


def _range(meta: msgspec.Meta) -> list[str]:
    """Words for the bounds of one ``Meta``."""
    bounds = (("at least", meta.ge), ("above", meta.gt), ("at most", meta.le), ("below", meta.lt))
    words = [f"{word} {bound}" for word, bound in bounds if bound is not None]
    words += [f"at most {meta.max_length} of them"] if meta.max_length is not None else []
    return [*words, f"matching {meta.pattern.removeprefix('^').removesuffix(END)}"] if meta.pattern else words
